-- GRPO on grade-school maths: sample answers, score them, learn from which were better than their group.
--
--   riverlua examples/grpo_gsm8k.lua                      on this machine, without an account
--   RIVER_API_KEY=… riverlua examples/grpo_gsm8k.lua      on the service
--
-- The loop of the service's own introduction, line by line, with its numbers. On this machine (`embedded:`) a model of
-- 134,000 parameters learns instead: it knows the answers, but thinks aloud for longer than its budget of tokens, until
-- it has found out that this does not pay. Another service: RIVER_ENDPOINT=host:port, or with http:// before it for
-- one without TLS. First argument: how many steps (default: 29). Second: a file with lines such as {"question": …,
-- "answer": "… #### 42"} in place of the data set. SEED: another run on this machine (default: 1). PLOT: where the plot
-- goes (default: reward.svg).

local plot = require "riverlua.plot"
local progress = require "riverlua.progress"
local training = require "training"
local rewards = training.rewards

local function refuse(text, ...)
  io.stderr:write(text:format(...), "\n")
  os.exit(1)
end

local function count(text, what)
  local number = math.tointeger(tonumber(text))
  if not number or number < 1 then refuse("%s: a whole number from 1 on is wanted, got '%s'", what, text) end
  return number
end

local STEPS = count(arg[1] or 29, "the number of steps")
local BATCH = count(os.getenv("BATCH") or 256, "BATCH")   -- prompts per step
local GROUP = 4             -- samples per prompt
local LORA_RANK = 16
local LR = 4e-5             -- learning rate; the losses are sums over tokens

-- What differs between a service with large models and this machine.
local endpoint = os.getenv("RIVER_ENDPOINT") or not os.getenv("RIVER_API_KEY") and "embedded:" or nil
local place
if not (endpoint and endpoint:find("^embedded:")) then
  place = {
    client = {}, model = "nvidia/Kimi-K2.6-NVFP4", rows = "openai/gsm8k", max_tokens = 128, stop = "<|im_end|>",
    -- the chat template of Kimi K2, its thinking turned off
    prompt = function(question)
      return "<|im_user|>user<|im_middle|>" .. question .. " Put your final answer inside \\boxed{}.<|im_end|>"
        .. "<|im_assistant|>assistant<|im_middle|><think></think>"
    end,
  }
else
  place = {
    client = {endpoint = endpoint, embedded = {seed = math.tointeger(os.getenv("SEED") or 1)}},
    model = "embedded/rambler-134k", rows = "embedded/digits", max_tokens = 16, stop = "\n",
    prompt = function(question) return question end,
  }
end

-- 1.0 if the \boxed{…} answer matches the ground truth, else 0.0
local function reward(text, answer)
  return rewards.extract_boxed(text) == rewards.extract_gsm8k_answer(answer) and 1.0 or 0.0
end

local function mean(numbers)
  local sum = 0
  for _, number in ipairs(numbers) do sum = sum + number end
  return sum / #numbers
end

local client <close> = training.Client(place.client)
local rows = arg[2] and training.datasets.load(arg[2]) or training.datasets.load(place.rows, {split = "train"})
local session <close> = client:session{project = "gsm8k"}
local model = session:create_model{
  base_model = os.getenv("RIVER_MODEL") or place.model,
  lora = training.LoraConfig{
    rank = LORA_RANK,
    train_attn = true,      -- attention projections
    train_mlp = true,       -- MLP / experts
    train_unembed = true,   -- the head
  },
}

local curve = {}
local steps = math.min(#rows // BATCH, STEPS)
if steps == 0 then refuse("there are %d rows, and a step takes %d: set BATCH", #rows, BATCH) end
local bar <close> = progress.bar{total = steps, label = "training", unit = "steps"}
local function say(text)
  if progress.is_quiet() then print(text) else bar:note(text) end
end

for step = 1, steps do
  local batch = rows:slice((step - 1) * BATCH + 1, step * BATCH)
  local prompts = {}
  for i, row in ipairs(batch) do prompts[i] = place.prompt(row.question) end

  -- 1. Sample a group of candidate answers per prompt. Their prompts' token ids come back with them: no tokenizer here.
  local groups = model:sample{
    prompts = prompts, num_samples = GROUP, max_tokens = place.max_tokens, stop = {place.stop},
    return_prompt_token_ids = true,
  }

  -- 2. Score, then centre rewards into advantages (no division by the deviation).
  local data, scores = {}, {}
  for i, samples in ipairs(groups) do
    local own = {}
    for k, sample in ipairs(samples) do own[k] = reward(sample.text, batch[i].answer) end
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
  curve[step] = mean(scores)
  bar:update(step, {["reward/mean"] = curve[step]})
  say(("step %2d  reward/mean %.3f  datums %4d"):format(step, curve[step], #data))
end
bar:close()

local checkpoint = model:save_weights("final")
local chart = plot.line{title = "GRPO with " .. model.base_model, x_label = "step", y_min = 0, y_max = 1,
  series = {{name = "reward/mean", y = curve}}}
chart:print{height = 9}
local picture = os.getenv("PLOT") or "reward.svg"
chart:save(picture)
print("saved " .. checkpoint.path .. " and " .. picture)
