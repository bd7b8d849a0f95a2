--- Detectors of change: `update(x)` takes the next value, `drift_detected` tells of a change.

local adwin = require "river.embedded.adwin"
local python = require "river.embedded.python"
local random = require "river.embedded.random"
local registry = require "river.embedded.registry"

local exp = math.exp
local None = python.None

local function detector(name, params)
  return registry.class{class = "river.drift." .. name, role = "drift_detector", params = params}
end

-- ---------------------------------------------------------------------------------------------------- NoDrift

local NoDrift = detector("NoDrift")

NoDrift.drift_detected = false
NoDrift.never_detects = true

function NoDrift.update() end

-- ----------------------------------------------------------------------------------------- DummyDriftDetector

local DummyDriftDetector = detector("DummyDriftDetector", {
  {"trigger_method", "fixed", kind = "string"},
  {"t_0", 300, kind = "integer"},
  {"w", 0, kind = "integer"},
  {"dynamic_cloning", false, kind = "boolean"},
  {"seed", None, kind = "integer", optional = true},
})

function DummyDriftDetector:init()
  local method = self.trigger_method
  if method ~= "fixed" and method ~= "random" then
    python.raise("ValueError", "Invalid trigger_method: %s.\nValid options are: ['fixed', 'random']", method)
  end
  if method == "random" and self.w == 0 then
    python.raise("ValueError", "The 'w' value must be greater than zero when 'trigger_method' is 'random'.")
  end
  self.rng, self.n, self.drift_detected = random.new(self.seed), 0, false
  self.warmup = method == "fixed" and self.w > 0 and self.rng:randint(1, self.w + 1)
end

--- Counts values; what they are does not matter.
function DummyDriftDetector:update()
  self.n = self.n + 1
  self.drift_detected = false
  if self.trigger_method == "random" then
    local exponent = -4 * (self.n - self.t_0) / self.w
    if exponent > 709.782712893384 then python.raise("OverflowError", "math range error") end
    self.drift_detected = self.rng:random() < 1 / (1 + exp(exponent))
    if self.drift_detected then self.n = 0 end
  elseif self.warmup then
    if self.n >= self.warmup then self.n, self.warmup = 0, false end
  elseif self.n >= self.t_0 then
    self.drift_detected, self.n = true, 0
  end
end

--- A fresh detector; with `dynamic_cloning` one that signals at other times.
function DummyDriftDetector:clone()
  local copy = setmetatable({}, DummyDriftDetector)
  for _, parameter in ipairs(DummyDriftDetector.params) do copy[parameter[1]] = self[parameter[1]] end
  if self.dynamic_cloning then
    copy.seed = self.rng:randint(0, 1000000000000000)
    if self.trigger_method == "fixed" then copy.w = self.rng:randint(0, self.t_0 + 1) end
  end
  copy:init()
  return copy
end

-- ------------------------------------------------------------------------------------------------ PageHinkley

local PageHinkley = detector("PageHinkley", {
  {"min_instances", 30, kind = "integer"},
  {"delta", 0.005, kind = "number"},
  {"threshold", 50.0, kind = "number"},
  {"alpha", 1 - 0.0001, kind = "number"},
  {"mode", "both", kind = "string"},
})

function PageHinkley:init()
  local mode = self.mode
  if mode ~= "up" and mode ~= "down" and mode ~= "both" then
    python.raise("ValueError", "Invalid 'mode'. Valid values are: ['up', 'down', 'both']")
  end
  self.n, self.mean = 0.0, 0.0
  self.increase, self.decrease = 0.0, 0.0
  self.least_increase, self.most_decrease = math.huge, -1
  self.drift_detected = false
end

---@param x number
function PageHinkley:update(x)
  if self.drift_detected then self:init() end
  self.n = self.n + 1.0
  self.mean = self.mean + (1.0 / self.n) * (x - self.mean)
  local deviation = x - self.mean
  local increase = self.alpha * self.increase + deviation - self.delta
  local decrease = self.alpha * self.decrease + deviation + self.delta
  self.increase, self.decrease = increase, decrease
  if increase < self.least_increase then self.least_increase = increase end
  if decrease > self.most_decrease then self.most_decrease = decrease end
  if self.n >= self.min_instances then
    local up = increase - self.least_increase > self.threshold
    local down = self.most_decrease - decrease > self.threshold
    local mode = self.mode
    self.drift_detected = mode ~= "down" and up or mode ~= "up" and down
  end
end

require "river.embedded.drift_binary"

return {ADWIN = adwin.ADWIN, NoDrift = NoDrift, DummyDriftDetector = DummyDriftDetector, PageHinkley = PageHinkley}
