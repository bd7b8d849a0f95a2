-- What is special about short requests over plain HTTP/1.1 connections of our own. What holds for both ways is in the
-- other specs.

local servers = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../support/servers.lua")
local http = require "riverlua.http"
local task = require "riverlua.task"

local error_of = servers.error_of
local plain = servers.ways.plain

describe("http.Client over plain connections", function()
  local stub, client

  setup(function() stub = servers.stub() end)
  teardown(function() stub:close() end)
  before_each(function()
    stub:reset()
    client = plain.Client{base_url = stub:url(), retries = 0}
  end)
  after_each(function()
    client:close()
    assert.is_true(stub:wait{open = 0})
  end)

  -- libcurl always asks for */*
  local function went_plain(seen) return seen.headers.accept == nil end

  local function raw(text, query, options)
    options = options or {}
    options.body, options.query = text, query
    return client:post("/raw", options)
  end

  -- Waits in another process: this one does not see what happens on its sockets meanwhile.
  local function wait_blindly(path)
    local result = servers.run([[
      local client = require("riverlua.http").Client{proxy = false}
      local answer = client:get(arg[1]):json()
      assert(not answer.timeout)
    ]], {args = {stub:url(path, "control")}})
    assert.equal(0, result.code, result.err)
  end

  describe("which requests", function()
    it("are those without compression, proxy and streams", function()
      assert.is_true(went_plain(client:get("/echo"):json()))
      assert.is_true(went_plain(client:post("/echo", {json = {a = 1}}):json()))
      local stream = client:get("/echo", {stream = true})
      assert.matches('"accept": "%*/%*"', stream:text())
      assert.is_false(went_plain(client:post("/echo", {body = ("x"):gmatch(".")}):json()))
      for _, options in ipairs{{decompress = true}, {proxy = stub:url("", "proxy")}, {http2 = "prior"}} do
        local other <close> = plain.Client(options)
        local ok, res = pcall(other.get, other, stub:url("/echo"), {timeout = 5})
        assert.is_true(not ok or not went_plain(res:json()))
      end
      local names, seen = {}, client:delete("/echo", {form = {a = 1}, headers = {["X-A"] = {"1", "2"}}}):json()
      for _, header in ipairs(seen.header_list) do names[#names + 1] = header[1] .. ": " .. header[2] end
      assert.equal("Host: 127.0.0.1:" .. stub.info.http, names[1])
      assert.same({"DELETE", "/echo", "HTTP/1.1", "a=1", 3}, {seen.method, seen.target, seen.version, seen.body,
        tonumber(seen.headers["content-length"])})
      assert.matches("X%-A: 1\nX%-A: 2\n", table.concat(names, "\n"))
    end)

    it("leave headers that say how a message is sent to libcurl", function()
      for name, value in pairs{Host = "elsewhere", Connection = "keep-alive", ["content-LENGTH"] = "3",
        ["Transfer-Encoding"] = "chunked", TE = "trailers", Upgrade = "x"} do
        local seen = client:post("/echo", {body = "abc", headers = {[name] = value}}):json()
        assert.is_false(went_plain(seen), name)
        assert.equal(value, seen.headers[name:lower()])
        assert.equal("abc", seen.body, name)
      end
      assert.is_false(went_plain(client:get("/echo", {headers = {Host = ""}}):json()))
    end)

    it("may have any method that is a word", function()
      assert.is_true(went_plain(client:request{method = "PROPFIND", url = "/echo"}:json()))
      for _, method in ipairs{"get", "", "GET / HTTP/1.1\r\nX-Evil: 1\r\n\r\nGET", "GET ", "G\0"} do
        local err = error_of(client.request, client, {method = method, url = "/echo"})
        assert.is_true(err.kind ~= nil, method)
      end
      assert.equal(1, #stub:log("/echo"))
    end)

    it("ask for the same whatever their address looks like", function()
      local other <close> = servers.ways.libcurl.Client{base_url = stub:url(), proxy = false, retries = 0}
      local origin = "127.0.0.1:" .. stub.info.http
      local function asked(through, address)
        local ok, res = pcall(through.get, through, address)
        if not ok then return "error " .. res.kind end
        local seen = res.status == 200 and res.url and stub:log()
        seen = seen and seen[#seen] or stub:log()[#stub:log()]
        return table.concat({res.status, seen.target, seen.headers.host, seen.headers.authorization}, " ")
      end
      -- libcurl 8 asks for / there
      local empty_query = other:stats().libcurl:find("^7") and "http://%s/?" or "http://%s/?b"
      for _, address in ipairs{"http://%s", "http://%s/", "http://%s?a=1", "http://%s/?a=1", "http://%s/echo#part",
        "http://%s/echo?a#part", "http://%s#part", "http://me:secret@%s/echo", "http://me@%s", "http://%s/a/../echo",
        "http://%s/./echo", "http://%s/echo?x=/../y", "http://%s/../../echo", "http://%s/.echo", "http://%s/a/..",
        "http://%s//echo", "http://%s/a b", "http://%s/\195\164", "http://%s/%%41?%%20", "http://%s/a\\b",
        "http:\\\\%s\\echo", "http://%s\\echo", "HTTP://%s/echo", "http:/%s/echo", "%s/echo", "http://%s/a@b",
        "http://%s?a@b",
        "http://%s/a|b^c`d{e}\"<>", "http://%s/?q=a'b", "http://%s/\r\nX-Evil: 1", "http://%s/a\tb", "http://%s/\127",
        "http://\r\n%s/", "http://%s:80/", "http://@%s/", "http://:@%s/", "http:///%s/", "http:// %s/", "http://[%s]/",
        "http://%s/;a=b;c", "http://%s/*", "http://%s/a?b?c", empty_query, "http://%s/echo/."} do
        address = address:gsub("%%s", (origin:gsub("%%", "%%%%"))):gsub("%%%%", "%%")
        assert.equal(asked(other, address), asked(client, address), address)
      end
      for _, host in ipairs{"localhost", "LOCALHOST", "127.0.0.%31", "127.0.0.1."} do
        local address = ("http://%s:%d/echo"):format(host, stub.info.http)
        assert.equal(asked(other, address), asked(client, address), address)
      end
      for _, address in ipairs{"http://127.0.0.1:/", "http://127.0.0.1:x/", "http://127.0.0.1:99999/", "http://:80/",
        "http://[::1/", "http://::1/", "http://[::1]x/", "http://a,b/", "http://a..b/", "http://-/", "http://[]/"} do
        address = address:gsub("127.0.0.1:/", origin .. ":/")
        assert.equal(asked(other, address), asked(client, address), address)
      end
    end)

    it("reach IPv6 addresses", function()
      local err = error_of(client.get, client, ("http://[::1]:%d/"):format(stub.info.refused))
      assert.equal("connect", err.kind)
      assert.matches("[::1]", err.url, 1, true)
    end)

    it("cannot be made to hold more headers, lines or requests than they say", function()
      for _, evil in ipairs{"1\r\nX-Evil: 2", "1\nX-Evil: 2", "1\rX-Evil: 2", "1\0X-Evil: 2",
        "\r\n\r\nGET / HTTP/1.1"} do
        for _, headers in ipairs{{["X-A"] = evil}, {["X-" .. evil] = "1"}, {["X-A"] = {"1", evil}}, {[evil] = ""}} do
          local ok, err = pcall(client.get, client, "/echo", {headers = headers})
          assert.is_false(ok)
          assert.equal("argument", err.kind)
        end
        for _, address in ipairs{"/echo" .. evil, "/echo?a=" .. evil} do
          pcall(client.get, client, address)
        end
        local seen = client:get("/echo", {query = {a = evil}}):json()
        assert.is_nil(seen.headers["x-evil"])
      end
      for _, line in ipairs(stub:log()) do
        assert.is_nil(line.headers["x-evil"])
        assert.not_matches("evil", line.target)
      end
    end)
  end)

  describe("connections", function()
    it("are one for a hundred calls of all kinds", function()
      for i = 1, 20 do
        assert.equal("ok\n", client:get("/").body)
        assert.equal("", client:head("/big?bytes=1000").body)
        assert.equal("b", client:post("/echo", {body = "b"}):json().body)
        assert.equal("chunk 0\n", client:get("/chunked?n=1&trailers=1").body)
        assert.equal("", client:delete("/status/204").body)
        assert.equal(i * 5, client:stats().requests)
      end
      assert.equal(1, stub:stats().accepted.http)
      local stats = client:stats()
      assert.same({1, 99, 0}, {stats.connections, stats.reused, stats.in_flight})
    end)

    it("are at most as many as tasks at once", function()
      local items = {}
      for i = 1, 320 do items[i] = i end
      local bodies = task.map(items, function(i) return client:post("/echo", {body = "n" .. i}):json().body end,
        {concurrency = 32})
      for i = 1, 320 do assert.equal("n" .. i, bodies[i]) end
      assert.is_true(stub:stats().accepted.http <= 32)
      assert.equal(stub:stats().accepted.http, client:stats().connections)
    end)

    it("are kept up to a number", function()
      local calls = {}
      for i = 1, 80 do
        calls[i] = function() return client:get("/barrier?key=many&n=80").body end
      end
      for _, body in ipairs{task.gather(calls)} do assert.equal("together", body) end
      assert.is_true(stub:wait{open = 64})
      assert.equal(80, stub:stats().accepted.http)
    end)

    it("belong to one address each", function()
      for _ = 1, 3 do
        assert.equal("http", client:get("/echo"):json().listener)
        assert.equal("other", client:get(stub:url("/echo", "other")):json().listener)
      end
      assert.same({1, 1}, {stub:stats().accepted.http, stub:stats().accepted.other})
      assert.is_true(client:get(stub:url("/")).reused)
    end)

    it("by name leave no socket behind", function()
      local address = ("http://localhost:%d/"):format(stub.info.http)
      local before = servers.open_files()
      for _ = 1, 3 do
        local one <close> = plain.Client()
        local two <close> = plain.Client()
        for _ = 1, 3 do
          assert.equal("ok\n", one:get(address).body)
          assert.equal("ok\n", two:get(address).body)
          pcall(one.get, one, ("http://localhost:%d/"):format(stub.info.refused), {retries = 0})
        end
      end
      assert.equal(before, servers.open_files())
    end)

    it("end where the server says so, in one way or another", function()
      for _, text in ipairs{
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
      } do
        assert.equal("ok", raw(text).body)
        assert.is_true(stub:wait{open = 0})
      end
      assert.equal("ok", raw("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok").body)
      assert.is_true(client:get("/").reused)
    end)

    it("end with answers that have no length", function()
      for _, version in ipairs{"1.0", "1.1"} do
        local res = raw(("HTTP/%s 200 OK\r\n\r\nto the end"):format(version), {["end"] = "fin"})
        assert.same({"to the end", version}, {res.body, res.http_version})
        assert.is_true(stub:wait{open = 0})
      end
      local err = error_of(raw, "HTTP/1.1 200 OK\r\n\r\nto the", {["end"] = "rst"})
      assert.equal("protocol", err.kind)   -- the rest is not known to be empty
    end)
  end)

  describe("a kept connection", function()
    it("that the server has closed is not used, also when the loop could not tell", function()
      for i = 1, 3 do
        assert.equal("bye", client:post("/close_after", {body = "x"}).body)
        wait_blindly("/wait?open=0")
        local res = client:post("/echo", {body = "kept"})
        assert.same({"kept", false, 2 * i}, {res:json().body, res.reused, stub:stats().requests})
        client:get("/until_close")
        stub:reset()
        for _ = 1, 2 * i do client:get("/until_close") end
      end
    end)

    it("that has been lost is replaced once, for what may be repeated", function()
      for _, how in ipairs{"fin", "rst"} do
        client:close()
        stub:reset()
        client = plain.Client{base_url = stub:url(), retries = 0}
        client:get("/close_next", {query = {how = how}})
        local res = client:post("/echo", {body = "kept", idempotent = true})
        assert.same({"kept", 1, false}, {res:json().body, res.attempts, res.reused})
        assert.equal(2, stub:stats().accepted.http)
        assert.equal(2, #stub:log("/echo"))
      end
    end)

    it("that has been lost is not replaced for a POST that may have been acted on", function()
      for _, how in ipairs{"fin", "rst"} do
        stub:reset()
        client:get("/close_next", {query = {how = how}})
        local err = error_of(client.post, client, "/echo", {body = "once"})
        assert.same({"connect", 1}, {err.kind, err.attempts})
        assert.equal(1, #stub:log("/echo"))
      end
    end)

    it("that has been lost is not replaced twice", function()
      for how, kind in pairs{close = "connect", rst = "connect", cut = "protocol"} do
        stub:reset()
        client:get("/close_next")
        local err = error_of(client.post, client, "/" .. how, {body = "x", idempotent = true, retries = 0})
        assert.same({kind, 1}, {err.kind, err.attempts}, how)
        assert.equal(2, #stub:log("/" .. how))
        assert.equal("ok\n", client:get("/").body)
      end
    end)

    it("that breaks off in its answer is not replaced", function()
      client:get("/")
      local err = error_of(client.post, client, "/cut", {body = "x"})
      assert.equal("protocol", err.kind)
      assert.equal(1, #stub:log("/cut"))
      assert.equal("protocol", error_of(raw, "H", {["end"] = "rst"}).kind)
    end)

    it("to a server that has gone for good ends in an error", function()
      local gone = servers.stub()
      local other <close> = plain.Client{base_url = gone:url(), retries = 0}
      assert.equal("ok\n", other:get("/").body)
      gone:close()
      assert.equal("connect", error_of(other.post, other, "/", {body = "x"}).kind)
      assert.equal("connect", error_of(other.get, other, "/").kind)
    end)

    it("on which more came than was asked for is dropped", function()
      for _, more in ipairs{"garbage", "\r\n", "HTTP/1.1 200 Smuggled\r\nContent-Length: 4\r\n\r\nevil"} do
        assert.equal("good", raw("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood" .. more).body)
        local res = client:get("/")
        assert.same({"ok\n", false}, {res.body, res.reused})
      end
      assert.equal("", raw("HTTP/1.1 204 No\r\nContent-Length: 4\r\n\r\nevil").body)
      assert.equal("ok\n", client:get("/").body)
    end)

    it("on which more comes later is dropped, also when the loop could not tell", function()
      for _, blindly in ipairs{true, false} do
        stub:reset()
        local good = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"
        local key = tostring(blindly)
        local late = "HTTP/1.1 200 Smuggled\r\nContent-Length: 4\r\n\r\nevil"
        assert.equal("good", raw(good, {key = key, late = late}).body)
        if blindly then
          wait_blindly("/release?key=" .. key)
          wait_blindly("/wait?counted=1&key=" .. key)
        else
          stub:release(key)
          assert.is_true(stub:wait{counted = 1, key = key})
        end
        local res = client:get("/")
        assert.same({"ok\n", false}, {res.body, res.reused})
      end
    end)
  end)

  describe("bodies", function()
    local big = ("0123456789abcdef"):rep(20 << 16)   -- 20 MiB

    it("may be large both ways", function()
      local seen = client:post("/upload", {body = big}):json()
      assert.equal(#big, seen.length)
      local res = client:get("/big", {query = {bytes = #big}})
      assert.equal(#big, #res.body)
      assert.equal("\253\254\255", res.body:sub(-3))
      assert.is_true(res.reused)
      assert.equal(#big, #raw("HTTP/1.1 200 OK\r\nContent-Length: " .. #big .. "\r\n\r\n" .. big).body)
      assert.equal(1, stub:stats().accepted.http)
    end)

    it("are sent at the server's pace, while other tasks go on", function()
      local upload = task.spawn(client.post, client, "/upload?step=262144&delay=0.002", {body = big})
      for _ = 1, 20 do assert.equal("ok\n", client:get("/").body) end
      assert.equal(#big, upload:await():json().length)
    end)

    it("are read at the server's pace", function()
      assert.equal("ok", client:get("/slow_head?delay=0.0002").body)
      local text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"
      for step = 1, 7 do
        local res = raw(text, {step = step})
        assert.same({"ok", "1"}, {res.body, res.trailers["x-sum"]})
      end
      assert.equal(1, stub:stats().accepted.http)
    end)

    it("that the server answers before it has them do not keep the answer back", function()
      for i = 1, 2 do
        client:get("/")
        local res = client:post("/upload_early?key=early" .. i, {body = big})
        assert.same({200, "enough"}, {res.status, res.body})
        res = client:get("/")   -- not on a connection with half a request on it
        assert.same({"ok\n", false}, {res.body, res.reused})
        stub:release("early" .. i)
      end
      assert.equal("enough", client:post("/upload_early", {body = "little"}).body)
    end)

    it("that the server refuses with a reset do not lose its answer, and are not sent again", function()
      for _ = 1, 5 do
        client:get("/")
        assert.equal("enough", client:post("/upload_early?end=rst", {body = big}).body)
      end
      assert.equal(5, #stub:log("/upload_early"))
    end)

    it("may be absent where there is a length", function()
      local res = client:head("/big?bytes=1000", {max_body = 10})
      assert.same({"", "1000"}, {res.body, res.headers["content-length"]})
      res = client:get("/big?bytes=1000")
      assert.same({1000, true}, {#res.body, res.reused})
    end)
  end)

  it("skips what comes before the answer", function()
    local res = raw("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" ..
      "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
    assert.same({201, ""}, {res.status, res.body})
    assert.is_nil(res.headers.link)
    local seen = client:post("/upload", {body = "x", headers = {Expect = "100-continue"}}):json()
    assert.same({1, "100-continue"}, {seen.length, seen.expect})
    assert.equal("protocol", error_of(raw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n").kind)
  end)

  describe("errors", function()
    it("say 'connect' before the answer has begun and 'protocol' after", function()
      for _, path in ipairs{"/rst", "/close", stub:url("/", "reset"), stub:url("/", "refused")} do
        local err = error_of(client.get, client, path)
        assert.equal("connect", err.kind, path)
        assert.is_true(err.retryable)
      end
      for _, text in ipairs{"H", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HTTP/1.1 200 OK\r\n\r",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"} do
        for _, how in ipairs{"fin", "rst"} do
          local err = error_of(raw, text, {["end"] = how})
          assert.equal("protocol", err.kind, text)
          assert.matches("^POST http://127.0.0.1:%d+/raw", err.message)
        end
      end
    end)

    it("say 'protocol' for what is not HTTP/1.1", function()
      for _, text in ipairs{"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n", "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "HTTP/2 200\r\n\r\n", "\0",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "HTTP/1.1 20 OK\r\n",
        "HTTP/1.1 200 OK\r\nX: a\rY: b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n"} do
        assert.equal("protocol", error_of(raw, text, {["end"] = "hang"}).kind, text)
        assert.is_true(stub:wait{open = 0})
      end
    end)

    it("say 'limit' for headers without end", function()
      local err = error_of(client.get, client, "/huge_headers?count=300&bytes=1000")
      assert.equal("limit", err.kind)
      assert.matches("262144", err.message, 1, true)
      err = error_of(raw, "HTTP/1.1 200 OK\r\nX: " .. ("x"):rep(300000), {["end"] = "hang"})
      assert.equal("limit", err.kind)
      assert.equal(200000, #client:get("/huge_headers?count=200&bytes=1000").headers["x-huge-0"] * 200)
    end)
  end)

  describe("deadlines", function()
    local function phase_of(method, path, options)
      local err = error_of(client[method], client, path, options)
      assert.equal("timeout", err.kind, tostring(err))
      assert.equal(0, client:stats().in_flight)
      return err.phase
    end

    it("hold in every phase, on fresh and on kept connections", function()
      local big = ("x"):rep(20 << 20)
      for _, warm_up in ipairs{false, true} do
        local function fresh()
          client:close()
          client = plain.Client{base_url = stub:url(), retries = 0, timeout = {first_byte = 20, idle = 20, total = 20}}
          if warm_up then client:get("/") end
        end
        fresh()
        assert.equal("first_byte", phase_of("get", "/silence", {timeout = {first_byte = 0.05}}))
        fresh()
        assert.equal("first_byte", phase_of("post", "/silence", {body = "x", timeout = {first_byte = 0.05}}))
        fresh()
        assert.equal("idle", phase_of("post", "/upload_stuck", {body = big, timeout = {idle = 0.1}}))
        fresh()
        assert.equal("total", phase_of("post", "/upload_stuck", {body = big, timeout = 0.1}))
        fresh()
        assert.equal("idle", phase_of("get", "/stall", {timeout = {idle = 0.05}}))
        fresh()
        assert.equal("idle", phase_of("post", "/raw?end=hang", {body = "HTTP/1.1 2", timeout = {idle = 0.05}}))
        fresh()
        assert.equal("total", phase_of("get", "/slow_body?n=1000000&delay=0.001", {timeout = 0.1}))
        fresh()
        assert.equal("total", phase_of("post", "/raw?end=hang", {timeout = 0.1,
          body = ("HTTP/1.1 100 Continue\r\n\r\n"):rep(1000)}))
      end
      assert.equal("connect", phase_of("get", stub:url("/", "full"), {timeout = {connect = 0.05}}))
    end)
  end)

  -- where a request is when it is given up
  local phases = {
    sending = {"post", "/upload_stuck", {body = ("x"):rep(20 << 20)}, {requests = 1}},
    waiting = {"get", "/hold?key=phase", nil, {key = "phase", waiting = 1}},
    ["amid the headers"] = {"post", "/raw?end=hang&key=head", {body = "HTTP/1.1 200 OK\r\nX"},
      {key = "head", counted = 1}},
    ["amid the body"] = {"post", "/raw?end=hang&key=body", {body = "HTTP/1.1 200 OK\r\n\r\nbody"},
      {key = "body", counted = 1}},
    ["amid a chunk"] = {"post", "/raw?end=hang&key=chunk",
      {body = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel"}, {key = "chunk", counted = 1}},
  }

  for name, phase in pairs(phases) do
    local method, path, options, until_then = table.unpack(phase, 1, 4)

    it("frees the connection of a task that is cancelled while " .. name, function()
      local before = servers.open_files()
      for _ = 1, 2 do
        stub:reset()
        local waiting = task.spawn(client[method], client, path, options)
        assert.is_true(stub:wait(until_then))
        waiting:cancel()
        assert.equal("cancelled", error_of(waiting.await, waiting).kind)
        assert.equal(0, client:stats().in_flight)
        assert.is_true(stub:wait{open = 0})
        assert.equal("ok\n", client:get("/").body)
      end
      assert.is_true(servers.open_files() <= before + 2)   -- the client's own two: a connection and one to the stub
    end)

    it("ends those under way when the client is closed while " .. name, function()
      local other = plain.Client{base_url = stub:url(), retries = 0}
      other:get("/")
      stub:reset()
      local waiting = {}
      for i = 1, 3 do waiting[i] = task.spawn(other[method], other, path, options) end
      assert.is_true(stub:wait{requests = 3})
      other:close()
      for i = 1, 3 do assert.equal("closed", error_of(waiting[i].await, waiting[i]).kind) end
      assert.is_true(stub:wait{open = 0})
    end)
  end

  it("frees the connection of a task that is cancelled while connecting", function()
    local before = servers.open_files()
    local waiting = task.spawn(client.get, client, stub:url("/", "full"))
    task.sleep(0)
    waiting:cancel()
    assert.equal("cancelled", error_of(waiting.await, waiting).kind)
    local other = plain.Client()
    waiting = task.spawn(other.get, other, stub:url("/", "full"))
    task.sleep(0)
    other:close()
    assert.equal("closed", error_of(waiting.await, waiting).kind)
    assert.equal(before, servers.open_files())
  end)

  it("survives a client that is collected with connections and answers left", function()
    local answers = {}
    do
      local other = plain.Client{base_url = stub:url()}
      for i = 1, 3 do answers[i] = other:get("/status/200?header=X-A:1") end
    end
    for _ = 1, 3 do collectgarbage() end
    for i = 1, 3 do assert.equal("1", answers[i].headers["x-a"]) end
    answers = nil
    for _ = 1, 3 do collectgarbage() end
    assert.is_nil(answers)
    assert.is_true(stub:wait{open = 0})
  end)

  it("follows redirects and retries like the other way", function()
    local other <close> = http.Client{base_url = stub:url(), proxy = false, decompress = false}
    local res = other:get("/redirect?n=3")
    assert.is_true(went_plain(res:json()))
    assert.equal(1, other:stats().connections)
    res = other:get("/flaky?how=cut")
    assert.equal(2, res.attempts)
  end)
end)
