--- Models of the embedded service as pickle bytes, with what they learned, and back.
--
-- The bytes call the constructors of the Python library (as `river.pickle` does) and then set the attributes that
-- learning changes, so a real server or a Python program continues where the model stopped. Read are such bytes and
-- those that Python itself writes of a model; reading makes inert tables, nothing is executed.

local errors = require "riverlua.errors"
local model = require "river.model"
local python = require "river.embedded.python"
local registry = require "river.embedded.registry"
local untouched = require "river.embedded.untouched"

local pickle = {}

local None = python.None

-- Values beyond scalars are those of a model description.
local Dict, Tuple, List = getmetatable(model.dict{}), getmetatable(model.tuple{}), getmetatable(model.list{})
local Reference = getmetatable(model.ref "river.optim.SGD")

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
---@param instance table an instance of the registry
---@return string bytes
function pickle.dump(instance)
  local out = {"\x80\x04"}
  write(out, instance:dump())
  out[#out + 1] = "."
  return table.concat(out)
end

-- ------------------------------------------------------------------------------------------------------ reading

local function refuse(text, ...)
  errors.raise{kind = "argument", message = "the embedded service cannot take this pickle: " .. text:format(...),
    hint = "compose the model in Lua, or upload the file to a River server"}
end

local OTHER_FORM = "it has attributes of another form"

--- A learned number; anything else is the fault of the bytes.
---@param value any
---@return number
function pickle.number(value)
  if type(value) ~= "number" then refuse(OTHER_FORM) end
  return value
end

--- A feature's name.
---@param value any
---@return string
function pickle.name(value)
  if type(value) ~= "string" then refuse("it has features whose names are no strings") end
  return value
end

--- The fields of a dictionary with string keys.
---@param dict table
---@return table<string, any>
function pickle.fields(dict)
  if type(dict) ~= "table" or getmetatable(dict) ~= Dict then refuse(OTHER_FORM) end
  local fields = {}
  for _, pair in ipairs(dict) do fields[pickle.name(pair[1])] = pair[2] end
  return fields
end

-- Steps are kept by name.
local function named_steps(steps)
  local dict = type(steps) == "table" and steps.class and steps.args[1] or steps
  if type(dict) ~= "table" or getmetatable(dict) ~= Dict then refuse(OTHER_FORM) end
  local args = {}
  for i, pair in ipairs(dict) do args[i] = pickle.tuple{pickle.name(pair[1]), pair[2]} end
  return args
end

local function each_of(list)
  if type(list) ~= "table" or list.class then refuse(OTHER_FORM) end
  return {table.unpack(list)}
end

-- Classes that take any number of arguments: what these were, from the attributes.
local ARGUMENTS = {
  ["river.compose.Pipeline"] = function(state) return named_steps(state.steps) end,
  ["river.compose.TransformerUnion"] = function(state) return named_steps(state.transformers) end,
  ["river.compose.TransformerProduct"] = function(state) return named_steps(state.transformers) end,
  ["river.compose.Select"] = function(state) return each_of(state.keys) end,
  ["river.compose.Discard"] = function(state) return each_of(state.keys) end,
  ["river.compose.SelectType"] = function(state) return each_of(state.types) end,
  ["river.preprocessing.StatImputer"] = function(state) return each_of(state.imputers) end,
  ["river.ensemble.VotingClassifier"] = function(state) return {setmetatable(each_of(state.data), List)} end,
}

-- The containers of Python's library: which argument of a call would have had the items that are put into them.
local CONTAINER_ITEMS = untouched.CONTAINER_ITEMS

-- A parameter that the constructor put into a container of its own.
local function without_container(value)
  local place = type(value) == "table" and value.class and CONTAINER_ITEMS[value.class]
  return place and (value.args[place] or pickle.dict{}) or value
end

-- An object that Python made without its constructor: the arguments are among its attributes. (The library keeps every
-- parameter as an attribute of the same name; it needs them for its own clones.)
local function add_arguments(object, class)
  local state = object.state
  local arguments = class.arguments_of or ARGUMENTS[class.class]
  if arguments then
    object.args = arguments(state)
  elseif not class.construct then
    for _, parameter in ipairs(class.params) do
      local name = parameter[1]
      local value = state[name]
      if value == nil then value = state["_" .. name] end
      if value ~= nil then object.kwargs[name] = without_container(value) end
    end
  else
    refuse("what a %s is made of cannot be read", class.name)
  end
  if class.learn_one and not class.restore and (not arguments or untouched.knows(class.class)) then
    if not untouched.is(object) then
      refuse("what a %s has learned in Python cannot be read, only one that has learned nothing", class.name)
    end
    object.state = nil
  end
end

local convert

local function convert_items(list, built)
  local items = {}
  for i = 1, #list do items[i] = convert(list[i], built) end
  return items
end

-- Numbers of numpy's, by the name of their type.
local NUMPY = {f8 = "d", f4 = "f", i8 = "i8", i4 = "i4", i2 = "i2", i1 = "i1", u4 = "I4", u2 = "I2", u1 = "I1"}

local function numpy_number(node)
  local kind, bytes = node.args[1], node.args[2]
  local format = type(kind) == "table" and kind.class == "numpy.dtype" and NUMPY[kind.args[1]]
  local order = type(kind) == "table" and type(kind.state) == "table" and kind.state[2]
  if not format or type(bytes) ~= "table" or type(bytes.text) ~= "string" or #bytes.text ~= format:packsize() then
    refuse(OTHER_FORM)
  end
  return ((order == ">" and ">" or "<") .. format):unpack(bytes.text)
end

-- A function with some of its arguments: its own constructor got them, or (as Python writes it) its state has them.
local function convert_partial(node, object)
  if node.made == "new" then
    local callee = table.remove(object.args, 1)
    if type(callee) ~= "table" or not callee.name then refuse(OTHER_FORM) end
    object.class, object.partial = callee.name, true
  elseif type(object.state) == "table" and getmetatable(object.state) == Tuple then
    table.move(each_of(object.state[2]), 1, #object.state[2], #object.args + 1, object.args)
    object.kwargs, object.state = pickle.fields(object.state[3]), nil
  end
  return object
end

-- The name of a method of the object itself: getattr(object, name) or, from dill, MethodType(Class.name, object).
local function own_method(object, value)
  if type(value) ~= "table" or not value.class then return nil end
  local first, second = value.args[1], value.args[2]
  if value.class == "builtins.getattr" then return rawequal(first, object) and second or nil end
  local bound = value.class == "dill._dill._load_type()" and rawequal(second, object) and type(first) == "table"
  return bound and type(first.name) == "string" and first.name:match("[^.]+$") or nil
end

-- Methods put on the object under a second name, as river.with_score_as_prediction does; returns the rest of its state.
local function take_aliases(object, state)
  for name, value in pairs(state) do
    local method = own_method(object, value)
    if method then
      object.aliases = object.aliases or {}
      object.aliases[name] = method
      state[name] = nil
    end
  end
  if object.aliases and next(state) == nil then return nil end
  return state
end

-- An object whose class is known here is built from its attributes; of others they are kept for who asks for them.
local function convert_node(node, built)
  if node.class:find("^numpy%..*multiarray%.scalar$") then return (numpy_number(node)) end
  local object = {class = node.class, args = {}, kwargs = {}}
  built[node] = object
  object.args = convert_items(node.args, built)
  for name, value in pairs(node.kwargs or {}) do object.kwargs[name] = convert(value, built) end
  local place = CONTAINER_ITEMS[node.class]
  if place and node.items then object.args[place] = convert(node.items, built) end
  local state = node.state ~= nil and convert(node.state, built) or nil
  if state ~= nil and getmetatable(state) == Dict then state = pickle.fields(state) end
  if type(state) == "table" and not getmetatable(state) then state = take_aliases(object, state) end
  object.state = state
  if node.class == "functools.partial" then return convert_partial(node, object) end
  if node.made == "new" then
    local class = registry.class_of(node.class)
    if class then
      object.class = class.class
      if type(state) ~= "table" or getmetatable(state) then object.state = {} end
      add_arguments(object, class)
    end
  end
  return object
end

local CONVERTED = {
  none = function() return None end,
  node = convert_node,
  reference = function(value) return pickle.reference(value.name) end,
  list = function(value, built) return setmetatable(convert_items(value, built), List) end,
  tuple = function(value, built) return pickle.tuple(convert_items(value, built)) end,
  set = function(value, built)
    local items = convert_items(value, built)
    -- the order in which Python holds texts changes from run to run
    if pcall(table.sort, items) then return setmetatable(items, List) end
    return setmetatable(convert_items(value, built), List)
  end,
  dict = function(value, built)
    local list = {}
    for i, pair in ipairs(value) do list[i] = {convert(pair[1], built), convert(pair[2], built)} end
    return pickle.dict(list)
  end,
  bytes = function(value) return value.text end,
  integer = function() refuse("it has an integer of more than 64 bits") end,
}
CONVERTED.frozenset = CONVERTED.set

-- What the reader made, as a description that `registry.build` takes; what was one object stays one.
function convert(value, built)
  if type(value) ~= "table" then return value end
  local known = built[value]
  if known == false then refuse("it contains itself") end
  if known ~= nil then return known end
  built[value] = false
  local converted = CONVERTED[require("river.pickle_reader").kind(value)](value, built)
  built[value] = converted
  return converted
end

local function check_bytes(bytes)
  if bytes:byte(1) ~= 0x80 then refuse("it does not start as a pickle does") end
end

--- Reads bytes into a description, with `state` (attribute → value) where it was learned.
---@param bytes string
---@return table node
function pickle.read(bytes)
  check_bytes(bytes)
  local ok, value = pcall(require("river.pickle_reader").read, bytes)
  if not ok then refuse("%s", errors.is(value) and value.message:gsub("^pickle: ", "") or tostring(value)) end
  local node = convert(value, {})
  if type(node) ~= "table" or not node.class then refuse("it holds no model") end
  return node
end

--- Builds the model that the bytes describe.
---@param bytes string
---@return table model
function pickle.load(bytes)
  local node = pickle.read(bytes)
  local ok, built = pcall(registry.build, node)
  if ok then return built end
  -- Attributes of other shapes than ours trip over themselves; that is the file's fault.
  if type(built) == "string" then refuse(OTHER_FORM) end
  error(built, 0)
end

return pickle
