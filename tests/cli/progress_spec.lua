-- riverlua.progress: a bar on a terminal, lines elsewhere.

local progress = require("riverlua.progress")
local support = require("tests.cli.support")

-- A stream that keeps what is written.
local function recorder()
  local parts = {}
  return {
    write = function(self, ...)
      for i = 1, select("#", ...) do parts[#parts + 1] = (select(i, ...)) end
      return self
    end,
    flush = function() end,
    text = function() return table.concat(parts) end,
  }
end

local function without_times(text)
  return (text:gsub(", %d+:%d%d", ""))
end

describe("away from a terminal", function()
  it("writes a line for each tenth and no control characters", function()
    local stream = recorder()
    local bar = progress.bar{total = 1000, label = "learning", unit = "samples", stream = stream}
    for i = 1, 1000 do bar:update(i, {mae = 1 / 8}) end
    bar:close()
    local text = stream.text()
    assert.is_nil((text:gsub("\n", "")):find("%c"))
    local expected = {}
    for i = 1, 10 do expected[i] = ("learning: %d%% (%d/1000 samples), mae=0.125\n"):format(i * 10, i * 100) end
    assert.equal(table.concat(expected), without_times(text))
  end)

  it("ends with the last state, once", function()
    local stream = recorder()
    local bar = progress.bar{total = 3, stream = stream}
    bar:add()
    bar:close()
    bar:close()
    bar:add()
    assert.equal("33% (1/3)\n", without_times(stream.text()))
  end)

  it("counts when the total is not known", function()
    local stream = recorder()
    for _ in progress.each(string.gmatch("a b c", "%a"), {unit = "words", stream = stream}) do end
    assert.equal("3 words\n", without_times(stream.text()))
  end)

  it("a total of nothing is done", function()
    local stream = recorder()
    for _ in progress.each({}, {stream = stream}) do end
    assert.equal("100% (0/0)\n", without_times(stream.text()))
  end)
end)

describe("progress.each", function()
  it("gives items and numbers of a list", function()
    local seen = {}
    for item, number in progress.each({"a", "b"}, {stream = recorder()}) do seen[number] = item end
    assert.same({"a", "b"}, seen)
  end)

  it("gives all values of an iterator", function()
    local seen = {}
    local pairs_of = string.gmatch("a=1 b=2", "(%a)=(%d)")
    for key, value in progress.each(pairs_of, {stream = recorder()}) do seen[key] = value end
    assert.same({a = "1", b = "2"}, seen)
  end)

  it("ends its line on break and on an error", function()
    for _, stop in ipairs{function() return true end, function() error("no") end} do
      local stream = recorder()
      pcall(function()
        for _ in progress.each({1, 2, 3}, {stream = stream, terminal = true}) do
          if stop() then break end
        end
      end)
      local text = stream.text()
      if text ~= "" then assert.equal("\n", text:sub(-1)) end
    end
  end)
end)

describe("on a terminal", function()
  it("draws in place and ends the line", function()
    local stream = recorder()
    do
      local bar <close> = progress.bar{total = 4, label = "x", stream = stream, terminal = true}
      for i = 1, 4 do bar:update(i) end
    end
    local text = stream.text()
    assert.equal("\r", text:sub(1, 1))
    assert.equal("\n", text:sub(-1))
    assert.truthy(text:find("100%%  4/4"))
    assert.is_nil(text:find("\27[?25l", 1, true)) -- the cursor is never hidden
    for line in text:gmatch("[^\r\n]+") do
      assert.is_true(require("riverlua.terminal").width((line:gsub("\27%[K", ""))) < 80, line)
    end
  end)

  it("draws at most ten times a second", function()
    local stream = recorder()
    local bar = progress.bar{total = 100000, stream = stream, terminal = true}
    local started = require("riverlua.core.terminal").clock()
    for i = 1, 100000 do bar:update(i) end
    bar:close()
    local elapsed = require("riverlua.core.terminal").clock() - started
    assert.is_true(select(2, stream.text():gsub("\r", "")) <= 2 + elapsed / 0.1 + 1)
  end)

  it("notes go above the bar", function()
    local stream = recorder()
    local bar = progress.bar{total = 2, stream = stream, terminal = true}
    bar:update(1)
    bar:note("a note")
    bar:close()
    assert.truthy(stream.text():find("\r\27[Ka note\n\r", 1, true))
  end)

  it("is the standard error stream's when that is one", function()
    local folder <close> = support.folder()
    local path = folder:write("bar.lua", [[
      local bar <close> = require("riverlua.progress").bar{total = 2, label = "here"}
      bar:update(2, {mae = 0.5})]])
    local shown, code = support.terminal({support.riverlua, path}, {{expect = "100%"}}, {LC_ALL = "C.UTF-8"})
    assert.equal(0, code)
    assert.truthy(shown:find("here ▕██████", 1, true) and shown:find("▏ 100%  2/2", 1, true), shown)
    assert.truthy(shown:find("mae=0.5", 1, true))
    assert.equal("\n", shown:sub(-1))
    local ascii = support.terminal({support.riverlua, path}, {{expect = "100%"}}, {LC_ALL = "C"})
    assert.truthy(ascii:find("here %[#+%] 100%%"), ascii)
  end)
end)

describe("quiet", function()
  it("shows nothing", function()
    progress.quiet(true)
    local stream = recorder()
    for _ in progress.each({1, 2}, {stream = stream, terminal = true}) do end
    local bar = progress.bar{total = 1, stream = stream}
    bar:note("unseen")
    bar:close()
    progress.quiet(false)
    assert.equal("", stream.text())
  end)
end)

it("unknown options are refused", function()
  assert.error_matches(function() progress.bar{totl = 1} end, "did you mean 'total'")
end)
