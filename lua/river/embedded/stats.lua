--- Running statistics, in the library's order of operations; the models keep them inside and some take them as
--- parameters. Constructors (`stats.mean()`) for the former, classes (`river.stats.Mean`) for the latter.

local python = require "river.embedded.python"
local registry = require "river.embedded.registry"

local sqrt, huge = math.sqrt, math.huge

local stats = {}

local function define(name, params)
  return registry.class{class = "river.stats." .. name, role = "stat", params = params}
end

-- A fresh object of a class without going through the registry.
local function new(class, fields)
  return setmetatable(fields, class)
end

-- ------------------------------------------------------------------------------------------------ mean, variance

---@class river.embedded.Mean
---@field n number sum of weights so far
---@field mean number
local Mean = define("Mean")

function Mean:init()
  self.n, self.mean = 0.0, 0.0
end

--- A running mean.
---@return river.embedded.Mean
function stats.mean()
  return new(Mean, {n = 0.0, mean = 0.0})
end

---@param x number
---@param w number|nil weight, 1 when nil
function Mean:update(x, w)
  w = w or 1.0
  local n = self.n + w
  if n == 0 then python.raise("ZeroDivisionError", "float division by zero") end
  self.n = n
  self.mean = self.mean + (w / n) * (x - self.mean)
end

--- Takes a value out that was put in before.
---@param x number
---@param w number|nil
function Mean:revert(x, w)
  w = w or 1.0
  local n = self.n - w
  if n < 0 then python.raise("ValueError", "Cannot go below 0") end
  self.n = n
  if n == 0 then
    self.mean = 0.0
  else
    self.mean = self.mean - (w / n) * (x - self.mean)
  end
end

---@return number
function Mean:get() return self.mean end

---@class river.embedded.Var variance by Welford's method
---@field mean river.embedded.Mean
---@field S number sum of squared differences
---@field ddof integer
local Var = define("Var", {{"ddof", 1, kind = "integer"}})

function Var:init()
  self.mean, self.S = stats.mean(), 0.0
end

--- A running variance.
---@param ddof integer|nil what is taken off the count in the divisor, 1 when nil
---@return river.embedded.Var
function stats.var(ddof)
  return new(Var, {ddof = ddof or 1, mean = stats.mean(), S = 0.0})
end

---@param x number
---@param w number|nil
function Var:update(x, w)
  local mean = self.mean
  local before = mean.mean
  mean:update(x, w)
  self.S = self.S + (w or 1.0) * (x - before) * (x - mean.mean)
end

---@param x number
---@param w number|nil
function Var:revert(x, w)
  local mean = self.mean
  local before = mean.mean
  mean:revert(x, w)
  self.S = self.S - (w or 1.0) * (x - before) * (x - mean.mean)
end

---@return number 0 until there are more values than `ddof`
function Var:get()
  local n = self.mean.n
  if n > self.ddof then return self.S / (n - self.ddof) end
  return 0.0
end

--- The standard error of the mean.
local SEM = define("SEM", {{"ddof", 1, kind = "integer"}})
SEM.init, SEM.update, SEM.revert = Var.init, Var.update, Var.revert

---@return number|nil nil before the first value
function SEM:get()
  local n = self.mean.n
  if n == 0 then return nil end
  return sqrt(Var.get(self) / n)
end

-- --------------------------------------------------------------------------------------------- fading statistics

---@class river.embedded.EWMean
---@field mean number
local EWMean = define("EWMean", {{"fading_factor", 0.5, kind = "number"}})

local function check_factor(self)
  if self.fading_factor < 0 or self.fading_factor > 1 then
    python.raise("ValueError", "q is not comprised between 0 and 1")
  end
end

function EWMean:init()
  check_factor(self)
  self.mean, self.started = 0.0, false
end

--- An exponentially weighted mean; the first value counts in full.
---@param fading_factor number 0 to 1, higher forgets faster
---@return river.embedded.EWMean
function stats.ewmean(fading_factor)
  return new(EWMean, {fading_factor = fading_factor, mean = 0.0, started = false})
end

---@param x number
function EWMean:update(x)
  if self.started then
    self.mean = self.fading_factor * x + (1.0 - self.fading_factor) * self.mean
  else
    self.mean, self.started = x + 0.0, true
  end
end

function EWMean:get() return self.mean end

--- An exponentially weighted variance: the weighted mean of the squares less the square of the weighted mean.
local EWVar = define("EWVar", {{"fading_factor", 0.5, kind = "number"}})

function EWVar:init()
  check_factor(self)
  self.first, self.second = stats.ewmean(self.fading_factor), stats.ewmean(self.fading_factor)
end

function EWVar:update(x)
  self.first:update(x)
  self.second:update(x * x)
end

function EWVar:get()
  return self.second.mean - self.first.mean * self.first.mean
