--- The errors of the ModelRiver client: what a status, a body or a broken connection means, in one form.
--
-- Kinds: "argument" (the call), "auth" 401, "permission" 403, "not_found" 404, "invalid_request" (other 4xx),
-- "rate_limit" 429, "server" 5xx and 408, "provider" (a 200 that carries a failure), "stream" (broken in the
-- middle), "protocol" (not what the API promises), "websocket", "job", "schema", "signature"; and those of
-- riverlua.http for what prevents an answer: "dns", "connect", "tls", "timeout", "limit".
--
-- Beside the fields of riverlua.Error: `type`, `param`, `workflow`, `channel_id`, `headers`, `tries` (how often
-- the request was sent) and `attempts`: the providers that ModelRiver tried, a list.

local errors = require "riverlua.errors"
local exchange = require "riverlua.exchange"
local json = require "riverlua.json"
local meta = require "modelriver.meta"

local failure = {}

local LONGEST_BODY = 4096
local LONGEST_TEXT = 500

local decode = json.decoder{drop_null = true, max_depth = 128}

---@class modelriver.Call What an error has to know about the request it comes from.
---@field what string the method as the user wrote it: "ai", "stream"
---@field workflow string|nil
---@field channel_id string|nil
---@field scrub fun(text: string): string takes secrets out of a text

-- "ai 'summary': ": where it happened, for the beginning of messages.
local function place_of(call)
  local name = call.workflow or call.channel_id
  return name and ("%s '%s': "):format(call.what, name) or call.what .. ": "
end
failure.place_of = place_of

-- Text that fits on a line of a message; of a page only its title.
local function one_line(text)
  if text:find("^%s*<") then
    local title = text:sub(1, LONGEST_BODY):match("<[Tt][Ii][Tt][Ll][Ee]>%s*([^<]-)%s*</")
    text = title and title ~= "" and ("a page with the title '%s'"):format(title) or "a page, not JSON"
  end
  text = text:gsub("%s+", " "):match("^%s*(.-)%s*$")
  return #text > LONGEST_TEXT and text:sub(1, LONGEST_TEXT) .. "…" or text
end

local function text_in(value)
  return type(value) == "string" and value ~= "" and value or nil
end

