-- Linear classifiers and regressions beside the generalized linear models, naive Bayes, many labels.

local equal = assert(loadfile("tests/river_embedded/equal.lua", "t", _ENV))()
local river = require "river"

local scaler, linear = river.preprocessing.StandardScaler, river.linear_model
local PROBA = "predict_proba_one"

local REGRESSION, BINARY, MULTI = {"trump", "friedman"}, {"phishing", "bananas"}, {"images", "waveform"}

equal.check("passive-aggressive models", {
  regressor = {model = linear.PARegressor(), on = REGRESSION},
  ["regressor 2"] = {model = scaler() | linear.PARegressor{mode = 2, C = 0.01, eps = 0.5}, on = REGRESSION},
  ["regressor 0"] = {model = scaler() | linear.PARegressor{mode = 0, learn_intercept = false}, on = REGRESSION},
  classifier = {model = linear.PAClassifier(), on = BINARY, predict = PROBA},
  ["classifier 0"] = {model = scaler() | linear.PAClassifier{mode = 0}, on = BINARY, predict = PROBA},
  ["classifier 2"] = {model = scaler() | linear.PAClassifier{mode = 2, C = 0.1, learn_intercept = false}, on = BINARY},
})

equal.check("the perceptron", {
  plain = {model = linear.Perceptron(), on = BINARY, predict = PROBA},
  scaled = {model = scaler() | linear.Perceptron{l2 = 0.01, clip_gradient = 0.5,
    initializer = river.optim.initializers.Constant(0.1)}, on = BINARY, predict = PROBA},
})

equal.check("ALMA", {
  plain = {model = scaler() | linear.ALMAClassifier(), on = BINARY, predict = PROBA},
  cubic = {model = scaler() | linear.ALMAClassifier{p = 3, alpha = 0.5, B = 2, C = 1.5}, on = BINARY, predict = PROBA},
})

equal.check("softmax regression", {
  plain = {model = scaler() | linear.SoftmaxRegression(), on = MULTI, predict = PROBA},
  bare = {model = linear.SoftmaxRegression{optimizer = river.optim.SGD(0.0001), l2 = 0.01},
    on = {"counts_multiclass", "counts_binary"}, predict = PROBA},
  labels = {model = scaler() | linear.SoftmaxRegression{l2 = 0.1}, on = MULTI},
  ["with Adam"] = {model = linear.SoftmaxRegression{optimizer = river.optim.Adam(0.01)},
    on = {"counts_multiclass", "images"}, predict = PROBA},
  ["with Nesterov's momentum"] = {model = linear.SoftmaxRegression{optimizer = river.optim.NesterovMomentum(0.01)},
    on = {"counts_multiclass", "waveform"}, predict = PROBA},
  ["with FTRL"] = {model = linear.SoftmaxRegression{optimizer = river.optim.FTRLProximal()},
    on = {"counts_multiclass", "waveform"}, predict = PROBA},
  weights = {model = scaler() | linear.SoftmaxRegression{
    loss = river.optim.losses.CrossEntropy{class_weight = river.dict{{"sky", 2.0}, {1, 0.5}}}}, on = MULTI,
    predict = PROBA},
})

local logistic = linear.LogisticRegression
local multiclass = river.multiclass

equal.check("many labels", {
  ["one against rest"] = {model = scaler() | multiclass.OneVsRestClassifier(logistic()), on = MULTI, predict = PROBA},
  ["one against rest of pipelines"] = {model = multiclass.OneVsRestClassifier(scaler() | linear.PAClassifier()),
    on = MULTI},
  ["one against one"] = {model = scaler() | multiclass.OneVsOneClassifier(logistic()), on = MULTI},
  codes = {model = scaler() | multiclass.OutputCodeClassifier{classifier = logistic(), code_size = 8, seed = 4},
    on = MULTI},
  ["exact codes"] = {model = scaler() | multiclass.OutputCodeClassifier{classifier = logistic(), code_size = 4,
    coding_method = "exact", seed = 1}, on = MULTI},
})

local bayes = river.naive_bayes
local COUNTS = {"counts_multiclass", "counts_binary"}

equal.check("naive Bayes", {
  gaussian = {model = bayes.GaussianNB(), on = {"images", "phishing"}, predict = PROBA},
  ["gaussian labels"] = {model = bayes.GaussianNB(), on = {"images", "waveform"}},
  bernoulli = {model = bayes.BernoulliNB(), on = COUNTS, predict = PROBA},
  ["bernoulli with a threshold"] = {model = bayes.BernoulliNB{alpha = 0.5, true_threshold = 1.5}, on = COUNTS,
    predict = PROBA},
  multinomial = {model = bayes.MultinomialNB(), on = COUNTS, predict = PROBA},
  ["multinomial with little smoothing"] = {model = bayes.MultinomialNB{alpha = 0.01}, on = COUNTS, predict = PROBA},
  complement = {model = bayes.ComplementNB(), on = COUNTS, predict = PROBA},
})
