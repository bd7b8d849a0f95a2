-- Anomaly detection and running statistics against the Python library.

local equal = assert(loadfile("tests/river_embedded/equal.lua", "t", _ENV))()
local json = require "riverlua.json"
local python = require "river.embedded.python"
local registry = require "river.embedded.registry"
local river = require "river"
local row = require "river.embedded.row"

local anomaly = river.anomaly
local minmax, scaler = river.preprocessing.MinMaxScaler, river.preprocessing.StandardScaler
local lazy = river.neighbors.LazySearch
local linear = river.linear_model.LinearRegression
local trees, svm = anomaly.HalfSpaceTrees, anomaly.OneClassSVM

local LIMITS = river.dict{{"word00", {0, 5}}, {"word01", {0, 5}}, {"word07", {0, 3.5}}}

equal.check("anomaly detection", {
  trees = {model = minmax() | trees{seed = 42}, predict = "score_one", supervised = false,
    on = {"phishing", "images", "waveform"}},
  trees_small = {model = trees{n_trees = 25, height = 5, window_size = 40, seed = 7}, predict = "score_one",
    supervised = false, on = {"phishing", "friedman"}},
  trees_limits = {model = trees{n_trees = 5, height = 6, window_size = 30, limits = LIMITS, seed = 1},
    predict = "score_one", supervised = false, on = {"counts_binary", "counts_multiclass"}},
  trees_predict = {model = river.with_score_as_prediction(minmax() | trees{seed = 3}), supervised = false,
    on = {"bananas", "images"}},
  svm = {model = scaler() | svm{nu = 0.2}, predict = "score_one", supervised = false,
    on = {"phishing", "images", "counts_binary"}},
  svm_adam = {model = scaler() | svm{nu = 0.1, optimizer = river.optim.Adam(0.05), intercept_lr = 0.05},
    predict = "score_one", supervised = false, on = {"phishing", "waveform"}},
  quantile_filter = {model = minmax() | anomaly.QuantileFilter(trees{seed = 42, window_size = 100}, {q = 0.95}),
    predict = "score_one", supervised = false, on = {"phishing", "images"}},
  quantile_filter_inside = {model = scaler() | anomaly.QuantileFilter(svm{nu = 0.2}, {q = 0.9}) | linear(),
    on = {"trump", "friedman"}},
  quantile_filter_open = {model = scaler()
    | anomaly.QuantileFilter(svm{nu = 0.2}, {q = 0.8, protect_anomaly_detector = false}) | linear(),
    on = {"trump", "friedman"}},
  outlier_factor = {model = scaler() | anomaly.LocalOutlierFactor{engine = lazy{window_size = 60}},
    predict = "score_one", supervised = false, on = {"phishing", "bananas"}},
  outlier_factor_default = {model = anomaly.LocalOutlierFactor{n_neighbors = 3}, predict = "score_one", count = 200,
    supervised = false, on = {"images", "counts_binary"}},
  loda = {model = scaler() | anomaly.LODA{seed = 42}, predict = "score_one", supervised = false,
    on = {"phishing", "images"}},
  loda_small = {model = anomaly.LODA{n_bins = 4, n_random_cuts = 15, seed = 3}, predict = "score_one",
    supervised = false, on = {"counts_multiclass", "friedman"}},
  svm_minmax = {model = minmax() | svm(), predict = "score_one", supervised = false, on = {"images", "friedman"}},
  threshold_filter = {model = scaler() | anomaly.ThresholdFilter(trees{seed = 5, window_size = 50},
    {threshold = 0.8}) | linear(), on = {"trump", "friedman"}},
  threshold_filter_target = {model = scaler()
    | anomaly.ThresholdFilter(anomaly.GaussianScorer{grace_period = 20}, {threshold = 0.9}) | linear(),
    on = {"trump", "friedman"}},
})

local function reference()
  local interpreter = dofile("tests/support/python.lua").command
  local pipe = assert(io.popen(interpreter .. " tests/river_embedded/anomaly_reference.py"))
  local recorded = json.decode(pipe:read("a"))
  assert(pipe:close(), "anomaly_reference.py failed")
  return recorded
end

local function near(ours, theirs, what)
  if ours == theirs then return 0 end
  local size = math.max(math.abs(ours), math.abs(theirs))
  local difference = math.abs(ours - theirs)
  -- A score is 1 less something: what is below the last bit of 1 is nothing.
  assert(difference < 1e-9 * size or difference < 1e-15, ("%s: %.17g, not %.17g"):format(what, ours, theirs))
  return difference / size
end

local DETECTORS = {
  gaussian = anomaly.GaussianScorer(),
  gaussian_window = anomaly.GaussianScorer{window_size = 60, grace_period = 10},
  deviation = anomaly.StandardAbsoluteDeviation(),
  deviation_median = anomaly.StandardAbsoluteDeviation{sub_stat = river.stats.Quantile(0.5)},
}

