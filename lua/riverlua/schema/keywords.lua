--- The keywords of JSON Schema 2020-12: the vocabulary of each, the draft it came with, and what its value looks like.

local values = require "riverlua.schema.values"

local keywords = {}

---@class riverlua.schema.Keyword
---@field shape string key of `keywords.shapes`
---@field vocabulary string
---@field since integer|nil 2019 or 2020: older drafts do not know it

local function keyword(vocabulary, shape, since)
  return {vocabulary = vocabulary, shape = shape, since = since}
end

---@type table<string, riverlua.schema.Keyword>
keywords.known = {
  ["$id"] = keyword("core", "string"),
  ["$schema"] = keyword("core", "string"),
  ["$ref"] = keyword("core", "string"),
  ["$anchor"] = keyword("core", "anchor", 2019),
  ["$dynamicRef"] = keyword("core", "string", 2020),
  ["$dynamicAnchor"] = keyword("core", "anchor", 2020),
  ["$vocabulary"] = keyword("core", "flags", 2019),
  ["$comment"] = keyword("core", "string"),
  ["$defs"] = keyword("core", "schema_map"),
  definitions = keyword("core", "schema_map"),
  prefixItems = keyword("applicator", "schema_list", 2020),
  items = keyword("applicator", "schema_or_list"),
  additionalItems = keyword("applicator", "schema"),
  contains = keyword("applicator", "schema"),
  properties = keyword("applicator", "schema_map"),
  patternProperties = keyword("applicator", "schema_map"),
  additionalProperties = keyword("applicator", "schema"),
  propertyNames = keyword("applicator", "schema"),
  dependentSchemas = keyword("applicator", "schema_map", 2019),
  dependencies = keyword("applicator", "dependencies"),
  ["if"] = keyword("applicator", "schema"),
  ["then"] = keyword("applicator", "schema"),
  ["else"] = keyword("applicator", "schema"),
  allOf = keyword("applicator", "schema_list"),
  anyOf = keyword("applicator", "schema_list"),
  oneOf = keyword("applicator", "schema_list"),
  ["not"] = keyword("applicator", "schema"),
  unevaluatedItems = keyword("unevaluated", "schema", 2019),
  unevaluatedProperties = keyword("unevaluated", "schema", 2019),
  type = keyword("validation", "types"),
  const = keyword("validation", "any"),
  enum = keyword("validation", "list"),
  multipleOf = keyword("validation", "positive"),
  maximum = keyword("validation", "number"),
  exclusiveMaximum = keyword("validation", "number"),
  minimum = keyword("validation", "number"),
  exclusiveMinimum = keyword("validation", "number"),
  maxLength = keyword("validation", "count"),
  minLength = keyword("validation", "count"),
  pattern = keyword("validation", "string"),
  maxItems = keyword("validation", "count"),
  minItems = keyword("validation", "count"),
  uniqueItems = keyword("validation", "boolean"),
  maxContains = keyword("validation", "count", 2019),
  minContains = keyword("validation", "count", 2019),
  maxProperties = keyword("validation", "count"),
  minProperties = keyword("validation", "count"),
  required = keyword("validation", "strings"),
  dependentRequired = keyword("validation", "string_lists", 2019),
  title = keyword("meta-data", "string"),
  description = keyword("meta-data", "string"),
  default = keyword("meta-data", "any"),
  deprecated = keyword("meta-data", "boolean"),
  readOnly = keyword("meta-data", "boolean"),
  writeOnly = keyword("meta-data", "boolean"),
  examples = keyword("meta-data", "list"),
  format = keyword("format", "string"),
  contentEncoding = keyword("content", "string"),
  contentMediaType = keyword("content", "string"),
  contentSchema = keyword("content", "schema", 2019),
}

local TYPES = {"array", "boolean", "integer", "null", "number", "object", "string"}
keywords.types = {}
for _, name in ipairs(TYPES) do keywords.types[name] = true end

local kind_of = values.kind_of

local function is_list(value)
  local kind = kind_of(value)
  return kind == "array" or kind == "empty"
end

-- An empty table without a tag is no array where a schema could stand.
local function is_array(value) return kind_of(value) == "array" end

local function is_map(value)
  local kind = kind_of(value)
  return kind == "object" or kind == "empty"
end

local function is_schema(value)
  return type(value) == "boolean" or is_map(value)
end

local function all(list, test)
  for i = 1, values.length(list) do
    if not test(list[i]) then return false end
  end
  return true
end

