-- What a script saw of WebSockets when it was recorded is what it sees when it is replayed, with the server gone.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local servers = support.servers
local json = require "riverlua.json"

local HERE = [[
local websocket, errors = require "riverlua.websocket", require "riverlua.errors"
local function connect(path, options)
  local all = {proxy = false}
  for name, value in pairs(options or {}) do all[name] = value end
  return websocket.connect(base:gsub("^http", "ws") .. path, all)
end
]]

-- Runs a script three times: as it is, recorded, and replayed where nobody listens. All see the same.
local function expect_same(script)
  local folder = support.new_folder()
  local server <close> = servers.start{servers.riverlua, servers.folder .. "websocket_talker.lua"}
  local args = {server:url()}
  local plain = support.run(HERE .. script, nil, {args = args})
  assert.equal(0, plain.code, plain.err)
  local recorded = support.run(HERE .. script, "record", {args = args, folder = folder})
  assert.equal(plain.out, recorded.out, recorded.err)
  assert.equal("", recorded.err)
  server:close()
  local replayed = support.run(HERE .. script, "replay", {args = {"http://127.0.0.1:9"}, folder = folder})
  assert.equal(recorded.out, replayed.out, replayed.err)
  assert.equal(0, replayed.code, replayed.err)
  return folder, recorded.out
end

local function entry(path, frames, more)
  local made = {type = "websocket", request = {method = "GET", url = "ws://127.0.0.1:80" .. path, headers = {}},
    answer = {status = 101, headers = {}}, frames = json.array(frames), ["end"] = {how = "gone", own = true}}
  for name, value in pairs(more or {}) do made[name] = value or nil end
  return made
end

-- What a script prints whose server was recorded by hand.
local function replay(entries, script)
  local folder = support.write(entries)
  local result = support.run(HERE .. script, "replay", {args = {"http://127.0.0.1:9"}, folder = folder})
  assert.equal(0, result.code, result.err)
  return result.out
end

