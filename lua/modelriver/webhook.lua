--- Webhooks of ModelRiver: is it really from there, and what does it say?
--
--     local event = modelriver.webhook.verify(req.headers, req.body, secret)   -- raises kind "signature"
--     if seen[event.dedupe_key] then return {status = 200} end
--     print(event.type, event.channel_id, event.data)
--
-- All signatures are HMAC-SHA-256 in hexadecimal digits, but there are three ways to make them; which one is told by
-- the headers, or by `scheme`:
-- A, header `mr-signature`: of the raw body. B, header `X-ModelRiver-Signature`: of the timestamp, a point and the
-- bytes of the member `data`. C, the same header: of the timestamp, a point and the raw body.
-- B and C sign the time, so that an old webhook cannot be sent again later; under A the time proves nothing and is not
-- looked at.

local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local json = require "riverlua.json"
local members = require "modelriver.webhook_members"
local meta = require "modelriver.meta"

local webhook = {}

local decode = json.decoder{drop_null = true}

local VERIFY_OPTIONS = {scheme = "string", tolerance = "number", now = "number"}
local SIGN_OPTIONS = {scheme = "string", timestamp = "number"}
local SCHEMES = {A = true, B = true, C = true}
local DIGITS = 64   -- of an HMAC-SHA-256

local function wrong(message, hint)
  errors.raise{kind = "signature", message = message, hint = hint}
end

local function check_options(where, options, known)
  errors.expect(where, "options", options, "table")
  errors.check_options(where, options, known)
  for name, value in pairs(options) do errors.expect(where, name, value, known[name]) end
  if options.scheme and not SCHEMES[options.scheme] then
    errors.raise{kind = "argument", message = ("%s: 'scheme' must be A, B or C"):format(where)}
  end
end

local function check_arguments(where, raw_body, secret)
  if type(raw_body) == "table" then
    errors.raise{kind = "argument", message = where .. ": 'raw_body' must be the bytes as they came, got a table",
      hint = "the signature is of the bytes; give the body before anything decodes it"}
  end
  errors.expect(where, "raw_body", raw_body, "string")
  errors.expect(where, "secret", secret, "string")
  if secret == "" then errors.raise{kind = "argument", message = where .. ": 'secret' is empty"} end
end

-- -------------------------------------------------------------------------------------------------------- headers

local SIGNATURE_A, TIMESTAMP_A = "mr-signature", "mr-timestamp"
local SIGNATURE, TIMESTAMP = "x-modelriver-signature", "x-modelriver-timestamp"
local CALLBACK_URL, CHANNEL_ID = "x-modelriver-callback-url", "mr-channel-id"

local WANTED = {[SIGNATURE_A] = true, [TIMESTAMP_A] = true, [SIGNATURE] = true, [TIMESTAMP] = true,
  [CALLBACK_URL] = true, [CHANNEL_ID] = true}

-- No header of ours is longer, and to cut the blanks off a long one could take quadratic time.
local LONGEST = 4096

local function keep(found, name, value)
  if type(name) ~= "string" then return end
  name = name:lower():gsub("_", "-")
  if not WANTED[name] then return end
  if type(value) == "table" then value = value[1] end
  if type(value) ~= "string" or #value > LONGEST then return end
  value = value:match("^%s*(.-)%s*$")
  if found[name] and found[name] ~= value then
    wrong(("the header %s came twice, with two values"):format(name), "a proxy on the way may have added one")
  end
  found[name] = value
end

-- The headers that matter by lower-case name, from a table of names in any case, whose values may be lists, or from a
-- list of {name, value} or of "Name: value".
local function read_headers(where, headers)
  if headers == nil then headers = {} end
  errors.expect(where, "headers", headers, "table")
  local found = {}
  for key, value in pairs(headers) do
    if type(key) == "number" and type(value) == "string" then
      key, value = value:match("^([^:%s]+):(.*)$")
    elseif type(key) == "number" and type(value) == "table" then
      key, value = value[1] or value.name, value[2] or value.value
    end
    keep(found, key, value)
  end
  return found
