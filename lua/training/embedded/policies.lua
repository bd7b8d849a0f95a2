--- Policies: names of states of a model's weights. The one that is committed, and the one that will be when
-- everything that was submitted has been done, as requests are judged by that.

local digest = require "riverlua.digest"
local refusal = require "training.embedded.refusal"

local policies = {}

local function new(lineage_id, step, parent_id)
  return {id = "pol-" .. digest.uuid(), lineage_id = lineage_id, step = step, parent_id = parent_id}
end

--- The policy of a new model.
---@param model training.embedded.Model
function policies.begin(model)
  model.policy = new(model.run_id, 0, "")
  model.projected = model.policy
end

--- The policy that a step which is about to be submitted will lead to.
---@param model training.embedded.Model
---@return table policy
function policies.announce(model)
  local before = model.projected
  model.projected = new(model.run_id, before.step + 1, before.id)
  return model.projected
end

--- The weights have changed.
---@param model training.embedded.Model
---@param policy table announced, or that of a checkpoint
function policies.commit(model, policy)
  model.policy = policy
  model.sampled = 0
end

--- As `commit`, for a step; when operations before it failed, it leads on from what there is.
function policies.commit_step(model, policy)
  policy.step, policy.parent_id = model.policy.step + 1, model.policy.id
  policies.commit(model, policy)
end

--- What was announced did not come.
---@param model training.embedded.Model
---@param policy table
function policies.withdraw(model, policy)
  if model.projected == policy then model.projected = model.policy end
end

local function check(expected, policy)
  if expected and expected ~= policy.id then
    refusal.raise("FAILED_PRECONDITION", "policy %s was expected, %s is current", expected, policy.id)
  end
end

--- Refuses a request that expects another policy than there will be; and again, when its turn has come.
---@param model training.embedded.Model
---@param expected string|nil
---@return fun() again
function policies.guard(model, expected)
  check(expected, model.projected)
  return function() check(expected, model.policy) end
end

--- A copy for a message: messages are encoded later than they are made.
function policies.copy(policy)
  return {id = policy.id, lineage_id = policy.lineage_id, step = policy.step, parent_id = policy.parent_id}
end

return policies
