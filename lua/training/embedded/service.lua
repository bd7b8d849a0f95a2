--- The embedded training service: bytes of requests in, bytes of replies out, as a server of the River training
-- API gives them. `training.embedded` reaches it without a network; `riverlua serve training` puts it on a socket.
--
-- The way of a call: `call` decodes it and finds its method (sessions, models, passes, optimizer, weights,
-- sampling, batches, chat). What takes long is an operation in its model's lane, whose result is a future; it runs
-- on the engine's thread. Refusals are those of training.embedded.refusal.

local bounds = require "training.embedded.bounds"
local errors = require "riverlua.errors"
local futures = require "training.embedded.futures"
local lane = require "training.embedded.lane"
local models = require "training.embedded.models"
local once = require "training.embedded.once"
local protobuf = require "riverlua.protobuf"
local refusal = require "training.embedded.refusal"
local sessions = require "training.embedded.sessions"
local sources = require "training.embedded.sources"
local uploads = require "training.embedded.uploads"

local service = {}

local RPCS = protobuf.training:service("river.api.v1.RiverService").methods
local STOP_SECONDS = 5
local SWEEP_SECONDS = 3600   -- from one look for checkpoints whose time is over to the next

local HANDLERS = {}
for part in ("futures sessions models uploads passes optimizer weights sampling batches chat"):gmatch("%S+") do
  for name, method in pairs(require("training.embedded." .. part).methods) do HANDLERS[name] = method end
end

---@class training.embedded.Call
---@field method string
---@field bytes string the request
---@field timeout number|nil seconds that the caller has

---@class training.embedded.Service
---@field closed boolean
local Service = {}
Service.__index = Service
Service.__name = "training.embedded.Service"

---@class training.embedded.Parts
---@field core table riverlua.core.trainer, or something with its functions
---@field store table see training.embedded.store
---@field base_models table see training.embedded.base_models
---@field folder string|nil of base models
---@field threads integer|nil of the engine; nil: as many as the machine has processors
---@field seed integer|nil of everything that is random; default: 0

--- Makes a service. It works as soon as something is asked for.
---@param parts training.embedded.Parts
---@return training.embedded.Service
function service.new(parts)
  local self = setmetatable({core = parts.core, store = parts.store, base_models = parts.base_models,
    folder = parts.folder, threads = parts.threads, seed = parts.seed or 0,
    closed = false, engine = false, bases = once.new(), sessions = {}, session_count = 0, models = {}, lanes = {},
    lane = lane.new(), futures = futures.new(), promised = {}, uploads = {}, upload_count = 0, upload_bytes = 0,
    batches = {}, batch_order = {}, calls = 0, in_flight = 0, next_sweep = 0}, Service)
  self.lanes[self.lane] = true
  self.sources = sources.new(self)
  self.seed_of = function(...) return models.seed(self.seed, ...) end
  return self
end

-- ---- for its parts -------------------------------------------------------------------------------------------

--- The engine, which is opened when it is first needed.
function Service:open_engine()
  if self.closed then errors.raise{kind = "closed", message = "this embedded service has been closed"} end
  if not self.engine then self.engine = self.core.open{threads = self.threads} end
  return self.engine
end

--- Names of the base models.
---@return string[]
function Service:base_names() return self.base_models.list{folder = self.folder} end

local function not_supported(self, name)
  refusal.wrong("%s is not supported: there are %s", name, table.concat(self:base_names(), ", "))
end

--- Refuses names that no base model has.
---@param name string
function Service:check_base(name)
  if name == "" then refusal.wrong("base_model is empty") end
  if self.bases.made[name] then return end
  for _, known in ipairs(self:base_names()) do
    if known == name then return end
  end
  not_supported(self, name)
end

--- A base model: {name, config, tensors}. Refused when there is none. The first time this may wait: a
--- built-in one may have to be made.
---@param name string
function Service:base_model(name)
  if name == "" then refusal.wrong("base_model is empty") end
  self:check_base(name)
  return self.bases:get(name, function()
    local ok, found = pcall(self.base_models.open, name, {folder = self.folder, engine = self:open_engine()})
    if ok then return found end
    if errors.is(found, "not_found") then not_supported(self, name) end
    error(refusal.of_files("base model " .. name, found), 0)
  end)
end

--- Refuses when there is no room for an operation; before anything is changed for its sake.
---@param own training.embedded.Lane
---@param size integer bytes that it holds
---@param results integer|nil that it has (default: 1)
function Service:check_room(own, size, results)
  own:check_room(size)
  self.futures:check_room(results)
end