end

-- ------------------------------------------------------------------------------------------------------ signatures

local function mac(secret, input) return digest.hex(digest.hmac_sha256(secret, input)) end

-- What is signed under a scheme; nil: B, when the body has no data.
local function input_of(scheme, raw_body, timestamp)
  if scheme == "A" then return raw_body end
  if scheme == "C" then return timestamp .. "." .. raw_body end
  local data = members.find(raw_body, "data")
  return data and timestamp .. "." .. data
end

local function check_signature_text(header, given)
  if #given ~= DIGITS then
    wrong(("the header %s holds %d characters, not the %d of a signature"):format(header, #given, DIGITS),
      "nothing may be added to it or cut off, a prefix such as sha256= included")
  end
  if given:find("%X") then
    wrong(("the header %s is not hexadecimal"):format(header), "a signature consists of the digits 0-9 and a-f")
  end
  return given:lower()
end

local function check_time(stamp, now, tolerance)
  local time = #stamp <= 15 and stamp:find("^%d+$") and tonumber(stamp)
  if not time then wrong("the timestamp is no Unix time in seconds") end
  local age = now - time
  if math.abs(age) <= tolerance then return end
  wrong(("the webhook is %s: by %.0f s more than the %g s that are allowed"):format(
    age > 0 and "too old" or "from the future", math.abs(age) - tolerance, tolerance),
    age > 0 and "a webhook that waited must be sent again by ModelRiver; or raise 'tolerance'"
      or "the clock of this machine may be wrong; or raise 'tolerance'")
end

-- The headers that the scheme uses, and the schemes to try.
local function choose(found, scheme)
  if scheme == "A" or not scheme and found[SIGNATURE_A] then
    return found[SIGNATURE_A] or found[SIGNATURE], nil, {"A"}, SIGNATURE_A
  end
  local signature = found[SIGNATURE] or scheme and found[SIGNATURE_A]
  return signature, found[TIMESTAMP] or found[TIMESTAMP_A], scheme and {scheme} or {"B", "C"}, SIGNATURE
end

local function verify_signature(found, raw_body, secret, options)
  local given, stamp, schemes, header = choose(found, options.scheme)
  if not given then
    wrong("there is no signature: neither mr-signature nor X-ModelRiver-Signature",
      "the request may not be from ModelRiver; or a proxy drops headers it does not know")
  end
  given = check_signature_text(header, given)
  if schemes[1] ~= "A" and not stamp then
    wrong("the header X-ModelRiver-Timestamp is missing", "the signature is of the time and the body")
  end
  -- all are calculated, so that the time tells nothing about which one would have been right
  local right
  for _, scheme in ipairs(schemes) do
    local input = input_of(scheme, raw_body, stamp)
    local same = input and digest.equal(mac(secret, input), given)
    right = right or same and scheme
  end
  if not right then
    wrong("the signature is wrong", "check the secret, and that 'raw_body' is the body byte for byte as it came")
  end
  if right ~= "A" then check_time(stamp, options.now or os.time(), options.tolerance or 300) end
  return right
end

-- ---------------------------------------------------------------------------------------------------------- events

---@class modelriver.WebhookEvent
---@field type string|nil "task.completed", "task.ai_generated" …
---@field event string|nil the name of an event-driven workflow's event
---@field channel_id string|nil
---@field status string|nil
---@field workflow string|nil
---@field data any
---@field ai_response table|nil what an event-driven workflow's model gave
---@field customer_data table
---@field meta modelriver.Meta
---@field callback_url string|nil where the answer is wanted
---@field callback_required boolean
---@field task_id string|nil
---@field timestamp any
---@field scheme "A"|"B"|"C" how it was signed
---@field dedupe_key string "<channel_id>:<type>": a webhook may come more than once
---@field raw table the decoded body

local INSIDE = {type = true, event = true, channel_id = true, status = true, workflow = true, ai_response = true,
  customer_data = true, callback_url = true, callback_required = true, task_id = true, timestamp = true, meta = true}

-- Whether `data` is an envelope of its own and not the answer.
local function is_envelope(data)
  return type(data) == "table" and (data.callback_url ~= nil or data.ai_response ~= nil or data.event ~= nil)
end

local function event_of(body, found, scheme)
  local inner = type(body.data) == "table" and body.data or {}
  local function look(name)
    local value = body[name]
    if value == nil and INSIDE[name] then value = inner[name] end
    return value
  end
  local event = {scheme = scheme, raw = body, data = body.data}
  for name in pairs(INSIDE) do event[name] = look(name) end
  if is_envelope(body.data) and body.data.data ~= nil then event.data = body.data.data end
  local customer_data = event.customer_data
  if customer_data == nil then customer_data = look("cached_data") end
  event.customer_data = type(customer_data) == "table" and customer_data or {}
  event.channel_id = event.channel_id or found[CHANNEL_ID]
  event.callback_url = event.callback_url or found[CALLBACK_URL]
  event.callback_required = event.callback_required == true
    or event.callback_required == nil and event.callback_url ~= nil
  event.meta = meta.normal(type(event.meta) == "table" and event.meta or nil)
  if event.workflow == nil then event.workflow = event.meta.workflow end
  event.dedupe_key = tostring(event.channel_id) .. ":" .. tostring(event.type)
  return event
end

--- Checks the signature of a webhook and reads it.
---@param headers table the request's: by name in any case, values may be lists; or a list of {name, value}
---@param raw_body string the bytes as they came
---@param secret string the webhook's secret
---@param options {scheme: "A"|"B"|"C"|nil, tolerance: number|nil, now: number|nil}|nil `scheme`: no other one will do;
--- `tolerance`: seconds that a signed time may be off, 300; `now`: Unix time, the system's
---@return modelriver.WebhookEvent
---Raises kind="signature" when it cannot be trusted, kind="argument" for misuse, kind="protocol" when what was signed
---is no JSON object.
function webhook.verify(headers, raw_body, secret, options)
  local where = "modelriver.webhook.verify"
  check_arguments(where, raw_body, secret)
  check_options(where, options or {}, VERIFY_OPTIONS)
  local found = read_headers(where, headers)
  local scheme = verify_signature(found, raw_body, secret, options or {})
  local ok, body = pcall(decode, raw_body)
  if not ok or type(body) ~= "table" or json.is_array(body) then
    errors.raise{kind = "protocol", message = "the webhook is signed, but its body is no JSON object",
      body = raw_body:sub(1, 4096)}
  end
  return event_of(body, found, scheme)
end

--- Signs a webhook: for stand-ins of ModelRiver, and for tests of receivers.
---@param raw_body string
---@param secret string
---@param options {scheme: "A"|"B"|"C"|nil, timestamp: number|nil}|nil `scheme`: "A"; `timestamp`: Unix time, now
---@return table<string, string> headers with lower-case names
function webhook.sign(raw_body, secret, options)
  local where = "modelriver.webhook.sign"
  options = options or {}
  check_arguments(where, raw_body, secret)
  check_options(where, options, SIGN_OPTIONS)
  local timestamp = ("%d"):format(math.floor(options.timestamp or os.time()))
  local scheme = options.scheme or "A"
  -- without data there is nothing for B to sign, and those who send it sign the body
  local input = input_of(scheme, raw_body, timestamp) or input_of("C", raw_body, timestamp)
  local signature = mac(secret, input)
  if scheme == "A" then return {[SIGNATURE_A] = signature, [TIMESTAMP_A] = timestamp} end
  return {[SIGNATURE] = signature, [TIMESTAMP] = timestamp}
end

return webhook
