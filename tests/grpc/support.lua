-- What the specs of gRPC share: servers of grpcio, and one that writes its frames by hand.

local servers = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../support/servers.lua")
local grpc = require "riverlua.grpc"
local http = require "riverlua.http"
local json = require "riverlua.json"

local support = {servers = servers, error_of = servers.error_of}

local function channel(options, more)
  for name, value in pairs(more or {}) do options[name] = value end
  if options.proxy == nil then options.proxy = false end
  return grpc.Channel(options)
end

--- The servers of grpc_echo.py.
function support.echo()
  local echo = servers.start{servers.python(), servers.folder .. "grpc_echo.py"}
  local self = {info = echo.info}
  function self.target(place)
    return ("%s://127.0.0.1:%d"):format((place == "tls" or place == "wrong") and "https" or "http",
      echo.info[place or "plain"])
  end
  --- A channel to one of the places; "plain" unless named.
  function self.channel(options, place) return channel({target = self.target(place)}, options) end
  --- What the servers have counted, over a channel of its own.
  function self.stats()
    local own <close> = self.channel()
    return json.decode((own:unary("/test.Echo/Stats", "")))
  end
  --- Waits until a count is so high (at most ten seconds).
  function self.wait(name, count)
    local own <close> = self.channel()
    return json.decode((own:unary("/test.Echo/Wait", "", {metadata = {name = name, count = tostring(count)}})))
  end
  function self.close() echo:close() end
  return self
end

--- The server of grpc_raw.py.
function support.raw()
  local raw = servers.start{servers.python(), servers.folder .. "grpc_raw.py"}
  local asker = http.Client{proxy = false, retries = 0}
  local self = {info = raw.info}
  local function ask(path, name, counts)
    local query = {name = name}
    for key, value in pairs(counts or {}) do query[key] = tostring(value) end
    return asker:get(("http://127.0.0.1:%d%s"):format(raw.info.control, path), {query = query}):json()
  end
  function self.target(name) return "http://127.0.0.1:" .. raw.info.ports[name] end
  function self.channel(name, options) return channel({target = self.target(name)}, options) end
  --- The counts of a scenario; waits until they are at least `counts`.
  function self.stats(name, counts) return ask("/stats", name, counts) end
  function self.release(name) return ask("/release", name) end
  function self.close()
    asker:close()
    raw:close()
  end
  return self
end

return support
