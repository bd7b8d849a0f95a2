--- The approximate large margin algorithm (Gentile, 2001). The norm of the weights is a plain sum here and a vectorized
-- one in the library, so the last bit may differ.

local label_book = require "river.embedded.label_book"
local losses = require "river.embedded.losses"
local python = require "river.embedded.python"
local registry = require "river.embedded.registry"
local slots = require "river.embedded.slots"
local stage = require "river.embedded.stage"

local power = require("riverlua.core.math").pow

local ALMAClassifier = registry.class{
  class = "river.linear_model.ALMAClassifier", role = "estimator", supervised = true, transient = {"cache"},
  params = {
    {"p", 2, kind = "number"}, {"alpha", 0.9, kind = "number"}, {"B", 1 / 0.9, kind = "number"},
    {"C", 2 ^ 0.5, kind = "number"},
  },
}

function ALMAClassifier:init()
  self.space, self.w, self.k = slots.space(), {}, 1
  self:revive()
end

function ALMAClassifier:revive()
  self.cache = slots.cache()
end

function ALMAClassifier:predict_proba_one(row)
  local p = losses.sigmoid(slots.product(self.space, self.cache, row, self.w))
  return {[false] = 1 - p, [true] = p}, {false, true}
end

function ALMAClassifier:predict_one(row)
  return label_book.likeliest(self:predict_proba_one(row))
end

-- Python's `int(y or -1)`: what counts as false is the negative class.
local function sign_of(y)
  if not python.truthy(y) then return -1 end
  if y == true then return 1 end
  if type(y) == "number" then return y < 0 and math.ceil(y) or math.floor(y) end
  if type(y) == "string" and y:find("^%s*[+-]?%d+%s*$") then return math.tointeger(tonumber(y)) end
  return nil
end

function ALMAClassifier.check_target(_, y, inner)
  python.needs_target("ALMAClassifier", y, inner)
  if sign_of(y) then return end
  if type(y) == "string" then
    python.raise("ValueError", "invalid literal for int() with base 10: %s", python.quote(y))
  end
  python.raise("TypeError", "int() argument must be a string, a bytes-like object or a real number, not '%s'",
    python.type_name(y))
end

-- The p-norm of all weights.
local function norm(self)
  local w, p, sum = self.w, self.p, 0.0
  if p == 2 then
    for slot = 1, self.space.n do sum = sum + w[slot] * w[slot] end
    return math.sqrt(sum)
  elseif p == math.huge then
    for slot = 1, self.space.n do sum = math.max(sum, math.abs(w[slot])) end
    return sum
  end
  for slot = 1, self.space.n do sum = sum + power(math.abs(w[slot]), p) end
  return power(sum, 1 / p)
end

-- One step, then back to a norm of at most 1, as far as the sample's features go.
local function correct(self, row, y, eta)
  slots.check_numbers(row)
  local keys, w = row.keys, self.w
  local plan = slots.make_room(self.space, self.cache, keys, w)
  for i = 1, keys.n do w[plan[i]] = w[plan[i]] + eta * y * row[i] end
  local length = norm(self)
  if length > 1 then
    for i = 1, keys.n do w[plan[i]] = w[plan[i]] / length end
  end
  self.k = self.k + 1
end

---@param row river.embedded.Row
---@param y any
function ALMAClassifier:learn_one(row, y)
  y = sign_of(y)
  if self.p < 1 then python.raise("ValueError", "math domain error") end
  local root_p, root_k = math.sqrt(self.p - 1), math.sqrt(self.k)
  if y * slots.product(self.space, self.cache, row, self.w) < (1 - self.alpha) * (self.B * root_p / root_k) then
    if root_p == 0 then python.raise("ZeroDivisionError", "float division by zero") end
    correct(self, row, y, self.C / (root_p * root_k))
  end
end

function ALMAClassifier:state(pickle)
  return {
    {"w", stage.float_dict(pickle, self.space.names, self.w)},
    {"k", self.k},
  }
end

function ALMAClassifier:restore(state)
  if state.w == nil then return end
  slots.restore(self.space, self.w, state.w.args[2] or {})
  self.k = require("river.embedded.pickle").number(state.k)
end

return {ALMAClassifier = ALMAClassifier}
