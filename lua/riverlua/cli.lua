--- The riverlua command line. Without riverlua's own options it does what `lua5.4` does: same options, same
-- messages, same exit codes. main.c calls `main(argv)` on the main thread and exits with the integer it returns.
--
-- Everything not needed to run a script lives elsewhere and is required on use: this file is on the path of
-- every start.

-- Taken before any script can replace them.
local getinfo, lua_traceback, getmetatable = debug.getinfo, debug.traceback, debug.getmetatable
local error, load, loadfile, pcall, rawget, require, tostring, type, warn, xpcall =
  error, load, loadfile, pcall, rawget, require, tostring, type, warn, xpcall
local getenv, stderr, stdout = os.getenv, io.stderr, io.stdout
local format, pack, unpack = string.format, table.pack, table.unpack
local loaded, globals = package.loaded, _G

local cli = {}

--- Set by `--quiet`: `riverlua.progress` draws nothing.
cli.quiet = false

--- Subcommands: `riverlua <name> …` requires the module and calls its `main(arguments)`, which returns the exit
-- code. A subcommand counts only as the first argument.
---@type table<string, string>
cli.commands = {}

-- The command's name in front of messages; nil while interactive.
local program = "riverlua"

---@param text string
local function complain(text)
  stderr:write(program and program .. ": " or "", text, "\n")
end

-- ---------------------------------------------------------------------------------------------------------
-- Tracebacks: as debug.traceback writes them, with the frames below the user's code (this file) left out.

local call

-- The line (or two, after a tail call) that describes one level of the stack.
local function level_text(level)
  local text = lua_traceback("", level + 1)
  local line, after = text:match("^\nstack traceback:(\n\t[^\n]*)(.*)")
  local tail = after:match("^\n\t%(%.%.%.tail calls%.%.%.%)")
  return line .. (tail or "")
end

-- Index of the deepest level, seen from the caller.
local function deepest_level()
  local low, high = 1, 1
  while getinfo(high, "l") do low, high = high, high * 2 end
  while low < high - 1 do
    local middle = (low + high) // 2
    if getinfo(middle, "l") then low = middle else high = middle end
  end
  return low - 1
end

-- Index of the outermost level that belongs to the user, seen from the caller: xpcall and `call` lie below it.
local function outermost_level(from)
  local last = deepest_level() - 1
  for level = last, from, -1 do
    if getinfo(level + 1, "f").func == call then return level - 2 end
  end
  return last
end

-- Lua's own limits for long tracebacks: ten levels, dots, eleven levels.
local HEAD, TAIL = 10, 11

