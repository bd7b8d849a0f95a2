-- Single calls of the estimators beside the generalized linear models: what they return, in which order, and what they
-- refuse in which words, as the Python library does.

local json = require "riverlua.json"
local python = require "river.embedded.python"
local registry = require "river.embedded.registry"
local river = require "river"
local row = require "river.embedded.row"

local PYTHON = dofile("tests/support/python.lua").command

local pp, compose, linear, fx = river.preprocessing, river.compose, river.linear_model, river.feature_extraction
local fs, bayes, multiclass, stats = river.feature_selection, river.naive_bayes, river.multiclass, river.stats
local null = json.null

local function learn(x, y) return {"learn_one", x, y} end

local function transform(x) return {"transform_one", x} end

local function predict(x) return {"predict_one", x} end

local function proba(x) return {"predict_proba_one", x} end

-- Labels and features that a model of numbers meets.
local function strange(y)
  return {
    learn({a = 1.5}, y), learn({a = 1.0, c = "red"}, y), learn({a = 1.0, c = null}, y), predict{a = "red"},
    predict{a = null}, predict{a = 2, c = "red"}, predict{a = true, b = 3}, learn({a = 1.0}, "text"),
    learn({a = 1.0}, null), learn({a = 1.0}, {1}), learn{a = 1.0}, learn({a = 2, b = false}, y), predict{a = 1, b = 1},
    learn({a = 0, b = 0}, y), learn({a = -1, b = 2}, 0), predict{b = 1},
  }
end

local function coded(encoder)
  return encoder, {
    transform{c = "red", n = 1}, learn{c = "red", n = 1}, learn{c = "blue", n = 1.0}, transform{c = "red", n = 1},
    transform{c = "green", n = 2.5}, learn{c = "red", n = true}, transform{c = "red", n = true},
    learn{c = null, n = 1e22}, transform{c = null, n = 1e-7}, transform{c = "blue", n = false, o = 0.1},
    learn({c = "red"}, 1),
  }
end

