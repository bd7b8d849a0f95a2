-- Answers that are cut, wrong, hostile or too large.

local servers = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../support/servers.lua")

local error_of = servers.error_of

servers.over_both_ways(describe, "http.Client against a broken server", function(way)
  local stub, client

  setup(function() stub = servers.stub() end)
  teardown(function() stub:close() end)
  before_each(function()
    stub:reset()
    client = way.Client{base_url = stub:url(), proxy = false, retries = 0}
  end)
  after_each(function() client:close() end)

  local function protocol_error(path)
    local err = error_of(client.get, client, path)
    assert.equal("protocol", err.kind, path .. ": " .. tostring(err))
    assert.equal("GET", err.method)
    -- whatever happened, the next call must not see what is left of this one
    assert.equal("ok\n", client:get("/").body)
    return err
  end

  it("raises for bodies that are cut off", function()
    protocol_error("/cut?length=100&sent=50")
    protocol_error("/cut?length=100&sent=0")
    protocol_error("/cut_chunked")
    protocol_error("/cut_chunked?half=1")
  end)

  it("raises for chunks without sizes and lengths without numbers", function()
    protocol_error("/bad_chunk")
    protocol_error("/bad_length?value=many")
    protocol_error("/bad_length?value=-5")
  end)

  it("raises for garbage instead of an answer", function()
    protocol_error("/garbage")
    assert.equal("protocol", error_of(client.get, client, stub:url("/", "garbage")).kind)
  end)

  it("raises for a head that is cut off", function()
    protocol_error("/cut_head")
  end)

  it("raises for no answer and for resets", function()
    for _, path in ipairs{"/close", "/rst", "/cut?rst=1", stub:url("/", "reset")} do
      local err = error_of(client.get, client, path)
      assert.is_true(err.kind == "connect" or err.kind == "protocol", tostring(err))
      assert.is_true(err.retryable)
    end
  end)

  it("does not take bytes after an answer for the next one", function()
    assert.equal("good", client:get("/too_much").body)
    local res = client:get("/")
    assert.same({200, "ok\n"}, {res.status, res.body})
  end)

  it("bounds the size of the headers", function()
    assert.equal(200, client:get("/huge_headers?bytes=50000").status)
    for _, path in ipairs{"/huge_headers?bytes=4000000", "/huge_headers?count=400&bytes=60000"} do
      local err = error_of(client.get, client, path)
      assert.is_true(err.kind == "limit" or err.kind == "protocol", tostring(err))
    end
    assert.equal("ok\n", client:get("/").body)
  end)

  describe("with compression", function()
    if way.plain then return end   -- that is libcurl's

    it("decodes gzip and deflate", function()
      for _, how in ipairs{"gzip", "deflate", "raw"} do
        local res = client:get("/compressed", {query = {how = how, bytes = 42000}})
        assert.equal(42000, #res.body)
        assert.equal("all work and no play ", res.body:sub(1, 21))
      end
    end)

    it("asks for it, or does not", function()
      assert.matches("gzip", client:get("/echo"):json().headers["accept-encoding"], 1, true)
      local plain <close> = way.Client{base_url = stub:url(), proxy = false, decompress = false}
      local asked = plain:get("/echo"):json().headers["accept-encoding"]
      assert.is_true(asked == nil or asked == "identity")
      assert.equal("\31\139", plain:get("/compressed").body:sub(1, 2))
    end)

    it("stops a bomb at max_body", function()
      local err = error_of(client.get, client, "/bomb?bytes=500000000", {max_body = 1 << 20})
      assert.equal("limit", err.kind)
      assert.matches("1048576", err.message, 1, true)
      assert.matches("max_body", err.hint, 1, true)
    end)

    it("raises for spoiled data", function()
      protocol_error("/compressed?corrupt=1")
      protocol_error("/compressed?corrupt=1&how=deflate")
    end)
  end)

  describe("with max_body", function()
    it("takes answers up to it and none above", function()
      assert.equal(1000, #client:get("/big?bytes=1000", {max_body = 1000}).body)
      for _, path in ipairs{"/big?bytes=1001", "/chunked?n=500", "/endless"} do
        local err = error_of(client.get, client, path, {max_body = 1000})
        assert.equal("limit", err.kind)
        assert.matches("limit: 1000 bytes", err.message, 1, true)
      end
      assert.equal("ok\n", client:get("/").body)
    end)

    it("may be set for the client", function()
      local other <close> = way.Client{base_url = stub:url(), proxy = false, max_body = 10}
      assert.equal("limit", error_of(other.get, other, "/big?bytes=11").kind)
      assert.equal(11, #other:get("/big?bytes=11", {max_body = 11}).body)
    end)

    it("counts only the body", function()
      assert.equal("ok", client:get("/huge_headers?bytes=5000", {max_body = 2}).body)
      assert.equal("", client:head("/big?bytes=100000", {max_body = 1}).body)
    end)

    it("bounds a stream that is asked to", function()
      local res = client:get("/endless", {stream = true, max_body = 100000})
      local size = 0
      local err = error_of(function() for bytes in res:chunks() do size = size + #bytes end end)
      assert.equal("limit", err.kind)
      assert.is_true(size <= 100000)
    end)
  end)

  it("takes an early refusal of an upload for the answer", function()
    local res = client:post("/upload_refused", {body = ("x"):rep(1 << 20)})
    assert.equal(413, res.status)
    assert.equal("too large", res.body)
  end)

  it("raises when an upload is reset", function()
    local err = error_of(client.post, client, "/upload_rst?after=1000", {body = ("x"):rep(8 << 20)})
    assert.is_true(err.kind == "connect" or err.kind == "protocol", tostring(err))
    err = error_of(client.post, client, stub:url("/upload_rst", "tls"), {body = ("x"):rep(8 << 20)})
    assert.equal("tls", err.kind)   -- not the file of its certificate authority, and no SIGPIPE
  end)

  it("outlives resets over TLS while it writes", function()
    local safe <close> = way.Client{proxy = false, retries = 0, ca_file = stub.info.ca_file}
    for _ = 1, 5 do
      local err = error_of(safe.post, safe, stub:url("/upload_rst?after=1000", "tls"), {body = ("x"):rep(8 << 20)})
      assert.is_true(err.kind == "connect" or err.kind == "protocol" or err.kind == "tls", tostring(err))
    end
  end)
end)
