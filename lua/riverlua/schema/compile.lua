--- Turns a JSON Schema into nested functions. Every schema becomes a cell {check =, always =}: references may reach a
-- cell before its check is made, so what they lead to waits in a queue.

local arrays = require "riverlua.schema.arrays"
local Documents = require "riverlua.schema.documents"
local errors = require "riverlua.errors"
local inplace = require "riverlua.schema.inplace"
local keywords = require "riverlua.schema.keywords"
local meta = require "riverlua.schema.meta"
local objects = require "riverlua.schema.objects"
local Run = require "riverlua.schema.run"
local scalars = require "riverlua.schema.scalars"
local uri = require "riverlua.schema.uri"
local values = require "riverlua.schema.values"

local MOST_SCHEMAS <const> = 100000

---@class riverlua.schema.Cell
---@field check fun(value: any, run: riverlua.schema.Run, seen: table|nil): boolean
---@field always riverlua.schema.Cell[] what it applies to every value: these must not lead back to it
---@field pointer string

---@class riverlua.schema.Compiler
---@field documents riverlua.schema.Documents
---@field cells table<table, table<table|boolean, riverlua.schema.Cell>> by resource and schema
---@field queue table[] cells to be made
---@field dynamic table<string, table> cells of dynamic anchors by resource
local Compiler = {}
Compiler.__index = Compiler

Compiler.fail = Documents.fail

local function check_true() return true end

local function check_false(_, run) return run:fail("false", "is not allowed") end

--- The JSON pointer of a place inside a schema.
---@param place table
---@param keyword string
---@param further string|integer|nil
---@return string
function Compiler.pointer(place, keyword, further)
  local pointer = place.pointer .. "/" .. uri.pointer_step(keyword)
  if further == nil then return pointer end
  return pointer .. "/" .. uri.pointer_step(further)
end

-- The vocabularies that a resource uses; nil: all, with formats as annotations.
local function vocabularies_of(self, resource)
  if resource.vocabularies == nil then
    local location = resource.metaschema and uri.split(resource.metaschema)
    local loaded = location and self.documents.resources[location]
    local document = loaded and loaded.root or location and self.documents.supplied[location]
    local declared = type(document) == "table" and document["$vocabulary"]
    resource.vocabularies = type(declared) == "table" and meta.vocabularies(declared) or false
  end
  return resource.vocabularies
end

--- Whether `format` is a check in this resource.
---@param resource riverlua.schema.Resource
---@return boolean
function Compiler:asserts_formats(resource)
  local used = vocabularies_of(self, resource)
  return self.formats == "assertion" or used and used.assertion or false
end

-- The keywords of a schema that count in its resource, with their values checked.
local function effective(self, schema, resource, pointer)
  local used = vocabularies_of(self, resource)
  local counted = {}
  for name, value in next, schema do
    local known = keywords.known[name]
    if known and (known.since or 0) <= resource.draft and (not used or used[known.vocabulary]
      or known.vocabulary == "core") then
      local shape = keywords.shapes[known.shape]
      if not shape.test(value) then
        Documents.fail(pointer .. "/" .. name, ("must be %s, got %s"):format(shape.wants, values.show(value)))
      end
      counted[name] = value
    elseif name == "$recursiveRef" then
      counted[name] = value
    end
  end
  if resource.draft == 7 and counted["$ref"] then return {["$ref"] = counted["$ref"]} end
  return counted
end

-- What an empty table without a tag is: an object, unless only an array makes sense.
local function empty_kind(self, schema)
  if self.decoded then return "object" end
  local types = scalars.types_of(schema)
  if types then
    local kind = "object"
    for _, name in ipairs(types) do
      if name == "object" then return "object" end
      if name == "array" then kind = "array" end
    end
    return kind
  end
  local for_arrays = schema.items ~= nil or schema.prefixItems or schema.minItems or schema.contains ~= nil
  local for_objects = schema.properties or schema.required or schema.minProperties
  return for_arrays and not for_objects and "array" or "object"
end

local function reject(value, run)
  return run:fail("type", "must be a JSON value, got %v", value)
end

local kind_of = values.kind_of

-- The check made of the lists for each kind of value.
local function dispatch(parts, empty_as)
  local other = {reject}
  return function(value, run, seen)
    local kind = kind_of(value)
    if kind == "empty" then kind = empty_as end
    local list = parts[kind] or other
    local ok = true
    for i = 1, #list do
      if not list[i](value, run, seen, kind) then
        if not run.problems then return false end
        ok = false
      end
    end
    return ok
  end
end

-- With its own collection of what has been evaluated, which the checks of the unevaluated keywords look at in the end.
local function collecting(check)
  return function(value, run, outer)
    local seen = Run.nothing_seen()
    local ok = check(value, run, seen)
    if outer and ok then Run.merge_seen(outer, seen) end
    return ok
  end
end

