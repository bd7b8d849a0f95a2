-- Every metric against the Python library's on random sequences (metrics_reference.py).

local errors = require "riverlua.errors"
local json = require "riverlua.json"
local metrics = require "river.embedded.metrics"
local python = require "river.embedded.python"
local river = require "river"

local function reference()
  local interpreter = dofile("tests/support/python.lua").command
  local pipe = assert(io.popen(interpreter .. " tests/river_embedded/metrics_reference.py"))
  local sequences = {}
  for line in pipe:lines() do sequences[#sequences + 1] = json.decode(line) end
  assert(pipe:close(), "metrics_reference.py failed")
  return sequences
end

local function prediction_of(value)
  if type(value) ~= "table" then return value end
  local probabilities = {}
  for _, pair in ipairs(value) do probabilities[pair[1]] = pair[2] end
  return probabilities
end

local WORDS = {nan = true, inf = math.huge, ["-inf"] = -math.huge}
local worst = 0

local function check_value(ours, theirs, what)
  if WORDS[theirs] then
    assert(theirs == "nan" and ours ~= ours or ours == WORDS[theirs], ("%s: %s, not %s"):format(what, ours, theirs))
    return
  end
  if ours == theirs then return end
  local difference = math.abs(ours - theirs) / math.max(math.abs(ours), math.abs(theirs))
  -- A sum that is zero but for rounding has no digits to compare.
  if math.max(math.abs(ours), math.abs(theirs)) < 1e-13 then return end
  assert(difference < 1e-9, ("%s: %.17g, not %.17g"):format(what, ours, theirs))
  worst = math.max(worst, difference)
end

-- Texts that end in the last digit of a value may differ there.
local function check_text(ours, theirs, what)
  if ours == theirs then return end
  local name, value = theirs:match("^(%w+): (.*)$")
  local our_name, our_value = ours:match("^(%w+): (.*)$")
  local a, b = tonumber(value), tonumber(our_value)
  local same = name and name == our_name and a and b and #value >= 12
    and (math.abs(a - b) <= 1e-9 * math.abs(a) or math.abs(a) < 1e-13)
  assert(same, ("%s:\n%s\n---- not ----\n%s"):format(what, ours, theirs))
end

local function replay(sequence, result)
  local metric = sequence.window ~= json.null and metrics.rolling(result.metric, sequence.window, result.options)
    or metrics.new(result.metric, result.options)
  local place = 1
  local function check(step)
    local what = ("%s after %s of %s"):format(result.metric, step, sequence.name)
    if result.values[place] ~= nil and result.values[place] ~= json.null then
      check_value(metric:get(), result.values[place], what)
    else
      assert.is_false((pcall(metric.get, metric)))
    end
    check_text(tostring(metric), result.texts[place], what)
    place = place + 1
  end
  check(0)
  for i, sample in ipairs(sequence.samples) do
    local w = sample[3]
    metric:update(sample[1], prediction_of(sample[2]), nil, w ~= json.null and w or nil)
    if (i - 1) % sequence.every == 0 or i == #sequence.samples then check(i) end
  end
  assert.equal(#result.values, place - 1)
  if result.bigger ~= json.null then assert.equal(result.bigger, metric.bigger_is_better, result.metric) end
  if result.labels ~= json.null and result.labels ~= nil then
    assert.equal(result.labels, metric.requires_labels, result.metric)
  end
end

local sequences = reference()

describe("metrics", function()
  local seen = {}

  for _, sequence in ipairs(sequences) do
    it("have the library's values for " .. sequence.name, function()
      for _, result in ipairs(sequence.results) do replay(sequence, result) end
    end)
    for _, result in ipairs(sequence.results) do seen[result.metric] = true end
  end

  it("have all been compared", function()
    for _, name in ipairs(metrics.names()) do
      -- Its parameters are dictionaries of the library; it is compared below with what it is made of.
      if name ~= "MultiFBeta" then assert.is_true(seen[name], name) end
    end
    if os.getenv("RIVER_EMBEDDED_REPORT") then print("metrics:", #metrics.names(), "worst", worst) end
  end)

  it("average the F scores of classes with weights and betas of their own", function()
    local multi = metrics.new(river.metrics.MultiFBeta(river.dict{{"a", 1}, {"b", 2}, {"c", 0.5}},
      river.dict{{"a", 1}, {"b", 3}, {"c", 2}}))
    local truth, guess = {"a", "b", "a", "c", "b", "b", "c"}, {"a", "b", "b", "c", "a", "b", "a"}
    for i, y in ipairs(truth) do multi:update(y, guess[i]) end
    local function f(p, r, beta) return (1 + beta ^ 2) * p * r / (beta ^ 2 * p + r) end
    local expected = (f(1 / 3, 1 / 2, 1) + 3 * f(2 / 3, 2 / 3, 2) + 2 * f(1, 1 / 2, 0.5)) / 6
    assert.is_true(math.abs(multi:get() - expected) < 1e-15)
  end)
end)

describe("a metric", function()
  it("is made by name, by name and parameters, and from a description", function()
    assert.equal("MAE", metrics.new("MAE").name)
    assert.equal(2, metrics.new("FBeta", {beta = 2}).beta)
    assert.equal(0.5, metrics.new(river.metrics.MacroFBeta{beta = 0.5}).beta)
  end)

  it("says what is wrong with a name or a parameter", function()
    local ok, problem = pcall(metrics.new, "MEA")
    assert.is_false(ok)
    assert.equal("argument", problem.kind)
    assert.truthy(problem.hint:find("MAE", 1, true))
    for _, wrong in ipairs{{"FBeta"}, {"MAE", {beta = 1}}, {"F1", {pos_val = {}}}, {river.stats.Mean()}, {5}} do
      ok, problem = pcall(metrics.new, wrong[1], wrong[2])
      assert.is_false(ok)
      assert.is_true(errors.is(problem))
    end
    ok, problem = pcall(metrics.rolling, "MAE", 0)
    assert.is_true(not ok and problem.kind == "argument")
  end)

  it("raises for what it cannot take", function()
    for _, name in ipairs{"MAE", "RMSE", "R2", "LogLoss", "ROCAUC", "RollingROCAUC", "RollingPRAUC"} do
      local ok, problem = pcall(function() metrics.new(name):update("a", "b") end)
      assert.is_false(ok, name)
      assert.equal("TypeError", problem.type)
    end
    local ok, problem = pcall(function() metrics.new("CrossEntropy"):update("a", "b") end)
    assert.is_true(not ok and problem.type == "AttributeError")
    ok, problem = pcall(function() metrics.new("Accuracy"):update({1}, "b") end)
    assert.is_true(not ok and problem.type == "TypeError")
    ok, problem = pcall(function() metrics.new("RMSLE"):update(-1.0, 2.0) end)
    assert.is_true(not ok and problem.type == "ValueError")
  end)

  it("of a service leaves out what it cannot take, as a server does", function()
    local all, active = metrics.set{"Accuracy", "CrossEntropy", "MacroF1", "MAE", "LogLoss"}
    for _, metric in ipairs(active) do metric:update("a", "b", "b") end
    for _, metric in ipairs(active) do metric:update({1}, "b", "b") end
    assert.equal(0.0, all[2]:get())
    assert.equal(1.0, all[1].cm.total)
    assert.equal(0.0, all[4]:get())
    for _, metric in ipairs(active) do
      if metric.name ~= "MAE" then metric:update("a", {a = 0.75, b = 0.25}, "a") end
    end
    assert.equal(-math.log(0.75), all[2]:get())
    assert.equal(0.5, all[1]:get())
  end)

  it("shares its count with the others of a set", function()
    local all, active = metrics.set{"Accuracy", "CrossEntropy", "MacroPrecision", "MicroF1", "Precision", "F1"}
    assert.equal(6, #all)
    local names = {}
    for i, metric in ipairs(active) do names[i] = metric.name end
    assert.same({"Accuracy", "CrossEntropy", "Precision"}, names)
    assert.equal(all[1].cm, all[4].cm)
    assert.equal(all[5].cm, all[6].cm)
  end)

  it("shares a confusion matrix that is given to it", function()
    local matrix = metrics.new("ConfusionMatrix")
    local accuracy, rand = metrics.new("Accuracy", {cm = matrix.cm}), metrics.new("Rand", {cm = matrix.cm})
    for i = 1, 10 do matrix:update(i % 2, i % 3) end
    assert.equal(matrix.cm.hits / 10, accuracy:get())
    assert.is_true(rand:get() > 0)
    assert.equal(matrix:count(1, 1), matrix:count(true, 1.0))
    assert.is_false((pcall(metrics.new, "Rand", {cm = metrics.new("Accuracy").cm})))
    assert.is_false((pcall(metrics.new, "MAE", {cm = matrix.cm})))
  end)

  it("takes 1, 1.0 and true for one label, and prints the one it saw first", function()
    local matrix = metrics.new("ConfusionMatrix")
    matrix:update(1, 1.0)
    matrix:update(true, 0)
    assert.equal("    0   1  \n0   0   0  \n1   1   1  ", tostring(matrix))
  end)

  it("finds the likeliest label of a table of probabilities", function()
    local accuracy = metrics.new("Accuracy")
    accuracy:update("b", {a = 0.2, b = 0.5, c = 0.3})
    accuracy:update(false, {[false] = 0.5, [true] = 0.5})
    assert.equal(1.0, accuracy:get())
    assert.equal("x", metrics.likeliest({a = 0.5, x = 0.5}, {"x", "a"}))
  end)

  it("over a window forgets what leaves it", function()
    local rolling = metrics.rolling("Accuracy", 3)
    local shown = {}
    for i, pair in ipairs{{true, false}, {false, false}, {true, true}, {true, true}} do
      rolling:update(pair[1], pair[2])
      shown[i] = tostring(rolling)
    end
    assert.same({"Accuracy: 0.00%", "Accuracy: 50.00%", "Accuracy: 66.67%", "Accuracy: 100.00%"}, shown)
    assert.equal(3, rolling.window_size)
    assert.is_true(rolling.bigger_is_better)
  end)

  it("goes on from a snapshot as if nothing had been", function()
    local snapshot = require "river.embedded.snapshot"
    for _, sequence in ipairs(sequences) do
      for _, result in ipairs(sequence.results) do
        local metric = sequence.window ~= json.null and metrics.rolling(result.metric, sequence.window, result.options)
          or metrics.new(result.metric, result.options)
        local half = #sequence.samples // 2
        for i = 1, half do metric:update(sequence.samples[i][1], prediction_of(sequence.samples[i][2])) end
        local copy = snapshot.load(snapshot.dump(metric))
        for i = half, #sequence.samples do
          metric:update(sequence.samples[i][1], prediction_of(sequence.samples[i][2]))
          copy:update(sequence.samples[i][1], prediction_of(sequence.samples[i][2]))
        end
        assert.equal(tostring(metric), tostring(copy))
        local ok, value = pcall(metric.get, metric)
        if ok then assert.equal(("%.17g"):format(value), ("%.17g"):format(copy:get())) end
      end
    end
  end)

  it("that has no single value says so", function()
    local ok, problem = pcall(function() return metrics.new("ConfusionMatrix"):get() end)
    assert.is_false(ok)
    assert.is_true(python.is_error(problem) and problem.type == "NotImplementedError")
  end)
end)
