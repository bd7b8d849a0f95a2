--- Deployments: checkpoints and base models served on engines of their own, with an OpenAI-compatible address.
--
--     local list = deployments.new{base_url = "https://api.example.com", api_key = key, client_name = "my-client/1"}
--     local deployment = list:create{checkpoint = "river://run/weights/final", unified_replicas = 1}
--     deployment = list:wait(deployment.id)
--     print(deployment:openai().chat.completions:create{model = deployment.model, messages = …})
--
-- The service has to enable them for a team. Every change carries an idempotency key, so a repeated request never makes
-- a second deployment.

local clock = require "riverlua.clock"
local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local json = require "riverlua.json"
local rest = require "training.rest"
local url = require "riverlua.url"

local deployments = {}

local PATH = "/api/v1/deployments"
local COUNTS = {"unified_replicas", "prefill_replicas", "decode_replicas"}
local TEXTS = {"id", "model", "base_url", "checkpoint", "base_model", "topology", "phase", "created_at", "updated_at"}
local OPTIONAL_TEXTS = {"phase_reason", "operation_id", "deleted_at"}
local REPLICAS = {"desired", "allocated", "ready", "pending"}
local READ_TIMEOUT, WAIT_TIMEOUT, DELETE_TIMEOUT, INTERVAL = 60, 1800, 600, 5
local MAX_BODY = 16 << 20
local PHASES = {accepted = true, provisioning = true, ready = true, degraded = true, unavailable = true,
  scaled_to_zero = true, failed = true, deleting = true, deleted = true}

local function fail(where, message, hint)
  errors.raise{kind = "argument", message = where .. ": " .. message, hint = hint}
end

-- ---------------------------------------------------------------------------------------------------- deployments

---@class training.Deployment
---@field id string
---@field model string its name for the service's global OpenAI address; equal to the id
---@field base_url string what an OpenAI client takes as its base_url; it fixes the checkpoint
---@field checkpoint string
---@field base_model string
---@field topology string "unified" or "prefill_decode"
---@field replicas table<string, {desired: integer, allocated: integer, ready: integer, pending: integer}> by role
---@field phase string "accepted", "provisioning", "ready", "degraded", "unavailable", "scaled_to_zero", "failed",
--- "deleting" or "deleted"
---@field created_at string
---@field updated_at string
---@field phase_reason string|nil
---@field operation_id string|nil
---@field deleted_at string|nil
---@field serving boolean it answers requests: ready or degraded, and every role has replicas that are ready
---@field is_serving boolean the same
---@field is_terminal boolean deleted or failed
local Deployment = {}
Deployment.__index = Deployment
Deployment.__name = "training.Deployment"

local owners = setmetatable({}, {__mode = "k"})   -- deployment → the client that it came from, with its key

function Deployment:__tostring()
  return ("training.Deployment(%s, %s, %s)"):format(self.id, self.base_model, self.phase)
end

-- An OpenAI client joins base_url and "/chat/completions"; modelriver's wants a base that ends with /v1.
local function joined(inner)
  return {
    request = function(_, req)
      local copy = {}
      for name, value in pairs(req) do copy[name] = value end
      copy.path = req.path:gsub("^/v1/", "/")
      return inner:request(copy)
    end,
    pause = function(_, seconds) inner:pause(seconds) end,
    stats = function() return inner:stats() end,
    close = function() inner:close() end,
  }
end

