--- Series of a plot: what may be given, and the lines that are drawn of them.

local array = require "riverlua.core.array"
local errors = require "riverlua.errors"
local json = require "riverlua.json"
local scale = require "riverlua.plot_scale"

local series = {}

local NAN = 0 / 0

---@class riverlua.plot.Series
---@field name string
---@field xs number[]
---@field ys number[] NaN: the line has a gap here
---@field count integer

local function fail(text, hint) errors.raise{kind = "argument", message = "plot.line: " .. text, hint = hint} end

local function is_list(value) return type(value) == "table" or array.is(value) end

-- The largest index: a list may have holes.
local function last_index(list)
  if type(list) ~= "table" then return #list end
  local last = #list
  for i in pairs(list) do
    if math.type(i) == "integer" and i > last then last = i end
  end
  return last
end

-- Holes are gaps, but a list with a few values at large indices is a mistake that would take all memory.
local MOST_HOLES = 1000000

local function check_holes(where, list, last)
  if type(list) ~= "table" or last <= #list + MOST_HOLES then return end
  local count = 0
  for i in pairs(list) do
    if math.type(i) == "integer" then count = count + 1 end
  end
  if last - count > MOST_HOLES then
    fail(("%s has %d values, and the last one has the index %d"):format(where, count, last),
      "places along the axis are in x: {x = {…}, y = {…}}")
  end
end

-- A number as a float; NaN for what is none: nil, null, NaN and the infinities.
local function value_of(value, where, i)
  if scale.is_finite(value) then return value + 0.0 end
  if value == nil or value == json.null or type(value) == "number" then return NAN end
  fail(("%s[%d] must be a number, got %s"):format(where, i, errors.got(value)),
    "nil, NaN and null are gaps in the line")
end

-- One series: values, points {x, y}, or x and y.
local function read_one(name, given, where)
  if not is_list(given) then
    fail(("%s must be a list of numbers, got %s"):format(where, errors.got(given)))
  end
  local ys, xs = given, nil
  if type(given) == "table" and given.y ~= nil then
    ys, xs = given.y, given.x
    if not is_list(ys) then fail(("%s.y must be a list of numbers, got %s"):format(where, errors.got(ys))) end
    if xs ~= nil and not is_list(xs) then
      fail(("%s.x must be a list of numbers, got %s"):format(where, errors.got(xs)))
    end
    where = where .. ".y"
  end
  local one = {name = name, xs = {}, ys = {}, count = last_index(ys)}
  check_holes(where, ys, one.count)
  local x_where = where:gsub("%.y$", "") .. ".x"
  if xs and last_index(xs) ~= one.count then
    fail(("%s has %d values, and y has %d"):format(x_where, last_index(xs), one.count))
  end
  for i = 1, one.count do
    local x, y = i, ys[i]
    if xs then x = xs[i] end
    if type(y) == "table" then x, y = y[1], y[2] end
    local at = value_of(x, x_where, i)
    one.xs[i], one.ys[i] = at, at == at and value_of(y, where, i) or NAN
  end
  return one
end

local NAMED = {name = true, x = true, y = true}

-- {{name =, x =, y =}, …}
local function read_records(given)
  local list = {}
  for i = 1, #given do
    local where = ("series[%d]"):format(i)
    local record = given[i]
    if type(record) == "table" and record.y ~= nil then
      errors.check_options("plot.line: " .. where, record, NAMED)
      errors.expect("plot.line", where .. ".name", record.name, "string|nil")
    end
    local name = type(record) == "table" and record.name or #given > 1 and ("series %d"):format(i) or ""
    list[i] = read_one(name, record, where)
  end
  return list
end

local function is_number_list(given)
  if type(given) ~= "table" then return true end
  for i, value in pairs(given) do
    if math.type(i) == "integer" and (type(value) == "number" or value == json.null) then return true end
  end
  return false
end

