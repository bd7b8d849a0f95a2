--- Tool calls: `client:run{workflow =, messages =, tools = {…}}` asks, calls the functions that the model wants called,
-- tells it the results, and asks again until it answers in words.

local ask = require "modelriver.ask"
local errors = require "riverlua.errors"
local failure = require "modelriver.failure"
local json = require "riverlua.json"
local messages_module = require "modelriver.messages"
local request = require "modelriver.request"
local schema = require "riverlua.schema"
local structured = require "modelriver.structured"
local task = require "riverlua.task"

local tools = {methods = {}}

local OPTIONS = {tools = true, max_rounds = true, approve = true, on_tool = true}
local TOOL_FIELDS = {description = true, parameters = true, fn = true, strict = true}
local MOST_AT_ONCE = 16

local encode = json.encoder{sort = true}

---@class modelriver.ToolDefinition
---@field description string|nil
---@field parameters table|nil JSON Schema of the arguments; default: an object of any fields
---@field strict boolean|nil passed on
---@field fn fun(arguments: table, call: modelriver.ToolCall): any a string, or a value that is told as JSON; nil and a
--- reason: it failed

local function fail(message, hint) errors.raise{kind = "argument", message = "run: " .. message, hint = hint} end

-- ------------------------------------------------------------------------------------------- what the user defined

