--- Async jobs: a run in a task of its own, whose end is told to those who joined its channel and to a webhook.

local answer = require "modelriver.embedded.answer"
local checks = require "modelriver.embedded.checks"
local delivery = require "modelriver.embedded.delivery"
local digest = require "riverlua.digest"
local failure = require "modelriver.embedded.failure"
local json = require "riverlua.json"
local providers = require "modelriver.embedded.providers"
local task = require "riverlua.task"

local jobs = {}

local encode = json.encoder{sort = true}

---@class modelriver.embedded.Job
---@field id string the channel_id
---@field project_id string
---@field state "running"|"awaiting"|"ended" awaiting: a callback
---@field said string|nil the payload that was told last, as JSON
---@field due number|nil of task.now(): when the callback must have come
---@field workflow string
---@field webhook_url string|nil
---@field event_name string|nil
---@field channels table<modelriver.embedded.Channel, true> those who joined
local Job = {}
Job.__index = Job

-- Tells everybody, and remembers it for those who join later.
local function say(self, text)
  self.said = text
  for channel in pairs(self.channels) do channel:push(self.said) end
end

local function finish(self, payload)
  if self.state == "ended" then return end
  local text = encode(payload)   -- a job that cannot tell how it ended has not ended
  self.state, self.due, self.task = "ended", nil, nil
  self.gateway.own_jobs[self] = nil
  self.store:ended(self)
  say(self, text)
  delivery.completed(self, payload)
end

local function failed_payload(self, told)
  return {status = "error", channel_id = self.id, error = type(told) == "string" and {message = told} or told,
    customer_data = self.customer_data, meta = self.meta}
end

-- ------------------------------------------------------------------------------------------------------- the run

local function end_failed(self, run) finish(self, failed_payload(self, answer.failure(run.failure))) end

local function end_generated(self, run)
  self.state, self.due = "awaiting", task.now() + self.gateway.options.callback_seconds
  local awaiting = self.store.awaiting
  awaiting.last = awaiting.last + 1
  awaiting[awaiting.last] = self
  say(self, encode{status = "ai_generated", channel_id = self.id, event_name = self.event_name, message = "success",
    meta = {duration_ms = run.duration_ms}})
  delivery.generated(self, run)
end

local function end_success(self, run)
  finish(self, {message = "success", status = "success", channel_id = self.id, data = answer.data(run),
    content = run.outcome.content, model = run.provider.model, customer_data = self.customer_data, meta = self.meta})
end

local function work(self, run)
  local ok, problem = pcall(providers.run, run)
  if not ok then
    run.failure = failure.of(problem)
    run.duration_ms = answer.duration(run.started)
  end
  self.meta = answer.meta(run)
  if run.test_mode then self.meta = answer.envelope(run).meta end
  self.webhook_meta = delivery.meta(run)
  if run.failure then return end_failed(self, run) end
  if self.event_name then return end_generated(self, run) end
  end_success(self, run)
end

-- A task that fails would end the script with an error nobody can do anything about.
local function work_safely(self, run)
  local ok, problem = pcall(work, self, run)
  if ok then return end
  self.meta = nil   -- it may be what was wrong
  finish(self, failed_payload(self, failure.of(problem).message))
  run.report(problem, {workflow = run.workflow.name, channel_id = self.id})
end

-- ----------------------------------------------------------------------------------------------------- the request

local function event_name_of(run)
  local asked, own = run.request.events, run.workflow.event_name
  if asked == nil then return own end
  for _, name in ipairs(asked) do
    if name == own then return own end
  end
  return nil, checks.invalid(own and ("'events' does not hold the workflow's event '%s'"):format(own)
    or ("Workflow '%s' has no event"):format(run.workflow.name), "events")
end

local function webhook_of(run)
  local address = run.request.webhook_url or run.workflow.webhook_url
  if address and not (address:find("^embedded:.") or address:lower():find("^https?://.")) then
    return nil, checks.invalid("'webhook_url' must be an http or https address", "webhook_url")
  end
  return address
end

-- Ends the jobs whose callback never came, though nobody looks at them any more, and their client may be closed. Most
-- wait equally long, so the first one is due first.
local function sweep(store)
  local awaiting = store.awaiting
  while awaiting.first <= awaiting.last do
    local job = awaiting[awaiting.first]
    job:settle()
    if job.state == "awaiting" then return end
    awaiting[awaiting.first] = nil
    awaiting.first = awaiting.first + 1
  end
end

-- What is needed to listen to a job.
local function channel_details(gateway, job)
  local options = gateway.options
  return {
    channel_id = job.id, project_id = job.project_id,
    ws_token = gateway.registry.store:issue(job.project_id, options.token_seconds),
    websocket_url = options.base_url:gsub("^http", "ws") .. "/socket",
    websocket_channel = ("ai_response:%s:%s"):format(job.project_id, job.id),
  }
