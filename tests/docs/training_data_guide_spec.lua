--- docs/training_data.md: its blocks run (see support.lua), and it names what there is.

local docs = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")

docs.describe_blocks({describe = describe, it = it}, "docs/training_data.md")

describe("docs/training_data.md", function()
  local text = docs.read_file("docs/training_data.md")

  local function names_in(class, prefix)
    for name, value in pairs(class) do
      if type(value) == "function" and not name:find("^_") then
        assert(text:find(prefix .. name, 1, true), prefix .. name .. " is not described")
      end
    end
  end

  it("describes every function", function()
    local rewards, pricing = require "training.rewards", require "training.pricing"
    for name in pairs(rewards) do assert(text:find(name .. "(", 1, true), name) end
    names_in(pricing, "pricing.")
    names_in(getmetatable(pricing.meter{}), "meter:")
    local deployments = require "training.deployments"
    local list = deployments.new{base_url = "http://127.0.0.1:1", api_key = "k", client_name = "c"}
    for name in pairs(getmetatable(list)) do
      if not name:find("^_") and name ~= "close" then assert(text:find("list:" .. name, 1, true), name) end
    end
    list:close()
    local rows = require("training.datasets").from{}
    for _, name in ipairs(getmetatable(rows).__names(rows)) do
      assert(text:find("rows:" .. name, 1, true), name)
    end
    for name in pairs(require("training.hub").OPTIONS) do
      if name ~= "transport" then assert(text:find("`" .. name .. "`", 1, true), name) end
    end
  end)

  docs.describe_links({it = it}, "docs/training_data.md", 5)
end)
