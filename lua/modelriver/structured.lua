--- Answers that must fit a JSON Schema: `client:ai{workflow =, messages =, schema = {…}}`.
--
-- The schema is sent as `structured_output_schema`, and the answer is decoded and checked here: ModelRiver merges and
-- repairs, and providers do not always obey. `repair = true` gives the model one more round, in which it is told what
-- is wrong with its answer.

local ask = require "modelriver.ask"
local errors = require "riverlua.errors"
local failure = require "modelriver.failure"
local json = require "riverlua.json"
local response = require "modelriver.response"
local schema = require "riverlua.schema"

local structured = {}

local MOST_TOLD = 20

local decode_all = json.decoder{max_depth = 128}
local encode = json.encoder{sort = true}

-- ------------------------------------------------------------------------------------------------------- the value

-- Models like to put JSON into a fenced block, and words around it: what is in the block.
local function unfenced(text)
  if text:find("^%s*[%[{\"]") then return text end
  local _, opened = text:find("```[^\r\n`]*[\r\n]")
  local behind = opened and text:reverse():find("```", 1, true)
  local closed = behind and #text - behind - 1
  if not closed or closed <= opened then return text end
  return text:sub(opened + 1, closed - 1)
end

local function decoded(text)
  local ok, value = pcall(decode_all, unfenced(text))
  if ok then return value end
  return nil, "the answer is not JSON: " .. (errors.is(value) and value.message or tostring(value))
end

-- The answer's value with its JSON nulls, which a schema may ask for; nil and why when there is none.
local function value_of(answer, validator)
  if answer.message then return decoded(answer:text()) end
  local body = decode_all(answer.body)
  if not response.is_wrapped(answer.raw) then
    -- a text completion, or a service that answers with the object alone
    if body.choices ~= nil then return decoded(answer:text()) end
    return body
  end
  local data = body.data
  -- a text may be the value, or the value's JSON
  if type(data) ~= "string" or validator:validate(data) then return data end
  return decoded(data)
end

-- What is wrong with an answer: a list of problems, empty when nothing is; and its value.
local function problems_of(validator, answer)
  local value, why = value_of(answer, validator)
  if why then return {{path = "", keyword = "json", schema_path = "", message = why}} end
  local ok, problems = validator:validate(value)
  return ok and {} or problems, value
end

-- -------------------------------------------------------------------------------------------------------- failures

local function names_of(calls)
  local names = {}
  for i, call in ipairs(calls) do names[i] = tostring(call.name) end
  return table.concat(names, ", ")
end

-- Why an answer is none, whatever is in it: its code, a message and a hint.
local function how_broken(call, answer)
  if answer.finish_reason == "length" then
    return "truncated", "the answer was cut off before it was complete (finish_reason \"length\")", "raise max_tokens"
  elseif answer.finish_reason == "content_filter" then
    return "refused", "the answer was held back by the provider's content filter"
  elseif type(answer.refusal) == "string" and answer.refusal ~= "" then
    return "refused", "the model refused: " .. failure.one_line(call, answer.refusal)
  elseif #answer.tool_calls > 0 then
    return "tool_calls", "the model asks for tools (" .. names_of(answer.tool_calls) .. ") before it answers",
      "err.answer.tool_calls has the calls; client:run makes them"
  end
  return nil
end

local function what_is_wrong(answer, problems)
  local first, more = problems[1], #problems - 1
  return ("the answer %s: %s%s%s"):format(answer.repaired and "does not fit the schema after a second try either"
    or "does not fit the schema", first.path ~= "" and first.path .. ": " or "", first.message,
    more > 0 and (" (and %d more)"):format(more) or ""),
    answer.repaired and "err.problems lists what is wrong"
    or "err.problems lists what is wrong; repair = true asks the model to mend it"
end

local function fail(call, answer, problems)
  local code, message, hint = how_broken(call, answer)
  if not code then
    code, message, hint = "invalid", what_is_wrong(answer, problems)
  end
  errors.raise{
    kind = "schema", code = code, problems = problems, answer = answer, data = answer.data, hint = hint,
    message = failure.place_of(call) .. message, workflow = call.workflow,
    offline_fallback = answer.offline_fallback, test_mode = answer.test_mode, request_id = answer.request_id,
    tries = answer.tries, retryable = code == "invalid",
  }
end

-- ---------------------------------------------------------------------------------------------------------- asking

-- The conversation, with the answer and what is wrong with it.
local function repair_body(body, answer, problems, value)
  local told = table.move(problems, 1, math.min(#problems, MOST_TOLD), 1, {})
  local messages = table.move(body.messages or {}, 1, #(body.messages or {}), 1, {})
  local text = (answer.message or value == nil) and answer:text() or encode(value)
  if text ~= "" then messages[#messages + 1] = {role = "assistant", content = text} end
  messages[#messages + 1] = {role = "user", content = "Your answer does not fit the required JSON Schema:\n" ..
    schema.describe(told) .. "\nAnswer again with the corrected JSON only."}
  local again = {}
  for name, value_sent in pairs(body) do again[name] = value_sent end
  again.messages = messages
  return again
end

-- Asks once more, and counts the tokens of both rounds.
local function repaired(gateway, options, first, again)
  local answer = ask.whole(gateway, "ai", "/v1/ai", again, ask.round(options, 2))
  answer.repaired, answer.total_usage = true, {}
  ask.add_usage(answer.total_usage, first.usage)
  ask.add_usage(answer.total_usage, answer.usage)
  return answer
end

local function check(options)
  if options.schema == nil then
    errors.raise{kind = "argument", message = "ai: 'repair' is of use only with 'schema'"}
  end
  errors.expect("ai", "schema", options.schema, "table")
  errors.expect("ai", "repair", options.repair, "boolean|nil")
  return structured.compile("ai: ", options.schema)
end

--- Internal: compiles a schema of the user's; `place` begins the message when it is wrong.
---@param place string
---@param document table
---@return riverlua.schema.Validator
function structured.compile(place, document)
  local ok, validator = pcall(schema.compile, document, {decoded = true})
  if ok then return validator end
  if errors.is(validator) then validator.message = place .. validator.message end
  error(validator, 0)
end

--- Internal: asks for an answer that fits `options.schema`; `repair`: true for one round of mending, after which the
--- answer has `repaired` and `total_usage`, the tokens of both rounds.
---
--- Raises kind "schema" with `code` "invalid"; "truncated" (it was cut off: even if what is there fits, the rest is
--- missing), "refused" (by the model or a filter) or "tool_calls"; `problems` (list of {path =, keyword =, message =,
--- schema_path =}, paths are JSON pointers into the answer), `data`, `answer`.
---@param gateway modelriver.Gateway
---@param body table
---@param options table
---@return modelriver.Response
function structured.ask(gateway, body, options)
  local validator = check(options)
  if body.structured_output_schema == nil then body.structured_output_schema = options.schema end
  local call = {what = "ai", workflow = body.workflow, scrub = gateway.scrub}
  local answer = ask.whole(gateway, "ai", "/v1/ai", body, options)
  local problems, value = problems_of(validator, answer)
  if #problems > 0 and options.repair and not how_broken(call, answer) then
    answer = repaired(gateway, options, answer, repair_body(body, answer, problems, value))
    problems, value = problems_of(validator, answer)
  end
  if #problems > 0 or how_broken(call, answer) then fail(call, answer, problems) end
  answer.data, answer.meta.structured_output = failure.without_null(value), true
  return answer
end

return structured
