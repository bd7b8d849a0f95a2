--- The seam between a client and what serves it: a server over HTTP, or a service in this process (`embedded:`).
--
-- A transport has `request(req)` → answer and `close()`.
-- req: `method`, `path` (with query, percent-encoded), `headers` (a table that never changes), `body` (bytes) or `json`
-- (a value), `timeout`, `idempotent`, `stream`. The answer: `status`, `headers`, `body`, `:json()`; streamed also
-- `:events()` and `:close()`. Statuses of 400 and above are answers; what prevents an answer raises.
--
-- `websocket(address, options)` → an object with `send(text)`, `receive(seconds)` (nil: closed by the other side), and
-- `close(code, reason)`: see riverlua.websocket. Only services that have WebSockets need it.
--
-- `pause(seconds)`, if there is one, waits before something is tried again; a replay leaves that out.
--
-- One over a network may have `pipeline(options)` → object with `ready()`, `send(req)` → `wait`, an object to `close`,
-- the bytes of the body; and `close()`: requests over one connection, see `Pipeline` in riverlua.exchange.

local clock = require "riverlua.clock"
local errors = require "riverlua.errors"

local transport = {}

local Network = {}
Network.__index = Network
Network.__name = "riverlua.transport.Network"

local function open_network(where, base_url, options)
  local exchange = require "riverlua.exchange"
  local self = setmetatable({base_url = (base_url:gsub("/+$", ""))}, Network)
  -- answers are small: offering compression costs more than it saves
  local own = {decompress = false}
  for name, value in pairs(options) do own[name] = value end
  self.exchange = exchange.new(where, own)
  self.timeout, self.options = options.timeout, options
  self.encode = require("riverlua.json").encoder{sort = true}
  return self
end

local no_headers = {}

function Network:request(req)
  local body, content_type = req.body, nil
  if req.json ~= nil then body, content_type = self.encode(req.json), "application/json" end
  local exchange, method = self.exchange, req.method
  local source = req.headers or no_headers
  local headers = exchange:constant_header_set(source, content_type)
  local address = self.base_url .. req.path
  local first
  if (req.timeout == nil or req.timeout == self.timeout) and not req.stream then
    local res
    res, first = exchange:try(method, address, headers, body, req.idempotent)
    if res then return res end
  end
  return exchange:send{
    method = method, url = address, headers = headers, header_source = source, content_type = content_type,
    body = body, idempotent = req.idempotent, timeout = req.timeout, stream = req.stream, first = first,
  }
end

function Network:pipeline(options)
  local pipeline = self.exchange:pipeline(options)
  local network = self
  return {
    ready = function() return pipeline:ready() end,
    close = function() pipeline:close() end,
    send = function(_, req)
      local body, content_type = req.body, nil
      if req.json ~= nil then body, content_type = network.encode(req.json), "application/json" end
      local headers = network.exchange:constant_header_set(req.headers or no_headers, content_type)
      local wait, transfer = pipeline:send(req.method, network.base_url .. req.path, headers, body, req.idempotent)
      return wait, transfer, body and #body or 0
    end,
  }
end

local SOCKET_OPTIONS = {"proxy", "ca_file", "verify", "unix_socket"}

--- Opens a WebSocket with the client's own way through proxies and its certificates.
---@param address string
---@param options table|nil those of riverlua.websocket.connect
---@return riverlua.WebSocket
function Network:websocket(address, options)
  local all = {}
  for _, name in ipairs(SOCKET_OPTIONS) do all[name] = self.options[name] end
  for name, value in pairs(options or {}) do all[name] = value end
  return require("riverlua.websocket").connect(address, all)
end

--- Waits before something is tried again; a replay leaves that out.
---@param seconds number
function Network:pause(seconds) clock.pause(seconds, self.exchange.replays) end

function Network:stats() return self.exchange:stats() end

function Network:close() self.exchange:close() end

Network.__close = Network.close

--- Opens the transport for an address.
---@param client string the client's module: "river" finds its service in "river.embedded"
---@param address string base URL, `embedded:` or `embedded:<path>`
---@param http_options table|nil those of http.Client
---@param service_options table|nil what the service for `embedded:` is made with
function transport.open(client, address, http_options, service_options)
  local path = address:match("^embedded:(.*)$")
  if path then
    local service = {}
    for name, value in pairs(service_options or {}) do service[name] = value end
    if path ~= "" then service.path = path end
    return require(client .. ".embedded").new(service)
  end
  if not address:lower():find("^https?://") then
    errors.raise{kind = "argument", message = ("%s.Client: '%s' is not an http or https address"):format(client,
      require("riverlua.url").redact(address)), hint = "such as http://127.0.0.1:8000, or embedded:"}
  end
  return open_network(client .. ".Client", address, http_options or {})
end

return transport
