--- Tables and line plots as text.
--
--     print(chart.line{title = "running error", series = {mae = errors}, x_label = "samples"})
--     print(chart.table({{"linear", 0.12}, {"logistic", 0.4}}, {columns = {"model", "mae"}}))

local terminal = require("riverlua.terminal")
local errors = require("riverlua.errors")

local chart = {}

-- ---------------------------------------------------------------------------------------------------------
-- Tables

local function show_cell(value, format)
  if value == nil then return "" end
  if type(format) == "function" then return tostring(format(value)) end
  if format and type(value) == "number" then return format:format(value) end
  if math.type(value) == "float" then return ("%.6g"):format(value) end
  return (tostring(value):gsub("%c+", " "))
end

-- The columns as records {key=, title=, align=, format=}.
local function table_columns(rows, options)
  local columns = {}
  if options.columns then
    local records = rows[1] and rows[1][1] == nil and next(rows[1]) ~= nil
    for i, column in ipairs(options.columns) do
      if type(column) ~= "table" then column = {title = tostring(column), key = records and column or i} end
      columns[i] = {key = column.key or (records and column.title) or i, title = column.title or tostring(column.key),
        align = column.align, format = column.format}
    end
  else
    local count = 0
    for _, row in ipairs(rows) do count = math.max(count, #row) end
    for i = 1, count do columns[i] = {key = i} end
  end
  for i, align in pairs(options.align or {}) do
    if columns[i] then columns[i].align = align end
  end
  return columns
end

-- A column stands right when every value in it is a number.
local function natural_alignment(rows, key)
  local numbers = false
  for _, row in ipairs(rows) do
    local value = row[key]
    if type(value) == "number" then numbers = true elseif value ~= nil then return "left" end
  end
  return numbers and "right" or "left"
end

local TABLE_OPTIONS = {columns = true, align = true, title = true}

--- Lays rows out in columns.
---@param rows table[] lists of values, or records when `columns` names their fields
---@param options table|nil `columns`: titles (for records: field names), or records {key=, title=, align=, format=
--- ("%.3f" or a function)}; `align`: list of "left", "right", "center" (default: numbers right); `title`
---@return string # without a line break at the end
function chart.table(rows, options)
  options = options or {}
  errors.check_options("chart.table", options, TABLE_OPTIONS)
  local columns = table_columns(rows, options)
  local texts = {}
  for i, column in ipairs(columns) do
    column.width = column.title and terminal.width(column.title) or 0
    column.align = column.align or natural_alignment(rows, column.key)
    for r, row in ipairs(rows) do
      texts[r] = texts[r] or {}
      texts[r][i] = show_cell(row[column.key], column.format)
      column.width = math.max(column.width, terminal.width(texts[r][i]))
    end
  end
  local lines = {}
  local function add(cells)
    for i, column in ipairs(columns) do cells[i] = terminal.pad(cells[i], column.width, column.align) end
    lines[#lines + 1] = table.concat(cells, " │ "):gsub("%s+$", "")
  end
  if options.title then lines[1] = options.title end
  if options.columns then
    local titles, rules = {}, {}
    for i, column in ipairs(columns) do
      titles[i] = column.title
      rules[i] = ("─"):rep(column.width)
    end
    add(titles)
    lines[#lines + 1] = table.concat(rules, "─┼─")
  end
  for r = 1, #rows do add(texts[r] or {}) end
  return table.concat(lines, "\n")
end

-- ---------------------------------------------------------------------------------------------------------
-- Line plots

-- One series is drawn with braille dots, two across and four down in each character; several need different marks.
local MARKS = {"●", "○", "▲", "△", "■", "□", "◆", "◇", "+", "×"}
local DOTS = {[0] = {0x01, 0x02, 0x04, 0x40}, {0x08, 0x10, 0x20, 0x80}}

local function finite(value)
  return type(value) == "number" and value == value and value ~= math.huge and value ~= -math.huge
end

-- Points of a series: {x = {…}, y = {…}} or a list of values, of points {x, y}. Gaps where a value is not finite.
local function points_of(series)
  local points = {}
  local ys, xs = series.y or series, series.x
  local last = 0
  for i in pairs(ys) do
    if math.type(i) == "integer" and i > last then last = i end
  end
  for i = 1, last do
    local y, x = ys[i], xs and xs[i] or i
    if type(y) == "table" then x, y = y[1], y[2] end
    points[i] = finite(x) and finite(y) and {x = x, y = y} or false
  end
  return points
end

-- The series by name, each {name=, points=}.
local function all_series(given)
  local list = {}
  for name, series in pairs(given) do list[#list + 1] = {name = tostring(name), points = points_of(series)} end
  table.sort(list, function(a, b) return a.name < b.name end)
  return list
end

local function range_of(list, axis)
  local low, high = math.huge, -math.huge
  for _, series in ipairs(list) do
    for _, point in ipairs(series.points) do
      if point then
        low, high = math.min(low, point[axis]), math.max(high, point[axis])
      end
    end
  end
  return low, high
end

-- The nearest of 1, 2, 5 times a power of ten that is not below `value`.
local function nice_step(value)
  local power = 10.0 ^ math.floor(math.log(value, 10))
  for _, factor in ipairs{1, 2, 5} do
    if factor * power >= value * (1 - 1e-9) then return factor * power end
  end
  return 10 * power
end

-- Round numbers within a range, about `count` of them, and a format that tells them apart.
local function ticks_of(low, high, count)
  local step = nice_step((high - low) / count)
  local ticks = {}
  local first = math.ceil(low / step - 1e-9)
  for i = first, math.floor(high / step + 1e-9) do ticks[#ticks + 1] = i * step end
  local digits = math.max(0, -math.floor(math.log(step, 10) + 1e-9))
  local largest = math.max(math.abs(low), math.abs(high))
  if digits > 6 or largest >= 1e7 then return ticks, "%.3g" end
  return ticks, "%." .. digits .. "f"
end

-- A range that is not a single point.
local function widen(low, high)
  if low < high then return low, high end
  local by = math.abs(low) * 0.1
  if by == 0 then by = 1 end
  return low - by, high + by
end

local function rounded(value)
  return math.floor(value + 0.5)
end

-- Calls set(x, y) for each grid point on the way from one point to another.
local function draw_line(x1, y1, x2, y2, set)
  local steps = math.max(math.abs(x2 - x1), math.abs(y2 - y1))
  for i = 0, steps do
    local at = steps == 0 and 0 or i / steps
    set(rounded(x1 + (x2 - x1) * at), rounded(y1 + (y2 - y1) * at))
  end
end

-- Draws a series on a grid of `columns` × `rows` points, y upwards from 0.
local function draw_series(points, scale, columns, rows, set)
  local before
  for _, point in ipairs(points) do
    if point then
      local x = rounded((point.x - scale.x1) / (scale.x2 - scale.x1) * (columns - 1))
      local y = rounded((point.y - scale.y1) / (scale.y2 - scale.y1) * (rows - 1))
      draw_line(before and before[1] or x, before and before[2] or y, x, y, set)
      before = {x, y}
    else
      before = nil
    end
  end
end

-- The plotting area as rows of characters, from the top.
local function paint(list, scale, width, height)
  local cells = {}
  for row = 1, height do
    cells[row] = {}
    for column = 1, width do cells[row][column] = " " end
  end
  if #list == 1 then
    local bits = {}
    draw_series(list[1].points, scale, width * 2, height * 4, function(x, y)
      local row, column = height - y // 4, x // 2 + 1
      local at = row * width + column
      bits[at] = (bits[at] or 0) | DOTS[x % 2][4 - y % 4]
      cells[row][column] = utf8.char(0x2800 + bits[at])
    end)
    return cells
  end
  for i, series in ipairs(list) do
    local mark = MARKS[(i - 1) % #MARKS + 1]
    draw_series(series.points, scale, width, height, function(x, y) cells[height - y][x + 1] = mark end)
  end
  return cells
end

-- The rows of the area with the labels of the vertical axis in front.
local function with_y_axis(cells, labels, gutter)
  local lines = {}
  local height = #cells
  for row = 1, height do
    local label = labels[height - row]
    lines[row] = terminal.pad(label or "", gutter, "right") .. (label and " ┤" or " │")
      .. table.concat(cells[row]):gsub("%s+$", "")
  end
  return lines
end

-- The horizontal axis: a rule with marks, and the numbers below them.
local function x_axis(scale, width, gutter)
  local ticks, format = ticks_of(scale.x1, scale.x2, math.max(2, width // 10))
  local rule, numbers = {}, (" "):rep(gutter + 2)
  for column = 1, width do rule[column] = "─" end
  local free = 0 -- first column of the area that no number covers
  for _, tick in ipairs(ticks) do
    local column = rounded((tick - scale.x1) / (scale.x2 - scale.x1) * (width - 1))
    rule[column + 1] = "┬"
    local text = format:format(tick)
    local start = math.max(-1, math.min(column - #text // 2, width - #text))
    if start >= free or free == 0 then
      numbers = terminal.pad(numbers, gutter + 2 + start) .. text
      free = start + #text + 1
    end
  end
  return (" "):rep(gutter) .. " └" .. table.concat(rule), numbers
end

local function y_labels(scale, height)
  local ticks, format = ticks_of(scale.y1, scale.y2, math.max(2, height // 3))
  local labels, gutter = {}, 0
  for _, tick in ipairs(ticks) do
    local row = rounded((tick - scale.y1) / (scale.y2 - scale.y1) * (height - 1))
    labels[row] = labels[row] or format:format(tick)
    gutter = math.max(gutter, #labels[row])
  end
  return labels, gutter
end

local LINE_OPTIONS = {series = true, width = true, height = true, title = true, x_label = true, y_label = true}

--- Plots series of numbers.
---@param options table `series`: values by name, each a list of numbers, of points {x, y}, or {x = list, y = list}
--- (a gap where a value is missing or not finite); `width` columns in all (72), `height` rows of the area (14),
--- `title`, `x_label`,
--- `y_label` (default: the name of the only series)
---@return string # without a line break at the end
function chart.line(options)
  errors.check_options("chart.line", options, LINE_OPTIONS)
  errors.expect("chart.line", "series", options.series, "table")
  local list = all_series(options.series)
  local height = math.max(3, options.height or 14)
  local x1, x2 = range_of(list, "x")
  if x1 > x2 then
    return (options.title and options.title .. "\n" or "") .. "(no data)"
  end
  local scale = {}
  scale.x1, scale.x2 = widen(x1, x2)
  scale.y1, scale.y2 = widen(range_of(list, "y"))
  local labels, gutter = y_labels(scale, height)
  local width = math.max(10, (options.width or 72) - gutter - 2)
  local lines = {}
  if options.title then lines[1] = terminal.pad("", gutter + 2) .. options.title end
  local y_label = options.y_label or #list == 1 and list[1].name
  if y_label then lines[#lines + 1] = terminal.pad("", gutter + 2) .. y_label end
  for _, line in ipairs(with_y_axis(paint(list, scale, width, height), labels, gutter)) do
    lines[#lines + 1] = line
  end
  lines[#lines + 1], lines[#lines + 2] = x_axis(scale, width, gutter)
  if options.x_label then
    local room = math.max(0, width - terminal.width(options.x_label))
    lines[#lines + 1] = terminal.pad("", gutter + 2 + room // 2) .. options.x_label
  end
  if #list > 1 then
    local names = {}
    for i, series in ipairs(list) do names[i] = MARKS[(i - 1) % #MARKS + 1] .. " " .. series.name end
    lines[#lines + 1] = terminal.pad("", gutter + 2) .. table.concat(names, "   ")
  end
  return table.concat(lines, "\n")
end

return chart
