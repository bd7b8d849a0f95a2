--- A learner that works beside the script: its `learn` puts a sample into a queue and returns at once.
--
--     local learner <close> = cli:background{capacity = 500, when_full = "block"}
--     for x, y in data do learner:learn("prices", x, y) end
--     learner:flush()   -- everything has been learned, or this raises
--
-- Samples are checked and copied when they are put in, and sent in order, those of different models side by side.
-- While the server cannot be reached they wait, for `patience` seconds, and are then given up. One that is given up
-- or refused is reported: to `on_error(entry)`, else by `flush` or `close`, else by the failure of the task that sent
-- it, which the end of the script shows. At the end of the script (or of the block, see above) the rest is sent; when
-- that end is an error or Ctrl-C it is not, and a line on the standard error stream (or `on_error`) says so. What was
-- on its way then may have been learned: its entries have `uncertain = true`.
--
-- Options: `capacity` (most samples that wait, default 1000), `when_full` ("block": learn waits, the default;
-- "drop_oldest", "drop_new", "error": learn raises kind "limit"), `on_error(entry)` with the fields `model`, `x`, `y`,
-- `error`, `uncertain`; `patience` (seconds, default 30), `drain` (seconds that closing takes at most, default 60).

local core = require "riverlua.core.task"
local errors = require "riverlua.errors"
local json = require "riverlua.json"

local background = {}

local OPTIONS = {capacity = "integer", when_full = "string", on_error = "callable", patience = "number",
  drain = "number"}
local POLICIES = {block = true, drop_oldest = true, drop_new = true, error = true}
local MOST_ERRORS = 100

---@class river.Background
local Background = {}
Background.__name = "river.Background"

local UNSET = {on_error = true, number = true, reached = true, deadline = true, flushing = true, closed = true}
Background.__index = require("river.check").methods("river.Background", Background, UNSET)

--- `client:background(options)`; see above.
---@param client river.Client
---@param options table|nil
---@return river.Background
function background.background(client, options)
  options = options or {}
  errors.expect("background", "options", options, "table")
  errors.check_options("background", options, OPTIONS)
  for name, value in pairs(options) do errors.expect("background", name, value, OPTIONS[name]) end
  local policy = options.when_full or "block"
  local problem = not POLICIES[policy]
      and ("'when_full' is block, drop_oldest, drop_new or error, not '%s'"):format(policy)
    or options.capacity and options.capacity < 1 and "'capacity' must be at least 1"
  if problem then errors.raise{kind = "argument", message = "background: " .. problem} end
  return setmetatable({
    client = client, capacity = options.capacity or 1000, policy = policy, on_error = options.on_error,
    patience = options.patience or 30, drain = options.drain or 60,
    encode = json.encoder{sort = true},
    queues = {}, workers = {}, ended = {}, moved = core.signal(), waiting = 0, sending = 0,
    learned = 0, failed = 0, dropped = 0, unreported = {},
  }, Background)
end

-- ------------------------------------------------------------------------------------------------------- queues

local function take(self, queue)
  local item = queue[queue.first]
  queue[queue.first] = nil
  queue.first = queue.first + 1
  self.waiting = self.waiting - 1
  self.moved:fire()
  return item
end

-- The one that has waited longest, over all models.
local function drop_oldest(self)
  local oldest
  for _, queue in pairs(self.queues) do
    local item = queue[queue.first]
    if item and (not oldest or item.number < oldest[oldest.first].number) then oldest = queue end
  end
  take(self, oldest)
  self.dropped = self.dropped + 1
end

-- ------------------------------------------------------------------------------------------------------- sending

