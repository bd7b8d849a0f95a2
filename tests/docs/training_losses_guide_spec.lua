--- docs/training_losses.md: its blocks run (see support.lua), and its tables name what there is.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
local docs = dofile(folder .. "support.lua")
local error_of = dofile(folder .. "../support/servers.lua").error_of
local console = require "training.console"
local ops = require "training.loss_ops"

docs.describe_blocks({describe = describe, it = it}, "docs/training_losses.md")

describe("docs/training_losses.md", function()
  local text = docs.read_file("docs/training_losses.md")

  it("describes every operation", function()
    local count = 0
    for name in pairs(ops.functions) do
      count = count + 1
      assert.truthy(text:find("`" .. name .. "`", 1, true) or text:find(":" .. name .. "(", 1, true)
        or text:find("`" .. name .. "(", 1, true), name .. " is not described")
    end
    assert.equal(28, count)
  end)

  it("describes every option and call of the console", function()
    local err = error_of(console.open, {zzzzzzzzzz = 1})
    for name in err.message:match("known: (.*)$"):gmatch("[%w_]+") do
      assert.truthy(text:find("`" .. name .. "`", 1, true), name .. " is not described")
    end
    local metrics <close> = console.open{run_id = "r", api_key = "k"}
    for name, value in pairs(getmetatable(metrics)) do
      if type(value) == "function" and not name:find("^_") then
        assert.truthy(text:find("`metrics:" .. name .. "(", 1, true), name .. " is not described")
      end
    end
  end)
end)
