--- Names and settings of the built-in losses. The service sums over tokens and never averages: a learning rate has to
--- account for that.

local errors = require "riverlua.errors"

local losses = {}

-- Settings by loss; `logprob_temperature` tempers the policy's log-probabilities as sampling did.
local SETTINGS = {
  cross_entropy = {},
  importance_sampling = {logprob_temperature = true},
  ppo = {clip_low = true, clip_high = true, logprob_temperature = true},
  cispo = {eps_max = true, use_perfect_ratio = true, score_centering = true, logprob_temperature = true},
  echo_cispo = {eps_max = true, echo_coef = true, use_perfect_ratio = true, score_centering = true,
    logprob_temperature = true},
  dro = {beta = true, logprob_temperature = true},
  loss_graph_v1 = {},
}

---@class training.BuiltinLoss
---@field name string
---@field config table<string, number>
local BuiltinLoss = {}
BuiltinLoss.__index = BuiltinLoss
BuiltinLoss.__name = "training.BuiltinLoss"

local function fail(what, message, hint)
  errors.raise{kind = "argument", message = what .. ": " .. message, hint = hint}
end

--- A built-in loss with its settings: `training.BuiltinLoss("ppo", {clip_high = 0.28})`.
---@param name string
---@param config table<string, number>|nil
---@return training.BuiltinLoss
function losses.BuiltinLoss(name, config)
  errors.expect("BuiltinLoss", "name", name, "string")
  local own = {}
  for key, value in pairs(errors.expect("BuiltinLoss", "config", config or {}, "table")) do own[key] = value end
  return setmetatable({name = name, config = own}, BuiltinLoss)
end

-- Of the calls, for what was meant to be one of them.
local OPTIONS = {"data", "loss_fn", "timeout", "zero_out", "compute_expert_flip_metric", "force_routing_replay",
  "expected_policy_id", "allow_routing_fallback", "poll_interval"}

local function add(what, config, name, value, known)
  if config[name] ~= nil then fail(what, ("the setting '%s' of the loss is given twice"):format(name)) end
  if known and not known[name] or type(name) ~= "string" then
    local near = type(name) == "string" and (known and errors.suggest(name, known) or errors.suggest(name, OPTIONS))
    fail(what, ("'%s' is neither an option nor a setting of this loss"):format(tostring(name)),
      near and ("did you mean '%s'?"):format(near) or nil)
  end
  if type(value) == "boolean" then value = value and 1 or 0 end
  if type(value) ~= "number" or value ~= value or value == math.huge or value == -math.huge then
    fail(what, ("the setting '%s' of the loss must be a finite number, got %s"):format(name, tostring(value)))
  end
  config[name] = value + 0.0
end

--- Whether a value names a loss: a text, a BuiltinLoss or a loss graph.
---@param value any
---@return boolean
function losses.is(value)
  return type(value) == "string" or getmetatable(value) == BuiltinLoss
    or type(value) == "table" and type(value.json) == "string"
end

--- The loss's name on the wire and its settings.
---@param what string
---@param given string|table|nil name, BuiltinLoss or a loss graph; default "cross_entropy"
---@param extra table<string, any> options that are not the call's own: settings of the loss
---@return string name
---@return table<string, number> config
---@return table|nil graph
function losses.read(what, given, extra)
  local config, graph = {}, nil
  local name = given
  if given == nil then
    name = "cross_entropy"
  elseif getmetatable(given) == BuiltinLoss then
    name = given.name
    for key, value in pairs(given.config) do add(what, config, key, value, SETTINGS[name]) end
  elseif type(given) == "table" and type(given.json) == "string" then
    name, graph = "loss_graph_v1", given
  elseif type(given) ~= "string" then
    fail(what, "loss_fn must be a name, a training.BuiltinLoss or a training.loss_graph, got a " .. type(given))
  end
  local known = SETTINGS[name]
  if not known then
    local near = errors.suggest(name, SETTINGS)
    -- a service may know losses that are newer than this client
    if near then fail(what, ("unknown loss '%s'"):format(name), ("did you mean '%s'?"):format(near)) end
  end
  for key, value in pairs(extra) do add(what, config, key, value, known) end
  return name, config, graph
end

return losses
