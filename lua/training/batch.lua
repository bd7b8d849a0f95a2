--- Independent samples: each is handed over as soon as it is done, while the others still generate.
-- (SubmitSamplingBatch, RetrieveSamplingResults)

local clock = require "riverlua.clock"
local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local failure = require "training.failure"
local future = require "training.future"
local samples = require "training.samples"
local task = require "riverlua.task"

local batch = {}

local MOST_IN_A_BATCH = 128
local LONGEST_RPC = 30
local LONGEST = 24 * 3600
local MOST_STREAMS = 4

-- The key makes a repeat harmless: the service answers with the handles that it gave before.
local REPEATED = {UNAVAILABLE = true, DEADLINE_EXCEEDED = true, ABORTED = true, RESOURCE_EXHAUSTED = true}

-- The name of a gRPC status.
local function code_of(status)
  for name, number in pairs(require("riverlua.grpc").status) do
    if number == status then return name end
  end
  return "UNKNOWN"
end

local function fail(what, message, hint)
  errors.raise{kind = "argument", message = what .. ": " .. message, hint = hint}
end

-- A UUID with dashes, whatever form it was given in.
local function uuid(what, name, text)
  local hex = type(text) == "string" and text:gsub("[-{}]", ""):lower():gsub("^urn:uuid:", "") or ""
  if not hex:find("^%x+$") or #hex ~= 32 then fail(what, ("%s must be a UUID, got %s"):format(name, tostring(text))) end
  return ("%s-%s-%s-%s-%s"):format(hex:sub(1, 8), hex:sub(9, 12), hex:sub(13, 16), hex:sub(17, 20), hex:sub(21))
end

local KV_FIELDS = {max_staleness = "integer", anchor_policy_id = "string", refill_on_limit = "boolean",
  previous_policy_id = "string"}

local function kv_policy(what, given)
  if given == nil then return nil end
  errors.expect(what, "kv_cache_policy", given, "table")
  errors.check_options(what .. ": kv_cache_policy", given, KV_FIELDS)
  for name, wanted in pairs(KV_FIELDS) do
    errors.expect(what, "kv_cache_policy." .. name, given[name], wanted .. "|nil")
  end
  return given
end

-- The fields of the request beside the prompts.
local function read_policy(what, options, count, is_training)
  local request = {pinned_policy_id = errors.expect(what, "pinned_policy_id", options.pinned_policy_id, "string|nil")}
  local selection = options.policy_selection
  if selection == "latest_snapshot" then
    if not is_training or request.pinned_policy_id then
      fail(what, "policy_selection \"latest_snapshot\" is for samples of a model in training, without pinned_policy_id")
    end
    request.policy_selection = "SAMPLING_POLICY_SELECTION_LATEST_SNAPSHOT"
  elseif selection ~= nil and selection ~= "ordered" then
    fail(what, "policy_selection must be \"ordered\" or \"latest_snapshot\"")
  end
  request.kv_cache_policy = kv_policy(what, options.kv_cache_policy)
  local groups = options.retained_kv_groups
  if groups ~= nil then
    if type(groups) ~= "table" or #groups ~= count then
      fail(what, ("retained_kv_groups must be a list with a UUID for each of the %d samples"):format(count))
    end
    if not request.kv_cache_policy then fail(what, "retained_kv_groups need a kv_cache_policy") end
    if request.pinned_policy_id then fail(what, "retained_kv_groups and pinned_policy_id exclude each other") end
    failure.whole_list(what, groups, "retained_kv_groups")
    request.retained_kv_groups = {}
    for i, text in ipairs(groups) do
      request.retained_kv_groups[i] = uuid(what, ("retained_kv_groups[%d]"):format(i), text)
    end
  elseif request.kv_cache_policy then
    fail(what, "kv_cache_policy needs retained_kv_groups")
  end
  return request
end

-- Submits one batch; the same bytes until an answer comes.
local function submit(context, what, request, deadline)
  local bytes = context.wire:encode("SubmitSamplingBatch", request, what)
  local count = #(request.training or request.base_source or request.checkpoint).prompts
  local failures = 0
  while true do
    local left = deadline - clock.now()
    local reply, err = context.wire:try("SubmitSamplingBatch", nil, {what = what, bytes = bytes, deadline = deadline,
      safe = true, rpc_timeout = math.max(0.001, math.min(LONGEST_RPC, left))})
    if reply then
      local seen = {}
      for _, id in ipairs(reply.request_ids) do
        if id == "" or seen[id] then reply = nil break end
        seen[id] = true
      end
      if not reply or #reply.request_ids ~= count then
        error(failure.protocol({what = what}, ("the service did not give %d different request ids"):format(count)), 0)
      end
      return reply.request_ids
    end
    failures = failures + 1
    local pause = future.back_off(failures)
    if not REPEATED[err.code] or not context.wire.retries or clock.now() + pause >= deadline then
      error(context:explain(what, failure.from_grpc({what = what, scrub = context.wire.scrub,
        checkpoint = context.last_checkpoint}, err)), 0)
    end
    context:check(what)
    context.wire.transport:pause(pause)
  end
