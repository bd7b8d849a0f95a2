--- Pickle bytes: golden examples, each opcode, and what is refused.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local river = require "river"
local pickle = require "river.pickle"

local function hex(value, options) return support.hex(pickle.dumps(value, options)) end

describe("golden bytes:", function()
  it("scaler and linear regression with an optimizer", function()
    local node = river.preprocessing.StandardScaler()
      | river.linear_model.LinearRegression{optimizer = river.optim.SGD(0.01)}
    assert.equal(179, #pickle.dumps(node))
    assert.equal("80048c0d72697665722e636f6d706f73658c08506970656c696e65938c1372697665722e70726570726f63657373696e67"
      .. "8c0e5374616e646172645363616c65729329528c0966756e63746f6f6c738c077061727469616c938c1272697665722e6c696e656172"
      .. "5f6d6f64656c8c104c696e65617252656772657373696f6e93857d288c096f7074696d697a65728c0b72697665722e6f7074696d"
      .. "8c0353474493473f847ae147ae147b85527592295286522e", hex(node))
  end)

  it("scaler and linear regression with the defaults", function()
    local node = river.preprocessing.StandardScaler() | river.linear_model.LinearRegression()
    assert.equal(112, #pickle.dumps(node))
    assert.equal("80048c0d72697665722e636f6d706f73658c08506970656c696e65938c1372697665722e70726570726f63657373696e67"
      .. "8c0e5374616e646172645363616c65729329528c1272697665722e6c696e6561725f6d6f64656c8c104c696e656172526567726573"
      .. "73696f6e93295286522e", hex(node))
  end)

  it("an anomaly detector that answers predict_one", function()
    local node = river.with_score_as_prediction(river.anomaly.HalfSpaceTrees{seed = 42})
    assert.equal(125, #pickle.dumps(node))
    assert.equal("80048c0966756e63746f6f6c738c077061727469616c938c0d72697665722e616e6f6d616c798c0e48616c665370616365"
      .. "547265657393857d288c04736565644b2a7592295271007d288c0b707265646963745f6f6e658c086275696c74696e738c0767657461"
      .. "7474729368008c0973636f72655f6f6e65865275622e", hex(node))
  end)
end)

describe("a value becomes", function()
  local cases = {
    {river.none, "4e"}, {true, "88"}, {false, "89"},
    {0, "4b00"}, {255, "4bff"}, {256, "4a00010000"}, {-1, "4affffffff"},
    {0x7fffffff, "4affffff7f"}, {-0x80000000, "4a00000080"},
    {0x80000000, "8a050000008000"}, {-0x80000001, "8a05ffffff7fff"},
    {0x7fffffffff, "8a05ffffffff7f"}, {0x8000000000, "8a06000000008000"}, {-0x8000000000, "8a050000000080"},
    {math.maxinteger, "8a08ffffffffffffff7f"}, {math.mininteger, "8a080000000000000080"},
    {0.01, "473f847ae147ae147b"}, {-0.0, "478000000000000000"}, {1.0, "473ff0000000000000"},
    {math.huge, "477ff0000000000000"},
    {"", "8c00"}, {"é", "8c02c3a9"}, {("x"):rep(255), "8cff" .. ("78"):rep(255)},
    {("x"):rep(256), "5800010000" .. ("78"):rep(256)},
    {river.tuple{}, "29"}, {river.tuple{1}, "4b0185"}, {river.tuple{1, 2}, "4b014b0286"},
    {river.tuple{1, 2, 3}, "4b014b024b0387"}, {river.tuple{1, 2, 3, 4}, "284b014b024b034b0474"},
    {river.list{}, "5d"}, {river.list{1, true}, "5d284b018865"},
    {river.dict{}, "7d"}, {river.dict{{"b", 1}, {"a", 2}}, "7d288c01624b018c01614b0275"},
    {river.dict{b = 1, a = 2}, "7d288c01614b028c01624b0175"},
    {river.set{1}, "8f284b0190"},
    {river.ref "river.stats.Mean", "8c0b72697665722e73746174738c044d65616e93"},
  }
  for index, case in ipairs(cases) do
    it(("%d: %s"):format(index, tostring(case[1]):sub(1, 40)), function()
      assert.equal("8004" .. case[2] .. "2e", hex(case[1]))
    end)
  end
end)

describe("a model's bytes", function()
  it("do not depend on the order of named arguments", function()
    local first, second = {}, {}
    for index = 1, 40 do first["option" .. index] = index end
    for index = 40, 1, -1 do second["option" .. index] = index end
    assert.equal(hex(river.optim.SGD(first)), hex(river.optim.SGD(second)))
  end)

  it("make a node used twice one object", function()
    local shared = river.optim.SGD()
    local bytes = pickle.dumps(river.optim.A(shared, shared))
    local _, count = bytes:gsub("SGD", "")
    assert.equal(1, count)
    assert.truthy(bytes:find("\x93)Rq\x00h\x00\x86R.", 1, true))
  end)

  it("number more than 256 shared objects", function()
    local items = {}
    for _ = 1, 300 do
      local shared = river.optim.A()
      items[#items + 1] = shared
      items[#items + 1] = shared
    end
    local bytes = pickle.dumps(river.list(items))
    assert.truthy(bytes:find("r\x2b\x01\x00\x00j\x2b\x01\x00\x00e.", 1, true))
  end)

  it("name nothing outside the library unless it is allowed", function()
    local node = river.compose.SelectType(river.ref "numbers.Number")
    local err = support.error_of(pickle.dumps, node)
    assert.equal("argument", err.kind)
    assert.truthy(tostring(err):find("numbers.Number", 1, true))
    assert.truthy(err.hint:find("allow", 1, true))
    assert.truthy(pickle.dumps(node, {allow = {"numbers"}}))
    assert.truthy(pickle.dumps(node, {allow = {"numbers.Number"}}))
    assert.falsy(pcall(pickle.dumps, node, {allow = {"number"}}))
    assert.falsy(pcall(pickle.dumps, node, {allow = {"numbers.Numb"}}))
    for _, name in ipairs{"os.system", "builtins.eval", "riverside.Thing", "functools.partial"} do
      assert.falsy(pcall(pickle.dumps, river.class(name)("x")), name)
    end
  end)

  it("take no unknown option", function()
    local err = support.error_of(pickle.dumps, 1, {alow = {}})
    assert.truthy(tostring(err):find("did you mean 'allow'", 1, true))
  end)
end)

describe("Python reads", function()
  -- each line: a description; Python answers with what it built, as JSON, from both of its unpicklers
  local shared = river.class "types.SimpleNamespace"{x = 1}
  local namespace = river.class "types.SimpleNamespace"
  local longest = ("é"):rep(200)
  local cases = {
    {0, "0"}, {-1, "-1"}, {255, "255"}, {256, "256"}, {65536, "65536"},
    {math.maxinteger, "9223372036854775807"}, {math.mininteger, "-9223372036854775808"},
    {2^31 | 0, "2147483648"}, {-(2^31 | 0) - 1, "-2147483649"}, {2^39 | 0, "549755813888"},
    {-(2^47 | 0), "-140737488355328"}, {2^55 | 0, "36028797018963968"}, {-(2^55 | 0) - 1, "-36028797018963969"},
    {0.1, "0.1"}, {1e300, "1e+300"}, {-0.0, "-0.0"}, {5e-324, "5e-324"}, {3.0, "3.0"},
    {"tab\t\u{1F30A}\0", '"tab\\t\u{1F30A}\\u0000"'}, {longest, '"' .. longest .. '"'},
    {river.tuple{1, 2, 3, 4, "x"}, '{"tuple":[1,2,3,4,"x"]}'},
    {river.list{river.list{}, river.dict{}, river.tuple{}, river.none, true}, '[[],{},{"tuple":[]},null,true]'},
    {river.set{3, 1, 2}, '{"set":[1,2,3]}'},
    {river.dict{{"b", 1}, {"a", river.list{1.5}}}, '{"b":1,"a":[1.5]}'},
    {namespace{b = 2, a = namespace()}, '{"object":{"a":{"object":{},"same":false},"b":2},"same":false}'},
    {namespace{b = shared, a = shared},
      '{"object":{"a":{"object":{"x":1},"same":false},"b":{"object":{"x":1},"same":false}},"same":true}'},
    {river.list{river.ref "river.stats.Mean", river.ref "river.utils.math.sigmoid"},
      '["river.stats.mean.Mean","river.utils.math.sigmoid"]'},
    {river.optim.SGD(0.5) , '"SGD({\'lr\': Constant({\'learning_rate\': 0.5})})"'},
  }

  it("every kind of value as meant", function()
    local path = support.temporary_name()
    local file = assert(io.open(path, "w"))
    for _, case in ipairs(cases) do
      file:write(hex(case[1], {allow = {"types.SimpleNamespace"}}), "\n")
    end
    file:close()
    local lines = support.run_python("unpickle.py", path)
    os.remove(path)
    assert.equal(#cases, #lines)
    for index, case in ipairs(cases) do
      assert.equal(case[2], lines[index].c)
      assert.equal(case[2], lines[index].python)
    end
  end)
end)
