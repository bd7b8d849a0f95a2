-- Detectors of change against the Python library: they see the same changes at the same places.

local json = require "riverlua.json"
local registry = require "river.embedded.registry"
local random = require "river.embedded.random"
local snapshot = require "river.embedded.snapshot"

local PYTHON = dofile("tests/support/python.lua").command

-- Per line {"class", "kwargs" as pairs, "kind"}: the places of changes and warnings, and the end of ADWIN's window.
local PROGRAM = [[
import json, random, sys
from river import drift
from river.drift import binary

for line in sys.stdin:
    case = json.loads(line)
    module, name = case["class"].split(".")[-2:]
    detector = getattr(binary if module == "binary" else drift, name)(**dict(case["kwargs"]))
    rng = random.Random(17)
    drifts, warnings, sums = [], [], []
    for i in range(6000):
        level = (i // 750) % 3
        if case["kind"] == "errors":
            x = int(rng.random() < (0.1, 0.3, 0.15)[level])
        else:
            x = rng.gauss((0, 1.5, -1)[level], 1)
        detector.update(x)
        if detector.drift_detected:
            drifts.append(i)
        if getattr(detector, "warning_detected", False):
            warnings.append(i)
        if name == "ADWIN" and i % 10 == 0:
            sums.append([detector.width, detector.total.hex(), detector.variance.hex(), detector.estimation.hex()])
    clone = detector.clone()
    after = []
    for i in range(1000):
        clone.update(i % 2)
        if clone.drift_detected:
            after.append(i)
    print(json.dumps([drifts, warnings, sums, after]))
]]

local CASES = {
  {"river.drift.ADWIN", {}, "numbers"},
  {"river.drift.ADWIN", {}, "errors"},
  {"river.drift.ADWIN", {delta = 0.5, clock = 3, max_buckets = 2, min_window_length = 2, grace_period = 5}, "numbers"},
  {"river.drift.ADWIN", {delta = 0.9, clock = 1, max_buckets = 8}, "errors"},
  {"river.drift.PageHinkley", {threshold = 20.0}, "numbers"},
  {"river.drift.PageHinkley", {threshold = 5.0, mode = "up", alpha = 0.99, delta = 0.1}, "numbers"},
  {"river.drift.PageHinkley", {threshold = 5.0, mode = "down", min_instances = 100}, "errors"},
  {"river.drift.DummyDriftDetector", {}, "numbers"},
  {"river.drift.DummyDriftDetector", {t_0 = 200, w = 100, seed = 4, dynamic_cloning = true}, "numbers"},
  {"river.drift.DummyDriftDetector", {trigger_method = "random", t_0 = 150, w = 30, seed = 5, dynamic_cloning = true},
    "numbers"},
  {"river.drift.NoDrift", {}, "numbers"},
  {"river.drift.binary.DDM", {}, "errors"},
  {"river.drift.binary.DDM", {warm_start = 100, warning_threshold = 1.5, drift_threshold = 2.5}, "errors"},
  {"river.drift.binary.EDDM", {}, "errors"},
  {"river.drift.binary.EDDM", {alpha = 0.9, beta = 0.8, warm_start = 50}, "errors"},
  {"river.drift.binary.FHDDM", {sliding_window_size = 60, confidence_level = 0.01}, "errors"},
  {"river.drift.binary.FHDDM", {short_window_size = 20, confidence_level = 0.001}, "errors"},
  {"river.drift.binary.HDDMA", {}, "errors"},
  {"river.drift.binary.HDDMA", {two_sided_test = true, drift_confidence = 0.01}, "errors"},
  {"river.drift.binary.HDDMW", {}, "errors"},
  {"river.drift.binary.HDDMW", {two_sided_test = true, lambda_val = 0.1, drift_confidence = 0.01}, "errors"},
}

local function ours(class, kwargs, kind)
  local detector = registry.build{class = class, kwargs = kwargs}
  local rng = random.new(17)
  local drifts, warnings, sums, after = {}, {}, {}, {}
  for i = 0, 5999 do
    local level = (i // 750) % 3 + 1
    local x
    if kind == "errors" then
      x = rng:random() < ({0.1, 0.3, 0.15})[level] and 1 or 0
    else
      x = rng:gauss(({0, 1.5, -1})[level], 1)
    end
    detector:update(x)
    -- A saved detector goes on as it would have.
    if i == 3100 then detector = snapshot.load(snapshot.dump(detector)) end
    if detector.drift_detected then drifts[#drifts + 1] = i end
    if detector.warning_detected then warnings[#warnings + 1] = i end
    if detector.name == "ADWIN" and i % 10 == 0 then
      sums[#sums + 1] = {detector.width, detector.total, detector.variance, detector:estimation()}
    end
  end
  local clone = registry.clone(detector)
  for i = 0, 999 do
    clone:update(i % 2)
    if clone.drift_detected then after[#after + 1] = i end
  end
  return drifts, warnings, sums, after
end

local function reference()
  local lines = {}
  for i, case in ipairs(CASES) do
    local pairs_of = {}
    for name, value in pairs(case[2]) do pairs_of[#pairs_of + 1] = {name, value} end
    lines[i] = json.encode{class = case[1], kwargs = json.array(pairs_of), kind = case[3]}
  end
  local paths = {os.tmpname(), os.tmpname()}
  for i, text in ipairs{PROGRAM, table.concat(lines, "\n") .. "\n"} do
    local file = assert(io.open(paths[i], "w"))
    file:write(text)
    file:close()
  end
  local answers = {}
  for line in assert(io.popen(("%s %s < %s"):format(PYTHON, paths[1], paths[2]))):lines() do
    answers[#answers + 1] = json.decode(line)
  end
  for _, path in ipairs(paths) do os.remove(path) end
  return answers
end

describe("a detector of change", function()
  it("sees what the Python library sees", function()
    local answers = reference()
    assert.equal(#CASES, #answers)
    local detections = 0
    for i, case in ipairs(CASES) do
      local name = ("case %d, %s"):format(i, case[1])
      local drifts, warnings, sums, after = ours(table.unpack(case))
      assert.same(answers[i][1], drifts, name)
      assert.same(answers[i][2], warnings, name)
      assert.same(answers[i][4], after, name .. ", its clone")
      assert.equal(#answers[i][3], #sums, name)
      for j, expected in ipairs(answers[i][3]) do
        for k = 1, 4 do assert.equal(tonumber(expected[k]), sums[j][k], name) end
      end
      detections = detections + #drifts
    end
    assert.is_true(detections > 100)
  end)

  it("refuses what the Python library refuses", function()
    local function refusal(class, kwargs)
      local ok, failure = pcall(registry.build, {class = class, kwargs = kwargs})
      assert.is_false(ok)
      return tostring(failure)
    end
    assert.truthy(refusal("river.drift.DummyDriftDetector", {trigger_method = "often"}):find("Invalid trigger_method"))
    assert.equal(
      [[ValueError("The 'w' value must be greater than zero when 'trigger_method' is 'random'.")]],
      refusal("river.drift.DummyDriftDetector", {trigger_method = "random"}))
    assert.equal([[ValueError("Invalid 'mode'. Valid values are: ['up', 'down', 'both']")]],
      refusal("river.drift.PageHinkley", {mode = "sideways"}))
    assert.equal([[ValueError("'alpha' must be greater or equal to 'beta'.")]],
      refusal("river.drift.binary.EDDM", {alpha = 0.1}))
  end)
end)
