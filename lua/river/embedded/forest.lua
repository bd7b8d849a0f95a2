--- Adaptive random forests (Gomes et al., 2017 and 2018).
--
-- With a seed they draw the random numbers that Python's draw, in the same order. Trees see each sample a random number
-- of times and a random choice of features; detectors of change replace trees that have become worse.

local adwin = require "river.embedded.adwin"
local hoeffding = require "river.embedded.hoeffding_tree"
local label_book = require "river.embedded.label_book"
local python = require "river.embedded.python"
local random = require "river.embedded.random"
local registry = require "river.embedded.registry"
local tree_stats = require "river.embedded.tree_stats"

local floor, log, sqrt = math.floor, math.log, math.sqrt
local None = python.None
local label_key = python.label_key

-- ---------------------------------------------------------------------------------------------- trees of forests

-- A tree whose leaves observe `max_features` features each, drawn by the forest's generator.

local function choose_features(tree, leaf, row)
  local features = leaf.features
  if features and #features > 0 then return end
  local keys = row.keys
  features = tree_stats.sort(table.move(keys, 1, keys.n, 1, {}))
  if #features >= tree.max_features then features = tree.rng:sample(features, tree.max_features) end
  leaf.features, leaf.observers.features = features, features
end

local ClassTree = hoeffding.inherit({choose_features = choose_features, transient = {"sorted"}}, hoeffding.Classifier)
local NumberTree = hoeffding.inherit({choose_features = choose_features}, hoeffding.Regressor)
registry.helper("river.embedded.ForestClassTree", ClassTree)
registry.helper("river.embedded.ForestNumberTree", NumberTree)

-- ------------------------------------------------------------------------------------------------------ forests

local Forest = {}

local function is_set(detector)
  return not detector.never_detects
end

local function clones(object, count)
  local list = {}
  for i = 1, count do list[i] = registry.clone(object) end
  return list
end

function Forest:init()
  if self.drift_detector == None then self.drift_detector = adwin.new(0.001) end
  if self.warning_detector == None then self.warning_detector = adwin.new(0.01) end
  local n = self.n_models
  self.rng = random.new(self.seed)
  if is_set(self.warning_detector) then
    self.warning_detectors, self.background = clones(self.warning_detector, n), {}
    for i = 1, n do self.background[i] = false end
  end
  if is_set(self.drift_detector) then self.drift_detectors = clones(self.drift_detector, n) end
  self.metrics = clones(self.metric, n)
  self.trees = {}
end

-- How many of `n` features a leaf observes.
local function count_features(wanted, n)
  local count
  if wanted == None then
    count = n
  elseif wanted == "sqrt" then
    count = floor(sqrt(n) + 0.5)
  elseif wanted == "log2" then
    if n == 0 then python.raise("ValueError", "math domain error") end
    count = floor(log(n, 2) + 0.5)
  elseif type(wanted) == "boolean" then
    count = wanted and 1 or 0
  elseif math.type(wanted) == "integer" then
    count = wanted
  elseif math.type(wanted) == "float" then
    local part = wanted * n
    count = part < 0 and -floor(-part) or floor(part)
  else
    python.raise("AttributeError",
      "Invalid max_features: %s.\nValid options are: int [2, M], float (0., 1.], sqrt, log2", wanted)
  end
  if count < 0 then count = count + n end
  if count <= 0 then count = 1 end
  return count > n and n or count
end

local function plant(self, row)
  self.max_features = count_features(self.max_features, row.keys.n)
  for i = 1, self.n_models do self.trees[i] = self:new_tree() end
end

-- A fresh tree with the forest's parameters of the given names.
function Forest:make_tree(class, names)
  local tree = setmetatable({rng = self.rng}, class)
  for _, name in ipairs(names) do tree[name] = self[name] end
  if tree.splitter == None then tree.splitter = registry.build{class = class.default_splitter} end
  tree:init()
  return tree
end

-- Replaces tree `i`, by its background tree if there is one.
local function replace(self, i)
  local background = self.background and self.background[i]
  if background then
    self.trees[i], self.background[i] = background, false
    self.warning_detectors[i] = registry.clone(self.warning_detector)
  else
    self.trees[i] = self:new_tree()
  end
  self.drift_detectors[i] = registry.clone(self.drift_detector)
  self.metrics[i] = registry.clone(self.metric)
end

