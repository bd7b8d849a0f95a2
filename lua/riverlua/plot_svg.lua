--- Line charts as SVG. Colours stand in classes, so that the same picture suits light and dark pages.

local errors = require "riverlua.errors"
local series = require "riverlua.plot_series"

local plot_svg = {}

-- Hues of Okabe and Ito, which people with any colour vision tell apart, as dark or light as the page demands.
-- Dashes and marks say the same again.
local LIGHT = {paper = "#ffffff", ink = "#1f2933", soft = "#616e7c", grid = "#e4e7eb", axis = "#9aa5b1",
  "#0072b2", "#d55e00", "#00815f", "#a3588a", "#9c6d00", "#2f89b8", "#4b5563", "#b4302a"}
local DARK = {paper = "#15191e", ink = "#e6eaee", soft = "#a3aeb9", grid = "#2a3139", axis = "#5b6875",
  "#4aa8e8", "#ff8a4c", "#2fc79a", "#e59ac6", "#e8b84a", "#8fd3f7", "#c3cbd3", "#ff8278"}
local DASHES = {"", "7 3.5", "2 3", "10 3 2 3", "4 2.5", "12 4", "1 3.5", "8 3 2 3 2 3"}
local MARKS = {"circle", "square", "triangle", "diamond", "ring", "cross", "box", "down"}
local FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif"
local MOST_MARKED = 40   -- points of a series whose points are marked each
local SIZE = {title = 15, text = 12}
local LONGEST_NAME = 60

-- ---- text ---------------------------------------------------------------------------------------------------

