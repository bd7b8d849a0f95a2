--- The riverlua command line. Without riverlua's own options it does what `lua5.4` does: same options, same
-- messages, same exit codes. main.c calls `main(argv)` on the main thread and exits with the integer it returns.
--
-- This file is read at every start, so it holds what it takes to run a script; what is said about errors, help
-- and versions is in riverlua.cli_report.

-- Taken before any script can replace them.
local getenv, load, loadfile, pack, pcall, rawget, require, type, unpack, warn, xpcall =
  os.getenv, load, loadfile, table.pack, pcall, rawget, require, type, table.unpack, warn, xpcall
local isyieldable, yield = coroutine.isyieldable, coroutine.yield
local loaded, globals = package.loaded, _G

local cli = {}

--- Set by `--quiet`: `riverlua.progress` draws nothing.
cli.quiet = false

--- The command's name in front of messages; nil while interactive.
---@type string|nil
cli.program = "riverlua"

--- Subcommands: `riverlua <name> …` requires the module and calls its `main(arguments)`, which returns the exit
-- code. A subcommand counts only as the first argument.
---@type table<string, string>
cli.commands = {serve = "riverlua.serve_command"}

-- Options that are a letter and nothing more, and long ones; value: the field set.
local FLAGS = {E = "ignore_environment", W = "warnings", i = "interactive", v = "version"}
local LONG = {["--help"] = "help", ["--version"] = "versions", ["--quiet"] = "quiet"}

--- What riverlua.cli_report needs of the standard libraries: a script that fails may have taken them apart.
cli.saved = {getinfo = debug.getinfo, traceback = debug.traceback, getmetatable = debug.getmetatable,
  format = string.format, stderr = io.stderr, stdout = io.stdout, error = error,
  pcall = pcall, rawget = rawget, require = require, tostring = tostring, type = type, loaded = loaded}

-- For a script that has even broken `require`.
local function last_resort()
  local saved = cli.saved
  local function say(message) saved.stderr:write(cli.program or "", ": ", saved.tostring(message), "\n") end
  local function explain(value) return (saved.traceback(saved.tostring(value), 2)) end
  return {explain = explain, say = say, failed = say}
end

local function reporter()
  local ok, report = pcall(require, "riverlua.cli_report")
  return ok and report or last_resort()
end

-- Message handler. The tail call leaves no level of its own on the stack, which scripts can see.
local function explain(value)
  return reporter().explain(value)
end

--- Calls a function of the user's; returns what xpcall does, packed. Under riverlua_command this file runs in a
-- coroutine and the call is made outside of it (src/lua_command.c): the user's stack is the plain interpreter's.
---@return table
function cli.call(f, ...)
  if isyieldable() then return pack(yield(explain, f, ...)) end
  return pack(xpcall(f, explain, ...))
end

-- Runs `f(...)`; says what went wrong. Returns true and its results (packed) when nothing did.
local function run(f, ...)
  local results = cli.call(f, ...)
  if not results[1] then reporter().failed(results[2]) end
  return results[1], results
end

local function run_loaded(chunk, message)
  if chunk then return (run(chunk)) end
  reporter().say(message)
  return false
end

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
  local arg = globals.arg
  if not chunk or type(arg) ~= "table" then
    reporter().say(message or "'arg' is not a table")
    return false
  end
  return (run(chunk, unpack(arg, 1, #arg)))
end

local function run_all(argv, options, script, limit)
  if options.version or options.interactive then reporter().print_version() end
  make_arg(argv, script)
  collectgarbage("generational")
  if not options.ignore_environment and not run_environment_code() then return 1 end
  if not run_options(argv, limit) then return 1 end
  if script and not run_script(argv, script) then return 1 end
  if options.interactive then
    reporter().interactive(options, false)
  elseif not (script or options.execute or options.version) then
    if require("riverlua.core.terminal").isatty(0) then
      reporter().print_version()
      reporter().interactive(options, true)
    else
      run_loaded(loadfile()) -- lua5.4 ends with 0 whatever came of it
    end
  end
  -- Tasks that the script left running.
  if loaded["riverlua.core.task"] and not reporter().finish_tasks() then return 1 end
  return 0
end

-- A subcommand may block, so it is called as the user's code is.
local function run_command(command, argv)
  local ok, results = run(require(command).main, {unpack(argv, 2)})
  return ok and results[2] or 1
end

--- Runs a command line.
---@param argv string[] the words, the program's name at index 0
---@return integer # exit code
function cli.main(argv)
  if argv[0] and argv[0] ~= "" then cli.program = argv[0] end
  local command = cli.commands[argv[1]]
  local ok, result
  if command then
    ok, result = pcall(run_command, command, argv)
  else
    local options, script, limit = parse(argv)
    if not options then return reporter().bad_option(argv[script]) end
    if options.help or options.versions then return reporter().inform(options) end
    cli.quiet = options.quiet or (getenv("RIVERLUA_QUIET") or "") ~= ""
    ok, result = pcall(run_all, argv, options, script, limit)
  end
  if ok then return result end
  if type(result) == "table" and rawget(result, "kind") == "interrupted" then
    return reporter().interrupted(rawget(result, "where"))
  end
  reporter().say(result)
  return 1
end

return cli
