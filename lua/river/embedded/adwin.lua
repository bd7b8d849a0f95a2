--- ADWIN: a window that shrinks when the mean of its values changes.
--
-- Bifet and Gavaldà (2007), "Learning from time-changing data with adaptive windowing": values are kept as sums of
-- 1, 2, 4 … of them, a few of each size ("row" i holds sums of 2^i values). Every `clock` values all places where the
-- window might be cut are looked at; where the means on both sides differ too much, the oldest values go.

local registry = require "river.embedded.registry"

local log, sqrt = math.log, math.sqrt

local adwin = {}

---@class river.embedded.Adwin its parameters, `drift_detected`, and as plain data:
---@field width number values in the window
---@field total number their sum
---@field variance number sum of their squared deviations
---@field totals number[][] the sums, row by row, oldest first
---@field variances number[][] the squared deviations within them
local Adwin = registry.class{
  class = "river.drift.ADWIN", role = "drift_detector",
  params = {
    {"delta", 0.002, kind = "number"},
    {"clock", 32, kind = "integer"},
    {"max_buckets", 5, kind = "integer"},
    {"min_window_length", 5, kind = "integer"},
    {"grace_period", 10, kind = "integer"},
  },
}

-- Empties the window.
function Adwin:init()
  self.total, self.variance, self.width = 0.0, 0.0, 0.0
  self.tick, self.detections = 0, 0
  self.totals, self.variances = {{}}, {{}}
  self.drift_detected = false
end

--- Makes a detector.
---@param delta number|nil significance, 0.002 unless given
---@return river.embedded.Adwin
function adwin.new(delta)
  return registry.build{class = "river.drift.ADWIN", kwargs = {delta = delta}}
end

-- Merges the two oldest sums of each row that is full into one of the next.
local function compress(self)
  local i, size = 1, 1.0
  while true do
    local totals, variances = self.totals[i], self.variances[i]
    if #totals ~= self.max_buckets + 1 then return end
    local t0, t1 = totals[1], totals[2]
    local apart = t0 / size - t1 / size
    local merged = variances[1] + variances[2] + size * 0.5 * apart * apart
    local next_totals, next_variances = self.totals[i + 1], self.variances[i + 1]
    if not next_totals then
      next_totals, next_variances = {}, {}
      self.totals[i + 1], self.variances[i + 1] = next_totals, next_variances
    end
    next_totals[#next_totals + 1] = t0 + t1
    next_variances[#next_variances + 1] = merged
    for _ = 1, 2 do
      table.remove(totals, 1)
      table.remove(variances, 1)
    end
    if #next_totals <= self.max_buckets then return end
    i, size = i + 1, size * 2.0
  end
end

local function insert(self, value)
  local totals, variances = self.totals[1], self.variances[1]
  totals[#totals + 1] = value
  variances[#variances + 1] = 0.0
  local width = self.width + 1.0
  self.width = width
  if width > 1.0 then
    local apart = value - self.total / (width - 1.0)
    self.variance = self.variance + (width - 1.0) * apart * apart / width
  end
  self.total = self.total + value
  compress(self)
end

-- Drops the oldest sum.
local function drop(self)
  local last = #self.totals
  local totals, variances = self.totals[last], self.variances[last]
  local n = 2.0 ^ (last - 1)
  local sum = totals[1]
  local mean = sum / n
  self.width = self.width - n
  self.total = self.total - sum
  local rest_mean = self.total / self.width
  self.variance = self.variance
    - (variances[1] + n * self.width * (mean - rest_mean) * (mean - rest_mean) / (n + self.width))
  table.remove(totals, 1)
  table.remove(variances, 1)
  while last > 1 and #self.totals[last] == 0 do
    self.totals[last], self.variances[last] = nil, nil
    last = last - 1
  end
end

-- Whether the means left and right of a cut differ by more than chance allows.
local function differs(self, n0, n1, difference)
  local delta_prime = log(2.0 * log(self.width) / self.delta)
  local shortest = self.min_window_length
  local m_recip = 1.0 / (n0 - shortest + 1.0) + 1.0 / (n1 - shortest + 1.0)
  local epsilon = sqrt(2.0 * m_recip * (self.variance / self.width) * delta_prime)
    + 2.0 / 3.0 * delta_prime * m_recip
  if difference < 0 then difference = -difference end
  return difference > epsilon
end

-- Looks for a cut from the oldest value on.
local function find_cut(self)
  local shortest = self.min_window_length
  local n0, n1, u0, u1 = 0.0, self.width, 0.0, self.total
  for i = #self.totals, 1, -1 do
    local totals, size = self.totals[i], 2.0 ^ (i - 1)
    local count = #totals
    for k = 1, count do
      n0, n1 = n0 + size, n1 - size
      u0, u1 = u0 + totals[k], u1 - totals[k]
      if i == 1 and k == count then return false end
      if n1 >= shortest and n0 >= shortest and differs(self, n0, n1, u0 / n0 - u1 / n1) then return true end
    end
  end
  return false
end

--- Takes the next value.
---@param value number
function Adwin:update(value)
  if self.drift_detected then self:init() end
  insert(self, value)
  local changed = false
  self.tick = self.tick + 1
  if self.tick % self.clock == 0 and self.width > self.grace_period then
    while find_cut(self) do
      changed = true
      drop(self)
    end
  end
  if changed then self.detections = self.detections + 1 end
  self.drift_detected = changed
end

--- The mean of the window, 0 when it is empty.
---@return number
function Adwin:estimation()
  if self.width == 0 then return 0.0 end
  return self.total / self.width
end

adwin.ADWIN = Adwin

return adwin
