-- The training client when calls fail: what is tried again, when and how often, and what errors say. All calls are
-- counted at the server (tests/servers/training_standin.py).

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(folder .. "support.lua")
local clock = require "riverlua.clock"
local errors = require "riverlua.errors"
local training = require "training"

local failure = support.failure

-- Whether seconds are those of a schedule; `jitter`: share that they may differ by.
local function assert_pauses(expected, pauses, jitter)
  assert.equal(#expected, #pauses)
  for i, wanted in ipairs(expected) do
    local least, most = wanted * (1 - jitter) - 1e-9, wanted * (1 + jitter) + 1e-9
    assert.is_true(pauses[i] >= least and pauses[i] <= most, ("pause %d is %g, not %g"):format(i, pauses[i], wanted))
  end
end

describe("the training client under faults", function()
  local server
  setup(function() server = support.standin.start{seed = 1} end)
  teardown(function() server:close() end)
  before_each(function() server:reset() end)
  after_each(function() assert.same({}, server:violations()) end)

  describe("UNAVAILABLE", function()
    it("is survived when it is short, and the server is told how often a call was tried", function()
      local model, _, client <close>, pauses = support.start(server)
      server:fault{method = "GetInfo", status = "UNAVAILABLE", times = 4}
      assert.equal(model.model_id, model:get_info().model_id)
      assert.equal(5, server:count("GetInfo"))
      assert.same({"", "1", "2", "3", "4"}, support.headers(server, "GetInfo", "grpc-previous-rpc-attempts"))
      assert_pauses({0.5, 1, 2, 4}, pauses, 0.2)
      assert.equal(4, client:stats().retries)
    end)

    it("is waited for in rounds where an operation begins", function()
      local model, _, client <close>, pauses = support.start(server)
      server:fault{method = "SampleFromTraining", status = "UNAVAILABLE", times = 29}
      assert.equal(1, #model:sample("1 + 1"))
      assert.equal(30, server:count("SampleFromTraining"))
      local rounds, within = {}, {}
      for i, seconds in ipairs(pauses) do
        local list = i % 5 == 0 and rounds or within
        list[#list + 1] = seconds
      end
      assert_pauses({1, 2, 4, 8, 8}, rounds, 0)
      assert_pauses({0.5, 1, 2, 4, 0.5, 1, 2, 4, 0.5, 1, 2, 4, 0.5, 1, 2, 4, 0.5, 1, 2, 4, 0.5, 1, 2, 4}, within, 0.2)
      assert.equal(client.transport, model.session.wire.transport)
    end)

    it("has pauses that differ between clients", function()
      local seen = {}
      for _ = 1, 4 do
        local client <close> = support.client(server)
        local pauses = support.hurry(client)
        server:fault{method = "GetServerCapabilities", status = "UNAVAILABLE", times = 2}
        client:get_capabilities()
        seen[pauses[1]], seen[pauses[2]] = true, true
      end
      local count = 0
      for _ in pairs(seen) do count = count + 1 end
      assert.equal(8, count)
    end)

    it("is given up after five attempts by calls that begin no operation", function()
      local client <close> = support.client(server)
      local pauses = support.hurry(client)
      server:fault{method = "GetServerCapabilities", status = "UNAVAILABLE", details = "closed for today", times = -1}
      local err = failure(client.get_capabilities, client)
      assert.equal("unavailable", err.kind)
      assert.equal(14, err.status)
      assert.equal("UNAVAILABLE", err.code)
      assert.equal(5, err.attempts)
      assert.equal("closed for today", err.details)
      assert.is_true(err.retryable)
      assert.equal(5, server:count("GetServerCapabilities"))
      assert.equal("unavailable: get_server_capabilities: the service cannot be reached [UNAVAILABLE] - closed for "
        .. "today (tried 5 times) (hint: check endpoint, port and use_ssl, and that the service is up)", tostring(err))
      assert.equal(4, #pauses)
    end)

    it("ends with the time of the call", function()
      local model, _, client <close>, pauses = support.start(server)
      server:fault{method = "SampleFromTraining", status = "UNAVAILABLE", times = -1}
      local err = failure(model.sample, model, "1 + 1", {timeout = 1.4})   -- shorter than the third pause may be
      assert.equal("unavailable", err.kind)
      assert.is_true(err.attempts >= 2 and err.attempts <= 3)
      assert.equal(err.attempts, server:count("SampleFromTraining"))
      assert.equal(err.attempts - 1, #pauses)
      assert.is_true(client:health_check())
    end)

    it("fails at once with enable_retries = false, but polls go on", function()
      local model, _, client <close>, pauses = support.start(server, {enable_retries = false})
      server:fault{method = "SampleFromTraining", status = "UNAVAILABLE"}
      local err = failure(model.sample, model, "1 + 1")
      assert.equal("unavailable", err.kind)
      assert.equal(1, err.attempts)
      assert.equal(1, server:count("SampleFromTraining"))
      assert.same({}, pauses)
      server:fault{method = "SubmitSamplingBatch", status = "UNAVAILABLE"}
      assert.equal("unavailable", failure(model.submit_sampling_batch, model, "1 + 1").kind)
      assert.equal(1, server:count("SubmitSamplingBatch"))
      server:fault{method = "SampleFromTraining", poll = {status = "UNAVAILABLE", times = 3}}
      assert.equal(1, #model:sample("1 + 1"))
      assert_pauses({0.5, 1, 2}, pauses, 0)
      client:close()
    end)

    it("is not waited for when the session is lost meanwhile", function()
      local model, session, client <close> = support.start(server)
      server:fault{method = "SampleFromTraining", status = "UNAVAILABLE", times = -1}
      session.heartbeat:stop()
      session.heartbeat = {stop = function() end, check = function()
        if server:count("SampleFromTraining") >= 5 then
          errors.raise{kind = "session_lost", message = "session s: lost", retryable = false}
        end
      end}
      local err = failure(model.sample, model, "1 + 1")
      assert.equal("session_lost", err.kind)
      assert.truthy(err.message:find("^sample: "), err.message)
      assert.equal(5, server:count("SampleFromTraining"))
      client:close()
    end)
  end)

  describe("a connection that cannot be opened", function()
    local path = os.tmpname()
    local there <const>, gone <const> = path .. ".sock", path .. ".away"
    local behind

    setup(function() behind = support.standin.start{seed = 1, unix_socket = there} end)
    teardown(function()
      behind:close()
      for _, name in ipairs{path, there, gone} do os.remove(name) end
    end)
    before_each(function() behind:reset() end)

    local function disconnect(client)
      assert(os.rename(there, gone))
      behind:cut()
      repeat until not client:health_check()     -- it knows
    end

    it("is tried again, whatever the call: nothing was sent", function()
      local model, _, client <close> = support.start(behind, {http = {unix_socket = there}})
      local pauses = 0
      disconnect(client)
      function client.transport.pause()
        pauses = pauses + 1
        if pauses == 7 then assert(os.rename(gone, there)) end
      end
      local result = model:forward_backward{data = {support.datum()}, loss_fn = "importance_sampling",
        zero_out = false}
      assert.is_number(result.metrics.loss)
      assert.equal(1, behind:count("ForwardBackward"))
      assert.is_true(pauses >= 7)
      assert.same({}, behind:violations())
    end)

    it("is an error that says so, and gives the sequence id to the next call", function()
      local model, _, client <close> = support.start(behind, {http = {unix_socket = there}, enable_retries = false})
      disconnect(client)
      local err = failure(model.forward_backward, model, {support.datum()}, "importance_sampling", {zero_out = false})
      assert.equal("unavailable", err.kind)
      assert.is_false(err.sent)
      assert.truthy(err.hint:find("is the server running", 1, true))
      assert.is_false(failure(model.optim_step, model, 1e-3).sent)
      assert.equal(0, model.seq_id)
      assert.equal(0, model.step)
      assert(os.rename(gone, there))
      repeat until client:health_check()   -- a channel does not open connections without end
      model:forward_backward({support.datum()}, "importance_sampling")
      model:optim_step(1e-3)
      assert.equal(1, behind:requests("ForwardBackward")[1].seq_id)
      assert.equal(2, behind:requests("OptimStep")[1].seq_id)
      assert.equal(1, model.step)
      assert.same({}, behind:violations())
    end)

    it("is tried a few times when a session is made", function()
      local client <close> = training.Client{api_key = support.KEY, endpoint = "http://127.0.0.1", port = 1}
      local pauses = support.hurry(client)
      local err = failure(client.session, client)
      assert.equal("unavailable", err.kind)
      assert.is_false(err.sent)
      assert.equal(5, err.attempts)
      assert.equal(4, #pauses)
      assert.truthy(err.hint:find("is the server running", 1, true), err.hint)
    end)
  end)

  describe("an operation", function()
    it("is asked after as often as the service says try_again", function()
      local model, _, client <close> = support.start(server)
      server:fault{method = "SampleFromTraining", try_again = 7}
      local op = model:submit_sample("1 + 1")
      assert.equal(1, #op:result())
      assert.equal(8, server:state().futures[op.request_id].polls)
      assert.equal("queued", op.queue_state)
      assert.equal(1, #op:result())                     -- asks no more
      assert.equal(8, server:state().futures[op.request_id].polls)
      client:close()
    end)

    it("that does not end runs out of time, and can be waited for again", function()
      local model, _, client <close> = support.start(server)
      server:fault{method = "SampleFromTraining", never = true}
      local op = model:submit_sample("1 + 1")
      local err = failure(op.result, op, 0.03)
      assert.equal("timeout", err.kind)
      assert.equal("total", err.phase)
      assert.equal(op.request_id, err.request_id)
      assert.is_true(err.retryable)
      assert.equal(("timeout: submit_sample: not done after 0.03 s (hint: it goes on there (request id %s): "
        .. ":result() can be called again)"):format(op.request_id), tostring(err))
      assert.equal("timeout", failure(op.result, op, 0.01).kind)
      assert.is_false(op.done)
      server:finish()
      assert.equal(1, #op:result())
      assert.is_true(op.done)
      assert.equal(1, server:count("SampleFromTraining"))
      client:close()
    end)

    it("can be looked at without waiting", function()
      local model, _, client <close> = support.start(server)
      server:fault{method = "SampleFromTraining", never = true}
      local op = model:submit_sample("1 + 1")
      assert.equal("timeout", failure(op.result, op, 0).kind)
      client:close()
    end)

    it("survives an answer that is held back beyond the time of the wait", function()
      local model, _, client <close> = support.start(server)
      local op = model:submit_sample("1 + 1")
      server:fault{method = "RetrieveFuture", hold = "poll"}
      local err = failure(op.result, op, 0.05)
      assert.equal("timeout", err.kind)
      assert.equal(op.request_id, err.request_id)
      server:release("poll")
      assert.equal(1, #op:result())
      client:close()
    end)

    it("is asked after again and again when polls end UNAVAILABLE or DEADLINE_EXCEEDED", function()
      for _, code in ipairs{"UNAVAILABLE", "DEADLINE_EXCEEDED"} do
        local model, _, client <close>, pauses = support.start(server, {enable_retries = false})
        server:fault{method = "SampleFromTraining", poll = {status = code, times = 12}}
        assert.equal(1, #model:sample("1 + 1"))
        assert_pauses({0.5, 1, 2, 4, 5, 5, 5, 5, 5, 5, 5, 5}, pauses, 0)
        client:close()
      end
    end)

    it("is given up after six polls in a row that failed otherwise, and can be waited for again", function()
      for _, code in ipairs{"INTERNAL", "UNKNOWN", "ABORTED", "RESOURCE_EXHAUSTED", "DATA_LOSS", "OUT_OF_RANGE"} do
        local model, _, client <close>, pauses = support.start(server)
        server:fault{method = "SampleFromTraining", poll = {status = code, times = 5}}
        assert.equal(1, #model:sample("1 + 1"))
        assert_pauses({0.5, 1, 2, 4, 5}, pauses, 0)
        server:fault{method = "SampleFromTraining", poll = {status = code, times = 6}}
        local op = model:submit_sample("1 + 1")
        local err = failure(op.result, op)
        assert.equal(code, err.code)
        assert.equal(op.request_id, err.request_id)
        assert.equal("RetrieveFuture", err.method:match("(%w+)$"))
        assert.equal(1, #op:result())
        client:close()
      end
    end)

    it("counts failed polls anew after a good one", function()
      local model, _, client <close> = support.start(server)
      server:fault{
        {method = "RetrieveFuture", status = "INTERNAL", times = 5},
        {method = "SampleFromTraining", try_again = 1},
        {method = "RetrieveFuture", status = "INTERNAL", times = 5, after = 1},
      }
      assert.equal(1, #model:sample("1 + 1"))
      client:close()
    end)

    it("ends at once with a poll that says that it cannot be", function()
      local kinds = {UNAUTHENTICATED = "auth", PERMISSION_DENIED = "permission", NOT_FOUND = "not_found",
        INVALID_ARGUMENT = "invalid_request", FAILED_PRECONDITION = "precondition", ALREADY_EXISTS = "precondition",
        UNIMPLEMENTED = "unsupported"}
      local model, _, client <close>, pauses = support.start(server)
      for code, kind in pairs(kinds) do
        server:fault{method = "SampleFromTraining", poll = {status = code, times = -1}}
        local op = model:submit_sample("1 + 1")
        local err = failure(op.result, op)
        assert.equal(kind, err.kind)
        assert.equal(code, err.code)
        assert.equal(op.request_id, err.request_id)
        assert.equal(1, server:state().futures[op.request_id].polls)
      end
      assert.same({}, pauses)
      client:close()
    end)

    it("is asked after again when a server that goes away says CANCELLED, but not for long", function()
      local model, _, client <close>, pauses = support.start(server)
      server:fault{method = "SampleFromTraining", poll = {status = "CANCELLED", times = 4}}
      assert.equal(1, #model:sample("1 + 1"))
      assert_pauses({0.5, 1, 2, 4}, pauses, 0.2)
      server:fault{method = "SampleFromTraining", poll = {status = "CANCELLED", times = -1}}
      local op = model:submit_sample("1 + 1")
      local err = failure(op.result, op)
      assert.equal("grpc", err.kind)
      assert.equal("CANCELLED", err.code)
      assert.equal(5, server:state().futures[op.request_id].polls)
      -- what begins an operation likewise; what must not come twice is not sent again
      server:fault{{method = "SampleFromTraining", status = "CANCELLED"},
        {method = "ForwardBackward", status = "CANCELLED"}}
      assert.equal(1, #model:sample("1 + 1"))
      err = failure(model.forward_backward, model, {support.datum()}, "importance_sampling", {zero_out = false})
      assert.equal("CANCELLED", err.code)
      assert.equal(1, server:count("ForwardBackward"))
      client:close()
    end)

    it("that the service forgot is not found", function()
      local model, _, client <close> = support.start(server)
      server:fault{method = "SampleFromTraining", never = true}
      local op = model:submit_sample("1 + 1")
      server:expire{future = op.request_id}
      local err = failure(op.result, op)
      assert.equal("not_found", err.kind)
      assert.equal(op.request_id, err.request_id)
      client:close()
    end)

    it("that failed says what the service says", function()
      local model, _, client <close> = support.start(server)
      server:fault{method = "SampleFromTraining", failed = {category = "storage_floor", message = "no room\nat all",
        details = {free = 12.5, where = "disk 7", full = true}}}
      local op = model:submit_sample("1 + 1")
      local err = failure(op.result, op)
      assert.equal("failed", err.kind)
      assert.equal("storage_floor", err.code)
      assert.same({free = 12.5, where = "disk 7", full = true}, err.details)
      assert.equal(op.request_id, err.request_id)
      assert.equal("submit_sample: the service failed: storage_floor: no room at all", err.message)
      assert.equal("failed", failure(op.result, op).kind)
      server:fault{method = "SampleFromTraining", failed = {category = "auto_checkpoint_failed", message = "lost"}}
      err = failure(model.sample, model, "1 + 1")
      assert.equal("auto_checkpoint_failed", err.kind)
      assert.truthy(err.hint:find("latest_auto_checkpoint", 1, true))
      client:close()
    end)

    it("whose result is of another type, or none, breaks the protocol", function()
      local model, _, client <close> = support.start(server)
      for _, how in ipairs{"type", "empty"} do
        server:fault{method = "SampleFromTraining", corrupt = how}
        local op = model:submit_sample("1 + 1")
        local err = failure(op.result, op)
        assert.equal("protocol", err.kind)
        assert.equal(op.request_id, err.request_id)
        assert.equal(("submit_sample: the result of request %s is of another kind than 'inference'"):format(
          op.request_id), err.message)
      end
      client:close()
    end)

    it("of which a poll cannot be read can be asked after again", function()
      local model, _, client <close> = support.start(server)
      local op = model:submit_sample("1 + 1")
      server:fault{method = "RetrieveFuture", corrupt = "bytes"}
      local err = failure(op.result, op)
      assert.equal("protocol", err.kind)
      assert.equal(op.request_id, err.request_id)
      assert.truthy(err.message:find("submit_sample: the service's reply to RetrieveFuture cannot be read: ", 1, true))
      assert.equal(1, #op:result())
      client:close()
    end)
  end)

  describe("results", function()
    it("must be as many as samples", function()
      local model, _, client <close> = support.start(server)
      server:fault{method = "SampleFromTraining", results = {drop = 1}}
      local err = failure(model.sample, model, {"1 + 1", "2 + 2"}, {num_samples = 2})
      assert.equal("protocol", err.kind)
      assert.equal("sample: the service gave 3 results for 4 prompts", err.message)
      assert.truthy(err.request_id)
      server:fault{method = "SampleFromTraining", results = {extra = 1}}
      err = failure(model.sample, model, {"1 + 1", "2 + 2"}, {num_samples = 2})
      assert.equal("sample: the service gave 5 results for 4 prompts", err.message)
      client:close()
    end)

    it("without ids or with fewer log-probabilities are marked", function()
      local model, _, client <close> = support.start(server)
      local function sample(fault)
        server:fault{method = "SampleFromTraining", results = fault}
        return model:sample("1 + 1")[1][1]
      end
      local one = sample{no_ids = true}
      assert.is_false(one.token_data_is_exact)
      assert.equal(0, #one.tokens)
      assert.truthy(#one.text > 0)
      assert.is_false(sample{no_logprobs = true}.token_data_is_exact)
      assert.is_false(sample{short_logprobs = true}.token_data_is_exact)
      assert.is_true(sample(nil).token_data_is_exact)
      assert.equal("argument", failure(training.grpo_data, {49}, sample{no_ids = true}, 1.0).kind)
      assert.equal("argument", failure(training.grpo_data, {49}, sample{short_logprobs = true}, 1.0).kind)
      client:close()
    end)

    it("may be large", function()
      local model, _, client <close> = support.start(server)
      server:fault{method = "SampleFromTraining", results = {oversize = 24 << 20}}
      assert.is_true(#model:sample("1 + 1")[1][1].text > 24 << 20)
      client:close()
    end)

    it("with corrupt log-probabilities fail when those are read", function()
      local model, _, client <close> = support.start(server)
      for _, method in ipairs{"forward_backward", "forward"} do
        server:fault{method = method == "forward" and "Forward" or "ForwardBackward", corrupt = "checksum"}
        local result = model[method](model, {support.datum()}, "importance_sampling")
        assert.is_number(result.metrics.loss)
        local err = failure(function() return result.logprobs end)
        assert.equal("protocol", err.kind)
        assert.truthy(err.request_id)
        assert.truthy(err.message:find(method .. ": the log-probabilities that the service sent cannot be read: ", 1,
          true), err.message)
        assert.equal("protocol", failure(function() return result.logprobs end).kind)
      end
      client:close()
    end)
  end)

  describe("a call that is not answered", function()
    it("ends with its own time", function()
      local client <close> = support.client(server, {timeout = 0.5})
      assert.is_true(client:health_check())
      server:fault{method = "GetServerCapabilities", hold = "answer"}
      local err = failure(client.get_capabilities, client)
      assert.equal("timeout", err.kind)
      assert.equal(4, err.status)
      assert.equal("DEADLINE_EXCEEDED", err.code)
      assert.is_true(err.sent)
      assert.equal(1, server:count("GetServerCapabilities"))
      server:release("answer")
      server:fault{method = "HealthCheck", hold = "answer"}
      assert.is_false(client:health_check(0.02))
      server:release("answer")
    end)

    it("has a deadline, whatever it is", function()
      local model, session, client <close> = support.start(server)
      model:sample("1 + 1")
      model:sample_as_completed{prompts = {"1 + 1"}}()
      model:forward_backward({support.datum()}, "importance_sampling")
      model:forward({support.datum()}, "importance_sampling")
      model:optim_step(1e-3)
      model:load_weights(model:save_weights("a"))
      client:get_capabilities()
      client:health_check()
      client:sample{prompts = {"1 + 1"}, base_model = support.MODEL}
      model:chat_complete{messages = {{role = "user", content = "1 + 1"}}}
      session:attest_training_data{{name = "a", content = "b"}}
      session:close()
      local seen = {}
      for _, call in ipairs(server:log(nil, {full = "0"})) do
        assert.is_number(call.deadline, call.method)
        assert.is_true(call.deadline > 0 and call.deadline <= 86400, call.method)
        seen[call.method] = true
      end
      assert.is_true(seen.UnloadModel and seen.OptimStep and seen.CreateSession)
    end)
  end)

  describe("RESOURCE_EXHAUSTED", function()
    it("is raised as kind capacity and not tried again", function()
      local model, _, client <close>, pauses = support.start(server)
      local calls = {
        SampleFromTraining = function() return model:sample("1 + 1") end,
        ForwardBackward = function() return model:forward_backward({support.datum()}, "importance_sampling") end,
        SaveWeights = function() return model:save_weights("a") end,
      }
      for method, call in pairs(calls) do
        server:fault{method = method, status = "RESOURCE_EXHAUSTED", details = "no workers"}
        local err = failure(call)
        assert.equal("capacity", err.kind)
        assert.equal(8, err.status)
        assert.is_true(err.retryable)
        assert.equal(1, err.attempts)
        assert.equal(1, server:count(method))
        assert.truthy(err.hint:find("capacity_status", 1, true))
      end
      assert.same({}, pauses)
      client:close()
    end)
  end)

  describe("an error", function()
    local function ask(client, fault)
      fault.method = "GetServerCapabilities"
      server:fault(fault)
      return failure(client.get_capabilities, client)
    end

    it("has a kind, a number and a name for each status", function()
      local client <close> = support.client(server, {enable_retries = false})
      local kinds = {
        CANCELLED = {"grpc", 1}, UNKNOWN = {"grpc", 2}, INVALID_ARGUMENT = {"invalid_request", 3},
        DEADLINE_EXCEEDED = {"timeout", 4}, NOT_FOUND = {"not_found", 5}, ALREADY_EXISTS = {"precondition", 6},
        PERMISSION_DENIED = {"permission", 7}, RESOURCE_EXHAUSTED = {"capacity", 8},
        FAILED_PRECONDITION = {"precondition", 9}, ABORTED = {"grpc", 10}, OUT_OF_RANGE = {"invalid_request", 11},
        UNIMPLEMENTED = {"unsupported", 12}, INTERNAL = {"grpc", 13}, UNAVAILABLE = {"unavailable", 14},
        DATA_LOSS = {"grpc", 15}, UNAUTHENTICATED = {"auth", 16},
      }
      local passing = {UNAVAILABLE = true, DEADLINE_EXCEEDED = true, ABORTED = true, RESOURCE_EXHAUSTED = true,
        CANCELLED = true}
      for code, wanted in pairs(kinds) do
        local err = ask(client, {status = code, details = "because of " .. code})
        assert.equal(wanted[1], err.kind)
        assert.equal(wanted[2], err.status)
        assert.equal(code, err.code)
        assert.equal("because of " .. code, err.details)
        assert.equal(passing[code] or false, err.retryable)
        assert.equal(1, err.attempts)
        assert.is_true(err.sent)
        assert.equal("GetServerCapabilities", err.method:match("(%w+)$"))
        assert.truthy(err.message:find(("^get_server_capabilities: [%%a ]+ %%[%s%%] %%- because of %s$"):format(code,
          code)), err.message)
      end
      assert.truthy(ask(client, {status = "UNAUTHENTICATED"}).hint:find("RIVER_API_KEY", 1, true))
    end)

    it("has the service's own code, and the image", function()
      local client <close> = support.client(server)
      local err = ask(client, {status = "FAILED_PRECONDITION", details = "gone",
        trailers = {["river-error-code"] = "IMAGE_EXPIRED", ["river-image-id"] = "img-7"}})
      assert.equal("precondition", err.kind)
      assert.equal("IMAGE_EXPIRED", err.error_code)
      assert.equal("img-7", err.image_id)
      assert.truthy(err.hint:find("restore_image", 1, true))
    end)

    it("keeps the service's text whole, on one line, in UTF-8", function()
      local client <close> = support.client(server)
      local err = ask(client, {status = "INTERNAL", details = "100 % Käse: 7 €\n\tat line 3\r\n  at line 4 🧀"})
      assert.equal("100 % Käse: 7 € at line 3 at line 4 🧀", err.details)
      assert.is_nil(err.message:find("%c"))
      assert.truthy(err.message:find("[INTERNAL] - 100 % Käse", 1, true))
      err = ask(client, {status = "INTERNAL", details = ("ü"):rep(3000)})
      assert.is_true(#err.details <= 1010)
      assert.truthy(utf8.len(err.details))
      assert.equal("…", err.details:sub(-3))
      err = ask(client, {status = "INTERNAL", details = ""})
      assert.equal("get_server_capabilities: the service has an internal error [INTERNAL]", err.message)
    end)

    it("says where to go on from", function()
      local model, _, client <close> = support.start(server)
      local checkpoint = model:save_weights("kept")
      server:fault{method = "SampleFromTraining", status = "INTERNAL"}
      assert.equal(checkpoint.path, failure(model.sample, model, "1 + 1").checkpoint)
      server:fault{method = "SampleFromTraining", failed = {category = "internal"}}
      assert.equal(checkpoint.path, failure(model.sample, model, "1 + 1").checkpoint)
      server:fault{method = "SampleFromTraining", never = true}
      assert.equal(checkpoint.path, failure(model.sample, model, "1 + 1", {timeout = 0.01}).checkpoint)
      client:close()
    end)
  end)

  describe("a reply that cannot be read", function()
    it("breaks the protocol and is named", function()
      local model, _, client <close> = support.start(server)
      server:fault{method = "GetInfo", corrupt = "bytes"}
      local err = failure(model.get_info, model)
      assert.equal("protocol", err.kind)
      assert.truthy(err.message:find("get_info: the service's reply to GetInfo cannot be read: ", 1, true), err.message)
      assert.equal(1, server:count("GetInfo"))
      client:close()
    end)
  end)

  describe("the API key", function()
    local KEY = support.KEY

    -- Everything that a value shows.
    local function shown(value, seen)
      seen = seen or {}
      if type(value) ~= "table" then return tostring(value) end
      if seen[value] then return "" end
      seen[value] = true
      local parts = {tostring(value)}
      for name, item in pairs(value) do
        parts[#parts + 1] = shown(name, seen)
        parts[#parts + 1] = shown(item, seen)
      end
      return table.concat(parts, " ")
    end

    local function assert_hidden(value) assert.is_nil(shown(value):find(KEY, 1, true)) end

    it("does not come out of errors, also when the service echoes it", function()
      local model, session, client <close> = support.start(server)
      local echo = "your key " .. KEY .. " and again " .. KEY .. "!"
      server:fault{method = "GetInfo", status = "INTERNAL", details = echo,
        trailers = {["river-error-code"] = KEY, ["river-image-id"] = "img-" .. KEY}}
      local err = failure(model.get_info, model)
      assert.equal("your key *** and again ***!", err.details)
      assert_hidden(err)
      server:fault{method = "SampleFromTraining", failed = {category = KEY, message = echo, details = {[KEY] = echo}}}
      assert_hidden(failure(model.sample, model, "1 + 1"))
      server:fault{method = "SampleFromTraining", poll = {status = "INVALID_ARGUMENT", details = echo}}
      assert_hidden(failure(model.sample, model, "1 + 1"))
      server:fault{method = "SubmitSamplingBatch", handles = {["0"] = {error = {code = 3, message = echo}}}}
      assert_hidden(failure(function() return model:submit_sampling_batch("1 + 1"):result() end))
      server:fault{method = "SubmitSamplingBatch", status = "INTERNAL", details = echo}
      assert_hidden(failure(model.submit_sampling_batch, model, "1 + 1"))
      server:configure{session_error = echo}
      assert_hidden(failure(client.session, client))
      assert_hidden(tostring(session) .. tostring(model) .. tostring(client))
      server:configure{session_error = false}
    end)

    it("does not come out of warnings, traces and sessions", function()
      local heard = {}
      server:configure{session_warning = "old " .. KEY, session_info = "hello " .. KEY, auto_checkpoint_error = KEY}
      local client <close> = support.client(server, {warn = function(text) heard[#heard + 1] = text end,
        trace = function(event) heard[#heard + 1] = event end})
      local model, session = support.model(client, support.SILENT)
      model:latest_auto_checkpoint()
      assert.equal("old ***", heard[2])
      assert.equal("hello ***", session.info_message)
      assert.is_true(#heard > 4)
      assert_hidden(heard)
      local everything = {}
      for name, value in pairs(client) do
        if name ~= "options" then everything[name] = tostring(value) end
      end
      assert_hidden(everything)
    end)

    it("is not asked for in a text that is no key", function()
      local err = failure(training.Client, KEY)
      assert.equal("argument", err.kind)
      assert_hidden(err)
    end)
  end)

  it("traces each call", function()
    local events = {}
    local client <close> = support.client(server, {trace = function(event) events[#events + 1] = event end})
    support.hurry(client)
    server:fault{method = "GetServerCapabilities", status = "UNAVAILABLE", times = 2}
    local before = clock.now()
    client:get_capabilities()
    assert.equal(3, #events)
    for i, event in ipairs(events) do
      assert.equal("GetServerCapabilities", event.method)
      assert.equal(i, event.attempts)
      assert.equal(i < 3 and "UNAVAILABLE" or "OK", event.code)
      assert.is_true(event.seconds >= 0 and event.seconds <= clock.now() - before)
    end
  end)

  it("makes a session once, whatever it answers", function()
    local client <close> = support.client(server)
    server:configure{session_error = "too many\nsessions"}
    local err = failure(client.session, client)
    assert.equal("invalid_request", err.kind)
    assert.equal("session: the service refuses: too many sessions", err.message)
    assert.equal(1, server:count("CreateSession"))
    assert.is_nil(next(client.sessions))
  end)
end)
