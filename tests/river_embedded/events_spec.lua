-- The event streams of the embedded service: what is announced to whom.

local support = dofile("tests/river_embedded/support.lua")
local json = require "riverlua.json"
local river = require "river"
local task = require "riverlua.task"

local function linear() return river.preprocessing.StandardScaler() | river.linear_model.LinearRegression() end

local function listen(api, which)
  local answer = api.send("GET", "/stream/" .. which .. "/", {stream = true})
  assert.equal(200, answer.status)
  assert.equal("text/event-stream", answer.headers["Content-Type"])
  return answer
end

local function decoded(event)
  return event.event, json.decode(event.data, {nan = true})
end

describe("the streams of the embedded service", function()
  it("tell of learns, predictions and labels, in order", function()
    local api = support.open()
    api.upload(linear(), "regression", "m")
    local stream = listen(api, "events")
    api.learn{model = "m", features = {a = 1, b = true}, ground_truth = 3}
    local identifier = api.predict{model = "m", features = {a = 2.5}}:json().identifier
    api.send("POST", "/label/", {json = {model = "m", identifier = identifier, label = 4}})
    api.learn{model = "m", features = {a = "text"}, ground_truth = 3}
    api.send("POST", "/learn/", {json = {model = "nope", features = {a = 1}, ground_truth = 1}})
    local next_event = stream:events()
    local kind, data = decoded(next_event())
    assert.equal("learn", kind)
    assert.same({model = "m", features = {a = 1, b = true}, prediction = 0.0, ground_truth = 3}, data)
    kind, data = decoded(next_event())
    assert.equal("predict", kind)
    assert.same({"features", "model", "prediction"}, (function()
      local names = {}
      for name in pairs(data) do names[#names + 1] = name end
      table.sort(names)
      return names
    end)())
    kind, data = decoded(next_event())
    assert.equal("label", kind)
    assert.equal(4, data.ground_truth)
    api.service:close()
    assert.is_nil(next_event())
  end)

  it("tell metrics after each learn, bare NaN among them, {} where there are none", function()
    local api = support.open()
    api.upload(linear(), "regression", "m")
    api.upload(linear(), "neighbor", "n")
    local stream <close> = listen(api, "metrics")
    local next_event = stream:events()
    api.learn{model = "m", features = {a = 1}, ground_truth = 3}
    local kind, data = decoded(next_event())
    assert.is_nil(kind)
    assert.same({MAE = 0.0, RMSE = 0.0, SMAPE = 0.0}, data)
    api.predict{model = "m", features = {a = 1}}
    api.learn{model = "n", features = {a = 1}, ground_truth = 3}
    assert.equal("{}", next_event().data)
    api.learn{model = "m", features = {a = 1}, ground_truth = 3, prediction = 1e400}
    assert.truthy(next_event().data:find("Infinity", 1, true))
  end)

  it("wake a task that waits, and end when they are closed", function()
    local api = support.open()
    api.upload(linear(), "regression", "m")
    local stream = listen(api, "events")
    local seen = {}
    local reader = task.spawn(function()
      for event in stream:events() do seen[#seen + 1] = event.event end
      return "ended"
    end)
    task.sleep(0)
    api.predict{model = "m", features = {a = 1}}
    api.learn{model = "m", features = {a = 1}, ground_truth = 1}
    task.sleep(0)
    stream:close()
    assert.equal("ended", reader:await())
    assert.same({"predict", "learn"}, seen)
    assert.is_false(api.service.watched)
  end)

  it("drop the oldest events of a listener that does not read, and count them", function()
    local api = support.open()
    api.upload(linear(), "regression", "m")
    local stream <close> = listen(api, "events")
    for i = 1, 10010 do api.predict{model = "m", features = {a = i}} end
    assert.equal(10, stream.listener.dropped)
    local _, data = decoded(stream:events()())
    assert.equal(11, data.features.a)
  end)
end)
