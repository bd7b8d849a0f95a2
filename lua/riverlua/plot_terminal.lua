--- Line charts as text: braille dots, or ASCII where the terminal has no more.

local errors = require "riverlua.errors"
local series = require "riverlua.plot_series"
local terminal = require "riverlua.terminal"

local plot_terminal = {}

local WIDTH, HEIGHT = 80, 14
local LEAST_WIDTH, LEAST_HEIGHT = 24, 3
local OPTIONS = {width = "integer|nil", height = "integer|nil", color = "boolean|nil", unicode = "boolean|nil"}

-- What lines and axes are drawn with. Marks tell series apart where there are no colours, or for whom they look
-- alike.
local UNICODE = {marks = {"●", "○", "▲", "△", "■", "□", "◆", "◇"}, tick = " ┤", side = " │", corner = " └",
  rule = "─", rule_tick = "┬"}
local ASCII = {marks = {"*", "+", "o", "x", "#", "@", "%", "&"}, tick = " |", side = " |", corner = " +",
  rule = "-", rule_tick = "+"}
-- Dots of a braille character: two across, four down.
local DOTS = {[0] = {[0] = 0x40, 0x04, 0x02, 0x01}, {[0] = 0x80, 0x20, 0x10, 0x08}}
local COLORS = {36, 33, 35, 32, 31, 34}   -- cyan, yellow, magenta, green, red, blue
local BOLD, DIM = 1, 2

local function rounded(value) return math.floor(value + 0.5) end

-- Text that cannot do anything to a terminal.
local function shown(text) return text and (text:gsub("%c+", " "):gsub("\xc2[\x80-\x9f]", " ")) end

