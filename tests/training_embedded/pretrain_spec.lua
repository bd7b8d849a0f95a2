--- Pretraining: what the engine is given, what is refused, and that one seed gives one model.

local here = debug.getinfo(1, "S").source:match("^@(.*/)")
local files = dofile(here .. "files.lua")
local fake_engine = dofile(here .. "fake_engine.lua")
local base_models = require "training.embedded.base_models"
local datasets = require "training.datasets"
local errors = require "riverlua.errors"
local pretrain = require("training.embedded.pretrain").pretrain

local has_trainer, trainer = pcall(require, "riverlua.core.trainer")

local function text_of(ids) return string.char(table.unpack(ids:table())) end

describe("pretrain", function()
  local path, engine
  before_each(function() path, engine = files.new_folder(), fake_engine.open(true) end)
  after_each(function() files.remove(path) end)

  local function make(options)
    options.name, options.folder = options.name or "mine/x", options.folder or path
    options.engine, options.progress = engine, options.progress or false
    return pretrain(options)
  end

  it("says that it is the configuration which cannot be", function()
    function engine.base() errors.raise{kind = "argument", message = "'width' is not a multiple of 'heads'"} end
    local ok, err = pcall(make, {text = "hello world", config = {width = 63}})
    assert.is_false(ok)
    assert.equal("argument", err.kind)
    assert.equal("pretrain: config: 'width' is not a multiple of 'heads'", err.message)
  end)

  it("learns windows of a text", function()
    local name, made = make{text = "hello world", steps = 4, batch = 8, window = 5, seed = 3}
    assert.equal("mine/x", name)
    assert.same({loss = 2, steps = 4, parameters = 3, path = path .. "/mine/x"}, made)
    assert.equal(32, #engine.examples)
    local seen = {}
    for _, columns in ipairs(engine.examples) do
      local window = text_of(columns.input_ids)
      assert.truthy(("hello world"):find(window, 1, true))
      seen[window] = true
      assert.same({1, 1, 1, 1, 0}, columns.weights:table())
    end
    for i = 1, 7 do assert.is_true(seen[("hello world"):sub(i, i + 4)]) end
  end)

  it("learns completions alone, each once before any comes again", function()
    local data = {}
    for i = 1, 6 do data[i] = {prompt = "q" .. i, completion = ("a"):rep(i)} end
    make{data = data, steps = 4, batch = 3}
    for round = 0, 1 do
      local seen = {}
      for i = 1, 6 do
        local columns = engine.examples[round * 6 + i]
        local n = tonumber(text_of(columns.input_ids):match("^q(%d)a+$"))
        seen[n] = true
        local weights = {0}
        for _ = 1, n do weights[#weights + 1] = 1 end
        weights[#weights + 1] = 0
        assert.same(weights, columns.weights:table())
      end
      assert.equal(6, #seen)
    end
    assert.is_true(engine.passes[1].options.gradients and engine.passes[1].options.clear)
    assert.equal("cross_entropy", engine.passes[1].options.loss)
  end)

  it("takes rows of a data set, and a text that is shorter than a window", function()
    make{data = datasets.from{{prompt = "a", completion = "b"}}, steps = 1, batch = 2}
    assert.equal(2, #engine.examples)
    make{text = "ab", steps = 1, batch = 1}
    assert.equal("ab", text_of(engine.examples[3].input_ids))
  end)

  it("divides by what is learned, and lets the rate rise and fall", function()
    make{data = {{prompt = "p", completion = "four"}}, steps = 100, batch = 2, lr = 0.01}
    local steps = engine.steps
    assert.equal(1 / 8, steps[1].scale)
    assert.near(0.01 / 20, steps[1].lr, 1e-12)
    assert.near(0.01, steps[20].lr, 1e-12)
    assert.near(0.0055, steps[60].lr, 1e-12)
    assert.near(0.001, steps[100].lr, 1e-12)
    assert.same({0.9, 0.99, 1e-8, 0, 1}, {steps[1].beta1, steps[1].beta2, steps[1].eps, steps[1].weight_decay,
      steps[1].clip})
    for _, count in ipairs{1, 2, 7} do
      engine.steps = {}
      make{data = {{prompt = "p", completion = "q"}}, steps = count}
      for _, step in ipairs(engine.steps) do assert.is_true(step.lr > 0 and step.lr <= 3e-3) end
    end
  end)

  it("makes a model that can be opened by its name, also when it is made again", function()
    make{name = "own", text = "abc", steps = 2,
      config = {width = 32, tied = true, context = 64, positions = "learned"}}
    local model = base_models.open("own")
    assert.equal(path .. "/local/own", model.path)
    assert.equal(32, model.config.width)
    assert.is_true(model.config.tied)
    assert.equal("learned", model.config.positions)
    assert.equal(264, model.config.hidden)
    assert.same(model.config, engine.config)
    assert.equal(2, model.tensors["head.weight"][2])
    assert.truthy(table.concat(base_models.list(), " "):find("own", 1, true))
    engine.steps = {}
    make{name = "own", text = "abc", steps = 3}
    assert.equal(3, base_models.open("own").tensors["head.weight"][2])
    -- another process finds it in the folder
    assert.equal(3, base_models.open("own", {folder = path}).tensors["head.weight"][2])
  end)

  it("keeps it in memory where there is no place", function()
    local result = files.servers.run(([[
      local engine = dofile(%q).open()
      local base_models = require "training.embedded.base_models"
      local name, made = require("training.embedded.pretrain").pretrain{name = "own", text = "abc", steps = 2,
        engine = engine}
      print(name, made.path, base_models.open("own").tensors["head.weight"][2])
      local ok, err = pcall(require("training.embedded.pretrain").pretrain, {name = "own", text = "abc", steps = 2,
        engine = engine, folder = "/proc/nowhere"})
      print(ok, err.kind)
    ]]):format(here .. "fake_engine.lua"), {environment = {HOME = "/proc/nowhere", XDG_CACHE_HOME = "",
      RIVERLUA_BASE_MODELS = ""}})
    assert.equal("own\tnil\t2.0\nfalse\tstorage\n", result.out, result.err)
  end)

  it("tells how far it is", function()
    local told = {}
    make{text = "abc", steps = 3, progress = function(step, loss) told[#told + 1] = {step, loss} end}
    assert.same({{1, 2}, {2, 2}, {3, 2}}, told)
  end)

  it("stops when the loss is no number any more", function()
    engine.finite = false
    files.refused("model", {"step 1", "smaller lr"}, make, {text = "abc"})
  end)

  it("refuses what cannot be", function()
    local function refused(text, options)
      files.refused("argument", {"pretrain", text}, make, options)
    end
    refused("either 'text' or 'data'", {})
    refused("either 'text' or 'data'", {text = "ab", data = {}})
    refused("did you mean 'steps'", {text = "ab", step = 3})
    refused("'steps' must be from 1 to 1000000, got 0", {text = "ab", steps = 0})
    refused("'steps' must be an integer", {text = "ab", steps = 1.5})
    refused("'batch' must be from 1", {text = "ab", batch = -1})
    refused("'lr' must be above 0", {text = "ab", lr = 0})
    refused("'lr' must be above 0", {text = "ab", lr = 0 / 0})
    refused("'lr' must be a number", {text = "ab", lr = "fast"})
    refused("'seed' must be an integer", {text = "ab", seed = "x"})
    refused("'folder' must be a string", {text = "ab", folder = 7})
    refused("'progress' must be", {text = "ab", progress = "yes"})
    refused("'window' must be from 2 to 1024", {text = "ab", window = 2000})
    refused("'window' is for a text", {data = {{prompt = "a", completion = "b"}}, window = 20})
    refused("'text' has 1 bytes", {text = "a"})
    refused("'text' must be a string", {text = 7})
    refused("'data' is empty", {data = {}})
    refused("'data' must be a table", {data = "ab"})
    refused("data[2] is a string", {data = {{prompt = "a", completion = "b"}, "ab"}})
    refused("data[1].completion must be a string, got nothing", {data = {{prompt = "a"}}})
    refused("data[1].prompt is empty", {data = {{prompt = "", completion = "b"}}})
    refused("data[1] has 1025 bytes, and the context is 1024", {data = {{prompt = ("a"):rep(1000),
      completion = ("b"):rep(25)}}})
    refused("byte 195, and the vocabulary ends at 127", {text = "é", config = {vocabulary = 128}})
    refused("data[1].completion has byte 255", {data = {{prompt = "a", completion = "\xff"}},
      config = {vocabulary = 128}})
    refused("did you mean 'width'", {text = "ab", config = {widht = 3}})
    refused("'width' must be an integer", {text = "ab", config = {width = 3.5}})
    refused("'tied' must be a boolean", {text = "ab", config = {tied = 1}})
    refused("'name' must be letters", {name = "../x", text = "ab"})
    refused("'name' must be letters", {name = "", text = "ab"})
    refused("'name' must be a string", {name = 7, text = "ab"})
    refused("embedded/", {name = "embedded/mine", text = "ab"})
    assert.same({}, engine.steps)
  end)
end)

if not has_trainer then return end

describe("pretrain with the trainer", function()
  local path
  before_each(function() path = files.new_folder() end)
  after_each(function() files.remove(path) end)

  local CONFIG = {width = 16, layers = 1, heads = 2, hidden = 32, context = 64}

  local function bytes_of(options)
    options.text = ("the cat sat on the mat. "):rep(20)
    options.name, options.folder, options.config, options.progress = "own", path, CONFIG, false
    options.steps, options.batch = options.steps or 30, 16
    local _, made = pretrain(options)
    return files.read(made.path .. "/model.safetensors"), made
  end

  it("gives one model for one seed, whatever the number of threads", function()
    local first, made = bytes_of{seed = 5}
    assert.is_true(made.loss < 5)
    assert.equal(first, (bytes_of{seed = 5}))
    assert.equal(first, (bytes_of{seed = 5, threads = 1}))
    assert.equal(first, (bytes_of{seed = 5, threads = 3}))
    assert.not_equal(first, (bytes_of{seed = 6}))
  end)

  it("learns the text", function()
    local _, made = bytes_of{seed = 1, steps = 200, lr = 1e-2}
    assert.is_true(made.loss < 0.5, made.loss)
    local engine <close> = trainer.open{}
    local model = base_models.open("own")
    local base = engine:base(model.config, model.tensors)
    local result = base:sample{{ids = {("the c"):byte(1, -1)}, max_tokens = 3, temperature = 0, seed = 1}}[1]
    assert.equal("at ", result.text:sub(1, 3))   -- as in "cat", and "mat" has a point
  end)

  it("refuses a configuration that the trainer has no layout for", function()
    files.refused("argument", {"'width' is not a multiple of 'heads'"}, pretrain, {name = "own", text = "ab",
      folder = path, config = {width = 15, heads = 4}, progress = false})
  end)
end)
