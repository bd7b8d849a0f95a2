--- What the specs of the training client share: a stand-in (tests/servers/training_standin.py) and clients on it.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local standin = dofile(folder .. "../support/training.lua")
local clock = require "riverlua.clock"
local training = require "training"

local support = {standin = standin, MODEL = standin.model, KEY = "rv-test-key-0123456789"}

--- Options of a client on a stand-in. `more`: others.
function support.options(server, more)
  local options = {api_key = support.KEY, endpoint = "http://127.0.0.1", port = server.port, warn = function() end}
  for name, value in pairs(more or {}) do options[name] = value end
  return options
end

function support.client(server, more) return training.Client(support.options(server, more)) end

--- A session with a model in it. `more`: options of the session.
function support.model(client, more)
  local session = client:session(more)
  return session:create_model{base_model = support.MODEL, lora = training.LoraConfig{rank = 16}}, session
end

--- The error that a call raises; fails when it raises none.
function support.failure(fn, ...)
  local ok, err = pcall(fn, ...)
  assert(not ok, "no error was raised")
  return err
end

--- Datums of one importance-sampled token each, for calls whose content does not matter.
function support.datum()
  return {input_ids = {49, 43, 50}, attention_mask = {1, 1, 1}, old_logprobs = {0.0, -0.5, 0.0},
    advantages = {0.0, 0.5, 0.0}}
end

--- A datum of a sample of the stand-in's, whose gradient is not 0.
function support.sampled(server)
  local client <close> = support.client(server)
  local sample = client:sample{prompts = {"12 + 7"}, base_model = support.MODEL, seed = 5,
    return_prompt_token_ids = true}[1]
  return training.grpo_data(sample.prompt_token_ids, sample, 1.0)
end

--- Prompts that the stand-in knows the answers to, and these.
function support.sums(count, first)
  local prompts, answers = {}, {}
  for i = 1, count do
    local a, b = (first or 0) + i, (i * 7) % 23
    prompts[i], answers[i] = ("%d + %d"):format(a, b), tostring(a + b)
  end
  return prompts, answers
end

--- Lets a client not wait before it tries again. Returns the list of seconds that it would have waited.
function support.hurry(client)
  local pauses = {}
  function client.transport.pause(_, seconds) pauses[#pauses + 1] = seconds end
  return pauses
end

--- Calls a function while pauses of a client pass at once, on the clock too. Returns what it returns, and the pauses.
function support.leap(client, fn, ...)
  local now, skipped, pauses = clock.now, 0, {}
  function client.transport.pause(_, seconds)
    pauses[#pauses + 1] = seconds
    skipped = skipped + seconds
  end
  clock.now = function() return now() + skipped end
  local ok, result = pcall(fn, ...)
  clock.now = now
  client.transport.pause = nil
  if not ok then error(result, 0) end
  return result, pauses
end

--- Options of a session whose heartbeats do not mingle with what is counted.
support.SILENT = {heartbeat = {interval = 1000}}

--- A model, its session and its client on a stand-in, and the list of pauses; close the client. `more`: options of the
--- client.
function support.start(server, more)
  local client = support.client(server, more)
  local pauses = support.hurry(client)
  local model, session = support.model(client, support.SILENT)
  return model, session, client, pauses
end

--- The values of a header over the calls of a method, "" where it was absent.
function support.headers(server, method, name)
  local values = {}
  for i, call in ipairs(server:log(method)) do
    values[i] = ""
    for _, pair in ipairs(call.metadata) do
      if pair[1] == name then values[i] = pair[2] end
    end
  end
  return values
end

return support
