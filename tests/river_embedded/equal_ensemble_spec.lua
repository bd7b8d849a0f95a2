-- Ensembles against the Python library: with a seed they are equal, too.

local equal = assert(loadfile("tests/river_embedded/equal.lua", "t", _ENV))()
local exact_mean = require "river.embedded.exact_mean"
local river = require "river"

local scaler, ensemble, tree = river.preprocessing.StandardScaler, river.ensemble, river.tree
local logistic, linear = river.linear_model.LogisticRegression, river.linear_model.LinearRegression
local PROBA = "predict_proba_one"

local MULTI, BINARY, REGRESSION = {"images", "waveform"}, {"phishing", "bananas"}, {"trump", "friedman"}

local function small_tree() return tree.HoeffdingTreeClassifier{grace_period = 50, leaf_prediction = "mc"} end
local function pipeline() return scaler() | logistic() end

equal.check("bagging", {
  trees = {model = ensemble.BaggingClassifier{small_tree(), seed = 8, n_models = 4}, on = MULTI, predict = PROBA},
  pipelines = {model = ensemble.BaggingClassifier{model = pipeline(), seed = 42}, on = BINARY, predict = PROBA},
  labels = {model = scaler() | ensemble.BaggingClassifier(logistic(), 3, 1), on = BINARY},
  regressions = {model = scaler() | ensemble.BaggingRegressor{linear(), n_models = 7, seed = 42}, on = REGRESSION},
  ["regression trees"] = {model = ensemble.BaggingRegressor{tree.HoeffdingTreeRegressor{grace_period = 100,
    leaf_prediction = "mean"}, n_models = 10, seed = 3}, on = {"friedman", "planes"}},
  adwin = {model = ensemble.ADWINBaggingClassifier{model = pipeline(), n_models = 5, seed = 42}, on = BINARY,
    predict = PROBA},
  ["adwin of trees"] = {model = ensemble.ADWINBaggingClassifier(small_tree(), 4, 3), on = MULTI, predict = PROBA},
})

equal.check("leveraging bagging", {
  default = {model = ensemble.LeveragingBaggingClassifier{model = pipeline(), n_models = 4, seed = 42}, on = BINARY,
    predict = PROBA},
  nervous = {model = ensemble.LeveragingBaggingClassifier{model = small_tree(), n_models = 3, seed = 4, w = 2.5,
    adwin_delta = 0.9}, on = {"images", "bananas"}, predict = PROBA},
  ["of all instances"] = {model = ensemble.LeveragingBaggingClassifier{model = pipeline(), n_models = 3, seed = 5,
    bagging_method = "wt"}, on = BINARY, predict = PROBA},
  subagging = {model = ensemble.LeveragingBaggingClassifier{model = small_tree(), n_models = 3, seed = 6,
    bagging_method = "subag"}, on = MULTI, predict = PROBA},
})

equal.check("boosting", {
  ada = {model = ensemble.AdaBoostClassifier{model = small_tree(), n_models = 5, seed = 42},
    on = {"images", "phishing"}, predict = PROBA},
  ["ada of pipelines"] = {model = ensemble.AdaBoostClassifier{pipeline(), seed = 7}, on = BINARY},
  adwin = {model = ensemble.ADWINBoostingClassifier{model = pipeline(), n_models = 4, seed = 42}, on = BINARY,
    predict = PROBA},
  ["adwin of trees"] = {model = ensemble.ADWINBoostingClassifier(small_tree(), 3, 2), on = MULTI, predict = PROBA},
  bole = {model = ensemble.BOLEClassifier{model = small_tree(), n_models = 5, seed = 9}, on = {"images", "bananas"},
    predict = PROBA},
  ["bole of pipelines"] = {model = ensemble.BOLEClassifier{model = pipeline(), n_models = 4, seed = 9,
    error_bound = 0.2}, on = BINARY, predict = PROBA},
})

equal.check("votes", {
  probabilities = {model = scaler() | ensemble.VotingClassifier{models = {logistic(),
    tree.HoeffdingTreeClassifier(), river.naive_bayes.GaussianNB()}}, on = BINARY},
  labels = {model = ensemble.VotingClassifier{models = {small_tree(), river.naive_bayes.GaussianNB(),
    tree.HoeffdingTreeClassifier{grace_period = 30}}, use_probabilities = false}, on = MULTI},
})

describe("the mean of a bag", function()
  it("is rounded once", function()
    assert.equal(0.1, exact_mean{0.1, 0.1, 0.1})
    assert.equal(1e16 / 3, exact_mean{1e16, 1.0, -1.0})
    assert.equal(0.5, exact_mean{1e100, 1.5, -1e100, 0.5})
    assert.equal(0.0, exact_mean{0.0, -0.0})
    assert.equal(-2.5, exact_mean{-2, -3})
    assert.equal(math.huge, exact_mean{math.huge, 1})
  end)
end)
