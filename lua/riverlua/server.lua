--- An HTTP/1.1 server inside riverlua: one task per connection, on the same loop as everything else.
--
--     local server = require("riverlua.server").new{port = 8080, handler = function(req)
--       return {status = 200, headers = {["content-type"] = "text/plain"}, body = "hello " .. req.path}
--     end}
--     print("port", server.port)
--     server:run{signals = true}   -- until Ctrl-C, SIGTERM or server:stop() from another task
--
-- The handler gets a request `{method, path, headers, body, version, address}`: `path` as it came (with its query,
-- percent-encoded), `headers` by name in any case, `body` bytes or nil. It returns `{status, headers, body}`, or
-- `{status, headers, stream, close}`: `stream()` gives the next piece (sent at once) or nil at the end, and `close()`
-- is called once when the stream is over, whatever ended it. A stream that waits while the client goes away is
-- cancelled. Handlers may block as any task does; while one waits the others are served. What a handler raises is
-- answered with a plain 500 and told to `on_error`.
--
-- An answer `{websocket = function(ws) … end}` switches to WebSocket: the function runs in the connection's task with
-- the object that riverlua.websocket gives a client (`ws:receive()`, `ws:send(text)`, …), and the WebSocket is closed
-- when it returns (or raises: 1011). It may also say `subprotocols` (those it speaks, the preferred one first; the one
-- agreed on is `ws.subprotocol`), `max_message` (bytes, default 1 MiB) and `headers`. A request that does not ask for
-- a WebSocket, or for another version than 13, gets 426; a malformed one 400. It counts as a stream.
--
-- The server takes care of keep-alive, pipelined requests, HEAD, `Expect: 100-continue`, chunks both ways, HTTP/1.0,
-- deadlines and limits; what is no proper request is refused with 400, 408, 413, 414, 417, 431, 501 or 505, what is
-- too much at once with 503.

local core = require "riverlua.core.listener"
local errors = require "riverlua.errors"
local server_run = require "riverlua.server_run"
local task = require "riverlua.task"

local tasks = require "riverlua.core.task"

local server = {}

-- A connection with many requests at hand lets others go on after so many.
local REQUESTS_PER_TURN = 16
-- Connections above the limit that are told so at a time; others wait in the system.
local TURNED_AWAY = 32
-- Seconds that a client gets to end a body nobody reads: most look at the answer only then.
local DRAIN = 20

local DEFAULTS = {
  host = "127.0.0.1", port = 0, backlog = 511, max_connections = 512,
  idle_timeout = 75, head_timeout = 20, body_timeout = 60, write_timeout = 60, grace = 5,
  max_target = 8192, max_head = 65536, max_headers = 100, max_body = 16 * 1024 * 1024,
}
-- As good as no limit, and safe to calculate with.
local MOST = 1 << 30
local OPTIONS = {handler = true, accept = true, on_error = true, max_bodies = true, max_streams = true}
for name in pairs(DEFAULTS) do OPTIONS[name] = true end

local REASONS = {
  [100] = "Continue", [200] = "OK", [201] = "Created", [202] = "Accepted", [204] = "No Content",
  [206] = "Partial Content", [301] = "Moved Permanently", [302] = "Found", [303] = "See Other",
  [304] = "Not Modified", [307] = "Temporary Redirect", [308] = "Permanent Redirect", [400] = "Bad Request",
  [401] = "Unauthorized", [403] = "Forbidden", [404] = "Not Found", [405] = "Method Not Allowed",
  [406] = "Not Acceptable", [408] = "Request Timeout", [409] = "Conflict", [410] = "Gone", [411] = "Length Required",
  [413] = "Content Too Large", [414] = "URI Too Long", [415] = "Unsupported Media Type",
  [417] = "Expectation Failed", [422] = "Unprocessable Content", [426] = "Upgrade Required",
  [429] = "Too Many Requests", [431] = "Request Header Fields Too Large", [500] = "Internal Server Error",
  [501] = "Not Implemented", [502] = "Bad Gateway", [503] = "Service Unavailable", [504] = "Gateway Timeout",
  [505] = "HTTP Version Not Supported",
}

