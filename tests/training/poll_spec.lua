-- How often an operation is asked after, and how long an RPC may take.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local fake = dofile(folder .. "fake.lua")
local training = require "training"

describe("the interval between polls", function()
  local future = require "training.future"

  it("is short at first and a second in the end", function()
    assert.equal(0.005, future.interval(0))
    assert.equal(0.02, future.interval(1))
    assert.equal(0.04, future.interval(10))
    assert.equal(0.2, future.interval(100))
    assert.equal(1, future.interval(3600))
    assert.equal(7, future.interval(3600, 7))
    assert.equal(0, future.interval(3600, 0))
  end)
end)

describe("the deadline of an RPC", function()
  it("leaves a large request the time to get through", function()
    local transport = fake.new{CreateSession = {session_id = "s"}, InferenceGenerate = {request_id = "r"}}
    local client = training.Client{transport = transport}
    local session = client:session{}
    session:submit_sample("x", {base_model = "m"})
    session:submit_sample("x", {base_model = "m", images = {("x"):rep(5000000)}})
    local calls = transport:of("InferenceGenerate")
    assert.is_true(math.abs(calls[1].options.timeout - 300) < 1)
    assert.is_true(math.abs(calls[2].options.timeout - 310) < 1)
  end)
end)
