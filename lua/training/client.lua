--- The client of the River training API: `training.Client{…}`.

local chat = require "training.chat"
local clock = require "riverlua.clock"
local errors = require "riverlua.errors"
local failure = require "training.failure"
local future = require "training.future"
local object = require "training.object"
local samples = require "training.samples"
local sampling = require "training.sampling"
local task = require "riverlua.task"
local upload = require "training.upload"
local url = require "riverlua.url"
local wire = require "training.wire"

local client = {}

local DEFAULT_ENDPOINT = "api.river.ai"
local LONGEST = 86400
local VERSION = require("riverlua.core.runtime").version
local IDENTITY = "river-client-lua/" .. VERSION

---@class training.Client
---@field meter table tokens and cost of calls without a session, see training.pricing
local Client = {}
Client.__name = "training.Client"

local OPTIONS = {}
for name in ([[api_key endpoint port timeout use_ssl enable_retries image_upload_concurrency identity upload budget
  prices context_length trace warn http rest_url console_url transport embedded]]):gmatch("%S+") do
  OPTIONS[name] = true
end

-- Methods of the client → those of training.deployments.
local DEPLOYMENTS = {create_deployment = "create", get_deployment = "get", list_deployments = "list",
  scale_on_target = "scale", scale_deployment = "scale", delete_deployment = "delete",
  get_deployment_usage = "usage", wait_for_deployment = "wait"}

local function fail(message, hint)
  errors.raise{kind = "argument", message = "training.Client: " .. message, hint = hint}
end

-- ---- options -------------------------------------------------------------------------------------------------

local function read_key(given, is_embedded)
  if given == false then return nil end
  local key = given
  if key == nil and not is_embedded then key = os.getenv("RIVER_API_KEY") end
  if key ~= nil and type(key) ~= "string" then fail("api_key must be a text, or false for none") end
  key = (key or ""):match("^%s*(.-)%s*$")   -- files end with a line break
  if key:find("[%s%c\x80-\xff]") then fail("api_key has spaces, control characters or other than ASCII in it") end
  if key ~= "" then return key end
  if is_embedded then return nil end
  fail("there is no API key", "set RIVER_API_KEY or pass api_key; endpoint = \"embedded:\" needs none, and trains on "
    .. "this machine")
end

-- Where the service is: a host and a port, which may also be written in one, with or without a scheme.
local function read_address(options)
  local endpoint = options.endpoint
  if endpoint == nil then endpoint = os.getenv("RIVER_ENDPOINT") end
  if endpoint == nil or endpoint == "" then endpoint = DEFAULT_ENDPOINT end
  errors.expect("training.Client", "endpoint", endpoint, "string")
  local use_ssl = errors.expect("training.Client", "use_ssl", options.use_ssl, "boolean|nil")
  local port = errors.expect("training.Client", "port", options.port, "integer|nil")
  if endpoint:find("^embedded:") then return {embedded = endpoint:match("^embedded:(.*)$")} end
  local scheme, rest = endpoint:match("^(%a+)://(.*)$")
  if scheme then
    scheme = scheme:lower()
    if scheme ~= "http" and scheme ~= "https" then fail("the endpoint begins with " .. scheme .. "://",
      "give host and port, or http:// and https:// for plain and TLS") end
    if use_ssl ~= nil and use_ssl ~= (scheme == "https") then
      fail(("the endpoint begins with %s://, and use_ssl is %s"):format(scheme, use_ssl), "one of the two is enough")
    end
    use_ssl = scheme == "https"
    endpoint = rest:gsub("/+$", "")
  end
  local host, own_port = endpoint:match("^(%[[%x:.]+%])$"), nil
  if not host then
    host, own_port = endpoint:match("^(%[[%x:.]+%]):(%d+)$")
    if not host then host, own_port = endpoint:match("^([^:/@?#%s]+):(%d+)$") end
    if not host then host = endpoint:match("^([^:/@?#%s]+)$") end
  end
  if not host or host == "embedded" then fail("the endpoint is not a host",
    "such as api.river.ai, with the port in 'port'; or \"embedded:\" for this machine") end
  if use_ssl == nil then use_ssl = true end
  port = port or math.tointeger(tonumber(own_port)) or (scheme == "http" and 80 or 443)
  if port < 1 or port > 65535 then fail(("port must be from 1 to 65535, got %d"):format(port)) end
  return {host = host, port = port, tls = use_ssl}
end

