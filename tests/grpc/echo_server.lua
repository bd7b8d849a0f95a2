-- A gRPC server for the checks of server_wire.py. Prints one JSON line when it is ready; stops when its standard
-- input ends. arg[1]: JSON with options of riverlua.grpc_server; `me`: only calls with this metadata `who` are
-- taken.

local core = require "riverlua.core.task"
local grpc_server = require "riverlua.grpc_server"
local json = require "riverlua.json"
local task = require "riverlua.task"

local options = arg[1] and json.decode(arg[1]) or {}
local me = options.me
options.me = nil

local counts = {held = 0, cancelled = 0, stubborn = 0, received = 0}
local changed, released = core.signal(), core.signal()
local server

local function count(name, by)
  counts[name] = counts[name] + by
  changed:fire()
end

local function told()
  local stats = server:stats()
  for name, value in pairs(counts) do stats[name] = value end
  local statm <close> = io.open("/proc/self/statm")
  statm:read("n")
  stats.resident = statm:read("n") * 4096
  return stats
end

-- Waits until the call is cancelled.
local function hold()
  local _ <close> = setmetatable({}, {__close = function()
    count("held", -1)
    count("cancelled", 1)
  end})
  count("held", 1)
  core.signal():wait()
end

options.handlers = {
  ["/t.T/Echo"] = function(request)
    count("received", #request)
    return request
  end,
  ["/t.T/Hold"] = hold,
  ["/t.T/Large"] = function(request) return ("x"):rep(tonumber(request)) end,
  ["/t.T/Many"] = {stream = function(request, call)
    local number, size = request:match("(%d+) (%d+)")
    for _ = 1, number do
      if not call:send(("x"):rep(tonumber(size))) then return end
    end
  end},
  -- goes on whatever it is told, until somebody releases it
  ["/t.T/Stubborn"] = function()
    count("stubborn", 1)
    local done = false
    while not done do done = pcall(released.wait, released) end
    count("stubborn", -1)
    return ""
  end,
  ["/t.T/Release"] = function()
    released:fire()
    return ""
  end,
  ["/t.T/Bug"] = function() error("a secret", 0) end,
  ["/t.T/Stats"] = function() return json.encode(told()) end,
  -- waits until a count is as it is wanted (at most ten seconds)
  ["/t.T/Wait"] = function(request)
    local name, wanted = request:match("(%w+) (%d+)")
    local due = task.now() + 10
    while told()[name] ~= tonumber(wanted) and task.now() < due do changed:wait(0.02) end
    return json.encode(told())
  end,
}
options.on_error = function(problem, call) print(("%s: %s"):format(call.method, tostring(problem))) end
if me then
  options.accept = function(call)
    if call.metadata.who ~= me then grpc_server.fail("UNAUTHENTICATED", "who are you?") end
  end
end

server = grpc_server.Server(options)
local ended
local watcher <close> = task.spawn(function()   -- luacheck: ignore 211
  io.stdin:setvbuf("no")
  repeat core.wait_readable(0) until not io.stdin:read(1)
  ended = "input"
  server:stop()
end)
local signal = server:run{signals = true, ready = function()
  local stat <close> = io.open("/proc/self/stat")
  print(json.encode{port = server.port, pid = stat:read("n")})
  io.stdout:flush()
end}
print(json.encode{ended = signal or ended})
