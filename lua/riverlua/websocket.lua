--- WebSockets (RFC 6455).
--
--     local websocket = require "riverlua.websocket"
--     local ws <close> = websocket.connect("wss://example.com/live?room=7")
--     ws:send("hello")
--     for text in ws:messages() do print(text) end
--     print(ws.close_code, ws.close_reason)
--
-- Calls wait as all blocking calls of riverlua do: other tasks go on, a cancelled task stops waiting. Pings and close
-- frames are answered by themselves, while any task waits for something. What comes in is read ahead up to 1 MiB;
-- then the server has to wait until it is received. Extensions (compression) are not offered.

local core = require "riverlua.core.websocket"
local core_transfer = require "riverlua.core.transfer"
local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local response = require "riverlua.response"
local route = require "riverlua.route"
local runtime = require "riverlua.core.runtime"
local tasks = require "riverlua.core.task"
local url = require "riverlua.url"
local websocket_socket = require "riverlua.websocket_socket"

local websocket = {}

local MAX_MESSAGE = 16 * 1024 * 1024
local TIMEOUTS = {connect = 10, handshake = 10}

-- name → type; true: looked at where it is used
local OPTIONS = {
  headers = "table", subprotocols = "table", timeout = true, proxy = "string|boolean", ca_file = "string",
  verify = "boolean", unix_socket = "string", max_message = "integer", origin = "string", recording = "table",
}
local RECORDING = {label = "string|nil", ignore = "callable|nil"}

-- What the handshake itself says.
local OWN_HEADERS = {["connection"] = true, ["upgrade"] = true, ["content-length"] = true,
  ["transfer-encoding"] = true, ["sec-websocket-key"] = true, ["sec-websocket-version"] = true,
  ["sec-websocket-extensions"] = true, ["sec-websocket-protocol"] = true, ["sec-websocket-accept"] = true}

local TOKEN = "^[%w!#$%%&'*+.^_`|~-]+$"

local function refuse(text, hint)
  errors.raise{kind = "argument", message = "websocket.connect: " .. text, hint = hint}
end

local function check_options(options)
  errors.expect("websocket.connect", "options", options, "table")
  errors.check_options("websocket.connect", options, OPTIONS)
  for name, value in pairs(options) do
    if OPTIONS[name] ~= true then errors.expect("websocket.connect", name, value, OPTIONS[name]) end
  end
  if options.recording then
    errors.check_options("websocket.connect: recording", options.recording, RECORDING)
    for name, wanted in pairs(RECORDING) do
      errors.expect("websocket.connect", "recording." .. name, options.recording[name], wanted)
    end
  end
  if options.proxy == true then refuse("'proxy' must be a URL, or false for none") end
  if options.max_message and options.max_message < 0 then refuse("'max_message' must not be negative") end
end

-- Seconds or a table of seconds → those of a connect and a handshake (0: no limit), and of both together or nil.
local function read_timeouts(given)
  if given == nil then return TIMEOUTS.connect, TIMEOUTS.handshake end
  if given == false then return 0, 0 end
  local total = type(given) == "number" and given or nil
  if total then given = {connect = total, handshake = total} end
  errors.expect("websocket.connect", "timeout", given, "table|number")
  errors.check_options("websocket.connect: timeout", given, TIMEOUTS)
  local out = {}
  for name, fallback in pairs(TIMEOUTS) do
    local value = given[name]
    if value == nil then value = fallback end
    if value == false then value = 0 end
    if type(value) ~= "number" or value < 0 or value ~= value then
      refuse(("timeout.%s must be a number of seconds or false"):format(name))
    end
    out[name] = value
  end
  return out.connect, out.handshake, total and total > 0 and total or nil
end

-- ------------------------------------------------------------------------------------------------- connections

-- WebSockets with the same options share what libcurl needs only once: it is more than a WebSocket needs.
local nets = setmetatable({}, {__mode = "v"})

local function net_for(options)
  local profile = route.profile(options)
  profile.http, profile.decompress, profile.plain_http1 = "1.1", false, false
  local key = ("%s\0%s\0%s\0%s"):format(profile.proxy, profile.ca_file, profile.unix_socket, profile.verify)
  local net = nets[key]
  if not net then
    net = core_transfer.net(profile)
    nets[key] = net
  end
  return net
end

