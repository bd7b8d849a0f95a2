--- Events as a django-river-ml server writes them: Python's JSON, with its spaces, escapes and order of members.
--
-- The order of features is not known any more: they come sorted by name.

local json = require "riverlua.json"

local serve_events = {}

local decode = json.decoder{nan = true}
local encode = json.encoder{nan = true}

-- Members of events in the server's order; others follow, sorted.
local ORDER = {}
for place, name in ipairs{"model", "features", "prediction", "ground_truth", "MAE", "RMSE", "SMAPE", "Accuracy",
  "LogLoss", "CrossEntropy", "Precision", "Recall", "F1", "MacroPrecision", "MacroRecall", "MacroF1",
  "MicroPrecision", "MicroRecall", "MicroF1"} do
  ORDER[name] = place
end

local function escape(code)
  if code < 0x10000 then return ("\\u%04x"):format(code) end
  code = code - 0x10000
  return ("\\u%04x\\u%04x"):format(0xd800 + (code >> 10), 0xdc00 + (code & 0x3ff))
end

local function string_text(text)
  text = encode(text)
  if not text:find("[\128-\255]") then return text end
  return (text:gsub(utf8.charpattern, function(char)
    return #char > 1 and escape(utf8.codepoint(char)) or nil
  end))
end

local function sorted_names(object, order)
  local names = {}
  for name in pairs(object) do names[#names + 1] = name end
  table.sort(names, function(a, b)
    local first, second = order[a], order[b]
    if first and second then return first < second end
    if first or second then return first ~= nil end
    return a < b
  end)
  return names
end

local NO_ORDER = {}

local function value_text(value, order)
  if type(value) == "string" then return string_text(value) end
  if type(value) ~= "table" then return encode(value) end
  local pieces = {}
  if json.is_array(value) then
    for i, item in ipairs(value) do pieces[i] = value_text(item, NO_ORDER) end
    return "[" .. table.concat(pieces, ", ") .. "]"
  end
  for i, name in ipairs(sorted_names(value, order)) do
    pieces[i] = string_text(name) .. ": " .. value_text(value[name], NO_ORDER)
  end
  return "{" .. table.concat(pieces, ", ") .. "}"
end

--- JSON text as Python's `json.dumps` spells it.
---@param text string
---@return string
function serve_events.python_json(text)
  return value_text(decode(text), ORDER)
end

--- An event as it stands in the stream. Events of metrics have no name.
---@param event {event: string|nil, data: string}
---@return string
function serve_events.text(event)
  local data = serve_events.python_json(event.data)
  local kind = event.event
  if kind and kind ~= "message" then return ("event: %s\ndata: %s\n\n"):format(kind, data) end
  return ("data: %s\n\n"):format(data)
end

return serve_events
