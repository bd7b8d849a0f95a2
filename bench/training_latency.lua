-- How long samples take to reach the script after the service has them: training_latency.lua PORT CONTROL alone|batch
-- SECONDS …
--
-- Orders the stand-in to work so long on each sample. alone: one sample call after the other; batch: all in one batch.
-- Prints for each sample the milliseconds from the end of that work.

local clock = require "riverlua.clock"
local http = require "riverlua.http"
local json = require "riverlua.json"
local training = require "training"

local port, control, how = tonumber(arg[1]), arg[2], arg[3]
local works = {}
for i = 4, #arg do works[#works + 1] = tonumber(arg[i]) end

local web <close> = http.Client{proxy = false}
local function order(fault)
  local answer = web:post(("http://127.0.0.1:%s/fault"):format(control), {body = json.encode(fault)})
  assert(answer.status == 200, answer.body)
end

local function told(begun, work) print(("%.3f"):format(1e3 * (clock.now() - begun - work))) end

local client <close> = training.Client{api_key = "bench", endpoint = "http://127.0.0.1", port = port,
  http = {proxy = false}}
local session <close> = client:session{}
local model = session:create_model{base_model = "standin/bytes", lora = training.LoraConfig{rank = 8}}
local function alone(work)
  order{method = "SampleFromTraining", work = work}
  local begun = clock.now()
  assert(#model:sample{prompts = {"What is 7 + 5?"}, max_tokens = 16}[1] == 1)
  told(begun, work)
end
if how == "alone" then
  for _, work in ipairs(works) do alone(work) end
else
  local handles, prompts = {}, {}
  for i, work in ipairs(works) do handles[tostring(i - 1)], prompts[i] = {work = work}, "What is 7 + 5?" end
  order{method = "SubmitSamplingBatch", handles = handles}
  local begun = clock.now()
  for _, prompt_index in model:sample_as_completed{prompts = prompts, max_tokens = 16} do
    told(begun, works[prompt_index])
  end
end
