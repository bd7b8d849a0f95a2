--- Agreement with Google's protobuf (by Python) on random messages of all kinds, and on what is no message.

local here = debug.getinfo(1, "S").source:match("^@(.*/)")
local support = dofile(here .. "support.lua")
local json = require "riverlua.json"
local protobuf = require "riverlua.protobuf"

local COUNT = 5000

local function lines_of(text)
  local list = {}
  for line in text:gmatch("[^\n]+") do list[#list + 1] = line end
  return list
end

describe("protobuf and Google's protobuf", function()
  local path, remove
  before_each(function() path, remove = support.new_folder() end)
  after_each(function() remove() end)

  local function hex_or_dash(bytes) return bytes == "" and "-" or support.to_hex(bytes) end

  it("agree on thousands of messages that Python made, value by value, and byte by byte on the way back", function()
    support.python(("make 6 %d %s"):format(COUNT, support.quote(path)))
    local out, count = {}, 0
    for line in io.lines(path .. "/messages") do
      local name, hex, dump = line:match("^(%S+) (%S+) (%S+)$")
      local T = support.type_of(name)
      local bytes = hex == "-" and "" or support.from_hex(hex)
      local message = T:decode(bytes)
      local got = support.dump(message)
      if got ~= dump then assert.equal(dump, got, ("message %d, %s: %s"):format(count + 1, name, hex)) end
      local again = T:encode(message)
      assert(support.dump(T:decode(again)) == dump, "it differs the second time")
      out[#out + 1] = ("%s %s %s\n"):format(name, hex, hex_or_dash(again))
      count = count + 1
    end
    assert.equal(COUNT, count)
    support.write(path .. "/lines", table.concat(out))
    assert.equal("", support.python("check " .. support.quote(path)))
  end)

  it("agree on which damaged messages are messages, and on what these say", function()
    support.python(("make 7 300 %s"):format(support.quote(path)))
    math.randomseed(7)
    local lines, mine = {}, {}
    local function try(name, bytes)
      lines[#lines + 1] = name .. " " .. hex_or_dash(bytes) .. "\n"
      local ok, message = pcall(support.type_of(name).decode, support.type_of(name), bytes)
      if not ok then assert(message.kind == "protocol", tostring(message)) end
      mine[#mine + 1] = ok and support.dump(message) or tostring(message)
    end
    for line in io.lines(path .. "/messages") do
      local name, hex = line:match("^(%S+) (%S+)")
      local bytes = hex == "-" and "" or support.from_hex(hex)
      -- everything2 has closed enums and texts that may be anything, where this library has one rule for all
      if name ~= "test.v2.Everything" and #bytes > 0 and #bytes < 4000 then
        for _ = 1, 6 do
          local at = math.random(#bytes)
          local changed = string.char(bytes:byte(at) ~ 1 << math.random(0, 7))
          try(name, bytes:sub(1, at - 1) .. changed .. bytes:sub(at + 1))
          try(name, bytes:sub(1, at - 1))
          try(name, bytes:sub(at))
        end
      end
    end
    support.write(path .. "/lines", table.concat(lines))
    local theirs = lines_of(support.python("dump " .. support.quote(path)))
    assert.equal(#mine, #theirs)
    local messages, refused, groups = 0, 0, 0
    for i, want in ipairs(theirs) do
      if mine[i]:find("a group", 1, true) then
        groups = groups + 1   -- which this library refuses
      elseif want == "-" then
        refused = refused + 1
        assert(mine[i]:find("^protocol"), ("Python refuses line %d: %s"):format(i, lines[i]))
      else
        messages = messages + 1
        if mine[i] ~= want and want ~= "odd" then assert.equal(want, mine[i], ("line %d: %s"):format(i, lines[i])) end
      end
    end
    assert(messages > 500 and refused > 500 and groups > 0, ("%d, %d, %d"):format(messages, refused, groups))
  end)

  it("agree on how deep messages may be nested", function()
    local T = support.type_of("test.v3.Everything")
    local lines, mine = {}, {}
    for depth = 97, 103 do
      local bytes = ""
      for _ = 1, depth do bytes = "\x9a\1" .. ("s4"):pack(bytes):gsub("^....", support.varint(#bytes)) end
      lines[#lines + 1] = T.name .. " " .. support.to_hex(bytes) .. "\n"
      mine[#mine + 1] = tostring(pcall(T.decode, T, bytes))
    end
    support.write(path .. "/lines", table.concat(lines))
    local theirs = lines_of(support.python("dump " .. support.quote(path)))
    for i, want in ipairs(theirs) do assert.equal(tostring(want ~= "-"), mine[i], "depth " .. i + 96) end
    assert.equal("true", mine[1])
    assert.equal("false", mine[7])
  end)

  it("agree on every request that the official client was seen to send", function()
    local methods = protobuf.training:service("river.api.v1.RiverService").methods
    local out, count = {}, 0
    for line in io.lines(here .. "../training/vectors/training_requests.jsonl") do
      for _, call in ipairs(json.decode(line).calls) do
        if call.request_hex then   -- the others are HTTP
          local T = methods[call.method].request
          local bytes = support.from_hex(call.request_hex)
          local again = T:encode(T:decode(bytes))
          out[#out + 1] = ("%s %s %s\n"):format(T.name, hex_or_dash(bytes), hex_or_dash(again))
          assert.equal(methods[call.method].path, call.path)
          count = count + 1
        end
      end
    end
    assert(count > 80, count)
    support.write(path .. "/lines", table.concat(out))
    assert.equal("", support.python("check " .. support.quote(path)))
  end)
end)
