--- Jobs: requests that are answered later. `client:ai_async{…}` returns a job, `job:wait()` its answer.
--
-- A job listens on a Phoenix channel with a token that serves once. When the connection is lost a fresh token is asked
-- for (POST /v1/ai/reconnect), with growing delays, until the job's time is up. Whether ModelRiver repeats an answer
-- that came while nobody listened is not known; both are taken as they come.

local ask = require "modelriver.ask"
local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local failure = require "modelriver.failure"
local job_place = require "modelriver.job_place"
local job_steps = require "modelriver.job_steps"
local json = require "riverlua.json"
local meta = require "modelriver.meta"
local phoenix = require "modelriver.phoenix"
local request = require "modelriver.request"
local response = require "modelriver.response"
local signals = require "riverlua.core.task"
local task = require "riverlua.task"

local job = {methods = {}}

local DEFAULT_TIMEOUT = 300
local CONNECT_TIMEOUT = 10
local TOKEN_AGE = 300           -- seconds that a token lives
local DELAYS = {0.25, 0.5, 1, 2, 5}
local REJOIN_DELAYS = {0, 1, 2, 5, 10}
local MOST_DROPS = 20           -- in a row

local DONE = {success = true, SUCCESS = true, ok = true, completed = true}

---@class modelriver.Job
---@field id string the channel_id: name it to ModelRiver's support
---@field workflow string|nil
---@field status "pending"|"ai_generated"|"completed"|"failed"
---@field result modelriver.Response|nil
---@field failure riverlua.Error|nil
---@field test_mode boolean
---@field reconnects integer
---@field steps modelriver.Steps `steps.list` has them in order
local Job = {}
Job.__index = Job
Job.__name = "modelriver.Job"

local function tell(self, status, info)
  if self.on_status then self.on_status(status, info) end
end

-- ------------------------------------------------------------------------------------------------------ outcomes

local function settle(self, status, result, err)
  self.status, self.result, self.failure = status, result, err
  self.ws_token = nil
end

local function payload_failure(self, payload, message)
  local parts = failure.parts(payload) or {}
  local normal = meta.normal(payload.meta)
  return errors.new{kind = "job", channel_id = self.id, workflow = self.workflow, code = parts.code, type = parts.type,
    message = failure.place_of{what = "job", workflow = self.workflow or self.id}
      .. (message or parts.message or "Unknown error"),
    details = parts.details, attempts = normal.attempts, meta = normal, status_text = payload.status,
    customer_data = payload.customer_data, payload = payload, retryable = false}
end

local function fail_job(self, payload, message)
  local err = payload_failure(self, payload, message)
  self.steps:set(self.steps:has("backend") and "backend" or "process", "error", nil, err.message)
  self.steps:set("receive", "error", nil, err.message)
  self.steps:set("complete", "error", nil, err.message)
  settle(self, "failed", nil, err)
  tell(self, "failed", payload)
end

local function complete_job(self, payload)
  local duration = type(payload.meta) == "table" and payload.meta.duration_ms or nil
  self.steps:set("process", "success", duration)
  if self.steps:has("backend") then self.steps:set("backend", "success") end
  self.steps:set("receive", "success")
  self.steps:set("complete", "success")
  local result = response.of_payload(payload, self.body)
  result.meta.workflow = result.meta.workflow or self.workflow
  settle(self, "completed", result)
  self.client.gateway.usage:add(self.workflow, result.meta.model, result.usage)
  tell(self, "completed", payload)
end

local function await_backend(self, payload)
  local duration = type(payload.meta) == "table" and payload.meta.duration_ms or nil
  self.steps:set("process", "success", duration)
  self.steps:set("backend", "pending")
  self.status, self.ai_response = "ai_generated", payload.ai_response
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
    if well then complete_job(self, payload) else fail_job(self, payload) end
    return true
  elseif message.event == "error" then
    fail_job(self, payload)
    return true
  end
  if self.on_event and message.event ~= "phx_reply" then self.on_event(message.event, payload) end
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

