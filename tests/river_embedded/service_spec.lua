-- What the embedded service does beyond the answers recorded from a server (parity_spec.lua).

local errors = require "riverlua.errors"
local json = require "riverlua.json"
local embedded = require "river.embedded"
local river = require "river"
local support = dofile("tests/river_embedded/support.lua")

local scaler, linear = river.preprocessing.StandardScaler, river.linear_model.LinearRegression
local logistic = river.linear_model.LogisticRegression

local function regression() return scaler() | linear() end

local function refused(model, flavor)
  local answer = support.open().upload(model, flavor or "regression", "m")
  assert.equal(400, answer.status)
  local problem = answer:json()
  return problem.message .. (problem.hint and " – " .. problem.hint or "")
end

local function assert_says(text, ...)
  for _, part in ipairs{...} do assert.truthy(text:find(part, 1, true), text) end
end

describe("a model description that cannot be built", function()
  it("with a class that is missing says who has it, or what was meant", function()
    assert_says(refused(river.facto.FMRegressor()), "no river.facto.FMRegressor", "a River server has it")
    assert_says(refused(river.preprocessing.GapEncoder() | linear()), "no river.preprocessing.GapEncoder")
    assert_says(refused(river.class "river.nothing.Alike"()), "lists those there are")
    assert_says(refused(river.class "river.linear_model.LinearRegresion"()),
      "did you mean river.linear_model.LinearRegression?")
  end)

  it("names losses, optimizers, schedules and initializers by their kind", function()
    local optim = river.optim
    assert_says(refused(linear{loss = optim.losses.Cosine()}), "no river.optim.losses.Cosine",
      "it has river.optim.losses.Absolute, river.optim.losses.BinaryFocalLoss")
    assert_says(refused(linear{optimizer = optim.Newton()}), "no river.optim.Newton", "it has river.optim.AMSGrad")
    assert_says(refused(linear{initializer = optim.initializers.Uniform()}), "no river.optim.initializers.Uniform",
      "river.optim.initializers.Constant, river.optim.initializers.Normal, river.optim.initializers.Zeros")
    assert_says(refused(linear{optimizer = optim.SGD(optim.Newton())}), "no river.optim.Newton")
  end)

  it("has wrong arguments said as Python says them", function()
    assert_says(refused(linear{foo = 1}), "LinearRegression.__init__() got an unexpected keyword argument 'foo'")
    assert_says(refused(linear{lr = 1}), "unexpected keyword argument 'lr'")
    assert_says(refused(linear{optimiser = river.optim.SGD()}), "did you mean 'optimizer'?")
    assert_says(refused(linear(1, 2, 3, 4, 5, 6, 7, 8, 9)),
      "LinearRegression.__init__() takes from 1 to 9 positional arguments but 10 were given")
    assert_says(refused(scaler(true, {with_std = false})), "got multiple values for argument 'with_std'")
    assert_says(refused(linear{initializer = river.optim.initializers.Constant()}),
      "Constant.__init__() missing 1 required positional argument: 'value'")
    assert_says(refused(river.compose.Pipeline()), "at least one step")
  end)

  it("has values of a wrong kind named", function()
    assert_says(refused(scaler{with_std = "yes"}), "StandardScaler: with_std must be a boolean, got 'yes'")
    assert_says(refused(scaler{window_size = 2.5}), "window_size must be an integer, got 2.5")
    assert_says(refused(scaler{window_size = -1}), "maxlen must be non-negative")
    assert_says(refused(linear{optimizer = 0.01}), "optimizer must be an optimizer, got 0.01")
    assert_says(refused(linear{optimizer = river.optim.losses.Squared()}),
      "optimizer must be an optimizer, got river.optim.losses.Squared")
    assert_says(refused(linear{l2 = "x"}), "l2 must be a number")
    assert_says(refused(linear{l1 = 0.1, l2 = 0.1}), "joint use of L1 and L2")
  end)

  it("leaves what was there under the name", function()
    local service = support.open()
    service.upload(regression(), "regression", "m")
    assert.equal(400, service.upload(river.facto.FMRegressor(), "regression", "m").status)
    assert.same({"m"}, service.send("GET", "/models/"):json().models)
  end)
end)

