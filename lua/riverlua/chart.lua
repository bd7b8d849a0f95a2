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

local LINE_OPTIONS = {series = true, width = true, height = true, title = true, x_label = true, y_label = true}

--- Plots series of numbers as text; riverlua.plot has more, such as pictures.
---@param options table `series`: values by name, each a list of numbers, of points {x, y}, or {x = list, y = list}
--- (a gap where a value is missing or not finite); `width` columns in all (72), `height` rows of the area (14),
--- `title`, `x_label`, `y_label` (default: the name of the only series)
---@return string # without a line break at the end
function chart.line(options)
  errors.check_options("chart.line", options, LINE_OPTIONS)
  local drawn = require("riverlua.plot").line{series = options.series, title = options.title,
    x_label = options.x_label, y_label = options.y_label}
  return drawn:terminal{width = options.width or 72, height = options.height or 14, color = false, unicode = true}
end

return chart
