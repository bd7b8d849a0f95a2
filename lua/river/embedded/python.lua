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

--- Raises what Python does when a class that needs a target is not given one.
---@param class string name of the class whose `learn_one` it is
---@param y any
---@param inner boolean|nil true inside a pipeline, which always hands a target on
function python.needs_target(class, y, inner)
  if y == nil and not inner then
    python.raise("TypeError", "%s.learn_one() missing 1 required positional argument: 'y'", class)
  end
end

--- Raises what Python does when a class that takes no target is given one.
---@param class string name of the class whose `learn_one` it is
---@param y any
function python.takes_no_target(class, y)
  if y ~= nil then python.raise("TypeError", "%s.learn_one() got an unexpected keyword argument 'y'", class) end
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
  if kind == "table" and value ~= python.None then return (#value > 0) and "list" or "dict" end
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

-- Of what is nested deeper, or longer, only the beginning is shown.
local MAX_DEPTH, MAX_LENGTH = 8, 2000

local function has_text(value)
  local meta = getmetatable(value)
  return type(meta) == "table" and meta.__tostring ~= nil
end

local repr

-- Python's notation of a dict or list within `room` bytes, or little more. Members are sorted: their order is not
-- known any more.
local function repr_table(value, depth, room)
  local is_array = #value > 0 or require("riverlua.json").is_array(value)
  local open, close = "{", "}"
  if is_array then open, close = "[", "]" end
  if depth > MAX_DEPTH then return open .. "..." .. close end
  local names = {}
  for name in next, value do names[#names + 1] = name end
  if not is_array then table.sort(names, function(a, b) return tostring(a) < tostring(b) end) end
  local pieces = {}
  for i, name in ipairs(names) do
    if room <= 0 then
      pieces[i] = "..."
      break
    end
    local piece = repr(value[name], depth + 1, room)
    if not is_array then piece = repr(name, depth + 1, room) .. ": " .. piece end
    pieces[i] = piece
    room = room - #piece - 2
  end
  return open .. table.concat(pieces, ", ") .. close
end

function repr(value, depth, room)
  if type(value) == "string" then
    if #value > room then value = value:sub(1, (utf8.offset(value, 0, room + 1) or 1) - 1) .. "..." end
    return python.quote(value)
  end
  if type(value) ~= "table" or has_text(value) then return python.str(value) end
  return repr_table(value, depth, room)
end

--- Python's `str(value)`, for names made out of one. Tables are dicts and lists, long or deep ones cut short.
---@param value any
---@return string
function python.str(value)
  if value == true then return "True" elseif value == false then return "False" end
  local kind = type(value)
  if value == nil or kind == "userdata" then return "None" end
  if math.type(value) == "float" and value - value == 0 then return require("riverlua.json").encode(value) end
  if kind == "string" or kind == "number" or has_text(value) then return tostring(value) end
  -- never an address of this process: callers on the network see this
  return kind == "table" and repr_table(value, 1, MAX_LENGTH) or kind
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
