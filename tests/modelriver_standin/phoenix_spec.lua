-- The stand-in's channels are what phoenix.js, which the official client rides on, expects of a server.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")

describe("phoenix.js on the stand-in", function()
  local missing = support.no_node()
  if missing then
    pending(missing)
    return
  end

  local server, seen

  setup(function()
    server = support.start()
    seen = support.ask_node(server, "phoenix_client.js")
  end)

  teardown(function() server:close() end)

  it("has nothing to complain about", function() assert.equal("", server:errors()) end)

  -- What a scenario saw; the error that it met instead fails the test.
  local function of(name)
    assert.is_nil(seen[name].failure)
    return seen[name]
  end

  -- A scenario in which exactly the good result arrived.
  local function assert_result(name)
    local got = of(name)
    assert.equal("response", got.event)
    assert.equal("success", got.payload.status)
    assert.equal("Hello", got.payload.content)
    return got
  end

  it("joins by the topic of three parts and gets the result", function()
    local got = assert_result("three_parts")
    assert.same({user_id = "u1"}, got.payload.customer_data)
    assert.equal("Hello", got.payload.data.choices[1].message.content)
    assert.equal(21, got.payload.meta.usage.total_tokens)
  end)

  it("joins by the topic of two parts, the specification's short answer", function()
    local got = assert_result("two_parts")
    assert.equal(2, got.parts)
    assert.same({"channel_id", "message", "status", "websocket_channel", "websocket_url", "ws_token"}, got.keys)
  end)

  it("gets results with its own join_ref, and drops those with another", function()
    assert_result("own_ref")
    assert_result("foreign_ref")
  end)

  it("gets a result that comes before the answer to its join", function() assert_result("before_reply") end)

  it("gets results in fragments with a ping between, and byte by byte", function()
    assert_result("fragments")
    assert_result("bytewise")
  end)

  it("gets a result of a megabyte", function() assert.equal(1048576, of("big").length) end)

  it("gets a result that was held until it was released", function()
    assert.equal(0, of("held").before)
    assert.equal("success", of("held").status)
  end)

  it("gets failures as payloads and as the event error", function()
    assert.same({message = "no luck"}, of("failed").payload.error)
    assert.equal("error", of("failed").payload.status)
    assert.equal(504, of("provider_failed").payload.error.details.status)
    assert.equal("error", of("error_event").event)
    assert.same({message = "no luck"}, of("error_event").payload)
  end)

  it("gets events that the pages do not name", function()
    assert.equal("success", of("success_event").event)
    assert.equal("progress", of("unknown_event").event)
  end)

  it("gets ai_generated and, after the callback, completed", function()
    local got = of("event_driven")
    assert.equal("ai_generated", got.first.status)
    assert.equal("new_movie", got.first.event_name)
    assert.is_nil(got.first.ai_response)
    assert.equal(200, got.callback)
    assert.equal("completed", got.second.status)
    assert.same({title = "Ada"}, got.second.data)
    assert.equal("t1", got.second.task_id)
    assert.same({a = 1}, got.second.callback_metadata)
    assert.equal(409, got.again)
  end)

  it("has its heartbeats answered, on both topics", function()
    local got = of("heartbeats")
    assert.is_false(got.timeout)
    assert.same({}, got.response)
    assert.equal(0, got.closed)
  end)

  it("closes when its heartbeats are not answered", function() assert.equal(1000, of("no_heartbeats").status) end)

  it("joins again on the same socket when the channel crashes", function()
    assert.same({name = "crash", joins = 2, opened = 1, status = "success"}, of("crash"))
  end)

  it("joins again when a join is not answered, or refused once", function()
    assert.equal("success", of("mute_join").status)
    assert.equal("busy", of("refused_once").reason)
    assert.equal("success", of("refused_once").status)
  end)

  it("is told why a join is refused", function()
    local reasons = {
      unauthorized = "unauthorized_project_access", other_project = "unauthorized_project_access",
      format = "invalid_channel_format", project = "invalid_project_uuid", channel = "invalid_channel_uuid",
      topic = "unmatched topic", crashed = "join crashed",
    }
    for name, reason in pairs(reasons) do assert.equal(reason, of("refused_" .. name).reason) end
    assert.is_nil(of("refused_silently").reason)
  end)

  it("is refused with a spent token, again and again, and with an expired one", function()
    local got = of("spent_token")
    assert.same({"Unexpected server response: 403", "Unexpected server response: 403"}, got.errors)
    assert.equal(1, got.opened)
    assert.equal("Unexpected server response: 403", of("expired_token").message)
  end)

  it("loses its socket in every way and gets the result with a fresh token", function()
    local codes = {close_1000 = 1000, close_1001 = 1001, close_empty = 1005, close_reset = 1006, close_fin = 1006,
      close_early = 1012}
    for name, code in pairs(codes) do
      assert.equal(code, of(name).code, name)
      assert.equal("success", of(name).status, name)
      assert.equal(2, of(name).opened, name)
    end
  end)

  it("is closed when it says nothing for too long", function() assert.equal(1000, of("idle").code) end)

  it("leaves with an answer and phx_close, whose ref is the join_ref", function()
    assert.same({name = "leave", events = {"phx_reply", "phx_reply", "phx_close"}, status = "ok", same = true},
      of("leave"))
  end)

  it("has its first channel closed by a second join of the topic", function()
    assert.equal(1, of("two_joins").closed)
  end)
end)
