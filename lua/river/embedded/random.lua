--- Python's generator of random numbers, bit for bit: a model with a seed draws what it draws in Python.
--
-- The generator is the Mersenne Twister MT19937 (Matsumoto and Nishimura, 1998) with the seeding from an array of
-- words; the distributions take from it as many numbers, in the same order and with the same arithmetic, as
-- `random.Random` of Python 3.11 does.
--
--   local rng = random.new(42)
--   rng:random()             --> 0.6394267984578837

local python = require "river.embedded.python"
local registry = require "river.embedded.registry"

local exp, log, sqrt, cos, sin, floor, ceil = math.exp, math.log, math.sqrt, math.cos, math.sin, math.floor, math.ceil

local random = {}

local N, M = 624, 397
local MASK = 0xffffffff
local TWO_PI = 2.0 * math.pi

---@class river.embedded.Random plain data: the 624 words of the state, `used` of them given out, `gauss_next`
local Random = {}
Random.__index = Random

registry.helper("river.embedded.Random", Random)

-- The words of a seed, the lowest first.
local function seed_words(seed)
  if seed == nil or seed == python.None then return {math.random(0) & MASK, math.random(0) & MASK} end
  if seed == true then seed = 1 elseif seed == false then seed = 0 end
  if math.type(seed) == "float" then seed = math.tointeger(seed) end
  if math.type(seed) ~= "integer" then python.raise("TypeError", "a seed must be a whole number") end
  if seed < 0 then seed = -seed end
  if seed >> 32 == 0 then return {seed} end
  return {seed & MASK, seed >> 32}
end

--- Starts over from a seed.
---@param seed integer|boolean|nil nil and None: a seed of its own, another one each time
---Raises TypeError for a seed that is no whole number.
function Random:seed(seed)
  local words = seed_words(seed)
  local count = #words
  local previous = 19650218
  self[1] = previous
  for i = 1, N - 1 do
    previous = (1812433253 * (previous ~ (previous >> 30)) + i) & MASK
    self[i + 1] = previous
  end
  local i, j = 1, 0
  for _ = 1, N do
    previous = self[i]
    self[i + 1] = ((self[i + 1] ~ ((previous ~ (previous >> 30)) * 1664525)) + words[j + 1] + j) & MASK
    i, j = i + 1, (j + 1) % count
    if i >= N then self[1], i = self[N], 1 end
  end
  for _ = 1, N - 1 do
    previous = self[i]
    self[i + 1] = ((self[i + 1] ~ ((previous ~ (previous >> 30)) * 1566083941)) - i) & MASK
    i = i + 1
    if i >= N then self[1], i = self[N], 1 end
  end
  self[1] = 0x80000000
  self.used, self.gauss_next = N, nil
end

--- Makes a generator.
---@param seed integer|boolean|nil nil and None: a seed of its own, another one each time
---@return river.embedded.Random
---Raises TypeError for a seed that is no whole number.
function random.new(seed)
  local self = setmetatable({}, Random)
  self:seed(seed)
  return self
end

-- The next 624 words.
local function refill(self)
  for i = 1, N do
    local mixed = (self[i] & 0x80000000) | (self[i % N + 1] & 0x7fffffff)
    local word = self[(i + M - 1) % N + 1] ~ (mixed >> 1)
    if mixed & 1 ~= 0 then word = word ~ 0x9908b0df end
    self[i] = word
  end
  self.used = 0
end

-- 32 random bits.
local function word(self)
  if self.used >= N then refill(self) end
  local used = self.used + 1
  self.used = used
  local y = self[used]
  y = y ~ (y >> 11)
  y = y ~ ((y << 7) & 0x9d2c5680)
  y = y ~ ((y << 15) & 0xefc60000)
  return y ~ (y >> 18)
end

--- A number from 0 (included) to 1 (excluded), 53 random bits.
---@return number
function Random:random()
  local a, b = word(self) >> 5, word(self) >> 6
  return (a * 67108864.0 + b) * (1.0 / 9007199254740992.0)
end

--- Random bits.
---@param count integer 0 to 64
---@return integer unsigned; with 64 bits the sign bit may be set
function Random:getrandbits(count)
  if count <= 0 then
    if count == 0 then return 0 end
    python.raise("ValueError", "number of bits must be non-negative")
  end
  if count > 64 then python.raise("ValueError", "more than 64 random bits do not fit an integer") end
  if count <= 32 then return word(self) >> (32 - count) end
  local low = word(self)
  return low | (word(self) >> (64 - count)) << 32
end

