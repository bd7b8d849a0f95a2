--- Makes a small value that fits a schema. Every part of it is proposed and then checked against its own schemas, so
-- what comes out fits, or nothing comes out.

local errors = require "riverlua.errors"
local json = require "riverlua.json"
local objects = require "riverlua.schema.sample_object"
local Run = require "riverlua.schema.run"
local scalars = require "riverlua.schema.scalars"
local texts = require "riverlua.schema.sample_text"
local values = require "riverlua.schema.values"

local sampler = {}

-- How deep values are nested: what fits with less comes first.
local DEPTHS = {1, 2, 4, 8, 16, 32, 64}
local MOST_TRIES <const> = 20000
local MOST_ELEMENTS <const> = 1000

local length_of = values.length

---@class riverlua.schema.Sampler
---@field compiler table
---@field tries integer
---@field deepest integer
local Sampler = {}
Sampler.__index = Sampler

-- A schema together with the resource in which its references are seen.
local function part_of(self, schema, resource)
  return {schema = schema, resource = type(schema) == "table" and self.compiler.documents.roots[schema] or resource}
end

local function targets_of(self, part)
  local found = {}
  for _, keyword in ipairs{"$ref", "$dynamicRef"} do
    local reference = part.schema[keyword]
    if reference then
      local target = self.compiler.documents:target(part.resource, reference, "")
      found[#found + 1] = part_of(self, target.schema, target.resource)
    end
  end
  for i = 1, length_of(part.schema.allOf or {}) do
    found[#found + 1] = part_of(self, part.schema.allOf[i], part.resource)
  end
  return found
end

-- Adds what a schema applies to the same value; false where that is the schema `false`.
local function expand(self, part, parts)
  if type(part.schema) == "boolean" then return part.schema end
  for _, known in ipairs(parts) do
    if known.schema == part.schema and known.resource == part.resource then return true end
  end
  parts[#parts + 1] = part
  for _, further in ipairs(targets_of(self, part)) do
    if not expand(self, further, parts) then return false end
  end
  return true
end

-- The choices that schemas leave: each a list of lists of schemas.
local function choices_of(self, parts, from)
  local choices = {}
  for i = from, #parts do
    local part = parts[i]
    local schema, resource = part.schema, part.resource
    for _, keyword in ipairs{"anyOf", "oneOf"} do
      if schema[keyword] then
        local choice = {}
        for k = 1, length_of(schema[keyword]) do choice[k] = {part_of(self, schema[keyword][k], resource)} end
        choices[#choices + 1] = choice
      end
    end
    if schema["if"] ~= nil then
      local met = {part_of(self, schema["if"], resource)}
      met[2] = schema["then"] ~= nil and part_of(self, schema["then"], resource) or nil
      choices[#choices + 1] = {{}, met, {schema["else"] ~= nil and part_of(self, schema["else"], resource) or nil}}
    end
  end
  return choices
end

--- Whether a value fits all schemas of a list.
function Sampler:fits(parts, value)
  self.tries = self.tries + 1
  if self.tries > MOST_TRIES then return false end
  for _, part in ipairs(parts) do
    local cell = self.compiler.cells[part.resource] and self.compiler.cells[part.resource][part.schema]
    local run = Run.new{most = 1, max_work = 1000000, decoded = false}
    run.scope[1] = part.resource
    if cell and not cell.check(value, run) then return false end
  end
  return true
end

-- ---- values of a kind: each gives a value that fits, or nil ----

local make = {}

local function first_fitting(self, parts, candidates)
  for _, candidate in ipairs(candidates) do
    if self:fits(parts, candidate) then return candidate end
  end
  return nil
end

-- The strictest bounds, and what the number must be a multiple of.
local function bounds_of(parts)
  local low, high, step = -math.huge, math.huge, nil
  for _, part in ipairs(parts) do
    local schema = part.schema
    low = math.max(low, schema.minimum or low, schema.exclusiveMinimum or low)
    high = math.min(high, schema.maximum or high, schema.exclusiveMaximum or high)
    step = step or schema.multipleOf
  end
  return low, high, step
end

local function whole(number) return math.tointeger(number) or number end

local function numbers(self, parts, integers)
  local low, high, step = bounds_of(parts)
  local candidates = {0}
  for _, bound in ipairs{low, high} do
    if math.abs(bound) < math.huge then
      for _, near in ipairs{math.floor(bound), math.ceil(bound), math.floor(bound) + 1, math.ceil(bound) - 1} do
        candidates[#candidates + 1] = whole(near)
      end
      if step then
        local times = math.floor(bound / step)
        for k = -1, 2 do candidates[#candidates + 1] = whole((times + k) * step) end
      end
      if not integers then candidates[#candidates + 1] = bound end
    end
  end
  if not integers and low > -math.huge and high < math.huge then
    candidates[#candidates + 1] = low + (high - low) / 2
  end
  return first_fitting(self, parts, candidates)
end

function make.integer(self, parts) return numbers(self, parts, true) end
function make.number(self, parts) return numbers(self, parts, false) end
function make.boolean(self, parts) return first_fitting(self, parts, {false, true}) end
make["null"] = function(self, parts) return first_fitting(self, parts, {json.null}) end

function make.string(self, parts)
  return texts.find(parts, function(candidate) return self:fits(parts, candidate) end)
end

function make.object(self, parts, depth)
  local value = objects.make(self, parts, depth)
  return value and self:fits(parts, value) and value or nil
end

-- What an element must fit, by its place from 1.
local function element_parts(self, parts, place, contained)
  local found = {}
  for _, part in ipairs(parts) do
    local schema = part.schema
    local listed = values.kind_of(schema.items) == "array"
    local prefix = schema.prefixItems or (listed and schema.items) or {}
    local rest = schema.items
    if listed then rest = schema.additionalItems end
    if place <= length_of(prefix) then rest = prefix[place] end
    if rest ~= nil then found[#found + 1] = part_of(self, rest, part.resource) end
    if schema.contains ~= nil and place <= contained then
      found[#found + 1] = part_of(self, schema.contains, part.resource)
    end
  end
  return found
end

local function is_among(list, value, run)
  for _, item in ipairs(list) do
    if values.equal(item, value, run) then return true end
  end
  return false
end

-- An element that differs from those before it.
local function distinct(self, parts, value, before)
  local run = Run.new{most = 1, max_work = 1000000}
  if not is_among(before, value, run) then return value end
  for _, part in ipairs(parts) do
    for i = 1, type(part.schema) == "table" and length_of(part.schema.enum or {}) or 0 do
      local item = part.schema.enum[i]
      if not is_among(before, item, run) and self:check_all(parts, item) then return item end
    end
  end
  for k = 1, 2 * #before + 2 do
    local other = type(value) == "number" and value + k or type(value) == "string" and value .. k
    if type(value) == "boolean" then other = not value end
    if not is_among(before, other, run) and self:check_all(parts, other) then return other end
  end
  return nil
end

function make.array(self, parts, depth)
  local least, contained, unique = 0, 0, false
  for _, part in ipairs(parts) do
    local schema = part.schema
    if schema.contains ~= nil then contained = math.max(contained, schema.minContains or 1) end
    least = math.max(least, schema.minItems or 0, contained)
    unique = unique or schema.uniqueItems == true
  end
  local list = json.array{}
  if least > MOST_ELEMENTS then return nil end
  for place = 1, least do
    local wanted = element_parts(self, parts, place, contained)
    local item = self:generate(wanted, depth + 1)
    if item ~= nil and unique then item = distinct(self, wanted, item, list) end
    if item == nil then return nil end
    list[place] = item
  end
  return self:fits(parts, list) and list or nil
end

-- ---- choosing ----

local ORDER = {"object", "array", "string", "number", "boolean", "null"}
local HINTS = {
  object = {"properties", "required", "additionalProperties", "minProperties", "patternProperties"},
  array = {"items", "prefixItems", "minItems", "contains"},
  string = {"pattern", "format", "minLength", "maxLength"},
  number = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
}

-- The types to try: those the schemas name, or those that their keywords speak of first.
local function types_of(parts)
  for _, part in ipairs(parts) do
    local types = scalars.types_of(part.schema)
    if types then return types end
  end
  local types = {}
  for _, name in ipairs(ORDER) do
    for _, keyword in ipairs(HINTS[name] or {}) do
      for _, part in ipairs(parts) do
        if part.schema[keyword] ~= nil and types[#types] ~= name then types[#types + 1] = name end
      end
    end
  end
  table.move({"string", "object", "array", "number", "boolean", "null"}, 1, 6, #types + 1, types)
  return types
end

-- Values that the schemas themselves name.
local function named_values(parts)
  local named = {}
  local function add(value) named[#named + 1] = value end
  for _, part in ipairs(parts) do
    add(part.schema.const)
    add(part.schema.default)
    if type(part.schema.examples) == "table" then add(part.schema.examples[1]) end
  end
  for _, part in ipairs(parts) do
    for i = 1, length_of(part.schema.enum or {}) do add(part.schema.enum[i]) end
  end
  return named
end

local function build(self, parts, depth)
  local named = first_fitting(self, parts, named_values(parts))
  if named ~= nil then return named end
  for _, name in ipairs(types_of(parts)) do
    local value = make[name](self, parts, depth)
    if value ~= nil then return value end
  end
  return nil
end

-- Takes one of each choice, until a value is found.
local function choose(self, parts, choices, at, depth)
  if self.tries > MOST_TRIES then return nil end
  local choice = choices[at]
  if not choice then return build(self, parts, depth) end
  for _, branch in ipairs(choice) do
    local more = table.move(parts, 1, #parts, 1, {})
    local possible = true
    for _, part in ipairs(branch) do possible = possible and expand(self, part, more) end
    if possible then
      local all = table.move(choices, 1, #choices, 1, {})
      local further = choices_of(self, more, #parts + 1)
      table.move(further, 1, #further, #all + 1, all)
      local value = choose(self, more, all, at + 1, depth)
      if value ~= nil then return value end
    end
  end
  return nil
end

--- A value that fits all schemas of a list, or nil.
function Sampler:generate(list, depth)
  self.tries = self.tries + 1
  if depth > self.deepest or self.tries > MOST_TRIES then return nil end
  local parts = {}
  for _, part in ipairs(list) do
    if not expand(self, part, parts) then return nil end
  end
  return choose(self, parts, choices_of(self, parts, 1), 1, depth)
end

--- Whether a value fits all schemas of a list, references and all.
function Sampler:check_all(list, value)
  local parts = {}
  for _, part in ipairs(list) do
    if not expand(self, part, parts) then return false end
  end
  return self:fits(parts, value)
end

function Sampler:part(schema, resource) return part_of(self, schema, resource) end

--- A value that fits the schema of a compiler. Raises kind "unsupported" where none is found.
---@param schema table|boolean
---@param compiler riverlua.schema.Compiler
---@return any
function sampler.sample(schema, compiler)
  for _, deepest in ipairs(DEPTHS) do
    local self = setmetatable({compiler = compiler, tries = 0, deepest = deepest}, Sampler)
    local value = self:generate({part_of(self, schema, compiler.documents.resources[""])}, 0)
    if value ~= nil then return value end
  end
  errors.raise{kind = "unsupported", message = "schema: no sample was found that fits",
    hint = "give the schema an example or a default"}
end

return sampler
