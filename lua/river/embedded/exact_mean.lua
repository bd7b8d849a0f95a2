--- The mean of numbers, rounded once.
--
-- Python's `statistics.mean` adds and divides fractions and rounds at the end. Here the sum is kept as a list of
-- floats without overlap (Shewchuk, 1997, "Adaptive precision floating-point arithmetic"), and the quotient is
-- compared with its neighbours by the exact remainders.

-- Adds a number to a list of floats whose exact sum is kept; the largest comes last.
local function add(parts, x)
  local count = 0
  for i = 1, #parts do
    local y = parts[i]
    if math.abs(x) < math.abs(y) then x, y = y, x end
    local high = x + y
    local low = y - (high - x)
    if low ~= 0 then
      count = count + 1
      parts[count] = low
    end
    x = high
  end
  if x ~= 0 then
    count = count + 1
    parts[count] = x
  end
  for i = #parts, count + 1, -1 do parts[i] = nil end
end

-- The product of a float and a small whole number, as two floats (Dekker's splitting).
local function multiply(x, n)
  local scaled = 134217729.0 * x
  local high = scaled - (scaled - x)
  local low = x - high
  local product = x * n
  return product, (high * n - product) + low * n
end

-- The exact sum less n times q.
local function remainder(parts, q, n)
  local out = table.move(parts, 1, #parts, 1, {})
  local product, rest = multiply(q, n)
  add(out, -product)
  add(out, -rest)
  return out
end

local function neighbour(x, step)
  local bits = string.unpack("<i8", string.pack("<d", x))
  return (string.unpack("<d", string.pack("<i8", bits + step)))
end

-- The sign of the sum of the list.
local function sign(parts)
  local last = parts[#parts] or 0
  return last > 0 and 1 or last < 0 and -1 or 0
end

-- Of two neighbouring floats the one nearer to the sum divided by n; of equals the one whose last bit is 0.
local function nearer(parts, a, b, n)
  local both = remainder(parts, a, n)
  for _, part in ipairs(remainder(parts, b, n)) do add(both, part) end
  local side = sign(both)
  if side == 0 then return string.unpack("<i8", string.pack("<d", a)) % 2 == 0 and a or b end
  return side > 0 == (a > b) and a or b
end

--- The mean of numbers, correctly rounded.
---@param values number[] at least one
---@return number
return function(values)
  local parts, plain, n = {}, 0.0, #values
  for i = 1, n do
    plain = plain + values[i]
    add(parts, values[i] + 0.0)
  end
  -- Without finite numbers, or near the end of their range, there is nothing to be exact about.
  if plain - plain ~= 0 or math.abs(plain) > 1e290 then return plain / n end
  local sum = 0.0
  for i = 1, #parts do sum = sum + parts[i] end
  local q = sum / n
  if q == 0 or math.abs(q) < 1e-290 then return q end
  while true do
    local side = sign(remainder(parts, q, n))
    if side == 0 then return q end
    local other = neighbour(q, (side > 0) == (q > 0) and 1 or -1)
    if nearer(parts, q, other, n) == q then return q end
    q = other
  end
end
