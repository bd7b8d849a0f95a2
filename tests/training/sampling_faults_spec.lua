-- Independent samples under faults: snapshots that are cut, broken or wrong, and samples that fail one by one. Counted
-- at the server.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(folder .. "support.lua")

local failure = support.failure

local PROMPTS = {"1 + 1", "2 + 2", "3 + 3", "4 + 4"}

describe("a batch of samples", function()
  local server
  setup(function() server = support.standin.start{seed = 1} end)
  teardown(function() server:close() end)
  before_each(function() server:reset() end)
  after_each(function() assert.same({}, server:violations()) end)

  -- All completions, by prompt; each must come once.
  local function collect(batch)
    local found = {}
    for completion in batch:as_completed() do
      assert.is_nil(found[completion.prompt_index], "one prompt twice")
      assert.equal(1, completion.sample_index)
      assert.equal(completion.sample == nil, completion.error ~= nil)
      found[completion.prompt_index] = completion
    end
    return found
  end

  local function assert_whole(found)
    for i = 1, #PROMPTS do assert.is_string(found[i].sample.text, "sample " .. i) end
    assert.equal(#PROMPTS, server:model().samples)      -- each was made once
  end

  describe("is submitted again with the same key", function()
    for _, code in ipairs{"RESOURCE_EXHAUSTED", "ABORTED", "DEADLINE_EXCEEDED"} do
      it("after " .. code, function()
        local model, _, client <close>, pauses = support.start(server)
        server:fault{method = "SubmitSamplingBatch", status = code, times = 6}
        local batch = model:submit_sampling_batch(PROMPTS)
        assert.equal(7, server:count("SubmitSamplingBatch"))
        local requests = server:requests("SubmitSamplingBatch")
        for i = 2, 7 do assert.same(requests[1], requests[i]) end
        assert.same({0.5, 1, 2, 4, 5, 5}, pauses)
        assert_whole(collect(batch))
        client:close()
      end)
    end

    it("but not after a refusal, and not with enable_retries = false", function()
      for _, code in ipairs{"INVALID_ARGUMENT", "INTERNAL", "UNIMPLEMENTED", "PERMISSION_DENIED"} do
        local model, _, client <close> = support.start(server)
        server:forget()
        server:fault{method = "SubmitSamplingBatch", status = code, times = -1}
        assert.equal(code, failure(model.submit_sampling_batch, model, PROMPTS).code)
        assert.equal(1, server:count("SubmitSamplingBatch"))
        server:clear()
        client:close()
      end
      local model, _, client <close> = support.start(server, {enable_retries = false})
      server:forget()
      server:fault{method = "SubmitSamplingBatch", status = "RESOURCE_EXHAUSTED", times = -1}
      assert.equal("capacity", failure(model.submit_sampling_batch, model, PROMPTS).kind)
      assert.equal(1, server:count("SubmitSamplingBatch"))
      client:close()
    end)

    it("until its time is up", function()
      local model, _, client <close> = support.start(server)
      server:fault{method = "SubmitSamplingBatch", status = "RESOURCE_EXHAUSTED", times = -1}
      local err = failure(model.submit_sampling_batch, model, PROMPTS, {timeout = 1.4})
      assert.equal("capacity", err.kind)
      local count = server:count("SubmitSamplingBatch")
      assert.is_true(count >= 2 and count <= 3)      -- before a pause of 1 s, or of 2 s
      client:close()
    end)

    it("and a key of one's own", function()
      local model, _, client <close> = support.start(server)
      local key = "00000000-0000-4000-8000-000000000001"
      local first = model:submit_sampling_batch(PROMPTS, {idempotency_key = key})
      local second = model:submit_sampling_batch(PROMPTS, {idempotency_key = key})
      assert.same(first.request_ids, second.request_ids)
      assert_whole(collect(first))
      client:close()
    end)
  end)

  describe("with wrong handles", function()
    it("breaks the protocol", function()
      for _, order in ipairs{{drop = 1}, {extra = 1}, {drop = 1, extra = 1}, {drop = 4}} do
        local model, _, client <close> = support.start(server)
        server:fault{method = "SubmitSamplingBatch", results = order}
        local err = failure(model.submit_sampling_batch, model, PROMPTS)
        assert.equal("protocol", err.kind)
        assert.equal("submit_sampling_batch: the service did not give 4 different request ids", err.message)
        client:close()
      end
    end)
  end)

  describe("survives a snapshot", function()
    it("that is cut, wherever that is", function()
      for after = 0, 4 do
        local model, _, client <close> = support.start(server)
        local batch = model:submit_sampling_batch(PROMPTS)
        server:fault{method = "RetrieveSamplingResults", stream = {cut_after = after}}
        local before = server:count("RetrieveSamplingResults")
        local found = support.leap(client, collect, batch)
        for i = 1, #PROMPTS do assert.is_string(found[i].sample.text) end
        assert.equal(before + (after < 4 and 2 or 1), server:count("RetrieveSamplingResults"))
        assert.equal(4, server:model(model.model_id).samples)
        client:close()
      end
    end)

    it("that ends with a status that may pass", function()
      local model, _, client <close> = support.start(server)
      local batch = model:submit_sampling_batch(PROMPTS)
      server:fault{
        {method = "RetrieveSamplingResults", status = "UNAVAILABLE"},
        {method = "RetrieveSamplingResults", stream = {status_after = 2, status = "INTERNAL"}},
        {method = "RetrieveSamplingResults", status = "CANCELLED"},
        {method = "RetrieveSamplingResults", stream = {status_after = 1, status = "UNAVAILABLE"}},
      }
      local found, pauses = support.leap(client, collect, batch)
      assert_whole(found)
      assert.equal(5, server:count("RetrieveSamplingResults"))
      assert.equal(4, #pauses)
      for i, wanted in ipairs{0.5, 1, 2, 4} do
        assert.is_true(pauses[i] <= wanted and pauses[i] > wanted * 0.8, pauses[i])
      end
      client:close()
    end)

    for _, how in ipairs{"missing", "duplicate", "unknown", "reverse"} do
      it("that is wrong: " .. how, function()
        local model, _, client <close> = support.start(server)
        local batch = model:submit_sampling_batch(PROMPTS)
        server:fault{method = "RetrieveSamplingResults", stream = {[how] = true}}
        assert_whole(support.leap(client, collect, batch))
        assert.equal(how == "reverse" and 1 or 2, server:count("RetrieveSamplingResults"))
        client:close()
      end)
    end

    it("that cannot be read", function()
      local model, _, client <close> = support.start(server)
      local batch = model:submit_sampling_batch(PROMPTS)
      local stream = client.transport.stream
      function client.transport.stream(self, ...)
        client.transport.stream = nil
        local next_reply, call = stream(self, ...)
        return function()
          local reply = next_reply(call)
          return reply and "\xff\xff\xff"
        end
      end
      local err = failure(collect, batch)
      assert.equal("protocol", err.kind)
      assert_whole(collect(batch))       -- nothing is lost
      client:close()
    end)
  end)

  it("gives up samples after six snapshots that are wrong", function()
    local model, _, client <close> = support.start(server)
    local batch = model:submit_sampling_batch(PROMPTS)
    server:fault{method = "RetrieveSamplingResults", stream = {duplicate = true}, times = -1}
    local found = support.leap(client, collect, batch)
    for i = 1, 4 do
      local err = found[i].error
      assert.equal("INTERNAL", err.code)
      assert.equal(batch.request_ids[i], err.request_id)
      assert.truthy(err.message:find("two results for the request", 1, true), err.message)
    end
    assert.equal(6, server:count("RetrieveSamplingResults"))
    client:close()
  end)

  describe("with samples that fail", function()
    it("hands over the others, and says what became of those", function()
      local model, _, client <close> = support.start(server)
      server:fault{method = "SubmitSamplingBatch", handles = {
        ["0"] = {error = {code = 3, message = "the prompt is too long"}},
        ["2"] = {failed = {category = "storage_floor", message = "no room", details = {free = 3}}},
        ["3"] = {pending = 3},
      }}
      local batch = model:submit_sampling_batch(PROMPTS)
      local found = collect(batch)
      local refused = found[1].error
      assert.equal("invalid_request", refused.kind)
      assert.equal(3, refused.status)
      assert.equal("the prompt is too long", refused.details)
      assert.equal(batch.request_ids[1], refused.request_id)
      assert.equal(batch.request_ids[1], found[1].request_id)
      assert.is_string(found[2].sample.text)
      assert.equal("failed", found[3].error.kind)
      assert.equal("storage_floor", found[3].error.code)
      assert.same({free = 3.0}, found[3].error.details)
      assert.is_string(found[4].sample.text)
      assert.equal(found[1].error, failure(batch.result, batch))    -- the first failure
      client:close()
    end)

    it("asks again where the failure may pass", function()
      local model, _, client <close> = support.start(server)
      server:fault{method = "SubmitSamplingBatch", handles = {
        ["0"] = {error = {code = 13, message = "for now", times = 5}},
        ["1"] = {error = {code = 14, message = "for now", times = 9}},
        ["2"] = {error = {code = 8, message = "for now", times = 6}},
        ["3"] = {error = {code = 4, message = "for now", times = 7}},
      }}
      local batch = model:submit_sampling_batch(PROMPTS)
      local found = support.leap(client, collect, batch)
      assert.is_string(found[1].sample.text)
      assert.is_string(found[2].sample.text)
      assert.equal("capacity", found[3].error.kind)
      assert.is_string(found[4].sample.text)
      local futures = server:state().futures
      assert.equal(6, futures[batch.request_ids[1]].polls)
      assert.equal(10, futures[batch.request_ids[2]].polls)
      assert.equal(6, futures[batch.request_ids[3]].polls)
      assert.equal(8, futures[batch.request_ids[4]].polls)
      client:close()
    end)

    it("ends where it cannot pass, for each such status", function()
      local kinds = {[1] = "grpc", [3] = "invalid_request", [5] = "not_found", [6] = "precondition", [7] = "permission",
        [9] = "precondition", [12] = "unsupported", [16] = "auth"}
      local model, _, client <close> = support.start(server)
      for status, kind in pairs(kinds) do
        server:fault{method = "SubmitSamplingBatch", handles = {["0"] = {error = {code = status}}}}
        local batch = model:submit_sampling_batch("1 + 1")
        local err = failure(batch.result, batch)
        assert.equal(kind, err.kind)
        assert.equal(status, err.status)
        assert.equal(1, server:state().futures[batch.request_ids[1]].polls)
      end
      client:close()
    end)

    it("runs out of time", function()
      local model, _, client <close> = support.start(server)
      server:fault{method = "SubmitSamplingBatch", handles = {["1"] = {never = true}}}
      local batch = model:submit_sampling_batch(PROMPTS, {timeout = 5})
      local found = support.leap(client, collect, batch)
      assert.equal("timeout", found[2].error.kind)
      assert.equal(batch.request_ids[2], found[2].error.request_id)
      for _, i in ipairs{1, 3, 4} do assert.is_string(found[i].sample.text) end
      client:close()
    end)

    it("has no sample where the service gave none, or two, for one prompt", function()
      local model, _, client <close> = support.start(server)
      server:fault{method = "SubmitSamplingBatch", results = {no_ids = true}}
      local found = collect(model:submit_sampling_batch(PROMPTS))
      for i = 1, 4 do assert.is_false(found[i].sample.token_data_is_exact) end
      client:close()
    end)
  end)

  describe("can be left", function()
    it("and gone on with", function()
      local model, _, client <close> = support.start(server)
      local batch = model:submit_sampling_batch(PROMPTS)
      local seen = {}
      seen[batch:as_completed()().prompt_index] = true
      for completion in batch:as_completed() do
        assert.is_nil(seen[completion.prompt_index])
        seen[completion.prompt_index] = true
      end
      assert.same({true, true, true, true}, seen)
      assert.equal(4, #batch:result())
      client:close()
    end)

    it("by an error in the loop, without harm to what is under way", function()
      local model, _, client <close> = support.start(server, {})
      server:configure{batch_manual = true}
      local batch = model:submit_sampling_batch(PROMPTS)
      server:finish{ids = {batch.request_ids[3]}}
      local ok, problem = pcall(function()
        for completion in batch:as_completed() do
          assert(completion.prompt_index == 3)
          error("a reward that fails", 0)
        end
      end)
      assert.is_false(ok)
      assert.equal("a reward that fails", problem)
      server:finish()
      assert.equal(4, #batch:result())
      client:close()
    end)
  end)

  it("of any size is handed over once each by sample_as_completed, also when streams break", function()
    local model, _, client <close> = support.start(server)
    local prompts = support.sums(100)
    server:fault{
      {method = "SubmitSamplingBatch", cut = "after", after = 1},
      {method = "RetrieveSamplingResults", stream = {cut_after = 60}},
      {method = "RetrieveSamplingResults", stream = {missing = true}, after = 1},
    }
    local seen, count = {}, 0
    support.leap(client, function()
      for sample, prompt_index, sample_index in model:sample_as_completed{prompts = prompts, num_samples = 3} do
        local key = prompt_index * 10 + sample_index
        assert.is_nil(seen[key])
        assert.is_string(sample.text)
        seen[key], count = true, count + 1
      end
    end)
    assert.equal(300, count)
    assert.equal(300, server:model().samples)
    assert.equal(4, server:count("SubmitSamplingBatch"))
    client:close()
  end)
end)
