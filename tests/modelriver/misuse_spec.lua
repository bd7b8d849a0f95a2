--- What is written by mistake is answered with what to write, and never with a place inside riverlua.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local complete = require "riverlua.repl_complete"
local modelriver = require "modelriver"
local repl_session = require "riverlua.repl_session"

local refuses = support.refuses

local client, job, stream, answer, session
before_each(function()
  modelriver.embedded.reset()
  modelriver.embedded.workflow("echo", function(_, context) return context.text end)
  client = modelriver.Client{base_url = "embedded:"}
  job, stream, answer = client:ai_async("echo", "x"), client:stream("echo", "x"), client:ai("echo", "x")
  session = client:session{workflow = "echo"}
end)
after_each(function()
  client:close()
  modelriver.embedded.reset()
end)

describe("a dot in place of the colon", function()
  it("is told by every object, with and without arguments", function()
    local methods = {job = {"wait", "save"}, stream = {"next", "text", "response", "close"}, response = {"text"},
      session = {"ask", "stream", "run", "reset", "close"}, usage = {"estimate", "reset"}, client = {"close", "stats"}}
    local objects = {job = job, stream = stream, response = answer, session = session, usage = client.usage,
      client = client}
    for name, list in pairs(methods) do
      for _, method in ipairs(list) do
        local expected = ("call it with a colon: %s:%s%%("):format(name, method)
        refuses(expected, objects[name][method])
        refuses(expected, objects[name][method], {timeout = 1})
        refuses(expected, objects[name][method], "text")
      end
    end
  end)

  it("does not keep methods from being called as they are meant", function()
    assert.equal("x", stream:text())
    assert.equal("x", job:wait():text())
    assert.equal("x", session:ask("x"):text())
    session:reset()
    client.usage:reset()
    assert.equal(0, client.usage.total.requests)
  end)

  it("is meant where a colon is written", function()
    refuses("with a dot: modelriver.Client", function() return modelriver:Client{base_url = "embedded:"} end)
  end)
end)

describe("a value in place of a table of options", function()
  it("is told by the client, which does not show what may be a key", function()
    local err = refuses("base_url = \"embedded:\"", modelriver.Client, "mr_live_secret")
    assert.is_nil(support.all_text(err):find("mr_live", 1, true))
  end)

  it("is told by job:wait and wait_all", function()
    refuses("write job:wait{timeout = 60}", job.wait, job, 60)
    refuses("write wait_all{timeout = 2.5}", modelriver.wait_all, {job}, 2.5)
  end)
end)

describe("completion at the prompt", function()
  local function names(before)
    local state = repl_session.new()
    assert(state:compile("local client, stream, modelriver = ...", "=x"))(client, stream, modelriver)
    return table.concat((complete.candidates(before, state)), " ")
  end

  it("knows the module before its parts are loaded", function()
    assert.equal("Client assistant embedded image session system text tool user wait_all webhook", names("modelriver."))
    assert.equal("webhook workflow", names("modelriver.embedded.w"))
  end)

  it("knows the methods of clients and streams", function()
    assert.equal("ai ai_async callback callback_error chat close map resume run session stats stream usage",
      names("client:"))
    assert.equal("create", names("client.chat.completions:"))
    assert.equal("close content finish_reason headers meta next request_id response text tool_calls tries usage",
      names("stream."))
  end)
end)
