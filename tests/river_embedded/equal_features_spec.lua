-- Transformers of features: encoders, selectors, products, words, selection; seen through models behind them.

local equal = assert(loadfile("tests/river_embedded/equal.lua", "t", _ENV))()
local river = require "river"

local pp, compose, fx, fs = river.preprocessing, river.compose, river.feature_extraction, river.feature_selection
local linear, logistic = river.linear_model.LinearRegression, river.linear_model.LogisticRegression
local scaler = pp.StandardScaler
local PROBA = "predict_proba_one"
local MIXED_BINARY = {"mixed_binary", "mixed_multiclass"}
local REGRESSION = {"trump", "friedman"}
local bayes, softmax = river.naive_bayes, river.linear_model.SoftmaxRegression

-- A model that takes whatever numbers there are without diverging.
local function calm() return linear{optimizer = river.optim.SGD(1e-4), intercept_lr = 0.1} end

equal.check("encoders", {
  ["one-hot"] = {model = pp.OneHotEncoder() | softmax(), on = MIXED_BINARY, predict = PROBA},
  ["one-hot of some"] = {model = compose.Select("city", "flag") | pp.OneHotEncoder() | linear(),
    on = {"mixed_regression", "mixed_binary"}},
  ["one-hot without zeros"] = {model = compose.Discard("size", "whole") | pp.OneHotEncoder{drop_zeros = true}
    | linear(), on = {"mixed_regression", "mixed_binary"}},
  ["one-hot without the first"] = {model = compose.Select("city", "color") | pp.OneHotEncoder{drop_first = true}
    | linear(), on = {"mixed_regression", "mixed_binary"}},
  ["one-hot of given categories"] = {model = compose.Select("city", "color")
    | pp.OneHotEncoder{categories = river.dict{{"city", river.set{"Rome", "Oslo"}}, {"color", river.set{"red"}}}}
    | linear(), on = {"mixed_regression", "mixed_binary"}},
  ordinal = {model = pp.OrdinalEncoder() | bayes.GaussianNB(), on = MIXED_BINARY, predict = PROBA},
  ["ordinal with codes of one's own"] = {model = compose.Select("city", "color") | pp.OrdinalEncoder{unknown_value = 2,
    none_value = 1} | calm(), on = {"mixed_regression", "mixed_binary"}},
  ["ordinal of given categories"] = {model = compose.Select("city") | pp.OrdinalEncoder{unknown_value = -3,
    categories = {city = {Rome = 4, Lima = 7}}} | calm(), on = {"mixed_regression", "mixed_binary"}},
})

equal.check("selectors", {
  select = {model = compose.Select("ordinal_date", "gallup") | scaler() | linear(), on = {"trump"}},
  discard = {model = compose.Discard("city", "color", "0", "1") | scaler() | linear(),
    on = {"mixed_regression", "friedman"}},
  ["by type: numbers"] = {model = compose.SelectType(river.ref "numbers.Number") | scaler() | linear(),
    on = {"mixed_regression", "trump"}, allow = {"numbers.Number"}},
  ["by type: text and truth"] = {model = compose.SelectType(river.ref "builtins.str", river.ref "builtins.bool")
    | pp.OneHotEncoder() | linear(), on = {"mixed_regression", "mixed_binary"},
    allow = {"builtins.str", "builtins.bool"}},
  ["by type: fractions"] = {model = compose.SelectType(river.ref "builtins.float") | scaler() | linear(),
    on = {"mixed_regression", "trump"}, allow = {"builtins.float"}},
  prefix = {model = compose.Prefixer("p_") | pp.OneHotEncoder() | linear(), on = {"mixed_regression", "mixed_binary"}},
  suffix = {model = compose.Discard("city", "color") | compose.Suffixer("_s") | scaler() | linear(),
    on = {"mixed_regression", "mixed_binary"}},
  renamer = {model = compose.Renamer(river.dict{{"color", "a"}, {"size", "flag"}, {"none", "b"}}) | pp.OneHotEncoder()
    | linear(), on = {"mixed_regression", "mixed_binary"}},
  grouper = {model = compose.Discard("color") | compose.Grouper(compose.Discard("city", "flag") | scaler(),
    {by = {"city", "flag"}}) | linear(), on = {"mixed_regression", "mixed_binary"}},
})

equal.check("products and words", {
  polynomial = {model = scaler() | fx.PolynomialExtender() | linear{optimizer = river.optim.SGD(0.002)},
    on = REGRESSION},
  cubic = {model = fx.PolynomialExtender{degree = 3, include_bias = true, bias_name = "one"} | scaler() | linear(),
    on = REGRESSION},
  interactions = {model = compose.Discard("city", "color") | fx.PolynomialExtender{interaction_only = true} | scaler()
    | linear(), on = {"mixed_regression", "mixed_binary"}},
  text = {model = fx.BagOfWords() | bayes.MultinomialNB(), on = {"bare_texts_multiclass", "bare_texts_binary"},
    predict = PROBA},
  ["two texts"] = {model = (fx.BagOfWords() + fx.TFIDF()) | bayes.ComplementNB(), on = {"bare_texts_multiclass"},
    predict = PROBA},
  words = {model = fx.BagOfWords{on = "text"} | bayes.MultinomialNB(), on = {"texts_multiclass", "texts_binary"},
    predict = PROBA},
  ["words as they are"] = {model = fx.BagOfWords{on = "text", strip_accents = false, lowercase = false,
    stop_words = {"the"}} | bayes.ComplementNB(), on = {"texts_multiclass", "texts_binary"}, predict = PROBA},
  tfidf = {model = fx.TFIDF{on = "text"} | softmax(), on = {"texts_multiclass", "texts_binary"}, predict = PROBA},
  ["tfidf bare"] = {model = fx.TFIDF{normalize = false, on = "text"} | logistic(), on = {"texts_binary"},
    predict = PROBA},
})

equal.check("feature selection", {
  ["the best"] = {model = scaler() | fs.SelectKBest{similarity = river.stats.PearsonCorr(), k = 3} | linear(),
    on = REGRESSION},
  ["the best by size"] = {model = fs.SelectKBest{similarity = river.stats.PearsonCorr(), k = 2, use_abs = true}
    | bayes.GaussianNB(), on = {"phishing", "bananas"}, predict = PROBA},
  variance = {model = fs.VarianceThreshold{threshold = 0.1, min_samples = 5} | bayes.GaussianNB(),
    on = {"phishing", "images"}, predict = PROBA},
  chance = {model = fs.PoissonInclusion{p = 0.05, seed = 3} | scaler() | linear(), on = REGRESSION},
})

local stats = river.stats

equal.check("imputers without anything to impute", {
  stat = {model = compose.Select("size", "whole") | pp.StatImputer({"size", stats.Mean()}, {"whole", 3}) | scaler()
    | linear(), on = {"mixed_regression", "mixed_binary"}},
  previous = {model = compose.Discard("city", "color") | pp.PreviousImputer() | scaler() | linear(),
    on = {"mixed_regression", "mixed_binary"}},
})
