--- Nodes of Hoeffding trees: branches, which test one feature, and the leaves of both tasks.

local math_core = require "riverlua.core.math"
local observers = require "river.embedded.hoeffding_observers"
local python = require "river.embedded.python"
local registry = require "river.embedded.registry"
local snapshot = require "river.embedded.snapshot"
local tree_stats = require "river.embedded.tree_stats"

local floor = math.floor
local power = math_core.pow
local count, sum = tree_stats.count, tree_stats.sum

local nodes = {}

-- ----------------------------------------------------------------------------------------------------- branches

---@class river.embedded.TreeBranch
---@field feature string
---@field children table[]
---@field stats table the leaf's statistics at the split
---@field depth integer
---@field threshold number|nil numeric test in two: up to it, and above
---@field value any|nil nominal test in two: equal, or not
---@field mapping table|nil one branch per value (or per slot of `radius` width): value → child
---@field radius number|nil
local Branch = {}
Branch.__index = Branch

nodes.Branch = registry.helper("river.embedded.TreeBranch", Branch)

--- Makes a branch out of a suggestion.
---@param suggestion table see splitters.lua
---@param stats table
---@param depth integer
---@param children table[]
---@return river.embedded.TreeBranch
function nodes.branch(suggestion, stats, depth, children)
  local self = setmetatable({feature = suggestion.feature, children = children, stats = stats, depth = depth}, Branch)
  local info = suggestion.info
  if suggestion.multiway then
    self.mapping, self.radius = {}, not suggestion.nominal and info.radius or nil
    for i, value in ipairs(suggestion.nominal and info or info.slots) do self.mapping[value] = i end
  elseif suggestion.nominal then
    self.value = info
  else
    self.threshold = info
  end
  return self
end

local function refuse_operand(value, operator)
  python.raise("TypeError", operator == "/" and "unsupported operand type(s) for /: '%s' and 'float'"
    or "'<=' not supported between instances of '%s' and 'float'", python.type_name(value))
end

--- The child that a row belongs to.
---@param row river.embedded.Row
---@return integer|nil nil when the feature is missing or its value has no child yet
function Branch:child_of(row)
  local position = row.keys.index[self.feature]
  if not position then return nil end
  local value, threshold = row[position], self.threshold
  if threshold then
    if type(value) ~= "number" then refuse_operand(value, "<=") end
    return value <= threshold and 1 or 2
  end
  if self.radius then
    if type(value) ~= "number" then refuse_operand(value, "/") end
    return self.mapping[floor(value / self.radius)]
  end
  value = tree_stats.value_key(value)
  if self.mapping then return self.mapping[value] end
  return value == self.value and 1 or 2
end

