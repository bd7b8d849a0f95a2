-- riverlua.grpc_server from the inside: its options, its handlers, its life, and the tasks around it.

local here = debug.getinfo(1, "S").source:match("^@(.*/)")
local servers = dofile(here .. "../support/servers.lua")
local core = require "riverlua.core.task"
local grpc = require "riverlua.grpc"
local grpc_server = require "riverlua.grpc_server"
local protobuf = require "riverlua.protobuf"
local task = require "riverlua.task"

local error_of = servers.error_of

local function echo(request) return request end

local function refused(options, text)
  local err = error_of(grpc_server.Server, options)
  assert.equal("argument", err.kind)
  assert.truthy(err.message:find(text, 1, true), err.message)
end

-- Runs `fn(channel, server)` beside a server of this process.
local function beside(options, fn)
  local server = grpc_server.Server(options)
  local channel = grpc.Channel{target = "http://127.0.0.1:" .. server.port, proxy = false}
  local problem
  task.scope(function(scope)
    scope:spawn(server.run, server)
    local ok, raised = pcall(fn, channel, server)
    if not ok then problem = raised end
    channel:close()
    server:stop()
  end)
  assert(problem == nil, problem)
  assert.equal(0, server:stats().in_flight)
  assert.equal(0, server:stats().bytes)
  assert.equal(0, server:stats().open)
end

local function failure(channel, method, options) return error_of(channel.unary, channel, method, "x", options) end

