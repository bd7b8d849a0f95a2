--- What a River server does with a sample: predict, measure, learn, remember.
--
-- These functions work on the service's tables (`models`, `memories`) and answer with responses. What the model refuses
-- is raised as a Python exception (`river.embedded.python`).

local check = require "river.check"
local metrics_base = require "river.embedded.metrics_base"
local names = require "river.embedded.names"
local python = require "river.embedded.python"
local response = require "river.embedded.response"

local learning = {}

local truthy = python.truthy

-- Of a sample that is a text.
local NO_KEYS = require("river.embedded.row").keys{}

-- Predictions without an identifier of the caller's own that are remembered for a later label; older ones are
-- forgotten (a server never forgets, and grows).
local REMEMBERED = 10000

local function null_to_nil(value)
  if type(value) == "userdata" then return nil end
  return value
end

-- ------------------------------------------------------------------------------------------------------ predict

-- Under which name a model has a method; nil when it has none.
local function method_of(model, method)
  -- as in Python, what was put on the object itself hides a method of its class
  local aliases = model.aliases
  local alias = aliases and aliases[method]
  if alias and model[alias] then return alias end
  return model[method] and method
end

--- Predicts with the first of the flavor's methods that works.
---@param entry table a model of the service
---@param read river.embedded.Row
---@return any prediction a number, a label, or probabilities by label
---@return any[]|nil order the labels of probabilities, in the library's order
function learning.predict_with(entry, row)
  local model, methods = entry.model, entry.flavor.predicts
  for i = 1, #methods do
    local method, last = method_of(model, methods[i]), i == #methods
    if last then
      if not method then model:lacks(methods[i]) end
      return model[method](model, row)
    elseif method then
      local ok, prediction, order = pcall(model[method], model, row)
      if ok then return prediction, order end
      if not python.is_error(prediction) then error(prediction, 0) end
    end
  end
end

-- ------------------------------------------------------------------------------------------------------ measure

local function update_metrics(entry, prediction, order, y)
  -- A prediction of 0, false or the like counts as none for a server, and so here.
  if prediction == 0 or not truthy(prediction) then return end
  local active = entry.active
  local label = prediction
  if type(prediction) == "table" then
    label = metrics_base.likeliest(prediction, order)
  elseif type(prediction) == "number" and type(y) == "number" and entry.flavor.numeric then
    for i = 1, #active do active[i]:add(y, prediction) end
    return
  end
  for i = 1, #active do active[i]:update(y, prediction, label) end
end

--- Measures a prediction of a fused model; the same as `finish` does, for one kind of flavor each.
---@param entry table
---@param prediction number
---@param y number|boolean
function learning.measure_number(entry, prediction, y)
  if type(y) ~= "number" then return update_metrics(entry, prediction, nil, y) end
  if prediction == 0 then return end
  local active = entry.active
  for i = 1, #active do active[i]:add(y, prediction) end
end

---@param entry table
---@param p number the probability of true
---@param y number|boolean
function learning.measure_binary(entry, p, y)
  local no, active = 1.0 - p, entry.active
  local prediction = {[false] = no, [true] = p}
  for i = 1, #active do active[i]:update(y, prediction, p > no) end
end

-- -------------------------------------------------------------------------------------------------------- learn

--- Measures, then learns: a sample that the model refuses has been measured, as on a server, and nothing else.
---@param entry table
---@param row river.embedded.Row
---@param prediction any
---@param order any[]|nil
---@param y any
function learning.finish(entry, row, prediction, order, y)
  local model = entry.model
  update_metrics(entry, prediction, order, y)
  model:check_target(y)
  entry.predicted = nil   -- see river.embedded.fast
  model:learn_one(row, y)
  entry.dirty = true
end

--- The features of a sample as a row of the entry's own reader.
---@param entry table
---@param features table
---@return river.embedded.Row valid until the next call
function learning.read_features(entry, features)
  if type(features) ~= "table" then
    local model = entry.model
    if type(features) == "string" and model.takes_text and model:takes_text() then
      return {keys = NO_KEYS, source = features}
    end
    python.raise("AttributeError", "'%s' object has no attribute 'items'", python.type_name(features))
  end
  return entry.reader:read(features)
end

local function no_model(name)
  return response.json(400, ("No model named '%s'."):format(python.str(name)))
end

local function no_memory(identifier)
  return response.json(400, ("No information stored for ID '%s'"):format(python.str(identifier)))
end

-- Always the same answer: nobody has a reason to change it.
local LEARNED = response.learned("Successful learn.")

-- Written down first: what cannot be kept is not learned, and what is refused will be refused again.
local function learn_sample(self, entry, row, sample)
  if self.keeper then self.keeper:learned(sample) end
  learning.finish(entry, row, sample.prediction, sample.order, sample.ground_truth)
  if self.watched then self:announce_learned(entry, sample) end
