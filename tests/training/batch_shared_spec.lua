-- Several tasks that take samples from one batch.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(folder .. "support.lua")
local task = require "riverlua.task"

describe("a batch of samples", function()
  local server, client
  setup(function()
    server = support.standin.start()
    client = support.client(server)
  end)
  teardown(function()
    client:close()
    server:close()
  end)

  it("hands each sample to one of the tasks that share it, and counts it once", function()
    local model, session = support.model(client)
    local next_sample = model:sample_as_completed{prompts = {"1 + 1", "2 + 2"}, num_samples = 20}
    local seen, tokens, count = {}, 0, 0
    task.map({1, 2, 3, 4}, function()
      for sample, prompt, index in next_sample do
        local place = prompt .. " " .. index
        assert.is_nil(seen[place])
        seen[place], count, tokens = true, count + 1, tokens + #sample.tokens
        task.sleep(0)
      end
    end, {concurrency = 4})
    assert.equal(40, count)
    assert.equal(tokens, session.meter.tokens.completion)
    session:close()
  end)

  it("gives what one task waits for to the next when that task is cancelled", function()
    local model, session = support.model(client)
    server:fault{method = "SubmitSamplingBatch", handles = {["0"] = {never = true}}}
    local pending = model:submit_sampling_batch{prompts = "1 + 1"}
    local next_completion = pending:as_completed()
    local first = task.spawn(next_completion)
    local second = task.spawn(next_completion)
    assert.is_true(server:wait("RetrieveSamplingResults"))
    first:cancel()
    server:post("finish", {ids = pending.request_ids})
    assert.equal(1, second:await().sample_index)
    session:close()
  end)
end)
