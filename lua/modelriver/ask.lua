--- One question to a workflow, and its answer.

local failure = require "modelriver.failure"
local response = require "modelriver.response"
local stream = require "modelriver.stream"

local ask = {}

local AI = "/v1/ai"

-- What Gateway:post wants to know, from the options of a call.
local function call_of(what, path, body, options)
  local workflow = body.workflow
  -- the OpenAI-compatible endpoint has the workflow's name in this place
  if path ~= AI then workflow = body.model end
  return {what = what, path = path, body = body, workflow = type(workflow) == "string" and workflow or nil,
    model = body.model, timeout = options.timeout, retries = options.retries, headers = options.headers}
end

--- Sends a request whose answer comes in one piece.
---@param gateway modelriver.Gateway
---@param what string the method, for messages
---@param path string
---@param body table
---@param options table `timeout`, `retries`, `headers`
---@return modelriver.Response
function ask.whole(gateway, what, path, body, options)
  local call = call_of(what, path, body, options)
  local answer = gateway:post(call, function(res, tries) return response.read(call, res, tries, body) end)
  gateway.usage:add(call.workflow, answer.meta.model, answer.usage)
  return answer
end

--- The options of a call for one of its rounds: another request needs another idempotency key.
---@param options table
---@param round integer from 1
---@return table
function ask.round(options, round)
  if round == 1 or not options.headers then return options end
  local headers, again = {}, {}
  for name, value in pairs(options.headers) do
    headers[name] = name:lower() == "idempotency-key" and ("%s-%d"):format(value, round) or value
  end
  for name, value in pairs(options) do again[name] = value end
  again.headers = headers
  return again
end

--- Adds the tokens of one answer to a sum.
---@param sum modelriver.Usage
---@param tokens modelriver.Usage|nil
function ask.add_usage(sum, tokens)
  for name, count in pairs(tokens or {}) do sum[name] = (sum[name] or 0) + count end
end

--- Sends a request whose answer comes piece by piece.
---@param gateway modelriver.Gateway
---@param what string the method, for messages
---@param path string
---@param body table
---@param options table `timeout`, `retries`, `headers`
---@param raw boolean|nil hand out chunks as they came
---@return modelriver.Stream
function ask.streamed(gateway, what, path, body, options, raw)
  return stream.open(gateway, call_of(what, path, body, options), raw)
end

local function object_in(call, res, tries)
  if res.body == nil or res.body:find("^%s*$") then return {} end
  local ok, value = pcall(failure.decode, res.body)
  if ok and type(value) == "table" then return value end
  error(failure.unreadable(call, res.body, ok and "the answer is no JSON object"
    or failure.why_not_json(call, res.body, value), {res = res, tries = tries}), 0)
end

--- Sends a request that is answered with a JSON object, of whatever fields.
---@param gateway modelriver.Gateway
---@param call table as for Gateway:post
---@param check (fun(object: table, res: table, tries: integer))|nil raises what is wrong with it
---@return table
function ask.object(gateway, call, check)
  return (gateway:post(call, function(res, tries)
    local object = object_in(call, res, tries)
    if check then check(object, res, tries) end
    return object
  end))
end

return ask
