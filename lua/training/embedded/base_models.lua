--- The embedded trainer's base models: where they are, and how the built-in ones are made.
--
--     local base = require("training.embedded.base_models").open("embedded/rambler-134k")
--     print(base.config.width, base.tensors["head.weight"])
--
-- A base model is a folder with config.json and model.safetensors, <place>/<name>. The places, in this order: the
-- option `folder`; RIVERLUA_BASE_MODELS; base-models beside the program; share/riverlua/base-models where it was
-- installed; riverlua/base-models below XDG_CACHE_HOME or ~/.cache. What is built in and found nowhere is made in
-- the last of them, which takes some seconds once; where that cannot be written, in memory.
--
-- The built-in ones know the task "embedded/digits" (see tasks), each in its way; both have 133,760 parameters and
-- read bytes:
--
--     embedded/rambler-134k     knows the answer, but thinks aloud before it says so three times out of four
--     embedded/guesser-134k     knows that the digits come again, but mostly guesses their order
--
-- Their folders have the recipe's version behind their names, so that another recipe makes another model.

local clock = require "riverlua.clock"
local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local folder = require "riverlua.core.folder"
local json = require "riverlua.json"
local safetensors = require "training.embedded.safetensors"
local store_folder = require "training.embedded.store_folder"

local base_models = {}

local CONFIG, MODEL = "config.json", "model.safetensors"
local MODEL_TYPE = "riverlua-decoder"
local LARGEST_CONFIG = 1 << 20
local LOCAL = "local"                 -- where models lie whose names have one part
local PATIENCE, PAUSE = 600, 0.05     -- seconds: while another process makes the same model

local encode = json.encoder{sort = true, pretty = true}
local decode = json.decoder{drop_null = true, max_bytes = LARGEST_CONFIG}

--- The configuration of the built-in models.
base_models.CONFIG = {vocabulary = 256, width = 64, layers = 2, heads = 4, hidden = 264, context = 1024,
  positions = "rotary", tied = false, rotary_base = 10000.0, norm_epsilon = 1e-5}

---@class training.embedded.Recipe
---@field version integer
---@field seed integer
---@field example string name of a function in tasks
---@field steps integer
---@field batch integer
---@field lr number

---@type table<string, training.embedded.Recipe>
local RECIPES = {
  ["embedded/rambler-134k"] = {version = 1, seed = 1, example = "rambling", steps = 500, batch = 32, lr = 5e-3},
  ["embedded/guesser-134k"] = {version = 1, seed = 1, example = "guessing", steps = 300, batch = 64, lr = 3e-3},
}

-- Made in this process, by name: the folder, or the model itself where it is kept nowhere else.
local kept = {}

---@class training.embedded.BaseModel
---@field name string
---@field config table
---@field tensors table<string, riverlua.Array>
---@field path string|nil its folder

-- ---------------------------------------------------------------------------------------------------------- names

--- The two parts of a base model's name, in the form of folders; nil when it is none.
---@param name any
---@return string|nil owner
---@return string model
function base_models.parts(name)
  if type(name) ~= "string" or #name > 100 or name:find("..", 1, true) then return nil, "" end
  local owner, model = name:match("^(%w[%w._-]*)/(%w[%w._-]*)$")
  if not owner then owner, model = LOCAL, name:match("^%w[%w._-]*$") end
  if not model then return nil, "" end
  local recipe = RECIPES[name]
  return owner, recipe and ("%s.%d"):format(model, recipe.version) or model
end

