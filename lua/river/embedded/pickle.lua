--- Models of the embedded service as pickle bytes, with what they learned, and back.
--
-- The bytes call the constructors of the Python library (as `river.pickle` does) and then set the attributes that
-- learning changes, so a real server or a Python program continues where the model stopped. Reading makes inert
-- tables, nothing is executed.

local errors = require "riverlua.errors"
local python = require "river.embedded.python"
local registry = require "river.embedded.registry"

local pickle = {}

local None = python.None

-- Values beyond scalars; `class` and `n` tell them apart.
local Dict, Tuple, Reference = {}, {}, {}

--- A call of a class by its dotted name, and the attributes to set on the object.
---@param class string
---@param args table|nil positional arguments
---@param fields {kwargs: table[]|nil, state: table[]|nil, partial: boolean|nil}|nil lists of {name, value}; `partial`
--- leaves the call to `functools.partial`
---@return table
function pickle.object(class, args, fields)
  fields = fields or {}
  return {class = class, args = args or {}, kwargs = fields.kwargs or {}, state = fields.state,
    partial = fields.partial}
end

--- A dictionary of {key, value} pairs.
function pickle.dict(list) return setmetatable(list, Dict) end

--- A tuple.
function pickle.tuple(list) return setmetatable(list, Tuple) end

--- A class itself.
function pickle.reference(name) return setmetatable({name = name}, Reference) end

-- ------------------------------------------------------------------------------------------------------ writing

local write

