--- Scalers. The numbers of those that learn are kept and changed in src/river_scale.c.

local core = require "riverlua.core.river"
local python = require "river.embedded.python"
local registry = require "river.embedded.registry"
local stage = require "river.embedded.stage"

local None = python.None

-- ------------------------------------------------------------------------------------------------------- common

local Scaler = {save = stage.save, load = stage.load}

function Scaler:init()
  self:open()
  self:revive()
end

function Scaler:revive() self.out = {} end

function Scaler:open()
  local window = self.window_size
  if window == None then window = nil end
  if window and window < 0 then python.raise("ValueError", "maxlen must be non-negative") end
  self.kernel = core.scaler(self.kernel_kind, self, window)
end

--- A scaler alone takes no target.
function Scaler:check_target(y)
  python.takes_no_target(self.name, y)
end

--- What `riverlua.core.river.pipeline` takes as a stage; nil for a scaler with a window, which may refuse a sample.
---@return userdata|nil
function Scaler:fusible()
  if self.window_size ~= nil and self.window_size ~= None then return nil end
  return self.kernel
end

local function check(kind, text)
  if kind then python.raise(kind, "%s", text) end
end

---@param row river.embedded.Row
function Scaler:learn_one(row)
  if row.other then self:refuse(row[row.other], true) end
  check(self.kernel:learn(row, row.keys))
end

---@param row river.embedded.Row
---@return river.embedded.Row valid until the next call
function Scaler:transform_one(row)
  if row.other then self:refuse(row[row.other], false) end
  local keys, out = row.keys, self.out
  check(self.kernel:transform(row, keys, out))
  out.keys = keys
  return out
end

-- Python's words for a value that is no number, when it learns or when it transforms.
local function cannot_subtract(_, value)
  python.raise("TypeError", "unsupported operand type(s) for -: '%s' and 'float'", python.type_name(value))
end

local WINDOW = {"window_size", None, kind = "integer", optional = true}

-- `kernel_kind`: the name that the kernel knows.
local function define(name, kernel_kind, params, extra)
  local class = registry.class{class = "river.preprocessing." .. name, role = "estimator", transformer = true,
    supervised = false, params = params, kernel_kind = kernel_kind, transient = {"out"}}
  for method, body in pairs(Scaler) do class[method] = body end
  for method, body in pairs(extra) do class[method] = body end
  function class:load(saved)
    stage.load(self, saved)
    self:revive()
  end
  return class
end

-- {name, value} for every feature, for a dictionary whose values are made by `make(i)`.
local function default_dict(pickle, factory, names, make)
  local list = {}
  for i, name in ipairs(names) do list[i] = {name, make(i)} end
  return pickle.object("collections.defaultdict", {factory, pickle.dict(list)})
end

-- Calls `visit(place, value)` for the features of a dictionary; places are given out as names come.
local function read_dict(pickle, node, places, visit)
  for _, pair in ipairs(stage.dict_of(node)) do
    local name = pickle.name(pair[1])
    local place = places[name]
    if not place then
      place = #places + 1
      places[place], places[name] = name, place
    end
    visit(place, pair[2])
  end
end

-- --------------------------------------------------------------------------------------------- standard scaler

-- What a window holds, as the library's rolling wrapper around `class`.
local function rolling(self, values, class, attributes, pickle)
  local items = {}
  for i, value in ipairs(values) do items[i] = pickle.tuple{pickle.tuple{value}, pickle.dict{}} end
  return pickle.object("river.utils.Rolling", {pickle.reference(class)}, {
    kwargs = {{"window_size", self.window_size}},
    state = {
      {"obj", pickle.object(class, nil, {state = attributes})},
      {"window", pickle.object("collections.deque", {pickle.tuple(items), self.window_size})},
    },
  })
end

local function window_state(self, learned, pickle)
  local function factory(class, ...)
    return pickle.object("river.utils.Rolling", {pickle.reference(class)},
      {kwargs = {{"window_size", self.window_size}, ...}, partial = true})
  end
  local function mean_state(i)
    return {{"n", learned.windows[i].n}, {"_mean", learned[2][i]}}
  end
  local function mean_of(i)
    return rolling(self, learned.windows[i], "river.stats.Mean", mean_state(i), pickle)
  end
  local function var_of(i)
    return rolling(self, learned.windows[i], "river.stats.Var", {
      {"ddof", 0}, {"_S", learned.windows[i].s},
      {"mean", pickle.object("river.stats.Mean", nil, {state = mean_state(i)})},
    }, pickle)
  end
  return default_dict(pickle, factory("river.stats.Mean"), learned.names, mean_of),
    default_dict(pickle, factory("river.stats.Var", {"ddof", 0}), self.with_std and learned.names or {}, var_of)
end