describe("as the library:", function()
  local recorded = reference()

  for name, node in pairs(DETECTORS) do
    it("the scores of targets by " .. name, function()
      for series, data in pairs(recorded) do
        local detector, count = registry.build(node), 0
        for i, y in ipairs(data.series) do
          local theirs = data.scores[name][i]
          if theirs ~= json.null then
            near(detector:score_one(nil, y), theirs, ("%s of %s, %d"):format(name, series, i))
            count = count + 1
          end
          detector:check_target(y)
          detector:learn_one(nil, y)
        end
        assert.is_true(count >= #data.series - 1 and count >= 999)
      end
    end)
  end

  it("the scores of targets by the error of a model", function()
    local cases = {
      error = anomaly.PredictiveAnomalyDetection{warmup_period = 10},
      error_scaled = anomaly.PredictiveAnomalyDetection(scaler() | linear(), {n_std = 2.5}),
    }
    for name, node in pairs(cases) do
      local detector, reader = registry.build(node), row.reader()
      for i, sample in ipairs(equal.samples("trump")) do
        near(detector:score_one(reader:read(sample[1]), sample[2]), recorded.trump.errors[name][i], name .. i)
        detector:learn_one(reader:read(sample[1]), sample[2])
      end
      assert.is_true(#recorded.trump.errors[name] >= 1000)
    end
  end)

  it("running statistics", function()
    local compared, worst = 0, 0
    for series, data in pairs(recorded) do
      for name, run in pairs(data.statistics) do
        local statistic = registry.build{class = "river.stats." .. name, kwargs = run.options}
        for i, x in ipairs(data.series) do
          statistic:update(x)
          worst = math.max(worst, near(statistic:get(), run.values[i], ("%s of %s, %d"):format(name, series, i)))
          compared = compared + 1
        end
      end
      for name, values in pairs(data.pairs) do
        local statistic = registry.build{class = "river.stats." .. name}
        for i, value in ipairs(values) do
          statistic:update(data.series[i], data.series[i + 1])
          worst = math.max(worst, near(statistic:get(), value, ("%s of %s, %d"):format(name, series, i)))
        end
      end
    end
    assert.is_true(compared >= 22000)
    if os.getenv("RIVER_EMBEDDED_REPORT") then print("statistics:", compared, worst) end
  end)
end)

describe("an anomaly detector", function()
  local reader = row.reader()

  it("takes a target or takes none, as the library's does", function()
    for _, node in ipairs{trees(), svm(), anomaly.QuantileFilter(trees(), {q = 0.5})} do
      local model = registry.build(node)
      local ok, problem = pcall(model.check_target, model, 1)
      assert.is_true(not ok and python.is_error(problem))
      assert.truthy(problem.text:find("unexpected keyword argument 'y'", 1, true))
      model:check_target(nil)
      model:check_target(1, true)
    end
    for _, node in ipairs{anomaly.GaussianScorer(), anomaly.StandardAbsoluteDeviation(),
      anomaly.ThresholdFilter(anomaly.GaussianScorer(), {threshold = 0.5})} do
      local model = registry.build(node)
      for _, y in ipairs{"text", {}} do assert.is_false((pcall(model.check_target, model, y))) end
      local ok, problem = pcall(model.check_target, model, nil)
      assert.truthy(not ok and problem.text:find("missing 1 required positional argument: 'y'", 1, true))
      ok, problem = pcall(model.score_one, model, (reader:read{a = 1}))
      assert.truthy(not ok and problem.text:find("score_one() missing", 1, true))
    end
  end)

  it("scores nothing before its first window is full", function()
    local model = registry.build(trees{window_size = 3, seed = 1})
    for _ = 1, 2 do model:learn_one(reader:read{a = 0.5}) end
    assert.equal(0, model:score_one(reader:read{a = 0.5}))
    model:learn_one(reader:read{a = 0.5})
    assert.is_true(model:score_one(reader:read{a = 0.9}) > 0)
  end)

  it("refuses text", function()
    for _, node in ipairs{trees{window_size = 1}, svm()} do
      local model = registry.build(node)
      local ok, problem = pcall(model.learn_one, model, reader:read{a = "text"})
      assert.is_true(not ok and problem.type == "TypeError")
    end
  end)

  it("must be one, where a filter wraps it", function()
    local ok, problem = pcall(registry.build, anomaly.QuantileFilter(linear(), {q = 0.5}))
    assert.is_true(not ok)
    assert.truthy(tostring(problem.text):find("no attribute 'score_one'", 1, true))
    assert.is_false((pcall(registry.build, anomaly.QuantileFilter(trees(), {q = 1.5}))))
    assert.is_false((pcall(registry.build, trees{limits = river.dict{{"a", 3}}})))
  end)

  it("is other trees without a seed", function()
    local seen = {}
    for i = 1, 10 do
      local model = registry.build(trees())
      model:learn_one(reader:read{a = 0.5, b = 0.25})
      local text = tostring(model.trees[1].threshold[1])
      assert.is_nil(seen[text], i)
      seen[text] = true
    end
  end)
end)
