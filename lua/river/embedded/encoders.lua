--- Encoders of texts and other categories, and imputers of missing values.

local key_sets = require "river.embedded.key_sets"
local label_book = require "river.embedded.label_book"
local python = require "river.embedded.python"
local registry = require "river.embedded.registry"

local None = python.None
local original = key_sets.original

local function unhashable(value)
  python.raise("TypeError", "unhashable type: '%s'", python.type_name(value))
end

-- The values that a feature stands for: a list is all of its entries, anything else is itself.
local function entries_of(value)
  if type(value) ~= "table" then return {value}, 1 end
  if python.type_name(value) == "dict" and next(value) ~= nil then unhashable(value) end
  for _, entry in ipairs(value) do
    if type(entry) == "table" then unhashable(entry) end
  end
  return value, #value
end

-- The parameters as JSON, with the categories as a map.
local function describe(self, null)
  local out = getmetatable(getmetatable(self)).describe(self, null)
  if self.categories ~= None then
    out.categories = {}
    for _, pair in ipairs(self.categories) do
      local values = pair[2]
      if self.codes_given then
        values = {}
        for _, item in ipairs(pair[2]) do values[python.str(item[1])] = item[2] end
      end
      out.categories[python.str(pair[1])] = values
    end
  end
  return out
end

-- A transformer alone takes no target.
local function check_target(self, y)
  python.takes_no_target(self.name, y)
end

-- ------------------------------------------------------------------------------------------------------- one-hot

