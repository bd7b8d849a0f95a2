--- JSON values as riverlua.json decodes them and as scripts write them: kinds, equality, and how messages show them.

local json = require "riverlua.json"

local values = {}

local ARRAY = getmetatable(json.array{})
local OBJECT = getmetatable(json.object{})
local NULL = json.null
local floor, huge = math.floor, math.huge
local type, getmetatable, next, rawlen = type, getmetatable, next, rawlen

-- A table with elements: an array if that is all it has (`n` may give its length, as table.pack does).
local function kind_of_list(value)
  for key, item in next, value do
    if math.type(key) ~= "integer" or key < 1 then
      if key ~= "n" or math.type(item) ~= "integer" then return "mixed" end
    end
  end
  return "array"
end

--- "null", "boolean", "number", "string", "array", "object", "empty" (a table that may be either), or what JSON has no
--- place for: "mixed" (a table with names and places), "nan", or Lua's name of the type.
---@param value any
---@return string
function values.kind_of(value)
  local kind = type(value)
  if kind == "table" then
    local tag = getmetatable(value)
    if tag == ARRAY then return "array" end
    local first = next(value)
    if first == nil then return tag == OBJECT and "object" or "empty" end
    if tag == OBJECT then return "object" end
    if rawlen(value) > 0 or type(first) ~= "string" then return kind_of_list(value) end
    return "object"
  end
  if kind == "number" then
    if value ~= value or value == huge or value == -huge then return "nan" end
    return kind
  end
  if value == nil or value == NULL then return "null" end
  return kind
end

--- How many elements an array has: holes count, as json.encode writes null for them.
---@param value table
---@return integer
function values.length(value)
  local length = rawlen(value)
  if length > 0 and next(value, length) == nil then return length end
  for key, item in next, value do
    if key == "n" then key = item end
    if math.type(key) == "integer" and key > length then length = key end
  end
  return length
end

--- Whether a number is an integer in the sense of JSON Schema, as 1.0 is.
---@param value number
---@return boolean
function values.is_integer(value)
  return value == floor(value)
end

--- Length in code points; bytes that are not UTF-8 count as one each.
---@param text string
---@return integer
function values.code_points(text)
  local length = utf8.len(text)
  if length then return length end
  local count, at = 0, 1
  while at <= #text do
    local more, bad = utf8.len(text, at)
    if more then return count + more end
    count = count + utf8.len(text, at, bad - 1) + 1
    at = bad + 1
  end
  return count
end

local kind_of, length_of = values.kind_of, values.length

-- Whether two tables have the same contents. `budget` counts what is compared: see equal.
local function equal_tables(a, b, budget, equal)
  local kind, other = kind_of(a), kind_of(b)
  if kind == "empty" or other == "empty" then
    if next(a) ~= nil or next(b) ~= nil then return false end
    return not (budget.decoded and (kind == "array" or other == "array"))
  end
  if kind ~= other or kind == "mixed" then return false end
  if kind == "array" then
    local length = length_of(a)
    if length ~= length_of(b) then return false end
    for i = 1, length do
      if not equal(a[i], b[i], budget) then return false end
    end
    return true
  end
  local count = 0
  for key, item in next, a do
    if b[key] == nil or not equal(item, b[key], budget) then return false end
    count = count + 1
  end
  for _ in next, b do count = count - 1 end
  return count == 0
end

--- Whether two values are equal: 1 and 1.0 are, and so are tables with the same contents. `budget:spend()` is called
--- for every pair that is compared, and may raise; with `budget.decoded` an empty table without
--- a tag is no array.
---@param a any
---@param b any
---@param budget table
---@return boolean
function values.equal(a, b, budget)
  budget:spend(1)
  if a == b then return true end
  if type(a) == "table" and type(b) == "table" then
    budget:descend()
    local same = equal_tables(a, b, budget, values.equal)
    budget:ascend()
    return same
  end
  return (a == nil or a == NULL) and (b == nil or b == NULL)
end

