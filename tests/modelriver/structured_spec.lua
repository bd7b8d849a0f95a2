-- Answers that must fit a schema: what is sent, what is read out of which envelope, what is told when it does not fit.

local errors = require "riverlua.errors"
local json = require "riverlua.json"
local modelriver = require "modelriver"
local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local task = require "riverlua.task"

local error_of, faked, refuses = support.error_of, support.faked, support.refuses

local ORDER = {type = "object", required = {"number", "total"}, additionalProperties = false,
  properties = {number = {type = "string"}, total = {type = "number"}, note = {type = {"string", "null"}}}}
local GOOD = '{"number":"A-1","total":42.5}'

-- A raw answer of OpenAI's shape.
local function said(text, more)
  local message = {role = "assistant", content = text}
  local choice = {index = 0, message = message, finish_reason = "stop"}
  for name, value in pairs(more or {}) do
    if name == "finish_reason" then choice[name] = value else message[name] = value end
  end
  return {body = {choices = {choice}, usage = {prompt_tokens = 10, completion_tokens = 5, total_tokens = 15}}}
end

local function wrapped(data, meta)
  local all = {status = "success", workflow = "w", used_model = "m", structured_output = true}
  for name, value in pairs(meta or {}) do all[name] = value end
  return {body = {data = data, customer_data = json.object{}, meta = all}}
end

-- What client:ai makes of an answer, and the bodies that were sent.
local function ask(answer, schema, more)
  local client, requests = faked(answer)
  local fields = {workflow = "w", messages = {modelriver.user("an order")}, schema = schema or ORDER}
  for name, value in pairs(more or {}) do fields[name] = value end
  return client:ai(fields), requests
end

local function failing(answer, schema, more)
  local err = error_of(ask, answer, schema, more)
  assert.is_true(errors.is(err, "schema"), tostring(err))
  return err
end

-- Answers one after the other.
local function in_turn(...)
  local list = {...}
  return function(_, number) return list[number] end
end