local function item(list, i) return list[(i - 1) % #list + 1] end

-- ---- the area -----------------------------------------------------------------------------------------------

-- Calls set(x, y) for each point of a grid on the way along a line.
local function trace(line, columns, rows, set)
  local x1, y1
  for i = 1, #line, 2 do
    local x2, y2 = rounded(line[i] * (columns - 1)), rounded(line[i + 1] * (rows - 1))
    local steps = x1 and math.max(math.abs(x2 - x1), math.abs(y2 - y1)) or 0
    for k = steps == 0 and 0 or 1, steps do
      local at = steps == 0 and 0 or k / steps
      set(rounded((x1 or x2) + (x2 - (x1 or x2)) * at), rounded((y1 or y2) + (y2 - (y1 or y2)) * at))
    end
    if not x1 then set(x2, y2) end
    x1, y1 = x2, y2
  end
end

---@class riverlua.plot.Area
---@field width integer in characters
---@field height integer
---@field text table<integer, string> characters by place
---@field owner table<integer, integer> series by place

-- Puts a series on the area with braille dots; returns where it is in each column.
local function draw_braille(area, bits, lines, number)
  local seen = {}
  for _, line in ipairs(lines) do
    trace(line, area.width * 2, area.height * 4, function(x, y)
      local column = x // 2
      local at = (area.height - 1 - y // 4) * area.width + column
      bits[at] = (bits[at] or 0) | DOTS[x % 2][y % 4]
      area.text[at], area.owner[at] = utf8.char(0x2800 + bits[at]), number
      seen[column] = at
    end)
  end
  return seen
end

local function draw_marks(area, mark, lines, number)
  for _, line in ipairs(lines) do
    trace(line, area.width, area.height, function(x, y)
      local at = (area.height - 1 - y) * area.width + x
      area.text[at], area.owner[at] = mark, number
    end)
  end
end

-- Marks on the lines, now and then, so that one is not taken for the other.
local function mark_lines(area, seen, marks, count)
  local period = math.max(8, 4 * count)
  for number = 1, count do
    local phase, marked, first = (number - 1) * period // count + 1, false, nil
    for column = 0, area.width - 1 do
      local at = seen[number][column]
      first = first or at
      if at and column % period == phase % period then
        area.text[at], area.owner[at], marked = item(marks, number), number, true
      end
    end
    if not marked and first then area.text[first], area.owner[first] = item(marks, number), number end
  end
end

-- Points that stand alone would be a single dot.
local function mark_points(area, lines, mark, number)
  for _, line in ipairs(lines) do
    if #line == 2 then
      local x, y = rounded(line[1] * (area.width - 1)), rounded(line[2] * (area.height - 1))
      local at = (area.height - 1 - y) * area.width + x
      area.text[at], area.owner[at] = mark, number
    end
  end
end

local function paint(chart, axes, width, height, signs)
  local area = {width = width, height = height, text = {}, owner = {}}
  local bits, seen = {}, {}
  local count = #chart.series
  for number, one in ipairs(chart.series) do
    local fine = signs == UNICODE and 2 or 1
    local lines = series.lines(one, axes.x, axes.y, width * fine)
    if signs == UNICODE then
      seen[number] = draw_braille(area, bits, lines, number)
      if count == 1 then mark_points(area, lines, signs.marks[1], number) end
    else
      draw_marks(area, item(signs.marks, number), lines, number)
    end
  end
  if signs == UNICODE and count > 1 then mark_lines(area, seen, signs.marks, count) end
  return area
end

-- ---- lines of text ------------------------------------------------------------------------------------------

local function painter(color)
  if not color then return function(text) return text end end
  return function(text, code) return ("\27[%dm%s\27[0m"):format(code, text) end
end

-- A row of the area; neighbours of one colour share it.
local function area_row(area, row, dye)
  local parts, run, owner = {}, {}, nil
  local function flush()
    if #run == 0 then return end
    local text = table.concat(run)
    parts[#parts + 1] = owner and dye(text, item(COLORS, owner)) or text
    run = {}
  end
  for column = 0, area.width - 1 do
    local at = row * area.width + column
    if area.owner[at] ~= owner then
      flush()
      owner = area.owner[at]
    end
    run[#run + 1] = area.text[at] or " "
  end
  if owner then flush() end   -- not blanks at the end
  return table.concat(parts)
end

-- Labels of the vertical axis by row from the top, and the columns they take.
local function y_labels(axis, height)
  local labels, gutter = {}, 0
  for i, tick in ipairs(axis.ticks) do
    local row = height - 1 - rounded(axis:at(tick) * (height - 1))
    labels[row] = labels[row] or axis.labels[i]
    gutter = math.max(gutter, #axis.labels[i])
  end
  return labels, gutter
end

-- The horizontal axis: a rule with marks, and the numbers below them.
local function x_axis(axis, width, signs)
  local rule, numbers = {}, ""
  for column = 1, width do rule[column] = signs.rule end
  local free = -2   -- first column of the area that no number covers
  for i, tick in ipairs(axis.ticks) do
    local column, text = rounded(axis:at(tick) * (width - 1)), axis.labels[i]
    local start = math.max(-2, math.min(column - #text // 2, width - #text))
    if start >= free then
      rule[column + 1] = signs.rule_tick
      numbers = terminal.pad(numbers, 2 + start) .. text
      free = start + #text + 2
    end
  end
  return table.concat(rule), numbers
end

-- Names behind their marks, as many in a line as there is room for.
local function legend(chart, width, signs, dye)
  local lines, line, used = {}, "", 0
  for number, one in ipairs(chart.series) do
    local mark = item(signs.marks, number)
    local name = terminal.clip(shown(one.name), width - 2)
    local room = 2 + terminal.width(name)
    if used > 0 and used + 3 + room > width then
      lines[#lines + 1], line, used = line, "", 0
    end
    if used > 0 then line, used = line .. "   ", used + 3 end
    line, used = line .. dye(mark, item(COLORS, number)) .. " " .. name, used + room
  end
  if used > 0 then lines[#lines + 1] = line end
  return lines
end

local function draw(chart, options)
  local signs = options.unicode and UNICODE or ASCII
  local dye = painter(options.color)
  local lines = {}
  local x, y = chart:axes(math.max(2, options.width // 12), math.max(2, options.height // 4))
  if not x then
    if chart.title then lines[1] = dye(terminal.clip(shown(chart.title), options.width), BOLD) end
    lines[#lines + 1] = "(no data)"
    return lines
  end
  local labels, gutter = y_labels(y, options.height)
  local width = math.max(10, options.width - gutter - 2)
  local margin = (" "):rep(gutter + 2)
  local function head(text, code)
    if text then lines[#lines + 1] = margin .. dye(terminal.clip(shown(text), width), code) end
  end
  head(chart.title, BOLD)
  head(chart.y_label, DIM)
  local area = paint(chart, {x = x, y = y}, width, options.height, signs)
  for row = 0, options.height - 1 do
    local label = labels[row]
    local front = terminal.pad(label or "", gutter, "right") .. (label and signs.tick or signs.side)
    lines[#lines + 1] = dye(front, DIM) .. area_row(area, row, dye)
  end
  local rule, numbers = x_axis(x, width, signs)
  lines[#lines + 1] = dye((" "):rep(gutter) .. signs.corner .. rule, DIM)
  lines[#lines + 1] = dye((" "):rep(gutter) .. numbers, DIM)
  if chart.x_label then
    local label = terminal.clip(shown(chart.x_label), width)
    lines[#lines + 1] = margin .. (" "):rep((width - terminal.width(label)) // 2) .. dye(label, DIM)
  end
  if #chart.series > 1 then
    for _, line in ipairs(legend(chart, width, signs, dye)) do lines[#lines + 1] = margin .. line end
  end
  return lines
end

-- What is not told, as the terminal is.
local function defaults(options)
  local own = {}
  for name, value in pairs(options) do own[name] = value end
  local columns, rows = terminal.size("stdout")
  own.width = math.max(LEAST_WIDTH, own.width or columns and math.min(columns, 160) or WIDTH)
  own.height = math.max(LEAST_HEIGHT, own.height or rows and math.min(HEIGHT, rows - 7) or HEIGHT)
  if own.color == nil then
    own.color = terminal.is_terminal("stdout") and os.getenv("TERM") ~= "dumb"
      and (os.getenv("NO_COLOR") or "") == ""
  end
  if own.unicode == nil then own.unicode = terminal.is_utf8() end
  return own
end

--- See riverlua.plot, `chart:terminal`.
---@param chart riverlua.plot.Chart
---@param options table|nil
---@return string
function plot_terminal.render(chart, options)
  options = errors.expect("chart:terminal", "options", options or {}, "table")
  errors.check_options("chart:terminal", options, OPTIONS)
  for name, wanted in pairs(OPTIONS) do errors.expect("chart:terminal", name, options[name], wanted) end
  options = defaults(options)
  local text = table.concat(draw(chart, options), "\n")
  if options.unicode then return text end
  return (text:gsub("…", "~"):gsub("[\xc2-\xf4][\x80-\xbf]+", "?"):gsub("[\x80-\xff]", "?"))
end

return plot_terminal
