--- Jobs that another process takes up.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
local support = dofile(folder .. "jobs_support.lua")
local json = require "riverlua.json"

local server, client
setup(function()
  server = support.start()
  client = support.client(server)
end)
teardown(function()
  client:close()
  server:close()
end)
before_each(function() server:reset() end)

local SCRIPT = [[
local json, modelriver = require "riverlua.json", require "modelriver"
local client = modelriver.Client{base_url = arg[1], http = {proxy = false}}
local job = client:resume(json.decode(arg[2]))
print(job.workflow, job:wait{timeout = 20}:text())
]]

-- What another process gets for a saved job.
local function elsewhere(saved)
  local run = support.servers.run(SCRIPT, {args = {server:url(""), json.encode(saved)},
    environment = {MODELRIVER_API_KEY = server.info.keys.good}})
  assert.equal("", run.err)
  return run.out
end

local function start(workflow) return client:ai_async(support.question(workflow)) end

describe("a job that was saved", function()
  it("is answered in another process, with the fresh token", function()
    assert.equal("job\tone two three\n", elsewhere(start("job"):save()))
    assert.equal(0, support.count(server, "reconnect"))
  end)

  it("is answered when its token was spent here", function()
    local job = start("job+hold:saved")
    support.error_of(job.wait, job, {timeout = 0.2})
    local saved = job:save()
    assert.is_nil(saved.ws_token)
    server:release("saved")
    assert.equal("job+hold:saved\tone two three\n", elsewhere(saved))
    assert.equal(1, support.count(server, "reconnect"))
  end)

  it("is answered when its token is spent there", function()
    local job = start("job")
    local saved = job:save()
    job:wait()
    assert.equal("job\tone two three\n", elsewhere(saved))
    assert.equal(1, support.count(server, "upgrade:403"))
  end)

  it("is answered when all that is left is its id", function()
    local job = start("job")
    assert.equal("one two three", client:resume{id = job.id}:wait():text())
  end)

  it("is plain values without a secret but the token", function()
    local job = start("job")
    local saved = job:save()
    for _, value in pairs(saved) do assert.not_equal("table", type(value)) end
    assert.is_nil(json.encode(saved):find(server.info.keys.good, 1, true))
    assert.equal(job.id, client:resume(saved).id)
    assert.is_nil(tostring(client:resume(saved)):find("wst_", 1, true))
  end)

  it("does not forget the age of its token", function()
    local job = start("job")
    job.token_at = job.token_at - 200
    local saved = job:save()
    assert.truthy(os.time() - saved.token_at >= 200)
    saved.token_at = saved.token_at - 101
    client:resume(saved):wait()
    assert.equal(1, support.count(server, "reconnect"))
    assert.equal(0, support.count(server, "upgrade:403"))
    local again = start("job"):save()
    again.token_at = nil
    client:resume(again):wait()
    assert.equal(2, support.count(server, "reconnect"))
  end)

  it("that nobody knows is not found", function()
    local err = support.error_of(function()
      client:resume{id = "550e8400-e29b-41d4-a716-446655440000", workflow = "w"}:wait()
    end)
    assert.equal("not_found", err.kind)
  end)

  it("must be what save returned", function()
    for _, saved in ipairs{false, "id", {}, {id = 7}, {id = "x", ws_token = {}}, {id = "x", project_id = 7}} do
      assert.equal("argument", support.error_of(client.resume, client, saved or nil).kind)
    end
  end)
end)