-- Tells the detectors of tree `i` how good its prediction was.
local function detect(self, i, y, prediction)
  if not self.warning_detectors and not self.drift_detectors then return end
  local input = self:detector_input(i, y, prediction)
  if self.warning_detectors then
    self.warning_detectors[i]:update(input)
    if self.warning_detectors[i].drift_detected then
      self.background[i] = self:new_tree()
      self.warning_detectors[i] = registry.clone(self.warning_detector)
    end
  end
  if self.drift_detectors then
    self.drift_detectors[i]:update(input)
    if self.drift_detectors[i].drift_detected then replace(self, i) end
  end
end

--- Learns from a sample.
---@param row river.embedded.Row
---@param y any
function Forest:learn_one(row, y)
  if #self.trees == 0 then plant(self, row) end
  local trees, background = self.trees, self.background
  for i = 1, #trees do
    local tree = trees[i]
    local prediction = tree:predict_one(row)
    self:measure(i, tree, row, y, prediction)
    local k = self.rng:poisson(self.lambda_value)
    if k > 0 then
      if background and background[i] then background[i]:learn_one(row, y, k) end
      tree:learn_one(row, y, k)
      detect(self, i, y, prediction)
    end
  end
end

-- The parameters of the forest itself, those of its trees, and the names of the latter.
local function parameters(own, of_trees)
  local params, names = {}, {"max_features"}
  for _, parameter in ipairs(own) do params[#params + 1] = parameter end
  for _, parameter in ipairs(of_trees) do
    params[#params + 1] = parameter
    names[#names + 1] = parameter[1]
  end
  params[#params + 1] = {"seed", None, kind = "integer", optional = true}
  return params, names
end

-- The parameters of a tree with other defaults.
local function changed(params, defaults)
  local list = {}
  for i, parameter in ipairs(params) do
    local copy = {}
    for key, value in pairs(parameter) do copy[key] = value end
    if defaults[copy[1]] ~= nil then copy[2] = defaults[copy[1]] end
    if copy.make then copy.make, copy.optional = nil, true end
    list[i] = copy
  end
  return list
end

local N_MODELS = {"n_models", 10, kind = "integer"}
local MAX_FEATURES = {"max_features", "sqrt", kind = "boolean|string|integer|number", optional = true}
local LAMBDA = {"lambda_value", 6, kind = "number"}
local DRIFT = {"drift_detector", None, kind = "drift_detector", optional = true}
local WARNING = {"warning_detector", None, kind = "drift_detector", optional = true}
local DEFAULTS = {grace_period = 50, delta = 0.01, memory_estimate_period = 2000000}

-- ---------------------------------------------------------------------------------------------- classification

local class_params, class_names = parameters({
  N_MODELS, MAX_FEATURES, LAMBDA,
  {"metric", None, kind = "metric", make = "river.metrics.Accuracy"},
  {"disable_weighted_vote", false, kind = "boolean"},
  DRIFT, WARNING,
}, changed(hoeffding.classifier_params(), DEFAULTS))

ClassTree.default_splitter = "river.tree.splitter.GaussianSplitter"

local ARFClassifier = hoeffding.inherit(registry.class{
  class = "river.forest.ARFClassifier", role = "estimator", supervised = true, params = class_params,
}, Forest)

ARFClassifier.check_target = hoeffding.Classifier.check_target

function ARFClassifier:new_tree()
  return self:make_tree(ClassTree, class_names)
end

function ARFClassifier:measure(i, tree, row, y, prediction)
  if self.metric.requires_labels or self.metric.kind == "regression" then
    self.metrics[i]:update(y, prediction, prediction)
  else
    local probs = tree:predict_proba_one(row)
    self.metrics[i]:update(y, probs)
  end
end

function ARFClassifier.detector_input(_, _, y, prediction)
  return label_key(y) == label_key(prediction) and 0 or 1
end

--- Probabilities per label, and the labels in order; none before the first sample.
---@param row river.embedded.Row
---@return table probs label → probability
---@return any[] order
function ARFClassifier:predict_proba_one(row)
  local probs, order = {}, {}
  if #self.trees == 0 then
    plant(self, row)
    return probs, order
  end
  for i, tree in ipairs(self.trees) do
    local some, labels = tree:predict_proba_one(row)
    local weight = self.metrics[i]:get()
    local weighted = not self.disable_weighted_vote and weight > 0.0
    label_book.add_votes(probs, order, some, labels, weighted and weight)
  end
  label_book.normalize(probs, order)
  return probs, order
end

--- The likeliest label; nil before the first sample.
---@param row river.embedded.Row
---@return any
function ARFClassifier:predict_one(row)
  return label_book.likeliest(self:predict_proba_one(row))
end

-- -------------------------------------------------------------------------------------------------- regression

local number_params, number_names = parameters({
  N_MODELS, MAX_FEATURES,
  {"aggregation_method", "median", kind = "string"},
  LAMBDA,
  {"metric", None, kind = "metric", make = "river.metrics.MSE"},
  {"disable_weighted_vote", true, kind = "boolean"},
  DRIFT, WARNING,
}, changed(hoeffding.regressor_params(), DEFAULTS))

NumberTree.default_splitter = "river.tree.splitter.TEBSTSplitter"

local ARFRegressor = hoeffding.inherit(registry.class{
  class = "river.forest.ARFRegressor", role = "estimator", supervised = true, params = number_params,
}, {check_target = hoeffding.Regressor.check_target})

function ARFRegressor:init()
  if self.aggregation_method ~= "mean" and self.aggregation_method ~= "median" then
    python.raise("ValueError", "Invalid aggregation_method: %s.\nValid values are: ['mean', 'median']",
      self.aggregation_method)
  end
  Forest.init(self)
  self.errors = {}
  for i = 1, self.n_models do self.errors[i] = tree_stats.var() end
end

hoeffding.inherit(ARFRegressor, Forest)

function ARFRegressor:new_tree()
  return self:make_tree(NumberTree, number_names)
end

--- The library forgets to hand `min_samples_split` on: trees have its default.
function NumberTree:init()
  self.min_samples_split = 5
  if self.leaf_model == None then self.leaf_model = registry.build{class = "river.linear_model.LinearRegression"} end
  hoeffding.Regressor.init(self)
end

function ARFRegressor:measure(i, _, _, y, prediction)
  self.metrics[i]:update(y, prediction)
end

-- The error as a share of what errors usually are: 0.5 for none.
function ARFRegressor:detector_input(i, y, prediction)
  local errors, difference = self.errors[i], hoeffding.number(y) - prediction
  errors:update(difference)
  if errors.n == 1 then return 0.5 end
  local deviation = sqrt(errors:get())
  if deviation > 0 then return (difference + 3 * deviation) / (6 * deviation) end
  return 0.5
end

-- numpy's sum: by halves above 128 numbers, in eight columns above 7.
local function pairwise_sum(values, first, n)
  if n < 8 then
    local sum = 0.0
    for i = first, first + n - 1 do sum = sum + values[i] end
    return sum
  end
  if n > 128 then
    local half = n // 2
    half = half - half % 8
    return pairwise_sum(values, first, half) + pairwise_sum(values, first + half, n - half)
  end
  local c = table.move(values, first, first + 7, 1, {})
  local whole = n - n % 8
  for i = 8, whole - 1, 8 do
    for j = 1, 8 do c[j] = c[j] + values[first + i + j - 1] end
  end
  local sum = ((c[1] + c[2]) + (c[3] + c[4])) + ((c[5] + c[6]) + (c[7] + c[8]))
  for i = first + whole, first + n - 1 do sum = sum + values[i] end
  return sum
end

-- The better a tree has been, the more it counts.
local function weigh(self, predictions)
  local weights, sum, n = {}, 0.0, self.n_models
  for i = 1, n do
    weights[i] = self.metrics[i]:get()
    sum = sum + weights[i]
  end
  if sum == 0 then return end
  for i = 1, n do weights[i] = sum - weights[i] end
  local scale = pairwise_sum(weights, 1, n)
  for i = 1, n do predictions[i] = predictions[i] * (weights[i] / scale) end
end

--- The median or mean of the trees' predictions; 0 before the first sample.
---@param row river.embedded.Row
---@return number
function ARFRegressor:predict_one(row)
  if #self.trees == 0 then
    plant(self, row)
    return 0.0
  end
  local predictions, n = {}, self.n_models
  for i = 1, n do predictions[i] = self.trees[i]:predict_one(row) + 0.0 end
  if self.aggregation_method == "mean" then
    if not self.disable_weighted_vote then weigh(self, predictions) end
    return pairwise_sum(predictions, 1, n) / n
  end
  for i = 1, n do
    if predictions[i] ~= predictions[i] then return predictions[i] end
  end
  table.sort(predictions)
  local middle = n // 2
  if n % 2 == 1 then return predictions[middle + 1] end
  return (predictions[middle] + predictions[middle + 1]) / 2
end

return {ARFClassifier = ARFClassifier, ARFRegressor = ARFRegressor}
