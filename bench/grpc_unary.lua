-- Small unary calls, so many in flight: grpc_unary.lua BASE CALLS IN_FLIGHT
--
-- Prints "start" and "end" lines for bench/run.py, which takes the wall time between them, and the CPU time in between.

local grpc = require "riverlua.grpc"
local task = require "riverlua.task"

local calls, in_flight = tonumber(arg[2]), tonumber(arg[3])
local channel <close> = grpc.Channel{target = arg[1], metadata = {["x-api-key"] = "0123456789abcdef"}, proxy = false}
local function call() return (channel:unary("/bench/Unary.grpc", "hello")) end

assert(call() == "hello")
print("start")
io.stdout:flush()
local cpu = os.clock()
if in_flight == 1 then
  for _ = 1, calls do call() end
else
  local left, workers = calls, {}
  for i = 1, in_flight do
    workers[i] = task.spawn(function()
      while left > 0 do
        left = left - 1
        call()
      end
    end)
  end
  for _, worker in ipairs(workers) do worker:await() end
end
print("end", os.clock() - cpu)
