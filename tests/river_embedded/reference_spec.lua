-- The numbers of the embedded service against those recorded from the Python library (record.py).

local support = dofile("tests/river_embedded/support.lua")
local river = require "river"
local pickle = require "river.embedded.pickle"

local scaler, linear = river.preprocessing.StandardScaler, river.linear_model.LinearRegression
local logistic, optim = river.linear_model.LogisticRegression, river.optim

local MODELS = {
  trump = function() return scaler() | linear() end,
  trump_rate = function() return scaler() | linear{optimizer = optim.SGD(0.05), intercept_lr = 0.1} end,
  trump_l2 = function() return scaler() | linear{l2 = 0.1, clip_gradient = 5} end,
  trump_l1 = function() return scaler() | linear{l1 = 0.02, intercept_init = 40} end,
  trump_centered = function() return scaler{with_std = false} | linear{optimizer = optim.SGD(1e-6)} end,
  trump_centered_window = function() return scaler(false, 10) | linear{optimizer = optim.SGD(1e-7)} end,
  trump_schedule = function()
    return scaler() | linear{
      optimizer = optim.SGD(optim.schedulers.InverseScaling(0.1, {power = 0.3})),
      intercept_lr = optim.schedulers.InverseScaling(0.5),
      initializer = optim.initializers.Constant(0.5),
    }
  end,
  trump_nested = function()
    return river.compose.Pipeline({"first", scaler{with_std = false}}, river.compose.Pipeline(scaler(), linear()))
  end,
  phishing = function() return scaler() | logistic() end,
  phishing_bare = function() return logistic{optimizer = optim.SGD(0.1), l2 = 0.001} end,
  phishing_weighted = function()
    return scaler() | logistic{
      loss = optim.losses.Log{weight_pos = 2.0, weight_neg = 0.5},
      optimizer = optim.SGD(optim.schedulers.Optimal(optim.losses.Log(), {alpha = 0.01})),
    }
  end,
  synthetic_regression = function() return scaler() | linear() end,
  synthetic_binary = function() return scaler() | logistic() end,
  synthetic_window = function() return scaler{window_size = 50} | linear() end,
  synthetic_bare = function()
    return linear{optimizer = optim.SGD(1e-10), l2 = 0.5, initializer = optim.initializers.Constant(0.001)}
  end,
  synthetic_diverging = function() return linear{clip_gradient = 1e5} end,
}

local METRICS = {
  regression = {"MAE", "RMSE", "SMAPE"},
  binary = {"Accuracy", "LogLoss", "Precision", "Recall", "F1"},
}

local reference = support.reference()

local function samples_of(name, run)
  if name:find("^trump") then return support.trump() end
  if name:find("^phishing") then return support.phishing(reference) end
  return support.synthetic(run.flavor, run.count)
end

-- The weights of the last step, from what a download says.
local function learned(service, name)
  local bytes = service.send("GET", "/model/download/" .. name .. "/").body
  local node = pickle.read(bytes)
  while node.class == "river.compose.Pipeline" do node = node.args[#node.args][2] end
  local weights = {}
  for _, pair in ipairs(node.state._weights.args[1]) do weights[pair[1]] = pair[2] end
  return weights, node.state.intercept
end

local function compare_weights(compared, name, service, run)
  local weights, intercept = learned(service, name)
  compared.add(intercept, run.intercept, "intercept")
  for feature, value in pairs(run.weights) do compared.add(weights[feature], value, "weight of " .. feature) end
  for feature in pairs(weights) do assert(run.weights[feature], "extra weight of " .. feature) end
end

local function replay(name, run)
  local service, compared = support.open{generate_identifiers = false}, support.comparison()
  assert.equal(201, service.upload(MODELS[name](), run.flavor, name).status)
  local samples = samples_of(name, run)
  assert.equal(run.count, #samples)
  for i, sample in ipairs(samples) do
    local x, y = sample[1], sample[2]
    local prediction = service.predict{model = name, features = x}:json().prediction
    if (i - 1) % run.every == 0 then
      local ours = run.flavor == "binary" and prediction["true"] or prediction
      compared.add(ours, run.predictions[(i - 1) // run.every + 1], "prediction " .. i)
    end
    assert.equal(201, service.learn{model = name, features = x, ground_truth = y}.status)
    if i % 100 == 0 then
      local values = service.metrics(name)
      for place, metric in ipairs(METRICS[run.flavor]) do
        compared.add(values[metric], run.metrics[i // 100][place], metric .. " after " .. i)
      end
    end
  end
  compare_weights(compared, name, service, run)
  return compared
end

describe("the numbers of the Python library", function()
  for name, run in pairs(reference.runs) do
    it("are those of " .. name, function()
      local compared = replay(name, run)
      assert.is_true(compared.count > 15)
      if os.getenv("RIVER_EMBEDDED_REPORT") then print(name, compared.count, compared.worst) end
    end)
  end

  it("cover every recorded run", function()
    for name in pairs(MODELS) do assert.is_table(reference.runs[name], name) end
  end)
end)
