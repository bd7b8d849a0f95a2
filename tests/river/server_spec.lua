--- Every call of the client against a real server.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local river = require "river"

local function regression()
  return river.preprocessing.StandardScaler()
    | river.linear_model.LinearRegression{optimizer = river.optim.SGD(0.01)}
end

local function failure_of(kind, call, ...)
  local err = support.error_of(call, ...)
  assert.equal(kind, err.kind, tostring(err))
  return err
end

describe("on a real server", function()
  local server, cli

  setup(function()
    server = support.start_server()
    cli = river.Client(server.url)
  end)

  teardown(function()
    if cli then cli:close() end
    if server then server.stop() end
  end)

  it("info describes it", function()
    local info = cli:info()
    assert.equal("running", info.status)
    assert.equal("django_river_ml", info.id)
  end)

  it("a model lives from upload to deletion", function()
    assert.equal("tour", cli:upload_model(regression(), "regression", "tour"))
    assert.equal("tour", cli:upload_model{model = regression(), flavor = "regression", name = "tour"})
    for step = 1, 5 do
      local x = {a = step / 2, b = step % 2 == 0, c = 1}
      assert.equal("number", type(cli:predict("tour", x).prediction))
      assert.equal("Successful learn.", cli:learn("tour", x, step))
    end
    assert.truthy(cli:metrics("tour").MAE > 0)
    local stats = cli:stats("tour")
    assert.equal(5, stats.learn.n_calls)
    assert.equal(5, stats.predict.n_calls)
    local described = cli:get_model_json("tour")
    assert.equal(true, described.StandardScaler.with_std)
    assert.is_nil(described.StandardScaler.window_size)
    assert.same({"SGD", {lr = {"Constant", {learning_rate = 0.01}}}}, described.LinearRegression.optimizer)
    assert.truthy(table.concat(cli:models().models, " "):find("tour", 1, true))
    assert.equal(204, cli:delete_model("tour"))
    failure_of("not_found", cli.predict, cli, "tour", {a = 1})
  end)

  it("the server picks a name when none is given", function()
    local name = cli:upload_model(regression(), "regression")
    assert.truthy(#name > 0)
    cli:delete_model(name)
  end)

  it("names may hold any text but a slash", function()
    for _, name in ipairs{"with space", "größe 100%", "a?b#c&d=e+f", "日本", "%2e", ("n"):rep(300)} do
      assert.equal(name, cli:upload_model(regression(), "regression", name))
      cli:learn(name, {a = 1}, 2)
      assert.truthy(cli:get_model_json(name).StandardScaler)
      assert.truthy(cli:metrics(name).MAE)
      assert.truthy(cli:stats(name).learn)
      assert.equal(204, cli:delete_model(name))
    end
  end)

  it("a downloaded model goes on where it was", function()
    cli:upload_model(regression(), "regression", "first")
    for step = 1, 20 do cli:learn("first", {a = step % 7, b = step % 3}, step % 5) end
    local path = support.temporary_name()
    assert.equal(path, cli:download_model("first", path))
    cli:upload_model(path, "regression", "second")
    os.remove(path)
    for step = 1, 5 do
      local x = {a = step, b = 1}
      assert.equal(cli:predict("first", x).prediction, cli:predict("second", x).prediction)
    end
  end)

  it("a stored prediction is learned by its identifier", function()
    cli:upload_model(regression(), "regression", "later")
    assert.is_nil(cli:predict("later", {a = 2}).identifier)
    local answer = cli:predict("later", {a = 2}, {identifier = true})
    assert.equal("string", type(answer.identifier))
    cli:learn{model = "later", identifier = answer.identifier, y = 3}
    assert.equal(1, cli:stats("later").learn.n_calls)
    failure_of("not_found", cli.learn, cli, {model = "later", identifier = answer.identifier, y = 3})
    assert.equal("mine", cli:predict{model = "later", x = {a = 1}, identifier = "mine"}.identifier)
  end)

  it("a prediction given is the one that counts", function()
    cli:upload_model(regression(), "regression", "given")
    cli:learn{model = "given", x = {a = 1}, y = 3, prediction = 1}
    assert.equal(2, cli:metrics("given").MAE)
  end)

  it("binary models answer with probabilities, untrained classifiers with nothing", function()
    cli:upload_model(river.preprocessing.StandardScaler() | river.linear_model.LogisticRegression(), "binary", "b")
    local answer = cli:predict("b", {a = 1}).prediction
    assert.same({["true"] = 0.5, ["false"] = 0.5}, answer)
    cli:upload_model(river.naive_bayes.GaussianNB(), "multiclass", "m")
    assert.is_nil(cli:predict("m", {a = 1}).prediction)
    cli:learn("m", {a = 1}, "cat")
    assert.equal("cat", cli:predict("m", {a = 1}).prediction)
    cli:learn("m", {a = 1}, false)
    cli:learn("m", {a = 2}, 0)
    cli:learn("m", {a = 2}, "")
  end)

  it("models of text take text", function()
    cli:upload_model(river.feature_extraction.BagOfWords{lowercase = true} | river.naive_bayes.ComplementNB(),
      "multiclass", "text")
    cli:learn("text", "good fine nice", "pos")
    cli:learn("text", "bad ugly", "neg")
    assert.equal("neg", cli:predict("text", "ugly").prediction)
  end)

  it("values of features arrive as they are", function()
    cli:upload_model(river.preprocessing.OneHotEncoder() | river.linear_model.LinearRegression(), "regression", "hot")
    cli:learn("hot", {city = "Zürich \u{1F30A}", ok = true, n = 3, f = 2.0, big = math.maxinteger}, 1)
    assert.equal("number", type(cli:predict("hot", {city = "x"}).prediction))
  end)

  it("metrics are empty where there are none", function()
    assert.same({}, cli:metrics("no such model"))
    cli:upload_model(river.cluster.KMeans(), "cluster", "k")
    assert.same({}, cli:metrics("k"))
    cli:learn("k", {a = 1})
    assert.equal("integer", math.type(cli:predict("k", {a = 1}).prediction))
  end)

  it("what is not there is not_found", function()
    assert.truthy(failure_of("not_found", cli.predict, cli, "nope", {a = 1}).message:find("nope", 1, true))
    failure_of("not_found", cli.learn, cli, "nope", {a = 1}, 1)
    failure_of("not_found", cli.stats, cli, "nope at all")
    failure_of("not_found", cli.get_model_json, cli, "nope")
    failure_of("not_found", cli.download_model, cli, "nope", support.temporary_name())
    failure_of("not_found", cli.delete_model, cli, "nope at all")
    local other <close> = river.Client(server.url, {prefix = "ml"})
    local err = failure_of("not_found", other.info, other)
    assert.truthy(err.hint:find("/ml/", 1, true))
  end)

  it("an exception of the model is a model error", function()
    cli:upload_model(regression(), "regression", "strict")
    local err = failure_of("model", cli.learn, cli, "strict", {a = "text"}, 1)
    assert.equal("TypeError", err.code)
    cli:upload_model(regression(), "binary", "wrong flavor")
    err = failure_of("model", cli.predict, cli, "wrong flavor", {a = 1})
    assert.equal("AttributeError", err.code)
    assert.truthy(err.hint:find("flavor", 1, true))
  end)

  it("a model that cannot be built says what may be wrong", function()
    local err = failure_of("http", cli.upload_model, cli, river.linear_model.LinearRegresion(), "regression")
    assert.equal(500, err.status)
    assert.truthy(err.hint:find("LinearRegression?", 1, true))
    err = failure_of("http", cli.upload_model, cli, river.preprocessing.StandardScaler(), "regression")
    assert.truthy(err.message:find("does not implement", 1, true))
    failure_of("http", cli.upload_model, cli, "\x80\x04garbage", "regression")
    local function numbers_only() return river.compose.SelectType(river.ref "numbers.Number") | regression() end
    failure_of("argument", cli.upload_model, cli, numbers_only(), "regression")
    cli:upload_model{model = numbers_only(), flavor = "regression", name = "numbers", allow = {"numbers.Number"}}
    cli:learn("numbers", {a = 1, text = "ignored"}, 2)
  end)

  it("a diverged model and one that holds functions explain themselves", function()
    cli:upload_model(river.neighbors.KNNClassifier(), "neighbor", "knn")
    assert.truthy(failure_of("http", cli.get_model_json, cli, "knn").hint:find("functions", 1, true))
    cli:upload_model(river.linear_model.LinearRegression(), "regression", "wild")
    local err
    for step = 1, 300 do
      local ok, raised = pcall(cli.learn, cli, "wild", {a = 1e200 * step}, -1e200)
      if not ok then err = raised break end
      ok, raised = pcall(cli.predict, cli, "wild", {a = 1e200 * step})
      if not ok then err = raised break end
    end
    assert.truthy(err and require("riverlua.errors").is(err), "the model did not diverge")
  end)
end)

describe("on a server in debug mode", function()
  it("errors carry its diagnosis", function()
    local server = support.start_server{RIVER_SERVER_DEBUG = "1"}
    local cli = river.Client(server.url)
    local ok, problem = pcall(function()
      local err = failure_of("model", cli.upload_model, cli, river.linear_model.LinearRegression{foo = 1}, "regression")
      assert.equal("TypeError", err.code)
      assert.truthy(err.message:find("unexpected keyword argument 'foo'", 1, true), err.message)
      err = failure_of("model", cli.upload_model, cli, river.linear_model.LinearRegresion(), "regression")
      assert.equal("AttributeError", err.code)
      assert.truthy(err.hint:find("did you mean river.linear_model.LinearRegression?", 1, true))
      err = failure_of("model", cli.upload_model, cli, river.nowhere.Thing(), "regression")
      assert.equal("ModuleNotFoundError", err.code)
    end)
    cli:close()
    server.stop()
    assert(ok, problem)
  end)
end)

describe("on a server that wants authentication", function()
  it("calls without a token raise auth", function()
    local server = support.start_server{DISABLE_AUTHENTICATION = "false"}
    local cli = river.Client(server.url)
    local ok, problem = pcall(function()
      assert.equal("running", cli:info().status)
      local err = failure_of("auth", cli.models, cli)
      assert.equal(401, err.status)
    end)
    cli:close()
    server.stop()
    assert(ok, problem)
  end)
end)
