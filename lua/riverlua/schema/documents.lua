--- The documents a schema is made of: which resources ($id), anchors and drafts they contain, and where references
-- lead.

local errors = require "riverlua.errors"
local keywords = require "riverlua.schema.keywords"
local meta = require "riverlua.schema.meta"
local uri = require "riverlua.schema.uri"
local values = require "riverlua.schema.values"

---@class riverlua.schema.Resource
---@field uri string without fragment
---@field root table|boolean
---@field pointer string where the root is in its document
---@field draft integer 7 (and before), 2019 or 2020
---@field anchors table<string, {schema: table, pointer: string}>
---@field dynamic table<string, {schema: table, pointer: string}>
---@field metaschema string|nil `$schema`

---@class riverlua.schema.Documents
---@field resources table<string, riverlua.schema.Resource>
---@field roots table<table, riverlua.schema.Resource>
---@field supplied table<string, table|boolean> documents not looked at yet
local Documents = {}
Documents.__index = Documents

local DEEPEST <const> = 256

---@param supplied table<string, table|boolean> further documents by URI
---@return riverlua.schema.Documents
function Documents.new(supplied)
  local waiting = {}
  for location, document in next, supplied do waiting[uri.split(location)] = document end
  return setmetatable({resources = {}, roots = {}, supplied = waiting}, Documents)
end

--- Raises kind "argument" for the schema at a JSON pointer.
---@param pointer string
---@param text string
---@param hint string|nil
function Documents.fail(pointer, text, hint)
  errors.raise{kind = "argument", message = ("schema: %s: %s"):format(pointer == "" and "(root)" or pointer, text),
    path = pointer, hint = hint}
end

local function draft_of(metaschema, otherwise)
  if type(metaschema) ~= "string" then return otherwise end
  if metaschema:find("draft%-0[3-7]/schema") then return 7 end
  if metaschema:find("draft/2019-09/", 1, true) then return 2019 end
  return 2020
end

local function new_resource(self, location, root, pointer, outer)
  local metaschema = type(root) == "table" and root["$schema"]
  if type(metaschema) ~= "string" then metaschema = outer and outer.metaschema end
  local resource = {uri = location, root = root, pointer = pointer, anchors = {}, dynamic = {}, metaschema = metaschema,
    draft = draft_of(metaschema, outer and outer.draft or 2020)}
  local there = self.resources[location]
  if there and there.root ~= root and location ~= "" then
    Documents.fail(pointer, ("another schema has the $id %q too"):format(location))
  end
  self.resources[location] = resource
  return resource
end

local function add_anchor(list, name, schema, pointer)
  if type(name) ~= "string" then return end
  if list[name] and list[name].schema ~= schema then
    Documents.fail(pointer, ("another schema has the anchor %q too"):format(name))
  end
  list[name] = {schema = schema, pointer = pointer}
end

-- The resource that a schema is the root of, or the one around it.
local function enter(self, schema, resource, pointer)
  local id = schema["$id"]
  if type(id) ~= "string" or (resource.draft == 7 and schema["$ref"] ~= nil) then return resource end
  local location, fragment = uri.split(id)
  if fragment and fragment ~= "" then
    if location == "" then
      add_anchor(resource.anchors, fragment, schema, pointer)
      return resource
    end
    Documents.fail(pointer .. "/$id", "must have no fragment", "name places inside a schema with $anchor")
  end
  location = uri.resolve(resource.uri, location)
  if location ~= resource.uri then
    resource = new_resource(self, location, schema, pointer, resource)
    self.roots[schema] = resource
  end
  return resource
end

local function index(self, schema, resource, pointer, depth, visited)
  if type(schema) ~= "table" then return end
  if depth > DEEPEST then
    Documents.fail(pointer:sub(1, 200), ("schemas are nested deeper than %d levels"):format(DEEPEST),
      "a table that contains itself? use $ref")
  end
  resource = enter(self, schema, resource, pointer)
  local seen = visited[resource] or {}
  visited[resource] = seen
  if seen[schema] then return end
  if resource.draft >= 2019 then add_anchor(resource.anchors, schema["$anchor"], schema, pointer) end
  if resource.draft >= 2020 then
    add_anchor(resource.anchors, schema["$dynamicAnchor"], schema, pointer)
    add_anchor(resource.dynamic, schema["$dynamicAnchor"], schema, pointer)
  end
  keywords.each_subschema(schema, resource.draft, function(subschema, keyword, step)
    local place = pointer .. "/" .. uri.pointer_step(keyword)
    if step ~= nil then place = place .. "/" .. uri.pointer_step(step) end
    index(self, subschema, resource, place, depth + 1, visited)
  end)
  seen[schema] = true
