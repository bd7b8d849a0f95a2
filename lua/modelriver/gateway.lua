--- What all calls of a client share: address, key, transport, retries, and the pause after "too many requests".

local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local failure = require "modelriver.failure"
local task = require "riverlua.task"
local transport = require "riverlua.transport"
local url = require "riverlua.url"

local gateway = {}

gateway.DEFAULT_BASE = "https://api.modelriver.com"

local LONGEST_RETRY_AFTER = 60
local FIRST_DELAY, LONGEST_DELAY, JITTER = 0.5, 8, 0.25
-- A request is answered when the model is done, so the first byte of a whole answer may take as long as all of it.
local TIMEOUTS = {connect = 10, first_byte = 300, idle = 60, total = 300}
local STREAM_TIMEOUTS = {connect = 10, first_byte = 120, idle = 60, total = 0}

-- What may be sent again, by purpose. `failed`: after a status that says the server tried; `unanswered`: when nobody
-- knows whether it acted on the request. Refusals (429, 503) and unsent requests are always sent again.
local POLICIES = {
  sync = {failed = true, unanswered = true},
  async = {failed = false, unanswered = false},   -- a second job would cost money
  callback = {failed = true, unanswered = true},
  reconnect = {failed = true, unanswered = true},
}

---@class modelriver.Gateway
---@field base_url string without slash at its end, and without /v1
---@field usage modelriver.Totals
local Gateway = {}
Gateway.__index = Gateway
Gateway.__name = "modelriver.Gateway"

local function fail(message, hint)
  errors.raise{kind = "argument", message = "modelriver.Client: " .. message, hint = hint}
end

local function read_base(given)
  local default = os.getenv("MODELRIVER_API_URL")
  if default == nil or default == "" then default = gateway.DEFAULT_BASE end
  local base = errors.expect("modelriver.Client", "base_url", given or default, "string")
  base = base:match("^%s*(.-)[/%s]*$")
  if base:find("^embedded:") then return base end
  if not base:lower():find("^https?://[^/]") then
    -- said without the text itself: it could carry a password
    fail("base_url must start with http:// or https://, or be embedded:", "such as " .. gateway.DEFAULT_BASE)
  end
  if base:find("[%s?#]") then fail("base_url may have no query, fragment or spaces") end
  return (base:gsub("/v1$", ""))   -- as OpenAI's libraries want it
end

local function read_key(given, base)
  local key = given
  if key == nil and base:find("^embedded:") == nil then key = os.getenv("MODELRIVER_API_KEY") end
  if key == nil or key == "" then
    if base == gateway.DEFAULT_BASE then
      fail("there is no API key", "set MODELRIVER_API_KEY or pass api_key; base_url = \"embedded:\" needs none")
    end
    return nil
  end
  errors.expect("modelriver.Client", "api_key", key, "string")
  key = key:match("^%s*(.-)%s*$")   -- files end with a line break
  if key == "" or key:find("[%s%c]") then fail("api_key has spaces or control characters in it") end
  return key
end

local function read_retries(given)
  local retries = given == nil and 2 or given == false and 0 or given
  errors.expect("modelriver.Client", "retries", retries, "integer")
  if retries < 0 or retries > 20 then fail("retries must be between 0 and 20") end
  return retries
end

-- Seconds or a table of seconds over `base`; `where` is for messages.
local function read_timeouts(where, given, base)
  if given == nil then return base end
  if given == false then return {connect = 0, first_byte = 0, idle = 0, total = 0} end
  if type(given) == "number" then
    given = {total = given, first_byte = math.max(given, base.first_byte)}
  end
  errors.expect(where, "timeout", given, "table|number")
  errors.check_options(where .. ": timeout", given, base)
  local out = {}
  for name, fallback in pairs(base) do
    local value = given[name]
    if value == nil then value = fallback elseif value == false then value = 0 end
    if type(value) ~= "number" or value < 0 or value ~= value then
      errors.raise{kind = "argument",
        message = ("%s: timeout.%s must be a number of seconds or false"):format(where, name)}
    end
    out[name] = value
  end
  return out
end

local function read_trace(given)
  if given == nil or given == false then return nil end
  if given == true then
    return function(event)
      local outcome = event.status and event.error and ("%d %s"):format(event.status, event.error)
      io.stderr:write(("modelriver: %s %s %s in %.0f ms%s%s\n"):format(event.method, event.url,
        outcome or event.status or event.error, event.seconds * 1000, event.tries > 1 and (", try %d"):format(event.tries) or "",
        event.wait and (", again in %.2g s"):format(event.wait) or ""))
    end
  end
  return errors.expect("modelriver.Client", "trace", given, "callable")
