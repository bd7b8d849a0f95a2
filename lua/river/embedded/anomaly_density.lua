--- Anomaly detection by how thinly a sample's surroundings are populated, and by the error of a model.

local python = require "river.embedded.python"
local random = require "river.embedded.random"
local registry = require "river.embedded.registry"
local search = require "river.embedded.neighbors_search"
local stats = require "river.embedded.stats"
local anomaly = require "river.embedded.anomaly"

local huge, log, max, min, sqrt = math.huge, math.log, math.max, math.min, math.sqrt
local None = python.None
local power = require("riverlua.core.math").pow

-- ------------------------------------------------------------------------------------------- local outlier factor

--- How much thinner a sample's surroundings are than those of its neighbors (Breunig, Kriegel, Ng and Sander, 2000).
local LocalOutlierFactor = anomaly.define("LocalOutlierFactor", false, {
  {"n_neighbors", 10, kind = "integer"},
  {"engine", None, kind = "engine", optional = true},
}, {check_target = anomaly.takes_no_target})

function LocalOutlierFactor:init()
  if self.engine == None then
    self.window = registry.build{class = "river.neighbors.LazySearch", kwargs = {window_size = 1000}}
  else
    self.window = registry.clone(self.engine)
  end
end

---@param row river.embedded.Row
function LocalOutlierFactor:learn_one(row)
  self.window:append(search.point(row), None)
end

