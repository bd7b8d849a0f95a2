--- Bytes that are no messages, or are made to cost much: an error or a message, and no more memory than they are worth.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local errors = require "riverlua.errors"

local function sample(depth)
  local point = {x = 1, y = -2, more = {1, 2, 300}}
  return {
    text = "h\u{e9}llo", data = "\0\1\255", i32 = -5, i64 = math.mininteger, u32 = 7, u64 = "18446744073709551615",
    s32 = -1, s64 = -2, f32 = 1, f64 = 2, sf32 = 3, sf64 = -4, single = 1.5, number = -0.1, flag = true,
    colour = "COLOUR_BELOW",
    point = point, self = depth > 0 and sample(depth - 1) or nil, texts = {"a", "", "\u{10ffff}"}, datas = {"\255"},
    i32s = {1, -1, 300}, s64s = {-1, 5}, f32s = {1, 2}, numbers = {0.5}, flags = {true, false},
    colours = {"COLOUR_FAR", 5},
    points = {point, {}}, loose_i32s = {1, 2}, loose_colours = {"COLOUR_RED", 9}, choice_point = point, maybe_i32 = 0,
    text_of_text = {a = "b", [""] = ""}, point_of_s32 = {[-1] = point}, text_of_flag = {[true] = "x"}, far = 1,
  }
end

describe("hostile bytes", function()
  local V3, V2
  setup(function() V3, V2 = support.type_of("test.v3.Everything"), support.type_of("test.v2.Everything") end)

  local function try(T, bytes)
    local ok, message = pcall(T.decode, T, bytes)
    if ok then
      T:encode(message)
      return true
    end
    assert(errors.is(message, "protocol") or errors.is(message, "limit"), tostring(message))
    return false
  end

  -- KiB that a call takes while nothing is collected.
  local function kilobytes_of(call, ...)
    collectgarbage()
    collectgarbage("stop")
    local before = collectgarbage("count")
    pcall(call, ...)
    local taken = collectgarbage("count") - before
    collectgarbage("restart")
    collectgarbage()
    return taken
  end

  it("cut off anywhere give an error or what came before", function()
    local bytes = V3:encode(sample(1))
    assert.equal(bytes, V3:encode(V3:decode(bytes)))
    local messages = 0
    for length = 0, #bytes - 1 do if try(V3, bytes:sub(1, length)) then messages = messages + 1 end end
    assert(messages > 20 and messages < #bytes / 2, messages)
    for from = 1, #bytes do try(V3, bytes:sub(from)) end
  end)

  it("changed anywhere do no harm", function()
    math.randomseed(11)
    local samples = {{V3, V3:encode(sample(2))}, {V2, V2:encode{id = 1, name = "x", parts = {{id = 2}}, numbers = {1},
      part_of_text = {a = {id = 3}}, levels = {"LOW", 77}, packed_s32s = {1, 2}, self = {id = 4, name = "y"}}}}
    for round = 1, 20000 do
      local T, bytes = table.unpack(samples[round % 2 + 1])
      for _ = 1, math.random(3) do
        local at = math.random(#bytes)
        bytes = bytes:sub(1, at - 1) .. string.char(math.random(0, 255)) .. bytes:sub(at + math.random(0, 2))
      end
      try(T, bytes)
    end
  end)

  it("that promise more than comes cost nothing", function()
    for _, digits in ipairs{"0affffffff07", "7affffffffffffffffff01", "8a02ffffffff0701", "9a01ffffffff07",
      "aa06ffffffff07"} do
      local bytes = support.from_hex(digits)
      assert.is_false(try(V3, bytes))
      assert(kilobytes_of(V3.decode, V3, bytes) < 16)
    end
  end)

  it("of many small pieces take a small multiple of their memory", function()
    local pieces = {
      ["\x88\2\1"] = "numbers that are not packed", ["\x8a\2\1\1"] = "packed numbers, one by one",
      ["\x9a\1\3\x88\2\1"] = "messages to be merged, with a number each", ["\xfa\1\0"] = "empty texts",
      ["\xb2\6\2\8\1"] = "entries of one key", ["\x9a\5\0\x90\5\1"] = "members of a oneof in turn",
    }
    for piece, what in pairs(pieces) do
      local count = 600000 // #piece
      local bytes = piece:rep(count)
      local taken = kilobytes_of(V3.decode, V3, bytes)
      assert(taken < 100 * #bytes / 1024, ("%s: %.0f KiB"):format(what, taken))
    end
    local numbers = V3:decode(("\x88\2\1"):rep(100000)).i32s
    assert.equal(100000, #numbers)
    assert.equal(100000, #V3:decode(("\x9a\1\3\x88\2\1"):rep(100000)).self.i32s)
  end)

  it("of empty messages are refused when there are too many for what they take", function()
    local bytes = ("\x82\3\0"):rep(150000)   -- selves
    local err = support.error_of(V3.decode, V3, bytes)
    assert(errors.is(err, "limit"), tostring(err))
    assert(kilobytes_of(V3.decode, V3, bytes) < 32 * 1024 + 128 * #bytes / 1024)
    assert.equal(50000, #V3:decode(("\xfa\2\0"):rep(50000)).points)
  end)

  it("nested very deep are refused", function()
    local bytes = ("\x9b\1"):rep(100000)   -- groups
    assert.is_false(try(V3, bytes))
    bytes = ""
    for _ = 1, 3000 do bytes = "\x9a\1" .. support.varint(#bytes) .. bytes end
    local err = support.error_of(V3.decode, V3, bytes)
    assert.matches("nested more than 100 deep", err.message)
    assert.is_true(#err.message < 400)
  end)
end)
