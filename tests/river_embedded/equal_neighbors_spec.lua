-- Nearest neighbors against the Python library.

local equal = assert(loadfile("tests/river_embedded/equal.lua", "t", _ENV))()
local river = require "river"

local scaler, neighbors = river.preprocessing.StandardScaler, river.neighbors
local classifier, regressor = neighbors.KNNClassifier, neighbors.KNNRegressor
local lazy, swinn = neighbors.LazySearch, neighbors.SWINN
local PROBA = "predict_proba_one"
local ALLOW = {"functools.partial"}

local function power(p)
  return river.class "functools.partial"(river.ref "river.utils.math.minkowski_distance", {p = p})
end

equal.check("nearest neighbors", {
  lazy = {model = scaler() | classifier{engine = lazy{window_size = 100}}, predict = PROBA,
    on = {"phishing", "bananas"}},
  lazy_labels = {model = classifier{engine = lazy()}, on = {"images", "counts_multiclass"}},
  lazy_softmax = {model = classifier{n_neighbors = 9, engine = lazy(), softmax = true}, predict = PROBA,
    on = {"phishing", "counts_multiclass"}},
  lazy_uniform = {model = scaler() | classifier{engine = lazy{window_size = 200}, weighted = false}, predict = PROBA,
    on = {"images", "waveform"}},
  lazy_manhattan = {model = scaler() | classifier{engine = lazy{dist_func = power(1)}}, predict = PROBA, allow = ALLOW,
    on = {"phishing", "counts_binary"}},
  lazy_cubic = {model = scaler() | classifier{engine = lazy{dist_func = power(3)}}, predict = PROBA, allow = ALLOW,
    on = {"images", "counts_multiclass"}},
  lazy_regressor = {model = scaler() | regressor{engine = lazy{window_size = 80}}, on = {"trump", "friedman"}},
  lazy_median = {model = regressor{n_neighbors = 4, engine = lazy(), aggregation_method = "median"},
    on = {"trump", "planes"}},
  lazy_weighted = {model = scaler() | regressor{n_neighbors = 7, engine = lazy(), aggregation_method = "weighted_mean"},
    on = {"trump", "friedman"}},
  swinn = {model = scaler() | classifier{engine = swinn{seed = 42}}, predict = PROBA, on = {"phishing", "bananas"}},
  swinn_labels = {model = scaler() | classifier{engine = swinn{seed = 1, graph_k = 12, maxlen = 300, warm_up = 100}},
    on = {"images", "waveform"}},
  swinn_small = {model = classifier{cleanup_every = 50,
    engine = swinn{seed = 3, graph_k = 5, maxlen = 60, warm_up = 30, max_candidates = 8, n_iters = 4, delta = 0.01}},
    predict = PROBA, on = {"counts_multiclass", "bananas"}},
  swinn_pruned = {model = scaler() | classifier{
    engine = swinn{seed = 9, graph_k = 8, maxlen = 120, warm_up = 50, max_candidates = 10, prune_prob = 0.4}},
    predict = PROBA, on = {"phishing", "images"}},
  swinn_regressor = {model = scaler() | regressor{engine = swinn{seed = 42, dist_func = power(1)}}, allow = ALLOW,
    on = {"trump", "friedman"}},
})

describe("nearest neighbors", function()
  local errors = require "riverlua.errors"
  local python = require "river.embedded.python"
  local registry = require "river.embedded.registry"
  local row = require "river.embedded.row"

  local function refuses(node, text)
    local ok, problem = pcall(registry.build, node)
    assert.is_false(ok)
    assert.truthy(tostring(errors.is(problem) and problem.message or problem):find(text, 1, true))
  end

  it("refuse a distance that is not known here", function()
    refuses(classifier{engine = lazy{dist_func = river.ref "river.utils.math.dot"}}, "river.utils.math.dot")
    refuses(classifier{engine = lazy{dist_func = river.class "functools.partial"(river.ref "river.utils.math.dot")}},
      "functools.partial")
  end)

  it("refuse a way of aggregation that there is not", function()
    refuses(regressor{aggregation_method = "mode"}, "Invalid aggregation_method: mode")
  end)

  it("say what they cannot learn or compare", function()
    local model, reader = registry.build(classifier{engine = lazy()}), row.reader()
    for _, y in ipairs{{1, 2}, {a = 1}} do
      local ok, problem = pcall(model.check_target, model, y)
      assert.is_true(not ok and python.is_error(problem))
    end
    local ok, problem = pcall(model.check_target, model, nil)
    assert.truthy(not ok and problem.text:find("missing 1 required positional argument: 'y'", 1, true))
    model:learn_one(reader:read{a = "text"}, 1)
    ok, problem = pcall(model.predict_one, model, reader:read{a = 1})
    assert.truthy(not ok and problem.text:find("must be real number, not str", 1, true))
  end)

  it("have windows of their own when they share an engine", function()
    local engine, reader = lazy{window_size = 5}, row.reader()
    local built = {}
    local a, b = registry.build(classifier{engine = engine}, built), registry.build(classifier{engine = engine}, built)
    a:learn_one(reader:read{x = 1}, "one")
    assert.equal("one", a:predict_one(reader:read{x = 1}))
    assert.is_nil(b:predict_one(reader:read{x = 1}))
  end)

  it("fail to clean up a lazy window, as the library does, before anything is learned", function()
    local model, reader = registry.build(classifier{engine = lazy(), cleanup_every = 2}), row.reader()
    local x = reader:read{x = 1}
    model:check_target("a")
    model:learn_one(x, "a")
    local ok, problem = pcall(model.check_target, model, "b")
    assert.is_true(not ok and problem.type == "AttributeError")
    assert.same({"a"}, (select(2, model:predict_proba_one(x))))
  end)

  it("go on from a snapshot as if nothing had been", function()
    local snapshot, samples = require "river.embedded.snapshot", equal.samples("images")
    for _, node in ipairs{
      scaler() | classifier{engine = swinn{graph_k = 6, maxlen = 80, warm_up = 40, prune_prob = 0.2}},
      classifier{engine = lazy{window_size = 20, dist_func = power(3)}, softmax = true},
    } do
      local model, reader = registry.build(node), row.reader()
      for i = 1, 100 do model:learn_one(reader:read(samples[i][1]), samples[i][2]) end
      local copy, other_reader = snapshot.load(snapshot.dump(model)), row.reader()
      for i = 101, 300 do
        local a, b = reader:read(samples[i][1]), other_reader:read(samples[i][1])
        assert.same(model:predict_proba_one(a), copy:predict_proba_one(b))
        model:learn_one(a, samples[i][2])
        copy:learn_one(b, samples[i][2])
      end
    end
  end)
end)
