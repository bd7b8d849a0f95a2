--- Turns an answer with an error status into a structured error.
--
-- A River server has five kinds of error body (nothing, a JSON string, an object with `message` or `detail`, a page of
-- HTML, and with its debug mode on a text whose first two lines are the diagnosis), so the body decides, not the call.

local errors = require "riverlua.errors"
local exchange = require "riverlua.exchange"

local failure = {}

local REASONS = {
  [400] = "bad request", [401] = "not authenticated", [403] = "forbidden", [404] = "not found",
  [405] = "method not allowed", [406] = "not acceptable", [413] = "too large", [429] = "too many requests",
  [500] = "internal server error", [502] = "bad gateway", [503] = "service unavailable", [504] = "gateway timeout",
}
local RETRYABLE = {[429] = true, [502] = true, [503] = true, [504] = true}
local UPLOAD_LIMIT = 2621440

local function text_of_object(object)
  local first = type(object.errors) == "table" and object.errors[1]
  if type(first) == "table" then return first.message or first.detail, first.code end
  return object.message or object.detail, nil
end

-- What the body says: text and shape ("empty", "string", "object", "page", "text").
local function read_body(res)
  local body = res.body or ""
  local first = body:match("^%s*(.)")
  local content_type = res.headers and res.headers["content-type"] or ""
  if not first then return nil, "empty" end
  if first == '"' or first == "{" then
    local ok, value = pcall(res.json, res)
    if ok and type(value) == "string" then return value, "string" end
    if ok and type(value) == "table" then
      local text, code = text_of_object(value)
      local hint = type(value.hint) == "string" and value.hint or nil
      return text and tostring(text), "object", code, nil, hint
    end
  elseif first == "<" or content_type:find("html", 1, true) then
    return body:match("<title>%s*(.-)%s*</title>"), "page"
  end
  local line_1, line_2 = body:match("^([^\r\n]*)\r?\n?([^\r\n]*)")
  return line_1, "text", nil, line_2
end

-- "TypeError('…')" as the server prints an exception of the model: its class and its text.
local function split_exception(text)
  local class, inside = text:match("^([%a_][%w_.]*)%((.*)%)$")
  if not class or not class:find("^%u") then return nil end
  inside = inside:gsub(",$", "")
  local quote = inside:sub(1, 1)
  if (quote == "'" or quote == '"') and inside:sub(-1) == quote and #inside > 1 then
    inside = inside:sub(2, -2):gsub("\\(['\"\\])", "%1")
  end
  return class, inside
end

local function describe_upload_failure(err, call, text)
  local bytes = call.bytes and #call.bytes or 0
  if bytes > UPLOAD_LIMIT and (err.status == 400 or err.status == 413) then
    err.hint = ("the model has %d bytes; Django takes %d unless its setting DATA_UPLOAD_MAX_MEMORY_SIZE is raised")
      :format(bytes, UPLOAD_LIMIT)
  elseif call.model then
    local unknown = require("river.model").unknown_names(call.model)
    if #unknown > 0 and not (text or ""):find("did you mean", 1, true) then
      err.hint = "not known to this client: " .. table.concat(unknown, ", ")
    elseif err.status == 500 and err.kind == "http" then
      err.hint = "the server could not build the model: check the names of its classes and arguments " ..
        "against the version of river that client:info() tells"
    end
  elseif err.status == 500 and err.kind == "http" then
    err.hint = "the server could not load the pickle: it must be made by a similar version of river, without code " ..
      "of your own"
  end
end

local function describe_missing_model(err, call)
  err.kind = "not_found"
  err.hint = "client:models() lists the models there; client:upload_model(model, flavor, name) makes one"
  if not err.message and call.name then err.message = ("no model named '%s'"):format(call.name) end
end

-- In this order: where two texts occur, what the later one says counts.
local HINTS = {
  {"No model named", describe_missing_model},
  {"We don't have stats for", describe_missing_model},
  {"No information stored for ID", function(err)
    err.kind = "not_found"
    err.hint = "an identifier serves once, and only for predictions made by this server"
  end},
  {"is not recognized", function(err)
    err.hint = "flavors: regression, binary, multiclass, cluster, neighbor, custom"
  end},
  {"does not implement", function(err)
    err.hint = "the flavor does not fit the model, or the model's last step is missing"
  end},
}

local function apply_known_texts(err, text, call)
  for _, known in ipairs(HINTS) do
    if text:find(known[1], 1, true) then known[2](err, call) end
  end
end

