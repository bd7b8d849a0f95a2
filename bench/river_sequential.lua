-- Learn and predict in turn on one connection: river_sequential.lua BASE PAIRS [upload]
--
-- Prints "start" and "end" lines for bench/run.py, which takes the wall time between them, and the CPU time in between.

local river = require "river"

local base, pairs_wanted = arg[1], tonumber(arg[2])
local cli <close> = river.Client(base)
local x = {ordinal_date = 736389, gallup = 43.843213, ipsos = 46.19925042857143, morning_consult = 48.318749,
  rasmussen = 44.104692, you_gov = 43.636914000000004}

if arg[3] == "upload" then
  local model = river.preprocessing.StandardScaler() | river.linear_model.LinearRegression()
  cli:upload_model(model, "regression", "bench")
end
cli:predict("bench", x)
print("start")
io.stdout:flush()
local cpu = os.clock()
for _ = 1, pairs_wanted do
  cli:learn("bench", x, 43.75505)
  cli:predict("bench", x)
end
print("end", os.clock() - cpu)
