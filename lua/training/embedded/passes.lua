--- Forward and backward passes. (Forward, ForwardBackward, PrepareLoss)
--
-- Requests are judged in two places: what concerns the request as a whole here, when it comes; its datums by the
-- engine when its turn has come. Both refuse with INVALID_ARGUMENT.

local models = require "training.embedded.models"
local nest = require "training.nest"
local policies = require "training.embedded.policies"
local refusal = require "training.embedded.refusal"
local uploads = require "training.embedded.uploads"

local passes = {}

local GRAPH_LOSS, GRAPH_COLUMN = "loss_graph_v1", "__river_loss_graph_v1"
local MOST_GRAPHS = 64

-- Loss → the settings that it knows; all but the graph know logprob_temperature.
local LOSSES = {
  cross_entropy = {}, importance_sampling = {}, ppo = {"clip_low", "clip_high"},
  cispo = {"eps_max", "use_perfect_ratio", "score_centering"},
  echo_cispo = {"eps_max", "echo_coef", "use_perfect_ratio", "score_centering"}, dro = {"beta"},
  [GRAPH_LOSS] = {},
}
for loss, settings in pairs(LOSSES) do
  for i, name in ipairs(settings) do
    settings[i], settings[name] = nil, true
  end
  if loss ~= GRAPH_LOSS then settings.logprob_temperature = true end
end

local LOSS_NAMES = "cispo, cross_entropy, dro, echo_cispo, importance_sampling, ppo"

local function check_config(loss, config)
  local known = LOSSES[loss]
  if not known then refusal.wrong("no loss is called '%s': there are %s", loss, LOSS_NAMES) end
  for name, value in pairs(config) do
    if not known[name] then refusal.wrong("loss_fn_config: %s knows no %s", loss, name) end
    if value ~= value or value == math.huge or value == -math.huge then
      refusal.wrong("loss_fn_config: %s is not finite", name)
    end
  end
  for _, name in ipairs{"logprob_temperature", "eps_max"} do
    if config[name] and config[name] <= 0 then refusal.wrong("loss_fn_config: %s is not positive", name) end
  end
end

-- ---- custom losses -------------------------------------------------------------------------------------------

-- A loss graph as the engine takes it.
local function compile(model, bytes)
  local known = model.graphs[bytes]
  if known then return known end
  local compiled = require("training.embedded.graph").compile(bytes)
  if model.graph_count >= MOST_GRAPHS then model.graphs, model.graph_count = {}, 0 end
  model.graphs[bytes], model.graph_count = compiled, model.graph_count + 1
  return compiled
end

local function graph_of(model, data)
  local ok, columns = pcall(nest.decode, data[1])
  if not ok then refusal.wrong("datum 0: %s", columns.message or tostring(columns)) end
  local column = type(columns) == "table" and columns[GRAPH_COLUMN]
  if not column or type(column) == "table" or type(column) == "string" or column.dtype ~= "uint8" then
    refusal.wrong("datum 0: %s is missing", GRAPH_COLUMN)
  end
  return compile(model, column:bytes())
end

-- What compiling raises: a graph that is wrong is a request that is wrong.
local function compiled(fn, ...)
  local ok, result = pcall(fn, ...)
  if ok then return result end
  local refused = refusal.outcome(result)
  error(refused or result, 0)
end

-- ---- passes --------------------------------------------------------------------------------------------------

local function output(found)
  local lists = {}
  for i = 1, #found.logprobs do lists[i] = found.logprobs[i] end
  return {forward_backward = {type = "forward_backward", loss_fn_output_type = "logprobs",
    loss_fn_outputs = {logprobs = {data = nest.encode(lists)}}, metrics = found.metrics,
    usage = {training_tokens = found.tokens, total_tokens = found.tokens}}}
end

local function check_input(model, given)
  if not given then refusal.wrong("no data") end
  if #given.data == 0 then refusal.wrong("no data") end
  check_config(given.loss_fn, given.loss_fn_config)
  if given.force_routing_replay ~= "" or given.compute_expert_flip_metric then
    refusal.wrong("%s: %s is a dense model, it has no experts", given.force_routing_replay ~= ""
      and "force_routing_replay" or "compute_expert_flip_metric", model.base_model)
  end
  local data = {}
  for i, datum in ipairs(given.data) do
    if #datum.resolved_image_handles > 0 then refusal.wrong("datum %d: the model sees no images", i - 1) end
    data[i] = datum.data
  end
  return data
end

local function pass(service, model, request, given, call, gradients, admit)
  local data = check_input(model, given)
  local graph = given.loss_fn == GRAPH_LOSS and compiled(graph_of, model, data) or nil
  local again = policies.guard(model, request.expected_policy_id)
  local options = {loss = given.loss_fn, config = given.loss_fn_config, gradients = gradients,
    clear = gradients and given.init_gradients, graph = graph}
  local future = service:submit(call, {model = model}, function()
    again()
    return output(models.core_of(model):pass(data, options))
  end)
  admit(future.request_id)
  return future
end

local methods = {}
passes.methods = methods

function methods.Forward(service, request, call)
  local model = models.find(service, request.model_id)
  local again, admit = models.sequence(call, model, request)
  if again then return {request_id = again, type = call.method} end
  local given = request.forward_input
  if given and (given.gradient_accumulation or given.init_gradients) then
    refusal.wrong("Forward with gradients")
  end
  return pass(service, model, request, given, call, false, admit)
end

function methods.ForwardBackward(service, request, call)
  local model = models.find(service, request.model_id)
  local again, admit = models.sequence(call, model, request)
  if again then return {request_id = again, type = call.method} end
  if request.upload_id ~= "" then request = uploads.resolve(service, request) end
  return pass(service, model, request, request.forward_backward_input, call, true, admit)
end

function methods.PrepareLoss(service, request)
  local model = models.find(service, request.model_id)
  if request.model_name ~= model.base_model then
    refusal.wrong("the model %s, %s was expected", request.model_name, model.base_model)
  end
  compiled(compile, model, request.graph)
  return {}
end

return passes
