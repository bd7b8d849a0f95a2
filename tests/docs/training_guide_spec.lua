--- docs/training.md: its blocks run on the embedded trainer, that about images on the stand-in, and it speaks of all
-- that there is.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
local docs = dofile(folder .. "support.lua")
local standin = dofile(folder .. "../support/training.lua")

local server

local function environment_of(text)
  if text:find("upload_image", 1, true) then
    return {RIVER_API_KEY = "rv-0123456789", RIVER_ENDPOINT = server.target}
  end
  return {RIVER_ENDPOINT = "embedded:runs"}
end

describe("docs/training.md", function()
  setup(function() server = standin.start{seed = 1} end)
  teardown(function() server:close() end)

  docs.describe_blocks({describe = describe, it = it}, "docs/training.md", environment_of)

  local text = docs.read_file("docs/training.md")

  it("speaks of every option of the client", function()
    local ok, err = pcall(require("training").Client, {api_key = "k", zzzzzzzz = 1})
    assert.is_false(ok)
    local count = 0
    for name in err.message:match("known: (.*)$"):gmatch("[%w_]+") do
      count = count + 1
      assert.truthy(text:find("`" .. name, 1, true) or text:find(name .. " =", 1, true), name .. " is not described")
    end
    assert.truthy(count > 15)
  end)

  it("speaks of every method", function()
    for _, module in ipairs{"client", "session", "model"} do
      local count, doc = 0, nil
      for line in io.lines(("lua/training/%s.lua"):format(module)) do
        local name = line:match("^function %u%l+:([%l_]+)")
        if name and doc and not doc:find("^%-%-%- Internal") and not name:find("^_") then
          count = count + 1
          assert.truthy(text:find(name, 1, true), ("%s:%s is not described"):format(module, name))
        end
        doc = line:find("^%-%-%-") and (doc or line) or nil
      end
      assert.truthy(count > 3, module)
    end
  end)

  it("speaks of every option and method of a run", function()
    local training = require "training"
    local _, err = pcall(training.Run, {zzzzzzzz = 1})
    local about = text:match("## 8%.(.-)\n## ")
    for name in err.message:match("known: (.*)$"):gmatch("[%w_]+") do
      assert.truthy(about:find("`" .. name .. "`", 1, true), name .. " is not described")
    end
    for name in docs.read_file("lua/training/run.lua"):gmatch("\nfunction Run:([%l_]+)") do
      if not name:find("^_") and name ~= "close" then
        assert.truthy(about:find(":" .. name, 1, true), name .. " is not described")
      end
    end
  end)

  docs.describe_links({it = it}, "docs/training.md", 10)
end)
