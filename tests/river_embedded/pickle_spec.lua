-- Downloaded models: a Python program continues with them, and so does another embedded service.

local json = require "riverlua.json"
local support = dofile("tests/river_embedded/support.lua")
local river = require "river"

local scaler, linear = river.preprocessing.StandardScaler, river.linear_model.LinearRegression
local logistic, optim = river.linear_model.LogisticRegression, river.optim

local PYTHON = dofile("tests/support/python.lua").command

local function has_river()
  return (os.execute(PYTHON .. " -c 'import river, dill' >/dev/null 2>&1"))
end

local MODELS = {
  {"scaler and regression", "regression", function() return scaler() | linear() end},
  {"a regression alone", "regression", function() return linear{optimizer = optim.SGD(1e-9), l2 = 0.1} end},
  {"the cumulative penalty", "regression", function() return scaler() | linear{l1 = 0.02} end},
  {"a schedule", "regression", function()
    return scaler() | linear{optimizer = optim.SGD(optim.schedulers.InverseScaling(0.1)), intercept_init = 3}
  end},
  {"a window", "regression", function() return scaler{window_size = 30} | linear() end},
  {"a window without deviation", "regression", function()
    return scaler{with_std = false, window_size = 30} | linear{optimizer = optim.SGD(1e-9)}
  end},
  {"centering", "regression", function()
    return scaler{with_std = false} | linear{optimizer = optim.SGD(1e-9),
      initializer = optim.initializers.Constant(0.1)}
  end},
  {"named and nested steps", "regression", function()
    return river.compose.Pipeline({"first", scaler()}, river.compose.Pipeline(scaler(), linear()))
  end},
  {"extremes and Adam", "regression", function()
    return river.preprocessing.MinMaxScaler() | scaler() | linear{optimizer = optim.Adam(0.05), l2 = 0.01}
  end},
  {"magnitudes and RMSProp", "regression", function()
    return river.preprocessing.MaxAbsScaler() | linear{optimizer = optim.RMSProp(0.01), l1 = 0.01}
  end},
  {"AdaGrad", "regression", function() return scaler() | linear{optimizer = optim.AdaGrad()} end},
  {"AdaBound", "regression", function() return scaler() | linear{optimizer = optim.AdaBound(0.01)} end},
  {"FTRL", "binary", function() return scaler() | logistic{optimizer = optim.FTRLProximal{l1 = 0.1}} end},
  {"Nesterov", "binary", function() return scaler() | logistic{optimizer = optim.NesterovMomentum(0.01)} end},
  {"three columns", "regression", function() return scaler() | linear{optimizer = optim.AMSGrad(0.05)} end},
  {"a union", "regression", function()
    return river.compose.TransformerUnion({"a", scaler()}, {"b", river.preprocessing.MaxAbsScaler()})
      | linear{optimizer = optim.Momentum(0.001)}
  end},
  {"scaler and classifier", "binary", function() return scaler() | logistic{loss = optim.losses.Log(2.0)} end},
}

local function train(service, name, samples, first, last)
  for i = first, last do
    local answer = service.learn{model = name, features = samples[i][1], ground_truth = samples[i][2]}
    assert.equal(201, answer.status)
  end
end

local function predict(service, name, flavor, x)
  local prediction = service.predict{model = name, features = x}:json().prediction
  return flavor == "binary" and prediction["true"] or prediction
end

local function trained(model, flavor, samples)
  local service = support.open()
  assert.equal(201, service.upload(model, flavor, "m").status)
  train(service, "m", samples, 1, 500)
  return service
end

local function download(service)
  local answer = service.send("GET", "/model/download/m/")
  assert.equal(200, answer.status)
  assert.equal("application/octet-stream", answer.headers["Content-Type"])
  return answer.body
end

-- Runs the Python side on all models at once.
local function continue_in_python(jobs)
  local job_path = os.tmpname()
  support.write_file(job_path, json.encode(jobs, {sort = true}))
  local pipe = assert(io.popen(("%s tests/river_embedded/continue_model.py <%s"):format(PYTHON, job_path)))
  local text = pipe:read("a")
  pipe:close()
  os.remove(job_path)
  for _, job in ipairs(jobs) do os.remove(job.path) end
  return json.decode(text)
end