describe("a WebSocket recorded and replayed", function()
  after_each(support.clean)

  it("says the same: texts, bytes, handshake, the end", function()
    local folder, out = expect_same[[
      for _, path in ipairs{"/echo?x=1", "/echo?x=2"} do
        local ws = connect(path, {subprotocols = {"alpha", "beta"}, headers = {["X-One"] = "1"}})
        print(ws, ws.subprotocol, ws.headers.upgrade, ws.headers["sec-websocket-protocol"])
        for _, text in ipairs{"hello", "", "zw\u{f6}lf", "\0\1", '{"b":1.0,"a":[null,true]}'} do
          ws:send(text)
          print(ws:receive(10))
        end
        local bytes = {}
        for i = 0, 255 do bytes[#bytes + 1] = string.char(i) end
        ws:send(table.concat(bytes), "binary")
        local data, kind = ws:receive()
        print(data == table.concat(bytes), kind)
        ws:ping()
        print(type(ws:ping("x", 10)))
        ws:close(1000, "enough")
        print(ws, ws.close_code, ws.close_reason, ws:receive())
        show_error(ws.send, ws, "late")
      end
      local closed = connect("/close?4001")
      closed:send("x")
      for text in closed:messages() do print(text) end
      print(closed.close_code, closed.close_reason)
      show_error(closed.send, closed, "late")
      local dropped = connect("/drop")
      dropped:send("me")
      print(dropped:receive())
      show_error(dropped.receive, dropped)
      print(dropped.close_code)
    ]]
    assert.matches("last words about me\ttext\nwebsocket", out, 1, true)
    local entries = support.entries(folder)
    assert.equal(4, #entries)
    assert.same({"hello", "hello"}, {entries[1].frames[1].sent, entries[1].frames[2].received})
    assert.equal("dropped", entries[4]["end"].how)
    local text = support.text(folder)
    assert.is_nil(text:find("Sec-WebSocket-Key", 1, true))
    assert.is_nil(text:lower():find("sec-websocket-accept", 1, true))
  end)

  it("fails as it did: refusals, nobody there, limits of time", function()
    local _, out = expect_same[[
      local ok, err = pcall(connect, "/nowhere?token=abc123secret")
      print(ok, err.kind, err.status, err.body, err.headers["content-length"], err)
      show_error(websocket.connect, "ws://127.0.0.1:1/x", {proxy = false})
      show_error(websocket.connect, "ws://name.invalid/x", {proxy = false})
      local ws = connect("/silent")
      for _ = 1, 3 do show_error(ws.receive, ws, 0.01) end
      ws:send("anything?")
      local start = task.now()
      show_error(ws.receive, ws, 0.3)
      print(task.now() - start >= 0.3)
      ws:close()
    ]]
    assert.matches("no message came within 0.3 s", out, 1, true)
    assert.matches("none of your business", out, 1, true)
  end)

  it("is told apart from others by what it sends first", function()
    local folder = support.new_folder()
    local script = HERE .. [[
      local out = {}
      local names = {"a", "b", "c", "d", "e"}
      if extra then names = {"e", "c", "a", "d", "b"} end
      task.map(names, function(name)
        local ws <close> = connect("/count?1")
        for i = 1, 3 do
          ws:send(name .. i)
          local answer = ws:receive()
          out[#out + 1] = answer
          if extra and name == "a" then task.sleep(0) end
        end
      end, {concurrency = 5})
      table.sort(out)
      print(table.concat(out, " "))
    ]]
    local server <close> = servers.start{servers.riverlua, servers.folder .. "websocket_talker.lua"}
    local recorded = support.run(script, "record", {args = {server:url()}, folder = folder})
    server:close()
    for _, order in ipairs{{}, {"plain", "other"}} do
      local replayed = support.run(script, "replay", {args = {"http://127.0.0.1:9", table.unpack(order)},
        folder = folder})
      assert.equal(recorded.out, replayed.out, replayed.err)
    end
    assert.matches('["a1",0] ["a2",1] ["a3",2] ["b1",0]', recorded.out, 1, true)
  end)

  it("may be sent to by one task and received from by another", function()
    expect_same[[
      local ws <close> = connect("/greet")
      local reader = task.spawn(function()
        for text in ws:messages() do
          print(text)
          if text == "end" then return end
        end
      end)
      for i = 1, 5 do
        ws:send("number " .. i)
        task.sleep(0)
      end
      ws:send("end")
      reader:await()
    ]]
  end)

  it("may be left by a task that is cancelled while it waits", function()
    expect_same[[
      local ws = connect("/greet")
      print(ws:receive())
      show_error(task.timeout, 0.05, ws.receive, ws)
      ws:send("still there?")
      print(ws:receive())
      show_error(task.timeout, 0.05, ws.receive, ws)
      ws:close()
      print(ws.close_code)
      local other = connect("/silent")
      show_error(task.timeout, 0.05, other.receive, other)
    ]]
  end)

  it("has no secrets in the recording", function()
    local folder = expect_same[[
      local ws <close> = connect("/echo?token=tok-4711-secret&room=7",
        {headers = {Authorization = "Bearer key-0815-secret"}})
      ws:send('[1,{"ws_token":"fresh-1234-secret","room":"key-0815-secret"}]')
      ws:receive()
      ws:send("I have tok-4711-secret and fresh-1234-secret", "binary")
      print(#ws:receive())
    ]]
    local text = support.text(folder)
    assert.is_nil(text:find("secret", 1, true))
    local one = support.entries(folder)[1]
    assert.matches("token=***&room=7", one.request.url, 1, true)
    assert.equal('[1,{"ws_token":"***","room":"***"}]', one.frames[1].sent)
    assert.is_nil(require("riverlua.digest").from_base64(one.frames[3].sent_base64):find("secret", 1, true))
  end)
end)

describe("a replayed WebSocket", function()
  after_each(support.clean)

  it("hands a message out when what came before it has been sent", function()
    local frames = {{received = "1"}, {sent = "x"}, {received = "2"}, {sent = "y"}, {received = "3"}}
    local out = replay({entry("/a", frames)}, [[
      local ws = connect("/a")
      print(ws.replayed)
      ws:send("x")
      ws:send("y")
      print((ws:receive()), (ws:receive()), (ws:receive()))
      print(pcall(ws.receive, ws))
    ]])
    assert.matches("true\n1\t2\t3\n", out, 1, true)
    assert.matches("closed the WebSocket here", out, 1, true)
  end)

  it("compares JSON by value, and what replay.match says is not compared", function()
    local recorded = {entry("/a", {{sent = '{"a":1,"b":[2.0],"at":1,"idempotency_key":"k"}'}, {received = "yes"}})}
    local script = [[
      require("riverlua.replay").match{ignore = {"$.at"}}
      local ws = connect("/a")
      ws:send('{ "b": [2], "a": 1.0, "at": 2, "idempotency_key": "other" }')
      print((ws:receive()))
    ]]
    assert.equal("yes\n", replay(recorded, script))
  end)

  it("says what differs when the script sends something else", function()
    local frames = {{sent = '[1,{"name":"x"}]'}, {received = "yes"}, {sent_base64 = "AAEC"}}
    local function message(sent)
      return replay({entry("/a", frames)}, ([[
        local ws = connect("/a")
        local ok, err = pcall(function() %s end)
        print(ok, err.kind, err.line, err.message)
      ]]):format(sent))
    end
    assert.matches('false\treplay\t2\twebsocket ws://HERE/a (', message "ws:send('[1,{}]')", 1, true)
    assert.matches('the script sends [1,{}]: frame $[2].name is nothing, recorded is "x"',
      message "ws:send('[1,{}]')", 1, true)
    assert.matches('the script sends 3 bytes (binary), the recorded one sent [1,{"name":"x"}] (text)',
      message [[ws:send("\0\1\2", "binary") ws:send("\0\1\3", "binary")]], 1, true)
    assert.matches("the script sends more, and the recorded one sent nothing more",
      message [[ws:send('[1,{"name":"x"}]') ws:send("\0\1\2", "binary") ws:send("more")]], 1, true)
    assert.matches("waits for a message, the recorded one sent first 3 bytes",
      message [[ws:send('[1,{"name":"x"}]') ws:receive() ws:receive()]], 1, true)
  end)

  it("ends where the recording does", function()
    local script = [[
      local ws = connect("/a")
      print((ws:receive()))
      local ok, err = pcall(ws.receive, ws)
      print(ok, not ok and err.kind, ws.close_code, err)
    ]]
    local function ending(more) return replay({entry("/a", {{received = "1"}}, more)}, script) end
    assert.equal("1\ntrue\tfalse\t4000\tnil\n", ending{["end"] = {how = "closed", code = 4000}})
    assert.matches("1\nfalse\twebsocket\t1006\t", ending{["end"] = {how = "dropped"}}, 1, true)
    assert.matches("left the WebSocket open here", ending{["end"] = false, left = true}, 1, true)
    assert.matches("more was said than is recorded", ending{["end"] = false, omitted = true}, 1, true)
  end)

  it("is not there without a recorded one, and the nearest is named", function()
    local out = replay({entry("/rooms/7", {})}, [[
      local ok, err = pcall(connect, "/rooms/8")
      print(err.kind, err.message)
      local ok, err = pcall(connect, "/rooms/7", {recording = {label = "mine"}})
      print(err.kind, err.message)
    ]])
    assert.matches("GET ws://HERE/rooms/8: not in the recordings; the nearest is GET ws://HERE/rooms/7 (", out, 1, true)
    assert.matches('the path is "/rooms/8", recorded is "/rooms/7"', out, 1, true)
    assert.matches('the label is "mine", recorded is ""', out, 1, true)
  end)

  it("leaves out what the script's ignore says, with the time that led to it", function()
    local options = [[{recording = {label = "job 1", ignore = function(text, way) return text == "ping" end}}]]
    local folder = support.new_folder()
    local server <close> = servers.start{servers.riverlua, servers.folder .. "websocket_talker.lua"}
    local script = HERE .. [[
      local ws <close> = connect("/echo", ]] .. options .. [[)
      if extra then
        pcall(ws.receive, ws, 0.01)
        for _ = 1, 3 do
          ws:send("ping")
          ws:receive()
        end
      end
      ws:send("real")
      print(ws:receive(5))
    ]]
    support.run(script, "record", {args = {server:url(), "libcurl", "much"}, folder = folder})
    server:close()
    local one = support.entries(folder)[1]
    assert.equal("job 1", one.request.label)
    assert.same({{sent = "real"}, {received = "real"}}, one.frames)
    for _, extra in ipairs{"much", false} do
      local replayed = support.run(script, "replay", {args = {"http://127.0.0.1:9", "libcurl", extra or nil},
        folder = folder})
      assert.equal(extra and "" or "real\ttext\n", extra and "" or replayed.out, replayed.err)
    end
  end)

  it("that is no entry is an error that names file and line", function()
    for _, bad in ipairs{{frames = {{sent = 1}}}, {frames = {{}}}, {frames = {{sent = "a", received = "b"}}},
      {["end"] = {how = "soon"}}, {frames = {{sent_base64 = "?"}}}, {frames = "no"}, {unanswered = json.array{"x"}}} do
      local made = entry("/a", {{sent = "a"}}, bad)
      if type(made.frames) == "table" then made.frames = json.array(made.frames) end
      local out = replay({made}, [[print(select(2, pcall(connect, "/a")))]])
      assert.matches("storage: .*001%-made%.jsonl:2: ", out)
    end
  end)
end)
