--- What a leaf of a Hoeffding tree remembers of the features: one splitter per feature, in the order of their arrival.
--
-- Each feature has a slot. The numbers of Gaussian splitters are kept side by side, one record per class with an
-- array over the slots for each statistic, so that learning and naive Bayes run over arrays; other splitters are
-- objects in `others`. `plan` says at which position of a row the feature of a slot is (false: missing).

local math_core = require "riverlua.core.math"
local python = require "river.embedded.python"
local registry = require "river.embedded.registry"
local splitters = require "river.embedded.splitters"
local regression = require "river.embedded.splitters_regression"
local tree_stats = require "river.embedded.tree_stats"

local exp, log, sqrt, huge = math.exp, math.log, math.sqrt, math.huge
local erf, power = math_core.erf, math_core.pow
local count, counts, sum = tree_stats.count, tree_stats.counts, tree_stats.sum

local HALF_LOG_TAU = 0.5 * log(2.0 * math.pi)
local SQRT_TWO = sqrt(2.0)
-- Log-likelihoods further apart than this are so as probabilities, too.
local CLEAR = 1e-9

---@class river.embedded.Observers
local Observers = {transient = {"plan", "plan_keys", "complete"}}
Observers.__index = Observers

registry.helper("river.embedded.Observers", Observers)

local observers = {}

--- Makes observers for a leaf.
---@param tree table the tree's `splitter` and `nominal` (set of names) say what they are made of
---@param disabled table<string, boolean> features to leave alone
---@param features string[]|nil only these are observed
function observers.new(tree, disabled, features)
  local self = setmetatable({n = 0, names = {}, slot_of = {}, disabled = disabled, features = features}, Observers)
  if getmetatable(tree.splitter) == splitters.GaussianSplitter then
    self.bank, self.order, self.tick = {}, {}, 0
  end
  return self
end

-- ------------------------------------------------------------------------------------------------------- slots

local function make_slot(self, name, value, tree)
  local j = self.n + 1
  self.n, self.names[j], self.slot_of[name] = j, name, j
  local nominal = tree.nominal and tree.nominal[name] or type(value) ~= "number"
  if nominal or not self.bank then
    local others = self.others
    if not others then
      others = {}
      for i = 1, j - 1 do others[i] = false end
      self.others = others
    end
    if not nominal then
      others[j] = tree.splitter:fresh()
    else
      others[j] = tree.of_classes and splitters.nominal() or regression.nominal_regression()
    end
  elseif self.others then
    self.others[j] = false
  end
  for _, record in ipairs(self.order or {}) do
    record.n[j], record.scale[j] = false, false
  end
end

local function look_up(self, keys)
  local plan, names, index = {}, self.names, keys.index
  for j = 1, self.n do plan[j] = index[names[j]] or false end
  self.plan, self.plan_keys, self.complete = plan, keys, false
  return plan
end

-- Slots for the features of a row that have none.
local function make_room(self, row, tree)
  local keys = row.keys
  local wanted = self.features or keys
  for i = 1, #wanted do
    local name = wanted[i]
    local position = keys.index[name]
    if position and not self.slot_of[name] and not self.disabled[name] then
      make_slot(self, name, row[position], tree)
    end
  end
  look_up(self, keys)
  self.complete = true
end

--- Forgets a feature for good.
---@param name string
function Observers:disable(name)
  local j = self.slot_of[name]
  if not j then return end
  self.names[j], self.slot_of[name], self.disabled[name] = false, nil, true
  if self.others then self.others[j] = false end
  self.plan_keys = nil
end

-- ---------------------------------------------------------------------------------------------------- learning

