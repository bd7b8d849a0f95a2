--- The interactive mode.
--
-- It reads, compiles and reports as `lua5.4 -i` does, with three additions: locals live on from line to line
-- (riverlua.repl_session), a table is shown by its contents unless it has its own __tostring or __name
-- (riverlua.pretty), and on a terminal there are line editing, history and completion.

local repl = {}

local stdout, stderr, stdin = io.stdout, io.stderr, io.stdin
local globals = _G

local HISTORY_LIMIT = 1000

-- ---------------------------------------------------------------------------------------------------------
-- History: one line of input per line of the file

-- Makes the folders above a file. Failures show when the file is opened.
local function make_folders(terminal, path)
  for at in path:gmatch("()/") do
    if at > 1 then terminal.make_folder(path:sub(1, at - 1)) end
  end
end

--- Where the history is kept: RIVERLUA_HISTORY (empty: nowhere), else in the user's state folder.
---@return string|nil
function repl.history_path()
  local path = os.getenv("RIVERLUA_HISTORY")
  if path then return path ~= "" and path or nil end
  local folder = os.getenv("XDG_STATE_HOME")
  if folder and folder:sub(1, 1) == "/" then return folder .. "/riverlua/history" end
  local home = os.getenv("HOME")
  return home and home ~= "" and home .. "/.local/state/riverlua/history" or nil
end

-- Gives the editor the lines of earlier sessions; shortens a file that grew too long.
local function load_history(terminal, editor, path)
  local file = io.open(path, "r")
  if not file then return end
  local lines = {}
  for line in file:lines() do lines[#lines + 1] = line end
  file:close()
  local first = math.max(1, #lines - HISTORY_LIMIT + 1)
  for i = first, #lines do editor:add(lines[i]) end
  if #lines > 2 * HISTORY_LIMIT then
    terminal.write_private(path, table.concat(lines, "\n", first) .. "\n", false)
  end
end

-- ---------------------------------------------------------------------------------------------------------
-- Reading lines

-- The loop's way to wait for input, so that tasks go on at the prompt; nil: just block.
local function waiter()
  local ok, core = pcall(require, "riverlua.core.task")
  return ok and core.wait_readable or nil
end

-- A reader for pipes and for terminals without an editor. Echoes what it reads when the terminal does not, so
-- that a transcript shows prompts and input.
local function plain_reader(terminal, call)
  local on_terminal = terminal.isatty(0)
  local wait = on_terminal and waiter()
  return function(prompt)
    stdout:write(prompt)
    stdout:flush()
    if wait then
      local results = call(wait, 0)
      if not results[1] then error({kind = "interrupted"}, 0) end
    end
    local line = stdin:read("L")
    if not line then return nil end
    line = line:gsub("\n$", "")
    if not on_terminal then
      stdout:write(line, "\n")
      stdout:flush()
    end
    return line
  end
end

-- A reader with editing, history and completion; nil when there is no (capable) terminal or no library for it.
local function editing_reader(terminal, session, with_history)
  if not (terminal.isatty(0) and terminal.isatty(1)) or (os.getenv("TERM") or "dumb") == "dumb" then return nil end
  -- libedit tells characters apart by the locale.
  if not (os.setlocale("", "ctype") or ""):lower():find("utf%-?8") then os.setlocale("C.UTF-8", "ctype") end
  local editor = terminal.editor()
  if not editor then return nil end
  local path = with_history and repl.history_path()
  if path then
    make_folders(terminal, path)
    load_history(terminal, editor, path)
  end
  local wait = waiter()
  local function press(before)
    return require("riverlua.repl_complete").press(before, session, terminal.size(1) or 80)
  end
  local last
  return function(prompt)
    stdout:flush()
    local line, reason, cause = editor:read(prompt, wait, press)
    if reason == "interrupted" then error(cause or {kind = "interrupted"}, 0) end
    if line and line:find("%S") and line ~= last then
      last = line
      editor:add(line)
      if path then terminal.write_private(path, line .. "\n", true) end
    end
    return line
  end, editor
end

-- ---------------------------------------------------------------------------------------------------------
-- Compiling

local function prompt_text(first)
  local prompt
  if first then prompt = globals._PROMPT else prompt = globals._PROMPT2 end
  if prompt == nil then return first and "> " or ">> " end
  return tostring(prompt)
end

local function incomplete(message)
  return message:sub(-5) == "<eof>"
end

-- Reads one complete chunk. Returns its text and nil, or nil and a syntax error; nothing at the end of input.
local function read_chunk(read)
  local text = read(prompt_text(true))
  if not text then return nil end
  if text:sub(1, 1) == "=" then text = "return " .. text:sub(2) end
  local expression = "return " .. text .. ";"
  if load(expression, "=stdin") then return expression end
  while true do
    local chunk, message = load(text, "=stdin")
    if chunk then return text end
    local more = incomplete(message) and read(prompt_text(false))
    if not more then return nil, message end
    text = text .. "\n" .. more
  end
end

-- ---------------------------------------------------------------------------------------------------------
-- Showing results

local function has_own_text(value)
  local metatable = debug.getmetatable(value)
  return type(metatable) == "table" and (rawget(metatable, "__tostring") ~= nil or rawget(metatable, "__name") ~= nil)
end

local function show(results, width)
  if results.n < 2 then return end
  for i = 2, results.n do
    local value = results[i]
    if type(value) == "table" and not has_own_text(value) then
      results[i] = require("riverlua.pretty").format(value, {width = width})
    elseif type(value) == "userdata" and require("riverlua.pretty").is_null(value) then
      results[i] = "null"
    end
  end
  local ok, message = pcall(globals.print, table.unpack(results, 2, results.n))
  if not ok then stderr:write(("error calling 'print' (%s)\n"):format(tostring(message))) end
end

-- ---------------------------------------------------------------------------------------------------------

--- Runs the interactive mode until the end of its input.
---@param host table what the command line lends: `call(f)` (what xpcall returns, packed), `report` (see
--- riverlua.cli_report), `banner` (whether to greet), `history` (whether to keep one)
function repl.run(host)
  local terminal = require("riverlua.core.terminal")
  local interrupt_handled = require("riverlua.core.runtime").interrupt_handled
  local session = require("riverlua.repl_session").new()
  local read, editor = editing_reader(terminal, session, host.history)
  local _ <close> = editor
  read = read or plain_reader(terminal, host.call)
  if host.banner then
    stdout:write("riverlua ", require("riverlua.core.runtime").version, "; Tab completes names, Ctrl-D ends\n")
  end

  local function step()
    local text, message = read_chunk(read)
    if not text then return message ~= nil, message end
    local chunk, problem, wrapped = session:compile(text, "=stdin")
    if not chunk then return true, problem end
    host.report.chunk = wrapped and chunk or nil
    local results = host.call(chunk)
    host.report.new_failures()
    if results[1] then
      show(results, terminal.size(1) or 80)
      return true
    end
    if host.report.is_interrupt(host.report.failure) then return true, "interrupted" end
    return true, results[2]
  end

  while true do
    interrupt_handled()
    -- An interrupt may also hit the prompt: the line is dropped and a new one begun.
    local ok, go_on, message = pcall(step)
    if not ok then
      if not host.report.is_interrupt(go_on) then error(go_on, 0) end
      stdout:write("\n")
    else
      if message then host.report.say(message) end
      if not go_on then break end
    end
  end
  host.report.chunk = nil
  stdout:write("\n")
end

return repl
