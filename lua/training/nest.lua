--- NEST, the format in which the training service sends and takes data: arrays, texts, lists and dicts.
--
--     local nest = require "training.nest"
--     local bytes = nest.encode{logprobs = {array.float32{-0.5, -1.25}}, step = 3}
--     local value = nest.decode(bytes)
--     print(value.logprobs[1][2], value.step[1])   --> -1.25  3
--
-- **Encoding.** An array (riverlua.array) keeps its type and shape; an integer, a float or a boolean becomes an array
-- of one element (int64, float64, bool), because the format has no other numbers. Strings must be UTF-8. A table with
-- elements, or with nothing in it, is a list; one with names is a dict, in the order of the names; `nest.dict` gives
-- another order, or an empty dict. A list of numbers is a list of such arrays, as in Python: a vector is
-- `array.int64{1, 2}`.
--
-- **Decoding** gives arrays (also matrices, `m[row][column]`), strings, tables, and dicts, which are tables whose
-- `pairs` keeps the order. Checksums are compared; damaged data raise kind "protocol".
-- The datums of training requests have rules of their own: see training.datum.

local core = require "riverlua.core.nest"
local array = require "riverlua.array"
local errors = require "riverlua.errors"

local nest = {}

local DEEPEST = 100

-- ---- dicts -----------------------------------------------------------------------------------------------

local new_metatable

-- The metatable of a dict, or nil. Its `__nest` is the list of names, in order; some may be gone. False: at most one.
local function dict_metatable(value)
  local meta = getmetatable(value)
  return type(meta) == "table" and rawget(meta, "__nest") ~= nil and meta or nil
end

local function keys_of(dict)
  local order, keys = dict_metatable(dict).__nest, {}
  if not order then return {(next(dict))} end
  for _, key in ipairs(order) do
    if rawget(dict, key) ~= nil then keys[#keys + 1] = key end
  end
  return keys
end

local function each(dict)
  local keys, i = keys_of(dict), 0
  return function()
    i = i + 1
    return keys[i], dict[keys[i]]
  end
end

-- __newindex: a name that is not there yet.
local function add(dict, key, value)
  errors.expect("nest.dict", "a name", key, "string")
  if value == nil then return end
  local keys = keys_of(dict)
  keys[#keys + 1] = key
  rawset(dict, key, value)
  setmetatable(dict, new_metatable(keys))
end

function new_metatable(keys)
  return {__nest = keys, __newindex = add, __pairs = function(dict) return each(dict) end}
end

-- What a dict costs is its names: a reply may be full of small ones.
local SMALL = new_metatable(false)

local function make(values, keys)
  return setmetatable(values, #keys > 1 and new_metatable(keys) or SMALL)
end

--- A dict whose names have an order: the one in which they are given, and then the one in which they are set. It is
--- read and written like a table, and `pairs` goes in order.
---@param list table|nil pairs of a name and a value: `nest.dict{{"b", 1}, {"a", 2}}`
---@return table
function nest.dict(list)
  local dict = setmetatable({}, SMALL)
  for i, pair in ipairs(list or {}) do
    if type(pair) ~= "table" or type(pair[1]) ~= "string" then
      errors.raise{kind = "argument", message = ("nest.dict: [%d] is not a pair of a name and a value"):format(i)}
    end
    dict[pair[1]] = pair[2]
  end
  return dict
end

--- The names of a dict in their order, or nil when the value is no dict.
---@param value any
---@return string[]|nil
function nest.keys(value)
  if type(value) ~= "table" or not dict_metatable(value) then return nil end
  return keys_of(value)
end

-- ---- encoding --------------------------------------------------------------------------------------------

local function refuse(path, what, hint)
  errors.raise{kind = "argument", message = ("nest.encode: %s %s"):format(path, what), hint = hint}
end

-- The names of a table in byte order; nil: it is a list.
local function names_of(value, path)
  local names, elements, length, holes = {}, 0, rawlen(value), false
  for key in next, value do
    if math.type(key) == "integer" then
      elements = elements + 1
      holes = holes or key < 1 or key > length
    elseif type(key) == "string" then
      names[#names + 1] = key
    else
      refuse(path, ("has a %s as a key"):format(type(key)))
    end
  end
  if #names > 0 and elements > 0 then refuse(path, "has both elements and names") end
  if #names == 0 then
    if holes or elements ~= length then refuse(path, "is a list with holes, or one that does not begin at 1") end
    return nil
  end
  table.sort(names)
  return names
end

local prepare

-- A dict as the core takes it.
local function prepare_dict(value, keys, path, depth)
  local copy = {}
  for _, key in ipairs(keys) do
    local place = ("%s.%s"):format(path, key)
    if not utf8.len(key) then refuse(path, "has a name that is not UTF-8") end
    if #key > 65535 then refuse(path, "has a name of more than 65535 bytes") end
    copy[key] = prepare(rawget(value, key), place, depth + 1)
  end
  return setmetatable(copy, {__nest = keys})
end

local function prepare_table(value, path, depth)
  if depth > DEEPEST then refuse(path:sub(1, 60) .. "…", "is nested too deeply, or in itself") end
  local keys = nest.keys(value) or names_of(value, path)
  if keys then return prepare_dict(value, keys, path, depth) end
  local copy = {}
  for i = 1, rawlen(value) do copy[i] = prepare(rawget(value, i), ("%s[%d]"):format(path, i), depth + 1) end
  return copy
end

-- Checks everything where its place is known.
function prepare(value, path, depth)
  local kind = type(value)
  if kind == "table" then return prepare_table(value, path, depth) end
  if kind == "number" or kind == "boolean" or array.is(value) then return value end
  if kind == "string" then
    if utf8.len(value) then return value end
    refuse(path, "is a string that is not UTF-8", 'riverlua.array.from_bytes("uint8", s) is how bytes are sent')
  end
  refuse(path, kind == "userdata" and "is null or another userdata" or ("is a %s"):format(kind),
    "arrays, strings, numbers, booleans and tables of them can be sent")
end

--- Writes a value as NEST. Raises kind "argument" for what the format has no place for.
---@param value any an array, string, number, boolean, list or dict
---@return string
function nest.encode(value)
  return core.encode(prepare(value, "the value", 1))
end

--- Reads NEST. Raises kind "protocol" where the bytes are not NEST, are cut off or were changed on the way.
---@param bytes string
---@return any
function nest.decode(bytes)
  errors.expect("nest.decode", "bytes", bytes, "string")
  return core.decode(bytes, make)
end

return nest
