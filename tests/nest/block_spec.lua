-- Blocks: datums that are written once, in the memory that is sent.

local array = require "riverlua.array"
local block = require "riverlua.core.block"
local datum = require "training.datum"
local errors = require "riverlua.errors"
local protobuf = require "riverlua.protobuf"

local REQUEST = protobuf.training:message("river.api.v1.ForwardBackwardRequest")
local INPUT = protobuf.training:message("river.api.v1.ForwardBackwardInput")

-- Columns of every kind of conversion; lengths that put their bytes at addresses that are not aligned.
local function columns(tokens)
  local made = {input_ids = {}, attention_mask = {}, advantages = {}, mixed = {}, sampler_topk_ids = {},
    sampler_topk_logprobs = {}, expert_routing_handle = ("x"):rep(tokens)}
  for i = 1, tokens do
    made.input_ids[i], made.attention_mask[i], made.advantages[i], made.mixed[i] = i, i % 2 == 0, i / 8, i
    made.sampler_topk_ids[i], made.sampler_topk_logprobs[i] = {i, i + 1}, {-0.5, -i}
  end
  made.mixed = array.int32(made.mixed)
  return made
end

local function blocked(list)
  local planned = {}
  for i, one in ipairs(list) do planned[i] = datum.plan(one, i) end
  return datum.block(planned)
end

describe("a block of datums", function()
  it("is the field of the message that protobuf would write, whatever the lengths", function()
    for tokens = 1, 150, 7 do
      local list, messages = {columns(tokens), {input_ids = {1, 2, 3}}, columns(2 * tokens)}, {}
      for i, one in ipairs(list) do messages[i] = {data = datum.encode(one, i)} end
      local made <const> = blocked(list)
      assert.equal(INPUT:encode{data = messages}, made:sub())
      assert.equal(#made, #made:sub())
      made:free()
    end
  end)

  it("becomes a request, and another one when it is framed again", function()
    local list = {columns(30), columns(31)}
    local made = blocked(list)
    local messages = {{data = datum.encode(list[1])}, {data = datum.encode(list[2])}}
    local function framed(head, rest, after)
      return made:frame(REQUEST:encode(head) .. "\x1a", INPUT:encode(rest), REQUEST:encode(after))
    end
    for _, id in ipairs{"m", ("long"):rep(1000), "short"} do   -- the second one needs more room in front
      local whole = framed({model_id = id, seq_id = 7}, {loss_fn = "ppo"}, {expected_policy_id = id})
      assert.equal(made, whole)
      assert.equal(REQUEST:encode{model_id = id, seq_id = 7, expected_policy_id = id,
        forward_backward_input = {data = messages, loss_fn = "ppo"}}, whole:sub())
    end
    local reason = ("x"):rep(100000)   -- and this one behind
    assert.equal(reason, REQUEST:decode(framed({}, {loss_fn = reason}, {}):sub()).forward_backward_input.loss_fn)
  end)

  it("gives parts as strings", function()
    local made = blocked{{input_ids = {1}}}
    local all = made:sub()
    assert.equal(all:sub(3, 9), made:sub(3, 9))
    assert.equal(all:sub(3), made:sub(3, math.maxinteger))
    assert.equal("", made:sub(#all + 1, #all + 5))
    assert.equal("", made:sub(5, 4))
    assert.is_true(block.is(made))
    assert.is_false(block.is(all))
  end)

  it("refuses what datums refuse, and says where", function()
    for _, case in ipairs{
      {{input_ids = {1, 2}, advantages = {0, 0 / 0}}, "datum 2: advantages[2] is nan"},
      {{input_ids = {1, 2}, advantages = {0}}, "datum 2: advantages has 1 values for 2 tokens"},
      {{input_ids = {1, 2.5}}, "datum 2: input_ids[2] is 2.5"},
      {{input_ids = {1}, weights = {{1, 2}, 3}}, "datum 2: weights"},
    } do
      local ok, err = pcall(blocked, {columns(5), case[1], columns(6)})
      assert.is_false(ok)
      assert.is_true(errors.is(err, "argument"))
      assert.truthy(tostring(err):find(case[2], 1, true), tostring(err))
    end
  end)

  it("is empty when it has been given back, and cannot be framed", function()
    local made = blocked{columns(3)}
    made:free()
    made:free()
    assert.equal(0, #made)
    assert.equal("", made:sub())
    assert.is_false(pcall(made.frame, made, "", "", ""))
  end)

  it("does not take a size that is not the datum's", function()
    local core = require "riverlua.core.nest"
    local one = datum.plan({input_ids = {1, 2, 3}}, 1)
    for _, size in ipairs{0, one.size - 1, one.size + 1, math.maxinteger, -1} do
      local ok, made = pcall(core.block, {one.entries, one.tokens, size})
      assert.is_false(ok and made ~= nil)
    end
  end)
end)