local ESCAPES = {["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;"}

-- Valid UTF-8 without what XML has no place for.
local function clean(text)
  local parts, from = {}, 1
  while from <= #text do
    local _, wrong = utf8.len(text, from)
    parts[#parts + 1] = text:sub(from, (wrong or #text + 1) - 1)
    if not wrong then break end
    parts[#parts + 1] = "\u{FFFD}"
    from = wrong + 1
  end
  return (table.concat(parts):gsub("[\0-\x1f\x7f]", " "):gsub("\u{FFFE}", "\u{FFFD}"):gsub("\u{FFFF}", "\u{FFFD}"))
end

--- Text for XML and HTML, inside and outside of quotes.
---@param text string
---@return string
function plot_svg.escape(text) return (clean(text):gsub("[&<>\"']", ESCAPES)) end

local escape = plot_svg.escape

-- About how wide a text is in pixels: fonts differ.
local NARROW, BROAD = "[iljt.,:;|!'%[%]()/ ]", "[%uwm%%@]"

local function text_width(text, size)
  local narrow = select(2, text:gsub(NARROW, ""))
  local broad = select(2, text:gsub(BROAD, ""))
  local wide = select(2, text:gsub("[\xe2-\xf4]", ""))   -- from U+2000 on
  local all = utf8.len(text) or #text
  return (all * 0.6 - narrow * 0.25 + broad * 0.2 + wide * 0.4) * size
end

-- The beginning of a text that fits.
local function shorten(text, size, room)
  text = clean(text)
  if text_width(text, size) <= room then return text end
  local kept = ""
  for _, code in utf8.codes(text) do
    local more = kept .. utf8.char(code)
    if text_width(more .. "…", size) > room then break end
    kept = more
  end
  return kept .. "…"
end

-- Pixels with two digits after the point at most.
local function px(value)
  return (("%.2f"):format(value):gsub("%.?0+$", ""))
end

local function minus(label) return (label:gsub("^%-", "−")) end

-- ---- style --------------------------------------------------------------------------------------------------

local function rules(theme)
  local lines = {(".paper{fill:%s}.ink{fill:%s}.soft{fill:%s}.grid{stroke:%s}.axis{stroke:%s}"):format(theme.paper,
    theme.ink, theme.soft, theme.grid, theme.axis)}
  for i, color in ipairs(theme) do
    lines[#lines + 1] = (".s%d{stroke:%s}.f%d{fill:%s}"):format(i, color, i, color)
  end
  return table.concat(lines, "\n")
end

--- Internal: what a page around the picture needs to look like it.
plot_svg.LIGHT, plot_svg.DARK, plot_svg.FONT = LIGHT, DARK, FONT

-- Nothing newer than classes and one media query, so that every viewer understands it.
local function style(theme)
  local lines = {("text{font-family:%s;font-size:%dpx}"):format(FONT, SIZE.text),
    ".line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}", ".grid,.axis{stroke-width:1}",
    ".open{stroke-width:1.6}", rules(theme == "dark" and DARK or LIGHT)}
  if theme == "auto" then
    lines[#lines + 1] = "@media(prefers-color-scheme:dark){\n" .. rules(DARK) .. "\n}"
  end
  return table.concat(lines, "\n")
end

-- ---- parts --------------------------------------------------------------------------------------------------

local SHAPES = {
  circle = function(x, y) return ('<circle cx="%s" cy="%s" r="3"'):format(px(x), px(y)) end,
  ring = function(x, y) return ('<circle cx="%s" cy="%s" r="3.2"'):format(px(x), px(y)) end,
  square = function(x, y)
    return ('<rect x="%s" y="%s" width="5.6" height="5.6"'):format(px(x - 2.8), px(y - 2.8))
  end,
  triangle = function(x, y)
    return ('<path d="M%s %sl3.8 6.4h-7.6z"'):format(px(x), px(y - 4.2))
  end,
  down = function(x, y) return ('<path d="M%s %sl3.8-6.4h-7.6z"'):format(px(x), px(y + 4.2)) end,
  diamond = function(x, y)
    return ('<path d="M%s %sl4 4-4 4-4-4z"'):format(px(x), px(y - 4))
  end,
  cross = function(x, y)
    return ('<path d="M%s %sl6 6m0-6l-6 6"'):format(px(x - 3), px(y - 3))
  end,
}
SHAPES.box = SHAPES.square
local OPEN = {ring = true, box = true, cross = true}

-- The mark of a series at a place.
local function mark(number, x, y)
  local kind = MARKS[(number - 1) % #MARKS + 1]
  local color = (number - 1) % #LIGHT + 1
  local class = OPEN[kind] and ("open paper s%d"):format(color) or ("f%d"):format(color)
  return SHAPES[kind](x, y) .. (' class="%s"/>'):format(class)
end

local function dash_of(number)
  local dash = DASHES[(number - 1) % #DASHES + 1]
  return dash ~= "" and (' stroke-dasharray="%s"'):format(dash) or ""
end

-- Whether each point of a series is marked: few enough to be told apart.
local function is_marked(one, box) return one.count <= math.min(MOST_MARKED, box.width // 12) end

-- Rows of the legend: {number, name, x} each.
local function legend_rows(chart, room)
  local rows, x = {{}}, 0
  for number, one in ipairs(chart.series) do
    local name = shorten(one.name, SIZE.text, math.min(room - 40, LONGEST_NAME * SIZE.text / 2))
    local wide = 34 + text_width(name, SIZE.text) + 18
    if x > 0 and x + wide - 18 > room then
      rows[#rows + 1], x = {}, 0
    end
    local row = rows[#rows]
    row[#row + 1] = {number = number, name = name, x = x}
    x = x + wide
  end
  return rows
end

local LEGEND_ROW, MARGIN = 20, 18

-- Where everything is.
local function lay_out(chart)
  local x, y = chart:axes(math.max(2, chart.width / 90), math.max(2, chart.height / 70))
  local widest = 0
  for _, label in ipairs(y and y.labels or {}) do widest = math.max(widest, text_width(label, SIZE.text)) end
  local box = {x = x, y = y, left = math.ceil(MARGIN + widest + 8), top = 16}
  if chart.title then box.top = box.top + 26 end
  local last = x and x.labels[#x.labels] or ""
  box.width = chart.width - box.left - math.ceil(math.max(20, text_width(last, SIZE.text) / 2 + 6))
  if #chart.series > 1 then
    box.legend, box.legend_top = legend_rows(chart, chart.width - 2 * MARGIN), box.top
    box.top = box.top + #box.legend * LEGEND_ROW + 4
  end
  if chart.y_label then
    box.y_label_top = box.top
    box.top = box.top + 20
  end
  box.height = math.max(20, chart.height - box.top - (chart.x_label and 54 or 34))
  return box
end

local function axes(box, add)
  local bottom, right = box.top + box.height, box.left + box.width
  for i, tick in ipairs(box.y.ticks) do
    local y = bottom - box.y:at(tick) * box.height
    add('<path class="grid" d="M%s %sH%s"/>', px(box.left), px(y), px(right))
    add('<text class="soft" x="%s" y="%s" text-anchor="end">%s</text>', px(box.left - 8), px(y + 4),
      minus(box.y.labels[i]))
  end
  add('<path class="axis" d="M%s %sH%s"/>', px(box.left), px(bottom), px(right))
  local free = -math.huge
  for i, tick in ipairs(box.x.ticks) do
    local x, half = box.left + box.x:at(tick) * box.width, text_width(box.x.labels[i], SIZE.text) / 2
    if x - half >= free then
      add('<path class="axis" d="M%s %sv5"/>', px(x), px(bottom))
      add('<text class="soft" x="%s" y="%s" text-anchor="middle">%s</text>', px(x), px(bottom + 19),
        minus(box.x.labels[i]))
      free = x + half + 8
    end
  end
end

local function draw_series(one, number, box, add)
  local bottom = box.top + box.height
  local color = (number - 1) % #LIGHT + 1
  local path, lone = {}, {}
  for _, line in ipairs(series.lines(one, box.x, box.y, math.ceil(box.width))) do
    for i = 1, #line, 2 do
      local x, y = box.left + line[i] * box.width, bottom - line[i + 1] * box.height
      if #line == 2 then
        lone[#lone + 1] = mark(number, x, y)
      else
        path[#path + 1] = (i == 1 and "M" or i == 3 and "L" or " ") .. px(x) .. " " .. px(y)
      end
    end
  end
  if #path > 0 then add('<path class="line s%d"%s d="%s"/>', color, dash_of(number), table.concat(path)) end
  if is_marked(one, box) then
    for i = 1, one.count do
      local y = one.ys[i]
      if y >= box.y.low and y <= box.y.high then
        add("%s", mark(number, box.left + box.x:at(one.xs[i]) * box.width, bottom - box.y:at(y) * box.height))
      end
    end
  else
    for _, text in ipairs(lone) do add("%s", text) end
  end
end

local function draw_legend(box, add)
  for r, row in ipairs(box.legend) do
    local y = box.legend_top + (r - 1) * LEGEND_ROW + 6
    for _, entry in ipairs(row) do
      local x, color = MARGIN + entry.x, (entry.number - 1) % #LIGHT + 1
      add('<path class="line s%d"%s d="M%s %sh26"/>', color, dash_of(entry.number), px(x), px(y))
      add("%s", mark(entry.number, x + 13, y))
      add('<text class="ink" x="%s" y="%s">%s</text>', px(x + 34), px(y + 4), escape(entry.name))
    end
  end
end

-- What there is to see, in words.
local function description(chart)
  local parts = {}
  for i, one in ipairs(chart.series) do
    local count, first, last, low, high = 0, nil, nil, math.huge, -math.huge
    for k = 1, one.count do
      local y = one.ys[k]
      if y == y then
        count, first, last = count + 1, first or y, y
        low, high = math.min(low, y), math.max(high, y)
      end
    end
    local name = one.name ~= "" and one.name or "values"
    if first then
      parts[i] = ("%s: %d points, from %.4g to %.4g, lowest %.4g, highest %.4g"):format(name, count, first, last,
        low, high)
    else
      parts[i] = name .. ": no points"
    end
  end
  return table.concat(parts, "; ")
end

--- Internal: the option `theme`, checked.
function plot_svg.theme_of(what, options)
  options = errors.expect(what, "options", options or {}, "table")
  errors.check_options(what, options, {theme = true})
  local theme = options.theme or "auto"
  if theme ~= "auto" and theme ~= "light" and theme ~= "dark" then
    errors.raise{kind = "argument", message = ('%s: theme must be "auto", "light" or "dark", got %s'):format(what,
      type(theme) == "string" and '"' .. theme .. '"' or errors.got(theme))}
  end
  return theme
end

--- See riverlua.plot, `chart:svg`. Returns where things are, too: pixels of the area, and the axes.
---@param chart riverlua.plot.Chart
---@param options {theme: string|nil}|nil
---@return string svg
---@return table box {left, top, width, height, x, y}
function plot_svg.render(chart, options)
  local theme = plot_svg.theme_of("chart:svg", options)
  local box, lines = lay_out(chart), {}
  local function add(format, ...) lines[#lines + 1] = format:format(...) end
  local name = chart.title or chart.y_label or "Line chart"
  add('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" '
    .. 'aria-label="%s">', chart.width, chart.height, chart.width, chart.height, escape(name))
  add("<title>%s</title>", escape(name))
  add("<desc>%s</desc>", escape(description(chart)))
  add("<style>\n%s\n</style>", style(theme))
  add('<rect class="paper" width="%d" height="%d"/>', chart.width, chart.height)
  if chart.title then
    add('<text class="ink" x="%d" y="30" font-weight="600" style="font-size:%dpx">%s</text>', MARGIN, SIZE.title,
      escape(shorten(chart.title, SIZE.title, chart.width - 2 * MARGIN)))
  end
  if box.legend then draw_legend(box, add) end
  if chart.y_label then
    add('<text class="soft" x="%d" y="%d">%s</text>', MARGIN, box.y_label_top + 6,
      escape(shorten(chart.y_label, SIZE.text, chart.width - 2 * MARGIN)))
  end
  if box.x then
    axes(box, add)
    for number, one in ipairs(chart.series) do draw_series(one, number, box, add) end
  else
    add('<text class="soft" x="%d" y="%d" text-anchor="middle">no data</text>', chart.width // 2,
      chart.height // 2)
  end
  if chart.x_label and box.x then
    add('<text class="soft" x="%s" y="%d" text-anchor="middle">%s</text>', px(box.left + box.width / 2),
      chart.height - 14, escape(shorten(chart.x_label, SIZE.text, box.width)))
  end
  add("</svg>\n")
  return table.concat(lines, "\n"), box
end

return plot_svg
