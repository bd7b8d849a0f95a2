--- Protobuf messages as Lua tables.
--
--     local protobuf = require "riverlua.protobuf"
--     local schema = protobuf.load("./libecho.so")        -- what protoc-c wrote for echo.proto, as a shared object
--     local Ping = schema:message("echo.Ping")
--     local bytes = Ping:encode{text = "hello", times = 3}
--     print(Ping:decode(bytes).times)                     --> 3
--
-- How fields become values, and how to make such a shared object: docs/protobuf.md.

local core = require "riverlua.core.protobuf"
local errors = require "riverlua.errors"
local json = require "riverlua.json"

local protobuf = {}

--- A message type. Both of its methods raise kind="argument" or "protocol", naming the field and what is wrong with it.
---@class riverlua.protobuf.Message
---@field name string with its package: "river.api.v1.OptimStepRequest"
---@field encode fun(self, message: table): string the bytes of a message; kind="argument" when the table is none
---@field decode fun(self, bytes: string): table the message in the bytes; kind="protocol" when there is none

---@class riverlua.protobuf.Method
---@field name string "OptimStep"
---@field path string of gRPC: "/river.api.v1.RiverService/OptimStep"
---@field request riverlua.protobuf.Message
---@field response riverlua.protobuf.Message

---@class riverlua.protobuf.Service
---@field name string with its package
---@field methods table<string, riverlua.protobuf.Method>

---@class riverlua.protobuf.Schema
---@field path string|nil the file it is from
local Schema = {}
Schema.__index = Schema
Schema.__name = "riverlua.protobuf.Schema"

local function new_schema(library, path)
  return setmetatable({_library = library, path = path, _services = {}}, Schema)
end

local function names_of(schema, kind)
  local list = core.names(schema._library, kind)
  table.sort(list)
  return list
end

local function fail_missing(schema, kind, name)
  local known = names_of(schema, kind)
  local where = schema.path and ("'%s'"):format(schema.path) or "the schema"
  local near = errors.suggest(name, known)
  if not near then   -- the right name in the wrong package
    local last = name:match("[^.]+$")
    for _, candidate in ipairs(known) do
      if last and candidate:match("[^.]+$"):lower() == last:lower() then near = candidate break end
    end
  end
  local text = ("%s has no %s '%s'"):format(where, kind, name)
  if near then
    text = text .. ("; did you mean '%s'?"):format(near)
  elseif #known == 0 then
    text = text .. ", nor any other"
  elseif #known <= 12 then
    text = text .. "; it has " .. table.concat(known, ", ")
  end
  errors.raise{kind = "argument", message = text, hint = not near and "a name begins with its package: pkg.Name" or nil}
end

--- The message type of this name, which begins with its package.
---@param name string "river.api.v1.OptimStepRequest"; nested types: "pkg.Outer.Inner"
---@return riverlua.protobuf.Message
---Raises kind="argument" when there is none.
function Schema:message(name)
  errors.expect("schema:message", "name", name, "string")
  return core.message(self._library, name) or fail_missing(self, "message", name)
end

--- The service of this name, which begins with its package.
---@param name string "river.api.v1.RiverService"
---@return riverlua.protobuf.Service
---Raises kind="argument" when there is none.
function Schema:service(name)
  errors.expect("schema:service", "name", name, "string")
  local service = self._services[name]
  if not service then
    service = core.service(self._library, name) or fail_missing(self, "service", name)
    self._services[name] = service
  end
  return service
end

--- The names of its message types, sorted: also of those that only its fields and methods lead to.
---@return string[]
function Schema:messages() return names_of(self, "message") end

--- The names of its services, sorted.
---@return string[]
function Schema:services() return names_of(self, "service") end

function Schema:__tostring() return ("riverlua.protobuf.Schema(%s)"):format(self.path or "training") end

errors.want_colon(Schema, "schema")

local HOW_TO_BUILD = "protoc-c --c_out=. x.proto; cc -shared -fPIC -o libx.so x.pb-c.c -lprotobuf-c"

local function hint_of(path, why)
  if why:find("undefined symbol: protobuf_c", 1, true) then return "link the shared object with -lprotobuf-c" end
  if why:find("libprotobuf%-c") then return "install the package libprotobuf-c1" end
  if not path:find("/", 1, true) then return "a name without a slash is looked for among the system's libraries" end
  if why:find("invalid ELF header", 1, true) or why:find("file too short", 1, true) then
    return "it must be a shared object: " .. HOW_TO_BUILD
  end
end

