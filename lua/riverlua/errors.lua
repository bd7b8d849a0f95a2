--- Structured errors: every failed call of riverlua raises one of these tables.
--
--     local ok, err = pcall(cli.learn, cli, "nope", {a = 1}, 2)
--     if not ok and errors.is(err, "not_found") then … end

local errors = {}

---@class riverlua.Error
---@field kind string what failed: "argument" (the call), "dns", "connect", "tls", "timeout", "protocol" (garbage came),
--- "http" (a status of 400 or above), "websocket", "not_found", "auth", "model" (the model raised), "limit" (a size),
--- "memory", "json", "storage" (a folder), "replay" (a request that was not recorded), "cancelled", "interrupted",
--- "closed", "deadlock", "unsupported"; clients have more of their own: see modelriver.failure
---@field message string one line saying what happened
---@field hint string|nil one line saying what to do about it
---@field status integer|nil HTTP status
---@field code integer|string|nil the service's own code
---@field phase string|nil for timeouts: "connect", "first_byte", "idle" or "total"
---@field retryable boolean|nil whether the same call may succeed later
---@field retry_after number|nil seconds the server asked to wait
---@field request_id string|nil
---@field method string|nil
---@field url string|nil without user information or secrets
---@field body string|nil first 4 KB of the answer
---@field attempts integer|nil how often it was tried
---@field sent boolean|nil when no answer came: whether the server may have acted on the request
---@field cause any the error underneath
local Error = {}
Error.__index = Error
Error.__name = "riverlua.Error"

function Error.__tostring(self)
  local text = tostring(self.kind) .. ": " .. tostring(self.message)
  if self.hint then text = text .. " (hint: " .. self.hint .. ")" end
  return text
end

--- Makes an error value without raising it.
---@param fields table at least `kind` and `message`
---@return riverlua.Error
function errors.new(fields)
  return setmetatable(fields, Error)
end

--- Raises an error made of `fields`.
---@param fields table at least `kind` and `message`
function errors.raise(fields)
  error(errors.new(fields), 0)
end

--- Tells whether `value` is a riverlua error (of the given kind).
---@param value any
---@param kind string|nil
---@return boolean
function errors.is(value, kind)
  return getmetatable(value) == Error and (kind == nil or value.kind == kind)
end

-- Optimal string alignment distance, given up above `limit`.
local function distance(a, b, limit)
  if math.abs(#a - #b) > limit then return limit + 1 end
  local before, previous, current = {}, {}, {}
  for j = 0, #b do previous[j] = j end
  for i = 1, #a do
    current[0] = i
    local ca = a:byte(i)
    for j = 1, #b do
      local cb = b:byte(j)
      local best = math.min(previous[j] + 1, current[j - 1] + 1, previous[j - 1] + (ca == cb and 0 or 1))
      if i > 1 and j > 1 and ca == b:byte(j - 1) and cb == a:byte(i - 1) then
        best = math.min(best, before[j - 2] + 1)
      end
      current[j] = best
    end
    before, previous, current = previous, current, before
  end
  return previous[#b]
end

-- Whether one is the other and more words: "predict" and "predict_one".
local function is_family(a, b)
  if type(b) ~= "string" then return false end
  if #a > #b then a, b = b, a end
  return #a > 2 and b:sub(1, #a + 1) == a .. "_"
end

--- The candidate that `name` was most likely meant to be, or nil.
---@param name string
---@param candidates table keys (of a set) or a list of strings
---@return string|nil
function errors.suggest(name, candidates)
  local best, best_distance
  local limit = math.max(1, math.min(3, #name // 3))
  local function consider(candidate)
    if type(candidate) ~= "string" then return end
    local d = distance(name:lower(), candidate:lower(), limit)
    if d <= limit and (not best or d < best_distance or (d == best_distance and candidate < best)) then
      best, best_distance = candidate, d
    end
  end
  local family
  for key, value in pairs(candidates) do
    local candidate = type(key) == "string" and key or value
    consider(candidate)
    if is_family(name, candidate) and (not family or #candidate < #family or #candidate == #family
      and candidate < family) then family = candidate end
  end
  return best_distance and best_distance < 3 and best or family or best
end

--- Raises unless every key of `given` is allowed.
---@param where string the call, as the user wrote it: "river.Client"
---@param given table the user's options
---@param allowed table<string, any> set of known names
function errors.check_options(where, given, allowed)
  for name in pairs(given) do
    if allowed[name] == nil then
      local text = ("%s: unknown option '%s'"):format(where, tostring(name))
      local near = type(name) == "string" and errors.suggest(name, allowed)
      if near then
        text = text .. ("; did you mean '%s'?"):format(near)
      else
        local names = {}
        for known in pairs(allowed) do names[#names + 1] = tostring(known) end
        table.sort(names)
        text = text .. "; known: " .. table.concat(names, ", ")
      end
      errors.raise{kind = "argument", message = text}
    end
  end
end

--- Lets the methods of a class say what is wrong when they are called with a dot in place of the colon. To be called
--- when all are there; metamethods, and names that begin with an underscore, stay as they are.
---@param class table the methods; also the metatable of its objects
---@param name string what an object is called in messages: "job"
function errors.want_colon(class, name)
  for method, fn in pairs(class) do
    if type(fn) == "function" and method:sub(1, 1) ~= "_" then
      class[method] = function(self, ...)
        if getmetatable(self) == class then return fn(self, ...) end
        errors.raise{kind = "argument",
          message = ("%s:%s: call it with a colon: %s:%s(…)"):format(name, method, name, method)}
      end
    end
  end
end

--- "an integer", "a string".
---@param noun string
function errors.with_article(noun)
  return (noun:find("^[aeiou]") and "an " or "a ") .. noun
end

--- What a value is, for messages: "a table", "nothing".
---@param value any
function errors.got(value) return value == nil and "nothing" or errors.with_article(type(value)) end

--- Raises unless `value` has the wanted type ("integer" and "callable" count as types; "a|b" allows both).
---@param where string the call, as the user wrote it
---@param name string the argument's name
---@param value any
---@param wanted string
---@return any value
function errors.expect(where, name, value, wanted)
  local actual = type(value)
  for one in wanted:gmatch("[^|]+") do
    if actual == one then return value end
    if one == "integer" and math.type(value) == "integer" then return value end
    if one == "callable" then
      local meta = getmetatable(value)
      if actual == "function" or (type(meta) == "table" and meta.__call) then return value end
    end
  end
  local kinds = {}
  for one in wanted:gmatch("[^|]+") do
    if one ~= "nil" then kinds[#kinds + 1] = errors.with_article(one) end
  end
  errors.raise{kind = "argument", message = ("%s: '%s' must be %s, got %s"):format(where, name,
    table.concat(kinds, " or "), value == nil and "nothing" or actual)}
end

return errors
