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
local DEEPEST = 128

local decode = json.decoder{drop_null = true, max_depth = DEEPEST}

---@class modelriver.Call What an error has to know about the request it comes from.
---@field what string the method as the user wrote it: "ai", "stream"
---@field workflow string|nil
---@field model string|nil named in messages when there is no workflow
---@field channel_id string|nil
---@field scrub fun(text: string): string takes secrets out of a text

local function text_in(value)
  return type(value) == "string" and value ~= "" and value or nil
end

-- "ai 'summary': ": where it happened, for the beginning of messages.
local function place_of(call)
  local name = text_in(call.workflow) or text_in(call.channel_id) or text_in(call.model)
  return name and ("%s '%s': "):format(call.what, name) or call.what .. ": "
end
failure.place_of = place_of

-- The beginning of a text, which ends with a whole character.
local function beginning(text, size)
  if #text <= size then return text end
  while size > 0 and text:byte(size + 1) & 0xC0 == 0x80 do size = size - 1 end
  return text:sub(1, size)
end

-- Text that fits on a line of a message; of a page only its title. What is secret goes before the text is cut, lest
-- half of it stay.
local function one_line(call, text)
  text = call.scrub(text):sub(1, LONGEST_BODY)
  if text:find("^%s*<") then
    local title = text:match("<[Tt][Ii][Tt][Ll][Ee]>%s*([^<]-)%s*</")
    text = title and title ~= "" and ("a page with the title '%s'"):format(title) or "a page, not JSON"
  end
  if not utf8.len(beginning(text, LONGEST_TEXT)) then text = text:gsub("[\x80-\xff]", "?") end
  text = text:gsub("[%s%c]+", " "):match("^ ?(.-) ?$")
  return #text > LONGEST_TEXT and beginning(text, LONGEST_TEXT) .. "…" or text
end

failure.one_line = one_line

-- A value without secrets in it, however deep; the value itself stays as it is.
local function scrubbed(call, value, depth)
  if type(value) == "string" then return call.scrub(value) end
  if type(value) ~= "table" or (depth or 0) > DEEPEST then return value end
  local copy = setmetatable({}, getmetatable(value))
  for key, item in next, value do
    copy[scrubbed(call, key)] = key == "ws_token" and "***" or scrubbed(call, item, (depth or 0) + 1)
  end
  return copy
end

failure.scrubbed = scrubbed

-- The beginning of a body.
local function body_of(call, text) return text and call.scrub(text):sub(1, LONGEST_BODY) end

