--- The examples, run as a user would: on `embedded:`, and on a real server with the same output.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
local examples = dofile(folder .. "support.lua")
local support = dofile(folder .. "../river/support.lua")

local run, has = examples.run, examples.has

-- What every place must print; names of models and durations differ.
local CHECKS = {
  ["river_quickstart.lua"] = function(text)
    has(text, "StandardScaler", "How the error went down", "samples │ approval", "running mean absolute error")
  end,
  ["river_tour.lua"] = function(text)
    local _, count = text:gsub("\nprediction ", "")
    assert.equal(10, count)
    has(text, "38.02 (it was 38.04)", "39.40 (it was 38.73)", "learned          100", '["SGD",{"lr":["Constant"',
      "StandardScaler | LinearRegression", "weight of ipsos", "events seen      5 learns, with labels from 4",
      "deleted ")
    assert.truthy(text:find('"MAE":7%.1838'), text)
  end,
  ["river_live_labels.lua"] = function(text)
    has(text, "500 visits, each label 20 visits late", "100 │ 72.0% │     39 │     19",
      "500 │ 83.6% │    205 │     43", "accuracy 0.836")
  end,
  ["river_watch.lua"] = function(text)
    local kinds = {predict = 0, learn = 0}
    for kind, truth in text:gmatch("(%a+) +watched +predicted %-?%d+%.%d%d%d([^\n]*)\n") do
      kinds[kind] = kinds[kind] + 1
      assert.equal(kind == "learn", truth:find("^, was %d+$") ~= nil)
    end
    assert.same({predict = 5, learn = 5}, kinds)
    has(text, "10 events, 0 dropped")
  end,
  ["river_move_model.lua"] = function(text)
    has(text, "on 200 samples", "feature         │ weight", "ordinal_date    │ 16.810 │ 736488.50",
      "all three predict the same", "50 of 50 predictions equal")
  end,
  ["river_compare.lua"] = function(text)
    has(text, "200 samples", "model              │", "gradient descent", "passive-aggressive", "Hoeffding tree",
      "smallest mean error: ", "● Hoeffding tree", "○ gradient descent", "▲ passive-aggressive")
  end,
}
local ARGUMENTS = {["river_compare.lua"] = "200"}

local names = {}
for name in pairs(CHECKS) do names[#names + 1] = name end
table.sort(names)

describe("the example on embedded:", function()
  for _, name in ipairs(names) do
    it(name, function() CHECKS[name](run(name, nil, ARGUMENTS[name])) end)
  end

  it("is checked, each of them", function()
    for name in require("lfs").dir("examples") do
      if name:find("^river_.*%.lua$") then assert.is_function(CHECKS[name], name) end
    end
  end)
end)

describe("the example on a real server", function()
  local server, other
  setup(function()
    server = support.start_server()
    other = support.start_server()
  end)
  teardown(function()
    if server then server.stop() end
    if other then other.stop() end
  end)

  for _, name in ipairs(names) do
    if name ~= "river_quickstart.lua" then
      it(name, function()
        local text = run(name, {RIVER_ML_URL = server.url, RIVER_ML_TARGET = other.url}, ARGUMENTS[name])
        CHECKS[name](text)
      end)
    end
  end

  it("compare prints the same table and plot in both places", function()
    local here, there = run("river_compare.lua", nil, "60"), run("river_compare.lua", {RIVER_ML_URL = server.url}, "60")
    assert.equal(here, there)
  end)

  it("a model trained on a server moves into this process", function()
    CHECKS["river_move_model.lua"](run("river_move_model.lua", {RIVER_ML_URL = server.url}))
  end)
end)
