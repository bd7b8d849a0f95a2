-- Trees, forests and ensembles beyond their numbers: saving what has grown, refusing what Python refuses, odd samples.

local equal = assert(loadfile("tests/river_embedded/equal.lua", "t", _ENV))()
local errors = require "riverlua.errors"
local python = require "river.embedded.python"
local registry = require "river.embedded.registry"
local river = require "river"
local row = require "river.embedded.row"
local snapshot = require "river.embedded.snapshot"

local tree, forest, drift, ensemble = river.tree, river.forest, river.drift, river.ensemble
local scaler = river.preprocessing.StandardScaler

local restless = {grace_period = 50, delta = 0.01, tau = 0.3, seed = 5, drift_window_threshold = 10,
  drift_detector = drift.PageHinkley{threshold = 1, min_instances = 5}, switch_significance = 0.9}
local nervous = drift.ADWIN{delta = 0.6, clock = 8}

local GROWN = {
  {"mixed_multiclass", tree.HoeffdingTreeClassifier{grace_period = 50, tau = 0.3}},
  {"mixed_multiclass", tree.HoeffdingTreeClassifier{grace_period = 50, tau = 0.3, leaf_prediction = "mc",
    splitter = tree.splitter.ExhaustiveSplitter()}},
  {"images", tree.HoeffdingTreeClassifier{grace_period = 50, tau = 0.3,
    splitter = tree.splitter.HistogramSplitter(20)}},
  {"mixed_regression", tree.HoeffdingTreeRegressor{grace_period = 50, delta = 0.01, leaf_prediction = "mean"}},
  {"trump", scaler() | tree.HoeffdingTreeRegressor{grace_period = 50, delta = 0.01}},
  {"friedman", tree.HoeffdingTreeRegressor{grace_period = 50, splitter = tree.splitter.QOSplitter()}},
  {"counts_binary", tree.HoeffdingAdaptiveTreeClassifier(restless)},
  {"trump", scaler() | tree.HoeffdingAdaptiveTreeRegressor(restless)},
  {"waveform", tree.ExtremelyFastDecisionTreeClassifier{grace_period = 50, delta = 0.01}},
  {"images", forest.ARFClassifier{seed = 1, n_models = 3, drift_detector = nervous}},
  {"trump", scaler() | forest.ARFRegressor{seed = 1, n_models = 3}},
  {"bananas", ensemble.LeveragingBaggingClassifier{model = tree.HoeffdingTreeClassifier{grace_period = 50}, seed = 1,
    n_models = 3, adwin_delta = 0.9}},
  {"phishing", ensemble.ADWINBoostingClassifier{model = river.linear_model.LogisticRegression(), seed = 1}},
}

