-- The short way into the embedded service (river.embedded.fast) does what requests do.

local json = require "riverlua.json"
local river = require "river"
local row = require "river.embedded.row"
local support = dofile("tests/river_embedded/support.lua")

local scaler, linear = river.preprocessing.StandardScaler, river.linear_model.LinearRegression
local logistic, optim = river.linear_model.LogisticRegression, river.optim

local MODELS = {
  {"a regression", "regression", function() return scaler() | linear() end},
  {"a regression alone", "regression", function() return linear{optimizer = optim.SGD(1e-9), l1 = 0.1} end},
  {"scalers and Adam", "regression", function()
    return river.preprocessing.MaxAbsScaler() | scaler() | linear{optimizer = optim.Adam(), l2 = 0.01}
  end},
  {"first weights that are not 0", "regression", function()
    return scaler() | linear{initializer = optim.initializers.Constant(0.5)}
  end},
  {"a window", "regression", function() return scaler{window_size = 30} | linear() end},
  {"an exponential", "regression", function()
    return scaler() | linear{loss = optim.losses.Poisson(), optimizer = optim.SGD(1e-4)}
  end},
  {"a logistic loss", "regression", function() return scaler() | linear{loss = optim.losses.Hinge()} end},
  {"pipelines in a pipeline", "regression", function()
    return river.compose.Pipeline(river.compose.Pipeline(scaler{with_std = false}, scaler()), linear())
  end},
  {"a classifier", "binary", function() return scaler() | logistic() end},
  {"trees", "multiclass", function() return river.tree.HoeffdingTreeClassifier{grace_period = 50} end},
}

-- A client whose calls are all requests.
local function slow_client()
  local service = require("river.embedded").new()
  local transport = {embedded = true}
  function transport.request(_, req) return service:request(req) end
  function transport.close() service:close() end
  return river.Client{transport = transport}
end

local function samples_of(flavor)
  local samples = support.synthetic(flavor == "binary" and "binary" or "regression", 400)
  if flavor == "multiclass" then
    for _, sample in ipairs(samples) do sample[2] = math.floor(sample[2] / 3) end
  end
  return samples
end

local function counts(stats) return {stats.learn.n_calls, stats.predict.n_calls} end

