--- Clustering.

local hash_order = require "river.embedded.hash_order"
local python = require "river.embedded.python"
local random = require "river.embedded.random"
local registry = require "river.embedded.registry"

local None = python.None
local power = require("riverlua.core.math").pow

--- K-means, a sample at a time: the center that is nearest moves towards the sample (MacQueen, 1967).
--
-- With a seed the centers are those of the library under PYTHONHASHSEED=0: it draws their places feature by feature in
-- the order of a set of names, which every other Python process has in an order of its own.
---@class river.embedded.KMeans
---@field centers table[] one per cluster: position of a feature in `names` → coordinate
---@field names string[][] one list per cluster: the features in the order in which their coordinates were drawn
local KMeans = registry.class{class = "river.cluster.KMeans", role = "estimator", supervised = false,
  transient = {"orders"}, restless = true,
  params = {
    {"n_clusters", 5, kind = "integer"},
    {"halflife", 0.5, kind = "number"},
    {"mu", 0, kind = "number"},
    {"sigma", 1, kind = "number"},
    {"p", 2, kind = "number"},
    {"seed", None, kind = "integer", optional = true},
  }}

function KMeans:init()
  self.rng = random.new(self.seed)
  self.centers, self.names = {}, {}
  for i = 1, self.n_clusters do self.centers[i], self.names[i] = {}, {} end
end

local function refuse_number(value)
  python.raise("TypeError", "unsupported operand type(s) for -: 'float' and '%s'", python.type_name(value))
end

--- The library's learns without a target.
---@param y any
---@param inner boolean|nil true inside a pipeline, which keeps the target to itself
function KMeans:check_target(y, inner)
  if not inner then python.takes_no_target(self.name, y) end
end

-- The features of a center and of a sample in the order in which their distances are added. It changes only with the
-- names of either; most samples have the same.
local function order_of(self, cluster, keys)
  local orders = self.orders
  if not orders then
    orders = {}
    self.orders = orders
  end
  local order = orders[cluster]
  if not order or order.keys ~= keys or order.count ~= #self.names[cluster] then
    order = hash_order.joined(self.names[cluster], keys)
    order.keys, order.count = keys, #self.names[cluster]
    orders[cluster] = order
  end
  return order
end

-- A coordinate, drawn when it is first asked for.
local function coordinate(self, cluster, name)
  local center = self.centers[cluster]
  local value = center[name]
  if not value then
    value = self.rng:gauss(self.mu, self.sigma)
    center[name] = value
    local names = self.names[cluster]
    names[#names + 1] = name
  end
  return value
end

local function distance(self, cluster, row)
  local center, index, p, sum = self.centers[cluster], row.keys.index, self.p, 0
  for _, name in ipairs(order_of(self, cluster, row.keys)) do
    local c = center[name] or coordinate(self, cluster, name)
    local i = index[name]
    local x = i and row[i] or 0
    if type(x) ~= "number" then refuse_number(x) end
    local d = c - x
    sum = sum + power(d < 0 and -d or d, p)
  end
  return sum
end

--- The number of the nearest cluster, from 0.
---@param row river.embedded.Row
---@return integer
function KMeans:predict_one(row)
  local best, nearest
  for cluster = 1, self.n_clusters do
    local d = distance(self, cluster, row)
    if not best or d < nearest then best, nearest = cluster, d end
  end
  if not best then python.raise("ValueError", "min() arg is an empty sequence") end
  return best - 1
end

---@param row river.embedded.Row
function KMeans:learn_one(row)
  local cluster = self:predict_one(row) + 1
  local center, keys = self.centers[cluster], row.keys
  for i = 1, keys.n do
    local name = keys[i]
    local c = center[name] or coordinate(self, cluster, name)
    center[name] = c + self.halflife * (row[i] - c)
  end
end

return {KMeans = KMeans}
