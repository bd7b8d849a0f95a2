--- The short way of a plain sample into the embedded service: no request, no answer, no memory of it.
--
-- A client that finds `learn` and `predict` on its transport tries them first. They do what the requests do, down to
-- metrics and counts of calls, or return nil before anything has changed: then the request is made, and what is wrong
-- is said in one place. Numeric rows through scalers into a linear model are one call of C each
-- (`riverlua.core.river.pipeline`).
--
-- A regression of that kind is also lent its metrics and counts: the service then has functions in `learners` and
-- `predictors` that do all in C, until any request comes and the accounts are settled.

local core = require "riverlua.core.river"
local learning = require "river.embedded.learning"
local python = require "river.embedded.python"
local response = require "river.embedded.response"
local timing = require "river.embedded.timing"

local fast = {}

local clock = core.clock

-- Flavors whose models may be one call of C.
local FUSED = {regression = true, binary = true}

-- Finds out how an entry learns and predicts; once, as a model that is replaced gets another entry.
local function prepare(entry)
  local flavor, model = entry.flavor.name, entry.model
  local direct = {quiet = model:is_quiet()}
  entry.direct = direct
  if not FUSED[flavor] or model.aliases then return direct end
  local stages
  if model.kernels then
    stages = model:kernels(flavor)
  elseif model.fusible then
    stages = {model:fusible(flavor)}
  end
  if stages then
    direct.learn, direct.predict, direct.accounts, direct.counted_learn, direct.counted_predict =
      core.pipeline(entry.reader, stages)
  end
  direct.probabilities = flavor == "binary"
  return direct
end

-- The three metrics that the C code can keep, with the same number of samples; nil when there are others.
local function lendable(entry)
  local mae, rmse, smape = table.unpack(entry.active)
  if #entry.active ~= 3 or mae.name ~= "MAE" or rmse.name ~= "RMSE" or smape.name ~= "SMAPE" then return nil end
  if mae.n == rmse.n and mae.n == smape.n then return mae, rmse, smape end
end

-- Leaves the accounts of a model to C.
local function lend(self, name, entry)
  local direct = entry.direct
  if not direct.accounts or entry.flavor.name ~= "regression" then return end
  local mae, rmse, smape = lendable(entry)
  if not mae then
    direct.accounts = nil
    return
  end
  local calls = self.stats[name]
  direct.accounts:lend(mae.n, mae.mean, rmse.mean, smape.mean, calls.learn.n, calls.predict.n, timing.ALL_FIRST,
    timing.EACH)
  self.lent = self.lent or {}
  self.lent[name] = entry
  self.learners[name], self.predictors[name] = direct.counted_learn, direct.counted_predict
end

local function add_all(calls, n, seconds)
  calls.n = n
  for i = 1, #seconds do calls:add(seconds[i]) end
end

-- Takes the accounts of one model back.
local function settle_one(self, name, entry)
  local mae, rmse, smape = lendable(entry)
  local calls = self.stats[name]
  local n, a, b, c, learned, predicted, learn_seconds, predict_seconds = entry.direct.accounts:settle()
  mae.n, rmse.n, smape.n, mae.mean, rmse.mean, smape.mean = n, n, n, a, b, c
  if learned ~= calls.learn.n then entry.dirty = true end
  add_all(calls.learn, learned, learn_seconds)
  add_all(calls.predict, predicted, predict_seconds)
  self.lent[name], self.learners[name], self.predictors[name] = nil, nil, nil
end

--- Takes all accounts back. To be called before anything else looks at metrics and counts, or changes a model.
---@param self river.embedded.Service
function fast.settle(self)
  for name, entry in pairs(self.lent or {}) do settle_one(self, name, entry) end
  self.lent = nil
end

-- A label as it can be sent, of a kind that nothing stumbles over.
local function is_plain(y)
  local kind = type(y)
  if kind == "number" then return y - y == 0 end
  return kind == "string" or kind == "boolean"
end

-- What the model predicts for a row; a prediction that was just asked for, as it is most often, is not made again.
local function predict_row(entry, row, serial)
  if entry.predicted == serial then return true, entry.prediction, entry.order end
  return pcall(learning.predict_with, entry, row)
end

-- Learns what is no row for the C code.
local function learn_any(entry, x, y)
  if not is_plain(y) then return nil end
  local row, serial = entry.reader:read(x, true)
  if not row then return nil end
  local ok, prediction, order = predict_row(entry, row, serial)
  if not ok then return nil end
  local problem
  ok, problem = pcall(learning.finish, entry, row, prediction, order, y)
  if ok then return true end
  if python.is_error(problem) then return false, response.json(400, tostring(problem)) end
  error(problem, 0)
end

--- Teaches a model a sample.
---@param self river.embedded.Service
---@param name any
---@param x any features
---@param y any
---@return boolean|nil done nil: nothing was done, make a request of it; false: it went wrong half-way
---@return river.embedded.Response|nil answer what to say then
function fast.learn(self, name, x, y)
  local entry = self.models[name]
  if not entry or self.watched then return nil end
  if self.lent and self.lent[name] then settle_one(self, name, entry) end
  local direct = entry.direct or prepare(entry)
  local calls = self.stats[name].learn
  local n, timed = calls:next()
  local started = timed and clock()
  local done, answer = true, nil
  if direct.learn then
    local prediction = direct.learn(x, y)
    if prediction == nil then return nil end
    entry.dirty = true
    if direct.probabilities then
      learning.measure_binary(entry, prediction, y)
    else
      learning.measure_number(entry, prediction, y)
    end
  else
    done, answer = learn_any(entry, x, y)
    if done == nil then return nil end
  end
  calls.n = n
  if timed then calls:add(clock() - started) end
  lend(self, name, entry)
  return done, answer
end

local function predict_any(entry, x)
  local row, serial = entry.reader:read(x, true)
  if not row then return nil end
  local ok, prediction, order = predict_row(entry, row, serial)
  if not ok or not learning.is_finite(prediction) then return nil end
  if entry.direct.quiet then
    entry.predicted, entry.prediction, entry.order = serial, prediction, order
  else
    entry.dirty = true
  end
  return true, response.prediction(prediction)
end

--- Asks a model for a prediction that nobody will label.
---@param self river.embedded.Service
---@param name any
---@param x any features
---@return table|nil answer {model =, prediction =}; nil: make a request of it
function fast.predict(self, name, x)
  local entry = self.models[name]
  if not entry or self.watched then return nil end
  if self.lent and self.lent[name] then settle_one(self, name, entry) end
  local direct = entry.direct or prepare(entry)
  local calls = self.stats[name].predict
  local n, timed = calls:next()
  local started = timed and clock()
  local prediction
  if direct.predict then
    prediction = direct.predict(x)
    if prediction == nil then return nil end
    if direct.probabilities then prediction = {["false"] = 1.0 - prediction, ["true"] = prediction} end
  else
    local done
    done, prediction = predict_any(entry, x)
    if not done then return nil end
  end
  calls.n = n
  if timed then calls:add(clock() - started) end
  lend(self, name, entry)
  return {model = name, prediction = prediction}
end

return fast
