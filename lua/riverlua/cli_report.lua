--- What the command line says: errors with their tracebacks, usage, help, versions, tasks at the end.

local cli = require("riverlua.cli")

local saved = cli.saved
local getinfo, lua_traceback, getmetatable, format, stderr, stdout, error, pcall, rawget, require, tostring,
  type, loaded = saved.getinfo, saved.traceback, saved.getmetatable, saved.format, saved.stderr,
  saved.stdout, saved.error, saved.pcall, saved.rawget, saved.require, saved.tostring, saved.type, saved.loaded

local report = {}

--- The function that tracebacks call the main chunk though Lua does not; set by the interactive mode.
---@type function|nil
report.chunk = nil

--- The value that ended the last call of the user's code.
---@type any
report.failure = nil

-- ---------------------------------------------------------------------------------------------------------
-- Tracebacks

-- Index of the deepest level, seen from the caller: the command itself.
local function deepest_level()
  local low, high = 1, 1
  while getinfo(high, "l") do low, high = high, high * 2 end
  while low < high - 1 do
    local middle = (low + high) // 2
    if getinfo(middle, "l") then low = middle else high = middle end
  end
  return low - 1
end

-- Calls the chunk of the interactive mode the main chunk: it is a function inside one (riverlua.repl_session).
local function name_main_chunk(text, level)
  level = level + 1
  for at = deepest_level(), level, -1 do
    if getinfo(at, "f").func == report.chunk then
      local line = lua_traceback("", at):match("\n\t([^\n]*)", 2)
      local from, to = text:find(line, 1, true)
      return from and text:sub(1, from - 1) .. line:gsub(": in .*", ": in main chunk") .. text:sub(to + 1) or text
    end
  end
  return text
end

-- Lua's traceback below `message`; level 1 is the caller.
local function with_traceback(message, level)
  local text = lua_traceback(message, level + 1)
  -- An error in the user's __tostring: this file looks as a C function does in the plain interpreter.
  text = text:gsub("\n\t[^\n]*cli_report%.lua:%d+: in [^\n]*", "\n\t[C]: in ?"):gsub(
    "(\n\t%[C%]: in %?)\n\t%(%.%.%.tail calls%.%.%.%)", "%1")
  if report.chunk then return (name_main_chunk(text, level + 1)) end
  return text
end

-- ---------------------------------------------------------------------------------------------------------
-- Running the user's code

-- Whether a function is C's or riverlua's own.
local function is_library(info)
  if info.what == "C" then return true end
  local path = info.source:match("^@.-%f[%w]lua/(.*)")
  return path ~= nil and require("riverlua.core.runtime").is_embedded(path)
end

-- A riverlua error in the words of its tostring, with the script's position in front. The frames of the library
-- say nothing to the user, so the traceback starts at the script, and is left out where it would only repeat
-- the position.
local function describe_failure(failure, level)
  level = level + 1
  local last = deepest_level() - 1
  local at = level
  while at <= last and is_library(getinfo(at, "S")) do at = at + 1 end
  if at > last then return tostring(failure) end
  local info = getinfo(at, "Sl")
  local words = failure.kind == "interrupted" and "interrupted" or tostring(failure)
  local text = format("%s:%d: %s", info.short_src, info.currentline, words)
  if at == last then return text end
  return (with_traceback(text, at))
end

-- The error value as text, for one that has no stack any more.
local function text_of(value)
  local ok, text = pcall(tostring, value)
  return ok and text or format("(error object is a %s value)", type(value))
end

-- An error that came out of an awaited task has a stack of its own.
local function with_task(value, text)
  local tasks = loaded["riverlua.core.task"]
  local inner = tasks and tasks.failure_traceback(value)
  return inner and text .. "\n" .. inner:gsub("^stack traceback:", "in the task that failed:", 1) or text
end

--- The message handler of everything that runs for the user. `__tostring` is called from here directly: scripts
-- can see their place on the stack.
function report.explain(value)
  report.failure = value
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
  text = with_traceback(text, 2)
  return (with_task(value, text))
end

-- ---------------------------------------------------------------------------------------------------------
-- Messages

--- Writes a message to the standard error stream, after the program's name.
---@param message any
function report.say(message)
  if type(message) ~= "string" then message = "(error message not a string)" end
  stderr:write(cli.program and cli.program .. ": " or "", message, "\n")
end

--- Whether an error value is the interrupt.
---@param value any
---@return boolean
function report.is_interrupt(value)
  return type(value) == "table" and rawget(value, "kind") == "interrupted"
