-- A server for the checks of wire.py. Prints one JSON line when it is ready; stops when its standard input ends.
-- arg[1]: JSON with options of riverlua.server.

local core = require "riverlua.core.task"
local json = require "riverlua.json"
local task = require "riverlua.task"

local options = arg[1] and json.decode(arg[1]) or {}
local closed, failures = 0, 0
local changed = core.signal()
local released = core.signal()
local server

local function text(body) return {status = 200, headers = {["content-type"] = "text/plain"}, body = body} end

-- Megabytes of memory that this process has.
local function resident()
  local statm <close> = io.open("/proc/self/statm")
  statm:read("n")
  return statm:read("n") * 4096 // 1000000
end

local function open_files()
  local count = 0
  for _ in require("lfs").dir("/proc/self/fd") do count = count + 1 end
  return count
end

local function wait_until(condition)
  local due = task.now() + 20
  while not condition() and task.now() < due do changed:wait(due - task.now()) end
  return text(tostring(condition()))
end

-- Counts what is closed; `held`: waits for ever after the first piece.
local function stream(count, held)
  local i = 0
  return {status = 200, headers = {["content-type"] = "text/event-stream"},
    stream = function()
      i = i + 1
      if held and i > 1 then core.signal():wait() end
      if i <= count then return ("piece %d\n"):format(i) end
    end,
    close = function()
      closed = closed + 1
      changed:fire()
    end}
end

local routes = {
  echo = function(req)
    local headers = {}
    for name, value in pairs(req.headers) do headers[name] = value end
    return {status = 200, headers = {["content-type"] = "application/json"}, body = json.encode{method = req.method,
      path = req.path, version = req.version, body = req.body, headers = headers, address = req.address,
      any_case = req.headers["X-Any-CASE"]}}
  end,
  large = function(_, n) return text(("x"):rep(tonumber(n))) end,
  stream = function(_, n) return stream(tonumber(n)) end,
  held = function() return stream(math.huge, true) end,
  flood = function()
    local res = stream(1)
    res.stream = function() return ("x"):rep(100000) end
    return res
  end,
  broken = function()
    local res = stream(1)
    res.stream = function() error("the stream broke") end
    return res
  end,
  state = function()
    return text(json.encode{open = server.listener:open(), accepted = server.accepted, requests = server.requests,
      closed = closed, failures = failures, files = open_files(), resident = resident()})
  end,
  wait_closed = function(_, n) return wait_until(function() return closed >= tonumber(n) end) end,
  wait_open = function(_, n)
    local due = task.now() + 20
    while server.listener:open() > tonumber(n) and task.now() < due do server.changed:wait(due - task.now()) end
    return text(tostring(server.listener:open()))
  end,
  wait_served = function(_, n)
    local due = task.now() + 20
    while server.served > tonumber(n) and task.now() < due do server.changed:wait(due - task.now()) end
    return text(tostring(server.served))
  end,
  hold = function()
    released:wait()
    return text("released")
  end,
  release = function()
    released:fire()
    return text("")
  end,
  boom = function() error("a secret of the handler") end,
  injection = function() return {status = 200, headers = {["x-a"] = "b\r\nX-Evil: 1"}} end,
  no_answer = function() return nil end,
  nothing = function() return {status = 204} end,
  cookies = function() return {status = 200, headers = {["set-cookie"] = {"a=1", "b=2"}}, body = "two"} end,
  close = function() return {status = 200, headers = {connection = "close"}, body = "bye"} end,
  stop = function()
    server:stop()
    released:fire()
    return text("stopping")
  end,
}

options.handler = function(req)
  local name, rest = req.path:match("^/([%w_]*)/?([^?]*)")
  local route = routes[name]
  if route then return route(req, rest) end
  return {status = 404, body = "no such path"}
end
-- With the option `me`: large bodies are for that caller only.
local me = options.me
options.me = nil
options.accept = me and function(req)
  if req.headers.authorization ~= me then return {status = 401, body = "who are you?"} end
end
options.on_error = function() failures = failures + 1 end

server = require("riverlua.server").new(options)
task.spawn(function()
  core.wait_readable(0)
  io.stdin:read(1)
  server:stop()
end)
local stat <close> = io.open("/proc/self/stat")
io.stdout:write(json.encode{port = server.port, pid = stat:read("n")}, "\n")
io.stdout:flush()
local signal = server:run{signals = true}
io.stdout:write(json.encode{ended = signal or "stop"}, "\n")
os.exit(0, true)
