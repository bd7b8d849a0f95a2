--- An open WebSocket, of a client or of a server: what the two have in common.
--
-- It stands on a carrier: a socket of riverlua.core.websocket, or one of riverlua.websocket_server. A carrier has
-- `send(bytes, kind)`, `receive(seconds)`, `wait_pong(payload, seconds)`, `close(code, reason, seconds)`, `drop()` and
-- `status()`; what does not succeed gives nil and how it ended.

local core = require "riverlua.core.websocket"
local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local tasks = require "riverlua.core.task"

local websocket_socket = {}

local DROPPED = 1006
local MOST_CONTROL, MOST_REASON = 125, 123
-- Seconds that the other side gets to answer a close frame.
local CLOSING = 2

---@class riverlua.WebSocket
---@field url string|nil of the server, without secrets
---@field subprotocol string|nil the one that was agreed on
---@field headers table<string, string> of the other side's part of the handshake, looked up in any case
---@field replayed boolean|nil true: nobody is there, it says what was recorded (see docs/recording.md)
---@field close_code integer|nil once it is closed: what the other side said; 1005: no code, 1006: no word at all
---@field close_reason string|nil what the other side said, "" when it gave none
local WebSocket = {}
WebSocket.__index = WebSocket
WebSocket.__name = "riverlua.WebSocket"

websocket_socket.WebSocket = WebSocket

--- Makes the object around a carrier.
---@param carrier table
---@param fields {name: string, url: string|nil, subprotocol: string|nil, headers: table, replayed: boolean|nil}
---@return riverlua.WebSocket
function websocket_socket.new(carrier, fields)
  fields.carrier = carrier
  return setmetatable(fields, WebSocket)
end

local function remember(self, how, code, text)
  if how == "closed" then
    self.close_code, self.close_reason = code, text
  elseif how ~= "timeout" and how ~= "open" and not self.close_code then
    self.close_code, self.close_reason = DROPPED, ""
  end
end

local function describe(self, text) return ("%s: %s"):format(self.name, text) end

local function with_reason(code, reason)
  return reason ~= "" and ("%d, %s"):format(code, reason) or tostring(code)
end

-- Raises what a rule that was broken, or a connection that is gone, amounts to.
local function raise_broken(self, how, code, text)
  if how == "failed" then
    errors.raise{kind = "websocket", code = code, url = self.url,
      message = describe(self, "the other side broke the protocol: " .. text),
      hint = code == 1009 and "raise the option max_message" or nil}
  end
  errors.raise{kind = "websocket", code = DROPPED, url = self.url, retryable = true,
    message = describe(self, "the connection was dropped without a close frame")}
end

-- For calls that need an open WebSocket.
local function raise_closed(self, how, code, text)
  remember(self, how, code, text)
  if how == "failed" or how == "dropped" then raise_broken(self, how, code, text) end
  errors.raise{kind = "closed", code = self.close_code, url = self.url,
    message = describe(self, how == "closed" and not self.closing
      and ("the other side has closed the WebSocket (%s)"):format(with_reason(code, text))
      or "the WebSocket is closed")}
end

--- Sends a message. Waits while more than 256 KiB have not gone out.
---@param data string text must be UTF-8
---@param kind "text"|"binary"|nil default: "text"
---Raises kind="closed" once either side has closed, kind="websocket" (with `code`) when the connection is lost.
function WebSocket:send(data, kind)
  errors.expect("websocket:send", "data", data, "string")
  kind = kind or "text"
  if kind ~= "text" and kind ~= "binary" then
    errors.raise{kind = "argument", message = "websocket:send: 'kind' must be \"text\" or \"binary\""}
  end
  if kind == "text" and not core.is_text(data) then
    errors.raise{kind = "argument", message = "websocket:send: a text must be UTF-8",
      hint = "bytes of any kind go with kind \"binary\""}
  end
  local ok, how, code, text = self.carrier:send(data, kind)
  if not ok then raise_closed(self, how, code, text) end
end

local function check_seconds(where, seconds)
  if seconds ~= nil and (type(seconds) ~= "number" or seconds < 0 or seconds ~= seconds) then
    errors.raise{kind = "argument", message = where .. ": 'seconds' must be a number, not negative"}
  end
