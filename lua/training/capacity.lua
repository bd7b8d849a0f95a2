--- What the service says about the capacity of a session's runs.
--
-- Every reply to a heartbeat (RPC SessionHeartbeat) lists observations: how one workload ("training" or "inference") of
-- one run stands. `session:capacity()` hands out the latest list; reading it costs no call. An empty list means that
-- nothing is known, not that all is ready.

local errors = require "riverlua.errors"

local capacity = {}

-- Seconds.
local FRESH = 30          -- how long an observation counts
local EARLY = 5           -- how far the server's clock may be ahead of ours
local HOLD = 5            -- how long a state lasts before it is told
local QUIET = 30          -- between two lines about the same workload of the same run

local LONGEST_ID = 100    -- bytes of a run's id in a line

local STATES = {ready = true, scaling_up = true, preparing = true, waiting = true, at_limit = true, unavailable = true}
local WORKLOADS = {training = "Training", inference = "Inference"}

local OPTIONS = {hints = "boolean|nil", clock = "function|nil", wall = "function|nil", write = "function|nil"}

---@class training.CapacityStatus
---@field training_run_id string
---@field workload "training"|"inference"
---@field state "ready"|"scaling_up"|"preparing"|"waiting"|"at_limit"|"unavailable" "unavailable" also when the
--- observation is too old, has no date or names a state that this client does not know
---@field capacity_wait boolean requests wait for workers; says nothing about how long one request takes
---@field observed_at number|nil seconds since 1970; nil when the date is missing or cannot be right

---@class training.Capacity
local Capacity = {}
Capacity.__index = Capacity
Capacity.__name = "training.Capacity"

local function default_clocks()
  return require("riverlua.core.task").now, require("riverlua.core.heartbeat").wall
end

--- Makes an empty list.
---
--- Options: `hints` (false): tell on the standard error stream, a line each, when requests wait for workers; `clock`,
--- `wall` (functions: seconds on a monotonic clock, seconds since 1970) and `write` (function(line)) in place of the
--- usual ones, for tests.
---
--- Hints need Lua to run: they come out of `update`, which the client calls when it is about to wait, so a script that
--- computes for an hour says nothing in that hour. A state must be seen in two replies at least 5 s apart before it is
--- told; there is at most one line per run and workload in 30 s; what was told is not repeated; "ready" is told only
--- after something else was, and "at_limit" when requests wait, or when they no longer do after something was told.
---@param options {hints: boolean|nil, clock: function|nil, wall: function|nil, write: function|nil}|nil
---@return training.Capacity
function capacity.new(options)
  options = options or {}
  errors.check_options("training.capacity", options, OPTIONS)
  for name, wanted in pairs(OPTIONS) do errors.expect("training.capacity", name, options[name], wanted) end
  local clock, wall = options.clock, options.wall
  if not clock or not wall then
    local usual_clock, usual_wall = default_clocks()
    clock, wall = clock or usual_clock, wall or usual_wall
  end
  return setmetatable({
    hints = options.hints == true,
    clock = clock, wall = wall,
    write = options.write or function(line) io.stderr:write(line) end,
    accepted = nil,      -- sequence number of the reply that `list` is from
    list = {},           -- of entries: {status =, expires =, key =}
    seen = {},           -- key → {meaning =, since =}: the state that may be told next
    told = {},           -- key → meaning of the last line, while it still makes sense to go on from it
    told_at = {},        -- key → when
  }, Capacity)
end

-- ------------------------------------------------------------------------------------------------ observations

-- Seconds since 1970 of a Timestamp, when its age (seconds) can be right.
local function read_date(timestamp, now)
  if type(timestamp) ~= "table" then return nil end
  local date = timestamp.seconds + timestamp.nanos / 1e9
  local age = now - date
  if age >= -EARLY and age <= FRESH then return date, age end
  return nil
end

-- `wall` and `clock`: when the reply came.
local function read_observation(given, wall, clock)
  local date, age = read_date(given.observed_at, wall)
  local state = date and STATES[given.state] and given.state or "unavailable"
  return {
    key = given.training_run_id .. "\0" .. given.workload,
    expires = clock + (date and FRESH - math.max(0, age) or 0),
    status = {training_run_id = given.training_run_id, workload = given.workload, state = state,
      capacity_wait = given.capacity_wait == true and state ~= "unavailable", observed_at = date},
  }
end

