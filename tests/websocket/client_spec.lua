-- riverlua.websocket against an independent server, the Python library `websockets`.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local json = require "riverlua.json"
local task = require "riverlua.task"
local websocket = require "riverlua.websocket"

local error_of, servers = support.error_of, support.servers

describe("riverlua.websocket", function()
  local peer

  setup(function() peer = support.peer() end)
  teardown(function() peer.close() end)

  local function connect(path, options)
    options = options or {}
    if options.proxy == nil then options.proxy = false end
    return websocket.connect(peer.url(path), options)
  end

  it("sends and receives texts and bytes", function()
    local ws <close> = connect "/echo"
    for _, text in ipairs{"", "hello", "κόσμε 🌊", ("x"):rep(125), ("x"):rep(126), ("x"):rep(65535),
      ("x"):rep(65536)} do
      ws:send(text)
      assert.same({text, "text"}, {ws:receive(5)})
      ws:send(text, "binary")
      assert.same({text, "binary"}, {ws:receive(5)})
    end
    local bytes = {}
    for i = 0, 255 do bytes[#bytes + 1] = string.char(i) end
    ws:send(table.concat(bytes), "binary")
    assert.same({table.concat(bytes), "binary"}, {ws:receive(5)})
  end)

  it("carries messages of megabytes both ways", function()
    local ws <close> = connect "/echo"
    local big = ("0123456789abcdef"):rep(1 << 18)
    ws:send(big)
    assert.is_true(ws:receive(20) == big)
    local large <close> = connect "/big?size=3000000"
    assert.equal(3000000, #large:receive(20))
  end)

  it("joins the fragments of a message, with pings between them", function()
    local ws <close> = connect "/fragments?n=26&size=1000"
    local text = ws:receive(5)
    assert.equal(26000, #text)
    assert.equal(("z"):rep(1000), text:sub(-1000))
  end)

  it("keeps the order of many messages and ends with the server", function()
    local ws <close> = connect "/many?n=2000"
    local count = 0
    for text, kind in ws:messages() do
      count = count + 1
      assert.equal(tostring(count), text)
      assert.equal("text", kind)
    end
    assert.same({2000, 1000, ""}, {count, ws.close_code, ws.close_reason})
    assert.is_nil(ws:receive())
    assert.equal("closed", error_of(ws.send, ws, "too late").kind)
  end)

  it("answers pings while the script waits for a message", function()
    local ws <close> = connect "/pings?n=20"
    assert.equal("answered", ws:receive(5))
  end)

  it("answers pings while another task runs and nobody receives", function()
    local ws <close> = connect "/pings?n=20"
    local other <close> = connect "/echo"
    -- the pings are answered while this one is waited for; their outcome is there afterwards
    for _ = 1, 100 do
      other:send("x")
      other:receive(5)
    end
    assert.equal("answered", ws:receive(5))
  end)

  it("pings, and says how long the answer took", function()
    local ws <close> = connect "/echo"
    assert.is_number(ws:ping(nil, 5))
    assert.is_number(ws:ping("mine", 5))
    assert.is_nil(ws:ping())
    ws:send("x")
    assert.equal("x", ws:receive(5))
    assert.equal("argument", error_of(ws.ping, ws, ("x"):rep(126)).kind)
  end)

  it("closes with a code and a reason that the server sees", function()
    local ws = connect "/count?id=ten"
    for _ = 1, 10 do ws:send("x") end
    ws:close(4001, "as agreed")
    assert.equal(4001, ws.close_code)
    local seen = peer.seen "ten"
    assert.same({4001, "as agreed", 10}, {seen.code, seen.reason, seen.count})
    ws:close()
    assert.is_nil(ws:receive())
    assert.equal("closed", error_of(ws.send, ws, "x").kind)
    assert.equal("closed", error_of(ws.ping, ws).kind)
  end)

  it("closes at the end of a block, also of one that fails", function()
    do
      local ws <close> = connect "/count?id=left"
      ws:send("x")
    end
    assert.equal(1000, peer.seen("left").code)
    pcall(function()
      local ws <close> = connect "/count?id=failed"
      ws:send("x")
      error("on the way")
    end)
    assert.equal(1001, peer.seen("failed").code)
  end)

  it("tells the server's code and reason", function()
    for _, code in ipairs{1000, 1001, 1011, 1012, 1013, 3000, 4999} do
      local ws <close> = connect("/close?code=" .. code .. "&reason=see%20you")
      assert.is_nil(ws:receive(5))
      assert.same({code, "see you"}, {ws.close_code, ws.close_reason})
    end
  end)

  it("raises when the connection is dropped, after what had come", function()
    local ws <close> = connect "/leave?after=3"
    for i = 1, 3 do ws:send("message " .. i) end
    local err
    for i = 1, 4 do
      local ok, text = pcall(ws.receive, ws, 5)
      if not ok then
        err = text
        break
      end
      assert.equal("message " .. i, text)
    end
    assert.same({"websocket", 1006, true}, {err.kind, err.code, err.retryable})
    assert.equal(1006, ws.close_code)
    assert.equal("websocket", error_of(ws.receive, ws).kind)
    assert.equal(1006, error_of(ws.send, ws, "x").code)
  end)

  it("loses nothing when nothing came in time", function()
    local ws <close> = connect "/echo"
    local err = error_of(ws.receive, ws, 0.01)
    assert.equal("timeout", err.kind)
    assert.matches("0.01 s", err.message, 1, true)
    assert.equal("timeout", error_of(ws.receive, ws, 0).kind)
    ws:send("here")
    assert.equal("here", ws:receive(5))
  end)

  it("agrees on a subprotocol", function()
    local ws <close> = connect("/echo?id=agreed", {subprotocols = {"alpha", "gamma", "beta"}})
    assert.equal("gamma", ws.subprotocol)
    ws:send("x")
    ws:receive(5)
    ws:close()
    assert.equal("gamma", peer.seen("agreed").subprotocol)
    local none <close> = connect "/echo"
    assert.is_nil(none.subprotocol)
  end)

  it("sends the headers, the origin and the user's name", function()
    local address = peer.url("/headers"):gsub("//", "//us%%20er:pa%%3Ass@")
    local ws <close> = websocket.connect(address, {proxy = false, origin = "https://app.example",
      headers = {["X-One"] = "1", ["X-Two"] = {"a", "b"}}})
    local headers = json.decode((ws:receive(5)))
    assert.equal("1", headers["x-one"])
    assert.equal("b", headers["x-two"])
    assert.equal("https://app.example", headers.origin)
    assert.equal("13", headers["sec-websocket-version"])
    assert.matches("^riverlua/", headers["user-agent"])
    assert.equal("Basic " .. require("riverlua.digest").to_base64("us er:pa:ss"), headers.authorization)
    assert.is_nil(headers["sec-websocket-extensions"])
    local plain <close> = connect "/headers"
    assert.is_nil(json.decode((plain:receive(5))).origin)
  end)

  it("shows no secrets", function()
    local ws <close> = websocket.connect((peer.url("/echo?token=very-secret"):gsub("//", "//user:hidden@")),
      {proxy = false})
    local shown = tostring(ws) .. ws.url .. tostring(error_of(ws.receive, ws, 0))
    assert.not_matches("secret", shown)
    assert.not_matches("hidden", shown)
    assert.matches("(open)", tostring(ws), 1, true)
    ws:close()
    assert.matches("(closed)", tostring(ws), 1, true)
  end)

  it("goes over a Unix socket", function()
    local ws <close> = websocket.connect("ws://localhost/echo", {unix_socket = peer.info.unix_socket, proxy = false})
    ws:send("through a file")
    assert.equal("through a file", ws:receive(5))
  end)

  for _, listener in ipairs{"ws", "wss"} do
    it("makes the server wait when nobody receives, and loses nothing, over " .. listener, function()
      local ws <close> = websocket.connect(peer.url("/many?n=200&size=65000", listener),
        {proxy = false, ca_file = peer.info.ca_file})
      local other <close> = connect "/echo"
      for _ = 1, 50 do   -- meanwhile more comes than is read ahead
        other:send("x")
        other:receive(5)
      end
      local count = 0
      for text in ws:messages() do
        count = count + 1
        assert.equal(65000, #text)
        assert.equal(count, tonumber(text))
        if count % 16 == 0 then task.sleep(0) end
      end
      assert.same({200, 1000}, {count, ws.close_code})
    end)
  end

  describe("over TLS", function()
    local function connect_safely(path, options, listener)
      options.proxy = false
      return websocket.connect(peer.url(path, listener or "wss"), options)
    end

    it("carries small and large messages", function()
      local ws <close> = connect_safely("/echo", {ca_file = peer.info.ca_file})
      local big = ("0123456789abcdef"):rep(1 << 18)
      for _, text in ipairs{"small", big, "again"} do
        ws:send(text)
        assert.is_true(ws:receive(20) == text)
      end
      local many <close> = connect_safely("/many?n=3000", {ca_file = peer.info.ca_file})
      local count = 0
      for _ in many:messages() do count = count + 1 end
      assert.equal(3000, count)
    end)

    it("refuses an authority it does not know, and another host's certificate", function()
      local err = error_of(connect_safely, "/echo", {})
      assert.equal("tls", err.kind)
      assert.matches("ca_file", err.hint, 1, true)
      err = error_of(connect_safely, "/echo", {ca_file = peer.info.wrong_ca_file}, "wss_wrong_name")
      assert.equal("tls", err.kind)
      local ws <close> = connect_safely("/echo", {verify = false}, "wss_wrong_name")
      ws:send("x")
      assert.equal("x", ws:receive(5))
    end)

    it("fails cleanly against a server without TLS, and the other way round", function()
      local address = peer.url("/echo"):gsub("^ws:", "wss:")
      assert.equal("tls", error_of(websocket.connect, address, {proxy = false}).kind)
      address = peer.url("/echo", "wss"):gsub("^wss:", "ws:")
      local err = error_of(websocket.connect, address, {proxy = false, timeout = 5})
      assert.equal("websocket", err.kind)
    end)
  end)

  describe("through a proxy", function()
    local stub

    setup(function() stub = servers.stub() end)
    teardown(function() stub:close() end)
    before_each(function() stub:reset() end)

    for _, listener in ipairs{"ws", "wss"} do
      it("tunnels " .. listener, function()
        local ws <close> = websocket.connect(peer.url("/echo", listener),
          {proxy = stub:url("", "proxy"), ca_file = peer.info.ca_file})
        ws:send("through")
        assert.equal("through", ws:receive(5))
        local log = stub:log()
        assert.same({1, "CONNECT"}, {#log, log[1].method})
      end)

      it("gives the proxy its password, over " .. listener, function()
        local with_password = stub:url("", "proxy_auth"):gsub("//", "//user:secret@")
        local ws <close> = websocket.connect(peer.url("/echo", listener),
          {proxy = with_password, ca_file = peer.info.ca_file})
        ws:send("through")
        assert.equal("through", ws:receive(5))
        local err = error_of(websocket.connect, peer.url("/echo", listener), {proxy = stub:url("", "proxy_auth")})
        assert.equal("connect", err.kind)
        assert.matches("407", err.message)
      end)
    end

    it("finds the proxy in the environment, and hosts that need none", function()
      local function accepted_with(environment)
        stub:reset()
        local child = servers.run([[
          local ws = require("riverlua.websocket").connect(arg[1])
          ws:send("x")
          print(ws:receive(5))]], {args = {peer.url "/echo"}, environment = environment, seconds = 20})
        assert.same({0, "x\ttext\n", ""}, {child.code, child.out, child.err})
        return stub:stats().accepted.proxy or 0
      end
      assert.equal(1, accepted_with{http_proxy = stub:url("", "proxy")})
      assert.equal(1, accepted_with{all_proxy = stub:url("", "proxy")})
      assert.equal(0, accepted_with{http_proxy = stub:url("", "proxy"), no_proxy = "127.0.0.1"})
    end)

    it("says that the proxy found no way, or is not there", function()
      assert.equal("connect", error_of(websocket.connect, "ws://127.0.0.1:1/", {proxy = stub:url("", "proxy")}).kind)
      assert.equal("connect", error_of(websocket.connect, peer.url("/echo"), {proxy = stub:url("", "refused")}).kind)
    end)
  end)

  describe("with several tasks", function()
    it("gives each message to one of those that receive", function()
      local ws <close> = connect "/echo"
      local got, left = {}, 100
      local receivers = {}
      for i = 1, 4 do
        receivers[i] = task.spawn(function()
          while left > 0 do
            left = left - 1
            local text = ws:receive(5)
            got[#got + 1] = tonumber(text)
          end
        end)
      end
      for i = 1, 100 do ws:send(tostring(i)) end
      for i = 1, 4 do receivers[i]:await() end
      table.sort(got)
      assert.equal(100, #got)
      for i = 1, 100 do assert.equal(i, got[i]) end
    end)

    it("stops waiting when it is cancelled, and goes on afterwards", function()
      local ws <close> = connect "/echo"
      local waiting = task.spawn(ws.receive, ws)
      task.sleep(0)
      waiting:cancel("enough")
      assert.equal("cancelled", error_of(waiting.await, waiting).kind)
      ws:send("still here")
      assert.equal("still here", ws:receive(5))
    end)

    it("wakes those who receive when another one closes it", function()
      local ws = connect "/echo"
      local waiting = task.spawn(ws.receive, ws)
      task.sleep(0)
      ws:close()
      assert.is_nil(waiting:await(5))
    end)

    it("keeps 300 WebSockets open at once, and no descriptor afterwards", function()
      local warm <close> = connect "/echo"
      warm:send("x")
      warm:receive(5)
      collectgarbage()
      collectgarbage()
      local before = servers.open_files()
      local indices = {}
      for i = 1, 300 do indices[i] = i end
      local sockets = task.map(indices, function() return connect "/echo" end, {concurrency = 50})
      for i = 1, 300 do sockets[i]:send("number " .. i) end
      for i = 300, 1, -1 do assert.equal("number " .. i, sockets[i]:receive(10)) end
      task.map(indices, function(i) sockets[i]:close() end, {concurrency = 50})
      assert.equal(before, servers.open_files())
    end)
  end)

  it("works where Lua cannot yield", function()
    local ws <close> = connect "/echo"
    local list = {3, 1, 2}
    table.sort(list, function(a, b)
      ws:send("sorting")
      assert(ws:receive(5) == "sorting")
      return a < b
    end)
    assert.same({1, 2, 3}, list)
    local text = ("abc"):gsub(".", function(char)
      local inner <close> = connect "/echo"
      inner:send(char:upper())
      return (inner:receive(5))
    end)
    assert.equal("ABC", text)
  end)

  it("is freed with the last reference to it", function()
    local warm <close> = connect "/echo"
    warm:ping(nil, 5)
    collectgarbage()
    collectgarbage()
    local before = servers.open_files()
    for _ = 1, 20 do connect("/echo"):send("x") end
    collectgarbage()
    collectgarbage()
    assert.equal(before, servers.open_files())
  end)

  it("knows what a server answers to a key", function()
    assert.equal("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", websocket.accept("dGhlIHNhbXBsZSBub25jZQ=="))
  end)

  it("refuses wrong calls by name", function()
    local function message_of(...) return error_of(websocket.connect, ...).message end
    assert.matches("not a ws or wss address", message_of("http://127.0.0.1/"), 1, true)
    assert.matches("not a ws or wss address", message_of("127.0.0.1"), 1, true)
    assert.matches("did you mean 'subprotocols'", message_of(peer.url("/"), {subprotocol = {}}), 1, true)
    assert.matches("timeout.connect", message_of(peer.url("/"), {timeout = {connect = -1}}), 1, true)
    assert.matches("made by the handshake", message_of(peer.url("/"), {headers = {Upgrade = "x"}}), 1, true)
    assert.matches("line break", message_of(peer.url("/"), {headers = {x = "a\r\nb"}}), 1, true)
    assert.matches("line break", message_of(peer.url("/"), {origin = "a\r\nb"}), 1, true)
    assert.matches("is not a header's name", message_of(peer.url("/"), {headers = {["a b"] = "x"}}), 1, true)
    assert.matches("is not a subprotocol's name", message_of(peer.url("/"), {subprotocols = {"a,b"}}), 1, true)
    local ws <close> = connect "/echo"
    assert.matches("UTF%-8", error_of(ws.send, ws, "\xff").message)
    assert.matches("kind", error_of(ws.send, ws, "x", "texts").message)
    assert.matches("'data' must be a string", error_of(ws.send, ws, {}).message, 1, true)
    assert.matches("1005 is no code", error_of(ws.close, ws, 1005).message, 1, true)
    assert.matches("123 bytes", error_of(ws.close, ws, 1000, ("x"):rep(124)).message, 1, true)
    ws:send("still open")
    assert.equal("still open", ws:receive(5))
  end)
end)
