--- How a request gets its answer: attempts, deadlines, back-off and redirects over riverlua.core.transfer.

local clock = require "riverlua.clock"
local core = require "riverlua.core.transfer"
local errors = require "riverlua.errors"
local response = require "riverlua.response"
local route = require "riverlua.route"
local runtime = require "riverlua.core.runtime"
local tasks = require "riverlua.core.task"
local url = require "riverlua.url"

local exchange = {}

---@class riverlua.Exchange
local Exchange = {}
Exchange.__index = Exchange

local default_timeouts = {connect = 10, first_byte = 60, idle = 60, total = 300}
local default_max_body = 256 * 1024 * 1024
local longest_retry_after = 60
local safe_methods = {GET = true, HEAD = true, OPTIONS = true, PUT = true, DELETE = true, TRACE = true}
local redirect_statuses = {[301] = true, [302] = true, [303] = true, [307] = true, [308] = true}
-- What may follow a redirect to another host. Anything else could be a credential under a name of its own.
local harmless_headers = {["accept"] = true, ["accept-language"] = true, ["accept-encoding"] = true,
  ["cache-control"] = true, ["content-type"] = true, ["range"] = true, ["user-agent"] = true}

-- Seconds or a table of seconds → {connect, first_byte, idle, total}; 0 stands for none.
local function read_timeouts(where, given, base)
  if given == nil then return base end
  local out = {}
  if given == false then return {connect = 0, first_byte = 0, idle = 0, total = 0} end
  if type(given) == "number" then given = {total = given} end
  errors.expect(where, "timeout", given, "table|number")
  errors.check_options(where .. ": timeout", given, default_timeouts)
  for name, fallback in pairs(base) do
    local value = given[name]
    if value == nil then value = fallback end
    if value == false then value = 0 end
    if type(value) ~= "number" or value < 0 or value ~= value then
      errors.raise{kind = "argument",
        message = ("%s: timeout.%s must be a number of seconds or false"):format(where, name)}
    end
    out[name] = value
  end
  return out
end

local http_modes = {auto = "auto", prior = "prior", [false] = "1.1", [true] = "auto"}

-- name → type; true: looked at where it is used
local known_options = {
  headers = "table", timeout = true, retries = "integer", proxy = "string|boolean", ca_file = "string",
  redirects = "integer", max_body = "integer", user_agent = "string", http2 = true, decompress = "boolean",
  verify = "boolean", safe_headers = "table", unix_socket = "string",
}

-- Connections; ones that record what goes over them, or that replay it without a network, when the environment asks
-- for that (see docs/recording.md). Second: whether they replay.
local function open_net(settings)
  if not os.getenv("RIVERLUA_RECORD") and not os.getenv("RIVERLUA_REPLAY") then return core.net(settings), false end
  local session = require("riverlua.recording").session()
  if not session then return core.net(settings), false end
  if session.mode == "replay" then return require("riverlua.replay").net(session), true end
  return require("riverlua.recording.record").net(core.net(settings), session), false
end

--- Connections and defaults of one client; `options` are those of http.Client but for `base_url`.
---@param where string who asks, for messages
function exchange.new(where, options)
  errors.check_options(where, options, known_options)
  for name, value in pairs(options) do
    if known_options[name] ~= true then errors.expect(where, name, value, known_options[name]) end
  end
  if options.proxy == true then
    errors.raise{kind = "argument", message = where .. ": 'proxy' must be a URL, or false for none"}
  end
  local mode = "auto"
  if options.http2 ~= nil then mode = http_modes[options.http2] end
  if not mode then
    errors.raise{kind = "argument", message = where .. ": 'http2' must be \"auto\", \"prior\" or false"}
  end
  local self = setmetatable({}, Exchange)
  self.timeouts = read_timeouts(where, options.timeout, default_timeouts)
  self.retries = options.retries or 2
  self.redirects = options.redirects or 5
  self.max_body = options.max_body or default_max_body
  self.user_agent = options.user_agent or "riverlua/" .. runtime.version
  self.headers = options.headers or {}
  self.harmless = setmetatable({}, {__index = harmless_headers})
  for _, name in ipairs(options.safe_headers or {}) do self.harmless[name:lower()] = true end
  local profile = route.profile(options)
  profile.http, profile.decompress, profile.plain_http1 = mode, options.decompress ~= false, mode ~= "prior"
  self.net, self.replays = open_net(profile)
  self.header_sets = {}   -- by content type and table
  self.retried = 0
  return self
end

