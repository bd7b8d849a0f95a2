-- riverlua.json: every rule of the codec, by hand-picked cases.
local cjson = require "cjson"
local errors = require "riverlua.errors"
local json = require "riverlua.json"

local unpack = table.unpack

-- Calls `f`, which must raise a riverlua error of the given kind, and returns that error.
local function failure(kind, f, ...)
  local ok, err = pcall(f, ...)
  assert.is_false(ok)
  assert.is_true(errors.is(err, kind), tostring(err))
  return err
end

local function bad_text(text, options)
  return failure("json", json.decode, text, options)
end

local function bad_value(value, options)
  return failure("json", json.encode, value, options)
end

-- Same value and same subtype of number: 1 and 1.0 differ.
local function identical(a, b)
  if math.type(a) ~= math.type(b) then return false end
  return a == b or (a ~= a and b ~= b)
end

describe("numbers", function()
  it("keep integers of 64 bits exact both ways", function()
    for _, text in ipairs{"0", "1", "-1", "10000", "9007199254740993", "1686041011364000000", "9223372036854775807",
      "-9223372036854775808", "999999999999999999", "-1000000000000000000", "1000000000000000000"} do
      local value = json.decode(text)
      assert.equal("integer", math.type(value))
      assert.equal(text, json.encode(value))
      assert.equal(text, json.encode(json.decode("[ " .. text .. "\t]")[1]))
    end
  end)

  it("read longer integers as floats, or as digits on request", function()
    assert.is_true(identical(9223372036854775808.0, json.decode("9223372036854775808")))
    assert.is_true(identical(-9223372036854775809.0, json.decode("-9223372036854775809")))
    local digits = "123456789012345678901234567890"
    assert.equal(digits, json.decode(digits, {bigint = "string"}))
    assert.equal("-" .. digits, json.decode("[-" .. digits .. "]", {bigint = "string"})[1])
    assert.equal(9223372036854775807, json.decode("9223372036854775807", {bigint = "string"}))
    assert.is_true(identical(1e20, json.decode("1e20", {bigint = "string"})))
    assert.is_true(identical(1.2345678901234568e29, json.decode(digits, {bigint = "float"})))
  end)

  it("never confuse floats with integers", function()
    for text, value in pairs{["1.0"] = 1.0, ["-0.0"] = -0.0, ["0.1"] = 0.1, ["1e+16"] = 1e16, ["1e-05"] = 1e-5,
      ["0.0001"] = 1e-4, ["1000000000000000.0"] = 1e15, ["1.7976931348623157e+308"] = 1.7976931348623157e308,
      ["5e-324"] = 5e-324, ["0.30000000000000004"] = 0.1 + 0.2, ["9007199254740992.0"] = 2.0 ^ 53} do
      assert.equal(text, json.encode(value))
      assert.is_true(identical(value, json.decode(text)))
    end
    assert.equal("float", math.type(json.decode("1e2")))
    assert.equal("float", math.type(json.decode("1E0")))
    assert.equal(-math.huge, 1 / json.decode("-0.0"))
    assert.is_true(identical(0, json.decode("-0")))
  end)

  it("survive by the million", function()
    math.randomseed(20, 26)
    local value_of, bits_of = string.unpack, string.pack
    local lost = 0
    for _ = 1, 1000 do
      local list = {}
      for i = 1, 1000 do
        local x = value_of("d", bits_of("i8", math.random(0)))
        list[i] = (x ~= x or x - x ~= 0) and 0.5 or x
      end
      local back = json.decode(json.encode(list))
      for i = 1, 1000 do
        if not identical(list[i], back[i]) then lost = lost + 1 end
      end
    end
    assert.equal(0, lost)
    local list = {}
    for i = 1, 64 do
      for d = -2, 2 do list[#list + 1] = (1 << i - 1) + d end
      list[#list + 1] = math.random(0) >> i - 1
    end
    assert.same(list, json.decode(json.encode(list)))
  end)

  it("do not depend on the locale", function()
    local old = os.setlocale()
    for _, name in ipairs{"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "C"} do
      if os.setlocale(name) then break end
    end
    local text = json.encode{1.5, 1e300, 2.2250738585072011e-308}
    local value = json.decode("[0.1, 2.2250738585072011e-308, 9007199254740993.00000000000000000001]")
    os.setlocale(old)
    assert.equal("[1.5,1e+300,2.225073858507201e-308]", text)
    assert.same({0.1, 2.2250738585072011e-308, 9007199254740994.0}, value)
  end)

  it("too large for a double are an error, or infinity", function()
    assert.matches("too large", bad_text("[1, 1e400]").message)
    assert.equal("$[2]", bad_text("[1, 1e400]").path)
    assert.matches("too large", bad_text(("9"):rep(400)).message)
    assert.equal(math.huge, json.decode("1e400", {nan = true}))
    assert.equal(-math.huge, json.decode("-1e400", {nan = true}))
    assert.is_true(identical(0.0, json.decode("1e-400")))
  end)

  it("that are none are named by their path", function()
    local rewards = {}
    for i = 1, 20 do rewards[i] = i / 2 end
    rewards[17] = 0 / 0
    local err = bad_value{rewards = rewards}
    assert.equal("$.rewards[17] is NaN", err.message)
    assert.equal("$.rewards[17]", err.path)
    assert.matches('nan="null"', err.hint, 1, true)
    assert.equal("$[1] is -Infinity", bad_value{-math.huge}.message)
    assert.equal("[null,null,1.5]", json.encode({0 / 0, math.huge, 1.5}, {nan = "null"}))
    assert.equal("[NaN,Infinity,-Infinity]", json.encode({0 / 0, math.huge, -math.huge}, {nan = true}))
    bad_value(0 / 0, {nan = false})
    bad_value(0 / 0, {nan = "error"})
  end)

  it("are not NaN when read, unless asked for", function()
    for _, text in ipairs{"NaN", "Infinity", "-Infinity"} do
      local err = bad_text("[1, " .. text .. "]")
      assert.equal("$[2]", err.path)
      assert.equal(5, err.offset)
      assert.matches("nan=true", err.hint, 1, true)
    end
    local got = json.decode("[NaN, Infinity, -Infinity, -1]", {nan = true})
    assert.is_true(got[1] ~= got[1])
    assert.same({math.huge, -math.huge, -1}, {unpack(got, 2)})
    bad_text("[-NaN]", {nan = true})
    bad_text("[Inf]", {nan = true})
  end)
end)

describe("arrays", function()
  it("stay arrays when they are empty", function()
    for _, text in ipairs{"[]", "{}", "[[],{}]", '{"a":[]}', "[[[]]]", '[{"a":{}}]'} do
      assert.equal(text, json.encode(json.decode(text)))
    end
    assert.equal("[]", json.encode(json.array{}))
    assert.equal("[]", json.encode(json.array()))
    assert.equal("{}", json.encode(json.object()))
    assert.equal("{}", json.encode{})
    assert.equal('{"tags":[]}', json.encode{tags = json.array{}})
  end)

  it("are recognised by their tag", function()
    assert.is_true(json.is_array(json.decode("[]")))
    assert.is_true(json.is_array(json.decode("[1]")))
    assert.is_false(json.is_array(json.decode("{}")))
    assert.is_false(json.is_array{1, 2})
    assert.is_false(json.is_array(setmetatable({}, {})))
    assert.is_false(json.is_array(nil))
    assert.is_false(json.is_array("x"))
    local t = {}
    assert.equal(t, json.array(t))
    assert.is_true(json.is_array(t))
    assert.is_false(json.is_array(json.object(t)))
    assert.equal("[1,2]", json.encode{1, 2})
  end)

  it("are not made of tables with another metatable, or of no table", function()
    assert.matches("metatable", failure("argument", json.array, setmetatable({}, {})).message)
    assert.matches("number", failure("argument", json.array, 1).message)
    assert.matches("json.object", failure("argument", json.object, "x").message)
    assert.equal('{"a":1}', json.encode(setmetatable({a = 1}, {__index = {b = 2}})))
  end)

  it("may have a few holes", function()
    assert.equal("[null,2]", json.encode{nil, 2})
    assert.equal("[1,null,3]", json.encode{1, nil, 3})
    assert.equal("[null,null,null,null,5]", json.encode{[5] = 5})
    assert.equal("[1,null,null,null,null,null,null,null,null,10]", json.encode{1, [10] = 10})
    local t = {}
    for i = 1, 100, 2 do t[i] = i end
    assert.same(99, #json.decode(json.encode(t)))
  end)

  it("are refused when mostly holes", function()
    local err = bad_value{list = {[1000000] = 1}}
    assert.equal("$.list", err.path)
    assert.matches("largest index 1000000", err.message)
    assert.matches("strings", err.hint)
    assert.equal("$.list[2]", bad_value{list = {1, {1, 2, [100] = 3}}}.path)
    bad_value{[math.maxinteger] = 1}
    bad_value{[11] = 1}
    bad_value(json.array{[11] = 1})
  end)

  it("honour the n of table.pack", function()
    assert.equal("[1,null,3,null]", json.encode(table.pack(1, nil, 3, nil)))
    assert.equal("[null,null,null]", json.encode(json.array(table.pack(nil, nil, nil))))
    assert.equal("[]", json.encode(json.array(table.pack())))
    local t = table.pack(("x"):rep(50):byte(1, -1))
    assert.equal(50, #json.decode(json.encode(t)))
    assert.equal("[1" .. (",null"):rep(49) .. "]", json.encode(table.pack(1, nil, nil, unpack({}, 1, 47))))
    assert.equal('{"n":3}', json.encode{n = 3})
    assert.equal('{"n":0}', json.encode(table.pack()))
    assert.equal('[[1,[2,null],null]]', json.encode{table.pack(1, table.pack(2, nil), nil)})
    assert.equal("[1,null]", json.encode({[1] = 1, n = 2}, {sort = true}))
    assert.matches("n = 1", bad_value{1, 2, 3, n = 1}.message)
    assert.matches("sparse", bad_value{1, n = 1 << 40}.message)
    bad_value{1, n = "2"}
    bad_value{1, n = -1}
    bad_value{1, n = 1.0}
  end)

  it("do not mix with objects", function()
    local err = bad_value{list = {1, 2, x = 3}}
    assert.equal("$.list", err.path)
    assert.matches('the key "x"', err.message, 1, true)
    bad_value{x = 1, 2}
    bad_value({x = 1, y = 2, 2}, {sort = true})
    bad_value(json.array{x = 1})
    assert.matches("1 as a key", bad_value(json.object{"a"}).message)
    assert.matches("index 0", bad_value{[0] = 1}.message)
    assert.matches("index %-1", bad_value{[-1] = 1, 1}.message)
    assert.matches("1.5", bad_value{[1.5] = 1}.message)
    assert.matches("true", bad_value{[true] = 1}.message)
    assert.matches("true", bad_value{1, [true] = 1}.message)
    assert.matches("a table as a key", bad_value{[{}] = 1}.message)
    assert.matches('"line%?%.%.%.$', (bad_value{1, ["line\n"] = 1}.message:gsub('"$', "...")))
    assert.is_true(#bad_value{1, [("x"):rep(5000)] = 1}.message < 200)
    assert.equal('{"1":"a"}', json.encode(json.decode('{"1":"a"}')))
  end)

  it("of any length come back", function()
    for _, n in ipairs{1, 15, 16, 17, 63, 64, 255, 256, 257, 258, 1023, 1024, 1025, 5000} do
      local list, map = {}, {}
      for i = 1, n do
        list[i] = i
        map["k" .. i] = {i}
      end
      local back = json.decode(json.encode(list))
      assert.equal(n, #back)
      assert.is_true(json.is_array(back))
      assert.equal(json.encode(list), json.encode(back))
      local members = json.decode(json.encode(map))
      for i = 1, n do assert.equal(i, members["k" .. i][1]) end
      assert.equal(json.encode(map, {sort = true}), json.encode(members, {sort = true}))
    end
  end)
end)

describe("null", function()
  it("is cjson's and prints as null", function()
    assert.equal(cjson.null, json.null)
    assert.equal("null", tostring(json.null))
    assert.equal("null", ("%s"):format(json.null))
    assert.equal(json.null, json.decode("null"))
    assert.equal(json.null, json.decode('{"a":null}').a)
    assert.equal(json.null, json.decode("[null]")[1])
    assert.equal("[null]", json.encode{json.null})
    assert.equal("null", json.encode(nil))
    assert.equal("null", json.encode(cjson.null))
  end)

  it("can become another value", function()
    assert.same({a = false, b = {false}}, json.decode('{"a":null,"b":[null]}', {null = false}))
    local mark = {}
    assert.equal(mark, json.decode("[null]", {null = mark})[1])
    assert.equal(json.null, json.decode("[null]", {null = nil})[1])
    assert.equal("?", json.decoder{null = "?"}("null"))
    assert.equal(false, json.decoder{null = false}("[null]")[1])
  end)

  it("can be left out of objects", function()
    local got = json.decode('{"a":null,"b":1,"c":[null,{"d":null}]}', {drop_null = true})
    assert.is_nil(got.a)
    assert.equal(1, got.b)
    assert.equal(json.null, got.c[1])
    assert.is_nil(next(got.c[2]))
    assert.is_nil(json.decode("null", {drop_null = true}))
    assert.is_nil(json.decode('{"a":1,"a":null}', {drop_null = true}).a)
    assert.equal(0, json.decode("[null]", {drop_null = true, null = 0})[1])
  end)
end)

describe("strings", function()
  it("come back whatever they contain", function()
    local every = {}
    for c = 0, 0x7f do every[#every + 1] = utf8.char(c) end
    for _, c in ipairs{0x80, 0x7ff, 0x800, 0xd7ff, 0xe000, 0xfffd, 0xffff, 0x10000, 0x1f642, 0x10ffff} do
      every[#every + 1] = utf8.char(c)
    end
    local text = table.concat(every)
    for from = 1, #every do
      local part = table.concat(every, "", from)
      assert.equal(part, json.decode(json.encode(part)))
      assert.equal(part, next(json.decode(json.encode{[part] = 1})))
    end
    local long = text:rep(2000)
    assert.equal(long, json.decode(json.encode(long)))
    assert.equal('"\\"\\\\/\\b\\f\\n\\r\\t\\u0000\\u001f\127é"', json.encode('"\\/\b\f\n\r\t\0\31\127é'))
  end)

  it("are found and copied right at every length and alignment", function()
    for _, special in ipairs{"", '"', "\\", "\n", "é", "\0", "🙂"} do
      for before = 0, 40 do
        for _, after in ipairs{0, 1, 7, 8, 17, 40} do
          local text = ("a"):rep(before) .. special .. ("z"):rep(after)
          assert.equal(text, json.decode(json.encode(text)))
        end
      end
    end
  end)

  it("understand all escapes", function()
    assert.equal('"\\/\b\f\n\r\tA', json.decode([["\"\\\/\b\f\n\r\t\u0041"]]))
    assert.equal("\0é€🙂", json.decode([["\u0000\u00e9\u20AC\uD83D\uDE42"]]))
    assert.equal("\u{10ffff}x", json.decode([["\udbff\udfffx"]]))
    for _, escape in ipairs{"\\a", "\\x41", "\\'", "\\0", "\\u", "\\u12", "\\u12g4", "\\U0041", "\\ ", "\\\n",
      "\\é"} do
      assert.is_string(bad_text('"' .. escape .. '"').message)
    end
    bad_text('"\\')
    bad_text('"\\u00')
    bad_text('"\\"')
  end)

  it("must not contain raw control characters, nor end early", function()
    for c = 0, 31 do
      local err = bad_text('["a' .. string.char(c) .. '"]')
      assert.matches("control character", err.message)
      assert.equal(4, err.offset)
    end
    assert.matches("unfinished", bad_text('"abc').message)
    assert.equal("\127", json.decode('"\127"'))
  end)

  local invalid = {"\x80", "\xbf", "\xc0\xaf", "\xc1\xbf", "\xc3", "\xe0\x80\xaf", "\xe0\x9f\xbf", "\xe2\x82",
    "\xed\xa0\x80", "\xed\xbf\xbf", "\xf0\x8f\xbf\xbf", "\xf0\x9f\x99", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80",
      "\xff", "\xfe"}

  it("must be UTF-8 in both directions", function()
    for _, bytes in ipairs(invalid) do
      for _, tail in ipairs{"", "x", "é"} do
        local err = bad_text('{"k":["ok é' .. bytes .. tail .. '"]}')
        assert.matches("UTF%-8", err.message)
        assert.equal("$.k[1]", err.path)
        assert.equal(13, err.offset)
        err = bad_value{k = {"ok é" .. bytes .. tail}}
        assert.matches("UTF%-8 at byte 6", err.message)
        assert.equal("$.k[1]", err.path)
        bad_value{["é" .. bytes .. tail] = 1}
        bad_text('{"é' .. bytes .. tail .. '":1}')
      end
    end
  end)

  it("can be repaired on request", function()
    assert.equal("a\u{fffd}b", json.decode('"a\xffb"', {utf8 = "replace"}))
    assert.equal('"a\u{fffd}b"', json.encode("a\xffb", {utf8 = "replace"}))
    for _, bytes in ipairs(invalid) do
      local repaired = json.decode('"é' .. bytes .. 'x"', {utf8 = "replace"})
      assert.is_truthy(utf8.len(repaired))
      assert.equal("éx", (repaired:gsub("\u{fffd}", "")))
      assert.is_true(#repaired > 3)
      assert.equal('"é' .. repaired:sub(3) .. '"', json.encode("é" .. bytes .. "x", {utf8 = "replace"}))
    end
    -- one replacement for the longest piece that could have begun a character
    assert.equal("\u{fffd}", json.decode('"\xf0\x9f\x99"', {utf8 = "replace"}))
    assert.equal("\u{fffd}\u{fffd}\u{fffd}", json.decode('"\xed\xa0\x80"', {utf8 = "replace"}))
    local long = ("\xff"):rep(5000)
    assert.equal(("\u{fffd}"):rep(5000), json.decode('"' .. long .. '"', {utf8 = "replace"}))
    assert.equal('"' .. ("\u{fffd}"):rep(5000) .. '"', json.encode(long, {utf8 = "replace"}))
  end)

  it("must not contain lone surrogates, unless they are replaced", function()
    for _, escape in ipairs{"\\ud800", "\\udbff", "\\udc00", "\\udfff", "\\ud800\\u0041", "\\ud800\\ud800\\udc00x",
      "\\ud800x", "\\udc00\\ud800", "\\ud800\\n"} do
      assert.matches("surrogate", bad_text('["' .. escape .. '"]').message)
      assert.is_truthy(utf8.len(json.decode('"' .. escape .. '"', {utf8 = "replace"})))
    end
    assert.equal("\u{fffd}A", json.decode('"\\ud800\\u0041"', {utf8 = "replace"}))
    assert.equal("\u{fffd}\u{10000}", json.decode('"\\ud800\\ud800\\udc00"', {utf8 = "replace"}))
  end)
end)

describe("objects", function()
  it("let the last of equal names win", function()
    assert.same({a = 3, b = 2}, json.decode('{"a":1,"b":2,"a":3}'))
    local parts = {}
    for i = 1, 200 do parts[i] = ('"k%d":%d'):format(i % 40, i) end
    assert.equal(200, json.decode("{" .. table.concat(parts, ",") .. "}").k0)
  end)

  it("are sorted by bytes on request", function()
    assert.equal('{"":0,"A":1,"a":2,"aa":3,"b":4,"é":5}',
      json.encode({b = 4, aa = 3, ["é"] = 5, [""] = 0, a = 2, A = 1}, {sort = true}))
    assert.equal('{"a":{"x":1,"y":[{"p":1,"q":2}]},"b":1}',
      json.encode({b = 1, a = {y = {{q = 2, p = 1}}, x = 1}}, {sort = true}))
    for _, n in ipairs{2, 3, 10, 16, 17, 23, 24, 25, 26, 100, 1000} do
      local map, names = {}, {}
      for i = 1, n do
        local name = ("%x"):format(i * 2654435761 % 4294967296)
        if not map[name] then names[#names + 1] = name end
        map[name] = {i}
      end
      table.sort(names)
      local parts = {}
      for i, name in ipairs(names) do parts[i] = ('"%s":[%d]'):format(name, map[name][1]) end
      assert.equal("{" .. table.concat(parts, ",") .. "}", json.encode(map, {sort = true}))
    end
  end)

  it("can be pretty", function()
    local value = {a = {1, {b = json.array{}}}, c = {}, d = {{}}}
    local text = json.encode(value, {sort = true, pretty = true})
    assert.equal('{\n  "a": [\n    1,\n    {\n      "b": []\n    }\n  ],\n  "c": {},\n  "d": [\n    {}\n  ]\n}', text)
    assert.equal(text:gsub("  ", "\t"), (json.encode(value, {sort = true, pretty = "\t"})))
    assert.equal(text:gsub("  ", "   "), (json.encode(value, {sort = true, pretty = 3})))
    assert.equal(text:gsub("  ", ""), (json.encode(value, {sort = true, pretty = 0})))
    assert.equal("[]", json.encode(json.array(table.pack()), {pretty = true}))
    assert.equal("[\n  1,\n  null\n]", json.encode({1, n = 2}, {pretty = true}))
    assert.equal(json.encode(value, {sort = true}), json.encode(value, {sort = true, pretty = false}))
  end)
end)

describe("text that is not JSON", function()
  it("is refused with line, column, offset and path", function()
    local err = bad_text('{\n  "é": [1, 2, {"b": x}]\n}')
    assert.equal(2, err.line)
    assert.equal(21, err.column)
    assert.equal(24, err.offset)
    assert.equal('$["é"][3].b', err.path)
    assert.equal("expected a value but found 'x' at line 2, column 21, in $[\"é\"][3].b", err.message)
    assert.equal("json: " .. err.message, tostring(err))
    assert.equal("$", bad_text("?").path)
    assert.equal(1, bad_text("").offset)
  end)

  it("is refused in every form", function()
    for _, text in ipairs{"", " ", "[", "]", "{", "}", "[1,]", "[,1]", "[1,,2]", "[1 2]", "[1", '["a"', "[1}",
      '{"a":1]', '{"a"}', '{"a":}', '{"a" 1}', '{"a"::1}', '{a:1}', "{'a':1}", '{"a":1,}', '{,"a":1}',
      '{"a":1 "b":2}', '{1:1}',
      "{null:1}", '{"a":1,,}', '"a" "b"', "1 2", "[1]x", "[1]]", "{}}", "nul", "nulll", "True", "tru", "falsey", "NULL",
      "'a'", "[1]\0", "\0", "\f1", "\v1", "[1\u{a0}]", "// x\n1", "/* x */1", "#1", "[1]//", "01", "-", "-01", "+1",
      ".5", "1.", "1.e5", "1e", "1e+", "--1", "0x10", "1_000", "1,5", "- 1", "1e5.5", "[0e]", "[1.2.3]", "٣",
      "<null>", "&"} do
      assert.is_string(bad_text(text).message)
    end
  end)

  it("may have white space where JSON allows it", function()
    assert.same({{}, {a = 1}}, json.decode(" \t\r\n[ { } ,\n{ \"a\"\t:\r1 } ] \n"))
    assert.equal(true, json.decode(" true "))
    assert.equal("x", json.decode('\n"x"'))
  end)

  it("says so when it is in another encoding", function()
    assert.matches("byte order mark", bad_text("\xef\xbb\xbf[]").message)
    for _, text in ipairs{"\xff\xfe[\0]\0", "\xfe\xff\0[\0]", "[\0]\0", "\0[\0]"} do
      assert.matches("UTF%-16", bad_text(text).message)
    end
  end)

  it("is not a string at all", function()
    assert.matches("a string", failure("argument", json.decode, 12).message)
    assert.matches("a string", failure("argument", json.decode).message)
    assert.matches("missing", failure("argument", json.encode).message)
  end)
end)

describe("limits", function()
  local function nest(n, open, close, core)
    return open:rep(n) .. (core or "") .. close:rep(n)
  end

  it("hold for the depth of text", function()
    assert.is_table(json.decode(nest(512, "[", "]")))
    assert.matches("deeper than 512", bad_text(nest(513, "[", "]")).message)
    bad_text(nest(513, '{"a":', "}", "1"))
    bad_text(("["):rep(1000000))
    bad_text(('{"a":['):rep(100000))
    assert.is_table(json.decode(nest(2048, "[", "]"), {max_depth = 2048}))
    assert.is_table(json.decode(nest(2048, '{"a":', "}", "1"), {max_depth = 2048}))
    assert.equal(1, json.decode("1", {max_depth = 1}))
    assert.is_table(json.decode("[1]", {max_depth = 1}))
    assert.equal("$[1]", bad_text("[[1]]", {max_depth = 1}).path)
  end)

  it("hold for the depth of values, which ends cycles", function()
    local ring = {}
    ring.self = ring
    local err = bad_value(ring)
    assert.matches("cycle, or too deep", err.message)
    assert.is_true(#err.path < 300)
    bad_value(ring, {sort = true})
    local list = {}
    list[1] = list
    bad_value(list, {max_depth = 2048})
    local text = nest(2048, '{"a":', "}", "1")
    local deep = json.decode(text, {max_depth = 2048})
    assert.equal(text, json.encode(deep, {max_depth = 2048, sort = true}))
    assert.equal("$.a", bad_value({a = {}}, {max_depth = 1}).path)
    local shared = {1}
    assert.equal("[[1],[1]]", json.encode{shared, shared})
  end)

  it("do not make work grow with the depth for odd tables", function()
    local value = {1, n = 2}
    for _ = 1, 200 do value = {value, n = 2} end
    assert.equal(nest(200, "[", ",null]", "[1,null]"), json.encode(value))
  end)

  it("hold for bytes", function()
    assert.equal(1, json.decode("[1]", {max_bytes = 3})[1])
    assert.matches("max_bytes", bad_text("[12]", {max_bytes = 3}).message)
    assert.equal("[1]", json.encode({1}, {max_bytes = 3}))
    assert.matches("max_bytes", bad_value({12}, {max_bytes = 3}).message)
    for n = 1, 300 do
      local text = json.encode(("x"):rep(n))
      assert.equal(text, json.encode(("x"):rep(n), {max_bytes = n + 2}))
      bad_value(("x"):rep(n), {max_bytes = n + 1})
    end
    local long = ("x"):rep(100000)
    assert.equal(200007, #json.encode({long, long}, {max_bytes = 200007}))
    bad_value({long, long}, {max_bytes = 200006})
    bad_value({("x"):rep(100000), ("x"):rep(100000)}, {max_bytes = 150000})
    bad_text("1", {max_bytes = 0})
  end)
end)

describe("values that are not JSON", function()
  it("are refused by their path", function()
    assert.equal("$.a.f is a function, which JSON cannot hold", bad_value{a = {f = print}}.message)
    assert.equal("$[2] is a thread, which JSON cannot hold", bad_value{1, coroutine.create(print)}.message)
    assert.equal("$ is a userdata, which JSON cannot hold", bad_value(io.stdout).message)
    assert.equal('$["a b"]["x\\"y"] is a function, which JSON cannot hold',
      bad_value{["a b"] = {['x"y'] = print}}.message)
    assert.equal("$._a1", bad_value{_a1 = print}.path)
    assert.equal('$["1a"]', bad_value{["1a"] = print}.path)
    assert.equal('$[""]', bad_value{[""] = print}.path)
    assert.is_true(#bad_value{[("é"):rep(1000)] = print}.path < 100)
    assert.is_truthy(utf8.len(bad_value{["x" .. ("é"):rep(1000)] = print}.path))
  end)
end)

describe("options", function()
  it("are checked, with a hint", function()
    assert.matches("unknown option 'srot'; did you mean 'sort'",
      failure("argument", json.encode, 1, {srot = true}).message)
    assert.matches("max_dept'; did you mean 'max_depth'",
      failure("argument", json.decode, "1", {max_dept = 1}).message)
    failure("argument", json.decode, "1", {sort = true})
    failure("argument", json.encode, 1, {bigint = "string"})
    failure("argument", json.encode, 1, {1})
    failure("argument", json.encode, 1, "sort")
    failure("argument", json.encoder, {srot = true})
    failure("argument", json.decoder, {max_dept = true})
  end)

  it("have values that are checked", function()
    for _, case in ipairs{{max_depth = 0}, {max_depth = 2049}, {max_depth = "9"}, {max_bytes = -1}, {max_bytes = 1.5},
      {sort = 1}, {pretty = 9}, {pretty = -1}, {pretty = "x"}, {pretty = (" "):rep(9)}, {pretty = {}}, {nan = "bare"},
      {utf8 = "ignore"}, {utf8 = true}} do
      assert.matches("must be", failure("argument", json.encode, 1, case).message)
    end
    for _, case in ipairs{{bigint = "number"}, {bigint = true}, {nan = "null"}, {drop_null = 1}, {utf8 = 1}} do
      assert.matches("must be", failure("argument", json.decode, "1", case).message)
    end
    assert.equal("1", json.encode(1, nil))
    assert.equal("1", json.encode(1, {utf8 = "error", nan = "error", sort = false, pretty = false}))
    assert.equal(1, json.decode("1", {bigint = "float", utf8 = false, nan = false, drop_null = false}))
  end)

  it("can be read once, into a function", function()
    local encode = json.encoder{sort = true, nan = "null"}
    assert.equal('{"a":null,"b":[1]}', encode{b = {1}, a = 0 / 0})
    assert.equal('{"a":1,"b":2}', encode({b = 2, a = 1}, {pretty = true}))
    local decode = json.decoder{drop_null = true, max_bytes = 20, bigint = "string"}
    assert.same({}, decode('{"a":null}'))
    failure("json", decode, (" "):rep(21))
    assert.equal("[1]", json.encoder()(json.decoder()("[1]")))
    assert.is_true(json.is_array(decode("[]")))
    failure("argument", decode, nil)
    failure("argument", encode)
  end)

  it("of one call do not reach another", function()
    json.encode({1}, {pretty = true, sort = true})
    json.decoder{drop_null = true}("{}")
    assert.equal("[1]", json.encode{1})
    assert.equal(json.null, json.decode('{"a":null}').a)
  end)
end)