describe("the short way", function()
  for _, case in ipairs(MODELS) do
    local title, flavor, make = table.unpack(case)

    it("gives what requests give: " .. title, function()
      local near <close> = river.Client("embedded:")
      local far <close> = slow_client()
      near:upload_model(make(), flavor, "m")
      far:upload_model(make(), flavor, "m")
      for i, sample in ipairs(samples_of(flavor)) do
        local x, y = sample[1], sample[2]
        if i % 3 ~= 0 then
          assert.same(far:predict("m", x), near:predict("m", x))
          assert.same(far:predict("m", x).likeliest, near:predict("m", x).likeliest)
        end
        assert.equal(far:learn("m", x, y), near:learn("m", x, y))
        if i % 97 == 0 then assert.same(far:metrics("m"), near:metrics("m")) end
      end
      assert.same(far:metrics("m"), near:metrics("m"))
      assert.same(counts(far:stats("m")), counts(near:stats("m")))
      assert.is_true(near:stats("m").learn.mean_duration > 0)
    end)
  end

  it("draws as many numbers for predictions that draw", function()
    local samples = support.phishing(support.reference())
    local function neighbours()
      return river.neighbors.KNNClassifier{engine = river.neighbors.SWINN{warm_up = 50, seed = 2}}
    end
    local fast, slow = river.Client("embedded:"), slow_client()
    for _, cli in ipairs{fast, slow} do cli:upload_model(neighbours(), "multiclass", "m") end
    for i = 1, 300 do
      local x, y = samples[i][1], samples[i][2]
      local predictions = {}
      for j, cli in ipairs{fast, slow} do
        predictions[j] = tostring(cli:predict("m", x).prediction)
        cli:learn("m", x, y)
      end
      assert.equal(predictions[2], predictions[1], "prediction " .. i)
    end
    fast:close()
    slow:close()
  end)

  it("is taken by two models in turn", function()
    local near <close> = river.Client("embedded:")
    local far <close> = slow_client()
    for _, cli in ipairs{near, far} do
      cli:upload_model(scaler() | linear(), "regression", "a")
      cli:upload_model(scaler() | linear{l2 = 0.1}, "regression", "b")
      for _, sample in ipairs(support.synthetic("regression", 100)) do
        cli:learn("a", sample[1], sample[2])
        cli:predict("b", sample[1])
        cli:learn("b", sample[1], sample[2] + 1)
      end
    end
    for _, name in ipairs{"a", "b"} do
      assert.same(far:metrics(name), near:metrics(name))
      assert.same(counts(far:stats(name)), counts(near:stats(name)))
    end
  end)

  it("is left for what has to be refused, with nothing changed", function()
    local cli <close> = river.Client("embedded:")
    cli:upload_model(scaler() | linear(), "regression", "m")
    for i = 1, 40 do cli:learn("m", {a = i, b = -i}, i) end
    local before, metrics = cli:predict("m", {a = 1, b = 2}).prediction, cli:metrics("m")
    local function refused(words, ...)
      local ok, problem = pcall(cli.learn, cli, "m", ...)
      assert.is_false(ok)
      assert.truthy(tostring(problem):find(words, 1, true), tostring(problem))
      assert.equal(before, cli:predict("m", {a = 1, b = 2}).prediction)
    end
    refused("NaN", {a = 0 / 0, b = 1}, 1)
    refused("inf", {a = 1, b = math.huge}, 1)
    refused("NaN", {a = 1, b = 1}, 0 / 0)
    refused("label is missing", {a = 1, b = 1})
    refused("label is missing", {a = 1, b = 1}, json.null)
    refused("no features", {}, 1)
    refused("TypeError", {a = 1, b = "x"}, 1)
    refused("need names", {1, 2}, 1)
    refused("a table, got number", 5, 1)
    refused("TypeError", {a = 1, b = 1}, "x")
    assert.same(metrics, cli:metrics("m"))
    assert.is_false((pcall(cli.learn, cli, "other", {a = 1}, 1)))
    assert.truthy(tostring(select(2, pcall(cli.learn, nil, "m", {a = 1}, 1))):find("colon"))
    assert.is_false((pcall(cli.predict, "m", {a = 1})))
  end)

  it("counts a sample of other types as requests do", function()
    local near <close> = river.Client("embedded:")
    local far <close> = slow_client()
    for _, cli in ipairs{near, far} do
      cli:upload_model(scaler() | linear(), "regression", "m")
      for i = 1, 60 do
        cli:learn("m", {a = i % 7, flag = i % 2 == 0, [("long name "):rep(10)] = i}, i % 5 == 0 or i)
        if i % 10 == 0 then cli:learn("m", {a = 1, extra = i}, 3) end
      end
    end
    assert.same(far:metrics("m"), near:metrics("m"))
    local x = {a = 2, flag = true, extra = 0.5}
    assert.equal(far:predict("m", x).prediction, near:predict("m", x).prediction)
  end)

  it("tells those who listen", function()
    local cli <close> = river.Client("embedded:")
    cli:upload_model(scaler() | linear(), "regression", "m")
    for i = 1, 40 do cli:learn("m", {a = i}, i) end
    local stream = cli._transport:request{method = "GET", path = "/api/stream/events/", stream = true}
    local events = stream:events()
    cli:predict("m", {a = 1})
    cli:learn("m", {a = 1}, 2)
    assert.equal("predict", events().event)
    local learned = events()
    assert.equal("learn", learned.event)
    assert.equal(2, json.decode(learned.data).ground_truth)
    stream:close()
    cli:learn("m", {a = 1}, 2)
    assert.equal(42, cli:stats("m").learn.n_calls)
  end)

  it("ends with the model, and with the client", function()
    local cli = river.Client("embedded:")
    cli:upload_model(scaler() | linear(), "regression", "m")
    for i = 1, 40 do cli:learn("m", {a = i}, i) end
    cli:upload_model(linear(), "regression", "m")
    assert.equal(0.0, cli:predict("m", {a = 1}).prediction)
    assert.equal(0, cli:stats("m").learn.n_calls)
    for i = 1, 40 do cli:learn("m", {a = i / 100}, i) end
    cli:delete_model("m")
    assert.is_false((pcall(cli.learn, cli, "m", {a = 1}, 1)))
    cli:close()
    local ok, problem = pcall(cli.predict, cli, "m", {a = 1})
    assert.is_false(ok)
    assert.equal("closed", problem.kind)
  end)

  it("keeps up with names that change all the time", function()
    local near <close> = river.Client("embedded:")
    local far <close> = slow_client()
    for _, cli in ipairs{near, far} do
      cli:upload_model(scaler() | linear{optimizer = optim.AdaGrad()}, "regression", "m")
      for i = 1, 300 do
        cli:learn("m", {always = i % 7, ["only" .. i % 100] = i % 5, ["b" .. i % 3] = i}, i % 3)
      end
    end
    assert.same(far:metrics("m"), near:metrics("m"))
  end)
end)

describe("a reader", function()
  it("knows when a row is the one before", function()
    local reader = row.reader()
    local function serial(x, strict) return select(2, reader:read(x, strict)) end
    local first = serial{a = 1, b = "x"}
    assert.equal(first, serial{a = 1, b = "x"})
    local second = serial{a = 1.0, b = "x"}
    assert.not_equal(first, second)
    assert.not_equal(second, serial{a = true, b = "x"})
    local third = serial{a = 2, b = "x"}
    assert.not_equal(third, serial{a = 2, c = "x"})
    local fourth = serial{a = 2, b = "x"}
    assert.not_equal(third, fourth)
    -- refused half-way, whichever half is read first
    assert.is_nil((reader:read({a = 3, b = 0 / 0}, true)))
    assert.is_nil((reader:read({a = 0 / 0, b = "y"}, true)))
    assert.not_equal(fourth, serial{a = 3, b = "x"})
  end)

  it("sorts names, and marks what is no number", function()
    local reader = row.reader()
    local read = reader:read{b = "text", a = 2, c = false}
    assert.same({"a", "b", "c"}, table.move(read.keys, 1, read.keys.n, 1, {}))
    assert.same({2, "text", 0}, table.move(read, 1, 3, 1, {}))
    assert.equal(2, read.other)
    assert.equal(read.keys, reader:read{a = 1, b = 1, c = 1}.keys)
    assert.is_nil(reader:read{a = 1, b = 1, c = 1}.other)
  end)

  it("reads strictly what a client may send", function()
    local reader = row.reader()
    for _, x in ipairs{{}, {1}, {a = 0 / 0}, {a = math.huge}, {a = {}}, {a = json.null}, {a = print}} do
      assert.is_nil((reader:read(x, true)))
    end
    assert.is_nil((reader:read(5, true)))
    assert.is_table(reader:read({a = "x"}, true))
    assert.is_table(reader:read({}))
    assert.is_false((pcall(reader.read, reader, {1})))
  end)
end)
