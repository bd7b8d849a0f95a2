--- Naive Bayes classifiers.

local label_book = require "river.embedded.label_book"
local python = require "river.embedded.python"
local registry = require "river.embedded.registry"
local slots = require "river.embedded.slots"

local exp, log, sqrt = math.exp, math.log, math.sqrt

local TINY = 10e-10
local LOG_TINY = log(TINY)
local ROOT_TAU = sqrt(2.0 * math.pi)

-- The logarithm of a sum of exponentials, the largest taken out of the sum, as scipy does it.
local function log_sum_exp(values, n)
  local highest, times = values[1], 0
  for i = 2, n do
    if values[i] > highest then highest = values[i] end
  end
  local sum = 0.0
  for i = 1, n do
    if values[i] == highest then times = times + 1 else sum = sum + exp(values[i] - highest) end
  end
  if sum ~= 0 then sum = sum / times end
  -- log1p: for small sums its series is exact to the last bit or two.
  local one_more = 1.0 + sum
  local part = one_more == 1.0 and sum or log(one_more) * sum / (one_more - 1.0)
  return part + log(times) + highest
end

local NB = {}

function NB:init()
  self.classes, self.class_counts = label_book.new(), {}
  self.features = {n = 0, names = {}, place = {}}
  if self.start then self:start() end
end

function NB:check_target(y, inner)
  label_book.check(self.name, y, inner)
end

-- Counts the label; the place of its class.
local function count_class(self, y)
  local c, added = label_book.add(self.classes, y)
  self.class_counts[c] = added and 1 or self.class_counts[c] + 1
  return c
end

-- The place of a feature, a new one if it has none.
local function place_of(self, name)
  local features = self.features
  local place = features.place[name]
  if not place then
    place = features.n + 1
    features.n, features.place[name], features.names[place] = place, place, name
  end
  return place
end

-- Python's logarithm does not know that of zero.
local function checked_log(x)
  if x <= 0 then python.raise("ValueError", "math domain error") end
  return log(x)
end

local function log_prior(self, c)
  local total = 0
  for i = 1, self.classes.n do total = total + self.class_counts[i] end
  return checked_log(self.class_counts[c] / total)
end

---@param row river.embedded.Row
---@return table<any, number> probabilities by label
---@return any[] order
function NB:predict_proba_one(row)
  local n = self.classes.n
  if n == 0 then return {}, {} end
  local values = self:joint_log_likelihood(row)
  local total = log_sum_exp(values, n)
  local probs, order = {}, {}
  for c, label in ipairs(self.classes.list) do
    probs[label], order[c] = exp(values[c] - total), label
  end
  return probs, order
end

function NB:predict_one(row)
  return label_book.likeliest(self:predict_proba_one(row))
end

-- --------------------------------------------------------------------------------------------------------- state

local function counter(pickle, list) return pickle.object("collections.Counter", {pickle.dict(list)}) end

