--- A model in training: `session:create_model{…}`.

local backward = require "training.backward"
local batch = require "training.batch"
local chat = require "training.chat"
local clock = require "riverlua.clock"
local errors = require "riverlua.errors"
local future = require "training.future"
local object = require "training.object"
local optim = require "training.optim"
local samples = require "training.samples"
local sampling = require "training.sampling"
local task = require "riverlua.task"
local weights = require "training.weights"

local model = {}

---@class training.Model
---@field model_id string
---@field base_model string
---@field training_run_id string
---@field full_weight boolean
---@field step integer optimizer steps submitted; see `sync_committed_policy`
---@field session training.Session
local Model = {}
Model.__name = "training.Model"

--- Internal: a model that the service has made.
---@param session table
---@param fields {model_id: string, training_run_id: string, base_model: string, full_weight: boolean}
---@return training.Model
function model.new(session, fields)
  local self = {session = session, step = 0, seq_id = 0, steps_pending = 0, turn = task.semaphore(1), prepared = {},
    image_token_id = false, policy = false, policy_seq_id = 0, policies_unknown = false, console = false}
  for name, value in pairs(fields) do self[name] = value end
  return setmetatable(self, Model)
end

--- Internal: runs `fn(seq_id)` with the next sequence id; one at a time, as the service works in the order of arrival.
--- The id of a request that cannot have arrived is given to the next one.
---@param fn fun(seq_id: integer): any
function Model:in_turn(fn)
  return self.turn:with(function()
    self.seq_id = self.seq_id + 1
    local ok, result = pcall(fn, self.seq_id)
    if ok then return result end
    if errors.is(result) and (result.sent == false or result.kind == "argument") then self.seq_id = self.seq_id - 1 end
    error(result, 0)
  end)
end

-- ---- looking ---------------------------------------------------------------------------------------------

--- What the service knows about the model. (GetInfo)
---@return table
function Model:get_info()
  return self.session:rpc("get_info", "GetInfo", {model_id = self.model_id}, {safe = true, rounds = true})
end

--- The committed policy; nil from services that have none. (GetInfo)
---@return training.PolicyVersion|nil
function Model:get_policy_version()
  local policy = samples.policy(self:get_info().policy_version)
  if self.steps_pending == 0 then self:note_policy(policy, self.seq_id) end
  return policy
end

--- Internal: the committed policy, asked for once when it is not known.
function Model:known_policy()
  if self.policy then return self.policy end
  if self.policies_unknown then return nil end
  local policy = self:get_policy_version()
  if not policy then self.policies_unknown = true end
  return policy
end

--- Internal: remembers the policy after an operation, unless what a later one said is known: results may be collected
--- in any order.
---@param policy training.PolicyVersion|nil
---@param seq_id integer of the operation
function Model:note_policy(policy, seq_id)
  if policy and seq_id >= self.policy_seq_id then self.policy, self.policy_seq_id = policy, seq_id end
end

--- Internal: takes over what the service says the weights are.
function Model:adopt(policy, seq_id)
  if not policy then return end
  self:note_policy(policy, seq_id)
  self.step = policy.step
end

--- Asks for the committed policy and takes its step over as `model.step`: after a failure, or when the service went
--- back to a checkpoint of its own.
---@return training.PolicyVersion|nil
function Model:sync_committed_policy()
  self.steps_pending = 0
  local policy = self:get_policy_version()
  self:adopt(policy, self.seq_id)
  return policy
end

--- The newest checkpoint that the service made by itself (full-weight runs), or nil. (GetInfo)
---@return training.Checkpoint|nil
function Model:latest_auto_checkpoint() return weights.latest_auto(self) end

--- What endpoint and model offer, see `client:get_server_capabilities`.
function Model:get_server_capabilities()
  return self.session.client:get_server_capabilities{model_name = self.base_model}
end

-- ---- sampling --------------------------------------------------------------------------------------------

local function plan_samples(self, what, options)
  if options.image_token_id == nil then options.image_token_id = self.image_token_id or nil end
  local plan = sampling.plan(what, options, self.session.timeout)
  plan.release = self.session:reserve(self, plan)
  return plan