end

--- Adds a document.
---@param location string the URI it is known by; "" for the schema itself
---@param document table|boolean
---@return riverlua.schema.Resource
function Documents:add(location, document)
  local pointer = location ~= "" and location .. "#" or ""
  local resource = new_resource(self, location, document, pointer, nil)
  if type(document) ~= "table" then return resource end
  self.roots[document] = resource
  index(self, document, resource, pointer, 0, {})
  return self.roots[document]
end

local function take_supplied(self, location)
  local document = self.supplied[location]
  self.supplied[location] = nil
  if document ~= nil and not self.resources[location] then self:add(location, document) end
end

--- The resource of a URI (without fragment), or nil.
---@param location string
---@return riverlua.schema.Resource|nil
function Documents:find(location)
  if not self.resources[location] then take_supplied(self, location) end
  if self.resources[location] then return self.resources[location] end
  local document = meta.document(location)
  if document then return self:add(location, document) end
  -- it may be the $id of something inside another document
  local rest = {}
  for name in next, self.supplied do rest[#rest + 1] = name end
  table.sort(rest)
  for _, name in ipairs(rest) do
    take_supplied(self, name)
    if self.resources[location] then break end
  end
  return self.resources[location]
end

local function step_into(parent, step)
  local kind = values.kind_of(parent)
  if kind == "array" then
    local place = step:find("^%d+$") and #step < 10 and math.tointeger(tonumber(step))
    return place and parent[place + 1]
  end
  if kind == "object" then return parent[step] end
  return nil
end

-- Follows a JSON pointer from the root of a resource, through resources inside it.
local function follow(self, resource, pointer, fail)
  local current, place = resource.root, resource.pointer
  for step in uri.pointer_steps(pointer) do
    if type(current) ~= "table" then fail() end
    current = step_into(current, step)
    if current == nil then fail() end
    place = place .. "/" .. uri.pointer_step(step)
    if type(current) == "table" then resource = self.roots[current] or resource end
  end
  return current, resource, place
end

local function names_of(...)
  local names = {}
  for _, map in ipairs{...} do
    if type(map) == "table" then
      for name in next, map do
        if type(name) == "string" then names[name] = true end
      end
    end
  end
  return names
end

local function hint_for(resource, fragment)
  local root = resource.root
  local name = fragment:match("([^/]*)$")
  local known = type(root) == "table" and names_of(root["$defs"], root.definitions, resource.anchors) or {}
  local near = name ~= "" and errors.suggest(name, known)
  return near and ("did you mean '%s'?"):format(near) or nil
end

---@class riverlua.schema.Target
---@field schema table|boolean
---@field resource riverlua.schema.Resource
---@field pointer string
---@field anchor string|nil the plain name by which it was found

--- Where a reference leads. Raises kind "argument" where it leads nowhere.
---@param from riverlua.schema.Resource
---@param reference string
---@param pointer string of the reference, for errors
---@return riverlua.schema.Target
function Documents:target(from, reference, pointer)
  local location, fragment = uri.split(reference)
  location = uri.resolve(from.uri, location)
  local resource = self:find(location)
  if not resource then
    Documents.fail(pointer, ("refers to %q, which is not in this document"):format(location),
      "nothing is fetched: hand documents over with the option 'schemas'")
  end
  fragment = uri.unescape(fragment or "")
  local function fail()
    Documents.fail(pointer, ("refers to %q, where there is nothing"):format(reference), hint_for(resource, fragment))
  end
  if fragment == "" or fragment:sub(1, 1) == "/" then
    local schema, home, place = follow(self, resource, fragment, fail)
    return {schema = schema, resource = home, pointer = place}
  end
  local anchor = resource.anchors[fragment]
  if not anchor then fail() end
  return {schema = anchor.schema, resource = resource, pointer = anchor.pointer, anchor = fragment}
end

return Documents
