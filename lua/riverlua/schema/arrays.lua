--- Checks of JSON Schema for arrays.

local values = require "riverlua.schema.values"

local arrays = {}

local length_of, kind_of = values.length, values.kind_of

local function build_counts(schema, list)
  local least, most = schema.minItems, schema.maxItems
  if least == nil and most == nil then return end
  list[#list + 1] = function(value, run)
    local length = length_of(value)
    local ok = true
    if least and length < least then
      ok = run:fail("minItems", "must have at least %s, got %s", values.counted(least, "element"), length)
    end
    if most and length > most then
      ok = run:fail("maxItems", "must have at most %s, got %s", values.counted(most, "element"), length)
    end
    return ok
  end
end

-- Elements are equal when their keys are: scalars are their own, tables have their canonical text.
local function first_repetition(value, run)
  local scalars, tables, nulls = {}, {}, nil
  for i = 1, length_of(value) do
    local item = value[i]
    local kind = kind_of(item)
    local known, key = scalars, item
    run:spend(1)
    if kind == "null" then
      if nulls then return nulls, i end
      nulls = i
    elseif kind ~= "nan" then
      if type(item) == "table" then known, key = tables, values.canonical(item, run) end
      if known[key] then return known[key], i end
      known[key] = i
    end
  end
  return nil
end

local function build_unique(schema, list)
  if not schema.uniqueItems then return end
  list[#list + 1] = function(value, run)
    local first, second = first_repetition(value, run)
    if not first then return true end
    return run:fail("uniqueItems", "must not have equal elements, but those at %s and %s are both %v", first - 1,
      second - 1, value[second])
  end
end

-- ---- elements ----

-- The schemas of the first elements: prefixItems, or items where it is an array, as in older drafts.
local function prefix_of(schema)
  if schema.prefixItems then return schema.prefixItems, "prefixItems" end
  if kind_of(schema.items) == "array" then return schema.items, "items" end
  return nil
end

-- The schema of all others, and its keyword.
local function rest_of(schema)
  if kind_of(schema.items) == "array" then return schema.additionalItems, "additionalItems" end
  return schema.items, "items"
end

local function build_prefix(compiler, schema, place, list)
  local prefix, keyword = prefix_of(schema)
  if not prefix then return 0 end
  local checks, count = {}, length_of(prefix)
  for i = 1, count do checks[i] = compiler:child(prefix[i], place, keyword, i - 1) end
  list[#list + 1] = function(value, run, seen)
    local ok = true
    local upto = math.min(count, length_of(value))
    for i = 1, upto do
      if not run:into(checks[i], value[i], i - 1, keyword, i - 1) then
        if not run.problems then return false end
        ok = false
      end
    end
    if seen and seen.upto < upto then seen.upto = upto end
    return ok
  end
  return count
end

-- Elements that must not be there are one problem, not one each.
local function fail_extra(run, keyword, allowed, length)
  if allowed == 0 then return run:fail(keyword, "must have no elements, got %s", length) end
  return run:fail(keyword, "must have at most %s, got %s", values.counted(allowed, "element"), length)
end

local function build_rest(compiler, schema, place, from, list)
  local rest, keyword = rest_of(schema)
  if rest == nil then return end
  local check = compiler:child(rest, place, keyword)
  list[#list + 1] = function(value, run, seen)
    local ok, length = true, length_of(value)
    if seen then seen.upto = math.huge end
    if rest == false and length > from then return fail_extra(run, keyword, from, length) end
    for i = from + 1, length do
      if not run:into(check, value[i], i - 1, keyword) then
        if not run.problems then return false end
        ok = false
      end
    end
    return ok
  end
end

local function build_contains(compiler, schema, place, list)
  if schema.contains == nil then return end
  local check = compiler:child(schema.contains, place, "contains")
  local least, most = schema.minContains or 1, schema.maxContains or math.huge
  local marks = place.resource.draft >= 2020
  list[#list + 1] = function(value, run, seen)
    local count = 0
    for i = 1, length_of(value) do
      if run:fits(check, value[i]) then
        count = count + 1
        if seen and marks then seen.places[i] = true end
        if not seen and count >= least and most == math.huge then return true end
      end
    end
    if count < least then
      local keyword = schema.minContains and "minContains" or "contains"
      return run:fail(keyword, "must contain at least %s that fits 'contains', got %s",
        values.counted(least, "element"), count)
    end
    return count <= most
      or run:fail("maxContains", "must contain at most %s that fits 'contains', got %s",
        values.counted(most, "element"), count)
  end
end

--- Adds the checks for arrays to a list.
---@param compiler table
---@param schema table
---@param place table
---@param list function[]
function arrays.build(compiler, schema, place, list)
  build_counts(schema, list)
  build_unique(schema, list)
  local count = build_prefix(compiler, schema, place, list)
  build_rest(compiler, schema, place, count, list)
  build_contains(compiler, schema, place, list)
end

--- The check of unevaluatedItems, which comes after all others, or nil.
---@return function|nil
function arrays.unevaluated(compiler, schema, place)
  local rest = schema.unevaluatedItems
  if rest == nil then return nil end
  local check = compiler:child(rest, place, "unevaluatedItems")
  return function(value, run, seen)
    local ok = true
    for i = seen.upto + 1, length_of(value) do
      if not seen.places[i] and not run:into(check, value[i], i - 1, "unevaluatedItems") then
        if not run.problems then return false end
        ok = false
      end
    end
    seen.upto = math.huge
    return ok
  end
end

return arrays
