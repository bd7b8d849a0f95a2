--- Optimizers, learning rate schedules and weight initializers.

local registry = require "river.embedded.registry"

local optim = {}

-- Schedules: `get(t)` is the learning rate of iteration t; `value` is set where it never changes.

local ConstantRate = registry.class{
  class = "river.optim.schedulers.Constant", role = "scheduler",
  params = {{"learning_rate", kind = "number", required = true}},
}

function ConstantRate:init() self.value = self.learning_rate end

function ConstantRate:get() return self.learning_rate end

local InverseScaling = registry.class{
  class = "river.optim.schedulers.InverseScaling", role = "scheduler",
  params = {{"learning_rate", kind = "number", required = true}, {"power", 0.5, kind = "number"}},
}

function InverseScaling:get(t)
  return self.learning_rate / (t + 1) ^ self.power
end

local Optimal = registry.class{
  class = "river.optim.schedulers.Optimal", role = "scheduler",
  params = {{"loss", kind = "loss", required = true}, {"alpha", 1e-4, kind = "number"}},
}

function Optimal:init()
  local typical = (1.0 / self.alpha ^ 0.5) ^ 0.5
  local eta = typical / math.max(1.0, self.loss:gradient(true, -typical))
  self.t0 = 1.0 / (eta * self.alpha)
end

function Optimal:get(t)
  return 1.0 / (self.alpha * (self.t0 + t))
end

-- Initializers: `value` is the weight of a feature seen for the first time.

registry.class{
  class = "river.optim.initializers.Zeros", role = "initializer", value = 0.0,
}

registry.class{
  class = "river.optim.initializers.Constant", role = "initializer",
  params = {{"value", kind = "number", required = true}},
}

-- Optimizers: `step(weights, plan, gradient, n)` changes weights[plan[i]] by gradient[i].

local SGD = registry.class{
  class = "river.optim.SGD", role = "optimizer",
  params = {{"lr", 0.01, kind = "number|scheduler", wrap = "river.optim.schedulers.Constant"}},
}

function SGD:init() self.n_iterations = 0 end

function SGD:state() return {{"n_iterations", self.n_iterations}} end

function SGD:restore(state)
  self.n_iterations = require("river.embedded.pickle").number(state.n_iterations)
end

--- The current learning rate.
function SGD:learning_rate()
  local lr = self.lr
  return lr.value or lr:get(self.n_iterations)
end

function SGD:step(weights, plan, gradient, n)
  local rate = self:learning_rate()
  for i = 1, n do
    local slot = plan[i]
    weights[slot] = weights[slot] - gradient[i] * rate
  end
  self.n_iterations = self.n_iterations + 1
end

optim.SGD = SGD
return optim