end

local function submit_samples(self, what, prompts, options)
  options = sampling.arguments(what, prompts, options, sampling.OPTIONS.model)
  local plan, session, step = plan_samples(self, what, options), self.session, self.step
  local request_id = session:submit(what, "SampleFromTraining",
    {model_id = self.model_id, prompts = plan.prompts, metrics_type = options.metrics_type},
    {safe = true, deadline = clock.now() + plan.timeout, release = plan.release})
  return future.new{
    context = session, what = what, request_id = request_id, model_id = self.model_id, field = "inference",
    timeout = plan.timeout, poll_interval = options.poll_interval,
    on_failure = function() plan.release() end,
    parse = function(response)
      plan.release()
      local groups = samples.groups({what = what, request_id = request_id}, response, plan, step)
      session:count_usage(self, response.usage, samples.usage(groups))
      return groups
    end,
  }
end

--- Submits samples without waiting for them; `:result()` gives what `sample` does. (SampleFromTraining)
---@param prompts any
---@param options table|nil
---@return training.PendingOp
function Model:submit_sample(prompts, options) return submit_samples(self, "submit_sample", prompts, options) end

--- Samples from the model as it is now and waits for all. (SampleFromTraining)
---
--- `model:sample{prompts = {…}, num_samples = 4}`, `model:sample("text", {…})`. Prompts: `prompts` (a text or a list),
--- `prompt_token_ids` (a list of ids or a list of such lists, sent as they are) or `model_input` (chunks
--- {type = "text", tokens =}, {type = "image", data = bytes or handle}; needs `image_token_id`).
---
--- Options: `num_samples` = 1 per prompt; `max_tokens` = 256; `temperature` = 1.0; `top_p` = 1.0; `top_k` = -1 (off);
--- `stop` (a text or a list); `seed` (sample i gets seed + i - 1) or `seeds` (one for each sample); `logprobs` = K (the
--- K most likely tokens at each position); `return_prompt_logprobs`, `return_prompt_token_ids`,
--- `return_expert_routing`; `images` (a list for all prompts, or a list of lists); `metrics_type`; `timeout` = 86400 s;
--- `poll_interval` in seconds (default: adapted to how long it takes, at most 1).
---
--- Returns one list of samples per prompt, see training.Sample.
---@param prompts any
---@param options table|nil
---@return training.Sample[][]
function Model:sample(prompts, options) return submit_samples(self, "sample", prompts, options):result() end

local function submit_batch(self, what, prompts, options, split)
  options = sampling.arguments(what, prompts, options, sampling.OPTIONS.model_batch)
  if options.policy_selection == "latest_snapshot" then
    self.session:need_feature(what, "sampling_latest_snapshot_v1", "policy_selection = \"latest_snapshot\"")
  end
  local plan = plan_samples(self, what, options)
  return batch.submit{context = self.session, what = what, plan = plan, options = options, model = self, split = split,
    source = function(list)
      return "training", {model_id = self.model_id, prompts = list, metrics_type = options.metrics_type}
    end}
end

--- Submits up to 128 independent samples; `:as_completed()` hands them over as they are done. Options: those of
--- `sample`, `idempotency_key`, `pinned_policy_id`, `policy_selection` ("ordered" or "latest_snapshot"),
--- `retained_kv_groups` with `kv_cache_policy`. (SubmitSamplingBatch)
---@return training.PendingSamplingBatch
function Model:submit_sampling_batch(prompts, options)
  return submit_batch(self, "submit_sampling_batch", prompts, options)
end

--- An iterator over samples as they are done, any number of them: rewards can be computed while others still
--- generate. Options as for `submit_sampling_batch`. Raises the first failure.
---
--- `for sample, prompt_index, sample_index in model:sample_as_completed{prompts = {…}, num_samples = 4} do`
---@return fun(): training.Sample|nil, integer|nil, integer|nil
function Model:sample_as_completed(prompts, options)
  local pending = submit_batch(self, "sample_as_completed", prompts, options, true)
  local next_completion = pending:as_completed()
  return function()
    local completion = next_completion()
    if not completion then return nil end
    if completion.error then error(completion.error, 0) end
    return completion.sample, completion.prompt_index, completion.sample_index
  end