-- What stands under "errors" or "detail": {"detail": "…"}, field → list of texts, or a list of {"msg": "…"}.
local function listed_texts(told)
  local texts = {}
  for field, value in pairs(told) do
    local text = text_in(value)
    if type(value) == "table" then text = text_in(value[1]) or text_in(value.message) or text_in(value.msg) end
    local plain = field == "detail" or type(field) == "number"
    if text then texts[#texts + 1] = plain and text or ("%s %s"):format(field, text) end
  end
  table.sort(texts)
  return texts[1] and table.concat(texts, "; ")
end

local function code_in(value)
  return (type(value) == "string" or type(value) == "number") and value or nil
end

--- The parts of a failure in a decoded body, whichever of the API's shapes it has; nil when it is none.
---@param body any
---@return { message: string|nil, type: string|nil, code: any, param: string|nil, details: table|nil }|nil
function failure.parts(body)
  if type(body) ~= "table" then return nil end
  local err = body.error
  if type(err) == "table" then
    return {message = text_in(err.message) or text_in(err.detail) or text_in(err.error), type = text_in(err.type),
      code = code_in(err.code), param = text_in(err.param),
      details = type(err.details) == "table" and err.details or nil}
  elseif text_in(err) then
    return {message = text_in(body.message) or err, code = body.message and err or nil}
  elseif text_in(body.message) then
    return {message = body.message, code = code_in(body.code)}
  elseif type(body.errors) == "table" then
    return {message = listed_texts(body.errors)}
  elseif body.detail ~= nil then   -- of many other servers
    return {message = text_in(body.detail) or type(body.detail) == "table" and listed_texts(body.detail) or nil,
      type = text_in(body.type)}
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
  if err.kind == "not_found" and err.channel_id then
    return "the service does not know this job (any more), or it is another project's"
  elseif err.code == "model_not_supported" or message:find("event-driven", 1, true) then
    return "event-driven workflows answer later: use client:ai_async"
  elseif message:find("redentials not configured", 1, true) then
    return "add a key of the provider to the project in ModelRiver's console"
  elseif err.kind == "not_found" and err.code == "model_not_found" then
    return "create the workflow in ModelRiver's console, or check its name"
  elseif err.kind == "not_found" then
    return "check base_url: the client asks for paths below it such as /v1/ai"
  elseif err.kind == "rate_limit" then
    return (err.retry_after or 0) > 0 and ("the server asks to wait %g s"):format(err.retry_after)
      or "wait before the next call"
  elseif err.status < 400 then
    return "the server sends its callers elsewhere: check base_url, is it https:// in place of http://?"
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

local function headers_of(headers)
  local out = {}
  for name, value in pairs(headers) do
    if name ~= "set-cookie" then out[name] = value end
  end
  return out
end

-- The first bytes of a streamed answer.
local function beginning_of(res)
  local pieces, size = {}, 0
  while size < LONGEST_BODY + LONGEST_TEXT do   -- more than is kept: a secret may lie across the cut
    local ok, piece = pcall(res.read, res)
    if not ok and (errors.is(piece, "cancelled") or errors.is(piece, "interrupted")) then error(piece, 0) end
    if not ok or piece == nil then break end
    pieces[#pieces + 1] = piece
    size = size + #piece
  end
  return table.concat(pieces)
end

-- What a refusal's body says, and the rest of it that is understood.
local function told_in(call, text)
  local ok, body = pcall(decode, text)
  local parts = ok and failure.parts(body) or {}
  local said = parts.message or (ok and text_in(body)) or text_in(text)
  return text_in(said and one_line(call, said)), parts, ok and type(body) == "table" and body or {}
end

local function has_idempotency_key(headers)
  for name in pairs(headers or {}) do
    if name:lower() == "idempotency-key" then return true end
  end
  return false
end

-- Whether the same request may be sent again later, by status and headers.
local function is_retryable(call, status, headers)
  local asked = headers["x-should-retry"]
  if asked == "true" or asked == "false" then return asked == "true" end
  -- the first one may still be worked on: it is the same request to the service only if it was given a key
  if status == 409 then return has_idempotency_key(call.headers) end
  return status == 429 or status == 408 or status >= 500
end

--- The error for an answer with a status of 300 or above.
---@param call modelriver.Call
---@param res table the answer
---@param tries integer
---@return riverlua.Error
function failure.from_status(call, res, tries)
  local headers, status = res.headers, res.status
  local text = res.body or beginning_of(res)
  local said, parts, body = told_in(call, text)
  local err = {
    kind = kind_of(status), status = status, code = parts.code, type = parts.type, param = parts.param,
    headers = headers_of(headers), request_id = failure.request_id(headers), details = parts.details,
    attempts = type(body.meta) == "table" and meta.attempts(body.meta.attempts) or nil,
  }
  local named = parts.code or parts.type
  err.message = ("%s%s (HTTP %d%s)"):format(place_of(call), said or "the request was refused", status,
    named and " " .. one_line(call, tostring(named)) or "")
  err = scrubbed(call, err)
  err.body, err.retry_after, err.tries = body_of(call, text), failure.retry_after(headers), tries
  err.workflow, err.channel_id, err.method, err.url = call.workflow, call.channel_id, "POST", call.url
  err.retryable = is_retryable(call, status, headers)
  err.hint = hint_of(err)
  return errors.new(err)
end

--- Completes an error of riverlua.http with what is known about the call.
---@param call modelriver.Call
---@param err riverlua.Error
---@param tries integer
---@return riverlua.Error
function failure.from_transport(call, err, tries)
  local message = place_of(call) .. err.message
  if err.kind == "timeout" and err.phase == "total" and call.total then   -- not only the last try's share of it
    message = ("%sPOST %s: not done within %g s%s"):format(place_of(call), call.url, call.total,
      tries > 1 and (", in %d tries"):format(tries) or "")
  end
  err.message = call.scrub(message)
  err.tries, err.attempts = tries, nil
  err.workflow, err.channel_id = call.workflow, call.channel_id
  return err
end

--- The error for a body that is not what the API promises.
---@param call modelriver.Call
---@param text string what came
---@param why string
---@param fields table|nil `res`: the answer; others as they are
---@return riverlua.Error
function failure.unreadable(call, text, why, fields)
  local err = fields or {}
  local res = err.res
  err.res = nil
  if res then
    err.status, err.headers = res.status, scrubbed(call, headers_of(res.headers))
    err.request_id = scrubbed(call, failure.request_id(res.headers))
  end
  err.kind, err.message = "protocol", call.scrub(place_of(call) .. why)
  err.body = body_of(call, text)
  err.workflow, err.channel_id, err.url, err.method = call.workflow, call.channel_id, call.url, "POST"
  err.retryable = false
  err.hint = err.hint or "check base_url: it may lead to another service, or to a proxy's page"
  return errors.new(err)
end

--- Why a text could not be decoded, for messages.
---@param call modelriver.Call
---@param text string
---@param problem any what the decoder raised
---@return string
function failure.why_not_json(call, text, problem)
  if text:find("^%s*$") then return "the answer is empty" end
  if text:find("^%s*<") then return "the answer is not JSON but " .. one_line(call, text) end
  return "the answer is not JSON: " .. (errors.is(problem) and problem.message or tostring(problem))
end

local function is_passing(status)
  return type(status) == "number" and (status >= 500 or status == 429 or status == 408)
end

-- "openai/gpt-4o-mini: timeout, anthropic/…": how all attempts went, or nil.
local function tried_text(call, attempts)
  local tried = {}
  for i, one in ipairs(attempts) do
    tried[i] = ("%s/%s: %s"):format(code_in(one.provider) or "?", code_in(one.model) or "?",
      code_in(one.reason) or code_in(one.status) or "?")
  end
  return #tried > 0 and one_line(call, "tried " .. table.concat(tried, ", ")) or nil
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
  local err = scrubbed(call, {
    kind = "provider", code = parts.code, type = parts.type, param = parts.param, details = parts.details,
    message = ("%s%s%s"):format(place_of(call), one_line(call, message),
      provider_status and (" (the provider's status: %g)"):format(provider_status) or ""),
    hint = tried_text(call, normal.attempts), meta = normal, customer_data = body.customer_data or body.cached_data,
    request_id = failure.request_id(res.headers), headers = headers_of(res.headers),
  })
  err.status, err.http_status, err.provider_status = res.status, normal.http_status, provider_status
  err.attempts, err.workflow, err.channel_id = err.meta.attempts, normal.workflow or call.workflow, call.channel_id
  err.body, err.tries, err.url, err.method = body_of(call, res.body), tries, call.url, "POST"
  err.retryable = is_passing(provider_status or normal.http_status)
  return errors.new(err)
end

failure.decode = decode

--- A decoded value as clients hand it out: JSON null is absent in objects. The value itself is changed.
---@param value any
---@return any
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
