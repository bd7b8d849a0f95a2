--- What all calls of a client share: address, key, transport, retries, and the pause after "too many requests".

local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local failure = require "modelriver.failure"
local lists = require "modelriver.lists"
local options_of = require "modelriver.options"
local task = require "riverlua.task"
local transport = require "riverlua.transport"
local url = require "riverlua.url"

local gateway = {}

local LONGEST_RETRY_AFTER = 60
local FIRST_DELAY, LONGEST_DELAY, JITTER = 0.5, 8, 0.25
local SHORTEST_SECRET = 6
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
---@field peers table<table, true> open WebSockets: they end with the client
local Gateway = {}
Gateway.__index = Gateway
Gateway.__name = "modelriver.Gateway"

local function open_transport(base, http, options)
  local custom = options.transport
  if custom ~= nil then
    errors.expect("modelriver.Client", "transport", custom, "table|userdata")
    return custom
  end
  if options.embedded ~= nil and not base:find("^embedded:") then
    errors.raise{kind = "argument", message = "modelriver.Client: 'embedded' has the options of the gateway inside " ..
      "this process, and base_url leads elsewhere", hint = "base_url = \"embedded:\""}
  end
  local service = {}
  for name, value in pairs(errors.expect("modelriver.Client", "embedded", options.embedded or {}, "table")) do
    service[name] = value
  end
  return transport.open("modelriver", base, http, service)
end

-- Random enough to keep clients apart, and not math.random: scripts seed that.
local function jitter() return 1 - JITTER * (digest.random(1):byte() / 255) end

-- Takes the key out of texts, and tokens that let listen to a job. What people give servers that want no key ("none",
-- "x") is no secret but a common word.
local function scrubber(key)
  local pattern = key and #key >= SHORTEST_SECRET and key:gsub("%p", "%%%0") or nil
  return function(text)
    text = text:gsub('("ws_token"%s*:%s*")[^"]*', "%1***")
    return pattern and (text:gsub(pattern, "***")) or text
  end
end

--- Internal: reads the options that concern sending.
---@param options table those of modelriver.Client
---@return modelriver.Gateway
function gateway.new(options)
  local base, http = options_of.base(options.base_url), options_of.http(options)
  local key = options_of.key(options.api_key, base)
  local timeouts, stream_timeouts = options_of.client_timeouts(options.timeout)
  local self = setmetatable({
    base_url = base, retries = options_of.retries("modelriver.Client", options.retries),
    trace = options_of.trace(options.trace), resend = options_of.flag(options, "resend", true),
    retry_async = options_of.flag(options, "retry_async", false),
    retry_provider = options_of.flag(options, "retry_provider", false),
    paused_until = 0, slowed = 0, retried = 0, first_delay = FIRST_DELAY,
    timeouts = timeouts, stream_timeouts = stream_timeouts, scrub = scrubber(key),
    usage = require("modelriver.usage").new(options.prices), others = {}, peers = {}, http = http,
    transport = open_transport(base, http, options),
  }, Gateway)
  --- Seconds to wait after so many tries.
  function self.back_off(tries) return math.min(self.first_delay * 2 ^ (tries - 1), LONGEST_DELAY) * jitter() end
  local bearer = key and "Bearer " .. key
  self.headers = {Accept = "application/json", Authorization = bearer}
  self.stream_headers = {Accept = "text/event-stream", Authorization = bearer}
  -- an endpoint that is somebody else's gets no key
  self.plain_headers = {Accept = "application/json"}
  return self
end

--- The transport; raises kind "closed" when the client has been closed.
---@return table
function Gateway:check_open()
  if not self.transport then errors.raise{kind = "closed", message = "this modelriver.Client has been closed"} end
  return self.transport
end

--- Closes all connections, those on which somebody waits too.
function Gateway:close()
  local open = self.transport
  self.transport = nil
  for peer in pairs(self.peers) do peer:close(1000, "", 0) end   -- where jobs are waited for
  if open then open:close() end
  for _, other in pairs(self.others) do other:close() end
  self.others = {}
end

-- Whether an answer allows that the request is sent again. The service's own word counts most.
local function after_status(self, policy, err)
  if err.kind == "protocol" or not err.retryable then return false end
  local asked = err.headers and err.headers["x-should-retry"]
  return asked == "true" or err.status == 429 or err.status == 503 or policy.failed
    or policy == POLICIES.async and self.retry_async
end

-- The same when no answer came.
local function unanswered(self, policy, err)
  local before = err.kind == "dns" or err.kind == "timeout" and err.phase == "connect"
  if err.sent == false or before then return before or err.kind == "connect" end
  local broken = err.kind == "connect" or err.kind == "protocol" or err.kind == "timeout" and err.phase ~= "total"
  return broken and (policy.unanswered and self.resend or policy == POLICIES.async and self.retry_async)
end

-- Seconds before the request may be sent again, or nil.
local function wait_before_retry(self, policy, err, tries)
  local again
  if err.kind == "provider" then
    again = self.retry_provider and err.retryable
  elseif err.status then
    again = after_status(self, policy, err)
  else
    again = unanswered(self, policy, err)
  end
  if not again then return nil end
  local asked = err.retry_after
  if asked then return asked <= LONGEST_RETRY_AFTER and asked or nil end
  return self.back_off(tries)
