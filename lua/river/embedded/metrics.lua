--- Metrics, with the library's numbers.
--
-- A metric has `name`, `get()` and `update(y, prediction, label)`: the prediction as the model gave it, and the label
-- it stands for (the likeliest one where the prediction is a table of probabilities). Those of regression also have
-- `add(y, prediction)` for two numbers. Metrics that count the same share the count; `metrics.set` tells which are to
-- be updated.

local python = require "river.embedded.python"
local stats = require "river.embedded.stats"

local log = math.log
local ratio, label_key = stats.ratio, python.label_key

-- Lua squares where C's pow is asked for the second power, and pow differs from that in one of a thousand last bits.
local power = rawget(math, "pow") or function(a, b) return a ^ b end

local metrics = {}

-- Name → constructor.
local classes = {}

--- Makes fresh metrics by their names.
---@param names string[]
---@return table[] all in this order
---@return table[] active those whose update also serves the others
function metrics.set(names)
  local all, active, shared = {}, {}, {}
  for i, name in ipairs(names) do
    local metric = setmetatable({name = name}, classes[name])
    all[i] = metric
    if metric:init(shared) then active[#active + 1] = metric end
  end
  return all, active
end

--- The names of all metrics, sorted.
---@return string[]
function metrics.names()
  local names = {}
  for name in pairs(classes) do names[#names + 1] = name end
  table.sort(names)
  return names
end

local function define(name, methods)
  methods.__index = methods
  classes[name] = methods
  return methods
end

-- A number, a boolean as one, or nil.
local function number(value)
  if value == true then return 1 elseif value == false then return 0 end
  return type(value) == "number" and value or nil
end

-- Means of one error per sample. What is no number is left out, as the server leaves it out.

local function define_mean(name, add, finish)
  define(name, {
    init = function(self)
      self.n, self.mean = 0.0, 0.0
      return true
    end,
    add = add,
    update = function(self, y, prediction)
      local a, b = number(y), number(prediction)
      if a and b then add(self, a, b) end
    end,
    get = function(self) return finish and finish(self.mean) or self.mean end,
  })
end

-- The running mean is written out in each: this runs once per sample and metric.

define_mean("MAE", function(self, y, p)
  local n = self.n + 1.0
  local error_now = y - p
  if error_now < 0 then error_now = -error_now end
  self.n = n
  self.mean = self.mean + (1.0 / n) * (error_now - self.mean)
end)

define_mean("RMSE", function(self, y, p)
  local n = self.n + 1.0
  self.n = n
  self.mean = self.mean + (1.0 / n) * (power(y - p, 2.0) - self.mean)
end, function(mean) return mean ^ 0.5 end)

define_mean("SMAPE", function(self, y, p)
  local n = self.n + 1.0
  local total = (y < 0 and -y or y) + (p < 0 and -p or p)
  local error_now = 0.0
  if total ~= 0 then
    error_now = y - p
    if error_now < 0 then error_now = -error_now end
    error_now = 2.0 * error_now / total
  end
  self.n = n
  self.mean = self.mean + (1.0 / n) * (error_now - self.mean)
end, function(mean) return 100 * mean end)

define("LogLoss", {
  init = function(self)
    self.mean = stats.mean()
    return true
  end,
  update = function(self, y, prediction)
    local p = prediction
    if type(p) == "table" then p = p[true] or 0.0 end
    p = number(p)
    if not p then return end
    if p > 1 - 1e-15 then p = 1 - 1e-15 end
    if p < 1e-15 then p = 1e-15 end
    self.mean:update(python.truthy(y) and -log(p) or -log(1 - p))
  end,
  get = function(self) return self.mean.mean end,
})

-- Metrics that count labels.

local function define_counting(name, binary, get)
  define(name, {
    init = function(self, shared)
      local kind = binary and "binary" or "all"
      local first = shared[kind] == nil
      self.cm = shared[kind] or stats.confusion()
      shared[kind] = self.cm
      return first
    end,
    update = function(self, y, _, label)
      if type(y) == "table" then python.raise("TypeError", "unhashable type: '%s'", python.type_name(y)) end
      local truth, guess = label_key(y), label_key(label)
      if binary then truth, guess = truth == true, guess == true end
      self.cm:update(truth, guess)
    end,
    get = get,
  })
end

local function precision(cm)
  local hits = cm:true_positives(true)
  return ratio(hits, hits + cm:false_positives(true))
end

local function recall(cm)
  local hits = cm:true_positives(true)
  return ratio(hits, hits + cm:false_negatives(true))
end

define_counting("Accuracy", false, function(self) return ratio(self.cm.hits, self.cm.total) end)
define_counting("Precision", true, function(self) return precision(self.cm) end)
define_counting("Recall", true, function(self) return recall(self.cm) end)
define_counting("F1", true, function(self)
  local p, r = precision(self.cm), recall(self.cm)
  return ratio(2.0 * p * r, p + r)
end)

return metrics
