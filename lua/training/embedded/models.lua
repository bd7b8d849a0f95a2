--- Models in training: made, looked at, unloaded; and the sequence ids of their operations.
-- (CreateModel, GetInfo, UnloadModel)

local digest = require "riverlua.digest"
local lane = require "training.embedded.lane"
local policies = require "training.embedded.policies"
local refusal = require "training.embedded.refusal"
local sessions = require "training.embedded.sessions"

local models = {}

local HIGHEST_RANK = 32
-- Adapters count so many times: with it, learning rates of the size that large models want move small ones too.
local SCALE = 50
local MOST_MODELS, MOST_MADE = 64, 4096   -- of a session: at once, and in all
local REMEMBERED = 256          -- sequence ids whose requests can be told from others

---@class training.embedded.Model
---@field id string
---@field run_id string
---@field session training.embedded.Session
---@field number integer which model of its session
---@field base_model string
---@field config table of the base
---@field lora table|nil {rank, scale, attn, mlp, unembed, seed}
---@field full_weight boolean
---@field lane training.embedded.Lane
---@field core table|nil the engine's model; nil until it has been made
---@field policy table committed
---@field projected table when everything submitted has been done
---@field sampled integer samples since the policy was committed
---@field snapshot table|nil the newest immutable inference checkpoint, see training.embedded.sources
---@field snapshots table<string, table> by policy id

--- The model by its id; refused when there is none.
---@return training.embedded.Model
function models.find(service, id)
  local model = service.models[id]
  if not model then refusal.raise("NOT_FOUND", "no model %s", id) end
  if model.unloaded then refusal.raise("NOT_FOUND", "model %s is unloaded", id) end
  return model
end

--- The model of the engine, for an operation whose turn has come.
function models.core_of(model)
  if not model.core then refusal.raise("FAILED_PRECONDITION", "model %s could not be made", model.id) end
  return model.core
end

-- ---- sequence ids --------------------------------------------------------------------------------------------

--- Judges the sequence id of an operation. A request that is sent again is known by it: its first answer is the
--- answer.
---@param call training.embedded.Call
---@param model training.embedded.Model
---@param request table
---@return string|nil request_id of the first time
---@return fun(request_id: string) admit to be called when the operation has been accepted
function models.sequence(call, model, request)
  local seq = request.seq_id
  if not seq then refusal.wrong("%s without a seq_id", call.method) end
  local known = model.seqs[seq]
  if not known then
    local expected = model.last_seq + 1
    model.last_seq = math.max(model.last_seq, seq)
    if seq ~= expected then
      model.seqs = {}
      refusal.wrong("%s of %s has seq_id %d, %d was expected", call.method, model.id, seq, expected)
    end
    known = {}
    model.seqs[seq], model.seqs[seq - REMEMBERED] = known, nil
  end
  local print = refusal.fingerprint(call.method, call.bytes)
  if known.print and known.print ~= print then
    refusal.wrong("%s of %s repeats seq_id %d with another content", call.method, model.id, seq)
  end
  return known.request_id, function(request_id) known.print, known.request_id = print, request_id end
end

-- ---- making --------------------------------------------------------------------------------------------------

local function check_create(request, session)
  local lora = request.lora_config
  if (lora ~= nil) == request.full_weight then
    refusal.wrong("exactly one of lora_config and full_weight is wanted")
  end
  if request.train_router and not request.full_weight then refusal.wrong("train_router needs full_weight") end
  if request.train_router then
    refusal.wrong("train_router: %s is a dense model, it has no router", request.base_model)
  end
  local attestation = request.training_data_attestation_id
  if attestation ~= "" and not session.attestations[attestation] then
    refusal.raise("FAILED_PRECONDITION", "no manifest %s in this session", attestation)
  end
  if not lora then return end
  if lora.rank < 1 or lora.rank > HIGHEST_RANK then
    refusal.wrong("a LoRA rank of %d; 1 to %d are possible", lora.rank, HIGHEST_RANK)
  end
  if not (lora.train_attn or lora.train_mlp or lora.train_unembed) then
    refusal.wrong("lora_config: nothing is to be trained: set train_attn, train_mlp or train_unembed")
  end
  if lora.alpha and not (lora.alpha > 0 and lora.alpha < 1e9) then
    refusal.wrong("lora_config: alpha is %s, a number above 0 is wanted", refusal.number(lora.alpha))
  end
end

-- A seed from the service's own and what it is for: the same run gives the same numbers again.
function models.seed(...)
  local parts = table.pack(...)
  for i = 1, parts.n do parts[i] = tostring(parts[i]) end
  return (("<i8"):unpack(digest.sha256(table.concat(parts, "\0")))) & math.maxinteger
end

