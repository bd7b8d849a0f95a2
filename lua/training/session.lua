--- A session: models in training, kept alive by heartbeats. `client:session{…}`.

local batch = require "training.batch"
local clock = require "riverlua.clock"
local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local failure = require "training.failure"
local future = require "training.future"
local images = require "training.images"
local lora = require "training.lora"
local object = require "training.object"
local samples = require "training.samples"
local sampling = require "training.sampling"
local weights = require "training.weights"

local session = {}

-- Making a session waits no longer than a user would for an endpoint that is not there.
local CREATE_TIMEOUT = 60
-- What cannot be unloaded ends with the session, when the service has not heard from it for half an hour.
local UNLOAD_TIMEOUT = 30
local HEARTBEAT_TIMEOUT = 30

---@class training.Session
---@field session_id string
---@field client training.Client
---@field models training.Model[]
---@field meter training.SessionMeter counts tokens and cost
---@field last_checkpoint string|nil path of the last training checkpoint
local Session = {}
Session.__name = "training.Session"

local OPTIONS = {}
for name in ([[tags timeout capacity_hints before_poll on_session_creation_attempted on_session_created
  on_session_closed budget prices context_length heartbeat]]):gmatch("%S+") do OPTIONS[name] = true end

local HEARTBEAT = {interval = true, attempts = true, pause = true, deadline = true, silence = true, rejected = true,
  connect_timeout = true, keepalive = true}

local function read_tags(given)
  local tags = {}
  local function take(name, value)
    if type(name) ~= "string" or type(value) ~= "string" then
      local near = type(name) == "string" and errors.suggest(name, OPTIONS)
      errors.raise{kind = "argument", message = ("session: the tag '%s' must be a text, got a %s"):format(
        tostring(name), type(value)), hint = near and ("did you mean the option '%s'?"):format(near)
        or "tags are texts, such as run = \"first\" and project = \"maths\""}
    end
    tags[name] = value
  end
  for name, value in pairs(errors.expect("session", "tags", given.tags or {}, "table")) do take(name, value) end
  for name, value in pairs(given) do
    if not OPTIONS[name] then take(name, value) end
  end
  return tags
end

local function start_heartbeat(self, options)
  local transport = self.wire.transport
  if not transport.heartbeat then return nil end   -- a service in this process outlives nothing
  local own = {hints = options.capacity_hints}
  for name, value in pairs(options.heartbeat or {}) do own[name] = value end
  return transport:heartbeat(self.session_id, own)
end

--- Internal: makes a session. See `client:session`.
---@param client training.Client
---@param options table
---@return training.Session
function session.new(client, options)
  local tags = read_tags(options)
  for _, name in ipairs{"before_poll", "on_session_creation_attempted", "on_session_created", "on_session_closed"} do
    errors.expect("session", name, options[name], "callable|nil")
  end
  errors.expect("session", "capacity_hints", options.capacity_hints, "boolean|nil")
  local heartbeat = errors.expect("session", "heartbeat", options.heartbeat or {}, "table")
  errors.check_options("session: heartbeat", heartbeat, HEARTBEAT)
  local timeout = client:timeout_of("session", options.timeout or CREATE_TIMEOUT)
  local meter = client:new_meter("session", options)
  if options.on_session_creation_attempted then options.on_session_creation_attempted() end
  local ok, reply, err = pcall(client.wire.try, client.wire, "CreateSession",
    {tags = tags, sdk_version = client.identity},
    {what = "session", deadline = clock.now() + timeout, purpose = "session"})
  if client.wire.transport.release then client.wire.transport:release("session") end
  if not ok then error(reply, 0) end
  local call = {what = "session", scrub = client.wire.scrub}
  if not reply then error(failure.from_grpc(call, err), 0) end
  if reply.error_message then
    errors.raise{kind = "invalid_request", retryable = false,
      message = "session: the service refuses: " .. failure.one_line(client.wire.scrub, reply.error_message)}
  elseif reply.session_id == "" then
    error(failure.protocol(call, "the service gave no session id"), 0)
  end
  if reply.warning_message then client:warn(failure.one_line(client.wire.scrub, reply.warning_message)) end
  local self = setmetatable({client = client, wire = client.wire, session_id = reply.session_id, models = {},
    model_seq_id = 0, timeout = client.timeout, meter = meter, image_slots = client.image_slots, tags = tags,
    info_message = reply.info_message and client.wire.scrub(reply.info_message),
    before_poll = options.before_poll or false, used_images = false, closed = false,
    on_session_closed = options.on_session_closed or false, last_checkpoint = false, heartbeat = false}, Session)
  self.last_checkpoint = nil
  self.heartbeat = start_heartbeat(self, options) or false
  client.sessions[self] = true
  if options.on_session_created then options.on_session_created() end
  return self
