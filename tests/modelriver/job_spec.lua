--- Jobs: asked for, listened to on a channel, and answered.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
local support = dofile(folder .. "jobs_support.lua")
local job_place = require "modelriver.job_place"
local json = require "riverlua.json"
local modelriver = require "modelriver"
local task = require "riverlua.task"

local server, client
setup(function()
  server = support.start()
  client = support.client(server)
end)
teardown(function()
  client:close()
  server:close()
end)

local function start(workflow, text) return client:ai_async(support.question(workflow, text)) end

-- The socket of a job, once the stand-in has seen its end.
local function ended_socket(job)
  assert.truthy(server:wait{listener = "websocket", open = 0})
  local found
  for _, socket in ipairs(server:control("/sockets")) do
    if socket.channel_id == job.id then found = socket end
  end
  return found
end

-- What the stand-in heard on a socket: "phx_join", "heartbeat", …, and the code of a close frame.
local function heard(socket)
  local list = {}
  for _, frame in ipairs(server:control("/frames", {way = "in"})) do
    if frame.socket == socket.number then
      list[#list + 1] = frame.opcode == 8 and ("close %d"):format(frame.code or 1005)
        or frame.text:match('^%[[^%]]-,"[^"]-","[^"]-","([^"]-)"')
    end
  end
  return list
end

describe("a job", function()
  before_each(function() server:reset() end)

  it("is answered", function()
    local job = start("job")
    assert.equal("pending", job.status)
    assert.equal("job", job.workflow)
    assert.falsy(job.test_mode)
    local answer = job:wait()
    assert.equal("one two three", answer:text())
    assert.equal("completed", job.status)
    assert.equal(answer, job.result)
    assert.equal(job.id, answer.channel_id)
    assert.equal("job", answer.meta.workflow)
    assert.truthy(answer.usage.total_tokens)
  end)

  it("asked again gives the same answer, without another connection", function()
    local job = start("job")
    local answer = job:wait()
    local sockets = #server:control("/sockets")
    assert.equal(answer, job:wait())
    assert.equal(sockets, #server:control("/sockets"))
  end)

  it("leaves the channel and closes the connection when it is done", function()
    local job = start("job")
    job:wait()
    local socket = ended_socket(job)
    assert.equal(1000, socket.close_received)
    assert.same({"phx_join", "phx_leave", "close 1000"}, heard(socket))
  end)

  it("has structured data, tool calls and test mode as a whole answer has", function()
    assert.truthy(start("structured"):wait().data.summary)
    assert.equal("tool_calls", client:ai_async{workflow = "tools", messages = {modelriver.user("?")},
      tools = {{type = "function", ["function"] = {name = "weather"}}}}:wait().finish_reason)
    local job = start("testmode")
    assert.truthy(job.test_mode)
    assert.truthy(job:wait().test_mode)
    assert.equal("one two three", start("anthropic"):wait():text())
  end)

  it("gives cache fields back", function()
    local job = client:ai_async{workflow = "job", user_id = "user_7", messages = {modelriver.user("?")}}
    assert.equal("user_7", job:wait().customer_data.user_id)
  end)

  it("counts its usage once", function()
    local counting <close> = support.client(server)
    local job = counting:ai_async(support.question("job"))
    job:wait()
    job:wait()
    assert.equal(1, counting.usage.total.requests)
    assert.equal(job.result.usage.total_tokens, counting.usage.by_workflow.job.total_tokens)
  end)

  for _, form in ipairs{"short", "topic:2", "topic:2+no_project", "jwt_token", "jwt_token+short", "ws_url:slash",
    "ws_url:full", "ws_url:bare", "ws_url:none", "http:201", "http:202", "pending:IN_PROGRESS", "no_token",
    "join_only:2+topic:2", "join_only:2+short", "join_only:3+jwt_token+short", "own_ref", "foreign_ref", "stray",
    "ping", "binary", "fragment:5", "ws_split:1", "meta_only", "success_event", "status:ok", "status:SUCCESS",
    "status:completed", "before_reply", "slow:50", "unknown_events:3", "mute_heartbeat"} do
    it("is answered with " .. form, function()
      assert.equal("one two three", start("job+" .. form):wait{timeout = 20}:text())
    end)
  end

  it("joins the full name where the project is known", function()
    local known <close> = support.client(server, {project_id = server.info.project_id})
    local topic
    known:ai_async(support.question("job+short+no_project+join_only:3")):wait{on_status = function(status, info)
      if status == "joined" then topic = info.topic end
    end}
    assert.truthy(topic:find("^ai_response:" .. server.info.project_id:gsub("%-", "%%-") .. ":"))
  end)

  it("takes large answers", function()
    assert.equal(3000000, #start("big:3000000"):wait():text())
  end)

  it("is asked for with all fields of the API", function()
    client:ai_async{workflow = "job", webhook_url = nil, delivery_method = "websocket", metadata = {a = 1},
      messages = {modelriver.user("?")}}:wait()
    local log = server:log("/v1/ai/async")
    assert.truthy(log[1].body:find('"delivery_method":"websocket"', 1, true))
    assert.truthy(log[1].body:find('"metadata":{"a":1}', 1, true))
  end)

  it("sends heartbeats to the socket and to the channel", function()
    local job = start("job+hold:beats")
    local waiting = task.spawn(function() return job:wait{heartbeat = 0.05} end)
    assert.truthy(server:wait{key = "frame:heartbeat", counted = 4})
    server:release("beats")
    assert.equal("one two three", waiting:await():text())
    local topics = {}
    for _, frame in ipairs(server:control("/frames", {way = "in"})) do
      if frame.text:find('"heartbeat"', 1, true) then
        topics[json.decode(frame.text)[3]:match("^[^:]+")] = true
      end
    end
    assert.same({phoenix = true, ai_response = true}, topics)
  end)

  it("is not troubled by a server that does not know the channel's heartbeat", function()
    local job = start("job+topic_heartbeat:none+hold:beats2")
    local waiting = task.spawn(function() return job:wait{heartbeat = 0.05} end)
    server:wait{key = "frame:heartbeat", counted = 6}
    server:release("beats2")
    assert.equal("one two three", waiting:await():text())
    assert.equal(0, job.reconnects)
  end)

  it("stays connected to a server that closes silent sockets", function()
    local job = start("job+idle:300+hold:alive")
    local waiting = task.spawn(function() return job:wait{heartbeat = 0.05} end)
    server:wait{key = "frame:heartbeat", counted = 16}
    server:release("alive")
    assert.equal("one two three", waiting:await():text())
    assert.equal(0, support.count(server, "idle"))
  end)
end)

describe("what a job tells on its way", function()
  before_each(function() server:reset() end)

  -- "step status" of every change, and every status.
  local function recorded(job, options)
    local steps, statuses = {}, {}
    options = options or {}
    options.on_step = function(step, all)
      steps[#steps + 1] = step.id .. " " .. step.status
      assert.equal("queue", all[1].id)
    end
    options.on_status = function(status, info, from)
      statuses[#statuses + 1] = status
      assert.equal("table", type(info))
      assert.equal(job, from)
    end
    options.timeout = options.timeout or 20
    local ok, result = pcall(job.wait, job, options)
    return steps, statuses, ok, result
  end

  local BEGIN = {"queue pending", "process pending", "receive pending", "complete pending"}

  local function after_begin(...)
    local list = {table.unpack(BEGIN)}
    for _, step in ipairs{...} do list[#list + 1] = step end
    return list
  end

  it("for an answer are the official client's steps", function()
    local job = start("job+slow:1")
    local steps, statuses = recorded(job)
    assert.same(after_begin("queue success", "process success", "receive success", "complete success"), steps)
    assert.same({"connecting", "connected", "joined", "completed"}, statuses)
    assert.equal("number", type(job.steps.list[2].duration_ms))
  end)

  it("for a backend's answer have one more", function()
    local job = start("event:new_order+auto")
    local steps, statuses = recorded(job)
    assert.same(after_begin("queue success", "process success", "backend pending", "backend success",
      "receive success", "complete success"), steps)
    assert.same({"connecting", "connected", "joined", "ai_generated", "completed"}, statuses)
    assert.equal(1250, job.steps.list[2].duration_ms)
    assert.equal("backend", job.steps.list[3].id)
  end)

  it("for a failure end with it", function()
    local steps, statuses, ok, err = recorded(start("job+fail_job:out of paper"))
    assert.falsy(ok)
    assert.same(after_begin("queue success", "process error", "receive error", "complete error"), steps)
    assert.same({"connecting", "connected", "joined", "failed"}, statuses)
    assert.truthy(err.message:find("out of paper", 1, true))
  end)

  it("for an error event leave the last steps alone", function()
    local steps, _, ok = recorded(start("job+error_event"))
    assert.falsy(ok)
    assert.same(after_begin("queue success", "process error"), steps)
  end)

  it("for a refusal end with the queue", function()
    local job = start("job+refuse:unauthorized_project_access")
    local steps, statuses, ok = recorded(job)
    assert.falsy(ok)
    assert.same(after_begin("queue error"), steps)
    assert.same({"connecting", "connected"}, statuses)
    assert.truthy(job.steps.list[1].error)
  end)

  it("for a lost connection are told once", function()
    local steps, statuses = recorded(start("job+close:1001"))
    assert.same(after_begin("queue success", "process success", "receive success", "complete success"), steps)
    assert.same({"connecting", "connected", "joined", "reconnecting", "connecting", "connected", "joined",
      "completed"}, statuses)
  end)

  it("hands on events that are not known", function()
    local job = start("job+unknown_events:3")
    local seen = {}
    job:wait{on_event = function(name, payload, from)
      seen[#seen + 1] = name .. payload.percent
      assert.equal(job, from)
    end}
    assert.same({"progress0", "progress1", "progress2"}, seen)
  end)

  it("gives what a listener raises to the one who waits, and does not connect again", function()
    for _, problem in ipairs{"mine", {kind = "odd"}, require("riverlua.errors").new{kind = "connect", message = "m"}} do
      for _, name in ipairs{"on_status", "on_step", "on_event"} do
        local job = start("job+unknown_events")
        local err = support.error_of(job.wait, job, {[name] = function() error(problem, 0) end})
        assert.equal(problem, err)
        assert.equal(0, job.reconnects)
        assert.equal("one two three", job:wait():text())
      end
    end
  end)

  it("gives what a listener raises about the end, and keeps the end", function()
    local job = start("job")
    local err = support.error_of(job.wait, job, {on_step = function(step)
      if step.id == "complete" and step.status == "success" then error("mine", 0) end
    end})
    assert.equal("mine", err)
    assert.equal("one two three", job.result:text())
  end)
end)

describe("a job that fails", function()
  local function failure(workflow)
    local job = start(workflow)
    local err = support.error_of(job.wait, job)
    assert.equal("job", err.kind)
    assert.equal(job.id, err.channel_id)
    assert.equal(workflow, err.workflow)
    assert.equal("failed", job.status)
    assert.equal(err, job.failure)
    assert.equal(err, support.error_of(job.wait, job))
    assert.is_nil(support.leak(server, err))
    return err
  end

  it("says why", function()
    assert.equal("job 'job+fail_job:no luck': no luck", failure("job+fail_job:no luck").message)
    assert.truthy(failure("job+fail_bare").message:find("does not say why", 1, true))
    assert.truthy(failure("job+error_event:odd").message:find("odd", 1, true))
  end)

  it("because of its providers tells of them", function()
    local err = failure("fail200+job")
    assert.equal("timeout", err.attempts[1].reason)
    assert.equal(504, err.provider_status)
    assert.truthy(err.message:find("Provider request failed: Upstream timeout", 1, true))
  end)

  it("has a status that is no success", function()
    for _, word in ipairs{"failed", "error", "weird"} do
      local job = start("job+hold:" .. word)
      local waiting = task.spawn(function() return job:wait() end)
      assert.truthy(server:wait{key = "joined", counted = 1})
      while server:control("/push", {channel_id = job.id, payload = '{"status":"' .. word .. '"}'}).listeners == 0 do
        task.sleep(0)
      end
      assert.equal("job", support.error_of(waiting.await, waiting).kind)
      assert.equal(word, job.failure.payload.status)
    end
  end)
end)

describe("an event-driven job", function()
  before_each(function() server:reset() end)

  local function address(job) return server:url("/v1/callback/" .. job.id) end

  it("is completed by a callback from another task", function()
    local job = start("event:new_order")
    local generated
    local waiting = task.spawn(function()
      return job:wait{on_status = function(status)
        if status == "ai_generated" then
          generated = job.status
          task.spawn(function()
            client:callback(address(job), {total = 3}, {task_id = "t7", metadata = {shop = "x"}})
          end)
        end
      end}
    end)
    local answer = waiting:await()
    assert.equal("ai_generated", generated)
    assert.same({total = 3}, answer.data)
    assert.equal("t7", answer.task_id)
    assert.same({shop = "x"}, answer.callback_metadata)
  end)

  it("is completed from its own listener", function()
    local job = start("event:new_order")
    assert.equal(5, job:wait{on_status = function(status)
      if status == "ai_generated" then client:callback(address(job), {total = 5}) end
    end}.data.total)
  end)

  it("fails when the backend says so", function()
    local job = start("event:new_order")
    local err = support.error_of(job.wait, job, {on_status = function(status)
      if status == "ai_generated" then client:callback_error(address(job), "no_stock", "nothing left") end
    end})
    assert.equal("job", err.kind)
    assert.equal("no_stock", err.code)
    assert.truthy(err.message:find("nothing left", 1, true))
    assert.equal("error", job.steps.list[3].status)
  end)

  it("fails when the backend does not call in time", function()
    local job = start("event:new_order+window:30")
    local err = support.error_of(job.wait, job)
    assert.equal("job", err.kind)
    assert.truthy(err.message:find("Callback timeout", 1, true))
  end)

  it("has its own deadline", function()
    local job = start("event:new_order")
    local err = support.error_of(job.wait, job, {timeout = 0.3})
    assert.equal("timeout", err.kind)
    assert.equal("job", err.phase)
    assert.truthy(err.message:find("the backend's callback did not come", 1, true))
    assert.equal("ai_generated", job.status)
    client:callback(address(job), {late = false})
    assert.same({late = false}, job:wait().data)
  end)

  it("gives what the model said, in the old form", function()
    local job = start("event:new_order+old+auto")
    job:wait()
    assert.truthy(job.ai_response.data)
  end)

  it("is told of once, however often the connection is lost", function()
    local job = start("event:new_order")
    local told = 0
    local waiting = task.spawn(function()
      return job:wait{on_status = function(status)
        if status == "ai_generated" then told = told + 1 end
        if status == "joined" and job.reconnects == 1 then client:callback(address(job), {done = true}) end
      end}
    end)
    assert.truthy(server:wait{key = "joined", counted = 1})
    server:control("/kill", {code = "1001"})
    assert.same({done = true}, waiting:await().data)
    assert.equal(1, told)
  end)
end)

describe("waiting for a job", function()
  before_each(function() server:reset() end)

  it("ends at its deadline, and may be done again", function()
    local job = start("job+hold:later")
    local err = support.error_of(job.wait, job, {timeout = 0.2})
    assert.equal("timeout", err.kind)
    assert.equal("job", err.phase)
    assert.equal("job 'job+hold:later': no answer within 0.2 s", err.message)
    assert.truthy(err.hint:find("job:wait again", 1, true))
    assert.equal("pending", job.status)
    local socket = ended_socket(job)
    assert.same({"phx_join", "phx_leave", "close 1000"}, heard(socket))
    server:release("later")
    assert.equal("one two three", job:wait():text())
    assert.equal(1, support.count(server, "reconnect"))
  end)

  it("ends at its deadline however much the server says", function()
    local job = start("job+unknown_events:20000")
    local err = support.error_of(job.wait, job, {timeout = 0.3, on_event = function() task.sleep(0.001) end})
    assert.equal("timeout", err.kind)
    assert.equal("job", err.phase)
  end)

  it("that is cancelled leaves and closes", function()
    local job = start("job+hold:never")
    local waiting = task.spawn(function() return job:wait() end)
    assert.truthy(server:wait{key = "joined", counted = 1})
    for _ = 1, 50 do task.sleep(0) end
    waiting:cancel()
    assert.equal("cancelled", support.error_of(waiting.await, waiting).kind)
    local socket = ended_socket(job)
    assert.equal("close 1000", heard(socket)[#heard(socket)])
  end)

  it("that fails leaves and closes", function()
    for _, workflow in ipairs{"job+fail_job", "job+error_event", "job+refuse:no"} do
      local job = start(workflow)
      support.error_of(job.wait, job)
      assert.equal(1000, ended_socket(job).close_received)
    end
    local job = start("job+hold:never2")
    support.error_of(job.wait, job, {on_status = function(status) if status == "joined" then error("x", 0) end end})
    assert.equal(1000, ended_socket(job).close_received)
  end)

  it("may be done by several tasks", function()
    local job = start("job+hold:two")
    local one = task.spawn(function() return job:wait() end)
    local two = task.spawn(function() return job:wait() end)
    local short = task.spawn(function() return job:wait{timeout = 0.1} end)
    assert.equal("timeout", support.error_of(short.await, short).kind)
    server:wait{key = "joined", counted = 1}
    assert.equal(1, #server:control("/sockets"))
    server:release("two")
    assert.equal(one:await(), two:await())
  end)

  it("goes on in another task when the one that listened is cancelled", function()
    local job = start("job+hold:over")
    local one = task.spawn(function() return job:wait() end)
    local two = task.spawn(function() return job:wait() end)
    assert.truthy(server:wait{key = "joined", counted = 1})
    one:cancel()
    assert.truthy(server:wait{key = "joined", counted = 2})
    server:release("over")
    assert.equal("one two three", two:await():text())
  end)

  it("works where Lua cannot yield", function()
    local list, text = {2, 1}, nil
    table.sort(list, function(a, b)
      text = text or start("job+slow:5"):wait():text()
      return a < b
    end)
    assert.equal("one two three", text)
  end)

  it("is refused with wrong options", function()
    local job = start("job")
    for _, options in ipairs{{timeot = 1}, {timeout = 0}, {timeout = "1"}, {timeout = 0 / 0}, {heartbeat = -1},
      {on_status = 7}, {on_step = "x"}, {on_event = {}}} do
      assert.equal("argument", support.error_of(job.wait, job, options).kind)
    end
    assert.truthy(support.error_of(job.wait, job, {timeot = 1}).message:find("timeout", 1, true))
    job:wait()
  end)

  it("ends with its client", function()
    local closing = support.client(server)
    local job = closing:ai_async(support.question("job+hold:closed"))
    closing:close()
    assert.equal("closed", support.error_of(job.wait, job).kind)
  end)
end)

describe("a job over TLS", function()
  it("is listened to with the client's certificates", function()
    local secure <close> = support.client(server, {base_url = server:url("", "tls"),
      http = {proxy = false, ca_file = server.info.ca_file}})
    local job = secure:ai_async(support.question("job+close:1001"))
    assert.truthy(job.websocket_url:find("^wss://"))
    assert.equal("one two three", job:wait():text())
  end)
end)

describe("where a job listens", function()
  local function place(base, given, options)
    options = options or {}
    return job_place.socket_address({gateway = {base_url = base}, allow_insecure_ws = options.insecure}, given, "a/b=")
  end
  local TAIL = "/websocket?token=a%2Fb%3D&vsn=2.0.0"

  it("is what the service says, in all its forms", function()
    for _, given in ipairs{"wss://h.example/socket", "wss://h.example/socket/", "wss://h.example/socket/websocket",
      "wss://h.example/socket/websocket/", "wss://h.example", "wss://h.example/", "https://h.example/socket",
      "wss://h.example/socket?x=1#y"} do
      assert.equal("wss://h.example/socket" .. TAIL, place("https://api.example", given))
    end
    assert.equal("wss://api.example/socket" .. TAIL, place("https://api.example", nil))
    assert.equal("ws://127.0.0.1:4000/api/socket" .. TAIL, place("http://127.0.0.1:4000/api", nil))
  end)

  it("is encrypted when the API is, but for loopback and by leave", function()
    assert.equal("wss://h.example/socket" .. TAIL, place("https://api.example", "ws://h.example/socket"))
    assert.equal("wss://h.example:4000/socket" .. TAIL, place("https://api.example", "ws://h.example:4000/socket"))
    assert.equal("wss://h.example/socket" .. TAIL, place("https://api.example", "ws://h.example:80/socket"))
    assert.equal("ws://h.example/socket" .. TAIL, place("https://api.example", "ws://h.example/socket",
      {insecure = true}))
    for _, host in ipairs{"localhost:1", "127.0.0.1:1", "[::1]:1"} do
      assert.equal("ws://" .. host .. "/socket" .. TAIL, place("https://api.example", "ws://" .. host .. "/socket"))
    end
    assert.equal("ws://h.example/socket" .. TAIL, place("http://api.example", "ws://h.example/socket"))
  end)

  it("must be a WebSocket", function()
    assert.equal("protocol", support.error_of(place, "https://api.example", "ftp://h.example").kind)
    assert.equal("protocol", support.error_of(place, "https://api.example", "socket").kind)
  end)
end)

describe("asking for a job", function()
  it("fails as a request does", function()
    for switch, kind in pairs{["job+fail401"] = "auth", ["job+fail422"] = "invalid_request", ["no such"] = "not_found",
      ["job+badjson"] = "protocol", ["job+text200"] = "protocol", ["job+empty200"] = "protocol",
      ["job+no_channel"] = "protocol", ["job+truncate"] = "protocol", ["job+badjson+short"] = "protocol"} do
      local err = support.error_of(start, switch)
      assert.equal(kind, err.kind)
      assert.equal(switch, err.workflow)
      assert.is_nil(support.leak(server, err))
    end
  end)

  it("is not done again when nobody knows whether it was", function()
    for _, how in ipairs{"lose_answer:1", "fail502"} do
      local careful <close> = support.client(server, {retries = 3})
      local workflow = support.unique("job+" .. how)
      support.error_of(careful.ai_async, careful, support.question(workflow))
      local sent = 0
      for _, line in ipairs(server:log("/v1/ai/async")) do
        if line.body:find(workflow, 1, true) then sent = sent + 1 end
      end
      assert.equal(1, sent)
    end
  end)
end)

describe("secrets of a job", function()
  it("are in no tostring and no trace", function()
    local events = {}
    local traced <close> = support.client(server, {trace = function(event) events[#events + 1] = event end})
    local job = traced:ai_async(support.question("job+close:1001"))
    assert.is_nil(tostring(job):find("wst_", 1, true))
    local told = {}
    job:wait{on_status = function(status, info) told[#told + 1] = {status, info.reason, info.topic} end}
    assert.is_nil(support.leak(server, {events, told}))
    assert.is_nil(job.ws_token)
  end)
end)