local function rejoin(socket, topic, due, count)
  local delay = REJOIN_DELAYS[math.min(count, #REJOIN_DELAYS)]
  if delay > 0 then task.sleep(math.max(0, math.min(delay, due - task.now()))) end
  return socket:join(topic, due)
end

-- Reads the channel until the job is over (true) or its time is up (false).
local function follow(self, socket, topic, due)
  local waiting, rejoins = socket:join(topic, due), 0
  self.drops = 0
  self.steps:set("queue", "success")
  tell(self, "joined", {topic = topic})
  while true do
    local message = table.remove(waiting, 1) or socket:receive(due)
    if not message then return false end
    local ours = message.topic == topic and (message.join_ref == nil or message.join_ref == socket.join_ref)
    if ours and (message.event == "phx_error" or message.event == "phx_close") then
      rejoins = rejoins + 1
      waiting = rejoin(socket, topic, due, rejoins)
    elseif ours and take(self, message) then
      return true
    end
  end
end

local function listen(self, due)
  renew_token(self, due)
  local topic, token = job_place.topic(self), self.ws_token
  local address = job_place.socket_address(self.client, self.websocket_url, token)
  tell(self, "connecting", {})
  local left = math.max(0.001, math.min(CONNECT_TIMEOUT, due - task.now()))
  -- whatever comes of it: the service may have taken the token
  self.ws_token = nil
  local peer = self.client.gateway:check_open():websocket(address, {timeout = left})
  local socket = phoenix.new(peer, self.heartbeat)
  local _ <close> = setmetatable({}, {__close = function()
    socket:leave()
    peer:close(1000)
  end})
  tell(self, "connected", {})
  return follow(self, socket, topic, due)
end

local LOST = {websocket = true, connect = true, dns = true, protocol = true, timeout = true}

-- Whether a failure to listen may pass: the connection was lost, or the token was not good any more.
local function may_try_again(self, err)
  if not errors.is(err) or not LOST[err.kind] or err.retryable == false and not err.status then return false end
  if err.kind == "websocket" and err.status then
    if err.status == 403 then
      self.refusals = self.refusals + 1
      return self.refusals < 3
    end
    return err.status >= 500 or err.status == 408 or err.status == 429
  end
  return err.kind ~= "websocket" or err.dropped or err.code == 1006
end

local function describe_loss(self, err)
  if errors.is(err) then
    err.channel_id, err.workflow = err.channel_id or self.id, err.workflow or self.workflow
    if err.kind == "websocket" and err.status == 403 then
      err.hint = "the service does not take its own token: another process may listen for this job"
    end
  end
  error(err, 0)
end

local function pause(self, err, due)
  self.drops = self.drops + 1
  self.reconnects = self.reconnects + 1
  if self.drops > MOST_DROPS then describe_loss(self, err) end
  local delay = DELAYS[math.min(self.drops, #DELAYS)] * (0.75 + digest.random(1):byte() / 1024)
  tell(self, "reconnecting", {reason = err.message, wait = delay})
  task.sleep(math.max(0, math.min(delay, due - task.now())))
end

local function time_is_up(self, seconds)
  errors.raise{kind = "timeout", phase = "job", channel_id = self.id, workflow = self.workflow, retryable = true,
    message = ("job '%s': %s within %g s"):format(self.workflow or self.id, self.status == "ai_generated"
      and "the backend's callback did not come" or "no answer", seconds),
    hint = "the job goes on: call job:wait again, or keep job:save() for client:resume"}
end

local function run(self, due, seconds)
  self.steps:begin()
  while task.now() < due do
    local ok, over = pcall(listen, self, due)
    if ok and over then return end
    if not ok then
      if not may_try_again(self, over) then describe_loss(self, over) end
      pause(self, over, due)
    end
  end
  time_is_up(self, seconds)
end

local WAIT_OPTIONS = {timeout = true, on_status = true, on_step = true, on_event = true, heartbeat = true}

local function check_wait(where, options)
  errors.expect(where, "options", options, "table")
  errors.check_options(where, options, WAIT_OPTIONS)
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
--- Options: `timeout` = 300 seconds; `on_status(status, info)`: "connecting", "connected", "joined", "reconnecting",
--- "ai_generated" (the model is done, the backend's callback is to come), "completed", "failed";
--- `on_step(step, steps)`: see modelriver.job_steps; `on_event(name, payload)`: events of the channel that are not known here; `heartbeat` =
--- 30 seconds.
---
--- Raises kind "job" when the job failed, "timeout" when the time is up (`wait` may be called again), "websocket" when
--- the server refuses the channel (`code`) or the connection; "auth", "not_found" … when no new token can be had.
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
  self.on_status, self.steps.on_step, self.on_event = options.on_status, options.on_step, options.on_event
  self.heartbeat, self.refusals, self.drops, self.listening = options.heartbeat, 0, 0, true
  local _ <close> = setmetatable({}, {__close = function()
    self.listening = false
    self.changed:fire()
  end})
  run(self, due, seconds)
  return outcome(self)
end

local SAVED = {"id", "workflow", "project_id", "websocket_url", "websocket_channel", "ws_token"}

--- What another process needs to wait for the job, with client:resume: a table of plain values. It has the token that
--- lets listen to this job once, while that is fresh: keep it to yourself.
---@return table
function Job:save()
  local saved = {}
  for _, name in ipairs(SAVED) do saved[name] = self[name] end
  saved.saved_at = os.time()
  return saved
end

function Job:__tostring()
  return ("modelriver.Job(%s%s, %s)"):format(self.workflow and self.workflow .. ", " or "", self.id, self.status)
end

local function new_job(client, id, workflow, body)
  return setmetatable({client = client, id = id, workflow = workflow, body = body, status = "pending",
    steps = job_steps.new(), reconnects = 0, drops = 0, refusals = 0, test_mode = false, listening = false, changed = signals.signal()}, Job)
end

--- Hands a request to ModelRiver, to be answered later. (POST /v1/ai/async)
---
--- Fields and options as for `client:ai`; also `webhook_url`, `events`, `delivery_method`. Not sent again when nobody
--- knows whether it arrived, unless the client's `retry_async` says so: a second job costs money.
---@param self modelriver.Client
---@param given table|string
---@return modelriver.Job
function job.methods.ai_async(self, given, text, more)
  local body, options = request.read("ai_async", given, text, more)
  local call = {what = "ai_async", path = "/v1/ai/async", policy = "async", body = body, workflow = body.workflow,
    timeout = options.timeout, retries = options.retries, headers = options.headers}
  local answer = ask.object(self.gateway, call)
  if response.is_failure(answer) then
    error(failure.from_envelope(call, answer, {status = 200, headers = {}}, 1), 0)
  end
  if type(answer.channel_id) ~= "string" or answer.channel_id == "" then
    error(failure.unreadable(call, json.encode(answer), "the answer has no channel_id"), 0)
  end
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
  local age = type(saved.saved_at) == "number" and os.time() - saved.saved_at or TOKEN_AGE
  made.token_at = task.now() - age
  return made
end

job.check_wait = check_wait

return job
