--- Jobs whose connections are lost, refused or full of garbage.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
local support = dofile(folder .. "jobs_support.lua")
local task = require "riverlua.task"

local server, client
setup(function()
  server = support.start()
  -- the time to connect is also that to join
  client = support.client(server, {timeout = {connect = 0.3}})
end)
teardown(function()
  client:close()
  server:close()
end)
before_each(function() server:reset() end)
-- whatever happened, nothing stays open
after_each(function() assert.truthy(server:wait{listener = "websocket", open = 0}) end)

local function start(workflow) return client:ai_async(support.question(workflow)) end

-- Waits for a job that must be answered in the end; the job.
local function recovers(workflow, options)
  local job = start(workflow)
  options = options or {}
  options.timeout = options.timeout or 30
  assert.equal("one two three", job:wait(options):text())
  return job
end

-- Waits for a job that must fail; the error and the job.
local function fails(workflow, options)
  local job = start(workflow)
  local err = support.error_of(job.wait, job, options or {timeout = 30})
  assert.is_nil(support.leak(server, err))
  assert.equal(job.id, err.channel_id)
  assert.equal(workflow, err.workflow or workflow)
  return err, job
end

-- The tokens with which sockets were asked for.
local function tokens()
  local list = {}
  for _, line in ipairs(server:log("/socket/websocket")) do list[#list + 1] = line.target:match("token=([^&]*)") end
  return list
end

describe("a channel that refuses", function()
  local TEXTS = {unauthorized_project_access = "has no access", invalid_channel_format = "channels of this form",
    invalid_project_uuid = "project's id", invalid_channel_uuid = "job's id", ["too many channels joined"] = "too many"}

  for reason, text in pairs(TEXTS) do
    it("for " .. reason .. " ends the waiting", function()
      local err = fails("job+refuse:" .. reason)
      assert.equal("websocket", err.kind)
      assert.equal(reason, err.code)
      assert.equal(false, err.retryable)
      assert.truthy(err.message:find(text, 1, true), err.message)
      assert.truthy(err.message:find("job 'job+refuse:", 1, true))
      assert.equal(1, #tokens())
    end)
  end

  it("without a reason ends the waiting, too", function()
    local err = fails("job+refuse")
    assert.equal("unknown", err.code)
    assert.truthy(err.message:find("does not say why", 1, true))
  end)

  it("because the name lacks the project says what helps", function()
    local err = fails("job+short+no_project+join_only:3")
    assert.equal("invalid_channel_format", err.code)
    assert.truthy(err.hint:find("project_id", 1, true))
  end)

  it("once may be asked again by the user", function()
    local job = start("job+refuse:later:1")
    assert.equal("later", support.error_of(job.wait, job).code)
    assert.equal("one two three", job:wait():text())
  end)
end)

describe("a connection that is lost", function()
  for _, how in ipairs{"1000", "1001", "1005", "1006", "1011", "1012", "rst", "fin"} do
    it("by " .. how .. " is made again with a fresh token", function()
      local job = recovers("job+close:" .. how)
      assert.equal(1, job.reconnects)
      local used = tokens()
      assert.equal(2, #used)
      assert.not_equal(used[1], used[2])
      assert.equal(1, support.count(server, "reconnect"))
      assert.equal(0, support.count(server, "upgrade:403"))
    end)
  end

  it("before the join is answered is made again", function()
    for _, how in ipairs{"1001", "rst"} do recovers("job+close_early:" .. how) end
  end)

  it("again and again is made again, more and more slowly", function()
    local waits = {}
    local job = recovers("job+close:1001:3", {on_status = function(status, info)
      if status == "reconnecting" then waits[#waits + 1] = info.wait end
    end})
    assert.equal(3, job.reconnects)
    for i = 2, 3 do assert.truthy(waits[i] > waits[i - 1]) end
    assert.truthy(waits[3] <= 1)
  end)

  it("while the answer is being made misses nothing", function()
    local job = start("job+hold:mid")
    local waiting = task.spawn(function() return job:wait() end)
    assert.truthy(server:wait{key = "joined", counted = 1})
    server:control("/kill", {code = "rst"})
    assert.truthy(server:wait{key = "joined", counted = 2})
    server:release("mid")
    assert.equal("one two three", waiting:await():text())
  end)

  it("says so when it stays lost until the time is up", function()
    local err = fails("job+upgrade:502", {timeout = 0.8})
    assert.equal("timeout", err.kind)
    assert.equal("job", err.phase)
    assert.truthy(err.message:find("502", 1, true), err.message)
    assert.equal(502, err.cause.status)
  end)

  it("in the middle of a frame is lost", function()
    local err = fails("job+frame:cut", {timeout = 1})
    assert.equal("timeout", err.kind)
    assert.truthy(err.message:find("dropped", 1, true))
  end)
end)

describe("a channel that crashes", function()
  it("is joined again on the same connection", function()
    for _, switch in ipairs{"crash", "crash:1:new"} do
      local job = recovers("job+" .. switch)
      assert.equal(0, job.reconnects)
    end
    assert.equal(2, #tokens())
  end)

  it("while the answer is being made is joined again", function()
    local job = start("job+hold:crashing")
    local waiting = task.spawn(function() return job:wait() end)
    assert.truthy(server:wait{key = "joined", counted = 1})
    for _ = 1, 2 do server:control("/crash", {channel_id = job.id}) end
    assert.truthy(server:wait{key = "joined", counted = 2})
    server:release("crashing")
    assert.equal("one two three", waiting:await():text())
    assert.equal(1, #tokens())
  end)

  it("at a heartbeat is joined again", function()
    local job = start("job+topic_heartbeat:crash+hold:beat")
    local waiting = task.spawn(function() return job:wait{heartbeat = 0.1} end)
    assert.truthy(server:wait{key = "joined", counted = 3})
    server:release("beat")
    assert.equal("one two three", waiting:await():text())
  end)
end)

describe("a token", function()
  for _, how in ipairs{"spent", "expired", "upgrade:403:1", "upgrade:403:2"} do
    it("that is refused (" .. how .. ") is replaced", function() recovers("job+" .. how) end)
  end

  it("that is always refused ends the waiting", function()
    local err, job = fails("job+upgrade:403")
    assert.equal("websocket", err.kind)
    assert.equal(403, err.status)
    assert.truthy(err.hint:find("another process", 1, true))
    assert.equal(3, #tokens())
    assert.equal("error", job.steps.list[1].status)
  end)

  it("that is too old is not even tried", function()
    local job = start("job")
    job.token_at = job.token_at - 301
    job:wait()
    assert.equal(1, support.count(server, "reconnect"))
    assert.equal(1, #tokens())
  end)
end)

describe("an upgrade that fails", function()
  it("for good ends the waiting", function()
    for _, status in ipairs{400, 404, 301} do
      local err = fails("job+upgrade:" .. status)
      assert.equal("websocket", err.kind)
      assert.equal(status, err.status)
      assert.truthy(err.message:find(tostring(status), 1, true))
    end
  end)

  it("once is tried again", function()
    task.map({"500", "503", "429", "408", "hang", "bad_accept", "no_accept", "no_upgrade", "extension", "protocol"},
      function(how) assert.equal(1, recovers("job+upgrade:" .. how .. ":1").reconnects, how) end)
  end)
end)

describe("the reconnect endpoint", function()
  for status, kind in pairs{[401] = "auth", [403] = "permission", [404] = "not_found"} do
    it("with " .. status .. " ends the waiting", function()
      local err = fails("job+spent+reconnect:" .. status)
      assert.equal(kind, err.kind)
      assert.equal(status, err.status)
      assert.equal(1, support.count(server, "reconnect"))
    end)
  end

  it("that has trouble is asked again", function()
    task.map({500, 502, 503, 429}, function(status) recovers(("job+spent+reconnect:%d:2"):format(status)) end)
    assert.equal(12, support.count(server, "reconnect"))
  end)

  it("that gives no token ends the waiting", function()
    local err = fails("job+spent+reconnect:no_token")
    assert.equal("protocol", err.kind)
    assert.truthy(err.message:find("no ws_token", 1, true))
    assert.truthy(err.hint:find("webhook_url", 1, true))
  end)

  it("need not name the channel", function() recovers("job+spent+reconnect:no_channel") end)

  it("is asked with the key and the job", function()
    local job = recovers("job+spent")
    local line = server:log("/v1/ai/reconnect")[1]
    assert.equal(('{"channel_id":"%s"}'):format(job.id), line.body)
    assert.equal("Bearer " .. server.info.keys.good, line.headers.authorization)
  end)
end)

describe("a server that does not answer", function()
  it("the join is connected to again", function()
    local job = recovers("job+mute_join:1")
    assert.equal(1, job.reconnects)
    assert.truthy(server:wait{key = "frame:phx_leave", counted = 2})
  end)

  it("heartbeats is connected to again", function()
    local job = start("job+mute_heartbeat+hold:deaf")
    local waiting = task.spawn(function() return job:wait{heartbeat = 0.1} end)
    assert.truthy(server:wait{key = "joined", counted = 2})
    server:release("deaf")
    assert.equal("one two three", waiting:await():text())
    assert.truthy(job.reconnects >= 1)
  end)

  it("and closes silent sockets is connected to again", function()
    local job = start("job+idle:100+hold:silent")
    local waiting = task.spawn(function() return job:wait() end)
    assert.truthy(server:wait{key = "joined", counted = 2})
    server:release("silent")
    assert.equal("one two three", waiting:await():text())
  end)

  it("anything ends at the deadline", function()
    for _, switch in ipairs{"mute_join:1000", "upgrade:hang", "hold:ever"} do
      local err = fails("job+" .. switch, {timeout = 0.5})
      assert.equal("timeout", err.kind)
      assert.equal("job", err.phase)
    end
  end)
end)

describe("an answer that came too early", function()
  it("is taken when it is said again", function()
    local job = start("job")
    assert.truthy(server:wait{key = "done:job", counted = 1})
    assert.equal("one two three", job:wait():text())
  end)

  it("is taken before the join is answered", function()
    local job = start("job+before_reply")
    assert.truthy(server:wait{key = "done:job+before_reply", counted = 1})
    assert.equal("one two three", job:wait():text())
    assert.equal("success", job.steps.list[1].status)
  end)

  it("and is lost is waited for until the deadline", function()
    local job = start("job+early:lost")
    assert.truthy(server:wait{key = "done:job+early:lost", counted = 1})
    assert.equal("job", support.error_of(job.wait, job, {timeout = 0.3}).phase)
  end)
end)

describe("garbage on the connection", function()
  local BROKEN = {"masked", "rsv", "opcode", "bad_utf8", "cut_utf8", "big_ping", "split_ping", "orphan", "interrupted",
    "huge", "negative", "close_short", "close_code", "close_utf8", "notjson", "not_array", "short_array", "payload",
    "empty"}

  it("again and again ends the waiting", function()
    task.map(BROKEN, function(kind)
      local err, job = fails("job+frame:" .. kind, {timeout = 30})
      assert.equal("websocket", err.kind, kind)
      assert.equal("number", type(err.code), kind)
      assert.truthy(err.message:find("broke the protocol", 1, true) or err.message:find("no Phoenix frame", 1, true),
        err.message)
      assert.truthy(job.reconnects <= 3, kind)
    end, {concurrency = #BROKEN})
  end)

  it("once is a connection that is lost", function()
    local frames = {{text = "nonsense"}, {text = "[]"}, {text = "[null,null,7,\"response\",{}]"},
      {hex = "c100"}, {hex = "8300"}, {hex = "8102fffe"}, {text = '[1,2,"t","e",[]'}}
    for i, query in ipairs(frames) do
      local job = start("job+hold:raw" .. i)
      local waiting = task.spawn(function() return job:wait() end)
      assert.truthy(server:wait{key = "joined", counted = 2 * i - 1})
      server:control("/raw", query)
      assert.truthy(server:wait{key = "joined", counted = 2 * i})
      server:release("raw" .. i)
      assert.equal("one two three", waiting:await():text())
      assert.equal(1, job.reconnects)
    end
  end)

  it("that is well formed and means nothing is passed over", function()
    local job = start("job+hold:odd")
    local waiting = task.spawn(function() return job:wait() end)
    assert.truthy(server:wait{key = "joined", counted = 1})
    for _, text in ipairs{'[null,null,"phoenix","odd",{}]', '["7","8","other:topic","response",{"status":"success"}]',
      '[7,8,"x","y",{}]', '[{},[],"x","y",[]]', '[null,"1","phoenix","phx_reply",{}]'} do
      server:control("/raw", {text = text})
    end
    server:control("/push", {channel_id = job.id, event = "phx_reply", payload = '{"status":"error"}'})
    server:release("odd")
    assert.equal("one two three", waiting:await():text())
    assert.equal(0, job.reconnects)
  end)

  it("may be in an answer, which fails then", function()
    for _, payload in ipairs{"{}", '{"status":7}', '{"status":{"a":1}}', '{"status":null,"error":[]}',
      '{"status":"error","error":7,"meta":[]}', '{"error":{"message":{"x":1},"details":7}}',
      '{"meta":{"attempts":7}}'} do
      local job = start("job+hold:none")
      local waiting = task.spawn(function() return job:wait() end)
      while server:control("/push", {channel_id = job.id, payload = payload}).listeners == 0 do task.sleep(0) end
      assert.equal("job", support.error_of(waiting.await, waiting).kind)
    end
  end)

  it("that is an answer of more than 16 MiB says what helps", function()
    local err = fails("big:17000000")
    assert.equal("websocket", err.kind)
    assert.equal(1009, err.code)
    assert.truthy(err.hint:find("webhook_url", 1, true))
  end)
end)
