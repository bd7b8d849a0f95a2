--- Anomaly detection: `score_one` tells how unusual a sample is, a high score means unusual. Over a server the scores
-- are predictions of the flavor "custom" (`river.with_score_as_prediction`).

local errors = require "riverlua.errors"
local python = require "river.embedded.python"
local random = require "river.embedded.random"
local registry = require "river.embedded.registry"
local stats = require "river.embedded.stats"

local abs, exp, sqrt = math.abs, math.exp, math.sqrt
local None = python.None

local function define(name, supervised, params, fields)
  local class = registry.class{class = "river.anomaly." .. name, role = "estimator", supervised = supervised,
    anomaly_detector = true, params = params}
  for key, value in pairs(fields or {}) do class[key] = value end
  return class
end

-- Those that learn without a target refuse one; a pipeline keeps it from them.
local function takes_no_target(self, y, inner)
  if not inner then python.takes_no_target(self.name, y) end
end

-- Those that look at the target need a number.
local function takes_number(self, y, inner)
  python.needs_target(self.name, y, inner)
  if type(y) ~= "number" and type(y) ~= "boolean" then
    python.raise("TypeError", "unsupported operand type(s) for -: '%s' and 'float'", python.type_name(y))
  end
end

local function number(self, y)
  if y == true then return 1 elseif y == false then return 0 end
  if y == nil then
    python.raise("TypeError", "%s.score_one() missing 1 required positional argument: 'y'", self.name)
  end
  return y
end

-- ----------------------------------------------------------------------------------------------- half-space trees

--- Random trees that halve the space, and the share of samples in each half (Tan, Ting and Liu, 2011). With a seed the
--- trees are the library's.
---@class river.embedded.HalfSpaceTrees
---@field trees table[] each a full binary tree: `feature` (number in `features`), `threshold`, the masses of the window
--- being filled (`left`) and of the last one (`right`), by the number of the node; the children of i are 2i and 2i + 1
local HalfSpaceTrees = define("HalfSpaceTrees", false, {
  {"n_trees", 10, kind = "integer"},
  {"height", 8, kind = "integer"},
  {"window_size", 250, kind = "integer"},
  {"limits", None, kind = "dict", optional = true},
  {"seed", None, kind = "integer", optional = true},
}, {check_target = takes_no_target, transient = {"places", "places_keys"}})

function HalfSpaceTrees:init()
  self.rng = random.new(self.seed)
  self.trees, self.features, self.counter, self.first_window = {}, {}, 0, true
  self.limit_of = {}
  for _, pair in ipairs(self.limits ~= None and self.limits or {}) do
    local limit = pair[2]
    if type(limit) ~= "table" or type(limit[1]) ~= "number" or type(limit[2]) ~= "number" then
      errors.raise{kind = "argument", message = "HalfSpaceTrees: limits must hold pairs of numbers"}
    end
    self.limit_of[pair[1]] = {limit[1], limit[2]}
  end
end

local PADDING = 0.15

-- Splits below node `i` at random: a feature by the width of its range, a place not too near to its ends.
local function grow(self, tree, lows, highs, i, height)
  tree.left[i], tree.right[i] = 0, 0
  if height == 0 then return end
  local numbers, widths = {}, {}
  for k = 1, #lows do numbers[k], widths[k] = k, highs[k] - lows[k] end
  local on = self.rng:choices(numbers, widths)[1]
  local a, b = lows[on], highs[on]
  local at = self.rng:uniform(a + PADDING * (b - a), b - PADDING * (b - a))
  tree.feature[i], tree.threshold[i] = on, at
  highs[on] = at
  grow(self, tree, lows, highs, 2 * i, height - 1)
  lows[on], highs[on] = at, b
  grow(self, tree, lows, highs, 2 * i + 1, height - 1)
  lows[on] = a
end

local function plant(self, keys)
  for k = 1, keys.n do self.features[k] = keys[k] end
  table.sort(self.features)
  for t = 1, self.n_trees do
    local lows, highs = {}, {}
    for k, name in ipairs(self.features) do
      local limit = self.limit_of[name]
      lows[k], highs[k] = limit and limit[1] or 0.0, limit and limit[2] or 1.0
    end
    local tree = {feature = {}, threshold = {}, left = {}, right = {}}
    grow(self, tree, lows, highs, 1, self.height)
    self.trees[t] = tree
  end
end

-- Where in a row the features are.
local function places_of(self, keys)
  if self.places_keys == keys then return self.places end
  local places = {}
  for k, name in ipairs(self.features) do places[k] = keys.index[name] or false end
  self.places, self.places_keys = places, keys
  return places
end

-- The child that a sample belongs to; without the feature, the one that has seen more.
local function child(tree, i, row, places)
  local place = places[tree.feature[i]]
  if place then
    local value = row[place]
    if type(value) ~= "number" then
      python.raise("TypeError", "'<' not supported between instances of '%s' and 'float'", python.type_name(value))
    end
    return value < tree.threshold[i] and 2 * i or 2 * i + 1
  end
  return tree.left[2 * i] < tree.left[2 * i + 1] and 2 * i + 1 or 2 * i
