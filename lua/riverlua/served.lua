--- Services on sockets: what those that `riverlua serve` knows have in common.

local served = {}

---@class riverlua.Served
---@field port integer
---@field url string where clients find it
---@field server riverlua.Server
---@field service table what answers; `close` frees it
local Served = {}

--- Serves until stopped; see riverlua.server.
---@param options table|nil `signals = true`: also until Ctrl-C or SIGTERM
---@return string|nil signal the one that ended it
function Served:run(options) return self.server:run(options) end

--- Lets `run` return when the requests under way have been answered.
function Served:stop() self.server:stop() end

--- Closes the socket and the service, which saves what it keeps.
function Served:close()
  self.server:close()
  self.service:close()
end

--- A class with these methods.
---@param name string
---@return table
function served.class(name)
  local class = {__name = name, __close = Served.close}
  class.__index = class
  for method, fn in pairs(Served) do class[method] = fn end
  return class
end

return served
