--- Detectors of change in a series of errors: 1 for a wrong prediction, 0 for a right one.

local math_core = require "riverlua.core.math"
local python = require "river.embedded.python"
local registry = require "river.embedded.registry"
local tree_stats = require "river.embedded.tree_stats"

local log, sqrt, huge = math.log, math.sqrt, math.huge
local None = python.None

local function detector(name, params)
  return registry.class{class = "river.drift.binary." .. name, role = "drift_detector", params = params}
end

-- A running mean as plain data.
local function add(mean, x)
  local n = mean.n + 1.0
  mean.n = n
  mean.mean = mean.mean + (1.0 / n) * (x - mean.mean)
end

-- -------------------------------------------------------------------------------------------------------- DDM

local DDM = detector("DDM", {
  {"warm_start", 30, kind = "integer"},
  {"warning_threshold", 2.0, kind = "number"},
  {"drift_threshold", 3.0, kind = "number"},
})

function DDM:init()
  self.rate = {n = 0.0, mean = 0.0}
  self.least = huge
  self.least_rate, self.least_deviation = nil, nil
  self.drift_detected, self.warning_detected = false, false
end

---@param x number
function DDM:update(x)
  if self.drift_detected then self:init() end
  local rate = self.rate
  add(rate, x)
  local p, n = rate.mean, rate.n
  local variance = p * (1 - p) / n
  if variance < 0 then python.raise("ValueError", "math domain error") end
  local level = p + sqrt(variance)
  if n <= self.warm_start then return end
  if level <= self.least then
    self.least_rate, self.least_deviation = p, sqrt(variance)
    self.least = self.least_rate + self.least_deviation
  end
  self.warning_detected = level > self.least_rate + self.warning_threshold * self.least_deviation
  if level > self.least_rate + self.drift_threshold * self.least_deviation then
    self.drift_detected, self.warning_detected = true, false
  end
end

-- ------------------------------------------------------------------------------------------------------- EDDM

local EDDM = detector("EDDM", {
  {"warm_start", 30, kind = "integer"},
  {"alpha", 0.95, kind = "number"},
  {"beta", 0.9, kind = "number"},
})

function EDDM:init()
  if self.alpha < self.beta then
    python.raise("ValueError", "'alpha' must be greater or equal to 'beta'.")
  end
  self.distances = tree_stats.var()
  self.n, self.last_error, self.errors = 0, 0, 0
  self.highest = -1
  self.drift_detected, self.warning_detected = false, false
end

-- What the distance between the last two errors says.
local function judge(self)
  local distances = self.distances
  local level = distances.mean + 2 * distances:get() ^ 0.5
  if level > self.highest then
    self.highest = level
  elseif self.errors > self.warm_start then
    level = level / self.highest
    if level < self.beta then
      self.drift_detected = true
    else
      self.warning_detected = level < self.alpha
    end
  end
end

---@param x number
function EDDM:update(x)
  if self.drift_detected then self:init() end
  self.n = self.n + 1
  if x ~= 1 then return end
  self.errors = self.errors + 1
  self.distances:update(self.n - self.last_error)
  if self.n > self.warm_start then judge(self) end
  self.last_error = self.n
end

-- ------------------------------------------------------------------------------------------------------ FHDDM

local FHDDM = detector("FHDDM", {
  {"sliding_window_size", 100, kind = "integer"},
  {"confidence_level", 0.000001, kind = "number"},
  {"short_window_size", None, kind = "integer", optional = true},
})

local function bound(self, size)
  return sqrt(log(1 / self.confidence_level) / (2 * size))
end

function FHDDM:init()
  self.window, self.first, self.last, self.ones = {}, 1, 0, 0
  self.highest, self.highest_short = 0, 0
  self.drift_detected = false
end

---@param x number
function FHDDM:update(x)
  if self.drift_detected then self:init() end
  local window, size = self.window, self.sliding_window_size
  self.last = self.last + 1
  window[self.last] = x
  self.ones = self.ones + x
  if self.last - self.first + 1 ~= size then return end
  local u = self.ones / size
  if self.highest < u then self.highest = u end
  local short_drift, short = false, self.short_window_size
  if short ~= None then
    local sum = 0
    for i = self.last - short + 1, self.last do sum = sum + window[i] end
    local short_u = sum / short
    if self.highest_short < short_u then self.highest_short = short_u end
    short_drift = self.highest_short - short_u > bound(self, short)
  end
  self.drift_detected = self.highest - u > bound(self, size) or short_drift
  self.ones = self.ones - window[self.first]
  window[self.first], self.first = nil, self.first + 1
end

-- ------------------------------------------------------------------------------------------------------ HDDMA

