--- The order in which Python goes through a set: some models of the library depend on it.
--
-- A set is an open hash table; its order follows from the hashes of its members and from the history of insertions and
-- removals, both of which are repeated here as in CPython 3.11. Hashes of strings are those of a Python started with
-- PYTHONHASHSEED=0 (SipHash-1-3 with a key of zeros); without that setting every Python process has its own order.

local python = require "river.embedded.python"
local registry = require "river.embedded.registry"

local math_type = math.type

local hash_order = {}

-- --------------------------------------------------------------------------------------------------------- hashes

local function rotate(x, bits) return x << bits | x >> (64 - bits) end

local function round(v0, v1, v2, v3)
  v0, v2 = v0 + v1, v2 + v3
  v1, v3 = rotate(v1, 13) ~ v0, rotate(v3, 16) ~ v2
  v0 = rotate(v0, 32)
  v2, v0 = v2 + v1, v0 + v3
  v1, v3 = rotate(v1, 17) ~ v2, rotate(v3, 21) ~ v0
  return v0, v1, rotate(v2, 32), v3
end

-- SipHash-1-3 (Aumasson and Bernstein, 2012) with a key of zeros.
local function siphash(bytes)
  local v0, v1, v2, v3 = 0x736f6d6570736575, 0x646f72616e646f6d, 0x6c7967656e657261, 0x7465646279746573
  local whole = #bytes // 8 * 8
  for at = 1, whole, 8 do
    local word = string.unpack("<i8", bytes, at)
    v0, v1, v2, v3 = round(v0, v1, v2, v3 ~ word)
    v0 = v0 ~ word
  end
  local last = #bytes << 56
  for i = whole + 1, #bytes do last = last | bytes:byte(i) << 8 * (i - whole - 1) end
  v0, v1, v2, v3 = round(v0, v1, v2, v3 ~ last)
  v0, v2 = v0 ~ last, v2 ~ 0xff
  for _ = 1, 3 do v0, v1, v2, v3 = round(v0, v1, v2, v3) end
  return v0 ~ v1 ~ v2 ~ v3
end

