--- Jobs: requests that are answered later. `client:ai_async{…}` returns a job, `job:wait()` its answer.
--
-- A job listens on a Phoenix channel with a token that serves once. When the connection is lost a fresh token is asked
-- for (POST /v1/ai/reconnect), with growing delays, until the time to wait is up. Whether ModelRiver repeats an answer
-- that came while nobody listened is not known; both are taken as they come.

local ask = require "modelriver.ask"
local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local failure = require "modelriver.failure"
local job_place = require "modelriver.job_place"
local job_steps = require "modelriver.job_steps"
local meta = require "modelriver.meta"
local phoenix = require "modelriver.phoenix"
local request = require "modelriver.request"
local response = require "modelriver.response"
local signals = require "riverlua.core.task"
local task = require "riverlua.task"

local job = {methods = {}}

local DEFAULT_TIMEOUT = 300
local CONNECT_TIMEOUT = 10      -- for the WebSocket, and for joining
local CLOSING = 0.25            -- what the server gets to answer our close
local TOKEN_AGE = 300           -- seconds that a token lives
local DELAYS = {0.25, 0.5, 1, 2, 5}
local REJOIN_DELAYS = {0, 1, 2, 5, 10}
local STEADY = 10               -- seconds after which a connection counts as a good one
-- In a row, without a good connection between them: losses, tokens refused, connections with garbage on them.
local MOST_DROPS, MOST_REFUSALS, MOST_BROKEN = 20, 2, 3

local DONE = {success = true, SUCCESS = true, ok = true, completed = true}

---@class modelriver.Job
---@field id string the channel_id: name it to ModelRiver's support
---@field workflow string|nil
---@field status "pending"|"ai_generated"|"completed"|"failed"
---@field result modelriver.Response|nil
---@field failure riverlua.Error|nil
---@field test_mode boolean
---@field instructions table|nil what the service says about getting the answer
---@field reconnects integer
---@field steps modelriver.Steps `steps.list` has them in order
local Job = {}
Job.__index = Job
Job.__name = "modelriver.Job"

-- What the user's functions raise goes to the user, whatever it looks like.
local function call_user(self, fn, ...)
  local ok, err = pcall(fn, ...)
  if ok then return end
  self.thrown = true
  error(err, 0)
end

local function tell(self, status, info)
  if self.on_status then call_user(self, self.on_status, status, info, self) end
end

local function place_of(self) return failure.place_of{what = "job", workflow = self.workflow or self.id} end

-- ------------------------------------------------------------------------------------------------------ outcomes

local function settle(self, status, result, err)
  self.status, self.result, self.failure = status, result, err
  self.ws_token = nil
end

local function payload_failure(self, payload)
  local call = self.client.gateway   -- which knows what is secret
  payload = failure.scrubbed(call, payload)
  local parts = failure.parts(payload) or {}
  local normal = meta.normal(payload.meta)
  local message, details = parts.message or "it failed, and the service does not say why", parts.details or {}
  if type(details.message) == "string" and details.message ~= message then
    message = message .. ": " .. details.message
  end
  return errors.new{kind = "job", channel_id = self.id, workflow = self.workflow, code = parts.code, type = parts.type,
    message = place_of(self) .. failure.one_line(call, message), details = parts.details, meta = normal,
    attempts = normal.attempts,
    provider_status = type(details.status) == "number" and details.status or nil,
    customer_data = payload.customer_data, payload = payload, retryable = false}
end

-- `final`: with the payload of an answer; otherwise it is an event that tells of an error, after which the official
-- client leaves the last steps as they are.
local function fail_job(self, payload, final)
  local err = payload_failure(self, payload)
  settle(self, "failed", nil, err)
  self.steps:set("process", "error", nil, err.message)
  if self.steps:has("backend") then self.steps:set("backend", "error", nil, err.message) end
  if final then
    self.steps:set("receive", "error", nil, err.message)
    self.steps:set("complete", "error", nil, err.message)
  end
  tell(self, "failed", payload)
end

local function duration_in(payload) return type(payload.meta) == "table" and payload.meta.duration_ms or nil end

local function complete_job(self, payload)
  local result = response.of_payload(payload, self.body)
  result.meta.workflow = result.meta.workflow or self.workflow
  settle(self, "completed", result)
  self.client.gateway.usage:add(self.workflow, result.meta.model, result.usage)
  self.steps:set("process", "success", duration_in(payload))
  if self.steps:has("backend") then self.steps:set("backend", "success") end
  self.steps:set("receive", "success")
  self.steps:set("complete", "success")
  tell(self, "completed", payload)
end

