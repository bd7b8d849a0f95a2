--- Checkpoints: saving, loading, and the ones that the service makes by itself. (SaveWeights, LoadWeights)

local clock = require "riverlua.clock"
local errors = require "riverlua.errors"
local failure = require "training.failure"
local future = require "training.future"
local samples = require "training.samples"

local weights = {}

local MODES = {training = true, inference = true, publish = true}
local LONGEST_TTL = 365 * 86400

---@class training.Checkpoint
---@field path string "river://<run>/weights/<name>"; empty for mode "publish"
---@field step integer the client's count of optimizer steps when it was saved
---@field checkpoint_type "training"|"inference"|"publish"
---@field policy_version training.PolicyVersion|nil
local Checkpoint = {}
Checkpoint.__index = Checkpoint
Checkpoint.__name = "training.Checkpoint"

function Checkpoint:__tostring() return ("training.Checkpoint(%s, %s)"):format(self.path, self.checkpoint_type) end

---@param value any
---@return boolean
function weights.is_checkpoint(value) return getmetatable(value) == Checkpoint end

---@return training.Checkpoint
function weights.new(path, step, checkpoint_type, policy)
  return setmetatable({path = path, step = step, checkpoint_type = checkpoint_type, policy_version = policy},
    Checkpoint)
end

--- The path of a checkpoint or a path; raises kind "argument" for anything else.
---@param what string
---@param given any
---@return string
function weights.path(what, given)
  local path = given
  if weights.is_checkpoint(given) then path = given.path end
  if type(path) ~= "string" or path == "" then
    errors.raise{kind = "argument", message = ("%s: a checkpoint or its path is wanted, got %s"):format(what,
      path == "" and "one that has no path (mode publish keeps nothing)" or errors.got(given))}
  end
  return path
end

local SAVE = {}
for name in ("name mode timeout ttl immutable expected_policy_id durable poll_interval"):gmatch("%S+") do
  SAVE[name] = true
end

local function fail(what, message, hint)
  errors.raise{kind = "argument", message = what .. ": " .. message, hint = hint}
end

--- See `model:save_weights`.
function weights.save(model, name, more)
  local what = "save_weights"
  local options = {}
  local given = type(name) == "table" and name or errors.expect(what, "options", more or {}, "table")
  for key, value in pairs(given) do options[key] = value end
  if type(name) == "table" then
    if more ~= nil then fail(what, "options in one table, or the name and a table of options") end
  else
    if options.name ~= nil then fail(what, "the name is given twice") end
    options.name = name
  end
  errors.check_options(what, options, SAVE)
  future.check_interval(what, options.poll_interval)
  errors.expect(what, "name", options.name, "string")
  if options.name == "" or options.name:find("%c") then
    fail(what, "the name of a checkpoint must not be empty or contain control characters")
  end
  local mode = options.mode or "training"
  if not MODES[mode] then fail(what, ("mode must be \"training\", \"inference\" or \"publish\", got %s"):format(
    tostring(mode))) end
  if mode == "publish" and not model.full_weight then
    fail(what, "mode \"publish\" is for models with full_weight",
      "mode = \"inference\" saves an adapter to sample from")
  end
  local ttl = options.ttl
  if ttl ~= nil and (type(ttl) ~= "number" or ttl ~= ttl or ttl <= 0 or ttl > LONGEST_TTL) then
    fail(what, "'ttl' must be a number of seconds above 0, at most a year")
  end
  local immutable = errors.expect(what, "immutable", options.immutable, "boolean|nil") or false
  local durable = errors.expect(what, "durable", options.durable, "boolean|nil")
  if durable == nil then durable = true end
  if not durable then model.session:need_feature(what, "temporary_checkpoints_v1", "durable = false") end
  local expected = errors.expect(what, "expected_policy_id", options.expected_policy_id, "string|nil")
  local timeout = model.session:timeout_of(what, options.timeout)
  local session, step = model.session, model.step
  local request_id = model:in_turn(function(seq_id)
    -- the same name again holds the same weights, unless each save is a version of its own
    return session:submit(what, "SaveWeights", {model_id = model.model_id, seq_id = seq_id,
      path = model.training_run_id .. "/" .. options.name, mode = mode, ttl_seconds = ttl and math.ceil(ttl),
      immutable = immutable, expected_policy_id = expected, durable = durable},
      {safe = not immutable, deadline = clock.now() + timeout})
  end)
  local operation = future.new{context = session, what = what, request_id = request_id, model_id = model.model_id,
    field = "save_weights", timeout = timeout, poll_interval = options.poll_interval, parse = function(reply)
      local checkpoint = weights.new(reply.path, step, mode, samples.policy(reply.policy_version))
      if mode == "training" and reply.path ~= "" then session:note_checkpoint(checkpoint) end
      return checkpoint
    end}
  return operation:result()
end

local LOAD = {load_optimizer = true, timeout = true, poll_interval = true}

--- See `model:load_weights`.
function weights.load(model, checkpoint, options)
  local what = "load_weights"
  options = errors.expect(what, "options", options or {}, "table")
  errors.check_options(what, options, LOAD)
  future.check_interval(what, options.poll_interval)
  local path = weights.path(what, checkpoint)
  local optimizer = errors.expect(what, "load_optimizer", options.load_optimizer, "boolean|nil")
  if optimizer == nil then optimizer = true end
  local session, timeout = model.session, model.session:timeout_of(what, options.timeout)
  local loaded_by
  local request_id = model:in_turn(function(seq_id)
    loaded_by = seq_id
    return session:submit(what, "LoadWeights", {model_id = model.model_id, seq_id = seq_id, path = path,
      optimizer = optimizer}, {safe = true, deadline = clock.now() + timeout})
  end)
  local loaded = future.new{context = session, what = what, request_id = request_id, model_id = model.model_id,
    field = "load_weights", timeout = timeout, poll_interval = options.poll_interval}:result()
  local policy = samples.policy(loaded.policy_version)
  model:adopt(policy, loaded_by)
  return policy
end

--- The newest checkpoint that the service made by itself; see `model:latest_auto_checkpoint`.
function weights.latest_auto(model)
  local info = model:get_info()
  local auto = info.latest_auto_checkpoint
  if info.last_auto_checkpoint_error ~= "" then
    model.session.client:warn("latest_auto_checkpoint: the last attempt of the service failed: "
      .. failure.one_line(model.session.wire.scrub, info.last_auto_checkpoint_error))
  end
  if not auto then return nil end
  local policy = samples.policy(auto.policy_version)
  return weights.new(auto.path, policy and policy.step or 0, "training", policy)
end

return weights
