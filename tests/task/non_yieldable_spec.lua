-- Every place where Lua cannot yield: blocking calls work there too, and the other tasks go on meanwhile.

local errors = require "riverlua.errors"
local http = require "riverlua.http"
local servers = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../support/servers.lua")
local task = require "riverlua.task"

-- name → function(block) that calls `block` exactly where the name says and returns a value to compare, if any
local places = {
  ["require"] = function(block)
    package.preload["riverlua_test_blocking"] = function()
      block()
      return "module"
    end
    package.loaded["riverlua_test_blocking"] = nil
    assert.equal("module", require "riverlua_test_blocking")
    package.preload["riverlua_test_blocking"] = nil
    package.loaded["riverlua_test_blocking"] = nil
  end,
  ["dofile"] = function(block)
    local path = os.tmpname()
    local file <close> = assert(io.open(path, "w"))
    file:write("riverlua_test_block() return 'from the file'")
    file:close()
    rawset(_G, "riverlua_test_block", block)
    local result = dofile(path)
    rawset(_G, "riverlua_test_block", nil)
    os.remove(path)
    assert.equal("from the file", result)
  end,
  ["table.sort"] = function(block)
    local list = {2, 1}
    table.sort(list, function(a, b)
      block()
      return a < b
    end)
    assert.same({1, 2}, list)
  end,
  ["__lt in table.sort"] = function(block)
    local meta = {__lt = function(a, b)
      block()
      return a[1] < b[1]
    end}
    local list = {setmetatable({2}, meta), setmetatable({1}, meta)}
    table.sort(list)
    assert.equal(1, list[1][1])
  end,
  ["string.gsub with a function"] = function(block)
    assert.equal("[a]b", (("ab"):gsub("a", function(c)
      block()
      return "[" .. c .. "]"
    end)))
  end,
  ["string.gsub with __index"] = function(block)
    assert.equal("<a>", (("a"):gsub("a", setmetatable({}, {__index = function(_, key)
      block()
      return "<" .. key .. ">"
    end}))))
  end,
  ["__tostring through tostring"] = function(block)
    assert.equal("text", tostring(setmetatable({}, {__tostring = function()
      block()
      return "text"
    end})))
  end,
  ["__tostring through %s"] = function(block)
    assert.equal("<text>", ("<%s>"):format(setmetatable({}, {__tostring = function()
      block()
      return "text"
    end})))
  end,
  ["__len through table.concat"] = function(block)
    assert.equal("ab", table.concat(setmetatable({"a", "b"}, {__len = function()
      block()
      return 2
    end})))
  end,
  ["__index through table.concat"] = function(block)
    assert.equal("x", table.concat(setmetatable({}, {__index = function()
      block()
      return "x"
    end}), "", 1, 1))
  end,
  ["__index through table.unpack"] = function(block)
    assert.equal("x", (table.unpack(setmetatable({}, {__index = function()
      block()
      return "x"
    end}), 1, 1)))
  end,
  ["__index through ipairs"] = function(block)
    local proxy = setmetatable({}, {__index = function(_, i)
      if i > 1 then return nil end
      block()
      return "x"
    end})
    local seen = {}
    for _, value in ipairs(proxy) do seen[#seen + 1] = value end
    assert.same({"x"}, seen)
  end,
  ["__newindex through table.insert"] = function(block)
    local kept
    table.insert(setmetatable({}, {__newindex = function(_, _, value)
      block()
      kept = value
    end}), "x")
    assert.equal("x", kept)
  end,
  ["__gc"] = function(block)
    local ran = false
    do
      local _ = setmetatable({}, {__gc = function()
        block()
        ran = true
      end})
    end
    collectgarbage()
    collectgarbage()
    assert.is_true(ran)
  end,
  ["load with a reader"] = function(block)
    local pieces = {"return ", "'read'"}
    local chunk = assert(load(function()
      block()
      return table.remove(pieces, 1)
    end))
    assert.equal("read", chunk())
  end,
  ["a message handler of xpcall"] = function(block)
    local ok, handled = xpcall(error, function(message)
      block()
      return "handled " .. message
    end, "x", 0)
    assert.is_false(ok)
    assert.equal("handled x", handled)
  end,
  ["a hook"] = function(block)
    local ran = false
    local hook, mask, count = debug.gethook()
    debug.sethook(function()
      debug.sethook(hook, mask, count)
      block()
      ran = true
    end, "", 1)
    local x = 0
    for i = 1, 10 do x = x + i end
    assert.equal(55, x)
    assert.is_true(ran)
  end,
  ["a generator inside a comparator"] = function(block)
    local list = {3, 1, 2}
    table.sort(list, function(a, b)
      local gen = coroutine.wrap(function()
        block()
        coroutine.yield(a < b)
      end)
      return gen()
    end)
    assert.same({1, 2, 3}, list)
  end,
  ["a comparator inside a generator"] = function(block)
    local gen = coroutine.wrap(function()
      local list = {2, 1}
      table.sort(list, function(a, b)
        block()
        return a < b
      end)
      coroutine.yield(list[1])
    end)
    assert.equal(1, gen())
  end,
  ["coroutine.close"] = function(block)
    local ran = false
    local co = coroutine.create(function()
      local _ <close> = setmetatable({}, {__close = function()
        block()
        ran = true
      end})
      coroutine.yield()
    end)
    coroutine.resume(co)
    assert.is_true(coroutine.close(co))
    assert.is_true(ran)
  end,
  ["one inside another, ten deep"] = function(block)
    local function deeper(n)
      if n == 0 then
        block()
        return "x"
      end
      return (("x"):gsub("x", function() return deeper(n - 1) end))
    end
    assert.equal("x", deeper(10))
  end,
}

local names = {}
for name in pairs(places) do names[#names + 1] = name end
table.sort(names)

-- Runs `check` with a task beside it; returns how many turns that task got while `check` ran.
local function beside(check)
  local stop, turns = false, 0
  local ticker = task.spawn(function()
    while not stop do
      turns = turns + 1
      task.sleep(0)
    end
  end)
  local ok, err = pcall(check)
  local seen = turns
  stop = true
  ticker:join()
  if not ok then error(err, 0) end
  return seen
end

describe("blocking where Lua cannot yield:", function()
  local stub, client

  setup(function()
    stub = servers.stub()
    client = http.Client{base_url = stub:url(), proxy = false}
  end)
  teardown(function()
    client:close()
    stub:close()
  end)

  local function sleep() task.sleep(0.001) end

  -- A request that is answered only when another task has asked for it.
  local count = 0
  local function get()
    count = count + 1
    local key = "request " .. count
    local other = task.spawn(function()
      assert(stub:wait{key = key, waiting = 1})
      stub:release(key)
    end)
    assert.equal(200, client:get("/hold", {query = {key = key}}).status)
    other:await()
  end

  for _, name in ipairs(names) do
    local place = places[name]

    it(name .. ": sleep, in the script", function()
      assert.is_true(beside(function() place(sleep) end) > 0)
    end)

    it(name .. ": sleep, in a task", function()
      assert.is_true(beside(function() task.spawn(place, sleep):await() end) > 0)
    end)

    it(name .. ": a request, in the script", function()
      place(get)
    end)

    it(name .. ": a request, in a task", function()
      task.spawn(place, get):await()
    end)

    it(name .. ": tasks that need each other", function()
      local there, back = task.queue(), task.queue()
      local other = task.spawn(function()
        for item in there:items() do back:put(item + 1) end
      end)
      task.spawn(place, function()
        there:put(1)
        assert.equal(2, back:get())
      end):await()
      there:close()
      other:await()
    end)
  end

  it("an error raised after the wait arrives as it is", function()
    local mine = {}
    local err = servers.error_of(table.sort, {2, 1}, function()
      task.sleep(0)
      error(mine, 0)
    end)
    assert.equal(mine, err)
  end)

  it("a task that waits there can be cancelled", function()
    local t = task.spawn(table.sort, {2, 1}, function() task.sleep(1000) end)
    -- its wait runs the loop inside ours, so somebody else must cancel it
    local other = task.spawn(function()
      assert.equal("waiting", t:status())
      t:cancel("enough")
    end)
    assert.equal("enough", servers.error_of(t.await, t).message)
    other:await()
  end)

  it("tasks that wait there are many at once", function()
    local tasks = {}
    for i = 1, 60 do
      tasks[i] = task.spawn(function()
        return (("x"):gsub("x", function()
          task.sleep(0.001)
          return tostring(i)
        end))
      end)
    end
    for i = 1, 60 do assert.equal(tostring(i), tasks[i]:await()) end
  end)

  it("tasks that wait there for one another, deeper than the C stack would carry, get an answer", function()
    local last = task.spawn(function() return 0 end)
    for _ = 1, 100 do
      local before = last
      last = task.spawn(function()
        local n
        table.sort({2, 1}, function(a, b)
          n = n or before:await() + 1
          return a < b
        end)
        return n
      end)
    end
    local ok, result = pcall(last.await, last)
    if ok then assert.equal(100, result) else assert.is_true(errors.is(result) or type(result) == "string") end
  end)

  it("print", function()
    local child = servers.run([[
      local task = require "riverlua.task"
      local log = {}
      task.spawn(function() log[#log + 1] = "other" end)
      print(setmetatable({}, {__tostring = function() task.sleep(0.001) return "printed " .. log[1] end}))
    ]])
    assert.same({0, "printed other\n", ""}, {child.code, child.out, child.err})
  end)

  it("__gc when the state closes", function()
    local child = servers.run([[
      local task = require "riverlua.task"
      kept = setmetatable({}, {__gc = function()
        task.sleep(0.001)
        print("slept", select(2, pcall(task.spawn, print)).kind)
      end})
    ]])
    assert.same({0, "slept\tclosed\n", ""}, {child.code, child.out, child.err})
  end)

  it("__close when the script ends with an error", function()
    local child = servers.run([[
      local task = require "riverlua.task"
      local _ <close> = setmetatable({}, {__close = function()
        task.sleep(0.001)
        print "closed"
      end})
      error "the end"
    ]])
    assert.equal(1, child.code)
    assert.equal("closed\n", child.out)
    assert.matches("the end", child.err)
  end)
end)
