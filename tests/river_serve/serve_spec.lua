-- `riverlua serve river`: the command, and the service as official and other clients see it.

local here = debug.getinfo(1, "S").source:match("^@(.*/)")
local servers = dofile(here .. "../support/servers.lua")
local river_support = dofile(here .. "../river/support.lua")
local json = require "riverlua.json"
local river = require "river"

local USER, TOKEN = "dinosaur", "0123456789abcdef0123456789abcdef01234567"

local function serve(options, environment)
  local words = {servers.riverlua, "serve", "river", "--json", "--stdin", "--port", "0"}
  for _, word in ipairs(options or {}) do words[#words + 1] = word end
  local server = servers.start(words, environment)
  server.base = "http://127.0.0.1:" .. server.info.port
  return server
end

-- Runs a check of checks.py; returns what it printed.
local function check(name, server, ...)
  local words = {"timeout 100", servers.python(), here .. "checks.py", name, server.info.port}
  for _, word in ipairs{...} do words[#words + 1] = servers.quote(word) end
  local out, errors = os.tmpname(), os.tmpname()
  local ok = os.execute(table.concat(words, " ") .. " >" .. out .. " 2>" .. errors)
  local text, printed = servers.read_file(errors), servers.read_file(out)
  os.remove(out)
  os.remove(errors)
  assert(ok, text)
  assert.equal("", server:errors())
  return printed
end

-- Runs a command line that ends by itself: what it prints, and its code.
local function run(words)
  local pipe = assert(io.popen(("%s %s 2>&1 </dev/null"):format(servers.riverlua, words)))
  local text = pipe:read("a")
  local _, _, code = pipe:close()
  return text, code
end

describe("riverlua serve", function()
  it("says what there is", function()
    for words, code in pairs{["serve"] = 1, ["serve --help"] = 0, ["serve lake"] = 1} do
      local text, ended = run(words)
      assert.equal(code, ended, words)
      assert.truthy(text:find("usage: riverlua serve <service>", 1, true), text)
      assert.truthy(text:find("\n  river  ", 1, true), text)
      assert.equal(words == "serve lake", text:find("no service 'lake'", 1, true) ~= nil)
    end
    local text, code = run("serve river --help")
    assert.equal(0, code)
    for _, option in ipairs{"host", "port", "folder", "prefix", "user", "token", "json", "stdin"} do
      assert.truthy(text:find("\n  --" .. option, 1, true), option)
    end
  end)

  it("refuses wrong words in one line", function()
    for words, wanted in pairs{
      ["--prot 1"] = "did you mean --port?", ["--port x"] = "--port must be a whole number",
      ["--port"] = "needs a value", ["--port 70000"] = "--port is at most 65535", ["x"] = "unknown option 'x'",
      ["--user me"] = "serve: a token is missing",
      ["--token secret"] = "a user is missing", ["--host 192.0.2.1 --port 0"] = "cannot listen on 192.0.2.1",
      ["--port 0 --user a:b --token secret"] = "the user has no ':'",
    } do
      local text, code = run("serve river " .. words)
      assert.equal(1, code, text)
      assert.truthy(text:find(wanted, 1, true), text)
      assert.truthy(text:find("^riverlua serve: [^\n]*\n$"), text)
      assert.is_nil(text:find("secret", 1, true))
    end
  end)

  it("prints where it listens and ends well on Ctrl-C and SIGTERM", function()
    for _, signal in ipairs{"INT", "TERM"} do
      local pipe = assert(io.popen(("echo $$; exec %s serve river --port 0 --prefix ml"):format(servers.riverlua)))
      local pid = pipe:read("l")
      local line = pipe:read("l")
      assert.truthy(line:find("^listening on http://127%.0%.0%.1:%d+/ml %(Ctrl%-C stops%)$"), line)
      assert(io.popen(("kill -%s %s"):format(signal, pid))):close()
      assert.equal("", pipe:read("a"))
      assert.same({true, "exit", 0}, {pipe:close()})
    end
  end)
end)

describe("the service", function()
  local server, real

  setup(function()
    server = serve()
    real = river_support.start_server()
  end)

  teardown(function()
    if server then server:close() end
    if real then real.stop() end
  end)

  it("answers as the real server does", function() check("same_answers", server, real.port) end)
  it("has nothing outside of its prefix", function() check("outside_the_prefix", server) end)
  it("loses no learn of 8 clients", function() check("no_learn_is_lost", server) end)
  it("refuses names that no answer could tell", function() check("strange_names", server) end)
  it("tells nobody where its tables are", function() check("tables_as_names", server) end)
  it("tells events in the server's words", function() check("events", server) end)
  it("tells events to the official client", function() check("official_events", server) end)

  it("gives the official client's tour what the real server gives", function()
    local tours = {}
    for i, base in ipairs{server.base, real.url} do
      local path = river_support.temporary_name()
      tours[i] = river_support.run_python("../river/official.py", base, "the tour", path)
      os.remove(path)
    end
    assert.equal(#tours[2], #tours[1])
    assert.truthy(#tours[1] > 60)
    for i, line in ipairs(tours[2]) do
      local ours, value = tours[1][i], line.value
      assert.equal(line.call, ours.call)
      if line.call == "predict" then
        assert.equal(value.prediction, ours.value.prediction)
        assert.equal(#value.identifier, #ours.value.identifier)
      elseif line.call == "stats" then
        assert.equal(value.learn.n_calls, ours.value.learn.n_calls)
      elseif line.call == "models" then
        assert.truthy(table.concat(ours.value.models, " "):find("the tour", 1, true))
      elseif line.call ~= "info" and line.call ~= "download_model" then
        assert.same(value, ours.value, line.call)
      end
    end
  end)

  it("gives this client what the real server gives", function()
    local function tour(base)
      local cli <close> = river.Client(base)
      local seen = {cli:info().status}
      local function see(value) seen[#seen + 1] = value end
      see(cli:upload_model(river.preprocessing.StandardScaler() | river.linear_model.LogisticRegression(), "binary",
        "größe 100%"))
      for step = 1, 30 do
        local x = {a = step % 7 - 2.5, ["b ä"] = step % 3, c = step % 2 == 0}
        see(cli:predict("größe 100%", x).prediction)
        see(cli:learn("größe 100%", x, step % 5 > 2))
      end
      see(cli:metrics("größe 100%"))
      see(cli:get_model_json("größe 100%"))
      see(cli:delete_model("größe 100%"))
      local ok, err = pcall(cli.predict, cli, "größe 100%", {a = 1})
      see(ok)
      see(err.kind)
      see(err.message)
      return seen
    end
    assert.same(tour(real.url), tour(server.base))
  end)

  it("gives the answers that were recorded from the real server", function()
    local fresh <close> = serve{"--prefix", "/other/"}
    local http = require("riverlua.http").Client{proxy = false}
    local parity = dofile(here .. "parity.lua")
    parity(function(method, path, body)
      return http:request{method = method, url = fresh.base .. "/other" .. path, body = body}
    end)
    http:close()
  end)
end)

describe("a service with a user", function()
  it("answers as the real server does", function()
    local real = river_support.start_server{DISABLE_AUTHENTICATION = "false"}
    local server <close> = serve({}, {RIVER_ML_USER = real.user, RIVER_ML_TOKEN = real.token})
    local ok, problem = pcall(check, "same_auth_answers", server, real.port, real.user, real.token)
    real.stop()
    assert(ok, problem)
  end)

  it("lets the official client in", function()
    local server <close> = serve{"--user", USER, "--token", TOKEN}
    check("with_token", server, USER, TOKEN)
  end)

  it("reads no large bodies of strangers", function()
    local server <close> = serve{"--user", USER, "--token", TOKEN}
    check("large_bodies", server, USER, TOKEN)
    local cli <close> = river.Client(server.base, {user = USER, token = TOKEN})
    local features = {}
    for i = 1, 20000 do features["feature " .. i] = i end
    cli:learn("large", features, 1)   -- the first request: without a bearer token
    assert.equal(2, cli:stats("large").learn.n_calls)
  end)

  it("is not confused by strange credentials", function()
    local server <close> = serve{"--user", USER, "--token=" .. TOKEN}
    check("bad_credentials", server)
  end)
end)

describe("a service with a folder", function()
  it("has its models again after a restart", function()
    local folder = river_support.temporary_name()
    local first = serve{"--folder", folder}
    local prediction = check("keep", first)
    first:close()
    local second = serve{"--folder", folder}
    assert.equal(prediction, check("kept", second))
    assert(io.popen("kill -TERM " .. second.info.pid)):close()
    second:close()
    local third <close> = serve{"--folder", folder}
    assert.equal(prediction, check("kept", third))
    os.execute("rm -rf " .. servers.quote(folder))
  end)
end)

describe("the guard", function()
  local serve_auth = require "river.serve_auth"
  local task = require "riverlua.task"

  it("lets bearer tokens expire", function()
    local guard = serve_auth.guard("u", "t", 0.05)
    local granted = guard:issue("Basic dTp0")
    assert.equal(64, #granted.token)
    assert.is_true(guard:allows("Bearer " .. granted.token))
    local due = task.now() + 10
    while guard:allows("Bearer " .. granted.token) and task.now() < due do task.sleep(0.01) end
    assert.is_false(guard:allows("Bearer " .. granted.token))
    guard:issue("Basic dTp0")
    assert.is_nil(guard.due[granted.token])
  end)

  it("keeps its secret to itself", function()
    local guard = serve_auth.guard("user", "a-secret")
    assert.is_nil(json.encode({tostring(guard)}):find("a-secret", 1, true))
    for _, value in pairs(guard) do assert.is_nil(tostring(value):find("a-secret", 1, true)) end
  end)
end)
