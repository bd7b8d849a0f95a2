-- Supervised fine-tuning: a model learns to answer as the examples do.
--
--   riverlua examples/sft.lua                              on this machine, without an account
--   RIVER_API_KEY=… riverlua examples/sft.lua [file.jsonl]  on the service
--
-- Lines of the file: {"question": …, "answer": …}. On this machine a small model that guesses the order of digits
-- learns to sort them. There is no tokenizer here: the service says which ids a text has when it is asked to go on from
-- it for one token. Another service: RIVER_ENDPOINT.

local progress = require "riverlua.progress"
local training = require "training"

-- What differs between a service with large models and this machine.
local endpoint = os.getenv("RIVER_ENDPOINT") or not os.getenv("RIVER_API_KEY") and "embedded:" or nil
local place
if not (endpoint and endpoint:find("^embedded:")) then
  place = {
    client = {}, model = "Qwen/Qwen3.6-35B-A3B-FP8", epochs = 3, batch = 8, lr = 1e-4, stop = "<|im_end|>",
    rows = arg[1] and training.datasets.load(arg[1]) or training.datasets.from{
      {question = "Who wrote Faust?", answer = "Goethe did, dear reader."},
      {question = "Who wrote Hamlet?", answer = "Shakespeare did, dear reader."},
      {question = "Who wrote Emma?", answer = "Austen did, dear reader."},
      {question = "Who wrote Ulysses?", answer = "Joyce did, dear reader."},
    },
    prompt = function(row) return "<|im_start|>user\n" .. row.question .. "<|im_end|>\n<|im_start|>assistant\n" end,
    answer = function(row) return row.answer end,
  }
else
  place = {
    client = {endpoint = endpoint}, model = "embedded/guesser-134k", epochs = 2, batch = 64, lr = 4e-5, stop = "\n",
    rows = training.datasets.load(arg[1] or "embedded/digits"):slice(1, 2048),
    prompt = function(row) return row.question end,
    answer = function(row) return training.rewards.extract_gsm8k_answer(row.answer) end,
  }
end

local client <close> = training.Client(place.client)
local session <close> = client:session{project = "sft"}
local model = session:create_model{base_model = os.getenv("RIVER_MODEL") or place.model,
  lora = training.LoraConfig{rank = 16}}

local prompts, whole = {}, {}
for i, row in ipairs(place.rows) do
  prompts[i] = place.prompt(row)
  whole[i] = prompts[i] .. place.answer(row) .. place.stop
end

-- The token ids of texts.
local function tokenize(texts)
  local ids = {}
  for i, group in ipairs(model:sample{prompts = texts, max_tokens = 1, return_prompt_token_ids = true}) do
    ids[i] = group[1].prompt_token_ids
  end
  return ids
end

-- The share of the first rows that the model answers right, always taking the likeliest token.
local function accuracy()
  local right, count = 0, math.min(#prompts, 200)
  local asked = table.move(prompts, 1, count, 1, {})
  for i, group in ipairs(model:sample{prompts = asked, max_tokens = 32, temperature = 0, stop = {place.stop}}) do
    if group[1].text == place.answer(place.rows[i]) then right = right + 1 end
  end
  return right / count
end

-- Place i is about the prediction of token i + 1: the answer's tokens count, those of the question do not.
local data = {}
local prompt_ids = tokenize(prompts)
for i, ids in ipairs(tokenize(whole)) do
  local first, length, weights = #prompt_ids[i], #ids, {}
  for k = 1, length do weights[k] = k >= first and k < length and 1 / (length - first) or 0.0 end
  data[i] = {input_ids = ids, weights = weights}
end

print(("before   answers right %.3f"):format(accuracy()))
for epoch = 1, place.epochs do
  local sum, batches = 0, 0
  local bar <close> = progress.bar{total = #data, label = "epoch " .. epoch, unit = "rows"}
  for first = 1, #data, place.batch do
    local batch = table.move(data, first, math.min(first + place.batch - 1, #data), 1, {})
    local pass = model:train_step{data = batch, lr = place.lr, loss_fn = "cross_entropy"}
    sum, batches = sum + pass.metrics.loss, batches + 1
    bar:add(#batch, {loss = pass.metrics.loss})
  end
  bar:close()
  print(("epoch %d  loss %.4f  answers right %.3f"):format(epoch, sum / batches, accuracy()))
end
print("saved " .. model:save_weights("sft").path)
