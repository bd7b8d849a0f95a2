--- Reads pickles (protocols 2 to 5) without executing them: what would be called becomes an inert node.
--
--     local root = river.pickle.read("model.pkl")
--     print(root.class)                                --> river.compose.pipeline.Pipeline
--     print(root.state.steps.items.LinearRegression.state.intercept)
--
-- Python's None is `river.none`; booleans, integers, floats and strings are Lua's own. All else is tables of the kinds
-- below (`reader.kind(value)`). The same object twice in the pickle is the same table twice, and cycles are cycles.
--
--     node        an object: `class` (dotted name), `args` (tuple), `kwargs` (name → value, or nil), `state` (what it
--                 is given after it was made, mostly a dict; or nil), `items` (what is put into it: a list, set or
--                 dict; or nil), `made` ("called": class(*args), "new": without its constructor)
--     reference   a class or function itself: `name`
--     list, tuple, set, frozenset   values 1, 2, …
--     dict        pairs {key, value} in order; `dict:get(key)`, for strings also `dict.key`
--     bytes       `text`; bytearrays too
--     integer     one of more than 64 bits: `hex`, such as "-0x1f…"

local errors = require "riverlua.errors"
local model = require "river.model"

local reader = {}

local None = model.none

local LIMITS = {max_bytes = 256 << 20, max_values = 10000000, max_depth = 1000}

-- ------------------------------------------------------------------------------------------------------- values

local function short(value)
  local kind = getmetatable(value)
  return (kind and kind.__name or type(value)):gsub("^river%.pickle%.", "")
end

