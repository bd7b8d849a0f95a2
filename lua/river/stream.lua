--- Watching a server: its event streams, read in the background and reconnected when they break.
--
--     for event in cli:stream_events{kind = "learn", model = "prices", timeout = 60} do
--       print(event.model, event.prediction, event.ground_truth)
--     end
--
-- A stream listens from the moment it is made. It ends by `break`, `stream:close()`, after `limit` events, after
-- `timeout` seconds, with its client, or by Ctrl-C. Nothing can be said about events of the time between two
-- connections: a River server keeps none.
--
-- A River server hangs up, silently, on a listener that does not read. So a task of its own reads as fast as events
-- come, into a queue of `capacity` events; when that is full the oldest is dropped and counted in `stream.dropped`.
-- On the server a stream occupies a thread: one that has too few of them (gunicorn --threads) answers nobody else.

local errors = require "riverlua.errors"
local json = require "riverlua.json"
local place = require "river.place"
local task = require "riverlua.task"

local stream = {}

-- Python writes NaN and infinities bare.
local decode = json.decoder{drop_null = true, nan = true}

local EVENTS_PATH, METRICS_PATH = "/stream/events/", "/stream/metrics/"
local STREAM_HEADERS = {["Accept"] = "text/event-stream"}
local KINDS = {learn = true, predict = true, label = true}
local NOT_FINITE = {nan = 0 / 0, inf = math.huge, ["-inf"] = -math.huge}

local DEFAULT_CAPACITY = 1000
local FIRST_WAIT, LONGEST_WAIT = 0.5, 30
-- Own calls that must have made events before a silent listener is taken for dead.
local DEAD_AFTER_CALLS, DEFAULT_SILENCE, MAX_SILENCE_FACTOR = 3, 30, 16
-- So often a server may hang up before it has ever answered.
local MAX_UNANSWERED = 5

local OPTIONS = {kind = true, model = true, limit = true, timeout = true, idle = true, silence = true, capacity = true,
  on_reconnect = true, wait = true}

---@class river.Stream
---@field reconnects integer connections after the first
---@field dropped integer events lost because the loop was slower than they came
---@field malformed integer events left out because they were not what a River server sends
---@field delivered integer events handed out
local Stream = {}
Stream.__name = "river.Stream"

-- ------------------------------------------------------------------------------------------------------ options

local function fail(what, message, hint)
  errors.raise{kind = "argument", message = what .. ": " .. message, hint = hint}
end

local function read_set(what, name, given)
  if given == nil then return nil end
  local set = {}
  for _, one in ipairs(type(given) == "table" and given or {given}) do
    if type(one) ~= "string" or one == "" then fail(what, ("'%s' is a text or a list of them"):format(name)) end
    set[one] = true
  end
  if not next(set) then fail(what, ("'%s' is an empty list: nothing would ever come"):format(name)) end
  return set
end

local function read_number(what, options, name, default, least)
  local value = options[name]
  if value == nil then return default end
  if value == false then return nil end
  if type(value) ~= "number" or value ~= value or value < least then
    fail(what, ("'%s' must be a number of at least %g"):format(name, least))
  end
  return value
end

local function read_options(what, given)
  local options = given or {}
  errors.expect(what, "options", options, "table")
  errors.check_options(what, options, OPTIONS)
  local kinds = read_set(what, "kind", options.kind)
  for kind in pairs(kinds or {}) do
    if not KINDS[kind] then
      local near = errors.suggest(kind, KINDS)
      fail(what, ("there are no events of the kind '%s'"):format(kind),
        near and ("did you mean '%s'?"):format(near) or "kinds: learn, predict, label")
    end
  end
  if options.on_reconnect ~= nil then errors.expect(what, "on_reconnect", options.on_reconnect, "callable") end
  local idle = read_number(what, options, "idle", nil, 0) or nil
  if options.limit ~= nil then errors.expect(what, "limit", options.limit, "integer") end
  if options.capacity ~= nil then errors.expect(what, "capacity", options.capacity, "integer") end
  return {
    what = what, kinds = kinds, models = read_set(what, "model", options.model),
    limit = read_number(what, options, "limit", nil, 1), timeout = read_number(what, options, "timeout", nil, 0),
    idle = idle and idle > 0 and idle or nil,
    silence = read_number(what, options, "silence", DEFAULT_SILENCE, 0),
    capacity = read_number(what, options, "capacity", DEFAULT_CAPACITY, 1) or DEFAULT_CAPACITY,
    first_wait = read_number(what, options, "wait", FIRST_WAIT, 0) or 0, on_reconnect = options.on_reconnect,
  }
