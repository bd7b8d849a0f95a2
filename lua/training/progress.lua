--- Runs that go on after a crash: a small file says how far a run is, and `resumable` brings it back to there.
--
--     local run <close> = progress.open("run.json", {every = 10})
--     local saved = run:load() or {step = 0}
--     for step = saved.step + 1, 100 do
--       …
--       if run:due(step) then run:save{step = step, checkpoint = model:save_weights(("step-%d"):format(step))} end
--     end
--
-- The file is JSON:
--
--     {"format": "riverlua-run", "version": 1, "sha256": "…", "run": {"step": 20, "checkpoint": "river://…", …}}
--
-- where sha256 is that of `run` as compact JSON with sorted keys. It is replaced as a whole, so a crash leaves the old
-- one or the new one; the one before stays beside it as `<path>.bak`. `<path>.lock` is held while the run is open.

local clock = require "riverlua.clock"
local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local folder = require "riverlua.core.folder"
local json = require "riverlua.json"

local progress = {}

local FORMAT, VERSION = "riverlua-run", 1
local LARGEST_FILE = 64 << 20
local FIELDS = {step = true, checkpoint = true, policy_id = true, run_id = true, seeds = true, position = true,
  state = true, done = true}

local encode = json.encoder{sort = true}
local encode_pretty = json.encoder{sort = true, pretty = true}
local decode = json.decoder{max_bytes = LARGEST_FILE}

local function fail(path, text, hint)
  errors.raise{kind = "storage", message = ("progress file '%s': %s"):format(path, text), hint = hint}
end

---@class training.RunRecord
---@field step integer steps that are done
---@field checkpoint string|nil path of the weights after that step
---@field policy_id string|nil
---@field run_id string|nil
---@field seeds table|nil
---@field position any where the data is at
---@field state any what the script wants to find again
---@field done boolean|nil the run came to its end

---@class training.RunFile
---@field path string
local Run = {}
Run.__index = Run
Run.__name = "training.RunFile"

-- The bytes of a file; nil when it is not there.
local function read_file(path)
  local file, problem, code = io.open(path, "rb")
  if not file then
    if code == 2 then return nil end
    fail(path, "cannot be read: " .. problem)
  end
  local size, why = file:seek("end")
  local bytes
  if size and size > LARGEST_FILE then
    bytes = ("x"):rep(10)   -- of no run: it is not looked at
  elseif size and file:seek("set") then
    bytes, why = file:read("a")
  end
  file:close()
  if not bytes then fail(path, "cannot be read: " .. tostring(why)) end
  return bytes
end

-- The record in a file's bytes; or nil, what is wrong, and true when the file is somebody else's.
local function parse(bytes)
  if #bytes > LARGEST_FILE then return nil, "it is too long to be one", true end
  local ok, value = pcall(decode, bytes)
  if not ok then return nil, bytes == "" and "it is empty" or "it is damaged: " .. value.message end
  if type(value) ~= "table" or value.format ~= FORMAT then return nil, "it is no progress file", true end
  if value.version ~= VERSION then
    return nil, ("its version is %s, and this program knows version %d"):format(tostring(value.version), VERSION), true
  end
  local run = value.run
  if type(run) ~= "table" or digest.hex(digest.sha256(encode(run))) ~= value.sha256 then
    return nil, "it is damaged: its checksum is wrong"
  end
  if math.type(run.step) ~= "integer" or run.step < 0 then return nil, "it is damaged: it has no step" end
  return run
end

local OPEN_OPTIONS = {every = true, seconds = true, backup = true, lock = true}

--- Opens a run's file; it need not be there yet.
---
--- Options: `every` (steps) and `seconds`: how often `due` says so, whichever comes first (default: every step);
--- `backup` = false: true takes the file before when the last one is damaged; `lock` = true: no other process may have
--- the run open.
---
--- Raises kind "storage" when the folder cannot be used, or another process works on the run.
---@param path string
---@param options {every: integer|nil, seconds: number|nil, backup: boolean|nil, lock: boolean|nil}|nil
---@return training.RunFile
function progress.open(path, options)
  local where = "progress.open"
  errors.expect(where, "path", path, "string")
  options = errors.expect(where, "options", options or {}, "table")
  errors.check_options(where, options, OPEN_OPTIONS)
  local every = errors.expect(where, "every", options.every, "integer|nil")
  local seconds = errors.expect(where, "seconds", options.seconds, "number|nil")
  if every and every < 1 then
    errors.raise{kind = "argument", message = where .. ": 'every' must be at least 1 step"}
  end
  if not every and not seconds then every = 1 end
  local above = path:match("^(.*)/[^/]*$")
  if above and above ~= "" then
    local ok, problem = folder.make(above)
    if not ok then fail(path, problem) end
  end
  local lock
  if options.lock ~= false then
    local problem
    lock, problem = folder.lock(path .. ".lock")
    if problem == "locked" then
      fail(path, "another process, or another part of this one, works on this run", "wait for it, or use another path")
    elseif not lock then
      fail(path, problem, "is the folder writable?")
    end
  end
  return setmetatable({path = path, every = every, seconds = seconds, backup = options.backup == true,
    held = lock, last_step = 0, last_time = clock.now(), is_open = true}, Run)
