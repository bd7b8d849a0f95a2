--- The server's side of a WebSocket: Phoenix channels, serializer V2. Texts in, texts out; how they travel is the
-- business of whoever holds the session.

local json = require "riverlua.json"
local task = require "riverlua.task"

local channels = {}

local encode = json.encoder{sort = true}

-- Frames that a client may send are small.
local MOST_BYTES = 1024 * 1024
local UUID = "^%x%x%x%x%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x%x%x%x%x%x%x%x%x$"

---@class modelriver.embedded.Channel one joined topic
---@field job modelriver.embedded.Job
local Channel = {}
Channel.__index = Channel

---@class modelriver.embedded.Session
local Session = {}
Session.__index = Session
Session.__name = "modelriver.embedded.Session"

local function send(self, join_ref, ref, topic, event, payload)
  self.push(("[%s,%s,%s,%s,%s]"):format(encode(join_ref), encode(ref), encode(topic), encode(event), payload))
end

local function reply(self, join_ref, ref, topic, status, response)
  send(self, join_ref, ref, topic, "phx_reply", encode{status = status, response = json.object(response or {})})
end

--- Tells a payload to the one who joined: a broadcast, so without a join_ref.
---@param payload string JSON
function Channel:push(payload) send(self.session, json.null, json.null, self.topic, "response", payload) end

-- The job of a topic, or nil and the reason of the refusal.
local function job_of(self, topic)
  local parts = {}
  for part in (topic:match("^ai_response:(.*)$") .. ":"):gmatch("([^:]*):") do parts[#parts + 1] = part end
  if #parts ~= 1 and #parts ~= 2 or parts[#parts] == "" then return nil, "invalid_channel_format" end
  local project_id, channel_id = parts[1], parts[#parts]
  if #parts == 1 then project_id = self.project_id end
  if project_id ~= self.project_id then
    return nil, project_id:find(UUID) and "unauthorized_project_access" or "invalid_project_uuid"
  end
  if not channel_id:find(UUID) then return nil, "invalid_channel_uuid" end
  local job = self.store.jobs[channel_id]
  if not job then return nil, "unknown_channel" end
  if job.project_id ~= project_id then return nil, "unauthorized_project_access" end
  return job
end

local function drop(self, channel)
  self.joined[channel.topic] = nil
  channel.job:leave(channel)
  send(self, channel.join_ref, channel.join_ref, channel.topic, "phx_close", "{}")
end

local function join(self, join_ref, ref, topic)
  if not topic:find("^ai_response:") then
    return reply(self, json.null, ref, topic, "error", {reason = "unmatched topic"})
  end
  local job, reason = job_of(self, topic)
  if not job then return reply(self, join_ref, ref, topic, "error", {reason = reason}) end
  if self.joined[topic] then drop(self, self.joined[topic]) end
  local channel = setmetatable({session = self, topic = topic, join_ref = join_ref, job = job}, Channel)
  self.joined[topic] = channel
  reply(self, join_ref, ref, topic, "ok")
  job:join(channel)
end

local function leave(self, join_ref, ref, topic)
  reply(self, join_ref, ref, topic, "ok")
  local channel = self.joined[topic]
  if channel then drop(self, channel) end
end

local function decode_frame(text)
  if #text > MOST_BYTES then return nil end
  local ok, frame = pcall(json.decode, text)
  if not ok or not json.is_array(frame) or #frame ~= 5 then return nil end
  if type(frame[3]) ~= "string" or type(frame[4]) ~= "string" or type(frame[5]) ~= "table" then return nil end
  return frame[1], frame[2], frame[3], frame[4]
end

--- Takes a text of the client.
---@param text string
---@return boolean understood false: the connection must be closed
function Session:receive(text)
  local join_ref, ref, topic, event = decode_frame(text)
  if not topic then return false end
  if topic == "phoenix" then
    if event == "heartbeat" then reply(self, json.null, ref, topic, "ok") end
  elseif event == "phx_join" then
    join(self, join_ref, ref, topic)
  elseif event == "phx_leave" then
    leave(self, join_ref, ref, topic)
  elseif not self.joined[topic] then
    reply(self, json.null, ref, topic, "error", {reason = "unmatched topic"})
  elseif event == "heartbeat" then
    reply(self, join_ref, ref, topic, "ok")
  end
  return true
end

--- Ends what has run out of time, and says how long nothing else will.
---@return number|nil seconds nil: nothing waits for its time
function Session:settle()
  local due
  for _, channel in pairs(self.joined) do
    local job = channel.job
    if not job:settle() and job.due then due = math.min(due or math.huge, job.due) end
  end
  return due and math.max(0, due - task.now())
end

--- The connection is gone.
function Session:close()
  local joined = self.joined
  self.joined = {}
  for _, channel in pairs(joined) do channel.job:leave(channel) end
end

local function percent_decode(text)
  return (text:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

--- Opens a session for the target of an upgrade request. The token in it is spent.
---@param gateway modelriver.embedded.Gateway
---@param target string path and query
---@param push fun(text: string) sends a text to the client
---@return modelriver.embedded.Session|nil
---@return integer|nil status of the refusal
function channels.open(gateway, target, push)
  local path, query = target:match("^([^?#]*)%??([^#]*)")
  if path ~= "/socket/websocket" then return nil, 404 end
  local given = {}
  for name, value in query:gmatch("([^&=]+)=([^&]*)") do given[name] = percent_decode(value) end
  if given.vsn ~= "2.0.0" then return nil, 400 end
  local project_id = given.token and gateway.registry.store:spend(given.token)
  if not project_id then return nil, 403 end
  return setmetatable({store = gateway.registry.store, project_id = project_id, push = push, joined = {}}, Session)
end

return channels
