--- Low-rank adapters in the files of Python's PEFT: adapter_config.json and adapter_model.safetensors.
--
-- An adapter of the module "layers.0.attn.qkv" is two matrices, "layers.0.attn.qkv.lora_A.weight" [rank, in] and
-- "….lora_B.weight" [out, rank]; in the file their names begin with "base_model.model.". The module's merged
-- weights are W + (lora_alpha / r)·B·A; riverlua's scale is lora_alpha / r.

local errors = require "riverlua.errors"
local json = require "riverlua.json"
local safetensors = require "training.embedded.safetensors"

local peft = {}

peft.CONFIG, peft.MODEL = "adapter_config.json", "adapter_model.safetensors"

local PREFIX = "base_model.model."

local encode = json.encoder{sort = true, pretty = true}
local decode = json.decoder{drop_null = true, max_bytes = 16 << 20}

local function refuse(text, ...)
  errors.raise{kind = "argument", message = "an adapter: " .. text:format(...)}
end

-- Modules with an adapter, in the order of their names.
local function modules_of(tensors)
  local parts, modules = {}, {}
  for _, tensor in ipairs(tensors) do
    local module, letter = tostring(tensor.name):match("^(.+)%.lora_([AB])%.weight$")
    if not module then refuse("'%s' is no tensor of one", tensor.name) end
    if not parts[module] then
      parts[module] = ""
      modules[#modules + 1] = module
    end
    parts[module] = parts[module] .. letter
  end
  for _, module in ipairs(modules) do
    if parts[module] ~= "AB" and parts[module] ~= "BA" then refuse("'%s' has one matrix of two", module) end
  end
  table.sort(modules)
  return modules
end

-- A number that is whole is written as an integer, as Python's users expect it.
local function plain(number) return math.tointeger(number) or number end

--- What `lora_alpha` is for these settings: `scale`·rank, or `alpha` itself.
---@param lora { rank: integer, scale: number|nil, alpha: number|nil }
---@return number
function peft.alpha(lora)
  local alpha = lora.scale and lora.scale * lora.rank or lora.alpha
  if type(alpha) ~= "number" then refuse("neither its 'scale' nor its 'alpha' is known") end
  return plain(alpha)
end

--- The two files.
---@param lora { rank: integer, scale: number|nil, alpha: number|nil }
---@param tensors { name: string, array: riverlua.Array }[]
---@param base string name of the base model
---@return table<string, string> bytes by name
function peft.files(lora, tensors, base)
  local named = {}
  for i, tensor in ipairs(tensors) do named[i] = {name = PREFIX .. tensor.name, array = tensor.array} end
  local config = {
    peft_type = "LORA", task_type = "CAUSAL_LM", base_model_name_or_path = base, r = lora.rank,
    lora_alpha = peft.alpha(lora), target_modules = json.array(modules_of(tensors)), bias = "none",
    lora_dropout = 0.0, fan_in_fan_out = false, inference_mode = true, init_lora_weights = true,
    use_rslora = false, use_dora = false,
  }
  return {[peft.CONFIG] = encode(config) .. "\n", [peft.MODEL] = safetensors.encode(named, {format = "pt"})}
end

--- Tensors and scale of an adapter's two files.
---
--- Raises kind "protocol" where they are damaged, "unsupported" for adapters of another kind.
---@param config string bytes of adapter_config.json
---@param model string bytes of adapter_model.safetensors
---@param name string|nil what errors call them
---@return { name: string, array: riverlua.Array }[] tensors
---@return { rank: integer, alpha: number, scale: number }
function peft.read(config, model, name)
  name = name or "an adapter"
  local ok, settings = pcall(decode, config)
  if not ok or type(settings) ~= "table" or math.type(settings.r) ~= "integer" or settings.r < 1
    or type(settings.lora_alpha) ~= "number" then
    errors.raise{kind = "protocol", message = ("%s: %s is damaged"):format(name, peft.CONFIG)}
  end
  if settings.peft_type ~= "LORA" or settings.use_dora or settings.use_rslora
    or (settings.bias or "none") ~= "none" then
    errors.raise{kind = "unsupported", message = name .. ": only adapters of the plain kind \"LORA\" can be read"}
  end
  local file = safetensors.decode(model, ("%s: %s"):format(name, peft.MODEL))
  local tensors = {}
  for i, full in ipairs(file.names) do
    if full:sub(1, #PREFIX) ~= PREFIX then
      errors.raise{kind = "protocol", message = ("%s: tensor '%s' is none of an adapter's"):format(name, full)}
    end
    tensors[i] = {name = full:sub(#PREFIX + 1), array = file.tensors[full]}
  end
  return tensors, {rank = settings.r, alpha = settings.lora_alpha, scale = settings.lora_alpha / settings.r}
end

return peft
