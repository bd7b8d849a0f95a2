--- Models downloaded from a real server: their weights, and predictions made here that are the server's, bit for bit.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local errors = require "riverlua.errors"
local river = require "river"

local TRAINED, ASKED = 100, 160

local samples = {TrumpApproval = {}, Phishing = {}}
for _, line in ipairs(support.run_python("samples.py", tostring(TRAINED + ASKED), "TrumpApproval", "Phishing")) do
  table.insert(samples[line.data], line)
end

local scale, linear = river.preprocessing.StandardScaler, river.linear_model.LinearRegression
local logistic = river.linear_model.LogisticRegression

describe("a model downloaded from a real server", function()
  local server, cli
  setup(function()
    server = support.start_server()
    cli = river.Client(server.url)
  end)
  teardown(function()
    if cli then cli:close() end
    if server then server.stop() end
  end)

  -- Trains on the first samples and reads what is downloaded.
  local function trained(model, flavor, list)
    local name = cli:upload_model(model, flavor)
    for i = 1, TRAINED do cli:learn(name, list[i].x, list[i].y) end
    local path = cli:download_model(name, support.temporary_name())
    local here = river.local_model(path)
    os.remove(path)
    return name, here
  end

  it("predicts here as there: scaler and linear regression, TrumpApproval", function()
    local list = samples.TrumpApproval
    local name, here = trained(scale() | linear(), "regression", list)
    local equal = 0
    for i = TRAINED + 1, TRAINED + ASKED do
      assert.equal(cli:predict(name, list[i].x).prediction, here:predict_one(list[i].x))
      equal = equal + 1
    end
    assert.equal(160, equal)
    assert.equal("StandardScaler | LinearRegression", tostring(here))
    local weights, scaler = here:weights(), here:scaler()
    for feature in pairs(list[1].x) do
      assert.equal("float", math.type(weights[feature]))
      assert.equal("float", math.type(scaler.means[feature]))
      assert.equal(TRAINED, scaler.counts[feature])
    end
    -- the prediction by hand, from what is shown
    local x, names, sum = list[TRAINED + 1].x, {}, 0.0
    for feature in pairs(x) do names[#names + 1] = feature end
    table.sort(names)
    for _, feature in ipairs(names) do
      local var = scaler.vars[feature]
      sum = sum + weights[feature] * (var ~= 0 and (x[feature] - scaler.means[feature]) / var ^ 0.5 or 0.0)
    end
    assert.equal(here:predict_one(x), sum + here.intercept)
  end)

  it("predicts here as there: scaler and logistic regression, Phishing", function()
    local list = samples.Phishing
    local name, here = trained(scale() | logistic(), "binary", list)
    local equal = 0
    for i = TRAINED + 1, TRAINED + ASKED do
      local there = cli:predict(name, list[i].x).prediction
      local mine = here:predict_proba_one(list[i].x)
      assert.equal(there["true"] or there[true], mine[true])
      assert.equal(there["false"] or there[false], mine[false])
      assert.equal(mine[true] > mine[false], here:predict_one(list[i].x))
      equal = equal + 1
    end
    assert.equal(160, equal)
  end)

  it("goes on in the embedded service where it stopped", function()
    local list = samples.TrumpApproval
    local name = trained(scale() | linear(), "regression", list)
    local embedded = river.Client("embedded:")
    local path = cli:download_model(name, support.temporary_name())
    embedded:upload_model(path, "regression", name)
    os.remove(path)
    for i = TRAINED + 1, TRAINED + 40 do
      assert.equal(cli:predict(name, list[i].x).prediction, embedded:predict(name, list[i].x).prediction)
      cli:learn(name, list[i].x, list[i].y)
      embedded:learn(name, list[i].x, list[i].y)
    end
  end)
end)

describe("a local model", function()
  local function downloaded(model, flavor, learn)
    local cli = river.Client("embedded:")
    cli:upload_model(model, flavor, "m")
    for i = 1, learn or 0 do cli:learn("m", {a = i, b = i % 3}, flavor == "binary" and i % 2 == 0 or i) end
    local path = cli:download_model("m", support.temporary_name())
    local file = assert(io.open(path, "rb"))
    local bytes = file:read("a")
    file:close()
    os.remove(path)
    return river.local_model(bytes), cli
  end

  it("of the embedded service is read the same way", function()
    local here, cli = downloaded(scale() | linear(), "regression", 20)
    assert.equal(cli:predict("m", {a = 3, b = 1}).prediction, here:predict_one{a = 3, b = 1})
    assert.equal(20, here:scaler().counts.a)
    assert.equal("float", math.type(here:weights().b))
    assert.same({"StandardScaler", "LinearRegression"}, {here.steps[1].class, here.steps[2].class})
  end)

  it("may have learned nothing, and may be bare", function()
    local here = downloaded(linear(), "regression", 0)
    assert.same({}, here:weights())
    assert.equal(0.0, here:predict_one{a = 1})
    assert.is_nil(here:scaler())
    assert.equal("LinearRegression", tostring(here))
  end)

  it("of a kind that only riverlua can continue is asked the same way", function()
    local here, cli = downloaded(scale() | river.tree.HoeffdingTreeRegressor{grace_period = 10}, "regression", 60)
    for i = 1, 20 do
      assert.equal(cli:predict("m", {a = i, b = i % 3}).prediction, here:predict_one{a = i, b = i % 3})
    end
    assert.equal("StandardScaler | HoeffdingTreeRegressor", tostring(here))
    assert.is_false(pcall(here.weights, here))
    assert.is_nil(here:scaler())
  end)

  it("of an anomaly detector predicts its score, as the service does", function()
    local detector = river.preprocessing.MinMaxScaler() | river.anomaly.HalfSpaceTrees{seed = 42, window_size = 20}
    local here, cli = downloaded(detector, "custom", 60)
    for i = 1, 5 do assert.equal(cli:predict("m", {a = i, b = 1}).prediction, here:predict_one{a = i, b = 1}) end
    assert.truthy(here:predict_one{a = 50, b = 1} > 0)
  end)

  local function fails(kind, text, fn, ...)
    local err = support.error_of(fn, ...)
    assert.is_true(errors.is(err, kind), tostring(err))
    assert.truthy(tostring(err):find(text, 1, true), tostring(err))
  end

  it("says what it cannot do", function()
    local here = downloaded(scale() | linear(), "regression", 5)
    fails("model", "no attribute 'predict_proba_one'", here.predict_proba_one, here, {a = 1})
    local bare = downloaded(linear(), "regression", 1)
    fails("unsupported", "has no predict_proba_one", bare.predict_proba_one, bare, {a = 1})
    fails("argument", "there are no features", here.predict_one, here, {})
    fails("argument", "is NaN", here.predict_one, here, {a = 0 / 0})
    fails("model", "TypeError", here.predict_one, here, {a = "x"})
    local text = river.pickle.dumps(river.tree.HoeffdingTreeClassifier())
    fails("unsupported", "HoeffdingTreeClassifier has no weights", river.local_model(text).weights,
      river.local_model(text))
    fails("argument", "cannot read the file", river.local_model, "/nowhere.pkl")
    fails("argument", "holds no model", river.local_model, "\x80\x04K\x01.")
    fails("protocol", "cut off", river.local_model, "\x80\x04K")
    fails("argument", "must be a string", river.local_model)
    fails("argument", "did you mean 'predict_one'?", function() return here:predict{a = 1} end)
    fails("argument", "did you mean 'weights'?", function() return here:wieghts() end)
    fails("argument", "a river.LocalModel has no 'zzz'", function() return here:zzz() end)
    local tree = downloaded(river.tree.HoeffdingTreeRegressor(), "regression", 1)
    assert.same({}, {tree.root, tree.intercept})
  end)
end)
