--- Line charts as one HTML page: the SVG picture, and the values under the pointer or the arrow keys. Nothing
--- comes from elsewhere, and a policy in the page says so.

local digest = require "riverlua.digest"
local json = require "riverlua.json"
local plot_svg = require "riverlua.plot_svg"
local series = require "riverlua.plot_series"

local plot_html = {}

local FINENESS = 2   -- columns per pixel: what a tooltip can point at

local PAGE = [[
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="@policy@">
<title>@title@</title>
<style>
@style@
</style>
</head>
<body>
<main>
<div id="chart" tabindex="0" role="application" aria-label="@label@" aria-describedby="hint">
@svg@<div id="tip" role="status" aria-live="polite" hidden></div>
</div>
<p id="hint">Point at the chart, or use ← → Home End for the values; Esc hides them.</p>
</main>
<script id="data" type="application/json">@data@</script>
<script>@script@</script>
</body>
</html>
]]

local STYLE = [[
:root{color-scheme:@scheme@}
body{margin:0;font:14px/1.45 @font@}
main{max-width:@width@px;margin:24px auto;padding:0 16px}
#chart{position:relative;border-radius:8px;outline-offset:3px;touch-action:pan-y}
#chart svg{display:block;width:100%;height:auto;border-radius:8px}
#tip{position:absolute;left:0;top:0;pointer-events:none;padding:7px 10px;border-radius:6px;border:1px solid;
font-size:13px;white-space:nowrap;box-shadow:0 2px 10px rgba(0,0,0,.18);font-variant-numeric:tabular-nums;
max-width:90%;overflow:hidden}
#tip[hidden]{display:none}
#tip b{display:block;font-weight:600;margin-bottom:2px}
#tip div{display:flex;gap:8px;align-items:center}
#tip i{flex:none;width:10px;height:10px;border-radius:50%}
#tip span{flex:1;overflow:hidden;text-overflow:ellipsis}
#hint{margin:10px 2px;font-size:12px}
.cross{stroke-width:1;stroke-dasharray:3 3}
.dot{stroke-width:2}
]]

-- The page's colours are the picture's.
local function colors(theme)
  local lines = {("body{background:%s;color:%s}#hint{color:%s}#tip{background:%s;border-color:%s}"
    .. ".cross{stroke:%s}.dot{stroke:%s}"):format(theme.paper, theme.ink, theme.soft, theme.paper, theme.axis,
    theme.axis, theme.paper)}
  for i, color in ipairs(theme) do lines[#lines + 1] = (".b%d{background:%s}"):format(i, color) end
  return table.concat(lines, "\n")
end

local SCRIPT = [[

"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const chart = document.getElementById("chart"), tip = document.getElementById("tip");
  const svg = chart.querySelector("svg"), box = data.box;
  // all places along the axis that have a value
  const xs = [...new Set(data.series.flatMap(s => s.x))].sort((a, b) => a - b);
  if (xs.length === 0) return;
  const NS = svg.namespaceURI;
  const layer = svg.appendChild(document.createElementNS(NS, "g"));
  // halves: the difference of large numbers may not be one
  const part = (v, low, high) => (v / 2 - low / 2) / (high / 2 - low / 2);
  const left = x => box.left + part(x, box.x1, box.x2) * box.width;
  const top = y => box.top + (1 - part(y, box.y1, box.y2)) * box.height;
  let current = -1;

  const nearest = (list, x) => {
    let low = 0, high = list.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (list[middle] < x) low = middle; else high = middle;
    }
    return Math.abs(list[low] / 2 - x / 2) <= Math.abs(list[high] / 2 - x / 2) ? low : high;
  };
  const text = v => {
    const size = Math.abs(v);
    const short = Number(v.toPrecision(6));
    return size !== 0 && (size >= 1e9 || size < 1e-4) ? short.toExponential() : String(short);
  };
  const element = (name, attributes) => {
    const made = layer.appendChild(document.createElementNS(NS, name));
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  };
  const line = (parent, name, className) => {
    const made = parent.appendChild(document.createElement(name));
    if (className) made.className = className;
    return made;
  };

  const hide = () => {
    current = -1;
    tip.hidden = true;
    layer.replaceChildren();
  };
  const show = index => {
    if (index === current) return;
    current = index;
    const x = xs[index], at = left(x);
    layer.replaceChildren();
    tip.replaceChildren();
    element("path", {class: "cross", d: `M${at} ${box.top}v${box.height}`});
    line(tip, "b").textContent = `${data.x_label || "x"} ${text(x)}`;
    let highest = box.top + box.height;
    data.series.forEach((s, i) => {
      if (s.x.length === 0) return;
      const k = nearest(s.x, x);
      // of a long series, not every point is here: its neighbour stands in
      if (Math.abs(left(s.x[k]) - at) > (s.thinned ? 2 : 0.01)) return;
      const y = top(s.y[k]), color = i % data.colors + 1;
      if (y >= box.top - 1 && y <= box.top + box.height + 1) {
        element("circle", {class: `dot f${color}`, cx: left(s.x[k]), cy: y, r: 5});
        highest = Math.min(highest, y);
      }
      const row = line(tip, "div");
      line(row, "i", `b${color}`);
      line(row, "span").textContent = s.name;
      line(row, "strong").textContent = text(s.y[k]);
    });
    tip.hidden = false;
    const scale = svg.clientWidth / box.image;
    const wide = tip.offsetWidth, room = chart.clientWidth;
    let where = at * scale + 14;
    if (where + wide > room) where = at * scale - 14 - wide;
    tip.style.left = `${Math.max(0, Math.min(where, room - wide))}px`;
    tip.style.top = `${Math.max(0, Math.min(highest * scale - 10, chart.clientHeight - tip.offsetHeight - 4))}px`;
  };
  const follow = event => {
    const scale = svg.clientWidth / box.image;
    const share = ((event.clientX - svg.getBoundingClientRect().left) / scale - box.left) / box.width;
    const clipped = Math.max(0, Math.min(1, share));
    show(nearest(xs, box.x1 * (1 - clipped) + box.x2 * clipped));
  };
  const KEYS = {
    ArrowLeft: () => current < 0 ? xs.length - 1 : Math.max(0, current - 1),
    ArrowRight: () => Math.min(xs.length - 1, current + 1),
    Home: () => 0,
    End: () => xs.length - 1,
  };

  chart.addEventListener("pointermove", follow);
  chart.addEventListener("pointerdown", follow);
  chart.addEventListener("pointerleave", event => { if (event.pointerType === "mouse") hide(); });
  chart.addEventListener("blur", hide);
  chart.addEventListener("keydown", event => {
    if (event.key === "Escape") return hide();
    if (!KEYS[event.key] || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    show(KEYS[event.key]());
  });
})();
]]

