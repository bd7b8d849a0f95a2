--- Checks of JSON Schema for single values: type, enum, const, numbers, strings.

local errors = require "riverlua.errors"
local formats = require "riverlua.schema.formats"
local regex = require "riverlua.regex"
local values = require "riverlua.schema.values"

local scalars = {}

local kind_of, is_integer = values.kind_of, values.is_integer

local ARTICLES = {array = "an array", boolean = "true or false", integer = "an integer", null = "null",
  number = "a number", object = "an object", string = "a string"}

--- "a string, an integer or null" for a list of types.
---@param types string[]
---@return string
function scalars.name_types(types)
  local names = {}
  for i, name in ipairs(types) do names[i] = ARTICLES[name] end
  if #names < 2 then return names[1] end
  return table.concat(names, ", ", 1, #names - 1) .. " or " .. names[#names]
end

--- The types a schema allows, as a list, or nil for all.
---@param schema table
---@return string[]|nil
function scalars.types_of(schema)
  if type(schema.type) == "string" then return {schema.type} end
  return schema.type
end

local function build_type(schema, parts)
  local types = scalars.types_of(schema)
  if not types then return end
  local wanted, allowed = scalars.name_types(types), {}
  for _, name in ipairs(types) do allowed[name] = true end
  local function mismatch(value, run)
    return run:fail("type", "must be %s, got %v", wanted, value)
  end
  for kind in next, parts do
    if kind == "number" and allowed.integer and not allowed.number then
      parts.number[#parts.number + 1] = function(value, run)
        return is_integer(value) or run:fail("type", "must be %s, got %v", wanted, value)
      end
    elseif not allowed[kind] then
      parts[kind][#parts[kind] + 1] = mismatch
    end
  end
end

-- Whether one of the tables in a list equals a value.
local function contains_equal(list, value, run)
  for i = 1, #list do
    if values.equal(list[i], value, run) then return true end
  end
  return false
end

local function build_enum(schema, parts)
  local list = schema.enum
  if list == nil then return end
  local known, tables, has_null = {}, {}, false
  for i = 1, values.length(list) do
    local item = list[i]
    local kind = kind_of(item)
    if kind == "null" then
      has_null = true
    elseif type(item) == "table" then
      tables[#tables + 1] = item
    elseif kind ~= "nan" then
      known[item] = true
    end
  end
  local text, one = values.show_list(list, "or"), values.length(list) == 1
  local function check(value, run)
    if value == nil or kind_of(value) == "null" then
      if has_null then return true end
    elseif type(value) == "table" then
      if contains_equal(tables, value, run) then return true end
    elseif known[value] then
      return true
    end
    if not run.problems then return false end
    local near = type(value) == "string" and #value >= 3 and #value <= 80 and errors.suggest(value, known)
    return run:fail("enum", one and "must be %s, got %v%s" or "must be one of %s, got %v%s", text, value,
      near and ("; did you mean %s?"):format(values.show(near)) or "")
  end
  for _, list_of_kind in next, parts do list_of_kind[#list_of_kind + 1] = check end
end

local function build_const(schema, parts)
  local wanted = schema.const
  if wanted == nil then return end
  local text = values.show_list({wanted}, "or")
  local function check(value, run)
    return values.equal(wanted, value, run) or run:fail("const", "must be %s, got %v", text, value)
  end
  for _, list in next, parts do list[#list + 1] = check end
end

-- ---- numbers ----

-- The digits of a number and its exponent of ten: 12.5 is "125", -1. The shortest text that reads back as the number.
local function decimal_of(number)
  if math.type(number) == "integer" then return (tostring(number):gsub("^-", "")), 0 end
  local text
  for precision = 14, 16 do
    text = ("%." .. precision .. "e"):format(number)
    if tonumber(text) == number then break end
  end
  local whole, fraction, exponent = text:match("^%-?(%d)%.?(%d*)e(.*)$")
  fraction = fraction:gsub("0+$", "")
  return whole .. fraction, math.tointeger(tonumber(exponent)) - #fraction
end

-- Whether the digits followed by so many zeros are a multiple of a divisor below 10^18, which int64 has room for.
local function divides(digits, zeros, divisor)
  local rest = 0
  for i = 1, #digits do rest = (rest * 10 + digits:byte(i) - 48) % divisor end
  for _ = 1, zeros do
    if rest == 0 then return true end
    rest = rest * 10 % divisor
  end
  return rest == 0
end

--- Whether a number is a multiple of another as the two are written in decimal: 0.3 is one of 0.1.
---@param value number
---@param divisor number above 0
---@return boolean
function scalars.is_multiple(value, divisor)
  if math.type(value) == "integer" and math.type(divisor) == "integer" then return value % divisor == 0 end
  if value == 0 then return true end
  local digits, exponent = decimal_of(value)
  local by, by_exponent = decimal_of(divisor)
  by = by:gsub("0+$", function(zeros)
    by_exponent = by_exponent + #zeros
    return ""
  end)
  local zeros = exponent - by_exponent
  if zeros < 0 then
    -- the divisor ends in more zeros: so must the value
    local kept = #digits + zeros
    if kept < 1 or digits:find("[1-9]", kept + 1) then return false end
    digits, zeros = digits:sub(1, kept), 0
  end
  -- 19 digits are those of an integer near 2^63, in steps of one
  if #by > 17 then return math.fmod(value, divisor) == 0 end
  return divides(digits, zeros, math.tointeger(tonumber(by)))
end

local BOUNDS = {
  {"minimum", "must be at least %v, got %v", function(value, bound) return value >= bound end},
  {"maximum", "must be at most %v, got %v", function(value, bound) return value <= bound end},
  {"exclusiveMinimum", "must be above %v, got %v", function(value, bound) return value > bound end},
  {"exclusiveMaximum", "must be below %v, got %v", function(value, bound) return value < bound end},
}

local function build_numbers(schema, parts)
  local list = parts.number
  for _, bound in ipairs(BOUNDS) do
    local keyword, text, holds = table.unpack(bound)
    local limit = schema[keyword]
    if limit then
      list[#list + 1] = function(value, run)
        return holds(value, limit) or run:fail(keyword, text, limit, value)
      end
    end
  end
  local divisor = schema.multipleOf
  if divisor then
    list[#list + 1] = function(value, run)
      return scalars.is_multiple(value, divisor)
        or run:fail("multipleOf", "must be a multiple of %v, got %v", divisor, value)
    end
  end
end

-- ---- strings ----

--- A regular expression of a schema. Raises kind "argument" where it is none.
---@param compiler table
---@param pattern string
---@param pointer string
---@return riverlua.Regex
function scalars.regex(compiler, pattern, pointer)
  local ok, result = pcall(regex.compile, pattern)
  if ok then return result end
  if not errors.is(result) or result.kind == "memory" then error(result, 0) end
  return compiler.fail(pointer, (result.message:gsub("^regex: ", "")), result.hint)
end

local function build_lengths(schema, parts)
  local list, least, most = parts.string, schema.minLength, schema.maxLength
  if least then
    list[#list + 1] = function(value, run)
      if #value >= least and values.code_points(value) >= least then return true end
      return run:fail("minLength", "must have at least %s, got %v", values.counted(least, "character"), value)
    end
  end
  if most then
    list[#list + 1] = function(value, run)
      local length = #value <= most and 0 or values.code_points(value)
      if length <= most then return true end
      return run:fail("maxLength", "must have at most %s, got %s: %v", values.counted(most, "character"),
        length, value)
    end
  end
end

local function build_strings(compiler, schema, place, parts)
  build_lengths(schema, parts)
  local list = parts.string
  if schema.pattern then
    local compiled = scalars.regex(compiler, schema.pattern, place.pointer .. "/pattern")
    list[#list + 1] = function(value, run)
      run:spend(1 + #value // 64)
      return run:matches(compiled, value) or run:fail("pattern", "must match %s, got %v", schema.pattern, value)
    end
  end
  local format = formats.known[schema.format]
  if format and compiler:asserts_formats(place.resource) then
    list[#list + 1] = function(value, run)
      run:spend(1 + #value // 64)
      return format.test(value) or run:fail("format", "must be %s, got %v", format.name, value)
    end
  end
end

--- Adds the checks of a schema to the lists of each kind.
---@param compiler table
---@param schema table without the keywords that do not count here
---@param place table
---@param parts table<string, function[]>
function scalars.build(compiler, schema, place, parts)
  build_type(schema, parts)
  build_enum(schema, parts)
  build_const(schema, parts)
  build_numbers(schema, parts)
  build_strings(compiler, schema, place, parts)
end

return scalars