describe("riverlua.grpc_server", function()
  it("checks its options", function()
    local handlers = {["/a.B/C"] = echo}
    refused({}, "'handlers' or 'dispatch' is missing")
    refused({handlers = handlers, prot = 1}, "did you mean 'port'?")
    refused({handlers = handlers, port = -1}, "must not be negative")
    refused({handlers = handlers, port = 65536}, "at most 65535")
    refused({handlers = handlers, idle_timeout = 0 / 0}, "must not be negative")
    refused({handlers = handlers, max_message = 1 << 31}, "at most 2^31-1")
    refused({handlers = handlers, max_message = 1.5}, "'max_message' must be an integer")
    refused({handlers = handlers, max_requests = 100}, "must not be below 'max_message'")
    refused({handlers = handlers, max_streams = 0}, "'max_streams' must be at least 1")
    refused({handlers = handlers, accept = true}, "'accept' must be a callable")
    refused({handlers = {["a.B/C"] = echo}}, "'a.B/C' is not a method")
    refused({handlers = {["/a.B/C"] = 1}}, "'/a.B/C' must be a table")
    refused({handlers = {["/a.B/C"] = {}}}, "either 'unary' or 'stream'")
    refused({handlers = {["/a.B/C"] = {unary = echo, stream = echo}}}, "either 'unary' or 'stream'")
    refused({handlers = {["/a.B/C"] = {steam = echo}}}, "did you mean 'stream'?")
    local err = error_of(grpc_server.fail, "OK", "text")
    assert.truthy(err.message:find("no code of a failure", 1, true))
  end)

  it("says when its port or address cannot be had", function()
    local first <close> = grpc_server.Server{handlers = {}}
    local err = error_of(grpc_server.Server, {handlers = {}, port = first.port})
    assert.equal("connect", err.kind)
    assert.truthy(err.hint:find("port 0", 1, true))
    assert.equal("connect", error_of(grpc_server.Server, {handlers = {}, host = "192.0.2.1"}).kind)
  end)

  it("answers with what its handlers return and say", function()
    beside({handlers = {
      ["/a.B/Unary"] = function(request, call)
        call.headers = {["x-first"] = "1", ["x-list"] = {"a", "b"}}
        call.trailers = {["x-bytes-bin"] = "\0\255"}
        return request .. call.metadata["x-word"] .. tostring(call:remaining() > 25)
      end,
      ["/a.B/Sent"] = {stream = function(request, call)
        call.headers = {["x-first"] = "2"}
        for _ = 1, 3 do assert(call:send(request)) end
        call.trailers = {["x-last"] = "3"}
      end},
      ["/a.B/Pieces"] = {stream = function(request) return request:gmatch(".") end},
    }}, function(channel)
      local reply, info = channel:unary("/a.B/Unary", "x", {timeout = 30, metadata = {["x-word"] = "y"}})
      assert.equal("xytrue", reply)
      assert.equal("1", info.headers["x-first"])
      assert.equal("a, b", info.headers["x-list"])
      assert.equal("\0\255", info.trailers["x-bytes-bin"])
      local call = channel:call("/a.B/Sent", "m")
      assert.equal("2", call:headers()["x-first"])
      for _ = 1, 3 do assert.equal("m", call:next()) end
      assert.is_nil(call:next())
      assert.equal("3", call:trailers()["x-last"])
      local seen = {}
      for piece in channel:stream("/a.B/Pieces", "xyz") do seen[#seen + 1] = piece end
      assert.same({"x", "y", "z"}, seen)
    end)
  end)

  it("tells clients what handlers raise of kind grpc, and nothing else", function()
    local said = {}
    local function note(problem, call) said[#said + 1] = call.method .. " " .. tostring(problem) end
    beside({on_error = note, handlers = {
      ["/a.B/Fail"] = function(_, call)
        call.trailers = {["x-own"] = "1"}
        grpc_server.fail("NOT_FOUND", "nicht da: \u{fc}%\n", {["river-error-code"] = "gone", ["data-bin"] = "\1"})
      end,
      ["/a.B/Number"] = function() grpc_server.fail(8) end,
      ["/a.B/Odd"] = function()
        error(require("riverlua.errors").new{kind = "grpc", status = 99, message = "odd",
          trailers = {["grpc-status"] = "0", ["Bad Name"] = "x", fine = "yes", worse = "\n"}}, 0)
      end,
      ["/a.B/Long"] = function() grpc_server.fail("ABORTED", ("\u{fc}"):rep(100000)) end,
      ["/a.B/Bug"] = function() error("a secret") end,
      ["/a.B/Table"] = function() error{secret = true} end,
      ["/a.B/Number answered"] = function() return 7 end,
      ["/a.B/Bad headers"] = function(_, call)
        call.headers = {["grpc-x"] = "1"}
        return ""
      end,
      ["/a.B/Late"] = {stream = function(request, call)
        call:send(request)
        grpc_server.fail("DATA_LOSS", "half of it")
      end},
      ["/a.B/Send"] = function(_, call) call:send("x") end,
      ["/a.B/Numbers"] = {stream = function() return ipairs{"a", "b"} end},
    }}, function(channel)
      local err = failure(channel, "/a.B/Fail")
      assert.equal("NOT_FOUND", err.code)
      assert.equal("nicht da: \u{fc}%\n", err.details)
      assert.equal("gone", err.trailers["river-error-code"])
      assert.equal("\1", err.trailers["data-bin"])
      assert.equal("1", err.trailers["x-own"])
      assert.equal("RESOURCE_EXHAUSTED", failure(channel, "/a.B/Number").code)
      err = failure(channel, "/a.B/Odd")
      assert.equal("UNKNOWN", err.code)
      assert.equal("odd", err.details)
      assert.equal("yes", err.trailers.fine)
      err = failure(channel, "/a.B/Long")
      assert.equal("ABORTED", err.code)
      assert.equal(("\u{fc}"):rep(4096 // 6), err.details)
      for _, name in ipairs{"Bug", "Table", "Send"} do
        err = failure(channel, "/a.B/" .. name)
        assert.equal("INTERNAL", err.code)
        assert.equal("internal error", err.details)
      end
      local call = channel:call("/a.B/Late", "first")
      assert.equal("first", call:next())
      assert.equal("half of it", error_of(call.next, call).details)
      assert.equal("UNIMPLEMENTED", failure(channel, "/a.B/Nothing").code)
      assert.equal("INTERNAL", error_of(function() for _ in channel:stream("/a.B/Numbers", "") do end end).code)
      assert.equal(4, #said)
      assert.truthy(said[1]:find("/a.B/Bug .*a secret"))
      assert.truthy(said[3]:find("return its answer", 1, true))
    end)
  end)

  it("asks before it reads, and finds handlers by a function", function()
    local read = 0
    beside({
      dispatch = function(method)
        if method:find("^/a%.B/") then
          return function(request)
            read = read + #request
            return method
          end
        end
      end,
      accept = function(call)
        if call.metadata.who ~= "me" then grpc_server.fail("UNAUTHENTICATED", "who?") end
      end,
    }, function(channel)
      assert.equal("UNAUTHENTICATED", failure(channel, "/a.B/C").code)
      assert.equal(0, read)
      assert.equal("/a.B/C", (channel:unary("/a.B/C", "x", {metadata = {who = "me"}})))
      assert.equal("UNIMPLEMENTED", failure(channel, "/a.C/C", {metadata = {who = "me"}}).code)
    end)
  end)

  it("takes tables where there are types", function()
    local service = protobuf.training:service("river.api.v1.RiverService")
    local handlers = grpc_server.service(service, {
      HealthCheck = function() return {status = "fine"} end,
    })
    handlers["/a.B/Wrong"] = {unary = echo, request = protobuf.training:message("river.api.v1.OptimStepRequest")}
    beside({handlers = handlers, on_error = function() end}, function(channel)
      assert.equal("fine", channel:stub(service):HealthCheck({}).status)
      local err = failure(channel, "/a.B/Wrong")
      assert.equal("INTERNAL", err.code)
      assert.truthy(err.details:find("no message of the type", 1, true))
    end)
    local err = error_of(grpc_server.service, service, {HealthChek = echo})
    assert.truthy(err.hint:find("HealthCheck", 1, true))
  end)

  it("cancels handlers, and what they wait for", function()
    local ended, waiting = {}, core.signal()
    local function hold(_, call)
      local inner <close> = task.spawn(function()
        local _ <close> = setmetatable({}, {__close = function() ended[#ended + 1] = "inner" end})
        core.signal():wait()
      end)
      waiting:fire()
      local ok, err = pcall(inner.join, inner)
      ended[#ended + 1] = tostring(ok) .. " " .. err.kind .. " " .. tostring(call:is_over())
      ended.fired = ended.fired and ended.fired:fire()
      error(err, 0)
    end
    beside({handlers = {["/a.B/Hold"] = hold, ["/a.B/Echo"] = echo}}, function(channel)
      assert.equal("DEADLINE_EXCEEDED", failure(channel, "/a.B/Hold", {timeout = 0.05}).code)
      while #ended < 2 do task.sleep(0.01) end
      assert.same({"false cancelled true", "inner"}, {ended[1], ended[2]})
      local call = channel:call("/a.B/Hold", "")
      waiting:wait()
      call:cancel()
      while #ended < 4 do task.sleep(0.01) end
      -- the tasks of handlers are used again, and nothing of the end of one gets into the next
      for _ = 1, 20 do assert.equal("x", (channel:unary("/a.B/Echo", "x"))) end
    end)
  end)

  it("keeps a cancellation that comes too late from the next call", function()
    beside({handlers = {
      ["/a.B/Own"] = function()
        task.current():cancel("by myself")
        return "done"
      end,
      ["/a.B/Waits"] = function()
        task.sleep(0.001)
        return "waited"
      end,
    }}, function(channel)
      for _ = 1, 20 do
        assert.equal("done", (channel:unary("/a.B/Own", "")))
        assert.equal("waited", (channel:unary("/a.B/Waits", "")))
      end
    end)
  end)

  it("serves many calls of many connections at once", function()
    beside({handlers = {["/a.B/Echo"] = function(request)
      task.sleep(0)
      return request
    end}}, function(_, server)
      local channels = {}
      for i = 1, 10 do
        channels[i] = grpc.Channel{target = "http://127.0.0.1:" .. server.port, proxy = false}
      end
      local numbers = {}
      for i = 1, 2000 do numbers[i] = i end
      task.map(numbers, function(i)
        assert.equal(tostring(i), (channels[i % 10 + 1]:unary("/a.B/Echo", tostring(i))))
      end, {concurrency = 300})
      assert.equal(10, server:stats().connections)
      assert.equal(2000, server:stats().calls)
      for _, channel in ipairs(channels) do channel:close() end
    end)
  end)

  it("stops from a handler, after its answer", function()
    local server
    server = grpc_server.Server{handlers = {["/a.B/Stop"] = function()
      server:stop()
      task.sleep(0.01)
      return "stopped"
    end}}
    local channel <close> = grpc.Channel{target = "http://127.0.0.1:" .. server.port, proxy = false}
    local reply
    task.scope(function(scope)
      scope:spawn(server.run, server)
      reply = channel:unary("/a.B/Stop", "")
    end)
    assert.equal("stopped", reply)
    assert.equal("closed", error_of(server.run, server).kind)
    assert.equal("UNAVAILABLE", failure(channel, "/a.B/Stop").code)
  end)

  it("ends what does not end within its grace", function()
    local function hold() core.signal():wait() end
    local server = grpc_server.Server{grace = 0.05, handlers = {["/a.B/Hold"] = hold}}
    local channel <close> = grpc.Channel{target = "http://127.0.0.1:" .. server.port, proxy = false}
    local err
    task.scope(function(scope)
      scope:spawn(server.run, server)
      local call = scope:spawn(function() err = failure(channel, "/a.B/Hold") end)
      while server:stats().in_flight == 0 do task.sleep(0.01) end
      server:stop()
      call:join()
    end)
    assert.equal("UNAVAILABLE", err.code)
    assert.equal("the server stops", err.details)
  end)

  it("closes at once", function()
    local server = grpc_server.Server{handlers = {["/a.B/Hold"] = function() core.signal():wait() end}}
    local channel <close> = grpc.Channel{target = "http://127.0.0.1:" .. server.port, proxy = false}
    local err
    task.scope(function(scope)
      scope:spawn(server.run, server)
      scope:spawn(function() err = failure(channel, "/a.B/Hold") end)
      while server:stats().in_flight == 0 do task.sleep(0.01) end
      server:close()
    end)
    assert.equal("UNAVAILABLE", err.code)
  end)

  it("leaves nothing behind when its task is cancelled", function()
    local before = servers.open_files()
    for _ = 1, 5 do
      local server = grpc_server.Server{handlers = {["/a.B/Hold"] = function() core.signal():wait() end}}
      local channel = grpc.Channel{target = "http://127.0.0.1:" .. server.port, proxy = false}
      local running = task.spawn(server.run, server)
      local call = channel:call("/a.B/Hold", "")
      while server:stats().in_flight == 0 do task.sleep(0.01) end
      running:cancel()
      running:join()
      assert.equal("UNAVAILABLE", error_of(call.result, call).code)
      channel:close()
    end
    task.sleep(0)
    assert.equal(before, servers.open_files())
  end)

  it("can be left open at the end of a script, however busy", function()
    local result = servers.run([[
      local grpc, task = require "riverlua.grpc", require "riverlua.task"
      local grpc_server = require "riverlua.grpc_server"
      server = grpc_server.Server{handlers = {["/a.B/Hold"] = {stream = function(_, call)
        call:send(("x"):rep(10000000))
      end}}}
      channel = grpc.Channel{target = "http://127.0.0.1:" .. server.port, proxy = false}
      task.spawn(server.run, server)
      call = channel:call("/a.B/Hold", "")
      task.sleep(0.05)
      os.exit(0, true)
    ]])
    assert.equal("", result.err)
    assert.equal(0, result.code)
    result = servers.run([[
      local grpc, task = require "riverlua.grpc", require "riverlua.task"
      local grpc_server = require "riverlua.grpc_server"
      local server = grpc_server.Server{handlers = {["/a.B/Large"] = function() return ("x"):rep(10000000) end}}
      local channel = grpc.Channel{target = "http://127.0.0.1:" .. server.port, proxy = false}
      local running = task.spawn(server.run, server)
      local call = channel:call("/a.B/Large", "")
      print(#call:result())
      error("the end", 0)
    ]])
    assert.equal("10000000\n", result.out)
    assert.matches("riverlua: the end\n", result.err, 1, true)
  end)
end)
