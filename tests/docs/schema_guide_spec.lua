--- What docs/schema.md says is tried: every block of Lua runs and prints what its comments `--> …` promise, and the
-- options and formats it lists are those of the module.

local INTERPRETER = os.getenv("RIVERLUA") or "build/riverlua"
local GUIDE = "docs/schema.md"

local function read_file(path)
  local file <close> = assert(io.open(path, "rb"))
  return file:read("a")
end

-- The output of a script, with its errors.
local function output_of(script)
  local path = os.tmpname()
  local file = assert(io.open(path, "wb"))
  file:write(script)
  file:close()
  local pipe = assert(io.popen(("'%s' --quiet '%s' 2>&1 </dev/null"):format(INTERPRETER, path)))
  local text = pipe:read("a")
  local ok = pipe:close()
  os.remove(path)
  return text, ok
end

describe(GUIDE, function()
  local text = read_file(GUIDE)

  it("has blocks of Lua that print what they say", function()
    local count = 0
    for block in text:gmatch("\n```lua\n(.-)\n```") do
      count = count + 1
      local promised = {}
      for promise in block:gmatch("%-%->%s*([^\n]*)") do promised[#promised + 1] = promise end
      local output, ok = output_of(block)
      assert.is_true(ok, output)
      assert.equal(table.concat(promised, "\n") .. "\n", (output:gsub("\t", " ")))
    end
    assert.is_true(count >= 8)
  end)

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