--- Names of the models that are built in.
---@return string[]
function base_models.built_in()
  local names = {}
  for name in pairs(RECIPES) do names[#names + 1] = name end
  table.sort(names)
  return names
end

-- --------------------------------------------------------------------------------------------------------- places

local function cache_root()
  local root = os.getenv("XDG_CACHE_HOME")
  if not root or root:sub(1, 1) ~= "/" then
    local home = os.getenv("HOME")
    if not home or home == "" then return nil end
    root = home .. "/.cache"
  end
  return root .. "/riverlua/base-models"
end

local function environment_root()
  local root = os.getenv("RIVERLUA_BASE_MODELS")
  return root ~= "" and root or nil
end

local function roots(options)
  local list = {options.folder, environment_root()}
  local all = {}
  for i = 1, 2 do all[#all + 1] = list[i] end
  local home = (folder.executable() or ""):match("^(.*)/[^/]*$")
  if home then
    all[#all + 1] = home .. "/base-models"
    all[#all + 1] = home:gsub("/[^/]*$", "") .. "/share/riverlua/base-models"
  end
  all[#all + 1] = cache_root()
  return all
end

--- Where new models are kept unless a folder is named: RIVERLUA_BASE_MODELS, or the cache; nil when there is no
--- home.
---@return string|nil
function base_models.default_root() return environment_root() or cache_root() end

-- -------------------------------------------------------------------------------------------------------- reading

local function damaged(path, text, cause)
  errors.raise{kind = "storage", message = ("the base model '%s' is damaged: %s"):format(path, text),
    place = path, problem = text, cause = cause, hint = "remove the folder, or make the model anew"}
end

local function read_file(path)
  local file <close>, problem, code = io.open(path, "rb")
  if not file and code == 2 then return nil end
  local bytes
  if file then bytes, problem = file:read("a") end
  if not bytes then
    errors.raise{kind = "storage", message = ("a base model cannot be read: %s"):format(problem)}
  end
  return bytes
end

local function read_config(path, text)
  local ok, config = pcall(decode, text)
  if not ok or type(config) ~= "table" or type(config.weights) ~= "table" then
    damaged(path, ("%s is not as it was written"):format(CONFIG), not ok and config or nil)
  end
  local own = {}
  for name, value in pairs(base_models.CONFIG) do
    if type(config[name]) ~= type(value) then damaged(path, ("%s has no '%s'"):format(CONFIG, name)) end
    own[name] = config[name]
  end
  return own, config
end

local function read(path, name)
  local text = read_file(path .. "/" .. CONFIG)
  if not text then return nil end
  local config, whole = read_config(path, text)
  local bytes = read_file(path .. "/" .. MODEL)
  if not bytes then damaged(path, ("there is no %s"):format(MODEL)) end
  if digest.hex(digest.sha256(bytes)) ~= whole.weights.sha256 then
    damaged(path, ("%s is not as it was written"):format(MODEL))
  end
  local ok, file = pcall(safetensors.decode, bytes, MODEL)
  if not ok then damaged(path, errors.is(file) and file.message or tostring(file), file) end
  return {name = name, config = config, tensors = file.tensors, path = path}
end

-- A model may be replaced between the reading of its two files.
local function read_again(path, name)
  local ok, model = pcall(read, path, name)
  if ok then return model end
  return read(path, name)
end

local function place(root, name)
  local owner, model = base_models.parts(name)
  return ("%s/%s/%s"):format(root, owner, model)
end

-- A copy whose table of tensors is the caller's own.
local function copy_of(model)
  local config, tensors = {}, {}
  for name, value in pairs(model.config) do config[name] = value end
  for name, value in pairs(model.tensors) do tensors[name] = value end
  return {name = model.name, config = config, tensors = tensors}
end

local function find(name, options)
  local known, cache = kept[name], cache_root()
  if type(known) == "table" then return copy_of(known) end
  if known then return read_again(known, name) end
  for _, root in ipairs(roots(options)) do
    local path = place(root, name)
    local ok, model = pcall(read_again, path, name)
    if ok and model then return model end
    -- what is built in and damaged in the cache is simply made anew
    if not ok and not (root == cache and RECIPES[name]) then error(model, 0) end
  end
end

-- --------------------------------------------------------------------------------------------------------- making

--- Writes a model into a place; an old one of the name is replaced as a whole.
---@param root string
---@param name string
---@param config table
---@param tensors { name: string, array: riverlua.Array }[]
---@param made table|nil how it was made, for readers of config.json
---@return string path
---Raises kind "storage" when it cannot be written.
function base_models.write(root, name, config, tensors, made)
  local bytes = safetensors.encode(tensors, {format = "pt"})
  local whole = {model_type = MODEL_TYPE, name = name, made = made,
    weights = {bytes = #bytes, sha256 = digest.hex(digest.sha256(bytes))}}
  for field, default in pairs(base_models.CONFIG) do
    whole[field] = config[field]
    if whole[field] == nil then whole[field] = default end
  end
  local owner, model = base_models.parts(name)
  store_folder.open(root):put(owner, model, {[CONFIG] = encode(whole) .. "\n", [MODEL] = bytes})
  return ("%s/%s/%s"):format(root, owner, model)
end

--- Keeps a model for this process alone: its tensors, or the path of its folder.
---@param name string
---@param model { config: table, tensors: table<string, riverlua.Array> }|string
function base_models.keep(name, model)
  if type(model) == "table" then model = {name = name, config = model.config, tensors = model.tensors} end
  kept[name] = model
end

-- One at a time, also among processes; gives what must be closed afterwards.
local function lock(root, name)
  if not root or not folder.make(root) then return nil end
  local path = ("%s/.making-%s"):format(root, name:gsub("[^%w.-]", "-"))
  local due = clock.now() + PATIENCE
  local held, problem = folder.lock(path)
  while not held and problem == "locked" and clock.now() < due do
    clock.pause(PAUSE, false)
    held, problem = folder.lock(path)
  end
  return held
end

local function train(name, options)
  local recipe = RECIPES[name]
  local pretrain, tasks = require "training.embedded.pretrain", require "training.embedded.tasks"
  local random = tasks.random(recipe.seed)
  return pretrain.train{config = base_models.CONFIG, seed = recipe.seed, steps = recipe.steps,
    batch = recipe.batch, lr = recipe.lr, engine = options.engine, threads = options.threads, label = name,
    progress = options.progress,
    draw = function() return tasks[recipe.example](random) end}
end

local function write_built_in(root, name, tensors)
  local recipe = RECIPES[name]
  return base_models.write(root, name, base_models.CONFIG, tensors, {recipe = recipe.version,
    task = recipe.example, seed = recipe.seed, steps = recipe.steps, batch = recipe.batch, lr = recipe.lr})
end

--- Makes a built-in model in a folder, whether or not it is there.
---@param name string
---@param options { folder: string, engine: table|nil, threads: integer|nil, progress: boolean|function|nil }
---@return string path
---Raises kind "storage" when it cannot be written.
function base_models.make(name, options)
  if not RECIPES[name] then
    errors.raise{kind = "argument", message = ("'%s' is no model that is built in"):format(tostring(name))}
  end
  return write_built_in(options.folder, name, train(name, options))
end

local function make_in_cache(name, options)
  local root = cache_root()
  local _ <close> = lock(root, name)
  local found = find(name, options)   -- another process, or task, may have made it meanwhile
  if found then return found end
  local tensors = train(name, options)
  if root then
    local ok, path = pcall(write_built_in, root, name, tensors)
    if ok then return read_again(path, name) end
  end
  local by_name = {}
  for _, tensor in ipairs(tensors) do by_name[tensor.name] = tensor.array end
  base_models.keep(name, {config = base_models.CONFIG, tensors = by_name})
  return copy_of(kept[name])
end

-- ---------------------------------------------------------------------------------------------------------- using

local OPTIONS = {folder = true, engine = true, threads = true, progress = true}

local function check_options(where, options)
  options = errors.expect(where, "options", options or {}, "table")
  errors.check_options(where, options, OPTIONS)
  errors.expect(where, "folder", options.folder, "string|nil")
  return options
end

--- Opens a base model, which is made first when it is built in and found nowhere.
---
--- Options: `folder`, where it is looked for first; `engine` or `threads`, should it have to be made; `progress` =
--- false for no line about that (on a terminal there is one).
---@param name string
---@param options table|nil
---@return training.embedded.BaseModel
---Raises kind "not_found" when there is none of the name, "storage" when it is damaged.
function base_models.open(name, options)
  options = check_options("base_models.open", options)
  local model = base_models.parts(name) and find(name, options)
  if model then return model end
  if RECIPES[name] then return make_in_cache(name, options) end
  local names = base_models.list(options)
  local near = errors.suggest(tostring(name), names)
  errors.raise{kind = "not_found", message = ("there is no base model '%s'"):format(tostring(name)),
    hint = near and ("did you mean '%s'?"):format(near) or ("there are: %s"):format(table.concat(names, ", "))}
end

-- Adds the names of the models in a place.
local function add_names(root, seen)
  for _, owner in ipairs(folder.list(root) or {}) do
    for _, model in ipairs(owner:sub(1, 1) ~= "." and folder.list(root .. "/" .. owner) or {}) do
      local name = owner == LOCAL and model or owner .. "/" .. model
      local file = owner ~= "embedded" and base_models.parts(name)
        and io.open(("%s/%s/%s/%s"):format(root, owner, model, CONFIG), "rb")
      if file then
        file:close()
        seen[name] = true
      end
    end
  end
end

--- Names of all base models: the built-in ones, and those in the places where `open` looks.
---@param options { folder: string|nil }|nil
---@return string[] # sorted
function base_models.list(options)
  options = check_options("base_models.list", options)
  local seen, names = {}, base_models.built_in()
  for _, root in ipairs(roots(options)) do add_names(root, seen) end
  for name in pairs(kept) do seen[name] = true end
  for _, name in ipairs(names) do seen[name] = nil end
  for name in pairs(seen) do names[#names + 1] = name end
  table.sort(names)
  return names
end

return base_models