local function open_socket(call) return core.open(net_for(call.options), call.place, call.connect) end

-- Opens a connection; one that records what goes over it, or that replays it without a network, when the environment
-- asks for that (see docs/recording.md).
local function open(call)
  if os.getenv("RIVERLUA_RECORD") or os.getenv("RIVERLUA_REPLAY") then
    local session = require("riverlua.recording").session()
    if session and session.mode == "replay" then
      call.replays = true
      return require("riverlua.recording.websocket_replay").open(session, call)
    elseif session then
      return require("riverlua.recording.websocket_record").open(session, call, open_socket)
    end
  end
  return open_socket(call)
end

-- --------------------------------------------------------------------------------------------------- handshake

local function parse_address(address)
  errors.expect("websocket.connect", "url", address, "string")
  local parts = url.parse(address)
  if not parts or (parts.scheme ~= "ws" and parts.scheme ~= "wss") then
    refuse(("'%s' is not a ws or wss address"):format(url.redact(address)), "such as wss://example.com/socket")
  end
  if not parts.host:find("^[%w%[%]:._%%-]+$") then
    refuse(("'%s' is not a host name"):format(parts.host), "names in other scripts are written as xn--…")
  end
  parts.secure = parts.scheme == "wss"
  local usual = parts.secure and 443 or 80
  parts.port = parts.port or usual
  if parts.port > 65535 then refuse("a port is at most 65535") end
  parts.authority = parts.host .. (parts.port == usual and "" or ":" .. parts.port)
  local target = parts.path .. (parts.query and "?" .. parts.query or "")
  parts.target = target:gsub("[^\x21-\x7e]", function(char) return ("%%%02X"):format(char:byte()) end)
  return parts
end