local function report(self, model, item, err, uncertain)
  self.failed = self.failed + 1
  local unreported = self.unreported
  if not self.on_error then
    unreported.count = (unreported.count or 0) + 1
    if uncertain then unreported.uncertain = (unreported.uncertain or 0) + 1 end
    if #unreported >= MOST_ERRORS then return end
  end
  local ok, request = pcall(json.decode, item.body)
  local entry = {model = model, x = ok and request.features or nil, y = item.y, error = err, uncertain = uncertain}
  if self.on_error then return self.on_error(entry) end
  unreported[#unreported + 1] = entry
end

-- Sends what waits for one model; false when the server could not be reached. As long as something waits it does not
-- end, so nothing may be kept of what has been learned.
local function send_waiting(self, model, queue)
  local batch, taken, unsent = require "river.batch", {}, {}
  queue.taken = taken
  local index = 0
  local function following()
    if queue.first > queue.last then return nil end
    local item = take(self, queue)
    index = index + 1
    taken[index] = item
    self.sending = self.sending + 1
    return item.body, item.y
  end
  local function gone(position)
    local item = taken[position]
    taken[position] = nil
    self.sending = self.sending - 1
    return item
  end
  local ok, result = pcall(batch.learn_prepared, self.client, model, following, {
    on_error = function(entry)
      report(self, model, gone(entry.index), entry.error, entry.uncertain)
    end,
    on_learned = function(position)
      gone(position)
      self.learned = self.learned + 1
      self.reached = core.now()
    end,
    on_unsent = function(position) unsent[#unsent + 1] = gone(position) end,
  })
  -- back to the front, in order
  for position = #unsent, 1, -1 do
    queue.first = queue.first - 1
    queue[queue.first] = unsent[position]
    self.waiting = self.waiting + 1
  end
  if not ok and #unsent == 0 and not (errors.is(result) and result.report) then error(result, 0) end
  return ok or nil, result
end

local function give_up(self, model, queue, err)
  while queue.first <= queue.last do report(self, model, take(self, queue), err) end
end

-- Reports what was on its way when its worker ended.
local function lose(self, model, queue, err)
  local taken, positions = queue.taken or {}, {}
  queue.taken = nil
  for position in pairs(taken) do positions[#positions + 1] = position end
  table.sort(positions)
  self.sending = self.sending - #positions
  for _, position in ipairs(positions) do report(self, model, taken[position], err, true) end
end

local function say_left(waiting, sending)
  io.stderr:write(("riverlua: %d %s of the background learner %s not sent%s\n"):format(waiting,
    waiting == 1 and "sample" or "samples", waiting == 1 and "was" or "were",
    sending > 0 and ("; %d that were on their way may have been learned"):format(sending) or ""))
end

-- The end without sending; there are no workers any more. `quiet`: the error says it.
local function abandon(self, failure, quiet)
  local waiting, sending = self.waiting, self.sending
  if waiting + sending == 0 then return end
  local queues = self.queues
  self.queues = {}
  if not self.on_error and not quiet then say_left(waiting, sending) end
  for model, queue in pairs(queues) do
    lose(self, model, queue, failure)
    give_up(self, model, queue, failure)
  end
end

local UNREACHED = {connect = true, dns = true, tls = true, timeout = true, protocol = true}

local function work(self, model, queue)
  local pause = 0.25
  self.reached = self.reached or core.now()
  while queue.first <= queue.last do
    local ok, err = send_waiting(self, model, queue)
    if ok then
      pause = 0.25
    elseif UNREACHED[err.kind] and core.now() + pause < (self.deadline or math.huge)
      and core.now() + pause <= self.reached + self.patience then
      core.sleep(pause)
      pause = math.min(8, 2 * pause)
    else
      give_up(self, model, queue, err)
    end
  end
end

local function summary(self)
  local unreported = self.unreported
  self.unreported = {}
  local first, uncertain = unreported[1], unreported.uncertain or 0
  return errors.new{kind = errors.is(first.error) and first.error.kind or "model", cause = first.error,
    failures = unreported, message = ("background: %d %s failed%s; the first, of '%s': %s"):format(unreported.count,
      unreported.count == 1 and "learn" or "learns",
      uncertain > 0 and (", %d of them may have been done"):format(uncertain) or "", first.model,
      errors.is(first.error) and first.error.message or tostring(first.error)),
    hint = "the field `failures` lists them; on_error gets them as they happen"}
end

local function worker(self, model, queue)
  local _ <close> = setmetatable({}, {__close = function(_, err)
    if err ~= nil and #self.ended < MOST_ERRORS then self.ended[#self.ended + 1] = self.workers[model] end
    self.workers[model] = nil
    local stopped = errors.is(err, "cancelled") or errors.is(err, "interrupted")
    if queue.first > queue.last and not next(queue.taken or {}) then self.queues[model] = nil end
    self.moved:fire()
    if err ~= nil and not stopped then
      pcall(lose, self, model, queue, err)   -- on_error itself may be what fails
    elseif stopped and not self.closed and not next(self.workers) then
      abandon(self, err)   -- Ctrl-C, or the end of a script that failed
    end
  end})
  work(self, model, queue)
  -- seen by nobody unless flush or close comes
  if self.unreported[1] and not self.flushing and not self.closed then error(summary(self), 0) end
end

-- ---------------------------------------------------------------------------------------------------- the surface

--- Puts a sample into the queue, as `client:learn(model, x, y)` takes it.
---
--- Errors: kind "argument" for a sample that cannot be learned, "limit" when the queue is full and `when_full` is
--- "error", "closed".
---@param model string
---@param x table
---@param ... any the label
---@return boolean queued false: dropped, because the queue is full and `when_full` is "drop_new"
function Background:learn(model, x, ...)
  require("river.check").name("learn", model)
  local request = self.client._internal.learn_body(self.client, model, x, ...)
  local body, y = self.encode(request), request.ground_truth
  if self.closed then errors.raise{kind = "closed", message = "this background learner has been closed"} end
  if self.waiting >= self.capacity then
    if self.policy == "drop_new" then
      self.dropped = self.dropped + 1
      return false
    elseif self.policy == "error" then
      errors.raise{kind = "limit", message = ("background: %d samples wait already"):format(self.waiting),
        hint = "the server is slower than the script; raise `capacity` or choose another `when_full`"}
    end
    while self.policy == "drop_oldest" and self.waiting >= self.capacity do drop_oldest(self) end
    while self.waiting >= self.capacity do
      self.moved:wait()
      if self.closed then errors.raise{kind = "closed", message = "this background learner has been closed"} end
    end
  end
  local queue = self.queues[model]
  if not queue then
    queue = {first = 1, last = 0}
    self.queues[model] = queue
  end
  self.number = (self.number or 0) + 1
  queue.last = queue.last + 1
  queue[queue.last] = {body = body, y = y, number = self.number}
  self.waiting = self.waiting + 1
  if not self.workers[model] then self.workers[model] = core.spawn(worker, self, model, queue) end
  return true
end

--- How it stands: `waiting` (in the queue), `sending`, `learned`, `failed` (refused, or given up) and `dropped`.
---@return {waiting: integer, sending: integer, learned: integer, failed: integer, dropped: integer}
function Background:counts()
  return {waiting = self.waiting, sending = self.sending, learned = self.learned, failed = self.failed,
    dropped = self.dropped}
end

-- The failures of workers count as seen.
local function observe(self)
  local failed
  for _, task in ipairs(self.ended) do
    local ok, err = pcall(task.await, task)
    if not ok and not failed then failed = err end
  end
  self.ended = {}
  return failed
end

--- Waits until the queue is empty and everything has been learned; raises what went wrong and nobody was told.
---@param seconds number|nil raises kind "timeout" when it takes longer
function Background:flush(seconds)
  local due = seconds and core.now() + seconds
  self.flushing = true
  local waited, problem = pcall(function()
    while next(self.workers) do
      local left = due and due - core.now()
      if left and left <= 0 then
        errors.raise{kind = "timeout", phase = "total", message = ("background: %d samples are left after %g s")
          :format(self.waiting + self.sending, seconds), hint = "is the server there, and fast enough?"}
      end
      self.moved:wait(left)
    end
  end)
  self.flushing = false
  if not waited then error(problem, 0) end
  local failed = observe(self)
  if self.unreported[1] then failed = summary(self) end
  if failed then error(failed, 0) end
end

local function stop_workers(self)
  while next(self.workers) do
    local model, task = next(self.workers)
    task:cancel("the background learner was closed")
    task:join()
    self.workers[model] = nil   -- one that had not begun
  end
  observe(self)
end

--- Sends what is left, for at most the `drain` seconds of the options, and ends; then as `flush`. Closing twice does
--- nothing.
function Background:close()
  if self.closed then return end
  self.closed = true
  self.deadline = core.now() + self.drain
  self.moved:fire()
  local ok, err = pcall(self.flush, self, self.drain)
  if next(self.workers) then
    stop_workers(self)
    abandon(self, err, true)
  end
  if not ok then error(err, 0) end
end

function Background:__close(failure)
  if failure == nil then return self:close() end
  if self.closed then return end
  self.closed = true
  stop_workers(self)
  abandon(self, failure)
end

-- A learner that was cut off before its worker began.
function Background:__gc()
  if not self.closed and self.waiting + self.sending > 0 then say_left(self.waiting, self.sending) end
end

return background
