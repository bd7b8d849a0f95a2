--- What is sampled: prompts in their three forms, images, seeds, and the settings, as the service wants them.
--
-- The service gets one prompt for each sample, those of a prompt next to each other: two prompts with `num_samples = 2`
-- become a, a, b, b.

local array = require "riverlua.array"
local errors = require "riverlua.errors"
local failure = require "training.failure"
local future = require "training.future"
local images = require "training.images"

local sampling = {}

-- In one call: each sample is a message of its own.
local MOST_SAMPLES = 65536
local DEFAULTS = {num_samples = 1, max_tokens = 256, temperature = 1.0, top_p = 1.0, top_k = -1}

-- Names of options by who understands them.
local PROMPT = [[prompts prompt_token_ids model_input num_samples max_tokens temperature top_p top_k stop seed seeds
  return_prompt_logprobs return_prompt_token_ids logprobs images image_token_id return_expert_routing metrics_type
  timeout poll_interval]]
local BATCH = [[idempotency_key pinned_policy_id policy_selection retained_kv_groups kv_cache_policy
  max_concurrent_streams]]

local function set_of(...)
  local set = {}
  for _, words in ipairs{...} do
    for name in words:gmatch("%S+") do set[name] = true end
  end
  return set
end

sampling.OPTIONS = {
  model = set_of(PROMPT), model_batch = set_of(PROMPT, BATCH),
  session = set_of(PROMPT, "base_model checkpoint"), session_batch = set_of(PROMPT, BATCH, "base_model checkpoint"),
  client = set_of((PROMPT:gsub("seeds", ""):gsub("return_expert_routing", "")), "base_model"),
}

local function fail(what, message, hint)
  errors.raise{kind = "argument", message = what .. ": " .. message, hint = hint}
end

--- Brings `model:sample(prompts, {…})` and `model:sample{prompts = …, …}` to one table of options.
---@param what string
---@param given any
---@param more table|nil
---@param allowed table<string, true>
---@return table
function sampling.arguments(what, given, more, allowed)
  local options = {}
  if type(given) == "string" or type(given) == "table" and (given[1] ~= nil or next(given) == nil and more) then
    for name, value in pairs(errors.expect(what, "options", more or {}, "table")) do options[name] = value end
    if options.prompts ~= nil then fail(what, "the prompts are given twice") end
    if type(given) == "table" then failure.plain_list(what, given, "prompts") end
    options.prompts = given
  elseif type(given) == "table" then
    if more ~= nil then fail(what, "options in one table, or prompts and a table of options") end
    for name, value in pairs(given) do options[name] = value end
  elseif given == nil then
    fail(what, "there is nothing to sample from", what .. "{prompts = {…}}")
  else
    fail(what, "prompts are a text or a list of texts, got a " .. type(given))
  end
  errors.check_options(what, options, allowed)
  future.check_interval(what, options.poll_interval)
  return options
end

local function show(value) return type(value) == "string" and ("%q"):format(value) or tostring(value) end

local function integer(what, name, value, least, most)
  if type(value) == "number" then value = math.tointeger(value) or value end
  if math.type(value) ~= "integer" or least and value < least or most and value > most then
    fail(what, ("'%s' must be an integer%s, got %s"):format(name, least and " of at least " .. least or "",
      show(value)))
  end
  return value
end

local function number(what, name, value, least, most)
  if type(value) ~= "number" or value ~= value or value < least or value > most then
    fail(what, ("'%s' must be a number from %g to %g, got %s"):format(name, least, most, show(value)))
  end
  return value + 0.0
end

local function is_list(value)
  return type(value) == "table" or array.is(value)
end

-- Ids of a prompt: checked here, as the service would refuse the whole batch for one that is wrong.
local function token_ids(what, where, ids)
  if not is_list(ids) or #ids == 0 then fail(what, ("%s must be a list of token ids, not empty"):format(where)) end
  for i = 1, #ids do
    local id = ids[i]
    if math.type(id) ~= "integer" or id < 0 then
      fail(what, ("%s[%d] must be a token id (an integer, not negative), got %s"):format(where, i, tostring(id)))
    end
  end
  return ids
end

