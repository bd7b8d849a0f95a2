--- Checks of JSON Schema that apply further schemas to the same value: references, combinations, conditions.

local errors = require "riverlua.errors"
local Run = require "riverlua.schema.run"
local scalars = require "riverlua.schema.scalars"
local values = require "riverlua.schema.values"

local inplace = {}

local length_of = values.length

-- ---- references ----

-- A check that goes to a cell, whose check may be compiled later. `resource` is entered where it is another one.
local function build_reference(cell, resource, keyword)
  return function(value, run, seen)
    local scope = run.scope
    if resource then scope[#scope + 1] = resource end
    local ok = run:apply(cell.check, value, seen, keyword)
    if resource then scope[#scope] = nil end
    return ok
  end
end

local function build_ref(compiler, schema, place, list)
  local reference = schema["$ref"]
  if reference == nil then return end
  local cell, target = compiler:reference(reference, place, place.pointer .. "/$ref")
  place.cell.always[#place.cell.always + 1] = cell
  local resource = target.resource ~= place.resource and target.resource or nil
  list[#list + 1] = build_reference(cell, resource, "$ref")
end

-- The first resource entered that has the dynamic anchor decides.
local function build_dynamic_ref(compiler, schema, place, list)
  local reference = schema["$dynamicRef"]
  if reference == nil then return end
  local cell, target = compiler:reference(reference, place, place.pointer .. "/$dynamicRef")
  local name = target.anchor
  if not name or not target.resource.dynamic[name] then
    list[#list + 1] = build_reference(cell, target.resource ~= place.resource and target.resource or nil, "$dynamicRef")
    return
  end
  local cells = compiler:dynamic_cells(name)
  list[#list + 1] = function(value, run, seen)
    local scope = run.scope
    local chosen, resource = cell, target.resource
    for i = 1, #scope do
      if scope[i].dynamic[name] then
        chosen, resource = cells[scope[i]] or cell, scope[i]
        break
      end
    end
    scope[#scope + 1] = resource
    local ok = run:apply(chosen.check, value, seen, "$dynamicRef")
    scope[#scope] = nil
    return ok
  end
end

-- ---- combinations ----

local function children(compiler, schema, place, keyword)
  local checks = {}
  for i = 1, length_of(schema[keyword]) do
    checks[i] = compiler:child(schema[keyword][i], place, keyword, i - 1)
  end
  return checks
end

local function build_all(compiler, schema, place, list)
  if schema.allOf == nil then return end
  local checks = {}
  for i = 1, length_of(schema.allOf) do
    local cell = compiler:child_cell(schema.allOf[i], place, "allOf", i - 1)
    place.cell.always[#place.cell.always + 1] = cell
    checks[i] = cell.check
  end
  list[#list + 1] = function(value, run, seen)
    local ok = true
    for i = 1, #checks do
      if not run:apply(checks[i], value, seen, "allOf", i - 1) then
        if not run.problems then return false end
        ok = false
      end
    end
    return ok
  end
end

-- How far a branch is from fitting: a wrong type of the whole, then a wrong tag (const, enum) of a member, then the
-- number of problems.
local function distance_of(run, problems)
  local distance, depth = #problems, #run.path
  for _, problem in ipairs(problems) do
    local steps = run.steps[problem]
    if steps == depth and (problem.keyword == "type" or problem.keyword == "const" or problem.keyword == "enum") then
      distance = distance + 10000
    elseif steps == depth + 1 and (problem.keyword == "const" or problem.keyword == "enum") then
      distance = distance + 1000
    end
  end
  return distance
end

-- Reports why no branch fits: the problems of the nearest.
local function report_nearest(run, keyword, failures)
  local best, best_distance
  for i, problems in ipairs(failures) do
    local distance = distance_of(run, problems)
    if not best or distance < best_distance then best, best_distance = i, distance end
  end
  run:fail(keyword, "must fit one of %s; number %s comes nearest", values.counted(#failures, "alternative"), best)
  for _, problem in ipairs(failures[best] or {}) do
    if #run.problems < run.most then run.problems[#run.problems + 1] = problem end
  end
  return false
end

-- The types named by branches that differ in nothing else that matters here: each failed by the type of the whole
-- value.
local function wanted_types(run, branches, failures)
  local types, known = {}, {}
  for i, problems in ipairs(failures) do
    local problem = problems[1]
    local own = type(branches[i]) == "table" and scalars.types_of(branches[i])
    if #problems ~= 1 or problem.keyword ~= "type" or run.steps[problem] ~= #run.path or not own then return nil end
    for _, name in ipairs(own) do
      if not known[name] then types[#types + 1] = name end
      known[name] = true
    end
  end
  return types
end

local function report_none(run, keyword, value, branches, failures)
  if #run.problems >= run.most then return false end
  local types = wanted_types(run, branches, failures)
  if types and #types > 0 then
    return run:fail(keyword, "must be %s, got %v", scalars.name_types(types), value)
  end
  return report_nearest(run, keyword, failures)
end

local function build_any(compiler, schema, place, list)
  if schema.anyOf == nil then return end
  local checks = children(compiler, schema, place, "anyOf")
  list[#list + 1] = function(value, run, seen)
    local ok, failures = false, {}
    for i = 1, #checks do
      local branch = seen and Run.nothing_seen()
      local fits, found = run:try(checks[i], value, branch, "anyOf", i - 1)
      if fits then
        if not seen then return true end
        Run.merge_seen(seen, branch)
        ok = true
      end
      failures[i] = found
    end
    if ok or not run.problems then return ok end
    return report_none(run, "anyOf", value, schema.anyOf, failures)
  end
end

local function build_one(compiler, schema, place, list)
  if schema.oneOf == nil then return end
  local checks = children(compiler, schema, place, "oneOf")
  list[#list + 1] = function(value, run, seen)
    local first, second, failures = nil, nil, {}
    for i = 1, #checks do
      local branch = seen and Run.nothing_seen()
      local fits, found = run:try(checks[i], value, branch, "oneOf", i - 1)
      if fits then
        if first then
          second = i
          break
        end
        first = i
        if seen then Run.merge_seen(seen, branch) end
      end
      failures[i] = found
    end
    if second then
      return run:fail("oneOf", "must fit exactly one of %s, but fits numbers %s and %s",
        values.counted(#checks, "alternative"), first, second)
    end
    if first or not run.problems then return first ~= nil end
    return report_none(run, "oneOf", value, schema.oneOf, failures)
  end
end

local function build_not(compiler, schema, place, list)
  local inner = schema["not"]
  if inner == nil then return end
  local check = compiler:child(inner, place, "not")
  local types = type(inner) == "table" and next(inner) == "type" and next(inner, "type") == nil
    and scalars.name_types(scalars.types_of(inner))
  list[#list + 1] = function(value, run)
    if not run:fits(check, value) then return true end
    if types then return run:fail("not", "must not be %s, got %v", types, value) end
    return run:fail("not", "must not fit the schema under 'not', got %v", value)
  end
end

-- ---- conditions ----

local function build_if(compiler, schema, place, list)
  if schema["if"] == nil then return end
  local condition = compiler:child(schema["if"], place, "if")
  local yes = schema["then"] ~= nil and compiler:child(schema["then"], place, "then")
  local no = schema["else"] ~= nil and compiler:child(schema["else"], place, "else")
  list[#list + 1] = function(value, run, seen)
    local branch = seen and Run.nothing_seen()
    if run:fits(condition, value, branch) then
      if seen then Run.merge_seen(seen, branch) end
      return not yes or run:apply(yes, value, seen, "then")
    end
    return not no or run:apply(no, value, seen, "else")
  end
end

local function build_dependent(compiler, schema, place, list, keyword)
  if schema[keyword] == nil then return end
  local names, checks = {}, {}
  for name, inner in next, schema[keyword] do
    if keyword == "dependentSchemas" or values.kind_of(inner) ~= "array" then
      names[#names + 1] = name
      checks[name] = compiler:child(inner, place, keyword, name)
    end
  end
  table.sort(names)
  list[#list + 1] = function(value, run, seen, kind)
    if kind ~= "object" then return true end
    local ok = true
    for _, name in ipairs(names) do
      if rawget(value, name) ~= nil and not run:apply(checks[name], value, seen, keyword, name) then
        if not run.problems then return false end
        ok = false
      end
    end
    return ok
  end
end

--- Adds the checks for all kinds of values to a list.
---@param compiler table
---@param schema table
---@param place table
---@param list function[]
function inplace.build(compiler, schema, place, list)
  if schema["$recursiveRef"] ~= nil and place.resource.draft == 2019 then
    errors.raise{kind = "argument", message = ("schema: %s/$recursiveRef: is not supported"):format(place.pointer),
      path = place.pointer .. "/$recursiveRef", hint = "$dynamicRef of draft 2020-12 is"}
  end
  build_ref(compiler, schema, place, list)
  build_dynamic_ref(compiler, schema, place, list)
  build_all(compiler, schema, place, list)
  build_any(compiler, schema, place, list)
  build_one(compiler, schema, place, list)
  build_not(compiler, schema, place, list)
  build_if(compiler, schema, place, list)
  build_dependent(compiler, schema, place, list, "dependentSchemas")
  build_dependent(compiler, schema, place, list, "dependencies")
end

return inplace
