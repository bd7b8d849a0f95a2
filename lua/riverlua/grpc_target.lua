--- Where a gRPC server is: what the users of a channel write, as a URL.

local errors = require "riverlua.errors"
local url = require "riverlua.url"

local grpc_target = {}

--- Reads "host:port", "https://host[:port]" or "http://host[:port]" (default port: 443, without TLS 80). Without a
--- scheme there is TLS, but not over a Unix socket.
---@param where string the call, for errors
---@param name string the option's name
---@param text string
---@param options {tls: boolean|nil, unix_socket: string|nil}
---@return string address "https://host:port/"
---@return string authority "host:port"
---@return boolean tls
function grpc_target.read(where, name, text, options)
  local function refuse(message, hint)
    errors.raise{kind = "argument", message = where .. ": " .. message, hint = hint}
  end
  local scheme = text:match("^(%a[%w+.-]*)://")
  local parts = url.parse(scheme and text or "grpc://" .. text)
  if scheme then scheme = scheme:lower() end
  if not parts or parts.userinfo or parts.query or parts.path ~= "/" or not parts.host:find("^[%w%[%]:._%%-]+$") or
    (scheme and scheme ~= "http" and scheme ~= "https") then
    refuse(("'%s' is not %s"):format(url.redact(text), errors.with_article(name)),
      "host:port, https://host[:port] or http://host[:port]")
  end
  local tls = options.tls
  if tls == nil then tls = scheme ~= "http" and not (options.unix_socket and not scheme) end
  if scheme and tls ~= (scheme == "https") then
    refuse(("'tls' says %s, but '%s' says %s"):format(tls, name, scheme))
  end
  local port = parts.port or (tls and 443 or 80)
  if port < 1 or port > 65535 then refuse("a port is between 1 and 65535") end
  local authority = ("%s:%d"):format(parts.host, port)
  return (tls and "https://" or "http://") .. authority .. "/", authority, tls
end

return grpc_target