end

-- The sample comes from a prediction that was remembered.
local function learn_remembered(self, kind, identifier, y)
  local key = python.str(identifier)
  local memory = self.memories[key]
  if not memory then return no_memory(identifier) end
  local entry = self.models[memory.model]
  if not entry then return no_model(memory.model) end
  local row = learning.read_features(entry, memory.features)
  local prediction, order = memory.prediction, memory.order
  if prediction == nil then prediction, order = learning.predict_with(entry, row) end
  learn_sample(self, entry, row, {kind = kind, model = memory.model, features = memory.features,
    prediction = prediction, order = order, ground_truth = y, identifier = key, given = true})
  self.memories[key] = nil
  return LEARNED
end

--- POST /learn/
---@param self river.embedded.Service
---@param payload table
---@return river.embedded.Response
function learning.learn(self, payload)
  local y, prediction, identifier = null_to_nil(payload.ground_truth), payload.prediction, payload.identifier
  if identifier and truthy(identifier) then return learn_remembered(self, "learn", identifier, y) end
  local entry = self.models[payload.model]
  if not entry then return no_model(payload.model) end
  local row, order = learning.read_features(entry, payload.features), nil
  if prediction ~= nil then prediction = null_to_nil(prediction) end
  local given = prediction ~= nil
  if not given then prediction, order = learning.predict_with(entry, row) end
  if self.watched then
    learn_sample(self, entry, row, {kind = "learn", model = payload.model, features = payload.features,
      prediction = prediction, order = order, ground_truth = y, given = given})
  else
    learning.finish(entry, row, prediction, order, y)
  end
  return LEARNED
end

--- POST /label/
---@param self river.embedded.Service
---@param payload table
---@return river.embedded.Response
function learning.label(self, payload)
  local name, identifier, y = payload.model, payload.identifier, payload.label
  if not (truthy(name) and truthy(identifier) and truthy(y)) then
    return response.message(400, "model, label, and identifier are required.")
  end
  local memory = self.memories[python.str(identifier)]
  if not memory then return no_memory(identifier) end
  if memory.prediction == nil then
    return response.json(400, "Missing one of features, model_name, or prediction.")
  end
  if memory.model ~= name then
    return response.json(400, ("%s was provided, but identifier references %s."):format(name, memory.model))
  end
  local answer = learn_remembered(self, "label", identifier, y)
  return answer == LEARNED and response.json(200, "Successful label.") or answer
end

-- ----------------------------------------------------------------------------------------------------- remember

-- Keeps what was predicted until its label comes; the features may be the caller's own table.
local function remember(self, identifier, name, features, prediction, order)
  local copy = features
  if type(features) == "table" then
    copy = {}
    for key, value in next, features do copy[key] = value end
  end
  local memory = {model = name, features = copy, prediction = prediction, order = order}
  self.memories[identifier] = memory
  if self.keeper and identifier ~= check.UNLABELLED then self.keeper:predicted(identifier, memory) end
end

-- An identifier of our own, in place of the oldest one.
local function make_identifier(self)
  local identifier, place = names.identifier(), self.next_place
  local oldest = self.places[place]
  if oldest then self.memories[oldest] = nil end
  self.places[place] = identifier
  self.next_place = place % REMEMBERED + 1
  return identifier
end

--- Whether a prediction can be sent: JSON has no NaN, a model that has diverged makes a server fail.
---@param prediction any
---@return boolean
function learning.is_finite(prediction)
  if type(prediction) == "number" then
    return prediction - prediction == 0
  elseif type(prediction) == "table" then
    for _, p in next, prediction do
      if p - p ~= 0 then return false end
    end
  end
  return true
end

--- POST /predict/
---@param self river.embedded.Service
---@param payload table
---@return river.embedded.Response
function learning.predict(self, payload)
  local name, features = payload.model, payload.features
  local entry = self.models[name]
  if not entry then return no_model(name) end
  local prediction, order = learning.predict_with(entry, learning.read_features(entry, features))
  if not learning.is_finite(prediction) then
    return response.message(500, "the prediction is not a finite number: the model has diverged")
  end
  local identifier = payload.identifier
  if not (identifier and truthy(identifier)) then
    identifier = self.generate_identifiers and make_identifier(self) or nil
  end
  local text = identifier ~= nil and python.str(identifier) or nil
  if self.keeper and not entry.model:is_quiet() then entry.dirty = true end
  if text then remember(self, text, name, features, prediction, order) end
  if self.watched then self:predicted(name, features, prediction) end
  local answer = {model = name, prediction = response.prediction(prediction), identifier = identifier}
  -- a server always says what it predicts, if only that it cannot
  local complete = prediction == nil and
    {model = name, prediction = require("riverlua.json").null, identifier = identifier} or nil
  return response.json(text and 201 or 200, answer, complete)
end

return learning
