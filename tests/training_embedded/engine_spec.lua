-- The embedded training service with its real engine, on a base model of a few thousand parameters: what a client
-- trains and samples there.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(folder .. "support.lua")
local array = require "riverlua.array"
local nest = require "training.nest"
local task = require "riverlua.task"
local training = require "training"

local has_trainer, core = pcall(require, "riverlua.core.trainer")
if not has_trainer then
  pending("this riverlua has no trainer")
  return
end

local CONFIG = {vocabulary = 256, width = 32, layers = 2, heads = 2, hidden = 64, context = 48,
  positions = "rotary", tied = false, rotary_base = 10000, norm_epsilon = 1e-5}
local BASE = "mine/tiny"

local function base_models_of(more)
  local config = {}
  for name, value in pairs(CONFIG) do config[name] = value end
  for name, value in pairs(more or {}) do config[name] = value end
  local engine <close> = core.open{threads = 1}
  local tensors = {}
  for _, tensor in ipairs(engine:base(config, nil, 7):tensors()) do tensors[tensor.name] = tensor.array end
  return {list = function() return {BASE} end,
    open = function() return {name = BASE, config = config, tensors = tensors} end}
end

describe("the embedded trainer", function()
  local base_models, clients

  setup(function() base_models = base_models_of() end)
  before_each(function() clients = {} end)
  after_each(function()
    for _, client in ipairs(clients) do client:close() end
    assert.same({}, task.waiting())
  end)

  -- A client on a service of its own. `parts`: those that differ.
  local function open(parts)
    local own = {core = core, store = support.fake.store(), base_models = base_models, threads = 2}
    for name, value in pairs(parts or {}) do own[name] = value end
    local service = require("training.embedded.service").new(own)
    local client = support.client(service)
    clients[#clients + 1] = client
    return client
  end

  local function service_of(client) return client.transport.service end

  local function create(client, more)
    local options = {base_model = BASE, lora = training.LoraConfig{rank = 4, train_unembed = true}}
    for name, value in pairs(more or {}) do options[name] = value end
    if options.full_weight then options.lora = nil end
    return client:session():create_model(options)
  end

  -- Datums of samples; the advantage is how many of the letter a there are, less than the mean.
  local function rollout(model, count)
    local group = model:sample{prompts = {"say:"}, num_samples = count or 16, max_tokens = 8,
      return_prompt_token_ids = true}[1]
    local mean, rewards, data = 0, {}, {}
    for i, sample in ipairs(group) do
      rewards[i] = select(2, sample.text:gsub("a", ""))
      for k = 1, #sample.tokens do rewards[i] = rewards[i] + (sample.tokens[k] < 128 and 1 or 0) end
      mean = mean + rewards[i] / #group
    end
    for i, sample in ipairs(group) do
      data[i] = training.grpo_data(sample.prompt_token_ids, sample, rewards[i] - mean)
    end
    return data, mean, group
  end

  local function numbers(list) return list:table() end

  -- Datums that take a while.
  local function many(count)
    local data = {}
    for i = 1, count do
      data[i] = {input_ids = array.fill("int64", 40, i % 256), weights = array.fill("float32", 40, 1)}
    end
    return data
  end

  for name, more in pairs{adapters = {}, ["full weights"] = {full_weight = true}} do
    it("samples with the log-probabilities that passes see: " .. name, function()
      local model = create(open(), more)
      for _ = 1, 3 do
        local data, _, group = rollout(model)
        local result = model:forward_backward{data = data, loss_fn = "importance_sampling"}
        assert.near(1, result.metrics.mean_ratio, 1e-4)
        assert.near(0, result.metrics.kl, 1e-4)
        for i, sample in ipairs(group) do
          local seen = result.logprobs[i]
          for k = 1, #sample.tokens do assert.near(seen[3 + k], sample.logprobs[k], 1e-4) end
        end
        assert.equal(1, model:optim_step{lr = 1e-3}.metrics.grad_norm_finite)
      end
    end)
  end

  it("learns what is rewarded", function()
    local model = create(open())
    local first, last
    for _ = 1, 30 do
      local data, mean = rollout(model, 32)
      first, last = first or mean, mean
      model:forward_backward{data = data, loss_fn = "importance_sampling"}
      model:optim_step{lr = 4e-4, grad_clip_norm = 1}
    end
    assert.is_true(first < 5.5 and last > 7, ("%g → %g"):format(first, last))
  end)

  it("adds gradients up, and clears them", function()
    local model = create(open())
    local data = rollout(model, 4)
    local function norm(...)
      for i, part in ipairs{...} do
        model:forward_backward{data = part, loss_fn = "importance_sampling", zero_out = i == 1}
      end
      return model:optim_step{lr = 0}.metrics.grad_norm
    end
    local whole = norm(data)
    assert.is_true(whole > 0)
    assert.near(whole, norm({data[1], data[2]}, {data[3], data[4]}), whole * 1e-4)
    assert.near(whole, norm(data), whole * 1e-6)
    assert.equal(0, model:optim_step{lr = 0}.metrics.grad_norm)
    model:forward_backward{data = data, loss_fn = "importance_sampling"}
    assert.near(whole / 2, model:optim_step{lr = 0, gradient_scale = 0.5}.metrics.grad_norm, whole * 1e-4)
  end)

  it("gives the same numbers whatever the number of threads", function()
    local function run(threads)
      local model = create(open{threads = threads, seed = 5})
      local seen = {}
      for _ = 1, 3 do
        local data, _, group = rollout(model)
        for _, sample in ipairs(group) do seen[#seen + 1] = numbers(sample.logprobs) end
        seen[#seen + 1] = model:forward_backward{data = data, loss_fn = "ppo"}.metrics
        seen[#seen + 1] = model:optim_step{lr = 1e-3}.metrics
      end
      return seen
    end
    local one = run(1)
    assert.same(one, run(3))
    assert.same(one, run(1))
  end)

  it("goes on from a checkpoint to the same numbers", function()
    local store = support.fake.store()
    local function steps(model, count)
      local seen = {}
      for i = 1, count do
        local data, _, group = rollout(model)
        model:forward_backward{data = data, loss_fn = "importance_sampling"}
        model:optim_step{lr = 1e-3, weight_decay = 0.01}
        seen[i] = numbers(group[1].logprobs)
      end
      return seen
    end
    store.close = function() end
    local model = create(open{store = store})
    steps(model, 3)
    local saved = model:save_weights("three")
    local expected = steps(model, 3)
    local resumed = create(open{store = store, threads = 1}, {checkpoint = saved})
    assert.equal(3, resumed.step)
    assert.same(expected, steps(resumed, 3))
    local fresh = create(open{store = store}, {checkpoint = saved, load_optimizer = false})
    local others = steps(fresh, 3)
    assert.same(expected[1], others[1])          -- the same weights, but another optimizer
    assert.not_same(expected[2], others[2])
  end)

  for name, more in pairs{adapters = {}, ["full weights"] = {full_weight = true}} do
    it("samples checkpoints as the model was when they were saved: " .. name, function()
      local client = open()
      local model = create(client, more)
      local function texts(list)
        local seen = {}
        for i, group in ipairs(list) do seen[i] = {group[1].text, numbers(group[1].logprobs)} end
        return seen
      end
      local options = {prompts = {"a", "bc"}, seed = 3, max_tokens = 8}
      model:forward_backward{data = rollout(model), loss_fn = "importance_sampling"}
      model:optim_step{lr = 1e-2}
      local expected = texts(model:sample(options))
      local saved = model:save_weights("then", {mode = "inference", immutable = true})
      model:forward_backward{data = rollout(model), loss_fn = "importance_sampling"}
      model:optim_step{lr = 1e-2}
      assert.not_same(expected, texts(model:sample(options)))
      assert.same(expected, texts(model:submit_sampling_batch{prompts = options.prompts, seed = 3, max_tokens = 8,
        policy_selection = "latest_snapshot"}:result()))
      assert.same(expected, texts(model:submit_sampling_batch{prompts = options.prompts, seed = 3, max_tokens = 8,
        pinned_policy_id = saved.policy_version.id}:result()))
      options.base_model, options.checkpoint = BASE, saved
      assert.same(expected, texts(model.session:sample(options)))
      assert.equal(1, #service_of(client).sources.order)
      for i = 1, 12 do
        options.checkpoint = model:save_weights("n" .. i, {mode = "inference", immutable = true})
        model:optim_step{lr = 1e-3}
        model.session:sample(options)
      end
      assert.equal(8, #service_of(client).sources.order)      -- so many are kept ready
      options.checkpoint = saved
      assert.same(expected, texts(model.session:sample(options)))
    end)
  end

  it("trains heads that are the embedding too", function()
    local model = create(open{base_models = base_models_of{tied = true, positions = "learned"}})
    local data, _, group = rollout(model)
    model:forward_backward{data = data, loss_fn = "importance_sampling"}
    model:optim_step{lr = 1e-2}
    local result = model:forward{data = data, loss_fn = "importance_sampling"}
    assert.is_true(math.abs(result.metrics.kl) > 1e-6)
    local saved = model:save_weights("a", {mode = "inference"})
    local options = {prompts = {"a"}, temperature = 0, max_tokens = 6}
    local expected = numbers(model:sample(options)[1][1].logprobs)
    options.base_model, options.checkpoint = BASE, saved
    assert.same(expected, numbers(model.session:sample(options)[1][1].logprobs))
    assert.equal(16, #group)
  end)

  it("tells likely tokens, of prompts too", function()
    local model = create(open())
    local sample = model:sample{prompts = {"abc"}, max_tokens = 4, logprobs = 3, return_prompt_logprobs = true,
      temperature = 0}[1][1]
    assert.same({4, 3}, {sample.top_logprobs.rows, sample.top_logprobs.width})
    for i = 1, #sample.tokens do
      assert.equal(sample.tokens[i], sample.top_logprobs.token_ids[i][1])
      assert.near(sample.logprobs[i], sample.top_logprobs.logprobs[i][1], 1e-5)
      assert.is_true(sample.top_logprobs.logprobs[i][1] >= sample.top_logprobs.logprobs[i][3])
    end
    assert.same({-1, -1, -1}, sample.prompt_top_logprobs.token_ids[1]:table())
    assert.equal(-math.huge, sample.prompt_top_logprobs.logprobs[1][1])
    assert.equal(3, #sample.prompt_logprobs)
    local seen = model:forward{data = {{input_ids = {97, 98, 99}, weights = {1.0, 1.0, 0.0}}},
      loss_fn = "cross_entropy"}.logprobs[1]
    for i = 1, 2 do assert.near(seen[i], sample.prompt_logprobs[i + 1], 1e-4) end
  end)

  it("ends samples at stop strings and at the context", function()
    local model = create(open())
    for _, group in ipairs(model:sample{prompts = {"abc"}, num_samples = 20, max_tokens = 1000, seed = 1}) do
      for _, sample in ipairs(group) do assert.equal(CONFIG.context - 3, #sample.tokens) end
    end
    local stop = model:sample{prompts = {"abc"}, max_tokens = 5, temperature = 0}[1][1]
    local letter = string.char(stop.tokens[2])
    if utf8.len(letter) then
      local cut = model:sample{prompts = {"abc"}, max_tokens = 5, temperature = 0, stop = letter}[1][1]
      assert.equal("stop", cut.stop_reason)
      assert.is_true(#cut.tokens <= 2)
    end
  end)

  describe("refuses datums", function()
    local model, service

    before_each(function()
      local client = open()
      model, service = create(client), service_of(client)
    end)

    local function refused(text, columns, loss)
      local good = training.nest.encode(nest.dict{{"input_ids", array.int64{1, 2, 3}},
        {"weights", array.float32{1, 1, 0}}, {"old_logprobs", array.float32{-1, -1, 0}},
        {"advantages", array.float32{1, 1, 0}}, {"attention_mask", array.int64{1, 1, 1}}})
      local bad = columns
      if type(columns) == "table" then
        local dict = nest.dict{{"input_ids", array.int64{1, 2, 3}}, {"attention_mask", array.int64{1, 1, 1}}}
        for name, value in pairs(columns) do dict[name] = value end
        bad = nest.encode(dict)
      end
      model.seq_id = model.seq_id + 1
      local id = support.call(service, "ForwardBackward", {model_id = model.model_id, seq_id = model.seq_id,
        forward_backward_input = {data = {{data = good}, {data = bad}},
          loss_fn = loss or "cross_entropy"}}).request_id
      local err = support.refusal(service, "RetrieveFuture", {request_id = id})
      assert.equal("INVALID_ARGUMENT", err.code)
      assert.truthy(err.details:find("datum 1: ", 1, true), err.details)
      assert.truthy(err.details:find(text, 1, true), err.details)
    end

    it("that are none, or of another length, or not finite", function()
      refused("", "no NEST at all")
      refused("weights", {})
      refused("weights", {weights = array.float32{1, 1}})
      refused("input_ids", {input_ids = array.int64{1, 2, 256}, weights = array.float32{1, 1, 0}})
      refused("advantages[1]", {old_logprobs = array.float32{0, 0, 0}, advantages = array.float32{0, 0 / 0, 0}},
        "importance_sampling")
      refused("old_logprobs", {advantages = array.float32{0, 1, 0}}, "importance_sampling")
      local long = array.fill("int64", CONFIG.context + 1, 1)
      refused(tostring(CONFIG.context), {input_ids = long, attention_mask = long,
        weights = array.fill("float32", CONFIG.context + 1, 1)})
      assert.equal(0, model:optim_step{lr = 1}.metrics.grad_norm)     -- nothing has been added
    end)
  end)

  it("computes custom losses", function()
    local ok = pcall(require, "training.embedded.graph")
    if not ok then return pending("this riverlua has no custom losses") end
    local model = create(open())
    local loss = training.loss_graph({targets = "int64"}, function(logits, x)
      local sum = logits:ce(x.targets):float():sum()
      return sum, {twice = sum * 2}
    end)
    local result = model:forward_backward({loss:datum{input_ids = {1, 2, 3}, loss_data = {targets = {2, 3, 0}}}},
      loss)
    local plain = model:forward{data = {{input_ids = {1, 2, 3}, target_tokens = {2, 3, 0},
      weights = {1.0, 1.0, 1.0}}}, loss_fn = "cross_entropy"}
    assert.is_true(result.metrics.loss_sum > plain.metrics.loss_sum)   -- the last position counts here
    assert.near(2 * result.metrics.loss_sum, result.metrics["custom/twice"], 1e-3)
    assert.is_true(model:optim_step{lr = 1e-3}.metrics.grad_norm > 0)
  end)

  it("is closed while it works", function()
    local client = open()
    local service, model = service_of(client), create(client)
    local data, passes = many(2000), {}
    for i = 1, 5 do passes[i] = model:submit_forward_backward{data = data, loss_fn = "cross_entropy"} end
    local waiter = task.spawn(passes[5].result, passes[5])
    task.sleep(0)
    client:close()
    waiter:join()
    assert.equal("failed", waiter:status())
    assert.is_false(service.engine)
    assert.same({}, task.waiting())
  end)

  it("lets others go on while it works", function()
    local model = create(open())
    local pass, turns = model:submit_forward_backward{data = many(300), loss_fn = "cross_entropy"}, 0
    local ticker = task.spawn(function()
      while not pass.done do
        turns = turns + 1
        task.sleep(0)
      end
    end)
    pass:result()
    ticker:join()
    assert.is_true(turns > 2, turns)
  end)
end)
