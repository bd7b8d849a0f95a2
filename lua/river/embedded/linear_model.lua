--- Generalized linear models. The numbers are kept and changed in src/river_linear.c.

local core = require "riverlua.core.river"
local python = require "river.embedded.python"
local registry = require "river.embedded.registry"
local stage = require "river.embedded.stage"

local None = python.None

-- Both regressions share the parameters and differ in their default loss and in what they predict.
local function parameters(loss)
  return {
    {"optimizer", None, kind = "optimizer", make = "river.optim.SGD"},
    {"loss", None, kind = "loss", make = loss},
    {"l2", 0.0, kind = "number"},
    {"l1", 0.0, kind = "number"},
    {"intercept_init", 0.0, kind = "number"},
    {"intercept_lr", 0.01, kind = "number|scheduler", wrap = "river.optim.schedulers.Constant"},
    {"clip_gradient", 1e12, kind = "number"},
    {"initializer", None, kind = "initializer", make = "river.optim.initializers.Zeros"},
  }
end

local GLM = {save = stage.save, load = stage.load}

function GLM:init()
  if self.l1 ~= 0 and self.l2 ~= 0 then
    python.raise("NotImplementedError",
      "The joint use of L1 and L2 penalties is currently not explicitly supported!")
  end
  self:open()
end

function GLM:open()
  local loss, a, b = self.loss:terms()
  self.kernel = core.linear({
    l1 = self.l1, l2 = self.l2, clip_gradient = self.clip_gradient, intercept = self.intercept_init,
    initial = self.initializer:initial(),
  }, self.optimizer.kernel, loss, a, b, self.intercept_lr:terms())
end

--- What `riverlua.core.river.pipeline` takes as its last stage for a flavor; nil when it would not do.
---@param flavor string
---@return userdata|nil
function GLM:fusible(flavor)
  local refuses = self.loss.exponential or self.l1 ~= 0 and not self.optimizer.lr
  return flavor == self.fusible_flavor and not refuses and self.kernel or nil
end

local function refuse()
  python.raise("TypeError", "VectorDict values must be real numbers")
end

--- Raises what Python would for a target that cannot be learned from.
---@param y any
---@param inner boolean|nil true inside a pipeline, which always hands a target on
function GLM:check_target(y, inner)
  python.needs_target("GLM", y, inner)
  self.loss:check_target(y)
end

--- The prediction that the linear combination stands for.
---@param row river.embedded.Row
---@return number
function GLM:mean(row)
  if row.other then refuse() end
  local prediction, raw = self.kernel:predict(row, row.keys)
  if self.loss.exponential then self.loss:check_exponent(raw) end
  return prediction
end

--- Learns from one sample. `check_target` has been passed.
---@param row river.embedded.Row
---@param y any
---@param w number|nil weight of the sample, default 1
function GLM:learn_one(row, y, w)
  if row.other then refuse() end
  local loss = self.loss
  if loss.exponential then self:mean(row) end
  self.kernel:learn(row, row.keys, loss:number(y), w)
  if self.l1 ~= 0 and not self.optimizer.lr then
    python.raise("AttributeError", "'%s' object has no attribute 'lr'", self.optimizer.name)
  end
end

function GLM:state(pickle)
  local learned = self.kernel:get()
  local list = {
    {"intercept", learned.intercept},
    {"_weights", pickle.object("river.utils.VectorDict", {pickle.dict(stage.pairs(learned.names, learned[1]))})},
  }
  if self.l1 ~= 0 then
    list[3] = {"max_cum_l1", learned.max_cum_l1}
    list[4] = {"cum_l1", pickle.object("river.utils.VectorDict",
      {pickle.dict(stage.pairs(learned.names, learned[2])), pickle.object("river.optim.initializers.Zeros")})}
  end
  return list
end

function GLM:restore(state)
  local pickle = require "river.embedded.pickle"
  local names, place_of, columns = {}, {}, {{}, {}}
  local function read(node, values)
    for _, pair in ipairs(stage.dict_of(node)) do
      local name = pickle.name(pair[1])
      if not place_of[name] then
        names[#names + 1] = name
        place_of[name] = #names
      end
      values[place_of[name]] = pickle.number(pair[2])
    end
  end
  local penalized = self.l1 ~= 0
  read(state._weights, columns[1])
  if penalized then read(state.cum_l1, columns[2]) end
  local initial = self.initializer:initial()
  for i = 1, #names do   -- one list may know features that the other does not
    columns[1][i] = columns[1][i] or (type(initial) == "number" and initial or initial())
    columns[2][i] = columns[2][i] or 0.0
  end
  self.kernel:set{names = names, intercept = pickle.number(state.intercept),
    max_cum_l1 = penalized and pickle.number(state.max_cum_l1) or 0, columns[1], columns[2]}
end

-- A class of its own with the shared methods.
local function define(name, loss, flavor, extra)
  local class = registry.class{class = "river.linear_model." .. name, role = "estimator", supervised = true,
    params = parameters(loss), fusible_flavor = flavor}
  for method, body in pairs(GLM) do class[method] = body end
  for method, body in pairs(extra) do class[method] = body end
  return class
end

local LinearRegression = define("LinearRegression", "river.optim.losses.Squared", "regression", {
  predict_one = GLM.mean,
})

-- The order in which the library lists its two labels.
local LABELS = {false, true}

local LogisticRegression = define("LogisticRegression", "river.optim.losses.Log", "binary", {
  predict_proba_one = function(self, row)
    local p = self:mean(row)
    return {[false] = 1.0 - p, [true] = p}, LABELS
  end,
  predict_one = function(self, row)
    local p = self:mean(row)
    return p > 1.0 - p
  end,
})

return {LinearRegression = LinearRegression, LogisticRegression = LogisticRegression}
