-- Moving a model from one server to another, with what it learned, and looking into it on the way.
--
--   riverlua examples/river_move_model.lua                        from one service in this process to another
--   RIVER_ML_URL=http://localhost:8000 RIVER_ML_TARGET=http://localhost:8001 riverlua examples/river_move_model.lua
--
-- An address that is not given is a service in this process: a model trained on a server goes on without one.

local chart = require "riverlua.chart"
local river = require "river"

local function client(variable)
  local address = os.getenv(variable) or ""
  return river.Client(address ~= "" and address or "embedded:")
end

local folder = arg[0]:match("^(.*/)") or "./"
local source <close> = client "RIVER_ML_URL"
local target <close> = client "RIVER_ML_TARGET"
local approval = river.datasets.csv(folder .. "data/trump_approval.csv", {target = "five_thirty_eight"})

local name = source:upload_model(
  river.preprocessing.StandardScaler() | river.linear_model.LinearRegression(), "regression")
for x, y in approval:take(200) do source:learn(name, x, y) end
print(("trained %s on 200 samples at %s"):format(name, source.baseurl))

-- A downloaded model can be read here: no Python, and nothing in it is executed.
local path = source:download_model(name, os.tmpname())
local inside = river.local_model(path)
os.remove(path)
local rows, weights = {}, inside:weights()
for feature, weight in pairs(weights) do rows[#rows + 1] = {feature, weight, inside:scaler().means[feature]} end
table.sort(rows, function(a, b) return a[1] < b[1] end)
print(chart.table(rows, {title = tostring(inside), columns = {
  {title = "feature"}, {title = "weight", format = "%.3f"}, {title = "mean", format = "%.2f"}}}))

local moved = source:copy(name, target, {name = "approval"})
print(("copied to %s as %s"):format(target.baseurl, moved))

-- Three times the same number: there, here and in this program. Then the copy goes on learning.
local same, count = 0, 0
for x, y in approval:skip(200):take(50) do
  local there, here = source:predict(name, x).prediction, target:predict(moved, x).prediction
  if count == 0 and there == here and here == inside:predict_one(x) then print("all three predict the same") end
  if there == here then same = same + 1 end
  count = count + 1
  source:learn(name, x, y)
  target:learn(moved, x, y)
end
print(("%d of %d predictions equal while both go on learning"):format(same, count))

source:delete_model(name)
target:delete_model(moved)
