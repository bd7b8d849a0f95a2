--- Hoeffding adaptive trees (Bifet and Gavaldà, 2009): every node watches its error, and where the error grows an
--- alternate tree is built beside the branch, which takes its place once it is better.
--
-- Equal to the library's with a seed, but for one thing: the library fails where an alternate tree has become a branch
-- and a prediction asks it; here its leaves are asked.

local hash_order = require "river.embedded.hash_order"
local hoeffding = require "river.embedded.hoeffding_tree"
local label_book = require "river.embedded.label_book"
local math_core = require "riverlua.core.math"
local nodes = require "river.embedded.hoeffding_nodes"
local adwin = require "river.embedded.adwin"
local python = require "river.embedded.python"
local random = require "river.embedded.random"
local registry = require "river.embedded.registry"
local tree_stats = require "river.embedded.tree_stats"

local log, sqrt = math.log, math.sqrt
local None = python.None
local count = tree_stats.count

local function subclass(name, parent)
  local class = {}
  for key, value in pairs(parent) do class[key] = value end
  class.__index, class.helper_name = class, nil
  return registry.helper("river.embedded." .. name, class)
end

local ClassLeaf, NumberLeaf = subclass("AdaClassLeaf", nodes.ClassLeaf), subclass("AdaNumberLeaf", nodes.NumberLeaf)
local ClassBranch, NumberBranch = subclass("AdaClassBranch", nodes.Branch), subclass("AdaNumberBranch", nodes.Branch)

-- The weight of a sample in a leaf, drawn anew where samples are bootstrapped.
local function draw_weight(tree, w)
  if tree.bootstrap_sampling then
    local k = tree.rng:poisson(1)
    if k > 0 then w = w * k end
  end
  return w
end

-- Splits a leaf when it is time. The new branch's detector is cloned even if no branch comes of it.
local function grow(leaf, tree, parent, position)
  local seen = leaf:total_weight()
  if seen - leaf.last_attempt < tree.grace_period then return end
  if leaf.depth >= tree.max_depth then
    tree:deactivate(leaf)
  elseif leaf.observers then
    tree.next_detector = registry.clone(tree.drift_detector)
    tree:attempt_to_split(leaf, parent, position)
    tree.next_detector, leaf.last_attempt = nil, seen
  end
end

-- A node's error: the detector and the mean. Returns whether the detector saw a change, and whether for the worse.
local function watch(node, input)
  local before = node.error.mean
  node.detector:update(input)
  node.error:update(input)
  if not node.detector.drift_detected then return false, false end
  return true, node.error.mean >= before
end

-- ------------------------------------------------------------------------------------------------ shared by tasks

local function count_leaves(node)
  if not node.children then return 1 end
  local number = 0
  for _, child in ipairs(node.children) do number = number + count_leaves(child) end
  return number
end

-- Takes what is below a branch out of the tree's numbers.
local function kill_children(branch, tree)
  if not branch.children then return end
  for _, child in ipairs(branch.children) do
    if child.children then
      if child.alternate then
        kill_children(child.alternate, tree)
        tree.pruned_alternates = tree.pruned_alternates + 1
        child.alternate = nil
      end
      kill_children(child, tree)
    elseif child:is_active() then
      tree.active_leaves = tree.active_leaves - 1
    else
      tree.inactive_leaves = tree.inactive_leaves - 1
    end
  end
end

local function start_alternate(branch, tree)
  branch.error = tree_stats.var()
  branch.alternate = tree:new_leaf(nil, branch)
  branch.alternate.depth = branch.alternate.depth - 1
  tree.alternates = tree.alternates + 1
end

local function switch_to_alternate(branch, tree, parent, position)
  tree.active_leaves = tree.active_leaves - count_leaves(branch) + count_leaves(branch.alternate)
  kill_children(branch, tree)
  if parent then
    parent.children[position] = branch.alternate
    branch.alternate = nil
  else
    tree.root = tree.root.alternate
  end
  tree.switched_alternates = tree.switched_alternates + 1
end

local function prune_alternate(branch, tree)
  kill_children(branch.alternate, tree)
  branch.alternate = nil
  tree.pruned_alternates = tree.pruned_alternates + 1
end

-- Hands a sample on: to the alternate tree and to the child it belongs to.
local function pass_on(branch, row, target, w, tree, parent, position)
  if branch.alternate then branch.alternate:learn(row, target, w, tree, parent, position) end
  local i = branch:child_of(row)
  if not i then
    if branch.mapping and row.keys.index[branch.feature] then
      branch:add_child(row, tree:new_leaf(nil, branch))
      tree.active_leaves = tree.active_leaves + 1
      i = #branch.children
    else
      i = branch:most_common()
    end
  end
  branch.children[i]:learn(row, target, w, tree, branch, i)
end

