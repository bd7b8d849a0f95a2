--- README.md and docs/river.md: their blocks run (see support.lua), and what they list is compared with what there is.

local docs = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")

for _, path in ipairs{"README.md", "docs/river.md"} do docs.describe_blocks({describe = describe, it = it}, path) end

describe("docs/river.md", function()
  local text = docs.read_file("docs/river.md")

  it("lists the classes of the embedded service", function()
    local listed = {}
    for package_name, row in text:gmatch("\n| `(river%.[%w_.]+)` | (`[^\n]*`) |") do
      for class in row:gmatch("`([%w_]+)`") do listed[#listed + 1] = package_name .. "." .. class end
    end
    table.sort(listed)
    local known = {}
    for _, name in ipairs(require("river.embedded").classes()) do
      if name:find("^river%.") then known[#known + 1] = name end
    end
    table.sort(known)
    assert.same(known, listed)
  end)

  it("describes every flag of riverlua serve river", function()
    local help, ok = docs.output_of(docs.interpreter .. " serve river --help")
    assert.truthy(ok)
    local section = text:match("\n## 13%.(.-)\n## ")
    local count = 0
    for flag in help:gmatch("\n%s+(%-%-%l+)") do
      count = count + 1
      assert.truthy(section:find("`" .. flag .. "`", 1, true), flag .. " is not described")
    end
    assert.truthy(count >= 8)
  end)

  it("speaks of every method of the client", function()
    for name, value in pairs(getmetatable(require("river").Client("embedded:"))) do
      if type(value) == "function" and not name:find("^_") and name ~= "new" then
        assert.truthy(text:find(name, 1, true), name .. " is not described")
      end
    end
  end)

  docs.describe_links({it = it}, "docs/river.md", 11)
end)