--- One feature of 0 or 1 per category. Categories given as sets are taken in the order in which they are described
--- (the library's order of a set of texts changes from run to run).
local OneHotEncoder = registry.class{
  class = "river.preprocessing.OneHotEncoder", role = "estimator", transformer = true, supervised = false,
  transient = {"cache", "out", "base", "set"}, check_target = check_target, describe = describe,
  params = {
    {"categories", None, kind = "dict", optional = true}, {"drop_zeros", false, kind = "boolean"},
    {"drop_first", false, kind = "boolean"},
  },
}

-- `names`: the features of all known categories in the order in which they came; `values`: categories per feature.
function OneHotEncoder:init()
  self.names, self.known, self.values, self.features = {}, {}, {}, {}
  for _, pair in ipairs(self.categories ~= None and self.categories or {}) do
    local book = label_book.new()
    self.values[pair[1]], self.features[#self.features + 1] = book, pair[1]
    for _, value in ipairs(pair[2]) do
      label_book.add(book, value)
      if not self.drop_zeros then self:add_name(pair[1], value) end
    end
  end
  self:revive()
end

function OneHotEncoder:revive()
  self.cache, self.out, self.set = key_sets.new(), {}, {}
  self.base = nil
end

local function name_of(feature, value)
  return feature .. "_" .. python.str(value)
end

function OneHotEncoder:add_name(feature, value)
  local name = name_of(feature, value)
  if self.known[name] then return end
  self.names[#self.names + 1], self.known[name] = name, true
  self.base = nil
end

---@param row river.embedded.Row
function OneHotEncoder:learn_one(row)
  if self.drop_zeros or self.categories ~= None then return end
  local keys = row.keys
  for i = 1, keys.n do
    local feature = keys[i]
    local entries, count = entries_of(original(row, i))
    local book = self.values[feature]
    if not book then
      book = label_book.new()
      self.values[feature], self.features[#self.features + 1] = book, feature
    end
    for k = 1, count do
      local _, added = label_book.add(book, entries[k])
      if added then self:add_name(feature, entries[k]) end
    end
  end
end

-- The names of the features that are 1, in order.
local function active_names(self, row)
  local keys, names = row.keys, {}
  for i = 1, keys.n do
    local feature = keys[i]
    local book
    if self.categories ~= None then
      book = self.values[feature]
      if not book then python.raise("KeyError", feature) end
    end
    local entries, count = entries_of(original(row, i))
    for k = 1, count do
      if not book or label_book.find(book, entries[k]) then names[#names + 1] = name_of(feature, entries[k]) end
    end
  end
  return names
end

-- The keys object of names without the first one in alphabetical order.
local function without_first(self, names)
  if not self.drop_first then return key_sets.get(self.cache, names) end
  if #names == 0 then python.raise("ValueError", "min() arg is an empty sequence") end
  local first = names[1]
  for _, name in ipairs(names) do
    if name < first then first = name end
  end
  local rest = {}
  for _, name in ipairs(names) do
    if name ~= first then rest[#rest + 1] = name end
  end
  return key_sets.get(self.cache, rest)
end

-- Names of this row that are not among those always there.
local function new_names(self, active)
  local added, seen = {}, {}
  for _, name in ipairs(active) do
    if (self.drop_zeros or not self.known[name]) and not seen[name] then
      added[#added + 1], seen[name] = name, true
    end
  end
  return added
end

-- The keys of the result: all that is known, unless zeros are dropped, then what is new.
local function result_keys(self, active)
  local added = new_names(self, active)
  if #added == 0 and not self.drop_zeros then
    self.base = self.base or without_first(self, self.names)
    return self.base
  end
  local names = self.drop_zeros and {} or table.move(self.names, 1, #self.names, 1, {})
  table.move(added, 1, #added, #names + 1, names)
  return without_first(self, names)
end

---@param row river.embedded.Row
---@return river.embedded.Row valid until the next call
function OneHotEncoder:transform_one(row)
  local active, out, set = active_names(self, row), self.out, self.set
  local keys = result_keys(self, active)
  if out.keys ~= keys then
    for i = 1, keys.n do out[i] = 0 end
    out.keys = keys
  else
    for _, i in ipairs(set) do out[i] = 0 end
  end
  for k = #set, 1, -1 do set[k] = nil end
  local index = keys.index
  for _, name in ipairs(active) do
    local i = index[name]
    if i then
      out[i] = 1
      set[#set + 1] = i
    end
  end
  return out
end

function OneHotEncoder:state(pickle)
  if self.categories ~= None then return nil end
  local values, zeros = {}, {}
  for i, feature in ipairs(self.features) do
    local list = self.values[feature].list
    local items = pickle.tuple(table.move(list, 1, #list, 1, {}))
    values[i] = {feature, pickle.object("builtins.set", {items})}
  end
  for i, name in ipairs(self.names) do zeros[i] = {name, 0} end
  return {
    {"values", pickle.object("collections.defaultdict", {pickle.reference("builtins.set"), pickle.dict(values)})},
    {"_zero_dict", pickle.dict(zeros)},
  }
end

function OneHotEncoder:restore(state)
  if state.values == nil or self.categories ~= None then return end
  local pickle = require "river.embedded.pickle"
  for _, pair in ipairs(state.values.args[2] or {}) do
    local feature, book = pickle.name(pair[1]), label_book.new()
    self.values[feature], self.features[#self.features + 1] = book, feature
    for _, value in ipairs(pair[2].class and pair[2].args[1] or pair[2]) do label_book.add(book, value) end
  end
  for _, pair in ipairs(state._zero_dict) do
    self.names[#self.names + 1], self.known[pickle.name(pair[1])] = pair[1], true
  end
end

-- ------------------------------------------------------------------------------------------------------- ordinal

--- Every category as a whole number.
local OrdinalEncoder = registry.class{
  class = "river.preprocessing.OrdinalEncoder", role = "estimator", transformer = true, supervised = false,
  transient = {"out"}, check_target = check_target, describe = describe, codes_given = true,
  params = {
    {"categories", None, kind = "dict", optional = true}, {"unknown_value", 0, kind = "integer", optional = true},
    {"none_value", -1, kind = "integer"},
  },
}

local function new_codes() return {book = label_book.new(), codes = {}} end

local function set_code(codes, value, code)
  local place = label_book.add(codes.book, value)
  codes.codes[place] = code
end

function OrdinalEncoder:init()
  self.values, self.features, self.reserved = {}, {}, {}
  for _, pair in ipairs(self.categories ~= None and self.categories or {}) do
    local codes = new_codes()
    self.values[pair[1]] = codes
    for _, item in ipairs(pair[2]) do set_code(codes, item[1], item[2]) end
  end
  for _, value in ipairs{self.unknown_value, self.none_value} do
    if math.type(value) == "integer" and value >= 0 and value ~= self.reserved[1] then
      self.reserved[#self.reserved + 1] = value
    end
  end
  table.sort(self.reserved)
  self:revive()
end

function OrdinalEncoder:revive() self.out = {} end

local function is_none(value) return value == nil or type(value) == "userdata" end

local function next_code(self, codes)
  local code = codes.book.n
  for _, reserved in ipairs(self.reserved) do
    if reserved <= code then code = code + 1 end
  end
  return code
end

---@param row river.embedded.Row
function OrdinalEncoder:learn_one(row)
  if self.categories ~= None then return end
  local keys = row.keys
  for i = 1, keys.n do
    local value, feature = row[i], keys[i]
    if type(value) == "table" then unhashable(value) end
    if not is_none(value) then
      local codes = self.values[feature]
      if not codes then
        codes = new_codes()
        self.values[feature], self.features[#self.features + 1] = codes, feature
      end
      if not label_book.find(codes.book, value) then set_code(codes, original(row, i), next_code(self, codes)) end
    end
  end
end

local function code_of(self, feature, value)
  if is_none(value) then return self.none_value end
  if type(value) == "table" then unhashable(value) end
  local codes = self.values[feature]
  if not codes and self.categories ~= None then python.raise("KeyError", feature) end
  local place = codes and label_book.find(codes.book, value)
  if place then return codes.codes[place] end
  return self.unknown_value
end

---@param row river.embedded.Row
---@return river.embedded.Row valid until the next call
function OrdinalEncoder:transform_one(row)
  local keys, out = row.keys, self.out
  out.keys, out.other = keys, nil
  for i = 1, keys.n do
    local code = code_of(self, keys[i], row[i])
    if code == None then
      code, out.other = nil, out.other or i
    end
    out[i] = code
  end
  return out
end

function OrdinalEncoder:state(pickle)
  if self.categories ~= None then return nil end
  local values = {}
  for i, feature in ipairs(self.features) do
    local codes, list = self.values[feature], {}
    for place, value in ipairs(codes.book.list) do list[place] = {value, codes.codes[place]} end
    values[i] = {feature, pickle.dict(list)}
  end
  return {
    {"values", pickle.object("collections.defaultdict", {pickle.reference("builtins.dict"), pickle.dict(values)})},
  }
end

function OrdinalEncoder:restore(state)
  if state.values == nil or self.categories ~= None then return end
  local pickle = require "river.embedded.pickle"
  for _, pair in ipairs(state.values.args[2] or {}) do
    local feature, codes = pickle.name(pair[1]), new_codes()
    self.values[feature], self.features[#self.features + 1] = codes, feature
    for _, item in ipairs(pair[2]) do set_code(codes, item[1], pickle.number(item[2])) end
  end
end

-- ------------------------------------------------------------------------------------------------ missing values

-- A row with the same names and values of its own.
local function copy_of(self, row)
  local out, n = self.out, row.keys.n
  for i = 1, n do out[i] = row[i] end
  out.keys, out.source, out.other = row.keys, row.source, row.other
  return out, n
end

--- Puts the value seen last where one is missing.
local PreviousImputer = registry.class{
  class = "river.preprocessing.PreviousImputer", role = "estimator", transformer = true, supervised = false,
  transient = {"out"}, check_target = check_target,
}

function PreviousImputer:init()
  self.latest, self.names = {}, {}
  self:revive()
end

function PreviousImputer:revive() self.out = {} end

function PreviousImputer:learn_one(row)
  local keys = row.keys
  for i = 1, keys.n do
    if not is_none(row[i]) then
      local name = keys[i]
      if self.latest[name] == nil then self.names[#self.names + 1] = name end
      self.latest[name] = original(row, i)
    end
  end
end

-- As rows hold it.
local function held(value)
  if value == true then return 1 elseif value == false then return 0 end
  return value
end

function PreviousImputer:transform_one(row)
  if not row.other then return row end
  local out, n = copy_of(self, row)
  for i = 1, n do
    if is_none(out[i]) then out[i] = held(self.latest[row.keys[i]]) end
  end
  out.other = key_sets.first_other(out, n)
  return out
end

function PreviousImputer:state(pickle)
  local list = {}
  for i, name in ipairs(self.names) do
    local value = self.latest[name]
    -- nested values have no notation of their own in a pickle of ours
    if type(value) == "table" then value = None end
    list[i] = {name, value}
  end
  return {{"_latest", pickle.dict(list)}}
end

function PreviousImputer:restore(state)
  for _, pair in ipairs(state._latest or {}) do
    if pair[2] ~= None then
      self.names[#self.names + 1] = require("river.embedded.pickle").name(pair[1])
      self.latest[pair[1]] = pair[2]
    end
  end
end

--- Puts a running statistic of the feature, or a constant, where a value is missing.
local StatImputer = registry.class{
  class = "river.preprocessing.StatImputer", role = "estimator", transformer = true, supervised = false,
  transient = {"out"}, check_target = check_target,
}

local function refuse(text, ...)
  require("riverlua.errors").raise{kind = "argument", message = text:format(...)}
end

function StatImputer:construct(args, kwargs, built)
  local unknown = next(kwargs)
  if unknown then
    refuse("TypeError: StatImputer.__init__() got an unexpected keyword argument '%s'", tostring(unknown))
  end
  self.imputers = {}
  for i = 1, args.n or #args do
    local pair = args[i]
    if type(pair) ~= "table" or registry.is_node(pair) or type(pair[1]) ~= "string" then
      refuse("StatImputer: an imputer is a pair of a feature's name and a statistic or value")
    end
    local value = pair[2]
    if registry.is_node(value) then
      value = registry.build(value, built)
      if not value.update or not value.get then refuse("StatImputer: %s is no statistic", value.name) end
    end
    self.imputers[i] = {pair[1], value}
  end
  self:revive()
end

function StatImputer:revive() self.out = {} end

function StatImputer:clone()
  local copy = setmetatable({imputers = {}}, StatImputer)
  for i, pair in ipairs(self.imputers) do
    copy.imputers[i] = {pair[1], type(pair[2]) == "table" and pair[2].get and registry.clone(pair[2]) or pair[2]}
  end
  copy:revive()
  return copy
end

function StatImputer:describe(null)
  local list = {}
  for i, pair in ipairs(self.imputers) do
    local value = pair[2]
    if value == None then value = null elseif type(value) == "table" then value = value.name end
    list[i] = {pair[1], value}
  end
  return {_POSITIONAL_ARGS = list}
end

local function position(row, name)
  local i = row.keys.index[name]
  if not i then python.raise("KeyError", name) end
  return i
end

function StatImputer:learn_one(row)
  for _, pair in ipairs(self.imputers) do
    local value = row[position(row, pair[1])]
    local statistic = pair[2]
    if type(statistic) == "table" and statistic.update and not is_none(value) then
      if type(value) ~= "number" and not statistic.takes_any then
        python.raise("TypeError", "unsupported operand type(s) for -: '%s' and 'float'", python.type_name(value))
      end
      statistic:update(statistic.takes_any and original(row, position(row, pair[1])) or value)
    end
  end
end

function StatImputer:transform_one(row)
  local out, n = copy_of(self, row)
  for _, pair in ipairs(self.imputers) do
    local i = position(row, pair[1])
    if is_none(out[i]) then
      local value = pair[2]
      if type(value) == "table" and value.get then value = value:get() end
      out[i] = held(value ~= None and value or nil)
    end
  end
  out.other = key_sets.first_other(out, n)
  return out
end

return {
  OneHotEncoder = OneHotEncoder, OrdinalEncoder = OrdinalEncoder, PreviousImputer = PreviousImputer,
  StatImputer = StatImputer,
}