local function count_pairs(self, values)
  local list = {}
  for c, label in ipairs(self.classes.list) do
    if values[c] then list[#list + 1] = {label, values[c]} end
  end
  return list
end

local function restore_classes(self, state)
  local number = require("river.embedded.pickle").number
  for _, pair in ipairs(state.class_counts.args[1] or {}) do
    self.class_counts[label_book.add(self.classes, pair[1])] = number(pair[2])
  end
end

-- A dictionary of feature → Counter of classes.
local function counts_state(self, pickle)
  local list = {}
  for place, name in ipairs(self.features.names) do
    list[place] = {name, counter(pickle, count_pairs(self, self.feature_counts[place]))}
  end
  return pickle.object("collections.defaultdict", {pickle.reference("collections.Counter"), pickle.dict(list)})
end

local function restore_counts(self, dict)
  local pickle = require "river.embedded.pickle"
  for _, pair in ipairs(dict.args[2] or {}) do
    local counts = {}
    for _, count in ipairs(pair[2].args[1] or {}) do
      -- The first count of a Bernoulli class is a truth value in Python.
      local value = count[2]
      if type(value) == "boolean" then value = value and 1 or 0 end
      counts[label_book.add(self.classes, count[1])] = pickle.number(value)
    end
    self.feature_counts[place_of(self, pickle.name(pair[1]))] = counts
  end
end

local function restore_by_class(self, values, dict)
  local number = require("river.embedded.pickle").number
  for _, pair in ipairs(dict.args[1] or {}) do values[label_book.add(self.classes, pair[1])] = number(pair[2]) end
end

-- What a dictionary had nothing about counts as none, as in Python's counters.
local function complete(self)
  for c = 1, self.classes.n do self.class_counts[c] = self.class_counts[c] or 0 end
  for place = 1, self.features.n do
    if self.feature_counts then self.feature_counts[place] = self.feature_counts[place] or {} end
    if self.feature_totals then self.feature_totals[place] = self.feature_totals[place] or 0 end
  end
end

local function define(name, params, methods)
  local class = registry.class{class = "river.naive_bayes." .. name, role = "estimator", supervised = true,
    params = params}
  for method, body in pairs(NB) do class[method] = body end
  for method, body in pairs(methods) do class[method] = body end
  return class
end

-- ------------------------------------------------------------------------------------------------------ Gaussian

local function needs_number(value, text)
  if type(value) ~= "number" then python.raise("TypeError", text, python.type_name(value)) end
end

-- `of_texts` is what is said of a text, where that is something else.
local function check_numbers(row, text, of_texts)
  if not row.other then return end
  for i = 1, row.keys.n do
    if of_texts and type(row[i]) == "string" then python.raise("TypeError", of_texts) end
    needs_number(row[i], text)
  end
end

local NO_DIFFERENCE = "unsupported operand type(s) for -: '%s' and 'float'"

local GaussianNB = define("GaussianNB", {}, {})

-- Per class and feature: how many, mean, and sum of squared differences.
function GaussianNB:start()
  self.counts, self.means, self.squares = {}, {}, {}
end

function GaussianNB:learn_one(row, y)
  check_numbers(row, NO_DIFFERENCE)
  local c, keys = count_class(self, y), row.keys
  local counts, means, squares = self.counts[c], self.means[c], self.squares[c]
  if not counts then
    counts, means, squares = {}, {}, {}
    self.counts[c], self.means[c], self.squares[c] = counts, means, squares
  end
  for i = 1, keys.n do
    local place, x = place_of(self, keys[i]), row[i]
    local n, before = (counts[place] or 0.0) + 1.0, means[place] or 0.0
    local mean = before + 1.0 / n * (x - before)
    counts[place], means[place] = n, mean
    squares[place] = (squares[place] or 0.0) + (x - before) * (x - mean)
  end
end

local function log_density(n, mean, square, x)
  if not n then return LOG_TINY end
  local density, variance = 0.0, n > 0 and square / n or 0.0
  if variance > 0.0 then
    if type(x) ~= "number" then needs_number(x, NO_DIFFERENCE) end
    local sigma = sqrt(variance)
    local z = (x - mean) / sigma
    density = exp(-0.5 * z * z) / ROOT_TAU / sigma
  end
  return log(TINY + density)
end

function GaussianNB:joint_log_likelihood(row)
  local keys, place, values = row.keys, self.features.place, {}
  for c = 1, self.classes.n do
    local counts, means, squares = self.counts[c] or {}, self.means[c], self.squares[c]
    local sum = 0.0
    for i = 1, keys.n do
      local p = place[keys[i]]
      local n = p and counts[p]
      sum = sum + log_density(n, n and means[p], n and squares[p], row[i])
    end
    values[c] = log_prior(self, c) + sum
  end
  return values
end

local function gaussian_object(self, pickle, c, place)
  local mean = pickle.object("river.stats.Mean", nil,
    {state = {{"n", self.counts[c][place]}, {"_mean", self.means[c][place]}}})
  local var = pickle.object("river.stats.Var", nil,
    {state = {{"ddof", 0}, {"mean", mean}, {"_S", self.squares[c][place]}}})
  return pickle.object("river.proba.Gaussian", nil, {state = {{"_var", var}}})
end

function GaussianNB:state(pickle)
  local maker = pickle.object("builtins.getattr", {pickle.reference("river.naive_bayes.GaussianNB"), "_make_gaussian"})
  local classes = {}
  for c, label in ipairs(self.classes.list) do
    local list = {}
    for place, name in ipairs(self.features.names) do
      if self.counts[c] and self.counts[c][place] then
        list[#list + 1] = {name, gaussian_object(self, pickle, c, place)}
      end
    end
    classes[c] = {label, pickle.object("collections.defaultdict", {maker, pickle.dict(list)})}
  end
  local factory = pickle.object("collections.defaultdict", {maker}, {partial = true})
  return {
    {"class_counts", counter(pickle, count_pairs(self, self.class_counts))},
    {"gaussians", pickle.object("collections.defaultdict", {factory, pickle.dict(classes)})},
  }
end

function GaussianNB:restore(state)
  if state.class_counts == nil then return end
  local pickle = require "river.embedded.pickle"
  restore_classes(self, state)
  for _, pair in ipairs(state.gaussians.args[2] or {}) do
    local c = label_book.add(self.classes, pair[1])
    local counts, means, squares = {}, {}, {}
    self.counts[c], self.means[c], self.squares[c] = counts, means, squares
    for _, feature in ipairs(pair[2].args[2] or {}) do
      local place, var = place_of(self, pickle.name(feature[1])), feature[2].state._var.state
      counts[place], means[place] = pickle.number(var.mean.state.n), pickle.number(var.mean.state._mean)
      squares[place] = pickle.number(var._S)
    end
  end
  complete(self)
end

-- ----------------------------------------------------------------------------------------------------- Bernoulli

local BernoulliNB = define("BernoulliNB",
  {{"alpha", 1.0, kind = "number"}, {"true_threshold", 0.0, kind = "number"}}, {})

function BernoulliNB:start() self.feature_counts = {} end

local function check_comparison(self, value)
  needs_number(value, "'>' not supported between instances of '%s' and '"
    .. python.type_name(self.true_threshold) .. "'")
end

function BernoulliNB:learn_one(row, y)
  local keys, threshold = row.keys, self.true_threshold
  if row.other then
    for i = 1, keys.n do check_comparison(self, row[i]) end
  end
  local c = count_class(self, y)
  for i = 1, keys.n do
    local place = place_of(self, keys[i])
    local counts = self.feature_counts[place]
    if not counts then
      counts = {}
      self.feature_counts[place] = counts
    end
    counts[c] = (counts[c] or 0) + (row[i] > threshold and 1 or 0)
  end
end

-- Every feature ever learned from counts, also by its absence.
function BernoulliNB:joint_log_likelihood(row)
  local index, names, alpha, values = row.keys.index, self.features.names, self.alpha, {}
  for c = 1, self.classes.n do
    local sum, divisor = 0.0, self.class_counts[c] + alpha * 2
    for place = 1, self.features.n do
      if divisor == 0 then python.raise("ZeroDivisionError", "float division by zero") end
      local p = ((self.feature_counts[place][c] or 0.0) + alpha) / divisor
      local i = index[names[place]]
      if i and type(row[i]) ~= "number" then check_comparison(self, row[i]) end
      sum = sum + checked_log(TINY + (i and row[i] > self.true_threshold and p or 1.0 - p))
    end
    values[c] = log_prior(self, c) + sum
  end
  return values
end

function BernoulliNB:state(pickle)
  return {
    {"class_counts", counter(pickle, count_pairs(self, self.class_counts))},
    {"feature_counts", counts_state(self, pickle)},
  }
end

function BernoulliNB:restore(state)
  if state.class_counts == nil then return end
  restore_classes(self, state)
  restore_counts(self, state.feature_counts)
  complete(self)
end

-- ------------------------------------------------------------------------------- multinomial and its complement

-- Frequencies are added up; Python adds texts, too, but not to numbers.
local function check_frequencies(row)
  check_numbers(row, "unsupported operand type(s) for +: '%s' and 'int'", 'can only concatenate str (not "int") to str')
end

local function add_frequencies(self, row, y)
  check_frequencies(row)
  local c, keys, totals = count_class(self, y), row.keys, self.class_totals
  for i = 1, keys.n do
    local place, frequency = place_of(self, keys[i]), row[i]
    local counts = self.feature_counts[place]
    if not counts then
      counts = {}
      self.feature_counts[place] = counts
    end
    counts[c] = (counts[c] or 0) + frequency
    totals[c] = (totals[c] or 0) + frequency
    if self.feature_totals then self.feature_totals[place] = (self.feature_totals[place] or 0) + frequency end
  end
end

local MultinomialNB = define("MultinomialNB", {{"alpha", 1.0, kind = "number"}}, {learn_one = add_frequencies})

function MultinomialNB:start() self.feature_counts, self.class_totals = {}, {} end

function MultinomialNB:joint_log_likelihood(row)
  slots.check_numbers(row)
  local keys, place, alpha, values = row.keys, self.features.place, self.alpha, {}
  for c = 1, self.classes.n do
    local sum, divisor = 0.0, (self.class_totals[c] or 0) + alpha * self.features.n
    for i = 1, keys.n do
      local p = place[keys[i]]
      if divisor == 0 then python.raise("ZeroDivisionError", "float division by zero") end
      local count = p and self.feature_counts[p][c] or 0.0
      sum = sum + row[i] * checked_log((count + alpha) / divisor)
    end
    values[c] = log_prior(self, c) + sum
  end
  return values
end

function MultinomialNB:state(pickle)
  local list = BernoulliNB.state(self, pickle)
  list[3] = {"class_totals", counter(pickle, count_pairs(self, self.class_totals))}
  return list
end

function MultinomialNB:restore(state)
  if state.class_counts == nil then return end
  BernoulliNB.restore(self, state)
  restore_by_class(self, self.class_totals, state.class_totals)
  complete(self)
end

local ComplementNB = define("ComplementNB", {{"alpha", 1.0, kind = "number"}}, {learn_one = add_frequencies})

function ComplementNB:start() self.feature_counts, self.class_totals, self.feature_totals = {}, {}, {} end

function ComplementNB:joint_log_likelihood(row)
  slots.check_numbers(row)
  local keys, place, alpha, values = row.keys, self.features.place, self.alpha, {}
  local totals, all = self.feature_totals, self.feature_counts
  for c = 1, self.classes.n do
    local divisor = 0
    for p = 1, self.features.n do divisor = divisor + (totals[p] + alpha - (all[p][c] or 0)) end
    local sum = 0.0
    for i = 1, keys.n do
      local p = place[keys[i]]
      local others = p and totals[p] + alpha - (all[p][c] or 0) or alpha
      if divisor == 0 then python.raise("ZeroDivisionError", "float division by zero") end
      sum = sum + row[i] * -checked_log(others / divisor)
    end
    values[c] = sum
  end
  return values
end

function ComplementNB:state(pickle)
  local list, totals = MultinomialNB.state(self, pickle), {}
  for place, name in ipairs(self.features.names) do totals[place] = {name, self.feature_totals[place]} end
  list[4] = {"feature_totals", counter(pickle, totals)}
  return list
end

function ComplementNB:restore(state)
  if state.class_counts == nil then return end
  MultinomialNB.restore(self, state)
  local pickle = require "river.embedded.pickle"
  for _, pair in ipairs(state.feature_totals.args[1] or {}) do
    self.feature_totals[place_of(self, pickle.name(pair[1]))] = pickle.number(pair[2])
  end
  complete(self)
end

return {GaussianNB = GaussianNB, BernoulliNB = BernoulliNB, MultinomialNB = MultinomialNB, ComplementNB = ComplementNB}
