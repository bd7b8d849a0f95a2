--- Pickles read without Python: every kind of value in every protocol, models, and what is damaged or hostile.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local errors = require "riverlua.errors"
local river = require "river"

local read, kind = river.pickle.read, river.pickle.kind

local function from_hex(text)
  return (text:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end))
end

local function to_hex(text)
  return (text:gsub(".", function(char) return ("%02x"):format(char:byte()) end))
end

local function tagged_items(list, tag)
  local items = {}
  for i, item in ipairs(list) do items[i] = tag(item) end
  return items
end

-- What pickles.py says about a value.
local function tagged(value)
  local what = kind(value)
  if what == "none" then return require("riverlua.json").null end
  if what == "boolean" or what == "string" or math.type(value) == "integer" then return value end
  if what == "float" then return {float = ("%.17g"):format(value)} end
  if what == "integer" then return {integer = value.hex} end
  if what == "bytes" then return {bytes = to_hex(value.text)} end
  if what == "node" then return {object = value.class} end
  if what == "dict" then
    local list = {}
    for i, pair in ipairs(value) do list[i] = {tagged(pair[1]), tagged(pair[2])} end
    return {dict = list}
  end
  return {[what] = tagged_items(value, tagged)}
end

-- Python writes floats in hexadecimal, exactly; Lua reads that.
local function with_floats(value)
  if type(value) ~= "table" then return value end
  if value.float then return {float = ("%.17g"):format(tonumber(value.float))} end
  local out = {}
  for key, item in pairs(value) do out[key] = with_floats(item) end
  return out
end

local pickles = support.run_python("pickles.py")
local by_name = {}
for _, line in ipairs(pickles) do
  line.bytes = from_hex(line.hex)
  by_name[line.name .. line.protocol] = line.bytes
end

