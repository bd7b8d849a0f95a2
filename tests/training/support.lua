--- What the specs of the training client share: a stand-in (tests/servers/training_standin.py) and clients on it.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local standin = dofile(folder .. "../support/training.lua")
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

--- Prompts that the stand-in knows the answers to, and these.
function support.sums(count, first)
  local prompts, answers = {}, {}
  for i = 1, count do
    local a, b = (first or 0) + i, (i * 7) % 23
    prompts[i], answers[i] = ("%d + %d"):format(a, b), tostring(a + b)
  end
  return prompts, answers
end

return support