describe("the schema of a structured answer", function()
  local function sent(more)
    local _, requests = ask(said(GOOD), more and more.schema, more)
    return json.decode(requests[1].json), requests[1].json
  end

  it("is sent as structured_output_schema", function()
    local body, text = sent()
    assert.equal(json.encode(ORDER, {sort = true}), json.encode(body.structured_output_schema, {sort = true}))
    assert.is_nil(body.schema)
    assert.is_nil(text:find("repair", 1, true))
    assert.is_nil(body.format)
  end)

  it("is sent with its empty lists, and with properties of any name", function()
    local schema = {type = "object", required = {}, properties = {content = {}, required = {examples = {}}}}
    local body = select(2, sent{schema = schema})
    assert.truthy(body:find('"structured_output_schema":{"properties":{"content":{},"required":{"examples":[]}},'
      .. '"required":[],"type":"object"}', 1, true), body)
  end)

  it("leaves a structured_output_schema of the user's alone", function()
    local own = {type = "object", title = "mine"}
    assert.same(own, sent{structured_output_schema = own}.structured_output_schema)
  end)

  it("goes along with a response_format of the user's", function()
    local own = {type = "json_schema", json_schema = {name = "order", strict = true, schema = ORDER}}
    local body = sent{response_format = own}
    assert.equal(json.encode(own, {sort = true}), json.encode(body.response_format, {sort = true}))
    assert.same("object", body.structured_output_schema.type)
  end)

  it("and the other tables of the user's stay as they are", function()
    local schema = {type = "object", required = {}, properties = {a = {type = "object", required = {}}}}
    local messages = {modelriver.user("x")}
    local fields = {workflow = "w", messages = messages, schema = schema, repair = true}
    local client = faked(in_turn(said("no"), said("{}")))
    client:ai(fields)
    assert.same({workflow = "w", messages = messages, schema = schema, repair = true}, fields)
    assert.equal(schema, fields.schema)
    assert.is_nil(getmetatable(schema.required))
    assert.is_nil(getmetatable(schema.properties.a.required))
    assert.equal(1, #messages)
  end)

  it("is refused before anything is sent when it is wrong itself, and the place is named", function()
    local client, requests = faked(said(GOOD))
    local function refused(pattern, schema, repair)
      return refuses(pattern, client.ai, client, {workflow = "w", messages = {modelriver.user("x")}, schema = schema,
        repair = repair})
    end
    local err = refused("^argument: ai: schema: /properties/total/type: ", {properties = {total = {type = "nubmer"}}})
    assert.equal("/properties/total/type", err.path)
    assert.truthy(tostring(err):find("number", 1, true))
    local round = {type = "object"}
    round.properties = {one = round, other = round}
    refused("nested deeper than 256 levels", round)
    refuses("JSON", client.ai, client, {workflow = "w", messages = {modelriver.user("x")},
      structured_output_schema = round})   -- and does not go round and round in it
    refused("'schema' must be a table, got string", "{}")
    refused("'repair' must be a boolean, got string", ORDER, "yes")
    refused("'repair' is of use only with 'schema'", nil, true)
    assert.equal(0, #requests)
  end)

  it("is no option of calls that do not look at the answer", function()
    local client, requests = faked(said(GOOD))
    for name, pattern in pairs{stream = "^argument: stream: there is no option 'schema' here",
      ai_async = "^argument: ai_async: there is no option 'schema' here", run = "^argument: run: there is no option"} do
      local fields = {workflow = "w", messages = {modelriver.user("x")}, schema = ORDER}
      if name == "run" then fields.tools = {f = print} end
      local err = refuses(pattern, client[name], client, fields)
      assert.truthy(err.hint:find("structured_output_schema", 1, true))
    end
    assert.equal(0, #requests)
  end)
end)

describe("a structured answer", function()
  it("is read out of the text of a raw answer", function()
    local answer = ask(said(GOOD))
    assert.same({number = "A-1", total = 42.5}, answer.data)
    assert.equal(GOOD, answer:text())
    assert.is_true(answer.meta.structured_output)
    assert.is_nil(answer.repaired)
  end)

  it("is read out of a fenced block, with words around it or not", function()
    for _, text in ipairs{"```json\n%s\n```", "```\n%s```", " \n```JSON  \r\n%s\r\n```\n\n", "``` json5\n\n%s\n\n```",
      "Here is the order:\n\n```json\n%s\n```\nDo ask when it is wrong.", "Well. ```json\n%s\n``` Good?"} do
      assert.equal(42.5, ask(said((text:gsub("%%s", GOOD)))).data.total, text)
    end
    local code = '{"number":"```lua\\nprint()\\n```","total":1}'
    assert.equal("```lua\nprint()\n```", ask(said(code)).data.number)
    assert.equal("```lua\nprint()\n```", ask(said("```json\n" .. code .. "\n```")).data.number)
  end)

  it("is not guessed out of several blocks or of half a fence", function()
    for _, text in ipairs{"```json\n" .. GOOD .. "\n```\nor\n```json\n" .. GOOD .. "\n```", "```json\n" .. GOOD,
      "```" .. GOOD .. "```", "```", "``````", "```\n", GOOD .. " there"} do
      assert.equal("json", failing(said(text)).problems[1].keyword, text)
    end
  end)

  it("is looked for in no more than the time that a text takes to read", function()
    for _, text in ipairs{"```\n" .. ("\n"):rep(2000000) .. "x", ("`"):rep(2000000), ("```a"):rep(500000),
      (" "):rep(2000000) .. "x", "```\n" .. (" "):rep(2000000) .. "x"} do
      failing(said(text))
    end
  end)

  it("is read out of the wrapped envelope", function()
    local answer = ask(wrapped{number = "A-2", total = 1})
    assert.same({number = "A-2", total = 1}, answer.data)
    assert.equal("m", answer.meta.model)
    assert.equal('{"number":"A-2","total":1}', answer:text())
  end)

  it("is read out of a provider's body inside the envelope", function()
    assert.equal(42.5, ask(wrapped(said(GOOD).body)).data.total)
    local claude = {type = "message", role = "assistant", stop_reason = "end_turn",
      content = {{type = "text", text = GOOD}}, usage = {input_tokens = 1, output_tokens = 2}}
    assert.equal(42.5, ask(wrapped(claude)).data.total)
    assert.equal(42.5, ask{body = claude}.data.total)
  end)

  it("is read out of text parts, an old completion, a text in the envelope, and the object alone", function()
    local parts = {{type = "text", text = GOOD:sub(1, 9)}, {type = "text", text = GOOD:sub(10)}}
    assert.equal(42.5, ask(said(parts)).data.total)
    assert.equal(42.5, ask{body = {choices = {{text = GOOD, finish_reason = "stop"}}}}.data.total)
    assert.equal(42.5, ask(wrapped(GOOD)).data.total)
    assert.equal(42.5, ask{body = GOOD}.data.total)
  end)

  it("may have members that look like a provider's answer", function()
    local quiz = {type = "object", required = {"question", "choices"}}
    local data = {question = "Which?", choices = {{text = "this"}, {text = "that"}}}
    assert.same(data, ask(wrapped(data), quiz).data)
  end)

  it("may be a list, a text, a number, a truth value or null", function()
    local list = {type = "array", items = {type = "integer"}}
    assert.same({1, 2}, ask(said("[1,2]"), list).data)
    assert.same({1, 2}, ask(wrapped{1, 2}, list).data)
    assert.is_true(json.is_array(ask(said("[]"), list).data))
    assert.is_true(json.is_array(ask(wrapped(json.array{}), list).data))
    assert.equal("hello", ask(said('"hello"'), {type = "string"}).data)
    assert.equal("42", ask(wrapped("42"), {type = "string"}).data)
    assert.equal(42, ask(said("42"), {type = "integer"}).data)
    assert.equal(42, ask(wrapped(42), {type = "integer"}).data)
    assert.is_false(ask(said("false"), {type = "boolean"}).data)
    assert.is_false(ask(wrapped(false), {type = "boolean"}).data)
    assert.is_nil(ask(said("null"), {type = "null"}).data)
    assert.is_nil(ask(wrapped(json.null), {type = "null"}).data)
  end)

  it("may have null where the schema asks for it, which is absent afterwards", function()
    local schema = {type = "object", required = {"a", "b"}, properties = {a = {type = {"string", "null"}},
      b = {type = "array", items = {type = {"integer", "null"}}}}}
    for _, answer in ipairs{said('{"a":null,"b":[1,null]}'), wrapped{a = json.null, b = {1, json.null}}} do
      local data = ask(answer, schema).data
      assert.is_nil(data.a)
      assert.same({1, json.null}, data.b)
    end
    assert.equal("/a", failing(said('{"a":null,"b":[]}'), {properties = {a = {type = "string"}}}).problems[1].path)
    assert.equal("required", failing(said('{"b":[]}'), schema).problems[1].keyword)
  end)

  it("keeps what is said about it: made up, sample data, attempts", function()
    local answer = ask(wrapped({number = "x", total = 0}, {offline_fallback = true, test_mode = true,
      attempts = {{provider = "openai", status = "error", reason = "timeout"}}}))
    assert.is_true(answer.offline_fallback)
    assert.is_true(answer.test_mode)
    assert.equal("timeout", answer.attempts[1].reason)
    local raw = said(GOOD)
    raw.headers = {["X-ModelRiver-Offline-Fallback"] = "true"}
    assert.is_true(ask(raw).offline_fallback)
    local err = failing(wrapped({}, {offline_fallback = true, test_mode = true}))
    assert.is_true(err.offline_fallback)
    assert.is_true(err.test_mode)
  end)
end)

describe("an answer that does not fit", function()
  it("raises what is wrong, by JSON pointers", function()
    for _, answer in ipairs{said('{"total":"42","prise":1}'), wrapped{total = "42", prise = 1}} do
      local err = failing(answer)
      assert.equal("invalid", err.code)
      local paths = {}
      for i, problem in ipairs(err.problems) do paths[i] = problem.path .. ":" .. problem.keyword end
      table.sort(paths)
      assert.same({"/prise:additionalProperties", "/total:type", ":required"}, paths)
      assert.equal("w", err.workflow)
      assert.equal("42", err.data.total)
      assert.is_true(err.retryable)
      assert.equal(1, err.tries)
      assert.truthy(err.message:find("^ai 'w': the answer does not fit the schema: .* %(and 2 more%)$"), err.message)
      assert.truthy(err.hint:find("repair = true", 1, true))
      assert.equal("modelriver.Response", getmetatable(err.answer).__name)
    end
  end)

  it("and is no JSON says so", function()
    for _, text in ipairs{"Sorry, no JSON today.", "", '{"a":', '{"a":1}}', "\255"} do
      local client = faked(function()
        return {body = '{"choices":[{"message":{"content":' .. (text == "\255" and '"\\ud800x"' or json.encode(text))
          .. "}}]}"}
      end)
      local err = error_of(client.ai, client, "w", "x", {schema = ORDER})
      if text == "\255" then
        assert.equal("protocol", err.kind)
      else
        assert.same({"invalid", "json", ""}, {err.code, err.problems[1].keyword, err.problems[1].path})
        assert.truthy(err.message:find("does not fit the schema: the answer is not JSON", 1, true), err.message)
      end
    end
  end)

  it("because it was cut off is told from one that is wrong, even if what there is fits", function()
    for _, text in ipairs{'{"number":"A-1","to', GOOD, "", "4"} do
      local err = failing(said(text, {finish_reason = "length"}), text == "4" and {type = "integer"} or nil)
      assert.same({"truncated", "raise max_tokens", false}, {err.code, err.hint, err.retryable})
      assert.equal("ai 'w': the answer was cut off before it was complete (finish_reason \"length\")", err.message)
    end
    assert.equal("truncated", failing{body = {type = "message", stop_reason = "max_tokens",
      content = {{type = "text", text = "{"}}}}.code)
  end)

  it("because the model refused is told as that", function()
    local err = failing(said(nil, {refusal = "I cannot\nhelp with that."}))
    assert.same({"refused", "ai 'w': the model refused: I cannot help with that.", false},
      {err.code, err.message, err.retryable})
    err = failing(said(GOOD, {finish_reason = "content_filter"}))
    assert.equal("refused", err.code)
    assert.truthy(err.message:find("content filter", 1, true))
  end)

  it("because the model wants tools first is told as that", function()
    local err = failing(said(nil, {finish_reason = "tool_calls", tool_calls = {{id = "1", type = "function",
      ["function"] = {name = "look_up", arguments = "{}"}}}}))
    assert.equal("tool_calls", err.code)
    assert.equal("ai 'w': the model asks for tools (look_up) before it answers", err.message)
    assert.equal("look_up", err.answer.tool_calls[1].name)
  end)

  it("is counted all the same", function()
    local client = faked(said("no"))
    error_of(client.ai, client, "w", "x", {schema = ORDER})
    assert.equal(15, client.usage.total.total_tokens)
  end)

  it("is a matter of the schema alone: failures of the service are theirs", function()
    local client, requests = faked({status = 404, body = {error = {message = "no", code = "model_not_found"}}})
    assert.equal("not_found", error_of(client.ai, client, "w", "x", {schema = ORDER, repair = true}).kind)
    assert.equal(1, #requests)
  end)
end)

describe("the repair of an answer", function()
  local function repaired(...) return ask(in_turn(...), nil, {repair = true, temperature = 0.5}) end

  it("is one more round in which the model is told what is wrong", function()
    local answer, requests = repaired(said('{"number":"A-1","total":"42"}'), said(GOOD))
    assert.equal(42.5, answer.data.total)
    assert.is_true(answer.repaired)
    assert.equal(2, #requests)
    local first, second = json.decode(requests[1].json), json.decode(requests[2].json)
    assert.same({"user"}, {first.messages[1].role, first.messages[2]})
    assert.equal(3, #second.messages)
    assert.same(first.messages[1], second.messages[1])
    assert.same({role = "assistant", content = '{"number":"A-1","total":"42"}'}, second.messages[2])
    assert.equal("user", second.messages[3].role)
    assert.truthy(second.messages[3].content:find('/total: must be a number, got "42"', 1, true))
    second.messages, first.messages = nil, nil
    assert.same(first, second)
  end)

  it("tells the JSON of a wrapped answer, with its nulls", function()
    local _, requests = repaired(wrapped{number = json.null, total = 1}, wrapped{number = "A", total = 1})
    assert.equal('{"number":null,"total":1}', json.decode(requests[2].json).messages[2].content)
  end)

  it("says nothing for a model that said nothing", function()
    local _, requests = repaired(said(""), said(GOOD))
    local messages = json.decode(requests[2].json).messages
    assert.same({"user", "user"}, {messages[1].role, messages[2].role})
  end)

  it("does not tell hundreds of problems", function()
    local many = {}
    for i = 1, 90 do many["x" .. i] = i end
    local _, requests = repaired(wrapped(many), said(GOOD))
    local told = json.decode(requests[2].json).messages[3].content
    assert.equal(1 + 20 + 1, select(2, told:gsub("[^\n]+", "")))
  end)

  it("comes once", function()
    local err = error_of(repaired, said("no"), said("nor"), said(GOOD))
    assert.equal("invalid", err.code)
    assert.truthy(err.message:find("does not fit the schema after a second try either", 1, true))
    assert.is_nil(err.hint:find("repair", 1, true))
    assert.equal("nor", err.answer:text())
  end)

  it("counts the tokens of both rounds", function()
    local client = faked(in_turn(said("no"), said(GOOD)))
    local answer = client:ai("w", "x", {schema = ORDER, repair = true})
    assert.equal(30, client.usage.total.total_tokens)
    assert.equal(2, client.usage.total.requests)
    assert.equal(15, answer.usage.total_tokens)
    assert.same({prompt_tokens = 20, completion_tokens = 10, total_tokens = 30}, answer.total_usage)
  end)

  it("does not come for answers that fit, were cut off, refused, or want tools", function()
    local _, requests = repaired(said(GOOD))
    assert.equal(1, #requests)
    for _, more in ipairs{{finish_reason = "length"}, {finish_reason = "content_filter"}, {refusal = "no"}} do
      local client, sent = faked(said(more.refusal == nil and "no" or nil, more))
      error_of(client.ai, client, "w", "x", {schema = ORDER, repair = true})
      assert.equal(1, #sent)
    end
  end)

  it("that is cut off is told as that", function()
    assert.equal("truncated", error_of(repaired, said("no"), said("{", {finish_reason = "length"})).code)
  end)

  it("is another request, with an idempotency key of its own", function()
    local client, requests = faked(in_turn(said("no"), said(GOOD)))
    client:ai("w", "x", {schema = ORDER, repair = true, idempotency_key = "k"})
    assert.same({"k", "k-2"}, {requests[1].headers["Idempotency-Key"], requests[2].headers["Idempotency-Key"]})
  end)

  it("has retries and deadlines of its own", function()
    local busy = {status = 503, body = {error = {message = "busy"}}}
    local client, requests = faked(in_turn(busy, said("no"), busy, said(GOOD)), {retries = 1})
    local answer = client:ai("w", "x", {schema = ORDER, repair = true, timeout = 30})
    assert.equal(4, #requests)
    assert.equal(2, answer.tries)
    assert.is_true(requests[4].timeout.total <= 30 and requests[4].timeout.total > 0)
    client = faked(in_turn(busy, said("no"), busy, busy), {retries = 1})
    assert.equal("server", error_of(client.ai, client, "w", "x", {schema = ORDER, repair = true}).kind)
  end)

  it("works on a request without messages", function()
    local client, requests = faked(in_turn(said("no"), said(GOOD)))
    client:ai{workflow = "w", prompt = "x", schema = ORDER, repair = true}
    assert.equal("no", json.decode(requests[2].json).messages[1].content)
  end)
end)

describe("structured output of the stand-in", function()
  local stub, client

  setup(function() stub = support.start() end)
  teardown(function() stub:close() end)
  before_each(function()
    stub:reset()
    client = support.client(stub)
  end)
  after_each(function() client:close() end)

  it("comes raw, wrapped and in Anthropic's shape", function()
    for _, workflow in ipairs{"echo", "structured", "anthropic", "bare", "failover", "chunked"} do
      for _, format in ipairs{"raw", "wrapped"} do
        local answer = client:ai(workflow .. "+id:" .. format, "x", {schema = ORDER, format = format})
        assert.same({number = "text", total = 0.5, note = "text"}, answer.data, workflow .. " " .. format)
        assert.is_true(answer.meta.structured_output)
      end
    end
    local sent = support.bodies(stub)
    assert.equal(json.encode(ORDER, {sort = true}), json.encode(sent[1].structured_output_schema, {sort = true}))
  end)

  it("is made up, or a sample, and says so", function()
    for _, format in ipairs{"raw", "wrapped"} do
      assert.is_true(client:ai("offline", "x", {schema = ORDER, format = format}).offline_fallback)
    end
    assert.is_true(client:ai("testmode", "x", {schema = ORDER, format = "wrapped"}).test_mode)
  end)

  it("that is bad is told, and repaired once", function()
    for _, format in ipairs{"raw", "wrapped"} do
      for workflow, keyword in pairs{badschema = "required", notjson = "json"} do
        stub:reset()
        local err = error_of(client.ai, client, workflow, "x", {schema = ORDER, format = format, repair = true})
        assert.same({"schema", "invalid", keyword}, {err.kind, err.code, err.problems[1].keyword})
        assert.truthy(err.request_id)
        local sent = support.bodies(stub)
        assert.equal(2, #sent)
        assert.equal(3, #sent[2].messages)
      end
    end
  end)

  it("is cut off, refused and filtered", function()
    for workflow, code in pairs{length = "truncated", refusal = "refused", filter = "refused"} do
      assert.equal(code, error_of(client.ai, client, workflow, "x", {schema = ORDER}).code)
    end
  end)

  it("is refused with a wrong schema before anything is sent", function()
    refuses("/type", client.ai, client, "structured", "x", {schema = {type = "objekt"}})
    assert.equal(0, #stub:log())
  end)

  it("is sent twice with one key to a service that knows keys", function()
    local err = error_of(client.ai, client, "badschema", "x", {schema = ORDER, repair = true, idempotency_key = true})
    assert.equal("schema", err.kind)
    assert.equal(2, #stub:log())
  end)

  it("stops when its time is up", function()
    local err = error_of(task.timeout, 0.1, function()
      return client:ai("hold:ai+structured", "x", {schema = ORDER, repair = true})
    end)
    assert.equal("timeout", err.kind)
    assert.is_true(stub:wait{key = "ai", waiting = 0})
  end)
end)

describe("structured output of the embedded gateway", function()
  local client

  before_each(function()
    modelriver.embedded.reset()
    client = modelriver.Client{base_url = "embedded:"}
  end)
  after_each(function()
    client:close()
    modelriver.embedded.reset()
  end)

  it("comes in both formats, of tables and of texts", function()
    modelriver.embedded.workflow("table", function() return {number = "A", total = 3} end)
    modelriver.embedded.workflow("text", function() return '{"number":"A","total":3}' end)
    for _, name in ipairs{"table", "text"} do
      for _, format in ipairs{"raw", "wrapped"} do
        assert.same({number = "A", total = 3}, client:ai(name, "x", {schema = ORDER, format = format}).data)
      end
    end
  end)

  it("is repaired by a workflow that reads what it is told", function()
    local told
    modelriver.embedded.workflow("careless", {validate = false, respond = function(request, context)
      if #request.messages == 1 then return '{"number":"A","total":"3"}' end
      told = context.text
      return '```json\n{"number":"A","total":3}\n```'
    end})
    assert.equal(3, client:ai("careless", "x", {schema = ORDER, repair = true}).data.total)
    assert.truthy(told:find("/total: must be a number", 1, true))
  end)

  it("is made up when all providers fail", function()
    modelriver.embedded.workflow("down", {offline_fallback = true, respond = function() error("down") end})
    local answer = client:ai("down", "x", {schema = ORDER})
    assert.is_true(answer.offline_fallback)
    assert.equal("string", type(answer.data.number))
  end)
end)
