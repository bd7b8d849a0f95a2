--- The backend's answer in an event-driven workflow: `client:callback(event, data)`.

local ask = require "modelriver.ask"
local errors = require "riverlua.errors"
local json = require "riverlua.json"

local callback = {methods = {}}

local OPTIONS = {task_id = "string|nil", metadata = "table|nil", timeout = true, retries = true}
local ERROR_OPTIONS = {timeout = true, retries = true}

local function check_options(what, options, known)
  errors.expect(what, "options", options, "table")
  errors.check_options(what, options, known)
  for name, wanted in pairs(known) do
    if wanted ~= true then errors.expect(what, name, options[name], wanted) end
  end
end

-- The address out of a verified webhook, or the text itself.
local function address_of(what, target)
  local address, channel = target, nil
  if type(target) == "table" then address, channel = target.callback_url, target.channel_id end
  if type(address) ~= "string" or address == "" then
    errors.raise{kind = "argument", message = what .. ": there is no callback_url",
      hint = type(target) == "table" and "the webhook does not ask for a callback"
        or "give the webhook's callback_url, or the event that modelriver.webhook.verify returned"}
  end
  if not address:find("^https?://") and not address:find("^embedded:") then
    errors.raise{kind = "argument", message = what .. ": the callback_url is not an http or https address"}
  end
  return address, channel or address:match("/callback/([^/?#]+)")
end

local function post(self, what, target, body, options)
  local address, channel = address_of(what, target)
  local call = self.gateway:call_to(address)
  call.what, call.body, call.policy, call.channel_id = what, body, "callback", channel
  call.timeout, call.retries = options.timeout, options.retries
  local ok, answer = pcall(ask.object, self.gateway, call)
  if ok then return answer end
  if errors.is(answer) and answer.status == 409 and answer.tries > 1 then
    answer.hint = "it was sent more than once: an earlier try may have arrived"
  end
  error(answer, 0)
end

--- Answers an event-driven workflow, within five minutes of its webhook. (POST to the webhook's callback_url)
---
--- The API key goes along only when the address is the API's own host.
---@param target string|modelriver.WebhookEvent callback_url, or what modelriver.webhook.verify returned
---@param data table the object that listeners get
---@param options { task_id: string|nil, metadata: table|nil, timeout: number|table|nil, retries: integer|nil }|nil
---@return table # what the service says
function callback.methods.callback(self, target, data, options)
  options = options or {}
  check_options("callback", options, OPTIONS)
  errors.expect("callback", "data", data, "table")
  if json.is_array(data) or #data > 0 then
    errors.raise{kind = "argument", message = "callback: 'data' must be an object, not a list",
      hint = "put the list under a name: {items = …}"}
  end
  return post(self, "callback", target, {data = data, task_id = options.task_id, metadata = options.metadata}, options)
end

--- Tells an event-driven workflow that its task failed.
---@param target string|modelriver.WebhookEvent
---@param code string short, such as "no_stock"
---@param message string|nil
---@param options { timeout: number|table|nil, retries: integer|nil }|nil
---@return table # what the service says
function callback.methods.callback_error(self, target, code, message, options)
  options = options or {}
  check_options("callback_error", options, ERROR_OPTIONS)
  errors.expect("callback_error", "code", code, "string")
  errors.expect("callback_error", "message", message, "string|nil")
  return post(self, "callback_error", target, {error = code, message = message or code}, options)
end

return callback
