-- The user guide's tour on real data: a model is composed, uploaded, taught, asked, measured, saved and deleted.
--
--   riverlua examples/river_quickstart.lua                                      a River service in this process
--   RIVER_ML_URL=http://localhost:8000 riverlua examples/river_quickstart.lua   a django-river-ml server
--
-- Another data file may be named as the argument: a CSV with a header, the target in `five_thirty_eight`.

local chart = require "riverlua.chart"
local json = require "riverlua.json"
local progress = require "riverlua.progress"
local river = require "river"

local TARGET = "five_thirty_eight"
local folder = arg[0]:match("^(.*/)") or "./"
local address = os.getenv("RIVER_ML_URL") or ""
if address == "" then address = "embedded:" end

local function show(title, value)
  print(title)
  print("  " .. (type(value) == "string" and value or json.encode(value, {sort = true})))
end

local samples = river.datasets.csv(arg[1] or folder .. "data/trump_approval.csv", {target = TARGET}):collect()
local cli <close> = river.Client(address)
show("The server", cli:info())

local model = river.preprocessing.StandardScaler() |
  river.linear_model.LinearRegression{optimizer = river.optim.SGD(0.01)}
show("The model, composed in Lua", tostring(model))

local name = cli:upload_model(model, "regression")
show("Uploaded as", name)

-- Predict first, then learn: the error is always measured on samples that the model has not seen.
local errors, rows, total = {}, {}, 0
do
  local bar <close> = progress.bar{total = #samples, label = "learning", unit = "samples"}
  for i, sample in ipairs(samples) do
    local guess = cli:predict(name, sample.x).prediction
    cli:learn(name, sample.x, sample.y)
    total = total + math.abs(guess - sample.y)
    errors[i] = total / i
    if i % 200 == 0 or i == #samples then
      rows[#rows + 1] = {i, sample.y, guess, math.abs(guess - sample.y), errors[i]}
    end
    bar:update(i, {MAE = ("%.3f"):format(errors[i])})
  end
end

-- The server leaves the very first prediction, 0, out of its metrics; the error below counts it.
show("Metrics", cli:metrics(name))
local stats = cli:stats(name)
show("Calls", ("%d predictions, %s each; %d learns, %s each"):format(stats.predict.n_calls,
  stats.predict.mean_duration_human, stats.learn.n_calls, stats.learn.mean_duration_human))
show("The model as the server describes it", cli:get_model_json(name))
show("All models", cli:models())

local path = os.tmpname()
cli:download_model(name, path)
show("Downloaded, with what it learned", ("%d bytes of pickle"):format(assert(io.open(path, "rb")):seek("end")))
os.remove(path)
cli:delete_model(name)
show("Deleted", name)

print()
print(chart.table(rows, {
  title = "How the error went down",
  columns = {
    {title = "samples"},
    {title = "approval", format = "%.2f"},
    {title = "predicted", format = "%.2f"},
    {title = "error", format = "%.2f"},
    {title = "mean error so far", format = "%.3f"},
  },
}))
print()
print(chart.line{series = {["running mean absolute error"] = errors}, x_label = "samples"})
