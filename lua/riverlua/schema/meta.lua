--- The schema of schemas, for schemas that refer to it: made from the table of keywords.

local keywords = require "riverlua.schema.keywords"

local meta = {}

local BASE = "https://json-schema.org/draft/2020-12/"

-- The table of keywords knows one vocabulary of formats, the specification two.
local VOCABULARIES = {core = "core", applicator = "applicator", unevaluated = "unevaluated", validation = "validation",
  content = "content", ["meta-data"] = "meta-data", ["format-annotation"] = "format", ["format-assertion"] = "format"}

local function document(location, wanted, vocabularies)
  local members = {}
  for name, keyword in next, keywords.known do
    if wanted(keyword) then members[name] = keywords.shapes[keyword.shape].schema end
  end
  return {["$id"] = location, ["$schema"] = BASE .. "schema", ["$dynamicAnchor"] = "meta",
    ["$vocabulary"] = vocabularies, type = {"object", "boolean"}, properties = members}
end

--- The document of this URI, if it is one of those that define JSON Schema 2020-12.
---@param location string
---@return table|nil
function meta.document(location)
  if location == BASE .. "schema" then
    local vocabularies = {}
    for name in next, VOCABULARIES do vocabularies[BASE .. "vocab/" .. name] = name ~= "format-assertion" or nil end
    return document(location, function() return true end, vocabularies)
  end
  local name = location:sub(1, #BASE) == BASE and location:sub(#BASE + 1):match("^meta/(.+)$")
  local vocabulary = name and VOCABULARIES[name]
  if not vocabulary then return nil end
  return document(location, function(keyword) return keyword.vocabulary == vocabulary end,
    {[BASE .. "vocab/" .. name] = true})
end

--- Which vocabularies a schema with this `$vocabulary` uses: a set of the names in the table of keywords, with
--- "format" if formats are known and "assertion" if they are asserted.
---@param declared table<string, boolean>
---@return table<string, boolean>
function meta.vocabularies(declared)
  local used = {}
  for location in next, declared do
    local name = type(location) == "string" and location:sub(1, #BASE) == BASE
      and location:sub(#BASE + 1):match("^vocab/(.+)$")
    if name and VOCABULARIES[name] then used[VOCABULARIES[name]] = true end
    if name == "format-assertion" then used.assertion = true end
  end
  return used
end

return meta
