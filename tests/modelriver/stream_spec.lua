--- Streams: what comes out, in every good form that a server may send them in.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
local support = dofile(folder .. "jobs_support.lua")
local http = require "riverlua.http"
local modelriver = require "modelriver"
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

local WORDS = {"delta one ", "delta two ", "delta three", "finish stop"}
local TOOLS = {{type = "function", ["function"] = {name = "weather", parameters = {type = "object", properties = {
  city = {type = "string"}}, required = {"city"}}}}, {type = "function", ["function"] = {name = "clock",
  parameters = {type = "object", properties = {zone = {type = "string"}}, required = {"zone"}}}}}

local function ask(workflow, text) return client:stream(support.question(workflow, text)) end

describe("a stream", function()
  it("hands out deltas and the reason to finish", function()
    assert.same(WORDS, support.events_of(ask("echo")))
  end)

  for _, form in ipairs{"crlf", "cr", "bom", "nospace", "multiline", "fields", "comments:3", "null_role", "split:1",
    "split:7", "eof", "after_done", "unterminated", "finish_with_content", "nodone", "nodone:fin+eof",
    "crlf+bom+multiline+comments+fields+split:3", "cr+multiline+nospace"} do
    it("is the same with " .. form, function()
      assert.same(WORDS, support.events_of(ask("echo+" .. form)))
    end)
  end

  it("passes text on as it is, whatever is cut", function()
    local text = "Grüße, 🌊 und\n\n„Zitate“ \\ \" …"
    assert.equal(text, ask("echo+chars:1+split:1", text):text())
    assert.equal(text, ask("echo+multiline+crlf", text):text())
  end)

  it("needs no text at all", function()
    assert.same({"finish stop"}, support.events_of(ask("null_content")))
    assert.equal("", ask("null_content"):text())
  end)

  it("tells of usage, in a chunk of its own or with the reason to finish", function()
    local events = support.events_of(ask("echo+usage"))
    assert.equal(5, #events)
    assert.truthy(events[5]:find("^usage %d+$"))
    assert.same(events, support.events_of(ask("echo+usage:finish")))
    assert.same(events, support.events_of(client:stream{workflow = "echo", stream_options = {include_usage = true},
      messages = {modelriver.user("one two three")}}))
  end)

  it("tells of a refusal", function()
    local stream = ask("refusal:I will not")
    assert.same({"refusal I ", "refusal will ", "refusal not", "finish stop"}, support.events_of(stream))
    assert.equal("", stream.content)
  end)

  it("tells the other reasons to finish", function()
    for workflow, reason in pairs{length = "length", filter = "content_filter"} do
      local stream = ask(workflow)
      for event in stream do if event.finish then assert.equal(reason, event.finish) end end
      assert.equal(reason, stream.finish_reason)
    end
  end)

  it("knows its headers, its request and who answered", function()
    local stream = ask("echo")
    assert.equal("echo", stream.meta.workflow)
    assert.equal("openai", stream.meta.provider)
    assert.truthy(stream.request_id:find("^req_"))
    assert.equal(stream.request_id, stream.headers["x-request-id"])
    assert.equal(1, stream.tries)
    stream:text()
    assert.truthy(stream.meta.model)
    assert.equal("stop", stream.finish_reason)
  end)

  it("is sent with `stream` and asks for events", function()
    local workflow = support.unique("echo")
    ask(workflow):text()
    local log = server:log("/v1/ai")
    local body = log[#log].body
    assert.truthy(body:find(workflow, 1, true))
    assert.truthy(body:find('"stream":true', 1, true))
    assert.equal("text/event-stream", log[#log].headers.accept)
  end)

  it("gives the chunk of every event", function()
    for event in ask("echo") do assert.equal("chat.completion.chunk", event.raw.object) end
  end)
end)

describe("tool calls in a stream", function()
  local function call(workflow, text)
    return client:stream{workflow = workflow, tools = TOOLS, messages = {modelriver.user(text or "?")}}
  end

  it("come whole", function()
    local stream = call("tools", '{"city": "Zürich"}')
    local events = support.events_of(stream)
    assert.same({'tool_call weather {"city": "Zürich"}', "finish tool_calls"}, events)
    assert.truthy(stream.tool_calls[1].id)
  end)

  it("come in order when their pieces are mixed", function()
    local calls = {}
    for event in call("tools:parallel") do
      if event.tool_call then calls[#calls + 1] = event.tool_call.name end
    end
    assert.same({"weather", "clock"}, calls)
    local stream = call("tools:parallel+split:1+cr")
    local answer = stream:response()
    assert.equal(2, #answer.tool_calls)
    assert.equal(answer.tool_calls[1].arguments, stream.tool_calls[1].arguments)
    assert.equal("tool_calls", answer.finish_reason)
    assert.equal("weather", answer.message.tool_calls[1]["function"].name)
    assert.equal("", answer:text())
  end)

  it("without arguments have an empty object", function()
    for event in call("tools:empty") do
      if event.tool_call then assert.equal("{}", event.tool_call.arguments) end
    end
  end)
end)

describe("what a stream amounts to", function()
  it("is text", function() assert.equal("one two three", ask("echo"):text()) end)

  it("is text after a part was read", function()
    local stream = ask("echo")
    assert.equal("one ", stream().delta)
    assert.equal("one ", stream.content)
    assert.equal("one two three", stream:text())
    assert.equal("one two three", stream:text())
    assert.is_nil(stream())
  end)

  it("is an answer as of a whole request", function()
    local answer = ask("echo+usage"):response()
    local whole = client:ai(support.question("echo"))
    assert.equal(whole:text(), answer:text())
    assert.equal(whole.meta.model, answer.meta.model)
    assert.same(whole.usage, answer.usage)
    assert.equal("stop", answer.finish_reason)
    assert.same({role = "assistant", content = "one two three"}, answer.message)
  end)

  it("is what a server that does not stream says", function()
    local stream = ask("echo+plain")
    local events = support.events_of(stream)
    assert.equal("delta one two three", events[1])
    assert.equal("finish stop", events[2])
    assert.equal("one two three", stream:text())
    assert.equal("weather", client:stream{workflow = "tools+plain", tools = TOOLS,
      messages = {modelriver.user("?")}}:response().tool_calls[1].name)
    assert.equal("one two three", client:stream{workflow = "echo+plain", format = "wrapped",
      messages = {modelriver.user("one two three")}}:text())
  end)

  it("is several choices, told apart by index", function()
    local lines = {}
    for _, chunk in ipairs{
      [[{"choices":[{"index":0,"delta":{"content":"a"}},{"index":1,"delta":{"content":"b"}}]}]],
      [[{"choices":[{"index":1,"delta":{"content":"B"},"finish_reason":"length"}]}]],
      [[{"choices":[{"index":0,"delta":{"content":"A"},"finish_reason":"stop"}]}]], "[DONE]"} do
      lines[#lines + 1] = "data: " .. chunk .. "\n\n"
    end
    local several = support.client(server, {transport = support.pieces_transport(lines)})
    local stream = several:stream("echo", "?")
    assert.same({"delta a", "delta 1 b", "delta 1 B", "finish 1 length", "delta A", "finish stop"},
      support.events_of(stream))
    assert.equal("aA", stream.content)
    assert.equal("stop", stream.finish_reason)
  end)
end)

describe("bytes cut anywhere", function()
  local RECORDED = {"echo+usage+null_role", "echo+crlf+bom+fields+comments", "echo+cr+multiline+usage",
    "tools:parallel+usage", "echo+nospace+finish_with_content+unterminated"}

  local function record(workflow)
    local recorder <close> = http.Client{proxy = false}
    local res = recorder:post(server:url("/v1/ai"), {headers = {Authorization = "Bearer " .. server.info.keys.good},
      json = {workflow = workflow, stream = true, tools = TOOLS, messages = {modelriver.user("Grüße 🌊 hin")}}})
    assert.equal(200, res.status)
    return res.body
  end

  local function events_of(pieces)
    local transport = support.pieces_transport(pieces)
    local other <close> = support.client(server, {transport = transport})
    local events = support.events_of(other:stream("w", "?"))
    assert.equal(1, transport.closed)
    assert.equal(1, transport.requests)
    return events
  end

  for _, workflow in ipairs(RECORDED) do
    it("give the same events: " .. workflow, function()
      local bytes = record(workflow)
      local wanted = events_of{bytes}
      assert.truthy(#wanted >= 3)
      for cut = 1, #bytes - 1 do
        local events = events_of{bytes:sub(1, cut), bytes:sub(cut + 1)}
        if table.concat(events, "\n") ~= table.concat(wanted, "\n") then assert.same(wanted, events) end
      end
      local single = {}
      for at = 1, #bytes do single[at] = bytes:sub(at, at) end
      assert.same(wanted, events_of(single))
    end)
  end

  it("end early in one way only: as a stream that is not complete", function()
    local bytes = record("echo")
    local finish = bytes:find('"finish_reason": "stop"', 1, true)
    for cut = 0, #bytes - 1 do
      local transport = support.pieces_transport{bytes:sub(1, cut)}
      local other <close> = support.client(server, {transport = transport})
      local ok, err = pcall(support.events_of, other:stream("w", "?"))
      if ok then
        assert.truthy(cut > finish, "taken for whole: " .. cut)
      else
        assert.equal("stream_truncated", err.code)
        assert.equal("stream", err.kind)
      end
    end
  end)
end)

describe("leaving a stream", function()
  local function is_gone(workflow, act)
    act(ask(workflow))
    assert.truthy(server:wait{key = "gone:" .. workflow, counted = 1})
  end

  it("by break frees the connection", function()
    local workflow = support.unique("echo+stall")
    for event in ask(workflow) do
      if event.delta == "one " then break end
    end
    assert.truthy(server:wait{key = "gone:" .. workflow, counted = 1})
  end)

  it("by an error frees the connection, and the error goes on", function()
    local workflow = support.unique("echo+stall")
    local err = support.error_of(function()
      for _ in ask(workflow) do error("mine", 0) end
    end)
    assert.equal("mine", err)
    assert.truthy(server:wait{key = "gone:" .. workflow, counted = 1})
  end)

  it("by close frees the connection", function()
    is_gone(support.unique("echo+stall"), function(stream)
      stream()
      stream:close()
      stream:close()
      assert.is_nil(stream())
      assert.is_nil(stream:next())
      assert.equal("one ", stream.content)
      assert.truthy(tostring(stream):find("closed", 1, true))
    end)
  end)

  it("by the end of a block frees the connection", function()
    is_gone(support.unique("echo+stall"), function(opened)
      local stream <close> = opened
      stream()
    end)
  end)

  it("without reading it frees the connection", function()
    is_gone(support.unique("echo+stall"), function(stream) stream:close() end)
  end)

  it("leaves no whole text: what there is, is in content", function()
    local stream = ask(support.unique("echo+stall"))
    stream()
    stream:close()
    for _, method in ipairs{"text", "response"} do
      local err = support.error_of(stream[method], stream)
      assert.equal("closed", err.kind)
      assert.truthy(err.message:find("stream:" .. method, 1, true))
      assert.truthy(err.hint:find("content", 1, true))
    end
  end)

  it("after its end keeps the connection for the next one", function()
    local only <close> = support.client(server)
    only:stream(support.question("echo")):text()
    local accepted = server:stats().accepted.http
    only:stream(support.question("echo")):text()
    for event in only:stream(support.question("echo")) do assert.truthy(event) end
    assert.equal(accepted, server:stats().accepted.http)
  end)

  it("by [DONE] does not wait for a body that does not end", function()
    local workflow = support.unique("echo+linger")
    assert.equal("one two three", ask(workflow):text())
    assert.truthy(server:wait{key = "gone:" .. workflow, counted = 1})
  end)
end)

describe("many pieces", function()
  it("take no memory", function()
    local piece, count = "tokentoken ", 200000
    local stream = ask(("echo+many:%d:%s"):format(count, piece))
    local seen, before = 0, nil
    for event in stream do
      if event.delta then seen = seen + 1 end
      if seen == 20000 and not before then
        collectgarbage()
        before = support.resident()
      end
    end
    collectgarbage()
    assert.equal(count, seen)
    assert.truthy(support.resident() - before < 12, ("%.1f MB more"):format(support.resident() - before))
    -- the last MiB is kept, and not taken for the whole
    local kept = stream.content
    assert.truthy(#kept >= 1024 * 1024 - 64 * 1024 and #kept <= 1024 * 1024 + 64 * 1024)
    assert.equal(piece, kept:sub(-#piece))
    local err = support.error_of(stream.text, stream)
    assert.equal("limit", err.kind)
    assert.truthy(err.message:find("1048576 bytes", 1, true))
  end)

  it("are all in the text when that is asked for first", function()
    local text = ask("echo+many:150000:tokentoken "):text()
    assert.equal(("tokentoken "):rep(150000), text)
  end)

  it("that are long are kept by bytes, not by number", function()
    local chunk = ('data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n'):format(("x"):rep(100000))
    local pieces = {}
    for i = 1, 100 do pieces[i] = chunk end
    pieces[101] = "data: [DONE]\n\n"
    local other <close> = support.client(server, {transport = support.pieces_transport(pieces)})
    local stream = other:stream("w", "?")
    for _ in stream do assert.truthy(#stream.content <= 1200000) end
  end)
end)

describe("usage", function()
  it("is counted once, however the stream is read", function()
    for _, read in ipairs{
      function(stream) for event in stream do assert.truthy(event.kind) end end,
      function(stream) stream:text(); stream:text(); stream:response() end,
      function(stream) for event in stream do if event.usage then break end end end,
      function(stream) for event in stream do if event.finish then break end end end,
    } do
      local counting <close> = support.client(server)
      local stream <close> = counting:stream(support.question("echo+usage:finish"))
      read(stream)
      stream:close()
      assert.equal(1, counting.usage.total.requests)
      assert.equal(stream.usage.total_tokens, counting.usage.by_workflow["echo+usage:finish"].total_tokens)
      assert.equal(0, counting.usage.uncounted)
    end
  end)

  it("that was not told is counted as such", function()
    local counting <close> = support.client(server)
    counting:stream(support.question("echo")):text()
    assert.equal(1, counting.usage.uncounted)
  end)
end)

describe("streams and tasks", function()
  it("go on side by side", function()
    local names = {}
    for i = 1, 30 do names[i] = support.unique(i % 2 == 0 and "echo+split:5" or "echo+hold:together") end
    local reading = task.spawn(function()
      return task.map(names, function(name) return ask(name, "text of " .. name):text() end, {concurrency = 30})
    end)
    task.sleep(0)
    server:wait{key = "together", waiting = 15}
    server:release("together")
    for i, text in ipairs(reading:await()) do assert.equal("text of " .. names[i], text) end
  end)

  it("work where Lua cannot yield", function()
    local list, text = {2, 1}, nil
    table.sort(list, function(a, b)
      text = text or ask("echo+split:3"):text()
      return a < b
    end)
    assert.equal("one two three", text)
    assert.equal("one two three", (("x"):gsub("x", function() return ask("echo"):text() end)))
    local inside = task.spawn(function()
      table.sort(list, function(a, b)
        for event in ask("echo") do text = event.delta or text end
        return a < b
      end)
    end)
    inside:await()
    assert.equal("three", text)
  end)

  it("are freed when their task is cancelled", function()
    local workflow = support.unique("echo+stall")
    local reading = task.spawn(function()
      for event in ask(workflow) do assert.truthy(event) end
    end)
    task.sleep(0)
    server:wait{key = "stall", waiting = 1}
    reading:cancel()
    assert.equal("cancelled", support.error_of(reading.await, reading).kind)
    assert.truthy(server:wait{key = "gone:" .. workflow, counted = 1})
  end)
end)

describe("the same over chat completions", function()
  it("streams chunks as OpenAI's library has them", function()
    local texts = {}
    for chunk in client.chat.completions:create{model = "echo+usage", stream = true,
      messages = {modelriver.user("one two three")}} do
      local choice = chunk.choices[1]
      texts[#texts + 1] = choice and choice.delta.content
    end
    assert.equal("one two three", table.concat(texts))
  end)
end)
