--- Many learns or predictions in one call.
--
--     local report = cli:learn_many("prices", river.datasets.csv("prices.csv", {target = "price"}))
--     print(report.done, report.failed)
--
-- Samples are a list or an iterator, taken as they are needed: `{x, y}` (or `{x = , y = }`) or `x, y` for learn_many,
-- `x` for predict_many. They are handled in order. Over HTTP the requests go out one behind the other on one connection
-- without waiting for the answers, once the server has shown that it keeps connections open; where it does not, or
-- where that cannot be done (https, proxies), one at a time.
--
-- A sample that cannot be sent or that the model refuses is an entry in `report.errors`, and the others go on; entries
-- and calls of the functions below come in the order of the samples. What
-- concerns all of them (no such model, no connection, refused credentials) is raised; the error then has the fields
-- `index` and `report`. A learn that was on its way when a connection was lost is not repeated, because the server may
-- have done it: its entry has `uncertain = true`.
--
-- Options: `stop_on_error` (raise the first error of a sample, too), `window` (most requests under way, default 64),
-- `progress` (true, options of a bar, or `function(done, failed)`), `on_error(entry)`; for predict_many also
-- `on_answer(answer, index)`: answers are then not kept in `report.answers`.

local core = require "riverlua.core.task"
local errors = require "riverlua.errors"
local turns = require "river.turns"

local batch = {}

---@class river.BatchReport
---@field done integer samples that the server has dealt with
---@field failed integer samples that it has not, or may not have
---@field errors {index: integer, error: any, uncertain: boolean|nil}[] the first 1,000
---@field uncertain integer how many learns the server may have done or not
---@field answers river.Answer[]|nil of predict_many; `answers[i]` is false where the i-th sample failed
local Report = {}
Report.__name = "river.BatchReport"

--- "98 done, 2 failed (1 of them may have been done)".
function Report:__tostring()
  return ("%d done, %d failed%s"):format(self.done, self.failed, self.uncertain > 0
    and (" (%d of them may have been done)"):format(self.uncertain) or "")
end

local WINDOW, WINDOW_BYTES = 64, 512 * 1024
local MOST_ERRORS = 1000
local OPTIONS = {stop_on_error = true, window = true, progress = true, on_error = true, on_answer = true}

-- Kinds that say something about a sample, not about the server or the way to it.
local OF_A_SAMPLE = {argument = true, model = true, json = true}

local OF_THE_WAY = {connect = true, dns = true, tls = true, timeout = true, protocol = true, limit = true,
  auth = true}

local function is_of_a_sample(err)
  if not errors.is(err) then return false end
  if err.kind ~= "http" then return OF_A_SAMPLE[err.kind] or false end
  return err.code ~= "rate_limit" and (err.status == 400 or err.status == 413 or err.status == 500)
end

-- ------------------------------------------------------------------------------------------------------- samples

local function is_callable(source)
  if type(source) == "function" then return true end
  local meta = getmetatable(source)
  return type(meta) == "table" and meta.__call ~= nil
end

-- {x, y}, {x = , y = } or x alone.
local function split_sample(sample)
  if type(sample) ~= "table" then return sample end
  if sample[1] ~= nil then return sample[1], sample[2] end
  if type(sample.x) == "table" then return sample.x, sample.y end
  return sample
end

-- An iterator over (x, y), how many there are, if that is known, and what is to be closed after it.
local function read_source(where, source, labelled)
  local step, state, control, closing
  if type(source) == "table" and getmetatable(source) and source.each then
    step, state, control, closing = source:each()
  elseif is_callable(source) then
    step = source
  end
  if step then
    return function()
      local x, y = step(state, control)
      control = x
      return x, y
    end, nil, closing
  end
  errors.expect(where, "samples", source, "table|function")
  local index = 0
  return function()
    index = index + 1
    local sample = source[index]
    if labelled then return split_sample(sample) end
    return sample
  end, #source
end

-- ------------------------------------------------------------------------------------------------------ progress

