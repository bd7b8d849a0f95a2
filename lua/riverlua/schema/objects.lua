--- Checks of JSON Schema for objects.

local errors = require "riverlua.errors"
local scalars = require "riverlua.schema.scalars"
local values = require "riverlua.schema.values"

local objects = {}

local rawget, next, type = rawget, next, type

local function sorted_names(map)
  local names = {}
  for name in next, map do names[#names + 1] = name end
  table.sort(names, function(a, b) return tostring(a) < tostring(b) end)
  return names
end

-- An iterator over the names of a value; in order where they are reported.
local function each_name(value, run)
  if not run.problems then return next, value end
  local names, at = sorted_names(value), 0
  return function()
    at = at + 1
    return names[at]
  end
end

local function count_members(value)
  local count = 0
  for _ in next, value do count = count + 1 end
  return count
end

-- Comparing names is worth it where there are few of bearable length.
local function suggest(name, candidates)
  local near = {}
  local count = 0
  for other in next, candidates do
    count = count + 1
    if count > 200 then return nil end
    if #other <= 80 then near[other] = true end
  end
  return #name >= 3 and #name <= 80 and errors.suggest(name, near) or nil
end

-- ---- required ----

-- A member of the value that seems to be the missing one: its name is near, and the schema does not know it.
local function misspelt(name, value, declared)
  local unknown = {}
  for other in next, value do
    if type(other) == "string" and not declared[other] then unknown[other] = true end
  end
  return suggest(name, unknown)
end

local function fail_required(run, keyword, name, value, declared, why)
  if not run.problems then return false end
  local near = misspelt(name, value, declared)
  return run:fail(keyword, "must have the member %v%s%s", name, why or "",
    near and ("; did you mean it by %s?"):format(values.show(near)) or "")
end

local function build_required(schema, declared, list)
  local names = schema.required
  if names == nil or #names == 0 then return end
  list[#list + 1] = function(value, run)
    local ok = true
    for i = 1, #names do
      if rawget(value, names[i]) == nil then
        ok = fail_required(run, "required", names[i], value, declared)
        if not run.problems then return false end
      end
    end
    return ok
  end
end

local function build_dependent_required(schema, keyword, declared, list)
  local map = schema[keyword]
  if map == nil then return end
  local names = {}
  for name, needed in next, map do
    if keyword == "dependentRequired" or values.kind_of(needed) == "array" then names[#names + 1] = name end
  end
  table.sort(names)
  if #names == 0 then return end
  list[#list + 1] = function(value, run)
    local ok = true
    for _, name in ipairs(names) do
      for _, needed in ipairs(rawget(value, name) ~= nil and map[name] or {}) do
        if rawget(value, needed) == nil then
          local why = run.problems and (" because it has %s"):format(values.show(name))
          ok = fail_required(run, keyword, needed, value, declared, why)
        end
      end
    end
    return ok
  end
end

local function build_counts(schema, list)
  local least, most = schema.minProperties, schema.maxProperties
  if least == nil and most == nil then return end
  list[#list + 1] = function(value, run)
    local count = count_members(value)
    run:spend(count)
    local ok = true
    if least and count < least then
      ok = run:fail("minProperties", "must have at least %s, got %s", values.counted(least, "member"), count)
    end
    if most and count > most then
      ok = run:fail("maxProperties", "must have at most %s, got %s", values.counted(most, "member"), count)
    end
    return ok
  end
end

-- ---- members ----

local function build_properties(compiler, schema, place, list)
  if schema.properties == nil then return end
  local names, checks = sorted_names(schema.properties), {}
  for i, name in ipairs(names) do checks[i] = compiler:child(schema.properties[name], place, "properties", name) end
  list[#list + 1] = function(value, run, seen)
    local ok = true
    for i = 1, #names do
      local name = names[i]
      local member = rawget(value, name)
      if member ~= nil then
        if seen then seen.names[name] = true end
        if not run:into(checks[i], member, name, "properties", name) then
          if not run.problems then return false end
          ok = false
        end
      end
    end
    return ok
  end
end

-- The patterns of a schema with their checks: {pattern =, regex =, check =}.
local function compile_patterns(compiler, schema, place)
  local patterns = {}
  if schema.patternProperties == nil then return patterns end
  for _, pattern in ipairs(sorted_names(schema.patternProperties)) do
    local pointer = compiler.pointer(place, "patternProperties", pattern)
    patterns[#patterns + 1] = {pattern = pattern, regex = scalars.regex(compiler, pattern, pointer),
      check = compiler:child(schema.patternProperties[pattern], place, "patternProperties", pattern)}
  end
  return patterns
end

local function build_patterns(patterns, list)
  if #patterns == 0 then return end
  list[#list + 1] = function(value, run, seen)
    local ok = true
    for name in each_name(value, run) do
      for _, one in ipairs(patterns) do
        run:spend(1)
        if type(name) == "string" and run:matches(one.regex, name) then
          if seen then seen.names[name] = true end
          ok = run:into(one.check, rawget(value, name), name, "patternProperties", one.pattern) and ok
        end
      end
      if not ok and not run.problems then return false end
    end
    return ok
  end
end

local function show_names(declared)
  local names = sorted_names(declared)
  return #names > 0 and ("; known: " .. table.concat(names, ", ", 1, math.min(#names, 20))
    .. (#names > 20 and ", …" or "")) or ""
end

-- A member that must not be there, reported at its own place.
local function fail_extra(run, name, value, declared, keyword, known)
  if not run.problems then return false end
  local missing = {}
  for other in next, declared do
    if rawget(value, other) == nil then missing[other] = true end
  end
  local near = type(name) == "string" and suggest(name, missing)
  local path = run.path
  path[#path + 1] = name
  run:fail(keyword, "is not allowed%s", near and ("; did you mean %s?"):format(values.show(near)) or known)
  path[#path] = nil
  return false
end

local function matches_any(patterns, name, run)
  for _, one in ipairs(patterns) do
    run:spend(1)
    if run:matches(one.regex, name) then return true end
  end
  return false
end

local function build_additional(compiler, schema, place, patterns, declared, list)
  local additional = schema.additionalProperties
  if additional == nil then return end
  local check = compiler:child(additional, place, "additionalProperties")
  local known = show_names(declared)
  list[#list + 1] = function(value, run, seen)
    local ok = true
    for name in each_name(value, run) do
      if not declared[name] and not (type(name) == "string" and matches_any(patterns, name, run)) then
        run:spend(1)
        if seen then seen.names[name] = true end
        if additional == false then
          ok = fail_extra(run, name, value, declared, "additionalProperties", known)
        elseif not run:into(check, rawget(value, name), name, "additionalProperties") then
          ok = false
        end
        if not ok and not run.problems then return false end
      end
    end
    return ok
  end
end

local function build_names(compiler, schema, place, list)
  if schema.propertyNames == nil then return end
  local check = compiler:child(schema.propertyNames, place, "propertyNames")
  list[#list + 1] = function(value, run)
    local ok = true
    for name in each_name(value, run) do
      local fine, found = run:try(check, tostring(name), nil, "propertyNames")
      if not fine then
        if not run.problems then return false end
        ok = run:fail("propertyNames", "must not have a member named %v: the name %s", name,
          found[1] and found[1].message or "is not allowed")
      end
    end
    return ok
  end
end

--- Adds the checks for objects to a list. Raises kind "argument" for wrong patterns.
---@param compiler table
---@param schema table
---@param place table
---@param list function[]
function objects.build(compiler, schema, place, list)
  local declared = schema.properties or {}
  build_required(schema, declared, list)
  build_dependent_required(schema, "dependentRequired", declared, list)
  build_dependent_required(schema, "dependencies", declared, list)
  build_counts(schema, list)
  build_properties(compiler, schema, place, list)
  local patterns = compile_patterns(compiler, schema, place)
  build_patterns(patterns, list)
  build_additional(compiler, schema, place, patterns, declared, list)
  build_names(compiler, schema, place, list)
end

--- The check of unevaluatedProperties, which comes after all others, or nil.
---@return function|nil
function objects.unevaluated(compiler, schema, place)
  local rest = schema.unevaluatedProperties
  if rest == nil then return nil end
  local check = compiler:child(rest, place, "unevaluatedProperties")
  return function(value, run, seen)
    if seen.all_names then return true end
    local ok = true
    for name in each_name(value, run) do
      if not seen.names[name] then
        run:spend(1)
        if rest == false then
          ok = fail_extra(run, name, value, schema.properties or {}, "unevaluatedProperties", "")
        elseif not run:into(check, rawget(value, name), name, "unevaluatedProperties") then
          ok = false
        end
        if not ok and not run.problems then return false end
      end
    end
    seen.all_names = true
    return ok
  end
end

return objects
