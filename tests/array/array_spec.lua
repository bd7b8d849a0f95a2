-- riverlua.array: compact arrays that are used like tables.

local array = require "riverlua.array"
local errors = require "riverlua.errors"
local json = require "riverlua.json"
local pretty = require "riverlua.pretty"

local INTEGERS = {int8 = {-128, 127}, int16 = {-32768, 32767}, int32 = {-2147483648, 2147483647},
  int64 = {math.mininteger, math.maxinteger}, uint8 = {0, 255}, uint16 = {0, 65535}, uint32 = {0, 4294967295}}

-- The message of the riverlua error of kind "argument" that a call raises.
local function refused(fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok, "nothing is raised")
  assert.is_true(errors.is(err, "argument"), tostring(err))
  return tostring(err)
end

local function set(a, i, value) a[i] = value end

describe("an array", function()
  it("is read like a table", function()
    local a = array.int32{12, 13, 14}
    assert.equal(3, #a)
    assert.same({12, 14, 13}, {a[1], a[3], a[2.0]})
    for _, key in ipairs{0, -1, 4, 1.5, math.maxinteger, math.mininteger, 0 / 0, "x", "1", true} do
      assert.is_nil(a[key], tostring(key))
    end
    local seen = {}
    for i, value in ipairs(a) do seen[#seen + 1] = i .. "=" .. value end
    for i, value in pairs(a) do seen[#seen + 1] = i .. "=" .. value end
    assert.equal("1=12 2=13 3=14 1=12 2=13 3=14", table.concat(seen, " "))
    assert.same({12, 13, 14}, {table.unpack(a)})
    assert.same({13}, {table.unpack(a, 2, 2)})
    assert.equal("12,13,14", table.concat(a, ","))
    assert.same({0, 12, 13, 14}, table.move(a, 1, 3, 2, {0}))
    assert.equal(2, select("#", table.unpack(a, 2)))
  end)

  it("is written like a table, as far as it goes", function()
    local a = array.float32{3, 1, 2}
    a[1] = 5
    a[2.0] = 0.5
    assert.same({5.0, 0.5, 2.0}, a:table())
    table.sort(a)
    assert.same({0.5, 2.0, 5.0}, a:table())
    table.sort(a, function(x, y) return x > y end)
    table.move(a, 2, 3, 1)
    assert.same({2.0, 0.5, 0.5}, a:table())
    for _, key in ipairs{0, 4, -1, 1.5, "x", 0 / 0} do
      assert.truthy(refused(set, a, key, 1):find("element", 1, true), tostring(key))
    end
    assert.truthy(refused(table.insert, a, 1):find("array.concat(a, {value})", 1, true))
    assert.truthy(refused(set, a, 1, nil):find("is missing", 1, true))
  end)

  it("is of one type, and what does not fit is refused", function()
    for dtype, range in pairs(INTEGERS) do
      local a = array[dtype](range)
      assert.equal(dtype, a.dtype)
      assert.same(range, a:table())
      a[1] = 7.0
      assert.equal("integer", math.type(a[1]))
      assert.truthy(refused(set, a, 1, 0.5):find("0.5, which is not an integer", 1, true))
      for _, value in ipairs{"7", true, {}, 1e300} do refused(set, a, 1, value) end
      if dtype ~= "int64" then
        refused(set, a, 1, range[1] - 1)
        assert.truthy(refused(set, a, 2, range[2] + 1):find("which " .. dtype .. " cannot hold", 1, true))
      end
      assert.truthy(refused(set, a, 1, 0 / 0):find("is nan", 1, true))
      assert.equal(7, a[1])
    end
    local flags = array.bool{true, false, 1, 0}
    assert.same({true, false, true, false}, flags:table())
    assert.truthy(refused(set, flags, 1, 2):find("neither true nor false", 1, true))
    local small = array.float32{1, 0.1, 2^24 + 1, 1 / 0, -1 / 0, 3.4028235e38}
    assert.equal("float", math.type(small[1]))
    assert.equal(string.unpack("f", string.pack("f", 0.1)), small[2])
    assert.equal(2.0^24, small[3])
    assert.same({1 / 0, -1 / 0}, {small[4], small[5]})
    assert.truthy(refused(set, small, 1, 1e39):find("which float32 cannot hold", 1, true))
    assert.is_true(array.float64{0 / 0}[1] ~= array.float64{0 / 0}[1])
    refused(set, small, 1, "1.5")
    refused(set, small, 1, false)
  end)

  it("holds all of uint64", function()
    local a = array.uint64{0, math.maxinteger, "18446744073709551615", "9223372036854775808", "12"}
    assert.same({0, math.maxinteger, "18446744073709551615", "9223372036854775808", 12}, a:table())
    for _, value in ipairs{-1, "18446744073709551616", "-1", "", "1x", "99999999999999999999", 1e19} do
      refused(array.uint64, {value})
    end
    assert.equal("[0,9223372036854775807,18446744073709551615,9223372036854775808,12]", json.encode(a))
    assert.equal(18446744073709551615.0, array.float64(a)[3])
    refused(array.int64, a)
    assert.is_true(a == array.uint64(a))
    assert.is_false(a == array.int64{0, math.maxinteger, -1, math.mininteger, 12})
  end)

  it("says where a list is wrong", function()
    local list = {}
    for i = 1, 200 do list[i] = i end
    for _, at in ipairs{1, 64, 65, 128, 200} do
      for value, words in pairs{[0.5] = "is 0.5, which is not an integer", ["x"] = "is a string, not a number",
        [true] = "is a boolean, not a number"} do
        local kept = list[at]
        list[at] = value
        local message = refused(array.int64, list)
        assert.truthy(message:find(("[%d] %s"):format(at, words), 1, true), message)
        list[at] = kept
      end
    end
    assert.truthy(refused(array.int64, {1, {2}}):find("[2] is a table, not a number", 1, true))
    assert.truthy(refused(array.int64, {1, array.int8{1}}):find("[2] is a list, not a number", 1, true))
    assert.truthy(refused(array.float32, {{1, 2}, {3}}):find("[2] has 1 values where the first has 2", 1, true))
    assert.truthy(refused(array.float32, {{1, 2}, {3, "x"}}):find("[2][2] is a string", 1, true))
    assert.truthy(refused(array.float32, {{1, 2}, 3}):find("[2] is a number where a list of 2 is wanted", 1, true))
    assert.truthy(refused(array.float32, {{1, 2}, array.int8{3}}):find("[2] has 1 values", 1, true))
    assert.truthy(refused(array.float32, "x"):find("is a string, not a list", 1, true))
    refused(array.new, "float16", {1})
    assert.is_false(pcall(array.int64))
  end)

  it("is made of any list", function()
    assert.same({}, array.int8{}:table())
    local list = setmetatable({}, {__index = function(_, i) return i * 10 end, __len = function() return 3 end})
    assert.same({10, 20, 30}, array.int64(list):table())
    assert.same({{10, 20, 30}, {1, 2, 3}}, array.int64{list, {1, 2, 3}}:table())
    local rows = {{1, 2, 3}, list}
    assert.same({{1, 2, 3}, {10, 20, 30}}, array.int64(rows):table())
    assert.equal(list, rows[2])
    assert.same({1, 2}, array.int64(json.decode("[1,2]")):table())
    assert.same({1, 2}, array.int64(array.float64{1, 2}):table())
    refused(array.int64, array.float64{1, 2.5})
    local copy = array.int64{1}
    array.int64(copy)[1] = 2
    assert.equal(1, copy[1])
    assert.same({5, 5, 5}, array.fill("int16", 3, 5):table())
    assert.same({0.0, 0.0}, array.fill("float32", 2):table())
    assert.same({true, true}, array.fill("bool", 2, true):table())
    assert.equal(0, #array.fill("int8", 0, 300))
    refused(array.fill, "int8", 1, 300)
    assert.is_false(pcall(array.fill, "int8", -1))
    assert.is_false(pcall(array.fill, "int64", math.maxinteger))
  end)

  it("is joined with arrays and lists", function()
    local a = array.int32{1, 2}
    local joined = array.concat({0, 0}, a, {3}, array.int32{4})
    assert.same({0, 0, 1, 2, 3, 4}, joined:table())
    assert.equal("int32", joined.dtype)
    assert.same({1, 2}, array.concat({}, a, {}):table())
    assert.equal("int32[0]{}", tostring(array.concat({}, a:slice(3))))
    local copy = array.concat(a)
    copy[1] = 9
    assert.same({1, 2}, a:table())
    local list = setmetatable({}, {__index = function(_, i) return i * 10 end, __len = function() return 3 end})
    assert.same({1, 2, 10, 20, 30}, array.concat(a, list):table())
    assert.same({true, false, true}, array.concat(array.bool{true}, {false, 1}):table())
    local long = {}
    for i = 1, 3000 do long[i] = i end
    joined = array.concat(long, a, long)
    assert.same({6002, 3000, 1, 2, 1}, {#joined, joined[3000], joined[3001], joined[3002], joined[3003]})
    local many = {}
    for i = 1, 5000 do many[i] = i % 2 == 0 and {i} or array.int64{i} end
    joined = array.concat(table.unpack(many))
    for i = 1, 5000 do assert(joined[i] == i) end
    assert.same({1, 1, 2}, coroutine.wrap(function() return array.concat({1}, a):table() end)())
  end)

  it("is of a type that holds all that are joined", function()
    for _, case in ipairs{{"int32", "int64", "int64"}, {"int8", "uint8", "int64"}, {"uint8", "uint32", "uint32"},
      {"float32", "int8", "float64"}, {"float64", "float32", "float64"}, {"float32", "float32", "float32"}} do
      for swapped = 0, 1 do
        local both = array.concat(array.new(case[1 + swapped], {1}), {2}, array.new(case[2 - swapped], {3}))
        assert.same({case[3], {1, 2, 3}}, {both.dtype, both:table()})
      end
    end
    assert.equal("float64", array.concat(array.int8{1}, array.uint16{2}, array.float32{3}).dtype)
    local huge = "18446744073709551615"
    assert.same({1, huge, 2}, array.concat(array.uint8{1}, array.uint64{huge}, {2}):table())
  end)

  it("is a matrix when matrices are joined", function()
    local m = array.int32{{1, 2}}
    assert.same({{0, 0}, {1, 2}, {3, 4}}, array.concat({{0, 0}}, m, array.int32{{3, 4}}):table())
    assert.equal("int32[1,2]{{1, 2}}", tostring(array.concat({}, m, {}, m:slice(2))))
    assert.equal("int32[0,2]{}", tostring(array.concat({}, m:slice(2))))
    local joined = array.concat(m, {m[1], {3, 4}}, array.int8{{5, 6}})
    assert.same({{1, 2}, {1, 2}, {3, 4}, {5, 6}}, joined:table())
    joined[3][2] = 40
    assert.equal(array.int32{3, 40}, joined[3])
    assert.same({1, 2, 3}, array.concat(m[1], {3}):table())
    local cube = array.int8{{{1, 2}, {3, 4}}}
    assert.same({{{1, 2}, {3, 4}}, {{1, 2}, {3, 4}}}, array.concat(cube, {{{1, 2}, {3, 4}}}):table())
    assert.same({3, 2}, array.concat(cube[1], m).shape)
  end)

  it("is not joined with anything else", function()
    local a, m = array.int32{1, 2}, array.int32{{1, 2}}
    local huge = array.uint64{{1, 2}, {3, "18446744073709551615"}}
    local several = "array.concat: argument %d, %s, does not go with argument %d, %s"
    for message, args in pairs{
      ["array.concat: argument 2's [1] is 0.5, which is not an integer"] = {a, {0.5}},
      ["array.concat: argument 1's [2] is missing"] = {{1, nil, 3}, a},
      ["array.concat: argument 3's [65] is a string, not a number"] =
        {a, {1}, table.move(a:table(), 1, 0, 1, {table.unpack(array.fill("int8", 64):table())})},
      ["array.concat: argument 3's [2][1] is a boolean, not a number"] = {m, {}, {{1, 2}, {true, 2}}},
      ["array.concat: argument 1's [2][2] is 18446744073709551615, which int64 cannot hold"] = {huge, m},
      ["array.concat: argument 1's [2] is 18446744073709551615, which int64 cannot hold"] = {huge[2], a},
      ["array.concat: argument 2's [2] is 300, which int8 cannot hold"] = {array.int8{}, {1, 300}},
      ["array.concat: argument 2's [2] has 1 values where the first has 2"] = {m, {{1, 2}, {3}}},
      ["array.concat: argument 2 is nested too deeply"] = {a, {{{{{{{{{1}}}}}}}}}},
      ["array.concat: argument 2 must be an array or a list, got string"] = {a, "x"},
      ["array.concat: argument 1 must be an array or a list, got number"] = {1, a},
      ["array.concat: argument 3 must be an array or a list, got nil"] = {a, a, nil, a, n = 4},
      ["array.concat: argument 2 must be an array or a list, got userdata"] = {a, io.stdout},
      ["array.concat: argument 3 is an array of bool, which cannot be joined with one of int32"] =
        {a, {}, array.bool{true}},
      ["array.concat: argument 2 is an array of int32, which cannot be joined with one of bool"] = {array.bool{}, a},
      [several:format(2, "int32[2]", 1, "int32[1,2]")] = {m, a},
      [several:format(4, "int32[1,3]", 2, "int32[2]")] = {{}, a, {}, {{1, 2, 3}}},
      [several:format(3, "int8[1,3]", 1, "int32[1,2]")] = {m, {}, array.int8{{1, 2, 3}}},
    } do
      if message:find("[65]", 1, true) then args[3][65] = "x" end
      local text = refused(array.concat, table.unpack(args, 1, args.n or #args))
      assert.equal("argument: " .. message, (text:gsub(" %(hint.*", "")))
    end
    for _, args in ipairs{{}, {{1}}, {{1}, {2}}} do
      local _, err = pcall(array.concat, table.unpack(args))
      assert.truthy(err.message:find("one of the arguments must be an array", 1, true))
      assert.truthy(err.hint:find("array.int64{…}", 1, true))
    end
    local big = {}
    for i = 1, 200 do big[i] = array.fill("int8", 2^20) end
    big[201] = {"x"}
    refused(array.concat, table.unpack(big))
    for _, join in ipairs{function() return a .. a end, function() return a .. {1} end, function() return {1} .. a end,
      function() return "x" .. a .. "y" end} do
      assert.truthy(select(2, pcall(join)):find("attempt to concatenate a .* value"))
    end
  end)

  it("is equal to an array with the same numbers", function()
    assert.is_true(array.int32{1, 2} == array.int32{1, 2})
    assert.is_true(array.int32{1, 2} == array.float64{1, 2})
    assert.is_true(array.int64{math.maxinteger} == array.uint64{math.maxinteger})
    assert.is_false(array.int64{math.maxinteger} == array.int64{math.maxinteger - 1})
    assert.is_false(array.int32{1, 2} == array.int32{1, 3})
    assert.is_false(array.int32{1, 2} == array.int32{1})
    assert.is_false(array.int32{1, 2} == array.int32{{1, 2}})
    assert.is_false(array.float32{0 / 0} == array.float32{0 / 0})
    assert.is_true(array.float32{0.0} == array.float32{-0.0})
    assert.is_false(array.int8{} == io.stdout)
    assert.is_false(array.int8{1} == nil)
    assert.is_true(array.int8{} == array.int64{})
  end)

  it("has a few methods", function()
    local a = array.int64{5, -3, 9, 9}
    assert.same({-3, 9}, a:slice(2, 3):table())
    assert.same({9, 9}, a:slice(-2):table())
    assert.same({5, -3, 9, 9}, a:slice():table())
    for _, range in ipairs{{5}, {3, 2}, {1, -5}, {-1, -2}, {10, 20}} do
      assert.equal(#("abcd"):sub(range[1], range[2] or -1), #a:slice(range[1], range[2]))
    end
    assert.equal(4, #a:slice(math.mininteger, math.maxinteger))
    assert.equal(0, #a:slice(math.maxinteger, math.mininteger))
    assert.same({20, 5.0}, {a:sum(), a:mean()})
    assert.same({-3, 2}, {a:min()})
    assert.same({9, 3}, {a:max()})
    assert.same({0.75, 0.375}, {array.float32{0.25, 0.5}:sum(), array.float32{0.25, 0.5}:mean()})
    assert.equal(2, array.bool{true, false, true}:sum())
    assert.same({0, nil, nil}, {array.int8{}:sum(), array.int8{}:mean(), (array.int8{}:min())})
    assert.same({2.0, 2}, {array.float64{0 / 0, 2, 3}:min()})
    assert.same({math.maxinteger, 2}, {array.int64{math.maxinteger - 1, math.maxinteger}:max()})
    assert.equal("\1\0\255\255", array.int16{1, -1}:bytes())
    assert.is_true(array.from_bytes("int16", "\1\0\255\255") == array.int16{1, -1})
    refused(array.from_bytes, "int16", "abc")
    assert.same({4}, a.shape)
    assert.is_true(array.is(a))
    assert.is_false(array.is{1})
    assert.is_false(array.is(io.stdout))
    assert.truthy(refused(a.sum):find("colon", 1, true))
    assert.truthy(refused(a.sum, io.stdout):find("colon", 1, true))
    assert.equal("riverlua.Array", getmetatable(a))
  end)

  it("may be a matrix, whose rows are parts of it", function()
    local m = array.matrix("int32", {1, 2, 3, 4, 5, 6}, 3)
    assert.same({2, {2, 3}}, {#m, m.shape})
    assert.equal(6, m[2][3])
    local row = m[2]
    row[1] = 40
    assert.equal(40, m[2][1])
    m[1] = {7, 8, 9}
    m[1] = m[1]
    m[2] = array.int64{1, 2, 3}
    assert.same({{7, 8, 9}, {1, 2, 3}}, m:table())
    assert.equal(array.int32{1, 2, 3}, row)
    assert.truthy(refused(set, m, 1, {1, 2}):find("a list of 3", 1, true))
    assert.truthy(refused(set, m, 1, 5):find("a list of 3", 1, true))
    assert.truthy(refused(set, m, 1, {1, 2, "x"}):find("[1][3] is a string", 1, true))
    assert.is_nil(m[3])
    local rows = 0
    for i, each in ipairs(m) do
      rows = rows + i
      assert.equal(3, #each)
    end
    assert.equal(3, rows)
    row = array.int32{{1, 2, 3}}[1]
    collectgarbage()
    collectgarbage()
    assert.same({1, 2, 3}, row:table())
    m = array.float32{{1, 2}, {3, 4}, {5, 6}}
    assert.same({{3.0, 4.0}, {5.0, 6.0}}, m:slice(2):table())
    assert.is_true(array.matrix("float32", {{1, 2}, {3, 4}, {5, 6}}) == m)
    assert.same({21.0, 3.5}, {m:sum(), m:mean()})
    local cube = array.int8{{{1, 2}, {3, 4}}, {{5, 6}, {7, 8}}}
    assert.same({2, 2, 2}, cube.shape)
    assert.same({{5, 6}, {7, 8}}, cube[2]:table())
    cube[2][1][2] = 60
    assert.same({{{1, 2}, {3, 4}}, {{5, 60}, {7, 8}}}, cube:table())
    refused(array.matrix, "int8", {1, 2, 3})
    refused(array.matrix, "int8", {1, 2, 3}, 2)
    assert.is_false(pcall(array.matrix, "int8", {1, 2, 3}, 0))
    refused(array.int8, {{{{{{{{{1}}}}}}}}})
  end)

  it("is shown in short", function()
    assert.equal("int64[3]{1, 2, 3}", tostring(array.int64{1, 2, 3}))
    assert.equal("float32[20]{0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, …}", tostring(array.fill("float32", 20, 0.1)))
    assert.equal("int8[0]{}", tostring(array.int8{}))
    assert.equal("bool[2,2]{{true, false}, {false, true}}", tostring(array.bool{{true, false}, {false, true}}))
    assert.equal("float64[3]{nan, inf, -inf}", tostring(array.float64{0 / 0, 1 / 0, -1 / 0}))
    assert.equal("{ids = int32[2]{1, 2}}", pretty.format{ids = array.int32{1, 2}})
  end)

  it("is an array in JSON", function()
    local value = {a = array.int64{1, -2}, b = array.float32{{0.5, 1}, {2, 3}}, c = array.bool{true, false},
      d = array.int8{}}
    assert.equal('{"a":[1,-2],"b":[[0.5,1.0],[2.0,3.0]],"c":[true,false],"d":[]}', json.encode(value, {sort = true}))
    assert.equal("[\n  [\n    1\n  ]\n]", json.encode(array.int8{{1}}, {pretty = true}))
    local ok, err = pcall(json.encode, {x = {array.float64{{1, 2}, {3, 0 / 0}}}})
    assert.is_false(ok)
    assert.equal("$.x[1][2][2] is NaN", err.message)
    assert.equal("[null,1.0,null]", json.encode(array.float32{0 / 0, 1, 1 / 0}, {nan = "null"}))
    assert.is_false(pcall(json.encode, {{array.int8{{1}}}}, {max_depth = 3}))
    assert.equal("[[[[1]]]]", json.encode({{array.int8{{1}}}}, {max_depth = 4}))
    assert.is_false(pcall(json.encode, io.stdout))
    local long = array.fill("int32", 5000, 12345)
    assert.equal(("12345,"):rep(5000):sub(1, -2), json.encode(long):sub(2, -2))
  end)
end)