end

-- ---- passes and steps ------------------------------------------------------------------------------------

--- Registers a loss graph with the service, which checks it. Done by `forward_backward` when it is needed.
--- (PrepareLoss)
---@param graph table see training.loss_graph
---@return table graph
function Model:prepare_loss(graph)
  if type(graph) ~= "table" or type(graph.json) ~= "string" then
    errors.raise{kind = "argument", message = "prepare_loss: a training.loss_graph is wanted, got "
      .. errors.got(graph)}
  end
  if not self.prepared[graph.json] then
    self.session:rpc("prepare_loss", "PrepareLoss", {model_name = self.base_model, graph = graph.json,
      model_id = self.model_id}, {safe = true, rounds = true})
    self.prepared[graph.json] = true
  end
  return graph
end

local function plan_pass(self, what, options, settings)
  local plan = backward.plan(what, options, settings, function(graph) self:prepare_loss(graph) end)
  plan.release = self.session:reserve(self, {training_tokens = plan.training_tokens})
  return plan
end

local function send_options(self, what, kind, options)
  local zero_out = errors.expect(what, "zero_out", options.zero_out, "boolean|nil")
  if zero_out == nil then zero_out = true end
  return {what = what, kind = kind, timeout = self.session:timeout_of(what, options.timeout), zero_out = zero_out,
    expected_policy_id = errors.expect(what, "expected_policy_id", options.expected_policy_id, "string|nil"),
    fallback = errors.expect(what, "allow_routing_fallback", options.allow_routing_fallback, "boolean|nil"),
    poll_interval = options.poll_interval}
end

-- One part after the other: each is awaited before the next. The first clears gradients if asked to, the rest add.
local function run_parts(self, plan, send)
  local parts, sizes = {}, {}
  for i = 1, #plan.parts do
    local operation
    operation, sizes[i] = backward.send(self, plan, i, send)
    parts[i] = operation:result()
    send.zero_out = false
  end
  return backward.result(parts, sizes)
end

--- Log-probabilities and metrics of datums, without gradients. Arguments as for `forward_backward`. (Forward)
---@return training.ForwardResult
function Model:forward(data, second, third)
  local options, settings = backward.arguments("forward", data, second, third)
  for _, name in ipairs{"zero_out", "allow_routing_fallback"} do
    if options[name] ~= nil then
      errors.raise{kind = "argument", message = ("forward: '%s' is for forward_backward"):format(name)}
    end
  end
  local send = send_options(self, "forward", "Forward", options)
  return run_parts(self, plan_pass(self, "forward", options, settings), send)
end

--- Gradients of a loss over datums. (ForwardBackward)
---
--- `model:forward_backward{data = {…}, loss_fn = "ppo", clip_high = 0.28}`, `model:forward_backward(data, "ppo", {…})`.
--- A datum is a table of columns, see training.datum and `training.grpo_data`.
---
--- Options: `loss_fn` = "cross_entropy" (a name, training.BuiltinLoss or training.loss_graph); `zero_out` = true:
--- gradients are cleared first, false: added to those that are there; `expected_policy_id`; `force_routing_replay`,
--- `compute_expert_flip_metric`, `allow_routing_fallback` for mixtures of experts; `timeout` = 86400 s. All others are
--- settings of the loss. The service sums losses over tokens.
---
--- More than 1 GiB of datums goes in several requests, one after the other, whose gradients add up.
---
--- Raises kind "argument" before anything is sent when a datum is not as it has to be.
---@return training.ForwardResult
function Model:forward_backward(data, second, third)
  local what = "forward_backward"
  local options, settings = backward.arguments(what, data, second, third)
  local send = send_options(self, what, "ForwardBackward", options)
  return run_parts(self, plan_pass(self, what, options, settings), send)
