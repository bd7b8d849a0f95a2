--- Custom losses of the trainer: graphs that say what a built-in loss says do what it does, and what makes no
--- sense is refused.

local array = require "riverlua.array"
local core = require "riverlua.core.trainer"
local datum = require "training.datum"
local graph = require "training.embedded.graph"
local json = require "riverlua.json"
local nest = require "training.nest"

local CONFIG = {vocabulary = 256, width = 32, layers = 2, heads = 2, hidden = 48, context = 64,
  positions = "learned"}

-- -Σ A·exp(lp - old), as the client's own graphs are written
local IMPORTANCE = {version = 2, loss = 10, metrics = {ratio = 11},
  columns = {{name = "advantages", dtype = "float32", layout = "token"},
    {name = "old", dtype = "float32", layout = "token"}, {name = "targets", dtype = "int64", layout = "token"}},
  nodes = {{op = "logits"}, {op = "input", column = 0}, {op = "input", column = 1}, {op = "input", column = 2},
    {op = "ce", args = {{node = 0}, {node = 3}}}, {op = "neg", args = {{node = 4}}},
    {op = "sub", args = {{node = 5}, {node = 2}}}, {op = "exp", args = {{node = 6}}},
    {op = "mul", args = {{node = 7}, {node = 1}}}, {op = "sum", args = {{node = 8}}},
    {op = "neg", args = {{node = 9}}},
    {op = "sum", args = {{node = 7}}}}}

local function encode(value) return json.encode(value, {sort = true}) end

local function columns()
  local ids, old, advantages, targets = {}, {}, {}, {}
  for t = 1, 20 do
    ids[t] = (t * t * 7) % 256
    old[t] = t > 2 and t < 20 and -5.5 or 0.0
    advantages[t] = t > 2 and t < 20 and math.sin(t) or 0.0
  end
  for t = 1, 20 do targets[t] = ids[t + 1] or 0 end
  return ids, old, advantages, targets
end

local function graph_datum(text, change)
  local ids, old, advantages, targets = columns()
  local ones = array.fill("int64", 20, 1)
  local value = {input_ids = array.int64(ids), __river_loss_column_0 = array.float32(advantages),
    __river_loss_column_1 = array.float32(old), __river_loss_column_2 = array.int64(targets),
    __river_loss_position = ones, attention_mask = ones, __river_loss_graph_v1 = array.from_bytes("uint8", text)}
  for name, other in pairs(change or {}) do value[name] = other end
  return nest.encode(value)
end

describe("a custom loss of the trainer", function()
  local engine, base
  setup(function()
    engine = core.open{threads = 2}
    base = engine:base(CONFIG, nil, 4)
  end)
  teardown(function() engine:close() end)

  it("does what the built-in loss does that it is like", function()
    local text = encode(IMPORTANCE)
    local ids, old, advantages = columns()
    local built_in, custom = engine:model(base), engine:model(base)
    local first = built_in:pass(datum.encode_all{{input_ids = ids, old_logprobs = old, advantages = advantages}},
      {loss = "importance_sampling", config = {}, gradients = true})
    local second = custom:pass({graph_datum(text)}, {loss = "loss_graph_v1", config = {}, gradients = true,
      graph = graph.compile(text)})
    assert.near(first.metrics.loss_sum, second.metrics.loss_sum, 1e-5)
    assert.truthy(second.metrics["custom/ratio"] > 0)
    assert.near(built_in:step{lr = 1e-3}.grad_norm, custom:step{lr = 1e-3}.grad_norm, 1e-4)
    local mine = custom:tensors()
    for i, tensor in ipairs(built_in:tensors()) do
      local a, b = array.from_bytes("float32", tensor.array:bytes()),
        array.from_bytes("float32", mine[i].array:bytes())
      local worst = 0
      for k = 1, #a do worst = math.max(worst, math.abs(a[k] - b[k])) end
      assert.truthy(worst < 5e-5, tensor.name .. " differs by " .. worst)
    end
  end)

  it("refuses datums that are not the graph's", function()
    local text = encode(IMPORTANCE)
    local compiled = graph.compile(text)
    local model = engine:model(base)
    local function refused(change)
      local ok, err = pcall(model.pass, model, {graph_datum(text), graph_datum(text, change)},
        {loss = "loss_graph_v1", config = {}, graph = compiled})
      assert.is_false(ok)
      assert.equal("refused", err.kind)
      return err.message
    end
    assert.equal("datum 1: __river_loss_column_2[0] is 999, the vocabulary has 256",
      refused{__river_loss_column_2 = array.fill("int64", 20, 999)})
    assert.truthy(refused{__river_loss_column_1 = array.fill("float64", 20, 1)}:find("type or shape", 1, true))
    assert.truthy(refused{__river_loss_position = array.fill("int64", 20, 2)}:find("not ones", 1, true))
    assert.truthy(refused{__river_loss_graph_v1 = array.uint8{1, 2}}:find("another graph", 1, true))
    assert.truthy(refused{more = array.fill("int64", 20, 1)}:find("more", 1, true))
  end)

  it("is refused when it makes no sense", function()
    local function changed(change)
      local copy = json.decode(encode(IMPORTANCE))
      change(copy)
      local ok, err = pcall(graph.compile, encode(copy))
      assert.is_false(ok)
      assert.equal("refused", err.kind)
      return err.message
    end
    local cases = {
      {function(g) g.version = 1 end, "its version is not 2"},
      {function(g) g.extra = 1 end, "it has the key extra"},
      {function(g) g[("é"):rep(1000)] = 1 end, "it has the key " .. ("é"):rep(64) .. "…"},
      {function(g) g.columns[1].dtype = {} end, "column 0 is of the type a table"},
      {function(g) g.columns[2].name = "a" end, "not sorted"},
      {function(g) g.columns[1].dtype = "float64" end, "column 0 is of the type float64"},
      {function(g) g.nodes[1].op = "ce" end, "logits"},
      {function(g) g.nodes[5].args[1].node = 9 end, "node 4 (ce) looks ahead"},
      {function(g) g.nodes[8].op = "softmax" end, "there is no op 'softmax'"},
      {function(g) g.nodes[8].args = {} end, "arguments are missing"},
      {function(g) g.loss = 12 end, "its loss names no node"},
      {function(g) g.loss = 8 end, "the loss is not one number"},
      {function(g) g.metrics.ratio = 7 end, "the metric custom/ratio is not one number"},
      {function(g) g.metrics[("n"):rep(65)] = 9 end, "1 to 64 characters"},
      {function(g) for i = 1, 120 do g.nodes[12 + i] = {op = "neg", args = {{node = 4}}} end end,
        "1 to 128 nodes"},
    }
    for _, case in ipairs(cases) do
      local message = changed(case[1])
      assert.truthy(message:find(case[2], 1, true), message .. "\nwithout: " .. case[2])
    end
    for _, text in ipairs{"", "[]", "{", "null", (" "):rep(70000)} do
      local ok, err = pcall(graph.compile, text)
      assert.is_false(ok)
      assert.equal("refused", err.kind)
    end
  end)
end)
