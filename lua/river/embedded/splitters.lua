--- Observers of one feature in a leaf of a classification tree: they see values and classes and suggest splits.
--
-- A splitter has `fresh()`, `update(value, key, w)`, `probability(value, key)` and
-- `suggestion(criterion, before, name, binary_only)`. A suggestion is a table {merit, feature, info, children,
-- nominal, multiway}; one without `feature` is "no split". The Gaussian splitter's numbers are kept by the leaf for
-- all features together (hoeffding_observers.lua), for speed; its class holds the parameter.

local hash_order = require "river.embedded.hash_order"
local python = require "river.embedded.python"
local registry = require "river.embedded.registry"
local tree_stats = require "river.embedded.tree_stats"

local huge = math.huge
local None = python.None
local count, counts, sort = tree_stats.count, tree_stats.counts, tree_stats.sort

local splitters = {}

--- The suggestion not to split.
splitters.NO_SPLIT = {merit = -huge}
local NO_SPLIT = splitters.NO_SPLIT

local function define(name, params, of_classes)
  local class = registry.class{class = "river.tree.splitter." .. name, role = "splitter", params = params,
    is_target_class = of_classes}
  --- An empty splitter with the same parameters.
  function class:fresh()
    local copy = setmetatable({}, class)
    for i = 1, #params do copy[params[i][1]] = self[params[i][1]] end
    if class.init then copy:init() end
    return copy
  end
  return class
end

splitters.define = define

splitters.GaussianSplitter = define("GaussianSplitter", {{"n_splits", 10, kind = "integer"}}, true)

-- ---------------------------------------------------------------------------------------------------- Nominal

---@class river.embedded.NominalSplitter counts of a feature's values per class
local Nominal = {}
Nominal.__index = Nominal

registry.helper("river.embedded.NominalSplitter", Nominal)

--- Makes a splitter for a feature whose values are names.
function splitters.nominal()
  return setmetatable({classes = {}, per_class = {}, values = {}, seen = {}}, Nominal)
end

