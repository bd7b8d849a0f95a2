--- The errors of the training client: what a gRPC status or a failed operation means for the run, in one form.
--
-- Kinds: "argument" (the call), "auth" (UNAUTHENTICATED), "permission", "not_found", "invalid_request"
-- (INVALID_ARGUMENT), "precondition" (FAILED_PRECONDITION: not in this state, such as another policy than expected),
-- "capacity" (RESOURCE_EXHAUSTED), "unavailable", "timeout" (DEADLINE_EXCEEDED, or an operation that did not end in
-- time), "unsupported" (UNIMPLEMENTED), "grpc" (other statuses), "failed" (an operation that the service had accepted
-- failed), "auto_checkpoint_failed" (the same, while saving by itself), "session_lost", "protocol" (not what the API
-- promises), "budget", "closed".
--
-- Beside the fields of riverlua.Error: `status` is the number and `code` the name of the gRPC status, `error_code` the
-- service's own ("IMAGE_EXPIRED"), `image_id`, `details` (the service's own text; of a failed operation a table),
-- `request_id` of the operation, `method` (the RPC), `attempts`, `sent` (false: the service cannot have acted on it),
-- and `checkpoint`: the last one of the session, to go on from.

local errors = require "riverlua.errors"

local failure = {}

local LONGEST_TEXT = 1000
local SHORTEST_SECRET = 6

-- Code → kind, and what it means.
local CODES = {
  UNAUTHENTICATED = {"auth", "the API key is not accepted"},
  PERMISSION_DENIED = {"permission", "the key may not do this"},
  NOT_FOUND = {"not_found", "the service knows nothing by this name"},
  ALREADY_EXISTS = {"precondition", "it exists already"},
  INVALID_ARGUMENT = {"invalid_request", "the service refuses the request"},
  OUT_OF_RANGE = {"invalid_request", "the service refuses the request"},
  FAILED_PRECONDITION = {"precondition", "not possible in this state"},
  ABORTED = {"grpc", "the service gave it up"},
  RESOURCE_EXHAUSTED = {"capacity", "the service has no room for it"},
  UNAVAILABLE = {"unavailable", "the service cannot be reached"},
  DEADLINE_EXCEEDED = {"timeout", "no answer in time"},
  UNIMPLEMENTED = {"unsupported", "the service does not offer this"},
  CANCELLED = {"grpc", "the service cancelled it"},
  INTERNAL = {"grpc", "the service has an internal error"},
  DATA_LOSS = {"grpc", "the service lost data"},
  UNKNOWN = {"grpc", "the service failed without saying why"},
}

local HINTS = {
  auth = "check the API key: RIVER_API_KEY or the option api_key; it may have expired or been revoked",
  permission = "the key belongs to somebody who may not use this model or checkpoint",
  unavailable = "check endpoint, port and use_ssl, and that the service is up",
  unsupported = "this endpoint may be older than the call, or a small one: see client:get_server_capabilities()",
  capacity = "wait, ask for less at once, or see session:capacity_status()",
}

-- CANCELLED: by a server that goes away, as nobody else does.
local RETRYABLE = {UNAVAILABLE = true, DEADLINE_EXCEEDED = true, ABORTED = true, RESOURCE_EXHAUSTED = true,
  CANCELLED = true}

--- A function that takes the key out of texts.
---@param key string|nil
---@return fun(text: string): string
function failure.scrubber(key)
  local pattern = key and #key >= SHORTEST_SECRET and key:gsub("%p", "%%%0") or nil
  return function(text) return pattern and (text:gsub(pattern, "***")) or text end
end

local function one_line(scrub, text)
  text = scrub(text):gsub("[%s%c]+", " "):match("^ ?(.-) ?$")
  if #text <= LONGEST_TEXT then return text end
  local size = LONGEST_TEXT
  while size > 0 and text:byte(size + 1) & 0xC0 == 0x80 do size = size - 1 end
  return text:sub(1, size) .. "…"
end

failure.one_line = one_line

--- Raises kind "argument" when a list has fields with names too, which would be left out: options in the wrong place.
---@param what string
---@param list table
---@param name string of the list among the options
function failure.plain_list(what, list, name)
  for key in pairs(list) do
    if type(key) == "string" then
      errors.raise{kind = "argument", message = ("%s: there is an option among the %s: '%s'"):format(what, name, key),
        hint = ("%s{%s = {…}, %s = …}"):format(what, name, key)}
    end
  end
end

--- Raises kind "argument" when elements of a list are missing, behind which nothing would be looked at.
---@param what string
---@param list table
---@param name string of the list among the options
function failure.whole_list(what, list, name)
  local count, last = 0, 0
  for key in next, list do
    if math.type(key) == "integer" and key > 0 then count, last = count + 1, math.max(last, key) end
  end
  if count == last then return end
  for i = 1, last do
    if rawget(list, i) == nil then
      errors.raise{kind = "argument", message = ("%s: %s[%d] is missing"):format(what, name, i),
        hint = "a list has no holes: leave out what is not wanted"}
    end
  end
