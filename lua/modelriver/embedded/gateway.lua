--- The gateway: requests in, answers out, without a socket. The transport for `embedded:` and a server in front of it
-- ask the same object.
--
-- A request is {method, path, headers, body | json}, an answer {status, headers, body} or {status, headers, stream,
-- close} (see modelriver.embedded.answer).

local answer = require "modelriver.embedded.answer"
local checks = require "modelriver.embedded.checks"
local delivery = require "modelriver.embedded.delivery"
local idempotency = require "modelriver.embedded.idempotency"
local jobs = require "modelriver.embedded.jobs"
local providers = require "modelriver.embedded.providers"
local stream = require "modelriver.embedded.stream"
local workflows = require "modelriver.embedded.workflow"

local gateway = {}

---@class modelriver.embedded.Gateway
---@field registry table {workflows, webhooks, report}
---@field options table
local Gateway = {}
Gateway.__index = Gateway
Gateway.__name = "modelriver.embedded.Gateway"

-- ------------------------------------------------------------------------------------------------------ workflows

local function missing_workflow(name)
  return answer.refusal(404, "model_not_found",
    ("Workflow '%s' does not exist. Create it in the console first."):format(name), "model")
end

-- The workflow that a request names, or nil and the refusal.
local function find_workflow(self, request, openai)
  local known = self.registry.workflows
  local name = request.workflow
  if openai then
    name = request.model
    if not name then return nil, checks.invalid("'model' is missing: it names the workflow", "model") end
  end
  if name then
    if known[name] then return known[name] end
    return nil, missing_workflow(name)
  end
  if not request.provider or not request.model then
    return nil, checks.invalid("'workflow' is missing; give it, or both 'provider' and 'model'", "workflow")
  end
  name = request.provider .. "/" .. request.model
  if known[name] then return known[name] end
  return nil, checks.invalid(("No provider '%s' with the model '%s' is configured"):format(request.provider,
    request.model), "provider")
end

-- A run of the request, or nil and the refusal.
local function prepare(self, req, openai)
  local body, request, refused = checks.body(req)
  if not request then return nil, refused end
  refused = checks.fields(request)
  if refused then return nil, refused end
  local workflow
  workflow, refused = find_workflow(self, request, openai)
  if not workflow then return nil, refused end
  return providers.new_run{workflow = workflow, request = request, body = body, openai = openai,
    wrapped = not openai and request.format == "wrapped", report = self.registry.report,
    customer_data = workflows.customer_data(workflow, request), http = function() return self:http_client() end}
end

local function run_stream(run)
  local pieces, close = stream.start(run, providers.run)
  if not pieces then return answer.of_run(run) end
  local headers = answer.headers(run)
  headers["content-type"], headers["cache-control"] = "text/event-stream", "no-cache"
  return {status = 200, headers = headers, stream = pieces, close = close}
end

local function run_workflow(openai)
  return function(self, req)
    local run, refused = prepare(self, req, openai)
    if not run then return refused end
    if run.workflow.event_name then
      return answer.refusal(400, "model_not_supported",
        ("Workflow '%s' is event-driven: use the async API"):format(run.workflow.name), "model")
    end
    if run.request.stream then return run_stream(run) end
    providers.run(run)
    return answer.of_run(run)
  end
end

local function start_job(self, req)
  local run, refused = prepare(self, req, false)
  if not run then return refused end
  return jobs.start(self, run)
end

local function reconnect(self, req)
  local _, request, refused = checks.body(req)
  if not request then return refused end
  return jobs.reconnect(self, request)
end

local function callback(self, req, channel_id)
  local _, request, refused = checks.body(req)
  if not request then return refused end
  return jobs.callback(self, channel_id, request)
end

-- -------------------------------------------------------------------------------------------------------- routing

local ROUTES = {
  ["/v1/ai"] = run_workflow(false),
  ["/v1/chat/completions"] = run_workflow(true),
  ["/v1/ai/async"] = start_job,
  ["/v1/ai/reconnect"] = reconnect,
}

local function route(path)
  path = path:match("^[^?#]*"):gsub("^/api/", "/")
  if ROUTES[path] then return ROUTES[path] end
  local channel_id = path:match("^/v1/callback/([^/]+)$")
  if channel_id then return callback, channel_id end
end

--- Answers a request. May wait as long as the workflow does; raises only what ends the one who asks.
---@param req {method: string, path: string, headers: table|nil, body: string|nil, json: any}
---@return table answer
function Gateway:answer(req)
  local handler, argument = route(req.path)
  if not handler then
    return answer.refusal(404, "not_found", ("There is no %s %s"):format(req.method, req.path:match("^[^?]*")))
  end
  if req.method ~= "POST" then
    local refused = answer.refusal(405, "method_not_allowed", "Use POST")
    refused.headers.allow = "POST"
    return refused
  end
  local headers = {}
  for name, value in pairs(req.headers or {}) do headers[tostring(name):lower()] = value end
  local refused = checks.key(self.options, headers)
  if refused then return refused end
  return self.idempotency:answer(headers["idempotency-key"], req, function() return handler(self, req, argument) end)
end

--- The client with which workflows ask other servers, made when it is first needed.
---@return riverlua.HttpClient
function Gateway:http_client()
  self.client = self.client or require("riverlua.http").Client{retries = 0}
  return self.client
end

--- Cancels the jobs for which nobody waits, and the deliveries of webhooks, and closes the connections.
function Gateway:close()
  if self.closed then return end
  self.closed = true
  jobs.close(self)
  delivery.close(self)
  if self.client then self.client:close() end
end

--- Makes a gateway.
---@param registry table {workflows = name → workflow, webhooks = URL → function, report = fun(problem, where), store =
--- see modelriver.embedded.store}
---@param options table those of modelriver.embedded.new, complete; and `base_url` under which it is reached
---@return modelriver.embedded.Gateway
function gateway.new(registry, options)
  return setmetatable({registry = registry, options = options, own_jobs = {},
    deliveries = {}, idempotency = idempotency.new()}, Gateway)
end

return gateway