-- The service may say it again on every new connection.
local function await_backend(self, payload)
  if self.told_generated then return end
  self.told_generated = true
  self.status, self.ai_response = "ai_generated", payload.ai_response
  self.steps:set("process", "success", duration_in(payload))
  self.steps:set("backend", "pending")
  tell(self, "ai_generated", payload)
end

-- Takes a message of the channel; true when the job is over.
local function take(self, message)
  local payload = message.payload
  if message.event == "response" or message.event == "success" then
    if payload.status == "ai_generated" then
      await_backend(self, payload)
      return false
    end
    local well = DONE[payload.status] or type(payload.meta) == "table" and payload.meta.status == "success"
      or message.event == "success" and payload.status == nil
    if well then complete_job(self, payload) else fail_job(self, payload, true) end
    return true
  elseif message.event == "error" then
    fail_job(self, payload, false)
    return true
  end
  if self.on_event and message.event ~= "phx_reply" then
    call_user(self, self.on_event, message.event, payload, self)
  end
  return false
end

-- ------------------------------------------------------------------------------------------------------ listening

local function take_place(self, answer)
  self.project_id = type(answer.project_id) == "string" and answer.project_id or self.project_id
  self.websocket_url = type(answer.websocket_url) == "string" and answer.websocket_url or self.websocket_url
  self.websocket_channel = type(answer.websocket_channel) == "string" and answer.websocket_channel
    or self.websocket_channel
  self.ws_token = type(answer.ws_token) == "string" and answer.ws_token ~= "" and answer.ws_token or nil
  self.token_at = task.now()
end

-- A token that has not been used: the one that came with the job, or a fresh one.
local function renew_token(self, due)
  if self.ws_token and task.now() - self.token_at < TOKEN_AGE then return end
  local answer = ask.object(self.client.gateway, {what = "reconnect", path = "/v1/ai/reconnect", policy = "reconnect",
    body = {channel_id = self.id}, channel_id = self.id,
    timeout = {total = math.max(0.001, math.min(60, due - task.now()))}})
  take_place(self, answer)
  if not self.ws_token then
    errors.raise{kind = "protocol", channel_id = self.id, workflow = self.workflow, retryable = false,
      message = ("job '%s': the service gave no ws_token"):format(self.id),
      hint = "without one nobody can listen for the answer: pass webhook_url to get it by webhook"}
  end
end

-- Joins under the first of the channel's names that the server knows. Returns the name and what came before the reply;
-- nil: the time is up.
local function join_any(socket, topics, due)
  for i, topic in ipairs(topics) do
    local ok, early = pcall(socket.join, socket, topic, due)
    if ok then return early and topic, early end
    local unknown = errors.is(early) and early.code == "invalid_channel_format"
    if not unknown or i == #topics then error(early, 0) end
  end
end

