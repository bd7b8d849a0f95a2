-- How late deltas reach the script: sse_delta.lua BASE EVENTS
--
-- Each delta is the time when the server handed it to the kernel, in nanoseconds on the monotonic clock, which
-- task.now reads too. Prints the seconds that each of them took, one a line.

local modelriver = require "modelriver"
local task = require "riverlua.task"

local base, wanted = arg[1], tonumber(arg[2])
local client <close> = modelriver.Client{base_url = base, api_key = "bench", http = {proxy = false}}

local took = {}
for event in client:stream{workflow = "bench", messages = {modelriver.user("Now?")}, max_tokens = wanted} do
  if event.delta then took[#took + 1] = task.now() - tonumber(event.delta) / 1e9 end
end
print(table.concat(took, "\n"))
