--- Tasks: many blocking calls at once on one thread.
--
--     local task = require "riverlua.task"
--     local a, b = task.gather(function() return cli:stats("m") end, function() return cli:metrics("m") end)
--
-- Every call of riverlua that waits lets other tasks go on meanwhile. Where Lua cannot yield (inside `require`,
-- `table.sort`, `string.gsub`, metamethods called from C, and in the script itself) the call runs the loop until it
-- is done, so it works there too.

local clock = require "riverlua.clock"
local core = require "riverlua.core.task"
local errors = require "riverlua.errors"

local task = {}

---@class riverlua.Task
---@field await fun(self, seconds: number|nil): ... results of the task; raises what it raised, or kind "timeout"
---@field join fun(self, seconds: number|nil): boolean waits for its end without raising; false when the time was up
---@field cancel fun(self, reason: string|nil): boolean its blocking call raises kind "cancelled"; false: had ended
---@field status fun(self): "new"|"running"|"waiting"|"done"|"failed"|"cancelled"
---@field failure fun(self): any what it raised, or nil

--- Starts `fn(...)` as a task; it first runs when the caller waits for something.
--- `local t <close> = task.spawn(…)` cancels it when the block is left.
---@param fn function
---@return riverlua.Task
function task.spawn(fn, ...)
  return core.spawn(errors.expect("task.spawn", "fn", fn, "callable"), ...)
end

--- Waits, letting other tasks run.
---@param seconds number 0 gives every ready task one turn
function task.sleep(seconds)
  if type(seconds) ~= "number" or seconds < 0 or seconds ~= seconds then
    errors.raise{kind = "argument", message = "task.sleep: 'seconds' must be a number, not negative"}
  end
  return core.sleep(seconds)
end

--- Seconds on the monotonic clock, from an arbitrary start. In a replay, pauses that it leaves out count as passed.
---@return number
task.now = clock.now

--- The task that runs, or nil in the script itself.
---@return riverlua.Task|nil
task.current = core.current

--- Tasks that have not ended, each with its traceback.
---@return {id: integer, status: string, traceback: string}[]
task.waiting = core.waiting

---@class riverlua.Scope
local Scope = {}
Scope.__index = Scope
Scope.__name = "riverlua.Scope"

local function cancel_others(scope, reason, except)
  for child in pairs(scope.live) do
    if child ~= except then child:cancel(reason) end
  end
end

-- Closed at the end of a child: tells the scope how it went.
local Watch = {}
Watch.__close = function(watch, failure)
  local scope, child = watch.scope, watch.child
  scope.live[child] = nil
  if failure ~= nil and scope.failed == nil and not (scope.stopping and errors.is(failure, "cancelled")) then
    scope.failed, scope.failure = child, failure
    scope.stopping = true
    cancel_others(scope, "a sibling failed", child)
  end
end

local function run_child(scope, fn, ...)
  local _ <close> = setmetatable({scope = scope, child = core.current()}, Watch)
  return fn(...)
end

--- Starts a task that belongs to the scope.
---@param fn function
---@return riverlua.Task
function Scope:spawn(fn, ...)
  if self.closed then
    errors.raise{kind = "closed", message = "the scope has ended; spawn inside its function"}
  end
  local child = core.spawn(run_child, self, errors.expect("scope:spawn", "fn", fn, "callable"), ...)
  self.live[child] = true
  return child
end

--- Cancels every task of the scope.
---@param reason string|nil
function Scope:cancel(reason)
  self.stopping = true
  cancel_others(self, reason or "the scope was cancelled", core.current())
end

local function wait_for_children(scope)
  local child = next(scope.live)
  while child do
    child:join()
    scope.live[child] = nil
    child = next(scope.live)
  end
end

local function join_scope(scope)
  local ok, failure = pcall(wait_for_children, scope)
  if ok then return end
  -- the owner itself was cancelled or interrupted: take the children along
  scope:cancel(errors.is(failure) and failure.message or "the owner of the scope was cancelled")
  wait_for_children(scope)
  error(failure, 0)
end

--- Runs `fn(scope, ...)` as a task; returns when it and all tasks it spawned with `scope:spawn` have ended.
--- The first failure cancels the others and is raised here.
---@param fn fun(scope: riverlua.Scope, ...): ...
---@return ... what `fn` returned
function task.scope(fn, ...)
  errors.expect("task.scope", "fn", fn, "callable")
  local scope = setmetatable({live = {}}, Scope)
  local body = scope:spawn(fn, scope, ...)
  join_scope(scope)
  scope.closed = true
  if scope.failed then return scope.failed:await() end
  return body:await()
end

local function first_results(tasks, n)
  local results = {n = n}
  for i = 1, n do results[i] = tasks[i]:await() end
  return results
end

--- Runs functions side by side and returns the first result of each, in order. The first failure cancels the others
--- and is raised. Also takes one list: `task.gather{f, g}`. Tasks that were spawned before may stand among them; they
--- are awaited.
---@param ... function|riverlua.Task
---@return ...
function task.gather(...)
  local list = ...
  if type(list) == "table" and select("#", ...) == 1 and not getmetatable(list) then
    list = table.pack(table.unpack(list))
  else
    list = table.pack(...)
  end
  local results = task.scope(function(scope)
    local tasks = {}
    for i = 1, list.n do
      local item = list[i]
      tasks[i] = type(item) == "userdata" and scope:spawn(item.await, item) or scope:spawn(item)
    end
    return first_results(tasks, list.n)
  end)
  return table.unpack(results, 1, results.n)
