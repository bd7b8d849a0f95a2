--- Hoeffding trees for classification and regression.
--
-- A leaf that has seen `grace_period` more samples looks for its best split and carries it out once Hoeffding's bound
-- says that more samples would not change the choice (Hulten, Spencer and Domingos, 2001; Ikonomovska et al., 2011).
-- Numbers are those of the library; only the estimate of the memory that a tree takes, every
-- `memory_estimate_period` samples, is a rough one, as it depends on the size of Python's objects.

local criteria = require "river.embedded.split_criteria"
local nodes = require "river.embedded.hoeffding_nodes"
local python = require "river.embedded.python"
local registry = require "river.embedded.registry"
require "river.embedded.splitters_regression"
local splitters = require "river.embedded.splitters"
local tree_stats = require "river.embedded.tree_stats"

local log, sqrt = math.log, math.sqrt
local None = python.None
local label_key = python.label_key

local hoeffding = {}

-- What Python's recursion limit leaves for a tree without `max_depth`.
local DEEPEST = 980

-- ------------------------------------------------------------------------------------------------- every tree

---@class river.embedded.HoeffdingTree
local Tree = {}
hoeffding.Tree = Tree

local function set_of(list)
  if list == None then return nil end
  local set = {}
  for _, name in ipairs(list) do set[name] = true end
  return set
end

--- What all trees start with.
function Tree:init_tree()
  if self.max_depth == None then self.max_depth = DEEPEST end
  if self.splitter.is_target_class ~= self.of_classes then
    python.raise("ValueError", "The chosen splitter cannot be used in %s tasks.",
      self.of_classes and "classification" or "regression")
  end
  self.nominal = set_of(self.nominal_attributes)
  self.active_leaves, self.inactive_leaves = 0, 0
  self.active_size, self.inactive_size, self.overhead = 0.0, 0.0, 1.0
  self.growth_allowed = true
  self.weight_seen = 0.0
end

--- Hoeffding's bound: how far a mean of `n` values may be from the true one.
function Tree:bound(range, n)
  return sqrt((range * range * log(1.0 / self.delta)) / (2.0 * n))
end

--- The best suggestion and the next best; of equals the later one.
---@return table|nil best
---@return table|nil second
function hoeffding.best_two(suggestions)
  local best, second
  for _, suggestion in ipairs(suggestions) do
    if not best or suggestion.merit >= best.merit then
      best, second = suggestion, best
    elseif not second or suggestion.merit >= second.merit then
      second = suggestion
    end
  end
  return best, second
end

--- Takes a leaf out of growth.
function Tree:deactivate(leaf)
  leaf:deactivate()
  self.active_leaves = self.active_leaves - 1
  self.inactive_leaves = self.inactive_leaves + 1
end

--- Puts a node in the place of another one.
function Tree:replace(node, parent, position)
  if parent then parent.children[position] = node else self.root = node end
end

--- The leaves that a suggestion makes out of one.
function Tree:leaves_of(suggestion, parent)
  local leaves = {}
  for i, stats in ipairs(suggestion.children) do leaves[i] = self:new_leaf(stats, parent) end
  return leaves
end

--- Makes the branch of a suggestion. Adaptive trees add to it.
function Tree.new_branch(_, suggestion, stats, depth, children)
  return nodes.branch(suggestion, stats, depth, children)
end

--- Carries out a suggestion: the leaf rests, or a branch takes its place.
function Tree:split(leaf, suggestion, parent, position)
  if not suggestion.feature then
    self:deactivate(leaf)
  else
    local leaves = self:leaves_of(suggestion, leaf)
    local branch = self:new_branch(suggestion, leaf.stats, leaf.depth, leaves, leaf)
    self.active_leaves = self.active_leaves - 1 + #leaves
    self:replace(branch, parent, position)
  end
  self:enforce_size()
end

