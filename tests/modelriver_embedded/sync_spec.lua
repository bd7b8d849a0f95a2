-- The embedded service asked for whole answers.

local embedded = require "modelriver.embedded"
local errors = require "riverlua.errors"
local json = require "riverlua.json"
local support = dofile("tests/modelriver_embedded/support.lua")


local answer, ask, error_of = support.answer, support.ask, support.error_of

describe("the embedded service", function()
  local transport

  before_each(function()
    embedded.reset()
    transport = embedded.new()
  end)
  after_each(function()
    transport:close()
    embedded.reset()
  end)

  it("is a transport of its own kind", function() assert.is_true(transport.embedded) end)

  it("answers raw, as the provider does, unless asked otherwise", function()
    embedded.workflow("summary", function(request, context)
      assert.equal("hello world", request.messages[2].content)
      assert.equal("summary", context.workflow)
      assert.equal(1, context.attempt)
      assert.is_false(context.stream)
      return "In short: " .. context.text
    end)
    local body, res = answer(transport, {workflow = "summary"})
    assert.equal("chat.completion", body.object)
    assert.equal("In short: hello world", body.choices[1].message.content)
    assert.equal("assistant", body.choices[1].message.role)
    assert.equal("stop", body.choices[1].finish_reason)
    assert.equal(body.usage.prompt_tokens + body.usage.completion_tokens, body.usage.total_tokens)
    assert.equal("embedded", res.headers["X-ModelRiver-Provider"])
    assert.equal("summary", res.headers["x-modelriver-model"])
    assert.equal("summary", res.headers["X-MODELRIVER-WORKFLOW"])
    assert.equal("1", res.headers["x-modelriver-attempts"])
    assert.truthy(res.headers["x-modelriver-duration-ms"]:find("^%d+$"))
    assert.is_nil(res.headers["x-modelriver-cached-data"])
    assert.is_nil(res.headers["x-modelriver-offline-fallback"])
  end)

  it("answers wrapped when asked to", function()
    embedded.workflow("w", {providers = {
      {provider = "openai", model = "gpt-4o-mini", respond = function() return "hi" end},
      {provider = "anthropic", model = "claude", respond = function() return "ho" end},
    }})
    local body = answer(transport, {workflow = "w", format = "wrapped"})
    assert.equal("hi", body.data.choices[1].message.content)
    local meta = body.meta
    assert.same({"success", 200, "w", "openai", "gpt-4o-mini", "openai", "gpt-4o-mini"}, {meta.status,
      meta.http_status, meta.workflow, meta.requested_provider, meta.requested_model, meta.used_provider,
      meta.used_model})
    assert.equal(1, #meta.attempts)
    assert.equal("success", meta.attempts[1].status)
    assert.same({{position = 1, provider = "anthropic", model = "claude"}}, body.backups)
    assert.same({}, body.customer_data)
    assert.is_nil(body.error)
  end)

  it("counts the same for the same texts, and takes the function's own counts", function()
    embedded.workflow("counts", function(_, context)
      if context.text == "own" then return {content = "x", usage = {prompt_tokens = 3, completion_tokens = 4}} end
      return "one two threefour"
    end)
    local first, second = answer(transport, {workflow = "counts"}), answer(transport, {workflow = "counts"})
    assert.same(first.usage, second.usage)
    assert.equal(1 + 1 + 3, first.usage.completion_tokens)
    local own = answer(transport, {workflow = "counts", messages = {{role = "user", content = "own"}}})
    assert.same({prompt_tokens = 3, completion_tokens = 4, total_tokens = 7}, own.usage)
  end)

  it("finds the text of the last user message, also in parts", function()
    embedded.workflow("last", function(_, context) return context.text end)
    local body = answer(transport, {workflow = "last", messages = {
      {role = "user", content = "first"},
      {role = "user", content = {{type = "text", text = "second"}, {type = "image_url", image_url = {url = "x"}}}},
      {role = "assistant", content = "third"},
    }})
    assert.equal("second", body.choices[1].message.content)
    assert.equal("tell me", answer(transport, {workflow = "last", messages = json.null, prompt = "tell me"})
      .choices[1].message.content)
  end)

  it("gives every provider a request of its own", function()
    local seen = {}
    local function spoil(request)
      seen[#seen + 1] = request.messages[1].content
      request.messages = {}
      if #seen == 1 then error("spoilt") end
      return "x"
    end
    embedded.workflow("spoil", {providers = {{respond = spoil}, {respond = spoil}}})
    answer(transport, {workflow = "spoil"})
    assert.same({"Be brief.", "Be brief."}, seen)
  end)

  it("passes the whole body of a provider on as it is", function()
    embedded.workflow("openai", function()
      return {id = "x-1", choices = {{message = {role = "assistant", content = "own"}, finish_reason = "length"}},
        system_fingerprint = "fp", usage = {prompt_tokens = 1, completion_tokens = 2, total_tokens = 3}}
    end)
    local body = answer(transport, {workflow = "openai"})
    assert.equal("x-1", body.id)
    assert.equal("fp", body.system_fingerprint)
    assert.equal("length", body.choices[1].finish_reason)
    local wrapped = answer(transport, {workflow = "openai", format = "wrapped"})
    assert.equal("fp", wrapped.data.system_fingerprint)
    assert.equal(3, wrapped.meta.usage.total_tokens)
  end)

  it("passes Anthropic's shape on in raw, and puts it into OpenAI's for OpenAI clients", function()
    embedded.workflow("claude", function()
      return {type = "message", role = "assistant", stop_reason = "tool_use", usage = {input_tokens = 5,
        output_tokens = 6}, content = {{type = "text", text = "Let me see"},
        {type = "tool_use", id = "toolu_1", name = "look", input = {at = "x"}}}}
    end)
    local raw = answer(transport, {workflow = "claude"})
    assert.equal("Let me see", raw.content[1].text)
    assert.equal("tool_use", raw.stop_reason)
    local body = answer(transport, {model = "claude"}, "/v1/chat/completions")
    local message = body.choices[1].message
    assert.equal("Let me see", message.content)
    assert.equal("toolu_1", message.tool_calls[1].id)
    assert.same({at = "x"}, json.decode(message.tool_calls[1]["function"].arguments))
    assert.equal("tool_calls", body.choices[1].finish_reason)
    assert.same({prompt_tokens = 5, completion_tokens = 6, total_tokens = 11}, body.usage)
  end)

  it("gives tool calls ids and arguments as text", function()
    embedded.workflow("tools", function() return {tool_calls = {{name = "weather", arguments = {city = "Oslo"}},
      {name = "time"}, {id = "call_own", name = "x", arguments = '{"y":1}'}}} end)
    local body = answer(transport, {workflow = "tools"})
    local choice = body.choices[1]
    assert.equal("tool_calls", choice.finish_reason)
    assert.is_nil(choice.message.content)
    local calls = choice.message.tool_calls
    assert.truthy(calls[1].id:find("^call_%x+$"))
    assert.not_equal(calls[1].id, calls[2].id)
    assert.equal("function", calls[1].type)
    assert.equal('{"city":"Oslo"}', calls[1]["function"].arguments)
    assert.equal("{}", calls[2]["function"].arguments)
    assert.equal("call_own", calls[3].id)
    assert.equal('{"y":1}', calls[3]["function"].arguments)
  end)

  it("says null for the text of a message that has none", function()
    embedded.workflow("tools", function() return {tool_calls = {{name = "x"}}} end)
    assert.truthy(ask(transport, {workflow = "tools"}).body:find('"content":null', 1, true))
  end)

  it("puts structured answers into data, or as text into a raw answer", function()
    embedded.workflow("structured", function() return {summary = "s", tags = {"a"}, none = json.array{}} end)
    local wrapped = answer(transport, {workflow = "structured", format = "wrapped"})
    assert.same({summary = "s", tags = {"a"}, none = {}}, wrapped.data)
    assert.is_true(wrapped.meta.structured_output)
    local raw = answer(transport, {workflow = "structured"})
    assert.equal('{"none":[],"summary":"s","tags":["a"]}', raw.choices[1].message.content)
  end)

  it("reads structured answers from text under a schema", function()
    embedded.workflow("text", {schema = {type = "object"}, respond = function() return '{"a": 1}' end})
    assert.same({a = 1}, answer(transport, {workflow = "text", format = "wrapped"}).data)
    embedded.workflow("bad", {schema = {type = "object"}, respond = function() return "no JSON" end})
    local body = answer(transport, {workflow = "bad", format = "wrapped"})
    assert.equal("error", body.meta.status)
    assert.equal("schema", body.meta.attempts[1].reason)
  end)

  it("takes a structured answer with a member called content for what it is", function()
    embedded.workflow("post", {schema = {type = "object"}, respond = function() return {content = "a text"} end})
    assert.same({content = "a text"}, answer(transport, {workflow = "post", format = "wrapped"}).data)
  end)

  it("counts an answer that does not keep to its schema as a failure of the provider", function()
    local schema = {type = "object", properties = {n = {type = "integer"}}, required = {"n"}}
    embedded.workflow("strict", {schema = schema, providers = {
      {provider = "a", respond = function() return {n = "x"} end},
      {provider = "b", respond = function() return {n = 1} end},
    }})
    local body = answer(transport, {workflow = "strict", format = "wrapped"})
    assert.same({n = 1}, body.data)
    assert.equal("schema", body.meta.attempts[1].reason)
    assert.equal("b", body.meta.used_provider)
    embedded.workflow("loose", function() return {n = "x"} end)
    for _, fields in ipairs{{structured_output_schema = schema}, {response_format = schema},
      {response_format = {type = "json_schema", json_schema = {name = "n", schema = schema}}}} do
      fields.workflow, fields.format = "loose", "wrapped"
      body = answer(transport, fields)
      assert.equal(422, body.error.details.status)
    end
  end)

  it("passes on what does not keep to its schema when that is wanted", function()
    embedded.workflow("free", {schema = {type = "object"}, validate = false, respond = function() return "no JSON" end})
    assert.equal("no JSON", answer(transport, {workflow = "free"}).choices[1].message.content)
  end)

  it("makes an answer up that keeps to the schema when all providers fail and that is wanted", function()
    local schema = {type = "object", properties = {n = {type = "integer"}}, required = {"n"}}
    embedded.workflow("offline", {schema = schema, offline_fallback = true, respond = function() error("down") end})
    local body = answer(transport, {workflow = "offline", format = "wrapped"})
    assert.is_true(body.meta.offline_fallback)
    assert.equal("success", body.meta.status)
    assert.is_true(require("riverlua.schema").validate(schema, body.data))
    assert.equal("error", body.meta.attempts[1].status)
    local _, res = answer(transport, {workflow = "offline"})
    assert.equal("true", res.headers["x-modelriver-offline-fallback"])
  end)

  it("returns cache fields under their paths", function()
    embedded.workflow("cached", {cache_fields = {"user_id", "metadata.audience", "messages.0.content", "not.there",
      "with.dot"}, respond = function() return "x" end})
    local fields = {workflow = "cached", user_id = 7, metadata = {audience = "all", other = 1}, ["with.dot"] = "d"}
    local expected = {user_id = 7, ["metadata.audience"] = "all", ["messages.0.content"] = "Be brief.",
      ["with.dot"] = "d"}
    local _, res = answer(transport, fields)
    assert.same(expected, json.decode(res.headers["x-modelriver-cached-data"]))
    fields.format = "wrapped"
    assert.same(expected, answer(transport, fields).customer_data)
  end)

  it("gives sample data in test mode and asks no provider", function()
    local asked = 0
    embedded.workflow("test", {testing = {sample = {summary = "sample"}, delay_ms = 1}, cache_fields = {"user_id"},
      respond = function() asked = asked + 1 end})
    local body = answer(transport, {workflow = "test", format = "wrapped", user_id = "u"})
    assert.same({summary = "sample"}, body.data)
    assert.same({provider = "Testing", model = "test-mode", test_mode = true},
      {provider = body.meta.provider, model = body.meta.model, test_mode = body.meta.test_mode})
    assert.same({prompt = 0, completion = 0, total = 0}, body.meta.tokens)
    assert.same({user_id = "u"}, body.customer_data)
    local raw, res = answer(transport, {workflow = "test"})
    assert.equal('{"summary":"sample"}', raw.choices[1].message.content)
    assert.equal("Testing", res.headers["x-modelriver-provider"])
    assert.equal(0, asked)
    embedded.workflow("text", {testing = {sample = "just text"}})
    assert.equal("just text", answer(transport, {workflow = "text"}).choices[1].message.content)
  end)

  it("serves OpenAI clients", function()
    embedded.workflow("chat", function(request, context)
      return ("%s at %g"):format(context.text, request.temperature)
    end)
    local body, res = answer(transport, {model = "chat", temperature = 0.5}, "/v1/chat/completions")
    assert.equal("hello world at 0.5", body.choices[1].message.content)
    assert.equal("chat", res.headers["x-modelriver-workflow"])
    local refused = answer(transport, {model = "other"}, "/v1/chat/completions", 404)
    assert.same({"model_not_found", "model", "invalid_request_error"},
      {refused.error.code, refused.error.param, refused.error.type})
    assert.equal("model", answer(transport, {}, "/v1/chat/completions", 400).error.param)
  end)

  it("finds workflows by provider and model", function()
    embedded.workflow("openai/gpt-4o", function() return "direct" end)
    assert.equal("direct", answer(transport, {provider = "openai", model = "gpt-4o"}).choices[1].message.content)
    local refused = answer(transport, {provider = "openai", model = "other"}, nil, 400)
    assert.truthy(refused.error.message:find("other"))
    assert.equal("workflow", answer(transport, {provider = "openai"}, nil, 400).error.param)
  end)

  it("refuses an unknown workflow and an event-driven one", function()
    local refused = answer(transport, {workflow = "nope"}, nil, 404)
    assert.same({"model_not_found", "model"}, {refused.error.code, refused.error.param})
    embedded.workflow("event", {event_name = "e", respond = function() return "x" end})
    assert.equal("model_not_supported", answer(transport, {workflow = "event"}, nil, 400).error.code)
    assert.equal("model_not_supported", answer(transport, {model = "event"}, "/v1/chat/completions", 400).error.code)
    assert.equal("model_not_supported", answer(transport, {workflow = "event", stream = true}, nil, 400).error.code)
  end)

  it("refuses what is wrong in a request, naming the field", function()
    embedded.workflow("w", function() return "x" end)
    for param, fields in pairs{
      format = {format = "yaml"}, temperature = {temperature = 3}, top_p = {top_p = -1}, stream = {stream = "yes"},
      max_tokens = {max_tokens = 0}, messages = {messages = "hello"}, workflow = {workflow = 5},
      structured_output_schema = {structured_output_schema = "s"}, tools = {tools = true},
    } do
      fields.workflow = fields.workflow or "w"
      assert.equal(param, answer(transport, fields, nil, 400, {stream = false}).error.param)
    end
    for _, messages in ipairs{json.array{}, {1}, {{content = "x"}}, json.object{a = 1}} do
      assert.equal("messages", answer(transport, {workflow = "w", messages = messages}, nil, 400).error.param)
    end
    assert.equal("messages", answer(transport, {workflow = "w", messages = json.null}, nil, 400).error.param)
    assert.equal(200, ask(transport, {workflow = "w", messages = json.null, inputs = {a = 1}}).status)
  end)

  it("refuses bodies that are no JSON objects, and large ones", function()
    for _, body in ipairs{"", "{", "[]", "3", "null"} do
      local res = transport:request{method = "POST", path = "/v1/ai", body = body}
      assert.equal(400, res.status)
      assert.equal("invalid_request_error", res:json().error.code)
    end
    local res = transport:request{method = "POST", path = "/v1/ai", body = (" "):rep(4 * 1024 * 1024 + 1)}
    assert.equal(413, res.status)
    assert.equal(413, ask(transport, {workflow = "w", x = ("x"):rep(4 * 1024 * 1024)}).status)
  end)

  it("knows its paths, with and without /api", function()
    embedded.workflow("w", function() return "x" end)
    assert.equal(200, ask(transport, {workflow = "w"}, "/api/v1/ai").status)
    assert.equal(404, ask(transport, {}, "/v1/models").status)
    local res = transport:request{method = "GET", path = "/v1/ai?x=1"}
    assert.equal(405, res.status)
    assert.equal("POST", res.headers.Allow)
  end)

  it("checks the key when there is one", function()
    embedded.workflow("w", function() return "x" end)
    support.with({api_key = "mr_live_right", other_keys = {"mr_live_foreign"}}, function(guarded)
      local function status(headers, path) return ask(guarded, {workflow = "w"}, path, {headers = headers}) end
      assert.equal(200, status({Authorization = "Bearer mr_live_right"}).status)
      assert.equal(200, status({authorization = "bearer mr_live_right"}).status)
      for _, headers in ipairs{{}, {Authorization = "Bearer mr_live_wrong"}, {Authorization = "mr_live_right"}} do
        local res = status(headers)
        assert.equal(401, res.status)
        assert.same({error = {message = "Invalid API key provided", type = "authentication_error",
          code = "invalid_api_key"}}, res:json())
      end
      assert.equal(403, status({Authorization = "Bearer mr_live_foreign"}).status)
      for _, path in ipairs{"/v1/ai/async", "/v1/ai/reconnect", "/v1/callback/x", "/v1/chat/completions"} do
        assert.equal(401, status({}, path).status)
      end
    end)
  end)

  it("runs a request once for all with its idempotency key", function()
    local runs = 0
    embedded.workflow("once", function()
      runs = runs + 1
      require("riverlua.task").sleep(0.001)
      if runs == 1 then error("first") end
      return "run " .. runs
    end)
    local function send(key, text)
      return ask(transport, {model = "once", x = text}, "/v1/chat/completions", {headers = {["Idempotency-Key"] = key}})
    end
    assert.equal(502, send("a").status)   -- what failed may be tried again
    local first, second = require("riverlua.task").gather(function() return send("a") end,
      function() return send("a") end)
    assert.equal(first.body, second.body)
    assert.equal("true", send("a").headers["Idempotent-Replayed"])
    assert.equal(2, runs)
    assert.equal(422, send("a", "another").status)
    assert.equal(200, send("b").status)
    assert.equal(3, runs)
  end)

  it("tells mistakes in a workflow at once, with suggestions", function()
    local function message(...)
      local err = error_of(embedded.workflow, ...)
      assert.is_true(errors.is(err, "argument"))
      return err.message
    end
    local function fn() return "x" end
    assert.truthy(message("w", {respond = fn, shema = {}}):find("did you mean 'schema'"))
    assert.truthy(message("w", {providers = {{respond = fn, modle = "x"}}}):find("did you mean 'model'"))
    assert.truthy(message("w", {providers = {{forward = {base_url = "http://x", apikey = "k"}}}}):find("api_key"))
    assert.truthy(message("w", {}):find("'respond' or 'providers'"))
    assert.truthy(message("w", {providers = {}}):find("at least one"))
    assert.truthy(message("w", {providers = {{}}}):find("'respond' or 'forward'"))
    assert.truthy(message("w", {providers = {{forward = {base_url = "ftp://x"}}}}):find("http"))
    assert.truthy(message("w", {providers = {{respond = fn, timeout = 0}}}):find("timeout"))
    assert.truthy(message("w", {respond = fn, cache_fields = {1}}):find("cache_fields"))
    assert.truthy(message("w", {testing = {delay_ms = 1}}):find("sample"))
    assert.truthy(message("", fn):find("name"))
    assert.truthy(message("w", "text"):find("spec"))
    assert.is_true(errors.is(error_of(embedded.webhook, "http://x", fn), "argument"))
    assert.truthy(error_of(embedded.new, {api_ky = "k"}).message:find("did you mean 'api_key'"))
    assert.truthy(error_of(embedded.new, {path = "x"}).hint:find("embedded:"))
    assert.is_true(errors.is(error_of(embedded.new, {webhook_scheme = "D"}), "argument"))
  end)

  it("forgets what was registered", function()
    embedded.workflow("w", function() return "x" end)
    embedded.reset()
    assert.equal(404, ask(transport, {workflow = "w"}).status)
  end)

  it("answers no more once it is closed", function()
    transport:close()
    transport:close()
    assert.equal("closed", error_of(ask, transport, {workflow = "w"}).kind)
    assert.equal("closed", error_of(transport.websocket, transport, "embedded:/socket/websocket").kind)
  end)
end)
