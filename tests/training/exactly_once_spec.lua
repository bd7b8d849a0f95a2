-- What is submitted twice, and what must not be, when replies get lost: counted at the server, and seen in its weights.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(folder .. "support.lua")
local errors = require "riverlua.errors"
local task = require "riverlua.task"
local training = require "training"

local failure = support.failure

-- Three ways in which nobody hears that the service has acted.
local LOST = {
  {name = "the connection is cut after the act", fault = {cut = "after"}},
  {name = "the service says UNAVAILABLE though it acted", fault = {status = "UNAVAILABLE", acts = true}},
  {name = "the connection is cut before the act", fault = {cut = "before"}, not_done = true},
}

local function ordered(how, method, more)
  local fault = {method = method}
  for name, value in pairs(how.fault) do fault[name] = value end
  for name, value in pairs(more or {}) do fault[name] = value end
  return fault
end

describe("exactly once:", function()
  local server, datum
  setup(function()
    server = support.standin.start{seed = 1}
    datum = support.sampled(server)
  end)
  teardown(function() server:close() end)
  before_each(function() server:reset() end)
  after_each(function() assert.same({}, server:violations()) end)

  local function pass(model, zero_out)
    return model:forward_backward{data = {datum}, loss_fn = "importance_sampling", zero_out = zero_out}
  end

  -- θ after one pass and one step, undisturbed.
  local function wanted_theta(lr)
    local model, _, client = support.start(server)
    pass(model)
    model:optim_step(lr)
    local theta = server:model().theta
    local share = support.standin.start_probability
    assert.is_true(math.abs(theta - math.log(share / (1 - share))) > 1e-3)
    client:close()
    server:reset()
    return theta
  end

  for _, how in ipairs(LOST) do
    describe(how.name .. ":", function()
      it("an optimizer step is made once", function()
        local theta = wanted_theta(0.05)
        local model, _, client <close> = support.start(server)
        pass(model)
        server:fault(ordered(how, "OptimStep"))
        local result = model:optim_step(0.05)
        assert.equal(theta, server:model().theta)
        assert.equal(1, server:model().optimizer_steps)
        assert.equal(2, server:count("OptimStep"))
        assert.equal(1, result.policy_version.step)
        assert.equal(server:model().policy.id, result.policy_version.id)
        assert.equal(0.05, result.metrics.lr)
        local requests = server:requests("OptimStep")
        assert.truthy(requests[1].idempotency_key)
        assert.same(requests[1], requests[2])
        assert.equal(how.not_done and 0 or 1, server:counters().counters.idempotent_replays or 0)
        assert.equal(1, model.step)
        -- and the next one starts from there
        pass(model)
        assert.equal(2, model:optim_step(0.05).policy_version.step)
        assert.equal(2, server:model().optimizer_steps)
        client:close()
      end)

      it("a step without a key is not sent again; the service's state tells what became of it", function()
        local theta = wanted_theta(0.05)
        local model, _, client <close> = support.start(server)
        pass(model)
        server:fault(ordered(how, "OptimStep"))
        local ok, result = pcall(model.optim_step, model, 0.05, {idempotency_key = false})
        assert.equal(1, server:count("OptimStep"))
        if how.not_done then
          assert.is_false(ok)
          assert.equal("unavailable", result.kind)
          assert.is_true(result.sent)
          assert.is_nil(result.applied)      -- the request may still be under way
          assert.truthy(result.hint:find("sync_committed_policy", 1, true))
          assert.equal(0, server:model().optimizer_steps)
          model:sync_committed_policy()
          assert.equal(0, model.step)
        else
          assert.is_true(result.recovered)
          assert.equal(server:model().policy.id, result.policy_version.id)
          assert.same({}, result.metrics)
          assert.equal(theta, server:model().theta)
          assert.equal(1, server:model().optimizer_steps)
        end
        client:close()
      end)

      it("gradients that are cleared first may come twice, and are right", function()
        local model, _, client <close> = support.start(server)
        pass(model)
        local gradient = server:model().gradient
        assert.not_equal(0, gradient)
        server:fault(ordered(how, "ForwardBackward"))
        pass(model)
        assert.equal(gradient, server:model().gradient)
        assert.equal(3, server:count("ForwardBackward"))
        local requests = server:requests("ForwardBackward")
        assert.same(requests[2], requests[3])
        assert.equal(2, requests[3].seq_id)
        client:close()
      end)

      it("gradients that add up are not sent again", function()
        local model, _, client <close> = support.start(server)
        pass(model)
        local gradient = server:model().gradient
        server:fault(ordered(how, "ForwardBackward"))
        local err = failure(pass, model, false)
        assert.equal("unavailable", err.kind)
        assert.is_true(err.sent)
        assert.equal(1, err.attempts)
        assert.equal("whether its gradients were added is not known: begin anew, with zero_out = true", err.hint)
        assert.equal(2, server:count("ForwardBackward"))
        assert.equal(how.not_done and gradient or 2 * gradient, server:model().gradient)
        -- the advice is good
        pass(model)
        assert.equal(gradient, server:model().gradient)
        assert.equal(3, server:requests("ForwardBackward")[3].seq_id)
        client:close()
      end)

      it("a session is made once", function()
        local client <close> = support.client(server)
        support.hurry(client)
        server:fault(ordered(how, "CreateSession"))
        local err = failure(client.session, client)
        assert.equal("unavailable", err.kind)
        assert.is_true(err.sent)
        assert.equal(1, server:count("CreateSession"))
        assert.is_nil(next(client.sessions))
      end)

      it("a model is made once, unless the service itself says UNAVAILABLE", function()
        local client <close> = support.client(server)
        support.hurry(client)
        local session = client:session(support.SILENT)
        server:fault(ordered(how, "CreateModel"))
        if how.fault.status then   -- a burst of UNAVAILABLE is rather survived
          session:create_model(support.MODEL, {lora = training.LoraConfig{rank = 8}})
          assert.equal(2, server:count("CreateModel"))
          return client:close()
        end
        local err = failure(session.create_model, session, support.MODEL, {lora = training.LoraConfig{rank = 8}})
        assert.equal("unavailable", err.kind)
        assert.is_true(err.sent)
        assert.equal(1, server:count("CreateModel"))
        assert.equal(0, #session.models)
        client:close()
      end)

      it("a batch of samples has the same handles", function()
        local model, _, client <close> = support.start(server)
        server:fault(ordered(how, "SubmitSamplingBatch"))
        local batch = model:submit_sampling_batch({"1 + 1", "2 + 2"}, {num_samples = 2})
        assert.equal(2, server:count("SubmitSamplingBatch"))
        local requests = server:requests("SubmitSamplingBatch")
        assert.same(requests[1], requests[2])
        assert.equal(4, #batch.request_ids)
        local groups = batch:result()
        assert.same({2, 2}, {#groups[1], #groups[2]})
        assert.equal(4, server:model().samples)
        assert.equal(how.not_done and 0 or 1, server:counters().counters.idempotent_replays or 0)
        client:close()
      end)

      it("samples may be asked for again", function()
        local model, session, client <close> = support.start(server)
        local calls = {
          SampleFromTraining = function() return model:sample("1 + 1")[1][1] end,
          InferenceGenerate = function() return session:sample("1 + 1", {base_model = support.MODEL})[1][1] end,
          ChatCompleteFromTraining = function()
            return {text = model:chat_complete{messages = {{role = "user", content = "1 + 1"}}}:text()}
          end,
        }
        for method, call in pairs(calls) do
          server:fault(ordered(how, method))
          assert.is_string(call().text)
          assert.equal(2, server:count(method))
        end
        client:close()
      end)

      it("a checkpoint is saved again under its name, but no second version is made", function()
        local model, _, client <close> = support.start(server)
        server:fault(ordered(how, "SaveWeights"))
        local checkpoint = model:save_weights("a")
        assert.equal(2, server:count("SaveWeights"))
        local stored = server:state().checkpoints
        assert.truthy(stored[checkpoint.path])
        server:fault(ordered(how, "SaveWeights"))
        local err = failure(model.save_weights, model, "b", {immutable = true})
        assert.equal("unavailable", err.kind)
        assert.is_true(err.sent)
        assert.equal(checkpoint.path, err.checkpoint)
        assert.equal(3, server:count("SaveWeights"))
        local count = 0
        for path in pairs(server:state().checkpoints) do count = count + (path:find("/b") and 1 or 0) end
        assert.equal(how.not_done and 0 or 1, count)
        client:close()
      end)

      it("weights are loaded again", function()
        local model, _, client <close> = support.start(server)
        local checkpoint = model:save_weights("a")
        server:fault(ordered(how, "LoadWeights"))
        model:load_weights(checkpoint)
        assert.equal(2, server:count("LoadWeights"))
        assert.equal(server:model().policy.id, model.policy.id)
        client:close()
      end)

      it("a model is unloaded when its session is closed", function()
        local _, session, client <close> = support.start(server)
        server:fault(ordered(how, "UnloadModel"))
        session:close()
        assert.equal(2, server:count("UnloadModel"))
        assert.is_true(server:model().unloaded)
        client:close()
      end)
    end)
  end

  describe("when nobody knows what became of a step", function()
    it("a guard that refuses the second request proves the first", function()
      local model, _, client <close> = support.start(server)
      pass(model)
      server:fault{
        {method = "OptimStep", cut = "after"},
        {method = "OptimStep", status = "FAILED_PRECONDITION", details = "policy pol-000001 was expected"},
      }
      local result = model:optim_step(0.05)
      assert.is_true(result.recovered)
      assert.equal(1, server:model().optimizer_steps)
      assert.equal(server:model().policy.id, result.policy_version.id)
      -- the guard of the next step knows the new policy
      pass(model)
      assert.is_nil(model:optim_step(0.05).recovered)
      assert.equal(2, server:model().optimizer_steps)
      client:close()
    end)

    it("so does any other refusal of the second request", function()
      for _, code in ipairs{"ALREADY_EXISTS", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "PERMISSION_DENIED"} do
        local model, _, client <close> = support.start(server)
        pass(model)
        server:fault{{method = "OptimStep", cut = "after"}, {method = "OptimStep", status = code}}
        assert.is_true(model:optim_step(0.05).recovered, code)
        assert.equal(1, server:model(model.model_id).optimizer_steps)
        client:close()
      end
    end)

    it("a guard that refuses the first request is an error, and nothing is asked", function()
      local model, _, client <close> = support.start(server)
      pass(model)
      local err = failure(model.optim_step, model, 0.05, {expected_policy_id = "pol-of-somebody"})
      assert.equal("precondition", err.kind)
      assert.equal(1, err.attempts)
      assert.truthy(err.message:find("policy pol-of-somebody was expected", 1, true))
      assert.truthy(err.hint:find("sync_committed_policy", 1, true))
      assert.equal(0, server:count("GetInfo"))
      assert.equal(1, server:count("OptimStep"))
      assert.equal(0, server:model().optimizer_steps)
      client:close()
    end)

    it("weights that are somebody else's prove nothing", function()
      local model, _, client <close> = support.start(server)
      pass(model)
      local checkpoint = model:save_weights("a")
      model:optim_step(0.05)
      pass(model)
      -- the service went back to a checkpoint: neither the expected policy nor one made of it
      server:fault{{method = "OptimStep", status = "INTERNAL", details = "restarted"}}
      model.policy = {id = "pol-of-before", lineage_id = "l", step = 7}
      local err = failure(model.optim_step, model, 0.05)
      assert.equal("grpc", err.kind)
      assert.equal("INTERNAL", err.code)
      assert.is_nil(err.applied)
      assert.equal(checkpoint.path, err.checkpoint)
      assert.equal(1, server:model().optimizer_steps)
      assert.equal(1, model:sync_committed_policy().step)
      assert.equal(1, model.step)
      client:close()
    end)

    it("a result that the service forgot is found in its state", function()
      local model, _, client <close> = support.start(server)
      pass(model)
      server:fault{method = "OptimStep", never = true}
      local op = model:submit_optim_step(0.05)
      server:expire{future = op.request_id}
      local result = op:result()
      assert.is_true(result.recovered)
      assert.equal(1, server:model().optimizer_steps)
      assert.equal(1, server:count("OptimStep"))
      assert.equal(result, op:result())
      assert.equal(0, model.steps_pending)
      client:close()
    end)

    it("so is one of another type, one that is empty, and a reply that cannot be read", function()
      for _, how in ipairs{"type", "empty", "bytes"} do
        local model, _, client <close> = support.start(server)
        pass(model)
        server:fault{method = "OptimStep", corrupt = how}
        local result = model:optim_step(0.05)
        assert.is_true(result.recovered, how)
        assert.equal(1, result.policy_version.step)
        assert.equal(1, server:model(model.model_id).optimizer_steps)
        client:close()
      end
      assert.equal(3, server:count("OptimStep"))
    end)

    it("and the service cannot be asked either, the error says so", function()
      local model, _, client <close> = support.start(server)
      pass(model)
      model:get_policy_version()
      server:fault{{method = "OptimStep", corrupt = "bytes"}, {method = "GetInfo", status = "INTERNAL"}}
      local err = failure(model.optim_step, model, 0.05)
      assert.equal("protocol", err.kind)
      assert.is_nil(err.applied)
      assert.truthy(err.hint:find("sync_committed_policy", 1, true))
      -- the next step is guarded by the policy of before, so that it cannot be made on top of the first by mistake
      assert.equal("precondition", failure(model.optim_step, model, 0.05).kind)
      assert.equal(1, server:model().optimizer_steps)
      assert.equal(1, model:sync_committed_policy().step)
      model:optim_step(0.05)
      assert.equal(2, server:model().optimizer_steps)
      client:close()
    end)

    it("a step that was never sent was not made", function()
      local model, _, client <close> = support.start(server)
      pass(model)
      local rpc = client.transport.rpc
      function client.transport.rpc(self, method, ...)
        if method == "OptimStep" then
          errors.raise{kind = "grpc", code = "UNAVAILABLE", status = 14, sent = false, retryable = false, attempts = 1,
            message = "/OptimStep: UNAVAILABLE: no connection", method = "/OptimStep"}
        end
        return rpc(self, method, ...)
      end
      local err = failure(model.optim_step, model, 0.05)
      assert.is_false(err.applied)
      assert.is_false(err.sent)
      assert.truthy(err.message:find("; the step was not made$"))
      assert.equal("the step can be made again", err.hint)
      client.transport.rpc = nil
      assert.equal(0, model.step)
      assert.is_nil(model:optim_step(0.05).recovered)
      assert.equal(1, server:model().optimizer_steps)
      assert.equal(2, server:requests("OptimStep")[1].seq_id)
      client:close()
    end)

    it("a first attempt that went out is not forgotten by later ones that did not", function()
      local model, _, client <close> = support.start(server)
      pass(model)
      local rpc, count = client.transport.rpc, 0
      function client.transport.rpc(self, method, ...)
        if method == "OptimStep" then
          count = count + 1
          if count > 1 then
            errors.raise{kind = "grpc", code = "UNAVAILABLE", status = 14, sent = false, retryable = count < 3,
              attempts = 1, message = "/OptimStep: UNAVAILABLE: no connection", method = "/OptimStep"}
          end
        end
        return rpc(self, method, ...)
      end
      server:fault{{method = "OptimStep", cut = "before"}, {method = "GetInfo", status = "INTERNAL", after = 1}}
      local err = failure(model.optim_step, model, 0.05)
      assert.is_true(err.sent)
      assert.equal(3, err.attempts)
      assert.is_nil(err.applied)
      assert.equal(2, model.seq_id)
      client:close()
    end)

    it("a step that takes longer than the call waits is known by its policy", function()
      local model, _, client <close> = support.start(server)
      pass(model)
      server:fault{method = "OptimStep", never = true}
      local op = model:submit_optim_step(0.05)
      local result = op:result(0.02)
      assert.is_true(result.recovered)
      assert.equal(0, model.steps_pending)
      client:close()
    end)

    it("a step that is not seen to be made can be waited for", function()
      local model, _, client <close> = support.start(server)
      pass(model)
      server:fault{method = "OptimStep", never = true}
      local op = model:submit_optim_step(0.05, {expected_policy_id = false})
      local err = failure(op.result, op, 0.02)
      assert.equal("timeout", err.kind)
      assert.equal(op.request_id, err.request_id)
      assert.equal(1, model.steps_pending)
      server:finish()
      assert.equal(1, op:result().policy_version.step)
      assert.equal(0, model.steps_pending)
      client:close()
    end)

    it("a step that failed was not made, and the next one is guarded by the same policy", function()
      local model, _, client <close> = support.start(server)
      pass(model)
      server:fault{method = "OptimStep", failed = {category = "internal", message = "nan"}}
      local op = model:submit_optim_step(0.05)
      assert.equal("failed", failure(op.result, op).kind)
      assert.equal("failed", failure(op.result, op).kind)
      assert.equal(0, model.steps_pending)
      model:optim_step(0.05)
      local requests = server:requests("OptimStep")
      assert.equal(requests[1].expected_policy_id, requests[2].expected_policy_id)
      assert.not_equal(requests[1].idempotency_key, requests[2].idempotency_key)
      assert.equal(1, server:model().optimizer_steps)
      client:close()
    end)
  end)

  it("steps under way are counted once, however often one of them is asked after", function()
    local model, _, client <close> = support.start(server)
    pass(model)
    server:fault{{method = "OptimStep", poll = {status = "INTERNAL", times = 6}}, {method = "OptimStep", never = true}}
    local first = model:submit_optim_step(0.05, {expected_policy_id = false})
    pass(model)
    local second = model:submit_optim_step(0.05)
    assert.equal("grpc", failure(first.result, first).kind)
    assert.equal(1, first:result().policy_version.step)
    assert.equal(1, model.steps_pending)         -- the second
    server:finish()
    assert.equal(2, second:result().policy_version.step)
    assert.equal(0, model.steps_pending)
    client:close()
  end)

  it("train_step loses and repeats nothing", function()
    local theta = wanted_theta(0.05)
    for _, how in ipairs(LOST) do
      server:reset()
      local model, _, client <close> = support.start(server)
      server:fault{ordered(how, "ForwardBackward"), ordered(how, "OptimStep")}
      local result, step = model:train_step({datum}, 0.05, {loss_fn = "importance_sampling"})
      assert.is_number(result.metrics.loss)
      assert.equal(1, step.policy_version.step)
      assert.equal(theta, server:model().theta)
      assert.equal(1, server:model().optimizer_steps)
      client:close()
    end
  end)

  it("train_step with a pass that fails still tells of it when the step is over", function()
    local model, _, client <close> = support.start(server)
    server:fault{method = "ForwardBackward", failed = {category = "internal", message = "out of memory"}}
    local err = failure(model.train_step, model, {datum}, 0.05, {loss_fn = "importance_sampling"})
    assert.equal("failed", err.kind)
    assert.truthy(err.message:find("train_step: the service failed: internal: out of memory", 1, true))
    assert.equal(1, server:model().optimizer_steps)
    assert.equal(0, model.steps_pending)
    assert.equal(1, model.step)
    client:close()
  end)

  it("steps of several tasks are submitted one after the other, also when replies get lost", function()
    local model, _, client <close> = support.start(server)
    pass(model)
    server:fault{method = "OptimStep", cut = "after", times = 3}
    local results = task.map({1, 2, 3, 4, 5}, function()
      return model:submit_optim_step(0.01, {expected_policy_id = false}):result()
    end)
    local seen = {}
    for _, result in ipairs(results) do seen[result.policy_version.step] = true end
    assert.same({true, true, true, true, true}, seen)
    assert.equal(5, server:model().optimizer_steps)
    assert.equal(8, server:count("OptimStep"))
    client:close()
  end)

  it("steps of several tasks do not refuse each other", function()
    local model, _, client <close> = support.start(server)
    pass(model)
    task.map({1, 2, 3, 4}, function() model:optim_step(0.01) end)
    assert.equal(4, server:model().optimizer_steps)
    assert.equal(0, model.steps_pending)
    task.map({1, 2, 3, 4}, function() model:optim_step(0.01) end)      -- the policy is known now
    assert.equal(8, server:model().optimizer_steps)
    assert.equal(8, server:count("OptimStep"))
    client:close()
  end)

  describe("what a budget sets aside", function()
    local PRICES = {prompt = 1, completion = 1, training = 1}

    it("is given back when a call cannot be submitted", function()
      local client <close> = support.client(server, {budget = 1, prices = PRICES, enable_retries = false})
      support.hurry(client)
      local model, session = support.model(client, support.SILENT)
      local calls = {
        SampleFromTraining = function() return model:sample("1 + 1") end,
        SubmitSamplingBatch = function() return model:submit_sampling_batch("1 + 1"):result() end,
        ForwardBackward = function() return pass(model) end,
        InferenceGenerate = function() return session:sample("1 + 1", {base_model = support.MODEL}) end,
      }
      for method, call in pairs(calls) do
        server:fault{method = method, status = "UNAVAILABLE"}
        assert.equal("unavailable", failure(call).kind)
        assert.equal(0, session.meter.reserved, method)
        call()
      end
      server:fault{method = "InferenceGenerate", status = "UNAVAILABLE"}
      assert.equal("unavailable", failure(client.sample, client, "1 + 1", {base_model = support.MODEL}).kind)
      assert.equal(0, client.meter.reserved)
      server:configure{features = {}}
      assert.equal("unsupported", failure(model.submit_sampling_batch, model, "1 + 1",
        {policy_selection = "latest_snapshot"}).kind)
      assert.equal("argument", failure(model.submit_sampling_batch, model, "1 + 1",
        {kv_cache_policy = {max_staleness = 1}}).kind)
      client:close()
    end)
  end)
end)
