-- What a script saw when it was recorded is what it sees when it is replayed, with the servers gone.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local servers = support.servers

-- Runs a script three times: as it is, recorded, and replayed on a port where nobody listens. All see the same.
local function expect_same(script, way, options)
  options = options or {}
  local folder = support.new_folder()
  local stub = servers.stub()
  local _ <close> = stub
  local args = {stub:url(), way, options.extra and options.extra(stub)}
  local plain = support.run(script, nil, {args = args})
  assert.equal(0, plain.code, plain.err)
  stub:reset()
  local recorded = support.run(script, "record", {args = args, folder = folder})
  if not options.racy then assert.equal(plain.out, recorded.out, recorded.err) end
  assert.equal("", recorded.err)
  stub:close()
  args[1] = "http://127.0.0.1:9"
  local replayed = support.run(script, "replay", {args = args, folder = folder, seconds = options.seconds})
  assert.equal(recorded.out, replayed.out, replayed.err)
  assert.equal(0, replayed.code, replayed.err)
  return folder, recorded.out
end

for _, way in ipairs{"libcurl", "plain"} do
  describe("recorded over " .. way .. " and replayed", function()
    after_each(support.clean)

    it("answers are the same: status, headers, body, version", function()
      local _, out = expect_same([[
        local client <close> = new_client()
        for _, path in ipairs{"/status/200?body=hello&header=X-One:1&header=X-Two:2", "/status/404?body=none",
          "/status/204", "/status/500?body=%E2%82%AC", "/interim", "/http10", "/until_close",
          "/chunked?n=3&trailers=1"} do
          local res = client:get(path)
          print(path, res.status, res.body, res.http_version, res.attempts, res.headers["x-one"], res.headers["x-two"],
            res.headers["content-type"], res.headers["content-length"], res.trailers["x-sum"], res)
        end
        print(client:head("/big").status, client:head("/big").headers["content-length"])
        print(client:put("/status/201", {form = {a = "x y", b = {1, 2}}}).status)
        print(client:request{method = "DELETE", url = "/status/200", json = {deep = {1, 2.5, "ü"}}}.status)
      ]], way)
      assert.matches("hello", out, 1, true)
      assert.matches("\t42\t", out, 1, true)
    end)

    it("binary and large bodies are the same, both ways", function()
      local folder = expect_same([[
        local digest = require "riverlua.digest"
        local function sum(bytes) return #bytes, digest.hex(digest.sha256(bytes)) end
        local client <close> = new_client()
        print(sum(client:get("/big?bytes=5000000").body))
        local bytes = {}
        for i = 0, 255 do bytes[#bytes + 1] = string.char(i) end
        local body = table.concat(bytes)
        print(client:post("/echo", {body = body}):json().sha256)
        print(client:post("/echo", {body = ("0123456789"):rep(500000)}):json().sha256)
        print(client:get("/status/200?body=%C3%28").body)
        print(client:get("/status/200?body=%00%01").body)
      ]], way)
      local entries = support.entries(folder)
      assert.is_string(entries[1].answer.body_base64)
      assert.is_string(entries[2].request.body_base64)
      assert.is_string(entries[3].request.body)
      assert.is_string(entries[4].answer.body)
      assert.is_string(entries[5].answer.body_base64)
    end)

    it("streams come in the same pieces", function()
      local folder, out = expect_same([[
        local client <close> = new_client{retries = 0}
        for _, step in ipairs{1, 7, 1000} do
          local pieces = {}
          local res = client:get("/sse?delay=0.001&step=" .. step, {stream = true})
          for bytes in res:chunks() do pieces[#pieces + 1] = bytes end
          print(#table.concat(pieces), res.headers["content-type"], res.body, res:read())
          local events = {}
          for event in client:get("/sse?step=" .. step, {stream = true}):events() do
            events[#events + 1] = json.encode(event, {sort = true})
          end
          print(table.concat(events, " "))
        end
        for line in client:get("/chunked?n=4", {stream = true}):lines() do print(line) end
        print(#client:get("/big?bytes=3000000", {stream = true}):text())
        print(client:get("/status/200?body=%7B%22a%22%3A1%7D", {stream = true}):json().a)
      ]], way)
      assert.matches("grüße", out, 1, true)
      for _, entry in ipairs(support.entries(folder)) do
        local sum = 0
        for _, length in ipairs(entry.answer.pieces) do sum = sum + length end
        local body = entry.answer.body or require("riverlua.digest").from_base64(entry.answer.body_base64)
        assert.equal(#body, sum)
      end
    end)

    it("a replayed stream is cut where the recorded one was", function()
      local folder = support.new_folder()
      local script = [[
        local client <close> = new_client()
        local lengths = {}
        for bytes in client:get("/sse?delay=0.002&step=5", {stream = true}):chunks() do
          lengths[#lengths + 1] = #bytes
        end
        print(table.concat(lengths, ","))
      ]]
      local stub = servers.stub()
      local recorded = support.run(script, "record", {args = {stub:url(), way}, folder = folder})
      stub:close()
      local replayed = support.run(script, "replay", {args = {"http://localhost:9", way}, folder = folder})
      assert.equal(recorded.out, replayed.out, replayed.err)
      assert.matches(",", recorded.out, 1, true)
    end)

    it("streams that are left or break are left and break there", function()
      local folder = expect_same([[
        local client <close> = new_client{retries = 0}
        do
          local res <close> = client:get("/sse_endless", {stream = true})
          print(#res:read() > 0)
        end
        for event in client:get("/sse_endless?delay=0.01", {stream = true}):events() do
          print(event.data)
          if event.id == "3" then break end
        end
        for _, ending in ipairs{"cut", "rst"} do
          show_error(function()
            local pieces = {"data: 1\n\n", "data: 2\n"}
            local res = client:post("/sse", {stream = true, json = {pieces = pieces, ["end"] = ending}})
            for event in res:events() do print(event.data) end
          end)
        end
        local res = client:get("/stall?length=100&sent=10", {stream = true, timeout = {idle = 0.2}})
        print(res:read())
        show_error(res.read, res)
        local bounded = client:get("/endless", {stream = true, max_body = 30000})
        show_error(function() for _ in bounded:chunks() do end end)
      ]], way, {racy = true})   -- a reset may overtake what was sent before it
      local entries = support.entries(folder)
      assert.is_true(entries[1].left)
      assert.equal("timeout", entries[5].failure.kind)
      assert.equal("limit", entries[6].failure.kind)
    end)

    it("failures of every kind are the same errors", function()
      local _, out = expect_same([[
        local client <close> = new_client{retries = 1}
        for _, path in ipairs{"/rst", "/close", "/cut", "/cut_chunked", "/bad_chunk", "/garbage", "/two_lengths"} do
          show_error(client.get, client, path)
        end
        show_error(client.post, client, "/rst", {body = "x"})
        show_error(client.get, client, "/silence", {timeout = {first_byte = 0.1}})
        show_error(client.get, client, "/stall", {timeout = {idle = 0.1}})
        show_error(client.get, client, "/silence", {timeout = 0.2, retries = 0})
        show_error(client.get, client, "/big?bytes=2000", {max_body = 1000})
        show_error(client.get, client, "http://nowhere.invalid/", {retries = 0})
        local info = json.decode(extra)
        show_error(client.get, client, ("http://127.0.0.1:%d/refused"):format(info.refused), {retries = 0})
        show_error(client.get, client, ("http://127.0.0.1:%d/full"):format(info.full),
          {timeout = {connect = 0.2}, retries = 0})
        show_error(client.get, client, ("https://127.0.0.1:%d/tls"):format(info.tls), {retries = 0})
        show_error(client.get, client, "/redirect_loop")
        show_error(client.get, client, "no address")
      ]], way, {extra = function(stub) return require("riverlua.json").encode(stub.info) end})
      for _, kind in ipairs{"dns", "connect", "tls", "timeout\tconnect", "timeout\tfirst_byte", "timeout\tidle",
        "timeout\ttotal", "limit", "protocol"} do
        assert.matches("\n" .. kind .. "\t", "\n" .. out, 1, true)
      end
    end)

    it("redirects and retries are the same, each exchange an entry", function()
      local folder = expect_same([[
        local client <close> = new_client()
        local res = client:get("/redirect?n=3")
        print(res.status, res.url, res:json().path)
        print(client:post("/redirect?code=307&to=/echo", {body = "again"}):json().body)
        print(client:post("/redirect?code=303", {body = "gone"}):json().method)
        print(client:get("/redirect", {redirects = 0}).status, client:get("/redirect_nowhere").status)
        for _, how in ipairs{"503", "429", "rst", "cut"} do
          -- a kept connection that is reset would be replaced once more, by libcurl itself
          local fresh <close> = new_client()
          local answer = fresh:get("/flaky", {query = {how = how, key = how, times = 2, retry_after = "0"}})
          print(answer.status, answer.attempts, answer:json().attempts, fresh:stats().retries)
        end
      ]], way)
      -- 4 redirects and where they led, twice one, two that were not followed, and 3 for each that failed twice
      assert.equal(5 + 2 + 2 + 2 + 12, #support.entries(folder))
    end)

    it("many at once get their own answers, in whatever order they ask", function()
      local folder = support.new_folder()
      local script = [[
        local client <close> = new_client()
        local numbers = {}
        for i = 1, 60 do numbers[i] = extra and 61 - i or i end
        local bodies = task.map(numbers, function(i)
          return client:post("/echo", {json = {i = i}}):json().body .. client:get("/status/200?body=" .. i % 3).body
        end, {concurrency = 20})
        table.sort(bodies)
        print(table.concat(bodies, " "))
        print(client:stats().requests, client:stats().in_flight)
      ]]
      local stub = servers.stub()
      local recorded = support.run(script, "record", {args = {stub:url(), way}, folder = folder})
      stub:close()
      local replayed = support.run(script, "replay", {args = {"http://127.0.0.1:9", way, "backwards"}, folder = folder})
      assert.equal(recorded.out, replayed.out, replayed.err)
      assert.equal(120, #support.entries(folder))
    end)

    it("bodies that are streamed out are compared whole", function()
      expect_same([[
        local client <close> = new_client()
        local function pieces(list)
          local i = 0
          return function() i = i + 1 return list[i] end
        end
        print(client:post("/upload", {body = pieces{"ab", "", "cd"}}).body)
        print(client:post("/upload", {body = pieces{"ab", "cd"}, content_length = 4}).body)
        print(client:post("/upload_refused", {body = pieces{("x"):rep(100), "y"}, content_length = 101}).status)
        show_error(client.post, client, "/upload", {body = function() error("broken", 0) end})
        show_error(client.post, client, "/upload", {body = pieces{42}})
      ]], way)
    end)
  end)
end

describe("recordings", function()
  local stub

  setup(function() stub = servers.stub() end)
  teardown(function() stub:close() end)
  after_each(support.clean)

  local function record(script, options)
    options = options or {}
    options.folder = options.folder or support.new_folder()
    options.args = options.args or {stub:url()}
    local result = support.run(script, "record", options)
    assert.equal(0, result.code, result.err)
    return options.folder, result
  end

  local function replay(script, folder, options)
    options = options or {}
    options.folder, options.args = folder, options.args or {"http://127.0.0.1:9"}
    return support.run(script, "replay", options)
  end

  it("hold compressed answers as the script saw them", function()
    local script = [[
      local client <close> = new_client()
      print(#client:get("/compressed?bytes=42000").body, #client:get("/compressed?how=deflate", {stream = true}):text())
      show_error(client.get, client, "/compressed?corrupt=1", {retries = 0})
    ]]
    local folder, result = record(script)
    assert.equal(result.out, replay(script, folder).out)
  end)

  it("say whether connections were kept, in a replay as if they had been", function()
    local script = [[
      local client <close> = new_client()
      print(client:get("/").reused, client:get("/").reused, client:get("/").http_version)
      local stats = client:stats()
      print(stats.requests, stats.connections, stats.reused)
    ]]
    local folder, result = record(script)
    assert.equal("false\ttrue\t1.1\n3\t1\t2\n", result.out)
    assert.equal(result.out, replay(script, folder).out)
  end)

  it("replay without libcurl", function()
    local script = [[
      local client <close> = new_client()
      print(client:get("/").status)
      print((io.open("/proc/self/maps"):read("a"):find("libcurl", 1, true)))
    ]]
    local folder, result = record(script)
    assert.not_matches("200\nnil\n", result.out, 1, true)
    assert.equal("200\nnil\n", replay(script, folder).out)
  end)

  it("let a stream that was left be read as far as it was, and no farther", function()
    local folder = record[[
      local client <close> = new_client()
      for event in client:get("/sse_endless?delay=0.01", {stream = true}):events() do
        if event.id == "2" then break end
      end
    ]]
    local result = replay([[
      local client <close> = new_client()
      show_error(function()
        for event in client:get("/sse_endless?delay=0.01", {stream = true}):events() do print(event.data) end
      end)
    ]], folder)
    assert.matches("^1\n2\n", result.out)
    assert.matches("replay\t", result.out, 1, true)
    assert.matches("left the stream here", result.out, 1, true)
  end)

  it("hold a stream that is dropped without being read", function()
    local folder = record[[
      local client = new_client()
      local res = client:get("/sse", {stream = true})
      print(res.status)
      res = nil
    ]]
    local entries = support.entries(folder)
    assert.equal(1, #entries)
    assert.is_true(entries[1].left)
  end)

  it("let a request that was given up wait again, until it is given up", function()
    local script = [[
      local client <close> = new_client()
      local ok, err = pcall(task.timeout, 0.2, client.get, client, "/silence")
      print(ok, err.kind)
      local res = client:get("/stall?sent=3", {stream = true})
      print(res:read())
      ok, err = pcall(task.timeout, 0.2, res.read, res)
      print(ok, err.kind)
      print(client:get("/").body)
    ]]
    local folder, result = record(script)
    assert.equal("false\ttimeout\nxxx\nfalse\ttimeout\nok\n\n", result.out)
    assert.equal(result.out, replay(script, folder).out)
  end)

  it("are replayed without waiting for retries, and with their deadlines", function()
    local function busy()
      return support.entry("GET", "http://localhost/busy",
        {status = 503, headers = {{"Retry-After", "50"}}, body = "later"})
    end
    local script = [[
      local client <close> = new_client()
      local res = client:get("/busy", {timeout = tonumber(extra)})
      print(res.status, res.attempts)
    ]]
    local folder = support.write{busy(), busy(), support.entry("GET", "http://localhost/busy", "free")}
    -- 100 s of waiting fit into 300 s, but not into 60
    local result = replay(script, folder, {args = {"http://127.0.0.1:9", "libcurl", "300"}, seconds = 20})
    assert.equal("200\t3\n", result.out, result.err)
    result = replay(script, folder, {args = {"http://127.0.0.1:9", "libcurl", "60"}, seconds = 20})
    assert.equal("503\t2\n", result.out, result.err)
  end)

  it("of a closed client stay closed", function()
    local script = [[
      local client = new_client()
      client:get("/")
      client:close()
      show_error(client.get, client, "/")
      show_error(client.stats, client)
    ]]
    local folder, result = record(script)
    assert.equal(result.out, replay(script, folder).out)
    assert.equal(1, #support.entries(folder))
  end)

  it("serve pipelines", function()
    local script = [[
      local transport = require("riverlua.transport").open("test", base, {proxy = false})
      local pipeline = transport:pipeline()
      local function send(body, path)
        return (pipeline:send{method = "POST", path = path or "/echo", headers = {}, body = body})
      end
      print(pipeline:ready(), send("first")():json().body, pipeline:ready())
      local waits = {}
      for i = 1, 50 do waits[i] = send("same") end
      for i = 50, 1, -1 do print(waits[i]():json().number) end
      local last = {send("bye", "/close_after"), send("behind")}
      print(last[1]().body)
      local res, err, sent = last[2]()
      print(res, err and err.kind, sent, pipeline:ready())
      pipeline:close()
      transport:close()
    ]]
    local folder, result = record(script)
    assert.matches("false\tfirst\ttrue\n", result.out, 1, true)
    assert.equal(result.out, replay(script, folder).out)
  end)

  it("are not noticed by a script that is not recorded", function()
    local result = support.run([[
      local client <close> = new_client()
      print(client:get("/").status)
      for name in pairs(package.loaded) do
        if name:find("record") or name:find("replay") or name:find("secrets") then print(name) end
      end
    ]], nil, {args = {stub:url()}, environment = {RIVERLUA_RECORD = "", RIVERLUA_REPLAY = ""}})
    assert.matches("^200\n", result.out)
    result = support.run([[
      local client <close> = new_client()
      print(client.exchange.net, client:get("/").status, package.loaded["riverlua.recording"])
    ]], nil, {args = {stub:url()}})
    assert.matches("^riverlua.Net: 0x%x+\t200\tnil\n$", result.out)
  end)
end)
