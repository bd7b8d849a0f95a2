--- The service at the other end of a network: gRPC channels, each for its purpose.
--
-- This is the seam: anything with the same methods can stand in its place, such as a service in this process. `rpc` and
-- `stream` take and give encoded messages. One that has `takes_blocks` gets large requests as riverlua.core.block and
-- not as strings: memory that is given back when `rpc` has returned.

local clock = require "riverlua.clock"
local grpc = require "riverlua.grpc"

local transport = {}

local PATH = "/river.api.v1.RiverService/"
local LARGEST_MESSAGE = 2 ^ 31 - 1
-- As the official client: the service lets its clients ask so often whether it is there.
local KEEPALIVE = {interval = 10, timeout = 5}
local CHANNEL_OPTIONS = {"proxy", "ca_file", "verify", "unix_socket"}

-- What goes with each call. Not in a field, which a dump would show: the key is among it.
local metadata_of = setmetatable({}, {__mode = "k"})

local Network = {takes_blocks = true}
Network.__index = Network
Network.__name = "training.Network"

--- Opens nothing yet: connections come with the first call.
---@param options {target: string, tls: boolean, key: string|nil, identity: string, http: table}
function transport.new(options)
  local kept = {}
  for name, value in pairs(options) do
    if name ~= "key" then kept[name] = value end
  end
  local self = setmetatable({channels = {}, options = kept}, Network)
  metadata_of[self] = {["x-api-key"] = options.key, ["x-river-client"] = options.identity}
  return self
end

-- Purposes have connections of their own: a session is made on one that is not shared, as a reply that got lost there
-- must not be asked for again; uploads go over several to be faster than one window allows.
local function channel_for(self, purpose)
  local channel = self.channels[purpose]
  if not channel then
    local options = self.options
    local own = {target = options.target, tls = options.tls, metadata = metadata_of[self],
      user_agent = options.identity, max_message = math.tointeger(LARGEST_MESSAGE), keepalive = KEEPALIVE}
    for _, name in ipairs(CHANNEL_OPTIONS) do own[name] = options.http[name] end
    channel = grpc.Channel(own)
    self.channels[purpose] = channel
  end
  return channel
end

--- Calls a method and waits for its reply.
---@param method string "OptimStep"
---@param bytes string|userdata the request
---@param options {timeout: number, previous_attempts: integer|nil, purpose: string|nil}
---@return string reply
function Network:rpc(method, bytes, options)
  return (channel_for(self, options.purpose or "main"):unary(PATH .. method, bytes, {timeout = options.timeout,
    previous_attempts = options.previous_attempts}))
end

--- An iterator over the replies of a method that streams.
---@param method string
---@param bytes string
---@param options {timeout: number}
function Network:stream(method, bytes, options)
  return channel_for(self, "main"):stream(PATH .. method, bytes, {timeout = options.timeout})
end

--- Closes the connection of a purpose that is not needed any more.
---@param purpose string
function Network:release(purpose)
  local channel = self.channels[purpose]
  self.channels[purpose] = nil
  if channel then channel:close() end
end

--- Starts the heartbeats of a session on a thread of their own.
---@param session_id string
---@param options table|nil more options of training.heartbeat
function Network:heartbeat(session_id, options)
  local own = {address = self.options.target, tls = self.options.tls, session_id = session_id,
    metadata = metadata_of[self], user_agent = self.options.identity}
  for _, name in ipairs(CHANNEL_OPTIONS) do own[name] = self.options.http[name] end
  for name, value in pairs(options or {}) do own[name] = value end
  return require("training.heartbeat").start(own)
end

--- Waits before something is tried again.
---@param seconds number
function Network:pause(seconds) clock.pause(seconds, false) end   -- luacheck: ignore self

--- Counts of all channels.
function Network:stats()
  local all = {connections = 0, calls = 0, in_flight = 0}
  for _, channel in pairs(self.channels) do
    local stats = channel:stats()
    for name, value in pairs(stats) do
      if type(value) == "number" and all[name] then all[name] = all[name] + value else all[name] = value end
    end
  end
  return all
end

function Network:close()
  for purpose in pairs(self.channels) do self:release(purpose) end
end

return transport
