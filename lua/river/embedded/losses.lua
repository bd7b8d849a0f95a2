--- Loss functions: gradients with respect to the prediction, and the mean function.
--
-- `check_target(y)` raises what Python would raise for a target it cannot compute with, before anything has changed.

local python = require "river.embedded.python"
local registry = require "river.embedded.registry"

local exp = math.exp

--- Logistic function with the library's cut-offs (which give the integers 0 and 1).
local function sigmoid(x)
  if x < -30 then return 0 end
  if x > 30 then return 1 end
  return 1 / (1 + exp(-x))
end

local Squared = registry.class{class = "river.optim.losses.Squared", role = "loss"}

function Squared.check_target(_, y)
  if y == true or y == false then return end
  if type(y) ~= "number" then
    python.raise("TypeError", "unsupported operand type(s) for -: 'float' and '%s'", python.type_name(y))
  end
end

function Squared.gradient(_, y, prediction)
  if y == true then y = 1 elseif y == false then y = 0 end
  return 2 * (prediction - y)
end

function Squared.mean(_, raw)
  return raw
end

local Log = registry.class{
  class = "river.optim.losses.Log", role = "loss",
  params = {{"weight_pos", 1.0, kind = "number"}, {"weight_neg", 1.0, kind = "number"}},
}

-- Python's int() of a label that is neither true nor false; nil when it has none.
local function to_integer(y)
  if type(y) == "number" then return y < 0 and math.ceil(y) or math.floor(y) end
  if type(y) == "string" and y:find("^%s*[+-]?%d+%s*$") then return math.tointeger(tonumber(y)) end
  return nil
end

function Log.check_target(_, y)
  if y == true or y == false or to_integer(y) then return end
  if type(y) == "string" then
    python.raise("ValueError", "invalid literal for int() with base 10: %s", python.quote(y))
  end
  python.raise("TypeError", "int() argument must be a string, a bytes-like object or a real number, not '%s'",
    python.type_name(y))
end

function Log:gradient(y, prediction)
  local weight, sign = self.weight_pos, 1
  if y == false or y == 0 then
    weight, sign = self.weight_neg, -1
  elseif y ~= true then
    sign = to_integer(y)
  end
  local z = prediction * sign
  if z > 18.0 then return weight * exp(-z) * -sign end
  if z < -18.0 then return weight * -sign end
  return weight * -sign / (exp(z) + 1.0)
end

function Log.mean(_, raw)
  return sigmoid(raw)
end

return {Squared = Squared, Log = Log, sigmoid = sigmoid}
