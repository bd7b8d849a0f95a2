-- However a script ends and whatever is alive then: the process ends, with the right code, without a crash.

local servers = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../support/servers.lua")

-- Makes something live; `keep` holds it. The script's arguments are addresses of servers.
local live = {
  ["nothing"] = "",
  ["a task that has not begun"] = "keep(task.spawn(function() end))",
  ["a task cancelled before it began"] = "task.spawn(print):cancel()",
  ["a sleeping task"] = "keep(task.spawn(task.sleep, 1000)) task.sleep(0)",
  ["a task that waits in a close handler"] = [[
    keep(task.spawn(function()
      local _ <close> = setmetatable({}, {__close = function() task.sleep(0.001) end})
      task.sleep(1000)
    end))
    task.sleep(0)]],
  ["a task with a time limit"] = "keep(task.spawn(task.timeout, 1000, task.sleep, 1000)) task.sleep(0)",
  ["tasks of a scope"] = [[
    keep(task.spawn(task.gather, function() task.sleep(1000) end, function() task.sleep(1000) end))
    task.sleep(0)]],
  ["a queue with waiters"] = [[
    local q = task.queue(1)
    q:put(1)
    keep(q)
    for _ = 1, 3 do task.spawn(q.put, q, 2) end
    local empty = task.queue()
    for _ = 1, 3 do task.spawn(empty.get, empty) end
    task.sleep(0)]],
  ["a blocked generator"] = [[
    keep(task.spawn(function()
      local gen = coroutine.wrap(function() task.sleep(1000) end)
      gen()
    end))
    task.sleep(0)]],
  ["a suspended generator that waited"] = [[
    local gen = coroutine.wrap(function() task.sleep(0) coroutine.yield(1) task.sleep(0) end)
    gen()
    keep(gen)]],
  ["a client that was never used"] = "keep(http.Client{})",
  ["a client with a kept-alive connection"] = [[
    local client = keep(http.Client{proxy = false})
    assert(client:get(addresses.echo).status == 200)]],
  ["an open streamed answer"] = [[
    local client = keep(http.Client{proxy = false})
    local res = keep(client:get(addresses.endless, {stream = true}))
    assert(res:read())]],
  ["a streamed answer that nobody holds"] = [[
    local client = http.Client{proxy = false}
    assert(client:get(addresses.endless, {stream = true}):read())
    client = nil
    collectgarbage()]],
  ["a task that reads a stream"] = [[
    local client = keep(http.Client{proxy = false})
    local begun = task.queue()
    task.spawn(function()
      local res = client:get(addresses.endless, {stream = true})
      for bytes in res:chunks() do begun:put(bytes) end
    end)
    begun:get()]],
  ["a transfer to a silent server"] = [[
    local client = keep(http.Client{proxy = false})
    task.spawn(client.get, client, addresses.silent)
    task.sleep(0.01)]],
  ["a transfer that cannot connect"] = [[
    local client = keep(http.Client{proxy = false})
    task.spawn(client.get, client, addresses.full)
    task.sleep(0.01)]],
  ["an upload under way"] = [[
    local client = keep(http.Client{proxy = false})
    local begun = task.queue()
    task.spawn(client.post, client, addresses.silent, {body = function()
      begun:put(true)
      task.sleep(0)
      return ("x"):rep(65536)
    end})
    begun:get()]],
  ["a closed client with a transfer under way"] = [[
    local client = keep(http.Client{proxy = false})
    task.spawn(pcall, client.get, client, addresses.silent)
    task.sleep(0.01)
    client:close()]],
  ["a finalizer that waits"] = "keep(setmetatable({}, {__gc = function() task.sleep(0.001) end}))",
  ["a finalizer that fails"] = "keep(setmetatable({}, {__gc = function() error 'in a finalizer' end}))",
  ["a finalizer that spawns"] = "keep(setmetatable({}, {__gc = function() task.spawn(task.sleep, 1000) end}))",
  ["a finalizer that uses a client"] = [[
    local client = keep(http.Client{proxy = false})
    assert(client:get(addresses.echo).status == 200)
    keep(setmetatable({}, {__gc = function() pcall(client.get, client, addresses.echo) end}))]],
}

-- How the script ends, and the exit code.
local ends = {
  {"an error", "error 'the end'", 1},
  {"an error table", "error({})", 1},
  {"os.exit()", "os.exit()", 0},
  {"os.exit(7)", "os.exit(7)", 7},
  {"os.exit(false)", "os.exit(false)", 1},
  {"os.exit(true, true)", "os.exit(true, true)", 0},
  {"os.exit(3, true) in a task", "task.spawn(os.exit, 3, true):await()", 3},
  {"os.exit(4) in a generator", "coroutine.wrap(os.exit)(4)", 4},
  {"os.exit(5) in a comparator", "table.sort({2, 1}, function() os.exit(5) end)", 5},
  {"os.exit(6, true) with a block to close",
    "local _ <close> = setmetatable({}, {__close = function() task.sleep(0) end}) os.exit(6, true)", 6},
}

