--- Answers of the gateway: bodies and headers as on the wire. An answer is {status, headers, body}, or
-- {status, headers, stream, close} as riverlua.server takes it.

local json = require "riverlua.json"
local task = require "riverlua.task"

local answer = {}

local encode = json.encoder{sort = true}

--- An answer with a JSON body.
---@param status integer
---@param value any
---@param headers table|nil lower-case names
---@return table
function answer.json(status, value, headers)
  local all = {["content-type"] = "application/json"}
  for name, content in pairs(headers or {}) do all[name] = content end
  return {status = status, headers = all, body = encode(value)}
end

--- A refusal in OpenAI's envelope.
---@param status integer
---@param code string|nil
---@param message string
---@param param string|nil the field that is wrong
---@param kind string|nil the error's type, default "invalid_request_error"
---@return table
function answer.refusal(status, code, message, param, kind)
  return answer.json(status, {error = {message = message, type = kind or "invalid_request_error", param = param,
    code = code}})
end

--- Milliseconds since `started`, a whole number.
---@param started number of task.now()
---@return integer
function answer.duration(started)
  return math.floor((task.now() - started) * 1000 + 0.5)
end

-- ------------------------------------------------------------------------------------------------------ the parts

local function backups(run)
  local list = json.array{}
  for i = 2, #run.workflow.providers do
    local provider = run.workflow.providers[i]
    list[i - 1] = {position = i - 1, provider = provider.provider, model = provider.model}
  end
  return list
end

--- What is said about a run, with the names of the synchronous API.
---@param run modelriver.embedded.Run
---@return table
function answer.meta(run)
  local used = run.provider or {}
  local first = run.workflow.providers[1]
  local failed = run.failure ~= nil
  return {
    status = failed and "error" or "success", http_status = failed and 502 or 200, workflow = run.workflow.name,
    requested_provider = first.provider, requested_model = first.model,
    used_provider = used.provider, used_model = used.model,
    duration_ms = run.duration_ms or answer.duration(run.started),
    usage = run.outcome and run.outcome.usage, structured_output = run.outcome and run.outcome.structured or nil,
    offline_fallback = run.offline_fallback, attempts = json.array{table.unpack(run.attempts)},
  }
end

-- Test mode has names of its own.
local function test_meta(run)
  return {provider = "Testing", model = "test-mode", test_mode = true, status = "success", http_status = 200,
    workflow = run.workflow.name, tokens = {prompt = 0, completion = 0, total = 0},
    structured_output = run.outcome.structured or nil, duration_ms = run.duration_ms or answer.duration(run.started)}
end

--- The OpenAI body of an outcome; the provider's own when it has one.
---@param run modelriver.embedded.Run
---@return table
function answer.completion(run)
  local outcome = run.outcome
  local body = outcome.body
  if body and (body.choices or not run.openai) then return body end
  return {id = run.id, object = "chat.completion", created = run.created, model = run.provider.model, choices = {{
    index = 0, finish_reason = outcome.finish_reason,
    message = {role = "assistant", content = outcome.content or json.null, tool_calls = outcome.tool_calls},
  }}, usage = outcome.usage}
end

--- The `data` of an outcome: the structured value, else the provider's body.
---@param run modelriver.embedded.Run
---@return any
function answer.data(run)
  if run.outcome.structured then return run.outcome.data end
  return answer.completion(run)
end

--- The headers that carry what is said about a run.
---@param run modelriver.embedded.Run
---@return table<string, string>
function answer.headers(run)
  local used = run.provider or {}
  local headers = {
    ["x-modelriver-provider"] = used.provider, ["x-modelriver-model"] = used.model,
    ["x-modelriver-workflow"] = run.workflow.name,
    ["x-modelriver-duration-ms"] = ("%d"):format(run.duration_ms or answer.duration(run.started)),
    ["x-modelriver-attempts"] = ("%d"):format(run.tries),
    ["x-modelriver-offline-fallback"] = run.offline_fallback and "true" or nil,
  }
  if next(run.customer_data) ~= nil then headers["x-modelriver-cached-data"] = encode(run.customer_data) end
  return headers
end

-- ---------------------------------------------------------------------------------------------- whole answers

--- The failure of a run, as answers and payloads have it.
---@param failed modelriver.embedded.Failure
---@return table
function answer.failure(failed)
  return {message = "Provider request failed", details = {status = failed.status, message = failed.message}}
end

--- The envelope of a run whose providers all failed.
---@param run modelriver.embedded.Run
---@return table
function answer.failed_envelope(run)
  return {
    data = json.null, customer_data = run.customer_data, meta = answer.meta(run),
    error = answer.failure(run.failure), backups = backups(run),
  }
end

--- The wrapped form of a run that succeeded.
---@param run modelriver.embedded.Run
---@return table
function answer.envelope(run)
  return {data = answer.data(run), customer_data = run.customer_data, backups = backups(run),
    meta = run.test_mode and test_meta(run) or answer.meta(run)}
end

--- The answer to a synchronous request.
---@param run modelriver.embedded.Run
---@return table
function answer.of_run(run)
  local headers = answer.headers(run)
  if run.failure then
    -- an OpenAI client knows no success without choices
    if run.openai then
      local refused = answer.refusal(502, "upstream_error", "Provider request failed: " .. run.failure.message, nil,
        "upstream_error")
      for name, value in pairs(headers) do refused.headers[name] = value end
      return refused
    end
    return answer.json(200, answer.failed_envelope(run), headers)
  end
  if run.wrapped then return answer.json(200, answer.envelope(run), headers) end
  return answer.json(200, answer.completion(run), headers)
end

return answer
