-- Functions of the C library, as Python has them, bit for bit.

local core = require "riverlua.core.math"

local PYTHON = dofile("tests/support/python.lua").command

-- Per line: x, y and the results, as hexadecimal text.
local PROGRAM = [[
import math, random
rng = random.Random(3)
for i in range(2000):
    x, y = rng.gauss(0, 1) * 10 ** rng.uniform(-8, 1), rng.uniform(-3, 3)
    a = abs(x)
    values = [x, a, y, math.pow(a, y), math.pow(x, 2.0), math.erf(x)]
    print(*[value.hex() for value in values])
]]

describe("riverlua.core.math", function()
  it("computes what Python's math does", function()
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    file:write(PROGRAM)
    file:close()
    local count = 0
    for line in assert(io.popen(PYTHON .. " " .. path)):lines() do
      local v = {}
      for word in line:gmatch("%S+") do v[#v + 1] = tonumber(word) end
      local x, a, y = v[1], v[2], v[3]
      local ours = {core.pow(a, y), core.pow(x, 2), core.erf(x)}
      for i = 1, 3 do assert.equal(v[i + 3], ours[i], line) end
      count = count + 1
    end
    os.remove(path)
    assert.equal(2000, count)
  end)

  it("refuses what is no number", function()
    for _, name in ipairs{"erf", "pow"} do
      assert.is_false((pcall(core[name], "x", "y")))
      assert.is_false((pcall(core[name])))
    end
  end)
end)
