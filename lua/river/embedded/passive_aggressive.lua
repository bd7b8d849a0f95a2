--- Passive-aggressive learning (Crammer et al., 2006). The length of a sample is a plain sum here and a vectorized one
-- in the library, so the last bit may differ.

local label_book = require "river.embedded.label_book"
local losses = require "river.embedded.losses"
local python = require "river.embedded.python"
local registry = require "river.embedded.registry"
local slots = require "river.embedded.slots"
local stage = require "river.embedded.stage"

local power = require("riverlua.core.math").pow

local PA = {}

function PA:init()
  if self.mode ~= 0 and self.mode ~= 1 and self.mode ~= 2 then
    python.raise("KeyError", tostring(self.mode))
  end
  self.space, self.weights, self.intercept = slots.space(), {}, 0.0
  self:revive()
end

function PA:revive()
  self.cache = slots.cache()
end

local function raw(self, row)
  return slots.product(self.space, self.cache, row, self.weights, self.words) + self.intercept
end

-- Texts cannot become a vector, None cannot be multiplied.
local function check_vector(row)
  for i = 1, row.keys.n do
    if type(row[i]) == "string" then
      python.raise("ValueError", "could not convert string to float: np.str_(%s)", python.quote(row[i]))
    end
  end
  local kind = python.type_name(row[row.other])
  python.raise("TypeError", "unsupported operand type(s) for *: '%s' and '%s'", kind, kind)
end

local function squared_length(row)
  if row.other then check_vector(row) end
  local sum = 0.0
  for i = 1, row.keys.n do sum = sum + row[i] * row[i] end
  return power(math.sqrt(sum), 2)
end

-- How far to go; the three variants of the paper.
local function step_size(self, row, loss)
  local squared = squared_length(row)
  if self.mode == 2 then return loss / (squared + 0.5 / self.C) end
  if squared > 0 then
    local tau = loss / squared
    if self.mode == 0 or tau < self.C then return tau end
    return self.C
  end
  return 0
end

local function advance(self, row, step)
  local keys, weights = row.keys, self.weights
  local plan = slots.make_room(self.space, self.cache, keys, weights)
  for i = 1, keys.n do
    local slot = plan[i]
    weights[slot] = weights[slot] + step * row[i]
  end
  if self.learn_intercept then self.intercept = self.intercept + step end
end

-- The losses compute `y * 2 - 1`.
function PA:check_target(y, inner)
  python.needs_target(self.name, y, inner)
  if type(y) == "number" or type(y) == "boolean" then return end
  local kind = python.type_name(y)
  local sequence = kind == "str" or kind == "list"
  python.raise("TypeError", "unsupported operand type(s) for %s: '%s' and 'int'", sequence and "-" or "*", kind)
end

local function number_of(y)
  if y == true then return 1 elseif y == false then return 0 end
  return y
end

function PA:state(pickle)
  return {
    {"weights", stage.float_dict(pickle, self.space.names, self.weights)},
    {"intercept", self.intercept},
  }
end

function PA:restore(state)
  if state.weights == nil then return end
  slots.restore(self.space, self.weights, state.weights.args[2] or {})
  self.intercept = require("river.embedded.pickle").number(state.intercept)
end

local function define(name, params, methods)
  local class = registry.class{class = "river.linear_model." .. name, role = "estimator", supervised = true,
    params = params, transient = {"cache"}}
  for method, body in pairs(PA) do class[method] = body end
  for method, body in pairs(methods) do class[method] = body end
  return class
end

local PARegressor = define("PARegressor", {
  {"C", 1.0, kind = "number"}, {"mode", 1, kind = "integer"}, {"eps", 0.1, kind = "number"},
  {"learn_intercept", true, kind = "boolean"},
}, {
  words = slots.NUMPY_WEIGHTS,
  predict_one = raw,
  learn_one = function(self, row, y)
    y = number_of(y)
    local prediction = raw(self, row)
    -- The library's loss takes the target for a label of 0 or 1 and maps it to -1 or 1, whatever it is.
    local loss = math.abs(prediction - (y * 2 - 1)) - self.eps
    if loss < 0 then loss = 0 end
    local difference = y - prediction
    local sign = difference > 0 and 1 or difference < 0 and -1 or difference
    advance(self, row, step_size(self, row, loss) * sign)
  end,
})

local PAClassifier = define("PAClassifier", {
  {"C", 1.0, kind = "number"}, {"mode", 1, kind = "integer"}, {"learn_intercept", true, kind = "boolean"},
}, {
  predict_proba_one = function(self, row)
    local p = losses.sigmoid(raw(self, row))
    return {[false] = 1.0 - p, [true] = p}, {false, true}
  end,
  predict_one = function(self, row)
    return label_book.likeliest(self:predict_proba_one(row))
  end,
  learn_one = function(self, row, y)
    y = number_of(y)
    local loss = 1.0 - (y * 2 - 1) * raw(self, row)
    if loss < 0 then loss = 0 end
    advance(self, row, step_size(self, row, loss) * (y == 0 and -1 or y))
  end,
})

return {PARegressor = PARegressor, PAClassifier = PAClassifier}
