--- One validation under way: where it is in the value and in the schema, what was found, and what it may still cost.
--
-- Checks are functions `check(value, run, seen)` → boolean. While `run.problems` is nil they stop at the first thing
-- that is wrong; otherwise they go on and report. `seen` is nil, or collects what has been evaluated (for the
-- unevaluated keywords): `names` of members, `upto` so many elements, `places` of single elements.

local errors = require "riverlua.errors"
local uri = require "riverlua.schema.uri"
local values = require "riverlua.schema.values"

---@class riverlua.schema.Run
---@field problems table|nil
---@field most integer how many problems are kept
---@field path (string|integer)[] steps into the value
---@field where (string|integer)[] steps into the schema
---@field steps table<riverlua.schema.Problem, integer> how many steps its path has
---@field depth integer
---@field work integer
---@field max_work integer
---@field searches integer texts that were searched for a pattern
---@field begun number|nil processor time when the first was
---@field decoded boolean
---@field scope table[] resources entered, outermost first
local Run = {}
Run.__index = Run

-- Nested checks: each takes a handful of Lua's stack frames, of which there is room for a million slots.
local DEEPEST <const> = 6000

--- Seconds of processor time after which a validation with patterns is given up: each of many may take long.
Run.most_seconds = 10
-- Among short texts the clock is not looked at for each.
local SHORT_TEXT <const>, CLOCK_EVERY <const> = 64, 16

---@param options {most: integer, max_work: integer, decoded: boolean}
---@return riverlua.schema.Run
function Run.new(options)
  return setmetatable({most = options.most, max_work = options.max_work, decoded = options.decoded, path = {},
    where = {}, steps = {}, depth = 0, work = 0, searches = 0, scope = {}}, Run)
end

--- The JSON pointer made of steps.
---@param steps (string|integer)[]
---@return string
function Run.pointer(steps)
  local texts = {}
  for i, step in ipairs(steps) do texts[i] = "/" .. uri.pointer_step(step) end
  return table.concat(texts)
end

--- Counts steps of work; raises kind "limit" when there have been too many.
---@param count integer
function Run:spend(count)
  local work = self.work + count
  self.work = work
  if work > self.max_work then
    errors.raise{kind = "limit",
      message = ("schema: checking the value takes more than %d steps"):format(self.max_work),
      hint = "raise it with max_work"}
  end
end

--- Whether a text matches; what is not UTF-8 matches nothing. Raises kind "limit" when that, and all there was before,
--- has taken too long.
---@param compiled riverlua.Regex
---@param text string
---@return boolean
function Run:matches(compiled, text)
  local searches = self.searches + 1
  self.searches = searches
  if not self.begun then
    self.begun = os.clock()
  elseif (#text > SHORT_TEXT or searches % CLOCK_EVERY == 0) and os.clock() - self.begun > Run.most_seconds then
    errors.raise{kind = "limit", message = ("schema: checking the value with its patterns takes more than %g seconds")
      :format(Run.most_seconds), hint = "do the patterns have neighbouring repetitions of the same characters?"}
  end
  return utf8.len(text) ~= nil and compiled:test(text)
end

--- Goes a level deeper; raises kind "limit" when that is too deep.
function Run:descend()
  local depth = self.depth + 1
  self.depth = depth
  if depth > DEEPEST then
    local place = Run.pointer(self.path)
    errors.raise{kind = "limit", message = ("schema: checks are nested deeper than %d levels%s"):format(DEEPEST,
      place ~= "" and " at " .. place:sub(1, 200) or ""), hint = "does a $ref lead back to itself?"}
  end
end

function Run:ascend() self.depth = self.depth - 1 end

-- Puts the arguments into %s (text as it is) and %v (a value as messages show it).
local function compose(format, ...)
  local arguments, at = {...}, 0
  return (format:gsub("%%([sv])", function(how)
    at = at + 1
    if how == "v" then return values.show(arguments[at]) end
    return tostring(arguments[at])
  end))
end

--- Reports a problem, if problems are wanted. Always false, so that a check can end with it.
---@param keyword string
---@param format string with %s for text and %v for a value
---@return false
function Run:fail(keyword, format, ...)
  local problems = self.problems
  if problems and #problems < self.most then
    local path, schema_path = Run.pointer(self.path), Run.pointer(self.where) .. "/" .. uri.pointer_step(keyword)
    self:spend((#path + #schema_path) // 64)   -- names may be long
    local problem = {path = path, keyword = keyword, message = compose(format, ...), schema_path = schema_path}
    self.steps[problem] = #self.path
    problems[#problems + 1] = problem
  end
  return false
end

-- A step of work and a level deeper: what every nested check begins with.
local function enter(self)
  local work, depth = self.work + 1, self.depth + 1
  if work > self.max_work then self:spend(1) end
  if depth > DEEPEST then self:descend() end
  self.work, self.depth = work, depth
end

-- Runs a check with further steps into the value (step may be nil) and the schema.
local function run_reporting(self, check, value, seen, step, keyword, further)
  local path, where = self.path, self.where
  local depth_of_path, depth_of_where = #path, #where
  if step ~= nil then path[depth_of_path + 1] = step end
  where[depth_of_where + 1] = keyword
  if further ~= nil then where[depth_of_where + 2] = further end
  local ok = check(value, self, seen)
  path[depth_of_path + 1] = nil
  where[depth_of_where + 2] = nil
  where[depth_of_where + 1] = nil
  return ok
end

--- Checks a member or an element of the current value against a schema.
---@param check function
---@param value any
---@param step string|integer name, or place counted from 0
---@param keyword string of the schema that leads to the check
---@param further string|integer|nil and its member
---@return boolean
function Run:into(check, value, step, keyword, further)
  enter(self)
  local ok
  if self.problems then
    ok = run_reporting(self, check, value, nil, step, keyword, further)
  else
    ok = check(value, self)
  end
  self.depth = self.depth - 1
  return ok
end

--- Checks the current value against a schema inside the schema.
---@param check function
---@param value any
---@param seen table|nil
---@param keyword string
---@param further string|integer|nil
---@return boolean
function Run:apply(check, value, seen, keyword, further)
  enter(self)
  local ok
  if self.problems then
    ok = run_reporting(self, check, value, seen, nil, keyword, further)
  else
    ok = check(value, self, seen)
  end
  self.depth = self.depth - 1
  return ok
end

--- Like `apply`, with the problems kept apart: they are the second result, nil unless (more) problems are wanted.
---@return boolean
---@return table|nil problems
function Run:try(check, value, seen, keyword, further)
  local kept = self.problems
  local found = kept and #kept < self.most and {} or nil
  self.problems = found
  local ok = self:apply(check, value, seen, keyword, further)
  self.problems = kept
  return ok, found
end

--- Whether the value fits, without reporting.
---@return boolean
function Run:fits(check, value, seen)
  local kept = self.problems
  self.problems = nil
  enter(self)
  local ok = check(value, self, seen)
  self.depth = self.depth - 1
  self.problems = kept
  return ok
end

--- A fresh collection of what has been evaluated.
---@return table
function Run.nothing_seen() return {names = {}, places = {}, upto = 0, all_names = false} end

--- Adds what one collection holds to another.
---@param to table
---@param from table
function Run.merge_seen(to, from)
  for name in next, from.names do to.names[name] = true end
  for place in next, from.places do to.places[place] = true end
  to.upto = math.max(to.upto, from.upto)
  to.all_names = to.all_names or from.all_names
end

return Run
