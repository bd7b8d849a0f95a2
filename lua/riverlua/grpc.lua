--- gRPC client: unary and server-streaming calls over HTTP/2, with deadlines, metadata, keep-alive and retries.
--
--     local grpc = require "riverlua.grpc"
--     local channel <close> = grpc.Channel{target = "api.example.com:443", metadata = {["x-api-key"] = key}}
--     local reply = channel:unary("/package.Service/Method", request_bytes, {timeout = 5})
--     for reply in channel:stream("/package.Service/Watch", request_bytes) do … end
--
-- A channel has one connection, opened by the first call and again when it is lost; calls of all tasks go over it at
-- the same time. Messages are bytes, or tables where a message type of riverlua.protobuf is given. A call that fails
-- raises kind "grpc".

local block = require "riverlua.core.block"
local core = require "riverlua.core.grpc"
local core_transfer = require "riverlua.core.transfer"
local errors = require "riverlua.errors"
local grpc_target = require "riverlua.grpc_target"
local route = require "riverlua.route"
local runtime = require "riverlua.core.runtime"
local url = require "riverlua.url"

local grpc = {}

local MAX_MESSAGE = 2 ^ 31 - 1 | 0
local TIMEOUT, CONNECT_TIMEOUT = 60, 20
local KEEPALIVE = {interval = 10, timeout = 5}
local RETRIES = {attempts = 5, initial = 0.5, factor = 2, cap = 8, jitter = 0.2}
local MAX_ATTEMPTS = 100
local MAX_PREVIOUS = 1000000

--- The status codes by name: `grpc.status.NOT_FOUND == 5`.
---@type table<string, integer>
grpc.status = {OK = 0, CANCELLED = 1, UNKNOWN = 2, INVALID_ARGUMENT = 3, DEADLINE_EXCEEDED = 4, NOT_FOUND = 5,
  ALREADY_EXISTS = 6, PERMISSION_DENIED = 7, RESOURCE_EXHAUSTED = 8, FAILED_PRECONDITION = 9, ABORTED = 10,
  OUT_OF_RANGE = 11, UNIMPLEMENTED = 12, INTERNAL = 13, UNAVAILABLE = 14, DATA_LOSS = 15, UNAUTHENTICATED = 16}

-- name → type; true: looked at where it is used
local CHANNEL_OPTIONS = {
  target = "string", tls = "boolean", metadata = true, user_agent = "string", timeout = true, connect_timeout = true,
  keepalive = true, max_message = "integer", retries = true, proxy = "string|boolean", ca_file = "string",
  verify = "boolean", unix_socket = "string",
}
local CALL_OPTIONS = {timeout = true, metadata = true, request = "table|userdata", response = "table|userdata",
  wait_for_ready = "boolean", retries = true, previous_attempts = "integer"}

-- --------------------------------------------------------------------------------------------------- arguments

local function refuse(where, text, hint)
  errors.raise{kind = "argument", message = where .. ": " .. text, hint = hint}
end

local function check_table(where, options, allowed)
  errors.expect(where, "options", options, "table")
  errors.check_options(where, options, allowed)
  for name, value in pairs(options) do
    if allowed[name] ~= true then errors.expect(where, name, value, allowed[name]) end
  end
end

local function check_seconds(where, name, value, fallback)
  if value == nil then value = fallback end
  if type(value) ~= "number" or value ~= value or value <= 0 then
    refuse(where, ("'%s' must be a number of seconds above 0"):format(name))
  end
  return value
end

