--- `riverlua serve training`: the embedded training service on a socket, for any client of the River training API.
--
-- gRPC over HTTP/2 without TLS. The answers are training.embedded.service's; here are the socket, the key, the
-- ends of sessions that nobody keeps alive, and a shutdown that loses no answer.

local clock = require "riverlua.clock"
local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local grpc_server = require "riverlua.grpc_server"
local protobuf = require "riverlua.protobuf"
local task = require "riverlua.task"

local serve = {}

local SERVICE = "river.api.v1.RiverService"
local GiB = 1 << 30
-- Many operations of many models may be waited for at a time, each by a call of its own.
local MAX_STREAMS, MAX_CALLS = 1000, 10000
-- Seconds: between two looks for sessions that have been left; what calls get when the server stops. Those that
-- wait for a result are tried again by their clients.
local REAP_EVERY, GRACE = 10, 5

---@class training.Serve : riverlua.Served
local Serve = require("riverlua.served").class("training.Serve")

-- What the service raises, as a client may see it: what is none of its refusals is its own business.
local function reveal(self, method, problem)
  if errors.is(problem, "closed") then grpc_server.fail("UNAVAILABLE", "the service stops") end
  local cause = errors.is(problem, "grpc") and problem.cause
  if cause and not errors.is(cause) then   -- not a refusal, but a mistake
    self.on_error(cause, {method = method})
    grpc_server.fail("INTERNAL", "internal error")
  end
  error(problem, 0)
end

-- Without metadata: the key has been looked at, and there is nothing else in them for the service.
local function context_of(call) return {timeout = call:remaining()} end

local function unary(self, name)
  return function(request, call)
    local ok, reply = pcall(self.service.call, self.service, name, request, context_of(call))
    if not ok then reveal(self, call.method, reply) end
    return reply
  end
end

local function stream(self, name)
  return {stream = function(request, call)
    local ok, next_reply = pcall(self.service.stream, self.service, name, request, context_of(call))
    if not ok then reveal(self, call.method, next_reply) end
    return function()
      local more, reply = pcall(next_reply)
      if not more then reveal(self, call.method, reply) end
      return reply
    end
  end}
end

local STREAMS = {RetrieveSamplingResults = true}

local function handlers_of(self)
  local handlers = {}
  for name, method in pairs(protobuf.training:service(SERVICE).methods) do
    handlers[method.path] = (STREAMS[name] and stream or unary)(self, name)
  end
  return handlers
end

-- Refuses who has not the key, before the request is read. Keys are compared by their digests: how long that takes
-- tells nothing.
local function guard(key)
  if key == nil then return nil end
  local wanted = digest.sha256(key)
  return function(call)
    local given = call.metadata["x-api-key"]
    if not given or not digest.equal(digest.sha256(given), wanted) then
      grpc_server.fail("UNAUTHENTICATED", "the API key is not valid")
    end
  end
end

local function default_on_error(problem, call)
  io.stderr:write("riverlua serve training: ", call and call.method .. ": " or "", tostring(problem), "\n")
end

local OPTIONS = {host = "string|nil", port = "integer|nil", key = "string|nil", folder = "string|nil",
  threads = "integer|nil", seed = "integer|nil", base_models = "string|nil", on_error = "callable|nil",
  service = "table|nil", reap_every = "number|nil"}

-- The embedded trainer's service. Its engine begins here rather than with the first call: who starts a server wants to
-- be told at once that it cannot compute.
local function open_service(options)
  local service = require("training.embedded").service({path = options.folder, threads = options.threads,
    seed = options.seed, base_models = options.base_models}, "training.serve")
  local ok, problem = pcall(service.open_engine, service)
  if ok then return service end
  service:close()
  error(problem, 0)
end

--- Opens the service on a socket.
---
--- Options: `host` (default "127.0.0.1"), `port` (default 0: any free one), `key` (calls without it as `x-api-key`
--- are refused; default: everybody may call), `folder` for checkpoints (default: they are kept in memory),
--- `threads` of the trainer (default: one for each processor), `seed` of all that is random (default 0),
--- `base_models`: a folder with some beside the built-in ones, `on_error` as for riverlua.grpc_server, `service`:
--- instead of training.embedded's, `reap_every`: seconds (10) between two looks for sessions that have been left.
---@param options table|nil
---@return training.Serve # `run{signals = true}` serves, `stop()` ends that, `close()` frees all
---Raises kind="connect" when the port cannot be had, kind="argument" for wrong options, kind="unsupported" when
---OpenBLAS is not there.
function serve.open(options)
  options = options or {}
  errors.expect("training.serve", "options", options, "table")
  errors.check_options("training.serve", options, OPTIONS)
  for name, wanted in pairs(OPTIONS) do errors.expect("training.serve", name, options[name], wanted) end
  if options.key == "" then errors.raise{kind = "argument", message = "training.serve: 'key' is empty"} end
  local self = setmetatable({on_error = options.on_error or default_on_error,
    reap_every = options.reap_every or REAP_EVERY}, Serve)
  self.server = grpc_server.Server{
    host = options.host, port = options.port, on_error = self.on_error, grace = GRACE, accept = guard(options.key),
    max_message = GiB, max_requests = 2 * GiB, max_streams = MAX_STREAMS, max_calls = MAX_CALLS,
    handlers = handlers_of(self),
  }
  local ok, service = pcall(function() return options.service or open_service(options) end)
  if not ok then
    self.server:close()
    error(service, 0)
  end
  self.service = service
  self.port = self.server.port
  local host = self.server.host
  self.url = (host:find(":", 1, true) and "http://[%s]:%d" or "http://%s:%d"):format(host, self.port)
  return self
end

-- Sessions end when nothing has been heard of them for long.
local function reap_sessions(self)
  while true do
    task.sleep(self.reap_every)
    local ok, problem = pcall(self.service.reap, self.service, clock.now())
    if not ok then
      if errors.is(problem, "cancelled") then error(problem, 0) end
      self.on_error(problem)
    end
  end
end

--- Serves until stopped; see riverlua.grpc_server.
---@param options table|nil `signals = true`: also until Ctrl-C or SIGTERM
---@return string|nil signal the one that ended it
function Serve:run(options)
  local reaper <close> = task.spawn(reap_sessions, self)   -- luacheck: ignore 211
  return self.server:run(options)
end

--- For `riverlua serve`: what it says about this service, its options and what opens it.
serve.command = {
  summary = "the River training API: LoRA, losses, sampling, checkpoints on this machine's processors",
  options = {host = "HOST", port = "N", key = "TEXT", folder = "PATH", threads = "N", seed = "N",
    base_models = "FOLDER"},
  environment = {key = "RIVER_API_KEY"},
  help = [[
  --host HOST     address to listen on (default 127.0.0.1: this machine only)
  --port N        port (default 50051; 0: any free one)
  --key TEXT      ask for this API key; better given by RIVER_API_KEY, which others cannot see
  --folder PATH   keep checkpoints there between runs (default: in memory only)
  --threads N     of the trainer (default: one for each processor)
  --seed N        of all that is random (default 0)
  --base-models FOLDER   look there first for base models (default: RIVERLUA_BASE_MODELS)]],
  defaults = {port = 50051},
  open = serve.open,
}

return serve
