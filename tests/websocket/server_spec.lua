-- The server's side of WebSockets, as clients of other makers see it.

local here = debug.getinfo(1, "S").source:match("^@(.*/)")
local support = dofile(here .. "support.lua")
local json = require "riverlua.json"
local server_module = require "riverlua.server"
local task = require "riverlua.task"
local websocket = require "riverlua.websocket"

local servers, error_of = support.servers, support.error_of

local function start(options)
  return servers.start{servers.riverlua, here .. "echo_server.lua", json.encode(options or {})}
end

local function run(command)
  local errors = os.tmpname()
  local ok = os.execute(("timeout 60 %s 2>%s"):format(command, errors))
  local text = servers.read_file(errors)
  os.remove(errors)
  assert(ok, text ~= "" and text or "no outcome within 60 s")
end

-- Runs a check of callers.py against a fresh server.
local function check(name, options)
  local server <close> = start(options)
  run(("%s %scallers.py %s %d"):format(servers.python(), here, name, server.info.port))
  assert.equal("", server:errors())
end

describe("riverlua.server with WebSockets", function()
  it("echoes to the library websockets", function() check "messages" end)
  it("serves 100 at once", function() check "many_at_once" end)
  it("closes as its function says, or with 1011 when that fails", function() check "closes" end)
  it("agrees on subprotocols and headers, or refuses", function() check "handshakes" end)
  it("counts them as streams", function() check("streams_leave_room", {max_streams = 2}) end)
  it("tells clients that break rules which one", function() check "broken_rules" end)
  it("refuses handshakes that are none", function() check "bad_handshakes" end)
  it("reads frames wherever they are cut", function() check "cuts" end)
  it("takes frames that come before its answer", function() check "early" end)
  it("notices that a client has gone", function() check "leaving" end)
  it("bounds what it keeps for clients that do not read", function() check "not_reading" end)
  it("frees what it had for them", function() check "resources" end)

  it("says goodbye when it stops", function()
    local server <close> = start()
    local pipe = assert(io.popen(("timeout 60 %s %scallers.py stopping %d 2>&1"):format(servers.python(), here,
      server.info.port)))
    assert.equal("stop", pipe:read("l"))
    server.pipe:close()
    server.pipe = nil
    local text = pipe:read("a")
    assert.is_true(pipe:close(), text)
    server.reader:close()
    os.remove(server.complaints)
  end)

  describe("and npm's ws", function()
    local modules = "build/npm/node_modules"

    local function has_ws()
      return servers.has "node" and os.execute("test -d " .. modules .. "/ws")
    end

    it("as its client", function()
      if not has_ws() then return pending("node or its package ws is not there") end
      local server <close> = start()
      run(("env NODE_PATH=%s node %scallers.js %d"):format(modules, here, server.info.port))
    end)

    it("as a server for riverlua.websocket", function()
      if not has_ws() then return pending("node or its package ws is not there") end
      local node <close> = servers.start({"node", servers.folder .. "websocket_peer.js"}, {NODE_PATH = modules})
      local address = "ws://127.0.0.1:" .. node.info.ws .. "/"
      local ws = websocket.connect(address, {proxy = false})
      for _, text in ipairs{"", "hello", "κόσμε 🌊", ("x"):rep(70000), ("y"):rep(3000000)} do
        ws:send(text)
        assert.is_true(ws:receive(10) == text)
        ws:send(text, "binary")
        assert.same({text, "binary"}, {ws:receive(10)})
      end
      ws:send("ping")
      assert.equal("pong node asks", ws:receive(5))
      assert.is_number(ws:ping(nil, 5))
      ws:close(4001, "done")
      assert.equal(4001, ws.close_code)
      local closed <close> = websocket.connect(address, {proxy = false})
      closed:send("close 3456 so be it")
      assert.is_nil(closed:receive(5))
      assert.same({3456, "so be it"}, {closed.close_code, closed.close_reason})
    end)
  end)

  describe("in one process with its clients", function()
    -- Runs `fn(address)` against a server whose handler is given.
    local function with_server(handler, fn, options)
      options = options or {}
      options.handler = handler
      local server <close> = server_module.new(options)
      local running <close> = task.spawn(server.run, server)   -- luacheck: ignore 211
      fn("ws://127.0.0.1:" .. server.port .. "/", server)
    end

    it("gives the function what a client has", function()
      local shown, rtt, err
      with_server(function()
        return {websocket = function(ws)
          shown = tostring(ws)
          rtt = ws:ping(nil, 5)
          err = error_of(ws.receive, ws, 0)
          ws:send("ready")
          ws:send(ws:receive(5) .. "!")
          assert(ws:receive(5) == nil)
          ws:send("too late")
        end}
      end, function(address)
        local ws <close> = websocket.connect(address, {proxy = false})
        assert.equal("ready", ws:receive(5))
        ws:send("hello")
        assert.equal("hello!", ws:receive(5))
      end, {on_error = function(problem) err = {err, problem} end})
      assert.matches("websocket of 127.0.0.1 (open)", shown, 1, true)
      assert.is_number(rtt)
      assert.equal("timeout", err[1].kind)
      assert.equal("closed", err[2].kind)
    end)

    it("takes messages of up to a megabyte, more when it is told to", function()
      local function code_for(length, max_message)
        local code
        with_server(function()
          return {max_message = max_message, websocket = function(ws) ws:send("got " .. #ws:receive(5)) end}
        end, function(address)
          local ws <close> = websocket.connect(address, {proxy = false})
          ws:send(("x"):rep(length), "binary")
          code = ws:receive(5)
          if not code then code = ws.close_code end
        end, {on_error = function() end})
        return code
      end
      assert.equal("got 1048576", code_for(1 << 20))
      assert.equal(1009, code_for((1 << 20) + 1))
      assert.equal("got 1048577", code_for((1 << 20) + 1, 2 << 20))
    end)

    it("says no before it switches when it cannot", function()
      local err, refused
      with_server(function() return {max_message = -1, websocket = print} end, function(address)
        refused = error_of(websocket.connect, address, {proxy = false})
      end, {on_error = function(problem) err = problem end})
      assert.same({"websocket", 500}, {refused.kind, refused.status})
      assert.matches("a size, not negative", tostring(err), 1, true)
    end)

    it("lets several tasks send and receive", function()
      with_server(function()
        return {websocket = function(ws)
          task.gather(
            function() for i = 1, 50 do ws:send(("a"):rep(i * 1000)) end end,
            function() for i = 1, 50 do ws:send(("b"):rep(i * 1000)) end end)
          assert(ws:receive(5) == "thanks")
        end}
      end, function(address)
        local ws <close> = websocket.connect(address, {proxy = false})
        local sizes = {a = 0, b = 0}
        for _ = 1, 100 do
          local text = ws:receive(5)
          local letter = text:sub(1, 1)
          sizes[letter] = sizes[letter] + 1000
          assert.is_true(text == letter:rep(sizes[letter]))
        end
        ws:send("thanks")
        assert.is_nil(ws:receive(5))
      end)
    end)
  end)
end)
