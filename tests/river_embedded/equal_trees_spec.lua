-- Hoeffding trees against the Python library.

local equal = assert(loadfile("tests/river_embedded/equal.lua", "t", _ENV))()
local river = require "river"

local scaler, tree = river.preprocessing.StandardScaler, river.tree
local splitter = river.tree.splitter
local PROBA = "predict_proba_one"

local REGRESSION = {"trump", "friedman", "planes", "mixed_regression"}
local MULTI, BINARY = {"images", "waveform", "mixed_multiclass"}, {"phishing", "bananas", "mixed_binary"}
local COUNTS = {"counts_multiclass", "counts_binary"}

-- Parameters with which trees grow within a thousand samples; with a greater `tau` they do so on all data sets.
local function eager(options)
  local all = {grace_period = 50, delta = 0.01}
  for name, value in pairs(options or {}) do all[name] = value end
  return all
end

local Classifier, Regressor = tree.HoeffdingTreeClassifier, tree.HoeffdingTreeRegressor

equal.check("Hoeffding trees for classification", {
  default = {model = Classifier(), on = {"images", "phishing"}, predict = PROBA},
  labels = {model = Classifier(), on = MULTI},
  eager = {model = Classifier(eager{tau = 0.3}), on = {"images", "waveform", "mixed_multiclass", "phishing", "bananas"},
    predict = PROBA},
  ["with features that come and go"] = {model = Classifier(eager{tau = 0.3}), on = COUNTS, predict = PROBA},
  gini = {model = Classifier(eager{split_criterion = "gini", tau = 0.2}), on = MULTI, predict = PROBA},
  hellinger = {model = Classifier(eager{split_criterion = "hellinger", tau = 0.4}), on = BINARY, predict = PROBA},
  ["majority class"] = {model = Classifier(eager{leaf_prediction = "mc", remove_poor_attrs = true, tau = 0.2}),
    on = MULTI, predict = PROBA},
  ["naive Bayes"] = {model = Classifier(eager{leaf_prediction = "nb", nb_threshold = 20, tau = 0.3}), on = MULTI,
    predict = PROBA},
  ["binary splits"] = {model = Classifier(eager{binary_split = true, tau = 0.3}), on = {"mixed_multiclass",
    "mixed_binary"}, predict = PROBA},
  nominal = {model = Classifier(eager{nominal_attributes = {"whole", "flag"}, tau = 0.3}), on = {"mixed_multiclass",
    "mixed_binary"}, predict = PROBA},
  shallow = {model = Classifier(eager{max_depth = 1, tau = 0.4}), on = MULTI, predict = PROBA},
  ["without pruning"] = {model = Classifier(eager{merit_preprune = false, max_share_to_split = 0.7,
    min_branch_fraction = 0.1, tau = 0.3}), on = MULTI, predict = PROBA},
  ["that stop growing"] = {model = Classifier(eager{stop_mem_management = true, max_share_to_split = 0.5}),
    on = BINARY, predict = PROBA},
  ["more splits"] = {model = Classifier(eager{splitter = splitter.GaussianSplitter(30), tau = 0.3}), on = {"images"},
    predict = PROBA},
  histograms = {model = Classifier(eager{splitter = splitter.HistogramSplitter(32, 8), tau = 0.3}), on = MULTI,
    predict = PROBA},
  exhaustive = {model = Classifier(eager{splitter = splitter.ExhaustiveSplitter(), leaf_prediction = "mc",
    tau = 0.3}), on = MULTI, predict = PROBA},
  ["exhaustive with naive Bayes"] = {model = Classifier(eager{splitter = splitter.ExhaustiveSplitter(), tau = 0.3}),
    on = {"bananas", "mixed_binary"}, predict = PROBA},
})

equal.check("Hoeffding trees for regression", {
  default = {model = Regressor(), on = {"friedman", "planes"}},
  scaled = {model = scaler() | Regressor(eager()), on = {"trump", "friedman"}},
  eager = {model = Regressor(eager{leaf_prediction = "mean"}), on = REGRESSION},
  ["of models"] = {model = scaler() | Regressor(eager{leaf_prediction = "model"}),
    on = {"trump", "friedman", "planes"}},
  ["of other models"] = {model = scaler() | Regressor(eager{leaf_model = river.linear_model.PARegressor(),
    model_selector_decay = 0.8}), on = {"trump", "planes"}},
  ["binary splits"] = {model = Regressor(eager{binary_split = true, leaf_prediction = "mean"}),
    on = {"mixed_regression"}},
  nominal = {model = Regressor(eager{nominal_attributes = {"whole", "flag"}, leaf_prediction = "mean", tau = 0.5}),
    on = {"mixed_regression"}},
  ["that reject"] = {model = Regressor{grace_period = 20, leaf_prediction = "mean"}, on = REGRESSION},
  shallow = {model = Regressor(eager{max_depth = 1, leaf_prediction = "mean", merit_preprune = false}),
    on = REGRESSION},
  ["without poor features"] = {model = Regressor(eager{remove_poor_attrs = true, leaf_prediction = "mean"}),
    on = {"friedman", "planes"}},
  ["whole trees"] = {model = Regressor(eager{splitter = splitter.EBSTSplitter(), min_samples_split = 20}),
    on = {"friedman", "planes"}},
  ["finer values"] = {model = Regressor(eager{splitter = splitter.TEBSTSplitter(3)}), on = {"friedman", "planes"}},
  quantized = {model = scaler() | Regressor(eager{splitter = splitter.QOSplitter()}), on = {"trump", "friedman"}},
  ["quantized in many ways"] = {model = scaler() | Regressor(eager{leaf_prediction = "mean", tau = 0.4,
    splitter = splitter.QOSplitter{radius = 0.5, allow_multiway_splits = true}}), on = {"trump", "friedman"}},
})

