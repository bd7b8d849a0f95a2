-- riverlua.grpc and riverlua.protobuf with servers of other makers: grpc-go's own interop server and one on grpcio; and
-- with riverlua.grpc_server, which grpcio's client judges, too.
-- The cases are those of the public gRPC interop test that send one request; messages come from interop.proto,
-- compiled here as anybody would compile theirs.

local grpc = require "riverlua.grpc"
local json = require "riverlua.json"
local lfs = require "lfs"
local protobuf = require "riverlua.protobuf"
local task = require "riverlua.task"

local here = debug.getinfo(1, "S").source:match("^@(.*/)")
local servers = dofile(here .. "../support/servers.lua")

local error_of, quote = servers.error_of, servers.quote

local SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP \u{263A} and non-BMP \u{1F608}\t\n"
local INITIAL, TRAILING = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"
local HOLD = {["x-test-hold"] = "1"}
local SECOND = 1000000   -- in the microseconds of interval_us

local folder, schema, service

local makers = {
  ["grpc-go"] = function()
    if not lfs.attributes("build/grpc_interop/ready") then return nil end
    return servers.start{"build/grpc_interop/server"}
  end,
  grpcio = function() return servers.start{servers.python(), servers.folder .. "grpc_interop_server.py"} end,
  riverlua = function()
    return servers.start{servers.riverlua, here .. "interop_server.lua", folder .. "/libinterop.so"}
  end,
}

-- The schema of interop.proto: protoc-c, the compiler, and what came of it.
local function compile()
  local command = ([[cd %s && protoc-c --proto_path=%s --c_out=. interop.proto &&
    ${CC:-cc} -shared -fPIC $(pkg-config --cflags libprotobuf-c) -o libinterop.so interop.pb-c.c \
    $(pkg-config --libs libprotobuf-c)]]):format(quote(folder), quote(lfs.currentdir() .. "/tests/grpc"))
  assert(os.execute(command))
  return protobuf.load(folder .. "/libinterop.so")
end

local function zeros(count) return ("\0"):rep(count) end

local function large_request(more)
  local request = {response_size = 314159, payload = {body = zeros(271828)}}
  for name, value in pairs(more or {}) do request[name] = value end
  return request
end

-- Responses of these sizes; all but the first come `interval` microseconds after the one before.
local function stream_request(sizes, interval)
  local parameters = {}
  for number, size in ipairs(sizes) do
    parameters[number] = {size = size, interval_us = number > 1 and interval or nil}
  end
  return {response_parameters = parameters}
end

setup(function()
  folder = os.tmpname()
  os.remove(folder)
  assert(lfs.mkdir(folder))
  schema = compile()
  service = schema:service("grpc.testing.TestService")
end)

teardown(function() os.execute("rm -rf " .. quote(folder)) end)

