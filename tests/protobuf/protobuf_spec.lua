--- riverlua.protobuf: how Lua's values become fields and fields become values.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local errors = require "riverlua.errors"
local json = require "riverlua.json"
local protobuf = require "riverlua.protobuf"
local error_of, hex, bytes_of = support.error_of, support.to_hex, support.from_hex

describe("riverlua.protobuf", function()
  local V3, V2, Lookalike, Step, Input
  setup(function()
    V3, V2 = support.type_of("test.v3.Everything"), support.type_of("test.v2.Everything")
    Lookalike = support.type_of("test.v3.Lookalike")
    Step = support.type_of("river.api.v1.OptimStepRequest")
    Input = support.type_of("river.api.v1.ForwardBackwardInput")
  end)

  local function encoded(T, message) return hex(T:encode(message)) end
  local function packed(digits) return (digits:gsub(" ", "")) end
  local function decoded(T, digits) return T:decode(bytes_of(digits)) end

  -- The message of kind "argument" that a table is refused with.
  local function refusal(T, message)
    local err = error_of(T.encode, T, message)
    assert(errors.is(err, "argument"), tostring(err))
    return err.message, err.hint
  end

  local function malformed(T, digits)
    local err = error_of(T.decode, T, bytes_of(digits))
    assert(errors.is(err, "protocol"), tostring(err))
    return err.message
  end

  describe("presence", function()
    it("omits zeros of proto3, and reads what is absent as zero", function()
      assert.equal("", encoded(V3, {text = "", data = "", i32 = 0, u64 = 0, single = 0, number = 0.0, flag = false,
        colour = "COLOUR_NONE", inner = 0, texts = {}, i32s = {}, text_of_text = {}}))
      local empty = V3:decode("")
      assert.equal("", empty.text)
      assert.equal("", empty.data)
      assert.equal(0, empty.i32)
      assert.equal("integer", math.type(empty.u64))
      assert.equal("float", math.type(empty.single))
      assert.equal(false, empty.flag)
      assert.equal("COLOUR_NONE", empty.colour)
      assert.same({}, empty.texts)
      assert.same({}, empty.points)
      assert.same({}, empty.text_of_text)
      assert.equal(0, #empty.i32s)
      assert.equal(0, #empty.flags)
      assert.is_nil(empty.point)
      assert.is_nil(empty.choice_text)
      assert.is_nil(empty.maybe_i32)
    end)

    it("keeps the zero that has a sign", function()
      assert.equal("690000000000000080", encoded(V3, {number = -0.0}))
      assert.equal(-math.huge, 1 / decoded(V3, "690000000000000080").number)
    end)

    it("is explicit for members of a oneof, alone or not", function()
      assert.equal("d80500", encoded(V3, {maybe_i32 = 0}))
      assert.equal("e20500", encoded(V3, {maybe_text = ""}))
      assert.equal("8a0500", encoded(V3, {choice_text = ""}))
      assert.equal(0, decoded(V3, "d80500").maybe_i32)
      assert.equal("1000", encoded(Step, {seq_id = 0}))
      assert.equal("9a0100", encoded(V3, {self = {}}))
      assert.equal(0, decoded(V3, "9a0100").self.i32)
    end)

    it("lets the last member of a oneof win", function()
      local message = decoded(V3, "8a0501619005 05")   -- choice_text = "a", choice_i64 = 5
      assert.is_nil(message.choice_text)
      assert.equal(5, message.choice_i64)
      message = decoded(V3, "9a05020802 900505 9a05021004")   -- a point, a number, a point: nothing is merged
      assert.equal(0, message.choice_point.x)
      assert.equal(2, message.choice_point.y)
      assert.is_nil(message.choice_i64)
      message = decoded(V3, "9a0502080 2 9a05021004")   -- two points are
      assert.equal(1, message.choice_point.x)
      assert.equal(2, message.choice_point.y)
    end)

    it("refuses two members of a oneof at once", function()
      assert.equal("selves[2]: 'choice_text' and 'choice_i64' exclude each other (a oneof)",
        refusal(V3, {selves = {{choice_i64 = 1}, {choice_text = "a", choice_i64 = 1}}}))
    end)

    it("of proto2 is explicit, and defaults stand for what is absent", function()
      local message = V2:decode(V2:encode{id = 0, name = ""})
      assert.equal(-32, message.i32)
      assert.equal(math.mininteger + 1, message.s64)
      assert.equal("18446744073709551615", message.u64)
      assert.equal(4294967295, message.u32)
      assert.equal(1.5, message.single)
      assert.equal(-2.25, message.number)
      assert.equal(true, message.flag)
      assert.equal("h\u{e9}llo", message.text)
      assert.equal("\1\255\0z", message.data)
      assert.equal("NEGATIVE", message.level)
      assert.is_nil(message.bare_i32)
      assert.is_nil(message.bare_text)
      assert.is_nil(message.bare_level)
      assert.equal("0800120018007800f80100", encoded(V2, {id = 0, name = "", i32 = 0, flag = false, bare_i32 = 0}))
    end)

    it("of required fields is wanted both ways", function()
      assert.equal("id: is required by test.v2.Everything", refusal(V2, {name = "x"}))
      assert.equal("part_of_text[\"k\"].id: is required by test.v2.Everything.Part",
        refusal(V2, {id = 1, name = "x", part_of_text = {k = {name = "y"}}}))
      assert.equal("test.v2.Everything: the required field name is missing", malformed(V2, "0801"))
      assert.equal("test.v2.Everything: the required field parts[2].id is missing",
        malformed(V2, "08011200 c203020801 c203021200"))
      assert.equal("test.v2.Everything: the required field part_of_text[\"k\"].id is missing",
        malformed(V2, "08011200 d203050a016b1200"))
      assert.equal(7, decoded(V2, "08011200 9a02021200 9a02020807").part.id)   -- one message in two pieces
    end)
  end)

  describe("numbers", function()
    it("are exact over their whole range", function()
      for field, edges in pairs{
        i32 = {-2147483648, 2147483647}, s32 = {-2147483648, 2147483647}, sf32 = {-2147483648, 2147483647},
        i64 = {math.mininteger, math.maxinteger}, s64 = {math.mininteger, math.maxinteger},
        sf64 = {math.mininteger, math.maxinteger}, u32 = {1, 4294967295}, f32 = {1, 4294967295},
        u64 = {1, math.maxinteger, "9223372036854775808", "18446744073709551615"},
        f64 = {1, math.maxinteger, "9223372036854775808", "18446744073709551615"},
        number = {5e-324, 1.7976931348623157e308, math.huge, -math.huge}, single = {1.5, math.huge, 2^-149},
      } do
        for _, value in ipairs(edges) do
          local back = V3:decode(V3:encode{[field] = value})[field]
          assert.equal(value, back, field)
          assert.equal(math.type(value), math.type(back))
        end
      end
      local nan = V3:decode(V3:encode{number = 0 / 0, single = 0 / 0})
      assert.is_true(nan.number ~= nan.number and nan.single ~= nan.single)
    end)

    it("may be written as floats and digits where nothing is lost", function()
      assert.equal("1003", encoded(V3, {i32 = 3.0}))
      assert.equal("28ffffffffffffffffff01", encoded(V3, {u64 = "18446744073709551615"}))
      assert.equal("2880808080808080808001", encoded(V3, {u64 = 2.0 ^ 63}))
      assert.equal("2805", encoded(V3, {u64 = "5"}))
      assert.equal("650000803f", encoded(V3, {single = 1}))
    end)

    it("that do not fit are refused", function()
      assert.equal("i32: 2147483648 does not fit int32", refusal(V3, {i32 = 2147483648}))
      assert.equal("s32s[2]: -2147483649 does not fit int32", refusal(V3, {s32s = {1, -2147483649}}))
      assert.equal("u32: -1 does not fit uint32", refusal(V3, {u32 = -1}))
      assert.equal("u64: -1 does not fit uint64", refusal(V3, {u64 = -1}))
      assert.equal("i64: an integer is wanted, got 0.5", refusal(V3, {i64 = 0.5}))
      assert.equal("i64: an integer is wanted, got 1e+300", refusal(V3, {i64 = 1e300}))
      assert.equal("i64: an integer is wanted, got a string", refusal(V3, {i64 = "5"}))
      assert.matches("^u64: an integer or its decimal digits are wanted", refusal(V3, {u64 = "18446744073709551616"}))
      assert.matches("^u64: an integer or its decimal digits are wanted", refusal(V3, {u64 = "0x10"}))
      assert.equal("single: 1e+300 does not fit float", refusal(V3, {single = 1e300}))
      assert.equal("flag: true or false is wanted, got 1", refusal(V3, {flag = 1}))
      assert.equal("number: a number is wanted, got a boolean", refusal(V3, {number = true}))
    end)

    it("of 32 bits are the low ones of what came", function()
      assert.equal(-1, decoded(V3, "10ffffffffffffffffff01").i32)
      assert.equal(-1, decoded(V3, "10ffffffff0f").i32)
      assert.equal(5, decoded(V3, "2085808080808001").u32)
      assert.equal(true, decoded(V3, "7080808080808080808001").flag)
    end)
  end)

  describe("enums", function()
    it("are names, and numbers where there is no name", function()
      assert.equal("80010f", encoded(V3, {colour = 15}))
      assert.equal(15, decoded(V3, "80010f").colour)
      assert.equal("800101", encoded(V3, {colour = "COLOUR_CRIMSON"}))
      assert.equal("COLOUR_RED", decoded(V3, "800101").colour)
      assert.equal("8001f9ffffffffffffffff01", encoded(V3, {colour = "COLOUR_BELOW"}))
      assert.equal("COLOUR_BELOW", decoded(V3, "8001f9ffffffffffffffff01").colour)
      assert.same({"COLOUR_FAR", "COLOUR_NONE", 3}, decoded(V3, "f202 07 ffffffff07 00 03").colours)
      assert.same({"COLOUR_RED", 4}, decoded(V3, "9004019004 04").loose_colours)
    end)

    it("of unknown names are refused with what was meant", function()
      assert.equal("colour: 'COLOUR_RD' is no value of test.v3.Colour; did you mean 'COLOUR_RED'?",
        refusal(V3, {colour = "COLOUR_RD"}))
      assert.equal("colours[1]: the name or number of an enum's value is wanted, got a boolean",
        refusal(V3, {colours = {true}}))
      assert.equal("colour: 2147483648 does not fit an enum", refusal(V3, {colour = 2147483648}))
    end)
  end)

  describe("texts and bytes", function()
    it("are strings; texts are UTF-8 both ways", function()
      local all = {}
      for i = 0, 255 do all[i + 1] = string.char(i) end
      local data = table.concat(all)
      assert.equal(data, V3:decode(V3:encode{data = data}).data)
      local message, hint = refusal(V3, {texts = {"ok", "ab\xff"}})
      assert.equal("texts[2]: a text in UTF-8 is wanted; byte 3 is none", message)
      assert.matches("bytes", hint)
      assert.matches("^test.v3.Everything: byte 4: a text that is not UTF%-8 %(in text%)", malformed(V3, "7a0261ff"))
      assert.matches("UTF%-8", malformed(V3, "7a03eda080"))   -- a surrogate
      assert.matches("UTF%-8 %(in text_of_text%)", malformed(V3, "aa06030a01ff"))
      assert.equal("text: a string is wanted, got 5", refusal(V3, {text = 5}))
    end)
  end)

  describe("lists", function()
    it("of numbers are riverlua.Array, packed or not on the wire", function()
      for _, digits in ipairs{"8a020301ff01" .. "8a0201 05", "8802018802ff018802 05", "880201 8a0203ff0105"} do
        local list = decoded(V3, digits).i32s
        assert.equal("userdata", type(list))
        assert.equal(3, #list)
        assert.equal(1, list[1])
        assert.equal(255, list[2])
        assert.equal(5, list[3])
        assert.equal("8a020401ff0105", encoded(V3, {i32s = list}))
      end
      local loose = decoded(V3, "ea0303 01ff01").loose_i32s
      assert.equal(255, loose[2])
      assert.equal("e80301e803ff01", encoded(V3, {loose_i32s = loose}))
      assert.equal("8a020401ff0105", encoded(V3, {i32s = {1, 255, 5}}))
    end)

    it("take arrays of other types so far as the numbers fit", function()
      local wide = decoded(V3, "92020901ff01808080808010").i64s
      assert.equal("i32s[3]: 549755813888 does not fit int32", refusal(V3, {i32s = wide}))
      assert.equal(255.0, V3:decode(V3:encode{numbers = wide}).numbers[2])
      local huge = V3:decode(V3:encode{u64s = {1, "18446744073709551615"}}).u64s
      assert.equal("i64s[2]: 18446744073709551615 does not fit int64", refusal(V3, {i64s = huge}))
      local floats = V3:decode(V3:encode{numbers = {1, 2.5}}).numbers
      assert.equal("i64s[2]: 2.5 does not fit int64", refusal(V3, {i64s = floats}))
      assert.equal("ea02020001", encoded(V3, {flags = V3:decode(V3:encode{u32s = {0, 1}}).u32s}))
      assert.equal("flags[1]: 2 does not fit bool", refusal(V3, {flags = V3:decode(V3:encode{u32s = {2}}).u32s}))
      assert.equal("f202020100", encoded(V3, {colours = V3:decode(V3:encode{u32s = {1, 0}}).u32s}))
      assert.equal("texts: a list is wanted, got a riverlua.Array", refusal(V3, {texts = wide}))
    end)

    it("have no holes and no other keys", function()
      assert.equal("texts: a list is wanted, got a string", refusal(V3, {texts = "a"}))
      assert.equal("texts: a list without holes is wanted, got a table with the key 'a'",
        refusal(V3, {texts = {a = "b"}}))
      assert.equal("texts: a list without holes is wanted, got a table with the key 'n'",
        refusal(V3, {texts = table.pack("x")}))
      assert.matches("^points: a list without holes is wanted", refusal(V3, {points = {[2] = {}}}))
      assert.matches("^points", refusal(V3, {points = {{}, nil, {}, {}, nil, {}}}))
      local list = {}
      for i = 64, 1, -1 do list[i] = "x" end   -- whose keys are in the hash part
      assert.equal(64, #V3:decode(V3:encode{texts = list}).texts)
    end)

    it("of enums are lists of names", function()
      assert.equal("f202020100", encoded(V3, {colours = {"COLOUR_RED", 0}}))
    end)

    it("in proto2 are packed only where it says so", function()
      assert.equal(packed"08001200 980301 980302 a203020406",
        encoded(V2, {id = 0, name = "", i32s = {1, 2}, packed_s32s = {2, 3}}))
    end)
  end)

  describe("maps", function()
    it("are tables, and entries are sorted by their keys", function()
      assert.equal(packed"aa06060a0161120179 aa06060a0162120178 aa06070a026361120177",
        encoded(V3, {text_of_text = {b = "x", a = "y", ca = "w"}}))
      local map = {[-3] = 1, [-1] = 2, [0] = 3, [2] = 4, [300] = 5}
      local again = V3:decode(V3:encode{s64_of_s64 = map, u64_of_sf64 = map})
      assert.same(map, again.s64_of_s64)
      assert.same(map, again.u64_of_sf64)
      assert.equal(packed"da0604 08051002 da0604 08011004 da0604 08001006 da0604 08041008 da0605 08d804100a",
        encoded(V3, {s64_of_s64 = map}))
      assert.equal(packed"e2060e 0d0100000011 0100000000000000 e2060e 0dffffffff11 0200000000000000",
        encoded(V3, {f64_of_f32 = {[4294967295] = 2, [1] = 1}}))
      assert.equal(packed"82070408001200 82070408011200", encoded(V3, {text_of_flag = {[true] = "", [false] = ""}}))
    end)

    it("have zeros in their entries, and read what is absent as zero", function()
      assert.equal("aa06040a001200", encoded(V3, {text_of_text = {[""] = ""}}))
      assert.same({[""] = ""}, decoded(V3, "aa0600").text_of_text)
      assert.same({[0] = 0.0}, decoded(V3, "b20600").number_of_i32)
      local points = decoded(V3, "d20600").point_of_s32
      assert.equal(0, points[0].x)
    end)

    it("have the last value of a key, and what is not known in an entry is skipped", function()
      assert.same({a = "z"}, decoded(V3, "aa06060a0161120178 aa06060a016112017a").text_of_text)
      assert.same({a = "z"}, decoded(V3, "aa060b1a0178 12017a 0a0161 2005").text_of_text)
      local point = decoded(V3, "d2060a 0802 12020802 12021004").point_of_s32[1]   -- pieces in one entry are merged
      assert.equal(1, point.x)
      assert.equal(2, point.y)
    end)

    it("have keys of all types", function()
      local message = {
        text_of_flag = {[true] = "yes", [false] = "no"}, colour_of_u64 = {["18446744073709551615"] = "COLOUR_RED"},
        self_of_sf32 = {[-5] = {i32 = 1}}, single_of_f64 = {[7] = 0.5},
      }
      local back = V3:decode(V3:encode(message))
      assert.same(message.text_of_flag, back.text_of_flag)
      assert.same(message.colour_of_u64, back.colour_of_u64)
      assert.same(message.single_of_f64, back.single_of_f64)
      assert.equal(1, back.self_of_sf32[-5].i32)
    end)

    it("say where something is wrong", function()
      assert.equal("text_of_text[5]: a string is wanted, got 5", refusal(V3, {text_of_text = {[5] = "x"}}))
      assert.equal("text_of_text[\"a\"]: a string is wanted, got 5", refusal(V3, {text_of_text = {a = 5}}))
      assert.equal("text_of_text: a table is wanted, got a string", refusal(V3, {text_of_text = "x"}))
      assert.equal("loss_fn_config[\"beta\"]: a number is wanted, got a string",
        refusal(Input, {loss_fn_config = {beta = "x"}}))
    end)

    it("are told from lists of messages that look like them", function()
      local message = {pair = {{key = "a", value = "b", more = 1}}, other = {{key = "k", value = "v"}}}
      assert.same(message, Lookalike:decode(Lookalike:encode(message)))
    end)
  end)

  describe("messages", function()
    it("have their fields in the order of numbers", function()
      assert.equal("0a0161" .. "1001" .. "7a0162" .. "f8ffffff0f07",
        encoded(V3, {far = 7, text = "b", i32 = 1, data = "a"}))
    end)

    it("in pieces are merged: lists are joined, messages are merged, the last number counts", function()
      -- self = {i32 = 1, text = "a", i32s = {1}, point = {x = 1}, texts = {"p"}} and the rest of it
      local first = "1001 7a0161 8a020101 9201020802 fa010170"
      local second = "1002 8a020102 9201021004 fa010171"
      local function piece(digits) return "9a01" .. hex(support.varint(#bytes_of(digits))) .. digits end
      local message = decoded(V3, piece(first) .. "1009" .. piece(second)).self
      assert.equal(2, message.i32)
      assert.equal("a", message.text)
      assert.equal(2, #message.i32s)
      assert.equal(2, message.i32s[2])
      assert.same({"p", "q"}, message.texts)
      assert.equal(1, message.point.x)
      assert.equal(2, message.point.y)
    end)

    it("skip what they do not know, and what has another type than theirs", function()
      -- numbers 1000 to 1003 with all wire types; text as a number
      local message = decoded(V3, "c03e05 c93e0102030405060708 d23e03616263 dd3e01020304 7805 1003")
      assert.equal(3, message.i32)
      assert.equal("", message.text)
    end)

    it("refuse groups", function()
      assert.matches("^test.v3.Everything: byte 1: a group, which is not supported", malformed(V3, "c33e0801c43e"))
      assert.matches("a group", malformed(V3, "9301089401"))
    end)

    it("say which field is unknown, and which was meant", function()
      assert.equal("test.v3.Everything: there is no field 'txt'; did you mean 'text'?", refusal(V3, {txt = "a"}))
      assert.equal("selves[2].point: test.v3.Everything.Point has no field 'mor'; did you mean 'more'?",
        refusal(V3, {selves = {{}, {point = {mor = {}}}}}))
      assert.equal("test.v3.Everything: a message has names of fields as keys, not 1", refusal(V3, {"a"}))
      assert.equal("test.v3.Everything: there is no field of this long name", refusal(V3, {[("x"):rep(1000)] = 1}))
      assert.equal("test.v3.Everything: a table is wanted, got nothing", refusal(V3, nil))
      assert.equal("point: a table is wanted, got a string", refusal(V3, {point = "x"}))
      assert.matches("colon", select(2, pcall(V3.encode, {})).hint)
      assert.matches("bytes are wanted, got nothing", select(2, pcall(V3.decode, V3)).message)
    end)

    it("that contain themselves are refused", function()
      local message = {}
      message.self = message
      local text, hint = refusal(V3, message)
      assert.matches("^self%.self.*: messages are nested more than 100 deep$", text)
      assert.matches("itself", hint)
      assert.is_true(#text < 300)
    end)

    it("are read raw: metatables have no say", function()
      local proxy = setmetatable({}, {__index = function() error("called") end, __pairs = error, __len = error})
      assert.equal("", encoded(V3, proxy))
    end)

    it("of any size and mix of large strings come back", function()
      local big, list = ("x"):rep(70000), {}
      for i = 1, 300 do list[i] = {data = i % 3 == 0 and big .. i or tostring(i), resolved_image_handles = {"a"}} end
      local bytes = Input:encode{data = list, loss_fn = "l", resolved_images = {x = big, y = "", z = big .. "z"}}
      local back = Input:decode(bytes)
      for i = 1, 300 do assert.equal(list[i].data, back.data[i].data) end
      assert.same({x = big, y = "", z = big .. "z"}, back.resolved_images)
      assert.equal(bytes, Input:encode(back))
      assert.equal("0a0161", encoded(V3, {data = "a"}))   -- nothing is left of the one before
    end)

    it("may be encoded by a finalizer that runs while another one is", function()
      local big = ("y"):rep(20000)
      local ran = 0
      local function litter()
        setmetatable({}, {__gc = function()
          ran = ran + 1
          assert(#V3:encode{texts = {"finalizer", big, "z"}, selves = {{i32 = 1}}} > 20000)
        end})
      end
      for _ = 1, 300 do
        litter()
        local message = {texts = {}, datas = {}}
        for i = 1, 20 do message.texts[i], message.datas[i] = tostring(i), big .. i end
        assert.same(message.datas, V3:decode(V3:encode(message)).datas)
      end
      collectgarbage()
      assert.equal(300, ran)
    end)
  end)

  describe("values of any shape", function()
    local Struct
    setup(function() Struct = protobuf.training:message("river.api.v1.Struct") end)

    it("go into a Struct and come out of it", function()
      local value = {text = "a", number = 1.5, yes = true, no = false, list = {1.0, "x", {deep = {}}},
        inner = {a = {b = "c"}}}
      local back = protobuf.struct_to_table(Struct:decode(Struct:encode(protobuf.table_to_struct(value))))
      assert.equal(json.encode(value, {sort = true}), json.encode(back, {sort = true}))
    end)

    it("keep empty lists and the places of nulls in them", function()
      local struct = protobuf.table_to_struct{a = json.array{}, b = {}, c = json.null, d = {1, json.null}}
      local back = protobuf.struct_to_table(Struct:decode(Struct:encode(struct)))
      assert.is_true(json.is_array(back.a))
      assert.is_false(json.is_array(back.b))
      assert.is_nil(back.c)
      assert.equal(json.null, back.d[2])
      assert.is_nil(protobuf.struct_to_table(nil))
      assert.is_nil(protobuf.table_to_struct(nil))
    end)

    it("take arrays", function()
      local array = V3:decode(V3:encode{i32s = {4, 5}}).i32s
      local back = protobuf.struct_to_table(Struct:decode(Struct:encode(protobuf.table_to_struct{a = array})))
      assert.same({4.0, 5.0}, setmetatable(back.a, nil))
    end)

    it("are refused where they have no place", function()
      assert.equal("protobuf.table_to_struct: value.a[1]: a function has no place in a Struct",
        error_of(protobuf.table_to_struct, {a = {print}}).message)
      assert.equal("protobuf.table_to_struct: value.a: names are strings, got 2",
        error_of(protobuf.table_to_struct, {a = {[2] = 1}}).message)
      local loop = {}
      loop.loop = loop
      assert.matches("nested too deep", error_of(protobuf.table_to_struct, loop).message)
    end)

    it("may be times", function()
      assert.equal(1700000000.25, protobuf.timestamp{seconds = 1700000000, nanos = 250000000})
      assert.same({seconds = 1700000000, nanos = 250000000}, protobuf.timestamp(1700000000.25))
      assert.same({seconds = -1, nanos = 500000000}, protobuf.timestamp(-0.5))
      assert.same({seconds = 3, nanos = 0}, protobuf.timestamp(2.9999999999))
      assert.is_nil(protobuf.timestamp(nil))
    end)
  end)
end)
