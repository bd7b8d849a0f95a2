-- Small unary calls on one channel: grpc_calls.lua HOST:PORT CALLS IN_FLIGHT
--
-- Prints "start" and "end CPU" lines for bench/run.py. As many tasks as there are calls in flight.

local grpc = require "riverlua.grpc"
local task = require "riverlua.task"

local target, count, width = arg[1], tonumber(arg[2]), tonumber(arg[3])
local channel <close> = grpc.Channel{target = target, tls = false}
local METHOD, REQUEST = "/river.api.v1.RiverService/SessionHeartbeat", "\x0a\x24a0b1c2d3-e4f5-6789-abcd-ef0123456789"

local function call(times)
  for _ = 1, times do assert(channel:unary(METHOD, REQUEST) == "\x08\x01") end
end

local function in_flight(times)
  if width == 1 then return call(times) end
  local shares = {}
  for i = 1, width do shares[i] = times // width end
  task.map(shares, call, {concurrency = width})
end

in_flight(math.max(100, width))   -- connects
print("start")
io.stdout:flush()
local cpu = os.clock()
in_flight(count)
print("end", os.clock() - cpu)
