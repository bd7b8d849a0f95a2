-- Supervised fine-tuning: a model learns to answer as the examples do.
--
--   RIVER_API_KEY=… riverlua examples/training_sft.lua [file.jsonl]
--
-- Lines of the file: {"question": …, "answer": …}. Another service: RIVER_ENDPOINT. There is no tokenizer here: the
-- service says which ids a text has when it is asked to go on from it for one token.

local training = require "training"

local MODEL = os.getenv("RIVER_MODEL") or "Qwen/Qwen3.6-35B-A3B-FP8"
local EPOCHS, BATCH, LR = 3, 8, 1e-4

local rows = arg[1] and training.datasets.load(arg[1]) or training.datasets.from{
  {question = "Who wrote Faust?", answer = "Goethe did, dear reader."},
  {question = "Who wrote Hamlet?", answer = "Shakespeare did, dear reader."},
  {question = "Who wrote Emma?", answer = "Austen did, dear reader."},
  {question = "Who wrote Ulysses?", answer = "Joyce did, dear reader."},
}

local client <close> = training.Client{}
local session <close> = client:session{project = "sft"}
local model = session:create_model{base_model = MODEL, lora = training.LoraConfig{rank = 16}}

local function prompt_of(row)
  return "<|im_start|>user\n" .. row.question .. "<|im_end|>\n<|im_start|>assistant\n"
end

-- The token ids of texts.
local function tokenize(texts)
  local ids = {}
  for i, group in ipairs(model:sample{prompts = texts, max_tokens = 1, return_prompt_token_ids = true}) do
    ids[i] = group[1].prompt_token_ids
  end
  return ids
end

local prompts, whole = {}, {}
for i, row in ipairs(rows) do
  prompts[i] = prompt_of(row)
  whole[i] = prompts[i] .. row.answer .. "<|im_end|>"
end
local prompt_ids, whole_ids = tokenize(prompts), tokenize(whole)

-- Place i is about the prediction of token i + 1: the answer's tokens count, those of the question do not.
local data = {}
for i, ids in ipairs(whole_ids) do
  local first, length, weights = #prompt_ids[i], #ids, {}
  for k = 1, length do weights[k] = k >= first and k < length and 1 / (length - first) or 0.0 end
  data[i] = {input_ids = ids, weights = weights}
end

for epoch = 1, EPOCHS do
  local sum, batches = 0, 0
  for first = 1, #data, BATCH do
    local batch = table.move(data, first, math.min(first + BATCH - 1, #data), 1, {})
    local pass = model:train_step{data = batch, lr = LR, loss_fn = "cross_entropy"}
    sum, batches = sum + pass.metrics.loss, batches + 1
  end
  print(("epoch %d  loss %.4f"):format(epoch, sum / batches))
end

print("saved " .. model:save_weights("sft").path)