--- Begins an operation whose result is one response.
---@param call training.embedded.Call
---@param options {model: training.embedded.Model|nil, lane: table|nil, session: table|nil, keep: boolean|nil,
--- undo: fun()|nil}
---@param run fun(): table gives the RetrieveFutureResponse
---@return table AsyncResponse
function Service:submit(call, options, run)
  local model = options.model
  local own = options.lane or model and model.lane or self.lane
  local session = options.session or model and model.session
  self:check_room(own, #call.bytes)
  local future = self.futures:add{model_id = model and model.id, session = session}
  own:push{size = #call.bytes, keep = options.keep, session = session, run = function()
    future:begin()
    future:finish(run())
  end, fail = function(err)
    if options.undo then options.undo() end
    future:fail(err)
  end}
  return {request_id = future.id, type = call.method}
end

--- Forgets the uploads of a model.
function Service:forget_uploads(model) uploads.forget_model(self, model) end

--- Ends a model together with its session.
function Service:end_model(model, reason) models.end_with_session(self, model, reason) end

-- ---- calls ---------------------------------------------------------------------------------------------------

local function decode(method, bytes)
  bounds.check(method, bytes)
  local ok, request = pcall(RPCS[method].request.decode, RPCS[method].request, bytes)
  if ok then return request end
  if not errors.is(request, "protocol") then error(request, 0) end
  refusal.wrong("the request cannot be decoded: %s", request.message)
end

-- Kinds of errors that have a status of their own; "unsupported": OpenBLAS is not there.
local CODES = {memory = "RESOURCE_EXHAUSTED", limit = "RESOURCE_EXHAUSTED", unsupported = "UNIMPLEMENTED"}

-- What went wrong, as a status.
local function explain(method, err)
  if errors.is(err, "grpc") then return refusal.of_method(err, method) end
  if errors.is(err) and (err.kind == "cancelled" or err.kind == "interrupted" or err.kind == "closed") then
    return err
  end
  local code = errors.is(err) and CODES[err.kind] or "INTERNAL"
  local text = errors.is(err) and err.message .. (err.hint and (" (%s)"):format(err.hint) or "") or tostring(err)
  local made = refusal.of_method(refusal.new(code, text), method)
  made.cause = err
  return made
end

local function handle(self, method, bytes, context)
  if self.closed then errors.raise{kind = "closed", message = "this embedded service has been closed"} end
  local handler = HANDLERS[method]
  if not handler then refusal.raise("UNIMPLEMENTED", "there is no method %s", tostring(method)) end
  return handler(self, decode(method, bytes), {method = method, bytes = bytes, timeout = context.timeout})
end

local NONE = {}

local function guarded(self, method, bytes, context)
  self.calls, self.in_flight = self.calls + 1, self.in_flight + 1
  local ok, reply = pcall(handle, self, method, bytes, context or NONE)
  self.in_flight = self.in_flight - 1
  if ok then return reply end
  error(explain(method, reply), 0)
end

--- Answers a call. Only RetrieveFuture waits, until there is a result, at most 20 s and 0.9 of the time that there
--- is.
---@param method string "OptimStep"
---@param bytes string the request
---@param context {timeout: number|nil}|nil
---@return string reply
---Raises kind="grpc" as riverlua.grpc does: the service's refusals; kind="closed" after `close`.
function Service:call(method, bytes, context)
  local reply = guarded(self, method, bytes, context)
  if type(reply) == "string" then return reply end
  return RPCS[method].response:encode(reply)
end

--- The replies of a method that streams (RetrieveSamplingResults): an iterator. It waits before the first one
--- until something can be said, at most a second.
---@param method string
---@param bytes string
---@param context table|nil as for `call`
---@return fun(): string|nil
function Service:stream(method, bytes, context)
  local replies, i = guarded(self, method, bytes, context), 0
  if type(replies) ~= "table" or #replies == 0 and next(replies) then
    error(explain(method, refusal.new("INTERNAL", "this method does not stream")), 0)
  end
  return function()
    i = i + 1
    return replies[i]
  end
end

--- Ends sessions that have not been heard of for half an hour, and lets go of uploads that nobody used and, once an
--- hour, of checkpoints whose time is over. Not for clients in this process: they send no heartbeats.
---@param now number on riverlua.clock
---@return integer count of sessions
function Service:reap(now)
  local count = sessions.reap(self, now)
  uploads.reap(self, now)
  if now >= self.next_sweep then
    self.next_sweep = now + SWEEP_SECONDS
    self.store:remove_expired()
  end
  return count
end

--- Ends a session, as there is no RPC for it.
---@param id string
function Service:end_session(id)
  local session = self.sessions[id]
  if session then sessions.close(self, session, ("session %s has been closed"):format(id)) end
end

--- Counts.
function Service:stats()
  return {calls = self.calls, in_flight = self.in_flight, connections = 0, sessions = self.session_count,
    results = self.futures.count, pending = self.futures.pending}
end

-- Ends the operations; gives the tasks that worked on them.
local function stop(self)
  self.closed = true
  local workers = self.bases:stop("the service has been closed")
  for own in pairs(self.lanes) do
    local worker = own:stop("the service has been closed")
    if worker then workers[#workers + 1] = worker end
  end
  for _, maker in ipairs(self.sources:stop("the service has been closed")) do workers[#workers + 1] = maker end
  self.futures:wake()
  return workers
end

local function let_go(self)
  if self.engine then self.engine:close() end
  self.store:close()
  self.engine, self.sessions, self.models, self.lanes, self.uploads = false, {}, {}, {}, {}
end

local function join(workers)
  for _, worker in ipairs(workers) do worker:join(STOP_SECONDS) end
end

--- Ends everything: operations under way fail, waiting calls raise kind "closed". When it returns, or raises because
--- its task was cancelled meanwhile, the engine's thread has ended.
function Service:close()
  if self.closed then return end
  local ok, err = pcall(join, stop(self))
  let_go(self)
  if not ok and not errors.is(err, "closed") then error(err, 0) end   -- closed: this is a fork, where nobody works
end

--- The same without waiting for anything, when nobody can ask for a result any more.
function Service:abandon()
  if self.closed then return end
  stop(self)
  let_go(self)
end

Service.__close = Service.close

return service
