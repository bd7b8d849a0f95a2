-- The interactive mode: piped (what it evaluates) and on a pseudo-terminal (how it is used).

local support = require("tests.cli.support")

-- Feeds lines to `riverlua -i`; returns what it printed apart from greeting, prompts and echo, and its messages.
local function session(lines)
  local input = "_PROMPT = '' _PROMPT2 = ''\n" .. table.concat(lines, "\n") .. "\n"
  local out, err = support.run({support.riverlua, "-i"}, {input = input})
  local echoed = {}
  for line in input:gmatch("([^\n]*)\n") do echoed[#echoed + 1] = line end
  local at, results = 1, {}
  for line in out:gmatch("([^\n]*)\n") do
    if line == echoed[at] or line == "> " .. (echoed[at] or "") then at = at + 1 else results[#results + 1] = line end
  end
  assert(at == #echoed + 1, "not everything was read:\n" .. out)
  return table.concat(results, "\n", 2, #results - 1), err
end

local function shows(expected, lines)
  local out, err = session(lines)
  assert.equal(expected, out .. err)
end

describe("locals survive from line to line", function()
  it("with their values", function()
    shows("1\tb", {"local x, y = 1, 'b'", "x, y"})
    shows("nil", {"local unset", "unset"})
  end)

  it("and are variables, not copies", function()
    shows("2\t3\n3", {"local n = 1", "local function inc() n = n + 1 return n end", "inc(), inc()", "n"})
    shows("10", {"local n = 1", "local function get() return n end", "n = 10", "get()"})
    shows("5\t7", {"local a, b local function set(x, y) a, b = x, y end", "set(5, 7)", "a, b"})
  end)

  it("a new declaration leaves the old variable to its closures", function()
    shows("1\t2", {"local v = 1", "local function old() return v end", "local v = 2", "old(), v"})
    shows("2", {"local v = 1", "local v = v + 1", "v"})
  end)

  it("functions call themselves", function()
    shows("120", {"local function fact(n) if n == 0 then return 1 end return n * fact(n - 1) end", "fact(5)"})
    shows("8", {"local function f()", "return 8", "end", "f()"})
  end)

  it("constants stay constant", function()
    shows("5stdin:1: attempt to assign to const variable 'c'\n", {"local c <const> = 5", "c", "c = 6"})
    shows("6stdin:1: attempt to assign to const variable 't'\n", {"local t <const> = {6}", "t[1]", "t = {}"})
  end)

  it("to-be-closed variables end with their line", function()
    shows("closed\nnil", {"local h <close> = setmetatable({}, {__close = function() print('closed') end})", "h"})
  end)

  it("what comes before an error is kept", function()
    local out, err = session{"local a = 1 local b = 2 error('stop') local c = 3", "a, b, c"}
    assert.equal("1\t2\tnil", out)
    assert.equal("stdin:1: stop\nstack traceback:\n\t[C]: in function 'error'\n\tstdin:1: in main chunk\n\t[C]: in ?\n",
      err)
  end)

  it("only those of the outermost block", function()
    shows("nil\tnil", {"do local inner = 1 end for i = 1, 2 do local j = i end", "inner, j"})
    shows("nil", {"local f = function() local hidden = 1 return hidden end", "hidden"})
  end)

  it("whatever stands around the declaration", function()
    shows("3\t4", {"local a = ({...})[1] or 3 local b = a + 1", "a, b"})
    shows("x\t16.0", {"local s = [==[x]==] --[[ local no ]] local n = 0x1p4 -- local never", "s, n"})
    shows("end", {"local w = 'end' local q = \"\\\"\"", "w"})
    shows("1\t2", {"local t = {f = function() return 1 end, g = 2} local u = t.f()", "u, t.g"})
    shows("7", {"goto done; local p = 5; ::done::", "local _keep = 7", "_keep"})
    shows("nil\t1", {"local a = nil; ;;; local b = 1", "a, b"})
    shows("15", {"local sum = 0", "for i = 1, 5 do", "sum = sum + i", "end", "sum"})
    shows("2", {"local x = 2 return x"})
    shows("table", {"local _ENV = {type = type, print = print, v = {}}", "type(v)"})
  end)

  it("a name in many lines", function()
    local lines = {}
    for i = 1, 250 do lines[i] = ("local v%d = %d"):format(i, i) end
    lines[251] = "v1 + v250"
    shows("251", lines)
  end)
end)

describe("results", function()
  it("of plain values look as print shows them", function()
    shows("a\tb\t1\t1.0\tnil\ttrue", {"'a', 'b', 1, 1.0, nil, true"})
  end)
  it("that are tables show their contents", function()
    shows("{1, 2, {a = \"b\"}}", {"{1, 2, {a = 'b'}}"})
    shows("{}\t1", {"{}, 1"})
  end)
  it("that have a text of their own show it", function()
    shows("mine", {"setmetatable({}, {__tostring = function() return 'mine' end})"})
  end)
  it("null is null", function() shows("null", {"require('riverlua.json').null"}) end)
  it("print can be replaced", function()
    shows("<{1}>", {"local p = print print = function(x) p('<' .. x .. '>') end", "{1}"})
  end)
end)

describe("blocking calls and tasks", function()
  it("just work", function()
    shows("ok", {"local task = require 'riverlua.task'", "task.sleep(0.001)", "'ok'"})
  end)
  it("a task that failed is told about", function()
    local _, err = session{"local task = require 'riverlua.task'", "local t = task.spawn(error, 'lost')",
      "task.sleep(0.001)"}
    assert.truthy(err:find("task 1 failed: lost", 1, true), err)
  end)
end)

describe("an unfinished statement at the end of the input", function()
  it("is a syntax error", function()
    local _, err = session{"for i = 1, 2 do"}
    assert.truthy(err:find("'end' expected near <eof>", 1, true), err)
  end)
end)

describe("completion", function()
  local complete = require("riverlua.repl_complete")
  local repl_session = require("riverlua.repl_session")

  local function names(before, state)
    return table.concat((complete.candidates(before, state or repl_session.new())), " ")
  end

  it("of globals, keywords and locals", function()
    local state = repl_session.new()
    assert(state:compile("local printer, other = 1, 2", "=x"))()
    assert.equal("print printer", names("print", state))
    assert.equal("repeat require return", names("x = re"))
  end)

  it("of fields", function()
    assert.equal("find format", names("string.f"))
    assert.equal("maxinteger", names("1 + math.maxi"))
    assert.equal("", names("nothing.at.all"))
  end)

  it("of methods, along __index tables, functions only", function()
    local Base = {run = print, size = 3}
    Base.__index = Base
    local Class = setmetatable({walk = print}, Base)
    Class.__index = Class
    rawset(_G, "completion_object", setmetatable({own = 1, rest = print}, Class))
    assert.equal("rest run walk", names("completion_object:"))
    assert.equal("own rest run size walk", names("completion_object."))
    assert.equal("rest run", names("f(completion_object:r"))
    rawset(_G, "completion_object", nil)
  end)

  it("of locals' fields and strings' methods", function()
    local state = repl_session.new()
    assert(state:compile("local cli, text = {learn = print, inner = {deep = 1}}, 'x'", "=x"))()
    assert.equal("learn", names("cli:le", state))
    assert.equal("deep", names("cli.inner.", state))
    assert.equal("upper", names("text:up", state))
  end)

  it("calls nothing", function()
    rawset(_G, "completion_trap", setmetatable({}, {__index = function() error("called") end, __pairs = error}))
    assert.equal("", names("completion_trap.x"))
    rawset(_G, "completion_trap", nil)
  end)

  it("inserts what is common, then lists", function()
    local state = repl_session.new()
    assert.equal("mat", (complete.press("string.for", state, 80)))
    local insertion, listing = complete.press("string.f", state, 80)
    assert.is_nil(insertion)
    assert.equal("find    format", listing)
    assert.equal("find\nformat", (select(2, complete.press("string.f", state, 8))))
    assert.is_nil((complete.press("string.zzz", state, 80)))
    assert.equal("  ", (complete.press("", state, 80)))
  end)
end)

describe("on a terminal", function()
  local folder
  before_each(function() folder = support.folder() end)
  after_each(function() folder:remove() end)

  local function terminal(steps, env)
    local variables = {HOME = folder.path, XDG_STATE_HOME = "", TERM = "xterm", LC_ALL = "C.UTF-8", LUA_INIT = ""}
    for name, value in pairs(env or {}) do variables[name] = value end
    local transcript, code = support.terminal({support.riverlua}, steps, variables)
    assert(code ~= 99, transcript)
    return transcript, code
  end

  local function has_editor()
    local out = support.run{support.riverlua, "-e", [[
      local ok = os.execute("ldconfig -p 2>/dev/null | grep -q 'libedit\\.so'")
      print(ok == true)]]}
    return out == "true\n"
  end

  it("greets, evaluates and ends with Ctrl-D", function()
    local transcript, code = terminal{{expect = "riverlua "}, {expect = "> "}, {send = "6 * 7\n"}, {expect = "42\r\n"},
      {expect = "> "}, {send = "\4"}}
    assert.equal(0, code)
    assert.truthy(transcript:find("^Lua 5%.4"))
  end)

  it("keeps a history that only its owner can read", function()
    if not has_editor() then return pending("no libedit here") end
    terminal{{expect = "> "}, {send = "first = 1\n"}, {expect = "\n> "}, {send = "\4"}}
    local path = folder.path .. "/.local/state/riverlua/history"
    local out = support.run{"sh", "-c", ("stat -c %%a '%s'; cat '%s'"):format(path, path)}
    assert.equal("600\nfirst = 1\n", out)
    terminal{{expect = "> "}, {send = "\27[A"}, {expect = "first = 1"}, {send = " + 1\n"}, {expect = "\n> "},
      {send = "first\n"}, {expect = "2\r\n"}, {expect = "> "}, {send = "\4"}}
  end)

  it("keeps no history when told so", function()
    terminal({{expect = "> "}, {send = "x = 1\n"}, {expect = "\n> "}, {send = "\4"}}, {RIVERLUA_HISTORY = ""})
    assert.equal("", (support.run{"find", folder.path, "-name", "history"}))
  end)

  it("completes names with the tab key", function()
    if not has_editor() then return pending("no libedit here") end
    terminal{{expect = "> "}, {send = "string.for\t('%d', 7)\n"}, {expect = "7\r\n"},
      {expect = "> "}, {send = "local object = {method = function() return 'called' end}\n"}, {expect = "\n> "},
      {send = "object:me\t()\n"}, {expect = "called\r\n"}, {expect = "> "},
      {send = "string.f\t"}, {expect = "find    format"}, {send = "ormat\n"}, {expect = "\n> "},
      {send = "\4"}}
  end)

  it("edits characters of several bytes", function()
    if not has_editor() then return pending("no libedit here") end
    -- The backspace takes all of the é.
    terminal{{expect = "> "}, {send = "#'aé\127b'\n"}, {expect = "2\r\n"}, {expect = "> "}, {send = "\4"}}
  end)

  it("Ctrl-C ends an evaluation, a blocking call and a half-typed line, not the session", function()
    local _, code = terminal{{expect = "> "}, {send = "print('looping') while true do end\n"}, {expect = "looping\r\n"},
      {send = "\3"}, {expect = "interrupted"}, {expect = "> "},
      {send = "print('sleeping') require('riverlua.task').sleep(100)\n"}, {expect = "sleeping\r\n"},
      {send = "\3"}, {expect = "interrupted"}, {expect = "> "},
      {send = "for i = 1, 2 do\n"}, {expect = ">> "}, {send = "\3"}, {expect = "\n> "},
      {send = "'still ' .. 'here'\n"}, {expect = "still here\r\n"}, {expect = "> "}, {send = "\4"}}
    assert.equal(0, code)
  end)

  it("tasks go on at the prompt", function()
    terminal{{expect = "> "}, {send = "task = require 'riverlua.task'\n"}, {expect = "\n> "},
      {send = "t = task.spawn(function() task.sleep(0.01) print('from ' .. 'a task') end)\n"},
      {expect = "from a task\r\n"}, {send = "t:status()\n"}, {expect = "done\r\n"}, {expect = "> "}, {send = "\4"}}
  end)

  it("does without line editing on a dumb terminal", function()
    terminal({{expect = "> "}, {send = "local x = 20 + 1\n"}, {expect = "\n> "}, {send = "x * 2\n"},
      {expect = "42\r\n"}, {expect = "> "}, {send = "\3"}, {expect = "\n> "}, {send = "'af' .. 'ter'\n"},
      {expect = "after\r\n"}, {expect = "> "}, {send = "\4"}}, {TERM = "dumb"})
  end)

  it("-i runs a script first", function()
    local path = folder:write("pre.lua", "value = 'from the script'")
    local transcript, code = support.terminal({support.riverlua, "-i", path},
      {{expect = "> "}, {send = "value\n"}, {expect = "from the script\r\n"}, {expect = "> "}, {send = "\4"}},
      {HOME = folder.path})
    assert.equal(0, code, transcript)
  end)
end)
