-- Async jobs of the embedded service, and the Phoenix channels that tell of their end.

local digest = require "riverlua.digest"
local embedded = require "modelriver.embedded"
local servers = dofile("tests/support/servers.lua")
local support = dofile("tests/modelriver_embedded/support.lua")
local task = require "riverlua.task"

local answer, join, receive, response, send = support.answer, support.join, support.receive, support.response,
  support.send

local UUID = "%x%x%x%x%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x%x%x%x%x%x%x%x%x"

describe("jobs of the embedded service", function()
  local transport, gate

  before_each(function()
    embedded.reset()
    transport = embedded.new()
    gate = task.queue()
    embedded.workflow("w", {cache_fields = {"user_id"},
      respond = function(_, context) return "re: " .. context.text end})
    embedded.workflow("waits", function() return gate:get() end)
    embedded.workflow("event", {event_name = "new_thing", respond = function() return {x = 1} end})
  end)
  after_each(function()
    gate:close()
    transport:close()
    embedded.reset()
  end)

  it("whose callback never comes are not kept for ever, though their client is closed", function()
    local hasty, told = embedded.new{callback_seconds = 0}, task.queue()
    embedded.webhook("embedded:told", function() told:put(true) end)
    local details = support.start(hasty, {workflow = "event", webhook_url = "embedded:told"})
    told:get(10)
    hasty:close()
    support.start(transport, {workflow = "w"})   -- looks after them
    embedded.reset()                             -- forgets what has ended
    answer(transport, {channel_id = details.channel_id}, "/v1/ai/reconnect", 404)
  end)

  local function callback(details, body)
    return transport:request{method = "POST", path = "/v1/callback/" .. details.channel_id, json = body}
  end

  local function refusal_of(url)
    local err = support.error_of(transport.websocket, transport, url)
    assert.equal("websocket", err.kind)
    return err.status
  end

  it("are answered at once, with what is needed to listen", function()
    local details = support.start(transport, {workflow = "waits"})
    assert.equal("pending", details.status)
    assert.equal("success", details.message)
    assert.truthy(details.channel_id:find("^" .. UUID .. "$"))
    assert.truthy(details.project_id:find("^" .. UUID .. "$"))
    assert.equal("embedded:/socket", details.websocket_url)
    assert.equal(("ai_response:%s:%s"):format(details.project_id, details.channel_id), details.websocket_channel)
    assert.equal("string", type(details.ws_token))
    assert.is_nil(details.test_mode)
  end)

  it("are refused as other requests are", function()
    answer(transport, {workflow = "nope"}, "/v1/ai/async", 404)
    answer(transport, {workflow = "w", temperature = 9}, "/v1/ai/async", 400)
    assert.equal("events", answer(transport, {workflow = "w", events = {"x"}}, "/v1/ai/async", 400).error.param)
    assert.equal("events", answer(transport, {workflow = "event", events = {"x"}}, "/v1/ai/async", 400).error.param)
    support.start(transport, {workflow = "event", events = {"other", "new_thing"}})
    assert.equal("webhook_url", answer(transport, {workflow = "w", webhook_url = "ftp://x"}, "/v1/ai/async", 400)
      .error.param)
  end)

  it("tell their result to those who joined", function()
    local details = support.start(transport, {workflow = "waits"})
    local peer, reply = join(transport, details)
    assert.same({join_ref = "1", ref = "1", topic = details.websocket_channel, event = "phx_reply",
      payload = {status = "ok", response = {}}}, reply)
    gate:put("late")
    local frame = receive(peer)
    assert.same({details.websocket_channel, "response"}, {frame.topic, frame.event})
    assert.is_nil(frame.join_ref)
    assert.is_nil(frame.ref)
    local payload = frame.payload
    assert.same({"success", "success", details.channel_id, "late", "waits"}, {payload.status, payload.message,
      payload.channel_id, payload.content, payload.model})
    assert.equal("late", payload.data.choices[1].message.content)
    assert.equal("success", payload.meta.status)
    assert.equal("waits", payload.meta.workflow)
    assert.equal("number", type(payload.meta.duration_ms))
  end)

  it("tell their result to those who join later, as often as they do", function()
    local details = support.start(transport, {workflow = "w", user_id = "u"})
    task.sleep(0)
    local peer = join(transport, details)
    assert.same({user_id = "u"}, response(peer).customer_data)
    send(peer, "2", "2", details.websocket_channel, "phx_join")
    local closed = receive(peer)   -- the old channel goes first
    assert.same({"1", "1", "phx_close"}, {closed.join_ref, closed.ref, closed.event})
    assert.equal("2", receive(peer).ref)
    assert.equal("re: hello world", response(peer).content)
  end)

  it("can be joined by the short form of the topic", function()
    local details = support.start(transport, {workflow = "w"})
    local topic = "ai_response:" .. details.channel_id
    local peer, reply = join(transport, details, topic)
    assert.equal("ok", reply.payload.status)
    local frame = receive(peer)
    assert.equal(topic, frame.topic)
    assert.equal("success", frame.payload.status)
  end)

  it("take structured answers, test mode and failures with them", function()
    embedded.workflow("structured", function() return {a = 1} end)
    local payload = response((join(transport, support.start(transport, {workflow = "structured"}))))
    assert.same({a = 1}, payload.data)
    assert.is_true(payload.meta.structured_output)
    embedded.workflow("test", {testing = {sample = {a = 2}}})
    local details = support.start(transport, {workflow = "test"})
    assert.is_true(details.test_mode)
    assert.same({a = 2}, response((join(transport, details))).data)
    embedded.workflow("fails", function() error({status = 504, message = "too late"}, 0) end)
    payload = response((join(transport, support.start(transport, {workflow = "fails"}))))
    assert.equal("error", payload.status)
    assert.same({message = "Provider request failed", details = {status = 504, message = "too late"}}, payload.error)
    assert.equal("error", payload.meta.attempts[1].status)
  end)

  it("spend their token with the first connection", function()
    local details = support.start(transport, {workflow = "w"})
    local peer <close> = transport:websocket(support.address(details))   -- luacheck: ignore 211
    assert.equal(403, refusal_of(support.address(details)))
    assert.equal(403, refusal_of(support.address(details, "invented")))
    assert.equal(403, refusal_of("embedded:/socket/websocket?vsn=2.0.0"))
    assert.equal(400, refusal_of("embedded:/socket/websocket?token=x&vsn=1.0.0"))
    assert.equal(404, refusal_of("embedded:/socket?token=x&vsn=2.0.0"))
  end)

  it("never show a token in an error", function()
    local details = support.start(transport, {workflow = "w"})
    transport:websocket(support.address(details)):close()
    local err = support.error_of(transport.websocket, transport, support.address(details))
    assert.is_nil(tostring(err):find(details.ws_token, 1, true))
  end)

  it("have tokens that expire, and give fresh ones", function()
    support.with({token_seconds = 0}, function(hasty)
      local details = support.start(hasty, {workflow = "w"})
      assert.equal(403, support.error_of(hasty.websocket, hasty, support.address(details)).status)
    end)
    local details = support.start(transport, {workflow = "w"})
    transport:websocket(support.address(details)):close()
    local fresh = answer(transport, {channel_id = details.channel_id}, "/v1/ai/reconnect")
    assert.not_equal(details.ws_token, fresh.ws_token)
    assert.same({details.channel_id, details.project_id, details.websocket_url, details.websocket_channel},
      {fresh.channel_id, fresh.project_id, fresh.websocket_url, fresh.websocket_channel})
    assert.equal("success", response((join(transport, fresh))).status)
    answer(transport, {channel_id = digest.uuid()}, "/v1/ai/reconnect", 404)
    assert.equal("channel_id", answer(transport, {channel_id = 5}, "/v1/ai/reconnect", 400).error.param)
  end)

  it("refuse joins by name", function()
    local details = support.start(transport, {workflow = "w"})
    local peer = transport:websocket(support.address(details))
    local project, channel = details.project_id, details.channel_id
    local function reason(topic)
      send(peer, "7", "8", topic, "phx_join")
      local frame = receive(peer)
      assert.same({"8", "phx_reply", "error", topic}, {frame.ref, frame.event, frame.payload.status, frame.topic})
      return frame.payload.response.reason, frame.join_ref
    end
    local why, join_ref = reason("other:" .. channel)
    assert.equal("unmatched topic", why)
    assert.is_nil(join_ref)
    why, join_ref = reason("ai_response:")
    assert.equal("invalid_channel_format", why)
    assert.equal("7", join_ref)
    for topic, expected in pairs{
      ["ai_response:a:b:c"] = "invalid_channel_format",
      ["ai_response:nope:" .. channel] = "invalid_project_uuid",
      ["ai_response:" .. project .. ":nope"] = "invalid_channel_uuid",
      ["ai_response:" .. digest.uuid() .. ":" .. channel] = "unauthorized_project_access",
      ["ai_response:" .. project .. ":" .. digest.uuid()] = "unknown_channel",
    } do assert.equal(expected, (reason(topic))) end
  end)

  it("belong to their project", function()
    support.with({project_id = digest.uuid()}, function(other)
      local details, foreign = support.start(transport, {workflow = "w"}), support.start(other, {workflow = "w"})
      answer(other, {channel_id = details.channel_id}, "/v1/ai/reconnect", 404)
      local _, reply = join(other, foreign, "ai_response:" .. details.channel_id)
      assert.equal("unauthorized_project_access", reply.payload.response.reason)
    end)
  end)

  it("answer heartbeats, leaves, and frames that make no sense", function()
    local details = support.start(transport, {workflow = "waits"})
    local peer = join(transport, details)
    local topic = details.websocket_channel
    send(peer, nil, "2", "phoenix", "heartbeat")
    assert.same({ref = "2", topic = "phoenix", event = "phx_reply", payload = {status = "ok", response = {}}},
      receive(peer))
    send(peer, "1", "3", topic, "heartbeat")
    assert.same({"1", "3", "ok"}, (function(f) return {f.join_ref, f.ref, f.payload.status} end)(receive(peer)))
    send(peer, "1", "4", topic, "phx_leave")
    assert.same({"1", "4", "phx_reply"}, (function(f) return {f.join_ref, f.ref, f.event} end)(receive(peer)))
    assert.same({"1", "1", "phx_close"}, (function(f) return {f.join_ref, f.ref, f.event} end)(receive(peer)))
    send(peer, "1", "5", topic, "phx_leave")
    assert.equal("ok", receive(peer).payload.status)
    send(peer, "1", "6", topic, "heartbeat")
    assert.equal("unmatched topic", receive(peer).payload.response.reason)
    gate:put("nobody hears it")
    assert.equal("timeout", support.error_of(peer.receive, peer, 0.01).kind)
    for _, text in ipairs{"", "{}", "[]", "[1,2]", '["1","1",5,"phx_join",{}]', '["1","1","x","phx_join",5]'} do
      local fresh = answer(transport, {channel_id = details.channel_id}, "/v1/ai/reconnect")
      local other = transport:websocket(support.address(fresh))
      other:send(text)
      assert.is_nil(other:receive(1))
      assert.equal(1011, other.close_code)
      assert.equal("websocket", support.error_of(other.send, other, text).kind)
    end
  end)

  it("close their WebSockets", function()
    local details = support.start(transport, {workflow = "waits"})
    local peer = join(transport, details)
    local waiting = task.spawn(peer.receive, peer)
    task.sleep(0)
    peer:close(1000, "done")
    assert.is_nil(waiting:await())
    assert.same({1000, "done"}, {peer.close_code, peer.close_reason})
    gate:put("nobody hears it")
    task.sleep(0)
    assert.is_nil(peer:receive())
  end)

  it("of an event-driven workflow wait for the callback", function()
    local details = support.start(transport, {workflow = "event"})
    local peer = join(transport, details)
    local generated = response(peer)
    assert.same({"ai_generated", "new_thing", details.channel_id}, {generated.status, generated.event_name,
      generated.channel_id})
    assert.equal("number", type(generated.meta.duration_ms))
    assert.is_nil(generated.ai_response)
    for _, body in ipairs{{data = 5}, {data = {1}}, {task_id = "t"}, {error = 5}} do
      assert.equal(400, callback(details, body).status)
    end
    local res = callback(details, {data = {y = 2}, task_id = "t1", metadata = {m = 3}})
    assert.equal(200, res.status)
    local payload = response(peer)
    assert.same({"completed", details.channel_id, "t1"}, {payload.status, payload.channel_id, payload.task_id})
    assert.same({y = 2}, payload.data)
    assert.same({m = 3}, payload.callback_metadata)
    assert.equal(409, callback(details, {data = {y = 3}}).status)
    local fresh = answer(transport, {channel_id = details.channel_id}, "/v1/ai/reconnect")
    assert.same({y = 2}, response((join(transport, fresh))).data)
  end)

  it("take a callback that reports a failure", function()
    local details = support.start(transport, {workflow = "event"})
    local peer = join(transport, details)
    response(peer)
    assert.equal(200, callback(details, {error = "no_stock", message = "Nothing left"}).status)
    local payload = response(peer)
    assert.same({"error", "Nothing left", "no_stock"}, {payload.status, payload.error.message, payload.error.code})
  end)

  it("refuse callbacks for others", function()
    assert.equal(404, callback({channel_id = digest.uuid()}, {data = {}}).status)
    local details = support.start(transport, {workflow = "waits"})
    assert.equal(409, callback(details, {data = {}}).status)
  end)

  it("end in an error when the callback does not come in time", function()
    support.with({callback_seconds = 0.01}, function(hasty)
      local details = support.start(hasty, {workflow = "event"})
      local peer = join(hasty, details)
      assert.equal("ai_generated", response(peer).status)
      local payload = response(peer)
      assert.equal("error", payload.status)
      assert.truthy(payload.error.message:lower():find("timeout"))
      local res = hasty:request{method = "POST", path = "/v1/callback/" .. details.channel_id, json = {data = {}}}
      assert.equal(410, res.status)
    end)
  end)

  it("may be taken up by another client of the process", function()
    local details
    support.with({}, function(first)
      details = support.start(first, {workflow = "w"})
      task.sleep(0)
    end)
    local fresh = answer(transport, {channel_id = details.channel_id}, "/v1/ai/reconnect")
    assert.equal("re: hello world", response((join(transport, fresh))).content)
  end)

  it("run side by side, by the hundred", function()
    local jobs, peers = {}, {}
    for i = 1, 200 do
      jobs[i] = support.start(transport, {workflow = "waits"})
      peers[i] = join(transport, jobs[i])
    end
    for i = 1, 200 do gate:put("answer " .. i) end
    local seen = {}
    for i = 1, 200 do seen[response(peers[i]).content] = true end
    for i = 1, 200 do assert.is_true(seen["answer " .. i]) end
  end)

  it("that nobody waits for are cancelled when the client is closed; others go on", function()
    local ended = 0
    embedded.workflow("slow", function()
      local _ <close> = setmetatable({}, {__close = function() ended = ended + 1 end})
      return gate:get()
    end)
    local client = embedded.new()
    local listened, left = support.start(client, {workflow = "slow"}), support.start(client, {workflow = "slow"})
    local alone = support.start(client, {workflow = "slow"})
    local peer, other = join(client, listened), join(client, left)
    task.sleep(0)
    client:close()
    task.sleep(0)
    assert.equal(1, ended)
    local fresh = answer(transport, {channel_id = alone.channel_id}, "/v1/ai/reconnect")
    assert.truthy(response((join(transport, fresh))).error.message:find("cancelled"))
    other:close()
    task.sleep(0)
    assert.equal(2, ended)
    gate:put("still there")
    assert.equal("still there", response(peer).content)
  end)

  it("keep no script alive that has closed its client, nor one that waits for no callback", function()
    local child = servers.run([[
      local embedded = require "modelriver.embedded"
      local task = require "riverlua.task"
      embedded.workflow("slow", function() task.sleep(3600) end)
      embedded.workflow("event", {event_name = "e", webhook_url = "embedded:nobody",
        respond = function() return "x" end})
      local client = embedded.new{webhook_delays = {0, 3600}}
      for _, name in ipairs{"slow", "event"} do
        local body = {workflow = name, prompt = "p"}
        assert(client:request{method = "POST", path = "/v1/ai/async", json = body}.status == 200)
      end
      task.sleep(0)
      client:close()
      local other = embedded.new()
      other:request{method = "POST", path = "/v1/ai/async", json = {workflow = "event", prompt = "p"}}
      print("end")
    ]], {seconds = 20, environment = {RIVERLUA_PATH_DEV = "lua"}})
    assert.same({0, "end\n", ""}, {child.code, child.out, child.err})
  end)
end)
