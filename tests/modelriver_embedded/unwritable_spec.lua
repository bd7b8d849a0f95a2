--- What functions of workflows return or raise that has no place in JSON: whoever asks is told, and never waits for it.

local errors = require "riverlua.errors"
local modelriver = require "modelriver"
local servers = dofile("tests/support/servers.lua")

local BROKEN = {
  ["arguments that are not UTF-8"] = function() return {tool_calls = {{name = "f", arguments = "\xff\x80"}}} end,
  ["a call's name that is not UTF-8"] = function() return {tool_calls = {{name = "\xff"}}} end,
  ["a call's id that is a function"] = function() return {tool_calls = {{name = "f", id = print}}} end,
  ["a body with a function in it"] = function() return {choices = {{message = {content = "x"}, f = print}}} end,
  ["a text in a body that is not UTF-8"] = function() return {choices = {{message = {content = "\xff"}}}} end,
  ["a count that is no number"] = function() return {content = "x", usage = {prompt_tokens = 0 / 0}} end,
  ["a reason to finish that is no text"] = function() return {content = "x", finish_reason = print} end,
  ["a message that is not UTF-8"] = function() error("\xff\xfe") end,
  ["an error whose message is not UTF-8"] = function() error{status = 500, message = "\xff", reason = "\xfe"} end,
  ["nothing raised"] = function() error(nil) end,
}

describe("a workflow that gives", function()
  local client
  before_each(function() client = modelriver.Client{base_url = "embedded:", retries = 0} end)
  after_each(function()
    client:close()
    modelriver.embedded.reset()
  end)

  for what, fn in pairs(BROKEN) do
    it(what .. " has failed, for all who ask", function()
      modelriver.embedded.workflow("w", fn)
      local asked = servers.error_of(client.ai, client, "w", "x")
      assert.equal("provider", asked.kind, tostring(asked))
      assert.equal(500, asked.provider_status)
      local streamed = servers.error_of(function() return client:stream("w", "x"):text() end)
      assert.equal("provider", streamed.kind, tostring(streamed))
      local job = client:ai_async("w", "x")
      local told = servers.error_of(job.wait, job, {timeout = 20})
      assert.equal("job", told.kind, tostring(told))
      assert.equal(asked.details.message, told.details.message)
      assert.is_truthy(utf8.len(tostring(told)))
    end)
  end

  it("a sample for tests that cannot be written is told when it is registered", function()
    local err = servers.error_of(modelriver.embedded.workflow, "w", {testing = {sample = {f = print}}})
    assert.is_true(errors.is(err, "argument"))
    assert.truthy(err.message:find("'testing.sample' cannot be written as JSON", 1, true), err.message)
  end)
end)
