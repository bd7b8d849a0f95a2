--- What the specs of the embedded trainer's service share: a service on the fake core, and clients on it.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local fake = dofile(folder .. "fake_core.lua")
local embedded = require "training.embedded"
local protobuf = require "riverlua.protobuf"
local training = require "training"

local support = {fake = fake, BASE = fake.BASE}

local RPCS = protobuf.training:service("river.api.v1.RiverService").methods

--- A service and its fake core. `more`: other parts.
function support.service(more)
  local core = fake.new()
  local parts = {core = core:module(), store = fake.store(), base_models = fake.base_models}
  for name, value in pairs(more or {}) do parts[name] = value end
  return require("training.embedded.service").new(parts), core
end

--- A client on a service.
function support.client(service)
  return training.Client{transport = embedded.transport(service), warn = function() end}
end

--- A client, a session, a model and the core. `more`: options of the model.
function support.start(more)
  local service, core = support.service()
  local client = support.client(service)
  local session = client:session()
  local options = {base_model = support.BASE, lora = training.LoraConfig{rank = 16}}
  for name, value in pairs(more or {}) do options[name] = value end
  if options.full_weight then options.lora = nil end
  local model = session:create_model(options)
  return {service = service, core = core, client = client, session = session, model = model}
end

--- Calls a method with a table, gives the reply as one.
function support.call(service, method, request, context)
  return RPCS[method].response:decode(service:call(method, RPCS[method].request:encode(request), context))
end

--- The same for a method that streams: a list.
function support.stream(service, method, request, context)
  local list = {}
  for bytes in service:stream(method, RPCS[method].request:encode(request), context) do
    list[#list + 1] = RPCS[method].response:decode(bytes)
  end
  return list
end

--- The error of a call that has to fail.
function support.refusal(service, method, request, context)
  local ok, err = pcall(support.call, service, method, request, context)
  assert(not ok, method .. " was not refused")
  return err
end

--- What an operation comes to: its RetrieveFutureResponse.
function support.result(service, request_id, model_id)
  while true do
    local reply = support.call(service, "RetrieveFuture", {request_id = request_id, model_id = model_id})
    if not reply.try_again then return reply end
  end
end

--- Submits an operation and gives what it comes to.
function support.run(service, method, request)
  return support.result(service, support.call(service, method, request).request_id)
end

--- A session and a model by RPCs alone.
function support.raw_model(service, more)
  local session_id = support.call(service, "CreateSession", {}).session_id
  local request = {session_id = session_id, model_seq_id = 1, base_model = support.BASE,
    lora_config = {rank = 4, train_attn = true}}
  for name, value in pairs(more or {}) do request[name] = value or nil end
  local made = support.run(service, "CreateModel", request).create_model
  return made.model_id, session_id, made.training_run_id
end

--- A datum.
function support.datum(more)
  local datum = {input_ids = {49, 43, 50}, attention_mask = {1, 1, 1}, old_logprobs = {0.0, -0.5, 0.0},
    advantages = {0.0, 0.5, 0.0}}
  for name, value in pairs(more or {}) do datum[name] = value end
  return datum
end

--- A ForwardBackwardInput.
function support.input(more)
  local input = {data = {{data = require("training.datum").encode(support.datum())}},
    loss_fn = "importance_sampling", gradient_accumulation = true, init_gradients = true}
  for name, value in pairs(more or {}) do input[name] = value end
  return input
end

--- AdamParams.
function support.adam(more)
  local params = {learning_rate = 0.01, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0}
  for name, value in pairs(more or {}) do params[name] = value end
  return params
end

return support
