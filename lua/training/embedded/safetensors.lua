--- Files of tensors in the format "safetensors": 8 bytes, the length of a header of JSON; the header; the numbers.
--
--     local safetensors = require "training.embedded.safetensors"
--     safetensors.write("model.safetensors", {{name = "head.weight", array = weights}}, {made_by = "me"})
--     local file = safetensors.read("model.safetensors")
--     print(file.tensors["head.weight"], file.metadata.made_by)
--
-- Files are written as the reference library writes them: large elements first, then by name, without gaps, the
-- header filled up with spaces to a multiple of 8 bytes. The reader takes what the format allows and nothing else:
-- offsets that overlap, leave a gap or do not fit their shape are errors, as are names that are there twice.
-- float16 and bfloat16 become float32; all other numbers stay what they are.

local array = require "riverlua.array"
local errors = require "riverlua.errors"
local folder = require "riverlua.core.folder"
local json = require "riverlua.json"

local safetensors = {}

local LARGEST_HEADER = 100000000
local METADATA = "__metadata__"
local TENSOR_DEPTH = 4               -- of JSON: the header, a tensor, its shape, a number

local decode_header = json.decoder{max_depth = TENSOR_DEPTH}

-- As the format calls them: {type of array, bytes of an element}.
local DTYPES = {
  BOOL = {"bool", 1}, U8 = {"uint8", 1}, I8 = {"int8", 1}, U16 = {"uint16", 2}, I16 = {"int16", 2},
  F16 = {"float32", 2}, BF16 = {"float32", 2}, U32 = {"uint32", 4}, I32 = {"int32", 4}, F32 = {"float32", 4},
  U64 = {"uint64", 8}, I64 = {"int64", 8}, F64 = {"float64", 8},
}

local FORMAT_NAMES = {bool = "BOOL", uint8 = "U8", int8 = "I8", uint16 = "U16", int16 = "I16", uint32 = "U32",
  int32 = "I32", float32 = "F32", uint64 = "U64", int64 = "I64", float64 = "F64"}

-- The reference library writes types in this order, last ones first.
local RANKS = {bool = 1, uint8 = 2, int8 = 3, int16 = 4, uint16 = 5, int32 = 6, uint32 = 7, float32 = 8,
  float64 = 9, int64 = 10, uint64 = 11}

---@class training.embedded.Tensors
---@field tensors table<string, riverlua.Array> by name: vectors and matrices; others have become vectors
---@field shapes table<string, integer[]>
---@field names string[] in the order of the file
---@field metadata table<string, string>

local function damaged(name, text, ...)
  errors.raise{kind = "protocol", message = ("%s is no whole safetensors file: %s"):format(name, text:format(...)),
    hint = "restore it from a copy, or make it anew"}
end

-- -------------------------------------------------------------------------------------------------------- reading

-- Names of members in a text that is JSON: a repeated one counts twice.
local function count_names(text)
  local count, at = 0, 1
  while true do
    local stop = text:find('"', at, true)
    if not stop then return count end
    local escaped
    repeat
      stop = text:find('["\\]', stop + 1)
      escaped = text:byte(stop) == 92
      if escaped then stop = stop + 1 end
    until not escaped
    if text:find("^%s*:", stop + 1) then count = count + 1 end
    at = stop + 1
  end
end

local function is_object(value) return type(value) == "table" and not json.is_array(value) end

local function short(text)
  if #text > 100 then text = text:sub(1, 97) .. "..." end
  return (text:gsub("[%c]", "?"))
end

local function check_metadata(name, metadata)
  if metadata == nil then return {}, 0 end
  if not is_object(metadata) then damaged(name, "its metadata is no object") end
  local count, copy = 0, {}
  for key, value in next, metadata do
    if type(value) ~= "string" then damaged(name, "its metadata '%s' is no text", short(key)) end
    copy[key], count = value, count + 1
  end
  return copy, count
end

local function check_shape(name, tensor, shape)
  if type(shape) ~= "table" or not json.is_array(shape) then damaged(name, "tensor '%s' has no shape", tensor) end
  local elements = 1
  for i, size in ipairs(shape) do
    if math.type(size) ~= "integer" or size < 0 then
      damaged(name, "the shape of tensor '%s' has %s in place %d", tensor, short(tostring(size)), i)
    end
    if size > 0 and elements > math.maxinteger // 8 // size then
      damaged(name, "the shape of tensor '%s' has too many elements", tensor)
    end
    elements = elements * size
  end
  return elements
end

