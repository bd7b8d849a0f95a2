-- Bodies that arrive or leave piece by piece, and server-sent events over the wire.

local servers = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../support/servers.lua")
local http = require "riverlua.http"
local task = require "riverlua.task"

local error_of = servers.error_of

describe("streams of http.Client", function()
  local stub, client

  setup(function() stub = servers.stub() end)
  teardown(function() stub:close() end)
  before_each(function()
    stub:reset()
    client = http.Client{base_url = stub:url(), proxy = false, retries = 0}
  end)
  after_each(function() client:close() end)

  local function resident_kilobytes()
    return tonumber(servers.read_file("/proc/self/status"):match("VmRSS:%s+(%d+) kB"))
  end

  describe("reading", function()
    it("hands out status and headers before the body is there", function()
      local res <close> = client:get("/stall?length=100&sent=10", {stream = true})
      assert.equal(200, res.status)
      assert.equal("100", res.headers["content-length"])
      assert.is_nil(res.body)
      assert.equal(("x"):rep(10), res:read())
    end)

    it("hands out every byte once, then nil for good", function()
      local res = client:get("/big?bytes=1000000", {stream = true})
      local pieces = {}
      for bytes in res:chunks() do
        assert.is_true(#bytes > 0)
        pieces[#pieces + 1] = bytes
      end
      local body = table.concat(pieces)
      assert.equal(1000000, #body)
      local block = {}
      for i = 0, 255 do block[#block + 1] = string.char(i) end
      assert.equal((table.concat(block):rep(3907)):sub(1, 1000000), body)
      assert.is_nil(res:read())
      assert.is_nil(res:read())
    end)

    it("keeps the connection when read to its end", function()
      for _ = 1, 5 do client:get("/big?bytes=100000", {stream = true}):text() end
      assert.equal(1, stub:stats().accepted.http)
    end)

    it("gives lines and the whole text, decompressed", function()
      local lines = {}
      for line in client:get("/chunked?n=3", {stream = true}):lines() do lines[#lines + 1] = line end
      assert.same({"chunk 0", "chunk 1", "chunk 2"}, lines)
      assert.equal(42000, #client:get("/compressed?bytes=42000", {stream = true}):text())
      assert.same({a = 1}, client:get("/status/200", {stream = true, query = {body = '{"a": 1}'}}):json())
      assert.equal("limit", error_of(function() client:get("/endless", {stream = true}):text(100000) end).kind)
    end)

    it("passes statuses above 400 on, with their body", function()
      local res = client:get("/status/404?body=gone", {stream = true})
      assert.equal(404, res.status)
      assert.equal("gone", res:text())
    end)

    it("frees the connection on break", function()
      for _, way in ipairs{"chunks", "lines", "events"} do
        local path = way == "events" and "/sse_endless" or way == "lines" and "/sse_endless" or "/endless"
        local res = client:get(path, {stream = true})
        for _ in res[way](res) do break end   -- luacheck: ignore 512
        assert.is_true(stub:wait{open = 0}, way)
      end
    end)

    it("frees the connection when the loop is left by an error", function()
      local err = error_of(function()
        for _ in client:get("/sse_endless", {stream = true}):events() do error("mine", 0) end
      end)
      assert.equal("mine", err)
      assert.is_true(stub:wait{open = 0})
    end)

    it("frees the connection with <close>, close and collection", function()
      do
        local res <close> = client:get("/endless", {stream = true})
        res:read()
      end
      assert.is_true(stub:wait{open = 0})
      local res = client:get("/endless", {stream = true})
      res:close()
      res:close()
      assert.is_true(stub:wait{open = 0})
      client:get("/endless", {stream = true})
      res = nil   -- luacheck: ignore 311
      for _ = 1, 3 do collectgarbage() end
      task.sleep(0)
      assert.is_true(stub:wait{open = 0})
    end)

    it("raises after close, and when it was not a stream", function()
      local res = client:get("/endless", {stream = true})
      res:close()
      assert.equal("closed", error_of(res.read, res).kind)
      assert.equal("argument", error_of(function() client:get("/"):read() end).kind)
      assert.equal("argument", error_of(function() client:get("/"):events() end).kind)
    end)

    it("raises when the body is cut off, after what did arrive", function()
      local res = client:get("/cut?length=100&sent=50", {stream = true})
      local got = {}
      local err = error_of(function() for bytes in res:chunks() do got[#got + 1] = bytes end end)
      assert.equal("protocol", err.kind)
      assert.equal(50, #table.concat(got))
    end)

    it("does not gather what is not read", function()
      local res <close> = client:get("/endless?size=65536", {stream = true})
      res:read()
      local before = resident_kilobytes()
      for _ = 1, 50 do
        client:get("/")
        task.sleep(0.002)
      end
      assert.is_true(resident_kilobytes() - before < 16384)
      assert.is_string(res:read())
    end)

    it("holds no memory after thousands that were left early", function()
      local function round(n)
        for _ = 1, n do
          local res = client:get("/big?bytes=100000", {stream = true})
          res:read()
          res:close()
        end
        collectgarbage()
      end
      round(200)
      local before = resident_kilobytes()
      round(600)
      assert.is_true(resident_kilobytes() - before < 4096)
    end)

    it("ends when its client is closed", function()
      local other = http.Client{base_url = stub:url(), proxy = false}
      local res = other:get("/sse?end=hang&step=1000", {stream = true})
      local reader = task.spawn(function() for _ in res:events() do end end)
      task.sleep(0)
      other:close()
      assert.equal("closed", error_of(reader.await, reader).kind)
    end)

    it("ends when its task is cancelled", function()
      local reader = task.spawn(function()
        for _ in client:get("/sse?end=hang&step=1000", {stream = true}):events() do end
      end)
      local canceller = task.spawn(function()
        stub:wait{requests = 1}
        task.sleep(0.02)
        reader:cancel()
      end)
      assert.equal("cancelled", error_of(reader.await, reader).kind)
      canceller:await()
      assert.is_true(stub:wait{open = 0})
    end)
  end)

  describe("writing", function()
    it("sends what a function returns, in chunks", function()
      local left = 100
      local res = client:post("/upload", {body = function()
        left = left - 1
        if left >= 0 then return ("%08d"):format(left):rep(1000) end
      end}):json()
      assert.same({800000, true}, {res.length, res.chunked})
      assert.is_nil(res.expect)
    end)

    it("sends a length when it is known", function()
      local pieces = {"abc", "", "defg"}
      local res = client:post("/upload", {content_length = 7, body = function() return table.remove(pieces, 1) end})
      assert.same({7, false}, {res:json().length, res:json().chunked})
    end)

    it("does not ask for more than the server takes", function()
      local asked = 0
      local waiting = task.spawn(client.post, client, "/upload_stuck", {body = function()
        asked = asked + 1
        return ("x"):rep(65536)
      end})
      stub:wait{requests = 1}
      for _ = 1, 20 do task.sleep(0.005) end
      assert.is_true(asked < 1000)
      waiting:cancel()
      assert.equal("cancelled", error_of(waiting.await, waiting).kind)
    end)

    it("may wait for other answers while it produces a body", function()
      local left = 3
      local res = client:post("/upload", {body = function()
        left = left - 1
        if left >= 0 then return client:get("/").body end
      end})
      assert.equal(9, res:json().length)
    end)

    it("passes an error of the function on and drops the connection", function()
      local err = error_of(client.post, client, "/upload", {body = function() error("mine", 0) end})
      assert.equal("mine", err)
      assert.is_true(stub:wait{open = 0})
      assert.equal("argument", error_of(client.post, client, "/upload", {body = function() return 5 end}).kind)
    end)

    it("goes on while the server reads slowly", function()
      local left = 40
      local res = client:post("/upload?step=65536&delay=0.002", {body = function()
        left = left - 1
        if left >= 0 then return ("x"):rep(65536) end
      end})
      assert.equal(40 * 65536, res:json().length)
    end)

    it("takes an answer that comes before the body has ended", function()
      local res = client:post("/upload_refused", {body = function() return ("x"):rep(1000) end})
      assert.equal(413, res.status)
    end)

    it("streams both ways", function()
      local pieces = {'{"pieces": ["data: 1\\n\\n", ', '"data: 2\\n\\n"]}'}
      local res = client:post("/sse", {stream = true, body = function() return table.remove(pieces, 1) end})
      local got = {}
      for event in res:events() do got[#got + 1] = event.data end
      assert.same({"1", "2"}, got)
    end)
  end)

  describe("events", function()
    local wanted = {
      {event = "greeting", data = '{"text": "grüße"}', id = "1"},
      {event = "message", data = "first\nsecond", id = "1"},
      {event = "message", data = "only CR", id = "2"},
      {event = "last", data = "", id = "2"},
    }

    it("are the same cut at every byte and in pieces of any size", function()
      for _, step in ipairs{1, 2, 3, 5, 7, 11, 64, 1000} do
        local got = {}
        for event in client:get("/sse", {stream = true, query = {step = step}}):events() do got[#got + 1] = event end
        assert.same(wanted, got, "step " .. step)
      end
      assert.equal(1, stub:stats().accepted.http)
    end)

    it("come one by one, when they come", function()
      local res <close> = client:get("/sse_endless?delay=0.001", {stream = true})
      local next_event = res:events()
      for i = 1, 20 do
        local event = next_event()
        assert.same({tostring(i), tostring(i)}, {event.id, event.data})
      end
    end)

    it("end with an error when the stream breaks", function()
      for ending, kinds in pairs{cut = {protocol = true}, rst = {connect = true, protocol = true}} do
        local got = 0
        local err = error_of(function()
          local query = {["end"] = ending, step = 50}
          for _ in client:get("/sse", {stream = true, query = query}):events() do got = got + 1 end
        end)
        assert.is_true(kinds[err.kind], tostring(err))
        assert.is_true(ending == "rst" or got == 4)
      end
    end)

    it("are bounded", function()
      local res = client:post("/sse", {stream = true, json = {pieces = {"data: " .. ("x"):rep(5000)}}})
      local err = error_of(function() for _ in res:events{max_event = 1000} do end end)
      assert.equal("limit", err.kind)
    end)

    it("of many streams arrive side by side", function()
      local items = {}
      for i = 1, 12 do items[i] = i end
      local sums = task.map(items, function()
        local sum = 0
        for event in client:get("/sse_endless?delay=0.001", {stream = true}):events() do
          sum = sum + tonumber(event.data)
          if event.data == "20" then break end
        end
        return sum
      end, {concurrency = 12})
      for i = 1, 12 do assert.equal(210, sums[i]) end
      assert.is_true(stub:wait{open = 0})
    end)
  end)
end)
