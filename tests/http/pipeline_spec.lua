-- Requests that go out one behind the other on one connection, without waiting for the answers to those before.

local servers = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../support/servers.lua")
local task = require "riverlua.task"
local transport_module = require "riverlua.transport"

local HEADERS = {["Accept"] = "*/*"}

describe("a pipeline", function()
  local stub, transport, pipeline

  local function open(options)
    local all = {proxy = false, retries = 0}
    for name, value in pairs(options or {}) do all[name] = value end
    transport = transport_module.open("test", stub:url(), all)
    pipeline = transport:pipeline()
  end

  setup(function() stub = servers.stub() end)
  teardown(function() stub:close() end)
  before_each(function()
    stub:reset()
    open()
  end)
  after_each(function()
    pipeline:close()
    transport:close()
    assert.is_true(stub:wait{open = 0})
  end)

  local function send(path, body, method)
    return (pipeline:send{method = method or "POST", path = path, headers = HEADERS, body = body or ""})
  end

  -- The first answer, which proves that the connection lives on.
  local function begin()
    assert.equal(200, send("/echo")().status)
    assert.is_true(pipeline:ready())
  end

  local function accepted() return stub:stats().accepted.http end

  it("is ready once the server has kept a connection open", function()
    assert.is_false(pipeline:ready())
    local wait = send("/echo")
    assert.is_false(pipeline:ready())
    assert.equal(200, wait().status)
    assert.is_true(pipeline:ready())
    assert.equal(200, send("/close_after")().status)
    assert.is_true(stub:wait{open = 0})
    assert.equal(200, send("/echo")().status)
    assert.equal(2, accepted())
  end)

  it("gives each request its own answer, in order, over one connection", function()
    begin()
    local waits = {}
    for i = 1, 200 do waits[i] = send("/echo", "body " .. i) end
    for i = 200, 1, -1 do
      local res = waits[i]()
      assert.equal(200, res.status)
      assert.equal("body " .. i, res:json().body)
    end
    assert.equal(1, accepted())
    assert.equal(201, transport:stats().requests)
    assert.equal(0, transport:stats().in_flight)
  end)

  it("sends before the answers come", function()
    begin()
    local first, second = send("/hold?key=front"), send("/echo", "behind")
    assert.is_true(stub:wait{key = "front", waiting = 1})
    assert.is_true(pipeline:ready())
    stub:release("front")
    assert.equal("behind", second():json().body)
    assert.equal("released", first().body)
    assert.equal(1, accepted())
  end)

  it("takes answers of every framing behind each other", function()
    begin()
    local waits = {send("/chunked"), send("/status/204"), send("/echo", nil, "HEAD"), send("/interim"),
      send("/big"), send("/echo", ("x"):rep(300000)), send("/status/500?body=oops"), send("/echo", "last")}
    local results = {}
    for i, wait in ipairs(waits) do results[i] = wait() end
    assert.equal(204, results[2].status)
    assert.equal("", results[3].body)
    assert.equal(200, results[4].status)
    assert.equal(1048576, #results[5].body)
    assert.equal(300000, #results[6]:json().body)
    assert.equal("oops", results[7].body)
    assert.equal("last", results[8]:json().body)
    assert.equal(1, accepted())
  end)

  it("tells several waiters the same, and the same again", function()
    begin()
    local wait = send("/echo", "one for all")
    local a, b = task.gather(wait, wait)
    assert.equal("one for all", a.body and a:json().body)
    assert.equal(a, b)
    assert.equal(a, wait())
  end)

  it("says that what stood behind an answer with 'close' was not looked at", function()
    begin()
    local waits = {send("/status/200?header=Connection:close"), send("/echo", "a"), send("/echo", "b")}
    assert.equal(200, waits[1]().status)
    for i = 2, 3 do
      local res, err, acted = waits[i]()
      assert.is_nil(res)
      assert.equal("connect", err.kind)
      assert.is_false(acted)
    end
    assert.is_false(pipeline:ready())
    assert.equal("again", send("/echo", "again")():json().body)
  end)

  it("says the same when the server closed with a reset, not having read them", function()
    begin()
    local answer = "HTTP/1.1%20200%20OK%0d%0aConnection:%20close%0d%0aContent-Length:%202%0d%0a%0d%0aok"
    local waits = {send("/raw?end=rst&key=reset&late=" .. answer), send("/echo", "a"), send("/echo", "b")}
    assert.is_true(stub:wait{key = "reset", waiting = 1})
    -- by another process, so that nothing is read here before the reset has come
    local fetch = "import sys, urllib.request\nfor url in sys.argv[1:]: urllib.request.urlopen(url).read()"
    local words = {"no_proxy='*'", servers.quote(servers.python()), "-c", servers.quote(fetch),
      servers.quote(stub:url("/release?key=reset", "control")),
      servers.quote(stub:url("/wait?listener=http&open=0", "control"))}
    assert.is_true(os.execute(table.concat(words, " ")))
    assert.equal("ok", waits[1]().body)
    for i = 2, 3 do
      local res, _, acted = waits[i]()
      assert.is_nil(res)
      assert.is_false(acted)
    end
  end)

  it("says that the server may have acted when a connection is lost", function()
    for _, path in ipairs{"/close", "/rst", "/cut", "/garbage"} do
      begin()
      -- all three are on their way before the first is answered
      local waits = {send("/hold?key=" .. path), send(path), send("/echo", "behind")}
      stub:release(path)
      assert.equal("released", waits[1]().body)
      waits[2]()
      local res, _, acted = waits[3]()
      assert.is_nil(res, path)
      assert.is_true(acted, path)
      assert.is_false(pipeline:ready())
    end
  end)

  it("opens another connection when the idle one has gone", function()
    begin()
    assert.equal(200, send("/close_after")().status)
    assert.is_true(stub:wait{open = 0})
    assert.equal("fresh", send("/echo", "fresh")():json().body)
    assert.is_true(pipeline:ready())
  end)

  it("repeats only what may be repeated after a lost connection", function()
    begin()
    assert.equal(200, send("/close_next")().status)
    local res, err, acted = send("/echo", "learn")()
    assert.is_nil(res)
    assert.equal("connect", err.kind)
    assert.is_true(acted)
    begin()
    assert.equal(200, send("/close_next")().status)
    local wait = pipeline:send{method = "POST", path = "/echo", headers = HEADERS, body = "predict", idempotent = true}
    assert.equal("predict", wait():json().body)
  end)

  it("gives up the ones behind when one is closed", function()
    begin()
    local first = send("/hold?key=stuck")
    local _, transfer = pipeline:send{method = "POST", path = "/echo", headers = HEADERS, body = ""}
    local last = send("/echo")
    assert.is_true(stub:wait{key = "stuck", waiting = 1})
    transfer:close()
    for _, wait in ipairs{first, last} do
      local res, err = wait()
      assert.is_nil(res)
      assert.equal("connect", err.kind)
    end
    assert.is_true(stub:wait{open = 0})
    begin()
  end)

  it("has deadlines for the answer that is next, none for those behind it", function()
    pipeline:close()
    transport:close()
    open{timeout = {total = 0.5, first_byte = false}}
    begin()
    local waits = {send("/delay?seconds=0.3"), send("/delay?seconds=0.3"), send("/delay?seconds=0.3"), send("/silence")}
    -- 0.9 s in all: each of them is in time
    for i = 1, 3 do assert.equal("late", waits[i]().body) end
    local _, err = waits[4]()
    assert.equal("timeout", err.kind)
    assert.equal("total", err.phase)
  end)

  it("closing it lets what is under way end, and gives the connection back", function()
    begin()
    local wait = send("/echo", "still")
    pipeline:close()
    assert.is_false(pipeline:ready())
    assert.equal("still", wait():json().body)
    local res = transport:request{method = "GET", path = "/echo", headers = HEADERS}
    assert.is_true(res.reused)
    assert.equal(1, accepted())
  end)

  it("keeps its connection to itself", function()
    begin()
    local res = transport:request{method = "GET", path = "/echo", headers = HEADERS}
    assert.is_false(res.reused)
    assert.equal(2, accepted())
    assert.is_true(pipeline:ready())
  end)

  it("takes over a connection that is known to live on", function()
    assert.equal(200, transport:request{method = "GET", path = "/echo", headers = HEADERS}.status)
    local wait = send("/hold?key=taken")
    assert.is_true(pipeline:ready())
    stub:release("taken")
    assert.equal("released", wait().body)
    assert.equal(1, accepted())
  end)

  it("fails what is under way when its transport is closed", function()
    begin()
    local waits = {send("/hold?key=never"), send("/echo")}
    transport:close()
    for _, wait in ipairs(waits) do
      local res, err = wait()
      assert.is_nil(res)
      assert.truthy(err.kind == "closed" or err.kind == "connect", err.kind)
    end
    assert.equal("closed", servers.error_of(send, "/echo").kind)
    assert.is_false(pipeline:ready())
  end)

  it("is never ready where connections are libcurl's", function()
    pipeline:close()
    transport:close()
    open{http2 = "prior"}
    assert.is_false(pipeline:ready())
    send("/echo")()
    assert.is_false(pipeline:ready())
    pipeline:close()
    transport:close()
    transport = transport_module.open("test", stub:url("", "tls"), {proxy = false, ca_file = stub.info.ca_file})
    pipeline = transport:pipeline()
    assert.equal("secret", send("/echo", "secret")():json().body)
    assert.is_false(pipeline:ready())
  end)

  it("survives being dropped with requests under way", function()
    local script = [[
      local transport = require("riverlua.transport").open("test", arg[1], {proxy = false})
      for how = 1, 4 do
        local pipeline = transport:pipeline()
        local req = {method = "POST", path = "/echo", headers = {}, body = "x"}
        assert(pipeline:send(req)().status == 200)
        local waits = {}
        for i = 1, 20 do waits[i] = pipeline:send(req) end
        if how == 1 then waits[3]() elseif how == 2 then pipeline:close() elseif how == 3 then waits = nil end
        pipeline = nil
        collectgarbage()
        collectgarbage()
      end
      local last = transport:pipeline()
      for _ = 1, 5 do last:send{method = "POST", path = "/hold?key=end", headers = {}, body = "x"} end
      print("done")
    ]]
    local result = servers.run(script, {args = {stub:url()}})
    assert.equal("done\n", result.out, result.err)
    assert.equal(0, result.code, result.err)
  end)
end)
