--- Chat completions of a base model, a checkpoint or a model in training, with the body of OpenAI's API.
-- (ChatCompleteFromBase, ChatCompleteFromCheckpoint, ChatCompleteFromTraining)

local clock = require "riverlua.clock"
local errors = require "riverlua.errors"
local failure = require "training.failure"
local future = require "training.future"
local json = require "riverlua.json"

local chat = {}

local encode = json.encoder{sort = true}
local decode = json.decoder{drop_null = true, max_depth = 128}

---@class training.ChatCompleteResult
---@field response_json string the body as the service gave it
---@field status_code integer HTTP status of the backend; 200 when all is well
---@field usage table|nil
local ChatCompleteResult = {}
ChatCompleteResult.__index = ChatCompleteResult
ChatCompleteResult.__name = "training.ChatCompleteResult"

--- The body as a table. Raises kind "json" when it is none.
---@return table
function ChatCompleteResult:json()
  if not self.decoded then self.decoded = decode(self.response_json) end
  return self.decoded
end

--- The text of the first choice; nil when there is none.
---@return string|nil
function ChatCompleteResult:text()
  local body = self:json()
  local choice = type(body) == "table" and type(body.choices) == "table" and body.choices[1]
  local message = type(choice) == "table" and choice.message
  return type(message) == "table" and type(message.content) == "string" and message.content or nil
end

errors.want_colon(ChatCompleteResult, "result")

local OWN = {messages = true, base_model = true, checkpoint_path = true, model_id = true, timeout = true,
  poll_interval = true}

-- The most that a completion may use, as far as the request tells; see training.session_meter.
local function most_of(body, text)
  local longest = math.tointeger(body.max_completion_tokens or body.max_tokens) or 0
  return {prompt_tokens = #text // 3 + 1, completion_tokens = math.max(0, longest * (math.tointeger(body.n) or 1))}
end

--- Completes a chat.
---@param context table client or session
---@param what string
---@param given table options: `messages`, `timeout`, and any field of the API
---@param target {method: string, name: string, fields: table, model_id: string|nil, model: table|nil}
---@return training.ChatCompleteResult
function chat.complete(context, what, given, target)
  local body = {model = target.name, messages = given.messages}
  if type(given.messages) ~= "table" or #given.messages == 0 then
    errors.raise{kind = "argument", message = what .. ": messages must be a list, not empty",
      hint = "{{role = \"user\", content = \"…\"}}"}
  end
  if given.stream then
    errors.raise{kind = "argument", message = what .. ": the service does not stream here",
      hint = "a deployment does: see client:create_deployment and deployment:openai()"}
  end
  for name, value in pairs(given) do
    if not OWN[name] then body[name] = value end
  end
  local request = {request_json = encode(body)}
  for name, value in pairs(target.fields) do request[name] = value end
  local timeout = context:timeout_of(what, given.timeout)
  future.check_interval(what, given.poll_interval)
  local about = target.model or {base_model = target.name}
  local release = context:reserve(about, most_of(body, request.request_json))
  local request_id = context:submit(what, target.method, request,
    {safe = true, deadline = clock.now() + timeout, release = release})
  return future.new{context = context, what = what, request_id = request_id, model_id = target.model_id,
    field = "chat_complete", timeout = timeout, poll_interval = given.poll_interval,
    on_failure = function() release() end, parse = function(reply)
      release()
      context:count_usage(about, reply.usage)
      return setmetatable({response_json = reply.response_json, status_code = reply.status_code, usage = reply.usage},
        ChatCompleteResult)
    end}:result()
end

--- Brings `chat_complete(messages, {…})` and `chat_complete{messages = …}` to one table.
function chat.arguments(what, given, more)
  local options = {}
  errors.expect(what, "messages", given, "table")
  local is_options = given.messages ~= nil
  for name, value in pairs(is_options and given or errors.expect(what, "options", more or {}, "table")) do
    options[name] = value
  end
  if not is_options then
    if given[1] ~= nil then failure.plain_list(what, given, "messages") end
    options.messages = given
  end
  return options
end

return chat
