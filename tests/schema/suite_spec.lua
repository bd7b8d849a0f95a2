--- The official JSON Schema test suite, draft 2020-12: every file is passed, the optional ones too, without exception.
--
-- The files are not part of this repository: `make test-deps` takes them out of the source package of Python's
-- jsonschema, into build/json-schema (or the folder that RIVERLUA_JSONSCHEMA names).

local json = require "riverlua.json"
local schema = require "riverlua.schema"

local FOLDER = os.getenv("RIVERLUA_JSONSCHEMA") or "build/json-schema"

local function lines_of(command)
  local lines = {}
  local pipe = assert(io.popen(command .. " 2>/dev/null"))
  for line in pipe:lines() do lines[#lines + 1] = line end
  pipe:close()
  return lines
end

local function read(path)
  local file <close> = assert(io.open(path, "rb"))
  return file:read("a")
end

local function files_of(folder)
  return lines_of(("cd '%s/%s' && find . -name '*.json' | sed 's|^./||' | LC_ALL=C sort"):format(FOLDER, folder))
end

local function load_remotes()
  local remotes = {}
  for _, path in ipairs(files_of("remotes")) do
    remotes["http://localhost:1234/" .. path] = json.decode(read(FOLDER .. "/remotes/" .. path))
  end
  return remotes
end

-- How many tests of a file there are, and the names of those whose verdict differs.
local function run_file(path, remotes)
  local count, wrong = 0, {}
  local formats = path:find("^optional/format/") and "assertion" or "annotation"
  for _, group in ipairs(json.decode(read(FOLDER .. "/tests/draft2020-12/" .. path))) do
    local options = {schemas = remotes, decoded = true, formats = formats}
    local compiled, validator = pcall(schema.compile, group.schema, options)
    for _, test in ipairs(group.tests) do
      count = count + 1
      local ok, verdict, problems = compiled, validator, nil
      if compiled then ok, verdict, problems = pcall(validator.validate, validator, test.data) end
      if not ok or verdict ~= test.valid then
        local why = ok and "" or ": " .. tostring(verdict)
        wrong[#wrong + 1] = ("%s: %s%s"):format(group.description, test.description, why)
      elseif not verdict then
        assert.truthy(#problems > 0 and #schema.describe(problems) > 0)
      end
    end
  end
  return count, wrong
end

describe("the official JSON Schema test suite", function()
  local files = files_of("tests/draft2020-12")

  if #files == 0 then
    pending("is not installed (make test-deps)")
    return
  end

  local remotes = load_remotes()

  it("is whole", function()
    local count = 0
    for _, path in ipairs(files) do
      local groups = json.decode(read(FOLDER .. "/tests/draft2020-12/" .. path))
      for _, group in ipairs(groups) do count = count + #group.tests end
    end
    assert.is_true(#files >= 80 and count >= 1900, ("%d files, %d tests"):format(#files, count))
  end)

  for _, path in ipairs(files) do
    it("is passed in " .. path, function()
      local count, wrong = run_file(path, remotes)
      assert.is_true(count > 0)
      assert.same({}, wrong)
    end)
  end
end)
