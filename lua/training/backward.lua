--- Forward and backward passes: from datums to requests and from results to numbers. (Forward, ForwardBackward)

local array = require "riverlua.array"
local clock = require "riverlua.clock"
local datum = require "training.datum"
local errors = require "riverlua.errors"
local failure = require "training.failure"
local future = require "training.future"
local losses = require "training.losses"
local merged = require "training.merged"
local nest = require "training.nest"
local upload = require "training.upload"

local backward = {}

-- Room for everything in a request that is not a datum, and around each datum.
local REQUEST_ROOM, DATUM_ROOM = 64 * 1024, 16

local OWN = {}
for name in ([[data loss_fn timeout return_logprobs zero_out compute_expert_flip_metric force_routing_replay
  expected_policy_id allow_routing_fallback poll_interval]]):gmatch("%S+") do OWN[name] = true end

local function fail(what, message, hint)
  errors.raise{kind = "argument", message = what .. ": " .. message, hint = hint}
end

---@class training.ForwardResult
---@field metrics table<string, number> sums over tokens and what follows from them: `loss`, `mean_ratio`, `kl` …
---@field logprobs riverlua.Array[]|nil for each datum the log-probability of each target, T or T - 1 long. Raises kind
--- "protocol" when what the service sent cannot be read.
---@field usage table|nil tokens: prompt_tokens, completion_tokens, total_tokens, training_tokens
local ForwardResult = {}
ForwardResult.__name = "training.ForwardResult"

-- A list of vectors, one matrix or one vector: in any case one vector for each datum.
local function read_logprobs(value, count)
  if type(value) == "table" then return value end
  if not array.is(value) then return nil end
  if #value.shape == 2 then
    local list = {}
    for i = 1, #value do list[i] = value[i] end
    return list
  end
  return count == 1 and {value} or nil
end

