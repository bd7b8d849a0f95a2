--- Extremely fast decision trees (Manapragada, Webb and Salehi, 2018): branches go on learning, and are split
--- differently when another feature turns out to be better.

local hoeffding = require "river.embedded.hoeffding_tree"
local nodes = require "river.embedded.hoeffding_nodes"
local python = require "river.embedded.python"
local registry = require "river.embedded.registry"
local splitters = require "river.embedded.splitters"
local tree_stats = require "river.embedded.tree_stats"

-- A branch that keeps what its leaf has observed, and adds to it.
local Branch = {}
for key, value in pairs(nodes.Branch) do Branch[key] = value end
Branch.__index = Branch
registry.helper("river.embedded.EfdtBranch", Branch)

function Branch:total_weight()
  return tree_stats.sum(self.stats.values)
end

function Branch:learn(row, key, w, tree)
  tree_stats.count(self.stats, key, w)
  self.observers:update(row, key, w, tree)
end

local Tree = registry.class{
  class = "river.tree.ExtremelyFastDecisionTreeClassifier", role = "estimator", transient = {"sorted"},
  params = hoeffding.classifier_params(),
}
table.insert(Tree.params, 3, {"min_samples_reevaluate", 20, kind = "integer"})

-- A leaf becomes a branch; `node` is the leaf, or the branch that is replaced.
function Tree.new_branch(_, suggestion, stats, depth, children, node)
  local branch = setmetatable(nodes.branch(suggestion, stats, depth, children), Branch)
  branch.observers, branch.reevaluated_at = node.observers, node:total_weight()
  return branch
end

function Tree:suggestions(node, criterion)
  if not node.children and node:is_dominated(self.max_share_to_split) then return {splitters.NO_SPLIT} end
  local list = {}
  node.observers:suggest(criterion, node.stats, self, list)
  return list
end

--- Splits a leaf as soon as its best split is better than none.
function Tree:attempt_to_split(leaf, parent, position)
  if nodes.is_pure(leaf.stats) then return end
  local criterion = self:criterion()
  local best = hoeffding.best_two(self:suggestions(leaf, criterion))
  if not best then return end
  if not best.feature then
    self:deactivate(leaf)
    return
  end
  local bound = self:bound(criterion:range(leaf.stats), leaf:total_weight())
  if best.merit > bound or bound < self.tau then self:split(leaf, best, parent, position) end
end

-- Takes the leaves below a branch out of the tree's numbers.
local function uncount(self, branch)
  for _, leaf in ipairs(nodes.leaves(branch, {})) do
    if leaf:is_active() then
      self.active_leaves = self.active_leaves - 1
    else
      self.inactive_leaves = self.inactive_leaves - 1
    end
  end
end

-- A leaf in the place of a branch and all below it.
local function prune(self, branch, parent, position)
  local leaf = self:new_leaf()
  leaf.depth, leaf.stats, leaf.observers = branch.depth, branch.stats, branch.observers
  self:replace(leaf, parent, position)
  uncount(self, branch)
  self.active_leaves = self.active_leaves + 1
  self:enforce_size()
end

-- Another split in the place of a branch: of another feature with new leaves, of the same one with its children.
local function resplit(self, branch, best, parent, position)
  if best.feature == branch.feature then
    local children = table.move(branch.children, 1, #branch.children, 1, {})
    if not best.multiway and #children ~= 2 then
      python.raise("TypeError", "__init__() takes 7 positional arguments but %d were given", #children + 5)
    end
    self:replace(self:new_branch(best, branch.stats, branch.depth, children, branch), parent, position)
    return false
  end
  local leaves = self:leaves_of(best, branch)
  local new = self:new_branch(best, branch.stats, branch.depth, leaves, branch)
  uncount(self, branch)
  self.active_leaves = self.active_leaves + #leaves
  self:replace(new, parent, position)
  self:enforce_size()
  return true
end

-- Looks whether a branch should be split differently; true when the way down ends here.
local function reevaluate(self, branch, parent, position)
  if nodes.is_pure(branch.stats) then return false end
  local criterion = self:criterion()
  local suggestions = self:suggestions(branch, criterion)
  local best = hoeffding.best_two(suggestions)
  if not best then return false end
  if not best.feature then return true end
  local current
  for _, suggestion in ipairs(suggestions) do
    if suggestion.feature == branch.feature then current = suggestion end
  end
  local bound = self:bound(criterion:range(branch.stats), branch:total_weight())
  if 0 - best.merit > bound then
    prune(self, branch, parent, position)
    return true
  end
  if current and (best.merit - current.merit > bound or bound < self.tau) then
    return resplit(self, branch, best, parent, position)
  end
  return false
end

-- Goes down the way of a row, looking at each node.
local function process(self, row, key, w)
  local node, parent, position = self.root, nil, nil
  while node.children do
    node:learn(row, key, w, self)
    if node:total_weight() - node.reevaluated_at >= self.min_samples_reevaluate then
      if reevaluate(self, node, parent, position) then return end
    end
    -- As in the library the way goes on from the old branch where a new one has just taken over its children.
    local i = node:child_of(row) or node:most_common()
    node, parent, position = node.children[i], node, i
  end
  if not self.growth_allowed or not node.observers then return end
  if node.depth >= self.max_depth then
    self:deactivate(node)
    return
  end
  local seen = node:total_weight()
  if seen - node.last_attempt >= self.grace_period then
    self:attempt_to_split(node, parent, position)
    node.last_attempt = seen
  end
end

function Tree:learn(row, key, w)
  self.weight_seen = self.weight_seen + w
  if not self.root then
    self.root = self:new_leaf()
    self.active_leaves = 1
  end
  self:leaf_beyond(self.root, row):learn(row, key, w, self)
  self:watch_size()
  process(self, row, key, w)
end

hoeffding.inherit(Tree, hoeffding.Classifier)

return {ExtremelyFastDecisionTreeClassifier = Tree}
