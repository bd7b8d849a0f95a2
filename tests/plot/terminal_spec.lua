--- riverlua.plot on the terminal: lines of dots, axes, legend.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local cli = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../cli/support.lua")
local plot = require "riverlua.plot"
local terminal = require "riverlua.terminal"

local PLAIN = {width = 40, height = 5, color = false, unicode = true}

local function drawn(options, how)
  local own = {}
  for name, value in pairs(PLAIN) do own[name] = value end
  for name, value in pairs(how or {}) do own[name] = value end
  return plot.line(options):terminal(own)
end

describe("chart:terminal", function()
  it("draws a line with axes, ticks, title and labels", function()
    assert.equal(table.concat({
      "   Reward",
      "   mean",
      "3 ┤                             ⢀⣀⡠⠤⠔⠒⠊⠉",
      "  │                     ⢀⣀⡠⠤⠔⠒⠊⠉⠁",
      "2 ┤              ⣀⣀⠤⠤⠒⠊⠉⠁",
      "  │      ⢀⣀⡠⠤⠔⠒⠊⠉",
      "1 ┤⣀⠤⠤⠒⠒⠉⠁",
      "  └┬─────────────────┬─────────────────┬",
      "   1                 2                 3",
      "                   step",
    }, "\n"), (drawn{title = "Reward", x_label = "step", y_label = "mean", series = {1, 2, 3}}))
  end)

  it("stays within its width, whatever is in it", function()
    local long, values = ("long "):rep(30), {}
    for i = 1, 3000 do values[i] = math.sin(i / 100) * 1e6 end
    for _, width in ipairs{24, 41, 80, 133} do
      for _, unicode in ipairs{true, false} do
        local text = drawn({title = long, x_label = long, y_label = long, series = {
          {name = long .. "1", y = values}, {name = "日本語", y = {1e6, -1e6}}, {name = "c", y = {5}},
        }}, {width = width, unicode = unicode})
        for _, line in ipairs(support.lines(text)) do
          assert.is_true(terminal.width(line) <= width, line)
        end
      end
    end
  end)

  it("is ASCII where there is nothing else", function()
    local text = drawn({title = "Größe…", series = {a = {1, 2, 3}, ["日"] = {3, 2, 1}}}, {unicode = false})
    assert.is_nil(text:find("[^\n\32-\126]"), text)
    assert.truthy(text:find("* a   + ?", 1, true), text)
  end)

  it("tells series apart by marks, and by colours where there are some", function()
    local options = {series = {{name = "first", y = {1, 2, 3}}, {name = "second", y = {3, 2, 1}}}}
    local text = drawn(options)
    assert.is_nil(text:find("\27", 1, true))
    local _, first = text:gsub("●", "")
    local _, second = text:gsub("○", "")
    assert.is_true(first > 2 and second > 2, text)
    assert.truthy(text:find("● first   ○ second", 1, true), text)
    local colorful = drawn(options, {color = true})
    assert.truthy(colorful:find("\27[36m●\27[0m first", 1, true), colorful)
    assert.truthy(colorful:find("\27[33m○\27[0m second", 1, true), colorful)
    assert.equal(text, (colorful:gsub("\27%[%d+m", "")))
  end)

  it("leaves gaps, and marks points that stand alone", function()
    local full, gap = drawn{series = {1, 1, 1, 1, 1, 1}}, drawn{series = {1, 1, 0 / 0, 1, nil, 1}}
    assert.not_equal(full, gap)
    assert.truthy(gap:find("●", 1, true), gap)
    assert.truthy(drawn{series = {5}}:find("●", 1, true))
  end)

  it("copes with equal, huge and tiny values, and none", function()
    for _, values in ipairs{{0, 0, 0}, {1e308, -1e308}, {5e-324, 1e-323}, {1e9, 1e9 + 1}, {-5, 5}, {1e-5, 3e-5},
      {math.huge, 1, -math.huge}, {2 ^ 53, 2 ^ 53}, {1.7976931348623157e308},
      {-1.7976931348623157e308, 1.7976931348623157e308}} do
      local text = drawn{series = values}
      assert.truthy(text:find("┤", 1, true), text)
      assert.is_nil(text:find("nan") or text:find("inf"), text)
    end
    assert.equal("(no data)", drawn{series = {}})
    assert.equal("t\n(no data)", drawn{title = "t", series = {a = {0 / 0}}})
    assert.equal("(no data)", drawn{rows = {}})
  end)

  it("shows what is between y_min and y_max", function()
    local text = drawn{series = {-1e9, 0.5, 1e9, 0.5}, y_min = 0, y_max = 1}
    assert.truthy(text:find("1.0 ┤", 1, true), text)
    assert.truthy(text:find("0.0 ┤", 1, true), text)
    assert.truthy(drawn{series = {5, 6}, y_max = 1}:find("┤", 1, true))   -- all is outside
  end)

  it("shows the extremes of very many points", function()
    local values = {}
    for i = 1, 100000 do values[i] = 0 end
    values[77777] = 100
    local list = support.lines((drawn{series = values}))
    assert.truthy(list[1]:find("[\xa0-\xa3][\x80-\xbf]"), table.concat(list, "\n"))
  end)

  it("lets no text steer the terminal", function()
    local text = drawn{title = "a\27[31mb\nc", series = {["x\27\r"] = {1, 2}, y = {2, 1}}}
    assert.is_nil(text:find("[\27\r]"), text)
  end)

  it("fits the terminal, whose colours it uses unless NO_COLOR is set", function()
    local folder <close> = cli.folder()
    -- the window has its size when the line comes
    local script = folder:write("plot.lua", [[
      io.read()
      local plot = require "riverlua.plot"
      plot.line{title = "Two", series = {a = {1, 2, 3}, b = {3, 2, 1}}}:print()
    ]])
    local function shown(env)
      local text, code = cli.terminal({cli.riverlua, script}, {{send = "\n"}, {expect = "b\r\n"}}, env)
      assert.equal(0, code, text)
      return text
    end
    local colorful = shown{LC_ALL = "C.UTF-8", TERM = "xterm", NO_COLOR = ""}
    assert.truthy(colorful:find("\27[1mTwo\27[0m", 1, true), colorful)
    assert.truthy(colorful:find("\27[36m", 1, true) and colorful:find("●", 1, true), colorful)
    local longest = 0
    for line in colorful:gsub("\27%[%d+m", ""):gmatch("[^\r\n]+") do
      longest = math.max(longest, terminal.width(line))
    end
    assert.equal(80, longest)
    for _, env in ipairs{{NO_COLOR = "1", TERM = "xterm"}, {TERM = "dumb", NO_COLOR = ""}} do
      env.LC_ALL = "C"
      local plain = shown(env)
      assert.is_nil(plain:find("[\27\128-\255]"), plain)
      assert.truthy(plain:find("* a   + b", 1, true), plain)
    end
  end)

  it("prints, and is text by itself", function()
    local chart = plot.line{series = {1, 2}}
    assert.truthy(tostring(chart):find("┤", 1, true) or tostring(chart):find("|", 1, true))
  end)

  it("refuses what it does not know", function()
    local chart = plot.line{series = {1, 2}}
    support.refuses("did you mean 'width'", chart.terminal, chart, {widht = 3})
    support.refuses("'width' must be an integer", chart.terminal, chart, {width = 3.5})
    support.refuses("call it with a colon", chart.terminal, {})
  end)
end)
