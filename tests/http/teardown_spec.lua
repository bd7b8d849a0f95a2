-- Processes that end while something is alive: the exit code is right, nothing hangs, nothing crashes.

local servers = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../support/servers.lua")

describe("the end of a process", function()
  local stub

  setup(function() stub = servers.stub() end)
  teardown(function() stub:close() end)

  local prelude = [[
    local http = require "riverlua.http"
    local task = require "riverlua.task"
    local url, tls, refused, full, ca, way = table.unpack(arg)
    local client = http.Client{proxy = false, retries = 0, ca_file = ca, decompress = way ~= "plain"}
    -- a global keeps things alive until the state itself is closed
    kept = {}
  ]]

  -- What is alive; each leaves something in `kept` or in the runtime.
  local live = {
    ["a kept-alive connection"] = "kept.res = client:get(url .. '/')",
    ["a kept-alive TLS connection"] = "kept.res = client:get(tls .. '/')",
    ["a client that was never used"] = "kept.client = client",
    ["a transfer without an answer"] = "kept.t = task.spawn(client.get, client, url .. '/silence') task.sleep(0.05)",
    ["a transfer amid its body"] =
      "kept.t = task.spawn(client.get, client, url .. '/endless?delay=0.01') task.sleep(0.05)",
    ["a TLS transfer amid its body"] =
      "kept.t = task.spawn(client.get, client, tls .. '/endless?delay=0.01') task.sleep(0.05)",
    ["a connection being opened"] = "kept.t = task.spawn(client.get, client, full) task.sleep(0.01)",
    ["a name being resolved"] =
      "kept.t = task.spawn(client.get, client, 'http://no-such-host.invalid/') task.sleep(0)",
    ["an upload that is not read"] =
      "kept.t = task.spawn(client.post, client, url .. '/upload_stuck', {body = ('x'):rep(1 << 24)}) task.sleep(0.05)",
    ["a body being produced"] = [[
      kept.t = task.spawn(client.post, client, url .. '/upload', {body = function() task.sleep(0.01) return 'x' end})
      task.sleep(0.05)]],
    ["a stream that was begun"] = "kept.res = client:get(url .. '/endless', {stream = true}) kept.res:read()",
    ["a stream that a task reads"] = [[
      kept.t = task.spawn(function()
        for _ in client:get(url .. '/sse_endless?delay=0.01', {stream = true}):events() do end
      end) task.sleep(0.05)]],
    ["a wait before a retry"] = [[
      kept.t = task.spawn(client.get, client, url .. '/status/503?header=Retry-After:50', {retries = 2})
      task.sleep(0.05)]],
    ["a timer"] = "kept.t = task.spawn(task.sleep, 1000) task.sleep(0)",
    ["a task that never ran"] = "kept.t = task.spawn(task.sleep, 1000)",
    ["tasks that wait for each other"] = [[
      local queue, semaphore = task.queue(), task.semaphore(1)
      local permit = semaphore:acquire()
      kept = {queue, semaphore, permit, task.spawn(queue.get, queue), task.spawn(semaphore.acquire, semaphore)}
      kept[6] = task.spawn(kept[4].await, kept[4])
      task.sleep(0)]],
    ["a coroutine of the script that waits"] = [[
      kept.t = task.spawn(function()
        local inner = coroutine.wrap(function() coroutine.yield(client:get(url .. '/silence')) end)
        inner()
      end) task.sleep(0.05)]],
    ["a task inside a scope"] = [[
      kept.t = task.spawn(task.scope, function(scope)
        scope:spawn(client.get, client, url .. '/silence')
        scope:spawn(task.sleep, 1000)
      end) task.sleep(0.05)]],
  }

  local function run(body, way)
    -- what a resolver still works for is given up on purpose rather than waited for
    local gives_up = body:find("no-such-host", 1, true) ~= nil
    return servers.run(prelude .. body, {seconds = 20, args = {stub:url(), stub:url("", "tls"),
      stub:url("/", "refused"), stub:url("/", "full"), stub.info.ca_file, way or "libcurl"},
      environment = gives_up and {ASAN_OPTIONS = "detect_leaks=0"} or nil})
  end

  local function check(result, code, what)
    assert.equal(code, result.code, ("%s: exit code %d, %s%s"):format(what, result.code, result.out, result.err))
    for _, word in ipairs{"AddressSanitizer", "runtime error:", "Assertion", "PANIC"} do
      assert.not_matches(word, result.err, 1, true)
    end
  end

  local function specs(what, setup_code, way)
    local name = way == "plain" and what .. ", plain" or what

    it("by os.exit with " .. name, function()
      check(run(setup_code .. "\nos.exit(7)", way), 7, what)
      check(run(setup_code .. "\nos.exit(true, true)", way), 0, what)
      check(run(setup_code .. "\nos.exit(false)", way), 1, what)
    end)

    it("by an error with " .. name, function()
      local result = run(setup_code .. "\nerror('the end')", way)
      check(result, 1, what)
      assert.matches("the end", result.err, 1, true)
      assert.matches("stack traceback", result.err, 1, true)
    end)

    it("after closing the client with " .. name, function()
      -- what then remains is cancelled by hand, so that the script can end by itself
      local result = run(setup_code .. [[

        client:close()
        for _, t in pairs(kept) do
          if type(t) == "userdata" and t.cancel then t:cancel() end
        end
        for _, t in pairs(kept) do
          if type(t) == "userdata" and t.join then t:join() end
        end
        print("closed")
        os.exit(3)]], way)
      check(result, 3, what)
      assert.matches("closed", result.out, 1, true)
    end)
  end

  for what, setup_code in pairs(live) do
    specs(what, setup_code, "libcurl")
    if setup_code:find("client.*url") and not setup_code:find("stream", 1, true) then
      specs(what, setup_code, "plain")   -- those that can go that way
    end
  end

  it("by the end of the script waits for its tasks", function()
    local result = run[[
      task.spawn(function() print(client:get(url .. '/delay?seconds=0.1').body) end)
    ]]
    check(result, 0, "a task")
    assert.equal("late\n", result.out)
  end)

  it("by the end of the script does not wait for streams and connections nobody uses", function()
    check(run"kept.res = client:get(url .. '/endless', {stream = true})", 0, "a stream")
    check(run"kept.res = client:get(tls .. '/')", 0, "a connection")
  end)

  it("tells of a task that failed while nobody looked", function()
    local result = run"task.spawn(function() client:get(refused) end)"
    assert.equal(1, result.code)
    assert.matches("connect: ", result.err, 1, true)
  end)

  it("runs the <close> handlers of tasks that are cut short", function()
    local result = run[[
      task.spawn(function()
        local guard <close> = setmetatable({}, {__close = function() print("handled") end})
        client:get(url .. '/silence')
      end)
      task.sleep(0.05)
      os.exit(4)
    ]]
    check(result, 4, "a handler")
    assert.equal("handled\n", result.out)
  end)

  it("survives finalizers that use what is being torn down", function()
    local result = run[[
      kept.res = client:get(url .. '/endless', {stream = true})
      kept.guard = setmetatable({}, {__gc = function()
        pcall(client.get, client, url .. '/')
        pcall(kept.res.read, kept.res)
        pcall(task.spawn, function() end)
        pcall(task.sleep, 0.01)
        pcall(client.close, client)
        print("finalized")
      end})
    ]]
    check(result, 0, "a finalizer")
    assert.equal("finalized\n", result.out)
  end)

  it("by Ctrl-C cancels, runs handlers and exits 130", function()
    for _, waits in ipairs{"client:get(url .. '/silence')", "task.sleep(1000)",
      "for _ in client:get(url .. '/sse_endless?delay=0.01', {stream = true}):events() do end",
      "client:get(full)", "table.sort({2, 1}, function() client:get(url .. '/silence') end)"} do
      local result = run([[
        local guard <close> = setmetatable({}, {__close = function() print("handled") end})
        task.spawn(function()
          local inner <close> = setmetatable({}, {__close = function() print("inner handled") end})
          task.sleep(1000)
        end)
        -- this process gets the signal once it waits
        local file = io.open("/proc/self/stat")
        local pid = file:read("a"):match("^%d+")
        file:close()
        task.spawn(function() task.sleep(0.1) io.popen("kill -INT " .. pid):close() end)
        ]] .. waits)
      check(result, 130, waits)
      assert.matches("handled\n", result.out, 1, true)
      assert.matches("inner handled\n", result.out, 1, true)
      assert.matches("interrupted", result.err, 1, true)
    end
  end)
end)