-- A table of metadata → what calls take, or nil when there is none.
local function read_metadata(where, given)
  if given == nil then return nil end
  errors.expect(where, "metadata", given, "table")
  local names, list = {}, {}
  for name in pairs(given) do
    if type(name) ~= "string" then refuse(where, "the names of metadata must be strings") end
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    local values = given[name]
    for _, value in ipairs(type(values) == "table" and values or {values}) do
      if type(value) ~= "string" then
        refuse(where, ("metadata '%s' must be a string or a list of strings"):format(name))
      end
      list[#list + 1], list[#list + 2] = name, value
    end
  end
  return #list > 0 and core.metadata(list) or nil
end

-- → what calls take, or nil for none
local function read_retries(where, given)
  if given == nil or given == false then return nil end
  errors.expect(where, "retries", given, "table")
  errors.check_options(where .. ": retries", given, RETRIES)
  local out = {}
  for i, name in ipairs{"attempts", "initial", "factor", "cap", "jitter"} do
    local value = given[name] == nil and RETRIES[name] or given[name]
    if type(value) ~= "number" or value ~= value or value < 0 or value > 1e9 then
      refuse(where, ("retries.%s must be a number, not negative"):format(name))
    end
    out[i] = value
  end
  if out[1] > MAX_ATTEMPTS then refuse(where, ("retries.attempts must be at most %d"):format(MAX_ATTEMPTS)) end
  if out[5] > 1 then refuse(where, "retries.jitter must be between 0 and 1") end
  return out
end

local function read_keepalive(given)
  if not given then return 0, 0 end   -- servers with default settings end connections that ask oftener than every 5 min
  errors.expect("grpc.Channel", "keepalive", given, "table")
  errors.check_options("grpc.Channel: keepalive", given, KEEPALIVE)
  return check_seconds("grpc.Channel", "keepalive.interval", given.interval, KEEPALIVE.interval),
    check_seconds("grpc.Channel", "keepalive.timeout", given.timeout, KEEPALIVE.timeout)
end

-- → URL of the connection, authority
local function read_target(options)
  local target = options.target
  if target == nil and options.unix_socket then target = "localhost" end
  if type(target) ~= "string" then
    refuse("grpc.Channel", "'target' must be a string", "such as 'api.example.com:443' or 'http://127.0.0.1:50051'")
  end
  return grpc_target.read("grpc.Channel", "target", target, options)
end

-- ----------------------------------------------------------------------------------------------------- errors

local RETRYABLE = {UNAVAILABLE = true, ABORTED = true, RESOURCE_EXHAUSTED = true}

local HINTS = {
  connect = "is the server running, and are address and port right?",
  dns = "is the host name right, and is there a network?",
  timeout = "is the address right? connect_timeout gives it more time",
  tls = "for a private certificate authority, name its file in the option ca_file or in RIVERLUA_CA; "
    .. "a server without TLS is reached by http://host:port",
  unsupported = "install the package libcurl4: it is built with OpenSSL",
}

local function one_line(text) return (text:gsub("%c+", " ")) end

-- `what`: what is wrong with an answer whose status is OK.
local function raise_failure(method, call, what)
  local f = call:failure()
  if what then f.status, f.code, f.text, f.from_server = grpc.status.INTERNAL, "INTERNAL", what, false end
  if f.closed then
    errors.raise{kind = "closed", message = ("%s: %s"):format(method, f.text), method = method, sent = f.sent}
  end
  local text = f.connect and url.redact(f.text) or f.text
  errors.raise{
    kind = "grpc", status = f.status, code = f.code, method = method, attempts = f.attempts, sent = f.sent,
    elapsed = f.elapsed, trailers = f.trailers, details = f.from_server and text or "", from_server = f.from_server,
    local_deadline = f.local_deadline or nil, hint = HINTS[f.connect],
    message = ("%s: %s%s"):format(method, f.code, text ~= "" and ": " .. one_line(text) or ""),
    retryable = (RETRYABLE[f.code] and (f.from_server or f.code == "UNAVAILABLE") and f.connect ~= "tls"
      and f.connect ~= "unsupported") or false,
  }
end

-- ------------------------------------------------------------------------------------------------------- calls

-- What is known of a call that succeeded; headers and trailers are made into tables when they are asked for.
local Info = {__name = "riverlua.grpc.Info"}

function Info.__index(self, name)
  if name ~= "headers" and name ~= "trailers" then return nil end
  local call = rawget(self, "call")
  local value = name == "headers" and call:headers() or call:trailers()
  rawset(self, name, value)
  return value
end

local function new_info(call)
  local _, status, attempts = call:status()
  return setmetatable({status = status, attempts = attempts, call = call}, Info)
end

---@class riverlua.GrpcCall
---@field done boolean whether it has ended
local Call = {}
Call.__name = "riverlua.grpc.Call"

function Call.__index(self, name)
  if name == "done" then return (rawget(self, "core"):status()) end
  return Call[name]
end

function Call:__tostring()
  return ("riverlua.grpc.Call(%s)"):format(self.method)
end

local function decode(call, bytes)
  local response = call.response
  return response and response:decode(bytes) or bytes
end

--- Waits for the one message of the answer. Raises what made the call fail: see `Channel:unary`.
---@return string|table reply
---@return table info see `Channel:unary`
function Call:result()
  local reply = rawget(self, "reply")
  if reply == nil then
    local bytes = self.core:wait()
    if bytes == nil then
      local _, status = self.core:status()
      raise_failure(self.method, self.core, status == 0 and "the server said OK but sent no message" or nil)
    elseif self.core:next() then
      raise_failure(self.method, self.core, "the server sent several messages where one is wanted")
    end
    reply = decode(self, bytes)
    self.reply = reply
  end
  return reply, new_info(self.core)
end

--- Waits for the next message of a streamed answer; nil: it has ended well. Raises what made it fail.
---@return string|table|nil reply
function Call:next()
  local bytes = self.core:next()
  if bytes then return decode(self, bytes) end
  local _, status = self.core:status()
  if status ~= 0 then raise_failure(self.method, self.core) end
  return nil
end

--- Ends the call; the server is told. Does nothing when it has ended.
function Call:cancel() self.core:cancel() end

--- The headers of the answer (lower-case name → value, several joined with ", "; names ending in -bin have bytes).
--- Waits for them; empty when there were only trailers.
---@return table<string, string>
function Call:headers() return self.core:headers() end

--- The trailers, once it is done.
---@return table<string, string>
function Call:trailers() return self.core:trailers() end

Call.__close = Call.cancel

-- ---------------------------------------------------------------------------------------------------- channels

---@class riverlua.GrpcChannel
local Channel = {}
Channel.__index = Channel
Channel.__name = "riverlua.grpc.Channel"

-- Channels with the same options share what libcurl needs only once.
local nets = setmetatable({}, {__mode = "v"})

local function net_for(options)
  local profile = route.profile(options)
  profile.http, profile.decompress, profile.plain_http1, profile.alpn_h2 = "1.1", false, false, true
  local key = ("%s\0%s\0%s\0%s"):format(profile.proxy, profile.ca_file, profile.unix_socket, profile.verify)
  local net = nets[key]
  if not net then
    net = core_transfer.net(profile)
    nets[key] = net
  end
  return net
end

--- Makes a channel: calls to one server. Nothing is opened before the first call. `options`:
--- `target`: "host:port", "https://host[:port]" or "http://host[:port]" (default port: 443, without TLS 80);
--- `tls`: default true, but for http; `metadata`, sent with every call: name → string or list of strings, names in
--- lower case, values of names ending in -bin are any bytes; `user_agent`: stands before riverlua's own;
--- `timeout` = 60 s for a call that has none of its own; `connect_timeout` = 20 s;
--- `keepalive` = {interval = 10, timeout = 5} s: a PING after so much silence, also when there are no calls; the
--- connection is dead when nothing comes in time (default: none, as servers have to allow it);
--- `max_message` = 2^31-1: the largest message that is accepted, in bytes;
--- `retries`: further attempts of calls that end UNAVAILABLE before anything of an answer has come, none by default:
--- `{attempts = 5, initial = 0.5, factor = 2, cap = 8, jitter = 0.2}` (attempts in all, pauses in seconds);
--- `proxy`, `ca_file`, `verify`, `unix_socket`: as riverlua.http (a channel over a Unix socket has no TLS unless it is
--- asked for).
---@param options table
---@return riverlua.GrpcChannel
function grpc.Channel(options)
  check_table("grpc.Channel", options, CHANNEL_OPTIONS)
  if options.proxy == true then refuse("grpc.Channel", "'proxy' must be a URL, or false for none") end
  local address, authority = read_target(options)
  local interval, answer = read_keepalive(options.keepalive)
  local agent = "riverlua/" .. runtime.version
  if options.user_agent then
    if options.user_agent:find("[^\x20-\x7e]") then refuse("grpc.Channel", "'user_agent' must be printable ASCII") end
    agent = options.user_agent .. " " .. agent
  end
  local max_message = options.max_message or MAX_MESSAGE
  if max_message < 1 then refuse("grpc.Channel", "'max_message' must be above 0") end
  local metadata = read_metadata("grpc.Channel", options.metadata) or core.metadata{}
  return setmetatable({
    authority = authority,
    timeout = check_seconds("grpc.Channel", "timeout", options.timeout, TIMEOUT),
    max_message = max_message,
    retries = read_retries("grpc.Channel", options.retries),
    core = core.channel(net_for(options), {
      url = address, authority = authority, user_agent = agent, keepalive = interval, keepalive_timeout = answer,
      connect = check_seconds("grpc.Channel", "connect_timeout", options.connect_timeout, CONNECT_TIMEOUT),
    }, metadata),
  }, Channel)
end

local function check_method(where, self, method)
  if getmetatable(self) ~= Channel then
    refuse(where, "call it with a colon: channel:unary(method, request)")
  end
  if method == self.known then return end
  if type(method) ~= "string" or not method:find("^/[\x21-\x2e\x30-\x7e]+/[\x21-\x2e\x30-\x7e]+$") then
    refuse(where, ("'%s' is not a method"):format(tostring(method)), "such as /package.Service/Method")
  end
  self.known = method   -- the one that was good last time is
end

local NONE = {}

-- What the core's functions take, and the type of the answer.
local function prepare(where, self, method, request, options)
  check_method(where, self, method)
  local timeout, retries, metadata = self.timeout, self.retries, nil
  if options == nil then
    options = NONE
  else
    check_table(where, options, CALL_OPTIONS)
    if options.timeout ~= nil then timeout = check_seconds(where, "timeout", options.timeout) end
    if options.retries ~= nil then retries = read_retries(where, options.retries) end
    metadata = read_metadata(where, options.metadata)
    if options.request then request = options.request:encode(request) end
    local previous = options.previous_attempts
    if previous and (previous < 0 or previous > MAX_PREVIOUS) then
      refuse(where, ("'previous_attempts' must be from 0 to %d"):format(MAX_PREVIOUS))
    end
  end
  if type(request) ~= "string" and not block.is(request) then
    refuse(where, ("the request must be a string, got %s"):format(type(request)),
      "a table can be given with options.request = a message type of riverlua.protobuf")
  end
  return request, metadata, timeout, retries, options.wait_for_ready, options.previous_attempts, options.response
end

--- Calls a method that answers with one message, and waits for it.
---@param method string "/package.Service/Method"
---@param request string|table the message's bytes; a table when `options.request` is given
---@param options table|nil `timeout` (seconds), `metadata` (in addition to the channel's), `request` and `response`
--- (message types of riverlua.protobuf: the request and the reply are tables then), `wait_for_ready` (a server that
--- cannot be reached is waited for until the deadline), `retries` (instead of the channel's; false: none),
--- `previous_attempts` (how often the caller has tried before; the server is told)
---@return string|table reply
---@return table info {headers, trailers, status = 0, attempts}
---Raises kind="grpc" with `status` (number), `code` ("NOT_FOUND"), `details` (the server's text), `trailers`, `method`,
---`attempts`, `elapsed`, `sent` (false: the server has certainly not acted), `retryable`; `local_deadline` = true when
---the deadline passed here. kind="closed": the channel was closed.
function Channel:unary(method, request, options)
  local bytes, metadata, timeout, retries, ready, previous, response = prepare("channel:unary", self, method, request,
    options)
  local reply, call = self.core:unary(method, bytes, metadata, timeout, self.max_message, retries, ready, previous)
  if reply == nil then raise_failure(method, call) end
  if response then reply = response:decode(reply) end
  return reply, new_info(call)
end

local function start(where, self, method, request, options)
  local bytes, metadata, timeout, retries, ready, previous, response = prepare(where, self, method, request, options)
  local call = self.core:start(method, bytes, metadata, timeout, self.max_message, retries, ready, previous)
  return setmetatable({core = call, method = method, response = response}, Call)
end

--- Calls a method that answers with any number of messages: `for reply in channel:stream(…) do`. Leaving the loop ends
--- the call. A server that is faster than its reader has to wait.
---@param method string
---@param request string|table
---@param options table|nil as for `unary`
---Raises as `unary`, also in the middle of the loop.
function Channel:stream(method, request, options)
  local call = start("channel:stream", self, method, request, options)
  return Call.next, call, nil, call
end

--- Begins a call and does not wait: `call:result()` waits for its only message, `call:next()` for one after the other.
--- A call that nothing refers to any more is ended.
---@param method string
---@param request string|table
---@param options table|nil as for `unary`
---@return riverlua.GrpcCall
function Channel:call(method, request, options)
  return start("channel:call", self, method, request, options)
end

--- Counts: `connections` opened, `calls` begun, calls `in_flight`; the versions `libcurl` and `nghttp2`.
---@return {connections: integer, calls: integer, in_flight: integer, libcurl: string, nghttp2: string}
function Channel:stats() return self.core:stats() end

--- Closes the connection. Calls under way raise kind "closed".
function Channel:close() self.core:close() end

Channel.__close = Channel.close

function Channel:__tostring()
  return ("riverlua.grpc.Channel(%s)"):format(self.authority)
end

-- ------------------------------------------------------------------------------------------------------- stubs

local function method_of(service, name)
  local method = service.methods[name]
  if method then return method end
  local near = errors.suggest(tostring(name), service.methods)
  refuse(service.name, ("there is no method '%s'"):format(tostring(name)),
    near and ("did you mean '%s'?"):format(near) or nil)
end

local function with_types(options, method)
  local all = {request = method.request, response = method.response}
  for name, value in pairs(options or NONE) do all[name] = value end
  return all
end

--- The methods of a service of riverlua.protobuf as functions: `stub:Method({field = value}, options)` as `unary`,
--- `stub:stream("Method", {…}, options)` as `stream`, `stub:call("Method", {…}, options)` as `call`.
---@param service table of riverlua.protobuf
---@return table<string, function>
function Channel:stub(service)
  local channel = self
  local stub = {}
  function stub.stream(_, name, request, options)
    local method = method_of(service, name)
    return channel:stream(method.path, request, with_types(options, method))
  end
  function stub.call(_, name, request, options)
    local method = method_of(service, name)
    return channel:call(method.path, request, with_types(options, method))
  end
  return setmetatable(stub, {__index = function(_, name)
    local method = method_of(service, name)
    local function call(_, request, options)
      return channel:unary(method.path, request, with_types(options, method))
    end
    stub[name] = call
    return call
  end})
end

return grpc
