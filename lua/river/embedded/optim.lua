--- Optimizers, learning rate schedules and weight initializers. The formulas are in src/river_linear.c.

local core = require "riverlua.core.river"
local python = require "river.embedded.python"
local registry = require "river.embedded.registry"
local stage = require "river.embedded.stage"

local optim = {}

-- Schedules: `get(t)` is the learning rate of iteration t; `terms()` gives the three values that the kernel takes.

local Constant = registry.class{
  class = "river.optim.schedulers.Constant", role = "scheduler",
  params = {{"learning_rate", kind = "number", required = true}},
}

function Constant:get() return self.learning_rate end

function Constant:terms() return "constant", self.learning_rate, 0 end

local InverseScaling = registry.class{
  class = "river.optim.schedulers.InverseScaling", role = "scheduler",
  params = {{"learning_rate", kind = "number", required = true}, {"power", 0.5, kind = "number"}},
}

function InverseScaling:get(t)
  return self.learning_rate / (t + 1) ^ self.power
end

function InverseScaling:terms() return "inverse", self.learning_rate, self.power end

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

function Optimal:terms() return "optimal", self.alpha, self.t0 end

-- Initializers: `initial()` is what the kernel takes as the weight of a feature seen for the first time, a number or a
-- function.

local Zeros = registry.class{class = "river.optim.initializers.Zeros", role = "initializer"}

function Zeros.initial() return 0.0 end

local ConstantWeight = registry.class{
  class = "river.optim.initializers.Constant", role = "initializer",
  params = {{"value", kind = "number", required = true}},
}

function ConstantWeight:initial() return self.value + 0.0 end

--- Weights from a normal distribution: equal to the library's in distribution, not number by number (it takes them from
--- NumPy's generator).
local Normal = registry.class{
  class = "river.optim.initializers.Normal", role = "initializer",
  params = {{"mu", 0.0, kind = "number"}, {"sigma", 1.0, kind = "number"},
    {"seed", python.None, kind = "integer", optional = true}},
}

function Normal:init() self.random = require("river.embedded.random").new(self.seed) end

function Normal:initial()
  return function() return self.random:gauss(self.mu, self.sigma) end
end

-- --------------------------------------------------------------------------------------------------- optimizers

local Optimizer = {}

function Optimizer:init() self:open() end

