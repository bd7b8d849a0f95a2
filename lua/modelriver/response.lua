--- An answer in one form, whichever envelope it came in.
--
-- Shapes: the provider's own body with `X-ModelRiver-*` headers (OpenAI's or Anthropic's form), the wrapped envelope
-- `{data, customer_data, meta, backups}`, test mode, and the payloads of jobs and webhooks.

local errors = require "riverlua.errors"
local failure = require "modelriver.failure"
local json = require "riverlua.json"
local meta = require "modelriver.meta"

local response = {}

---@class modelriver.ToolCall
---@field id string|nil
---@field name string
---@field arguments string JSON, as the model wrote it

---@class modelriver.Response
---@field data any the structured object when there is one (also as the whole text of a raw answer); else the
---provider's body
---@field customer_data table cache fields: path → value
---@field meta modelriver.Meta
---@field usage modelriver.Usage|nil
---@field attempts modelriver.Attempt[] providers that were tried, in order
---@field backups table[] the fallback providers of the workflow: {position, provider, model}
---@field tool_calls modelriver.ToolCall[]
---@field finish_reason string|nil "stop", "length", "tool_calls", "content_filter"
---@field offline_fallback boolean the answer was made up, because no provider answered: do not trust it
---@field test_mode boolean the answer is sample data
---@field message table|nil the assistant's message, to be put into the next request's messages
---@field raw table the decoded body
---@field body string|nil the bytes that came
---@field headers table
---@field request_id string|nil
---@field tries integer how often the request was sent
---@field status integer|nil HTTP status; nil for jobs
---@field channel_id string|nil of a job
---@field task_id any what the callback of an event-driven job named
---@field callback_metadata any the same
---@field refusal string|nil why the model does not answer
local Response = {}
Response.__index = Response
Response.__name = "modelriver.Response"

local encode = json.encoder{sort = true}

local STOP_REASONS = {end_turn = "stop", stop_sequence = "stop", max_tokens = "length", tool_use = "tool_calls",
  refusal = "content_filter"}

