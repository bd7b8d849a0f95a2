--- Generalized linear models.

local python = require "river.embedded.python"
local registry = require "river.embedded.registry"

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

local GLM = {}

-- Weights live in an array, one place per feature name; `plan` says where those of `plan_keys` are.
function GLM:init()
  if self.l1 ~= 0 and self.l2 ~= 0 then
    python.raise("NotImplementedError",
      "The joint use of L1 and L2 penalties is currently not explicitly supported!")
  end
  self.intercept = self.intercept_init
  self.weights, self.slot_of, self.slots = {}, {}, 0
  self.plan, self.plan_keys = {}, nil
  self.gradient = {}
  if self.l1 ~= 0 then self.max_cum_l1, self.cum_l1 = 0, {} end
end

local function look_up(self, keys)
  local plan, complete = {}, true
  for i = 1, keys.n do
    plan[i] = self.slot_of[keys[i]] or false
    complete = complete and plan[i]
  end
  if complete then self.plan, self.plan_keys = plan, keys end
  return plan
end

-- New features get their initial weight when they are first learned from, never by a prediction.
local function make_room(self, keys)
  for i = 1, keys.n do
    local name = keys[i]
    if not self.slot_of[name] then
      local slot = self.slots + 1
      self.slots, self.slot_of[name] = slot, slot
      self.weights[slot] = self.initializer.value + 0.0
      if self.cum_l1 then self.cum_l1[slot] = 0.0 end
    end
  end
  return look_up(self, keys)
end

local function refuse()
  python.raise("TypeError", "VectorDict values must be real numbers")
end

--- Raises what Python would for a target that cannot be learned from.
---@param y any
---@param inner boolean|nil true inside a pipeline, which always hands a target on
function GLM:check_target(y, inner)
  if y == nil and not inner then
    python.raise("TypeError", "GLM.learn_one() missing 1 required positional argument: 'y'")
  end
  self.loss:check_target(y)
end

--- The linear combination.
---@param row river.embedded.Row
---@return number
function GLM:raw_dot(row)
  if row.other then refuse() end
  local keys, weights = row.keys, self.weights
  local plan = self.plan_keys == keys and self.plan or look_up(self, keys)
  local sum = 0.0
  for i = 1, keys.n do
    local slot = plan[i]
    if slot then sum = sum + weights[slot] * row[i] end
  end
  return sum + self.intercept
end

-- The cumulative penalty (Tsuruoka's), feature by feature after the step.
local function penalize(self, plan, n)
  local weights, cum_l1 = self.weights, self.cum_l1
  self.max_cum_l1 = self.max_cum_l1 + self.l1 * self.optimizer:learning_rate()
  for i = 1, n do
    local slot = plan[i]
    local before = weights[slot]
    local after = before
    if before > 0 then
      after = before - (self.max_cum_l1 + cum_l1[slot])
      if after <= 0 then after = 0.0 end
    elseif before < 0 then
      after = before + (self.max_cum_l1 - cum_l1[slot])
      if after >= 0 then after = 0.0 end
    end
    weights[slot] = after
    cum_l1[slot] = cum_l1[slot] + (after - before)
  end
end

--- Learns from one sample. `check_target` has been passed.
---@param row river.embedded.Row
---@param y number|boolean
function GLM:learn_one(row, y)
  if row.other then refuse() end
  local keys, weights, optimizer = row.keys, self.weights, self.optimizer
  local n = keys.n
  local plan = self.plan_keys == keys and self.plan or make_room(self, keys)
  local sum = 0.0
  for i = 1, n do sum = sum + weights[plan[i]] * row[i] end
  local slope = self.loss:gradient(y, sum + self.intercept) * 1.0
  local limit = self.clip_gradient
  if slope > limit then slope = limit end
  if slope < -limit then slope = -limit end
  local rate = self.intercept_lr.value or self.intercept_lr:get(optimizer.n_iterations)
  self.intercept = self.intercept - rate * slope
  local gradient, l2 = self.gradient, self.l2
  if l2 ~= 0 then
    for i = 1, n do gradient[i] = row[i] * slope + weights[plan[i]] * l2 end
  else
    for i = 1, n do gradient[i] = row[i] * slope end
  end
  optimizer:step(weights, plan, gradient, n)
  if self.cum_l1 then penalize(self, plan, n) end
end

local function weight_pairs(self, values, pickle)
  local list = {}
  for name, slot in pairs(self.slot_of) do list[slot] = {name, values[slot]} end
  return pickle.dict(list)
end

function GLM:state(pickle)
  local list = {
    {"intercept", self.intercept},
    {"_weights", pickle.object("river.utils.VectorDict", {weight_pairs(self, self.weights, pickle)})},
  }
  if self.cum_l1 then
    list[3] = {"max_cum_l1", self.max_cum_l1}
    list[4] = {"cum_l1", pickle.object("river.utils.VectorDict", {weight_pairs(self, self.cum_l1, pickle),
      pickle.object("river.optim.initializers.Zeros")})}
  end
  return list
end

function GLM:restore(state)
  local pickle = require "river.embedded.pickle"
  self.intercept = pickle.number(state.intercept)
  local function read(target, dict)
    for _, pair in ipairs(dict) do
      local name = pickle.name(pair[1])
      local slot = self.slot_of[name]
      if not slot then
        slot = self.slots + 1
        self.slots, self.slot_of[name] = slot, slot
      end
      target[slot] = pickle.number(pair[2])
    end
  end
  read(self.weights, state._weights.args[1])
  if self.cum_l1 then
    self.max_cum_l1 = pickle.number(state.max_cum_l1)
    read(self.cum_l1, state.cum_l1.args[1])
    -- One list may know features that the other does not.
    for slot = 1, self.slots do
      self.weights[slot] = self.weights[slot] or self.initializer.value + 0.0
      self.cum_l1[slot] = self.cum_l1[slot] or 0.0
    end
  end
end

-- A class of its own with the shared methods.
local function define(name, loss, extra)
  local class = registry.class{class = "river.linear_model." .. name, role = "estimator", supervised = true,
    params = parameters(loss)}
  for method, body in pairs(GLM) do class[method] = body end
  for method, body in pairs(extra) do class[method] = body end
  return class
end

local LinearRegression = define("LinearRegression", "river.optim.losses.Squared", {
  predict_one = function(self, row) return self.loss:mean(self:raw_dot(row)) end,
})

local LogisticRegression = define("LogisticRegression", "river.optim.losses.Log", {
  predict_proba_one = function(self, row)
    local p = self.loss:mean(self:raw_dot(row))
    return {[false] = 1.0 - p, [true] = p}
  end,
  predict_one = function(self, row)
    local p = self.loss:mean(self:raw_dot(row))
    return p > 1.0 - p
  end,
})

return {LinearRegression = LinearRegression, LogisticRegression = LogisticRegression}
