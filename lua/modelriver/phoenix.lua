--- Phoenix channels over a WebSocket (serializer 2.0.0): frames, replies, heartbeats, joining.
--
-- A frame is the JSON array [join_ref, ref, topic, event, payload]; a reply carries the ref of what it answers.

local errors = require "riverlua.errors"
local failure = require "modelriver.failure"
local json = require "riverlua.json"
local task = require "riverlua.task"

local phoenix = {}

local HEARTBEAT = 30       -- seconds; the server drops a socket after 60 without data
local JOIN_TIMEOUT = 10
local FIRST_BEAT = 1000000 -- refs of heartbeats begin after this one

local encode = json.encoder()
local NO_PAYLOAD = json.object{}

-- What a refused join means, by the reason that the server gives.
local REFUSALS = {
  unauthorized_project_access = "the key's project has no access to this job",
  invalid_channel_format = "the server does not know channels of this form",
  invalid_project_uuid = "the project's id is not valid",
  invalid_channel_uuid = "the job's id is not valid",
  unknown = "it does not say why",
}

---@class modelriver.Message
---@field join_ref string|nil
---@field ref string|nil
---@field topic string
---@field event string
---@field payload table

---@class modelriver.Socket
local Socket = {}
Socket.__index = Socket
Socket.__name = "modelriver.Socket"

--- Internal: speaks Phoenix over `peer` (`send(text)`, `receive(seconds)`, `close(code, reason)`).
---@param peer table
---@param heartbeat number|nil seconds between heartbeats
---@param patience number|nil seconds in which a join must be answered
---@return modelriver.Socket
function phoenix.new(peer, heartbeat, patience)
  -- in a replay nobody has to be kept awake
  heartbeat = peer.replayed and math.huge or heartbeat or HEARTBEAT
  return setmetatable({peer = peer, refs = 0, beats = 0, heartbeat = heartbeat, beat_due = task.now() + heartbeat,
    beat_ref = nil, topic = nil, join_ref = nil, patience = patience or JOIN_TIMEOUT}, Socket)
end

local function send(self, join_ref, ref, topic, event, payload)
  self.peer:send(encode{join_ref or json.null, ref, topic, event, payload or NO_PAYLOAD})
end

--- Sends an event; returns the ref that its reply will carry.
---@return string
function Socket:push(join_ref, topic, event, payload)
  self.refs = self.refs + 1
  local ref = tostring(self.refs)
  send(self, join_ref, ref, topic, event, payload)
  return ref
end

local function dropped(message, code)
  errors.raise{kind = "websocket", dropped = true, code = code, message = message, retryable = true}
end

-- Sends the heartbeats that are due. One that is not answered before the next tells that the connection is dead.
local function beat(self)
  if self.beat_ref then
    if self.peer.drop then self.peer:drop() end
    dropped("the server no longer answers heartbeats")
  end
  self.beat_due = task.now() + self.heartbeat
  -- refs of their own: how many heartbeats there are must not change those of the rest
  local ref = FIRST_BEAT + self.beats + 1
  self.beats, self.beat_ref = self.beats + 2, tostring(ref)
  send(self, nil, self.beat_ref, "phoenix", "heartbeat")
  if self.topic then send(self, self.join_ref, tostring(ref + 1), self.topic, "heartbeat") end
end

--- Whether a frame is a heartbeat or the answer to one: they come by the clock, and mean nothing in a recording.
---@param text string
---@param way "sent"|"received"
---@return boolean
function phoenix.is_heartbeat(text, way)
  local ok, frame = pcall(json.decode, text)
  if not ok or type(frame) ~= "table" then return false end
  if way == "sent" then return frame[4] == "heartbeat" end
  return frame[3] == "phoenix" or frame[4] == "phx_reply" and (tonumber(frame[2]) or 0) > FIRST_BEAT
end

local function bad_frame(text, why)
  errors.raise{kind = "websocket", dropped = true, code = 1002, retryable = true,
    message = ("the server sent what is no Phoenix frame: %s (%d bytes)"):format(why, #text)}
end

local function read_frame(text)
  -- null matters here: the places of an array must keep their order
  local ok, frame = pcall(json.decode, text)
  if not ok then bad_frame(text, "not JSON") end
  if not json.is_array(frame) or #frame ~= 5 then bad_frame(text, "not five values") end
  local topic, event, payload = frame[3], frame[4], failure.without_null(frame[5])
  if type(topic) ~= "string" or type(event) ~= "string" or type(payload) ~= "table" then
    bad_frame(text, "values of other types")
  end
  local join_ref, ref = failure.without_null(frame[1]), failure.without_null(frame[2])
  return {join_ref = join_ref, ref = ref, topic = topic, event = event, payload = payload}
end

-- Text of the next frame; nil when `due` or the next heartbeat comes first, or the frame is binary: nothing of what a
-- job is told comes so.
local function receive_text(self, due)
  local ok, text, kind = pcall(self.peer.receive, self.peer, math.max(0, math.min(self.beat_due, due) - task.now()))
  if not ok then
    if errors.is(text, "timeout") then return nil end
    error(text, 0)
  end
  if text == nil then
    local code = self.peer.close_code
    dropped(("the server closed the connection%s"):format(code and (" (code %d)"):format(code) or ""), code)
  end
  return kind ~= "binary" and text or nil
end

--- The next message, heartbeats taken care of; nil when `due` (on task.now's clock) has come.
--- Raises kind "websocket" with `dropped` when the connection is lost.
---@param due number
---@return modelriver.Message|nil
function Socket:receive(due)
  while true do
    local now = task.now()
    if now >= due then return nil end   -- however much there is to read
    if now >= self.beat_due then beat(self) end
    local text = receive_text(self, due)
    if text then
      local message = read_frame(text)
      if message.topic ~= "phoenix" then return message end
      if message.ref == self.beat_ref then self.beat_ref = nil end
    end
  end
end

local function refused(topic, response)
  local reason = type(response) == "table" and response.reason or nil
  if type(reason) ~= "string" or reason == "" then reason = "unknown" end
  errors.raise{kind = "websocket", code = reason, retryable = false,
    message = ("the server refused to let us listen for the job: %s"):format(REFUSALS[reason] or reason),
    hint = topic:find(":.*:") == nil and "the channel's name lacks the project: give the client its project_id" or nil}
end

--- Joins a channel. Messages of the channel that come before the reply are returned; nil when `due` has come.
--- Raises kind "websocket": with the server's reason as `code` when it refuses.
---@param topic string
---@param due number
---@return modelriver.Message[]|nil early
function Socket:join(topic, due)
  local early = {}
  self.topic = nil
  local ref = tostring(self.refs + 1)
  self:push(ref, topic, "phx_join")
  local limit = math.min(due, task.now() + self.patience)
  while true do
    local message = self:receive(limit)
    if not message then
      self:push(ref, topic, "phx_leave")   -- it may be joined all the same
      if task.now() >= due then return nil end
      dropped(("the server did not answer the join within %g s"):format(self.patience))
    end
    if message.topic == topic and message.event == "phx_reply" and message.ref == ref then
      if message.payload.status ~= "ok" then refused(topic, message.payload.response) end
      self.topic, self.join_ref = topic, ref
      return early
    elseif message.topic == topic and (message.join_ref == nil or message.join_ref == ref) then
      early[#early + 1] = message
    end
  end
end

--- Leaves the channel that was joined; never fails.
function Socket:leave()
  pcall(function()
    if self.topic then self:push(self.join_ref, self.topic, "phx_leave") end
    self.topic = nil
  end)
end

return phoenix
