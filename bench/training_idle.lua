-- A session that has sampled and made one pass, and waits: training_idle.lua PORT. Says "idle" and ends with its input.
local training = require "training"
local client <close> = training.Client{api_key = "bench", endpoint = "http://127.0.0.1", port = tonumber(arg[1]),
  http = {proxy = false}}
local session <close> = client:session{}
local model = session:create_model{base_model = "standin/bytes", lora = training.LoraConfig{rank = 8}}
local sample = model:sample{prompts = {"What is 7 + 5?"}, return_prompt_token_ids = true}[1][1]
model:forward_backward{data = {training.grpo_data(sample.prompt_token_ids, sample, 0.5)},
  loss_fn = "importance_sampling"}
print("idle")
io.stdout:flush()
io.read("a")
