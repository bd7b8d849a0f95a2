-- Scalers, linear models with every optimizer, loss and penalty, and what is composed of them, as the Python library.

local equal = assert(loadfile("tests/river_embedded/equal.lua", "t", _ENV))()
local registry = require "river.embedded.registry"
local river = require "river"
local row = require "river.embedded.row"

local preprocessing, compose, optim = river.preprocessing, river.compose, river.optim
local scaler, linear = preprocessing.StandardScaler, river.linear_model.LinearRegression
local logistic = river.linear_model.LogisticRegression
local losses, schedulers, initializers = optim.losses, optim.schedulers, optim.initializers

local NUMBERS, LABELS = {"trump", "friedman"}, {"phishing", "bananas"}

local function regression(model) return {model = model, on = NUMBERS} end

local function binary(model, on) return {model = model, on = on or LABELS, predict = "predict_proba_one"} end

-- ------------------------------------------------------------------------------------------------------ scalers

local scalers = {}
for name, make in pairs{
  standard = function() return scaler() end,
  centered = function() return scaler{with_std = false} end,
  standard_window = function() return scaler{window_size = 20} end,
  centered_window = function() return scaler{with_std = false, window_size = 7} end,
  min_max = function() return preprocessing.MinMaxScaler() end,
  max_abs = function() return preprocessing.MaxAbsScaler() end,
  max_abs_window = function() return preprocessing.MaxAbsScaler{window_size = 10} end,
  adaptive = function() return preprocessing.AdaptiveStandardScaler{fading_factor = 0.1} end,
  robust = function() return preprocessing.RobustScaler() end,
  robust_uncentered = function() return preprocessing.RobustScaler{with_centering = false, q_sup = 0.8} end,
  robust_unscaled = function() return preprocessing.RobustScaler{with_scaling = false} end,
  normalizer = function() return preprocessing.Normalizer() end,
  normalizer_1 = function() return preprocessing.Normalizer{order = 1} end,
  normalizer_3 = function() return preprocessing.Normalizer{order = 3} end,
  binarizer = function() return preprocessing.Binarizer{threshold = 0.5} end,
} do
  scalers[name .. " regression"] = {model = make() | linear{optimizer = optim.SGD(1e-5)}, on = NUMBERS}
  scalers[name .. " classification"] = binary(make() | logistic(), {"phishing", "bananas"})
end
-- On the other two the library's own variance falls below zero, and it fails.
scalers["standard_window regression"].on = {"friedman"}
scalers["standard_window classification"].on = {"bananas"}
equal.check("scalers give the numbers of", scalers)

-- --------------------------------------------------------------------------------------------------- optimizers

local optimizers = {}
for name, make in pairs{
  ada_bound = function() return optim.AdaBound() end,
  ada_delta = function() return optim.AdaDelta{rho = 0.9} end,
  ada_grad = function() return optim.AdaGrad() end,
  ada_max = function() return optim.AdaMax() end,
  adam = function() return optim.Adam{lr = 0.05, beta_2 = 0.99} end,
  ams_grad = function() return optim.AMSGrad() end,
  ams_grad_biased = function() return optim.AMSGrad{correct_bias = false} end,
  ftrl = function() return optim.FTRLProximal() end,
  ftrl_sparse = function() return optim.FTRLProximal{l1 = 0.5, l2 = 0.1, alpha = 0.1} end,
  momentum = function() return optim.Momentum{lr = 0.001} end,
  nadam = function() return optim.Nadam{lr = 0.05} end,
  nesterov = function() return optim.NesterovMomentum{lr = 0.001} end,
  rms_prop = function() return optim.RMSProp() end,
  sgd = function() return optim.SGD(0.02) end,
  sgd_inverse = function() return optim.SGD(schedulers.InverseScaling(0.1, {power = 0.4})) end,
  sgd_optimal = function() return optim.SGD(schedulers.Optimal(losses.Squared(), {alpha = 0.01})) end,
  adam_inverse = function() return optim.Adam(schedulers.InverseScaling(0.3)) end,
} do
  optimizers[name .. " regression"] = regression(scaler() | linear{optimizer = make()})
  optimizers[name .. " classification"] = binary(scaler() | logistic{optimizer = make(), l2 = 0.001},
    {"phishing", "counts_binary"})
end
equal.check("optimizers give the numbers of", optimizers)

-- ----------------------------------------------------------------------------------- losses and other parameters

equal.check("losses give the numbers of", {
  absolute = regression(scaler() | linear{loss = losses.Absolute()}),
  cauchy = regression(scaler() | linear{loss = losses.Cauchy(20)}),
  epsilon_insensitive = regression(scaler() | linear{loss = losses.EpsilonInsensitiveHinge{eps = 0.3}}),
  huber = regression(scaler() | linear{loss = losses.Huber(0.5)}),
  poisson = regression(scaler() | linear{loss = losses.Poisson(), optimizer = optim.SGD(1e-4), intercept_lr = 1e-3}),
  quantile = regression(scaler() | linear{loss = losses.Quantile(0.8)}),
  squared = regression(scaler() | linear{loss = losses.Squared()}),
  focal = binary(scaler() | logistic{loss = losses.BinaryFocalLoss{gamma = 3, beta = 0.5}}),
  hinge = binary(scaler() | logistic{loss = losses.Hinge(0.7)}),
  log = binary(scaler() | logistic{loss = losses.Log{weight_pos = 2, weight_neg = 0.3}}),
})

