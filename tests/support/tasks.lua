-- What the specs of tasks share.

local core = require "riverlua.core.task"
local task = require "riverlua.task"

local tasks = {}

--- Lets every ready task run until nothing more happens by itself.
function tasks.settle()
  for _ = 1, 10 do task.sleep(0) end
end

--- A task that waits until somebody fires the signal.
function tasks.waiter(signal)
  return task.spawn(function() signal:wait() end)
end

--- Ends what a test left behind.
function tasks.end_all()
  core.cancel_all()
  core.drain()
  core.failures()
end

return tasks
