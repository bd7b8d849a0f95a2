--- docs/protobuf.md: its blocks run (see support.lua), and its tables name what there is.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
local docs = dofile(folder .. "support.lua")
local protobuf = require "riverlua.protobuf"

docs.describe_blocks({describe = describe, it = it}, "docs/protobuf.md")

describe("docs/protobuf.md", function()
  local text = docs.read_file("docs/protobuf.md")

  it("describes every call", function()
    for name in pairs(protobuf) do
      assert.truthy(text:find("protobuf." .. name, 1, true), name .. " is not described")
    end
    for name, value in pairs(getmetatable(protobuf.training)) do
      if type(value) == "function" and not name:find("^_") then
        assert.truthy(text:find("`schema:" .. name .. "(", 1, true), name .. " is not described")
      end
    end
  end)
end)
