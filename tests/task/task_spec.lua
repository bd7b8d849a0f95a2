-- Tasks: how they start, end, fail, wait and are cancelled, and what is built on them.

local core = require "riverlua.core.task"
local errors = require "riverlua.errors"
local servers = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../support/servers.lua")
local task = require "riverlua.task"

local error_of = servers.error_of

-- Lets every ready task run until nothing more happens by itself.
local function settle()
  for _ = 1, 10 do task.sleep(0) end
end

-- A task that waits until somebody fires the signal.
local function waiter(signal)
  return task.spawn(function() signal:wait() end)
end

describe("riverlua.task", function()
  before_each(function() core.failures() end)

  after_each(function()
    core.cancel_all()
    core.drain()
    core.failures()
  end)

  describe("spawn", function()
    it("runs when the caller first waits, in the order of spawning", function()
      local seen = {}
      for i = 1, 3 do task.spawn(function() seen[#seen + 1] = i end) end
      assert.same({}, seen)
      task.sleep(0)
      assert.same({1, 2, 3}, seen)
    end)

    it("passes arguments and returns results, nils included", function()
      local t = task.spawn(function(...) return select("#", ...), ... end, nil, false, nil)
      assert.same({3, nil, false, nil, n = 4}, table.pack(t:await()))
      assert.same({3, nil, false, nil, n = 4}, table.pack(t:await()))
      assert.same({n = 0}, table.pack(task.spawn(function() end):await()))
    end)

    it("passes many values", function()
      local many = {}
      for i = 1, 5000 do many[i] = i end
      local results = table.pack(task.spawn(function(...) return ... end, table.unpack(many)):await())
      assert.equal(5000, results.n)
      assert.equal(5000, results[5000])
    end)

    it("takes callable tables, and refuses what cannot be called", function()
      local callable = setmetatable({}, {__call = function(_, x) return x + 1 end})
      assert.equal(4, task.spawn(callable, 3):await())
      assert.equal("argument", error_of(task.spawn, 3).kind)
      assert.equal("argument", error_of(task.spawn).kind)
    end)

    it("names its tasks and knows the one that runs", function()
      assert.is_nil(task.current())
      local inside
      local t = task.spawn(function() inside = task.current() end)
      assert.matches("^task %d+ %(new%)$", tostring(t))
      t:await()
      assert.equal(t, inside)
      assert.matches("^task %d+ %(done%)$", tostring(t))
    end)

    it("tells the status", function()
      local signal = core.signal()
      local own
      local t = task.spawn(function()
        own = task.current():status()
        signal:wait()
      end)
      assert.equal("new", t:status())
      settle()
      assert.equal("running", own)
      assert.equal("waiting", t:status())
      signal:fire()
      t:await()
      assert.equal("done", t:status())
      local failed = task.spawn(error, "x")
      assert.is_true(failed:join())
      assert.equal("failed", failed:status())
    end)

    it("carries 10,000 tasks", function()
      local sum, tasks = 0, {}
      for i = 1, 10000 do
        tasks[i] = task.spawn(function()
          task.sleep(0)
          sum = sum + i
          return i
        end)
      end
      local again = 0
      for i = 1, #tasks do again = again + tasks[i]:await() end
      assert.equal(50005000, sum)
      assert.equal(sum, again)
    end)

    it("forgets tasks that ended", function()
      local weak = setmetatable({}, {__mode = "k"})
      for _ = 1, 20 do weak[task.spawn(function() task.sleep(0) end)] = true end
      settle()
      collectgarbage()
      collectgarbage()
      assert.is_nil(next(weak))
      assert.equal(0, #core.waiting())
    end)

    it("keeps tasks that nobody holds until they end", function()
      local signal, ended = core.signal(), 0
      for _ = 1, 20 do
        task.spawn(function()
          signal:wait()
          ended = ended + 1
        end)
      end
      settle()
      collectgarbage()
      collectgarbage()
      signal:fire()
      settle()
      assert.equal(20, ended)
    end)
  end)

  describe("failures", function()
    it("raises in await what the task raised, unchanged", function()
      local values = {"text", 42, 1.5, true, false, {kind = "mine"}, print, setmetatable({}, {}),
        errors.new{kind = "http", message = "m"}}
      for _, value in ipairs(values) do
        local t = task.spawn(error, value, 0)
        local ok, raised = pcall(t.await, t)
        assert.is_false(ok)
        assert.is_true(rawequal(value, raised))
        assert.is_true(rawequal(value, t:failure()))
      end
      local t = task.spawn(error)
      assert.same({false, nil, n = 2}, table.pack(pcall(t.await, t)))
      assert.equal("failed", t:status())
    end)

    it("raises it for everybody who awaits, and again later", function()
      local signal = core.signal()
      local t = task.spawn(function()
        signal:wait()
        error("boom", 0)
      end)
      local a, b = task.spawn(t.await, t), task.spawn(t.await, t)
      settle()
      signal:fire()
      assert.equal("boom", error_of(a.await, a))
      assert.equal("boom", error_of(b.await, b))
      assert.equal("boom", error_of(t.await, t))
    end)

    it("keeps the traceback of where it happened", function()
      local function deep_inside() error("boom") end
      local t = task.spawn(function() deep_inside() end)
      t:join()
      assert.matches("deep_inside", t:traceback())
      assert.equal(t:failure(), error_of(t.await, t))
      assert.matches("deep_inside", core.failure_traceback(t:failure()))
      assert.is_nil(core.failure_traceback("another"))
    end)

    it("reports those that nobody looked at, once", function()
      local unseen = task.spawn(error, "unseen", 0)
      local seen = task.spawn(error, "seen", 0)
      local joined = task.spawn(error, "joined", 0)
      settle()
      pcall(seen.await, seen)
      joined:join()
      local list = core.failures()
      assert.equal(1, #list)
      assert.equal(1, list.n)
      assert.equal("unseen", list[1].error)
      assert.equal(tonumber(tostring(unseen):match("%d+")), list[1].id)
      assert.equal("string", type(list[1].traceback))
      assert.same({n = 0}, core.failures())
    end)

    it("does not report a failure that somebody was waiting for", function()
      local t = task.spawn(function()
        task.sleep(0)
        error "x"
      end)
      assert.is_false(pcall(t.await, t))
      assert.equal(0, core.failures().n)
    end)

    it("does not report tasks that were cancelled", function()
      local t = waiter(core.signal())
      settle()
      t:cancel()
      settle()
      assert.equal("cancelled", t:status())
      assert.equal(0, core.failures().n)
    end)

    it("counts all but keeps only some of very many", function()
      for _ = 1, 300 do task.spawn(error, "x", 0) end
      settle()
      local list = core.failures()
      assert.equal(300, list.n)
      assert.is_true(#list >= 16 and #list < 300)
    end)

    it("survives an error in a message handler and a stack overflow", function()
      local function overflow() return 1 + overflow() end
      local t = task.spawn(overflow)
      assert.matches("stack overflow", error_of(t.await, t))
      local odd = task.spawn(xpcall, error, function() error "again" end)
      assert.is_false((odd:await()))
    end)
  end)

  describe("await and join", function()
    it("wait for at most the given time", function()
      local signal = core.signal()
      local t = waiter(signal)
      assert.is_false(t:join(0.001))
      local err = error_of(t.await, t, 0.001)
      assert.is_true(errors.is(err, "timeout"))
      signal:fire()
      assert.is_true(t:join(60))
      assert.same({n = 0}, table.pack(t:await(60)))
    end)

    it("join does not raise", function()
      local t = task.spawn(error, "x")
      assert.is_true(t:join())
      assert.is_true(t:join())
    end)

    it("refuse to wait for oneself", function()
      local t = task.spawn(function() return task.current():await() end)
      assert.matches("cannot await itself", error_of(t.await, t))
      t = task.spawn(function() return task.current():join() end)
      assert.matches("cannot join itself", error_of(t.await, t))
    end)

    it("work between tasks, in chains", function()
      local t = task.spawn(function() task.sleep(0) return 1 end)
      for _ = 1, 100 do
        local before = t
        t = task.spawn(function() return before:await() + 1 end)
      end
      assert.equal(101, t:await())
    end)
  end)

  describe("cancel", function()
    it("raises kind cancelled in the blocking call", function()
      local caught
      local t = task.spawn(function()
        local ok, err = pcall(task.sleep, 1000)
        caught = {ok, err}
        error(err, 0)
      end)
      settle()
      assert.is_true(t:cancel("enough"))
      t:join()
      assert.is_false(caught[1])
      assert.is_true(errors.is(caught[2], "cancelled"))
      assert.equal("enough", caught[2].message)
      assert.equal("cancelled", t:status())
      assert.equal("enough", error_of(t.await, t).message)
      assert.is_false(t:cancel())
    end)

    it("runs <close> handlers, which may wait", function()
      local log = {}
      local t = task.spawn(function()
        local _ <close> = setmetatable({}, {__close = function(_, err)
          log[#log + 1] = err.kind
          task.sleep(0)
          log[#log + 1] = "closed"
        end})
        task.sleep(1000)
      end)
      settle()
      t:cancel()
      t:join()
      assert.same({"cancelled", "closed"}, log)
    end)

    it("ends a task that has not begun", function()
      local ran = false
      local t = task.spawn(function() ran = true end)
      assert.is_true(t:cancel())
      assert.equal("cancelled", t:status())
      settle()
      assert.is_false(ran)
      assert.equal("cancelled", error_of(t.await, t).kind)
    end)

    it("leaves nothing of a task that had not begun, even when it is collected at once", function()
      for _ = 1, 200 do task.spawn(print):cancel() end
      collectgarbage()
      collectgarbage()
      local filler = {}
      for i = 1, 500 do filler[i] = task.spawn(function() return i end) end
      for i = 1, 500 do assert.equal(i, filler[i]:await()) end
    end)

    it("reaches a running task at its next blocking call", function()
      local t
      t = task.spawn(function()
        t:cancel("by itself")
        task.sleep(0)
        error "not reached"
      end)
      assert.equal("by itself", error_of(t.await, t).message)
    end)

    it("lets a task go on that catches it", function()
      local signal = core.signal()
      local t = task.spawn(function()
        pcall(task.sleep, 1000)
        signal:wait()
        return "went on"
      end)
      settle()
      t:cancel()
      settle()
      assert.equal("waiting", t:status())
      signal:fire()
      assert.equal("went on", t:await())
    end)

    it("does not lose what a task was woken with at the same moment", function()
      local q = task.queue()
      local got
      local t = task.spawn(function()
        got = q:get()
        task.sleep(0)
      end)
      settle()
      q:put("item")
      t:cancel()
      t:join()
      assert.equal("item", got)
      assert.equal("cancelled", t:status())
    end)

    it("is passed on by a task that awaits the cancelled one", function()
      local inner = waiter(core.signal())
      local outer = task.spawn(inner.await, inner)
      settle()
      inner:cancel("inner")
      assert.equal("inner", error_of(outer.await, outer).message)
      assert.equal("cancelled", outer:status())
    end)
  end)

  describe("sleep", function()
    it("orders by time", function()
      local order = {}
      local tasks = {}
      for i, seconds in ipairs{0.03, 0.01, 0.02, 0} do
        tasks[i] = task.spawn(function()
          task.sleep(seconds)
          order[#order + 1] = i
        end)
      end
      for _, t in ipairs(tasks) do t:await() end
      assert.same({4, 2, 3, 1}, order)
    end)

    it("sleeps at least as long as asked", function()
      local before = task.now()
      task.sleep(0.02)
      assert.is_true(task.now() - before >= 0.02)
    end)

    it("of 0 gives every ready task one turn", function()
      local turns = {0, 0, 0}
      for i = 1, 3 do
        task.spawn(function()
          for _ = 1, 5 do
            turns[i] = turns[i] + 1
            task.sleep(0)
          end
        end)
      end
      for round = 1, 5 do
        task.sleep(0)
        assert.same({round, round, round}, turns)
      end
    end)

    it("refuses what is no time", function()
      for _, bad in ipairs{-1, "1", {}, 0 / 0} do assert.equal("argument", error_of(task.sleep, bad).kind) end
      assert.equal("argument", error_of(task.sleep).kind)
    end)

    it("takes very long times", function()
      local t = task.spawn(function() task.sleep(math.huge) end)
      local u = task.spawn(function() task.sleep(1e300) end)
      settle()
      assert.equal("waiting", t:status())
      assert.equal("waiting", u:status())
    end)
  end)

  describe("coroutine.yield in a task", function()
    it("lets the others run and goes on", function()
      local log = {}
      local function talk(name)
        for i = 1, 3 do
          log[#log + 1] = name .. i
          assert.equal(0, select("#", coroutine.yield("dropped", 2, 3)))
        end
      end
      local a, b = task.spawn(talk, "a"), task.spawn(talk, "b")
      a:await()
      b:await()
      assert.equal("a1 b1 a2 b2 a3 b3", table.concat(log, " "))
    end)

    it("does not starve timers, not even beside nested waits", function()
      local stop, turns = false, 0
      local spinner = task.spawn(function()
        while not stop do
          turns = turns + 1
          coroutine.yield()
        end
      end)
      local sorter = task.spawn(function()
        local list = {3, 1, 2}
        table.sort(list, function(a, b)
          task.sleep(0.001)
          return a < b
        end)
        return list
      end)
      task.sleep(0.002)
      assert.same({1, 2, 3}, sorter:await())
      stop = true
      spinner:await()
      assert.is_true(turns > 1)
    end)
  end)

  describe("<close> of a task", function()
    it("cancels it and waits for its end", function()
      local log = {}
      do
        local _ <close> = task.spawn(function()
          local _ <close> = setmetatable({}, {__close = function()
            task.sleep(0)
            log[#log + 1] = "task closed"
          end})
          task.sleep(1000)
        end)
        settle()
      end
      log[#log + 1] = "block left"
      assert.same({"task closed", "block left"}, log)
    end)

    it("leaves a task alone that has ended, and hides no error of the block", function()
      do
        local t <close> = task.spawn(function() return 1 end)
        assert.equal(1, t:await())
      end
      local ok, err = pcall(function()
        local _ <close> = task.spawn(task.sleep, 1000)
        settle()
        error("block", 0)
      end)
      assert.is_false(ok)
      assert.equal("block", err)
    end)
  end)

  describe("pcall and its relatives", function()
    it("work across waits inside tasks", function()
      local t = task.spawn(function()
        local a = table.pack(pcall(function()
          task.sleep(0)
          error({1}, 0)
        end))
        local b = table.pack(xpcall(function(...)
          task.sleep(0)
          return ...
        end, debug.traceback, 1, nil, 3))
        local c = table.pack(xpcall(function()
          task.sleep(0)
          error "x"
        end, function(message) return "handled " .. message end))
        return a, b, c
      end)
      local a, b, c = t:await()
      assert.same({false, {1}, n = 2}, a)
      assert.same({true, 1, nil, 3, n = 4}, b)
      assert.is_false(c[1])
      assert.matches("^handled .*: x$", c[2])
    end)

    it("let metamethods and iterators wait", function()
      local slow = setmetatable({}, {
        __index = function(_, key) task.sleep(0) return key .. "!" end,
        __add = function(_, b) task.sleep(0) return b end,
        __lt = function() task.sleep(0) return true end,
        __call = function(_, x) task.sleep(0) return x end,
        __concat = function() task.sleep(0) return "c" end,
        __pairs = function() task.sleep(0) return next, {1} end,
        __eq = function() task.sleep(0) return true end,
        __len = function() task.sleep(0) return 7 end,
      })
      local function check()
        assert.equal("k!", slow.k)
        assert.equal(2, slow + 2)
        assert.is_true(slow < slow)
        assert.equal(3, slow(3))
        assert.equal("c", slow .. "x")
        assert.equal(7, #slow)
        assert.is_true(slow == setmetatable({}, getmetatable(slow)))
        local seen = 0
        for _ in pairs(slow) do seen = seen + 1 end
        for _ in function() task.sleep(0) return nil end do seen = seen + 1 end
        assert.equal(1, seen)
      end
      check()
      task.spawn(check):await()
    end)
  end)

  describe("deadlock", function()
    it("is an error in the script, and the tasks stay", function()
      local q = task.queue()
      local t = task.spawn(function() return q:get() end)
      local err = error_of(t.await, t)
      assert.is_true(errors.is(err, "deadlock"))
      assert.is_string(err.hint)
      q:put("late")
      assert.equal("late", t:await())
    end)

    it("is noticed with two tasks that await each other", function()
      local a, b
      a = task.spawn(function() return b:await() end)
      b = task.spawn(function() return a:await() end)
      assert.equal("deadlock", error_of(a.await, a).kind)
      a:cancel()
      assert.equal("cancelled", error_of(b.await, b).kind)
    end)

    it("is not seen while a timer runs", function()
      local signal = core.signal()
      local t = waiter(signal)
      task.spawn(function()
        task.sleep(0.005)
        signal:fire()
      end)
      assert.is_true(t:join())
    end)

    it("is noticed where the wait cannot yield", function()
      local t = task.spawn(function() return (("x"):gsub("x", function() return task.queue():get() end)) end)
      assert.equal("deadlock", error_of(t.await, t).kind)
    end)
  end)

  describe("generators", function()
    local function numbers(n)
      return coroutine.wrap(function()
        for i = 1, n do
          task.sleep(0)
          coroutine.yield(i)
        end
      end)
    end

    local function sum(n)
      local total = 0
      for i in numbers(n) do total = total + i end
      return total
    end

    it("may block in the script and in tasks", function()
      assert.equal(10, sum(4))
      local a, b = task.spawn(sum, 10), task.spawn(sum, 20)
      assert.equal(55, a:await())
      assert.equal(210, b:await())
    end)

    it("let other tasks run while they block", function()
      local ticks = 0
      local ticker = task.spawn(function()
        for _ = 1, 5 do
          ticks = ticks + 1
          task.sleep(0)
        end
      end)
      assert.equal(55, sum(10))
      assert.equal(5, ticks)
      ticker:await()
    end)

    it("may be nested", function()
      local function nested(depth)
        if depth == 0 then return numbers(3) end
        return coroutine.wrap(function()
          for i in nested(depth - 1) do
            task.sleep(0)
            coroutine.yield(i + 1)
          end
        end)
      end
      local function collect()
        local out = {}
        for i in nested(10) do out[#out + 1] = i end
        return out
      end
      assert.same({11, 12, 13}, collect())
      assert.same({11, 12, 13}, task.spawn(collect):await())
    end)

    it("work with coroutine.resume, values both ways", function()
      local function check()
        local co = coroutine.create(function(a, b)
          task.sleep(0)
          local c, d = coroutine.yield(a + b, nil)
          task.sleep(0)
          return c, d, nil
        end)
        assert.same({true, 3, nil, n = 3}, table.pack(coroutine.resume(co, 1, 2)))
        assert.equal("suspended", coroutine.status(co))
        assert.same({true, nil, "d", nil, n = 4}, table.pack(coroutine.resume(co, nil, "d")))
        assert.equal("dead", coroutine.status(co))
        assert.same({false, "cannot resume dead coroutine"}, {coroutine.resume(co)})
      end
      check()
      task.spawn(check):await()
    end)

    it("pass errors after a wait", function()
      local function check()
        local co = coroutine.create(function()
          task.sleep(0)
          error({1}, 0)
        end)
        assert.same({false, {1}}, {coroutine.resume(co)})
        local wrapped = coroutine.wrap(function()
          task.sleep(0)
          error("text", 0)
        end)
        assert.matches("text$", error_of(wrapped))
      end
      check()
      task.spawn(check):await()
    end)

    it("are cancelled with the task that runs them, closing what they hold", function()
      local closed = false
      local t = task.spawn(function()
        local gen = coroutine.wrap(function()
          local _ <close> = setmetatable({}, {__close = function() closed = true end})
          task.sleep(1000)
        end)
        gen()
      end)
      settle()
      t:cancel()
      assert.equal("cancelled", error_of(t.await, t).kind)
      assert.is_true(closed)
    end)

    it("may move from one task to another between their waits", function()
      local gen = numbers(4)
      assert.equal(1, task.spawn(gen):await())
      assert.equal(2, gen())
      assert.equal(3, task.spawn(gen):await())
      assert.equal(4, gen())
      assert.is_nil(gen())
    end)

    it("that wait in one task cannot be resumed by another", function()
      local signal = core.signal()
      local co = coroutine.create(function() signal:wait() return "done" end)
      local t = task.spawn(coroutine.resume, co)
      settle()
      local ok, message = coroutine.resume(co)
      assert.is_false(ok)
      assert.matches("another", message)
      signal:fire()
      assert.is_true(t:join())
    end)

    it("that wait in one task cannot be resumed by one where they waited before", function()
      local first, second = core.signal(), core.signal()
      local co = coroutine.create(function()
        first:wait()
        coroutine.yield(1)
        second:wait()
        return 2
      end)
      local go = core.signal()
      local resumed
      local a = task.spawn(function()
        coroutine.resume(co)
        go:wait()
        resumed = table.pack(coroutine.resume(co))
      end)
      settle()
      first:fire()
      settle()
      task.spawn(coroutine.resume, co)
      settle()
      go:fire()
      a:join()
      assert.is_false(resumed[1])
    end)

    it("may be closed by another task while they wait", function()
      local signal = core.signal()
      local closed = false
      local co = coroutine.create(function()
        local _ <close> = setmetatable({}, {__close = function() closed = true end})
        signal:wait()
      end)
      local t = task.spawn(function() return coroutine.resume(co) end)
      settle()
      assert.is_true(coroutine.close(co))
      assert.is_true(closed)
      assert.equal(1, #core.waiting())
      signal:fire()
      assert.same({false, "cannot resume dead coroutine"}, {t:await()})
    end)

    it("keep the messages and checks of the standard functions", function()
      assert.matches("bad argument #1 to 'coroutine.resume' %(coroutine expected", error_of(coroutine.resume, 1))
      assert.matches("bad argument #1 to 'coroutine.wrap'", error_of(coroutine.wrap, 1))
      local function self_resume() return coroutine.resume(coroutine.running()) end
      assert.same({false, "cannot resume non-suspended coroutine"}, {self_resume()})
      assert.is_false((task.spawn(self_resume):await()))
      local dead = coroutine.wrap(function() end)
      dead()
      assert.matches("cannot resume dead coroutine", error_of(dead))
    end)

    it("collected while suspended do no harm", function()
      for _ = 1, 50 do
        local gen = numbers(3)
        gen()
      end
      collectgarbage()
      collectgarbage()
      assert.equal(3, sum(2))
    end)
  end)

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

    it("never runs more at once than allowed, and as many as allowed", function()
      for _, bound in ipairs{1, 3, 8} do
        local items, running, most = {}, 0, 0
        for i = 1, 25 do items[i] = i end
        task.map(items, function()
          running = running + 1
          most = math.max(most, running)
          task.sleep(0)
          running = running - 1
        end, {concurrency = bound})
        assert.equal(bound, most)
      end
    end)

    it("runs 8 at once unless told otherwise", function()
      local items, running, most = {}, 0, 0
      for i = 1, 25 do items[i] = i end
      task.map(items, function()
        running = running + 1
        most = math.max(most, running)
        task.sleep(0)
        running = running - 1
      end)
      assert.equal(8, most)
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

  describe("the list of waiting tasks", function()
    it("tells where each one is, inside generators too", function()
      local function in_a_task() task.sleep(1000) return nil end
      local function in_a_generator() task.sleep(1000) return nil end
      task.spawn(function()
        in_a_task()
        return nil
      end)
      task.spawn(function()
        local gen = coroutine.wrap(function()
          in_a_generator()
          return nil
        end)
        gen()
        return nil
      end)
      settle()
      local list = task.waiting()
      table.sort(list, function(a, b) return a.id < b.id end)
      assert.equal(2, #list)
      assert.equal("waiting", list[1].status)
      assert.matches("in_a_task", list[1].traceback)
      assert.matches("in_a_generator", list[2].traceback)
    end)
  end)

  describe("drain", function()
    it("waits for every task, also from inside one", function()
      local done = 0
      for _ = 1, 3 do
        task.spawn(function()
          task.sleep(0.001)
          done = done + 1
        end)
      end
      local inside = task.spawn(function()
        core.drain()
        return done
      end)
      assert.equal(3, inside:await())
      core.drain()
      assert.equal(0, #core.waiting())
    end)
  end)
end)
