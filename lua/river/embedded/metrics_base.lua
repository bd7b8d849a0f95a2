--- What all metrics share: how they are declared, printed and compared.
--
-- Formulas, orders of operations and odd corners are those of the library's `river.metrics` 0.26.1.

local python = require "river.embedded.python"
local registry = require "river.embedded.registry"

local base = {}

---@class river.embedded.Metric
---@field name string the class's name, "MAE"
---@field kind string "regression", "binary" or "multiclass"
---@field bigger_is_better boolean|nil nil where the library says neither (ConfusionMatrix)
---@field requires_labels boolean whether `update` wants the predicted label rather than probabilities
local Metric = {}

-- --------------------------------------------------------------------------------------------------------- texts

-- Python's repr of a float: the shortest text that reads back as the same number.
local function shortest(value)
  if math.type(value) == "integer" then return tostring(value) end
  if value == 0 then return 1 / value < 0 and "-0.0" or "0.0" end
  for digits = 0, 16 do
    local text = ("%." .. digits .. "e"):format(value)
    if tonumber(text) == value then
      local exponent = tonumber(text:match("e(.*)$"))
      if exponent < -4 or exponent >= 16 then return (text:gsub("e([+-])0*(%d%d)", "e%1%2")) end
      local plain = ("%%.%df"):format(math.max(digits - exponent, 1)):format(value)
      return plain
    end
  end
end

local function with_commas(text)
  local sign, whole, rest = text:match("^(-?)(%d+)(.*)$")
  if not whole then return text end
  return sign .. whole:reverse():gsub("(%d%d%d)", "%1,"):reverse():gsub("^,", "") .. rest
end

local FORMATS = {
  number = function(value) return with_commas(("%.6f"):format(value)) end,
  percent = function(value) return ("%.2f%%"):format(value * 100) end,
  plain = shortest,
}

--- A value in one of the library's formats: "number" (1,234.500000), "percent" (12.34%) or "plain".
---@param value number
---@param format string
---@return string
function base.format(value, format)
  if value ~= value then return format == "percent" and "nan%" or "nan" end
  if value == math.huge or value == -math.huge then
    return (value > 0 and "inf" or "-inf") .. (format == "percent" and "%" or "")
  end
  return FORMATS[format](value)
end

--- As Python prints it: "MAE: 1.5", "Accuracy: 89.28%". Zeros at the end are cut off, as there.
function Metric:__tostring()
  return (("%s: %s"):format(self.name, base.format(self:get(), self.format)):gsub("0+$", ""))
end

--- Takes a sample out that was put in before.
---@param y any
---@param prediction any
---@param label any
---@param w number|nil
function Metric:revert(y, prediction, label, w)
  self:update(y, prediction, label, -(w or 1.0))
end

-- Metrics of one set that count the same share the count; true when this one's update is needed.
function Metric.share() return true end

-- ---------------------------------------------------------------------------------------------------- declaring

local DEFAULTS = {
  regression = {format = "number", bigger_is_better = false, requires_labels = false},
  binary = {format = "percent", bigger_is_better = true, requires_labels = true},
  multiclass = {format = "percent", bigger_is_better = true, requires_labels = true},
}

--- Declares a metric.
---@param name string
---@param kind string "regression", "binary" or "multiclass"
---@param spec table fields that differ from the kind's, `params`
---@param methods table
---@return table class
function base.define(name, kind, spec, methods)
  local class = registry.class{class = "river.metrics." .. name, role = "metric", params = spec.params}
  class.kind = kind
  for _, source in ipairs{Metric, DEFAULTS[kind], spec, methods} do
    for key, value in pairs(source) do
      if key ~= "params" then class[key] = value end
    end
  end
  return class
end

--- Tells a table of probabilities from a label.
---@param prediction any
---@return boolean
function base.is_proba(prediction)
  return type(prediction) == "table" and prediction ~= python.None
end

--- The labels of probabilities that came without an order, such as those of a request: sorted by their text.
---@param probabilities table<any, number>
---@return any[]
function base.order_of(probabilities)
  local order = {}
  for label in pairs(probabilities) do order[#order + 1] = label end
  table.sort(order, function(a, b) return tostring(a) < tostring(b) end)
  return order
end

--- The likeliest label of a table of probabilities: the first of the highest.
---@param probabilities table<any, number>
---@param order any[]|nil the labels in the order in which ties are decided; the order of their texts when nil
---@return any label nil when there is none
function base.likeliest(probabilities, order)
  if not order then
    local no, yes = probabilities[false], probabilities[true]
    if no and yes and next(probabilities, next(probabilities, (next(probabilities)))) == nil then return yes > no end
    order = base.order_of(probabilities)
  end
  local best
  for _, label in ipairs(order) do
    if best == nil or probabilities[label] > probabilities[best] then best = label end
  end
  return best
end

--- The probability of a label; 1, 1.0 and true are one label.
---@param probabilities table<any, number>
---@param label any
---@return number|nil
function base.probability(probabilities, label)
  if label == nil or type(label) == "userdata" then label = python.None end
  local p = probabilities[label]
  if p ~= nil then return p end
  if label == true then return probabilities[1] elseif label == 1 then return probabilities[true] end
  if label == false then return probabilities[0] elseif label == 0 then return probabilities[false] end
end

--- A number, a boolean as one, or nil.
---@param value any
---@return number|nil
function base.number(value)
  if value == true then return 1 elseif value == false then return 0 end
  return type(value) == "number" and value or nil
end

return base
