-- riverlua.chart and riverlua.terminal: text that people look at.

local chart = require("riverlua.chart")
local terminal = require("riverlua.terminal")

local function lines(text)
  local list = {}
  for line in (text .. "\n"):gmatch("(.-)\n") do list[#list + 1] = line end
  return list
end

describe("terminal", function()
  it("counts columns", function()
    assert.equal(3, terminal.width("abc"))
    assert.equal(2, terminal.width("é→"))
    assert.equal(4, terminal.width("日本"))
    assert.equal(1, terminal.width("e\u{301}"))
    assert.equal(2, terminal.width("\xff\xfe"))
  end)
  it("pads and clips by columns", function()
    assert.equal("日 |", terminal.pad("日", 3) .. "|")
    assert.equal("  a", terminal.pad("a", 3, "right"))
    assert.equal(" a  ", terminal.pad("a", 4, "center"))
    assert.equal("ab…", terminal.clip("abcd", 3))
    assert.equal("日…", terminal.clip("日本語", 4))
    assert.equal("abc", terminal.clip("abc", 3))
  end)
  it("knows that a pipe is no terminal", function()
    assert.is_false(require("riverlua.core.terminal").isatty(99))
    assert.is_nil(require("riverlua.core.terminal").size(99))
  end)
end)

describe("chart.table", function()
  it("lists with titles", function()
    assert.equal(table.concat({
      "model    │  mae │  n",
      "─────────┼──────┼───",
      "linear   │ 0.12 │ 10",
      "logistic │  0.4 │  5",
    }, "\n"), chart.table({{"linear", 0.12, 10}, {"logistic", 0.4, 5}}, {columns = {"model", "mae", "n"}}))
  end)
  it("records, formats, missing values", function()
    assert.equal(table.concat({
      "Results",
      "name │   MAE",
      "─────┼──────",
      "a    │ 0.500",
      "b    │",
    }, "\n"), chart.table({{name = "a", mae = 0.5}, {name = "b"}},
      {title = "Results", columns = {"name", {key = "mae", title = "MAE", format = "%.3f"}}}))
  end)
  it("without titles, and alignment by hand", function()
    assert.equal("x   │ 1\nyyy │ 2", chart.table({{"x", 1}, {"yyy", 2}}))
    assert.equal("  x\nyyy", chart.table({{"x"}, {"yyy"}}, {align = {"right"}}))
  end)
  it("nothing", function()
    assert.equal("", chart.table({}))
    assert.equal("a │ b\n──┼──", chart.table({}, {columns = {"a", "b"}}))
  end)
end)

describe("chart.line", function()
  it("draws a straight line corner to corner", function()
    local text = chart.line{series = {y = {0, 1, 2, 3}}, width = 24, height = 4}
    local list = lines(text)
    assert.equal("y", list[1]:match("%S+"))
    -- One dot at the left of the bottom row, one at the right of the top row.
    assert.truthy(list[2]:find("[\xa0-\xa3][\x80-\xbf]$") and not list[2]:find("┤[^ ]"), text)
    assert.truthy(list[5]:find("┤[^ ]"), text)
    for _, line in ipairs(list) do assert.is_true(terminal.width(line) <= 24, line) end
    assert.truthy(text:find("└"))
  end)
  it("is the same every time and stays within its width", function()
    local values = {}
    for i = 1, 1000 do values[i] = math.sin(i / 50) end
    local options = {series = {a = values, b = {{1, 0}, {1000, 1}}}, title = "t", x_label = "n", y_label = "v",
      width = 60}
    local text = chart.line(options)
    assert.equal(text, chart.line(options))
    for _, line in ipairs(lines(text)) do assert.is_true(terminal.width(line) <= 60, line) end
    assert.truthy(text:find("● a   ○ b", 1, true))
  end)
  it("leaves gaps where values are not finite", function()
    local full = chart.line{series = {y = {1, 1, 1, 1, 1}}, width = 30, height = 3}
    local gap = chart.line{series = {y = {1, 1, 0 / 0, 1, 1}}, width = 30, height = 3}
    assert.not_equal(full, gap)
    assert.truthy(chart.line{series = {y = {1, math.huge, 2}}, width = 30, height = 3})
  end)
  it("copes with one point, equal values, huge and tiny ranges, no data", function()
    for _, values in ipairs{{5}, {0, 0, 0}, {1e300, -1e300}, {1e-300, 2e-300}, {1e9, 1e9 + 1}, {-5, 5}} do
      local text = chart.line{series = {y = values}, width = 40, height = 5}
      assert.truthy(text:find("┤"), text)
    end
    assert.equal("(no data)", chart.line{series = {}})
    assert.equal("t\n(no data)", chart.line{title = "t", series = {y = {}}})
  end)
  it("refuses what it does not know", function()
    assert.error_matches(function() chart.line{series = {}, widht = 3} end, "did you mean 'width'")
    assert.has_error(function() chart.line{} end)
  end)
end)
