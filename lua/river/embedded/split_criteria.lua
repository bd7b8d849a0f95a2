--- How good a split is: merits of distributions before and after it.
--
-- A criterion has `merit(before, after)` and `range(before)`. In classification `before` is a table with `values`
-- (weights per class) and `after` a list of such tables, which also have `keys`; in regression they are running
-- variances (tree_stats.var).

local math_core = require "riverlua.core.math"
local python = require "river.embedded.python"
local tree_stats = require "river.embedded.tree_stats"

local log, sqrt, huge = math.log, math.sqrt, math.huge
local power, sum = math_core.pow, tree_stats.sum

local criteria = {}

local function divide_by_zero()
  python.raise("ZeroDivisionError", "float division by zero")
end

-- The sums of the distributions, their sum, and whether at least two hold more than a fraction of it.
local function weigh(after, min_fraction)
  local sums, total, greater = {}, 0.0, 0
  for i = 1, #after do
    sums[i] = sum(after[i].values)
    total = total + sums[i]
  end
  if total > 0 then
    for i = 1, #after do
      if sums[i] / total > min_fraction then greater = greater + 1 end
    end
  end
  return sums, total, greater >= 2
end

local function class_range(before)
  local count = #before.values
  return log(count > 2 and count or 2, 2)
end

local function entropy_of(values)
  local entropy, total = 0.0, 0.0
  for i = 1, #values do
    local value = values[i]
    if value > 0.0 then
      entropy = entropy - value * log(value, 2)
      total = total + value
    end
  end
  if total > 0.0 then return (entropy + total * log(total, 2)) / total end
  return 0.0
end

local function gini_of(values, total)
  local gini = 1.0
  if total ~= 0.0 then
    for i = 1, #values do
      local share = values[i] / total
      gini = gini - share * share
    end
  end
  return gini
end

local InfoGain, Gini, Hellinger, VarianceReduction = {}, {}, {}, {}
for _, class in ipairs{InfoGain, Gini, Hellinger, VarianceReduction} do class.__index = class end

function InfoGain:merit(before, after)
  local sums, total, enough = weigh(after, self.min_fraction)
  if not enough then return -huge end
  local entropy = 0.0
  for i = 1, #after do entropy = entropy + sums[i] * entropy_of(after[i].values) end
  return entropy_of(before.values) - entropy / total
end

function InfoGain.range(_, before) return class_range(before) end

function Gini:merit(_, after)
  local sums, total, enough = weigh(after, self.min_fraction)
  if not enough then return -huge end
  local gini = 0.0
  for i = 1, #after do gini = gini + (sums[i] / total) * gini_of(after[i].values, sums[i]) end
  return 1.0 - gini
end

function Gini.range() return 1.0 end

local function value_of(distribution, key)
  for i = 1, #distribution.keys do
    if distribution.keys[i] == key then return distribution.values[i] end
  end
  return nil
end

--- Hellinger's distance between the classes 1 and 0; with other classes no split has any merit.
function Hellinger:merit(_, after)
  local _, total, enough = weigh(after, self.min_fraction)
  if total == 0 and #after > 0 then divide_by_zero() end
  if not enough then return -huge end
  local left_positive, left_negative = value_of(after[1], true), value_of(after[1], false)
  local right_positive, right_negative = value_of(after[2], true), value_of(after[2], false)
  if not (left_positive and left_negative and right_positive and right_negative) then return 0 end
  local negative, positive = left_negative + right_negative, left_positive + right_positive
  if negative == 0 or positive == 0 then divide_by_zero() end
  local left = power(sqrt(left_negative / negative) - sqrt(left_positive / positive), 2.0)
  local right = power(sqrt(right_negative / negative) - sqrt(right_positive / positive), 2.0)
  return sqrt(left + right)
end

function Hellinger.range(_, before) return class_range(before) end

--- The merit of a split in two parts, each given by weight and variance.
function VarianceReduction:merit_of_two(before, left_n, left_variance, right_n, right_variance)
  local least = self.min_samples_split
  if left_n < least or right_n < least then return 0.0 end
  local n = before.n
  return before:get() - left_n / n * left_variance - right_n / n * right_variance
end

function VarianceReduction:merit(before, after)
  for i = 1, #after do
    if after[i].n < self.min_samples_split then return 0.0 end
  end
  local reduction, n = before:get(), before.n
  for i = 1, #after do reduction = reduction - after[i].n / n * after[i]:get() end
  return reduction
end

function VarianceReduction.range() return 1.0 end

local BY_NAME = {info_gain = InfoGain, gini = Gini, hellinger = Hellinger}

--- A criterion of classification.
---@param name string "info_gain", "gini" or "hellinger"
---@param min_fraction number share of the weight that two branches must have at least
function criteria.of_classes(name, min_fraction)
  return setmetatable({min_fraction = min_fraction}, BY_NAME[name])
end

--- Tells whether there is a criterion of this name.
---@param name string
---@return boolean
function criteria.is_known(name)
  return BY_NAME[name] ~= nil
end

--- The criterion of regression.
---@param min_samples_split number weight that every branch must have
function criteria.of_numbers(min_samples_split)
  return setmetatable({min_samples_split = min_samples_split}, VarianceReduction)
end

return criteria
