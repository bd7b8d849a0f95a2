-- forward_backward of 64 datums of 4,096 tokens: training_backward.lua tables|arrays CALLS [PORT]
--
-- Without a port the service is an object in this process, and what is timed is the way from the call to the bytes of
-- the request. With one it is servers/grpc_stub.c, and it is the whole call. Prints the size of the request (0 with a
-- port) and, for each call, its milliseconds and its milliseconds of CPU.

local array = require "riverlua.array"
local clock = require "riverlua.clock"
local protobuf = require "riverlua.protobuf"
local training = require "training"

local how, calls, port = arg[1], tonumber(arg[2]), tonumber(arg[3])
local DATUMS, TOKENS = 64, 4096

local function columns_of(number)
  local ids, mask, logprobs, advantages = {}, {}, {}, {}
  for i = 1, TOKENS do
    ids[i], mask[i] = (i * 7919 + number * 104729) % 150000, 1
    logprobs[i], advantages[i] = -(i % 1000) / 400, (number % 9) / 4 - 1.0
  end
  return {input_ids = ids, attention_mask = mask, old_logprobs = logprobs, advantages = advantages}
end

local function packed(columns)
  return {input_ids = array.int64(columns.input_ids), attention_mask = array.int64(columns.attention_mask),
    old_logprobs = array.float32(columns.old_logprobs), advantages = array.float32(columns.advantages)}
end

-- The service: answers like the stub, and notes when a pass arrives.
local arrived, arrived_cpu, size = 0, 0, 0
local methods = protobuf.training:service("river.api.v1.RiverService").methods
local REPLIES = {
  CreateSession = {session_id = "bench"}, UnloadModel = {request_id = "unload"}, CreateModel = {request_id = "create"},
  ForwardBackward = {request_id = "pass"},
}
local RESULTS = {create = {create_model = {model_id = "model-0", training_run_id = "run-0"}},
  pass = {forward_backward = {metrics = {loss_sum = 1.5}}}, unload = {unload_model = {}}}
local here = {takes_blocks = true, pause = function() end}

function here.rpc(_, method, bytes)
  if method == "ForwardBackward" then arrived, arrived_cpu, size = clock.now(), os.clock(), #bytes end
  local reply = REPLIES[method] or RESULTS[methods[method].request:decode(bytes).request_id]
  return methods[method].response:encode(reply)
end

local data = {}
for i = 1, DATUMS do
  data[i] = columns_of(i)
  if how == "arrays" then data[i] = packed(data[i]) end
end
local client <close> = training.Client(port and {api_key = "bench", endpoint = "http://127.0.0.1", port = port,
  http = {proxy = false}} or {api_key = "bench", transport = here})
local session <close> = client:session{}
local model = session:create_model{base_model = "standin/bytes", lora = training.LoraConfig{rank = 8}}
local lines = {}
for i = 1, calls + 1 do   -- the first one brings the modules in
  local from, cpu = clock.now(), os.clock()
  model:forward_backward{data = data, loss_fn = "importance_sampling"}
  if port then arrived, arrived_cpu = clock.now(), os.clock() end
  lines[i] = ("%.4f %.4f"):format(1e3 * (arrived - from), 1e3 * (arrived_cpu - cpu))
end
print(size)
print(table.concat(lines, "\n", 2))
