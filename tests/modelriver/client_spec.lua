-- Making, showing and closing a client of the ModelRiver API; where it can be used.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local errors = require "riverlua.errors"
local json = require "riverlua.json"
local modelriver = require "modelriver"
local task = require "riverlua.task"

local error_of, refuses, faked, servers = support.error_of, support.refuses, support.faked, support.servers

local KEY = "mr_live_very_secret_0123456789"

local function made(options)
  options.transport = options.transport or support.fake{}
  return modelriver.Client(options)
end

local function bearer_of(options)
  local client, requests = faked({}, options)
  client:ai("w", "hi")
  return requests[1].headers.Authorization
end

describe("modelriver.Client", function()
  it("sends the key as a bearer token, without the line break that files end with", function()
    assert.equal("Bearer " .. KEY, bearer_of{api_key = KEY})
    assert.equal("Bearer " .. KEY, bearer_of{api_key = "  " .. KEY .. "\r\n"})
    assert.is_nil(bearer_of{api_key = false, base_url = "http://host"})
  end)

  it("refuses keys that could not be sent, and never shows them", function()
    for _, key in ipairs{"mr_live secret", "mr_live\nsecret", "mr_live\0secret", "mr_live\tsecret"} do
      local err = refuses("spaces or control characters", made, {api_key = key})
      assert.falsy(tostring(err):find("secret", 1, true))
    end
    refuses("'api_key' must be a string", made, {api_key = 5})
    refuses("false for none", made, {api_key = true})
  end)

  it("needs a key for the real service, and says how to give one", function()
    for _, value in ipairs{"", " \n"} do
      local child = servers.run([[
        local errors = require "riverlua.errors"
        local ok, err = pcall(require("modelriver").Client)
        print(ok, err.kind, err.message, err.hint)
        require("modelriver").Client{base_url = "http://127.0.0.1:1"}
        require("modelriver").Client{base_url = "embedded:"}
      ]], {environment = {MODELRIVER_API_KEY = value}})
      assert.equal("", child.err)
      assert.truthy(child.out:find("^false\targument\tmodelriver.Client: there is no API key\tset MODELRIVER_API_KEY"))
    end
  end)

  it("takes the key from MODELRIVER_API_KEY, but for the service in this process", function()
    local child = servers.run([[
      local modelriver = require "modelriver"
      local function bearer(options)
        local seen
        options.transport = {close = function() end, request = function(_, req)
          seen = req.headers.Authorization
          return {status = 200, headers = {}, body = '{"choices": []}', close = function() end}
        end}
        modelriver.Client(options):ai("w", "hi")
        return tostring(seen)
      end
      print(bearer{}, bearer{base_url = "embedded:"}, bearer{api_key = "mr_live_own"}, bearer{api_key = false,
        base_url = "http://host"})
    ]], {environment = {MODELRIVER_API_KEY = KEY .. "\n"}})
    assert.equal(("Bearer %s\tnil\tBearer mr_live_own\tnil\n"):format(KEY), child.out)
  end)

  it("takes addresses in every form they are written in", function()
    for given, base in pairs{
      ["https://api.modelriver.com"] = "https://api.modelriver.com", ["http://host:8000/"] = "http://host:8000",
      ["http://host/v1"] = "http://host", ["http://host/v1//"] = "http://host", ["http://host//v1"] = "http://host",
      ["http://host/api"] = "http://host/api", ["http://host/api/v1/"] = "http://host/api",
      [" http://host \n"] = "http://host", ["HTTP://Host"] = "HTTP://Host", ["embedded:"] = "embedded:",
    } do
      local client = made{base_url = given, api_key = KEY}
      assert.equal(base, client.gateway.base_url)
      assert.equal(("modelriver.Client(%s)"):format(base), tostring(client))
    end
  end)

  it("takes the address from MODELRIVER_API_URL when none is given", function()
    for given, shown in pairs{["http://relay/api/v1/"] = "http://relay/api", [" "] = "https://api.modelriver.com"} do
      local child = servers.run([[
        local modelriver = require "modelriver"
        print(modelriver.Client{api_key = "mr_live_x"}, modelriver.Client{base_url = "embedded:"})
      ]], {environment = {MODELRIVER_API_URL = given}})
      assert.equal(("modelriver.Client(%s)\tmodelriver.Client(embedded:)\n"):format(shown), child.out)
    end
  end)

  it("refuses what cannot be an address, without repeating it", function()
    for given, pattern in pairs{["api.modelriver.com"] = "must start with http", ["http://"] = "must start with http",
      [""] = "must start with http", ["htp://me:pass word@host"] = "must start with http",
      ["http://host/?a=pass word"] = "no query", ["http://host/#pass word"] = "no query",
      ["http://pass word@host"] = "no query", ["http://ho\0st"] = "no query"} do
      local err = refuses(pattern, made, {base_url = given, api_key = KEY})
      assert.falsy(tostring(err):find("pass word", 1, true))
    end
    refuses("'base_url' must be a string, got number", made, {base_url = 8000})
    refuses("'base_url' must be a string, got boolean", made, {base_url = false})
  end)

  it("knows its options and names the one that was meant", function()
    refuses("unknown option 'baseurl'; did you mean 'base_url'", made, {baseurl = "http://h"})
    refuses("did you mean 'api_key'", made, {apikey = KEY})
    refuses("options stand in a table, got a string", modelriver.Client, KEY)
    refuses("'retries' must be an integer, got string", made, {api_key = KEY, retries = "3"})
    refuses("'retries' must be between 0 and 20, got %-1", made, {api_key = KEY, retries = -1})
    refuses("'trace' must be a callable", made, {api_key = KEY, trace = "yes"})
    for _, name in ipairs{"resend", "retry_async", "retry_provider", "allow_insecure_ws"} do
      refuses(("'%s' must be a boolean, got string"):format(name), made, {api_key = KEY, [name] = "no"})
    end
    refuses("http.retries is not read", made, {api_key = KEY, http = {retries = 3}})
    refuses("unknown option 'proxi'; did you mean 'proxy'", modelriver.Client, {api_key = KEY, http = {proxi = "x"}})
    refuses("price of 'm'", made, {api_key = KEY, prices = {m = 5}})
    refuses("price of 'm'", made, {api_key = KEY, prices = {m = {prompt = -1, completion = 0 / 0}}})
  end)

  it("refuses options of the embedded gateway for any other address", function()
    refuses("base_url leads elsewhere", modelriver.Client, {base_url = "http://127.0.0.1:1", embedded = {}})
    modelriver.Client{base_url = "embedded:", embedded = {project_id = "p"}}:close()
  end)

  it("leaves the table of options as it was", function()
    local options = {api_key = KEY, timeout = {total = 5}, http = {proxy = false}, transport = support.fake{}}
    modelriver.Client(options):ai("w", "hi")
    assert.same({total = 5}, options.timeout)
    assert.same({proxy = false}, options.http)
    assert.equal(KEY, options.api_key)
  end)

  it("has deadlines: in all, by phase, or none", function()
    local function limits(given, call)
      local client, requests = faked({}, {timeout = given})
      client:ai{workflow = "w", messages = {modelriver.user("hi")}, timeout = call}
      local seen = requests[1].timeout
      seen.total = math.ceil(seen.total)
      return seen
    end
    assert.same({connect = 10, first_byte = 300, idle = 60, total = 300}, limits(nil))
    assert.same({connect = 10, first_byte = 300, idle = 60, total = 5}, limits(5))
    assert.same({connect = 10, first_byte = 900, idle = 60, total = 900}, limits(900))
    assert.same({connect = 10, first_byte = 900, idle = 60, total = 900}, limits{total = 900})
    assert.same({connect = 10, first_byte = 20, idle = 60, total = 900}, limits{total = 900, first_byte = 20})
    assert.same({connect = 1, first_byte = 300, idle = 0, total = 300}, limits{connect = 1, idle = false})
    assert.same({connect = 0, first_byte = 0, idle = 0, total = 0}, limits(false))
    assert.same({connect = 10, first_byte = 0, idle = 60, total = 0}, limits(math.huge))
    assert.same({connect = 2, first_byte = 300, idle = 60, total = 7}, limits({connect = 2, total = 50}, {total = 7}))
    assert.same({connect = 0, first_byte = 0, idle = 0, total = 7}, limits(false, 7))
  end)

  it("refuses deadlines that are none", function()
    for _, given in ipairs{-1, 0 / 0, "5", true, {total = "5"}, {idle = -1}, {connect = 0 / 0}} do
      refuses("modelriver.Client: .*timeout", made, {api_key = KEY, timeout = given})
    end
    refuses("timeout: unknown option 'conect'; did you mean 'connect'", made, {api_key = KEY, timeout = {conect = 1}})
    local client, requests = faked()
    refuses("ai: timeout.total must be", client.ai, client, {workflow = "w", timeout = -5})
    refuses("ai: 'retries' must be between", client.ai, client, {workflow = "w", retries = 50})
    refuses("ai: 'retries' must be an integer", client.ai, client, {workflow = "w", retries = 1.5})
    assert.equal(0, #requests)
  end)

  it("names the method that was meant", function()
    local client = faked()
    refuses("did you mean 'stream'", function() return client.steam end)
    refuses("did you mean 'ai_async'", function() return client.ai_asinc end)
    refuses("did you mean modelriver.Client", function() return modelriver.client end)
    refuses("did you mean modelriver.wait_all", function() return modelriver.waitall end)
    assert.is_nil(client.something_else_entirely)
    assert.is_nil(modelriver.something_else_entirely)
  end)

  it("tells a dot from a colon", function()
    local client = faked()
    for _, name in ipairs{"ai", "stream", "stats", "map", "ai_async"} do
      refuses("call it with a colon: client:" .. name, client[name], {workflow = "w"})
    end
    refuses("call it with a colon: client.chat.completions:create", client.chat.completions.create, {model = "m"})
  end)

  it("closes its transport, once, also at the end of a block", function()
    local client, _, transport = faked()
    client:close()
    client:close()
    assert.equal(1, transport.closed)
    for _, call in ipairs{
      function() client:ai("w", "hi") end, function() client:stream("w", "hi") end, function() client:stats() end,
      function() client.chat.completions:create{model = "m", messages = {modelriver.user("hi")}} end,
      function() client:map({1}, print) end, function() client:ai_async("w", "hi") end,
    } do
      assert.equal("closed", error_of(call).kind)
    end
    assert.truthy(tostring(client):find("closed", 1, true))
    local _, _, other = faked()
    do
      local scoped <close> = made{transport = other, api_key = KEY}
      scoped:ai("w", "hi")
    end
    assert.equal(1, other.closed)
  end)
end)

describe("the key is never shown", function()
  -- Everything that a server can say with the key in it.
  local said = {
    {status = 401, body = {error = {message = "bad key " .. KEY, code = KEY, type = KEY, param = KEY,
      details = {key = {KEY}, [KEY] = 1}}}},
    {status = 400, body = {error = KEY, message = KEY}},
    {status = 500, body = "<html><title>" .. KEY .. "</title>", headers = {["x-request-id"] = KEY, ["x-echo"] = KEY}},
    {status = 422, body = {errors = {[KEY] = {KEY}}}},
    {status = 200, body = "not json: " .. KEY, headers = {["X-Echo"] = "Bearer " .. KEY}},
    {status = 200, body = {error = {message = KEY, details = {message = KEY, status = 504}}, customer_data = {k = KEY},
      meta = {status = "error", workflow = "w", attempts = {{provider = KEY, model = KEY, reason = KEY}}}}},
    -- cut in the middle of the key
    {status = 403, body = ("x"):rep(4090) .. KEY .. ("x"):rep(5000)},
    {status = 403, body = KEY:rep(200) .. ("x"):rep(5000)},
  }

  it("in errors, traces and texts of the client", function()
    for i, answer in ipairs(said) do
      local lines = {}
      local client = faked(answer, {api_key = KEY, retries = 0, trace = function(event) lines[#lines + 1] = event end})
      local err = error_of(client.ai, client, "w", "hi")
      local shown = support.all_text(err) .. support.all_text(lines) .. tostring(client)
      assert.falsy(shown:find(KEY, 1, true), i)
      assert.falsy(shown:find(KEY:sub(1, 12), 1, true), i)
      assert.truthy(shown:find("***", 1, true), i)
      assert.equal(1, #lines, i)
    end
  end)

  it("nor is a token that lets listen to a job", function()
    for _, answer in ipairs{
      {status = 500, body = '{"ws_token" : "wst_secret", "error": {"details": {"ws_token": "wst_secret"}}}'},
      {status = 200, body = '{"ws_token":"wst_secret", cut'},
    } do
      local client = faked(answer, {retries = 0})
      local err = error_of(client.ai, client, "w", "hi")
      assert.falsy(support.all_text(err):find("wst_secret", 1, true))
    end
  end)

  it("when the transport's own error has it", function()
    local client = faked(function()
      errors.raise{kind = "connect", message = "cannot send Authorization: Bearer " .. KEY}
    end, {api_key = KEY, retries = 0})
    assert.falsy(tostring(error_of(client.ai, client, "w", "hi")):find(KEY, 1, true))
  end)

  it("nor the user and password of an address", function()
    local client = faked({status = 500}, {base_url = "http://me:se@cret@host:1", retries = 0})
    local err = error_of(client.ai, client, "w", "hi")
    assert.equal("http://host:1/v1/ai", err.url)
    assert.falsy((support.all_text(err) .. tostring(client)):find("cret", 1, true))
  end)

  it("but words that stand in for a key are no secret", function()
    local client = faked({status = 404, body = {error = {message = "none of the models"}}}, {api_key = "none"})
    assert.truthy(error_of(client.ai, client, "w", "hi").message:find("none of the models", 1, true))
  end)

  it("by the interactive mode's way of showing values", function()
    local client = faked({}, {api_key = KEY})
    assert.falsy(require("riverlua.pretty").format({client, client.gateway}):find(KEY, 1, true))
  end)
end)

describe("trace", function()
  it("tells a function of every try", function()
    local events = {}
    local client = faked(function(_, number)
      return number == 1 and {status = 503, headers = {["x-request-id"] = "r1"}} or {body = "no json"}
    end, {trace = function(event) events[#events + 1] = event end})
    error_of(client.ai, client, "w", "hi")
    assert.equal(2, #events)
    assert.same({"ai", "POST", "https://api.modelriver.com/v1/ai", "w", 503, "server", 1, "r1"}, {events[1].what,
      events[1].method, events[1].url, events[1].workflow, events[1].status, events[1].error, events[1].tries,
      events[1].request_id})
    assert.is_number(events[1].wait)
    assert.is_number(events[1].seconds)
    assert.same({200, "protocol", 2}, {events[2].status, events[2].error, events[2].tries})
    assert.is_nil(events[2].wait)
  end)

  it("writes lines to the standard error stream", function()
    local child = servers.run([[
      local tries = 0
      local client = require("modelriver").Client{api_key = "mr_live_secret_key", base_url = "http://u:pw@h",
        trace = true, transport = {close = function() end, request = function()
          tries = tries + 1
          return {status = tries == 1 and 429 or 200, headers = {["retry-after"] = "0"}, body = '{"choices": []}',
            close = function() end}
        end}}
      client:ai("w", "hi")
    ]])
    assert.equal(0, child.code)
    local lines = {}
    for line in child.err:gmatch("[^\n]+") do lines[#lines + 1] = (line:gsub("%d+ ms", "N ms")) end
    assert.same({"modelriver: POST http://h/v1/ai 429 rate_limit in N ms, again in 0 s",
      "modelriver: POST http://h/v1/ai 200 in N ms, try 2"}, lines)
  end)
end)

describe("a client of the stand-in", function()
  local stub, client
  setup(function() stub = support.start() end)
  teardown(function() stub:close() end)
  before_each(function()
    stub:reset()
    client = support.client(stub)
  end)
  after_each(function() client:close() end)

  it("works behind every form of the address", function()
    for _, suffix in ipairs{"", "/", "/v1", "/v1/", "/api", "/api/v1"} do
      local other <close> = support.client(stub, {base_url = stub:url(suffix)})
      assert.equal("hello", other:ai("echo", "hello"):text())
    end
    local paths = {}
    for i, line in ipairs(stub:log()) do paths[i] = line.target end
    assert.same({"/v1/ai", "/v1/ai", "/v1/ai", "/v1/ai", "/api/v1/ai", "/api/v1/ai"}, paths)
  end)

  it("speaks TLS with the certificates it is given", function()
    local other <close> = support.client(stub, {base_url = stub:url("", "tls"),
      http = {proxy = false, ca_file = stub.info.ca_file}})
    assert.equal("hello", other:ai("echo", "hello"):text())
    local stranger <close> = support.client(stub, {base_url = stub:url("", "tls")})
    local err = error_of(stranger.ai, stranger, "echo", "hello")
    assert.equal("tls", err.kind)
    assert.equal(1, err.tries)
  end)

  it("is used by many tasks at once over few connections", function()
    local answers = client:map({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20}, function(i)
      return client:ai("echo", "number " .. i):text()
    end, {parallel = 4})
    for i = 1, 20 do assert.equal("number " .. i, answers[i]) end
    local stats = stub:stats()
    assert.equal(20, stats.requests)
    assert.is_true(stats.accepted.http <= 4)
  end)

  it("counts what went over its connections", function()
    client:ai("flaky:1:429+retry_after_ms:1", "hi")
    local stats = client:stats()
    assert.same({1, 1}, {stats.retries, stats.slowed})
    assert.equal(2, stats.requests)
  end)

  it("works where Lua cannot yield", function()
    local list = {2, 1}
    table.sort(list, function(a, b)
      assert.equal("hi", client:ai("echo", "hi"):text())
      return a < b
    end)
    assert.same({1, 2}, list)
    package.preload["modelriver_test_module"] = function() return client:ai("flaky:1", "loaded"):text() end
    assert.equal("loaded", require "modelriver_test_module")
    package.loaded["modelriver_test_module"], package.preload["modelriver_test_module"] = nil, nil
    assert.equal("<hi>", (("hi"):gsub("%a+", function(text) return "<" .. client:ai("echo", text):text() .. ">" end)))
  end)

  it("lets a task's time limit end a call, and frees the connection", function()
    local err = error_of(task.timeout, 0.05, client.ai, client, "echo+hold", "hi")
    assert.equal("timeout", err.kind)
    assert.is_true(stub:wait{counted = 1, key = "gone"})
    assert.equal("after", client:ai("echo", "after"):text())
    assert.equal(2, stub:stats().requests)
  end)

  it("sends nothing after a task was cancelled while it waited for its next try", function()
    client.gateway.first_delay = 30
    local waiting = task.spawn(client.ai, client, "fail503", "hi")
    assert.is_true(stub:wait{requests = 1})
    while client.gateway.retried == 0 do task.sleep(0.001) end
    waiting:cancel()
    assert.is_false(pcall(waiting.await, waiting))
    assert.equal("cancelled", waiting:status())
    assert.equal(1, stub:stats().requests)
  end)

  it("ends calls under way when it is closed", function()
    local waiting = task.spawn(client.ai, client, "echo+hold", "hi")
    assert.is_true(stub:wait{key = "hold", waiting = 1})
    client:close()
    local err = error_of(waiting.await, waiting)
    assert.equal("closed", err.kind)
  end)

  it("is stopped by Ctrl-C without noise", function()
    local path = os.tmpname()
    local file <close> = assert(io.open(path, "w"))
    file:write(([[
      local client <close> = require("modelriver").Client{base_url = %q, api_key = %q, http = {proxy = false}}
      client:ai("echo+hold:ctrl_c", "hi")
    ]]):format(stub:url(), stub.info.keys.good))
    file:close()
    local complaints = os.tmpname()
    local command = ("echo $$; exec %s %s 2>%s"):format(servers.quote(servers.riverlua), servers.quote(path),
      servers.quote(complaints))
    local pipe = assert(io.popen("timeout -k 5 60 sh -c " .. servers.quote(command)))
    local pid = pipe:read("n")
    assert.is_true(stub:wait{key = "ctrl_c", waiting = 1})
    os.execute(("kill -INT %d"):format(pid))
    local _, _, code = pipe:close()
    local noise = servers.read_file(complaints)
    os.remove(path)
    os.remove(complaints)
    assert.equal(130, code)
    assert.falsy(noise:find("traceback", 1, true), noise)
    assert.is_true(stub:wait{counted = 1, key = "gone"})
  end)

  it("drains nothing it was not asked for: the body of a request is only what was written", function()
    client:ai{workflow = "echo", messages = {modelriver.user("hi")}, timeout = 5, retries = 1,
      headers = {["X-Own"] = "1"}, idempotency_key = "k", extra = {timeout = 7}}
    assert.same({workflow = "echo", messages = {{role = "user", content = "hi"}}, timeout = 7}, support.bodies(stub)[1])
    assert.equal("1", support.sent_headers(stub, "x-own")[1])
    assert.equal("k", support.sent_headers(stub, "idempotency-key")[1])
    assert.truthy(json.decode(stub:log()[1].body))
  end)
end)
