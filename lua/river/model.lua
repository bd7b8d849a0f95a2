--- Descriptions of Python objects: what `river.preprocessing.StandardScaler()` returns.
--
-- A *node* says "call this class with these arguments"; nothing is computed here. A node is a value: operators make
-- new nodes and never change their operands. The same node used twice inside one model is one object there, as in
-- Python. Fields, read by the pickle writer and by the embedded service:
--
--     node.class    "river.linear_model.LinearRegression"
--     node.args     {n = count, first, second, …}      positional arguments
--     node.kwargs   {l2 = 0.1, …}                      named arguments
--     node.aliases  {predict_one = "score_one"} or nil  methods added to the object under a second name
--
-- Argument values are nodes, booleans, integers, floats, strings and:
--
--     none          Python's None
--     list, tuple, set   {first, second, …}
--     dict          {{key, value}, …} in order
--     reference     {name = "river.stats.Mean"}: a class or function itself, not called
--
-- `model.kind(value)` tells which one a value is.

local errors = require "riverlua.errors"

local model = {}

local MAX_DEPTH = 100

local Node = {__name = "river.model"}
Node.__index = Node
local Reference = {__name = "river.reference"}
local List = {__name = "river.list"}
local Tuple = {__name = "river.tuple"}
local Set = {__name = "river.set"}
local Dict = {__name = "river.dict"}
local Class = {__name = "river.class"}
local Module = {__name = "river.module"}

local KINDS = {
  [Node] = "node", [Reference] = "reference", [List] = "list", [Tuple] = "tuple", [Set] = "set", [Dict] = "dict",
}

--- Python's None.
model.none = setmetatable({}, {
  __name = "river.none",
  __tostring = function() return "river.none" end,
  __newindex = function() error("river.none cannot be changed", 2) end,
})

local function fail(message, hint)
  errors.raise{kind = "argument", message = message, hint = hint}
end

local function frozen(self, key)
  fail(("a %s cannot be changed (field '%s')"):format(getmetatable(self).__name, tostring(key)),
    "build a new one: models are values")
end
for metatable in pairs(KINDS) do metatable.__newindex = frozen end
Class.__newindex = frozen

--- The kind of an argument value.
---@param value any
---@return string|nil kind "node", "reference", "list", "tuple", "set", "dict", "none", "boolean", "integer", "float",
--- "string", or nil for anything else
function model.kind(value)
  local kind = type(value)
  if kind == "table" then
    if value == model.none then return "none" end
    return KINDS[getmetatable(value)]
  elseif kind == "number" then
    return math.type(value)
  elseif kind == "boolean" or kind == "string" then
    return kind
  end
end

--- Tells whether `value` is a model description.
---@param value any
---@return boolean
function model.is_node(value)
  return type(value) == "table" and getmetatable(value) == Node
end

--- The dotted name of a class (`river.optim.SGD`, not called) or of a module or function under `river`, or nil.
---@param value any
---@return string|nil
function model.dotted_name(value)
  local metatable = type(value) == "table" and getmetatable(value)
  if metatable == Class or metatable == Module then return rawget(value, model) end
end

-- ---------------------------------------------------------------------------------------------- argument values

local function json_null(value)
  return type(value) == "userdata" and value == require("riverlua.json").null
end

local function is_plain(value)
  if type(value) ~= "table" or value == model.none then return false end
  local metatable = getmetatable(value)
  if metatable == nil then return true end
  if KINDS[metatable] or metatable == Class or metatable == Module then return false end
  return require("riverlua.json").is_array(value)
end

local function is_sequence(given)
  local length, count = #given, 0
  for key in next, given do
    if math.type(key) ~= "integer" or key < 1 or key > length then return false end
    count = count + 1
  end
  return count == length and length > 0
end

local function check_name(where, name)
  if type(name) ~= "string" or not name:find("^[%a_][%w_]*%.[%w_.]*[%w_]$") or name:find("..", 1, true) then
    fail(("%s: '%s' is not a dotted name"):format(where, tostring(name)), "write it as in Python: 'river.stats.Mean'")
  end
  return name
end

local rank = {boolean = 1, number = 2, string = 3}

local function before(a, b)
  local kind_a, kind_b = type(a), type(b)
  if kind_a ~= kind_b then return rank[kind_a] < rank[kind_b] end
  if kind_a == "boolean" then return not a and b end
  return a < b
