-- The order of Python's sets, against CPython itself.

local hash_order = require "river.embedded.hash_order"
local json = require "riverlua.json"

local function reference()
  local interpreter = dofile("tests/support/python.lua").command
  local pipe = assert(io.popen(interpreter .. " tests/river_embedded/hash_order_reference.py"))
  local recorded = json.decode(pipe:read("a"))
  assert(pipe:close(), "hash_order_reference.py failed")
  return recorded
end

-- The keys of a dictionary made of these: the first of equal ones counts.
local function distinct(list)
  local seen, keys = {}, {}
  for _, key in ipairs(list) do
    if not seen[key] then
      seen[key] = true
      keys[#keys + 1] = key
    end
  end
  return keys
end

local function is(expected, found)
  assert.equal(json.encode(expected), json.encode(json.array(found)))
end

describe("Python's", function()
  local recorded = reference()

  it("hashes of numbers and strings", function()
    assert.is_true(#recorded.hashes > 30)
    for _, pair in ipairs(recorded.hashes) do
      assert.equal(pair[2], tostring(hash_order.hash(pair[1])), ("hash of %s"):format(pair[1]))
    end
  end)

  it("order of a set after additions and removals", function()
    local compared = 0
    for _, history in ipairs(recorded.histories) do
      local set = hash_order.set()
      for _, step in ipairs(history) do
        if step[1] == 1 then
          set:add(step[2])
        elseif step[1] == -1 then
          assert.is_true(set:has(step[2]))
          set:discard(step[2])
          assert.is_false(set:has(step[2]))
        else
          is(step[2], set:items())
          assert.equal(#step[2], set.used)
          compared = compared + 1
        end
      end
    end
    assert.is_true(compared > 300)
  end)

  it("order of unions, intersections and joined keys", function()
    for _, case in ipairs(recorded.combinations) do
      local a, b = hash_order.set(case.a), hash_order.set(case.b)
      is(case.union, a:union(b):items())
      is(case.both, a:intersection(b):items())
      local keys = hash_order.set_of_dict(distinct(case.a))
      for _, key in ipairs(distinct(case.b)) do keys:add(key) end
      is(case.keys, keys:items())
      if math.type(case.a[1]) == "integer" then
        is(case.keys, hash_order.united(distinct(case.a), distinct(case.b), {}))
      end
      is(case.joined, hash_order.joined(distinct(case.a), distinct(case.b)))
    end
  end)

  it("equality of 1, 1.0 and true", function()
    local set = hash_order.set{1.0, true, 0, false}
    assert.equal(2, set.used)
    assert.same({0, 1.0}, set:items())
  end)
end)