end

-- ------------------------------------------------------------------------------------------- reading, its own task

-- Successful calls of this client that make the server announce something.
local function own_calls(shared)
  local transport, client = shared.client._transport, shared.client
  if not transport or not transport.successes then return 0 end
  local calls = transport:successes(client._learn_path)
  if shared.path == EVENTS_PATH then calls = calls + transport:successes(client._predict_path) end
  return calls
end

local function note_heard(shared)
  shared.heard_at, shared.heard_calls = task.now(), own_calls(shared)
end

local function keep(shared, item)
  local queue, capacity = shared.queue, shared.options.capacity
  -- many events at once are no reason to lose some: a loop that waits for them gets its turn first
  if #queue >= capacity then task.sleep(0) end
  if queue.closed then return end
  while #queue >= capacity do
    queue:get()
    shared.dropped = shared.dropped + 1
  end
  queue:put(item)
end

local function take_event(shared, event)
  local options = shared.options
  if options.kinds and not options.kinds[event.event] then return end
  local ok, data = pcall(decode, event.data)
  if not ok or type(data) ~= "table" or json.is_array(data) then
    shared.malformed = shared.malformed + 1
    return
  end
  if shared.path == METRICS_PATH then
    for name, value in pairs(data) do
      if type(value) == "string" then data[name] = NOT_FINITE[value] or value end
    end
  else
    if options.models and not options.models[data.model] then return end
    data.kind = event.event
  end
  keep(shared, data)
end

local closer = {__close = function(held)
  if held.res.close then held.res:close() end
end}

-- Reads one connection to its end.
local function listen(shared)
  local idle = shared.options.idle or false
  local client = shared.client
  -- nothing, not even a status, comes before the first event
  local req = {method = "GET", path = client._root .. shared.path, headers = STREAM_HEADERS, stream = true,
    idempotent = true, timeout = {first_byte = idle, idle = idle, total = false}}
  note_heard(shared)
  local res = shared.transport:request(req)
  local _ <close> = setmetatable({res = res}, closer)
  local kind = res.headers and res.headers["content-type"]
  local foreign = kind and not kind:find("text/event-stream", 1, true)
  if res.status >= 300 or foreign then
    if res.body == nil and res.text then
      local ok, text = pcall(res.text, res, 65536)
      res.body = ok and text or ""
    end
    local call = {what = shared.options.what, base = client.baseurl, root = client.baseurl .. client._root .. "/"}
    local failure = require "river.failure"
    if res.status < 300 then failure.raise_unreadable(call, req, res) end
    failure.raise(call, req, res)
  end
  shared.answered = true
  shared.listener = res.listener   -- of a service in this process: it counts what it dropped itself
  for event in res:events() do
    shared.received = shared.received + 1
    shared.silence_factor = 1
    note_heard(shared)
    take_event(shared, event)
  end
end

local PASSING = {cancelled = true, interrupted = true, deadlock = true, memory = true}
local TRANSIENT = {connect = true, dns = true, tls = true, timeout = true, protocol = true}

-- Whether it makes no sense to try again after this. The first connection must succeed; later ones are a server that
-- restarts, until it says no.
local function is_final(shared, err, fruitless)
  if not errors.is(err) then return true end
  if err.status then
    if err.kind == "protocol" or not shared.answered then return true end
    return err.status < 500 and not err.retryable
  end
  if not TRANSIENT[err.kind] then return true end
  if shared.answered then return false end
  -- a silence or an end before the first event: the server was there
  if err.sent then
    shared.seen = true
    return err.kind ~= "timeout" and fruitless >= MAX_UNANSWERED
  end
  return not shared.seen
