--- Learned models as bytes, whatever they are made of: tables that refer to each other, numbers, texts.
--
-- A snapshot is the graph of an object: scalars bit by bit, tables once with everything that refers to them, objects
-- by the name under which `registry` knows their metatable. Fields that a class lists as `transient` are left out;
-- `class.revive(self)` is called once all is there. An object that keeps its numbers elsewhere has `save(self)` → plain
-- table and the class `load(self, saved)`.
--
-- The bytes stand inside a pickle of a dictionary, so that a River server that is given one refuses it in words of its
-- own. Reading never runs anything that is in the bytes.

local errors = require "riverlua.errors"
local python = require "river.embedded.python"
local registry = require "river.embedded.registry"

local snapshot = {}

local VERSION = 1
-- A pickle: {"riverlua snapshot": <bytes>}.
local HEAD = "\x80\x04}\x8c\x11riverlua snapshotB"
local TAIL = "s."

local MAX_DEPTH = 100000

-- A change of any bit shows: FNV-1a over eight bytes at a time.
local function checksum(bytes)
  local hash, unpack = 0xcbf29ce484222325, string.unpack
  local whole = #bytes - #bytes % 8
  for i = 1, whole, 8 do hash = (hash ~ unpack("<i8", bytes, i)) * 0x100000001b3 end
  for i = whole + 1, #bytes do hash = (hash ~ bytes:byte(i)) * 0x100000001b3 end
  return hash
end

local function refuse(text, ...)
  errors.raise{kind = "argument", message = "the saved model cannot be read: " .. text:format(...)}
end

-- ------------------------------------------------------------------------------------------------------ writing

local Writer = {}
Writer.__index = Writer

function Writer:put(bytes)
  self.count = self.count + 1
  self[self.count] = bytes
end

local function name_of(metatable)
  if metatable == nil then return "" end
  local name = rawget(metatable, "helper_name") or rawget(metatable, "class")
  if not name or registry.metatable(name) ~= metatable then
    errors.raise{kind = "unsupported", message = "a model holds an object that cannot be saved"}
  end
  return name
end

-- The fields of a table, without those that are only caches.
local function write_fields(self, object, transient)
  local length = #object
  self:put(("<I4"):pack(length))
  for i = 1, length do self:value(object[i]) end
  for key, value in next, object do
    if not (math.type(key) == "integer" and key >= 1 and key <= length) and not (transient and transient[key]) then
      self:value(key)
      self:value(value)
    end
  end
  self:put("N")
end

local function set_of(list)
  if not list then return nil end
  local set = {}
  for _, name in ipairs(list) do set[name] = true end
  return set
end

function Writer:table(object)
  local metatable = getmetatable(object)
  self.places = self.places + 1
  self.place_of[object] = self.places
  local save = metatable and metatable.save
  self:put(("<c1s1"):pack(save and "S" or "t", name_of(metatable)))
  if save then return self:value(save(object)) end
  write_fields(self, object, metatable and set_of(metatable.transient))
end

function Writer:value(value)
  local kind = type(value)
  if kind == "number" then
    self:put(math.type(value) == "integer" and ("<c1i8"):pack("i", value) or ("<c1d"):pack("d", value))
  elseif kind == "string" then
    self:put(("<c1s4"):pack("s", value))
  elseif kind == "boolean" then
    self:put(value and "T" or "F")
  elseif value == python.None then
    self:put("0")
  elseif kind == "table" then
    local place = self.place_of[value]
    if place then return self:put(("<c1I4"):pack("r", place)) end
    self:table(value)
  elseif value == nil then
    self:put("N")
  elseif value == require("riverlua.json").null then
    self:put("0")
  else
    errors.raise{kind = "unsupported", message = ("a model holds a %s, which cannot be saved"):format(kind)}
  end
end

--- The bytes around a graph: the pickle, and a checksum.
---@param graph string
---@return string
function snapshot.frame(graph)
  return HEAD .. ("<s4"):pack(graph .. ("<i8"):pack(checksum(graph))) .. TAIL
end

--- The bytes of a value.
---@param value any scalars, tables, objects of the registry
---@return string bytes
---Raises kind "unsupported" for what cannot be saved.
function snapshot.dump(value)
  local writer = setmetatable({count = 0, places = 0, place_of = {}}, Writer)
  writer:put(("<B"):pack(VERSION))
  writer:value(value)
  return snapshot.frame(table.concat(writer))
