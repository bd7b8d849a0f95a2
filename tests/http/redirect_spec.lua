-- Redirects: methods, bodies, limits, and no credentials for strangers.

local servers = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../support/servers.lua")
local http = require "riverlua.http"

local error_of = servers.error_of

describe("redirects of http.Client", function()
  local stub, client

  setup(function() stub = servers.stub() end)
  teardown(function() stub:close() end)
  before_each(function()
    stub:reset()
    client = http.Client{base_url = stub:url(), proxy = false, ca_file = stub.info.ca_file,
      safe_headers = {"X-Plain"}}
  end)
  after_each(function() client:close() end)

  local secrets = {Authorization = "Bearer hidden", Cookie = "session=hidden", ["X-Api-Key"] = "hidden",
    ["X-Plain"] = "kept"}

  it("are followed for every status, and the final address is told", function()
    for _, code in ipairs{301, 302, 303, 307, 308} do
      local res = client:get("/redirect", {query = {code = code, to = "/echo?from=" .. code}})
      assert.equal(200, res.status)
      assert.equal(stub:url("/echo?from=" .. code), res.url)
    end
    assert.equal(1, stub:stats().accepted.http)
  end)

  it("keep method and body, except 303", function()
    for _, code in ipairs{301, 302, 307, 308} do
      local seen = client:post("/redirect", {query = {code = code}, json = {a = 1}}):json()
      assert.same({"POST", '{"a":1}', "application/json"}, {seen.method, seen.body, seen.headers["content-type"]})
      assert.equal("PUT", client:put("/redirect", {query = {code = code}, body = "x"}):json().method)
    end
    local seen = client:post("/redirect", {query = {code = 303}, json = {a = 1}}):json()
    assert.same({"GET", ""}, {seen.method, seen.body})
    assert.is_nil(seen.headers["content-type"])
    assert.is_nil(seen.headers["content-length"])
    assert.equal("", client:head("/redirect").body)
  end)

  it("understand relative places", function()
    for to, path in pairs{["/echo"] = "/echo", ["echo"] = "/echo", ["?to=/echo"] = "/echo", ["./echo"] = "/echo",
      ["../../echo"] = "/echo", ["/status/../echo"] = "/echo"} do
      assert.equal(path, client:get("/redirect", {query = {to = to}}):json().path, to)
    end
    assert.equal("other", client:get("/redirect",
      {query = {to = "//127.0.0.2:" .. stub.info.other .. "/echo"}}):json().listener)
    assert.equal("/echo", client:get("/redirect", {query = {to = "/echo#part"}}):json().target)
  end)

  it("stop after five, or as many as allowed", function()
    assert.equal(200, client:get("/redirect?n=4").status)
    local err = error_of(client.get, client, "/redirect?n=5")
    assert.equal("protocol", err.kind)
    assert.matches("5 redirects", err.message, 1, true)
    assert.equal(302, err.status)
    assert.equal("protocol", error_of(client.get, client, "/redirect_loop").kind)
    assert.equal(200, client:get("/redirect?n=9", {redirects = 10}).status)
    assert.equal("protocol", error_of(client.get, client, "/redirect?n=1", {redirects = 1}).kind)
  end)

  it("are handed out when switched off, or without a place to go", function()
    local res = client:get("/redirect", {redirects = 0})
    assert.equal(302, res.status)
    assert.equal("/echo", res.headers.location)
    assert.equal(302, client:get("/redirect_nowhere").status)
  end)

  it("keep credentials on the same host", function()
    local seen = client:get("/redirect", {headers = secrets}):json().headers
    assert.same({"Bearer hidden", "session=hidden", "hidden", "kept"},
      {seen.authorization, seen.cookie, seen["x-api-key"], seen["x-plain"]})
  end)

  it("take no credentials to another host, port or scheme", function()
    for _, place in ipairs{stub:url("/echo", "other"), stub:url("/echo", "tls"),
      "http://localhost:" .. stub.info.http .. "/echo"} do
      local seen = client:get("/redirect", {headers = secrets, query = {to = place}}):json().headers
      assert.same({nil, nil, nil, "kept"}, {seen.authorization, seen.cookie, seen["x-api-key"], seen["x-plain"]}, place)
      assert.is_nil(seen.authorization)
    end
  end)

  it("do not give them back on the way home", function()
    local home = stub:url("/redirect", "other") .. "?to=" .. stub:url("/echo")
    local seen = client:get("/redirect", {headers = secrets, query = {to = home}}):json().headers
    assert.is_nil(seen.authorization)
    assert.is_nil(seen["x-api-key"])
    assert.equal("kept", seen["x-plain"])
  end)

  it("take neither the client's own credentials nor those of the address", function()
    local other <close> = http.Client{base_url = stub:url(), proxy = false, headers = secrets,
      safe_headers = {"x-plain"}}
    local query = {to = stub:url("/echo", "other")}
    local seen = other:get("/redirect", {query = query}):json().headers
    assert.is_nil(seen.authorization)
    assert.is_nil(seen["x-api-key"])
    local address = stub:url("/redirect"):gsub("//", "//me:hidden@", 1)
    assert.is_string(client:get((stub:url("/echo"):gsub("//", "//me:hidden@", 1))):json().headers.authorization)
    assert.is_string(client:get(address):json().headers.authorization)
    assert.is_nil(client:get(address, {query = query}):json().headers.authorization)
  end)

  it("do not leave http, nor give up encryption", function()
    for _, place in ipairs{"file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1:1/x"} do
      assert.equal("protocol", error_of(client.get, client, "/redirect", {query = {to = place}}).kind, place)
    end
    local err = error_of(client.get, client, stub:url("/redirect", "tls"), {query = {to = stub:url("/echo")}})
    assert.equal("protocol", err.kind)
    assert.matches("encryption", err.message, 1, true)
  end)

  it("cannot repeat a body that was streamed", function()
    local pieces = {"a", "b"}
    local err = error_of(client.post, client, "/redirect?code=307",
      {body = function() return table.remove(pieces, 1) end})
    assert.equal("protocol", err.kind)
  end)

  it("work for streams", function()
    local res = client:get("/redirect?to=/sse", {stream = true})
    local count = 0
    for _ in res:events() do count = count + 1 end
    assert.equal(4, count)
  end)

  it("show no secrets when they fail", function()
    local err = error_of(client.get, client, "/redirect", {query = {to = "ftp://me:hidden@127.0.0.1/?token=hidden"}})
    assert.not_matches("hidden", tostring(err), 1, true)
  end)
end)
