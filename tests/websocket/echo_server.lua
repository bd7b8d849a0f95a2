-- A server of WebSockets for clients of other makers. Prints one JSON line; stops when its standard input ends.
-- /echo sends back; /code?4001 closes so; /boom raises; /pings pings and says what came of it; /large sends
-- a megabyte; /limit accepts 100 bytes; /state answers plainly: open connections, descriptors, faults, and closes seen.

local core = require "riverlua.core.task"
local errors = require "riverlua.errors"
local json = require "riverlua.json"
local task = require "riverlua.task"

local options = arg[1] and json.decode(arg[1]) or {}
local failures, closes, server = 0, {}, nil

local function open_files()
  local count = 0
  for _ in require("lfs").dir("/proc/self/fd") do count = count + 1 end
  return count
end

local function echo(ws)
  local ok, err = pcall(function()
    for data, kind in ws:messages() do ws:send(data, kind) end
  end)
  closes[#closes + 1] = {code = ok and ws.close_code or err.code, kind = err and err.kind, reason = ws.close_reason}
  server.changed:fire()
  if errors.is(err, "cancelled") then error(err, 0) end
end

local routes = {
  echo = function() return {websocket = echo, subprotocols = {"beta", "gamma"}, max_message = 16 << 20} end,
  limit = function() return {websocket = echo, max_message = 100} end,
  code = function(code)
    return {websocket = function(ws) ws:close(tonumber(code), "as you like") end}
  end,
  boom = function() return {websocket = function() error("on purpose") end} end,
  pings = function()
    return {websocket = function(ws)
      for i = 1, 10 do ws:ping("number " .. i, 5) end
      ws:send("answered")
      ws:receive()
    end}
  end,
  large = function() return {websocket = function(ws) ws:send(("x"):rep(1 << 20), "binary") end} end,
  headers = function()
    return {status = 101, headers = {["x-own"] = "1"}, websocket = function(ws) ws:send(ws.headers["x-mine"] or "") end}
  end,
  wrong = function() return {websocket = "not a function"} end,
  state = function(count)
    local due = task.now() + 10
    while #closes < (tonumber(count) or 0) and task.now() < due do server.changed:wait(due - task.now()) end
    return {status = 200, body = json.encode{open = server.listener:open(), files = open_files(), failures = failures,
      streams = server.streams, closes = json.array(closes)}}
  end,
}

options.handler = function(req)
  local name, rest = req.path:match("^/(%w*)%??(.*)")
  return routes[name] and routes[name](rest) or {status = 404}
end
options.on_error = function() failures = failures + 1 end

server = require("riverlua.server").new(options)
task.spawn(function()
  core.wait_readable(0)
  io.stdin:read(1)
  server:stop()
end)
io.stdout:write(json.encode{port = server.port}, "\n")
io.stdout:flush()
server:run()
os.exit(0, true)
