--- Answers of the embedded service, in the shape in which a transport returns them.

local python = require "river.embedded.python"

local response = {}

local function headers(content_type, extra)
  local fields = {["content-type"] = content_type}
  for name, value in pairs(extra or {}) do fields[name] = value end
  return setmetatable(fields, {__index = function(self, name)
    return type(name) == "string" and rawget(self, name:lower()) or nil
  end})
end

local JSON = headers("application/json")
local BYTES = headers("application/octet-stream")
local EMPTY = headers(nil)

---@class river.embedded.Response
---@field status integer
---@field headers table<string, string> looked up in any case
---@field body string bytes; the JSON text is made when it is asked for
local Response = {}

--- The decoded body: a value of its own, null as absent.
---@return any
function Response:json()
  if rawget(self, "value") == nil then return require("riverlua.json").decode(self.body) end
  return self.value
end

local sorted

local function encode(value)
  if type(value) == "string" then
    local plain = not value:find('[%c"\\\128-\255]') and '"' .. value .. '"'
    if plain then return plain end
  end
  sorted = sorted or require("riverlua.json").encoder{sort = true}
  return sorted(value)
end

Response.__index = function(self, name)
  local method = Response[name]
  if method ~= nil then return method end
  if name == "body" then
    local complete = rawget(self, "complete")
    local body = encode(complete ~= nil and complete or self.value)
    self.body = body
    return body
  end
end

--- An answer with a JSON body.
---@param status integer
---@param value any what `json()` returns
---@param complete any the same with `null` where a value is absent, for the body
---@return river.embedded.Response
function response.json(status, value, complete)
  return setmetatable({status = status, headers = JSON, value = value, complete = complete}, Response)
end

--- The answer to a successful learn: the client compares its body.
---@param text string
---@return river.embedded.Response
function response.learned(text)
  return setmetatable({status = 201, headers = JSON, value = text, body = '"' .. text .. '"'}, Response)
end

--- An answer with a message object, as the server words a refusal.
---@param status integer
---@param text string
---@param hint string|nil what to do, where a server would say nothing
---@return river.embedded.Response
function response.message(status, text, hint)
  return response.json(status, {message = text, hint = hint})
end

--- An answer without body.
---@param status integer
---@return river.embedded.Response
function response.empty(status)
  return setmetatable({status = status, headers = EMPTY, body = ""}, Response)
end

--- An answer made of bytes.
---@param bytes string
---@return river.embedded.Response
function response.bytes(bytes)
  return setmetatable({status = 200, headers = BYTES, body = bytes}, Response)
end

local Stream = {}
Stream.__index = Stream

--- Iterates over what is announced; waits for the next one.
---@return fun(): {event: string|nil, data: string}|nil
function Stream:events() return self.listener:events() end

--- Ends the stream.
function Stream:close()
  self.listener:close()
  self.ended()
end

Stream.__close = Stream.close

--- An answer that goes on.
---@param listener river.embedded.Listener
---@param ended fun() called when the reader is gone
---@return table with `status`, `headers`, `events()`, `close()`
function response.stream(listener, ended)
  return setmetatable({status = 200, headers = headers("text/event-stream"), listener = listener, ended = ended},
    Stream)
end

--- The answer to a method that a path does not know.
---@param method string
---@param allowed string[]
---@return river.embedded.Response
function response.not_allowed(method, allowed)
  local answer = response.json(405, {detail = ('Method "%s" not allowed.'):format(method)})
  answer.headers = headers("application/json", {allow = table.concat(allowed, ", ")})
  return answer
end

-- The text of a label as a key of a JSON object.
local function json_key(label)
  if label == python.None then return "null" end
  return tostring(label)
end

--- A prediction as JSON has it: probabilities by the text of their label.
---@param prediction any
---@return any
function response.prediction(prediction)
  if type(prediction) ~= "table" then return prediction end
  local out = {}
  for label, p in pairs(prediction) do out[json_key(label)] = p end
  return out
end

return response
