-- Tasks: how they start, end, fail, wait and are cancelled.

local core = require "riverlua.core.task"
local errors = require "riverlua.errors"
local servers = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../support/servers.lua")
local task = require "riverlua.task"
local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../support/tasks.lua")

local error_of = servers.error_of
local settle, waiter = support.settle, support.waiter

describe("riverlua.task", function()
  before_each(function() core.failures() end)

  after_each(support.end_all)

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

    it("may be tables that cannot even be looked at", function()
      local nasty = setmetatable({}, {__index = function() error "do not look" end})
      local t = task.spawn(error, nasty)
      assert.is_true(t:join())
      assert.equal("failed", t:status())
      assert.is_true(rawequal(nasty, t:failure()))
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
