--- Runs: a loop whose metrics are kept, and which goes on where it was stopped.
--
--     local run <close> = training.Run{path = "runs/sort", client = client, checkpoint_every = 5,
--       model = {base_model = MODEL, lora = training.LoraConfig{rank = 16}}}
--     for step in run:steps(29) do
--       … run.model:sample{…} … run.model:train_step{…} …
--       run:log{["reward/mean"] = reward}
--     end
--     run:plot("reward/mean"):save("reward.svg")
--
-- In the folder `path`: metrics.jsonl (see training.metrics_file), and run.json (see training.progress), which
-- says after which step weights were saved last, and where. The same script, started again, loads those weights
-- with their optimizer, cuts off the metrics of later steps, and goes on with the step after.

local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local json = require "riverlua.json"
local lora = require "training.lora"
local metrics_file = require "training.metrics_file"
local object = require "training.object"
local progress = require "training.progress"

local run = {}

---@class training.Run
---@field path string the folder
---@field model training.Model
---@field session training.Session
---@field step integer the step that is made, or was made last
---@field resumed integer|nil the step that the run went on after; nil: it began anew
---@field checkpoint string|nil path of the weights that were saved last
---@field state table the script's own, kept with the weights
---@field summary table `path`, `step`, `resumed`, `checkpoint`; `metrics`: of each its `first`, `last`, `min`,
--- `max`, `mean` and `count`
local Run = {}
Run.__name = "training.Run"

local OPTIONS = {path = "string", client = "table|nil", session = "table|nil", model = "table",
  checkpoint_every = "integer|nil", checkpoint_seconds = "number|nil", name = "string|nil", weights = "table|nil",
  state = "table|nil", seed = "integer|nil", console = "boolean|nil", backup = "boolean|nil", keep = "integer|nil"}

-- Often enough for steps of seconds and for steps of minutes; what is saved stays for a year.
local EVERY_STEPS, EVERY_SECONDS = 10, 600

local function fail(what, text, hint)
  errors.raise{kind = "argument", message = ("%s: %s"):format(what, text), hint = hint}
end

local function copy(given)
  local own = {}
  for name, value in pairs(given or {}) do own[name] = value end
  return own
end

local function is_model(given) return type(rawget(given, "model_id")) == "string" end

-- Older checkpoints make room by being replaced: those of full weights never are.
local function check_keep(what, options)
  local least = options.backup and 2 or 1
  if options.keep < least then
    fail(what, "'keep' must be at least " .. (least > 1 and "2: backup may need the one before" or "1"))
  end
  if options.model.full_weight or (options.weights or {}).immutable then
    fail(what, "'keep' is not for checkpoints that are immutable, as those of full weights are",
      "weights = {ttl = SECONDS} bounds how long they are there")
  end
end

local function check(options)
  local what = "training.Run"
  errors.expect(what, "options", options, "table")
  errors.check_options(what, options, OPTIONS)
  for name, wanted in pairs(OPTIONS) do errors.expect(what, name, options[name], wanted) end
  if is_model(options.model) then
    if options.client or options.session then
      fail(what, "the model is there already, with its session", "leave out client and session")
    end
  elseif not options.client and (not options.session or not rawget(options.session, "session_id")) then
    fail(what, "there is neither a client nor a session", "training.Run{session = client:session{}, …}")
  elseif options.client and options.session and rawget(options.session, "session_id") then
    fail(what, "client or session, not both", "with a client, session is a table of its options")
  end
  if options.checkpoint_every and options.checkpoint_every < 1 then
    fail(what, "'checkpoint_every' must be at least 1 step")
  end
  if options.keep then check_keep(what, options) end
end

-- What a run trains, so that it does not go on with another model.
local function description_of(model)
  if is_model(model) then return {base_model = model.base_model, full_weight = model.full_weight} end
  return {base_model = model.base_model, full_weight = model.full_weight == true,
    lora = model.lora and lora.message(model.lora)}
end

local encode = json.encoder{sort = true}

local function check_same_model(path, saved, description)
  local before, now = encode(saved), encode(description)
  if before == now then return end
  fail("training.Run", ("the run in '%s' trains another model: %s, not %s"):format(path, before, now),
    "use another path for another run")
end

