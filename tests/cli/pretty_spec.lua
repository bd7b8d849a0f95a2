-- riverlua.pretty: values as text.

local pretty = require("riverlua.pretty")

local function shows(expected, value, options)
  assert.equal(expected, pretty.format(value, options))
end

describe("pretty.format", function()
  it("scalars", function()
    shows("nil", nil)
    shows("true", true)
    shows("1", 1)
    shows("1.0", 1.0)
    shows('"a"', "a")
    shows("null", require("riverlua.json").null)
    assert.truthy(pretty.format(print):find("^<function"))
    assert.truthy(pretty.format(function() end):find("pretty_spec.lua:%d+>$"))
    assert.truthy(pretty.format(coroutine.create(print)):find("^<thread"))
  end)

  it("strings with what cannot be seen as escapes", function()
    shows([["a\"b\\c\n\t\x01"]], 'a"b\\c\n\t\1')
    shows('"héé→"', "héé→")
    shows([["\xFF\xFE"]], "\xff\xfe")
    shows('"aaaa"… (10 bytes)', ("a"):rep(10), {max_string = 4})
    shows('"é"… (6 bytes)', "ééé", {max_string = 3})
  end)

  it("lists and records on one line", function()
    shows("{}", {})
    shows("{1, 2, 3}", {1, 2, 3})
    shows("{a = 1, b = {c = 2}}", {b = {c = 2}, a = 1})
    shows("{1, 2, x = 3}", {1, 2, x = 3})
  end)

  it("keys sorted, and quoted where needed", function()
    shows('{[-1] = 1, [2.5] = 2, B = 3, a = 4, ["a b"] = 5, ["end"] = 6, [true] = 7}',
      {[true] = 7, ["end"] = 6, ["a b"] = 5, a = 4, B = 3, [2.5] = 2, [-1] = 1})
  end)

  it("holes in lists", function()
    local text = pretty.format({[1] = "a", [3] = "c", [10] = "j"})
    assert.truthy(text:find('"a"', 1, true) and text:find('"c"', 1, true) and text:find('[10] = "j"', 1, true))
  end)

  it("several lines when one is not enough", function()
    shows('{\n  first = "' .. ("x"):rep(20) .. '",\n  second = {1, 2}\n}', {first = ("x"):rep(20), second = {1, 2}},
      {width = 40})
    local numbers = {}
    for i = 1, 40 do numbers[i] = i end
    local text = pretty.format(numbers, {width = 40})
    for line in text:gmatch("[^\n]+") do assert.is_true(#line <= 40, line) end
    assert.is_true(select(2, text:gsub("\n", "")) < 8)
  end)

  it("cycles end", function()
    local t = {name = "t"}
    t.self = t
    t.list = {t}
    shows('{list = {<cycle>}, name = "t", self = <cycle>}', t)
    local shared = {1}
    shows("{{1}, {1}}", {shared, shared})
  end)

  it("depth and size are limited", function()
    local t = {}
    for _ = 1, 100 do t = {t} end
    shows("{{{{…}}}}", t, {depth = 3})
    assert.is_true(#pretty.format(t) < 200)
    local wide = {}
    for i = 1, 100000 do wide[i] = i end
    local text = pretty.format(wide)
    assert.is_true(#text < 20000)
    assert.truthy(text:find("…", 1, true))
    -- A structure of shared parts, huge when written out.
    local doubled = {1}
    for _ = 1, 60 do doubled = {doubled, doubled} end
    assert.is_true(#pretty.format(doubled, {depth = 100}) < 1000000)
  end)

  it("objects say what they are", function()
    shows("{obj = text}", {obj = setmetatable({1}, {__tostring = function() return "text" end})})
    shows("<My.Type>", setmetatable({1}, {__name = "My.Type"}))
    shows("<table: __tostring failed>", setmetatable({}, {__tostring = error}))
  end)

  it("metamethods are not called for contents", function()
    shows("{a = 1}", setmetatable({a = 1}, {__index = error, __pairs = error, __len = error}))
  end)

  it("unknown options are refused", function()
    assert.error_matches(function() pretty.format({}, {witdh = 3}) end, "did you mean 'width'")
  end)
end)
