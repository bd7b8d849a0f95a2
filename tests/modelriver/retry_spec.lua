-- What is sent again, how often, when, and what never is. The stand-in counts.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local errors = require "riverlua.errors"
local modelriver = require "modelriver"
local task = require "riverlua.task"

local error_of, faked = support.error_of, support.faked

describe("against the stand-in", function()
  local stub, client
  setup(function() stub = support.start() end)
  teardown(function() stub:close() end)
  before_each(function()
    stub:reset()
    client = support.client(stub)
  end)
  after_each(function() client:close() end)

  local function ask(workflow, options)
    local all = {workflow = workflow, messages = {modelriver.user("hi")}}
    for name, value in pairs(options or {}) do all[name] = value end
    return client:ai(all)
  end

  -- How many requests a call makes that ends with an error of this kind.
  local function requests_of(workflow, kind, options)
    stub:reset()
    client:close()   -- a kept connection that breaks would be replaced by the transport itself
    client = support.client(stub, options)
    local err = error_of(ask, workflow)
    assert.equal(kind, err.kind, workflow)
    local requests = stub:stats().requests
    assert.equal(requests, err.tries, workflow)
    return requests
  end

  it("a request is sent three times in all where another try may help", function()
    for workflow, kind in pairs{fail408 = "server", fail500 = "server", fail502 = "server", fail503 = "server",
      fail504 = "server", fail529 = "server", fail429 = "rate_limit", html500 = "server", reset = "connect",
      close_http = "connect", truncate = "protocol"} do
      assert.equal(3, requests_of(workflow, kind), workflow)
    end
  end)

  it("and once where it cannot", function()
    for workflow, kind in pairs{fail400 = "invalid_request", fail401 = "auth", fail402 = "invalid_request",
      fail403 = "permission", fail404 = "not_found", fail409 = "invalid_request", fail413 = "invalid_request",
      fail422 = "invalid_request", fail200 = "provider", badjson = "protocol", empty200 = "protocol",
      text200 = "protocol", nosuch = "not_found"} do
      assert.equal(1, requests_of(workflow, kind), workflow)
    end
  end)

  it("the answer that comes in the end counts the tries", function()
    for _, how in ipairs{"503", "429", "408", "500", "reset", "close_http", "truncate", "html500"} do
      client:close()
      client = support.client(stub)
      local answer = ask(("flaky:2:%s+id:%s"):format(how, how))
      assert.equal("hi", answer:text())
      assert.equal(3, answer.tries, how)
    end
  end)

  it("as often as the client or the call says", function()
    assert.equal(1, requests_of("fail503", "server", {retries = 0}))
    assert.equal(1, requests_of("fail503", "server", {retries = false}))
    assert.equal(6, requests_of("fail503", "server", {retries = 5}))
    stub:reset()
    error_of(ask, "fail503", {retries = 1})
    assert.equal(2, stub:stats().requests)
    assert.equal(5, ask("flaky:4", {retries = 4}).tries)
  end)

  it("every try is the same request", function()
    ask("flaky:2", {user_id = "u", idempotency_key = true})
    local log = stub:log()
    assert.equal(log[1].body, log[2].body)
    assert.equal(log[1].body, log[3].body)
    local keys = support.sent_headers(stub, "idempotency-key")
    assert.truthy(keys[1]:find("^%x+%-%x+%-%x+%-%x+%-%x+$"))
    assert.same({keys[1], keys[1], keys[1]}, keys)
    ask("echo", {idempotency_key = true})
    assert.truthy(support.sent_headers(stub, "idempotency-key")[4] ~= keys[1])
  end)

  it("not when it is unknown whether it arrived and the client must not risk it", function()
    for _, workflow in ipairs{"reset", "close_http"} do
      assert.equal(1, requests_of(workflow, "connect", {resend = false}))
    end
    assert.equal(1, requests_of("truncate", "protocol", {resend = false}))
    assert.equal(3, requests_of("fail503", "server", {resend = false}))
    assert.equal(3, requests_of("fail500", "server", {resend = false}))
  end)

  it("when no connection was made, whatever the client risks", function()
    for _, resend in ipairs{true, false} do
      local nobody <close> = support.client(stub, {base_url = "http://127.0.0.1:1", resend = resend})
      assert.equal(3, error_of(nobody.ai, nobody, "w", "hi").tries)
    end
  end)

  it("a lost answer makes the work done twice, unless the request has a key", function()
    local function runs(workflow, options)
      assert.equal("hi", ask(workflow, options):text())
      return stub:stats().counters["run:" .. workflow]
    end
    assert.equal(2, runs("lose_answer+id:a"))
    assert.equal(1, runs("lose_answer+id:b", {idempotency_key = true}))
    assert.equal(1, runs("lose_answer+id:c", {idempotency_key = "mine"}))
    assert.equal(2, stub:stats().counters["idempotency:mine"])
  end)

  it("a request with a key that is still worked on is asked for again", function()
    local options = {idempotency_key = "k", retries = 20}
    local first = task.spawn(ask, "echo+hold", options)
    assert.is_true(stub:wait{key = "hold", waiting = 1})
    local second = task.spawn(ask, "echo+hold", {headers = {["idempotency-key"] = "k"}, retries = 20})
    assert.is_true(stub:wait{key = "idempotency:k", counted = 3})
    stub:release("hold")
    assert.equal("hi", first:await():text())
    assert.equal("hi", second:await():text())
    assert.equal(1, stub:stats().counters["run:echo+hold"])
  end)

  it("the server's word counts most", function()
    assert.equal(3, requests_of("fail400+should_retry:true", "invalid_request"))
    assert.equal(1, requests_of("fail503+should_retry:false", "server"))
    assert.equal(1, requests_of("fail429+should_retry:false", "rate_limit"))
    assert.equal(3, requests_of("fail503+should_retry:maybe", "server"))
  end)

  it("all providers' failure only when the client asks for that", function()
    assert.equal(3, requests_of("fail200", "provider", {retry_provider = true}))
    assert.equal("hi", ask("flaky:2:200"):text())
  end)

  it("waits as long as it is asked to, in every form, and no longer than a minute", function()
    client.gateway.first_delay = 1000   -- the delay of its own would be too long for the deadline
    local waits = {}
    client.gateway.trace = function(event) waits[#waits + 1] = event.wait end
    for _, workflow in ipairs{"flaky:1:429+retry_after:0.02", "flaky:1:503+retry_after_ms:20",
      "flaky:1:503+retry_after:0", "flaky:1:429+retry_date:-5", "flaky:1:503+retry_after:600+retry_after_ms:5"} do
      assert.equal(2, ask(workflow, {timeout = 30}).tries)
    end
    assert.same({0.02, 0.02, 0, 0, 0.005}, waits)
    stub:reset()
    for _, workflow in ipairs{"rate429:61", "fail503+retry_after:3600", "fail429+retry_date:400",
      "fail503+retry_after_ms:60001", "fail503+retry_after:99999999999999999999"} do
      local err = error_of(ask, workflow)
      assert.is_true(err.retryable)
      assert.is_true(err.retry_after > 60)
    end
    assert.equal(5, stub:stats().requests)
  end)

  it("a wait that would outlast the time of the call is not begun", function()
    client.gateway.first_delay = 30
    local err = error_of(ask, "fail503", {timeout = 5})
    assert.same({"server", 1}, {err.kind, err.tries})
    err = error_of(ask, "rate429:30", {timeout = 20})
    assert.same({"rate_limit", 30, 1}, {err.kind, err.retry_after, err.tries})
    assert.equal(2, stub:stats().requests)
  end)

  it("the time of the call ends a try that has begun", function()
    local err = error_of(ask, "echo+hold", {timeout = 0.05})
    assert.same({"timeout", "total", 1}, {err.kind, err.phase, err.tries})
  end)
end)

describe("the time of the call", function()
  it("includes all tries, and is what a message tells", function()
    local client, requests = faked(function(_, number)
      task.sleep(0.01)
      if number < 3 then errors.raise{kind = "connect", message = "reset", sent = true} end
      errors.raise{kind = "timeout", phase = "total", message = "not done within 29.9 s", sent = true}
    end)
    local err = error_of(client.ai, client, {workflow = "w", messages = {modelriver.user("hi")}, timeout = 30})
    assert.same({"timeout", 3}, {err.kind, err.tries})
    assert.equal("ai 'w': POST https://api.modelriver.com/v1/ai: not done within 30 s, in 3 tries", err.message)
    local left = {}
    for i, req in ipairs(requests) do left[i] = req.timeout.total end
    assert.is_true(left[1] <= 30 and left[2] <= left[1] - 0.01 and left[3] <= left[2] - 0.01)
  end)
end)

describe("delays", function()
  it("double, up to eight seconds, less a random quarter at most", function()
    local waits = {}
    local client = faked({status = 503}, {retries = 8, trace = function(event) waits[#waits + 1] = event.wait end})
    client.gateway.first_delay = 0.5
    -- what is to be waited is told; nobody has to wait for it here
    local sleep = task.sleep
    task.sleep = function() sleep(0) end
    local ok = pcall(client.ai, client, {workflow = "w", messages = {modelriver.user("hi")}, timeout = false})
    task.sleep = sleep
    assert.is_false(ok)
    assert.equal(8, #waits)
    for i, wait in ipairs(waits) do
      local most = math.min(0.5 * 2 ^ (i - 1), 8)
      assert.is_true(wait <= most and wait >= most * 0.75, ("wait %d is %g"):format(i, wait))
    end
  end)

  it("do not disturb the script's random numbers", function()
    local client = faked(function(_, number) return number % 2 == 1 and {status = 503} or {} end)
    math.randomseed(42)
    local wanted = math.random(1000000)
    math.randomseed(42)
    client:ai("w", "hi")
    assert.equal(wanted, math.random(1000000))
  end)
end)

describe("errors of the transport", function()
  -- How often a request is sent that always ends so.
  local function tries_of(fields, options)
    local client, requests = faked(function()
      local err = {message = "it broke"}
      for name, value in pairs(fields) do err[name] = value end
      errors.raise(err)
    end, options)
    local err = error_of(client.ai, client, "w", "hi")
    assert.equal(fields.kind, err.kind)
    return #requests
  end

  it("are tried again when nothing was sent, or when the client risks it", function()
    for _, case in ipairs{
      {{kind = "dns", sent = false}, 3, 3}, {{kind = "connect", sent = false}, 3, 3},
      {{kind = "connect", sent = true}, 3, 1}, {{kind = "timeout", phase = "connect", sent = false}, 3, 3},
      {{kind = "timeout", phase = "idle", sent = true}, 3, 1},
      {{kind = "timeout", phase = "first_byte", sent = true}, 3, 1}, {{kind = "protocol", sent = true}, 3, 1},
      {{kind = "timeout", phase = "total", sent = true}, 1, 1}, {{kind = "tls", sent = false}, 1, 1},
      {{kind = "limit", sent = true}, 1, 1}, {{kind = "protocol", status = 302}, 1, 1},
      {{kind = "cancelled"}, 1, 1}, {{kind = "interrupted"}, 1, 1}, {{kind = "closed"}, 1, 1},
      {{kind = "argument"}, 1, 1}, {{kind = "deadlock"}, 1, 1}, {{kind = "memory"}, 1, 1},
    } do
      local fields, risky, careful = table.unpack(case)
      local name = fields.kind .. " " .. tostring(fields.phase)
      assert.equal(risky, tries_of(fields), name)
      assert.equal(careful, tries_of(fields, {resend = false}), name)
    end
  end)

  it("that are no errors of riverlua are passed on as they are", function()
    local client, requests = faked(function() error("a mistake in the transport", 0) end)
    assert.equal("a mistake in the transport", error_of(client.ai, client, "w", "hi"))
    assert.equal(1, #requests)
  end)
end)

describe("too many requests", function()
  it("hold for all of the client, until the time is over", function()
    local order = {}
    local client = faked(function(req, number)
      order[#order + 1] = ("%s at %d"):format(req.json.workflow, number)
      return number == 1 and {status = 429, headers = {["retry-after"] = "0.05"}} or {}
    end)
    local first = task.spawn(client.ai, client, "first", "hi")
    while client.gateway.slowed == 0 do task.sleep(0) end
    client:ai("second", "hi")
    assert.is_true(task.now() >= client.gateway.paused_until)
    first:await()
    assert.equal("first at 1", order[1])
    assert.equal(3, #order)
    assert.equal(1, client:stats().slowed)
  end)

  it("also when the request itself gives up, unless its caller wants no retries", function()
    local client = faked({status = 429, headers = {["retry-after"] = "20"}}, {timeout = 10})
    assert.equal(1, error_of(client.ai, client, "w", "hi").tries)
    local err = error_of(client.ai, client, "w", "hi")
    assert.same({"rate_limit", 0, true, false}, {err.kind, err.tries, err.retryable, err.sent})
    assert.is_true(err.retry_after > 15 and err.retry_after <= 20)
    assert.truthy(err.message:find("ai 'w': not sent", 1, true))
    local careless = faked({status = 429, headers = {["retry-after"] = "20"}}, {retries = 0})
    for _ = 1, 2 do assert.equal(1, error_of(careless.ai, careless, "w", "hi").tries) end
    assert.equal(2, careless:stats().slowed)
  end)

  it("for longer than a minute hold nobody up", function()
    local client, requests = faked(function(_, number)
      return number == 1 and {status = 429, headers = {["retry-after"] = "600"}} or {}
    end)
    error_of(client.ai, client, "w", "hi")
    client:ai("w", "hi")
    assert.equal(2, #requests)
  end)
end)

describe("jobs and callbacks", function()
  local function tries_of(policy, answer, options)
    local client, requests = faked(answer, options)
    pcall(client.gateway.post, client.gateway, {what = "x", path = "/x", body = {}, policy = policy})
    return #requests
  end

  it("follow rules of their own: a second job costs money", function()
    local function broken() errors.raise{kind = "connect", message = "reset", sent = true} end
    local function unsent() errors.raise{kind = "connect", message = "refused", sent = false} end
    for _, case in ipairs{
      {"async", {status = 429}, 3}, {"async", {status = 503}, 3}, {"async", unsent, 3}, {"async", {status = 500}, 1},
      {"async", {status = 502}, 1}, {"async", {status = 408}, 1}, {"async", broken, 1},
      {"async", {status = 500}, 3, {retry_async = true}}, {"async", broken, 3, {retry_async = true}},
      {"async", {status = 500, headers = {["x-should-retry"] = "true"}}, 3},
      {"async", {status = 503, headers = {["x-should-retry"] = "false"}}, 1},
      {"callback", {status = 500}, 3}, {"callback", broken, 3}, {"callback", {status = 409}, 1},
      {"reconnect", {status = 502}, 3}, {"reconnect", broken, 3}, {"reconnect", {status = 404}, 1},
    } do
      local policy, answer, wanted, options = table.unpack(case)
      assert.equal(wanted, tries_of(policy, answer, options), policy)
    end
  end)
end)