local function read_list(given, wall, clock)
  local by_key, list = {}, {}
  for _, one in ipairs(given) do
    if WORKLOADS[one.workload] then
      local entry = read_observation(one, wall, clock)
      by_key[entry.key] = entry   -- of two about the same, the later one
    end
  end
  for _, entry in pairs(by_key) do list[#list + 1] = entry end
  table.sort(list, function(a, b) return a.key < b.key end)
  return list, by_key
end

-- ------------------------------------------------------------------------------------------------------- hints

local TEXTS = {
  scaling_up = "more workers are being started for the requests",
  preparing = "workers are there and get ready for the requests",
  waiting = "requests wait until workers are free",
}

-- What a line would say; nil: nothing. `again`: something was told before.
local function text_for(status, again)
  if status.state == "at_limit" then
    if status.capacity_wait then return "requests wait; the run has as many workers as it may have" end
    return again and "requests no longer wait; the run has as many workers as it may have" or nil
  elseif status.state == "ready" then
    return again and not status.capacity_wait and "workers are ready" or nil
  end
  return TEXTS[status.state]
end

-- States that a line would say the same about.
local function meaning_of(status)
  local matters = status.state == "at_limit" or status.state == "ready"
  return status.state .. (matters and status.capacity_wait and "+" or "")
end

local function forget(self, key) self.seen[key], self.told[key] = nil, nil end

-- The service's own text must neither move the cursor of a terminal nor fill it.
local function printable(text)
  if #text > LONGEST_ID then text = text:sub(1, LONGEST_ID) .. "..." end
  return (text:gsub("[%c\x7f]", "?"):gsub("\xc2[\x80-\x9f]", "?"))
end

-- `at`: when the reply came, `now`: when it is looked at.
local function give_hint(self, entry, at, now)
  local key, status = entry.key, entry.status
  if status.state == "unavailable" or now > entry.expires then
    forget(self, key)
    return
  end
  local meaning = meaning_of(status)
  local seen = self.seen[key]
  if not seen or seen.meaning ~= meaning then
    self.seen[key] = {meaning = meaning, since = at}
    return
  end
  if at - seen.since < HOLD or self.told[key] == meaning or self.told_at[key] then return end
  local text = text_for(status, self.told[key] ~= nil)
  if not text then return end
  local line = ("river: %s, %s: %s\n"):format(printable(status.training_run_id), WORKLOADS[status.workload], text)
  if not pcall(self.write, line) then return end   -- a closed stream is no reason to lose a session
  self.told[key], self.told_at[key] = meaning, now
end

local function give_hints(self, old, by_key, at, now)
  for key, when in pairs(self.told_at) do
    if now - when >= QUIET then self.told_at[key] = nil end
  end
  for _, entry in ipairs(old) do   -- what has run out, or is no longer spoken of, starts from the beginning
    if at > entry.expires or not by_key[entry.key] then forget(self, entry.key) end
  end
  for _, entry in ipairs(self.list) do give_hint(self, entry, at, now) end
end

-- -------------------------------------------------------------------------------------------- the public calls

--- Takes the observations of one reply in place of those before. (RPC SessionHeartbeat)
---@param given table[] `capacity_status` of a decoded SessionHeartbeatResponse
---@param sequence integer number of the request, given when it was sent: a reply older than the last one is ignored
---@param ago number|nil seconds since the reply came; default 0
---@return boolean taken
function Capacity:update(given, sequence, ago)
  if self.accepted and sequence <= self.accepted then return false end
  self.accepted = sequence
  ago = ago or 0
  local now = self.clock()
  local old = self.list
  local list, by_key = read_list(given, self.wall() - ago, now - ago)
  self.list = list
  if self.hints then give_hints(self, old, by_key, now - ago, now) end
  return true
end

--- The latest list, sorted by run and workload. Empty: nothing is known. What was observed more than 30 s ago is
--- "unavailable". The tables are the caller's own.
---@return training.CapacityStatus[]
function Capacity:status()
  local now, out = self.clock(), {}
  for i, entry in ipairs(self.list) do
    local s = entry.status
    local fresh = now <= entry.expires
    out[i] = {training_run_id = s.training_run_id, workload = s.workload, observed_at = s.observed_at,
      state = fresh and s.state or "unavailable", capacity_wait = fresh and s.capacity_wait}
  end
  return out
end

errors.want_colon(Capacity, "capacity")

return capacity
