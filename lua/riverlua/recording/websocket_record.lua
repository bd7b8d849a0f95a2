--- Records WebSockets: a carrier (see riverlua.websocket_socket) around that of riverlua.core.websocket.
--
-- What is said passes unchanged; when the WebSocket has ended it becomes an entry of riverlua.recording, without its
-- secrets:
--
--     {"type":"websocket","request":{"headers":[…],"label":"…","method":"GET","url":"wss://…?token=***"},
--      "answer":{"headers":[…],"status":101,"subprotocol":"…"},
--      "end":{"code":1000,"how":"closed","own":true,"reason":""},
--      "frames":[{"sent":"text"},{"received_base64":"AAEC"},{"timeouts":2},{"lost":true,"sent":"text"}]}
--
-- `frames` has what was sent and received, in order; `timeouts`: how often in a row a `receive` with a limit got
-- nothing; `cancelled`: one was cancelled while it waited; `lost`: the connection was gone. `end`: how it ended, `own`:
-- the script closed it. `unanswered`: which of the pings that were waited for were not answered. `shared`: several
-- tasks used it. Refusals have another status and a body, connections that did not come about a `failure`. `left`,
-- `waiting` and `omitted` are those of other entries.

local core = require "riverlua.core.task"
local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local json = require "riverlua.json"
local recording = require "riverlua.recording"

local websocket_record = {}

--- The request of a WebSocket, as entries hold it and as it is looked for. What is random in it is left out.
---@param scrubber riverlua.Scrubber
---@param call table {address, request: the head that is sent, recording: the option}
---@return table request
function websocket_record.request(scrubber, call)
  local headers = recording.head_headers(call.request:gsub("^[^\r\n]*", ""), "sec-websocket-key")
  local request = recording.request(scrubber, "GET", call.address, headers)
  request.label = call.recording and call.recording.label
  return request
end

--- Whether the script's option `recording` says that a frame does not count.
---@param call table
---@param bytes string
---@param kind "text"|"binary"
---@param way "sent"|"received"
function websocket_record.ignores(call, bytes, kind, way)
  local ignore = kind == "text" and call.recording and call.recording.ignore
  return ignore and ignore(bytes, way) or false
end

-- ---- the entry ------------------------------------------------------------------------------------------------------

-- Writes the entry, once. `how`: fields of it.
local function finish(take, how)
  if take.finished then return end
  take.finished = true
  local entry = how or {}
  entry.type, entry.n, entry.request, entry.answer = "websocket", take.n, take.request, take.answer
  entry["end"], entry.omitted = take.ended, take.omitted
  if take.answer and take.answer.status == 101 then
    entry.frames = take.frames
    if take.unanswered[1] then entry.unanswered = take.unanswered end
    if not take.ended then entry.left = true end
    entry.shared = take.shared
  end
  take.frames = nil
  take.session.writer:append(entry)
end

