--- Metrics of a run for the console, where they become plots.
--
--     local metrics <close> = console.open{run_id = "run-1", api_key = key}
--     metrics:define_metric("train/*", {step_metric = "train/step"})
--     metrics:log{["train/step"] = 1, ["train/reward"] = 0.25}
--
-- `log` puts the values into a buffer and returns at once. A task sends them, at most every two seconds, while the
-- script waits for anything; `close` (or the end of the block) sends the rest. Trouble with the console is never an
-- error of the script: it is tried again, and what is lost is said in a line on the standard error stream, at most
-- once a minute for each cause. In a forked child nothing is sent.
--
-- The API: `POST /api/metrics/runs/<run id>/observations` at RIVER_CONSOLE_URL.

local checks = require "training.console_metrics"
local core = require "riverlua.core.task"
local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local exchange = require "riverlua.exchange"
local json = require "riverlua.json"
local url = require "riverlua.url"

local console = {}

console.DEFAULT_URL = "https://console.river.ai"

local MOST_BATCH_BYTES = 1 << 20
local MOST_WAITING_VALUES, MOST_WAITING_BYTES = 10000, 8 << 20
local PACE, ANSWER_SECONDS = 2, 5            -- seconds between batches, and for an answer
local FIRST_DELAY, LONGEST_DELAY = 0.5, 30
local YOUNG = 120                            -- so long the console may not know the run yet
local PATIENCE, DRAIN, DRAIN_AFTER_FAILURE = 30, 30, 5
local WARNING_PAUSE = 60

local OPTIONS = {run_id = "string", api_key = "string", base_url = "string|nil", client_name = "string|nil",
  transport = "table|nil", clock = "table|nil", warn = "callable|nil", proxy = "string|boolean|nil",
  ca_file = "string|nil", verify = "boolean|nil", unix_socket = "string|nil"}

---@class training.Console
local Console = {}
Console.__index = Console
Console.__name = "training.Console"

-- ---------------------------------------------------------------------------------------------------- surroundings

-- The time of day in seconds with a fraction: from whole seconds and a clock that only counts. At first it is behind
-- by less than a second, and less with every look.
local function time_of_day(now)
  local offset = os.time() - now()
  return function()
    local current = os.time() - now()
    if current > offset or current < offset - 2 then offset = current end
    return now() + offset
  end
end

local function default_clock()
  return {
    now = core.now, time = time_of_day(core.now),
    wait = function(signal, seconds) return signal:wait(seconds) end,
    jitter = function() return 0.5 + ("I2"):unpack(digest.random(2)) / 65535 end,
  }
end

local function timestamp(seconds)
  local whole = math.floor(seconds)
  return os.date("!%Y-%m-%dT%H:%M:%S", whole) .. (".%03dZ"):format(math.floor((seconds - whole) * 1000))
end

-- The number of this process, which a forked child does not share; nil where it cannot be found out.
local function process()
  local file <close> = io.open("/proc/self/stat", "rb")
  return file and file:read("n")
end

local function fail(message, hint)
  errors.raise{kind = "argument", message = "console.open: " .. message, hint = hint}
end

local function is_loopback(host)
  return host == "localhost" or host == "[::1]" or host:find("^127%.%d+%.%d+%.%d+$") ~= nil
end

local function check_base_url(base_url)
  local parts = url.parse(base_url)
  local shown = url.redact(base_url)
  if not parts or parts.scheme ~= "https" and parts.scheme ~= "http" or base_url:find("[%c ]") then
    fail(("'%s' is not an https address"):format(shown), "base_url, or the variable RIVER_CONSOLE_URL, is wrong")
  end
  if parts.userinfo or base_url:find("[?#]") then
    fail("the address of the console has no user, query or fragment")
  end
  if parts.scheme == "http" and not is_loopback(parts.host) then
    fail(("'%s' would send the key without encryption"):format(shown), "only this machine may be http: " ..
      "http://127.0.0.1:8080")
  end
  return (base_url:gsub("/+$", ""))
end

-- A function that posts a body → the answer, or nil, the error and its text. Only it knows the key.
local function poster(base_url, options)
  local transport = options.transport or require("riverlua.transport").open("training", base_url, {
    user_agent = options.client_name, retries = 0, redirects = 0, timeout = ANSWER_SECONDS, max_body = 1 << 20,
    proxy = options.proxy, ca_file = options.ca_file, verify = options.verify, unix_socket = options.unix_socket,
  })
  local path = "/api/metrics/runs/" .. url.escape(options.run_id) .. "/observations"
  local headers = {Authorization = "Bearer " .. options.api_key, Accept = "application/json",
    ["Content-Type"] = "application/json"}
  local function post(body)
    local ok, res = pcall(transport.request, transport, {method = "POST", path = path, headers = headers, body = body,
      timeout = ANSWER_SECONDS, idempotent = false})
    if ok then return res end
    local text = tostring(errors.is(res) and res.message or res)
    return nil, res, (text:gsub(options.api_key:gsub("%p", "%%%0"), "***"))
  end
  return post, function() if transport.close and not options.transport then transport:close() end end
