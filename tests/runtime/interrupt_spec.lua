-- Ctrl-C: the first one stops the script wherever it is, the second one ends the process.

local servers = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../support/servers.lua")

local quote = servers.quote

local Child = {}
Child.__index = Child

-- Starts a script that prints lines; a child that hangs is ended with code 124.
local function start(script, ...)
  local path, complaints = os.tmpname(), os.tmpname()
  local file <close> = assert(io.open(path, "w"))
  file:write("io.stdout:setvbuf 'line'\nlocal task = require 'riverlua.task'\n", script)
  file:close()
  local words = {quote(servers.riverlua), quote(path)}
  for _, word in ipairs{...} do words[#words + 1] = quote(word) end
  local command = ("echo $$; exec %s 2>%s"):format(table.concat(words, " "), quote(complaints))
  local pipe = assert(io.popen(("timeout -k 5 60 sh -c %s; echo code $?"):format(quote(command))))
  return setmetatable({pid = tonumber(pipe:read("l")), pipe = pipe, path = path, complaints = complaints}, Child)
end

-- Reads the child's output up to this line.
function Child:expect(wanted)
  for line in self.pipe:lines() do
    if line == wanted then return end
    assert(not line:find("^code "), line .. " before " .. wanted .. "\n" .. servers.read_file(self.complaints))
  end
  error("no line " .. wanted .. "\n" .. servers.read_file(self.complaints), 2)
end

function Child:interrupt()
  return (os.execute(("kill -INT %d 2>/dev/null"):format(self.pid)))
end

-- Sends signals until the process is gone: two that come close together count as one.
function Child:interrupt_until_gone()
  os.execute(("while kill -INT %d 2>/dev/null; do :; done"):format(self.pid))
end

-- The rest of what it prints, its exit code and its messages.
function Child:finish()
  local rest = self.pipe:read("a")
  self.pipe:close()
  local out, code = rest:match("^(.-)code (%d+)\n$")
  local err = servers.read_file(self.complaints)
  os.remove(self.path)
  os.remove(self.complaints)
  return {out = out, code = tonumber(code), err = err}
end

-- The first interrupt makes the child say `said`, the second one ends it.
local function second_ends(child, said)
  child:expect("ready")
  child:interrupt()
  child:expect(said)
  child:interrupt()
  assert.equal(130, child:finish().code)
end

local function interrupted(script, ...)
  local child = start(script, ...)
  child:expect("ready")
  child:interrupt()
  return child:finish()
end

describe("SIGINT", function()
  local stub

  setup(function() stub = servers.stub() end)
  teardown(function() stub:close() end)

  local busy = {
    ["a busy loop"] = "print 'ready' while true do end",
    ["a busy loop of calls"] = "print 'ready' local function f() end while true do f() end",
    ["a busy loop in C"] = "print 'ready' while true do ('x'):rep(1000) end",
    ["a busy loop in a generator"] = "print 'ready' coroutine.wrap(function() while true do end end)()",
    ["a busy generator and its user"] = [[
      local gen = coroutine.wrap(function() while true do coroutine.yield(1) end end)
      print 'ready'
      while true do gen() end]],
    ["many short generators"] = "print 'ready' while true do coroutine.wrap(function() return 1 end)() end",
    ["a task's busy loop"] = "task.spawn(function() print 'ready' while true do end end):await()",
    ["a busy loop beside sleeping tasks"] = [[
      for _ = 1, 3 do task.spawn(task.sleep, 1000) end
      task.sleep(0)
      print 'ready'
      while true do end]],
    ["a sleep"] = "print 'ready' task.sleep(1000)",
    ["endless short sleeps"] = "print 'ready' while true do task.sleep(0) end",
    ["a sleep where Lua cannot yield"] = "table.sort({2, 1}, function() print 'ready' task.sleep(1000) end)",
    ["a task's sleep where Lua cannot yield"] =
      "task.spawn(table.sort, {2, 1}, function() print 'ready' task.sleep(1000) end):await()",
    ["waiting for a task"] = "task.spawn(function() print 'ready' task.sleep(1000) end):await()",
    ["gather"] = "task.gather(function() print 'ready' task.sleep(1000) end, function() task.sleep(1000) end)",
    ["the wait for tasks at the end of the script"] = "task.spawn(function() print 'ready' task.sleep(1000) end)",
    ["a task that swallows it"] = [[
      task.spawn(function()
        print 'ready'
        pcall(function() while true do end end)
        task.sleep(1000)
      end)
      task.sleep(1000)]],
  }

  local names = {}
  for name in pairs(busy) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    it("stops " .. name .. " with code 130", function()
      local result = interrupted(busy[name])
      assert.same({130, ""}, {result.code, result.out})
      assert.matches("interrupted", result.err)
    end)
  end

  it("stops a transfer", function()
    local result = interrupted([[
      local client = require("riverlua.http").Client{proxy = false}
      task.spawn(print, "ready")
      client:get(arg[1])
    ]], stub:url("/", "silent"))
    assert.equal(130, result.code)
    assert.matches("interrupted", result.err)
  end)

  it("stops reading a stream", function()
    local result = interrupted([[
      local client = require("riverlua.http").Client{proxy = false}
      local res = client:get(arg[1], {stream = true})
      task.spawn(print, "ready")
      for _ in res:chunks() do task.sleep(0) end
    ]], stub:url("/endless"))
    assert.equal(130, result.code)
  end)

  it("can be caught, once, and the script goes on", function()
    local result = interrupted([[
      local ok, err = pcall(function()
        print "ready"
        while true do end
      end)
      print(ok, err.kind)
      print(pcall(task.sleep, 0))
    ]])
    assert.same({0, "false\tinterrupted\ntrue\n", ""}, {result.code, result.out, result.err})
  end)

  it("caught in a wait leaves nothing behind", function()
    local result = interrupted([[
      task.spawn(print, "ready")
      local ok, err = pcall(task.sleep, 1000)
      print(ok, err.kind)
      local n = 0
      for i = 1, 100000 do n = n + i end
      task.sleep(0)
      print(task.spawn(function() task.sleep(0) return "fine" end):await())
    ]])
    assert.same({0, "false\tinterrupted\nfine\n", ""}, {result.code, result.out, result.err})
  end)

  it("runs the <close> handlers of the script and of the tasks, which may wait", function()
    local result = interrupted([[
      local function guard(name)
        return setmetatable({}, {__close = function(_, err)
          task.sleep(0.001)
          -- in the script the command's message handler has made a text of the error, as lua's own does
          print(name .. " closed by " .. (err.kind or err:match("interrupted")))
        end})
      end
      task.spawn(function()
        local _ <close> = guard "task"
        task.sleep(1000)
      end)
      local _ <close> = guard "script"
      task.sleep(0)
      print "ready"
      task.sleep(1000)
    ]])
    assert.same({130, "script closed by interrupted\ntask closed by cancelled\n"}, {result.code, result.out})
  end)

  it("tells where the script and each task was waiting", function()
    local result = interrupted([[
      local function first_place() task.sleep(1000) return nil end
      local function second_place() task.queue():get() return nil end
      local function script_place()
        task.spawn(print, "ready")
        task.sleep(1000)
        return nil
      end
      task.spawn(function() first_place() return nil end)
      task.spawn(function() second_place() return nil end)
      task.sleep(0)
      script_place()
    ]])
    assert.equal(130, result.code)
    assert.matches("script_place", result.err)
    assert.matches("task 1 was here:\n.-first_place", result.err)
    assert.matches("task 2 was here:\n.-second_place", result.err)
  end)

  it("the second one ends code that swallows the first", function()
    local child = start([[
      local first = true
      while true do
        pcall(function()
          print(first and "ready" or "again")
          first = false
          while true do end
        end)
        print "swallowed"
      end
    ]])
    second_ends(child, "swallowed")
  end)

  it("the second one ends a <close> handler that does not return", function()
    local child = start([[
      local _ <close> = setmetatable({}, {__close = function()
        print "closing"
        while true do pcall(task.sleep, 1000) end
      end})
      print "ready"
      task.sleep(1000)
    ]])
    second_ends(child, "closing")
  end)

  it("the second one ends the wait for tasks that do not end", function()
    local child = start([[
      task.spawn(function()
        while true do
          pcall(task.sleep, 1000)
          print "swallowed"
        end
      end)
      task.sleep(0)
      print "ready"
      task.sleep(1000)
    ]])
    second_ends(child, "swallowed")
  end)

  it("the second one ends C code that never looks", function()
    local child = start([[
      print "ready"
      print(("a"):rep(40):find(("a?"):rep(40) .. ("a"):rep(40) .. "b"))
    ]])
    child:expect("ready")
    child:interrupt_until_gone()
    assert.equal(130, child:finish().code)
  end)
end)