-- The public cases, on a channel of any kind.
local function cases(get)
  local server, channel, stub

  before_each(function()
    server, channel = get()
    stub = channel:stub(service)
  end)

  it("empty_unary", function()
    assert.same({}, (stub:EmptyCall{}))
    assert.equal("", (channel:unary("/grpc.testing.TestService/EmptyCall", "")))
  end)

  it("large_unary", function()
    local reply, info = stub:UnaryCall(large_request())
    assert.is_true(reply.payload.body == zeros(314159))
    assert.equal("COMPRESSABLE", reply.payload.type)
    assert.equal(0, info.status)
  end)

  it("concurrent_large_unary", function()
    local numbers = {}
    for number = 1, 40 do numbers[number] = number end
    local sizes = task.map(numbers, function(number)
      return #stub:UnaryCall(large_request{response_size = 314159 + number}).payload.body
    end, {concurrency = #numbers})
    for number, size in ipairs(sizes) do assert.equal(314159 + number, size) end
    assert.equal(40, server:stats().calls)
    assert.equal(1, server:stats().connections)
  end)

  it("server_streaming", function()
    local sizes = {}
    for reply in stub:stream("StreamingOutputCall", stream_request{31415, 9, 2653, 58979}) do
      sizes[#sizes + 1] = #reply.payload.body
    end
    assert.same({31415, 9, 2653, 58979}, sizes)
    for _ in stub:stream("StreamingOutputCall", {}) do error("a response to none") end
  end)

  it("custom_metadata", function()
    local metadata = {[INITIAL] = "test_initial_metadata_value", [TRAILING] = "\xab\xab\xab"}
    local reply, info = stub:UnaryCall(large_request(), {metadata = metadata})
    assert.equal(314159, #reply.payload.body)
    assert.equal("test_initial_metadata_value", info.headers[INITIAL])
    assert.equal("\xab\xab\xab", info.trailers[TRAILING])

    local call = stub:call("FullDuplexCall", stream_request{314159}, {metadata = metadata})
    assert.equal(314159, #call:next().payload.body)
    assert.is_nil(call:next())
    assert.equal("test_initial_metadata_value", call:headers()[INITIAL])
    assert.equal("\xab\xab\xab", call:trailers()[TRAILING])
  end)

  it("metadata of tens of kilobytes, in several frames", function()
    local bytes = {}
    for byte = 0, 255 do bytes[#bytes + 1] = string.char(byte) end
    local value = table.concat(bytes):rep(160)
    local _, info = stub:UnaryCall({}, {metadata = {[TRAILING] = value}})
    assert.is_true(info.trailers[TRAILING] == value)
  end)

  local function status_comes_back(text)
    local wanted = {response_status = {code = 2, message = text}}
    local unary = error_of(stub.UnaryCall, stub, wanted)
    local duplex = error_of(function()
      for _ in stub:stream("FullDuplexCall", wanted) do error("a response besides the status") end
    end)
    for _, err in ipairs{unary, duplex} do
      assert.equal("grpc", err.kind)
      assert.equal(2, err.status)
      assert.equal("UNKNOWN", err.code)
      assert.equal(text, err.details)
      assert.is_nil(err.message:find("\n"))
      assert.is_false(err.retryable)
    end
  end

  it("status_code_and_message", function() status_comes_back("test status message") end)
  it("special_status_message", function() status_comes_back(SPECIAL) end)

  it("every status there is", function()
    for code = 1, 16 do
      local err = error_of(stub.UnaryCall, stub, {response_status = {code = code, message = "code " .. code}})
      assert.equal(code, err.status)
      assert.equal("code " .. code, err.details)
    end
  end)

  it("unimplemented_method", function()
    local err = error_of(stub.UnimplementedCall, stub, {})
    assert.equal(12, err.status)
    assert.equal("UNIMPLEMENTED", err.code)
  end)

  it("unimplemented_service", function()
    local other = channel:stub(schema:service("grpc.testing.UnimplementedService"))
    local err = error_of(other.UnimplementedCall, other, {})
    assert.equal(12, err.status)
    assert.equal("/grpc.testing.UnimplementedService/UnimplementedCall", err.method)
  end)

  it("timeout_on_sleeping_server", function()
    local err = error_of(function()
      for _ in stub:stream("FullDuplexCall", stream_request({1, 1}, 2 * SECOND), {timeout = 0.05}) do
        assert.equal(1, server:stats().calls)
      end
    end)
    assert.equal("DEADLINE_EXCEEDED", err.code)
    assert.is_nil(server:control("/wait", {given_up = 1}).timeout)
  end)

  it("tells the server the deadline", function()
    stub:EmptyCall({}, {timeout = 30})
    local seconds = server:log()[1].seconds
    assert.is_true(seconds > 0 and seconds <= 30, tostring(seconds))
  end)

  it("cancel_after_begin", function()
    local call = stub:call("UnaryCall", {}, {metadata = HOLD})
    assert.is_nil(server:control("/wait", {running = 1}).timeout)
    call:cancel()
    assert.equal("closed", error_of(call.result, call).kind)
    assert.is_nil(server:control("/wait", {cancelled = 1, running = 0}).timeout)
    assert.same({}, (stub:EmptyCall{}))
  end)

  it("cancelling a call that has not been written", function()
    local call = stub:call("UnaryCall", {}, {metadata = HOLD})
    call:cancel()
    assert.equal("closed", error_of(call.result, call).kind)
    assert.same({}, (stub:EmptyCall{}))
    assert.is_nil(server:control("/wait", {running = 0}).timeout)
  end)

  it("cancel_after_first_response", function()
    local call = stub:call("FullDuplexCall", stream_request({31415, 1}, 2 * SECOND))
    assert.equal(31415, #call:next().payload.body)
    call:cancel()
    assert.equal("closed", error_of(call.next, call).kind)
    assert.is_nil(server:control("/wait", {cancelled = 1}).timeout)
  end)

  it("leaving the loop of a stream cancels it", function()
    local size
    for reply in stub:stream("FullDuplexCall", stream_request({31415, 1}, 2 * SECOND)) do
      size = #reply.payload.body
      if size > 1 then break end
    end
    assert.equal(31415, size)
    assert.is_nil(server:control("/wait", {cancelled = 1}).timeout)
  end)

  it("ending a task cancels its call", function()
    local child = task.spawn(function() stub:UnaryCall({}, {metadata = HOLD}) end)
    assert.is_nil(server:control("/wait", {running = 1}).timeout)
    child:cancel()
    assert.is_nil(server:control("/wait", {cancelled = 1, running = 0}).timeout)
  end)

  it("a request larger than the server takes is the server's refusal, not a broken connection", function()
    local err = error_of(stub.UnaryCall, stub, {payload = {body = zeros(5 << 20)}})
    assert.equal("RESOURCE_EXHAUSTED", err.code)
    assert.same({}, (stub:EmptyCall{}))
  end)
end

for _, name in ipairs{"grpc-go", "grpcio", "riverlua"} do
  describe("the interop test with " .. name, function()
    local server
    local own = name == "riverlua"   -- it has no TLS, retires no connection by its age, and minds no pings

    setup(function() server = makers[name]() end)
    teardown(function() if server then server:close() end end)
    before_each(function()
      if server then server:reset() end
    end)

    if name == "grpc-go" and not lfs.attributes("build/grpc_interop/ready") then
      pending("there is no Go server; `make build/grpc_interop/ready` says why")
      return
    end

    local function target(listener) return ("localhost:%d"):format(server.info[listener]) end

    it("is judged by a server that grpcio's client is content with", function()
      local command = ("%s %s %s 2>&1"):format(quote(servers.python()), quote(here .. "interop_client.py"),
        quote(json.encode(server.info)))
      local pipe = assert(io.popen(command))
      local text = pipe:read("a")
      assert.is_true(pipe:close(), text)
      assert.matches("ok special_status_message " .. (own and "plain" or "TLS"), text, 1, true)
    end)

    if own then
      it("is what grpc-go's client is content with", function()
        if not lfs.attributes("build/grpc_interop/ready") then return pending("there is no grpc-go") end
        local pipe = assert(io.popen(("build/grpc_interop/server client 127.0.0.1:%d 2>&1"):format(server.info.http)))
        local text = pipe:read("a")
        assert.is_true(pipe:close(), text)
        assert.matches("ok cancel_after_begin", text, 1, true)
      end)
    end

    for _, kind in ipairs(own and {"plain"} or {"plain", "TLS"}) do
      describe("over " .. kind, function()
        local channel

        before_each(function()
          channel = kind == "TLS" and grpc.Channel{target = target("tls"), ca_file = server.info.ca_file}
            or grpc.Channel{target = target("http"), tls = false}
        end)
        after_each(function() channel:close() end)

        cases(function() return server, channel end)
      end)
    end

    it("keeps to the number of calls that the server allows at a time", function()
      local channel <close> = grpc.Channel{target = target("narrow"), tls = false}
      local stub = channel:stub(service)
      local calls = {}
      for number = 1, 12 do
        calls[number] = function()
          local count = 0
          for _ in stub:stream("StreamingOutputCall", stream_request({1, 1}, 1000)) do count = count + 1 end
          return count
        end
      end
      for _, count in ipairs{task.gather(table.unpack(calls))} do assert.equal(2, count) end
      assert.equal(12, server:stats().calls)
    end)

    if own then return end

    it("does not trust a certificate that nobody vouches for", function()
      local channel <close> = grpc.Channel{target = target("tls")}
      local err = error_of(channel.unary, channel, "/grpc.testing.TestService/EmptyCall", "")
      assert.equal("UNAVAILABLE", err.code)
      assert.is_false(err.sent)
      assert.equal(0, server:stats().calls)
    end)

    it("loses no call to connections that the server retires", function()
      local channel <close> = grpc.Channel{target = target("aging"), tls = false}
      local stub = channel:stub(service)
      local rounds = 0
      repeat
        local calls = {}
        for number = 1, 8 do
          calls[number] = function() return #stub:UnaryCall{response_size = number * 1000}.payload.body end
        end
        for number, size in ipairs{task.gather(table.unpack(calls))} do assert.equal(number * 1000, size) end
        rounds = rounds + 1
      until rounds % 10 == 0 and server:stats().connections >= 4
      assert.equal(8 * rounds, server:stats().calls)
    end)

    it("says why when a server finds its pings too many", function()
      local channel <close> = grpc.Channel{target = target("http"), tls = false,
        keepalive = {interval = 0.02, timeout = 20}}
      local stub = channel:stub(service)
      local err = error_of(stub.UnaryCall, stub, {}, {metadata = HOLD})
      assert.equal("UNAVAILABLE", err.code)
      assert.matches("[Tt]oo.many.pings", err.message)
      assert.same({}, (stub:EmptyCall{}))
    end)
  end)
end
