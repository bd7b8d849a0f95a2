--- Flavors: what a model must be able to do, which of its methods predicts, and what is measured.

local metrics = require "river.embedded.metrics"

local flavors = {}

local PREDICT, PROBA = "predict_one", "predict_proba_one"

local all = {
  regression = {needs = {"learn_one", PREDICT}, predicts = {PREDICT}, metrics = {"MAE", "RMSE", "SMAPE"},
    numeric = true},
  binary = {needs = {"learn_one", PROBA}, predicts = {PROBA},
    metrics = {"Accuracy", "LogLoss", "Precision", "Recall", "F1"}},
  multiclass = {needs = {"learn_one", PROBA}, predicts = {PREDICT, PROBA},
    metrics = {"Accuracy", "CrossEntropy", "MacroPrecision", "MacroRecall", "MacroF1", "MicroPrecision", "MicroRecall",
      "MicroF1"}},
  cluster = {needs = {"learn_one", PREDICT}, predicts = {PREDICT}, metrics = {}},
  neighbor = {needs = {"learn_one", PREDICT}, predicts = {PREDICT}, metrics = {}},
  custom = {needs = {}, predicts = {PREDICT, PROBA}, metrics = {}},
  creme = {needs = {"fit_one", PREDICT}, predicts = {PREDICT}, metrics = {}},
}

---@class river.embedded.Flavor
---@field name string
---@field needs string[] methods that the model must have
---@field predicts string[] methods to predict with, tried in this order
---@field numeric boolean|nil whether all metrics take two numbers by `add`

--- Finds a flavor and checks that the model suits it.
---@param name string
---@param model table
---@return river.embedded.Flavor|nil flavor
---@return string|nil problem the server's words
function flavors.check(name, model)
  local flavor = all[name]
  if not flavor then return nil, ("This model flavor %s is not recognized"):format(name) end
  for _, method in ipairs(flavor.needs) do
    if not model:has(method) then return nil, ("The model does not implement %s."):format(method) end
  end
  return flavor
end

--- The flavor of a name, nil for an unknown one.
---@param name string
---@return river.embedded.Flavor|nil
function flavors.find(name) return all[name] end

--- Fresh metrics of a flavor, in the server's order.
---@param flavor river.embedded.Flavor
---@return table[] all
---@return table[] active those to be updated
function flavors.metrics(flavor)
  return metrics.set(flavor.metrics)
end

for name, flavor in pairs(all) do flavor.name = name end

return flavors
