--- What the specs of the embedded trainer's faults share: a small base model in a folder of its own, clients on
--- it, and scripts that run in processes of their own. Specs load this file with dofile.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"

local core = require "riverlua.core.trainer"
local folder = require "riverlua.core.folder"
local training = require "training"

local faults = {files = dofile(here .. "files.lua")}

faults.servers = faults.files.servers
faults.BASE = "mine/tiny"
faults.CONTEXT, faults.VOCABULARY = 32, 200

local CONFIG = {vocabulary = faults.VOCABULARY, width = 16, layers = 1, heads = 2, hidden = 32,
  context = faults.CONTEXT, positions = "rotary", tied = false, rotary_base = 10000.0, norm_epsilon = 1e-5}

--- A new folder with the base model in `<folder>/bases`; `files.remove` takes it away.
---@return string
function faults.new_root()
  local root = faults.files.new_folder()
  assert(folder.make(root))
  local engine <close> = core.open{threads = 1}
  require("training.embedded.base_models").write(root .. "/bases", faults.BASE, CONFIG,
    engine:base(CONFIG, nil, 3):tensors())
  return root
end

--- A client. `path`: of checkpoints, nil: in memory.
function faults.client(root, path, more)
  local own = {base_models = root .. "/bases", threads = 2}
  for name, value in pairs(more or {}) do own[name] = value end
  return training.Client{endpoint = "embedded:" .. (path or ""), embedded = own}
end

--- A model. `more`: other options of create_model.
function faults.model(session, more)
  local options = {base_model = faults.BASE, lora = training.LoraConfig{rank = 4}}
  for name, value in pairs(more or {}) do options[name] = value end
  if options.full_weight then options.lora = nil end
  return session:create_model(options)
end

--- A datum for any of the built-in losses. `more`: other columns; false: none.
function faults.datum(more)
  local datum = {input_ids = {1, 2, 3}, weights = {1.0, 1.0, 0.0}, old_logprobs = {-5.0, -5.0, 0.0},
    advantages = {0.5, -0.5, 0.0}}
  for name, value in pairs(more or {}) do datum[name] = value or nil end
  return datum
end

--- One step of training, the same for the same weights: the gradient's norm.
function faults.step(model)
  model:forward_backward{data = {faults.datum(), faults.datum{input_ids = {7, 8, 9}}}, loss_fn = "cross_entropy"}
  return model:optim_step{lr = 1e-3}.metrics.grad_norm
end

-- What a script begins with: the same functions; `arg[1]` is the root.
local PRELUDE = ([[
  local faults = dofile(%q)
  local training, array, task = require "training", require "riverlua.array", require "riverlua.task"
  local root = arg[1]
  local function signal_me(name)
    -- not os.execute, which lets no SIGINT through
    io.popen(("kill -%%s %%d"):format(name, io.open("/proc/self/stat"):read("n"))):close()
  end
]]):format(here .. "faults.lua")

--- Runs a script of this command in a process of its own; see servers.run. The first argument is the root.
---@param root string
---@param source string
---@param args any[]|nil those that follow
---@param options table|nil for servers.run
---@return table result code, out, err
function faults.run(root, source, args, options)
  local all = {}
  for name, value in pairs(options or {}) do all[name] = value end
  all.args = {root, table.unpack(args or {})}
  return faults.servers.run(PRELUDE .. source, all)
end

return faults
