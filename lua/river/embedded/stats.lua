--- Running statistics, in the library's order of operations.

local stats = {}

---@class river.embedded.Mean
---@field n number sum of weights so far
---@field mean number
local Mean = {}
Mean.__index = Mean

--- A running mean.
---@return river.embedded.Mean
function stats.mean()
  return setmetatable({n = 0.0, mean = 0.0}, Mean)
end

---@param x number
function Mean:update(x)
  local n = self.n + 1.0
  self.n = n
  self.mean = self.mean + (1.0 / n) * (x - self.mean)
end

---@class river.embedded.EWMean
---@field mean number
local EWMean = {}
EWMean.__index = EWMean

--- An exponentially weighted mean; the first value counts in full.
---@param fading_factor number 0 to 1, higher forgets faster
---@return river.embedded.EWMean
function stats.ewmean(fading_factor)
  return setmetatable({factor = fading_factor, mean = 0.0, started = false}, EWMean)
end

---@param x number
function EWMean:update(x)
  if self.started then
    self.mean = self.factor * x + (1.0 - self.factor) * self.mean
  else
    self.mean, self.started = x + 0.0, true
  end
end

---@class river.embedded.Confusion
local Confusion = {}
Confusion.__index = Confusion

--- A confusion matrix over label keys (`python.label_key`).
---@return river.embedded.Confusion
function stats.confusion()
  return setmetatable({rows = {}, columns = {}, diagonal = {}, classes = {}, total = 0.0, hits = 0.0}, Confusion)
end

---@param truth any label key
---@param guess any label key
function Confusion:update(truth, guess)
  local rows, columns, classes = self.rows, self.columns, self.classes
  if not rows[truth] and not columns[truth] then classes[#classes + 1] = truth end
  rows[truth] = (rows[truth] or 0.0) + 1.0
  if not rows[guess] and not columns[guess] then classes[#classes + 1] = guess end
  columns[guess] = (columns[guess] or 0.0) + 1.0
  self.total = self.total + 1.0
  if truth == guess then
    self.diagonal[truth] = (self.diagonal[truth] or 0.0) + 1.0
    self.hits = self.hits + 1.0
  end
end

---@return number
function Confusion:true_positives(label) return self.diagonal[label] or 0.0 end

---@return number
function Confusion:false_positives(label) return (self.columns[label] or 0.0) - (self.diagonal[label] or 0.0) end

---@return number
function Confusion:false_negatives(label) return (self.rows[label] or 0.0) - (self.diagonal[label] or 0.0) end

--- A quotient that is 0 where the divisor is.
---@param a number
---@param b number
---@return number
function stats.ratio(a, b)
  if b == 0 then return 0.0 end
  return a / b
end

return stats
