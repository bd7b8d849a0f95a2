-- Adaptive random forests against the Python library: with a seed they are equal, too.

local equal = assert(loadfile("tests/river_embedded/equal.lua", "t", _ENV))()
local river = require "river"

local scaler, forest, drift, metrics = river.preprocessing.StandardScaler, river.forest, river.drift, river.metrics
local PROBA = "predict_proba_one"

local function seeded(options)
  local all = {seed = 8, n_models = 4}
  for name, value in pairs(options or {}) do all[name] = value end
  return all
end

local Classifier, Regressor = forest.ARFClassifier, forest.ARFRegressor
-- Detectors that see changes where there are none, so that trees are replaced.
local nervous = drift.ADWIN{delta = 0.6, clock = 8}

equal.check("adaptive random forests for classification", {
  default = {model = Classifier{seed = 42}, on = {"images", "phishing"}, predict = PROBA},
  labels = {model = Classifier(seeded()), on = {"waveform", "mixed_multiclass"}},
  ["of majority classes"] = {model = Classifier(seeded{leaf_prediction = "mc", max_features = 0.5}),
    on = {"images", "counts_multiclass"}, predict = PROBA},
  nervous = {model = Classifier(seeded{drift_detector = nervous, warning_detector = drift.ADWIN(0.9, 8)}),
    on = {"images", "mixed_binary"}, predict = PROBA},
  ["without warnings"] = {model = Classifier(seeded{drift_detector = nervous, warning_detector = drift.NoDrift(),
    max_features = "log2"}), on = {"images", "bananas"}, predict = PROBA},
  ["without drifts"] = {model = Classifier(seeded{drift_detector = drift.NoDrift(), lambda_value = 2,
    max_features = river.none, disable_weighted_vote = true}), on = {"waveform", "counts_binary"}, predict = PROBA},
  ["with dummy detectors"] = {model = Classifier(seeded{max_features = 3,
    drift_detector = drift.DummyDriftDetector{t_0 = 200, w = 50, dynamic_cloning = true, seed = 3},
    warning_detector = drift.DummyDriftDetector{trigger_method = "random", t_0 = 100, w = 20, seed = 4}}),
    on = {"images", "phishing"}, predict = PROBA},
  ["with another metric"] = {model = Classifier(seeded{metric = metrics.LogLoss(), max_features = -2}),
    on = {"phishing", "mixed_binary"}, predict = PROBA},
})

equal.check("adaptive random forests for regression", {
  default = {model = scaler() | Regressor{seed = 42}, on = {"trump", "friedman"}},
  ["of means"] = {model = Regressor(seeded{leaf_prediction = "mean"}), on = {"planes", "mixed_regression"}},
  weighted = {model = scaler() | Regressor(seeded{aggregation_method = "mean", disable_weighted_vote = false,
    metric = metrics.MAE(), n_models = 9}), on = {"trump", "friedman"}},
  nervous = {model = Regressor(seeded{leaf_prediction = "mean", drift_detector = drift.ADWIN(0.9, 8),
    aggregation_method = "mean"}), on = {"planes", "friedman"}},
  ["with other detectors"] = {model = scaler() | Regressor(seeded{drift_detector = drift.PageHinkley{threshold = 2},
    warning_detector = drift.NoDrift(), min_samples_split = 50}), on = {"friedman", "planes"}},
})