equal.check("parameters give the numbers of", {
  l1_regression = regression(scaler() | linear{l1 = 0.02}),
  l1_adam = regression(scaler() | linear{l1 = 0.02, optimizer = optim.Adam()}),
  l1_classification = binary(logistic{l1 = 0.01}, {"phishing", "counts_binary"}),
  l2_regression = regression(scaler() | linear{l2 = 0.1, optimizer = optim.RMSProp()}),
  l2_classification = binary(logistic{l2 = 0.1, optimizer = optim.AdaGrad()}, {"bananas", "counts_binary"}),
  intercept = regression(scaler() | linear{intercept_init = 40, intercept_lr = schedulers.InverseScaling(0.5)}),
  clipped = regression(scaler() | linear{clip_gradient = 2, optimizer = optim.Momentum(0.01)}),
  initializer = binary(logistic{initializer = initializers.Constant(0.3)}, {"phishing", "counts_binary"}),
})

-- -------------------------------------------------------------------------------------------------- composition

local function select(...) return compose.Select(...) end

equal.check("compositions give the numbers of", {
  union = {on = {"trump"}, model = compose.TransformerUnion(
    select("ordinal_date", "gallup", "ipsos") | scaler(), select("ipsos", "rasmussen") | scaler{with_std = false})
    | linear{optimizer = optim.SGD(1e-3)}},
  union_of_scalers = binary(compose.TransformerUnion(scaler(), {"second", scaler()},
    {"third", preprocessing.MaxAbsScaler()}) | logistic()),
  union_of_unions = binary(compose.TransformerUnion(
    compose.TransformerUnion(scaler(), preprocessing.MaxAbsScaler()), scaler()) | logistic()),
  product = {on = {"phishing"}, predict = "predict_proba_one", model = compose.TransformerProduct(
    select("empty_server_form_handler", "popup_window") | scaler(), select("request_from_other_domain", "https"))
    | logistic()},
  union_with_product = {on = {"bananas"}, predict = "predict_proba_one", model = scaler()
    | compose.TransformerUnion(scaler(), compose.TransformerProduct(scaler(), scaler())) | logistic()},
  nested = regression(compose.Pipeline({"first", scaler{with_std = false}}, compose.Pipeline(scaler(), linear()))),
  nested_in_the_middle = regression(compose.Pipeline(compose.Pipeline(preprocessing.MaxAbsScaler(), scaler()),
    {"last", linear{optimizer = optim.Adam()}})),
  twice_the_same = regression(compose.Pipeline(scaler(), scaler(), linear())),
})

-- --------------------------------------------------------------------------------------------- scalers by themselves

-- What the Python library makes of {a = 1.0} after each of these values.
local VALUES = {1.5, 2.5, -3, 4, 7, 1, 2}
local TRANSFORMED = {
  {preprocessing.MinMaxScaler(),
    {0.0, -0.5, 0.7272727272727273, 0.5714285714285714, 0.4, 0.4, 0.4}},
  {preprocessing.MinMaxScaler{window_size = 3},
    {0.0, -0.5, 0.7272727272727273, 0.5714285714285714, 0.4, 0.0, 0.0}},
  {preprocessing.MaxAbsScaler{window_size = 3},
    {0.6666666666666666, 0.4, 0.3333333333333333, 0.25, 0.14285714285714285, 0.14285714285714285,
      0.14285714285714285}},
  {preprocessing.AdaptiveStandardScaler(),
    {0.0, -1.7457431218879351, 0.2866354948854563, -0.1804798096374883, -0.6423841564419416, -0.5069905496738387,
      -0.5446740352602975}},
  {preprocessing.RobustScaler(),
    {0.0, -1.5, -0.09090909090909091, -0.6, -0.6, -1.0384615384615385, -0.4615384615384617}},
}

describe("a scaler by itself", function()
  for _, case in ipairs(TRANSFORMED) do
    local name = tostring(case[1].class)
    it("transforms as the Python library: " .. name, function()
      local model, reader = registry.build(case[1]), row.reader()
      for i, value in ipairs(VALUES) do
        model:learn_one(reader:read{a = value})
        assert.equal(case[2][i], model:transform_one(reader:read{a = 1.0})[1])
      end
    end)
  end

  it("refuses what Python refuses, in its words", function()
    local function says(model, value, learning, transforming)
      local built, reader = registry.build(model), row.reader()
      local function problem(method)
        local ok, raised = pcall(built[method], built, reader:read{a = value})
        return not ok and tostring(raised) or nil
      end
      assert.equal(learning, problem("learn_one"))
      assert.equal(transforming, problem("transform_one"))
    end
    local minus = [[TypeError("unsupported operand type(s) for -: 'str' and 'float'")]]
    says(scaler(), "x", minus, minus)
    says(preprocessing.MinMaxScaler(), "x",
      [[TypeError("'<' not supported between instances of 'str' and 'float'")]], minus)
    says(preprocessing.MaxAbsScaler(), "x", [[TypeError("bad operand type for abs(): 'str'")]],
      [[TypeError("unsupported operand type(s) for /: 'str' and 'float'")]])
    says(preprocessing.AdaptiveStandardScaler(), "x", "TypeError('must be real number, not str')", minus)
    says(preprocessing.MinMaxScaler{window_size = 3}, 1.0, nil, nil)
    says(preprocessing.Normalizer(), 0, nil, "ZeroDivisionError('float division by zero')")
  end)
end)