local function append_canonical(value, out, budget)
  budget:spend(1)
  local kind = kind_of(value)
  if kind == "array" then
    out[#out + 1] = "["
    budget:descend()
    for i = 1, length_of(value) do append_canonical(value[i], out, budget) end
    budget:ascend()
    out[#out + 1] = "]"
  elseif kind == "object" or kind == "empty" then
    local names = {}
    for name in next, value do
      if type(name) == "string" then names[#names + 1] = name end
    end
    table.sort(names)
    out[#out + 1] = "{"
    budget:descend()
    for _, name in ipairs(names) do
      out[#out + 1] = ("%d:%s"):format(#name, name)
      append_canonical(value[name], out, budget)
    end
    budget:ascend()
    out[#out + 1] = "}"
  elseif kind == "string" then
    out[#out + 1] = ("s%d:%s"):format(#value, value)
  elseif kind == "number" then
    out[#out + 1] = math.tointeger(value) and ("n%d;"):format(value) or ("n%.17g;"):format(value)
  else
    out[#out + 1] = tostring(value) .. ";"
  end
end

--- A text that equal tables, and only they, have in common.
---@param value table
---@param budget table as in `equal`
---@return string
function values.canonical(value, budget)
  local out = {}
  append_canonical(value, out, budget)
  return table.concat(out)
end

local LONGEST_SHOWN <const> = 60

local ESCAPES = {["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ['"'] = '\\"', ["\\"] = "\\\\"}

-- At most so many bytes, without half a character.
local function cut_to(text, most)
  if #text <= most then return text end
  local stop = most
  while stop > 0 and (text:byte(stop + 1) & 0xc0) == 0x80 do stop = stop - 1 end
  return text:sub(1, stop)
end

local function show_string(text)
  local cut = cut_to(text, LONGEST_SHOWN)
  if not utf8.len(cut) then cut = cut:gsub("[\x80-\xff]", "?") end
  local quoted = cut:gsub('[%c"\\]', function(char) return ESCAPES[char] or ("\\u%04x"):format(char:byte()) end)
  return '"' .. quoted .. (#cut < #text and "…" or "") .. '"'
end

local function counted(count, noun)
  return ("%s %s%s"):format(math.tointeger(count) or count, noun, count == 1 and "" or "s")
end

--- A value as messages show it: "12" in quotes, 3, null, "an array of 2 elements".
---@param value any
---@return string
function values.show(value)
  local kind = kind_of(value)
  if kind == "string" then return show_string(value) end
  if kind == "number" then return json.encode(value) end
  if kind == "null" or kind == "boolean" then return value == nil and "null" or tostring(value) end
  if kind == "array" then return "an array of " .. counted(length_of(value), "element") end
  if kind == "object" then return "an object" end
  if kind == "empty" then return "an empty table" end
  if kind == "mixed" then return "a table with both names and places" end
  if kind == "nan" then return value ~= value and "NaN" or "an infinite number" end
  return "a " .. kind
end

--- "1 element", "3 elements".
---@type fun(count: number, noun: string): string
values.counted = counted

-- A table of a schema as JSON, if that is short enough.
local function show_table(value)
  local ok, text = pcall(json.encode, value, {sort = true, max_depth = 10, max_bytes = 1000})
  if not ok then return values.show(value) end
  return cut_to(text, LONGEST_SHOWN) .. (#text > LONGEST_SHOWN and "…" or "")
end

--- A list of schema values as text, at most ten of them: `"a", 3 or null`.
---@param list any[]
---@param conjunction string "or", "and"
---@return string
function values.show_list(list, conjunction)
  local texts, length = {}, length_of(list)
  for i = 1, math.min(length, 10) do
    local item = list[i]
    texts[i] = type(item) == "table" and show_table(item) or values.show(item)
  end
  if length > 10 then return table.concat(texts, ", ") .. (" %s one of %d more"):format(conjunction, length - 10) end
  if length < 2 then return texts[1] or "nothing" end
  return table.concat(texts, ", ", 1, length - 1) .. " " .. conjunction .. " " .. texts[length]
end

return values
