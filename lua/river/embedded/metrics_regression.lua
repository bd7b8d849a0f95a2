--- Metrics of regression. Besides `update` they have `add(y, prediction)` for two numbers, which is what a service
--- calls once per sample and metric.

local base = require "river.embedded.metrics_base"
local python = require "river.embedded.python"
local stats = require "river.embedded.stats"

local number, power, log = base.number, require("riverlua.core.math").pow, math.log

-- What is no number is an error for a script, and left out by a server (`lenient`).
local function numbers(self, y, prediction)
  local a, b = number(y), number(prediction)
  if a and b then return a, b end
  if self.lenient then return nil end
  python.raise("TypeError", "unsupported operand type(s) for -: '%s' and '%s'", python.type_name(y),
    python.type_name(prediction))
end

-- ---------------------------------------------------------------------------------------- means of an error each

local function update(self, y, prediction, _, w)
  local a, b = numbers(self, y, prediction)
  if not a then return end
  if w == nil then return self:add(a, b) end
  local n = self.n + w
  if n == 0 then python.raise("ZeroDivisionError", "float division by zero") end
  self.n = n
  self.mean = self.mean + (w / n) * (self.error(a, b) - self.mean)
end

local function revert(self, y, prediction, _, w)
  local a, b = numbers(self, y, prediction)
  if a then stats.mean().revert(self, self.error(a, b), w) end
end

local function add_any(self, y, prediction)
  local n = self.n + 1.0
  self.n = n
  self.mean = self.mean + (1.0 / n) * (self.error(y, prediction) - self.mean)
end

-- `error(y, prediction)` of one sample; `finish(mean)` makes the value of the mean.
local function define_mean(name, error_of, finish, add)
  base.define(name, "regression", {}, {
    init = function(self) self.n, self.mean = 0.0, 0.0 end,
    error = error_of,
    add = add or add_any,
    update = update,
    revert = revert,
    get = finish and function(self) return finish(self.mean) end or function(self) return self.mean end,
  })
end

local function percent(mean) return 100 * mean end

-- The running mean is written out in those of a server: this runs once per sample and metric.

define_mean("MAE", function(y, p) return y < p and p - y or y - p end, nil, function(self, y, p)
  local n = self.n + 1.0
  local error_now = y - p
  if error_now < 0 then error_now = -error_now end
  self.n = n
  self.mean = self.mean + (1.0 / n) * (error_now - self.mean)
end)

local function squared(y, p) return power(y - p, 2.0) end

define_mean("MSE", squared)

define_mean("RMSE", squared, function(mean) return mean ^ 0.5 end, function(self, y, p)
  local n = self.n + 1.0
  self.n = n
  self.mean = self.mean + (1.0 / n) * (power(y - p, 2.0) - self.mean)
end)

define_mean("RMSLE", function(y, p)
  if y <= -1 or p <= -1 then python.raise("ValueError", "math domain error") end
  return power(log(y + 1) - log(p + 1), 2.0)
end, function(mean) return mean ^ 0.5 end)

define_mean("MAPE", function(y, p)
  if y == 0 then return 0.0 end
  return math.abs(y - p) / math.abs(y)
end, percent)

local function symmetric(y, p)
  local total = (y < 0 and -y or y) + (p < 0 and -p or p)
  if total == 0 then return 0.0 end
  local error_now = y - p
  if error_now < 0 then error_now = -error_now end
  return 2.0 * error_now / total
end

define_mean("SMAPE", symmetric, percent, function(self, y, p)
  local n = self.n + 1.0
  self.n = n
  self.mean = self.mean + (1.0 / n) * (symmetric(y, p) - self.mean)
end)

-- ------------------------------------------------------------------------------------------------------------ R2

base.define("R2", "regression", {bigger_is_better = true}, {
  init = function(self) self.variance, self.residual = stats.var(), 0 end,
  add = function(self, y, p)
    self.variance:update(y)
    self.residual = self.residual + (y - p) * (y - p)
  end,
  update = function(self, y, prediction, _, w)
    local a, b = numbers(self, y, prediction)
    if not a then return end
    w = w or 1.0
    self.variance:update(a, w)
    self.residual = self.residual + (a - b) * (a - b) * w
  end,
  get = function(self)
    local n = self.variance.mean.n
    if n <= 1 then return 0.0 end
    local total = (n - 1) * self.variance:get()
    if total == 0 then return 0.0 end
    return 1 - self.residual / total
  end,
})
