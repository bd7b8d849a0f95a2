--- riverlua.core.trainer: jobs on the engine's thread, as the embedded service gives them.

local array = require "riverlua.array"
local core = require "riverlua.core.trainer"
local datum = require "training.datum"
local errors = require "riverlua.errors"
local task = require "riverlua.task"

local CONFIG = {vocabulary = 256, width = 32, layers = 2, heads = 2, hidden = 48, context = 64,
  positions = "rotary"}
local LORA = {rank = 4, scale = 10, attn = true, mlp = true, unembed = true, seed = 3}

local function datums(count, length)
  local list = {}
  for i = 1, count do
    local ids, old, advantages = {}, {}, {}
    for t = 1, length do
      ids[t] = (i * 7 + t * t * 5) % 256
      old[t] = t > 2 and t < length and -5.0 or 0.0
      advantages[t] = t > 2 and t < length and (i % 3) - 0.5 or 0.0
    end
    list[i] = {input_ids = ids, old_logprobs = old, advantages = advantages}
  end
  return datum.encode_all(list)
end

local LOSS = {loss = "importance_sampling", config = {}, gradients = true, clear = true}

local function by_name(tensors)
  local map = {}
  for _, tensor in ipairs(tensors) do map[tensor.name] = tensor.array end
  return map
end

local function failure(fn, ...)
  local ok, err = pcall(fn, ...)
  assert(not ok, "no error was raised")
  return err
end

