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
    refused({handler = hello, max_bodies = 100, max_body = 101}, "'max_bodies' must not be below 'max_body'")
    refused({handler = hello, max_streams = -1}, "'max_streams' must not be negative")
    refused({handler = hello, accept = true}, "'accept' must be a callable")
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

  it("answers 500 for what cannot be sent, whatever the reason, and the connection goes on", function()
    local told, ended = {}, 0
    local late = setmetatable({status = 200}, {__index = function(_, name)
      if name == "body" then return require("riverlua.json").encode("\xff") end
    end})
    beside({handler = function(req)
      if req.path == "/late" then return late end
      if req.path == "/fine" then return {status = 200, body = "fine"} end
      return {status = 200, headers = {["x y"] = 1}, stream = function() return nil end,
        close = function() ended = ended + 1 end}
    end, on_error = function(problem, req) told[#told + 1] = problem.kind .. " " .. req.path end},
    function(client, base, server)
      for _, path in ipairs{"/late", "/stream", "/fine"} do
        local res = client:get(base .. path)
        assert.equal(path == "/fine" and 200 or 500, res.status)
        assert.is_nil(res.body:find("UTF", 1, true))
      end
      assert.same({"json /late", "argument /stream"}, told)
      assert.same({1, 1}, {ended, server.accepted})
    end)
  end)

  it("asks about a large body before it comes", function()
    local asked, body = {}, ("x"):rep(300000)
    beside({handler = function(req) return {status = 201, body = #(req.body or "") .. req.headers.authorization} end,
      accept = function(req)
        asked[#asked + 1] = ("%s %s %s %s"):format(req.method, req.path, req.headers.authorization, req.body)
        if req.headers.authorization ~= "me" then return {status = 401, body = "who?"} end
      end}, function(client, base, server)
      local function post(text, who)
        local res = client:post(base .. "/x", {body = text, headers = {authorization = who}})
        return res.status .. " " .. res.body
      end
      assert.equal("201 5you", post("small", "you"))
      assert.same({}, asked)
      assert.equal("401 who?", post(body, "you"))
      assert.equal("201 300000me", post(body, "me"))
      assert.same({"POST /x you nil", "POST /x me nil"}, asked)
      assert.equal(3, server.requests)
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
          max_head = 99, max_headers = 9, max_body = 9, max_bodies = 9}
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
