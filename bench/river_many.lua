-- Teaches a model many samples: river_many.lua BASE COUNT loop|many [upload]
--
-- Prints "start" and "end" lines for bench/run.py, which takes the wall time between them, and the CPU time in between.

local river = require "river"

local base, count, how = arg[1], tonumber(arg[2]), arg[3]
local cli <close> = river.Client(base)

if arg[4] == "upload" then
  local model = river.preprocessing.StandardScaler() | river.linear_model.LinearRegression()
  cli:upload_model(model, "regression", "bench")
end

local samples = {}
for i = 1, count do
  local x = {ordinal_date = 736389 + i, gallup = 43.8 + i % 7, ipsos = 46.1, morning_consult = 48.3, rasmussen = 44.1,
    you_gov = 43.6}
  samples[i] = {x, 43.7 + i % 3}
end
cli:learn("bench", samples[1][1], samples[1][2])
print("start")
io.stdout:flush()
local cpu = os.clock()
if how == "many" then
  assert(cli:learn_many("bench", samples).done == count)
else
  for _, sample in ipairs(samples) do cli:learn("bench", sample[1], sample[2]) end
end
print("end", os.clock() - cpu)
