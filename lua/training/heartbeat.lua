--- The heartbeat of a session: a thread of its own, with a connection of its own, tells the service every two seconds
-- that the session is alive (RPC SessionHeartbeat).
--
--     local metadata = {["x-api-key"] = key}
--     local beat <close> = heartbeat.start{address = "api.river.ai:443", session_id = id, metadata = metadata}
--     …
--     beat:check()   -- before every wait: raises when the session is lost
--
-- The thread knows nothing of Lua, so beats go on whatever the script does: a reward function that computes for
-- minutes, os.execute, a call into C. It keeps no script alive and delays no exit. Failures raise nothing by
-- themselves, because most pass: they come out of `check`.

local core = require "riverlua.core.heartbeat"
local errors = require "riverlua.errors"
local grpc_target = require "riverlua.grpc_target"
local route = require "riverlua.route"
local runtime = require "riverlua.core.runtime"

local heartbeat = {}

-- name → type; true: looked at where it is used
local OPTIONS = {
  address = "string", tls = "boolean|nil", session_id = "string", metadata = "table|nil", user_agent = "string|nil",
  connect_timeout = "number|nil", keepalive = true, proxy = true, ca_file = "string|nil", verify = "boolean|nil",
  unix_socket = "string|nil", interval = "number|nil", attempts = "integer|nil", pause = "number|nil",
  deadline = "number|nil", silence = "number|nil", rejected = "number|nil", hints = "boolean|nil",
}

-- Seconds, but for `attempts`.
local USUAL = {interval = 2, attempts = 3, pause = 0.5, deadline = 30, silence = 1800, rejected = 120,
  connect_timeout = 20}

local REPLY = "river.api.v1.SessionHeartbeatResponse"

---@class training.HeartbeatStatus
---@field beats integer how many have ended, well or not
---@field attempts integer how many requests were made for them
---@field failures integer how many beats failed
---@field rejections integer how many requests the service answered with success = false
---@field connections integer how many were opened
---@field failing boolean the last beat failed
---@field last_success number|nil on the clock of riverlua.task, seconds; nil: none yet
---@field last_success_ago number seconds since then, or since the start
---@field rejected boolean|nil the last failure was the service's own answer, not a broken connection
---@field status integer|nil gRPC status of the last failure
---@field code string|nil its name, such as "UNAVAILABLE"
---@field error string|nil the last failure, in words
---@field stopped boolean

---@class training.Heartbeat
---@field session_id string
local Heartbeat = {}
Heartbeat.__index = Heartbeat
Heartbeat.__name = "training.Heartbeat"

-- --------------------------------------------------------------------------------------------------- starting

local function refuse(text, hint)
  errors.raise{kind = "argument", message = "heartbeat.start: " .. text, hint = hint}
end

local function check_options(options)
  errors.expect("heartbeat.start", "options", options, "table")
  errors.check_options("heartbeat.start", options, OPTIONS)
  for name, wanted in pairs(OPTIONS) do
    if wanted ~= true then errors.expect("heartbeat.start", name, options[name], wanted) end
  end
  if options.proxy ~= nil and options.proxy ~= false then
    errors.expect("heartbeat.start", "proxy", options.proxy, "string")
  end
  for name in pairs(USUAL) do
    local value = options[name]
    if value and not (value >= 0 and value < 1e9) then refuse(("'%s' must not be negative"):format(name)) end
  end
  if options.interval and options.interval < 0.001 then refuse("'interval' is at least 0.001 s") end
  if options.deadline == 0 then refuse("'deadline' must be more than 0 s") end
  if options.attempts and (options.attempts < 1 or options.attempts > 100) then
    refuse("'attempts' is between 1 and 100")
  end
  if options.user_agent and options.user_agent:find("[^\x20-\x7e]") then refuse("'user_agent' is printable ASCII") end
  if options.session_id:find("\0", 1, true) or not utf8.len(options.session_id) then
    refuse("'session_id' is not a text")
  end
end

