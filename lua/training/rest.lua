--- Requests to the services beside gRPC: attempts, waits between them, and what a status means.
--
-- Every request here may be repeated: those that change something carry a key by which the service knows them again.
-- Kinds of errors: "auth" (401, 403), "not_found" (404), "rate_limit" (429), "server" (408, 5xx), "invalid_request"
-- (other statuses), "protocol" (not the JSON that was promised); and those of riverlua.http for what prevents an
-- answer: "dns", "connect", "tls", "timeout", "limit".

local clock = require "riverlua.clock"
local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local json = require "riverlua.json"
local transport = require "riverlua.transport"
local url = require "riverlua.url"

local rest = {}

local ATTEMPTS = 9
local FIRST_DELAY, LONGEST_DELAY, LONGEST_RETRY_AFTER = 0.5, 8, 60
local AGAIN = {[408] = true, [429] = true, [500] = true, [502] = true, [503] = true, [504] = true}
-- A broken certificate stays broken; a lost connection does not.
local LOST = {dns = true, connect = true, timeout = true, protocol = true}
local KINDS = {[401] = "auth", [403] = "auth", [404] = "not_found", [408] = "server", [429] = "rate_limit"}
local LONGEST_BODY, LONGEST_TEXT, SHORTEST_SECRET, DEEPEST = 4096, 500, 6, 128

local decode = json.decoder{max_depth = DEEPEST}
local decode_without_null = json.decoder{max_depth = DEEPEST, drop_null = true}

--- What `riverlua.http` takes for its connections, and a client of this module hands on.
rest.HTTP_OPTIONS = {proxy = true, ca_file = true, verify = true, unix_socket = true}

---@class training.Rest
---@field first_delay number seconds before the second attempt; doubled for each further one
local Rest = {}
Rest.__index = Rest
Rest.__name = "training.Rest"

-- Takes a secret out of texts; one that is a common word is none.
local function scrubber(secret)
  local pattern = secret and #secret >= SHORTEST_SECRET and secret:gsub("%p", "%%%0") or nil
  return function(text) return pattern and (text:gsub(pattern, "***")) or text end
end

--- The base of addresses, checked and without slash at its end.
---@param where string
---@param name string the option
---@param given any
---@return string
function rest.base_url(where, name, given)
  local base = errors.expect(where, name, given, "string"):match("^%s*(.-)[/%s]*$")
  if not base:lower():find("^https?://[^/]") or base:find("[%s%c?#]") then
    -- said without the text itself: it could carry a password
    errors.raise{kind = "argument", message = ("%s: '%s' must be an address that begins with https:// or http://, " ..
      "without query"):format(where, name)}
  end
  return base
end

--- Makes a client for the paths below an address.
---
--- `options`: `base_url`; `headers` of every request; `secret`: what must not show in an error; `attempts` = 9;
--- `timeout`: seconds for the beginning of an answer and between its pieces (60); `user_agent`, `max_body`,
--- `decompress`, and rest.HTTP_OPTIONS as for riverlua.http; `transport`: an object in place of the network (see
--- riverlua.transport).
---@param options table
---@return training.Rest
function rest.new(options)
  local http = {retries = 0, user_agent = options.user_agent, max_body = options.max_body,
    decompress = options.decompress}
  for name in pairs(rest.HTTP_OPTIONS) do http[name] = options[name] end
  return setmetatable({
    base_url = options.base_url, headers = options.headers or {}, attempts = options.attempts or ATTEMPTS,
    timeout = options.timeout or 60, first_delay = FIRST_DELAY, scrub = scrubber(options.secret),
    transport = options.transport or transport.open("training", options.base_url, http),
  }, Rest)
end

local function text_in(value) return type(value) == "string" and value ~= "" and value or nil end

-- Code and text of a failure in the shapes that there are: {error: {code, message}}, {error: text}, {code, message}.
local function told_in(body)
  local ok, value = pcall(decode_without_null, body or "")
  if not ok or type(value) ~= "table" then return nil end
  local inner = type(value.error) == "table" and value.error or value
  local code = text_in(inner.code) or math.type(inner.code) == "integer" and inner.code or nil
  return code, text_in(inner.message) or text_in(value.error) or text_in(inner.detail)
end

local function one_line(text)
  if not utf8.len(text) then text = text:gsub("[\x80-\xff]", "?") end
  text = text:gsub("[%s%c]+", " "):match("^ ?(.-) ?$")
  if #text <= LONGEST_TEXT then return text end
  return text:sub(1, utf8.offset(text, 0, LONGEST_TEXT) - 1) .. "…"