local function standard_state(self, pickle)
  local learned, counts = self.kernel:get(), {}
  local means, vars
  for i, count in ipairs(learned[1]) do counts[i] = math.tointeger(count) end
  if learned.windows then
    means, vars = window_state(self, learned, pickle)
  else
    local number = pickle.reference("builtins.float")
    means = default_dict(pickle, number, learned.names, function(i) return learned[2][i] end)
    vars = default_dict(pickle, number, self.with_std and learned.names or {}, function(i) return learned[3][i] end)
  end
  return {
    {"counts", pickle.object("collections.Counter", {pickle.dict(stage.pairs(learned.names, counts))})},
    {"means", means}, {"vars", vars},
    -- The library takes a state without this attribute for one of an older version.
    {"window_size", self.window_size},
  }
end

local function restore_windows(pickle, state, places, saved)
  saved.windows = {}
  read_dict(pickle, state.means, places, function(i, mean)
    local window = {n = pickle.number(mean.state.obj.state.n), s = 0.0}
    for k, item in ipairs(stage.dict_of(mean.state.window)) do window[k] = pickle.number(item[1][1]) end
    saved.windows[i], saved[2][i] = window, pickle.number(mean.state.obj.state._mean)
  end)
  read_dict(pickle, state.vars, places, function(i, var)
    if saved.windows[i] then saved.windows[i].s = pickle.number(var.state.obj.state._S) end
  end)
end

local function standard_restore(self, state)
  if state.counts == nil then return end
  local pickle = require "river.embedded.pickle"
  local places, saved = {}, {{}, {}, {}, {}}
  read_dict(pickle, state.counts, places, function(i, count) saved[1][i] = pickle.number(count) end)
  if self.window_size ~= None then
    restore_windows(pickle, state, places, saved)
  else
    read_dict(pickle, state.means, places, function(i, mean) saved[2][i] = pickle.number(mean) end)
    read_dict(pickle, state.vars, places, function(i, var) saved[3][i] = pickle.number(var) end)
  end
  for i = 1, #places do   -- Python's dictionaries also hold what was only asked for
    for k = 1, 4 do saved[k][i] = saved[k][i] or 0.0 end
    if saved.windows then saved.windows[i] = saved.windows[i] or {n = 0.0, s = 0.0} end
  end
  saved.names = table.move(places, 1, #places, 1, {})
  self.kernel:set(saved)
end

local StandardScaler = define("StandardScaler", "standard", {{"with_std", true, kind = "boolean"}, WINDOW}, {
  refuse = cannot_subtract, state = standard_state, restore = standard_restore,
})

-- ------------------------------------------------------------------------------------ by the smallest and largest

-- `attributes`: the statistics that the library keeps, one per column.
local function extremes_state(self, pickle, attributes)
  local learned, list = self.kernel:get(), {{"window_size", self.window_size}}
  for k, attribute in ipairs(attributes) do
    local class = "river.stats." .. attribute.class
    list[#list + 1] = {attribute.name, default_dict(pickle, pickle.reference(class), learned.names, function(i)
      return pickle.object(class, nil, {state = {{attribute.name, learned[k][i]}}})
    end)}
  end
  return list
end

