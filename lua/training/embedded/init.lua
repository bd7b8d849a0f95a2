--- The trainer in this process: `training.Client{endpoint = "embedded:"}`.
--
--     local client <close> = training.Client{endpoint = "embedded:", embedded = {threads = 2, seed = 1}}
--
-- `embedded:` keeps checkpoints in memory, `embedded:runs` in the folder `runs`. The service behind it is
-- training.embedded.service; here is what a client needs to reach it without a network.

local clock = require "riverlua.clock"
local errors = require "riverlua.errors"
local folder = require "riverlua.core.folder"
local lazy = require "riverlua.lazy"
local task = require "riverlua.task"

local embedded = {}

local OPTIONS = {path = "string|nil", threads = "integer|nil", seed = "integer|nil", base_models = "string|nil"}
local MOST_THREADS = 1024

-- Answers of these are there at once: no operation begins.
local IMMEDIATE = {}
for name in ([[HealthCheck GetServerCapabilities PrepareLoss CreateSession SessionHeartbeat GetInfo
  CreateTrainingDataAttestation CreateUpload UploadChunk UploadImage ReleaseImage
  RetrieveFuture]]):gmatch("%S+") do
  IMMEDIATE[name] = true
end

-- ---- heartbeats ----------------------------------------------------------------------------------------------

-- A service in this process cannot be lost. What stays of a heartbeat is its end, by which a session ends.
local Heartbeat = {}
Heartbeat.__index = Heartbeat
Heartbeat.__name = "training.embedded.Heartbeat"

function Heartbeat:check() end   -- luacheck: ignore self

function Heartbeat:capacity() return {} end   -- luacheck: ignore self

function Heartbeat:status()
  return {beats = 0, attempts = 0, failures = 0, rejections = 0, connections = 0, failing = false,
    last_success_ago = 0, stopped = self.stopped}
end

function Heartbeat:stop()
  if self.stopped then return end
  self.stopped = true
  self.service:end_session(self.session_id)
end

Heartbeat.__close = Heartbeat.stop

-- ---- transport -----------------------------------------------------------------------------------------------

---@class training.embedded.Transport a transport, see training.transport
---@field service training.embedded.Service
local Transport = {}
Transport.__index = Transport
Transport.__name = "training.embedded.Transport"

--- Calls a method and waits for its reply.
---@param method string
---@param bytes string
---@param options {timeout: number|nil}
---@return string
function Transport:rpc(method, bytes, options)
  local reply = self.service:call(method, bytes, {timeout = options and options.timeout})
  -- what has been submitted begins now, though the script may go on without waiting for anything
  if not IMMEDIATE[method] then task.sleep(0) end
  return reply
end

--- An iterator over the replies of a method that streams.
function Transport:stream(method, bytes, options)
  return self.service:stream(method, bytes, {timeout = options and options.timeout})
end

--- Something with the methods of training.heartbeat.
function Transport:heartbeat(session_id)
  return setmetatable({service = self.service, session_id = session_id, stopped = false}, Heartbeat)
end

--- Waits before something is tried again.
---@param seconds number
function Transport:pause(seconds) clock.pause(seconds, false) end   -- luacheck: ignore self

function Transport:stats() return self.service:stats() end

--- Ends the service: operations under way are given up.
function Transport:close() self.service:close() end

Transport.__close = Transport.close

-- A script that ends, or has lost its client, waits for nothing that was submitted.
function Transport:__gc() self.service:abandon() end

--- Internal: a client's way to a service, which ends with it.
---@param service training.embedded.Service
---@return training.embedded.Transport
function embedded.transport(service) return setmetatable({service = service}, Transport) end

--- Makes a service of its own and the way to it. Options: `path` (a folder for checkpoints, which is made if it is
--- not there; nil: they are kept in memory), `threads` (default: one for each processor), `seed` = 0 (of all that
--- is random: the same program gives the same numbers), `base_models` (a folder with base models beside the
--- built-in ones).
---@param options table|nil
---@return training.embedded.Transport
---Raises kind="argument" for wrong options, "unsupported" when this riverlua has no trainer, "storage" when there
---can be no such folder.
function embedded.new(options)
  return embedded.transport(embedded.service(options))
end

--- The service alone, for `riverlua serve training`. Options as for `new`.
---@param options table|nil
---@param what string|nil what errors call them
---@return training.embedded.Service
function embedded.service(options, what)
  what = what or "training.Client: embedded"
  options = options or {}
  errors.check_options(what, options, OPTIONS)
  for name, wanted in pairs(OPTIONS) do errors.expect(what, name, options[name], wanted) end
  local threads = options.threads
  if threads and (threads < 1 or threads > MOST_THREADS) then
    errors.raise{kind = "argument", message = ("%s: 'threads' must be from 1 to %d"):format(what, MOST_THREADS)}
  end
  local models = options.base_models
  if models and not folder.list(models) then
    errors.raise{kind = "argument",
      message = ("%s: 'base_models' is '%s', and there is no such folder"):format(what, models)}
  end
  return require("training.embedded.service").new{
    core = require "riverlua.core.trainer", base_models = require "training.embedded.base_models",
    store = require("training.embedded.store").new{path = options.path}, folder = options.base_models,
    threads = threads, seed = options.seed}
end

return lazy.module("training.embedded", embedded, {}, {pretrain = {"training.embedded.pretrain", "pretrain"}})
