--- What a provider gave, in one shape: from what a workflow's function returned, or from the body of a server.

local client_response = require "modelriver.response"
local digest = require "riverlua.digest"
local failure = require "modelriver.embedded.failure"
local json = require "riverlua.json"
local meta = require "modelriver.meta"
local schemas = require "modelriver.embedded.schemas"
local texts = require "modelriver.embedded.text"

local outcome = {}

local encode = json.encoder{sort = true}

---@class modelriver.embedded.Outcome
---@field content string|nil the assistant's text
---@field tool_calls table[]|nil in OpenAI's shape
---@field data any the structured answer
---@field structured boolean whether there is one
---@field finish_reason string
---@field usage modelriver.Usage
---@field body table|nil the provider's whole body, passed on as it is

local function wrong(text)
  error(failure.new(500, "error", "the workflow's function " .. text), 0)
end

local function arguments_of(call)
  local arguments = call.arguments
  if arguments == nil then return "{}" end
  if type(arguments) == "string" then return arguments end
  if type(arguments) ~= "table" then wrong("returned a tool call whose 'arguments' is no table") end
  local ok, text = pcall(encode, arguments)
  if not ok then wrong("returned a tool call that cannot be written as JSON: " .. text.message) end
  return text
end

--- Tool calls in OpenAI's shape, from {name=, arguments=, id=} or that shape itself.
---@param list any
---@return table[]|nil
local function tool_calls(list)
  if list == nil then return nil end
  if type(list) ~= "table" then wrong("returned 'tool_calls' that are no list") end
  local calls = json.array{}
  for i, call in ipairs(list) do
    local named = type(call) == "table" and type(call["function"]) == "table" and call["function"] or call
    if type(named) ~= "table" or type(named.name) ~= "string" then wrong("returned a tool call without a name") end
    calls[i] = {id = call.id or "call_" .. digest.hex(digest.random(12)), type = "function",
      ["function"] = {name = named.name, arguments = arguments_of(named)}}
  end
  return #calls > 0 and calls or nil
end

-- A provider's whole body.
local function of_provider(body)
  local said = client_response.read_provider(body) or {}
  return {body = body, content = said.text, tool_calls = tool_calls(said.tool_calls),
    finish_reason = type(said.finish_reason) == "string" and said.finish_reason or "stop",
    usage = meta.usage(body.usage)}
end

local PLAIN = {content = true, finish_reason = true, usage = true, tool_calls = true}

-- Whether a table is {content=, finish_reason=, usage=} and not structured data that has a member of such a name.
local function is_plain(value, schema)
  if value.tool_calls == nil and value.content == nil then return false end
  for name in pairs(value) do
    if not PLAIN[name] then return false end
  end
  if value.tool_calls ~= nil then return true end
  if not schema then return true end
  return type(value.content) == "table" or type(value.content) == "string" and pcall(json.decode, value.content)
end

local function of_plain(value)
  local calls = tool_calls(value.tool_calls)
  local made = {tool_calls = calls, finish_reason = value.finish_reason or calls and "tool_calls" or "stop",
    usage = meta.usage(value.usage)}
  if type(value.content) == "string" then
    made.content = value.content
  elseif value.content ~= nil then
    made.data, made.structured = value.content, true
  end
  return made
end

local function read(value, emitted, schema)
  if value == nil and emitted ~= "" then value = emitted end
  if type(value) == "string" then return {content = value, finish_reason = "stop"} end
  if type(value) ~= "table" then
    wrong(("returned %s, not a text or a table"):format(value == nil and "nothing" or "a " .. type(value)))
  end
  if type(value.choices) == "table" or client_response.read_provider(value) then return of_provider(value) end
  if is_plain(value, schema) then return of_plain(value) end
  return {data = value, structured = true, finish_reason = "stop"}
end

-- The structured value, its text and whether it keeps to the schema.
local function complete_structure(made, schema)
  if schema and not made.structured and not made.tool_calls and made.content and made.finish_reason ~= "length" then
    made.data, made.structured = schemas.decode(made.content), true
  end
  if not made.structured then return end
  schemas.check(schema, made.data)
  if made.content then return end
  local ok, text = pcall(encode, made.data)
  if not ok then wrong("returned a table that cannot be written as JSON: " .. text.message) end
  -- what goes out is what came back from its JSON, as on the wire
  made.content, made.data = text, json.decode(text)
end

-- Everything of an outcome goes into an answer's JSON sooner or later, where nobody could tell whose fault it is.
local function check_writable(made)
  if made.content and not utf8.len(made.content) then wrong("gave a text that is not UTF-8") end
  if type(made.finish_reason) ~= "string" then wrong("returned a 'finish_reason' that is no text") end
  local parts = {body = made.body, tool_calls = made.tool_calls, finish_reason = made.finish_reason, usage = made.usage}
  local ok, problem = pcall(encode, parts)
  if not ok then wrong("returned what cannot be written as JSON: " .. problem.message:gsub("^%$%.?", "", 1)) end
end

--- The outcome of a value. Raises a failure when nothing can be made of it.
---@param value any what a function returned, or the decoded body of a server
---@param request table
---@param schema table|nil the schema that holds
---@param emitted string|nil what was emitted already; it is the text then
---@return modelriver.embedded.Outcome
function outcome.of(value, request, schema, emitted)
  emitted = emitted or ""
  local made = read(value, emitted, schema)
  -- what was emitted is the text, whatever is returned after it: a stream has delivered it already
  if emitted ~= "" and not made.body and not made.structured then made.content = emitted end
  made.structured = made.structured or false
  complete_structure(made, schema)
  check_writable(made)
  if not made.usage then
    local written = {made.content or ""}
    for _, call in ipairs(made.tool_calls or {}) do
      written[#written + 1] = call["function"].name .. " " .. call["function"].arguments
    end
    made.usage = texts.usage(request, table.concat(written, " "))
  end
  return made
end

return outcome
