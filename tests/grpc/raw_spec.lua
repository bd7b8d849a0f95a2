-- Connections and answers that a gRPC server makes only in bad times: the frames are written by hand.

local here = debug.getinfo(1, "S").source:match("^@(.*/)")
local support = dofile(here .. "support.lua")
local grpc = require "riverlua.grpc"
local task = require "riverlua.task"
local error_of = support.error_of

local METHOD = "/test.Echo/Unary"

describe("a gRPC channel", function()
  local raw

  setup(function() raw = support.raw() end)
  teardown(function() raw.close() end)

  -- The error of one call.
  local function failure(name, options, request)
    local channel <close> = raw.channel(name)
    return error_of(channel.unary, channel, METHOD, request or "hello", options)
  end

  describe("whose server goes away", function()
    it("moves the calls that it has not looked at to a new connection", function()
      local channel <close> = raw.channel("goaway")
      local replies = table.pack(task.gather(
        function() return (channel:unary(METHOD, "1")) end,
        function() return (channel:unary(METHOD, "2")) end,
        function() return (channel:unary(METHOD, "3")) end))
      assert.same({"old", "hello", "hello", n = 3}, replies)
      assert.equal(2, channel:stats().connections)
      local seen = raw.stats("goaway")
      assert.equal(5, seen.requests)
      assert.equal(2, seen.connections)
    end)

    it("gives up when it does so each time", function()
      local channel <close> = raw.channel("goaway_always")
      local err = error_of(channel.unary, channel, METHOD, "1")
      assert.equal("UNAVAILABLE", err.code)
      assert.is_false(err.sent)
      assert.equal(6, raw.stats("goaway_always").requests)
    end)

    it("lets the calls end that were begun, and opens a new connection for others", function()
      local channel <close> = raw.channel("goaway_politely")
      local old = channel:call(METHOD, "1")
      old:headers()   -- the first GOAWAY is there
      assert.equal("hello", (channel:unary(METHOD, "2")))
      raw.release("goaway_politely")
      assert.equal("old", (old:result()))
      assert.equal(2, channel:stats().connections)
      raw.stats("goaway_politely", {closed = 1})
    end)

    it("opens a new connection when the old one went away in a silence", function()
      for _, name in ipairs{"goaway_idle", "close_idle"} do
        local channel <close> = raw.channel(name)
        for i = 1, 3 do
          assert.equal("hello", (channel:unary(METHOD, "x")))
          assert.equal(i, channel:stats().connections)
          -- the script is busy while the connection goes: nobody looks at it before the next call
          local before = os.clock()
          while os.clock() - before < 0.06 do end
        end
      end
    end)

    it("sends fewer PINGs when they were too many", function()
      local channel <close> = raw.channel("too_many_pings", {keepalive = {interval = 0.02, timeout = 5}})
      channel:unary(METHOD, "x")
      raw.stats("too_many_pings", {closed = 1})   -- by then what it said last has been read
      assert.equal("hello", (channel:unary(METHOD, "x")))
    end)
  end)

  describe("whose server refuses a stream", function()
    it("asks once more", function()
      local channel <close> = raw.channel("refuse_once")
      local reply, info = channel:unary(METHOD, "x")
      assert.equal("hello", reply)
      assert.equal(1, info.attempts)
      assert.equal(2, raw.stats("refuse_once").requests)
    end)

    it("asks only once more, and knows that nothing was done", function()
      local err = failure("refuse")
      assert.equal("UNAVAILABLE", err.code)
      assert.is_false(err.sent)
      assert.is_true(err.retryable)
      assert.equal(2, raw.stats("refuse").requests)
    end)
  end)

  it("tells what a reset means", function()
    local channel <close> = raw.channel("resets")
    local codes = {}
    for code = 0, 13 do
      local err = error_of(channel.unary, channel, METHOD, "x")
      codes[code] = err.code
      assert.is_true(err.sent or code == 7)
      if code == 7 then error_of(channel.unary, channel, METHOD, "x") end   -- 7 and 8 were one call: refused, again
    end
    assert.equal("INTERNAL", codes[0])
    assert.equal("INTERNAL", codes[1])
    assert.equal("INTERNAL", codes[2])
    assert.equal("CANCELLED", codes[7])      -- refused, and the second time cancelled
    assert.equal("INTERNAL", codes[8])
    assert.equal("RESOURCE_EXHAUSTED", codes[9])
    assert.equal(1, channel:stats().connections)
  end)

  describe("that loses its connection", function()
    for name, code in pairs{close_at_once = "UNAVAILABLE", close_on_request = "UNAVAILABLE",
      close_after_headers = "UNAVAILABLE", close_in_message = "UNAVAILABLE", close_after_message = "UNAVAILABLE"} do
      it("says so: " .. name, function()
        local err = failure(name)
        assert.equal("grpc", err.kind)
        assert.equal(code, err.code)
        assert.is_true(err.sent)
        assert.is_true(err.retryable)
        assert.equal(METHOD, err.message:sub(1, #METHOD))
      end)
    end

    it("never sends a call again by itself", function()
      local before = raw.stats("close_on_request").requests
      failure("close_on_request")
      assert.equal(before + 1, raw.stats("close_on_request").requests)
    end)
  end)

  describe("never takes for success", function()
    for name, part in pairs{
      end_without_trailers = "grpc%-status", end_without_status = "grpc%-status", bad_status = "grpc%-status",
      ok_without_message = "no message", two_messages = "several messages", half_a_message = "middle of a message",
      compressed = "compressed",
    } do
      it(name, function()
        local err = failure(name)
        assert.equal("INTERNAL", err.code)
        assert.truthy(err.message:find(part))
      end)
    end
  end)

  describe("whose server does not speak gRPC", function()
    it("says what the status of HTTP means", function()
      local channel <close> = raw.channel("http_status")
      for _, code in ipairs{"INTERNAL", "UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED", "UNAVAILABLE",
        "UNKNOWN", "UNAVAILABLE", "UNAVAILABLE", "UNAVAILABLE"} do
        local err = error_of(channel.unary, channel, METHOD, "x")
        assert.equal(code, err.code)
        assert.truthy(err.message:find("HTTP status %d"))
      end
    end)

    it("names the type of the answer", function()
      local err = failure("html")
      assert.equal("UNKNOWN", err.code)
      assert.truthy(err.message:find("text/html", 1, true))
    end)

    it("believes a grpc-status", function()
      local err = failure("status_beats_http")
      assert.equal("RESOURCE_EXHAUSTED", err.code)
      assert.equal("\u{4f60}%zz%2 \u{1f600}%", err.details)
    end)

    it("recognises HTTP/1", function()
      local err = failure("http1")
      assert.equal("UNAVAILABLE", err.code)
      assert.truthy(err.message:find("HTTP/1", 1, true))
    end)

    it("gives up on garbage", function() assert.equal("UNAVAILABLE", failure("garbage").code) end)

    it("gives up on a flood of frames, or of headers", function()
      assert.equal("UNAVAILABLE", failure("endless_headers").code)
      assert.equal("UNAVAILABLE", failure("ping_flood").code)
    end)

    it("refuses TLS without h2", function()
      local channel <close> = grpc.Channel{target = "localhost:" .. raw.info.ports.tls_without_alpn,
        ca_file = raw.info.ca_file, proxy = false}
      local err = error_of(channel.unary, channel, METHOD, "x")
      assert.equal("UNAVAILABLE", err.code)
      assert.is_false(err.sent)
      assert.is_false(err.retryable)
      assert.truthy(err.message:find("h2", 1, true))
    end)

    it("offers h2 to the server, not to a proxy with TLS of its own", function()
      local place = "https://127.0.0.1:" .. raw.info.ports.client_hello
      for i, options in ipairs{{target = "localhost:1", proxy = place}, {target = place, proxy = false}} do
        local channel <close> = grpc.Channel(options)
        assert.equal("UNAVAILABLE", error_of(channel.unary, channel, METHOD, "x").code)
        assert.equal(i - 1, raw.stats("client_hello", {requests = i}).data)
      end
    end)
  end)

  describe("bounds", function()
    it("headers", function() assert.equal("RESOURCE_EXHAUSTED", failure("huge_headers").code) end)

    it("messages", function()
      local channel <close> = raw.channel("good", {max_message = 4})
      local err = error_of(channel.unary, channel, METHOD, "x")
      assert.equal("RESOURCE_EXHAUSTED", err.code)
      assert.truthy(err.message:find("max_message", 1, true))
      assert.equal("RESOURCE_EXHAUSTED", failure("endless_message").code)
    end)
  end)

  it("takes odd frames as they are meant", function()
    local channel <close> = raw.channel("odd_frames")
    for _ = 1, 3 do
      local reply, info = channel:unary(METHOD, "x")
      assert.equal("hello", reply)
      assert.equal("3", info.headers["content-length"])
      assert.equal("1, 2", info.trailers.late)
      assert.is_nil(info.headers.link)
      assert.is_nil(info.headers.UPPER)
    end
    assert.equal(1, channel:stats().connections)
  end)

  it("delivers an answer that comes before the request is there", function()
    for _, name in ipairs{"early_answer", "early_reset"} do
      local channel <close> = raw.channel(name)
      local big = ("x"):rep(1 << 20)
      for _ = 1, 3 do
        local err = error_of(channel.unary, channel, METHOD, big)
        assert.equal("PERMISSION_DENIED", err.code)
        assert.equal("not you", err.details)
      end
      assert.equal(1, channel:stats().connections)
      assert.is_true(raw.stats(name).data < 1 << 20)
    end
  end)

  it("does not wait for the settings of the server", function()
    local channel <close> = raw.channel("late_settings")
    assert.equal("hello", (channel:unary(METHOD, "x")))
  end)

  it("has no more streams open than the server wants", function()
    local channel <close> = raw.channel("one_at_a_time")
    task.map({1, 2, 3, 4, 5, 6, 7, 8}, function() return (channel:unary(METHOD, "x")) end, {concurrency = 8})
    assert.equal(1, channel:stats().connections)
    local seen = raw.stats("one_at_a_time")
    assert.equal(8, seen.requests)
    assert.equal(1, seen.most_open)
  end)

  describe("with keepalive", function()
    it("finds out that the connection is dead", function()
      local channel <close> = raw.channel("silent", {keepalive = {interval = 0.05, timeout = 0.1}})
      local err = error_of(channel.unary, channel, METHOD, "x", {timeout = 20})
      assert.equal("UNAVAILABLE", err.code)
      assert.is_true(err.sent)
      assert.truthy(err.message:find("PING", 1, true))
    end)

    it("sends PINGs also when there is no call", function()
      local channel <close> = raw.channel("good", {keepalive = {interval = 0.02, timeout = 5}})
      channel:unary(METHOD, "x")
      local seen = task.spawn(raw.stats, "good", {pings = 3}):await()
      assert.is_true(seen.pings >= 3)
      assert.equal("hello", (channel:unary(METHOD, "x")))
      assert.equal(1, channel:stats().connections)
    end)

    it("does not take a script that was busy for a dead connection", function()
      local channel <close> = raw.channel("good", {keepalive = {interval = 0.02, timeout = 0.2}})
      for _ = 1, 3 do
        channel:unary(METHOD, "x")
        task.sleep(0.025)   -- a PING is on its way, or about to be
        local before = os.clock()
        while os.clock() - before < 0.3 do end
      end
      assert.equal(1, channel:stats().connections)
    end)

    it("opens a new connection for the next call", function()
      local channel <close> = raw.channel("deaf_to_pings", {keepalive = {interval = 0.05, timeout = 0.5}})
      channel:unary(METHOD, "x")
      task.spawn(raw.stats, "deaf_to_pings", {closed = 1}):await()
      assert.equal("hello", (channel:unary(METHOD, "x")))
      assert.equal(2, channel:stats().connections)
    end)
  end)

  it("tells the server of a call that is given up", function()
    local channel <close> = raw.channel("silent", {keepalive = false})
    local known = raw.stats("silent")
    local first = channel:call(METHOD, "x")   -- the others find the connection open, however busy the machine is
    task.spawn(raw.stats, "silent", {requests = known.requests + 1}):await()
    first:cancel()
    local before = #known.resets
    assert.equal("DEADLINE_EXCEEDED", error_of(channel.unary, channel, METHOD, "x", {timeout = 0.05}).code)
    channel:call(METHOD, "x"):cancel()
    local calling = task.spawn(channel.unary, channel, METHOD, "x")
    task.sleep(0)
    calling:cancel()
    pcall(calling.await, calling)
    local resets = task.spawn(raw.stats, "silent", {resets = before + 4}):await().resets
    for i = before + 1, before + 4 do assert.equal(8, resets[i]) end
  end)

  it("raises kind closed in the calls under way when it is closed", function()
    local channel = raw.channel("silent")
    local calling = task.spawn(channel.unary, channel, METHOD, "x")
    task.sleep(0)
    channel:close()
    local err = error_of(calling.await, calling)
    assert.equal("closed", err.kind)
    assert.equal("closed", error_of(channel.unary, channel, METHOD, "x").kind)
    channel:close()
  end)
end)
