-- The OpenAI-compatible endpoint, on ModelRiver's stand-in and on another server.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local json = require "riverlua.json"
local modelriver = require "modelriver"
local server = require "riverlua.server"
local task = require "riverlua.task"

local error_of, refuses, faked = support.error_of, support.refuses, support.faked

local function user(text) return {{role = "user", content = text or "hi"}} end

describe("client.chat.completions:create", function()
  local stub, client
  setup(function() stub = support.start() end)
  teardown(function() stub:close() end)
  before_each(function()
    stub:reset()
    client = support.client(stub)
  end)
  after_each(function() client:close() end)

  local function create(fields)
    fields.messages = fields.messages or user()
    return client.chat.completions:create(fields)
  end

  it("returns OpenAI's body, and the answer in the usual form", function()
    local completion, answer = create{model = "echo", messages = user("hello"), temperature = 0, user_id = "u1"}
    assert.equal("chat.completion", completion.object)
    assert.same({role = "assistant", content = "hello"}, completion.choices[1].message)
    assert.equal("stop", completion.choices[1].finish_reason)
    assert.equal(21, completion.usage.total_tokens)
    assert.equal(completion, answer.raw)
    assert.equal("hello", answer:text())
    assert.same({"openai", "gpt-4o-mini", "echo", "u1"}, {answer.meta.provider, answer.meta.model, answer.meta.workflow,
      answer.customer_data.user_id})
    assert.equal("/v1/chat/completions", stub:log()[1].path)
  end)

  it("sends fields as they are, and options not at all", function()
    create{model = "echo", seed = 5, logit_bias = {["50256"] = -100}, tools = {}, stop = {"a"}, n = 1, timeout = 5,
      retries = 1, headers = {["x-own"] = "1"}, extra = {schema = 1}, metadata = {a = json.null}}
    assert.same({model = "echo", messages = user(), seed = 5, logit_bias = {["50256"] = -100}, tools = {}, stop = {"a"},
      n = 1, schema = 1, metadata = {a = json.null}}, support.bodies(stub)[1])
    assert.truthy(stub:log()[1].body:find('"tools":[]', 1, true))
    assert.equal("1", support.sent_headers(stub, "x-own")[1])
  end)

  it("calls tools", function()
    local completion, answer = create{model = "tools", tools = {{type = "function", ["function"] = {name = "weather"}}}}
    assert.equal("weather", completion.choices[1].message.tool_calls[1]["function"].name)
    assert.equal("weather", answer.tool_calls[1].name)
  end)

  it("raises the same errors", function()
    local err = error_of(create, {model = "no-such-workflow"})
    assert.same({"not_found", "model_not_found", "no-such-workflow"}, {err.kind, err.code, err.workflow})
    assert.truthy(err.message:find("^chat.completions:create 'no%-such%-workflow': "))
    assert.equal("client:ai_async", error_of(create, {model = "event:x"}).hint:match("client:ai_async"))
    assert.equal("provider", error_of(create, {model = "fail200"}).kind)
    assert.equal("rate_limit", error_of(create, {model = "rate429:100"}).kind)
    assert.equal("protocol", error_of(create, {model = "badjson"}).kind)
    assert.equal("hi", create{model = "flaky:2"}.choices[1].message.content)
  end)

  it("streams chunks as OpenAI sends them", function()
    local texts, chunks = {}, {}
    for chunk in create{model = "echo", messages = user("one two three"), stream = true,
      stream_options = {include_usage = true}} do
      chunks[#chunks + 1] = chunk
      texts[#texts + 1] = chunk.choices[1] and chunk.choices[1].delta.content
    end
    assert.equal("one two three", table.concat(texts))
    assert.equal("chat.completion.chunk", chunks[1].object)
    assert.equal("assistant", chunks[1].choices[1].delta.role)
    assert.equal("stop", chunks[#chunks - 1].choices[1].finish_reason)
    assert.same({{}, 21}, {chunks[#chunks].choices, chunks[#chunks].usage.total_tokens})
    assert.equal(21, client.usage.by_workflow.echo.total_tokens)
    local body = support.bodies(stub)[1]
    assert.same({true, {include_usage = true}}, {body.stream, body.stream_options})
  end)

  it("frees the connection of a stream whose loop is left", function()
    for chunk in create{model = "echo+stall:2", messages = user("one two three"), stream = true} do
      if chunk.choices[1].delta.content then break end
    end
    assert.is_true(stub:wait{key = "gone:echo+stall:2", counted = 1})
    assert.is_true(stub:wait{open = 0})
    assert.equal("after", create{model = "echo", messages = user("after")}.choices[1].message.content)
  end)

  it("raises what went wrong before a stream, and in its middle", function()
    local err = error_of(create, {model = "fail401", stream = true})
    assert.same({"auth", 401}, {err.kind, err.status})
    assert.equal("provider", error_of(create, {model = "fail200", stream = true}).kind)
    local count = 0
    err = error_of(function()
      for _ in create{model = "echo+midfail:data", messages = user("one two"), stream = true} do count = count + 1 end
    end)
    assert.equal("stream", err.kind)
    assert.truthy(err.partial:find("one", 1, true))
    assert.is_true(count >= 2)
  end)

  it("refuses what is certainly wrong before anything is sent", function()
    refuses("create: 'model' is missing", create, {})
    refuses("create: 'model' is missing", create, {model = ""})
    refuses("create: 'model' is missing", create, {model = json.null})
    refuses("create: 'messages' is missing.*modelriver.user", client.chat.completions.create, client.chat.completions,
      {model = "m"})
    refuses("did you mean 'temperature'", create, {model = "m", temprature = 1})
    refuses("'temperature' must be between 0 and 2", create, {model = "m", temperature = 3})
    refuses("there is no option 'schema' here", create, {model = "m", schema = {}})
    refuses("'request' must be a table, got string", client.chat.completions.create, client.chat.completions, "m")
    refuses("'stream' must be a boolean", create, {model = "m", stream = 1})
    assert.equal(0, stub:stats().requests)
  end)
end)

-- A server with the manners of others; what it was asked is kept in `seen`.
local function start_other(seen)
  return server.new{handler = function(req)
    local body = json.decode(req.body)
    seen[#seen + 1] = {path = req.path, key = req.headers.authorization, body = body}
    local function answer(status, value)
      return {status = status, headers = {["content-type"] = "application/json"}, body = json.encode(value)}
    end
    if body.stream then
      return {status = 200, headers = {["content-type"] = "text/event-stream"}, body = table.concat{
        'data: {"choices":[{"index":0,"delta":{"content":"he"}}]}\n\n', 'data: {"choices":[{"index":0,"delta":',
        '{"content":"llo"},"finish_reason":"stop"}]}\n\n', "data: [DONE]\n\n"}}
    elseif body.model == "missing" then
      return answer(404, {object = "error", message = "no such model", code = 404})
    end
    return answer(200, {id = "x", object = "chat.completion", model = "llama", system_fingerprint = json.null,
      choices = {{index = 0, message = {role = "assistant", content = "hello"}, finish_reason = "stop"}}})
  end}
end

describe("another OpenAI-compatible server", function()
  it("is talked to by base_url alone, with its own key or none", function()
    local seen = {}
    local other = start_other(seen)
    local running <close> = task.spawn(other.run, other)
    local base = ("http://127.0.0.1:%d"):format(other.port)
    local client <close> = modelriver.Client{base_url = base .. "/openai/v1", api_key = "sk-other-key",
      http = {proxy = false}}
    local completion, answer = client.chat.completions:create{model = "llama", messages = user()}
    assert.equal("hello", completion.choices[1].message.content)
    assert.is_nil(completion.system_fingerprint)
    assert.same({"llama", 1, false}, {answer.meta.model, client.usage.uncounted, answer.usage or false})
    local texts = {}
    for chunk in client.chat.completions:create{model = "llama", messages = user(), stream = true} do
      texts[#texts + 1] = chunk.choices[1].delta.content
    end
    assert.equal("hello", table.concat(texts))
    assert.same({path = "/openai/v1/chat/completions", key = "Bearer sk-other-key", body = {model = "llama",
      messages = user()}}, seen[1])
    local completions = client.chat.completions
    local err = error_of(completions.create, completions, {model = "missing", messages = user()})
    assert.same({"not_found", 404}, {err.kind, err.code})
    assert.truthy(err.message:find("no such model", 1, true))
    local keyless <close> = modelriver.Client{base_url = base, api_key = false, http = {proxy = false}}
    keyless.chat.completions:create{model = "llama", messages = user()}
    assert.is_nil(seen[#seen].key)
    assert.equal("/v1/chat/completions", seen[#seen].path)
    assert.equal("waiting", running:status())
    other:stop()
  end)

  it("that answers in odd forms is understood", function()
    local client = faked{body = {model = "m", choices = {{text = "completed"}}}}
    local completion, answer = client.chat.completions:create{model = "m", messages = user()}
    assert.equal("completed", completion.choices[1].text)
    assert.equal("completed", answer:text())
    client = faked{body = {error = "model 'm' not found"}}
    local err = error_of(client.chat.completions.create, client.chat.completions, {model = "m", messages = user()})
    assert.equal("provider", err.kind)
    assert.truthy(err.message:find("model 'm' not found", 1, true))
  end)
end)