local function add_header(lines, name, value)
  value = tostring(value)
  if value:find("[\r\n\0]") then refuse(("the header '%s' has a line break in it"):format(name)) end
  lines[#lines + 1] = name .. ": " .. value
end

-- Adds the caller's headers; returns the set of their names in lower case.
local function add_headers(lines, headers)
  local seen = {}
  for name, value in pairs(headers or {}) do
    if type(name) ~= "string" or not name:find(TOKEN) then
      refuse(("'%s' is not a header's name"):format(tostring(name)))
    end
    local lower = name:lower()
    if OWN_HEADERS[lower] then
      refuse(("the header '%s' is made by the handshake"):format(name),
        lower == "sec-websocket-protocol" and "use the option subprotocols" or nil)
    end
    seen[lower] = true
    for _, one in ipairs(type(value) == "table" and value or {value}) do add_header(lines, name, one) end
  end
  return seen
end

local function join_protocols(protocols)
  if not protocols or #protocols == 0 then return nil end
  for _, name in ipairs(protocols) do
    if type(name) ~= "string" or not name:find(TOKEN) then
      refuse(("'%s' is not a subprotocol's name"):format(tostring(name)))
    end
  end
  return table.concat(protocols, ", ")
end

local function build_request(parts, options, key, protocols)
  local lines = {"GET " .. parts.target .. " HTTP/1.1"}
  local own = {}
  local seen = add_headers(own, options.headers)
  if not seen.host then lines[2] = "Host: " .. parts.authority end
  lines[#lines + 1] = "Upgrade: websocket"
  lines[#lines + 1] = "Connection: Upgrade"
  lines[#lines + 1] = "Sec-WebSocket-Key: " .. key
  lines[#lines + 1] = "Sec-WebSocket-Version: 13"
  if protocols then lines[#lines + 1] = "Sec-WebSocket-Protocol: " .. protocols end
  if options.origin then add_header(lines, "Origin", options.origin) end
  if not seen["user-agent"] then lines[#lines + 1] = "User-Agent: riverlua/" .. runtime.version end
  if parts.userinfo and not seen.authorization then
    local user, password = parts.userinfo:match("^([^:]*):?(.*)$")
    lines[#lines + 1] = "Authorization: Basic " .. digest.to_base64(url.unescape(user) .. ":" .. url.unescape(password))
  end
  table.move(own, 1, #own, #lines + 1, lines)
  return table.concat(lines, "\r\n") .. "\r\n\r\n"
end

-- ------------------------------------------------------------------------------------------------------ errors

local HINTS = {
  connect = "is the server running, and is the address right?",
  dns = "is the host name right, and is there a network?",
  tls = "for a private certificate authority, name its file in the option ca_file or in RIVERLUA_CA",
}

local function raise_unconnected(address, kind, message, phase, limit)
  local text, hint = message, HINTS[kind]
  if kind == "timeout" then
    text, hint = ("no connection within %g s"):format(limit), "raise timeout.connect if the server needs longer"
  end
  errors.raise{kind = kind, phase = phase, url = address, hint = hint, retryable = kind ~= "tls" and kind ~= "argument",
    message = ("websocket %s: %s"):format(address, url.redact(text))}
end

local STATUS_HINTS = {
  [401] = "the server wants credentials", [403] = "the server refuses these credentials",
  [404] = "is the path right?", [426] = "the server does not speak this version of the protocol",
}

-- The server answered, but not as one that speaks WebSocket would.
local function raise_refused(address, status, head, body)
  local hint = STATUS_HINTS[status]
  if status >= 300 and status < 400 then hint = "WebSockets follow no redirects: use the new address" end
  errors.raise{kind = "websocket", status = status, url = address, hint = hint, body = body,
    headers = response.parse_head(head), retryable = status == 429 or status >= 500,
    message = ("websocket %s: the server answered %d instead of switching to WebSocket"):format(address, status)}
end

local function raise_unanswered(address, kind, detail)
  if kind == "timeout" then
    errors.raise{kind = "timeout", phase = "handshake", url = address, retryable = true,
      message = ("websocket %s: the server did not answer within %g s"):format(address, detail),
      hint = "raise timeout.handshake if the server needs longer"}
  end
  errors.raise{kind = kind == "closed" and "closed" or "websocket", url = address, retryable = true,
    message = ("websocket %s: %s"):format(address, detail)}
end

-- -------------------------------------------------------------------------------------------- the public call

--- Opens a WebSocket to a `ws:` or `wss:` URL. User name and password in it are sent as Basic authorization.
---
--- Options: `headers` (name → value or list of values), `subprotocols` (list of names, the preferred one first),
--- `timeout` (seconds for all until it is open, or `{connect = 10, handshake = 10}`; false: none), `proxy` (URL; false:
--- none; default: `http_proxy` for ws, `https_proxy` for wss, `all_proxy`, but for `no_proxy`; the proxy must allow
--- CONNECT), `ca_file` (default: RIVERLUA_CA, SSL_CERT_FILE, the system's), `verify` (default true), `unix_socket`
--- (path), `max_message` (largest message that is accepted, in bytes; default 16 MiB), `origin` (default: none),
--- `recording` (see docs/recording.md): `{label = text, ignore = function(text, way) … end}`.
---@param address string
---@param options table|nil
---@return riverlua.WebSocket
---Raises kind="dns", "connect", "tls" or "timeout" as riverlua.http does; kind="websocket" when the server does not
---switch: with `status`, `headers` and the first 4 KB of the `body` when it answered something else.
function websocket.connect(address, options)
  options = options or {}
  check_options(options)
  local parts = parse_address(address)
  local connect, handshake, total = read_timeouts(options.timeout)
  local protocols = join_protocols(options.subprotocols)
  local key = digest.to_base64(digest.random(16))
  local request = build_request(parts, options, key, protocols)
  local shown = url.redact(address)
  local start = tasks.now()
  local place = ("%s://%s:%d/"):format(parts.secure and "https" or "http", parts.host, parts.port)
  local call = {address = address, request = request, options = options, place = place, connect = connect,
    recording = options.recording}
  local socket, kind, message, phase, limit = open(call)
  if not socket then raise_unconnected(shown, kind, message, phase, limit) end
  if total then handshake = math.max(0.001, total - (tasks.now() - start)) end
  local ok, a, b, c = socket:handshake(request, key, protocols, options.max_message or MAX_MESSAGE, handshake)
  if ok then
    return websocket_socket.new(socket, {name = "websocket " .. shown, url = shown, subprotocol = b,
      headers = response.parse_head(a), replayed = call.replays})
  end
  if type(a) == "number" then raise_refused(shown, a, b, c) end
  raise_unanswered(shown, a, b)
end

--- What a server answers in Sec-WebSocket-Accept to a client's Sec-WebSocket-Key.
---@type fun(key: string): string
websocket.accept = core.accept

return websocket
