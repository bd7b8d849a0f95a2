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

local core = require "riverlua.core.river"
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

--- `read(features, strict)` → row, valid until the next call, and a number that stays the same while equal rows are
--- read. With `strict` it is nil for what no client would send: no features, NaN and infinities, nested values, names
--- that are no strings.
---@class river.embedded.Reader
---@field read fun(self: river.embedded.Reader, features: table, strict: boolean|nil): river.embedded.Row|nil, integer

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

--- Makes a reader. Its rows are its own and are overwritten by its next `read`.
---@return river.embedded.Reader
function row.reader()
  local sets, count = {}, 0
  return core.reader(function(features, strict)
    local names = {}
    for name in next, features do
      if type(name) ~= "string" then
        if strict then return nil end
        python.raise("AttributeError", "'list' object has no attribute 'items'")
      end
      names[#names + 1] = name
    end
    table.sort(names)
    local signature = table.concat(names, "\0")
    local keys = sets[signature]
    if not keys then
      if count >= MAX_SETS then sets, count = {}, 0 end
      keys = row.keys(names)
      sets[signature], count = keys, count + 1
    end
    return keys
  end)
end

return row
