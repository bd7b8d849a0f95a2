--- Objects for samples: the members that are required, and as many more as must be there.

local json = require "riverlua.json"
local regex = require "riverlua.regex"
local values = require "riverlua.schema.values"

local objects = {}

local MOST_MEMBERS <const> = 1000

local function matches(pattern, name)
  local ok, compiled = pcall(regex.compile, pattern)
  return ok and compiled:test(name)
end

-- What a member must fit, by its name.
local function member_parts(sampler, parts, name)
  local found = {}
  for _, part in ipairs(parts) do
    local schema, covered = part.schema, false
    local function add(inner)
      covered = true
      found[#found + 1] = sampler:part(inner, part.resource)
    end
    if schema.properties and schema.properties[name] ~= nil then add(schema.properties[name]) end
    for pattern, inner in next, schema.patternProperties or {} do
      if matches(pattern, name) then add(inner) end
    end
    if not covered and schema.additionalProperties ~= nil then add(schema.additionalProperties) end
  end
  return found
end

-- Adds a name, and those that must come with it.
local function want(parts, name, names, known)
  if known[name] or #names > MOST_MEMBERS then return end
  known[name] = true
  names[#names + 1] = name
  for _, part in ipairs(parts) do
    for _, keyword in ipairs{"dependentRequired", "dependencies"} do
      local needed = part.schema[keyword] and part.schema[keyword][name]
      for _, other in ipairs(values.kind_of(needed) == "array" and needed or {}) do want(parts, other, names, known) end
    end
  end
end

-- Names that may be added: those the schemas know, then invented ones.
local function further_names(parts, least)
  local names = {}
  for _, part in ipairs(parts) do
    for name in next, part.schema.properties or {} do names[#names + 1] = name end
  end
  table.sort(names)
  for i = 1, math.min(least, MOST_MEMBERS) do names[#names + 1] = "member" .. i end
  return names
end

--- An object that may fit, or nil. Schemas whose condition a member meets (dependentSchemas) are left to chance.
---@param sampler table
---@param parts table[]
---@param depth integer
---@return table|nil
function objects.make(sampler, parts, depth)
  local names, known, least = {}, {}, 0
  for _, part in ipairs(parts) do
    for _, name in ipairs(part.schema.required or {}) do want(parts, name, names, known) end
    least = math.max(least, part.schema.minProperties or 0)
  end
  local object, count = {}, 0
  for _, name in ipairs(names) do
    local member = sampler:generate(member_parts(sampler, parts, name), depth + 1)
    if member == nil then return nil end
    object[name] = member
    count = count + 1
  end
  for _, name in ipairs(count < least and further_names(parts, least) or {}) do
    if count >= least then break end
    if object[name] == nil then
      object[name] = sampler:generate(member_parts(sampler, parts, name), depth + 1)
      if object[name] ~= nil then count = count + 1 end
    end
  end
  if next(object) == nil then
    -- an empty table without a tag would be an array for some readers
    return json.object{}
  end
  return object
end

return objects
