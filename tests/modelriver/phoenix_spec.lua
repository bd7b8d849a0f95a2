--- Phoenix channels by themselves: frames, replies, heartbeats, over a peer that a test plays.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
local support = dofile(folder .. "jobs_support.lua")
local errors = require "riverlua.errors"
local json = require "riverlua.json"
local phoenix = require "modelriver.phoenix"
local task = require "riverlua.task"

-- A peer that says what it is told to, then nothing; `answer(frame)` may give what is said to a frame of ours.
local function peer(said, answer)
  local there = {sent = {}, said = said or {}}
  function there:send(text)
    local frame = json.decode(text)
    self.sent[#self.sent + 1] = frame
    local reply = answer and answer(frame)
    if reply then self.said[#self.said + 1] = json.encode(reply) end
  end
  function there:receive(seconds)
    local text = table.remove(self.said, 1)
    if text == false then
      self.close_code = 1001
      return nil
    end
    if text then
      if type(text) == "table" then return text[1], "binary" end
      return text, "text"
    end
    task.sleep(seconds)
    errors.raise{kind = "timeout", message = "nothing"}
  end
  return there
end

local function ok_to_all(frame)
  return json.array{frame[1], frame[2], frame[3], "phx_reply", {status = "ok", response = json.object{}}}
end

local function soon(seconds) return task.now() + (seconds or 5) end

describe("joining a channel", function()
  it("is a push whose ref is also the join's", function()
    local there = peer(nil, ok_to_all)
    local socket = phoenix.new(there)
    assert.same({}, socket:join("ai_response:p:c", soon()))
    assert.same({"1", "1", "ai_response:p:c", "phx_join", {}}, there.sent[1])
    assert.equal("1", socket.join_ref)
  end)

  it("keeps what comes before the reply, but for other topics and joins", function()
    local there = peer({'[null,null,"t","early",{"n":1}]', '["9",null,"t","foreign",{}]', '[null,null,"u","other",{}]',
      '["1",null,"t","own",{"n":2}]', '[null,"7","t","phx_reply",{"status":"error"}]'}, ok_to_all)
    local early = phoenix.new(there):join("t", soon())
    assert.equal(3, #early)
    assert.equal("early", early[1].event)
    assert.equal("own", early[2].event)
    assert.equal("phx_reply", early[3].event)
  end)

  it("again has another ref", function()
    local there = peer(nil, ok_to_all)
    local socket = phoenix.new(there)
    socket:join("t", soon())
    socket:join("t", soon())
    assert.equal("2", there.sent[2][1])
    assert.equal("2", there.sent[2][2])
    assert.equal("2", socket.join_ref)
  end)

  it("is refused by reason", function()
    for response, code in pairs{['{"reason":"unmatched topic"}'] = "unmatched topic", ["{}"] = "unknown",
      ['{"reason":7}'] = "unknown", ["7"] = "unknown", ['{"reason":""}'] = "unknown"} do
      local there = peer({'[null,"1","t","phx_reply",{"status":"error","response":' .. response .. "}]"})
      local err = support.error_of(phoenix.new(there).join, phoenix.new(there), "t", soon())
      assert.equal("websocket", err.kind)
      assert.equal(code, err.code)
      assert.equal(false, err.retryable)
    end
  end)

  it("that is not answered leaves, and is a connection lost", function()
    local there = peer()
    local socket = phoenix.new(there, 30, 0.05)
    local err = support.error_of(socket.join, socket, "t", soon())
    assert.truthy(err.dropped)
    assert.equal("phx_leave", there.sent[2][4])
  end)

  it("ends without a word at the caller's deadline", function()
    local there = peer()
    assert.is_nil(phoenix.new(there):join("t", soon(0.05)))
    assert.equal("phx_leave", there.sent[2][4])
  end)
end)

describe("receiving", function()
  it("gives messages without null, and nil at the deadline", function()
    local socket = phoenix.new(peer{'[null,"3","t","e",{"a":null,"b":[null]}]'})
    local message = socket:receive(soon())
    assert.is_nil(message.join_ref)
    assert.equal("3", message.ref)
    assert.is_nil(message.payload.a)
    assert.is_nil(socket:receive(soon(0.02)))
  end)

  it("ends at the deadline however much there is", function()
    local socket = phoenix.new(peer{'[null,null,"t","e",{}]'})
    assert.is_nil(socket:receive(task.now()))
    assert.equal("e", socket:receive(soon()).event)
  end)

  it("passes over binary frames", function()
    local socket = phoenix.new(peer{{"\0\1"}, '[null,null,"t","e",{}]'})
    assert.equal("e", socket:receive(soon()).event)
  end)

  it("tells when the server has closed", function()
    local socket = phoenix.new(peer{false})
    local err = support.error_of(socket.receive, socket, soon())
    assert.truthy(err.dropped)
    assert.equal(1001, err.code)
    assert.truthy(err.message:find("code 1001", 1, true))
  end)

  it("tells what is no frame", function()
    for _, text in ipairs{"", "x", "{}", "[]", "7", "null", '"text"', "[1,2,3,4]", "[1,2,3,4,5,6]",
      '[null,null,null,"e",{}]', '[null,null,"t",null,{}]', '[null,null,"t","e",null]', '[null,null,"t","e","x"]',
      ("["):rep(1000)} do
      local socket = phoenix.new(peer{text})
      local err = support.error_of(socket.receive, socket, soon())
      assert.equal("websocket", err.kind)
      assert.equal(1002, err.code)
      assert.truthy(err.dropped)
    end
  end)
end)

describe("heartbeats", function()
  it("go to the socket, and to the channel once it is joined", function()
    local there = peer(nil, ok_to_all)
    local socket = phoenix.new(there, 0.02)
    socket:receive(soon(0.05))
    assert.same({json.null, there.sent[1][2], "phoenix", "heartbeat", {}}, there.sent[1])
    socket:join("t", soon())
    local before = #there.sent
    while #there.sent < before + 2 do socket:receive(soon(0.05)) end
    assert.equal("phoenix", there.sent[before + 1][3])
    assert.equal("t", there.sent[before + 2][3])
    assert.equal(socket.join_ref, there.sent[before + 2][1])
    assert.equal("heartbeat", there.sent[before + 2][4])
    local refs = {}
    for _, frame in ipairs(there.sent) do
      assert.is_nil(refs[frame[2]], "a ref is used twice")
      refs[frame[2]] = true
    end
  end)

  it("that are not answered tell that the connection is dead", function()
    local socket = phoenix.new(peer(), 0.02)
    local err = support.error_of(socket.receive, socket, soon())
    assert.truthy(err.dropped)
    assert.truthy(err.message:find("heartbeats", 1, true))
  end)
end)

describe("leaving", function()
  it("is said once, for a channel that was joined", function()
    local there = peer(nil, ok_to_all)
    local socket = phoenix.new(there)
    socket:leave()
    assert.equal(0, #there.sent)
    socket:join("t", soon())
    socket:leave()
    socket:leave()
    assert.equal(2, #there.sent)
    assert.same({"1", "2", "t", "phx_leave", {}}, there.sent[2])
  end)

  it("never fails", function()
    local there = peer(nil, ok_to_all)
    local socket = phoenix.new(there)
    socket:join("t", soon())
    function there.send() error("gone") end
    socket:leave()
  end)
end)
