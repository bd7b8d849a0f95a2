--- Metrics of classification: those that count labels in a confusion matrix, and the two losses over probabilities.

local base = require "river.embedded.metrics_base"
local python = require "river.embedded.python"
local stats = require "river.embedded.stats"

local define, number, is_proba = base.define, base.number, base.is_proba
local log, sqrt = math.log, math.sqrt
local power = require("riverlua.core.math").pow
local ratio, label_key = stats.ratio, python.label_key
local None = python.None

-- ------------------------------------------------------------------------------------------- losses of probabilities

local NEARLY_0, NEARLY_1 = 1e-15, 1 - 1e-15

local function clamp(p)
  if p > NEARLY_1 then p = NEARLY_1 end
  if p < NEARLY_0 then p = NEARLY_0 end
  return p
end

-- The running mean of `loss_of(self, y, prediction)`, which is nil for what a server leaves out.
local function define_loss(name, kind, loss_of)
  define(name, kind, {format = "plain", bigger_is_better = false, requires_labels = false}, {
    init = function(self) self.mean = stats.mean() end,
    update = function(self, y, prediction, _, w)
      local loss = loss_of(self, y, prediction)
      if loss then self.mean:update(loss, w) end
    end,
    revert = function(self, y, prediction, _, w)
      local loss = loss_of(self, y, prediction)
      if loss then self.mean:revert(loss, w) end
    end,
    get = function(self) return self.mean.mean end,
  })
end

define_loss("LogLoss", "binary", function(self, y, prediction)
  local p = prediction
  if is_proba(p) then p = base.probability(p, true) or 0.0 end
  p = number(p)
  if not p then
    if self.lenient then return nil end
    python.raise("TypeError", "'<' not supported between instances of '%s' and 'float'", python.type_name(prediction))
  end
  p = clamp(p)
  return python.truthy(y) and -log(p) or -log(1 - p)
end)

define_loss("CrossEntropy", "multiclass", function(self, y, prediction)
  if not is_proba(prediction) then
    -- A server that has only the label skips this metric: it stays 0.
    if self.lenient then return nil end
    python.raise("AttributeError", "'%s' object has no attribute 'items'", python.type_name(prediction))
  end
  local p = base.probability(prediction, y)
  return p and -log(clamp(p)) or 0
end)

-- ----------------------------------------------------------------------------------------------- counting labels

-- The labels of a sample, true when they can be counted. A server swallows what it cannot count, unless it had to
-- look the label up among probabilities.
local function countable(self, y, prediction)
  if type(y) == "table" and y ~= None then
    if self.lenient and not is_proba(prediction) then return false end
    python.raise("TypeError", "unhashable type: '%s'", python.type_name(y))
  end
  return true
end

local function label_of(prediction, label)
  if label == nil and is_proba(prediction) then return base.likeliest(prediction) end
  if label == nil then return prediction end
  return label
end

local function update_all(self, y, prediction, label, w)
  if not countable(self, y, prediction) then return end
  label = label_of(prediction, label)
  self.cm:update(label_key(y), label_key(label), w, y, label)
end

-- A metric of two classes counts whether labels are the positive one.
local function update_binary(self, y, prediction, label, w)
  if not countable(self, y, prediction) then return end
  local positive = self.positive
  self.cm:update(label_key(y) == positive, label_key(label_of(prediction, label)) == positive, w)
end

local function share(self, shared)
  local kind = self.kind == "binary" and "binary" or self.needs_cells and "cells" or "all"
  local first = shared[kind] == nil
  if first then shared[kind] = self.cm else self.cm = shared[kind] end
  return first
end

