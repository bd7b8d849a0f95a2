--- protobuf.load: shared objects of protoc-c's output, and what is said of files that are none.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local errors = require "riverlua.errors"
local protobuf = require "riverlua.protobuf"
local error_of = support.error_of

describe("protobuf.load", function()
  local path, remove
  before_each(function() path, remove = support.new_folder() end)
  after_each(function() remove() end)

  local function compile(name, text, flags)
    support.write(path .. "/" .. name .. ".proto", text)
    return support.compile({name .. ".proto"}, path, path, flags)
  end

  local function refusal(...)
    local err = error_of(...)
    assert(errors.is(err, "argument"), tostring(err))
    return err
  end

  it("finds messages and services, whatever the C names are", function()
    local file = compile("names", [[
      syntax = "proto3";
      package my.HTTPPkg_x;
      message HTTPServer2Req { message InnerABC { int32 a = 1; } InnerABC inner = 1; map<int32, InnerABC> by_id = 2; }
      message M_DEFrag {}
      service S_X { rpc Do_It(M_DEFrag) returns (HTTPServer2Req.InnerABC); }
    ]])
    local schema = protobuf.load(file)
    assert.equal(file, schema.path)
    assert.equal("riverlua.protobuf.Schema(" .. file .. ")", tostring(schema))
    local T = schema:message("my.HTTPPkg_x.HTTPServer2Req")
    assert.equal("my.HTTPPkg_x.HTTPServer2Req", T.name)
    assert.equal("riverlua.protobuf.Message(my.HTTPPkg_x.HTTPServer2Req)", tostring(T))
    assert.equal(T, schema:message("my.HTTPPkg_x.HTTPServer2Req"))
    assert.equal(5, T:decode(T:encode{inner = {a = 5}, by_id = {[3] = {}}}).inner.a)
    assert.equal("my.HTTPPkg_x.HTTPServer2Req.InnerABC", schema:message("my.HTTPPkg_x.HTTPServer2Req.InnerABC").name)
    assert.same({"my.HTTPPkg_x.S_X"}, schema:services())
    local method = schema:service("my.HTTPPkg_x.S_X").methods.Do_It
    assert.equal("/my.HTTPPkg_x.S_X/Do_It", method.path)
    assert.equal("Do_It", method.name)
    assert.equal(schema:message("my.HTTPPkg_x.M_DEFrag"), method.request)
    assert.equal("my.HTTPPkg_x.HTTPServer2Req.InnerABC", method.response.name)
    assert.equal(schema:service("my.HTTPPkg_x.S_X"), schema:service("my.HTTPPkg_x.S_X"))
  end)

  it("needs no package, and may be called twice", function()
    local file = compile("bare", [[syntax = "proto2"; message Bare { optional string text = 1; }]])
    local a, b = protobuf.load(file):message("Bare"), protobuf.load(file):message("Bare")
    assert.equal("x", b:decode(a:encode{text = "x"}).text)
  end)

  it("keeps what it loaded when the schema is gone", function()
    local T = protobuf.load(compile("kept", [[syntax = "proto3"; message Kept { string text = 1; }]])):message("Kept")
    remove()
    collectgarbage()
    collectgarbage()
    assert.equal("x", T:decode(T:encode{text = "x"}).text)
  end)

  it("says which name was meant, or which there are", function()
    local schema = protobuf.load(compile("near", [[
      syntax = "proto3"; package pkg.v1; message Ping { string text = 1; } message Pong {}
      service Echo { rpc Say(Ping) returns (Pong); }
    ]]))
    local where = "'" .. schema.path .. "'"
    assert.equal(where .. " has no message 'pkg.v1.Pingg'; did you mean 'pkg.v1.Ping'?",
      refusal(schema.message, schema, "pkg.v1.Pingg").message)
    assert.equal(where .. " has no message 'Pong'; did you mean 'pkg.v1.Pong'?",
      refusal(schema.message, schema, "Pong").message)
    assert.equal(where .. " has no message 'other'; it has pkg.v1.Ping, pkg.v1.Pong",
      refusal(schema.message, schema, "other").message)
    assert.equal(where .. " has no service 'Echo'; did you mean 'pkg.v1.Echo'?",
      refusal(schema.service, schema, "Echo").message)
    assert.matches("'name' must be a string, got nothing", refusal(schema.message, schema).message)
    assert.matches("call it with a colon", refusal(schema.message, "pkg.v1.Ping").message)
  end)

  it("says what is wrong with a file", function()
    local err = refusal(protobuf.load, path .. "/none.so")
    assert.matches("none.so: cannot open shared object file", err.message)
    support.write(path .. "/text.so", ("this is no shared object, but it is long enough for the head of one; "):rep(2))
    err = refusal(protobuf.load, path .. "/text.so")
    assert.matches("invalid ELF header", err.message)
    assert.matches("cc %-shared", err.hint)
    err = refusal(protobuf.load, "libno-such-library.so")
    assert.matches("without a slash", err.hint)
    assert.matches("'path' must be a string", refusal(protobuf.load).message)
    err = refusal(protobuf.load, "libm.so.6")
    assert.matches("has no messages of protobuf%-c in it", err.message)
    err = refusal(protobuf.load, compile("hidden", [[syntax = "proto3"; message Hidden {}]], "-fvisibility=hidden"))
    assert.matches("do not hide", err.hint)
  end)

  it("looks at what it finds under the right names", function()
    support.write(path .. "/fake.c", [[
      #include <string.h>
      const char short__descriptor[4] = "abc";
      const unsigned long long other__descriptor[15] = {1, 2, 3};
      int number__descriptor = 5;
      const char *function__descriptor(void) { return "x"; }
    ]])
    support.run(("cc -shared -fPIC -o %s/libfake.so %s/fake.c"):format(path, path))
    assert.matches("has no messages", refusal(protobuf.load, path .. "/libfake.so").message)
  end)

  it("refuses messages whose names were optimised away", function()
    local err = refusal(protobuf.load, compile("small", [[
      syntax = "proto3"; option optimize_for = CODE_SIZE; message Small { string text = 1; }
      service Echo { rpc Say(Small) returns (Small); }
    ]]))
    assert.matches("CODE_SIZE", err.hint)
    support.write(path .. "/inner.proto",
      [[syntax = "proto3"; option optimize_for = CODE_SIZE; message Inner { string text = 1; }]])
    support.write(path .. "/outer.proto",
      [[syntax = "proto3"; import "inner.proto"; message Outer { Inner inner = 1; }]])
    local schema = protobuf.load(support.compile({"outer.proto", "inner.proto"}, path, path))
    assert.same({"Outer"}, schema:messages())
    assert.matches("CODE_SIZE", refusal(schema.message, schema, "Outer").hint)
  end)

  it("has the messages of the training service built in", function()
    local schema = protobuf.training
    assert.equal(schema, protobuf.training)
    assert.is_true(#schema:messages() > 80)
    assert.same({"river.api.v1.RiverService"}, schema:services())
    assert.equal("riverlua.protobuf.Schema(training)", tostring(schema))
    local methods, count = schema:service("river.api.v1.RiverService").methods, 0
    for name, method in pairs(methods) do
      assert.equal("/river.api.v1.RiverService/" .. name, method.path)
      count = count + 1
    end
    assert.equal(27, count)
    assert.is_nil(protobuf.nothing_else)
  end)
end)
