-- Providers of the embedded service: in order, within their time, side by side, and on other servers.

local embedded = require "modelriver.embedded"
local json = require "riverlua.json"
local servers = dofile("tests/support/servers.lua")
local support = dofile("tests/modelriver_embedded/support.lua")
local task = require "riverlua.task"

local answer = support.answer

local function failing(problem) return function() error(problem, 0) end end

describe("providers of the embedded service", function()
  local transport

  before_each(function()
    embedded.reset()
    transport = embedded.new()
  end)
  after_each(function()
    transport:close()
    embedded.reset()
  end)

  it("are tried in order until one answers", function()
    local seen = {}
    local function note(context) seen[#seen + 1] = context.attempt .. context.provider .. context.model end
    embedded.workflow("w", {providers = {
      {provider = "a", model = "m1", respond = function(_, context)
        note(context)
        error("down")
      end},
      {provider = "b", model = "m2", respond = function(_, context)
        note(context)
        return "from b"
      end},
      {provider = "c", model = "m3", respond = function(_, context) note(context) end},
    }})
    local body = answer(transport, {workflow = "w", format = "wrapped"})
    assert.equal("from b", body.data.choices[1].message.content)
    assert.same({"1am1", "2bm2"}, seen)
    assert.same({"a", "m1", "b", "m2"}, {body.meta.requested_provider, body.meta.requested_model,
      body.meta.used_provider, body.meta.used_model})
    assert.same({{1, "b"}, {2, "c"}}, {{body.backups[1].position, body.backups[1].provider},
      {body.backups[2].position, body.backups[2].provider}})
    assert.same({"error", "success"}, {body.meta.attempts[1].status, body.meta.attempts[2].status})
    local _, res = answer(transport, {workflow = "w"})
    assert.equal("2", res.headers["x-modelriver-attempts"])
    assert.equal("b", res.headers["x-modelriver-provider"])
  end)

  it("that all fail give an envelope with three statuses", function()
    embedded.workflow("w", {cache_fields = {"user_id"}, providers = {
      {provider = "openai", model = "gpt-4o-mini", respond = failing("x.lua:1: first")},
      {provider = "other", model = "m",
        respond = failing{status = 504, message = "Upstream timeout", reason = "timeout"}},
    }})
    for _, format in ipairs{"raw", "wrapped"} do
      local res = support.ask(transport, {workflow = "w", format = format, user_id = 1})
      assert.equal(200, res.status)
      local body = json.decode(res.body)
      assert.equal(json.null, body.data)
      assert.same({message = "Provider request failed", details = {status = 504, message = "Upstream timeout"}},
        body.error)
      assert.same({"error", 502, "w"}, {body.meta.status, body.meta.http_status, body.meta.workflow})
      assert.is_nil(body.meta.used_provider)
      assert.same({"error", "timeout"}, {body.meta.attempts[1].reason, body.meta.attempts[2].reason})
      assert.equal(1, body.customer_data.user_id)
      assert.equal("2", res.headers["x-modelriver-attempts"])
      assert.is_nil(res.headers["x-modelriver-provider"])
    end
    local refused, res = answer(transport, {model = "w"}, "/v1/chat/completions", 502)
    assert.same({"upstream_error", "upstream_error"}, {refused.error.code, refused.error.type})
    assert.truthy(refused.error.message:find("Upstream timeout"))
    assert.equal("2", res.headers["x-modelriver-attempts"])
  end)

  it("may raise anything", function()
    local errors = require "riverlua.errors"
    for _, case in ipairs{
      {"plain", 500, "error", "plain"}, {"/home/u/bot.lua:7: at a place", 500, "error", "bot.lua:7: at a place"},
      {{status = 429, message = "slow down"}, 429, "rate_limit", "slow down"},
      {{status = 401}, 401, "authentication", "the provider failed"},
      {{status = "x", reason = 5, message = {}}, 500, "error", "the provider failed"},
      {errors.new{kind = "timeout", message = "no answer"}, 504, "timeout", "no answer"},
      {errors.new{kind = "connect", message = "refused"}, 502, "connection", "refused"},
      {errors.new{kind = "argument", message = "wrong"}, 500, "error", "wrong"},
      {setmetatable({}, {__tostring = function() return "own" end}), 500, "error", "the provider failed"},
      {true, 500, "error", "true"}, {nil, 500, "error", "the provider failed"},
    } do
      embedded.workflow("w", failing(case[1]))
      local body = answer(transport, {workflow = "w"})
      assert.same({case[2], case[3], case[4]},
        {body.error.details.status, body.meta.attempts[1].reason, body.error.details.message})
    end
  end)

  it("must return something that makes sense", function()
    for _, value in ipairs{5, true, print, {tool_calls = "x"}, {tool_calls = {{arguments = {}}}},
      {tool_calls = {{name = "x", arguments = 5}}}, {f = print}, "\xff"} do
      embedded.workflow("w", function() return value end)
      local body = answer(transport, {workflow = "w"})
      assert.truthy(body.error.details.message:find("^the workflow's function"), body.error.details.message)
    end
    embedded.workflow("nothing", function() end)
    assert.truthy(answer(transport, {workflow = "nothing"}).error.details.message:find("returned nothing"))
  end)

  it("show their tracebacks to on_error alone", function()
    local told
    embedded.on_error = function(problem, where)
      told = {problem = problem, where = where}
      error("what on_error raises does no harm")
    end
    embedded.workflow("w", {providers = {{provider = "p", model = "m", respond = function()
      local function deep_inside() error("boom") end
      deep_inside()
    end}}})
    local res = support.ask(transport, {workflow = "w"})
    assert.is_nil(res.body:find("traceback", 1, true))
    assert.is_nil(res.body:find("tests/", 1, true))
    assert.truthy(told.problem:find("boom"))
    assert.same({"w", "p", "m", 1}, {told.where.workflow, told.where.provider, told.where.model, told.where.attempt})
    assert.truthy(told.where.traceback:find("deep_inside"))
  end)

  it("are given up when their time is over", function()
    local closed = 0
    local function endless()
      local _ <close> = setmetatable({}, {__close = function() closed = closed + 1 end})
      task.sleep(3600)
    end
    embedded.workflow("w", {providers = {
      {provider = "slow", timeout = 0.005, respond = endless},
      {provider = "quick", timeout = 3600, respond = function() return "in time" end},
    }})
    local body = answer(transport, {workflow = "w", format = "wrapped"})
    assert.equal("in time", body.data.choices[1].message.content)
    assert.equal("timeout", body.meta.attempts[1].reason)
    assert.equal(1, closed)
    embedded.workflow("alone", {providers = {{timeout = 0.005, respond = endless}}})
    assert.equal(504, answer(transport, {workflow = "alone"}).error.details.status)
    assert.truthy(support.text(support.chunks(transport, {workflow = "w"})) == "in time")
  end)

  it("get their time anew with every piece of a stream", function()
    embedded.workflow("w", {providers = {{timeout = 0.5, respond = function(_, context)
      for _ = 1, 30 do
        context.emit("x")
        task.sleep(0.02)
      end
    end}}})
    local chunks = support.chunks(transport, {workflow = "w"})
    assert.equal(("x"):rep(30), support.text(chunks))
    assert.equal("[DONE]", chunks[#chunks])
  end)

  it("serve many requests side by side", function()
    local running, most, gate = 0, 0, task.queue()
    embedded.workflow("w", function(_, context)
      running = running + 1
      most = math.max(most, running)
      if running == 20 then for _ = 1, 20 do gate:put(true) end end
      gate:get()
      running = running - 1
      return context.text
    end)
    local items = {}
    for i = 1, 20 do items[i] = "n" .. i end
    local texts = task.map(items, function(item)
      return answer(transport, {workflow = "w", messages = {{role = "user", content = item}}})
        .choices[1].message.content
    end, {concurrency = 20})
    texts.n = nil
    assert.same(items, texts)
    assert.equal(20, most)
  end)

  it("end with the one who asks", function()
    local ended = false
    embedded.workflow("w", {providers = {{respond = function()
      local _ <close> = setmetatable({}, {__close = function() ended = true end})
      task.sleep(3600)
    end}, {respond = function() error("not to be asked") end}}})
    local asking = task.spawn(support.ask, transport, {workflow = "w"})
    task.sleep(0)
    asking:cancel()
    assert.equal("cancelled", support.error_of(asking.await, asking).kind)
    assert.is_true(ended)
  end)

  describe("that forward", function()
    local server, base

    setup(function()
      server = servers.start{servers.python(), servers.folder .. "openai_stub.py"}
      base = server:url("/v1/")
    end)
    teardown(function() server:close() end)

    local function forward(name, model, more)
      local provider = {provider = "upstream", model = "label",
        forward = {base_url = base, api_key = "sk-secret", model = model, headers = {["X-Extra"] = "yes"}}}
      for key, value in pairs(more or {}) do provider[key] = value end
      embedded.workflow(name, {providers = {provider, {provider = "backup", respond = function() return "backup" end}}})
    end

    it("ask the other server with its own key and model, and what OpenAI's API knows", function()
      forward("w", "echo")
      local body, res = answer(transport, {workflow = "w", temperature = 0.5, metadata = {a = 1}, user_id = 3,
        inputs = {b = 2}, tools = {{type = "function", ["function"] = {name = "f"}}}})
      assert.equal("hello world", body.choices[1].message.content)
      assert.equal("chatcmpl-upstream", body.id)
      assert.equal("Bearer sk-secret", body.seen.authorization)
      assert.equal("yes", body.seen.extra)
      local sent = body.seen.body
      assert.equal("echo", sent.model)
      assert.equal(0.5, sent.temperature)
      assert.equal("f", sent.tools[1]["function"].name)
      assert.same({}, {sent.metadata, sent.user_id, sent.inputs, sent.workflow, sent.stream})
      assert.equal("label", res.headers["x-modelriver-model"])
      local wrapped = answer(transport, {workflow = "w", format = "wrapped"})
      assert.equal(33, wrapped.meta.usage.total_tokens)
    end)

    it("may be written with respond as well, and send schemas as OpenAI wants them", function()
      embedded.workflow("w", {schema = {type = "object"},
        providers = {{provider = "u", respond = {base_url = base, model = "echo"}}}})
      local body = answer(transport, {workflow = "w", messages = {{role = "user", content = '{"a":1}'}}})
      assert.same({type = "json_schema", json_schema = {name = "answer", schema = {type = "object"}}},
        body.seen.body.response_format)
      assert.is_nil(body.seen.authorization)
      assert.same({a = 1}, answer(transport, {workflow = "w", format = "wrapped",
        messages = {{role = "user", content = '{"a":1}'}}}).data)
    end)

    it("fail as the other server does", function()
      for model, expected in pairs{
        ["status:429"] = {429, "rate_limit", "refused with 429"}, ["status:401"] = {401, "authentication", "401"},
        ["status:503"] = {503, "upstream_error", "503"}, ["status:400"] = {400, "invalid_request", "400"},
        html = {502, "upstream_error", "<html>"}, json = {502, "protocol", "not JSON"},
        nochoices = {502, "protocol", "no choices"}, error200 = {502, "upstream_error", "quota is used up"},
      } do
        embedded.workflow("w", {providers = {{provider = "u", forward = {base_url = base, api_key = "sk-secret",
          model = model}}}})
        local res = support.ask(transport, {workflow = "w"})
        local body = res:json()
        assert.equal(expected[1], body.error.details.status)
        assert.equal(expected[2], body.meta.attempts[1].reason)
        assert.truthy(body.error.details.message:find(expected[3], 1, true), body.error.details.message)
        assert.is_nil(res.body:find("sk-secret", 1, true))
        local streamed = support.ask(transport, {workflow = "w", stream = true})
        assert.equal(expected[2], streamed:json().meta.attempts[1].reason)
        forward("over", model)
        assert.equal("backup", answer(transport, {workflow = "over"}).choices[1].message.content)
      end
    end)

    it("fail when nothing listens, and when the time is over", function()
      embedded.workflow("w", {providers = {{provider = "u", forward = {base_url = "http://127.0.0.1:1/v1"}}}})
      assert.equal("connection", answer(transport, {workflow = "w"}).meta.attempts[1].reason)
      forward("slow", "slow", {timeout = 0.05})
      local body = answer(transport, {workflow = "slow", format = "wrapped"})
      assert.equal("timeout", body.meta.attempts[1].reason)
      assert.equal("backup", body.data.choices[1].message.content)
    end)

    it("pass streams on as they come", function()
      forward("w", "echo")
      local chunks, res = support.chunks(transport, {workflow = "w", stream_options = {include_usage = true}})
      assert.equal("hello world ", support.text(chunks))
      assert.equal("upstream", res.headers["x-modelriver-provider"])
      assert.same({role = "assistant"}, chunks[1].choices[1].delta)
      assert.equal("chatcmpl-upstream", chunks[1].id)
      assert.equal("hm", chunks[2].choices[1].delta.reasoning_content)
      assert.equal("stop", chunks[#chunks - 2].choices[1].finish_reason)
      assert.equal(33, chunks[#chunks - 1].usage.total_tokens)
      assert.equal("[DONE]", chunks[#chunks])
    end)

    it("fail over before the first piece of a stream, not after it", function()
      for _, model in ipairs{"early", "garbage"} do
        forward("w", model)
        local chunks = support.chunks(transport, {workflow = "w"})
        assert.equal("backup", support.text(chunks))
        assert.equal("backup", chunks[1].model == "w" and "backup" or chunks[1].model)
      end
      for model, code in pairs{cut = "stream_truncated", broken = "upstream_error"} do
        forward("w", model)
        local chunks = support.chunks(transport, {workflow = "w"})
        assert.truthy(support.text(chunks):find("^hello"))
        assert.equal(code, chunks[#chunks].error.code)
      end
      forward("w", "stall", {timeout = 1})
      local chunks = support.chunks(transport, {workflow = "w"})
      assert.equal("timeout", chunks[#chunks].error.code)
    end)
  end)
end)
