--- Axes of plots: which range they show, at which round numbers they have ticks, and how these are written.

local scale = {}

--- Whether a value is a number that has a place on an axis.
---@param value any
---@return boolean
function scale.is_finite(value)
  return type(value) == "number" and value - value == 0
end

-- The nearest of 1, 2, 5 times a power of ten.
local function nice_step(value)
  local power = 10.0 ^ math.floor(math.log(value, 10) + 1e-9)
  local part = value / power
  local step = (part < 2 ^ 0.5 and 1 or part < 10 ^ 0.5 and 2 or part < 50 ^ 0.5 and 5 or 10) * power
  return step < math.huge and step or power
end

local LARGEST = 0x1.fffffffffffffp+1023

-- A range that is wide enough to be divided.
local function widen(low, high, integers)
  local largest = math.max(math.abs(low), math.abs(high))
  if high - low > math.max(largest * 1e-12, 1e-300) then return low, high end
  local by = largest * 0.1
  if integers and largest < 1e9 or by < 1e-300 then by = 1 end
  return math.max(-LARGEST, low - by), math.min(LARGEST, high + by)
end

-- 1.5e6 rather than 1.500000e+06; as many digits as tell ticks apart that are `step` away.
local function with_exponent(value, step)
  if value == 0 then return "0" end
  local digits = math.floor(math.log(math.abs(value), 10) + 1e-9) - math.floor(math.log(step, 10) + 1e-9)
  local mantissa, sign, exponent = (("%%.%de"):format(math.max(0, math.min(16, digits)))):format(value):match(
    "^(.-)e([+-])0*(%d+)$")
  if mantissa:find(".", 1, true) then mantissa = mantissa:gsub("0+$", ""):gsub("%.$", "") end
  return mantissa .. "e" .. (sign == "-" and "-" or "") .. exponent
end

-- Ticks as texts of one kind: plain numbers, unless those are long and others are shorter.
local function labels_of(ticks, step)
  local plain, scientific = {}, {}
  local longest_plain, longest_scientific = 0, 0
  local digits = math.max(0, -math.floor(math.log(step, 10) + 1e-9))
  local format = ("%%.%df"):format(math.min(digits, 60))
  for i, tick in ipairs(ticks) do
    plain[i], scientific[i] = format:format(tick), with_exponent(tick, step)
    longest_plain = math.max(longest_plain, #plain[i])
    longest_scientific = math.max(longest_scientific, #scientific[i])
  end
  if longest_plain > 7 and longest_scientific < longest_plain then return scientific end
  return plain
end

---@class riverlua.plot.Axis
---@field low number
---@field high number
---@field ticks number[]
---@field labels string[] one for each tick
local Axis = {}
Axis.__index = Axis

--- Where a value is, from 0 (low) to 1 (high). Halves, because a difference of large numbers may not be one.
---@param value number
---@return number
function Axis:at(value)
  return (value / 2 - self.low / 2) / (self.high / 2 - self.low / 2)
end

-- The bounds moved out to ticks, where they are free.
local function round_out(low, high, step, options)
  if not options.low then low = math.floor(low / step + 1e-6) * step end
  if not options.high then high = math.ceil(high / step - 1e-6) * step end
  return low, high
end

-- The part of an axis that rounding may leave empty before ticks get closer, unless those were too many.
local MOST_EMPTY, MOST_TICKS = 0.2, 2

-- The whole axis for a range.
local function lay_out(low, high, options)
  local step = nice_step(high / options.count - low / options.count)
  if options.integers then step = math.max(1.0, step) end
  if options.round then
    local wide_low, wide_high = round_out(low, high, step, options)
    if (high - low) / (wide_high - wide_low) < 1 - MOST_EMPTY then
      local closer = nice_step(step / 2)
      local closer_low, closer_high = round_out(low, high, closer, options)
      if (closer_high - closer_low) / closer < MOST_TICKS * options.count then
        step, wide_low, wide_high = closer, closer_low, closer_high
      end
    end
    -- not out of what a number can hold
    if wide_low >= -LARGEST and wide_high <= LARGEST then low, high = wide_low, wide_high end
  end
  local ticks = {}
  -- 0 + …: no negative zero
  for i = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6) do ticks[#ticks + 1] = 0 + i * step end
  return low, high, ticks, step
end

--- An axis for values between `low` and `high`.
---@param low number
---@param high number
---@param options {count: number, integers: boolean|nil, round: boolean|nil, low: number|nil, high: number|nil}
--- `count`: about so many ticks; `integers`: none between whole numbers; `round`: the axis ends at ticks, except
--- where it is told its `low` or `high`
---@return riverlua.plot.Axis
function scale.axis(low, high, options)
  low, high = options.low or low, options.high or high
  if low > high then   -- one bound is given, and the values are beyond it
    if options.low then high = low else low = high end
  end
  local ticks, step
  low, high = widen(low, high, options.integers)
  low, high, ticks, step = lay_out(low, high, options)
  return setmetatable({low = low, high = high, ticks = ticks, labels = labels_of(ticks, step)}, Axis)
end

return scale
