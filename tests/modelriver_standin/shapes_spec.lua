-- What the stand-in says on the wire is what ModelRiver's pages show, or broken as it was ordered.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")

local SAMPLE = {summary = "Launch went well", topics = {"launch", "sales"}, confidence = 0.95}

-- The same without the tags and metatables of decoded JSON.
local function plain(value)
  if type(value) ~= "table" then return value end
  local copy = {}
  for key, item in pairs(value) do copy[key] = plain(item) end
  return copy
end

describe("the stand-in", function()
  local server, seen

  setup(function()
    server = support.start()
    seen = plain(support.ask_python(server, "shapes.py"))
  end)

  teardown(function() server:close() end)

  it("has nothing to complain about", function() assert.equal("", server:errors()) end)

  describe("answers", function()
    it("raw: the provider's body, with the rest in headers", function()
      local raw = seen.raw
      assert.equal("Hello from here", raw.body.choices[1].message.content)
      assert.equal("echo", raw.headers["x-modelriver-workflow"])
      assert.equal("1", raw.headers["x-modelriver-attempts"])
      assert.equal("claude-3-5-sonnet", seen.anthropic.headers["x-modelriver-model"])
      assert.equal("Hello from here", seen.anthropic.body.content[1].text)
      assert.is_nil(seen.bare.headers["x-modelriver-workflow"])
    end)

    it("wrapped: as the specification's sample", function()
      local body = seen.wrapped.body
      assert.same(SAMPLE, body.data)
      assert.same({user_id = "u", ["metadata.audience"] = "enterprise customers"}, body.customer_data)
      assert.same({
        status = "success", http_status = 200, workflow = "structured+failover", requested_provider = "openai",
        requested_model = "gpt-4o-mini", used_provider = "anthropic", used_model = "claude-3-5-sonnet",
        duration_ms = 1420, usage = {prompt_tokens = 9, completion_tokens = 12, total_tokens = 21},
        structured_output = true, attempts = {
          {provider = "openai", model = "gpt-4o-mini", status = "error", reason = "timeout"},
          {provider = "anthropic", model = "claude-3-5-sonnet", status = "success"}},
      }, body.meta)
      assert.same({{position = 1, provider = "anthropic", model = "claude-3-5-sonnet"}}, body.backups)
      assert.same({user_id = "u"}, seen.cached_data.body.cached_data)
      assert.equal("marketing-summary", seen.alias.body.meta.workflow)
    end)

    it("failed providers with 200", function()
      local expected = {status = 200, body = {
        customer_data = {}, error = {message = "Provider request failed",
          details = {status = 504, message = "Upstream timeout"}},
        meta = {status = "error", http_status = 502, workflow = "fail200",
          attempts = {{provider = "openai", model = "gpt-4o-mini", status = "error", reason = "timeout"}}}}}
      for _, name in ipairs{"fail200", "stream_fail200"} do
        assert.equal(expected.status, seen[name].status)
        assert.same(expected.body, seen[name].body)
        assert.truthy(seen[name].headers["content-type"]:find("^application/json"))
      end
    end)

    it("made up and in test mode", function()
      assert.equal("true", seen.offline[1].headers["x-modelriver-offline-fallback"])
      assert.is_true(seen.offline[2].body.meta.offline_fallback)
      assert.same({data = SAMPLE, customer_data = {user_id = "u"}, meta = {provider = "Testing", model = "test-mode",
        test_mode = true, tokens = {prompt = 0, completion = 0, total = 0}, duration_ms = 150}}, seen.testmode.body)
      assert.is_true(seen.async_testmode)
    end)

    it("with provider and model instead of a workflow, and with the request's own schema", function()
      assert.equal("xai", seen.without_workflow[1].body.meta.used_provider)
      assert.equal(400, seen.without_workflow[2].status)
      assert.same({{n = 3}, {n = 3}}, seen.inline_schema)
      assert.truthy(seen.image.body.data.data[1].url)
    end)

    it("requests that are wrong", function()
      assert.equal("messages", seen.no_messages.body.error.param)
      assert.equal(400, seen.not_json.status)
      assert.same({errors = {detail = "Not Found"}}, seen.no_route.body)
      assert.equal(200, seen.prefix)
    end)
  end)

  describe("fails", function()
    it("in every shape", function()
      local message, bodies = "Service unavailable", {}
      for shape, answer in pairs(seen.shapes) do bodies[shape] = answer.body end
      assert.same({
        openai = {error = {message = message, type = "server_error", code = "service_unavailable"}},
        string = {error = "service_unavailable", message = message}, message = {message = message},
        errors = {errors = {detail = message}}, text = message, empty = "", list = {"nothing", "known"},
        html = seen.broken.html500.body,
      }, bodies)
    end)

    it("with advice for retries", function()
      assert.equal("1.5", seen.retry_headers["retry-after"])
      assert.equal("20", seen.retry_headers["retry-after-ms"])
      assert.equal("true", seen.retry_headers["x-should-retry"])
      assert.truthy(seen.retry_date["retry-after"]:find("GMT$"))
      assert.same({500, 500, 200}, seen.flaky)
    end)

    it("by ending or spoiling the answer", function()
      local broken = seen.broken
      assert.equal("ConnectionError", broken.reset.raised)
      assert.equal("ConnectionError", broken.close_http.raised)
      assert.equal("ChunkedEncodingError", broken.truncate.raised)
      assert.equal("string", type(broken.badjson.body))
      assert.equal("", broken.empty200.body)
      assert.equal("all is well", broken.text200.body)
      assert.equal(500, broken.html500.status)
    end)

    it("but knows a request by its idempotency key", function()
      assert.same({same = true, conflict = 409, lost = {raised = "ConnectionError"}, found = 200, runs = 1,
        counted = 3}, seen.idempotency)
    end)
  end)

  describe("streams", function()
    it("as the pages show it, with the line ends that are asked for", function()
      local text = seen.streams[""].text
      assert.equal("text/event-stream; charset=utf-8", seen.streams[""].type)
      assert.equal("data: [DONE]\n\n", text:sub(-14))
      assert.equal(text:gsub("\n", "\r\n"), seen.streams["+crlf"].text)
      assert.equal(text:gsub("\n", "\r"), seen.streams["+cr"].text)
      assert.equal("\u{FEFF}" .. text, seen.streams["+bom"].text)
      assert.equal(text:sub(1, -3), seen.streams["+unterminated"].text)
      assert.equal(text:sub(1, -15), seen.streams["+nodone"].text)
      assert.truthy(seen.streams["+usage"].text:find('"choices": [], "usage": {"prompt_tokens": 9', 1, true))
      assert.truthy(seen.streams["+midfail:choice"].text:find('"finish_reason": "error"}], "error": {', 1, true))
      assert.falsy(seen.streams["+cut:1"].text:find("stop", 1, true))
      assert.equal("chat.completion", seen.stream_plain.body.object)
    end)

    it("and answers only when it is released", function()
      assert.same({timeout = false, before = 3, after = 3, last = "data: [DONE]"}, seen.stall)
      assert.same({timeout = false, id = "chatcmpl-stub"}, seen.held)
      assert.is_false(seen.gone)
    end)
  end)

  describe("queues jobs", function()
    it("with the full and the short answer", function()
      local body = seen.async.body
      assert.equal("pending", body.status)
      assert.equal(("ai_response:%s:%s"):format(body.project_id, body.channel_id), body.websocket_channel)
      assert.equal(server.info.project_id, body.project_id)
      local short = seen.async_short.body
      assert.equal("ai_response:" .. short.channel_id, short.websocket_channel)
      assert.is_nil(short.project_id)
      assert.equal(202, seen.async_bare.status)
      assert.is_nil(seen.async_bare.body.ws_token)
      assert.same({slash = "/socket/", full = "/socket/websocket", bare = "", none = ""}, seen.async_urls)
      assert.equal("events", seen.async_event.body.error.param)
      assert.is_true(seen.tls)
    end)

    it("whose sockets open once, with a good token", function()
      assert.same({good = 101, spent = 403, unknown = 403, vsn = 403, path = 404, status = 503,
        accept = "InvalidHeaderValue", plain = 400, spoken = ""}, seen.upgrades)
      assert.same({403, 403, 403}, seen.token_ends)
    end)

    it("whose tokens are renewed", function()
      local got = seen.reconnects
      assert.same({"channel_id", "project_id", "websocket_channel", "websocket_url", "ws_token"}, got.keys)
      assert.is_true(got.fresh)
      assert.equal(101, got.opens)
      assert.same({no_key = 401, relay = 200, other = 403, unknown = 404, ordered = 500}, got.statuses)
      assert.same({"channel_id", "project_id", "websocket_channel", "websocket_url"}, got.no_token)
    end)

    it("whose frames are broken as ordered: a strict client closes with the right code", function()
      local codes = {masked = 1002, rsv = 1002, opcode = 1002, bad_utf8 = 1007, cut_utf8 = 1007, big_ping = 1002,
        split_ping = 1002, orphan = 1002, interrupted = 1002, close_short = 1002, close_code = 1002}
      for kind, code in pairs(codes) do assert.equal(code, seen.frames[kind].sent, kind) end
      assert.is_nil(seen.frames.cut.received)
      assert.equal(1, #seen.frames.cut.frames)
    end)

    it("whose results come in company, or are lost", function()
      local frames = seen.company.frames
      assert.equal("binary", frames[2])
      assert.equal("foreign-1", frames[3][1])
      assert.equal("ai_response:somebody-else", frames[4][3])
      assert.equal("progress", frames[6][4])
      assert.equal("1", frames[7][1])
      assert.equal("success", frames[7][5].status)
      assert.equal(1, #seen.lost.frames)
    end)

    it("whose sockets control can reach", function()
      assert.same({"x", "y", "raw", "phx_error"}, seen.controlled.events)
      assert.same({"1", "1"}, seen.controlled.refs)
      assert.equal(1001, seen.controlled.code)
    end)

    it("for six hundred sockets at once", function() assert.same({answered = 600, own = 600}, seen.crowd) end)
  end)

  describe("sends webhooks", function()
    it("signed in three ways, or wrongly", function()
      local hooks = seen.webhooks
      assert.same({"A"}, hooks[""].fits)
      assert.same({"mr-channel-id", "mr-signature", "mr-timestamp"}, hooks[""].headers)
      assert.same({"B"}, hooks["+scheme:B"].fits)
      assert.same({"B"}, hooks["+scheme:B+odd_json"].fits)
      assert.same({"C"}, hooks["+scheme:C"].fits)
      assert.same({"x-modelriver-signature", "x-modelriver-timestamp"}, hooks["+scheme:C"].headers)
      assert.same({}, hooks["+badsig"].fits)
      assert.same({"mr-channel-id", "mr-timestamp"}, hooks["+nosig"].headers)
      assert.same({
        A = "abc02e83bd053c26f5890becc1261f809232ab27266a13d1df060fb7ab18fa34",
        B = "fdc877fdec2b492bd95af93c5b3fdc97fcfc6386c4dee3c7962070ee5d6a29b2",
        C = "bd5d786c3d3d05d27280e3b0de3d6357627efdf80b9d82a63fe8b72b10521dd0",
      }, seen.vectors)
    end)

    it("with the fields of the pages", function()
      local body = seen.webhooks[""].body
      assert.equal("task.completed", body.type)
      assert.equal("success", body.status)
      assert.same(SAMPLE, body.data)
      assert.same({prompt = 9, completion = 12, total = 21}, body.meta.tokens)
      assert.is_true(body.meta.attempts[1].success)
      assert.truthy(body.timestamp:find("^%d+%-%d%d%-%d%dT%d%d:%d%d:%d%d%.%d%d%dZ$"))
      assert.truthy(seen.webhooks["+observability"].body.data.response.choices)
    end)

    it("until they are taken, or given up", function()
      assert.equal(1, seen.webhook_retries.same)
      assert.same({{1, 500}, {2, 404}, {3, 302}, {4, 200}}, seen.webhook_retries.tries)
      assert.same({timeout = false, tries = {0, 0, 0}}, seen.webhook_dead)
    end)

    it("that ask for a callback, and takes one good one", function()
      local got = seen.event_driven
      assert.equal("task.ai_generated", got.first.type)
      assert.equal("movie", got.first.event)
      assert.is_true(got.first.callback_required)
      assert.is_true(got.own_url)
      assert.is_false(got.header)
      assert.same({400, 400, 400, 200, 409}, got.statuses)
      assert.equal(401, got.no_key)
      assert.equal(404, got.unknown)
      assert.same({ok = true}, got.last.data)
      local variant = seen.callback_header
      assert.is_true(variant.header)
      assert.equal("movie", variant.first.data.event)
      assert.is_nil(variant.first.callback_url)
    end)

    it("and hears of failures, or nothing in time", function()
      local got = seen.callback_ends
      assert.equal(409, got.early)
      assert.equal(200, got.reported)
      assert.equal("Sold out", got.failed.error.message)
      assert.same({410, 410}, got.too_late)
      assert.truthy(got.late.error.message:find("timeout"))
    end)
  end)
end)