-- {name, value, name, value, …}, in the order of names
local function flatten(metadata)
  local names, out = {}, {}
  for name, value in pairs(metadata or {}) do
    errors.expect("heartbeat.start: metadata", "name", name, "string")
    errors.expect("heartbeat.start: metadata", name, value, "string|table")
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    local value = metadata[name]
    for _, one in ipairs(type(value) == "table" and value or {value}) do
      errors.expect("heartbeat.start: metadata", name, one, "string")
      out[#out + 1] = name:lower()
      out[#out + 1] = one
    end
  end
  return out
end

local function keepalive_of(given)
  if given == false then return 0, 0 end
  if given == nil then given = {} end
  errors.expect("heartbeat.start", "keepalive", given, "table|boolean")
  errors.check_options("heartbeat.start: keepalive", given, {interval = true, timeout = true})
  local interval, timeout = given.interval or 10, given.timeout or 5
  for name, value in pairs{interval = interval, timeout = timeout} do
    if type(value) ~= "number" or not (value > 0 and value < 1e9) then
      refuse(("keepalive.%s must be a number of seconds above 0"):format(name))
    end
  end
  return interval, timeout
end

-- Takes out of texts of the service what was sent to it in secret.
local function scrubber(metadata)
  local secrets = {}
  for i = 2, #metadata, 2 do
    if #metadata[i] >= 6 then secrets[#secrets + 1] = metadata[i] end
  end
  table.sort(secrets, function(a, b) return #a > #b end)
  return function(text)
    for _, secret in ipairs(secrets) do
      local from, to = text:find(secret, 1, true)
      while from do
        text = text:sub(1, from - 1) .. "***" .. text:sub(to + 1)
        from, to = text:find(secret, from + 3, true)
      end
    end
    return (text:gsub("[%c\x7f]+", " "))
  end
end

--- Starts the heartbeat of a session. The first beat is one interval away; each is one call of SessionHeartbeat.
---
--- Options: `address` ("host:port", or a URL), `tls` (default: true, but for http: and Unix sockets),
--- `session_id`, `metadata` (name → value or list of values, sent with every call: the API key), `user_agent`,
--- `connect_timeout` = 20, `keepalive` = {interval = 10, timeout = 5} or false, `proxy`, `ca_file`, `verify`,
--- `unix_socket` (as riverlua.http);
--- `interval` = 2: seconds from the start of one beat to the start of the next, never two at once;
--- `attempts` = 3: how often a beat is tried, with pauses of `pause` = 0.5 s, then twice as long each time;
--- `deadline` = 30: seconds for one attempt; one that ends UNAVAILABLE or DEADLINE_EXCEEDED takes its connection along;
--- `silence` = 1800, `rejected` = 120: see `check`; `hints` = false: see training.capacity.
---
--- Raises kind "argument" for wrong options, "limit" when no thread can be started, "closed" in a forked process.
--- Failures of the beats themselves come out of `check`. The beat ends with `stop`, when it is collected, and with the
--- runtime; a forked process does not have it.
---@param options table
---@return training.Heartbeat
function heartbeat.start(options)
  check_options(options)
  local function get(name)
    if options[name] ~= nil then return options[name] end
    return USUAL[name]
  end
  local given = route.profile(options)
  given.url, given.authority, given.tls = grpc_target.read("heartbeat.start", "address", options.address, options)
  given.metadata = flatten(options.metadata)
  given.user_agent = (options.user_agent and options.user_agent .. " " or "") .. "riverlua/" .. runtime.version
  given.session_id, given.connect = options.session_id, get("connect_timeout")
  given.keepalive, given.keepalive_timeout = keepalive_of(options.keepalive)
  for _, name in ipairs{"interval", "attempts", "pause", "deadline"} do given[name] = get(name) end
  return setmetatable({
    session_id = options.session_id,
    handle = core.start(given),
    scrub = scrubber(given.metadata),
    silence = get("silence"), rejected = get("rejected"), hints = options.hints == true,
    monitor = require("training.capacity").new{hints = options.hints},
  }, Heartbeat)
end

-- ---------------------------------------------------------------------------------------------------- capacity

-- Hands the latest reply to the list of capacities. One that cannot be read as a whole was still a heartbeat.
local function take_reply(self)
  local bytes, sequence, ago = self.handle:reply()
  if not bytes then return end
  local message = require("riverlua.protobuf").training:message(REPLY)
  local ok, reply = pcall(message.decode, message, bytes)
  if ok then self.monitor:update(reply.capacity_status, sequence, ago) end
end

--- What the last reply said about the workers of the session's runs; costs no call. Empty: nothing is known. See
--- training.capacity. (RPC SessionHeartbeat)
---@return training.CapacityStatus[]
function Heartbeat:capacity()
  take_reply(self)
  return self.monitor:status()
end

-- -------------------------------------------------------------------------------------------- the public calls

local function raise_lost(self, state)
  local ago = state.last_success_ago
  local reason = self.scrub(state.error)
  errors.raise{
    kind = "session_lost", session_id = self.session_id, last_success_ago = ago, rejected = state.rejected,
    status = state.status, code = state.code, retryable = false,
    message = ("session %s: lost: no heartbeat has come through for %.1f s; the last one: %s%s"):format(
      self.scrub(self.session_id), ago, state.code and state.code .. ": " or "", reason),
    hint = "what the session held in memory is gone: begin a new one and load the last checkpoint",
  }
end

--- Looks at how the beats went; to be called before every wait. With hints this is where they are given.
---
--- Raises kind "session_lost" when the last beat failed and none has come through for `silence` seconds, or for
--- `rejected` seconds when the service itself refused it (success = false, or a status other than UNAVAILABLE and
--- DEADLINE_EXCEEDED). Fields: `session_id`, `last_success_ago` (seconds; since the start when there was none),
--- `rejected` (boolean), `status` and `code` of the last failure (nil when success = false). Kind "closed" in a forked
--- process.
function Heartbeat:check()
  if self.hints then take_reply(self) end
  if not self.handle:failing() then return end
  local state = self.handle:state()
  if not state.failing then return end   -- it has just gone well
  if state.last_success_ago >= (state.rejected and self.rejected or self.silence) then raise_lost(self, state) end
end

--- How the beats went.
---@return training.HeartbeatStatus
function Heartbeat:status()
  local state = self.handle:state()
  if state.error then state.error = self.scrub(state.error) end
  return state
end

--- Ends the beats; does not wait for the network. Nothing happens when that was done before.
function Heartbeat:stop() self.handle:stop() end

Heartbeat.__close = Heartbeat.stop

function Heartbeat:__tostring() return ("training.Heartbeat(%s)"):format(self.scrub(self.session_id)) end

errors.want_colon(Heartbeat, "heartbeat")

return heartbeat
