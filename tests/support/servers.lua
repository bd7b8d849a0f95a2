--- Starts servers and child scripts for the specs.
--
-- A server is any command that prints one JSON line when it is ready and ends when its standard input closes. Its
-- input is a pipe held here, so it ends with this process whatever happens. Specs load this file with dofile.

local http = require "riverlua.http"
local json = require "riverlua.json"

local servers = {}

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"

--- Where the servers' programs live, with a slash at the end.
servers.folder = folder .. "../servers/"

--- The command under test.
servers.riverlua = os.getenv("RIVERLUA") or "build/riverlua"

local function quote(text)
  return "'" .. tostring(text):gsub("'", "'\\''") .. "'"
end
servers.quote = quote

local function exists(path)
  local file = io.open(path)
  if file then file:close() end
  return file ~= nil
end

local function read_file(path)
  local file = io.open(path, "rb")
  if not file then return "" end
  local text = file:read("a")
  file:close()
  return text
end
servers.read_file = read_file

--- A Python that has what the tests need.
function servers.python()
  return os.getenv("RIVERLUA_TEST_PYTHON") or (exists("build/venv/bin/python") and "build/venv/bin/python") or "python3"
end

--- Whether a program is installed.
function servers.has(program)
  return (os.execute("command -v " .. quote(program) .. " >/dev/null 2>&1"))
end

local Server = {}
Server.__index = Server

--- Starts `words` (a list) and waits for its JSON line, which becomes `server.info`. `environment`: extra variables.
---@param words string[]
---@param environment table<string, string>|nil
function servers.start(words, environment)
  local fifo, complaints = os.tmpname(), os.tmpname()
  os.remove(fifo)
  assert(os.execute("mkfifo " .. quote(fifo)))
  local command = {}
  for name, value in pairs(environment or {}) do command[#command + 1] = name .. "=" .. quote(value) end
  for _, word in ipairs(words) do command[#command + 1] = quote(word) end
  local pipe = assert(io.popen(table.concat(command, " ") .. " >" .. quote(fifo) .. " 2>" .. quote(complaints), "w"))
  -- opens when the shell has opened the other end, and ends when the server dies: no polling
  local reader = assert(io.open(fifo, "r"))
  local line = reader:read("l")
  os.remove(fifo)
  if not line then
    reader:close()
    pipe:close()
    local text = read_file(complaints)
    os.remove(complaints)
    error("cannot start " .. table.concat(words, " ") .. ": " .. text, 2)
  end
  return setmetatable({info = json.decode(line), pipe = pipe, reader = reader, complaints = complaints}, Server)
end

--- Ends the server and waits until it is gone.
function Server:close()
  if not self.pipe then return end
  if self.control_client then self.control_client:close() end
  self.pipe:close()
  self.reader:close()
  os.remove(self.complaints)
  self.pipe = nil
end

Server.__close = Server.close

--- What the server wrote to its standard error so far.
function Server:errors() return read_file(self.complaints) end

--- The address of one of the stub's listeners ("http" unless named), followed by `path`.
function Server:url(path, listener)
  listener = listener or (self.info.http and "http" or "tls")
  local scheme = listener:find("^tls") and "https" or "http"
  local host = listener == "other" and "127.0.0.2" or "127.0.0.1"
  return ("%s://%s:%d%s"):format(scheme, host, self.info[listener], path or "")
end

--- Asks the stub's control listener.
function Server:control(path, query)
  -- never through a proxy that a test sets, and not counted by the stub
  self.control_client = self.control_client or http.Client{proxy = false, retries = 0}
  local res = self.control_client:get(self:url(path, "control"), {query = query})
  assert(res.status == 200, res.body)
  return res:json()
end

--- Counts: accepted and open connections per listener, requests.
function Server:stats() return self:control("/stats") end

--- The requests so far, all or those of one path.
function Server:log(path) return self:control("/log", {path = path}) end

--- Waits until the server has seen what `query` says (see stub_server.py); false after ten seconds.
function Server:wait(query) return not self:control("/wait", query).timeout end

--- Forgets counts and requests.
function Server:reset() return self:control("/reset") end

--- Lets the requests go that wait at /hold with this key.
function Server:release(key) return self:control("/release", {key = key}) end

--- The server of broken answers.
function servers.stub()
  return servers.start{servers.python(), servers.folder .. "stub_server.py"}
end

--- nghttpd with `options`, or nil when it is not installed.
function servers.http2(...)
  if not servers.has("nghttpd") then return nil end
  return servers.start{servers.python(), servers.folder .. "http2_server.py", ...}
end

--- The ways a request can go: through libcurl, or over plain HTTP/1.1 connections of our own, which take those of
--- clients without compression and proxy. `way.Client` makes a client whose requests go that way where they can.
servers.ways = {}
for name, extra in pairs{libcurl = {}, plain = {decompress = false, proxy = false}} do
  servers.ways[name] = {
    name = name,
    plain = name == "plain",
    Client = function(options)
      local all = {}
      for key, value in pairs(extra) do all[key] = value end
      for key, value in pairs(options or {}) do all[key] = value end
      return http.Client(all)
    end,
  }
end

--- Describes the same over both ways; `describe` is busted's, which only specs see.
---@param describe function
---@param what string
---@param specs fun(way: table)
function servers.over_both_ways(describe, what, specs)
  for _, name in ipairs{"libcurl", "plain"} do
    describe(what .. " over " .. name, function() specs(servers.ways[name]) end)
  end
end

local Child = {}
Child.__index = Child

--- Runs `script` (text) in a fresh riverlua. Returns {code, out, err}; a script that hangs is ended with code 124.
---@param script string
---@param options { args: string[]|nil, environment: table|nil, seconds: integer|nil, prefix: string|nil }|nil
function servers.run(script, options)
  options = options or {}
  local path, out, err = os.tmpname(), os.tmpname(), os.tmpname()
  local file <close> = assert(io.open(path, "wb"))
  file:write(script)
  file:close()
  local words = {}
  for name, value in pairs(options.environment or {}) do words[#words + 1] = name .. "=" .. quote(value) end
  words[#words + 1] = ("timeout -k 5 %d"):format(options.seconds or 60)
  words[#words + 1] = options.prefix
  words[#words + 1] = quote(servers.riverlua)
  words[#words + 1] = quote(path)
  for _, word in ipairs(options.args or {}) do words[#words + 1] = quote(word) end
  words[#words + 1] = (">%s 2>%s </dev/null"):format(quote(out), quote(err))
  local _, how, code = os.execute(table.concat(words, " "))
  local result = {code = how == "exit" and code or 128 + code, out = read_file(out), err = read_file(err)}
  os.remove(path)
  os.remove(out)
  os.remove(err)
  return setmetatable(result, Child)
end

--- The number of open file descriptors of this process.
function servers.open_files()
  local lfs = require "lfs"
  local count = 0
  for _ in lfs.dir("/proc/self/fd") do count = count + 1 end
  return count
end

--- The path of a module for Lua with fork and wait (fork.c), made for this occasion; for the caller to remove.
function servers.fork_library()
  local library = os.tmpname() .. ".so"
  assert(os.execute(("${CC:-cc} -shared -fPIC $(pkg-config --cflags lua5.4) -o %s %s"):format(quote(library),
    quote(folder .. "fork.c"))))
  return library
end

--- Calls `fn` and returns the error that it must raise.
function servers.error_of(fn, ...)
  local ok, err = pcall(fn, ...)
  if ok then error("no error was raised", 2) end
  return err
end

return servers
