-- Failures: what a status, a body or a broken connection means, in one form.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local errors = require "riverlua.errors"
local json = require "riverlua.json"
local modelriver = require "modelriver"

local error_of, faked = support.error_of, support.faked

-- The error that an answer with this body is.
local function failure_of(status, body, headers)
  local client = faked({status = status, body = body, headers = headers}, {retries = 0})
  local err = error_of(client.ai, client, "w", "hi")
  assert.is_true(errors.is(err))
  return err
end

describe("statuses of the stand-in", function()
  local stub, client
  setup(function() stub = support.start() end)
  teardown(function() stub:close() end)
  before_each(function()
    stub:reset()
    client = support.client(stub, {retries = 0})
  end)
  after_each(function() client:close() end)

  it("have their kinds, codes and hints", function()
    local cases = {
      {400, "invalid_request", "invalid_request_error", false},
      {401, "auth", "invalid_api_key", false, "MODELRIVER_API_KEY"},
      {402, "invalid_request", "error", false, "quota"}, {403, "permission", "forbidden", false, "another project"},
      {404, "not_found", "model_not_found", false, "create the workflow"}, {405, "invalid_request", "error", false},
      {408, "server", "request_timeout", true, "may work later"}, {409, "invalid_request", "conflict", false},
      {413, "invalid_request", "request_too_large", false, "send less"},
      {422, "invalid_request", "invalid_request_error", false},
      {429, "rate_limit", "rate_limit_exceeded", true, "wait before"}, {500, "server", "internal_error", true, "later"},
      {502, "server", "upstream_error", true}, {503, "server", "service_unavailable", true},
      {504, "server", "upstream_timeout", true}, {529, "server", "error", true},
    }
    for _, case in ipairs(cases) do
      local status, kind, code, retryable, hint = table.unpack(case)
      local workflow = "fail" .. status
      local err = error_of(client.ai, client, workflow, "hi")
      assert.same({kind, status, code, retryable, workflow, 1, "POST", stub:url("/v1/ai")}, {err.kind, err.status,
        err.code, err.retryable, err.workflow, err.tries, err.method, err.url})
      assert.truthy(err.message:find(("ai '%s': "):format(workflow), 1, true), err.message)
      assert.truthy(err.message:find(("(HTTP %d %s)"):format(status, code), 1, true), err.message)
      assert.truthy(err.request_id:find("^req_"))
      assert.equal("application/json; charset=utf-8", err.headers["content-type"])
      assert.truthy(err.body:find(code, 1, true))
      assert.truthy(not hint or err.hint and err.hint:find(hint, 1, true), err.hint)
      assert.falsy(tostring(err):find("\n", 1, true))
    end
    assert.equal(#cases, stub:stats().requests)
  end)

  it("tell a wrong, a revoked and another project's key", function()
    for key, kind in pairs{revoked = "auth", forbidden = "permission"} do
      local other <close> = support.client(stub, {api_key = stub.info.keys[key]})
      local err = error_of(other.ai, other, "echo", "hi")
      assert.equal(kind, err.kind)
      assert.falsy(support.all_text(err):find(stub.info.keys[key], 1, true))
    end
    local none <close> = support.client(stub, {api_key = false})
    assert.equal("auth", error_of(none.ai, none, "echo", "hi").kind)
  end)

  it("are read in every shape of the body", function()
    local said = "Unprocessable request"
    for shape, message in pairs{openai = said, string = said, message = said, errors = said, text = said,
      html = "a page with the title '500'", empty = "the request was refused", list = '["nothing", "known"]'} do
      local err = error_of(client.ai, client, "fail422+shape:" .. shape, "hi")
      assert.equal("invalid_request", err.kind, shape)
      assert.equal(422, err.status)
      assert.truthy(err.message:find("': " .. message, 1, true), err.message)
    end
  end)

  it("tell what to do about workflows that are not there, or answer later", function()
    local err = error_of(client.ai, client, "no-such-workflow", "hi")
    assert.same({"not_found", "model_not_found", "model"}, {err.kind, err.code, err.param})
    assert.truthy(err.hint:find("create the workflow", 1, true))
    err = error_of(client.ai, client, "event:done", "hi")
    assert.same({"invalid_request", "model_not_supported"}, {err.kind, err.code})
    assert.truthy(err.hint:find("client:ai_async", 1, true))
    local elsewhere <close> = support.client(stub, {base_url = stub:url("/elsewhere")})
    err = error_of(elsewhere.ai, elsewhere, "echo", "hi")
    assert.equal("not_found", err.kind)
    assert.truthy(err.hint:find("base_url", 1, true))
    assert.truthy(err.message:find("Not Found", 1, true))
  end)

  it("of a request that is too large", function()
    local err = error_of(client.ai, client, "echo", ("x"):rep(4 << 20))
    assert.same({413, "invalid_request"}, {err.status, err.kind})
    assert.truthy(err.hint:find("send less", 1, true))
  end)

  it("carry what the server asks to wait", function()
    for workflow, seconds in pairs{["rate429:7"] = 7, ["rate429:1.5"] = 1.5, ["fail503+retry_after_ms:250"] = 0.25,
      ["fail429+retry_after:120+retry_after_ms:5"] = 0.005, ["fail429+retry_after:soon"] = false,
      ["fail429+retry_after:-5"] = false, ["fail429+retry_date:-100"] = 0} do
      local err = error_of(client.ai, client, workflow, "hi")
      assert.equal(seconds, err.retry_after or false)
    end
    local err = error_of(client.ai, client, "fail503+retry_date:100", "hi")
    assert.is_true(err.retry_after >= 97 and err.retry_after <= 100, err.retry_after)
    assert.truthy(error_of(client.ai, client, "rate429:7", "hi").hint:find("wait 7 s", 1, true))
  end)

  it("obey the server's word about another try", function()
    assert.is_true(error_of(client.ai, client, "fail400+should_retry:true", "hi").retryable)
    assert.is_false(error_of(client.ai, client, "fail503+should_retry:false", "hi").retryable)
    assert.is_true(error_of(client.ai, client, "fail503+should_retry:maybe", "hi").retryable)
  end)

  it("200 with an error is the providers' failure, with three statuses and all attempts", function()
    for _, format in ipairs{"raw", "wrapped"} do
      local err = error_of(client.ai, client, {workflow = "fail200", messages = {modelriver.user("hi")},
        format = format, user_id = "u1"})
      assert.same({"provider", 200, 502, 504, true, "fail200", 1}, {err.kind, err.status, err.http_status,
        err.provider_status, err.retryable, err.workflow, err.tries})
      assert.equal("ai 'fail200': Provider request failed: Upstream timeout (the provider's status: 504)", err.message)
      assert.equal("tried openai/gpt-4o-mini: timeout", err.hint)
      assert.same({{provider = "openai", model = "gpt-4o-mini", status = "error", reason = "timeout"}}, err.attempts)
      assert.same({status = 504, message = "Upstream timeout"}, err.details)
      assert.same({user_id = "u1"}, err.customer_data)
      assert.equal("error", err.meta.status)
      assert.truthy(err.request_id)
      assert.truthy(err.body:find("Upstream timeout", 1, true))
    end
  end)

  it("of answers that are none", function()
    for workflow, pattern in pairs{badjson = "the answer is not JSON: .* at line 1", empty200 = "the answer is empty",
      text200 = "the answer is not JSON: ", ["flaky:1:badjson"] = "not JSON"} do
      local err = error_of(client.ai, client, workflow, "hi")
      assert.same({"protocol", 200, false, workflow}, {err.kind, err.status, err.retryable, err.workflow})
      assert.truthy(err.message:find(pattern), err.message)
      assert.truthy(err.headers["content-type"] and err.request_id)
      assert.truthy(err.hint:find("base_url", 1, true))
    end
    local err = error_of(client.ai, client, "truncate", "hi")
    assert.equal("protocol", err.kind)
    assert.is_nil(err.status)
    assert.is_true(err.retryable)
    err = error_of(client.ai, client, "html500", "hi")
    assert.equal("ai 'html500': a page with the title '500' (HTTP 500)", err.message)
  end)

  it("of connections that break, or never were", function()
    for workflow, kind in pairs{reset = "connect", close_http = "connect"} do
      local err = error_of(client.ai, client, workflow, "hi")
      assert.same({kind, true, 1, workflow}, {err.kind, err.retryable, err.tries, err.workflow})
      assert.is_nil(err.attempts)
      assert.truthy(err.message:find(("ai '%s': POST http://127.0.0.1:"):format(workflow), 1, true))
    end
    local nobody <close> = support.client(stub, {base_url = "http://127.0.0.1:1", retries = 0})
    local err = error_of(nobody.ai, nobody, "w", "hi")
    assert.same({"connect", false}, {err.kind, err.sent})
    assert.truthy(err.hint:find("address", 1, true))
  end)

  it("of deadlines tell the phase and the limit", function()
    local err = error_of(client.ai, client, {workflow = "echo+hold:a", messages = {modelriver.user("hi")},
      timeout = {first_byte = 0.05}})
    assert.same({"timeout", "first_byte", true}, {err.kind, err.phase, err.retryable})
    assert.truthy(err.message:find("did not begin to answer within 0.05 s", 1, true))
    err = error_of(client.ai, client, {workflow = "echo+hold:a", messages = {modelriver.user("hi")}, timeout = 0.06})
    assert.same({"timeout", "total"}, {err.kind, err.phase})
    assert.truthy(err.message:find("not done within 0.06 s", 1, true))
    assert.truthy(err.hint:find("timeout.total", 1, true))
  end)
end)

describe("bodies of failures", function()
  it("are kept to 4 KB, and messages to a line", function()
    local err = failure_of(500, ("line\n"):rep(5000))
    assert.equal(4096, #err.body)
    assert.is_true(#err.message < 600)
    assert.falsy(err.message:find("\n", 1, true))
  end)

  it("show no half characters, escapes or other bytes", function()
    local err = failure_of(500, ("ä"):rep(3000))
    assert.truthy(utf8.len(err.message))
    err = failure_of(500, "x" .. ("ä"):rep(3000))
    assert.truthy(utf8.len(err.message))
    err = failure_of(500, "\27[31mred\27[0m\0\7 \xff\xfe")
    assert.falsy(err.message:find("[%c\xff]"))
    assert.truthy(err.message:find("red", 1, true))
  end)

  it("are understood in the forms of other servers", function()
    for _, case in ipairs{
      {{detail = "Not Found"}, "Not Found"},
      {{detail = {{msg = "field required", loc = {"body"}}, {msg = "bad value"}}}, "bad value; field required"},
      {{title = "Bad", detail = "Something is off", type = "about:blank"}, "Something is off"},
      {{object = "error", message = "no such model", code = 404}, "no such model"},
      {{errors = {name = {"is taken", "is short"}, detail = "wrong"}}, "name is taken; wrong"},
      {{errors = {{message = "first"}, {message = "second"}}}, "first; second"},
      {{error = "not_found", message = "No such thing"}, "No such thing"},
      {{error = "plain words"}, "plain words"},
      {{error = {error = "nested"}}, "nested"},
      {{error = json.object{}}, '{"error":{}}'},
      {{error = {message = json.null, code = {1}, type = 5, param = false}}, '"param":false'},
      {{unknown = "shape"}, '{"unknown":"shape"}'},
      {'"just a string"', "just a string"}, {"null", "null"}, {"5", "5"}, {"  ", "the request was refused"},
      {"<html><body>x", "a page, not JSON"}, {"<TITLE> Gone </TITLE>", "a page with the title 'Gone'"},
    } do
      local err = failure_of(422, case[1])
      assert.truthy(err.message:find(case[2], 1, true), err.message)
      assert.equal("invalid_request", err.kind)
    end
    assert.equal("not_found", failure_of(422, {error = "not_found", message = "x"}).code)
    assert.equal(404, failure_of(422, {error = {message = "x", code = 404}}).code)
    assert.is_nil(failure_of(422, {error = {message = "x", code = {}}}).code)
  end)

  it("carry attempts when they tell of them, and no cookies", function()
    local err = failure_of(502, {error = {message = "x"}, meta = {attempts = {{provider = "p", model = "m",
      success = false, duration_ms = 5}}}}, {["set-cookie"] = "session=1", ["x-other"] = "y"})
    assert.same({{provider = "p", model = "m", status = "error", duration_ms = 5}}, err.attempts)
    assert.same({["x-other"] = "y"}, err.headers)
  end)

  it("say what to do about credentials of a provider", function()
    local err = failure_of(400, {error = {message = "Provider credentials not configured"}})
    assert.truthy(err.hint:find("add a key of the provider", 1, true))
  end)

  it("with a redirect to nowhere are not what the API promises", function()
    assert.equal("protocol", failure_of(302, "").kind)
  end)
end)

describe("a failure with status 200", function()
  it("is told from an answer", function()
    for _, body in ipairs{
      {error = {message = "m"}}, {error = {message = "m"}, choices = {{}}}, {meta = {status = "error"}},
      {data = {a = 1}, error = {message = "m"}, meta = {status = "success"}}, {error = "m"},
      {data = json.null, error = {message = "m"}, meta = {status = "error"}},
    } do
      assert.equal("provider", failure_of(200, body).kind)
    end
    local client = faked{body = {choices = {{message = {content = "hi"}}}, error = json.null}}
    assert.equal("hi", client:ai("w", "hi"):text())
    client = faked{body = {data = {error = {message = "part of the data"}}, meta = {status = "success"}}}
    assert.equal("part of the data", client:ai("w", "hi").data.error.message)
  end)

  it("lists every attempt, whatever they lack", function()
    local err = failure_of(200, {error = {message = "all failed", details = {status = "504"}}, meta = {status = "error",
      attempts = {{provider = "openai", model = "gpt", status = "error", reason = "timeout", duration_ms = 3},
        {provider = "anthropic", success = false}, {}}}})
    assert.equal("tried openai/gpt: timeout, anthropic/?: error, ?/?: ?", err.hint)
    assert.equal(3, #err.attempts)
    assert.is_nil(err.provider_status)
    assert.is_false(err.retryable)
  end)

  it("may pass when the provider's trouble may", function()
    local function retryable(status, http_status)
      return failure_of(200, {error = {message = "m", details = {status = status}},
        meta = {http_status = http_status}}).retryable
    end
    assert.is_true(retryable(504))
    assert.is_true(retryable(429))
    assert.is_true(retryable(nil, 502))
    assert.is_false(retryable(400, 502))
    assert.is_false(retryable(nil, nil))
  end)

  it("that is no object is not what the API promises", function()
    for body, pattern in pairs{["[]"] = "no JSON object", ["null"] = "no JSON object", ["5"] = "no JSON object",
      ['"x"'] = "no JSON object", [""] = "is empty", [" \n"] = "is empty", ['{"a":'] = "is not JSON",
      ["<html><title>Log in</title>"] = "is not JSON but a page with the title 'Log in'"} do
      local err = failure_of(200, body)
      assert.equal("protocol", err.kind)
      assert.truthy(err.message:find(pattern, 1, true), err.message)
      assert.equal(body, err.body)
    end
    assert.equal("protocol", failure_of(204, "").kind)
  end)
end)

describe("attempts of another form", function()
  it("are told as far as they can be read", function()
    local err = failure_of(200, {error = {message = "no"}, meta = {status = "error", attempts = {5,
      {provider = {1}, model = "m", reason = {text = "x"}, status = "error"}, {provider = true, reason = "busy"}}}})
    assert.equal("tried ?/?: ?, ?/m: error, ?/?: busy", err.hint)
  end)
end)

describe("a redirection that leads nowhere", function()
  it("says where the mistake may be", function()
    local err = failure_of(304, "")
    assert.equal("protocol", err.kind)
    assert.truthy(err.hint:find("check base_url", 1, true), err.hint)
  end)
end)

describe("an answer to ai_async that is no job", function()
  it("keeps what is known about it", function()
    local headers = {["X-Request-Id"] = "r1"}
    local client = faked({body = {error = {message = "no credit"}}, headers = headers}, {retries = 0})
    local err = error_of(client.ai_async, client, "w", "hi")
    assert.equal("provider", err.kind)
    assert.equal("r1", err.request_id)
    client = faked({body = '{"status": "pending"}', headers = headers}, {retries = 0})
    err = error_of(client.ai_async, client, "w", "hi")
    assert.equal("protocol", err.kind)
    assert.equal('{"status": "pending"}', err.body)
    assert.equal("r1", err.request_id)
    assert.equal(1, err.tries)
  end)
end)

describe("a job that fails", function()
  it("says why on one line, without secrets", function()
    local key = "mr_live_secret_0123456789"
    modelriver.embedded.workflow("w", function() error{message = "first\nsecond " .. key, status = 500} end)
    local client <close> = modelriver.Client{base_url = "embedded:", api_key = key}
    local job = client:ai_async("w", "hi")
    local err = error_of(job.wait, job)
    assert.equal("job", err.kind)
    assert.equal("job 'w': Provider request failed: first second ***", err.message)
    assert.is_nil(support.all_text(err):find(key, 1, true))
    modelriver.embedded.reset()
  end)
end)
