--- Reads the options of `modelriver.Client` that concern how requests are sent.

local errors = require "riverlua.errors"

local options = {}

options.DEFAULT_BASE = "https://api.modelriver.com"

local CLIENT = "modelriver.Client"
local MOST_RETRIES = 20
-- A request is answered when the model is done, so the first byte of a whole answer may take as long as all of it.
local TIMEOUTS = {connect = 10, first_byte = 300, idle = 60, total = 300}
local STREAM_TIMEOUTS = {connect = 10, first_byte = 120, idle = 60, total = 0}

local function fail(message, hint)
  errors.raise{kind = "argument", message = CLIENT .. ": " .. message, hint = hint}
end

local function default_base()
  local named = os.getenv("MODELRIVER_API_URL")
  return named and named:find("%S") and named or options.DEFAULT_BASE
end

--- The base URL without slash at its end, and without /v1.
---@param given any nil: the environment's, or the service's own
---@return string
function options.base(given)
  if given == nil then given = default_base() end
  local base = errors.expect(CLIENT, "base_url", given, "string")
  base = base:match("^%s*(.-)[/%s]*$")
  if base:find("^embedded:") then return base end
  if not base:lower():find("^https?://[^/]") then
    -- said without the text itself: it could carry a password
    fail("base_url must start with http:// or https://, or be embedded:", "such as " .. options.DEFAULT_BASE)
  end
  if base:find("[%s%c?#]") then fail("base_url may have no query, fragment or spaces") end
  return (base:gsub("/v1$", ""):gsub("/+$", ""))   -- OpenAI's libraries want it with /v1
end

--- The API key; nil: none is sent. `given`: false: none, nil: the environment's, which other services than ModelRiver's
--- may do without.
---@param given any
---@param base string
---@return string|nil
function options.key(given, base)
  if given == false then return nil end
  local key = given
  if key == nil and not base:find("^embedded:") then key = os.getenv("MODELRIVER_API_KEY") end
  if key ~= nil then key = errors.expect(CLIENT, "api_key", key, "string|boolean") end
  if key == true then fail("api_key must be a text, or false for none") end
  key = (key or ""):match("^%s*(.-)%s*$")   -- files end with a line break
  if key:find("[%s%c]") then fail("api_key has spaces or control characters in it") end
  if key ~= "" then return key end
  if base == options.DEFAULT_BASE then
    fail("there is no API key", "set MODELRIVER_API_KEY or pass api_key; base_url = \"embedded:\" needs none")
  end
  return nil
end

--- How often a request may be sent again.
---@param where string
---@param given any
---@return integer
function options.retries(where, given)
  local retries = given == nil and 2 or given == false and 0 or given
  errors.expect(where, "retries", retries, "integer")
  if retries < 0 or retries > MOST_RETRIES then
    errors.raise{kind = "argument", message = ("%s: 'retries' must be between 0 and %d, got %d"):format(where,
      MOST_RETRIES, retries)}
  end
  return retries
end

local function seconds(where, name, value, default)
  if value == nil then return default end
  if value == false or value == math.huge then return 0 end
  if type(value) ~= "number" or value < 0 or value ~= value then
    errors.raise{kind = "argument",
      message = ("%s: timeout.%s must be a number of seconds or false"):format(where, name)}
  end
  return value
end

--- Deadlines in seconds over those of `base`; 0 stands for none.
---@param where string the call, for messages
---@param given number|table|false|nil seconds in all, or {connect =, first_byte =, idle =, total =}
---@param base table
---@return { connect: number, first_byte: number, idle: number, total: number }
function options.timeouts(where, given, base)
  if given == nil then return base end
  if given == false then return {connect = 0, first_byte = 0, idle = 0, total = 0} end
  if type(given) == "number" then given = {total = given} end
  errors.expect(where, "timeout", given, "table|number")
  errors.check_options(where .. ": timeout", given, base)
  local out = {}
  for name, default in pairs(base) do out[name] = seconds(where, name, given[name], default) end
  -- whoever waits longer in all, waits for the beginning
  if given.total and given.first_byte == nil and out.first_byte > 0 then
    out.first_byte = out.total == 0 and 0 or math.max(out.total, out.first_byte)
  end
  return out
end

--- The deadlines of a client: for whole answers, and for streams.
---@param given any
---@return table whole
---@return table streams
function options.client_timeouts(given)
  return options.timeouts(CLIENT, given, TIMEOUTS), options.timeouts(CLIENT, given, STREAM_TIMEOUTS)
end

local function print_event(event)
  local outcome = event.status and event.error and ("%d %s"):format(event.status, event.error)
    or tostring(event.status or event.error)
  io.stderr:write(("modelriver: %s %s %s in %.0f ms%s%s\n"):format(event.method, event.url, outcome,
    event.seconds * 1000, event.tries > 1 and (", try %d"):format(event.tries) or "",
    event.wait and (", again in %.2g s"):format(event.wait) or ""))
end

--- What is told about every request, or nil.
---@param given any
---@return function|table|nil
function options.trace(given)
  if given == nil or given == false then return nil end
  if given == true then return print_event end
  return errors.expect(CLIENT, "trace", given, "callable")
end

--- An option that is true or false.
---@param all table
---@param name string
---@param default boolean
---@return boolean
function options.flag(all, name, default)
  local value = errors.expect(CLIENT, name, all[name], "boolean|nil")
  if value == nil then return default end
  return value
end

--- Options for riverlua.http. Retries and deadlines are the client's own: they follow the API's rules.
---@param all table
---@return table
function options.http(all)
  local http = {retries = 0}
  for name, value in pairs(errors.expect(CLIENT, "http", all.http or {}, "table")) do
    if name == "retries" or name == "timeout" then
      fail(("http.%s is not read"):format(name), ("it is an option of the client itself: %s"):format(name))
    end
    http[name] = value
  end
  return http
end

return options
