-- What goes out: every field as it was written, and what is refused before anything is sent.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local json = require "riverlua.json"
local modelriver = require "modelriver"

local refuses, faked = support.refuses, support.faked

local function user(text) return {{role = "user", content = text or "hi"}} end

-- The JSON text that a call sends.
local function sent(fields, method)
  local client, requests = faked()
  client[method or "ai"](client, fields)
  return requests[1].json
end

-- The part of it under `name`, as JSON.
local function sent_part(name, value)
  return json.encode(json.decode(sent{workflow = "w", messages = user(), [name] = value})[name], {sort = true})
end

describe("every field of the API arrives as it was written", function()
  local stub, client
  setup(function() stub = support.start() end)
  teardown(function() stub:close() end)
  before_each(function()
    stub:reset()
    client = support.client(stub)
  end)
  after_each(function() client:close() end)

  local tool = {type = "function", ["function"] = {name = "weather", description = "of a city", parameters = {
    type = "object", properties = {city = {type = "string"}}, required = {"city"}}}}
  local fields = {
    workflow = "echo", messages = {
      {role = "system", content = "Be brief."},
      {role = "user", name = "me", content = {{type = "text", text = "what is "},
        {type = "image_url", image_url = {url = "https://x/y"}}}},
      {role = "assistant", content = json.null, tool_calls = {{id = "c1", type = "function",
        ["function"] = {name = "weather", arguments = "{}"}}}},
      {role = "tool", tool_call_id = "c1", content = "sunny"},
    },
    temperature = 0.7, max_tokens = 100, top_p = 0.9, stream = false, format = "raw",
    response_format = {type = "text"}, tools = {tool}, tool_choice = "auto",
    inputs = {"a", {b = 1}}, metadata = {audience = "enterprise customers", deep = {list = {1, 2.5, true, json.null}}},
    context = "some context", user_id = "user_1", task_id = 17, delivery_method = "websocket",
    webhook_url = "http://127.0.0.1:9/hook", prompt = "p", size = "1024x1024", quality = "hd", n = 1, user = "u",
    stop = {"END"}, seed = 9007199254740993, presence_penalty = -0.5, frequency_penalty = 0.5, logprobs = true,
    top_logprobs = 3, parallel_tool_calls = false, max_completion_tokens = 50, a_cache_field_of_mine = {1, 2, 3},
    unknown = json.null,
  }

  it("at once", function()
    client:ai(fields)
    assert.same(json.decode(json.encode(fields)), support.bodies(stub)[1])
    local line = stub:log()[1]
    assert.equal("POST", line.method)
    assert.equal("/v1/ai", line.target)
    assert.same({"application/json", "application/json", "Bearer " .. stub.info.keys.good},
      {line.headers["content-type"], line.headers.accept, line.headers.authorization})
  end)

  it("with a provider and a model, a schema and events", function()
    local others = {provider = "openai", model = "gpt-4o", messages = user(), events = {"done"},
      structured_output_schema = {type = "object", properties = {a = {type = "integer"}}},
      input = {"text to embed", "another"}, stream_options = {include_usage = true}}
    support.error_of(client.ai, client, others)   -- the stand-in answers events only to jobs
    others.events = nil
    assert.same({a = 1}, client:ai(others).data)
    others.events = {"done"}
    assert.same(others, support.bodies(stub)[1])
  end)

  it("and the words of a prompt: Unicode, line breaks, control characters, a mebibyte", function()
    for _, text in ipairs{"Grüße, 世界 🎉 e\u{301}", "a\nb\tc\r\n\"quoted\" \\ /", "\0\1\31\127", "\u{2028}\u{10FFFF}",
      ("ä"):rep(512 * 1024), "</script>", ""} do
      assert.equal(text, client:ai("echo", text):text())
    end
  end)

  it("by position: workflow, text, the rest", function()
    client:ai("echo", "hello", {temperature = 0.5, user_id = "u"})
    client:ai("echo", {modelriver.text("hello"), modelriver.text("again")})
    client:ai("echo", nil, {messages = user("as fields")})
    assert.same({
      {workflow = "echo", messages = user("hello"), temperature = 0.5, user_id = "u"},
      {workflow = "echo", messages = {{role = "user", content = {{type = "text", text = "hello"},
        {type = "text", text = "again"}}}}},
      {workflow = "echo", messages = user("as fields")},
    }, support.bodies(stub))
  end)

  it("a body of the wrong encoding is refused here", function()
    local err = refuses("cannot be sent as JSON: $.messages%[1%].content", client.ai, client, "echo", "\xff\xfe")
    assert.equal("json", err.cause.kind)
    assert.equal(0, stub:stats().requests)
  end)

  it("with headers of the call's own in place of the usual ones, whatever their case", function()
    client:ai{workflow = "echo", messages = user(), headers = {["x-trace"] = "t", ["user-agent"] = "mine",
      ["ACCEPT"] = "application/json; q=1"}}
    local headers = stub:log()[1].headers
    assert.same({"t", "mine", "application/json; q=1"}, {headers["x-trace"], headers["user-agent"], headers.accept})
    local err = support.error_of(client.ai, client, {workflow = "echo", messages = user(),
      headers = {authorization = "Bearer wrong"}})
    assert.equal("auth", err.kind)
    assert.equal("Bearer wrong", support.sent_headers(stub, "authorization")[2])
    refuses("line break", client.ai, client, {workflow = "echo", messages = user(), headers = {["x-a"] = "a\r\nb: c"}})
    refuses("not a header's name", client.ai, client, {workflow = "echo", messages = user(), headers = {["a b"] = ""}})
    assert.equal(2, stub:stats().requests)
  end)
end)