end

local function http_options(options)
  local http = {retries = 0}   -- they are made here, by the API's own rules
  for name, value in pairs(errors.expect("modelriver.Client", "http", options.http or {}, "table")) do
    http[name] = value
  end
  return http
end

local function open_transport(base, http, options)
  local custom = options.transport
  if custom ~= nil then
    errors.expect("modelriver.Client", "transport", custom, "table|userdata")
    return custom
  end
  local service = {}
  for name, value in pairs(errors.expect("modelriver.Client", "embedded", options.embedded or {}, "table")) do
    service[name] = value
  end
  return transport.open("modelriver", base, http, service)
end

--- Internal: reads the options that concern sending.
---@param options table those of modelriver.Client
---@return modelriver.Gateway
function gateway.new(options)
  local base, http = read_base(options.base_url), http_options(options)
  local key = read_key(options.api_key, base)
  local self = setmetatable({
    base_url = base, retries = read_retries(options.retries), trace = read_trace(options.trace),
    resend = options.resend ~= false, retry_async = options.retry_async == true,
    retry_provider = options.retry_provider == true, paused_until = 0, slowed = 0,
    timeouts = read_timeouts("modelriver.Client", options.timeout, TIMEOUTS),
    stream_timeouts = read_timeouts("modelriver.Client", options.timeout, STREAM_TIMEOUTS),
    usage = require("modelriver.usage").new(options.prices), others = {}, http = http,
    transport = open_transport(base, http, options),
  }, Gateway)
  local pattern = key and key:gsub("%p", "%%%0")
  function self.scrub(text)
    return pattern and (text:gsub(pattern, "***")) or text
  end
  local bearer = key and "Bearer " .. key
  self.headers = {Accept = "application/json", Authorization = bearer}
  self.stream_headers = {Accept = "text/event-stream", Authorization = bearer}
  -- an endpoint that is somebody else's gets no key
  self.plain_headers = {Accept = "application/json"}
  self.has_key = key ~= nil
  return self
end

function Gateway:check_open()
  if not self.transport then errors.raise{kind = "closed", message = "this modelriver.Client has been closed"} end
  return self.transport
end

function Gateway:close()
  local open = self.transport
  self.transport = nil
  if open then open:close() end
  for _, other in pairs(self.others) do other:close() end
  self.others = {}
end

-- Random enough to keep clients apart, and not math.random: scripts seed that.
local function jitter() return 1 - JITTER * (digest.random(1):byte() / 255) end

local function back_off(tries) return math.min(FIRST_DELAY * 2 ^ (tries - 1), LONGEST_DELAY) * jitter() end

-- Seconds before the request may be sent again, or nil.
local function wait_before_retry(self, policy, err, tries)
  local again
  if err.status then
    if err.kind == "protocol" then return nil end
    local refused = err.status == 429 or err.status == 503
    again = err.retryable and (refused or policy.failed or policy == POLICIES.async and self.retry_async)
  elseif err.sent == false or err.kind == "dns" then
    again = err.kind == "dns" or err.kind == "connect" or err.kind == "timeout" and err.phase == "connect"
  else
    local broken = err.kind == "connect" or err.kind == "protocol" or err.kind == "timeout" and err.phase ~= "total"
    again = broken and (policy.unanswered and self.resend or policy == POLICIES.async and self.retry_async)
  end
  if not again then return nil end
  local asked = err.retry_after
  if asked then return asked <= LONGEST_RETRY_AFTER and asked or nil end
  return back_off(tries)
end

local function tell(self, call, started, tries, outcome, wait)
  if not self.trace then return end
  self.trace{what = call.what, method = "POST", url = call.url, workflow = call.workflow,
    status = outcome.status, error = outcome.kind, seconds = task.now() - started, tries = tries, wait = wait,
    request_id = outcome.request_id or (outcome.headers and failure.request_id(outcome.headers))}
end

-- A server that says "too many requests" says it to all tasks of the client.
local function wait_for_pause(self)
  while self.paused_until > task.now() do task.sleep(self.paused_until - task.now()) end
end

local PASSED_ON = {cancelled = true, interrupted = true, argument = true, closed = true, json = true, deadlock = true,
  replay = true}

local function attempt(self, call, req, tries)
  local transport_used = call.transport or self:check_open()
  local ok, res = pcall(transport_used.request, transport_used, req)
  if ok then
    if res.status >= 200 and res.status < 300 then return res end
    local err = failure.from_status(call, res, tries)
    res:close()
    return nil, err
  end
  if not errors.is(res) or PASSED_ON[res.kind] then error(res, 0) end
  return nil, failure.from_transport(call, res, tries)
