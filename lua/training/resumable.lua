--- A run that goes on: after a crash of the script, or in a new session when the old one is lost.

local errors = require "riverlua.errors"
local progress = require "training.progress"

local resumable = {}

local OPTIONS = {}
for name in ([[client session model step steps path every seconds backup name weights state restarts first_delay
  on_restart lost]]):gmatch("%S+") do OPTIONS[name] = true end

local function copy(given)
  local own = {}
  for name, value in pairs(given or {}) do own[name] = value end
  return own
end

--- Runs steps of training, saves weights now and then, and goes on from the last ones.
---
---     training.resumable{path = "run.json", steps = 29, every = 5, client = client,
---       model = {base_model = MODEL, lora = training.LoraConfig{rank = 16}},
---       step = function(model, step, state) … end}
---
--- Options: `client`; `model`: what `session:create_model` takes; `session`: what `client:session` takes (tags);
--- `step(model, step, state)`: one step, from 1; `state` is a table of yours that is kept with the run, and goes back
--- to what it was at the last save; `steps` in all; `path` of the file that says how far the run is (there is a lock
--- beside it); `every` steps and `seconds`: how often weights are saved (default: every step, and at the end); `name` =
--- "step": checkpoints are called step-5, step-10 and so on; `weights`: further options of `save_weights`, such as
--- `ttl`; `restarts` = 5: new sessions in a row without anything saved in between; `on_restart(err, saved)` is told;
--- `backup`, `first_delay`, `lost`: see training.progress.
---
--- Returns the state and what was saved last. Raises what a step raises, unless that means a lost session or may pass.
---@param options table
---@return table state
---@return training.RunRecord record
function resumable.resumable(options)
  local where = "training.resumable"
  errors.expect(where, "options", options, "table")
  errors.check_options(where, options, OPTIONS)
  errors.expect(where, "client", options.client, "table")
  errors.expect(where, "model", options.model, "table")
  errors.expect(where, "step", options.step, "callable")
  errors.expect(where, "name", options.name, "string|nil")
  errors.expect(where, "weights", options.weights, "table|nil")
  local own = {}
  for _, name in ipairs{"path", "steps", "every", "seconds", "backup", "state", "restarts", "first_delay", "on_restart",
    "lost"} do own[name] = options[name] end
  function own.open(saved)
    local session = options.client:session(copy(options.session))
    local create = copy(options.model)
    if saved and saved.checkpoint then create.checkpoint = saved.checkpoint end
    local ok, model = pcall(session.create_model, session, create)
    if not ok then
      pcall(session.close, session)
      error(model, 0)
    end
    return {session = session, model = model}
  end
  function own.step(context, step, state) return options.step(context.model, step, state) end
  function own.save(context, step)
    local model = context.model
    local checkpoint = model:save_weights(("%s-%d"):format(options.name or "step", step), copy(options.weights))
    local policy = checkpoint.policy_version
    return {checkpoint = checkpoint.path, policy_id = policy and policy.id, run_id = model.training_run_id}
  end
  function own.close(context, err) getmetatable(context.session).__close(context.session, err) end
  return progress.resumable(own)
end

return resumable
