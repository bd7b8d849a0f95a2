--- Authentication: the handshake, what renews it, where user and token may go, and what is said when it fails.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
local support = dofile(folder .. "support.lua")
local servers = dofile(folder .. "../support/servers.lua")
local auth = require "river.auth"
local errors = require "riverlua.errors"
local http = require "riverlua.http"
local json = require "riverlua.json"
local river = require "river"
local task = require "riverlua.task"

local USER, TOKEN = "dinosaur", "0123456789abcdef0123456789abcdef01234567"

local function failure_of(kind, code, call, ...)
  local err = support.error_of(call, ...)
  assert.equal(kind, err.kind, tostring(err))
  assert.equal(code, err.code, tostring(err))
  return err
end

describe("a challenge", function()
  local function parsed(text) return json.encode(auth.parse_challenge(text) or json.null, {sort = true}) end

  it("is read in every form", function()
    local plain = '{"realm":"http://h:1/api/auth/token","service":"http://h:1"}'
    assert.equal(plain, parsed 'realm="http://h:1/api/auth/token",service="http://h:1"')
    assert.equal(plain, parsed 'Bearer realm="http://h:1/api/auth/token",service="http://h:1"')
    assert.equal(plain, parsed ' , REALM = "http://h:1/api/auth/token" ,\t Service=http://h:1 , error="x"')
    assert.equal(plain, parsed 'Basic realm="inside", Bearer realm="http://h:1/api/auth/token",service="http://h:1"')
    assert.equal('{"realm":"http://a\\"b","scope":"build"}', parsed 'realm="http://a\\"b",scope="build"')
    assert.equal('{"realm":"/api/auth/token"}', parsed 'realm="/api/auth/token"')
  end)

  it("that makes no sense is none", function()
    for _, text in ipairs{"", "Basic", 'realm="', 'realm="http://h', "realm=", 'realm="users"', "=,=,", '"', "\\",
      'realm="//evil"', 'service="x"', ("a"):rep(5000), ('realm="http://h"'):rep(1000)} do
      assert.equal("null", parsed(text), text)
    end
    assert.is_nil(auth.parse_challenge(nil))
  end)

  it("of random bytes never fails", function()
    local alphabet = {"realm", "=", '"', "\\", ",", " ", "http://h", "service", "\0", "\255", "x"}
    local state = 1
    for _ = 1, 3000 do
      local pieces = {}
      for i = 1, 12 do
        state = (state * 48271) % 2147483647
        pieces[i] = alphabet[state % #alphabet + 1]
      end
      local found = auth.parse_challenge(table.concat(pieces))
      assert.truthy(found == nil or found.realm:find("^http://") or found.realm:find("^/"))
    end
  end)
end)

-- A transport that wants the token "t1", "t2" … of the latest handshake, with a clock that stands still.
local function guarded(options)
  options = options or {}
  local seen = {handshakes = 0, clock = 100, requests = {}}
  local inner = support.fake_transport(function(req)
    local header = req.headers and req.headers.Authorization
    seen.requests[#seen.requests + 1] = req.path .. " " .. tostring(header)
    if req.path == "/api/auth/token/" then
      if options.on_handshake then options.on_handshake(seen) end
      if seen.realm_status then
        seen.failed = (seen.failed or 0) + 1
        return {status = seen.realm_status}
      end
      seen.handshakes = seen.handshakes + 1
      return {body = json.encode{token = "t" .. seen.handshakes, expires_in = options.life,
        issued_at = "1999-01-01T00:00:00Z"}}
    end
    if header ~= "Bearer t" .. seen.handshakes or seen.expired then
      seen.expired = nil
      return {status = 401, headers = {["www-authenticate"] = 'realm="http://h:1/api/auth/token",service="s"'}}
    end
    return {body = "{}"}
  end)
  local layer = auth.wrap(inner, {base = "http://h:1", user = "u", token = "secret", custom = true,
    now = function() return seen.clock end})
  local headers = {Accept = "application/json"}
  function seen.get(path, body)
    return layer:request{method = "POST", path = path or "/api/models/", headers = headers, body = body}
  end
  return seen, inner, layer
end

describe("the token", function()
  it("is fetched once and kept, in header tables that stay the same", function()
    local seen, inner = guarded{life = 600}
    for _ = 1, 5 do assert.equal(200, seen.get().status) end
    assert.equal(1, seen.handshakes)
    assert.equal("/api/auth/token/ Basic dTpzZWNyZXQ=", seen.requests[2])
    assert.equal("s", inner.requests[2].headers.service)
    local first = nil
    for i = 1, 4 do
      local req = {method = "GET", path = "/api/models/", headers = {Accept = "x", Authorization = "mine"}}
      if i > 2 then req.headers = first end
      seen.get()
      first = first or req.headers
    end
    assert.equal(1, seen.handshakes)
  end)

  it("is sent in the same table for the same headers", function()
    local tables = {}
    local inner = support.fake_transport(function(req)
      if req.path:find("token") then return {body = '{"token":"t"}'} end
      tables[#tables + 1] = req.headers
      if req.headers.Authorization then return {} end
      return {status = 401, headers = {["www-authenticate"] = 'realm="http://h:1/token/"'}}
    end)
    local layer = auth.wrap(inner, {base = "http://h:1", user = "u", token = "secret", custom = true})
    local source, other = {Accept = "a"}, {Accept = "b", authorization = "mine"}
    for _, headers in ipairs{source, source, other, source, other} do
      layer:request{method = "GET", path = "/", headers = headers}
    end
    assert.equal(6, #tables)
    assert.equal(source, tables[1])
    assert.equal(tables[2], tables[3])
    assert.equal(tables[2], tables[5])
    assert.equal(tables[4], tables[6])
    assert.same({Accept = "b", Authorization = "Bearer t"}, tables[4])
    assert.same({Accept = "a"}, source)
  end)

  it("T11: is renewed at 90 % of expires_in on the own clock, whatever issued_at says", function()
    local seen = guarded{life = 600}
    seen.get()
    seen.clock = 100 + 539
    seen.get()
    assert.equal(1, seen.handshakes)
    seen.clock = 100 + 540
    seen.get()
    assert.equal(2, seen.handshakes)
    assert.equal("/api/models/ Bearer t2", seen.requests[#seen.requests])
    -- without a single refusal after the first
    local refused = 0
    for _, line in ipairs(seen.requests) do if line == "/api/models/ nil" then refused = refused + 1 end end
    assert.equal(1, refused)
  end)

  it("is renewed earlier before a big body", function()
    local seen = guarded{life = 100}
    seen.get()
    seen.clock = 100 + 49
    seen.get("/api/model/custom/", ("x"):rep(100000))
    assert.equal(1, seen.handshakes)
    seen.clock = 100 + 50
    seen.get("/api/model/custom/", "small")
    assert.equal(1, seen.handshakes)
    seen.get("/api/model/custom/", ("x"):rep(100000))
    assert.equal(2, seen.handshakes)
  end)

  it("serves until it expires when it cannot be renewed", function()
    local seen = guarded{life = 100}
    seen.get()
    seen.clock, seen.realm_status = 195, 503
    assert.equal(200, seen.get().status)
    assert.equal(1, seen.failed)
    -- not asked again at once
    assert.equal(200, seen.get().status)
    assert.equal(1, seen.failed)
    seen.clock = 201
    assert.equal("realm_failed", support.error_of(seen.get).code)
    seen.realm_status = nil
    assert.equal(200, seen.get().status)
    assert.equal("/api/models/ Bearer t2", seen.requests[#seen.requests])
  end)

  it("without expires_in is used until it is refused", function()
    local seen = guarded{}
    seen.get()
    seen.clock = 1e12
    seen.get()
    assert.equal(1, seen.handshakes)
    seen.expired = true
    assert.equal(200, seen.get().status)
    assert.equal(2, seen.handshakes)
  end)

  it("T10: a 401 is answered with one handshake and one repeat, even of what is not idempotent", function()
    local seen = guarded{life = 600}
    seen.get()
    seen.expired = true
    assert.equal(200, seen.get("/api/learn/").status)
    assert.same({"/api/learn/ Bearer t1", "/api/auth/token/ Basic dTpzZWNyZXQ=", "/api/learn/ Bearer t2"},
      table.move(seen.requests, 4, #seen.requests, 1, {}))
  end)

  it("is fetched by one of many tasks", function()
    local seen = guarded{life = 600, on_handshake = function() task.sleep(0) end}
    local results = task.map({1, 2, 3, 4, 5, 6, 7, 8, 9}, function() return seen.get().status end, {concurrency = 9})
    assert.equal(1, seen.handshakes)
    for _, status in ipairs(results) do assert.equal(200, status) end
  end)

  it("fails for all tasks that waited when it fails", function()
    local seen = guarded{on_handshake = function(seen)
      seen.realm_status = 403
      task.sleep(0)
    end}
    local codes = task.map({1, 2, 3, 4}, function() return support.error_of(seen.get).code end)
    assert.same({"credentials_refused", "credentials_refused", "credentials_refused", "credentials_refused", n = 4},
      codes)
    assert.equal(1, seen.failed)
  end)

  it("is fetched by another task when the first is cancelled", function()
    local leader
    local seen = guarded{on_handshake = function()
      if leader then
        local first = leader
        leader = nil
        first:cancel()
        task.sleep(0)
      end
    end}
    local first = task.spawn(seen.get)
    leader = first
    local other = task.spawn(seen.get)
    assert.equal(200, other:await().status)
    assert.equal("cancelled", support.error_of(first.await, first).kind)
    assert.equal(1, seen.handshakes)
  end)
end)

describe("against a stand-in", function()
  local stub, order_client
  local count = 0

  setup(function()
    stub = servers.start{servers.python(), servers.folder .. "stub_river.py"}
    order_client = http.Client{proxy = false}
  end)
  teardown(function()
    order_client:close()
    stub:close()
  end)
  before_each(function() stub:reset() end)

  local function order(path, what, listener)
    what.path = path
    assert(order_client:post(stub:url("/_order", listener), {json = what}).status == 204)
  end

  -- A fresh prefix whose models want one of the tokens, with this challenge and these answers of the realm.
  local function scene(challenge, answers, tokens)
    count = count + 1
    local prefix = "case" .. count
    local refusal = {status = 401, headers = {["Www-Authenticate"] = challenge:gsub("{prefix}", prefix)}}
    order("/" .. prefix .. "/models/", {bearer = tokens or {"good"}, refusal = refusal,
      answers = {{body = {models = {"m"}}}}})
    order("/" .. prefix .. "/auth/token/", {answers = answers or {{body = {token = "good", expires_in = 600}}}})
    return prefix
  end

  local CHALLENGE = 'realm="{http}/{prefix}/auth/token",service="{http}"'

  local function client(prefix, options)
    local all = {baseurl = stub:url(), prefix = prefix, user = USER, token = TOKEN, http = {proxy = false, retries = 0}}
    for name, value in pairs(options or {}) do all[name] = value end
    return river.Client(all)
  end

  -- Nobody saw user and token but on the path of the realm.
  local function secrets_seen(listener)
    local seen = 0
    for _, line in ipairs(stub:log()) do
      local basic = (line.headers.authorization or ""):find("^Basic")
      if basic and (not listener or line.listener == listener) then seen = seen + 1 end
    end
    return seen
  end

  local function shows_no_secret(err)
    local text = tostring(err) .. json.encode({message = err.message, hint = err.hint, url = err.url, body = err.body,
      cause = err.cause and tostring(err.cause)})
    for _, secret in ipairs{TOKEN, USER, "ZGlub3NhdXI6", "Bearer"} do
      assert.falsy(text:find(secret, 1, true), text)
    end
  end

  it("one handshake serves many tasks, which wait for it", function()
    local prefix = scene(CHALLENGE, {{body = {token = "good", expires_in = 600}, hold = "many"}})
    local cli <close> = client(prefix)
    local tasks = {}
    for i = 1, 6 do tasks[i] = task.spawn(cli.models, cli) end
    assert.is_true(stub:wait{key = "many", waiting = 1, requests = 7})
    local late = task.spawn(cli.models, cli)
    stub:release("many")
    for _, one in ipairs(tasks) do assert.same({"m"}, one:await().models) end
    late:await()
    assert.equal(1, #stub:log("/" .. prefix .. "/auth/token/"))
    -- the late one was never refused
    assert.equal(13, #stub:log("/" .. prefix .. "/models/"))
  end)

  it("403 with a challenge starts the handshake too, 403 without does not", function()
    count = count + 1
    local prefix = "case" .. count
    order("/" .. prefix .. "/models/", {bearer = {"good"}, answers = {{body = {models = {}}}}, refusal = {status = 403,
      headers = {["Www-Authenticate"] = ('Bearer realm="{http}/%s/auth/token"'):format(prefix)}}})
    order("/" .. prefix .. "/auth/token/", {answers = {{body = {token = "good"}}}})
    local cli <close> = client(prefix)
    cli:models()
    assert.equal(1, secrets_seen())
  end)

  it("redirects on the realm's own host are followed, others are not", function()
    local prefix = scene(CHALLENGE, {{status = 301, headers = {Location = "/moved/token/"}}})
    order("/moved/token/", {answers = {{body = {token = "good"}}}})
    local cli <close> = client(prefix)
    cli:models()
    assert.equal(2, secrets_seen())
    stub:reset()
    for _, target in ipairs{"{other}/x/", "//127.0.0.2:1/", "{tls}/x/", "http://u:p@{http}/"} do
      local other <close> = client(scene(CHALLENGE, {{status = 302, headers = {Location = target}}}))
      local err = failure_of("auth", "realm_redirect", other.models, other)
      shows_no_secret(err)
    end
    assert.equal(0, secrets_seen("other"))
    local loop <close> = client(scene(CHALLENGE, {{status = 302, headers = {Location = "/loop/"}}}))
    order("/loop/", {answers = {{status = 302, headers = {Location = "/loop/"}}}})
    failure_of("auth", "realm_redirect", loop.models, loop)
  end)

  it("a realm elsewhere gets nothing unless it is listed", function()
    local challenge = 'realm="{other}/{prefix}/auth/token",service="x"'
    for _, hostile in ipairs{challenge, 'realm="{refused}/t"', 'realm="{tls}/t"', 'realm="http://u:p@127.0.0.1/t"',
      'realm="http:///"', 'realm="http://127.0.0.1:99999999999999999999/"',
      'realm="{http}@127.0.0.2/"', 'realm="{http}\\\\@127.0.0.2/"'} do
      local cli <close> = client(scene(hostile))
      local err = failure_of("auth", "realm_refused", cli.models, cli)
      shows_no_secret(err)
    end
    assert.equal(0, secrets_seen())
    local prefix = scene(challenge)
    order("/" .. prefix .. "/auth/token/", {answers = {{body = {token = "good"}}}}, "other")
    local cli <close> = client(prefix)
    local err = failure_of("auth", "realm_refused", cli.models, cli)
    assert.truthy(err.hint:find(stub:url("", "other"), 1, true), err.hint)
    local trusting <close> = client(prefix, {auth_hosts = {stub:url("/any", "other")},
      http = {headers = {["X-Key"] = "mine"}, proxy = false}})
    assert.same({"m"}, trusting:models().models)
    assert.equal(1, secrets_seen("other"))
    local asked = stub:log("/" .. prefix .. "/auth/token/")[1]
    assert.truthy(asked.headers.authorization)
    assert.is_nil(asked.headers["x-key"])
  end)

  it("nothing goes from https to http", function()
    local prefix = scene(CHALLENGE)
    local cli <close> = client(prefix, {baseurl = stub:url("", "tls"), http = {ca_file = stub.info.ca_file}})
    failure_of("auth", "realm_refused", cli.models, cli)
    assert.equal(0, secrets_seen())
    local own <close> = client(scene('realm="{tls}/{prefix}/auth/token"'), {baseurl = stub:url("", "tls"),
      http = {ca_file = stub.info.ca_file}})
    assert.same({"m"}, own:models().models)
  end)

  it("a huge or senseless challenge is refused as such", function()
    for _, challenge in ipairs{"Basic", 'realm="ftp://127.0.0.1/"', 'Basic realm="Users only"',
      "realm=" .. ("x"):rep(9000)} do
      local cli <close> = client(scene(challenge))
      shows_no_secret(failure_of("auth", "challenge_unreadable", cli.models, cli))
    end
    count = count + 1
    order("/case" .. count .. "/models/", {answers = {{status = 401}}})
    local cli <close> = client("case" .. count)
    failure_of("auth", "challenge_unreadable", cli.models, cli)
    assert.equal(0, secrets_seen())
  end)

  it("wrong credentials, a dead realm and senseless tokens are told apart", function()
    for _, status in ipairs{401, 403} do
      local cli <close> = client(scene(CHALLENGE, {{status = status}}))
      local err = failure_of("auth", "credentials_refused", cli.models, cli)
      assert.equal(status, err.status)
      assert.truthy(err.hint:find("RIVER_ML_TOKEN", 1, true))
      shows_no_secret(err)
    end
    for _, answer in ipairs{{status = 500}, {body = "<html>"}, {body = {}}, {body = {token = ""}}, {body = {token = 5}},
      {body = {token = "a\nb"}}, {body = {token = ("x"):rep(20000)}}, {body = "\"" .. TOKEN .. "\""}, {status = 404}} do
      local cli <close> = client(scene(CHALLENGE, {answer}))
      shows_no_secret(failure_of("auth", "realm_failed", cli.models, cli))
    end
    local big <close> = client(scene(CHALLENGE, {{body = {token = ("x"):rep(100000)}}}))
    failure_of("limit", "realm_unreachable", big.models, big)
    count = count + 1
    local refusal = {status = 401, headers = {["Www-Authenticate"] = 'realm="{refused}/t"'}}
    order("/case" .. count .. "/models/", {answers = {refusal}})
    local cli <close> = client("case" .. count,
      {auth_hosts = ("http://127.0.0.1:%d"):format(stub.info.refused), http = {retries = 0, proxy = false}})
    local err = failure_of("connect", "realm_unreachable", cli.models, cli)
    assert.is_true(err.retryable)
    shows_no_secret(err)
  end)

  it("several workers without a common secret: bounded, and said", function()
    -- every worker refuses the other one's tokens
    local prefix = scene(CHALLENGE, {{body = {token = "of worker two", expires_in = 600}},
      {body = {token = "of-worker-two", expires_in = 600}}}, {"of-worker-one"})
    local cli <close> = client(prefix)
    failure_of("auth", "realm_failed", cli.models, cli)
    local err = failure_of("auth", "token_refused", cli.models, cli)
    assert.equal(401, err.status)
    assert.truthy(err.hint:find("workers", 1, true))
    assert.truthy(err.hint:find("JWT_SERVER_SECRET", 1, true))
    shows_no_secret(err)
    assert.equal(3, #stub:log("/" .. prefix .. "/models/"))
    assert.equal(2, #stub:log("/" .. prefix .. "/auth/token/"))
  end)

  it("a rate limit is no question of credentials", function()
    count = count + 1
    local prefix = "case" .. count
    local limited = {status = 403, body = {detail = "You do not have permission to perform this action."}}
    order("/" .. prefix .. "/models/", {answers = {{body = {models = {}}}, limited}})
    order("/" .. prefix .. "/", {answers = {limited}})
    local cli <close> = client(prefix)
    cli:models()
    local err = failure_of("http", "rate_limit", cli.models, cli)
    assert.is_true(err.retryable)
    assert.truthy(err.hint:find("rate", 1, true))
    failure_of("auth", "forbidden", cli.info, cli)
    assert.equal(0, secrets_seen())
  end)

  it("pipelined requests carry the token", function()
    local prefix = scene(CHALLENGE)
    local inner = require("riverlua.transport").open("river", stub:url(), {decompress = false, proxy = false})
    local layer <close> = auth.wrap(inner, {base = stub:url(), user = USER, token = TOKEN})
    local req = {method = "GET", path = "/" .. prefix .. "/models/", headers = {Accept = "*/*"}}
    local pipeline = layer:pipeline()
    local refused = pipeline:send(req)()
    assert.equal(401, refused.status)
    assert.equal(200, layer:request(req).status)
    for _ = 1, 2 do
      local waits = {}
      for i = 1, 3 do
        waits[i] = pipeline:send(req)
        if not pipeline:ready() then waits[i]() end
      end
      for _, wait in ipairs(waits) do
        assert.equal(200, wait().status)
        assert.equal(200, wait().status)
      end
    end
    pipeline:close()
    assert.equal(1, layer:stats().handshakes)
    assert.equal(7, layer:successes(req.path))
  end)

  it("many learns are learned in order when the token expires among them", function()
    local prefix = scene(CHALLENGE, {{body = {token = "one"}}, {body = {token = "two"}}})
    local refusal = {status = 401, headers = {["Www-Authenticate"] = ('realm="{http}/%s/auth/token"'):format(prefix)}}
    local path = "/" .. prefix .. "/learn/"
    local learned = {status = 201, body = '"Successful learn."'}
    order(path, {bearer = {"one"}, refusal = refusal, answers = {learned}})
    local cli <close> = client(prefix, {http = {proxy = false}})
    local function samples(from, to)
      local step = from - 1
      return function()
        step = step + 1
        -- from here on the server knows the other token only
        if step == 31 then order(path, {bearer = {"two"}, refusal = refusal, answers = {learned}}) end
        if step <= to then return {n = step}, step end
      end
    end
    local report = cli:learn_many("m", samples(1, 60))
    assert.equal(60, report.done)
    assert.equal(2, #stub:log("/" .. prefix .. "/auth/token/"))
    local learned_steps = {}
    for _, line in ipairs(stub:log(path)) do
      if not line.refused then learned_steps[#learned_steps + 1] = json.decode(line.body).ground_truth end
    end
    assert.equal(60, #learned_steps)
    for step, learned_step in ipairs(learned_steps) do assert.equal(step, learned_step) end
  end)

  it("an error's body does not repeat the token", function()
    local prefix = scene(CHALLENGE)
    order("/" .. prefix .. "/models/", {bearer = {"good"}, answers = {{status = 500, kind = "text/plain",
      body = "KeyError at /x\nno\nHTTP_AUTHORIZATION = Bearer good and " .. TOKEN}},
      refusal = {status = 401, headers = {["Www-Authenticate"] = ('realm="{http}/%s/auth/token"'):format(prefix)}}})
    local cli <close> = client(prefix)
    local err = support.error_of(cli.models, cli)
    assert.truthy(err.body:find("Bearer ***", 1, true), err.body)
    assert.falsy(err.body:find(TOKEN, 1, true))
    assert.falsy(tostring(cli):find(TOKEN, 1, true))
    assert.falsy(require("riverlua.pretty").format(cli._transport):find("good", 1, true))
  end)

  it("options are checked", function()
    for _, options in ipairs{{user = 5}, {user = "a:b"}, {token = "a\nb"}, {auth_hosts = "nowhere"},
      {auth_hosts = {"ftp://x"}}, {auth_hosts = 5}} do
      local err = support.error_of(river.Client, stub:url(), options)
      assert.equal("argument", err.kind)
      assert.truthy(tostring(err):find("river.Client", 1, true))
      assert.falsy(tostring(err):find("a:b", 1, true))
    end
  end)
end)

describe("a real server with authentication", function()
  local server

  setup(function()
    server = support.start_server{DISABLE_AUTHENTICATION = "false", RIVER_SERVER_TOKEN_SECONDS = "1"}
  end)
  teardown(function() server.stop() end)

  local function model() return river.preprocessing.StandardScaler() | river.linear_model.LinearRegression() end

  it("takes user and token from the options", function()
    local cli <close> = river.Client(server.url, {user = server.user, token = server.token})
    assert.equal("running", cli:info().status)
    assert.equal("mine", cli:upload_model(model(), "regression", "mine"))
    for step = 1, 20 do
      cli:predict("mine", {a = step})
      assert.equal("Successful learn.", cli:learn("mine", {a = step}, step))
    end
    assert.truthy(cli:metrics("mine").MAE)
    assert.equal(20, cli:stats("mine").learn.n_calls)
    assert.equal(204, cli:delete_model("mine"))
  end)

  it("takes user and token from the environment", function()
    local script = ([[
      local river = require "river"
      local cli <close> = river.Client(%q)
      print(#cli:models().models)
      local none <close> = river.Client(%q, {token = false})
      local ok, err = pcall(none.models, none)
      print(ok, err.kind, err.code, err.message)
    ]]):format(server.url, server.url)
    local result = servers.run(script, {environment = {RIVER_ML_USER = server.user, RIVER_ML_TOKEN = server.token}})
    assert.equal("0\nfalse\tauth\tcredentials_missing\tmodels: the server wants a user and token, and the token is not"
      .. " set (status 401)\n", result.out, result.err)
  end)

  it("many tasks share one handshake", function()
    local cli <close> = river.Client(server.url, {user = server.user, token = server.token})
    task.map({1, 2, 3, 4, 5, 6}, function() cli:models() end, {concurrency = 6})
    assert.equal(1, cli._transport:stats().handshakes)
  end)

  it("a token that lives a second is renewed without a refusal", function()
    local cli <close> = river.Client(server.url, {user = server.user, token = server.token})
    repeat cli:models() until cli._transport:stats().handshakes >= 3
    assert.equal(1, cli._transport:stats().refused)
  end)

  it("a token that expires unnoticed costs one refusal", function()
    -- with a clock that stands still nothing is renewed ahead of time
    local inner = require("riverlua.transport").open("river", server.url)
    local layer <close> = auth.wrap(inner, {base = server.url, user = server.user, token = server.token,
      now = function() return 0 end})
    repeat
      assert.equal(200, layer:request{method = "GET", path = "/api/models/", headers = {Accept = "*/*"}}.status)
    until layer:stats().handshakes == 2
    assert.equal(2, layer:stats().refused)
  end)

  it("wrong and missing credentials are told apart", function()
    local wrong <close> = river.Client(server.url, {user = server.user, token = ("f"):rep(40)})
    local err = failure_of("auth", "credentials_refused", wrong.models, wrong)
    assert.equal(403, err.status)
    assert.falsy(tostring(err):find(("f"):rep(40), 1, true))
    local none <close> = river.Client(server.url, {user = false, token = false})
    err = failure_of("auth", "credentials_missing", none.models, none)
    assert.truthy(err.hint:find("RIVER_ML_USER", 1, true))
    assert.equal("running", wrong:info().status)
    local url = server.url:gsub("://", "://" .. server.user .. ":x@")
    local basic <close> = river.Client(url, {user = false, token = false})
    err = support.error_of(basic.models, basic)
    assert.equal("auth", err.kind, tostring(err))
    assert.falsy(tostring(err):find(server.user, 1, true))
  end)

  it("T10: its rate limit is not taken for wrong credentials", function()
    local limited = support.start_server{VIEW_RATE_LIMIT_DISABLE = "false", VIEW_RATE_LIMIT = "2/h"}
    local cli <close> = river.Client(limited.url)
    local ok, problem = pcall(function()
      cli:models()
      cli:models()
      local err = failure_of("http", "rate_limit", cli.models, cli)
      assert.equal(403, err.status)
      assert.is_true(err.retryable)
    end)
    limited.stop()
    assert(ok, problem)
  end)
end)

it("a Retry-After that is a date is told in seconds", function()
  local cli = river.Client{transport = support.fake_transport{status = 503,
    headers = {["retry-after"] = os.date("!%a, %d %b %Y %H:%M:%S GMT", os.time() + 3600)}}}
  local err = support.error_of(cli.info, cli)
  assert.truthy(err.retry_after > 3500 and err.retry_after <= 3600, err.retry_after)
end)

it("an error is a riverlua error wherever it comes from", function()
  local layer = auth.wrap(support.fake_transport(function() error("a bug", 0) end), {base = "http://h:1"})
  assert.equal("a bug", support.error_of(layer.request, layer, {method = "GET", path = "/"}))
  assert.falsy(errors.is("a bug"))
end)
