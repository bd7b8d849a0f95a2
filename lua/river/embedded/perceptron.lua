--- The perceptron: a logistic regression with the hinge loss at 0 and steps of length 1.

local registry = require "river.embedded.registry"

local None = require("river.embedded.python").None

local Perceptron = registry.class{
  class = "river.linear_model.Perceptron", role = "estimator", supervised = true,
  params = {
    {"l2", 0.0, kind = "number"},
    {"clip_gradient", 1e12, kind = "number"},
    {"initializer", None, kind = "initializer", make = "river.optim.initializers.Zeros"},
  },
}

function Perceptron:init()
  local template = registry.build{class = "river.linear_model.LogisticRegression", kwargs = {
    optimizer = {class = "river.optim.SGD", args = {1, n = 1}},
    loss = {class = "river.optim.losses.Hinge", kwargs = {threshold = 0.0}},
    intercept_lr = 1,
  }}
  self.model = registry.clone(template,
    {l2 = self.l2, clip_gradient = self.clip_gradient, initializer = self.initializer})
end

function Perceptron:check_target(y, inner) return self.model:check_target(y, inner) end

function Perceptron:learn_one(row, y, w) return self.model:learn_one(row, y, w) end

function Perceptron:predict_one(row) return self.model:predict_one(row) end

function Perceptron:predict_proba_one(row) return self.model:predict_proba_one(row) end

function Perceptron:state(pickle)
  local list = self.model:state(pickle)
  -- The regression's optimizer is an argument, the perceptron's is made by its constructor.
  for _, pair in ipairs(list) do
    if pair[1] == "optimizer" then return list end
  end
  list[#list + 1] = {"optimizer", self.model.optimizer:dump()}
  return list
end

function Perceptron:restore(state)
  if state.intercept == nil then return end
  self.model:restore(state)
  local optimizer = state.optimizer
  if optimizer and optimizer.state then self.model.optimizer:restore(optimizer.state) end
end

return {Perceptron = Perceptron}
