-- Reinforcement learning on the stand-in, whose model is one number: a loop that is right climbs, others do not.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(folder .. "support.lua")
local training = require "training"

local BATCH, GROUP, STEPS = 256, 4, 12

-- Runs the loop of the specification; `build(sample, advantage)` makes a datum. Returns the mean reward of each step.
local function run(server, build, steps)
  local client <close> = support.client(server)
  local session <close> = client:session{run = "loop"}
  local model = session:create_model{base_model = support.MODEL, lora = training.LoraConfig{rank = 16,
    train_unembed = true}}
  local rewards, metrics = {}, {}
  for step = 1, steps do
    local prompts, answers = support.sums(BATCH, step * BATCH)
    local groups = model:sample{prompts = prompts, num_samples = GROUP, max_tokens = 128, stop = {"<|im_end|>"},
      return_prompt_token_ids = true, seed = step}
    local data, sum = {}, 0
    for i, samples in ipairs(groups) do
      local own, total = {}, 0
      for k, sample in ipairs(samples) do
        own[k] = training.rewards.extract_boxed(sample.text) == answers[i] and 1.0 or 0.0
        total = total + own[k]
      end
      sum = sum + total
      for k, sample in ipairs(samples) do
        local advantage = own[k] - total / #samples
        if advantage ~= 0 then data[#data + 1] = build(sample, advantage) end
      end
    end
    rewards[step] = sum / (BATCH * GROUP)
    if #data > 0 then
      metrics[step] = model:forward_backward{data = data, loss_fn = "importance_sampling"}.metrics
      model:optim_step{lr = 4e-5}
    end
  end
  return rewards, metrics
end

describe("the training loop", function()
  local server
  setup(function() server = support.standin.start{seed = 1} end)
  teardown(function() server:close() end)

  it("climbs", function()
    local rewards, metrics = run(server, function(sample, advantage)
      return training.grpo_data(sample.prompt_token_ids, sample, advantage)
    end, STEPS)
    assert.truthy(rewards[1] < 0.3, rewards[1])
    assert.truthy(rewards[STEPS] > 0.9, rewards[STEPS])
    assert.truthy(math.abs(metrics[1].mean_ratio - 1) < 1e-3)
    assert.truthy(math.abs(metrics[1].kl) < 1e-3)
    assert.same({}, server:violations())
  end)

  it("does not climb when the advantages are shifted by one", function()
    local array = require "riverlua.array"
    local rewards = run(server, function(sample, advantage)
      local datum = training.grpo_data(sample.prompt_token_ids, sample, advantage)
      local shifted = array.fill("float32", #datum.advantages, 0)
      for i = 2, #shifted do shifted[i] = datum.advantages[i - 1] end
      datum.advantages = shifted
      return datum
    end, 4)
    assert.truthy(rewards[4] < 0.3, rewards[4])
  end)

  it("falls when the sign is wrong", function()
    local rewards = run(server, function(sample, advantage)
      return training.grpo_data(sample.prompt_token_ids, sample, -advantage)
    end, 4)
    assert.truthy(rewards[4] < rewards[1])
  end)
end)
