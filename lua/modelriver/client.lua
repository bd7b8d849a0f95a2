--- The client of the ModelRiver API: `modelriver.Client{…}`.

local ask = require "modelriver.ask"
local errors = require "riverlua.errors"
local gateway = require "modelriver.gateway"
local request = require "modelriver.request"

local client = {}

---@class modelriver.Client
---@field usage modelriver.Totals tokens used so far
---@field chat { completions: modelriver.Completions }
local Client = {}
Client.__name = "modelriver.Client"

local OPTIONS = {}
for name in ([[api_key base_url timeout retries trace prices project_id allow_insecure_ws resend retry_async
  retry_provider http embedded transport]]):gmatch("%S+") do OPTIONS[name] = true end

-- Methods that live in modules of their own: those are loaded when the method is called for the first time.
local ELSEWHERE = {ai_async = "modelriver.job", resume = "modelriver.job", callback = "modelriver.callback",
  callback_error = "modelriver.callback", run = "modelriver.tools", map = "modelriver.map",
  session = "modelriver.session"}

local function check_colon(self, what, arguments)
  if getmetatable(self) == Client then return end
  errors.raise{kind = "argument", message = ("%s: call it with a colon: client:%s%s"):format(what, what, arguments)}
end

local function check_self(self, what)
  check_colon(self, what, "{…}")
  self.gateway:check_open()
end

-- What a method was given, by name; a slip in the name is told.
function Client.__index(self, name)
  local value = Client[name]
  if value ~= nil then return value end
  if ELSEWHERE[name] then
    local method = require(ELSEWHERE[name]).methods[name]
    value = function(given, ...)
      check_self(given, name)
      return method(given, ...)
    end
    Client[name] = value
    return value
  elseif name == "chat" then
    value = require("modelriver.chat").new(rawget(self, "gateway"))
    rawset(self, "chat", value)
    return value
  elseif name == "usage" then
    return rawget(self, "gateway").usage
  elseif type(name) == "string" and not name:find("^_") then
    local near = errors.suggest(name, Client.__names())
    if near then
      errors.raise{kind = "argument", message = ("a modelriver.Client has no '%s'"):format(name),
        hint = ("did you mean '%s'?"):format(near)}
    end
  end
  return nil
end

