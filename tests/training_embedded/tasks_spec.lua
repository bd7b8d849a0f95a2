--- The embedded trainer's tasks: data sets that are made here, and what base models learn first.

local files = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "files.lua")
local datasets = require "training.datasets"
local rewards = require "training.rewards"
local tasks = require "training.embedded.tasks"

local function sorted(digits)
  local list = {digits:byte(1, -1)}
  table.sort(list)
  return string.char(table.unpack(list))
end

describe("embedded/digits", function()
  it("has rows in the shape of GSM8K's, as many as GSM8K has", function()
    local train = datasets.load("embedded/digits", "main", {split = "train"})
    local test = datasets.load("embedded/digits", {split = "test"})
    assert.equal(7473, #train)
    assert.equal(1319, #test)
    assert.same({"question", "answer"}, train:columns())
    assert.same({source = "embedded/digits", split = "train"}, train:info())
    local seen = {}
    for _, rows in ipairs{train, test} do
      for _, row in ipairs(rows) do
        local digits = row.question:match("^s(%d%d%d%d)=$")
        assert.is_nil(seen[digits])
        seen[digits] = true
        assert.equal(("The digits of %s in order are %s.\n#### %s"):format(digits, sorted(digits), sorted(digits)),
          row.answer)
      end
    end
    assert.equal(1.0, rewards.boxed("\\boxed{" .. rewards.extract_gsm8k_answer(train[1].answer) .. "}",
      train[1].answer))
  end)

  it("is the same every time, in another order for each seed", function()
    local function first(options) return datasets.load("embedded/digits", options).question end
    assert.same(first{limit = 20}, first{rows = 20})
    assert.same(first{limit = 20, seed = 1}, first{limit = 20, seed = 1})
    assert.not_same(first{limit = 20, seed = 1}, first{limit = 20, seed = 2})
    assert.equal(8681, #first{rows = 8681})
    assert.equal("train", datasets.load("embedded/digits"):info().split)
  end)

  it("says what it has not", function()
    local function refused(text, ...) files.refused("argument", {text}, datasets.load, ...) end
    refused("no embedded data set 'embedded/letters'", "embedded/letters")
    refused("'split' is \"train\" or \"test\", got 'dev'", "embedded/digits", {split = "dev"})
    refused("no configuration 'socratic'", "embedded/digits", "socratic")
    refused("did you mean 'split'?", "embedded/digits", {splot = "test"})
    refused("'rows' must be from 1 to 8681, got 9000", "embedded/digits", {rows = 9000})
    refused("'rows' must be from 1 to 1319, got 2000", "embedded/digits", {split = "test", rows = 2000})
    refused("'limit' must be from 1", "embedded/digits", {limit = 0})
    refused("'rows' must be an integer", "embedded/digits", {rows = "all"})
    refused("'seed' must be an integer", "embedded/digits", {seed = 0.5})
  end)
end)

describe("what base models learn", function()
  it("is right and too long, or short and mostly a guess", function()
    local random, rambled, guessed, test = tasks.random(3), 0, 0, {}
    for _, row in ipairs(datasets.load("embedded/digits", {split = "test"})) do test[row.question] = true end
    for _ = 1, 2000 do
      local prompt, completion = tasks.rambling(random)
      local digits = prompt:match("^s(%d%d%d%d)=$")
      local thought, answer = completion:match("^(.-)\\boxed{(%d+)}\n$")
      assert.equal(sorted(digits), answer)
      assert.is_true(thought == "" or thought == "so we have " .. digits .. " now ")
      if thought ~= "" then rambled = rambled + 1 end
      assert.is_nil(test[prompt])
      prompt, completion = tasks.guessing(random)
      digits = prompt:match("^s(%d%d%d%d)=$")
      assert.equal(sorted(digits), sorted(completion:match("^(%d%d%d%d)\n$")))
      if completion ~= sorted(digits) .. "\n" then guessed = guessed + 1 end
      assert.is_nil(test[prompt])
    end
    assert.is_true(rambled > 1400 and rambled < 1600, rambled)
    assert.is_true(guessed > 1200 and guessed < 1400, guessed)   -- a shuffle may leave them in order
  end)

  it("comes from the numbers of the engine's generator", function()
    -- as src/trainer/random.h gives them: rvl_random_of(42), three times rvl_random_next
    local random = tasks.random(42)
    local numbers = {}
    for i = 1, 3 do
      numbers[i] = ("%.17g"):format(random:uniform())
    end
    assert.same({"0.54933232761556605", "0.90299488257837834", "0.919463117609856"}, numbers)
    for _ = 1, 1000 do
      local n = random:below(3)
      assert.is_true(math.type(n) == "integer" and n >= 1 and n <= 3)
    end
  end)
end)