end

local function check_open(self, what)
  if not self.is_open then errors.raise{kind = "closed", message = ("run:%s: this run is closed"):format(what)} end
end

-- What the backup could give, for a hint.
local function backup_hint(self)
  local bytes = read_file(self.path .. ".bak")
  local run = bytes and parse(bytes)
  if not run then return "move it away to begin anew" end
  return ("the one before, of step %d, is beside it as .bak: open with backup = true to go on from there"):format(
    run.step)
end

--- What was saved last; nil at the first start. Raises kind "storage" for a file that is damaged, or is no file of a
--- run (which is left as it is).
---@return training.RunRecord|nil
function Run:load()
  check_open(self, "load")
  local bytes = read_file(self.path)
  local run, problem, foreign
  if bytes then
    run, problem, foreign = parse(bytes)
    if foreign then fail(self.path, problem, "use another path") end
    if not run and not self.backup then fail(self.path, problem, backup_hint(self)) end
  end
  if not run and self.backup then
    bytes = read_file(self.path .. ".bak")
    if bytes then
      run, problem = parse(bytes)
      if not run then fail(self.path .. ".bak", problem, "move both files away to begin anew") end
    elseif problem then
      fail(self.path, problem, "there is no .bak; move it away to begin anew")
    end
  end
  self.bytes = run and bytes or nil
  self.last_step, self.last_time = run and run.step or 0, clock.now()
  return run
end

--- Whether it is time to save: `every` steps, or `seconds`, have passed since the last time.
---@param step integer steps that are done
---@return boolean
function Run:due(step)
  check_open(self, "due")
  errors.expect("run:due", "step", step, "integer")
  if self.every and step - self.last_step >= self.every then return true end
  return self.seconds ~= nil and clock.now() - self.last_time >= self.seconds
end

-- The record of what was given, checked.
local function record_of(given)
  local where = "run:save"
  errors.expect(where, "record", given, "table")
  errors.check_options(where, given, FIELDS)
  local record = {}
  for name, value in pairs(given) do record[name] = value end
  errors.expect(where, "step", record.step, "integer")
  if record.step < 0 then errors.raise{kind = "argument", message = where .. ": 'step' must not be negative"} end
  if type(record.checkpoint) == "table" then record.checkpoint = record.checkpoint.path end   -- of save_weights
  errors.expect(where, "checkpoint", record.checkpoint, "string|nil")
  errors.expect(where, "done", record.done, "boolean|nil")
  return record
end

--- Saves how far the run is; when this returns, a crash does not lose it.
---
--- `step`: steps that are done; `checkpoint`: a path, or what save_weights returned; `policy_id`, `run_id`, `seeds`,
--- `position`, `state`: anything that JSON can hold; `done`.
---
--- Raises kind "argument" for what JSON cannot hold, "storage" when it cannot be written (the old file stays).
---@param record training.RunRecord
function Run:save(record)
  check_open(self, "save")
  record = record_of(record)
  local ok, text = pcall(encode, record)
  if not ok then
    errors.raise{kind = "argument", cause = text, message = "run:save: the record cannot be kept as JSON: "
      .. (errors.is(text) and text.message or tostring(text)), hint = "state may hold texts, numbers, booleans, tables"}
  end
  if self.bytes == nil then
    local old = read_file(self.path)
    local _, problem, foreign = nil, nil, nil
    if old then _, problem, foreign = parse(old) end
    if foreign then fail(self.path, problem, "use another path") end
    self.bytes = not problem and old or false
  end
  local bytes = encode_pretty{format = FORMAT, version = VERSION, run = record,
    sha256 = digest.hex(digest.sha256(text))} .. "\n"
  if #bytes > LARGEST_FILE then fail(self.path, "the record is too long", "keep large things in files of their own") end
  local written, problem = true, nil
  if self.bytes then written, problem = folder.replace(self.path .. ".bak", self.bytes) end
  if written then written, problem = folder.replace(self.path, bytes) end
  if not written then fail(self.path, "cannot be written: " .. problem, "is the disk full?") end
  self.bytes, self.last_step, self.last_time = bytes, record.step, clock.now()
