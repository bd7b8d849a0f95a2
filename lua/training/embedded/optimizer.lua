--- Steps of the optimizer. (OptimStep)

local models = require "training.embedded.models"
local policies = require "training.embedded.policies"
local refusal = require "training.embedded.refusal"

local optimizer = {}

local MOST_KEYS = 4096

local PARAMS = {"learning_rate", "beta1", "beta2", "eps", "weight_decay", "grad_clip_norm", "gradient_scale"}
-- eps too: without one, weights that have had no gradient would become 0 / 0
local POSITIVE = {grad_clip_norm = true, gradient_scale = true, eps = true}
local WANTED = {beta1 = true, beta2 = true, eps = true, weight_decay = true}

local function check(params)
  if not params then refusal.wrong("adam_params are missing") end
  for _, name in ipairs(PARAMS) do
    local value = params[name]
    if value == nil and WANTED[name] then refusal.wrong("adam_params: %s is missing", name) end
    if value ~= nil and not (value >= 0 and value < math.huge) then
      refusal.wrong("adam_params: %s is %s", name, refusal.number(value))
    end
    if value == 0 and POSITIVE[name] then refusal.wrong("adam_params: %s is 0", name) end
  end
  if params.beta1 >= 1 or params.beta2 >= 1 then refusal.wrong("adam_params: a beta is 1 or more") end
end

-- What tells a step from another one with the same key.
local function content(request)
  local parts = {tostring(request.seq_id)}
  for _, name in ipairs(PARAMS) do
    parts[#parts + 1] = ("%q"):format((request.adam_params or {})[name] or "none")
  end
  return table.concat(parts, " ")
end

local function step(model, params, policy)
  local made = models.core_of(model):step{lr = params.learning_rate, beta1 = params.beta1, beta2 = params.beta2,
    eps = params.eps, weight_decay = params.weight_decay, clip = params.grad_clip_norm,
    scale = params.gradient_scale}
  policies.commit_step(model, policy)
  -- a gradient that is not finite has changed nothing; the step counts all the same, as the client has counted it
  return {optim_step = {type = "optim_step", policy_version = policies.copy(policy), metrics = {step = policy.step,
    lr = params.learning_rate, grad_norm = made.grad_norm, grad_norm_finite = made.finite and 1 or 0}}}
end

local function remember(model, key, known)
  model.keys[key] = known
  model.key_order[#model.key_order + 1] = key
  if #model.key_order > MOST_KEYS then model.keys[table.remove(model.key_order, 1)] = nil end
end

optimizer.methods = {}

function optimizer.methods.OptimStep(service, request, call)
  local model = models.find(service, request.model_id)
  local key = request.idempotency_key
  local known = key and model.keys[key]
  if known then
    if known.content ~= content(request) then refusal.wrong("the idempotency_key %s with another step", key) end
    return {request_id = known.request_id, type = call.method}
  end
  local again, admit = models.sequence(call, model, request)
  if again then return {request_id = again, type = call.method} end
  local params = request.adam_params
  check(params)
  local still = policies.guard(model, request.expected_policy_id)
  service:check_room(model.lane, #call.bytes)
  local policy = policies.announce(model)
  local future = service:submit(call, {model = model, undo = function() policies.withdraw(model, policy) end},
    function()
      still()
      return step(model, params, policy)
    end)
  admit(future.request_id)
  if key then remember(model, key, {content = content(request), request_id = future.request_id}) end
  return future
end

return optimizer