local function adapter_of(service, request, number)
  local lora = request.lora_config
  if not lora then return nil end
  return {rank = lora.rank, scale = lora.alpha and lora.alpha / lora.rank or SCALE, attn = lora.train_attn,
    mlp = lora.train_mlp, unembed = lora.train_unembed,
    seed = (lora.seed or models.seed(service.seed, "adapter", number)) & math.maxinteger}
end

local methods = {}
models.methods = methods

-- Judges the number of a model in its session. One that was refused has used its number, and may be asked for
-- again.
local function check_number(session, call, request)
  local seq = request.model_seq_id
  local known, print = session.model_seqs[seq], refusal.fingerprint(call.method, call.bytes)
  if not known then
    local expected = session.last_model_seq + 1
    session.last_model_seq = math.max(session.last_model_seq, seq)
    if seq ~= expected then refusal.wrong("model_seq_id %d, %d was expected", seq, expected) end
    known = {}
    session.model_seqs[seq] = known
  elseif known.print and known.print ~= print then
    refusal.wrong("CreateModel repeats model_seq_id %d with another content", seq)
  elseif known.busy then
    refusal.raise("UNAVAILABLE", "the model with model_seq_id %d is being made", seq)
  end
  return known, print
end

-- The configuration of the base, which may have to be made first.
local function open_base(service, request, number)
  number.busy = true
  local ok, base = pcall(service.base_model, service, request.base_model)
  number.busy = false
  if ok then return base.config end
  error(base, 0)
end

-- Lets go of what a model holds that is no more; its session may live on for long.
local function forget(service, model)
  service.lanes[model.lane] = nil
  model.snapshot, model.snapshots, model.snapshot_order = nil, {}, {}
  model.graphs, model.keys, model.key_order, model.seqs = {}, {}, {}, {}
end

function methods.CreateModel(service, request, call)
  local session = sessions.find(service, request.session_id)
  local known, print = check_number(session, call, request)
  if known.request_id then return {request_id = known.request_id, type = call.method} end
  check_create(request, session)
  local config = open_base(service, request, known)
  sessions.find(service, request.session_id)   -- it may have ended meanwhile
  local loaded = 0
  for _, model in ipairs(session.models) do loaded = loaded + (model.unloaded and 0 or 1) end
  if loaded >= MOST_MODELS or #session.models >= MOST_MADE then
    refusal.raise("RESOURCE_EXHAUSTED", "session %s has %d models already: unload some", session.id, loaded)
  end
  local number = request.model_seq_id
  local model = {id = ("%s:model:%d"):format(session.id, number), run_id = digest.uuid(), session = session,
    number = number, base_model = request.base_model, config = config, full_weight = request.full_weight,
    lora = adapter_of(service, request, number), attestation = request.training_data_attestation_id,
    lane = lane.new(), last_seq = 0, seqs = {}, keys = {}, key_order = {}, sampled = 0, snapshots = {},
    snapshot_order = {}, graphs = {}, graph_count = 0, unloaded = false}
  policies.begin(model)
  service.models[model.id] = model
  service.lanes[model.lane] = true
  session.models[#session.models + 1] = model
  local future = service:submit(call, {lane = model.lane, session = session}, function()
    local base = service.sources:base(request.base_model)
    local engine = service:open_engine()
    local ok, made = pcall(engine.model, engine, base, model.lora)
    if not ok then
      model.unloaded = true
      forget(service, model)
      error(made, 0)
    end
    model.core = made
    return {create_model = {type = "create_model", model_id = model.id, training_run_id = model.run_id}}
  end)
  known.print, known.request_id = print, future.request_id
  return future
end

-- ---- looking and ending --------------------------------------------------------------------------------------

function methods.GetInfo(service, request)
  local model = models.find(service, request.model_id)
  return {type = "get_info", model_id = model.id, model_name = model.base_model, is_lora = not model.full_weight,
    lora_rank = model.lora and model.lora.rank, policy_version = policies.copy(model.policy),
    model_data = {arch = "decoder", model_name = model.base_model, tokenizer_id = model.base_model},
    run_storage_bytes = service.store:bytes(model.run_id)}
end

-- The last operation of a model.
local function close_core(service, model)
  local core = model.core
  model.core = nil
  if core then core:close() end
  forget(service, model)
end

--- Ends a model together with its session.
function models.end_with_session(service, model, reason)
  if service.models[model.id] ~= model then return end
  service.models[model.id] = nil
  local was_unloaded = model.unloaded
  model.unloaded = true
  service:forget_uploads(model)
  if was_unloaded then return end
  model.lane:abandon(reason)
  model.lane:push{size = 0, session = model.session, fail = function() end,
    run = function() close_core(service, model) end}
end

function methods.UnloadModel(service, request, call)
  local model = models.find(service, request.model_id)
  model.unloaded = true
  service:forget_uploads(model)
  model.lane:abandon(("model %s was unloaded before its turn"):format(model.id))
  return service:submit(call, {model = model, keep = true}, function()
    close_core(service, model)
    return {unload_model = {type = "unload_model"}}
  end)
end

return models
