-- The metrics of every flavor against the server's own code (flavor_metrics_reference.py), while a model learns.

local equal = assert(loadfile("tests/river_embedded/equal.lua", "t", _ENV))()
local json = require "riverlua.json"
local river = require "river"
local support = dofile("tests/river_embedded/support.lua")

local EVERY, COUNT = 60, 600
local scaler, linear, trees = river.preprocessing.StandardScaler, river.linear_model, river.tree

local CASES = {
  {"regression", "trump", scaler() | linear.LinearRegression()},
  {"regression", "friedman", trees.HoeffdingTreeRegressor()},
  {"binary", "phishing", scaler() | linear.LogisticRegression()},
  {"binary", "bananas", river.naive_bayes.GaussianNB()},
  {"binary", "counts_binary", trees.HoeffdingTreeClassifier()},
  {"multiclass", "images", river.naive_bayes.GaussianNB()},
  {"multiclass", "phishing", trees.HoeffdingTreeClassifier()},
  {"multiclass", "counts_multiclass", river.neighbors.KNNClassifier{engine = river.neighbors.LazySearch()}},
  {"multiclass", "waveform", scaler() | river.multiclass.OneVsRestClassifier(linear.LogisticRegression())},
}

local function question(case)
  local bytes = require("river.pickle").dumps(case[3])
  return json.encode{model = bytes:gsub(".", function(c) return ("%02x"):format(c:byte()) end), flavor = case[1],
    samples = case[2], count = COUNT, every = EVERY}
end

-- The script's answers, one per case.
local function reference()
  local name = os.tmpname()
  local file = assert(io.open(name, "wb"))
  for _, case in ipairs(CASES) do file:write(question(case), "\n") end
  file:close()
  local interpreter = dofile("tests/support/python.lua").command
  local pipe = assert(io.popen(("%s tests/river_embedded/flavor_metrics_reference.py < %s"):format(
    interpreter, name)))
  local answers = {}
  for line in pipe:lines() do answers[#answers + 1] = json.decode(line) end
  assert(pipe:close(), "flavor_metrics_reference.py failed")
  os.remove(name)
  return answers
end

describe("the metrics of a server for", function()
  local answers = reference()

  for number, case in ipairs(CASES) do
    it(("%s, %s"):format(case[1], case[2]), function()
      local api, place, worst = support.open{generate_identifiers = false}, 0, 0
      assert.equal(201, api.upload(case[3], case[1], "m").status)
      for i, sample in ipairs(equal.samples(case[2], COUNT)) do
        assert.equal(201, api.learn{model = "m", features = sample[1], ground_truth = sample[2]}.status)
        if (i - 1) % EVERY == 0 then
          place = place + 1
          local ours, theirs = api.metrics("m"), answers[number][place]
          for metric, value in pairs(theirs) do
            local difference = math.abs(ours[metric] - value) / math.max(math.abs(value), 1e-300)
            assert(ours[metric] == value or difference < 1e-9,
              ("%s after %d: %s, not %s"):format(metric, i, ours[metric], value))
            if ours[metric] ~= value then worst = math.max(worst, difference) end
          end
          for metric in pairs(ours) do assert.is_not_nil(theirs[metric], metric) end
        end
      end
      assert.equal(COUNT // EVERY, place)
      if os.getenv("RIVER_EMBEDDED_REPORT") then print(case[1], case[2], worst, json.encode(answers[number][place])) end
    end)
  end
end)