end

--- Opens the metrics of a run. `options`: `run_id` (the training run's), `api_key`; `base_url` (RIVER_CONSOLE_URL, or
--- the service's console), which must be https, or on this machine; `client_name`, for the header User-Agent;
--- `warn(text)` gets the warnings; `proxy`, `ca_file`, `verify`, `unix_socket` as in riverlua.http; `transport` (see
--- riverlua.transport) in place of a connection; `clock` for tests.
---
--- Errors: kind "argument".
---@param options table
---@return training.Console
function console.open(options)
  errors.expect("console.open", "options", options, "table")
  errors.check_options("console.open", options, OPTIONS)
  for name, wanted in pairs(OPTIONS) do errors.expect("console.open", name, options[name], wanted) end
  if options.run_id == "" then fail("'run_id' is empty") end
  if options.api_key == "" or options.api_key:find("[%c ]") then
    fail("'api_key' is not a key", "it is empty, or has spaces or line breaks in it")
  end
  local base_url = options.base_url or os.getenv("RIVER_CONSOLE_URL") or ""
  if base_url == "" then base_url = console.DEFAULT_URL end
  base_url = check_base_url(base_url)
  local clock = options.clock or default_clock()
  local post, close = poster(base_url, options)
  local started_at = clock.time()
  return setmetatable({
    run_id = options.run_id, post = post, close_transport = close, clock = clock, process = process(),
    warn = options.warn or function(text) io.stderr:write("riverlua: ", text, "\n") end, warned = {},
    started = clock.now(),
    producer = json.encode({producer_id = digest.uuid(), started_at = timestamp(started_at)}, {sort = true}),
    definitions = checks.definitions(), seq = 0, failures = 0, waiters = 0,
    queue = {first = 1, last = 0}, values = 0, bytes = 0, moved = core.signal(), wake = core.signal(),
    delivered = 0, rejected = 0, dropped = 0,
  }, Console)
end

-- ---------------------------------------------------------------------------------------------------------- buffer

local function warn(self, cause, text)
  local now = self.clock.now()
  local last = self.warned[cause]
  if last and now - last < WARNING_PAUSE then return end
  self.warned[cause] = now
  self.warn(("metrics of the run %s: %s"):format(self.run_id, text))
end

local function pop(self)
  local queue = self.queue
  local item = queue[queue.first]
  queue[queue.first] = nil
  queue.first = queue.first + 1
  self.values, self.bytes = self.values - item.values, self.bytes - #item.body
  return item
end

local function waiting(self)
  local queue = self.queue
  return queue.last - queue.first + 1 + (self.batch and #self.batch.items or 0)
end

local function drop(self, item)
  self.definitions:use(item.version, -1)
  self.dropped = self.dropped + 1
end

local function drop_all(self)
  while self.queue.first <= self.queue.last do drop(self, pop(self)) end
end

-- Makes room by leaving out the oldest.
local function keep_bounds(self)
  local before = self.dropped
  while self.values > MOST_WAITING_VALUES or self.bytes > MOST_WAITING_BYTES do drop(self, pop(self)) end
  if self.dropped > before then
    warn(self, "full", ("too many wait for the console; the oldest are dropped (%d so far)"):format(self.dropped))
  end
end

local function envelope(self, definitions, observations)
  return ('{"version":1,"producer":%s,"definitions":[%s],"observations":[%s]}'):format(self.producer,
    table.concat(definitions, ","), table.concat(observations, ","))
end

-- The next observations, with the definitions that the console does not have yet; nil: there is nothing to send.
local function take_batch(self)
  local definitions, versions, known, size = {}, {}, {}, #envelope(self, {}, {})
  local function definition_of(version)
    return version and not known[version] and self.definitions:undelivered(version) or nil
  end
  local function add_definition(version, text)
    if not text then return end
    known[version] = true
    versions[#versions + 1], definitions[#definitions + 1] = version, text
    size = size + #text + 1
  end
  add_definition(self.definitions:current(), self.definitions:pending())
  local items, bodies, values, queue = {}, {}, 0, self.queue
  while queue.first <= queue.last do
    local item = queue[queue.first]
    local text = definition_of(item.version)
    local more = #item.body + 1 + (text and #text + 1 or 0)
    -- one always fits: a call is bounded
    if #items > 0 and (values + item.values > checks.MOST_VALUES or size + more > MOST_BATCH_BYTES) then break end
    add_definition(item.version, text)
    items[#items + 1], bodies[#bodies + 1] = pop(self), item.body
    values, size = values + item.values, size + #item.body + 1
  end
  if #items == 0 and #definitions == 0 then return nil end
  return {items = items, versions = versions, body = envelope(self, definitions, bodies)}
end

-- -------------------------------------------------------------------------------------------------------- delivery

local STOPPED = {cancelled = true, interrupted = true, closed = true, deadlock = true}
local NETWORK = {dns = true, connect = true, tls = true, timeout = true, protocol = true, limit = true}

local function forget_batch(self)
  for _, item in ipairs(self.batch.items) do self.definitions:use(item.version, -1) end
  self.batch = nil
  self.failures = 0
end

local function reject(self, reason)
  self.rejected = self.rejected + #self.batch.items
  self.definitions:sent(self.batch.versions, "refused")
  forget_batch(self)
  warn(self, reason, ("the console refused them with %s (%d observations so far)"):format(reason, self.rejected))
end

local function disable(self, reason)
  self.disabled = reason
  self.rejected = self.rejected + #self.batch.items
  forget_batch(self)
  drop_all(self)
  warn(self, "disabled", reason .. "; nothing more is sent")
end

local function try_later(self, reason, asked)
  local delay = math.min(LONGEST_DELAY, FIRST_DELAY * 2 ^ math.min(self.failures, 10) * self.clock.jitter())
  self.failures = self.failures + 1
  local now = self.clock.now()
  self.failing = self.failing or now
  self.next_try = now + math.max(delay, math.min(asked or 0, LONGEST_DELAY))
  if now - self.failing >= PATIENCE then
    warn(self, "unreached", ("the console does not take them (%s); %d observations wait"):format(reason, waiting(self)))
  end
end

local function send(self)
  local batch = self.batch
  local res, err, text = self.post(batch.body)
  self.sent_at = self.clock.now()
  if not res then
    local kind = errors.is(err) and err.kind or ""
    if STOPPED[kind] then error(err, 0) end
    if NETWORK[kind] then return try_later(self, text) end
    return disable(self, ("they cannot be sent (%s)"):format(text))
  end
  local status = res.status
  if status >= 200 and status < 300 then
    self.delivered = self.delivered + #batch.items
    self.definitions:sent(batch.versions, "delivered")
    self.failing = nil
    return forget_batch(self)
  end
  local reason = ("HTTP %d"):format(status)
  local young = self.sent_at - self.started < YOUNG
  if status == 408 or status == 429 or status >= 500 or status == 404 and young then
    return try_later(self, reason, exchange.parse_retry_after((res.headers or {})["retry-after"]))
  end
  self.failing = nil
  if status == 401 or status == 403 or status == 404 then return disable(self, "the console answered " .. reason) end
  reject(self, reason)
end

-- Waits until a batch may be sent; false: not now, the console has not answered for too long.
local function wait_for_turn(self, began)
  while not self.hurry do
    local now = self.clock.now()
    local due = self.failures > 0 and self.next_try or self.more and now or (self.sent_at or -math.huge) + PACE
    if due <= now then return true end
    -- nobody who waits for it: a script that is over must not be held up for ever
    if self.failures > 0 and self.waiters == 0 and due > began + PATIENCE then return false end
    self.clock.wait(self.wake, due - now)
  end
  return true
end

local function work(self)
  local _ <close> = setmetatable({}, {__close = function()
    self.worker = nil
    self.moved:fire()
  end})
  local began = self.clock.now()
  while not self.disabled and (self.batch or self.queue.first <= self.queue.last
    or self.definitions:pending()) do
    if not wait_for_turn(self, began) then return end
    self.batch = self.batch or take_batch(self)
    if not self.batch then break end
    self.more = self.queue.first <= self.queue.last
    send(self)
    if self.failures > 0 then self.hurry = false end
  end
  self.hurry = false
end

local ENDED = {done = true, failed = true, cancelled = true}

-- Sees to it that somebody sends what waits.
local function ensure_worker(self)
  if self.worker and not ENDED[self.worker:status()] then return end
  if self.failures > 0 and not self.hurry and self.clock.now() < self.next_try then return end
  self.worker = core.spawn(work, self)
end

-- Whether nothing is to be sent, and why: the first time that is a warning.
local function is_silent(self)
  if self.process ~= process() then
    warn(self, "forked", "a forked child does not send any")
    return true
  end
  local reason = self.disabled or self.closed and "they have been closed"
  if not reason then return false end
  self.dropped = self.dropped + 1
  warn(self, "silent", ("dropped, because %s (%d so far)"):format(reason, self.dropped))
  return true
end

-- --------------------------------------------------------------------------------------------------------- surface

--- Records values of one moment: names of 1 to 512 bytes, not beginning with `_river/`, with finite numbers; at most
--- 1000 in a call. Does not wait.
---
--- Errors: kind "argument"; trouble with the console is none.
---@param values table<string, number>
function Console:log(values)
  local encoded, count = checks.encode_values("console:log", values)
  if is_silent(self) then return end
  local name, axis = self.definitions:without_axis(values)
  if name then
    warn(self, "axis", ("'%s' was logged without its step metric '%s' in the same call; it has no place on that axis")
      :format(name, axis))
  end
  local version = self.definitions:current()
  local body = ('{"seq":%d,"logged_at":"%s","elapsed_s":%.6f,"definition_version":%s,"values":%s}'):format(self.seq,
    timestamp(self.clock.time()), self.clock.now() - self.started, version or "null", encoded)
  self.seq = self.seq + 1
  self.definitions:use(version, 1)
  local queue = self.queue
  queue.last = queue.last + 1
  queue[queue.last] = {body = body, values = count, version = version}
  self.values, self.bytes = self.values + count, self.bytes + #body
  keep_bounds(self)
  ensure_worker(self)
end

--- Says over which metric another is drawn, or whether it is hidden, from the next `log` on. `name` may end in `*`:
--- then it is for all whose names begin so; a definition without a star beats one with, and the longest star wins.
--- What is not given stays as it was.
---
--- Errors: kind "argument".
---@param name string
---@param options {step_metric: string|nil, hidden: boolean|nil}|nil `step_metric` may be one of your own, or
--- `_river/timestamp` or `_river/runtime` (the built-in axes)
function Console:define_metric(name, options)
  self.definitions:define("console:define_metric", name, options)
  if self.closed or self.disabled or self.process ~= process() then return end
  ensure_worker(self)
end

-- Sends everything now; false when time was up, or nothing is sent any more.
local function drain(self, seconds)
  local deadline = self.clock.now() + seconds
  local _ <close> = setmetatable({}, {__close = function() self.waiters = self.waiters - 1 end})
  self.waiters = self.waiters + 1
  self.hurry = true
  self.wake:fire()
  ensure_worker(self)
  while self.worker and not ENDED[self.worker:status()] do
    local left = deadline - self.clock.now()
    if left <= 0 then return false end
    self.clock.wait(self.moved, left)
  end
  return not self.disabled
end

--- Sends what waits, and waits for that.
---@param seconds number|nil at most so long (default: 30)
---@return boolean sent false when it took too long, or the console wants no metrics from this run
function Console:flush(seconds)
  if seconds ~= nil then errors.expect("console:flush", "seconds", seconds, "number") end
  if self.closed or self.process ~= process() then return false end
  return drain(self, seconds or DRAIN)
end

--- What has become of the observations so far.
---@return {waiting: integer, delivered: integer, rejected: integer, dropped: integer, disabled: string|nil}
function Console:counts()
  return {waiting = waiting(self), delivered = self.delivered, rejected = self.rejected, dropped = self.dropped,
    disabled = self.disabled}
end

local function say_lost(self, unconfirmed)
  local lost = self.dropped + self.rejected + unconfirmed
  if lost == 0 then return end
  self.warn(("metrics of the run %s: %d observations were not delivered (%d dropped here, %d refused by the console, "
    .. "%d not confirmed)"):format(self.run_id, lost, self.dropped, self.rejected, unconfirmed))
end

--- Sends what waits for at most so long, and ends. Says how many were lost, if any. Closing twice does nothing.
---@param seconds number|nil (default: 30)
function Console:close(seconds)
  if seconds ~= nil then errors.expect("console:close", "seconds", seconds, "number") end
  if self.closed then return end
  self.closed = true
  if self.process ~= process() then return end
  local ok, err = pcall(drain, self, seconds or DRAIN)
  local worker = self.worker
  if worker then
    worker:cancel("the metrics were closed")
    pcall(worker.join, worker)
  end
  self.worker = nil
  say_lost(self, waiting(self))
  drop_all(self)
  self.batch = nil
  self.close_transport()
  if not ok then error(err, 0) end
end

function Console:__close(failure) self:close(failure ~= nil and DRAIN_AFTER_FAILURE or nil) end

-- A script that ended without closing, while the console could not be reached.
function Console:__gc()
  if not self.closed and waiting(self) > 0 and self.process == process() then say_lost(self, waiting(self)) end
end

function Console:__tostring() return ("%s: run %s"):format(Console.__name, self.run_id) end

errors.want_colon(Console, "console")

return console
