--- Ensembles: copies of a model that see each sample a random number of times, and votes of different models.
--
-- With a seed they draw the random numbers that Python's draw. Oza (2005), "Online bagging and boosting"; Bifet et al.
-- (2009, 2010) for the variants that replace the worst copy when ADWIN sees a change.

local adwin = require "river.embedded.adwin"
local exact_mean = require "river.embedded.exact_mean"
local label_book = require "river.embedded.label_book"
local python = require "river.embedded.python"
local random = require "river.embedded.random"
local registry = require "river.embedded.registry"

local log = math.log
local None = python.None
local label_key = python.label_key
local add_votes = label_book.add_votes

local function is_same(a, b)
  return label_key(a) == label_key(b)
end

-- ------------------------------------------------------------------------------------------------- adding votes

local function probabilities(model, row)
  if not model.predict_proba_one then python.raise("NotImplementedError", "") end
  return model:predict_proba_one(row)
end

local function predict_label(self, row)
  return label_book.likeliest(self:predict_proba_one(row))
end

-- ---------------------------------------------------------------------------------------- copies of one model

local Copies = {}

function Copies:init()
  if self.n_models < 2 then
    python.raise("ValueError", "At least 2 models are expected, only %d were passed", math.max(self.n_models, 0))
  end
  self.models = {}
  for i = 1, self.n_models do self.models[i] = registry.clone(self.model) end
  self.rng = random.new(self.seed)
end

--- Raises what Python would for a target that cannot be learned from.
function Copies:check_target(y, inner)
  python.needs_target(self.name, y, inner)
  local model = self.models[1]
  if model.check_target then model:check_target(y, true) end
end

-- Lets a copy learn a sample several times.
local function learn_times(model, row, y, count)
  for _ = 1, count do model:learn_one(row, y) end
end