-- That nothing came in time only led to what does not count, and so does not count itself.
local function forget_timeout(take)
  if not take.timed_out or take.finished then return end
  take.timed_out = false
  local frames = take.frames
  local last = frames[#frames]
  last.timeouts = last.timeouts - 1
  if last.timeouts == 0 then frames[#frames] = nil end
end

local function note_timeout(take)
  if take.finished or take.omitted then return end
  local last = take.frames[#take.frames]
  if last and last.timeouts then
    last.timeouts = last.timeouts + 1
  else
    take.frames[#take.frames + 1] = {timeouts = 1}
  end
  take.timed_out = true
end

local function note_cancelled(take)
  if take.finished or take.omitted then return end
  take.frames[#take.frames + 1] = {cancelled = true}
  take.timed_out = false
end

local SCRIPT = {}   -- stands for the script itself, which is no task

local function note_user(take)
  local user = core.current() or SCRIPT
  if take.user and take.user ~= user then take.shared = true end
  take.user = user
end

-- Notes a frame; nil when it does not count.
local function note_frame(take, way, bytes, kind)
  if take.finished or take.omitted then return nil end
  if websocket_record.ignores(take.call, bytes, kind, way) then
    if way == "sent" then forget_timeout(take) end
    return nil
  end
  take.timed_out = false
  take.size = take.size + #bytes
  if take.size > recording.max_bodies then
    take.omitted = true
    return nil
  end
  local scrubber, frame = take.session.scrubber, {}
  if kind == "text" then
    frame[way] = scrubber:text(bytes)
  else
    frame[way .. "_base64"] = digest.to_base64(scrubber:bytes(bytes))
  end
  take.frames[#take.frames + 1] = frame
  return frame
end

local ENDS = {closed = true, failed = true, dropped = true}

local function note_end(take, how, code, reason, own)
  if take.ended or take.finished or not (own or ENDS[how]) then return end
  take.ended = {how = ENDS[how] and how or "gone", code = code,
    reason = reason and (take.session.scrubber:text(reason)), own = own}
end

local function failure_of(take, kind, message, phase, limit)
  return {failure = {kind = kind, phase = phase, limit = kind == "timeout" and limit or nil,
    message = type(message) == "string" and (take.session.scrubber:text(message)) or nil}}
end

-- A task that was cancelled while it waited: a replay will wait as well.
local Guard = {__close = function(guard, err)
  if guard.done then return end
  local cancelled = err == nil or errors.is(err, "cancelled") or errors.is(err, "interrupted")
  if guard.opening then
    if cancelled then finish(guard.take, {left = true, waiting = true}) end
    guard.take.finished = true
  elseif cancelled then
    note_cancelled(guard.take)
  end
end}

local function guarded(take, opening) return setmetatable({take = take, opening = opening}, Guard) end

-- ---- the carrier ----------------------------------------------------------------------------------------------------

local Carrier = {}
Carrier.__index = Carrier

--- As of riverlua.core.websocket: true, head of the answer, subprotocol; or nil and what came instead.
function Carrier:handshake(...)
  local take = self.take
  local guard <close> = guarded(take, true)
  local results = table.pack(self.inner:handshake(...))
  guard.done = true
  local ok, first, second, third = table.unpack(results, 1, 4)
  local function headers_of(head)
    return json.array(take.session.scrubber:headers(recording.head_headers(head, "sec-websocket-accept")))
  end
  if ok then
    take.answer = {status = 101, headers = headers_of(first), subprotocol = second}
  elseif type(first) == "number" then
    take.answer = {status = first, headers = headers_of(second)}
    if third and third ~= "" then recording.put_body(take.answer, third, take.session.scrubber) end
    finish(take)
  else
    finish(take, failure_of(take, first, second, "handshake", second))
  end
  return table.unpack(results, 1, results.n)
end

function Carrier:send(bytes, kind)
  local take = self.take
  note_user(take)
  -- before it is sent: the answer may come while this waits
  local frame = kind ~= "ping" and note_frame(take, "sent", bytes, kind)
  local results = table.pack(self.inner:send(bytes, kind))
  if not results[1] then
    if frame then frame.lost = true end
    note_end(take, table.unpack(results, 2, results.n))
  end
  return table.unpack(results, 1, results.n)
end

function Carrier:receive(seconds)
  local take = self.take
  note_user(take)
  local guard <close> = guarded(take)
  local results = table.pack(self.inner:receive(seconds))
  guard.done = true
  if results[1] then
    note_frame(take, "received", results[1], results[2])
  elseif results[2] == "timeout" then
    note_timeout(take)
  elseif ENDS[results[2]] then
    note_end(take, table.unpack(results, 2, results.n))
    finish(take)
  end
  return table.unpack(results, 1, results.n)
end

function Carrier:wait_pong(payload, seconds)
  local take = self.take
  take.pings = take.pings + 1
  local number = take.pings
  local results = table.pack(self.inner:wait_pong(payload, seconds))
  if results[2] == "timeout" then
    take.unanswered[#take.unanswered + 1] = number
  elseif not results[1] then
    note_end(take, table.unpack(results, 2, results.n))
  end
  return table.unpack(results, 1, results.n)
end

function Carrier:close(code, reason, seconds)
  local take = self.take
  note_user(take)
  -- if this is cancelled, it has been closed all the same
  local before = take.ended
  note_end(take, "gone", nil, nil, true)
  local results = table.pack(self.inner:close(code, reason, seconds))
  if not before then
    take.ended = nil
    note_end(take, results[2], results[3], results[4], true)
  end
  finish(take)
  return table.unpack(results, 1, results.n)
end

--- Ends the connection: it has been found to be dead.
function Carrier:drop()
  forget_timeout(self.take)
  note_end(self.take, "dropped")
  finish(self.take)
  return self.inner:drop()
end

function Carrier:status() return self.inner:status() end

function Carrier:__gc() finish(self.take) end

-- ---- opening --------------------------------------------------------------------------------------------------------

--- Opens a connection whose WebSocket is recorded.
---@param session table as recording.session gives it
---@param call table {address, request, recording, …}
---@param open fun(call: table): ... opens the connection itself
---@return table|nil carrier nil: and what `open` gave
function websocket_record.open(session, call, open)
  local take = {session = session, n = session.writer:begin(), call = call, frames = json.array{}, size = 0,
    pings = 0, unanswered = json.array{}, request = websocket_record.request(session.scrubber, call)}
  local guard <close> = guarded(take, true)
  local results = table.pack(open(call))
  guard.done = true
  if results[1] then return setmetatable({inner = results[1], take = take}, Carrier) end
  finish(take, failure_of(take, table.unpack(results, 2, results.n)))
  return table.unpack(results, 1, results.n)
end

return websocket_record