--- An OpenAI client for this deployment: `deployment:openai().chat.completions:create{model = deployment.model,
--- messages = {…}}`, also with `stream = true`. It is a `modelriver.Client` and takes its options (`timeout`,
--- `retries`, `trace` …); close it when done. The API key goes to the address that the service named, which has to be
--- https when the service itself is.
---@param options table|nil
---@return modelriver.Client
function Deployment:openai(options)
  local owner = getmetatable(self) == Deployment and owners[self]
  if not owner then fail("deployment:openai", "call it with a colon: deployment:openai()") end
  local base = rest.base_url("deployment:openai", "base_url", self.base_url)
  if owner.base_url:lower():find("^https:") and not base:lower():find("^https:") then
    errors.raise{kind = "protocol", message = "deployment:openai: the service named an address without encryption"}
  end
  local all = {base_url = base, api_key = owner.api_key}
  for name, value in pairs(errors.expect("deployment:openai", "options", options or {}, "table")) do
    all[name] = value
  end
  if all.http == nil then
    all.http = {}
    for name in pairs(rest.HTTP_OPTIONS) do all.http[name] = owner.options[name] end
  end
  if not base:find("/v1$") and all.transport == nil then
    local http = {retries = 0}
    for name, value in pairs(all.http) do http[name] = value end
    all.transport = joined(require("riverlua.transport").open("modelriver", base, http))
  end
  return require("modelriver").Client(all)
end

local function replicas_of(self, call, given)
  if type(given) ~= "table" or json.is_array(given) then
    self.rest:garbled(call, "a deployment without 'replicas'")
  end
  local all = {}
  for role, counts in pairs(given) do
    if type(counts) ~= "table" or json.is_array(counts) then
      self.rest:garbled(call, ("a deployment whose replicas.%s is no object"):format(role))
    end
    all[role] = {}
    for _, name in ipairs(REPLICAS) do
      local count = counts[name]
      if count == nil then count = 0 end
      if math.type(count) ~= "integer" then
        self.rest:garbled(call, ("a deployment whose replicas.%s.%s is no whole number"):format(role, name))
      end
      all[role][name] = count
    end
  end
  return all
end

local function is_serving(deployment)
  if deployment.phase ~= "ready" and deployment.phase ~= "degraded" then return false end
  for _, role in pairs(deployment.replicas) do
    if role.desired <= 0 or role.ready <= 0 then return false end
  end
  return next(deployment.replicas) ~= nil
end

-- The deployment in an answer, checked.
local function deployment_of(self, call, given)
  local made = {replicas = replicas_of(self, call, given.replicas)}
  for _, name in ipairs(TEXTS) do
    if type(given[name]) ~= "string" or given[name] == "" then
      self.rest:garbled(call, ("a deployment without '%s'"):format(name))
    end
    made[name] = given[name]
  end
  for _, name in ipairs(OPTIONAL_TEXTS) do
    if given[name] ~= nil and type(given[name]) ~= "string" then
      self.rest:garbled(call, ("a deployment whose '%s' is no text"):format(name))
    end
    made[name] = given[name]
  end
  made.serving = is_serving(made)
  made.is_serving = made.serving
  made.is_terminal = made.phase == "deleted" or made.phase == "failed"
  owners[made] = self
  return setmetatable(made, Deployment)
end

-- ---------------------------------------------------------------------------------------------------------- calls

---@class training.Deployments
local Deployments = {}
Deployments.__index = Deployments
Deployments.__name = "training.Deployments"

local function id_of(where, given)
  if getmetatable(given) == Deployment then return given.id end
  if type(given) ~= "string" or given == "" then
    fail(where, "the id of a deployment is expected, got " .. (given == "" and "an empty text"
      or given == nil and "nothing" or errors.with_article(type(given))))
  end
  return given
end

-- A whole number of replicas; a float such as 2.0 is one.
local function count_of(where, name, value)
  local count = type(value) == "number" and math.tointeger(value)
  if not count then
    fail(where, ("'%s' must be an integer, got %s"):format(name, type(value) == "number" and tostring(value)
      or errors.with_article(type(value))))
  end
  if count < 0 then fail(where, ("'%s' must not be negative, got %d"):format(name, count)) end
  return count
end

-- The counts that were given, into the body; only those are sent, so that zero and "as it is" stay apart.
local function add_counts(where, options, body)
  local given = 0
  for _, name in ipairs(COUNTS) do
    if options[name] ~= nil then
      body[name] = count_of(where, name, options[name])
      given = given + 1
    end
  end
  if body.unified_replicas and given > 1 then
    fail(where, "unified_replicas stands alone; prefill_replicas and decode_replicas are another topology")
  end
  return given