--- Lets leaves rest while the tree is too large, and wakes them when there is room.
function Tree:enforce_size()
  local limit = self.max_size * 1048576
  local size = self.overhead * (self.active_size + self.inactive_leaves * self.inactive_size)
  if (self.inactive_leaves > 0 or size > limit) and self.stop_mem_management then
    self.growth_allowed = false
    return
  end
  local leaves, order = nodes.leaves(self.root, {}), {}
  for i, leaf in ipairs(leaves) do order[leaf] = {promise = leaf:promise(), place = i} end
  table.sort(leaves, function(a, b)
    local x, y = order[a], order[b]
    if x.promise ~= y.promise then return x.promise < y.promise end
    return x.place < y.place
  end)
  local active = 0
  while active < #leaves do
    active = active + 1
    if (active * self.active_size + (#leaves - active) * self.inactive_size) * self.overhead > limit then
      active = active - 1
      break
    end
  end
  for i, leaf in ipairs(leaves) do
    if i <= #leaves - active then
      if leaf:is_active() then self:deactivate(leaf) end
    elseif not leaf:is_active() and leaf.depth < self.max_depth then
      leaf:activate(self)
      self.active_leaves = self.active_leaves + 1
      self.inactive_leaves = self.inactive_leaves - 1
    end
  end
end

local function size_of(leaf)
  return 1500 + (leaf.observers and leaf.observers:size() or 0)
end

--- Estimates the size of the tree from time to time.
function Tree:watch_size()
  if self.weight_seen % self.memory_estimate_period ~= 0 then return end
  local active, inactive = 0, 0
  for _, leaf in ipairs(nodes.leaves(self.root, {})) do
    if leaf:is_active() then active = active + size_of(leaf) else inactive = inactive + size_of(leaf) end
  end
  if active > 0 and self.active_leaves > 0 then self.active_size = active / self.active_leaves end
  if inactive > 0 and self.inactive_leaves > 0 then self.inactive_size = inactive / self.inactive_leaves end
  local estimate = self.active_leaves * self.active_size + self.inactive_leaves * self.inactive_size
  local actual = active + inactive + 3000
  if estimate > 0 then self.overhead = actual / estimate end
  if actual > self.max_size * 1048576 then self:enforce_size() end
end

--- The way on from a branch at which a row cannot be told apart: a new leaf for a new value, else the most trodden way.
---@return table leaf
function Tree:leaf_beyond(node, row)
  while node.children do
    local i = node:child_of(row)
    if i then
      node = node.children[i]
    elseif node.mapping and row.keys.index[node.feature] then
      local leaf = self:new_leaf(nil, node)
      node:add_child(row, leaf)
      self.active_leaves = self.active_leaves + 1
      node = leaf
    else
      node = node.children[node:most_common()]
    end
  end
  return node
end

-- Splits a leaf when it is time.
local function grow(self, leaf, parent, row)
  if leaf.depth >= self.max_depth then return self:deactivate(leaf) end
  local seen = leaf:total_weight()
  if seen - leaf.last_attempt >= self.grace_period then
    self:attempt_to_split(leaf, parent, parent and parent:child_of(row))
    leaf.last_attempt = seen
  end
end

--- Learns from a sample; `target` is a label's key or a number.
function Tree:learn(row, target, w)
  self.weight_seen = self.weight_seen + w
  local root = self.root
  if not root then
    root = self:new_leaf()
    self.root, self.active_leaves = root, 1
  end
  local node, parent = nodes.walk(root, row)
  if node.children then
    self:leaf_beyond(node, row):learn(row, target, w, self)
  else
    node:learn(row, target, w, self)
    if self.growth_allowed and node.observers then grow(self, node, parent, row) end
  end
  self:watch_size()
end

-- ---------------------------------------------------------------------------------------------- classification

local Classifier = setmetatable({of_classes = true, supervised = true, role = "estimator"}, {__index = Tree})
hoeffding.Classifier = Classifier

-- Lists of parameters in a row, and the last ones of every tree.
local function with_last(...)
  local params = {}
  for _, list in ipairs{...} do table.move(list, 1, #list, #params + 1, params) end
  return table.move({
    {"memory_estimate_period", 1000000, kind = "integer"},
    {"stop_mem_management", false, kind = "boolean"},
    {"remove_poor_attrs", false, kind = "boolean"},
    {"merit_preprune", true, kind = "boolean"},
  }, 1, 4, #params + 1, params)
end

--- Parameters that classification trees share, with those of a kind of tree in between.
---@param ... table[] parameters that follow `splitter`
function hoeffding.classifier_params(...)
  return with_last({
    {"grace_period", 200, kind = "integer"},
    {"max_depth", None, kind = "integer", optional = true},
    {"split_criterion", "info_gain", kind = "string"},
    {"delta", 1e-7, kind = "number"},
    {"tau", 0.05, kind = "number"},
    {"leaf_prediction", "nba", kind = "string"},
    {"nb_threshold", 0, kind = "integer"},
    {"nominal_attributes", None, kind = "list", optional = true},
    {"splitter", None, kind = "splitter", make = "river.tree.splitter.GaussianSplitter"},
  }, {...}, {
    {"binary_split", false, kind = "boolean"},
    {"min_branch_fraction", 0.01, kind = "number"},
    {"max_share_to_split", 0.99, kind = "number"},
    {"max_size", 100.0, kind = "number"},
  })
end

local LEAVES = {mc = true, nb = true, nba = true}

--- Names that the library does not know mean the default there, too.
function Classifier:init()
  self:init_tree()
  if not criteria.is_known(self.split_criterion) then self.split_criterion = "info_gain" end
  if not LEAVES[self.leaf_prediction] then self.leaf_prediction = "nba" end
  self.labels, self.classes = {}, {}
end

function Classifier:new_leaf(stats, parent)
  return nodes.class_leaf(self, stats, parent and parent.depth + 1 or 0)
end

--- Raises what Python would for a target that cannot be learned from.
function Classifier:check_target(y, inner)
  python.needs_target(self.name, y, inner)
  if type(y) == "table" then python.raise("TypeError", "unhashable type: '%s'", python.type_name(y)) end
end

--- The key of a label, which is remembered.
function Classifier:see(y)
  local key = label_key(y)
  if self.labels[key] == nil then
    self.labels[key] = y == nil and None or y
    self.classes[#self.classes + 1] = key
    self.sorted = nil
  end
  return key
end

---@param row river.embedded.Row
---@param y any
---@param w number|nil weight, 1 unless given
function Classifier:learn_one(row, y, w)
  self:learn(row, self:see(y), w or 1.0)
end

--- The criterion that splits are judged by.
function Classifier:criterion()
  return criteria.of_classes(self.split_criterion, self.min_branch_fraction)
end

--- What a leaf might become.
function Classifier:suggestions(leaf, criterion)
  if leaf:is_dominated(self.max_share_to_split) then return {splitters.NO_SPLIT} end
  local list = {self.merit_preprune and splitters.NO_SPLIT or nil}
  leaf.observers:suggest(criterion, leaf.stats, self, list)
  return list
end

-- Forgets features that are far from being the best.
local function remove_poor(leaf, suggestions, best, bound)
  for _, suggestion in ipairs(suggestions) do
    if suggestion.feature and suggestion.feature ~= "" and best.merit - suggestion.merit > bound then
      leaf:disable(suggestion.feature)
    end
  end
end

function Classifier:attempt_to_split(leaf, parent, position)
  if nodes.is_pure(leaf.stats) then return end
  local criterion = self:criterion()
  local suggestions = self:suggestions(leaf, criterion)
  local best, second = hoeffding.best_two(suggestions)
  if not best then return end
  if second then
    local bound = self:bound(criterion:range(leaf.stats), leaf:total_weight())
    if self.remove_poor_attrs then remove_poor(leaf, suggestions, best, bound) end
    if not (best.merit - second.merit > bound or bound < self.tau) then return end
  end
  self:split(leaf, best, parent, position)
end

local probabilities = {}

-- The classes in the order in which Python lists them.
local function sorted_classes(self)
  local sorted = self.sorted
  if not sorted then
    sorted = tree_stats.sort(table.move(self.classes, 1, #self.classes, 1, {}))
    self.sorted = sorted
  end
  return sorted
end

--- Probabilities per label, and the labels in order.
---@param row river.embedded.Row
---@return table probs label → probability
---@return any[] order
function Classifier:predict_proba_one(row)
  local sorted, labels, probs, order = sorted_classes(self), self.labels, {}, {}
  for i = 1, #sorted do
    local label = labels[sorted[i]]
    order[i], probs[label] = label, 0.0
  end
  if self.root then
    local leaf = nodes.leaf_of(self.root, row)
    local keys = leaf.stats.keys
    for i = 1, leaf:probabilities(row, self, probabilities) do probs[labels[keys[i]]] = probabilities[i] end
  end
  return probs, order
end

--- The likeliest label; None before there is any.
---@param row river.embedded.Row
---@return any
function Classifier:predict_one(row)
  local sorted = sorted_classes(self)
  if #sorted == 0 then return nil end
  local leaf = nodes.leaf_of(self.root, row)
  local place, best, most = leaf.stats.place, nil, nil
  local n = leaf:probabilities(row, self, probabilities)
  for i = 1, #sorted do
    local at = place[sorted[i]]
    local p = at and at <= n and probabilities[at] or 0.0
    if not most or p > most then best, most = sorted[i], p end
  end
  local label = self.labels[best]
  if label == None then return nil end
  return label
end

-- -------------------------------------------------------------------------------------------------- regression

local Regressor = setmetatable({of_classes = false, supervised = true, role = "estimator"}, {__index = Tree})
hoeffding.Regressor = Regressor

--- Parameters that regression trees share, with those of a kind of tree in between.
---@param ... table[] parameters that follow `min_samples_split`
function hoeffding.regressor_params(...)
  return with_last({
    {"grace_period", 200, kind = "integer"},
    {"max_depth", None, kind = "integer", optional = true},
    {"delta", 1e-7, kind = "number"},
    {"tau", 0.05, kind = "number"},
    {"leaf_prediction", "adaptive", kind = "string"},
    {"leaf_model", None, kind = "estimator", make = "river.linear_model.LinearRegression"},
    {"model_selector_decay", 0.95, kind = "number"},
    {"nominal_attributes", None, kind = "list", optional = true},
    {"splitter", None, kind = "splitter", make = "river.tree.splitter.TEBSTSplitter"},
    {"min_samples_split", 5, kind = "integer"},
  }, {...}, {
    {"binary_split", false, kind = "boolean"},
    {"max_size", 500.0, kind = "number"},
  })
end

local MODES = {mean = true, model = true, adaptive = true}

function Regressor:init()
  self:init_tree()
  if not MODES[self.leaf_prediction] then self.leaf_prediction = "model" end
  -- Of the library's regressors the linear one alone takes a weight; others learn a sample several times.
  self.leaf_model_takes_weight = self.leaf_model.class == "river.linear_model.LinearRegression"
end

function Regressor:new_leaf(stats, parent)
  return nodes.number_leaf(self, stats, parent and parent.depth + 1 or 0, parent)
end

--- Raises what Python would for a target that cannot be learned from.
function Regressor:check_target(y, inner)
  python.needs_target(self.name, y, inner)
  if type(y) ~= "number" and type(y) ~= "boolean" then
    python.raise("TypeError", "unsupported operand type(s) for -: '%s' and 'float'", python.type_name(y))
  end
end

--- A target as a number.
function hoeffding.number(y)
  if y == true then return 1 elseif y == false then return 0 end
  return y
end

---@param row river.embedded.Row
---@param y number|boolean
---@param w number|nil weight, 1 unless given
function Regressor:learn_one(row, y, w)
  self:learn(row, hoeffding.number(y), w or 1.0)
end

function Regressor:suggestions(leaf, criterion)
  local list = {self.merit_preprune and splitters.NO_SPLIT or nil}
  leaf.observers:suggest(criterion, leaf.stats, self, list)
  return list
end

local function remove_poor_ratio(leaf, suggestions, best, second, bound)
  if best.merit == 0 then python.raise("ZeroDivisionError", "float division by zero") end
  local ratio = second.merit / best.merit
  for _, suggestion in ipairs(suggestions) do
    if suggestion.feature and suggestion.feature ~= "" and suggestion.merit / best.merit < ratio - 2 * bound then
      leaf:disable(suggestion.feature)
    end
  end
end

function Regressor:attempt_to_split(leaf, parent, position)
  local criterion = criteria.of_numbers(self.min_samples_split)
  local suggestions = self:suggestions(leaf, criterion)
  local best, second = hoeffding.best_two(suggestions)
  if not best then return end
  if second then
    local bound = self:bound(criterion:range(leaf.stats), leaf:total_weight())
    if self.remove_poor_attrs then remove_poor_ratio(leaf, suggestions, best, second, bound) end
    if not (best.merit > 0.0 and (second.merit / best.merit < 1 - bound or bound < self.tau)) then
      if best.merit > 0 and second.merit > 0 then
        local last = {ratio = second.merit / best.merit, merit = best.merit, bound = bound}
        leaf.observers:remove_bad_splits(criterion, last, leaf.stats)
      end
      return
    end
  end
  self:split(leaf, best, parent, position)
end

--- The target as the leaf sees it; 0 before there is any.
---@param row river.embedded.Row
---@return number
function Regressor:predict_one(row)
  if not self.root then return 0.0 end
  return nodes.leaf_of(self.root, row):prediction(row, self)
end

-- ----------------------------------------------------------------------------------------------------- classes

--- Gives a class the methods of others; earlier ones come first.
---@param class table
---@param ... table
---@return table class
function hoeffding.inherit(class, ...)
  for _, source in ipairs{...} do
    local from = source
    while from do
      for name, value in pairs(from) do
        if rawget(class, name) == nil and name:sub(1, 2) ~= "__" then class[name] = value end
      end
      local metatable = getmetatable(from)
      from = metatable and metatable.__index ~= from and metatable.__index
    end
  end
  return class
end

local transient = {"sorted"}

hoeffding.HoeffdingTreeClassifier = hoeffding.inherit(registry.class{
  class = "river.tree.HoeffdingTreeClassifier", role = "estimator", transient = transient,
  params = hoeffding.classifier_params(),
}, Classifier)

hoeffding.HoeffdingTreeRegressor = hoeffding.inherit(registry.class{
  class = "river.tree.HoeffdingTreeRegressor", role = "estimator", params = hoeffding.regressor_params(),
}, Regressor)

return hoeffding