end

-- ---- for the parts of a session ------------------------------------------------------------------------------

local function check_open(self, what)
  if self.closed then
    errors.raise{kind = "closed", message = ("%s: this session has been closed"):format(what)}
  end
  self.client:check_open()
end

--- Internal: before every wait: raises when the session has been lost or closed.
---@param what string
---@param request_id string|nil
function Session:check(what, request_id)
  check_open(self, what)
  if self.before_poll then self.before_poll() end
  if not self.heartbeat then return end
  local ok, err = pcall(self.heartbeat.check, self.heartbeat)
  if ok then return end
  if not errors.is(err, "session_lost") then error(err, 0) end
  self.lost = true
  error(failure.session_lost({what = what, request_id = request_id, checkpoint = self.last_checkpoint}, err), 0)
end

local function own_options(self, what, options)
  local own = {}
  for name, value in pairs(options) do own[name] = value end
  own.what, own.checkpoint = what, self.last_checkpoint
  own.deadline = options.deadline or clock.now() + self.timeout
  own.before = function() self:check(what) end
  return own
end

--- Internal: what an error means for the session: when the service knows nothing of a model, it may be the session
--- that is gone. It is asked, as heartbeats tell of it only when they have been refused for a while.
---@param what string
---@param err any
---@return any err the same, or one of kind "session_lost"
function Session:explain(what, err)
  if not errors.is(err, "not_found") or not self.heartbeat or self.lost or self.closed then return err end
  local reply = self.wire:try("SessionHeartbeat", {session_id = self.session_id},
    {what = what, deadline = clock.now() + HEARTBEAT_TIMEOUT, safe = true})
  if not reply or reply.success then return err end
  self.lost = true
  return failure.session_lost({what = what, request_id = err.request_id, checkpoint = self.last_checkpoint},
    {kind = "session_lost", session_id = self.session_id, rejected = true, retryable = false, cause = err,
      message = "the service has ended the session" .. (err.details ~= "" and ": " .. err.details or "")})
end

--- Internal: an RPC on behalf of the session.
function Session:rpc(what, method, request, options)
  check_open(self, what)
  local own = own_options(self, what, options)
  local reply, err = self.wire:try(method, request, own)
  if reply then return reply end
  error(self:explain(what, failure.from_grpc({what = what, scrub = self.wire.scrub, checkpoint = self.last_checkpoint},
    err)), 0)
end

-- Begins an operation; returns its request id.
local function submit(self, what, method, request, options)
  check_open(self, what)
  self:check(what)
  options.rounds = true
  local request_id = self:rpc(what, method, request, options).request_id
  if request_id == "" then
    error(failure.protocol({what = what, checkpoint = self.last_checkpoint}, "the service gave no request id"), 0)
  end
  return request_id
end

--- Internal: begins an operation; returns its request id. When that fails, `options.release` gives back what was set
--- aside for it.
function Session:submit(what, method, request, options)
  local ok, result = pcall(submit, self, what, method, request, options)
  if ok then return result end
  if options.release then options.release() end
  error(result, 0)
end

--- Internal: seconds that a call may take.
function Session:timeout_of(what, given) return self.client:timeout_of(what, given) end

--- Internal: raises unless the endpoint offers a feature.
function Session:need_feature(what, feature, option) self.client:need_feature(what, feature, option) end

--- Internal: adds what a call used to the meter.
function Session:count_usage(model, usage, fallback)
  self.meter:add(usage or fallback or {}, model and model.base_model)
end

--- Internal: sets aside what a call may cost; raises kind "budget" when that could pass it.
function Session:reserve(model, planned) return self.client:reserve(model, planned, self.meter) end

--- Internal: remembers where to go on from.
function Session:note_checkpoint(checkpoint) self.last_checkpoint = checkpoint.path end

