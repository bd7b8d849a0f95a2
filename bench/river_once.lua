-- A whole small job: upload, learn, predict once. river_once.lua BASE
local river = require "river"
local cli <close> = river.Client(arg[1])
local model = river.preprocessing.StandardScaler()
  | river.linear_model.LinearRegression{optimizer = river.optim.SGD(0.01)}
cli:upload_model(model, "regression", "bench")
cli:learn("bench", {a = 1.5, b = 2}, 3.5)
cli:predict("bench", {a = 1.5, b = 2})
