-- Streams of the embedded service.

local embedded = require "modelriver.embedded"
local json = require "riverlua.json"
local support = dofile("tests/modelriver_embedded/support.lua")
local task = require "riverlua.task"

describe("a stream of the embedded service", function()
  local transport

  before_each(function()
    embedded.reset()
    transport = embedded.new()
  end)
  after_each(function()
    transport:close()
    embedded.reset()
  end)

  it("begins with the role, goes on in pieces and ends with [DONE]", function()
    embedded.workflow("w", function() return " Two  words, émoji ☃ and\n\nlines\n" end)
    local chunks, res = support.chunks(transport, {workflow = "w"})
    assert.equal(200, res.status)
    assert.truthy(res.headers["Content-Type"]:find("text/event-stream", 1, true))
    assert.equal("w", res.headers["x-modelriver-workflow"])
    assert.equal("1", res.headers["x-modelriver-attempts"])
    assert.same({role = "assistant"}, chunks[1].choices[1].delta)
    assert.equal("chat.completion.chunk", chunks[1].object)
    assert.equal("[DONE]", chunks[#chunks])
    assert.equal("stop", chunks[#chunks - 1].choices[1].finish_reason)
    assert.same({}, chunks[#chunks - 1].choices[1].delta)
    assert.equal(" Two  words, émoji ☃ and\n\nlines\n", support.text(chunks))
    assert.is_true(#chunks > 6)
    for i = 2, #chunks - 1 do assert.equal(chunks[1].id, chunks[i].id) end
  end)

  it("ends with the usage when that is wanted, and only then", function()
    embedded.workflow("w", function() return "x y" end)
    local chunks = support.chunks(transport, {model = "w", stream_options = {include_usage = true}},
      "/v1/chat/completions")
    local usage = chunks[#chunks - 1]
    assert.same({}, usage.choices)
    assert.equal(2, usage.usage.completion_tokens)
    for _, chunk in ipairs(support.chunks(transport, {workflow = "w"})) do
      assert.is_nil(type(chunk) == "table" and chunk.usage or nil)
    end
  end)

  it("delivers what is emitted before the function goes on", function()
    local seen = {}
    embedded.workflow("w", function(_, context)
      assert.is_true(context.stream)
      for i = 1, 3 do
        context.emit("piece" .. i .. " ")
        seen[#seen + 1] = "emitted " .. i
      end
      return "ignored, for the text has been emitted"
    end)
    local res <close> = support.ask(transport, {workflow = "w", stream = true})
    local text = {}
    for event in res:events() do
      local piece = event.data:match('"content":"(piece%d )"')
      if piece then
        text[#text + 1] = piece
        seen[#seen + 1] = "read " .. #text
      end
    end
    assert.equal("piece1 piece2 piece3 ", table.concat(text))
    assert.same({"read 1", "emitted 1", "read 2", "emitted 2", "read 3", "emitted 3"}, seen)
  end)

  it("gives what was emitted to those who do not stream too", function()
    embedded.workflow("w", function(_, context)
      context.emit("a ")
      context.emit("b")
    end)
    assert.equal("a b", support.answer(transport, {workflow = "w"}).choices[1].message.content)
  end)

  it("streams tool calls in pieces", function()
    embedded.workflow("w", function()
      return {content = "Wait",
        tool_calls = {{name = "one", arguments = {city = "Zürich am See", n = 1}}, {name = "two"}}}
    end)
    local calls, finish = {}, nil
    for _, chunk in ipairs(support.chunks(transport, {workflow = "w"})) do
      local choice = type(chunk) == "table" and chunk.choices[1] or {delta = {}}
      finish = choice.finish_reason or finish
      for _, part in ipairs(choice.delta.tool_calls or {}) do
        local call = calls[part.index + 1] or {arguments = ""}
        calls[part.index + 1] = call
        call.id, call.name = part.id or call.id, part["function"].name or call.name
        call.arguments = call.arguments .. part["function"].arguments
        assert.truthy(utf8.len(part["function"].arguments))
      end
    end
    assert.equal("tool_calls", finish)
    assert.equal("one", calls[1].name)
    assert.same({city = "Zürich am See", n = 1}, json.decode(calls[1].arguments))
    assert.same({}, json.decode(calls[2].arguments))
    assert.not_equal(calls[1].id, calls[2].id)
  end)

  it("streams structured answers as their text", function()
    embedded.workflow("w", function() return {a = "b c"} end)
    assert.equal('{"a":"b c"}', support.text(support.chunks(transport, {workflow = "w"})))
  end)

  it("streams sample data in test mode", function()
    embedded.workflow("w", {testing = {sample = {a = 1}}})
    local chunks, res = support.chunks(transport, {workflow = "w"})
    assert.equal('{"a":1}', support.text(chunks))
    assert.equal("Testing", res.headers["x-modelriver-provider"])
  end)

  it("asks the next provider as long as nothing was delivered", function()
    embedded.workflow("w", {providers = {
      {provider = "a", model = "m1", respond = function() error("down") end},
      {provider = "b", model = "m2", respond = function(_, context) context.emit("from b") end},
    }})
    local chunks, res = support.chunks(transport, {workflow = "w"})
    assert.equal("from b", support.text(chunks))
    assert.equal("b", res.headers["x-modelriver-provider"])
    assert.equal("2", res.headers["x-modelriver-attempts"])
    assert.equal("m2", chunks[1].model)
  end)

  it("is never started again once something was delivered", function()
    local asked = {}
    embedded.workflow("w", {providers = {
      {provider = "a", respond = function(_, context)
        asked[#asked + 1] = "a"
        context.emit("half ")
        error{status = 503, message = "gone", reason = "overloaded"}
      end},
      {provider = "b", respond = function()
        asked[#asked + 1] = "b"
        return "whole"
      end},
    }})
    local chunks = support.chunks(transport, {workflow = "w"})
    assert.same({"a"}, asked)
    assert.equal("half ", support.text(chunks))
    local last = chunks[#chunks]
    assert.same({message = "gone", code = "overloaded", type = "upstream_error", status = 503}, last.error)
  end)

  it("is no stream when nobody answers", function()
    embedded.workflow("w", function() error("down") end)
    local res <close> = support.ask(transport, {workflow = "w", stream = true})
    assert.equal("application/json", res.headers["content-type"])
    assert.is_nil(res.body)
    assert.equal("error", res:json().meta.status)
    local chat <close> = support.ask(transport, {model = "w", stream = true}, "/v1/chat/completions")
    assert.equal(502, chat.status)
    assert.equal("upstream_error", chat:json().error.code)
  end)

  it("tells in the middle that the answer does not keep to its schema", function()
    embedded.workflow("w", {schema = {type = "object"}, respond = function(_, context) context.emit("no JSON") end})
    local chunks = support.chunks(transport, {workflow = "w"})
    assert.equal("schema", chunks[#chunks].error.code)
  end)

  it("ends its function when it is closed, when the loop is left and when the transport is closed", function()
    local ended = 0
    embedded.workflow("w", function(_, context)
      local _ <close> = setmetatable({}, {__close = function() ended = ended + 1 end})
      context.emit("x")
      task.sleep(3600)
    end)
    local res = support.ask(transport, {workflow = "w", stream = true})
    assert.truthy(res:read())
    res:close()
    task.sleep(0)
    assert.equal(1, ended)
    assert.equal("closed", support.error_of(res.read, res).kind)
    for _ in support.ask(transport, {workflow = "w", stream = true}):events() do break end   -- luacheck: ignore 512
    task.sleep(0)
    assert.equal(2, ended)
    local open = support.ask(transport, {workflow = "w", stream = true})
    local reader = task.spawn(function()
      while open:read() do end   -- luacheck: ignore 542
    end)
    task.sleep(0)
    transport:close()
    assert.equal("closed", support.error_of(reader.await, reader).kind)
    task.sleep(0)
    assert.equal(3, ended)
  end)

  it("ends its function when the one who asks is cancelled before there is an answer", function()
    local ended = false
    embedded.workflow("w", function()
      local _ <close> = setmetatable({}, {__close = function() ended = true end})
      task.sleep(3600)
    end)
    local asking = task.spawn(function() support.ask(transport, {workflow = "w", stream = true}) end)
    task.sleep(0)
    task.sleep(0)
    asking:cancel()
    asking:join()
    task.sleep(0)
    assert.is_true(ended)
  end)

  it("is read whole with text, and in one go without stream in the request", function()
    embedded.workflow("w", function() return "x" end)
    local res = support.ask(transport, {workflow = "w", stream = true})
    local text = res:text()
    assert.truthy(text:find("^data: {"))
    assert.truthy(text:find("data: %[DONE%]\n\n$"))
    local whole = support.ask(transport, {workflow = "w", stream = true}, nil, {stream = false})
    assert.truthy(whole.body:find("%[DONE%]"))
    assert.equal("argument", support.error_of(whole.read, whole).kind)
  end)

  it("keeps to the time limits of the request", function()
    embedded.workflow("silent", function() task.sleep(3600) end)
    embedded.workflow("stalls", function(_, context)
      context.emit("x")
      task.sleep(3600)
    end)
    local function timeout_of(fields, timeout)
      local err = support.error_of(function()
        local res <close> = support.ask(transport, fields, nil, {timeout = timeout})
        if res.streamed then res:text() end
      end)
      assert.equal("timeout", err.kind)
      return err.phase
    end
    assert.equal("total", timeout_of({workflow = "silent"}, 0.01))
    assert.equal("first_byte", timeout_of({workflow = "silent", stream = true}, {first_byte = 0.01, total = 60}))
    assert.equal("idle", timeout_of({workflow = "stalls", stream = true}, {idle = 0.01, total = 60}))
    assert.equal("total", timeout_of({workflow = "stalls", stream = true}, {idle = 60, total = 0.02}))
  end)

  it("refuses pieces that are no text or cut a character", function()
    local problems = {}
    embedded.on_error = function(problem) problems[#problems + 1] = problem.message end
    embedded.workflow("w", {providers = {
      {respond = function(_, context) context.emit("\xc3") end},
      {respond = function(_, context) context.emit(5) end},
      {respond = function(_, context)
        context.emit("")
        return "fine"
      end},
    }})
    assert.equal("fine", support.text(support.chunks(transport, {workflow = "w"})))
    assert.equal(2, #problems)
    assert.truthy(problems[1]:find("UTF%-8"))
  end)
end)