-- Text chunks become ids, each image one placeholder id; the images in order.
local function lower_chunks(what, where, chunks, placeholder)
  local ids, pictures = {}, {}
  if type(chunks) ~= "table" or #chunks == 0 then fail(what, where .. " must be a list of chunks, not empty") end
  failure.whole_list(what, chunks, where)
  for i, chunk in ipairs(chunks) do
    local at = ("%s[%d]"):format(where, i)
    if type(chunk) ~= "table" then fail(what, at .. " must be a table, such as {type = \"text\", tokens = {…}}") end
    if chunk.type == "text" then
      local tokens = token_ids(what, at .. ".tokens", chunk.tokens)
      for k = 1, #tokens do
        if tokens[k] == placeholder then
          fail(what, ("%s.tokens[%d] is the image placeholder %d"):format(at, k, placeholder),
            "images are chunks of their own: {type = \"image\", data = …}")
        end
        ids[#ids + 1] = tokens[k]
      end
    elseif chunk.type == "image" then
      if not placeholder then
        fail(what, at .. " is an image, and the id of the model's image placeholder is not known",
          "give image_token_id, the id of <|image_pad|> or the like in the model's vocabulary")
      end
      ids[#ids + 1] = placeholder
      pictures[#pictures + 1] = images.check(what, at .. ".data", chunk.data)
    else
      fail(what, ("%s has the type %s, not \"text\" or \"image\""):format(at, tostring(chunk.type)))
    end
  end
  return ids, pictures
end

local function read_prompts(what, options)
  local given = (options.prompts ~= nil and 1 or 0) + (options.prompt_token_ids ~= nil and 1 or 0)
    + (options.model_input ~= nil and 1 or 0)
  if given ~= 1 then
    fail(what, given == 0 and "there is nothing to sample from"
      or "prompts, prompt_token_ids and model_input exclude each other", "give one of prompts, prompt_token_ids, "
      .. "model_input")
  end
  local list = {}
  if options.prompts ~= nil then
    local prompts = options.prompts
    if type(prompts) == "string" then prompts = {prompts} end
    errors.expect(what, "prompts", prompts, "table")
    failure.whole_list(what, prompts, "prompts")
    for i, prompt in ipairs(prompts) do
      if type(prompt) ~= "string" then fail(what, ("prompts[%d] must be a text, got a %s"):format(i, type(prompt))) end
      if not utf8.len(prompt) then fail(what, ("prompts[%d] is not UTF-8"):format(i)) end
      list[i] = {prompt = prompt}
    end
  elseif options.prompt_token_ids ~= nil then
    local ids = options.prompt_token_ids
    if not is_list(ids) or #ids == 0 then fail(what, "prompt_token_ids must be a list of ids, or of such lists") end
    local many = not array.is(ids) and is_list(ids[1])
    if many then failure.whole_list(what, ids, "prompt_token_ids") end
    for i, one in ipairs(many and ids or {ids}) do
      local where = many and ("prompt_token_ids[%d]"):format(i) or "prompt_token_ids"
      list[i] = {input_ids = token_ids(what, where, one)}
    end
  else
    local chunks = errors.expect(what, "model_input", options.model_input, "table")
    if #chunks == 0 then fail(what, "model_input must be a list of chunks, not empty") end
    local first = chunks[1]
    local many = type(first) == "table" and first.type == nil and type(first[1]) == "table"
    if many then failure.whole_list(what, chunks, "model_input") end
    for i, one in ipairs(many and chunks or {chunks}) do
      local where = many and ("model_input[%d]"):format(i) or "model_input"
      local ids, pictures = lower_chunks(what, where, one, options.image_token_id)
      list[i] = {input_ids = ids, pictures = pictures}
    end
  end
  if #list == 0 then fail(what, "there is no prompt in the list") end
  return list
end

local function add_images(what, options, list)
  if options.images == nil then return end
  if options.model_input ~= nil then fail(what, "with model_input, images are chunks of it") end
  local given = errors.expect(what, "images", options.images, "table")
  if #given == 0 then return end
  local nested = type(given[1]) == "table" and not images.is_handle(given[1])
  if nested and #given ~= #list then
    fail(what, ("images has %d lists for %d prompts"):format(#given, #list))
  end
  failure.whole_list(what, given, "images")
  for i, prompt in ipairs(list) do
    prompt.pictures = {}
    local own = given
    if nested then
      own = given[i]
      errors.expect(what, ("images[%d]"):format(i), own, "table")
      failure.whole_list(what, own, ("images[%d]"):format(i))
    end
    for k, image in ipairs(own) do
      prompt.pictures[k] = images.check(what, nested and ("images[%d][%d]"):format(i, k) or ("images[%d]"):format(k),
        image)
    end
  end
end

-- All raw bytes go as they are; with a handle among them each stands in a message that says which it is.
local function put_images(wired, pictures)
  if not pictures or #pictures == 0 then return end
  local any_handle = false
  for _, picture in ipairs(pictures) do any_handle = any_handle or images.is_handle(picture) end
  if not any_handle then
    wired.images = pictures
    return
  end
  wired.image_inputs = {}
  for i, picture in ipairs(pictures) do
    wired.image_inputs[i] = images.is_handle(picture) and {image_handle = picture.id} or {data = picture}
  end
end

local function read_stop(what, stop)
  if stop == nil then return nil end
  if type(stop) == "string" then stop = {stop} end
  failure.whole_list(what, errors.expect(what, "stop", stop, "table"), "stop")
  for i, text in ipairs(stop) do
    if type(text) ~= "string" or text == "" then fail(what, ("stop[%d] must be a text, not empty"):format(i)) end
  end
  return stop
end

local function read_seeds(what, options, count)
  if options.seed ~= nil and options.seeds ~= nil then fail(what, "seed and seeds exclude each other") end
  if options.seed ~= nil then
    local first = integer(what, "seed", options.seed)
    return function(i) return first + i - 1 end
  elseif options.seeds ~= nil then
    local seeds = options.seeds
    if not is_list(seeds) or #seeds ~= count then
      fail(what, ("seeds must be a list with one for each of the %d samples"):format(count))
    end
    for i = 1, count do integer(what, ("seeds[%d]"):format(i), seeds[i]) end
    return function(i) return seeds[i] end
  end
  return function() return nil end
end

---@class training.SamplingPlan
---@field prompts table[] InferencePrompt messages, one for each sample
---@field num_samples integer
---@field num_prompts integer
---@field max_tokens integer
---@field timeout number
---@field prompt_bytes integer length of all prompts that are texts
---@field prompt_ids integer number of ids of the others

--- Reads the options of a sampling call. Raises kind "argument".
---@param what string
---@param options table see `model:sample`
---@param default_timeout number
---@return training.SamplingPlan
function sampling.plan(what, options, default_timeout)
  local list = read_prompts(what, options)
  add_images(what, options, list)
  local num_samples = integer(what, "num_samples", options.num_samples or DEFAULTS.num_samples, 1)
  if num_samples > MOST_SAMPLES // #list then
    fail(what, ("%d samples of %d prompts are more than the %d that one call can ask for"):format(num_samples, #list,
      MOST_SAMPLES), "several calls")
  end
  local max_tokens = integer(what, "max_tokens", options.max_tokens or DEFAULTS.max_tokens, 1)
  local timeout = options.timeout or default_timeout
  if type(timeout) ~= "number" or timeout ~= timeout or timeout <= 0 then
    fail(what, "'timeout' must be a number of seconds above 0")
  end
  for _, name in ipairs{"return_prompt_logprobs", "return_prompt_token_ids", "return_expert_routing"} do
    errors.expect(what, name, options[name], "boolean|nil")
  end
  errors.expect(what, "metrics_type", options.metrics_type, "string|nil")
  errors.expect(what, "image_token_id", options.image_token_id, "integer|nil")
  if options.top_p == 0 then fail(what, "'top_p' must be above 0", "temperature = 0 takes the most likely token") end
  local logprobs = options.logprobs and integer(what, "logprobs", options.logprobs, 0) or 0
  local settings = {
    max_tokens = max_tokens,
    temperature = number(what, "temperature", options.temperature or DEFAULTS.temperature, 0, 1e6),
    top_p = number(what, "top_p", options.top_p or DEFAULTS.top_p, 0, 1),
    top_k = integer(what, "top_k", options.top_k or DEFAULTS.top_k, -1),
    stop = read_stop(what, options.stop),
    return_prompt_logprobs = options.return_prompt_logprobs and true or nil,
    return_prompt_token_ids = options.return_prompt_token_ids and true or nil,
    return_expert_routing = options.return_expert_routing and true or nil,
  }
  if logprobs > 0 then
    settings.logprobs, settings.top_logprobs_format = logprobs, 1
  end
  local seed_of = read_seeds(what, options, #list * num_samples)
  local prompts, prompt_bytes, prompt_ids = {}, 0, 0
  for _, prompt in ipairs(list) do
    for _ = 1, num_samples do
      local wired = {prompt = prompt.prompt, input_ids = prompt.input_ids, seed = seed_of(#prompts + 1)}
      for name, value in pairs(settings) do wired[name] = value end
      put_images(wired, prompt.pictures)
      prompts[#prompts + 1] = wired
      prompt_bytes = prompt_bytes + #(prompt.prompt or "")
      prompt_ids = prompt_ids + (prompt.input_ids and #prompt.input_ids or 0)
    end
  end
  return {prompts = prompts, num_samples = num_samples, num_prompts = #list, max_tokens = max_tokens,
    timeout = timeout, prompt_bytes = prompt_bytes, prompt_ids = prompt_ids,
    shows_prompt = settings.return_prompt_logprobs or settings.return_prompt_token_ids
      or settings.return_expert_routing or false}
end

return sampling