end

local HINTS = {
  auth = "is the API key right, and may it do this?",
  rate_limit = "wait before the next call",
  server = "the service has trouble: the same call may work later",
}

local function from_status(self, call, res, attempt)
  local status = res.status
  local kind = KINDS[status] or status >= 500 and "server" or "invalid_request"
  local body = self.scrub(res.body or "")
  local code, text = told_in(body)
  local told = text and (code and ("%s: %s"):format(code, text) or text) or code and tostring(code)
  return errors.new{
    kind = kind, status = status, code = code, body = body:sub(1, LONGEST_BODY), method = call.method,
    url = url.redact(self.base_url .. call.path), attempts = attempt, retryable = AGAIN[status] or false,
    retry_after = tonumber(res.headers["retry-after"]), request_id = res.headers["x-request-id"],
    message = ("%s: %s"):format(call.context, told and ("%s (status %d)"):format(one_line(told), status)
      or ("the service answered with status %d"):format(status)),
    hint = call.hints and call.hints[kind] or HINTS[kind],
  }
end

local function from_transport(self, call, err, attempt)
  local fields = {}
  for name, value in next, err do fields[name] = value end
  fields.message = ("%s: %s"):format(call.context, self.scrub(err.message))
  fields.attempts = attempt
  return errors.new(fields)
end

-- One attempt: the answer, or nil, the error, and whether another attempt makes sense.
local function attempt_once(self, call, req, attempt)
  local ok, res = pcall(self.transport.request, self.transport, req)
  if not ok then
    if not errors.is(res) or not (LOST[res.kind] or res.kind == "tls" or res.kind == "limit") then error(res, 0) end
    return nil, from_transport(self, call, res, attempt), LOST[res.kind]
  end
  if res.status >= 200 and res.status < 300 then return res end
  local err = from_status(self, call, res, attempt)
  return nil, err, AGAIN[res.status]
end

-- Random enough to keep clients apart, and not math.random: scripts seed that.
local function jitter() return 1 - 0.25 * (digest.random(1):byte() / 255) end

--- Waits; a replay leaves that out.
---@param seconds number
function Rest:pause(seconds)
  if self.transport.pause then self.transport:pause(seconds) else clock.pause(seconds, false) end
end

--- Sends a request until it is answered with success, or there is no sense in it.
---
--- `call`: `context` ("create_deployment", for messages), `method`, `path`, `json` (a value), `headers` (added to those
--- of all), `timeout` (seconds, as for the client), `attempts`, `hints` (kind → hint), `null` (true: JSON null is
--- kept; else it is absent).
---@param call table
---@return table body a JSON object
---@return table response
function Rest:request(call)
  local headers = {}
  for name, value in pairs(self.headers) do headers[name] = value end
  for name, value in pairs(call.headers or {}) do headers[name] = value end
  local seconds = call.timeout or self.timeout
  local req = {method = call.method, path = call.path, headers = headers, json = call.json, idempotent = true,
    timeout = {first_byte = seconds, idle = seconds, total = false}}
  local attempts, attempt = call.attempts or self.attempts, 1
  while true do
    local res, err, again = attempt_once(self, call, req, attempt)
    if res then return self:object(call, res), res end
    if not again or attempt >= attempts then error(err, 0) end
    local wait = math.min(LONGEST_DELAY, self.first_delay * 2 ^ (attempt - 1)) * jitter()
    if err.retry_after then wait = math.max(0, math.min(LONGEST_RETRY_AFTER, err.retry_after)) end
    self:pause(wait)
    attempt = attempt + 1
  end
end

--- The error for an answer that is not what the service promises.
---@param call table as for `request`
---@param why string
---@param res table|nil
function Rest:garbled(call, why, res)
  errors.raise{kind = "protocol", message = ("%s: %s"):format(call.context, why), method = call.method,
    url = url.redact(self.base_url .. call.path), status = res and res.status, retryable = false,
    body = res and res.body and self.scrub(res.body):sub(1, LONGEST_BODY) or nil}
end

--- Internal: the object in an answer.
function Rest:object(call, res)
  local ok, value = pcall(call.null and decode or decode_without_null, res.body or "")
  if not ok then
    self:garbled(call, "the answer is not JSON: " .. (errors.is(value) and value.message or tostring(value)), res)
  elseif type(value) ~= "table" or json.is_array(value) then
    self:garbled(call, "the answer is no JSON object", res)
  end
  return value
end

--- Closes the connections.
function Rest:close()
  if self.transport.close then self.transport:close() end
end

return rest
