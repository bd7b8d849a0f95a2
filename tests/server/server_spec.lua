-- riverlua.server from the inside: its options, its life, and the tasks around it.

local errors = require "riverlua.errors"
local http = require "riverlua.http"
local http_server = require "riverlua.server"
local task = require "riverlua.task"

local here = debug.getinfo(1, "S").source:match("^@(.*/)")
local servers = dofile(here .. "../support/servers.lua")

local function hello() return {status = 200, body = "hello"} end

local function refused(options, text)
  local err = servers.error_of(http_server.new, options)
  assert.equal("argument", err.kind)
  assert.truthy(err.message:find(text, 1, true), err.message)
end

-- Runs `fn(client, base, server)` beside a server of this process.
local function beside(options, fn)
  local server = http_server.new(options)
  local client = http.Client{proxy = false, retries = 0}
  local problem
  task.scope(function(scope)
    scope:spawn(server.run, server)
    local ok, raised = pcall(fn, client, "http://127.0.0.1:" .. server.port, server)
    if not ok then problem = raised end
    client:close()
    server:stop()
  end)
  assert(problem == nil, problem)
end

describe("a server in this process", function()
  it("checks its options", function()
    refused({}, "'handler' must be a callable")
    refused({handler = hello, prot = 1}, "did you mean 'port'?")
    refused({handler = hello, port = -1}, "must not be negative")
    refused({handler = hello, port = 65536}, "at most 65535")
    refused({handler = hello, idle_timeout = 0 / 0}, "must not be negative")
    refused({handler = hello, max_body = 1.5}, "'max_body' must be an integer")
  end)

  it("says when its port or address cannot be had", function()
    local first <close> = http_server.new{handler = hello}
    local err = servers.error_of(http_server.new, {handler = hello, port = first.port})
    assert.equal("connect", err.kind)
    assert.truthy(err.message:find("port " .. first.port, 1, true))
    assert.truthy(err.hint:find("port 0", 1, true))
    assert.equal("connect", servers.error_of(http_server.new, {handler = hello, host = "192.0.2.1"}).kind)
    assert.equal("connect", servers.error_of(http_server.new, {handler = hello, host = "no such host"}).kind)
  end)

  it("serves the clients of this process, and ends when it is stopped", function()
    local seen
    beside({handler = function(req)
      task.sleep(0)   -- handlers may wait
      return {status = 201, headers = {["x-answer"] = "yes"}, body = req.method .. " " .. (req.body or "")}
    end}, function(client, base, server)
      local res = client:post(base .. "/x", {body = "body"})
      assert.equal(201, res.status)
      assert.equal("POST body", res.body)
      assert.equal("yes", res.headers["X-Answer"])
      local answers = task.map({1, 2, 3, 4, 5, 6, 7, 8}, function(i)
        return client:put(base .. "/", {body = tostring(i)}).body
      end)
      assert.same({"PUT 1", "PUT 2", "PUT 3", "PUT 4", "PUT 5", "PUT 6", "PUT 7", "PUT 8", n = 8}, answers)
      assert.equal(9, server.requests)
      seen = server
    end)
    assert.equal(0, seen.listener:open())
    assert.equal("closed", servers.error_of(seen.run, seen).kind)
  end)

  it("listens on IPv6, too", function()
    local ok, server = pcall(http_server.new, {handler = hello, host = "::1"})
    if not ok then return pending("there is no IPv6 here") end
    server:close()
    assert.truthy(server.port > 0)
  end)

  it("gives its port back when it is closed", function()
    local first = http_server.new{handler = hello}
    local port = first.port
    first:close()
    first:close()
    http_server.new{handler = hello, port = port}:close()
  end)

  it("ends with the task that runs it", function()
    local server = http_server.new{handler = hello}
    local running = task.spawn(server.run, server)
    task.sleep(0)
    running:cancel()
    assert.is_true(running:join(10))
    assert.equal("cancelled", running:status())
    http_server.new{handler = hello, port = server.port}:close()
  end)

  it("keeps what a handler asks of others from holding up the rest", function()
    local inner = http_server.new{handler = hello}
    local inner_run = task.spawn(inner.run, inner)
    beside({handler = function()
      local client <close> = http.Client{proxy = false}
      return {status = 200, body = client:get("http://127.0.0.1:" .. inner.port).body .. " through"}
    end}, function(client, base)
      assert.equal("hello through", client:get(base).body)
    end)
    inner:stop()
    inner_run:await()
  end)

  it("tells its on_error what the handler raised", function()
    local told
    beside({handler = function() errors.raise{kind = "limit", message = "no"} end,
      on_error = function(problem, req) told = problem.kind .. " " .. req.path end}, function(client, base)
      assert.equal(500, client:get(base .. "/x").status)
      assert.equal("limit /x", told)
    end)
  end)
end)

describe("the end of a program", function()
  local function run(script, options)
    local result = servers.run("local http_server = require 'riverlua.server'\nlocal task = require 'riverlua.task'\n"
      .. "local function hello() return {status = 200} end\n" .. script, options)
    return result
  end

  it("is not held up by a server that nobody runs", function()
    local result = run "server = http_server.new{handler = hello} print 'end'"
    assert.same({0, "end\n", ""}, {result.code, result.out, result.err})
  end)

  it("closes one that runs", function()
    for _, ending in ipairs{"os.exit(0, true)", "server:stop()", "running:cancel()"} do
      local result = run([[
        server = http_server.new{handler = hello}
        running = task.spawn(server.run, server)
        local client = require("riverlua.http").Client{proxy = false}
        print(client:get("http://127.0.0.1:" .. server.port).status)
        ]] .. ending)
      assert.same({0, "200\n", ""}, {result.code, result.out, result.err}, ending)
    end
  end)

  it("closes one that is collected in the middle of a wait", function()
    local result = run [[
      do
        local core = require "riverlua.core.listener"
        local listener = core.listen{host = "127.0.0.1", port = 0, backlog = 5, max_connections = 5, max_target = 9,
          max_head = 99, max_headers = 9, max_body = 9}
        local waiting = coroutine.create(function() listener:accept() end)
        local running = task.spawn(function() coroutine.resume(waiting) end)
        task.sleep(0)
        running:cancel()
        running:join()
      end
      collectgarbage()
      collectgarbage()
      print "end"
    ]]
    assert.same({0, "end\n", ""}, {result.code, result.out, result.err})
  end)

  it("comes with Ctrl-C as ever where signals are not asked for", function()
    local result = run([[
      server = http_server.new{handler = hello}
      task.spawn(function()
        local stat <close> = io.open("/proc/self/stat")
        io.popen("kill -INT " .. stat:read("n")):close()   -- os.execute would keep the signal away
      end)
      server:run()
    ]])
    assert.equal(130, result.code)
    assert.truthy(result.err:find("interrupted", 1, true))
  end)
end)