--- Internal: the console writer of a model.
function Session:open_console(what, model)
  check_open(self, what)
  return self.client:open_console(model)
end

-- ---- models --------------------------------------------------------------------------------------------------

local CREATE = {}
for name in ([[base_model lora full_weight train_router checkpoint load_optimizer training_data_attestation timeout
  image_token_id tokenizer]]):gmatch("%S+") do CREATE[name] = true end

local function fail(what, message, hint)
  errors.raise{kind = "argument", message = what .. ": " .. message, hint = hint}
end

local function read_create(given, more)
  local what, options = "create_model", {}
  if type(given) == "string" then
    for name, value in pairs(errors.expect(what, "options", more or {}, "table")) do options[name] = value end
    options.base_model = given
  else
    for name, value in pairs(errors.expect(what, "options", given, "table")) do options[name] = value end
  end
  errors.check_options(what, options, CREATE)
  if type(options.base_model) ~= "string" or options.base_model == "" then
    fail(what, "there is no base_model", "client:get_capabilities() lists the models of the endpoint")
  end
  for _, name in ipairs{"full_weight", "train_router"} do errors.expect(what, name, options[name], "boolean|nil") end
  if (options.lora ~= nil) == (options.full_weight == true) then
    fail(what, "either lora or full_weight is wanted", "lora = training.LoraConfig{rank = 16}")
  end
  if options.train_router and not options.full_weight then fail(what, "train_router needs full_weight = true") end
  errors.expect(what, "image_token_id", options.image_token_id, "integer|nil")
  errors.expect(what, "load_optimizer", options.load_optimizer, "boolean|nil")
  return options
end

local function attestation_id(given)
  if type(given) == "table" then return given.training_data_attestation_id end
  return errors.expect("create_model", "training_data_attestation", given, "string|nil")
end

