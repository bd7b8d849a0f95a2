--- What Python would say: the errors a River server repeats to its callers, in Python's own notation.

local python = {}

---@class river.embedded.PythonError
---@field type string the exception's class, "TypeError"
---@field text string its message
local PythonError = {}
PythonError.__index = PythonError
PythonError.__name = "river.embedded.PythonError"

--- Python's notation of a string.
---@param text string
---@return string
function python.quote(text)
  local mark = (text:find("'", 1, true) and not text:find('"', 1, true)) and '"' or "'"
  local escaped = text:gsub("[%c\\" .. mark .. "]", function(c)
    if c == "\\" or c == mark then return "\\" .. c end
    if c == "\n" then return "\\n" elseif c == "\r" then return "\\r" elseif c == "\t" then return "\\t" end
    return ("\\x%02x"):format(c:byte())
  end)
  return mark .. escaped .. mark
end

--- `repr(exception)`: what the server puts into the body of a 400.
function PythonError:__tostring()
  if self.text == "" then return self.type .. "()" end
  return ("%s(%s)"):format(self.type, python.quote(self.text))
end

--- Raises a Python exception.
---@param kind string "TypeError", "AttributeError", "ValueError"
---@param text string
function python.raise(kind, text, ...)
  if select("#", ...) > 0 then text = text:format(...) end
  error(setmetatable({type = kind, text = text}, PythonError), 0)
end

--- Tells whether a caught error is one of ours.
---@param value any
---@return boolean
function python.is_error(value)
  return getmetatable(value) == PythonError
end

--- The name of the Python type that a JSON value becomes.
---@param value any
---@return string
function python.type_name(value)
  local kind = math.type(value)
  if kind == "integer" then return "int" elseif kind == "float" then return "float" end
  kind = type(value)
  if kind == "string" then return "str" elseif kind == "boolean" then return "bool" end
  if kind == "table" then return (#value > 0) and "list" or "dict" end
  return "NoneType"
end

--- Python's truth of a JSON value (nil and null are None).
---@param value any
---@return boolean
function python.truthy(value)
  local kind = type(value)
  if kind == "number" then return value ~= 0 end
  if kind == "string" then return value ~= "" end
  if kind == "table" then return next(value) ~= nil end
  return value == true
end

--- Python's `str(value)` of a scalar, for names made out of one.
---@param value any
---@return string
function python.str(value)
  if value == true then return "True" elseif value == false then return "False" end
  if value == nil or type(value) == "userdata" then return "None" end
  if math.type(value) == "float" and value - value == 0 then return require("riverlua.json").encode(value) end
  return tostring(value)
end

--- One key for labels that Python takes for equal: 1, 1.0 and True are one label.
---@param label any boolean, number or string; nil and null give the key of None
---@return any
function python.label_key(label)
  if label == 1 then return true elseif label == 0 then return false end
  local kind = type(label)
  if kind == "nil" or kind == "userdata" then return python.None end
  return label
end

--- Stands for None where nil cannot stand (as a table key).
python.None = setmetatable({}, {__tostring = function() return "None" end, __name = "river.embedded.None"})

return python
