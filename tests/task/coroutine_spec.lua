-- Tasks and Lua's own control flow: generators, yields, protected calls, metamethods; deadlocks.

local core = require "riverlua.core.task"
local errors = require "riverlua.errors"
local servers = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../support/servers.lua")
local task = require "riverlua.task"
local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../support/tasks.lua")

local error_of = servers.error_of
local settle, waiter = support.settle, support.waiter

describe("tasks and", function()
  before_each(function() core.failures() end)

  after_each(support.end_all)

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
end)
