-- Agreement with NumPy and the official codec, both ways, on random values.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(here .. "support.lua")
local python = dofile(here .. "../support/python.lua")
local array = require "riverlua.array"
local json = require "riverlua.json"
local nest = require "training.nest"

local function run(what, name)
  assert.is_true(os.execute(("%s %sagreement.py %s %s"):format(python.command, here, what, name)))
end

local function flat(value, list)
  for _, item in ipairs(value) do
    if array.is(item) then flat(item, list)
    elseif item ~= item or item == 1 / 0 or item == -1 / 0 then list[#list + 1] = json.null
    else list[#list + 1] = item end
  end
  return list
end

-- As agreement.py does it.
local function describe_value(value)
  if type(value) == "string" then return {str = value} end
  if array.is(value) then
    return {array = json.array(flat(value, {})), dtype = value.dtype, shape = json.array(value.shape)}
  end
  local list, keys = json.array{}, nest.keys(value)
  if keys then
    for i, key in ipairs(keys) do list[i] = {key, describe_value(value[key])} end
    return {dict = list}
  end
  for i, item in ipairs(value) do list[i] = describe_value(item) end
  return {list = list}
end

local RANGES = {int8 = 8, int16 = 16, int32 = 32, int64 = 64}

local function random_array()
  local n = math.random(0, 70)
  local dtype = ({"int8", "int16", "int32", "int64", "bool", "float32", "float64"})[math.random(7)]
  local list = {}
  for i = 1, n do
    if dtype == "bool" then list[i] = math.random(2) == 1
    elseif RANGES[dtype] then list[i] = (math.random(0) >> (64 - RANGES[dtype])) - (1 << (RANGES[dtype] - 1))
    else list[i] = math.random() * 2 ^ math.random(-100, 100) end
  end
  local made = array.new(dtype, list)
  return n > 0 and n % 3 == 0 and array.matrix(dtype, made, 3) or made
end

local function random_value(depth)
  local kind = math.random(depth > 0 and 5 or 3)
  if kind <= 2 then return random_array() end
  if kind == 3 then return ("aé€😀"):rep(math.random(0, 9)) end
  local value = kind == 4 and {} or nest.dict()
  for i = 1, math.random(0, 4) do
    value[kind == 4 and i or "k" .. math.random(1000)] = random_value(depth - 1)
  end
  return value
end

describe("NumPy and the official codec", function()
  local name

  before_each(function() name = os.tmpname() end)
  after_each(function() os.remove(name) end)

  it("write what Lua reads, and writes again", function()
    run("make", name)
    local count = 0
    for line in io.lines(name) do
      local hex, text = line:match("^(%x+) (.*)$")
      local value = nest.decode(support.from_hex(hex))
      assert.same(json.decode(text, {bigint = "string"}), json.decode(json.encode(describe_value(value))))
      assert.equal(hex, support.to_hex(nest.encode(value)))
      count = count + 1
    end
    assert.equal(400, count)
  end)

  it("read what Lua writes", function()
    local file = assert(io.open(name, "wb"))
    for _ = 1, 300 do
      local value = random_value(3)
      file:write(support.to_hex(nest.encode(value)), " ", json.encode(describe_value(value)), "\n")
    end
    file:close()
    run("check", name)
  end)
end)
