-- Watching a server: what is learned and asked there, as it happens.
--
--   riverlua examples/river_watch.lua                                      a River service in this process
--   RIVER_ML_URL=http://localhost:8000 riverlua examples/river_watch.lua   a django-river-ml server
--   RIVER_ML_URL=… riverlua examples/river_watch.lua only                  only watches, until Ctrl-C
--
-- Without `only`, a second task beside the watcher makes something happen: it teaches a small model and asks it.

local river = require "river"
local task = require "riverlua.task"

local address = os.getenv("RIVER_ML_URL") or ""
local cli <close> = river.Client(address ~= "" and address or "embedded:")
local only = arg[1] == "only"

local function show(event)
  local text = ("%-8s %-12s predicted %s"):format(event.kind, event.model,
    type(event.prediction) == "number" and ("%.3f"):format(event.prediction) or tostring(event.prediction))
  if event.ground_truth ~= nil then text = text .. (", was %s"):format(event.ground_truth) end
  print(text)
end

if only then
  -- The stream reconnects by itself; Ctrl-C ends it.
  for event in cli:stream_events() do show(event) end
  return
end

local model = "watched"
cli:upload_model(river.preprocessing.StandardScaler() | river.linear_model.LinearRegression(), "regression", model)
local events = cli:stream_events{model = model, limit = 10, timeout = 30}

-- A server says nothing before the first event, so nobody knows when it has begun to listen: something happens until
-- enough has been seen.
local enough = false
local traffic = task.spawn(function()
  local i = 0
  repeat
    i = i + 1
    local x = {hour = i % 24, rain = i % 2}
    cli:predict(model, x)
    cli:learn(model, x, 10 + x.hour)
    task.sleep(0)
  until enough
end)

for event in events do show(event) end
enough = true
traffic:await()
print(("%d events, %d dropped"):format(events.delivered, events.dropped))
cli:delete_model(model)
