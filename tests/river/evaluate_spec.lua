--- Progressive validation: Python's numbers on a real server and on `embedded:`, several models, delayed labels.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local errors = require "riverlua.errors"
local river = require "river"

local SAMPLES = 110

local scale = river.preprocessing.StandardScaler
local MODELS = {
  regression = function() return scale() | river.linear_model.LinearRegression() end,
  binary = function() return scale() | river.linear_model.LogisticRegression() end,
  multiclass = function() return river.naive_bayes.GaussianNB() end,
}

local references = {}
for _, line in ipairs(support.run_python("evaluation.py", tostring(SAMPLES))) do references[line.flavor] = line end

local function null_to_nil(value)
  if type(value) == "userdata" then return nil end
  return value
end

-- Python sums these over a set of texts, in an order that changes from run to run.
local UNORDERED = {MacroF1 = true, CohenKappa = true}

local function check_values(expected, values, metrics)
  for _, name in ipairs(metrics) do
    if UNORDERED[name] then
      assert.is_true(math.abs(expected[name] - values[name]) <= 1e-12 * math.abs(expected[name]), name)
    else
      assert.equal(expected[name], values[name], name)
    end
  end
end

local function check_case(cli, flavor, labels)
  local reference = references[flavor]
  for _, answer in ipairs(reference.answers) do
    local delay = null_to_nil(answer.delay)
    -- a real server answers slowly: without delay, and with one
    local wanted = cli.baseurl == "embedded:" or delay == nil or delay == 7
    if wanted and not (labels == "server" and delay == nil) then
      local result = river.evaluate.progressive{client = cli, flavor = flavor, model = MODELS[flavor](),
        dataset = reference.samples, metrics = reference.metrics, delay = delay, labels = labels, every = 50}
      local title = result.models[1]
      assert.equal(SAMPLES, result.samples)
      check_values(answer, result.final[title], reference.metrics)
      assert.equal(#answer.steps, #result.history[title])
      for i, step in ipairs(answer.steps) do
        assert.equal(step.samples, result.history[title][i].samples)
        check_values(step, result.history[title][i], reference.metrics)
      end
    end
  end
end

for _, place in ipairs{"embedded:", "a real server"} do
  describe("progressive validation on " .. place .. " equals Python's:", function()
    local server, cli
    setup(function()
      if place ~= "embedded:" then server = support.start_server() end
      cli = river.Client(server and server.url or place)
    end)
    teardown(function()
      if cli then cli:close() end
      if server then server.stop() end
    end)

    for _, flavor in ipairs{"regression", "binary", "multiclass"} do
      it(flavor, function() check_case(cli, flavor) end)
      it(flavor .. ", labels waiting on the server", function() check_case(cli, flavor, "server") end)
    end

    it("and leaves no model behind", function() assert.same({}, cli:models().models) end)
  end)
end

describe("progressive validation", function()
  local cli = river.Client("embedded:")
  local linear = river.linear_model.LinearRegression

  local function samples(count)
    local list = {}
    for i = 1, count do list[i] = {x = {a = i % 7, b = i % 3}, y = 2 * (i % 7) - (i % 3)} end
    return list
  end

  local function run(options)
    local all = {client = cli, flavor = "regression", model = scale() | linear(), dataset = samples(250)}
    for name, value in pairs(options) do all[name] = value end
    if options.models then all.model = nil end
    return river.evaluate.progressive(all)
  end

  local function fails(text, options)
    local err = support.error_of(run, options)
    assert.is_true(errors.is(err, "argument"), tostring(err))
    assert.truthy(tostring(err):find(text, 1, true), tostring(err))
  end

  it("compares models in one run, each with the numbers it has alone", function()
    local slow = function() return scale() | linear{optimizer = river.optim.SGD(0.0001)} end
    local result = run{models = {fast = scale() | linear(), slow = slow()}, metrics = {"MAE", "RMSE"}}
    assert.same({"fast", "slow"}, result.models)
    assert.same(run{model = slow(), metrics = {"MAE", "RMSE"}}.final.LinearRegression, result.final.slow)
    assert.equal("fast", result:best())
    assert.equal("fast", result:best("RMSE"))
    assert.same({100, 200, 250}, {result.history.fast[1].samples, result.history.fast[2].samples,
      result.history.fast[3].samples})
    local rows = result:rows()
    assert.equal(6, #rows)
    assert.same({model = "slow", samples = 250, MAE = result.final.slow.MAE, RMSE = result.final.slow.RMSE}, rows[6])
  end)

  it("gives a table and a plot", function()
    local result = run{models = {fast = scale() | linear(), slow = scale() | linear{optimizer = river.optim.SGD(1e-5)}},
      metrics = "MAE", delay = 3}
    local text = tostring(result)
    assert.truthy(text:find("250 samples, labels after 3", 1, true), text)
    assert.truthy(text:find("model │", 1, true), text)
    assert.truthy(text:find(("fast  │ %.6g"):format(result.final.fast.MAE), 1, true), text)
    local plot = result:plot{width = 60, height = 8}
    for _, part in ipairs{"MAE", "samples", "● fast", "○ slow"} do assert.truthy(plot:find(part, 1, true), plot) end
    assert.equal(result:plot(), result:plot("MAE"))
  end)

  it("takes models that are there, and keeps those that it is told to keep", function()
    local name = cli:upload_model(scale() | linear(), "regression", "there")
    local result = run{models = {name, scale() | linear()}, keep = true}
    assert.same({"there", "LinearRegression"}, result.models)
    assert.equal("there", result.names.there)
    assert.same({"MAE", "RMSE", "R2"}, result.metrics)
    assert.equal(250, cli:stats(result.names.LinearRegression).learn.n_calls)
    assert.same(result.final.there, result.final.LinearRegression)
    cli:delete_model(result.names.LinearRegression)
    cli:delete_model("there")
  end)

  it("takes any data set, and samples without labels", function()
    local data = river.datasets.from(samples(50))
    assert.equal(20, run{dataset = data:take(20)}.samples)
    local list = samples(4)
    list[2].y = nil
    assert.equal(4, run{dataset = list, metrics = "MAE"}.samples)
    local learned = 0
    local counting = setmetatable({learn = function(_, ...)
      learned = learned + 1
      return cli:learn(...)
    end}, {__index = function(_, name) return function(_, ...) return cli[name](cli, ...) end end})
    run{client = counting, dataset = list, metrics = "MAE"}
    assert.equal(3, learned)
  end)

  it("deletes what it uploaded also when it fails", function()
    local broken = {{x = {a = 1}, y = 1}, {x = {a = 0 / 0}, y = 1}}
    assert.is_false(pcall(run, {dataset = broken}))
    assert.same({}, cli:models().models)
  end)

  it("shows its progress when asked", function()
    -- a bar writes to standard error: counted here through the module itself
    local progress = require "riverlua.progress"
    progress.quiet(true)
    local result = run{progress = true, total = 250}
    progress.quiet(nil)
    assert.equal(250, result.samples)
  end)

  it("refuses what it cannot do, with a hint", function()
    fails("did you mean 'metrics'?", {metric = {"MAE"}})
    fails("'m' is no model", {models = {m = 5}})
    fails("a number of samples", {delay = 1.5})
    fails("a number of samples", {every = 0})
    fails("'labels' is", {labels = "remote"})
    fails("did you mean MAE?", {metrics = {"MAEE"}})
    fails("there are no models", {models = {}})
    fails("answers with a label", {flavor = "multiclass", metrics = {"LogLoss"}})
    assert.truthy(tostring(support.error_of(function() return river.evaluate.progresive end)):find("progressive{", 1,
      true))
    for text, options in pairs{
      ["needs a flavor"] = {client = cli, model = linear(), dataset = samples(1)},
      ["either 'model' or 'models'"] = {client = cli, dataset = samples(1)},
      ["there is no 'dataset'"] = {client = cli, model = "m"},
    } do
      local err = support.error_of(river.evaluate.progressive, options)
      assert.truthy(tostring(err):find(text, 1, true), tostring(err))
    end
    local result = run{metrics = "MAE"}
    assert.truthy(tostring(support.error_of(result.plot, result, "MEA")):find("did you mean 'MAE'?", 1, true))
  end)
end)
