--- Samples: prompts are judged when the request comes, and sampled when its turn has come.
-- (SampleFromTraining, InferenceGenerate, SampleFromCheckpoint)

local array = require "riverlua.array"
local clock = require "riverlua.clock"
local models = require "training.embedded.models"
local refusal = require "training.embedded.refusal"
local weights = require "training.embedded.weights"

local sampling = {}

local MOST_STOPS, LONGEST_STOP, MOST_LOGPROBS = 64, 4096, 1024
-- What the results of a request may come to: they are in memory several times on their way.
local LARGEST_RESULTS = 256 << 20
local BYTES = 256   -- ids below it are the bytes of texts

-- ---- what is asked for ---------------------------------------------------------------------------------------

local function check_settings(where, prompt, config)
  if prompt.max_tokens < 1 then
    refusal.wrong("%s: max_tokens must be at least 1, got %d", where, prompt.max_tokens)
  end
  if not (prompt.temperature >= 0 and prompt.temperature < math.huge) then
    refusal.wrong("%s: temperature must be 0 or more, got %s", where, refusal.number(prompt.temperature))
  end
  if not (prompt.top_p > 0 and prompt.top_p <= 1) then
    refusal.wrong("%s: top_p must be above 0 and at most 1, got %s", where, refusal.number(prompt.top_p))
  end
  if prompt.top_k < -1 then
    refusal.wrong("%s: top_k must be -1 (off) or more, got %d", where, prompt.top_k)
  end
  local logprobs = prompt.logprobs or 0
  local most = math.min(MOST_LOGPROBS, config.vocabulary)
  if logprobs < 0 or logprobs > most then
    refusal.wrong("%s: logprobs must be from 0 to %d, got %d", where, most, logprobs)
  end
  if #prompt.stop > MOST_STOPS then
    refusal.wrong("%s: %d stop strings, at most %d are taken", where, #prompt.stop, MOST_STOPS)
  end
  for _, text in ipairs(prompt.stop) do
    if text == "" then refusal.wrong("%s: an empty stop string", where) end
    if #text > LONGEST_STOP then
      refusal.wrong("%s: a stop string of %d bytes, at most %d are taken", where, #text, LONGEST_STOP)
    end
  end
  if #prompt.images > 0 or #prompt.image_inputs > 0 then refusal.wrong("%s: the model sees no images", where) end
  if prompt.return_expert_routing then
    refusal.wrong("%s: return_expert_routing: the model is dense, it has no experts", where)
  end
  if prompt.kv_cache_policy or prompt.kv_cache_namespace ~= "" then
    refusal.wrong("%s: no cache is kept here (bounded_kv_v1)", where)
  end
end

-- The ids of a prompt; those of a text are remembered, as samples of one prompt follow each other.
local function ids_of(where, prompt, vocabulary, last)
  local given, text = prompt.input_ids, prompt.prompt
  if #given > 0 then
    if text ~= "" then refusal.wrong("%s: both prompt and input_ids", where) end
    local least, most = given:min(), given:max()
    if least < 0 or most >= vocabulary then
      refusal.wrong("%s: the token %d is not in the vocabulary, whose ids are 0 to %d", where,
        least < 0 and least or most, vocabulary - 1)
    end
    return array.int32(given)
  end
  if text == "" then refusal.wrong("%s: neither prompt nor input_ids", where) end
  if last.text ~= text then
    last.text, last.ids = text, array.int32(array.from_bytes("uint8", text))
    if vocabulary < BYTES and last.ids:max() >= vocabulary then
      refusal.wrong("%s: the byte %d is not in the vocabulary, whose ids are 0 to %d", where, last.ids:max(),
        vocabulary - 1)
    end
  end
  return last.ids
end

---@class training.embedded.Wish One sample that is asked for.
---@field ids riverlua.Array
---@field request table for the engine, without a seed when there is none
---@field echo boolean the ids of the prompt are wanted back
---@field size integer bytes that its result takes at most, roughly

--- What an engine needs for a prompt. Refused when something is wrong with it.
---@param where string "prompt 3"
---@param prompt table InferencePrompt
---@param model {config: table, name: string}
---@param last table remembers from one prompt to the next
---@return training.embedded.Wish
function sampling.read(where, prompt, model, last)
  local config = model.config
  check_settings(where, prompt, config)
  local ids = ids_of(where, prompt, config.vocabulary, last)
  if #ids >= config.context then
    refusal.wrong("%s has %d tokens, and the context of %s is %d, of which at least one is for the answer: "
      .. "shorten the prompt to %d or fewer", where, #ids, model.name, config.context, config.context - 1)
  end
  local logprobs, max_tokens = prompt.logprobs or 0, math.min(prompt.max_tokens, config.context - #ids)
  local tokens = max_tokens + (prompt.return_prompt_logprobs and #ids or 0)
  return {ids = ids, echo = prompt.return_prompt_token_ids or prompt.return_prompt_logprobs,
    size = tokens * (12 + 8 * logprobs),   -- an id, its logprob, and those of others
    request = {ids = ids, max_tokens = max_tokens,
      temperature = prompt.temperature, top_p = prompt.top_p, top_k = prompt.top_k < 1 and 0 or prompt.top_k,
      stop = prompt.stop, seed = prompt.seed, top_logprobs = logprobs > 0 and logprobs or nil,
      prompt_logprobs = prompt.return_prompt_logprobs or false}}
end

--- The same for all prompts of a request.
---@return training.embedded.Wish[]
function sampling.read_all(prompts, model)
  if #prompts == 0 then refusal.wrong("no prompts") end
  local wishes, last, size = {}, {}, 0
  for i, prompt in ipairs(prompts) do
    wishes[i] = sampling.read(("prompt %d"):format(i - 1), prompt, model, last)
    size = size + wishes[i].size
  end
  if size > LARGEST_RESULTS then
    refusal.wrong("the results may come to %d MiB, and %d are the most: ask for fewer prompts, tokens or logprobs",
      size >> 20, LARGEST_RESULTS >> 20)
  end
  return wishes
end

-- ---- what comes of it ----------------------------------------------------------------------------------------

--- Bytes as a text in UTF-8: what is none becomes U+FFFD, as a small model may begin a character and not end it.
---@param bytes string
---@return string
function sampling.text(bytes)
  local whole, bad = utf8.len(bytes)
  if whole then return bytes end
  local parts, from = {}, 1
  while bad do
    parts[#parts + 1] = bytes:sub(from, bad - 1)
    parts[#parts + 1] = "\u{FFFD}"
    from = bad + 1
    bad = from <= #bytes and select(2, utf8.len(bytes, from)) or nil
  end
  parts[#parts + 1] = bytes:sub(from)
  return table.concat(parts)
end

local function block_of(top)
  return top and {rows = top.rows, width = top.width, token_ids = top.ids, logprobs = top.logprobs} or nil
end

local function result_of(wish, sample, policy)
  local result = {text = sampling.text(sample.text), token_ids = sample.ids, token_logprobs = sample.logprobs,
    prompt_tokens = #wish.ids, prompt_token_ids = wish.echo and wish.ids or nil,
    prompt_token_logprobs = sample.prompt_logprobs, top_logprobs = block_of(sample.top),
    prompt_top_logprobs = block_of(sample.prompt_top), policy_version = policy}
  if policy and #sample.ids > 0 then
    result.policy_spans = {{["end"] = #sample.ids, policy_version = policy}}
  end
  return result
end

--- Samples, and lets go of the source.
---@param source training.embedded.Source
---@param wishes training.embedded.Wish[]
---@return table[] samples of the engine
function sampling.run(source, wishes)
  local requests = {}
  for i, wish in ipairs(wishes) do
    local request = wish.request
    request.seed = (request.seed or source.seed()) & math.maxinteger
    requests[i] = request
  end
  local ok, results = pcall(source.core.sample, source.core, requests)
  source.done()
  if not ok then error(results, 0) end
  return results
end

--- The InferenceResponse of samples.
---@param wishes training.embedded.Wish[]
---@param results table[] of the engine
---@param policy table|nil
---@param metrics table<string, number>
---@return table
function sampling.response(wishes, results, policy, metrics)
  local list, prompt_tokens, completion_tokens = {}, 0, 0
  for i, wish in ipairs(wishes) do
    list[i] = result_of(wish, results[i], policy)
    prompt_tokens = prompt_tokens + #wish.ids
    completion_tokens = completion_tokens + #results[i].ids
  end
  return {results = list, metrics = metrics, usage = {prompt_tokens = prompt_tokens,
    completion_tokens = completion_tokens, total_tokens = prompt_tokens + completion_tokens}}
end

-- ---- sources -------------------------------------------------------------------------------------------------

---@class training.embedded.Place What a request wants to sample from.
---@field model {config: table, name: string} what prompts are judged by
---@field trained training.embedded.Model|nil
---@field lane_of training.embedded.Model|nil in whose lane it is done
---@field open fun(): training.embedded.Source when its turn has come

--- A base model.
---@return training.embedded.Place
function sampling.of_base(service, name)
  return {model = {config = service:base_model(name).config, name = name},
    open = function() return service.sources:of_base(name) end}
end

-- What is under a path when the turn of a request has come.
local function open_path(service, path, number)
  return service.sources:of_checkpoint(weights.key(path, weights.find(service, path)),
    function() return weights.read(service, path) end, number)
end

--- A checkpoint.
---@param base_model string|nil what it should be of
---@return training.embedded.Place
function sampling.of_checkpoint(service, path, base_model)
  local found = weights.find(service, path)
  if base_model and base_model ~= "" and base_model ~= found.base then
    refusal.wrong("%s is of %s, not of %s", path, found.base, base_model)
  end
  return {model = {config = found.config, name = found.base}, open = function() return open_path(service, path) end}
end

--- A model in training, when its turn has come.
---@param pinned string|nil the policy that it must have then
---@return training.embedded.Place
function sampling.of_model(service, model, pinned)
  local function open()
    local core = models.core_of(model)
    if pinned and model.policy.id ~= pinned then
      refusal.raise("FAILED_PRECONDITION", "policy %s is not available", pinned)
    end
    return service.sources:of_model(model, core)
  end
  return {model = {config = model.config, name = model.base_model}, trained = model, lane_of = model, open = open}
end

--- A snapshot of a model in training, whatever its lane has to do.
---@param snapshot {policy: table, path: string|nil, checkpoint: table|nil, key: string|nil}
---@return training.embedded.Place
function sampling.of_snapshot(service, model, snapshot)
  return {model = {config = model.config, name = model.base_model}, trained = model, open = function()
    if snapshot.path then return open_path(service, snapshot.path, model.number) end
    return service.sources:of_checkpoint(snapshot.key, function() return snapshot.checkpoint end, model.number)
  end}
end

local function generate(service, place, request, call)
  local wishes = sampling.read_all(request.prompts, place.model)
  local submitted = clock.now()
  local metrics_type = request.metrics_type
  return service:submit(call, {model = place.trained}, function()
    local begun = clock.now()
    local source = place.open()
    local results = sampling.run(source, wishes)
    local metrics = {queue_seconds = begun - submitted, request_seconds = clock.now() - submitted}
    if metrics_type ~= "" then metrics.prompts = #wishes end
    return {inference = sampling.response(wishes, results, source.policy, metrics)}
  end)
end

local methods = {}
sampling.methods = methods

function methods.SampleFromTraining(service, request, call)
  return generate(service, sampling.of_model(service, models.find(service, request.model_id)), request, call)
end

function methods.InferenceGenerate(service, request, call)
  return generate(service, sampling.of_base(service, request.base_model), request, call)
end

function methods.SampleFromCheckpoint(service, request, call)
  local place = sampling.of_checkpoint(service, request.checkpoint_path, request.base_model)
  return generate(service, place, request, call)
end

return sampling