local function feed(model, samples, from, to)
  local reader, predictions = row.reader(), {}
  for i = from, to do
    local x, y = samples[i][1], samples[i][2]
    local final = model.last or model
    if final.predict_proba_one then
      predictions[#predictions + 1] = model:predict_proba_one(reader:read(x))
    else
      predictions[#predictions + 1] = model:predict_one(reader:read(x))
    end
    model:learn_one(reader:read(x), y)
  end
  return predictions
end

describe("what has grown", function()
  for i, case in ipairs(GROWN) do
    local name = case[2].class:match("[^.]+$")
    it(("goes on to the bit after it was saved: %d, %s on %s"):format(i, name, case[1]), function()
      local samples, model = equal.samples(case[1]), registry.build(case[2])
      feed(model, samples, 1, 600)
      local copy = snapshot.load(snapshot.dump(model))
      assert.same(feed(model, samples, 601, 1000), feed(copy, samples, 601, 1000))
    end)

    it(("is cloned with nothing learned: %d, %s"):format(i, name), function()
      local samples, model = equal.samples(case[1]), registry.build(case[2])
      local first = feed(model, samples, 1, 200)
      assert.same(first, feed(registry.clone(registry.build(case[2])), samples, 1, 200))
    end)
  end

  it("is small enough for a long stream", function()
    local samples, model = equal.samples("friedman"), registry.build(tree.HoeffdingTreeRegressor{grace_period = 50})
    for _ = 1, 4 do feed(model, samples, 1, 1000) end
    collectgarbage()
    local before = collectgarbage("count")
    for _ = 1, 4 do feed(model, samples, 1, 1000) end
    collectgarbage()
    assert.is_true(collectgarbage("count") - before < 4000)
  end)
end)

describe("a tree that is too large", function()
  local samples = equal.samples("waveform")
  local options = {grace_period = 50, delta = 0.01, tau = 0.3, max_size = 0.05, memory_estimate_period = 100}

  local function grown(extra)
    local all = {}
    for _, source in ipairs{options, extra} do
      for name, value in pairs(source) do all[name] = value end
    end
    local model = registry.build(tree.HoeffdingTreeClassifier(all))
    feed(model, samples, 1, 1000)
    return model
  end

  it("lets leaves rest", function()
    local model = grown{}
    assert.is_true(model.inactive_leaves > 0)
    assert.equal(0, grown{max_size = 100}.inactive_leaves)
  end)

  it("stops growing when told so", function()
    local model = grown{stop_mem_management = true}
    assert.is_false(model.growth_allowed)
    assert.is_true(model.active_leaves < grown{max_size = 100}.active_leaves)
  end)
end)

describe("an ensemble", function()
  it("fails where the library asks its generator for what it does not have", function()
    for method, text in pairs{half = [[TypeError("Random.randint() missing 1 required positional argument: 'b'")]],
      me = [[AttributeError("'Random' object has no attribute 'rand'")]]} do
      local model = registry.build(ensemble.LeveragingBaggingClassifier{model = tree.HoeffdingTreeClassifier(),
        seed = 1, bagging_method = method})
      local ok, failure = pcall(feed, model, equal.samples("phishing"), 1, 20)
      assert.is_false(ok)
      assert.equal(text, tostring(failure))
    end
  end)

  it("of different models is described model by model", function()
    local model = registry.build(ensemble.VotingClassifier{models = {river.naive_bayes.GaussianNB(),
      ensemble.BaggingClassifier(river.naive_bayes.GaussianNB(), 3, 1)}})
    assert.same({models = {{"GaussianNB", {}}, {"BaggingClassifier", {model = {"GaussianNB"}, n_models = 3, seed = 1}}},
      use_probabilities = true}, model:describe("null"))
  end)
end)

describe("a model that cannot be", function()
  local function refusal(model)
    local ok, failure = pcall(registry.build, model)
    assert.is_false(ok)
    return errors.is(failure) and failure.message or tostring(failure)
  end

  it("is refused in Python's words", function()
    assert.equal("ValueError('The chosen splitter cannot be used in classification tasks.')",
      refusal(tree.HoeffdingTreeClassifier{splitter = tree.splitter.EBSTSplitter()}))
    assert.equal("ValueError('The chosen splitter cannot be used in regression tasks.')",
      refusal(tree.HoeffdingTreeRegressor{splitter = tree.splitter.GaussianSplitter()}))
    assert.equal([[ValueError("'radius' must be greater than zero.")]], refusal(tree.splitter.QOSplitter(0)))
    assert.truthy(refusal(forest.ARFRegressor{aggregation_method = "mode"}):find("Invalid aggregation_method: mode"))
    assert.equal("ValueError('At least 2 models are expected, only 1 were passed')",
      refusal(ensemble.BaggingClassifier(tree.HoeffdingTreeClassifier(), 1)))
    assert.truthy(refusal(ensemble.LeveragingBaggingClassifier{model = tree.HoeffdingTreeClassifier(),
      bagging_method = "bags"}):find("Invalid bagging_method: bags"))
    assert.truthy(refusal(ensemble.BaggingClassifier()):find("missing 1 required positional argument: 'model'"))
    assert.truthy(refusal(tree.HoeffdingTreeClassifier{grace = 3}):find("unexpected keyword argument 'grace'"))
    assert.truthy(refusal(tree.HoeffdingTreeClassifier{splitter = drift.ADWIN()}):find("splitter must be"))
  end)

  it("of names the library does not know falls back as there", function()
    local model = registry.build(tree.HoeffdingTreeClassifier{split_criterion = "x", leaf_prediction = "y"})
    local described = model:describe("null")
    assert.equal("info_gain", described.split_criterion)
    assert.equal("nba", described.leaf_prediction)
    assert.equal(980, described.max_depth)
    assert.same({"GaussianSplitter", {n_splits = 10}}, described.splitter)
    assert.equal("null", described.nominal_attributes)
    assert.equal("model", registry.build(tree.HoeffdingTreeRegressor{leaf_prediction = "y"}).leaf_prediction)
  end)
end)

describe("an odd sample", function()
  local function raised(model, features, y)
    local ok, failure = pcall(function()
      local read = row.reader():read(features)
      model:check_target(y)
      model:learn_one(read, y)
    end)
    assert.is_false(ok)
    assert.is_true(python.is_error(failure), tostring(failure))
    return tostring(failure)
  end

  it("without a target, or with one of another kind, is refused", function()
    local classifier, regressor = registry.build(tree.HoeffdingTreeClassifier()),
      registry.build(tree.HoeffdingTreeRegressor())
    assert.equal([[TypeError("HoeffdingTreeClassifier.learn_one() missing 1 required positional argument: 'y'")]],
      raised(classifier, {a = 1}, nil))
    assert.equal([[TypeError("unhashable type: 'list'")]], raised(classifier, {a = 1}, {1, 2}))
    assert.equal([[TypeError("unsupported operand type(s) for -: 'str' and 'float'")]], raised(regressor, {a = 1}, "x"))
  end)

  it("with text where there were numbers is refused", function()
    local reader = row.reader()
    local classifier = registry.build(tree.HoeffdingTreeClassifier())
    classifier:learn_one(reader:read{a = 1.5}, "x")
    classifier:learn_one(reader:read{a = 2.5}, "x")
    assert.truthy(raised(classifier, {a = "text"}, "x"):find("TypeError", 1, true))
    assert.truthy(raised(classifier, {a = {1, 2}}, "x"):find("TypeError", 1, true))
  end)

  it("without features, or with none but nothing in them, is learned from", function()
    for _, node in ipairs{tree.HoeffdingTreeClassifier(), forest.ARFClassifier{seed = 1},
      tree.ExtremelyFastDecisionTreeClassifier(), tree.HoeffdingAdaptiveTreeClassifier{seed = 1}} do
      local model, reader = registry.build(node), row.reader()
      for i = 1, 300 do
        model:learn_one(reader:read{}, i % 3 == 0)
        model:learn_one(reader:read{a = require("riverlua.json").null, b = "t"}, i % 3 == 0)
      end
      assert.equal(false, model:predict_one(reader:read{}))
    end
  end)

  it("with labels that Python takes for equal counts as one", function()
    local model, reader = registry.build(tree.HoeffdingTreeClassifier()), row.reader()
    model:learn_one(reader:read{a = 1}, 1)
    model:learn_one(reader:read{a = 2}, true)
    model:learn_one(reader:read{a = 3}, 0)
    local probs, order = model:predict_proba_one(reader:read{a = 1.5})
    assert.same({0, 1}, order)
    assert.is_number(probs[0])
    assert.equal(1, model:predict_one(reader:read{a = 1.5}))
  end)

  it("with labels that cannot be sorted fails at the prediction, as in Python", function()
    local model, reader = registry.build(tree.HoeffdingTreeClassifier()), row.reader()
    model:learn_one(reader:read{a = 1}, "x")
    model:learn_one(reader:read{a = 2}, 7)
    local ok, failure = pcall(model.predict_one, model, reader:read{a = 1})
    assert.is_false(ok)
    assert.equal([[TypeError("'<' not supported between instances of 'int' and 'str'")]], tostring(failure))
  end)

  it("predicts nothing before anything was learned", function()
    local reader = row.reader()
    for _, node in ipairs{tree.HoeffdingTreeClassifier(), forest.ARFClassifier(),
      tree.HoeffdingAdaptiveTreeClassifier(),
      tree.ExtremelyFastDecisionTreeClassifier(),
      ensemble.BaggingClassifier(tree.HoeffdingTreeClassifier())} do
      local model = registry.build(node)
      assert.is_nil(model:predict_one(reader:read{a = 1}))
      assert.same({}, (model:predict_proba_one(reader:read{a = 1})))
    end
    for _, node in ipairs{tree.HoeffdingTreeRegressor(), forest.ARFRegressor(),
      tree.HoeffdingAdaptiveTreeRegressor()} do
      assert.equal(0.0, registry.build(node):predict_one(reader:read{a = 1}))
    end
  end)
end)