-- What Phoenix puts under "errors": {"detail": "…"} or field → list of texts.
local function phoenix_text(errors_table)
  local texts = {}
  for field, value in pairs(errors_table) do
    local text = type(value) == "table" and text_in(value[1]) or text_in(value)
    if text then texts[#texts + 1] = field == "detail" and text or ("%s %s"):format(field, text) end
  end
  table.sort(texts)
  return texts[1] and table.concat(texts, "; ")
end

--- The parts of a failure in a decoded body, whichever of the API's shapes it has; nil when it is none.
---@param body any
---@return { message: string|nil, type: string|nil, code: any, param: string|nil, details: table|nil }|nil
function failure.parts(body)
  if type(body) ~= "table" then return nil end
  local err = body.error
  if type(err) == "table" then
    return {message = text_in(err.message) or text_in(err.detail), type = text_in(err.type), code = err.code,
      param = text_in(err.param), details = type(err.details) == "table" and err.details or nil}
  elseif text_in(err) then
    return {message = text_in(body.message) or err, code = body.message and err or nil}
  elseif text_in(body.message) then
    return {message = body.message, code = text_in(body.code)}
  elseif type(body.errors) == "table" then
    return {message = phoenix_text(body.errors)}
  end
  return nil
end

local KINDS = {[401] = "auth", [403] = "permission", [404] = "not_found", [408] = "server", [429] = "rate_limit"}

local function kind_of(status)
  if KINDS[status] then return KINDS[status] end
  if status >= 500 then return "server" end
  return status >= 400 and "invalid_request" or "protocol"
end

local HINTS = {
  auth = "check the API key: MODELRIVER_API_KEY or the option api_key; it may have expired or been revoked",
  permission = "the key belongs to another project, or is not active",
  server = "ModelRiver or its provider has trouble: the same call may work later",
}

local function hint_of(err)
  local message = err.message
  if err.code == "model_not_supported" or message:find("event-driven", 1, true) then
    return "event-driven workflows answer later: use client:ai_async"
  elseif message:find("redentials not configured", 1, true) then
    return "add a key of the provider to the project in ModelRiver's console"
  elseif err.kind == "not_found" and err.code == "model_not_found" then
    return "create the workflow in ModelRiver's console, or check its name"
  elseif err.kind == "not_found" then
    return "check base_url: the client asks for paths below it such as /v1/ai"
  elseif err.kind == "rate_limit" then
    return err.retry_after and err.retry_after > 0 and ("the server asks to wait %g s"):format(err.retry_after) or "wait before the next call"
  elseif err.status == 402 then
    return "the quota of the plan may be used up"
  elseif err.status == 413 then
    return "send less: shorter messages or smaller images"
  end
  return HINTS[err.kind]
end

--- The id under which the service knows a request, wherever it wrote it.
---@param headers table
---@return string|nil
function failure.request_id(headers)
  return headers["x-request-id"] or headers["x-modelriver-request-id"] or headers["cf-ray"]
end

--- Seconds that the answer asks to wait, or nil.
---@param headers table
---@return number|nil
function failure.retry_after(headers)
  local ms = tonumber(headers["retry-after-ms"])
  if ms and ms >= 0 then return ms / 1000 end
  return exchange.parse_retry_after(headers["retry-after"])
end

local function scrubbed_headers(call, headers)
  local out = {}
  for name, value in pairs(headers) do
    if name ~= "set-cookie" then out[name] = call.scrub(value) end
  end
  return out
end

-- The first bytes of a streamed answer.
local function beginning_of(res)
  local pieces, size = {}, 0
  while size < LONGEST_BODY do
    local ok, piece = pcall(res.read, res)
    if not ok or piece == nil then break end
    pieces[#pieces + 1] = piece
    size = size + #piece
  end
  return table.concat(pieces)
end

--- The error for an answer with a status of 300 or above.
---@param call modelriver.Call
---@param res table the answer
---@param tries integer
---@return riverlua.Error
function failure.from_status(call, res, tries)
  local headers, status = res.headers, res.status
  local text = res.body or beginning_of(res)
  local ok, body = pcall(decode, text)
  local parts = ok and failure.parts(body) or {}
  local said = parts.message or (not ok and text ~= "" and text) or nil
  local err = {
    kind = kind_of(status), status = status, code = parts.code, type = parts.type, param = parts.param,
    body = call.scrub(text:sub(1, LONGEST_BODY)), headers = scrubbed_headers(call, headers),
    request_id = failure.request_id(headers), retry_after = failure.retry_after(headers), tries = tries,
    workflow = call.workflow, channel_id = call.channel_id, method = "POST", url = call.url,
    details = parts.details, attempts = type(body) == "table" and type(body.meta) == "table"
      and meta.attempts(body.meta.attempts) or nil,
  }
  local named = parts.code or parts.type
  err.message = call.scrub(("%s%s (HTTP %d%s)"):format(place_of(call),
    said and one_line(said) or "the request was refused", status, named and " " .. tostring(named) or ""))
  err.retryable = status == 429 or status == 408 or status >= 500
  if headers["x-should-retry"] == "true" then err.retryable = true end
  if headers["x-should-retry"] == "false" then err.retryable = false end
  err.hint = hint_of(err)
  return errors.new(err)
end

--- Completes an error of riverlua.http with what is known about the call.
---@param call modelriver.Call
---@param err riverlua.Error
---@param tries integer
---@return riverlua.Error
function failure.from_transport(call, err, tries)
  err.message = call.scrub(place_of(call) .. err.message)
  err.tries, err.attempts = tries, nil
  err.workflow, err.channel_id = call.workflow, call.channel_id
  return err
end

--- The error for a body that is not what the API promises.
---@param call modelriver.Call
---@param text string what came
---@param why string
---@param fields table|nil
---@return riverlua.Error
function failure.unreadable(call, text, why, fields)
  local err = fields or {}
  err.kind, err.message = "protocol", place_of(call) .. why
  err.body = call.scrub(text:sub(1, LONGEST_BODY))
  err.workflow, err.channel_id, err.url, err.method = call.workflow, call.channel_id, call.url, "POST"
  err.retryable = false
  err.hint = err.hint or "check base_url: it may lead to another service, or to a proxy's page"
  return errors.new(err)
end

local function is_passing(status)
  return type(status) == "number" and (status >= 500 or status == 429 or status == 408)
end

--- The error for a failure that came with status 200: the request was valid, its providers failed.
---@param call modelriver.Call
---@param body table the decoded envelope
---@param res table the answer
---@param tries integer
---@return riverlua.Error
function failure.from_envelope(call, body, res, tries)
  local parts = failure.parts(body) or {}
  local normal = meta.normal(body.meta)
  local details = parts.details or {}
  local message = parts.message or "the provider failed"
  if text_in(details.message) and details.message ~= message then message = message .. ": " .. details.message end
  local provider_status = type(details.status) == "number" and details.status or nil
  local tried = {}
  for _, one in ipairs(normal.attempts) do
    tried[#tried + 1] = ("%s/%s: %s"):format(one.provider or "?", one.model or "?", one.reason or one.status or "?")
  end
  return errors.new{
    kind = "provider", status = res.status, http_status = normal.http_status, provider_status = provider_status,
    code = parts.code, type = parts.type, param = parts.param, details = parts.details,
    message = call.scrub(("%s%s%s"):format(place_of(call), one_line(message),
      provider_status and (" (the provider's status: %d)"):format(provider_status) or "")),
    hint = #tried > 0 and call.scrub("tried " .. table.concat(tried, ", ")) or nil,
    attempts = normal.attempts, meta = normal, customer_data = body.customer_data or body.cached_data,
    workflow = normal.workflow or call.workflow, channel_id = call.channel_id, tries = tries,
    retryable = is_passing(provider_status or normal.http_status), request_id = failure.request_id(res.headers),
    body = res.body and call.scrub(res.body:sub(1, LONGEST_BODY)), headers = scrubbed_headers(call, res.headers),
    url = call.url, method = "POST",
  }
end

failure.decode = decode

--- A decoded value as clients hand it out: JSON null is absent in objects.
function failure.without_null(value)
  if value == json.null then return nil end
  if type(value) == "table" then
    for key, item in next, value do
      if item == json.null and not json.is_array(value) then value[key] = nil else failure.without_null(item) end
    end
  end
  return value
end

return failure