local function entering(check, resource)
  return function(value, run, seen)
    local scope = run.scope
    scope[#scope + 1] = resource
    local ok = check(value, run, seen)
    scope[#scope] = nil
    return ok
  end
end

local function build(self, schema, place)
  local counted = effective(self, schema, place.resource, place.pointer)
  local parts = {null = {}, boolean = {}, number = {}, string = {}, array = {}, object = {}}
  scalars.build(self, counted, place, parts)
  arrays.build(self, counted, place, parts.array)
  objects.build(self, counted, place, parts.object)
  local common = {}
  inplace.build(self, counted, place, common)
  for _, list in next, parts do table.move(common, 1, #common, #list + 1, list) end
  local late_array = arrays.unevaluated(self, counted, place)
  local late_object = objects.unevaluated(self, counted, place)
  parts.array[#parts.array + 1] = late_array
  parts.object[#parts.object + 1] = late_object
  local check = dispatch(parts, empty_kind(self, counted))
  if late_array or late_object then check = collecting(check) end
  if place.resource.root == schema then check = entering(check, place.resource) end
  return check
end

-- The cell of a schema, new or known; `fresh` tells which.
local function cell_of(self, schema, resource, pointer)
  local known = self.cells[resource]
  if not known then
    known = {}
    self.cells[resource] = known
  end
  if known[schema] then return known[schema], false end
  if type(schema) ~= "boolean" and not keywords.shapes.schema.test(schema) then
    Documents.fail(pointer, "must be a schema (an object, true or false), got " .. values.show(schema))
  end
  self.count = self.count + 1
  if self.count > MOST_SCHEMAS then
    errors.raise{kind = "limit", message = ("schema: it has more than %d parts"):format(MOST_SCHEMAS)}
  end
  local cell = {always = {}, pointer = pointer}
  if type(schema) == "boolean" then cell.check = schema and check_true or check_false end
  known[schema] = cell
  return cell, type(schema) == "table"
end

local function make(self, cell, schema, resource, pointer)
  cell.check = build(self, schema, {resource = resource, pointer = pointer, cell = cell})
end

--- The cell of a schema inside a schema.
---@param schema table|boolean
---@param place table
---@param keyword string
---@param further string|integer|nil
---@return riverlua.schema.Cell
function Compiler:child_cell(schema, place, keyword, further)
  local pointer = Compiler.pointer(place, keyword, further)
  local resource = type(schema) == "table" and self.documents.roots[schema] or place.resource
  local cell, fresh = cell_of(self, schema, resource, pointer)
  if fresh then
    make(self, cell, schema, resource, pointer)
  elseif not cell.check then
    -- a reference has asked for it, and it is not made yet; or it is being made
    if self.waiting[cell] then
      self.waiting[cell] = nil
      make(self, cell, schema, resource, pointer)
    else
      Documents.fail(pointer, "contains itself", "use $ref")
    end
  end
  return cell
end

--- The check of a schema inside a schema.
function Compiler:child(schema, place, keyword, further)
  return self:child_cell(schema, place, keyword, further).check
end

local function request(self, schema, resource, pointer)
  local cell, fresh = cell_of(self, schema, resource, pointer)
  if fresh then
    self.waiting[cell] = true
    self.queue[#self.queue + 1] = {cell, schema, resource, pointer}
  end
  return cell
end

--- The cell a reference leads to.
---@param reference string
---@param place table
---@param pointer string of the reference
---@return riverlua.schema.Cell
---@return riverlua.schema.Target
function Compiler:reference(reference, place, pointer)
  local target = self.documents:target(place.resource, reference, pointer)
  return request(self, target.schema, target.resource, target.pointer), target
end

--- The cells of the dynamic anchors of a name, by resource; filled in by `finish`.
---@param name string
---@return table<riverlua.schema.Resource, riverlua.schema.Cell>
function Compiler:dynamic_cells(name)
  self.dynamic[name] = self.dynamic[name] or {}
  return self.dynamic[name]
end

-- Dynamic anchors of resources that take part.
local function request_dynamic(self)
  for name, cells in next, self.dynamic do
    local taking_part = {}
    for resource in next, self.cells do taking_part[#taking_part + 1] = resource end
    for _, resource in ipairs(taking_part) do
      local anchor = resource.dynamic[name]
      if anchor and not cells[resource] then
        cells[resource] = request(self, anchor.schema, resource, anchor.pointer)
      end
    end
  end
end

local function drain(self)
  local done = 0
  repeat
    while done < #self.queue do
      done = done + 1
      local cell, schema, resource, pointer = table.unpack(self.queue[done])
      if self.waiting[cell] then
        self.waiting[cell] = nil
        make(self, cell, schema, resource, pointer)
      end
    end
    request_dynamic(self)
  until done == #self.queue
end

-- Raises where a schema applies itself to the same value without condition.
local function check_loops(first, state)
  if state[first] then return end
  local stack = {{first, 0}}
  state[first] = "open"
  while #stack > 0 do
    local top = stack[#stack]
    local cell, at = top[1], top[2] + 1
    top[2] = at
    local following = cell.always[at]
    if not following then
      state[cell] = "done"
      stack[#stack] = nil
    elseif state[following] == "open" then
      Documents.fail(following.pointer, "leads back to itself without end",
        "a $ref to itself is fine in a member or element")
    elseif not state[following] then
      state[following] = "open"
      stack[#stack + 1] = {following, 0}
    end
  end
end

--- Compiles a schema and what it refers to.
---@param schema table|boolean
---@param options {formats: string|nil, schemas: table|nil, decoded: boolean|nil}
---@return fun(value: any, run: riverlua.schema.Run): boolean check
---@return riverlua.schema.Compiler
function Compiler.compile(schema, options)
  local self = setmetatable({documents = Documents.new(options.schemas or {}), cells = {}, queue = {}, waiting = {},
    dynamic = {}, count = 0, formats = options.formats, decoded = options.decoded}, Compiler)
  local resource = self.documents:add("", schema)
  local first = request(self, schema, resource, "")
  drain(self)
  local state = {}
  for _, known in next, self.cells do
    for _, cell in next, known do check_loops(cell, state) end
  end
  return first.check, self
end

return Compiler
