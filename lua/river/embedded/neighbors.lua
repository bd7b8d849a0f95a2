--- Nearest neighbors: a prediction is made out of the labels of the nearest samples in a window.
--
-- With `LazySearch`, and with `SWINN` and a seed, the numbers are the library's. Probabilities come in the order of
-- Python's set of labels, where strings are ordered as under PYTHONHASHSEED=0 (hash_order.lua).

local exact_mean = require "river.embedded.exact_mean"
local hash_order = require "river.embedded.hash_order"
local label_book = require "river.embedded.label_book"
local python = require "river.embedded.python"
local registry = require "river.embedded.registry"
local search = require "river.embedded.neighbors_search"
require "river.embedded.neighbors_swinn"

local exp, label_key = math.exp, python.label_key
local None = python.None

local ENGINE = {"engine", None, kind = "engine", make = "river.neighbors.SWINN"}

-- The window is the model's own, whatever else the engine was given to.
local function own_engine(self)
  self.window = registry.clone(self.engine)
end

-- --------------------------------------------------------------------------------------------------- classifier

local KNNClassifier = registry.class{class = "river.neighbors.KNNClassifier", role = "estimator", supervised = true,
  params = {
    {"n_neighbors", 5, kind = "integer"},
    ENGINE,
    {"weighted", true, kind = "boolean"},
    {"cleanup_every", 0, kind = "integer"},
    {"softmax", false, kind = "boolean"},
  }}

function KNNClassifier:init()
  own_engine(self)
  self.classes = hash_order.set()
  self.until_cleanup = self.cleanup_every
end

--- Raises what Python would for a label that cannot be learned from.
---@param y any
---@param inner boolean|nil
function KNNClassifier:check_target(y, inner)
  label_book.check(self.name, y, inner)
  if self.cleanup_every ~= 0 and self.until_cleanup == 1 and self.window.name == "LazySearch" then
    self.window.refresh_targets()
  end
end

---@param row river.embedded.Row
---@param y any
function KNNClassifier:learn_one(row, y)
  if y == nil then y = None end
  self.window:append(search.point(row), y)
  self.classes:add(y)
  if self.cleanup_every == 0 then return end
  self.until_cleanup = self.until_cleanup - 1
  if self.until_cleanup == 0 then
    self:clean_up_classes()
    self.until_cleanup = self.cleanup_every
  end
end

--- Forgets the labels that are in the window no more.
function KNNClassifier:clean_up_classes()
  self.classes = hash_order.set(self.window:refresh_targets())
end

-- Turns votes into probabilities by their exponentials.
local function softmax(votes, keys)
  local highest, total = votes[keys[1]], 0.0
  for _, key in ipairs(keys) do
    if votes[key] > highest then highest = votes[key] end
  end
  for _, key in ipairs(keys) do
    votes[key] = exp(votes[key] - highest)
    total = total + votes[key]
  end
  for _, key in ipairs(keys) do votes[key] = votes[key] / total end
end

local function share(votes, keys)
  local total = 0
  for _, key in ipairs(keys) do total = total + votes[key] end
  if total == 0 then python.raise("ZeroDivisionError", "float division by zero") end
  for _, key in ipairs(keys) do votes[key] = votes[key] / total end
end

-- Adds the votes of the neighbors up; true when they are probabilities already.
local function vote(self, votes, neighbors, distances)
  if distances[1] == 0 and neighbors[1].y ~= None then
    votes[label_key(neighbors[1].y)] = 1.0
    return true
  end
  for i, neighbor in ipairs(neighbors) do
    local key = label_key(neighbor.y)
    if not votes[key] then python.raise("KeyError", "%s", python.str(neighbor.y)) end
    if self.weighted and distances[i] == 0 then python.raise("ZeroDivisionError", "float division by zero") end
    votes[key] = votes[key] + (self.weighted and 1.0 / distances[i] or 1.0)
  end
end

---@param row river.embedded.Row
---@return table<any, number> probabilities
---@return any[] labels in Python's order
function KNNClassifier:predict_proba_one(row)
  local neighbors, distances = self.window:search(row, self.n_neighbors)
  local labels, votes, keys, probabilities = self.classes:items(), {}, {}, {}
  for i, label in ipairs(labels) do
    keys[i] = label_key(label)
    votes[keys[i]] = 0.0
  end
  if #neighbors == 0 then
    for _, key in ipairs(keys) do votes[key] = 1 / #labels end
  elseif not vote(self, votes, neighbors, distances) then
    if self.softmax then softmax(votes, keys) else share(votes, keys) end
  end
  for i, label in ipairs(labels) do probabilities[label] = votes[keys[i]] end
  return probabilities, labels
end

---@param row river.embedded.Row
---@return any label nil before the first sample
function KNNClassifier:predict_one(row)
  local probabilities, labels = self:predict_proba_one(row)
  local best
  for _, label in ipairs(labels) do
    if best == nil or probabilities[label] > probabilities[best] then best = label end
  end
  if best == None then return nil end
  return best
end

-- ---------------------------------------------------------------------------------------------------- regressor

local KNNRegressor = registry.class{class = "river.neighbors.KNNRegressor", role = "estimator", supervised = true,
  params = {
    {"n_neighbors", 5, kind = "integer"},
    ENGINE,
    {"aggregation_method", "mean", kind = "string"},
  }}

function KNNRegressor:init()
  own_engine(self)
  local method = self.aggregation_method
  if method ~= "mean" and method ~= "median" and method ~= "weighted_mean" then
    python.raise("ValueError",
      "Invalid aggregation_method: %s.\nValid options are: ('mean', 'median', 'weighted_mean')", method)
  end
end

function KNNRegressor:check_target(y, inner) python.needs_target(self.name, y, inner) end

---@param row river.embedded.Row
---@param y any
function KNNRegressor:learn_one(row, y)
  if y == true then y = 1 elseif y == false then y = 0 elseif y == nil then y = None end
  self.window:append(search.point(row), y)
end

-- Python's `statistics.mean`: whole numbers stay whole when they can.
local function mean(values)
  local result, whole = exact_mean(values), true
  for _, value in ipairs(values) do whole = whole and math.type(value) == "integer" end
  return whole and math.tointeger(result) or result
end

local function median(values)
  table.sort(values)
  local count = #values
  if count % 2 == 1 then return values[(count + 1) // 2] end
  return (values[count // 2] + values[count // 2 + 1]) / 2
end

---@param row river.embedded.Row
---@return number
function KNNRegressor:predict_one(row)
  local neighbors, distances = self.window:search(row, self.n_neighbors)
  if #neighbors == 0 then return 0.0 end
  if distances[1] == 0 then
    if neighbors[1].y == None then return nil end
    return neighbors[1].y
  end
  local values = {}
  for i, neighbor in ipairs(neighbors) do
    if type(neighbor.y) ~= "number" then
      python.raise("TypeError", "can't convert type '%s' to numerator/denominator",
        python.type_name(neighbor.y))
    end
    values[i] = neighbor.y
  end
  if self.aggregation_method == "median" then return median(values) end
  local total, sum = 0, 0
  for i, distance in ipairs(distances) do
    total = total + 1 / distance
    sum = sum + values[i] / distance
  end
  if self.aggregation_method == "mean" or total == 0 then return mean(values) end
  return sum / total
end

return {KNNClassifier = KNNClassifier, KNNRegressor = KNNRegressor}
