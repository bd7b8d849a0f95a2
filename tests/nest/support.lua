--- What the specs of NEST share: bytes as hex, and a second reader of the format that is written for clarity and looks
--- at no checksum.

local support = {}

support.DTYPES = {[0] = "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32",
  "float64"}
local SIZES = {bool = 1, int8 = 1, int16 = 2, int32 = 4, int64 = 8, uint8 = 1, uint16 = 2, uint32 = 4, uint64 = 8,
  float32 = 4, float64 = 8}

function support.from_hex(text) return (text:gsub("..", function(pair) return string.char(tonumber(pair, 16)) end)) end

function support.to_hex(bytes) return (bytes:gsub(".", function(char) return ("%02x"):format(char:byte()) end)) end

local function raw_at(bytes, at, size)
  at = at + 8
  at = at + (1 - at) % 8
  return bytes:sub(at, at + size - 1), at + size
end

local read

local function read_array(bytes, at)
  local dtype, ndim
  dtype, ndim, at = ("<I1I1"):unpack(bytes, at)
  if dtype == 11 then
    local length
    length, at = ("<I4"):unpack(bytes, at)
    local text
    text, at = raw_at(bytes, at, length)
    return {str = text}, at
  end
  local shape, size = {}, SIZES[support.DTYPES[dtype]]
  for i = 1, ndim do
    shape[i], at = ("<i8"):unpack(bytes, at)
    size = size * shape[i]
  end
  local raw
  raw, at = raw_at(bytes, at, size)
  return {array = {dtype = support.DTYPES[dtype], shape = shape, raw = raw}}, at
end

function read(bytes, at)
  local tag, count
  tag, at = ("<I1"):unpack(bytes, at)
  if tag == 0 then return read_array(bytes, at) end
  count, at = ("<I4"):unpack(bytes, at)
  local list = {}
  for i = 1, count do
    local key
    if tag == 1 then key, at = ("<s2"):unpack(bytes, at) end
    list[i], at = read(bytes, at)
    if tag == 1 then list[i] = {key, list[i]} end
  end
  return {[tag == 1 and "dict" or "list"] = list}, at
end

--- What a payload says, in the form of the vectors: {array = {dtype, shape, raw}}, {str}, {list} or {dict} of pairs.
---@param bytes string
---@return table
function support.read(bytes)
  assert(bytes:sub(1, 8) == "NEST\1\0\0\0")
  local value, at = read(bytes, 9)
  assert(at == #bytes + 1, "bytes are left")
  return value
end

--- The columns of a datum: name → {dtype =, shape =, values = array of all elements}, and their names in order.
---@param bytes string
---@return table<string, table>, string[]
function support.columns(bytes)
  local array = require "riverlua.array"
  local columns, names = {}, {}
  for i, pair in ipairs(support.read(bytes).dict) do
    names[i] = pair[1]
    local described = pair[2].array
    if described then
      columns[pair[1]] = {dtype = described.dtype, shape = described.shape,
        values = array.from_bytes(described.dtype, described.raw)}
    else
      columns[pair[1]] = pair[2]
    end
  end
  return columns, names
end

return support
