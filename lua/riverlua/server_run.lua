--- How the servers of riverlua run: until they are stopped, or the process is asked to end.

local errors = require "riverlua.errors"
local listener = require "riverlua.core.listener"
local task = require "riverlua.task"

local server_run = {}

-- Until SIGINT or SIGTERM comes, too; returns its name then.
local function until_signal(server, serve, ready)
  local came
  local signals <close> = listener.signals()
  local waiter <close> = task.spawn(function()   -- luacheck: ignore 211
    came = signals:wait()
    server:stop()
  end)
  if ready then ready() end
  serve(server)
  return came
end

--- The method `run` of a server, which is closed afterwards: see riverlua.server.
---@param server table with `started`, `stopping`, `stop` and `close`
---@param serve fun(server: table) serves until `server:stop()` has been called, and what is under way has ended
---@param options {signals: boolean|nil, ready: fun()|nil}|nil
---@return string|nil signal
function server_run.run(server, serve, options)
  options = options or {}
  errors.expect("server:run", "options", options, "table")
  errors.check_options("server:run", options, {signals = true, ready = true})
  if server.started or server.stopping then
    errors.raise{kind = "closed", message = "server:run: this server runs already, or has been stopped"}
  end
  server.started = true
  local _ <close> = setmetatable({}, {__close = function() server:close() end})
  if options.signals then return until_signal(server, serve, options.ready) end
  if options.ready then options.ready() end
  serve(server)
end

return server_run