describe("a model description", function()
  it("may give None for what has a default", function()
    local service = support.open()
    assert.equal(201, service.upload(linear{optimizer = river.none, loss = river.none}, "regression", "m").status)
    assert.equal(201, service.upload(scaler{window_size = river.none} | linear(), "regression", "m").status)
  end)

  it("may name a class as a step, and the same object twice", function()
    local service, same = support.open(), scaler()
    assert.equal(201, service.upload(same | same | linear(), "regression", "m").status)
    local shown = service.send("GET", "/model/m/"):json()
    assert.is_table(shown.StandardScaler)
    assert.is_table(shown.StandardScaler1)
    local model = service.service.models.m.model
    assert.equal(model.steps[1], model.steps[2])
    assert.equal(201, service.upload(river.compose.Pipeline(scaler, linear), "regression", "n").status)
  end)

  it("may say where a class is defined, as pickles do", function()
    local node = river.class "river.linear_model.lin_reg.LinearRegression"()
    assert.equal(201, support.open().upload(node, "regression", "m").status)
  end)
end)

describe("the model as JSON", function()
  it("leaves None out of the value and writes it into the body", function()
    local service = support.open()
    service.upload(regression(), "regression", "m")
    local answer = service.send("GET", "/model/m/")
    assert.same({with_std = true}, answer:json().StandardScaler)
    assert.truthy(answer.body:find('"StandardScaler":{"window_size":null,"with_std":true}', 1, true)
      or answer.body:find('"StandardScaler":{"with_std":true,"window_size":null}', 1, true))
  end)
end)

