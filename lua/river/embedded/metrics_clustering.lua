--- Metrics that compare two partitions of the same samples: counts of pairs, and shared information.

local base = require "river.embedded.metrics_base"
local python = require "river.embedded.python"
local stats = require "river.embedded.stats"
require "river.embedded.metrics_classification"

local abs, exp, log, max, min, sqrt = math.abs, math.exp, math.log, math.max, math.min, math.sqrt
local ratio = stats.ratio

local EPSILON = 2.0 ^ -52
local LOG_2 = log(2.0)

-- All of these count cells, and take no notice of weights.
local function define(name, spec, get)
  spec.needs_cells = true
  return base.define_counting(name, "multiclass", spec, get)
end

local function sum_of_squares(map)
  local sum = 0
  for _, value in pairs(map) do sum = sum + value * value end
  return sum
end

-- ------------------------------------------------------------------------------------------------ pairs of samples

define("FowlkesMallows", {}, function(_, cm)
  local n, t = cm.n_samples, 0
  for _, line in pairs(cm.cells) do t = t + sum_of_squares(line) end
  t = t - n
  local p, q = sum_of_squares(cm.columns) - n, sum_of_squares(cm.rows) - n
  if p == 0 or q == 0 then return 0.0 end
  return sqrt(t / p) * sqrt(t / q)
end)

-- How many ordered pairs are apart in both, together in one only, and together in both.
local function count_pairs(cm)
  local n, squares, fp, fn = cm.n_samples, 0, 0, 0
  for truth, line in pairs(cm.cells) do
    for guess, count in pairs(line) do
      squares = squares + count * count
      fp = fp + count * (cm.columns[guess] or 0.0)
      fn = fn + count * (cm.rows[truth] or 0.0)
    end
  end
  fp, fn = fp - squares, fn - squares
  return n * n - (fp + fn) - squares, fp, fn, squares - n
end

define("Rand", {format = "plain"}, function(_, cm)
  local tn, _, _, tp = count_pairs(cm)
  local total = cm.n_samples * (cm.n_samples - 1)
  if total == 0 then return 1.0 end
  return (tp + tn) / total
end)

define("AdjustedRand", {format = "plain"}, function(_, cm)
  local tn, fp, fn, tp = count_pairs(cm)
  local divisor = (tp + fn) * (fn + tn) + (tp + fp) * (fp + tn)
  if divisor == 0 then return 1.0 end
  return 2.0 * (tp * tn - fn * fp) / divisor
end)

-- --------------------------------------------------------------------------------------------- mutual information

local function mutual_information(cm)
  local n, score, classes = cm.n_samples, 0.0, cm:classes()
  for _, i in ipairs(classes) do
    for _, j in ipairs(classes) do
      local count = cm:cell(i, j)
      if count > 0 then
        local term = count / n * (log(n * count) - log(cm.rows[i] * cm.columns[j]))
        if abs(term) >= EPSILON then score = score + term end
      end
    end
  end
  return score
end

local function entropy(cm, sums)
  local n, sum = cm.n_samples, 0.0
  if n == 0 then return 1.0 end
  for _, c in ipairs(cm:classes()) do
    local count = sums[c]
    if count and count > 0 then sum = sum - count / n * (log(count) - log(n)) end
  end
  return sum
end

