--- The body of a request: what the user wrote, passed on untouched, but for what is certainly wrong.

local errors = require "riverlua.errors"
local json = require "riverlua.json"

local request = {}

-- The fields that the API knows; any other may be a cache field of the user's workflow.
local FIELDS = {}
for name in ([[workflow provider model messages temperature max_tokens top_p stream format response_format
  structured_output_schema tools tool_choice inputs metadata context delivery_method webhook_url events prompt size
  quality n user input stop seed presence_penalty frequency_penalty logprobs top_logprobs parallel_tool_calls
  max_completion_tokens stream_options user_id task_id]]):gmatch("%S+") do FIELDS[name] = true end

-- How a call is made; never sent.
local OPTIONS = {timeout = true, retries = true, headers = true, idempotency_key = true, extra = true}

local ROLES = {system = true, user = true, assistant = true, tool = true, developer = true, ["function"] = true}
local FORMATS = {raw = true, wrapped = true}

local function fail(what, message, hint)
  errors.raise{kind = "argument", message = what .. ": " .. message, hint = hint}
end

-- "a number", "nothing".
local function kind_of(value) return value == nil and "nothing" or errors.with_article(type(value)) end

-- A field's value of one of the wanted types; nil when there is none. Whoever writes json.null means it: it is sent.
local function value_of(what, body, name, wanted)
  local value = body[name]
  if value == nil or value == json.null then return nil end
  return errors.expect(what, name, value, wanted)
end

local function check_number(what, body, name, least, most)
  local value = value_of(what, body, name, "number")
  if value and not (value >= least and value <= most) then
    fail(what, ("'%s' must be between %g and %g, got %s"):format(name, least, most,
      value ~= value and "NaN" or ("%g"):format(value)))
  end
end

local function check_count(what, body, name)
  local value = value_of(what, body, name, "number")
  if not value then return end
  local count = math.tointeger(value)
  if not count then fail(what, ("'%s' must be an integer, got %g"):format(name, value)) end
  if count < 1 then fail(what, ("'%s' must be at least 1, got %d"):format(name, count)) end
  body[name] = count
end

local function check_text(what, body, name)
  local value = value_of(what, body, name, "string")
  if value == "" then fail(what, ("'%s' is empty"):format(name)) end
end

-- A list has nothing under keys of another kind.
local function check_list(what, name, list)
  local count = #list
  for key in pairs(list) do
    if math.type(key) ~= "integer" or key < 1 or key > count then
      fail(what, ("'%s' must be a list without holes, and has the key '%s'"):format(name, tostring(key)))
    end
  end
end

-- What an assistant's message may have in the place of content.
local IN_PLACE_OF_CONTENT = {"tool_calls", "function_call", "refusal", "audio"}

local function check_content(what, place, message)
  local content, role = message.content, message.role
  local kind = type(content)
  if content == nil and role ~= "assistant" then
    fail(what, ("%s (%s) has no content"):format(place, role))
  elseif content == nil then
    for _, name in ipairs(IN_PLACE_OF_CONTENT) do
      if message[name] ~= nil then return end
    end
    fail(what, ("%s (assistant) has neither content nor tool_calls"):format(place))
  elseif content ~= json.null and kind ~= "string" and kind ~= "table" then
    fail(what, ("%s: content must be a text or a list of parts, got %s"):format(place, kind_of(content)))
  elseif kind == "table" and content.type ~= nil then
    fail(what, ("%s: content must be a list of parts, got one part"):format(place), "put it into braces: {{…}}")
  end
end

local function check_message(what, index, message)
  local place = ("messages[%d]"):format(index)
  if type(message) ~= "table" then
    fail(what, ("%s must be a table {role =, content =}, got %s"):format(place,
      kind_of(message)),
      type(message) == "string" and "modelriver.user(text) makes a message of the user's" or nil)
  end
  local role = message.role
  if type(role) ~= "string" or role == "" then
    fail(what, ("%s has no role"):format(place), "roles: system, user, assistant, tool")
  end
  if not ROLES[role] then
    local near = errors.suggest(role, ROLES)
    if near then fail(what, ("%s: there is no role '%s'"):format(place, role), ("did you mean '%s'?"):format(near)) end
  end
  check_content(what, place, message)
end

