-- What is built on tasks: gather, map, time limits, scopes, queues, semaphores.

local core = require "riverlua.core.task"
local errors = require "riverlua.errors"
local servers = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../support/servers.lua")
local task = require "riverlua.task"
local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../support/tasks.lua")

local error_of = servers.error_of
local settle = support.settle

describe("riverlua.task", function()
  before_each(function() core.failures() end)

  after_each(support.end_all)

  describe("gather", function()
    it("returns the first result of each, in order", function()
      assert.same({1, nil, 3, n = 3}, table.pack(task.gather(
        function() task.sleep(0.01) return 1, "dropped" end,
        function() end,
        function() return 3 end)))
      assert.same({"a", "b"}, {task.gather{function() return "a" end, function() return "b" end}})
      assert.same({n = 0}, table.pack(task.gather()))
      assert.same({n = 0}, table.pack(task.gather{}))
    end)

    it("runs them side by side", function()
      local q = task.queue()
      assert.same({"ping", "pong"}, {task.gather(
        function() return q:get() end,
        function() q:put("ping") return "pong" end)})
    end)

    it("takes tasks among the functions", function()
      local t = task.spawn(function() return "task" end)
      assert.same({"task", "function"}, {task.gather(t, function() return "function" end)})
    end)

    it("raises the first failure and cancels the others", function()
      local reason
      local err = error_of(task.gather,
        function()
          local ok, e = pcall(task.sleep, 1000)
          reason = not ok and e
          error(e, 0)
        end,
        function() error({"mine"}, 0) end)
      assert.same({"mine"}, err)
      assert.is_true(errors.is(reason, "cancelled"))
      assert.equal(0, #core.waiting())
      assert.equal(0, core.failures().n)
    end)

    it("works inside gather", function()
      local function pair() return {task.gather(function() return 1 end, function() return 2 end)} end
      assert.same({{1, 2}, {1, 2}}, {task.gather(pair, pair)})
    end)
  end)

  describe("map", function()
    it("keeps the order, passes the index", function()
      local results = task.map({30, 10, 20}, function(x, i)
        task.sleep(x / 5000)
        return x + i
      end)
      assert.same({31, 12, 23, n = 3}, results)
      assert.same({n = 0}, task.map({}, print))
    end)

    it("keeps nil results in their places", function()
      local results = task.map({1, 2, 3}, function(x) return x ~= 2 and x or nil end)
      assert.same({1, nil, 3, n = 3}, results)
    end)

    -- How many calls of a map over 25 items ran at once.
    local function most_at_once(options)
      local items, running, most = {}, 0, 0
      for i = 1, 25 do items[i] = i end
      task.map(items, function()
        running = running + 1
        most = math.max(most, running)
        task.sleep(0)
        running = running - 1
      end, options)
      return most
    end

    it("never runs more at once than allowed, and as many as allowed", function()
      for _, bound in ipairs{1, 3, 8} do assert.equal(bound, most_at_once{concurrency = bound}) end
    end)

    it("runs 8 at once unless told otherwise", function()
      assert.equal(8, most_at_once())
    end)

    it("cancels the rest after a failure and starts no more", function()
      local items, started, finished = {}, 0, 0
      for i = 1, 100 do items[i] = i end
      local err = error_of(task.map, items, function(i)
        started = started + 1
        if i == 3 then error("third", 0) end
        task.sleep(1000)
        finished = finished + 1
      end, {concurrency = 4})
      assert.equal("third", err)
      assert.is_true(started <= 4)
      assert.equal(0, finished)
      assert.equal(0, #core.waiting())
    end)

    it("checks its arguments", function()
      assert.matches("did you mean 'concurrency'", error_of(task.map, {}, print, {concurency = 1}).message)
      for _, bad in ipairs{0, -1, 1.5, "x"} do
        assert.equal("argument", error_of(task.map, {1}, print, {concurrency = bad}).kind)
      end
      assert.equal("argument", error_of(task.map, nil, print).kind)
      assert.equal("argument", error_of(task.map, {}, nil).kind)
    end)
  end)

  describe("timeout", function()
    it("returns what the function returns", function()
      assert.same({1, nil, 3, n = 3}, table.pack(task.timeout(60, function(...) return ... end, 1, nil, 3)))
    end)

    it("cancels and raises kind timeout, with the cause", function()
      local closed = false
      local err = error_of(task.timeout, 0.001, function()
        local _ <close> = setmetatable({}, {__close = function() closed = true end})
        task.sleep(1000)
      end)
      assert.is_true(errors.is(err, "timeout"))
      assert.equal("total", err.phase)
      assert.is_true(errors.is(err.cause, "cancelled"))
      assert.is_true(closed)
    end)

    it("raises the function's own error unchanged", function()
      assert.equal("own", error_of(task.timeout, 60, error, "own", 0))
    end)

    it("nests: the inner limit hits first, the outer one can", function()
      local inner = error_of(task.timeout, 60, task.timeout, 0.001, task.sleep, 1000)
      assert.matches("0.001", inner.message)
      local seen
      local outer = error_of(task.timeout, 0.001, function()
        local ok, err = pcall(task.timeout, 60, task.sleep, 1000)
        seen = not ok and err
        error(err, 0)
      end)
      assert.matches("0.001", outer.message)
      assert.is_true(errors.is(seen, "cancelled"))
      assert.equal(0, #core.waiting())
    end)

    it("gives what a task returns that ignored the cancellation", function()
      assert.equal("stubborn", task.timeout(0.001, function()
        pcall(task.sleep, 1000)
        task.sleep(0)
        return "stubborn"
      end))
    end)

    it("keeps an error raised instead of the cancellation as the cause", function()
      local err = error_of(task.timeout, 0.001, function()
        pcall(task.sleep, 1000)
        error("instead", 0)
      end)
      assert.equal("timeout", err.kind)
      assert.equal("instead", err.cause)
      assert.equal(0, core.failures().n)
    end)

    it("checks its arguments", function()
      assert.equal("argument", error_of(task.timeout, "x", print).kind)
      assert.equal("argument", error_of(task.timeout, 1, nil).kind)
    end)
  end)

  describe("scope", function()
    it("waits for all its tasks and returns what the body returns", function()
      local done = 0
      assert.same({"body", nil, n = 2}, table.pack(task.scope(function(scope, extra)
        assert.equal("extra", extra)
        for _ = 1, 3 do
          scope:spawn(function()
            task.sleep(0.001)
            done = done + 1
          end)
        end
        return "body", nil
      end, "extra")))
      assert.equal(3, done)
    end)

    it("waits for tasks that its tasks spawn", function()
      local done = {}
      task.scope(function(scope)
        scope:spawn(function()
          task.sleep(0)
          scope:spawn(function()
            task.sleep(0.001)
            done[#done + 1] = "grandchild"
          end)
          done[#done + 1] = "child"
        end)
      end)
      assert.same({"child", "grandchild"}, done)
    end)

    it("cancels siblings and the body at the first failure, which it raises", function()
      local ends = {}
      local err = error_of(task.scope, function(scope)
        scope:spawn(function()
          local _ <close> = setmetatable({}, {__close = function(_, e) ends.sibling = e.kind end})
          task.sleep(1000)
        end)
        scope:spawn(function()
          task.sleep(0)
          error({"first"}, 0)
        end)
        local _ <close> = setmetatable({}, {__close = function(_, e) ends.body = e.kind end})
        task.sleep(1000)
      end)
      assert.same({"first"}, err)
      assert.same({sibling = "cancelled", body = "cancelled"}, ends)
      assert.equal(0, #core.waiting())
      assert.equal(0, core.failures().n)
    end)

    it("cancels the tasks when the body fails, also those that had not begun", function()
      local ran = false
      local err = error_of(task.scope, function(scope)
        scope:spawn(function() ran = true end)
        error("body", 0)
      end)
      assert.equal("body", err)
      settle()
      assert.is_false(ran)
      assert.equal(0, #core.waiting())
    end)

    it("takes its tasks along when the owner is cancelled", function()
      local ends = {}
      local owner = task.spawn(task.scope, function(scope)
        for i = 1, 3 do
          scope:spawn(function()
            local _ <close> = setmetatable({}, {__close = function(_, e) ends[i] = e.kind end})
            task.sleep(1000)
          end)
        end
      end)
      settle()
      owner:cancel("owner gone")
      assert.equal("owner gone", error_of(owner.await, owner).message)
      assert.same({"cancelled", "cancelled", "cancelled"}, ends)
      assert.equal(0, #core.waiting())
    end)

    it("can be cancelled as a whole", function()
      local scope_seen
      local t = task.spawn(task.scope, function(scope)
        scope_seen = scope
        scope:spawn(task.sleep, 1000)
        task.sleep(1000)
      end)
      settle()
      scope_seen:cancel("all of it")
      assert.equal("cancelled", error_of(t.await, t).kind)
      assert.equal(0, #core.waiting())
    end)

    it("refuses to spawn after its end", function()
      local kept
      task.scope(function(scope) kept = scope end)
      assert.equal("closed", error_of(kept.spawn, kept, print).kind)
    end)

    it("waits for close handlers that wait", function()
      local closed = false
      pcall(task.scope, function(scope)
        scope:spawn(function()
          local _ <close> = setmetatable({}, {__close = function()
            task.sleep(0.002)
            closed = true
          end})
          task.sleep(1000)
        end)
        task.sleep(0)
        error "x"
      end)
      assert.is_true(closed)
    end)

    it("returns the results of its tasks through await", function()
      assert.equal(3, task.scope(function(scope)
        local a, b = scope:spawn(function() return 1 end), scope:spawn(function() return 2 end)
        return a:await() + b:await()
      end))
    end)
  end)

  describe("queue", function()
    it("hands items on in order", function()
      local q = task.queue()
      for i = 1, 5 do q:put(i) end
      assert.equal(5, #q)
      for i = 1, 5 do assert.equal(i, q:get()) end
      assert.equal(0, #q)
    end)

    it("makes put wait when it is full", function()
      local q = task.queue(2)
      local log = {}
      local producer = task.spawn(function()
        for i = 1, 5 do
          q:put(i)
          log[#log + 1] = "put " .. i
        end
      end)
      settle()
      assert.same({"put 1", "put 2"}, log)
      assert.equal(1, q:get())
      settle()
      assert.equal("put 3", log[#log])
      for i = 2, 5 do assert.equal(i, q:get()) end
      producer:await()
    end)

    it("ends its consumers when it is closed and empty", function()
      local q = task.queue()
      local got = {}
      local consumer = task.spawn(function()
        for item in q:items() do got[#got + 1] = item end
        return "ended"
      end)
      q:put("a")
      q:put("b")
      q:close()
      assert.equal("ended", consumer:await())
      assert.same({"a", "b"}, got)
      assert.is_nil(q:get())
      assert.equal("closed", error_of(q.put, q, 1).kind)
    end)

    it("wakes everybody who waits when it is closed", function()
      local q = task.queue(1)
      local getters, putters = {}, {}
      for i = 1, 3 do getters[i] = task.spawn(q.get, q) end
      settle()
      q:close()
      for _, t in ipairs(getters) do assert.is_nil(t:await()) end
      local full = task.queue(1)
      full:put(1)
      for i = 1, 3 do putters[i] = task.spawn(full.put, full, i) end
      settle()
      full:close()
      for _, t in ipairs(putters) do assert.equal("closed", error_of(t.await, t).kind) end
      assert.equal(1, full:get())
    end)

    it("is closed at the end of its block", function()
      local kept
      do
        local q <close> = task.queue()
        kept = q
      end
      assert.is_nil(kept:get())
    end)

    it("gives up after the time asked for", function()
      local q = task.queue()
      assert.equal("timeout", error_of(q.get, q, 0.001).kind)
      assert.equal("timeout", error_of(q.get, q, 0).kind)
      q:put(false)
      assert.is_false(q:get(0))
      task.spawn(function()
        task.sleep(0.001)
        q:put("in time")
      end)
      assert.equal("in time", q:get(60))
    end)

    it("serves many producers and consumers, every item once", function()
      local q, seen, count = task.queue(3), {}, 0
      task.scope(function(scope)
        for _ = 1, 7 do
          scope:spawn(function()
            for item in q:items() do
              assert.is_nil(seen[item])
              seen[item] = true
              count = count + 1
              if item % 3 == 0 then task.sleep(0) end
            end
          end)
        end
        local producers = {}
        for p = 0, 9 do
          producers[p] = scope:spawn(function()
            for i = 1, 50 do
              q:put(p * 50 + i)
              if i % 7 == p then task.sleep(0) end
            end
          end)
        end
        for p = 0, 9 do producers[p]:await() end
        q:close()
      end)
      assert.equal(500, count)
      assert.equal(0, #q)
    end)

    it("loses no item to a consumer that was cancelled or timed out", function()
      local q = task.queue()
      local a = task.spawn(q.get, q)
      local b = task.spawn(q.get, q)
      settle()
      a:cancel()
      q:put("for b")
      assert.equal("for b", b:await())
      assert.equal("cancelled", error_of(a.await, a).kind)
    end)

    it("checks its arguments", function()
      for _, bad in ipairs{0, -1, 1.5, "2"} do assert.equal("argument", error_of(task.queue, bad).kind) end
      local q = task.queue()
      assert.equal("argument", error_of(q.put, q, nil).kind)
    end)
  end)

  describe("semaphore", function()
    it("lets so many through", function()
      local semaphore, inside, most = task.semaphore(3), 0, 0
      task.scope(function(scope)
        for _ = 1, 12 do
          scope:spawn(function()
            local _ <close> = semaphore:acquire()
            inside = inside + 1
            most = math.max(most, inside)
            task.sleep(0)
            inside = inside - 1
          end)
        end
      end)
      assert.equal(3, most)
      assert.equal(0, inside)
    end)

    it("gives places back after errors and cancellation", function()
      local semaphore = task.semaphore(1)
      assert.equal("x", error_of(semaphore.with, semaphore, error, "x", 0))
      local holder = task.spawn(semaphore.with, semaphore, task.sleep, 1000)
      local other = task.spawn(semaphore.with, semaphore, function(...) return "got it", ... end, 1)
      settle()
      assert.equal("waiting", other:status())
      holder:cancel()
      assert.same({"got it", 1}, {other:await()})
    end)

    it("serves in the order of asking", function()
      local semaphore, order = task.semaphore(1), {}
      task.scope(function(scope)
        for i = 1, 5 do
          scope:spawn(semaphore.with, semaphore, function()
            task.sleep(0)
            order[#order + 1] = i
          end)
        end
      end)
      assert.same({1, 2, 3, 4, 5}, order)
    end)

    it("works with acquire and release by hand", function()
      local semaphore = task.semaphore(1)
      semaphore:acquire()
      local t = task.spawn(semaphore.acquire, semaphore)
      settle()
      assert.equal("waiting", t:status())
      semaphore:release()
      assert.is_true(t:join())
    end)

    it("checks its argument", function()
      for _, bad in ipairs{0, 1.5, "1"} do assert.equal("argument", error_of(task.semaphore, bad).kind) end
      assert.equal("argument", error_of(task.semaphore).kind)
    end)
  end)
end)
