-- client:map: many questions at once, in order, slower while the service asks for that.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local errors = require "riverlua.errors"
local task = require "riverlua.task"

local error_of, refuses, faked = support.error_of, support.refuses, support.faked

local function numbers(count)
  local list = {}
  for i = 1, count do list[i] = i end
  return list
end

describe("client:map", function()
  it("returns results in the items' order, whoever is ready first", function()
    local client = faked()
    local results = client:map({3, 1, 2}, function(item, index)
      task.sleep(item / 1000)
      return item * 10 + index
    end)
    assert.same({31, 12, 23, n = 3}, results)
    assert.same({n = 0}, client:map({}, error))
    assert.same({n = 3, [2] = false}, client:map({1, 2, 3}, function(item)
      if item == 2 then return false end
    end))
  end)

  it("runs no more at once than it may, and as many as it can", function()
    local client = faked()
    for _, parallel in ipairs{1, 3, 8, 100} do
      local active, most = 0, 0
      client:map(numbers(30), function()
        active = active + 1
        most = math.max(most, active)
        for _ = 1, 3 do task.sleep(0) end
        active = active - 1
      end, {parallel = parallel})
      assert.equal(math.min(parallel, 30), most)
    end
  end)

  it("ends with the first failure and cancels the rest", function()
    local client = faked()
    local cancelled, started = 0, 0
    local err = error_of(client.map, client, numbers(20), function(item)
      started = started + 1
      local ok, problem = pcall(task.sleep, item == 3 and 0.001 or 60)
      if not ok then
        cancelled = cancelled + (errors.is(problem, "cancelled") and 1 or 0)
        error(problem, 0)
      end
      error("item " .. item, 0)
    end, {parallel = 4})
    assert.equal("item 3", err)
    assert.equal(4, started)
    assert.equal(3, cancelled)
  end)

  it("goes on with what on_error returns in the place of a failure", function()
    local client = faked(function(req)
      return req.json.messages[1].content == "2" and {status = 401} or {}
    end)
    local seen
    local results = client:map({1, 2, 3}, function(item)
      client:ai("w", tostring(item))
      return item
    end, {on_error = function(err, item, index)
      seen = {err.kind, item, index}
      return "failed"
    end})
    assert.same({1, "failed", 3, n = 3}, results)
    assert.same({"auth", 2, 2}, seen)
    assert.equal("from on_error", error_of(client.map, client, {1}, error,
      {on_error = function() error("from on_error", 0) end}))
  end)

  it("is cancelled with the task that runs it", function()
    local client = faked()
    local swallowed = 0
    local running = task.spawn(client.map, client, numbers(5), function() task.sleep(60) end,
      {on_error = function() swallowed = swallowed + 1 end})
    task.sleep(0)
    running:cancel()
    assert.is_false(pcall(running.await, running))
    assert.equal("cancelled", running:status())
    assert.equal(0, swallowed)
  end)

  it("works where Lua cannot yield, and inside itself", function()
    local client = faked()
    local sum = 0
    table.sort({2, 1}, function(a, b)
      for _, value in ipairs(client:map({a, b}, function(item)
        task.sleep(0)
        return item
      end)) do sum = sum + value end
      return a < b
    end)
    assert.is_true(sum >= 3)
    local nested = client:map({1, 2}, function(i) return client:map({1, 2}, function(j) return i * j end) end)
    assert.same({{1, 2, n = 2}, {2, 4, n = 2}, n = 2}, nested)
  end)

  it("refuses what is wrong", function()
    local client = faked()
    refuses("map: 'list' must be a table", client.map, client, "list", print)
    refuses("map: 'fn' must be a callable", client.map, client, {1})
    refuses("map: 'parallel' must be an integer", client.map, client, {1}, print, {parallel = 1.5})
    refuses("map: 'parallel' must be at least 1", client.map, client, {1}, print, {parallel = 0})
    refuses("did you mean 'parallel'", client.map, client, {1}, print, {paralel = 2})
    refuses("'on_error' must be a callable", client.map, client, {1}, print, {on_error = 5})
    refuses("'options' must be a table", client.map, client, {1}, print, 8)
  end)
end)

describe("client:map, when the service says that it is too much", function()
  -- Refuses one request; keeps when each was sent, and how many were under way.
  local function limited_service(refused, seconds)
    local seen = {active = 0, sent = {}, active_then = {}}
    local client = faked(function(_, number)
      seen.sent[number], seen.active = task.now(), seen.active + 1
      seen.active_then[number] = seen.active
      task.sleep(0.002)
      seen.active = seen.active - 1
      if number == refused then
        seen.refused_at = task.now()
        return {status = 429, headers = {["retry-after"] = tostring(seconds)}}
      end
      return {}
    end)
    return client, seen
  end

  it("sends nothing more until the time is over", function()
    local client, seen = limited_service(1, 0.05)
    client:map(numbers(20), function() return client:ai("w", "hi") end, {parallel = 4})
    assert.equal(21, #seen.sent)
    for i, at in ipairs(seen.sent) do
      assert.is_true(at <= seen.refused_at or at >= seen.refused_at + 0.05, i)
    end
    assert.equal(1, client:stats().slowed)
  end)

  it("then sends half as many at once, and slowly more again", function()
    local client, seen = limited_service(9, 0.01)
    client:map(numbers(60), function() return client:ai("w", "hi") end, {parallel = 8})
    local after, least = {}, 8
    for i = 1, #seen.sent do
      if seen.sent[i] > seen.refused_at then
        after[#after + 1] = seen.active_then[i]
      end
    end
    -- those that were waiting go out together; then the lower limit holds
    for i = 9, #after do least = math.min(least, after[i]) end
    assert.is_true(least <= 4, least)
    assert.is_true(math.max(table.unpack(after, #after - 10)) > 4)
  end)

  it("also when the calls make no other try themselves", function()
    local client, requests = faked(function(_, number)
      task.sleep(0.001)
      return number == 1 and {status = 429} or {}
    end, {retries = 0})
    local results = client:map(numbers(12), function() return client:ai("w", "hi"):text() end,
      {parallel = 4, on_error = function(err) return err.kind end})
    assert.equal("rate_limit", results[1])
    assert.equal("", results[2])
    assert.equal(12, #requests)
    assert.equal(1, client:stats().slowed)
  end)
end)

describe("client:map against the stand-in", function()
  local stub
  setup(function() stub = support.start() end)
  teardown(function() stub:close() end)

  it("one 429 slows all", function()
    local client <close> = support.client(stub)
    local paused = task.spawn(client.ai, client, "flaky:1:429+retry_after:0.2", "first")
    while client.gateway.slowed == 0 do task.sleep(0.001) end
    local until_then = client.gateway.paused_until
    local answers = client:map(numbers(8), function(i) return client:ai("echo", "n" .. i):text() end)
    assert.is_true(task.now() >= until_then)
    assert.equal("n8", answers[8])
    paused:await()
    assert.equal(10, stub:stats().requests)
  end)
end)
