-- The operations of a model run in the order in which they came, whoever waits for them or stops waiting; what a
-- failure leaves behind; and the end of models, sessions and the service.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(folder .. "support.lua")
local clock = require "riverlua.clock"
local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local task = require "riverlua.task"

local call, refusal, result, run = support.call, support.refusal, support.result, support.run

local function prompts(count)
  local list = {}
  for i = 1, count or 1 do list[i] = {prompt = "abc", max_tokens = 4, temperature = 1, top_p = 1, top_k = -1} end
  return list
end

describe("operations of the embedded training service", function()
  local service, core, model_id, session_id, run_id, seq

  before_each(function()
    service, core = support.service()
    model_id, session_id, run_id = support.raw_model(service)
    core.log, seq = {}, 0
  end)
  after_each(function()
    service:close()
    assert.same({}, task.waiting())
  end)

  local function next_seq()
    seq = seq + 1
    return seq
  end
  local function backward(more)
    return call(service, "ForwardBackward", {model_id = model_id, seq_id = next_seq(),
      forward_backward_input = support.input(more)}).request_id
  end
  local function forward()
    local input = support.input()
    input.gradient_accumulation, input.init_gradients = false, false
    return call(service, "Forward", {model_id = model_id, seq_id = next_seq(), forward_input = input}).request_id
  end
  local function step(expected, params)
    return call(service, "OptimStep", {model_id = model_id, seq_id = next_seq(),
      adam_params = support.adam(params), expected_policy_id = expected}).request_id
  end
  local function sample(count)
    return call(service, "SampleFromTraining", {model_id = model_id, prompts = prompts(count)}).request_id
  end
  local function save(name, more)
    local request = {model_id = model_id, seq_id = next_seq(), path = run_id .. "/" .. name, mode = "training"}
    for key, value in pairs(more or {}) do request[key] = value end
    return call(service, "SaveWeights", request).request_id
  end
  local function load(path)
    return call(service, "LoadWeights", {model_id = model_id, seq_id = next_seq(), path = path,
      optimizer = true}).request_id
  end
  local function policy() return call(service, "GetInfo", {model_id = model_id}).policy_version end

  describe("of one model", function()
    it("run one after the other, as they came", function()
      core:hold()
      local ids = {backward(), forward(), step(), sample(), backward(), step()}
      task.sleep(0)
      assert.same({"backward"}, core.log)
      assert.equal(1, core.waiting)
      core:release()
      local steps = {}
      for i = #ids, 1, -1 do
        local reply = result(service, ids[i])
        if reply.optim_step then steps[#steps + 1] = reply.optim_step.policy_version end
        if reply.inference then
          local found = reply.inference.results[1]
          assert.equal(1, found.policy_version.step)   -- after the first step, before the second
          assert.same({{["end"] = 4, policy_version = found.policy_version}}, found.policy_spans)
        end
      end
      assert.same({"backward", "forward", "step", "sample", "backward", "step"}, core.log)
      assert.equal(2, steps[1].step)
      assert.equal(steps[2].id, steps[1].parent_id)
      assert.same(steps[1], policy())
    end)

    it("and those of others do not wait for it", function()
      local other = support.raw_model(service)
      core.log = {}
      core:hold()
      backward()
      local id = call(service, "ForwardBackward", {model_id = other, seq_id = 1,
        forward_backward_input = support.input()}).request_id
      task.sleep(0)
      assert.same({"backward", "backward"}, core.log)
      core:release()
      assert.is_table(result(service, id, other).forward_backward)
    end)

    it("are judged by the policy that there will be", function()
      core:hold()
      local first = policy().id
      step(first)
      task.sleep(0)
      assert.equal(first, policy().id)   -- none is committed yet
      local err = refusal(service, "OptimStep", {model_id = model_id, seq_id = next_seq(),
        adam_params = support.adam(), expected_policy_id = first})
      assert.equal("FAILED_PRECONDITION", err.code)
      local coming = err.details:match("(pol%-[%x-]+) is current")
      local second = step(coming)
      core:release()
      assert.equal(coming, result(service, second).optim_step.policy_version.parent_id)
    end)

    it("go on after one that fails; what relied on it is refused", function()
      core:hold()
      local before = policy().id
      core.failure = errors.new{kind = "memory", message = "no memory"}
      local failing = step()
      local expected = refusal(service, "OptimStep", {model_id = model_id, seq_id = next_seq(),
        adam_params = support.adam(), expected_policy_id = "x"}).details:match("(pol%-[%x-]+) is current")
      local guarded, free = step(expected), step()
      core:release()
      local failed = result(service, failing).failed
      assert.same({"out_of_memory", "no memory"}, {failed.error_category, failed.message})
      local err = refusal(service, "RetrieveFuture", {request_id = guarded})
      assert.equal("FAILED_PRECONDITION", err.code)
      assert.truthy(err.details:find(expected .. " was expected, " .. before .. " is current", 1, true))
      local made = result(service, free).optim_step.policy_version
      assert.same({1, before}, {made.step, made.parent_id})
      assert.is_table(result(service, step(made.id)).optim_step)
    end)

    it("count a step whose gradient is not finite, and say so", function()
      local datum = require("training.datum").encode(support.datum{advantages = {0, 1e38, 1e38}})
      result(service, backward{data = {{data = datum}}})
      local reply = result(service, step(nil, {gradient_scale = 1e300, grad_clip_norm = 1})).optim_step
      assert.equal(0, reply.metrics.grad_norm_finite)
      assert.equal(math.huge, reply.metrics.grad_norm)
      assert.equal(1, reply.policy_version.step)
      local next_reply = result(service, step()).optim_step
      assert.equal(1, next_reply.metrics.grad_norm_finite)
      assert.equal(2, next_reply.metrics.step)
      assert.equal(0.01, next_reply.metrics.lr)
    end)

    it("are known when they are sent again, and done once", function()
      core:hold()
      local request = {model_id = model_id, seq_id = next_seq(), forward_backward_input = support.input()}
      local id = call(service, "ForwardBackward", request).request_id
      assert.equal(id, call(service, "ForwardBackward", request).request_id)
      core:release()
      result(service, id)
      assert.equal(id, call(service, "ForwardBackward", request).request_id)
      assert.same({"backward"}, core.log)
    end)

    it("load what an earlier one saves", function()
      core:hold()
      local stepped, saved = step(), save("a")
      local path = ("river://%s/weights/a"):format(run_id)
      step()
      local loaded = load(path)
      local err = refusal(service, "OptimStep", {model_id = model_id, seq_id = next_seq(),
        adam_params = support.adam(), expected_policy_id = "x"})
      core:release()
      local after = result(service, stepped).optim_step.policy_version
      assert.equal(path, result(service, saved).save_weights.path)
      assert.same(after, result(service, loaded).load_weights.policy_version)
      assert.truthy(err.details:find(after.id .. " is current", 1, true))
      assert.same(after, policy())
      assert.equal(after.id, result(service, step(after.id)).optim_step.policy_version.parent_id)
    end)

    it("never replace an immutable checkpoint, and a policy that is pinned stays what it was", function()
      local pinned = policy()
      local first = save("a", {mode = "inference", immutable = true})
      step()
      local second, third = save("a"), save("a")   -- while the first is only promised
      local paths = {}
      for i, id in ipairs{first, second, third} do paths[i] = result(service, id).save_weights.path end
      local base = ("river://%s/weights/a"):format(run_id)
      assert.same({base, base .. "@2", base .. "@2"}, paths)
      local ids = call(service, "SubmitSamplingBatch", {idempotency_key = digest.uuid(),
        pinned_policy_id = pinned.id, training = {model_id = model_id, prompts = prompts()}}).request_ids
      local found
      repeat
        found = support.stream(service, "RetrieveSamplingResults", {request_ids = ids})[1]
      until not found.pending
      assert.equal(pinned.id, found.inference.results[1].policy_version.id)
    end)

    it("hold no weights while they wait", function()
      local path = result(service, save("a")).save_weights.path
      service.store.loaded = 0
      core:hold()
      local ids = {}
      for i = 1, 20 do
        ids[i] = call(service, "SampleFromCheckpoint", {checkpoint_path = path, prompts = prompts()}).request_id
      end
      assert.equal(0, service.store.loaded)
      core:release()
      for _, id in ipairs(ids) do assert.is_table(result(service, id).inference) end
      assert.equal(1, service.store.loaded)
    end)

    it("do not load what could not be saved", function()
      service.store.failure = errors.new{kind = "storage", message = "the disk is full", hint = "make room"}
      core:hold()
      local saved, loaded = save("a"), load(("river://%s/weights/a"):format(run_id))
      core:release()
      local failed = result(service, saved).failed
      assert.same({"storage", "the disk is full (make room)"}, {failed.error_category, failed.message})
      assert.equal("NOT_FOUND", refusal(service, "RetrieveFuture", {request_id = loaded}).code)
      assert.equal(0, policy().step)
      assert.is_table(result(service, step(policy().id)).optim_step)
      assert.is_table(result(service, save("a")).save_weights)
    end)
  end)

  describe("whose result is waited for", function()
    it("hold the call until it is there", function()
      core:hold()
      local id = sample()
      local waiter = task.spawn(support.call, service, "RetrieveFuture", {request_id = id})
      task.sleep(0)
      task.sleep(0)
      assert.equal("waiting", waiter:status())
      core:release()
      assert.is_table(waiter:await().inference)
    end)

    it("or until its time is up", function()
      core:hold()
      local first, second = backward(), backward()
      local function ask(id)
        return call(service, "RetrieveFuture", {request_id = id}, {timeout = 0.01}).try_again
      end
      assert.same({request_id = first, queue_state = "running"}, ask(first))
      assert.same({request_id = second, queue_state = "queued"}, ask(second))
    end)

    it("go on when the one who waits is cancelled", function()
      core:hold()
      local id = backward()
      local waiter = task.spawn(support.result, service, id)
      local other = task.spawn(support.result, service, id)
      task.sleep(0)
      waiter:cancel("enough")
      waiter:join()
      assert.equal("cancelled", waiter:status())
      core:release()
      assert.is_table(other:await().forward_backward)
      assert.is_table(result(service, id).forward_backward)   -- again
      assert.is_table(result(service, step()).optim_step)
    end)

    it("let other tasks go on meanwhile", function()
      core:hold()
      local id, turns = backward(), 0
      local ticker = task.spawn(function()
        for _ = 1, 20 do
          turns = turns + 1
          task.sleep(0)
        end
        core:release()
      end)
      assert.is_table(result(service, id).forward_backward)
      ticker:await()
      assert.equal(20, turns)
    end)
  end)

  describe("of a model that is unloaded", function()
    it("are given up, and the one under way is ended", function()
      core:hold()
      local running, waiting = backward(), step()
      task.sleep(0)
      local unload = call(service, "UnloadModel", {model_id = model_id}).request_id
      assert.is_table(result(service, unload, model_id).unload_model)   -- though the core is held
      for _, id in ipairs{running, waiting} do
        local failed = result(service, id).failed
        assert.equal("cancelled", failed.error_category)
        assert.truthy(failed.message:find("unload", 1, true), failed.message)
      end
      assert.is_true(core.made[1].closed)
      assert.equal("NOT_FOUND", refusal(service, "GetInfo", {model_id = model_id}).code)
    end)

    it("are done when a checkpoint is to be saved after them", function()
      core:hold()
      local stepped, saved, lost = step(), save("a"), backward()
      task.sleep(0)
      local unload = call(service, "UnloadModel", {model_id = model_id}).request_id
      core:release()
      assert.is_table(result(service, unload).unload_model)
      assert.equal(1, result(service, stepped).optim_step.metrics.step)
      local path = result(service, saved).save_weights.path
      assert.equal(1, service.store:load(path).policy.step)
      assert.equal("cancelled", result(service, lost).failed.error_category)
    end)

    it("leave nothing behind that its session would keep", function()
      model_id, session_id, run_id = support.raw_model(service, {lora_config = false, full_weight = true})
      seq = 0
      for _ = 1, 3 do
        step()
        save("now", {mode = "publish"})
      end
      run(service, "UnloadModel", {model_id = model_id})
      local weak = setmetatable({core.made[2]}, {__mode = "v"})
      core.made = nil
      local model = service.models[model_id]
      assert.same({nil, {}, {}, {}}, {model.snapshot, model.snapshots, model.keys, model.seqs})
      collectgarbage()
      assert.is_nil(weak[1])
    end)

    it("and of one that could not be made", function()
      local lanes = 0
      core.failure = errors.new{kind = "memory", message = "there is no memory"}
      local own = call(service, "CreateSession", {}).session_id
      local made = run(service, "CreateModel", {session_id = own, model_seq_id = 1, base_model = support.BASE,
        lora_config = {rank = 4, train_attn = true}})
      assert.equal("out_of_memory", made.failed.error_category)
      service:end_session(own)
      for _ in pairs(service.lanes) do lanes = lanes + 1 end
      assert.equal(2, lanes)   -- that of all, and of the other model
    end)

    it("do not take its uploads with them", function()
      call(service, "CreateUpload", {model_id = model_id, total_size = 10, chunk_count = 1})
      assert.equal(1, service.upload_count)
      run(service, "UnloadModel", {model_id = model_id})
      assert.equal(0, service.upload_count)
    end)
  end)

  describe("of a session", function()
    it("that is not heard of for half an hour end with it", function()
      core:hold()
      local id, handle = backward(), call(service, "SubmitSamplingBatch", {idempotency_key =
        require("riverlua.digest").uuid(), training = {model_id = model_id, prompts = prompts()}}).request_ids[1]
      task.sleep(0)
      local waiter = task.spawn(support.result, service, id)
      task.sleep(0)
      assert.equal(0, service:reap(clock.now() + 1799))
      assert.is_true(call(service, "SessionHeartbeat", {session_id = session_id}).success)
      assert.equal(1, service:reap(clock.now() + 1801))
      local ok, err = pcall(waiter.await, waiter)
      assert.is_false(ok)
      assert.equal("NOT_FOUND", err.code)
      assert.is_false(call(service, "SessionHeartbeat", {session_id = session_id}).success)
      assert.equal("NOT_FOUND", refusal(service, "GetInfo", {model_id = model_id}).code)
      assert.equal(5, support.stream(service, "RetrieveSamplingResults", {request_ids = {handle}})[1].error.code)
      core:release()
      task.sleep(0)
      task.sleep(0)
      assert.is_true(core.made[1].closed)
      assert.same({0, 0, 0}, {service.session_count, service.futures.count, service.futures.pending})
      assert.equal(0, service:reap(clock.now() + 10000))
    end)

    it("and uploads that are not used, and checkpoints whose time is over", function()
      call(service, "CreateUpload", {model_id = model_id, total_size = 10, chunk_count = 2})
      local id = call(service, "CreateUpload", {model_id = model_id, total_size = 10, chunk_count = 2}).upload_id
      local now = clock.now()
      for _, upload in pairs(service.uploads) do upload.last = now - 700 end
      call(service, "UploadChunk", {upload_id = id, chunk_index = 0, data = "x"})
      assert.equal(0, service:reap(now))
      assert.same({1, 1}, {service.upload_count, service.upload_bytes})
      assert.is_table(service.uploads[id])
      assert.equal(1, service.store.swept)
      for _, seconds in ipairs{10, 3000, 3700} do service:reap(now + seconds) end
      assert.equal(2, service.store.swept)
    end)

    it("stay as long as it lives, and heartbeats say that there is room", function()
      local reply = call(service, "SessionHeartbeat", {session_id = session_id})
      local states = {}
      for _, status in ipairs(reply.capacity_status) do
        assert.equal(run_id, status.training_run_id)
        states[status.workload] = status.state
      end
      assert.same({training = "ready", inference = "ready"}, states)
    end)
  end)

  describe("when the service is closed", function()
    it("fail at once", function()
      core:hold()
      local id = backward()
      local waiter = task.spawn(support.result, service, id)
      local streamer = task.spawn(function()
        local handle = call(service, "SubmitSamplingBatch", {idempotency_key = require("riverlua.digest").uuid(),
          base_source = {base_model = support.BASE, prompts = prompts()}}).request_ids[1]
        return support.stream(service, "RetrieveSamplingResults", {request_ids = {handle}})
      end)
      task.sleep(0)
      task.sleep(0)
      service:close()
      for _, one in ipairs{waiter, streamer} do
        local ok, err = pcall(one.await, one)
        assert.is_false(ok)
        assert.equal("closed", err.kind)
      end
      local ok, err = pcall(support.call, service, "HealthCheck", {})
      assert.is_false(ok)
      assert.equal("closed", err.kind)
      assert.same({1, 1}, {core.opened, core.closed})
      assert.is_true(service.store.closed)
      assert.same({}, task.waiting())
    end)

    it("by a task that is cancelled while it waits for them, the engine is closed all the same", function()
      backward()
      local go_on = require("riverlua.core.task").signal()
      service.lane:push{size = 0, fail = function() end, run = function()
        local _ <close> = setmetatable({}, {__close = function() go_on:wait() end})   -- takes its time to end
        task.sleep(1000)
      end}
      task.sleep(0)
      local closer = task.spawn(service.close, service)
      task.sleep(0)
      assert.equal(0, core.closed)
      closer:cancel()
      local ok, err = pcall(closer.await, closer)
      assert.is_false(ok)
      assert.equal("cancelled", err.kind)
      assert.same({1, 1}, {core.opened, core.closed})
      assert.is_true(service.store.closed)
      go_on:fire()
      for _ = 1, 3 do task.sleep(0) end
    end)

    it("before anything was done, nothing was opened", function()
      local other, idle = support.service()
      other:close()
      other:close()
      assert.same({0, 0}, {idle.opened, idle.closed})
    end)
  end)

  describe("are bounded:", function()
    it("results are kept until they are collected, and a while longer", function()
      local futures = require("training.embedded.futures").new{collected = 160000, kept = 512000}
      local text = ("x"):rep(9400)
      local ids = {}
      for i = 1, 40 do
        local future = futures:add{}
        ids[i] = future.id
        future:finish{chat_complete = {response_json = text}}
      end
      assert.same({40, 0}, {futures.count, futures.pending})
      for i = 1, 40 do assert.is_string(futures:collect(futures:find(ids[i]))) end
      assert.equal(16, futures.count)                -- of what was collected
      assert.is_string(futures:collect(futures:find(ids[40])))
      local ok, err = pcall(futures.find, futures, ids[1])
      assert.is_false(ok)
      assert.equal("NOT_FOUND", err.code)
      for _ = 1, 100 do futures:add{}:finish{chat_complete = {response_json = text}} end
      assert.equal(51, futures.count)                -- in all
    end)

    it("one that nobody collects holds up no others, and one that is too large is there all the same", function()
      local futures = require("training.embedded.futures").new{collected = 100000, kept = 512000}
      local lost = futures:add{}
      lost:finish{chat_complete = {response_json = "lost"}}
      for _ = 1, 20000 do
        local future = futures:add{}
        future:finish{chat_complete = {response_json = "x"}}
        futures:collect(future)
      end
      local places = 0
      for _ in pairs(futures.ended) do places = places + 1 end
      assert.is_true(places < 3000, tostring(places))
      assert.is_true(futures.count < 300)
      assert.is_string(futures:collect(futures:find(lost.id)))
      local large = futures:add{}
      large:finish{chat_complete = {response_json = ("x"):rep(600000)}}
      for _ = 1, 2 do assert.is_string(futures:collect(futures:find(large.id))) end   -- the answer may get lost
      futures:add{}:finish{chat_complete = {response_json = "x"}}
      assert.is_false(pcall(futures.find, futures, large.id))
    end)

    it("what is refused for want of room has changed nothing", function()
      local before, key = policy(), digest.uuid()
      service.futures.limits.pending = 3
      core:hold()
      local batch = {idempotency_key = key, training = {model_id = model_id, prompts = prompts(64)}}
      assert.equal("RESOURCE_EXHAUSTED", refusal(service, "SubmitSamplingBatch", batch).code)
      assert.equal(0, service.futures.pending)
      for _ = 1, 3 do sample() end
      local wanted = {model_id = model_id, seq_id = next_seq(), adam_params = support.adam()}
      assert.equal("RESOURCE_EXHAUSTED", refusal(service, "OptimStep", wanted).code)
      assert.equal("RESOURCE_EXHAUSTED", refusal(service, "SaveWeights", {model_id = model_id,
        seq_id = next_seq(), path = run_id .. "/a", mode = "training"}).code)
      assert.same({}, service.promised)
      core:release()
      service.futures.limits.pending = 1000
      assert.is_string(step(before.id))
    end)

    it("so many may wait", function()
      core:hold()
      local request = {model_id = model_id, prompts = prompts()}
      local err
      for _ = 1, 8200 do
        local ok, problem = pcall(support.call, service, "SampleFromTraining", request)
        if not ok then err = problem break end
      end
      assert.equal("RESOURCE_EXHAUSTED", err.code)
      assert.truthy(err.details:find("8192 operations", 1, true), err.details)
    end)
  end)
end)