-- ------------------------------------------------------------------------------------------------------ requests

---@class riverlua.server.Request
---@field method string
---@field path string with the query, percent-encoded, as it came
---@field headers table<string, string> looked up in any case; repeated ones joined with ", "
---@field body string|nil
---@field version string "1.0" or "1.1"
---@field address string|nil the client's
local Request = {}

local Headers = {}

function Headers:__index(name)
  return type(name) == "string" and rawget(self, name:lower()) or nil
end

-- By hand: a pattern would take quadratic time for a value of many blanks.
local function without_blanks_at_end(text)
  local last = #text
  local byte = text:byte(last)
  while byte == 32 or byte == 9 do
    last = last - 1
    byte = text:byte(last)
  end
  return last < #text and text:sub(1, last) or text
end

local function parse_headers(block)
  local headers = {}
  for name, value in block:gmatch("([^:\r\n]+):[ \t]*([^\r\n]*)\r\n") do
    name, value = name:lower(), without_blanks_at_end(value)
    local known = headers[name]
    headers[name] = known and known .. ", " .. value or value
  end
  return setmetatable(headers, Headers)
end

-- Few handlers look at the headers.
function Request:__index(name)
  if name == "headers" then
    local headers = parse_headers(self.block)
    self.headers = headers
    return headers
  end
  return nil
end

-- The path of a request target in any of its forms; nil: there is none.
local function path_of(method, target)
  if target:byte() == 47 then return target end   -- '/'
  if target == "*" and method == "OPTIONS" then return target end
  local rest = target:match("^[Hh][Tt][Tt][Pp][Ss]?://[^/?#]+(.*)$")
  if not rest then return nil end
  return rest:find("^/") and rest or "/" .. rest
end

-- ------------------------------------------------------------------------------------------------------- answers

local DAYS = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"}
local MONTHS = {"Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"}

-- The Date header, made once a second; in English whatever the locale.
local function date_line(self)
  local now = os.time()
  if self.date_of ~= now then
    local d = os.date("!*t", now)
    self.date_of = now
    self.date = ("\r\nDate: %s, %02d %s %d %02d:%02d:%02d GMT\r\n"):format(DAYS[d.wday], d.day, MONTHS[d.month],
      d.year, d.hour, d.min, d.sec)
  end
  return self.date
end

-- "content-type" → "Content-Type"
local spelling = setmetatable({}, {__index = function(known, name)
  local text = tostring(name)
  if not text:find("^[%w!#$%%&'*+.^_`|~-]+$") then
    errors.raise{kind = "argument", message = "the handler gave a header without a proper name"}
  end
  text = text:gsub("%f[%w]%l", string.upper)
  if type(name) == "string" and #name < 64 then rawset(known, name, text) end
  return text
end})

-- The server's own business: how the answer is sent.
local OWN = {["Content-Length"] = true, ["Transfer-Encoding"] = true, Connection = true, Date = true,
  ["Keep-Alive"] = true, Trailer = true, Upgrade = true}

