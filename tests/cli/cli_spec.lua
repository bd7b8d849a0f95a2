-- What the command line does beyond lua5.4.

local support = require("tests.cli.support")

local function run(words, options)
  return support.run({support.riverlua, table.unpack(words)}, options)
end

describe("riverlua's own options", function()
  local folder
  setup(function() folder = support.folder() end)
  teardown(function() folder:remove() end)

  it("--help tells about the options and succeeds", function()
    local out, err, code = run{"--help"}
    assert.equal(0, code)
    assert.equal("", err)
    for _, text in ipairs{"usage: ", "-e stat", "--quiet", "--version", "LUA_INIT", "RIVERLUA_HISTORY"} do
      assert.truthy(out:find(text, 1, true), text)
    end
    for line in out:gmatch("[^\n]+") do assert.is_true(#line <= 100, line) end
  end)

  it("--version names riverlua and Lua", function()
    local out, _, code = run{"--version"}
    assert.equal(0, code)
    assert.truthy(out:find("^riverlua %d+%.%d+%.%d+\nLua 5%.4"))
  end)

  it("long options after the script belong to the script", function()
    local path = folder:write("args.lua", "print(...)")
    assert.equal("--quiet\t--help\n", (run{path, "--quiet", "--help"}))
  end)

  it("--quiet silences bars, and so does RIVERLUA_QUIET", function()
    local path = folder:write("bar.lua", [[
      local progress = require "riverlua.progress"
      for _ in progress.each({1, 2, 3}, {label = "work"}) do end
      print(arg[1])]])
    local out, err = run{"--quiet", path, "x"}
    assert.equal("x\n", out)
    assert.equal("", err)
    assert.equal("", (select(2, run({path}, {env = {RIVERLUA_QUIET = "1"}}))))
    assert.truthy(select(2, run{path}):find("work: 100% (3/3)", 1, true))
  end)

  it("an unknown long option is refused", function()
    local out, err, code = run{"--quite"}
    assert.equal("", out)
    assert.equal(1, code)
    assert.truthy(err:find("unrecognized option '--quite'", 1, true))
  end)

  it("-l cuts a version mark off the global's name", function()
    folder:write("mod-v2.lua", "return {answer = 42}")
    local env = {LUA_PATH = folder.path .. "/?.lua;;"}
    assert.equal("42\n", (run({"-l", "mod-v2", "-e", "print(mod.answer)"}, {env = env})))
  end)

  it("loads nothing of riverlua's for a plain script but the command line itself", function()
    local out = run{"-e", [[
      for name in pairs(package.loaded) do
        if name:find("^river") then io.write(name, " ") end
      end]]}
    assert.equal("riverlua.cli ", out)
  end)

  it("adds no globals", function()
    local names = "local n = {} for k in pairs(_G) do n[#n + 1] = k end table.sort(n) print(table.concat(n, ' '))"
    assert.equal((support.run{support.lua, "-e", names}), (run{"-e", names}))
  end)
end)

describe("an uncaught riverlua error", function()
  it("is one line with its place when the script's main chunk made the call", function()
    local _, err, code = run({"-"}, {input = "\nrequire('riverlua.task').sleep('x')"})
    assert.equal(1, code)
    assert.truthy(err:find("^[^\n]*riverlua: stdin:2: argument: [^\n]+\n$"), err)
  end)

  it("has the script's part of the stack otherwise", function()
    local _, err = run({"-"}, {input = "local function f()\n  require('riverlua.task').sleep('x')\nend\nf()"})
    assert.truthy(err:find("stdin:2: argument: [^\n]+\nstack traceback:\n\tstdin:2: in [^\n]+\n\tstdin:4: "), err)
  end)

  it("shows its hint", function()
    local _, err = run({"-"}, {input = [[
      require("riverlua.errors").raise{kind = "http", message = "404 Not Found", hint = "is the model there?"}]]})
    assert.truthy(err:find("stdin:1: http: 404 Not Found (hint: is the model there?)\n", 1, true), err)
  end)
end)

describe("tasks at the end of a script", function()
  it("are waited for", function()
    local out, err, code = run({"-"}, {input = [[
      local task = require "riverlua.task"
      task.spawn(function() task.sleep(0.01) print("task done") end)
      print("script done")]]})
    assert.equal("script done\ntask done\n", out)
    assert.equal("", err)
    assert.equal(0, code)
  end)

  it("that failed unseen are reported and change the exit code", function()
    local _, err, code = run({"-"}, {input = [[
      local task = require "riverlua.task"
      task.spawn(function() error("lost") end)]]})
    assert.equal(1, code)
    assert.truthy(err:find("task 1 failed: stdin:2: lost\nstack traceback:\n", 1, true), err)
  end)

  it("that failed and were awaited give both stacks", function()
    local _, err, code = run({"-"}, {input = [[
      local task = require "riverlua.task"
      local t = task.spawn(function()
        error("inside")
      end)
      t:await()]]})
    assert.equal(1, code)
    assert.truthy(err:find("stdin:3: inside\nstack traceback:\n", 1, true), err)
    assert.truthy(err:find("\tstdin:5: in main chunk", 1, true), err)
    assert.truthy(err:find("in the task that failed:\n", 1, true), err)
    assert.truthy(err:find("\tstdin:3: in function <stdin:2>", 1, true), err)
  end)
end)

describe("Ctrl-C", function()
  -- The script sends the signal itself once it is where it should be hit. Not with os.execute, which ignores it.
  local signal = "local function hit() io.popen('kill -INT ' .. io.open('/proc/self/stat'):read('n')):close() end\n"

  it("in a computation ends with 130 and the place", function()
    local _, err, code = run({"-"}, {input = signal .. "hit()\nwhile true do end"})
    assert.equal(130, code)
    assert.truthy(err:find("interrupted\n", 1, true), err)
  end)

  it("can be caught like any error", function()
    local out, _, code = run({"-"}, {input = signal .. [[
      local ok, failure = pcall(function() hit() while true do end end)
      print(ok, failure.kind)]]})
    assert.equal("false\tinterrupted\n", out)
    assert.equal(0, code)
  end)

  it("in a blocking call tells where the tasks are and closes their variables", function()
    local out, err, code = run({"-"}, {input = signal .. [[
      local task = require "riverlua.task"
      task.spawn(function()
        local _ <close> = setmetatable({}, {__close = function() print("closed") end})
        task.sleep(100)
      end)
      task.spawn(hit)
      task.sleep(100)]]})
    assert.equal(130, code)
    assert.equal("closed\n", out)
    assert.truthy(err:find("stdin:8: interrupted\n", 1, true), err)
    assert.truthy(err:find("task 1 was here:\n", 1, true), err)
    assert.truthy(err:find("stdin:5: in function", 1, true), err)
  end)
end)
