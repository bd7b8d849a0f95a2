-- Webhooks of the embedded service, taken by functions of this process and by a real server.

local embedded = require "modelriver.embedded"
local json = require "riverlua.json"
local riverlua_server = require "riverlua.server"
local support = dofile("tests/modelriver_embedded/support.lua")
local task = require "riverlua.task"
local webhook = require "modelriver.webhook"

local SECRET = "whsec_spec"

describe("webhooks of the embedded service", function()
  before_each(function()
    embedded.reset()
    embedded.workflow("w", {cache_fields = {"user_id"}, providers = {
      {provider = "a", model = "m1", respond = function() error("down") end},
      {provider = "b", model = "m2", respond = function() return {answer = 42} end},
    }})
    embedded.workflow("event", {event_name = "new_thing", respond = function() return {x = 1} end})
  end)
  after_each(function() embedded.reset() end)

  local function open(scheme, delays)
    return embedded.new{webhook_secret = SECRET, webhook_scheme = scheme, webhook_delays = delays}
  end

  -- A receiver that puts what comes into a queue, after `refusals` refusals.
  local function queue_receiver(refusals)
    local queue = task.queue()
    return queue, function(headers, body)
      if refusals and #refusals > 0 then return table.remove(refusals, 1) end
      queue:put{headers = headers, body = body}
    end
  end

  local function check_completed(scheme, came, details)
    local event = webhook.verify(came.headers, came.body, SECRET)
    assert.equal(scheme, event.scheme)
    assert.same({"task.completed", "success", "w", details.channel_id}, {event.type, event.status, event.workflow,
      event.channel_id})
    assert.same({answer = 42}, event.data)
    assert.same({user_id = "u"}, event.customer_data)
    assert.same({"b", "m2"}, {event.meta.provider, event.meta.model})
    assert.same({"error", "success"}, {event.meta.attempts[1].status, event.meta.attempts[2].status})
    assert.equal("number", type(event.meta.usage.total_tokens))
    assert.truthy(event.timestamp:find("^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d"))
    assert.is_nil(event.callback_url)
    assert.is_false(pcall(webhook.verify, came.headers, came.body, "another secret"))
    assert.is_false(pcall(webhook.verify, came.headers, came.body .. " ", SECRET, {scheme = scheme == "B" and "C"
      or scheme}))
  end

  for _, scheme in ipairs{"A", "B", "C"} do
    it("are signed under scheme " .. scheme .. " and taken by a function", function()
      local transport <close> = open(scheme)
      local queue, receiver = queue_receiver()
      embedded.webhook("embedded:orders", receiver)
      local details = support.start(transport, {workflow = "w", user_id = "u", webhook_url = "embedded:orders"})
      local came = queue:get(10)
      check_completed(scheme, came, details)
      assert.equal("application/json", came.headers["content-type"])
      assert.equal(scheme == "A" and details.channel_id or nil, came.headers["mr-channel-id"])
      -- the WebSocket is told as well
      assert.same({answer = 42}, support.response((support.join(transport, details))).data)
    end)

    it("are posted under scheme " .. scheme .. " to a server", function()
      local transport <close> = open(scheme)
      local queue = task.queue()
      local server = riverlua_server.new{handler = function(req)
        queue:put{headers = req.headers, body = req.body, path = req.path}
        return {status = 204}
      end}
      local running <close> = task.spawn(function() server:run() end)   -- luacheck: ignore 211
      local details = support.start(transport, {workflow = "w", user_id = "u",
        webhook_url = ("http://127.0.0.1:%d/hook?x=1"):format(server.port)})
      local came = queue:get(10)
      assert.equal("/hook?x=1", came.path)
      check_completed(scheme, came, details)
      server:close()
    end)
  end

  it("go to the workflow's address unless the request has its own", function()
    local transport <close> = open("A")
    local first, first_receiver = queue_receiver()
    local second, second_receiver = queue_receiver()
    embedded.webhook("embedded:first", first_receiver)
    embedded.webhook("embedded:second", second_receiver)
    embedded.workflow("own", {webhook_url = "embedded:first", respond = function() return "x" end})
    support.start(transport, {workflow = "own"})
    assert.truthy(first:get(10))
    support.start(transport, {workflow = "own", webhook_url = "embedded:second"})
    assert.truthy(second:get(10))
    assert.equal(0, #first)
  end)

  for _, scheme in ipairs{"A", "B"} do
    it("ask for the callback of an event-driven workflow under scheme " .. scheme, function()
      local transport <close> = open(scheme)
      local queue, receiver = queue_receiver()
      embedded.webhook("embedded:orders", receiver)
      local details = support.start(transport, {workflow = "event", webhook_url = "embedded:orders"})
      local peer = support.join(transport, details)
      assert.equal("ai_generated", support.response(peer).status)
      local came = queue:get(10)
      local event = webhook.verify(came.headers, came.body, SECRET)
      assert.equal(scheme == "A" and "A" or "C", event.scheme)   -- without data B signs the body
      assert.same({"task.ai_generated", "new_thing", details.channel_id, true}, {event.type, event.event,
        event.channel_id, event.callback_required})
      assert.same({x = 1}, event.ai_response.data)
      assert.equal("embedded:/v1/callback/" .. details.channel_id, event.callback_url)
      assert.equal(scheme == "B" and event.callback_url or nil, came.headers["x-modelriver-callback-url"])
      local path = event.callback_url:match("^embedded:(.*)$")
      assert.equal(200, transport:request{method = "POST", path = path, json = {data = {done = true}}}.status)
      local payload = support.response(peer)
      assert.same({"completed", {done = true}}, {payload.status, payload.data})
      came = queue:get(10)
      local ended = webhook.verify(came.headers, came.body, SECRET)
      assert.same({"task.completed", "success", {done = true}}, {ended.type, ended.status, ended.data})
      assert.not_equal(event.dedupe_key, ended.dedupe_key)
      assert.is_false(ended.callback_required)
    end)
  end

  it("may be answered from within the receiver", function()
    local transport <close> = open("A")
    embedded.webhook("embedded:orders", function(headers, body)
      local event = webhook.verify(headers, body, SECRET)
      if not event.callback_required then return end
      transport:request{method = "POST", path = event.callback_url:match("^embedded:(.*)$"),
        json = {data = {got = event.ai_response.data.x}}}
    end)
    local details = support.start(transport, {workflow = "event", webhook_url = "embedded:orders"})
    local peer = support.join(transport, details)
    assert.equal("ai_generated", support.response(peer).status)
    assert.same({got = 1}, support.response(peer).data)
  end)

  it("tell of failures", function()
    local transport <close> = open("A")
    local queue, receiver = queue_receiver()
    embedded.webhook("embedded:orders", receiver)
    embedded.workflow("fails", function() error({status = 504, message = "too late"}, 0) end)
    support.start(transport, {workflow = "fails", webhook_url = "embedded:orders"})
    local came = queue:get(10)
    local event = webhook.verify(came.headers, came.body, SECRET)
    assert.same({"task.completed", "error"}, {event.type, event.status})
    assert.is_nil(event.data)
    assert.same({status = 504, message = "too late"}, event.raw.error.details)
  end)

  it("are sent again until they are taken", function()
    local transport <close> = open("A")
    local refusals = {500, 404, 302, "nonsense", 600}
    local queue, receiver = queue_receiver(refusals)
    local told = {}
    embedded.on_error = function(problem, where) told[#told + 1] = where.attempt .. ": " .. tostring(problem) end
    embedded.webhook("embedded:orders", function(headers, body)
      if #refusals == 2 then
        table.remove(refusals, 1)
        error("the receiver fell over")
      end
      return receiver(headers, body)
    end)
    embedded.workflow("fine", function() return "x" end)
    support.start(transport, {workflow = "fine", webhook_url = "embedded:orders"})
    local came = queue:get(10)
    assert.equal("A", webhook.verify(came.headers, came.body, SECRET).scheme)
    assert.equal(5, #told)
    assert.equal("1: the receiver answered with 500", told[1])
    assert.truthy(told[4]:find("fell over"))
  end)

  it("are given up in the end, and that is told", function()
    local transport <close> = open("A", {0, 0.001, 0.001})
    local ended = task.queue()
    embedded.on_error = function(problem, where)
      if where.last then ended:put{problem = tostring(problem), attempt = where.attempt, url = where.webhook_url} end
    end
    embedded.workflow("fine", function() return "x" end)
    support.start(transport, {workflow = "fine", webhook_url = "embedded:nobody"})
    local last = ended:get(10)
    assert.same({"no receiver is registered for embedded:nobody", 3, "embedded:nobody"},
      {last.problem, last.attempt, last.url})
    support.start(transport, {workflow = "fine", webhook_url = "http://127.0.0.1:1/"})
    last = ended:get(10)
    assert.truthy(last.problem:find("^connect"))
    assert.equal("http://127.0.0.1:1/", last.url)
  end)

  it("are posted again when the server refuses", function()
    local transport <close> = open("C")
    local queue, count = task.queue(), 0
    local server = riverlua_server.new{handler = function(req)
      count = count + 1
      if count < 3 then return {status = 503} end
      queue:put{headers = req.headers, body = req.body}
      return {status = 200}
    end}
    local running <close> = task.spawn(function() server:run() end)   -- luacheck: ignore 211
    local details = support.start(transport, {workflow = "w", user_id = "u",
      webhook_url = ("http://127.0.0.1:%d/"):format(server.port)})
    check_completed("C", queue:get(10), details)
    assert.equal(3, count)
    server:close()
  end)

  it("under way are given up when the client is closed", function()
    local transport = open("A", {0, 3600})
    local tries, tried = 0, task.queue()
    embedded.webhook("embedded:orders", function()
      tries = tries + 1
      tried:put(true)
      return 500
    end)
    embedded.workflow("fine", function() return "x" end)
    support.start(transport, {workflow = "fine", webhook_url = "embedded:orders"})
    tried:get(10)
    transport:close()
    task.sleep(0)
    for _, one in ipairs(task.waiting()) do assert.is_nil(one.traceback:find("delivery.lua", 1, true)) end
    assert.equal(1, tries)
  end)

  it("hold what a decoder finds under B, byte for byte", function()
    local transport <close> = open("B")
    local queue, receiver = queue_receiver()
    embedded.webhook("embedded:orders", receiver)
    embedded.workflow("odd", function() return {["é\"}"] = {1.5, "\\", json.null}, data = {data = "x"}} end)
    support.start(transport, {workflow = "odd", webhook_url = "embedded:orders"})
    local came = queue:get(10)
    assert.equal("B", webhook.verify(came.headers, came.body, SECRET).scheme)
  end)
end)