end

---@class training.SamplingCompletion
---@field prompt_index integer which prompt, from 1
---@field sample_index integer which of its samples, from 1
---@field request_id string
---@field sample training.Sample|nil
---@field error riverlua.Error|nil what it failed with

---@class training.PendingSamplingBatch
---@field request_ids string[]
local PendingSamplingBatch = {}
PendingSamplingBatch.__index = PendingSamplingBatch
PendingSamplingBatch.__name = "training.PendingSamplingBatch"

---@class training.BatchOptions
---@field context table the session
---@field what string
---@field plan training.SamplingPlan
---@field options table those of the call
---@field model table|nil
---@field about {base_model: string}|nil when there is no model in training
---@field source fun(prompts: table[]): string, table which member of the request, and what it is
---@field split boolean|nil several batches where one is too small

local function begin(given)
  local what, plan, context = given.what, given.plan, given.context
  local count = #plan.prompts
  if count > MOST_IN_A_BATCH and not given.split then
    fail(what, ("%d samples in one batch; at most %d are possible"):format(count, MOST_IN_A_BATCH),
      "model:sample_as_completed takes any number, or submit several batches")
  end
  if plan.timeout > LONGEST then
    if given.options.timeout then fail(what, "'timeout' must be at most 86400 seconds") end
    plan.timeout = LONGEST   -- of a client that has more patience
  end
  local policy = read_policy(what, given.options, count, given.model ~= nil)
  local streams = errors.expect(what, "max_concurrent_streams", given.options.max_concurrent_streams, "integer|nil")
  if streams and streams < 1 then fail(what, "max_concurrent_streams must be at least 1") end
  local key = errors.expect(what, "idempotency_key", given.options.idempotency_key, "string|nil")
  if given.split and count > MOST_IN_A_BATCH and (key or policy.retained_kv_groups) then
    fail(what, ("with an idempotency_key or retained_kv_groups, at most %d samples are possible"):format(
      MOST_IN_A_BATCH))
  end
  local deadline = clock.now() + plan.timeout
  local self = setmetatable({context = context, what = what, plan = plan, model = given.model,
    about = given.model or given.about, deadline = deadline,
    started = clock.now(), request_ids = {}, handles = {}, ready = {}, groups = {},
    interval = given.options.poll_interval,
    streams = streams or MOST_STREAMS, turn = task.semaphore(1),
    model_step = given.model and given.model.step}, PendingSamplingBatch)
  for i = 1, plan.num_prompts do self.groups[i] = {} end
  context:check(what)
  for first = 1, count, MOST_IN_A_BATCH do
    local prompts = table.move(plan.prompts, first, math.min(first + MOST_IN_A_BATCH - 1, count), 1, {})
    local request = {idempotency_key = key or digest.uuid()}
    for name, value in pairs(policy) do request[name] = value end
    local member, source = given.source(prompts)
    request[member] = source
    for i, id in ipairs(submit(context, what, request, deadline)) do
      local index = first + i - 1
      self.request_ids[index] = id
      self.handles[id] = {id = id, index = index, failures = 0, due = 0}
    end
  end
  return self
end

--- Submits samples. Raises what a refused request raises.
---@param given training.BatchOptions
---@return training.PendingSamplingBatch
function batch.submit(given)
  local ok, result = pcall(begin, given)
  if ok then return result end
  given.plan.release()   -- what was set aside for it
  error(result, 0)
end

local function call_of(self, handle)
  return {what = self.what, request_id = handle and handle.id, scrub = self.context.wire.scrub,
    checkpoint = self.context.last_checkpoint}
end