describe("a downloaded model", function()
  for _, case in ipairs(MODELS) do
    local title, flavor, make = table.unpack(case)

    it("goes on in another service, bit for bit: " .. title, function()
      local samples = support.synthetic(flavor, 700)
      local first, second = trained(make(), flavor, samples), support.open()
      local bytes = download(first)
      assert.equal(201, second.send("POST", "/model/" .. flavor .. "/m/", {body = bytes}).status)
      assert.equal(bytes, download(second))
      for i = 501, 700 do
        local x = samples[i][1]
        assert.equal(predict(first, "m", flavor, x), predict(second, "m", flavor, x))
        train(first, "m", samples, i, i)
        train(second, "m", samples, i, i)
      end
      assert.same(first.send("GET", "/model/m/"):json(), second.send("GET", "/model/m/"):json())
    end)
  end

  it("goes on in Python, bit for bit", function()
    if not has_river() then return pending("needs the Python library river") end
    local jobs, services = {}, {}
    for i, case in ipairs(MODELS) do
      local samples = support.synthetic(case[2], 700)
      services[i] = trained(case[3](), case[2], samples)
      jobs[i] = {path = os.tmpname(), flavor = case[2], samples = table.move(samples, 501, 700, 1, {})}
      support.write_file(jobs[i].path, download(services[i]))
    end
    for i, answer in ipairs(continue_in_python(jobs)) do
      local flavor, samples = jobs[i].flavor, jobs[i].samples
      assert.is_true(answer.same_when_stored)
      assert.equal(200, #answer.predictions)
      for j, theirs in ipairs(answer.predictions) do
        assert.equal(theirs, predict(services[i], "m", flavor, samples[j][1]), MODELS[i][1])
        train(services[i], "m", samples, j, j)
      end
    end
  end)

  it("may have learned nothing yet", function()
    local first, second = support.open(), support.open()
    first.upload(scaler() | linear(), "regression", "m")
    assert.equal(201, second.send("POST", "/model/regression/m/", {body = download(first)}).status)
    assert.equal(0.0, predict(second, "m", "regression", {a = 1}))
  end)

  it("is 404 for an unknown name", function()
    local answer = support.open().send("GET", "/model/download/nope/")
    assert.equal(404, answer.status)
    assert.equal("", answer.body)
  end)
end)

describe("uploaded bytes", function()
  local function upload(bytes)
    return support.open().send("POST", "/model/regression/", {body = bytes})
  end

  it("of the client's own writer are a model", function()
    local service = support.open()
    local bytes = require("river.pickle").dumps(scaler() | linear{optimizer = optim.SGD(0.05), l2 = 0.1})
    assert.equal(201, service.send("POST", "/model/regression/m/", {body = bytes}).status)
    assert.equal(0.05, service.send("GET", "/model/m/"):json().LinearRegression.optimizer[2].lr[2].learning_rate)
  end)

  it("that are no model are refused with a reason", function()
    local function says(bytes, text)
      local answer = upload(bytes)
      assert.equal(400, answer.status)
      assert.truthy(answer:json().message:find(text, 1, true), answer:json().message)
    end
    says("", "empty")
    says("hello", "does not start as a pickle does")
    says("\x80\x04", "is cut off")
    says("\x80\x04K", "is cut off")
    says("\x80\x04S'a'\n.", "operation 0x53")
    says("\x80\x04]\x94.", "holds no model")
    says("\x80\x04K\x01.", "holds no model")
    says("\x80\x04t.", "is malformed")
    says("\x80\x04R.", "is malformed")
    says("\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02ls\x85R.", "has no os.system")
    says("\x80\x04\x8c\x0driver.compose\x8c\x08Pipeline\x93)R.", "at least one step")
  end)

  it("cut anywhere or with a flipped byte never break the service", function()
    local service = support.open()
    service.upload(scaler{window_size = 3} | linear{l1 = 0.1}, "regression", "m")
    for i = 1, 5 do service.learn{model = "m", features = {a = i, b = i * i}, ground_truth = i} end
    local bytes = download(service)
    for i = 1, #bytes - 1 do
      assert.equal(400, upload(bytes:sub(1, i)).status)
      local flipped = bytes:sub(1, i - 1) .. string.char(bytes:byte(i) ~ 1 << i % 8) .. bytes:sub(i + 1)
      local other = support.open()
      local status = other.send("POST", "/model/regression/m/", {body = flipped}).status
      if status == 201 then
        -- whatever number was hit: the model answers, with a number or a refusal
        for _ = 1, 2 do
          other.predict{model = "m", features = {a = 1, b = 2}}
          other.learn{model = "m", features = {a = 1, b = 2}, ground_truth = 1}
        end
        other.send("GET", "/model/m/"):json()
        other.send("GET", "/model/download/m/")
      else
        assert.equal(400, status)
      end
    end
  end)
end)
