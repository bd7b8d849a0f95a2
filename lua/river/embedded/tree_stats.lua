--- Statistics of targets inside trees: running variances that can be added and taken away, counts per class.

local math_core = require "riverlua.core.math"
local python = require "river.embedded.python"
local registry = require "river.embedded.registry"

local power = math_core.pow

local tree_stats = {}

---@class river.embedded.Var a running mean and variance
---@field n number sum of weights
---@field mean number
---@field s number sum of squared deviations
local Var = {}
Var.__index = Var

registry.helper("river.embedded.Var", Var)

--- A running mean and variance (Welford's recurrence with West's weights).
---@param n number|nil
---@param mean number|nil
---@param s number|nil
---@return river.embedded.Var
function tree_stats.var(n, mean, s)
  return setmetatable({n = n or 0.0, mean = mean or 0.0, s = s or 0.0}, Var)
end

---@param x number
---@param w number|nil weight, 1 unless given
function Var:update(x, w)
  w = w or 1.0
  local before = self.mean
  local n = self.n + w
  local mean = before + (w / n) * (x - before)
  self.n, self.mean = n, mean
  self.s = self.s + w * (x - before) * (x - mean)
end

--- The variance with one degree of freedom less than there are values.
---@return number
function Var:get()
  local n = self.n
  if n > 1 then return self.s / (n - 1) end
  return 0.0
end

--- Two sets of values as one (Chan, Golub and LeVeque). Takes and gives weight, mean and squared deviations.
function tree_stats.add(n, mean, s, other_n, other_mean, other_s)
  local total = n + other_n
  s = s + other_s + power(mean - other_mean, 2.0) * n * other_n / total
  return total, (n * mean + other_n * other_mean) / total, s
end

--- One set of values without another that is part of it.
function tree_stats.subtract(n, mean, s, other_n, other_mean, other_s)
  local rest = n - other_n
  if rest > 0 then
    mean = (n * mean - other_n * other_mean) / rest
  else
    rest, mean = 0.0, 0.0
  end
  s = s - other_s - power(mean - other_mean, 2.0) * rest * other_n / (rest + other_n)
  return rest, mean, s
end

---@class river.embedded.Counts weights per class, in the order in which the classes came
---@field n integer number of classes
---@field keys any[] label keys
---@field values number[]
---@field place table<any, integer> label key → position

--- Empty counts; plain data.
---@return river.embedded.Counts
function tree_stats.counts()
  return {n = 0, keys = {}, values = {}, place = {}}
end

--- Adds to a class.
---@param counts river.embedded.Counts
---@param key any label key
---@param w number
function tree_stats.count(counts, key, w)
  local i = counts.place[key]
  if i then
    counts.values[i] = counts.values[i] + w
  else
    i = counts.n + 1
    counts.n, counts.keys[i], counts.values[i], counts.place[key] = i, key, w, i
  end
end

local function rank(value)
  if value == true then return 1 elseif value == false then return 0 end
  return value
end

--- Sorts labels or values of a feature as Python's `sorted` does.
---@param list any[] label keys; in place
---@return any[] list
---Raises TypeError where Python cannot compare.
function tree_stats.sort(list)
  local first = list[1]
  for i = 2, #list do
    local a, b = list[i], list[i - 1]
    if type(rank(a)) ~= type(rank(b)) or a == python.None then
      python.raise("TypeError", "'<' not supported between instances of '%s' and '%s'", python.type_name(a),
        python.type_name(b))
    end
  end
  if first ~= nil then table.sort(list, function(a, b) return rank(a) < rank(b) end) end
  return list
end

--- What a feature's value is as the key of a table.
---@param value any
---@return any
---Raises TypeError for a list or a map.
function tree_stats.value_key(value)
  if value == nil or type(value) == "userdata" then return python.None end
  if type(value) == "table" and value ~= python.None then
    python.raise("TypeError", "unhashable type: '%s'", python.type_name(value))
  end
  return value
end

--- The sum of an array, from the left.
---@param values number[]
---@return number
function tree_stats.sum(values)
  local sum = 0
  for i = 1, #values do sum = sum + values[i] end
  return sum
end

return tree_stats