-- The counts of a class. A class that is only asked for is remembered too: the order of the classes is that in Python.
local function counts_of(self, key)
  local of_class = self.per_class[key]
  if not of_class then
    of_class = counts()
    self.per_class[key] = of_class
    self.classes[#self.classes + 1] = key
  end
  return of_class
end

function Nominal:update(value, key, w)
  value = tree_stats.value_key(value)
  if value == None then return end
  if not self.seen[value] then
    self.seen[value] = true
    self.values[#self.values + 1] = value
  end
  count(counts_of(self, key), value, w)
end

function Nominal:probability(value, key)
  local of_class = counts_of(self, key)
  local i = of_class.place[tree_stats.value_key(value)]
  if not i then return 0.0 end
  local total = tree_stats.sum(of_class.values)
  if total == 0 then return 0.0 end
  return of_class.values[i] / total
end

-- One branch per value.
local function multiway(self)
  local values = sort(table.move(self.values, 1, #self.values, 1, {}))
  local after = {}
  for i, value in ipairs(values) do
    local weight_of, keys = {}, {}
    for _, key in ipairs(self.classes) do
      local of_class = self.per_class[key]
      local at = of_class.place[value]
      if at then
        keys[#keys + 1] = key
        weight_of[key] = 0.0 + of_class.values[at]
      end
    end
    after[i] = counts()
    for _, key in ipairs(sort(keys)) do count(after[i], key, weight_of[key]) end
  end
  return values, after
end

-- One branch for a value, one for all others.
local function one_against_rest(self, wanted)
  local equal, other = counts(), counts()
  for _, key in ipairs(self.classes) do
    local of_class = self.per_class[key]
    for i = 1, of_class.n do
      count(of_class.keys[i] == wanted and equal or other, key, 0.0 + of_class.values[i])
    end
  end
  return {equal, other}
end

function Nominal:suggestion(criterion, before, name, binary_only)
  local best = NO_SPLIT
  if not binary_only then
    local values, after = multiway(self)
    best = {merit = criterion:merit(before, after), feature = name, info = values, children = after,
      nominal = true, multiway = true}
  end
  -- The values are a set in the library: of equally good ones its order decides.
  for _, value in ipairs(hash_order.set(self.values):items()) do
    local after = one_against_rest(self, value)
    local merit = criterion:merit(before, after)
    if merit > best.merit then
      best = {merit = merit, feature = name, info = value, children = after, nominal = true}
    end
  end
  return best
end

-- -------------------------------------------------------------------------------------------------- Histogram

local Histogram = define("HistogramSplitter", {
  {"n_bins", 256, kind = "integer"},
  {"n_splits", 32, kind = "integer"},
}, true)
splitters.HistogramSplitter = Histogram

function Histogram:init()
  self.classes, self.per_class = {}, {}
end

-- Merges the two neighbouring bins whose right ends are closest.
local function shrink(bins)
  local left, right, amount = bins.left, bins.right, bins.count
  local least, at = huge, 1
  for i = 2, #right do
    local apart = right[i] - right[i - 1]
    if apart < least then least, at = apart, i - 1 end
  end
  if left[at + 1] < left[at] then left[at] = left[at + 1] end
  if right[at + 1] > right[at] then right[at] = right[at + 1] end
  amount[at] = amount[at] + amount[at + 1]
  table.remove(left, at + 1)
  table.remove(right, at + 1)
  table.remove(amount, at + 1)
end

local function add_value(bins, x, max_bins)
  local left, right, amount = bins.left, bins.right, bins.count
  bins.n = bins.n + 1
  local low, high = 1, #right + 1
  while low < high do
    local middle = (low + high) // 2
    if right[middle] < x then low = middle + 1 else high = middle end
  end
  if low <= #right and x >= left[low] then
    amount[low] = amount[low] + 1
  else
    table.insert(left, low, x)
    table.insert(right, low, x)
    table.insert(amount, low, 1)
  end
  if #right > max_bins and bins.n > 1 then shrink(bins) end
end

function Histogram:update(value, key, w)
  if type(value) ~= "number" then
    python.raise("TypeError", "'<' not supported between instances of 'float' and '%s'", python.type_name(value))
  end
  for _ = 1, w // 1 do
    local bins = self.per_class[key]
    if not bins then
      bins = {left = {}, right = {}, count = {}, n = 0}
      self.per_class[key] = bins
      self.classes[#self.classes + 1] = key
    end
    add_value(bins, value, self.n_bins)
  end
end

function Histogram:probability(value, key)
  local bins = self.per_class[key]
  if not bins then return 0.0 end
  local left = bins.left
  local low, high = 1, #left + 1
  while low < high do
    local middle = (low + high) // 2
    if value < left[middle] then high = middle else low = middle + 1 end
  end
  local i = low <= #left and low or #left
  if left[i] == bins.right[i] then return bins.count[i] / bins.n end
  return (bins.count[i] * (value - left[i]) / (bins.right[i] - left[i])) / bins.n
end

-- The share of a class's values up to each of the growing thresholds.
local function shares(bins, thresholds)
  local out, below, i = {}, 0, 1
  for j, x in ipairs(thresholds) do
    while bins.right[i] and x >= bins.right[i] do
      below = below + bins.count[i]
      i = i + 1
    end
    local left = bins.left[i]
    if left and x > left then
      out[j] = (below + bins.count[i] * (x - left) / (bins.right[i] - left)) / bins.n
    else
      out[j] = below / bins.n
    end
  end
  return out
end

local function thresholds_of(self)
  if #self.classes == 0 then python.raise("ValueError", "min() arg is an empty sequence") end
  local low, high, most = huge, huge, 0
  for _, key in ipairs(self.classes) do
    local right = self.per_class[key].right
    if right[1] < low then low = right[1] end
    if right[#right] < high then high = right[#right] end
    if #right > most then most = #right end
  end
  local thresholds = {}
  if low >= high then return thresholds end
  local number = math.min(self.n_splits, most - 1)
  local step, x = (high - low) / (number + 1), low
  for i = 1, number do
    x = x + step
    thresholds[i] = x
  end
  return thresholds
end

function Histogram:suggestion(criterion, before, name)
  local best = NO_SPLIT
  local thresholds = thresholds_of(self)
  local share_of = {}
  for _, key in ipairs(self.classes) do share_of[key] = shares(self.per_class[key], thresholds) end
  local total = tree_stats.sum(before.values)
  for j, threshold in ipairs(thresholds) do
    local low, high = counts(), counts()
    for i = 1, before.n do
      local key = before.keys[i]
      local share = share_of[key] and share_of[key][j]
      if share then
        local p = before.values[i] / total
        count(low, key, total * p * share)
        count(high, key, total * p * (1 - share))
      end
    end
    local after = {low, high}
    local merit = criterion:merit(before, after)
    if merit > best.merit then best = {merit = merit, feature = name, info = threshold, children = after} end
  end
  return best
end

-- ------------------------------------------------------------------------------------------------- Exhaustive

local Exhaustive = define("ExhaustiveSplitter", {}, true)
splitters.ExhaustiveSplitter = Exhaustive

-- A binary tree in arrays: node i has the value cut[i], children left[i] and right[i] (0: none), and the counts of
-- what went to it or left of it (low[i]) and right of it (high[i]).
function Exhaustive:init()
  self.cut, self.left, self.right, self.low, self.high = {}, {}, {}, {}, {}
end

local function new_node(self, value, key, w)
  local i = #self.cut + 1
  self.cut[i], self.left[i], self.right[i] = value, 0, 0
  self.low[i], self.high[i] = counts(), counts()
  count(self.low[i], key, 0.0 + w)
  return i
end

function Exhaustive:update(value, key, w)
  if value == nil or value == None or type(value) == "userdata" then return end
  if type(value) ~= "number" then
    python.raise("TypeError", "'<' not supported between instances of '%s' and 'float'", python.type_name(value))
  end
  if #self.cut == 0 then
    new_node(self, value, key, w)
    return
  end
  local i = 1
  while true do
    local side
    if value > self.cut[i] then
      count(self.high[i], key, 0.0 + w)
      side = self.right
    else
      count(self.low[i], key, 0.0 + w)
      if value == self.cut[i] then return end
      side = self.left
    end
    if side[i] == 0 then
      side[i] = new_node(self, value, key, w)
      return
    end
    i = side[i]
  end
end

function Exhaustive.probability()
  return 0.0
end

-- Adds (sign 1) or takes away (sign -1) counts as Python's Counter does, which forgets what is not positive: such a
-- class keeps the number it had.
local function combine(target, other, sign)
  for i = 1, target.n do
    local at = other.place[target.keys[i]]
    local value = target.values[i] + sign * (at and other.values[at] or 0)
    if value > 0 then target.values[i] = value end
  end
  for i = 1, other.n do
    local value = sign * other.values[i]
    if not target.place[other.keys[i]] and value > 0 then count(target, other.keys[i], value) end
  end
end

-- What lies on both sides of node i, from what lies on both sides of its parent.
local function sides(self, i, parent)
  local low, high = counts(), counts()
  if not parent then
    combine(low, self.low[i], 1)
    combine(high, self.high[i], 1)
    return low, high
  end
  combine(low, parent.low, 1)
  combine(high, parent.high, 1)
  if parent.is_left then
    local exact = counts()
    combine(exact, self.low[parent.node], 1)
    combine(exact, self.low[i], -1)
    combine(exact, self.high[i], -1)
    combine(low, self.high[i], -1)
    combine(high, self.high[i], 1)
    combine(high, exact, 1)
    combine(low, exact, -1)
  else
    combine(low, self.low[i], 1)
    combine(high, self.low[i], -1)
  end
  return low, high
end

function Exhaustive:suggestion(criterion, before, name)
  local best = NO_SPLIT
  local stack = {#self.cut > 0 and {node = 1} or nil}
  while #stack > 0 do
    local entry = table.remove(stack)
    local i = entry.node
    local low, high = sides(self, i, entry.parent)
    local after = {low, high}
    local merit = criterion:merit(before, after)
    if merit > best.merit then best = {merit = merit, feature = name, info = self.cut[i], children = after} end
    if self.right[i] ~= 0 then
      stack[#stack + 1] = {node = self.right[i], parent = {node = i, low = low, high = high}}
    end
    if self.left[i] ~= 0 then
      stack[#stack + 1] = {node = self.left[i], parent = {node = i, low = low, high = high, is_left = true}}
    end
  end
  return best
end

return splitters
