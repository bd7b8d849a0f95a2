--- Softmax regression: weights for every label, probabilities in proportion to the exponentials of their sums.

local label_book = require "river.embedded.label_book"
local python = require "river.embedded.python"
local registry = require "river.embedded.registry"
local slots = require "river.embedded.slots"
local stage = require "river.embedded.stage"

local None = python.None

-- A probability away from 0 and 1, as the loss takes it.
local LOWEST, HIGHEST = 1e-15, 1 - 1e-15

local CrossEntropy = registry.class{
  class = "river.optim.losses.CrossEntropy", role = "multiclass_loss",
  params = {{"class_weight", None, kind = "dict", optional = true}},
}

function CrossEntropy:init()
  self.weight_of = {}
  if self.class_weight == None then self.class_weight = {} end
  for _, pair in ipairs(self.class_weight) do self.weight_of[python.label_key(pair[1])] = pair[2] end
end

function CrossEntropy:describe()
  local weights = {}
  for _, pair in ipairs(self.class_weight) do weights[python.str(pair[1])] = pair[2] end
  return {class_weight = weights}
end

--- The gradient for one label.
---@param label any
---@param p number its probability
---@param is_truth boolean whether it is the true one
---@return number
function CrossEntropy:gradient(label, p, is_truth)
  p = math.max(math.min(p, HIGHEST), LOWEST)
  return (self.weight_of[python.label_key(label)] or 1.0) * (p - (is_truth and 1 or 0))
end

local SoftmaxRegression = registry.class{
  class = "river.linear_model.SoftmaxRegression", role = "estimator", supervised = true, transient = {"caches"},
  params = {
    {"optimizer", None, kind = "optimizer", make = "river.optim.SGD"},
    {"loss", None, kind = "multiclass_loss", make = "river.optim.losses.CrossEntropy"},
    {"l2", 0, kind = "number"},
  },
}

-- Per label its own weights and optimizer.
function SoftmaxRegression:init()
  self.labels, self.parts = label_book.new(), {}
  self:revive()
end

function SoftmaxRegression:revive()
  self.caches = {}
  for i = 1, #self.parts do self.caches[i] = slots.cache() end
end

function SoftmaxRegression:check_target(y, inner)
  label_book.check(self.name, y, inner)
end

local function add_part(self, place)
  self.parts[place] = {space = slots.space(), weights = {}, optimizer = registry.clone(self.optimizer)}
  self.parts[place].optimizer.names = self.parts[place].space.names
  self.caches[place] = slots.cache()
end

-- Probabilities by place; the sum runs over the shorter one of weights and sample.
local function probabilities(self, row)
  local keys, values, highest = row.keys, {}, nil
  for i, part in ipairs(self.parts) do
    local plan = slots.plan(part.space, self.caches[i], keys)
    local value = slots.dot(row, plan, part.space.n < keys.n and plan.ordered or plan.present,
      part.weights, slots.WEIGHT_FIRST)
    values[i] = value
    if not highest or value > highest then highest = value end
  end
  local total = 0.0
  for i = 1, #values do
    values[i] = math.exp(values[i] - highest)
    total = total + values[i]
  end
  for i = 1, #values do values[i] = values[i] / total end
  return values
end

---@param row river.embedded.Row
---@return table<any, number> probabilities by label
---@return any[] order
function SoftmaxRegression:predict_proba_one(row)
  local values, probs, order = probabilities(self, row), {}, {}
  for i, label in ipairs(self.labels.list) do probs[label], order[i] = values[i], label end
  return probs, order
end

function SoftmaxRegression:predict_one(row)
  return label_book.likeliest(self:predict_proba_one(row))
end

-- Nesterov's momentum moves all weights before the prediction, and back before its step.
local function look_ahead(part)
  if part.optimizer.name ~= "NesterovMomentum" then return end
  part.before = table.move(part.weights, 1, part.space.n, 1, {})
  part.optimizer:look_ahead(part.weights, part.space.n)
end

-- The step moves back the weights of the sample's features only.
local function move_back(part, plan, n)
  local before = part.before
  if not before then return end
  for i = 1, n do before[plan[i]] = nil end
  for slot, weight in pairs(before) do part.weights[slot] = weight end
  part.before = nil
end

local function step(self, place, row, slope)
  local part, keys, l2 = self.parts[place], row.keys, self.l2
  local known = slots.plan(part.space, self.caches[place], keys)
  local weights, gradient = part.weights, {}
  for i = 1, keys.n do gradient[i] = row[i] * slope + l2 * (known[i] and weights[known[i]] or 0) end
  local plan = slots.make_room(part.space, self.caches[place], keys, weights)
  part.optimizer:step(weights, plan, gradient, keys.n)
  move_back(part, plan, keys.n)
end

---@param row river.embedded.Row
---@param y any
function SoftmaxRegression:learn_one(row, y)
  slots.check_numbers(row)
  for _, part in ipairs(self.parts) do look_ahead(part) end
  local values = probabilities(self, row)
  local truth, added = label_book.add(self.labels, y)
  if added then add_part(self, truth) end
  local loss = self.loss
  for i, label in ipairs(self.labels.list) do
    step(self, i, row, loss:gradient(label, values[i] or 0.0, i == truth))
  end
end

-- --------------------------------------------------------------------------------------------------------- state

function SoftmaxRegression:state(pickle)
  local number = pickle.reference("builtins.float")
  local weights, optimizers = {}, {}
  for i, label in ipairs(self.labels.list) do
    local part = self.parts[i]
    weights[i] = {label, stage.float_dict(pickle, part.space.names, part.weights, number)}
    optimizers[i] = {label, part.optimizer:dump()}
  end
  local new_weights = pickle.object("collections.defaultdict", {number}, {partial = true})
  local new_optimizer = pickle.object("copy.deepcopy", {self.optimizer:dump()}, {partial = true})
  return {
    {"weights", pickle.object("collections.defaultdict", {new_weights, pickle.dict(weights)})},
    {"optimizers", pickle.object("collections.defaultdict", {new_optimizer, pickle.dict(optimizers)})},
  }
end

-- An optimizer gives its slots in the order in which it reads the names of its own columns: so must the weights.
local function restore_optimizer(part, node)
  local optimizer = registry.build(node)
  for _, name in ipairs(optimizer.columns) do
    for _, pair in ipairs(stage.dict_of(node.state and node.state[name])) do
      local slot, added = slots.add(part.space, pair[1])
      if added then part.weights[slot] = 0.0 end
    end
  end
  part.optimizer, optimizer.names = optimizer, part.space.names
end

function SoftmaxRegression:restore(state)
  if state.weights == nil then return end
  local optimizers = {}
  for _, pair in ipairs(stage.dict_of(state.optimizers)) do optimizers[python.label_key(pair[1])] = pair[2] end
  for _, pair in ipairs(stage.dict_of(state.weights)) do
    local place = label_book.add(self.labels, pair[1])
    add_part(self, place)
    local part, optimizer = self.parts[place], optimizers[python.label_key(pair[1])]
    if optimizer then restore_optimizer(part, optimizer) end
    slots.restore(part.space, part.weights, stage.dict_of(pair[2]))
  end
end

return {SoftmaxRegression = SoftmaxRegression}