local function read_trace(given)
  if given == nil or given == false then return nil end
  if given ~= true then return errors.expect("training.Client", "trace", given, "callable|boolean") end
  return function(event)
    io.stderr:write(("training: %s %s in %.3f s%s\n"):format(event.method, event.code, event.seconds,
      event.attempts > 1 and (", attempt %d"):format(event.attempts) or ""))
  end
end

local function write_warning(text) io.stderr:write("riverlua: training: ", text, "\n") end

local HTTP = {proxy = "string|boolean|nil", ca_file = "string|nil", verify = "boolean|nil", unix_socket = "string|nil"}

local function open_transport(options, address, key, identity)
  local custom = options.transport
  if custom ~= nil then return errors.expect("training.Client", "transport", custom, "table|userdata") end
  local http = errors.expect("training.Client", "http", options.http or {}, "table")
  errors.check_options("training.Client: http", http, HTTP)
  for name, wanted in pairs(HTTP) do errors.expect("training.Client", "http." .. name, http[name], wanted) end
  if address.embedded then
    local service = {path = address.embedded ~= "" and address.embedded or nil}
    for name, value in pairs(errors.expect("training.Client", "embedded", options.embedded or {}, "table")) do
      service[name] = value
    end
    local ok, embedded = pcall(require, "training.embedded")
    if not ok then
      errors.raise{kind = "unsupported", message = "training.Client: this riverlua has no trainer of its own",
        hint = "give the endpoint of a service"}
    end
    return embedded.new(service)
  end
  return require("training.transport").new{target = address.host .. ":" .. address.port, tls = address.tls, key = key,
    identity = identity, http = http}
end

