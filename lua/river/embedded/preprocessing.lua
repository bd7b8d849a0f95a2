--- Scalers.

local python = require "river.embedded.python"
local registry = require "river.embedded.registry"

local None = python.None

local StandardScaler = registry.class{
  class = "river.preprocessing.StandardScaler", role = "estimator", transformer = true, supervised = false,
  params = {
    {"with_std", true, kind = "boolean"},
    {"window_size", None, kind = "integer", optional = true},
  },
}

-- State is kept in arrays, one place ("slot") per feature name; `plan` says where the features of `plan_keys` are.
function StandardScaler:init()
  self.slot_of, self.slots = {}, 0
  self.counts, self.means, self.vars, self.stds = {}, {}, {}, {}
  self.plan, self.plan_keys = {}, nil
  self.out = {}
  if self.window_size ~= None then
    if self.window_size < 0 then python.raise("ValueError", "maxlen must be non-negative") end
    self.windows = {}
  end
end

-- Where the features of `keys` are; `nil` entries for those never learned from.
local function look_up(self, keys)
  local plan, complete = {}, true
  for i = 1, keys.n do
    plan[i] = self.slot_of[keys[i]] or false
    complete = complete and plan[i]
  end
  if complete then self.plan, self.plan_keys = plan, keys end
  return plan
end

-- The same, making room for new features.
local function make_room(self, keys)
  for i = 1, keys.n do
    local name = keys[i]
    if not self.slot_of[name] then
      local slot = self.slots + 1
      self.slots, self.slot_of[name] = slot, slot
      self.counts[slot], self.means[slot], self.vars[slot], self.stds[slot] = 0, 0.0, 0.0, 0.0
      if self.windows then self.windows[slot] = {first = 1, last = 0, n = 0.0, s = 0.0} end
    end
  end
  return look_up(self, keys)
end

-- One value enters a sliding window, the oldest leaves a full one. Operations in the library's order.
local function slide(self, slot, x)
  local window, mean = self.windows[slot], self.means[slot]
  local n, s = window.n, window.s
  if window.last - window.first + 1 >= self.window_size then
    if window.last < window.first then python.raise("IndexError", "deque index out of range") end
    local old, before = window[window.first], mean
    window[window.first], window.first = nil, window.first + 1
    n = n - 1.0
    if n < 0 then python.raise("ValueError", "Cannot go below 0") end
    if n == 0 then mean = 0.0 else mean = mean - (1.0 / n) * (old - mean) end
    s = s - (old - before) * (old - mean)
  end
  local before = mean
  n = n + 1.0
  mean = mean + (1.0 / n) * (x - mean)
  s = s + (x - before) * (x - mean)
  window.last = window.last + 1
  window[window.last] = x
  window.n, window.s = n, s
  self.means[slot] = mean
  if self.with_std then
    local var = n > 0 and s / n or 0.0
    self.vars[slot], self.stds[slot] = var, var ^ 0.5
  end
end

local function refuse(row)
  python.raise("TypeError", "unsupported operand type(s) for -: '%s' and 'float'", python.type_name(row[row.other]))
end

--- A scaler alone takes no target.
function StandardScaler.check_target(_, y)
  if y ~= nil then
    python.raise("TypeError", "StandardScaler.learn_one() got an unexpected keyword argument 'y'")
  end
end

---@param row river.embedded.Row
function StandardScaler:learn_one(row)
  if row.other then refuse(row) end
  local keys = row.keys
  local plan = self.plan_keys == keys and self.plan or make_room(self, keys)
  local counts, means = self.counts, self.means
  if self.windows then
    for i = 1, keys.n do
      local slot = plan[i]
      counts[slot] = counts[slot] + 1
      slide(self, slot, row[i])
    end
  elseif self.with_std then
    local vars, stds = self.vars, self.stds
    for i = 1, keys.n do
      local slot, x = plan[i], row[i]
      local count, before, var = counts[slot] + 1, means[slot], vars[slot]
      local delta = x - before
      local mean = before + delta / count
      var = var + (delta * (x - mean) - var) / count
      counts[slot], means[slot], vars[slot] = count, mean, var
      -- Taken once here instead of at every transformation; a power, not sqrt, for the library's last bit.
      stds[slot] = var ^ 0.5
    end
  else
    for i = 1, keys.n do
      local slot = plan[i]
      local count, mean = counts[slot] + 1, means[slot]
      counts[slot], means[slot] = count, mean + (row[i] - mean) / count
    end
  end
end

