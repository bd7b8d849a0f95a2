--- Datums of custom losses: their bytes, compared with the official client's, and what is refused.

local here = debug.getinfo(1, "S").source:match("^@(.*/)")
local servers = dofile(here .. "../support/servers.lua")
local python = dofile(here .. "../support/python.lua")
local array = require "riverlua.array"
local datum = require "training.datum"
local json = require "riverlua.json"
local loss_graph = require "training.loss_graph"
local nest = require "training.nest"

local error_of = servers.error_of

local function hex(bytes) return (bytes:gsub(".", function(c) return ("%02x"):format(c:byte()) end)) end

local COLUMNS = {t = "int64", n = "int32", w = {"float32", 3}, k = {"int32", 1}, a = "float32"}

local function make()
  return loss_graph(COLUMNS, function(logits, x)
    return (logits:ce(x.t) * x.a * x.w:sum_candidates()):sum() / x.n:float():sum() + x.k:float():sum()
  end)
end

-- Good data for COLUMNS; `changes` takes the place of some.
local function data(changes)
  local all = {t = {1, 2, 3, -4}, n = {5, 6, 7, 8}, w = {{0.1, 0.2, 0.3}, {1, 2, 3}, {4, 5, 6}, {-1, -2, 1e-40}},
    k = {{1}, {2}, {3}, {2147483647}}, a = {0, 0.5, -1, 3.4e38}}
  for name, value in pairs(changes or {}) do all[name] = value end
  return all
end

-- Floats for the official client, which takes no integers for them.
local function floats(values)
  local out = {}
  for i, value in ipairs(values) do out[i] = type(value) == "table" and floats(value) or value + 0.0 end
  return out
end