local function check_messages(what, messages)
  if messages == nil or messages == json.null then return end
  if type(messages) ~= "table" then
    fail(what, "'messages' must be a list of messages, got " .. kind_of(messages),
      type(messages) == "string" and "write messages = {modelriver.user(text)}" or nil)
  end
  if messages.role then fail(what, "'messages' must be a list of messages, got one", "put it into braces: {{…}}") end
  if next(messages) == nil then fail(what, "'messages' is empty") end
  check_list(what, "messages", messages)
  for i = 1, #messages do check_message(what, i, messages[i]) end
end

local function check_tool(what, index, tool)
  if type(tool) ~= "table" then
    fail(what, ("tools[%d] must be a table {type = \"function\", [\"function\"] = {…}}, got %s"):format(index,
      kind_of(tool)))
  end
  local described = tool["function"]
  if described == nil then return end   -- a tool of the provider's own
  if type(described) ~= "table" then
    fail(what, ("tools[%d]: 'function' must be a table {name =, parameters =, …}, got %s"):format(index,
      kind_of(described)), type(described) == "function" and "Lua functions are for client:run" or nil)
  elseif type(described.name) ~= "string" or described.name == "" then
    fail(what, ("tools[%d]: the function has no name"):format(index))
  end
end

local function check_tools(what, body)
  local tools = value_of(what, body, "tools", "table")
  if not tools then return end
  if #tools == 0 and next(tools) ~= nil then
    fail(what, "'tools' must be a list of tool definitions", "tools with functions by name are for client:run")
  end
  check_list(what, "tools", tools)
  for i = 1, #tools do check_tool(what, i, tools[i]) end
end

local function check_events(what, body)
  local events = value_of(what, body, "events", "table")
  if not events then return end
  check_list(what, "events", events)
  for i, name in ipairs(events) do errors.expect(what, ("events[%d]"):format(i), name, "string") end
end

-- Options of some methods, in the hands of one that has no use for them. As fields they would be lost silently.
local ELSEWHERE = {schema = "structured_output_schema = … sends one; checking the answer against it is client:ai's",
  repair = "asking again for an answer that fits the schema is client:ai's"}
for _, name in ipairs{"max_rounds", "approve", "on_tool"} do ELSEWHERE[name] = "functions are called by client:run" end
for _, name in ipairs{"api_key", "base_url"} do ELSEWHERE[name] = "it is an option of modelriver.Client" end

local function check_other(what, name, options)
  if type(name) ~= "string" then
    fail(what, ("fields have names, got %s"):format(tostring(name)),
      name == 1 and ("write %s{workflow = \"name\", …} or %s(\"name\", \"text\")"):format(what, what) or nil)
  end
  local extra = ("a field of your own with that name goes into extra = {%s = …}"):format(name)
  local elsewhere = ELSEWHERE[name]
  if elsewhere then fail(what, ("there is no option '%s' here"):format(name), elsewhere .. "; " .. extra) end
  local near = errors.suggest(name, FIELDS) or errors.suggest(name, OPTIONS)
    or options and errors.suggest(name, options)
  -- "step" is a word of its own, not a slip of "stop"
  if near and #name > 2 and (#name > 4 or #name ~= #near) and math.abs(#name - #near) <= 2
    and not name:find("^" .. near .. "_") then
    fail(what, ("unknown field '%s'; did you mean '%s'?"):format(name, near), extra)
  end
end

--- Internal: raises kind "argument" for names that are a slip: any name may be a cache field of the workflow, but for
--- those that are nearly the API's own, and options of other calls.
---@param what string the method, for messages
---@param given table
---@param options table<string, any>|nil names of further options of the method
function request.check_names(what, given, options)
  for name in pairs(given) do
    if not FIELDS[name] and not OPTIONS[name] and not (options and options[name]) then
      check_other(what, name, options)
    end
  end
end

local function check_who(what, body)
  check_text(what, body, "workflow")
  check_text(what, body, "provider")
  check_text(what, body, "model")
  local provider, model = type(body.provider) == "string", type(body.model) == "string"
  if type(body.workflow) ~= "string" and not (provider and model) then
    fail(what, provider and "'model' is missing: a provider needs one"
      or model and "'workflow' is missing, or 'provider' beside the model" or "'workflow' is missing",
      "workflow = \"name\", or provider = \"openai\", model = \"gpt-4o-mini\"")
  end