local CASES = {
  ["a passive-aggressive classifier"] = {linear.PAClassifier(), strange(true)},
  ["a passive-aggressive regressor"] = {linear.PARegressor{mode = 0}, strange(2)},
  ["ALMA"] = {linear.ALMAClassifier(), strange(true)},
  ["ALMA of a wrong order"] = {linear.ALMAClassifier{p = 0.5}, {learn({a = 1.0}, true)}},
  ["softmax"] = {linear.SoftmaxRegression(), strange("x")},
  ["softmax at first"] = {linear.SoftmaxRegression(), {predict{a = 1}, proba{a = 1}, learn({a = 1}, 3), proba{a = 1},
    learn({a = 2}, null), proba{a = 1}, learn({a = 1}, 3.0), proba{a = 2}}},
  ["a perceptron"] = {linear.Perceptron(), strange(true)},
  ["Gaussian naive Bayes"] = {bayes.GaussianNB(), strange("x")},
  ["Bernoulli naive Bayes"] = {bayes.BernoulliNB(), strange("x")},
  ["multinomial naive Bayes at first"] = {bayes.MultinomialNB(), {predict{a = 1}, proba{a = 1}, learn({a = 2}, "x"),
    learn({a = 1, b = 1}, true), proba{a = 1, c = 3}, learn({a = 1}, {2}), learn{a = 1}, predict{a = "red"},
    predict{a = null}}},
  ["no smoothing"] = {bayes.MultinomialNB{alpha = 0}, {learn({a = 2}, "x"), learn({b = 2}, "y"), proba{a = 1}}},
  ["one against rest"] = {multiclass.OneVsRestClassifier(linear.LogisticRegression()), {predict{a = 1}, proba{a = 1},
    learn({a = 1}, "x"), proba{a = 1}, learn({a = -1}, "y"), proba{a = 1}, learn({a = 1}, {1}), learn{a = 1},
    learn({a = "x"}, "x"), learn({a = 3}, null), proba{a = 1}}},
  ["one against one"] = {multiclass.OneVsOneClassifier(linear.LogisticRegression()), {predict{a = 1}, proba{a = 1},
    learn({a = 1}, 2), predict{a = 1}, learn({a = -1}, 5), predict{a = 1}, learn({a = -3}, "x"), learn{a = 1},
    learn({a = 4}, true), predict{a = 5}, learn({a = 1}, {1})}},
  ["output codes of no kind"] = {multiclass.OutputCodeClassifier{classifier = linear.LogisticRegression(),
    code_size = 2, coding_method = "none"}, {predict{a = 1}, learn({a = 1}, "x"), proba{a = 1}}},
  ["one-hot"] = {coded(pp.OneHotEncoder())},
  ["one-hot without zeros"] = {coded(pp.OneHotEncoder{drop_zeros = true})},
  ["one-hot without the first"] = {coded(pp.OneHotEncoder{drop_first = true})},
  ["one-hot of lists"] = {pp.OneHotEncoder(), {learn{a = {"x", "y"}, b = "z"}, transform{a = {"y", "w"}, b = {"z"}},
    learn{a = {{k = 1}}}, learn{a = {k = 1}}, transform{a = "x"}}},
  ["one-hot of given categories"] = {pp.OneHotEncoder{categories = river.dict{{"c", {"red", "blue"}}, {"n", {1}}}}, {
    transform{c = "red", n = 1}, transform{c = "green", n = 2}, transform{c = "blue", n = true}, transform{q = 1},
    learn{c = "green"}, transform{c = "green"}}},
  ["ordinal"] = {coded(pp.OrdinalEncoder())},
  ["ordinal with codes of one's own"] = {coded(pp.OrdinalEncoder{unknown_value = river.none, none_value = 0})},
  ["ordinal of given categories"] = {pp.OrdinalEncoder{categories = {q = {a = 1}}}, {transform{q = "a"},
    transform{q = "b"}, learn{z = 1}, transform{z = 1}}},
  ["the value before"] = {pp.PreviousImputer(), {transform{a = null, b = 2}, learn{a = 1, b = null}, transform{a = null,
    b = null}, learn{a = "x", b = true}, transform{a = null, b = null}, learn{a = null}, transform{a = null}}},
  ["a statistic"] = {pp.StatImputer({"a", stats.Mean()}, {"b", "none"}, {"c", stats.Max()}), {
    learn{a = 1, b = 1, c = 3}, transform{a = null, b = null, c = null}, learn{a = 2, b = null, c = 7},
    transform{a = null, b = 2, c = null, d = "x"}, learn{b = 1}, transform{a = 1}, learn{a = "x", b = 1, c = 1}}},
  ["the most frequent value"] = {pp.StatImputer({"a", stats.Mode{k = 2}}), {transform{a = null}, learn{a = "x"},
    learn{a = true}, learn{a = 1}, learn{a = "y"}, learn{a = "y"}, learn{a = "y"}, transform{a = null}, learn{a = "x"},
    transform{a = null}}},
  ["select"] = {compose.Select("b"), {transform{a = 1, b = "x"}, transform{a = 1}, learn{a = 1}, learn({a = 1}, 2)}},
  ["discard"] = {compose.Discard("b", "q"), {transform{a = 1, b = "x", c = true}, transform{a = 1}}},
  ["types"] = {compose.SelectType(river.ref "builtins.str", river.ref "builtins.int"), {
    transform{a = 1, b = "x", c = true, d = 1.0, e = null}, transform{d = 0.5}}, {"builtins.str", "builtins.int"}},
  ["prefix and suffix"] = {compose.Prefixer("a-") | compose.Suffixer("-z"), {transform{a = 1, b = "x"}}},
  ["renamer"] = {compose.Renamer(river.dict{{"a", "c"}, {"d", "b"}, {"c", "e"}}), {transform{a = 1, b = 2, c = 3},
    transform{b = 1, d = "x"}, transform{a = 4}, transform{z = 0}}},
  ["groups"] = {compose.Grouper(compose.Discard("g") | pp.StandardScaler(), {by = {"g"}}), {learn{g = "x", v = 1},
    learn{g = "x", v = 2}, transform{g = "x", v = 4}, transform{g = "y", v = 4}, learn{g = true, v = 1},
    transform{v = 1}}},
  ["products"] = {fx.PolynomialExtender{degree = 3, include_bias = true}, {transform{a = 2, b = 1.5},
    transform{b = true, a = 3}, transform{z = 7, a = 3000000000}, transform{a = "red"}, transform{a = 2, c = null}}},
  ["products of texts"] = {fx.PolynomialExtender(), {transform{a = 1.5, c = "red"}, transform{a = 2, c = "red"}}},
  ["words"] = {fx.BagOfWords{on = "t"}, {transform{t = "The cat, the DOG -- and thé été!"}, transform{t = ""},
    transform{x = 1}, transform{t = 2.5}, transform{t = true}, transform{t = "Привет, МИР! Йод ёлка — «тест»"},
    transform{t = "ΕΛΛΆΔΑ ώρα Nguyễn ĐẠI-học a--b -ab- x- 東京 😀 co² “ŁÓDŹ”"}}},
  ["words with their accents"] = {fx.BagOfWords{on = "t", strip_accents = false}, {
    transform{t = "Привет, МИР! ЙОД Ёлка ΕΛΛΆΔΑ NGUYỄN ĐẠI ÀÉÎ ŁÓDŹ ĲSSEL"}}},
  ["words without a name"] = {fx.BagOfWords(), {transform{t = "a"}}},
  ["weighted words"] = {fx.TFIDF{on = "t"}, {transform{t = "one two two"}, learn{t = "one three"}, learn{t = "one"},
    transform{t = "one two three"}, transform{t = "a"}, learn{t = 1}}},
  ["the best"] = {fs.SelectKBest{similarity = stats.PearsonCorr(), k = 1}, {transform{a = 1, b = 2},
    learn({a = 1, b = 2}, 1), transform{a = 1, b = 2}, learn({a = 2, b = 1}, 2), learn({a = 3, b = 1}, 3.5),
    transform{a = 1, b = 2, c = "x"}, learn({a = "x"}, 1), learn({a = 1}, "x"), learn({a = 1}, null), learn{a = 1}}},
  ["chance"] = {fs.PoissonInclusion{p = 1.0, seed = 2}, {transform{a = 1, b = "x"}, learn{a = 1}, learn({a = 1}, 2)}},
  ["variance"] = {fs.VarianceThreshold(), {transform{a = 1}, learn{a = 1, b = 1}, transform{a = 1, b = 2},
    learn{a = 1, b = 2}, transform{a = 1, b = 2, c = 3}, learn{a = "x"}, learn({a = 1}, 1)}},
}