--- A whole number below a limit (Python's `_randbelow`).
---@param limit integer at least 1
---@return integer 0 to limit - 1
function Random:randbelow(limit)
  local count, rest = 0, limit
  while rest > 0 do count, rest = count + 1, rest >> 1 end
  local value = self:getrandbits(count)
  while value >= limit do value = self:getrandbits(count) end
  return value
end

--- One of `start`, `start + step`, … below `stop`; with one argument one of 0, 1, … below it.
---@param start integer
---@param stop integer|nil
---@param step integer|nil 1 unless given
---@return integer
---Raises ValueError where there is nothing to choose from.
function Random:randrange(start, stop, step)
  if not stop then start, stop = 0, start end
  step = step or 1
  if step == 0 then python.raise("ValueError", "zero step for randrange()") end
  local count = (stop - start + step + (step > 0 and -1 or 1)) // step
  if count <= 0 then
    python.raise("ValueError", "empty range for randrange() (%d, %d, %d)", start, stop, stop - start)
  end
  return start + step * self:randbelow(count)
end

--- A whole number, both ends included.
---@return integer
function Random:randint(a, b)
  return self:randrange(a, b + 1)
end

--- A number between two others.
---@return number
function Random:uniform(a, b)
  return a + (b - a) * self:random()
end

--- One element of a list.
---@generic T
---@param list T[]
---@return T
---Raises IndexError for an empty list.
function Random:choice(list)
  if #list == 0 then python.raise("IndexError", "Cannot choose from an empty sequence") end
  return list[self:randbelow(#list) + 1]
end

--- Brings a list into a random order, in place.
---@param list any[]
function Random:shuffle(list)
  for i = #list, 2, -1 do
    local j = self:randbelow(i) + 1
    list[i], list[j] = list[j], list[i]
  end
end

--- Distinct elements of a list, in the order in which they were drawn.
---@generic T
---@param list T[]
---@param count integer
---@return T[]
---Raises ValueError when there are fewer.
function Random:sample(list, count)
  local n = #list
  if count < 0 or count > n then python.raise("ValueError", "Sample larger than population or is negative") end
  local out = {}
  -- Below this size Python draws from a copy of the list, above it remembers what was drawn.
  local limit = 21
  if count > 5 then limit = limit + 4 ^ ceil(log(count * 3, 4)) end
  if n <= limit then
    local pool = table.move(list, 1, n, 1, {})
    for i = 1, count do
      local j = self:randbelow(n - i + 1) + 1
      out[i] = pool[j]
      pool[j] = pool[n - i + 1]
    end
    return out
  end
  local taken = {}
  for i = 1, count do
    local j
    repeat j = self:randbelow(n) + 1 until not taken[j]
    taken[j] = true
    out[i] = list[j]
  end
  return out
end

local function accumulate(weights)
  local sums, sum = {}, nil
  for i, weight in ipairs(weights) do
    sum = sum and sum + weight or weight
    sums[i] = sum
  end
  return sums
end

--- Elements of a list, the same one perhaps several times.
---@generic T
---@param list T[]
---@param weights number[]|nil how often each is to be drawn; all alike unless given
---@param count integer|nil 1 unless given
---@return T[]
---Raises ValueError for weights that do not fit, IndexError for an empty list.
function Random:choices(list, weights, count)
  local n, out = #list, {}
  count = count or 1
  if not weights then
    if n == 0 and count > 0 then python.raise("IndexError", "list index out of range") end
    for i = 1, count do out[i] = list[floor(self:random() * n) + 1] end
    return out
  end
  local sums = accumulate(weights)
  if #sums ~= n then python.raise("ValueError", "The number of weights does not match the population") end
  if n == 0 then python.raise("IndexError", "list index out of range") end
  local total = sums[n] + 0.0
  if total <= 0.0 or total ~= total then python.raise("ValueError", "Total of weights must be greater than zero") end
  if total == math.huge then python.raise("ValueError", "Total of weights must be finite") end
  for i = 1, count do
    local x = self:random() * total
    local low, high = 1, n
    while low < high do
      local middle = (low + high) // 2
      if x < sums[middle] then high = middle else low = middle + 1 end
    end
    out[i] = list[low]
  end
  return out
end

--- A number of the normal distribution, made in pairs (Box and Muller).
---@param mu number|nil 0 unless given
---@param sigma number|nil 1 unless given
---@return number
function Random:gauss(mu, sigma)
  local z = self.gauss_next
  self.gauss_next = nil
  if not z then
    local angle = self:random() * TWO_PI
    local radius = sqrt(-2.0 * log(1.0 - self:random()))
    z = cos(angle) * radius
    self.gauss_next = sin(angle) * radius
  end
  return (mu or 0.0) + z * (sigma or 1.0)
end

--- A number of Poisson's distribution, as `river.utils.random.poisson` draws it (Knuth's product of uniforms).
---@param rate number the mean
---@return integer
function Random:poisson(rate)
  local limit, count, p = exp(-rate), 0, 1.0
  while p > limit do
    count = count + 1
    p = p * self:random()
  end
  return count - 1
end

return random
