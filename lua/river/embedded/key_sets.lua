--- What transformers need to make rows of their own: one keys object per set of names, and the picking of features.

local row_module = require "river.embedded.row"

local key_sets = {}

-- Sets of names that are remembered; a stream with ever new ones starts over.
local MAX_SETS = 256

---@class river.embedded.KeySets a cache, not to be saved
---@field sets table<string, river.embedded.Keys>

---@return river.embedded.KeySets
function key_sets.new()
  return {sets = {}, count = 0, rows = {}, row_count = 0}
end

--- The keys object of names in this order: always the same one while it is remembered.
---@param cache river.embedded.KeySets
---@param names string[]
---@return river.embedded.Keys
function key_sets.get(cache, names)
  local signature = table.concat(names, "\0")
  local keys = cache.sets[signature]
  if keys then return keys end
  if cache.count >= MAX_SETS then cache.sets, cache.count = {}, 0 end
  keys = row_module.keys(names)
  cache.sets[signature], cache.count = keys, cache.count + 1
  return keys
end

--- Something worked out from a set of names, made by `make(owner, keys)` when it is asked for the first time.
---@param cache river.embedded.KeySets
---@param keys river.embedded.Keys
---@param make fun(owner: table, keys: river.embedded.Keys): any
---@param owner table
---@return any
function key_sets.remember(cache, keys, make, owner)
  local known = cache.rows[keys]
  if known then return known end
  if cache.row_count >= MAX_SETS then cache.rows, cache.row_count = {}, 0 end
  known = make(owner, keys)
  cache.rows[keys], cache.row_count = known, cache.row_count + 1
  return known
end

--- Which features to take, with the keys object of what is taken.
---@param cache river.embedded.KeySets
---@param keys river.embedded.Keys
---@param positions integer[]
---@return table choice {keys =, positions…}
function key_sets.choice(cache, keys, positions)
  local names, choice = {}, {}
  for i, position in ipairs(positions) do names[i], choice[i] = keys[position], position end
  choice.keys = key_sets.get(cache, names)
  return choice
end

--- The place of the first value that is not a number.
---@param out table values
---@param n integer
---@return integer|nil
function key_sets.first_other(out, n)
  for i = 1, n do
    if math.type(out[i]) == nil then return i end
  end
end

--- Fills `out` with the chosen features of a row.
---@param row river.embedded.Row
---@param choice table
---@param out table
---@return river.embedded.Row out
function key_sets.pick(row, choice, out)
  local keys = choice.keys
  for i = 1, keys.n do out[i] = row[choice[i]] end
  out.keys, out.source = keys, row.source
  out.other = row.other and key_sets.first_other(out, keys.n)
  return out
end

-- Tells whether a feature passes, by position.
---@param cache river.embedded.KeySets
---@param row river.embedded.Row
---@param passes boolean[] by position
---@param out table
---@return river.embedded.Row out
function key_sets.filter(cache, row, passes, out)
  local keys = row.keys
  -- The choice made last for these names is nearly always the one of this row, too.
  local choice = cache.rows[keys]
  local same, taken = choice ~= nil, 0
  for i = 1, keys.n do
    if passes[i] then
      taken = taken + 1
      same = same and choice[taken] == i
    end
  end
  if not same or choice.keys.n ~= taken then
    local positions = {}
    for i = 1, keys.n do
      if passes[i] then positions[#positions + 1] = i end
    end
    choice = key_sets.choice(cache, keys, positions)
    if not cache.rows[keys] then
      if cache.row_count >= MAX_SETS then cache.rows, cache.row_count = {}, 0 end
      cache.row_count = cache.row_count + 1
    end
    cache.rows[keys] = choice
  end
  return key_sets.pick(row, choice, out)
end

--- A feature's value as it was given: booleans, which rows hold as 1 and 0, as booleans; None as nil.
---@param row river.embedded.Row
---@param i integer
---@return any
function key_sets.original(row, i)
  local value = row[i]
  if value == 1 or value == 0 then
    local given = row.source and row.source[row.keys[i]]
    if given == (value == 1) then return given end
  elseif type(value) == "userdata" then
    return nil
  end
  return value
end

return key_sets