local function open_progress(where, given, total)
  if not given then return nil end
  if is_callable(given) then return {update = function(_, report) given(report.done, report.failed) end} end
  local options = {total = total, label = where, unit = "samples"}
  for name, value in pairs(type(given) == "table" and given or {}) do options[name] = value end
  local bar = require("riverlua.progress").bar(options)
  return {
    update = function(_, report)
      bar:update(report.done + report.failed, report.failed > 0 and {failed = report.failed} or nil)
    end,
    close = function() bar:close() end,
  }
end

-- -------------------------------------------------------------------------------------------------------- a batch

---@class river.Batch
local Batch = {}
Batch.__index = Batch
Batch.__name = "river.Batch"

-- The batch ends with this error, when the answers to what is under way have been counted.
local function stop(self, index, err)
  if self.stopped then return end
  if errors.is(err) then
    err.index, err.report = index, self.report
  end
  self.stopped = {err}
end

local function fail_item(self, index, err, uncertain)
  local report = self.report
  report.failed = report.failed + 1
  if uncertain then report.uncertain = report.uncertain + 1 end
  local entry = {index = index, error = err, uncertain = uncertain or nil}
  if #report.errors < MOST_ERRORS then report.errors[#report.errors + 1] = entry end
  if report.answers then report.answers[index] = false end
  if self.on_error then self.on_error(entry) end
  if self.stop_on_error then stop(self, index, err) end
end

-- What an answer says about its sample.
local function settle(self, item, res)
  local ok, result = pcall(self.read, item.req, res)
  if not ok then
    fail_item(self, item.index, result)
    if not is_of_a_sample(result) then stop(self, item.index, result) end
    return
  end
  self.report.done = self.report.done + 1
  self.finish(item, result)
end

-- One request by itself, with all that the transport does for it: authentication, another attempt.
local function send_alone(self, item)
  local client = self.client
  local ok, res = pcall(client._internal.in_turn, client, self.model, item.req)
  if ok then return settle(self, item, res) end
  if is_of_a_sample(res) then return fail_item(self, item.index, res) end
  if not errors.is(res) or not OF_THE_WAY[res.kind] then error(res, 0) end
  if res.sent == false and self.on_unsent then self.on_unsent(item)
  else fail_item(self, item.index, res, not self.safe and res.sent) end
  stop(self, item.index, res)
end

-- ------------------------------------------------------------------------------------------------- requests behind
-- each other. The samples' own task sends; a second task takes the answers in, so that the turn is given back even
-- while the first one waits for its next sample.

local function give_turn(self)
  local turn = self.turn
  self.turn = nil
  if turn then turn:give() end
end