end

---@param row river.embedded.Row
function HalfSpaceTrees:learn_one(row)
  if #self.trees == 0 then plant(self, row.keys) end
  local places, height = places_of(self, row.keys), self.height
  for _, tree in ipairs(self.trees) do
    local i, masses = 1, tree.left
    for _ = 1, height do
      masses[i] = masses[i] + 1
      i = child(tree, i, row, places)
    end
    masses[i] = masses[i] + 1
  end
  self.counter = self.counter + 1
  if self.counter == self.window_size then
    for _, tree in ipairs(self.trees) do
      tree.right = tree.left
      tree.left = {}
      for i = 1, #tree.right do tree.left[i] = 0 end
    end
    self.first_window, self.counter = false, 0
  end
end

-- Masses on the way down, doubled with each level; the way ends where few samples have been.
local function score_of(tree, row, places, height, few)
  local i, weight, score = 1, 1, 0.0
  for _ = 1, height do
    local mass = tree.right[i]
    score = score + mass * weight
    if mass < few then return score end
    i = child(tree, i, row, places)
    weight = weight * 2
  end
  return score + tree.right[i] * weight
end

---@param row river.embedded.Row
---@return number score 0 to 1; 0 until a window is full
function HalfSpaceTrees:score_one(row)
  if self.first_window then return 0 end
  local few, height, score = 0.1 * self.window_size, self.height, 0.0
  local places = places_of(self, row.keys)
  for _, tree in ipairs(self.trees) do score = score + score_of(tree, row, places, height, few) end
  return 1 - score / (self.n_trees * self.window_size * (2 ^ (self.height + 1) - 1))
end

-- ---------------------------------------------------------------------------------------- scores of the target alone

-- The error function: a series where its terms fall off soon, a continued fraction of what is missing to 1 elsewhere.
local function erf(x)
  if x ~= x then return x end
  local z = abs(x)
  if z > 6 then return x < 0 and -1.0 or 1.0 end
  if z < 2.5 then
    local term, sum, n = z, z, 0
    while term > sum * 1e-17 do
      n = n + 1
      term = term * 2.0 * z * z / (2 * n + 1)
      sum = sum + term
    end
    sum = 2.0 / sqrt(math.pi) * exp(-z * z) * sum
    return x < 0 and -sum or sum
  end
  local fraction = z
  for n = 60, 1, -1 do fraction = z + n / 2 / fraction end
  local result = 1.0 - exp(-z * z) / sqrt(math.pi) / fraction
  return x < 0 and -result or result
end

--- How far out in the normal distribution of the targets a target is.
local GaussianScorer = define("GaussianScorer", true, {
  {"window_size", None, kind = "integer", optional = true},
  {"grace_period", 100, kind = "integer"},
}, {check_target = takes_number})

function GaussianScorer:init()
  self.variance, self.window, self.count = stats.var(), {}, 0
end

---@param y number
function GaussianScorer:learn_one(_, y)
  y = number(self, y)
  local size = self.window_size
  if size ~= None and size ~= 0 then
    local place = self.count % size + 1
    local old = self.window[place]
    if old then self.variance:revert(old) end
    self.window[place], self.count = y, self.count + 1
  end
  self.variance:update(y)
end

---@param y number
---@return number score 0 to 1; 0 during the grace period
function GaussianScorer:score_one(_, y)
  y = number(self, y)
  local variance = self.variance
  if variance.mean.n < self.grace_period then return 0 end
  local sigma, share = variance:get() ^ 0.5, 0.0
  if sigma ~= 0 then share = 0.5 * (1.0 + erf((y - variance.mean.mean) / sigma / sqrt(2.0))) end
  return 2 * abs(share - 0.5)
end

--- How many standard deviations a target is away from the mean, or from another statistic.
local StandardAbsoluteDeviation = define("StandardAbsoluteDeviation", true, {
  {"sub_stat", None, kind = "stat", make = "river.stats.Mean"},
}, {check_target = takes_number})

function StandardAbsoluteDeviation:init() self.variance = stats.var() end

---@param y number
function StandardAbsoluteDeviation:learn_one(_, y)
  y = number(self, y)
  self.variance:update(y)
  self.sub_stat:update(y)
end

---@param y number
---@return number
function StandardAbsoluteDeviation:score_one(_, y)
  y = number(self, y)
  local center = self.sub_stat:get()
  if not center then python.raise("TypeError", "unsupported operand type(s) for -: 'float' and 'NoneType'") end
  return abs((y - center) / (self.variance:get() ^ 0.5 + 1e-10))
end

-- ------------------------------------------------------------------------------------------------- one-class SVM