-- Sizes of the groups, in a fixed order.
local function sizes(cm, sums)
  local list = {}
  for _, c in ipairs(cm.seen) do
    local count = sums[c] or 0
    if count ~= 0 then list[#list + 1] = math.tointeger(count) or math.floor(count) end
  end
  return list
end

-- The mutual information that two random partitions with groups of these sizes have on average: over the sizes n_ij
-- that the overlap of two groups can have, weighted by their hypergeometric probability (Vinh, Epps and Bailey, 2010).
local function expected_information(n, a, b)
  if #a <= 1 or #b <= 1 then return 0.0 end
  local log_factorial = {[0] = 0.0}
  for k = 1, n do log_factorial[k] = log_factorial[k - 1] + log(k) end
  local sum, log_n = 0.0, log(n)
  for _, size_a in ipairs(a) do
    for _, size_b in ipairs(b) do
      local constant = log_factorial[size_a] + log_factorial[size_b] + log_factorial[n - size_a]
        + log_factorial[n - size_b] - log_factorial[n]
      local log_ab = log(size_a) + log(size_b)
      for k = max(1, size_a + size_b - n), min(size_a, size_b) do
        local log_p = constant - log_factorial[k] - log_factorial[size_a - k] - log_factorial[size_b - k]
          - log_factorial[n - size_a - size_b + k]
        sum = sum + k / n * (log_n + log(k) - log_ab) * exp(log_p)
      end
    end
  end
  return sum
end

local AVERAGES = {
  min = min,
  max = max,
  geometric = function(u, v) return sqrt(u * v) end,
  arithmetic = function(u, v) return (u + v) / 2 end,
}

define("MutualInfo", {format = "plain"}, function(_, cm) return mutual_information(cm) end)

-- Those that are scaled by an average of the two entropies.
local function define_scaled(name, get)
  local class = define(name, {format = "plain",
    params = {{"cm", python.None, kind = "metric", optional = true},
      {"average_method", "arithmetic", kind = "string"}}}, get)
  local count_only = class.init
  function class:init()
    if not AVERAGES[self.average_method] then
      python.raise("ValueError", "Valid 'average_methods' are ['min', 'max', 'geometric', 'arithmetic'], but %s was "
        .. "passed.", self.average_method)
    end
    count_only(self)
  end
end

-- Numbers of groups on both sides, and the value where they settle it.
local function trivial(cm)
  local n_rows, n_columns = #sizes(cm, cm.rows), #sizes(cm, cm.columns)
  if n_rows == n_columns and n_rows <= 1 then return 1.0 end
  return nil, n_rows, n_columns
end

define_scaled("NormalizedMutualInfo", function(self, cm)
  local settled = trivial(cm)
  if settled then return settled end
  local scale = AVERAGES[self.average_method](entropy(cm, cm.rows), entropy(cm, cm.columns))
  return mutual_information(cm) / max(scale, EPSILON)
end)

local function away_from_zero(value)
  if value < 0 then return min(value, -EPSILON) end
  return max(value, EPSILON)
end

define_scaled("AdjustedMutualInfo", function(self, cm)
  local settled, n_rows, n_columns = trivial(cm)
  if settled then return settled end
  if n_rows == 1 or n_columns == 1 then return 0.0 end
  local expected = expected_information(cm.n_samples, sizes(cm, cm.rows), sizes(cm, cm.columns))
  local scale = AVERAGES[self.average_method](entropy(cm, cm.rows), entropy(cm, cm.columns))
  return away_from_zero(mutual_information(cm) - expected) / away_from_zero(scale - expected)
end)

-- ---------------------------------------------------------------------------------------------------- homogeneity

-- One less the share of one side's entropy that is left when the other side is known. `base_log` divides logarithms.
local function explained(cm, own, other, cell, base_log)
  local n, left, all, classes = cm.n_samples, 0.0, 0.0, cm:classes()
  for _, i in ipairs(classes) do
    for _, j in ipairs(classes) do
      local count = cell(i, j)
      if count > 0 then left = left - count / n * (log(count / other[i]) / base_log) end
    end
    local count = own[i] or 0
    if count > 0 then all = all - count / n * (log(count / n) / base_log) end
  end
  if all == 0 then return 1.0 end
  return 1.0 - left / all
end

local function homogeneity(cm)
  return explained(cm, cm.rows, cm.columns, function(i, j) return cm:cell(j, i) end, LOG_2)
end

local function completeness(cm)
  return explained(cm, cm.columns, cm.rows, function(i, j) return cm:cell(i, j) end, 1.0)
end

define("Homogeneity", {}, function(_, cm) return homogeneity(cm) end)
define("Completeness", {}, function(_, cm) return completeness(cm) end)
define("VBeta", {params = {{"beta", 1.0, kind = "number"}}}, function(self, cm)
  local h, c = homogeneity(cm), completeness(cm)
  return ratio((1 + self.beta) * h * c, self.beta * h + c)
end)
