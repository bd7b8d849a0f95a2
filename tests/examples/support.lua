--- What the specs of the examples share: an example is run as a user would run it.

local support = {}

--- The command under test.
support.interpreter = os.getenv("RIVERLUA") or "build/riverlua"

-- What would lead an example elsewhere.
local UNSET = [[-u RIVER_ML_URL -u RIVER_ML_TARGET -u MODELRIVER_API_KEY -u MODELRIVER_API_URL -u MODELRIVER_WORKFLOW
  -u MODELRIVER_WEBHOOK_SECRET -u WEBHOOK_URL -u PORT -u RIVER_API_KEY -u RIVER_ENDPOINT -u RIVER_MODEL]]

local function quote(text) return "'" .. tostring(text):gsub("'", "'\\''") .. "'" end

--- Runs an example and returns what it prints, also on standard error; it must succeed.
---@param name string
---@param environment table<string, string>|nil
---@param argument string|nil
---@return string
function support.run(name, environment, argument)
  local words = {"exec env", (UNSET:gsub("\n", " "))}
  for variable, value in pairs(environment or {}) do words[#words + 1] = variable .. "=" .. quote(value) end
  words[#words + 1] = ("%s --quiet examples/%s %s </dev/null 2>&1"):format(quote(support.interpreter), name,
    argument or "")
  local pipe = assert(io.popen(table.concat(words, " ")))
  local text = pipe:read("a")
  assert(pipe:close(), name .. " failed:\n" .. text)
  return text
end

--- Fails unless the text has all the parts.
---@param text string
---@param ... string
function support.has(text, ...)
  for _, part in ipairs{...} do assert(text:find(part, 1, true), ("'%s' is not in:\n%s"):format(part, text)) end
end

return support