end

-- Not math.random: scripts seed that and rely on its sequence.
local function jitter() return 0.5 + (task.now() * 1e6 % 997) / 1994 end

local function tell_reconnect(shared, reason, wait)
  shared.reconnects = shared.reconnects + 1
  local tell = shared.options.on_reconnect
  if tell then tell{reason = reason, wait = wait, reconnects = shared.reconnects} end
end

-- Connects again and again. Refers to `shared` only, so that a stream nobody holds can be collected.
local function read_all(shared)
  local fruitless = 0
  while true do
    local before = shared.received
    local ok, err = pcall(listen, shared)
    if not ok and errors.is(err) and PASSING[err.kind] then error(err, 0) end
    fruitless = shared.received > before and 1 or fruitless + 1
    if not ok and is_final(shared, err, fruitless) then
      if not (errors.is(err, "closed")) then shared.failure = err end
      break
    elseif ok and shared.transport.embedded then
      break   -- the service was closed
    end
    local wait = math.min(LONGEST_WAIT, shared.options.first_wait * 2 ^ math.min(fruitless - 1, 20)) * jitter()
    local told, problem = pcall(tell_reconnect, shared, ok and "the server ended the stream" or err.message, wait)
    if not told then
      shared.failure = problem
      break
    end
    task.sleep(wait)
  end
  shared.queue:close()
end

-- -------------------------------------------------------------------------------------------------- handing out

-- Cancels the reader and waits until its connection is gone.
local function stop_reader(self)
  local reader = self.reader
  self.reader = nil
  if not reader then return end
  if task.current() == reader then
    reader:cancel("the stream was closed")
  else
    local _ <close> = reader
  end
end

local function start_reader(self)
  self.reader = task.spawn(read_all, self.shared)
end

--- Ends the stream and frees its connection at once. May be called twice.
function Stream:close()
  if self.closed then return end
  self.closed = true
  local shared = self.shared
  local streams = shared.client._streams
  if streams then streams[self] = nil end
  shared.queue:close()
  stop_reader(self)
  if shared.own then shared.transport:close() end
end

Stream.__close = Stream.close

-- A server that forgot this listener leaves the connection open and silent. Calls of our own that it answered must
-- have made events, so it can be told from a server where nothing happens.
local function revive(self)
  local shared = self.shared
  local silence = shared.options.silence
  if not silence then return nil end
  local left = shared.heard_at + silence * shared.silence_factor - task.now()
  if left > 0 then return left end
  if own_calls(shared) - shared.heard_calls < DEAD_AFTER_CALLS then return math.max(silence, 0.05) end
  shared.silence_factor = math.min(MAX_SILENCE_FACTOR, shared.silence_factor * 2)
  stop_reader(self)
  tell_reconnect(shared, "nothing came while calls succeeded", 0)
  note_heard(shared)
  start_reader(self)
  return silence * shared.silence_factor
end

-- The next item of the queue; nil at the end or when the time is up.
local function next_item(self)
  local shared = self.shared
  local queue = shared.queue
  while not self.closed do
    if shared.deadline and task.now() >= shared.deadline then break end
    local wait
    if #queue == 0 and not queue.closed then
      wait = revive(self)
      if shared.deadline then wait = math.min(wait or math.huge, shared.deadline - task.now()) end
    end
    local ok, item = pcall(queue.get, queue, wait and math.max(0, wait))
    if ok then
      if item ~= nil then return item end
      break
    end
    if not errors.is(item, "timeout") then error(item, 0) end
  end
  local failure = not self.closed and shared.failure
  self:close()
  if failure then error(failure, 0) end
  return nil
end

