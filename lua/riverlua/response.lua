--- The answer to an HTTP request.

local errors = require "riverlua.errors"
local json = require "riverlua.json"
local sse = require "riverlua.sse"
local url = require "riverlua.url"

local response = {}

local decode = json.decoder{drop_null = true}

---@class riverlua.HttpResponse
---@field status integer
---@field headers table<string, string> names in any case; repeated headers are joined with ", "
---@field body string|nil nil when the answer is streamed
---@field url string where it came from in the end, without user information
---@field method string
---@field reused boolean sent on a connection that was already open
---@field http_version string "1.0", "1.1", "2"
---@field attempts integer
local Response = {}
Response.__name = "riverlua.HttpResponse"

local Headers = {}

function Headers:__index(name)
  return type(name) == "string" and rawget(self, name:lower()) or nil
end

-- "Name: value" lines → table with lower-case names; continuation lines are joined.
local function parse_headers(block)
  local headers = {}
  local last
  for line in block:gmatch("[^\r\n]+") do
    local name, value = line:match("^([^:%s]+)%s*:%s*(.-)%s*$")
    if name then
      last = name:lower()
      headers[last] = headers[last] and headers[last] .. ", " .. value or value
    elseif last and line:find("^[ \t]") then
      headers[last] = headers[last] .. " " .. line:match("^%s*(.-)%s*$")
    end
  end
  return setmetatable(headers, Headers)
end

--- Internal: the headers of an answer's head as text.
---@param block string
---@return table<string, string>
response.parse_head = parse_headers

local versions = {[10] = "1.0", [11] = "1.1", [20] = "2", [30] = "3"}

Response.attempts = 1

-- What few scripts ask for is worked out when they do.
function Response.__index(self, name)
  local value = Response[name]
  if value then return value end
  if name == "headers" then
    value = parse_headers((self.transfer:head()))
  elseif name == "url" then
    value = url.without_userinfo(self.address)
  elseif name == "http_version" then
    local _, version = self.transfer:connection()
    value = versions[version] or "unknown"
  elseif name == "reused" then
    value = self.transfer:connection()
  elseif name == "trailers" then
    local _, block = self.transfer:head()
    return parse_headers(block or "")
  else
    return nil
  end
  rawset(self, name, value)
  return value
end

--- Internal: wraps a transfer that has its answer.
function response.new(transfer, status, body, address, method)
  return setmetatable({status = status, body = body, transfer = transfer, address = address, method = method}, Response)
end

--- The body decoded as JSON; JSON null in objects is absent.
---@param options table|nil those of json.decode; default `{drop_null = true}`
function Response:json(options)
  local text = self.body or self:text()
  local ok, value
  if options then ok, value = pcall(json.decode, text, options) else ok, value = pcall(decode, text) end
  if ok then return value end
  local shown = url.redact(self.address)
  errors.raise{kind = "protocol", status = self.status, method = self.method, url = shown, body = text:sub(1, 4096),
    message = ("%s %s: the answer is not JSON: %s"):format(self.method, shown,
      errors.is(value) and value.message or tostring(value)),
    cause = value}
end

local function raise_failure(self, kind, message, phase, limit)
  local exchange = require "riverlua.exchange"
  local call = {url = self.address, method = self.method}
  error(exchange.failure(call, self.attempts, kind, message, phase, limit), 0)
end

local function check_streamed(self)
  if not self.streamed then
    errors.raise{kind = "argument", message = "the answer was not streamed: it is in res.body",
      hint = "pass stream = true to read it while it arrives"}
  end
end

--- The next bytes of a streamed answer, or nil at its end.
---@return string|nil
function Response:read()
  check_streamed(self)
  local bytes, kind, message, phase, limit = self.transfer:read()
  if kind then raise_failure(self, kind, message, phase, limit) end
  return bytes
end

--- The whole rest of a streamed answer.
---@param limit integer|nil most bytes to take; more raises kind "limit". Default 256 MiB
---@return string
function Response:text(limit)
  limit = limit or 256 * 1024 * 1024
  local pieces, size = {}, 0
  for bytes in self:chunks() do
    size = size + #bytes
    if size > limit then
      self:close()
      raise_failure(self, "limit", "the answer is too large", nil, limit)
    end
    pieces[#pieces + 1] = bytes
  end
  return table.concat(pieces)
end

-- An iterator whose loop closes the connection when it is left, however it is left.
local function closing(self, step)
  check_streamed(self)
  return step, nil, nil, self
end

--- `for bytes in res:chunks() do`; leaving the loop early frees the connection.
function Response:chunks()
  return closing(self, function() return self:read() end)
end

--- `for line in res:lines() do`, without line ends.
function Response:lines()
  local rest, at, ended = "", 1, false
  return closing(self, function()
    while true do
      local line, after = rest:match("^([^\n]*)\n()", at)
      if line then
        at = after
        return (line:gsub("\r$", ""))
      end
      if ended then
        line, rest, at = rest:sub(at), "", 1
        return line ~= "" and line or nil
      end
      local bytes = self:read()
      rest, at = rest:sub(at) .. (bytes or ""), 1
      ended = bytes == nil
    end
  end)
end

--- `for event in res:events() do`: server-sent events as `{event=, data=, id=}`.
---@param options table|nil those of riverlua.sse.parser
function Response:events(options)
  check_streamed(self)
  return sse.events(function() return self:read() end, options), nil, nil, self
end

--- Frees the connection of a streamed answer; needed only when it is not read to its end.
function Response:close() self.transfer:close() end

Response.__close = Response.close

function Response:__tostring()
  return ("HTTP %d from %s"):format(self.status, url.redact(self.address))
end

return response
