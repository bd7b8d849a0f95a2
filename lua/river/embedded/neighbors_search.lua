--- Distances between samples, and the engine that searches a window for the nearest ones by going through all of it.

local hash_order = require "river.embedded.hash_order"
local errors = require "riverlua.errors"
local python = require "river.embedded.python"
local registry = require "river.embedded.registry"

local abs, sqrt = math.abs, math.sqrt
local None = python.None

local search = {}

-- --------------------------------------------------------------------------------------------------------- points

---@class river.embedded.Point a row that is kept: values as floats, `keys`, `other`

--- A copy of a row that outlives the reader's next row.
---@param row river.embedded.Row
---@return river.embedded.Point
function search.point(row)
  local keys, point = row.keys, {keys = row.keys, other = row.other}
  for i = 1, keys.n do
    local value = row[i]
    if type(value) == "table" then value = None end
    point[i] = type(value) == "number" and value + 0.0 or value
  end
  return point
end

-- ------------------------------------------------------------------------------------------------------ distances

-- Each takes two points of numbers and adds up in the order of the first one's features, then of what only the second
-- one has; a feature that is missing counts as 0.

local function euclidean(a, b)
  local keys, sum = a.keys, 0.0
  if keys == b.keys then
    for i = 1, keys.n do
      local d = a[i] - b[i]
      sum = sum + d * d
    end
    return sqrt(sum)
  end
  local other = b.keys
  local index, own = other.index, keys.index
  for i = 1, keys.n do
    local j = index[keys[i]]
    local d = a[i] - (j and b[j] or 0.0)
    sum = sum + d * d
  end
  for j = 1, other.n do
    if not own[other[j]] then sum = sum + b[j] * b[j] end
  end
  return sqrt(sum)
end

local function manhattan(a, b)
  local keys, other, sum = a.keys, b.keys, 0.0
  local index, own = other.index, keys.index
  for i = 1, keys.n do
    local j = index[keys[i]]
    sum = sum + abs(a[i] - (j and b[j] or 0.0))
  end
  for j = 1, other.n do
    if not own[other[j]] then sum = sum + abs(b[j]) end
  end
  return sum
end

-- Names in the order of Python's set of them, by their keys object: most samples have the same.
local orders = setmetatable({}, {__mode = "k"})

local function joined_names(a, b)
  if a ~= b then return hash_order.joined(a, b) end
  local names = orders[a]
  if not names then
    names = hash_order.joined(a, a)
    orders[a] = names
  end
  return names
end

-- Other powers add up in the order of Python's set of both names (see hash_order.lua).
local function minkowski(a, b, p)
  local sum = 0.0
  local index, other = a.keys.index, b.keys.index
  for _, name in ipairs(joined_names(a.keys, b.keys)) do
    local i, j = index[name], other[name]
    sum = sum + abs((i and a[i] or 0.0) - (j and b[j] or 0.0)) ^ p
  end
  return sum ^ (1 / p)
end

local FUNCTIONS = {
  ["river.utils.math._euclidean_distance"] = euclidean,
  -- the same, in a module of its own
  ["river._river_rust.vectordict.euclidean_distance_tuple"] = euclidean,
  ["river.utils.math._manhattan_distance"] = manhattan,
  ["river.utils.math.minkowski_distance"] = minkowski,
}

-- `functools.partial(river.utils.math.minkowski_distance, p=1)`: the one way to give the distance its power.
local Partial = registry.class{class = "functools.partial", role = "distance"}

function Partial:construct(args, kwargs)
  local func = args[1]
  local name = type(func) == "table" and func.name
  if not FUNCTIONS[name] or next(kwargs, next(kwargs)) ~= nil or (next(kwargs) and type(kwargs.p) ~= "number") then
    errors.raise{kind = "argument", message = "the embedded service knows functools.partial only around "
      .. "river.utils.math.minkowski_distance, with p"}
  end
  self.func, self.p = {name = name}, kwargs.p
end

function Partial.clone(instance)
  return setmetatable({func = instance.func, p = instance.p}, Partial)
end

