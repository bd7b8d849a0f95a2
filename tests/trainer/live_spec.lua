-- The trainer against PyTorch itself, where there is one: of the Python that RIVERLUA_TORCH_PYTHON names, or that
-- `make torch` made. Models, data and losses come from a seed: a new one each day, or RIVERLUA_TORCH_SEED.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local json = require "riverlua.json"
local reference = dofile(here .. "reference.lua")
local safetensors = require "training.embedded.safetensors"
local store = require "training.embedded.store"

local python, missing = dofile(here .. "torch.lua").python()
local seed = math.tointeger(tonumber(os.getenv("RIVERLUA_TORCH_SEED"))) or os.time() // 86400

local function run(script, ...)
  local words = {python, here .. "reference/" .. script, ...}
  local pipe <close> = assert(io.popen("'" .. table.concat(words, "' '") .. "'"))
  return pipe:read("a"), (pipe:close())
end

describe("PyTorch, live", function()
  if not python then
    pending(missing)
    return
  end

  it("still says what is recorded", function()
    local said, good = run("record.py", "--check")
    assert.is_true(good, said)
    assert.equal("fresh\n", said)
  end)

  it("agrees about models that no one has seen before (seed " .. seed .. ")", function()
    local told = json.decode((run("record.py", "--random", seed)))
    local engine <close> = reference.open()
    for _, model in ipairs(told.models) do
      local base = reference.base(engine, model)
      reference.distribution(base, model, model.distribution)
      for _, adapted in ipairs{false, true} do
        local live <close> = reference.model(engine, base, model, adapted)
        for _, case in ipairs(adapted and model.adapted or model.cases) do reference.case(live, model, case) end
        for _, case in ipairs(adapted and {} or model.graphs) do reference.graph(live, model, case) end
        reference.optimize(live, model, adapted and model.adapted_adamw or model.adamw)
      end
    end
  end)

  it("computes from the files of a checkpoint what the trainer computes", function()
    local folder = os.tmpname()
    os.remove(folder)
    local engine <close> = reference.open()
    local kept <close> = store.new{path = folder}
    for number, positions in ipairs{"rotary", "learned"} do
      local config = {vocabulary = 40, width = 24, layers = 2, heads = 3, hidden = 50, context = 30,
        positions = positions, tied = number == 2, rotary_base = 10000, norm_epsilon = 1e-5}
      local base = reference.base(engine, {config = config, seed = 10 + number})
      local whole, file = folder .. ".base", {config = config, name = positions}
      safetensors.write(whole, base:tensors())
      local ids = {}
      for i = 1, config.context do ids[i] = (i * 7 + number) % config.vocabulary end
      for _, lora in ipairs{false, {rank = 4, scale = 2, attn = true, mlp = number == 1, unembed = true}} do
        local model <close> = reference.model(engine, base, {adapters = lora, seed = number}, lora ~= false)
        local name = ("%s-%s"):format(positions, lora and "adapter" or "whole")
        kept:save(("river://run/weights/%s"):format(name), {kind = "inference", base = "base", config = config,
          lora = lora or nil, tensors = model:tensors()})
        local said = run("checkpoint.py", ("%s/run/%s"):format(folder, name), whole, json.encode(ids))
        reference.distribution(model, file, json.decode(said))
        -- and what was merged is what PEFT's formula makes of it
        reference.distribution(engine:base({vocabulary = 40, width = 24, layers = 2, heads = 3, hidden = 50,
          context = 30, positions = positions, tied = number == 2 and not lora},
            reference.by_name(model:merged())),
          file, json.decode(said))
      end
      os.remove(whole)
    end
    os.execute(("rm -r '%s'"):format(folder))
  end)
end)