function Optimizer:open()
  local list = {}
  for i, name in ipairs(self.kernel_params) do
    local value = self[name]
    if type(value) == "boolean" then value = value and 1 or 0 end
    list[i] = value
  end
  if self.bounded then list[#list + 1] = self.lr:get(0) end
  -- Two of them have no rate of their own.
  local kind, a, b = "constant", 0, 0
  if self.lr then kind, a, b = self.lr:terms() end
  self.kernel = core.optimizer(self.name, list, kind, a, b)
end

--- The current learning rate.
---@return number
function Optimizer:learning_rate() return self.kernel:rate() end

--- One step: changes weights[plan[i]] by gradient[i], as the library does with dictionaries of weights.
---@param weights number[]
---@param plan integer[] from 1; slots of this optimizer's own state, too
---@param gradient number[]
---@param n integer
function Optimizer:step(weights, plan, gradient, n)
  self.stepped = true
  self.kernel:step(weights, plan, gradient, n)
end

--- What some optimizers do to the weights before the prediction whose gradient is taken.
---@param weights number[]
---@param n integer
function Optimizer:look_ahead(weights, n) self.kernel:look_ahead(weights, nil, n) end

-- A column by the names of its slots. On dictionaries of weights, and in some optimizers always, the library keeps a
-- dictionary, otherwise a vector.
local function column(self, pickle, names, values)
  if not self.vectors or self.stepped then return stage.float_dict(pickle, names, values) end
  return pickle.object("river.utils.VectorDict", {pickle.dict(stage.pairs(names, values))})
end

--- What was learned, for a pickle. Who calls `step` sets the field `names`, the names of the slots.
---@param pickle table
function Optimizer:state(pickle)
  local learned = self.kernel:get()
  local list = {{"n_iterations", learned.n_iterations}}
  if self.bounded then list[2] = {"final_lr", learned.final_lr} end
  -- These columns are None until the first step.
  if self.vectors and learned.n_iterations == 0 then return list end
  for i, name in ipairs(self.columns) do
    list[#list + 1] = {name, column(self, pickle, self.names or learned.names, learned[i])}
  end
  return list
end

function Optimizer:restore(state)
  if state.n_iterations == nil then return end
  local pickle = require "river.embedded.pickle"
  local saved = {n_iterations = pickle.number(state.n_iterations), names = {}, final_lr = self.final_lr}
  local place_of = {}
  for k, name in ipairs(self.columns) do
    local values, node = {}, state[name]
    saved[k] = values
    if self.vectors and type(node) == "table" and node.class == "collections.defaultdict" then self.stepped = true end
    for _, pair in ipairs(stage.dict_of(node)) do
      local feature = pickle.name(pair[1])
      if not place_of[feature] then
        place_of[feature] = #saved.names + 1
        saved.names[#saved.names + 1] = feature
      end
      values[place_of[feature]] = pickle.number(pair[2])
    end
  end
  for k in ipairs(self.columns) do
    for i = 1, #saved.names do saved[k][i] = saved[k][i] or 0.0 end
  end
  if state.final_lr ~= nil then saved.final_lr = pickle.number(state.final_lr) end
  self.kernel:set(saved)
end

Optimizer.save, Optimizer.load = stage.save, stage.load

-- `defaults`: pairs of name and default, in the order of the constructor; "lr" is the learning rate.
local function define(name, defaults, columns, extra)
  local params, kernel_params = {}, {}
  for _, pair in ipairs(defaults) do
    local parameter = {pair[1], pair[2], kind = type(pair[2])}
    if pair[1] == "lr" then
      parameter.kind, parameter.wrap = "number|scheduler", "river.optim.schedulers.Constant"
    else
      kernel_params[#kernel_params + 1] = pair[1]
    end
    params[#params + 1] = parameter
  end
  local class = registry.class{class = "river.optim." .. name, role = "optimizer", params = params}
  for method, body in pairs(Optimizer) do class[method] = body end
  class.kernel_params, class.columns = kernel_params, columns
  for key, value in pairs(extra or {}) do class[key] = value end
  optim[name] = class
end

local BETA_1, BETA_2, EPS = {"beta_1", 0.9}, {"beta_2", 0.999}, {"eps", 1e-8}

define("AdaBound", {{"lr", 1e-3}, BETA_1, BETA_2, EPS, {"gamma", 1e-3}, {"final_lr", 0.1}}, {"m", "v"},
  {bounded = true})
define("AdaDelta", {{"rho", 0.95}, EPS}, {"g2", "s2"})
define("AdaGrad", {{"lr", 0.1}, EPS}, {"g2"})
define("AdaMax", {{"lr", 0.1}, BETA_1, BETA_2, EPS}, {"m", "u"})
define("Adam", {{"lr", 0.1}, BETA_1, BETA_2, EPS}, {"m", "v"}, {vectors = true})
define("AMSGrad", {{"lr", 0.1}, BETA_1, BETA_2, EPS, {"correct_bias", true}}, {"m", "v", "v_hat"})
define("FTRLProximal", {{"alpha", 0.05}, {"beta", 1.0}, {"l1", 0.0}, {"l2", 1.0}}, {"z", "n"})
define("Momentum", {{"lr", 0.1}, {"rho", 0.9}}, {"s"})
define("Nadam", {{"lr", 0.1}, BETA_1, BETA_2, EPS}, {"m", "v"})
define("NesterovMomentum", {{"lr", 0.1}, {"rho", 0.9}}, {"s"})
define("RMSProp", {{"lr", 0.1}, {"rho", 0.9}, EPS}, {"g2"}, {vectors = true})
define("SGD", {{"lr", 0.01}}, {})

return optim
