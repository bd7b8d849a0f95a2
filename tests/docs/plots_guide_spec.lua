--- docs/plots.md: its blocks run (see support.lua), and its pictures are what they draw.

local docs = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")

docs.describe_blocks({describe = describe, it = it}, "docs/plots.md")

describe("docs/plots.md", function()
  local text = docs.read_file("docs/plots.md")

  -- The chart that the first block draws.
  local function first_chart()
    local block = text:match("```lua\n(.-chart:print%(%))")
    return assert(load(block:gsub("chart:print%(%)", "return chart")))()
  end

  it("shows the picture of its first block", function()
    local picture = first_chart():svg()
    assert.is_true(picture == docs.read_file("docs/plots.svg"), "docs/plots.svg is not what the block draws; "
      .. "its chart:save(\"docs/plots.svg\") makes it anew")
  end)

  it("shows the text of its first block", function()
    local drawn = first_chart():terminal{width = 63, height = 7, color = false, unicode = true}
    assert.equal(drawn, text:match("\n```text\n(.-)\n```\n"))
  end)

  it("speaks of every option and method", function()
    local _, err = pcall(require("riverlua.plot").line, {zzzzzz = 1})
    for name in err.message:match("known: (.*)$"):gmatch("[%w_]+") do
      assert.truthy(text:find("`" .. name, 1, true) or text:find(name .. " =", 1, true), name .. " is not described")
    end
    for _, method in ipairs{"print", "terminal", "svg", "html", "save"} do
      assert.truthy(text:find("chart:" .. method, 1, true), method .. " is not described")
    end
  end)
end)
