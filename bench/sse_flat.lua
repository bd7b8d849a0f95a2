-- Memory over a long stream, or over many streams: sse_flat.lua BASE EVENTS STREAMS
-- Prints the resident size in kB after each tenth.

local modelriver = require "modelriver"

local base, wanted, streams = arg[1], tonumber(arg[2]), tonumber(arg[3])
local client <close> = modelriver.Client{base_url = base, api_key = "bench", http = {proxy = false}}
local messages = {modelriver.user("Tell me everything.")}

local function resident()
  local file <close> = assert(io.open("/proc/self/status"))
  return tonumber(file:read("a"):match("VmRSS:%s+(%d+)"))
end

local pieces = 0
for _ = 1, streams do
  for event in client:stream{workflow = "bench", messages = messages, max_tokens = wanted // streams} do
    if event.delta then
      pieces = pieces + 1
      if pieces % (wanted // 10) == 0 then print(resident()) end
    end
  end
end
assert(pieces == wanted, pieces)
