--- Online machine learning on a River server, or in this process.
--
--     local river = require "river"
--     local cli <close> = river.Client("http://127.0.0.1:8000")
--     local model = river.preprocessing.StandardScaler() | river.linear_model.LinearRegression{l2 = 0.1}
--     local name = cli:upload_model(model, "regression")
--     cli:learn(name, {age = 3, rooms = 2}, 410.5)
--     print(cli:predict(name, {age = 4, rooms = 2}).prediction)
--
-- `river.datasets`, `river.evaluate`, `river.pickle` and `river.local_model` are riverlua's own; every other field is a
-- module of the Python library: `river.linear_model.LinearRegression`.

local errors = require "riverlua.errors"
local model = require "river.model"

local river = {
  none = model.none,
  list = model.list,
  tuple = model.tuple,
  set = model.set,
  dict = model.dict,
  ref = model.ref,
  class = model.class,
  with_score_as_prediction = model.with_score_as_prediction,
}

--- Makes a client, see `river.client`.
function river.Client(baseurl, options)
  return require("river.client").new(baseurl, options)
end

-- Modules of our own, loaded when they are asked for.
local OWN = {datasets = "river.datasets", evaluate = "river.evaluate", pickle = "river.pickle"}

--- Reads a downloaded model and scores it here, see `river.local_model`.
function river.local_model(source)
  return require("river.local_model").new(source)
end

local ROOT = "river"

local function no_such_name(name, near)
  errors.raise{kind = "argument", message = ("the module 'river' has no '%s'"):format(name),
    hint = near and ("did you mean river.%s?"):format(near)
      or "classes live in modules: river.linear_model.LinearRegression"}
end

local function class_elsewhere(name)
  local module = require("river.catalog").classes()[name]
  return module and module:sub(#ROOT + 2) .. "." .. name
end

local api = {Client = true}
for name in pairs(river) do api[name] = true end
for name in pairs(OWN) do api[name] = true end

-- Modules appear when they are asked for; a name close to a known one is taken for a typing error.
local function lookup(self, name)
  if type(name) ~= "string" or name:find("^_") then return nil end
  if OWN[name] then
    local own = require(OWN[name])
    rawset(self, name, own)
    return own
  end
  local catalog = require "river.catalog"
  if not catalog.has_module(ROOT .. "." .. name) then
    local near = errors.suggest(name, api) or errors.suggest(name, catalog.members(ROOT)) or class_elsewhere(name)
    if near or not name:find("^%l[%w_]*$") then no_such_name(name, near) end
  end
  local module = model.module(ROOT .. "." .. name)
  rawset(self, name, module)
  return module
end

local function list(self)
  local members = {}
  for name in pairs(require("river.catalog").members(ROOT)) do members[name] = self[name] end
  for name in pairs(OWN) do members[name] = self[name] end
  for name, value in next, self do members[name] = value end
  return next, members, nil
end

-- For completion at the prompt.
local function names()
  local all = {}
  for name in pairs(require("river.catalog").members(ROOT)) do all[#all + 1] = name end
  for name in next, river do all[#all + 1] = name end
  for name in pairs(OWN) do
    if rawget(river, name) == nil then all[#all + 1] = name end
  end
  return all
end

return setmetatable(river, {__index = lookup, __pairs = list, __names = names})
