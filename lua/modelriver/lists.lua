--- Empty lists in requests: Lua's `{}` would be sent as an object where the API, or a JSON Schema, wants a list.
--
-- Only places that are known are looked at. What is the user's own (`metadata`, `inputs`, `context`, properties of a
-- schema, fields of other names) goes out as it is; `riverlua.json.array{}` is an empty list anywhere.

local json = require "riverlua.json"

local lists = {}

local DEEPEST = 64

-- Rules are functions (value, path) → what is sent in its place; `path` has the tables around it. A table of rules is
-- by key.

-- The table, or a copy in which the values under some keys are replaced as `rule_of(key)` says.
local function replaced(value, rule_of, path)
  -- the encoder says what is wrong with tables in a circle
  if path.depth > DEEPEST or path[value] then return value end
  path[value], path.depth = true, path.depth + 1
  local copy
  for key, item in next, value do
    local rule = type(item) == "table" and rule_of(key)
    local new = rule and rule(item, path) or item
    if new ~= item then
      if not copy then
        copy = setmetatable({}, getmetatable(value))
        for name, old in next, value do copy[name] = old end
      end
      copy[key] = new
    end
  end
  path[value], path.depth = nil, path.depth - 1
  return copy or value
end

local function list(value)
  return next(value) == nil and getmetatable(value) == nil and json.array{} or value
end

local function fields(rules)
  local function rule_of(key) return rules[key] end
  return function(value, path) return replaced(value, rule_of, path) end
end

local function each(rule)
  local function rule_of() return rule end
  return function(value, path) return replaced(value, rule_of, path) end
end

local function list_of(rule)
  local all = each(rule)
  return function(value, path) return list(all(value, path)) end
end

local SCHEMA = {dependentRequired = each(list)}
local schema = fields(SCHEMA)
for _, name in ipairs{"required", "enum", "examples", "type"} do SCHEMA[name] = list end
for _, name in ipairs{"allOf", "anyOf", "oneOf", "prefixItems"} do SCHEMA[name] = list_of(schema) end
for name in ("properties patternProperties $defs definitions dependentSchemas"):gmatch("%S+") do
  SCHEMA[name] = each(schema)
end
for name in ([[items additionalItems unevaluatedItems contains additionalProperties unevaluatedProperties propertyNames
  not if then else contentSchema]]):gmatch("%S+") do SCHEMA[name] = schema end

local wrapped_schema = fields{json_schema = fields{schema = schema}}

local function response_format(value, path)
  return (value.json_schema ~= nil and wrapped_schema or schema)(value, path)
end

local PARAMETERS = {parameters = schema, input_schema = schema}
local TOOL = {["function"] = fields(PARAMETERS), parameters = schema, input_schema = schema}

local body_of = fields{
  messages = list_of(fields{content = list, tool_calls = list}), tools = list_of(fields(TOOL)), events = list,
  stop = list, structured_output_schema = schema, response_format = response_format,
}

--- The body with its empty lists marked as such; a copy where something had to change.
---@param body table
---@return table
function lists.marked(body) return body_of(body, {depth = 1}) end

return lists
