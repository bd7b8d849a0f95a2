-- The time to the first call: training_first.lua PORT
local training = require "training"
local client <close> = training.Client{api_key = "bench", endpoint = "http://127.0.0.1", port = tonumber(arg[1]),
  http = {proxy = false}}
assert(client:health_check())
