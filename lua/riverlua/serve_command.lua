--- `riverlua serve <service>`: riverlua's embedded services on a socket.

local errors = require "riverlua.errors"

local serve_command = {}

-- Service → module whose field `command` says how it is served: see river.serve.
local SERVICES = {modelriver = "modelriver.serve", river = "river.serve", training = "training.serve"}

local COMMON = [[
  --json          say where it listens as one line of JSON (port, pid, url), for programs
  --stdin         stop when the standard input ends: a program that starts a server holds its pipe
  --help          show this help]]

local function service_names()
  local names = {}
  for name in pairs(SERVICES) do names[#names + 1] = name end
  table.sort(names)
  return names
end

local function overview()
  local lines = {"usage: riverlua serve <service> [options]", "Services:"}
  for _, name in ipairs(service_names()) do
    lines[#lines + 1] = ("  %-13s %s"):format(name, require(SERVICES[name]).command.summary)
  end
  lines[#lines + 1] = "riverlua serve <service> --help tells about its options."
  return table.concat(lines, "\n") .. "\n"
end

local function complain(text)
  io.stderr:write("riverlua serve: ", text, "\n")
  return 1
end

-- An option as it is written; those of two words have a hyphen where the help shows one.
local function spelled(name, command)
  local hyphened = "--" .. name:gsub("_", "-")
  return command.help:find(hyphened, 1, true) and hyphened or "--" .. name
end

local function refuse_word(word, command)
  local known = {json = true, stdin = true, help = true}
  for name in pairs(command.options) do known[name] = true end
  local near = errors.suggest(word:gsub("^%-+", ""):gsub("-", "_"), known)
  errors.raise{kind = "argument", message = ("unknown option '%s'"):format(word:match("^[^=]*")),
    hint = near and ("did you mean %s?"):format(spelled(near, command)) or "--help lists the options"}
end

-- The words after the service's name as a table of options, and the flags.
local function parse(words, command)
  local options, flags = {}, {}
  local i = 1
  while words[i] do
    local name, value = words[i]:match("^%-%-([%w_-]+)=(.*)$")
    name = name or words[i]:match("^%-%-([%w_-]+)$")
    name = name and name:gsub("-", "_")
    if name == "json" or name == "stdin" or name == "help" then
      flags[name] = true
    elseif name and command.options[name] then
      if not value then
        i = i + 1
        value = words[i]
      end
      if not value then errors.raise{kind = "argument", message = spelled(name, command) .. " needs a value"} end
      options[name] = value
    else
      refuse_word(words[i], command)
    end
    i = i + 1
  end
  return options, flags
end

local function complete(options, command)
  for name, variable in pairs(command.environment or {}) do
    local value = os.getenv(variable)
    if options[name] == nil and value and value ~= "" then options[name] = value end
  end
  for name, value in pairs(command.defaults or {}) do
    if options[name] == nil then options[name] = value end
  end
  for name, kind in pairs(command.options) do
    if kind == "N" and options[name] ~= nil then
      local number = math.tointeger(tonumber(options[name]))
      if not number or number < 0 then
        errors.raise{kind = "argument", message = spelled(name, command) .. " must be a whole number"}
      end
      if name == "port" and number > 65535 then
        errors.raise{kind = "argument", message = "--port is at most 65535"}
      end
      options[name] = number
    end
  end
  return options
end

local function process_id()
  local file <close> = io.open("/proc/self/stat")
  return file and file:read("n")
end

local function announce(served, flags)
  if flags.json then
    local encode = require("riverlua.json").encode
    io.stdout:write(encode({pid = process_id(), port = served.port, url = served.url}, {sort = true}), "\n")
  else
    io.stdout:write(("listening on %s (Ctrl-C stops)\n"):format(served.url))
  end
  io.stdout:flush()
end

-- Returns when the standard input has ended; what comes before that is of no interest.
local function wait_for_end_of_input()
  local wait_readable = require("riverlua.core.task").wait_readable
  io.stdin:setvbuf("no")
  repeat wait_readable(0) until not io.stdin:read(1)
end

local function run(served, flags)
  local task = require "riverlua.task"
  local watcher
  if flags.stdin then
    watcher = task.spawn(function()
      wait_for_end_of_input()
      served:stop()
    end)
  end
  local _ <close> = watcher
  served:run{signals = true, ready = function() announce(served, flags) end}
end

local function serve(command, words)
  local options, flags = parse(words, command)
  if flags.help then return nil, true end
  return command.open(complete(options, command)), flags
end

-- What is wrong with the options, in the words of who typed them: "training.serve: 'threads' must be …" is not.
local function explained(problem, name, command)
  local text, own = problem.message, SERVICES[name] .. ": "
  if problem.kind == "argument" and text:sub(1, #own) == own then
    text = text:sub(#own + 1):gsub("^'([%w_]+)'", function(option)
      return command.options[option] and spelled(option, command)
    end)
  end
  return text .. (problem.hint and " (" .. problem.hint .. ")" or "")
end

--- Runs `riverlua serve …`.
---@param words string[] what follows "serve"
---@return integer # exit code: 0 after Ctrl-C, SIGTERM or the end of the input
function serve_command.main(words)
  local name = words[1]
  if not name or name == "--help" then
    (name and io.stdout or io.stderr):write(overview())
    return name and 0 or 1
  end
  if not SERVICES[name] then
    complain(("there is no service '%s'"):format(name))
    io.stderr:write(overview())
    return 1
  end
  local command = require(SERVICES[name]).command
  local ok, served, flags = pcall(serve, command, table.move(words, 2, #words, 1, {}))
  if not ok then
    if not errors.is(served) or errors.is(served, "interrupted") then error(served, 0) end
    return complain(explained(served, name, command))
  end
  if not served then
    io.stdout:write(("usage: riverlua serve %s [options]\n%s\n%s\n"):format(name, command.help, COMMON))
    return 0
  end
  local _ <close> = served
  run(served, flags)
  return 0
end

return serve_command
