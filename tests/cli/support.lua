--- Runs the built command for the specs of this folder.

local support = {}

--- The command under test and the one it is compared with.
support.riverlua = os.getenv("RIVERLUA") or "build/riverlua"
support.lua = os.getenv("LUA54") or "lua5.4"

local function quote(word)
  return "'" .. word:gsub("'", "'\\''") .. "'"
end

local function read_all(path)
  local file <close> = assert(io.open(path, "rb"))
  return file:read("a")
end

--- A temporary folder, removed when the variable goes out of scope.
---@return table # `path`, `write(self, name, text)` → path of the file
function support.folder()
  local path = os.tmpname()
  os.remove(path)
  assert(os.execute("mkdir -m 700 " .. quote(path)))
  local folder = {path = path}
  function folder.write(_, name, text)
    local file <close> = assert(io.open(path .. "/" .. name, "wb"))
    file:write(text)
    return path .. "/" .. name
  end
  function folder.remove()
    os.execute("rm -rf " .. quote(path))
  end
  return setmetatable(folder, {__close = folder.remove})
end

--- Runs a command to its end.
---@param words string[] the command and its arguments
---@param options table|nil `input` text for its standard input (default: empty), `env` variables, `clean` start from
--- an empty environment
---@return string out
---@return string err
---@return integer code exit code; 128 + n for signal n
function support.run(words, options)
  options = options or {}
  local folder <close> = support.folder()
  local input = folder:write("in", options.input or "")
  -- A command that hangs is a failure, not a wait.
  local line = {"timeout -s KILL 60 env", options.clean and "-i" or "-u LUA_INIT"}
  for name, value in pairs(options.env or {}) do line[#line + 1] = quote(name .. "=" .. value) end
  for _, word in ipairs(words) do line[#line + 1] = quote(word) end
  -- cat: a pipe, as most standard inputs of tests are; some calls tell files and pipes apart.
  local command = ("cat %s | %s >%s/out 2>%s/err"):format(input, table.concat(line, " "), folder.path, folder.path)
  local _, how, code = os.execute(command)
  if how == "signal" then code = 128 + code end
  return read_all(folder.path .. "/out"), read_all(folder.path .. "/err"), code
end

--- Drives the command on a pseudo-terminal: see pty_driver.py.
---@param words string[] command and arguments
---@param steps table[] {send = text} or {expect = text} or {close = true}
---@param env table|nil
---@return string transcript everything the terminal showed
---@return integer code exit code of the command
function support.terminal(words, steps, env)
  local folder <close> = support.folder()
  local function literal(text)
    return (text:gsub("[^%w]", function(c) return ("%%%02x"):format(c:byte()) end))
  end
  local lines = {}
  for _, step in ipairs(steps) do
    local kind, text = next(step)
    lines[#lines + 1] = kind .. " " .. literal(tostring(text))
  end
  local script = folder:write("steps", table.concat(lines, "\n") .. "\n")
  local variables = {}
  for name, value in pairs(env or {}) do variables[#variables + 1] = quote(name .. "=" .. value) end
  local command = {"env", table.concat(variables, " "), "python3 tests/cli/pty_driver.py", quote(script)}
  for _, word in ipairs(words) do command[#command + 1] = quote(word) end
  local pipe = assert(io.popen(table.concat(command, " ") .. " 2>&1", "r"))
  local transcript = pipe:read("a")
  local _, _, code = pipe:close()
  return transcript, code
end

return support
