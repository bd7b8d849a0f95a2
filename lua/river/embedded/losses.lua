--- Loss functions: gradients with respect to the prediction, and the mean function. The formulas are in
-- src/river_linear.c.
--
-- `check_target(y)` raises what Python would raise for a target it cannot compute with, before anything has changed;
-- `number(y)` is the number that stands for a target; `terms()` gives the three values that the kernel takes.

local core = require "riverlua.core.river"
local python = require "river.embedded.python"
local registry = require "river.embedded.registry"

local exp = math.exp

-- The largest number whose exponential is finite; Python raises above it.
local LARGEST_EXPONENT = 709.782712893384

-- Logistic function with the library's cut-offs (which give the integers 0 and 1).
local function sigmoid(x)
  if x < -30 then return 0 end
  if x > 30 then return 1 end
  return 1 / (1 + exp(-x))
end

local function is_number(y)
  return y == true or y == false or type(y) == "number"
end

-- What Python says when a target is no number, by the first operation that it meets.
local REFUSALS = {
  minus = function(y)
    if not is_number(y) then
      python.raise("TypeError", "unsupported operand type(s) for -: 'float' and '%s'", python.type_name(y))
    end
  end,
  above = function(y)
    if not is_number(y) then
      python.raise("TypeError", "'>' not supported between instances of 'float' and '%s'", python.type_name(y))
    end
  end,
  below = function(y)
    if not is_number(y) then
      python.raise("TypeError", "'<' not supported between instances of '%s' and 'float'", python.type_name(y))
    end
  end,
  -- y * 2 - 1: texts and lists can be doubled
  doubled = function(y)
    if is_number(y) then return end
    local kind = python.type_name(y)
    python.raise("TypeError", "unsupported operand type(s) for %s: '%s' and 'int'",
      (kind == "str" or kind == "list") and "-" or "*", kind)
  end,
}

-- `names`: the parameters that the kernel takes, at most two.
local function define(name, refusal, names, params, extra)
  local class = registry.class{class = "river.optim.losses." .. name, role = "loss", params = params}
  local first, second = names[1], names[2]

  function class.check_target(_, y) REFUSALS[refusal](y) end

  function class.number(_, y) return y end

  function class:terms()
    return name, first and self[first] or 0, second and self[second] or 0
  end

  --- The slope of the loss at a raw prediction.
  function class:gradient(y, prediction)
    if self.exponential then self:check_exponent(prediction) end
    return core.loss_gradient(self:number(y), prediction, self:terms())
  end

  --- The prediction that a raw one stands for.
  function class:mean(raw)
    if self.exponential then self:check_exponent(raw) end
    return core.loss_mean(raw, self:terms())
  end

  for method, body in pairs(extra or {}) do class[method] = body end
  return class
end

local losses = {sigmoid = sigmoid}

losses.Absolute = define("Absolute", "above", {})
losses.BinaryFocalLoss = define("BinaryFocalLoss", "doubled", {"gamma", "beta"},
  {{"gamma", 2, kind = "number"}, {"beta", 1, kind = "number"}})
losses.Cauchy = define("Cauchy", "minus", {"C"}, {{"C", 80, kind = "number"}})
losses.EpsilonInsensitiveHinge = define("EpsilonInsensitiveHinge", "doubled", {"eps"}, {{"eps", 0.1, kind = "number"}})
losses.Hinge = define("Hinge", "doubled", {"threshold"}, {{"threshold", 1.0, kind = "number"}})
losses.Huber = define("Huber", "minus", {"epsilon"}, {{"epsilon", 0.1, kind = "number"}})
losses.Quantile = define("Quantile", "below", {"alpha"}, {{"alpha", 0.5, kind = "number"}})
losses.Squared = define("Squared", "minus", {})

losses.Poisson = define("Poisson", "minus", {}, nil, {
  exponential = true,
  check_exponent = function(_, raw)
    if raw > LARGEST_EXPONENT then python.raise("OverflowError", "math range error") end
  end,
})

-- Python's int() of a label that is neither true nor false; nil when it has none.
local function to_integer(y)
  if type(y) == "number" then return y < 0 and math.ceil(y) or math.floor(y) end
  if type(y) == "string" and y:find("^%s*[+-]?%d+%s*$") then return math.tointeger(tonumber(y)) end
  return nil
end

losses.Log = define("Log", "minus", {"weight_pos", "weight_neg"},
  {{"weight_pos", 1.0, kind = "number"}, {"weight_neg", 1.0, kind = "number"}}, {
    check_target = function(_, y)
      if y == true or y == false or to_integer(y) then return end
      if type(y) == "string" then
        python.raise("ValueError", "invalid literal for int() with base 10: %s", python.quote(y))
      end
      python.raise("TypeError", "int() argument must be a string, a bytes-like object or a real number, not '%s'",
        python.type_name(y))
    end,
    -- A text of digits counts by its sign and size; its zero is not the number 0, so it takes the side of the positive.
    number = function(_, y)
      if type(y) ~= "string" then return y end
      local whole = to_integer(y)
      return whole == 0 and 0.5 or whole
    end,
  })

return losses