--- For completion at the prompt.
function Client.__names()
  local all = {"chat", "usage"}
  for _, known in ipairs{Client, ELSEWHERE} do
    for name in pairs(known) do all[#all + 1] = name end
  end
  return all
end

--- Asks a workflow and returns its answer. (POST /v1/ai)
---
--- `client:ai{workflow =, messages =, …}` or `client:ai("workflow", "text", {…})`. Every field of the API is passed
--- on untouched, and so are names it does not know (cache fields of the workflow).
--- Options, which are not sent: `schema` (a JSON Schema: the answer's `data` is checked against it; see
--- modelriver.structured) and `repair`; `timeout` (seconds, or {connect =, first_byte =, idle =, total =}),
--- `retries`, `headers`, `idempotency_key` (true, or a text of yours: the service may know a request by it that it gets
--- twice; ModelRiver does not document one), `extra` (fields of any name).
---
--- Raises kinds "argument", "auth", "permission", "not_found", "invalid_request", "rate_limit", "server", "provider"
--- (status 200, but all providers failed: `attempts` tells how), "schema", "protocol", "timeout", "connect", "dns",
--- "tls".
---@param given table|string
---@param text string|nil
---@param more table|nil
---@return modelriver.Response
function Client:ai(given, text, more)
  check_self(self, "ai")
  local body, options = request.read("ai", given, text, more, {schema = true, repair = true})
  if body.stream == true then
    errors.raise{kind = "argument", message = "ai: 'stream' is for client:stream, whose answer is an iterator",
      hint = "write client:stream{…}"}
  end
  if options.schema ~= nil or options.repair ~= nil then
    return require("modelriver.structured").ask(self.gateway, body, options)
  end
  return ask.whole(self.gateway, "ai", "/v1/ai", body, options)
end

--- Asks a workflow and returns an iterator over the pieces of its answer; see modelriver.stream. (POST /v1/ai)
---
--- `for event in client:stream{workflow =, messages =} do if event.delta then io.write(event.delta) end end`. Leaving
--- the loop frees the connection; `:text()` reads it all. There is no time limit in all by default; `timeout.idle`
--- (60 s) is the longest silence. Before anything was handed out a broken stream is begun again, as a request would be;
--- after that never.
---@param given table|string
---@param text string|nil
---@param more table|nil
---@return modelriver.Stream
function Client:stream(given, text, more)
  check_self(self, "stream")
  local body, options = request.read("stream", given, text, more)
  return ask.streamed(self.gateway, "stream", "/v1/ai", body, options)
end

--- Counts: `requests`, `connections` … of the connections; `retries`: requests sent again; `slowed`: answers with 429.
---@return table
function Client:stats()
  check_colon(self, "stats", "()")
  self.gateway:check_open()
  local transport = self.gateway.transport
  local stats = transport.stats and transport:stats() or {}
  stats.slowed, stats.retries = self.gateway.slowed, self.gateway.retried
  return stats
end

--- Closes the connections. Calls that wait, and calls after that, raise kind "closed".
function Client:close()
  check_colon(self, "close", "()")
  self.gateway:close()
end

Client.__close = Client.close

function Client:__tostring()
  local own = rawget(self, "gateway")
  return ("modelriver.Client(%s%s)"):format(require("riverlua.url").redact(own.base_url),
    own.transport and "" or ", closed")
end

--- Makes a client.
---
--- Options:
--- `api_key`: default MODELRIVER_API_KEY, which goes to whatever server `base_url` names; false: none;
--- `base_url`: default MODELRIVER_API_URL or "https://api.modelriver.com"; "embedded:" is the gateway inside this
--- process, any other address an OpenAI-compatible server;
--- `timeout`: seconds in all, or {connect = 10, first_byte = 300, idle = 60, total = 300} (streams: first_byte = 120,
--- no total), false: none;
--- `retries` = 2: how often a request is sent again where that is safe: after 429, 503, 408, other 5xx and lost
--- connections, with delays of 0.5 s doubled up to 8 s, or what the server asks for up to 60 s;
--- `resend` = true: also when nobody knows whether a request arrived (it may be billed twice); `retry_async` = false:
--- the same for jobs; `retry_provider` = false: also when all providers failed (the gateway tried its backups already);
--- `trace`: true (a line per request on the standard error stream) or a function(event);
--- `prices`: model → {prompt =, completion =} per million tokens, for `client.usage:estimate()`;
--- `project_id`, `allow_insecure_ws`: for jobs; `http`: options of riverlua.http (`proxy`, `ca_file`, `verify` …);
--- `embedded`: options of the gateway behind "embedded:"; `transport`: an object that requests go through in place of
--- the network, for tests (see riverlua.transport).
---
--- Raises kind "argument" for wrong options and a missing key.
---@param options table|nil
---@return modelriver.Client
function client.new(options)
  options = options or {}
  if type(options) == "string" then   -- which could be the key: it is not shown
    errors.raise{kind = "argument", message = "modelriver.Client: the options stand in a table, got a string",
      hint = "write modelriver.Client{base_url = \"embedded:\"}, or {api_key = …}"}
  end
  errors.expect("modelriver.Client", "options", options, "table")
  errors.check_options("modelriver.Client", options, OPTIONS)
  errors.expect("modelriver.Client", "project_id", options.project_id, "string|nil")
  errors.expect("modelriver.Client", "allow_insecure_ws", options.allow_insecure_ws, "boolean|nil")
  local self = setmetatable({project_id = options.project_id, allow_insecure_ws = options.allow_insecure_ws == true},
    Client)
  rawset(self, "gateway", gateway.new(options))
  return self
end

--- Internal: whether a value is a client.
---@param value any
---@return boolean
function client.is(value) return getmetatable(value) == Client end

return client