end

--- Raises kind "argument" for what is certainly wrong with a chat request; changes whole floats to integers.
---@param what string the method, for messages
---@param body table
function request.check(what, body)
  check_messages(what, body.messages)
  check_tools(what, body)
  check_number(what, body, "temperature", 0, 2)
  check_number(what, body, "top_p", 0, 1)
  check_count(what, body, "max_tokens")
  check_count(what, body, "max_completion_tokens")
  check_count(what, body, "n")
  for _, name in ipairs{"response_format", "structured_output_schema"} do value_of(what, body, name, "table") end
  value_of(what, body, "tool_choice", "string|table")
  value_of(what, body, "stop", "string|table")
  if body.format ~= nil and body.format ~= json.null and not FORMATS[body.format] then
    fail(what, ("'format' must be \"raw\" or \"wrapped\", got %s"):format(tostring(body.format)))
  end
  value_of(what, body, "stream", "boolean")
  check_events(what, body)
  check_text(what, body, "webhook_url")
end

-- The headers of the call, with the one that lets the service know a request that it got twice.
local function headers_of(what, call)
  local headers = {}
  for name, value in pairs(call.headers == nil and {} or errors.expect(what, "headers", call.headers, "table")) do
    errors.expect(what, "a header's name", name, "string")
    headers[name] = errors.expect(what, ("headers[\"%s\"]"):format(name), value, "string|number")
  end
  local key = call.idempotency_key
  if key == nil or key == false then return next(headers) and headers or nil end
  if key == true then key = require("riverlua.digest").uuid() end
  errors.expect(what, "idempotency_key", key, "string|boolean")
  if key == "" or key:find("%c") then fail(what, "'idempotency_key' is empty or has control characters in it") end
  headers["Idempotency-Key"] = key
  return headers
end

--- Splits what the user wrote into the body to be sent and the options of the call. The user's table stays as it is.
---
--- `extra`: fields of any name for the body. `idempotency_key`: true (one is made) or a text, sent as a header.
---@param what string the method, for messages
---@param given table
---@param options table<string, any>|nil names of further options of the method
---@return table body
---@return table call the options
function request.split(what, given, options)
  errors.expect(what, "request", given, "table")
  request.check_names(what, given, options)
  local body, call = {}, {}
  for name, value in pairs(given) do
    if OPTIONS[name] or options and options[name] then call[name] = value else body[name] = value end
  end
  if call.extra ~= nil then
    for name, value in pairs(errors.expect(what, "extra", call.extra, "table")) do
      body[errors.expect(what, "a field's name in extra", name, "string")] = value
    end
  end
  call.headers = headers_of(what, call)
  return body, call
end

-- The request that `what("workflow", "text", {…})` stands for.
local function by_position(what, workflow, text, more)
  local all = {workflow = workflow}
  for name, value in pairs(errors.expect(what, "options", more or {}, "table")) do all[name] = value end
  if more and more.workflow ~= nil then fail(what, "'workflow' is given twice") end
  if text == nil then return all end
  errors.expect(what, "text", text, "string|table")
  if type(text) == "table" and text[1] == nil then
    fail(what, "the second argument is the user's text (or a list of its parts), not a table of fields",
      ("write %s(\"%s\", text, {…}) or %s{workflow = \"%s\", …}"):format(what, workflow, what, workflow))
  end
  if all.messages ~= nil then
    fail(what, "the text and 'messages' are both given", "put the text into the messages: modelriver.user(text)")
  end
  all.messages = {{role = "user", content = text}}
  return all
end

--- The same for requests to a workflow (or a provider and model); also takes `what("workflow", "text", {…})`.
---@param what string
---@param given table|string
---@param text string|nil
---@param more table|nil
---@param options table<string, any>|nil
---@return table body
---@return table call
function request.read(what, given, text, more, options)
  errors.expect(what, "request", given, "table|string")
  if type(given) == "string" then
    given = by_position(what, given, text, more)
  elseif text ~= nil or more ~= nil then
    fail(what, "all goes into one table, and there is another argument behind it",
      ("options such as timeout stand beside the fields: %s{workflow =, messages =, timeout =}"):format(what))
  end
  local body, call = request.split(what, given, options)
  check_who(what, body)
  request.check(what, body)
  return body, call
end

return request
