--- The classes of the embedded service: name → constructor, and the one table of parameters per class from which both
-- the check of a model description and the model as JSON come.

local python = require "river.embedded.python"
local errors = require "riverlua.errors"
local model = require "river.model"

local registry = {}

-- Full class name → class table.
local classes = {}

-- Name → metatable of the objects that estimators keep inside: tree nodes, detectors and the like.
local helpers = {}

-- The files that define the classes of a package; loaded when one of its names is asked for.
local PACKAGES = {
  anomaly = {"anomaly", "anomaly_density"}, cluster = {"cluster", "cluster_density"},
  compose = {"compose", "selectors"}, drift = {"drift"},
  ensemble = {"ensemble"}, feature_extraction = {"feature_extraction"}, feature_selection = {"feature_selection"},
  forest = {"forest"}, linear_model = {"linear_model", "passive_aggressive", "perceptron", "alma", "softmax"},
  metrics = {"metrics", "metrics_clustering", "metrics_curves", "metrics_report"},
  multiclass = {"multiclass"}, naive_bayes = {"naive_bayes"},
  neighbors = {"neighbors"}, optim = {"optim", "losses"}, preprocessing = {"preprocessing", "encoders"},
  stats = {"stats", "mode"}, tree = {"hoeffding_tree", "hoeffding_adaptive", "hoeffding_efdt"},
}

---@class river.embedded.Parameter
---@field [1] string name
---@field [2] any default: a scalar or `python.None`
---@field kind string "boolean", "integer", "number", "string", "list" (also of a tuple or set: an array), "dict" (an
--- array of pairs), "reference" ({name=}), or a role such as "optimizer"; "a|b" allows both
---@field optional boolean|nil Python's None is allowed
---@field make string|nil None (the default) stands for an instance of this class
---@field wrap string|nil a number stands for an instance of this class made with it
---@field required boolean|nil there is no default

local Instance = {}
Instance.__index = Instance

--- Declares a class.
---@param spec table `class` (full dotted name), `role` ("estimator", "optimizer" …), `params`; others are copied
---@return table class its methods are to be added; `class.init(self)` runs after the parameters were bound
function registry.class(spec)
  local class = setmetatable({}, Instance)
  for key, value in pairs(spec) do class[key] = value end
  class.__index = class
  class.name = spec.class:match("[^.]+$")
  class.params = spec.params or {}
  classes[spec.class] = class
  return class
end

--- Names the metatable of objects that estimators keep inside, so that they can be saved and read back.
---@param name string unique and never changed: it is in saved models
---@param metatable table
---@return table metatable
function registry.helper(name, metatable)
  metatable.__index = metatable.__index or metatable
  metatable.helper_name = name
  helpers[name] = metatable
  return metatable
end

-- A package's files once, in the order of the list.
local function load_package(package_name)
  for _, file in ipairs(PACKAGES[package_name] or {}) do
    require("river.embedded." .. file)
  end
end