local HDDMA = detector("HDDMA", {
  {"drift_confidence", 0.001, kind = "number"},
  {"warning_confidence", 0.005, kind = "number"},
  {"two_sided_test", false, kind = "boolean"},
})

function HDDMA:init()
  self.all = {n = 0.0, mean = 0.0}
  self.low, self.high = {n = 0.0, mean = 0.0}, {n = 0.0, mean = 0.0}
  self.drift_detected, self.warning_detected = false, false
end

local function snapshot_of(mean)
  return {n = mean.n, mean = mean.mean}
end

-- Whether the mean since `part` is apart from it by more than chance allows; `sign` 1: above, -1: below.
local function has_moved(all, part, sign, confidence)
  if part.n == all.n then return false end
  local m = (all.n - part.n) / part.n * (1.0 / all.n)
  local apart = sign > 0 and all.mean - part.mean or part.mean - all.mean
  return apart >= sqrt(m / 2 * log(2.0 / confidence))
end

---@param x number
function HDDMA:update(x)
  if self.drift_detected then self:init() end
  local all = self.all
  add(all, x)
  if self.low.n == 0 then self.low = snapshot_of(all) end
  if self.high.n == 0 then self.high = snapshot_of(all) end
  local function epsilon(n) return sqrt(1.0 / (2 * n) * log(1.0 / self.drift_confidence)) end
  local here = epsilon(all.n)
  if self.low.mean + epsilon(self.low.n) >= all.mean + here then self.low = snapshot_of(all) end
  if self.high.mean - epsilon(self.high.n) <= all.mean - here then self.high = snapshot_of(all) end
  self.drift_detected = has_moved(all, self.low, 1, self.drift_confidence)
  self.warning_detected = not self.drift_detected and has_moved(all, self.low, 1, self.warning_confidence)
  if self.two_sided_test then
    if has_moved(all, self.high, -1, self.drift_confidence) then
      self.drift_detected = true
    elseif has_moved(all, self.high, -1, self.warning_confidence) then
      self.warning_detected = true
    end
  end
end

-- ------------------------------------------------------------------------------------------------------ HDDMW

local HDDMW = detector("HDDMW", {
  {"drift_confidence", 0.001, kind = "number"},
  {"warning_confidence", 0.005, kind = "number"},
  {"lambda_val", 0.05, kind = "number"},
  {"two_sided_test", false, kind = "boolean"},
})

local function empty_sample()
  return {mean = 0.0, started = false, ibc = 1.0}
end

-- An exponentially weighted mean and the sum of its squared weights.
local function weigh(sample, x, lambda)
  if sample.started then
    sample.mean = lambda * x + (1.0 - lambda) * sample.mean
  else
    sample.mean, sample.started = x + 0.0, true
  end
  sample.ibc = lambda * lambda + math_core.pow(1 - lambda, 2.0) * sample.ibc
end

local function copy_of(sample)
  return {mean = sample.mean, started = sample.started, ibc = sample.ibc}
end

local function mcdiarmid(ibc, confidence)
  return sqrt(ibc * log(1 / confidence) / 2)
end

local function is_above(first, second, confidence)
  if not (first.started and second.started) then return false end
  return second.mean - first.mean > mcdiarmid(first.ibc + second.ibc, confidence)
end

function HDDMW:init()
  self.all = empty_sample()
  self.before_up, self.after_up = empty_sample(), empty_sample()
  self.before_down, self.after_down = empty_sample(), empty_sample()
  self.cut_up, self.cut_down = huge, -huge
  self.drift_detected, self.warning_detected = false, false
end

---@param x number
function HDDMW:update(x)
  if self.drift_detected then self:init() end
  local all, lambda, confidence = self.all, self.lambda_val, self.drift_confidence
  weigh(all, x, lambda)
  local epsilon = mcdiarmid(all.ibc, confidence)
  if all.mean + epsilon < self.cut_up then
    self.cut_up = all.mean + epsilon
    self.before_up, self.after_up = copy_of(all), empty_sample()
  else
    weigh(self.after_up, x, lambda)
  end
  self.drift_detected = is_above(self.before_up, self.after_up, confidence)
  self.warning_detected = not self.drift_detected
    and is_above(self.before_up, self.after_up, self.warning_confidence)
  if all.mean - epsilon > self.cut_down then
    self.cut_down = all.mean - epsilon
    self.before_down, self.after_down = copy_of(all), empty_sample()
  else
    weigh(self.after_down, x, lambda)
  end
  if self.two_sided_test then
    if is_above(self.after_down, self.before_down, confidence) then
      self.drift_detected = true
    elseif is_above(self.after_down, self.before_down, self.warning_confidence) then
      self.warning_detected = true
    end
  end
end

return {DDM = DDM, EDDM = EDDM, FHDDM = FHDDM, HDDMA = HDDMA, HDDMW = HDDMW}