--- Traceback of the user's part of the stack.
---@param message string text in front
---@param level integer first level shown; 1 is the caller
---@param main function|nil a function to be called the main chunk whatever it really is
---@return string
function cli.traceback(message, level, main)
  level = level + 1
  local out = {message, "\nstack traceback:"}
  local last = outermost_level(level) + 1 -- one more than the user's: the command itself, as `[C]: in ?`
  local function show(first, final)
    for at = first, final do
      local text
      if at == last then
        text = "\n\t[C]: in ?"
      else
        text = level_text(at + 1)
        if main and getinfo(at + 1, "f").func == main then
          text = text:gsub(": in [^\n]*", ": in main chunk", 1)
        end
      end
      out[#out + 1] = text
    end
  end
  if last - level > HEAD + TAIL then
    show(level, level + HEAD - 1)
    out[#out + 1] = format("\n\t...\t(skipping %d levels)", last - level - HEAD - TAIL)
    show(last - TAIL + 1, last)
  else
    show(level, last)
  end
  return table.concat(out)
end

-- ---------------------------------------------------------------------------------------------------------
-- Running the user's code

-- The folders of riverlua's own Lua files, as their chunk names begin.
local OWN_FOLDERS = {riverlua = true, river = true, modelriver = true, training = true, reward = true}

local function is_library(info)
  if info.what == "C" then return true end
  local path = info.source:match("^[@=](.*)") or ""
  return OWN_FOLDERS[path:gsub("^.*%f[%w]lua/", ""):match("^(%w+)/")] ~= nil
end

-- A riverlua error in the words of its tostring, with the script's position in front. The frames of the library
-- say nothing to the user, so the traceback starts at the script, and is left out where it would only repeat
-- the position.
local function describe_failure(failure, level)
  level = level + 1
  local last = outermost_level(level)
  local at = level
  while at <= last and is_library(getinfo(at, "S")) do at = at + 1 end
  if at > last then return tostring(failure) end
  local info = getinfo(at, "Sl")
  local text = format("%s:%d: %s", info.short_src, info.currentline, tostring(failure))
  if at == last then return text end
  return (cli.traceback(text, at, cli.chunk))
end

--- The function that tracebacks call the main chunk though Lua does not; set by the interactive mode.
---@type function|nil
cli.chunk = nil

local failure -- the value that ended the last `call`

-- The error value as text, for one that has no stack any more.
local function text_of(value)
  local ok, text = pcall(tostring, value)
  return ok and text or format("(error object is a %s value)", type(value))
end

-- An error that came out of an awaited task has a stack of its own.
local function with_task(value, text)
  local tasks = loaded["riverlua.core.task"]
  local inner = tasks and tasks.failure_traceback(value)
  return inner and text .. "\nin the task that failed:\n" .. inner or text
end

-- The message handler of everything that runs for the user. `__tostring` is called from here directly: scripts
-- can see their place on the stack.
local function explain(value)
  failure = value
  local kind = type(value)
  local text
  if kind == "string" or kind == "number" then
    text = tostring(value)
  else
    local errors = loaded["riverlua.errors"]
    if errors and errors.is(value) then
      text = describe_failure(value, 2)
      return (with_task(value, text))
    end
    local metatable = getmetatable(value)
    local to_string = metatable and rawget(metatable, "__tostring")
    if to_string ~= nil then
      text = to_string(value)
      if type(text) == "string" then return text end
    end
    text = format("(error object is a %s value)", kind)
  end
  text = cli.traceback(text, 2, cli.chunk)
  return (with_task(value, text))
end

-- Calls a function of the user's; returns what xpcall does. Marks the end of the user's stack in tracebacks:
-- no tail call.
function call(f, ...)
  failure = nil
  local results = pack(xpcall(f, explain, ...))
  return results
end

local function is_interrupt(value)
  return type(value) == "table" and rawget(value, "kind") == "interrupted"
end

local function report(message)
  complain(type(message) == "string" and message or "(error message not a string)")
end

-- Runs `f(...)`; says what went wrong. Returns true and its results (packed) when nothing did.
local function run(f, ...)
  local results = call(f, ...)
  if not results[1] then
    if is_interrupt(failure) then error({kind = "interrupted", where = results[2]}, 0) end
    report(results[2])
  end
  return results[1], results
end

local function run_loaded(chunk, message)
  if not chunk then
    report(message)
    return false
  end
  return run(chunk)
end

-- ---------------------------------------------------------------------------------------------------------
-- The command line

local USAGE = [=[
usage: %s [options] [script [args]]
Available options are:
  -e stat   execute string 'stat'
  -i        enter interactive mode after executing 'script'
  -l mod    require library 'mod' into global 'mod'
  -l g=mod  require library 'mod' into global 'g'
  -v        show version information
  -E        ignore environment variables
  -W        turn warnings on
  --        stop handling options
  -         stop handling options and execute stdin
]=]

local OWN_OPTIONS = [[
  --help    show this help
  --version show the versions of riverlua and of what it stands on
  --quiet   no progress bars
]]

local HELP = [[

Without a script: an interactive session on a terminal, otherwise the standard input is run.

Environment:
  LUA_INIT_5_4, LUA_INIT     code ('@file': a file) to run first
  LUA_PATH_5_4, LUA_PATH     where require looks for Lua modules
  LUA_CPATH_5_4, LUA_CPATH   where require looks for C modules
  RIVERLUA_HISTORY           history file of the interactive session; empty: none
  RIVERLUA_QUIET             not empty: as --quiet

Modules: river, riverlua.task, riverlua.http, riverlua.json, riverlua.errors, riverlua.progress,
riverlua.chart, riverlua.pretty, cjson.
]]

-- Options that are a letter and nothing more; value: the field set.
local FLAGS = {E = "ignore_environment", W = "warnings", i = "interactive", v = "version"}
local LONG = {["--help"] = "help", ["--version"] = "versions", ["--quiet"] = "quiet"}

-- Reads the options. Returns them as a set, the index of the script's name (nil: none) and the index of the
-- first word that is no option; for a bad option nil and its index.
local function parse(argv)
  local options = {}
  local i = 1
  while argv[i] do
    local word = argv[i]
    local letter = word:sub(2, 2)
    if word:sub(1, 1) ~= "-" or word == "-" then return options, i, i end
    if word == "--" then return options, argv[i + 1] and i + 1, i + 1 end
    if LONG[word] then
      options[LONG[word]] = true
    elseif FLAGS[letter] and #word == 2 then
      options[FLAGS[letter]] = true
    elseif letter == "e" or letter == "l" then
      if letter == "e" then options.execute = true end
      if #word == 2 then
        i = i + 1
        if not argv[i] or argv[i]:sub(1, 1) == "-" then return nil, i - 1 end
      end
    else
      return nil, i
    end
    i = i + 1
  end
  return options, nil, i
end

local function bad_option(word)
  local letter = word:sub(2, 2)
  if letter == "e" or letter == "l" then
    complain(format("'%s' needs argument", word))
  else
    complain(format("unrecognized option '%s'", word))
  end
  stderr:write(format(USAGE, program), OWN_OPTIONS)
  return 1
end

-- The global `arg`: the script's name at 0, its arguments above, everything before it below.
local function make_arg(argv, script)
  local arg = {}
  local shift = script or 0
  for i = 0, #argv do arg[i - shift] = argv[i] end
  globals.arg = arg
end

local function run_environment_code()
  local name = "LUA_INIT_5_4"
  local code = getenv(name)
  if not code then
    name = "LUA_INIT"
    code = getenv(name)
  end
  if not code then return true end
  if code:sub(1, 1) == "@" then return run_loaded(loadfile(code:sub(2))) end
  return run_loaded(load(code, "=" .. name))
end

-- `-l [name=]module`. Without a name the module's own is used, up to a version mark ("mod-v2" sets `mod`).
local function run_library(word)
  local name, module = word:match("^([^=]*)=(.*)$")
  if not name then
    module = word
    name = word:match("^([^-]*)%-") or word
  end
  local ok, results = run(globals.require, module)
  if ok then globals[name] = results[2] end
  return ok
end

-- Runs `-e`, `-l` and `-W` in their order; `limit` is the first word that is no option.
local function run_options(argv, limit)
  local i = 1
  while i < limit do
    local word = argv[i]
    local letter = word:sub(2, 2)
    if letter == "e" or letter == "l" then
      local text = word:sub(3)
      if text == "" then
        i = i + 1
        text = argv[i]
      end
      local ok
      if letter == "e" then ok = run_loaded(load(text, "=(command line)")) else ok = run_library(text) end
      if not ok then return false end
    elseif letter == "W" then
      warn("@on")
    end
    i = i + 1
  end
  return true
end

local function run_script(argv, script)
  local name = argv[script]
  if name == "-" and argv[script - 1] ~= "--" then name = nil end
  local chunk, message = loadfile(name)
  if not chunk then
    report(message)
    return false
  end
  local arg = globals.arg
  if type(arg) ~= "table" then
    report("'arg' is not a table")
    return false
  end
  return (run(chunk, unpack(arg, 1, #arg)))
end

local function interactive(options, banner)
  local name = program
  program = nil
  require("riverlua.repl").run{call = call, report = report, is_interrupt = is_interrupt, cli = cli,
    failure = function() return failure end, banner = banner, history = not options.ignore_environment}
  program = name
end

-- ---------------------------------------------------------------------------------------------------------
-- Versions

local function runtime()
  return require("riverlua.core.runtime")
end

local function print_version()
  stdout:write(runtime().lua_copyright, "\n")
  stdout:flush()
end

local function print_versions()
  local core = runtime()
  stdout:write("riverlua ", core.version, "\n", core.lua_copyright, "\n")
  if core.curl_version then stdout:write(core.curl_version, "\n") end
  stdout:flush()
end

local function stdin_is_terminal()
  return require("riverlua.core.terminal").isatty(0)
end

-- ---------------------------------------------------------------------------------------------------------
-- Tasks: nothing here costs anything in a script that has none

-- Says which tasks failed without anybody looking. Returns whether there were any.
local function report_failures(tasks)
  local failures = tasks.failures()
  for i = 1, #failures do
    local failed = failures[i]
    complain(format("task %d failed: %s%s", failed.id, text_of(failed.error),
      failed.traceback and "\n" .. failed.traceback or ""))
  end
  if failures.n > #failures then complain(format("%d more tasks failed", failures.n - #failures)) end
  return failures.n > 0
end

-- Waits for the tasks that the script left running. Returns false when one of them failed unseen.
local function finish_tasks()
  local tasks = loaded["riverlua.core.task"]
  if not tasks then return true end
  tasks.drain()
  return not report_failures(tasks)
end

-- After Ctrl-C: says where everybody was, ends all tasks, gives the shell's exit code for it.
local function interrupted(where)
  complain(where or "interrupted")
  local tasks = loaded["riverlua.core.task"]
  if tasks then
    local waiting = tasks.waiting()
    for i = 1, #waiting do
      stderr:write(format("task %d was here:\n%s\n", waiting[i].id, waiting[i].traceback))
    end
    pcall(tasks.cancel_all)
    pcall(tasks.drain)
  end
  return 130
end

-- ---------------------------------------------------------------------------------------------------------

local function run_all(argv, options, script, limit)
  if options.version or options.interactive then print_version() end
  make_arg(argv, script)
  collectgarbage("generational")
  if not options.ignore_environment and not run_environment_code() then return 1 end
  if not run_options(argv, limit) then return 1 end
  if script and not run_script(argv, script) then return 1 end
  if options.interactive then
    interactive(options, false)
  elseif not (script or options.execute or options.version) then
    if stdin_is_terminal() then
      print_version()
      interactive(options, true)
    elseif not run_loaded(loadfile()) then
      return 1
    end
  end
  return finish_tasks() and 0 or 1
end

--- Runs a command line.
---@param argv string[] the words, the program's name at index 0
---@return integer # exit code
function cli.main(argv)
  if argv[0] and argv[0] ~= "" then program = argv[0] end
  local command = cli.commands[argv[1]]
  if command then return require(command).main{unpack(argv, 2)} end
  local options, script, limit = parse(argv)
  if not options then return bad_option(argv[script]) end
  if options.help then
    stdout:write(format(USAGE, program), OWN_OPTIONS, HELP)
    return 0
  end
  if options.versions then
    print_versions()
    return 0
  end
  local quiet = getenv("RIVERLUA_QUIET")
  cli.quiet = options.quiet or (quiet ~= nil and quiet ~= "")
  local ok, result = pcall(run_all, argv, options, script, limit)
  if ok then return result end
  if is_interrupt(result) then return interrupted(result.where) end
  report(result)
  return 1
end

return cli