function Partial:describe() return {func = self.func.name, p = self.p} end

function Partial:dump()
  local pickle = require "river.embedded.pickle"
  return pickle.object("functools.partial", {pickle.reference(self.func.name)}, {kwargs = {{"p", self.p}}})
end

--- The parameter of an engine that holds its distance function.
search.PARAMETER = {"dist_func", None, kind = "reference|distance", optional = true}

--- Refuses a distance function that there is none of here.
---@param func any value of the parameter
function search.check_distance(func)
  if func == None or getmetatable(func) == Partial or FUNCTIONS[func.name] then return end
  errors.raise{kind = "argument", message = ("the embedded service has no function %s"):format(func.name),
    hint = "its distance is river.utils.math.minkowski_distance, with p by functools.partial"}
end

--- The function that a parameter stands for.
---@param func any
---@return fun(a: table, b: table, p: number|nil): number distance
---@return number|nil p
function search.distance(func)
  if func == None then return euclidean end
  if getmetatable(func) ~= Partial then
    if FUNCTIONS[func.name] == minkowski then
      python.raise("TypeError", "minkowski_distance() missing 1 required positional argument: 'p'")
    end
    return FUNCTIONS[func.name]
  end
  local p = func.p
  local distance = FUNCTIONS[func.func.name]
  if distance == minkowski then
    if p == 2 then return euclidean elseif p == 1 then return manhattan end
    if not p then
      python.raise("TypeError", "minkowski_distance() missing 1 required positional argument: 'p'")
    end
  end
  return distance, p
end

--- Refuses a point that has no distance to others.
---@param point river.embedded.Point
function search.check_numbers(point)
  if point.other then
    local value = point[point.other]
    python.raise("TypeError", "must be real number, not %s", python.type_name(value))
  end
end

--- The nearest of a list of items, nearer ones first, older ones first among equals.
---@param self table an engine: `dist_func`
---@param query river.embedded.Point
---@param items table[] {x = point}
---@param first integer
---@param last integer
---@param count integer how many at most
---@return table[] items
---@return number[] distances
function search.scan(self, query, items, first, last, count)
  local distance, p = search.distance(self.dist_func)
  if last >= first then search.check_numbers(query) end
  local nearest, distances, found = {}, {}, 0
  for i = first, last do
    local item = items[i]
    if item.x.other then search.check_numbers(item.x) end
    local d = distance(query, item.x, p)
    if found < count or found > 0 and d < distances[found] then
      local place = found < count and found + 1 or found
      found = place
      while place > 1 and distances[place - 1] > d do
        nearest[place], distances[place] = nearest[place - 1], distances[place - 1]
        place = place - 1
      end
      nearest[place], distances[place] = item, d
    end
  end
  return nearest, distances
end

-- ---------------------------------------------------------------------------------------------------- LazySearch

---@class river.embedded.LazySearch a window of the last samples, `items[first..last]`
local LazySearch = registry.class{class = "river.neighbors.LazySearch", role = "engine", params = {
  {"window_size", 50, kind = "integer"},
  {"min_distance_keep", 0.0, kind = "number"},
  search.PARAMETER,
}}

function LazySearch:init()
  search.check_distance(self.dist_func)
  self.items, self.first, self.last = {}, 1, 0
end

--- Adds a sample; the oldest one leaves a full window.
---@param point river.embedded.Point
---@param y any
function LazySearch:append(point, y)
  if self.window_size <= 0 then return end
  local last = self.last + 1
  self.items[last], self.last = {x = point, y = y}, last
  if last - self.first >= self.window_size then
    self.items[self.first] = nil
    self.first = self.first + 1
  end
end

--- The nearest samples and their distances.
---@param query river.embedded.Point
---@param count integer
---@return table[] items {x = point, y = label}
---@return number[] distances
function LazySearch:search(query, count)
  return search.scan(self, query, self.items, self.first, self.last, count)
end

--- The library's version of this fails.
function LazySearch.refresh_targets()
  python.raise("AttributeError", "'tuple' object has no attribute 'item'")
end

return search