local function extremes_restore(self, state, attributes)
  if state[attributes[1].name] == nil then return end
  local pickle = require "river.embedded.pickle"
  local places, saved = {}, {}
  for k, attribute in ipairs(attributes) do
    local column = {}
    saved[k] = column
    read_dict(pickle, state[attribute.name], places, function(i, statistic)
      column[i] = pickle.number(statistic.state[attribute.name])
    end)
  end
  for k, attribute in ipairs(attributes) do
    for i = 1, #places do saved[k][i] = saved[k][i] or attribute.missing end
  end
  saved.names = table.move(places, 1, #places, 1, {})
  self.kernel:set(saved)
end

local function define_extremes(name, kernel_kind, attributes, refuse)
  return define(name, kernel_kind, {WINDOW}, {
    refuse = refuse,
    state = function(self, pickle) return extremes_state(self, pickle, attributes) end,
    restore = function(self, state)
      if self.window_size == None then return extremes_restore(self, state, attributes) end
      python.raise("NotImplementedError", "the windows of a %s cannot be read from a pickle", name)
    end,
    -- The library keeps sorted windows; these are saved as a snapshot.
    portable = function(self) return self.window_size == None end,
  })
end

local MinMaxScaler = define_extremes("MinMaxScaler", "min_max", {
  {name = "min", class = "Min", missing = math.huge},
  {name = "max", class = "Max", missing = -math.huge},
}, function(_, value, learning)
  if not learning then cannot_subtract(nil, value) end
  python.raise("TypeError", "'<' not supported between instances of '%s' and 'float'", python.type_name(value))
end)

local MaxAbsScaler = define_extremes("MaxAbsScaler", "max_abs", {
  {name = "abs_max", class = "AbsMax", missing = 0.0},
}, function(_, value, learning)
  if learning then python.raise("TypeError", "bad operand type for abs(): '%s'", python.type_name(value)) end
  python.raise("TypeError", "unsupported operand type(s) for /: '%s' and 'float'", python.type_name(value))
end)

-- ------------------------------------------------------------------------------------------------------- others

--- Its statistics cannot be pickled by the library itself: a download is a snapshot.
local AdaptiveStandardScaler = define("AdaptiveStandardScaler", "adaptive", {{"fading_factor", 0.3, kind = "number"}}, {
  refuse = function(_, value, learning)
    if not learning then cannot_subtract(nil, value) end
    python.raise("TypeError", "must be real number, not %s", python.type_name(value))
  end,
  learn_one = function(self, row)
    if not (self.fading_factor >= 0 and self.fading_factor <= 1) then
      python.raise("ValueError", "q is not comprised between 0 and 1")
    end
    Scaler.learn_one(self, row)
  end,
  fusible = function(self)
    return self.fading_factor >= 0 and self.fading_factor <= 1 and self.kernel or nil
  end,
})

-- A transformer that makes one value out of each.
local function define_plain(name, params, methods)
  local class = registry.class{class = "river.preprocessing." .. name, role = "estimator", transformer = true,
    supervised = false, params = params, transient = {"out"}}
  class.check_target, class.revive, class.init = Scaler.check_target, Scaler.revive, Scaler.revive
  for method, body in pairs(methods) do class[method] = body end
  return class
end

local function nothing() end

local Binarizer = define_plain("Binarizer", {{"threshold", 0.0, kind = "number"}}, {
  learn_one = nothing, restore = nothing, stateless = true,
  --- Booleans are 1 and 0; what is no number passes.
  transform_one = function(self, row)
    local keys, out = row.keys, self.out
    for i = 1, keys.n do
      local value = row[i]
      if type(value) == "number" then value = value > self.threshold and 1 or 0 end
      out[i] = value
    end
    out.keys, out.other = keys, row.other
    return out
  end,
})

-- The norm of a row's values.
local function norm(row, order)
  local sum, largest = 0.0, 0.0
  for i = 1, row.keys.n do
    local size = math.abs(row[i] + 0.0)
    largest = math.max(largest, size)
    if order == 2 then sum = sum + size * size elseif order ~= math.huge then sum = sum + size ^ order end
  end
  if order == math.huge then return largest end
  return order == 2 and math.sqrt(sum) or sum ^ (1 / order)
end

--- The norm is NumPy's, which adds in blocks: it is equal to some units in the last place.
local Normalizer = define_plain("Normalizer", {{"order", 2, kind = "number"}}, {
  learn_one = nothing, restore = nothing, stateless = true,
  transform_one = function(self, row)
    if row.other then
      local value = row[row.other]
      if type(value) == "string" then
        python.raise("ValueError", "could not convert string to float: np.str_(%s)", python.quote(value))
      end
      local kind = python.type_name(value)
      python.raise("TypeError", "unsupported operand type(s) for *: '%s' and '%s'", kind, kind)
    end
    local keys, out, size = row.keys, self.out, norm(row, self.order)
    if size == 0 and keys.n > 0 then python.raise("ZeroDivisionError", "float division by zero") end
    for i = 1, keys.n do out[i] = row[i] / size end
    out.keys = keys
    return out
  end,
})

local function new_stat(q) return require("river.embedded.stats").quantile(q) end

local RobustScaler = define_plain("RobustScaler", {
  {"with_centering", true, kind = "boolean"}, {"with_scaling", true, kind = "boolean"},
  {"q_inf", 0.25, kind = "number"}, {"q_sup", 0.75, kind = "number"},
}, {
  init = function(self)
    self.features = {}
    self:revive()
  end,
  learn_one = function(self, row)
    if row.other then
      python.raise("TypeError", "must be real number, not %s", python.type_name(row[row.other]))
    end
    for i = 1, row.keys.n do
      local name, x = row.keys[i], row[i] + 0.0
      local feature = self.features[name]
      if not feature then
        if self.with_scaling and self.q_inf >= self.q_sup then
          python.raise("ValueError", "q_inf must be strictly less than q_sup")
        end
        feature = {median = new_stat(0.5), low = new_stat(self.q_inf), high = new_stat(self.q_sup)}
        self.features[name] = feature
      end
      if self.with_centering then feature.median:update(x) end
      if self.with_scaling then
        feature.low:update(x)
        feature.high:update(x)
      end
    end
  end,
  transform_one = function(self, row)
    local keys, out, other = row.keys, self.out, nil
    for i = 1, keys.n do
      local value, feature = row[i], self.features[keys[i]]
      if type(value) ~= "number" and (feature or not self.with_scaling) then
        if feature then cannot_subtract(nil, value) end
        other = other or i
      elseif feature and self.with_centering then
        value = value - feature.median:get()
      end
      if self.with_scaling then
        local range = feature and feature.high:get() - feature.low:get() or 0
        value = range ~= 0 and value / range or 0.0
      end
      out[i] = value
    end
    out.keys, out.other = keys, other
    return out
  end,
})

return {StandardScaler = StandardScaler, MinMaxScaler = MinMaxScaler, MaxAbsScaler = MaxAbsScaler,
  AdaptiveStandardScaler = AdaptiveStandardScaler, Binarizer = Binarizer, Normalizer = Normalizer,
  RobustScaler = RobustScaler}
