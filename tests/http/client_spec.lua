-- What a request says and what an answer holds.

local servers = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../support/servers.lua")
local errors = require "riverlua.errors"
local http = require "riverlua.http"
local json = require "riverlua.json"
local task = require "riverlua.task"

local error_of = servers.error_of

servers.over_both_ways(describe, "http.Client", function(way)
  local stub, client

  setup(function() stub = servers.stub() end)
  teardown(function() stub:close() end)
  before_each(function()
    stub:reset()
    client = way.Client{base_url = stub:url(), proxy = false}
  end)
  after_each(function() client:close() end)

  describe("requests", function()
    it("knows the methods by name", function()
      for _, method in ipairs{"get", "post", "put", "patch", "delete"} do
        assert.equal(method:upper(), client[method](client, "/echo"):json().method)
      end
      assert.equal("OPTIONS", client:request{method = "OPTIONS", url = "/echo"}:json().method)
    end)

    it("joins base_url and path, takes absolute addresses, encodes the query in a fixed order", function()
      assert.equal("/echo?a=1&b=x%20%26y&c=1&c=2",
        client:get("/echo", {query = {b = "x &y", a = 1, c = {1, 2}}}):json().target)
      assert.equal("/echo?z=1&a=2", client:get("/echo?z=1", {query = {a = 2}}):json().target)
      assert.equal("other", client:get(stub:url("/echo", "other")):json().listener)
      local other <close> = way.Client{base_url = stub:url("/"), proxy = false}
      assert.equal("/echo", other:get("/echo"):json().target)
    end)

    it("sends JSON with sorted keys and its type", function()
      local seen = client:post("/echo", {json = {b = 1, a = {1.5, "ü"}, c = json.null}}):json()
      assert.equal('{"a":[1.5,"Ã¼"],"b":1,"c":null}', seen.body)
      assert.equal("application/json", seen.headers["content-type"])
    end)

    it("sends forms", function()
      local seen = client:post("/echo", {form = {model = "a b/c", x = 1}}):json()
      assert.equal("model=a%20b%2Fc&x=1", seen.body)
      assert.equal("application/x-www-form-urlencoded", seen.headers["content-type"])
    end)

    it("sends bytes as they are, with their length and without Expect", function()
      local body = {}
      for i = 0, 255 do body[#body + 1] = string.char(i) end
      body = table.concat(body):rep(8192)
      local seen = client:post("/upload", {body = body}):json()
      assert.equal(#body, seen.length)
      assert.is_false(seen.chunked)
      assert.is_nil(seen.expect)
      local head = client:post("/echo", {body = "a\0b"}):json()
      assert.equal("3", head.headers["content-length"])
      assert.equal("a\0b", head.body)
    end)

    it("sends an empty POST with length 0, a GET with a body, a DELETE with a form", function()
      assert.equal("0", client:post("/echo"):json().headers["content-length"])
      local seen = client:get("/echo", {json = {model = "m"}}):json()
      assert.same({"GET", '{"model":"m"}'}, {seen.method, seen.body})
      seen = client:delete("/echo", {form = {model = "m"}}):json()
      assert.same({"DELETE", "model=m"}, {seen.method, seen.body})
      assert.is_nil(client:get("/echo"):json().headers["content-length"])
    end)

    it("lets a call's headers win over the client's", function()
      local other <close> = way.Client{base_url = stub:url(), proxy = false, user_agent = "spec/1",
        headers = {["X-A"] = "client", ["X-B"] = "client", Accept = "application/json"}}
      local seen = other:get("/echo", {headers = {["x-a"] = "call", ["X-Empty"] = ""}}):json().headers
      assert.same({"call", "client", "application/json", "spec/1", ""},
        {seen["x-a"], seen["x-b"], seen.accept, seen["user-agent"], seen["x-empty"]})
      assert.matches("^riverlua/", client:get("/echo"):json().headers["user-agent"])
    end)

    it("does not let a header value smuggle in another header", function()
      local ok, res = pcall(client.get, client, "/echo", {headers = {["X-A"] = "1\r\nX-Evil: 2"}})
      if ok then
        assert.is_nil(res:json().headers["x-evil"])
      else
        assert.equal("argument", res.kind)
      end
    end)
  end)

  describe("answers", function()
    it("holds status, headers in any case, body, url, version, attempts", function()
      local res = client:get("/status/418?body=short&header=X-One:1&header=X-Two:a&header=x-two:b")
      assert.equal(418, res.status)
      assert.equal("1", res.headers["x-ONE"])
      assert.equal("a, b", res.headers["X-Two"])
      assert.is_nil(res.headers["X-None"])
      assert.equal("short", res.body)
      assert.equal("1.1", res.http_version)
      assert.equal(1, res.attempts)
      assert.equal(stub:url("/status/418?body=short&header=X-One:1&header=X-Two:a&header=x-two:b"), res.url)
      assert.is_false(res.reused)
      assert.is_true(client:get("/").reused)
    end)

    it("has no body after HEAD, 204 and 304, and the connection lives on", function()
      local res = client:head("/big?bytes=1000")
      assert.same({200, "", "1000"}, {res.status, res.body, res.headers["content-length"]})
      assert.equal("", client:get("/status/204").body)
      assert.equal(304, client:get("/status/304").status)
      assert.equal("ok\n", client:get("/").body)
      assert.equal(1, stub:stats().accepted.http)
    end)

    it("skips informational answers", function()
      local res = client:get("/interim")
      assert.equal(200, res.status)
      assert.equal("after interim", res.body)
      assert.is_nil(res.headers.link)
    end)

    it("reads chunks and trailers", function()
      local res = client:get("/chunked?n=3&trailers=1")
      assert.equal("chunk 0\nchunk 1\nchunk 2\n", res.body)
      assert.equal("42", res.trailers["x-sum"])
    end)

    it("reads until the end where there is no length", function()
      assert.equal("until the end", client:get("/until_close").body)
      local res = client:get("/http10")
      assert.equal("until the end", res.body)
      assert.equal("1.0", res.http_version)
    end)

    it("reads large and slow answers whole", function()
      local body = client:get("/big?bytes=3000000").body
      assert.equal(3000000, #body)
      assert.equal("\0\1\2", body:sub(1, 3))
      assert.equal("0123456789", client:get("/slow_body?n=10&delay=0.002").body)
      assert.equal("ok", client:get("/slow_head?delay=0.0005").body)
    end)

    it("says when the answer is not JSON", function()
      local err = error_of(function() client:get("/"):json() end)
      assert.equal("protocol", err.kind)
      assert.equal(200, err.status)
      assert.equal("ok\n", err.body)
    end)

    it("takes null in objects for absent", function()
      local value = client:get("/status/200", {query = {body = '{"a":null,"b":[1]}'}}):json()
      assert.same({b = {1}}, value)
    end)
  end)

  describe("connections", function()
    it("uses one for a hundred calls", function()
      for i = 1, 100 do
        assert.equal(i > 1, client:post("/echo", {json = {i = i}}).reused)
      end
      assert.equal(1, stub:stats().accepted.http)
      local stats = client:stats()
      assert.equal(100, stats.requests)
      assert.equal(1, stats.connections)
      assert.equal(99, stats.reused)
      assert.equal(0, stats.in_flight)
      assert.equal(0, stats.retries)
    end)

    it("does not use one again that the server said it closes", function()
      client:get("/until_close")
      client:get("/")
      assert.equal(2, stub:stats().accepted.http)
    end)

    it("runs as many at once as there are tasks", function()
      local calls = {}
      for i = 1, 20 do
        calls[i] = function() return client:get("/barrier?key=twenty&n=20").body end
      end
      for _, body in ipairs{task.gather(calls)} do assert.equal("together", body) end
      assert.equal(20, stub:stats().accepted.http)
    end)

    it("keeps answers apart when many are under way", function()
      local items = {}
      for i = 1, 200 do items[i] = i end
      local results = task.map(items, function(i) return client:post("/echo", {json = {i = i}}):json().body end,
        {concurrency = 16})
      for i = 1, 200 do assert.equal(('{"i":%d}'):format(i), results[i]) end
      assert.is_true(stub:stats().accepted.http <= 16)
    end)

    it("ends those under way when the client is closed, and refuses new calls", function()
      local other = way.Client{base_url = stub:url(), proxy = false}
      local waiting = task.spawn(function() return other:get("/hold?key=never") end)
      local closer = task.spawn(function()
        stub:wait{key = "never", waiting = 1}
        other:close()
      end)
      assert.equal("closed", error_of(waiting.await, waiting).kind)
      closer:await()
      assert.equal("closed", error_of(other.get, other, "/").kind)
      other:close()
      assert.is_true(stub:wait{key = "never", waiting = 0})
    end)

    it("closes its sockets on close and in a block left by an error", function()
      local before = servers.open_files()
      pcall(function()
        local other <close> = way.Client{base_url = stub:url(), proxy = false}
        other:get("/")
        error("left")
      end)
      assert.equal(before, servers.open_files())
      assert.is_true(stub:wait{open = 0})
    end)

    it("closes its sockets when the client is collected", function()
      do
        local other = way.Client{base_url = stub:url(), proxy = false}
        other:get("/")
      end
      for _ = 1, 3 do collectgarbage() end
      task.sleep(0)
      assert.is_true(stub:wait{open = 0})
    end)

    it("does not add file descriptors over many clients and failures", function()
      local function round()
        local other <close> = way.Client{base_url = stub:url(), proxy = false, retries = 0}
        other:get("/")
        pcall(other.get, other, "/rst")
        pcall(other.get, other, "/cut")
        pcall(other.get, other, "/silence", {timeout = {first_byte = 0.02}})
        pcall(other.get, other, stub:url("/", "refused"))
        local res = other:get("/endless", {stream = true})
        res:read()
        res:close()
      end
      round()
      local before = servers.open_files()
      for _ = 1, 10 do round() end
      assert.equal(before, servers.open_files())
    end)
  end)

  describe("arguments", function()
    it("are checked, with the nearest name", function()
      local err = error_of(http.Client, {time_out = 3})
      assert.equal("argument", err.kind)
      assert.matches("did you mean 'timeout'", err.message, 1, true)
      err = error_of(client.get, client, "/", {heders = {}})
      assert.matches("did you mean 'headers'", err.message, 1, true)
      assert.equal("argument", error_of(client.request, client, {}).kind)
      assert.equal("argument", error_of(client.request, client, nil).kind)
      assert.equal("argument", error_of(client.get, client, "/", {timeout = "soon"}).kind)
      assert.equal("argument", error_of(client.get, client, "/", {timeout = -1}).kind)
      assert.equal("argument", error_of(client.get, client, "/", {timeout = {read = 1}}).kind)
      assert.equal("argument", error_of(client.post, client, "/", {body = 5}).kind)
      assert.equal("argument", error_of(http.Client, {http2 = "always"}).kind)
    end)

    it("of wrong types raise argument errors, not faults inside", function()
      for name, value in pairs{base_url = 5, headers = "x", retries = "two", redirects = {}, max_body = "big",
        ca_file = 7, proxy = 7, user_agent = {}, safe_headers = "x"} do
        local ok, err = pcall(function()
          local other <close> = way.Client{base_url = stub:url(), [name] = value}
          other:get("/")
        end)
        assert.is_false(ok, name)
        assert.is_true(errors.is(err, "argument"), name .. ": " .. tostring(err))
      end
    end)

    it("that make no address raise an error that names it", function()
      for _, address in ipairs{"", "nonsense", "http://", "gopher://127.0.0.1/", "http://a b/"} do
        local other <close> = way.Client{proxy = false, retries = 0}
        local err = error_of(other.get, other, address)
        assert.is_true(errors.is(err), tostring(err))
      end
    end)

    it("never show user information or secrets", function()
      local secret = stub:url("/rst?api_key=hidden&x=1"):gsub("//", "//me:hidden@", 1)
      local err = error_of(client.get, client, secret, {retries = 0, headers = {Authorization = "Bearer hidden"}})
      for _, text in ipairs{tostring(err), err.url, err.message, err.hint or "", tostring(client)} do
        assert.not_matches("hidden", text, 1, true)
      end
      assert.matches("x=1", err.url, 1, true)
      local other <close> = way.Client{base_url = "http://me:hidden@127.0.0.1:1"}
      assert.not_matches("hidden", tostring(other), 1, true)
    end)
  end)

  it("fills the fields of an error", function()
    local err = error_of(client.get, client, stub:url("/x?y=1", "refused"), {retries = 1})
    assert.is_true(errors.is(err, "connect"))
    assert.equal("GET", err.method)
    assert.equal(stub:url("/x?y=1", "refused"), err.url)
    assert.equal(2, err.attempts)
    assert.is_true(err.retryable)
    assert.is_string(err.hint)
    assert.matches("^connect: GET http://127", tostring(err))
  end)
end)
