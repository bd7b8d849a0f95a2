--- A WebSocket to the service of this process: what a client sends is answered without a network.

local channels = require "modelriver.embedded.channels"
local core = require "riverlua.core.task"
local errors = require "riverlua.errors"
local task = require "riverlua.task"

local socket = {}

-- Bytes that may wait for somebody to receive them.
local MOST_WAITING = 64 * 1024 * 1024

---@class modelriver.embedded.Peer
---@field close_code integer|nil once it is closed
---@field close_reason string|nil
local Peer = {}
Peer.__index = Peer
Peer.__name = "modelriver.embedded.Peer"

local function end_session(self, code, reason)
  if self.close_code then return end
  self.close_code, self.close_reason = code, reason
  self.session:close()
  self.arrived:fire()
end

--- Sends a text.
---@param text string
function Peer:send(text)
  errors.expect("websocket:send", "text", text, "string")
  if self.close_code then
    errors.raise{kind = "websocket", code = self.close_code, message = "the WebSocket has been closed"}
  end
  if not self.session:receive(text) then end_session(self, 1011, "") end
end

-- The oldest text that has arrived.
local function take(self)
  if self.first > self.last then return nil end
  local text = self[self.first]
  self[self.first] = nil
  self.first, self.waiting = self.first + 1, self.waiting - #text
  return text
end

--- The next text; nil when the other side has closed: then `close_code` and `close_reason` say why.
---@param seconds number|nil raises kind "timeout" when nothing came for so long; nil: waits
---@return string|nil
function Peer:receive(seconds)
  local due = seconds and task.now() + seconds
  while true do
    local until_due = self.session:settle()
    local text = take(self)
    if text then return text end
    if self.close_code then return nil end
    local left = due and due - task.now()
    if left and left <= 0 then
      errors.raise{kind = "timeout", phase = "idle", message = ("nothing came over the WebSocket within %g s"):format(
        seconds)}
    end
    if left or until_due then
      self.arrived:wait(math.min(left or math.huge, until_due or math.huge))
    else
      self.arrived:wait()
    end
  end
end

--- Closes it.
---@param code integer|nil default 1000
---@param reason string|nil
function Peer:close(code, reason) end_session(self, code or 1000, reason or "") end

Peer.__close = function(self) self:close() end

--- Opens a WebSocket.
---@param gateway modelriver.embedded.Gateway
---@param url string as in an answer, with the token
---@return modelriver.embedded.Peer
function socket.connect(gateway, url)
  errors.expect("transport:websocket", "url", url, "string")
  local base = gateway.options.base_url
  local target = url:sub(1, #base) == base and url:sub(#base + 1) or url
  local self = setmetatable({first = 1, last = 0, waiting = 0, arrived = core.signal()}, Peer)
  local session, status = channels.open(gateway, target, function(text)
    self.last, self.waiting = self.last + 1, self.waiting + #text
    self[self.last] = text
    if self.waiting > MOST_WAITING then end_session(self, 1008, "nobody receives") end
    self.arrived:fire()
  end)
  if not session then
    errors.raise{kind = "websocket", status = status,
      message = ("embedded:/socket/websocket: the WebSocket was refused with status %d"):format(status),
      hint = status == 403 and "a ws_token is good for one connection and a few minutes: ask for a fresh one" or nil}
  end
  self.session = session
  return self
end

return socket