end

local convert

local function convert_items(where, given, depth)
  local items = {}
  for index = 1, #given do items[index] = convert(where, given[index], depth) end
  return items
end

local function sorted_pairs(where, given, depth)
  local keys = {}
  for key in next, given do
    if not rank[type(key)] then
      fail(("%s: a %s cannot be a key of a dictionary"):format(where, type(key)),
        "give pairs: river.dict{{key, value}, …}")
    end
    keys[#keys + 1] = key
  end
  table.sort(keys, before)
  local pairs_found = {}
  for index, key in ipairs(keys) do
    pairs_found[index] = {convert(where, key, depth), convert(where, given[key], depth)}
  end
  return setmetatable(pairs_found, Dict)
end

-- A table without a type of its own: {1, 2} is a list, {a = 1} a dictionary.
local function convert_plain(where, given, depth)
  if depth > MAX_DEPTH then
    fail(("%s: tables are nested more than %d deep"):format(where, MAX_DEPTH), "does a table contain itself?")
  end
  if next(given) == nil then
    if getmetatable(given) then return setmetatable({}, List) end
    fail(where .. ": an empty table could be a list or a dictionary", "write river.list{} or river.dict{}")
  elseif is_sequence(given) then
    return setmetatable(convert_items(where, given, depth + 1), List)
  elseif given[1] ~= nil then
    fail(where .. ": a table with both list items and named fields cannot be a value",
      "use river.list{…} or river.dict{…}")
  end
  return sorted_pairs(where, given, depth + 1)
end

-- Turns what a user may write into one of the documented values.
function convert(where, value, depth)
  local kind = type(value)
  if kind == "number" or kind == "boolean" then return value end
  if kind == "string" then
    if not utf8.len(value) then fail(where .. ": a string is not valid UTF-8") end
    return value
  end
  if kind == "table" then
    if KINDS[getmetatable(value)] or value == model.none then return value end
    local name = model.dotted_name(value)
    if name then return model.ref(name) end
    if is_plain(value) then return convert_plain(where, value, depth) end
    fail(where .. ": an object of the script cannot be sent to the server")
  end
  if json_null(value) then return model.none end
  if kind == "nil" then
    fail(where .. ": an argument is nil", "a misspelt variable? Python's None is river.none")
  elseif kind == "function" then
    fail(where .. ": a Lua function cannot run on the server",
      "name one of the library: river.ref 'river.utils.math.sigmoid'")
  end
  fail(("%s: a %s cannot be sent to the server"):format(where, kind))
end

local function collection(where, metatable)
  return function(given)
    if not is_plain(given) then
      fail(("%s takes a table, got %s"):format(where, given == nil and "nothing" or type(given)),
        ("write %s{…}"):format(where))
    end
    if next(given) ~= nil and not is_sequence(given) then
      fail(where .. " takes items in order: no names, no gaps", "Python's None is river.none")
    end
    return setmetatable(convert_items(where, given, 1), metatable)
  end
end

--- A Python list. Plain tables {a, b} given as arguments are lists already; needed for the empty one, and where a
--- list is the only argument of a class that would take its items.
model.list = collection("river.list", List)

--- A Python tuple; `river.tuple{"scale", scaler}` names a step of a pipeline or union.
model.tuple = collection("river.tuple", Tuple)

--- A Python set.
model.set = collection("river.set", Set)

--- A Python dictionary: `river.dict{a = 1, [true] = 2}` (keys sorted) or in order `river.dict{{"a", 1}, {true, 2}}`.
--- A plain table with names is a dictionary already, except as the last argument, where it holds named arguments.
---@param given table
---@return table
function model.dict(given)
  if not is_plain(given) then fail("river.dict takes a table", "write river.dict{name = value}") end
  if not is_sequence(given) then return sorted_pairs("river.dict", given, 1) end
  local items = {}
  for index, pair in ipairs(given) do
    if not (type(pair) == "table" and (is_plain(pair) or getmetatable(pair) == Tuple) and #pair == 2) then
      return sorted_pairs("river.dict", given, 1)
    end
    items[index] = {convert("river.dict", pair[1], 1), convert("river.dict", pair[2], 1)}
  end
  return setmetatable(items, Dict)
end

--- A class or function itself, by its dotted name: `river.compose.FuncTransformer(river.ref "river.utils.math.sign")`.
--- Names outside the library need the option `allow` of `upload_model`.
---@param name string
---@return table
function model.ref(name)
  return setmetatable({name = check_name("river.ref", name)}, Reference)
end

-- -------------------------------------------------------------------------------------------------------- calls

local PIPELINE = "river.compose.Pipeline"
local UNION = "river.compose.TransformerUnion"
local PRODUCT = "river.compose.TransformerProduct"

-- Classes made of steps; those and others take any number of positional arguments, so a list given alone is spread.
local STEPS = {[PIPELINE] = true, [UNION] = true, [PRODUCT] = true}
local SPREAD = {
  [PIPELINE] = "pairs", [UNION] = "pairs", [PRODUCT] = "pairs", ["river.preprocessing.StatImputer"] = "pairs",
  ["river.compose.Select"] = "names", ["river.compose.Discard"] = "names", ["river.compose.SelectType"] = "names",
}
-- Its only argument is a dictionary, so a table with names means that.
local MAPPING = {["river.compose.Renamer"] = "mapping"}

local function new_node(class, args, kwargs, aliases)
  return setmetatable({class = class, args = args, kwargs = kwargs or {}, aliases = aliases}, Node)
end

local function is_named(given)
  if not is_plain(given) then return false end
  if next(given) == nil then return getmetatable(given) == nil end
  for key in next, given do
    if type(key) == "string" then return true end
  end
  return false
end

-- {"scale", scaler} in a place where a step is wanted is Python's ("scale", scaler).
local function convert_step(where, value)
  if is_plain(value) and #value == 2 and type(value[1]) == "string" and type(value[2]) == "table" then
    return model.tuple(value)
  end
  local step = convert(where, value, 1)
  local kind = model.kind(step)
  if kind == "node" or kind == "reference" or kind == "tuple" or kind == "list" then return step end
  fail(("%s: %s cannot be a step"):format(where, errors.with_article(kind)),
    "steps are estimators, or {\"name\", estimator}")
end

local function take_named(class, named, args)
  local kwargs, length = {}, #named
  for key, value in next, named do
    if type(key) == "string" then
      kwargs[key] = convert(("%s{%s}"):format(class, key), value, 1)
    elseif math.type(key) ~= "integer" or key < 1 or key > length then
      fail(("%s: names of arguments are strings, got %s"):format(class, tostring(key)))
    end
  end
  for index = 1, length do args[#args + 1] = named[index] end
  return kwargs
end

--- Describes the call of a class.
---
--- The last argument, when it is a plain table with at least one name, holds named arguments (and, in its array part,
--- further positional ones); any other plain table is a list.
---@param class string dotted name
---@param ... any positional arguments, then optionally a table of named ones
---@return table node
function model.call(class, ...)
  local given, count = {...}, select("#", ...)
  local args, kwargs = {}, {}
  local named = count > 0 and is_named(given[count])
  if named and MAPPING[class] and count == 1 and given[1][MAPPING[class]] == nil and next(given[1]) ~= nil then
    given[1], named = model.dict(given[1]), false
  end
  for index = 1, named and count - 1 or count do
    if given[index] == nil then
      fail(("%s: argument %d is nil"):format(class, index), "a misspelt variable? Python's None is river.none")
    end
    args[index] = given[index]
  end
  if named then kwargs = take_named(class, given[count], args) end
  local steps = STEPS[class]
  if steps and next(kwargs) then
    fail(class .. " has no named arguments: its steps have an order", "name them so: {{\"scale\", scaler}, model}")
  end
  if #args == 1 and not named and SPREAD[class] and is_plain(args[1]) and is_sequence(args[1]) then
    -- {"scale", scaler} alone is one named step, not two
    local is_pair = SPREAD[class] == "pairs" and type(args[1][1]) == "string"
    if not is_pair then args = table.move(args[1], 1, #args[1], 1, {}) end
  end
  for index = 1, #args do
    args[index] = steps and convert_step(class, args[index]) or convert(class, args[index], 1)
  end
  args.n = #args
  return new_node(class, args, kwargs)
end

--- A copy of `node` whose object answers `predict_one` by its own `score_one`: anomaly detectors have no
--- `predict_one`, which is all that a server calls. `upload_model` does it by itself for the flavor "custom".
---@param node table
---@return table node
function model.with_score_as_prediction(node)
  if not model.is_node(node) then
    fail("river.with_score_as_prediction takes a model", "river.anomaly.HalfSpaceTrees{seed = 42}")
  end
  local aliases = {predict_one = "score_one"}
  for name, method in pairs(node.aliases or {}) do aliases[name] = method end
  return new_node(node.class, node.args, node.kwargs, aliases)
end

--- The estimator that answers for a model: the last step of a pipeline, else the node itself.
---@param node table
---@return table|nil node nil when the last step is a function
function model.final_estimator(node)
  while node and node.class == PIPELINE do
    local last = node.args[node.args.n]
    if model.kind(last) == "tuple" then last = last[2] end
    node = model.is_node(last) and last or nil
  end
  return node
end

-- ---------------------------------------------------------------------------------------------------- operators

local function short_name(dotted) return dotted:match("[^.]+$") end

-- The name that Python gives to a step.
local function step_name(step)
  local kind = model.kind(step)
  if kind == "tuple" then return step[1] end
  if kind == "reference" then return short_name(step.name) end
  if kind == "list" then return short_name(UNION) end
  if step.class == "river.compose.FuncTransformer" then
    local func = step.kwargs.func or step.args[1]
    if model.kind(func) == "reference" then return short_name(func.name) end
  end
  return short_name(step.class)
end

local function operand(symbol, value)
  local name = model.dotted_name(value)
  if name and getmetatable(value) == Class then
    fail(("'%s' between models got the class %s"):format(symbol, name), ("call it: %s()"):format(name))
  end
  if value == nil then fail(("'%s' between models got nil"):format(symbol), "a misspelt variable?") end
  return convert_step("'" .. symbol .. "' between models", value)
end

local function is_class(value, class) return model.is_node(value) and value.class == class end

local function extended(node, step)
  local args = table.move(node.args, 1, node.args.n, 1, {})
  args[#args + 1] = step
  args.n = #args
  return new_node(node.class, args)
end

local function pair_of(class, left, right) return new_node(class, {n = 2, left, right}) end

-- A step put before others gets the number, where it would have the name of one that was there first.
local function prepended(step, node)
  local args, taken = {step}, {}
  for index = 1, node.args.n do
    args[index + 1] = node.args[index]
    taken[step_name(node.args[index])] = true
  end
  local name, number = step_name(step), 0
  while taken[number == 0 and name or name .. number] do number = number + 1 end
  if number > 0 then
    args[1] = model.tuple{name .. number, model.kind(step) == "tuple" and step[2] or step}
  end
  args.n = #args
  return new_node(PIPELINE, args)
end

local function is_statistic(value) return model.is_node(value) and value.class:find("^river%.stats%.") ~= nil end

local function pipe(left, right)
  left, right = operand("|", left), operand("|", right)
  if is_statistic(left) and is_statistic(right) then
    return new_node("river.stats.Link", {n = 0}, {left = left, right = right})
  elseif not (model.is_node(left) or model.is_node(right)) then
    fail("'|' needs an estimator on one side at least")
  elseif is_class(left, PIPELINE) then
    return extended(left, right)
  elseif is_class(right, PIPELINE) then
    return prepended(left, right)
  end
  return pair_of(PIPELINE, left, right)
end

-- A union inside a union keeps its own place, as when Python's `union + union` adds it.
local function as_member(class, step)
  if is_class(step, class) then return model.tuple{short_name(class), step} end
  return step
end

local function unite(left, right)
  left, right = operand("+", left), operand("+", right)
  for _, side in ipairs{left, right} do
    if model.is_node(side) and (is_statistic(side) or side.class:find("^river%.metrics%.")) then
      fail(("'+' joins transformers, %s is none"):format(side.class))
    end
  end
  if is_class(left, UNION) then return extended(left, as_member(UNION, right)) end
  if is_class(right, UNION) and not model.is_node(left) then return extended(right, left) end
  if is_class(left, PIPELINE) and is_class(right, UNION) then return extended(right, left) end
  return pair_of(UNION, left, right)
end

local function is_feature_names(value)
  if type(value) == "string" or math.type(value) == "integer" then return true end
  if model.kind(value) == "list" then return true end
  return is_plain(value) and is_sequence(value) and type(value[1]) ~= "table"
end

local function multiply(left, right)
  if is_feature_names(left) then left, right = right, left end
  left = operand("*", left)
  if is_feature_names(right) then
    return new_node("river.compose.Grouper", {n = 0},
      {transformer = left, by = convert("'*' between models", right, 1)})
  end
  right = operand("*", right)
  if is_class(left, PRODUCT) then return extended(left, as_member(PRODUCT, right)) end
  return pair_of(PRODUCT, left, right)
end

for _, metatable in ipairs{Node, Tuple, Reference, List, Class} do
  metatable.__bor, metatable.__add, metatable.__mul = pipe, unite, multiply
end

-- ----------------------------------------------------------------------------------------------- text of a model

local text_of

local function text_of_float(value)
  if value ~= value then return "(0/0)" end
  if value == math.huge then return "math.huge" end
  if value == -math.huge then return "-math.huge" end
  for digits = 15, 17 do
    local text = ("%." .. digits .. "g"):format(value)
    if tonumber(text) == value then
      return (text:find("[.eE]")) and text or text .. ".0"
    end
  end
end

local function text_of_name(name)
  if name:find("^[%a_][%w_]*$") and not load("return " .. name .. ".x") then return ("[%q]"):format(name) end
  return name:find("^[%a_][%w_]*$") and name or ("[%q]"):format(name)
end

local function text_of_items(items, count)
  local texts = {}
  for index = 1, count do texts[index] = text_of(items[index]) end
  return table.concat(texts, ", ")
end

local function text_of_named(kwargs)
  local names, texts = {}, {}
  for name in pairs(kwargs) do names[#names + 1] = name end
  table.sort(names)
  for index, name in ipairs(names) do
    texts[index] = text_of_name(name) .. " = " .. text_of(kwargs[name])
  end
  return table.concat(texts, ", ")
end

local OPERATOR = {[PIPELINE] = " | ", [UNION] = " + ", [PRODUCT] = " * "}
-- What cannot stand without parentheses, or at all, between the operators of a class.
local LOOSER = {
  [PIPELINE] = {},
  [UNION] = {[PIPELINE] = true},
  [PRODUCT] = {[PIPELINE] = true, [UNION] = true},
}

-- "a | b", when writing that gives this very node back.
local function text_with_operators(node)
  local class, texts = node.class, {}
  if node.args.n < 2 then return nil end
  for index = 1, node.args.n do
    local part = node.args[index]
    if not model.is_node(part) or part.class == class or is_statistic(part) then return nil end
    if class == UNION and part.class == PIPELINE and index == 1 then return nil end
    texts[index] = LOOSER[class][part.class] and "(" .. text_of(part) .. ")" or text_of(part)
  end
  return table.concat(texts, OPERATOR[class])
end

local function text_of_call(node)
  local positional, named = text_of_items(node.args, node.args.n), text_of_named(node.kwargs)
  if named == "" then return ("%s(%s)"):format(node.class, positional) end
  if positional == "" then return ("%s{%s}"):format(node.class, named) end
  return ("%s(%s, {%s})"):format(node.class, positional, named)
end

local function text_of_node(node)
  local text = OPERATOR[node.class] and text_with_operators(node) or text_of_call(node)
  if node.aliases then return ("river.with_score_as_prediction(%s)"):format(text) end
  return text
end

local function text_of_dict(dict)
  local texts = {}
  for index, pair in ipairs(dict) do
    texts[index] = ("{%s, %s}"):format(text_of(pair[1]), text_of(pair[2]))
  end
  return ("river.dict{%s}"):format(table.concat(texts, ", "))
end

function text_of(value)
  local kind = model.kind(value)
  if kind == "node" then return text_of_node(value) end
  if kind == "reference" then return ("river.ref(%q)"):format(value.name) end
  if kind == "dict" then return text_of_dict(value) end
  if kind == "list" or kind == "tuple" or kind == "set" then
    return ("river.%s{%s}"):format(kind, text_of_items(value, #value))
  end
  if kind == "float" then return text_of_float(value) end
  if kind == "string" then return (("%q"):format(value):gsub("\\\n", "\\n")) end
  if kind == "integer" and value == math.mininteger then return "math.mininteger" end
  return tostring(value)
end

Node.__tostring = text_of
for _, metatable in ipairs{Reference, List, Tuple, Set, Dict} do metatable.__tostring = text_of end

-- --------------------------------------------------------------------------------------------------- namespaces

local function catalog() return require "river.catalog" end

local function suggestion(module, name)
  local near = errors.suggest(name, catalog().members(module))
  return near and ("did you mean %s.%s?"):format(module, near) or nil
end

Class.__tostring = function(self) return model.dotted_name(self) end
Class.__pairs = function() return next, {}, nil end
Class.__call = function(self, ...) return model.call(model.dotted_name(self), ...) end
Class.__index = function(self, key)
  if type(key) ~= "string" or key:find("^__") then return nil end
  local name = model.dotted_name(self)
  fail(("%s is a class: it has no '%s' here"):format(name, key), ("build one with %s()"):format(name))
end

--- A class by its dotted name, callable; `river.class "river.linear_model.LinearRegression"{l2 = 0.1}`.
---@param name string
---@return table
function model.class(name)
  return setmetatable({[model] = check_name("river.class", name)}, Class)
end

--- A module of the Python library: its fields are made when they are asked for; an upper-case first letter means a
--- class, anything else a submodule or a function.
---@param name string dotted name
---@return table
function model.module(name)
  return setmetatable({[model] = name}, Module)
end

Module.__tostring = function(self) return model.dotted_name(self) end

Module.__index = function(self, key)
  if type(key) ~= "string" or key:find("^__") then return nil end
  local path = model.dotted_name(self)
  if not key:find("^[%a_][%w_]*$") then fail(("'%s' is no name of the Python library"):format(key)) end
  local member = key:find("^%u") and model.class(path .. "." .. key) or model.module(path .. "." .. key)
  rawset(self, key, member)
  return member
end

Module.__newindex = function(self, key)
  fail(("%s.%s cannot be set: it names something of the server's Python library"):format(tostring(self), tostring(key)))
end

Module.__call = function(self)
  local path = model.dotted_name(self)
  local parent, name = path:match("^(.*)%.([^.]+)$")
  fail(path .. " is a module or function of the Python library, not a class",
    catalog().has_module(path) and ("name a class in it: %s.%s{…}"):format(path, model.first_class(path) or "Class")
      or suggestion(parent, name) or "a function is passed as a value: river.compose.FuncTransformer(" .. path .. ")")
end

-- For completion at the prompt.
Module.__names = function(self)
  local names = {}
  for name in pairs(catalog().members(model.dotted_name(self))) do names[#names + 1] = name end
  return names
end

Module.__pairs = function(self)
  local members = {}
  for name in pairs(catalog().members(model.dotted_name(self))) do members[name] = self[name] end
  return next, members, nil
end

--- The first known class of a module, for examples in hints.
---@param module string
---@return string|nil
function model.first_class(module)
  local first
  for name in pairs(catalog().members(module)) do
    if name:find("^%u") and (not first or name < first) then first = name end
  end
  return first
end

--- The names in a model that the client's catalogue lacks, each with a guess: for hints after a failed upload.
---@param node table
---@return string[] texts "river.linear_model.Lasso (did you mean …?)"
function model.unknown_names(node)
  local found, seen = {}, {}
  local function visit(value)
    local kind = model.kind(value)
    local name = kind == "node" and value.class or kind == "reference" and value.name or nil
    if name and not seen[name] then
      seen[name] = true
      local module, last = name:match("^(.*)%.([^.]+)$")
      if module:find("^river") and not catalog().members(module)[last] then
        local elsewhere = catalog().classes()[last]
        local guess = elsewhere and ("did you mean %s.%s?"):format(elsewhere, last) or suggestion(module, last)
        found[#found + 1] = guess and ("%s (%s)"):format(name, guess) or name
      end
    end
    if kind == "node" then
      for index = 1, value.args.n do visit(value.args[index]) end
      for _, argument in pairs(value.kwargs) do visit(argument) end
    elseif kind == "list" or kind == "tuple" or kind == "set" then
      for _, item in ipairs(value) do visit(item) end
    elseif kind == "dict" then
      for _, pair in ipairs(value) do visit(pair[2]) end
    end
  end
  visit(node)
  table.sort(found)
  return found
end

return model