end

--- Lets go of the run.
function Run:close()
  self.is_open = false
  if self.held then self.held:close() end
  self.held = nil
end

Run.__close = Run.close
Run.__gc = Run.close

function Run:__tostring() return ("training.RunFile(%s)"):format(self.path) end

errors.want_colon(Run, "run")

-- ------------------------------------------------------------------------------------------------------ resumable

local RESUMABLE_OPTIONS = {path = true, every = true, seconds = true, backup = true, steps = true, open = true,
  step = true, save = true, close = true, lost = true, restarts = true, first_delay = true, on_restart = true,
  state = true}
local LONGEST_DELAY = 60

local function is_lost(err)
  return errors.is(err, "session_lost") or errors.is(err) and err.retryable == true
end

-- The steps of one session, from what was saved to the end.
local function take_steps(run, options, context, saved, state)
  local record = saved
  for step = (saved and saved.step or 0) + 1, options.steps do
    options.step(context, step, state)
    if run:due(step) or step == options.steps then
      record = {step = step, state = state, done = step == options.steps or nil}
      for name, value in pairs(options.save(context, step) or {}) do
        if record[name] == nil then record[name] = value end
      end
      run:save(record)
      run.restarts = 0
    end
  end
  return record
end

-- A session from its beginning to its end: whether it came to the end of the run, and the record or what went wrong.
local function try_session(run, options, saved, state)
  local opened, context = pcall(options.open, saved)
  if not opened then return false, context end
  local ok, record = pcall(take_steps, run, options, context, saved, state)
  if options.close then
    local closed, problem = pcall(options.close, context, not ok and record or nil)
    if ok and not closed then return false, problem end
  end
  return ok, record
end

--- Runs steps in a session, saves how far they are, and goes on from there after a crash, or when the session is lost.
---
--- Options:
--- `path`, `every`, `seconds`, `backup`: as for `progress.open`;
--- `steps`: how many there are in all;
--- `open(saved)` → context: makes the session and the model, from `saved.checkpoint` when there is one (`saved` is nil
--- at the very beginning);
--- `step(context, step, state)`: one step; `state` is a table that is kept, and restored, with the run;
--- `save(context, step)` → {checkpoint =, policy_id =, run_id =, seeds =, position =}: saves the weights;
--- `close(context, err)`: ends the session; its own failures after a lost session do not matter;
--- `state`: the state to begin with ({}); `lost(err)`: whether an error means a session that can be made again
--- (default: kind "session_lost", and errors that are `retryable`); `restarts` = 5: how often in a row without anything
--- saved in between; `first_delay` = 1 second before the first of them, doubled up to a minute;
--- `on_restart(err, saved)`: is told.
---
--- A run that has made all its steps returns at once; with more `steps` it goes on. Errors that are not `lost` are
--- raised, after `close`.
---@param options table
---@return any state
---@return training.RunRecord record what was saved last
function progress.resumable(options)
  local where = "training.resumable"
  errors.expect(where, "options", options, "table")
  errors.check_options(where, options, RESUMABLE_OPTIONS)
  for _, name in ipairs{"open", "step", "save"} do errors.expect(where, name, options[name], "callable") end
  for _, name in ipairs{"close", "lost", "on_restart"} do errors.expect(where, name, options[name], "callable|nil") end
  errors.expect(where, "steps", options.steps, "integer")
  local lost = options.lost or is_lost
  local most, delay = options.restarts or 5, options.first_delay or 1
  local run <close> = progress.open(options.path, {every = options.every, seconds = options.seconds,
    backup = options.backup})
  run.restarts = 0
  local first = options.state == nil and {} or options.state
  local is_kept, initial = pcall(encode, first)
  while true do
    local saved = run:load()
    if saved and saved.step >= options.steps then return saved.state, saved end
    local state = saved and saved.state
    if state == nil and run.restarts > 0 and is_kept then
      state = decode(initial)   -- steps of before have changed the given one
    elseif state == nil then
      state = first
    end
    local ok, outcome = try_session(run, options, saved, state)
    if ok then return state, outcome end
    if not lost(outcome) or run.restarts >= most then error(outcome, 0) end
    run.restarts = run.restarts + 1
    if options.on_restart then options.on_restart(outcome, run:load()) end
    clock.pause(math.min(LONGEST_DELAY, delay * 2 ^ (run.restarts - 1)), false)
  end
end

return progress
