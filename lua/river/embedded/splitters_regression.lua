--- Observers of one feature in a leaf of a regression tree (see splitters.lua for what a splitter is).

local python = require "river.embedded.python"
local registry = require "river.embedded.registry"
local splitters = require "river.embedded.splitters"
local tree_stats = require "river.embedded.tree_stats"

local floor = math.floor
local None = python.None
local add, subtract, var = tree_stats.add, tree_stats.subtract, tree_stats.var
local NO_SPLIT = splitters.NO_SPLIT

local function is_none(value)
  return value == nil or value == None or type(value) == "userdata"
end

-- ------------------------------------------------------------------------------------------------------ E-BST

-- An extended binary search tree (Ikonomovska, Gama and Džeroski, 2011) in arrays: node i has a value of the feature,
-- children left[i] and right[i] (0: none), and weight, mean and squared deviations of the targets that went to it or
-- left of it. Node 1 is the root, `free` lists nodes that were removed.
local EBST = splitters.define("EBSTSplitter", {}, false)

local function clear(self)
  self.value, self.left, self.right, self.free = {}, {}, {}, {}
  self.n, self.mean, self.s = {}, {}, {}
end

EBST.init = clear

local function new_node(self, x, y, w)
  local free = self.free
  local i = #free > 0 and table.remove(free) or #self.value + 1
  self.value[i], self.left[i], self.right[i] = x, 0, 0
  -- The first value of a running mean and variance, in its order of operations.
  local mean = (w / (0.0 + w)) * y
  self.n[i], self.mean[i], self.s[i] = 0.0 + w, mean, 0.0 + w * y * (y - mean)
  return i
end

local function insert(self, x, y, w)
  local values, left, right = self.value, self.left, self.right
  if #values == 0 then
    new_node(self, x, y, w)
    return
  end
  local ns, means, ss = self.n, self.mean, self.s
  local i = 1
  while true do
    local here = values[i]
    local side = right
    if x <= here then
      local before = means[i]
      local n = ns[i] + w
      local mean = before + (w / n) * (y - before)
      ns[i], means[i] = n, mean
      ss[i] = ss[i] + w * (y - before) * (y - mean)
      if x == here then return end
      side = left
    end
    local next_node = side[i]
    if next_node == 0 then
      side[i] = new_node(self, x, y, w)
      return
    end
    i = next_node
  end
end

local function refuse_text(value)
  python.raise("TypeError", "'<' not supported between instances of '%s' and 'float'", python.type_name(value))
end

function EBST:update(value, y, w)
  if type(value) == "number" then return insert(self, value, y, w) end
  if not is_none(value) then refuse_text(value) end
end

-- Stages of a node on the way through the tree.
local LEFT, SELF, RIGHT, DONE = 1, 2, 3, 4

-- What is left and right of a cut at node i, where `n, mean, s` is what lies left of the node's subtree.
local function parts(self, i, n, mean, s, before)
  local ln, lm, ls = add(self.n[i], self.mean[i], self.s[i], n, mean, s)
  return ln, lm, ls, subtract(before.n, before.mean, before.s, ln, lm, ls)
end

local function variance(n, s)
  if n > 1 then return s / (n - 1) end
  return 0.0
end

--- Tries a cut at every node, in the order of the values.
function EBST:suggestion(criterion, before, name)
  if #self.value == 0 then return NO_SPLIT end
  local left, right = self.left, self.right
  local best, info = NO_SPLIT.merit, nil
  local bn, bm, bs, rn, rm, rs
  -- What lies left of the subtree on top of the stack is added on the way down and taken away on the way up, as the
  -- library does it: the order shows in the last bits.
  local n, mean, s = 0.0, 0.0, 0.0
  local stack, stage, top = {1}, {LEFT}, 1
  while top > 0 do
    local i, at = stack[top], stage[top]
    if at == LEFT then
      stage[top] = SELF
      if left[i] ~= 0 then
        top = top + 1
        stack[top], stage[top] = left[i], LEFT
      end
    elseif at == SELF then
      local ln, lm, ls, on, om, os = parts(self, i, n, mean, s, before)
      local merit = criterion:merit_of_two(before, ln, variance(ln, ls), on, variance(on, os))
      if merit > best then
        best, info = merit, self.value[i]
        bn, bm, bs, rn, rm, rs = ln, lm, ls, on, om, os
      end
      stage[top] = RIGHT
    elseif at == RIGHT and right[i] ~= 0 then
      n, mean, s = add(n, mean, s, self.n[i], self.mean[i], self.s[i])
      stage[top] = DONE
      top = top + 1
      stack[top], stage[top] = right[i], LEFT
    else
      if at == DONE then n, mean, s = subtract(n, mean, s, self.n[i], self.mean[i], self.s[i]) end
      top = top - 1
    end
  end
  if info == nil then return NO_SPLIT end
  return {merit = best, feature = name, info = info, children = {var(bn, bm, bs), var(rn, rm, rs)}}
