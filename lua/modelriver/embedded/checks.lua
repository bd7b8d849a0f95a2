--- What is refused in a request before any workflow runs.

local answer = require "modelriver.embedded.answer"
local json = require "riverlua.json"

local checks = {}

--- Most bytes of a request's body.
checks.max_body = 4 * 1024 * 1024

local decode = json.decoder{drop_null = true}

local function invalid(message, param)
  return answer.refusal(400, "invalid_request_error", message, param)
end
checks.invalid = invalid

--- The key of a request: nil when it is good, else the refusal.
---@param options {api_key: string|nil, other_keys: table<string, true>}
---@param headers table by lower-case name
---@return table|nil refusal
function checks.key(options, headers)
  if not options.api_key then return nil end
  local given = headers.authorization
  local key = type(given) == "string" and given:match("^[Bb][Ee][Aa][Rr][Ee][Rr] +(.-) *$")
  if key and require("riverlua.digest").equal(key, options.api_key) then return nil end
  if key and options.other_keys[key] then
    return answer.refusal(403, "permission_denied", "This API key belongs to another project", nil, "permission_error")
  end
  return answer.refusal(401, "invalid_api_key", "Invalid API key provided", nil, "authentication_error")
end

--- The body of a request: its bytes and what they say, or nil, nil and the refusal.
---@param req table {body=, json=}
---@return string|nil
---@return table|nil
---@return table|nil refusal
function checks.body(req)
  local body = req.body
  if req.json ~= nil then body = json.encode(req.json) end
  if type(body) ~= "string" or body == "" then return nil, nil, invalid("The request has no body; send JSON") end
  if #body > checks.max_body then
    return nil, nil, answer.refusal(413, "request_too_large",
      ("The request is larger than %d bytes"):format(checks.max_body))
  end
  local ok, value = pcall(decode, body)
  if not ok then return nil, nil, invalid("The request is not JSON: " .. value.message) end
  if type(value) ~= "table" or json.is_array(value) then
    return nil, nil, invalid("The request must be a JSON object")
  end
  return body, value
end

local function number_in(request, name, low, high)
  local value = request[name]
  if value == nil then return nil end
  if type(value) ~= "number" or value < low or value > high then
    return invalid(("'%s' must be a number from %g to %g"):format(name, low, high), name)
  end
end

local TYPES = {stream = "boolean", structured_output_schema = "table", response_format = "table", tools = "table",
  workflow = "string", provider = "string", model = "string", webhook_url = "string", events = "table"}
local WORDS = {boolean = "true or false", table = "an object", string = "a string"}

local function messages(list)
  if type(list) ~= "table" or not json.is_array(list) then return invalid("'messages' must be an array", "messages") end
  if #list == 0 then return invalid("'messages' must not be empty", "messages") end
  for i, message in ipairs(list) do
    if type(message) ~= "table" or type(message.role) ~= "string" then
      return invalid(("messages[%d] must be an object with a role"):format(i - 1), "messages")
    end
  end
end

local INPUTS = {"prompt", "input", "inputs"}

--- The fields of a request to a workflow: nil when nothing is wrong, else the refusal.
---@param request table
---@return table|nil
function checks.fields(request)
  for name, wanted in pairs(TYPES) do
    local value = request[name]
    if value ~= nil and type(value) ~= wanted then
      local word = (name == "tools" or name == "events") and "an array" or WORDS[wanted]
      return invalid(("'%s' must be %s"):format(name, word), name)
    end
  end
  if request.format ~= nil and request.format ~= "raw" and request.format ~= "wrapped" then
    return invalid("'format' must be \"raw\" or \"wrapped\"", "format")
  end
  local problem = number_in(request, "temperature", 0, 2) or number_in(request, "top_p", 0, 1)
    or number_in(request, "max_tokens", 1, math.huge)
  if problem then return problem end
  if request.messages ~= nil then return messages(request.messages) end
  for _, name in ipairs(INPUTS) do
    if request[name] ~= nil then return nil end
  end
  return invalid("'messages' is missing", "messages")
end

return checks