local function names_of(given)
  if type(given) ~= "table" or next(given) == nil then
    fail("'tools' must be a table with functions by name", "tools = {name = {description =, parameters =, fn =}}")
  elseif #given > 0 then
    fail("'tools' must have functions by name, and is a list",
      "tools = {name = {description =, parameters =, fn =}}; definitions without functions are for client:ai")
  end
  local names = {}
  for name in pairs(given) do
    if type(name) ~= "string" or not name:find("^[%w_-]+$") or #name > 64 then
      fail(("'%s' is no name for a tool"):format(tostring(name)), "letters, digits, _ and -, at most 64")
    end
    names[#names + 1] = name
  end
  table.sort(names)
  return names
end

-- A tool as the API wants it, and what is needed to call it.
local function read_tool(name, tool)
  if type(tool) == "function" then tool = {fn = tool} end
  local place = "tools." .. name
  errors.expect("run", place, tool, "function|table")
  errors.check_options("run: " .. place, tool, TOOL_FIELDS)
  errors.expect("run", place .. ".fn", tool.fn, "callable")
  errors.expect("run", place .. ".description", tool.description, "string|nil")
  errors.expect("run", place .. ".strict", tool.strict, "boolean|nil")
  local parameters = tool.parameters
  if parameters == nil then parameters = {type = "object", properties = json.object{}} end
  errors.expect("run", place .. ".parameters", parameters, "table")
  local validator = structured.compile(("run: %s.parameters: "):format(place), parameters)
  return {type = "function", ["function"] = {name = name, description = tool.description, parameters = parameters,
    strict = tool.strict}}, {fn = tool.fn, validator = validator}
end

-- The tools in the order of their names.
local function read_tools(given)
  local names, known, list = names_of(given), {}, json.array{}
  for i, name in ipairs(names) do list[i], known[name] = read_tool(name, given[name]) end
  return list, known, names
end

-- -------------------------------------------------------------------------------------------------------- one call

local function is_stop(err)
  return errors.is(err, "cancelled") or errors.is(err, "interrupted")
end

-- What an error says, in one line: the model has no use for our file names and tracebacks.
local function text_of_error(err)
  local text = err
  if type(err) == "table" then
    local meta = getmetatable(err)
    text = type(err.message) == "string" and err.message or type(meta) == "table" and meta.__tostring and tostring(err)
    if not text then
      local ok, encoded = pcall(encode, err)
      text = ok and encoded or ""
    end
  end
  text = tostring(text):gsub("^[^%s:]+%.lua:%d+: ", ""):gsub("^%[string \"[^\n\"]*\"%]:%d+: ", "")
  text = text:match("[^\r\n]*%S[^\r\n]*") or "it failed and did not say why"
  return utf8.len(text) and text or "it failed, and what it said is not UTF-8"
end

-- A result as the model is told it; nil and an error when it cannot be told.
local function text_of_result(value, why)
  if value == nil and why ~= nil then return nil, why end   -- Lua's way to fail
  if type(value) ~= "string" then return encode(value == nil and json.null or value) end
  if not utf8.len(value) then return nil, "the result is not text: it is no valid UTF-8" end
  return value
end

-- The arguments of a call, or nil and what to tell the model.
local function read_arguments(tool, call)
  local text = call.arguments
  if text:find("^%s*$") or text:find("^%s*null%s*$") then text = "{}" end
  local ok, arguments = pcall(failure.decode, text)
  if not ok then return nil, "the arguments are not JSON: " .. text_of_error(arguments) end
  local finished, valid, problems = pcall(tool.validator.validate, tool.validator, json.decode(text))
  if not finished then
    if is_stop(valid) then error(valid, 0) end
    return nil, "the arguments cannot be checked: " .. text_of_error(valid)
  end
  if not valid then return nil, "the arguments do not fit the schema:\n" .. schema.describe(problems) end
  return arguments
end

local function ask_approval(run, call, arguments)
  if run.stopped then error(run.stopped.by, 0) end   -- while this call waited for its turn
  local ok, approved, why = pcall(run.approve, call.name, arguments, call)
  if ok then return approved, why end
  run.stopped = {by = approved}
  error(approved, 0)
end

-- One question at a time, in the model's order: it may be a person who is asked.
local function is_approved(run, call, arguments)
  if not run.approve then return true end
  local approved, why = run.asking:with(ask_approval, run, call, arguments)
  if approved then return true end
  return false, "the call was refused" .. (why ~= nil and ": " .. text_of_error(why) or "")
end

-- What the call came to, as text for the model; and whether it worked, or the error that kept it from that.
local function perform(run, call)
  local tool = run.known[call.name]
  if not tool then
    return ("error: there is no tool '%s'; tools: %s"):format(tostring(call.name), table.concat(run.names, ", ")), false
  end
  local arguments, problem = read_arguments(tool, call)
  if problem then return "error: " .. problem, false end
  local approved, why = is_approved(run, call, arguments)
  if not approved then return "error: " .. why, false end
  local ok, text, failed = pcall(function() return text_of_result(tool.fn(arguments, call)) end)
  if ok and text then return text, true end
  if not ok then failed = text end
  if is_stop(failed) then error(failed, 0) end
  return "error: " .. text_of_error(failed), false, failed
end

local function perform_all(run, calls)
  return task.map(calls, function(call)
    local text, worked, err = perform(run, call)
    if run.on_tool then run.on_tool(call, text, worked, err) end
    return {role = "tool", tool_call_id = call.id, content = text}
  end, {concurrency = MOST_AT_ONCE})
end

-- ------------------------------------------------------------------------------------------------- the conversation

local function copy_of(fields)
  local copy = {}
  for name, value in pairs(fields) do copy[name] = value end
  return copy
end

-- The message with the calls, each of which has an id that no other has, for its result to name. `position`: where in
-- the conversation the message will stand.
local function message_with_ids(answer, position)
  local message, sent, taken = messages_module.of_answer(answer), json.array{}, {}
  for _, one in ipairs(message.tool_calls) do
    -- those without a function are not answered either
    if type(one) == "table" and type(one["function"]) == "table" then sent[#sent + 1] = copy_of(one) end
  end
  for i, call in ipairs(answer.tool_calls) do
    if type(call.id) ~= "string" or call.id == "" or taken[call.id] then
      call.id = ("call_%d_%d"):format(position, i)
    end
    taken[call.id], sent[i].id = true, call.id
  end
  message.tool_calls = sent
  return message
end

-- Asks; what fails after tools were called tells how far it came.
local function ask_round(gateway, run, body, options, round)
  local ok, answer = pcall(ask.whole, gateway, "run", "/v1/ai", body, ask.round(options, round))
  if not ok then
    if round > 1 and errors.is(answer) then answer.messages, answer.total_usage = run.messages, run.total end
    error(answer, 0)
  end
  ask.add_usage(run.total, answer.usage)
  return answer
end

local function append(list, items)
  for _, item in ipairs(items) do list[#list + 1] = item end
end

-- An order to use tools is obeyed once: otherwise there would never be an answer.
local function relaxed(choice)
  if choice == nil or choice == "none" then return choice end
  return "auto"
end

local function read_options(body, options)
  if body.stream == true then
    fail("'stream' is for client:stream, which calls no tools", "leave it out; on_tool tells what is called")
  end
  if body.messages == nil or body.messages == json.null then fail("'messages' is missing") end
  local rounds = options.max_rounds == nil and 10 or options.max_rounds
  errors.expect("run", "max_rounds", rounds, "integer")
  if rounds < 1 then fail(("'max_rounds' must be at least 1, got %d"):format(rounds)) end
  errors.expect("run", "approve", options.approve, "callable|nil")
  errors.expect("run", "on_tool", options.on_tool, "callable|nil")
  return rounds
end

--- Asks a workflow, with functions that the model may have called.
---
--- `tools`: name → {description =, parameters = JSON Schema, fn = function(arguments, call)}, or the function alone;
--- `max_rounds` = 10; `approve(name, arguments, call)`: asked before each call, one at a time; false (and a reason)
--- refuses it; `on_tool(call, text, worked, err)`: told after each. Everything else as for `client:ai`. Calls of one
--- round run side by side, 16 at most; their results are told in the model's order. Arguments that do not fit,
--- errors (also nil and a reason) and refusals are told to the model, not raised; what `approve` and `on_tool` raise is
--- raised.
---
--- The answer has `messages` (the whole conversation, for the next request), `rounds` and `total_usage`. Raises kind
--- "limit" when the model still wants tools after `max_rounds`; otherwise as `client:ai`. Errors after the first round
--- have `messages` and `total_usage` too.
---@param self modelriver.Client
---@param given table|string
---@param text string|nil
---@param more table|nil
---@return modelriver.Response
function tools.methods.run(self, given, text, more)
  local body, options = request.read("run", given, text, more, OPTIONS)
  local list, known, names = read_tools(options.tools)
  local rounds = read_options(body, options)
  local run = {known = known, names = names, approve = options.approve, on_tool = options.on_tool,
    asking = task.semaphore(1), messages = table.move(body.messages, 1, #body.messages, 1, {}), total = {}}
  local messages = run.messages
  body.tools, body.messages = list, messages
  for round = 1, rounds do
    local answer = ask_round(self.gateway, run, body, options, round)
    if #answer.tool_calls == 0 then
      messages[#messages + 1] = messages_module.of_answer(answer)
      answer.messages, answer.rounds, answer.total_usage = messages, round, run.total
      return answer
    end
    messages[#messages + 1] = message_with_ids(answer, #messages + 1)
    append(messages, perform_all(run, answer.tool_calls))
    body.tool_choice = relaxed(body.tool_choice)
  end
  errors.raise{kind = "limit", workflow = body.workflow, messages = messages, total_usage = run.total,
    message = ("%sno answer after %s of tool calls"):format(failure.place_of{what = "run", workflow = body.workflow},
      rounds == 1 and "a round" or rounds .. " rounds"),
    hint = "raise max_rounds, or look at err.messages for what the model keeps asking"}
end

return tools