end

--- Calls `fn(item, index)` for each item, at most `concurrency` at once; returns the first results in the items' order.
--- The first failure cancels the rest and is raised.
---@param items table list
---@param fn fun(item: any, index: integer): any
---@param options {concurrency: integer|nil}|nil `concurrency` defaults to 8
---@return table results list of the same length; `n` holds it when results may be nil
function task.map(items, fn, options)
  errors.expect("task.map", "items", items, "table")
  errors.expect("task.map", "fn", fn, "callable")
  local concurrency = 8
  if options then
    errors.check_options("task.map", options, {concurrency = true})
    concurrency = errors.expect("task.map", "concurrency", options.concurrency or 8, "integer")
    if concurrency < 1 then
      errors.raise{kind = "argument", message = "task.map: 'concurrency' must be at least 1"}
    end
  end
  local count, index = #items, 0
  local results = {n = count}
  local function worker()
    while index < count do
      index = index + 1
      local i = index
      results[i] = fn(items[i], i)
    end
  end
  task.scope(function(scope)
    for _ = 1, math.min(concurrency, count) do scope:spawn(worker) end
  end)
  return results
end

--- Runs `fn(...)` for at most `seconds`; then cancels it and raises kind "timeout".
---@param seconds number
---@param fn function
---@return ... what `fn` returned
function task.timeout(seconds, fn, ...)
  if type(seconds) ~= "number" or seconds ~= seconds or seconds < 0 then
    errors.raise{kind = "argument", message = "task.timeout: 'seconds' must be a number, not negative"}
  end
  local child <close> = core.spawn(errors.expect("task.timeout", "fn", fn, "callable"), ...)
  if child:join(seconds) then return child:await() end
  child:cancel(("the time limit of %g s was reached"):format(seconds))
  child:join()
  if child:status() == "done" then return child:await() end
  errors.raise{kind = "timeout", phase = "total",
    message = ("not done within %g s"):format(seconds),
    hint = "raise the limit of task.timeout, or look at `cause` for where it was",
    cause = child:failure()}
end

---@class riverlua.Queue
local Queue = {}
Queue.__index = Queue
Queue.__name = "riverlua.Queue"

--- A first-in, first-out queue between tasks.
---@param capacity integer|nil `put` waits while this many items are in it; nil: no bound
---@return riverlua.Queue
function task.queue(capacity)
  if capacity ~= nil and (math.type(capacity) ~= "integer" or capacity < 1) then
    errors.raise{kind = "argument", message = "task.queue: 'capacity' must be an integer of at least 1"}
  end
  return setmetatable({first = 1, last = 0, capacity = capacity or math.huge,
    filled = core.signal(), emptied = core.signal()}, Queue)
end

function Queue:__len() return self.last - self.first + 1 end

--- Adds an item; waits while the queue is full.
---@param item any not nil
function Queue:put(item)
  if item == nil then errors.raise{kind = "argument", message = "queue:put: an item must not be nil"} end
  while not self.closed and #self >= self.capacity do self.emptied:wait() end
  if self.closed then errors.raise{kind = "closed", message = "queue:put: the queue is closed"} end
  self.last = self.last + 1
  self[self.last] = item
  self.filled:fire_one()
end

--- Takes the oldest item; waits while the queue is empty. nil once it is closed and empty.
---@param seconds number|nil raises kind "timeout" when nothing came for so long
---@return any
function Queue:get(seconds)
  local due = seconds and core.now() + seconds
  while #self == 0 do
    if self.closed then return nil end
    if not self.filled:wait(due and math.max(0, due - core.now())) and due and core.now() >= due and #self == 0 then
      errors.raise{kind = "timeout", message = ("queue:get: nothing came within %g s"):format(seconds)}
    end
  end
  local item = self[self.first]
  self[self.first] = nil
  self.first = self.first + 1
  self.emptied:fire_one()
  return item
end

--- No more items; those inside can still be taken, and waiting `get`s return nil.
function Queue:close()
  self.closed = true
  self.filled:fire()
  self.emptied:fire()
end

--- `for item in queue:items() do` until it is closed and empty.
function Queue:items()
  return function() return self:get() end
end

Queue.__close = Queue.close

---@class riverlua.Semaphore
local Semaphore = {}
Semaphore.__index = Semaphore
Semaphore.__name = "riverlua.Semaphore"

--- Lets at most `count` tasks through at once.
---@param count integer
---@return riverlua.Semaphore
function task.semaphore(count)
  if math.type(count) ~= "integer" or count < 1 then
    errors.raise{kind = "argument", message = "task.semaphore: 'count' must be an integer of at least 1"}
  end
  return setmetatable({free = count, released = core.signal()}, Semaphore)
end

local permit_meta = {__close = function(permit) permit[1]:release() end}

--- Waits for a place. `local permit <close> = semaphore:acquire()` gives it back at the end of the block.
function Semaphore:acquire()
  while self.free == 0 do self.released:wait() end
  self.free = self.free - 1
  return setmetatable({self}, permit_meta)
end

--- Gives a place back.
function Semaphore:release()
  self.free = self.free + 1
  self.released:fire_one()
end

--- Calls `fn(...)` while holding a place.
---@param fn function
---@return ...
function Semaphore:with(fn, ...)
  local _ <close> = self:acquire()
  return fn(...)
end

return task
