--- Answers that must fit a JSON Schema: `client:ai{workflow =, messages =, schema = {…}}`.
--
-- The schema is sent as `structured_output_schema`, and the answer is decoded and checked here: ModelRiver merges and
-- repairs, and providers do not always obey. `repair = true` gives the model one more round, in which it is told what
-- is wrong with its answer.

local ask = require "modelriver.ask"
local errors = require "riverlua.errors"
local failure = require "modelriver.failure"
local json = require "riverlua.json"
local schema = require "riverlua.schema"

local structured = {}

local MOST_TOLD = 20

local decode_all = json.decoder{max_depth = 128}

-- Models like to put JSON into a fenced block.
local function unfenced(text)
  return text:match("^%s*```%w*[\r\n]+(.-)[\r\n]*```%s*$") or text
end

local function content_of(body)
  local choice = type(body) == "table" and type(body.choices) == "table" and body.choices[1]
  return type(choice) == "table" and type(choice.message) == "table" and choice.message.content or nil
end

-- The answer's value with its JSON nulls, which a schema may ask for; nil and why when there is none.
local function value_of(answer)
  local ok, body = pcall(decode_all, answer.body)
  if not ok then return nil, "the answer cannot be read" end
  local wrapped = type(body.meta) == "table"
  local data = body
  if wrapped then data = body.data end
  local text = content_of(data)
  if text == nil and wrapped then
    if type(data) ~= "string" then return data end
    text = data
  end
  if type(text) ~= "string" then text = answer:text() end
  local read, value = pcall(decode_all, unfenced(text))
  if read then return value end
  return nil, "the answer is not JSON: " .. (errors.is(value) and value.message or tostring(value))
end

-- What is wrong with an answer: a list of problems, empty when nothing is.
local function problems_of(validator, answer)
  local value, why = value_of(answer)
  if why then return {{path = "", keyword = "json", schema_path = "", message = why}} end
  local ok, problems = validator:validate(value)
  return ok and {} or problems, value
end

local function fail(body, answer, problems)
  local truncated = answer.finish_reason == "length"
  local first = problems[1]
  local more = #problems > 1 and (" (and %d more)"):format(#problems - 1) or ""
  errors.raise{
    kind = "schema", code = truncated and "truncated" or "invalid", problems = problems, answer = answer,
    data = answer.data, workflow = body.workflow, offline_fallback = answer.offline_fallback,
    message = failure.place_of{what = "ai", workflow = body.workflow} .. (truncated
      and "the answer was cut off before it was complete (finish_reason \"length\")"
      or ("the answer does not fit the schema: %s%s%s"):format(first.path ~= "" and first.path .. ": " or "",
        first.message, more)),
    hint = truncated and "raise max_tokens"
      or "err.problems lists what is wrong; repair = true asks the model to mend it",
    retryable = not truncated,
  }
end

-- The conversation, with the answer and what is wrong with it.
local function repair_body(body, answer, problems)
  local told = {}
  for i = 1, math.min(#problems, MOST_TOLD) do told[i] = problems[i] end
  local messages = {}
  for i, message in ipairs(body.messages or {}) do messages[i] = message end
  messages[#messages + 1] = {role = "assistant", content = answer:text()}
  messages[#messages + 1] = {role = "user", content = "Your answer does not fit the required JSON Schema:\n" ..
    schema.describe(told) .. "\nAnswer again with the corrected JSON only."}
  local again = {}
  for name, value in pairs(body) do again[name] = value end
  again.messages = messages
  return again
end

--- Internal: asks for an answer that fits `options.schema`; `repair`: true for one round of mending.
---
--- Raises kind "schema": `code` "truncated" (the answer was cut off) or "invalid"; `problems` (list of {path =,
--- keyword =, message =, schema_path =}, paths are JSON pointers into the answer), `data`, `answer`.
---@param gateway modelriver.Gateway
---@param body table
---@param options table
---@return modelriver.Response
function structured.ask(gateway, body, options)
  errors.expect("ai", "schema", options.schema, "table")
  errors.expect("ai", "repair", options.repair, "boolean|nil")
  local validator = schema.compile(options.schema, {decoded = true})
  if body.structured_output_schema == nil then body.structured_output_schema = options.schema end
  local answer = ask.whole(gateway, "ai", "/v1/ai", body, options)
  local problems, value = problems_of(validator, answer)
  if #problems > 0 and options.repair and answer.finish_reason ~= "length" then
    answer = ask.whole(gateway, "ai", "/v1/ai", repair_body(body, answer, problems), options)
    answer.repaired = true
    problems, value = problems_of(validator, answer)
  end
  if #problems > 0 then fail(body, answer, problems) end
  answer.data, answer.meta.structured_output = failure.without_null(value), true
  return answer
end

return structured
