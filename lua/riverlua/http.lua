--- HTTP client: kept-alive connections, HTTP/2, deadlines, retries, redirects, streaming both ways, events.
--
--     local http = require "riverlua.http"
--     local client <close> = http.Client{base_url = "http://127.0.0.1:8000", timeout = 10}
--     local res = client:post("/items", {json = {name = "x"}})
--     print(res.status, res.headers["content-type"], res:json().name)
--
-- A status of 400 or above is an answer like any other here; what prevents an answer raises an error
-- (kinds "dns", "connect", "tls", "timeout", "protocol", "limit").

local errors = require "riverlua.errors"
local exchange = require "riverlua.exchange"
local json = require "riverlua.json"
local url = require "riverlua.url"

local http = {}

---@class riverlua.HttpClient
local Client = {}
Client.__index = Client
Client.__name = "riverlua.http.Client"

local encode_json = json.encoder{sort = true}

--- Makes a client with connections of its own.
--- `options`:
--- `base_url`, for relative URLs; `headers`, sent with every request; `user_agent`;
--- `timeout`: seconds in all, or `{connect = 10, first_byte = 60, idle = 60, total = 300}` (false: none);
--- `retries` = 2, where a repeat is safe; `redirects` = 5 (0: handed to you);
--- `safe_headers`: names of headers of your own that may follow a redirect to another host; others are dropped there;
--- `max_body` = 256 MiB after decompression; `decompress` = true;
--- `proxy`: URL, false: none, nil: from the environment (`http_proxy`, `https_proxy`, `no_proxy`); `unix_socket`: path;
--- `ca_file`: PEM file (default: `RIVERLUA_CA`, `SSL_CERT_FILE`, the system's); `verify` = true;
--- `http2`: "auto" (with TLS), "prior" (without asking first; libcurl below 8 then opens a connection for each
--- request), false.
---@param options table|nil
---@return riverlua.HttpClient
function http.Client(options)
  options = options or {}
  errors.expect("http.Client", "options", options, "table")
  local others = {}
  for name, value in pairs(options) do
    if name ~= "base_url" then others[name] = value end
  end
  return setmetatable({
    base_url = errors.expect("http.Client", "base_url", options.base_url, "string|nil"),
    exchange = exchange.new("http.Client", others),
  }, Client)
end

-- name → type; true: looked at where it is used
local request_options = {
  method = "string", url = true, query = "table|string", headers = "table", body = "string|callable", json = true,
  form = "table", timeout = true, retries = "integer", idempotent = "boolean", redirects = "integer",
  stream = "boolean", content_length = "integer", max_body = "integer",
}

-- The request in words of HTTP and of the right types, or an error.
local function check_request(self, options)
  if getmetatable(self) ~= Client then
    errors.raise{kind = "argument", message = "client:request: call it with a colon: client:get(url)"}
  end
  errors.expect("client:request", "options", options, "table")
  for name, value in pairs(options) do
    local wanted = request_options[name]
    if wanted == nil then errors.check_options("client:request", options, request_options) end
    if wanted ~= true and type(value) ~= wanted then errors.expect("client:request", name, value, wanted) end
  end
  if options.method and not options.method:find("^%u+$") then
    errors.raise{kind = "argument", message = "client:request: 'method' must be a word in capital letters, like GET"}
  end
end

local function full_url(self, options)
  local address = options.url
  if type(address) ~= "string" then
    errors.raise{kind = "argument", message = "client:request: 'url' must be a string"}
  end
  if self.base_url and not address:find("^%a[%w+.-]*://") then
    local base = self.base_url
    if base:sub(-1) == "/" and address:sub(1, 1) == "/" then base = base:sub(1, -2) end
    address = base .. address
  end
  if not address:find("^%a[%w+.-]*://") then
    errors.raise{kind = "argument", message = "client:request: 'url' must begin with http:// or https://",
      hint = "or give the client a base_url"}
  end
  if address:find("[%c ]") then
    errors.raise{kind = "argument", message = "client:request: 'url' must not contain spaces or control characters",
      hint = "escape them with require(\"riverlua.url\").escape"}
  end
  if options.query then
    local query = type(options.query) == "table" and url.encode_form(options.query) or options.query
    address = address .. (address:find("?", 1, true) and "&" or "?") .. query
  end
  return address
end

local function body_of(options)
  if options.json ~= nil then return encode_json(options.json), "application/json" end
  if options.form ~= nil then return url.encode_form(options.form), "application/x-www-form-urlencoded" end
  local body = options.body
  return body, body and "application/octet-stream"
end

--- Sends a request and returns the answer.
--- `options`: `method` = "GET", `url`, `query` (table), `headers` (table), `body` (string, or a function that returns
--- the next piece and nil at the end; then `content_length` if known), `json` (a value), `form` (table), `timeout`,
--- `retries`, `redirects`, `max_body` as for the client, `idempotent` (true: a repeat does no harm), `stream` (true:
--- read the answer while it arrives, with `res:read`, `res:chunks`, `res:lines`, `res:events`).
---@param options table
---@return riverlua.HttpResponse
function Client:request(options)
  check_request(self, options)
  local body, content_type = body_of(options)
  return self.exchange:send{
    method = options.method or "GET",
    url = full_url(self, options),
    headers = self.exchange:header_set(options.headers, content_type),
    header_source = options.headers,
    content_type = content_type,
    body = body,
    content_length = options.content_length,
    idempotent = options.idempotent,
    timeout = options.timeout,
    retries = options.retries,
    redirects = options.redirects,
    max_body = options.max_body,
    stream = options.stream,
  }
end

for _, method in ipairs{"get", "head", "post", "put", "patch", "delete"} do
  --- `client:get(url, options)` and so on: `request` with that method.
  Client[method] = function(self, address, options)
    local all = {method = method:upper(), url = address}
    for name, value in pairs(options or {}) do all[name] = value end
    return self:request(all)
  end
end

--- Counts: `requests`, `connections` opened, `reused` connections, `in_flight`, `retries`; and `libcurl`'s version.
function Client:stats() return self.exchange:stats() end

--- Closes the connections; what is under way ends with kind "closed".
function Client:close() self.exchange:close() end

Client.__close = Client.close

function Client:__tostring()
  return "http.Client " .. (self.base_url and url.redact(self.base_url) or "(no base_url)")
end

return http
