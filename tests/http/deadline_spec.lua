-- Deadlines: connect, first byte, idle, total; and what ends a call from outside.

local servers = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../support/servers.lua")
local task = require "riverlua.task"

local error_of = servers.error_of

servers.over_both_ways(describe, "deadlines of http.Client", function(way)
  local stub, client

  setup(function() stub = servers.stub() end)
  teardown(function() stub:close() end)
  before_each(function()
    stub:reset()
    client = way.Client{base_url = stub:url(), proxy = false, retries = 0}
  end)
  after_each(function() client:close() end)

  local function timeout_of(path, timeout, options)
    options = options or {}
    options.timeout = timeout
    local err = error_of(client.get, client, path, options)
    assert.equal("timeout", err.kind, tostring(err))
    return err
  end

  it("name connect", function()
    local err = timeout_of(stub:url("/", "full"), {connect = 0.05})
    assert.equal("connect", err.phase)
    assert.matches("0.05 s", err.message, 1, true)
    assert.matches("timeout.connect", err.hint, 1, true)
    assert.is_true(err.retryable)
  end)

  it("name first_byte", function()
    local err = timeout_of("/silence", {first_byte = 0.05})
    assert.equal("first_byte", err.phase)
    assert.matches("0.05 s", err.message, 1, true)
    assert.equal("first_byte", timeout_of(stub:url("/", "silent"), {first_byte = 0.05}).phase)
  end)

  it("name idle", function()
    local err = timeout_of("/stall?length=100&sent=10", {idle = 0.05})
    assert.equal("idle", err.phase)
    assert.matches("0.05 s", err.message, 1, true)
  end)

  it("name total", function()
    local err = timeout_of("/slow_body?n=1000000&delay=0.01", {total = 0.1})
    assert.equal("total", err.phase)
    assert.matches("0.1 s", err.message, 1, true)
    assert.equal("total", timeout_of("/silence", 0.05).phase)
    assert.equal("total", timeout_of("/endless", 0.1, {max_body = 1 << 40}).phase)
  end)

  it("let through what keeps moving", function()
    assert.equal(60, #client:get("/slow_body?n=60&delay=0.02", {timeout = {idle = 1}}).body)
    assert.equal("late", client:get("/delay?seconds=0.1", {timeout = {idle = 1, first_byte = 5}}).body)
  end)

  it("may be taken from the client, part by part, or switched off", function()
    local other <close> = way.Client{base_url = stub:url(), proxy = false, retries = 0, timeout = {first_byte = 0.05}}
    assert.equal("first_byte", error_of(other.get, other, "/silence").phase)
    assert.equal("total", error_of(other.get, other, "/silence", {timeout = {first_byte = false, total = 0.05}}).phase)
    assert.equal("late", other:get("/delay?seconds=0.1", {timeout = false}).body)
  end)

  it("close the connection they end", function()
    timeout_of("/silence", {first_byte = 0.02})
    assert.is_true(stub:wait{open = 0})
    assert.equal("ok\n", client:get("/").body)
  end)

  it("count while a body is sent that the server does not read", function()
    local err = error_of(client.post, client, "/upload_stuck", {body = ("x"):rep(20 << 20),
      timeout = {idle = 0.1, total = 5}})
    assert.equal("idle", err.phase)
    err = error_of(client.post, client, "/upload_stuck", {body = ("x"):rep(20 << 20), timeout = 0.1})
    assert.equal("total", err.phase)
  end)

  it("do not count the time the server takes to read as silence", function()
    local res = client:post("/upload?step=65536&delay=0.01", {body = ("x"):rep(8 << 20), timeout = {first_byte = 30}})
    assert.equal(8 << 20, res:json().length)
  end)

  describe("of a stream", function()
    it("begin with the headers", function()
      assert.equal("first_byte", timeout_of("/silence", {first_byte = 0.05}, {stream = true}).phase)
    end)

    it("watch over its silence", function()
      local res <close> = client:get("/sse", {stream = true, query = {["end"] = "hang", step = 1000},
        timeout = {idle = 0.1}})
      local err = error_of(function() for _ in res:events() do end end)
      assert.equal("timeout", err.kind)
      assert.equal("idle", err.phase)
    end)

    it("do not count the reader's own pauses", function()
      local res <close> = client:get("/big?bytes=8000000", {stream = true, timeout = {idle = 0.2, total = false}})
      local first = res:read()
      task.sleep(0.3)
      assert.equal(8000000, #first + #res:text())
    end)

    it("are reset by comments", function()
      local res <close> = client:get("/sse_endless?comments=1&delay=0.05", {stream = true,
        timeout = {idle = 1, total = false}})
      local got = 0
      for bytes in res:chunks() do
        got = got + select(2, bytes:gsub(": alive", ""))
        if got >= 24 then break end
      end
      assert.is_true(got >= 24)
    end)
  end)

  it("end by a cancelled task at once", function()
    local waiting = task.spawn(client.get, client, "/hold?key=cancelled")
    task.spawn(function()
      stub:wait{key = "cancelled", waiting = 1}
      waiting:cancel("enough")
    end)
    local err = error_of(waiting.await, waiting)
    assert.equal("cancelled", err.kind)
    assert.is_true(stub:wait{key = "cancelled", waiting = 0})
  end)

  it("work inside task.timeout", function()
    local err = error_of(task.timeout, 0.05, client.get, client, "/hold?key=late")
    assert.equal("timeout", err.kind)
    assert.is_true(stub:wait{key = "late", waiting = 0})
  end)

  it("free the siblings when one of a scope fails", function()
    local err = error_of(task.gather, function() return client:get("/hold?key=sibling") end, function()
      stub:wait{key = "sibling", waiting = 1}
      return client:get("/cut")
    end)
    assert.equal("protocol", err.kind)
    assert.is_true(stub:wait{key = "sibling", waiting = 0})
  end)

  it("work where Lua cannot yield", function()
    local sorted = {3, 1, 2}
    table.sort(sorted, function(a, b)
      assert(client:get("/").status == 200)
      return a < b
    end)
    assert.same({1, 2, 3}, sorted)
    local text = ("a b"):gsub("%a", function(letter)
      return client:post("/echo", {body = letter}):json().body:upper()
    end)
    assert.equal("A B", text)
    assert.equal("200", tostring(setmetatable({}, {__tostring = function()
      return tostring(client:get("/").status)
    end})))
    local err
    ("x"):gsub("x", function() err = error_of(client.get, client, "/silence", {timeout = {first_byte = 0.05}}) end)
    assert.equal("first_byte", err.phase)
  end)

  it("go on in other tasks meanwhile where Lua cannot yield", function()
    local order = {}
    local other = task.spawn(function()
      table.insert(order, client:get("/").status)
      stub:release("sorting")
    end)
    table.sort({2, 1}, function(a, b)
      table.insert(order, client:get("/hold?key=sorting").body)
      return a < b
    end)
    other:await()
    assert.equal(200, order[1])
    assert.equal("released", order[2])
  end)

  it("work inside coroutines that the script made", function()
    local pages = coroutine.wrap(function()
      for i = 1, 3 do coroutine.yield(client:post("/echo", {body = tostring(i)}):json().body) end
    end)
    assert.same({"1", "2", "3"}, {pages(), pages(), pages()})
  end)
end)
