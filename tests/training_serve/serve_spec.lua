-- `riverlua serve training` with the official client and our own: the embedded trainer behind a socket.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local json = require "riverlua.json"
local training = require "training"
local servers = support.servers

local LOSSES = {"cross_entropy", "soft targets", "importance_sampling", "ppo", "cispo", "perfect", "echo_cispo",
  "dro"}

local function our_client(server, options)
  local all = {endpoint = server.info.url, api_key = support.key, http = {proxy = false}}
  for name, value in pairs(options or {}) do all[name] = value end
  return training.Client(all)
end

describe("riverlua serve training and the official client:", function()
  local server, seen

  setup(function()
    server = support.start()
    seen = support.ask(server, "quickstart.py")
  end)

  teardown(function() server:close() end)

  it("is without complaints", function()
    assert.truthy(seen["end"])
    assert.equal("", server:errors())
  end)

  it("refuses who has not the key", function()
    for _, name in ipairs{"key another-key", "key none"} do
      assert.equal("UNAUTHENTICATED", seen[name].status)
      assert.equal("the API key is not valid", seen[name].details)
    end
    assert.equal("UNAUTHENTICATED", seen["stub without key"].status)
  end)

  it("says that it is well, and what models there are", function()
    assert.is_true(seen.health.value)
    assert.truthy(table.concat(seen.features.value, " "):find("embedded/rambler-134k", 1, true))
  end)

  it("samples", function()
    assert.equal(2, seen.base.count)
    assert.same({2, 2}, seen.sample.groups)
    local first = seen.sample.first
    assert.equal(first.tokens, first.logprobs)
    assert.equal(seen.model.policy.id, first.policy.id)
    assert.same({("s4821="):byte(1, -1)}, seen.sample.prompt_ids)
    assert.equal(6, seen.sample.prompt_logprobs)
    assert.same({3, first.tokens}, seen.sample.top)
    assert.is_true(seen.again.same)
    assert.equal(4, seen.ids.first.tokens)
    for _, kept in ipairs(seen.stop.kept) do assert.is_true(kept) end
    for _, has in ipairs(seen.stop.texts) do assert.is_false(has) end
  end)

  it("computes every loss, with a log-probability for each prediction", function()
    for _, name in ipairs(LOSSES) do
      local metrics = seen[name].metrics
      assert.equal(metrics.loss_sum, metrics.loss)
      assert.same({name == "soft targets" and 5 or 18}, seen[name].logprobs)
    end
    assert.same({status = "INVALID_ARGUMENT", details = "datum 0: advantages[18] is nan", name = "nan"}, seen.nan)
  end)

  it("steps, guarded by policies, and learns", function()
    assert.equal(1, seen.step.policy.step)
    assert.equal(seen.step.before, seen.step.policy.parent)
    assert.equal(1, seen.step.metrics.grad_norm_finite)
    assert.equal("FAILED_PRECONDITION", seen.stale.status)
    assert.equal(9, seen.train_step.step)
    local losses = seen.train_step.losses
    assert.is_true(losses[#losses] < losses[1])
    assert.equal(240, seen.upload.tokens)
    assert.equal(1, seen.full.step)
  end)

  it("keeps checkpoints", function()
    assert.equal(("river://%s/weights/final"):format(seen.model.run), seen.saved.path)
    assert.equal(seen.saved.path .. "@2", seen.saved.immutable)
    assert.equal(9, seen.loaded.step)
    assert.is_true(seen.loaded.same)
    assert.equal(seen.saved.policy.id, seen.checkpoint.first.policy.id)
    assert.equal("NOT_FOUND", seen.missing.status)
  end)

  it("chats", function()
    for _, name in ipairs{"chat base", "chat checkpoint", "chat training"} do
      assert.equal(200, seen[name].status)
      assert.equal(6, seen[name].body.usage.prompt_tokens)
    end
  end)

  it("samples independently", function()
    assert.same({name = "batch", handles = 3, repeated = true, done = 3}, seen.batch)
  end)
end)

describe("the specification's loop on riverlua serve training", function()
  it("climbs", function()
    local server <close> = support.start("--seed", "1")
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    local rows = {}
    for i, row in ipairs((training.datasets.load("embedded/digits", {split = "train"}))) do rows[i] = row end
    file:write(json.encode(rows))
    file:close()
    local ok, seen = pcall(support.ask, server, "rl_loop.py", path, "5")
    os.remove(path)
    assert(ok, seen)
    local curve, metrics = seen.loop.curve, seen.loop.metrics
    assert.equal(5, #curve)
    -- where it begins depends on how the processor rounded while the base model was made
    assert.is_true(curve[5] > 0.75 and curve[5] > curve[1] + 0.15, json.encode(curve))
    assert.is_true(math.abs(metrics.kl) < 1e-6 and math.abs(metrics.mean_ratio - 1) < 1e-6)
    assert.equal("", server:errors())
  end)
end)

describe("riverlua serve training and our own client:", function()
  -- What a small training run sees.
  local function train(client)
    local seen = {}
    local session <close> = client:session()
    local model = session:create_model{base_model = "embedded/rambler-134k", lora = {rank = 4}}
    for step = 1, 2 do
      local samples = model:sample{prompts = {"s4821=", "s1007="}, num_samples = 2, max_tokens = 12}
      local data = {}
      for i, group in ipairs(samples) do
        for j, sample in ipairs(group) do
          seen[#seen + 1] = sample.text
          seen[#seen + 1] = table.concat(sample.logprobs, " ")
          data[#data + 1] = training.grpo_data({(i == 1 and "s4821=" or "s1007="):byte(1, -1)}, sample, j - 1.5)
        end
      end
      local result = model:forward_backward{data = data, loss_fn = "importance_sampling"}
      seen[#seen + 1] = json.encode(result.metrics, {sort = true})
      seen[#seen + 1] = json.encode(model:optim_step{lr = 4e-5, grad_clip_norm = step}.metrics, {sort = true})
    end
    return seen
  end

  it("the same program gives the same numbers on embedded:", function()
    local server <close> = support.start("--seed", "5")
    local here <close> = training.Client{endpoint = "embedded:", embedded = {seed = 5}}
    local there <close> = our_client(server)
    assert.same(train(here), train(there))
    assert.equal("", server:errors())
  end)

  it("keeps checkpoints in a folder between its runs", function()
    local folder = os.tmpname()
    os.remove(folder)
    local path
    do
      local server <close> = support.start("--folder", folder)
      local client <close> = our_client(server)
      local session <close> = client:session()
      local model = session:create_model{base_model = "embedded/rambler-134k", lora = {rank = 4}}
      path = model:save_weights("kept").path
    end
    do
      local server <close> = support.start("--folder", folder)
      local client <close> = our_client(server)
      local session <close> = client:session()
      local model = session:create_model{base_model = "embedded/rambler-134k", lora = {rank = 4},
        checkpoint = path}
      assert.equal(0, model.step)
    end
    os.execute("rm -rf " .. servers.quote(folder))
  end)

  it("says which of its options is wrong", function()
    local ok, err = pcall(require("training.serve").open, {threads = 0})
    assert.is_false(ok)
    assert.equal("training.serve: 'threads' must be from 1 to 1024", err.message)
    for words, wanted in pairs{
      ["--port 99999"] = "--port is at most 65535", ["--threads 0"] = "--threads must be from 1 to 1024",
      ["--base-models /none"] = "--base-models is '/none', and there is no such folder",
      ["--base_models /none"] = "--base-models is '/none', and there is no such folder",
      ["--base-model x"] = "unknown option '--base-model' (did you mean --base-models?)",
      ["--key="] = "--key is empty",
    } do
      local pipe = io.popen(("%s serve training --port 0 %s 2>&1 </dev/null"):format(servers.riverlua, words))
      assert.equal("riverlua serve: " .. wanted .. "\n", pipe:read("a"))
      assert.same({nil, "exit", 1}, {pipe:close()})
    end
  end)

  it("has the base models of a folder", function()
    local folder = os.tmpname()
    os.remove(folder)
    training.embedded.pretrain{name = "mine/tiny", text = ("ab"):rep(40), steps = 2, batch = 2, window = 8,
      folder = folder, progress = false, config = {width = 16, layers = 1, heads = 2, hidden = 32, context = 32}}
    local server <close> = support.start("--base-models", folder)
    local client <close> = our_client(server)
    assert.equal(3, #client:sample{prompts = "ab", base_model = "mine/tiny", max_tokens = 3}[1].tokens)
    os.execute("rm -rf " .. servers.quote(folder))
  end)

  it("refuses another key", function()
    local server <close> = support.start()
    local client <close> = our_client(server, {api_key = "wrong", enable_retries = false})
    assert.is_false(client:health_check())
    local err = servers.error_of(client.get_capabilities, client)
    assert.equal("auth", err.kind)
    assert.equal("", server:errors())
    assert.is_nil(tostring(err):find("wrong", 1, true))
  end)
end)