-- Log-probabilities are decoded when somebody asks for them: they may be the largest part of an answer.
function ForwardResult.__index(self, name)
  if name ~= "logprobs" then return nil end
  local parts = rawget(self, "parts")
  local all = {}
  for _, part in ipairs(parts) do
    if not part.bytes then return nil end
    local ok, value = pcall(nest.decode, part.bytes)
    local list = ok and read_logprobs(value, part.count)
    if not list then
      error(failure.protocol({what = part.what, request_id = part.request_id},
        "the log-probabilities that the service sent cannot be read: " .. (ok and "not a list of vectors"
        or errors.is(value) and value.message or tostring(value))), 0)
    end
    table.move(list, 1, #list, #all + 1, all)
  end
  rawset(self, "logprobs", all)
  return all
end

function ForwardResult:__tostring()
  local loss, tokens, count = self.metrics.loss, self.metrics.num_tokens, 0
  for _ in pairs(self.metrics) do count = count + 1 end
  return ("training.ForwardResult(%d metrics%s%s)"):format(count, loss and (", loss %.6g"):format(loss) or "",
    tokens and (", %.0f tokens"):format(tokens) or "")
end

function ForwardResult.__names() return {"logprobs", "metrics", "usage"} end

local function new_result(parts, sizes)
  local metrics, usage = {}, nil
  for i, part in ipairs(parts) do
    metrics[i] = part.metrics
    for name, value in pairs(part.usage or {}) do
      usage = usage or {}
      usage[name] = (usage[name] or 0) + value
    end
  end
  return setmetatable({metrics = merged.metrics(metrics, sizes), usage = usage, parts = parts}, ForwardResult)
end

--- Brings the ways to call to one table: `model:forward_backward{data = …}`, `(data, {…})`, `(data, loss_fn, {…})`.
---@param what string
---@param given any
---@param second any
---@param third any
---@param own table<string, any>|nil options beside those of every pass
---@return table options
---@return table<string, any> settings of the loss: what is no option
function backward.arguments(what, given, second, third, own)
  local options, settings = {}, {}
  local function take(from)
    for name, value in pairs(errors.expect(what, "options", from, "table")) do
      local into = (OWN[name] or own and own[name]) and options or settings
      if into[name] ~= nil then fail(what, ("'%s' is given twice"):format(tostring(name))) end
      into[name] = value
    end
  end
  if type(given) == "table" and given.data ~= nil then
    take(given)
    if second ~= nil then fail(what, "options in one table, or data and a table of options") end
  else
    options.data = given
    if type(given) == "table" and given[1] ~= nil then failure.plain_list(what, given, "data") end
    if losses.is(second) then
      options.loss_fn = second
      if third ~= nil then take(third) end
    elseif second ~= nil then
      take(second)
      if third ~= nil then fail(what, "options in one table") end
    end
  end
  future.check_interval(what, options.poll_interval)
  return options, settings
end

local function flag(what, options, name)
  return errors.expect(what, name, options[name], "boolean|nil") or false
end

local function check_routing(what, data)
  for i, one in ipairs(data) do
    if one.expert_routing_handle == nil then
      fail(what, ("datum %d has no expert_routing_handle"):format(i),
        "sample with return_expert_routing = true and put sample.expert_routing.handle into the datum")
    end
  end
end

---@class training.BackwardPlan
---@field parts table[] {block =, tokens =, count =}, each small enough for one request
---@field input table the fields of ForwardBackwardInput beside the data
---@field training_tokens integer

--- Checks and encodes datums and splits them where one request would be too large. Nothing is sent yet.
---@param what string
---@param options table
---@param settings table
---@param prepare fun(graph: table) registers a loss graph with the service
---@return training.BackwardPlan
function backward.plan(what, options, settings, prepare)
  local data = options.data
  if type(data) ~= "table" or data.input_ids ~= nil or data.model_input ~= nil then
    fail(what, "data must be a list of datums", "write {datum} for a single one")
  end
  failure.whole_list(what, data, "data")
  if #data == 0 then
    local near
    for name in pairs(data) do
      if type(name) == "string" then near = near or name end
    end
    if near then fail(what, ("there is no 'data' among the options, but '%s'"):format(near), what .. "{data = {…}}") end
    fail(what, "there are no datums in data", "skip the step when no group has a signal")
  end
  local name, config, graph = losses.read(what, options.loss_fn, settings)
  local replay = flag(what, options, "force_routing_replay")
  local flips = flag(what, options, "compute_expert_flip_metric")
  if replay or flips then check_routing(what, data) end
  if graph then
    if next(config) then fail(what, "a loss graph has its constants inside: it takes no settings") end
    prepare(graph)
    local own = {}
    for i, one in ipairs(data) do
      -- those without loss_data have been made into datums of the graph before
      own[i] = type(one) == "table" and one.loss_data ~= nil and graph:datum(one) or one
    end
    data = own
  end
  local input = {loss_fn = name, loss_fn_config = config, compute_expert_flip_metric = flips or nil,
    force_routing_replay = replay and "ids" or nil}
  local parts, part, total = {}, nil, 0
  for i, one in ipairs(data) do
    local planned = datum.plan(one, i)
    local size = planned.size + DATUM_ROOM
    if size + REQUEST_ROOM > upload.LARGEST then
      fail(what, ("datum %d is larger than a request may be (1 GiB)"):format(i))
    end
    if not part or part.size + size > upload.LARGEST then
      part = {size = REQUEST_ROOM, data = {}, tokens = 0}
      parts[#parts + 1] = part
    end
    part.data[#part.data + 1] = planned
    part.size, part.tokens, total = part.size + size, part.tokens + planned.tokens, total + planned.tokens
  end
  if graph and #parts > 1 then fail(what, "with a loss graph, the datums of one call must fit into 1 GiB") end
  for _, each in ipairs(parts) do
    each.block, each.count, each.data = datum.block(each.data), #each.data, nil
  end
  return {parts = parts, input = input, training_tokens = total}
end

-- The service's two ways to say, before it queues anything, that a routing capture is gone.
local function is_capture_gone(err)
  if err.code ~= "FAILED_PRECONDITION" then return false end
  local details = tostring(err.details)
  return details == "routing capture expired before admission"
    or details:find('^data%[%d+%]: routing handle failed the compatibility check %(routing reference "[%x-]+" '
    .. 'expired or was never persisted — re%-sample the affected prompts%)$') ~= nil
end

-- The input and the datums of a request that has been made, without what is about routing.
local function without_routing(plan_input, datums)
  local input, plain = {}, {}
  for name, value in pairs(plan_input) do input[name] = value end
  input.force_routing_replay, input.compute_expert_flip_metric = nil, nil
  for i, message in ipairs(datums) do
    local columns, kept = nest.decode(message.data), {}
    for _, name in ipairs(nest.keys(columns)) do
      if not name:find("^expert_routing_") then kept[#kept + 1] = {name, columns[name]} end
    end
    plain[i] = {data = nest.encode(nest.dict(kept))}
  end
  return input, plain
end

---@class training.SendOptions
---@field what string
---@field kind "Forward"|"ForwardBackward"
---@field timeout number
---@field zero_out boolean|nil
---@field expected_policy_id string|nil
---@field fallback boolean|nil
---@field poll_interval number|nil

-- The member of a request that has the datums, and its tag: it is the field 3 of both.
local INPUT = {Forward = "forward_input", ForwardBackward = "forward_backward_input"}
local INPUT_TAG = "\x1a"

-- The bytes of a request. `data`: a block, which becomes the request, or messages.
local function encode(model, plan_input, data, seq_id, options)
  local wire, kind, what = model.session.wire, options.kind, options.what
  local request, input = {model_id = model.model_id, seq_id = seq_id}, {}
  for name, value in pairs(plan_input) do input[name] = value end
  if kind == "ForwardBackward" then
    input.gradient_accumulation, input.init_gradients = true, options.zero_out or nil
  end
  if type(data) == "table" then
    input.data = data
    request[INPUT[kind]], request.expected_policy_id = input, options.expected_policy_id
    return wire:encode(kind, request, what)
  end
  return data:frame(wire:encode(kind, request, what) .. INPUT_TAG, wire:type("ForwardBackwardInput"):encode(input),
    wire:encode(kind, {expected_policy_id = options.expected_policy_id}, what))
end

-- After these nobody knows what the service made of a request that was sent.
local UNCLEAR = {unavailable = true, timeout = true, grpc = true, protocol = true}

-- Sends one request, whole or as an upload; returns its request id.
local function submit(model, plan_input, data, seq_id, options)
  local session = model.session
  local bytes = encode(model, plan_input, data, seq_id, options)
  if options.kind == "ForwardBackward" then
    local upload_id = upload.maybe(session, options.what, model.model_id, bytes)
    if upload_id then
      bytes = session.wire:encode(options.kind, {model_id = model.model_id, seq_id = seq_id, upload_id = upload_id,
        expected_policy_id = options.expected_policy_id})
    end
  end
  -- Gradients that are cleared first come out the same when this happens twice; added ones do not.
  local safe = options.kind == "Forward" or options.zero_out
  local ok, result = pcall(session.submit, session, options.what, options.kind, nil, {bytes = bytes, safe = safe,
    deadline = clock.now() + options.timeout})
  if ok then return result end
  if errors.is(result) and not safe and result.sent and UNCLEAR[result.kind] then
    result.hint = "whether its gradients were added is not known: begin anew, with zero_out = true"
  end
  error(result, 0)
end

local function submit_with_fallback(model, plan_input, block, seq_id, options)
  local ok, result = pcall(submit, model, plan_input, block, seq_id, options)
  if ok then return result end
  if not (options.fallback and errors.is(result) and is_capture_gone(result)) then error(result, 0) end
  model.session.client:warn(options.what .. ": the routing captures are gone; sent again without replay")
  local sent = model.session.wire.methods[options.kind].request:decode(block:sub())
  local input, plain = without_routing(plan_input, sent[INPUT[options.kind]].data)
  return submit(model, input, plain, seq_id, options)
end

--- Submits one part; returns the operation, whose result is a part of the whole result.
---@param model table
---@param plan training.BackwardPlan
---@param index integer
---@param options training.SendOptions
---@return training.PendingOp
function backward.send(model, plan, index, options)
  local part = plan.parts[index]
  local session, count = model.session, part.count
  local ok, request_id = pcall(model.in_turn, model, function(seq_id)
    return submit_with_fallback(model, plan.input, part.block, seq_id, options)
  end)
  part.block:free()   -- at once: the collector does not know how large it is
  if not ok then
    plan.release()
    error(request_id, 0)
  end
  return future.new{
    context = session, what = options.what, request_id = request_id, model_id = model.model_id,
    field = "forward_backward", timeout = options.timeout, poll_interval = options.poll_interval,
    on_failure = function() plan.release() end,
    parse = function(output)
      plan.release(1 / #plan.parts)
      local tensor = output.loss_fn_outputs.logprobs
      session:count_usage(model, output.usage, {training_tokens = part.tokens})
      return {metrics = output.metrics, usage = output.usage, bytes = tensor and tensor.data, count = count,
        what = options.what, request_id = request_id}
    end,
  }, count
end

--- The result of a call from the results of its parts.
---@param parts table[]
---@param sizes integer[]
---@return training.ForwardResult
function backward.result(parts, sizes) return new_result(parts, sizes) end

return backward