--- Adds a child for the value that a row has.
function Branch:add_child(row, child)
  local value = row[row.keys.index[self.feature]]
  local key = self.radius and floor(value / self.radius) or tree_stats.value_key(value)
  self.children[#self.children + 1] = child
  self.mapping[key] = #self.children
end

--- The weight of the samples that the leaves below have seen.
---@return number
function Branch:total_weight()
  local total = 0
  for i = 1, #self.children do total = total + self.children[i]:total_weight() end
  return total
end

--- The child that has seen most.
---@return integer
function Branch:most_common()
  local children = self.children
  local best, most = 1, children[1]:total_weight()
  for i = 2, #children do
    local weight = children[i]:total_weight()
    if weight > most then best, most = i, weight end
  end
  return best
end

--- The node that a row reaches: a leaf, or the branch where the way ends.
---@param row river.embedded.Row
---@return table node
---@return table|nil parent
function nodes.walk(node, row)
  local parent
  while node.children do
    local i = node:child_of(row)
    if not i then break end
    parent, node = node, node.children[i]
  end
  return node, parent
end

--- The leaf that a row reaches; where the way ends, the most trodden one goes on.
---@param row river.embedded.Row
---@return table leaf
function nodes.leaf_of(node, row)
  while node.children do node = node.children[node:child_of(row) or node:most_common()] end
  return node
end

--- Appends the leaves below a node, from the left.
---@param node table
---@param list table[]
---@return table[] list
function nodes.leaves(node, list)
  if not node.children then
    list[#list + 1] = node
    return list
  end
  for _, child in ipairs(node.children) do
    nodes.leaves(child, list)
    if child.alternate then nodes.leaves(child.alternate, list) end
  end
  return list
end

-- ------------------------------------------------------------------------------------------------------- leaves

-- What the leaves of both tasks share.

local function is_active(self)
  return self.observers ~= nil
end

local function deactivate(self)
  self.observers = nil
end

local function activate(self, tree)
  if not self.observers then self.observers = observers.new(tree, self.disabled, self.features) end
end

local function observe(self, row, target, w, tree)
  if tree.choose_features then tree:choose_features(self, row) end
  self.observers:update(row, target, w, tree)
end

local function new_leaf(class, tree, stats, depth)
  local self = setmetatable({stats = stats, depth = depth, disabled = {}}, class)
  self.observers = observers.new(tree, self.disabled)
  self.last_attempt = self:total_weight()
  return self
end

nodes.new_leaf = new_leaf

local function leaf_class(name)
  local class = {is_active = is_active, deactivate = deactivate, activate = activate}
  class.__index = class
  return registry.helper("river.embedded." .. name, class)
end

-- ------------------------------------------------------------------------------------- leaves of classification

---@class river.embedded.ClassLeaf
---@field stats river.embedded.Counts
---@field mode string "mc", "nb" or "nba"
local ClassLeaf = leaf_class("ClassLeaf")
nodes.ClassLeaf = ClassLeaf

local scratch = {}

--- Makes a leaf of a classification tree.
function nodes.class_leaf(tree, stats, depth)
  local self = new_leaf(ClassLeaf, tree, stats or tree_stats.counts(), depth)
  self.mode = tree.leaf_prediction
  if self.mode == "nba" then self.mc_correct, self.nb_correct = 0.0, 0.0 end
  return self
end

function ClassLeaf:total_weight()
  local values, total = self.stats.values, 0
  for i = 1, #values do total = total + values[i] end
  return total
end

-- The shares of the classes.
local function shares(stats, out)
  local values, n = stats.values, stats.n
  local total = sum(values)
  local scale = (total == 0 or total ~= total) and 1 or 1 / total
  for i = 1, n do out[i] = values[i] * scale end
  return n
end

nodes.shares = shares

--- Fills `out` with the probabilities of the classes of `stats`.
---@return integer number of classes; 0 when the leaf knows nothing
function ClassLeaf:probabilities(row, tree, out)
  local mode = self.mode
  if mode ~= "mc" and self.observers then
    if mode == "nb" then
      if self:total_weight() >= tree.nb_threshold then return self.observers:naive_bayes(row, self.stats, out) end
    elseif self.nb_correct >= self.mc_correct then
      return self.observers:naive_bayes(row, self.stats, out)
    end
  end
  return shares(self.stats, out)
end

-- Which of the two ways to predict would have been right.
local function compare_predictions(self, row, key, w)
  local stats = self.stats
  local n = shares(stats, scratch)
  local winner = 1
  for i = 2, n do
    if scratch[i] > scratch[winner] then winner = i end
  end
  if n == 0 or stats.keys[winner] == key then self.mc_correct = self.mc_correct + w end
  winner = self.observers:naive_bayes_winner(row, stats, scratch)
  if winner and stats.keys[winner] == key then self.nb_correct = self.nb_correct + w end
end

function ClassLeaf:learn(row, key, w, tree)
  local active = self.observers
  if active and self.mode == "nba" then compare_predictions(self, row, key, w) end
  count(self.stats, key, w)
  if active then observe(self, row, key, w, tree) end
end

--- Poor features stay where naive Bayes needs them.
function ClassLeaf:disable(name)
  if self.mode == "mc" then self.observers:disable(name) end
end

local function most_of(values)
  local most = values[1]
  for i = 2, #values do
    if values[i] > most then most = values[i] end
  end
  return most
end

--- Tells whether one class has so much of the weight that a split is not worth a try.
function ClassLeaf:is_dominated(share)
  local most = most_of(self.stats.values)
  return most ~= 0 and most / self:total_weight() > share
end

--- How likely a split is: the weight of all classes but the largest.
function ClassLeaf:promise()
  local total = sum(self.stats.values)
  if total > 0 then return total - most_of(self.stats.values) end
  return 0
end

--- Tells whether all samples are of one class.
---@param stats river.embedded.Counts
---@return boolean
function nodes.is_pure(stats)
  local classes = 0
  for i = 1, stats.n do
    if stats.values[i] ~= 0 then classes = classes + 1 end
  end
  return classes < 2
end

-- ------------------------------------------------------------------------------------------ leaves of regression

---@class river.embedded.NumberLeaf
---@field stats river.embedded.Var
---@field mode string "mean", "model" or "adaptive"
local NumberLeaf = leaf_class("NumberLeaf")
nodes.NumberLeaf = NumberLeaf

local function copy_model(model)
  return snapshot.load(snapshot.dump(model))
end

--- Makes a leaf of a regression tree; its model starts where that of the parent is.
---@param class table|nil NumberLeaf unless given
function nodes.number_leaf(tree, stats, depth, parent, class)
  local self = new_leaf(class or NumberLeaf, tree, stats or tree_stats.var(), depth)
  self.mode = tree.leaf_prediction
  if self.mode ~= "mean" then
    self.model = copy_model(parent and parent.model or tree.leaf_model)
    self.weighted = tree.leaf_model_takes_weight
  end
  if self.mode == "adaptive" then
    self.mean_error, self.model_error = 0.0, 0.0
    if parent and parent.mean_error then
      self.mean_error, self.model_error = parent.mean_error, parent.model_error
    end
  end
  return self
end

function NumberLeaf:total_weight()
  return self.stats.n
end

function NumberLeaf:prediction(row)
  local mode = self.mode
  if mode == "mean" or mode == "adaptive" and self.mean_error < self.model_error then return self.stats.mean end
  return self.model:predict_one(row)
end

function NumberLeaf:learn(row, y, w, tree)
  local mode = self.mode
  if mode == "adaptive" then
    local of_mean, of_model = y - self.stats.mean, y - self.model:predict_one(row)
    local decay = tree.model_selector_decay
    self.mean_error = decay * self.mean_error + power(of_mean, 2.0)
    self.model_error = decay * self.model_error + power(of_model, 2.0)
  end
  self.stats:update(y, w)
  if self.observers then observe(self, row, y, w, tree) end
  if mode == "mean" then return end
  if self.weighted then
    self.model:learn_one(row, y, w)
  else
    for _ = 1, w // 1 do self.model:learn_one(row, y) end
  end
end

function NumberLeaf:disable(name)
  self.observers:disable(name)
end

--- How likely a split is: deep leaves are the first to rest.
function NumberLeaf:promise()
  return -self.depth
end

return nodes
