--- Optimizer steps, each applied exactly once. (OptimStep)
--
-- A step carries a key of its own, so that the service knows a request it gets twice, and the policy that it starts
-- from, so that it cannot land on other weights. When nobody knows what became of a step, the service is asked which
-- policy it has now (GetInfo): one whose parent is the expected policy is the step's own.

local clock = require "riverlua.clock"
local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local future = require "training.future"
local samples = require "training.samples"

local optim = {}

local OPTIONS = {}
for name in ([[lr beta1 beta2 eps weight_decay grad_clip_norm gradient_scale timeout expected_policy_id idempotency_key
  poll_interval]]):gmatch("%S+") do OPTIONS[name] = true end

optim.OPTIONS = OPTIONS

-- After these nobody knows whether the step was made.
local LOST = {unavailable = true, timeout = true, grpc = true, protocol = true}
-- After these neither, when the service had accepted it.
local FORGOTTEN = {not_found = true, precondition = true}
local SYNC = "model:sync_committed_policy() tells which weights there are"

local function fail(what, message, hint)
  errors.raise{kind = "argument", message = what .. ": " .. message, hint = hint}
end

local function number(what, options, name, default, least, above)
  local value = options[name]
  if value == nil then return default end
  if type(value) ~= "number" or value ~= value or value == math.huge or value < least or above and value <= least then
    fail(what, ("'%s' must be a finite number %s %g, got %s"):format(name, above and "above" or "of at least", least,
      tostring(value)))
  end
  return value + 0.0
end

local function adam(what, options)
  if options.lr == nil then fail(what, "there is no learning rate", what .. "{lr = 4e-5}") end
  for _, name in ipairs{"beta1", "beta2"} do
    if number(what, options, name, 0, 0) >= 1 then
      fail(what, ("'%s' must be below 1, got %s"):format(name, tostring(options[name])))
    end
  end
  return {
    learning_rate = number(what, options, "lr", nil, 0), beta1 = number(what, options, "beta1", 0.9, 0),
    beta2 = number(what, options, "beta2", 0.999, 0), eps = number(what, options, "eps", 1e-8, 0),
    weight_decay = number(what, options, "weight_decay", 0.0, 0),
    grad_clip_norm = number(what, options, "grad_clip_norm", nil, 0, true),
    gradient_scale = number(what, options, "gradient_scale", nil, 0, true),
  }
end

--- Brings `optim_step(4e-5, {…})` and `optim_step{lr = 4e-5}` to one table.
function optim.arguments(what, given, more)
  local options = {}
  if type(given) == "table" then
    if more ~= nil then fail(what, "options in one table, or the learning rate and a table of options") end
    for name, value in pairs(given) do options[name] = value end
  else
    for name, value in pairs(errors.expect(what, "options", more or {}, "table")) do options[name] = value end
    if given ~= nil and options.lr ~= nil then fail(what, "the learning rate is given twice") end
    if given ~= nil then options.lr = given end
  end
  errors.check_options(what, options, OPTIONS)
  future.check_interval(what, options.poll_interval)
  return options
end

---@class training.OptimStepResult
---@field metrics table<string, number> `step`, `lr`, `grad_norm` …; empty when `recovered`
---@field policy_version training.PolicyVersion|nil the weights after the step
---@field recovered boolean|nil the answer got lost, and the service's state tells that the step was made

local function key_of(what, options)
  local key = options.idempotency_key
  if key == nil then return digest.uuid() end
  if key == false then return nil end
  errors.expect(what, "idempotency_key", key, "string|boolean")
  if key == true or key == "" then fail(what, "idempotency_key must be a text, or false for none") end
  return key
end

-- The policy that a step is to start from: known only when no other step is under way.
local function expected_of(model, expected)
  if expected ~= nil then return expected or nil end
  if model.steps_pending > 0 then return nil end
  local policy = model:known_policy()
  if model.steps_pending > 0 then return nil end   -- another task was faster
  return policy and policy.id or nil
end

-- Whether an error leaves open if the step was made. A refusal does when the request had gone out before.
local function is_unclear(err, submitted)
  if LOST[err.kind] then return true end
  if submitted then return FORGOTTEN[err.kind] end
  return err.code ~= nil and err.sent and (err.attempts or 1) > 1
end

-- After such a failure: what the service's state says about it.
local function find_out(model, expected, err, submitted)
  if not errors.is(err) then return nil end
  if not is_unclear(err, submitted) then
    if err.kind == "precondition" then err.hint = SYNC end
    return nil
  end
  if err.kind ~= "timeout" then err.hint = SYNC end
  if not expected then return nil end
  local ok, policy = pcall(model.get_policy_version, model)
  if not ok or not policy then return nil end
  if policy.parent_id == expected then return {metrics = {}, policy_version = policy, recovered = true} end
  if policy.id == expected and err.sent == false then
    err.applied, err.hint = false, "the step can be made again"
    err.message = err.message .. "; the step was not made"
  end
  return nil
end

local function took(model, result, seq_id)
  model:note_policy(result.policy_version, seq_id)
  return result
end

--- Checks the options of a step; nothing is sent, but for the question whether the endpoint has what they need.
---@return table params AdamParams
---@return number timeout
---@return string|nil key
function optim.check(model, what, options)
  local params, session = adam(what, options), model.session
  local timeout, key = session:timeout_of(what, options.timeout), key_of(what, options)
  if options.expected_policy_id ~= false then
    errors.expect(what, "expected_policy_id", options.expected_policy_id, "string|nil")
  end
  if params.gradient_scale then session:need_feature(what, "gradient_scale_v1", "gradient_scale") end
  return params, timeout, key
end

--- Submits a step; see `model:submit_optim_step`.
---@return training.PendingOp
function optim.submit(model, what, options)
  local params, timeout, key = optim.check(model, what, options)
  local session, expected = model.session, expected_of(model, options.expected_policy_id)
  model.steps_pending = model.steps_pending + 1   -- no wait since the policy was looked at
  local seq_id
  local function submit(id)
    seq_id = id
    model.step = model.step + 1
    return session:submit(what, "OptimStep", {model_id = model.model_id, seq_id = seq_id, adam_params = params,
      expected_policy_id = expected, idempotency_key = key}, {safe = key ~= nil, deadline = clock.now() + timeout})
  end
  local ok, request_id = pcall(model.in_turn, model, submit)
  local pending = true
  local function over()
    if pending then model.steps_pending = math.max(0, model.steps_pending - 1) end
    pending = false
  end
  if not ok then
    over()
    if errors.is(request_id) and (request_id.sent == false or request_id.kind == "argument") then
      model.step = model.step - 1
    end
    local found = find_out(model, expected, request_id, false)
    if not found then error(request_id, 0) end
    return future.done(what, took(model, found, seq_id))
  end
  return future.new{
    context = session, what = what, request_id = request_id, model_id = model.model_id, field = "optim_step",
    timeout = timeout, poll_interval = options.poll_interval,
    parse = function(reply)
      over()
      return took(model, {metrics = reply.metrics, policy_version = samples.policy(reply.policy_version)}, seq_id)
    end,
    on_failure = function(err)
      local found = find_out(model, expected, err, true)
      if found or errors.is(err) and err.kind ~= "timeout" and err.kind ~= "unavailable" then over() end
      return found and took(model, found, seq_id)
    end,
  }
end

return optim
