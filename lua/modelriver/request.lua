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

-- Empty tables under these names are lists, wherever they stand; everywhere else they are objects.
local LISTS = {}
for name in ([[messages tools events stop tool_calls content required enum allOf anyOf oneOf prefixItems examples
  attempts parts]]):gmatch("%S+") do LISTS[name] = true end

-- A copy in which empty lists are marked as such, or the table itself when there is nothing to mark.
local function with_lists(value, name, depth)
  if next(value) == nil then
    return LISTS[name] and getmetatable(value) == nil and json.array{} or value
  end
  if depth > 64 then return value end   -- the encoder says what is wrong with it
  local copy
  for key, item in next, value do
    if type(item) == "table" then
      local marked = with_lists(item, key, depth + 1)
      if marked ~= item then
        if not copy then
          copy = setmetatable({}, getmetatable(value))
          for k, v in next, value do copy[k] = v end
        end
        copy[key] = marked
      end
    end
  end
  return copy or value
end

local function fail(what, message, hint)
  errors.raise{kind = "argument", message = what .. ": " .. message, hint = hint}
end

local function check_number(what, body, name, least, most)
  local value = body[name]
  if value == nil then return end
  errors.expect(what, name, value, "number")
  if not (value >= least and value <= most) then
    fail(what, ("'%s' must be between %g and %g, got %g"):format(name, least, most, value))
  end
end

local function check_count(what, body, name)
  local value = body[name]
  if value == nil then return end
  if math.type(value) == "float" and math.tointeger(value) then
    body[name] = math.tointeger(value)
  elseif math.type(value) ~= "integer" then
    errors.expect(what, name, value, "integer")
  end
  if body[name] < 1 then fail(what, ("'%s' must be at least 1, got %d"):format(name, body[name])) end
end

local function check_text(what, body, name)
  local value = body[name]
  if value == nil then return end
  errors.expect(what, name, value, "string")
  if value == "" then fail(what, ("'%s' is empty"):format(name)) end
end

local function check_message(what, index, message)
  local place = ("messages[%d]"):format(index)
  if type(message) ~= "table" then
    fail(what, ("%s must be a table {role =, content =}, got %s"):format(place, errors.with_article(type(message))),
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
  local content = message.content
  local kind = type(content)
  if content == nil and role ~= "assistant" then
    fail(what, ("%s (%s) has no content"):format(place, role))
  elseif content ~= nil and content ~= json.null and kind ~= "string" and kind ~= "table" then
    fail(what, ("%s: content must be a text or a list of parts, got %s"):format(place, errors.with_article(kind)))
  end
end

local function check_messages(what, messages)
  if messages == nil then return end
  if type(messages) ~= "table" then
    fail(what, "'messages' must be a list of messages, got " .. errors.with_article(type(messages)),
      type(messages) == "string" and "write messages = {modelriver.user(text)}" or nil)
  end
  if messages.role then fail(what, "'messages' must be a list of messages, got one", "put it into braces: {{…}}") end
  local count = #messages
  if count == 0 then fail(what, "'messages' is empty") end
  for key in pairs(messages) do
    if math.type(key) ~= "integer" or key < 1 or key > count then
      fail(what, ("'messages' must be a list without holes, and has the key '%s'"):format(tostring(key)))
    end
  end
  for i = 1, count do check_message(what, i, messages[i]) end
end

local function check_tools(what, tools)
  if tools == nil then return end
  errors.expect(what, "tools", tools, "table")
  for i, tool in ipairs(tools) do
    local described = type(tool) == "table" and (tool["function"] or tool)
    if type(described) ~= "table" then
      fail(what, ("tools[%d] must be a table {type = \"function\", [\"function\"] = {name =, …}}"):format(i))
    end
  end
  if #tools == 0 and next(tools) ~= nil then
    fail(what, "'tools' must be a list of tool definitions", "tools with functions by name are for client:run")
  end
end

-- Any name may be a cache field of the workflow, but one that is nearly the API's own is a slip.
local function check_names(what, given, options)
  for name in pairs(given) do
    if not FIELDS[name] and not OPTIONS[name] and not (options and options[name]) then
      if type(name) ~= "string" then
        fail(what, ("fields have names, got %s"):format(tostring(name)))
      end
      local near = errors.suggest(name, FIELDS) or errors.suggest(name, OPTIONS)
        or options and errors.suggest(name, options)
      if near and #name > 2 and math.abs(#name - #near) <= 2 and not name:find("^" .. near .. "_") then
        fail(what, ("unknown field '%s'; did you mean '%s'?"):format(name, near),
          ("a field of your own with that name goes into extra = {%s = …}"):format(name))
      end
    end
  end
end

local function check_who(what, body)
  check_text(what, body, "workflow")
  check_text(what, body, "provider")
  check_text(what, body, "model")
  if body.workflow == nil and not (body.provider and body.model) then
    fail(what, body.provider and "'model' is missing: a provider needs one"
      or body.model and "'workflow' is missing, or 'provider' beside the model" or "'workflow' is missing",
      "workflow = \"name\", or provider = \"openai\", model = \"gpt-4o-mini\"")
  end
end

--- Raises kind "argument" for what is certainly wrong with a chat request; changes whole floats to integers.
---@param what string the method, for messages
---@param body table
function request.check(what, body)
  check_messages(what, body.messages)
  check_tools(what, body.tools)
  check_number(what, body, "temperature", 0, 2)
  check_number(what, body, "top_p", 0, 1)
  check_count(what, body, "max_tokens")
  check_count(what, body, "max_completion_tokens")
  check_count(what, body, "n")
  for _, name in ipairs{"response_format", "structured_output_schema"} do
    if body[name] ~= nil then errors.expect(what, name, body[name], "table") end
  end
  if body.tool_choice ~= nil then errors.expect(what, "tool_choice", body.tool_choice, "string|table") end
  if body.format ~= nil and not FORMATS[body.format] then
    fail(what, ("'format' must be \"raw\" or \"wrapped\", got %s"):format(tostring(body.format)))
  end
  if body.stream ~= nil then errors.expect(what, "stream", body.stream, "boolean") end
  if body.events ~= nil then
    errors.expect(what, "events", body.events, "table")
    for i, name in ipairs(body.events) do errors.expect(what, ("events[%d]"):format(i), name, "string") end
  end
  check_text(what, body, "webhook_url")
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
  check_names(what, given, options)
  local body, call = {}, {}
  for name, value in pairs(given) do
    if OPTIONS[name] or options and options[name] then call[name] = value else body[name] = value end
  end
  if call.extra ~= nil then
    for name, value in pairs(errors.expect(what, "extra", call.extra, "table")) do body[name] = value end
  end
  if call.headers ~= nil then errors.expect(what, "headers", call.headers, "table") end
  local key = call.idempotency_key
  if key ~= nil and key ~= false then
    local headers = {["Idempotency-Key"] = key == true and require("riverlua.digest").uuid()
      or errors.expect(what, "idempotency_key", key, "string|boolean")}
    for name, value in pairs(call.headers or {}) do headers[name] = value end
    call.headers = headers
  end
  return body, call
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
  if type(given) == "string" then
    local all = {workflow = given}
    if text ~= nil then
      all.messages = {{role = "user", content = errors.expect(what, "text", text, "string|table")}}
    end
    for name, value in pairs(errors.expect(what, "options", more or {}, "table")) do all[name] = value end
    given = all
  end
  local body, call = request.split(what, given, options)
  check_who(what, body)
  request.check(what, body)
  return with_lists(body, "", 1), call
end

request.with_lists = function(body) return with_lists(body, "", 1) end

return request
