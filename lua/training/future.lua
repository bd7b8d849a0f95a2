--- Operations that the service has accepted and works on: asked after until they have ended. (RetrieveFuture)

local clock = require "riverlua.clock"
local errors = require "riverlua.errors"
local failure = require "training.failure"

local future = {}

-- A poll comes this share of the time waited so far later than the last, within bounds: what takes seconds is noticed
-- within a few hundredths of one. After twenty seconds the share is smaller; in the end there is one a second.
local SHARE, SHORTEST_INTERVAL, SHORT_INTERVAL = 0.02, 0.005, 0.04
local LATER_SHARE, LONGEST_INTERVAL = 0.002, 1
local FIRST_DELAY, LONGEST_DELAY = 0.5, 5
local MOST_FAILURES = 6
-- The service may hold a poll until there is something to say.
local LONGEST_POLL = 120

local TERMINAL = {}
for code in ([[UNAUTHENTICATED PERMISSION_DENIED NOT_FOUND INVALID_ARGUMENT FAILED_PRECONDITION ALREADY_EXISTS
  UNIMPLEMENTED CANCELLED]]):gmatch("%S+") do TERMINAL[code] = true end
-- These say nothing about the operation: asked again until its own time is up.
local PATIENT = {UNAVAILABLE = true, DEADLINE_EXCEEDED = true}

future.TERMINAL, future.PATIENT, future.MOST_FAILURES = TERMINAL, PATIENT, MOST_FAILURES

--- Seconds before something that failed is asked again.
---@param failures integer since the last good answer
function future.back_off(failures) return math.min(FIRST_DELAY * 2 ^ (failures - 1), LONGEST_DELAY) end

--- Seconds until something is asked after again.
---@param waited number seconds since it began
---@param fixed number|nil what the caller wants
function future.interval(waited, fixed)
  if fixed then return fixed end
  return math.min(math.max(SHORTEST_INTERVAL, math.min(waited * SHARE, SHORT_INTERVAL), waited * LATER_SHARE),
    LONGEST_INTERVAL)
end

--- Raises kind "argument" unless a value can be the interval between polls.
---@param what string
---@param value any seconds, or nil
function future.check_interval(what, value)
  if value == nil or type(value) == "number" and value >= 0 and value < math.huge then return end
  errors.raise{kind = "argument", message = ("%s: 'poll_interval' must be a number of seconds, got %s"):format(what,
    tostring(value))}
end

---@class training.PendingOp An operation under way.
---@field request_id string the service's name for it
---@field done boolean whether its result is here
local PendingOp = {}
PendingOp.__index = PendingOp
PendingOp.__name = "training.PendingOp"

---@class training.FutureOptions
---@field context table the session or client: `wire`, `check()`, `explain()` and `last_checkpoint`
---@field what string
---@field request_id string
---@field model_id string|nil
---@field field string the member of the answer that has the result: "optim_step"
---@field parse (fun(result: table): any)|nil
---@field timeout number
---@field poll_interval number|nil seconds; default: adapted to how long it takes
---@field on_failure (fun(err: any): any)|nil may give a result in place of an error, or raise another

--- Internal: an operation of which the service has given the request id.
---@param options training.FutureOptions
---@return training.PendingOp
function future.new(options)
  return setmetatable({request_id = options.request_id, options = options, started = clock.now(), done = false},
    PendingOp)
end

--- Internal: an operation whose result is known already.
---@param what string
---@param value any
---@return training.PendingOp
function future.done(what, value)
  return setmetatable({request_id = "", options = {what = what}, done = true, value = value}, PendingOp)
end

local function call_of(self)
  local options = self.options
  return {what = options.what, request_id = self.request_id, scrub = options.context.wire.scrub,
    checkpoint = options.context.last_checkpoint}
end

-- One answer: whether there is a result, and the result.
local function read(self, reply)
  local options = self.options
  if reply.try_again then
    self.queue_state = reply.try_again.queue_state
    return false
  elseif reply.failed then
    local details = reply.failed.details and require("riverlua.protobuf").struct_to_table(reply.failed.details)
    error(failure.from_failed(call_of(self), reply.failed, details), 0)
  end
  local result = reply[options.field]
  if not result then
    error(failure.protocol(call_of(self), ("the result of request %s is of another kind than '%s'"):format(
      self.request_id, options.field)), 0)
  end
  return true, options.parse and options.parse(result) or result
end

local function wait(self, seconds)
  local options, context = self.options, self.options.context
  local deadline = clock.now() + seconds
  local failures = 0
  local request = {request_id = self.request_id, model_id = options.model_id}
  while not self.done do
    context:check(options.what, self.request_id)
    local left = deadline - clock.now()
    if left <= 0 then error(failure.timed_out(call_of(self), seconds), 0) end
    local reply, err = context.wire:try("RetrieveFuture", request, {what = options.what, deadline = deadline,
      safe = true, rpc_timeout = math.min(LONGEST_POLL, left), request_id = self.request_id,
      checkpoint = context.last_checkpoint})
    if self.done then break end   -- another task was here meanwhile
    local pause
    if reply then
      failures = 0
      local ended, result = read(self, reply)
      if ended then
        self.done, self.value = true, result
        break
      end
      pause = future.interval(clock.now() - self.started, options.poll_interval)
    elseif TERMINAL[err.code] then
      error(context:explain(options.what, failure.from_grpc(call_of(self), err)), 0)
    else
      failures = failures + 1
      if failures >= MOST_FAILURES and not PATIENT[err.code] then error(failure.from_grpc(call_of(self), err), 0) end
      pause = future.back_off(failures)
    end
    context.wire.transport:pause(math.min(pause, math.max(0, deadline - clock.now())))
  end
  return self.value
end

--- Waits for the end of the operation and returns its result. May be called again, also after a timeout: the service
--- goes on in any case.
---
--- Raises kinds "failed", "timeout" (with `request_id`), "session_lost", and those of a refused RPC.
---@param timeout number|nil seconds; default: what the operation was started with
---@return any
function PendingOp:result(timeout)
  if self.done then return self.value end
  if timeout ~= nil and (type(timeout) ~= "number" or timeout ~= timeout or timeout < 0) then
    errors.raise{kind = "argument", message = "result: 'timeout' must be a number of seconds"}
  end
  local ok, result = pcall(wait, self, timeout or self.options.timeout)
  if ok then return result end
  local rescue = self.options.on_failure
  local rescued = rescue and rescue(result)
  if rescued == nil then error(result, 0) end
  self.done, self.value = true, rescued
  return rescued
end

function PendingOp:__tostring()
  return ("training.PendingOp(%s, %s%s)"):format(self.options.what, self.request_id, self.done and ", done" or "")
end

errors.want_colon(PendingOp, "operation")

return future
