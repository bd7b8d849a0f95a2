-- The trainer's work through riverlua.core.trainer, as the embedded service does it:
-- riverlua bench/trainer_embedded.lua [threads]
-- Reads the commands of trainer_torch.py from standard input, and answers each with a line of JSON.

local array = require "riverlua.array"
local clock = require "riverlua.clock"
local datum = require "training.datum"
local json = require "riverlua.json"
local trainer = require "riverlua.core.trainer"

local engine = trainer.open{threads = math.tointeger(tonumber(arg[1] or 2))}
local models, lists = {}, {}

local function model_of(width, layers, vocabulary, context)
  local key = ("%d %d %d %d"):format(width, layers, vocabulary, context)
  if not models[key] then
    local base = engine:base({vocabulary = vocabulary, width = width, layers = layers, heads = 4, hidden = 4 * width,
      context = context, positions = "learned", tied = false}, nil, 1)
    models[key] = engine:model(base)
  end
  return models[key]
end

-- The bytes of datums, as they come from a client.
local function data_of(vocabulary, tokens, batch)
  local key = ("%d %d %d"):format(vocabulary, tokens, batch)
  if not lists[key] then
    local list, weights = {}, array.fill("float32", tokens, 1)
    for i = 1, batch do
      local ids = {}
      for t = 1, tokens do ids[t] = math.random(0, vocabulary - 1) end
      list[i] = datum.encode{input_ids = array.int64(ids), weights = weights}
    end
    lists[key] = list
  end
  return lists[key]
end

local commands = {}

function commands.info()
  return engine:info()
end

function commands.train(width, layers, vocabulary, tokens, batch, steps)
  local model, data = model_of(width, layers, vocabulary, tokens), data_of(vocabulary, tokens, batch)
  local begun, cpu = clock.now(), os.clock()
  for _ = 1, steps do
    model:pass(data, {loss = "cross_entropy", config = {}, gradients = true, clear = true})
    model:step{lr = 1e-3, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0}
  end
  return {tokens = steps * batch * tokens, seconds = clock.now() - begun, cpu = os.clock() - cpu}
end

function commands.sample(width, layers, vocabulary, prompt, new, batch, count)
  local model, made = model_of(width, layers, vocabulary, prompt + new), 0
  local begun, cpu = clock.now(), os.clock()
  for round = 1, count do
    local requests = {}
    for i = 1, batch do
      local ids = {}
      for t = 1, prompt do ids[t] = math.random(0, vocabulary - 1) end
      requests[i] = {ids = ids, max_tokens = new, temperature = 1, top_p = 1, top_k = -1, seed = round * batch + i}
    end
    for _, result in ipairs(model:sample(requests)) do made = made + #result.ids end
  end
  return {tokens = made, seconds = clock.now() - begun, cpu = os.clock() - cpu}
end

io.stdout:setvbuf("line")
for line in io.lines() do
  local name, rest = line:match("^(%a+)(.*)$")
  local numbers = {}
  for word in rest:gmatch("%d+") do numbers[#numbers + 1] = math.tointeger(tonumber(word)) end
  print(json.encode(commands[name](table.unpack(numbers))))
end
