--- What console metrics may be, and their definitions: which axis a metric is drawn over, and whether it is hidden.
--
-- Definitions are versions: each is the list of all patterns at a time, and an observation names the version that it
-- was logged under.

local errors = require "riverlua.errors"
local json = require "riverlua.json"

local metrics = {}

local LONGEST_NAME, MOST_PATTERNS, MOST_VALUES = 512, 1000, 1000
-- Names whose axes are kept at hand.
local MOST_REMEMBERED = 10000
local RESERVED = "_river/"
local BUILT_IN = {["_river/timestamp"] = true, ["_river/runtime"] = true}

--- Values that one call and one batch may hold.
metrics.MOST_VALUES = MOST_VALUES

local encode = json.encoder{sort = true}

local function fail(where, message, hint)
  errors.raise{kind = "argument", message = where .. ": " .. message, hint = hint}
end

local function shown(name) return #name > 60 and name:sub(1, 60) .. "…" or name end

local function check_name(where, what, name)
  if type(name) ~= "string" then
    fail(where, ("the name of a %s must be a string, got %s"):format(what, type(name)))
  end
  if #name < 1 or #name > LONGEST_NAME then
    fail(where, ("the name of a %s has 1 to %d bytes, not %d"):format(what, LONGEST_NAME, #name))
  end
  if not utf8.len(name) then fail(where, ("the name of a %s is not UTF-8"):format(what)) end
end

local function check_reserved(where, name)
  if name:sub(1, #RESERVED) == RESERVED then
    fail(where, ("'%s': names that begin with %s are the console's own"):format(shown(name), RESERVED))
  end
end

--- The values of an observation in JSON, and how many they are; raises kind "argument".
---@param where string
---@param values any
---@return string, integer
function metrics.encode_values(where, values)
  errors.expect(where, "values", values, "table")
  local count, floats = 0, {}
  for name, value in pairs(values) do
    check_name(where, "metric", name)
    check_reserved(where, name)
    if type(value) ~= "number" then
      fail(where, ("'%s' must be a number, got %s"):format(shown(name), type(value)))
    elseif value - value ~= 0 then
      fail(where, ("'%s' must be finite, got %s"):format(shown(name), value ~= value and "NaN" or tostring(value)))
    end
    count = count + 1
    floats[name] = value + 0.0
  end
  if count < 1 or count > MOST_VALUES then
    fail(where, ("1 to %d values are possible in one call, not %d"):format(MOST_VALUES, count))
  end
  return encode(floats), count
end

---@class training.console.Definitions
---@field version integer the newest version that somebody asked for; 0: none
local Definitions = {}
Definitions.__index = Definitions

--- No definitions yet.
---@return training.console.Definitions
function metrics.definitions()
  return setmetatable({patterns = {}, list = {}, axes = {}, known = 0, versions = {}, highest = 0, version = 0},
    Definitions)
end

local function read_definition(where, name, options)
  check_name(where, "definition", name)
  check_reserved(where, name)
  if name:find("*", 1, true) and name:find("*", 1, true) < #name then
    fail(where, ("'%s': the only place for a * is the end, as in train/*"):format(shown(name)))
  end
  options = options or {}
  errors.expect(where, "options", options, "table")
  errors.check_options(where, options, {step_metric = true, hidden = true})
  local step = options.step_metric
  if step ~= nil then
    check_name(where, "step metric", step)
    if not BUILT_IN[step] then check_reserved(where, step) end
    if step:find("*", 1, true) then fail(where, ("'%s': a step metric is no pattern"):format(shown(step))) end
  end
  errors.expect(where, "hidden", options.hidden, "boolean|nil")
  return step, options.hidden
end

--- Defines a metric, or all whose names begin with what stands before a `*`. What is not given stays as it was.
---@param where string
---@param name string
---@param options {step_metric: string|nil, hidden: boolean|nil}|nil
function Definitions:define(where, name, options)
  local step, hidden = read_definition(where, name, options)
  local pattern = self.patterns[name]
  if not pattern then
    if #self.list >= MOST_PATTERNS then
      fail(where, ("a run has at most %d definitions"):format(MOST_PATTERNS),
        "one pattern, such as train/*, is for many")
    end
    pattern = {name = name, step_metric = json.null, hidden = false}
    self.patterns[name] = pattern
    self.list[#self.list + 1] = pattern
    self.changed = true
  end
  if step ~= nil and step ~= pattern.step_metric then
    pattern.step_metric, self.changed = step, true
  end
  if hidden ~= nil and hidden ~= pattern.hidden then
    pattern.hidden, self.changed = hidden, true
  end
  if self.changed then
    self.changed = false
    self.highest = self.highest + 1
    self.axes, self.known = {}, 0
  end
end

--- The version of what is defined now; nil: nothing is defined.
---@return integer|nil
function Definitions:current()
  if self.version ~= self.highest then
    -- nothing refers to the one before, and nobody will ask for it
    local previous = self.versions[self.version]
    if previous and previous.users == 0 then self.versions[self.version] = nil end
    self.version = self.highest
    self.versions[self.version] = {users = 0, delivered = false, refused = false,
      json = ('{"version":%d,"metrics":%s}'):format(self.version, encode(json.array(table.move(self.list, 1,
        #self.list, 1, {}))))}
  end
  return self.version > 0 and self.version or nil
end

--- Counts observations that refer to a version, or (with a negative number) no longer do.
function Definitions:use(version, count)
  local entry = version and self.versions[version]
  if not entry then return end
  entry.users = entry.users + count
  if entry.users == 0 and version ~= self.version then self.versions[version] = nil end
end

--- A version's JSON, or nil when the console has it.
function Definitions:undelivered(version)
  local entry = version and self.versions[version]
  if entry and not entry.delivered then return entry.json end
end

--- The newest version's JSON when it is worth a message of its own.
function Definitions:pending()
  local version = self:current()
  local entry = version and self.versions[version]
  if entry and not entry.delivered and not entry.refused then return entry.json end
end

--- What became of versions that were sent: "delivered", or "refused" (then they go out only with observations).
---@param versions integer[]
---@param fate "delivered"|"refused"
function Definitions:sent(versions, fate)
  for _, version in ipairs(versions) do
    local entry = self.versions[version]
    if entry then entry[fate] = true end
  end
end

-- The axis of a metric: an exact definition's, else that of the longest pattern.
local function find_axis(self, name)
  local exact = self.patterns[name]
  if exact then return exact.step_metric end
  local best
  for _, pattern in ipairs(self.list) do
    local prefix = pattern.name:match("^(.*)%*$")
    if prefix and name:sub(1, #prefix) == prefix and (not best or #pattern.name > #best.name) then best = pattern end
  end
  return best and best.step_metric or json.null
end

--- A metric among the values whose axis is not among them, and that axis; or nil.
---@param values table<string, number>
---@return string|nil, string|nil
function Definitions:without_axis(values)
  if not self.list[1] then return nil end
  for name in pairs(values) do
    local axis = self.axes[name]
    if axis == nil then
      axis = find_axis(self, name)
      if self.known >= MOST_REMEMBERED then self.axes, self.known = {}, 0 end
      self.axes[name], self.known = axis, self.known + 1
    end
    if axis ~= json.null and not BUILT_IN[axis] and values[axis] == nil then return name, axis end
  end
end

return metrics
