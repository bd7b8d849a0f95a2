-- What the official client was recorded to send is understood byte for byte, and answered, by the training stand-in.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")

describe("the training stand-in and recorded requests", function()
  local server, list

  setup(function()
    -- the recording leaves out calls between those that it shows, and names a routing capture of its own server
    server = support.standin.start{config = {seq_gaps = true, api_key = "test-key",
      routing_handles = {"0b5f8b1e-0000-4000-8000-000000000001"}}}
    list = support.ask(server, "replay.py", support.vectors)
  end)

  teardown(function() server:close() end)

  it("decodes and encodes each to the same bytes and the recorded content", function()
    assert.equal(92, #list)
    for _, call in ipairs(list) do
      assert.is_true(call.same, call.name .. " " .. call.method)
      assert.is_true(call.said, call.name .. " " .. call.method)
    end
  end)

  it("answers each", function()
    local results = {}
    for _, call in ipairs(list) do
      assert.equal("OK", call.status, ("%s %s: %s"):format(call.name, call.method, call.details))
      if call.method == "RetrieveFuture" then results[call.details] = (results[call.details] or 0) + 1 end
    end
    assert.same({inference = 7, create_model = 3, forward_backward = 15, optim_step = 3, save_weights = 3,
      load_weights = 2, chat_complete = 2}, results)
  end)

  it("has nothing to complain about", function()
    assert.same({}, support.plain(server:violations()))
    assert.same({"OptimStep without a gradient"}, support.plain(server:counters().remarks))
    assert.equal("", server:errors())
  end)
end)
