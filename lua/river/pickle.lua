--- Model descriptions as pickle bytes (protocol 4), for `dill.loads` on the server; and pickles read without Python.
--
-- A class is called through `functools.partial`: NEWOBJ_EX makes partial(Class, *args, **kwargs) and REDUCE calls it,
-- so the constructor runs with named arguments and with the defaults of the server's own version of the library.
-- Nothing else is needed, whatever the classes look like inside.

local errors = require "riverlua.errors"
local model = require "river.model"

local pickle = {}

local NONE, TRUE, FALSE = "N", "\x88", "\x89"
local GLOBAL, REDUCE, NEWOBJ_EX, BUILD = "\x93", "R", "\x92", "b"
local TUPLES = {[0] = ")", "\x85", "\x86", "\x87"}

local Writer = {}
Writer.__index = Writer

local function fail(message, hint)
  errors.raise{kind = "argument", message = message, hint = hint}
end

function Writer:put(bytes)
  self[#self + 1] = bytes
end

function Writer:integer(value)
  if value >= 0 and value <= 0xff then
    self:put(("<c1B"):pack("K", value))
  elseif value >= -0x80000000 and value <= 0x7fffffff then
    self:put(("<c1i4"):pack("J", value))
  else
    local bytes = 5
    while bytes < 8 and (value < -(1 << (8 * bytes - 1)) or value >= 1 << (8 * bytes - 1)) do bytes = bytes + 1 end
    self:put(("<c1Bi" .. bytes):pack("\x8a", bytes, value))
  end
end

function Writer:string(value)
  if #value < 0x100 then
    self:put(("c1s1"):pack("\x8c", value))
  elseif #value <= 0xffffffff then
    self:put(("<c1s4"):pack("X", value))
  else
    fail("a string of 4 GB or more does not fit into a model")
  end
end

function Writer:check_allowed(name)
  if name:sub(1, 6) == "river." then return end
  for _, allowed in ipairs(self.allow) do
    if name == allowed or name:sub(1, #allowed + 1) == allowed .. "." then return end
  end
  fail(("the model names %s, which is not part of river"):format(name),
    ("loading a pickle runs code on the server; allow it with upload_model{…, allow = {%q}}"):format(name))
end

-- A class or function: module and name.
function Writer:global(module, name)
  self:string(module)
  self:string(name)
  self:put(GLOBAL)
end

function Writer:name(dotted)
  self:check_allowed(dotted)
  self:global(dotted:match("^(.*)%.([^.]+)$"))
end

function Writer:tuple(items, count, first)
  local total = count + (first and 1 or 0)
  if total > 3 then self:put("(") end
  if first then self:name(first) end
  for index = 1, count do self:value(items[index]) end
  self:put(TUPLES[total] or "t")
end

function Writer:list(items)
  self:put("]")
  if #items == 0 then return end
  self:put("(")
  for _, item in ipairs(items) do self:value(item) end
  self:put("e")
end

function Writer:set(items)
  self:put("\x8f(")
  for _, item in ipairs(items) do self:value(item) end
  self:put("\x90")
end

function Writer:dict(pairs_given)
  self:put("}")
  if #pairs_given == 0 then return end
  self:put("(")
  for _, pair in ipairs(pairs_given) do
    self:value(pair[1])
    self:value(pair[2])
  end
  self:put("u")
end

local function sorted_names(named)
  local names = {}
  for name in pairs(named) do names[#names + 1] = name end
  table.sort(names)
  return names
end

function Writer:named_arguments(kwargs, names)
  self:put("}(")
  for _, name in ipairs(names) do
    self:string(name)
    self:value(kwargs[name])
  end
  self:put("u")
end

function Writer:memo(small, big, slot)
  self:put(slot < 0x100 and ("<c1B"):pack(small, slot) or ("<c1I4"):pack(big, slot))
end

-- Gives the object on the stack its own method under a second name.
function Writer:build_aliases(aliases, slot)
  self:put("}(")
  for _, name in ipairs(sorted_names(aliases)) do
    self:string(name)
    self:global("builtins", "getattr")
    self:memo("h", "j", slot)
    self:string(aliases[name])
    self:put(TUPLES[2] .. REDUCE)
  end
  self:put("u" .. BUILD)
end

function Writer:node(node)
  local slot = self.slots[node]
  if slot then return self:memo("h", "j", slot) end
  local names = sorted_names(node.kwargs)
  if #names > 0 then
    self:global("functools", "partial")
    self:tuple(node.args, node.args.n, node.class)
    self:named_arguments(node.kwargs, names)
    self:put(NEWOBJ_EX .. TUPLES[0])
  else
    self:name(node.class)
    self:tuple(node.args, node.args.n)
  end
  self:put(REDUCE)
  if node.aliases or self.uses[node] > 1 then
    slot = self.next_slot
    self.next_slot = slot + 1
    self.slots[node] = slot
    self:memo("q", "r", slot)
  end
  if node.aliases then self:build_aliases(node.aliases, slot) end
end

function Writer:value(value)
  local kind = model.kind(value)
  if kind == "node" then return self:node(value)
  elseif kind == "none" then return self:put(NONE)
  elseif kind == "boolean" then return self:put(value and TRUE or FALSE)
  elseif kind == "integer" then return self:integer(value)
  elseif kind == "float" then return self:put((">c1d"):pack("G", value))
  elseif kind == "string" then return self:string(value)
  elseif kind == "reference" then return self:name(value.name)
  elseif kind == "tuple" then return self:tuple(value, #value)
  elseif kind == "list" then return self:list(value)
  elseif kind == "set" then return self:set(value)
  elseif kind == "dict" then return self:dict(value)
  end
  fail(("a %s cannot be part of a model"):format(type(value)))
end

-- How often each node occurs: one that occurs again must become the same object again.
local function count_uses(value, uses)
  local kind = model.kind(value)
  if kind == "node" then
    uses[value] = (uses[value] or 0) + 1
    if uses[value] > 1 then return end
    for index = 1, value.args.n do count_uses(value.args[index], uses) end
    for _, argument in pairs(value.kwargs) do count_uses(argument, uses) end
  elseif kind == "list" or kind == "tuple" or kind == "set" then
    for _, item in ipairs(value) do count_uses(item, uses) end
  elseif kind == "dict" then
    for _, pair in ipairs(value) do
      count_uses(pair[1], uses)
      count_uses(pair[2], uses)
    end
  end
end

--- Pickle bytes that make the described object.
---
--- Equal descriptions give equal bytes (named arguments are sorted).
---@param value table|any a model (or any argument value of one)
---@param options {allow: string[]}|nil names or modules outside `river.` that may occur, e.g. {"numbers.Number"}
---@return string bytes
function pickle.dumps(value, options)
  options = options or {}
  errors.check_options("river.pickle.dumps", options, {allow = true})
  local allow = options.allow or {}
  if type(allow) == "string" then allow = {allow} end
  local writer = setmetatable({allow = allow, slots = {}, next_slot = 0, uses = {}}, Writer)
  count_uses(value, writer.uses)
  writer:put("\x80\x04")
  writer:value(value)
  writer:put(".")
  return table.concat(writer)
end

--- Reads a pickle into inert tables; nothing is executed. See `river.pickle_reader`.
---@param source string bytes or the path of a file
---@param options table|nil {max_bytes=, max_values=, max_depth=}
---@return any value
function pickle.read(source, options)
  return require("river.pickle_reader").read(source, options)
end

--- What is in a pickle that was read, as indented text.
---@param value any
---@param options {lines: integer}|nil at most so many lines (200)
---@return string
function pickle.outline(value, options)
  return require("river.pickle_outline").format(value, options)
end

--- What a value of a pickle is: "node", "dict", "float" … See `river.pickle_reader`.
---@param value any
---@return string|nil
function pickle.kind(value)
  return require("river.pickle_reader").kind(value)
end

return pickle
