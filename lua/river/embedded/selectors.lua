--- Choosing, dropping and renaming features; one transformer per group of samples.

local errors = require "riverlua.errors"
local key_sets = require "river.embedded.key_sets"
local model = require "river.model"
local python = require "river.embedded.python"
local registry = require "river.embedded.registry"

local function refuse(text, ...)
  errors.raise{kind = "argument", message = text:format(...)}
end

-- What all of these share: nothing is learned, and a row is made over.
local function define(name, spec)
  spec = spec or {}
  spec.class, spec.role, spec.transformer, spec.supervised = "river.compose." .. name, "estimator", true, false
  spec.transient, spec.stateless = {"cache", "out"}, true
  local class = registry.class(spec)

  function class:revive() self.cache, self.out = key_sets.new(), {} end

  function class.learn_one() end

  -- There is nothing that a saved one had learned.
  function class.restore() end

  function class:check_target(y)
    python.takes_no_target(self.stateless and "Transformer" or self.name, y)
  end

  class.init = class.revive
  return class
end

-- ----------------------------------------------------------------------------------------------- choosing by name

-- Classes whose arguments are names.
local function define_by_names(name)
  local class = define(name)

  function class:construct(args, kwargs)
    local unknown = next(kwargs)
    if unknown then
      refuse("TypeError: %s.__init__() got an unexpected keyword argument '%s'", self.name, tostring(unknown))
    end
    self.keys, self.chosen = {}, {}
    for i = 1, args.n or #args do
      local key = args[i]
      if type(key) == "table" then refuse("%s: a name of a feature must be a string, got a table", self.name) end
      if not self.chosen[key] then self.keys[#self.keys + 1], self.chosen[key] = key, true end
    end
    table.sort(self.keys, function(a, b) return tostring(a) < tostring(b) end)
    self:revive()
  end

  function class:clone() return registry.build{class = self.class, args = self.keys} end

  function class:describe() return {_POSITIONAL_ARGS = self.keys} end

  function class:dump() return require("river.embedded.pickle").object(self.class, self.keys) end

  return class
end

--- Keeps the features of these names, in ascending order (the library's order of a set of texts changes from run to
--- run).
local Select = define_by_names("Select")

local function selected(self, keys)
  local positions = {}
  for i, name in ipairs(self.keys) do
    positions[i] = keys.index[name]
    if not positions[i] then python.raise("KeyError", python.str(name)) end
  end
  return key_sets.choice(self.cache, keys, positions)
end

---@param row river.embedded.Row
---@return river.embedded.Row valid until the next call
function Select:transform_one(row)
  return key_sets.pick(row, key_sets.remember(self.cache, row.keys, selected, self), self.out)
end

--- Drops the features of these names.
local Discard = define_by_names("Discard")

local function kept(self, keys)
  local positions = {}
  for i = 1, keys.n do
    if not self.chosen[keys[i]] then positions[#positions + 1] = i end
  end
  return key_sets.choice(self.cache, keys, positions)
end

---@param row river.embedded.Row
---@return river.embedded.Row valid until the next call
function Discard:transform_one(row)
  return key_sets.pick(row, key_sets.remember(self.cache, row.keys, kept, self), self.out)
end

-- ----------------------------------------------------------------------------------------------- choosing by type

local function is_float(value) return math.type(value) == "float" end

local function is_integer(value) return math.type(value) == "integer" or type(value) == "boolean" end

local function is_number(value) return type(value) == "number" or type(value) == "boolean" end

-- Python's isinstance, for the types that JSON can have.
local TESTS = {
  ["builtins.str"] = function(value) return type(value) == "string" end,
  ["builtins.bool"] = function(value) return type(value) == "boolean" end,
  ["builtins.int"] = is_integer, ["numbers.Integral"] = is_integer, ["numbers.Rational"] = is_integer,
  ["builtins.float"] = is_float,
  ["numbers.Number"] = is_number, ["numbers.Real"] = is_number, ["numbers.Complex"] = is_number,
  ["builtins.list"] = function(value) return type(value) == "table" and python.type_name(value) == "list" end,
  ["builtins.dict"] = function(value) return type(value) == "table" and python.type_name(value) == "dict" end,
  ["builtins.object"] = function() return true end,
}

--- Keeps the features whose values are of one of these types: `river.ref "numbers.Number"`, `river.ref "builtins.str"`.
local SelectType = define("SelectType")

function SelectType:construct(args)
  self.types = {}
  for i = 1, args.n or #args do
    local name = model.kind(args[i]) == "reference" and args[i].name
    if not name then refuse("SelectType: a type is given as river.ref 'builtins.str'") end
    if not TESTS[name] then
      local names = {}
      for known in pairs(TESTS) do names[#names + 1] = known end
      table.sort(names)
      refuse("SelectType: the embedded service has no type %s; it has %s", name, table.concat(names, ", "))
    end
    self.types[i] = name
  end
  self:revive()
end

function SelectType:clone()
  local copy = setmetatable({types = self.types}, SelectType)
  copy:revive()
  return copy
end

function SelectType:describe()
  local names = {}
  for i, name in ipairs(self.types) do names[i] = name:match("[^.]+$") end
  return {_POSITIONAL_ARGS = names}
end

function SelectType:dump()
  local pickle = require "river.embedded.pickle"
  local args = {}
  for i, name in ipairs(self.types) do args[i] = pickle.reference(name) end
  return pickle.object(self.class, args)
end

---@param row river.embedded.Row
---@return river.embedded.Row valid until the next call
function SelectType:transform_one(row)
  local passes, types = {}, self.types
  for i = 1, row.keys.n do
    local value = key_sets.original(row, i)
    passes[i] = false
    for k = 1, #types do passes[i] = passes[i] or TESTS[types[k]](value) end
  end
  return key_sets.filter(self.cache, row, passes, self.out)
end

-- ------------------------------------------------------------------------------------------------------- renaming

-- The values as they were given, under their new names: {the map of old names, new name → old name}.
local Renamed = {__index = function(self, name)
  local source, old = rawget(self, 1), rawget(self, 2)
  return old[name] and source[old[name]]
end}

-- What a set of names becomes: positions, new keys, and new name → old name.
local function renamed(self, keys)
  local names, old, positions = self:new_names(keys)
  local choice = {keys = key_sets.get(self.cache, names), old = old}
  for i = 1, #names do choice[i] = positions and positions[i] or i end
  return choice
end

---@param row river.embedded.Row
---@return river.embedded.Row valid until the next call
local function rename(self, row)
  local choice = key_sets.remember(self.cache, row.keys, renamed, self)
  local out = key_sets.pick(row, choice, self.out)
  out.source = row.source and setmetatable({row.source, choice.old}, Renamed)
  return out
end

local function define_affix(name, parameter, join)
  local class = define(name, {params = {{parameter, kind = "string", required = true}}})

  function class:new_names(keys)
    local names, old = {}, {}
    for i = 1, keys.n do
      names[i] = join(self[parameter], keys[i])
      old[names[i]] = keys[i]
    end
    return names, old
  end

  class.transform_one = rename
  return class
end

--- Puts text before all names.
local Prefixer = define_affix("Prefixer", "prefix", function(prefix, name) return prefix .. name end)

--- Puts text after all names.
local Suffixer = define_affix("Suffixer", "suffix", function(suffix, name) return name .. suffix end)

--- Renames single features, which move to the end. (The library changes the sample itself, so that a renamer in a union
--- also renames for the members that come before it; here it does not.)
local Renamer = define("Renamer", {params = {{"mapping", kind = "dict", required = true}}})

function Renamer:describe()
  local mapping = {}
  for _, pair in ipairs(self.mapping) do mapping[pair[1]] = pair[2] end
  return {mapping = mapping}
end

-- Python's `x[new] = x.pop(old)` for one name after the other.
function Renamer:new_names(keys)
  local names, origin = {}, {}
  for i = 1, keys.n do names[i], origin[keys[i]] = keys[i], i end
  for _, pair in ipairs(self.mapping) do
    local from, to = pair[1], pair[2]
    local position = origin[from]
    if position then
      origin[from] = nil
      for i, name in ipairs(names) do
        if name == from then
          table.remove(names, i)
          break
        end
      end
      if not origin[to] then names[#names + 1] = to end
      origin[to] = position
    end
  end
  local old, positions = {}, {}
  for i, name in ipairs(names) do
    positions[i] = origin[name]
    old[name] = keys[origin[name]]
  end
  return names, old, positions
end

Renamer.transform_one = rename

-- ------------------------------------------------------------------------------------------------ groups, functions

--- A transformer of its own for every group of samples that agree in one or several features.
local Grouper = define("Grouper", {params = {
  {"transformer", kind = "estimator", required = true}, {"by", kind = "string|list", required = true},
}})

function Grouper:init()
  if type(self.by) ~= "table" then self.by = {self.by} end
  self.transformers, self.groups = {}, {}
  self:revive()
end

local function group_of(self, row)
  local texts = {}
  for i, name in ipairs(self.by) do
    local position = row.keys.index[name]
    if not position then python.raise("KeyError", python.str(name)) end
    texts[i] = python.str(key_sets.original(row, position))
  end
  local key = table.concat(texts, "_")
  local transformer = self.transformers[key]
  if not transformer then
    transformer = registry.clone(self.transformer)
    self.transformers[key], self.groups[#self.groups + 1] = transformer, key
  end
  return transformer
end

function Grouper:learn_one(row) group_of(self, row):learn_one(row) end

function Grouper:transform_one(row) return group_of(self, row):transform_one(row) end

Grouper.stateless = nil

-- `by` is a list in Python, not the tuple that other lists are written as.
function Grouper:state(pickle)
  local list, by = {}, pickle.tuple(table.move(self.by, 1, #self.by, 1, {}))
  for i, key in ipairs(self.groups) do list[i] = {key, self.transformers[key]:dump()} end
  local factory = pickle.object("copy.deepcopy", {self.transformer:dump()}, {partial = true})
  return {
    {"by", pickle.object("builtins.list", {by})},
    {"transformers", pickle.object("collections.defaultdict", {factory, pickle.dict(list)})},
  }
end

function Grouper:restore(state)
  if state.by and state.by.class then self.by = table.move(state.by.args[1], 1, #state.by.args[1], 1, {}) end
  local dict = state.transformers
  for _, pair in ipairs(dict and dict.args[2] or {}) do
    self.transformers[pair[1]], self.groups[#self.groups + 1] = registry.build(pair[2]), pair[1]
  end
end

--- Functions of Python cannot run here.
local FuncTransformer = define("FuncTransformer")

function FuncTransformer.construct()
  errors.raise{kind = "unsupported", message = "FuncTransformer: a function of Python cannot run in the embedded "
    .. "service", hint = "change the features before the call, or use a River server"}
end

return {
  Select = Select, Discard = Discard, SelectType = SelectType, Prefixer = Prefixer, Suffixer = Suffixer,
  Renamer = Renamer, Grouper = Grouper, FuncTransformer = FuncTransformer,
}