-- Points of a series in the order of x, those that are to be seen; and whether there are others.
local function points(one, box)
  local found, all = {}, 0
  for i = 1, one.count do
    if one.ys[i] == one.ys[i] then all = all + 1 end
  end
  for _, i in ipairs(series.visible(one, box.x, math.ceil(box.width * FINENESS))) do
    if i > 0 then found[#found + 1] = {x = one.xs[i], y = one.ys[i], i = i} end
  end
  table.sort(found, function(a, b)
    if a.x ~= b.x then return a.x < b.x end
    return a.i < b.i
  end)
  local xs, ys = json.array{}, json.array{}
  for k, point in ipairs(found) do xs[k], ys[k] = point.x, point.y end
  return xs, ys, #found < all
end

local encode = json.encoder{sort = true, utf8 = "replace"}

-- What the script works with. No "<" in it: nothing there can end the element.
local function data_of(chart, box)
  local data = {series = json.array{}, x_label = chart.x_label, colors = #plot_svg.LIGHT}
  if box.x then
    data.box = {left = box.left, top = box.top, width = box.width, height = box.height, image = chart.width,
      x1 = box.x.low, x2 = box.x.high, y1 = box.y.low, y2 = box.y.high}
    for i, one in ipairs(chart.series) do
      local xs, ys, thinned = points(one, box)
      local name = one.name ~= "" and one.name or chart.y_label or "value"
      data.series[i] = {name = name, x = xs, y = ys, thinned = thinned}
    end
  end
  return (encode(data):gsub("<", "\\u003c"))
end

local function fill(template, values)
  return (template:gsub("@(%l+)@", function(name) return values[name] end))
end

local function hash(text) return "'sha256-" .. digest.to_base64(digest.sha256(text)) .. "'" end

--- See riverlua.plot, `chart:html`.
---@param chart riverlua.plot.Chart
---@param options {theme: string|nil}|nil
---@return string
function plot_html.render(chart, options)
  local theme = plot_svg.theme_of("chart:html", options)
  local svg, box = plot_svg.render(chart, {theme = theme})
  local name = chart.title or chart.y_label or "Line chart"
  local style = fill(STYLE, {font = plot_svg.FONT, width = tostring(chart.width),
    scheme = theme == "auto" and "light dark" or theme})
  style = style .. colors(theme == "dark" and plot_svg.DARK or plot_svg.LIGHT)
  if theme == "auto" then
    style = style .. "\n@media(prefers-color-scheme:dark){\n" .. colors(plot_svg.DARK) .. "\n}"
  end
  return fill(PAGE, {title = plot_svg.escape(name), label = plot_svg.escape(name), style = style, svg = svg,
    data = data_of(chart, box), script = SCRIPT,
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src " .. hash(SCRIPT)})
end

return plot_html
