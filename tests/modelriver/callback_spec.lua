--- The backend's answers in event-driven workflows.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
local support = dofile(folder .. "jobs_support.lua")
local json = require "riverlua.json"

local server, foreign, client
setup(function()
  server, foreign = support.start(), support.start()
  client = support.client(server)
end)
teardown(function()
  client:close()
  server:close()
  foreign:close()
end)
before_each(function()
  server:reset()
  foreign:reset()
end)

-- A job of which the model's part is done, and the address for the rest.
local function generated(workflow)
  local job = client:ai_async(support.question(workflow or "event:new_order"))
  local status
  while status ~= "ai_generated" do
    for _, one in ipairs(server:control("/jobs")) do if one.channel_id == job.id then status = one.state end end
  end
  return job, server:url("/v1/callback/" .. job.id)
end

describe("a callback", function()
  it("answers a task", function()
    local job, address = generated()
    local said = client:callback(address, {total = 7}, {task_id = "t1", metadata = {a = json.null, b = 1}})
    assert.equal("success", said.status)
    assert.same({total = 7}, job:wait().data)
    local line = server:log("/v1/callback/" .. job.id)[1]
    assert.equal("Bearer " .. server.info.keys.good, line.headers.authorization)
    assert.equal("application/json", line.headers["content-type"])
    assert.same({data = {total = 7}, task_id = "t1", metadata = {b = 1}}, json.decode(line.body, {drop_null = true}))
  end)

  it("answers a webhook's event", function()
    local job, address = generated()
    client:callback({callback_url = address, channel_id = job.id, callback_required = true}, {total = 8})
    assert.equal(8, job:wait().data.total)
  end)

  it("may be empty", function()
    local job, address = generated()
    client:callback(address, {})
    assert.equal('{"data":{}}', server:log("/v1/callback/" .. job.id)[1].body)
  end)

  it("tells of a failure", function()
    local job, address = generated()
    client:callback_error(address, "no_stock", "nothing left")
    local err = support.error_of(job.wait, job)
    assert.equal("no_stock", err.code)
    local other, place = generated()
    client:callback_error(place, "no_stock")
    assert.equal('{"error":"no_stock","message":"no_stock"}', server:log("/v1/callback/" .. other.id)[1].body)
  end)

  it("is sent again where that helps", function()
    local patient <close> = support.client(server, {retries = 2})
    for _, status in ipairs{503, 500, 429} do
      local job, address = generated(("event:new_order+callback_fail:%d:1"):format(status))
      patient:callback(address, {ok = true})
      assert.equal(2, #server:log("/v1/callback/" .. job.id))
    end
  end)

  it("that comes twice is refused", function()
    local job, address = generated()
    client:callback(address, {n = 1})
    local err = support.error_of(client.callback, client, address, {n = 2})
    assert.equal("invalid_request", err.kind)
    assert.equal(409, err.status)
    assert.equal("already_completed", err.code)
    assert.equal(job.id, err.channel_id)
    assert.truthy(err.message:find("already completed", 1, true))
    assert.is_nil(support.leak(server, err))
  end)

  it("that comes too late is refused", function()
    local job, address = generated()
    server:control("/lapse", {channel_id = job.id})
    local err = support.error_of(client.callback, client, address, {n = 1})
    assert.equal(410, err.status)
    assert.truthy(err.message:find("too late", 1, true))
  end)

  it("for what nobody asked is not found", function()
    local err = support.error_of(client.callback, client, server:url("/v1/callback/nobody"), {})
    assert.equal("not_found", err.kind)
    assert.equal("nobody", err.channel_id)
    assert.truthy(err.hint:find("does not know this job", 1, true), err.hint)
  end)

  it("with a wrong key is refused", function()
    local other <close> = support.client(server, {api_key = server.info.keys.revoked})
    local _, address = generated()
    assert.equal("auth", support.error_of(other.callback, other, address, {}).kind)
  end)
end)

describe("the key", function()
  it("goes to the API's own host only", function()
    local address = foreign:url("/v1/callback/some-job")
    local err = support.error_of(client.callback, client, address, {secret = false})
    assert.equal("auth", err.kind)
    local lines = foreign:log()
    assert.equal(1, #lines)
    assert.is_nil(lines[1].headers.authorization)
    assert.is_nil(json.encode(lines):find(server.info.keys.good, 1, true))
    assert.equal('{"data":{"secret":false}}', lines[1].body)
  end)

  it("does not go to another port, name or user of the host", function()
    local port = foreign.info.http
    for _, address in ipairs{("http://localhost:%d/v1/callback/x"):format(port),
      ("%s@127.0.0.1:%d/v1/callback/x"):format(server:url(""), port),
      ("http://%s@127.0.0.1:%d/v1/callback/x"):format("127.0.0.1", port)} do
      foreign:reset()
      support.error_of(client.callback, client, address, {})
      local lines = foreign:log()
      assert.equal(1, #lines, address)
      assert.is_nil(json.encode(lines):find(server.info.keys.good, 1, true))
    end
  end)

  it("goes to the API's host below another path", function()
    local relayed <close> = support.client(server, {base_url = server:url("/api")})
    local job, address = generated()
    relayed:callback(address, {n = 1})
    assert.equal(1, job:wait().data.n)
    local again, other = generated()
    relayed:callback((other:gsub("/v1/", "/api/v1/")), {n = 2})
    assert.equal(2, again:wait().data.n)
  end)
end)

describe("what is no callback", function()
  local function refused(part, method, ...)
    local err = support.error_of(client[method], client, ...)
    assert.equal("argument", err.kind)
    assert.truthy(err.message:find(part, 1, true), err.message)
    return err
  end

  it("is refused before anything is sent", function()
    local address = server:url("/v1/callback/x")
    refused("callback_url", "callback", nil, {})
    refused("callback_url", "callback", "", {})
    assert.truthy(refused("callback_url", "callback", {channel_id = "x"}, {}).hint:find("does not ask", 1, true))
    refused("http or https", "callback", "ftp://x/", {})
    refused("http or https", "callback", "/v1/callback/x", {})
    refused("data", "callback", address, nil)
    refused("data", "callback", address, "text")
    refused("data", "callback", address, json.null)
    assert.truthy(refused("list", "callback", address, {1, 2}).hint)
    refused("list", "callback", address, json.array{})
    refused("task_id", "callback", address, {}, {task_id = 7})
    refused("metadata", "callback", address, {}, {metadata = "x"})
    refused("'task_id'", "callback", address, {}, {taskid = "x"})
    refused("options", "callback", address, {}, 7)
    refused("code", "callback_error", address, nil)
    refused("message", "callback_error", address, "x", 7)
    refused("task_id", "callback_error", address, "x", "y", {task_id = "t"})
    refused("options", "callback_error", address, "x", "y", 7)
    assert.equal(0, #server:log())
  end)
end)
