--- Webhooks: made, signed and delivered to functions of this process or over HTTP, again and again until taken.

local answer = require "modelriver.embedded.answer"
local errors = require "riverlua.errors"
local failure = require "modelriver.embedded.failure"
local json = require "riverlua.json"
local task = require "riverlua.task"
local webhook = require "modelriver.webhook"

local delivery = {}

local encode = json.encoder{sort = true}

-- Seconds for an answer.
local PATIENCE = 30

-- ------------------------------------------------------------------------------------------------------ what is said

local function attempts(run)
  local list = json.array{}
  for i, one in ipairs(run.attempts) do
    list[i] = {provider = one.provider, model = one.model, duration_ms = one.duration_ms,
      success = one.status == "success", reason = one.reason}
  end
  return list
end

--- What is said about a run; webhooks have names of their own for it.
---@param run modelriver.embedded.Run
---@return table
function delivery.meta(run)
  local used, usage = run.provider or {}, run.outcome and run.outcome.usage or {}
  return {
    workflow = run.workflow.name, provider = used.provider, model = used.model, duration_ms = run.duration_ms,
    tokens = {prompt = usage.prompt_tokens or 0, completion = usage.completion_tokens or 0,
      total = usage.total_tokens or 0},
    attempts = attempts(run), test_mode = run.test_mode, offline_fallback = run.offline_fallback,
    structured_output = run.outcome and run.outcome.structured or nil,
  }
end

-- --------------------------------------------------------------------------------------------------------- delivery

local function headers_for(gateway, job, body, callback_url)
  local options = gateway.options
  local headers = webhook.sign(body, options.webhook_secret, {scheme = options.webhook_scheme})
  headers["content-type"] = "application/json"
  if options.webhook_scheme == "A" then
    headers["mr-channel-id"] = job.id
  else
    headers["x-modelriver-callback-url"] = callback_url
  end
  return headers
end

-- Hands it to a function of this process: the status it returns.
local function call_receiver(gateway, address, headers, body)
  local receiver = gateway.registry.webhooks[address]
  if not receiver then return nil, ("no receiver is registered for %s"):format(address) end
  local ok, status = pcall(receiver, headers, body)
  if ok then return status == nil and 200 or status end
  if failure.is_end(status) then error(status, 0) end
  return 500, status
end

local function post(gateway, address, headers, body)
  local ok, res = pcall(function()
    return gateway:http_client():post(address, {headers = headers, body = body, timeout = PATIENCE, redirects = 0})
  end)
  if ok then return res.status end
  if failure.is_end(res) then error(res, 0) end
  return nil, res
end

-- One try; nil when it was taken, else why not.
local function try(gateway, job, body, callback_url)
  local address = job.webhook_url
  local headers = headers_for(gateway, job, body, callback_url)
  local send = address:find("^embedded:") and call_receiver or post
  local status, problem = send(gateway, address, headers, body)
  if math.type(status) == "integer" and status >= 200 and status < 300 then return nil end
  return problem or ("the receiver answered with %s"):format(tostring(status))
end

local function deliver(gateway, job, body, callback_url)
  local problem
  local delays = gateway.options.webhook_delays
  for index, delay in ipairs(delays) do
    if delay > 0 then task.sleep(delay) end
    problem = try(gateway, job, body, callback_url)
    if problem == nil then return end
    gateway.registry.report(problem, {webhook_url = job.webhook_url, channel_id = job.id, attempt = index,
      last = index == #delays})
  end
end

local function start(job, payload)
  local gateway, body = job.gateway, encode(payload)
  if gateway.closed then return end
  local running
  running = task.spawn(function()
    local ok, problem = pcall(deliver, gateway, job, body, payload.callback_url)
    gateway.deliveries[running] = nil
    if not ok and not errors.is(problem, "cancelled") then
      gateway.registry.report(problem, {webhook_url = job.webhook_url, channel_id = job.id})
    end
  end)
  gateway.deliveries[running] = true
end

local function payload_of(job, fields)
  fields.workflow, fields.channel_id, fields.customer_data = job.workflow, job.id, job.customer_data
  fields.meta, fields.timestamp = job.webhook_meta, os.date("!%Y-%m-%dT%H:%M:%S.000Z")
  return fields
end

--- Tells that a job has ended, well or not; after a callback too.
---@param job modelriver.embedded.Job
---@param said table what those are told who joined its channel
function delivery.completed(job, said)
  if not job.webhook_url then return end
  local failed = said.status == "error"
  start(job, payload_of(job, {type = "task.completed", status = failed and "error" or "success",
    data = said.data == nil and json.null or said.data, error = said.error, task_id = said.task_id,
    callback_metadata = said.callback_metadata}))
end

--- Tells that an event-driven job waits for the callback.
---@param job modelriver.embedded.Job
---@param run modelriver.embedded.Run
function delivery.generated(job, run)
  if not job.webhook_url then return end
  start(job, payload_of(job, {type = "task.ai_generated", event = job.event_name, callback_required = true,
    ai_response = {data = answer.data(run)},
    callback_url = ("%s/v1/callback/%s"):format(job.gateway.options.base_url, job.id)}))
end

--- Gives up what has not been delivered.
---@param gateway modelriver.embedded.Gateway
function delivery.close(gateway)
  for running in pairs(gateway.deliveries) do running:cancel("the client has been closed") end
  gateway.deliveries = {}
end

return delivery
