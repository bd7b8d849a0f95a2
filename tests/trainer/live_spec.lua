-- The trainer against PyTorch itself, where there is one: of the Python that RIVERLUA_TORCH_PYTHON names, or that
-- `make torch` made. Models, data and losses come from a seed: a new one each day, or RIVERLUA_TORCH_SEED.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local json = require "riverlua.json"
local reference = dofile(here .. "reference.lua")

local python, missing = dofile(here .. "torch.lua").python()
local seed = math.tointeger(tonumber(os.getenv("RIVERLUA_TORCH_SEED"))) or os.time() // 86400

local function run(options)
  local pipe <close> = assert(io.popen(("'%s' '%sreference/record.py' %s"):format(python, here, options)))
  return pipe:read("a"), (pipe:close())
end

describe("PyTorch, live", function()
  if not python then
    pending(missing)
    return
  end

  it("still says what is recorded", function()
    local said, good = run("--check")
    assert.is_true(good, said)
    assert.equal("fresh\n", said)
  end)

  it("agrees about models that no one has seen before (seed " .. seed .. ")", function()
    local told = json.decode((run("--random " .. seed)))
    local engine <close> = reference.open()
    for _, model in ipairs(told.models) do
      local base = reference.base(engine, model)
      reference.distribution(base, model, model.distribution)
      for _, adapted in ipairs{false, true} do
        local live <close> = reference.model(engine, base, model, adapted)
        for _, case in ipairs(adapted and model.adapted or model.cases) do reference.case(live, model, case) end
        reference.optimize(live, model, adapted and model.adapted_adamw or model.adamw)
      end
    end
  end)
end)