end

-- The operation of a plan that fits into one request.
local function submit_single(self, plan, send)
  local what = send.what
  if #plan.parts > 1 then
    plan.release()
    errors.raise{kind = "argument", message = what .. ": the datums do not fit into one request (1 GiB)",
      hint = "forward_backward splits them"}
  end
  local operation, size = backward.send(self, plan, 1, send)
  local parse = operation.options.parse
  operation.options.parse = function(output) return backward.result({parse(output)}, {size}) end
  return operation
end

--- `forward_backward` without waiting; `:result()` gives its result.
---@return training.PendingOp
function Model:submit_forward_backward(data, second, third)
  local what = "submit_forward_backward"
  local options, settings = backward.arguments(what, data, second, third)
  local send = send_options(self, what, "ForwardBackward", options)
  return submit_single(self, plan_pass(self, what, options, settings), send)
end

--- One step of Adam with the gradients that are there. (OptimStep)
---
--- `model:optim_step{lr = 4e-5}`, `model:optim_step(4e-5, {…})`. Options: `lr`; `beta1` = 0.9; `beta2` = 0.999; `eps` =
--- 1e-8; `weight_decay` = 0; `grad_clip_norm`; `gradient_scale` (multiplies the gradients first); `timeout` = 86400 s;
--- `expected_policy_id` (default: the policy that is known; false: none) and `idempotency_key` (default: a new one;
--- false: none), which see to it that the step is made exactly once, see training.optim.
---@return training.OptimStepResult
function Model:optim_step(lr, options)
  return optim.submit(self, "optim_step", optim.arguments("optim_step", lr, options)):result()
end

--- `optim_step` without waiting. While a step is under way the policy of the next one is not known, so that it is not
--- guarded by one unless you name it.
---@return training.PendingOp
function Model:submit_optim_step(lr, options)
  return optim.submit(self, "submit_optim_step", optim.arguments("submit_optim_step", lr, options))
end

-- After these there is nothing to wait for.
local STOPPED = {cancelled = true, interrupted = true, closed = true, session_lost = true}

local STEP = {data = true}
for name in pairs(optim.OPTIONS) do STEP[name] = true end

local function step_arguments(self, what, data, second, third)
  if type(second) == "number" then   -- (data, lr, {…})
    local more = {}
    for name, value in pairs(errors.expect(what, "options", third or {}, "table")) do more[name] = value end
    if more.lr ~= nil then
      errors.raise{kind = "argument", message = what .. ": the learning rate is given twice"}
    end
    more.lr = second
    second, third = more, nil
  end
  local options, settings = backward.arguments(what, data, second, third, STEP)
  for _, name in ipairs{"zero_out", "return_logprobs", "allow_routing_fallback"} do
    if options[name] ~= nil then
      errors.raise{kind = "argument", message = ("%s: '%s' is for forward_backward"):format(what, name)}
    end
  end
  local step = {}
  for name in pairs(optim.OPTIONS) do step[name] = options[name] end
  options.expected_policy_id, step.poll_interval = nil, options.poll_interval
  if step.lr == nil then
    errors.raise{kind = "argument", message = what .. ": there is no learning rate", hint = what .. "{…, lr = 4e-5}"}
  end
  optim.check(self, what, step)   -- before the pass is sent
  local send = send_options(self, what, "ForwardBackward", options)
  return plan_pass(self, what, options, settings), send, step
end

--- A pass and a step submitted back to back, without waiting: two operations.
---@return training.PendingOp pass
---@return training.PendingOp step
function Model:submit_train_step(data, second, third)
  local what = "submit_train_step"
  local plan, send, step = step_arguments(self, what, data, second, third)
  return submit_single(self, plan, send), optim.submit(self, what, step)
end

