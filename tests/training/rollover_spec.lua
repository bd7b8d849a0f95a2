-- Servers that come and go under a run: GOAWAY, and connections that end without a word. Nothing is lost and nothing
-- repeated; counted at the server.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(folder .. "support.lua")
local task = require "riverlua.task"

local failure = support.failure

describe("a server that goes away", function()
  describe("every now and then", function()
    it("is not noticed by a long run", function()
      -- an age of its own for each connection, so that calls are under way when it ends
      local server <close> = support.standin.start{seed = 1, max_connection_age = 0.1, max_connection_age_grace = 60}
      local datum = support.sampled(server)
      local events = {}
      local client <close> = support.client(server, {trace = function(event)
        if event.code ~= "OK" or event.attempts > 1 then events[#events + 1] = event.method .. " " .. event.code end
      end})
      local model = support.model(client, support.SILENT)
      local steps = 0
      repeat
        steps = steps + 1
        local ops = {}
        for i = 1, 4 do ops[i] = model:submit_forward_backward{data = {datum}, loss_fn = "importance_sampling",
          zero_out = i == 1} end
        local step = model:submit_optim_step(1e-4, {expected_policy_id = false})
        for _, op in ipairs(ops) do op:result() end
        assert.equal(steps, step:result().policy_version.step)
        assert.equal(3, #model:submit_sampling_batch({"1 + 1", "2 + 2", "3 + 3"}):result())
      until #server:connections() >= 8
      assert.same({}, events)
      local counters = server:counters()
      assert.equal(steps, counters.calls.OptimStep)
      assert.equal(4 * steps, counters.calls.ForwardBackward)
      assert.equal(steps, counters.calls.SubmitSamplingBatch)
      assert.equal(steps, server:model().optimizer_steps)
      assert.equal(4 * steps, server:model().backwards)
      assert.equal(3 * steps, server:model().samples)
      for _, name in ipairs{"duplicates", "idempotent_replays", "cancelled"} do
        assert.is_nil(counters.counters[name], name)
      end
      assert.same({}, counters.violations)
    end)
  end)

  describe("in the middle of calls", function()
    local server, datum
    setup(function()
      server = support.standin.start{seed = 1}
      datum = support.sampled(server)
    end)
    teardown(function() server:close() end)
    before_each(function() server:reset() end)
    after_each(function() assert.same({}, server:violations()) end)

    local CALLS = {
      {"OptimStep", function(model) return model:optim_step(0.01).policy_version.step end},
      {"ForwardBackward", function(model)
        return #model:forward_backward({datum}, "importance_sampling", {zero_out = true}).logprobs
      end},
      {"ForwardBackward", function(model)
        return #model:forward_backward({datum}, "importance_sampling", {zero_out = false}).logprobs
      end, adds = true},
      {"SampleFromTraining", function(model) return #model:sample("1 + 1") end},
      {"RetrieveFuture", function(model) return #model:sample("1 + 1") end, polls = true},
      {"SaveWeights", function(model) return model:save_weights("a").path and 1 end},
      {"GetInfo", function(model) return model:get_info() and 1 end},
    }

    -- Runs a call whose answer the server holds back while it goes away.
    local function interrupted(call, order)
      local model, _, client = support.start(server)
      server:forget()
      server:fault{method = call[1], hold_reply = "x"}
      local done
      local running = task.spawn(function() done = {pcall(call[2], model)} end)
      assert.is_true(server:wait_for{held = "x"})
      server:goaway(order)
      repeat until client:health_check()               -- the next server has taken over
      server:release("x")
      running:join()
      return done, model, client
    end

    for _, call in ipairs(CALLS) do
      local name = call[1] .. (call.adds and " that adds" or call.polls and " while it is polled" or "")
      it("lets them end: " .. name, function()
        local done, _, client <close> = interrupted(call, {grace = 60})
        assert.is_true(done[1], tostring(done[2]))
        assert.equal(1, done[2])
        assert.equal(1, server:count(call[1]))
        client:close()
      end)

      it("breaks them off, though they are done: " .. name, function()
        local done, model, client <close> = interrupted(call, {grace = 0})
        if call.adds then
          assert.is_false(done[1])
          assert.equal("unavailable", done[2].kind)
          assert.is_true(done[2].sent)
          assert.equal(1, server:count(call[1]))
          assert.equal(1, server:model().backwards)
        else
          assert.is_true(done[1], tostring(done[2]))
          assert.equal(1, done[2])
          assert.equal(2, server:count(call[1]))
        end
        local once = call[1] == "OptimStep" and 1 or 0
        assert.equal(once, server:model(model.model_id).optimizer_steps)
        assert.equal(once, server:counters().counters.idempotent_replays or 0)
        client:close()
      end)
    end

    it("breaks streams off, in which samples were", function()
      for _, grace in ipairs{60, 0} do
        local model, _, client <close> = support.start(server)
        local batch = model:submit_sampling_batch{"1 + 1", "2 + 2", "3 + 3"}
        server:forget()
        server:fault{method = "RetrieveSamplingResults", stream = {hold_after = 2, key = "x"}}
        local groups
        local running = task.spawn(function() groups = support.leap(client, batch.result, batch) end)
        assert.is_true(server:wait_for{held = "x"})
        server:goaway{grace = grace}
        server:release("x")
        running:join()
        assert.equal(3, #groups)
        assert.equal(grace > 0 and 1 or 2, server:count("RetrieveSamplingResults"))
        assert.equal(3, server:model(model.model_id).samples)
        client:close()
      end
    end)

    it("and has lost its memory: nothing is found, and the session is known to be lost", function()
      local model, session, client <close> = support.start(server)
      local checkpoint = model:save_weights("kept")
      server:goaway{grace = 0, lose = true}
      local err = failure(model.sample, model, "1 + 1")
      assert.equal("session_lost", err.kind)
      assert.equal(checkpoint.path, err.checkpoint)
      session:close()
      client:close()
      assert.equal(0, server:count("UnloadModel"))
    end)
  end)

  describe("without a word", function()
    local server
    setup(function() server = support.standin.start{seed = 1} end)
    teardown(function() server:close() end)
    before_each(function()
      server:reset()
      server:accept("pass")
    end)

    it("cut from the client between calls, it is found again at once", function()
      local model, _, client <close> = support.start(server)
      for _ = 1, 20 do
        server:cut()
        assert.equal(1, #model:sample("1 + 1"))
      end
      assert.equal(20, server:count("SampleFromTraining"))
      assert.equal(20, server:model().samples)
      client:close()
    end)

    it("cut while many calls are under way, each is answered", function()
      local model, _, client <close> = support.start(server)
      server:fault{method = "GetInfo", hold = "x", times = 30}
      local answers = 0
      local running = task.spawn(function()
        task.map(support.sums(30), function()
          if model:get_info().model_id == model.model_id then answers = answers + 1 end
        end, {concurrency = 30})
      end)
      assert.is_true(server:wait_for{held = "x", count = 30})
      server:cut()
      server:release("x")
      running:join()
      assert.equal(30, answers)
      assert.equal(60, server:count("GetInfo"))
      client:close()
    end)

    it("answering something else than HTTP/2, it is an error that says so", function()
      local model, _, client <close> = support.start(server, {enable_retries = false})
      server:accept("answer", "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")
      server:cut()
      local err = failure(model.get_info, model)
      assert.equal("unavailable", err.kind)
      assert.truthy(err.message:find("^get_info: the service cannot be reached %[UNAVAILABLE%]"), err.message)
      server:accept("pass")
      repeat until client:health_check()   -- a channel does not open connections without end
      client:close()
    end)
  end)
end)