end

--- Ends a run that failed: says why, or passes an interrupt on.
---@param message string what `explain` made of the error
function report.failed(message)
  if report.is_interrupt(report.failure) then error({kind = "interrupted", where = message}, 0) end
  report.say(message)
end

-- ---------------------------------------------------------------------------------------------------------
-- Tasks

-- Says which tasks failed without anybody looking. Returns whether there were any.
local function report_failures(tasks)
  local failures = tasks.failures()
  for i = 1, #failures do
    local failed = failures[i]
    report.say(format("task %d failed: %s%s", failed.id, text_of(failed.error),
      failed.traceback and "\n" .. failed.traceback or ""))
  end
  if failures.n > #failures then report.say(format("%d more tasks failed", failures.n - #failures)) end
  return failures.n > 0
end

--- Waits for the tasks that the script left running.
---@return boolean # false when one of them failed and nobody had looked, or when they would wait for ever
function report.finish_tasks()
  local tasks = loaded["riverlua.core.task"]
  -- tasks that work for something the script no longer holds, such as a stream, end with it
  if tasks.waiting()[1] then collectgarbage() end
  local results = cli.call(tasks.drain)
  if not results[1] then report.failed(results[2]) end
  return not report_failures(tasks) and results[1]
end

--- Says which tasks failed since the last time.
function report.new_failures()
  local tasks = loaded["riverlua.core.task"]
  if tasks then report_failures(tasks) end
end

local function end_tasks()
  local tasks = loaded["riverlua.core.task"]
  if not tasks then return end
  cli.call(tasks.cancel_all)
  cli.call(tasks.drain)
end

-- Whether a traceback, as text, passes through a script: tasks of the library's own say nothing to the user.
local function passes_script(traceback)
  for line in traceback:gmatch("\n\t([^\n]*)") do
    local path = line:match("^(.-):%d+: in ")
    if path and not is_library{what = "Lua", source = "@" .. path} then return true end
  end
  return false
end

--- After Ctrl-C: says where everybody was, ends all tasks.
---@param where string|nil where the script was
---@return integer # exit code
function report.interrupted(where)
  report.say(where or "interrupted")
  local tasks = loaded["riverlua.core.task"]
  local waiting = tasks and tasks.waiting() or {}
  for i = 1, #waiting do
    if passes_script(waiting[i].traceback) then
      stderr:write(format("task %d was here:\n%s\n", waiting[i].id, waiting[i].traceback))
    end
  end
  end_tasks()
  return 130
end

--- Runs the interactive mode.
---@param options table the command line's
---@param banner boolean whether to greet
function report.interactive(options, banner)
  local program = cli.program
  cli.program = nil
  require("riverlua.repl").run{report = report, call = cli.call, banner = banner,
    history = not options.ignore_environment}
  cli.program = program
  if require("riverlua.core.terminal").isatty(0) then end_tasks() end
end

-- ---------------------------------------------------------------------------------------------------------
-- Usage, help, versions

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

Commands, in place of options and script:
  serve     offer an embedded service on a socket; 'serve --help' tells more

Environment:
  LUA_INIT_5_4, LUA_INIT     code ('@file': a file) to run first
  LUA_PATH_5_4, LUA_PATH     where require looks for Lua modules
  LUA_CPATH_5_4, LUA_CPATH   where require looks for C modules
  RIVERLUA_HISTORY           history file of the interactive session; empty: none
  RIVERLUA_QUIET             not empty: as --quiet
]]

--- Says what is wrong with an option.
---@param word string
---@return integer # exit code
function report.bad_option(word)
  local letter = word:sub(2, 2)
  if letter == "e" or letter == "l" then
    report.say(format("'%s' needs argument", word))
  else
    report.say(format("unrecognized option '%s'", word))
  end
  stderr:write(format(USAGE, cli.program), OWN_OPTIONS)
  return 1
end

--- Prints Lua's version, as `lua5.4 -v` does.
function report.print_version()
  stdout:write(require("riverlua.core.runtime").lua_copyright, "\n")
  stdout:flush()
end

--- Carries out `--help` and `--version`.
---@param options table
---@return integer # exit code
function report.inform(options)
  if options.help then
    stdout:write(format(USAGE, cli.program), OWN_OPTIONS, HELP)
  else
    stdout:write("riverlua ", require("riverlua.core.runtime").version, "\n")
    report.print_version()
  end
  return 0
end

return report
