--- Replays recorded WebSockets without a network: carriers (see riverlua.websocket_socket) that say what was recorded.
--
-- What came in is handed out in order, each message once the script has sent what the recorded one had sent before it.
-- What the script sends must be what was recorded. WebSockets with equal addresses and labels are told apart by the
-- first frame that the script sends; until then it is the next recorded one.

local clock = require "riverlua.clock"
local core = require "riverlua.core.task"
local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local tapes = require "riverlua.recording.tape"
local url = require "riverlua.url"
local websocket_record = require "riverlua.recording.websocket_record"

local websocket_replay = {}

local LONGEST_SHOWN = 60

local function show(bytes, kind)
  if kind ~= "text" then return ("%d bytes"):format(#bytes) end
  return #bytes <= LONGEST_SHOWN and bytes or bytes:sub(1, (utf8.offset(bytes, 0, LONGEST_SHOWN) or 1) - 1) .. "…"
end

local function refuse(entry, what)
  local address = url.redact(entry.request.url)
  errors.raise{kind = "replay", url = address, file = entry.file, line = entry.line, retryable = false,
    message = ("websocket %s (%s:%d): %s"):format(address, entry.file, entry.line, what), hint = "record again"}
end

-- ---- what was recorded ----------------------------------------------------------------------------------------------

-- The frames of an entry: what was sent; what came in, each with the number of those sent before it (`after`).
local function read_frames(entry, call)
  local sent, came = {}, {}
  for _, frame in ipairs(entry.frames or {}) do
    local way = (frame.sent or frame.sent_base64) and "sent" or "received"
    local text, encoded = frame[way], frame[way .. "_base64"]
    local bytes, kind = text or encoded and digest.from_base64(encoded), text and "text" or "binary"
    if frame.timeouts or frame.cancelled then
      came[#came + 1] = {timeouts = frame.timeouts, cancelled = frame.cancelled, after = #sent}
    elseif not websocket_record.ignores(call, bytes, kind, way) then   -- it may have been recorded without that
      if way == "sent" then
        sent[#sent + 1] = {bytes = bytes, kind = kind, lost = frame.lost}
      else
        came[#came + 1] = {bytes = bytes, kind = kind, after = #sent}
      end
    end
  end
  return sent, came
end

local function view_of(frame)
  if not frame.view or not tapes.is_current(frame.view) then frame.view = tapes.view(frame.bytes) end
  return frame.view
end

local function same(a, b) return a.kind == b.kind and tapes.same(view_of(a), view_of(b)) end

local function end_values(last) return nil, last.how, last.code, last.reason or (last.code and "" or nil) end

-- ---- which of equal ones --------------------------------------------------------------------------------------------

local holders = setmetatable({}, {__mode = "v"})   -- entry → the carrier that has it but could do with another

local function take_entry(self, entry)
  self.entry = entry
  self.sent, self.came = read_frames(entry, self.call)
  self.said, self.done, self.at, self.left_over = {}, 0, 1, nil
  if not self.bound then holders[entry] = self end
end

local function bind(self)
  self.bound = true
  if holders[self.entry] == self then holders[self.entry] = nil end
end

local function opens(entry) return entry.answer and entry.answer.status == 101 and not entry.failure end

-- Changes the entry for one that begins with this frame, if there is one that nobody needs.
local function choose(self, frame)
  local tape, own = self.session.tape, self.entry
  for _, other in ipairs(tape:alike(own)) do
    local first = other ~= own and opens(other) and read_frames(other, self.call)[1]
    if first and same(first, frame) then
      local holder = holders[other]
      if holder or tape:exchange(own, other) then
        holders[own] = nil
        take_entry(self, other)
        if holder then take_entry(holder, own) end
        return
      end
    end
  end
end

-- ---- the carrier ----------------------------------------------------------------------------------------------------

local Carrier = {}
Carrier.__index = Carrier

local function head_of(answer)
  local lines = {("HTTP/1.1 %d"):format(answer.status)}
  for _, header in ipairs(answer.headers) do lines[#lines + 1] = header[1] .. ": " .. header[2] end
  return table.concat(lines, "\r\n") .. "\r\n\r\n"
end

--- As of riverlua.core.websocket.
function Carrier:handshake()
  core.sleep(0)
  local answer, failure = self.entry.answer, self.entry.failure
  if failure then
    if failure.kind ~= "timeout" then return nil, failure.kind, failure.message end
    clock.skip(failure.limit)
    return nil, "timeout", failure.limit
  elseif answer.status ~= 101 then
    return nil, answer.status, head_of(answer), require("riverlua.recording").body_of(answer) or ""
  end
  return true, head_of(answer), answer.subprotocol
end

-- The recorded frame that this one is: the next, or a later one when several tasks send. Returns its place.
local function find_sent(self, frame)
  for place = self.done + 1, #self.sent do
    if not self.said[place] and same(self.sent[place], frame) then return place end
  end
end

local function refuse_frame(self, frame)
  local entry, recorded = self.entry, self.sent[self.done + 1]
  if entry.omitted then refuse(entry, "more was said than is recorded") end
  local shown = show(frame.bytes, frame.kind)
  if not recorded then
    refuse(entry, ("the script sends %s, and the recorded one sent nothing more"):format(shown))
  elseif recorded.kind ~= frame.kind then
    refuse(entry, ("the script sends %s (%s), the recorded one sent %s (%s)"):format(shown, frame.kind,
      show(recorded.bytes, recorded.kind), recorded.kind))
  end
  refuse(entry, ("the script sends %s: %s"):format(shown, tapes.difference(view_of(frame), view_of(recorded), "frame")))
end

function Carrier:send(bytes, kind)
  if self.closing then return nil, "gone" end
  if self.ended then return end_values(self.ended) end
  if kind == "ping" or websocket_record.ignores(self.call, bytes, kind, "sent") then return true end
  local scrubber = self.session.scrubber
  local frame = {kind = kind, bytes = kind == "text" and (scrubber:text(bytes)) or scrubber:bytes(bytes)}
  if not self.bound then
    if not (self.sent[1] and same(self.sent[1], frame)) then choose(self, frame) end
    bind(self)
  end
  local place = find_sent(self, frame) or refuse_frame(self, frame)
  self.said[place] = true
  while self.said[self.done + 1] do self.done = self.done + 1 end
  self.changed:fire()
  if self.sent[place].lost and self.entry["end"] then return end_values(self.entry["end"]) end
  return true
end

-- Whether nothing came where the script waited, but it waits elsewhere now.
local function is_past(self, item, seconds)
  if not item.timeouts and not item.cancelled then return false end
  return item.after < self.done or item.timeouts and not seconds or self.left_over == 0
end

-- The next of what came in, if it is time for it.
local function next_came(self, seconds)
  local item = self.came[self.at]
  while item and is_past(self, item, seconds) do
    self.at, self.left_over = self.at + 1, nil
    item = self.came[self.at]
  end
  return item and item.after <= self.done and item or nil
end

-- The number of frames after which it ended; those that were lost were sent when it had.
local function sent_before_end(self)
  local count = #self.sent
  while count > 0 and self.sent[count].lost do count = count - 1 end
  return count
end

-- How the recording ended, if it is time for that; nil: there is nothing to say before the script does something.
local function at_end(self)
  local entry = self.entry
  local last = entry["end"]
  if self.came[self.at] or self.done < sent_before_end(self) then return nil end
  if entry.omitted then refuse(entry, "more was said than is recorded") end
  if last and not last.own then return last end
  if not last then refuse(entry, "the recorded script left the WebSocket open here") end
  return nil
end

-- Nobody will send what is to come first.
local function refuse_waiting(self)
  local missing = self.sent[self.done + 1]
  if missing then
    refuse(self.entry, ("the script waits for a message, the recorded one sent first %s"):format(
      show(missing.bytes, missing.kind)))
  end
  refuse(self.entry, "the script waits for a message, the recorded one closed the WebSocket here")
end

-- Waits until another task sends or closes.
local function wait_for_change(self)
  if not self.entry.shared then refuse_waiting(self) end
  local ok, err = pcall(self.changed.wait, self.changed)
  if ok then return end
  if not errors.is(err, "deadlock") then error(err, 0) end
  refuse_waiting(self)
end

-- The recorded script was cancelled here: this one waits until it is, too.
local function wait_for_cancel(self)
  local ok, err = pcall(self.changed.wait, self.changed)
  if ok then return end
  self.left_over = 0
  error(err, 0)
end

function Carrier:receive(seconds)
  core.sleep(0)   -- other tasks have their turn, as they would have
  while true do
    if self.closing then return nil, "gone" end
    if self.ended then return end_values(self.ended) end
    local item = next_came(self, seconds)
    if item and item.timeouts then
      self.left_over = (self.left_over or item.timeouts) - 1
      clock.skip(seconds)
      return nil, "timeout"
    elseif item and item.cancelled then
      wait_for_cancel(self)
    elseif item then
      bind(self)
      self.at = self.at + 1
      return item.bytes, item.kind
    end
    if not item then
      self.ended = at_end(self)
      if not self.ended then wait_for_change(self) end
    end
  end
end

local function is_unanswered(entry, number)
  for _, one in ipairs(entry.unanswered or {}) do
    if one == number then return true end
  end
  return false
end

function Carrier:wait_pong(_, seconds)
  core.sleep(0)
  self.pings = self.pings + 1
  if is_unanswered(self.entry, self.pings) then
    clock.skip(seconds)
    return nil, "timeout"
  end
  if self.ended then return end_values(self.ended) end
  return true
end

function Carrier:close(code, reason)
  bind(self)
  self.closing = true
  self.changed:fire()
  core.sleep(0)
  local last = self.entry["end"]
  if last then return end_values(last) end
  return nil, "closed", code, reason
end

function Carrier:drop()
  bind(self)
  self.closing = true
  self.changed:fire()
end

function Carrier:status()
  if self.closing then return "gone" end
  if not self.ended then return "open" end
  return select(2, end_values(self.ended))
end

-- ---- opening --------------------------------------------------------------------------------------------------------

--- Takes the next recorded WebSocket for this address: its carrier, or nil and why there was no connection.
---@param session table as recording.session gives it
---@param call table {address, request, recording, …}
---@return table|nil carrier
function websocket_replay.open(session, call)
  local entry = session.tape:take(websocket_record.request(session.scrubber, call), "websocket")
  core.sleep(0)
  local failure = entry.failure
  if failure and failure.phase ~= "handshake" then
    if failure.kind == "timeout" then clock.skip(failure.limit) end
    return nil, failure.kind, failure.message, failure.phase, failure.limit
  end
  if not failure and not entry.answer then
    if entry.waiting then core.signal():wait() end
    refuse(entry, "the recorded script left before there was an answer")
  end
  local self = setmetatable({session = session, call = call, changed = core.signal(), pings = 0}, Carrier)
  self.bound = not opens(entry)
  take_entry(self, entry)
  return self
end

return websocket_replay
