-- The models of the recorded requests (requests.json), by name.

local river = require "river"

local scaler, linear = river.preprocessing.StandardScaler, river.linear_model.LinearRegression
local logistic, Pipeline = river.linear_model.LogisticRegression, river.compose.Pipeline

return {
  regression = function() return scaler() | linear() end,
  binary = function() return scaler() | logistic() end,
  linear = function() return linear() end,
  logistic = function() return logistic() end,
  scaler = function() return scaler() end,
  scaler_pipeline = function() return Pipeline(scaler()) end,
  model_in_the_middle = function() return Pipeline(linear(), linear()) end,
  twins = function()
    return Pipeline(scaler{with_std = false}, scaler(), {"last", linear{l2 = 0.5, intercept_lr = 1}})
  end,
}
