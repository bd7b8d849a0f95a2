-- Proxies, TLS and HTTP/2.

local servers = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../support/servers.lua")
local http = require "riverlua.http"
local task = require "riverlua.task"

local error_of = servers.error_of

describe("http.Client on the network", function()
  local stub

  setup(function() stub = servers.stub() end)
  teardown(function() stub:close() end)
  before_each(function() stub:reset() end)

  local function client_with(options)
    options.base_url = options.base_url or stub:url()
    options.retries = 0
    return http.Client(options)
  end

  -- A script in a process of its own, because these settings come from the environment.
  local function status_of_child(address, environment)
    environment.PATH = nil
    local result = servers.run([[
      local http = require "riverlua.http"
      local ok, res = pcall(function() return http.Client{retries = 0}:get(arg[1]) end)
      print(ok and res.status or res.kind)
    ]], {args = {address}, environment = environment})
    assert.equal(0, result.code, result.err)
    return (result.out:gsub("%s+$", ""))
  end

  describe("with a proxy", function()
    it("sends plain requests through it", function()
      local client <close> = client_with{proxy = stub:url("", "proxy")}
      local res = client:post("/echo", {json = {a = 1}})
      assert.equal('{"a":1}', res:json().body)
      assert.equal("1.1 stub", res:json().headers.via)
      assert.equal(stub:url("/echo"), stub:log("/echo") and res.url)
    end)

    it("tunnels TLS through it, and the proxy sees no request", function()
      local client <close> = client_with{proxy = stub:url("", "proxy"), ca_file = stub.info.ca_file}
      assert.equal(200, client:get(stub:url("/echo", "tls")).status)
      local seen = {}
      for _, line in ipairs(stub:log()) do seen[#seen + 1] = line.listener .. " " .. line.method end
      assert.same({"proxy CONNECT", "tls GET"}, seen)
    end)

    it("sends credentials to the proxy only", function()
      local proxy = stub:url("", "proxy_auth"):gsub("//", "//user:secret@", 1)
      local client <close> = client_with{proxy = proxy}
      local res = client:get("/echo")
      assert.equal(200, res.status)
      assert.is_nil(res:json().headers["proxy-authorization"])
      local stranger <close> = client_with{proxy = stub:url("", "proxy_auth")}
      assert.equal(407, stranger:get("/echo").status)
    end)

    it("does not send headers meant for the server to it", function()
      local client <close> = client_with{proxy = stub:url("", "proxy"), ca_file = stub.info.ca_file,
        headers = {Authorization = "Bearer hidden"}}
      assert.equal("Bearer hidden", client:get(stub:url("/echo", "tls")):json().headers.authorization)
      assert.is_nil(stub:log()[1].headers.authorization)
    end)

    it("raises, without its password, when it cannot be reached or refuses a tunnel", function()
      local client <close> = client_with{proxy = stub:url("", "refused"):gsub("//", "//user:hidden@", 1)}
      local err = error_of(client.get, client, "/echo")
      assert.equal("connect", err.kind)
      assert.not_matches("hidden", tostring(err), 1, true)
      local refused <close> = client_with{proxy = stub:url("", "proxy_auth"), ca_file = stub.info.ca_file}
      err = error_of(refused.get, refused, stub:url("/", "tls"))
      assert.is_true(err.kind == "connect" or err.kind == "protocol", tostring(err))
    end)

    it("finds it in the environment, and no_proxy too", function()
      local proxy = stub:url("", "proxy")
      assert.equal("200", status_of_child(stub:url("/"), {http_proxy = proxy}))
      assert.equal(1, stub:stats().accepted.proxy)
      assert.equal("200", status_of_child(stub:url("/"), {http_proxy = proxy, no_proxy = "127.0.0.1"}))
      assert.equal(1, stub:stats().accepted.proxy)
      assert.equal("connect", status_of_child(stub:url("/"), {http_proxy = stub:url("", "refused")}))
      local environment = {https_proxy = proxy, SSL_CERT_FILE = stub.info.ca_file}
      assert.equal("200", status_of_child(stub:url("/", "tls"), environment))
      assert.equal(2, stub:stats().accepted.proxy)
    end)
  end)

  describe("with TLS", function()
    it("trusts a named file only", function()
      local client <close> = client_with{proxy = false, ca_file = stub.info.ca_file}
      local res = client:get(stub:url("/echo", "tls"))
      assert.equal(200, res.status)
      assert.is_true(client:get(stub:url("/echo", "tls")).reused)
      assert.equal(1, stub:stats().accepted.tls)
      local stranger <close> = client_with{proxy = false}
      local err = error_of(stranger.get, stranger, stub:url("/", "tls"))
      assert.equal("tls", err.kind)
      assert.matches("ca_file", err.hint, 1, true)
      assert.is_falsy(err.retryable)
    end)

    it("checks the name", function()
      local client <close> = client_with{proxy = false, ca_file = stub.info.wrong_ca_file}
      assert.equal("tls", error_of(client.get, client, stub:url("/", "tls_wrong_name")).kind)
    end)

    it("looks away when told to", function()
      local client <close> = client_with{proxy = false, verify = false}
      assert.equal(200, client:get(stub:url("/", "tls_wrong_name")).status)
    end)

    it("finds the file in the environment", function()
      local address = stub:url("/", "tls")
      assert.equal("tls", status_of_child(address, {}))
      assert.equal("200", status_of_child(address, {RIVERLUA_CA = stub.info.ca_file}))
      assert.equal("200", status_of_child(address, {SSL_CERT_FILE = stub.info.ca_file}))
      assert.equal("200", status_of_child(address, {RIVERLUA_CA = stub.info.ca_file, SSL_CERT_FILE = "/nowhere.pem"}))
    end)

    it("says which file it cannot read", function()
      local client <close> = client_with{proxy = false, ca_file = "/nowhere/ca.pem"}
      local err = error_of(client.get, client, stub:url("/", "tls"))
      assert.equal("tls", err.kind)
    end)

    it("fails cleanly against a server that speaks plain HTTP, and the other way round", function()
      local client <close> = client_with{proxy = false}
      local err = error_of(client.get, client, "https://127.0.0.1:" .. stub.info.garbage .. "/")
      assert.equal("tls", err.kind)
      err = error_of(client.get, client, "http://127.0.0.1:" .. stub.info.tls .. "/")
      assert.is_true(err.kind == "connect" or err.kind == "protocol", tostring(err))
    end)
  end)

  it("names a host that does not exist", function()
    local client <close> = client_with{proxy = false, timeout = 20}
    local err = error_of(client.get, client, "http://no-such-host.invalid/")
    assert.is_true(err.kind == "dns" or err.phase == "connect", tostring(err))
  end)

  it("resolves localhost", function()
    local client <close> = client_with{proxy = false}
    assert.equal(200, client:get("http://localhost:" .. stub.info.http .. "/").status)
  end)

  describe("with HTTP/2", function()
    local plain, safe

    setup(function() plain, safe = servers.http2(), servers.http2("--tls") end)
    teardown(function()
      if plain then plain:close() end
      if safe then safe:close() end
    end)

    local function h2_client()
      if not plain then pending("nghttpd is not installed") end
      return client_with{base_url = plain:url(), proxy = false, http2 = "prior"}
    end

    it("speaks it without asking first", function()
      local client <close> = h2_client()
      local res = client:get("/index.html")
      assert.same({200, "2", "hello over two\n"}, {res.status, res.http_version, res.body})
      assert.equal("echo this", client:post("/", {body = "echo this"}).body)
      assert.equal(404, client:get("/none").status)
    end)

    it("agrees on it over TLS, or not when told so", function()
      h2_client():close()
      local client <close> = client_with{base_url = safe:url(), proxy = false, ca_file = safe.info.ca_file}
      assert.equal("2", client:get("/index.html").http_version)
      local old <close> = client_with{base_url = stub:url("", "tls"), proxy = false, ca_file = stub.info.ca_file}
      assert.equal("1.1", old:get("/").http_version)
      local off <close> = client_with{base_url = safe:url(), proxy = false, ca_file = safe.info.ca_file, http2 = false}
      local ok, res = pcall(off.get, off, "/index.html")
      if ok then assert.equal("1.1", res.http_version) end   -- nghttpd itself may refuse 1.1
    end)

    -- libcurl below 8 cannot reuse a connection opened with prior knowledge
    local function reuses(client) return tonumber(client:stats().libcurl:match("^%d+")) >= 8 end

    it("carries many requests on one connection", function()
      local client <close> = h2_client()
      local items = {}
      for i = 1, 60 do items[i] = tostring(i):rep(100) end
      client:get("/index.html")
      local echoed = task.map(items, function(text) return client:post("/", {body = text}).body end, {concurrency = 20})
      for i = 1, 60 do assert.equal(items[i], echoed[i]) end
      if reuses(client) then assert.equal(1, client:stats().connections) end
    end)

    it("carries large bodies both ways, also in pieces", function()
      local client <close> = h2_client()
      assert.equal(1 << 20, #client:get("/big.bin").body)
      local body = ("0123456789"):rep(100000)
      assert.equal(body, client:post("/", {body = body}).body)
      local left = 100
      local res = client:post("/", {stream = true, body = function()
        left = left - 1
        if left >= 0 then return ("x"):rep(10000) end
      end})
      assert.equal(1000000, #res:text())
    end)

    it("ends one stream early without harm to the others", function()
      local client <close> = h2_client()
      for _ = 1, 20 do
        local res = client:get("/big.bin", {stream = true})
        res:read()
        res:close()
      end
      assert.equal("hello over two\n", client:get("/index.html").body)
      if reuses(client) then assert.equal(1, client:stats().connections) end
    end)

    it("bounds bodies", function()
      local client <close> = h2_client()
      assert.equal("limit", error_of(client.get, client, "/big.bin", {max_body = 1000}).kind)
      assert.equal("hello over two\n", client:get("/index.html").body)
    end)

    it("fails cleanly against a server that has never heard of it", function()
      local client <close> = client_with{proxy = false, http2 = "prior", timeout = 5}
      local err = error_of(client.get, client, "/")
      assert.is_true(err.kind == "protocol" or err.kind == "connect" or err.kind == "timeout", tostring(err))
    end)
  end)
end)