-- Bytes of what a model trains, after some work.
local function work(threads)
  local engine <close> = core.open{threads = threads}
  local model = engine:model(engine:base(CONFIG, nil, 7), LORA)
  local data, seen = datums(90, 30), {}
  for _ = 1, 3 do
    local result = model:pass(data, LOSS)
    seen[#seen + 1] = ("%.17g"):format(result.metrics.loss_sum)
    seen[#seen + 1] = ("%.17g"):format(model:step{lr = 1e-3, clip = 1.0}.grad_norm)
  end
  local requests = {}
  for i = 1, 70 do requests[i] = {ids = {65 + i % 5, 66}, max_tokens = 12, seed = i} end
  for _, sample in ipairs(model:sample(requests)) do
    seen[#seen + 1] = sample.text .. sample.logprobs:bytes()
  end
  for _, tensor in ipairs(model:tensors()) do seen[#seen + 1] = tensor.array:bytes() end
  return table.concat(seen, "\0")
end

describe("the trainer's engine", function()
  local engine
  setup(function() engine = core.open{threads = 2} end)
  teardown(function() engine:close() end)

  it("gives the same numbers, bit for bit, whatever the number of threads", function()
    local one = work(1)
    assert.equal(one, work(2))
    assert.equal(one, work(3))
  end)

  it("says what it computes with", function()
    local info = engine:info()
    assert.equal(2, info.threads)
    assert.truthy(info.blas:find("^OpenBLAS %d"))
    assert.truthy(#info.core > 0 and #info.kernels > 0)
  end)

  it("lets other tasks go on", function()
    local model = engine:model(engine:base(CONFIG, nil, 1))
    local data, turns, done = datums(400, 60), 0, false
    local counter = task.spawn(function()
      while not done do
        turns = turns + 1
        task.sleep(0)
      end
    end)
    model:pass(data, LOSS)
    done = true
    counter:await()
    assert.truthy(turns > 1, turns)
  end)

  it("does what it is told in that order, whoever waits", function()
    local model = engine:model(engine:base(CONFIG, nil, 1), LORA)
    local data, order = datums(20, 20), {}
    local tasks = {}
    for i = 1, 4 do
      tasks[i] = task.spawn(function()
        if i % 2 == 1 then model:pass(data, LOSS) else model:step{lr = 1e-3} end
        order[#order + 1] = i
      end)
    end
    for _, one in ipairs(tasks) do one:await() end
    assert.same({1, 2, 3, 4}, order)
    assert.equal(2, model:optimizer().step)
  end)

  it("gives a pass up whose task is cancelled, and goes on", function()
    local model = engine:model(engine:base(CONFIG, nil, 1))
    local waiting = task.spawn(function() model:pass(datums(2000, 60), LOSS) end)
    task.sleep(0)
    waiting:cancel()
    assert.truthy(errors.is(failure(waiting.await, waiting), "cancelled"))
    assert.equal(1, model:pass(datums(1, 10), LOSS).datums)
  end)

  it("ends what waits when it is closed", function()
    local own = core.open{threads = 1}
    local model = own:model(own:base(CONFIG, nil, 1))
    local waiting = {}
    for i = 1, 3 do waiting[i] = task.spawn(function() model:pass(datums(1000, 60), LOSS) end) end
    task.sleep(0)
    own:close()
    for _, one in ipairs(waiting) do assert.truthy(errors.is(failure(one.await, one), "closed")) end
    assert.truthy(errors.is(failure(model.pass, model, datums(1, 10), LOSS), "closed"))
    assert.truthy(errors.is(failure(own.base, own, CONFIG), "closed"))
    own:close()
  end)

  it("can be dropped at work", function()
    local model
    do
      local own = core.open{threads = 2}
      model = own:model(own:base(CONFIG, nil, 1))
    end
    local waiting = task.spawn(function() model:pass(datums(1000, 60), LOSS) end)
    task.sleep(0)
    waiting:cancel()
    pcall(waiting.await, waiting)
    model, waiting = nil, nil   -- luacheck: ignore 311
    collectgarbage()
    collectgarbage()
  end)

  it("gives tensors out and takes them back", function()
    local base = engine:base(CONFIG, nil, 5)
    local model = engine:model(base, LORA)
    model:pass(datums(5, 20), LOSS)
    model:step{lr = 1e-2}
    local tensors = by_name(model:tensors())
    assert.equal(2 * (2 * 4 + 1), #model:tensors())
    assert.same({4, 32}, {#tensors["layers.0.attn.qkv.lora_A.weight"],
      #tensors["layers.0.attn.qkv.lora_A.weight"][1]})
    assert.same({96, 4}, {#tensors["layers.1.attn.qkv.lora_B.weight"],
      #tensors["layers.1.attn.qkv.lora_B.weight"][1]})
    assert.equal(base:parameters(), engine:base(CONFIG, by_name(base:tensors())):parameters())

    local other = engine:model(base, LORA)
    other:set_tensors(tensors)
    local optimizer = model:optimizer()
    other:set_optimizer{step = optimizer.step, tensors = by_name(optimizer.tensors)}
    for _, one in ipairs{model, other} do
      one:pass(datums(5, 20), LOSS)
      one:step{lr = 1e-2}
    end
    for name, value in pairs(by_name(model:tensors())) do
      assert.equal(value:bytes(), by_name(other:tensors())[name]:bytes(), name)
    end
    other:set_optimizer(nil)
    assert.equal(0, other:optimizer().step)
    -- a model made of merged weights says the same
    local merged = engine:base(CONFIG, by_name(model:merged()))
    local request = {{ids = {65, 66, 67}, max_tokens = 8, seed = 9}}
    assert.equal(model:sample(request)[1].text, merged:sample(request)[1].text)
  end)

  it("refuses tensors that do not fit, by name", function()
    local base = engine:base(CONFIG, nil, 5)
    local tensors = by_name(base:tensors())
    tensors["layers.1.mlp.up.weight"] = array.fill("float32", 7, 0)
    local err = failure(engine.base, engine, CONFIG, tensors)
    assert.equal("the tensor 'layers.1.mlp.up.weight' is not a matrix of 48 × 32", err.message)
    tensors["layers.1.mlp.up.weight"] = by_name(base:tensors())["layers.1.mlp.up.weight"]
    tensors["layers.1.mlp.up.weight"][3][7] = 0 / 0
    err = failure(engine.base, engine, CONFIG, tensors)
    assert.equal("the tensor 'layers.1.mlp.up.weight' has one that is not finite among its values", err.message)
    tensors["layers.1.mlp.up.weight"] = nil
    err = failure(engine.base, engine, CONFIG, tensors)
    assert.equal("the tensor 'layers.1.mlp.up.weight' is missing", err.message)
  end)

  it("refuses an optimizer's state that no optimizer has", function()
    local model = engine:model(engine:base(CONFIG, nil, 5), LORA)
    local state = model:optimizer()
    local tensors = by_name(state.tensors)
    local name = "exp_avg_sq.layers.0.mlp.up.lora_B.weight"
    tensors[name][2][3] = -1e-9
    assert.equal(("the tensor '%s' has a negative number among its values"):format(name),
      failure(model.set_optimizer, model, {step = 1, tensors = tensors}).message)
  end)

  it("does not make a step whose task was cancelled before its turn", function()
    local model = engine:model(engine:base(CONFIG, nil, 1), LORA)
    local pass = task.spawn(function() model:pass(datums(400, 60), LOSS) end)
    local step = task.spawn(function() model:step{lr = 1} end)
    task.sleep(0)
    step:cancel()
    pass:await()
    pcall(step.await, step)
    assert.equal(0, model:optimizer().step)
  end)

  it("refuses data before anything is done", function()
    local model = engine:model(engine:base(CONFIG, nil, 5), LORA)
    local before = by_name(model:tensors())
    local cases = {
      {{input_ids = {1, 2, 300}, weights = {1.0, 1.0, 1.0}},
        "datum 1: input_ids[2] is 300, the vocabulary has 256"},
      {{input_ids = array.fill("int64", 65, 1), weights = array.fill("float32", 65, 1)}, "datum 1: .*65.*64"},
    }
    for _, case in ipairs(cases) do
      local data = datum.encode_all{{input_ids = {1, 2}, weights = {1.0, 1.0}}, case[1]}
      local err = failure(model.pass, model, data, {loss = "cross_entropy", config = {}, gradients = true})
      assert.equal("refused", err.kind)
      assert.truthy(err.message:find(case[2], 1, case[2]:find("*", 1, true) == nil), err.message)
    end
    local err = failure(model.pass, model, datums(1, 8), {loss = "ppo", config = {clip_hi = 1}})
    assert.truthy(err.message:find("ppo", 1, true) and err.message:find("clip_hi", 1, true), err.message)
    for name, value in pairs(by_name(model:tensors())) do assert.equal(before[name]:bytes(), value:bytes()) end
  end)

  it("refuses prompts before anything is done", function()
    local base = engine:base(CONFIG, nil, 5)
    local function refused(request)
      local err = failure(base.sample, base, {{ids = {1}, max_tokens = 1}, request})
      assert.equal("refused", err.kind)
      return err.message
    end
    assert.equal("prompt 1 is empty", refused{ids = {}})
    assert.equal("prompt 1 has 65 tokens, the model's context holds 64", refused{ids = array.fill("int64", 65, 1)})
    assert.equal("prompt 1: token 1 is 256, the vocabulary has 256", refused{ids = {0, 256}})
    assert.equal("prompt 1: token 0 is -1, below zero", refused{ids = {-1}})
    assert.equal("prompt 1: temperature must be a number from 0", refused{ids = {1}, temperature = 0 / 0})
    assert.equal("prompt 1: top_p must be above 0 and at most 1", refused{ids = {1}, top_p = 0})
    assert.equal("prompt 1: a stop string is empty", refused{ids = {1}, stop = {""}})
    assert.equal("prompt 1: max_tokens is below 0", refused{ids = {1}, max_tokens = -1})
  end)

  it("changes nothing when the gradient is not finite", function()
    local model = engine:model(engine:base(CONFIG, nil, 5))
    model:pass(datum.encode_all{{input_ids = {1, 2, 3}, old_logprobs = {-1e38, -1e38, 0.0},
      advantages = {1e38, 1e38, 0.0}}}, {loss = "importance_sampling", config = {}, gradients = true})
    local before = by_name(model:tensors())
    local step = model:step{lr = 1, scale = 1e30}
    assert.is_false(step.finite)
    assert.equal(0, model:optimizer().step)
    for name, value in pairs(by_name(model:tensors())) do assert.equal(before[name]:bytes(), value:bytes()) end
  end)

  it("takes no step without an eps: weights that had no gradient would be gone", function()
    local model = engine:model(engine:base(CONFIG, nil, 5), LORA)
    model:pass(datums(4, 20), LOSS)
    for _, eps in ipairs{0, 1e-40} do
      assert.truthy(errors.is(failure(model.step, model, {lr = 1e-3, eps = eps}), "refused"))
    end
    model:step{lr = 1e-3, eps = 1e-12}
    local loss = model:pass(datums(4, 20), LOSS).metrics.loss
    assert.equal(loss, loss)
  end)

  it("says logprobs when sampling that a pass says too", function()
    local model = engine:model(engine:base(CONFIG, nil, 11), LORA)
    model:pass(datums(30, 20), LOSS)
    model:step{lr = 3e-2}
    local requests, data = {}, {}
    for i = 1, 40 do requests[i] = {ids = {i, 2 * i, 3 * i}, max_tokens = 30, seed = i, temperature = 0.8} end
    local samples = model:sample(requests)
    for i, sample in ipairs(samples) do
      local ids = array.concat(array.int64(requests[i].ids), sample.ids)
      data[i] = {input_ids = ids, weights = array.fill("float32", #ids, 1)}
    end
    local result = model:pass(datum.encode_all(data), {loss = "cross_entropy",
      config = {logprob_temperature = 0.8},
      gradients = false})
    for i, sample in ipairs(samples) do
      for k = 1, #sample.logprobs do
        assert.near(sample.logprobs[k], result.logprobs[i][2 + k], 1e-5)
      end
    end
  end)
end)
