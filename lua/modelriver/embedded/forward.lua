--- A provider that is another server with OpenAI's chat completions.

local client_failure = require "modelriver.failure"
local failure = require "modelriver.embedded.failure"
local json = require "riverlua.json"
local outcome = require "modelriver.embedded.outcome"

local forward = {}

-- Seconds for the first byte, and between two, unless the provider has its own timeout.
local PATIENCE = 300

local decode = json.decoder{drop_null = true}

-- What OpenAI's API knows; others are the gateway's own, and many servers refuse what they do not know.
local FIELDS = {
  "messages", "temperature", "max_tokens", "max_completion_tokens", "top_p", "n", "stop", "presence_penalty",
  "frequency_penalty", "logit_bias", "logprobs", "top_logprobs", "seed", "user", "tools", "tool_choice",
  "parallel_tool_calls", "response_format", "reasoning_effort", "modalities", "audio", "prediction", "service_tier",
  "stream_options", "verbosity", "functions", "function_call", "top_k", "min_p", "repetition_penalty",
}

local function body_for(run, provider, streams)
  -- nulls stay: a message may have to have them
  local request, body = json.decode(run.body), {}
  for _, name in ipairs(FIELDS) do body[name] = request[name] end
  if body.messages == nil and type(request.prompt) == "string" then
    body.messages = {{role = "user", content = request.prompt}}
  end
  body.model, body.stream = provider.forward.model or provider.model, streams or nil
  if not streams then body.stream_options = nil end
  if run.schema and (type(body.response_format) ~= "table" or body.response_format.type ~= "json_schema") then
    body.response_format = {type = "json_schema", json_schema = {name = "answer", schema = run.schema}}
  end
  return body
end

local function send(run, provider, streams)
  local target, patience = provider.forward, provider.timeout or PATIENCE
  local headers = {accept = streams and "text/event-stream" or "application/json"}
  for name, value in pairs(target.headers) do headers[name] = value end
  if target.api_key then headers.authorization = "Bearer " .. target.api_key end
  return run.http():post(target.base_url .. "/chat/completions", {headers = headers, stream = streams,
    json = body_for(run, provider, streams), redirects = 0,
    timeout = {connect = math.min(10, patience), first_byte = patience, idle = patience, total = false}})
end

-- What a server says about a failure, in any of the usual shapes.
local function message_of(body, text)
  local parts = client_failure.parts(body)
  if parts and parts.message then return parts.message end
  local line = text:match("^%s*([^\r\n]*)"):sub(1, 200)
  return line ~= "" and utf8.len(line) and line or "the server gave no reason"
end

local function refuse(res, text)
  local ok, body = pcall(decode, text)
  error(failure.of_status(res.status, message_of(ok and body or nil, text)), 0)
end

local function check_status(res)
  if res.status >= 200 and res.status < 300 then return end
  refuse(res, res.body or res:text(1024 * 1024))
end

-- A body that is none, or a failure with status 200.
local function check_body(res, text)
  local ok, body = pcall(decode, text)
  if not ok or type(body) ~= "table" then
    error(failure.new(502, "protocol", "the server's answer is not JSON"), 0)
  end
  if type(body.error) == "table" then
    local status = math.type(body.error.status) == "integer" and body.error.status or 502
    error(failure.new(status, "upstream_error", message_of(body, text)), 0)
  end
  if type(body.choices) ~= "table" and type(body.content) ~= "table" then
    error(failure.new(502, "protocol", ("the server's answer to %s has no choices"):format(res.method)), 0)
  end
  return body
end

local function add_delta(gathered, chunk)
  if type(chunk.usage) == "table" then gathered.usage = chunk.usage end
  local choice = type(chunk.choices) == "table" and chunk.choices[1]
  if type(choice) ~= "table" or (choice.index or 0) ~= 0 then return end
  local delta = type(choice.delta) == "table" and choice.delta or {}
  if type(delta.content) == "string" then gathered.text[#gathered.text + 1] = delta.content end
  if type(choice.finish_reason) == "string" then gathered.finish_reason = choice.finish_reason end
  if delta.tool_calls ~= nil then gathered.calls = true end
end

-- One event of the upstream's stream; true at the end.
local function take_event(event, gathered, sink, progress)
  if event.data:find("^%[DONE%]") then return true end
  local ok, chunk = pcall(json.decode, event.data)
  if not ok or type(chunk) ~= "table" then
    error(failure.new(502, "protocol", "the server's stream holds what is not JSON"), 0)
  end
  if type(chunk.error) == "table" or event.event == "error" then
    error(failure.new(502, "upstream_error", message_of(chunk, event.data)), 0)
  end
  progress()
  add_delta(gathered, chunk)
  sink:pass(chunk)
end

local function read_stream(res, sink, progress)
  local gathered = {text = {}}
  local done = false
  for event in res:events() do
    done = take_event(event, gathered, sink, progress)
    if done then break end
  end
  if not done and not gathered.finish_reason then
    error(failure.new(502, "stream_truncated", "the server's stream ended before the answer did"), 0)
  end
  return gathered
end

local function respond_streamed(run, provider, sink, progress)
  local res <close> = send(run, provider, true)
  check_status(res)
  if not (res.headers["content-type"] or ""):find("event%-stream") then
    return outcome.of(check_body(res, res:text(16 * 1024 * 1024)), run.request, run.checked_schema)
  end
  local gathered = read_stream(res, sink, progress)
  local schema = not gathered.calls and run.checked_schema or nil
  return outcome.of({content = table.concat(gathered.text), finish_reason = gathered.finish_reason,
    usage = gathered.usage}, run.request, schema)
end

--- Asks the provider's server. Raises a failure, or what riverlua.http raises.
---@param run modelriver.embedded.Run
---@param provider modelriver.embedded.Provider
---@param sink modelriver.embedded.Writer|nil
---@param progress fun() to be called when something came
---@return modelriver.embedded.Outcome
function forward.respond(run, provider, sink, progress)
  if sink then return respond_streamed(run, provider, sink, progress) end
  local res = send(run, provider, false)
  check_status(res)
  return outcome.of(check_body(res, res.body), run.request, run.checked_schema)
end

return forward
