--- Models composed in Lua, uploaded to a real server, learned and asked there: every prediction must be the one that
--- the same model gives in plain Python (reference.py).

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local river = require "river"

local SAMPLES = 60

local compose, preprocessing, linear_model = river.compose, river.preprocessing, river.linear_model
local optim, stats = river.optim, river.stats
local scale = preprocessing.StandardScaler

local function shared_optimizer()
  local adam = optim.Adam(0.02)
  local first = linear_model.LinearRegression{optimizer = adam}
  local second = linear_model.LinearRegression{optimizer = adam, l2 = 0.01}
  return scale() | river.ensemble.EWARegressor({first, second}, {learning_rate = 0.05})
end

local models = {
  ["scaler and linear regression"] = scale() | linear_model.LinearRegression{optimizer = optim.SGD(0.01)},
  ["named steps, Adam, Huber loss"] = compose.Pipeline{
    {"scale", scale()},
    {"learn", linear_model.LinearRegression{optim.Adam(0.05), loss = optim.losses.Huber(0.5), l2 = 0.001,
      intercept_lr = 0.1}},
  },
  ["scaler and logistic regression"] = scale() | linear_model.LogisticRegression(),
  ["one against the rest"] = scale() | river.multiclass.OneVsRestClassifier(linear_model.LogisticRegression()),
  ["one against one"] = scale() | river.multiclass.OneVsOneClassifier(
    linear_model.LogisticRegression{optimizer = optim.AdaGrad(0.3)}),
  ["softmax"] = scale() | linear_model.SoftmaxRegression(),
  ["Hoeffding tree"] = river.tree.HoeffdingTreeClassifier{grace_period = 20, delta = 1e-2},
  ["Hoeffding tree for regression"] = scale() | river.tree.HoeffdingTreeRegressor{grace_period = 20,
    leaf_prediction = "adaptive", leaf_model = linear_model.LinearRegression{intercept_lr = 0.1}},
  ["naive Bayes"] = river.naive_bayes.GaussianNB(),
  ["ALMA"] = scale() | linear_model.ALMAClassifier{p = 2, alpha = 0.8},
  ["passive-aggressive"] = scale() | linear_model.PARegressor{C = 0.01, mode = 2, eps = 0.1},
  ["union of selections"] =
    (compose.Select("gallup", "ipsos", "morning_consult", "rasmussen", "you_gov") | scale())
      + (compose.Select("ordinal_date") | preprocessing.MinMaxScaler())
      + compose.Discard("ordinal_date") | scale() | linear_model.LinearRegression(),
  ["product of features"] = scale() | compose.Select{"gallup", "ipsos"} * compose.Select{"rasmussen", "you_gov"}
    | scale() | linear_model.LinearRegression(),
  ["nearest neighbours"] = scale() | river.neighbors.KNNClassifier{n_neighbors = 3,
    engine = river.neighbors.LazySearch{window_size = 40}},
  ["polynomial extender"] = scale() | river.feature_extraction.PolynomialExtender{degree = 2, include_bias = true}
    | linear_model.LinearRegression{optimizer = optim.SGD(optim.schedulers.InverseScaling(0.01))},
  ["best features"] = scale() | river.feature_selection.SelectKBest{similarity = stats.PearsonCorr(), k = 2}
    | linear_model.LinearRegression(),
  ["under-sampling"] = scale() | river.imblearn.RandomUnderSampler(linear_model.LogisticRegression(),
    {desired_dist = {[false] = 0.4, [true] = 0.6}, seed = 42}),
  ["factorization machine"] = scale() | river.facto.FMRegressor{n_factors = 3, weight_optimizer = optim.Adam(0.05),
    latent_optimizer = optim.Adam(0.05), seed = 7},
  ["adaptive random forest"] = river.forest.ARFClassifier{n_models = 3, seed = 8, grace_period = 20,
    drift_detector = river.drift.ADWIN(0.001)},
  ["bagging"] = scale() | river.ensemble.BaggingClassifier(linear_model.LogisticRegression(),
    {n_models = 3, seed = 1}),
  ["half-space trees"] = preprocessing.MinMaxScaler()
    | river.anomaly.HalfSpaceTrees{n_trees = 5, height = 4, window_size = 20, seed = 42},
  ["function of the library"] = scale() | compose.FuncTransformer(river.utils.math.softmax)
    | linear_model.LinearRegression(),
  ["density clusters"] = scale() | river.cluster.DBSTREAM{clustering_threshold = 1.5, fading_factor = 0.05,
    cleanup_interval = 4},
  ["renamed and imputed"] = compose.Renamer{gallup = "first", ipsos = "second"}
    | preprocessing.StatImputer{{"first", stats.Mean()}, {"second", 0}} | scale() | linear_model.LinearRegression(),
  ["k-means"] = scale() | river.cluster.KMeans{n_clusters = 4, halflife = 0.4, sigma = 3, seed = 0},
  ["statistic"] = river.dummy.StatisticRegressor(stats.Shift(1) | stats.Mean()),
  ["standardized target"] = scale() | preprocessing.TargetStandardScaler{regressor = linear_model.LinearRegression()},
  ["one optimizer for two models"] = shared_optimizer(),
  ["RMSProp, quantile loss"] = scale() | linear_model.LinearRegression{optimizer = optim.RMSProp(0.02),
    loss = optim.losses.Quantile(0.3)},
  ["Bernoulli naive Bayes"] = preprocessing.Binarizer{threshold = 0.4} | river.naive_bayes.BernoulliNB{alpha = 0.5},
  ["adaptive scaler"] = preprocessing.AdaptiveStandardScaler{fading_factor = 0.5}
    | linear_model.LinearRegression{optimizer = optim.SGD(0.005)},
  ["robust scaler"] = preprocessing.RobustScaler{q_inf = 0.2}
    | linear_model.LinearRegression{optimizer = optim.SGD(0.005)},
  ["Bayesian regression"] = scale() | linear_model.BayesianLinearRegression{alpha = 2, beta = 0.5},
  ["leveraging bagging"] = scale() | river.ensemble.LeveragingBaggingClassifier(linear_model.LogisticRegression(),
    {n_models = 3, w = 2, seed = 42}),
  ["stacking"] = scale() | river.ensemble.StackingClassifier({linear_model.LogisticRegression(),
    linear_model.PAClassifier{mode = 1, C = 0.01}}, {meta_classifier = linear_model.LogisticRegression()}),
  ["rules"] = scale() | river.rules.AMRules{n_min = 20, drift_detector = river.drift.ADWIN()},
  ["aggregated Mondrian forest"] = river.forest.AMFClassifier{n_estimators = 3, seed = 1},
  ["codes for classes"] = scale() | river.multiclass.OutputCodeClassifier{linear_model.LogisticRegression(),
    code_size = 10, coding_method = "random", seed = 24},
  ["stochastic gradient tree"] = scale() | river.tree.SGTRegressor{delta = 0.05, grace_period = 10,
    feature_quantizer = river.tree.splitter.DynamicQuantizer()},
}

