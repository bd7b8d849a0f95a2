--- Feature selection.

local key_sets = require "river.embedded.key_sets"
local python = require "river.embedded.python"
local random = require "river.embedded.random"
local registry = require "river.embedded.registry"

local None = python.None

local function define(name, spec)
  spec.class, spec.role = "river.feature_selection." .. name, "estimator"
  spec.transient = {"cache", "out"}
  local class = registry.class(spec)
  function class:revive() self.cache, self.out = key_sets.new(), {} end
  return class
end

local function no_target(self, y)
  python.takes_no_target(self.name == "PoissonInclusion" and "Transformer" or self.name, y)
end

local function check_difference(value)
  if type(value) ~= "number" then
    python.raise("TypeError", "unsupported operand type(s) for -: '%s' and 'float'", python.type_name(value))
  end
end

local function check_differences(row)
  if not row.other then return end
  for i = 1, row.keys.n do check_difference(row[i]) end
end

-- The place of a feature in an estimator's lists, a new one if it has none.
local function place_of(self, name)
  local place = self.place[name]
  if place then return place, false end
  place = #self.names + 1
  self.place[name], self.names[place] = place, name
  return place, true
end

-- ------------------------------------------------------------------------------------------------------ the k best

--- Keeps the k features that are most similar to the target.
---
--- For a pipeline the library takes it for a model (a supervised transformer is no `Transformer` there): the steps
--- after it learn from all features, and predict from the chosen ones. Hence no `transformer` here.
local SelectKBest = define("SelectKBest", {supervised = true, params = {
  {"similarity", kind = "stat", required = true}, {"k", 10, kind = "integer", optional = true},
  {"use_abs", false, kind = "boolean"},
}})

function SelectKBest:init()
  self.place, self.names, self.similarities, self.scores = {}, {}, {}, {}
  self.best = nil
  self:revive()
end

function SelectKBest.check_target(_, y, inner)
  python.needs_target("SelectKBest", y, inner)
  if type(y) ~= "boolean" then check_difference(y) end
end

---@param row river.embedded.Row
---@param y number|boolean
function SelectKBest:learn_one(row, y)
  check_differences(row)
  if y == true then y = 1 elseif y == false then y = 0 end
  local keys = row.keys
  for i = 1, keys.n do
    local place, added = place_of(self, keys[i])
    if added then self.similarities[place] = registry.clone(self.similarity) end
    self.similarities[place]:update(row[i], y)
    local score = self.similarities[place]:get()
    self.scores[place] = self.use_abs and math.abs(score) or score
  end
  self.best = nil
end

-- The names of the best; of equal ones those that came first.
local function best_of(self)
  local places, scores, best = {}, self.scores, {}
  for place = 1, #self.names do places[place] = place end
  table.sort(places, function(a, b)
    if scores[a] ~= scores[b] then return scores[a] > scores[b] end
    return a < b
  end)
  local count = self.k == None and #places or math.min(self.k, #places)
  for i = 1, count do best[self.names[places[i]]] = true end
  return best
end

---@param row river.embedded.Row
---@return river.embedded.Row valid until the next call
function SelectKBest:transform_one(row)
  if #self.names == 0 then return row end
  local best = self.best or best_of(self)
  self.best = best
  local keys, passes = row.keys, {}
  for i = 1, keys.n do passes[i] = best[keys[i]] or false end
  return key_sets.filter(self.cache, row, passes, self.out)
end

-- ------------------------------------------------------------------------------------------------------- variance

--- Drops features that vary too little.
local VarianceThreshold = define("VarianceThreshold", {
  transformer = true, supervised = false, check_target = no_target,
  params = {{"threshold", 0, kind = "number"}, {"min_samples", 2, kind = "integer"}},
})

function VarianceThreshold:init()
  self.place, self.names, self.counts, self.means, self.squares = {}, {}, {}, {}, {}
  self:revive()
end

---@param row river.embedded.Row
function VarianceThreshold:learn_one(row)
  check_differences(row)
  local keys, counts, means, squares = row.keys, self.counts, self.means, self.squares
  for i = 1, keys.n do
    local place, added = place_of(self, keys[i])
    if added then counts[place], means[place], squares[place] = 0.0, 0.0, 0.0 end
    local x, before, n = row[i], means[place], counts[place] + 1.0
    local mean = before + 1.0 / n * (x - before)
    counts[place], means[place] = n, mean
    squares[place] = squares[place] + (x - before) * (x - mean)
  end
end

local function varies(self, name)
  local place = self.place[name]
  local n = place and self.counts[place]
  if not n or n < self.min_samples then return true end
  return (n > 1 and self.squares[place] / (n - 1) or 0.0) > self.threshold
end

---@param row river.embedded.Row
---@return river.embedded.Row valid until the next call
function VarianceThreshold:transform_one(row)
  local keys, passes = row.keys, {}
  for i = 1, keys.n do passes[i] = varies(self, keys[i]) end
  return key_sets.filter(self.cache, row, passes, self.out)
end

function VarianceThreshold:state(pickle)
  local list = {}
  for place, name in ipairs(self.names) do
    local mean = pickle.object("river.stats.Mean", nil,
      {state = {{"n", self.counts[place]}, {"_mean", self.means[place]}}})
    list[place] = {name, pickle.object("river.stats.Var", nil,
      {state = {{"ddof", 1}, {"mean", mean}, {"_S", self.squares[place]}}})}
  end
  return {
    {"variances", pickle.object("collections.defaultdict", {pickle.reference("river.stats.Var"), pickle.dict(list)})},
  }
end

function VarianceThreshold:restore(state)
  if state.variances == nil then return end
  local pickle = require "river.embedded.pickle"
  for _, pair in ipairs(state.variances.args[2] or {}) do
    local place, var = place_of(self, pickle.name(pair[1])), pair[2].state
    self.counts[place], self.means[place] = pickle.number(var.mean.state.n), pickle.number(var.mean.state._mean)
    self.squares[place] = pickle.number(var._S)
  end
end

-- --------------------------------------------------------------------------------------------- inclusion by chance

--- Lets a feature in with probability p each time it is seen, and for good.
local PoissonInclusion = define("PoissonInclusion", {
  transformer = true, supervised = false, check_target = no_target,
  params = {{"p", kind = "number", required = true}, {"seed", None, kind = "integer", optional = true}},
})

PoissonInclusion.restless = true

function PoissonInclusion:init()
  self.included, self.rng = {}, random.new(self.seed ~= None and self.seed or nil)
  self:revive()
end

function PoissonInclusion.learn_one() end

---@param row river.embedded.Row
---@return river.embedded.Row valid until the next call
function PoissonInclusion:transform_one(row)
  local keys, passes, included = row.keys, {}, self.included
  for i = 1, keys.n do
    local name = keys[i]
    if not included[name] and self.rng:random() < self.p then included[name] = true end
    passes[i] = included[name] or false
  end
  return key_sets.filter(self.cache, row, passes, self.out)
end

return {SelectKBest = SelectKBest, VarianceThreshold = VarianceThreshold, PoissonInclusion = PoissonInclusion}
