-- Three models compared in one run through the data: each predicts every sample before it learns from it.
--
--   riverlua examples/river_compare.lua                                      a River service in this process
--   RIVER_ML_URL=http://localhost:8000 riverlua examples/river_compare.lua   a django-river-ml server
--
-- The number of samples may be given as the argument (default 500).

local river = require "river"

local folder = arg[0]:match("^(.*/)") or "./"
local address = os.getenv("RIVER_ML_URL") or ""
local cli <close> = river.Client(address ~= "" and address or "embedded:")
local count = math.tointeger(arg[1]) or 500

local scale, linear_model, optim = river.preprocessing.StandardScaler, river.linear_model, river.optim

local result = river.evaluate.progressive{
  client = cli,
  flavor = "regression",
  dataset = river.datasets.csv(folder .. "data/trump_approval.csv", {target = "five_thirty_eight"}):take(count),
  models = {
    ["gradient descent"] = scale() | linear_model.LinearRegression{optimizer = optim.SGD(0.01)},
    ["passive-aggressive"] = scale() | linear_model.PARegressor{C = 0.1, mode = 1},
    ["Hoeffding tree"] = scale() | river.tree.HoeffdingTreeRegressor{grace_period = 50},
  },
  metrics = {"MAE", "RMSE", "R2"},
  every = 10,
  progress = true,
  total = count,
}

print(result)
print()
print(("smallest mean error: %s"):format(result:best("MAE")))
print()
print(result:plot{metric = "MAE"})