--- Declares a metric that is a function of a confusion matrix.
---@param name string
---@param kind string "binary" or "multiclass"
---@param spec table `params`, `needs_cells`, `format` …
---@param get fun(self: table, cm: river.embedded.Confusion): number
---@return table class
function base.define_counting(name, kind, spec, get)
  local binary = kind == "binary"
  if binary then
    spec.params = spec.params or {}
    spec.params[#spec.params + 1] = {"pos_val", true, kind = "boolean|number|string"}
  end
  return define(name, kind, spec, {
    init = function(self)
      self.cm = stats.confusion(self.needs_cells)
      -- As in the library, the matrix has the rows true and false whatever the positive label is called, and the
      -- values are read from the row of that name: only true is of use.
      if binary then self.positive = label_key(self.pos_val) end
    end,
    share = share,
    update = binary and update_binary or update_all,
    get = function(self) return get(self, self.cm) end,
  })
end

local counting = base.define_counting

counting("Accuracy", "multiclass", {}, function(_, cm) return ratio(cm.hits, cm.total) end)

counting("BalancedAccuracy", "multiclass", {}, function(_, cm)
  local total, count = 0, 0
  for _, c in ipairs(cm:classes()) do
    local row = cm.rows[c] or 0
    if row ~= 0 then
      total = total + cm:true_positives(c) / row
      count = count + 1
    end
  end
  return ratio(total, count)
end)

counting("CohenKappa", "multiclass", {}, function(_, cm)
  local observed, expected = ratio(cm.hits, cm.total), 0
  for _, c in ipairs(cm:classes()) do
    expected = expected + (cm.rows[c] or 0.0) / cm.total * ((cm.columns[c] or 0.0) / cm.total)
  end
  return ratio(observed - expected, 1 - expected)
end)

-- NumPy's sum of an array: eight sums side by side, in halves where there are many items.
local function pairwise_sum(items, first, last)
  local count = last - first + 1
  if count < 8 then
    local sum = 0.0
    for i = first, last do sum = sum + items[i] end
    return sum
  elseif count > 128 then
    local half = count // 2
    half = half - half % 8
    return pairwise_sum(items, first, first + half - 1) + pairwise_sum(items, first + half, last)
  end
  local r = table.move(items, first, first + 7, 1, {})
  local i = first + 8
  while i + 7 <= last do
    for j = 1, 8 do r[j] = r[j] + items[i + j - 1] end
    i = i + 8
  end
  local sum = ((r[1] + r[2]) + (r[3] + r[4])) + ((r[5] + r[6]) + (r[7] + r[8]))
  for j = i, last do sum = sum + items[j] end
  return sum
end

counting("GeometricMean", "multiclass", {}, function(_, cm)
  local logs = {}
  for i, c in ipairs(cm:classes()) do logs[i] = log(ratio(cm:true_positives(c), cm.rows[c] or 0.0)) end
  if #logs == 0 then return 0.0 end
  return math.exp(pairwise_sum(logs, 1, #logs) / #logs)
end)

counting("MCC", "binary", {format = "plain"}, function(self, cm)
  local positive = self.positive
  local tp, tn = cm:true_positives(positive), cm:true_negatives(positive)
  local fp, fn = cm:false_positives(positive), cm:false_negatives(positive)
  local n = tp + tn + fp + fn
  if n == 0 then n = 1 end
  local s, p = (tp + fn) / n, (tp + fp) / n
  return ratio(tp / n - s * p, sqrt(p * s * (1 - s) * (1 - p)))
end)

-- ------------------------------------------------------------------------------------- precision, recall, overlap

-- Each is a quotient of counts of one class: `upper(cm, c)` over `lower(cm, c)`.
local function hits(cm, c) return cm:true_positives(c) end

local QUOTIENTS = {
  Precision = function(cm, c) return hits(cm, c) + cm:false_positives(c) end,
  Recall = function(cm, c) return hits(cm, c) + cm:false_negatives(c) end,
  Jaccard = function(cm, c) return hits(cm, c) + cm:false_positives(c) + cm:false_negatives(c) end,
}

-- The mean over the classes.
local function macro(cm, quotient)
  local total, classes = 0, cm:classes()
  for _, c in ipairs(classes) do total = total + ratio(hits(cm, c), quotient(cm, c)) end
  return ratio(total, #classes)
end

-- The mean over the samples.
local function weighted(cm, quotient)
  local total = 0
  for _, c in ipairs(cm:classes()) do total = total + ratio((cm.rows[c] or 0.0) * hits(cm, c), quotient(cm, c)) end
  return ratio(total, cm.total)
end

local function sum_over(cm, count)
  local total = 0
  for _, c in ipairs(cm:classes()) do total = total + count(cm, c) end
  return total
end

local function micro_precision(cm)
  return ratio(cm.hits, cm.hits + sum_over(cm, cm.false_positives))
end

for name, quotient in pairs(QUOTIENTS) do
  counting(name, "binary", {}, function(self, cm)
    return ratio(hits(cm, self.positive), quotient(cm, self.positive))
  end)
  counting("Macro" .. name, "multiclass", {}, function(_, cm) return macro(cm, quotient) end)
end

counting("MicroPrecision", "multiclass", {}, function(_, cm) return micro_precision(cm) end)
counting("MicroRecall", "multiclass", {}, function(_, cm) return micro_precision(cm) end)
counting("MicroJaccard", "multiclass", {}, function(_, cm)
  return ratio(cm.hits, cm.hits + sum_over(cm, cm.false_positives) + sum_over(cm, cm.false_negatives))
end)

counting("WeightedPrecision", "multiclass", {}, function(_, cm) return weighted(cm, QUOTIENTS.Precision) end)
counting("WeightedJaccard", "multiclass", {}, function(_, cm) return weighted(cm, QUOTIENTS.Jaccard) end)
counting("WeightedRecall", "multiclass", {}, function(_, cm) return ratio(sum_over(cm, hits), cm.total) end)

-- -------------------------------------------------------------------------------------- F1 and its generalizations

-- The weighted harmonic mean of precision and recall.
local function f_beta(p, r, b2) return ratio((1 + b2) * p * r, b2 * p + r) end

local function square(beta) return power(beta, 2.0) end

local function binary_f(self, cm)
  local c = self.positive
  return f_beta(ratio(hits(cm, c), QUOTIENTS.Precision(cm, c)), ratio(hits(cm, c), QUOTIENTS.Recall(cm, c)),
    square(self.beta))
end

local function micro_f(self, cm)
  local p = micro_precision(cm)
  return f_beta(p, p, square(self.beta))
end

local function macro_f(self, cm)
  local total, b2, classes = 0, square(self.beta), cm:classes()
  for _, c in ipairs(classes) do
    total = total + f_beta(ratio(hits(cm, c), cm.columns[c] or 0.0), ratio(hits(cm, c), cm.rows[c] or 0.0), b2)
  end
  return ratio(total, #classes)
end

local function weighted_f(self, cm)
  local total, b2 = 0, square(self.beta)
  for _, c in ipairs(cm:classes()) do
    local row = cm.rows[c] or 0.0
    local p, r = ratio(row * hits(cm, c), cm.columns[c] or 0.0), ratio(row * hits(cm, c), row)
    total = total + f_beta(p, r, b2)
  end
  return ratio(total, cm.total)
end

for prefix, get in pairs{[""] = binary_f, Micro = micro_f, Macro = macro_f, Weighted = weighted_f} do
  local kind = prefix == "" and "binary" or "multiclass"
  counting(prefix .. "FBeta", kind, {params = {{"beta", kind = "number", required = true}}}, get)
  counting(prefix .. "F1", kind, {beta = 1.0}, get)
end

-- A table from label key to number, of the pairs of a Python dictionary or of a plain table.
local function by_label(pairs_or_map)
  local map = {}
  if pairs_or_map == None then return map end
  for _, pair in ipairs(pairs_or_map) do map[label_key(pair[1])] = pair[2] end
  return map
end

local MultiFBeta = counting("MultiFBeta", "multiclass", {
  params = {{"betas", kind = "dict", required = true}, {"weights", None, kind = "dict", optional = true}},
}, function(self, cm)
  local total, sum, classes = 0, 0, cm:classes()
  for _, c in ipairs(classes) do
    local beta, weight = self.beta_of[c], self.weight_of and self.weight_of[c] or 1
    if not beta then python.raise("KeyError", "%s", python.str(cm.names[c])) end
    local p, r = ratio(hits(cm, c), cm.columns[c] or 0.0), ratio(hits(cm, c), cm.rows[c] or 0.0)
    local b2 = square(beta)
    total = total + ratio(weight * (1 + b2) * p * r, b2 * p + r)
    sum = sum + weight
  end
  return ratio(total, sum)
end)

local count_only = MultiFBeta.init

function MultiFBeta:init()
  count_only(self)
  self.beta_of = by_label(self.betas)
  self.weight_of = self.weights ~= None and by_label(self.weights) or nil
end

-- -------------------------------------------------------------------------------------------------------- ROC AUC

-- The area under the curve of true over false positives, from one confusion matrix per threshold.
define("ROCAUC", "binary", {requires_labels = false,
  params = {{"n_thresholds", 10, kind = "integer"}, {"pos_val", true, kind = "boolean|number|string"}},
}, {
  init = function(self)
    local count = self.n_thresholds
    self.thresholds, self.cms = {}, {}
    for i = 1, count do
      self.thresholds[i], self.cms[i] = (i - 1) / (count - 1), stats.confusion()
    end
    self.thresholds[1] = self.thresholds[1] - 1e-7
    self.thresholds[count] = self.thresholds[count] + 1e-7
    self.positive = label_key(self.pos_val)
  end,
  update = function(self, y, prediction, _, w)
    local p = prediction
    if is_proba(p) then p = base.probability(p, true) or 0.0 end
    p = number(p)
    if not p then
      python.raise("TypeError", "'>' not supported between instances of '%s' and 'float'",
        python.type_name(prediction))
    end
    local truth = label_key(y) == self.positive
    for i, threshold in ipairs(self.thresholds) do self.cms[i]:update(truth, p > threshold, w) end
  end,
  get = function(self)
    local c, steps, before_x, before_y = self.positive, {}, nil, nil
    for i, cm in ipairs(self.cms) do
      local tp, fp = cm:true_positives(c), cm:false_positives(c)
      local y, x = ratio(tp, tp + cm:false_negatives(c)), ratio(fp, fp + cm:true_negatives(c))
      if i > 1 then steps[i - 1] = (x - before_x) * (y + before_y) / 2.0 end
      before_x, before_y = x, y
    end
    return -pairwise_sum(steps, 1, #steps)
  end,
})
