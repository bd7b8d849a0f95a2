--- Streams: what goes wrong, before, in and instead of them.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
local support = dofile(folder .. "jobs_support.lua")
local modelriver = require "modelriver"
local riverlua_server = require "riverlua.server"
local task = require "riverlua.task"

local server, client
setup(function()
  server = support.start()
  client = support.client(server)
end)
teardown(function()
  client:close()
  server:close()
end)

-- Reads a stream to its end; the error, and the events before it. `release`: a key that is released in the stand-in
-- once so many events have come.
local function broken(asker, workflow, options, release, after)
  local question = support.question(workflow)
  for name, value in pairs(options or {}) do question[name] = value end
  local events = {}
  local function go_on() if release and #events == after then server:release(release) end end
  local err = support.error_of(function()
    local stream = asker:stream(question)
    go_on()
    for event in stream do
      events[#events + 1] = support.event_text(event)
      go_on()
    end
  end)
  assert.is_nil(support.leak(server, err))
  return err, events
end

local function runs(workflow) return support.count(server, "run:" .. workflow) end

describe("a failure told in the middle of a stream", function()
  for _, shape in ipairs{"data", "event", "choice"} do
    it("as " .. shape .. " carries the text so far, and nothing is sent again", function()
      local patient <close> = support.client(server, {retries = 3})
      local workflow = support.unique("echo+midfail:" .. shape .. ":2")
      local err, events = broken(patient, workflow)
      assert.same({"delta one ", "delta two "}, events)
      assert.equal("stream", err.kind)
      assert.equal("one two ", err.partial)
      assert.equal("upstream_error", err.code)
      assert.equal("upstream_error", err.type)
      assert.equal(workflow, err.workflow)
      assert.equal(false, err.retryable)
      assert.truthy(err.request_id)
      assert.truthy(err.message:find("The provider went away", 1, true))
      assert.equal(1, runs(workflow))
    end)

    it("as " .. shape .. " before any text is not sent again either: the gateway has tried its backups", function()
      local patient <close> = support.client(server, {retries = 3})
      local workflow = support.unique("echo+midfail:" .. shape .. ":0")
      local err, events = broken(patient, workflow)
      assert.same({}, events)
      assert.equal("", err.partial)
      assert.equal(1, runs(workflow))
    end)
  end

  it("as a reason to finish alone is one, too", function()
    local transport = support.pieces_transport{
      'data: {"choices":[{"index":0,"delta":{"content":"so far"},"finish_reason":null}]}\n\n',
      'data: {"choices":[{"index":0,"delta":{},"finish_reason":"error"}]}\n\n', "data: [DONE]\n\n"}
    local other <close> = support.client(server, {transport = transport})
    local err = broken(other, "w")
    assert.equal("stream", err.kind)
    assert.equal("so far", err.partial)
  end)

  it("is told on one line, whose characters are whole", function()
    local long = ("\u{e9}"):rep(600)
    for _, event in ipairs{'data: {"error":{"message":"first\\nsecond %s"}}\n\n', "data: \"first\\nsecond %s\"\n\n",
      "event: error\ndata: first\ndata: second %s\n\n"} do
      local transport = support.pieces_transport{event:format(long)}
      local other <close> = support.client(server, {transport = transport})
      local err = broken(other, "w")
      assert.truthy(err.message:find("first.*second \u{e9}"), err.message)
      assert.is_nil(tostring(err):find("\n", 1, true))
      assert.is_true(utf8.len(tostring(err)) < 700)
    end
  end)

  it("is told again to whoever asks again", function()
    local stream = client:stream(support.question("echo+midfail:data"))
    local err = support.error_of(stream.text, stream)
    assert.equal(err, support.error_of(stream.text, stream))
    assert.equal(err, support.error_of(stream))
    assert.equal("one ", stream.content)
  end)

  it("gives the tool calls that were whole", function()
    local call = '{"index":0,"id":"c1","function":{"name":"weather","arguments":"{}"}}'
    local transport = support.pieces_transport{
      'data: {"choices":[{"index":0,"delta":{"tool_calls":[' .. call .. ']},"finish_reason":"tool_calls"}]}\n\n',
      'data: {"error":{"message":"late"}}\n\n'}
    local other <close> = support.client(server, {transport = transport})
    local err = broken(other, "w")
    assert.same({{id = "c1", name = "weather", arguments = "{}"}}, err.partial_tool_calls)
  end)
end)

describe("a stream that is cut", function()
  local ENDS = {clean = "stream_truncated", fin = "stream_broken", rst = "stream_broken"}
  local keys = 0

  -- A workflow that is cut once its key is released: a reset takes along what has not been read.
  local function cut(pieces, how)
    keys = keys + 1
    local key = "cut" .. keys
    return support.unique(("echo+stall:%d:%s+cut:%d:%s"):format(pieces, key, pieces, how)), key
  end

  for how, code in pairs(ENDS) do
    it("after content by " .. how .. " is an error with the text so far, and nothing is sent again", function()
      local patient <close> = support.client(server, {retries = 3})
      local workflow, key = cut(2, how)
      local err, events = broken(patient, workflow, nil, key, 2)
      assert.same({"delta one ", "delta two "}, events)
      assert.equal("stream", err.kind)
      assert.equal(code, err.code)
      assert.equal("one two ", err.partial)
      assert.equal(1, err.tries)
      assert.equal(1, runs(workflow))
      for _, word in ipairs{"select/poll", "transfer closed", "outstanding", "curl"} do
        assert.is_nil(err.message:find(word, 1, true), err.message)
      end
    end)

    it("before content by " .. how .. " is begun again, as a request is", function()
      local patient <close> = support.client(server, {retries = 1})
      local workflow, key = cut(0, how)
      local err, events = broken(patient, workflow, nil, key, 0)
      assert.same({}, events)
      -- the second reset may come before the answer was read
      assert.truthy(err.code == code or how == "rst" and err.kind == "connect")
      assert.equal(2, runs(workflow))
    end)

    it("before content by " .. how .. " is not begun again without leave", function()
      for _, options in ipairs{{retries = 0}, {retries = 2, resend = false}} do
        local strict <close> = support.client(server, options)
        local workflow, key = cut(0, how)
        local err = broken(strict, workflow, nil, key, 0)
        assert.equal(code, err.code)
        assert.equal("", err.partial)
        assert.equal(1, err.tries)
        assert.equal(1, runs(workflow))
      end
    end)
  end

  it("is read from its new beginning", function()
    local call = function(text)
      return ('data: {"choices":[{"index":0,"delta":{"tool_calls":[%s]}}]}\n\n'):format(text)
    end
    local first = call('{"index":0,"id":"a","function":{"name":"old","arguments":"{\\"x\\": "}}')
    local whole = call('{"index":0,"id":"b","function":{"name":"new","arguments":"{}"}}')
    local transport = support.pieces_transport{first}
    local request = transport.request
    function transport:request(...)
      local res = request(self, ...)
      if self.requests > 1 then
        local pieces = {whole, "data: [DONE]\n\n"}
        res.read = function() return table.remove(pieces, 1) end
      end
      return res
    end
    local other <close> = support.client(server, {transport = transport, retries = 1})
    local stream = other:stream("w", "?")
    assert.same({"tool_call new {}"}, support.events_of(stream))
    assert.equal(2, stream.tries)
    assert.equal("b", stream.tool_calls[1].id)
  end)

  it("has no time to be begun again when the total is short", function()
    local patient <close> = support.client(server, {retries = 5})
    patient.gateway.first_delay = 0.5
    local workflow = support.unique("echo+cut:0:rst")
    broken(patient, workflow, {timeout = {total = 0.3}})
    assert.equal(1, runs(workflow))
  end)

  it("fails as the new beginning does", function()
    local patient <close> = support.client(server, {retries = 2})
    local transport = support.pieces_transport{}
    local request = transport.request
    function transport:request(...)
      local res = request(self, ...)
      if self.requests > 1 then return {status = 401, headers = {}, body = "{}", close = function() end} end
      return res
    end
    patient:close()
    local other <close> = support.client(server, {transport = transport, retries = 2})
    local stream = other:stream("w", "?")
    local err = support.error_of(stream)
    assert.equal("auth", err.kind)
    assert.equal(err, support.error_of(stream))
    assert.equal(2, transport.requests)
  end)

  it("after the reason to finish is whole", function()
    for _, how in ipairs{"clean", "fin", "fin+eof"} do
      assert.equal("one two three", client:stream(support.question("echo+nodone:" .. how)):text())
    end
  end)

  it("and closed by another task meanwhile is not taken for whole", function()
    local transport = support.pieces_transport{}
    local other <close> = support.client(server, {transport = transport, retries = 1})
    local stream = other:stream("w", "?")
    local reading = task.spawn(function() return stream() end)
    task.sleep(0)
    stream:close()
    assert.is_nil(reading:await())
    assert.equal("closed", support.error_of(stream.text, stream).kind)
  end)

  it("by silence at its very beginning is none", function()
    local empty <close> = support.client(server, {transport = support.pieces_transport{}})
    local err = broken(empty, "w")
    assert.equal("stream_truncated", err.code)
    assert.equal("", err.partial)
  end)
end)

describe("deadlines of a stream", function()
  it("silence between pieces is bounded by idle", function()
    local workflow = support.unique("echo+stall:1")
    local err, events = broken(client, workflow, {timeout = {idle = 0.1}})
    assert.same({"delta one "}, events)
    assert.equal("timeout", err.kind)
    assert.equal("idle", err.phase)
    assert.equal("one ", err.partial)
    assert.truthy(err.hint:find("timeout.idle", 1, true))
    assert.truthy(server:wait{key = "gone:" .. workflow, counted = 1})
  end)

  it("idle before content is begun again", function()
    local patient <close> = support.client(server, {retries = 1})
    local workflow = support.unique("echo+stall:0")
    local err = broken(patient, workflow, {timeout = {idle = 0.1}})
    assert.equal("idle", err.phase)
    assert.equal(2, runs(workflow))
  end)

  it("the whole is bounded by total, by nothing unless asked for", function()
    local workflow = support.unique("echo+stall:1")
    local err = broken(client, workflow, {timeout = {total = 0.15}})
    assert.equal("timeout", err.kind)
    assert.equal("total", err.phase)
    assert.equal("one ", err.partial)
    local patient <close> = support.client(server, {retries = 3})
    local again = support.unique("echo+stall:0")
    assert.equal("total", broken(patient, again, {timeout = 0.15}).phase)
    assert.equal(1, runs(again))
  end)

  it("the beginning is bounded by first_byte", function()
    local workflow = support.unique("echo+hold:begin")
    local err = broken(client, workflow, {timeout = {first_byte = 0.1}})
    assert.equal("timeout", err.kind)
    assert.equal("first_byte", err.phase)
    assert.truthy(err.message:find(workflow, 1, true))
  end)

  it("comments are signs of life", function()
    local chunk = 'data: {"choices":[{"index":0,"delta":{"content":"late"},"finish_reason":"stop"}]}\n\n'
    local beats = 0
    local slow = riverlua_server.new{handler = function()
      return {status = 200, headers = {["content-type"] = "text/event-stream"}, stream = function()
        beats = beats + 1
        if beats > 9 then return nil end
        if beats == 9 then return chunk end
        task.sleep(0.1)
        return ": still here\n\n"
      end}
    end}
    local serving <close> = task.spawn(function() slow:run() end)   -- luacheck: ignore 211
    local other <close> = support.client(server, {base_url = "http://127.0.0.1:" .. slow.port})
    -- eight times a tenth of a second is longer than the silence that is allowed
    assert.equal("late", other:stream{workflow = "w", messages = {modelriver.user("?")},
      timeout = {idle = 0.5, first_byte = 5}}:text())
    slow:close()
  end)
end)

describe("what is no event", function()
  it("is told with its beginning and the text so far", function()
    local err, events = broken(client, "echo+badevent:1")
    assert.same({"delta one "}, events)
    assert.equal("protocol", err.kind)
    assert.equal("stream_malformed", err.code)
    assert.equal("one ", err.partial)
    assert.truthy(err.body:find("choices", 1, true))
  end)

  it("may be anything", function()
    for _, data in ipairs{"null", "7", '"text"', "nonsense", "{", "[1"} do
      local transport = support.pieces_transport{"data: " .. data .. "\n\n", "data: [DONE]\n\n"}
      local other <close> = support.client(server, {transport = transport})
      assert.equal("stream_malformed", broken(other, "w").code)
    end
    for _, data in ipairs{"{}", "[]", '{"choices":null}', '{"choices":[]}', '{"choices":[7]}', '{"choices":{"a":1}}',
      '{"choices":[{}]}', '{"choices":[{"delta":7}]}', '{"choices":[{"delta":{"content":{"a":[]}}}]}',
      '{"choices":[{"delta":{"tool_calls":[7,{}]}}]}', '{"choices":[{"delta":{"tool_calls":7},"index":"x"}]}',
      '{"usage":7}', '{"usage":{}}', '{"meta":7,"model":[]}'} do
      local transport = support.pieces_transport{"data: " .. data .. "\n\n", "data: [DONE]\n\n"}
      local other <close> = support.client(server, {transport = transport})
      assert.equal("", other:stream("w", "?"):text())
    end
  end)

  it("has bounds", function()
    local calls = {}
    for i = 0, 300 do calls[#calls + 1] = ('{"index":%d,"function":{"name":"f"}}'):format(i) end
    local transport = support.pieces_transport{
      'data: {"choices":[{"index":0,"delta":{"tool_calls":[' .. table.concat(calls, ",") .. ']}}]}\n\n'}
    local other <close> = support.client(server, {transport = transport})
    assert.equal("limit", broken(other, "w").kind)
    local long = support.pieces_transport{"data: ", ("x"):rep(17 * 1024 * 1024)}
    local another <close> = support.client(server, {transport = long})
    assert.equal("limit", broken(another, "w").kind)
  end)
end)

describe("no stream at all", function()
  it("for a status is the error of a request, with all its fields", function()
    local workflow = support.unique("fail429+retry_after:120")
    local err = broken(client, workflow)
    assert.equal("rate_limit", err.kind)
    assert.equal(429, err.status)
    assert.equal("rate_limit_exceeded", err.code)
    assert.equal("rate_limit_error", err.type)
    assert.equal(120, err.retry_after)
    assert.equal(workflow, err.workflow)
    assert.truthy(err.request_id)
    assert.equal(err.request_id, err.headers["x-request-id"])
    assert.truthy(err.body:find("Rate limit", 1, true))
    assert.equal(1, err.tries)
    assert.equal(true, err.retryable)
    assert.truthy(err.message:find("stream '" .. workflow .. "'", 1, true))
  end)

  it("for a status has the kind of that", function()
    for switch, kind in pairs{fail401 = "auth", fail403 = "permission", fail502 = "server", html500 = "server",
      fail422 = "invalid_request", ["nonsense word"] = "not_found", reset = "connect", close_http = "connect"} do
      local err = broken(client, switch)
      assert.equal(kind, err.kind)
      assert.is_nil(err.message:find("select/poll", 1, true))
    end
  end)

  it("is asked for again where a request would be", function()
    for _, how in ipairs{"503", "reset", "close_http"} do
      local patient <close> = support.client(server, {retries = 1})
      local workflow = support.unique("flaky:1:" .. how)
      local stream = patient:stream(support.question(workflow))
      assert.equal("one two three", stream:text())
      assert.equal(2, stream.tries)
    end
  end)

  it("for a failure with status 200 is one of the provider", function()
    local err = broken(client, "fail200")
    assert.equal("provider", err.kind)
    assert.equal(504, err.provider_status)
    assert.equal("timeout", err.attempts[1].reason)
  end)

  it("for an answer that is none is told", function()
    for workflow, part in pairs{["echo+text200"] = "neither a stream nor JSON", ["echo+plain+badjson"] = "neither",
      ["echo+plain+empty200"] = "neither"} do
      local err = broken(client, workflow .. (workflow:find("plain") and "" or "+plain"))
      assert.equal("protocol", err.kind)
      assert.truthy(err.message:find(part, 1, true), err.message)
    end
    local err = broken(client, "echo+plain+truncate")
    assert.equal("protocol", err.kind)
    assert.equal("echo+plain+truncate", err.workflow)
    assert.truthy(err.message:find("cut off", 1, true))
  end)
end)

describe("the key", function()
  it("is in no error, whoever says it", function()
    local key = server.info.keys.good
    local transport = support.pieces_transport{
      ('data: {"error":{"message":"the key %s is not good"}}\n\n'):format(key)}
    local other <close> = support.client(server, {transport = transport})
    assert.truthy(broken(other, "w").message:find("the key *** is not good", 1, true))
    local deep = support.pieces_transport{('data: {"error":{"message":"no","code":"%s","details":{"was":["%s"]}}}\n\n')
      :format(key, key)}
    local third <close> = support.client(server, {transport = deep})
    local err = broken(third, "w")
    assert.equal("***", err.code)
    assert.equal("***", err.details.was[1])
    assert.is_nil(support.leak(server, err))
    local garbled = support.pieces_transport{("data: {%s\n\n"):format(key)}
    local another <close> = support.client(server, {transport = garbled})
    assert.truthy(broken(another, "w").body:find("***", 1, true))
  end)

  it("is in no trace and no tostring", function()
    local events = {}
    local traced <close> = support.client(server, {trace = function(event) events[#events + 1] = event end})
    local stream = traced:stream(support.question("echo"))
    stream:text()
    assert.equal(1, #events)
    assert.is_nil(support.leak(server, events))
    assert.is_nil(tostring(stream):find(server.info.keys.good, 1, true))
  end)
end)