local function params(...)
  local list = {
    {"model", None, kind = "estimator", required = true},
    {"n_models", 10, kind = "integer"},
  }
  for _, parameter in ipairs{...} do list[#list + 1] = parameter end
  return list
end

local SEED = {"seed", None, kind = "integer", optional = true}

local function define(name, parameters, ...)
  local class = registry.class{class = "river.ensemble." .. name, role = "estimator", supervised = true,
    params = parameters}
  for _, source in ipairs{Copies, ...} do
    for method, body in pairs(source) do class[method] = body end
  end
  return class
end

-- ------------------------------------------------------------------------------------------------------ bagging

local Bagging = {}

function Bagging:learn_one(row, y)
  for _, model in ipairs(self.models) do learn_times(model, row, y, self.rng:poisson(1)) end
end

local Votes = {predict_one = predict_label}

--- Probabilities per label, and the labels in order.
---@param row river.embedded.Row
---@return table probs label → probability
---@return any[] order
function Votes:predict_proba_one(row)
  local probs, order = {}, {}
  for _, model in ipairs(self.models) do add_votes(probs, order, probabilities(model, row)) end
  label_book.normalize(probs, order)
  return probs, order
end

local BaggingClassifier = define("BaggingClassifier", params(SEED), Bagging, Votes)

local BaggingRegressor = define("BaggingRegressor", params(SEED), Bagging, {
  --- The mean of the predictions, rounded once as Python's `statistics.mean` does it.
  predict_one = function(self, row)
    local predictions = {}
    for i, model in ipairs(self.models) do predictions[i] = model:predict_one(row) end
    return exact_mean(predictions)
  end,
})

-- ------------------------------------------------------------------------------------- replacing the worst copy

local function watch(self, delta)
  self.detectors = {}
  for i = 1, self.n_models do self.detectors[i] = adwin.new(delta) end
end

-- Tells the detector of copy `i` a value; true when the mean has risen.
local function has_risen(self, i, value)
  local detector = self.detectors[i]
  local before = detector:estimation()
  detector:update(value)
  return detector.drift_detected and detector:estimation() > before
end

-- A fresh copy in the place of the one whose detector has the highest mean; its position.
local function replace_worst(self, delta)
  local worst, most = 1, nil
  for i, detector in ipairs(self.detectors) do
    local estimation = detector:estimation()
    if not most or estimation > most then worst, most = i, estimation end
  end
  self.models[worst] = registry.clone(self.model)
  self.detectors[worst] = adwin.new(delta)
  return worst
end

local ADWINBaggingClassifier = define("ADWINBaggingClassifier", params(SEED), Votes, {
  init = function(self)
    Copies.init(self)
    watch(self)
  end,
  learn_one = function(self, row, y)
    local changed = false
    for i, model in ipairs(self.models) do
      learn_times(model, row, y, self.rng:poisson(1))
      if has_risen(self, i, is_same(model:predict_one(row), y) and 1 or 0) then changed = true end
    end
    if changed then replace_worst(self) end
  end,
})

-- How often a copy sees a sample. Two of the library's methods ask Python's generator for what it does not have.
local METHODS = {
  bag = function(self) return self.rng:poisson(self.w) end,
  me = function(self, i, row, y)
    if not is_same(self.models[i]:predict_one(row), y) then return 1 end
    if self.detectors[i]:estimation() == 1.0 then return 0 end
    python.raise("AttributeError", "'Random' object has no attribute 'rand'")
  end,
  half = function() python.raise("TypeError", "Random.randint() missing 1 required positional argument: 'b'") end,
  wt = function(self) return 1 + self.rng:poisson(1) end,
  subag = function(self) return self.rng:poisson(1) > 0 and 1 or 0 end,
}

local LeveragingBaggingClassifier = define("LeveragingBaggingClassifier", params(
  {"w", 6, kind = "number"},
  {"adwin_delta", 0.002, kind = "number"},
  {"bagging_method", "bag", kind = "string"},
  SEED
), Votes, {
  init = function(self)
    Copies.init(self)
    watch(self, self.adwin_delta)
    self.n_detected_changes = 0
    if not METHODS[self.bagging_method] then
      python.raise("ValueError", "Invalid bagging_method: %s\nValid options: ('bag', 'me', 'half', 'wt', 'subag')",
        self.bagging_method)
    end
  end,
  learn_one = function(self, row, y)
    local changed, times = false, METHODS[self.bagging_method]
    for i, model in ipairs(self.models) do
      learn_times(model, row, y, times(self, i, row, y))
      local prediction = model:predict_one(row)
      if prediction ~= nil and has_risen(self, i, is_same(prediction, y) and 0 or 1) then changed = true end
    end
    if changed then
      self.n_detected_changes = self.n_detected_changes + 1
      replace_worst(self, self.adwin_delta)
    end
  end,
})

-- ----------------------------------------------------------------------------------------------------- boosting

local function start_weights(self)
  self.correct, self.wrong = {}, {}
  for i = 1, self.n_models do self.correct[i], self.wrong[i] = 0, 0 end
end

-- Books what a copy made of a sample; how often the next one is to see it.
local function book(self, i, right, lambda)
  local list = right and self.correct or self.wrong
  list[i] = list[i] + lambda
  return lambda * ((self.correct[i] + self.wrong[i]) / (2 * list[i]))
end

local Boosting = {predict_one = predict_label}

function Boosting:init()
  Copies.init(self)
  start_weights(self)
end

function Boosting:learn_one(row, y)
  local lambda = 1
  for i, model in ipairs(self.models) do
    learn_times(model, row, y, self.rng:poisson(lambda))
    lambda = book(self, i, is_same(model:predict_one(row), y), lambda)
  end
end

--- Probabilities per label, and the labels in order; copies that were right more often weigh more.
---@param row river.embedded.Row
---@return table probs label → probability
---@return any[] order
function Boosting:predict_proba_one(row)
  local probs, order = {}, {}
  for i, model in ipairs(self.models) do
    local epsilon = (self.wrong[i] + 1e-16) / ((self.correct[i] + self.wrong[i]) + 1e-16)
    local weight = 1.0
    if epsilon ~= 0 and epsilon <= 0.5 then
      local inverse = (1 - epsilon) / epsilon
      weight = inverse ~= 0 and log(inverse) or 0
    end
    local votes, labels = probabilities(model, row)
    add_votes(probs, order, votes, labels, weight)
  end
  label_book.scale(probs, order)
  return probs, order
end

local AdaBoostClassifier = define("AdaBoostClassifier", params(SEED), Boosting)

local ADWINBoostingClassifier = define("ADWINBoostingClassifier", params(SEED), Boosting, {
  init = function(self)
    Boosting.init(self)
    watch(self)
  end,
  learn_one = function(self, row, y)
    local changed, lambda = false, 1.0
    for i, model in ipairs(self.models) do
      learn_times(model, row, y, self.rng:poisson(1))
      local right = is_same(model:predict_one(row), y)
      lambda = book(self, i, right, lambda)
      if has_risen(self, i, right and 1 or 0) then changed = true end
    end
    if changed then
      local i = replace_worst(self)
      self.correct[i], self.wrong[i] = 0, 0
    end
  end,
})

-- The copies from the one that was right most often to the one that was so least often. Equals stay as they are.
local function rank(self)
  local positions, rates = self.order_position, {}
  for i, position in ipairs(positions) do
    local all = self.correct[position] + self.wrong[position]
    rates[i] = all ~= 0 and self.correct[position] / all or all
  end
  for i = 2, self.n_models do
    local position, rate, j = positions[i], rates[i], i - 1
    while j >= 1 and rates[j] < rate do
      positions[j + 1], rates[j + 1] = positions[j], rates[j]
      j = j - 1
    end
    positions[j + 1], rates[j + 1] = position, rate
  end
end

local BOLEClassifier = define("BOLEClassifier", params(SEED, {"error_bound", 0.5, kind = "number"}), Boosting, {
  init = function(self)
    Boosting.init(self)
    self.order_position, self.instances_seen = {}, 0
    for i = 1, self.n_models do self.order_position[i] = i end
  end,
  learn_one = function(self, row, y)
    self.instances_seen = self.instances_seen + 1
    rank(self)
    local right, best, worst, lambda = false, 1, self.n_models, 1
    for _ = 1, self.n_models do
      local i
      if right then
        i, best = self.order_position[best], best + 1
      else
        i, worst = self.order_position[worst], worst - 1
      end
      learn_times(self.models[i], row, y, self.rng:poisson(lambda))
      right = is_same(self.models[i]:predict_one(row), y)
      local list = right and self.correct or self.wrong
      list[i] = list[i] + lambda
      lambda = lambda * (self.instances_seen / (2 * list[i]))
    end
  end,
  predict_proba_one = function(self, row)
    local probs, order, all, all_order = {}, {}, {}, {}
    for i, model in ipairs(self.models) do
      local weight
      if self.correct[i] > 0 and self.wrong[i] > 0 then
        local epsilon = self.wrong[i] / (self.correct[i] + self.wrong[i]) + 1e-16
        if epsilon <= self.error_bound then
          weight = log((1 - epsilon) / epsilon)
          if weight == 0 then weight = nil end
        end
      end
      local votes, labels = probabilities(model, row)
      if weight then add_votes(probs, order, votes, labels, weight) end
      add_votes(all, all_order, votes, labels, weight)
    end
    if #order == 0 then probs, order = all, all_order end
    label_book.scale(probs, order)
    return probs, order
  end,
})

-- ------------------------------------------------------------------------------------------------------- voting

local VotingClassifier = registry.class{
  class = "river.ensemble.VotingClassifier", role = "estimator", supervised = true,
  params = {
    {"models", None, kind = "list", required = true},
    {"use_probabilities", true, kind = "boolean"},
  },
}

function VotingClassifier:init()
  if #self.models < 2 then
    python.raise("ValueError", "At least 2 models are expected, only %d were passed", #self.models)
  end
end

--- A fresh ensemble of fresh models.
function VotingClassifier:clone(changes)
  local models = {}
  for i, model in ipairs(changes and changes.models or self.models) do models[i] = registry.clone(model) end
  return setmetatable({models = models, use_probabilities = self.use_probabilities}, VotingClassifier)
end

--- The parameters as a server answers them: each model is a pair of its name and its parameters.
function VotingClassifier:describe(null)
  local models = {}
  for i, model in ipairs(self.models) do models[i] = {model.name, model:describe(null)} end
  return {models = models, use_probabilities = self.use_probabilities}
end

function VotingClassifier:check_target(y, inner)
  python.needs_target(self.name, y, inner)
  for _, model in ipairs(self.models) do
    if model.check_target then model:check_target(y, true) end
  end
end

function VotingClassifier:learn_one(row, y)
  for _, model in ipairs(self.models) do model:learn_one(row, y) end
end

--- The label with most votes, the first of equals; nil when there is none.
---@param row river.embedded.Row
---@return any
function VotingClassifier:predict_one(row)
  local probs, order = {}, {}
  for _, model in ipairs(self.models) do
    if self.use_probabilities then
      add_votes(probs, order, probabilities(model, row))
    else
      local label = model:predict_one(row)
      if label == nil then label = None end
      add_votes(probs, order, {[label] = 1}, {label})
    end
  end
  return label_book.likeliest(probs, order)
end

--- The library has the method and refuses.
function VotingClassifier.predict_proba_one()
  python.raise("NotImplementedError", "")
end

return {
  BaggingClassifier = BaggingClassifier, BaggingRegressor = BaggingRegressor,
  ADWINBaggingClassifier = ADWINBaggingClassifier, LeveragingBaggingClassifier = LeveragingBaggingClassifier,
  AdaBoostClassifier = AdaBoostClassifier, ADWINBoostingClassifier = ADWINBoostingClassifier,
  BOLEClassifier = BOLEClassifier, VotingClassifier = VotingClassifier,
}
