-- The official client runs against the training stand-in as against the service, faults included.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")

local LOSSES = {"cross_entropy", "soft targets", "importance_sampling", "ppo", "cispo", "perfect", "echo_cispo", "dro"}

describe("the training stand-in and the official client:", function()
  describe("all that it can call", function()
    local server, seen

    setup(function()
      server = support.standin.start{config = {api_key = "test-key"}}
      seen = support.plain(select(2, support.ask(server, "quickstart.py")))
    end)

    teardown(function() server:close() end)

    it("is without violations and remarks, on one connection and those that it opens for a purpose", function()
      assert.same({}, seen["end"].violations)
      assert.same({}, seen["end"].remarks)
      assert.equal("", server:errors())
      local methods = 0
      for _ in pairs(seen["end"].calls) do methods = methods + 1 end
      -- 27 methods without SessionHeartbeat (the script is faster than its first beat), PrepareLoss
      assert.is_true(methods >= 25)
      for _, unloaded in ipairs(seen["end"].unloaded) do assert.is_true(unloaded) end
      local session = seen["end"].sessions["sess-000001"]
      assert.same({run = "quick", project = "start"}, session.tags)
      assert.equal("river-client-python/0.16.0", session.sdk_version)
    end)

    it("says that it is well, and what it can do", function()
      assert.is_true(seen.health.value)
      assert.same({"standin/bytes"}, seen.features.value)
      assert.truthy(seen["model features"].value:find("sampling_batch_v1"))
      assert.truthy(seen["model features"].value:find("retained_kv_v1"))
    end)

    it("samples", function()
      assert.equal(2, seen.base.count)
      assert.same({2, 2}, seen.sample.groups)
      local first = seen.sample.first
      assert.equal(first.tokens, first.logprobs)
      assert.equal("stop", first.stop)
      assert.equal(seen.model.policy.id, first.policy.id)
      assert.same({49, 32, 43, 32, 50}, seen.sample.prompt_ids)
      assert.equal(5, seen.sample.prompt_logprobs)
      assert.same({"expert_routing_handle"}, seen.sample.routing)
      assert.same({{92, 93, 94}, first.tokens}, seen.sample.top)
      assert.is_true(seen.again.same)
      assert.same({text = "\\box", tokens = 4, logprobs = 4, stop = "length", policy = seen.model.policy},
        seen.ids.first)
    end)

    it("computes every loss, each with its metrics and a log-probability for each prediction", function()
      for _, name in ipairs(LOSSES) do
        local metrics = seen[name].metrics
        assert.equal(metrics.loss_sum, metrics.loss)
        assert.same({name == "soft targets" and 5 or 14}, seen[name].logprobs)
      end
      assert.is_true(seen.cross_entropy.gradient < 0)
      assert.equal(0, seen["soft targets"].gradient)
      assert.is_true(seen.importance_sampling.gradient < 0)
      assert.equal(1, seen.ppo.metrics.clip_count)
      assert.equal(7, seen.echo_cispo.metrics.echo_weight_sum)
      assert.is_true(seen.dro.metrics.quad_penalty_sum > 0)
      assert.equal(0, seen.replay.rate)
    end)

    it("steps, guarded by policies", function()
      assert.equal(1, seen.step.policy.step)
      assert.equal(seen.step.before, seen.step.policy.parent)
      assert.equal(1, seen.step.metrics.grad_norm_finite)
      assert.equal("FAILED_PRECONDITION", seen.stale.status)
      assert.equal(2, seen.train_step.step)
      assert.equal(2, seen.train_step.metrics.step)
    end)

    it("takes uploads over five connections", function()
      local upload = seen.upload.uploads[1]
      assert.equal(240, seen.upload.tokens)
      assert.same({0, 1, 2, 3, 4}, upload.chunks)
      assert.equal(5, #upload.peers)
      assert.is_true(upload.used)
    end)

    it("keeps checkpoints", function()
      assert.equal(("river://%s/weights/final"):format(seen.model.run), seen.saved.path)
      assert.equal(seen.saved.path .. "@2", seen.saved.immutable)
      assert.equal(2, seen.loaded.step)
      assert.is_true(seen.loaded.same)
      assert.equal(seen.saved.policy.id, seen.checkpoint.first.policy.id)
      assert.equal("", seen.published.path)
      assert.equal("NOT_FOUND", seen.missing.status)
    end)

    it("chats", function()
      for _, name in ipairs{"chat base", "chat checkpoint", "chat training"} do
        assert.equal(200, seen[name].status)
        assert.truthy(seen[name].body.choices[1].message.content:find("^\\boxed{%d+}$"))
        assert.equal(14, seen[name].body.usage.prompt_tokens)
      end
    end)

    it("holds images and manifests", function()
      assert.same({name = "image", width = 64, height = 48, bytes = true, digest = true, same = true}, seen.image)
      assert.equal(8, seen["image datum"].tokens)
      assert.same({name = "expired", status = "FAILED_PRECONDITION", code = "IMAGE_EXPIRED", right = true},
        seen.expired)
      assert.equal(5, seen.attested.size)
      assert.equal("FAILED_PRECONDITION", seen["manifest gone"].status)
    end)

    it("samples independently", function()
      local batch = seen.batch
      assert.equal(3, batch.handles)
      assert.is_true(batch.repeated)
      assert.same({{"inference", "pending", "pending"}, {"inference", "inference", "pending"},
        {"inference", "inference", "inference"}}, batch.rounds)
      assert.equal("1 + 2", batch.prompt)
      assert.is_true(batch.snapshot)
    end)
  end)

  it("faults are what they are on the service", function()
    local server <close> = support.standin.start()
    local _, seen = support.ask(server, "official_faults.py")
    assert.same({"UNAVAILABLE", "UNAVAILABLE", "OK"}, support.plain(seen.retried.statuses))
    assert.equal(1, seen.retried.steps)
    assert.equal(0, seen.retried.duplicates)
    -- the official client applies a step twice when it lost the reply and had no key
    assert.equal(3, seen["reply lost"].steps)
    assert.equal(1, seen["reply lost"].duplicates)
    assert.equal(4, seen["with a key"].steps)
    assert.equal(1, seen["with a key"].replays)
    assert.equal(4, seen.polls.polls)
    assert.equal("storage_floor: no room", seen.failed.text)
    assert.equal("AutoCheckpointFailedError", seen["auto checkpoint"].class)
    assert.equal("IMAGE_QUOTA_EXCEEDED", seen.quota.code)
    assert.truthy(seen.fewer.text:find("returned 1 results, expected 2", 1, true))
    assert.is_false(seen.inexact.exact)
    assert.same({1, 0}, {seen["no uploads"].asked, seen["no uploads"].chunks})
    assert.truthy(seen["no feature"].text:find("gradient_scale_v1", 1, true))
    assert.is_true(seen.never.request)
    assert.is_true(seen.beats.deadline > 29 and seen.beats.deadline < 31)
    assert.equal("river-client-python/0.16.0", seen.beats.agent)
    assert.is_true(seen.goaway.ok and seen.goaway.step)
    assert.same({}, support.plain(seen["end"].violations))
    assert.is_nil(seen["end"].deadlines.OptimStep)
    assert.is_true(seen["end"].deadlines.ForwardBackward > 86000)
    assert.equal("", server:errors())
  end)
end)
