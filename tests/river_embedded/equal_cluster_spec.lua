-- Clustering against the Python library.

local equal = assert(loadfile("tests/river_embedded/equal.lua", "t", _ENV))()
local river = require "river"

local python = require "river.embedded.python"
local registry = require "river.embedded.registry"
local row = require "river.embedded.row"

local scaler, kmeans = river.preprocessing.StandardScaler, river.cluster.KMeans
local dbstream, denstream = river.cluster.DBSTREAM, river.cluster.DenStream

equal.check("clustering", {
  kmeans = {model = scaler() | kmeans{seed = 42}, supervised = false, on = {"phishing", "images", "waveform"}},
  kmeans_bare = {model = kmeans{n_clusters = 3, halflife = 0.1, sigma = 3, seed = 7}, supervised = false,
    on = {"bananas", "counts_binary", "planes"}},
  kmeans_manhattan = {model = scaler() | kmeans{n_clusters = 8, mu = 0.5, sigma = 2, p = 1, seed = 3},
    supervised = false, on = {"images", "friedman"}},
  kmeans_cubic = {model = scaler() | kmeans{n_clusters = 4, p = 3, halflife = 0.05, seed = 0}, supervised = false,
    on = {"waveform", "trump"}},
  dbstream = {model = scaler() | dbstream(), supervised = false, on = {"bananas", "phishing"}},
  dbstream_fading = {model = scaler() | dbstream{clustering_threshold = 1.5, fading_factor = 0.05,
    cleanup_interval = 4, intersection_factor = 0.1, minimum_weight = 1.5}, supervised = false,
    on = {"bananas", "trump"}},
  dbstream_sparse = {model = dbstream{clustering_threshold = 4.0, fading_factor = 0.02, intersection_factor = 0.2},
    supervised = false, on = {"counts_binary", "planes"}},
  denstream = {model = scaler() | denstream{n_samples_init = 100, epsilon = 0.3, beta = 0.6, decaying_factor = 0.01},
    supervised = false, on = {"bananas", "phishing"}},
  denstream_fading = {model = scaler() | denstream{n_samples_init = 50, epsilon = 0.6, mu = 3, stream_speed = 5,
    decaying_factor = 0.1}, supervised = false, on = {"bananas", "images"}},
  denstream_sparse = {model = denstream{n_samples_init = 60, epsilon = 1.5, stream_speed = 20,
    decaying_factor = 0.02}, supervised = false, on = {"counts_multiclass", "planes"}},
  -- Here micro clusters are joined, which changes them in the library.
  denstream_joined = {model = scaler() | denstream{n_samples_init = 80, epsilon = 1.5, mu = 1.5, beta = 0.8,
    decaying_factor = 0.01, stream_speed = 10}, supervised = false, on = {"planes", "friedman"}},
})

-- The library has no prediction before the first sample, so these learn first.
local function stream_kmeans(samples, node)
  local model, reader = registry.build(node), row.reader()
  local predictions = {}
  for i, sample in ipairs(equal.samples(samples)) do
    model:learn_one(reader:read(sample[1]))
    predictions[i] = model:predict_one(reader:read(sample[1]))
  end
  return predictions
end

local STREAM_KMEANS = [[
import itertools, json, sys
sys.path.insert(0, "tests/river_embedded")
import reference
from river import cluster
model = cluster.STREAMKMeans(chunk_size=%d, n_clusters=%d, seed=%d, halflife=0.3)
out = []
for x, _ in reference.samples("%s", 1000):
    model.learn_one(x)
    out.append(model.predict_one(x))
print(json.dumps(out))
]]

describe("k-means in chunks", function()
  for _, case in ipairs{{"bananas", 10, 3, 1}, {"images", 25, 4, 2}, {"counts_binary", 1, 2, 3}} do
    it("as the Python library on " .. case[1], function()
      local interpreter = dofile("tests/support/python.lua").command
      local name = os.tmpname()
      local file = assert(io.open(name, "w"))
      file:write(STREAM_KMEANS:format(case[2], case[3], case[4], case[1]))
      file:close()
      local pipe = assert(io.popen(("%s %s"):format(interpreter, name)))
      local theirs = require("riverlua.json").decode(pipe:read("a"))
      assert(pipe:close(), "the reference failed")
      os.remove(name)
      assert.equal(1000, #theirs)
      assert.same(theirs, stream_kmeans(case[1], river.cluster.STREAMKMeans{chunk_size = case[2],
        n_clusters = case[3], seed = case[4], halflife = 0.3}))
    end)
  end
end)

describe("density clustering", function()
  it("refuses parameters that mean nothing", function()
    for _, options in ipairs{{beta = 1.5}, {mu = 1}, {mu = 2, beta = 0.5}} do
      local ok, problem = pcall(registry.build, denstream(options))
      assert.is_true(not ok and python.is_error(problem))
    end
  end)

  it("refuses text and targets", function()
    for _, node in ipairs{dbstream(), denstream(), river.cluster.STREAMKMeans()} do
      local model, reader = registry.build(node), row.reader()
      assert.is_false((pcall(model.check_target, model, 1)))
      model:learn_one(reader:read{a = 1})
      local ok, problem = pcall(model.learn_one, model, reader:read{a = "text"})
      if node.class ~= "river.cluster.STREAMKMeans" then assert.is_true(not ok and problem.type == "TypeError") end
    end
  end)
end)

describe("k-means", function()
  it("takes no target of its own, and none of a pipeline's", function()
    local model = registry.build(kmeans{seed = 1})
    local ok, problem = pcall(model.check_target, model, 1)
    assert.is_true(not ok and python.is_error(problem))
    assert.equal("KMeans.learn_one() got an unexpected keyword argument 'y'", problem.text)
    model:check_target(nil)
    model:check_target(1, true)
  end)

  it("refuses text", function()
    local model, reader = registry.build(kmeans{seed = 1}), row.reader()
    local ok, problem = pcall(model.predict_one, model, reader:read{a = "text"})
    assert.is_true(not ok and problem.type == "TypeError")
  end)

  it("draws other centers without a seed", function()
    local reader, seen = row.reader(), {}
    for i = 1, 20 do
      local model = registry.build(kmeans())
      model:learn_one(reader:read{a = 0.5, b = -0.25})
      local text = tostring(model.centers[1].a)
      assert.is_nil(seen[text], i)
      seen[text] = true
    end
  end)
end)
