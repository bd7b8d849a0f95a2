--- An answer of the gateway as a transport gives it: like the one to an HTTP request.

local errors = require "riverlua.errors"
local json = require "riverlua.json"
local sse = require "riverlua.sse"
local task = require "riverlua.task"

local response = {}

local Headers = {}
function Headers:__index(name) return type(name) == "string" and rawget(self, name:lower()) or nil end

local decode = json.decoder{drop_null = true}

---@class modelriver.embedded.Response
---@field status integer
---@field headers table<string, string> names in any case
---@field body string|nil nil when the answer is streamed
---@field method string
---@field url string
---@field attempts integer always 1
---@field streamed boolean
local Response = {attempts = 1, reused = false}
Response.__index = Response
Response.__name = "modelriver.embedded.Response"

--- The body decoded as JSON; null in objects is absent.
---@param options table|nil those of json.decode
function Response:json(options)
  local text = self.body or self:text()
  local ok, value = pcall(options and json.decode or decode, text, options)
  if ok then return value end
  errors.raise{kind = "protocol", status = self.status, method = self.method, url = self.url, body = text:sub(1, 4096),
    message = ("%s %s: the answer is not JSON: %s"):format(self.method, self.url,
      errors.is(value) and value.message or tostring(value)), cause = value}
end

local function check_streamed(self)
  if not self.streamed then
    errors.raise{kind = "argument", message = "the answer was not streamed: it is in res.body",
      hint = "pass stream = true to read it while it arrives"}
  end
end

-- The next bytes within the time there is: `idle` for these, `due` for all.
local function read_limited(self)
  local now = task.now()
  local idle_due = self.idle and now + self.idle or math.huge
  local due = math.min(idle_due, self.due or math.huge)
  if due == math.huge then return self.stream() end
  local phase, seconds = "idle", self.idle
  if self.due and self.due <= idle_due then phase, seconds = "total", self.total end
  local ok, bytes = pcall(task.timeout, math.max(0, due - now), self.stream)
  if ok then return bytes end
  if not errors.is(bytes, "timeout") then error(bytes, 0) end
  self:close()
  errors.raise{kind = "timeout", phase = phase, method = self.method, url = self.url, sent = true,
    message = ("%s %s: %s within %g s"):format(self.method, self.url,
      phase == "idle" and "nothing came" or "not done", seconds)}
end

--- The next bytes of a streamed answer, or nil at its end.
---@return string|nil
function Response:read()
  check_streamed(self)
  local bytes = not self.closed and read_limited(self) or nil
  if bytes == nil then
    if self.closed then errors.raise{kind = "closed", message = "this answer has been closed"} end
    if self.ended then self.ended() end
  end
  return bytes
end

--- The whole rest of a streamed answer.
---@return string
function Response:text()
  check_streamed(self)
  local pieces = {}
  for bytes in self:chunks() do pieces[#pieces + 1] = bytes end
  return table.concat(pieces)
end

--- `for bytes in res:chunks() do`; leaving the loop early ends the stream.
function Response:chunks()
  check_streamed(self)
  return function() return self:read() end, nil, nil, self
end

--- `for event in res:events() do`: server-sent events as `{event=, data=, id=}`.
---@param options table|nil those of riverlua.sse.parser
function Response:events(options)
  check_streamed(self)
  return sse.events(function() return self:read() end, options), nil, nil, self
end

--- Ends a stream that is not read to its end.
function Response:close()
  if self.closed then return end
  self.closed = true
  if self.stop then self.stop() end
  if self.ended then self.ended() end
end

Response.__close = Response.close

function Response:__tostring() return ("HTTP %d from %s"):format(self.status, self.url) end

local function one_piece(body)
  local rest = body ~= "" and body or nil
  return function()
    local bytes = rest
    rest = nil
    return bytes
  end
end

local function whole(answer)
  local pieces = {}
  for bytes in answer.stream do pieces[#pieces + 1] = bytes end
  answer.close()
  return table.concat(pieces)
end

--- Makes the response of an answer to a request.
---@param answer table see modelriver.embedded.answer
---@param req table the transport's request
---@param limits {idle: number|nil, total: number|nil, due: number|nil}
---@return modelriver.embedded.Response
function response.of(answer, req, limits)
  local self = setmetatable({status = answer.status, headers = setmetatable(answer.headers, Headers),
    method = req.method, url = "embedded:" .. req.path, streamed = req.stream == true}, Response)
  if not self.streamed then
    self.body = answer.body or whole(answer)
    return self
  end
  self.stream, self.stop = answer.stream or one_piece(answer.body), answer.close
  self.idle, self.total, self.due = limits.idle, limits.total, limits.due
  return self
end

return response