describe("the user's table", function()
  it("stays as it was", function()
    local fields = {workflow = "w", messages = {{role = "user", content = {}}}, tools = {}, max_tokens = 5.0,
      timeout = 3, headers = {a = "b"}, idempotency_key = true, extra = {schema = 1},
      structured_output_schema = {required = {}, properties = {a = {enum = {}}}}}
    local before = json.encode(fields, {sort = true})
    local schema = fields.structured_output_schema
    sent(fields)
    assert.equal(before, json.encode(fields, {sort = true}))
    assert.equal(schema, fields.structured_output_schema)
    assert.is_nil(getmetatable(fields.tools))
    assert.is_nil(getmetatable(schema.required))
  end)

  it("is not sent with the options of the call in it", function()
    assert.equal('{"messages":[{"content":"hi","role":"user"}],"schema":1,"timeout":"x","workflow":"w"}',
      sent{workflow = "w", messages = user(), timeout = 3, retries = 0, headers = {}, idempotency_key = false,
        extra = {schema = 1, timeout = "x"}})
  end)
end)

describe("empty tables", function()
  it("are lists where the API has lists", function()
    for _, name in ipairs{"tools", "stop", "events"} do assert.equal("[]", sent_part(name, {})) end
    assert.equal('[{"content":[],"role":"user"},{"content":"","role":"assistant","tool_calls":[]}]',
      sent_part("messages", {{role = "user", content = {}}, {role = "assistant", content = "", tool_calls = {}}}))
  end)

  it("are lists where JSON Schema has lists", function()
    local schema = {type = "object", required = {}, properties = {a = {enum = {}, anyOf = {{required = {}}, {}}},
      b = {type = "array", items = {required = {}}, prefixItems = {}}}, ["$defs"] = {x = {allOf = {}}},
      additionalProperties = {oneOf = {}}, dependentRequired = {a = {}}}
    local wanted = '{"$defs":{"x":{"allOf":[]}},"additionalProperties":{"oneOf":[]},"dependentRequired":{"a":[]},'
      .. '"properties":{"a":{"anyOf":[{"required":[]},{}],"enum":[]},"b":{"items":{"required":[]},"prefixItems":[],'
      .. '"type":"array"}},"required":[],"type":"object"}'
    assert.equal(wanted, sent_part("structured_output_schema", schema))
    assert.equal(wanted, sent_part("response_format", schema))
    assert.equal(('{"json_schema":{"name":"n","schema":%s,"strict":true},"type":"json_schema"}'):format(wanted),
      sent_part("response_format", {type = "json_schema", json_schema = {name = "n", strict = true, schema = schema}}))
    assert.equal(('[{"function":{"name":"f","parameters":%s},"type":"function"}]'):format(wanted),
      sent_part("tools", {{type = "function", ["function"] = {name = "f", parameters = schema}}}))
  end)

  it("are objects where names of lists are the user's own", function()
    -- properties of a schema may be called anything
    local schema = {type = "object", properties = {required = {}, content = {}, enum = {}, examples = {}, tools = {}}}
    assert.equal('{"properties":{"content":{},"enum":{},"examples":{},"required":{},"tools":{}},"type":"object"}',
      sent_part("structured_output_schema", schema))
    for _, name in ipairs{"metadata", "inputs", "context", "own_field"} do
      assert.equal('{"content":{},"messages":{},"parts":{},"tools":{}}',
        sent_part(name, {content = {}, messages = {}, parts = {}, tools = {}}))
      assert.equal("{}", sent_part(name, {}))
    end
    assert.equal('[{"function":{"name":"f","parameters":{}}}]',
      sent_part("tools", {{["function"] = {name = "f", parameters = {}}}}))
  end)

  it("are what they were marked as", function()
    assert.equal("[]", sent_part("metadata", json.array{}))
    assert.equal('{"required":{}}', sent_part("structured_output_schema", {required = json.object{}}))
    assert.equal("[[],[1],{}]", sent_part("inputs", {json.array{}, {1}, {}}))
  end)

  it("of a schema in a circle are an error, not a hang", function()
    local schema = {type = "object"}
    schema.properties = {again = schema}
    refuses("cannot be sent as JSON", sent, {workflow = "w", messages = user(), structured_output_schema = schema})
  end)
end)