end

-- ----------------------------------------------------------------------------------------- counts, sums, extremes

local Count = define("Count")

function Count:init() self.n = 0 end

function Count:update() self.n = self.n + 1 end

function Count:get() return self.n end

local Sum = define("Sum")

function Sum:init() self.sum = 0.0 end

function Sum:update(x) self.sum = self.sum + x end

function Sum:revert(x) self.sum = self.sum - x end

function Sum:get() return self.sum end

local Min = define("Min")

function Min:init() self.min = huge end

function Min:update(x)
  if x < self.min then self.min = x end
end

function Min:get() return self.min end

local Max = define("Max")

function Max:init() self.max = -huge end

function Max:update(x)
  if x > self.max then self.max = x end
end

function Max:get() return self.max end

local PeakToPeak = define("PeakToPeak")

function PeakToPeak:init() self.min, self.max = huge, -huge end

function PeakToPeak:update(x)
  Min.update(self, x)
  Max.update(self, x)
end

function PeakToPeak:get()
  if self.max < self.min then return 0.0 end
  return self.max - self.min
end

-- ------------------------------------------------------------------------------------------------ two variables

---@class river.embedded.Cov
---@field mean_x river.embedded.Mean
---@field mean_y river.embedded.Mean
---@field cov number
local Cov = define("Cov", {{"ddof", 1, kind = "integer"}})

function Cov:init()
  self.mean_x, self.mean_y, self.cov = stats.mean(), stats.mean(), 0.0
end

--- A running covariance of two variables.
---@param ddof integer|nil 1 when nil
---@return river.embedded.Cov
function stats.cov(ddof)
  return new(Cov, {ddof = ddof or 1, mean_x = stats.mean(), mean_y = stats.mean(), cov = 0.0})
end

local function cov_step(self, dx, y, w)
  local divisor = self.mean_x.n - self.ddof
  return w * (dx * (y - self.mean_y.mean) - self.cov) / (divisor > 1 and divisor or 1)
end

---@param x number
---@param y number
---@param w number|nil
function Cov:update(x, y, w)
  local dx = x - self.mean_x.mean
  self.mean_x:update(x, w)
  self.mean_y:update(y, w)
  self.cov = self.cov + cov_step(self, dx, y, w or 1.0)
end

function Cov:revert(x, y, w)
  local dx = x - self.mean_x.mean
  self.mean_x:revert(x, w)
  self.mean_y:revert(y, w)
  self.cov = self.cov - cov_step(self, dx, y, w or 1.0)
end

function Cov:get() return self.cov end

---@class river.embedded.PearsonCorr
local PearsonCorr = define("PearsonCorr", {{"ddof", 1, kind = "integer"}})

function PearsonCorr:init()
  self.var_x, self.var_y, self.cov_xy = stats.var(self.ddof), stats.var(self.ddof), stats.cov(self.ddof)
end

---@param x number
---@param y number
function PearsonCorr:update(x, y)
  self.var_x:update(x)
  self.var_y:update(y)
  self.cov_xy:update(x, y)
end

function PearsonCorr:revert(x, y)
  self.var_x:revert(x)
  self.var_y:revert(y)
  self.cov_xy:revert(x, y)
end

---@return number 0 while one of the two does not vary
function PearsonCorr:get()
  local var_x, var_y = self.var_x:get(), self.var_y:get()
  if var_x ~= 0 and var_y ~= 0 then return self.cov_xy.cov / sqrt(var_x * var_y) end
  return 0
end

-- ----------------------------------------------------------------------------------------------------- quantile

--- A running quantile without keeping the values: five markers that follow the distribution, moved along parabolas
--- (the P² algorithm of Jain and Chlamtac, 1985).
---@class river.embedded.Quantile
local Quantile = define("Quantile", {{"q", 0.5, kind = "number"}})

function Quantile:init()
  local q = self.q
  if not (q > 0 and q < 1) then python.raise("ValueError", "q is not comprised between 0 and 1") end
  self.heights, self.ready = {}, false
  self.positions = {1.0, 2.0, 3.0, 4.0, 5.0}
  self.desired = {1.0, 1.0 + 2.0 * q, 1.0 + 4.0 * q, 3.0 + 2.0 * q, 5.0}
  self.steps = {0.0, q / 2.0, q, (1.0 + q) / 2.0, 1.0}
end

--- A running quantile.
---@param q number between 0 and 1, both excluded
---@return river.embedded.Quantile
function stats.quantile(q)
  local self = new(Quantile, {q = q})
  self:init()
  return self
end

-- The interval that x is in, 1 to 4; the outer markers follow the extremes.
local function find_interval(heights, x)
  if x < heights[1] then
    heights[1] = x
    return 1
  end
  for i = 1, 4 do
    if heights[i] <= x and x < heights[i + 1] then return i end
  end
  if heights[5] < x then heights[5] = x end
  return 4
