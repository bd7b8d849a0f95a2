--- Compact arrays of numbers that are used like tables: tokens, log-probabilities, whatever comes by the thousand.
--
--     local array = require "riverlua.array"
--     local ids = array.int32{12, 13, 14}
--     print(#ids, ids[2], ids[4])               --> 3  13  nil
--     for i, id in ipairs(ids) do … end
--     local padded = array.concat({0, 0}, ids, {0})
--
-- An element takes 1, 2, 4 or 8 bytes instead of a table's 16. Everything that reads and writes tables by index works
-- (`#`, `ipairs`, `pairs`, `table.unpack`, `table.concat`, `table.sort`, `table.move`), and `json.encode` writes a JSON
-- array.
-- An array has the length it was made with; `array.concat` makes a longer one (`..` is an error, as it is of tables).
-- What does not fit its type (a fraction among integers, 300 as uint8) is an error and never rounded; integers are
-- welcome among floats, which float32 rounds to 24 bits.
--
-- `==` compares the numbers of two arrays, whatever their types. Elements of bool are true and false; a uint64 beyond
-- Lua's integers is a string of digits. A matrix is an array of rows: `m[2][1]`; a row is a part of it, not a copy.
--
-- Fields: `a.dtype` ("int32"), `a.shape` (`{3}`; rows and columns of a matrix: `{3, 2}`). Methods: `a:slice(i, j)` (a
-- copy, counted as string.sub does), `a:table()`, `a:bytes()` (little-endian), `a:sum()`, `a:mean()`, `a:min()` and
-- `a:max()` (also give the index; nil when there are none).
--
-- Errors are riverlua errors of kind "argument".

local core = require "riverlua.core.array"
local errors = require "riverlua.errors"

local array = {}

---@class riverlua.Array
---@field dtype string "bool", "int8" … "int64", "uint8" … "uint64", "float32" or "float64"
---@field shape integer[]
---@field slice fun(self: riverlua.Array, from?: integer, to?: integer): riverlua.Array
---@field table fun(self: riverlua.Array): table
---@field bytes fun(self: riverlua.Array): string
---@field sum fun(self: riverlua.Array): number
---@field mean fun(self: riverlua.Array): number|nil
---@field min fun(self: riverlua.Array): number|nil, integer|nil
---@field max fun(self: riverlua.Array): number|nil, integer|nil
---@field [integer] number|boolean|string|riverlua.Array

local function made(where, result, wrong)
  if result then return result end
  errors.raise{kind = "argument", message = ("%s: the list%s"):format(where,
    wrong:sub(1, 1) == "[" and "'s " .. wrong or wrong)}
end

--- An array of a type named at run time: `array.new("int32", {1, 2})`. `array.int32{1, 2}` is the same, and so are
--- `array.bool`, `int8`, `int16`, `int64`, `uint8`, `uint16`, `uint32`, `uint64`, `float32` and `float64`.
---@param dtype string
---@param values table|riverlua.Array a list; a list of lists of one length makes a matrix; an array is copied
---@return riverlua.Array
function array.new(dtype, values)
  return made("array." .. tostring(dtype), core.convert(dtype, values))
end

for _, dtype in ipairs{"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32",
  "float64"} do
  array[dtype] = function(values)
    return made("array." .. dtype, core.convert(dtype, values))
  end
end

--- An array of `n` equal elements.
---@type fun(dtype: string, n: integer, value?: number|boolean): riverlua.Array
array.fill = core.fill

--- A matrix of the elements of a list or an array, which are taken row by row; of a list of lists without `columns`.
---@param dtype string
---@param values table|riverlua.Array
---@param columns integer|nil length of a row
---@return riverlua.Array
function array.matrix(dtype, values, columns)
  local elements = array.new(dtype, values)
  if columns then return core.reshape(elements, columns) end
  if #elements.shape ~= 2 then
    errors.raise{kind = "argument", message = "array.matrix: the list is no list of lists of one length",
      hint = "array.matrix(dtype, values, columns) cuts a plain list into rows"}
  end
  return elements
end

--- The array whose elements these bytes are (little-endian, one after the other).
---@type fun(dtype: string, bytes: string): riverlua.Array
array.from_bytes = core.from_bytes

--- One array of the elements of all these, in order: arrays and lists, of which one at least is an array; or matrices
--- and lists of lists whose rows have one length. The type is that of the arrays. Arrays of several types give one that
--- holds all: the wider one; int64 when only some are unsigned; float64 when some are floats; bool goes with bool only.
--- Raises kind "argument" with the number of the argument and where in it the element is: "argument 2's [3] is 0.5, …".
---@type fun(first: riverlua.Array|table, ...: riverlua.Array|table): riverlua.Array
array.concat = core.concat

--- Whether a value is an array.
---@type fun(value: any): boolean
array.is = core.is

return array
