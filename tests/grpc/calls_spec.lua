-- Calls to real gRPC servers: Python's grpcio.

local here = debug.getinfo(1, "S").source:match("^@(.*/)")
local support = dofile(here .. "support.lua")
local grpc = require "riverlua.grpc"
local json = require "riverlua.json"
local task = require "riverlua.task"
local error_of, servers = support.error_of, support.servers

local UNARY, STREAM = "/test.Echo/Unary", "/test.Echo/Stream"

describe("riverlua.grpc", function()
  local echo, raw

  setup(function() echo, raw = support.echo(), support.raw() end)
  teardown(function()
    echo.close()
    raw.close()
  end)

  -- What the server saw of a call.
  local function seen(channel_options, call_options)
    local channel <close> = echo.channel(channel_options)
    local told = json.decode((channel:unary("/test.Echo/Metadata", "", call_options)))
    local out = {remaining = told.remaining, order = {}}
    for _, pair in ipairs(told.metadata) do
      local value = type(pair[2]) == "table" and pair[2].hex or pair[2]
      out[pair[1]] = out[pair[1]] and out[pair[1]] .. "|" .. value or value
      out.order[#out.order + 1] = pair[1]
    end
    return out
  end

  describe("unary", function()
    it("sends bytes and gets bytes", function()
      local channel <close> = echo.channel()
      for _, bytes in ipairs{"", "x", "\0\1\255", ("y"):rep(16384), ("z"):rep(70000), ("w"):rep(1 << 22)} do
        local reply, info = channel:unary(UNARY, bytes)
        assert.is_true(reply == bytes)
        assert.equal(0, info.status)
        assert.equal(1, info.attempts)
        assert.equal("application/grpc", info.headers["content-type"])
        assert.equal("0", info.trailers["grpc-status"])
      end
      assert.equal(1, channel:stats().connections)
    end)

    it("sends blocks as they are", function()
      local datum = require "training.datum"
      local ids = {}
      for i = 1, 300000 do ids[i] = i end
      local channel <close> = echo.channel()
      local block = datum.block{datum.plan({input_ids = ids}, 1)}
      assert.is_true(channel:unary(UNARY, block) == block:sub())
      block:frame("before", "rest", "after")
      assert.is_true(channel:unary(UNARY, block) == block:sub())
      block:free()
      assert.is_false(pcall(channel.unary, channel, UNARY, block))
    end)

    it("leaves a block alone when its call has ended early", function()
      local array, datum = require "riverlua.array", require "training.datum"
      local channel <close> = echo.channel()
      for _ = 1, 3 do
        local block = datum.block{datum.plan({input_ids = array.fill("int64", 4000000, 7)}, 1)}
        local err = error_of(channel.unary, channel, UNARY, block, {timeout = 0.02, metadata = {hang = "1"}})
        block:free()
        assert.equal("DEADLINE_EXCEEDED", err.code)
        assert.equal("next", (channel:unary(UNARY, "next")))
      end
    end)

    it("keeps a block as it is until the call that sends it is done", function()
      local array, datum = require "riverlua.array", require "training.datum"
      local function made() return datum.block{datum.plan({input_ids = array.fill("int64", 4000000, 7)}, 1)} end
      local function refuses(block, call)
        for _, what in ipairs{"free", "frame"} do
          local err = error_of(block[what], block, ("before"):rep(1000), "rest", "after")
          assert.equal("argument", err.kind)
          assert.truthy(err.message:find("while a call sends it", 1, true), err.message)
        end
        assert.is_false(call.done)
      end
      local channel <close> = echo.channel()

      local block, bytes = made(), made():sub()
      local call = channel:call(UNARY, block)
      refuses(block, call)
      assert.is_true(call:result() == bytes)
      assert.equal(block, block:frame("before", "rest", "after"))   -- it is done, whoever still has it

      local hanging = {metadata = {hang = "1"}}
      local one, other = channel:call(UNARY, block, hanging), channel:call(UNARY, block, hanging)
      refuses(block, one)
      one:cancel()
      refuses(block, other)
      other:cancel()
      block:free()

      local dropped = made()
      channel:call(UNARY, dropped, hanging)
      collectgarbage()
      dropped:free()

      local closed = made()
      local last = channel:call(UNARY, closed, hanging)
      refuses(closed, last)
      channel:close()
      closed:free()
      assert.equal("next", (echo.channel():unary(UNARY, "next")))
    end)

    it("carries 100 MB each way", function()
      local channel <close> = echo.channel()
      local big = ("0123456789abcdef"):rep(100 * 65536)
      assert.is_true(channel:unary(UNARY, big) == big)
    end)

    it("refuses a message that is larger than max_message", function()
      local channel <close> = echo.channel{max_message = 1000}
      assert.equal(1000, #channel:unary(UNARY, "", {metadata = {size = "1000"}}))
      local err = error_of(channel.unary, channel, UNARY, "", {metadata = {size = "1001"}})
      assert.equal("RESOURCE_EXHAUSTED", err.code)
      assert.equal(1000, #channel:unary(UNARY, "", {metadata = {size = "1000"}}))
    end)

    it("makes 1000 calls over one connection, 200 at a time, and leaves no file open", function()
      local before = servers.open_files()
      do
        local channel <close> = echo.channel()
        for i = 1, 500 do assert.equal(tostring(i), (channel:unary(UNARY, tostring(i)))) end
        local list = {}
        for i = 1, 500 do list[i] = i end
        local replies = task.map(list, function(i) return (channel:unary(UNARY, tostring(i))) end, {concurrency = 200})
        for i = 1, 500 do assert.equal(tostring(i), replies[i]) end
        assert.equal(1, channel:stats().connections)
        assert.equal(1000, channel:stats().calls)
        assert.equal(0, channel:stats().in_flight)
      end
      task.sleep(0)
      assert.equal(before, servers.open_files())
    end)

    it("has 200 calls at the server at the same time", function()
      local channel <close> = echo.channel()
      local list = {}
      for i = 1, 200 do list[i] = i end
      task.map(list, function() channel:unary(UNARY, "x", {metadata = {meet = "200"}}) end, {concurrency = 200})
      assert.is_true(echo.stats().most >= 200)
      assert.equal(1, channel:stats().connections)
    end)

    it("keeps to the number of streams that the server allows", function()
      local channel <close> = echo.channel(nil, "limited")
      local list = {}
      for i = 1, 50 do list[i] = tostring(i) end
      local replies = task.map(list, function(i) return (channel:unary(UNARY, i)) end, {concurrency = 50})
      for i = 1, 50 do assert.equal(list[i], replies[i]) end
      assert.equal(1, channel:stats().connections)
    end)
  end)

  describe("metadata", function()
    it("goes with every call", function()
      local got = seen({metadata = {["x-api-key"] = "k", several = {"1", "2"}, ["raw-bin"] = "\0\255\1"}},
        {metadata = {["of-call"] = "yes", ["empty-bin"] = "", empty = ""}})
      assert.equal("k", got["x-api-key"])
      assert.equal("1|2", got.several)
      assert.equal("00ff01", got["raw-bin"])
      assert.equal("yes", got["of-call"])
      assert.equal("", got["empty-bin"])
      assert.equal("", got.empty)
    end)

    it("comes back in headers and trailers", function()
      local channel <close> = echo.channel()
      local _, info = channel:unary(UNARY, "x", {metadata = {["echo-a"] = {"1", "2"}, ["echo-b-bin"] = "\0\1\2\254"}})
      assert.equal("1, 2", info.headers["echo-a"])
      assert.equal("\0\1\2\254", info.headers["echo-b-bin"])
      assert.equal("1, 2", info.trailers["trail-a"])
      assert.equal("\0\1\2\254", info.trailers["trail-b-bin"])
      assert.is_nil(info.headers["trail-a"])
    end)

    it("takes bytes of every length", function()
      local channel <close> = echo.channel()
      for length = 0, 40 do
        local bytes = ("\0\1\254"):rep(14):sub(1, length)
        local _, info = channel:unary(UNARY, "x", {metadata = {["echo-b-bin"] = bytes}})
        assert.equal(bytes, info.headers["echo-b-bin"])
      end
    end)

    it("is checked, and its values are in no error", function()
      local channel <close> = echo.channel{metadata = {["x-api-key"] = "s3cret"}}
      for name, value in pairs{["Upper"] = "s3cret", ["a b"] = "s3cret", [":path"] = "s3cret", ["te"] = "s3cret",
        ["grpc-timeout"] = "s3cret", ["a"] = "s3cret\n", ["b"] = "s3cret\u{e4}", ["c"] = 17, [""] = "s3cret",
        ["content-type"] = "s3cret"} do
        local err = error_of(channel.unary, channel, UNARY, "x", {metadata = {[name] = value}})
        assert.equal("argument", err.kind)
        assert.is_nil(tostring(err):find("s3cret", 1, true))
      end
      local err = error_of(channel.unary, channel, UNARY, "x", {metadata = {code = "3"}})
      for _, value in pairs(err) do assert.is_nil(tostring(value):find("s3cret", 1, true)) end
      assert.is_nil(tostring(channel):find("s3cret", 1, true))
    end)

    it("names who calls", function()
      assert.truthy(seen()["user-agent"]:find("^riverlua/%d"))
      assert.truthy(seen{user_agent = "mine/1.0"}["user-agent"]:find("^mine/1%.0 riverlua/%d"))
    end)

    it("can be large", function()
      assert.equal(7000, #seen(nil, {metadata = {large = ("x"):rep(7000)}}).large)
      local channel <close> = echo.channel()
      local many = {}
      for i = 1, 150 do many["m" .. i] = "v" end
      assert.equal("x", (channel:unary(UNARY, "x", {metadata = many})))
      local err = error_of(channel.unary, channel, UNARY, "x", {metadata = {large = ("x"):rep(1000000)}})
      assert.equal("grpc", err.kind)
      assert.equal("x", (channel:unary(UNARY, "x")))
    end)
  end)

  describe("a failure", function()
    it("has the status, the text and the trailers of the server", function()
      local channel <close> = echo.channel()
      for name, code in pairs(grpc.status) do
        if code ~= 0 then
          local err = error_of(channel.unary, channel, UNARY, "x",
            {metadata = {code = tostring(code), text = "so: " .. name}})
          assert.equal("grpc", err.kind)
          assert.equal(code, err.status)
          assert.equal(name, err.code)
          assert.equal("so: " .. name, err.details)
          assert.equal("E42", err.trailers["river-error-code"])
          assert.equal("\0\255\1", err.trailers["info-bin"])
          assert.equal(UNARY, err.method)
          assert.equal(("%s: %s: so: %s"):format(UNARY, name, name), err.message)
          assert.is_true(err.sent)
          assert.is_nil(err.local_deadline)
          assert.equal(1, err.attempts)
          assert.equal("number", type(err.elapsed))
        end
      end
    end)

    it("has texts in UTF-8, with percent signs and line breaks, on one line of the message", function()
      local channel <close> = echo.channel()
      local text = "h\u{e4}tte 100% \u{1f600}\nzweite Zeile\t%41"
      local err = error_of(channel.unary, channel, UNARY, "x", {metadata = {code = "9", ["text-bin"] = text}})
      assert.equal(text, err.details)
      assert.is_nil(err.message:find("\n"))
      assert.truthy(err.message:find("h\u{e4}tte 100% \u{1f600} zweite Zeile %41", 1, true))
    end)

    it("tells of a method that is not there", function()
      local channel <close> = echo.channel()
      assert.equal("UNIMPLEMENTED", error_of(channel.unary, channel, "/test.Echo/Nope", "x").code)
    end)
  end)

  describe("a stream", function()
    it("gives all messages, and then ends", function()
      local channel <close> = echo.channel()
      local n = 0
      for reply in channel:stream(STREAM, "", {metadata = {count = "1000"}}) do
        assert.equal(n .. ":", reply)
        n = n + 1
      end
      assert.equal(1000, n)
      for _ in channel:stream(STREAM, "", {metadata = {count = "0"}}) do error "there is none" end
    end)

    it("gives messages of any size", function()
      local channel <close> = echo.channel()
      local sizes = {}
      for reply in channel:stream(STREAM, "", {metadata = {count = "3", size = "9000000"}}) do
        sizes[#sizes + 1] = #reply
      end
      assert.same({9000002, 9000002, 9000002}, sizes)
    end)

    it("raises what ends it badly, after the messages before", function()
      local channel <close> = echo.channel()
      local n = 0
      local err = error_of(function()
        for _ in channel:stream(STREAM, "", {metadata = {count = "5", fail = "1"}}) do n = n + 1 end
      end)
      assert.equal(5, n)
      assert.equal("DATA_LOSS", err.code)
      assert.equal("lost after 5", err.details)
    end)

    it("is cancelled by break, and the server sees it", function()
      local channel <close> = echo.channel()
      local before = echo.stats().cancelled
      local got = {}
      for reply in channel:stream(STREAM, "", {metadata = {hang = "1"}}) do
        got[#got + 1] = reply
        if reply == "1:" then break end
      end
      assert.same({"0:", "1:"}, got)
      assert.is_true(echo.wait("cancelled", before + 1).cancelled > before)
      assert.equal(0, channel:stats().in_flight)
    end)

    it("is cancelled when its call is collected", function()
      local channel <close> = echo.channel()
      local before = echo.stats().cancelled
      channel:call(STREAM, "", {metadata = {hang = "1"}}):next()
      collectgarbage()
      collectgarbage()
      assert.is_true(echo.wait("cancelled", before + 1).cancelled > before)
    end)

    it("makes the server wait for a slow reader, who does not hold up others", function()
      local channel <close> = echo.channel()
      local before = echo.stats().sent
      local slow = channel:call(STREAM, "", {metadata = {count = "100", size = "1000000"}})
      slow:next()
      for _ = 1, 20 do assert.equal(3000000, #channel:unary(UNARY, "", {metadata = {size = "3000000"}})) end
      assert.is_true(echo.stats().sent - before < 50)
      local n = 1
      while slow:next() do n = n + 1 end
      assert.equal(100, n)
    end)

    it("can be used as a call", function()
      local channel <close> = echo.channel()
      local call = channel:call(STREAM, "", {metadata = {count = "2", ["echo-a"] = "1"}})
      assert.is_false(call.done)
      assert.equal("application/grpc", call:headers()["content-type"])
      assert.equal("0:", call:next())
      assert.equal("1:", call:next())
      assert.is_nil(call:next())
      assert.is_nil(call:next())
      assert.is_true(call.done)
      assert.equal("0", call:trailers()["grpc-status"])
    end)
  end)

  describe("a call that is not waited for", function()
    it("has a result", function()
      local channel <close> = echo.channel()
      local calls = {}
      for i = 1, 10 do calls[i] = channel:call(UNARY, tostring(i)) end
      for i = 10, 1, -1 do
        local reply, info = calls[i]:result()
        assert.equal(tostring(i), reply)
        assert.equal("0", info.trailers["grpc-status"])
        assert.equal(tostring(i), (calls[i]:result()))
        assert.is_true(calls[i].done)
      end
      assert.equal("NOT_FOUND", error_of(function()
        channel:call(UNARY, "", {metadata = {code = "5"}}):result()
      end).code)
      assert.equal("INTERNAL", error_of(function() channel:call(STREAM, ""):result() end).code)
      assert.equal("INTERNAL", error_of(function()
        channel:call(STREAM, "", {metadata = {count = "0"}}):result()
      end).code)
    end)

    it("can be cancelled", function()
      local channel <close> = echo.channel()
      local before = echo.stats()
      local call = channel:call(UNARY, "", {metadata = {hang = "1"}})
      echo.wait("calls", before.calls + 1)
      call:cancel()
      assert.is_true(call.done)
      assert.equal("closed", error_of(call.result, call).kind)
      call:cancel()
      local two = channel:call(UNARY, "", {metadata = {hang = "1"}})
      local waiting = task.spawn(two.result, two)
      echo.wait("calls", before.calls + 2)
      waiting:cancel()
      pcall(waiting.await, waiting)
      assert.equal(before.cancelled + 2, echo.wait("cancelled", before.cancelled + 2).cancelled)
      assert.equal("x", (channel:unary(UNARY, "x")))
    end)
  end)

  describe("a deadline", function()
    it("goes with the call, 60 s unless another is given", function()
      local left = seen().remaining
      assert.is_true(left > 30 and left <= 60)
      left = seen({timeout = 1000}).remaining
      assert.is_true(left > 900 and left <= 1000)
      left = seen({timeout = 1000}, {timeout = 20.5}).remaining
      assert.is_true(left > 1 and left <= 20.6)
      left = seen(nil, {timeout = 86400}).remaining
      assert.is_true(left > 86000 and left <= 86500)
    end)

    it("ends the call here and at the server", function()
      local channel <close> = echo.channel()
      local before = echo.stats().cancelled
      local err = error_of(channel.unary, channel, UNARY, "x", {timeout = 0.1, metadata = {hang = "1"}})
      assert.equal("DEADLINE_EXCEEDED", err.code)
      assert.is_true(err.local_deadline)
      assert.is_true(err.sent)
      echo.wait("cancelled", before + 1)
      assert.equal("x", (channel:unary(UNARY, "x")))
      assert.equal(1, channel:stats().connections)
    end)

    it("counts while there is no connection", function()
      local channel <close> = grpc.Channel{target = "http://127.0.0.1:1", proxy = false}
      local err = error_of(channel.unary, channel, UNARY, "x", {timeout = 0.1, wait_for_ready = true})
      assert.equal("DEADLINE_EXCEEDED", err.code)
      assert.is_false(err.sent)
      assert.truthy(err.message:find("no connection", 1, true))
    end)
  end)

  describe("retries", function()
    local function attempts(options)
      local channel <close> = echo.channel()
      return channel:unary(UNARY, "x", options)
    end
    local quick = {attempts = 4, initial = 0.001, factor = 2, cap = 0.01, jitter = 0.2}

    it("are not made unless they are asked for", function()
      assert.equal("UNAVAILABLE", error_of(attempts, {metadata = {["fail-first"] = "1", ["fail-key"] = "a"}}).code)
    end)

    it("ask again after UNAVAILABLE, and count", function()
      local reply, info = attempts{retries = quick, metadata = {["fail-first"] = "3", ["fail-key"] = "b"}}
      assert.equal("x", reply)
      assert.equal(4, info.attempts)
      local err = error_of(attempts, {retries = quick, metadata = {["fail-first"] = "9", ["fail-key"] = "c"}})
      assert.equal("UNAVAILABLE", err.code)
      assert.equal(4, err.attempts)
      assert.equal("3", err.trailers.previous)
    end)

    it("count those that the caller made before", function()
      local failing = {["fail-first"] = "9", ["fail-key"] = "g"}
      local err = error_of(attempts, {metadata = failing, previous_attempts = 4})
      assert.equal(1, err.attempts)
      assert.equal("4", err.trailers.previous)
      assert.equal("5", error_of(attempts, {metadata = failing, previous_attempts = 4,
        retries = {attempts = 2, initial = 0.001}}).trailers.previous)
      assert.equal("none", error_of(attempts, {metadata = failing, previous_attempts = 0}).trailers.previous)
      assert.equal("argument", error_of(attempts, {previous_attempts = -1}).kind)
    end)

    it("leave other failures alone, and obey the server", function()
      assert.equal(1, error_of(attempts, {retries = quick, metadata = {code = "10"}}).attempts)
      local err = error_of(attempts, {retries = quick,
        metadata = {["fail-first"] = "1", ["fail-key"] = "d", pushback = "-1"}})
      assert.equal(1, err.attempts)
      local slow = {attempts = 2, initial = 100, cap = 100}
      local _, info = attempts{retries = slow, metadata = {["fail-first"] = "1", ["fail-key"] = "e", pushback = "1"}}
      assert.equal(2, info.attempts)
    end)

    it("end with the deadline", function()
      local err = error_of(attempts, {retries = {attempts = 9, initial = 50, cap = 50}, timeout = 5,
        metadata = {["fail-first"] = "9", ["fail-key"] = "f"}})
      assert.equal("UNAVAILABLE", err.code)
      assert.equal(1, err.attempts)
    end)

    it("are made when there is no connection", function()
      local channel <close> = grpc.Channel{target = "http://127.0.0.1:1", proxy = false, retries = quick}
      local err = error_of(channel.unary, channel, UNARY, "x")
      assert.equal("UNAVAILABLE", err.code)
      assert.equal(4, err.attempts)
      assert.is_false(err.sent)
    end)
  end)

  describe("a connection", function()
    it("goes over TLS", function()
      local channel <close> = echo.channel({ca_file = echo.info.ca_file}, "tls")
      assert.equal("x", (channel:unary(UNARY, "x")))
      local big = ("x"):rep(3 << 20)
      for _ = 1, 3 do assert.is_true(channel:unary(UNARY, big) == big) end
      local replies = task.map({"1", "2", "3", "4"}, function(i) return (channel:unary(UNARY, i)) end)
      assert.equal("1234", table.concat(replies))
      assert.equal(1, channel:stats().connections)
      local bare <close> = grpc.Channel{target = "localhost:" .. echo.info.tls, ca_file = echo.info.ca_file,
        proxy = false}
      assert.equal("x", (bare:unary(UNARY, "x")))
    end)

    it("is refused to a server that it does not know", function()
      for _, case in ipairs{{"tls", nil}, {"tls", echo.info.wrong_ca_file}, {"wrong", echo.info.wrong_ca_file}} do
        local channel <close> = echo.channel({ca_file = case[2]}, case[1])
        local err = error_of(channel.unary, channel, UNARY, "x")
        assert.equal("UNAVAILABLE", err.code)
        assert.is_false(err.sent)
        assert.is_false(err.retryable)
        assert.truthy(err.hint:find("ca_file", 1, true))
      end
      local channel <close> = echo.channel({verify = false}, "wrong")
      assert.equal("x", (channel:unary(UNARY, "x")))
    end)

    it("goes over a Unix socket", function()
      local channel <close> = grpc.Channel{unix_socket = echo.info.unix, proxy = false}
      assert.equal("x", (channel:unary(UNARY, "x")))
    end)

    it("goes through a proxy", function()
      local stub <close> = servers.stub()
      for _, place in ipairs{"plain", "tls"} do
        local channel <close> = echo.channel({proxy = stub:url("", "proxy"), ca_file = echo.info.ca_file}, place)
        assert.equal("x", (channel:unary(UNARY, "x")))
        local known <close> = echo.channel({proxy = ("http://user:secret@127.0.0.1:%d"):format(stub.info.proxy_auth),
          ca_file = echo.info.ca_file}, place)
        assert.equal("x", (known:unary(UNARY, "x")))
        local refused <close> = echo.channel({proxy = ("http://user:wr0ng@127.0.0.1:%d"):format(stub.info.proxy_auth),
          ca_file = echo.info.ca_file}, place)
        local err = error_of(refused.unary, refused, UNARY, "x")
        assert.equal("UNAVAILABLE", err.code)
        assert.is_false(err.sent)
        assert.is_nil(tostring(err):find("wr0ng", 1, true))
      end
    end)

    it("is waited for when a call wants that", function()
      local path = os.tmpname()
      os.remove(path)
      local channel <close> = grpc.Channel{unix_socket = path, proxy = false}
      assert.equal("UNAVAILABLE", error_of(channel.unary, channel, UNARY, "x").code)
      local call = channel:call(UNARY, "x", {wait_for_ready = true})
      task.sleep(0)
      assert.is_false(call.done)
      assert(os.execute(("ln -s %s %s"):format(echo.info.unix, path)))
      assert.equal("x", (call:result()))
      os.remove(path)
    end)

    it("fails when TLS meets none, and the other way round", function()
      local channel <close> = grpc.Channel{target = "127.0.0.1:" .. echo.info.plain, proxy = false}
      assert.equal("UNAVAILABLE", error_of(channel.unary, channel, UNARY, "x").code)
      local plain <close> = grpc.Channel{target = "http://127.0.0.1:" .. echo.info.tls, proxy = false}
      assert.equal("UNAVAILABLE", error_of(plain.unary, plain, UNARY, "x").code)
    end)

    it("says why it did not come about", function()
      local channel <close> = grpc.Channel{target = "http://127.0.0.1:1", proxy = false}
      local err = error_of(channel.unary, channel, UNARY, "x")
      assert.equal("UNAVAILABLE", err.code)
      assert.is_false(err.sent)
      assert.is_true(err.retryable)
      assert.truthy(err.message:find("127.0.0.1:1", 1, true))
      assert.truthy(err.hint:find("running", 1, true))
      local unknown <close> = grpc.Channel{target = "http://nowhere.invalid:1", proxy = false}
      assert.equal("UNAVAILABLE", error_of(unknown.unary, unknown, UNARY, "x", {timeout = 20}).code)
    end)
  end)

  it("checks its arguments", function()
    local channel <close> = echo.channel()
    local function refused(part, fn, ...)
      local err = error_of(fn, ...)
      assert.equal("argument", err.kind)
      assert.truthy(tostring(err):find(part, 1, true), tostring(err))
    end
    refused("target", grpc.Channel, {})
    refused("options", grpc.Channel, "x")
    for _, target in ipairs{"ftp://x", "http://x/path", "a b", "http://u:p@x", "x:99999", ""} do
      refused("", grpc.Channel, {target = target})
    end
    refused("did you mean 'metadata'", grpc.Channel, {target = "x", metadat = {}})
    refused("tls", grpc.Channel, {target = "http://x", tls = true})
    refused("timeout", grpc.Channel, {target = "x", timeout = 0})
    refused("keepalive", grpc.Channel, {target = "x", keepalive = {interval = -1}})
    refused("attempts", grpc.Channel, {target = "x", retries = {attempts = 1000}})
    refused("jitter", grpc.Channel, {target = "x", retries = {jitter = 2}})
    refused("max_message", grpc.Channel, {target = "x", max_message = 0})
    refused("proxy", grpc.Channel, {target = "x", proxy = true})
    refused("not a method", channel.unary, channel, "Unary", "x")
    refused("not a method", channel.unary, channel, "/a/b c", "x")
    refused("string", channel.unary, channel, UNARY, {})
    refused("colon", channel.unary, UNARY, "x")
    refused("timeout", channel.unary, channel, UNARY, "x", {timeout = -1})
    refused("did you mean 'timeout'", channel.unary, channel, UNARY, "x", {timeot = 1})
    assert.equal(0, channel:stats().calls)
  end)

  it("makes stubs of services", function()
    local channel <close> = echo.channel()
    local text = {
      encode = function(_, value) return value.text end,
      decode = function(_, bytes) return {text = bytes} end,
    }
    local stub = channel:stub{name = "test.Echo", methods = {
      Unary = {path = UNARY, request = text, response = text},
      Stream = {path = STREAM, request = text, response = text},
    }}
    assert.same({text = "x"}, (stub:Unary{text = "x"}))
    assert.same({text = "y"}, (stub:Unary({text = "y"}, {timeout = 5})))
    local got = {}
    for reply in stub:stream("Stream", {text = ""}) do got[#got + 1] = reply.text end
    assert.same({"0:", "1:", "2:"}, got)
    assert.same({text = "z"}, (stub:call("Unary", {text = "z"}):result()))
    local err = error_of(function() stub:Unray{} end)
    assert.equal("argument", err.kind)
    assert.truthy(tostring(err):find("Unary", 1, true))
  end)
end)