end

-- Takes node i out of the tree; its children are gone already.
local function remove(self, i, parent, is_left)
  if not parent then
    clear(self)
    return
  end
  self.left[i], self.right[i] = 0, 0
  if is_left then self.left[parent] = 0 else self.right[parent] = 0 end
  self.free[#self.free + 1] = i
end

--- Removes nodes below which all cuts are far worse than the best one.
---@param criterion table
---@param last table ratio, merit and bound of the attempt to split that has failed
---@param before river.embedded.Var
function EBST:remove_bad_splits(criterion, last, before)
  if #self.value == 0 then return end
  local left, right = self.left, self.right
  local n, mean, s = 0.0, 0.0, 0.0
  local stack, stage, sides, top = {1}, {LEFT}, {false}, 1
  local is_bad = false
  local function push(node, is_left)
    top = top + 1
    stack[top], stage[top], sides[top] = node, LEFT, is_left
  end
  while top > 0 do
    local i, at = stack[top], stage[top]
    if at == LEFT then
      stage[top] = RIGHT
      is_bad = true
      if left[i] ~= 0 then push(left[i], true) end
    elseif at == RIGHT and is_bad and right[i] ~= 0 then
      n, mean, s = add(n, mean, s, self.n[i], self.mean[i], self.s[i])
      stage[top] = DONE
      push(right[i], false)
    else
      if at == DONE then n, mean, s = subtract(n, mean, s, self.n[i], self.mean[i], self.s[i]) end
      if is_bad then
        local ln, _, ls, on, _, os = parts(self, i, n, mean, s, before)
        local merit = criterion:merit_of_two(before, ln, variance(ln, ls), on, variance(on, os))
        is_bad = merit / last.merit < last.ratio - 2 * last.bound
        if is_bad then remove(self, i, stack[top - 1], sides[top]) end
      end
      top = top - 1
    end
  end
end

-- ---------------------------------------------------------------------------------------------- truncated E-BST

local TEBST = splitters.define("TEBSTSplitter", {{"digits", 1, kind = "integer"}}, false)

TEBST.init, TEBST.suggestion, TEBST.remove_bad_splits = clear, EBST.suggestion, EBST.remove_bad_splits

-- Rounds to tens, hundreds …, halves to even; exact for whole parts up to 2^53.
local function round_to_tens(x, unit)
  local whole = floor(x)
  if math.type(whole) ~= "integer" then return x end
  local rest, fraction = whole % unit, x - whole
  whole = whole - rest
  local twice = 2 * rest
  if twice > unit or twice == unit and (fraction > 0 or (whole // unit) % 2 == 1) then whole = whole + unit end
  return math.type(x) == "integer" and whole or whole + 0.0
end

--- Rounds as Python's `round(x, digits)` does: to the nearest decimal, judged by the exact value of the number.
---@param x number
---@param digits integer
---@return number
function splitters.round(x, digits)
  if digits < 0 then return digits < -18 and x * 0 or round_to_tens(x, floor(10.0 ^ -digits)) end
  if math.type(x) == "integer" or x ~= x or x - x ~= 0 then return x end
  if digits <= 15 then
    local unit = 10.0 ^ digits
    local scaled = x * unit
    if scaled < 1e11 and scaled > -1e11 then
      local whole = floor(scaled)
      local fraction = scaled - whole
      -- Away from the half the rounding of the product does not matter, and the quotient is the nearest number.
      if fraction < 0.499 then return whole / unit elseif fraction > 0.501 then return (whole + 1) / unit end
    end
  end
  if digits > 90 then return x end
  return tonumber(("%." .. digits .. "f"):format(x)) + 0.0
end

local round = splitters.round

--- What is no number is left out.
function TEBST:update(value, y, w)
  if type(value) == "number" then insert(self, round(value, self.digits), y, w) end
end

-- ------------------------------------------------------------------------------------------------ quantization

local QO = splitters.define("QOSplitter", {
  {"radius", 0.25, kind = "number"},
  {"allow_multiway_splits", false, kind = "boolean"},
}, false)

function QO:init()
  if self.radius <= 0 then python.raise("ValueError", "'radius' must be greater than zero.") end
  self.slots, self.count = {}, 0
end

function QO:update(value, y, w)
  if is_none(value) then return end
  if type(value) ~= "number" then
    python.raise("TypeError", "unsupported operand type(s) for /: '%s' and 'float'", python.type_name(value))
  end
  local place = floor(value / self.radius)
  local slot = self.slots[place]
  if not slot then
    slot = {n = 0.0, mean = 0.0, y = var()}
    self.slots[place] = slot
    self.count = self.count + 1
  end
  slot.n = slot.n + w
  slot.mean = slot.mean + (w / slot.n) * (value - slot.mean)
  slot.y:update(y, w)
end

function QO:suggestion(criterion, before, name, binary_only)
  local best = NO_SPLIT
  if self.count <= 1 then return best end
  local places, after = {}, {}
  for place in pairs(self.slots) do places[#places + 1] = place end
  table.sort(places)
  if self.allow_multiway_splits and not binary_only then
    for i, place in ipairs(places) do after[i] = self.slots[place].y end
    best = {merit = criterion:merit(before, after), feature = name, info = {radius = self.radius, slots = places},
      children = after, multiway = true}
  end
  -- In the library the left part of every suggestion is the one running total, which ends as the whole.
  local total, previous = var(), nil
  for _, place in ipairs(places) do
    local slot = self.slots[place]
    total.n, total.mean, total.s = add(total.n, total.mean, total.s, slot.y.n, slot.y.mean, slot.y.s)
    if previous then
      local rn, rm, rs = subtract(before.n, before.mean, before.s, total.n, total.mean, total.s)
      local merit = criterion:merit_of_two(before, total.n, total:get(), rn, variance(rn, rs))
      if merit > best.merit then
        best = {merit = merit, feature = name, info = (previous + slot.mean) / 2.0,
          children = {total, var(rn, rm, rs)}}
      end
    end
    previous = slot.mean
  end
  return best
end

-- ---------------------------------------------------------------------------------------------------- Nominal

---@class river.embedded.NominalRegressionSplitter
local Nominal = {}
Nominal.__index = Nominal

registry.helper("river.embedded.NominalRegressionSplitter", Nominal)

--- Makes a splitter for a feature whose values are names.
function splitters.nominal_regression()
  return setmetatable({values = {}, per_value = {}}, Nominal)
end

function Nominal:update(value, y, w)
  value = tree_stats.value_key(value)
  if value == None then return end
  local of_value = self.per_value[value]
  if not of_value then
    of_value = var()
    self.per_value[value] = of_value
    self.values[#self.values + 1] = value
  end
  of_value:update(y, w)
end

function Nominal:suggestion(criterion, before, name, binary_only)
  local best = NO_SPLIT
  local values = tree_stats.sort(table.move(self.values, 1, #self.values, 1, {}))
  if not binary_only and #values > 2 then
    local after = {}
    for i, value in ipairs(values) do after[i] = self.per_value[value] end
    best = {merit = criterion:merit(before, after), feature = name, info = values, children = after,
      nominal = true, multiway = true}
  end
  for _, value in ipairs(values) do
    local part = self.per_value[value]
    local rest = var(subtract(before.n, before.mean, before.s, part.n, part.mean, part.s))
    local after = {part, rest}
    local merit = criterion:merit(before, after)
    if merit > best.merit then
      best = {merit = merit, feature = name, info = value, children = after, nominal = true}
    end
  end
  return best
end

splitters.EBSTSplitter, splitters.TEBSTSplitter, splitters.QOSplitter = EBST, TEBST, QO

return splitters
