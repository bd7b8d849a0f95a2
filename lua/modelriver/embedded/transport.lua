--- The transport for `embedded:`: the gateway as a client sees it.

local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local gateway = require "modelriver.embedded.gateway"
local response = require "modelriver.embedded.response"
local task = require "riverlua.task"

local transport = {}

local OPTIONS = {api_key = "string", other_keys = "table", callback_seconds = "number", token_seconds = "number",
  webhook_secret = "string", webhook_scheme = "string", webhook_delays = "table", project_id = "string",
  base_url = "string"}

-- As the service retries a delivery, in less than a second all together.
local DELAYS = {0, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32}

-- One process is one project, so that jobs of one client are found by another.
local PROJECT = digest.uuid()

---@class modelriver.embedded.Transport a transport, see riverlua.transport
---@field embedded boolean always true
---@field gateway modelriver.embedded.Gateway
local Transport = {embedded = true}
Transport.__index = Transport
Transport.__name = "modelriver.embedded"

local function check_open(self)
  if self.closed then errors.raise{kind = "closed", message = "this embedded service has been closed"} end
end

-- 0 and false stand for none, as in riverlua.http.
local function limit_of(seconds) return seconds and seconds > 0 and seconds or nil end

-- Seconds to the answer's head, for all of it, and between pieces of a stream.
local function limits_of(timeout)
  if type(timeout) == "number" then return limit_of(timeout), limit_of(timeout), nil end
  if type(timeout) ~= "table" then return nil end
  local total = limit_of(timeout.total)
  return limit_of(timeout.first_byte) or total, total, limit_of(timeout.idle)
end

-- A task of its own answers, so that closing the transport can end it.
local function ask(self, req, first, total)
  local limit = first and total and math.min(first, total) or first or total
  local child <close> = task.spawn(self.gateway.answer, self.gateway, req)
  self.asking[child] = true
  if not child:join(limit) then
    child:cancel("the time is up")
    child:join()
  end
  local status = child:status()
  if self.closed and status == "cancelled" then
    errors.raise{kind = "closed", method = req.method, url = "embedded:" .. req.path,
      message = ("%s embedded:%s: it was closed before it was done"):format(req.method, req.path)}
  end
  if status ~= "cancelled" then return child:await() end
  local phase = limit == total and "total" or "first_byte"
  errors.raise{kind = "timeout", phase = phase, method = req.method, url = "embedded:" .. req.path, sent = true,
    message = ("%s embedded:%s: no answer within %g s"):format(req.method, req.path, limit)}
end

--- Sends a request; waits for the answer, or for the beginning of a streamed one.
---@param req table {method=, path=, headers=, json=, body=, timeout=, stream=}
---@return modelriver.embedded.Response
function Transport:request(req)
  check_open(self)
  local first, total, idle = limits_of(req.timeout)
  local due = total and task.now() + total
  local given = ask(self, req, first, total)
  local res = response.of(given, req, {idle = idle, total = total, due = due})
  if given.close and res.streamed then
    -- what is open is known, so that closing the transport ends it
    self.streams[res] = true
    res.ended = function() self.streams[res] = nil end
  end
  return res
end

--- Opens a WebSocket of the service.
---@param url string with the token in its query
---@param options table|nil those of riverlua.websocket; none of them means anything here
---@return modelriver.embedded.Peer
---Raises kind="websocket" with `status` 403 when the token is wrong, expired or spent.
function Transport:websocket(url, options)   -- luacheck: ignore 212
  check_open(self)
  return require("modelriver.embedded.socket").connect(self.gateway, url)
end

--- Ends what is under way: requests, streams, and jobs for which nobody waits. Requests raise kind "closed".
function Transport:close()
  if self.closed then return end
  self.closed = true
  local open = self.streams
  self.streams = {}
  for res in pairs(open) do res:close() end
  for child in pairs(self.asking) do child:cancel("the client has been closed") end
  self.gateway:close()
end

Transport.__close = Transport.close

local function check_options(options)
  local where = "modelriver.embedded.new"
  if options.path then
    errors.raise{kind = "argument", message = ("there is nothing at embedded:%s"):format(options.path),
      hint = "the address of the embedded service is embedded: alone"}
  end
  errors.check_options(where, options, OPTIONS)
  for name, value in pairs(options) do errors.expect(where, name, value, OPTIONS[name]) end
  for _, name in ipairs{"callback_seconds", "token_seconds"} do
    local value = options[name]
    if value and (value < 0 or value ~= value) then
      errors.raise{kind = "argument", message = ("%s: '%s' must not be negative"):format(where, name)}
    end
  end
  local scheme = options.webhook_scheme
  if scheme and scheme ~= "A" and scheme ~= "B" and scheme ~= "C" then
    errors.raise{kind = "argument", message = where .. ": 'webhook_scheme' must be A, B or C"}
  end
end

--- Makes a transport.
---@param registry table the workflows and receivers
---@param options table|nil see modelriver.embedded.new
---@return modelriver.embedded.Transport
function transport.new(registry, options)
  options = options or {}
  check_options(options)
  local others = {}
  for _, key in ipairs(options.other_keys or {}) do others[key] = true end
  local complete = {
    api_key = options.api_key, other_keys = others, callback_seconds = options.callback_seconds or 300,
    token_seconds = options.token_seconds or 300, webhook_secret = options.webhook_secret or "whsec_embedded",
    webhook_scheme = options.webhook_scheme or "A", webhook_delays = options.webhook_delays or DELAYS,
    project_id = options.project_id or PROJECT, base_url = (options.base_url or "embedded:"):gsub("/+$", ""),
  }
  return setmetatable({gateway = gateway.new(registry, complete), streams = {},
    asking = setmetatable({}, {__mode = "k"})}, Transport)
end

return transport
