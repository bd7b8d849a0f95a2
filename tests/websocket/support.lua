-- What the specs of WebSockets share: two servers, one that does as it should and one that does not.

local servers = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../support/servers.lua")
local http = require "riverlua.http"
local url = require "riverlua.url"
local websocket = require "riverlua.websocket"

local support = {servers = servers, error_of = servers.error_of}

local function ask(server, path)
  server.asker = server.asker or http.Client{proxy = false, retries = 0}
  return server.asker:get(("http://127.0.0.1:%d%s"):format(server.info.control, path)):json()
end

local function start(program)
  return servers.start{servers.python(), servers.folder .. program}
end

--- The library `websockets`; see websocket_peer.py.
function support.peer()
  local peer = start "websocket_peer.py"
  return {
    info = peer.info,
    url = function(path, listener)
      listener = listener or "ws"
      return ("%s://127.0.0.1:%d%s"):format(listener:match("^wss?"), peer.info[listener], path)
    end,
    seen = function(id) return ask(peer, "/seen?id=" .. id) end,
    close = function()
      if peer.asker then peer.asker:close() end
      peer:close()
    end,
  }
end

--- The server that breaks rules; see websocket_raw.py.
function support.raw()
  local raw = start "websocket_raw.py"
  local function address(query)
    return ("ws://127.0.0.1:%d/raw?%s"):format(raw.info.ws, url.encode_form(query or {}))
  end
  return {
    info = raw.info,
    url = address,
    connect = function(query, options)
      options = options or {}
      if options.proxy == nil then options.proxy = false end
      return websocket.connect(address(query), options)
    end,
    log = function(count) return ask(raw, "/log?wait=" .. count) end,
    wait_open = function(count) return ask(raw, "/open?wait=" .. count) end,
    release = function() return ask(raw, "/release") end,
    reset = function() return ask(raw, "/reset") end,
    close = function()
      if raw.asker then raw.asker:close() end
      raw:close()
    end,
  }
end

--- Bytes as hexadecimal digits.
function support.hex(bytes)
  return (bytes:gsub(".", function(char) return ("%02x"):format(char:byte()) end))
end

--- A frame of a server. `options`: fin (default true), rsv (0 to 7), mask (four bytes), length (one that is not true).
function support.frame(opcode, payload, options)
  options = options or {}
  payload = payload or ""
  local first = (options.fin == false and 0 or 0x80) | (options.rsv or 0) << 4 | opcode
  local length, mask = options.length or #payload, options.mask and 0x80 or 0
  local head
  if length < 126 then head = string.pack(">BB", first, mask | length)
  elseif length < 65536 then head = string.pack(">BBI2", first, mask | 126, length)
  else head = string.pack(">BBI8", first, mask | 127, length) end
  if options.mask then
    local i = 0
    payload = payload:gsub(".", function(char)
      i = i + 1
      return string.char(char:byte() ~ options.mask:byte((i - 1) % 4 + 1))
    end)
  end
  return head .. (options.mask or "") .. payload
end

return support