-- ---- beginning, going on -------------------------------------------------------------------------------------

-- The weights that were saved are gone: a plain "not found" would leave one guessing.
local function explain_missing(self, err)
  if not errors.is(err, "not_found") or not self.checkpoint then return err end
  return errors.new{kind = "not_found", cause = err, code = err.code, status = err.status,
    checkpoint = self.checkpoint,
    message = ("training.Run: the weights of step %d are gone: %s"):format(self.resumed, err.message),
    hint = "embedded: keeps weights in memory, embedded:FOLDER in a folder; move " .. self.path
      .. " away to begin anew"}
end

local function open_model(self, options)
  local given = options.model
  if is_model(given) then
    self.model, self.session = given, given.session
    if self.checkpoint then given:load_weights(self.checkpoint) end
    return
  end
  local create = copy(given)
  if self.checkpoint then create.checkpoint, create.load_optimizer = self.checkpoint, nil end
  self.session = options.session
  if options.client then
    self.session = options.client:session(copy(options.session))
    self.owns_session = true
  end
  self.model = self.session:create_model(create)
end

-- What belongs to others must not be taken for a run's.
local function check_foreign(self, file)
  local stream <close> = io.open(self.path .. "/metrics.jsonl", "rb")
  if not stream or stream:read(1) == nil then return end
  errors.raise{kind = "storage",
    message = ("training.Run: there is a metrics.jsonl in '%s', and no run.json"):format(self.path),
    hint = ("it is of something else: use another path; or %s was removed"):format(file.path)}
end

local function begin(self, options)
  local file = self.file
  local saved = file:load()
  if saved then
    local kept = type(saved.state) == "table" and saved.state or {}
    if saved.step > 0 and kept.model then check_same_model(self.path, kept.model, self.description) end
    self.step, self.checkpoint = saved.step, saved.checkpoint
    self.resumed = saved.step > 0 and saved.step or nil
    self.place = math.tointeger(kept.place) or 0
    if kept.script ~= nil then self.state = kept.script end
    if saved.step > 0 and not saved.checkpoint then
      errors.raise{kind = "storage", hint = "use another path",
        message = ("training.Run: '%s' is of a run without weights"):format(file.path)}
    end
  else
    check_foreign(self, file)
  end
  self.metrics = metrics_file.open(self.path .. "/metrics.jsonl", self.step)
  local ok, err = pcall(open_model, self, options)
  if not ok then error(explain_missing(self, err), 0) end
  self.metrics:start()
  if self.step == 0 then file:save{step = 0, state = {model = self.description, script = self.state}} end
  if self.console then self.model:define_metric("*", {step_metric = "step"}) end
end

-- Ends what the run has opened.
local function close(self, err)
  if self.closed then return end
  self.closed = true
  if self.metrics then self.metrics:close() end
  self.file:close()
  if self.owns_session then getmetatable(self.session).__close(self.session, err) end
end

--- A run: begins it, or goes on after the last step whose weights were saved.
---
--- Options: `path`: a folder, which one process at a time may use; `model`: what `session:create_model` takes, or
--- a model; `session`, or `client` (then the run makes a session and ends it; `session` may hold its options);
--- `checkpoint_every` steps and `checkpoint_seconds`: how often weights are saved, whichever comes first (default:
--- 10 steps, or 10 minutes), besides the end; `name` = "step": checkpoints are called step-5, step-10 and so on;
--- `keep`: so many of the newest stay (default: all, see `ttl`), under `keep` + 1 names that are used in turn:
--- step-kept-1, step-kept-2; not with `full_weight`; `weights`: further options of `save_weights`, such as `ttl`;
--- `state` = {}: a table of the script's that is kept with the weights, in `run.state`; `seed` = 0, see `run:seed`;
--- `console` = true: metrics go to the console, too (`model:log`); `backup` = true: with a run.json that is damaged,
--- goes on from the one before.
---
--- Raises kind "argument" when the run in this folder trains another model, "storage" when the folder cannot be
--- used or another process works on the run, "not_found" when the weights are gone, and what making a session or a
--- model raises.
---@param options table
---@return training.Run
function run.Run(options)
  check(options)
  local path = options.path:gsub("(.)/+$", "%1")
  if path == "" then fail("training.Run", "'path' is empty") end
  local description = description_of(options.model)
  local every, seconds = options.checkpoint_every, options.checkpoint_seconds
  if not every and not seconds then every, seconds = EVERY_STEPS, EVERY_SECONDS end
  local file = progress.open(path .. "/run.json", {every = every, seconds = seconds, backup = options.backup})
  local self = setmetatable({path = path, file = file, metrics = false, model = false, session = false,
    owns_session = false, description = description, name = options.name or "step",
    weights = copy(options.weights), keep = options.keep or false, place = 0, console = options.console == true,
    run_seed = options.seed or 0, seeds = 0, step = 0, state = options.state or {}, values = false, stopping = false,
    broken = false, closed = false}, Run)
  local ok, err = pcall(begin, self, options)
  if ok then return self end
  pcall(close, self, err)
  error(err, 0)