local function new_kind(name)
  local metatable = {__name = "river.pickle." .. name}
  metatable.__index = metatable
  metatable.__tostring = function(self) return ("%s of %d"):format(name, #self) end
  return metatable
end

local Node, Reference = new_kind "node", new_kind "reference"
local List, Tuple, Set, FrozenSet = new_kind "list", new_kind "tuple", new_kind "set", new_kind "frozenset"
local Dict, Bytes, Integer = new_kind "dict", new_kind "bytes", new_kind "integer"

function Node:__tostring()
  local what = self.items and tostring(self.items) or self.state and "state" or #self.args .. " arguments"
  return ("%s(%s)"):format(self.class, what)
end
function Reference:__tostring() return self.name end
function Bytes:__tostring() return ("%d bytes"):format(#self.text) end
function Integer:__tostring() return self.hex end

local KINDS = {
  [Node] = "node", [Reference] = "reference", [List] = "list", [Tuple] = "tuple", [Set] = "set",
  [FrozenSet] = "frozenset", [Dict] = "dict", [Bytes] = "bytes", [Integer] = "integer",
}

--- What a value of a pickle is.
---@param value any
---@return string|nil kind "node", "reference", "list", "tuple", "set", "frozenset", "dict", "bytes", "integer",
--- "float", "string", "boolean", "none", or nil for anything else
function reader.kind(value)
  if type(value) == "table" then
    if value == None then return "none" end
    return KINDS[getmetatable(value)]
  elseif type(value) == "number" then
    return math.type(value)
  elseif type(value) == "string" or type(value) == "boolean" then
    return type(value)
  end
end

-- Where the keys of long dicts are, so that a key put twice is found.
local places_of = setmetatable({}, {__mode = "k"})
local SHORT = 8

local function place_in(dict, key)
  if key ~= key then return nil end
  local count = #dict
  if count <= SHORT then
    for i = 1, count do
      if dict[i][1] == key then return i end
    end
    return nil
  end
  local places = places_of[dict]
  if not places then
    places = {}
    for i = 1, count do
      local known = dict[i][1]
      if known == known then places[known] = i end
    end
    places_of[dict] = places
  end
  return places[key]
end

local function put(dict, key, value)
  local place = place_in(dict, key)
  if place then
    dict[place][2] = value
    return
  end
  local count = #dict + 1
  rawset(dict, count, {key, value})
  local places = places_of[dict]
  if places and key == key then places[key] = count end
end

--- The value of a key, or nil.
---@param key any a tuple is found by identity only
---@return any
function Dict:get(key)
  local place = place_in(self, key)
  return place and self[place][2]
end

function Dict:__index(key)
  if math.type(key) == "integer" then return nil end
  local method = rawget(Dict, key)
  if method ~= nil then return method end
  if type(key) == "string" then return Dict.get(self, key) end
end

-- -------------------------------------------------------------------------------------------------- the machine

local function fail(kind, text, ...)
  errors.raise{kind = kind, message = "pickle: " .. text:format(...)}
end

local function bad(self, text, ...)
  fail("protocol", "the pickle is malformed: %s (byte %d)", text:format(...), self.at - 1)
end

local function cut_off() fail("protocol", "the pickle is cut off") end

-- Reads a number of fixed size.
local function number_reader(format)
  local size, unpack = format:packsize(), string.unpack
  return function(self)
    local at = self.at
    if at + size - 1 > self.size then cut_off() end
    self.at = at + size
    return (unpack(format, self.bytes, at))
  end
end

local u8, u16, u32 = number_reader "B", number_reader "<I2", number_reader "<I4"
local i32, u64, f64 = number_reader "<i4", number_reader "<I8", number_reader ">d"

local function take(self, length)
  local at = self.at
  if length < 0 or length > self.size - at + 1 then cut_off() end
  self.at = at + length
  return self.bytes:sub(at, at + length - 1)
end

local function take_line(self)
  local stop = self.bytes:find("\n", self.at, true)
  if not stop then cut_off() end
  local line = self.bytes:sub(self.at, stop - 1)
  self.at = stop + 1
  return line
end

local function text_of(self, bytes)
  -- Python writes lone surrogates as they are
  if not utf8.len(bytes, 1, -1, true) then bad(self, "a text is not UTF-8") end
  return bytes
end

local function push(self, value)
  local top = self.top + 1
  self.top = top
  self.stack[top] = value
end

-- Counted, so that few bytes cannot become a lot of memory.
local function new(self, kind, value)
  local count = self.values + 1
  self.values = count
  if count > self.max_values then
    fail("limit", "more than %d values; raise it with max_values", self.max_values)
  end
  return setmetatable(value, kind)
end

local function pop(self)
  local top = self.top
  if top <= self.mark then bad(self, "the stack is empty") end
  local value = self.stack[top]
  self.stack[top] = nil
  self.top = top - 1
  return value
end

local function peek(self)
  if self.top <= self.mark then bad(self, "the stack is empty") end
  return self.stack[self.top]
end

local function put_mark(self)
  local marks = self.marks
  marks[#marks + 1] = self.mark
  self.mark = self.top
  -- marks cost memory too
  self.values = self.values + 1
  if self.values > self.max_values then fail("limit", "more than %d values", self.max_values) end
end

-- The values above the last mark, which goes too.
local function pop_mark(self)
  local marks = self.marks
  local count = #marks
  if count == 0 then bad(self, "there is no mark") end
  local mark, stack, top = self.mark, self.stack, self.top
  local list = table.move(stack, mark + 1, top, 1, {})
  for i = mark + 1, top do stack[i] = nil end
  self.top, self.mark = mark, marks[count]
  marks[count] = nil
  return list
end

local function pop_kind(self, kind)
  local value = pop(self)
  if getmetatable(value) ~= kind then
    bad(self, "a %s stands where a %s must be", short(value), short(setmetatable({}, kind)))
  end
  return value
end

local function reference(self, module, name)
  return new(self, Reference, {name = module .. "." .. name})
end

-- Where things are put into: the list, set or dict itself, or the items of an object.
local function target(self, kind)
  local value = peek(self)
  if getmetatable(value) == kind then return value end
  if getmetatable(value) == Node then
    if value.items == nil then value.items = new(self, kind, {}) end
    if getmetatable(value.items) == kind then return value.items end
  end
  bad(self, "a %s takes no such items", short(value))
end

local function append_all(self, kind, values)
  local list = target(self, kind)
  table.move(values, 1, #values, #list + 1, list)
end

local function put_all(self, values)
  local dict = target(self, Dict)
  if #values % 2 ~= 0 then bad(self, "a key without a value") end
  for i = 1, #values, 2 do
    self.values = self.values + 1
    put(dict, values[i], values[i + 1])
  end
  if self.values > self.max_values then fail("limit", "more than %d values", self.max_values) end
end

local function kwargs_of(self, dict)
  local kwargs = {}
  for _, pair in ipairs(dict) do
    if type(pair[1]) ~= "string" then bad(self, "an argument's name is no text") end
    kwargs[pair[1]] = pair[2]
  end
  return next(kwargs) and kwargs or nil
end

local PARTIAL = "functools.partial"

-- A partial that NEWOBJ_EX made and that is called at once: the way to give named arguments to a class.
local function call_partial(self, partial, args)
  local callee = partial.args[1]
  local all = new(self, Tuple, table.move(partial.args, 2, #partial.args, 1, {}))
  table.move(args, 1, #args, #all + 1, all)
  return new(self, Node, {class = callee.name, args = all, kwargs = partial.kwargs, made = "called"})
end

local function call(self)
  local args, callee = pop_kind(self, Tuple), pop(self)
  if getmetatable(callee) == Reference then
    return push(self, new(self, Node, {class = callee.name, args = args, made = "called"}))
  elseif getmetatable(callee) ~= Node then
    bad(self, "a %s cannot be called", short(callee))
  end
  if callee.class == PARTIAL and callee.made == "new" and getmetatable(callee.args[1]) == Reference then
    return push(self, call_partial(self, callee, args))
  end
  -- what a call returned is called: `callee` says what
  push(self, new(self, Node, {class = callee.class .. "()", callee = callee, args = args, made = "called"}))
end

local function new_object(self, kwargs)
  local args, class = pop_kind(self, Tuple), pop_kind(self, Reference)
  push(self, new(self, Node, {class = class.name, args = args, kwargs = kwargs, made = "new"}))
end

local function build(self)
  local state = pop(self)
  local object = peek(self)
  if getmetatable(object) ~= Node then bad(self, "a %s takes no state", short(object)) end
  local before = object.state
  if before ~= nil and getmetatable(before) == Dict and getmetatable(state) == Dict then
    for _, pair in ipairs(state) do put(before, pair[1], pair[2]) end
  else
    object.state = state
  end
end

local function long(self, length)
  local bytes = take(self, length)
  if length == 0 then return 0 end
  -- a longer form of what fits into 64 bits is that number
  local sign = bytes:byte(length) >= 0x80 and 0xff or 0
  local needed = length
  while needed > 8 and bytes:byte(needed) == sign and (bytes:byte(needed - 1) >= 0x80) == (sign == 0xff) do
    needed = needed - 1
  end
  if needed <= 8 then return (("<i" .. needed):unpack(bytes)) end
  local digits, carry = {}, 1
  for i = 1, length do
    local byte = bytes:byte(i)
    if sign == 0xff then
      byte = (byte ~ 0xff) + carry
      carry = byte >> 8
      byte = byte & 0xff
    end
    digits[length - i + 1] = ("%02x"):format(byte)
  end
  local hex = table.concat(digits):gsub("^0+", "")
  return new(self, Integer, {hex = (sign == 0xff and "-0x" or "0x") .. hex})
end

local function remember(self, place) self.memo[place] = peek(self) end

local function recall(self, place)
  local value = self.memo[place]
  if value == nil then bad(self, "nothing is remembered as %d", place) end
  push(self, value)
end

local function bytes_value(self, length) push(self, new(self, Bytes, {text = take(self, length)})) end

local function text_value(self, length) push(self, text_of(self, take(self, length))) end

local function tuple_of(count)
  return function(self)
    local list = {}
    for i = count, 1, -1 do list[i] = pop(self) end
    push(self, new(self, Tuple, list))
  end
end

local function refused(text)
  return function() fail("unsupported", text) end
end

local PERSISTENT = refused "the pickle refers to objects outside of itself (persistent ids)"
local EXTENSION = refused "the pickle uses codes of a registry (copyreg extensions)"
local BUFFERS = refused "the pickle keeps its data in buffers outside of itself"

local OPERATIONS = {
  ["\x80"] = function(self)
    local version = u8(self)
    if version > 5 then fail("unsupported", "pickle protocol %d (2 to 5 are known)", version) end
  end,
  ["\x95"] = function(self) u64(self) end,       -- FRAME
  ["("] = put_mark,
  ["0"] = function(self)                         -- POP takes a mark where nothing lies above it
    if self.top == self.mark and #self.marks > 0 then pop_mark(self) else pop(self) end
  end,
  ["1"] = pop_mark,
  ["2"] = function(self) push(self, peek(self)) end,
  ["N"] = function(self) push(self, None) end,
  ["\x88"] = function(self) push(self, true) end,
  ["\x89"] = function(self) push(self, false) end,
  ["K"] = function(self) push(self, u8(self)) end,
  ["M"] = function(self) push(self, u16(self)) end,
  ["J"] = function(self) push(self, i32(self)) end,
  ["\x8a"] = function(self) push(self, long(self, u8(self))) end,
  ["\x8b"] = function(self) push(self, long(self, i32(self))) end,
  ["G"] = function(self) push(self, f64(self)) end,
  ["\x8c"] = function(self) text_value(self, u8(self)) end,
  ["X"] = function(self) text_value(self, u32(self)) end,
  ["\x8d"] = function(self) text_value(self, u64(self)) end,
  ["U"] = function(self) bytes_value(self, u8(self)) end,
  ["T"] = function(self) bytes_value(self, i32(self)) end,
  ["C"] = function(self) bytes_value(self, u8(self)) end,
  ["B"] = function(self) bytes_value(self, u32(self)) end,
  ["\x8e"] = function(self) bytes_value(self, u64(self)) end,
  ["\x96"] = function(self) bytes_value(self, u64(self)) end,
  [")"] = tuple_of(0), ["\x85"] = tuple_of(1), ["\x86"] = tuple_of(2), ["\x87"] = tuple_of(3),
  ["t"] = function(self) push(self, new(self, Tuple, pop_mark(self))) end,
  ["]"] = function(self) push(self, new(self, List, {})) end,
  ["l"] = function(self) push(self, new(self, List, pop_mark(self))) end,
  ["a"] = function(self) append_all(self, List, {pop(self)}) end,
  ["e"] = function(self) append_all(self, List, pop_mark(self)) end,
  ["}"] = function(self) push(self, new(self, Dict, {})) end,
  ["d"] = function(self)
    local values = pop_mark(self)
    push(self, new(self, Dict, {}))
    put_all(self, values)
  end,
  ["s"] = function(self)
    local value, key = pop(self), pop(self)
    put_all(self, {key, value})
  end,
  ["u"] = function(self) put_all(self, pop_mark(self)) end,
  ["\x8f"] = function(self) push(self, new(self, Set, {})) end,
  ["\x90"] = function(self) append_all(self, Set, pop_mark(self)) end,
  ["\x91"] = function(self) push(self, new(self, FrozenSet, pop_mark(self))) end,
  ["c"] = function(self)
    local module = text_of(self, take_line(self))
    push(self, reference(self, module, text_of(self, take_line(self))))
  end,
  ["\x93"] = function(self)
    local name, module = pop(self), pop(self)
    if type(name) ~= "string" or type(module) ~= "string" then bad(self, "a name is no text") end
    push(self, reference(self, module, name))
  end,
  ["R"] = call,
  ["\x81"] = function(self) new_object(self, nil) end,
  ["\x92"] = function(self) new_object(self, kwargs_of(self, pop_kind(self, Dict))) end,
  ["b"] = build,
  ["q"] = function(self) remember(self, u8(self)) end,
  ["r"] = function(self) remember(self, u32(self)) end,
  ["\x94"] = function(self)
    remember(self, self.memorized)
    self.memorized = self.memorized + 1
  end,
  ["h"] = function(self) recall(self, u8(self)) end,
  ["j"] = function(self) recall(self, u32(self)) end,
  ["P"] = PERSISTENT, ["Q"] = PERSISTENT,
  ["\x82"] = EXTENSION, ["\x83"] = EXTENSION, ["\x84"] = EXTENSION,
  ["\x97"] = BUFFERS, ["\x98"] = BUFFERS,
}

local function run(self)
  local bytes, operations = self.bytes, OPERATIONS
  while true do
    local at = self.at
    local code = bytes:sub(at, at)
    self.at = at + 1
    if code == "." then break end
    local act = operations[code]
    if not act then
      if code == "" then cut_off() end
      fail("unsupported", "the pickle has operation 0x%02x (byte %d), which protocols 2 to 5 do not write",
        code:byte(), at - 1)
    end
    act(self)
  end
  if #self.marks > 0 then bad(self, "a mark is left over") end
  return pop(self)
end

-- ------------------------------------------------------------------------------------------------------ reading

local FIELDS = {"args", "kwargs", "state", "items", "callee"}

local function children_of(value)
  local list = {}
  if getmetatable(value) == Node then
    for _, field in ipairs(FIELDS) do
      if type(value[field]) == "table" then list[#list + 1] = value[field] end
    end
  else
    -- elements; the pairs of a dict are tables too
    for _, item in next, value do
      if type(item) == "table" and item ~= None then list[#list + 1] = item end
    end
  end
  return list
end

-- How deep values lie in each other, for whoever goes through them with one call per level, each value once.
local function check_depth(root, limit)
  if type(root) ~= "table" or root == None then return end
  local seen, levels, at = {[root] = true}, {children_of(root)}, {1}
  local depth = 1
  while depth > 0 do
    local children, index = levels[depth], at[depth]
    local child = children[index]
    if child == nil then
      levels[depth] = nil
      depth = depth - 1
    else
      at[depth] = index + 1
      if not seen[child] then
        seen[child] = true
        depth = depth + 1
        if depth > limit then fail("limit", "values nested more than %d deep; raise it with max_depth", limit) end
        levels[depth], at[depth] = children_of(child), 1
      end
    end
  end
end

local function read_file(path, limit)
  local file, problem = io.open(path, "rb")
  if not file then
    errors.raise{kind = "argument", message = "pickle.read: cannot read the file: " .. problem,
      hint = "the argument is the path of a pickle, or its bytes (which start with 0x80)"}
  end
  local bytes = file:read(limit + 1)
  file:close()
  if not bytes then fail("protocol", "the file '%s' is empty", path) end
  return bytes
end

local OPTIONS = {max_bytes = true, max_values = true, max_depth = true}

--- Reads a pickle into inert tables, see the top of this file. Nothing is executed or imported, whatever it holds.
---
--- Errors: kind "protocol" (malformed or cut off), "unsupported" (out-of-band data, protocol 0 or 1), "limit" (too
--- big), "argument" (no such file).
---@param source string bytes (they start with 0x80) or the path of a file
---@param options {max_bytes: integer, max_values: integer, max_depth: integer}|nil defaults: 256 MiB, 10 million
--- tables, 1000 levels (a dict is two)
---@return any value
function reader.read(source, options)
  errors.expect("pickle.read", "source", source, "string")
  options = options or {}
  errors.expect("pickle.read", "options", options, "table")
  errors.check_options("pickle.read", options, OPTIONS)
  local limits = {}
  for name, default in pairs(LIMITS) do
    limits[name] = options[name] == nil and default or errors.expect("pickle.read", name, options[name], "integer")
  end
  local bytes = source:byte(1) == 0x80 and source or read_file(source, limits.max_bytes)
  if #bytes > limits.max_bytes then
    fail("limit", "more than %d bytes; raise it with max_bytes", limits.max_bytes)
  end
  if bytes:byte(1) ~= 0x80 then fail("protocol", "it does not start as a pickle of protocol 2 to 5 does") end
  local self = {bytes = bytes, size = #bytes, at = 1, stack = {}, top = 0, marks = {}, mark = 0, memo = {},
    memorized = 0, values = 0, max_values = limits.max_values}
  local value = run(self)
  check_depth(value, limits.max_depth)
  return value
end

--- The last part of a class's name: "StandardScaler" of "river.preprocessing.scale.StandardScaler". Modules move from
--- one version of a library to the next, names rarely do.
---@param node table|nil
---@return string|nil
function reader.class_name(node)
  if getmetatable(node) == Node then return node.class:match("[^.]*$") end
end

return reader
