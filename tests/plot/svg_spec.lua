--- Charts as SVG and as HTML: well-formed, complete, and nothing that a text in them can break out of.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local servers = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../support/servers.lua")
local digest = require "riverlua.digest"
local json = require "riverlua.json"
local plot = require "riverlua.plot"

local HOSTILE = "</script><script>alert(1)</script>&amp;\"'<b>\0\1\xff\u{FFFE}]]>"

local function count(text, pattern) return select(2, text:gsub(pattern, "")) end

-- Python's parsers read the files that are not wrong.
local function check_with_python(svg, html)
  local folder <close> = support.folder()
  for name, text in pairs{["a.svg"] = svg, ["a.html"] = html} do
    local file <close> = assert(io.open(folder.path .. "/" .. name, "wb"))
    file:write(text)
  end
  local script = folder.path .. "/check.py"
  local file = assert(io.open(script, "wb"))
  file:write([[
import html.parser, sys, xml.dom.minidom
folder = sys.argv[1]
document = xml.dom.minidom.parse(folder + "/a.svg")
assert document.documentElement.tagName == "svg"
opened, tags, data = [], [], []
VOID = {"meta"}
class Reader(html.parser.HTMLParser):
    def handle_starttag(self, tag, attributes):
        tags.append(tag)
        if tag not in VOID: opened.append(tag)
        for name, value in attributes:
            assert not name.startswith("on"), name
            assert name not in ("src", "href"), name
    def handle_startendtag(self, tag, attributes): tags.append(tag)
    def handle_endtag(self, tag): assert opened.pop() == tag, tag
    def handle_data(self, text):
        if opened and opened[-1] == "script": data.append(text)
Reader(convert_charrefs=True).feed(open(folder + "/a.html", encoding="utf-8").read())
assert not opened, opened
assert tags.count("script") == 2 and "b" not in tags, tags
print(data[0])
]])
  file:close()
  local pipe = assert(io.popen(("%s %s %s 2>&1"):format(servers.python(), script, folder.path)))
  local said = pipe:read("a")
  assert(pipe:close(), said)
  return json.decode(said)
end

describe("chart:svg", function()
  it("has the title, labels, ticks, a line and its points", function()
    local svg = plot.line{title = "Reward", x_label = "step", y_label = "mean", series = {1, 2, 3, 5}}:svg()
    for _, text in ipairs{">Reward</text>", ">step</text>", ">mean</text>", ">4</text>",
      "4 points, from 1 to 5"} do assert.truthy(svg:find(text, 1, true), text) end
    assert.equal(1, count(svg, '<path class="line s1"'))
    assert.equal(4, count(svg, "<circle"))
    assert.truthy(svg:find("prefers-color-scheme:dark", 1, true))
  end)

  it("tells series apart by colour, dash and mark, and names them", function()
    local svg = plot.line{series = {a = {1, 2, 3}, b = {2, 3, 4}, c = {3, 4, 5}}}:svg()
    for i, name in ipairs{"a", "b", "c"} do
      assert.equal(2, count(svg, ('<path class="line s%d"'):format(i)))
      assert.truthy(svg:find((">%s</text>"):format(name), 1, true))
    end
    assert.equal(4, count(svg, "stroke%-dasharray"))   -- all but the first, in the legend and in the area
    local many = {}
    for i = 1, 20 do many[i] = {name = ("series %d"):format(i), y = {i, i + 1}} end
    assert.truthy(plot.line{series = many}:svg():find("series 20</text>", 1, true))
  end)

  it("has gaps, lone points, and nothing beyond its bounds", function()
    local gap = plot.line{series = {1, 2, 0 / 0, 4, 5}}:svg()
    assert.equal(2, count(gap:match('<path class="line s1" d="([^"]*)"'), "M"))
    local svg = plot.line{series = {-1e300, 0.5, 1e300, 0.5}, y_min = 0, y_max = 1}:svg()
    for value in svg:match('class="line s1" d="([^"]*)"'):gmatch("[%d.]+") do
      assert.is_true(tonumber(value) <= 720, value)
    end
    local values = {}
    for i = 1, 200 do values[i] = i % 3 == 0 and i or 0 / 0 end
    assert.equal(66, count(plot.line{series = values}:svg(), "<circle"))
  end)

  it("is the same for the same values", function()
    local options = {series = {b = {1, 2}, a = {3, 4}, c = {x = {1, 3}, y = {0.1, 1 / 3}}}, title = "t"}
    assert.equal(plot.line(options):svg(), plot.line(options):svg())
    assert.equal(plot.line(options):html(), plot.line(options):html())
  end)

  it("copes with no points, one, and equal ones", function()
    for _, values in ipairs{{}, {0 / 0}, {5}, {2, 2, 2}, {1e308, -1e308}, {1e-320, 2e-320}} do
      local chart = plot.line{series = {a = values}, title = "t"}
      assert.is_nil(chart:svg():find("nan") or chart:svg():find("inf"), chart:svg())
      check_with_python(chart:svg(), chart:html())
    end
    assert.truthy(plot.line{series = {}}:svg():find(">no data</text>", 1, true))
  end)

  it("is light, dark, or as the reader likes it", function()
    local chart = plot.line{series = {1, 2}}
    local light, dark = chart:svg{theme = "light"}, chart:svg{theme = "dark"}
    assert.not_equal(light, dark)
    assert.is_nil(light:find("prefers-color-scheme", 1, true) or dark:find("prefers-color-scheme", 1, true))
    support.refuses('theme must be "auto", "light" or "dark"', chart.svg, chart, {theme = "blue"})
    support.refuses('theme must be "auto", "light" or "dark", got a number', chart.html, chart, {theme = 1})
    support.refuses("unknown option 'them'; did you mean 'theme'", chart.svg, chart, {them = "dark"})
  end)
end)

describe("chart:html", function()
  it("has the points, and nothing from elsewhere", function()
    local chart = plot.line{title = "t", x_label = "step",
      series = {{name = "b", x = {3, 1, 2}, y = {30, 10, 0 / 0}}}}
    local data = check_with_python(chart:svg(), chart:html())
    assert.equal("step", data.x_label)
    assert.same({{name = "b", x = {1.0, 3.0}, y = {10.0, 30.0}, thinned = false}}, data.series)
    assert.is_nil(chart:html():find("https?://", 1) and chart:html():gsub("http://www.w3.org/2000/svg", "")
      :find("https?://"))
  end)

  it("has a policy that lets only its own script run", function()
    local html = plot.line{series = {1, 2}}:html()
    local script = html:match("<script>(.-)</script>")
    assert.truthy(html:find("script-src 'sha256-" .. digest.to_base64(digest.sha256(script)) .. "'", 1, true))
    assert.truthy(html:find("default-src 'none'", 1, true))
  end)

  it("escapes every text", function()
    local chart = plot.line{title = HOSTILE, x_label = HOSTILE, y_label = HOSTILE, series = {
      {name = HOSTILE, y = {1, 2}}, {name = "\xf0\x9f", y = {2, 1}}}}
    local data = check_with_python(chart:svg(), chart:html())
    assert.truthy(data.series[1].name:find("</script><script>alert(1)", 1, true))
    check_with_python(chart:svg{theme = "dark"}, chart:html{theme = "dark"})
  end)
end)
