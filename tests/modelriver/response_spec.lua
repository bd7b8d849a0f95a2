-- Answers of every shape, in one form.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local json = require "riverlua.json"

local faked = support.faked

local function user(text) return {{role = "user", content = text or "hi"}} end

-- The answer that a body with these headers is read as.
local function read(body, headers, fields)
  local client = faked{body = body, headers = headers}
  local all = {workflow = "w", messages = user()}
  for name, value in pairs(fields or {}) do all[name] = value end
  return client:ai(all)
end

local SAMPLE = {summary = "Launch went well", topics = {"launch", "sales"}, confidence = 0.95}
local OK = {provider = "openai", model = "gpt-4o-mini", status = "success"}

describe("an answer of the stand-in", function()
  local stub, client
  setup(function() stub = support.start() end)
  teardown(function() stub:close() end)
  before_each(function() client = support.client(stub) end)
  after_each(function() client:close() end)

  local function ask(workflow, format, text)
    return client:ai{workflow = workflow, messages = user(text), format = format, user_id = "u1",
      metadata = {audience = "enterprise", ignored = 1}}
  end

  -- What is the same whatever the envelope.
  local function is_complete(answer, workflow, text)
    assert.equal(text, answer:text())
    assert.same({user_id = "u1", ["metadata.audience"] = "enterprise"}, answer.customer_data)
    local meta = answer.meta
    assert.same({"openai", "gpt-4o-mini", workflow}, {meta.provider, meta.model, meta.workflow})
    assert.is_true(meta.duration_ms > 0)
    assert.same({prompt_tokens = 9, completion_tokens = 12, total_tokens = 21}, answer.usage)
    assert.equal(meta.usage, answer.usage)
    assert.same({OK}, answer.attempts)
    assert.equal(1, meta.attempt_count)
    assert.is_false(answer.offline_fallback)
    assert.is_false(answer.test_mode)
    assert.equal("success", meta.status)
    assert.equal("table", type(answer.raw))
    assert.same(answer.raw, json.decode(answer.body, {drop_null = true}))
    assert.equal("application/json; charset=utf-8", answer.headers["Content-Type"])
    assert.truthy(answer.request_id:find("^req_%d+$"))
    assert.equal(200, answer.status)
    assert.equal(1, answer.tries)
    assert.same({}, answer.tool_calls)
  end

  it("in the raw format", function()
    local answer = ask("echo", nil, "hello")
    is_complete(answer, "echo", "hello")
    assert.same({}, answer.backups)
    assert.equal(answer.raw, answer.data)
    assert.same({role = "assistant", content = "hello"}, answer.message)
    assert.equal("stop", answer.finish_reason)
    assert.equal("modelriver.Response(echo, gpt-4o-mini, 21 tokens)", tostring(answer))
  end)

  it("in the wrapped format", function()
    local answer = ask("echo", "wrapped", "hello")
    is_complete(answer, "echo", "hello")
    assert.same({{position = 1, provider = "anthropic", model = "claude-3-5-sonnet"}}, answer.backups)
    assert.equal(answer.raw.data, answer.data)
    assert.same({role = "assistant", content = "hello"}, answer.message)
    assert.equal("stop", answer.finish_reason)
  end)

  it("with structured data, in both formats and with a schema in any place", function()
    for _, format in ipairs{"raw", "wrapped"} do
      local answer = ask("marketing-summary", format)
      assert.same(SAMPLE, answer.data)
      assert.same(SAMPLE, json.decode(answer:text()))
    end
    local schema = {type = "object", properties = {city = {type = "string"}}}
    for _, fields in ipairs{{structured_output_schema = schema}, {response_format = schema},
      {response_format = {type = "json_schema", json_schema = {name = "n", schema = schema}}}} do
      for _, format in ipairs{"raw", "wrapped"} do
        fields.workflow, fields.messages, fields.format = "echo", user(), format
        local answer = client:ai(fields)
        assert.same({city = "text"}, answer.data)
        assert.is_true(answer.meta.structured_output)
      end
    end
  end)

  it("in Anthropic's shape", function()
    for _, format in ipairs{"raw", "wrapped"} do
      local answer = ask("anthropic", format, "bonjour")
      assert.equal("bonjour", answer:text())
      assert.same({prompt_tokens = 9, completion_tokens = 12, total_tokens = 21}, answer.usage)
      assert.equal("anthropic", answer.meta.provider)
      assert.equal("claude-3-5-sonnet", answer.meta.model)
      assert.equal("stop", answer.finish_reason)
      assert.same({role = "assistant", content = "bonjour"}, answer.message)
    end
  end)

  it("in test mode", function()
    for _, format in ipairs{"raw", "wrapped"} do
      local answer = ask("testmode", format)
      assert.is_true(answer.test_mode)
      assert.same({"Testing", "test-mode"}, {answer.meta.provider, answer.meta.model})
      assert.same({prompt_tokens = 0, completion_tokens = 0, total_tokens = 0}, answer.usage)
      assert.same(SAMPLE, answer.data)
      assert.equal("u1", answer.customer_data.user_id)
    end
  end)

  it("made up because no provider answered", function()
    local wrapped = ask("offline", "wrapped")
    assert.is_true(wrapped.offline_fallback)
    assert.same({"error", "error"}, {wrapped.attempts[1].status, wrapped.attempts[2].status})
    assert.same({"timeout", "rate_limit"}, {wrapped.attempts[1].reason, wrapped.attempts[2].reason})
    local raw = ask("offline")
    assert.is_true(raw.offline_fallback)
    assert.equal(2, raw.meta.attempt_count)
    assert.same({}, raw.attempts)
    assert.same(SAMPLE, raw.data)
  end)

  it("by a second provider", function()
    local wrapped = ask("failover", "wrapped")
    assert.same({{provider = "openai", model = "gpt-4o-mini", status = "error", reason = "timeout"},
      {provider = "anthropic", model = "claude-3-5-sonnet", status = "success"}}, wrapped.attempts)
    assert.equal("anthropic", wrapped.meta.provider)
    assert.equal("openai", wrapped.meta.requested_provider)
    local raw = ask("failover")
    assert.same({2, "anthropic"}, {raw.meta.attempt_count, raw.meta.provider})
  end)

  it("without a word beside the provider's body", function()
    local answer = ask("bare", nil, "hello")
    assert.equal("hello", answer:text())
    assert.same({}, answer.customer_data)
    assert.same({}, answer.attempts)
    assert.equal("gpt-4o-mini", answer.meta.model)
    assert.is_nil(answer.meta.workflow)
    assert.equal(21, answer.usage.total_tokens)
  end)

  it("of an older host", function()
    assert.equal("u1", ask("echo+cached_data", "wrapped").customer_data.user_id)
    assert.equal("hello", ask("echo+cache:messages.0.content", "wrapped", "hello").customer_data["messages.0.content"])
  end)

  it("that is no text", function()
    for _, format in ipairs{"raw", "wrapped"} do
      assert.equal("", ask("null_content", format):text())
      local image = ask("image", format, "a cat")
      assert.equal("https://images.example/stub.png", image.data.data[1].url)
      assert.same({0.25, -0.5, 1.0}, ask("embedding", format).data.data[1].embedding)
      local refusal = ask("refusal:Not me", format)
      assert.equal("Not me", refusal:text())
      assert.equal("Not me", refusal.refusal)
      assert.equal("completed", ask("completion", format, "completed"):text())
      assert.equal("length", ask("length", format).finish_reason)
      assert.equal("content_filter", ask("filter", format).finish_reason)
    end
    assert.equal(3, ask("embedding").usage.total_tokens)
    assert.is_nil(ask("embedding").usage.completion_tokens)
  end)

  it("that calls tools", function()
    for _, format in ipairs{"raw", "wrapped"} do
      local answer = client:ai{workflow = "tools:parallel", messages = user '{"city":"Paris"}', format = format,
        tools = {{type = "function", ["function"] = {name = "weather", parameters = {type = "object"}}},
          {type = "function", ["function"] = {name = "time"}}}}
      assert.equal("", answer:text())
      assert.equal("tool_calls", answer.finish_reason)
      assert.same({"weather", "time"}, {answer.tool_calls[1].name, answer.tool_calls[2].name})
      assert.same({city = "Paris"}, json.decode(answer.tool_calls[1].arguments))
      assert.truthy(answer.tool_calls[1].id ~= answer.tool_calls[2].id)
      assert.equal("assistant", answer.message.role)
    end
  end)

  it("in chunks and single bytes, and of a mebibyte", function()
    assert.equal("häppchen", ask("echo+chunked", nil, "häppchen"):text())
    assert.equal("häppchen", ask("echo+drip:1", nil, "häppchen"):text())
    assert.equal(1 << 20, #ask("big"):text())
  end)
end)

describe("the envelope is found by its looks", function()
  local completion = {model = "m", choices = {{message = {role = "assistant", content = "hi"}}}}

  it("whatever format was asked for", function()
    local wrapped = {data = completion, meta = {status = "success", used_model = "um"}, customer_data = {a = 1}}
    for _, format in ipairs{"raw", "wrapped"} do
      local answer = read(wrapped, nil, {format = format})
      assert.same({"hi", "um", 1}, {answer:text(), answer.meta.model, answer.customer_data.a})
      answer = read(completion, {["X-ModelRiver-Model"] = "hm", ["x-modelriver-cached-data"] = '{"a":2}'},
        {format = format})
      assert.same({"hi", "hm", 2}, {answer:text(), answer.meta.model, answer.customer_data.a})
    end
  end)

  it("also when the data is null, false, a text or a number", function()
    assert.is_nil(read{data = json.null, meta = {status = "success"}}.data)
    assert.equal("", read{data = json.null, meta = {status = "success"}}:text())
    assert.equal("words", read{data = "words", meta = {}}:text())
    assert.equal("5", read{data = 5, meta = {}}:text())
    assert.equal("false", read{data = false, meta = {}}:text())
    assert.equal('["a","b"]', read{data = {"a", "b"}, meta = {}}:text())
    assert.equal("{}", read{data = {}, meta = {structured_output = true}}:text())
  end)

  it("and a provider's body with a field `meta` or `data` is none", function()
    local answer = read{choices = completion.choices, meta = {status = "success", billed = 1}}
    assert.equal("hi", answer:text())
    assert.equal("w", read({choices = completion.choices, meta = {}}, {["x-modelriver-workflow"] = "w"}).meta.workflow)
    assert.equal("", read{data = {{embedding = {1}}}}:text())
  end)
end)

describe("what is odd in an answer does no harm", function()
  it("in the headers", function()
    local answer = read({choices = {}}, {["x-modelriver-cached-data"] = "no json", ["x-modelriver-attempts"] = "many",
      ["x-modelriver-duration-ms"] = "1.5", ["x-modelriver-offline-fallback"] = "TRUE?"})
    assert.same({}, answer.customer_data)
    assert.is_nil(answer.meta.attempt_count)
    assert.equal(1.5, answer.meta.duration_ms)
    assert.is_false(answer.offline_fallback)
    assert.same({}, read({choices = {}}, {["x-modelriver-cached-data"] = "[1]"}).tool_calls)
    assert.same({}, read({choices = {}}, {["x-modelriver-cached-data"] = '"x"'}).customer_data)
  end)

  it("in the envelope", function()
    local answer = read{data = {a = 1}, customer_data = "none", backups = "none", meta = {attempts = "none",
      usage = {prompt_tokens = "9", total_tokens = {}}, duration_ms = json.null}}
    assert.same({{}, {}, {}}, {answer.customer_data, answer.backups, answer.attempts})
    assert.is_nil(answer.usage)
    answer = read{data = {a = 1}, meta = {attempts = {json.null, {success = false, error = "why"}, 5}}}
    assert.same({{}, {status = "error", reason = "why"}, {}}, answer.attempts)
  end)

  it("in choices and messages", function()
    for _, choices in ipairs{json.array{}, {json.null}, {5}, {{}}, {{message = json.null}}, {{message = "hi"}},
      {{message = {content = 5, tool_calls = "none", refusal = {}}}},
      {{message = {tool_calls = {5, {}, json.null}}}}} do
      local answer = read{choices = choices}
      assert.equal("", answer:text())
      assert.same({}, answer.tool_calls)
    end
    assert.equal("", read(json.object{}):text())
  end)

  it("in content: parts, of which some are text", function()
    local answer = read{choices = {{message = {content = {{type = "text", text = "a"}, {type = "thinking"}, json.null,
      "b", {type = "text", text = "c"}}}}}}
    assert.equal("ac", answer:text())
    answer = read{type = "message", stop_reason = "max_tokens", content = {{type = "thinking", thinking = "hm"},
      {type = "text", text = "a"}, {type = "tool_use", id = "t", name = "f", input = {x = 1}},
      {type = "text", text = "b"}, {type = "tool_use", id = "u", name = "g", input = json.null}}}
    assert.equal("ab", answer:text())
    assert.equal("length", answer.finish_reason)
    assert.same({{id = "t", name = "f", arguments = '{"x":1}'}, {id = "u", name = "g", arguments = "{}"}},
      answer.tool_calls)
    assert.equal("f", answer.message.tool_calls[1]["function"].name)
  end)

  it("in calls of tools: arguments that are an object, none, or broken", function()
    local calls = {}
    for i, arguments in ipairs{{x = 1}, json.null, '{"cut', ""} do
      calls[i] = {id = "c" .. i, ["function"] = {name = "f", arguments = arguments}}
    end
    local answer = read{choices = {{message = {tool_calls = calls}}}}
    local seen = {}
    for i, call in ipairs(answer.tool_calls) do seen[i] = call.arguments end
    assert.same({'{"x":1}', "{}", '{"cut', ""}, seen)
  end)
end)

describe("data", function()
  local function answer_with(text, fields)
    return read({choices = {{message = {content = text}}}}, nil, fields)
  end

  it("is the object that the whole text is", function()
    assert.same({a = 1}, answer_with(' {"a": 1, "b": null}\n').data)
    assert.is_false(answer_with('{"a": 1}').meta.structured_output)
    assert.is_true(answer_with('{"a": 1}', {structured_output_schema = {}}).meta.structured_output)
    assert.is_false(answer_with('{"a": 1}', {response_format = {type = "text"}}).meta.structured_output)
  end)

  it("is the provider's body otherwise", function()
    for _, text in ipairs{"words", "[1]", '{"cut', "{not json}", "5", '"text"', 'See: {"a": 1}', ""} do
      local answer = answer_with(text)
      assert.equal(answer.raw, answer.data)
      assert.equal(text, answer:text())
    end
  end)

  it("has no null in it, and exact numbers", function()
    local answer = read{data = {id = 9007199254740993, none = json.null, list = {json.null, 1}}, meta = {}}
    assert.equal(9007199254740993, answer.data.id)
    assert.is_nil(answer.data.none)
    assert.equal(2, #answer.data.list)
  end)
end)

describe("headers", function()
  it("are all there, in any case of their names", function()
    local answer = read({choices = {}}, {["X-RateLimit-Remaining"] = "7", ["CF-Ray"] = "ray"})
    assert.equal("7", answer.headers["x-ratelimit-remaining"])
    assert.equal("ray", answer.request_id)
    assert.equal("r1", read({choices = {}}, {["cf-ray"] = "ray", ["x-request-id"] = "r1"}).request_id)
    assert.equal("r2", read({choices = {}}, {["X-ModelRiver-Request-Id"] = "r2"}).request_id)
  end)
end)