local function hex(bytes) return (bytes:gsub(".", function(c) return ("%02x"):format(c:byte()) end)) end

local names = {}
for name in pairs(CASES) do names[#names + 1] = name end
table.sort(names)

local answers

-- What the library answers to everything, asked at once.
local function theirs(name)
  if answers then return answers[name] end
  local path, lines = os.tmpname(), {}
  for i, case in ipairs(names) do
    local model, calls, allow = table.unpack(CASES[case])
    lines[i] = json.encode({model = hex(require("river.pickle").dumps(model, {allow = allow})), calls = calls})
  end
  local file = assert(io.open(path, "wb"))
  file:write(table.concat(lines, "\n"), "\n")
  file:close()
  local pipe = assert(io.popen(("%s tests/river_embedded/calls.py <%s"):format(PYTHON, path)))
  answers = {}
  for _, case in ipairs(names) do answers[case] = json.decode((assert(pipe:read("l"), case))) end
  pipe:close()
  os.remove(path)
  return answers[name]
end

local function call(model, reader, method, x, ...)
  local read = reader:read(x)
  if method ~= "learn_one" then return model[method](model, read) end
  local y = ...
  if y == null then
    model:check_target(nil, true)
    y = nil
  else
    model:check_target(y)
  end
  if select("#", ...) == 0 then return model:learn_one(read) end
  return model:learn_one(read, y)
end

local function same_number(expected, got, what)
  if type(expected) ~= "number" or type(got) ~= "number" then return assert.equal(expected, got, what) end
  local difference = math.abs(expected - got)
  assert(difference <= 1e-12 * math.max(math.abs(expected), math.abs(got)),
    ("%s: %s, not %s"):format(what, got, expected))
end

-- Values of features and labels: None is a userdata, python.None or nil here; booleans in rows are 1 and 0.
local function plain(value)
  if value == null or value == python.None then return nil end
  if value == true then return 1 elseif value == false then return 0 end
  return value
end

local function same_pairs(expected, result, order, what)
  local keys = result.keys or order
  assert.equal(#expected, keys.n or #keys, what)
  for i, pair in ipairs(expected) do
    assert.equal(plain(pair[1]), plain(keys[i]), what)
    local got = result[i]
    if not result.keys then got = result[keys[i]] end
    same_number(plain(pair[2]), plain(got), what)
  end
end

describe("single calls, as of the Python library:", function()
  for _, name in ipairs(names) do
    it(name, function()
      local node, calls = table.unpack(CASES[name])
      local model, reader = registry.build(node), row.reader()
      for i, expected in ipairs(theirs(name)) do
        local what = ("%s, call %d"):format(name, i)
        local ok, result, order = pcall(call, model, reader, table.unpack(calls[i]))
        if expected.error then
          assert.is_false(ok, what)
          assert(python.is_error(result), what .. ": " .. tostring(result))
          assert.equal(expected.error, tostring(result), what)
        else
          assert(ok, what .. ": " .. tostring(result))
          if expected.pairs then
            same_pairs(expected.pairs, result, order, what)
          elseif calls[i][1] ~= "learn_one" then
            assert.equal(plain(expected.value), plain(result), what)
          end
        end
      end
    end)
  end
end)

describe("what cannot be built is refused:", function()
  local function says(node, text)
    local ok, problem = pcall(registry.build, node)
    assert.is_false(ok)
    assert.truthy(tostring(problem):find(text, 1, true), tostring(problem))
  end

  it("modes and methods that there are not", function()
    says(linear.PAClassifier{mode = 3}, "KeyError")
    says(linear.PARegressor{eps = "x"}, "PARegressor: eps must be a number, got 'x'")
    says(multiclass.OneVsRestClassifier(), "missing 1 required positional argument: 'classifier'")
    says(multiclass.OutputCodeClassifier{classifier = linear.Perceptron(), code_size = 40, coding_method = "exact"},
      "MemoryError")
    says(linear.SoftmaxRegression{loss = river.optim.losses.Log()}, "loss must be a multiclass_loss")
    says(fs.SelectKBest(), "missing 1 required positional argument: 'similarity'")
  end)

  it("functions of Python", function()
    says(compose.FuncTransformer(river.utils.math.sign), "a function of Python cannot run in the embedded service")
    says(fx.BagOfWords{tokenizer_pattern = "[a-z]+"}, "takes texts apart by the default pattern only")
    says(fx.TFIDF{ngram_range = river.tuple{1, 2}}, "counts single words only")
    says(fx.BagOfWords{tokenizer = river.ref "builtins.str"}, "cannot run functions of Python")
  end)

  it("types and names of another kind", function()
    says(compose.SelectType(river.ref "decimal.Decimal"), "no type decimal.Decimal; it has builtins.bool")
    says(compose.SelectType("str"), "a type is given as river.ref")
    says(compose.Select{keys = "a"}, "unexpected keyword argument 'keys'")
    says(pp.StatImputer("a"), "an imputer is a pair of a feature's name and a statistic or value")
    says(pp.StatImputer({"a", pp.StandardScaler()}), "StandardScaler is no statistic")
  end)
end)