local function write_string(out, text)
  if #text < 256 then
    out[#out + 1] = "\x8c" .. string.char(#text) .. text
  else
    out[#out + 1] = "X" .. ("<s4"):pack(text)
  end
end

local function write_name(out, dotted)
  local module, name = dotted:match("^(.*)%.([^.]+)$")
  write_string(out, module)
  write_string(out, name)
  out[#out + 1] = "\x93"
end

local function write_integer(out, value)
  if value >= 0 and value < 256 then
    out[#out + 1] = "K" .. string.char(value)
  elseif value >= -0x80000000 and value < 0x80000000 then
    out[#out + 1] = "J" .. ("<i4"):pack(value)
  else
    out[#out + 1] = "\x8a\x08" .. ("<i8"):pack(value)
  end
end

local function write_tuple(out, list)
  if #list == 0 then
    out[#out + 1] = ")"
    return
  end
  out[#out + 1] = "("
  for _, item in ipairs(list) do write(out, item) end
  out[#out + 1] = "t"
end

local function write_pairs(out, list)
  out[#out + 1] = "}("
  for _, pair in ipairs(list) do
    write(out, pair[1])
    write(out, pair[2])
  end
  out[#out + 1] = "u"
end

local function write_object(out, object)
  if #object.kwargs > 0 or object.partial then
    write_name(out, "functools.partial")
    local args = {pickle.reference(object.class)}
    table.move(object.args, 1, #object.args, 2, args)
    write_tuple(out, args)
    write_pairs(out, object.kwargs)
    out[#out + 1] = "\x92"
    if not object.partial then out[#out + 1] = ")R" end
  else
    write_name(out, object.class)
    write_tuple(out, object.args)
    out[#out + 1] = "R"
  end
  if object.state then
    write_pairs(out, object.state)
    out[#out + 1] = "b"
  end
end

function write(out, value)
  local kind = math.type(value) or type(value)
  if kind == "float" then
    out[#out + 1] = "G" .. (">d"):pack(value)
  elseif kind == "integer" then
    write_integer(out, value)
  elseif kind == "boolean" then
    out[#out + 1] = value and "\x88" or "\x89"
  elseif kind == "string" then
    write_string(out, value)
  elseif value == None then
    out[#out + 1] = "N"
  elseif getmetatable(value) == Dict then
    write_pairs(out, value)
  elseif getmetatable(value) == Tuple then
    write_tuple(out, value)
  elseif getmetatable(value) == Reference then
    write_name(out, value.name)
  else
    write_object(out, value)
  end
end

--- The bytes of a model, state included.
---@param model table an instance of the registry
---@return string bytes
function pickle.dump(model)
  local out = {"\x80\x04"}
  write(out, model:dump())
  out[#out + 1] = "."
  return table.concat(out)
end

-- ------------------------------------------------------------------------------------------------------ reading

local Reader = {}
Reader.__index = Reader

local function refuse(text, ...)
  errors.raise{kind = "argument", message = text:format(...)}
end

local FOREIGN = "the embedded service reads the pickles that riverlua writes (this one %s); compose the model in " ..
  "Lua, or upload it to a River server"

local function foreign(text, ...) refuse(FOREIGN, text:format(...)) end

function Reader:unpack(format)
  local ok, value, after = pcall(string.unpack, format, self.bytes, self.at)
  if not ok then foreign("is cut off") end
  self.at = after
  return value
end

function Reader:push(value)
  self.top = self.top + 1
  self.stack[self.top] = value
end

function Reader:pop()
  local top = self.top
  if top <= (self.marks[#self.marks] or 0) then foreign("is malformed") end
  local value = self.stack[top]
  self.stack[top] = nil
  self.top = top - 1
  return value
end

-- The values above the last mark, which goes too.
function Reader:pop_mark()
  local mark = table.remove(self.marks)
  if not mark then foreign("is malformed") end
  local list = table.move(self.stack, mark + 1, self.top, 1, {})
  for i = mark + 1, self.top do self.stack[i] = nil end
  self.top = mark
  return list
end

local function expect(value, metatable)
  if type(value) ~= "table" or getmetatable(value) ~= metatable then foreign("is malformed") end
  return value
end

local function pop_tuple(self, count)
  local list = {}
  for i = count, 1, -1 do list[i] = self:pop() end
  self:push(pickle.tuple(list))
end

--- The fields of a dictionary with string keys.
---@param dict table
---@return table<string, any>
function pickle.fields(dict)
  local fields = {}
  for _, pair in ipairs(expect(dict, Dict)) do
    if type(pair[1]) ~= "string" then foreign("has names that are no strings") end
    fields[pair[1]] = pair[2]
  end
  return fields
end

--- A learned number; anything else is the fault of the bytes.
---@param value any
---@return number
function pickle.number(value)
  if type(value) ~= "number" then foreign("has attributes of another form") end
  return value
end

--- A feature's name.
---@param value any
---@return string
function pickle.name(value)
  if type(value) ~= "string" then foreign("has features whose names are no strings") end
  return value
end

local OPERATIONS = {
  ["\x80"] = function(self) self:unpack("B") end,
  ["\x95"] = function(self) self:unpack("<i8") end,
  ["N"] = function(self) self:push(None) end,
  ["\x88"] = function(self) self:push(true) end,
  ["\x89"] = function(self) self:push(false) end,
  ["K"] = function(self) self:push(self:unpack("B")) end,
  ["M"] = function(self) self:push(self:unpack("<I2")) end,
  ["J"] = function(self) self:push(self:unpack("<i4")) end,
  ["\x8a"] = function(self)
    local count = self:unpack("B")
    if count > 8 then foreign("has an integer of more than 64 bits") end
    self:push(count == 0 and 0 or self:unpack("<i" .. count))
  end,
  ["G"] = function(self) self:push(self:unpack(">d")) end,
  ["\x8c"] = function(self) self:push(self:unpack("s1")) end,
  ["X"] = function(self) self:push(self:unpack("<s4")) end,
  ["\x93"] = function(self)
    local name, module = self:pop(), self:pop()
    if type(name) ~= "string" or type(module) ~= "string" then foreign("is malformed") end
    self:push(pickle.reference(module .. "." .. name))
  end,
  [")"] = function(self) self:push(pickle.tuple{}) end,
  ["\x85"] = function(self) pop_tuple(self, 1) end,
  ["\x86"] = function(self) pop_tuple(self, 2) end,
  ["\x87"] = function(self) pop_tuple(self, 3) end,
  ["("] = function(self) self.marks[#self.marks + 1] = self.top end,
  ["t"] = function(self) self:push(pickle.tuple(self:pop_mark())) end,
  ["}"] = function(self) self:push(pickle.dict{}) end,
  ["u"] = function(self)
    local list = self:pop_mark()
    local dict = expect(self.stack[self.top], Dict)
    for i = 1, #list - 1, 2 do dict[#dict + 1] = {list[i], list[i + 1]} end
  end,
  ["R"] = function(self)
    local args, callee = expect(self:pop(), Tuple), self:pop()
    if type(callee) == "table" and callee.partial then
      callee.partial = nil
      self:push(callee)
    else
      self:push(pickle.object(expect(callee, Reference).name, args))
    end
  end,
  ["\x92"] = function(self)
    local kwargs, args, callee = pickle.fields(self:pop()), expect(self:pop(), Tuple), self:pop()
    expect(callee, Reference)
    if callee.name ~= "functools.partial" or not args[1] then foreign("builds %s", callee.name) end
    local class = expect(args[1], Reference).name
    local object = pickle.object(class, table.move(args, 2, #args, 1, {}), {partial = true})
    object.kwargs = kwargs
    self:push(object)
  end,
  ["b"] = function(self)
    local state = pickle.fields(self:pop())
    local object = self.stack[self.top]
    if type(object) ~= "table" or not object.class then foreign("is malformed") end
    object.state = state
  end,
  ["q"] = function(self) self.memo[self:unpack("B")] = self.stack[self.top] end,
  ["r"] = function(self) self.memo[self:unpack("<I4")] = self.stack[self.top] end,
  ["h"] = function(self) self:push(self.memo[self:unpack("B")]) end,
  ["j"] = function(self) self:push(self.memo[self:unpack("<I4")]) end,
}

--- Reads bytes that riverlua wrote into a description, with `state` where it was learned.
---@param bytes string
---@return table node
function pickle.read(bytes)
  local self = setmetatable({bytes = bytes, at = 1, stack = {}, top = 0, marks = {}, memo = {}}, Reader)
  if bytes:byte(1) ~= 0x80 then foreign("does not start as a pickle does") end
  while true do
    local operation = bytes:sub(self.at, self.at)
    self.at = self.at + 1
    if operation == "." then break end
    local act = OPERATIONS[operation]
    if not act then
      if operation == "" then foreign("is cut off") end
      foreign("has operation 0x%02x", operation:byte())
    end
    act(self)
  end
  local node = self:pop()
  if type(node) ~= "table" or not node.class then foreign("holds no model") end
  return node
end

--- Builds the model that the bytes describe.
---@param bytes string
---@return table model
function pickle.load(bytes)
  local node = pickle.read(bytes)
  local ok, model = pcall(registry.build, node)
  if ok then return model end
  -- Attributes of other shapes than ours trip over themselves; that is the file's fault.
  if type(model) == "string" then foreign("has attributes of another form") end
  error(model, 0)
end

return pickle