end

local function seconds_of(where, name, value, default)
  if value == nil then return default end
  errors.expect(where, name, value, "number")
  if value < 0 or value ~= value then fail(where, ("'%s' must be a number of seconds"):format(name)) end
  return value
end

local function key_of(where, given)
  if given == nil then return digest.uuid() end
  errors.expect(where, "idempotency_key", given, "string")
  if given == "" or given:find("[%c]") then
    fail(where, "'idempotency_key' is empty or has control characters in it")
  end
  return given
end

local CALL_OPTIONS = {timeout = true}
local SCALE_OPTIONS = {timeout = true, idempotency_key = true, unified_replicas = true, prefill_replicas = true,
  decode_replicas = true}
local DELETE_OPTIONS = {timeout = true, idempotency_key = true, wait = true, wait_timeout = true, interval = true}
local CREATE_OPTIONS = {checkpoint = true, base_model = true}
for _, known in ipairs{SCALE_OPTIONS, DELETE_OPTIONS} do
  for name in pairs(known) do CREATE_OPTIONS[name] = true end
end
local LIST_OPTIONS = {timeout = true, include_deleted = true}
local WAIT_OPTIONS = {phase = true, timeout = true, interval = true}

local function options_of(self, where, given, known)
  if getmetatable(self) ~= Deployments then fail(where, "call it with a colon") end
  given = errors.expect(where, "options", given == nil and {} or given, "table")
  errors.check_options(where, given, known)
  return given
end

-- Sends a request of the call `where`; returns what the answer has, and the call for messages.
local function send(self, where, method, path, options, body)
  local call = {context = where, method = method, path = PATH .. path, json = body,
    timeout = seconds_of(where, "timeout", options.timeout, nil),
    hints = {auth = "deployments have to be enabled for the team, and need a team's API key"}}
  if method ~= "GET" then call.headers = {["Idempotency-Key"] = key_of(where, options.idempotency_key)} end
  return self.rest:request(call), call
end

local function source_of(where, options)
  local checkpoint, base_model = options.checkpoint, options.base_model
  if (checkpoint == nil) == (base_model == nil) then
    fail(where, "exactly one of 'checkpoint' and 'base_model' is needed")
  end
  if type(checkpoint) == "table" then checkpoint = checkpoint.path end   -- what save_weights returned
  local name = options.checkpoint ~= nil and "checkpoint" or "base_model"
  local value = errors.expect(where, name, options.checkpoint ~= nil and checkpoint or base_model, "string")
  if value == "" then fail(where, ("'%s' is empty"):format(name)) end
  return {[name] = value}
end

--- Creates a deployment. (POST /api/v1/deployments)
---
--- Options: `checkpoint` (a path, or what save_weights returned) or `base_model`; `unified_replicas`, or both
--- `prefill_replicas` and `decode_replicas`: how many engines of each role; the choice of roles is final.
--- `wait` = false: true returns when it serves, as `wait` does (`wait_timeout` = 1800, `interval` = 5 seconds).
--- `idempotency_key`: a second call with the same key gives the same deployment (default: a new one);
--- `timeout` = 60: seconds until the service answers.
---@param options table
---@return training.Deployment
function Deployments:create(options)
  local where = "create_deployment"
  options = options_of(self, where, options, CREATE_OPTIONS)
  local body = source_of(where, options)
  local given = add_counts(where, options, body)
  if given == 0 or (given == 1 and not body.unified_replicas) then
    fail(where, "say how many engines: unified_replicas, or both prefill_replicas and decode_replicas")
  end
  local answer, call = send(self, where, "POST", "", options, body)
  local made = deployment_of(self, call, answer)
  if not options.wait then return made end
  return self:wait(made.id, {timeout = options.wait_timeout, interval = options.interval})
end

