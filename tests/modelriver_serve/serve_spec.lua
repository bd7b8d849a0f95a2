--- `riverlua serve modelriver`, seen by our client, OpenAI's package and phoenix.js, and by those who mean no good.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
local servers = dofile(folder .. "../support/servers.lua")

local errors = require "riverlua.errors"
local json = require "riverlua.json"
local modelriver = require "modelriver"
local task = require "riverlua.task"
local websocket = require "riverlua.websocket"

local KEY = "mr_live_served"

local function start(...)
  return servers.start{servers.riverlua, "serve", "modelriver", "--json", "--stdin", "--port", "0", "--workflows",
    folder .. "workflows.lua", ...}
end

local function lines_of(command)
  local pipe = assert(io.popen(command .. " </dev/null"))
  local text = pipe:read("a")
  assert(pipe:close(), text)
  return json.decode(text:match("([^\n]*)\n$"))
end

describe("riverlua serve modelriver", function()
  local server, client

  setup(function() server = start("--key", KEY, "--webhook_secret", "whsec_served") end)
  teardown(function() server:close() end)
  before_each(function() client = modelriver.Client{base_url = server.info.url, api_key = KEY, retries = 0} end)
  after_each(function() client:close() end)

  it("answers our client as embedded: does", function()
    assert.equal("hello", client:ai("echo", "hello"):text())
    assert.equal("one two three", client:stream("pieces", "one two three"):text())
    local wrapped = client:ai{workflow = "echo", messages = {modelriver.user("x")}, format = "wrapped"}
    assert.equal("echo", wrapped.meta.workflow)
    local err = servers.error_of(client.ai, client, "broken", "x")
    assert.equal("provider", err.kind)
    assert.equal(504, err.provider_status)
    local answer = client:run{workflow = "tools", messages = {modelriver.user("How warm?")},
      tools = {weather = function(arguments) return arguments.city .. ": -3" end}}
    assert.equal("The tool said Oslo: -3", answer:text())
  end)

  it("asked by https says what to try", function()
    local other <close> = modelriver.Client{base_url = "https" .. server.info.url:sub(5), api_key = KEY,
      retries = 0, http = {proxy = false}}
    local err = servers.error_of(other.ai, other, "echo", "x")
    assert.equal("tls", err.kind)
    assert.truthy(err.hint:find("http:// in place of https://", 1, true), err.hint)
  end)

  it("gives jobs' answers over WebSockets, to many at once", function()
    local jobs = {}
    for i = 1, 100 do jobs[i] = client:ai_async("slow", "job " .. i) end
    local results = modelriver.wait_all(jobs, {timeout = 60})
    for i = 1, 100 do assert.equal("job " .. i, results[i]:text()) end
  end)

  it("repeats an answer for one who comes late", function()
    local job = client:ai_async("echo", "early")
    local saved = job:save()
    assert.equal("early", job:wait():text())
    saved.ws_token = nil
    assert.equal("early", client:resume(saved):wait():text())
  end)

  it("serves event-driven workflows, and signs its webhooks", function()
    local hooks = require("riverlua.server").new{handler = function(req)
      local event = modelriver.webhook.verify(req.headers, req.body, "whsec_served")
      if event.callback_required then
        task.spawn(function() client:callback(event, {title = event.ai_response.data.title, stock = 3}) end)
      end
      return {status = 200}
    end}
    local serving = task.spawn(function() hooks:run() end)
    local job = client:ai_async{workflow = "film", messages = {modelriver.user("A film?")},
      webhook_url = ("http://127.0.0.1:%d/"):format(hooks.port)}
    assert.same({title = "Heat", stock = 3}, job:wait{timeout = 30}.data)
    hooks:stop()
    serving:await()
  end)

  it("satisfies the official OpenAI package", function()
    local seen = lines_of(("%s %sopenai_client.py %s %s"):format(servers.python(), folder, server.info.url, KEY))
    assert.same({"one two three", "stop", true}, seen.whole)
    assert.same({"one ", "two ", "three"}, seen.pieces)
    assert.is_true(seen.usage)
    assert.same({"weather", {city = "Oslo"}}, seen.call)
    assert.equal("The tool said cold", seen.told)
    assert.same({
      {class = "NotFoundError", status = 404, code = "model_not_found"},
      {class = "BadRequestError", status = 400, code = "model_not_supported"},
      {class = "AuthenticationError", status = 401, code = "invalid_api_key"},
    }, seen.errors)
  end)

  it("satisfies phoenix.js", function()
    if not servers.has("node") or not io.open("build/npm/node_modules/phoenix/package.json") then
      return pending("node, or the package phoenix, is not there")
    end
    local seen = lines_of(("NODE_PATH=build/npm/node_modules node %sphoenix_client.js %s %s"):format(folder,
      server.info.url, KEY))
    assert.same({{"success", true}}, seen.result)
    assert.is_true(seen.again)
    assert.equal(1, seen.replayed)
    assert.equal("invalid_project_uuid", seen.refused.reason)
    assert.same({{"ai_generated", json.null, json.null}, {"completed", {title = "Heat", stock = 3}, "t1"}}, seen.film)
    assert.equal(3, seen.beats)
  end)

  local function job_socket(name)
    local job = client:ai_async(name or "slow", "x")
    return websocket.connect(("%s/websocket?token=%s&vsn=2.0.0"):format(job.websocket_url, job.ws_token)), job
  end

  it("asks for the key, and for a fresh token", function()
    local stranger <close> = modelriver.Client{base_url = server.info.url, api_key = "mr_live_stranger", retries = 0}
    assert.equal("auth", servers.error_of(stranger.ai, stranger, "echo", "x").kind)
    local ws, job = job_socket()
    ws:close()
    assert.is_nil(job.failure)
    for _, token in ipairs{"", "nonsense"} do
      local err = servers.error_of(websocket.connect, ("%s/websocket?token=%s&vsn=2.0.0"):format(job.websocket_url,
        token))
      assert.equal(403, err.status)
    end
    assert.equal(404, servers.error_of(websocket.connect, job.websocket_url .. "/elsewhere").status)
  end)

  it("does not spend a token on a request that is no upgrade", function()
    local job = client:ai_async("slow", "still there")
    local http <close> = require("riverlua.http").Client{proxy = false}
    local address = ("%s/socket/websocket?token=%s&vsn=2.0.0"):format(server.info.url, job.ws_token)
    assert.equal(426, http:get(address).status)
    assert.equal("still there", job:wait():text())
    assert.equal(0, job.reconnects)
  end)

  it("hangs up on what are no frames of Phoenix", function()
    for _, text in ipairs{"nonsense", "[]", "{}", "[1,2,3,4,5]", '["1","1","topic","phx_join"]', ("x"):rep(2000)} do
      local ws <close> = job_socket()
      ws:send(text)
      assert.is_nil((ws:receive(10)))
      assert.equal(1011, ws.close_code, text)
    end
    local ws <close> = job_socket()
    ws:send(("x"):rep(2 * 1024 * 1024))
    assert.is_nil((ws:receive(10)))
    assert.equal(1009, ws.close_code)
    assert.equal("hello", client:ai("echo", "hello"):text())
  end)

  it("goes on when clients go away without a word", function()
    for _ = 1, 20 do
      local job = client:ai_async("slow", "x")
      local waiting = task.spawn(function() return job:wait() end)
      task.sleep(0)
      waiting:cancel()
      local stream = client:stream("endless", "x")
      stream()
      stream:close()
    end
    assert.equal("hello", client:ai("echo", "hello"):text())
    assert.equal("", server:errors())
  end)

  it("says what is wrong with its own options", function()
    local function complaint(words)
      local pipe = io.popen(("%s serve modelriver %s 2>&1"):format(servers.quote(servers.riverlua), words))
      local text = pipe:read("a")
      pipe:close()
      return text
    end
    assert.truthy(complaint("--workflow x"):find("did you mean --workflows", 1, true))
    local broken = os.tmpname()
    for text, expected in pairs{["nothing()"] = ":1: attempt to call a nil value (global 'nothing')",
      ["require('modelriver').embedded.workflow('w', {respnd = print})"] = "did you mean 'respond'?"} do
      local file <close> = assert(io.open(broken, "w"))
      file:write(text)
      file:close()
      local said = complaint("--port 0 --workflows " .. broken)
      assert.truthy(said:find(expected, 1, true), said)
      assert.is_nil(said:find("traceback", 1, true))
    end
    os.remove(broken)
    assert.truthy(complaint("--port 0 --workflows nowhere.lua"):find("cannot open nowhere.lua", 1, true))
    assert.truthy(complaint("--port 0 --webhook_scheme D"):find("must be A, B or C", 1, true))
    assert.truthy(complaint("--help"):find("--webhook_secret", 1, true))
  end)

  it("cannot take a port twice", function()
    local err = servers.error_of(require("modelriver.serve").open, {port = server.info.port})
    assert.is_true(errors.is(err, "connect"))
  end)
end)