local function add_headers(lines, seen, headers, allowed)
  for name, value in pairs(headers) do
    if type(name) ~= "string" or not name:find("^[%w!#$%%&'*+.^_`|~-]+$") then
      errors.raise{kind = "argument", message = ("'%s' is not a header's name"):format(tostring(name))}
    end
    local lower = name:lower()
    if not seen[lower] and (not allowed or allowed[lower]) then
      seen[lower] = true
      for _, one in ipairs(type(value) == "table" and value or {value}) do
        one = tostring(one)
        -- libcurl's way to send a header without a value
        lines[#lines + 1] = one == "" and name .. ";" or name .. ": " .. one
      end
    end
  end
end

-- Headers as libcurl takes them; `allowed`: the only names, in lower case, that are taken (nil: all).
local function build_header_set(self, headers, content_type, allowed)
  local lines, seen = {}, {}
  if headers then add_headers(lines, seen, headers, allowed) end
  add_headers(lines, seen, self.headers, allowed)
  if not seen["user-agent"] then lines[#lines + 1] = "User-Agent: " .. self.user_agent end
  if not seen["content-type"] then
    lines[#lines + 1] = content_type and "Content-Type: " .. content_type or "Content-Type:"
  end
  -- a streamed answer must not wait in a compressor
  if seen["accept"] and headers and (headers.Accept or headers.accept) == "text/event-stream"
    and not seen["accept-encoding"] then
    lines[#lines + 1] = "Accept-Encoding: identity"
  end
  lines[#lines + 1] = "Expect:"   -- no 100-continue: it costs a round trip
  return self.net:headers(lines)
end

local no_headers = {}

--- The headers of a request in libcurl's form.
function Exchange:header_set(headers, content_type)
  if headers == nil then return self:constant_header_set(no_headers, content_type) end
  return build_header_set(self, headers, content_type)
end

--- Like header_set, for a table that is never changed afterwards: built once.
function Exchange:constant_header_set(headers, content_type)
  local sets = self.header_sets[content_type or ""]
  if not sets then
    sets = setmetatable({}, {__mode = "k"})
    self.header_sets[content_type or ""] = sets
  end
  local set = sets[headers]
  if not set then
    set = build_header_set(self, headers, content_type)
    sets[headers] = set
  end
  return set
end

-- Not math.random: scripts seed that and rely on its sequence.
local function jitter()
  local t = tasks.now() * 1e6
  return 0.5 + (t % 997) / 1994
end

local function back_off(attempt)
  return math.min(8, 0.2 * 2 ^ (attempt - 1)) * jitter()
end

local months = {Jan = 1, Feb = 2, Mar = 3, Apr = 4, May = 5, Jun = 6, Jul = 7, Aug = 8, Sep = 9, Oct = 10, Nov = 11,
  Dec = 12}

--- Seconds that a Retry-After header asks for (a number or a date), or nil.
function exchange.parse_retry_after(text, now)
  if not text then return nil end
  local seconds = tonumber(text:match("^%s*(%d+%.?%d*)%s*$"))
  if seconds then return seconds end
  local day, month, year, hour, minute, second = text:match("(%d+)%s+(%a+)%s+(%d+)%s+(%d+):(%d+):(%d+)%s+GMT")
  if not day or not months[month] then return nil end
  local y, m = tonumber(year), months[month]
  if m <= 2 then y, m = y - 1, m + 12 end
  -- days since 1970-01-01 in the Gregorian calendar
  local days = 365 * y + y // 4 - y // 100 + y // 400 + (153 * (m - 3) + 2) // 5 + tonumber(day) - 719469
  local at = ((days * 24 + tonumber(hour)) * 60 + tonumber(minute)) * 60 + tonumber(second)
  return math.max(0, at - (now or os.time()))
end

local timeout_texts = {
  connect = "no connection within %g s",
  first_byte = "the server did not begin to answer within %g s",
  idle = "nothing moved for %g s",
  total = "not done within %g s",
}

local hints = {
  connect = "is the server running, and is the address right?",
  dns = "is the host name right, and is there a network?",
  tls = "for a private certificate authority, name its file in the option ca_file or in RIVERLUA_CA",
}

-- The error for a transfer that got no (whole) answer.
local function failure(call, attempts, kind, message, phase, limit)
  local text = message
  local hint = hints[kind]
  if kind == "tls" and message:find("wrong version number", 1, true) then
    hint = "the server does not seem to speak TLS at this port: http:// in place of https://?"
  end
  if kind == "timeout" then
    text = timeout_texts[phase]:format(limit)
    hint = ("raise timeout.%s if the server needs longer"):format(phase)
  elseif kind == "limit" then
    text = ("%s (limit: %d bytes)"):format(message, limit)
    hint = "raise the option max_body, or read the answer with stream = true"
  end
  local address = url.redact(call.url)
  return errors.new{
    kind = kind, phase = phase, message = ("%s %s: %s"):format(call.method, address, url.redact(text)), hint = hint,
    method = call.method, url = address, attempts = attempts,
    retryable = kind == "connect" or kind == "dns" or kind == "timeout" or kind == "protocol",
  }
end

-- Whether the request may be sent again after `kind`; `sent`: the server may have acted on it.
local function may_repeat(call, kind, phase, sent)
  if type(call.body) == "function" then return false end
  if kind == "dns" or kind == "connect" then return not sent or call.safe end
  if kind == "timeout" then
    return phase == "connect" and (not sent or call.safe) or phase == "first_byte" and call.safe
  end
  return kind == "protocol" and call.safe
end

-- Seconds to wait before the request may be sent again after this status, or nil.
local function wait_after_status(call, status, res, attempt)
  if type(call.body) == "function" then return nil end
  local refused = status == 429 or status == 503   -- the server says that it did nothing
  if not refused and not (call.safe and (status == 502 or status == 504 or status == 408)) then return nil end
  local asked = exchange.parse_retry_after(res.headers["retry-after"])
  if status == 503 and not asked and not call.safe then return nil end
  if asked and asked > longest_retry_after then return nil end
  return asked or back_off(attempt)
end

-- Sends the pieces that a function returns.
local function send_pieces(transfer, body)
  local piece = body()
  while piece ~= nil do
    if type(piece) ~= "string" then
      errors.raise{kind = "argument", message = "client:request: the body function must return strings, then nil"}
    end
    if #piece > 0 and not transfer:write(piece) then return end
    piece = body()
  end
  transfer:end_body()
end

local function perform_streamed_body(net, call, t, total, max_body)
  local transfer = net:open(call.url, call.method, call.headers, call.content_length or true,
    t.connect, t.first_byte, t.idle, total, max_body, call.stream, call.high_water)
  local ok, err = pcall(send_pieces, transfer, call.body)
  if not ok then
    transfer:close()
    error(err, 0)
  end
  return transfer, transfer:wait()
end

local function attempt_once(self, call, t, total)
  local first = call.first
  if first then
    call.first = nil
    return table.unpack(first, 1, first.n)
  end
  local max_body = call.max_body or self.max_body
  if call.stream and not call.max_body then max_body = -1 end
  if type(call.body) == "function" then
    return perform_streamed_body(self.net, call, t, total, max_body)
  end
  return self.net:perform(call.url, call.method, call.headers, call.body,
    t.connect, t.first_byte, t.idle, total, max_body, call.stream, call.high_water, call.safe)
end

-- Sleeps before the next attempt; false when the budget does not allow it.
local function pause(self, seconds, deadline)
  if deadline and clock.now() + seconds >= deadline then return false end
  self.retried = self.retried + 1
  clock.pause(seconds, self.replays)
  return true
end

local function send_with_retries(self, call)
  local t = self.timeouts
  if call.timeout ~= nil then t = read_timeouts("client:request", call.timeout, t) end
  local retries = call.retries or self.retries
  local total = t.total
  local deadline = total > 0 and clock.now() + total or nil
  if call.safe == nil then
    if call.idempotent ~= nil then call.safe = call.idempotent else call.safe = safe_methods[call.method] or false end
  end
  local attempt = 1
  while true do
    local transfer, status, a, b, c, d, e = attempt_once(self, call, t, total)
    local wait
    if status then
      local res = response.new(transfer, status, a, call.url, call.method)
      if attempt > 1 then res.attempts = attempt end
      if call.stream then res.streamed = true end
      if status < 400 or attempt > retries then return res end
      wait = wait_after_status(call, status, res, attempt)
      if not wait or not pause(self, wait, deadline) then return res end
      res:close()
    else
      local kind, message, phase, limit, sent = a, b, c, d, e
      wait = attempt <= retries and may_repeat(call, kind, phase, sent) and back_off(attempt)
      if not wait or not pause(self, wait, deadline) then
        local err = failure(call, attempt, kind, message, phase, limit)
        err.sent = sent or false
        error(err, 0)
      end
    end
    attempt = attempt + 1
    if deadline then total = math.max(0.001, deadline - clock.now()) end
  end
end

-- Points `call` at where the answer redirects to.
local function redirect(self, call, res, location)
  local from, target = url.parse(call.url), url.resolve(call.url, location)
  local to = url.parse(target)
  local function refuse(why, hint)
    errors.raise{kind = "protocol", status = res.status, method = call.method, url = url.redact(call.url), hint = hint,
      message = ("%s %s: redirect to %s: %s"):format(call.method, url.redact(call.url), url.redact(target), why)}
  end
  if not to or (to.scheme ~= "http" and to.scheme ~= "https") then refuse("not an http or https address") end
  if from.scheme == "https" and to.scheme == "http" then
    refuse("refused, because it gives up encryption", "use the http address itself if that is wanted")
  end
  if type(call.body) == "function" then refuse("the body was streamed and cannot be sent again") end
  if res.status == 303 and call.method ~= "HEAD" then
    call.method, call.body, call.content_type = "GET", nil, nil
  end
  if not url.same_origin(from, to) then
    call.left_origin = true
    if from.userinfo then target = target:gsub("//[^/?#]*@", "//") end
  elseif from.userinfo and not to.userinfo then
    target = target:gsub("://", "://" .. from.userinfo:gsub("%%", "%%%%") .. "@", 1)
  end
  call.url = target
  local allowed = call.left_origin and self.harmless or nil
  call.headers = build_header_set(self, call.header_source, call.content_type, allowed)
end

--- Sends a short request, as hot paths do: the answer when the first attempt brings one that needs nothing more.
--- Otherwise nil and the outcome, with which `send` goes on (as `call.first`).
---@param safe boolean|nil a repeat does no harm
function Exchange:try(method, address, headers, body, safe)
  local t = self.timeouts
  local transfer, status, answer, b, c, d, e = self.net:perform(address, method, headers, body,
    t.connect, t.first_byte, t.idle, t.total, self.max_body, false, nil, safe)
  if status and status < 300 then return response.new(transfer, status, answer, address, method) end
  return nil, table.pack(transfer, status, answer, b, c, d, e)
end

--- Sends a prepared call: {method, url, headers (a header set), header_source, content_type, body, …}.
function Exchange:send(call)
  local res = send_with_retries(self, call)
  local left = call.redirects or self.redirects
  local limit = left
  while redirect_statuses[res.status] and limit > 0 do
    local location = res.headers["location"]
    if not location then break end
    res:close()
    if left == 0 then
      errors.raise{kind = "protocol", status = res.status, method = call.method, url = url.redact(call.url),
        message = ("%s %s: more than %d redirects"):format(call.method, url.redact(call.url), limit)}
    end
    left = left - 1
    redirect(self, call, res, location)
    res = send_with_retries(self, call)
  end
  return res
end

---@class riverlua.Pipeline
local Pipeline = {}
Pipeline.__index = Pipeline
Pipeline.__name = "riverlua.Pipeline"

--- Requests over one connection, each sent without waiting for the answers to those before it. The server answers in
--- their order. Nothing is repeated or redirected here.
---@param options {timeout: number|table|nil}|nil
---@return riverlua.Pipeline
function Exchange:pipeline(options)
  local t = read_timeouts("pipeline", options and options.timeout, self.timeouts)
  return setmetatable({exchange = self, net = self.net, timeouts = t, core = self.net:pipeline()}, Pipeline)
end

--- Whether the next request may be sent at once. If not, it opens a connection (again): its answer is to be awaited
--- first, which proves that the server keeps the connection open.
function Pipeline:ready() return self.core:ready() end

--- Sends a request; also returns its transfer, whose `close` gives it up, and with it the connection. The function
--- that is returned waits for the answer and gives it; or nil, the error and whether the server may have acted on the
--- request. It may be called by several tasks, and again.
---@param safe boolean|nil a repeat does no harm
---@return fun(): riverlua.HttpResponse|nil, table|nil, boolean|nil
function Pipeline:send(method, address, headers, body, safe)
  local t = self.timeouts
  local transfer = self.net:open(address, method, headers, body, t.connect, t.first_byte, t.idle, t.total,
    self.exchange.max_body, false, nil, safe, self.core)
  local outcome
  local function wait()
    if not outcome then
      local status, answer, message, phase, limit, sent = transfer:wait()
      -- another task may have been here meanwhile, and has the body
      if not outcome and status then
        outcome = {response.new(transfer, status, answer, address, method)}
      elseif not outcome then
        local call = {method = method, url = address}
        outcome = {nil, failure(call, 1, answer, message, phase, limit), sent, n = 3}
      end
    end
    return table.unpack(outcome, 1, outcome.n or 1)
  end
  return wait, transfer
end

--- Lets go of the connection; requests under way still get their answers.
function Pipeline:close() self.core:close() end

Pipeline.__close = Pipeline.close

function Exchange:stats()
  local stats = self.net:stats()
  stats.retries = self.retried
  return stats
end

function Exchange:close() self.net:close() end

exchange.failure = failure

return exchange
