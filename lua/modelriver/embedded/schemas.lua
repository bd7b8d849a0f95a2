--- Schemas of structured output: which one holds for a request, and whether a value keeps to it.

local failure = require "modelriver.embedded.failure"
local json = require "riverlua.json"

local schemas = {}

-- A schema inside response_format: OpenAI's wrapping, or the schema itself.
local function in_response_format(format)
  if type(format) ~= "table" then return nil end
  if format.type == "json_schema" then
    local inner = format.json_schema or format
    return type(inner) == "table" and type(inner.schema) == "table" and inner.schema or nil
  end
  if format.type == "json_object" or format.type == "text" then return nil end
  return format
end

--- The schema that an answer to this request must keep to: the request's own, else the workflow's.
---@param workflow modelriver.embedded.Workflow
---@param request table
---@return table|nil
function schemas.of(workflow, request)
  local inline = request.structured_output_schema
  return type(inline) == "table" and inline or in_response_format(request.response_format) or workflow.schema
end

-- Those of workflows are asked for again and again.
local compiled = setmetatable({}, {__mode = "k"})

local function validator_of(given)
  if compiled[given] then return compiled[given] end
  local ok, validator = pcall(require("riverlua.schema").compile, given, {decoded = true})
  if not ok then error(failure.new(400, "schema", "the schema itself is wrong: " .. tostring(validator)), 0) end
  compiled[given] = validator
  return validator
end

--- Raises a failure unless the value keeps to the schema.
---@param schema table|nil
---@param value any
function schemas.check(schema, value)
  if not schema then return end
  local ok, problems = validator_of(schema):validate(value)
  if ok then return end
  local first = problems[1] or {}
  error(failure.new(422, "schema", ("the structured output does not keep to its schema: %s %s"):format(
    first.path ~= "" and first.path or "it", first.message or "is wrong")), 0)
end

--- A value out of the JSON text of an answer. Raises a failure when it is none.
---@param text string
---@return any
function schemas.decode(text)
  local ok, value = pcall(json.decode, text)
  if ok then return value end
  error(failure.new(422, "schema", "the structured output is not JSON: " .. value.message), 0)
end

--- A made-up value that keeps to the schema; nil when none can be made.
---@param schema table|nil
---@return any
function schemas.sample(schema)
  if not schema then return nil end
  local ok, value = pcall(require("riverlua.schema").sample, schema)
  if ok then return value end
  return nil
end

return schemas
