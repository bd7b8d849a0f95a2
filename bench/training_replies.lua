-- The answers of servers/grpc_stub.c to a training client, one argument a line.
--
-- The service's name for an operation is what it does, so that RetrieveFuture can be answered by it.

local protobuf = require "riverlua.protobuf"

local methods = protobuf.training:service("river.api.v1.RiverService").methods
local policy = {id = "policy-0", step = 0, lineage_id = "lineage-0"}
local ids, logprobs, text = {}, {}, "The answer is 12."
for i = 1, #text do ids[i], logprobs[i] = text:byte(i), -1 / i end

local function say(method, reply, about)
  local bytes = methods[method].response:encode(reply)
  local hex = bytes:gsub(".", function(byte) return ("%02x"):format(byte:byte()) end)
  print(("%s%s=%s"):format(method, about and "?" .. about or "", hex))
end

local function operation(method, name, result)
  say(method, {request_id = "bench-" .. name})
  say("RetrieveFuture", {[name] = result}, "bench-" .. name)
end

say("HealthCheck", {status = "ok"})
say("CreateSession", {session_id = "bench"})
say("SessionHeartbeat", {success = true})
say("GetInfo", {policy_version = policy})
operation("CreateModel", "create_model", {model_id = "model-0", training_run_id = "run-0"})
operation("UnloadModel", "unload_model", {})
operation("ForwardBackward", "forward_backward", {metrics = {loss_sum = 1.5, num_tokens = 4096.0}})
operation("SampleFromTraining", "inference", {results = {{text = text, token_ids = ids, prompt_token_ids = ids,
  token_logprobs = logprobs, policy_version = policy}}})
