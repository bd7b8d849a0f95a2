--- Makes base models for the embedded trainer: from a text, or from prompts and what should follow them.
--
--     local training = require "training"
--     training.embedded.pretrain{name = "haiku", text = io.open("haiku.txt"):read("a"), steps = 500}
--     local model = session:create_model{base_model = "haiku", lora = training.LoraConfig{rank = 8}}
--
-- All weights are trained, from the seed on, by AdamW (beta 0.9 and 0.99, gradients clipped at 1): the learning
-- rate rises for some steps and falls like a cosine to a tenth. One seed gives one model.

local array = require "riverlua.array"
local base_models = require "training.embedded.base_models"
local datum = require "training.datum"
local errors = require "riverlua.errors"
local progress_bar = require "riverlua.progress"
local tasks = require "training.embedded.tasks"
local terminal = require "riverlua.terminal"

local pretrain = {}

local WHERE = "pretrain"
local BETA1, BETA2, CLIP = 0.9, 0.99, 1.0
local WARMUP, LAST_RATE = 20, 0.1
local WINDOW = 128               -- bytes of a text in one example
local SHOWN_EVERY = 10           -- steps

-- ------------------------------------------------------------------------------------------------------- training

local function rate(recipe, step)
  local warmup = math.min(WARMUP, recipe.steps // 5)
  if step <= warmup then return recipe.lr * step / warmup end
  local left = (step - warmup) / math.max(1, recipe.steps - warmup)
  return recipe.lr * (LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * left)))
end