local function load_all()
  local packages = {}
  for package_name in pairs(PACKAGES) do packages[#packages + 1] = package_name end
  table.sort(packages)
  for _, package_name in ipairs(packages) do load_package(package_name) end
end

--- The metatable that `registry.helper` or `registry.class` named.
---@param name string
---@return table|nil
function registry.metatable(name)
  local known = helpers[name] or classes[name]
  if known then return known end
  local package_name = name:match("^river%.([^.]+)%.")
  if package_name then load_package(package_name) else load_all() end
  return helpers[name] or classes[name]
end

--- The full names of all classes of a role (of all when nil), sorted.
---@param role string|nil
---@return string[]
function registry.names(role)
  load_all()
  local names = {}
  for name, class in pairs(classes) do
    if not role or class.role == role then names[#names + 1] = name end
  end
  table.sort(names)
  return names
end

-- A model description that cannot be built.
local function refuse(text, ...)
  errors.raise{kind = "argument", message = text:format(...)}
end

--- The class of a name. Users name the package that offers a class, pickles the module that defines it:
--- "river.tree.HoeffdingTreeClassifier" and "river.tree.hoeffding_tree_classifier.HoeffdingTreeClassifier" are one.
---@param name string
---@return table|nil class
function registry.class_of(name)
  if classes[name] then return classes[name] end
  load_package(name:match("^river%.([^.]+)%.") or "")
  if classes[name] then return classes[name] end
  local start, last = name:match("^(river%..+)%.[^.]+(%.[^.]+)$")
  return start and registry.class_of(start .. last)
end

-- What to say about a class that is missing.
local function hint_for(name, role)
  local near = errors.suggest(name, registry.names())
  if near then return ("did you mean %s?"):format(near) end
  local module, last = name:match("^(.*)%.([^.]+)$")
  if role ~= "estimator" then return "it has " .. table.concat(registry.names(role), ", ") end
  local elsewhere = module and require("river.catalog").members(module)[last]
  return elsewhere and "a River server has it" or "require('river.embedded').classes() lists those there are"
end

-- One entry, spelled as the user spells it.
local function find(name, role)
  local class = registry.class_of(name)
  if class then return class end
  errors.raise{kind = "argument", message = ("the embedded service has no %s"):format(name),
    hint = hint_for(name, role)}
end

--- Tells whether a value describes the call of a class.
---@param value any
---@return boolean
function registry.is_node(value)
  return type(value) == "table" and type(rawget(value, "class")) == "string"
end

local is_node = registry.is_node

local function is_none(value)
  return value == python.None or value == model.none or type(value) == "userdata"
end

local function article(kind)
  local text = kind:gsub("|", " or "):gsub("estimator", "transformer or model")
  return (text:find("^[aeiou]") and "an " or "a ") .. text
end

local function describe_value(value)
  if is_node(value) then return value.class end
  if type(value) == "string" then return python.quote(value) end
  if type(value) == "table" then return "a table" end
  return python.str(value)
end

-- Items of a list or pairs of a dictionary, with the objects among them built.
local function built_items(value, built)
  local items = {}
  for i, item in ipairs(value) do
    if is_node(item) then
      items[i] = registry.build(item, built)
    elseif type(item) == "table" and not is_none(item) and getmetatable(item) ~= nil and model.kind(item) ~= "reference"
      or type(item) == "table" and item[1] ~= nil then
      items[i] = built_items(item, built)
    else
      items[i] = is_none(item) and python.None or item
    end
  end
  return items
end

-- The kinds of tables that are no objects.
local function bind_table(kind, value, built)
  local shape = model.kind(value) or getmetatable(value) == nil and "list"
  if shape == "tuple" or shape == "set" then shape = "list" end
  if shape == "list" and kind == "dict" and (value[1] == nil or type(value[1]) == "table") then shape = "dict" end
  if shape ~= kind then return nil end
  if shape == "reference" then return {name = value.name} end
  return built_items(value, built)
end

-- Turns one argument into the value that the instance holds.
local function bind_value(class, parameter, value, built)
  local kind = parameter.kind
  if is_none(value) then
    if parameter.make then return registry.build{class = parameter.make} end
    if parameter.optional then return python.None end
  elseif is_node(value) then
    for role in kind:gmatch("[^|]+") do
      if find(value.class, role).role == role then return registry.build(value, built) end
    end
  else
    local given = type(value)
    for role in kind:gmatch("[^|]+") do
      if role == given or (role == "integer" and math.type(value) == "integer") then
        -- A number where a schedule may stand is Python's shorthand for a constant one.
        if role == "number" and parameter.wrap then
          return registry.build{class = parameter.wrap, args = {value, n = 1}}
        end
        return value
      end
      local bound = given == "table" and bind_table(role, value, built)
      if bound then return bound end
    end
  end
  refuse("%s: %s must be %s, got %s", class.name, parameter[1], article(kind), describe_value(value))
end

-- Python's own words for arguments that do not fit.
local function check_arguments(class, args, kwargs)
  local params = class.params
  local count = args.n or #args
  if count > #params then
    refuse("TypeError: %s.__init__() takes %s positional argument%s but %d were given", class.name,
      #params == 0 and "1" or ("from 1 to %d"):format(#params + 1), #params == 0 and "" or "s", count + 1)
  end
  local known = {}
  for i, parameter in ipairs(params) do
    known[parameter[1]] = true
    if i <= count and kwargs[parameter[1]] ~= nil then
      refuse("TypeError: %s.__init__() got multiple values for argument '%s'", class.name, parameter[1])
    end
  end
  local names = {}
  for name in pairs(kwargs) do names[#names + 1] = tostring(name) end
  table.sort(names)
  for _, name in ipairs(names) do
    if not known[name] then
      local near = errors.suggest(name, known)
      refuse("TypeError: %s.__init__() got an unexpected keyword argument '%s'%s", class.name, name,
        near and ("; did you mean '" .. near .. "'?") or "")
    end
  end
end

-- The parameters of an instance, from arguments and defaults.
local function bind(class, instance, args, kwargs, built)
  check_arguments(class, args, kwargs)
  for i, parameter in ipairs(class.params) do
    local name = parameter[1]
    local value = args[i]
    if value == nil then value = kwargs[name] end
    if value == nil then
      if parameter.required then
        refuse("TypeError: %s.__init__() missing 1 required positional argument: '%s'", class.name, name)
      end
      value = parameter[2]
    end
    instance[name] = bind_value(class, parameter, value, built)
  end
end

--- Builds the object that a model description stands for.
---@param node table {class=, args=, kwargs=, state=}; with `state` (attribute → value) it is what it had become
---@param built table|nil objects already built: a node used twice is one object
---@return table instance
---Raises kind="argument" naming the classes there are, or what is wrong with an argument.
function registry.build(node, built)
  built = built or {}
  if built[node] then return built[node] end
  local class = find(node.class, "estimator")
  local instance = setmetatable({}, class)
  built[node] = instance
  local args, kwargs = node.args or {}, node.kwargs or {}
  if class.construct then
    class.construct(instance, args, kwargs, built)
  else
    bind(class, instance, args, kwargs, built)
    if class.init then class.init(instance) end
  end
  -- Methods under a second name, such as an anomaly detector's score as its prediction.
  if node.aliases then
    instance.aliases = {}
    for alias, method in pairs(node.aliases) do instance.aliases[alias] = method end
  end
  if node.state and class.restore then class.restore(instance, node.state) end
  return instance
end

--- Tells whether a value was built here.
---@param value any
---@return boolean
function registry.is_instance(value)
  local metatable = type(value) == "table" and getmetatable(value)
  return metatable ~= nil and metatable ~= false and classes[metatable.class] == metatable
end

local is_instance = registry.is_instance

--- A fresh object with the same parameters, as the library's `clone`: nothing of what was learned.
---@param instance table
---@param changes table|nil parameter → other value
---@return table
function registry.clone(instance, changes)
  local class = getmetatable(instance)
  if class.clone then return class.clone(instance, changes) end
  local copy = setmetatable({aliases = instance.aliases}, class)
  for _, parameter in ipairs(class.params) do
    local name = parameter[1]
    local value = instance[name]
    if changes and changes[name] ~= nil then value = changes[name] end
    copy[name] = is_instance(value) and registry.clone(value) or value
  end
  if class.init then class.init(copy) end
  return copy
end

-- The pair of class name and parameters that a nested object is in the JSON form.
local function nested(object, null)
  local pair = {object.name}
  local params = object:describe(null)
  if next(params) ~= nil then pair[2] = params end
  return pair
end

--- The parameters of an object in the shape in which a server answers "model as JSON".
---@param null any what stands for None
---@return table
function Instance:describe(null)
  local out = {}
  for _, parameter in ipairs(self.params) do
    local name = parameter[1]
    local value = self[name]
    if value == python.None then
      value = null
    elseif type(value) == "table" and value.describe then
      value = nested(value, null)
    end
    out[name] = value
  end
  return out
end

-- An argument as the pickle writer takes it; lists become tuples, which every class takes as well.
local function dump_value(pickle, value, kind)
  if type(value) ~= "table" or value == python.None then return value end
  if value.dump then return value:dump() end
  if value.name then return pickle.reference(value.name) end
  local items = {}
  for i, item in ipairs(value) do items[i] = dump_value(pickle, item) end
  return kind == "dict" and pickle.dict(items) or pickle.tuple(items)
end

--- The description of an object for `river.embedded.pickle`: its parameters as named arguments, and its state.
---@return table
function Instance:dump()
  local pickle = require "river.embedded.pickle"
  local kwargs = {}
  for i, parameter in ipairs(self.params) do
    local value = self[parameter[1]]
    kwargs[i] = {parameter[1], dump_value(pickle, value, parameter.kind)}
  end
  return pickle.object(self.class, nil, {kwargs = kwargs, state = self.state and self:state(pickle)})
end

-- Whether `test` holds for each object that this one is made of: parameters, objects in lists of them, steps.
local function all_parts(self, test)
  local function holds(value)
    if is_instance(value) then return test(value) end
    if type(value) ~= "table" or getmetatable(value) ~= nil then return true end
    for _, item in ipairs(value) do
      if is_instance(item) and not test(item) then return false end
    end
    return true
  end
  for _, parameter in ipairs(self.params) do
    if not holds(self[parameter[1]]) then return false end
  end
  return holds(self.steps)
end

--- Tells whether `dump` has all that was learned: estimators without `state` can only be saved as a snapshot.
---@return boolean
function Instance:portable()
  if self.role == "estimator" and self.state == nil and not self.stateless then return false end
  return all_parts(self, function(part) return part:portable() end)
end

--- Tells whether a prediction leaves the model as it is. `restless` classes draw numbers or move clusters for one.
---@return boolean
function Instance:is_quiet()
  return not self.restless and all_parts(self, Instance.is_quiet)
end

--- Python's hasattr, for the server's checks at upload.
---@param method string
---@return boolean
function Instance:has(method)
  return self[method] ~= nil or self.aliases ~= nil and self[self.aliases[method]] ~= nil
end

--- What an estimator of this name cannot do, in Python's words.
---@param method string
function Instance:lacks(method)
  python.raise("AttributeError", "'%s' object has no attribute '%s'", self.name, method)
end

return registry