--- Makes a client. Nothing is sent yet.
---
--- Options:
--- `api_key`: default RIVER_API_KEY; false: none is sent;
--- `endpoint`: default RIVER_ENDPOINT or "api.river.ai"; host, host:port, or with http:// or https:// before it;
--- "embedded:", or "embedded:" and a folder for checkpoints, is the trainer in this process;
--- `embedded`: its options, see training.embedded: `threads`, `seed`, `base_models`;
--- `port` = 443; `use_ssl` = true (false with http://);
--- `timeout` = 86400: seconds that an operation may take unless a call says otherwise;
--- `enable_retries` = true: UNAVAILABLE is tried again where that is safe, see training.wire;
--- `image_upload_concurrency` = 4;
--- `budget`: dollars that each session may cost, `prices`, `context_length`: see training.pricing;
--- `trace`: true (a line per RPC on the standard error stream) or a function(event); `warn`: a function(text) in place
--- of such a line for warnings;
--- `upload`: {threshold = 64 MiB, chunk = 32 MiB, parallelism = 6, required = false}, defaults from the variables
--- RIVER_UPLOAD_THRESHOLD_BYTES, RIVER_UPLOAD_CHUNK_BYTES, RIVER_UPLOAD_PARALLELISM, RIVER_REQUIRE_CHUNKED_UPLOAD;
--- `identity`: who the client says it is, default "river-client-lua/<version>";
--- `http`: `proxy`, `ca_file`, `verify`, `unix_socket`, as for riverlua.http; `rest_url`, `console_url`: where
--- deployments and console metrics are, if not where they should be (RIVER_CONSOLE_URL);
--- `transport`: an object in place of the network, see training.transport.
---
--- Raises kind "argument" for wrong options and a missing key.
---@param options table|nil
---@return training.Client
function client.new(options)
  options = options or {}
  if type(options) == "string" then   -- which could be the key: it is not shown
    fail("the options stand in a table, got a string",
      "write training.Client{api_key = …}, or {endpoint = \"embedded:\"}")
  end
  errors.expect("training.Client", "options", options, "table")
  errors.check_options("training.Client", options, OPTIONS)
  local address = read_address(options)
  local key = read_key(options.api_key, address.embedded ~= nil or options.transport ~= nil)
  local identity = errors.expect("training.Client", "identity", options.identity or IDENTITY, "string")
  if identity:find("[^\x21-\x7e]") or identity == "" then fail("identity must be one word of ASCII") end
  local retries = errors.expect("training.Client", "enable_retries", options.enable_retries, "boolean|nil")
  local slots = options.image_upload_concurrency or 4
  if math.type(slots) ~= "integer" or slots < 1 then fail("image_upload_concurrency must be a positive integer") end
  errors.expect("training.Client", "warn", options.warn, "callable|nil")
  errors.expect("training.Client", "rest_url", options.rest_url, "string|nil")
  errors.expect("training.Client", "console_url", options.console_url, "string|nil")
  local kept = {}   -- without the key, which a dump would show
  for name, value in pairs(options) do
    if name ~= "api_key" then kept[name] = value end
  end
  local self = setmetatable({
    options = kept, address = address, identity = identity, sessions = {}, features = {},
    image_slots = task.semaphore(slots), upload = upload.settings(options.upload), no_uploads = false,
    write_warning = options.warn or write_warning, last_checkpoint = false, deployments = false, transport = false,
    is_silence_told = false,
  }, Client)
  self.last_checkpoint = nil
  self.timeout = self:timeout_of("training.Client", options.timeout or LONGEST)
  self.meter = self:new_meter("training.Client", {})
  self.key = function() return key end
  self.transport = open_transport(options, address, key, identity)
  self.wire = wire.new{transport = self.transport, schema = require("riverlua.protobuf").training, key = key,
    retries = retries ~= false, trace = read_trace(options.trace), check_open = function() self:check_open() end}
  return self
end

-- ---- for the parts of a client -------------------------------------------------------------------------------

--- Internal: raises kind "closed" when the client has been closed.
function Client:check_open()
  if not self.transport then errors.raise{kind = "closed", message = "this training.Client has been closed"} end
end

--- Internal: as for a session; a client has no heartbeats.
function Client:check() self:check_open() end

--- Internal: as for a session; there is none that could be lost.
function Client:explain(_, err) return err end   -- luacheck: ignore self

--- Internal: tells the user what is worth knowing but no error.
function Client:warn(text) self.write_warning(text) end

--- Internal: seconds that a call may take.
function Client:timeout_of(what, given)
  if given == nil then return self.timeout end
  if type(given) ~= "number" or given ~= given or given <= 0 then
    errors.raise{kind = "argument", message = what .. ": 'timeout' must be a number of seconds above 0"}
  end
  return math.min(given, LONGEST * 365)
end

--- Internal: a meter with the client's settings where the session has none of its own.
function Client:new_meter(what, given)
  local own = self.options
  local budget = given.budget
  if budget == nil then budget = own.budget end
  return require("training.session_meter").new(what, {budget = budget, prices = given.prices or own.prices,
    context = given.context_length or own.context_length})
end

-- The most that a plan of samples may use: a token is rarely shorter than three bytes of text.
local function most_of(planned)
  if not planned.prompts then return planned end
  return {prompt_tokens = planned.prompt_ids + math.ceil(planned.prompt_bytes / 3),
    completion_tokens = #planned.prompts * planned.max_tokens}
end

--- Internal: sets aside what a plan may cost; see training.session_meter.
function Client:reserve(model, planned, meter)
  return (meter or self.meter):reserve(most_of(planned), model.base_model)
end

--- Internal: adds what a call used to the client's own meter.
function Client:count_usage(model, usage, fallback)
  self.meter:add(usage or fallback or {}, model and model.base_model)
end

--- Internal: begins an operation without a session.
function Client:submit(what, method, request, options)
  local own = {what = what, rounds = true}
  for name, value in pairs(options) do own[name] = value end
  local ok, reply = pcall(self.wire.rpc, self.wire, method, request, own)
  if ok and reply.request_id ~= "" then return reply.request_id end
  if options.release then options.release() end
  error(ok and failure.protocol({what = what}, "the service gave no request id") or reply, 0)
end

--- Internal: raises unless the endpoint offers a feature. Asked once for each.
function Client:need_feature(what, feature, option)
  if not self.endpoint_features then self.endpoint_features = self:get_server_capabilities().features end
  if not self.endpoint_features[feature] then
    errors.raise{kind = "unsupported", code = feature, retryable = false,
      message = ("%s: this endpoint does not offer %s (%s)"):format(what, option, feature),
      hint = "client:get_server_capabilities().features lists what it offers"}
  end
end

-- Where deployments are: plain HTTP on the same host and port.
local function rest_url(self)
  if self.options.rest_url then return self.options.rest_url end
  local address = self.address
  if not address.host then
    errors.raise{kind = "unsupported", message = "deployments: this service has none"}
  end
  local scheme = address.tls and "https" or "http"
  local default = address.tls and 443 or 80
  return ("%s://%s%s"):format(scheme, address.host, address.port ~= default and ":" .. address.port or "")
end

--- Internal: deployments, see training.deployments.
function Client:open_deployments()
  self:check_open()
  if not self.deployments then
    local own = {base_url = rest_url(self), api_key = self.key(), client_name = self.identity}
    for name, value in pairs(self.options.http or {}) do own[name] = value end
    self.deployments = require("training.deployments").new(own)
  end
  return self.deployments
end

-- A script written for the service runs with "embedded:", too, where nothing is known of a console.
local function open_silent_console(self)
  if not self.is_silence_told then
    self.is_silence_told = true
    self:warn("the trainer in this process has no console: metrics of model:log go nowhere (training.Run keeps them)")
  end
  return require("training.console_silent").open()
end

--- Internal: the console writer of a model, see training.console.
function Client:open_console(model)
  local host, is_known = self.address.host, self.options.console_url or os.getenv("RIVER_CONSOLE_URL")
  if self.address.embedded and not (is_known and self.key()) then
    return open_silent_console(self)
  elseif not is_known and host ~= DEFAULT_ENDPOINT then
    -- the key of another service is none of that console's business
    errors.raise{kind = "argument", message = "log: this service is not the one whose console is known",
      hint = "give console_url, or set RIVER_CONSOLE_URL"}
  elseif not self.key() then
    errors.raise{kind = "argument", message = "log: the console wants an API key, and the client has none"}
  end
  local own = {run_id = model.training_run_id, api_key = self.key(), base_url = self.options.console_url,
    client_name = self.identity, warn = function(text) self:warn(text) end}
  for _, name in ipairs{"proxy", "ca_file", "verify"} do own[name] = (self.options.http or {})[name] end
  return require("training.console").open(own)
end

-- ---- the service ---------------------------------------------------------------------------------------------

--- Makes a session, and keeps it alive until it is closed. (CreateSession, SessionHeartbeat)
---
--- `local session <close> = client:session{run = "first", project = "maths"}`: names that are no options are tags,
--- which are texts. Options: `timeout` = 60 s for making it; `capacity_hints` = false; true: lines on the standard
--- error stream when the service has no room; `before_poll`: a function called before every wait, which may raise;
--- `budget` in dollars, `prices`, `context_length`; `on_session_creation_attempted`, `on_session_created`,
--- `on_session_closed`; `tags`: for names that are options.
---@param options table|nil
---@return training.Session
function Client:session(options)
  self:check_open()
  return require("training.session").new(self, errors.expect("session", "options", options or {}, "table"))
end

--- Whether the service answers that it is well. (HealthCheck)
---@param timeout number|nil seconds (default: 10)
---@return boolean
function Client:health_check(timeout)
  self:check_open()
  local seconds = self:timeout_of("health_check", timeout or 10)
  local reply = self.wire:try("HealthCheck", {}, {what = "health_check", deadline = clock.now() + seconds, once = true})
  return reply ~= nil and reply.status == "ok"
end

--- What the endpoint and its models offer. (GetServerCapabilities)
---@param options {model_name: string|nil}|nil
---@return {supported_models: string[], features: table<string, true>, model_features: table<string, table>}
function Client:get_server_capabilities(options)
  local what = "get_server_capabilities"
  options = errors.expect(what, "options", options or {}, "table")
  errors.check_options(what, options, {model_name = true})
  errors.expect(what, "model_name", options.model_name, "string|nil")
  local reply = self.wire:rpc("GetServerCapabilities", {model_name = options.model_name},
    {what = what, deadline = clock.now() + self.timeout, safe = true})
  local found = {supported_models = {}, features = {}, model_features = {}}
  for _, feature in ipairs(reply.features) do found.features[feature] = true end
  for i, model in ipairs(reply.supported_models) do
    found.supported_models[i] = model.model_name
    found.model_features[model.model_name] = {}
    for _, feature in ipairs(model.features) do found.model_features[model.model_name][feature] = true end
  end
  return found
end

--- Names of the models that the endpoint has. (GetServerCapabilities)
---@return string[]
function Client:get_capabilities() return self:get_server_capabilities().supported_models end

--- Samples from a base model, without a session: one flat list over all prompts. Options as for `model:sample`, with
--- `base_model`; no `seeds` and no expert routing. (InferenceGenerate)
---@return training.Sample[]
function Client:sample(prompts, options)
  local what = "sample"
  options = sampling.arguments(what, prompts, options, sampling.OPTIONS.client)
  if type(options.base_model) ~= "string" or options.base_model == "" then
    errors.raise{kind = "argument", message = "sample: there is no base_model",
      hint = "client:get_capabilities() lists the models of the endpoint"}
  end
  local plan = sampling.plan(what, options, self.timeout)
  local about = {base_model = options.base_model}
  local release = self:reserve(about, plan)
  local request_id = self:submit(what, "InferenceGenerate", {base_model = options.base_model, prompts = plan.prompts,
    metrics_type = options.metrics_type}, {safe = true, deadline = clock.now() + plan.timeout, release = release})
  return future.new{context = self, what = what, request_id = request_id, field = "inference", timeout = plan.timeout,
    poll_interval = options.poll_interval, on_failure = function() release() end, parse = function(response)
      release()
      local groups = samples.groups({what = what, request_id = request_id}, response, plan)
      self:count_usage(about, response.usage, samples.usage(groups))
      local flat = {}
      for _, group in ipairs(groups) do table.move(group, 1, #group, #flat + 1, flat) end
      return flat
    end}:result()
end

--- A chat completion of a base model: `client:chat_complete{messages = {…}, base_model =, max_tokens = 64}`.
--- (ChatCompleteFromBase)
---@return training.ChatCompleteResult
function Client:chat_complete(messages, options)
  local given = chat.arguments("chat_complete", messages, options)
  local name = errors.expect("chat_complete", "base_model", given.base_model, "string")
  return chat.complete(self, "chat_complete", given, {method = "ChatCompleteFromBase", name = name,
    fields = {base_model = name}})
end

--- A chat completion of a checkpoint: `client:chat_complete_from_checkpoint{messages = {…}, checkpoint_path =}`.
--- (ChatCompleteFromCheckpoint)
---@return training.ChatCompleteResult
function Client:chat_complete_from_checkpoint(messages, options)
  local what = "chat_complete_from_checkpoint"
  local given = chat.arguments(what, messages, options)
  local path = require("training.weights").path(what, given.checkpoint_path)
  errors.expect(what, "base_model", given.base_model, "string|nil")
  return chat.complete(self, what, given, {method = "ChatCompleteFromCheckpoint", name = given.base_model or path,
    fields = {checkpoint_path = path, base_model = given.base_model}})
end

--- A chat completion of a model in training, by its id. (ChatCompleteFromTraining)
---@return training.ChatCompleteResult
function Client:chat_complete_from_training(messages, options)
  local what = "chat_complete_from_training"
  local given = chat.arguments(what, messages, options)
  local id = errors.expect(what, "model_id", given.model_id, "string")
  return chat.complete(self, what, given, {method = "ChatCompleteFromTraining", name = id, fields = {model_id = id},
    model_id = id})
end

--- Counts: `calls`, `retries`, and those of the connections.
---@return table
function Client:stats()
  self:check_open()
  local stats = self.transport.stats and self.transport:stats() or {}
  stats.rpcs, stats.retries = self.wire.calls, self.wire.retried
  return stats
end

--- Closes the sessions that are open, and the connections.
local function close(self, err)
  if not self.transport then return end
  local first
  for open in pairs(self.sessions) do
    local ok, problem = pcall(open.close, open)
    if not ok then first = first or problem end
  end
  if self.deployments and self.deployments.close then self.deployments:close() end
  local transport = self.transport
  self.transport = false
  if transport.close then transport:close() end
  if first ~= nil and err == nil then error(first, 0) end
end

function Client:close() close(self) end

Client.__close = close

function Client:__tostring()
  local address = self.address
  local where = address.embedded and "embedded:" or url.redact(address.host .. ":" .. address.port)
  return ("training.Client(%s%s)"):format(where, self.transport and "" or ", closed")
end

-- A method of the client that is one of its deployments.
local function of_deployments(name)
  return function(given, ...)
    if getmetatable(given) ~= Client then
      errors.raise{kind = "argument", message = ("%s: call it with a colon: client:%s(…)"):format(name, name)}
    end
    local own = given:open_deployments()
    return own[DEPLOYMENTS[name]](own, ...)
  end
end

errors.want_colon(Client, "client")
object.define(Client, {called = "training.Client", made = "identity", fields = "meter timeout",
  internal = [[check check_open count_usage explain need_feature new_meter open_console open_deployments reserve submit
    timeout_of warn]], more = DEPLOYMENTS, find = of_deployments})

return client