-- An example whose loss is that of the completion alone.
local function example(prompt, completion)
  local ids = array.int64{(prompt .. completion):byte(1, -1)}
  local weights = array.fill("float32", #ids)
  for i = #prompt, #ids - 1 do weights[i] = 1 end   -- position i says what follows
  return {input_ids = ids, weights = weights}, #completion
end

local function reporter(recipe)
  if type(recipe.progress) == "function" then return recipe.progress end
  local shown = recipe.progress
  if shown == nil then shown = terminal.is_terminal("stderr") end
  if not shown then return function() end end
  local bar = progress_bar.bar{total = recipe.steps, label = "making " .. recipe.label, unit = "steps"}
  return function(step, loss)
    if step % SHOWN_EVERY == 0 or step == recipe.steps then bar:update(step, {loss = loss}) end
    if step == recipe.steps then bar:close() end
  end
end

-- One batch: its loss for each byte that is to be learned.
local function take_step(model, recipe, step)
  local list, learned = {}, 0
  for i = 1, recipe.batch do
    local prompt, completion = recipe.draw()
    local columns, count = example(prompt, completion)
    list[i], learned = datum.encode(columns, ("pretrain: example %d"):format(i)), learned + count
  end
  local result = model:pass(list, {loss = "cross_entropy", config = {}, gradients = true, clear = true})
  local stepped = model:step{lr = rate(recipe, step), beta1 = BETA1, beta2 = BETA2, eps = 1e-8, weight_decay = 0,
    clip = CLIP, scale = 1 / learned}
  if not stepped.finite then
    errors.raise{kind = "model", message = ("%s: the loss of step %d is no number any more"):format(WHERE, step),
      hint = "a smaller lr"}
  end
  return result.metrics.loss_sum / learned
end

local function new_base(engine, recipe)
  local ok, base = pcall(engine.base, engine, recipe.config, nil, recipe.seed)
  if ok then return base end
  if errors.is(base, "argument") then
    errors.raise{kind = "argument", message = ("%s: config: %s"):format(WHERE, base.message), cause = base}
  end
  error(base, 0)
end

--- Internal: trains all weights of a new model on examples that `draw` gives: a prompt, which may be a single
--- byte, and what follows it.
---@param recipe { config: table, seed: integer, steps: integer, batch: integer, lr: number, label: string,
--- draw: (fun(): string, string), engine: table|nil, threads: integer|nil, progress: boolean|function|nil }
---@return { name: string, array: riverlua.Array }[] tensors
---@return number loss of the last step, for each byte
---@return integer parameters
function pretrain.train(recipe)
  local own <close> = not recipe.engine and require("riverlua.core.trainer").open{threads = recipe.threads} or nil
  local engine = recipe.engine or own
  local base = new_base(engine, recipe)
  local model = engine:model(base, nil)
  local report, loss = reporter(recipe), 0
  for step = 1, recipe.steps do
    loss = take_step(model, recipe, step)
    report(step, loss)
  end
  local tensors, parameters = model:tensors(), base:parameters()
  model:close()
  base:close()
  return tensors, loss, parameters
end

-- ------------------------------------------------------------------------------------------------------ arguments

local OPTIONS = {name = true, text = true, data = true, config = true, steps = true, batch = true, lr = true,
  seed = true, folder = true, progress = true, window = true, threads = true, engine = true}

local function refuse(text, ...) errors.raise{kind = "argument", message = WHERE .. ": " .. text:format(...)} end

local function whole(options, name, default, low, high)
  local value = errors.expect(WHERE, name, options[name], "integer|nil")
  if value == nil then return default end
  if value < low or value > high then refuse("'%s' must be from %d to %d, got %d", name, low, high, value) end
  return value
end

local function check_name(name)
  errors.expect(WHERE, "name", name, "string")
  if not base_models.parts(name) then
    refuse("'name' must be letters, digits, '.', '_' and '-', in one part or two (mine/haiku), got '%s'", name)
  end
  if name:find("^embedded/") then refuse("names that begin with embedded/ are those of the built-in models") end
end

local function config_of(given)
  errors.expect(WHERE, "config", given, "table|nil")
  errors.check_options(WHERE .. ": config", given or {}, base_models.CONFIG)
  local config = {}
  for name, default in pairs(base_models.CONFIG) do
    local value = (given or {})[name]
    local wanted = type(default)
    if wanted == "number" then wanted = math.type(default) == "integer" and "integer" or "number" end
    errors.expect(WHERE .. ": config", name, value, wanted .. "|nil")
    if value == nil then value = default end
    config[name] = value
  end
  return config
end

local function check_bytes(what, text, config)
  if config.vocabulary >= 256 then return end
  for at = 1, #text do
    if text:byte(at) >= config.vocabulary then
      refuse("%s has byte %d, and the vocabulary ends at %d", what, text:byte(at), config.vocabulary - 1)
    end
  end
end

-- Windows anywhere in the text; the first byte is the prompt.
local function windows_of(text, config, random, window)
  errors.expect(WHERE, "text", text, "string")
  if #text < 2 then refuse("'text' has %d bytes: there is nothing to learn", #text) end
  check_bytes("'text'", text, config)
  local length = math.min(window or math.min(WINDOW, config.context), #text)
  return function()
    local at = random:below(#text - length + 1)
    return text:sub(at, at), text:sub(at + 1, at + length - 1)
  end
end

local function check_example(i, row, config)
  if type(row) ~= "table" then refuse("data[%d] is %s, not {prompt =, completion =}", i, errors.got(row)) end
  for _, name in ipairs{"prompt", "completion"} do
    local value = row[name]
    if type(value) ~= "string" then refuse("data[%d].%s must be a string, got %s", i, name, errors.got(value)) end
    if value == "" then refuse("data[%d].%s is empty", i, name) end
    check_bytes(("data[%d].%s"):format(i, name), value, config)
  end
  local length = #row.prompt + #row.completion
  if length > config.context then
    refuse("data[%d] has %d bytes, and the context is %d", i, length, config.context)
  end
end

-- Every example once, in an order drawn anew each time.
local function examples_of(data, config, random)
  errors.expect(WHERE, "data", data, "table")
  local rows = {}
  for i = 1, #data do
    check_example(i, data[i], config)
    rows[i] = {data[i].prompt, data[i].completion}
  end
  if #rows == 0 then refuse("'data' is empty") end
  local at = #rows
  return function()
    if at == #rows then
      random:shuffle(rows)
      at = 0
    end
    at = at + 1
    return rows[at][1], rows[at][2]
  end
end

-- Keeps a model where it was asked for; without a place that can be written, in memory.
local function keep(name, folder, config, tensors, made)
  local root = folder or base_models.default_root()
  local path
  if folder then
    path = base_models.write(root, name, config, tensors, made)
  elseif root then
    local ok, written = pcall(base_models.write, root, name, config, tensors, made)
    path = ok and written or nil
  end
  local by_name = {}
  for _, tensor in ipairs(tensors) do by_name[tensor.name] = tensor.array end
  base_models.keep(name, path or {config = config, tensors = by_name})
  return path
end

---@class training.embedded.Pretrained
---@field loss number of the last step, for each byte
---@field steps integer
---@field parameters integer
---@field path string|nil the folder; nil: the model is in memory only

--- Makes a base model and gives its name, which `create_model{base_model = …}` and `base_models.open` take from
--- then on, in later runs too.
---
--- Options: `name`, one or two parts ("mine/haiku"); `text`, of which each example is a window, or `data`, a list
--- of {prompt =, completion =}, of which completions are learned; `config`: fields of the model's configuration
--- that differ from the built-in models' (`vocabulary` = 256, `width` = 64, `layers` = 2, `heads` = 4, `hidden` =
--- 264, `context` = 1024, `positions` = "rotary" or "learned", `tied` = false, `rotary_base`, `norm_epsilon`);
--- `steps` = 300, `batch` = 64 examples, `lr` = 3e-3, `seed` = 0; `window` = 128: bytes of an example of a text;
--- `folder` (default: RIVERLUA_BASE_MODELS, or riverlua/base-models below XDG_CACHE_HOME or ~/.cache); `progress`:
--- false, true, or a function that gets step and loss (default: a line on a terminal); `threads`.
---
--- Raises kind "argument" for options and data that cannot be, "storage" when `folder` cannot be written, "model"
--- when training goes astray.
---@param options table
---@return string name
---@return training.embedded.Pretrained
function pretrain.pretrain(options)
  errors.expect(WHERE, "options", options, "table")
  errors.check_options(WHERE, options, OPTIONS)
  check_name(options.name)
  if (options.text == nil) == (options.data == nil) then refuse("either 'text' or 'data' is wanted") end
  errors.expect(WHERE, "folder", options.folder, "string|nil")
  if options.progress ~= nil and type(options.progress) ~= "boolean" then
    errors.expect(WHERE, "progress", options.progress, "callable|nil")
  end
  local config = config_of(options.config)
  local seed = whole(options, "seed", 0, math.mininteger, math.maxinteger)
  local steps, batch = whole(options, "steps", 300, 1, 1000000), whole(options, "batch", 64, 1, 65536)
  local lr = errors.expect(WHERE, "lr", options.lr, "number|nil") or 3e-3
  if not (lr > 0 and lr <= 10) then refuse("'lr' must be above 0 and at most 10, got %s", lr) end
  local window = whole(options, "window", nil, 2, config.context)
  if window and options.data then refuse("'window' is for a text") end
  local random = tasks.random(seed)
  local draw = options.text ~= nil and windows_of(options.text, config, random, window)
    or examples_of(options.data, config, random)
  local tensors, loss, parameters = pretrain.train{config = config, seed = seed, steps = steps, batch = batch,
    lr = lr, label = options.name, draw = draw, engine = options.engine, threads = options.threads,
    progress = options.progress}
  local path = keep(options.name, options.folder, config, tensors, {steps = steps, batch = batch, lr = lr,
    seed = seed})
  return options.name, {loss = loss, steps = steps, parameters = parameters, path = path}
end

return pretrain