-- A string as Python keeps it: as many bytes per character as its widest one needs.
local function python_bytes(text)
  if not text:find("[\x80-\xff]") or not utf8.len(text) then return text end
  local widest, codes = 0, {}
  for _, code in utf8.codes(text) do
    codes[#codes + 1] = code
    if code > widest then widest = code end
  end
  local format = widest < 0x100 and "<I1" or widest < 0x10000 and "<I2" or "<I4"
  for i, code in ipairs(codes) do codes[i] = format:pack(code) end
  return table.concat(codes)
end

local MODULUS, BITS = (1 << 61) - 1, 61

local function hash_integer(value)
  local magnitude = value < 0 and -value or value
  if magnitude == math.mininteger then magnitude = 4 else magnitude = magnitude % MODULUS end
  return value < 0 and -magnitude or magnitude
end

-- The remainder of the fraction by the same prime, so that equal numbers have equal hashes.
local function hash_float(value)
  if value ~= value then return 0 elseif value == math.huge then return 314159 elseif value == -math.huge then
    return -314159
  end
  local whole = math.tointeger(value)
  if whole then return hash_integer(whole) end
  local mantissa, exponent = math.abs(value), 0
  while mantissa >= 1 do mantissa, exponent = mantissa / 2, exponent + 1 end
  while mantissa < 0.5 do mantissa, exponent = mantissa * 2, exponent - 1 end
  local x = 0
  while mantissa > 0 do
    x = x << 28 & MODULUS | x >> (BITS - 28)
    mantissa, exponent = mantissa * 268435456.0, exponent - 28
    local digit = math.tointeger(mantissa // 1)
    mantissa = mantissa - digit
    x = x + digit
    if x >= MODULUS then x = x - MODULUS end
  end
  exponent = exponent % BITS
  x = x << exponent & MODULUS | x >> (BITS - exponent)
  return value < 0 and -x or x
end

--- Python's `hash`. That of None is an address there; here it is 0.
---@param value any boolean, number, string or None
---@return integer
function hash_order.hash(value)
  local kind, hash = math_type(value), 0
  if kind == "integer" then
    hash = hash_integer(value)
  elseif kind == "float" then
    hash = hash_float(value)
  elseif value == true then
    return 1
  elseif type(value) == "string" then
    if value == "" then return 0 end
    hash = siphash(python_bytes(value))
  end
  return hash == -1 and -2 or hash
end

local hash_of = hash_order.hash

-- ----------------------------------------------------------------------------------------------------------- sets

---@class river.embedded.PySet
---@field mask integer size of the table less 1
---@field keys table<integer, any> place, from 0, to member
---@field hashes table<integer, integer>
---@field members table<any, integer> member, by `python.label_key`, to place
---@field fill integer places in use, those of removed members included
---@field used integer members
local Set = registry.helper("river.embedded.PySet", {})

-- Stands where a member was removed.
local REMOVED = "\0removed"
local PROBES, SHIFT = 9, 5

--- An empty set, or one of the items of a list.
---@param items any[]|nil
---@return river.embedded.PySet
function hash_order.set(items)
  local self = setmetatable({mask = 7, keys = {}, hashes = {}, members = {}, fill = 0, used = 0}, Set)
  for _, item in ipairs(items or {}) do self:add(item) end
  return self
end

-- The first unused place for a hash; and the last place of a removed member on the way there, if there was one.
local function find_place(keys, mask, hash)
  local i, perturb, removed = hash & mask, hash, nil
  while true do
    for j = i, i + PROBES <= mask and i + PROBES or i do
      local key = keys[j]
      if key == nil then return j, removed end
      if key == REMOVED then removed = j end
    end
    perturb = perturb >> SHIFT
    i = (i * 5 + 1 + perturb) & mask
  end
end

local function member_key(value)
  if math_type(value) == "integer" and value ~= 0 and value ~= 1 then return value end
  return python.label_key(value)
end

local function resize(self, wanted)
  local size = 8
  while size <= wanted do size = size << 1 end
  local old_keys, old_hashes, old_mask = self.keys, self.hashes, self.mask
  local keys, hashes, members, mask = {}, {}, {}, size - 1
  for i = 0, old_mask do
    local key = old_keys[i]
    if key ~= nil and key ~= REMOVED then
      local hash = old_hashes[i]
      local place = find_place(keys, mask, hash)
      keys[place], hashes[place], members[member_key(key)] = key, hash, place
    end
  end
  self.keys, self.hashes, self.members, self.mask, self.fill = keys, hashes, members, mask, self.used
end

--- Adds a member; an equal one that is there stays.
---@param value any
function Set:add(value)
  local member, hash
  if math_type(value) == "integer" and value > 1 and value < MODULUS then
    -- The everyday case is its own key and its own hash.
    if self.members[value] then return end
    member, hash = value, value
  else
    member = member_key(value)
    if self.members[member] then return end
    hash = hash_of(value)
  end
  local place, removed = find_place(self.keys, self.mask, hash)
  local taken = removed or place
  self.keys[taken], self.hashes[taken], self.members[member] = value, hash, taken
  self.used = self.used + 1
  -- The place of a removed member counts already.
  if removed then return end
  self.fill = self.fill + 1
  if self.fill * 5 >= self.mask * 3 then resize(self, self.used > 50000 and self.used * 2 or self.used * 4) end
end

--- Takes a member out, if it is there.
---@param value any
function Set:discard(value)
  local member = member_key(value)
  local place = self.members[member]
  if not place then return end
  self.keys[place], self.members[member] = REMOVED, nil
  self.used = self.used - 1
end

---@param value any
---@return boolean
function Set:has(value) return self.members[member_key(value)] ~= nil end

--- The members in Python's order.
---@return any[]
function Set:items()
  local keys, list = self.keys, {}
  for i = 0, self.mask do
    local key = keys[i]
    if key ~= nil and key ~= REMOVED then list[#list + 1] = key end
  end
  return list
end

-- Room for as many members more, as Python makes it before it takes over a set or a dictionary.
local function make_room(self, count)
  if (self.fill + count) * 5 >= self.mask * 3 then resize(self, (self.used + count) * 2) end
end

--- The set of a dictionary's keys (`set(dictionary)`).
---@param keys any[] in the dictionary's order
---@return river.embedded.PySet
function hash_order.set_of_dict(keys)
  local self = hash_order.set()
  make_room(self, #keys)
  for _, key in ipairs(keys) do self:add(key) end
  return self
end

--- Adds the members of another set, as `|=` does.
---@param other river.embedded.PySet
function Set:merge(other)
  if other.used == 0 then return end
  make_room(self, other.used)
  if self.fill == 0 and self.mask == other.mask and other.fill == other.used then
    self.keys, self.hashes, self.members = {}, {}, {}
    for i, key in pairs(other.keys) do
      self.keys[i], self.hashes[i], self.members[member_key(key)] = key, other.hashes[i], i
    end
    self.fill, self.used = other.fill, other.used
    return
  end
  for _, key in ipairs(other:items()) do self:add(key) end
end

--- A new set with the members of both (`a | b`).
---@param other river.embedded.PySet
---@return river.embedded.PySet
function Set:union(other)
  local both = hash_order.set()
  both:merge(self)
  both:merge(other)
  return both
end

--- A new set of what is in both (`a & b`).
---@param other river.embedded.PySet
---@return river.embedded.PySet
function Set:intersection(other)
  local small, large = other, self
  if small.used > large.used then small, large = large, small end
  local both = hash_order.set()
  for _, key in ipairs(small:items()) do
    if large:has(key) then both:add(key) end
  end
  return both
end

--- The keys of two dictionaries in the order of Python's `a.keys() | b.keys()`, for keys that are whole numbers, not
--- negative: what `set_of_dict` and `add` give, in a fraction of the time.
---@param a integer[]
---@param b integer[]
---@param skip table<integer, any> keys to leave out of the result
---@return integer[]
function hash_order.united(a, b, skip)
  local keys, seen, mask, fill = {}, {}, 7, 0
  if #a * 5 >= mask * 3 then
    local size = 8
    while size <= #a * 2 do size = size << 1 end
    mask = size - 1
  end
  for source = 1, 2 do
    local list = source == 1 and a or b
    for i = 1, #list do
      local key = list[i]
      if not seen[key] then
        seen[key] = true
        local place = key & mask
        if keys[place] then place = find_place(keys, mask, key) end
        keys[place] = key
        fill = fill + 1
        if fill * 5 >= mask * 3 then
          local size, old, old_mask = 8, keys, mask
          while size <= fill * 4 do size = size << 1 end
          keys, mask = {}, size - 1
          for j = 0, old_mask do
            if old[j] then keys[find_place(keys, mask, old[j])] = old[j] end
          end
        end
      end
    end
  end
  local list, count = {}, 0
  for i = 0, mask do
    local key = keys[i]
    if key and not skip[key] then
      count = count + 1
      list[count] = key
    end
  end
  return list
end

--- The names of two dictionaries in the order of Python's `{*a.keys(), *b.keys()}`.
---@param a string[]
---@param b string[]
---@return string[]
function hash_order.joined(a, b)
  local set = hash_order.set(a)
  for _, key in ipairs(b) do set:add(key) end
  return set:items()
end

return hash_order
