--- Feature rows: how a map of features travels through a model.
--
-- A row is an array of values beside a `keys` object, which holds the names in the order in which sums run (sorted, as
-- the network client sends them; the order shows in the last bit). One keys object stands for one set of names, so an
-- estimator compares identities instead of names and remembers where its state for these names is.
--
--   row[1..row.keys.n]  the values, booleans as 1 and 0
--   row.keys            {n = count, [i] = name, index = {name = i}}
--   row.other           position of the first value that is not a number, or nil
--   row.source          the map it was read from

local python = require "river.embedded.python"

local row = {}

-- Sets of names that are remembered; a stream with ever new sets starts over.
local MAX_SETS = 64

---@class river.embedded.Keys
---@field n integer
---@field index table<string, integer>

---@class river.embedded.Row
---@field keys river.embedded.Keys
---@field other integer|nil
---@field source table

---@class river.embedded.Reader
local Reader = {}
Reader.__index = Reader

--- Makes a reader. Its row is its own and is overwritten by the next `read`.
---@return river.embedded.Reader
function row.reader()
  return setmetatable({sets = {}, count = 0, index = {}, n = 0, row = {}}, Reader)
end

--- An empty keys object for the given names, in this order.
---@param names string[]
---@return river.embedded.Keys
function row.keys(names)
  local keys = {n = #names, index = {}}
  for i, name in ipairs(names) do
    keys[i] = name
    keys.index[name] = i
  end
  return keys
end

-- Adopts the names of `features`.
local function adopt(self, features)
  local names = {}
  for name in next, features do
    if type(name) ~= "string" then
      python.raise("AttributeError", "'list' object has no attribute 'items'")
    end
    names[#names + 1] = name
  end
  table.sort(names)
  local signature = table.concat(names, "\0")
  local keys = self.sets[signature]
  if not keys then
    if self.count >= MAX_SETS then self.sets, self.count = {}, 0 end
    keys = row.keys(names)
    self.sets[signature] = keys
    self.count = self.count + 1
  end
  self.index, self.n = keys.index, keys.n
  self.row = {keys = keys}
end

--- Reads a map of features.
---@param features table<string, any>
---@return river.embedded.Row valid until the next call
function Reader:read(features)
  local index, out, count, other = self.index, self.row, 0, nil
  for name, value in next, features do
    local i = index[name]
    if not i then
      adopt(self, features)
      return self:read(features)
    end
    if type(value) == "number" then
      out[i] = value
    elseif value == true then
      out[i] = 1
    elseif value == false then
      out[i] = 0
    else
      out[i] = value
      if not other or i < other then other = i end
    end
    count = count + 1
  end
  if count ~= self.n then
    adopt(self, features)
    return self:read(features)
  end
  out.other, out.source = other, features
  return out
end

return row
