--- docs/modelriver.md: its blocks run (see support.lua), and it speaks of all that there is.

local docs = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")

docs.describe_blocks({describe = describe, it = it}, "docs/modelriver.md")

describe("docs/modelriver.md", function()
  local text = docs.read_file("docs/modelriver.md")

  it("speaks of every method of the client", function()
    for _, name in ipairs{"ai", "stream", "ai_async", "resume", "callback", "callback_error", "run", "map", "session",
      "chat.completions:create", "usage", "wait_all", "webhook.verify", "embedded.workflow", "image"} do
      assert.truthy(text:find(name, 1, true), name .. " is not described")
    end
  end)

  it("speaks of every option of the client", function()
    local ok, err = pcall(require("modelriver").Client, {base_url = "embedded:", zzzzzzzz = 1})
    assert.is_false(ok)
    local known = err.message:match("known: (.*)$")
    local count = 0
    for name in known:gmatch("[%w_]+") do
      if name ~= "transport" then
        count = count + 1
        assert.truthy(text:find("`" .. name, 1, true), name .. " is not described")
      end
    end
    assert.truthy(count > 10)
  end)

  it("describes every flag of riverlua serve modelriver", function()
    local help, ok = docs.output_of(docs.interpreter .. " serve modelriver --help")
    assert.truthy(ok)
    local count = 0
    for flag in help:gmatch("\n%s+(%-%-[%l_]+)") do
      count = count + 1
      assert.truthy(text:find(flag, 1, true), flag .. " is not described")
    end
    assert.truthy(count >= 8)
  end)

  docs.describe_links({it = it}, "docs/modelriver.md", 10)
end)