local function collect(self)
  local _ <close> = setmetatable({}, {__close = function()
    self.collector = nil
    for i = self.first, self.last do
      if self[i].transfer then self[i].transfer:close() end
    end
    give_turn(self)
    self.moved:fire()
  end})
  while self.first <= self.last do
    local item = self[self.first]
    if item.wait then item.res, item.err, item.sent = item.wait() end
    self[self.first] = nil
    self.first = self.first + 1
    self.bytes = self.bytes - item.size
    self.arrived[#self.arrived + 1] = item
    self.moved:fire()
  end
end

-- Whether the server has refused to look at the request: it may be sent again.
local function was_refused(self, res)
  return res.status == 401 or res.status == 429 or res.status == 503 and (self.safe or res.headers["retry-after"])
end

-- Reports what has come of an item; false when it is to be sent (again).
local function conclude(self, item)
  local res = item.res
  if res and not was_refused(self, res) then
    settle(self, item, res)
  elseif item.unfit then
    fail_item(self, item.index, item.unfit)
  elseif not res and item.sent and not self.safe then
    -- not repeated: the server may have done it
    fail_item(self, item.index, item.err, true)
  else
    return false
  end
  return true
end

-- Deals with the answers that have come, in the samples' own task: what it calls may call the client.
local function deal(self)
  while self.arrived[1] do
    local arrived = self.arrived
    self.arrived = {}
    for position, item in ipairs(arrived) do
      -- those behind one that is sent again are reported after it
      if self.again[1] or not conclude(self, item) then self.again[#self.again + 1] = item end
      if self.progress and position % 16 == 0 then self.progress:update(self.report) end
    end
  end
  if self.progress then self.progress:update(self.report) end
end

local function under_way(self) return self.last - self.first + 1 end

-- Waits until nothing is under way, then sends what must be sent again. `item`: what would be sent next.
local function drain(self, item)
  local collector = self.collector
  while self.collector do self.moved:wait() end
  if under_way(self) > 0 then collector:await() end   -- it was ended, and raises why
  deal(self)
  local again = self.again
  self.again = {}
  again[#again + 1] = item
  local stopped = self.stopped
  for _, one in ipairs(again) do
    if conclude(self, one) then
      stopped = self.stopped
    elseif not stopped then
      if one == item then break end   -- not one to be sent again
      send_alone(self, one)
      stopped = self.stopped
    elseif self.on_unsent then
      self.on_unsent(one)
    else
      fail_item(self, one.index, stopped[1])
    end
  end
  if stopped then error(stopped[1], 0) end
end

local function line_up(self, item)
  self.bytes = self.bytes + item.size
  self.last = self.last + 1
  self[self.last] = item
end

local function send_behind(self, item)
  if not self.turn then self.turn = turns.take(self.client, self.model) end
  item.wait, item.transfer, item.size = self.pipeline:send(item.req)
  line_up(self, item)
  if not self.collector then self.collector = core.spawn(collect, self) end
end

local function submit(self, item)
  deal(self)
  local alone = not self.pipeline or not self.begun or self.again[1]
  -- others wait for their turn, the window is full, or the connection has yet to prove itself
  local unproven = not alone and under_way(self) > 0 and not self.pipeline:ready()
  if alone or unproven or self.stopped or self.turn and self.turn.waiting > 0 then drain(self, item) end
  while self.collector and (under_way(self) >= self.window or self.bytes >= WINDOW_BYTES) do
    self.moved:wait()
    deal(self)
    if self.again[1] or self.stopped then drain(self, item) end
  end
  if alone then
    send_alone(self, item)
    self.begun = true
    if self.progress then self.progress:update(self.report) end
    if self.stopped then drain(self) end
    return
  end
  send_behind(self, item)
end

-- A sample that cannot be sent has its place in the row, so that errors come in order.
local function refuse(self, item)
  deal(self)
  while self.collector and under_way(self) >= self.window do
    self.moved:wait()
    deal(self)
  end
  if self.collector and not self.stop_on_error then
    line_up(self, item)
  else
    drain(self)
    conclude(self, item)
  end
  if self.stopped then drain(self) end
end

function Batch:__close()
  if self.collector then self.collector:cancel("the batch was left")   -- it closes the transfers
  else give_turn(self) end
  if self.pipeline then self.pipeline:close() end
  if self.closing then self.closing:close() end
  if self.progress and self.progress.close then self.progress:close() end
end

local function run(self, source, make)
  local transport = self.client._transport
  if transport.pipeline and self.window > 1 then
    self.pipeline = transport:pipeline{timeout = self.client._timeout}
  end
  local index = 0
  while true do
    local x, y = source()
    if x == nil then break end
    index = index + 1
    local ok, req = pcall(make, x, y)
    if ok then
      submit(self, {index = index, req = req, y = y})
    elseif is_of_a_sample(req) then
      refuse(self, {index = index, unfit = req, size = 0})
    else
      error(req, 0)
    end
  end
  drain(self)
  if self.progress then self.progress:update(self.report) end
  return self.report
end

local function new_batch(where, client, model, source, options)
  if not client._internal or not client._internal.is_client(client) then
    errors.raise{kind = "argument", message = where .. ": called on something that is not a river.Client"}
  end
  require("river.check").name(where, model)
  if not client._transport then client._internal.closed(client) end
  local pass
  -- a call such as learn_many("m", data:take(9)): what stands behind the data set there is for loops
  if type(options) == "table" and getmetatable(options) ~= nil then options, pass = nil, options end
  options = options or {}
  errors.expect(where, "options", options, "table")
  errors.check_options(where, options, OPTIONS)
  local window = errors.expect(where, "window", options.window or WINDOW, "integer")
  if window < 1 then errors.raise{kind = "argument", message = where .. ": 'window' must be at least 1"} end
  for _, name in ipairs{"on_error", "on_answer"} do
    if options[name] ~= nil then errors.expect(where, name, options[name], "callable") end
  end
  local following, total, closing = read_source(where, source, where == "learn_many")
  closing = closing or pass and pass.close and pass
  local self = setmetatable({
    client = client, model = model, window = window, closing = closing,
    stop_on_error = options.stop_on_error, on_error = options.on_error,
    first = 1, last = 0, bytes = 0, arrived = {}, again = {}, moved = core.signal(),
    report = setmetatable({done = 0, failed = 0, uncertain = 0, errors = {}}, Report),
    progress = open_progress(where, options.progress, total),
  }, Batch)
  return self, following
end

-- Whatever is wrong with a sample that is no table, that is the reason. (A text alone may be one, for a text model.)
local function check_sample(x, y, err)
  if type(x) == "table" or y ~= nil then error(err, 0) end
  local got = type(x) == "userdata" and "null" or errors.with_article(type(x))
  errors.raise{kind = "argument", message = "learn_many: a sample is a table, got " .. got,
    hint = "{x, y} or {x = …, y = …}; an iterator gives x, y"}
end

--- `client:learn_many(model, samples, options)`; see above.
---@param client river.Client
---@param model string
---@param source table|function
---@param options table|nil
---@return river.BatchReport
function batch.learn_many(client, model, source, options)
  local self <close>, following = new_batch("learn_many", client, model, source, options)
  local internal, labelled = client._internal, false
  function self.read(req, res) return internal.read_learned(client, model, req, res) end
  function self.finish(item) internal.note_learned(client, model, item.y) end
  return run(self, following, function(x, y)
    -- where others had one, a missing label is a mistake even if nothing is known about the model
    local ok, body
    if y == nil and not labelled then
      ok, body = pcall(internal.learn_body, client, model, x)
    else
      labelled = true
      ok, body = pcall(internal.learn_body, client, model, x, y)
    end
    if not ok then check_sample(x, y, body) end
    return internal.learn_request(client, body)
  end)
end

--- Teaches a model from requests that are ready: `source` gives the JSON of each and its label. `on_learned(index)` is
--- told of each that was learned, `on_unsent(index)` of those that were not sent when an error ended the batch.
---@param client river.Client
---@param model string
---@param source fun(): string|nil, any
---@param options table on_error, on_learned and on_unsent
---@return river.BatchReport
function batch.learn_prepared(client, model, source, options)
  local self <close> = new_batch("learn_many", client, model, source, {on_error = options.on_error})
  local internal = client._internal
  function self.read(req, res) return internal.read_learned(client, model, req, res) end
  function self.finish(item)
    internal.note_learned(client, model, item.y)
    options.on_learned(item.index)
  end
  function self.on_unsent(item) options.on_unsent(item.index) end
  return run(self, source, function(body)
    local req = internal.learn_request(client)
    req.body = body
    return req
  end)
end

--- `client:predict_many(model, samples, options)`; see above.
---@param client river.Client
---@param model string
---@param source table|function
---@param options table|nil
---@return river.BatchReport
function batch.predict_many(client, model, source, options)
  local self <close>, following = new_batch("predict_many", client, model, source, options)
  local internal, check = client._internal, require "river.check"
  local on_answer = options and options.on_answer
  if not on_answer then self.report.answers = {} end
  self.safe = true
  function self.read(req, res) return internal.read_prediction(client, model, req, res) end
  function self.finish(item, answer)
    if on_answer then on_answer(answer, item.index) else self.report.answers[item.index] = answer end
  end
  return run(self, following, function(x)
    check.features("predict", x)
    return internal.predict_request(client, model, x)
  end)
end

return batch
