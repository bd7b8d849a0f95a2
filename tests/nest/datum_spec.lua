-- training.datum: what becomes of the official datums, what is refused, and training.grpo_data.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(here .. "support.lua")
local array = require "riverlua.array"
local datum = require "training.datum"
local errors = require "riverlua.errors"
local json = require "riverlua.json"
local nest = require "training.nest"

local hex_of = {}
for line in io.lines(here .. "nest_codec.jsonl") do
  local vector = json.decode(line)
  hex_of[vector.id] = vector.hex or ""
end

-- The riverlua error of kind "argument" that a call raises.
local function refused(fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok, "was taken")
  assert.is_true(errors.is(err, "argument"), tostring(err))
  return err
end

local function says(text, fn, ...)
  local err = refused(fn, ...)
  assert.truthy(tostring(err):find(text, 1, true), tostring(err))
  return err
end

local function text_of(columns) return support.to_hex(datum.encode(columns)) end

local function ones(n) return array.fill("float32", n, 1):table() end

describe("the datums of the official vectors", function()
  local D = nest.dict

  it("have the same bytes where Python's types are those of the columns", function()
    for id, columns in pairs{
      [67] = {input_ids = {1, 2, 3}, attention_mask = {1, 1, 0}},
      [68] = D{{"attention_mask", {1, 1, 1}}, {"input_ids", {1, 2, 3}}},
      [79] = {input_ids = {1}, flags = {true, false}},
      [80] = {input_ids = {1}, scale = 0.5},
      [82] = {input_ids = {1}, skip = nil},
      [83] = {input_ids = {1}, expert_routing_handle = "ab-1"},
      [89] = {input_ids = {2^40}, weights = {1e-8}},
      [92] = {model_input = {{type = "text", tokens = {1, 2}}}, weights = {0, 1}},
      [95] = {model_input = {{type = "image", data = {id = "11111111-2222-3333-4444-555555555555"},
        expected_tokens = 4, format = "jpeg"}}, weights = {0, 0, 0, 0}},
      [101] = {model_input = {{type = "text", tokens = {1}}}, input_ids = {1}, weights = {1}},
    } do
      assert.equal(hex_of[id], text_of(columns), "vector " .. id)
    end
  end)

  -- By the first number, or as a tuple, or as an array of NumPy's default type, Python sends other types: see the
  -- vectors. Here they are what the column is.
  it("are typed by the column where Python goes by the value", function()
    local weights = "0000000000000000"
    for id, case in pairs{
      [70] = {{0, 1}, "000000000000803f"},
      [71] = {{0, 0.5}, "000000000000003f"},
      [73] = {{0.5, 1.0}, "0000003f0000803f"},
    } do
      local bytes = datum.encode(D{{"input_ids", {1, 2}}, {"weights", case[1]}})
      local columns, names = support.columns(bytes)
      assert.same({"input_ids", "weights", "attention_mask"}, names)
      assert.equal("float32", columns.weights.dtype)
      assert.equal(case[2], support.to_hex(columns.weights.values:bytes()))
      assert.not_equal(hex_of[id], support.to_hex(bytes))
      assert.is_true(weights ~= case[2])
    end
    local columns = support.columns(datum.encode{input_ids = array.int32{1, 2}})
    assert.same({"int64", "int64"}, {columns.input_ids.dtype, columns.attention_mask.dtype}) -- 85
    columns = support.columns(datum.encode{input_ids = {1, 2}, advantages = array.float64{0.5, 0}})
    assert.equal("float32", columns.advantages.dtype) -- 86
  end)

  it("are refused where they would be of no use", function()
    says("input_ids is empty", datum.encode, {input_ids = {}, weights = {}}) -- 74
    says("weights[1] is empty", datum.encode, {input_ids = {1}, weights = {{}}}) -- 76
    says("target_tokens[2] has 1 values, but [1] has 2", datum.encode,
      {input_ids = {1, 2}, target_tokens = {{1, 2}, {3}}}) -- 77
    says("input_ids is missing", datum.encode, {input_ids = nil}) -- 88
    says("model_input[1].expected_tokens must be", datum.encode,
      {model_input = {{type = "image", data = "x"}}, weights = {1}}) -- 94
    says("model_input must be a list of chunks", datum.encode, {model_input = "x"}) -- 97
    says("model_input[1] has the unknown type 'audio'", datum.encode, {model_input = {{type = "audio"}}}) -- 98
  end)
end)

