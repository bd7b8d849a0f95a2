-- The specification's loop with the official client learns on the training stand-in; with mistakes in it, it shows.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")

describe("the specification's loop on the training stand-in", function()
  local server, seen

  setup(function()
    server = support.standin.start()
    seen = support.plain(select(2, support.ask(server, "rl_loop.py")))
  end)

  teardown(function() server:close() end)

  local function last(name) return seen[name].curve[#seen[name].curve] end

  it("climbs from 0.17 to 0.99 in 12 steps of 256 prompts with 4 samples each", function()
    local curve = seen.straight.curve
    assert.equal(13, #curve)
    assert.is_true(curve[1] > 0.13 and curve[1] < 0.21, tostring(curve[1]))
    for i = 1, 8 do assert.is_true(curve[i + 1] > curve[i]) end
    assert.is_true(last("straight") >= 0.985, tostring(last("straight")))
    local metrics, counters = seen.straight.metrics, seen.straight.counters
    assert.is_true(math.abs(metrics.kl) < 1e-6 and math.abs(metrics.mean_ratio - 1) < 1e-6)
    assert.is_true(counters.aligned > 2000 and counters.logprobs_kept == counters.aligned)
    assert.is_nil(counters.misaligned)
    assert.is_nil(counters.logprobs_differ)
  end)

  it("is the same for the same seed, and another for another", function()
    assert.same({table.unpack(seen.straight.curve, 1, 3)}, seen["straight again"].curve)
    local other <close> = support.standin.start{seed = 2}
    local _, there = support.ask(other, "rl_loop.py", "short")
    assert.is_not.same(seen.straight.curve[1], there.straight.curve[1])
  end)

  it("stays low with advantages one place late", function()
    assert.is_true(last("shifted") < 0.24, tostring(last("shifted")))
    assert.is_true(seen.shifted.counters.misaligned > 1000)
  end)

  it("falls with the sign flipped", function() assert.is_true(last("flipped") < 0.02, tostring(last("flipped"))) end)

  it("shows old log-probabilities that were forgotten, and advantages one place early", function()
    local metrics = seen.forgotten.metrics
    assert.is_true(metrics.kl < -0.1 and metrics.mean_ratio < 0.9)
    assert.is_true(seen.forgotten.counters.logprobs_differ > 0)
    assert.is_true(seen["shifted back"].counters.misaligned > 0)
  end)

  it("has nothing to complain about", function()
    for _, run in pairs(seen) do assert.same({}, run.violations) end
    assert.equal("", server:errors())
  end)
end)