describe("names", function()
  it("are made up when none is given, and never twice", function()
    local service, seen = support.open(), {}
    for _ = 1, 60 do
      local name = service.upload(linear(), "regression"):json().name
      assert.truthy(name:find("^%l+%-%l+$"), name)
      assert.is_nil(seen[name])
      seen[name] = true
    end
    assert.equal(60, #service.send("GET", "/models/"):json().models)
  end)

  it("get a number when all are taken", function()
    local pick = require("river.embedded.names").pick
    local all_taken = setmetatable({}, {__index = function(_, name) return not name:find("%d") or nil end})
    assert.truthy(pick(all_taken):find("^%l+%-%l+%-2$"))
  end)
end)

describe("stats", function()
  it("count every call, failed ones too, with durations as people read them", function()
    local service = support.open()
    service.upload(regression(), "regression", "m")
    for i = 1, 40 do service.learn{model = "m", features = {a = i}, ground_truth = i} end
    for i = 1, 3 do service.predict{model = "m", features = {a = i}} end
    service.predict{model = "m", features = {a = "text"}}
    service.predict{model = "m"}
    local stats = service.send("GET", "/stats/", {json = {model = "m"}}):json()
    assert.equal(40, stats.learn.n_calls)
    assert.equal(5, stats.predict.n_calls)
    for _, calls in pairs(stats) do
      assert.equal("integer", math.type(calls.mean_duration))
      assert.equal("integer", math.type(calls.ewm_duration))
      assert.truthy(calls.mean_duration_human:find("%dn?s$") or calls.mean_duration_human:find("%dμs$"))
      assert.is_string(calls.ewm_duration_human)
    end
  end)

  it("write durations like the server", function()
    local humanize = require("river.embedded.timing").humanize
    assert.equal("0ns", humanize(0))
    assert.equal("1ms569μs115ns", humanize(1569115))
    assert.equal("2m3s5μs", humanize(123000005000))
    assert.equal("1s", humanize(1000000000))
  end)
end)

describe("a table in place of a name", function()
  local python = require "river.embedded.python"

  it("is written as Python writes it", function()
    for text, wanted in pairs{
      ["[]"] = "[]", ["{}"] = "{}", ['[1,2.5,"x",null,true]'] = "[1, 2.5, 'x', None, True]",
      ['{"b":{"c":"it\'s"},"a":[[]]}'] = [=[{'a': [[]], 'b': {'c': "it's"}}]=],
    } do
      assert.equal(wanted, python.str(json.decode(text)))
    end
    assert.equal("None", python.str(python.None))
  end)

  it("is cut short when it is deep or long, and shows no address", function()
    local deep, loop = {}, {}
    for _ = 1, 50 do deep = {deep} end
    loop[1] = loop
    assert.equal("[[[[[[[[[...]]]]]]]]]", python.str(deep))
    assert.equal(python.str(deep), python.str(loop))
    local long = python.str{("ä"):rep(3000), "end"}
    assert.equal("['" .. ("ä"):rep(1000) .. "...', ...]", long)
    assert.truthy(#python.str(json.decode("[" .. ("1,"):rep(5000) .. "1]")) < 3000)
    for _, value in ipairs{print, coroutine.create(print), {print}} do
      assert.is_nil(python.str(value):find("0x", 1, true))
    end
  end)

  it("is counted under that text", function()
    local service = support.open()
    for _ = 1, 3 do assert.equal(400, service.predict{model = {a = 1}, features = {a = 1}}.status) end
    assert.equal(3, service.send("GET", "/stats/", {json = {model = {a = 1}}}):json().predict.n_calls)
  end)
end)

describe("identifiers", function()
  it("are made for predictions and serve for one label", function()
    local service = support.open()
    service.upload(regression(), "regression", "m")
    local answer = service.predict{model = "m", features = {a = 1}}
    assert.equal(201, answer.status)
    local identifier = answer:json().identifier
    assert.truthy(identifier:find("^%x+%-%x+%-4%x%x%x%-[89ab]%x%x%x%-%x+$"))
    assert.equal(36, #identifier)
    local given = {model = "m", identifier = identifier, label = 2}
    assert.equal(200, service.send("POST", "/label/", {json = given}).status)
    assert.equal(400, service.send("POST", "/label/", {json = given}).status)
    assert.equal(400, service.send("POST", "/label/", {json = {model = "m", identifier = identifier}}).status)
  end)

  it("keep the features as they were", function()
    local service, x = support.open(), {a = 1, b = 2}
    service.upload(linear(), "regression", "m")
    service.predict{model = "m", features = x, identifier = "i"}
    x.a, x.b = 100, nil
    service.learn{model = "m", features = {_ = 0}, ground_truth = 1, identifier = "i"}
    local bytes = service.send("GET", "/model/download/m/").body
    local node = require("river.embedded.pickle").read(bytes)
    local names = {}
    for _, pair in ipairs(node.state._weights.args[1]) do names[pair[1]] = pair[2] end
    assert.same({a = 0.02, b = 0.04}, names)
  end)

  it("can be switched off", function()
    local service = support.open{generate_identifiers = false}
    service.upload(regression(), "regression", "m")
    local answer = service.predict{model = "m", features = {a = 1}}
    assert.equal(200, answer.status)
    assert.same({model = "m", prediction = 0.0}, answer:json())
    assert.equal("k", service.predict{model = "m", features = {a = 1}, identifier = "k"}:json().identifier)
  end)

  it("of old predictions are forgotten", function()
    local service = support.open()
    service.upload(linear(), "regression", "m")
    local first = service.predict{model = "m", features = {a = 1}}:json().identifier
    for _ = 1, 10000 do service.predict{model = "m", features = {a = 1}} end
    assert.equal(400, service.send("POST", "/label/", {json = {model = "m", identifier = first, label = 1}}).status)
    local count = 0
    for _ in pairs(service.service.memories) do count = count + 1 end
    assert.equal(10000, count)
  end)
end)

describe("features", function()
  local function predictions(order)
    local service = support.open()
    service.upload(scaler() | linear(), "regression", "m")
    local results = {}
    for _, sample in ipairs(support.synthetic("regression", 60)) do
      local x = {}
      local names = {}
      for name in pairs(sample[1]) do names[#names + 1] = name end
      table.sort(names, order)
      for _, name in ipairs(names) do x[name] = sample[1][name] end
      results[#results + 1] = service.predict{model = "m", features = x}:json().prediction
      service.learn{model = "m", features = x, ground_truth = sample[2]}
    end
    return results
  end

  it("give the same bits in whatever order they were put in", function()
    assert.same(predictions(function(a, b) return a < b end), predictions(function(a, b) return a > b end))
  end)

  it("may change from sample to sample, in more ways than are remembered", function()
    local service = support.open()
    service.upload(scaler() | linear(), "regression", "m")
    for i = 1, 300 do
      local x = {always = i % 7, ["only" .. i % 100] = i % 5}
      assert.equal(201, service.learn{model = "m", features = x, ground_truth = i % 3}.status)
      assert.equal(201, service.predict{model = "m", features = x}.status)
    end
    assert.is_true(#service.service.models.m.reader <= 64)
  end)

  it("cannot be learned through a window of no size", function()
    local service = support.open()
    service.upload(scaler{window_size = 0} | linear(), "regression", "m")
    local answer = service.learn{model = "m", features = {a = 1}, ground_truth = 1}
    assert.equal(400, answer.status)
    assert.equal("IndexError('deque index out of range')", answer:json())
  end)

  it("that fail leave the model as it was", function()
    local service = support.open()
    service.upload(regression(), "regression", "m")
    service.learn{model = "m", features = {a = 1, b = 3}, ground_truth = 1}
    service.learn{model = "m", features = {a = 2, b = 5}, ground_truth = 2}
    local before = service.send("GET", "/model/download/m/").body
    for _, body in ipairs{
      {features = {a = 3, b = "x"}, ground_truth = 1}, {features = {a = 3, b = 4}, ground_truth = "x"},
      {features = {a = 3, b = 4}}, {features = {a = 3, b = 4, c = json.null}, ground_truth = 1},
    } do
      body.model = "m"
      assert.equal(400, service.learn(body).status)
    end
    assert.equal(before, service.send("GET", "/model/download/m/").body)
  end)
end)

describe("requests", function()
  it("find their way under any prefix, or only under the one told", function()
    local service = embedded.new()
    assert.equal(200, service:request{method = "GET", path = "/ml/models/"}.status)
    service = embedded.new{prefix = "a/b"}
    assert.equal(200, service:request{method = "GET", path = "/a/b/models/"}.status)
    assert.equal(404, service:request{method = "GET", path = "/api/models/"}.status)
    assert.equal(404, service:request{method = "GET", path = "/a/bc/models/"}.status)
    service = embedded.new{prefix = ""}
    assert.equal(200, service:request{method = "GET", path = "/models/"}.status)
    assert.equal(200, service:request{method = "GET", path = "/"}.status)
  end)

  it("tell what this service is", function()
    local answer = support.open().send("GET", "/")
    assert.equal("application/json", answer.headers["Content-Type"])
    local info = answer:json()
    assert.equal("running", info.status)
    assert.equal("memory", info.storage)
    assert.equal("0.26.1", info.river_version)
    assert.same(info, json.decode(answer.body))
  end)

  it("for what is not there are 404, other methods 405 with Allow", function()
    local service = support.open()
    assert.equal(404, service.send("GET", "/nothing/").status)
    assert.equal(404, service.send("GET", "/models").status)
    local answer = service.send("PUT", "/model/")
    assert.equal(405, answer.status)
    assert.equal("DELETE", answer.headers.Allow)
    assert.same({detail = 'Method "PUT" not allowed.'}, answer:json())
  end)

  it("may carry their JSON as bytes", function()
    local service = support.open()
    service.upload(regression(), "regression", "m")
    local answer = service.send("POST", "/learn/", {body = '{"model":"m","features":{"a":1},"ground_truth":2}'})
    assert.equal(201, answer.status)
    assert.equal('"Successful learn."', answer.body)
    for _, body in ipairs{"{", "[]x", "3", ""} do
      assert.equal(400, service.send("POST", "/learn/", {body = body}).status)
      assert.equal(400, service.send("GET", "/metrics/", {body = body}).status)
      assert.equal(400, service.send("POST", "/label/", {body = body}).status)
    end
  end)

  it("for predictions without model or features are 400", function()
    local service = support.open()
    service.upload(regression(), "regression", "m")
    for _, body in ipairs{{model = "m"}, {features = {a = 1}}, {model = "m", features = {}}, {model = json.null}} do
      local answer = service.predict(body)
      assert.equal(400, answer.status)
      assert.equal("model and features are required.", answer:json().message)
    end
  end)

  it("after closing raise", function()
    local service = embedded.new()
    service:request{method = "GET", path = "/api/models/"}
    service:close()
    service:close()
    local ok, problem = pcall(service.request, service, {method = "GET", path = "/api/models/"})
    assert.is_false(ok)
    assert.is_true(errors.is(problem, "closed"))
  end)

  it("list no models as an empty array", function()
    local answer = support.open().send("GET", "/models/")
    assert.equal('{"models":[]}', answer.body)
    assert.equal(0, #answer:json().models)
  end)
end)

describe("river.embedded", function()
  it("names its classes", function()
    local names = {}
    for _, name in ipairs(embedded.classes()) do names[name] = true end
    for _, name in ipairs{"river.preprocessing.StandardScaler", "river.compose.Pipeline", "river.optim.SGD",
      "river.linear_model.LinearRegression", "river.linear_model.LogisticRegression"} do
      assert.is_true(names[name], name)
    end
  end)

  it("refuses unknown options", function()
    local ok, problem = pcall(embedded.new, {prefx = "api"})
    assert.is_false(ok)
    assert_says(tostring(problem), "did you mean 'prefix'?")
  end)

  it("is a transport that says so, and closes itself", function()
    local kept
    do
      local service <close> = embedded.new()
      assert.is_true(service.embedded)
      kept = service
    end
    assert.is_true(kept.is_closed)
  end)
end)

describe("the client on embedded:", function()
  it("does the tour", function()
    local cli <close> = river.Client("embedded:")
    local name = cli:upload_model(regression(), "regression")
    for _, sample in ipairs(table.move(support.trump(), 1, 100, 1, {})) do cli:learn(name, sample[1], sample[2]) end
    assert.is_number(cli:predict(name, support.trump()[101][1]).prediction)
    local metrics = cli:metrics(name)
    for _, metric in ipairs{"MAE", "RMSE", "SMAPE"} do assert.is_number(metrics[metric]) end
    assert.equal(100, cli:stats(name).learn.n_calls)
    assert.equal(0.01, cli:get_model_json(name).LinearRegression.optimizer[2].lr[2].learning_rate)
    assert.same({models = {name}}, cli:models())
    assert.equal(204, cli:delete_model(name))
    assert.equal(0, #cli:models().models)
  end)

  it("gives a classifier's probabilities and words for metrics that are no numbers", function()
    local cli <close> = river.Client("embedded:", {prefix = "ml"})
    cli:upload_model(scaler() | logistic(), "binary", "b")
    cli:learn("b", {a = 1}, true)
    local prediction = cli:predict("b", {a = 2}).prediction
    assert.equal(1.0, prediction["true"] + prediction["false"])
    cli:upload_model(linear(), "regression", "r")
    cli:learn("r", {a = 1e150}, 1)
    cli:learn("r", {a = 1e200}, 1)
    assert.equal(math.huge, cli:metrics("r").MAE)
    local ok, problem = pcall(cli.predict, cli, "r", {a = 1e300})
    assert.is_false(ok)
    assert_says(tostring(problem), "diverged")
  end)

  it("raises what the model says", function()
    local cli <close> = river.Client("embedded:")
    cli:upload_model(regression(), "regression", "r")
    cli:learn("r", {a = 1}, 1)
    local ok, problem = pcall(cli.learn, cli, "r", {a = "x"}, 1)
    assert.is_false(ok)
    assert_says(tostring(problem), "TypeError", "unsupported operand type(s) for -: 'str' and 'float'")
    ok, problem = pcall(cli.upload_model, cli, river.facto.FMRegressor(), "regression")
    assert.is_false(ok)
    assert_says(tostring(problem), "no river.facto.FMRegressor", "a River server has it")
    ok, problem = pcall(cli.predict, cli, "nope", {a = 1})
    assert.is_false(ok)
    assert_says(tostring(problem), "No model named 'nope'")
  end)
end)
