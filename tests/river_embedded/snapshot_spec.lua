-- Saved models go on where they stopped, whatever they are made of; damaged ones are refused.

local equal = assert(loadfile("tests/river_embedded/equal.lua", "t", _ENV))()
local errors = require "riverlua.errors"
local python = require "river.embedded.python"
local registry = require "river.embedded.registry"
local river = require "river"
local row = require "river.embedded.row"
local snapshot = require "river.embedded.snapshot"

-- Classifiers that vote and know no probabilities.
local NO_PROBABILITIES = {
  ["river.ensemble.VotingClassifier"] = true,
  ["river.multiclass.OneVsOneClassifier"] = true, ["river.multiclass.OutputCodeClassifier"] = true,
}

local function feed(model, samples, from, to, reader)
  -- a pipeline has every method, its last step decides which work
  local predictions, final = {}, model.last or model
  for i = from, to do
    local x, y = samples[i][1], samples[i][2]
    local method = model.aliases and model.aliases.predict_one or "predict_one"
    if final[method] then predictions[#predictions + 1] = model[method](model, reader:read(x)) or python.None end
    if final.predict_proba_one and not NO_PROBABILITIES[model.class] then
      predictions[#predictions + 1] = model:predict_proba_one(reader:read(x))
    end
    if final.score_one then predictions[#predictions + 1] = model:score_one(reader:read(x), y) end
    if final.transform_one then
      local out = model:transform_one(reader:read(x))
      predictions[#predictions + 1] = table.concat(out.keys, " ")
      for j = 1, out.keys.n do predictions[#predictions + 1] = out[j] or python.None end
    end
    -- half of them take no label
    if not pcall(model.check_target, model, y) then y = nil end
    model:learn_one(reader:read(x), y)
  end
  return predictions
end

local scaled = river.preprocessing.StandardScaler() | river.linear_model.LogisticRegression()

-- Class → a description of it, for those that need arguments.
local DESCRIPTIONS = {}

local function describe_class(node) DESCRIPTIONS[node.class] = node end

describe_class(scaled)
describe_class(river.anomaly.QuantileFilter(river.anomaly.HalfSpaceTrees{seed = 1}, {q = 0.9}))
describe_class(river.anomaly.ThresholdFilter(river.anomaly.HalfSpaceTrees{seed = 1}, {threshold = 0.9}))
describe_class(river.anomaly.PredictiveAnomalyDetection{predictive_model = river.preprocessing.StandardScaler() |
  river.linear_model.LinearRegression()})
describe_class(river.compose.Grouper(river.preprocessing.StandardScaler(), {by = "ordinal_date"}))
describe_class(river.compose.Prefixer("a_"))
describe_class(river.compose.Suffixer("_a"))
describe_class(river.compose.Renamer{gallup = "a"})
for _, name in ipairs{"ADWINBaggingClassifier", "ADWINBoostingClassifier", "AdaBoostClassifier", "BOLEClassifier",
  "BaggingClassifier", "LeveragingBaggingClassifier"} do
  describe_class(river.ensemble[name](scaled, {n_models = 3, seed = 1}))
end
describe_class(river.ensemble.BaggingRegressor(river.linear_model.LinearRegression(), {n_models = 3, seed = 1}))
describe_class(river.ensemble.VotingClassifier{scaled, river.naive_bayes.GaussianNB()})
describe_class(river.feature_selection.PoissonInclusion{p = 0.1, seed = 1})
describe_class(river.feature_selection.SelectKBest(river.stats.PearsonCorr(), {k = 2}))
for _, name in ipairs{"OneVsOneClassifier", "OneVsRestClassifier"} do
  describe_class(river.multiclass[name](river.linear_model.LogisticRegression()))
end
describe_class(river.multiclass.OutputCodeClassifier(river.linear_model.LogisticRegression(),
  {code_size = 6, seed = 1}))
describe_class(river.feature_extraction.TFIDF{on = "text"})
describe_class(river.feature_extraction.BagOfWords{on = "text"})
-- A function of Python cannot run here.
local IMPOSSIBLE = {["river.compose.FuncTransformer"] = true}

-- The library has no prediction of these before the first sample.
local LEARNS_FIRST = {["river.cluster.STREAMKMeans"] = true}

-- Data on which a class can learn, tried in this order.
local SAMPLES = {"trump", "phishing", "images", "counts_multiclass", "texts_binary"}

-- A model of the class that has learned, and the samples it learned from.
local function learned(class)
  local problem
  for _, name in ipairs(SAMPLES) do
    local samples = equal.samples(name)
    local model = registry.build(DESCRIPTIONS[class] or {class = class})
    if LEARNS_FIRST[class] then model:learn_one(row.reader():read(samples[1][1])) end
    local ok
    ok, problem = pcall(feed, model, samples, 1, 200, row.reader())
    if ok then return model, samples end
  end
  error(problem, 0)
end

describe("a snapshot", function()
  for _, class in ipairs(registry.names("estimator")) do
    it("of " .. class .. " goes on to the bit", function()
      if IMPOSSIBLE[class] then return end
      local model, samples = learned(class)
      local copy = snapshot.load(snapshot.dump(model))
      assert.equal(getmetatable(model), getmetatable(copy))
      assert.same(feed(model, samples, 201, 300, row.reader()), feed(copy, samples, 201, 300, row.reader()))
    end)
  end

  it("keeps what is shared, cycles, and numbers to the bit", function()
    local shared = {0.1, -0.0, math.mininteger, math.huge, "\0\xff", true, python.None}
    local value = {shared, again = shared, [2.5] = false, deep = {}}
    value.deep.up = value
    local copy = snapshot.load(snapshot.dump(value))
    assert.equal(copy[1], copy.again)
    assert.equal(copy, copy.deep.up)
    assert.equal(python.None, copy[1][7])
    assert.equal("-0.0", tostring(copy[1][2]))
    assert.equal("integer", math.type(copy[1][3]))
    assert.same({shared[1], shared[3], shared[4], shared[5], shared[6]},
      {copy[1][1], copy[1][3], copy[1][4], copy[1][5], copy[1][6]})
    assert.is_false(copy[2.5])
  end)

  it("is a pickle that a River server refuses in its own words", function()
    local bytes = snapshot.dump({1})
    local node = require("river.pickle").read(bytes)
    assert.is_table(node)
  end)

  it("does not hold functions or foreign objects", function()
    for _, value in ipairs{{print}, {setmetatable({}, {})}, {io.stdout}} do
      local ok, problem = pcall(snapshot.dump, value)
      assert.is_false(ok)
      assert.is_true(errors.is(problem, "unsupported"))
    end
  end)

  it("that is damaged is refused with words, wherever the damage is", function()
    local model = registry.build(scaled)
    feed(model, equal.samples("phishing"), 1, 50, row.reader())
    local bytes = snapshot.dump(model)
    for at = 1, #bytes, 7 do
      local damaged = bytes:sub(1, at - 1) .. string.char((bytes:byte(at) + 1) % 256) .. bytes:sub(at + 1)
      local ok, problem = pcall(snapshot.load, damaged)
      assert.is_false(ok)
      assert.is_true(errors.is(problem, "argument"), tostring(problem))
      assert.is_false((pcall(snapshot.load, bytes:sub(1, at))))
    end
  end)

  it("with a right checksum around anything is read or refused, never more", function()
    local model = registry.build(scaled)
    feed(model, equal.samples("phishing"), 1, 20, row.reader())
    local bytes = snapshot.dump(model)
    local graph = bytes:sub(#bytes:match("^(.-B)....\1") + 5, -11)
    assert.is_true(#graph > 100 and pcall(snapshot.load, snapshot.frame(graph)))
    local state = 12345
    local function random(n)
      state = (state * 1103515245 + 12345) % 2147483648
      return (state >> 8) % n
    end
    for _ = 1, 3000 do
      local damaged = graph
      for _ = 1, 1 + random(4) do
        local at, kind = 1 + random(#damaged), random(3)
        local rest = kind == 0 and damaged:sub(at + 1) or kind == 1 and string.char(random(256)) .. damaged:sub(at + 1)
          or damaged:sub(at, at + random(40)) .. damaged:sub(at)
        damaged = damaged:sub(1, at - 1) .. rest
      end
      local ok, problem = pcall(snapshot.load, snapshot.frame(damaged))
      assert.is_true(ok or errors.is(problem), tostring(problem))
    end
  end)
end)