local function add_header(lines, name, value)
  local text = tostring(value)
  if text:find("[\r\n\0]") then
    errors.raise{kind = "argument", message = ("the handler gave a header '%s' with a line break"):format(name)}
  end
  lines[#lines + 1] = name .. ": " .. text .. "\r\n"
end

-- The handler's header lines, and whether it wants the connection closed.
local function header_lines(headers)
  local lines, close = {}, false
  for key, value in pairs(headers) do
    local name = spelling[key]
    if name == "Connection" then
      close = tostring(value):lower() == "close"
    elseif not OWN[name] then
      if type(value) == "table" then
        for _, one in ipairs(value) do add_header(lines, name, one) end
      else
        add_header(lines, name, value)
      end
    end
  end
  return table.concat(lines), close
end

local NO_HEADERS = {}

local status_lines = setmetatable({}, {__index = function(known, status)
  local line = ("HTTP/1.1 %d %s"):format(status, REASONS[status] or "Status")
  known[status] = line
  return line
end})

local function check_websocket(res)
  errors.expect("the handler's answer", "websocket", res.websocket, "callable")
  errors.expect("the handler's answer", "headers", res.headers, "table|nil")
  errors.expect("the handler's answer", "subprotocols", res.subprotocols, "table|nil")
  errors.expect("the handler's answer", "max_message", res.max_message, "integer|nil")
  return header_lines(res.headers or NO_HEADERS)
end

local function check_answer(res)
  if type(res) == "table" and res.websocket ~= nil then return check_websocket(res) end
  if type(res) ~= "table" or math.type(res.status) ~= "integer" or res.status < 200 or res.status > 999 then
    errors.raise{kind = "argument", message = "the handler must return a table with a status of 200 or above"}
  end
  if res.body ~= nil then errors.expect("the handler's answer", "body", res.body, "string") end
  if res.stream ~= nil then errors.expect("the handler's answer", "stream", res.stream, "callable") end
  if res.headers ~= nil then errors.expect("the handler's answer", "headers", res.headers, "table") end
  return header_lines(res.headers or NO_HEADERS)
end

local function connection_line(keep_alive, minor)
  if not keep_alive then return "Connection: close\r\n" end
  return minor == 0 and "Connection: keep-alive\r\n" or ""
end

local function plain(status, text)
  return {status = status, headers = {["content-type"] = "text/plain; charset=utf-8"}, body = text .. "\n"}
end

local function say(self, problem, req)
  local ok, fault = pcall(self.on_error, problem, req)
  if not ok then io.stderr:write("riverlua.server: on_error failed: ", tostring(fault), "\n") end
end

local function default_on_error(problem, req)
  io.stderr:write("riverlua.server: ", req and req.method .. " " .. req.path .. ": " or "", tostring(problem), "\n")
end

-- The connection ends with it: what keeps others out shall be as little as possible.
local function busy(text)
  local res = plain(503, text)
  res.headers["retry-after"], res.headers.connection = "1", "close"
  return res
end

-- Whether the answer to this status has no body at all.
local function is_bodiless(status) return status == 204 or status == 304 end

-- ------------------------------------------------------------------------------------------------------- streams

local function end_of_stream(res)
  if type(res) == "table" and res.stream and res.close then res.close() end
end

-- Sends the pieces of a stream until it ends or the client is gone. Returns whether it was sent whole.
local function send_pieces(self, connection, res, chunked)
  local next_piece = res.stream
  while not self.stopping do
    local piece = next_piece()
    if piece == nil then return true end
    if piece ~= "" then
      local there
      if chunked then there = connection:write(("%x\r\n%s\r\n"):format(#piece, piece))
      else there = connection:write(piece) end
      if not there then return false end
    end
  end
  return true
end

-- Runs the pieces under a watch that cancels them when the client goes away.
local function send_watched(self, connection, state, res, chunked)
  local own = task.current()
  local watcher <close> = task.spawn(function()   -- luacheck: ignore 211
    connection:wait_gone()
    state.gone = true
    own:cancel("the client has gone")
  end)
  state.streaming = true
  local ok, whole = pcall(send_pieces, self, connection, res, chunked)
  state.streaming = false
  return ok, whole
end

-- Sends a streamed answer; true when the connection can go on.
local function send_stream(self, connection, state, req, res, lines, keep_alive)
  local chunked = req.version == "1.1"
  keep_alive = keep_alive and chunked
  local head = status_lines[res.status] .. date_line(self) .. lines ..
    connection_line(keep_alive, chunked and 1 or 0) .. (chunked and "Transfer-Encoding: chunked\r\n\r\n" or "\r\n")
  if not connection:write(head) then return false end
  if req.method == "HEAD" then return keep_alive end
  local ok, whole = send_watched(self, connection, state, res, chunked)
  if not ok and not errors.is(whole, "cancelled") then
    say(self, whole, req)   -- the client sees that the answer was cut off
    return false
  end
  if state.gone or (ok and not whole) then return false end
  if chunked then connection:write("0\r\n\r\n") end
  return keep_alive and not self.stopping
end

-- ---------------------------------------------------------------------------------------------------- connections

-- Sends an answer that is no stream, in one write; true when the connection can go on.
local function send_whole(self, connection, state, req, res, lines, keep_alive, minor)
  local status, body = res.status, res.body or ""
  local head = status_lines[status] .. date_line(self) .. lines .. connection_line(keep_alive, minor)
  if is_bodiless(status) then
    head, body = head .. "\r\n", nil
  else
    head = head .. "Content-Length: " .. #body .. "\r\n\r\n"
    if req.method == "HEAD" then body = nil end
  end
  -- answers to pipelined requests may share a packet
  return connection:write(head, body, keep_alive and state.more) and keep_alive
end

-- The answer in place of one that cannot be had or sent.
local function fault(self, problem, req)
  if errors.is(problem, "cancelled") or errors.is(problem, "interrupted") then error(problem, 0) end
  say(self, problem, req)
  return plain(500, "internal server error")
end

-- Says why a request to switch to WebSocket is not granted.
local function refuse_websocket(self, connection, state, req, answer)
  local lines = "Content-Type: text/plain; charset=utf-8\r\n"
  if answer.status == 426 then lines = lines .. "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" end
  return send_whole(self, connection, state, req, answer, lines, false, 1)
end

-- Switches to WebSocket, or says why not. The connection ends with it.
local function send_websocket(self, connection, state, req, res, lines)
  local websocket_server = require "riverlua.websocket_server"
  local status, text = websocket_server.judge(req)
  if status then return refuse_websocket(self, connection, state, req, plain(status, text)) end
  local made, endpoint = pcall(websocket_server.endpoint, res.max_message)   -- while it is not too late to say no
  if not made then return refuse_websocket(self, connection, state, req, fault(self, endpoint, req)) end
  local agreed, subprotocol = websocket_server.agree(req, res.subprotocols)
  if not connection:write("HTTP/1.1 101 Switching Protocols" .. date_line(self) .. lines .. agreed .. "\r\n") then
    return false
  end
  state.streaming = true
  local ok, problem = pcall(websocket_server.run, connection, endpoint, req, res.websocket, subprotocol)
  state.streaming = false
  if not ok then
    if errors.is(problem, "cancelled") or errors.is(problem, "interrupted") then error(problem, 0) end
    say(self, problem, req)
  end
  return false
end

-- Sends a stream, which ends then whatever happened; true when the connection can go on.
local function send_counted(self, connection, state, req, res, lines, keep_alive)
  self.streams = self.streams + 1
  local send = res.websocket and send_websocket or send_stream
  local ok, result = pcall(send, self, connection, state, req, res, lines, keep_alive)
  self.streams = self.streams - 1
  end_of_stream(res)
  if not ok then error(result, 0) end
  return result
end

-- Sends an answer; true when the connection can go on.
local function send(self, connection, state, req, res, keep_alive, minor)
  local ok, lines, close = pcall(check_answer, res)   -- some bodies are made when they are asked for, and that may fail
  if not ok or ((res.stream or res.websocket) and self.streams >= self.max_streams) then
    end_of_stream(res)
    res = ok and busy "too many streams at once" or fault(self, lines, req)
    lines, close = check_answer(res)
  end
  keep_alive = keep_alive and not close and not self.stopping
  local how = (res.stream or res.websocket) and send_counted or send_whole
  return how(self, connection, state, req, res, lines, keep_alive, minor)
end

local function refuse(self, connection, status, text, method)
  local res = status == 503 and busy(text) or plain(status, text)
  send(self, connection, {}, {method = method or "GET", path = "", version = "1.1"}, res, false, 1)
end

-- What `respond` (a handler or the like) answers; a 500 when it fails.
local function answer_of(self, respond, req)
  local ok, res = pcall(respond, req)
  if ok then return res end
  return fault(self, res, req)
end

-- The next request and whether others may follow; nil: there is none, or it has been refused.
local function next_request(self, connection, state)
  state.idle = true
  local method, target, body, block, keep_alive, minor, more, whole = connection:next_request()
  state.idle, state.more = false, more
  if not method then
    if target == 503 then state.drain = DRAIN end   -- the body is on its way
    if target then refuse(self, connection, target, body) end
    return nil
  end
  if whole then self.requests = self.requests + 1 end
  local path = path_of(method, target)
  if not path then return refuse(self, connection, 400, "the request target is not a path", method) end
  local req = setmetatable({method = method, path = path, body = body, block = block,
    version = minor == 0 and "1.0" or "1.1", address = state.address}, Request)
  if whole then return req, keep_alive, minor end
  local res = answer_of(self, self.accept, req)
  if res == nil then return next_request(self, connection, state) end
  self.requests = self.requests + 1
  state.drain = DRAIN
  send(self, connection, state, req, res, false, minor)
  return nil
end

-- One request after the other, until one of the two sides has had enough.
local function converse(self, connection, state)
  if state.turned_away then return refuse(self, connection, 503, "too many connections") end
  state.address = connection:address()
  local turn = 0
  repeat
    local req, keep_alive, minor = next_request(self, connection, state)
    if not req then return end
    keep_alive = send(self, connection, state, req, answer_of(self, self.handler, req), keep_alive, minor)
    turn = turn + 1
    if keep_alive and turn % REQUESTS_PER_TURN == 0 then task.sleep(0) end
  until not keep_alive or self.stopping
end

local function end_connection(self, state)
  state.connection:close()
  if self.connections[state] then
    self.connections[state] = nil
    if not state.turned_away then self.served = self.served - 1 end
    self.changed:fire()
  end
end

local function serve_connection(self, state)
  local _ <close> = setmetatable({}, {__close = function() end_connection(self, state) end})
  state.started = true
  local connection = state.connection
  local ok, problem = pcall(converse, self, connection, state)
  if ok then
    if not state.gone then connection:finish(state.drain) end
    return
  end
  if errors.is(problem, "cancelled") or errors.is(problem, "interrupted") then return end
  say(self, problem, nil)
end

-- ------------------------------------------------------------------------------------------------------- the server

---@class riverlua.Server
---@field port integer the one that was asked for, or that the system chose
---@field host string
---@field requests integer how many were read
---@field accepted integer how many connections
local Server = {}
Server.__index = Server
Server.__name = "riverlua.Server"

local function check_limit(name, value, wanted)
  errors.expect("server.new", name, value, wanted)
  if wanted ~= "string" and (value < 0 or value ~= value) then
    errors.raise{kind = "argument", message = ("server.new: '%s' must not be negative"):format(name)}
  end
  return value
end

-- The options that are no functions, with their defaults.
local function limits_of(options)
  local all = {}
  for name, value in pairs(DEFAULTS) do
    if options[name] ~= nil then value = options[name] end
    local wanted = name == "host" and "string" or (name:find("timeout") or name == "grace") and "number" or "integer"
    all[name] = check_limit(name, value, wanted)
  end
  if all.port > 65535 then errors.raise{kind = "argument", message = "server.new: a port is at most 65535"} end
  local bodies = math.max(math.min(all.max_body, MOST) * 4, all.max_body)
  all.max_bodies = check_limit("max_bodies", options.max_bodies or bodies, "integer")
  if all.max_bodies < all.max_body then
    errors.raise{kind = "argument", message = "server.new: 'max_bodies' must not be below 'max_body'"}
  end
  local connections = all.max_connections == 0 and DEFAULTS.max_connections or all.max_connections
  all.max_streams = check_limit("max_streams", options.max_streams or math.max(connections // 4, 1), "integer")
  return all
end

--- Makes a server that listens; connections wait until `run` is called.
---
--- Options: `handler` (fun(req): answer, see above), `host` (default "127.0.0.1"), `port` (default 0: any free one),
--- `on_error` (fun(problem, req|nil), default: a line on the standard error stream), `backlog` (511), `accept`
--- (fun(req): answer|nil), which is asked about a request with a body above 64 KiB as soon as its headers are there:
--- an answer is sent at once and the body thrown away; nil: go on.
--- Limits in seconds (0: none): `idle_timeout` between requests (75), `head_timeout` from the first byte of a request
--- to the end of its headers (20), `body_timeout` for its body (60), `write_timeout` without progress of an answer
--- (60), `grace` that requests under way get when the server stops (5).
--- Limits in bytes: `max_target` (8192), `max_head` (65,536), `max_body` (16 MiB), `max_bodies` of all bodies above
--- 64 KiB that are read or answered at a time (4 times `max_body`); in pieces: `max_headers` (100), `max_connections`
--- (512), `max_streams` at a time (a quarter of `max_connections`). What is above the last three gets 503 with a
--- `Retry-After` of a second.
---@param options table
---@return riverlua.Server
---Raises kind="connect" when the address or port cannot be had, kind="argument" for wrong options.
function server.new(options)
  errors.expect("server.new", "options", options, "table")
  errors.check_options("server.new", options, OPTIONS)
  errors.expect("server.new", "handler", options.handler, "callable")
  errors.expect("server.new", "accept", options.accept, "callable|nil")
  errors.expect("server.new", "on_error", options.on_error, "callable|nil")
  local all = limits_of(options)
  local most = all.max_connections
  all.max_connections = most == 0 and 0 or math.min(most, MOST - TURNED_AWAY) + TURNED_AWAY
  all.announces = options.accept ~= nil
  local listener = core.listen(all)
  return setmetatable({
    host = all.host, port = listener:port(), grace = all.grace, handler = options.handler, accept = options.accept,
    on_error = options.on_error or default_on_error, listener = listener, max_streams = all.max_streams,
    max_connections = most == 0 and MOST or most, connections = {}, served = 0, streams = 0,
    changed = tasks.signal(), requests = 0, accepted = 0, stopping = false,
  }, Server)
end

-- Connections without a request under way, and streams, which have no end of their own, end now.
local function dismiss(self, all)
  for state in pairs(self.connections) do
    if not state.started then
      state.task:cancel("the server stops")
      end_connection(self, state)
    elseif all or state.streaming or (state.idle and not state.connection:has_begun()) then
      state.task:cancel("the server stops")
    end
  end
end

--- Stops accepting, and lets `run` return when the requests under way have been answered (or `grace` has passed).
--- Any task may call it, also a handler.
function Server:stop()
  if self.stopping then return end
  self.stopping = true
  self.listener:close()
  dismiss(self, false)
end

local function accept_all(self)
  while not self.stopping do
    local connection = self.listener:accept()
    if not connection then return end
    self.accepted = self.accepted + 1
    local state = {connection = connection, turned_away = self.served >= self.max_connections}
    if not state.turned_away then self.served = self.served + 1 end
    self.connections[state] = true
    state.task = task.spawn(serve_connection, self, state)
  end
end

local function wait_for_connections(self, seconds)
  local due = task.now() + seconds
  while next(self.connections) and task.now() < due do self.changed:wait(due - task.now()) end
end

local function finish(self)
  self:stop()
  wait_for_connections(self, self.grace)
  dismiss(self, true)
  wait_for_connections(self, 1)
  for state in pairs(self.connections) do end_connection(self, state) end
end

local function serve(self)
  accept_all(self)
  finish(self)
end

--- Serves until `stop` is called or, with `signals = true`, Ctrl-C or SIGTERM arrives; requests under way are answered
--- first. With `signals`, these two do nothing else meanwhile, and a second one ends the process as usual. `ready` is
--- called when all that is set up: the moment to say where the server listens.
---@param options {signals: boolean|nil, ready: fun()|nil}|nil
---@return string|nil signal "SIGINT" or "SIGTERM" when one of them was the reason
function Server:run(options) return server_run.run(self, serve, options) end

--- Stops at once: connections are closed whatever they are doing.
function Server:close()
  self:stop()
  dismiss(self, true)
end

Server.__close = Server.close

return server
