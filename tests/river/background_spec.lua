-- The background learner: what it sends, when its queue is full, and that nothing is lost without a word.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
local support = dofile(folder .. "support.lua")
local servers = dofile(folder .. "../support/servers.lua")
local errors = require "riverlua.errors"
local json = require "riverlua.json"
local river = require "river"
local task = require "riverlua.task"

local LEARNED = {status = 201, body = '"Successful learn."'}

-- A transport whose requests wait for `gate`, when there is one; `answer(features, number)`.
local function slow_client(answer)
  local transport = support.fake_transport{}
  transport.learned = {}
  local number = 0
  function transport.request(_, req)
    if transport.gate then transport.gate:wait() end
    number = number + 1
    local request = json.decode(req.body)
    local given = answer and answer(request.features, number) or LEARNED
    if given == LEARNED then transport.learned[#transport.learned + 1] = request.features.a end
    if given == "lost" then errors.raise{kind = "connect", message = "refused", sent = false} end
    return {status = given.status, headers = {}, body = given.body,
      json = function() return json.decode(given.body) end}
  end
  function transport.hold() transport.gate = require("riverlua.core.task").signal() end
  function transport.let_go()
    local gate = transport.gate
    transport.gate = nil
    gate:fire()
  end
  return river.Client{transport = transport}, transport
end

describe("a background learner", function()
  it("returns at once and learns everything in order", function()
    local cli, transport = slow_client()
    transport.hold()
    local learner = cli:background()
    local x = {a = 0}
    for i = 1, 20 do
      x.a = i   -- what was put in stays what it was
      assert.is_true(learner:learn("m", x, i))
    end
    task.sleep(0)
    assert.same({}, transport.learned)
    local counts = learner:counts()
    assert.equal(20, counts.waiting + counts.sending)
    transport.let_go()
    learner:flush()
    for i = 1, 20 do assert.equal(i, transport.learned[i]) end
    assert.same({waiting = 0, sending = 0, learned = 20, failed = 0, dropped = 0}, learner:counts())
    learner:learn("m", {a = 21}, 1)
    learner:close()
    learner:close()
    assert.equal(21, learner:counts().learned)
    assert.equal("closed", support.error_of(learner.learn, learner, "m", {a = 1}, 1).kind)
  end)

  it("refuses at once what cannot be learned", function()
    local cli = slow_client()
    local learner <close> = cli:background()
    for _, arguments in ipairs{{"m", {}, 1}, {"m", {a = 0 / 0}, 1}, {"m", {a = 1}, 0 / 0}, {nil, {a = 1}, 1}} do
      assert.equal("argument", support.error_of(learner.learn, learner, table.unpack(arguments, 1, 3)).kind)
    end
    for _, options in ipairs{{capacity = 0}, {when_full = "wait"}, {capcity = 3}, {on_error = 5}} do
      assert.equal("argument", support.error_of(cli.background, cli, options).kind)
    end
  end)

  it("when full: blocks, drops the oldest or the newest, or raises", function()
    local function fill(policy)
      local cli, transport = slow_client()
      transport.hold()
      local learner = cli:background{capacity = 3, when_full = policy}
      learner:learn("m", {a = 0}, 1)
      task.sleep(0)
      task.sleep(0)
      assert.equal(1, learner:counts().sending)
      for i = 1, 3 do learner:learn("m", {a = i}, 1) end
      return learner, transport
    end
    local learner, transport = fill("drop_new")
    assert.is_false(learner:learn("m", {a = 4}, 1))
    transport.let_go()
    learner:close()
    assert.same({0, 1, 2, 3}, transport.learned)
    assert.equal(1, learner:counts().dropped)

    learner, transport = fill("drop_oldest")
    assert.is_true(learner:learn("m", {a = 4}, 1))
    transport.let_go()
    learner:close()
    assert.same({0, 2, 3, 4}, transport.learned)
    assert.equal(1, learner:counts().dropped)

    learner, transport = fill("error")
    assert.equal("limit", support.error_of(learner.learn, learner, "m", {a = 4}, 1).kind)
    transport.let_go()
    learner:close()
    assert.same({0, 1, 2, 3}, transport.learned)

    learner, transport = fill("block")
    local blocked = task.spawn(learner.learn, learner, "m", {a = 4}, 1)
    task.sleep(0)
    assert.equal("waiting", blocked:status())
    transport.let_go()
    assert.is_true(blocked:await())
    learner:close()
    assert.same({0, 1, 2, 3, 4}, transport.learned)
  end)

  it("tells on_error what was refused, with the sample, and goes on", function()
    local cli, transport = slow_client(function(x)
      return x.a == 3 and {status = 400, body = '"ValueError(\'three\')"'} or LEARNED
    end)
    local told = {}
    local learner = cli:background{on_error = function(entry) told[#told + 1] = entry end}
    for i = 1, 5 do learner:learn("m", {a = i}, i) end
    learner:close()
    assert.same({1, 2, 4, 5}, transport.learned)
    assert.equal(1, #told)
    assert.same({"m", {a = 3}, 3, "model"}, {told[1].model, told[1].x, told[1].y, told[1].error.kind})
    assert.equal(1, learner:counts().failed)
  end)

  it("raises from flush what nobody was told", function()
    local cli = slow_client(function(x)
      return x.a > 3 and {status = 400, body = '"ValueError(\'big\')"'} or LEARNED
    end)
    local learner = cli:background()
    for i = 1, 5 do learner:learn("m", {a = i}, i) end
    local err = support.error_of(learner.flush, learner)
    assert.equal("model", err.kind)
    assert.truthy(err.message:find("2 learns failed", 1, true), err.message)
    assert.equal(2, #err.failures)
    learner:flush()
    learner:close()
  end)

  it("keeps samples while the server cannot be reached, and gives up when its patience ends", function()
    local cli, transport = slow_client(function(_, number) return number <= 1 and "lost" or LEARNED end)
    local learner = cli:background()
    for i = 1, 5 do learner:learn("m", {a = i}, i) end
    learner:close()
    assert.same({1, 2, 3, 4, 5}, transport.learned)
    cli, transport = slow_client(function() return "lost" end)
    local told = {}
    learner = cli:background{patience = 0, on_error = function(entry) told[#told + 1] = entry.x.a end}
    for i = 1, 5 do learner:learn("m", {a = i}, i) end
    learner:close()
    assert.same({1, 2, 3, 4, 5}, told)
    assert.same({}, transport.learned)
    assert.equal(5, learner:counts().failed)
  end)

  it("closing ends at its deadline and says what is left", function()
    local cli, transport = slow_client()
    transport.hold()
    local learner = cli:background{drain = 0.05}
    for i = 1, 5 do learner:learn("m", {a = i}, i) end
    local err = support.error_of(learner.close, learner)
    assert.equal("timeout", err.kind)
    assert.truthy(err.message:find("5 samples are left", 1, true), err.message)
  end)

  it("models do not wait for each other", function()
    local cli, transport = slow_client()
    local wait = transport.request
    local held = require("riverlua.core.task").signal()
    function transport.request(self, req)
      if json.decode(req.body).model == "slow" then held:wait() end
      return wait(self, req)
    end
    local learner = cli:background()
    learner:learn("slow", {a = 1}, 1)
    learner:learn("fast", {a = 2}, 1)
    for _ = 1, 5 do task.sleep(0) end
    assert.same({2}, transport.learned)
    held:fire()
    learner:close()
    assert.same({2, 1}, transport.learned)
  end)
end)

describe("a script with a background learner", function()
  local server
  setup(function() server = support.start_server() end)
  teardown(function() server.stop() end)

  local SCRIPT = [[
    local river = require "river"
    local cli = river.Client(arg[1])
    cli:upload_model(river.preprocessing.StandardScaler() | river.linear_model.LinearRegression(), "regression", arg[2])
    local learner %s = cli:background{capacity = 10}
    for i = 1, 60 do learner:learn(arg[2], {a = i}, i) end
    %s
  ]]

  local function run(model, attribute, rest)
    return servers.run(SCRIPT:format(attribute, rest), {args = {server.url, model}})
  end

  local function learned(model)
    local cli <close> = river.Client(server.url)
    return cli:stats(model).learn.n_calls
  end

  it("learns everything before it ends", function()
    local result = run("left", "", "")
    assert.equal(0, result.code, result.err)
    assert.equal(60, learned("left"))
    result = run("closed", "<close>", "")
    assert.equal(0, result.code, result.err)
    assert.equal(60, learned("closed"))
  end)

  it("fails when a learn has failed and nobody looked", function()
    local result = run("bad", "", 'learner:learn(arg[2], {a = "text"}, 1)')
    assert.equal(1, result.code)
    assert.truthy(result.err:find("1 learns failed", 1, true), result.err)
    assert.equal(61, learned("bad"))
  end)

  it("stops at an error and says how much was not sent", function()
    local result = run("stopped", "<close>", 'for i = 1, 10 do learner:learn(arg[2], {a = i}, i) end ' ..
      'require("riverlua.errors").raise{kind = "argument", message = "enough"}')
    assert.equal(1, result.code)
    assert.truthy(result.err:find("samples of the background learner were not sent", 1, true), result.err)
  end)

  it("stops at Ctrl-C", function()
    local result = servers.run([[
      local river = require "river"
      local cli = river.Client(arg[1])
      local model = river.preprocessing.StandardScaler() | river.linear_model.LinearRegression()
      cli:upload_model(model, "regression", "int")
      local learner <close> = cli:background{capacity = 100000}
      for i = 1, 5000 do learner:learn("int", {a = i}, i) end
      io.popen("kill -INT $PPID"):close()
      require("riverlua.task").sleep(60)
    ]], {args = {server.url}, seconds = 30})
    assert.equal(130, result.code, result.err)
    assert.truthy(result.err:find("samples of the background learner were not sent", 1, true), result.err)
    assert.truthy(learned("int") < 5000)
  end)
end)