local prologue = [[
  local task, http = require "riverlua.task", require "riverlua.http"
  local addresses = {echo = arg[1], endless = arg[2], silent = arg[3], full = arg[4]}
  local kept = {}
  local function keep(value)
    kept[#kept + 1] = value
    return value
  end
  HOLD = kept
]]

local names = {}
for name in pairs(live) do names[#names + 1] = name end
table.sort(names)

describe("a script that ends with", function()
  local stub, addresses

  setup(function()
    stub = servers.stub()
    addresses = {stub:url("/echo"), stub:url("/endless"), stub:url("/", "silent"), stub:url("/", "full")}
  end)
  teardown(function() stub:close() end)

  local function run(script) return servers.run(prologue .. script, {args = addresses, seconds = 30}) end

  for _, name in ipairs(names) do
    for _, ending in ipairs(ends) do
      it(name .. " alive, by " .. ending[1], function()
        local child = run(live[name] .. "\nlocal t = 1 t = t\n" .. ending[2])
        assert.equal(ending[3], child.code, child.err)
        assert.equal("", child.out)
      end)
    end
  end

  -- Without an error or os.exit the command waits for the tasks, so only what is no task may stay.
  for _, name in ipairs{"nothing", "a task that has not begun", "a task cancelled before it began",
    "a suspended generator that waited", "a client that was never used", "a client with a kept-alive connection",
    "an open streamed answer", "a streamed answer that nobody holds", "a finalizer that waits",
    "a finalizer that fails", "a finalizer that spawns", "a finalizer that uses a client"} do
    it(name .. " alive, by its last line", function()
      local child = run(live[name])
      assert.same({0, "", ""}, {child.code, child.out, child.err})
    end)
  end

  it("tasks under way, by its last line, waits for them", function()
    local child = run([[
      for i = 1, 3 do
        task.spawn(function()
          task.sleep(0.001 * i)
          task.spawn(function() task.sleep(0.001) print(i) end)
        end)
      end
    ]])
    assert.equal(0, child.code)
    local lines = {}
    for line in child.out:gmatch("%d") do lines[#lines + 1] = line end
    table.sort(lines)
    assert.same({"1", "2", "3"}, lines)
  end)

  it("a failed task that nobody looked at, by its last line, has code 1 and says so", function()
    local child = run("task.spawn(function() task.sleep(0) error 'unseen' end)")
    assert.equal(1, child.code)
    assert.matches("task 1 failed: .*unseen", child.err)
  end)

  it("tasks that wait for ever, by its last line, has code 1 and says so", function()
    local child = run("local q = task.queue() task.spawn(function() q:get() end)")
    assert.equal(1, child.code)
    assert.matches("deadlock", child.err)
  end)

  it("a task that swallows every cancellation, by an error, ends nevertheless", function()
    local child = run([[
      task.spawn(function() while true do pcall(task.sleep, 1000) end end)
      task.sleep(0)
      error "the end"
    ]])
    assert.equal(1, child.code)
    assert.matches("the end", child.err)
  end)

  it("close handlers of tasks, by an error or os.exit, runs them", function()
    for _, ending in ipairs{"error 'the end'", "os.exit(1)", "os.exit(1, true)"} do
      local child = run([[
        task.spawn(function()
          local _ <close> = setmetatable({}, {__close = function()
            task.sleep(0.001)
            print "closed"
          end})
          task.sleep(1000)
        end)
        task.sleep(0)
      ]] .. ending)
      assert.same({1, "closed\n"}, {child.code, child.out})
    end
  end)
end)

describe("a name that is never resolved", function()
  local library = os.tmpname()

  setup(function()
    local cc = os.getenv("CC") or "cc"
    assert(os.execute(("%s -D_GNU_SOURCE -shared -fPIC -o %s %s -ldl"):format(cc, servers.quote(library),
      servers.quote(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../support/slow_resolver.c"))))
  end)
  teardown(function() os.remove(library) end)

  -- Runs a script in which `resolving()` waits until the resolver has been asked.
  local function run(script)
    local mark = os.tmpname()
    os.remove(mark)
    local child = servers.run([[
      local task, http = require "riverlua.task", require "riverlua.http"
      HOLD = http.Client{proxy = false, retries = 0}
      local client = HOLD
      local address = "http://never.resolved.test/"
      local function resolving()
        local file
        repeat
          task.sleep(0.001)
          file = io.open(os.getenv "RIVERLUA_RESOLVING")
        until file
        file:close()
      end
    ]] .. script, {seconds = 30, environment = {LD_PRELOAD = library, RIVERLUA_RESOLVING = mark,
      ASAN_OPTIONS = "verify_asan_link_order=0:detect_leaks=0"}})
    os.remove(mark)
    return child
  end

  for _, ending in ipairs(ends) do
    it("does not keep the process from ending by " .. ending[1], function()
      local child = run("task.spawn(pcall, client.get, client, address) resolving() " .. ending[2])
      assert.equal(ending[3], child.code, child.err)
    end)
  end

  it("is given up at the deadline, and the process ends by its last line", function()
    local child = run([[
      local ok, err = pcall(client.get, client, address, {timeout = {connect = 0.05}})
      print(ok, err.kind, err.phase)
    ]])
    assert.same({0, "false\ttimeout\tconnect\n", ""}, {child.code, child.out, child.err})
  end)

  it("is given up when the task is cancelled, and the client goes on", function()
    local stub <close> = servers.stub()
    local child = run(([[
      local t = task.spawn(client.get, client, address)
      resolving()
      t:cancel()
      print(select(2, pcall(t.await, t)).kind)
      print(client:get("%s").status)
    ]]):format(stub:url("/echo")))
    assert.same({0, "cancelled\n200\n", ""}, {child.code, child.out, child.err})
  end)

  it("does not keep a client from being closed", function()
    local child = run([[
      local t = task.spawn(pcall, client.get, client, address)
      resolving()
      client:close()
      print(select(2, t:await()).kind)
    ]])
    assert.same({0, "closed\n", ""}, {child.code, child.out, child.err})
  end)
end)
