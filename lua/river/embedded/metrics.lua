--- Metrics, with the library's numbers.
--
--   local metrics = require "river.embedded.metrics"
--   local mae = metrics.new("MAE")
--   mae:update(3.0, 2.5)
--   print(mae, mae:get())       --> MAE: 0.5   0.5
--
-- A metric has `name`, `get()`, `update(y, prediction, label, w)` and `revert` with the same arguments: the prediction
-- as the model gave it (a label, a number, or a table of probabilities), the label it stands for (the likeliest one of
-- the table when nil), and a weight (1 when nil). `bigger_is_better`, `requires_labels` and `tostring` are the
-- library's. Metrics of one set that count the same share the count; `metrics.set` tells which are to be updated.

local base = require "river.embedded.metrics_base"
local errors = require "riverlua.errors"
local registry = require "river.embedded.registry"
-- Those of a service are always there; the others are loaded when they are asked for.
require "river.embedded.metrics_regression"
require "river.embedded.metrics_classification"

local metrics = {likeliest = base.likeliest}

local PREFIX = "river.metrics."

--- Makes fresh metrics by their names, for a service: what they cannot take is left out instead of raised.
---@param names string[]
---@return table[] all in this order
---@return table[] active those whose update also serves the others
function metrics.set(names)
  local all, active, shared = {}, {}, {}
  for i, name in ipairs(names) do
    local metric = registry.build{class = PREFIX .. name}
    metric.lenient = true
    all[i] = metric
    if metric:share(shared) then active[#active + 1] = metric end
  end
  return all, active
end

--- The names of all metrics, sorted.
---@return string[]
function metrics.names()
  local names = {}
  for i, name in ipairs(registry.names("metric")) do names[i] = name:sub(#PREFIX + 1) end
  return names
end

--- Makes a metric.
---@param name string|table "MAE", or a description as `river.metrics.MAE()` makes one
---@param options table|nil parameters of the Python class by name, {beta = 2}; `cm` shares the confusion matrix of
--- another metric (`metric.cm`)
---@return river.embedded.Metric
---Raises kind="argument" for a name that is none, or parameters that do not fit.
function metrics.new(name, options)
  if registry.is_node(name) then
    local metric = registry.build(name)
    if metric.role ~= "metric" then
      errors.raise{kind = "argument", message = metric.class .. " is no metric"}
    end
    return metric
  end
  if type(name) ~= "string" or not registry.metatable(PREFIX .. name) then
    local near = type(name) == "string" and errors.suggest(name, metrics.names())
    errors.raise{kind = "argument", message = ("there is no metric %s"):format(tostring(name)),
      hint = near and ("did you mean %s?"):format(near) or "metrics.names() lists them"}
  end
  local kwargs, cm = {}, nil
  for key, value in pairs(options or {}) do
    if key == "cm" then cm = value else kwargs[key] = value end
  end
  local metric = registry.build{class = PREFIX .. name, kwargs = kwargs}
  if cm then
    if not metric.cm or (metric.cm.cells and not cm.cells) then
      errors.raise{kind = "argument", message = name .. " cannot share this confusion matrix",
        hint = "share that of a ConfusionMatrix: metrics.new(\"ConfusionMatrix\").cm"}
    end
    metric.cm = cm
  end
  return metric
end

-- ------------------------------------------------------------------------------------------------------- rolling

---@class river.embedded.Rolling a metric over the last samples
local Rolling = registry.helper("river.embedded.Rolling", {})

-- What is no method of the window is the metric's.
Rolling.__index = function(self, key)
  local own = Rolling[key]
  if own ~= nil then return own end
  local metric = rawget(self, "metric")
  return metric and metric[key]
end

Rolling.__tostring = function(self) return tostring(self.metric) end

function Rolling:update(y, prediction, label, w)
  local window, size = self.window, self.size
  local place = self.count % size + 1
  local old = window[place]
  if old then self.metric:revert(old.y, old.prediction, old.label, old.w) end
  self.metric:update(y, prediction, label, w)
  window[place] = {y = y, prediction = prediction, label = label, w = w}
  self.count = self.count + 1
end

function Rolling:add(y, prediction) return self:update(y, prediction) end

function Rolling:get() return self.metric:get() end

--- A metric over the last `window_size` samples (the library's `utils.Rolling`).
---@param name string|table as for `new`
---@param window_size integer 1 or more
---@param options table|nil as for `new`
---@return river.embedded.Metric with `window_size`
function metrics.rolling(name, window_size, options)
  if math.type(window_size) ~= "integer" or window_size < 1 then
    errors.raise{kind = "argument", message = "window_size must be a whole number above 0"}
  end
  return setmetatable({metric = metrics.new(name, options), size = window_size, window_size = window_size,
    window = {}, count = 0}, Rolling)
end

return metrics