local function rejoin(self, socket, topic, due, count)
  local delay = REJOIN_DELAYS[math.min(count, #REJOIN_DELAYS)]
  if delay > 0 then self.client.gateway:pause(math.max(0, math.min(delay, due - task.now()))) end
  return socket:join(topic, due)
end

-- Reads the channel until the job is over (true) or its time is up (false).
local function follow(self, socket, topics, due)
  local topic, waiting = join_any(socket, topics, due)
  if not topic then return false end
  local rejoins = 0
  self.joined_at, self.refusals, self.lost = task.now(), 0, nil
  self.steps:set("queue", "success")
  tell(self, "joined", {topic = topic})
  while waiting do
    local message = table.remove(waiting, 1) or socket:receive(due)
    if not message then return false end
    local ours = message.topic == topic and (message.join_ref == nil or message.join_ref == socket.join_ref)
    if ours and (message.event == "phx_error" or message.event == "phx_close") then
      rejoins = rejoins + 1
      waiting = rejoin(self, socket, topic, due, rejoins)
    elseif ours and take(self, message) then
      return true
    end
  end
  return false
end

local function listen(self, due)
  renew_token(self, due)
  local gateway, topics, token = self.client.gateway, job_place.topics(self), self.ws_token
  local address = job_place.socket_address(self.client, self.websocket_url, token)
  tell(self, "connecting", {})
  local patience = gateway.timeouts.connect > 0 and gateway.timeouts.connect or CONNECT_TIMEOUT
  local left = math.max(0.001, math.min(patience, due - task.now()))
  -- whatever comes of it: the service may have taken the token
  self.ws_token, self.joined_at = nil, nil
  local peer = gateway:check_open():websocket(address, {timeout = left,
    recording = {label = self.id, ignore = phoenix.is_heartbeat}})
  local socket = phoenix.new(peer, self.heartbeat, patience)
  gateway.peers[peer] = true
  local _ <close> = setmetatable({}, {__close = function()
    gateway.peers[peer] = nil
    socket:leave()
    peer:close(1000, "", CLOSING)
  end})
  gateway:check_open()   -- it may have been closed meanwhile
  tell(self, "connected", {})
  return follow(self, socket, topics, due)
end

-- Whether a WebSocket that came to nothing may be opened again.
local function may_reconnect(self, err)
  if err.status == 403 then   -- the token was not good any more
    self.refusals = self.refusals + 1
    return self.refusals <= MOST_REFUSALS
  elseif err.status then
    return err.status >= 500 or err.status == 408 or err.status == 429
  elseif err.retryable == false or err.code == 1009 and not err.dropped then
    return false
  elseif err.code == 1002 or err.code == 1007 then
    self.broken = self.broken + 1
    return self.broken <= MOST_BROKEN
  end
  return true
end

local PASSING = {connect = true, dns = true, protocol = true, timeout = true, server = true, rate_limit = true}

-- Whether a failure to listen may pass: the connection was lost, or the token was not good any more.
local function may_try_again(self, err)
  if not errors.is(err) then return false end
  if err.kind == "websocket" then return may_reconnect(self, err) end
  return PASSING[err.kind] and err.retryable ~= false
end

-- Raises what ends the listening; `err` says then whose it was.
local function give_up(self, err)
  if errors.is(err) and (PASSING[err.kind] or err.kind == "websocket" or err.kind == "tls") then
    err.channel_id, err.workflow = err.channel_id or self.id, err.workflow or self.workflow
    if not err.tries then err.message = place_of(self) .. err.message end   -- no request's, which tells it itself
    if err.kind == "websocket" and err.status == 403 then
      err.hint = "the service does not take its own token: another process may listen for this job"
    elseif err.kind == "websocket" and err.code == 1009 then
      err.hint = "answers of that size come by webhook: pass webhook_url"
    end
    if not self.joined_at then self.steps:set("queue", "error", nil, err.message) end
  end
  error(err, 0)
end

local function pause(self, err, due)
  if self.joined_at and task.now() - self.joined_at >= STEADY then self.drops, self.broken = 0, 0 end
  self.drops = self.drops + 1
  self.reconnects, self.lost = self.reconnects + 1, err
  if self.drops > MOST_DROPS then give_up(self, err) end
  local delay = DELAYS[math.min(self.drops, #DELAYS)] * (0.75 + digest.random(1):byte() / 1024)
  delay = math.max(delay, err.retry_after or 0)
  tell(self, "reconnecting", {reason = err.message, wait = delay})
  self.client.gateway:pause(math.max(0, math.min(delay, due - task.now())))
end

local function time_is_up(self, seconds)
  local lost = self.lost
  errors.raise{kind = "timeout", phase = "job", channel_id = self.id, workflow = self.workflow, retryable = true,
    message = ("%s%s within %g s%s"):format(place_of(self), self.status == "ai_generated"
      and "the backend's callback did not come" or "no answer", seconds,
      lost and "; the connection was lost: " .. lost.message or ""), cause = lost,
    hint = "the job goes on: call job:wait again, or keep job:save() for client:resume"}
end

local function run(self, due, seconds)
  self.steps:begin()
  while task.now() < due do
    local ok, over = pcall(listen, self, due)
    if ok and over then return end
    if not ok then
      if self.thrown then error(over, 0) end
      if not may_try_again(self, over) then give_up(self, over) end
      self.client.gateway:check_open()
      pause(self, over, due)
    end
  end
  time_is_up(self, seconds)
end

local WAIT_OPTIONS = {timeout = true, on_status = true, on_step = true, on_event = true, heartbeat = true}

-- `more`: names that are known, too, but not looked at here.
local function check_wait(where, options, more)
  if type(options) == "number" then
    errors.raise{kind = "argument", message = where .. ": the time stands in a table",
      hint = ("write %s{timeout = %g}"):format(where, options)}
  end
  errors.expect(where, "options", options, "table")
  local known = {}
  for _, names in ipairs{WAIT_OPTIONS, more or {}} do
    for name in pairs(names) do known[name] = true end
  end
  errors.check_options(where, options, known)
  for _, name in ipairs{"on_status", "on_step", "on_event"} do
    errors.expect(where, name, options[name], "callable|nil")
  end
  for _, name in ipairs{"timeout", "heartbeat"} do
    local value = options[name]
    if value ~= nil and (type(value) ~= "number" or value ~= value or value <= 0) then
      errors.raise{kind = "argument", message = ("%s: '%s' must be a number of seconds above 0"):format(where, name)}
    end
  end
end

local function outcome(self)
  if self.failure then error(self.failure, 0) end
  return self.result
end

--- Waits for the answer.
---
--- Options: `timeout` = 300 seconds; `on_status(status, info, job)`: "connecting", "connected", "joined",
--- "reconnecting", "ai_generated" (the model is done, the backend's callback is to come), "completed", "failed";
--- `on_step(step, steps)`: see modelriver.job_steps; `on_event(name, payload, job)`: events of the channel that are
--- not known here; `heartbeat` = 30 seconds. What these functions raise is raised here. When several tasks wait for one
--- job, it is the first of them whose functions are called.
---
--- Raises kind "job" when the job failed (`payload` has all that was said), "timeout" when the time is up (`wait` may
--- be called again), "websocket" when the server refuses the channel (`code`) or the connection; "auth", "not_found" …
--- when no new token can be had.
---@param options table|nil
---@return modelriver.Response
function Job:wait(options)
  options = options or {}
  check_wait("job:wait", options)
  local seconds = options.timeout or DEFAULT_TIMEOUT
  local due = task.now() + seconds
  while self.listening and not self.result and not self.failure do   -- another task does
    if task.now() >= due then time_is_up(self, seconds) end
    self.changed:wait(due - task.now())
  end
  if self.result or self.failure then return outcome(self) end
  self.on_status, self.on_event, self.heartbeat = options.on_status, options.on_event, options.heartbeat
  self.steps.on_step = options.on_step and function(...) call_user(self, options.on_step, ...) end
  self.refusals, self.drops, self.broken, self.thrown, self.told_generated = 0, 0, 0, false, false
  self.listening, self.lost = true, nil
  local _ <close> = setmetatable({}, {__close = function()
    self.listening = false
    self.changed:fire()
  end})
  run(self, due, seconds)
  return outcome(self)
end

local SAVED = {"id", "workflow", "project_id", "websocket_url", "websocket_channel", "ws_token"}

--- What another process needs to wait for the job, with client:resume: a table of plain values. It has the token that
--- lets listen to this job once, while that is fresh: keep the table to yourself.
---@return table
function Job:save()
  local saved = {}
  for _, name in ipairs(SAVED) do saved[name] = self[name] end
  if self.ws_token then saved.token_at = os.time() - math.ceil(task.now() - self.token_at) end
  return saved
end

function Job:__tostring()
  return ("modelriver.Job(%s%s, %s)"):format(self.workflow and self.workflow .. ", " or "", self.id, self.status)
end

errors.want_colon(Job, "job")

local function new_job(client, id, workflow, body)
  return setmetatable({client = client, id = id, workflow = workflow, body = body, status = "pending",
    steps = job_steps.new(), reconnects = 0, test_mode = false, listening = false, changed = signals.signal()}, Job)
end

--- Hands a request to ModelRiver, to be answered later. (POST /v1/ai/async)
---
--- Fields and options as for `client:ai`; also `webhook_url`, `events`, `delivery_method`. Not sent again when nobody
--- knows whether it arrived, unless the client's `retry_async` says so: a second job costs money.
---@param self modelriver.Client
---@param given table|string
---@param text string|nil
---@param more table|nil
---@return modelriver.Job
function job.methods.ai_async(self, given, text, more)
  local body, options = request.read("ai_async", given, text, more)
  local call = {what = "ai_async", path = "/v1/ai/async", policy = "async", body = body, workflow = body.workflow,
    timeout = options.timeout, retries = options.retries, headers = options.headers}
  local answer = ask.object(self.gateway, call, function(told, res, tries)
    if response.is_failure(told) then error(failure.from_envelope(call, told, res, tries), 0) end
    if type(told.channel_id) == "string" and told.channel_id ~= "" then return end
    error(failure.unreadable(call, res.body or "", "the answer has no channel_id", {res = res, tries = tries}), 0)
  end)
  local made = new_job(self, answer.channel_id, body.workflow, body)
  made.test_mode, made.instructions = answer.test_mode == true, answer.instructions
  take_place(made, answer)
  return made
end

--- Takes up a job that another process began.
---@param self modelriver.Client
---@param saved table what job:save() returned
---@return modelriver.Job
function job.methods.resume(self, saved)
  errors.expect("resume", "saved", saved, "table")
  for _, name in ipairs(SAVED) do
    errors.expect("resume", name, saved[name], name == "id" and "string" or "string|nil")
  end
  local made = new_job(self, saved.id, saved.workflow)
  take_place(made, saved)
  local age = type(saved.token_at) == "number" and os.time() - saved.token_at or TOKEN_AGE
  made.token_at = task.now() - math.max(0, age)
  return made
end

--- Internal: checks options of job:wait.
job.check_wait = check_wait

--- Internal: whether a value is a job.
---@param value any
---@return boolean
function job.is(value) return getmetatable(value) == Job end

return job