end

--- The next message. Several tasks may wait: each message goes to one of them, the one that has waited longest first.
---@param seconds number|nil raises kind="timeout" when none came for so long; nothing is lost then
---@return string|nil data nil: the other side has closed (see `close_code`), or this side has
---@return "text"|"binary"|nil kind
---Raises kind="websocket": the other side broke the protocol (`code` 1002, 1007 or 1009), or the connection was lost
---without a close frame (1006).
function WebSocket:receive(seconds)
  check_seconds("websocket:receive", seconds)
  local data, how, code, text = self.carrier:receive(seconds)
  if data then return data, how end
  remember(self, how, code, text)
  if how == "timeout" then
    errors.raise{kind = "timeout", url = self.url, retryable = true,
      message = describe(self, ("no message came within %g s"):format(seconds))}
  end
  if not self.closing and (how == "failed" or how == "dropped") then raise_broken(self, how, code, text) end
  return nil
end

--- `for data, kind in ws:messages() do` until the other side closes.
---@return fun(): string|nil, "text"|"binary"|nil
function WebSocket:messages()
  return function() return self:receive() end
end

--- Asks whether the other side is still there. With `seconds` it waits for the answer.
---@param data string|nil at most 125 bytes that come back; default: a few random ones
---@param seconds number|nil how long the answer may take
---@return number|nil elapsed seconds that the answer took
---Raises kind="timeout" when it did not come in time; otherwise as `send`.
function WebSocket:ping(data, seconds)
  check_seconds("websocket:ping", seconds)
  data = data or digest.hex(digest.random(8))
  if #errors.expect("websocket:ping", "data", data, "string") > MOST_CONTROL then
    errors.raise{kind = "argument", message = "websocket:ping: 'data' must have at most 125 bytes"}
  end
  local start = tasks.now()
  local ok, how, code, text = self.carrier:send(data, "ping")
  if ok and seconds then ok, how, code, text = self.carrier:wait_pong(data, seconds) end
  if not ok and how == "timeout" then
    errors.raise{kind = "timeout", url = self.url, retryable = true,
      message = describe(self, ("a ping was not answered within %g s"):format(seconds))}
  end
  if not ok then raise_closed(self, how, code, text) end
  return seconds and tasks.now() - start or nil
end

local function check_close(code, reason)
  errors.expect("websocket:close", "code", code, "integer")
  errors.expect("websocket:close", "reason", reason, "string")
  if not core.is_close_code(code) then
    errors.raise{kind = "argument", message = ("websocket:close: %d is no code that may be sent"):format(code),
      hint = "1000 (done), 1001 (going away) or one of 3000 to 4999"}
  end
  if #reason > MOST_REASON or not core.is_text(reason) then
    errors.raise{kind = "argument", message = "websocket:close: 'reason' must be UTF-8 of at most 123 bytes"}
  end
end

--- Closes the WebSocket: sends a close frame, waits for the other side's, and ends the connection. Messages that have
--- not been received are thrown away. Closing again does nothing.
---@param code integer|nil default: 1000
---@param reason string|nil UTF-8, at most 123 bytes
---@param seconds number|nil how long to wait; default: 2
function WebSocket:close(code, reason, seconds)
  code, reason = code or 1000, reason or ""
  check_close(code, reason)
  check_seconds("websocket:close", seconds)
  if self.closing then return end
  self.closing = true
  local _, how, peer_code, text = self.carrier:close(code, reason, seconds or CLOSING)
  remember(self, how, peer_code, text)
end

--- Ends the connection without a word to the other side, which has been found to be dead.
function WebSocket:drop()
  if self.closing then return end
  self.closing = true
  self.carrier:drop()
  remember(self, "dropped")
end

-- A block that failed does not wait for anybody.
function WebSocket:__close(failure)
  if failure == nil then return self:close() end
  self:close(1001, "", 0)
end

function WebSocket:__tostring()
  local status = self.closing and "closed" or self.carrier:status()
  return ("%s (%s)"):format(self.name, status == "open" and "open" or "closed")
end

return websocket_socket