--- One deployment, also after it was deleted. (GET /api/v1/deployments/<id>)
---@param id string|training.Deployment
---@param options {timeout: number|nil}|nil
---@return training.Deployment
function Deployments:get(id, options)
  local where = "get_deployment"
  options = options_of(self, where, options, CALL_OPTIONS)
  local answer, call = send(self, where, "GET", "/" .. url.escape(id_of(where, id)), options)
  return deployment_of(self, call, answer)
end

--- All deployments. (GET /api/v1/deployments)
---@param options {include_deleted: boolean|nil, timeout: number|nil}|nil
---@return training.Deployment[]
function Deployments:list(options)
  local where = "list_deployments"
  options = options_of(self, where, options, LIST_OPTIONS)
  errors.expect(where, "include_deleted", options.include_deleted, "boolean|nil")
  local answer, call = send(self, where, "GET", options.include_deleted and "?include_deleted=true" or "", options)
  if type(answer.data) ~= "table" or not json.is_array(answer.data) then
    self.rest:garbled(call, "the answer has no list 'data'")
  end
  local all = {}
  for i, given in ipairs(answer.data) do
    if type(given) ~= "table" then self.rest:garbled(call, ("data[%d] is no deployment"):format(i)) end
    all[i] = deployment_of(self, call, given)
  end
  return all
end

--- Sets how many engines a role has; roles that are not named keep theirs. (POST /api/v1/deployments/<id>/scale)
---@param id string|training.Deployment
---@param options {unified_replicas: integer|nil, prefill_replicas: integer|nil, decode_replicas: integer|nil,
--- idempotency_key: string|nil, timeout: number|nil}
---@return training.Deployment
function Deployments:scale(id, options)
  local where = "scale_deployment"
  options = options_of(self, where, options, SCALE_OPTIONS)
  local path, body = "/" .. url.escape(id_of(where, id)) .. "/scale", {}
  if add_counts(where, options, body) == 0 then
    fail(where, "say how many engines: unified_replicas, prefill_replicas, decode_replicas")
  end
  local answer, call = send(self, where, "POST", path, options, body)
  return deployment_of(self, call, answer)
end

--- Deletes a deployment; one that is deleted already is fine. (DELETE /api/v1/deployments/<id>)
---@param id string|training.Deployment
---@param options {wait: boolean|nil, wait_timeout: number|nil, interval: number|nil, idempotency_key: string|nil,
--- timeout: number|nil}|nil `wait`: until it is gone, at most `wait_timeout` = 600 seconds
---@return training.Deployment
function Deployments:delete(id, options)
  local where = "delete_deployment"
  options = options_of(self, where, options, DELETE_OPTIONS)
  local answer, call = send(self, where, "DELETE", "/" .. url.escape(id_of(where, id)), options)
  local deleted = deployment_of(self, call, answer)
  if not options.wait then return deleted end
  return self:wait(deleted.id, {phase = "deleted", timeout = options.wait_timeout, interval = options.interval})
end

--- What a deployment used: hours of replicas and the operations on it, as the service says it.
--- (GET /api/v1/deployments/<id>/usage)
---@param id string|training.Deployment
---@param options {timeout: number|nil}|nil
---@return table
function Deployments:usage(id, options)
  local where = "get_deployment_usage"
  options = options_of(self, where, options, CALL_OPTIONS)
  return (send(self, where, "GET", "/" .. url.escape(id_of(where, id)) .. "/usage", options))
end

-- The phases to wait for, as a set.
local function wanted_phases(where, given)
  if given == nil or given == "serving" then return {ready = true, degraded = true} end
  if type(given) == "string" then given = {given} end
  errors.expect(where, "phase", given, "table")
  local set = {}
  for _, phase in ipairs(given) do
    if not PHASES[phase] then
      local near = type(phase) == "string" and errors.suggest(phase, PHASES)
      fail(where, ("there is no phase '%s'"):format(tostring(phase)), near and ("did you mean '%s'?"):format(near))
    end
    set[phase] = true
  end
  if next(set) == nil then fail(where, "'phase' names no phase") end
  return set
end