describe("a pickle is read as it is:", function()
  for _, line in ipairs(pickles) do
    if line.value then
      it(("%s, protocol %d"):format(line.name, line.protocol), function()
        assert.same(with_floats(line.value), tagged(read(line.bytes)))
      end)
    end
  end

  it("what was one object is one table, and cycles are cycles", function()
    local shared = read(by_name.shared4)
    assert.equal(shared[1], shared[2])
    assert.equal(shared[1], shared[3].again)
    local loop = read(by_name.cycle4)
    assert.equal(loop, loop[2])
  end)

  it("what is put into containers is kept with them", function()
    local ordered, counter, deque, default = table.unpack(read(by_name.containers4))
    assert.equal("collections.OrderedDict", ordered.class)
    assert.equal(1, ordered.items.a)
    assert.same(2, counter.args[1].a)
    assert.same(5, deque.args[2])
    assert.same({1, 2}, {deque.items[1], deque.items[2]})
    assert.equal("list", default.args[1].name:match("list$"))
    assert.equal(1, default.items.x[1])
  end)

  it("a dict finds its keys, also in long ones and as numbers", function()
    local long = read(by_name["long dict4"])
    assert.equal(2500, #long)
    assert.equal(1234, long.k1234)
    assert.is_nil(long.nope)
    local nested = read(by_name.nested4)
    assert.equal(2, nested:get(1.5))
    assert.equal(river.none, nested:get(2))
    assert.equal(2, nested.a[2].b[1])
  end)

  it("a key put twice has its last value", function()
    local dict = read("\x80\x04}(K\x01K\x02K\x01K\x03u.")
    assert.equal(1, #dict)
    assert.equal(3, dict:get(1))
  end)

  it("riverlua's own descriptions: called with named arguments", function()
    local model = river.preprocessing.StandardScaler() | river.linear_model.LinearRegression{l2 = 0.5}
    local root = read(river.pickle.dumps(model))
    assert.equal("river.compose.Pipeline", root.class)
    assert.equal("called", root.made)
    assert.equal(0.5, root.args[2].kwargs.l2)
  end)

  it("from a file, too", function()
    local path = os.tmpname()
    local file = assert(io.open(path, "wb"))
    file:write(by_name.long4)
    file:close()
    assert.equal(3000, #read(path))
    os.remove(path)
  end)
end)

describe("a trained model", function()
  for _, line in ipairs(pickles) do
    if line.model then
      it(("is a tree of its parts: %s, protocol %d"):format(line.name, line.protocol), function()
        local root = read(line.bytes)
        assert.equal("node", kind(root))
        assert.equal("new", root.made)
        assert.equal(line.model, require("river.pickle_reader").class_name(root))
        assert.equal("dict", kind(root.state))
      end)
    end
  end

  it("shows its weights and means", function()
    local steps = read(by_name.linear4).state.steps.items
    local scaler, regression = steps.StandardScaler.state, steps.LinearRegression.state
    assert.equal(60, scaler.counts.args[1].gallup)
    assert.equal("float", kind(scaler.means.items.gallup))
    assert.equal("float", kind(regression.intercept))
    assert.equal("float", kind(regression._weights.args[1].gallup))
    assert.equal(60, regression.optimizer.state.n_iterations)
  end)
end)

describe("the outline of a pickle", function()
  it("names the parts with their values", function()
    local text = river.pickle.outline(read(by_name.linear4))
    for _, part in ipairs{"river.compose.pipeline.Pipeline\n  steps: collections.OrderedDict\n",
      "    StandardScaler: river.preprocessing.scale.StandardScaler\n      with_std: true\n", "n_iterations: 60",
      "(the one above)", "window_size: None"} do
      assert.truthy(text:find(part, 1, true), text)
    end
  end)

  it("ends, whatever there is", function()
    assert.equal("list of 2\n  1\n  list of 2 (the one above)", river.pickle.outline(read(by_name.cycle4)))
    local _, lines = river.pickle.outline(read(by_name.long4), {lines = 10}):gsub("\n", "")
    assert.equal(10, lines)
    assert.equal("None", river.pickle.outline(river.none))
  end)
end)

describe("a pickle that would run code", function()
  it("runs nothing and shows what it would call", function()
    local path = support.temporary_name()
    local evil = "\x80\x04\x8c\x05posix\x8c\x06system\x93" ..
      ("\x8c%s%s"):format(string.char(#path + 6), "touch " .. path) .. "\x85R."
    local root = read(evil)
    assert.equal("posix.system", root.class)
    assert.equal("touch " .. path, root.args[1])
    assert.is_nil(io.open(path))
  end)
end)

describe("what cannot be read", function()
  local function fails(error_kind, text, bytes, options)
    local err = support.error_of(read, bytes, options)
    assert.is_true(errors.is(err, error_kind), tostring(err))
    assert.truthy(err.message:find(text, 1, true), err.message)
  end

  it("is said clearly", function()
    fails("protocol", "cut off", "\x80\x04")
    fails("protocol", "cut off", "\x80\x04X\xff\xff\xff\x7fabc.")
    fails("protocol", "cut off", "\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc.")
    fails("protocol", "the stack is empty", "\x80\x04.")
    fails("protocol", "the stack is empty", "\x80\x04K\x01(a.")
    fails("protocol", "a mark is left over", "\x80\x04(.")
    fails("protocol", "there is no mark", "\x80\x04t.")
    fails("protocol", "a mark is left over", "\x80\x04(K\x01K\x02\x2e")
    fails("protocol", "nothing is remembered as 7", "\x80\x04h\x07.")
    fails("protocol", "not UTF-8", "\x80\x04\x8c\x01\xff.")
    fails("protocol", "a number takes no such items", "\x80\x04K\x01K\x02a.")
    fails("protocol", "a list takes no state", "\x80\x04]}b.")
    fails("protocol", "cannot be called", "\x80\x04K\x01)R.")
    fails("protocol", "a key without a value", "\x80\x04}(K\x01u.")
    fails("unsupported", "persistent ids", "\x80\x04K\x01Q.")
    fails("unsupported", "registry", "\x80\x04\x82\x01.")
    fails("unsupported", "buffers", "\x80\x05\x97.")
    fails("unsupported", "protocol 6", "\x80\x06N.")
    fails("unsupported", "operation 0x49", "\x80\x02I1\n.")
    fails("argument", "cannot read the file", "(lp0\n.")
    fails("argument", "must be a string", 5)
    fails("argument", "did you mean 'max_bytes'?", "\x80\x04N.", {max_byte = 1})
  end)

  it("is too big, by bytes, values or depth", function()
    fails("limit", "max_bytes", by_name.long4, {max_bytes = 100})
    fails("limit", "max_values", "\x80\x04" .. ("]"):rep(2000) .. ".", {max_values = 1000})
    fails("limit", "more than 1000 values", "\x80\x04" .. ("("):rep(2000) .. ".", {max_values = 1000})
    fails("limit", "1000 deep", "\x80\x04)" .. ("\x85"):rep(5000) .. ".")
    fails("limit", "1000 deep", "\x80\x04" .. ("]\x94"):rep(5000) .. ("a"):rep(4999) .. ".")
    -- a hundred times itself, twice: small, whoever visits each value once
    local bomb = "\x80\x04]\x94" .. ("](h\0h\0e\x94h\1"):rep(1) .. "0."
    assert.is_true(pcall(read, bomb))
  end)
end)

describe("thousands of damaged pickles", function()
  -- Bytes flipped, cut, doubled, exchanged for operations; the seed makes failures repeatable.
  local OPERATIONS = "(.0125NK\x88\x89GX}]us)tRb\x81\x85\x86\x87\x8a\x8c\x8f\x90\x91\x92\x93\x94\x95hjqrae"

  local function mutate(bytes)
    local how = math.random(6)
    local at = math.random(2, #bytes)
    if how == 1 then return bytes:sub(1, at) end
    local char = string.char(math.random(0, 255))
    if how == 2 then return bytes:sub(1, at - 1) .. char .. bytes:sub(at + 1) end
    if how == 3 then
      local place = math.random(#OPERATIONS)
      return bytes:sub(1, at - 1) .. OPERATIONS:sub(place, place) .. bytes:sub(at + 1)
    end
    local last = math.min(#bytes, at + math.random(0, 40))
    if how == 4 then return bytes:sub(1, at - 1) .. bytes:sub(last) end
    if how == 5 then return bytes:sub(1, last) .. bytes:sub(at) end
    return bytes:sub(1, at - 1) .. char .. bytes:sub(at)
  end

  it("give values or structured errors, nothing else", function()
    math.randomseed(20240301)
    local kinds = {protocol = 0, unsupported = 0, limit = 0, read = 0}
    local options = {max_values = 100000}
    for _, line in ipairs(pickles) do
      -- the small ones oftener
      for _ = 1, math.max(20, math.min(200, 200000 // #line.bytes)) do
        local bytes = line.bytes
        for _ = 1, math.random(3) do
          if #bytes > 2 then bytes = mutate(bytes) end
        end
        local ok, err = pcall(read, "\x80" .. bytes:sub(2), options)
        assert(ok or errors.is(err) and kinds[err.kind], tostring(err))
        local seen = ok and "read" or err.kind
        kinds[seen] = kinds[seen] + 1
      end
    end
    assert.is_true(kinds.read + kinds.protocol + kinds.unsupported + kinds.limit >= 5000)
    assert.is_true(kinds.read > 100 and kinds.protocol > 1000 and kinds.unsupported > 100)
  end)

  it("never break the embedded service", function()
    math.randomseed(20240302)
    local embedded = require("river.embedded").new()
    local accepted = 0
    for _, name in ipairs{"linear4", "linear2", "union4"} do
      for _ = 1, 400 do
        local bytes = mutate(by_name[name])
        local answer = embedded:request{method = "POST", path = "/api/model/regression/m/",
          body = "\x80" .. bytes:sub(2)}
        assert(answer.status == 201 or answer.status == 400)
        if answer.status == 201 then
          accepted = accepted + 1
          for _, path in ipairs{"/api/predict/", "/api/learn/"} do
            embedded:request{method = "POST", path = path, json = {model = "m", features = {gallup = 43, ipsos = 44.5},
              ground_truth = 43}}
          end
        end
      end
    end
    assert.is_true(accepted > 10)
  end)
end)
