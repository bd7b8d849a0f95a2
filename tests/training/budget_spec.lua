-- What a budget holds back, and when it is asked.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(folder .. "support.lua")

local PRICES = {prompt = 1, completion = 1, training = 1}
local CHAT = {{role = "user", content = "What is 1 + 1?"}}

describe("a budget", function()
  local server
  setup(function() server = support.standin.start() end)
  teardown(function() server:close() end)
  before_each(function() server:post("reset") end)

  it("is asked before a chat completion too", function()
    local client <close> = support.client(server, {budget = 0.001, prices = PRICES})
    local model, session = support.model(client, support.SILENT)
    assert.equal(200, model:chat_complete{messages = CHAT, max_tokens = 100}.status_code)
    assert.equal(0, session.meter.reserved)
    assert.is_true(session.meter.cost > 0)
    local calls = server:count()
    local err = support.failure(model.chat_complete, model, {messages = CHAT, max_tokens = 2000})
    assert.equal("budget", err.kind)
    assert.equal("budget", support.failure(client.chat_complete, client, {messages = CHAT, max_tokens = 500, n = 2,
      base_model = support.MODEL}).kind)
    assert.equal(calls, server:count())
    server:fault{method = "ChatCompleteFromTraining", failed = {category = "x", message = "y"}}
    assert.equal("failed", support.failure(model.chat_complete, model, CHAT).kind)
    assert.equal(0, session.meter.reserved)
  end)

  it("says which model has no price, also after it was used", function()
    local client <close> = support.client(server, {prices = {[support.MODEL] = PRICES}})
    local session = client:session{heartbeat = support.SILENT.heartbeat}
    local training = require "training"
    local model = session:create_model{base_model = support.MODEL, lora = training.LoraConfig{}}
    local other = session:create_model{base_model = "nobody/else", lora = training.LoraConfig{}}
    model:sample("1 + 1")
    other:sample("1 + 1")
    assert.is_nil(session.meter.cost)
    session.meter.budget = 5
    local err = support.failure(model.sample, model, "1 + 1")
    assert.equal("argument", err.kind)
    assert.equal("a budget needs a price, and there is no price for the model 'nobody/else'", err.message)
  end)
end)