-- "ready" is believed when all engines are, "degraded" when it serves at all; other phases as they are.
local function has_arrived(deployment, wanted)
  if not wanted[deployment.phase] then return false end
  if deployment.phase ~= "ready" and deployment.phase ~= "degraded" then return true end
  if not deployment.serving then return false end
  if deployment.phase == "degraded" then return true end
  for _, role in pairs(deployment.replicas) do
    if role.ready < role.desired then return false end
  end
  return true
end

--- Waits until a deployment is in a phase.
---
--- Options: `phase`: "serving" (default: ready, or degraded and answering), "ready" (all its engines), "deleted", any
--- other phase or a list of them; `timeout` = 1800 seconds (600 for "deleted"); `interval` = 5 seconds between
--- questions.
---
--- Raises kind "deployment" when it failed or was deleted instead, "timeout" when time is up; both carry `deployment`.
---@param id string|training.Deployment
---@param options {phase: string|string[]|nil, timeout: number|nil, interval: number|nil}|nil
---@return training.Deployment
function Deployments:wait(id, options)
  local where = "wait_for_deployment"
  options = options_of(self, where, options, WAIT_OPTIONS)
  id = id_of(where, id)
  local wanted = wanted_phases(where, options.phase)
  local timeout = seconds_of(where, "timeout", options.timeout, wanted.deleted and DELETE_TIMEOUT or WAIT_TIMEOUT)
  local interval = seconds_of(where, "interval", options.interval, INTERVAL)
  local deadline = clock.now() + timeout
  while true do
    local now = self:get(id)
    if has_arrived(now, wanted) then return now end
    if now.phase == "failed" or now.phase == "deleted" then
      errors.raise{kind = "deployment", deployment = now, retryable = false,
        message = ("%s: '%s' is %s: %s"):format(where, id, now.phase, now.phase_reason or "no reason given")}
    end
    local left = deadline - clock.now()
    if left <= 0 then
      errors.raise{kind = "timeout", deployment = now, retryable = true,
        message = ("%s: '%s' is still %s after %g s"):format(where, id, now.phase, timeout),
        hint = "raise timeout if it needs longer; the deployment goes on"}
    end
    self.rest:pause(math.min(interval, left))
  end
end

--- Closes the connections.
function Deployments:close() self.rest:close() end

Deployments.__close = Deployments.close

function Deployments:__tostring() return ("training.Deployments(%s)"):format(url.redact(self.base_url)) end

local OPTIONS = {base_url = true, api_key = true, client_name = true, timeout = true, attempts = true, transport = true,
  user_agent = true}
for name in pairs(rest.HTTP_OPTIONS) do OPTIONS[name] = true end

--- Makes the client of the deployments.
---
--- Options: `base_url` (the service's address), `api_key`, `client_name` (what x-river-client says), `timeout` = 60
--- seconds until an answer begins, `attempts` = 9, `user_agent`, `proxy`, `ca_file`, `verify`, `unix_socket` as for
--- riverlua.http, `transport` for tests.
---@param options table
---@return training.Deployments
function deployments.new(options)
  local where = "deployments.new"
  errors.expect(where, "options", options, "table")
  errors.check_options(where, options, OPTIONS)
  local base = rest.base_url(where, "base_url", options.base_url)
  local key = errors.expect(where, "api_key", options.api_key, "string")
  local name = errors.expect(where, "client_name", options.client_name, "string")
  if key == "" or key:find("[%s%c]") then fail(where, "api_key is empty, or has spaces or control characters in it") end
  local settings = {base_url = base, secret = key, transport = options.transport,
    timeout = seconds_of(where, "timeout", options.timeout, READ_TIMEOUT),
    attempts = errors.expect(where, "attempts", options.attempts, "integer|nil"),
    user_agent = options.user_agent or name, max_body = MAX_BODY,
    headers = {Authorization = "Bearer " .. key, ["x-river-client"] = name, Accept = "application/json"}}
  for option in pairs(rest.HTTP_OPTIONS) do settings[option] = options[option] end
  return setmetatable({base_url = base, api_key = key, options = settings, rest = rest.new(settings)},
    Deployments)
end

return deployments
