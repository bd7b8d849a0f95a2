--- Types of the columns of a text file: declared, or inferred from the first rows.

local errors = require "riverlua.errors"

local types = {}

local TRUE = {["true"] = true, yes = true, t = true, ["1"] = true}
local FALSE = {["false"] = true, no = true, f = true, ["0"] = true}

local function to_integer(text)
  if not text:find("^%s*[+-]?%d+%s*$") then return nil end
  return math.tointeger(tonumber(text))
end

local function to_number(text)
  -- no hexadecimal, and none beyond the range of a float
  local value = not text:find("[xX]") and tonumber(text) or nil
  if not value or value - value ~= 0 then return nil end
  return value + 0.0
end

local function to_boolean(text)
  local word = text:lower()
  if TRUE[word] then return true elseif FALSE[word] then return false end
  return nil
end

local CONVERTERS = {
  integer = to_integer, number = to_number, boolean = to_boolean,
  string = function(text) return utf8.len(text) and text or nil end,
}

--- The converter of a declared type: text → value, or nil when it does not fit.
---@param where string
---@param column string
---@param kind string|function
---@return fun(text: string): any
function types.converter(where, column, kind)
  if type(kind) == "function" then return kind end
  if CONVERTERS[kind] then return CONVERTERS[kind] end
  local near = type(kind) == "string" and errors.suggest(kind, CONVERTERS)
  errors.raise{kind = "argument", message = ("%s: '%s' has the type %s"):format(where, column, tostring(kind)),
    hint = near and ("did you mean '%s'?"):format(near)
      or "types are \"integer\", \"number\", \"boolean\", \"string\", or a function of the text"}
end

-- Whole numbers as people write them: "007" is a name, not a number.
local function is_plain_integer(text)
  return text:find("^[+-]?%d+$") and not text:find("^[+-]?0%d") and to_integer(text) ~= nil
end

local function is_number(text)
  return to_number(text) ~= nil and not text:find("^[+-]?0%d")
end

local function is_boolean(text)
  local word = text:lower()
  return word == "true" or word == "false"
end

local TESTS = {{"integer", is_plain_integer}, {"number", is_number}, {"boolean", is_boolean}}

--- The type of a column: "integer" when all values are whole numbers, else "number" when all are numbers, else
--- "boolean" when all are true or false, else "string". Without any value: "string".
---@param values string[] texts, without the missing ones
---@return string
function types.infer(values)
  if #values == 0 then return "string" end
  for _, test in ipairs(TESTS) do
    local fits = true
    for _, text in ipairs(values) do
      if not test[2](text) then
        fits = false
        break
      end
    end
    if fits then return test[1] end
  end
  return "string"
end

return types
