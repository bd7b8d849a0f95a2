--- Line charts: on the terminal, as SVG, and as an HTML page whose values show under the pointer.
--
--     local plot = require "riverlua.plot"
--     local chart = plot.line{title = "GRPO on sorting", x_label = "step",
--       series = {{name = "reward/mean", y = rewards}, {name = "length", x = steps, y = lengths}}}
--     chart:print()                       -- as wide as the terminal
--     chart:save("reward.svg")            -- or .html, .txt
--
--     plot.line{rows = run:history(), y = {"reward/mean", "loss"}}     -- rows of JSON Lines

local errors = require "riverlua.errors"
local folder = require "riverlua.core.folder"
local scale = require "riverlua.plot_scale"
local series = require "riverlua.plot_series"

local plot = {}

---@class riverlua.plot.Chart
---@field series riverlua.plot.Series[]
---@field title string|nil
---@field x_label string|nil
---@field y_label string|nil
---@field width integer of pictures, in pixels
---@field height integer
local Chart = {}
Chart.__index = Chart
Chart.__name = "riverlua.plot.Chart"

local WIDTH, HEIGHT = 720, 400
local SMALLEST, LARGEST = 120, 10000

local OPTIONS = {series = "table|userdata|nil", rows = "table|nil", x = "string|nil", y = "string|table|nil",
  title = "string|nil", x_label = "string|nil", y_label = "string|nil", y_min = "number|nil", y_max = "number|nil",
  width = "integer|nil", height = "integer|nil"}

local function fail(text, hint) errors.raise{kind = "argument", message = "plot.line: " .. text, hint = hint} end

local function check(options)
  errors.expect("plot.line", "options", options, "table")
  errors.check_options("plot.line", options, OPTIONS)
  for name, wanted in pairs(OPTIONS) do errors.expect("plot.line", name, options[name], wanted) end
  if (options.series == nil) == (options.rows == nil) then
    fail(options.rows and "series or rows, not both" or "there are no series",
      "plot.line{series = {{name = …, y = {…}}}}")
  end
  if options.series ~= nil and (options.x or options.y) then
    fail("x and y name fields of rows",
      "values along the axis are a series' own: {name = …, x = {…}, y = {…}}")
  end
  local low, high = options.y_min, options.y_max
  for name, value in pairs{y_min = low, y_max = high} do
    if not scale.is_finite(value) then fail(("%s must be a finite number, got %s"):format(name, value)) end
  end
  if low and high and low >= high then fail("y_min must be below y_max") end
  for _, name in ipairs{"width", "height"} do
    local pixels = options[name]
    if pixels and (pixels < SMALLEST or pixels > LARGEST) then
      fail(("%s must be from %d to %d pixels, got %d"):format(name, SMALLEST, LARGEST, pixels))
    end
  end
end

--- A line chart.
---
--- Options: `series`: a list of `{name =, x = list|nil, y = list}`, lists of numbers by name (`{loss = {…}, …}`,
--- drawn in the order of their names), or one list of numbers; points may be `{x, y}`; compact arrays are lists
--- too. Or `rows` (records, as a JSON Lines file has them) with the names of the fields `x` (default: "step" where
--- there is one) and `y` (one or several; default: all that are numbers). `title`; `x_label` (default: of rows,
--- `x`); `y_label` (default: the name of the only series); `y_min`, `y_max`: the ends of the vertical axis;
--- `width` = 720 and `height` = 400 of pictures, in pixels.
---
--- nil, null, NaN and the infinities are gaps; a field that a row does not have is a point less. Series may be of
--- any length: of what falls into one column of the picture, the first, lowest, highest and last point are drawn.
---
--- Raises kind "argument".
---@param options table
---@return riverlua.plot.Chart
function plot.line(options)
  check(options)
  local list, x
  if options.rows then
    list, x = series.read_rows(options.rows, options.x, options.y)
  else
    list = series.read(options.series)
  end
  local only = #list == 1 and list[1].name ~= "" and list[1].name or nil
  return setmetatable({series = list, title = options.title, x_label = options.x_label or x,
    y_label = options.y_label or only, y_min = options.y_min, y_max = options.y_max,
    width = options.width or WIDTH, height = options.height or HEIGHT}, Chart)
end

--- Internal: the axes, with about so many ticks; nothing when there are no points.
function Chart:axes(x_count, y_count)
  local x1, x2, whole = series.range(self.series, "xs")
  if not x1 then return nil end
  local y1, y2 = series.range(self.series, "ys")
  return scale.axis(x1, x2, {count = x_count, integers = whole}),
    scale.axis(y1, y2, {count = y_count, round = true, low = self.y_min, high = self.y_max})
end

--- The chart as text.
---
--- Options: `width` in columns (default: the terminal's, or 80); `height` of the area, in rows (default: 14, less
--- where the terminal is low); `color` (default: on a terminal, unless NO_COLOR is set); `unicode` = false: ASCII
--- only (default: what the locale says).
---@param options {width: integer|nil, height: integer|nil, color: boolean|nil, unicode: boolean|nil}|nil
---@return string # without a line break at the end
function Chart:terminal(options) return require("riverlua.plot_terminal").render(self, options) end

--- Writes the chart to the standard output, or to `stream`. Options as for `terminal`.
---@param options {width: integer|nil, height: integer|nil, color: boolean|nil, unicode: boolean|nil}|nil
function Chart:print(options) io.stdout:write(self:terminal(options), "\n") end

--- The chart as an SVG picture that reads well on light and on dark pages.
---@param options {theme: "auto"|"light"|"dark"|nil}|nil "auto": as the reader's system is
---@return string
function Chart:svg(options) return (require("riverlua.plot_svg").render(self, options)) end

--- The chart as one HTML page, without anything from elsewhere: values show under the pointer, or with the arrow
--- keys.
---@param options {theme: "auto"|"light"|"dark"|nil}|nil
---@return string
function Chart:html(options) return require("riverlua.plot_html").render(self, options) end

local FORMATS = {
  svg = function(chart) return chart:svg() end,
  html = function(chart) return chart:html() end,
  txt = function(chart) return chart:terminal{width = 80, height = 14, color = false, unicode = true} .. "\n" end,
}
FORMATS.htm = FORMATS.html

--- Saves the chart; the ending of the name decides what as: ".svg", ".html" or ".txt". The folder is made, and an
--- old file replaced as a whole.
---
--- Raises kind "argument" for other endings, "storage" when it cannot be written.
---@param path string
---@return riverlua.plot.Chart # the chart
function Chart:save(path)
  errors.expect("chart:save", "path", path, "string")
  local format = FORMATS[(path:match("%.(%w+)$") or ""):lower()]
  if not format then
    errors.raise{kind = "argument", message = ("chart:save: '%s' ends in none of .svg, .html, .txt"):format(path)}
  end
  local bytes = format(self)
  local above = path:match("^(.+)/[^/]*$")
  local ok, problem = true, nil
  if above then ok, problem = folder.make(above) end
  if ok then ok, problem = folder.replace(path, bytes) end
  if not ok then
    errors.raise{kind = "storage", message = ("chart:save: '%s' cannot be written: %s"):format(path, problem)}
  end
  return self
end

--- The chart as text, so that it can be printed.
function Chart:__tostring() return self:terminal{color = false} end

errors.want_colon(Chart, "chart")

return plot
