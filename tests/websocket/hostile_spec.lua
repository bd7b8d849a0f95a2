-- riverlua.websocket against a server that does what no server should.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local task = require "riverlua.task"
local websocket = require "riverlua.websocket"

local error_of, frame, hex, servers = support.error_of, support.frame, support.hex, support.servers

describe("riverlua.websocket against a hostile server", function()
  local raw

  setup(function() raw = support.raw() end)
  teardown(function() raw.close() end)
  before_each(function()
    raw.wait_open(0)
    raw.reset()
  end)

  -- Opens a WebSocket whose server says `bytes` at once.
  local function connect(bytes, query, options)
    query = query or {}
    query.send = hex(bytes)
    return raw.connect(query, options)
  end

  -- The one frame of that opcode that the client sent.
  local function frames_of(opcode)
    local list = {}
    for _, one in ipairs(raw.log(1)[1].frames) do
      if one.opcode == opcode then list[#list + 1] = one end
    end
    return list
  end

  local hello = frame(1, "hello")

  -- name → what comes behind a good message, the code that is due, options
  local broken = {
    ["RSV1"] = {frame(1, "x", {rsv = 4}), 1002},
    ["RSV2"] = {frame(2, "x", {rsv = 2}), 1002},
    ["RSV3"] = {frame(9, "x", {rsv = 1}), 1002},
    ["an unknown opcode"] = {frame(3, "x"), 1002},
    ["an unknown control opcode"] = {frame(11, "x"), 1002},
    ["a masked frame"] = {frame(1, "x", {mask = "\1\2\3\4"}), 1002},
    ["a continuation of nothing"] = {frame(0, "x"), 1002},
    ["a message inside a message"] = {frame(1, "x", {fin = false}) .. frame(1, "y"), 1002},
    ["a fragmented ping"] = {frame(9, "x", {fin = false}), 1002},
    ["a fragmented close frame"] = {frame(8, "\3\xe8", {fin = false}), 1002},
    ["a ping of 126 bytes"] = {frame(9, ("x"):rep(126)), 1002},
    ["a close frame of 200 bytes"] = {frame(8, "\3\xe8" .. ("x"):rep(198)), 1002},
    ["a close frame of one byte"] = {frame(8, "\3"), 1002},
    ["a close reason that is not UTF-8"] = {frame(8, "\3\xe8\xc3\x28"), 1007},
    ["a text that is not UTF-8"] = {frame(1, "\xff"), 1007},
    ["a text that is not UTF-8 over fragments"] = {frame(1, "ok\xe2\x82", {fin = false}) .. frame(0, "\x28"), 1007},
    ["half a character at the end"] = {frame(1, "ok\xe2\x82"), 1007},
    ["a surrogate"] = {frame(1, "\xed\xa0\x80", {fin = false}), 1007},
    ["a message that is too long"] = {frame(2, ("x"):rep(101)), 1009},
    ["fragments that are too long together"] = {frame(2, ("x"):rep(60), {fin = false}) .. frame(0, ("x"):rep(41)),
      1009},
    ["2^63-1 bytes announced"] = {frame(2, "", {length = math.maxinteger}), 1009},
    ["a negative length"] = {"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff", 1002},
    ["a length that could be shorter"] = {"\x82\x7e\x00\x05hello", 1002},
    ["a long length that could be shorter"] = {"\x82\x7f\0\0\0\0\0\0\0\5hello", 1002},
  }
  for _, code in ipairs{0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535} do
    broken["a close frame with code " .. code] = {frame(8, string.pack(">I2", code)), 1002}
  end

  local names = {}
  for name in pairs(broken) do names[#names + 1] = name end
  table.sort(names)

  for _, name in ipairs(names) do
    it("fails for " .. name, function()
      local bytes, code = table.unpack(broken[name])
      local ws <close> = connect(hello .. bytes, nil, {max_message = 100})
      assert.same({"hello", "text"}, {ws:receive(5)})
      local err = error_of(ws.receive, ws, 5)
      assert.same({"websocket", code}, {err.kind, err.code}, tostring(err))
      assert.same({"websocket", code}, {error_of(ws.send, ws, "x").kind, error_of(ws.receive, ws).code})
      local closes = frames_of(8)
      assert.same({1, code, true}, {#closes, closes[1].code, closes[1].masked})
    end)
  end

  for _, code in ipairs{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000,
    4999} do
    it("takes close code " .. code .. " and says it back", function()
      local ws <close> = connect(frame(8, string.pack(">I2", code) .. "why"))
      assert.is_nil(ws:receive(5))
      assert.same({code, "why"}, {ws.close_code, ws.close_reason})
      local closes = frames_of(8)
      assert.same({1, code}, {#closes, closes[1].code})
    end)
  end

  it("takes a close frame without a code", function()
    local ws <close> = connect(frame(8))
    assert.is_nil(ws:receive(5))
    assert.same({1005, ""}, {ws.close_code, ws.close_reason})
    assert.same({1, 0}, {#frames_of(8), frames_of(8)[1].length})
  end)

  it("answers pings between fragments, with what they say", function()
    local stream = frame(1, "he", {fin = false}) .. frame(9, "one") .. frame(0, "l", {fin = false}) .. frame(9) ..
      frame(10, "unasked") .. frame(0, "lo") .. frame(9, ("x"):rep(125))
    local ws = connect(stream)
    assert.equal("hello", ws:receive(5))
    ws:ping(nil)
    ws:close(1000, "", 0)
    local pongs = frames_of(10)
    assert.same({3, "one", "", ("x"):rep(125)}, {#pongs, pongs[1].text, pongs[2].text, pongs[3].text})
  end)

  it("gives the same wherever the stream is cut", function()
    local stream = hello .. frame(2, ("b"):rep(130)) .. frame(1, "κό", {fin = false}) .. frame(9, "ping") ..
      frame(0, "σμε") .. frame(8, "\3\xe8bye")
    local whole = 129 + 28 + #stream   -- at least as long as the answer and the stream
    local cuts = {}
    for cut = 1, whole do cuts[cut] = cut end
    local function check(query)
      local ws <close> = connect(stream, query)
      assert.same({"hello", "text"}, {ws:receive(5)})
      assert.same({("b"):rep(130), "binary"}, {ws:receive(5)})
      assert.same({"κόσμε", "text"}, {ws:receive(5)})
      assert.is_nil(ws:receive(5))
      assert.same({1000, "bye"}, {ws.close_code, ws.close_reason})
    end
    check{drip = 1}
    task.map(cuts, function(cut) check{cut = cut} end, {concurrency = 16})
  end)

  it("does not take half a stream for a whole one, wherever it ends", function()
    local stream = hello .. frame(1, "wor", {fin = false}) .. frame(0, "ld")
    local lengths = {}
    for length = 0, #stream do lengths[#lengths + 1] = length end
    task.map(lengths, function(length)
      local ws <close> = connect(stream:sub(1, length), {["then"] = "close"})
      if length >= #hello then assert.equal("hello", ws:receive(5)) end
      if length == #stream then assert.equal("world", ws:receive(5)) end
      local err = error_of(ws.receive, ws, 5)
      assert.same({"websocket", 1006}, {err.kind, err.code})
    end, {concurrency = 16})
  end)

  it("gives what came before a reset", function()
    local ws <close> = connect(hello, {["then"] = "reset"})
    local ok, text = pcall(ws.receive, ws, 5)
    if ok then   -- a reset may overtake what was sent
      assert.equal("hello", text)
      text = error_of(ws.receive, ws, 5)
    end
    assert.same({"websocket", 1006}, {text.kind, text.code})
  end)

  it("bounds what it keeps of messages that nobody receives", function()
    local ws <close> = raw.connect{["then"] = "flood", ["repeat"] = hex(frame(2, ("x"):rep(1000)))}
    local status = servers.read_file("/proc/self/status")
    local before = tonumber(status:match("VmRSS:%s+(%d+)"))
    for _ = 1, 200 do task.sleep(0.001) end
    local after = tonumber(servers.read_file("/proc/self/status"):match("VmRSS:%s+(%d+)"))
    assert.is_true(after - before < 16 * 1024, ("%d KB"):format(after - before))
    for _ = 1, 20000 do assert.equal(1000, #ws:receive(5)) end
    ws:close(1000, "", 0)
  end)

  it("bounds what it keeps for a server that pings and does not read", function()
    local ws <close> = raw.connect{["then"] = "flood", ["repeat"] = hex(frame(9, ("x"):rep(125)) .. frame(1, "x"))}
    local before = tonumber(servers.read_file("/proc/self/status"):match("VmRSS:%s+(%d+)"))
    for _ = 1, 50000 do ws:receive(5) end
    local after = tonumber(servers.read_file("/proc/self/status"):match("VmRSS:%s+(%d+)"))
    assert.is_true(after - before < 16 * 1024, ("%d KB"):format(after - before))
    ws:close(1000, "", 0)
  end)

  it("lets others go on while one server floods", function()
    local flood <close> = raw.connect{["then"] = "flood", ["repeat"] = hex(frame(2, ("x"):rep(60000)))}
    local reader <close> = task.spawn(function() for _ in flood:messages() do end end)   -- luacheck: ignore 211
    local other <close> = raw.connect{send = hex(hello)}
    assert.equal("hello", other:receive(5))
    assert.equal("timeout", error_of(other.receive, other, 0.02).kind)
    flood:close(1000, "", 0)
  end)

  it("waits for a server that does not read, and lets others go on", function()
    local ws = raw.connect{["then"] = "hold"}
    local sent = 0
    local writer = task.spawn(function()
      for i = 1, 64 do
        ws:send(("x"):rep(1 << 20))
        sent = i
      end
    end)
    local other <close> = raw.connect{send = hex(hello)}
    assert.equal("hello", other:receive(5))
    assert.is_true(sent < 64)
    raw.release()
    writer:await(30)
    assert.equal(64, sent)
    ws:close()
  end)

  it("gives up a send that waits when it is cancelled", function()
    local ws = raw.connect{["then"] = "hold"}
    local writer = task.spawn(function() while true do ws:send(("x"):rep(1 << 20)) end end)
    for _ = 1, 20 do task.sleep(0) end
    writer:cancel()
    assert.equal("cancelled", error_of(writer.await, writer).kind)
    ws:close(1000, "", 0)
    raw.release()
  end)

  it("gives up a server that answers its close frame and does not go", function()
    local ws = connect(hello .. frame(8, "\3\xe8"), {["then"] = "linger"})
    assert.equal("hello", ws:receive(5))
    assert.is_nil(ws:receive(5))
    ws:close(1000, "", 0.02)
    assert.equal(1000, ws.close_code)
    raw.wait_open(0)
  end)

  it("does not wait for ever for the answer to its close frame", function()
    local ws = raw.connect{["then"] = "hold"}
    ws:close(1000, "", 0.02)
    assert.equal(1006, ws.close_code)
    raw.release()
    assert.equal(1000, frames_of(8)[1].code)
  end)

  describe("in the handshake", function()
    local function refusal(answer, options, query)
      query = query or {}
      query.answer = answer
      options = options or {}
      options.timeout = options.timeout or 5
      return error_of(raw.connect, query, options)
    end

    it("accepts what is unusual and right", function()
      for _, answer in ipairs{"lower_case", "interim"} do
        local ws <close> = raw.connect{answer = answer, send = hex(hello)}
        assert.equal("hello", ws:receive(5))
      end
      local ws <close> = raw.connect({answer = "first_subprotocol"}, {subprotocols = {"a", "b"}})
      assert.equal("a", ws.subprotocol)
    end)

    for _, answer in ipairs{"no_upgrade", "wrong_upgrade", "no_connection", "no_accept", "wrong_accept", "extension",
      "subprotocol", "two_subprotocols", "garbage", "binary", "old", "long_head", "long_line", "no_colon"} do
      it("refuses the answer " .. answer, function()
        local err = refusal(answer, {subprotocols = {"a", "b"}})
        assert.equal("websocket", err.kind, tostring(err))
        assert.is_nil(err.status)
        if raw.log(1)[1].frames then assert.same({}, raw.log(1)[1].frames) end
      end)
    end

    for _, status in ipairs{200, 301, 401, 403, 404, 426, 503} do
      it("says that the server answered " .. status, function()
        local err = refusal(tostring(status))
        assert.same({"websocket", status, "xxxxx"}, {err.kind, err.status, err.body})
        assert.equal("5", err.headers["Content-Length"])
        assert.equal(status == 503 and true or false, err.retryable)
      end)
    end

    it("keeps the first 4 KB of a body, however it is sent", function()
      assert.equal(("x"):rep(4096), refusal("403", nil, {body = 100000}).body)
      assert.equal(("y"):rep(4096), refusal("chunked").body)
      assert.equal(("z"):rep(4096), refusal("endless_body").body)
      local err = refusal("cut_body", nil, {["then"] = "reset"})
      assert.is_true(err.status == 500 and err.body == "half" or err.kind == "websocket", tostring(err))
    end)

    it("gives up when the server says nothing, or too little", function()
      for _, answer in ipairs{"nothing", "half"} do
        local err = refusal(answer, {timeout = {handshake = 0.05}})
        assert.same({"timeout", "handshake"}, {err.kind, err.phase})
        assert.matches("0.05 s", err.message, 1, true)
      end
      local err = refusal("nothing", {timeout = 0.05})
      assert.equal("timeout", err.kind)
    end)

    it("says when the server closes without an answer", function()
      for _, ending in ipairs{"close", "reset"} do
        for _, answer in ipairs{"nothing", "half"} do
          local err = refusal(answer, nil, {["then"] = ending})
          assert.equal("websocket", err.kind)
          assert.is_nil(err.status)
        end
      end
    end)

    it("takes an answer in small pieces", function()
      local ws <close> = raw.connect{drip = 1, send = hex(hello)}
      assert.equal("hello", ws:receive(5))
    end)

    it("can be cancelled, and leaves no connection behind", function()
      local opening = task.spawn(raw.connect, {answer = "nothing"})
      raw.wait_open(1)
      opening:cancel()
      assert.equal("cancelled", error_of(opening.await, opening).kind)
      raw.wait_open(0)
    end)

    it("says that nobody listens, or that nobody answers", function()
      local stub <close> = servers.stub()
      local function address(listener) return (stub:url("/", listener):gsub("^http", "ws")) end
      assert.equal("connect", error_of(websocket.connect, address "refused", {proxy = false}).kind)
      local err = error_of(websocket.connect, address "full", {proxy = false, timeout = {connect = 0.05}})
      assert.same({"timeout", "connect"}, {err.kind, err.phase})
      err = error_of(websocket.connect, address "silent", {proxy = false, timeout = {handshake = 0.05}})
      assert.same({"timeout", "handshake"}, {err.kind, err.phase})
      err = error_of(websocket.connect, address "reset", {proxy = false})
      assert.is_true(err.kind == "websocket" or err.kind == "connect", tostring(err))
      err = error_of(websocket.connect, address "garbage", {proxy = false})
      assert.equal("websocket", err.kind)
      assert.matches("does not speak HTTP", err.message, 1, true)
      assert.same({"websocket", 200}, {error_of(websocket.connect, address "http", {proxy = false}).kind,
        error_of(websocket.connect, address "http", {proxy = false}).status})
    end)
  end)

  it("leaves no descriptor behind, however it ends", function()
    local function all_ways()
      for _, answer in ipairs{"good", "404", "wrong_accept", "garbage", "nothing"} do
        local ok, ws = pcall(raw.connect, {answer = answer}, {timeout = 0.1})
        if ok then ws:close(1000, "", 0) end
      end
      for _, ending in ipairs{"close", "reset"} do
        local ws <close> = connect(hello, {["then"] = ending})
        pcall(ws.receive, ws, 5)
        pcall(ws.receive, ws, 5)
      end
    end
    -- and with it what all of them share
    local kept <close> = raw.connect()   -- luacheck: ignore 211
    all_ways()
    collectgarbage()
    collectgarbage()
    local before = servers.open_files()
    for _ = 1, 3 do all_ways() end
    assert.equal(before, servers.open_files())
  end)
end)
