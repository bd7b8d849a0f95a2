--- riverlua.plot: what a chart is made of, and the files it is saved as.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local array = require "riverlua.array"
local json = require "riverlua.json"
local plot = require "riverlua.plot"
local plot_series = require "riverlua.plot_series"
local plot_scale = require "riverlua.plot_scale"

local NAN = 0 / 0

-- Series as {name, {x, y}, …}; a gap is "-".
local function points(chart)
  local list = {}
  for i, one in ipairs(chart.series) do
    list[i] = {one.name}
    for k = 1, one.count do
      list[i][k + 1] = one.ys[k] == one.ys[k] and {one.xs[k], one.ys[k]} or "-"
    end
  end
  return list
end

describe("plot.line", function()
  it("takes series in every form", function()
    assert.same({{"", {1, 5}, {2, 6}}}, points(plot.line{series = {5, 6}}))
    assert.same({{"", {1, 5}, {2, 6}}}, points(plot.line{series = array.float32{5, 6}}))
    assert.same({{"b", {1, 5}}, {"a", {3, 6}}},
      points(plot.line{series = {{name = "b", y = {5}}, {name = "a", x = {3}, y = {6}}}}))
    assert.same({{"a", {1, 1}, {2, 2}}, {"b", {10, 3}, {20, 4}}, {"c", {5, 6}}}, points(plot.line{series = {
      b = {x = array.int32{10, 20}, y = array.float64{3, 4}}, a = {1, 2}, c = {{5, 6}}}}))
    assert.same({{"series 1", {1, 1}}, {"series 2", {1, 2}}}, points(plot.line{series = {{1}, {2}}}))
    assert.same({}, points(plot.line{series = {}}))
  end)

  it("takes nil, null, NaN and infinities as gaps", function()
    assert.same({{"", {1, 1}, "-", "-", {4, 4}, "-", "-", {7, 7}}},
      points(plot.line{series = {1, NAN, math.huge, 4, nil, json.null, 7}}))
    assert.same({{"", "-", {2, 2}}}, points(plot.line{series = {nil, 2}}))
    assert.same({{"a", "-", {2, 2}}}, points(plot.line{series = {a = {x = {NAN, 2}, y = {1, 2}}}}))
  end)

  it("takes rows of JSON Lines", function()
    local rows = {}
    local text = '{"step":1,"loss":3.5,"note":"first"}\n{"step":2,"loss":null,"reward/mean":0.25}\n'
      .. '{"step":3,"loss":2.5,"reward/mean":0.5}\n'
    for line in text:gmatch("[^\n]+") do rows[#rows + 1] = json.decode(line) end
    local chart = plot.line{rows = rows}
    assert.same({{"loss", {1, 3.5}, "-", {3, 2.5}}, {"reward/mean", {2, 0.25}, {3, 0.5}}}, points(chart))
    assert.equal("step", chart.x_label)
    assert.same({{"loss", {1, 3.5}, "-", {3, 2.5}}}, points(plot.line{rows = rows, y = "loss"}))
    assert.same({{"step", {1, 1}, {2, 2}}}, points(plot.line{rows = {{step = 1}, {step = 2}}, y = {"step"}}))
    local other = plot.line{rows = rows, x = "reward/mean", y = {"loss"}}
    assert.same({{"loss", "-", {0.5, 2.5}}}, points(other))
    assert.same({{"a", {1, 5}, {2, 6}}}, points(plot.line{rows = {{a = 5}, {a = 6}}}))
    assert.same({}, points(plot.line{rows = {}}))
  end)

  it("names its axes", function()
    assert.equal("loss", plot.line{series = {loss = {1}}}.y_label)
    assert.equal("nats", plot.line{series = {loss = {1}}, y_label = "nats"}.y_label)
    assert.is_nil(plot.line{series = {a = {1}, b = {1}}}.y_label)
    assert.is_nil(plot.line{series = {1}}.y_label)
  end)

  it("refuses what it cannot draw", function()
    for words, options in pairs{
      ["there are no series"] = {}, ["not both"] = {series = {}, rows = {}},
      ["did you mean 'title'"] = {series = {}, titel = "t"},
      ["'title' must be a string"] = {series = {}, title = 1},
      ["series[2] must be a number, got a string"] = {series = {1, "2"}},
      ["series[1].y[2] must be a number, got a boolean"] = {series = {{name = "a", y = {1, true}}}},
      ["series['a'] must be a list of numbers, got a string"] = {series = {a = "1 2"}},
      ["series['a'].x has 1 values, and y has 2"] = {series = {a = {x = {1}, y = {1, 2}}}},
      ["series['a'].x must be a list of numbers"] = {series = {a = {x = 5, y = {1}}}},
      ["series['a'] has 2 values, and the last one has the index 1700000000"] = {series = {a = {1, [1700000000] = 2}}},
      ["did you mean 'name'"] = {series = {{nam = "a", y = {1}}}},
      ["which is no text"] = {series = {[true] = {1}}},
      ["must be a list of numbers, got a number"] = {series = {{name = "a", y = 1}}},
      ["no row has 'los' (hint: did you mean 'loss'?)"] = {rows = {{loss = 1}}, y = "los"},
      ["no row has 'epoch'"] = {rows = {{loss = 1}}, x = "epoch"},
      ["rows: 'loss'[1] must be a number, got a string"] = {rows = {{loss = "1"}}, y = "loss"},
      ["rows[2] must be a table"] = {rows = {{a = 1}, 2}},
      ["x and y name fields of rows"] = {series = {1}, x = "step"},
      ["y_min must be below y_max"] = {series = {1}, y_min = 1, y_max = 1},
      ["y_min must be a finite number"] = {series = {1}, y_min = NAN},
      ["width must be from 120 to 10000 pixels"] = {series = {1}, width = 50},
    } do support.refuses(words, plot.line, options) end
    support.refuses("'options' must be a table, got nothing", plot.line)
  end)
end)

describe("axes", function()
  local function axis(low, high, options)
    options = options or {}
    options.count = options.count or 5
    return plot_scale.axis(low, high, options)
  end

  it("have round ticks and short labels", function()
    for labels, given in pairs{
      ["0 5 10 15 20 25"] = {1, 29, {round = true}}, ["0.2 0.4 0.6 0.8 1.0"] = {0.24, 0.97, {round = true}},
      ["5 10 15 20 25"] = {1, 29}, ["1 2 3"] = {1, 3, {integers = true, count = 10}},
      ["-2e6 -1e6 0 1e6 2e6"] = {-2e6, 2e6, {count = 4}}, ["1.5e-5 2e-5 2.5e-5"] = {1.2e-5, 2.6e-5, {count = 3}},
      ["1000000 1000001"] = {1000000, 1000001, {count = 1}}, ["0 1 2"] = {1, 1, {integers = true, count = 2}},
    } do
      local list = axis(given[1], given[2], given[3]).labels
      if given[1] == 1 and given[2] == 29 and given[3] then table.remove(list) end   -- 30
      assert.equal(labels, table.concat(list, " "))
    end
  end)

  it("hold every value that a number can be", function()
    local most, least = 1.7976931348623157e308, 5e-324
    for _, pair in ipairs{{-most, most}, {most, most}, {0, least}, {least, least}, {0, 0}, {-1e300, 1e-300},
      {1e15, 1e15 + 1}, {2 ^ 53, 2 ^ 53 + 2}, {1, 1 + 2 ^ -52}, {most / 2, most}} do
      for _, options in ipairs{{}, {round = true}, {integers = true}, {low = 0}, {high = 1}, {count = 200}} do
        local own = {count = options.count or 5}
        for name, value in pairs(options) do own[name] = value end
        local one = plot_scale.axis(pair[1], pair[2], own)
        assert.is_true(one.low < one.high and #one.ticks < 1000)
        for i, tick in ipairs(one.ticks) do
          local at = one:at(tick)
          assert.is_true(at > -0.01 and at < 1.01, ("%g at %g"):format(tick, at))
          assert.is_true(#one.labels[i] < 30, one.labels[i])
          assert.is_nil(one.labels[i]:find("n"), one.labels[i])
        end
      end
    end
  end)
end)

describe("very many points", function()
  it("are drawn by the extremes of each column", function()
    local values = {}
    for i = 1, 100000 do values[i] = i % 1000 end
    values[500] = -5000
    values[99001] = 5000
    local one = plot.line{series = values}.series[1]
    local x_axis = plot_scale.axis(1, 100000, {count = 5})
    local visible = plot_series.visible(one, x_axis, 100)
    assert.is_true(#visible <= 4 * 101)
    local seen = {}
    for k, i in ipairs(visible) do
      seen[i] = true
      assert.is_true(k == 1 or visible[k] > visible[k - 1])
    end
    assert.is_true(seen[1] and seen[500] and seen[99001] and seen[100000])
    assert.is_true(#plot.line{series = values}:svg() < 60000)
    assert.is_true(#plot.line{series = values}:html() < 200000)
  end)

  it("keep their gaps", function()
    local values = {}
    for i = 1, 10000 do values[i] = i end
    for i = 4000, 6000 do values[i] = NAN end
    local chart = plot.line{series = values}
    local lines = plot_series.lines(chart.series[1], plot_scale.axis(1, 10000, {count = 5}),
      plot_scale.axis(1, 10000, {count = 5}), 100)
    assert.equal(2, #lines)
  end)
end)

describe("chart:save", function()
  it("writes what the name ends in, as a whole", function()
    local folder <close> = support.folder()
    local chart = plot.line{series = {loss = {3, 2, 1}}}
    local path = folder.path .. "/deep/er/loss"
    assert.equal(chart, chart:save(path .. ".svg"))
    chart:save(path .. ".html"):save(path .. ".HTM"):save(path .. ".txt"):save(path .. ".txt")
    assert.equal(chart:svg(), support.read(path .. ".svg"))
    assert.equal(chart:html(), support.read(path .. ".html"))
    assert.equal(chart:html(), support.read(path .. ".HTM"))
    local text = support.read(path .. ".txt")
    assert.truthy(text:find("┤", 1, true) and text:find("\n$"))
    local names = require("riverlua.core.folder").list(folder.path .. "/deep/er")
    assert.equal(4, #names)
  end)

  it("says what it cannot do", function()
    local chart = plot.line{series = {1}}
    support.refuses("ends in none of .svg, .html, .txt", chart.save, chart, "loss.png")
    support.refuses("ends in none of", chart.save, chart, "loss")
    support.refuses("'path' must be a string", chart.save, chart)
    local ok, err = pcall(chart.save, chart, "/dev/null/loss.svg")
    assert.is_false(ok)
    assert.equal("storage", err.kind)
  end)
end)
