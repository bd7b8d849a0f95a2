-- The training client on the embedded service: its calls, without a network.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(folder .. "support.lua")
local digest = require "riverlua.digest"
local task = require "riverlua.task"
local training = require "training"

local function failure(fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok)
  return err
end

describe("a client of the embedded trainer", function()
  local at, model, session, client, core

  before_each(function()
    at = support.start()
    model, session, client, core = at.model, at.session, at.client, at.core
  end)
  after_each(function()
    at.client:close()
    assert.same({}, task.waiting())
  end)

  it("looks around", function()
    assert.is_true(client:health_check())
    assert.same({support.BASE}, client:get_capabilities())
    local found = session:get_server_capabilities()
    assert.is_true(found.features.sampling_batch_v1)
    assert.is_true(model:get_server_capabilities().model_features[support.BASE].prompt_token_echo_v1)
    local info = model:get_info()
    assert.same({support.BASE, true, 16, "decoder", support.BASE}, {info.model_name, info.is_lora, info.lora_rank,
      info.model_data.arch, info.model_data.tokenizer_id})
    assert.same({step = 0, lineage_id = model.training_run_id}, {step = model:get_policy_version().step,
      lineage_id = model:get_policy_version().lineage_id})
    assert.is_nil(model:latest_auto_checkpoint())
    assert.same({}, session:capacity_status())
    assert.is_true(client:stats().calls > 0)
    assert.equal("att-", session:attest_training_data{{name = "a", content = "b"}}
      .training_data_attestation_id:sub(1, 4))
  end)

  it("gives the engine what it was asked for", function()
    assert.same({rank = 16, scale = 50, attn = true, mlp = true, unembed = false, seed = core.made[1].lora.seed},
      core.made[1].lora)
    session:create_model{base_model = support.BASE,
      lora = training.LoraConfig{rank = 8, seed = 7, train_attn = false, train_unembed = true}}
    assert.same({rank = 8, scale = 50, attn = false, mlp = true, unembed = true, seed = 7}, core.made[2].lora)
    session:create_model{base_model = support.BASE, full_weight = true}
    assert.is_nil(core.made[3].lora)
    model:sample{prompts = {"ab"}, max_tokens = 100, temperature = 0.5, top_p = 0.9, top_k = 3, stop = "\n",
      seed = 11, logprobs = 2, return_prompt_logprobs = true}
    local request = core.requests[1]
    assert.same({97, 98}, request.ids:table())
    request.ids = nil
    assert.same({max_tokens = 62, temperature = 0.5, top_p = 0.9, top_k = 3, stop = {"\n"}, seed = 11,
      top_logprobs = 2, prompt_logprobs = true}, request)
  end)

  describe("samples", function()
    it("in groups, with all that can be asked for", function()
      local groups = model:sample{prompts = {"ab", "cde"}, num_samples = 2, max_tokens = 5, logprobs = 3,
        return_prompt_logprobs = true, metrics_type = "rollout"}
      assert.same({2, 2, 2}, {#groups, #groups[1], #groups[2]})
      local sample = groups[2][1]
      assert.same({99, 100, 101}, sample.prompt_token_ids:table())
      assert.same({0, -2, -2}, sample.prompt_logprobs:table())
      assert.same({3, 5, 3}, {sample.prompt_tokens, #sample.tokens, sample.top_logprobs.width})
      assert.same({5, 3}, {sample.top_logprobs.rows, sample.prompt_top_logprobs.rows})
      assert.equal(-1, sample.prompt_top_logprobs.token_ids[1][1])
      assert.equal(-math.huge, sample.prompt_top_logprobs.logprobs[1][1])
      assert.is_true(sample.token_data_is_exact)
      assert.equal("length", sample.stop_reason)
      assert.equal(model:get_policy_version().id, sample.policy_version.id)
      assert.equal(20, session.meter.tokens.completion)
      assert.equal(10, session.meter.tokens.prompt)
    end)

    it("by ids, up to a stop string, which is among the tokens and not in the text", function()
      local sample = model:sample{prompt_token_ids = {1, 255}, max_tokens = 50, temperature = 0, stop = "aaa",
        return_prompt_token_ids = true}[1][1]
      assert.equal("", sample.text)
      assert.same({97, 97, 97}, sample.tokens:table())
      assert.equal("stop", sample.stop_reason)
      assert.same({1, 255}, sample.prompt_token_ids:table())
      assert.is_nil(sample.prompt_logprobs)
    end)

    it("of a base model, and of a checkpoint with or without a session", function()
      local flat = client:sample{prompts = {"a", "b"}, num_samples = 2, max_tokens = 3, base_model = support.BASE}
      assert.equal(4, #flat)
      assert.is_nil(flat[1].policy_version)
      model:optim_step{lr = 0.5}
      local saved = model:save_weights("now", {mode = "inference"})
      model:optim_step{lr = 0.5}
      local sample = session:sample{prompts = {"a"}, max_tokens = 3, base_model = support.BASE,
        checkpoint = saved}[1][1]
      assert.equal(saved.policy_version.id, sample.policy_version.id)
      assert.near(-1.0, sample.logprobs[1], 1e-6)    -- the weights of then
      assert.near(-0.5, model:sample{prompts = {"a"}, max_tokens = 3}[1][1].logprobs[1], 1e-6)
      assert.equal(1, #session:submit_sampling_batch({"a"}, {base_model = support.BASE, max_tokens = 2})
        :result())
      assert.equal(1, #session:submit_sampling_batch({"a"}, {base_model = support.BASE, checkpoint = saved,
        max_tokens = 2}):result())
    end)

    it("with seeds that do not depend on anything else", function()
      local function texts(...)
        local list = {}
        for i, group in ipairs(model:sample(...)) do list[i] = group[1].text end
        return list
      end
      local one = texts({"a", "b"}, {max_tokens = 8, seed = 3})
      assert.same(one, texts({"a", "b"}, {max_tokens = 8, seeds = {3, 4}}))
      assert.equal(one[2], texts({"b"}, {max_tokens = 8, seed = 4})[1])
      assert.not_equal(one[1], texts({"a"}, {max_tokens = 8})[1])
      assert.is_table(texts({"a"}, {max_tokens = 8, seed = -5}))
    end)

    it("without seeds the same in each run, and different ones each time", function()
      local function flow(seed)
        local service = support.service{seed = seed}
        local own <close> = support.client(service)
        local list = {}
        local made = own:session():create_model{base_model = support.BASE, lora = training.LoraConfig{rank = 4}}
        local function note(text) list[#list + 1] = text end
        for _, group in ipairs(made:sample{prompts = {"a", "a"}, num_samples = 2, max_tokens = 8}) do
          for _, sample in ipairs(group) do note(sample.text) end
        end
        made:optim_step{lr = 0.1}
        note(made:sample{prompts = {"a"}, max_tokens = 8}[1][1].text)
        note(own:sample{prompts = {"a"}, max_tokens = 8, base_model = support.BASE}[1].text)
        local saved = made:save_weights("x")
        note(made:sample{prompts = {"a"}, max_tokens = 8}[1][1].text)
        made:optim_step{lr = 0.1}
        made:load_weights(saved)
        note(made:sample{prompts = {"a"}, max_tokens = 8}[1][1].text)
        return list
      end
      local first = flow()
      assert.same(first, flow())
      assert.not_same(first, flow(1))
      assert.equal(first[7], first[8])     -- a run that goes on from a checkpoint repeats itself
      local seen = {}
      for i = 1, 7 do
        assert.is_nil(seen[first[i]])
        seen[first[i]] = true
      end
    end)
  end)

  describe("samples independently", function()
    it("and gets each as it is done", function()
      local count, seen = 0, {}
      for sample, prompt, number in model:sample_as_completed{prompts = {"a", "b"}, num_samples = 80,
        max_tokens = 2} do
        count = count + 1
        assert.equal(2, #sample.tokens)
        assert.is_nil(seen[prompt * 1000 + number])
        seen[prompt * 1000 + number] = true
      end
      assert.equal(160, count)
    end)

    it("in portions that come one after the other", function()
      core:hold()
      local batch = model:submit_sampling_batch({"a"}, {num_samples = 40, max_tokens = 2})
      task.sleep(0)
      local turns = task.spawn(function()
        task.sleep(0)
        core:release()
      end)
      local first = {}
      local next_one = batch:as_completed()
      for _ = 1, 32 do first[#first + 1] = next_one() end
      assert.equal(32, #first)
      assert.equal(1, #batch:result())
      turns:await()
    end)

    it("from the policy that is pinned, as long as there is it", function()
      local old = model:get_policy_version()
      local kept = model:save_weights("snapshot", {mode = "inference", immutable = true, durable = false})
      assert.equal(old.id, kept.policy_version.id)
      model:optim_step{lr = 0.5}
      local new = model:get_policy_version()
      local function sample(options)
        options.max_tokens = 2
        return model:submit_sampling_batch({"a"}, options):result()[1][1]
      end
      assert.equal(old.id, sample{pinned_policy_id = old.id}.policy_version.id)
      assert.near(-1.5, sample{pinned_policy_id = old.id}.logprobs[1], 1e-6)
      assert.near(-1.0, sample{pinned_policy_id = new.id}.logprobs[1], 1e-6)
      assert.equal(old.id, sample{policy_selection = "latest_snapshot"}.policy_version.id)
      model:optim_step{lr = 0.5}
      local err = failure(sample, {pinned_policy_id = new.id})
      assert.equal("precondition", err.kind)
      assert.truthy(err.message:find("is not available", 1, true))
      local second = model:save_weights("snapshot", {mode = "inference", immutable = true, durable = false})
      assert.equal(kept.path .. "@2", second.path)
      assert.equal(second.policy_version.id, sample{policy_selection = "latest_snapshot"}.policy_version.id)
    end)

    it("from a snapshot while the model has other work", function()
      model:save_weights("snapshot", {mode = "inference", immutable = true})
      local id = model:get_policy_version().id
      local held = setmetatable({}, {__index = core})   -- passes wait, samples do not
      core.made[1].core = held
      held.held = true
      local pass = model:submit_forward_backward{data = {support.datum()}, loss_fn = "importance_sampling"}
      local sample = model:submit_sampling_batch({"a"}, {policy_selection = "latest_snapshot", max_tokens = 2})
        :result()[1][1]
      assert.equal(id, sample.policy_version.id)
      held.held = false
      core.released:fire()
      assert.equal(3, pass:result().metrics.num_tokens)
    end)
  end)

  it("trains", function()
    local result = model:forward_backward{data = {support.datum(), support.datum()}, loss_fn = "ppo",
      clip_high = 0.3}
    assert.same({1, 0.5, 6}, {result.metrics.loss_sum, result.metrics.loss, result.metrics.num_tokens})
    assert.same({2, 2}, {#result.logprobs, #result.logprobs[1]})
    assert.equal(6, result.usage.training_tokens)
    assert.equal(6, session.meter.tokens.training)
    model:forward_backward{data = {support.datum()}, loss_fn = "importance_sampling", zero_out = false}
    local looked = model:forward{data = {support.datum()}, loss_fn = "importance_sampling"}
    assert.near(-0.5, looked.logprobs[1][1], 1e-6)
    local step = model:optim_step{lr = 0.1, gradient_scale = 2, grad_clip_norm = 1}
    assert.near(3, step.metrics.grad_norm, 1e-6)
    assert.same({1, 1}, {step.policy_version.step, model.step})
    local pass, second = model:train_step{data = {support.datum()}, loss_fn = "importance_sampling", lr = 0.1}
    assert.equal(3, pass.metrics.num_tokens)
    assert.equal(step.policy_version.id, second.policy_version.parent_id)
    assert.near(0.2, core.made[1].weights[1], 1e-6)
  end)

  it("trains in several tasks at once, in the order of their submissions", function()
    local policies = {}
    task.scope(function(scope)
      for i = 1, 8 do
        scope:spawn(function()
          model:forward_backward{data = {support.datum()}, loss_fn = "importance_sampling"}
          policies[i] = model:optim_step{lr = 0.01, expected_policy_id = false}.policy_version
        end)
      end
    end)
    local steps = {}
    for _, policy in ipairs(policies) do steps[policy.step] = policy end
    for i = 2, 8 do assert.equal(steps[i - 1].id, steps[i].parent_id) end
    assert.equal(8, model:sync_committed_policy().step)
  end)

  it("uploads what is large", function()
    local own = training.Client{transport = require("training.embedded").transport(at.service),
      upload = {threshold = 1, chunk = 64}}
    local made = own:session():create_model{base_model = support.BASE, lora = training.LoraConfig{rank = 4}}
    local result = made:forward_backward{data = {support.datum()}, loss_fn = "importance_sampling"}
    assert.equal(3, result.metrics.num_tokens)
    assert.same({0, 0}, {at.service.upload_count, at.service.upload_bytes})
  end)

  it("keeps checkpoints, with and without the optimizer", function()
    model:optim_step{lr = 0.5}
    local first = model:save_weights("a")
    assert.equal(("river://%s/weights/a"):format(model.training_run_id), first.path)
    assert.equal(first.path, session.last_checkpoint)
    model:optim_step{lr = 0.5}
    model:load_weights(first)
    assert.equal(1, model.step)
    assert.near(0.5, core.made[1].weights[1], 1e-6)
    assert.equal(1, core.made[1].steps)
    model:load_weights(first, {load_optimizer = false})
    assert.equal(0, core.made[1].steps)
    local other = session:create_model{base_model = support.BASE, lora = training.LoraConfig{rank = 16},
      checkpoint = first}
    assert.same({1, 1}, {other.step, core.made[2].steps})
    assert.equal(first.policy_version.id, other:optim_step{lr = 0.1}.policy_version.parent_id)
    assert.equal(100, model:get_info().run_storage_bytes)
    local kept = at.service.store:load(first.path)
    assert.same({"training", support.BASE, 365 * 86400, true, false},
      {kept.kind, kept.base, kept.ttl, kept.durable, kept.immutable})
    assert.same({rank = 16, scale = 50, attn = true, mlp = true, unembed = false}, kept.lora)
    model:save_weights("b", {durable = false, mode = "inference"})
    kept = at.service.store:load(("river://%s/weights/b"):format(model.training_run_id))
    assert.same({86400, false}, {kept.ttl, kept.durable})
    assert.is_nil(kept.optimizer)
  end)

  it("publishes full weights without storing them", function()
    local full = session:create_model{base_model = support.BASE, full_weight = true}
    assert.is_false(full:get_info().is_lora)
    full:optim_step{lr = 0.5}
    local published = full:save_weights("now", {mode = "publish"})
    assert.same({"", 0}, {published.path, at.service.store.saved})
    full:optim_step{lr = 0.5}
    local sample = full:submit_sampling_batch({"a"}, {policy_selection = "latest_snapshot", max_tokens = 1})
      :result()[1][1]
    assert.equal(published.policy_version.id, sample.policy_version.id)
    assert.near(-1.0, sample.logprobs[1], 1e-6)
    local kept = full:save_weights("a", {immutable = true})
    assert.equal(full:get_policy_version().id, kept.policy_version.id)
    assert.equal("precondition", failure(model.load_weights, model, kept).kind)
  end)

  it("keeps the old checkpoint when a new one cannot be saved", function()
    model:save_weights("a")
    at.service.store.failure = require("riverlua.errors").new{kind = "storage", message = "no room",
      hint = "free some"}
    model:optim_step{lr = 0.1}
    local err = failure(model.save_weights, model, "a")
    assert.same({"failed", "storage"}, {err.kind, err.code})
    assert.truthy(err.message:find("no room (free some)", 1, true))
    assert.equal(0, model:load_weights(session.last_checkpoint).step)
  end)

  describe("is closed", function()
    it("with operations under way, at once", function()
      core:hold()
      local pending = model:submit_forward_backward{data = {support.datum()}, loss_fn = "importance_sampling"}
      local waiter = task.spawn(pending.result, pending)
      local sampler = task.spawn(model.sample, model, {prompts = {"a"}})
      task.sleep(0)
      client:close()
      assert.is_false(waiter:join(0) and waiter:status() == "done")
      for _, one in ipairs{waiter, sampler} do
        one:join()
        assert.equal("failed", one:status())
      end
      assert.same({}, task.waiting())
      assert.equal(1, core.closed)
      assert.equal("closed", failure(model.sample, model, {prompts = {"a"}}).kind)
    end)

    it("when nobody has it any more, so that a script that ends does not finish what was submitted", function()
      local held = support.fake.new()
      do
        local service = support.service{core = held:module()}
        local lost = support.client(service)
        local made = lost:session():create_model{base_model = support.BASE, lora = training.LoraConfig{rank = 4}}
        held:hold()
        for _ = 1, 3 do made:submit_forward_backward{data = {support.datum()}, loss_fn = "importance_sampling"} end
        service, lost, made = nil, nil, nil   -- luacheck: ignore
      end
      collectgarbage()
      collectgarbage()
      task.sleep(0)
      task.sleep(0)
      assert.same({}, task.waiting())
      assert.equal(1, held.closed)
    end)

    it("by the end of all tasks", function()
      core:hold()
      local first = model:submit_forward_backward{data = {support.datum()}, loss_fn = "importance_sampling"}
      local second = model:submit_optim_step{lr = 0.1}
      at.service.models[model.model_id].lane.worker:cancel("the script ends")
      task.sleep(0)
      assert.same({}, task.waiting())
      for _, one in ipairs{first, second} do assert.equal("cancelled", failure(one.result, one).code) end
      core:release()
      assert.equal(1, model:sync_committed_policy().step + 1)
    end)

    it("and others in the process go on", function()
      local other = support.start()
      client:close()
      assert.equal(1, #other.model:sample{prompts = {"a"}, max_tokens = 1})
      other.client:close()
    end)

    it("and its sessions end with it", function()
      local id = session.session_id
      assert.is_table(at.service.sessions[id])
      session:close()
      assert.is_nil(at.service.sessions[id])
      assert.same({0, 0}, {at.service.futures.count, at.service.session_count})
      assert.is_true(core.made[1].closed)
    end)
  end)

  it("lets progress go on while a pass is under way", function()
    core:hold()
    local ticks = 0
    local ticker = task.spawn(function()
      while ticks < 5 do
        ticks = ticks + 1
        task.sleep(0.001)
      end
      core:release()
    end)
    model:forward_backward{data = {support.datum()}, loss_fn = "importance_sampling"}
    assert.equal(5, ticks)
    ticker:await()
  end)

  it("begins what is submitted though the script waits for nothing", function()
    core.log = {}
    model:submit_forward_backward{data = {support.datum()}, loss_fn = "importance_sampling"}
    assert.same({"backward"}, core.log)
  end)

  describe("chats", function()
    local json = require "riverlua.json"

    local function chat(body)
      local options = {messages = {{role = "user", content = "12 + 7"}}}
      for name, value in pairs(body or {}) do options[name] = value end
      return model:chat_complete(options)
    end

    it("with the model in training", function()
      local reply = chat{max_tokens = 4, seed = 1, temperature = 0.5}
      assert.equal(200, reply.status_code)
      assert.same({("12 + 7"):byte(1, -1)}, core.requests[1].ids:table())
      assert.same({"\n"}, core.requests[1].stop)
      local body = reply:json()
      assert.same({"chat.completion", model.model_id}, {body.object, body.model})
      assert.same({"length", 0, "assistant"}, {body.choices[1].finish_reason, body.choices[1].index,
        body.choices[1].message.role})
      assert.equal(4, #reply:text())
      assert.same({prompt_tokens = 6, completion_tokens = 4, total_tokens = 10}, body.usage)
      assert.same({6, 4}, {reply.usage.prompt_tokens, reply.usage.completion_tokens})
    end)

    it("with several choices, log-probabilities and stop strings", function()
      local body = chat{n = 3, max_completion_tokens = 5, logprobs = true, top_logprobs = 2, seed = 5,
        stop = {"zzzz"}}:json()
      assert.equal(3, #body.choices)
      assert.same({5, 6, 7}, {core.requests[1].seed, core.requests[2].seed, core.requests[3].seed})
      local entry = body.choices[2].logprobs.content[1]
      assert.same({entry.token:byte()}, entry.bytes)
      assert.equal(2, #entry.top_logprobs)
      assert.same({1}, entry.top_logprobs[1].bytes)
      assert.same({6, 15}, {body.usage.prompt_tokens, body.usage.completion_tokens})
      local stopped = chat{temperature = 0, stop = "aa"}:json().choices[1]
      assert.same({"stop", ""}, {stopped.finish_reason, stopped.message.content})
    end)

    it("with a conversation, in parts", function()
      chat{max_tokens = 1, messages = {{role = "system", content = "be"}, {role = "user",
        content = {{type = "text", text = "a"}, {type = "text", text = "b"}}}}}
      assert.same({("be\nab"):byte(1, -1)}, core.requests[1].ids:table())
    end)

    it("with a base model and checkpoints", function()
      local messages = {{role = "user", content = "a"}}
      assert.equal(2, #client:chat_complete{messages = messages, base_model = support.BASE, max_tokens = 2}:text())
      local path = model:save_weights("x", {mode = "inference"}).path
      assert.equal(path, client:chat_complete_from_checkpoint{messages = messages, checkpoint_path = path,
        max_tokens = 2}:json().model)
      assert.equal(support.BASE, client:chat_complete_from_checkpoint{messages = messages, checkpoint_path = path,
        base_model = support.BASE, max_tokens = 2}:json().model)
      assert.equal(200, client:chat_complete_from_training{messages = messages, model_id = model.model_id,
        max_tokens = 2}.status_code)
    end)

    it("and is told what is wrong with the body", function()
      local many_stops = {}
      for i = 1, 65 do many_stops[i] = "a" end
      for text, body in pairs{
        ["max_tokens must be an integer from 1"] = {max_tokens = 0},
        ["n must be an integer from 1 to 128"] = {n = 129},
        ["temperature must be a number"] = {temperature = "hot"},
        ["top_p must be a number"] = {top_p = 2},
        ["stop must be a text or a list of texts"] = {stop = 5},
        ["stop must be a text or a list of"] = {stop = {["1"] = "a"}},
        ["stop has 65 texts, at most 64 are taken"] = {stop = many_stops},
        ["logprobs must be true or false"] = {logprobs = 5},
        ["seed must be an integer"] = {seed = 1.5},
        ["top_logprobs needs logprobs"] = {top_logprobs = 2},
        ["tools is not understood here"] = {tools = {{type = "function"}}},
        ["presence_penalty is not understood"] = {presence_penalty = 1},
        ["messages[0] has no role that is known"] = {messages = {{role = "robot", content = "a"}}},
        ["messages[0].content must be a text"] = {messages = {{role = "user", content = 5}}},
        ["messages[0].content[0] is no text"] = {messages = {{role = "user", content = {{type = "image_url"}}}}},
        ["the prompt has 70 tokens"] = {messages = {{role = "user", content = ("x"):rep(70)}}},
        ["neither prompt nor input_ids"] = {messages = {{role = "user", content = ""}}},
      } do
        local reply = chat(body)
        assert.equal(400, reply.status_code, text)
        local err = reply:json().error
        assert.equal("invalid_request_error", err.type)
        assert.truthy(err.message:find(text, 1, true), err.message)
      end
      local function raw(text)
        local reply = support.run(at.service, "ChatCompleteFromBase",
          {base_model = support.BASE, request_json = text}).chat_complete
        return reply.status_code, json.decode(reply.response_json).error.message
      end
      assert.same({404, "the model a table was asked for, embedded/fake is here"}, {raw('{"model": ["x"]}')})
      for text, said in pairs{["{"] = "the body is no JSON", ["[]"] = "the body must be an object",
        ['{"model": "embedded/fake"}'] = "messages must be a list",
        ['{"model": "embedded/fake", "stream": true, "messages": []}'] = "does not stream"} do
        local status, message = raw(text)
        assert.equal(400, status)
        assert.truthy(message:find(said, 1, true), message)
      end
      for asked, name in pairs{['"other"'] = "other", ['["x"]'] = "a table"} do
        local status, message = raw(('{"model": %s}'):format(asked))
        assert.same({404, ("the model %s was asked for, embedded/fake is here"):format(name)}, {status, message})
      end
    end)
  end)

  it("has texts in UTF-8 whatever is sampled", function()
    local sampling = require "training.embedded.sampling"
    for bytes, text in pairs{["abc"] = "abc", ["a\xff"] = "a\u{FFFD}", ["\xe2\x82"] = "\u{FFFD}\u{FFFD}",
      ["\u{20ac}x\xe2"] = "\u{20ac}x\u{FFFD}", [""] = "", ["\xff\xffa\xffb"] = "\u{FFFD}\u{FFFD}a\u{FFFD}b"} do
      assert.equal(text, sampling.text(bytes))
    end
  end)

  it("opens as many sessions as it likes, one after the other", function()
    for i = 1, 1100 do
      client:session{run = "run-" .. i}:close()
    end
    assert.equal(1, at.service.session_count)
  end)

  it("submits a batch again without sampling it again", function()
    local key = digest.uuid()
    local first = model:submit_sampling_batch({"a"}, {idempotency_key = key, max_tokens = 2})
    local second = model:submit_sampling_batch({"a"}, {idempotency_key = key, max_tokens = 2})
    assert.same(first.request_ids, second.request_ids)
    assert.equal(first:result()[1][1].text, second:result()[1][1].text)
  end)
end)
