-- What the client makes of the observations that replies to heartbeats carry. Clocks and output are the test's own.

local capacity = require "training.capacity"
local errors = require "riverlua.errors"

describe("capacity", function()
  local now, lines, sequence

  -- 1.7e9 on the wall when the monotonic clock says 1000
  local WALL = 1.7e9 - 1000

  local function new(hints)
    return capacity.new{hints = hints, clock = function() return now end, wall = function() return WALL + now end,
      write = function(line) lines[#lines + 1] = line end}
  end

  -- An observation as riverlua.protobuf decodes it, `age` seconds old.
  local function observation(state, more)
    more = more or {}
    local date = WALL + now - (more.age or 0)
    local seconds = math.floor(date)
    return {
      training_run_id = more.run or "run-1", workload = more.workload or "training", state = state,
      capacity_wait = more.wait or false,
      observed_at = not more.undated and {seconds = seconds, nanos = math.floor((date - seconds) * 1e9)} or nil,
    }
  end

  local function update(monitor, ...)
    sequence = sequence + 1
    return monitor:update({...}, sequence)
  end

  before_each(function() now, lines, sequence = 1000, {}, 0 end)

  it("knows nothing at first", function()
    assert.same({}, new():status())
  end)

  it("keeps the latest list as a whole, sorted", function()
    local monitor = new()
    update(monitor, observation("waiting", {run = "old"}))
    assert.is_true(update(monitor, observation("ready", {run = "b"}), observation("at_limit", {run = "a", wait = true}),
      observation("preparing", {run = "a", workload = "inference"})))
    local list = monitor:status()
    assert.equal(3, #list)
    assert.same({"a", "inference", "preparing", false},
      {list[1].training_run_id, list[1].workload, list[1].state, list[1].capacity_wait})
    assert.same({"a", "training", "at_limit", true},
      {list[2].training_run_id, list[2].workload, list[2].state, list[2].capacity_wait})
    assert.same({"b", "training", "ready", false},
      {list[3].training_run_id, list[3].workload, list[3].state, list[3].capacity_wait})
    assert.equal(1.7e9, list[3].observed_at)
    update(monitor)
    assert.same({}, monitor:status())
  end)

  it("hands out tables of the caller's own", function()
    local monitor = new()
    update(monitor, observation("ready"))
    monitor:status()[1].state = "changed"
    assert.equal("ready", monitor:status()[1].state)
  end)

  it("ignores replies older than the last one", function()
    local monitor = new()
    assert.is_true(monitor:update({observation("ready")}, 5))
    assert.is_false(monitor:update({observation("waiting")}, 5))
    assert.is_false(monitor:update({observation("waiting")}, 4))
    assert.equal("ready", monitor:status()[1].state)
    assert.is_true(monitor:update({observation("waiting")}, 6))
    assert.equal("waiting", monitor:status()[1].state)
  end)

  it("of two observations of the same keeps the later", function()
    local monitor = new()
    update(monitor, observation("ready"), observation("waiting"))
    assert.equal(1, #monitor:status())
    assert.equal("waiting", monitor:status()[1].state)
  end)

  it("drops workloads that it does not know", function()
    local monitor = new()
    update(monitor, observation("ready", {workload = "storage"}), observation("ready", {workload = "inference"}))
    assert.equal(1, #monitor:status())
    assert.equal("inference", monitor:status()[1].workload)
  end)

  it("takes states that it does not know for unavailable, and nobody waits then", function()
    local monitor = new()
    update(monitor, observation("on_fire", {wait = true}))
    local one = monitor:status()[1]
    assert.equal("unavailable", one.state)
    assert.is_false(one.capacity_wait)
    assert.equal(1.7e9, one.observed_at)
  end)

  for _, case in ipairs{{-5, true}, {-5.1, false}, {0, true}, {30, true}, {30.1, false}} do
    it(("an observation %g s old %s"):format(case[1], case[2] and "counts" or "does not count"), function()
      local monitor = new()
      update(monitor, observation("ready", {age = case[1]}))
      local one = monitor:status()[1]
      assert.equal(case[2] and "ready" or "unavailable", one.state)
      assert.equal(case[2], one.observed_at ~= nil)
    end)
  end

  it("an observation without a date, or with an impossible one, does not count", function()
    local monitor = new()
    update(monitor, observation("ready", {undated = true}))
    assert.equal("unavailable", monitor:status()[1].state)
    for _, seconds in ipairs{math.mininteger, math.maxinteger, 0} do
      local one = observation("ready")
      one.observed_at = {seconds = seconds, nanos = -1}
      update(monitor, one)
      assert.equal("unavailable", monitor:status()[1].state)
    end
  end)

  it("expires 30 s after it was observed", function()
    local monitor = new()
    update(monitor, observation("at_limit", {age = 10, wait = true}))
    now = 1020
    assert.equal("at_limit", monitor:status()[1].state)
    assert.is_true(monitor:status()[1].capacity_wait)
    now = 1020.5
    assert.equal("unavailable", monitor:status()[1].state)
    assert.is_false(monitor:status()[1].capacity_wait)
  end)

  it("judges the age by when the reply came, not by when it is looked at", function()
    local monitor = new()
    local early = observation("ready", {age = -20})
    now = 1018   -- at which it is 2 s ahead; when it came it was 20 s ahead
    assert.is_true(monitor:update({early}, 1, 18))
    assert.equal("unavailable", monitor:status()[1].state)
    local old = observation("ready", {age = 18})
    monitor:update({old}, 2, 18)
    assert.equal("ready", monitor:status()[1].state)
    now = 1031
    assert.equal("unavailable", monitor:status()[1].state)
  end)

  it("refuses unknown options and dots for colons", function()
    local ok, err = pcall(capacity.new, {hint = true})
    assert.is_false(ok)
    assert.is_true(errors.is(err, "argument"))
    assert.matches("hints", err.message, 1, true)
    ok, err = pcall(capacity.new, {clock = 3})
    assert.is_false(ok)
    assert.is_true(errors.is(err, "argument"))
    ok, err = pcall(new().status)
    assert.is_false(ok)
    assert.is_true(errors.is(err, "argument"))
  end)

  -- ------------------------------------------------------------------------------------------------------ hints

  describe("hints", function()
    -- Sees the state now and again after each of the given seconds.
    local function see(monitor, state, more, ...)
      update(monitor, observation(state, more))
      for _, seconds in ipairs{...} do
        now = now + seconds
        update(monitor, observation(state, more))
      end
    end

    it("are not given unless wanted", function()
      see(new(false), "waiting", nil, 6, 6)
      assert.same({}, lines)
    end)

    it("tell a state that has lasted five seconds, once", function()
      local monitor = new(true)
      see(monitor, "waiting", nil, 2, 2.9)
      assert.same({}, lines)
      see(monitor, "waiting", nil, 0.2)
      assert.equal(1, #lines)
      assert.matches("^river: run%-1, Training: requests wait until .*\n$", lines[1])
      see(monitor, "waiting", nil, 20, 20, 20)
      assert.equal(1, #lines)
    end)

    it("start counting again when the state changes", function()
      local monitor = new(true)
      see(monitor, "waiting", nil, 4)
      see(monitor, "preparing", nil, 4)
      see(monitor, "waiting", nil, 4)
      assert.same({}, lines)
      see(monitor, "waiting", nil, 2)
      assert.equal(1, #lines)
    end)

    it("give one line in thirty seconds per run and workload", function()
      local monitor = new(true)
      see(monitor, "waiting", nil, 6)
      see(monitor, "preparing", nil, 6, 6, 6, 6)
      assert.equal(1, #lines)
      see(monitor, "preparing", nil, 7)
      assert.equal(2, #lines)
      assert.matches("get ready", lines[2], 1, true)
    end)

    it("count each workload of each run for itself", function()
      local monitor = new(true)
      for _ = 1, 2 do
        update(monitor, observation("waiting"), observation("waiting", {workload = "inference"}),
          observation("scaling_up", {run = "run-2"}))
        now = now + 6
      end
      assert.equal(3, #lines)
      assert.matches("run-1, Inference", lines[1], 1, true)
      assert.matches("run-1, Training", lines[2], 1, true)
      assert.matches("run-2, Training: more workers", lines[3], 1, true)
    end)

    it("tell that all is ready only after something else was told", function()
      local monitor = new(true)
      see(monitor, "ready", nil, 6, 31)
      assert.same({}, lines)
      see(monitor, "scaling_up", nil, 6)
      see(monitor, "ready", {wait = true}, 6, 25)
      assert.equal(1, #lines)
      see(monitor, "ready", nil, 6)
      assert.equal(2, #lines)
      assert.matches("workers are ready", lines[2], 1, true)
      see(monitor, "ready", nil, 31, 31)
      assert.equal(2, #lines)
    end)

    it("tell of the limit when requests wait, or no longer do", function()
      local monitor = new(true)
      see(monitor, "at_limit", nil, 6, 6)
      assert.same({}, lines)
      see(monitor, "at_limit", {wait = true}, 6)
      assert.equal(1, #lines)
      assert.matches("requests wait; ", lines[1], 1, true)
      see(monitor, "at_limit", nil, 6, 25)
      assert.equal(2, #lines)
      assert.matches("no longer wait; ", lines[2], 1, true)
    end)

    it("take states of which a line says the same for one", function()
      local monitor = new(true)
      see(monitor, "waiting")
      now = now + 6
      see(monitor, "waiting", {wait = true})
      assert.equal(1, #lines)
      see(monitor, "waiting", nil, 31)
      assert.equal(1, #lines)
    end)

    it("forget what has run out", function()
      local monitor = new(true)
      see(monitor, "waiting", nil, 6)
      assert.equal(1, #lines)
      now = now + 60                     -- no heartbeat came through
      see(monitor, "ready", nil, 6)      -- nothing to recover from that anybody remembers
      assert.equal(1, #lines)
    end)

    it("forget what is unavailable, or no longer spoken of", function()
      for _, between in ipairs{function(m) see(m, "unavailable") end, function(m) update(m) end} do
        local monitor = new(true)
        lines = {}
        see(monitor, "waiting", nil, 6)
        assert.equal(1, #lines)
        between(monitor)
        now = now + 31
        see(monitor, "ready", nil, 6)
        assert.equal(1, #lines)
        see(monitor, "waiting", nil, 6)
        assert.equal(2, #lines)
      end
    end)

    it("do not let the service write to the terminal as it likes", function()
      local monitor = new(true)
      see(monitor, "waiting", {run = "a\27[2Jb\nc\xc2\x9bd" .. ("x"):rep(5000)}, 6)
      assert.equal(1, #lines)
      assert.matches("^river: a%?%[2Jb%?c%?dx+%.%.%., Training", lines[1])
      assert.is_true(#lines[1] < 250)
    end)

    it("survive an output that is closed, and try again", function()
      local broken = true
      local monitor = capacity.new{hints = true, clock = function() return now end,
        wall = function() return WALL + now end,
        write = function(line)
          if broken then error("closed") end
          lines[#lines + 1] = line
        end}
      see(monitor, "waiting", nil, 6)
      broken = false
      see(monitor, "waiting")
      assert.equal(1, #lines)
    end)
  end)
end)