--- A linear one-class support vector machine, learned by stochastic gradient descent on the hinge loss.
local OneClassSVM = define("OneClassSVM", false, {
  {"nu", 0.1, kind = "number"},
  {"optimizer", None, kind = "optimizer", make = "river.optim.SGD"},
  {"intercept_lr", 0.01, kind = "number|scheduler", wrap = "river.optim.schedulers.Constant"},
  {"clip_gradient", 1e12, kind = "number"},
  {"initializer", None, kind = "initializer", make = "river.optim.initializers.Zeros"},
}, {check_target = takes_no_target, transient = {"plan", "plan_keys", "gradient"}})

function OneClassSVM:init()
  self.intercept, self.steps = 1.0, 0
  self.weights, self.place_of, self.count = {}, {}, 0
end

-- Where the weights of a row's features are; false for a feature not yet learned from.
local function plan_of(self, keys)
  if self.plan_keys == keys then return self.plan end
  local plan, complete = {}, true
  for i = 1, keys.n do
    plan[i] = self.place_of[keys[i]] or false
    complete = complete and plan[i]
  end
  if complete then self.plan, self.plan_keys = plan, keys end
  return plan
end

local function make_room(self, keys)
  for i = 1, keys.n do
    if not self.place_of[keys[i]] then
      local initial = self.initializer:initial()
      self.count = self.count + 1
      self.place_of[keys[i]] = self.count
      self.weights[self.count] = type(initial) == "number" and initial or initial()
    end
  end
end

local function dot(self, row)
  if row.other then python.raise("TypeError", "VectorDict values must be real numbers") end
  local plan, weights, sum = plan_of(self, row.keys), self.weights, 0.0
  -- A weight not yet learned is 0, and 0 times infinity is not 0.
  for i = 1, row.keys.n do sum = sum + (weights[plan[i]] or 0.0) * row[i] end
  return sum
end

---@param row river.embedded.Row
function OneClassSVM:learn_one(row)
  local keys, optimizer = row.keys, self.optimizer
  local n, l2 = keys.n, self.nu / 2
  if row.other then dot(self, row) end
  make_room(self, keys)
  if optimizer.look_ahead then optimizer:look_ahead(self.weights, self.count) end
  local plan, weights, gradient = plan_of(self, keys), self.weights, self.gradient or {}
  self.gradient = gradient
  local slope = dot(self, row) + self.intercept <= 1.0 and -1.0 or 0.0
  slope = math.max(math.min(slope, self.clip_gradient), -self.clip_gradient)
  for i = 1, n do
    local slot = row[i] * slope
    if l2 ~= 0 then slot = slot + weights[plan[i]] * l2 end
    gradient[i] = slot
  end
  local rate = self.intercept_lr:get(self.steps)
  self.intercept = self.intercept - (rate * slope + 2.0 * rate * l2)
  optimizer:step(weights, plan, gradient, n)
  self.steps = self.steps + 1
end

---@param row river.embedded.Row
---@return number
function OneClassSVM:score_one(row)
  return dot(self, row) + self.intercept - self.intercept
end

-- ------------------------------------------------------------------------------------------------------- filters

-- A filter wraps a detector and says which scores are anomalies. In a pipeline it keeps them from what comes after.

local Filter = {anomaly_filter = true}

function Filter:init()
  if not self.anomaly_detector.score_one then self.anomaly_detector:lacks("score_one") end
  self.supervised = self.anomaly_detector.supervised or false
  if self.open then self:open() end
end

function Filter:check_target(y, inner)
  local detector = self.anomaly_detector
  if self.supervised then return detector:check_target(y, inner) end
  takes_no_target(self, y, inner)
end

---@param row river.embedded.Row
---@param y any for detectors that look at the target
---@return number
function Filter:score_one(row, y)
  if self.supervised then return self.anomaly_detector:score_one(row, y) end
  return self.anomaly_detector:score_one(row)
end

local function define_filter(name, parameter, methods)
  local class = define(name, nil, {
    {"anomaly_detector", kind = "estimator", required = true},
    parameter,
    {"protect_anomaly_detector", true, kind = "boolean"},
  }, Filter)
  for method, body in pairs(methods) do class[method] = body end
end

define_filter("ThresholdFilter", {"threshold", kind = "number", required = true}, {
  classify = function(self, score) return score >= self.threshold end,

  -- As in the library, a filter that does not protect its detector never lets it learn.
  learn_one = function(self, row, y)
    if self.protect_anomaly_detector and not self:classify(self:score_one(row, y)) then
      self.anomaly_detector:learn_one(row, y)
    end
  end,
})

define_filter("QuantileFilter", {"q", kind = "number", required = true}, {
  open = function(self) self.quantile = stats.quantile(self.q) end,

  classify = function(self, score)
    local limit = self.quantile:get()
    if not limit or limit == 0 then limit = math.huge end
    return score >= limit
  end,

  learn_one = function(self, row, y)
    local score = self:score_one(row, y)
    if not self.protect_anomaly_detector or not self:classify(score) then self.anomaly_detector:learn_one(row, y) end
    self.quantile:update(score)
  end,
})

return {define = define, takes_no_target = takes_no_target, takes_number = takes_number, number = number}
