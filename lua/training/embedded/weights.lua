--- Checkpoints. (SaveWeights, LoadWeights)

local models = require "training.embedded.models"
local policies = require "training.embedded.policies"
local refusal = require "training.embedded.refusal"
local sources = require "training.embedded.sources"
local store = require "training.embedded.store"

local weights = {}

local YEAR, DAY = 365 * 86400, 86400
local MODES = {training = true, inference = true, publish = true}
local LONGEST_NAME = 200
-- Policies that a run can still be sampled with by their ids.
local MOST_SNAPSHOTS = 256

local function find(service, path, way)
  local run, complaint = store.parse(path)
  if not run then refusal.raise("NOT_FOUND", "no checkpoint %s: %s", path, complaint) end
  local ok, found = pcall(service.store[way], service.store, path)
  if not ok then error(refusal.of_files("checkpoint " .. path, found), 0) end
  if not found then refusal.raise("NOT_FOUND", "no checkpoint %s", path) end
  return found
end

--- What a checkpoint of the store is, without its tensors: requests that wait must not hold them. Refused when there
--- is none, or when it has expired.
function weights.find(service, path) return find(service, path, "about") end

--- The same with its tensors.
function weights.read(service, path) return find(service, path, "load") end

--- Tells a checkpoint from one that was under the same path before.
function weights.key(path, checkpoint)
  return ("%s %s %s"):format(path, checkpoint.policy.id, checkpoint.created_at)
end

-- ---- saving --------------------------------------------------------------------------------------------------

local function check_save(model, request)
  local run, name = request.path:match("^([^/]*)/(.+)$")
  if run ~= model.run_id then refusal.wrong("the path %s, %s/NAME was expected", request.path, model.run_id) end
  if #name > LONGEST_NAME or name:find("[%c\\]") then
    refusal.wrong("the name of a checkpoint has at most %d bytes and no control characters", LONGEST_NAME)
  end
  for part in (name .. "/"):gmatch("(.-)/") do
    if part == "" or part == "." or part == ".." then refusal.wrong("the name %s is no path of names", name) end
  end
  local mode = request.mode
  if not MODES[mode] then refusal.wrong("no mode is called '%s'", mode) end
  if mode == "publish" and not model.full_weight then refusal.wrong("publish is for full weights") end
  if model.full_weight and mode ~= "publish" and not request.immutable then
    refusal.wrong("full weights are saved immutable only")
  end
  local ttl = request.ttl_seconds
  if ttl and not (ttl > 0 and ttl <= YEAR) then refusal.wrong("ttl_seconds is %d", ttl) end
  return name
end

local function contents(model, mode, options)
  local core = models.core_of(model)
  local lora, optimizer = model.lora, mode == "training" and core:optimizer() or nil
  return {
    kind = mode, base = model.base_model, config = model.config, tensors = core:tensors(),
    lora = lora and {rank = lora.rank, scale = lora.scale, attn = lora.attn, mlp = lora.mlp,
      unembed = lora.unembed},
    optimizer = optimizer,
    policy = policies.copy(model.policy), sampled = model.sampled, ttl = options.ttl,
    immutable = options.immutable, durable = options.durable, created_at = os.time(),
  }
end

