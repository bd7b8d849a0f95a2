--- Call counts and durations of a model, as a server keeps them.

local registry = require "river.embedded.registry"
local stats = require "river.embedded.stats"

local timing = {}

-- Reading the processor's clock costs as much as a third of a prediction: after the first calls one in 16 is timed.
local ALL_FIRST, EACH = 16, 16
timing.ALL_FIRST, timing.EACH = ALL_FIRST, EACH

---@class river.embedded.Timing
---@field n integer calls
local Timing = registry.helper("timing", {})

--- Counts and times one kind of call.
---@return river.embedded.Timing
function timing.new()
  return setmetatable({n = 0, mean = stats.mean(), ewm = stats.ewmean(0.3)}, Timing)
end

--- Counts a call.
---@return boolean timed whether its duration is wanted
function Timing:count()
  local n, timed = self:next()
  self.n = n
  return timed
end

--- The number of the next call, which is not counted yet, and whether its duration is wanted.
---@return integer n
---@return boolean timed
function Timing:next()
  local n = self.n + 1
  return n, n <= ALL_FIRST or n % EACH == 0
end

--- Adds a duration.
---@param seconds number
function Timing:add(seconds)
  local nanoseconds = seconds * 1e9
  self.mean:update(nanoseconds)
  self.ewm:update(nanoseconds)
end

local UNITS = {{"m", 60000000000}, {"s", 1000000000}, {"ms", 1000000}, {"μs", 1000}, {"ns", 1}}

--- Nanoseconds as people read them: "1ms569μs115ns".
---@param nanoseconds integer
---@return string
function timing.humanize(nanoseconds)
  if nanoseconds == 0 then return "0ns" end
  local text = ""
  for _, unit in ipairs(UNITS) do
    local count = nanoseconds // unit[2]
    nanoseconds = nanoseconds % unit[2]
    if count > 0 then text = text .. count .. unit[1] end
  end
  return text
end

--- The five fields of an answer to "stats".
---@return table
function Timing:report()
  local mean, ewm = math.floor(self.mean.mean), math.floor(self.ewm.mean)
  return {
    n_calls = self.n,
    mean_duration = mean, mean_duration_human = timing.humanize(mean),
    ewm_duration = ewm, ewm_duration_human = timing.humanize(ewm),
  }
end

return timing
