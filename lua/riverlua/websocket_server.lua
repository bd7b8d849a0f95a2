--- The server's side of WebSockets: what a request must say, and messages over a connection of riverlua.core.listener.

local core = require "riverlua.core.websocket"
local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local task = require "riverlua.task"
local tasks = require "riverlua.core.task"
local websocket_socket = require "riverlua.websocket_socket"

local websocket_server = {}

-- Less than a client accepts: there may be a hundred who have all but the last byte of one here.
local MAX_MESSAGE = 1024 * 1024
-- Of messages that nobody receives; then the client has to wait.
local QUEUED_AT_MOST = 1024 * 1024

-- --------------------------------------------------------------------------------------------------- handshake

-- Whether a list separated by commas holds a word, in any case.
local function lists(value, word)
  for one in (value or ""):gmatch("[^,]+") do
    if one:match("^%s*(.-)%s*$"):lower() == word then return true end
  end
  return false
end

--- What is wrong with a request to switch to WebSocket: status and text; nil when all is well.
---@param req riverlua.server.Request
---@return integer|nil status
---@return string|nil text
function websocket_server.judge(req)
  local headers = req.headers
  if not lists(headers.upgrade, "websocket") or not lists(headers.connection, "upgrade") then
    return 426, "this address speaks WebSocket"
  end
  if req.method ~= "GET" or req.version ~= "1.1" then return 400, "a WebSocket begins with GET and HTTP/1.1" end
  if headers["sec-websocket-version"] ~= "13" then return 426, "this address speaks version 13 of WebSocket" end
  local key = headers["sec-websocket-key"]
  local bytes = key and #key == 24 and digest.from_base64(key)
  if not bytes or #bytes ~= 16 then return 400, "Sec-WebSocket-Key must be 16 bytes in base64" end
end

-- The first of the server's subprotocols that the client offers.
local function choose(subprotocols, offered)
  for _, name in ipairs(subprotocols or {}) do
    for one in (offered or ""):gmatch("[^,]+") do
      if one:match("^%s*(.-)%s*$") == name then return name end
    end
  end
end

--- The header lines that agree to a request that was judged well, and the subprotocol they choose.
---@param req riverlua.server.Request
---@param subprotocols string[]|nil those the server speaks, the preferred one first
---@return string lines
---@return string|nil subprotocol
function websocket_server.agree(req, subprotocols)
  local lines = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " ..
    core.accept(req.headers["sec-websocket-key"]) .. "\r\n"
  local chosen = choose(subprotocols, req.headers["sec-websocket-protocol"])
  return chosen and lines .. "Sec-WebSocket-Protocol: " .. chosen .. "\r\n" or lines, chosen
end

-- ----------------------------------------------------------------------------------------------------- carrier

-- Messages over a connection, as riverlua.websocket_socket wants them.
local Carrier = {}
Carrier.__index = Carrier

local writing_meta = {__close = function(guard)
  guard.carrier.writing = false
  guard.carrier.changed:fire()
end}

-- Sends what the endpoint puts out. One task writes at a time, and takes along what comes up meanwhile.
local function flush(self)
  self.writing = true
  local _ <close> = setmetatable({carrier = self}, writing_meta)
  repeat
    local bytes = self.endpoint:output()
    if bytes ~= "" and not self.connection:write(bytes) then self.ended = true end
  until bytes == "" or self.ended
end

function Carrier:status()
  local how, code, text = self.endpoint:status()
  if how == "sent" then return "gone" end
  if how == "open" and self.ended then return "dropped" end
  return how, code, text
end

-- Reads until the client sends nothing more; what follows its close frame is thrown away.
local function read_all(self)
  local endpoint = self.endpoint
  local bytes = self.connection:read()
  while bytes do
    endpoint:feed(bytes, self.writing)
    self.changed:fire()
    if not self.writing then flush(self) end
    while endpoint:queued() >= QUEUED_AT_MOST do self.taken:wait() end
    bytes = self.connection:read()
  end
  self.ended = true
  self.changed:fire()
end

function Carrier:send(data, kind)
  while self.writing and self:status() == "open" do self.changed:wait() end
  if self:status() == "open" then
    self.endpoint:send(data, kind)
    flush(self)
  end
  local how, code, text = self:status()
  if how == "open" then return true end
  return nil, how, code, text
end

-- Waits for something to change; false when the time is up.
local function wait_until(self, due)
  if due and tasks.now() >= due then return false end
  self.changed:wait(due and due - tasks.now())
  return true
end

function Carrier:receive(seconds)
  local due = seconds and tasks.now() + seconds
  if seconds == 0 then tasks.sleep(0) end   -- what has come may still have to be read
  while true do
    local data, kind = self.endpoint:next()
    if data then
      self.taken:fire()
      return data, kind
    end
    local how, code, text = self:status()
    if how ~= "open" then return nil, how, code, text end
    if not wait_until(self, due) then return nil, "timeout" end
  end
end

function Carrier:wait_pong(payload, seconds)
  local due = tasks.now() + seconds
  while true do
    local count, said = self.endpoint:pong()
    if count > 0 and said == payload then return true end
    local how, code, text = self:status()
    if how ~= "open" then return nil, how, code, text end
    if not wait_until(self, due) then return nil, "timeout" end
  end
end

function Carrier:close(code, reason, seconds)
  local due = tasks.now() + seconds
  self.endpoint:close(code, reason)
  self.taken:fire()
  self.changed:fire()
  if not self.writing and not self.ended then flush(self) end
  while self:status() == "gone" and not self.ended and wait_until(self, due) do end
  return nil, self:status()
end

function Carrier:drop() self.connection:close() end

-- Closes a WebSocket whose function is over.
local function conclude(ws, ok, problem)
  if ok then return ws:close() end
  local stops = errors.is(problem, "cancelled") or errors.is(problem, "interrupted")
  ws:close(stops and 1001 or 1011, "", stops and 0 or nil)
end

--- What `run` needs. Raises kind "unsupported" without libwslay.
---@param max_message integer|nil
---@return userdata
function websocket_server.endpoint(max_message)
  return core.endpoint("server", max_message or MAX_MESSAGE)
end

--- Runs `fn(ws)` over a connection that has switched, and closes the WebSocket after it; raises what `fn` raises.
---@param connection userdata
---@param endpoint userdata
---@param req riverlua.server.Request
---@param fn fun(ws: riverlua.WebSocket)
---@param subprotocol string|nil
function websocket_server.run(connection, endpoint, req, fn, subprotocol)
  local carrier = setmetatable({connection = connection, changed = tasks.signal(), taken = tasks.signal(),
    endpoint = endpoint, writing = false, ended = false}, Carrier)
  local ws = websocket_socket.new(carrier, {name = "websocket of " .. (req.address or "a client"),
    subprotocol = subprotocol, headers = req.headers})
  local reader <close> = task.spawn(read_all, carrier)   -- luacheck: ignore 211
  local ok, problem = pcall(fn, ws)
  conclude(ws, ok, problem)
  if not ok then error(problem, 0) end
end

return websocket_server
