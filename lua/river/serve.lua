--- `riverlua serve river`: the embedded River service on a socket, for any client of the River API.
--
-- What a django-river-ml server does around its views is done here: redirects of paths without their last slash,
-- HEAD, pages for unknown paths, event streams, authentication. The answers themselves are the embedded service's. It
-- answers each request before it looks at the next one, so concurrent clients never lose a learn.

local embedded = require "river.embedded"
local errors = require "riverlua.errors"
local http_server = require "riverlua.server"
local json = require "riverlua.json"
local serve_auth = require "river.serve_auth"
local serve_events = require "river.serve_events"

local serve = {}

-- The largest upload, and what all uploads at a time may have together.
local MAX_BODY = 256 * 1024 * 1024
local MAX_BODIES = 2 * MAX_BODY
-- Larger bodies are not looked at before it is known who sends them.
local SMALL_BODY = 64 * 1024

-- What there is below the prefix; value: the methods that ask for authentication.
local NONE, POST, GET = {}, {POST = true}, {GET = true, HEAD = true}
local MODEL = {GET = true, HEAD = true, POST = true, DELETE = true}
local PATHS = {
  ["/"] = NONE, ["/auth/token/"] = NONE, ["/learn/"] = POST, ["/predict/"] = POST, ["/label/"] = NONE,
  ["/metrics/"] = NONE, ["/stats/"] = NONE, ["/models/"] = GET, ["/model/"] = MODEL,
}
local STREAMS = {["/stream/events/"] = true, ["/stream/metrics/"] = true}
-- Bad JSON is refused before anybody is asked who they are.
local JSON_FIRST = {["/learn/"] = true, ["/predict/"] = true}

local JSON_TYPE = {["content-type"] = "application/json"}
local HTML_TYPE = {["content-type"] = "text/html; charset=utf-8"}

local function page(status, title, text)
  return {status = status, headers = HTML_TYPE,
    body = ("<!doctype html>\n<title>%s</title>\n<h1>%s</h1><p>%s</p>\n"):format(title, title, text)}
end

-- The methods that ask for authentication of a path below the prefix; nil when it leads nowhere. A slash inside of a
-- name splits it, percent-encoded or not.
local function look_up(inside)
  local protected = PATHS[inside]
  if protected then return protected end
  if STREAMS[inside] then return NONE end
  if inside:find("^/model/[^/]+/$") or inside:find("^/model/[^/]+/[^/]+/$") then
    return not inside:find("%%2[Ff]") and MODEL or nil
  end
  return nil
end

---@class river.Serve : riverlua.Served
local Serve = require("riverlua.served").class("river.Serve")