end

-- ---- steps ---------------------------------------------------------------------------------------------------

local function check_open(self, what)
  if not self.closed then return end
  errors.raise{kind = "closed", message = ("run:%s: this run has been closed"):format(what)}
end

-- What the next checkpoint is called. With `keep`: the name of the oldest one, never that of one that counts.
local function next_name(self)
  if not self.keep then return ("%s-%d"):format(self.name, self.step), nil end
  local place = self.place % (self.keep + 1) + 1
  return ("%s-kept-%d"):format(self.name, place), place
end

-- Saves weights, and that they are those of this step.
local function save(self, done)
  local more = copy(self.weights)
  if self.model.full_weight and more.immutable == nil then more.immutable = true end
  local name, place = next_name(self)
  local checkpoint = self.model:save_weights(name, more)
  self.metrics:sync()   -- no step that counts as made is without its row
  local policy = checkpoint.policy_version
  self.file:save{step = self.step, checkpoint = checkpoint.path, policy_id = policy and policy.id,
    run_id = self.model.training_run_id, done = done or nil,
    state = {model = self.description, script = self.state, place = place}}
  self.checkpoint, self.place = checkpoint.path, place or self.place
end

local function send_to_console(self, values)
  local numbers = {}
  for name, value in pairs(values) do
    if type(value) == "number" and value - value == 0 then numbers[name] = value end
  end
  if next(numbers) == nil then return end
  numbers.step = self.step
  self.model:log(numbers)
end

-- After the body of the loop.
local function finish_step(self, last)
  local values = self.values
  self.values, self.broken = false, true
  self.metrics:append(self.step, values)
  self.broken = false
  if self.console then send_to_console(self, values) end
  if self.step == last or self.stopping or self.file:due(self.step) then save(self, self.step == last) end
end

--- The steps that are still to be made, up to `count` in all: `for step in run:steps(29) do … end`.
---
--- A step has been made when the body of the loop comes to its end: then its metrics are written, and weights are
--- saved when it is time, and after the last one. A step that is left by `break`, or by an error, does not count;
--- `run:stop()` makes it the last one that does.
---
--- Raises what `save_weights` raises, and kind "storage" when nothing can be written; the run can be started again
--- then.
---@param count integer
---@return fun(): integer|nil
function Run:steps(count)
  check_open(self, "steps")
  errors.expect("run:steps", "count", count, "integer")
  if self.values then fail("run:steps", "a step of this run is being made") end
  if self.broken then
    fail("run:steps", "the loop was left in the middle of a step",
      "start the script again; run:stop() in place of break ends a run after a step")
  end
  self.stopping = false
  local function following()
    check_open(self, "steps")
    if self.values then finish_step(self, count) end
    if self.step >= count or self.stopping then return nil end
    self.step, self.values, self.seeds = self.step + 1, {}, 0
    return self.step
  end
  local leaving = setmetatable({}, {__close = function()
    if not self.values then return end
    self.values, self.step = false, self.step - 1
    self.broken = true   -- weights may have changed: only those that were saved are of a step
  end})
  return following, nil, nil, leaving
end

--- Makes the step that is under way the last one: the loop ends after it, and weights are saved.
function Run:stop()
  check_open(self, "stop")
  self.stopping = true
end

local VALUE = {number = true, boolean = true, string = true}

