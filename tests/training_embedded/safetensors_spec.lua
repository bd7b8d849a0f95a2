--- The format safetensors: what is written, what is read, what is refused, and that Python's library agrees.

local files = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "files.lua")
local array = require "riverlua.array"
local safetensors = require "training.embedded.safetensors"

-- A file of this header and data.
local function made(header, data) return ("<I8"):pack(#header) .. header .. (data or "") end

local function names_of(file) return table.concat(file.names, " ") end

describe("safetensors", function()
  local path
  before_each(function() path = os.tmpname() end)
  after_each(function() os.remove(path) end)

  it("gives back what was written", function()
    local tensors = {
      {name = "b", array = array.matrix("float32", {1, 2, 3, 4, 5, 6}, 3)},
      {name = "a", array = array.float32{0.5}},
      {name = "ids", array = array.int64{math.mininteger, 7}}, {name = "é", array = array.bool{true, false}},
      {name = "none", array = array.float32{}}, {name = "d", array = array.float64{1 / 3}},
    }
    local size = safetensors.write(path, tensors, {step = "3"})
    assert.equal(#files.read(path), size)
    local file = safetensors.read(path)
    assert.equal("ids d a b none é", names_of(file))   -- large elements first
    for _, tensor in ipairs(tensors) do
      local got = file.tensors[tensor.name]
      assert.equal(tensor.array.dtype, got.dtype)
      assert.same(tensor.array.shape, got.shape)
      assert.same(tensor.array.shape, file.shapes[tensor.name])
      assert.equal(tensor.array:bytes(), got:bytes())
    end
    assert.same({step = "3"}, file.metadata)
  end)

  it("begins its numbers at a multiple of 8 bytes", function()
    for length = 1, 20 do
      local bytes = safetensors.encode{{name = ("n"):rep(length), array = array.float32{1}}}
      local header = ("<I8"):unpack(bytes)
      assert.equal(0, header % 8)
      assert.truthy(bytes:sub(9, 8 + header):find("^{.*} *$"))
      assert.equal(8 + header + 4, #bytes)
    end
  end)

  it("writes and reads none at all", function()
    local file = safetensors.decode(safetensors.encode{})
    assert.same({}, file.names)
    assert.same({}, file.metadata)
    assert.same({}, safetensors.decode(made "{}").names)
  end)

  it("refuses to write what cannot be read", function()
    local one = array.float32{1}
    files.refused("argument", {"'a' is there twice"}, safetensors.encode, {{name = "a", array = one},
      {name = "a", array = one}})
    files.refused("argument", {"tensor 1 has no name"}, safetensors.encode, {{name = "__metadata__", array = one}})
    files.refused("argument", {"tensor 1 has no name"}, safetensors.encode, {{array = one}})
    files.refused("argument", {"'a' is no array"}, safetensors.encode, {{name = "a", array = {1}}})
    files.refused("argument", {"UTF-8"}, safetensors.encode, {{name = "\xff", array = one}})
    files.refused("argument", {"metadata"}, safetensors.encode, {{name = "a", array = one}}, {n = 1})
    files.refused("storage", {"/nowhere/at/all"}, safetensors.write, "/nowhere/at/all", {})
  end)

  it("reads half precision as float32", function()
    local file = safetensors.decode(made('{"h":{"dtype":"F16","shape":[2,4],"data_offsets":[0,16]},'
      .. '"b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]}}',
      ("<I2I2I2I2I2I2I2I2"):pack(0x3c00, 0xc000, 0x0001, 0x03ff, 0x7bff, 0x8000, 0x7c00, 0x7e00)
      .. ("<I2I2I2"):pack(0x3f80, 0xc049, 0xff80)))
    local half = file.tensors.h
    assert.equal("float32", half.dtype)
    assert.same({2, 4}, half.shape)
    assert.same({1, -2, 2 ^ -24, 1023 * 2 ^ -24}, half[1]:table())
    assert.equal(65504, half[2][1])
    assert.equal(-math.huge, 1 / half[2][2])
    assert.equal(math.huge, half[2][3])
    assert.not_equal(half[2][4], half[2][4])
    assert.same({1, -3.140625, -math.huge}, file.tensors.b:table())
  end)

  it("reads any number of dimensions, in row order", function()
    local file = safetensors.decode(made('{"c":{"dtype":"U8","shape":[2,1,2],"data_offsets":[0,4]},'
      .. '"s":{"dtype":"F32","shape":[],"data_offsets":[4,8]},'
      .. '"z":{"dtype":"F32","shape":[3,0],"data_offsets":[8,8]}}',
      "\1\2\3\4" .. ("<f"):pack(7)))
    assert.same({1, 2, 3, 4}, file.tensors.c:table())
    assert.same({2, 1, 2}, file.shapes.c)
    assert.same({7}, file.tensors.s:table())
    assert.same({}, file.shapes.s)
    assert.equal(0, #file.tensors.z)
  end)

  it("says what is wrong with a file, and which", function()
    local good = safetensors.encode{{name = "a", array = array.float32{1, 2}},
      {name = "b", array = array.float32{3}}}
    for cut = 0, #good - 1 do
      files.refused("protocol", {"part.bin is no whole safetensors file"}, safetensors.decode, good:sub(1, cut),
        "part.bin")
    end
    files.refused("protocol", {"1 bytes follow"}, safetensors.decode, good .. "x")
    local function refused(texts, header, data, kind)
      files.refused(kind or "protocol", texts, safetensors.decode, made(header, data))
    end
    local function tensor(dtype, shape, offsets, more)
      return ('{"dtype":%s,"shape":%s,"data_offsets":%s%s}'):format(dtype, shape, offsets, more or "")
    end
    local function one(...) return ('{"a":%s}'):format(tensor(...)) end
    refused({"header is no JSON object"}, "")
    refused({"header is no JSON object"}, "[]")
    refused({"header is no JSON object"}, ' {}')
    refused({"header is not valid"}, '{"a":}')
    refused({"header is not valid"}, '{"a":1} {}')
    refused({"header is not valid"}, '{"a\xff":1}')
    refused({"header is not valid"}, '{"a":[[[[[]]]]]}')
    refused({"'a' is described by no object"}, '{"a":1}')
    refused({"'a' is described by no object"}, '{"a":[]}')
    refused({"'a' is described by no object"}, '{"a":null}')
    refused({"metadata is no object"}, '{"__metadata__":[]}')
    refused({"metadata 'n' is no text"}, '{"__metadata__":{"n":1}}')
    refused({"'a' has no type"}, one("1", "[1]", "[0,4]"), "abcd")
    refused({"'a' has the type 'F8_E4M3'"}, one('"F8_E4M3"', "[4]", "[0,4]"), "abcd", "unsupported")
    refused({"'a' has no shape"}, one('"F32"', "{}", "[0,4]"), "abcd")
    refused({"shape of tensor 'a' has -1 in place 1"}, one('"F32"', "[-1]", "[0,4]"), "abcd")
    refused({"shape of tensor 'a' has 1.0 in place 2"}, one('"F32"', "[1,1.0]", "[0,4]"), "abcd")
    refused({"too many elements"}, one('"F32"', "[4294967296,4294967296]", "[0,4]"), "abcd")
    refused({"too many elements"}, one('"F32"', "[9223372036854775807]", "[0,4]"), "abcd")
    refused({"shape of tensor 'a' has"}, one('"F32"', "[18446744073709551615]", "[0,4]"), "abcd")
    refused({"no pair of offsets"}, one('"F32"', "[1]", "[0]"), "abcd")
    refused({"no pair of offsets"}, one('"F32"', "[1]", "[0,4.0]"), "abcd")
    refused({"from 4 to 0"}, one('"F32"', "[1]", "[4,0]"), "abcd")
    refused({"from 0 to 8"}, one('"F32"', "[2]", "[0,8]"), "abcd")
    refused({"from -4 to 0"}, one('"F32"', "[1]", "[-4,0]"), "abcd")
    refused({"has 4 bytes, but its shape wants 8"}, one('"F32"', "[2]", "[0,4]"), "abcd")
    refused({"unknown field 'more'"}, one('"F32"', "[1]", "[0,4]", ',"more":1'), "abcd")
    refused({"a name twice"}, one('"F32"', "[1]", "[0,4]", ',"shape":[1]'), "abcd")
    local F32 = '"F32"'
    refused({"a name twice"}, ('{"a":%s,"a":%s}'):format(tensor(F32, "[1]", "[0,4]"), tensor(F32, "[1]", "[0,4]")),
      "abcd")
    refused({"a name twice"}, ('{"a":%s,"\\u0061" : %s}'):format(tensor(F32, "[1]", "[0,4]"),
      tensor(F32, "[1]", "[0,4]")), "abcd")
    refused({"'b' overlaps"}, ('{"a":%s,"b":%s}'):format(tensor(F32, "[2]", "[0,8]"),
      tensor(F32, "[2]", "[4,12]")), "abcdabcdabcd")
    refused({"gap before tensor 'b'"}, ('{"a":%s,"b":%s}'):format(tensor(F32, "[1]", "[0,4]"),
      tensor(F32, "[1]", "[8,12]")), "abcdabcdabcd")
    refused({"gap before tensor 'a'"}, one(F32, "[1]", "[4,8]"), "abcdabcd")
    refused({"4 bytes follow"}, one(F32, "[1]", "[0,4]"), "abcdabcd")
    files.refused("protocol", {"2^63"}, safetensors.decode, ("\xff"):rep(8) .. "{}")
    files.refused("protocol", {"100000001 bytes"}, safetensors.decode, ("<I8"):pack(100000001) .. "{}")
    files.refused("protocol", {"cut off in its header"}, safetensors.decode, ("<I8"):pack(3) .. "{}")
    local name = ("x"):rep(10000) .. "\n"
    local err = files.refused("protocol", {"xxx..."}, safetensors.decode,
      made(('{"%s\\n":1}'):format(name:sub(1, -2))))
    assert.is_true(#err.message < 300 and not err.message:find("\n"))
  end)

  it("takes names with quotes, backslashes and colons", function()
    for _, name in ipairs{'"', '\\', '\\"', ':', '": ', 'a":{', "\n", "", "😀"} do
      local bytes = safetensors.encode({{name = name, array = array.float32{1}}}, {[name] = name .. '": {'})
      local file = safetensors.decode(bytes)
      assert.same({name}, file.names)
      assert.equal(name .. '": {', file.metadata[name])
    end
  end)

  it("says which file cannot be read", function()
    files.refused("storage", {"/nowhere"}, safetensors.read, "/nowhere/at/all")
    files.refused("storage", {"/tmp"}, safetensors.read, "/tmp")
    files.write(path, "")
    files.refused("protocol", {path, "0 bytes"}, safetensors.read, path)
  end)
end)

describe("Python's safetensors", function()
  local path, back
  before_each(function() path, back = os.tmpname(), os.tmpname() end)
  after_each(function()
    os.remove(path)
    os.remove(back)
  end)

  it("reads what is written here, and writes the same bytes", function()
    local tensors = {}
    for i, dtype in ipairs{"bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64",
      "int64", "uint64"} do
      tensors[#tensors + 1] = {name = "v." .. dtype, array = array.new(dtype, {dtype == "bool" or i,
        dtype ~= "bool" and 100 or false})}
      tensors[#tensors + 1] = {name = "m." .. dtype, array = array.matrix(dtype, array.fill(dtype, 6), 2)}
    end
    safetensors.write(path, tensors, {made_by = "é\n\""})
    local said = files.python([[
import sys
from safetensors import safe_open
from safetensors.numpy import load_file, save
path, back = sys.argv[1:]
tensors = load_file(path)
for name, values in sorted(tensors.items()):
    print(name, values.dtype, values.tolist())
with safe_open(path, "np") as file:
    metadata = file.metadata()
print(repr(metadata))
print(save(tensors, metadata) == open(path, "rb").read())
]], path, back)
    assert.truthy(said:find("v.bool bool [True, False]", 1, true), said)
    assert.truthy(said:find("v.int64 int64 [10, 100]", 1, true), said)
    assert.truthy(said:find("m.float32 float32 [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]", 1, true), said)
    assert.truthy(said:find("{'made_by': 'é\\n\"'}\nTrue\n", 1, true), said)
  end)

  it("writes what is read here", function()
    files.python([[
import sys
import numpy as np
from safetensors.numpy import save_file
rng = np.random.default_rng(5)
half = rng.standard_normal(1000).astype(np.float16)
half[:4] = [np.inf, -np.inf, 6e-8, -0.0]
save_file({"half": half.reshape(10, 100), "same": half.astype(np.float32).reshape(10, 100),
           "long": np.arange(-2, 3, dtype=np.int64), "deep": np.arange(8, dtype=np.uint8).reshape(2, 2, 2),
           "scalar": np.array(0.1)}, sys.argv[1], metadata={"a": "b"})
]], path)
    local file = safetensors.read(path)
    assert.equal(file.tensors.same:bytes(), file.tensors.half:bytes())
    assert.same({10, 100}, file.tensors.half.shape)
    assert.same({-2, -1, 0, 1, 2}, file.tensors.long:table())
    assert.same({0, 1, 2, 3, 4, 5, 6, 7}, file.tensors.deep:table())
    assert.same({2, 2, 2}, file.shapes.deep)
    assert.same({0.1}, file.tensors.scalar:table())
    assert.same({a = "b"}, file.metadata)
  end)
end)
