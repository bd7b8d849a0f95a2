--- Places for the features of a model that keeps its weights in an array: one place ("slot") per name, in the order in
-- which the names were first learned from, and the library's `dot` of features and weights.
--
-- A space is plain data: {n = count, slot_of = {name → slot}, names = {slot → name}}. Where the features of a set of
-- names are is remembered in a cache beside it, which need not be saved.

local python = require "river.embedded.python"

local slots = {}

-- Sets of names that a cache remembers.
local MAX_PLANS = 64

---@class river.embedded.Space
---@field n integer
---@field slot_of table<string, integer>
---@field names string[]

---@class river.embedded.Plan slot per position (false: never learned from)
---@field n integer size of the space when the plan was made
---@field present integer[] positions of known features in the order of the row
---@field ordered integer[] the same in the order of the slots

---@return river.embedded.Space
function slots.space()
  return {n = 0, slot_of = {}, names = {}}
end

---@return table cache
function slots.cache()
  return {plans = {}, count = 0}
end

local function new_plan(space, keys)
  local plan, present, ordered = {n = space.n}, {}, {}
  for i = 1, keys.n do
    plan[i] = space.slot_of[keys[i]] or false
    if plan[i] then present[#present + 1] = i end
  end
  table.move(present, 1, #present, 1, ordered)
  table.sort(ordered, function(a, b) return plan[a] < plan[b] end)
  plan.present, plan.ordered = present, ordered
  return plan
end

--- Where the features of `keys` are.
---@param space river.embedded.Space
---@param cache table
---@param keys river.embedded.Keys
---@return river.embedded.Plan
function slots.plan(space, cache, keys)
  local plan = cache.plans[keys]
  if plan and plan.n == space.n then return plan end
  if not plan then
    if cache.count >= MAX_PLANS then cache.plans, cache.count = {}, 0 end
    cache.count = cache.count + 1
  end
  plan = new_plan(space, keys)
  cache.plans[keys] = plan
  return plan
end

--- The place of a name, a new one if it has none yet.
---@param space river.embedded.Space
---@param name string
---@return integer slot
---@return boolean added
function slots.add(space, name)
  local slot = space.slot_of[name]
  if slot then return slot, false end
  slot = space.n + 1
  space.n, space.slot_of[name], space.names[slot] = slot, slot, name
  return slot, true
end

--- Where the features of `keys` are, with new places (holding 0.0) for those never seen.
---@param space river.embedded.Space
---@param cache table
---@param keys river.embedded.Keys
---@param weights number[]
---@return river.embedded.Plan
function slots.make_room(space, cache, keys, weights)
  local plan = slots.plan(space, cache, keys)
  if #plan.present == keys.n then return plan end
  for i = 1, keys.n do
    local slot, added = slots.add(space, keys[i])
    if added then weights[slot] = 0.0 end
  end
  return slots.plan(space, cache, keys)
end

-- Python's words for a product of a weight and something that is no number: which of the two comes first, and of which
-- type the weights are.
local FEATURE_FIRST = {"can't multiply sequence by non-int of type 'float'",
  "unsupported operand type(s) for *: '%s' and 'float'"}

slots.WEIGHT_FIRST = {FEATURE_FIRST[1], "unsupported operand type(s) for *: 'float' and '%s'"}

slots.NUMPY_WEIGHTS = {"can't multiply sequence by non-int of type 'numpy.float64'", FEATURE_FIRST[2]}

local function refuse(value, words)
  if type(value) == "string" then python.raise("TypeError", words[1]) end
  python.raise("TypeError", words[2], python.type_name(value))
end

--- Raises what Python would when a feature that is no number is multiplied with a weight.
---@param row river.embedded.Row
function slots.check_numbers(row)
  if not row.other then return end
  for i = 1, row.keys.n do
    if type(row[i]) ~= "number" then refuse(row[i], FEATURE_FIRST) end
  end
end

--- The sum over features that have a weight, in the order of `order` (positions).
---@param row river.embedded.Row
---@param plan river.embedded.Plan
---@param order integer[] `plan.present` or `plan.ordered`
---@param weights number[]
---@param words string[]|nil the refusals of a feature that is no number; `slots.WEIGHT_FIRST` or `slots.NUMPY_WEIGHTS`
---@return number
function slots.dot(row, plan, order, weights, words)
  local sum = 0.0
  if row.other then
    for k = 1, #order do
      if type(row[order[k]]) ~= "number" then refuse(row[order[k]], words or FEATURE_FIRST) end
    end
  end
  for k = 1, #order do
    local i = order[k]
    sum = sum + row[i] * weights[plan[i]]
  end
  return sum
end

--- The sum over the shorter one of sample and weights, as the library's `dot` runs.
---@param space river.embedded.Space
---@param cache table
---@param row river.embedded.Row
---@param weights number[]
---@param words string[]|nil as for `dot`
---@return number
function slots.product(space, cache, row, weights, words)
  local keys = row.keys
  local plan = slots.plan(space, cache, keys)
  return slots.dot(row, plan, keys.n < space.n and plan.present or plan.ordered, weights, words)
end

--- Reads weights out of the pairs {name, weight} of a pickle.
---@param space river.embedded.Space
---@param weights number[]
---@param pairs_of table[]
function slots.restore(space, weights, pairs_of)
  local pickle = require "river.embedded.pickle"
  for _, pair in ipairs(pairs_of) do
    weights[slots.add(space, pickle.name(pair[1]))] = pickle.number(pair[2])
  end
end

return slots
