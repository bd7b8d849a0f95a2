--- Chat completions with the body of OpenAI's API.
-- (ChatCompleteFromBase, ChatCompleteFromCheckpoint, ChatCompleteFromTraining)
--
-- The models know nothing of roles: the texts of the messages, each in lines of its own, are the prompt, and the
-- answer is a line, unless `stop` says something else. So a single message of the user is the prompt as it stands.
--
-- Understood: messages, model, n, max_tokens or max_completion_tokens, temperature, top_p, top_k, stop, seed,
-- logprobs, top_logprobs. What is wrong with a body is told as OpenAI's API does: status_code 400 and an error
-- object.

local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local json = require "riverlua.json"
local models = require "training.embedded.models"
local sampling = require "training.embedded.sampling"

local chat = {}

local encode = json.encoder{sort = true}
local decode = json.decoder{drop_null = true, max_depth = 64}

local ROLES = {system = true, developer = true, user = true, assistant = true, tool = true}
local MOST_CHOICES, MOST_TOP, MOST_TOKENS = 128, 20, 1 << 31
local MOST_STOPS = 64
local LINE = "\n"
-- What would change the answer if it were understood: refused rather than left out.
local NOT_UNDERSTOOD = {"tools", "functions", "tool_choice", "response_format", "logit_bias", "audio",
  "modalities"}

-- A body that is refused.
local Bad = {}

local function bad(param, text, ...)
  error(setmetatable({status = 400, param = param, code = "invalid_value", text = text:format(...)}, Bad), 0)
end

local function error_body(problem)
  return encode{error = {message = problem.text, type = "invalid_request_error",
    param = problem.param or json.null, code = problem.code}}
end

-- ---- the body ------------------------------------------------------------------------------------------------

local function content_of(where, content)
  if type(content) == "string" then return content end
  if type(content) ~= "table" or #content == 0 then bad(where, "%s must be a text or a list of parts", where) end
  local texts = {}
  for i, part in ipairs(content) do
    if type(part) ~= "table" or part.type ~= "text" or type(part.text) ~= "string" then
      bad(where, "%s[%d] is no text: the model understands nothing else", where, i - 1)
    end
    texts[i] = part.text
  end
  return table.concat(texts)
end

local function prompt_of(messages)
  if type(messages) ~= "table" or #messages == 0 then bad("messages", "messages must be a list, not empty") end
  local parts = {}
  for i, message in ipairs(messages) do
    local where = ("messages[%d]"):format(i - 1)
    if type(message) ~= "table" or not ROLES[message.role] then
      bad(where .. ".role", "%s has no role that is known", where)
    end
    parts[i] = content_of(where .. ".content", message.content)
  end
  return table.concat(parts, LINE)
end

local function number(body, name, default, least, most)
  local value = body[name]
  if value == nil then return default end
  if type(value) ~= "number" or value ~= value or value < least or value > most then
    bad(name, "%s must be a number from %g to %g", name, least, most)
  end
  return value + 0.0
end

local function integer(body, name, default, least, most)
  local value = body[name]
  if value == nil then return default end
  local whole = type(value) == "number" and math.tointeger(value)
  if not whole or whole < least or whole > most then
    bad(name, "%s must be an integer from %d to %d", name, least, most)
  end
  return whole
end

local function stops_of(body)
  local given = body.stop
  if given == nil then return {LINE} end
  if type(given) == "string" then given = json.array{given} end
  if not json.is_array(given) then bad("stop", "stop must be a text or a list of texts") end
  if #given > MOST_STOPS then bad("stop", "stop has %d texts, at most %d are taken", #given, MOST_STOPS) end
  for _, text in ipairs(given) do
    if type(text) ~= "string" or text == "" then
      bad("stop", "stop must be a text or a list of texts, not empty")
    end
  end
  return given
end

local function check_plain(body)
  if body.stream then bad("stream", "this endpoint does not stream") end
  for _, name in ipairs(NOT_UNDERSTOOD) do
    local value = body[name]
    local is_default = value == nil or value == "none" or type(value) == "table"
      and (next(value) == nil or value.type == "text")
    if not is_default then bad(name, "%s is not understood here", name) end
  end
  for _, name in ipairs{"presence_penalty", "frequency_penalty"} do
    if body[name] ~= nil and body[name] ~= 0 then bad(name, "%s is not understood here", name) end
  end
end