-- `note`: what river.auth found out about a refusal, if it did.
local function describe_refusal(err, note, shape, text)
  err.kind = "auth"
  if note and note.code then
    err.code, err.hint = note.code, note.hint
    return note.message
  elseif err.status == 401 then
    err.hint = "this server wants a user and token"
  elseif note and note.worked and shape ~= "empty" then
    err.kind, err.code, err.retryable = "http", "rate_limit", true
    err.hint = "the same call was answered before: the server limits the rate of calls; wait for its period to pass"
  elseif text and text:find("Invalid username/password", 1, true) then
    err.code = "credentials_refused"
    err.hint = "user and token belong into the options of river.Client or into RIVER_ML_USER and RIVER_ML_TOKEN, " ..
      "not into the address or a header"
  else
    err.code = "forbidden"
    err.hint = "these credentials may not do this, or the server limits the rate of calls"
  end
end

local function describe_by_status(err, shape, call)
  local status = err.status
  if status == 404 and (shape == "page" or call.what == "info") then
    err.kind = "not_found"
    err.hint = ("no River API at %s: check the base address and the prefix"):format(call.root)
  elseif status == 404 and shape == "empty" then
    describe_missing_model(err, call)
  elseif status >= 300 and status < 400 then
    err.kind = "protocol"
    err.hint = "the server moved: use the address it redirects to"
  elseif status == 500 and call.what == "predict" and err.kind == "http" then
    err.hint = "the usual reason: the model has diverged and predicts NaN; scale the features, lower the learning rate"
  elseif status == 500 and call.what == "get_model_json" and err.kind == "http" then
    err.hint = "a model that holds functions (nearest neighbours, FuncTransformer) cannot be shown as JSON"
  elseif status == 400 and shape == "empty" and (call.what == "learn" or call.what == "predict") then
    err.hint = "the server could not read the request; it takes at most 2.5 MB in one"
  end
end

local MODEL_HINTS = {
  AttributeError = "the flavor may not fit the model; anomaly detectors need river.with_score_as_prediction(model)",
  TypeError = "check the types of the features, and whether this model takes a label",
}

local function names_model(text, name)
  return name == nil or text:find("'" .. name .. "'", 1, true) or text:find("model " .. name, 1, true)
end

--- Raises the error for an answer with status 300 or above.
---@param call {what: string, name: string|nil, root: string, model: table|nil, bytes: string|nil} what was tried
---@param req table the request
---@param res table the answer
function failure.raise(call, req, res)
  local text, shape, code, second_line, hint = read_body(res)
  local err = {
    kind = "http", status = res.status, code = code, method = req.method, url = call.base .. req.path,
    body = (res.body or ""):sub(1, 4096), retryable = RETRYABLE[res.status] or false, attempts = res.attempts,
    retry_after = exchange.parse_retry_after(res.headers and res.headers["retry-after"]),
  }
  if shape == "text" and second_line then
    local exception = text:match("^([%a_][%w_.]*) at /")
    if exception then
      err.kind, err.code = "model", exception
      text = second_line == "" and exception or exception .. ": " .. second_line
    end
  elseif shape == "string" and split_exception(text) then
    local class, inside = split_exception(text)
    err.kind, err.code, err.hint = "model", class, MODEL_HINTS[class]
    text = class .. ": " .. inside
  end
  if res.status == 401 or res.status == 403 then text = describe_refusal(err, res.auth, shape, text) or text
  else describe_by_status(err, shape, call) end
  if text then apply_known_texts(err, text, call) end
  if call.what == "upload_model" then describe_upload_failure(err, call, text) end
  err.hint = hint or err.hint
  local reason = REASONS[res.status] or "unexpected answer"
  text = text or err.message or reason
  if shape == "page" or shape == "empty" and text ~= reason then text = ("%s (status %d)"):format(text, res.status)
  elseif shape == "empty" then text = ("status %d, %s"):format(res.status, reason) end
  err.message = ("%s%s: %s"):format(call.what, names_model(text, call.name) and "" or (" '%s'"):format(call.name), text)
  errors.raise(err)
end

--- Raises the error for an answer that should be JSON and is not.
---@param call table as for `raise`
---@param req table
---@param res table
---@param cause any
function failure.raise_unreadable(call, req, res, cause)
  errors.raise{kind = "protocol", status = res.status, method = req.method, url = call.base .. req.path,
    body = (res.body or ""):sub(1, 4096), cause = cause,
    message = ("%s: the answer (status %d) is not the JSON of a River server"):format(call.what, res.status),
    hint = ("is %s the address of one?"):format(call.root)}
end

return failure