-- The path below the prefix; nil: it is not there.
local function below(self, path)
  local root = self.root
  if root == "" then return path end
  if path:sub(1, #root) == root and path:byte(#root + 1) == 47 then return path:sub(#root + 1) end
  return nil
end

local function host_of(self, req)
  local host = req.headers.host
  if host and #host <= 255 and host:find("^[%w%.:%[%]_-]+$") then return host end
  return self.authority
end

local function challenge(self, req)
  local service = "http://" .. host_of(self, req)
  return {status = 401, headers = {
    ["www-authenticate"] = ('realm="%s%s/auth/token",service="%s"'):format(service, self.root, service)}}
end

local function issue_token(self, req)
  if req.method ~= "GET" and req.method ~= "HEAD" then
    return {status = 405, headers = {["content-type"] = "application/json", allow = "GET"},
      body = json.encode{detail = ('Method "%s" not allowed.'):format(req.method)}}
  end
  local granted = self.guard and self.guard:issue(req.headers.authorization)
  if not granted then return {status = 403, headers = HTML_TYPE, body = ""} end
  return {status = 200, headers = JSON_TYPE, body = json.encode(granted)}
end

local function is_json(body)
  return pcall(json.decode, body or "")
end

-- The answer to who may not: nil when the request may go on. `large`: its body is, and may not be there.
local function refuse(self, req, inside, protected, large)
  local header = req.headers.authorization
  if serve_auth.is_basic(header) then
    return {status = 403, headers = JSON_TYPE, body = json.encode{detail = "Invalid username/password."}}
  end
  if not protected[req.method] or self.guard:allows(header) then return nil end
  if JSON_FIRST[inside] and req.method == "POST" and not large and not is_json(req.body) then
    return {status = 400}
  end
  return challenge(self, req)
end

local function open_stream(self, req, path)
  if req.method ~= "GET" then
    return {status = 405, headers = {["content-type"] = "text/html; charset=utf-8", allow = "GET"}, body = ""}
  end
  local res = self.service:request{method = "GET", path = path, headers = {}, stream = true}
  if not res.events then return res end
  local next_event = res:events()
  return {
    status = res.status, headers = {["content-type"] = "text/event-stream"},
    stream = function()
      local event = next_event()
      return event and serve_events.text(event)
    end,
    close = function() res:close() end,
  }
end

-- The answer for a path that the service does not have.
local function lead_nowhere(path, inside, query)
  if inside and path:byte(-1) ~= 47 and look_up(inside .. "/") then
    return {status = 301, headers = {["content-type"] = "text/html; charset=utf-8", location = path .. "/" .. query}}
  end
  return page(404, "Not Found", "There is nothing at this address.")
end

-- Where a request leads: path, query, path below the prefix, and the methods that ask for authentication there (nil:
-- it leads nowhere).
local function resolve(self, req)
  local path, query = req.path:match("^([^?]*)(.*)$")
  local inside = below(self, path)
  if inside then return path, query, inside, look_up(inside) end
  return path, query, path == self.root and "" or nil   -- the prefix itself, without its slash
end

-- Answers one request of the network.
local function handle(self, req)
  local path, query, inside, protected = resolve(self, req)
  if not protected then return lead_nowhere(path, inside, query) end
  if inside == "/auth/token/" then return issue_token(self, req) end
  if self.guard then
    local refused = refuse(self, req, inside, protected, req.body and #req.body > SMALL_BODY)
    if refused then return refused end
  end
  if STREAMS[inside] then return open_stream(self, req, path) end
  local method = req.method
  if method == "HEAD" then method = "GET" end   -- the server leaves the body away
  return self.service:request{method = method, path = path, headers = req.headers, body = req.body}
end

-- Answers a request with a large body before that is read, unless the caller has shown who they are; nil: go on.
local function accept(self, req)
  if self.guard:allows(req.headers.authorization) then return nil end
  local path, query, inside, protected = resolve(self, req)
  if not protected then return lead_nowhere(path, inside, query) end
  if inside == "/auth/token/" then return issue_token(self, req) end
  return refuse(self, req, inside, protected, true) or
    page(413, "Content Too Large", "Requests of this size need authentication.")
end

local OPTIONS = {host = true, port = true, folder = true, prefix = true, user = true, token = true,
  token_seconds = true, on_error = true}

local function check_credentials(options)
  local user, token = options.user, options.token
  errors.expect("river.serve", "user", user, "string|nil")
  errors.expect("river.serve", "token", token, "string|nil")
  if (user == nil) ~= (token == nil) then
    errors.raise{kind = "argument", message = ("river.serve: a %s is missing"):format(user and "token" or "user"),
      hint = "give both (or RIVER_ML_USER and RIVER_ML_TOKEN), or none: then everybody may use the service"}
  end
  return user and serve_auth.guard(user, token, options.token_seconds)
end

--- Opens the service on a socket.
---
--- Options: `host` (default "127.0.0.1"), `port` (default 0: any free one), `folder` in which the models are kept
--- (default: in memory only), `prefix` of all paths (default "api"), `user` and `token` (default: no authentication),
--- `token_seconds` that a bearer token is good for (600), `on_error` as for riverlua.server. As on a django-river-ml
--- server the streams of events and metrics ask for no authentication; there are at most 128 at a time. With a user,
--- bodies above 64 KiB are read only from callers with a bearer token.
---@param options table|nil
---@return river.Serve # `run{signals = true}` serves, `stop()` ends that, `close()` saves the models and frees all
---Raises kind="connect" when the port cannot be had, kind="argument" for wrong options.
function serve.open(options)
  options = options or {}
  errors.expect("river.serve", "options", options, "table")
  errors.check_options("river.serve", options, OPTIONS)
  local prefix = errors.expect("river.serve", "prefix", options.prefix or "api", "string"):match("^/*(.-)/*$")
  local self = setmetatable({root = prefix == "" and "" or "/" .. prefix, guard = check_credentials(options)}, Serve)
  self.server = http_server.new{
    host = options.host, port = options.port, max_body = MAX_BODY, max_bodies = MAX_BODIES,
    on_error = options.on_error, handler = function(req) return handle(self, req) end,
    accept = self.guard and function(req) return accept(self, req) end or nil,
  }
  local ok, service = pcall(embedded.new, {path = options.folder, prefix = prefix})
  if not ok then
    self.server:close()
    error(service, 0)
  end
  self.service = service
  self.port = self.server.port
  local host = self.server.host
  self.authority = (host:find(":", 1, true) and "[%s]:%d" or "%s:%d"):format(host, self.port)
  self.url = "http://" .. self.authority .. self.root
  return self
end

--- For `riverlua serve`: what it says about this service, its options and what opens it.
serve.command = {
  summary = "a River server: online machine learning over HTTP",
  options = {host = "HOST", port = "N", folder = "PATH", prefix = "NAME", user = "NAME", token = "TEXT"},
  environment = {user = "RIVER_ML_USER", token = "RIVER_ML_TOKEN"},
  help = [[
  --host HOST     address to listen on (default 127.0.0.1: this machine only)
  --port N        port (default 8000; 0: any free one)
  --folder PATH   keep the models there between runs (default: in memory only)
  --prefix NAME   first part of all paths (default api)
  --user NAME     ask for authentication as this user, with
  --token TEXT    this token; better given by RIVER_ML_USER and RIVER_ML_TOKEN, which others cannot see]],
  defaults = {port = 8000},
  open = serve.open,
}

return serve
