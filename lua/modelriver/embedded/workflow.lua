--- Workflows as they are registered: checked once, in one shape; and the cache fields that they name.

local errors = require "riverlua.errors"
local json = require "riverlua.json"

local workflow = {}

local SPEC = {providers = "table", respond = "callable", schema = "table", event_name = "string",
  cache_fields = "table", testing = "table", offline_fallback = "boolean", webhook_url = "string",
  validate = "boolean"}
local PROVIDER = {provider = "string", model = "string", respond = "callable|table", forward = "table",
  timeout = "number"}
local FORWARD = {base_url = "string", api_key = "string", model = "string", headers = "table"}
local TESTING = {sample = true, delay_ms = true}

---@class modelriver.embedded.Provider
---@field provider string
---@field model string
---@field respond function|nil
---@field forward table|nil {base_url, api_key, model, headers}
---@field timeout number|nil seconds

---@class modelriver.embedded.Workflow
---@field name string
---@field providers modelriver.embedded.Provider[] in the order in which they are tried
---@field schema table|nil
---@field event_name string|nil
---@field cache_fields string[]
---@field testing {sample: any, delay_ms: number}|nil
---@field offline_fallback boolean
---@field webhook_url string|nil
---@field validate boolean whether answers must keep to the schema

local function fail(where, text, hint)
  errors.raise{kind = "argument", message = where .. ": " .. text, hint = hint}
end

local function check(where, given, known)
  errors.check_options(where, given, known)
  for name, value in pairs(given) do
    if known[name] ~= true then errors.expect(where, name, value, known[name]) end
  end
end

local function check_forward(where, forward)
  check(where, forward, FORWARD)
  local address = errors.expect(where, "base_url", forward.base_url, "string")
  if not address:lower():find("^https?://") then
    fail(where, "'base_url' must be an http or https address", "such as https://api.openai.com/v1")
  end
  local headers = {}
  for name, value in pairs(forward.headers or {}) do headers[name] = value end
  return {base_url = (address:gsub("/+$", "")), api_key = forward.api_key, model = forward.model, headers = headers}
end

local function check_provider(where, given)
  if type(given) ~= "table" then
    fail(where, ("a provider must be a table, got %s"):format(type(given)),
      "such as {provider = \"openai\", model = \"gpt-4o-mini\", respond = function(request, context) … end}")
  end
  check(where, given, PROVIDER)
  local respond, forward = given.respond, given.forward
  if type(respond) == "table" and not (getmetatable(respond) or {}).__call then
    if forward then fail(where, "'respond' and 'forward' both say where to forward to") end
    respond, forward = nil, respond
  end
  if not respond and not forward then fail(where, "a provider needs 'respond' or 'forward'") end
  if respond and forward then fail(where, "a provider has 'respond' or 'forward', not both") end
  local seconds = given.timeout
  if seconds and (seconds <= 0 or seconds ~= seconds) then fail(where, "'timeout' must be above 0") end
  forward = forward and check_forward(where, forward)
  return {
    provider = given.provider or "embedded", model = given.model or forward and forward.model,
    respond = respond, forward = forward, timeout = given.timeout,
  }
end

local function check_providers(where, name, spec)
  if spec.respond and spec.providers then fail(where, "'respond' is short for one provider: give 'providers' alone") end
  if not spec.respond and not spec.providers then
    if spec.testing then return {{provider = "embedded", model = name, respond = function() return nil end}} end
    fail(where, "a workflow needs 'respond' or 'providers'")
  end
  local list = spec.providers or {{respond = spec.respond}}
  if #list == 0 then fail(where, "'providers' must be a list of at least one") end
  local providers = {}
  for i, given in ipairs(list) do
    providers[i] = check_provider(("%s: provider %d"):format(where, i), given)
    providers[i].model = providers[i].model or name
  end
  return providers
end

local function check_cache_fields(where, given)
  local fields = {}
  for i, path in ipairs(given or {}) do
    if type(path) ~= "string" or path == "" then
      fail(where, "'cache_fields' must be a list of paths", "such as {\"user_id\", \"metadata.audience\"}")
    end
    fields[i] = path
  end
  return fields
end

local function check_testing(where, given)
  if not given then return nil end
  errors.check_options(where .. ": testing", given, TESTING)
  local delay = errors.expect(where, "testing.delay_ms", given.delay_ms or 0, "number")
  if delay < 0 or delay ~= delay then fail(where, "'testing.delay_ms' must not be negative") end
  if given.sample == nil then fail(where, "'testing' needs a 'sample'") end
  local ok, problem = pcall(json.encode, given.sample)
  if not ok then fail(where, "'testing.sample' cannot be written as JSON: " .. problem.message) end
  return {sample = given.sample, delay_ms = delay}
end

local function check_schema(given)
  if given then require("riverlua.schema").compile(given) end
  return given
end

--- A workflow from what the user gave.
---@param name string
---@param spec table|function see modelriver.embedded.workflow
---@return modelriver.embedded.Workflow
function workflow.check(name, spec)
  errors.expect("modelriver.embedded.workflow", "name", name, "string")
  if name == "" then fail("modelriver.embedded.workflow", "a workflow needs a name") end
  local where = ("modelriver.embedded.workflow '%s'"):format(name)
  if type(errors.expect(where, "spec", spec, "table|callable")) ~= "table" or (getmetatable(spec) or {}).__call then
    spec = {respond = spec}
  end
  check(where, spec, SPEC)
  if spec.event_name == "" then fail(where, "'event_name' must not be empty") end
  return {
    name = name, providers = check_providers(where, name, spec), schema = check_schema(spec.schema),
    event_name = spec.event_name, cache_fields = check_cache_fields(where, spec.cache_fields),
    testing = check_testing(where, spec.testing), offline_fallback = spec.offline_fallback == true,
    webhook_url = spec.webhook_url, validate = spec.validate ~= false,
  }
end

-- The value at a dotted path; numbers count from 0 in arrays.
local function at(value, path)
  for key in path:gmatch("[^.]+") do
    if type(value) ~= "table" then return nil end
    local direct = value[key]
    if direct == nil and key:find("^%d+$") and #key < 10 then direct = value[math.tointeger(tonumber(key)) + 1] end
    value = direct
  end
  return value
end

--- The cache fields that a request has: path, as it was written → value.
---@param self modelriver.embedded.Workflow
---@param request table
---@return table<string, any>
function workflow.customer_data(self, request)
  local values = json.object{}
  for _, path in ipairs(self.cache_fields) do
    -- a name with a dot in it comes first
    local value = request[path]
    if value == nil then value = at(request, path) end
    values[path] = value
  end
  return values
end

return workflow
