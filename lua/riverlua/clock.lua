--- The clock of riverlua.task, and pauses before something is tried again.
--
-- A replay (RIVERLUA_REPLAY) does not wait; what it leaves out counts as passed all the same, for the task that would
-- have waited. So whatever has a time limit runs out of time in a replay when it did in the recording.

local core = require "riverlua.core.task"

local clock = {}

local SCRIPT = {}                                   -- stands for the script itself, which is no task
local skipped = setmetatable({}, {__mode = "k"})    -- seconds, by task

local function replayed_now() return core.now() + (skipped[core.current() or SCRIPT] or 0) end

--- Seconds on the monotonic clock, from an arbitrary start.
---@type fun(): number
clock.now = (os.getenv("RIVERLUA_REPLAY") or "") ~= "" and replayed_now or core.now

--- Lets seconds pass for the task that runs, in a replay.
---@param seconds number
function clock.skip(seconds)
  local who = core.current() or SCRIPT
  skipped[who] = (skipped[who] or 0) + seconds
end

--- Waits, or in a replay leaves that out.
---@param seconds number
---@param replays boolean
function clock.pause(seconds, replays)
  if replays then
    clock.skip(seconds)
    seconds = 0   -- other tasks have their turn, as they would have
  end
  core.sleep(seconds)
end

return clock