local drift = river.drift
local AdaptiveClassifier, AdaptiveRegressor = tree.HoeffdingAdaptiveTreeClassifier, tree.HoeffdingAdaptiveTreeRegressor

-- Detectors that see changes everywhere, and windows so short that alternate trees come, go and take over.
local function restless(detector, options)
  local all = {grace_period = 100, delta = 0.01, tau = 0.3, seed = 5, drift_detector = detector,
    drift_window_threshold = 10, switch_significance = 0.9}
  for name, value in pairs(options or {}) do all[name] = value end
  return all
end

local adwin = drift.ADWIN{delta = 0.99, clock = 1, min_window_length = 1, grace_period = 1}
local page_hinkley = drift.PageHinkley{threshold = 1, min_instances = 5}

equal.check("Hoeffding adaptive trees for classification", {
  default = {model = AdaptiveClassifier{seed = 1}, on = {"images", "phishing"}, predict = PROBA},
  labels = {model = AdaptiveClassifier(eager{seed = 2}), on = MULTI},
  eager = {model = AdaptiveClassifier(eager{seed = 3, tau = 0.3}), on = MULTI, predict = PROBA},
  ["without bootstrap"] = {model = AdaptiveClassifier(eager{bootstrap_sampling = false, leaf_prediction = "mc",
    tau = 0.3}), on = {"mixed_binary", "bananas"}, predict = PROBA},
  ["naive Bayes"] = {model = AdaptiveClassifier(eager{seed = 4, leaf_prediction = "nb", nb_threshold = 30,
    max_depth = 2}), on = {"images", "waveform"}, predict = PROBA},
  restless = {model = AdaptiveClassifier(restless(adwin)), on = {"bananas", "waveform", "counts_binary",
    "mixed_multiclass"}, predict = PROBA},
  ["more restless"] = {model = AdaptiveClassifier(restless(page_hinkley)), on = {"waveform", "counts_binary",
    "mixed_binary"}, predict = PROBA},
  ["with features that come and go"] = {model = AdaptiveClassifier(eager{seed = 6}), on = COUNTS, predict = PROBA},
  ["with another detector"] = {model = AdaptiveClassifier(eager{seed = 7, drift_detector = drift.binary.DDM()}),
    on = {"images", "phishing"}, predict = PROBA},
})

equal.check("Hoeffding adaptive trees for regression", {
  default = {model = AdaptiveRegressor{seed = 1}, on = {"friedman", "planes"}},
  scaled = {model = scaler() | AdaptiveRegressor(eager{seed = 2}), on = {"trump", "friedman"}},
  ["of means"] = {model = AdaptiveRegressor(eager{seed = 3, leaf_prediction = "mean"}), on = REGRESSION},
  ["of models"] = {model = scaler() | AdaptiveRegressor(eager{seed = 4, leaf_prediction = "model"}),
    on = {"trump", "planes"}},
  restless = {model = AdaptiveRegressor(restless(adwin, {leaf_prediction = "mean"})), on = REGRESSION},
  ["more restless"] = {model = scaler() | AdaptiveRegressor(restless(page_hinkley)), on = {"trump", "friedman"}},
})

local Fast = tree.ExtremelyFastDecisionTreeClassifier

equal.check("extremely fast decision trees", {
  default = {model = Fast(), on = {"images", "phishing"}, predict = PROBA},
  eager = {model = Fast(eager{min_samples_reevaluate = 50}), on = {"images", "waveform", "bananas"}, predict = PROBA},
  ["of many values"] = {model = Fast(eager{min_samples_reevaluate = 30, tau = 0.3}), on = {"mixed_multiclass",
    "mixed_binary"}, predict = PROBA},
  ["majority class"] = {model = Fast(eager{leaf_prediction = "mc", split_criterion = "gini", max_depth = 2}),
    on = {"images", "counts_multiclass"}, predict = PROBA},
  ["naive Bayes"] = {model = Fast(eager{leaf_prediction = "nb", min_samples_reevaluate = 10, delta = 0.2}),
    on = {"waveform", "counts_binary"}},
})
