-- client:run against the stand-in and the embedded gateway, and Ctrl-C.

local modelriver = require "modelriver"
local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local task = require "riverlua.task"

local error_of, servers = support.error_of, support.servers

local CITY = {type = "object", required = {"city"}, properties = {city = {type = "string"}}}

describe("Ctrl-C", function()
  it("stops a run whose tool does not end", function()
    local result = servers.run([[
      local modelriver = require "modelriver"
      modelriver.embedded.workflow("w", function() return {tool_calls = {{name = "spin"}, {name = "signal"}}} end)
      local client = modelriver.Client{base_url = "embedded:"}
      local pid = io.open("/proc/self/stat"):read("n")
      client:run("w", "x", {tools = {
        signal = function() io.popen("kill -INT " .. pid):close() while true do end end,
        spin = function() require("riverlua.task").queue():get() end,
      }})
      print("not reached")
    ]])
    assert.equal(130, result.code, result.err)
    assert.is_nil(result.out:find("not reached", 1, true))
  end)
end)

describe("tools of the stand-in", function()
  local stub, client

  setup(function() stub = support.start() end)
  teardown(function() stub:close() end)
  before_each(function()
    stub:reset()
    client = support.client(stub)
  end)
  after_each(function() client:close() end)

  local function weather(answer)
    return {weather = {parameters = CITY, fn = answer or function(given) return "cold in " .. given.city end},
      zone = {parameters = CITY, fn = function(given) return given.city .. "/zone" end}}
  end

  it("are called and answered, in both formats", function()
    for _, format in ipairs{"raw", "wrapped"} do
      local answer = client:run("tools+id:" .. format, '{"city":"Oslo"}', {tools = weather(), format = format})
      assert.equal("Tools said: cold in Oslo", answer:text())
      assert.equal(2, answer.rounds)
      assert.equal(42, answer.total_usage.total_tokens)
    end
  end)

  it("are called in parallel", function()
    local answer = client:run("tools:parallel", '{"city":"Oslo"}', {tools = weather()})
    assert.equal("Tools said: cold in Oslo; Oslo/zone", answer:text())
  end)

  it("are called for ever, with bad arguments, with none, and by wrong names", function()
    local err = error_of(client.run, client, "tools:loop", '{"city":"Oslo"}', {tools = weather(), max_rounds = 4})
    assert.equal("limit", err.kind)
    assert.equal(4, #support.bodies(stub))
    local text = client:run("tools:badargs", "x", {tools = weather()}):text()
    assert.truthy(text:find("the arguments are not JSON", 1, true))
    text = client:run("tools:unknown", "x", {tools = weather()}):text()
    assert.truthy(text:find("there is no tool 'no_such_tool'", 1, true))
    assert.equal("Tools said: nothing given", client:run("tools:empty", "x", {tools = {f = function(given)
      return next(given) == nil and "nothing given"
    end}}):text())
  end)

  it("may be demanded, and then there is an answer all the same", function()
    for _, choice in ipairs{"required", {type = "function", ["function"] = {name = "zone"}}} do
      local answer = client:run("tools", '{"city":"Oslo"}', {tools = weather(), tool_choice = choice})
      assert.equal(type(choice) == "table" and "Tools said: Oslo/zone" or "Tools said: cold in Oslo", answer:text())
    end
    assert.equal("x", client:run("tools", "x", {tools = weather(), tool_choice = "none"}):text())
  end)

  it("are called once however often a round must be sent", function()
    local count = 0
    local answer = client:run("tools+flaky:1", '{"city":"Oslo"}', {tools = weather(function()
      count = count + 1
      return "cold"
    end), idempotency_key = true})
    assert.equal("Tools said: cold", answer:text())
    assert.equal(1, count)
  end)

  it("go on in a second run", function()
    local first = client:run("tools", '{"city":"Oslo"}', {tools = weather()})
    local messages = first.messages
    messages[#messages + 1] = modelriver.user('{"city":"Rome"}')
    local second = client:run{workflow = "tools", messages = messages, tools = weather()}
    assert.equal("Tools said: cold in Rome", second:text())
  end)

  it("of a run that is stopped free its connection", function()
    local err = error_of(task.timeout, 0.05, client.run, client, "hold:run+tools", "x", {tools = weather()})
    assert.equal("timeout", err.kind)
    assert.is_true(stub:wait{key = "run", waiting = 0})
  end)
end)

describe("tools of the embedded gateway", function()
  local client

  before_each(function()
    modelriver.embedded.reset()
    client = modelriver.Client{base_url = "embedded:"}
  end)
  after_each(function()
    client:close()
    modelriver.embedded.reset()
  end)

  it("are called until the workflow answers in words", function()
    modelriver.embedded.workflow("count", function(request)
      local last = request.messages[#request.messages]
      local number = last.role == "tool" and tonumber(last.content) or 0
      if number == 3 then return "three" end
      return {tool_calls = {{name = "next", arguments = {number = number}}}}
    end)
    for _, format in ipairs{"raw", "wrapped"} do
      local answer = client:run("count", "x", {format = format, tools = {
        next = function(given) return given.number + 1 end,
      }})
      assert.equal("three", answer:text())
      assert.equal(4, answer.rounds)
      assert.equal(8, #answer.messages)
    end
  end)

  it("may ask another workflow of it", function()
    modelriver.embedded.workflow("outer", function(request)
      if request.messages[2] then return request.messages[3].content end
      return {tool_calls = {{name = "ask"}}}
    end)
    modelriver.embedded.workflow("inner", function() return "from inside" end)
    assert.equal("from inside", client:run("outer", "x", {tools = {ask = function()
      return client:ai("inner", "y"):text()
    end}}):text())
  end)
end)
