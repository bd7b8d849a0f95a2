--- `riverlua serve modelriver`: the embedded gateway on a socket, for any client of the ModelRiver API and for OpenAI's
-- libraries. The workflows are registered by a Lua file, with modelriver.embedded.workflow.

local channels = require "modelriver.embedded.channels"
local embedded = require "modelriver.embedded"
local errors = require "riverlua.errors"
local http_server = require "riverlua.server"
local task = require "riverlua.task"
local websocket_server = require "riverlua.websocket_server"

local serve = {}

-- A socket whose client says nothing for so long is closed, as Phoenix does.
local SILENCE = 60
local LONGEST_FRAME = 1024 * 1024
local MOST_UNSENT = 64 * 1024 * 1024
local MAX_CONNECTIONS, MAX_STREAMS = 4096, 2048

---@class modelriver.Serve : riverlua.Served
local Serve = require("riverlua.served").class("modelriver.Serve")

-- ------------------------------------------------------------------------------------------------------- sockets

-- Texts on their way to a client: the tasks of jobs put them in, the socket's own sends them.
local function new_outbox()
  local queue = task.queue()
  local outbox = {unsent = 0, queue = queue}
  function outbox.push(text)
    if queue.closed then return end
    outbox.unsent = outbox.unsent + #text
    if outbox.unsent > MOST_UNSENT then return queue:close() end
    queue:put(text)
  end
  return outbox
end

local function send_all(ws, outbox)
  for text in outbox.queue:items() do
    outbox.unsent = outbox.unsent - #text
    ws:send(text)
  end
  ws:close(1008, "nobody receives")
end

-- The next text of the client, or nil: it has gone, or was silent for too long.
local function receive(ws, session)
  local silent_since = task.now()
  while true do
    local left = SILENCE - (task.now() - silent_since)
    if left <= 0 then return nil end
    local ok, text = pcall(ws.receive, ws, math.min(left, session:settle() or left))
    if ok then return text end
    if not errors.is(text, "timeout") then error(text, 0) end
  end
end

local function converse(ws, session, outbox)
  local _ <close> = setmetatable({}, {__close = function() session:close() end})
  local sender <close> = task.spawn(send_all, ws, outbox)   -- luacheck: ignore 211
  while true do
    local text = receive(ws, session)
    if text == nil then return ws:close(1000) end
    if not session:receive(text) then return ws:close(1011) end
  end
end

local function open_socket(self, req)
  local status, text = websocket_server.judge(req)   -- before the token is spent
  if status then
    return {status = status, headers = {["content-type"] = "text/plain"}, body = text .. "\n"}
  end
  local outbox = new_outbox()
  local session, refusal = channels.open(self.service.gateway, req.path, outbox.push)
  if not session then return {status = refusal, body = ""} end
  return {max_message = LONGEST_FRAME, websocket = function(ws)
    local ok, problem = pcall(converse, ws, session, outbox)
    -- a client that goes away is nothing to talk about
    if not ok and not errors.is(problem, "websocket") then error(problem, 0) end
  end}
end

local function handle(self, req)
  if req.path:find("^/socket/websocket%f[?%z]") then return open_socket(self, req) end
  return self.service.gateway:answer(req)
end

-- ----------------------------------------------------------------------------------------------------- the service

local OPTIONS = {host = true, port = true, workflows = true, key = true, webhook_secret = true, webhook_scheme = true,
  on_error = true}

local function load_workflows(path)
  if path == nil then return end
  errors.expect("modelriver.serve", "workflows", path, "string")
  local chunk, problem = loadfile(path, "t")
  if not chunk then errors.raise{kind = "argument", message = "modelriver.serve: " .. problem} end
  local ok, failed = pcall(chunk)
  if ok then return end
  if errors.is(failed) then error(failed, 0) end
  errors.raise{kind = "argument", message = "modelriver.serve: " .. tostring(failed)}
end

--- Opens the gateway on a socket.
---
--- Options: `host` (default "127.0.0.1"), `port` (default 0: any free one), `workflows`: the path of a Lua file that
--- registers them (default: those that are registered already), `key`: ask for this API key (default: for none),
--- `webhook_secret` and `webhook_scheme` as for modelriver.embedded.new, `on_error` as for riverlua.server.
---@param options table|nil
---@return modelriver.Serve # `run{signals = true}` serves, `stop()` ends that, `close()` frees all
---Raises kind="connect" when the port cannot be had, kind="argument" for wrong options; what the file raises.
function serve.open(options)
  options = options or {}
  errors.expect("modelriver.serve", "options", options, "table")
  errors.check_options("modelriver.serve", options, OPTIONS)
  errors.expect("modelriver.serve", "key", options.key, "string|nil")
  load_workflows(options.workflows)
  local self = setmetatable({}, Serve)
  self.server = http_server.new{
    host = options.host, port = options.port, on_error = options.on_error, max_connections = MAX_CONNECTIONS,
    max_streams = MAX_STREAMS, handler = function(req) return handle(self, req) end,
  }
  self.port = self.server.port
  local host = self.server.host
  self.url = (host:find(":", 1, true) and "http://[%s]:%d" or "http://%s:%d"):format(host, self.port)
  local ok, service = pcall(embedded.new, {base_url = self.url, api_key = options.key,
    webhook_secret = options.webhook_secret, webhook_scheme = options.webhook_scheme})
  if not ok then
    self.server:close()
    error(service, 0)
  end
  self.service = service
  return self
end

--- For `riverlua serve`: what it says about this service, its options and what opens it.
serve.command = {
  summary = "a ModelRiver gateway: workflows that are Lua functions",
  options = {host = "HOST", port = "N", workflows = "FILE", key = "TEXT", webhook_secret = "TEXT",
    webhook_scheme = "A|B|C"},
  environment = {key = "MODELRIVER_API_KEY", webhook_secret = "MODELRIVER_WEBHOOK_SECRET"},
  help = [[
  --workflows FILE  a Lua file that registers them with modelriver.embedded.workflow
  --host HOST     address to listen on (default 127.0.0.1: this machine only)
  --port N        port (default 8000; 0: any free one)
  --key TEXT      ask for this API key; better given by MODELRIVER_API_KEY, which others cannot see
  --webhook_secret TEXT   of the webhooks it sends; better given by MODELRIVER_WEBHOOK_SECRET
  --webhook_scheme A|B|C  how they are signed (default A)]],
  defaults = {port = 8000},
  open = serve.open,
}

return serve
