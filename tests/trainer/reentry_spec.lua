--- riverlua.core.trainer: what its arguments' metamethods and finalizers do while it reads them.

local core = require "riverlua.core.trainer"
local datum = require "training.datum"
local errors = require "riverlua.errors"

local RIVERLUA = os.getenv("RIVERLUA") or "build/riverlua"
local CONFIG = {vocabulary = 256, width = 32, layers = 2, heads = 2, hidden = 48, context = 64,
  positions = "rotary"}
local LORA = {rank = 4, scale = 10, attn = true, mlp = true, unembed = true, seed = 3}
local DATUM = {input_ids = {1, 2, 3}, old_logprobs = {-5.0, -5.0, 0.0}, advantages = {1.0, 1.0, 0.0}}

local function failure(fn, ...)
  local ok, err = pcall(fn, ...)
  assert(not ok, "no error was raised")
  return err
end

-- A table in which what is missing is asked for by calling `ask`.
local function asking(fields, ask)
  return setmetatable(fields, {__index = function(_, name) return ask(name) end})
end

describe("the trainer's arguments", function()
  local engine, data
  before_each(function()
    engine = core.open{threads = 1}
    data = datum.encode_all{DATUM}
  end)
  after_each(function() engine:close() end)

  it("may close the engine", function()
    local model = engine:model(engine:base(CONFIG, nil, 1), LORA)
    local request = asking({ids = {1, 2}}, function() engine:close() end)
    assert.truthy(errors.is(failure(model.sample, model, {request}), "closed"))
  end)

  it("may close the model", function()
    local base = engine:base(CONFIG, nil, 1)
    local model = engine:model(base, LORA)
    assert.truthy(errors.is(failure(model.step, model, asking({lr = 1e-3}, function() model:close() end)),
      "closed"))
    assert.truthy(errors.is(failure(model.step, model, {lr = 1e-3}), "closed"))
    local lora = asking({rank = 4, attn = true, scale = 1}, function() base:close() end)
    assert.truthy(errors.is(failure(engine.model, engine, base, lora), "closed"))
  end)

  it("may change the datums of a custom loss", function()
    local model = engine:model(engine:base(CONFIG, nil, 1))
    local graph = core.graph{columns = {}, metrics = {}, loss = 0, text = "{}",
      nodes = {{op = "add", args = {{constant = 1}, {constant = 2}}}}}
    local options = asking({loss = "loss_graph_v1"}, function(name)
      if name ~= "graph" then return nil end
      data[1] = ("x"):rep(1 << 20)
      return graph
    end)
    assert.truthy(errors.is(failure(model.pass, model, data, options), "refused"))
  end)

  it("may change the settings of a loss", function()
    local model = engine:model(engine:base(CONFIG, nil, 1))
    local config = {["no such setting"] = 1}
    local options = asking({config = config}, function(name)
      if name ~= "loss" then return nil end
      for setting in pairs(config) do config[setting] = nil end
      collectgarbage()
      return "ppo"
    end)
    assert.equal(1, model:pass(data, options).datums)
  end)

  it("may be closed by a finalizer while it is read", function()
    local wanted = engine:base(CONFIG, nil, 1):tensors()
    local function tensors()
      local base = engine:base(CONFIG, nil, 1)
      setmetatable({}, {__gc = function() base:close() end})
      return base:tensors()
    end
    collectgarbage("generational")   -- often, so that some finalizers run in the middle
    for _ = 1, 500 do
      local ok, found = pcall(tensors)
      if not ok then assert.truthy(errors.is(found, "closed")) end
      for i, tensor in ipairs(ok and found or {}) do
        assert.is_true(wanted[i].array:bytes() == tensor.array:bytes())
      end
    end
    collectgarbage("incremental")
  end)

  it("makes nothing while the runtime is being closed: nobody would free it", function()
    local script = os.tmpname()
    local file <close> = assert(io.open(script, "w"))
    file:write([[
      local core = require "riverlua.core.trainer"
      local config = {vocabulary = 4, width = 4, layers = 1, heads = 1, hidden = 4, context = 4,
        positions = "learned"}
      local engine = core.open{threads = 1}
      local base = engine:base(config)
      local tries = {function() return engine:base(config) end, function() return engine:model(base) end,
        function() return core.graph{columns = {}, metrics = {}, loss = 0, text = "",
          nodes = {{op = "neg", args = {{constant = 1}}}}} end}
      setmetatable(tries, {__gc = function()
        for _, try in ipairs(tries) do print(pcall(try)) end
      end})]])
    file:close()
    local pipe <close> = assert(io.popen(("%s %s"):format(RIVERLUA, script)))
    local said = pipe:read("a")
    os.remove(script)
    assert.equal(("false\tclosed: the runtime is being closed\n"):rep(3), said)
  end)
end)
