-- A long run that goes on: kill it, start it again, and it continues from its last checkpoint. Rewards are computed
-- while other samples are still being generated.
--
--   riverlua examples/training_resumable.lua [run.json] [steps]                      on this machine
--   RIVER_API_KEY=… riverlua examples/training_resumable.lua [run.json] [steps]      on the service
--
-- On this machine the checkpoints are kept in the folder run.json.checkpoints. Another service: RIVER_ENDPOINT.

local training = require "training"
local progress = require "riverlua.progress"

local FILE, STEPS = arg[1] or "run.json", tonumber(arg[2] or "20")
local PROMPTS, GROUP = 32, 4

-- What differs between a service with large models and this machine. `questions`: other ones in each step.
local endpoint = os.getenv("RIVER_ENDPOINT")
  or not os.getenv("RIVER_API_KEY") and ("embedded:%s.checkpoints"):format(FILE) or nil
local place
if not (endpoint and endpoint:find("^embedded:")) then
  place = {
    model = "nvidia/Kimi-K2.6-NVFP4", max_tokens = 64, stop = "<|im_end|>",
    questions = function(step)
      local prompts, answers = {}, {}
      for i = 1, PROMPTS do
        local a, b = step + i, (step * 7 + i * 3) % 50
        prompts[i] = ("What is %d + %d? Put the answer inside \\boxed{}."):format(a, b)
        answers[i] = tostring(a + b)
      end
      return prompts, answers
    end,
  }
else
  local rows = training.datasets.load("embedded/digits", {split = "train"})
  place = {
    model = "embedded/rambler-134k", max_tokens = 16, stop = "\n",
    questions = function(step)
      local prompts, answers = {}, {}
      for i = 1, PROMPTS do
        local row = rows[((step - 1) * PROMPTS + i - 1) % #rows + 1]
        prompts[i], answers[i] = row.question, training.rewards.extract_gsm8k_answer(row.answer)
      end
      return prompts, answers
    end,
  }
end

local client <close> = training.Client{endpoint = endpoint}
local bar <close> = progress.bar{total = STEPS, label = "steps"}

local function step(model, number, state)
  local prompts, answers = place.questions(number)
  local groups = {}
  for i = 1, PROMPTS do groups[i] = {} end
  for sample, i in model:sample_as_completed{prompts = prompts, num_samples = GROUP, max_tokens = place.max_tokens,
    stop = {place.stop}, return_prompt_token_ids = true} do
    local group = groups[i]
    group[#group + 1] = {sample = sample, score = training.rewards.boxed(sample.text, answers[i])}
  end
  local data, total = {}, 0
  for _, group in ipairs(groups) do
    local sum = 0
    for _, one in ipairs(group) do sum = sum + one.score end
    total = total + sum
    for _, one in ipairs(group) do
      local advantage = one.score - sum / #group
      if advantage ~= 0 and one.sample.token_data_is_exact then
        data[#data + 1] = training.grpo_data(one.sample.prompt_token_ids, one.sample, advantage)
      end
    end
  end
  if #data > 0 then model:train_step{data = data, lr = 4e-5, loss_fn = "importance_sampling"} end
  state.rewards[number] = total / (PROMPTS * GROUP)
  bar:update(number)
end

local state, record = training.resumable{
  client = client, path = FILE, steps = STEPS, every = 5, step = step, state = {rewards = {}},
  model = {base_model = os.getenv("RIVER_MODEL") or place.model, lora = training.LoraConfig{rank = 16}},
  session = {project = "sums"},
  on_restart = function(err) io.stderr:write("going on in a new session: ", tostring(err), "\n") end,
}
print(("reward %.3f at first, %.3f at last; saved %s"):format(state.rewards[1], state.rewards[STEPS],
  record.checkpoint))
