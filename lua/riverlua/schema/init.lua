--- JSON Schema, draft 2020-12: says whether a value fits a schema, and in plain words why not.
--
--     local schema = require "riverlua.schema"
--     local order = schema.compile{type = "object", required = {"price"}, properties = {price = {type = "number"}}}
--     local ok, problems = order:validate{price = "12"}
--     print(schema.describe(problems))                     --> /price: must be a number, got "12"
--     print(schema.sample{type = "array", items = {enum = {"red"}}, minItems = 1}[1])   --> red
--
-- **Values** are what `riverlua.json` decodes, or tables of a script. A table with elements is an array, one with
-- names an object; an empty one without a tag is what the schema wants it to be (with `decoded = true`: an object, as
-- decode makes it). `json.null` is null, and so is `nil` for the whole value; a member that is nil is absent. 1.0 is
-- an integer and equals 1. Lengths of strings count code points. What JSON has no place for (functions, NaN) fits no
-- schema but `true`.
--
-- **Keywords.** All of 2020-12, with references inside the document and into documents given with the option `schemas`:
-- nothing is ever fetched. Of older drafts `definitions`, `dependencies`, `items` as an array with `additionalItems`; a
-- `$schema` that names draft 7 or 2019-09 brings their rules. Not there: `$recursiveRef`, the boolean
-- `exclusiveMinimum` of draft 4. Unknown keywords are ignored, known ones with a wrong value
-- are errors of `compile`. `format` is an annotation unless asked for otherwise. `pattern` is ECMA-262
-- (`riverlua.regex`).
--
-- **Limits.** Raised as kind "limit": schemas of more than 100,000 parts or nested deeper than 256 levels, checks
-- nested deeper than 6,000 levels (as when a `$ref` leads back to itself), more than `max_work` steps, a pattern that
-- backtracks too long, 10 seconds of processor time with patterns.

local Compiler = require "riverlua.schema.compile"
local errors = require "riverlua.errors"
local Run = require "riverlua.schema.run"
local sampler = require "riverlua.schema.sample"
local values = require "riverlua.schema.values"

local schema = {}

local OPTIONS = {formats = true, schemas = true, decoded = true, max_problems = true, max_work = true}
local MOST_PROBLEMS <const> = 100
local MOST_WORK <const> = 5000000

---@class riverlua.schema.Problem
---@field path string JSON pointer into the value; "" is all of it
---@field keyword string the keyword that is not met; "false" for the schema `false`
---@field message string "must be a number, got "12""
---@field schema_path string JSON pointer into the schema, through references

---@class riverlua.schema.Options
---@field formats "annotation"|"assertion"|nil whether `format` is checked (default: "annotation")
---@field schemas table<string, table|boolean>|nil further documents by URI, for references
---@field decoded boolean|nil an empty table without a tag is an object, never an array (default: false)
---@field max_problems integer|nil how many problems are reported at most (default: 100)
---@field max_work integer|nil how many steps a validation may take (default: 5,000,000)

---@class riverlua.schema.Validator
local Validator = {}
Validator.__index = Validator
Validator.__name = "riverlua.schema.Validator"

local function check_count(name, value, default)
  if value == nil then return default end
  errors.expect("schema.compile", name, value, "integer")
  if value < 1 then
    errors.raise{kind = "argument", message = ("schema.compile: '%s' must be at least 1"):format(name)}
  end
  return value
end

local function check_options(options)
  if options == nil then return {} end
  errors.expect("schema.compile", "options", options, "table")
  errors.check_options("schema.compile", options, OPTIONS)
  local formats = options.formats
  if formats ~= nil and formats ~= "annotation" and formats ~= "assertion" then
    errors.raise{kind = "argument", message = "schema.compile: 'formats' must be \"annotation\" or \"assertion\""}
  end
  errors.expect("schema.compile", "schemas", options.schemas, "table|nil")
  for location, document in next, options.schemas or {} do
    errors.expect("schema.compile", "a key of schemas", location, "string")
    errors.expect("schema.compile", "a document of schemas", document, "table|boolean")
  end
  return options
end

local function check_document(document)
  if type(document) == "table" or type(document) == "boolean" then return end
  errors.raise{kind = "argument", path = "",
    message = "schema: (root): must be a schema (an object, true or false), got " .. values.show(document),
    hint = type(document) == "string" and "json.decode makes a table of a text" or nil}
end

--- Reads a schema once, for many validations. Raises kind "argument" naming the JSON pointer (field `path`) of what is
--- wrong with it. Later changes of the table have no effect to rely on.
---@param document table|boolean
---@param options riverlua.schema.Options|nil
---@return riverlua.schema.Validator
function schema.compile(document, options)
  options = check_options(options)
  check_document(document)
  return setmetatable({
    check = (Compiler.compile(document, options)),
    decoded = options.decoded or false,
    most = check_count("max_problems", options.max_problems, MOST_PROBLEMS),
    max_work = check_count("max_work", options.max_work, MOST_WORK),
  }, Validator)
end

--- Whether a value fits, and what is wrong with it: at most `max_problems` of them, in the order of names and places.
--- Raises kind "limit" where finding out takes too long.
---@param value any
---@return boolean ok
---@return riverlua.schema.Problem[] problems
function Validator:validate(value)
  if self.check(value, Run.new(self)) then return true, {} end
  local run = Run.new(self)
  run.problems = {}
  self.check(value, run)
  return false, run.problems
end

--- Compiles a schema and validates one value.
---@param document table|boolean
---@param value any
---@param options riverlua.schema.Options|nil
---@return boolean ok
---@return riverlua.schema.Problem[] problems
function schema.validate(document, value, options)
  return schema.compile(document, options):validate(value)
end

--- The problems as text, one line each: for people, and for a model that is asked to try again.
---@param problems riverlua.schema.Problem[]
---@return string
function schema.describe(problems)
  local lines = {}
  for i, problem in ipairs(problems) do
    lines[i] = (problem.path == "" and "(root)" or problem.path) .. ": " .. problem.message
  end
  return table.concat(lines, "\n")
end

--- A small value that fits a schema: const, default, examples or the first of enum where they fit, otherwise the
--- least the schema asks for. Raises kind "unsupported" where none is found, which does not mean that there is none.
---@param document table|boolean
---@param options riverlua.schema.Options|nil
---@return any
function schema.sample(document, options)
  options = check_options(options)
  check_document(document)
  local _, compiler = Compiler.compile(document, options)
  return sampler.sample(document, compiler)
end

return schema
