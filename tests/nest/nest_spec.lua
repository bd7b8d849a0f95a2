-- training.nest: all vectors of the official codec, both ways, and what it refuses.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(here .. "support.lua")
local array = require "riverlua.array"
local errors = require "riverlua.errors"
local json = require "riverlua.json"
local nest = require "training.nest"

local vectors = {}
for line in io.lines(here .. "nest_codec.jsonl") do vectors[#vectors + 1] = json.decode(line) end

local NAMED = {inf = 1e999, ["-inf"] = -1e999, nan = 0 / 0}
-- The Lua value that a description stands for.
local function value_of(described)
  if described.str then return described.str end
  if described.list then
    local list = {}
    for i, item in ipairs(described.list) do list[i] = value_of(item) end
    return list
  end
  if described.dict then
    local pairs_of = {}
    for i, pair in ipairs(described.dict) do pairs_of[i] = {pair[1], value_of(pair[2])} end
    return nest.dict(pairs_of)
  end
  local dtype, shape, raw = described.array.dtype, described.array.shape, described.array.raw
  local elements = array.from_bytes(dtype, raw)
  if #shape == 1 then return elements end
  if #shape == 2 and shape[2] > 0 then return array.matrix(dtype, elements, shape[2]) end
  local size, at = #elements, 0
  local function nested(dim)
    if dim > #shape then
      at = at + 1
      return elements[at]
    end
    local list = {}
    for i = 1, shape[dim] do list[i] = nested(dim + 1) end
    return list
  end
  if #shape > 8 then return nil end -- only decoding gives such
  local made = array.new(dtype, nested(1))
  assert.equal(size, at)
  return made
end

-- Whether a decoded value is what a description of the vectors says.
local function check(described, value)
  if described.str then return assert.equal(described.str, value) end
  if described.list then
    assert.equal(#described.list, #value)
    for i, item in ipairs(described.list) do check(item, value[i]) end
  elseif described.dict then
    local names = {}
    for i, pair in ipairs(described.dict) do
      names[i] = pair[1]
      check(pair[2], value[pair[1]])
    end
    assert.same(names, nest.keys(value))
  else
    local want = described.array
    assert.equal(want.dtype, value.dtype)
    assert.same(want.shape, value.shape)
    assert.equal(want.raw, support.to_hex(value:bytes()))
    local elements = array.from_bytes(want.dtype, value:bytes())
    assert.equal(#want.values, #elements)
    for i, element in ipairs(want.values) do
      if type(element) == "string" and want.dtype:find("float", 1, true) then element = NAMED[element] end
      assert.is_true(element == elements[i] or (element ~= element and elements[i] ~= elements[i]), i)
    end
  end
end

local function damaged(bytes)
  local ok, err = pcall(nest.decode, bytes)
  assert.is_false(ok, "was taken")
  assert.is_true(errors.is(err, "protocol"), tostring(err))
  return err.message
end

local function refused(value)
  local ok, err = pcall(nest.encode, value)
  assert.is_false(ok, "was taken")
  assert.is_true(errors.is(err, "argument"), tostring(err))
  return err.message
end

describe("the official vectors", function()
  it("are there", function() assert.equal(73, #vectors) end)

  for _, vector in ipairs(vectors) do
    local name = ("%d, %s (%s)"):format(vector.id, vector.python:sub(1, 60), vector.kind)
    if vector.kind == "value" or vector.kind == "datum" then
      it(name .. ": the same both ways", function()
        local bytes = support.from_hex(vector.hex)
        local value = nest.decode(bytes)
        check(vector.value, value)
        assert.equal(vector.hex, support.to_hex(nest.encode(value)))
        local made = value_of(support.read(bytes))
        if made ~= nil then assert.equal(vector.hex, support.to_hex(nest.encode(made))) end
      end)
    elseif vector.kind == "decode_error" then
      it(name .. ": refused", function() damaged(support.from_hex(vector.hex)) end)
    end
  end
end)

describe("nest.encode", function()
  it("writes single values as arrays of one element, as vectors 31 and 32 are", function()
    for value, id in pairs{[-1] = 31, [1.5] = 32} do
      for _, vector in ipairs(vectors) do
        if vector.id == id then assert.equal(vector.hex, support.to_hex(nest.encode(value))) end
      end
    end
    assert.equal(nest.encode(array.bool{true}), nest.encode(true))
    local scalar = "NEST\1\0\0\0\0\4\0\x0a\x82\x55\x22\x77\xfe\x6c\xe8\0\0\0\0\0\7\0\0\0\0\0\0\0"
    local value = nest.decode(scalar)
    assert.same({1, 7, 0}, {#value, value[1], #value.shape})
    assert.equal("int64[]{7}", tostring(value))
    assert.equal(scalar, nest.encode(value))
    assert.equal("[7]", json.encode(value))
    assert.same({7}, value:table())
    assert.same({7}, array.int8(value):table())
  end)

  it("knows lists from dicts", function()
    assert.equal("4e455354010000000200000000", support.to_hex(nest.encode{}))
    assert.equal("4e455354010000000100000000", support.to_hex(nest.encode(nest.dict())))
    assert.equal(nest.encode(nest.dict{{"a", 1}, {"b", 2}}), nest.encode{b = 2, a = 1})
    assert.not_equal(nest.encode(nest.dict{{"b", 2}, {"a", 1}}), nest.encode{b = 2, a = 1})
    assert.truthy(refused{1, a = 2}:find("both elements and names", 1, true))
    assert.truthy(refused{a = {b = {1, nil, 3, [7] = 1}}}:find("the value.a.b is a list with holes", 1, true))
    assert.truthy(refused{[true] = 1}:find("boolean as a key", 1, true))
  end)

  it("refuses what the format has no place for", function()
    for _, value in ipairs{print, json.null, io.stdout, coroutine.create(print)} do refused{a = {1, value}} end
    assert.truthy(refused{a = {1, "\255"}}:find("the value.a[2] is a string that is not UTF-8", 1, true))
    assert.truthy(refused{["\255"] = 1}:find("not UTF-8", 1, true))
    assert.truthy(refused{[("k"):rep(65536)] = 1}:find("65535", 1, true))
    assert.equal(8 + 5 + 2 + 65535 + 3 + 8 + 8 + 7 + 8, #nest.encode{[("k"):rep(65535)] = 1})
    assert.is_false(pcall(nest.encode, nil))
    local cycle = {}
    cycle[1] = cycle
    assert.truthy(refused(cycle):find("nested too deeply", 1, true))
    local deep = 1
    for _ = 1, 100 do deep = {deep} end
    assert.equal(nest.encode(deep), nest.encode(nest.decode(nest.encode(deep))))
    refused{deep}
  end)

  it("does not change what it is given", function()
    local value = {b = {1}, a = "x"}
    nest.encode(value)
    assert.same({b = {1}, a = "x"}, value)
    assert.is_nil(getmetatable(value))
  end)

  it("takes no more memory than its bytes can stand for, however lists are nested", function()
    local rest, parts = 200000, {"NEST\1\0\0\0"}
    for _ = 1, 90 do
      rest = rest - 5
      parts[#parts + 1] = "\2" .. string.pack("<I4", rest // 5)
    end
    local bytes = table.concat(parts) .. ("\2\0\0\0\0"):rep(rest // 5)
    collectgarbage()
    collectgarbage("stop")
    local before = collectgarbage("count")
    local ok, err = pcall(nest.decode, bytes)
    local taken = (collectgarbage("count") - before) * 1024
    collectgarbage("restart")
    assert.is_false(ok)
    assert.truthy(tostring(err):find("ends too early", 1, true), tostring(err))
    assert.is_true(taken < 20 * #bytes, taken)
  end)

  it("can be called from a finalizer while it is at work", function()
    local want, ends = nest.encode{("x"):rep(3000), {1, 2, 3}}, 0
    local other = nest.encode{a = array.fill("int64", 4000, 7)}
    for _ = 1, 200 do
      setmetatable({}, {__gc = function()
        ends = ends + 1
        assert(nest.encode{a = array.fill("int64", 4000, 7)} == other)
      end})
      assert.equal(want, nest.encode{("x"):rep(3000), {1, 2, 3}})
    end
    collectgarbage()
    assert.equal(200, ends)
  end)
end)

describe("a dict", function()
  it("keeps its order", function()
    local dict = nest.dict{{"b", 1}, {"a", 2}}
    dict.c = 3
    dict.a = nil
    dict.a = 4
    dict.d = nil
    assert.same({"b", "c", "a"}, nest.keys(dict))
    local seen = {}
    for name, value in pairs(dict) do seen[#seen + 1] = name .. value end
    assert.same({"b1", "c3", "a4"}, seen)
    local decoded = nest.decode(nest.encode(dict))
    assert.same({"b", "c", "a"}, nest.keys(decoded))
    decoded.z = 1
    assert.same({"b", "c", "a", "z"}, nest.keys(decoded))
    assert.is_nil(nest.keys{1})
    assert.is_nil(nest.keys("x"))
    assert.is_false(pcall(function() dict[1] = 2 end))
    assert.is_false(pcall(nest.dict, {{1, 2}}))
    local one = nest.decode(nest.encode{x = 1})
    one.a = 2
    assert.same({"x", "a"}, nest.keys(one))
    assert.same({1, 2}, {one.x[1], one.a})
    assert.same({"q"}, nest.keys(nest.dict{{"q", 1}}))
  end)

  it("that comes with a name twice has the first place and the last value", function()
    local twice = nest.encode(nest.dict{{"a", 1}, {"b", 2}, {"c", 3}}):gsub("\1\0c", "\1\0a")
    local dict = nest.decode(twice)
    assert.same({"a", "b"}, nest.keys(dict))
    assert.equal(3, dict.a[1])
  end)
end)

describe("nest.decode", function()
  local whole = nest.encode(nest.dict{{"logprobs", {array.float32{-0.5, -1}, array.float64{{1, 2}, {3, 4}}}},
    {"text", "häß"}, {"n", 3}, {"flag", true}, {"none", {}}, {"dict", nest.dict()}})

  it("gives back what was encoded", function()
    local value = nest.decode(whole)
    assert.equal(-1.0, value.logprobs[1][2])
    assert.equal(3.0, value.logprobs[2][2][1])
    assert.same({"häß", 3, true}, {value.text, value.n[1], value.flag[1]})
    assert.equal("integer", math.type(value.n[1]))
    assert.equal(whole, nest.encode(value))
  end)

  it("refuses every beginning, and anything after the end", function()
    for length = 0, #whole - 1 do damaged(whole:sub(1, length)) end
    assert.truthy(damaged(whole .. "\0"):find("bytes follow its end", 1, true))
  end)

  it("takes no changed bit for anything else", function()
    local unseen = 0
    for at = 1, #whole do
      for bit = 0, 7 do
        local changed = whole:sub(1, at - 1) .. string.char(whole:byte(at) ~ (1 << bit)) .. whole:sub(at + 1)
        local ok, value = pcall(nest.decode, changed)
        if ok then
          unseen = unseen + 1   -- header bytes 5 to 7, padding, names, shapes and types of the same size
          assert(pcall(nest.encode, value))
        else
          assert.is_true(errors.is(value, "protocol"), tostring(value))
        end
      end
    end
    assert.is_true(unseen < #whole * 8 // 3)
  end)

  it("is not led to take memory or time", function()
    local head = "NEST\1\0\0\0"
    local function array_of(dtype, dims, checksum)
      local text = head .. "\0" .. string.char(dtype, #dims)
      for _, dim in ipairs(dims) do text = text .. ("<i8"):pack(dim) end
      text = text .. (checksum or "\x40\xa0\x5d\x91\xc2\x2c\x77\x5c")
      return text .. ("\0"):rep(-#text % 8)
    end
    assert.same({3, 0}, nest.decode(array_of(9, {3, 0})).shape)
    assert.same({0, 5}, nest.decode(array_of(9, {0, 5})).shape)
    local full, wide = {}, {}
    for i = 1, 255 do full[i], wide[i] = 2, 1 end
    damaged(array_of(4, full))
    wide[255] = 0
    assert.equal(255, #nest.decode(array_of(4, wide)).shape)
    assert.equal(array_of(4, wide), nest.encode(nest.decode(array_of(4, wide))))
    full[1] = 0
    damaged(array_of(4, full))
    for _, dims in ipairs{{-1}, {math.maxinteger}, {math.maxinteger, 2}, {1 << 32, 1 << 32}, {1 << 61}, {1 << 40},
      {1 << 62, 0}, {0, 1 << 62, 1 << 62}, {(1 << 20) + 1, 0}} do damaged(array_of(4, dims)) end
    damaged(head .. "\1\255\255\255\255")
    damaged(head .. "\2\255\255\255\255")
    damaged(head .. "\2\255\255\255\255" .. ("\2\0\0\0\0"):rep(1000))
    damaged(head .. "\0\11\0\255\255\255\255" .. ("\0"):rep(100))
    damaged(head .. ("\2\1\0\0\0"):rep(101) .. "\2\0\0\0\0")
    assert.truthy(damaged(head .. ("\2\1\0\0\0"):rep(100000) .. "\2\0\0\0\0"):find("too deeply", 1, true))
    assert.equal("table", type(nest.decode(head .. ("\2\1\0\0\0"):rep(99) .. "\2\0\0\0\0")))
  end)

  it("wants UTF-8, and the right header", function()
    local text = nest.encode{["käy"] = 1}
    assert.truthy(damaged((text:gsub("ä", "\xc3a"))):find("a key is not UTF-8", 1, true))
    assert.truthy(damaged("\x89PNG\r\n\x1a\n"):find("does not begin with NEST", 1, true))
    assert.truthy(damaged("NEST\2\0\0\0"):find("another version", 1, true))
    assert.is_false(pcall(nest.decode, 5))
  end)
end)