end

-- Moves an inner marker by one place towards where it is wanted.
local function move(self, i, d)
  local heights, positions = self.heights, self.positions
  local n, q = positions[i], heights[i]
  local below, above, lower, upper = positions[i - 1], positions[i + 1], heights[i - 1], heights[i + 1]
  local parabola = q + d / (above - below)
    * ((n - below + d) * (upper - q) / (above - n) + (above - n - d) * (q - lower) / (n - below))
  if lower < parabola and parabola < upper then
    heights[i] = parabola
  else
    local next_one = i + (d > 0 and 1 or -1)
    heights[i] = q + d * (heights[next_one] - q) / (positions[next_one] - n)
  end
  positions[i] = n + d
end

---@param x number
function Quantile:update(x)
  local heights, positions = self.heights, self.positions
  if #heights < 5 then
    heights[#heights + 1] = x
    return
  end
  if not self.ready then
    table.sort(heights)
    self.ready = true
  end
  for i = find_interval(heights, x) + 1, 5 do positions[i] = positions[i] + 1.0 end
  local desired, steps = self.desired, self.steps
  for i = 1, 5 do desired[i] = desired[i] + steps[i] end
  for i = 2, 4 do
    local d = desired[i] - positions[i]
    if d >= 1.0 and positions[i + 1] - positions[i] > 1.0 then
      move(self, i, 1.0)
    elseif d <= -1.0 and positions[i - 1] - positions[i] < -1.0 then
      move(self, i, -1.0)
    end
  end
end

---@return number|nil nil before the first value
function Quantile:get()
  local heights = self.heights
  if self.ready then return heights[3] end
  local count = #heights
  if count == 0 then return nil end
  local sorted = table.move(heights, 1, count, 1, {})
  table.sort(sorted)
  return sorted[math.floor(math.min(math.max(count - 1.0, 0.0), count * self.q)) + 1]
end

-- --------------------------------------------------------------------------------------------- confusion matrix

---@class river.embedded.Confusion counts over label keys (`python.label_key`)
---@field rows table<any, number> sum of weights by true label
---@field columns table<any, number> by predicted label
---@field cells table<any, table<any, number>>|nil true label → predicted label → sum of weights
---@field seen any[] label keys in the order in which they came
---@field names table<any, any> label key → the label as it came first
---@field n_samples integer
---@field total number sum of weights
---@field hits number sum of weights on the diagonal
local Confusion = registry.helper("river.embedded.Confusion", {})

--- A confusion matrix. Without cells it only counts rows, columns and the diagonal, which most metrics do with.
---@param cells boolean|nil
---@return river.embedded.Confusion
function stats.confusion(cells)
  return setmetatable({rows = {}, columns = {}, diagonal = {}, cells = cells and {} or nil, seen = {}, names = {},
    n_samples = 0, total = 0.0, hits = 0.0}, Confusion)
end

local function add_name(self, key, label)
  self.seen[#self.seen + 1] = key
  if label == nil then label = key end
  self.names[key] = label
end

---@param truth any label key
---@param guess any label key
---@param w number|nil weight, 1 when nil
---@param true_label any the label behind `truth`, for printing
---@param guessed_label any the label behind `guess`
function Confusion:update(truth, guess, w, true_label, guessed_label)
  w = w or 1.0
  local rows, columns, cells = self.rows, self.columns, self.cells
  local row, column = rows[truth], columns[guess]
  if not row then
    if not columns[truth] then add_name(self, truth, true_label) end
    row = 0.0
  end
  rows[truth] = row + w
  if not column then
    if not rows[guess] then add_name(self, guess, guessed_label) end
    column = 0.0
  end
  columns[guess] = column + w
  self.n_samples = self.n_samples + (w < 0 and -1 or 1)
  self.total = self.total + w
  if truth == guess then
    self.diagonal[truth] = (self.diagonal[truth] or 0.0) + w
    self.hits = self.hits + w
  end
  if cells then
    local line = cells[truth]
    if not line then
      line = {}
      cells[truth] = line
    end
    line[guess] = (line[guess] or 0.0) + w
  end
end

--- The label keys that count for something, in the order in which they came.
---@return any[]
function Confusion:classes()
  local rows, columns, list = self.rows, self.columns, {}
  for _, key in ipairs(self.seen) do
    if (rows[key] or 0) ~= 0 or (columns[key] or 0) ~= 0 then list[#list + 1] = key end
  end
  return list
end

---@return number
function Confusion:cell(truth, guess)
  local line = self.cells[truth]
  return line and line[guess] or 0.0
end

---@return number
function Confusion:true_positives(label) return self.diagonal[label] or 0.0 end

---@return number
function Confusion:true_negatives(label) return self.hits - (self.diagonal[label] or 0.0) end

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
