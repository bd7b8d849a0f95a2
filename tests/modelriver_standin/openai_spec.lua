-- /v1/chat/completions of the stand-in is what the official OpenAI package expects of a server.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")

local TEXT = "Grüße aus Lua, dear model"

describe("OpenAI's package on the stand-in", function()
  local server, seen

  setup(function()
    server = support.start()
    seen = support.ask_python(server, "openai_client.py")
  end)

  teardown(function() server:close() end)

  it("has nothing to complain about", function() assert.equal("", server:errors()) end)

  -- The error of a stream or of a call.
  local function assert_error(expected, got, name)
    for key, value in pairs(expected) do assert.equal(value, got[key], name) end
  end

  it("reads answers, whole or in pieces", function()
    for _, name in ipairs{"plain", "chunked", "drip", "no_tools"} do
      assert.same({name = name, content = TEXT, finish_reason = "stop"}, seen[name])
    end
    assert.equal("length", seen.length.finish_reason)
    assert.equal("content_filter", seen.filter.finish_reason)
    assert.equal("I cannot help with that.", seen.refusal.refusal)
    assert.is_nil(seen.null_content.content)
  end)

  it("finds ModelRiver's metadata in headers", function()
    local headers = seen.headers.headers
    assert.equal("anthropic", headers["x-modelriver-provider"])
    assert.equal("2", headers["x-modelriver-attempts"])
    assert.equal("failover+cache:messages.0.content", headers["x-modelriver-workflow"])
    local cached = require("riverlua.json").decode(headers["x-modelriver-cached-data"])
    assert.same({user_id = "u1", ["messages.0.content"] = TEXT}, cached)
  end)

  it("calls tools and reads the text after them", function()
    assert.equal("tool_calls", seen.tools.finish_reason)
    assert.same({{id = "call_1", name = "weather", arguments = {city = "Paris"}}}, seen.tools.calls)
    assert.equal("Tools said: result of weather", seen.tools.content)
    assert_error({class = "BadRequestError", status = 400, param = "messages"}, seen.tools.unanswered)
    assert.same({"weather", "time"}, {seen.parallel.calls[1].name, seen.parallel.calls[2].name})
    assert.equal("Tools said: result of weather; result of time", seen.parallel.content)
  end)

  it("gets data that fits its schema", function() assert.same({title = "text", year = 1900}, seen.structured.data) end)

  it("reads a stream: the role first, the pieces, the reason", function()
    local stream = seen.stream
    assert.same({"assistant"}, stream.roles)
    assert.equal(TEXT, stream.content)
    assert.equal(5, stream.pieces)
    assert.equal("stop", stream.finish_reason)
    assert.is_nil(stream.usage)
    assert.is_nil(stream.error)
    assert.equal(3000, seen.stream_many.pieces)
    assert.equal("I will not do that", seen.stream_refusal.refusal)
  end)

  it("finds the usage in a chunk of its own or in the last", function()
    assert.equal(21, seen.stream_usage.usage)
    assert.equal(21, seen.stream_usage_on_finish.usage)
  end)

  it("puts tool calls together, also two at once", function()
    local first = {id = "call_1", name = "weather", arguments = '{"city": "Paris"}'}
    assert.same({["0"] = first}, seen.stream_tools.calls)
    assert.same({["0"] = first, ["1"] = {id = "call_2", name = "time", arguments = '{"city": "Paris"}'}},
      seen.stream_parallel.calls)
    assert.equal("tool_calls", seen.stream_parallel.finish_reason)
  end)

  it("reads streams in every form", function()
    local count = 0
    for name, stream in pairs(seen) do
      if name:find("^form ") then
        count = count + 1
        assert.equal(TEXT, stream.content, name)
        assert.equal("stop", stream.finish_reason, name)
        assert.is_nil(stream.error, name)
      end
    end
    assert.equal(13, count)
    assert.equal(25, seen["form chars:1"].pieces)
  end)

  it("ends a stream at [DONE], whatever follows", function()
    for _, name in ipairs{"stream_unterminated", "stream_after_done", "stream_linger", "stream_nodone"} do
      assert.equal(TEXT, seen[name].content, name)
      assert.is_nil(seen[name].error, name)
    end
  end)

  it("raises on an error in the middle of a stream, after the pieces before it", function()
    for _, shape in ipairs{"data", "event", "choice"} do
      local stream = seen["stream_error_" .. shape]
      assert.equal("Grüße aus ", stream.content)
      assert_error({class = "APIError", code = "upstream_error", message = "The provider went away"}, stream.error,
        shape)
    end
    assert.equal("APIConnectionError", seen.stream_cut.error.class)
    assert.equal("JSONDecodeError", seen.stream_badevent.error.class)
    assert_error({class = "InternalServerError", status = 502}, seen.stream_refused.error)
  end)

  it("raises its own class for every status", function()
    local classes = {
      [400] = "BadRequestError", [401] = "AuthenticationError", [403] = "PermissionDeniedError",
      [404] = "NotFoundError", [409] = "ConflictError", [422] = "UnprocessableEntityError",
      [429] = "RateLimitError", [500] = "InternalServerError", [502] = "InternalServerError",
      [503] = "InternalServerError", [504] = "InternalServerError",
    }
    for status, class in pairs(classes) do assert_error({class = class, status = status}, seen["status " .. status]) end
    assert.equal(408, seen["status 408"].status)
  end)

  it("is told what is wrong with its key, workflow and request", function()
    local wrong_key = {class = "AuthenticationError", status = 401, code = "invalid_api_key",
      type = "authentication_error", message = "Error code: 401 - Invalid API key provided"}
    assert_error(wrong_key, seen.unknown_key)
    assert_error(wrong_key, seen.revoked_key)
    assert_error({class = "PermissionDeniedError", status = 403}, seen.other_project)
    assert_error({class = "NotFoundError", code = "model_not_found", param = "model",
      message = "Error code: 404 - Workflow 'xyz' does not exist. Create it in the console first."},
      seen.unknown_workflow)
    assert_error({class = "BadRequestError", code = "model_not_supported"}, seen.event_driven)
    assert_error({class = "BadRequestError", param = "messages.0"}, seen.bad_role)
    assert_error({status = 413, code = "request_too_large"}, seen.too_large)
    assert_error({class = "RateLimitError", retry_after = "7"}, seen.rate_limited)
    assert.truthy(seen.rate_limited.request_id:find("^req_"))
  end)

  it("meets connections that end, hang or talk HTML", function()
    for _, name in ipairs{"reset", "closed", "truncated"} do
      assert.equal("APIConnectionError", seen[name].class, name)
    end
    assert.equal("APITimeoutError", seen.held.class)
    assert_error({class = "InternalServerError", status = 500}, seen.html)
    assert_error({class = "InternalServerError", status = 500}, seen.shape_string)
  end)

  it("retries as the answers say", function()
    assert.equal(TEXT, seen.retried.content)
    assert.equal(TEXT, seen.retried_after_reset.content)
    assert_error({class = "InternalServerError", status = 503}, seen.not_retried)
    local counters = server:stats().counters
    assert.equal(3, counters["flaky:flaky:2:503+retry_after_ms:1"])
    assert.equal(1, counters["flaky:flaky:1:503+should_retry:false"])
  end)
end)
