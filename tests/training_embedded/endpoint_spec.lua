-- `training.Client{endpoint = "embedded:"}`: its options, base models of one's own, and runs that are kept in a
-- folder.

local training = require "training"
local task = require "riverlua.task"

local has_trainer, core = pcall(require, "riverlua.core.trainer")
if not has_trainer then
  pending("this riverlua has no trainer")
  return
end

local CONFIG = {vocabulary = 256, width = 16, layers = 1, heads = 2, hidden = 32, context = 32,
  positions = "rotary", tied = false, rotary_base = 10000.0, norm_epsilon = 1e-5}

describe("the endpoint embedded:", function()
  local folder

  setup(function()
    local pipe = assert(io.popen("mktemp -d"))
    folder = pipe:read("l")
    pipe:close()
    local engine <close> = core.open{threads = 1}
    require("training.embedded.base_models").write(folder .. "/bases", "mine/tiny", CONFIG,
      engine:base(CONFIG, nil, 3):tensors())
  end)
  teardown(function() os.execute("rm -rf '" .. folder .. "'") end)
  after_each(function() assert.same({}, task.waiting()) end)

  local function open(path, more)
    local own = {base_models = folder .. "/bases", threads = 1}
    for name, value in pairs(more or {}) do own[name] = value end
    return training.Client{endpoint = "embedded:" .. (path or ""), embedded = own}
  end

  local function create(client, more)
    local options = {base_model = "mine/tiny", lora = training.LoraConfig{rank = 2}}
    for name, value in pairs(more or {}) do options[name] = value end
    return client:session():create_model(options)
  end

  -- Logprobs of what is sampled in so many steps.
  local function run(model, steps)
    local seen = {}
    for _ = 1, steps do
      local group = model:sample{prompts = {"ab"}, num_samples = 4, max_tokens = 5,
        return_prompt_token_ids = true}[1]
      local data = {}
      for k, sample in ipairs(group) do
        data[k] = training.grpo_data(sample.prompt_token_ids, sample, k % 2 == 0 and 1.0 or -1.0)
        seen[#seen + 1] = table.concat(sample.logprobs, " ")
      end
      model:forward_backward{data = data, loss_fn = "importance_sampling"}
      assert.is_true(model:optim_step{lr = 1e-3}.metrics.grad_norm > 0)
    end
    return seen
  end

  it("says what is wrong with its options", function()
    for text, options in pairs{
      ["unknown option 'thread'; did you mean 'threads'"] = {thread = 1},
      ["'threads' must be an integer"] = {threads = "two"},
      ["'threads' must be from 1 to 1024"] = {threads = 0},
      ["'seed' must be an integer"] = {seed = 1.5},
      ["'base_models' must be a string"] = {base_models = {}},
      ["'base_models' is '" .. folder .. "/none', and there is no such folder"] = {base_models = folder .. "/none"},
    } do
      local ok, err = pcall(training.Client, {endpoint = "embedded:", embedded = options})
      assert.is_false(ok)
      assert.equal("argument", err.kind)
      assert.truthy(err.message:find(text, 1, true), err.message)
    end
  end)

  it("is told to those who have no key, or leave out the colon", function()
    for _, options in ipairs{{endpoint = "embedded"}, {endpoint = "embeded:"},
      {endpoint = "a.example", api_key = ""}} do
      local ok, err = pcall(training.Client, options)
      assert.is_false(ok)
      assert.equal("argument", err.kind)
      assert.truthy(err.hint:find('"embedded:"', 1, true), err.hint)
    end
  end)

  it("says which losses there are", function()
    local client <close> = open()
    local model = create(client)
    local datum = {input_ids = {1, 2}, weights = {1, 0}}
    local ok, err = pcall(model.forward_backward, model, {data = {datum}, loss_fn = "grpo"})
    assert.is_false(ok)
    assert.truthy(err.message:find("no loss is called 'grpo': there are cispo, cross_entropy, ", 1, true), err.message)
  end)

  it("needs no key, and has no deployments", function()
    local client <close> = open()
    assert.equal("training.Client(embedded:)", tostring(client))
    local ok, err = pcall(client.list_deployments, client)
    assert.is_false(ok)
    assert.equal("unsupported", err.kind)
  end)

  it("has no console: metrics are judged, and a script that logs them goes on with a warning", function()
    local said = {}
    local client <close> = training.Client{endpoint = "embedded:", warn = function(text) said[#said + 1] = text end,
      embedded = {base_models = folder .. "/bases", threads = 1}}
    for _ = 1, 2 do
      local model = create(client)
      model:define_metric("train/*", {step_metric = "step"})
      model:log{step = 1, ["train/reward"] = 0.5}
      for text, values in pairs{["must be a number"] = {reward = "high"}, ["must be finite"] = {reward = 0 / 0}} do
        local ok, err = pcall(model.log, model, values)
        assert.is_false(ok)
        assert.equal("argument", err.kind)
        assert.truthy(err.message:find(text, 1, true), err.message)
      end
      assert.is_false(pcall(model.define_metric, model, "a*b"))
    end
    assert.equal(1, #said)
    assert.truthy(said[1]:find("has no console", 1, true), said[1])
  end)

  it("has base models of one's own among its own", function()
    local client <close> = open()
    local names = table.concat(client:get_capabilities(), " ")
    assert.truthy(names:find("mine/tiny", 1, true), names)
    assert.truthy(names:find("embedded/rambler-134k", 1, true), names)
    local ok, err = pcall(client.sample, client, {prompts = {"a"}, base_model = "mine/tinny"})
    assert.is_false(ok)
    assert.equal("invalid_request", err.kind)
    assert.truthy(err.message:find("mine/tiny", 1, true), err.message)
    assert.equal(4, #client:sample{prompts = {"a"}, base_model = "mine/tiny", max_tokens = 4}[1].tokens)
  end)

  it("goes on with a run of another process where it was saved", function()
    local path, expected
    do
      local client <close> = open(folder .. "/runs")
      local model = create(client)
      run(model, 2)
      path = model:save_weights("two").path
      expected = run(model, 2)
    end
    local client <close> = open(folder .. "/runs", {threads = 2})
    local model = create(client, {checkpoint = path})
    assert.equal(2, model.step)
    assert.same(expected, run(model, 2))
    assert.equal(200, client:chat_complete_from_checkpoint{messages = {{role = "user", content = "a"}},
      checkpoint_path = path, max_tokens = 4}.status_code)
    assert.equal(0, model:get_info().run_storage_bytes)          -- the checkpoint is another run's
  end)

  it("forgets what it keeps in memory", function()
    local path
    do
      local client <close> = open()
      path = create(client):save_weights("a").path
    end
    local client <close> = open()
    local ok, err = pcall(create, client, {checkpoint = path})
    assert.is_false(ok)
    assert.equal("not_found", err.kind)
  end)

  it("says what is wrong with a folder", function()
    local ok, err = pcall(open, "/proc/none")
    assert.is_false(ok)
    assert.equal("storage", err.kind)
  end)

  -- Where the files lie is for this process to know, and for no client on a socket: it is in the hint alone.
  local function check_lost(place, what, ok, err)
    assert.is_false(ok)
    assert.equal(place and "DATA_LOSS" or "data_loss", err.code)
    for _, text in ipairs{what, "model.safetensors"} do
      assert.truthy(err.message:find(text, 1, true), err.message)
    end
    assert.is_nil(err.message:find(folder, 1, true), err.message)
    if place then assert.truthy(err.hint:find(place, 1, true), err.hint) end
  end

  it("names a checkpoint that is damaged, and the file", function()
    local place = folder .. "/damaged"
    local path
    do
      local client <close> = open(place)
      path = create(client):save_weights("a").path
    end
    os.execute(("find '%s' -name '*.safetensors' -exec truncate -s 10 {} +"):format(place))
    local client <close> = open(place)
    local model = create(client)
    check_lost(nil, path, pcall(create, client, {checkpoint = path}))
    check_lost(nil, path, pcall(model.load_weights, model, path))
    check_lost(nil, path, pcall(model.session.sample, model.session, {prompts = {"a"}, base_model = "mine/tiny",
      checkpoint = path, max_tokens = 2}))
    check_lost(nil, path, pcall(client.chat_complete_from_checkpoint, client, {checkpoint_path = path,
      messages = {{role = "user", content = "a"}}}))
    assert.is_table(create(client))
    -- that it was written by another version is told at once
    os.execute(("find '%s' -name checkpoint.json -exec sed -i 's/\"version\": 1/\"version\": 9/' {} +"):format(place))
    local ok, err = pcall(create, client, {checkpoint = path})
    assert.is_false(ok)
    assert.equal("DATA_LOSS", err.code)
    assert.truthy(err.message:find("another version of riverlua", 1, true), err.message)
    assert.is_nil(err.message:find(folder, 1, true), err.message)
    assert.truthy(err.hint:find(place, 1, true), err.hint)
  end)

  it("names a base model that is damaged", function()
    local place = folder .. "/lost"
    os.execute(("cp -r '%s/bases' '%s' && truncate -s 10 '%s/mine/tiny/model.safetensors'"):format(folder, place,
      place))
    local client <close> = open("", {base_models = place})
    check_lost(place, "mine/tiny", pcall(create, client))
    check_lost(place, "mine/tiny", pcall(client.sample, client, {prompts = {"a"}, base_model = "mine/tiny"}))
  end)
end)