--- Reads the option `series` of plot.line.
---@param given any a list of {name =, x =, y =}; lists of numbers or of points by name; or one list of numbers
---@return riverlua.plot.Series[]
function series.read(given)
  if not is_list(given) then fail("series must be a table, got " .. errors.got(given)) end
  if is_number_list(given) then return {read_one("", given, "series")} end
  if given[1] ~= nil then return read_records(given) end
  local list = {}
  for name, values in pairs(given) do
    if type(name) ~= "string" then fail(("a series has the name %s, which is no text"):format(tostring(name))) end
    list[#list + 1] = read_one(name, values, ("series['%s']"):format(name))
  end
  table.sort(list, function(a, b) return a.name < b.name end)
  return list
end

-- Names of the fields that are numbers in some row, by name.
local function numeric_fields(rows, x)
  local seen, names = {[x or false] = true}, {}
  for _, row in ipairs(rows) do
    for name, value in pairs(row) do
      if type(value) == "number" and type(name) == "string" and not seen[name] then
        seen[name] = true
        names[#names + 1] = name
      end
    end
  end
  table.sort(names)
  return names
end

local function check_rows(rows)
  errors.expect("plot.line", "rows", rows, "table")
  local has_step = false
  for i = 1, last_index(rows) do
    if type(rows[i]) ~= "table" then fail(("rows[%d] must be a table, got %s"):format(i, errors.got(rows[i]))) end
    has_step = has_step or type(rows[i].step) == "number"
  end
  return has_step
end

local function known_field(rows, name)
  for _, row in ipairs(rows) do
    if row[name] ~= nil then return end
  end
  local near = errors.suggest(name, numeric_fields(rows))
  fail(("no row has '%s'"):format(name), near and ("did you mean '%s'?"):format(near) or nil)
end

--- Reads rows as JSON Lines have them: a field that a row does not have is a point less, null or NaN is a gap.
---@param rows table[]
---@param x string|nil the field along the axis (default: "step" where rows have it, otherwise the row's number)
---@param names string|string[]|nil the fields that are drawn (default: all that are numbers)
---@return riverlua.plot.Series[]
---@return string|nil x
function series.read_rows(rows, x, names)
  local has_step = check_rows(rows)
  errors.expect("plot.line", "x", x, "string|nil")
  errors.expect("plot.line", "y", names, "string|table|nil")
  x = x or has_step and "step" or nil
  if type(names) == "string" then names = {names} end
  if #rows > 0 then
    for _, name in ipairs(names or {}) do
      errors.expect("plot.line", "y", name, "string")
      known_field(rows, name)
    end
    if x then known_field(rows, x) end
  end
  local list = {}
  for i, name in ipairs(names or numeric_fields(rows, x)) do
    local one = {name = name, xs = {}, ys = {}, count = 0}
    local where = ("rows: '%s'"):format(name)
    for r, row in ipairs(rows) do
      local at = x and value_of(row[x], ("rows: '%s'"):format(x), r) or r + 0.0
      if row[name] ~= nil and at == at then
        one.count = one.count + 1
        one.xs[one.count], one.ys[one.count] = at, value_of(row[name], where, r)
      end
    end
    list[i] = one
  end
  return list, x
end

--- The smallest and the largest number along an axis, and whether all are whole; nothing when there are none.
---@param list riverlua.plot.Series[]
---@param axis "xs"|"ys"
---@return number|nil low
---@return number|nil high
---@return boolean integers
function series.range(list, axis)
  local low, high, integers = math.huge, -math.huge, true
  for _, one in ipairs(list) do
    local values, ys = one[axis], one.ys
    for i = 1, one.count do
      local value = values[i]
      if ys[i] == ys[i] then
        if value < low then low = value end
        if value > high then high = value end
        integers = integers and value % 1 == 0
      end
    end
  end
  if low > high then return nil, nil, false end
  return low, high, integers
end

-- Of the points from `first` to `last`, which share a column: the first, the lowest, the highest and the last.
local function keep_of_column(keep, ys, first, last)
  local low, high = first, first
  for i = first + 1, last do
    if ys[i] < ys[low] then low = i end
    if ys[i] > ys[high] then high = i end
  end
  if low > high then low, high = high, low end
  local before
  for _, i in ipairs{first, low, high, last} do
    if i ~= before then keep[#keep + 1] = i end
    before = i
  end
end

--- Indices of the points that make the picture, at most four for each run of points in one of `columns`; 0: a gap.
---@param one riverlua.plot.Series
---@param x_axis riverlua.plot.Axis
---@param columns integer
---@return integer[]
function series.visible(one, x_axis, columns)
  local keep, xs, ys = {}, one.xs, one.ys
  local first, column
  for i = 1, one.count + 1 do
    local here = i <= one.count and ys[i] == ys[i] and math.floor(x_axis:at(xs[i]) * columns) or nil
    if here ~= column then
      if first then keep_of_column(keep, ys, first, i - 1) end
      if not here and first and i <= one.count then keep[#keep + 1] = 0 end
      first, column = here and i, here
    end
  end
  return keep
end

-- Slopes beyond are as good as upright.
local FAR = 1e6

local function unit(value) return math.max(-FAR, math.min(FAR, value)) end

-- Adds what is to be seen of the way from one point to the next; returns the line that goes on, if there is one.
local function add_segment(lines, line, x1, y1, x2, y2)
  if math.max(y1, y2) < 0 or math.min(y1, y2) > 1 then return nil end
  local function cross(y) return x1 + (x2 - x1) * (y - y1) / (y2 - y1), y end
  local ax, ay, bx, by = x1, y1, x2, y2
  if y1 < 0 then ax, ay = cross(0) elseif y1 > 1 then ax, ay = cross(1) end
  if y2 < 0 then bx, by = cross(0) elseif y2 > 1 then bx, by = cross(1) end
  if not line then
    line = {ax, ay}
    lines[#lines + 1] = line
  end
  line[#line + 1], line[#line + 2] = bx, by
  return by == y2 and line or nil
end

--- The lines that are drawn of a series, each {x, y, x, y, …} in parts of the axes; a lone point is a line of one.
---@param one riverlua.plot.Series
---@param x_axis riverlua.plot.Axis
---@param y_axis riverlua.plot.Axis
---@param columns integer how fine the picture is
---@return number[][]
function series.lines(one, x_axis, y_axis, columns)
  local lines, line = {}, nil
  local x1, y1
  local visible = series.visible(one, x_axis, columns)
  for k, i in ipairs(visible) do
    if i == 0 then
      line, x1 = nil, nil
    else
      local x2, y2 = x_axis:at(one.xs[i]), unit(y_axis:at(one.ys[i]))
      if x1 then
        line = add_segment(lines, line, x1, y1, x2, y2)
      elseif (visible[k + 1] or 0) == 0 and y2 >= 0 and y2 <= 1 then
        lines[#lines + 1] = {x2, y2}
      end
      x1, y1 = x2, y2
    end
  end
  return lines
end

return series
