--- Operations one after the other, in the order in which they came: those of one model, or those of none. A task
-- works on them as long as there are any.

local errors = require "riverlua.errors"
local refusal = require "training.embedded.refusal"
local task = require "riverlua.task"

local lane = {}

local ENDED = {done = true, failed = true, cancelled = true}
-- What waits may hold so many requests and bytes of them.
local MOST_WAITING, MOST_BYTES = 8192, 4 << 30

---@class training.embedded.Operation
---@field run fun() does it; what it raises is told by `fail`
---@field fail fun(err: any)
---@field keep boolean|nil a promise that outlives the model: it is carried out before the model is unloaded
---@field session table|nil whose it is
---@field size integer bytes of the request that it holds

---@class training.embedded.Lane
local Lane = {}
Lane.__index = Lane

---@return training.embedded.Lane
function lane.new()
  return setmetatable({first = 1, last = 0, bytes = 0, worker = false, running = false, interrupted = false}, Lane)
end

local function take(self)
  local operation = self[self.first]
  self[self.first] = nil
  self.first = self.first + 1
  self.bytes = self.bytes - operation.size
  return operation
end

local function is_end(err) return errors.is(err, "cancelled") or errors.is(err, "interrupted") end

local function work(self)
  while self.first <= self.last do
    local operation = take(self)
    self.running = operation
    local ok, err = pcall(operation.run)
    self.running = false
    if not ok then operation.fail(err) end
    if not ok and is_end(err) and not self.interrupted then   -- all tasks are ended, not this operation
      self:drop(function() return true end, err)
    end
    if self.interrupted then   -- the request to stop that operation must not reach the next one
      self.interrupted = false
      pcall(task.sleep, 0)
    end
  end
  self.worker = false
end

--- Refuses when too much waits already.
function Lane:check_room(size)
  if self.last - self.first + 1 >= MOST_WAITING or self.bytes + size > MOST_BYTES then
    refusal.raise("RESOURCE_EXHAUSTED", "%d operations with %d bytes are waiting already: collect results first",
      self.last - self.first + 1, self.bytes)
  end
end

--- Adds an operation. It begins when the caller waits for something.
---@param operation training.embedded.Operation
function Lane:push(operation)
  self.last = self.last + 1
  self[self.last] = operation
  self.bytes = self.bytes + operation.size
  -- one that was ended before its first turn has not said so
  if not self.worker or ENDED[self.worker:status()] then self.worker = task.spawn(work, self) end
end

--- How many wait.
function Lane:__len() return self.last - self.first + 1 end

--- Lets go of operations that have not begun; `choose(operation)` says which.
---@param choose fun(operation: training.embedded.Operation): boolean
---@param err any what they failed with
function Lane:drop(choose, err)
  local kept, dropped = {}, {}
  for i = self.first, self.last do
    local operation = self[i]
    self[i] = nil
    local list = choose(operation) and dropped or kept
    list[#list + 1] = operation
  end
  self.first, self.last, self.bytes = 1, #kept, 0
  for i, operation in ipairs(kept) do
    self[i] = operation
    self.bytes = self.bytes + operation.size
  end
  for _, operation in ipairs(dropped) do operation.fail(err) end
end

--- Ends the operation under way.
---@param reason string
function Lane:interrupt(reason)
  if not self.running or self.interrupted then return end
  self.interrupted = true
  self.worker:cancel(reason)
end

--- Lets go of all that nobody can want any more: what comes after the last operation that has to be kept, and the
--- one under way if it need not be.
---@param reason string
function Lane:abandon(reason)
  local last = 0
  for i = self.first, self.last do
    if self[i].keep then last = i end
  end
  local place = self.first - 1
  self:drop(function()
    place = place + 1
    return place > last
  end, errors.new{kind = "cancelled", message = reason})
  if last == 0 and self.running and not self.running.keep then self:interrupt(reason) end
end

--- Ends everything.
---@param reason string
---@return riverlua.Task|false worker that is to be waited for
function Lane:stop(reason)
  local worker = self.worker
  self:drop(function() return true end, errors.new{kind = "cancelled", message = reason})
  self:interrupt(reason)
  return worker
end

return lane
