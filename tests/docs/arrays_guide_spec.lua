--- docs/arrays.md: its blocks run (see support.lua), and it speaks of all that there is.

local docs = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")

docs.describe_blocks({describe = describe, it = it}, "docs/arrays.md")

describe("docs/arrays.md", function()
  local text = docs.read_file("docs/arrays.md")

  it("speaks of every function and method", function()
    local array = require "riverlua.array"
    for name in pairs(array) do assert.truthy(text:find(name, 1, true), name .. " is not described") end
    local one = array.int8{1}
    for _, name in ipairs{"slice", "table", "bytes", "sum", "mean", "min", "max"} do
      assert.is_function(one[name])
      assert.truthy(text:find("a:" .. name, 1, true), name .. " is not described")
    end
  end)
end)