local function replay(cli, name, samples)
  local predictions = {}
  for index, sample in ipairs(samples) do
    predictions[index] = {prediction = cli:predict(name, sample.x).prediction}
    if sample.y == nil or sample.y == require("riverlua.json").null then
      cli:learn(name, sample.x)
    else
      cli:learn(name, sample.x, sample.y)
    end
  end
  return predictions
end

-- JSON null of the reference is nil in an answer; a binary answer is compared key by key.
local function expected_of(samples)
  local expected = {}
  for index, sample in ipairs(samples) do
    local prediction = sample.prediction
    if type(prediction) == "userdata" then prediction = nil end
    expected[index] = {prediction = prediction}
  end
  return expected
end

describe("a model composed in Lua predicts on a real server as in plain Python:", function()
  local server, cli, references

  setup(function()
    references = {}
    for _, line in ipairs(support.run_python("reference.py", tostring(SAMPLES))) do references[line.model] = line end
    server = support.start_server()
    cli = river.Client(server.url)
  end)

  teardown(function()
    if cli then cli:close() end
    if server then server.stop() end
  end)

  it("the lists of models agree", function()
    local here, there = {}, {}
    for name in pairs(models) do here[name] = true end
    for name in pairs(references) do there[name] = true end
    assert.same(there, here)
  end)

  local names = {}
  for name in pairs(models) do names[#names + 1] = name end
  table.sort(names)
  for number, title in ipairs(names) do
    it(title, function()
      local reference = assert(references[title])
      assert.equal(SAMPLES, #reference.samples)
      local name = cli:upload_model(models[title], reference.flavor, "equal-" .. number)
      assert.same(expected_of(reference.samples), replay(cli, name, reference.samples))
    end)
  end
end)