-- Appends the leaves that answer for a row: those of the alternate trees on the way, and the last one.
local function answering(node, row, list)
  local times = 1
  while node.children do
    if node.alternate then
      for _ = 1, times do answering(node.alternate, row, list) end
    end
    local i = node:child_of(row)
    -- A branch that is only reached because most samples go there is met twice in the library.
    times = i and 1 or 2
    node = node.children[i or node:most_common()]
  end
  list[#list + 1] = node
  return list
end

local Adaptive = {}

function Adaptive:init_adaptive()
  if self.drift_detector == None then self.drift_detector = adwin.new() end
  self.alternates, self.pruned_alternates, self.switched_alternates = 0, 0, 0
  self.rng = random.new(self.seed)
end

-- A branch in place of a leaf, with a detector of its own.
function Adaptive:new_branch(suggestion, stats, depth, children)
  local branch = setmetatable(nodes.branch(suggestion, stats, depth, children), self.branch_class)
  branch.detector, branch.error, self.next_detector = self.next_detector, tree_stats.var(), nil
  return branch
end

function Adaptive:learn(row, target, w)
  self.weight_seen = self.weight_seen + w
  if not self.root then
    self.root = self:new_leaf()
    self.active_leaves = 1
  end
  self.root:learn(row, target, w, self)
  if self.root then self:watch_size() end
end

local function watched(leaf, tree)
  leaf.detector, leaf.error = registry.clone(tree.drift_detector), tree_stats.var()
  return leaf
end

-- ---------------------------------------------------------------------------------------------- classification

local votes = {}

-- The probabilities of a leaf, the smaller its error the higher.
function ClassLeaf:probabilities(row, tree, out)
  local stats = self.stats
  if stats.n == 0 then return 0 end
  local option = tree.leaf_prediction
  local bayes = self.observers ~= nil and option ~= "mc"
  if bayes and option == "nb" then
    bayes = self:total_weight() >= tree.nb_threshold
  elseif bayes then
    bayes = self.nb_correct >= self.mc_correct
  end
  local n = bayes and self.observers:naive_bayes(row, stats, out) or not bayes and nodes.shares(stats, out) or 0
  local sum, mistakes = 0, self.error.mean
  for i = 1, n do sum = sum + out[i] end
  local factor = sum * mistakes * mistakes
  if factor ~= 0 and factor == factor then
    local scale = 1 / factor
    for i = 1, n do out[i] = out[i] * scale end
  end
  return n
end

-- 1 when a leaf's prediction is wrong, 0 when it is right.
local function mistake(leaf, row, key, tree)
  local n, best, predicted = leaf:probabilities(row, tree, votes), 1, None
  for i = 2, n do
    if votes[i] > votes[best] then best = i end
  end
  if n > 0 then predicted = leaf.stats.keys[best] end
  return predicted == key and 0 or 1
end

local learn_class = nodes.ClassLeaf.learn

function ClassLeaf:learn(row, key, w, tree, parent, position)
  w = draw_weight(tree, w)
  local changed, worse = watch(self, mistake(self, row, key, tree))
  if changed and not worse then self.error = tree_stats.var() end
  learn_class(self, row, key, w, tree)
  grow(self, tree, parent, position)
end

-- Whether the errors of a branch and its alternate differ enough to choose.
local function choose_by_bound(branch, tree, parent, position)
  local alternate_n, n = branch.alternate.error.n, branch.error.n
  if alternate_n <= tree.drift_window_threshold or n <= tree.drift_window_threshold then return end
  local old, new = branch.error.mean, branch.alternate.error.mean
  local bound = sqrt(2.0 * old * (1.0 - old) * log(2.0 / tree.switch_significance) * (1.0 / alternate_n + 1.0 / n))
  if bound < old - new then
    switch_to_alternate(branch, tree, parent, position)
  elseif bound < new - old then
    prune_alternate(branch, tree)
  end
end

function ClassBranch:learn(row, key, w, tree, parent, position)
  local input = mistake(nodes.leaf_of(self, row), row, key, tree)
  count(self.stats, key, w)
  local changed, worse = watch(self, input)
  if changed and worse then
    start_alternate(self, tree)
  else
    if changed then self.error = tree_stats.var() end
    if self.alternate then choose_by_bound(self, tree, parent, position) end
  end
  pass_on(self, row, key, w, tree, parent, position)
end

local PARAMS = {
  {"bootstrap_sampling", true, kind = "boolean"},
  {"drift_window_threshold", 300, kind = "integer"},
  {"drift_detector", None, kind = "drift_detector", optional = true},
  {"switch_significance", 0.05, kind = "number"},
}
local SEED = {"seed", None, kind = "integer", optional = true}

local function with_seed(params)
  params[#params + 1] = SEED
  return params
end

local Classifier = registry.class{
  class = "river.tree.HoeffdingAdaptiveTreeClassifier", role = "estimator", transient = {"sorted", "in_set_order"},
  params = with_seed(hoeffding.classifier_params(table.unpack(PARAMS))),
}
Classifier.branch_class = ClassBranch

function Classifier:init()
  hoeffding.Classifier.init(self)
  self:init_adaptive()
end

function Classifier:new_leaf(stats, parent)
  local leaf = nodes.new_leaf(ClassLeaf, self, stats or tree_stats.counts(), parent and parent.depth + 1 or 0)
  -- Whatever is predicted by, both ways are compared.
  leaf.mode, leaf.mc_correct, leaf.nb_correct = "nba", 0.0, 0.0
  return watched(leaf, self)
end

--- Probabilities per label, and the labels in order.
---@param row river.embedded.Row
---@return table probs label → probability
---@return any[] order
function Classifier:predict_proba_one(row)
  local labels, probs, order = self.labels, {}, {}
  if not self.sorted then
    self.in_set_order = hash_order.set(self.classes):items()
    self.sorted = self.in_set_order
  end
  for i, key in ipairs(self.in_set_order) do
    order[i], probs[labels[key]] = labels[key], 0.0
  end
  if not self.root then return probs, order end
  for _, leaf in ipairs(answering(self.root, row, {})) do
    local keys = leaf.stats.keys
    for i = 1, leaf:probabilities(row, self, votes) do
      local label = labels[keys[i]]
      probs[label] = probs[label] + votes[i]
    end
  end
  label_book.scale(probs, order)
  return probs, order
end

--- The likeliest label; nil before there is any.
---@param row river.embedded.Row
---@return any
function Classifier:predict_one(row)
  return label_book.likeliest(self:predict_proba_one(row))
end

hoeffding.inherit(Classifier, Adaptive, hoeffding.Classifier)

-- -------------------------------------------------------------------------------------------------- regression

local learn_number = nodes.NumberLeaf.learn

local function deviation(y, prediction)
  local difference = y - prediction
  return difference < 0 and -difference or difference
end

function NumberLeaf:learn(row, y, w, tree, parent, position)
  local prediction = self:prediction(row)
  w = draw_weight(tree, w)
  local changed, worse = watch(self, deviation(y, prediction))
  if changed and not worse then self.error = tree_stats.var() end
  learn_number(self, row, y, w, tree)
  grow(self, tree, parent, position)
end

-- Chooses between a branch and its alternate by a two-tailed z-test of their errors.
local function choose_by_test(branch, tree, parent, position)
  local alternate, here = branch.alternate.error, branch.error
  if alternate.n <= tree.drift_window_threshold or here.n <= tree.drift_window_threshold then return end
  local spread = sqrt(alternate:get() / alternate.n + here:get() / here.n)
  if spread == 0 then python.raise("ZeroDivisionError", "float division by zero") end
  local z = (alternate.mean - here.mean) / spread
  local p = 2.0 * (0.5 * (1.0 + math_core.erf(-(z < 0 and -z or z) / sqrt(2.0))))
  if p > tree.switch_significance or p ~= p then return end
  if alternate.mean < here.mean then
    switch_to_alternate(branch, tree, parent, position)
  else
    prune_alternate(branch, tree)
  end
end

function NumberBranch:learn(row, y, w, tree, parent, position)
  local prediction = nodes.leaf_of(self, row):prediction(row)
  self.stats:update(y, w)
  local changed, worse = watch(self, deviation(y, prediction))
  if changed and not worse then self.error = tree_stats.var() end
  if changed and worse and not self.alternate then
    start_alternate(self, tree)
  elseif self.alternate then
    choose_by_test(self, tree, parent, position)
  end
  pass_on(self, row, y, w, tree, parent, position)
end

local Regressor = registry.class{
  class = "river.tree.HoeffdingAdaptiveTreeRegressor", role = "estimator",
  params = with_seed(hoeffding.regressor_params(table.unpack(PARAMS))),
}
Regressor.branch_class = NumberBranch

function Regressor:init()
  hoeffding.Regressor.init(self)
  self:init_adaptive()
end

function Regressor:new_leaf(stats, parent)
  return watched(nodes.number_leaf(self, stats, parent and parent.depth + 1 or 0, parent, NumberLeaf), self)
end

--- The mean of what the leaves say; 0 before there is any.
---@param row river.embedded.Row
---@return number
function Regressor:predict_one(row)
  if not self.root then return 0.0 end
  local sum, leaves = 0.0, answering(self.root, row, {})
  for _, leaf in ipairs(leaves) do sum = sum + leaf:prediction(row) end
  return sum / #leaves
end

hoeffding.inherit(Regressor, Adaptive, hoeffding.Regressor)

return {HoeffdingAdaptiveTreeClassifier = Classifier, HoeffdingAdaptiveTreeRegressor = Regressor}