local function complete(self, handle, sample, err)
  self.handles[handle.id] = nil
  local each = self.plan.num_samples
  local prompt_index, sample_index = (handle.index - 1) // each + 1, (handle.index - 1) % each + 1
  self.groups[prompt_index][sample_index] = sample
  self.first_error = self.first_error or err
  self.plan.release(1 / #self.plan.prompts)
  self.ready[#self.ready + 1] = {prompt_index = prompt_index, sample_index = sample_index, request_id = handle.id,
    sample = sample, error = err}
end

-- A failure that may pass: asked again later, or given up. `own`: it is that of the sample, not of a call for many.
local function note_failure(self, handle, err, now, own)
  handle.failures = handle.failures + 1
  local too_many = handle.failures >= future.MOST_FAILURES and not future.PATIENT[err.code]
  if too_many or future.TERMINAL[err.code] and (own or err.code ~= "CANCELLED") then
    return complete(self, handle, nil, self.context:explain(self.what, failure.from_grpc(call_of(self, handle), err)))
  end
  handle.due = now + future.back_off(handle.failures)
end

local function take(self, handle, result, now)
  if result.pending then
    handle.failures = 0
    handle.due = now + future.interval(now - self.started, self.interval)
  elseif result.inference then
    local results = result.inference.results
    if #results ~= 1 then
      return complete(self, handle, nil, failure.protocol(call_of(self, handle),
        ("the service gave %d results for one prompt"):format(#results)))
    end
    local ok, sample = pcall(samples.one, call_of(self, handle), results[1], self.plan, self.model_step)
    self.context:count_usage(self.about, result.inference.usage, ok and samples.usage{{sample}} or nil)
    complete(self, handle, ok and sample or nil, not ok and sample or nil)
  elseif result.failed then
    local details = result.failed.details and require("riverlua.protobuf").struct_to_table(result.failed.details)
    complete(self, handle, nil, failure.from_failed(call_of(self, handle), result.failed, details))
  elseif result.error then
    note_failure(self, handle, {code = code_of(result.error.code), status = result.error.code,
      details = result.error.message, method = "RetrieveSamplingResults"}, now, true)
  else
    note_failure(self, handle, {code = "UNKNOWN", status = 2, details = "a result without content"}, now, true)
  end
end

-- One snapshot: what became of each of these handles. One that does not name each of them once counts for nothing.
local function snapshot(self, handles)
  local ids, results, broken = {}, {}, nil
  for i, handle in ipairs(handles) do ids[i] = handle.id end
  local wanted = {}
  for _, id in ipairs(ids) do wanted[id] = true end
  local left = math.max(0.001, self.deadline - clock.now())
  local err = self.context.wire:stream("RetrieveSamplingResults",
    {request_ids = ids, model_id = self.model and self.model.model_id}, {timeout = math.min(LONGEST_RPC, left)},
    function(result)
      if not wanted[result.request_id] then
        broken = broken or ("a result for the unknown request '%s'"):format(result.request_id)
      elseif results[result.request_id] then
        broken = broken or ("two results for the request '%s'"):format(result.request_id)
      end
      results[result.request_id] = result
    end)
  for _, handle in ipairs(handles) do
    if not err and not results[handle.id] then
      broken = broken or ("no result for the request '%s'"):format(handle.id)
    end
  end
  if broken and not err then
    err = {code = "INTERNAL", status = 13, details = broken, method = "RetrieveSamplingResults"}
  end
  local now = clock.now()   -- the same for all, so that they are due together again
  for _, handle in ipairs(handles) do
    if err then note_failure(self, handle, err, now) else take(self, handle, results[handle.id], now) end
  end
end

-- Those that are due, oldest first, in portions; and when the next one will be.
local function portions_due(self)
  local due, next_due = {}, math.huge
  local now = clock.now()
  for _, handle in pairs(self.handles) do
    if handle.due <= now then due[#due + 1] = handle else next_due = math.min(next_due, handle.due) end
  end
  table.sort(due, function(a, b)
    if a.due ~= b.due then return a.due < b.due end
    return a.index < b.index
  end)
  local portions = {}
  for first = 1, #due, MOST_IN_A_BATCH do
    portions[#portions + 1] = table.move(due, first, math.min(first + MOST_IN_A_BATCH - 1, #due), 1, {})
  end
  return portions, next_due
end

local function time_out(self)
  for _, handle in pairs(self.handles) do
    complete(self, handle, nil, failure.timed_out(call_of(self, handle), self.plan.timeout))
  end
end

-- Waits until at least one sample is ready; false: all have been handed out.
local function wait_for_one(self)
  while not self.ready[1] do
    if next(self.handles) == nil then return false end
    self.context:check(self.what)
    local now = clock.now()
    if now >= self.deadline then
      time_out(self)
    else
      local portions, next_due = portions_due(self)
      if #portions == 1 then
        snapshot(self, portions[1])
      elseif #portions > 1 then
        task.map(portions, function(portion) snapshot(self, portion) end, {concurrency = self.streams})
      else
        self.context.wire.transport:pause(math.min(next_due, self.deadline) - now)
      end
    end
  end
  -- in the order of the prompts, as far as they became ready together
  table.sort(self.ready, function(a, b)
    if a.prompt_index ~= b.prompt_index then return a.prompt_index > b.prompt_index end
    return a.sample_index > b.sample_index
  end)
  return true
end

-- The same for one task after the other: the others find what it has got.
local function fill(self) return self.turn:with(wait_for_one, self) end

--- An iterator over completions, each as soon as it is there. Leaving the loop early loses nothing: a second call goes
--- on with the rest. One that failed has `error` in place of `sample`. Tasks may share it: each completion goes to one.
---@return fun(): training.SamplingCompletion|nil
function PendingSamplingBatch:as_completed()
  return function()
    if not self.ready[1] and not fill(self) then return nil end
    return table.remove(self.ready)
  end
end

--- Waits for all samples, also those that were handed out already; one list per prompt. Raises the first failure.
---@return training.Sample[][]
function PendingSamplingBatch:result()
  for _ in self:as_completed() do if self.first_error then break end end   -- luacheck: ignore
  if self.first_error then error(self.first_error, 0) end
  return self.groups
end

function PendingSamplingBatch:__tostring()
  return ("training.PendingSamplingBatch(%d samples)"):format(#self.request_ids)
end

errors.want_colon(PendingSamplingBatch, "batch")

return batch
