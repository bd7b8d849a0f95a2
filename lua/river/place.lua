--- Where a client's server is: base address, prefix, the transport to it, and moving when the service info says so.

local errors = require "riverlua.errors"
local turns = require "river.turns"

local place = {}

place.DEFAULT_BASEURL = "http://127.0.0.1:8000"

local WHERE = "river.Client"

local function fail(message, hint)
  errors.raise{kind = "argument", message = message, hint = hint}
end

--- A base address without slashes at its end; raises kind "argument" when it is none.
---@param baseurl string
---@return string
function place.baseurl(baseurl)
  errors.expect(WHERE, "baseurl", baseurl, "string")
  baseurl = baseurl:match("^%s*(.-)[/%s]*$")
  if baseurl == "" then return place.DEFAULT_BASEURL end
  if baseurl:find("^embedded:") then return baseurl end
  if not baseurl:find("^[Hh][Tt][Tt][Pp][Ss]?://[^/]") then
    -- said without the text itself: it could carry a password
    fail("river.Client: the base address must start with http:// or https://, or be embedded:",
      "such as http://127.0.0.1:8000")
  end
  if baseurl:find("[%s?#]") then
    fail("river.Client: the base address may have no query, fragment or spaces",
      "the prefix is an option of its own: {prefix = \"api\"}")
  end
  return baseurl
end

--- A prefix with a slash before it, or "" for none; default "/api".
---@param prefix string|nil
---@return string
function place.prefix(prefix)
  if prefix == nil then return "/api" end
  errors.expect(WHERE, "prefix", prefix, "string")
  prefix = prefix:match("^[/%s]*(.-)[/%s]*$")
  if prefix:find("[%s?#]") then fail("river.Client: the prefix is a path such as \"api\"") end
  return prefix == "" and "" or "/" .. prefix
end

-- Without user information: safe to print.
local function shown(baseurl)
  return (baseurl:gsub("^(%a[%w+.-]*://)[^/]*@", "%1"))
end

local function http_options(options, extra)
  local http = {timeout = options.timeout}
  for name, value in pairs(options.http or {}) do http[name] = value end
  for name, value in pairs(extra or {}) do http[name] = value end
  return http
end

local function open_network(baseurl, prefix, options, extra)
  return require("riverlua.transport").open("river", baseurl, http_options(options, extra), {prefix = prefix:sub(2)})
end

local function open_transport(baseurl, prefix, options)
  local custom = options.transport
  if custom ~= nil and type(custom) ~= "table" and type(custom) ~= "userdata" then
    fail("river.Client: 'transport' must be an object with request and close")
  end
  local transport = custom or open_network(baseurl, prefix, options)
  if transport.embedded then return transport end
  return require("river.auth").wrap(transport, {base = baseurl, user = options.user, token = options.token,
    auth_hosts = options.auth_hosts, withheld = options.withheld, http = options.http, custom = custom ~= nil})
end

-- `where`: the base address, or the transport that the client was given.
local function set_prefix(client, prefix, where)
  client._turns = turns.at(where, prefix)
  client.prefix = prefix:sub(2)
  client._root = prefix
  client._learn_path = prefix .. "/learn/"
  client._predict_path = prefix .. "/predict/"
end

-- What opens connections to the current place, known to these functions only: it holds user and token.
local settings = setmetatable({}, {__mode = "k"})

--- Client → the service in this process that takes its plain samples without a request, see `river.embedded.fast`.
place.near = setmetatable({}, {__mode = "k"})

--- Opens the transport of a client and sets its fields `baseurl`, `prefix` and those of its paths.
---@param client table
---@param baseurl string
---@param prefix string
---@param options table those of river.Client
function place.set(client, baseurl, prefix, options)
  client._transport = open_transport(baseurl, prefix, options)
  local transport = client._transport
  place.near[client] = transport.embedded and transport.learn and transport or nil
  settings[client] = {baseurl = baseurl, options = options}
  client.baseurl = shown(baseurl)
  set_prefix(client, prefix, options.transport or baseurl)
end

--- A transport of its own for streams: they keep a connection busy, wait without limit, and reconnect by themselves.
--- A service in this process and a transport of the caller's are shared.
---@param client table
---@return table transport
---@return boolean own whether it is to be closed with the stream
function place.open_stream(client)
  local current = settings[client]
  local transport = client._transport
  if transport.embedded or current.options.transport ~= nil then return transport, false end
  local inner = open_network(current.baseurl, client._root, current.options, {retries = 0})
  return transport:over(inner), true
end

local function ordered(info, field, normal)
  local value = info[field]
  if value == nil or value == "" then return nil end
  local ok, result = pcall(normal, value)
  if ok and type(value) == "string" and not value:find("^%s*embedded:") then return result end
  errors.raise{kind = "protocol", message = ("check: the service info orders a %s that is none"):format(field),
    hint = "a setting of the server; info() shows it", cause = not ok and result or nil}
end

-- The options for a new base address. User and token, and headers of the user's own, stay behind when it is another
-- host, unless that is listed.
local function options_there(current, baseurl)
  local options, auth = current.options, require "river.auth"
  local hosts = auth.read_hosts(WHERE, options.auth_hosts)
  if auth.may_know(current.baseurl, baseurl, hosts) then return options end
  if current.baseurl:lower():find("^https:") and not baseurl:lower():find("^https:") then
    errors.raise{kind = "protocol",
      message = ("check: the service info orders %s, which gives up encryption"):format(shown(baseurl)),
      hint = "make a client with that address, or list it in auth_hosts, if that is wanted"}
  end
  local there = {}
  for name, value in pairs(options) do there[name] = value end
  there.http = {}
  for name, value in pairs(options.http or {}) do
    if name ~= "headers" and name ~= "unix_socket" then there.http[name] = value end
  end
  there.user, there.token, there.withheld = false, false, true
  return there
end

--- Moves a client to the `baseurl` and `prefix` that a service info orders, where it does.
---@param client table
---@param info table
function place.adopt(client, info)
  local baseurl, prefix = ordered(info, "baseurl", place.baseurl), ordered(info, "prefix", place.prefix)
  local current = settings[client]
  if baseurl and baseurl ~= current.baseurl and not client._transport.embedded then
    if current.options.transport ~= nil then
      errors.raise{kind = "unsupported", message = ("check: the service info orders %s"):format(shown(baseurl)),
        hint = "a client that was given a transport cannot move; make one for that address"}
    end
    local before = client._transport
    place.set(client, baseurl, prefix or client._root, options_there(current, baseurl))
    -- other tasks may be in the middle of a call
    client._former = client._former or {}
    table.insert(client._former, before)
  elseif prefix then
    set_prefix(client, prefix, current.options.transport or current.baseurl)
  end
end

return place