end

--- Starts a job; answers at once.
---@param gateway modelriver.embedded.Gateway
---@param run modelriver.embedded.Run
---@return table answer
function jobs.start(gateway, run)
  local event_name, refused = event_name_of(run)
  if refused then return refused end
  local webhook_url
  webhook_url, refused = webhook_of(run)
  if refused then return refused end
  local store = gateway.registry.store
  sweep(store)
  local job = setmetatable({id = digest.uuid(), project_id = gateway.options.project_id, gateway = gateway,
    store = store, state = "running", channels = {}, event_name = event_name, webhook_url = webhook_url,
    customer_data = run.customer_data, workflow = run.workflow.name}, Job)
  store:add(job)
  gateway.own_jobs[job] = true
  job.task = task.spawn(work_safely, job, run)
  local body = channel_details(gateway, job)
  body.message, body.status, body.test_mode = "success", "pending", run.workflow.testing and true or nil
  return answer.json(200, body)
end

-- A job of this project by its channel.
local function find(gateway, channel_id)
  local job = gateway.registry.store.jobs[channel_id]
  return job and job.project_id == gateway.options.project_id and job or nil
end

local function unknown_channel()
  return answer.refusal(404, "not_found", "There is no job with this channel_id", "channel_id")
end

--- A fresh token for a job.
---@param gateway modelriver.embedded.Gateway
---@param request table {channel_id}
---@return table answer
function jobs.reconnect(gateway, request)
  if type(request.channel_id) ~= "string" then return checks.invalid("'channel_id' is missing", "channel_id") end
  local job = find(gateway, request.channel_id)
  if not job then return unknown_channel() end
  return answer.json(200, channel_details(gateway, job))
end

--- What an application answers in an event-driven workflow.
---@param gateway modelriver.embedded.Gateway
---@param channel_id string
---@param request table {data, task_id, metadata} or {error, message}
---@return table answer
function jobs.callback(gateway, channel_id, request)
  local job = find(gateway, channel_id)
  if not job then return unknown_channel() end
  local expired = job:settle() or job.expired
  if expired then return answer.refusal(410, "callback_expired", "The time for the callback is over") end
  if job.state ~= "awaiting" then
    return answer.refusal(409, "callback_not_expected", job.state == "ended"
      and "This job has ended: a callback is taken once" or "This job has not generated anything yet")
  end
  if request.error ~= nil then
    if type(request.error) ~= "string" then return checks.invalid("'error' must be a string", "error") end
    local payload = failed_payload(job, type(request.message) == "string" and request.message or request.error)
    payload.error.code = request.error
    finish(job, payload)
  else
    if type(request.data) ~= "table" or json.is_array(request.data) then
      return checks.invalid("'data' must be an object", "data")
    end
    finish(job, {status = "completed", channel_id = job.id, task_id = request.task_id, data = request.data,
      callback_metadata = request.metadata, customer_data = job.customer_data, meta = job.meta})
  end
  return answer.json(200, {status = "success", message = "Callback received", channel_id = job.id})
end

-- ----------------------------------------------------------------------------------------------------- the channel

--- Ends the job when its callback has not come in time. Nothing but a look at the clock: no task waits for it.
---@return boolean ended just now
function Job:settle()
  if self.state ~= "awaiting" or task.now() < self.due then return false end
  self.expired = true
  finish(self, failed_payload(self, ("Callback timeout: no callback within %g s"):format(
    self.gateway.options.callback_seconds)))
  return true
end

--- Somebody listens from now on, and is told what was said last.
---@param channel modelriver.embedded.Channel
function Job:join(channel)
  self:settle()
  self.channels[channel] = true
  if self.said then channel:push(self.said) end
end

-- Nobody can get at the result any more once the client is closed.
local function give_up(self)
  local running = self.task
  finish(self, failed_payload(self, "The job was cancelled: its client has been closed"))
  if running then running:cancel("the client has been closed") end
end

--- Somebody listens no longer.
---@param channel modelriver.embedded.Channel
function Job:leave(channel)
  self.channels[channel] = nil
  if self.gateway.closed and self.state == "running" and not next(self.channels) then give_up(self) end
end

--- Cancels a gateway's jobs that run and for which nobody waits.
---@param gateway modelriver.embedded.Gateway
function jobs.close(gateway)
  local idle = {}
  for job in pairs(gateway.own_jobs) do
    if job.state == "running" and not next(job.channels) then idle[#idle + 1] = job end
  end
  for _, job in ipairs(idle) do give_up(job) end
end

return jobs
