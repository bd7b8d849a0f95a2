--- Tool calls: `client:run{workflow =, messages =, tools = {…}}` asks, calls the functions that the model wants called,
-- tells it the results, and asks again until it answers in words.

local ask = require "modelriver.ask"
local errors = require "riverlua.errors"
local failure = require "modelriver.failure"
local json = require "riverlua.json"
local request = require "modelriver.request"
local schema = require "riverlua.schema"
local task = require "riverlua.task"

local tools = {methods = {}}

local OPTIONS = {tools = true, max_rounds = true, approve = true, on_tool = true}
local TOOL_FIELDS = {description = true, parameters = true, fn = true, strict = true}
local MOST_AT_ONCE = 16

local encode = json.encoder{sort = true}

---@class modelriver.ToolDefinition
---@field description string|nil
---@field parameters table|nil JSON Schema of the arguments; default: an object of any fields
---@field fn fun(arguments: table, call: modelriver.ToolCall): any string, or a value that is told as JSON

local function fail(message, hint) errors.raise{kind = "argument", message = "run: " .. message, hint = hint} end

-- The tools as the API wants them, in the order of their names, and what is needed to call them.
local function read_tools(given)
  if type(given) ~= "table" or next(given) == nil then
    fail("'tools' must be a table: name → {description =, parameters =, fn =}")
  end
  local names, known, list = {}, {}, json.array{}
  for name in pairs(given) do
    if type(name) ~= "string" or not name:find("^[%w_-]+$") or #name > 64 then
      fail(("'%s' is no name for a tool"):format(tostring(name)), "letters, digits, _ and -, at most 64")
    end
    names[#names + 1] = name
  end
  table.sort(names)
  for i, name in ipairs(names) do
    local tool = given[name]
    if type(tool) == "function" then tool = {fn = tool} end
    errors.expect("run", ("tools.%s"):format(name), tool, "table")
    errors.check_options(("run: tools.%s"):format(name), tool, TOOL_FIELDS)
    errors.expect("run", ("tools.%s.fn"):format(name), tool.fn, "callable")
    errors.expect("run", ("tools.%s.description"):format(name), tool.description, "string|nil")
    local parameters = tool.parameters or {type = "object", properties = json.object{}}
    errors.expect("run", ("tools.%s.parameters"):format(name), parameters, "table")
    known[name] = {fn = tool.fn, validator = schema.compile(parameters, {decoded = true})}
    list[i] = {type = "function", ["function"] = {name = name, description = tool.description, parameters = parameters,
      strict = tool.strict}}
  end
  return list, known, names
end

local function text_of_error(err)
  local text = errors.is(err) and err.message or type(err) == "table" and err.message or err
  text = tostring(text)
  return (text:gsub("^[^\n]-%.lua:%d+: ", ""):match("^[^\n]*"))   -- the model has no use for our file names
end

local function is_stop(err)
  return errors.is(err, "cancelled") or errors.is(err, "interrupted")
end

local function text_of_result(value)
  if type(value) == "string" then return value end
  return encode(value == nil and json.null or value)
end

-- The arguments of a call, or nil and what to tell the model.
local function read_arguments(tool, call)
  local ok, arguments = pcall(failure.decode, call.arguments)
  if not ok then return nil, "the arguments are not JSON: " .. text_of_error(arguments) end
  local valid, problems = tool.validator:validate(json.decode(call.arguments))
  if not valid then return nil, "the arguments do not fit the schema:\n" .. schema.describe(problems) end
  return arguments
end

local function is_approved(run, call, arguments)
  if not run.approve then return true end
  local approved, why = run.approve(call.name, arguments, call)
  if approved then return true end
  return false, why and "the call was refused: " .. tostring(why) or "the call was refused"
end

-- What the call came to, as text for the model, and whether it worked.
local function perform(run, call)
  local tool = run.known[call.name]
  if not tool then
    return ("error: there is no tool '%s'; tools: %s"):format(tostring(call.name), table.concat(run.names, ", ")), false
  end
  local arguments, problem = read_arguments(tool, call)
  if problem then return "error: " .. problem, false end
  local approved, why = is_approved(run, call, arguments)
  if not approved then return "error: " .. why, false end
  local ok, result = pcall(function() return text_of_result(tool.fn(arguments, call)) end)
  if ok then return result, true end
  if is_stop(result) then error(result, 0) end
  return "error: " .. text_of_error(result), false
end

local function perform_all(run, calls)
  return task.map(calls, function(call)
    local text, worked = perform(run, call)
    if run.on_tool then run.on_tool(call, text, worked) end
    return {role = "tool", tool_call_id = call.id, content = text}
  end, {concurrency = MOST_AT_ONCE})
end

-- Every call needs an id that its result can name.
local function with_ids(answer, round)
  local message = answer.message
  for i, call in ipairs(answer.tool_calls) do
    if type(call.id) ~= "string" or call.id == "" then
      call.id = ("call_%d_%d"):format(round, i)
      if message.tool_calls[i] then message.tool_calls[i].id = call.id end
    end
  end
  return message
end

local function add_usage(sum, usage)
  for name, count in pairs(usage or {}) do sum[name] = (sum[name] or 0) + count end
end

local function read_options(options)
  local rounds = options.max_rounds == nil and 10 or options.max_rounds
  errors.expect("run", "max_rounds", rounds, "integer")
  if rounds < 1 then fail("'max_rounds' must be at least 1") end
  errors.expect("run", "approve", options.approve, "callable|nil")
  errors.expect("run", "on_tool", options.on_tool, "callable|nil")
  return rounds
end

--- Asks a workflow, with functions that the model may have called.
---
--- `tools`: name → {description =, parameters = JSON Schema, fn = function(arguments, call)}; `max_rounds` = 10;
--- `approve(name, arguments, call)`: asked before each call, false (and a reason) refuses it; `on_tool(call, text,
--- worked)`: told after each. Everything else as for `client:ai`. Calls of one round run side by side; their results
--- are told in the model's order. Arguments that do not fit, errors and refusals are told to the model, not raised.
---
--- The answer has `messages` (the whole conversation), `rounds` and `total_usage`. Raises kind "limit" when the model
--- still wants tools after `max_rounds`, with `messages`; otherwise as `client:ai`.
---@param self modelriver.Client
---@param given table
---@return modelriver.Response
function tools.methods.run(self, given)
  errors.expect("run", "request", given, "table")
  local list, known, names = read_tools(given.tools)
  local body, options = request.read("run", given, nil, nil, OPTIONS)
  local rounds = read_options(options)
  local run = {known = known, names = names, approve = options.approve, on_tool = options.on_tool}
  local messages, total = table.move(body.messages or {}, 1, #(body.messages or {}), 1, {}), {}
  body.tools = list
  for round = 1, rounds do
    body.messages = messages
    local answer = ask.whole(self.gateway, "run", "/v1/ai", body, options)
    add_usage(total, answer.usage)
    if #answer.tool_calls == 0 then
      messages[#messages + 1] = answer.message or {role = "assistant", content = answer:text()}
      answer.messages, answer.rounds, answer.total_usage = messages, round, total
      return answer
    end
    messages[#messages + 1] = with_ids(answer, round)
    for _, result in ipairs(perform_all(run, answer.tool_calls)) do messages[#messages + 1] = result end
    -- an order to use tools is obeyed once: otherwise there would never be an answer
    if body.tool_choice ~= "none" then body.tool_choice = body.tool_choice and "auto" or nil end
  end
  errors.raise{kind = "limit", workflow = body.workflow, messages = messages, total_usage = total,
    message = ("run: no answer after %d rounds of tool calls"):format(rounds),
    hint = "raise max_rounds, or look at err.messages for what the model keeps asking"}
end

return tools
