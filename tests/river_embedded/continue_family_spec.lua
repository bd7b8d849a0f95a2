-- Models beside the generalized linear ones, downloaded: Python goes on with them, and the service with what Python
-- stored then.

local equal = assert(loadfile("tests/river_embedded/equal.lua", "t", _ENV))()
local support = dofile("tests/river_embedded/support.lua")
local json = require "riverlua.json"
local pickle = require "river.embedded.pickle"
local registry = require "river.embedded.registry"
local river = require "river"
local row = require "river.embedded.row"
local snapshot = require "river.embedded.snapshot"

local PYTHON = dofile("tests/support/python.lua").command
local FIRST, SECOND, THIRD = 300, 500, 600

local pp, compose, linear, fx = river.preprocessing, river.compose, river.linear_model, river.feature_extraction
local scaler, logistic = pp.StandardScaler, linear.LogisticRegression

-- Name → model, samples, method.
local MODELS = {
  {"a passive-aggressive regressor", scaler() | linear.PARegressor{mode = 2}, "trump", "predict_one"},
  {"a passive-aggressive classifier", scaler() | linear.PAClassifier(), "phishing", "predict_proba_one"},
  {"a perceptron", scaler() | linear.Perceptron{l2 = 0.01}, "phishing", "predict_proba_one"},
  {"ALMA", scaler() | linear.ALMAClassifier(), "phishing", "predict_proba_one"},
  {"softmax regression", scaler() | linear.SoftmaxRegression(), "images", "predict_proba_one"},
  {"softmax regression with Adam", linear.SoftmaxRegression{optimizer = river.optim.Adam(0.01), l2 = 0.1},
    "counts_multiclass", "predict_proba_one"},
  {"one against rest", scaler() | river.multiclass.OneVsRestClassifier(logistic()), "images", "predict_proba_one"},
  {"one against one", scaler() | river.multiclass.OneVsOneClassifier(logistic()), "images", "predict_one"},
  {"Gaussian naive Bayes", river.naive_bayes.GaussianNB(), "images", "predict_proba_one"},
  {"Bernoulli naive Bayes", river.naive_bayes.BernoulliNB(), "counts_binary", "predict_proba_one"},
  {"multinomial naive Bayes", river.naive_bayes.MultinomialNB(), "counts_multiclass", "predict_proba_one"},
  {"complement naive Bayes", river.naive_bayes.ComplementNB(), "counts_multiclass", "predict_proba_one"},
  {"one-hot encoding", compose.Select("city", "flag", "color") | pp.OneHotEncoder() | linear.LinearRegression(),
    "mixed_regression", "predict_one"},
  {"one-hot encoding of given categories", compose.Select("city") | pp.OneHotEncoder{categories =
    river.dict{{"city", river.set{"Rome", "Oslo"}}}, drop_first = true} | linear.LinearRegression(),
    "mixed_regression", "predict_one"},
  {"ordinal encoding", compose.Discard("rare") | pp.OrdinalEncoder() | river.naive_bayes.GaussianNB(),
    "mixed_multiclass", "predict_proba_one"},
  {"types and a group", compose.SelectType(river.ref "numbers.Number") | compose.Grouper(scaler(), {by = "flag"})
    | linear.LinearRegression(), "mixed_regression", "predict_one"},
  {"names", compose.Discard("city", "color") | compose.Prefixer("a") | compose.Suffixer("z")
    | compose.Renamer{aflagz = "flag"} | linear.PARegressor(), "mixed_regression", "predict_one"},
  {"products of what varies", river.feature_selection.VarianceThreshold{threshold = 0.01}
    | fx.PolynomialExtender{include_bias = true} | linear.PAClassifier(), "phishing", "predict_proba_one"},
  {"weighted words", fx.TFIDF{on = "text", stop_words = {"the"}} | river.naive_bayes.ComplementNB(), "texts_multiclass",
    "predict_proba_one"},
}

local function learn(model, reader, samples, first, last)
  for i = first, last do
    model:check_target(samples[i][2])
    model:learn_one(reader:read(samples[i][1]), samples[i][2])
  end
end

local function close_enough(ours, theirs, what)
  local difference = math.abs(ours - theirs)
  assert(difference <= 1e-9 * math.max(math.abs(ours), math.abs(theirs)),
    ("%s: %.17g instead of %.17g"):format(what, ours, theirs))
end

