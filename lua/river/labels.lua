--- Labels as they were sent.
--
-- A server writes the labels of a table of probabilities as the names of a JSON object, so `true`, `1` and `1.0` come
-- back as the texts "true", "1" and "1.0". A client remembers the labels that it taught each model, by type, and gives
-- them back: a text that was sent as a label stays a text; "true" and "false" become booleans and the text of a number
-- becomes that number when such a label was sent; the model's flavor being "binary" is enough for "true" and "false".
-- Everything else stays text.

local labels = {}

-- Beyond so many different ones they are no labels but measurements.
local MOST = 10000

--- Remembers a label. `known` is nil for the first one.
---@param known table|nil what this function returned for the model before
---@param label any
---@return table known
function labels.remember(known, label)
  known = known or {count = 0, texts = {}, integers = {}, floats = {}}
  local kind = type(label)
  if kind == "boolean" then
    known.booleans = true
    return known
  end
  local set = kind == "string" and known.texts or kind == "number" and
    (math.type(label) == "integer" and known.integers or known.floats)
  if set and not set[label] and known.count < MOST then
    set[label] = true
    known.count = known.count + 1
  end
  return known
end

--- The label behind the name that a server wrote.
---@param known table|nil
---@param text string
---@param binary boolean|nil whether the model has the flavor "binary"
---@return any label
function labels.typed(known, text, binary)
  if type(text) ~= "string" or known and known.texts[text] then return text end
  if text == "true" or text == "false" then
    if known and known.booleans or binary then return text == "true" end
    return text
  end
  local number = known and tonumber(text)
  if not number then return text end
  local set = math.type(number) == "integer" and known.integers or known.floats
  if set[number] then return number end
  return text
end

-- prediction[true] and prediction[1] find what is written as "true" and "1"; pairs gives the names as they are.
local Probabilities = {}

function Probabilities.__index(prediction, key)
  local kind = type(key)
  if kind == "boolean" then return rawget(prediction, tostring(key)) end
  if kind ~= "number" then return nil end
  local found = rawget(prediction, tostring(key))
  if found ~= nil then return found end
  if math.type(key) == "integer" then return rawget(prediction, key .. ".0") end
  local whole = math.tointeger(key)
  return whole and rawget(prediction, tostring(whole))
end

--- Lets a table of probabilities be asked by labels of any type.
---@param prediction any
function labels.open(prediction)
  if type(prediction) == "table" and getmetatable(prediction) == nil then setmetatable(prediction, Probabilities) end
end

--- A table of probabilities by label, with the types that the labels were sent with; nil when it is none.
---@param known table|nil
---@param prediction any
---@param binary boolean|nil
---@return table<any, number>|nil
function labels.probabilities(known, prediction, binary)
  if type(prediction) ~= "table" then return nil end
  local out = {}
  for name, p in next, prediction do
    if type(p) ~= "number" or type(name) ~= "string" then return nil end
    out[labels.typed(known, name, binary)] = p
  end
  return out
end

--- The label with the highest probability (of several, the first by its text), or the prediction itself when it is one.
---@param known table|nil
---@param prediction any
---@param binary boolean|nil
---@return any label nil: none yet
function labels.likeliest(known, prediction, binary)
  if type(prediction) ~= "table" then return prediction end
  local best, most
  for name, p in next, prediction do
    if type(p) ~= "number" or type(name) ~= "string" then return nil end
    if most == nil or p > most or p == most and name < best then best, most = name, p end
  end
  return labels.typed(known, best, binary)
end

return labels