local function without_first(neighbors, distances)
  return table.move(neighbors, 2, #neighbors, 1, {}), table.move(distances, 2, #distances, 1, {})
end

-- Neighbors and distances of a sample in the window, less itself; each looked up once per score.
local function neighborhood(self, item, known)
  local found = known[item]
  if not found then
    local neighbors, distances = without_first(self.window:search(item.x, self.n_neighbors + 1))
    found = {neighbors = neighbors, distances = distances}
    known[item] = found
  end
  return found
end

-- The inverse of the mean distance to the neighbors, where none counts as nearer than its own farthest neighbor.
local function density(self, neighbors, distances, known)
  if #neighbors == 0 then return huge end
  local total = 0
  for i, neighbor in ipairs(neighbors) do
    local theirs = neighborhood(self, neighbor, known).distances
    total = total + max(distances[i], theirs[#theirs] or 0.0)
  end
  return 1.0 / (total / #neighbors + 1e-10)
end

---@param row river.embedded.Row
---@return number score around 1 where it is as dense as next door, higher for outliers
function LocalOutlierFactor:score_one(row)
  local neighbors, distances = self.window:search(row, self.n_neighbors + 1)
  if distances[1] == 0 then
    neighbors, distances = without_first(neighbors, distances)
  else
    neighbors[self.n_neighbors + 1], distances[self.n_neighbors + 1] = nil, nil
  end
  if #neighbors == 0 then return 0.0 end
  local known, sum = {}, 0
  local own = density(self, neighbors, distances, known)
  for _, neighbor in ipairs(neighbors) do
    local theirs = neighborhood(self, neighbor, known)
    sum = sum + density(self, theirs.neighbors, theirs.distances, known)
  end
  local score = sum / (#neighbors * own)
  return score - score == 0 and score or 0.0
end

-- ----------------------------------------------------------------------------------------------------------- LODA

-- A histogram of at most `limit` bins {left, right, count}; the two nearest are joined (Ben-Haim and Tom-Tov, 2010).
local function add_to(bins, x, limit)
  local low, high = 1, #bins + 1
  while low < high do
    local middle = (low + high) // 2
    if bins[middle][2] < x then low = middle + 1 else high = middle end
  end
  local bin = bins[low]
  if bin and x >= bin[1] then
    bin[3] = bin[3] + 1
  else
    table.insert(bins, low, {x, x, 1})
  end
  if #bins <= limit then return end
  local nearest, place = huge, 1
  for i = 2, #bins do
    local gap = bins[i][2] - bins[i - 1][2]
    if gap < nearest then nearest, place = gap, i - 1 end
  end
  local one, other = bins[place], table.remove(bins, place + 1)
  one[1], one[2], one[3] = min(one[1], other[1]), max(one[2], other[2]), one[3] + other[3]
end

-- The density that a histogram of n values has at z.
local function density_at(bins, n, z)
  for i, bin in ipairs(bins) do
    if z <= bin[2] then
      if z < bin[1] then return 0.0 end
      local width = bin[2] - bin[1]
      if width <= 0 then
        local left = i > 1 and bin[1] - bins[i - 1][2] or huge
        local right = bins[i + 1] and bins[i + 1][1] - bin[2] or huge
        width = min(left, right)
        if width == huge or width <= 0 then return bin[3] / n end
      end
      return bin[3] / n / width
    end
  end
  return 0.0
end

--- Histograms of random projections (Pevný, 2016). With a seed the projections are the library's.
---@class river.embedded.LODA
---@field projections table[] each {names =, weights =, bins =}
local LODA = anomaly.define("LODA", false, {
  {"n_bins", 10, kind = "integer"},
  {"n_random_cuts", 100, kind = "integer"},
  {"seed", None, kind = "integer", optional = true},
}, {check_target = anomaly.takes_no_target})

function LODA:init()
  self.rng, self.projections, self.count = random.new(self.seed), {}, 0
end

local function draw(self, keys)
  local names = table.move(keys, 1, keys.n, 1, {})
  table.sort(names)
  local size = max(1, math.floor(sqrt(#names)))
  for i = 1, self.n_random_cuts do
    local chosen, weights = self.rng:sample(names, size), {}
    for k = 1, size do weights[k] = self.rng:gauss(0.0, 1.0) end
    self.projections[i] = {names = chosen, weights = weights, bins = {}}
  end
end

local function project(projection, row)
  local sum, index = 0, row.keys.index
  for k, name in ipairs(projection.names) do
    local place = index[name]
    local x = place and row[place] or 0.0
    if type(x) ~= "number" then
      python.raise("TypeError", "can't multiply sequence by non-int of type 'float'")
    end
    sum = sum + projection.weights[k] * x
  end
  return sum
end

---@param row river.embedded.Row
function LODA:learn_one(row)
  if #self.projections == 0 then draw(self, row.keys) end
  self.count = self.count + 1
  for _, projection in ipairs(self.projections) do add_to(projection.bins, project(projection, row), self.n_bins) end
end

---@param row river.embedded.Row
---@return number score the mean of the negative logarithms of the densities
function LODA:score_one(row)
  if #self.projections == 0 then return 0.0 end
  local score = 0.0
  for _, projection in ipairs(self.projections) do
    score = score - log(max(density_at(projection.bins, self.count, project(projection, row)), 1e-12))
  end
  return score / self.n_random_cuts
end

-- ------------------------------------------------------------------------------------------- error of a prediction

--- How large the error of a model is beside those it made before (Laptev, Amizadeh and Flint, 2015). As in the library,
--- scoring is what learns the sizes of errors.
local PredictiveAnomalyDetection = anomaly.define("PredictiveAnomalyDetection", true, {
  {"predictive_model", None, kind = "estimator", optional = true},
  {"horizon", 1, kind = "integer"},
  {"n_std", 3.0, kind = "number"},
  {"warmup_period", 0, kind = "integer"},
}, {check_target = anomaly.takes_number})

function PredictiveAnomalyDetection:init()
  if self.predictive_model == None then
    self.predictive_model = registry.build{class = "river.compose.Pipeline", args = {n = 2,
      {class = "river.preprocessing.MinMaxScaler"}, {class = "river.linear_model.LinearRegression"}}}
  end
  self.mean, self.variance, self.count = stats.mean(), stats.var(), 0
end

---@param row river.embedded.Row
---@param y number
function PredictiveAnomalyDetection:learn_one(row, y)
  self.count = self.count + 1
  self.predictive_model:learn_one(row, y)
end

---@param row river.embedded.Row
---@param y number
---@return number score 0 to 1
function PredictiveAnomalyDetection:score_one(row, y)
  local model = self.predictive_model
  if not model.predict_one then model:lacks("predict_one") end
  y = anomaly.number(self, y)
  local prediction = model:predict_one(row)
  local squared = power(prediction - y, 2.0)
  local limit = self.mean.mean + self.n_std * sqrt(self.variance:get())
  if self.count < self.warmup_period then return 0.0 end
  self.mean:update(squared)
  self.variance:update(squared)
  return squared >= limit and 1.0 or squared / limit
end

return {LocalOutlierFactor = LocalOutlierFactor, LODA = LODA}