end

local function request_of(self, call)
  local headers = call.stream and self.stream_headers or self.headers
  if call.keyless then headers = self.plain_headers end
  if call.headers then
    local all = {}
    for name, value in pairs(headers) do all[name] = value end
    for name, value in pairs(call.headers) do all[name] = value end
    headers = all
  end
  return {method = "POST", path = call.path, headers = headers, json = call.body, stream = call.stream,
    idempotent = false}
end

-- One try: what `accept` made of the answer, or nil and the failure.
local function try(self, call, req, accept, tries)
  local res, err = attempt(self, call, req, tries)
  if err or not accept then return res, err, res end
  local ok, value = pcall(accept, res, tries)
  if ok then return value, nil, res end
  if not errors.is(value, "provider") then error(value, 0) end
  return nil, value, res
end

-- Seconds before the next try, or nil: there is none.
local function next_wait(self, policy, err, tries, deadline)
  local wait
  if err.kind ~= "provider" then
    wait = wait_before_retry(self, policy, err, tries)
  elseif self.retry_provider and err.retryable then
    wait = back_off(tries)
  end
  if wait and deadline and task.now() + wait >= deadline then return nil end
  return wait
end

-- Waits before the next try. What one request is told about too many requests holds for all of the client.
local function pause(self, err, wait)
  if err.kind == "rate_limit" then
    self.paused_until = math.max(self.paused_until, task.now() + wait)
    self.slowed = self.slowed + 1
  else
    task.sleep(wait)
  end
end

--- The deadlines of a call, in seconds; 0: none.
---@return { connect: number, first_byte: number, idle: number, total: number }
function Gateway:limits(call)
  return read_timeouts(call.what, call.timeout, call.stream and self.stream_timeouts or self.timeouts)
end

--- How often a call may be sent again.
---@return integer
function Gateway:retries_of(call)
  return call.retries == nil and self.retries or read_retries(call.retries)
end

--- Sends a request until it is answered with success, the policy forbids another try, or the time is up.
---
--- `call`: `what`, `path`, `body`, `policy` ("sync", "async", "callback", "reconnect"), and `stream`, `timeout`,
--- `retries`, `headers`, `workflow`, `channel_id` as they apply. A failure of kind "provider" that `accept(res, tries)`
--- raises is the answer's, and tried again when the client's option retry_provider says so.
---@param call table
---@param accept (fun(res: table, tries: integer): any)|nil
---@return any # what `accept` made of the answer, or the answer
---@return integer tries
function Gateway:post(call, accept)
  call.scrub, call.url = self.scrub, url.redact(call.address or self.base_url .. call.path)
  local policy = POLICIES[call.policy or "sync"]
  local retries, limits = self:retries_of(call), self:limits(call)
  local deadline = limits.total > 0 and task.now() + limits.total or nil
  local req = request_of(self, call)
  local tries = 0
  while true do
    wait_for_pause(self)
    tries = tries + 1
    req.timeout = {connect = limits.connect, first_byte = limits.first_byte, idle = limits.idle,
      total = deadline and math.max(0.001, deadline - task.now()) or 0}
    local started = task.now()
    local value, err, res = try(self, call, req, accept, tries)
    local wait = err and tries <= retries and next_wait(self, policy, err, tries, deadline) or nil
    tell(self, call, started, tries, err or res, wait)
    if not err then return value, tries end
    if not wait then error(err, 0) end
    pause(self, err, wait)
  end
end

-- The transport to another address, kept for the next time.
local function transport_to(self, origin)
  local other = self.others[origin]
  if not other then
    other = transport.open("modelriver", origin, self.http)
    self.others[origin] = other
  end
  return other
end

--- The beginning of a call to an address that the service named. The key goes along only to the API's own host.
---@param address string
---@return table call `path`, and what else Gateway:post has to know
function Gateway:call_to(address)
  self:check_open()
  if address:sub(1, #self.base_url) == self.base_url and address:find("^/", #self.base_url + 1) then
    return {path = address:sub(#self.base_url + 1)}
  end
  local parts, own = url.parse(address), url.parse(self.base_url)
  if not parts or self.transport.embedded then
    errors.raise{kind = "argument", message = "the callback_url leads to another service than this client's",
      hint = "use a client with that service's base_url"}
  end
  local origin = address:match("^%a[%w+.-]*://[^/?#]*")
  return {path = address:sub(#origin + 1):gsub("#.*$", ""), address = address, transport = transport_to(self, origin),
    keyless = own == nil or not url.same_origin(own, parts)}
end

return gateway