local function all_members(map, test)
  for name, member in next, map do
    if type(name) ~= "string" or not test(member) then return false end
  end
  return true
end

local function is_text(value) return type(value) == "string" end
local function is_flag(value) return type(value) == "boolean" end
local function is_number(value) return kind_of(value) == "number" end
local function is_strings(value) return is_list(value) and all(value, is_text) end
local function is_type(value) return keywords.types[value] == true end
local function is_schemas(value) return is_list(value) and values.length(value) > 0 and all(value, is_schema) end

---@class riverlua.schema.Shape
---@field wants string what the value must be
---@field test fun(value: any): boolean
---@field schema table|boolean the same said as a JSON Schema, for the schema of schemas

local META = {["$dynamicRef"] = "#meta"}
local STRING, STRINGS = {type = "string"}, {type = "array", items = {type = "string"}, uniqueItems = true}

---@type table<string, riverlua.schema.Shape>
keywords.shapes = {
  any = {wants = "anything", test = function() return true end, schema = true},
  string = {wants = "a string", test = is_text, schema = STRING},
  boolean = {wants = "true or false", test = is_flag, schema = {type = "boolean"}},
  number = {wants = "a number", test = is_number, schema = {type = "number"}},
  positive = {wants = "a number above 0", schema = {type = "number", exclusiveMinimum = 0},
    test = function(value) return is_number(value) and value > 0 end},
  count = {wants = "a whole number from 0", schema = {type = "integer", minimum = 0},
    test = function(value) return is_number(value) and value >= 0 and values.is_integer(value) end},
  anchor = {wants = "a name of letters, digits, '-', '_' and '.'",
    schema = {type = "string", pattern = "^[A-Za-z_][-A-Za-z0-9._]*$"},
    test = function(value) return is_text(value) and value:find("^[%a_][%w_.-]*$") ~= nil end},
  list = {wants = "an array", test = is_list, schema = {type = "array"}},
  strings = {wants = "an array of strings", test = is_strings, schema = STRINGS},
  string_lists = {wants = "an object of arrays of strings", schema = {type = "object", additionalProperties = STRINGS},
    test = function(value) return is_map(value) and all_members(value, is_strings) end},
  flags = {wants = "an object of true and false", schema = {type = "object", additionalProperties = {type = "boolean"}},
    test = function(value) return is_map(value) and all_members(value, is_flag) end},
  types = {wants = "one or more of " .. table.concat(TYPES, ", "),
    schema = {anyOf = {{enum = TYPES}, {type = "array", items = {enum = TYPES}, minItems = 1, uniqueItems = true}}},
    test = function(value)
      return is_type(value) or is_list(value) and values.length(value) > 0 and all(value, is_type)
    end},
  schema = {wants = "a schema (an object, true or false)", test = is_schema, schema = META},
  schema_list = {wants = "an array of at least one schema", test = is_schemas,
    schema = {type = "array", minItems = 1, items = META}},
  -- An array is what `items` could be in older drafts.
  schema_or_list = {wants = "a schema (an object, true or false)", schema = META,
    test = function(value) return is_schema(value) or is_array(value) and all(value, is_schema) end},
  schema_map = {wants = "an object of schemas", schema = {type = "object", additionalProperties = META},
    test = function(value) return is_map(value) and all_members(value, is_schema) end},
  dependencies = {wants = "an object of schemas or arrays of strings",
    schema = {type = "object", additionalProperties = {anyOf = {META, STRINGS}}},
    test = function(value)
      return is_map(value) and all_members(value, function(member) return is_schema(member) or is_strings(member) end)
    end},
}

--- Calls `visit(subschema, step, further_step)` for the schemas directly inside one.
---@param schema table
---@param draft integer 7, 2019 or 2020
---@param visit fun(subschema: any, keyword: string, step: string|integer|nil)
function keywords.each_subschema(schema, draft, visit)
  for name, value in next, schema do
    local known = keywords.known[name]
    local shape = known and (known.since or 0) <= draft and known.shape
    if shape == "schema" or (shape == "schema_or_list" and not is_array(value)) then
      visit(value, name)
    elseif (shape == "schema_list" or shape == "schema_or_list") and type(value) == "table" then
      for i = 1, values.length(value) do visit(value[i], name, i - 1) end
    elseif (shape == "schema_map" or shape == "dependencies") and type(value) == "table" then
      for member, subschema in next, value do
        if shape == "schema_map" or not is_array(subschema) then visit(subschema, name, member) end
      end
    end
  end
end

return keywords
