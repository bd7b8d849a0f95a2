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

  it("counts what is learned, and keeps nothing of it, while its queue never runs empty", function()
    local cli = slow_client()
    local learner <close> = cli:background{capacity = 10}
    local before
    for i = 1, 6000 do
      learner:learn("m", {a = i}, 1)
      local counts = learner:counts()
      if i > 100 then assert.truthy(counts.waiting > 0) end
      assert.equal(i, counts.waiting + counts.sending + counts.learned)
      assert.truthy(counts.sending <= 65, counts.sending)
      if i == 1000 then
        cli._transport.learned = {}
        collectgarbage()
        collectgarbage()
        before = collectgarbage("count")
      end
    end
    cli._transport.learned = {}
    collectgarbage()
    collectgarbage()
    local grown = collectgarbage("count") - before
    assert.truthy(grown < 500, grown)   -- KB; samples that are kept take 1,900
  end)

  it("keeps nothing of the tasks that have emptied its queue", function()
    local cli = slow_client()
    local learner <close> = cli:background()
    for i = 1, 200 do
      learner:learn("m", {a = i}, 1)
      while learner:counts().learned < i do task.sleep(0) end
    end
    for _ = 1, 3 do task.sleep(0) end
    assert.equal(0, #learner.ended)
  end)

  it("tells on_error what was left when it was given up, and what was on its way", function()
    local cli, transport = slow_client()
    transport.hold()
    local told = {}
    local learner = cli:background{on_error = function(entry) told[#told + 1] = entry end}
    for i = 1, 4 do learner:learn("m", {a = i}, i) end
    task.sleep(0)
    task.sleep(0)
    local ok, err = pcall(function()
      local _ <close> = learner
      errors.raise{kind = "argument", message = "enough"}
    end)
    assert.is_false(ok)
    local seen = {}
    for i, entry in ipairs(told) do
      seen[i] = entry.x.a
      assert.equal(err, entry.error)
      assert.equal(i == 1, entry.uncertain or false)
    end
    assert.same({1, 2, 3, 4}, seen)
    assert.same({waiting = 0, sending = 0, learned = 0, failed = 4, dropped = 0}, learner:counts())
  end)

  it("counts right when on_error itself fails", function()
    local cli = slow_client(function(x)
      return x.a == 2 and {status = 400, body = '"ValueError(\'two\')"'} or LEARNED
    end)
    local learner = cli:background{on_error = function() error("mine", 0) end}
    for i = 1, 3 do learner:learn("m", {a = i}, i) end
    assert.equal("mine", support.error_of(learner.flush, learner))
    learner:learn("m", {a = 4}, 4)
    learner:flush()
    local counts = learner:counts()
    assert.same({0, 0, 4}, {counts.waiting, counts.sending, counts.learned + counts.failed})
    learner:close()
  end)

  it("says what a misspelt method was meant to be", function()
    local cli = slow_client()
    local learner <close> = cli:background()
    local err = support.error_of(function() return learner:lern("m", {a = 1}, 1) end)
    assert.truthy(err.hint:find("'learn'", 1, true), err.hint)
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
    assert.truthy(result.err:find("1 learn failed", 1, true), result.err)
    assert.equal(61, learned("bad"))
  end)

  it("stops at an error and says how much was not sent", function()
    local result = run("stopped", "<close>", 'for i = 1, 10 do learner:learn(arg[2], {a = i}, i) end ' ..
      'require("riverlua.errors").raise{kind = "argument", message = "enough"}')
    assert.equal(1, result.code)
    assert.truthy(result.err:find("samples of the background learner were not sent", 1, true), result.err)
  end)

  it("stops at an error, also when no block ends and its task has not begun", function()
    for _, count in ipairs{1, 9} do
      local result = servers.run([[
        local river = require "river"
        local learner = river.Client(arg[1]):background()
        for i = 1, arg[2] do learner:learn("never", {a = i}, i) end
        error("enough")
      ]], {args = {server.url, tostring(count)}})
      assert.equal(1, result.code)
      local words = (count == 1 and "1 sample of the background learner was" or
        "9 samples of the background learner were") .. " not sent"
      assert.truthy(result.err:find(words, 1, true), result.err)
    end
  end)

  -- The lines that a script writes when it is interrupted after `rest`.
  local function interrupted(rest)
    local result = servers.run([[
      local river = require "river"
      local cli = river.Client(arg[1])
      local model = river.preprocessing.StandardScaler() | river.linear_model.LinearRegression()
      cli:upload_model(model, "regression", "int")
      ]] .. rest, {args = {server.url}, seconds = 30})
    assert.equal(130, result.code, result.err)
    local lines = {}
    for line in result.err:gmatch("[^\n]+") do lines[#lines + 1] = line end
    return lines, result.err
  end

  it("counts at Ctrl-C what really waits, and says it without a closing block", function()
    for _, attribute in ipairs{"<close>", ""} do
      local lines, text = interrupted([[
        local learner ]] .. attribute .. [[ = cli:background{capacity = 20}
        for i = 1, 400 do
          learner:learn("int", {a = i}, i)
          if i == 400 then io.popen("kill -INT $PPID"):close() end
        end
        require("riverlua.task").sleep(60)
      ]])
      local waiting, under_way = text:match("(%d+) samples? of the .- not sent; (%d+) that")
      assert.truthy(waiting, text)
      assert.truthy(tonumber(waiting) <= 20 and tonumber(under_way) <= 65, text)
      assert.equal(2, #lines, text)
    end
  end)

  it("learn_many shows at Ctrl-C no stacks of its own", function()
    local lines, text = interrupted([[
      local i = 0
      cli:learn_many("int", function()
        i = i + 1
        if i == 200 then io.popen("kill -INT $PPID"):close() end
        return {a = i}, i
      end)
    ]])
    assert.is_nil(text:find("was here", 1, true), text)
    assert.truthy(lines[1]:find("interrupted", 1, true), text)
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