local function compare(prediction, order, theirs, what)
  if type(theirs) == "table" then
    assert.equal(#theirs, #order, what)
    for i, pair in ipairs(theirs) do
      assert.equal(pair[1], order[i], what)
      close_enough(prediction[order[i]], pair[2], what)
    end
  elseif type(theirs) == "number" then
    close_enough(prediction, theirs, what)
  else
    assert.equal(theirs, prediction, what)
  end
end

-- Runs the Python side on all models at once.
local function continue_in_python(jobs)
  local lines, path = {}, os.tmpname()
  for i, job in ipairs(jobs) do lines[i] = json.encode(job, {sort = true}) end
  support.write_file(path, table.concat(lines, "\n") .. "\n")
  local command = ("%s tests/river_embedded/continue_family.py <%s"):format(PYTHON, path)
  local pipe, answers = assert(io.popen(command)), {}
  for line in pipe:lines() do answers[#answers + 1] = json.decode(line, {nan = true}) end
  pipe:close()
  os.remove(path)
  return answers
end

local cases, ready = {}, nil

-- Trained here, gone on with in Python.
local function prepare()
  local jobs = {}
  for i, spec in ipairs(MODELS) do
    local model, reader, samples = registry.build(spec[2]), row.reader(), equal.samples(spec[3])
    learn(model, reader, samples, 1, FIRST)
    local job = {path = os.tmpname(), out = os.tmpname(), samples = spec[3], first = FIRST + 1, last = SECOND,
      predict = spec[4], supervised = true}
    support.write_file(job.path, pickle.dump(model))
    cases[i], jobs[i] = {model = model, reader = reader, samples = samples}, job
  end
  for i, answer in ipairs(continue_in_python(jobs)) do
    cases[i].answer = answer
    cases[i].stored = support.read_file(jobs[i].out)
    os.remove(jobs[i].path)
    os.remove(jobs[i].out)
  end
end

describe("a downloaded model goes on in Python and comes back:", function()
  for i, spec in ipairs(MODELS) do
    it(spec[1], function()
      ready = ready or prepare() or true
      local case, predict = cases[i], spec[4]
      local model, reader, samples = case.model, case.reader, case.samples
      assert.is_true(model:portable())
      assert.is_nil(case.answer.error)
      assert.equal(SECOND - FIRST, #case.answer.predictions)
      for k, theirs in ipairs(case.answer.predictions) do
        local prediction, order = model[predict](model, reader:read(samples[FIRST + k][1]))
        compare(prediction, order, theirs, ("%s, sample %d"):format(spec[1], FIRST + k))
        learn(model, reader, samples, FIRST + k, FIRST + k)
      end
      local back, back_reader = pickle.load(case.stored), row.reader()
      for k = SECOND + 1, THIRD do
        local theirs, their_order = back[predict](back, back_reader:read(samples[k][1]))
        local pairs_of = theirs
        if their_order then
          pairs_of = {}
          for n, label in ipairs(their_order) do pairs_of[n] = {label, theirs[label]} end
        end
        local prediction, order = model[predict](model, reader:read(samples[k][1]))
        compare(prediction, order, pairs_of, ("%s, back at sample %d"):format(spec[1], k))
        learn(model, reader, samples, k, k)
        learn(back, back_reader, samples, k, k)
      end
    end)
  end
end)

describe("a saved model goes on bit for bit:", function()
  local others = {
    {"the best features", river.feature_selection.SelectKBest{similarity = river.stats.PearsonCorr(), k = 3}
      | linear.LinearRegression{optimizer = river.optim.SGD(1e-4)}, "phishing", "predict_one"},
    {"features by chance", river.feature_selection.PoissonInclusion{p = 0.001, seed = 1}
      | linear.LinearRegression{optimizer = river.optim.SGD(1e-4)}, "phishing", "predict_one"},
    {"output codes", scaler() | river.multiclass.OutputCodeClassifier{classifier = logistic(), code_size = 5,
      coding_method = "exact", seed = 1}, "images", "predict_one"},
    {"imputers", compose.Discard("city", "color") | pp.StatImputer({"size", river.stats.Mean()}, {"whole", 1})
      | pp.PreviousImputer() | linear.PARegressor(), "mixed_regression", "predict_one"},
  }
  for _, spec in ipairs(MODELS) do others[#others + 1] = spec end
  for _, spec in ipairs(others) do
    it(spec[1], function()
      local model, reader, samples = registry.build(spec[2]), row.reader(), equal.samples(spec[3])
      learn(model, reader, samples, 1, 200)
      local copy, copy_reader = snapshot.load(snapshot.dump(model)), row.reader()
      for k = 201, 300 do
        local ours, order = model[spec[4]](model, reader:read(samples[k][1]))
        local theirs, their_order = copy[spec[4]](copy, copy_reader:read(samples[k][1]))
        if order then
          for n, label in ipairs(order) do
            assert.equal(label, their_order[n])
            assert.equal(ours[label], theirs[label])
          end
        else
          assert.equal(ours, theirs)
        end
        learn(model, reader, samples, k, k)
        learn(copy, copy_reader, samples, k, k)
      end
    end)
  end
end)

describe("the bytes of a model with a flipped bit", function()
  -- Whatever the bit stood for: the model is refused, or it answers with a number, a label or an exception of Python's.
  local function try(bytes, predict, samples)
    local ok, model = pcall(pickle.load, bytes)
    if not ok then return assert.is_table(model, model) end
    local reader = row.reader()
    for k = 1, 2 do
      local fine, problem = pcall(model[predict], model, reader:read(samples[k][1]))
      if not fine then assert.is_table(problem, problem) end
      fine, problem = pcall(learn, model, reader, samples, k, k)
      if not fine then assert.is_table(problem, problem) end
    end
  end

  for _, spec in ipairs(MODELS) do
    it("never break the service: " .. spec[1], function()
      local model, samples = registry.build(spec[2]), equal.samples(spec[3])
      learn(model, row.reader(), samples, 1, 10)
      local bytes = pickle.dump(model)
      for i = 1, #bytes, math.max(1, #bytes // 150) do
        try(bytes:sub(1, i - 1) .. string.char(bytes:byte(i) ~ 1 << i % 8) .. bytes:sub(i + 1), spec[4], samples)
      end
    end)
  end
end)
