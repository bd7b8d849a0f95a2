-- GRPO on grade-school maths: sample answers, score them, learn from which were better than their group.
--
--   RIVER_API_KEY=… riverlua examples/grpo_gsm8k.lua
--
-- The loop of the service's own introduction, line by line. Another service: RIVER_ENDPOINT=host:port, or with http://
-- before it for one without TLS. First argument: a file with lines such as {"question": …, "answer": "… #### 42"} in
-- place of GSM8K, which is fetched from the public hub once and kept. Second: how many steps (default: all).

local training = require "training"
local rewards = training.rewards

local MODEL = os.getenv("RIVER_MODEL") or "nvidia/Kimi-K2.6-NVFP4"
local BATCH = tonumber(os.getenv("BATCH") or "256")   -- prompts per step
local GROUP = 4             -- samples per prompt
local MAX_TOKENS = 128
local LORA_RANK = 16
local LR = 4e-5             -- learning rate; the losses are sums over tokens

local client <close> = training.Client{}
local gsm8k = arg[1] and training.datasets.load(arg[1])
  or training.datasets.load("openai/gsm8k", {config = "main", split = "train"})

-- 1.0 if the \boxed{…} answer matches the ground truth, else 0.0
local function reward(text, answer)
  return rewards.extract_boxed(text) == rewards.extract_gsm8k_answer(answer) and 1.0 or 0.0
end

-- The chat template of Kimi K2, its thinking turned off.
local function make_prompt(question)
  return "<|im_user|>user<|im_middle|>" .. question .. " Put your final answer inside \\boxed{}.<|im_end|>"
    .. "<|im_assistant|>assistant<|im_middle|><think></think>"
end

local function mean(numbers)
  local sum = 0
  for _, number in ipairs(numbers) do sum = sum + number end
  return sum / #numbers
end

local session <close> = client:session{project = "gsm8k"}
local model = session:create_model{
  base_model = MODEL,
  lora = training.LoraConfig{
    rank = LORA_RANK,
    train_attn = true,      -- attention projections
    train_mlp = true,       -- MLP / experts
    train_unembed = true,   -- the head
  },
}

local steps = math.min(#gsm8k // BATCH, tonumber(arg[2]) or math.huge)
for step = 1, steps do
  local rows = gsm8k:slice((step - 1) * BATCH + 1, step * BATCH)
  local prompts = {}
  for i, row in ipairs(rows) do prompts[i] = make_prompt(row.question) end

  -- 1. Sample a group of candidate answers per prompt. Their prompts' token ids come back with them: no tokenizer here.
  local groups = model:sample{
    prompts = prompts, num_samples = GROUP, max_tokens = MAX_TOKENS, stop = {"<|im_end|>"},
    return_prompt_token_ids = true,
  }

  -- 2. Score, then centre rewards into advantages (no division by the deviation).
  local data, scores = {}, {}
  for i, samples in ipairs(groups) do
    local own = {}
    for k, sample in ipairs(samples) do own[k] = reward(sample.text, rows[i].answer) end
    local baseline = mean(own)
    scores[i] = baseline
    for k, sample in ipairs(samples) do
      local advantage = own[k] - baseline
      if advantage ~= 0 and sample.token_data_is_exact then   -- a group of equals has nothing to teach
        data[#data + 1] = training.grpo_data(sample.prompt_token_ids, sample, advantage)
      end
    end
  end

  -- 3. One policy-gradient update.
  if #data > 0 then
    model:forward_backward{data = data, loss_fn = "importance_sampling"}
    model:optim_step{lr = LR}
  end
  print(("step %2d  reward %.3f  datums %4d"):format(step, mean(scores), #data))
end

local checkpoint = model:save_weights("final")
print("saved " .. checkpoint.path)