describe("null", function()
  it("is sent where it was written, also under names that are looked at", function()
    for _, name in ipairs{"temperature", "top_p", "max_tokens", "n", "tools", "tool_choice", "stop", "response_format",
      "structured_output_schema", "format", "stream", "events", "webhook_url", "metadata", "own"} do
      assert.equal("null", sent_part(name, json.null))
    end
    assert.equal('{"messages":null,"model":"m","provider":"p","workflow":null}',
      sent{workflow = json.null, provider = "p", model = "m", messages = json.null})
    refuses("'workflow' is missing", sent, {workflow = json.null, messages = user()})
  end)
end)

describe("refused before anything is sent", function()
  local client, requests
  before_each(function() client, requests = faked() end)
  after_each(function() assert.equal(0, #requests) end)

  local function refused(pattern, fields)
    for _, method in ipairs{"ai", "stream"} do
      local all = {workflow = "w", messages = user()}
      for name, value in pairs(fields) do all[name] = value end
      local err = refuses(pattern, client[method], client, all)
      assert.truthy(err.message:find("^" .. method .. "[: ]"), err.message)
    end
  end

  it("a request to nobody", function()
    refuses("ai: 'workflow' is missing.*hint: workflow = \"name\"", client.ai, client, {messages = user()})
    refuses("'model' is missing: a provider needs one", client.ai, client, {provider = "openai", messages = user()})
    refuses("'workflow' is missing, or 'provider' beside the model", client.ai, client, {model = "m"})
    refused("'workflow' is empty", {workflow = ""})
    refused("'workflow' must be a string, got number", {workflow = 5})
    refuses("'request' must be a table or a string, got nothing", client.ai, client)
    refuses("'request' must be a table or a string, got number", client.ai, client, 5)
  end)

  it("arguments in the wrong place", function()
    refuses("fields have names, got 1 .hint: write ai{workflow", client.ai, client, {"w", "text"})
    refuses("write ai%(\"w\", text, {…}%)", client.ai, client, "w", {messages = user()})
    refuses("the text and 'messages' are both given", client.ai, client, "w", "text", {messages = user()})
    refuses("'workflow' is given twice", client.ai, client, "w", "text", {workflow = "v"})
    refuses("'text' must be a string or a table, got number", client.ai, client, "w", 5)
    refuses("'options' must be a table, got number", client.ai, client, "w", "text", 5)
    refuses("all goes into one table", client.ai, client, {workflow = "w", messages = user()}, {timeout = 3})
    refuses("all goes into one table", client.ai, client, {workflow = "w", messages = user()}, nil, {timeout = 3})
  end)

  it("names that are nearly the API's", function()
    refused("unknown field 'message'; did you mean 'messages'?.*extra = {message = …}", {message = "hi"})
    refused("did you mean 'temperature'", {temprature = 1})
    refused("did you mean 'max_tokens'", {max_token = 1})
    refused("did you mean 'workflow'", {Workflow = "w"})
    refused("did you mean 'metadata'", {meta_data = {}})
    refused("did you mean 'timeout'", {timeouts = 1})
    refused("did you mean 'retries'", {retrys = 1})
    refused("did you mean 'tools'", {tool = {}})
    refuses("there is no option 'schema' here.*structured_output_schema", client.stream, client,
      {workflow = "w", messages = user(), schema = {}})
  end)

  it("messages that are none", function()
    refused("'messages' must be a list of messages, got a string.*modelriver.user", {messages = "hi"})
    refused("'messages' must be a list of messages, got one.*braces", {messages = user()[1]})
    refused("'messages' is empty", {messages = {}})
    refused("'messages' is empty", {messages = json.array{}})
    refused("messages%[1%] must be a table {role =, content =}, got a string.*modelriver.user", {messages = {"hi"}})
    refused("messages%[2%] has no role", {messages = {user()[1], {content = "hi"}}})
    refused("messages%[1%] has no role", {messages = {{role = 5, content = "hi"}}})
    refused("there is no role 'usr' .hint: did you mean 'user'", {messages = {{role = "usr", content = "hi"}}})
    refused("did you mean 'user'", {messages = {{role = "User", content = "hi"}}})
    refused("messages%[1%] %(user%) has no content", {messages = {{role = "user"}}})
    refused("messages%[1%] %(assistant%) has neither content nor tool_calls", {messages = {{role = "assistant"}}})
    refused("content must be a text or a list of parts, got a number", {messages = {{role = "user", content = 5}}})
    refused("got one part", {messages = {{role = "user", content = modelriver.text("hi")}}})
    refused("has the key 'x'", {messages = {user()[1], x = 1}})
    refused("messages", {messages = {user()[1], nil, user()[1]}})
    refused("has the key 'n'", {messages = table.pack(user()[1])})
  end)

  it("numbers out of bounds", function()
    for _, value in ipairs{-0.1, 2.1, math.huge, -math.huge} do
      refused("'temperature' must be between 0 and 2, got", {temperature = value})
    end
    refused("'temperature' must be between 0 and 2, got NaN", {temperature = 0 / 0})
    refused("'temperature' must be a number, got string", {temperature = "0.5"})
    refused("'top_p' must be between 0 and 1, got 1.5", {top_p = 1.5})
    for _, name in ipairs{"max_tokens", "max_completion_tokens", "n"} do
      refused(("'%s' must be an integer, got 1.5"):format(name), {[name] = 1.5})
      refused(("'%s' must be an integer, got inf"):format(name), {[name] = math.huge})
      refused(("'%s' must be at least 1, got 0"):format(name), {[name] = 0})
      refused(("'%s' must be a number, got string"):format(name), {[name] = "5"})
    end
  end)

  it("NaN and infinities, functions and circles anywhere", function()
    refused("cannot be sent as JSON: $.metadata.list%[2%] is NaN", {metadata = {list = {1, 0 / 0}}})
    refused("cannot be sent as JSON: $.own", {own = math.huge})
    refused("cannot be sent as JSON: $.inputs.fn is a function", {inputs = {fn = print}})
    refused("cannot be sent as JSON: $.context", {context = {[1] = 1, a = 2}})
    local circle = {}
    circle.again = circle
    refused("cannot be sent as JSON", {metadata = circle})
    local deep = {}
    for _ = 1, 3000 do deep = {deep} end
    refused("cannot be sent as JSON", {inputs = deep})
  end)

  it("fields of the wrong type", function()
    refused("'format' must be \"raw\" or \"wrapped\", got rwa", {format = "rwa"})
    refused("'tools' must be a table, got string", {tools = "weather"})
    refused("'tools' must be a list.*client:run", {tools = {weather = {fn = print}}})
    refused("tools%[1%] must be a table.*got a string", {tools = {"weather"}})
    refused("tools%[1%]: 'function' must be a table.*got a string", {tools = {{["function"] = "weather"}}})
    refused("Lua functions are for client:run", {tools = {{["function"] = print}}})
    refused("tools%[2%]: the function has no name", {tools = {{type = "web_search"}, {["function"] = {}}}})
    refused("'tool_choice' must be a string or a table, got boolean", {tool_choice = true})
    refused("'stop' must be a string or a table", {stop = 5})
    refused("'response_format' must be a table, got string", {response_format = "json"})
    refused("'structured_output_schema' must be a table, got string", {structured_output_schema = "{}"})
    refused("'stream' must be a boolean, got string", {stream = "yes"})
    refused("'events%[1%]' must be a string, got number", {events = {5}})
    refused("'events' must be a list", {events = {done = true}})
    refused("'webhook_url' is empty", {webhook_url = ""})
    refused("'headers' must be a table, got string", {headers = "a: b"})
    refused("headers%[\"a\"%]' must be a string or a number, got boolean", {headers = {a = true}})
    refused("'a header's name' must be a string, got number", {headers = {"a: b"}})
    refused("'extra' must be a table, got string", {extra = "a"})
    refused("'a field's name in extra' must be a string", {extra = {1}})
    refused("'idempotency_key' must be a string or a boolean, got number", {idempotency_key = 5})
    refused("'idempotency_key' is empty", {idempotency_key = ""})
    refused("control characters", {idempotency_key = "a\nb"})
  end)

  it("a stream where the answer comes in one piece", function()
    refuses("'stream' is for client:stream.*hint: write client:stream", client.ai, client,
      {workflow = "w", messages = user(), stream = true})
    refuses("'stream' is for client:stream", client.ai, client, {workflow = "w", messages = user(),
      extra = {stream = true}})
  end)
end)

describe("passed on, although it is unusual", function()
  it("names of the user's own", function()
    for _, name in ipairs{"step", "site", "size", "lang", "user_name", "customer", "session_id", "locale", "meta",
      "priority", "x", "schema_version", "format_hint"} do
      assert.equal('"v"', sent_part(name, "v"))
    end
  end)

  it("roles, parts and tools that are not known here", function()
    local all = {workflow = "w", messages = {{role = "developer", content = "d"}, {role = "critic", content = "c"},
      {role = "assistant", refusal = "no"}, {role = "assistant", tool_calls = {{id = "a"}}},
      {role = "user", content = {{type = "input_audio", input_audio = {data = "x"}}}}},
      tools = {{type = "web_search"}, {name = "f", input_schema = {type = "object"}}}}
    assert.same(all, json.decode(sent(all)))
  end)

  it("whole floats where integers are wanted", function()
    assert.equal("100", sent_part("max_tokens", 100.0))
    assert.equal("0.0", sent_part("temperature", 0.0))
    assert.equal("2", sent_part("temperature", 2))
  end)

  it("requests without messages", function()
    assert.equal('{"inputs":{"topic":"rivers"},"workflow":"w"}', sent{workflow = "w", inputs = {topic = "rivers"}})
    assert.equal('{"prompt":"a cat","workflow":"image"}', sent{workflow = "image", prompt = "a cat"})
  end)
end)