local function note_snapshot(model, snapshot)
  local id = snapshot.policy.id
  model.snapshot = snapshot
  if not model.snapshots[id] then
    model.snapshot_order[#model.snapshot_order + 1] = id
    if #model.snapshot_order > MOST_SNAPSHOTS then
      model.snapshots[table.remove(model.snapshot_order, 1)] = nil
    end
  end
  model.snapshots[id] = snapshot
end

-- The path of a save: each one that is immutable is a version of its own, which stays as it is.
local function path_of(service, model, name, immutable)
  local first = ("river://%s/weights/%s"):format(model.run_id, name)
  local versions = model.versions or {}
  model.versions = versions
  local version = immutable and versions[first] or 1
  local path
  repeat
    path = version == 1 and first or ("%s@%d"):format(first, version)
    version = version + 1
    local promised = service.promised[path]
  until not (promised and (immutable or promised.immutable)) and not service.store:is_taken(path, immutable)
  if immutable then versions[first] = version end
  return path
end

local function publish(model)
  local kept = contents(model, "inference", {})
  note_snapshot(model, {policy = kept.policy, checkpoint = kept, key = ("published %s %s"):format(model.id,
    kept.policy.id)})
  return {save_weights = {type = "save_weights", policy_version = kept.policy}}
end

local function save(service, model, path, mode, options)
  local kept = contents(model, mode, options)
  local _, versioned = service.store:save(path, kept)
  path = versioned or path   -- another process may have taken the name meanwhile
  if options.immutable and mode == "inference" then
    note_snapshot(model, {policy = kept.policy, path = path})
  end
  return {save_weights = {type = "save_weights", path = path, policy_version = kept.policy}}
end

-- ---- loading -------------------------------------------------------------------------------------------------

-- Whether a checkpoint fits a model; refused otherwise.
local function check_fit(model, path, found)
  if found.base ~= model.base_model then
    refusal.raise("FAILED_PRECONDITION", "%s is of %s, the model of %s", path, found.base, model.base_model)
  end
  local own, other = model.lora, found.lora
  if (own ~= nil) ~= (other ~= nil) then
    refusal.raise("FAILED_PRECONDITION", "%s holds %s, the model has %s", path,
      other and "an adapter" or "full weights", own and "an adapter" or "full weights")
  end
  for _, name in ipairs(own and {"rank", "attn", "mlp", "unembed"} or {}) do
    if own[name] ~= other[name] then
      refusal.raise("FAILED_PRECONDITION", "%s holds an adapter with %s %s, that of the model has %s", path,
        name == "rank" and "the rank" or "train_" .. name, other[name], own[name])
    end
  end
end

local function check_load(model, path, found, optimizer)
  check_fit(model, path, found)
  if optimizer and not found.has_optimizer then
    refusal.raise("FAILED_PRECONDITION", "%s holds no optimizer", path)
  end
end

local function load(service, model, path, optimizer)
  local found = weights.read(service, path)
  check_load(model, path, found, optimizer)
  local core = models.core_of(model)
  core:set_tensors(sources.by_name(found.tensors))
  core:set_optimizer(optimizer and {step = found.optimizer.step,
    tensors = sources.by_name(found.optimizer.tensors)} or nil)
  policies.commit(model, policies.copy(found.policy))
  model.sampled = found.sampled or 0   -- seeds go on as they would have
  return {load_weights = {type = "load_weights", path = path, policy_version = policies.copy(found.policy)}}
end

local methods = {}
weights.methods = methods

function methods.SaveWeights(service, request, call)
  local model = models.find(service, request.model_id)
  local again, admit = models.sequence(call, model, request)
  if again then return {request_id = again, type = call.method} end
  local name, mode = check_save(model, request), request.mode
  local still = policies.guard(model, request.expected_policy_id)
  local durable = request.durable ~= false
  local options = {durable = durable, immutable = request.immutable,
    ttl = request.ttl_seconds or (durable and YEAR or DAY)}
  service:check_room(model.lane, #call.bytes)
  local path = mode ~= "publish" and path_of(service, model, name, request.immutable) or nil
  local promised = {policy = model.projected, base = model.base_model, lora = model.lora,
    has_optimizer = mode == "training", immutable = request.immutable}
  if path then service.promised[path] = promised end
  local function fulfilled()
    if path and service.promised[path] == promised then service.promised[path] = nil end
  end
  local future = service:submit(call, {model = model, keep = true, undo = fulfilled}, function()
    still()
    local result = path and save(service, model, path, mode, options) or publish(model)
    fulfilled()
    return result
  end)
  admit(future.request_id)
  return future
end

function methods.LoadWeights(service, request, call)
  local model = models.find(service, request.model_id)
  local again, admit = models.sequence(call, model, request)
  if again then return {request_id = again, type = call.method} end
  local path, optimizer = request.path, request.optimizer
  local found = service.promised[path] or weights.find(service, path)
  check_load(model, path, found, optimizer)
  service:check_room(model.lane, #call.bytes)
  model.projected = found.policy
  local function undo() policies.withdraw(model, found.policy) end
  local future = service:submit(call, {model = model, undo = undo}, function()
    return load(service, model, path, optimizer)
  end)
  admit(future.request_id)
  return future
end

return weights