local function check_tensor(name, key, info, room)
  local tensor = short(key)
  if not is_object(info) then damaged(name, "tensor '%s' is described by no object", tensor) end
  for field in next, info do
    if field ~= "dtype" and field ~= "shape" and field ~= "data_offsets" then
      damaged(name, "tensor '%s' has an unknown field '%s'", tensor, short(field))
    end
  end
  if type(info.dtype) ~= "string" then damaged(name, "tensor '%s' has no type", tensor) end
  local dtype = DTYPES[info.dtype]
  if not dtype then
    errors.raise{kind = "unsupported", message = ("%s: tensor '%s' has the type '%s', which is not supported")
      :format(name, tensor, short(info.dtype)), hint = "convert it to F32"}
  end
  local elements = check_shape(name, tensor, info.shape)
  local offsets = info.data_offsets
  if type(offsets) ~= "table" or not json.is_array(offsets) or #offsets ~= 2
    or math.type(offsets[1]) ~= "integer" or math.type(offsets[2]) ~= "integer" then
    damaged(name, "tensor '%s' has no pair of offsets", tensor)
  end
  local from, to = offsets[1], offsets[2]
  if from < 0 or to < from or to > room then
    damaged(name, "tensor '%s' lies from %d to %d, but there are %d bytes", tensor, from, to, room)
  end
  if to - from ~= elements * dtype[2] then
    damaged(name, "tensor '%s' has %d bytes, but its shape wants %d", tensor, to - from, elements * dtype[2])
  end
  return {name = key, format = info.dtype, dtype = dtype[1], shape = table.move(info.shape, 1, #info.shape, 1, {}),
    from = from, to = to}
end

-- What the header says, checked: tensors in the order of their bytes, of which there are `room`.
local function read_header(name, text, room)
  if text:sub(1, 1) ~= "{" then damaged(name, "its header is no JSON object") end
  local ok, header = pcall(decode_header, text)
  if not ok then
    damaged(name, "its header is not valid: %s", errors.is(header) and header.message or tostring(header))
  end
  local list, names = {}, 0
  local metadata, metadata_names = check_metadata(name, header[METADATA])
  for key, info in next, header do
    names = names + 1
    if key ~= METADATA then
      list[#list + 1] = check_tensor(name, key, info, room)
      names = names + 3
    end
  end
  if count_names(text) ~= names + metadata_names then damaged(name, "its header has a name twice") end
  table.sort(list, function(a, b)
    if a.from ~= b.from then return a.from < b.from end
    if a.to ~= b.to then return a.to < b.to end
    return a.name < b.name
  end)
  local at = 0
  for _, tensor in ipairs(list) do
    if tensor.from ~= at then
      damaged(name, tensor.from < at and "tensor '%s' overlaps another one" or "there is a gap before tensor '%s'",
        short(tensor.name))
    end
    at = tensor.to
  end
  if at ~= room then damaged(name, "%d bytes follow its last tensor", room - at) end
  return list, metadata
end

-- The float32 of the same value as each float16, made when it is first met.
local halves = setmetatable({}, {__index = function(self, bytes)
  local bits = ("<I2"):unpack(bytes)
  local exponent, fraction = bits >> 10 & 31, bits & 1023
  local single
  if exponent == 31 then
    single = 0x7f800000 | fraction << 13
  else
    local value = exponent == 0 and fraction * 2.0 ^ -24 or (1024 + fraction) * 2.0 ^ (exponent - 25)
    single = ("<I4"):unpack(("<f"):pack(value))
  end
  single = ("<I4"):pack(single | (bits >> 15) << 31)
  self[bytes] = single
  return single
end})

local function to_array(tensor, bytes)
  if tensor.format == "F16" then
    bytes = bytes:gsub("..", halves)
  elseif tensor.format == "BF16" then
    bytes = bytes:gsub("..", "\0\0%0")
  end
  local values, shape = array.from_bytes(tensor.dtype, bytes), tensor.shape
  if #shape == 2 and shape[2] > 0 then return array.matrix(tensor.dtype, values, shape[2]) end
  return values
end

-- `take(n)` gives the next n bytes, or fewer; `size`: of all that there is.
local function parse(name, size, take)
  local head = size >= 8 and take(8) or ""
  if #head < 8 then damaged(name, "it has %d bytes", size) end
  local length = ("<i8"):unpack(head)
  if length < 0 or length > LARGEST_HEADER then
    damaged(name, "its header would have %s bytes, and %d is the most",
      length < 0 and "2^63" or length, LARGEST_HEADER)
  end
  if length > size - 8 then damaged(name, "it is cut off in its header") end
  local text = take(length)
  if #text < length then damaged(name, "it is cut off in its header") end
  local list, metadata = read_header(name, text, size - 8 - length)
  local result = {tensors = {}, shapes = {}, names = {}, metadata = metadata}
  for i, tensor in ipairs(list) do
    local bytes = take(tensor.to - tensor.from)
    if #bytes < tensor.to - tensor.from then damaged(name, "it is cut off") end
    result.tensors[tensor.name], result.shapes[tensor.name] = to_array(tensor, bytes), tensor.shape
    result.names[i] = tensor.name
  end
  return result
end

--- Reads the bytes of a file.
---
--- Raises kind "protocol" where they are not what the format says, "unsupported" for types that Lua has no array
--- for.
---@param bytes string
---@param name string|nil what errors call it (default: "the text")
---@return training.embedded.Tensors
function safetensors.decode(bytes, name)
  errors.expect("safetensors.decode", "bytes", bytes, "string")
  local at = 1
  return parse(name or "the text", #bytes, function(n)
    at = at + n
    return bytes:sub(at - n, at - 1)
  end)
end

--- Reads a file.
---
--- Raises kind "storage" when it cannot be read, else as `decode` does.
---@param path string
---@return training.embedded.Tensors
function safetensors.read(path)
  errors.expect("safetensors.read", "path", path, "string")
  local file <close>, problem = io.open(path, "rb")
  local size
  if file then size, problem = file:seek("end") end
  if size then size, problem = file:seek("set") and size, "it cannot be read from its beginning" end
  -- a folder can be opened, and says that it is as large as can be
  if size == math.maxinteger then size, problem = nil, path .. ": it is no file" end
  if not size then
    errors.raise{kind = "storage", message = ("a file of tensors cannot be read: %s"):format(problem)}
  end
  return parse(("'%s'"):format(path), size, function(n)
    if n == 0 then return "" end
    return file:read(n) or ""
  end)
end

-- -------------------------------------------------------------------------------------------------------- writing

local function refuse(text, ...)
  errors.raise{kind = "argument", message = "safetensors: " .. text:format(...)}
end

local function quoted(text, what)
  local ok, encoded = pcall(json.encode, text)
  if not ok then refuse("%s is no UTF-8", what) end
  return encoded
end

local function metadata_text(metadata)
  local names = {}
  for name, value in pairs(metadata) do
    if type(name) ~= "string" or type(value) ~= "string" then refuse("metadata are texts by name") end
    names[#names + 1] = name
  end
  table.sort(names)
  for i, name in ipairs(names) do
    names[i] = quoted(name, "a name of the metadata") .. ":" .. quoted(metadata[name], "metadata '" .. name .. "'")
  end
  return ("%s:{%s}"):format(quoted(METADATA), table.concat(names, ","))
end

local function in_order(tensors)
  local list, seen = {}, {}
  for i, tensor in ipairs(tensors) do
    local name, values = tensor.name, tensor.array
    if type(name) ~= "string" or name == METADATA then refuse("tensor %d has no name that can be written", i) end
    if not array.is(values) then refuse("tensor '%s' is no array", name) end
    if seen[name] then refuse("tensor '%s' is there twice", name) end
    seen[name], list[i] = true, {name = name, array = values, rank = RANKS[values.dtype]}
  end
  table.sort(list, function(a, b)
    if a.rank ~= b.rank then return a.rank > b.rank end
    return a.name < b.name
  end)
  return list
end

--- The bytes of a file with these tensors.
---
--- Raises kind "argument" for names that are there twice, and what is no array.
---@param tensors { name: string, array: riverlua.Array }[]
---@param metadata table<string, string>|nil
---@return string
function safetensors.encode(tensors, metadata)
  errors.expect("safetensors.encode", "tensors", tensors, "table")
  errors.expect("safetensors.encode", "metadata", metadata, "table|nil")
  local heads, parts, at = {}, {""}, 0
  if metadata and next(metadata) ~= nil then heads[1] = metadata_text(metadata) end
  for _, tensor in ipairs(in_order(tensors)) do
    local bytes = tensor.array:bytes()
    heads[#heads + 1] = ('%s:{"dtype":"%s","shape":[%s],"data_offsets":[%d,%d]}'):format(
      quoted(tensor.name, "a tensor's name"), FORMAT_NAMES[tensor.array.dtype],
      table.concat(tensor.array.shape, ","), at, at + #bytes)
    parts[#parts + 1] = bytes
    at = at + #bytes
  end
  local header = "{" .. table.concat(heads, ",") .. "}"
  header = header .. (" "):rep(-#header % 8)
  if #header > LARGEST_HEADER then refuse("the names of the tensors are too long") end
  parts[1] = ("<I8"):pack(#header) .. header
  return table.concat(parts)
end

--- Writes a file; the old one is there until the new one is whole.
---
--- Raises kind "argument" as `encode` does, "storage" when it cannot be written.
---@param path string
---@param tensors { name: string, array: riverlua.Array }[]
---@param metadata table<string, string>|nil
---@return integer size in bytes
function safetensors.write(path, tensors, metadata)
  errors.expect("safetensors.write", "path", path, "string")
  local bytes = safetensors.encode(tensors, metadata)
  local ok, problem = folder.replace(path, bytes)
  if not ok then
    errors.raise{kind = "storage", message = ("the tensors cannot be written: %s"):format(problem),
      hint = "is the folder writable, and the disk not full?"}
  end
  return #bytes
end

return safetensors