describe("datum.encode", function()
  it("sends every known column as its type, in one order", function()
    local columns, names = support.columns(datum.encode{
      zebra = {1, 2}, alpha = {0.5}, input_ids = {5, 6}, expert_routing_handle = "h", position_ids = {0, 1},
      sampler_topk_logprobs = {{-1, -2}, {-3, -4}}, sampler_topk_ids = {{1, 2}, {3, 4}}, echo_weights = {0, 1},
      advantages = {1, -1}, old_logprobs = {-1, 0}, weights = {{1, 0}, {0, 1}}, target_tokens = {{6, 7}, {0, -100}},
      attention_mask = {true, false},
    })
    assert.same({"input_ids", "attention_mask", "position_ids", "target_tokens", "weights", "old_logprobs",
      "advantages", "echo_weights",
      "sampler_topk_ids", "sampler_topk_logprobs", "expert_routing_handle", "alpha", "zebra"}, names)
    for name, want in pairs{input_ids = "int64 2", attention_mask = "int64 2", position_ids = "int64 2",
      target_tokens = "int64 2 2", weights = "float32 2 2", old_logprobs = "float32 2", advantages = "float32 2",
      echo_weights = "float32 2", sampler_topk_ids = "int32 2 2", sampler_topk_logprobs = "float32 2 2",
      expert_routing_handle = "uint8 1", alpha = "float32 1", zebra = "int64 2"} do
      local column = columns[name]
      assert.equal(want, column.dtype .. " " .. table.concat(column.shape, " "), name)
    end
    assert.same({1, 0}, columns.attention_mask.values:table())
    assert.same({6, 7, 0, -100}, columns.target_tokens.values:table())
    assert.same({1.0, 0.0, 0.0, 1.0}, columns.weights.values:table())
  end)

  it("makes the same bytes of tables and of arrays of any fitting type", function()
    local tables = {input_ids = {1, 2, 3}, attention_mask = {1, 1, 0}, old_logprobs = {0, -0.5, 0},
      advantages = {0, 1, 0}, target_tokens = {{1, 2}, {3, 4}, {5, 6}}, weights = {{1, 0}, {0.5, 0.5}, {0, 1}}}
    local want = datum.encode(tables)
    for _, types in ipairs{{"int64", "float32"}, {"int32", "float64"}, {"uint16", "float32"}, {"float64", "float64"}} do
      local arrays = {}
      for name, column in pairs(tables) do
        local of_floats = name == "old_logprobs" or name == "advantages" or name == "weights"
        arrays[name] = array.new(types[of_floats and 2 or 1], column)
      end
      assert.equal(want, datum.encode(arrays))
    end
    tables.weights = {array.float64{1, 0}, {0.5, 0.5}, array.int8{0, 1}}
    tables.input_ids = setmetatable({}, {__len = function() return 3 end, __index = function(_, i) return i end})
    tables.advantages = {0.0, 1, 0}
    assert.equal(want, datum.encode(tables))
    tables.input_ids = {1.0, 2.0, 3.0}
    assert.equal(want, datum.encode(tables))
  end)

  it("types what it does not know by value, and leaves arrays as they are", function()
    local columns = support.columns(datum.encode{input_ids = {1, 2}, a = {1, 2, 3}, b = {1, 2.5}, c = {{1}, {2.0}},
      d = array.int16{1}, e = array.float64{{1, 2}}, f = array.fill("uint8", 3), g = {{1, 2}, array.int8{3, 4}},
      h = array.bool{true}, i = 7, j = true})
    for name, want in pairs{a = "int64 3", b = "float32 2", c = "float32 2 1", d = "int16 1", e = "float64 1 2",
      f = "uint8 3", g = "int64 2 2", h = "bool 1", i = "int64 1", j = "bool 1"} do
      assert.equal(want, columns[name].dtype .. " " .. table.concat(columns[name].shape, " "), name)
    end
  end)

  it("says which datum, which column and where", function()
    local good = {input_ids = {1, 2, 3}}
    local long = {input_ids = {}, advantages = {}}
    for i = 1, 20 do long.input_ids[i], long.advantages[i] = i, 0.5 end
    long.advantages[17] = 0 / 0
    local err = says("datum 3: advantages[17] is nan", datum.encode_all, {good, good, long})
    assert.same({3, "advantages", 17}, {err.datum, err.key, err.index})
    assert.is_string(err.hint)
    err = says("step 5: advantages[17] is nan", datum.encode, long, "step 5")
    assert.is_nil(err.datum)
    says("datum 1: a datum is a table, got a number", datum.encode_all, {5})
    says("several datums go into one list", datum.encode_all, {{good}})
    says("columns have names", datum.encode, {input_ids = {1}, [true] = 2})
    says("'the datums' must be a table", datum.encode_all, nil)
  end)

  it("refuses what would be cut off, spread or out of step", function()
    local function wrong(text, name, column)
      local columns = {input_ids = {1, 2}}
      columns[name] = column
      says(text, datum.encode, columns)
    end
    wrong("input_ids[2] is 0.5, which is not an integer", "input_ids", {1, 0.5})
    wrong("input_ids[2] is -1, below zero", "input_ids", {1, -1})
    wrong("input_ids[1] is -3, below zero", "input_ids", array.int64{-3, 1})
    wrong("input_ids[1] is -3, below zero", "input_ids", array.int32{-3, 1})
    wrong("input_ids[1] is a string, not a number", "input_ids", {"1", 2})
    wrong("input_ids is a string, not a list of numbers", "input_ids", "ab")
    wrong("input_ids is a list of lists", "input_ids", {{1}, {2}})
    wrong("input_ids[2] is 1.5", "input_ids", array.float32{1, 1.5})
    wrong("input_ids[1] is 9.2233720368548e+18, which int64 cannot hold", "input_ids", {2^63, 1})
    wrong("attention_mask has 3 values for 2 tokens", "attention_mask", {1, 1, 1})
    wrong("attention_mask has 1 values for 2 tokens", "attention_mask", array.int64{1})
    wrong("old_logprobs[1] is -inf", "old_logprobs", {-1 / 0, 0})
    wrong("old_logprobs[2] is inf", "old_logprobs", array.float32{0, 1 / 0})
    wrong("old_logprobs[2] is nan", "old_logprobs", array.float64{0, 0 / 0})
    wrong("advantages[2] is 1e+39, which float32 cannot hold", "advantages", {0, 1e39})
    wrong("advantages[1] is 1e+39, which float32 cannot hold", "advantages", array.float64{1e39, 0})
    wrong("advantages[1] is a boolean, not a number", "advantages", {true, 1})
    wrong("advantages is a number, not a list", "advantages", 0.5)
    wrong("advantages is a list of lists", "advantages", {{1}, {2}})
    wrong("echo_weights[2] is -0.5, below zero", "echo_weights", {0, -0.5})
    wrong("echo_weights[1] is -0.5, below zero", "echo_weights", array.float32{-0.5, 0})
    wrong("weights[2][1] is nan", "weights", {{0, 1}, {0 / 0, 1}})
    wrong("weights[2][1] is nan", "weights", array.float32{{0, 1}, {0 / 0, 1}})
    wrong("weights[2] is a number, but [1] is a list", "weights", {{0, 1}, 5})
    wrong("weights[1] is empty", "weights", {{}, {}})
    wrong("weights has 1 values for 2 tokens", "weights", {{0, 1}})
    wrong("sampler_topk_ids is not a list of lists", "sampler_topk_ids", {1, 2})
    wrong("sampler_topk_ids[1][2] is 2147483648, which int32 cannot hold", "sampler_topk_ids",
      {{1, 2147483648}, {1, 2}})
    wrong("expert_routing_handle is not a string", "expert_routing_handle", 5)
    wrong("expert_routing_handle is empty", "expert_routing_handle", "")
    wrong("expert_routing_handle has more than 4096 bytes", "expert_routing_handle", ("x"):rep(4097))
    wrong("extra is empty", "extra", {})
    wrong("extra[2] is nan", "extra", {1, 0 / 0})
    wrong("extra[1] is inf", "extra", array.float32{1 / 0})
    wrong("from_bytes", "extra", "text")
    wrong("extra is a userdata", "extra", json.null)
    wrong("extra[1] is a string", "extra", {"x"})
    wrong("did you mean 'advantages'?", "advantage", {1, 2})
    wrong("did you mean 'old_logprobs'?", "old_logprob", {1, 2})
    wrong("loss_data belongs to a custom loss", "loss_data", {})
    says("weights has one value for each token, but target_tokens has rows of 2", datum.encode,
      {input_ids = {1}, target_tokens = {{1, 2}}, weights = {1}})
    says("sampler_topk_logprobs has rows of 1, but sampler_topk_ids has rows of 2", datum.encode,
      {input_ids = {1}, sampler_topk_ids = {{1, 2}}, sampler_topk_logprobs = array.float32{{1}}})
  end)

  it("finds what is wrong wherever it is", function()
    local n = 300
    for _, at in ipairs{1, 2, 63, 64, 65, 128, 129, 299, 300} do
      for _, make in ipairs{function(t) return t end, array.float32, array.float64} do
        local column = ones(n)
        column[at] = 0 / 0
        says(("advantages[%d] is nan"):format(at), datum.encode, {input_ids = ones(n), advantages = make(column)})
        column[at] = 0.5
        says(("input_ids[%d] is 0.5"):format(at), datum.encode, {input_ids = make(column)})
        column[at] = -2
        says(("input_ids[%d] is -2"):format(at), datum.encode, {input_ids = make(column)})
      end
    end
  end)

  it("keeps a caller's order", function()
    local _, names = support.columns(datum.encode(nest.dict{{"advantages", {1}}, {"input_ids", {1}}, {"b", {1}},
      {"a", {2}}}))
    assert.same({"advantages", "input_ids", "b", "a", "attention_mask"}, names)
  end)

  it("counts the positions of images", function()
    local chunks = {{type = "text", tokens = array.int32{1, 2}}, {type = "image", data = "PNG", expected_tokens = 4.0},
      {type = "text", tokens = {3}}, {type = "image", image_handle = {id = "abc"}, expected_tokens = 2}}
    local columns, names = support.columns(datum.encode{weights = ones(9), model_input = chunks})
    assert.same({"model_input", "weights"}, names)
    local list = nest.decode(datum.encode{weights = ones(9), model_input = chunks}).model_input
    assert.same({"type", "tokens"}, nest.keys(list[1]))
    assert.same({"type", "data", "format", "expected_tokens"}, nest.keys(list[2]))
    assert.same({"type", "image_handle", "format", "expected_tokens"}, nest.keys(list[4]))
    assert.same({"PNG", "png", 4}, {list[2].data:bytes(), list[2].format, list[2].expected_tokens[1]})
    assert.equal("abc", list[4].image_handle)
    assert.equal("int64", list[1].tokens.dtype)
    assert.equal(4, #columns.model_input.list)
    says("weights has 8 values for 9 tokens", datum.encode, {weights = ones(8), model_input = chunks})
    for text, chunk in pairs{
      ["[1].tokens is empty"] = {type = "text", tokens = {}},
      ["[1].tokens is a nil"] = {type = "text"},
      ["[1].tokens[2] is 0.5"] = {type = "text", tokens = {1, 0.5}},
      ["[1].tokens[1] is -1, below zero"] = {type = "text", tokens = {-1}},
      ["[1].tokens is a list of lists"] = {type = "text", tokens = {{1}}},
      ["did you mean 'tokens'?"] = {type = "text", token = {1}},
      ["[1].data must be"] = {type = "image", expected_tokens = 1},
      ["[1].image_handle is no handle"] = {type = "image", data = {}, expected_tokens = 1},
      ["[1] has both"] = {type = "image", data = "x", image_handle = "y", expected_tokens = 1},
      ["[1].expected_tokens must be"] = {type = "image", data = "x", expected_tokens = 0},
      ["[1].format must be"] = {type = "image", data = "x", expected_tokens = 1, format = 5},
      ["[1] is not a table"] = 5,
    } do says(text, datum.encode, {model_input = {chunk}, weights = {1}}) end
    says("model_input must be a list", datum.encode, {model_input = {}, weights = {1}})
  end)

  it("sends the columns of custom losses as they were made", function()
    local graph = '{"version":2}'
    local columns, names = support.columns(datum.encode(nest.dict{{"input_ids", array.int64{1, 2}},
      {"expert_routing_handle", "h"}, {"__river_loss_column_0", array.int32{1, 2}},
      {"__river_loss_column_1", array.float32{{1, 2}, {3, 4}}}, {"__river_loss_column_2", {1, 2}},
      {"__river_loss_position", array.int64{1, 1}}, {"attention_mask", {1, 1}}, {"__river_loss_graph_v1", graph}}))
    assert.same({"input_ids", "expert_routing_handle", "__river_loss_column_0", "__river_loss_column_1",
      "__river_loss_column_2", "__river_loss_position", "attention_mask", "__river_loss_graph_v1"}, names)
    assert.same({"int32", "float32", "int64", "int64"}, {columns.__river_loss_column_0.dtype,
      columns.__river_loss_column_1.dtype, columns.__river_loss_column_2.dtype, columns.__river_loss_position.dtype})
    assert.same({"uint8", graph}, {columns.__river_loss_graph_v1.dtype, columns.__river_loss_graph_v1.values:bytes()})
    says("__river_loss_column_0 has 1 values for 2 tokens", datum.encode,
      {input_ids = {1, 2}, __river_loss_column_0 = array.int32{1}})
  end)
end)

describe("training.grpo_data", function()
  local sample = {tokens = array.int32{4, 5}, logprobs = array.float64{-1, -2.5}, token_data_is_exact = true}

  it("aligns the response with what predicts it", function()
    local made = datum.grpo_data({1, 2, 3}, sample, 0.5, {echo_weights = {1, 1, 0, 0, 0}, expert_routing_handle = "h"})
    assert.is_true(made.input_ids == array.int64{1, 2, 3, 4, 5})
    assert.is_true(made.attention_mask == array.int64{1, 1, 1, 1, 1})
    assert.is_true(made.old_logprobs == array.float32{0, 0, -1, -2.5, 0})
    assert.is_true(made.advantages == array.float32{0, 0, 0.5, 0.5, 0})
    assert.same({"int64", "float32", "float32"}, {made.input_ids.dtype, made.old_logprobs.dtype, made.advantages.dtype})
    assert.equal("h", made.expert_routing_handle)
    assert.equal(datum.encode{input_ids = {1, 2, 3, 4, 5}, attention_mask = {1, 1, 1, 1, 1},
      old_logprobs = {0, 0, -1, -2.5, 0}, advantages = {0, 0, 0.5, 0.5, 0}, echo_weights = {1, 1, 0, 0, 0},
      expert_routing_handle = "h"}, datum.encode(made))
  end)

  it("takes lists, one prompt token, and an advantage for each token", function()
    local made = datum.grpo_data(array.int64{7}, {tokens = {1}, logprobs = {-1}}, {2})
    assert.is_true(made.input_ids == array.int64{7, 1})
    assert.is_true(made.old_logprobs == array.float32{-1, 0})
    assert.is_true(made.advantages == array.float32{2, 0})
    made = datum.grpo_data({1}, sample, array.float32{0.25, -1})
    assert.is_true(made.advantages == array.float32{0.25, -1, 0})
  end)

  it("refuses what cannot be aligned", function()
    local grpo = datum.grpo_data
    says("prompt_tokens is empty", grpo, {}, sample, 1)
    says("prompt_tokens must be a list or an array, got nothing", grpo, nil, sample, 1)
    says("the sample must be a table", grpo, {1}, nil, 1)
    says("not exact", grpo, {1}, {tokens = {1}, logprobs = {-1}, token_data_is_exact = false}, 1)
    says("sample.logprobs has 1 values for 2 tokens", grpo, {1}, {tokens = {1, 2}, logprobs = {-1}}, 1)
    says("sample.tokens is empty", grpo, {1}, {tokens = {}, logprobs = {}}, 1)
    says("sample.tokens is empty", grpo, {1}, {tokens = {}, logprobs = {}, token_data_is_exact = false}, 1)
    says("sample.tokens must be", grpo, {1}, {logprobs = {}}, 1)
    says("sample with log-probabilities", grpo, {1}, {tokens = {1}}, 1)
    says("advantage is nan", grpo, {1}, sample, 0 / 0)
    says("advantage[2] is inf", grpo, {1}, sample, {1, 1 / 0})
    says("advantage has 1 values for 2 tokens", grpo, {1}, sample, {1})
    says("advantage must be", grpo, {1}, sample, "1")
    says("sample.logprobs[2] is nan", grpo, {1}, {tokens = {1, 2}, logprobs = {-1, 0 / 0}}, 1)
    says("prompt_tokens[1] is 0.5", grpo, {0.5}, sample, 1)
    says("'advantages' is made here", grpo, {1}, sample, 1, {advantages = {1}})
  end)
end)
