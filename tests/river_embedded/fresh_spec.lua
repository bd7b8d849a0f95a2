-- The recorded files are what the Python packages give today.

local support = dofile("tests/river_embedded/support.lua")

local PYTHON = dofile("tests/support/python.lua").command

local function has(packages)
  return (os.execute(("%s -c 'import %s' >/dev/null 2>&1"):format(PYTHON, packages)))
end

local function output_of(command)
  local pipe = assert(io.popen(command .. " 2>/dev/null"))
  local text = pipe:read("a")
  assert(pipe:close())
  return text
end

describe("the recorded", function()
  it("reference values are those of the library", function()
    if not has("river") then return pending("needs the Python library river") end
    local recorded = support.reference()
    assert.equal("0.26.1", recorded.river)
    local text = output_of(PYTHON .. " tests/river_embedded/record.py")
    local fresh = require("riverlua.json").decode(text)
    -- The last bits of exp and pow belong to the C library of the machine.
    local compared = support.comparison()
    local function compare(ours, theirs, path)
      assert.equal(type(theirs), type(ours), path)
      if type(theirs) == "table" then
        for key in pairs(ours) do assert.is_not_nil(theirs[key], path .. "." .. key) end
        for key, value in pairs(theirs) do compare(ours[key], value, path .. "." .. key) end
      elseif type(theirs) == "number" then
        compared.add(ours, theirs, path)
      else
        assert.equal(theirs, ours, path)
      end
    end
    compare(recorded, fresh, "$")
  end)

  it("answers are those of the server", function()
    if not has("river, django_river_ml") then return pending("needs the Python package django-river-ml") end
    assert.equal(support.read_file("tests/river_embedded/answers.json"),
      output_of(PYTHON .. " tests/river_embedded/record_answers.py"))
  end)

  it("samples in examples/data are the library's", function()
    if not has("river") then return pending("needs the Python library river") end
    local text = output_of(PYTHON .. [[ -c '
import gzip, os, river, sys
path = os.path.join(os.path.dirname(river.__file__), "datasets", "trump_approval.csv.gz")
sys.stdout.write(gzip.open(path, "rt").read())']])
    assert.equal(text, support.read_file("examples/data/trump_approval.csv"))
  end)
end)
