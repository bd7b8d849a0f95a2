--- What the tests of the river client share: a real server, Python, and a transport that records.

local support = {}

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"

--- Where these tests live, with a slash at the end.
support.folder = folder

local python = dofile(folder .. "../support/python.lua")

--- The Python of the test environment.
function support.python() return python.path end

local function quote(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end
support.quote = quote

--- A name for a temporary file that does not exist.
function support.temporary_name()
  local name = os.tmpname()
  os.remove(name)
  return name
end

--- Starts a real River server on a port of its own; it ends when `stop` is called or this process ends.
---@param environment table<string, string>|nil further variables of its environment
---@return table server {url, port, user, token, stop}
function support.start_server(environment)
  local variables = {}
  -- some models iterate over sets of strings: equal runs need equal hashes
  variables[1] = python.variables
  for name, value in pairs(environment or {}) do variables[#variables + 1] = name .. "=" .. quote(value) end
  -- its standard input is ours, so its first line comes back through a named pipe
  local fifo = support.temporary_name()
  assert(os.execute("mkfifo " .. quote(fifo)))
  local input = assert(io.popen(("exec env %s %s %s > %s"):format(table.concat(variables, " "),
    quote(support.python()), quote(folder .. "../servers/river_server/serve.py"), quote(fifo)), "w"))
  local output = assert(io.open(fifo, "r"))
  local line = output:read("l")
  output:close()
  os.remove(fifo)
  if not line then
    input:close()
    error("the River server did not start with " .. support.python() .. " (RIVERLUA_TEST_PYTHON names another)")
  end
  local ready = require("riverlua.json").decode(line)
  local server = {port = ready.port, url = ("http://127.0.0.1:%d"):format(ready.port), user = ready.user,
    token = ready.token, pid = ready.pid, state = ready.state}
  function server.stop()
    if input then input:close() end
    input = nil
  end
  return server
end

--- Runs a Python script of this folder and returns its lines, decoded from JSON.
---@param script string file name
---@param ... string arguments
---@return table[]
function support.run_python(script, ...)
  local words = {python.variables, quote(support.python()), quote(folder .. script)}
  for _, argument in ipairs{...} do words[#words + 1] = quote(argument) end
  local pipe = assert(io.popen(table.concat(words, " ") .. " </dev/null", "r"))
  local decode = require("riverlua.json").decode
  local lines = {}
  for line in pipe:lines() do lines[#lines + 1] = decode(line) end
  assert(pipe:close(), script .. " failed")
  return lines
end

--- A transport without a network: `answer(req)` gives {status, body, headers}; requests are kept in `requests`.
---@param answer (fun(req: table): table)|table
---@return table transport
function support.fake_transport(answer)
  local transport = {requests = {}, closed = 0}
  function transport:request(req)
    self.requests[#self.requests + 1] = req
    local given = type(answer) == "function" and answer(req) or answer
    local body = given.body or ""
    return {status = given.status or 200, headers = given.headers or {}, body = body,
      json = function() return require("riverlua.json").decode(body) end}
  end
  function transport:close() self.closed = self.closed + 1 end
  return transport
end

--- Bytes as hexadecimal text.
function support.hex(bytes)
  return (bytes:gsub(".", function(char) return ("%02x"):format(char:byte()) end))
end

--- The error that a call raises; fails when there is none.
function support.error_of(call, ...)
  local ok, err = pcall(call, ...)
  assert(not ok, "an error was expected")
  return err
end

return support
