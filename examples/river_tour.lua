-- The tour of the River API's user guide, call by call.
--
--   riverlua examples/river_tour.lua                                      a River service in this process
--   RIVER_ML_URL=http://localhost:8000 riverlua examples/river_tour.lua   a django-river-ml server
--
-- A server that wants to know who calls takes RIVER_ML_USER and RIVER_ML_TOKEN from the environment.

local json = require "riverlua.json"
local river = require "river"
local task = require "riverlua.task"

local folder = arg[0]:match("^(.*/)") or "./"
local address = os.getenv("RIVER_ML_URL") or ""
local cli <close> = river.Client(address ~= "" and address or "embedded:")

local function show(title, value)
  print(("%-16s %s"):format(title, type(value) == "string" and value or json.encode(value, {sort = true})))
end

-- Service info. If it names another address or prefix, `cli:check()` would move there.
local info = cli:info()
show("server", ("%s %s, %s"):format(info.name, info.version, info.status))

-- Upload a model: composed here, no Python needed. The server picks a name.
local model = river.preprocessing.StandardScaler() | river.linear_model.LinearRegression()
local model_name = cli:upload_model(model, "regression")
show("created model", model_name)

-- Watch what happens to it, in a task beside this one, until five samples were learned.
local events = cli:stream_events{model = model_name, kind = "learn", limit = 5, timeout = 30}
local watcher = task.spawn(function()
  local labels = {}
  for event in events do labels[#labels + 1] = event.ground_truth end
  return labels
end)

-- Train on some data, predict on some.
local approval = river.datasets.csv(folder .. "data/trump_approval.csv", {target = "five_thirty_eight"})
for x, y in approval:take(100) do
  cli:learn(model_name, x, y)
end
for x, y in approval:skip(100):take(10) do
  local guess = cli:predict(model_name, x).prediction
  show("prediction", ("%.2f (it was %.2f)"):format(guess, y))
end

-- Metrics, stats, the model as JSON, the file.
show("metrics", cli:metrics(model_name))
show("learned", cli:stats(model_name).learn.n_calls)
show("as JSON", cli:get_model_json(model_name).LinearRegression.optimizer)
local path = cli:download_model(model_name, os.tmpname())
local inside = river.local_model(path)
show("downloaded", tostring(inside))
show("weight of ipsos", ("%.3f"):format(inside:weights().ipsos))
os.remove(path)

-- All models there, and what they are.
for _, name in ipairs(cli:models().models) do
  if name == model_name then show("found", json.encode(cli:get_model_json(name).StandardScaler, {sort = true})) end
end

local first = watcher:await()[1]
show("events seen", ("%d learns, with labels from %.2f on"):format(events.delivered, first))

cli:delete_model(model_name)
show("deleted", model_name)