end

-- ------------------------------------------------------------------------------------------------------ reading

local Reader = {}
Reader.__index = Reader

function Reader:unpack(format)
  local ok, value, after = pcall(string.unpack, format, self.bytes, self.at)
  if not ok then refuse("it is cut off") end
  self.at = after
  return value
end

local function metatable_of(name)
  if name == "" then return nil end
  local metatable = registry.metatable(name)
  if not metatable then refuse("it holds a '%s', which this version does not know", name) end
  return metatable
end

local function read_fields(self, object, depth)
  local length = self:unpack("<I4")
  -- every item takes a byte: a length beyond the input is a lie
  if length > #self.bytes - self.at then refuse("it is cut off") end
  for i = 1, length do object[i] = self:value(depth) end
  while true do
    local key = self:value(depth)
    if key == nil then return end
    if key ~= key then refuse("it is malformed") end
    object[key] = self:value(depth)
  end
end

function Reader:object(tag, depth)
  local metatable = metatable_of(self:unpack("<s1"))
  local object = {}
  self.places = self.places + 1
  self.objects[self.places] = object
  if tag == "t" then
    read_fields(self, object, depth)
    if metatable and metatable.revive then self.revived[#self.revived + 1] = object end
    return setmetatable(object, metatable)
  end
  local saved = self:value(depth)
  if not metatable or not metatable.load or type(saved) ~= "table" then refuse("it is malformed") end
  setmetatable(object, metatable)
  metatable.load(object, saved)
  return object
end

local READ = {
  N = function() return nil end,
  T = function() return true end,
  F = function() return false end,
  ["0"] = function() return python.None end,
  i = function(self) return self:unpack("<i8") end,
  d = function(self) return self:unpack("<d") end,
  s = function(self) return self:unpack("<s4") end,
  r = function(self)
    local object = self.objects[self:unpack("<I4")]
    if object == nil then refuse("it is malformed") end
    return object
  end,
  t = function(self, depth) return self:object("t", depth) end,
  S = function(self, depth) return self:object("S", depth) end,
}

function Reader:value(depth)
  if depth > MAX_DEPTH then refuse("it is nested too deep") end
  local tag = self.bytes:sub(self.at, self.at)
  local read = READ[tag]
  if not read then refuse(tag == "" and "it is cut off" or "it is malformed") end
  self.at = self.at + 1
  return read(self, depth + 1)
end

--- Tells whether bytes are a snapshot.
---@param bytes string
---@return boolean
function snapshot.is(bytes)
  return bytes:sub(1, #HEAD) == HEAD
end

--- Raises kind "unsupported" unless the server, as it describes itself, reads snapshots.
---@param info table what `Client:info` returned
function snapshot.check_server(info)
  if info.id == "riverlua_embedded" then return end
  errors.raise{kind = "unsupported", message = "upload_model: this is a snapshot that embedded: made of a model; " ..
    "only riverlua can read it, this server cannot",
    hint = "models whose learning Python can continue are downloaded as pickles: see docs/river.md"}
end

--- The value that bytes of `snapshot.dump` stand for.
---@param bytes string
---@return any
---Raises kind "argument" when they are cut off or damaged.
function snapshot.load(bytes)
  if not snapshot.is(bytes) then refuse("it is no snapshot of riverlua") end
  local ok, inner = pcall(string.unpack, "<s4", bytes, #HEAD + 1)
  if not ok or #HEAD + 4 + #inner + #TAIL ~= #bytes then refuse("it is cut off") end
  local body = inner:sub(1, -9)
  if #inner < 9 or ("<i8"):unpack(inner, -8) ~= checksum(body) then refuse("it is damaged") end
  local self = setmetatable({bytes = body, at = 1, places = 0, objects = {}, revived = {}}, Reader)
  local version = self:unpack("<B")
  if version ~= VERSION then refuse("it is of version %d, this program reads version %d", version, VERSION) end
  local read, value = pcall(function()
    local root = self:value(0)
    -- inner objects come first: an outer one may ask them
    for _, object in ipairs(self.revived) do object:revive() end
    return root
  end)
  if read then return value end
  -- fields of other shapes than ours trip over themselves; that is the fault of the bytes
  if errors.is(value) then error(value, 0) end
  refuse("it is malformed")
end

return snapshot
