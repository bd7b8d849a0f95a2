--- What of a model is trained: low-rank adapters.

local errors = require "riverlua.errors"

local lora = {}

local KNOWN = {rank = true, train_attn = true, train_mlp = true, train_unembed = true, seed = true, alpha = true}
local LARGEST_RANK = 32

---@class training.LoraConfig
---@field rank integer 1 to 32 (default: 16)
---@field train_attn boolean attention projections (default: true)
---@field train_mlp boolean MLPs and experts (default: true)
---@field train_unembed boolean the head; not all models allow it (default: false)
---@field seed integer|nil of the adapters' first weights (default: the service's)
---@field alpha number|nil (default: the service's)
local LoraConfig = {}
LoraConfig.__index = LoraConfig
LoraConfig.__name = "training.LoraConfig"

local function flag(options, name, default)
  local value = options[name]
  if value == nil then return default end
  return errors.expect("LoraConfig", name, value, "boolean")
end

--- Settings of a low-rank adapter: `training.LoraConfig{rank = 16}`.
---@param options table|nil
---@return training.LoraConfig
function lora.LoraConfig(options)
  options = errors.expect("LoraConfig", "options", options or {}, "table")
  errors.check_options("LoraConfig", options, KNOWN)
  local rank = options.rank or 16
  if math.type(rank) ~= "integer" or rank < 1 or rank > LARGEST_RANK then
    errors.raise{kind = "argument", message = ("LoraConfig: 'rank' must be an integer from 1 to %d, got %s"):format(
      LARGEST_RANK, tostring(rank))}
  end
  return setmetatable({rank = rank, train_attn = flag(options, "train_attn", true),
    train_mlp = flag(options, "train_mlp", true), train_unembed = flag(options, "train_unembed", false),
    seed = errors.expect("LoraConfig", "seed", options.seed, "integer|nil"),
    alpha = errors.expect("LoraConfig", "alpha", options.alpha, "number|nil")}, LoraConfig)
end

--- The message; a plain table of the same fields will do as well.
---@param given table
---@return table
function lora.message(given)
  local config = getmetatable(given) == LoraConfig and given or lora.LoraConfig(given)
  return {rank = config.rank, train_attn = config.train_attn, train_mlp = config.train_mlp,
    train_unembed = config.train_unembed, seed = config.seed, alpha = config.alpha}
end

return lora