--- Metrics of the step that is being made: `run:log{["reward/mean"] = 0.25, loss = loss}`. Several calls add up to
--- one row, written when the step has been made. Numbers, booleans and texts; NaN and infinities are kept as null,
--- which pandas reads as NaN.
---@param values table<string, number|boolean|string>
function Run:log(values)
  local what = "run:log"
  check_open(self, "log")
  errors.expect(what, "values", values, "table")
  if not self.values then
    fail(what, "there is no step under way", "metrics belong to a step: call it in the loop over run:steps(…)")
  end
  for name, value in pairs(values) do
    if type(name) ~= "string" or name == "" then
      fail(what, "names of metrics are texts, got " .. (name == "" and "an empty one" or errors.got(name)))
    end
    if name == "step" then fail(what, "'step' is the run's own") end
    if not VALUE[type(value)] then
      fail(what, ("'%s' must be a number, a boolean or a text, got %s"):format(name, errors.got(value)))
    end
    if not (utf8.len(name) and (type(value) ~= "string" or utf8.len(value))) then
      fail(what, ("'%s' is no UTF-8"):format(name))
    end
  end
  for name, value in pairs(values) do self.values[name] = value end
end

--- A seed that depends on the run's `seed`, the step and how often it was asked for in this step, and on nothing
--- else: a step that is made again gets the same ones. For `model:sample{seed = run:seed()}`, or to shuffle data.
---@return integer # from 0 to 2^31 - 1
function Run:seed()
  check_open(self, "seed")
  self.seeds = self.seeds + 1
  local hash = digest.sha256(("riverlua run %d %d %d"):format(self.run_seed, self.step, self.seeds))
  return (("<I4"):unpack(hash)) & 0x7fffffff
end

-- ---- looking -------------------------------------------------------------------------------------------------

--- Rows of the steps that have been made: `{step = 1, ["reward/mean"] = 0.25}` and so on. They are copies.
---@return table[]
function Run:history()
  local rows = {}
  for i, row in ipairs(self.metrics.rows) do rows[i] = copy(row) end
  return rows
end

--- A chart of metrics over steps, see riverlua.plot.
---
--- `run:plot("reward/mean")`, `run:plot{y = {"reward/mean", "reward/max"}, title = …}`; without names, of all that
--- are numbers. Options: those of `plot.line` but `series`, `rows` and `x`.
---@param options string|table|nil
---@return riverlua.plot.Chart
function Run:plot(options)
  if type(options) == "string" then options = {y = options} end
  local own = copy(errors.expect("run:plot", "options", options or {}, "string|table|nil"))
  for _, name in ipairs{"series", "rows", "x"} do
    if own[name] ~= nil then fail("run:plot", ("'%s' is the run's own"):format(name)) end
  end
  own.rows, own.x = self.metrics.rows, #self.metrics.rows > 0 and "step" or nil
  own.x_label = own.x_label or "step"
  return require("riverlua.plot").line(own)
end

-- First, last, lowest, highest and mean value of each metric.
local function summarize(rows)
  local metrics = {}
  for _, row in ipairs(rows) do
    for name, value in pairs(row) do
      if name ~= "step" and type(value) == "number" and value - value == 0 then
        local one = metrics[name]
        if not one then
          one = {first = value, last = value, min = value, max = value, mean = 0.0, count = 0}
          metrics[name] = one
        end
        one.last, one.min, one.max = value, math.min(one.min, value), math.max(one.max, value)
        one.count = one.count + 1
        one.mean = one.mean + (value - one.mean) / one.count
      end
    end
  end
  return metrics
end

-- run.summary is computed when it is looked at.
local function summary_of(self)
  return {path = self.path, step = self.step, resumed = self.resumed, checkpoint = self.checkpoint,
    metrics = summarize(self.metrics.rows)}
end

--- Lets go of the run: what has been saved stays. Ends the session if the run made it.
function Run:close() close(self) end

Run.__close = close

function Run:__tostring()
  return ("training.Run(%s, step %d%s)"):format(self.path, self.step, self.closed and ", closed" or "")
end

errors.want_colon(Run, "run")
object.define(Run, {called = "training.Run", made = "path", internal = "",
  fields = "checkpoint model path resumed session state step summary"})

local look_up = Run.__index

function Run.__index(self, name)
  if name == "summary" then return summary_of(self) end
  return look_up(self, name)
end

return run