-- The wishes of a body.
local function read(text, place, expected)
  local ok, body = pcall(decode, text)
  if not ok then bad(nil, "the body is no JSON: %s", errors.is(body) and body.message or "") end
  if type(body) ~= "table" or json.is_array(body) then bad(nil, "the body must be an object") end
  if body.model ~= expected then
    local problem = setmetatable({status = 404, param = "model", code = "model_not_found",
      text = ("the model %s was asked for, %s is here"):format(type(body.model) == "string" and body.model
        or errors.with_article(type(body.model)), expected)}, Bad)
    error(problem, 0)
  end
  check_plain(body)
  local context = place.model.config.context
  local longest = integer(body, "max_tokens", context, 1, MOST_TOKENS)
  longest = integer(body, "max_completion_tokens", longest, 1, MOST_TOKENS)
  if body.logprobs ~= nil and type(body.logprobs) ~= "boolean" then
    bad("logprobs", "logprobs must be true or false; top_logprobs says how many")
  end
  local shows = body.logprobs == true
  local top = integer(body, "top_logprobs", 0, 0, MOST_TOP)
  if top > 0 and not shows then bad("top_logprobs", "top_logprobs needs logprobs = true") end
  local seed = integer(body, "seed", nil, math.mininteger, math.maxinteger)
  local base = {prompt = prompt_of(body.messages), max_tokens = longest,
    temperature = number(body, "temperature", 1.0, 0, 100), top_p = number(body, "top_p", 1.0, 1e-9, 1),
    top_k = integer(body, "top_k", -1, -1, MOST_TOKENS), stop = stops_of(body),
    logprobs = shows and top or 0}
  local wishes, last = {}, {}
  for i = 1, integer(body, "n", 1, 1, MOST_CHOICES) do
    local prompt = {images = {}, image_inputs = {}, input_ids = {}, kv_cache_namespace = "",
      seed = seed and seed + i - 1}
    for name, value in pairs(base) do prompt[name] = value end
    local fine, wish = pcall(sampling.read, "the prompt", prompt, place.model, last)
    if not fine then
      if errors.is(wish, "grpc") then bad("messages", "%s", wish.details) end
      error(wish, 0)
    end
    wishes[i] = wish
  end
  return {wishes = wishes, shows = shows, max_tokens = longest}
end

-- ---- the answer ----------------------------------------------------------------------------------------------

local function token(id, logprob)
  local byte = id < 256 and string.char(id) or ""
  return {token = sampling.text(byte), logprob = logprob, bytes = json.array(id < 256 and {id} or {})}
end

local function logprobs_of(sample)
  local content, top = {}, sample.top
  for i = 1, #sample.ids do
    local entry, others = token(sample.ids[i], sample.logprobs[i]), {}
    for k = 1, top and top.width or 0 do
      local at = ((i - 1) * top.width + k - 1) * 4 + 1
      others[k] = token((("<i4"):unpack(top.ids, at)), (("<f"):unpack(top.logprobs, at)))
    end
    entry.top_logprobs = json.array(others)
    content[i] = entry
  end
  return {content = json.array(content)}
end

local function body_of(asked, results, name, usage)
  local choices = {}
  for i, sample in ipairs(results) do
    choices[i] = {index = i - 1, finish_reason = sample.stopped and "stop" or "length",
      message = {role = "assistant", content = sampling.text(sample.text)},
      logprobs = asked.shows and logprobs_of(sample) or json.null}
  end
  return encode{id = "chatcmpl-" .. digest.uuid(), object = "chat.completion", created = os.time(), model = name,
    choices = json.array(choices), usage = {prompt_tokens = usage.prompt_tokens,
      completion_tokens = usage.completion_tokens, total_tokens = usage.total_tokens}}
end

-- Each choice is a sample of its own, but the prompt is read once.
local function usage_of(asked, results)
  local prompt, completion = #asked.wishes[1].ids, 0
  for _, sample in ipairs(results) do completion = completion + #sample.ids end
  return {prompt_tokens = prompt, completion_tokens = completion, total_tokens = prompt + completion}
end

local function complete(service, place, text, expected, call)
  local ok, asked = pcall(read, text, place, expected)
  local refused = not ok and getmetatable(asked) == Bad and asked or nil
  if not ok and not refused then error(asked, 0) end
  return service:submit(call, {model = place.trained}, function()
    if refused then
      return {chat_complete = {response_json = error_body(refused), status_code = refused.status, usage = {}}}
    end
    local results = sampling.run(place.open(), asked.wishes)
    local usage = usage_of(asked, results)
    return {chat_complete = {response_json = body_of(asked, results, expected, usage), status_code = 200,
      usage = usage}}
  end)
end

local methods = {}
chat.methods = methods

function methods.ChatCompleteFromBase(service, request, call)
  local name = request.base_model
  return complete(service, sampling.of_base(service, name), request.request_json, name, call)
end

function methods.ChatCompleteFromCheckpoint(service, request, call)
  local path = request.checkpoint_path
  local place = sampling.of_checkpoint(service, path, request.base_model)
  local expected = request.base_model ~= "" and request.base_model or path
  return complete(service, place, request.request_json, expected, call)
end

function methods.ChatCompleteFromTraining(service, request, call)
  local model = models.find(service, request.model_id)
  local place = sampling.of_model(service, model)
  return complete(service, place, request.request_json, model.id, call)
end

return chat
