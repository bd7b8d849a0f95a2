--- What comes back from sampling: `Sample` objects, in one list per prompt.

local array = require "riverlua.array"
local errors = require "riverlua.errors"
local failure = require "training.failure"

local samples = {}

---@class training.PolicyVersion A committed state of the weights.
---@field id string
---@field lineage_id string
---@field step integer
---@field parent_id string|nil

--- A PolicyVersion message as the user sees it; nil when there is none.
---@param message table|nil
---@return training.PolicyVersion|nil
function samples.policy(message)
  if not message or message.id == "" then return nil end
  return {id = message.id, lineage_id = message.lineage_id, step = message.step,
    parent_id = message.parent_id ~= "" and message.parent_id or nil}
end

---@class training.TopLogprobs The most likely tokens at each position, best first as the service has them.
---@field rows integer positions
---@field width integer tokens per position; a position with fewer has id -1 and -inf
---@field token_ids riverlua.Array rows × width, int32
---@field logprobs riverlua.Array rows × width, float32

local function matrix(dtype, bytes, columns)
  local elements = array.from_bytes(dtype, bytes)
  return columns > 0 and array.matrix(dtype, elements, columns) or elements
end

local function top_logprobs(call, block)
  if not block or block.rows == 0 and block.token_ids == "" then return nil end
  local count = block.rows * block.width
  if #block.token_ids ~= count * 4 or #block.logprobs ~= count * 4 then
    error(failure.protocol(call, "the block of most likely tokens has another size than it says"), 0)
  end
  return {rows = block.rows, width = block.width,
    token_ids = matrix("int32", block.token_ids, block.width),
    logprobs = matrix("float32", block.logprobs, block.width)}
end

local function expert_routing(routing)
  if not routing then return nil end
  return {num_tokens = routing.num_tokens, num_decoder_layers = routing.num_decoder_layers, top_k = routing.top_k,
    layer_indices = routing.layer_indices, topk_ids = routing.topk_ids, handle = routing.routing_handle}
end

local function policy_spans(spans)
  local list = {}
  for i, span in ipairs(spans) do
    list[i] = {["end"] = span["end"], policy_version = samples.policy(span.policy_version)}
  end
  return list
end

---@class training.Sample One continuation of a prompt.
---@field text string
---@field tokens riverlua.Array ids of the sampled tokens, int32; empty when the service gave only text
---@field logprobs riverlua.Array log-probability of each when it was sampled, float64
---@field stop_reason "stop"|"length" "length": it has as many tokens as were allowed
---@field token_data_is_exact boolean false: there are no ids, or not a log-probability for each; not to be trained on
---@field policy_version training.PolicyVersion|nil the weights that it was sampled from
---@field model_step integer|nil the client's own count of steps when it was asked for
---@field prompt_token_ids riverlua.Array|nil with return_prompt_token_ids, return_prompt_logprobs or
--- return_expert_routing
---@field prompt_logprobs riverlua.Array|nil with return_prompt_logprobs
---@field top_logprobs training.TopLogprobs|nil with logprobs = K
---@field prompt_top_logprobs training.TopLogprobs|nil
---@field expert_routing table|nil with return_expert_routing: num_tokens, num_decoder_layers, top_k, layer_indices,
--- topk_ids (bytes), handle
---@field policy_spans table[] {end, policy_version}: which weights made which beginning of the tokens
---@field prompt_tokens integer length of the prompt
---@field cached_prompt_tokens integer
---@field retained_kv boolean
---@field kv_cache_policy_version training.PolicyVersion|nil
---@field metrics table<string, number>
---@field request_id string the operation it came from
local Sample = {}
Sample.__index = Sample
Sample.__name = "training.Sample"

--- The column of a datum that lets a pass choose the experts that this sample was made with (force_routing_replay,
--- compute_expert_flip_metric): `training.grpo_data(ids, sample, advantage, sample:routing_datum_keys())`. Empty when
--- there is no capture; raises kind "argument" then if `required`.
---@param required boolean|nil
---@return {expert_routing_handle: string|nil}
function Sample:routing_datum_keys(required)
  local routing = self.expert_routing
  if routing and routing.handle ~= "" then return {expert_routing_handle = routing.handle} end
  if required then
    errors.raise{kind = "argument", message = "routing_datum_keys: the sample has no capture of its routing",
      hint = "sample a mixture of experts with return_expert_routing = true"}
  end
  return {}
end

function Sample:__tostring()
  local text = self.text
  if #text > 40 then text = text:sub(1, utf8.offset(text, 0, 41) - 1) .. "…" end
  return ("training.Sample(%q, %d tokens, %s)"):format(text, #self.tokens, self.stop_reason)
end

---@param call training.Call
---@param result table InferenceResult
---@param plan training.SamplingPlan
---@param model_step integer|nil
---@return training.Sample
function samples.one(call, result, plan, model_step)
  local tokens, logprobs = result.token_ids, result.token_logprobs
  local prompt_ids = plan.shows_prompt and #result.prompt_token_ids > 0 and result.prompt_token_ids or nil
  return setmetatable({
    text = result.text, tokens = tokens, logprobs = logprobs,
    stop_reason = #tokens >= plan.max_tokens and "length" or "stop",
    token_data_is_exact = #tokens > 0 and #tokens == #logprobs,
    model_step = model_step, request_id = call.request_id, policy_version = samples.policy(result.policy_version),
    policy_spans = policy_spans(result.policy_spans), prompt_token_ids = prompt_ids,
    prompt_logprobs = #result.prompt_token_logprobs > 0 and result.prompt_token_logprobs or nil,
    top_logprobs = top_logprobs(call, result.top_logprobs),
    prompt_top_logprobs = top_logprobs(call, result.prompt_top_logprobs),
    expert_routing = expert_routing(result.expert_routing), metrics = result.metrics, retained_kv = result.retained_kv,
    cached_prompt_tokens = result.cached_prompt_tokens, prompt_tokens = result.prompt_tokens,
    kv_cache_policy_version = samples.policy(result.kv_cache_policy_version),
  }, Sample)
end

--- All results of a whole batch, in one list per prompt.
---@param call training.Call
---@param response table InferenceResponse
---@param plan training.SamplingPlan
---@param model_step integer|nil
---@return training.Sample[][]
function samples.groups(call, response, plan, model_step)
  local results = response.results
  if #results ~= #plan.prompts then
    error(failure.protocol(call, ("the service gave %d results for %d prompts"):format(#results, #plan.prompts)), 0)
  end
  local groups = {}
  for i = 1, plan.num_prompts do
    local group = {}
    for k = 1, plan.num_samples do
      group[k] = samples.one(call, results[(i - 1) * plan.num_samples + k], plan, model_step)
    end
    groups[i] = group
  end
  return groups
end

--- What samples used, counted here: for services that do not say.
---@param groups training.Sample[][]
---@return {prompt_tokens: integer, completion_tokens: integer}
function samples.usage(groups)
  local usage = {prompt_tokens = 0, completion_tokens = 0}
  for _, group in ipairs(groups) do
    for _, sample in ipairs(group) do
      usage.prompt_tokens = usage.prompt_tokens + sample.prompt_tokens
      usage.completion_tokens = usage.completion_tokens + #sample.tokens
    end
  end
  return usage
end

errors.want_colon(Sample, "sample")

return samples