-- Text of OpenAI's content: a string, or parts of which some are text.
local function content_text(content)
  if type(content) == "string" then return content end
  if type(content) ~= "table" then return nil end
  local texts = {}
  for _, part in ipairs(content) do
    if type(part) == "table" and type(part.text) == "string" then texts[#texts + 1] = part.text end
  end
  return table.concat(texts)
end

local function is_anthropic(body)
  return type(body.content) == "table" and (body.type == "message" or body.stop_reason ~= nil)
end

local function openai_tool_calls(message)
  local calls = {}
  for _, call in ipairs(type(message.tool_calls) == "table" and message.tool_calls or {}) do
    local described = type(call) == "table" and call["function"]
    if type(described) == "table" then
      local arguments = described.arguments
      -- some servers send the object itself
      if type(arguments) ~= "string" then
        arguments = encode(type(arguments) == "table" and arguments or json.object{})
      end
      calls[#calls + 1] = {id = call.id, name = described.name, arguments = arguments}
    end
  end
  return calls
end

-- Anthropic's message as OpenAI's, with what else there is to know.
local function read_anthropic(body)
  local calls, sent = {}, nil
  for _, part in ipairs(body.content) do
    if type(part) == "table" and part.type == "tool_use" then
      local arguments = encode(type(part.input) == "table" and part.input or json.object{})
      calls[#calls + 1] = {id = part.id, name = part.name, arguments = arguments}
      sent = sent or {}
      sent[#sent + 1] = {id = part.id, type = "function", ["function"] = {name = part.name, arguments = arguments}}
    end
  end
  local text = content_text(body.content)
  return {message = {role = "assistant", content = text, tool_calls = sent}, text = text, tool_calls = calls,
    finish_reason = STOP_REASONS[body.stop_reason] or body.stop_reason}
end

local function read_openai(body)
  local choice = type(body.choices) == "table" and body.choices[1]
  if type(choice) ~= "table" then return nil end
  local message = type(choice.message) == "table" and choice.message or nil
  local refusal = message and message.refusal
  return {message = message, text = message and content_text(message.content) or content_text(choice.text),
    refusal = type(refusal) == "string" and refusal or nil, tool_calls = message and openai_tool_calls(message) or {},
    finish_reason = choice.finish_reason}
end

-- What a provider's body says; nil when it is none.
local function read_provider(body)
  if type(body) ~= "table" then return nil end
  return read_openai(body) or is_anthropic(body) and read_anthropic(body) or nil
end

--- Internal: whether a decoded body is the wrapped envelope.
-- By its looks, whatever format was asked for; of `data` that is null there is nothing left to see.
function response.is_wrapped(body)
  if type(body.meta) ~= "table" then return false end
  if body.data ~= nil then return true end
  return body.choices == nil and body.content == nil
    and (body.error ~= nil or body.meta.status ~= nil or body.customer_data ~= nil or body.cached_data ~= nil)
end

--- Whether a decoded body says that the request failed, whatever the status.
---@param body table
---@return boolean
function response.is_failure(body)
  local told = body.error
  if type(told) == "table" or type(body.meta) == "table" and body.meta.status == "error" then return true end
  -- as other servers tell it
  return type(told) == "string" and told ~= "" and body.choices == nil and body.data == nil
end

local function whole_number(text) return text and math.tointeger(tonumber(text)) or tonumber(text) end

-- What headers tell of an answer in the raw format.
local function meta_of_headers(body, headers)
  local attempts = whole_number(headers["x-modelriver-attempts"])
  local provider, model = headers["x-modelriver-provider"], headers["x-modelriver-model"]
  local normal = meta.normal{provider = provider, model = model or body.model,
    workflow = headers["x-modelriver-workflow"], duration_ms = whole_number(headers["x-modelriver-duration-ms"]),
    usage = body.usage, status = "success", offline_fallback = headers["x-modelriver-offline-fallback"] == "true"}
  normal.attempt_count = attempts
  if attempts == 1 and not normal.offline_fallback then
    normal.attempts = {{provider = provider, model = normal.model, status = "success"}}
  end
  return normal
end

local function decoded_or_nil(text)
  if type(text) ~= "string" then return nil end
  local ok, value = pcall(failure.decode, text)
  return ok and value or nil
end

local function wants_object(sent)
  local format = sent.response_format
  return sent.structured_output_schema ~= nil or type(format) == "table" and format.type ~= "text"
end

-- The structured object that an answer's text amounts to. It need not have been asked for: the schema may be the
-- workflow's own.
local function object_in(self, text)
  if type(text) ~= "string" or not text:find("^%s*{.*}%s*$") then return nil end
  local value = decoded_or_nil(text)
  if type(value) ~= "table" then return nil end
  if wants_object(self._sent) then self.meta.structured_output = true end
  return value
end

local function table_or(value, default) return type(value) == "table" and value or default end

local function finish(self)
  self.usage, self.attempts = self.meta.usage, self.meta.attempts
  self.offline_fallback, self.test_mode = self.meta.offline_fallback, self.meta.test_mode
  self.customer_data, self.backups = table_or(self.customer_data, {}), table_or(self.backups, {})
  self.tool_calls = self.tool_calls or {}
  return setmetatable(self, Response)
end

local function take_provider(self, said)
  self.message, self._text, self.refusal = said.message, said.text, said.refusal
  self.tool_calls, self.finish_reason = said.tool_calls, said.finish_reason
end

local function from_wrapped(self, body)
  self.meta = meta.normal(body.meta)
  self.customer_data = body.customer_data or body.cached_data
  self.backups = body.backups
  local said = read_provider(body.data)
  if said then
    take_provider(self, said)
    self.meta.usage = self.meta.usage or meta.usage(body.data.usage)
    self.data = object_in(self, said.text) or body.data
  else
    self.data = body.data
    if type(body.data) == "string" then self._text = body.data end
  end
  self.meta.attempt_count = #self.meta.attempts
  return self
end

local function from_raw(self, body)
  local headers = self.headers
  self.meta = meta_of_headers(body, headers)
  local cached = decoded_or_nil(headers["x-modelriver-cached-data"])
  self.customer_data = cached
  local said = read_provider(body)
  if said then take_provider(self, said) end
  self.data = said and object_in(self, said.text) or body
  return self
end

--- Internal: reads a decoded body. `sent`: the request's body.
---@param body table
---@param headers table
---@param sent table
---@return modelriver.Response
function response.of_body(body, headers, sent)
  local self = {raw = body, headers = headers, request_id = failure.request_id(headers), tries = 1, _sent = sent}
  return finish(response.is_wrapped(body) and from_wrapped(self, body) or from_raw(self, body))
end

--- Internal: reads an answer with status 200 and the like; raises kind "provider" or "protocol".
---@param call modelriver.Call
---@param res table the answer
---@param tries integer
---@param sent table the request's body
---@return modelriver.Response
function response.read(call, res, tries, sent)
  local ok, body = pcall(failure.decode, res.body)
  if not ok or type(body) ~= "table" or json.is_array(body) then
    error(failure.unreadable(call, res.body, ok and "the answer is no JSON object"
      or failure.why_not_json(call, res.body, body), {res = res, tries = tries}), 0)
  end
  if response.is_failure(body) then error(failure.from_envelope(call, body, res, tries), 0) end
  local self = response.of_body(body, res.headers, sent)
  self.tries, self.status, self.body = tries, res.status, res.body
  return self
end

-- Keys of a job's payload that are about the job, not the answer.
local ENVELOPE = {}
for name in ([[message status channel_id project_id data content model customer_data cached_data meta event_name task_id
  callback_metadata ai_response error type timestamp test_mode backups]]):gmatch("%S+") do ENVELOPE[name] = true end

local function payload_data(payload)
  if payload.data ~= nil then return payload.data end
  local inner = payload.ai_response
  if type(inner) == "table" and inner.data ~= nil then return inner.data end
  local rest
  for name, value in pairs(payload) do
    if not ENVELOPE[name] then
      rest = rest or {}
      rest[name] = value
    end
  end
  return rest
end

--- Internal: reads the final payload of a job.
---@param payload table
---@param sent table|nil the request's body, when this process made it
---@return modelriver.Response
function response.of_payload(payload, sent)
  local inner = type(payload.ai_response) == "table" and payload.ai_response.meta
  local self = {raw = payload, headers = {}, tries = 1, _sent = sent or {}, channel_id = payload.channel_id,
    task_id = payload.task_id, callback_metadata = payload.callback_metadata, event_name = payload.event_name}
  from_wrapped(self, {data = payload_data(payload), meta = type(payload.meta) == "table" and payload.meta or inner,
    customer_data = payload.customer_data or payload.cached_data, backups = payload.backups})
  self.meta.model = self.meta.model or payload.model
  if payload.test_mode == true then self.meta.test_mode = true end
  if type(payload.content) == "string" then self._text = self._text or payload.content end
  return finish(self)
end

--- The answer as text: the assistant's words; for a structured answer its JSON; "" when there is none (tool calls).
---@return string
function Response:text()
  if self._text then return self._text end
  if self.refusal then return self.refusal end
  local data = self.data
  if data == nil or data == self.raw or read_provider(data) then return "" end
  return encode(data)
end

errors.want_colon(Response, "response")

function Response:__tostring()
  local m = self.meta
  local tokens = m.usage and m.usage.total_tokens
  return ("modelriver.Response(%s%s%s)"):format(m.workflow and m.workflow .. ", " or "", m.model or "unknown model",
    tokens and (", %d tokens"):format(tokens) or "")
end

--- Internal: what a provider's body says, of OpenAI's or Anthropic's form; nil when it is none.
---@param body any
---@return { message: table|nil, text: string|nil, refusal: string|nil, tool_calls: modelriver.ToolCall[],
--- finish_reason: string|nil }|nil
response.read_provider = read_provider

return response
