-- The training stand-in judges, fails on order and listens as its beginning says, seen with a bare gRPC client.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local standin, plain = support.standin, support.plain

local function ask(script, options, run)
  local server <close> = standin.start(options)
  local _, seen = support.ask(server, script)
  seen = plain(seen)
  if run then run(server, seen) end
  assert.equal("", server:errors())
  return seen
end

describe("the training stand-in", function()
  describe("judges", function()
    local seen
    setup(function() seen = ask("judging.py") end)

    local function refused(name, text, status)
      assert.equal(status or "INVALID_ARGUMENT", seen[name].status, name)
      assert.truthy(seen[name].details:find(text, 1, true), seen[name].details)
    end

    it("datums, by place and key", function()
      assert.equal("OK", seen.right.status)
      refused("checksum", "datum 0: checksum ")
      refused("no header", "datum 0: no NEST header")
      refused("trailing", "datum 0: 1 bytes after the end")
      refused("cut", "datum 0: 60 bytes wanted")
      refused("short column", "datum 1: advantages has shape [14], 15 values are wanted")
      refused("not finite", "datum 1: advantages is not finite at 3")
      refused("mask missing", "datum 1: attention_mask is missing")
      refused("mask of twos", "datum 1: attention_mask has values other than 0 and 1")
      refused("advantages missing", "datum 1: importance_sampling needs advantages")
      refused("ids as floats", "datum 1: input_ids is not a vector of integers")
      refused("negative token", "datum 1: input_ids has a negative token")
    end)

    it("losses and their configuration", function()
      refused("unknown loss", "no loss is called 'mse'")
      refused("unknown setting", "ppo knows no clip")
      refused("infinite setting", "clip_low is not finite")
      refused("setting of another loss", "importance_sampling knows no eps_max")
      refused("no data", "no data")
      refused("undecodable", "cannot be decoded")
      refused("graph", "loss graph: ")
    end)

    it("the order of operations; what was refused counts as sent", function()
      assert.equal("OK", seen["still in order"].status)
      refused("no sequence id", "OptimStep without a seq_id")
      refused("gap", "has seq_id 25, 21 was expected")
      assert.equal("OK", seen["after the gap"].status)
      assert.equal("OK", seen.again.status)
      assert.same({2, 1}, {seen["applied twice"].step, seen["applied twice"].duplicates})
      refused("again, but different", "repeats seq_id 26 with another content")
    end)

    it("policies and keys", function()
      refused("stale policy", "pol-000001 was expected, pol-000003 is current", "FAILED_PRECONDITION")
      assert.equal(2, seen["nothing queued"].step)
      assert.equal("OK", seen["same key"].status)
      assert.same({3, 3}, {seen.once.step, seen.once.result})
      refused("key of another step", "with another step")
      refused("infinite lr", "learning_rate is inf")
      refused("group", "not a dashed UUID")
    end)

    it("what is asked for where it is not offered", function()
      refused("scaled", "gradient_scale without the feature gradient_scale_v1")
      refused("temporary", "durable = false without the feature temporary_checkpoints_v1")
      refused("no batches", "SubmitSamplingBatch is not implemented", "UNIMPLEMENTED")
    end)

    it("who asks, and for what", function()
      assert.equal("OK", seen["wrong key"].status)
      refused("key refused", "API key", "UNAUTHENTICATED")
      assert.equal("OK", seen["key taken"].status)
      for _, name in ipairs{"no session", "no model", "no future"} do refused(name, "no ", "NOT_FOUND") end
      refused("foreign model", "asked for with the model x")
      refused("no prompt", "prompts[0]: neither prompt nor input_ids")
      refused("nameless save", "/NAME was expected")
      refused("publish", "publish is for full weights")
      refused("expired", "has expired", "NOT_FOUND")
      assert.is_false(seen.expired.success)
    end)

    it("and counts", function()
      assert.equal(30, #seen.counters.violations)
      assert.same({"datum 1: advantages is int64, floating numbers are wanted",
        "datum 1: colour is not known to any loss",
        "OptimStep of sess-000001:model:1 repeats seq_id 26: it is queued again",
        "OptimStep without a gradient", "OptimStep without a gradient"}, seen.counters.remarks)
    end)
  end)

  describe("fails on order:", function()
    local seen
    setup(function() seen = ask("faults.py") end)

    it("statuses, with trailers, n times, after n calls, for good", function()
      local quota = {status = "RESOURCE_EXHAUSTED", details = "später",
        trailers = {["river-error-code"] = "IMAGE_QUOTA_EXCEEDED"}}
      assert.same({quota, quota, {status = "OK", details = "", trailers = {}}}, seen.statuses.outcomes)
      assert.same({"UNIMPLEMENTED", "UNIMPLEMENTED", "UNIMPLEMENTED"}, seen.unimplemented.outcomes)
      assert.same({"OK", "INTERNAL", "OK"}, seen["after one"].outcomes)
      assert.equal("hello", seen.trailers.value)
    end)

    it("replies that are lost before or after the act", function()
      local function outcome(name) return {seen[name].status, seen[name].steps} end
      assert.same({"UNAVAILABLE", 0}, outcome("not done"))
      assert.same({"UNAVAILABLE", 1}, outcome("done, reply lost"))
      assert.same({"OK", 2}, outcome("repeated"))
      assert.same({"UNAVAILABLE", 2}, outcome("cut before"))
      assert.same({"UNAVAILABLE", 3}, outcome("cut after"))
      assert.same({"OK", 3}, outcome("key repeated"))
    end)

    it("futures that fail, wait and never end", function()
      assert.same({name = "failed", category = "storage_floor", details = 3, steps = 3}, seen.failed)
      assert.same({name = "try again", kind = "optim_step", polls = 4}, seen["try again"])
      for _, kind in ipairs(seen.never.kinds) do assert.equal("try_again", kind) end
      assert.equal("queued", seen.never.state)
      assert.equal("optim_step", seen.finished.kind)
      assert.same({"ABORTED", "ABORTED", "OK"}, seen.poll.statuses)
      assert.equal("optim_step", seen["long poll"].kind)
    end)

    it("results that are wrong", function()
      assert.equal("checksum", seen.checksum.text)
      assert.equal("unload_model", seen.type.kind)
      assert.is_nil(seen.empty.kind)
      assert.same({2, 5, 3}, {seen.drop.results, seen.extra.results, seen.no_ids.results})
      assert.equal(0, seen.no_ids.ids)
      assert.equal(seen.short.ids - 1, seen.short.logprobs)
      assert.is_true(seen.oversize.text > 5000000)
    end)

    it("independent samples and their snapshots", function()
      assert.same({{"pending", "failed", "error"}, {"inference", "failed", "inference"}}, seen.batch.rounds)
      assert.same({name = "stream cut", kinds = {"inference"}, more = 0, status = "UNAVAILABLE"}, seen["stream cut"])
      assert.same({0, 1}, seen["stream status"].ids)
      assert.equal("ABORTED", seen["stream status"].status)
      assert.same({2, 1, 0}, seen.reverse.ids)
      assert.same({0, 1}, seen.missing.ids)
      assert.same({0, 1, 2, 0}, seen.twice.ids)
      assert.same({0, 1, 2, -1}, seen.unknown.ids)
    end)

    it("calls that are held, deadlines, heartbeats", function()
      assert.is_true(seen.held.reached)
      assert.is_false(seen.held.done)
      assert.equal("ok", seen["let go"].status)
      assert.same({name = "deadline", status = "DEADLINE_EXCEEDED", seen = true}, seen.deadline)
      assert.same({name = "heartbeat", success = {false, true}, capacity = {"waiting"}}, seen.heartbeat)
    end)

    it("connections", function()
      assert.same({name = "goaway", held = "OK", new = "OK", after = "OK", moved = true, kept = "OK"}, seen.goaway)
      assert.equal("DEADLINE_EXCEEDED", seen.stalled.status)
      assert.equal("OK", seen.resumed.status)
      assert.same({name = "refused", cut = true, status = "UNAVAILABLE"}, seen.refused)
      assert.equal("UNAVAILABLE", seen["no HTTP/2"].status)
      assert.equal("OK", seen.passes.status)
      assert.equal("NOT_FOUND", seen.lost.status)
    end)

    it("and nothing else", function()
      assert.same({}, seen["end"].violations)
      assert.same({}, seen["end"].unused)
    end)
  end)

  it("differentiates its losses, and computes custom ones as the built-in ones that they spell out", function()
    local seen = ask("losses.py")
    for _, name in ipairs{"cross_entropy", "importance_sampling []", "importance_sampling ['logprob_temperature']",
      "ppo ['clip_low']", "dro ['beta']", "graph of everything"} do
      assert.is_true(seen[name].off < 1e-6 and math.abs(seen[name].gradient) > 1e-3, name)
    end
    assert.is_true(seen.cispo.is_the_ratio_form)
    for _, name in ipairs{"graph ce", "graph ppo"} do
      assert.is_true(seen[name].same_loss and seen[name].same_gradient, name)
      assert.equal("OK", seen[name].prepared)
    end
    assert.equal(9, seen["graph ce"].metrics["custom/weight_sum"])
    for _, name in ipairs{"version", "loss", "columns", "nodes", "metrics"} do
      assert.equal("INVALID_ARGUMENT", seen["refused " .. name].status)
    end
  end)

  it("listens over TLS", function()
    assert.same({name = "tls", status = "OK", plain = "UNAVAILABLE"}, ask("places.py", {tls = true}).tls)
  end)

  it("listens on a Unix socket and past its relay, and lets connections grow old", function()
    local path = os.tmpname()
    os.remove(path)
    local seen = ask("places.py", {unix_socket = path, max_connection_age = 0.2})
    os.remove(path)
    assert.equal("OK", seen.unix.status)
    assert.equal("OK", seen.direct.status)
    assert.equal("string", type(seen.direct.peer))
    assert.same({"OK"}, seen.age.statuses)
  end)

  it("is steered from Lua", function()
    local server <close> = standin.start{config = {queue_state = "full"}}
    assert.equal("full", server:configure{try_again = 1}.queue_state)
    server:fault{method = "GetInfo", status = "INTERNAL"}
    local faults = server:get("faults")
    assert.same({"GetInfo", 1}, {faults[1].method, faults[1].left})
    server:clear()
    assert.equal(0, #server:get("faults"))
    assert.equal(0, server:count())
    assert.equal(0, server:count("GetInfo"))
    assert.equal(0, #server:log())
    assert.is_nil(server:model())
    assert.is_true(server:wait_for{open = 0})
    local ok, problem = pcall(server.fault, server, {method = "Nothing"})
    assert.is_false(ok)
    assert.truthy(tostring(problem):find("no method Nothing", 1, true))
    assert.has_error(function() server:configure{nothing = 1} end)
    server:reset()
    assert.equal("queued", server:configure{}.queue_state)
  end)
end)
