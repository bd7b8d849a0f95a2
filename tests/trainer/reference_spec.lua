-- The trainer against PyTorch: logits, every loss's gradients, metrics and log-probabilities, LoRA, AdamW. The
-- values are recorded by reference/record.py; what is called equal: reference.lua.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local json = require "riverlua.json"
local reference = dofile(here .. "reference.lua")
local safetensors = require "training.embedded.safetensors"

local file <close> = assert(io.open(here .. "reference/vectors.json"))
local recorded = json.decode(file:read("a"))

describe("PyTorch's recorded values", function()
  local engine, bases

  setup(function()
    engine, bases = reference.open(), {}
    for _, model in ipairs(recorded.models) do bases[model.name] = reference.base(engine, model) end
  end)

  teardown(function() engine:close() end)

  it("cover every built-in loss", function()
    local seen = {}
    for _, model in ipairs(recorded.models) do
      for _, case in ipairs(model.cases) do seen[case.loss] = true end
    end
    for _, loss in ipairs{"cross_entropy", "importance_sampling", "ppo", "cispo", "echo_cispo", "dro"} do
      assert.is_true(seen[loss], loss)
    end
  end)

  it("are those of a checkpoint that PyTorch wrote", function()
    local model = recorded.models[1]
    local weights = safetensors.read(here .. "reference/checkpoint.safetensors").tensors
    reference.distribution(engine:base(model.config, weights), model, model.distribution)
  end)

  for _, model in ipairs(recorded.models) do
    describe(model.name, function()
      it("has the log-probabilities of the whole vocabulary", function()
        reference.distribution(bases[model.name], model, model.distribution)
        local adapted <close> = reference.model(engine, bases[model.name], model, true)
        reference.distribution(adapted, model, model.adapted_distribution)
      end)

      it("has the gradients of full weights for every loss", function()
        local live <close> = reference.model(engine, bases[model.name], model, false)
        for _, case in ipairs(model.cases) do assert.is_true(reference.case(live, model, case) > 0) end
      end)

      it("has the gradients of custom losses", function()
        local live <close> = reference.model(engine, bases[model.name], model, false)
        for _, case in ipairs(model.graphs) do assert.is_true(reference.graph(live, model, case) > 0) end
      end)

      it("has the gradients of adapters", function()
        local live <close> = reference.model(engine, bases[model.name], model, true)
        for _, case in ipairs(model.adapted) do assert.is_true(reference.case(live, model, case) > 0) end
      end)

      if model.adamw then
        it("is where AdamW with decay and clipping brings it in 100 steps", function()
          assert.equal(100, #model.adamw.steps)
          local full <close> = reference.model(engine, bases[model.name], model, false)
          reference.optimize(full, model, model.adamw)
          local adapted <close> = reference.model(engine, bases[model.name], model, true)
          reference.optimize(adapted, model, model.adapted_adamw)
        end)
      end
    end)
  end
end)