---@param row river.embedded.Row
---@return river.embedded.Row valid until the next call
function StandardScaler:transform_one(row)
  if row.other then refuse(row) end
  local keys, out = row.keys, self.out
  local plan = self.plan_keys == keys and self.plan or look_up(self, keys)
  local means = self.means
  if self.with_std then
    local vars, stds = self.vars, self.stds
    for i = 1, keys.n do
      local slot = plan[i]
      if slot and vars[slot] ~= 0 then
        -- Rounding may leave a window with a variance below zero; the library then gets a complex number.
        if vars[slot] < 0 then python.raise("TypeError", "VectorDict values must be real numbers") end
        out[i] = (row[i] - means[slot]) / stds[slot]
      else
        out[i] = 0.0
      end
    end
  else
    for i = 1, keys.n do
      local slot = plan[i]
      out[i] = row[i] - (slot and means[slot] or 0.0)
    end
  end
  out.keys = keys
  return out
end

local function state_pairs(self, values)
  local list = {}
  for name, slot in pairs(self.slot_of) do
    list[slot] = {name, type(values) == "table" and values[slot] or values(slot)}
  end
  return list
end

-- What a window holds, as the library's rolling wrapper around `class`.
local function rolling(self, slot, class, attributes, pickle)
  local window, items = self.windows[slot], {}
  for i = window.first, window.last do
    items[#items + 1] = pickle.tuple{pickle.tuple{window[i]}, pickle.dict{}}
  end
  return pickle.object("river.utils.Rolling", {pickle.reference(class)}, {
    kwargs = {{"window_size", self.window_size}},
    state = {
      {"obj", pickle.object(class, nil, {state = attributes})},
      {"window", pickle.object("collections.deque", {pickle.tuple(items), self.window_size})},
    },
  })
end

local function window_state(self, pickle)
  local function factory(class, ...)
    return pickle.object("river.utils.Rolling", {pickle.reference(class)},
      {kwargs = {{"window_size", self.window_size}, ...}, partial = true})
  end
  local function default_dict(make, values)
    return pickle.object("collections.defaultdict", {make, pickle.dict(values and state_pairs(self, values) or {})})
  end
  local function mean_state(slot)
    return {{"n", self.windows[slot].n}, {"_mean", self.means[slot]}}
  end
  local function mean_of(slot) return rolling(self, slot, "river.stats.Mean", mean_state(slot), pickle) end
  local function var_of(slot)
    return rolling(self, slot, "river.stats.Var", {
      {"ddof", 0}, {"_S", self.windows[slot].s},
      {"mean", pickle.object("river.stats.Mean", nil, {state = mean_state(slot)})},
    }, pickle)
  end
  return default_dict(factory("river.stats.Mean"), mean_of),
    default_dict(factory("river.stats.Var", {"ddof", 0}), self.with_std and var_of)
end

function StandardScaler:state(pickle)
  local means, vars
  if self.windows then
    means, vars = window_state(self, pickle)
  else
    local number = pickle.reference("builtins.float")
    means = pickle.object("collections.defaultdict", {number, pickle.dict(state_pairs(self, self.means))})
    local list = self.with_std and state_pairs(self, self.vars) or {}
    vars = pickle.object("collections.defaultdict", {number, pickle.dict(list)})
  end
  return {
    {"counts", pickle.object("collections.Counter", {pickle.dict(state_pairs(self, self.counts))})},
    {"means", means}, {"vars", vars},
    -- The library takes a state without this attribute for one of an older version.
    {"window_size", self.window_size},
  }
end

local function restore_window(self, slot, mean, var, number)
  local state = mean.state
  local window = {first = 1, last = 0, n = number(state.obj.state.n), s = var and number(var.state.obj.state._S) or 0.0}
  for i, item in ipairs(state.window.args[1]) do window[i], window.last = number(item[1][1]), i end
  self.windows[slot], self.means[slot] = window, number(state.obj.state._mean)
  self.vars[slot] = window.n > 0 and window.s / window.n or 0.0
end

function StandardScaler:restore(state)
  local pickle = require "river.embedded.pickle"
  local number = pickle.number
  local means, vars = {}, {}
  for _, pair in ipairs(state.means.args[2]) do means[pair[1]] = pair[2] end
  for _, pair in ipairs(state.vars.args[2]) do vars[pair[1]] = pair[2] end
  for slot, pair in ipairs(state.counts.args[1]) do
    local name = pickle.name(pair[1])
    self.slots, self.slot_of[name], self.counts[slot] = slot, slot, number(pair[2])
    if self.windows then
      restore_window(self, slot, means[name], vars[name], number)
    else
      self.means[slot], self.vars[slot] = number(means[name]), number(vars[name] or 0.0)
    end
    self.stds[slot] = self.vars[slot] ^ 0.5
  end
end

return {StandardScaler = StandardScaler}