--- Makes a model to train. (CreateModel)
---
--- `session:create_model{base_model =, lora = training.LoraConfig{…}}` or `full_weight = true`. Options: `train_router`
--- (with full_weight); `checkpoint` (a path or Checkpoint to start from; its optimizer too, unless it is one of another
--- type than "training" or `load_optimizer = false`); `training_data_attestation`; `image_token_id` (placeholder of
--- images in `model_input`); `timeout` = 86400 s. `tokenizer`, which Python's client needs, is taken and not needed.
---@param base_model string|table
---@param options table|nil
---@return training.Model
function Session:create_model(base_model, options)
  local what = "create_model"
  options = read_create(base_model, options)
  local timeout = self:timeout_of(what, options.timeout)
  if options.checkpoint ~= nil then weights.path(what, options.checkpoint) end
  local request = {
    session_id = self.session_id, model_seq_id = self.model_seq_id + 1, base_model = options.base_model,
    lora_config = options.lora and lora.message(options.lora), full_weight = options.full_weight,
    train_router = options.train_router, training_data_attestation_id = attestation_id(
      options.training_data_attestation)}
  self.model_seq_id = self.model_seq_id + 1
  local ok, request_id = pcall(self.submit, self, what, "CreateModel", request,
    {safe = "answered", deadline = clock.now() + timeout})
  if not ok then
    -- what cannot have arrived has not used its number, unless another task has gone on meanwhile
    if errors.is(request_id) and request_id.sent == false and self.model_seq_id == request.model_seq_id then
      self.model_seq_id = self.model_seq_id - 1
    end
    error(request_id, 0)
  end
  local made = future.new{context = self, what = what, request_id = request_id, field = "create_model",
    timeout = timeout}:result()
  local new = require("training.model").new(self, {model_id = made.model_id, training_run_id = made.training_run_id,
    base_model = options.base_model, full_weight = options.full_weight == true,
    image_token_id = options.image_token_id})
  self.models[#self.models + 1] = new
  if options.checkpoint ~= nil then
    local optimizer = options.load_optimizer
    if optimizer == nil then
      optimizer = not weights.is_checkpoint(options.checkpoint) or options.checkpoint.checkpoint_type == "training"
    end
    new:load_weights(options.checkpoint, {load_optimizer = optimizer, timeout = timeout})
  end
  return new
end

-- ---- sampling without a model in training --------------------------------------------------------------------

local function read_source(self, what, options)
  if type(options.base_model) ~= "string" or options.base_model == "" then
    fail(what, "there is no base_model", "client:get_capabilities() lists the models of the endpoint")
  end
  local plan = sampling.plan(what, options, self.timeout)
  local about = {base_model = options.base_model}
  local path = options.checkpoint ~= nil and weights.path(what, options.checkpoint) or nil
  plan.release = self:reserve(about, plan)
  return plan, about, function(prompts)
    local source = {base_model = options.base_model, checkpoint_path = path, prompts = prompts,
      metrics_type = options.metrics_type}
    return path and "checkpoint" or "base_source", source
  end
end

local function submit_samples(self, what, prompts, options)
  options = sampling.arguments(what, prompts, options, sampling.OPTIONS.session)
  local plan, about, source = read_source(self, what, options)
  local member, request = source(plan.prompts)
  local method = member == "checkpoint" and "SampleFromCheckpoint" or "InferenceGenerate"
  local request_id = self:submit(what, method, request, {safe = true, deadline = clock.now() + plan.timeout,
    release = plan.release})
  return future.new{context = self, what = what, request_id = request_id, field = "inference", timeout = plan.timeout,
    poll_interval = options.poll_interval, on_failure = function() plan.release() end, parse = function(response)
      plan.release()
      local groups = samples.groups({what = what, request_id = request_id}, response, plan)
      self:count_usage(about, response.usage, samples.usage(groups))
      return groups
    end}
end

--- `sample` without waiting; `:result()` gives what `sample` does.
---@return training.PendingOp
function Session:submit_sample(prompts, options) return submit_samples(self, "submit_sample", prompts, options) end

--- Samples from a base model, or from a checkpoint of one: `session:sample{prompts = {…}, base_model =, checkpoint =}`.
--- Other options as for `model:sample`. (InferenceGenerate, SampleFromCheckpoint)
---@return training.Sample[][]
function Session:sample(prompts, options) return submit_samples(self, "sample", prompts, options):result() end

--- Up to 128 independent samples of a base model or a checkpoint, see `model:submit_sampling_batch`.
---@return training.PendingSamplingBatch
function Session:submit_sampling_batch(prompts, options)
  local what = "submit_sampling_batch"
  options = sampling.arguments(what, prompts, options, sampling.OPTIONS.session_batch)
  local plan, about, source = read_source(self, what, options)
  return batch.submit{context = self, what = what, plan = plan, options = options, source = source, about = about}
end

-- ---- images, attestations, capacity --------------------------------------------------------------------------

--- Uploads an image for prompts and datums of this session. (UploadImage)
---@param data string PNG or JPEG bytes
---@param options {idempotency_key: string|nil, timeout: number|nil}|nil
---@return training.ImageHandle
function Session:upload_image(data, options)
  check_open(self, "upload_image")
  options = errors.expect("upload_image", "options", options or {}, "table")
  errors.check_options("upload_image", options, {idempotency_key = true, timeout = true})
  return images.upload(self, "upload_image", data, options)
end

--- Uploads an image again that another session (or this one, six hours ago) had: the same bytes give the same handle
--- within a session. (UploadImage)
---@param image training.ImageHandle|string the handle, or the bytes
---@return training.ImageHandle
function Session:restore_image(image)
  check_open(self, "restore_image")
  local data = images.is_handle(image) and image.data or image
  images.check("restore_image", "image", data)
  local key = images.restore_key(self.session_id, digest.hex(digest.sha256(data)))
  return images.upload(self, "restore_image", data, {idempotency_key = key})
end

--- Lets go of an uploaded image. A key that was released can never be used again. (ReleaseImage)
---@param image training.ImageHandle|nil
---@param options {idempotency_key: string|nil}|nil name it by the key of its upload instead
function Session:release_image(image, options)
  local what = "release_image"
  local key = errors.expect(what, "options", options or {}, "table").idempotency_key
  if type(image) == "table" and not images.is_handle(image) and options == nil then
    image, options = nil, image
    key = options.idempotency_key
  end
  errors.check_options(what, options or {}, {idempotency_key = true})
  errors.expect(what, "idempotency_key", key, "string|nil")
  if (image ~= nil) == (key ~= nil) then fail(what, "either an image or an idempotency_key is wanted") end
  local id = image
  if images.is_handle(image) then id = image.id end
  errors.expect(what, "image", id, "string|nil")
  self:rpc(what, "ReleaseImage", {image_handle = id, idempotency_key = key, session_id = self.session_id},
    {safe = true, rounds = true})
end

--- Has the service keep a record of training data, which models can be bound to. (CreateTrainingDataAttestation)
---@param artifacts {name: string, content: string, expected_sha256: string|nil}[] the hash is computed if left out
---@param options {timeout: number|nil}|nil
---@return {training_data_attestation_id: string, artifacts: {name: string, sha256: string, size_bytes: integer}[]}
function Session:attest_training_data(artifacts, options)
  local what = "attest_training_data"
  errors.expect(what, "artifacts", artifacts, "table")
  options = errors.expect(what, "options", options or {}, "table")
  errors.check_options(what, options, {timeout = true})
  if #artifacts == 0 then fail(what, "there are no artifacts") end
  local messages = {}
  for i, artifact in ipairs(artifacts) do
    local at = ("artifacts[%d]"):format(i)
    errors.expect(what, at, artifact, "table")
    errors.check_options(what .. ": " .. at, artifact, {name = true, content = true, expected_sha256 = true})
    errors.expect(what, at .. ".name", artifact.name, "string")
    errors.expect(what, at .. ".content", artifact.content, "string")
    errors.expect(what, at .. ".expected_sha256", artifact.expected_sha256, "string|nil")
    local sha256 = digest.hex(digest.sha256(artifact.content))
    local expected = artifact.expected_sha256 or sha256
    if expected:lower() ~= sha256 then
      fail(what, ("%s ('%s') has another SHA-256 than expected: %s"):format(at, artifact.name, sha256))
    end
    messages[i] = {name = artifact.name, expected_sha256 = sha256, content = artifact.content}
  end
  local timeout = self:timeout_of(what, options.timeout)
  return self:rpc(what, "CreateTrainingDataAttestation", {session_id = self.session_id, artifacts = messages},
    {safe = true, rounds = true, deadline = clock.now() + timeout, rpc_timeout = timeout})
end

--- The latest observations of how much room the service has for the runs of this session; empty: nothing is known. Asks
--- nothing: they come with the heartbeats.
---@return {training_run_id: string, workload: string, state: string, capacity_wait: boolean, observed_at: number}[]
function Session:capacity_status()
  return self.heartbeat and self.heartbeat:capacity() or {}
end

--- What endpoint and models offer, see `client:get_server_capabilities`.
function Session:get_server_capabilities(options) return self.client:get_server_capabilities(options) end

-- ---- the end -------------------------------------------------------------------------------------------------

local function release_images(self)
  self.wire:try("ReleaseImage", {session_id = self.session_id, close_session = true},
    {what = "close", deadline = clock.now() + 30, safe = true})
end

-- Unloads all models and stops the heartbeats. Raises the first failure, with the others in its field `others`; when
-- the block is left by an error, that one stays.
local function close(self, err)
  if self.closed then return end
  local first
  local function attempt(fn, ...)
    local ok, problem = pcall(fn, ...)
    if ok then return end
    if first and errors.is(first) then
      first.others = first.others or {}
      first.others[#first.others + 1] = problem
    else
      first = first or problem
    end
  end
  if not self.lost and self.client.transport then
    for _, one in ipairs(self.models) do attempt(one.unload, one, UNLOAD_TIMEOUT) end
    if self.used_images then attempt(release_images, self) end
  end
  self.closed = true
  self.client.sessions[self] = nil
  if self.heartbeat then self.heartbeat:stop() end
  if self.on_session_closed then attempt(self.on_session_closed) end
  if first ~= nil and err == nil then error(first, 0) end
end

--- Unloads all models and stops the heartbeats. Raises the first failure, with the others in its field `others`.
function Session:close() close(self) end

Session.__close = close

function Session:__tostring()
  return ("training.Session(%s, %d models%s)"):format(self.session_id, #self.models, self.closed and ", closed" or "")
end

errors.want_colon(Session, "session")
object.define(Session, {called = "training.Session", made = "session_id",
  fields = "client closed info_message last_checkpoint meter models session_id tags timeout",
  internal = [[check count_usage explain need_feature note_checkpoint open_console reserve rpc submit timeout_of]]})

return session
