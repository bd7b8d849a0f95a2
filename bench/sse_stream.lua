-- Events of a streamed answer: sse_stream.lua BASE EVENTS chunks|events
--
-- "chunks": chat.completions:create, as the official client hands them out; "events": client:stream. Prints "start" and
-- "end CPU" lines for bench/run.py.

local modelriver = require "modelriver"

local base, wanted, how = arg[1], tonumber(arg[2]), arg[3]
local client <close> = modelriver.Client{base_url = base, api_key = "bench", http = {proxy = false}}
local messages = {modelriver.user("Tell me everything.")}

local function read_chunks(count)
  local pieces = 0
  local request = {model = "bench", messages = messages, max_tokens = count, stream = true}
  for chunk in client.chat.completions:create(request) do
    local text = chunk.choices[1].delta.content
    if text and text ~= "" then pieces = pieces + 1 end
  end
  return pieces
end

local function read_events(count)
  local pieces = 0
  for event in client:stream{workflow = "bench", messages = messages, max_tokens = count} do
    if event.delta then pieces = pieces + 1 end
  end
  return pieces
end

local read = how == "chunks" and read_chunks or read_events
read(100)   -- connects
print("start")
io.stdout:flush()
local cpu = os.clock()
local pieces = read(wanted)
print("end", os.clock() - cpu)
assert(pieces == wanted, pieces)
