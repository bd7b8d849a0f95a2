-- Retries: where a repeat is safe, how long to wait, and when to stop.

local servers = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../support/servers.lua")
local exchange = require "riverlua.exchange"
local task = require "riverlua.task"

local error_of = servers.error_of

servers.over_both_ways(describe, "retries of http.Client", function(way)
  local stub, client

  setup(function() stub = servers.stub() end)
  teardown(function() stub:close() end)
  before_each(function()
    stub:reset()
    client = way.Client{base_url = stub:url(), proxy = false}
  end)
  after_each(function() client:close() end)

  local function flaky(how, times, options)
    options = options or {}
    options.query = options.query or {}
    options.query.how, options.query.times = how, times
    return client:request{method = options.method or "GET", url = "/flaky", query = options.query, body = options.body,
      retries = options.retries, idempotent = options.idempotent, timeout = options.timeout}
  end

  it("repeats a GET after every kind of broken answer", function()
    for _, how in ipairs{"rst", "close", "cut", "cut_chunked", "garbage", "503", "502", "504", "429"} do
      stub:reset()
      client:close()
      client = way.Client{base_url = stub:url(), proxy = false}
      local res = flaky(how, 1)
      assert.equal(200, res.status, how)
      assert.equal(2, res.attempts, how)
      assert.equal(2, stub:stats().requests, how)
      assert.equal(1, client:stats().retries, how)
    end
  end)

  it("tries three times in all by default", function()
    local res = flaky("503", 5)
    assert.equal(503, res.status)
    assert.equal(3, res.attempts)
    assert.equal(3, stub:stats().requests)
    stub:reset()
    client:close()   -- a kept connection would be replaced once more, by libcurl itself
    client = way.Client{base_url = stub:url(), proxy = false}
    local err = error_of(flaky, "rst", 5)
    assert.equal("connect", err.kind)
    assert.equal(3, err.attempts)
    assert.equal(3, stub:stats().requests)
  end)

  it("can be told not to, or more often", function()
    assert.equal(503, flaky("503", 5, {retries = 0}).status)
    assert.equal(1, stub:stats().requests)
    stub:reset()
    assert.equal(200, flaky("503", 4, {retries = 4, query = {retry_after = "0"}}).status)
  end)

  it("never repeats a POST that may have been acted on", function()
    for how, kind in pairs{rst = "connect", close = "connect", cut = "protocol", garbage = "protocol"} do
      stub:reset()
      client:close()
      client = way.Client{base_url = stub:url(), proxy = false}
      local err = error_of(flaky, how, 1, {method = "POST", body = "x"})
      assert.equal(kind, err.kind, how)
      assert.equal(1, err.attempts, how)
      assert.equal(1, stub:stats().requests, how)
    end
    for _, how in ipairs{"500", "502", "503", "504"} do
      stub:reset()
      assert.equal(tonumber(how), flaky(how, 1, {method = "POST", body = "x"}).status)
      assert.equal(1, stub:stats().requests, how)
    end
  end)

  it("never repeats one on a kept connection either, as libcurl by itself would", function()
    for _, stream in ipairs{false, true} do
      for _, how in ipairs{"rst", "close"} do
        stub:reset()
        assert.equal(200, client:get("/status/200").status)
        local err = error_of(flaky, how, 1, {method = "POST", body = "x", stream = stream})
        assert.equal("connect", err.kind, how)
        assert.is_true(err.sent)
        assert.equal(2, stub:stats().requests, how)
      end
    end
  end)

  it("repeats a POST that the caller calls idempotent, with its body", function()
    local res = flaky("rst", 1, {method = "POST", body = "again", idempotent = true})
    assert.equal("again", res:json().body)
    assert.equal(2, res.attempts)
  end)

  it("repeats a POST that was refused with 429, or with 503 and a time", function()
    assert.equal(200, flaky("429", 1, {method = "POST", body = "x"}).status)
    stub:reset()
    assert.equal(200, flaky("503", 1, {method = "POST", body = "x", query = {retry_after = "0"}}).status)
  end)

  it("does not repeat a GET that the caller calls not idempotent", function()
    assert.equal("connect", error_of(flaky, "rst", 1, {idempotent = false}).kind)
    assert.equal(1, stub:stats().requests)
  end)

  it("leaves other statuses alone", function()
    for _, status in ipairs{"400", "401", "404", "500", "501"} do
      stub:reset()
      assert.equal(tonumber(status), flaky(status, 1).status)
      assert.equal(1, stub:stats().requests)
    end
  end)

  it("repeats after a refused connection", function()
    local err = error_of(client.post, client, stub:url("/", "refused"), {body = "x"})
    assert.equal("connect", err.kind)
    assert.equal(3, err.attempts)
  end)

  describe("Retry-After", function()
    it("in seconds is waited for", function()
      local from = task.now()
      local res = flaky("429", 1, {query = {retry_after = "1"}})
      assert.equal(200, res.status)
      assert.is_true(task.now() - from >= 1)
    end)

    it("as a date is waited for", function()
      local res = flaky("503", 1, {query = {retry_after = "1", date = "1"}})
      assert.equal(200, res.status)
      assert.equal(2, res.attempts)
    end)

    it("above a minute, or beyond the call's total, hands the answer out at once", function()
      assert.equal(429, flaky("429", 1, {query = {retry_after = "61"}}).status)
      assert.equal(1, stub:stats().requests)
      stub:reset()
      local res = flaky("429", 1, {query = {retry_after = "30"}, timeout = 5})
      assert.equal(429, res.status)
      assert.equal("30", res.headers["retry-after"])
      assert.equal(1, stub:stats().requests)
    end)

    it("that makes no sense is ignored", function()
      for _, text in ipairs{"soon", "-5", "1e9999", "", "Sun, 99 Foo 2024 00:00:00 GMT"} do
        stub:reset()
        assert.equal(200, flaky("429", 1, {query = {retry_after = text}}).status, text)
      end
    end)

    it("is read in all its forms", function()
      local parse = exchange.parse_retry_after
      assert.equal(120, parse("120"))
      assert.equal(1.5, parse(" 1.5 "))
      local now = 784111777   -- Sun, 06 Nov 1994 08:49:37 GMT
      assert.equal(0, parse("Sun, 06 Nov 1994 08:49:37 GMT", now))
      assert.equal(23, parse("Sun, 06 Nov 1994 08:50:00 GMT", now))
      assert.equal(0, parse("Sat, 05 Nov 1994 08:49:37 GMT", now))
      assert.equal(86400 * 366, parse("Tue, 07 Nov 1995 08:49:37 GMT", now))
      assert.equal(5, parse("Thu, 29 Feb 2024 12:00:05 GMT", 1709208000))
      assert.is_nil(parse("soon"))
      assert.is_nil(parse(nil))
    end)
  end)

  describe("a kept connection that has died", function()
    it("before the call is replaced without anyone noticing", function()
      for _ = 1, 5 do
        assert.equal("bye", client:post("/close_after", {body = "x"}).body)
        assert.is_true(stub:wait{open = 0})
      end
      assert.equal(5, stub:stats().requests)
    end)

    it("while a GET goes out is replaced", function()
      for _, how in ipairs{"fin", "rst"} do
        client:get("/close_next", {query = {how = how}})
        local res = client:get("/")
        assert.equal(200, res.status, how)
      end
    end)

    it("does not use up the retries of a GET", function()
      client:get("/close_next")
      assert.equal(200, client:get("/", {retries = 0}).status)
    end)

    it("while an idempotent POST goes out is replaced, with the body", function()
      for _, how in ipairs{"fin", "rst"} do
        client:get("/close_next", {query = {how = how}})
        local res = client:post("/echo", {body = "kept", idempotent = true})
        assert.equal("kept", res:json().body)
      end
    end)
  end)

  it("stay within the total, waits included", function()
    local err = error_of(client.get, client, "/silence", {timeout = {first_byte = 0.05, total = 0.12}, retries = 50})
    assert.equal("timeout", err.kind)
    assert.is_true(err.attempts >= 1 and err.attempts <= 3)
  end)

  it("do not happen once a stream has begun", function()
    local res = client:get("/cut?length=100&sent=50", {stream = true})
    local err = error_of(function() for _ in res:chunks() do end end)
    assert.equal("protocol", err.kind)
    assert.equal(1, stub:stats().requests)
  end)

  it("do not happen with a body that is produced while it is sent", function()
    local pieces = {"a", "b"}
    local err = error_of(client.put, client, "/flaky", {query = {how = "cut"},
      body = function() return table.remove(pieces, 1) end})
    assert.equal("protocol", err.kind)
    assert.equal(1, stub:stats().requests)
  end)

  it("are not made for a task that was cancelled meanwhile", function()
    local waiting = task.spawn(flaky, "429", 1, {query = {retry_after = "30"}})
    local canceller = task.spawn(function()
      stub:wait{requests = 1}
      waiting:cancel()
    end)
    assert.equal("cancelled", error_of(waiting.await, waiting).kind)
    canceller:await()
    assert.equal(1, stub:stats().requests)
  end)
end)
