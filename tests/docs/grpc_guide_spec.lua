--- docs/grpc.md: its blocks run (see support.lua), and its tables name what there is.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
local docs = dofile(folder .. "support.lua")
local error_of = dofile(folder .. "../support/servers.lua").error_of
local grpc = require "riverlua.grpc"

docs.describe_blocks({describe = describe, it = it}, "docs/grpc.md")

describe("docs/grpc.md", function()
  local text = docs.read_file("docs/grpc.md")

  local function each_option(fn, ...)
    local err = error_of(fn, ...)
    local options = 0
    for name in err.message:match("known: (.*)$"):gmatch("[%w_]+") do
      assert.truthy(text:find("`" .. name .. "`", 1, true), name .. " is not described")
      options = options + 1
    end
    return options
  end

  it("describes every option and every call", function()
    local channel <close> = grpc.Channel{target = "x"}
    assert.equal(13, each_option(grpc.Channel, {zzzzzzzzzz = 1}))
    assert.equal(7, each_option(channel.unary, channel, "/a/b", "", {zzzzzzzzzz = 1}))
    for name, value in pairs(getmetatable(channel)) do
      if type(value) == "function" and not name:find("^_") then
        assert.truthy(text:find("`channel:" .. name .. "(", 1, true), name .. " is not described")
      end
    end
  end)
end)
