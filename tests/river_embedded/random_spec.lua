-- The embedded generator draws what Python's does, number by number.

local json = require "riverlua.json"
local random = require "river.embedded.random"

local PYTHON = dofile("tests/support/python.lua").command

-- One line of JSON per seed, floats as text that keeps every bit.
local PROGRAM = [[
import json, random, sys
from river.utils.random import poisson

letters = list("abcdefghijklmnopqrstuvwxyz")
for seed in json.loads(sys.argv[1]):
    rng = random.Random(seed)
    out = {"random": [rng.random().hex() for _ in range(2000)]}
    out["bits"] = [rng.getrandbits(k) for k in list(range(1, 63)) * 3]
    out["below"] = [rng._randbelow(n) for n in (1, 2, 3, 7, 8, 1000, 2**31, 2**32, 2**40 + 3)]
    out["range"] = [rng.randrange(10), rng.randrange(-5, 5), rng.randrange(0, 100, 7), rng.randrange(9, -9, -4),
                    rng.randint(1, 6), rng.randint(0, 9223372036854775806)]
    out["uniform"] = [rng.uniform(-3, 8.5).hex() for _ in range(20)]
    out["choice"] = [rng.choice(letters) for _ in range(20)]
    out["choices"] = (rng.choices(letters, k=9) + rng.choices("abc", [1, 0.5, 3], k=9))
    out["sample"] = [rng.sample(letters, k) for k in (0, 1, 3, 5, 6, 20, 26)] + [rng.sample(letters * 20, 6)]
    few = letters[:]
    rng.shuffle(few)
    out["shuffle"] = few
    out["gauss"] = [rng.gauss(1, 2).hex() for _ in range(21)] + [rng.gauss().hex()]
    out["poisson"] = [poisson(rate, rng) for rate in (0.1, 1, 6, 30) * 20]
    out["after"] = rng.random().hex()
    print(json.dumps(out))
]]

local function letters(text)
  local list = {}
  for letter in text:gmatch(".") do list[#list + 1] = letter end
  return list
end

local ALPHABET = letters("abcdefghijklmnopqrstuvwxyz")

local function collect(count, draw)
  local out = {}
  for i = 1, count do out[i] = draw(i) end
  return out
end

-- What PROGRAM does.
local function ours(seed)
  local rng = random.new(seed)
  local out = {random = collect(2000, function() return rng:random() end)}
  out.bits = collect(186, function(i) return rng:getrandbits((i - 1) % 62 + 1) end)
  out.below = {}
  for i, n in ipairs{1, 2, 3, 7, 8, 1000, 1 << 31, 1 << 32, (1 << 40) + 3} do out.below[i] = rng:randbelow(n) end
  out.range = {rng:randrange(10), rng:randrange(-5, 5), rng:randrange(0, 100, 7), rng:randrange(9, -9, -4),
    rng:randint(1, 6), rng:randint(0, math.maxinteger - 1)}
  out.uniform = collect(20, function() return rng:uniform(-3, 8.5) end)
  out.choice = collect(20, function() return rng:choice(ALPHABET) end)
  out.choices = rng:choices(ALPHABET, nil, 9)
  for _, letter in ipairs(rng:choices(letters("abc"), {1, 0.5, 3}, 9)) do table.insert(out.choices, letter) end
  out.sample = {}
  for i, k in ipairs{0, 1, 3, 5, 6, 20, 26} do out.sample[i] = rng:sample(ALPHABET, k) end
  out.sample[8] = rng:sample(letters(table.concat(ALPHABET):rep(20)), 6)
  out.shuffle = table.move(ALPHABET, 1, 26, 1, {})
  rng:shuffle(out.shuffle)
  out.gauss = collect(21, function() return rng:gauss(1, 2) end)
  out.gauss[22] = rng:gauss()
  local rates = {0.1, 1, 6, 30}
  out.poisson = collect(80, function(i) return rng:poisson(rates[(i - 1) % 4 + 1]) end)
  out.after = rng:random()
  return out
end

-- Python writes floats as hexadecimal text.
local function assert_same(expected, given, path)
  if type(expected) == "table" then
    assert.equal(#expected, #given, path)
    for key, value in pairs(expected) do assert_same(value, given[key], path .. "." .. key) end
  elseif type(given) == "number" and type(expected) == "string" then
    assert.equal(tonumber(expected), given, path)
  else
    assert.equal(expected, given, path)
  end
end

describe("the generator", function()
  it("draws what Python's draws from the same seed", function()
    if not os.execute(PYTHON .. " -c 'import river' >/dev/null 2>&1") then
      return pending("needs the Python library river")
    end
    local seeds = {0, 1, 42, -7, 2 ^ 31 | 0, 0xffffffff, 1 << 32, 1234567890123456789, math.maxinteger}
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    file:write(PROGRAM)
    file:close()
    local pipe = assert(io.popen(("%s %s '%s'"):format(PYTHON, path, json.encode(seeds))))
    local count = 0
    for line in pipe:lines() do
      count = count + 1
      assert_same(json.decode(line), ours(seeds[count]), "seed " .. seeds[count])
    end
    pipe:close()
    os.remove(path)
    assert.equal(#seeds, count)
  end)

  it("draws the recorded numbers", function()
    assert.equal(0.6394267984578837, random.new(42):random())
    assert.equal(0.13436424411240122, random.new(true):random())
    assert.equal(0.8444218515250481, random.new(0):random())
  end)

  it("without a seed differs from the next one", function()
    assert.not_equal(random.new():random(), random.new():random())
  end)

  it("refuses what Python refuses", function()
    local rng = random.new(1)
    local function refusal(...)
      local ok, failure = pcall(...)
      assert.is_false(ok)
      return tostring(failure)
    end
    assert.truthy(refusal(random.new, "x"):find("TypeError", 1, true))
    assert.truthy(refusal(random.new, 1.5):find("TypeError", 1, true))
    assert.equal("ValueError('empty range for randrange() (0, 0, 0)')", refusal(rng.randrange, rng, 0))
    assert.equal("ValueError('zero step for randrange()')", refusal(rng.randrange, rng, 0, 3, 0))
    assert.equal("IndexError('Cannot choose from an empty sequence')", refusal(rng.choice, rng, {}))
    assert.equal("ValueError('Sample larger than population or is negative')", refusal(rng.sample, rng, {1}, 2))
    assert.equal("ValueError('Total of weights must be greater than zero')", refusal(rng.choices, rng, {1}, {0}))
  end)
end)
