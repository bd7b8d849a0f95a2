--- URLs: taking apart, resolving, escaping, and hiding what must not be shown.

local url = {}

local default_ports = {http = 80, https = 443}

--- Parts of an absolute URL, or nil when it is not one.
---@param text string
---@return {scheme: string, userinfo: string|nil, host: string, port: integer|nil, path: string, query: string|nil}|nil
function url.parse(text)
  local scheme, rest = text:match("^(%a[%w+.-]*)://(.*)$")
  if not scheme then return nil end
  rest = rest:gsub("#.*$", "")
  local authority, path = rest:match("^([^/?]*)(.*)$")
  local userinfo, place = authority:match("^(.*)@(.*)$")
  place = place or authority
  local host, port = place:match("^(%[[^%]]*%]):?(%d*)$")
  if not host then host, port = place:match("^([^:]*):?(%d*)$") end
  if not host or host == "" then return nil end
  local before, query = path:match("^([^?]*)%??(.*)$")
  scheme = scheme:lower()
  return {scheme = scheme, userinfo = userinfo, host = host:lower(),
    port = tonumber(port) or default_ports[scheme], path = before == "" and "/" or before,
    query = path:find("?", 1, true) and query or nil}
end

--- Whether two parsed URLs have the same scheme, host and port: credentials may go from one to the other.
function url.same_origin(a, b)
  return a.scheme == b.scheme and a.host == b.host and a.port == b.port
end

local function authority_of(parts)
  local port = parts.port and parts.port ~= default_ports[parts.scheme] and (":" .. parts.port) or ""
  return parts.scheme .. "://" .. parts.host .. port
end

--- The URL that `reference` means on the page `base` (both texts).
---@return string
function url.resolve(base, reference)
  if reference:find("^%a[%w+.-]*://") then return (reference:gsub("#.*$", "")) end
  local parts = url.parse(base)
  if not parts then return reference end
  reference = reference:gsub("#.*$", "")
  if reference:find("^//") then return parts.scheme .. ":" .. reference end
  local origin = authority_of(parts)
  if reference:find("^/") then return origin .. reference end
  if reference == "" or reference:find("^%?") then return origin .. parts.path .. reference end
  return origin .. parts.path:gsub("[^/]*$", "") .. reference   -- libcurl removes dot segments
end

--- Percent-encodes everything but unreserved characters: fit for one path segment or query value.
---@param text string
function url.escape(text)
  return (tostring(text):gsub("[^%w%-._~]", function(c) return ("%%%02X"):format(c:byte()) end))
end

--- The text without percent-encodings; `+` stays.
---@param text string
function url.unescape(text)
  return (text:gsub("%%(%x%x)", function(code) return string.char(tonumber(code, 16)) end))
end

--- `a=1&b=x%20y`, keys in sorted order; a list as value repeats the key.
---@param fields table<string, any>
function url.encode_form(fields)
  local keys, parts = {}, {}
  for key in pairs(fields) do keys[#keys + 1] = key end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  for _, key in ipairs(keys) do
    local value = fields[key]
    for _, one in ipairs(type(value) == "table" and value or {value}) do
      parts[#parts + 1] = url.escape(key) .. "=" .. url.escape(one)
    end
  end
  return table.concat(parts, "&")
end

--- The URL without user name and password.
---@param text string
function url.without_userinfo(text)
  return (text:gsub("^(%a[%w+.-]*://)[^/?#]*@", "%1"))
end

local secret_names = {"key", "token", "secret", "password", "passwd", "passphrase", "signature", "auth", "credential",
  "cookie", "jwt"}

--- Whether the name of a parameter, field or header holds a word that secrets are called by. Says yes rather too often.
---@param name string may be percent-encoded
function url.sounds_secret(name)
  name = url.unescape(name):lower()
  for _, secret in ipairs(secret_names) do
    if name:find(secret, 1, true) then return true end
  end
  return false
end

--- The URL (or a text with URLs in it) as errors and traces may show it: without user information, and of the
--- parameters only short plain values whose names do not sound secret.
---@param text string
function url.redact(text)
  text = url.without_userinfo(text):gsub("(%a[%w+.-]*://)[^/?#%s]*@", "%1")
  return (text:gsub("([?&])([^=&#]+)=([^&#]*)", function(separator, name, value)
    local shown = #value <= 24 and not value:find("[^%w._-]") and not url.sounds_secret(name)
    return separator .. name .. "=" .. (shown and value or "***")
  end))
end

return url