-- Which models have learned since: one entry each, however many events there were.
local function next_metrics(self)
  local shared = self.shared
  local pending, queue = shared.pending, shared.queue
  if #pending == 0 then
    local event = next_item(self)
    if event == nil then return nil end
    local seen = {}
    repeat
      if not seen[event.model] then
        seen[event.model] = true
        pending[#pending + 1] = event.model
      end
      event = #queue > 0 and queue:get() or nil
    until event == nil
  end
  local model = table.remove(pending, 1)
  return shared.client:metrics(model), model
end

--- Waits for the next event; nil when the stream has ended. The same as calling the stream.
---@return table|nil item the event, or the metrics
---@return string|nil model for metrics of a named model: its name
function Stream:next()
  if self.closed then return nil end
  local shared = self.shared
  local item, model
  if shared.pending then item, model = next_metrics(self) else item = next_item(self) end
  if item == nil then return nil end
  shared.delivered = shared.delivered + 1
  if shared.options.limit and shared.delivered >= shared.options.limit then self:close() end
  return item, model
end

function Stream:__call() return self:next() end

local COUNTS = {reconnects = true, dropped = true, malformed = true, delivered = true}

function Stream.__index(self, name)
  if COUNTS[name] then
    local shared = rawget(self, "shared")
    local lost = name == "dropped" and shared.listener and shared.listener.dropped or 0
    return shared[name] + lost
  end
  return Stream[name]
end

function Stream:__tostring()
  local shared = self.shared
  return ("river.Stream(%s%s%s%s)"):format(shared.client.baseurl, shared.client._root, shared.path,
    self.closed and ", closed" or "")
end

-- Whoever loses a stream without closing it loses the reader too.
function Stream:__gc()
  if self.reader then self.reader:cancel("nobody holds the stream any more") end
end

local function open(client, path, options, poll)
  if not client._transport then client._internal.closed(client) end
  local transport, own = place.open_stream(client)
  local shared = {
    client = client, path = path, options = options, transport = transport, own = own,
    queue = task.queue(), pending = poll and {} or nil, silence_factor = 1, received = 0,
    deadline = options.timeout and task.now() + options.timeout,
    reconnects = 0, dropped = 0, malformed = 0, delivered = 0,
  }
  note_heard(shared)
  local self = setmetatable({shared = shared, closed = false}, Stream)
  client._streams = client._streams or setmetatable({}, {__mode = "k"})
  client._streams[self] = true
  start_reader(self)
  -- its first turn: from here on it listens
  local ok, err = pcall(task.sleep, 0)
  if not ok then
    self:close()
    error(err, 0)
  end
  return self, nil, nil, self
end

--- Opens the stream of events; for `Client:stream_events`.
---
--- Options: `kind` ("learn", "predict", "label" or a list) and `model` (a name or a list) say which events are wanted;
--- `limit` (how many) and `timeout` (seconds, from now) end the stream; `idle`: seconds of silence after which the
--- connection is taken for dead (default: none, a server may have nothing to say); `silence` (default 30, false:
--- never): the same when at least three learns or predictions of this client succeeded meanwhile; `capacity` (default
--- 1000): events that may wait for the loop; `wait` (default 0.5): seconds before the first attempt to reconnect, which
--- double up to 30; `on_reconnect`: a function called before each with {reason, wait, reconnects}.
---
--- Raises, when the next event is asked for: "connect", "dns", "tls" … when the first connection fails; "auth",
--- "not_found", "http" when the server refuses. Later connections are tried again until they succeed or are refused.
---@param client river.Client
---@param given table|nil
---@return river.Stream
function stream.events(client, given)
  return open(client, EVENTS_PATH, read_options("stream_events", given))
end

--- Opens the stream of metrics; for `Client:stream_metrics`. Options as for events, but for `kind`.
---
--- Without `model`: the metrics that the server sends after every learn and label, of all models, which it does not
--- name. With it: the client watches the events and asks for the metrics of these models when they have learned; the
--- loop's second variable is the model's name. Events that came while the loop was busy cost one question per model.
---@param client river.Client
---@param given table|nil
---@return river.Stream
function stream.metrics(client, given)
  local options = read_options("stream_metrics", given)
  if options.kinds then
    fail("stream_metrics", "metrics come after learn and label alike, without saying which",
      "stream_events{kind = …} tells events of each kind")
  end
  if not options.models then return open(client, METRICS_PATH, options) end
  options.kinds = {learn = true, label = true}
  return open(client, EVENTS_PATH, options, true)
end

return stream