end

local function same(text) return text end

-- A copy of what the service said about a failure, without the key.
local function scrubbed(scrub, value)
  if type(value) == "string" then return scrub(value) end
  if type(value) ~= "table" then return value end
  local copy = {}
  for name, item in pairs(value) do copy[scrubbed(scrub, name)] = scrubbed(scrub, item) end
  return copy
end

---@class training.Call What an error has to know about where it comes from.
---@field what string the method as the user wrote it: "optim_step"
---@field request_id string|nil
---@field scrub (fun(text: string): string)|nil
---@field checkpoint string|nil path of the session's last checkpoint

local function hint_of(err, call, cause)
  if err.error_code == "IMAGE_EXPIRED" then return "upload the image again: session:restore_image(image)" end
  local hint = cause and cause.hint or HINTS[err.kind]
  if err.kind == "timeout" and err.sent == false then hint = HINTS.unavailable end   -- there was no connection
  if err.request_id and (err.kind == "timeout" or err.kind == "unavailable") then
    hint = ("the operation may still end: its request id is %s"):format(err.request_id)
  end
  if err.kind == "session_lost" then
    hint = call.checkpoint and ("its models are gone; make a new session and go on from %s"):format(call.checkpoint)
      or "its models are gone; make a new session, and save weights now and then"
  end
  return hint
end

--- The error for a failed RPC.
---@param call training.Call
---@param cause table an error of kind "grpc", see riverlua.grpc
---@return riverlua.Error
function failure.from_grpc(call, cause)
  local known = CODES[cause.code] or CODES.UNKNOWN
  local trailers, scrub = cause.trailers or {}, call.scrub or same
  local details = tostring(cause.details or "")
  if details == "" and cause.message then details = cause.message:match(": [%u_]+: (.*)$") or "" end
  details = one_line(scrub, details)
  local err = {
    kind = known[1], status = cause.status, code = cause.code, details = details, method = cause.method,
    error_code = scrubbed(scrub, trailers["river-error-code"]),
    image_id = scrubbed(scrub, trailers["river-image-id"]),
    request_id = call.request_id,
    attempts = cause.attempts, sent = cause.sent,
    retryable = (RETRYABLE[cause.code] or false) and (cause.code ~= "UNAVAILABLE" or cause.retryable ~= false),
    checkpoint = call.checkpoint,
    message = ("%s: %s [%s]%s"):format(call.what, known[2], cause.code, details ~= "" and " - " .. details or ""),
  }
  if (cause.attempts or 1) > 1 then err.message = ("%s (tried %d times)"):format(err.message, cause.attempts) end
  err.hint = hint_of(err, call, cause)
  return errors.new(err)
end

--- The error for an operation that was accepted and failed.
---@param call training.Call
---@param failed table RequestFailedResponse
---@param details table|nil its details as ordinary values
---@return riverlua.Error
function failure.from_failed(call, failed, details)
  local scrub = call.scrub or same
  local category = failed.error_category ~= "" and one_line(scrub, failed.error_category) or "failed"
  local text = one_line(scrub, failed.message)
  local hint = category == "auto_checkpoint_failed"
    and "the weights are as they were: see model:latest_auto_checkpoint()" or nil
  return errors.new{
    kind = category == "auto_checkpoint_failed" and category or "failed", code = category,
    details = scrubbed(scrub, details), request_id = call.request_id,
    retryable = false, checkpoint = call.checkpoint, hint = hint,
    message = ("%s: the service failed: %s%s"):format(call.what, category, text ~= "" and ": " .. text or ""),
  }
end

--- The error for an operation that did not end in time.
---@param call training.Call
---@param seconds number
---@return riverlua.Error
function failure.timed_out(call, seconds)
  return errors.new{
    kind = "timeout", phase = "total", limit = seconds, request_id = call.request_id, retryable = true,
    checkpoint = call.checkpoint, message = ("%s: not done after %.4g s"):format(call.what, seconds),
    hint = call.request_id
      and ("it goes on there (request id %s): :result() can be called again"):format(call.request_id) or nil,
  }
end

--- The error for something that the API does not promise.
---@param call training.Call
---@param text string
---@return riverlua.Error
function failure.protocol(call, text)
  return errors.new{kind = "protocol", request_id = call.request_id, checkpoint = call.checkpoint,
    message = ("%s: %s"):format(call.what, text)}
end

--- Turns the heartbeat's report of a lost session into an error that says where to go on.
---@param call training.Call
---@param cause table an error of kind "session_lost"
---@return riverlua.Error
function failure.session_lost(call, cause)
  local err = {}
  for name, value in pairs(cause) do err[name] = value end
  err.checkpoint, err.request_id = call.checkpoint, call.request_id
  err.message = ("%s: %s"):format(call.what, cause.message)
  err.hint = hint_of(err, call)
  return errors.new(err)
end

return failure
