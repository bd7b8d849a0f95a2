--- The River training API: fine-tuning and reinforcement learning of language models from a script.
--
--     local training = require "training"
--     local client <close> = training.Client{}                     -- the key: RIVER_API_KEY
--     local session <close> = client:session{run = "first"}
--     local model = session:create_model{base_model = "nvidia/Kimi-K2.6-NVFP4", lora = training.LoraConfig{rank = 16}}
--     local groups = model:sample{prompts = {"What is 7 + 5?"}, num_samples = 4, return_prompt_token_ids = true}
--     model:forward_backward{data = data, loss_fn = "importance_sampling"}
--     model:optim_step{lr = 4e-5}
--     model:save_weights("final")

local errors = require "riverlua.errors"
local lazy = require "riverlua.lazy"

local training = {}

--- Makes a client, see `training.client`.
---@param options table|nil
---@return training.Client
function training.Client(options)
  if options == training then
    errors.raise{kind = "argument", message = "training.Client: call it with a dot: training.Client{…}"}
  end
  return require("training.client").new(options)
end

-- Name → module that it is, or module and name of a function in it; loaded when asked for.
local MODULES = {nest = "training.nest", datasets = "training.datasets", rewards = "training.rewards",
  pricing = "training.pricing", progress = "training.progress", loss_graph = "training.loss_graph",
  embedded = "training.embedded"}
local FUNCTIONS = {
  LoraConfig = {"training.lora", "LoraConfig"}, BuiltinLoss = {"training.losses", "BuiltinLoss"},
  Run = {"training.run", "Run"}, resumable = {"training.resumable", "resumable"},
  grpo_data = {"training.datum", "grpo_data"},
}

return lazy.module("training", training, MODULES, FUNCTIONS)
