--- Verdicts on random schemas and values are those of Python's jsonschema.

local json = require "riverlua.json"
local schema = require "riverlua.schema"

local FOLDER = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local PYTHON = os.getenv("RIVERLUA_TEST_PYTHON") or "build/venv/bin/python"
local SEED = os.getenv("RIVERLUA_TEST_SEED") or "20"

local function verdicts(seed, schemas, values)
  local pipe = assert(io.popen(("%s %sverdicts.py %s %d %d"):format(PYTHON, FOLDER, seed, schemas, values)))
  local list = {}
  for line in pipe:lines() do list[#list + 1] = json.decode(line) end
  assert(pipe:close())
  return list
end

describe("Python's jsonschema and riverlua.schema", function()
  it("agree on random schemas and values", function()
    local valid, invalid = 0, 0
    for _, case in ipairs(verdicts(SEED, 800, 8)) do
      local validator = schema.compile(case.schema, {decoded = true})
      for _, pair in ipairs(case.values) do
        local ok, problems = validator:validate(pair[1])
        if pair[2] ~= ok or ok ~= (#problems == 0) then
          error("Python says otherwise of " .. json.encode({case.schema, pair[1]}, {sort = true}))
        end
        if ok then valid = valid + 1 else invalid = invalid + 1 end
      end
    end
    assert.is_true(valid > 1000 and invalid > 1000, ("%d valid, %d invalid"):format(valid, invalid))
  end)

  it("agree on what is made up", function()
    local made, total = 0, 0
    for _, case in ipairs(verdicts(SEED, 300, 0)) do
      local ok, value = pcall(schema.sample, case.schema, {decoded = true})
      total = total + 1
      if ok then
        made = made + 1
        local fits, problems = schema.validate(case.schema, value)
        if not fits then error(json.encode(case.schema, {sort = true}) .. "\n" .. schema.describe(problems)) end
      else
        assert.equal("unsupported", value.kind, tostring(value))
      end
    end
    -- the others are schemas that nothing fits, for the most part
    assert.is_true(made > total // 2, ("%d of %d"):format(made, total))
  end)
end)
