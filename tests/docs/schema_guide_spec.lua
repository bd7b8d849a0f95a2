--- docs/schema.md: its blocks run (see support.lua), and the options and formats it lists are those of the module.

local docs = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")

docs.describe_blocks({describe = describe, it = it}, "docs/schema.md")

describe("docs/schema.md", function()
  local text = docs.read_file("docs/schema.md")

  it("lists the formats", function()
    local listed, known = {}, {}
    for name in text:match("Formats that can be asserted: (.-)%.\n"):gmatch("[%w-]+") do listed[#listed + 1] = name end
    for name in pairs(require("riverlua.schema.formats").known) do known[#known + 1] = name end
    table.sort(listed)
    table.sort(known)
    assert.same(known, listed)
  end)

  it("lists the options", function()
    local schema = require "riverlua.schema"
    local known = select(2, pcall(schema.compile, {}, {zzzzzzzz = 1})).message:match("known: (.*)$")
    local count = 0
    for name in known:gmatch("[%w_]+") do
      count = count + 1
      assert.truthy(text:find("\n| `" .. name .. "` |", 1, true), name .. " is not described")
    end
    assert.is_true(count >= 5)
  end)
end)
