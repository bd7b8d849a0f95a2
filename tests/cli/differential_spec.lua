-- riverlua against lua5.4: the same command line must give the same output, messages and exit code.

local support = require("tests.cli.support")

-- Messages without what may differ: the program's name, addresses.
local function plain(text, program)
  text = ("\n" .. text):gsub("\n" .. program:gsub("%p", "%%%0") .. ":", "\nPROGRAM:")
  text = text:gsub("%f[^%s\0]" .. program:gsub("%p", "%%%0") .. "%f[%s\0]", "PROGRAM"):sub(2)
  -- How deep the stack can get depends on what lies below the script.
  return (text:gsub("0x%x+", "ADDRESS"):gsub("skipping %d%d%d+ levels", "skipping many levels"))
end

-- riverlua's own lines in the usage text.
local function without_own_options(text)
  return (text:gsub("  %-%-%a%a+ [^\n]*\n", ""))
end

local function outcome(program, words, options)
  local line = {program}
  for _, word in ipairs(words) do line[#line + 1] = word end
  local out, err, code = support.run(line, options)
  return {out = plain(out, program), err = without_own_options(plain(err, program)), code = code}
end

local function same(words, options)
  local expected = outcome(support.lua, words, options)
  assert.same(expected, outcome(support.riverlua, words, options))
  return expected
end

describe("the command line does what lua5.4 does", function()
  local folder
  setup(function() folder = support.folder() end)
  teardown(function() folder:remove() end)

  local function script(text, ...)
    return {folder:write("script.lua", text), ...}
  end

  describe("with options:", function()
    local show = "print(#arg, arg[-2], arg[-1], arg[1], ...)"
    local cases = {
      {"-v"}, {"-v", "-e", "print(1)"}, {"-e", "print(1)", "-e", "print(2)"}, {"-eprint(3)"}, {"-e", ""},
      {"-e", "x ="}, {"-e", "error('no')"}, {"-e", "error({})"}, {"-e", "error(nil)"}, {"-e", "error(12)"},
      {"-e", "error(1.5)"}, {"-e", "error(true)"}, {"-e", "error()"}, {"-e", "local x = nil; x()"}, {"-e"}, {"-l"},
      {"-e", "-v"}, {"-x"}, {"-h"}, {"-vv"}, {"-iv"}, {"-Ex"}, {"-Wx"}, {"---"}, {"--e"},
      {"-E", "-e", "print(package.path)"},
      {"-e", "print(package.path, package.cpath)"}, {"-l", "string", "-e", "print(string.rep('a', 3))"},
      {"-lio", "-e", "print(io.write)"}, {"-l", "s=string", "-e", "print(s.rep('b', 2))"}, {"-l", "no.such.module"},
      {"-l", "a=no.such"}, {"-W", "-e", "warn('w', 'x')"}, {"-e", "warn('silent')"}, {"-e", "warn('@on') warn('now')"},
      {"--", "no_such_file.lua"}, {"no_such_file.lua"}, {"--"}, {"-"}, {"-W"}, {"-E"}, {""},
      {"-e", "arg = nil", "-"}, {"-e", "arg[1] = 'changed'", "-", "first"},
      {"-e", "os.exit(3)"}, {"-e", "os.exit(true, true)"}, {"-e", "os.exit(false)"}, {"-e", "io.stdout:close()"},
      {"-e", "print(debug.traceback('t'))"}, {"-e", "coroutine.wrap(function() error('c') end)()"},
      {"-e", "print(coroutine.running())"}, {"-e", "print(coroutine.isyieldable())"}, {"-e", "coroutine.yield(1)"},
      {"-e", "error('level 2', 2)"}, {"-e", "error('level 3', 3)"}, {"-e", "print(debug.getinfo(2, 'S').what)"},
      {"-e", "print(debug.getinfo(3))"},
      {"-e", "print(collectgarbage('incremental'))"}, {"-e", "print(_VERSION, math.type(1), #package.searchers >= 4)"},
    }
    for _, words in ipairs(cases) do
      it(table.concat(words, " "), function() same(words, {input = show}) end)
    end
  end)

  describe("with a script:", function()
    it("arguments and the global arg", function()
      local text = "local n = 0; while arg[n] do n = n - 1 end; print(n, #arg, arg[1], arg[2], select('#', ...), ...)"
      same(script(text, "a", "b c", ""))
      same({"-e", "x = 1", "-W", folder.path .. "/script.lua", "-v", "--quiet", "--help"})
      same({"-e ", "--", folder.path .. "/script.lua", "a"})
      same({"-", "x", "y"}, {input = text})
      same({"--", "-"}, {input = text})
    end)

    it("a first line that begins with #", function() same(script("#!/usr/bin/lua\nprint(1)\nerror('line 3')")) end)
    it("a syntax error", function() same(script("local x = = 1")) end)
    it("binary chunks", function() same(script(string.dump(load("print('binary', ...)", "=x")), "one")) end)

    local failures = {
      ["in nested functions"] = "local function f() error('deep') end\nlocal function g() f() end\ng()",
      ["in methods and fields"] = "local t = {}\nfunction t.f() error('x') end\nfunction t:m() t.f() end\nt:m()",
      ["in global functions"] = "function f() error('x') end\nfunction g() f() end\ng()",
      ["with levels"] = "local function f() error('two', 2) end\nf()",
      ["without a position"] = "error('bare', 0)",
      ["after a tail call"] = "local function f() error('t') end\nlocal function g() return f() end\ng()",
      ["in library callbacks"] = "table.sort({3, 2, 1}, function() error('cmp') end)",
      ["in metamethods"] = "local t = setmetatable({}, {__add = function() error('add') end})\nlocal _ = t + 1",
      ["in iterators"] = "for _ in function() error('next') end do end",
      ["in require"] = "package.preload.m = function() error('loading') end\nrequire 'm'",
      ["in a closed variable"] = "local x <close> = setmetatable({}, {__close = function() error('closing') end})",
      ["with __tostring"] = "error(setmetatable({}, {__tostring = function() return 'my text' end}))",
      ["with __tostring that gives no string"] = "error(setmetatable({}, {__tostring = function() return 5 end}))",
      ["with __name"] = "error(setmetatable({}, {__name = 'My.Type'}))",
      ["with a function"] = "error(print)",
      ["with embedded line breaks"] = "error('a\\nb\\n')",
      ["of 23 levels"] = "local function f(n) if n == 0 then error('d') end local r = f(n - 1) return r end\nf(19)",
      ["of 24 levels"] = "local function f(n) if n == 0 then error('d') end local r = f(n - 1) return r end\nf(20)",
      ["of 25 levels"] = "local function f(n) if n == 0 then error('d') end local r = f(n - 1) return r end\nf(21)",
      ["of 99 levels"] = "local function f(n) if n == 0 then error('d') end local r = f(n - 1) return r end\nf(95)",
      ["by stack overflow"] = "local function f(n) return 1 + f(n + 1) end\nf(1)",
      ["by C stack overflow"] = "local function f() return (string.gsub('a', 'a', f)) end\nf()",
      ["by pattern errors"] = "string.find('a', '[')",
      ["by arithmetic on fields"] = "local t = {}\nprint(t.x.y)",
      ["by a bad argument to a method"] = "io.stdout:seek('nowhere')",
    }
    for name, text in pairs(failures) do
      it("an error " .. name, function() assert.equal(1, same(script(text)).code) end)
    end

    it("finalizers and open files at the end", function()
      same(script("setmetatable({}, {__gc = function() print('gc') end}) print('end')"))
      same(script("local x <close> = setmetatable({}, {__close = function() print('closed') end}) os.exit(4, true)"))
      local path = folder.path .. "/written"
      same(script(("io.output(%q) io.write('kept')"):format(path)))
      same(script(("print(io.open(%q):read('a'))"):format(path)))
      same({"-W", folder:write("gc.lua", "setmetatable({}, {__gc = function() error('in gc') end})")})
    end)

    it("standard input", function()
      same({}, {input = "print('from stdin', ...)\nerror('x')"})
      same({"-"}, {input = "print(io.read('l'), io.read('n'))\nrest\n42"})
      same({"-i"}, {input = ""})
    end)
  end)

  describe("with the environment:", function()
    local cases = {
      {LUA_INIT = "print('init', arg[0], arg[1])"}, {LUA_INIT = "error('in init')"}, {LUA_INIT = "x ="},
      {LUA_INIT = "@no_such_file"}, {LUA_INIT_5_4 = "print('5.4')", LUA_INIT = "print('any')"}, {LUA_INIT = ""},
      {LUA_PATH = "x;;y"}, {LUA_PATH_5_4 = "z", LUA_PATH = "y"}, {LUA_CPATH = ";;c"}, {LUA_PATH = ""},
    }
    for _, env in ipairs(cases) do
      local names = {}
      for name, value in pairs(env) do names[#names + 1] = name .. "=" .. value end
      table.sort(names)
      it(table.concat(names, " "), function()
        same({"-", "word"}, {input = "print(package.path, package.cpath)", env = env})
        same({"-E", "-"}, {input = "print(package.path, package.cpath)", env = env})
      end)
    end

    it("a file in LUA_INIT", function()
      local path = folder:write("init.lua", "X = 'set'; print(...)")
      same({"-e", "print(X)"}, {env = {LUA_INIT = "@" .. path}})
    end)

    it("an empty environment", function()
      -- The programs by their full paths: there is no PATH.
      local out = support.run({"/bin/sh", "-c", "command -v " .. support.lua})
      local expected = support.run({(out:gsub("\n", "")), "-e", "print(package.path)"}, {clean = true})
      assert.equal(expected, (support.run({support.riverlua, "-e", "print(package.path)"}, {clean = true})))
    end)
  end)

  describe("interactively with piped input:", function()
    local cases = {
      ["values and statements"] = "1 + 1\nx = 5\nx, x * 2\nprint('p')\n= 7\nreturn 8\nnil\n",
      ["blocks over several lines"] = "for i = 1, 2 do\nprint(i)\nend\nfunction f()\nreturn 1\nend\nf()\n",
      ["long strings over several lines"] = "s = [[a\nb]]\ns\n",
      ["comments and empty lines"] = "-- nothing\n\n--[[ long\ncomment ]]\n1 -- one\n",
      ["errors"] = "error('e')\nerror({})\nfoo bar\nlocal = 1\nx.y.z\n",
      ["error objects"] = "error(setmetatable({}, {__tostring = function() return 't' end}))\n",
      ["errors in functions"] = "function f() error('in f') end\nfunction g() f() end\ng()\n",
      ["prompts"] = "_PROMPT = 'first ' _PROMPT2 = 'more '\ndo\nend\n1\n",
      ["prompts that are objects"] = "_PROMPT = setmetatable({}, {__tostring = function() return 'obj> ' end})\n1\n",
      ["an unfinished last line"] = "print(1)\nprint(2)",
      ["print replaced"] = "print = function(...) io.write('mine ', ...) io.write('\\n') end\n1, 2\nprint = nil\n3\n",
      ["os.exit"] = "1\nos.exit(5, true)\n",
      ["many values"] = "table.unpack({}, 1, 5)\nselect('#')\n(function() end)()\n'a', 'b'\n",
    }
    for name, input in pairs(cases) do
      it(name, function() same({"-i"}, {input = input}) end)
    end
    it("after a script", function()
      same({"-i", folder:write("pre.lua", "value = 'from script'")}, {input = "value\n"})
    end)
    it("after a failing script", function() same({"-i", folder:write("bad.lua", "error('x')")}, {input = "1\n"}) end)
    it("after -e", function() same({"-e", "v = 3", "-i"}, {input = "v\n"}) end)
  end)
end)
