--- Independent samples, each collected as soon as it is there. (SubmitSamplingBatch, RetrieveSamplingResults)

local clock = require "riverlua.clock"
local errors = require "riverlua.errors"
local futures = require "training.embedded.futures"
local models = require "training.embedded.models"
local protobuf = require "riverlua.protobuf"
local refusal = require "training.embedded.refusal"
local sampling = require "training.embedded.sampling"

local batches = {}

local MOST_IN_A_BATCH = 128
-- So many are sampled at once, and then handed over: more are faster in all, fewer come sooner.
local TOGETHER = 32
local MOST_REMEMBERED = 4096
local LONGEST_WAIT = 1
local LATEST = "SAMPLING_POLICY_SELECTION_LATEST_SNAPSHOT"

local RESULT = protobuf.training:message("river.api.v1.SamplingResult")

local function is_uuid(text)
  return #text == 36 and text:find("^%x+%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x+$") ~= nil
    and text:find("-", 1, true) == 9
end

local function of_training(service, request, latest)
  local model, pinned = models.find(service, request.training.model_id), request.pinned_policy_id
  if latest then
    if not model.snapshot then
      refusal.raise("FAILED_PRECONDITION", "%s has no immutable inference snapshot", model.id)
    end
    return sampling.of_snapshot(service, model, model.snapshot)
  elseif pinned == "" then
    return sampling.of_model(service, model)
  elseif model.snapshots[pinned] then
    return sampling.of_snapshot(service, model, model.snapshots[pinned])
  elseif model.projected.id ~= pinned then
    refusal.raise("FAILED_PRECONDITION", "policy %s is not available: it is not the current one, and no immutable "
      .. "inference checkpoint holds it", pinned)
  end
  return sampling.of_model(service, model, pinned)
end

-- What is sampled from, and the request that says what.
local function place_of(service, request)
  local pinned, latest = request.pinned_policy_id ~= "", request.policy_selection == LATEST
  if not request.training then
    if not (request.base_source or request.checkpoint) then refusal.wrong("a sampling batch without a source") end
    if pinned or latest then refusal.wrong("a policy is chosen, but the source is no training") end
  end
  if pinned and latest then refusal.wrong("both a pinned policy and the latest snapshot") end
  if request.training then return of_training(service, request, latest), request.training end
  local inner = request.base_source or request.checkpoint
  if request.base_source then return sampling.of_base(service, inner.base_model), inner end
  return sampling.of_checkpoint(service, inner.checkpoint_path, inner.base_model), inner
end

local function check_cache(request, count)
  local groups = #request.retained_kv_groups
  if groups == 0 and not request.kv_cache_policy then return end
  if groups == 0 or not request.kv_cache_policy then
    refusal.wrong("retained_kv_groups and kv_cache_policy belong together")
  end
  if request.pinned_policy_id ~= "" then refusal.wrong("retained_kv_groups exclude a pinned policy") end
  if groups ~= count then refusal.wrong("%d retained_kv_groups for %d prompts", groups, count) end
  refusal.raise("UNIMPLEMENTED", "retained_kv_groups: no cache outlives its request here (retained_kv_v1)")
end

-- One portion of a batch, as an operation.
local function portion(place, wishes, handles, submitted, metrics_type)
  local function run()
    local begun = clock.now()
    for _, future in ipairs(handles) do future:begin() end
    local source = place.open()
    local results = sampling.run(source, wishes)
    for i, future in ipairs(handles) do
      local metrics = {queue_seconds = begun - submitted, request_seconds = clock.now() - submitted}
      if metrics_type ~= "" then metrics.prompts = 1 end
      future:finish{inference = sampling.response({wishes[i]}, {results[i]}, source.policy, metrics)}
    end
  end
  local function fail(err)
    for _, future in ipairs(handles) do future:fail(err) end
  end
  return run, fail
end

local function remember(service, key, known)
  service.batches[key] = known
  service.batch_order[#service.batch_order + 1] = key
  if #service.batch_order > MOST_REMEMBERED then service.batches[table.remove(service.batch_order, 1)] = nil end
end

local methods = {}
batches.methods = methods

function methods.SubmitSamplingBatch(service, request, call)
  local key = request.idempotency_key
  if not is_uuid(key) then refusal.wrong("the idempotency_key '%s' is not a UUID", key:sub(1, 64)) end
  if request.base_source then service:base_model(request.base_source.base_model) end   -- which may take its time
  local known, print = service.batches[key], refusal.fingerprint(call.method, call.bytes)
  if known then
    if known.print ~= print then refusal.wrong("the idempotency_key %s with another batch", key) end
    return {request_ids = known.ids}
  end
  local place, inner = place_of(service, request)
  local count = #inner.prompts
  if count < 1 or count > MOST_IN_A_BATCH then
    refusal.wrong("%d prompts, 1 to %d are taken", count, MOST_IN_A_BATCH)
  end
  check_cache(request, count)
  local wishes = sampling.read_all(inner.prompts, place.model)
  local model, lane = place.trained, place.lane_of and place.lane_of.lane or service.lane
  service:check_room(lane, #call.bytes, count)
  local ids, submitted = {}, clock.now()
  for first = 1, count, TOGETHER do
    local last = math.min(first + TOGETHER - 1, count)
    local own, handles = table.move(wishes, first, last, 1, {}), {}
    for i = 1, #own do
      handles[i] = service.futures:add{model_id = model and model.id, session = model and model.session,
        batch = RESULT}
      ids[#ids + 1] = handles[i].id
    end
    local run, fail = portion(place, own, handles, submitted, inner.metrics_type)
    lane:push{run = run, fail = fail, size = #call.bytes // count * #own, session = model and model.session}
  end
  remember(service, key, {print = print, ids = ids})
  return {request_ids = ids}
end

-- Waits until there is something new to say about any of them.
local function wait(service, known, timeout)
  local until_when = clock.now() + math.min(LONGEST_WAIT, futures.patience(timeout))
  while not service.closed do
    for _, future in ipairs(known) do
      if not future or future.state == "done" then return end
    end
    local left = until_when - clock.now()
    if left <= 0 or not service.futures.changed:wait(left) then return end
  end
end

local function look_up(service, ids)
  local known = {}
  for i, id in ipairs(ids) do
    local future = service.futures.known[id]
    known[i] = future and future.batch and future or false
  end
  return known
end

--- One message for each handle: a list of bytes.
function methods.RetrieveSamplingResults(service, request, call)
  local ids, seen = request.request_ids, {}
  if #ids < 1 or #ids > MOST_IN_A_BATCH then
    refusal.wrong("%d handles, 1 to %d are taken", #ids, MOST_IN_A_BATCH)
  end
  for _, id in ipairs(ids) do
    if seen[id] then refusal.wrong("the handle %s twice", id) end
    seen[id] = true
  end
  wait(service, look_up(service, ids), call.timeout)
  if service.closed then errors.raise{kind = "closed", message = "this embedded service has been closed"} end
  local replies = {}
  for i, future in ipairs(look_up(service, ids)) do
    if not future then
      replies[i] = RESULT:encode{request_id = ids[i], error = {code = 5, message = "no sample " .. ids[i]}}
    elseif future.state == "done" then
      replies[i] = service.futures:collect(future)
    else
      replies[i] = RESULT:encode{request_id = ids[i], pending = true}
    end
  end
  return replies
end

return batches