describe("a datum of a custom loss", function()
  it("has the bytes that the official client sent", function()
    local recorded
    for line in io.lines(here .. "loss_vectors.jsonl") do
      local vector = json.decode(line)
      if vector.name == "datum" then recorded = vector.hex end
    end
    local loss = loss_graph({targets = "int64"}, function(logits, x) return logits:ce(x.targets):sum() end,
      {source = false})
    for _, form in ipairs{table.pack, function(...) return array.int64{...} end,
      function(...) return array.int32{...} end} do
      local made = loss:datum{input_ids = {table.unpack(form(1, 2, 3))}, loss_data = {targets = {2, 3, 0}}}
      assert.equal(recorded, hex(nest.encode(made)))
      made = loss:datum{input_ids = form(1, 2, 3).table and form(1, 2, 3) or {1, 2, 3},
        loss_data = {targets = array.int64{2, 3, 0}}, attention_mask = {1, 1, 1}}
      assert.equal(recorded, hex(nest.encode(made)))
      assert.equal(recorded, hex(datum.encode(made)))
    end
  end)

  it("has the bytes that the official client makes, whatever the columns are", function()
    if not os.execute(python.path .. " -c 'import river_client' >/dev/null 2>&1") then
      return pending("river_client is not installed")
    end
    local loss = make()
    local inputs = {t = "int64", n = "int32", w = {dtype = "float32", shape = {"T", 3}},
      k = {dtype = "int32", shape = {"T", 1}}, a = "float32"}
    local given = data()
    local theirs = data{w = floats(given.w), a = floats(given.a)}
    local ids, mask = {11, 12, 13, 14}, {1, 1, 1, 1}
    local chunks = {{type = "text", tokens = {1, 2}}, {type = "image", image_handle = "img-1", expected_tokens = 2}}
    local path = os.tmpname()
    local file <close> = assert(io.open(path, "wb"))
    file:write(json.encode{
      {inputs = inputs, graph = loss.json, datum = {input_ids = ids, loss_data = theirs}},
      {inputs = inputs, graph = loss.json, datum = {input_ids = ids, loss_data = theirs, attention_mask = mask}},
      {inputs = inputs, graph = loss.json, datum = {model_input = chunks, loss_data = theirs}}})
    file:close()
    local pipe = assert(io.popen(("%s %sloss_official.py <%s 2>&1"):format(python.command, here, path)))
    local output = pipe:read("a")
    assert(pipe:close(), output)
    os.remove(path)
    local expected = json.decode(output:match("[^\n]*\n$"))
    local arrays = {t = array.int64(given.t), n = array.int64(given.n), a = array.float64(given.a),
      w = array.matrix("float32", given.w), k = {array.int32{1}, {2}, {3}, {2147483647}}}
    for _, values in ipairs{given, arrays, theirs} do
      assert.equal(expected[1], hex(datum.encode(loss:datum{input_ids = ids, loss_data = values})))
      assert.equal(expected[2], hex(datum.encode(loss:datum{input_ids = ids, loss_data = values,
        attention_mask = mask})))
      -- the chunks themselves are not what this function of the official client makes
      local read = nest.decode(datum.encode(loss:datum{model_input = chunks, loss_data = values}))
      local wanted = nest.decode((expected[3]:gsub("%x%x", function(byte) return string.char(tonumber(byte, 16)) end)))
      assert.same(nest.keys(wanted), nest.keys(read))
      for _, key in ipairs(nest.keys(wanted)) do
        if key ~= "model_input" then
          assert.equal(wanted[key].dtype, read[key].dtype)
          assert.same(wanted[key].shape, read[key].shape)
          assert.equal(wanted[key]:bytes(), read[key]:bytes())
        end
      end
    end
  end)

  it("has its keys in order, also with a routing handle", function()
    local loss = make()
    local made = loss:datum{input_ids = {1, 2, 3, 4}, loss_data = data(), expert_routing_handle = "handle-1"}
    assert.same({"input_ids", "expert_routing_handle", "__river_loss_column_0", "__river_loss_column_1",
      "__river_loss_column_2", "__river_loss_column_3", "__river_loss_column_4", "__river_loss_position",
      "attention_mask", "__river_loss_graph_v1"}, nest.keys(made))
    assert.equal("handle-1", made.expert_routing_handle:bytes())
    assert.equal("uint8", made.expert_routing_handle.dtype)
    assert.equal(loss.json, made.__river_loss_graph_v1:bytes())
    assert.same({4, 3}, made.__river_loss_column_4.shape)
    local read = nest.decode(datum.encode(made))
    assert.equal("float32", read.__river_loss_column_0.dtype)
    assert.equal("int32", read.__river_loss_column_1.dtype)
    assert.equal("int64", read.__river_loss_column_3.dtype)
  end)

  describe("refuses", function()
    local function fails(given, ...)
      local loss = make()
      local err = error_of(loss.datum, loss, given)
      assert.equal("argument", err.kind)
      for _, piece in ipairs{...} do assert.matches(piece, tostring(err), 1, true) end
    end

    local function fails_with(changes, ...)
      fails({input_ids = {1, 2, 3, 4}, loss_data = data(changes)}, ...)
    end

    it("other keys, and too few or many", function()
      fails({input_ids = {1}, loss_data = {}, weights = {1}}, "unknown option 'weights'")
      fails({input_id = {1}, loss_data = {}}, "did you mean 'input_ids'?")
      fails({loss_data = data()}, "either input_ids or model_input")
      fails({input_ids = {1}, model_input = {}, loss_data = data()}, "not both")
      fails({input_ids = {1, 2, 3, 4}}, "loss_data")
      fails(nil, "datum")
      fails({input_ids = {}, loss_data = data()}, "no tokens")
      fails({model_input = {}, loss_data = data()}, "no tokens")
      fails({input_ids = {{1}, {2}}, loss_data = data()}, "input_ids")
      fails({input_ids = {1, 2.5}, loss_data = data()}, "input_ids", "[2]")
      fails({input_ids = "abc", loss_data = data()}, "input_ids must be a list, got string")
      fails({model_input = {{type = "image", image_handle = "x"}}, loss_data = data()}, "model_input[1]",
        "expected_tokens")
      fails({input_ids = {1, 2, 3, 4}, loss_data = data(), expert_routing_handle = ""}, "1 to 4096")
      fails({input_ids = {1, 2, 3, 4}, loss_data = data(), expert_routing_handle = ("x"):rep(4097)}, "4097")
    end)

    it("missing and unknown columns", function()
      local missing = data()
      missing.a = nil
      fails({input_ids = {1, 2, 3, 4}, loss_data = missing}, "loss_data.a is missing")
      fails_with({tt = {1}}, "loss_data.tt is no column", "did you mean 't'?")
      fails_with({a = 5}, "loss_data.a must be a list, got number")
    end)

    it("shapes that are not those of the tokens", function()
      fails_with({a = {1, 2, 3}}, "loss_data.a has the shape [3], and [4] is wanted")
      fails_with({a = {{1}, {2}, {3}, {4}}}, "loss_data.a has the shape [4, 1]")
      fails_with({w = {1, 2, 3, 4}}, "loss_data.w has the shape [4], and [4, 3] is wanted")
      fails_with({w = {{1, 2}, {1, 2}, {1, 2}, {1, 2}}}, "[4, 2]")
      fails_with({w = {{1, 2, 3}, {1, 2, 3}, {1, 2}, {1, 2, 3}}}, "loss_data.w")
      fails_with({w = array.matrix("float32", {1, 2, 3, 4, 5, 6}, 3)}, "[2, 3]")
    end)

    it("numbers that do not fit", function()
      fails_with({a = {0, 1, 0 / 0, 1}}, "loss_data.a", "[3]")
      fails_with({a = {0, 1, math.huge, 1}}, "loss_data.a", "[3]")
      fails_with({a = {0, -1e39, 0, 1}}, "loss_data.a", "[2]")
      fails_with({w = {{1, 2, 3}, {1, 2, -math.huge}, {1, 2, 3}, {1, 2, 3}}}, "loss_data.w", "[2][3]")
      fails_with({a = array.float64{0, 1, 0 / 0, 1}}, "loss_data.a", "[3]")
      fails_with({a = array.float32{0, 1, 2, math.huge}}, "loss_data.a", "[4]")
      fails_with({n = {1, 2, 3, 2147483648}}, "loss_data.n (int32)", "[4]")
      fails_with({n = {1, 2, 3, 0.5}}, "loss_data.n", "[4]")
      fails_with({k = {{1}, {2}, {-2147483649}, {4}}}, "loss_data.k", "[3]")
      fails_with({n = array.int64{1, 2, 3, 2147483648}}, "loss_data.n", "[4]")
      fails_with({t = {1, "2", 3, 4}}, "loss_data.t", "[2]")
      fails_with({t = {1, nil, 3, 4}}, "loss_data.t")
    end)

    it("masks that hide something", function()
      local function with_mask(mask, ...)
        fails({input_ids = {1, 2, 3, 4}, loss_data = data(), attention_mask = mask}, ...)
      end
      with_mask({1, 1, 0, 1}, "attention_mask[3] is 0", "padding")
      with_mask({1, 1, 1}, "attention_mask has the shape [3], and [4] is wanted")
      with_mask({{1}, {1}, {1}, {1}}, "[4, 1]")
    end)
  end)
end)
