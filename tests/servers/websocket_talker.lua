-- A server of WebSockets whose conversations are recorded. Prints one JSON line; stops when its standard input ends.
-- /echo sends back what comes, /greet speaks first, /count answers each message with the number of those before it,
-- /drop answers one and vanishes, /close?4001 says "bye" to one and closes so, /silent never answers. Anything else is
-- answered 403.

local core = require "riverlua.core.task"
local json = require "riverlua.json"
local task = require "riverlua.task"

local server

local function echo(ws)
  for data, kind in ws:messages() do ws:send(data, kind) end
end

local routes = {
  echo = echo,
  greet = function(ws)
    ws:send("welcome")
    echo(ws)
  end,
  count = function(ws)
    local count = 0
    for data in ws:messages() do
      ws:send(json.encode({data, count}))
      count = count + 1
    end
  end,
  drop = function(ws)
    ws:send("last words about " .. ws:receive())
    ws:drop()
  end,
  close = function(ws, code)
    ws:receive()
    ws:send("bye")
    ws:close(tonumber(code), "as you like")
  end,
  silent = function(ws)
    repeat until ws:receive() == nil
  end,
}

server = require("riverlua.server").new{
  handler = function(req)
    local name, rest = req.path:match("^/(%w*)%??(%d*)")
    if not routes[name] then return {status = 403, body = "none of your business"} end
    return {subprotocols = {"beta"}, websocket = function(ws) pcall(routes[name], ws, rest) end}
  end,
}
task.spawn(function()
  core.wait_readable(0)
  io.stdin:read(1)
  server:stop()
end)
io.stdout:write(json.encode{http = server.port}, "\n")
io.stdout:flush()
server:run()
os.exit(0, true)