local function new_record(self, key)
  local record = {key = key, n = {}, mean = {}, s = {}, low = {}, high = {}, scale = {}, shift = {}, first = {}}
  for j = 1, self.n do record.n[j], record.scale[j] = false, false end
  self.bank[key] = record
  self.order[#self.order + 1] = record
  return record
end

-- A value enters the Gaussian of a slot. `scale` and `shift` are the parts of the log-density that depend only on the
-- variance; without a variance there is no density and `scale` is false.
local function add_value(self, record, j, x, w)
  local n = record.n[j]
  local mean, s
  if n then
    if x < record.low[j] then record.low[j] = x end
    if x > record.high[j] then record.high[j] = x end
    local before = record.mean[j]
    n = n + w
    mean = before + (w / n) * (x - before)
    s = record.s[j] + w * (x - before) * (x - mean)
  else
    n = 0.0 + w
    mean = (w / n) * x
    s = 0.0 + w * x * (x - mean)
    record.low[j], record.high[j], record.first[j] = x, x, self.tick
  end
  record.n[j], record.mean[j], record.s[j] = n, mean, s
  local variance = n > 1 and s / (n - 1) or 0.0
  if variance > 0.0 then
    record.scale[j], record.shift[j] = -2.0 * variance, 0.5 * log(variance)
  else
    record.scale[j] = false
  end
end

-- The same for all slots of a row of numbers; written out, as it is most of the work of learning.
local function add_row(self, record, row, w)
  local plan, tick = self.plan, self.tick
  local ns, means, ss, lows, highs = record.n, record.mean, record.s, record.low, record.high
  local scales, shifts = record.scale, record.shift
  for j = 1, self.n do
    local position = plan[j]
    if position then
      local x, n = row[position], ns[j]
      local mean, s
      if n then
        if x < lows[j] then lows[j] = x end
        if x > highs[j] then highs[j] = x end
        local before = means[j]
        n = n + w
        mean = before + (w / n) * (x - before)
        s = ss[j] + w * (x - before) * (x - mean)
      else
        n = 0.0 + w
        mean = (w / n) * x
        s = 0.0 + w * x * (x - mean)
        lows[j], highs[j], record.first[j] = x, x, tick
      end
      ns[j], means[j], ss[j] = n, mean, s
      local variance = n > 1 and s / (n - 1) or 0.0
      if variance > 0.0 then
        scales[j], shifts[j] = -2.0 * variance, 0.5 * log(variance)
      else
        scales[j] = false
      end
    end
  end
end

-- A value that a Gaussian cannot take: none is left out, a text is refused.
local function refuse_text(value, operator)
  if value == nil or type(value) == "userdata" or value == python.None then return end
  python.raise("TypeError", operator == "-" and "unsupported operand type(s) for -: '%s' and 'float'"
    or "'<' not supported between instances of '%s' and 'float'", python.type_name(value))
end

local function add_slots(self, row, target, w)
  local plan, others = self.plan, self.others
  local record
  for j = 1, self.n do
    local position = plan[j]
    if position then
      local splitter, value = others and others[j], row[position]
      if splitter then
        splitter:update(value, target, w)
      elseif type(value) == "number" then
        record = record or self.bank[target] or new_record(self, target)
        add_value(self, record, j, value, w)
      else
        refuse_text(value)
      end
    end
  end
end

--- Takes a sample.
---@param row river.embedded.Row
---@param target any label key or number
---@param w number
---@param tree table
function Observers:update(row, target, w, tree)
  if self.plan_keys ~= row.keys or not self.complete then make_room(self, row, tree) end
  if self.bank then self.tick = self.tick + 1 end
  if self.others or row.other then return add_slots(self, row, target, w) end
  if self.n > 0 then add_row(self, self.bank[target] or new_record(self, target), row, w) end
end

-- ------------------------------------------------------------------------------------------------- naive Bayes

-- The log-likelihood of a class where some slots are no Gaussians or some values no numbers.
local function mixed_vote(self, row, key, vote)
  local plan, others, record = self.plan, self.others, self.bank and self.bank[key]
  for j = 1, self.n do
    local position = plan[j]
    if position then
      local splitter, value = others and others[j], row[position]
      if splitter then
        local p = splitter:probability(value, key)
        vote = vote + (p > 0 and log(p) or 0.0)
      elseif record and record.scale[j] then
        if type(value) ~= "number" then
          refuse_text(value, "-")
          python.raise("TypeError", "unsupported operand type(s) for -: 'NoneType' and 'float'")
        end
        vote = vote + (power(value - record.mean[j], 2.0) / record.scale[j] - HALF_LOG_TAU - record.shift[j])
      end
    end
  end
  return vote
end

-- Fills `out` with the log-likelihoods of the classes; their number, 0 when nothing is known, and the highest.
local function votes(self, row, before, out)
  local values, total = before.values, sum(before.values)
  if before.n == 0 or total == 0 then return 0 end
  local plan = self.plan_keys == row.keys and self.plan or look_up(self, row.keys)
  local mixed = self.others or row.other
  local bank, slots, highest = self.bank, self.n, -huge
  for c = 1, before.n do
    local vote = 0.0
    if values[c] > 0 then
      vote = log(values[c] / total)
      local key = before.keys[c]
      local record = bank and bank[key]
      if mixed then
        vote = mixed_vote(self, row, key, vote)
      elseif record then
        local means, scales, shifts = record.mean, record.scale, record.shift
        for j = 1, slots do
          local scale, position = scales[j], plan[j]
          if scale and position then
            vote = vote + (power(row[position] - means[j], 2.0) / scale - HALF_LOG_TAU - shifts[j])
          end
        end
      end
      if vote == -huge then python.raise("OverflowError", "(34, 'Numerical result out of range')") end
    end
    out[c] = vote
    if vote > highest then highest = vote end
  end
  return before.n, highest
end

-- Turns log-likelihoods into probabilities, in place.
local function normalize(out, n, highest)
  local total = 0
  for c = 1, n do total = total + exp(out[c] - highest) end
  local scale = highest + log(total)
  for c = 1, n do out[c] = exp(out[c] - scale) end
end

--- Probabilities of the classes by naive Bayes.
---@param row river.embedded.Row
---@param before river.embedded.Counts
---@param out number[] is filled, aligned with `before`
---@return integer number of classes, 0 when nothing is known
function Observers:naive_bayes(row, before, out)
  local n, highest = votes(self, row, before, out)
  if n > 0 then normalize(out, n, highest) end
  return n
end

--- The position of the likeliest class by naive Bayes.
---@param row river.embedded.Row
---@param before river.embedded.Counts
---@param scratch number[] is overwritten
---@return integer|nil
function Observers:naive_bayes_winner(row, before, scratch)
  local n, highest = votes(self, row, before, scratch)
  if n == 0 then return nil end
  local winner, close = nil, 0
  for c = 1, n do
    if scratch[c] == highest and not winner then winner = c end
    if highest - scratch[c] <= CLEAR then close = close + 1 end
  end
  if close == 1 then return winner end
  normalize(scratch, n, highest)
  winner = 1
  for c = 2, n do
    if scratch[c] > scratch[winner] then winner = c end
  end
  return winner
end

-- ----------------------------------------------------------------------------------------------------- splitting

-- The records that know a slot, in the order in which their classes came to it.
local function records_of(self, j)
  local list = {}
  for _, record in ipairs(self.order) do
    if record.n[j] then
      local at = #list + 1
      while at > 1 and list[at - 1].first[j] > record.first[j] do at = at - 1 end
      table.insert(list, at, record)
    end
  end
  return list
end

-- How much of a class lies up to a value.
local function weight_below(record, j, x)
  local n = record.n[j]
  local sigma = (n > 1 and record.s[j] / (n - 1) or 0.0) ^ 0.5
  if sigma == 0 then return 0.0 * n end
  return 0.5 * (1.0 + erf((x - record.mean[j]) / sigma / SQRT_TWO)) * n
end

-- The weights per class up to a value and above it, into two pairs of arrays.
local function cut(records, j, x, low, high)
  local low_keys, low_values, high_keys, high_values = low.keys, low.values, high.keys, high.values
  local l, h = 0, 0
  for i = 1, #records do
    local record = records[i]
    local n = record.n[j]
    if x < record.low[j] then
      h = h + 1
      high_keys[h], high_values[h] = record.key, n
    elseif x >= record.high[j] then
      l = l + 1
      low_keys[l], low_values[l] = record.key, n
    else
      local below = weight_below(record, j, x)
      l, h = l + 1, h + 1
      low_keys[l], low_values[l] = record.key, below
      high_keys[h], high_values[h] = record.key, n - below
    end
  end
  for i = #low_values, l + 1, -1 do low_keys[i], low_values[i] = nil, nil end
  for i = #high_values, h + 1, -1 do high_keys[i], high_values[i] = nil, nil end
end

local LOW, HIGH = {keys = {}, values = {}}, {keys = {}, values = {}}
local AFTER = {LOW, HIGH}

local function counts_of(part)
  local out = counts()
  for i = 1, #part.values do count(out, part.keys[i], part.values[i]) end
  return out
end

local function gaussian_suggestion(self, j, criterion, before, splits)
  local records, best = records_of(self, j), -huge
  local low, high, info = huge, -huge, nil
  for _, record in ipairs(records) do
    if record.low[j] < low then low = record.low[j] end
    if record.high[j] > high then high = record.high[j] end
  end
  if low == huge then return splitters.NO_SPLIT end
  local step = (high - low) / (splits + 1.0)
  for i = 1, splits do
    local x = low + step * i
    if low < x and x < high then
      cut(records, j, x, LOW, HIGH)
      local merit = criterion:merit(before, AFTER)
      if merit > best then best, info = merit, x end
    end
  end
  if not info then return splitters.NO_SPLIT end
  cut(records, j, info, LOW, HIGH)
  return {merit = best, feature = self.names[j], info = info, children = {counts_of(LOW), counts_of(HIGH)}}
end

--- The best split of each feature.
---@param criterion table
---@param before table the leaf's statistics
---@param tree table
---@param out table[] suggestions are appended
function Observers:suggest(criterion, before, tree, out)
  for j = 1, self.n do
    local name, splitter = self.names[j], self.others and self.others[j]
    if splitter then
      out[#out + 1] = splitter:suggestion(criterion, before, name, tree.binary_split)
    elseif name then
      out[#out + 1] = gaussian_suggestion(self, j, criterion, before, tree.splitter.n_splits)
    end
  end
end

--- Lets splitters that can do so drop bad candidates.
function Observers:remove_bad_splits(criterion, last, before)
  for j = 1, self.n do
    local splitter = self.others and self.others[j]
    if splitter and splitter.remove_bad_splits then splitter:remove_bad_splits(criterion, last, before) end
  end
end

--- About as many bytes as Python's splitters take.
---@return integer
function Observers:size()
  local bytes = 0
  for _, record in ipairs(self.order or {}) do bytes = bytes + 700 * #record.n end
  for j = 1, self.n do
    local splitter = self.others and self.others[j]
    bytes = bytes + 1000
    if splitter then
      bytes = bytes + 500 * #(splitter.value or splitter.cut or splitter.values or splitter.classes or {})
    end
  end
  return bytes
end

return observers