end

local function tell(self, call, started, tries, outcome, wait)
  if not self.trace then return end
  self.trace{what = call.what, method = "POST", url = call.url, workflow = call.workflow,
    status = outcome.status, error = outcome.kind, seconds = task.now() - started, tries = tries, wait = wait,
    request_id = outcome.request_id or (outcome.headers and failure.request_id(outcome.headers))}
end

--- Waits before something is tried again; a replay leaves that out.
---@param seconds number
function Gateway:pause(seconds)
  local used = self:check_open()
  if used.pause then used:pause(seconds) else task.sleep(seconds) end
end

-- A server that says "too many requests" says it to all tasks of the client. One that cannot wait so long is told.
local function wait_for_pause(self, call, deadline, tries)
  while self.paused_until > task.now() do
    local left = self.paused_until - task.now()
    if deadline and task.now() + left >= deadline then
      errors.raise{kind = "rate_limit", retryable = true, retry_after = left, tries = tries, workflow = call.workflow,
        url = call.url, method = "POST", sent = false,
        message = ("%snot sent: the service asked this client to wait, for %.3g s still"):format(failure.place_of(call),
          left), hint = "the call's timeout is shorter than that"}
    end
    self:pause(left)
  end
end

-- What no service can be blamed for.
local PASSED_ON = {cancelled = true, interrupted = true, argument = true, closed = true, deadlock = true,
  replay = true, memory = true}

local function is_passed_on(err) return not errors.is(err) or PASSED_ON[err.kind] == true end

local function attempt(self, call, req, tries)
  local transport_used = call.transport or self:check_open()
  local ok, res = pcall(transport_used.request, transport_used, req)
  if ok then
    if res.status >= 200 and res.status < 300 then return res end
    local err = failure.from_status(call, res, tries)
    res:close()
    return nil, err
  end
  if is_passed_on(res) then error(res, 0) end
  if res.kind == "json" then   -- what the user wrote has no place in JSON
    errors.raise{kind = "argument", cause = res,
      message = ("%sthe request cannot be sent as JSON: %s"):format(failure.place_of(call), res.message)}
  end
  return nil, failure.from_transport(call, res, tries)
end

-- Headers of the call in place of the usual ones; names differ in more than their case.
local function merged(headers, own)
  local all, lower = {}, {}
  for name, value in pairs(own) do
    all[name] = value
    lower[name:lower()] = true
  end
  for name, value in pairs(headers) do
    if not lower[name:lower()] then all[name] = value end
  end
  return all
end

local function request_of(self, call)
  local headers = call.stream and self.stream_headers or self.headers
  if call.keyless then headers = self.plain_headers end
  if call.headers then headers = merged(headers, call.headers) end
  return {method = "POST", path = call.path, headers = headers, json = lists.marked(call.body), stream = call.stream,
    idempotent = false}
end

-- One try: what `accept` made of the answer, or nil and the failure.
local function try(self, call, req, accept, tries)
  local res, err = attempt(self, call, req, tries)
  if err or not accept then return res, err, res end
  local ok, value = pcall(accept, res, tries)
  if ok then return value, nil, res end
  if is_passed_on(value) then error(value, 0) end
  return nil, value, res
end

-- Seconds before the next try, or nil: there is none.
local function next_wait(self, policy, err, tries, deadline)
  local wait = wait_before_retry(self, policy, err, tries)
  if wait and deadline and task.now() + wait >= deadline then return nil end
  return wait
end

-- What one request is told about too many requests holds for all of the client, also when that request gives up;
-- but a caller who wants no retries makes up his own mind.
local function note_limit(self, err, tries, retries)
  self.slowed = self.slowed + 1
  local asked = err.retry_after or self.back_off(tries)
  if retries > 0 and asked <= LONGEST_RETRY_AFTER then
    self.paused_until = math.max(self.paused_until, task.now() + asked)
  end
end

--- The deadlines of a call, in seconds; 0: none.
---@param call table as for Gateway:post
---@return { connect: number, first_byte: number, idle: number, total: number }
function Gateway:limits(call)
  return options_of.timeouts(call.what, call.timeout, call.stream and self.stream_timeouts or self.timeouts)
end

--- How often a call may be sent again.
---@param call table as for Gateway:post
---@return integer
function Gateway:retries_of(call)
  return call.retries == nil and self.retries or options_of.retries(call.what, call.retries)
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
  call.total = limits.total
  local req = request_of(self, call)
  local tries = 0
  while true do
    wait_for_pause(self, call, deadline, tries)
    tries = tries + 1
    req.timeout = {connect = limits.connect, first_byte = limits.first_byte, idle = limits.idle,
      total = deadline and math.max(0.001, deadline - task.now()) or 0}
    local started = task.now()
    local value, err, res = try(self, call, req, accept, tries)
    local wait = err and tries <= retries and next_wait(self, policy, err, tries, deadline) or nil
    tell(self, call, started, tries, err or res, wait)
    if not err then return value, tries end
    local limited = err.kind == "rate_limit"
    if limited then note_limit(self, err, tries, retries) end
    if not wait then error(err, 0) end
    self.retried = self.retried + 1
    if not limited then self:pause(wait) end   -- else wait_for_pause does
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