--- Loads a shared object made of what protoc-c wrote for .proto files (see docs/protobuf.md). Its code is run as that
--- of any library, so it must come from where you trust. It stays loaded for the life of the process.
---@param path string as for dlopen: with a slash, or a library of the system
---@return riverlua.protobuf.Schema
---Raises kind="argument" when it cannot be loaded or is not made of protoc-c's output.
function protobuf.load(path)
  errors.expect("protobuf.load", "path", path, "string")
  local library, why = core.load(path)
  if not library then
    errors.raise{kind = "argument", message = ("protobuf.load: %s"):format(why), hint = hint_of(path, why)}
  end
  local schema = new_schema(library, path)
  if #schema:messages() == 0 and #schema:services() == 0 then
    errors.raise{kind = "argument",
      message = ("protobuf.load: '%s' has no messages of protobuf-c %s"):format(path, why and "with names" or "in it"),
      hint = why and "compile the .proto without 'option optimize_for = CODE_SIZE'"
        or "compile what protoc-c writes, and do not hide its symbols: " .. HOW_TO_BUILD}
  end
  return schema
end

-- --------------------------------------------------------------------------------------- values of any shape

local DEEPEST = 100

local from_value

local function from_fields(fields)
  local out = {}
  for name, value in pairs(fields or {}) do
    local plain = from_value(value)
    if plain ~= json.null then out[name] = plain end
  end
  return out
end

function from_value(value)
  if value.struct_value then return from_fields(value.struct_value.fields) end
  if value.list_value then
    local out = {}
    for i, element in ipairs(value.list_value.values or {}) do out[i] = from_value(element) end
    return json.array(out)
  end
  if value.bool_value ~= nil then return value.bool_value end
  if value.number_value ~= nil then return value.number_value end
  if value.string_value ~= nil then return value.string_value end
  return json.null
end

--- The plain table that a message of the shape of google.protobuf.Struct stands for. Members that are null are absent;
--- in lists, which are tagged as arrays, they are `riverlua.json.null`. Numbers are floats.
---@param message table|nil a decoded Struct: `{fields = {name = {string_value = "…"}}}`
---@return table|nil
function protobuf.struct_to_table(message)
  if message == nil then return nil end
  errors.expect("protobuf.struct_to_table", "message", message, "table")
  return from_fields(message.fields)
end

local to_value

local function refuse(where, text)
  errors.raise{kind = "argument", message = ("protobuf.table_to_struct: %s: %s"):format(where, text)}
end

local function is_list(value)
  if json.is_array(value) then return true end
  local count = 0
  for key in pairs(value) do
    if math.type(key) ~= "integer" then return false end
    count = count + 1
  end
  return count > 0 and count == #value
end

local function to_fields(value, where, depth)
  local fields = {}
  for name, inner in pairs(value) do
    if type(name) ~= "string" then refuse(where, ("names are strings, got %s"):format(tostring(name))) end
    fields[name] = to_value(inner, where .. "." .. name, depth)
  end
  return {fields = fields}
end

function to_value(value, where, depth)
  local kind = type(value)
  if value == json.null then return {null_value = "NULL_VALUE"} end
  if kind == "string" then return {string_value = value} end
  if kind == "number" then return {number_value = value} end
  if kind == "boolean" then return {bool_value = value} end
  if depth > DEEPEST then refuse(where, "nested too deep: does a table contain itself?") end
  if core.is_array(value) or (kind == "table" and is_list(value)) then
    local values = {}
    for i = 1, #value do values[i] = to_value(value[i], ("%s[%d]"):format(where, i), depth + 1) end
    return {list_value = {values = values}}
  end
  if kind ~= "table" then refuse(where, ("%s has no place in a Struct"):format(errors.with_article(kind))) end
  return {struct_value = to_fields(value, where, depth + 1)}
end

--- The message of the shape of google.protobuf.Struct for a table of names to texts, numbers, booleans, lists, tables
--- and `riverlua.json.null`. An empty table inside it is a Struct unless it is tagged by `riverlua.json.array`.
---@param value table|nil
---@return table|nil
---Raises kind="argument" for what has no place in a Struct.
function protobuf.table_to_struct(value)
  if value == nil then return nil end
  errors.expect("protobuf.table_to_struct", "value", value, "table")
  return to_fields(value, "value", 1)
end

--- Seconds since 1970, with their fraction, of a message of the shape of google.protobuf.Timestamp; or the message for
--- such a number.
---@param value table|number|nil `{seconds =, nanos =}`, or seconds
---@return number|table|nil
function protobuf.timestamp(value)
  if value == nil then return nil end
  if type(value) == "table" then return (value.seconds or 0) + (value.nanos or 0) / 1e9 end
  errors.expect("protobuf.timestamp", "value", value, "number")
  local seconds = math.floor(value)
  local nanos = math.floor((value - seconds) * 1e9 + 0.5)
  if nanos >= 1000000000 then seconds, nanos = seconds + 1, 0 end
  return {seconds = seconds, nanos = nanos}
end

--- The messages of the training service, which are linked in.
---@type riverlua.protobuf.Schema
protobuf.training = nil

return setmetatable(protobuf, {__index = function(self, name)
  if name ~= "training" then return nil end
  local schema = new_schema(core.training())
  rawset(self, "training", schema)
  return schema
end})