--- `forward_backward` and `optim_step` with one wait: `model:train_step{data = {…}, lr = 4e-5, loss_fn = …}` or
--- `model:train_step(data, 4e-5, {…})`.
---@return training.ForwardResult
---@return training.OptimStepResult
function Model:train_step(data, second, third)
  local what = "train_step"
  local plan, send, step = step_arguments(self, what, data, second, third)
  if #plan.parts > 1 then
    local result = run_parts(self, plan, send)
    return result, optim.submit(self, what, step):result()
  end
  local pass, made = submit_single(self, plan, send), optim.submit(self, what, step)
  local ok, result = pcall(pass.result, pass)
  if not ok and errors.is(result) and STOPPED[result.kind] then error(result, 0) end
  local step_result = made:result()   -- it is under way in any case
  if not ok then error(result, 0) end
  return result, step_result
end

-- ---- keeping ---------------------------------------------------------------------------------------------

--- Saves a checkpoint and waits for it. (SaveWeights)
---
--- `model:save_weights("final")`, `model:save_weights("s1", {mode = "inference"})`. Options: `mode` = "training"
--- (weights and optimizer), "inference" (to sample from or to deploy) or "publish" (full weight only: refreshes the
--- sampler of the run, nothing is stored); `ttl` in seconds; `immutable` = false: true makes a version of its own under
--- a repeated name; `durable` = true; `expected_policy_id`; `timeout` = 86400 s.
---@param name string
---@param options table|nil
---@return training.Checkpoint
function Model:save_weights(name, options) return weights.save(self, name, options) end

--- Loads a checkpoint, and its optimizer unless `load_optimizer = false`. (LoadWeights)
---@param checkpoint string|training.Checkpoint
---@param options {load_optimizer: boolean|nil, timeout: number|nil}|nil
---@return training.PolicyVersion|nil
function Model:load_weights(checkpoint, options) return weights.load(self, checkpoint, options) end

--- A chat completion of the model as it is now. (ChatCompleteFromTraining)
---
--- `model:chat_complete{messages = {…}, max_tokens = 64}`; fields of OpenAI's API are passed on. `timeout` in seconds.
---@param messages table
---@param options table|nil
---@return training.ChatCompleteResult
function Model:chat_complete(messages, options)
  local given = chat.arguments("chat_complete", messages, options)
  return chat.complete(self.session, "chat_complete", given, {method = "ChatCompleteFromTraining",
    name = self.model_id, fields = {model_id = self.model_id}, model_id = self.model_id, model = self})
end

-- ---- metrics of the console ------------------------------------------------------------------------------

local function console_of(self, what)
  if not self.console then self.console = self.session:open_console(what, self) end
  return self.console
end

--- Sends numbers to the run's page in the console, in the background: `model:log{["reward/mean"] = 0.4}`. With
--- `endpoint = "embedded:"` there is none: a warning says so once, and nothing is sent.
---@param values table<string, number>
function Model:log(values) return console_of(self, "log"):log(values) end

--- Tells the console how to draw a metric (or all that begin with `name*`).
---@param name string
---@param options {step_metric: string|nil, hidden: boolean|nil}|nil
function Model:define_metric(name, options)
  return console_of(self, "define_metric"):define_metric(name, options)
end

--- Internal: ends the model. (UnloadModel)
function Model:unload(timeout)
  if self.console then pcall(self.console.close, self.console) end
  local what, session = "close", self.session
  local deadline = clock.now() + timeout
  local reply, err = session.wire:try("UnloadModel", {model_id = self.model_id},
    {what = what, deadline = deadline, safe = true})
  if not reply then
    if err.code == "NOT_FOUND" then return end   -- a first try did it
    error(require("training.failure").from_grpc({what = what, scrub = session.wire.scrub}, err), 0)
  end
  future.new{context = session, what = what, request_id = reply.request_id, model_id = self.model_id,
    field = "unload_model", timeout = timeout}:result()
end

function Model:__tostring()
  return ("training.Model(%s, %s, step %d)"):format(self.model_id, self.base_model, self.step)
end

errors.want_colon(Model, "model")
object.define(Model, {called = "training.Model", made = "model_id",
  fields = "base_model full_weight model_id session step training_run_id",
  internal = "adopt in_turn known_policy note_policy unload"})

return model
