-- Conversations: what goes along with a question, and what is kept of it.

local json = require "riverlua.json"
local modelriver = require "modelriver"
local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local task = require "riverlua.task"

local error_of, faked, refuses, servers = support.error_of, support.faked, support.refuses, support.servers

local function said(text, more)
  local message = {role = "assistant", content = text}
  for name, value in pairs(more or {}) do message[name] = value end
  return {body = {choices = {{index = 0, message = message, finish_reason = "stop"}}}}
end

local function calls(...)
  local list = {}
  for i, id in ipairs{...} do
    list[i] = {id = id, type = "function", ["function"] = {name = "f", arguments = "{}"}}
  end
  return said(json.null, {tool_calls = list})
end

-- The roles of messages, and the first letters of what they say: "s:Be u:one a:ONE".
local function summary(messages)
  local words = {}
  for i, message in ipairs(messages) do
    local content = message.tool_calls and "calls" or tostring(message.content)
    words[i] = message.role:sub(1, 1) .. ":" .. content:match("^%S*")
  end
  return table.concat(words, " ")
end

-- A session whose service answers with the question in capitals, and a function that tells what was sent.
local function shouting(options, answer)
  local client, requests = faked(answer or function(req)
    local messages = req.json.messages
    return said(messages[#messages].content:upper())
  end)
  local session = client:session(options or {workflow = "w"})
  return session, function(number) return json.decode(requests[number or #requests].json) end, requests, client
end

describe("a session", function()
  it("sends every question with what was said before, and the system's message once", function()
    local session, sent = shouting{workflow = "w", system = "Be brief."}
    assert.equal("ONE", session:ask("one"):text())
    assert.equal("s:Be u:one", summary(sent().messages))
    session:ask("two")
    assert.equal("s:Be u:one a:ONE u:two", summary(sent().messages))
    session:ask("three")
    assert.equal("s:Be u:one a:ONE u:two a:TWO u:three", summary(sent().messages))
    assert.equal("s:Be u:one a:ONE u:two a:TWO u:three a:THREE", summary(session.messages))
    assert.equal("modelriver.Session(7 messages)", tostring(session))
  end)

  it("sends its fields with every question, and some with one only", function()
    local session, sent = shouting{workflow = "w", temperature = 0.5, user_id = "u"}
    session:ask("one", {temperature = 1, metadata = {a = 1}})
    local body = sent()
    assert.same({1, 1, "u", "w"}, {body.temperature, body.metadata.a, body.user_id, body.workflow})
    session:ask("two")
    body = sent()
    assert.equal(0.5, body.temperature)
    assert.is_nil(body.metadata)
    for _, name in ipairs{"client", "system", "max_messages"} do assert.is_nil(body[name]) end
  end)

  it("leaves the user's tables alone", function()
    local earlier = {modelriver.user("zero"), modelriver.assistant("ZERO")}
    local options = {workflow = "w", system = "Be brief.", messages = earlier, max_messages = 3}
    local session = shouting(options)
    local more = {temperature = 1}
    session:ask("one", more)
    assert.same({temperature = 1}, more)
    assert.equal(2, #earlier)
    assert.same({workflow = "w", system = "Be brief.", messages = earlier, max_messages = 3}, options)
  end)

  it("stays as it was when a call fails, and the question may be asked again", function()
    local down = true
    local session, sent = shouting({workflow = "w", system = "Be brief."}, function(req)
      return down and {status = 400, body = {error = {message = "no"}}} or said(#req.json.messages .. " messages")
    end)
    for _, method in ipairs{"ask", "stream", "run"} do
      assert.equal("invalid_request", error_of(session[method], session, "one",
        method == "run" and {tools = {f = summary}} or nil).kind)
      assert.equal("s:Be", summary(session.messages))
    end
    refuses("temperature", session.ask, session, "one", {temperature = 9})
    down = false
    assert.equal("2 messages", session:ask("one"):text())
    assert.equal("s:Be u:one", summary(sent().messages))
    assert.equal("s:Be u:one a:2", summary(session.messages))
  end)

  it("keeps of an answer what the next request may have", function()
    local session, sent = shouting(nil, said("x", {annotations = json.array{}, tool_calls = json.array{}}))
    session:ask("one")
    session:ask("two")
    assert.same({role = "assistant", content = "x", annotations = {}}, sent().messages[2])
    session, sent = shouting(nil, said(json.null, {refusal = "I will not.", role = json.null}))
    session:ask("one")
    session:ask("two")
    assert.same({role = "assistant", content = "I will not.", refusal = "I will not."}, sent().messages[2])
    session = shouting({workflow = "w", schema = {type = "object"}},
      {body = {data = {a = 1}, meta = {status = "success"}}})
    assert.same({a = 1}, session:ask("one").data)
    assert.same({role = "assistant", content = '{"a":1}'}, session.messages[2])
  end)

  it("keeps the answer that was repaired, and not how", function()
    local number = 0
    local session = shouting({workflow = "w", schema = {type = "object"}, repair = true}, function()
      number = number + 1
      return said(number == 1 and "no" or "{}")
    end)
    session:ask("one")
    assert.equal("u:one a:{}", summary(session.messages))
    session = shouting({workflow = "w", schema = {type = "object"}}, said("no"))
    assert.equal("schema", error_of(session.ask, session, "one").kind)
    assert.same({}, session.messages)
  end)

  it("takes texts, parts, images, and whole messages", function()
    local session, sent = shouting(nil, said("a cat"))
    local image = modelriver.image("\137PNG\r\n\26\nrest")
    session:ask{modelriver.text("What is this?"), image}
    assert.same({role = "user", content = {{type = "text", text = "What is this?"}, image}}, sent().messages[1])
    session:ask(modelriver.user("And this?", image))
    assert.same({{type = "text", text = "And this?"}, image}, sent().messages[3].content)
    session:ask(image)
    assert.same({image}, sent().messages[5].content)
    local own = modelriver.user("mine")
    session:ask(own)
    assert.equal(own, session.messages[7])
  end)

  it("goes on where another one ended, through JSON", function()
    local first = shouting{workflow = "w", system = "Be brief."}
    first:ask("one")
    local saved = json.encode(first.messages)
    local session, sent = shouting{workflow = "w", messages = json.decode(saved)}
    session:ask("two")
    assert.equal("s:Be u:one a:ONE u:two", summary(sent().messages))
    session, sent = shouting{workflow = "w", messages = json.decode("[]")}
    session:ask("one")
    assert.equal("u:one", summary(sent().messages))
    session, sent = shouting{workflow = "w", messages = json.decode(json.encode(shouting().messages))}
    session:ask("one")
    assert.equal("u:one", summary(sent().messages))
  end)

  it("has the system's message that it was given, whatever was saved", function()
    local saved = {modelriver.system("Old."), modelriver.user("one"), modelriver.assistant("ONE")}
    local session = shouting{workflow = "w", system = "New.", messages = saved}
    assert.equal("s:New. u:one a:ONE", summary(session.messages))
    assert.equal("Old.", saved[1].content)
    session = shouting{workflow = "w", system = "New.", messages = {{role = "developer", content = "Old."}}}
    assert.equal("d:New.", summary(session.messages))
    assert.equal("s:Old. u:one a:ONE", summary(shouting{workflow = "w", messages = saved}.messages))
  end)

  it("forgets what was said, but for the system's message", function()
    local session, sent = shouting{workflow = "w", system = "Be brief."}
    session:ask("one")
    local before = session.messages
    session:reset()
    assert.equal("s:Be", summary(session.messages))
    assert.equal(3, #before)
    session:ask("two")
    assert.equal("s:Be u:two", summary(sent().messages))
    session = shouting()
    session:ask("one")
    session:reset()
    assert.same({}, session.messages)
  end)

  it("refuses what is wrong when it is made, and when it is asked", function()
    local client, requests = faked(said("x"))
    local function refused(pattern, options) return refuses(pattern, client.session, client, options) end
    refused("^argument: session: 'options' must be a table, got string", "w")
    refused("'system' must be a string, got table", {system = {}})
    refused("'messages' must be a table, got string", {messages = "x"})
    refused("session: 'messages' must be a list of messages, got one", {messages = modelriver.user("x")})
    refused("session: messages%[1%] has no role", {messages = {{content = "x"}}})
    refused("'max_messages' must be an integer, got string", {max_messages = "3"})
    refused("'max_messages' must be at least 1, got 0", {max_messages = 0})
    refused("did you mean 'max_messages'", {max_mesages = 3})
    refused("did you mean 'system'", {sytem = "x"})
    refused("there is no option 'api_key' here.*modelriver.Client", {api_key = "mr_live_x"})
    refuses("'client' must be a modelriver.Client", modelriver.session, {client = {}})
    refuses("there is no option 'base_url' here.*modelriver.Client", modelriver.session, {base_url = "embedded:"})
    local session = client:session()
    refuses("^argument: ai: 'workflow' is missing", session.ask, session, "x")
    session = client:session{workflow = "w"}
    refuses("^argument: session:ask: 'content' must be a string or a table, got nothing", session.ask, session)
    refuses("session:stream: 'content' must be", session.stream, session, 5)
    refuses("session:run: 'content' must be", session.run, session, false)
    refuses("session:ask: 'options' must be a table", session.ask, session, "x", "y")
    for _, name in ipairs{"system", "messages", "client", "max_messages"} do
      refuses("session:ask: '" .. name .. "' belongs to the session, not to one question", session.ask, session, "x",
        {[name] = 1})
    end
    refuses("'tools' must be a table with functions", session.run, session, "x")
    refuses("there is no option 'schema' here", session.stream, session, "x", {schema = {}})
    assert.same({}, session.messages)
    assert.equal(0, #requests)
  end)

  it("closes the client that it made, and no other", function()
    local session, _, _, client = shouting()
    session:close()
    assert.equal("ONE", client:session{workflow = "w"}:ask("one"):text())
    local result = servers.run([[
      local modelriver = require "modelriver"
      modelriver.embedded.workflow("w", function() return "hello" end)
      local session <close> = modelriver.session{workflow = "w"}
      print(session:ask("x"):text())
      session:close()
      local ok, err = pcall(session.ask, session, "x")
      print(ok, err.kind)
    ]], {environment = {MODELRIVER_API_URL = "embedded:"}})
    assert.equal("hello\nfalse\tclosed\n", result.out, result.err)
  end)

  it("asked by two tasks at once keeps question and answer together", function()
    local session = shouting(nil, function(req)
      task.sleep(0)
      return said(req.json.messages[#req.json.messages].content:upper())
    end)
    task.gather(function() session:ask("one") end, function() session:ask("two") end)
    assert.equal("u:one a:ONE u:two a:TWO", summary(session.messages))
  end)
end)

describe("max_messages", function()
  local function sent_of(most, messages, system)
    local session, sent = shouting({workflow = "w", system = system, messages = messages, max_messages = most},
      said("x"))
    session:ask("new")
    assert.equal((system and 1 or 0) + #messages + 2, #session.messages)   -- nothing is forgotten
    return summary(sent().messages)
  end

  local function user(text) return {role = "user", content = text} end
  local function assistant(text) return {role = "assistant", content = text} end
  local function tool(id) return {role = "tool", tool_call_id = id, content = id} end
  local function calling(...) return calls(...).body.choices[1].message end

  it("leaves the older ones out, and keeps the system's", function()
    local talk = {user("1"), assistant("2"), user("3"), assistant("4")}
    assert.equal("s:Be u:1 a:2 u:3 a:4 u:new", sent_of(4, talk, "Be brief."))
    assert.equal("s:Be u:3 a:4 u:new", sent_of(3, talk, "Be brief."))
    assert.equal("s:Be u:3 a:4 u:new", sent_of(2, talk, "Be brief."))
    assert.equal("s:Be u:new", sent_of(1, talk, "Be brief."))
    assert.equal("u:1 a:2 u:3 a:4 u:new", sent_of(100, talk))
    assert.equal("u:3 a:4 u:new", sent_of(2, talk))
  end)

  it("takes no call from its results, nor an answer from its question", function()
    local talk = {user("1"), calling("a", "b"), tool("a"), tool("b"), assistant("2"), user("3"), assistant("4")}
    assert.equal("u:1 a:calls t:a t:b a:2 u:3 a:4 u:new", sent_of(7, talk))
    for most = 2, 6 do assert.equal("s:Be u:3 a:4 u:new", sent_of(most, talk, "Be brief.")) end
  end)

  it("does not cut what is short enough, whatever it begins with", function()
    assert.equal("a:Hello, u:new", sent_of(1, {assistant("Hello, I am here.")}))
    assert.equal("a:Hello, u:new", sent_of(nil, {assistant("Hello, I am here.")}))
  end)
end)

describe("session:run", function()
  it("keeps the calls and their results", function()
    local session, sent = shouting({workflow = "w", system = "Be brief.", tools = {f = function() return "r" end}},
      function(req)
        local messages = req.json.messages
        return messages[#messages].role == "user" and calls("1", "2") or said("done")
      end)
    assert.equal("done", session:run("one"):text())
    assert.equal("s:Be u:one a:calls t:r t:r a:done", summary(session.messages))
    session:run("two", {max_rounds = 3})
    assert.equal("s:Be u:one a:calls t:r t:r a:done u:two", summary(sent(3).messages))
    assert.equal("s:Be u:one a:calls t:r t:r a:done u:two a:calls t:r t:r a:done", summary(session.messages))
  end)

  it("keeps all of them when not all of them went along", function()
    local session, sent = shouting({workflow = "w", max_messages = 2, tools = {f = function() return "r" end}},
      function(req)
        local messages = req.json.messages
        return messages[#messages].role == "user" and calls("1") or said("done")
      end)
    session:run("one")
    session:run("two")
    assert.equal("u:two", summary(sent(3).messages))
    assert.equal("u:one a:calls t:r a:done u:two a:calls t:r a:done", summary(session.messages))
  end)

  it("that fails leaves the conversation as it was, and tells what was said", function()
    local session = shouting({workflow = "w"}, calls("1"))
    local err = error_of(session.run, session, "one", {max_rounds = 2, tools = {f = function() return "r" end}})
    assert.equal("limit", err.kind)
    assert.same({}, session.messages)
    assert.equal("u:one a:calls t:r a:calls t:r", summary(err.messages))
  end)
end)

describe("sessions with the stand-in", function()
  local stub, client

  setup(function() stub = support.start() end)
  teardown(function() stub:close() end)
  before_each(function()
    stub:reset()
    client = support.client(stub)
  end)
  after_each(function() client:close() end)

  local function sent(number) return summary(support.bodies(stub)[number].messages) end

  it("ask, in all shapes of answers", function()
    for _, workflow in ipairs{"echo", "anthropic", "null_content", "refusal", "failover"} do
      for _, format in ipairs{"raw", "wrapped"} do
        stub:reset()
        local session = client:session{workflow = workflow, format = format, system = "Be brief."}
        session:ask("one")
        session:ask("two")
        assert.truthy(sent(2):find("^s:Be u:one a:%S* u:two$"), workflow)
      end
    end
  end)

  it("keep what was streamed when it has come to its end", function()
    local session = client:session{workflow = "echo", system = "Be brief."}
    local pieces = {}
    for event in session:stream("one and more") do
      pieces[#pieces + 1] = event.delta
      assert.equal("s:Be", summary(session.messages))
    end
    assert.equal("one and more", table.concat(pieces))
    assert.equal("s:Be u:one a:one", summary(session.messages))
    assert.equal("one and more", session.messages[3].content)
    assert.equal("two", session:stream("two"):text())
    assert.equal("three", session:stream("three"):response():text())
    session:ask("four")
    assert.equal("s:Be u:one a:one u:two a:two u:three a:three u:four", sent(4))
  end)

  it("do not keep what was streamed in part", function()
    local session = client:session{workflow = "echo"}
    for event in session:stream("one two three") do
      if event.delta then break end
    end
    assert.same({}, session.messages)
    local err = error_of(function() return session:stream("one two three", {workflow = "midfail:data:1"}):text() end)
    assert.equal("stream", err.kind)
    assert.same({}, session.messages)
    session:ask("four")
    assert.equal("u:four a:four", summary(session.messages))
  end)

  it("keep all of a long stream", function()
    local session = client:session{workflow = "many:3000:" .. ("x"):rep(1000)}
    local size = 0
    for event in session:stream("go") do size = size + #(event.delta or "") end
    assert.equal(3000 * 1000, size)
    assert.equal(size, #session.messages[2].content)
  end)

  it("keep the calls of a stream, and go on when they are answered", function()
    local session = client:session{workflow = "tools"}
    local definition = {{type = "function", ["function"] = {name = "f", parameters = {type = "object"}}}}
    local stream = session:stream("go", {tools = definition})
    repeat until stream:next() == nil
    local made = stream.tool_calls[1]
    assert.equal("u:go a:calls", summary(session.messages))
    session.messages[3] = modelriver.tool(made.id, "result")
    assert.equal("thanks", session:ask("thanks", {tools = definition, tool_choice = "none"}):text())
    assert.equal("u:go a:calls t:result u:thanks", sent(2))
  end)

  it("run tools and go on", function()
    local session = client:session{workflow = "tools", tools = {f = function() return "result" end}}
    assert.equal("Tools said: result", session:run("one"):text())
    assert.equal("Tools said: result", session:run("two"):text())
    assert.equal("u:one a:calls t:result a:Tools u:two a:calls t:result", sent(4))
  end)

  it("ask again what failed", function()
    local session = client:session{workflow = "flaky:1+id:session", retries = 0}
    assert.equal("server", error_of(session.ask, session, "one").kind)
    assert.equal("one", session:ask("one"):text())
    assert.equal("u:one a:one", summary(session.messages))
  end)
end)

describe("sessions with the embedded gateway", function()
  it("ask, stream and run", function()
    modelriver.embedded.reset()
    modelriver.embedded.workflow("chat", function(request, context)
      local last = request.messages[#request.messages]
      if request.tools and last.role == "user" then return {tool_calls = {{name = "f"}}} end
      context.emit(#request.messages .. " ")
      context.emit("messages")
    end)
    local client <close> = modelriver.Client{base_url = "embedded:"}
    local session = modelriver.session{client = client, workflow = "chat"}
    assert.equal("1 messages", session:ask("one"):text())
    assert.equal("3 messages", session:stream("two"):text())
    assert.equal("7 messages", session:run("three", {tools = {f = function() return {} end}}):text())
    assert.equal(8, #session.messages)
    modelriver.embedded.reset()
  end)
end)
