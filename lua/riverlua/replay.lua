--- Replays recorded exchanges without a network: an object like those of riverlua.core.transfer's `net`.
--
--     RIVERLUA_RECORD=recordings riverlua script.lua     -- once, with the servers
--     RIVERLUA_REPLAY=recordings riverlua script.lua     -- then without them
--
-- Answers, failures and streams (in the pieces they came in) are those that were recorded; waiting before a repeat is
-- left out. `replay.match` changes how requests are compared with recorded ones.

local clock = require "riverlua.clock"
local core = require "riverlua.core.task"
local errors = require "riverlua.errors"
local recording = require "riverlua.recording"
local tapes = require "riverlua.recording.tape"
local url = require "riverlua.url"

local replay = {}

--- How requests are compared with recorded ones; for all clients of this script, and of no effect without a replay.
--- `options`:
--- `ignore`: names of JSON members, parameters and form fields that are not compared, at any depth
--- (`"idempotency_key"`), or paths of members (`"$.metadata.sent_at"`, `"$.items[1].id"`);
--- `headers`: names of headers that are compared; by default none is;
--- `ports` = false: whether requests to this machine are compared by their ports too;
--- `repeats` = false: whether the last answer to a request is given again when all have been.
--- Each call replaces what the one before said.
---@type fun(options: {ignore: string[]|nil, headers: string[]|nil, ports: boolean|nil, repeats: boolean|nil})
replay.match = tapes.match

local version_numbers = {["1.0"] = 10, ["1.1"] = 11, ["2"] = 20, ["3"] = 30}

local function closed() errors.raise{kind = "closed", message = "attempt to use a closed client"} end

-- As long as the recorded script had waited in vain: until somebody cancels.
local function wait_for_ever() core.signal():wait() end

local function refuse(entry, what)
  errors.raise{kind = "replay", method = entry.request.method, url = url.redact(entry.request.url), file = entry.file,
    line = entry.line, retryable = false,
    message = ("%s %s (%s:%d): %s"):format(entry.request.method, url.redact(entry.request.url), entry.file, entry.line,
      what), hint = "record again"}
end

-- ---- transfers ------------------------------------------------------------------------------------------------------

local Transfer = {}
Transfer.__index = Transfer

local function failure_values(failure)
  local limit = failure.limit or 0
  if failure.kind == "timeout" then clock.skip(limit) end
  return nil, failure.kind, failure.message or failure.kind, failure.phase, limit, failure.sent or false
end

local function whole_body(entry)
  local answer = entry.answer
  if answer.omitted then refuse(entry, "the body was too large to be recorded") end
  return recording.body_of(answer) or ""
end

local function take(self, body)
  local net = self.net
  local session = net.session
  self.entry = session.tape:take(recording.request(session.scrubber, self.method, self.address, self.headers, body),
    "http")
  self.reused = net:visit(self.address)
end

--- As of riverlua.core.transfer: the status and body (nil when it is streamed), or the failure.
function Transfer:wait()
  if not self.entry then take(self, table.concat(self.sending)) end
  core.sleep(0)   -- other tasks have their turn, as they would have
  if self.gone or self.net.gone then return nil, "closed", "the request was given up", nil, 0, true end
  local entry = self.entry
  local answer, failure = entry.answer, entry.failure
  if self.pipeline then self.pipeline.proven = answer ~= nil and not failure end
  if not answer then
    if entry.waiting then wait_for_ever() end
    if not failure then refuse(entry, "the recorded script left before there was an answer") end
    return failure_values(failure)
  end
  if self.stream then return answer.status end
  if failure then return failure_values(failure) end
  if entry.waiting then wait_for_ever() end
  if entry.left then refuse(entry, "the recorded script left the stream before its end") end
  return answer.status, whole_body(entry)
end

--- The next piece of a streamed answer, as it was cut when it was recorded; nil at the end, or the failure.
function Transfer:read()
  core.sleep(0)
  if self.ended then return nil end
  if self.gone then return nil, "closed", "the request was given up", nil, 0, true end
  local entry = self.entry
  local body = self.rest or whole_body(entry)
  local at = self.at or 1
  self.rest = body
  if at <= #body then
    local pieces = entry.answer.pieces
    self.piece = (self.piece or 0) + 1
    local length = pieces and pieces[self.piece] or #body
    self.at = at + length
    return body:sub(at, at + length - 1)
  end
  if entry.failure then return failure_values(entry.failure) end
  if entry.waiting then wait_for_ever() end
  if entry.left then refuse(entry, "the recorded script left the stream here") end
  self.ended = true
  return nil
end

function Transfer:write(bytes)
  if self.gone or not self.sending then return false end
  self.sending[#self.sending + 1] = bytes
  return true
end

Transfer.end_body = function() end   -- the request is looked for when it is waited for

local function origin_of(address)
  return url.without_userinfo(address):match("^%a[%w+.-]*://[^/?#]*")
end

-- A text in which the server `from` is the server `to`.
local function moved(text, from, to)
  local parts, at = {}, 1
  while true do
    local first, last = text:find(from, at, true)
    if not first then break end
    local whole = not text:find("^[%w.:-]", last + 1)   -- not the beginning of another's name or port
    parts[#parts + 1] = text:sub(at, first - 1) .. (whole and to or from)
    at = last + 1
  end
  return table.concat(parts) .. text:sub(at)
end

-- The headers as they came; where they speak of the server that was asked (redirects and realms do), of the one that
-- is asked now: its port may be another.
local function block_of(self, first, headers)
  local recorded, here = origin_of(self.entry.request.url), origin_of(self.address)
  local lines = {first}
  for _, header in ipairs(headers) do
    local value = header[2]
    if recorded and here and recorded ~= here then value = moved(value, recorded, here) end
    lines[#lines + 1] = header[1] .. ": " .. value
  end
  return table.concat(lines, "\r\n") .. "\r\n\r\n"
end

function Transfer:head()
  local answer = self.entry and self.entry.answer
  if not answer then return "", nil end
  local first = ("HTTP/%s %d"):format(answer.version or "1.1", answer.status)
  return block_of(self, first, answer.headers), answer.trailers and block_of(self, nil, answer.trailers)
end

function Transfer:connection()
  local answer = self.entry and self.entry.answer
  return self.reused or false, answer and version_numbers[answer.version] or 0
end

function Transfer:close() self.gone, self.rest = true, nil end

Transfer.__close = Transfer.close

-- ---- the net --------------------------------------------------------------------------------------------------------

local Net = {}
Net.__index = Net

function Net.headers(_, lines)
  for _, line in ipairs(lines) do
    if line:find("[\r\n\0]") then
      errors.raise{kind = "argument", message = "a header must not contain line breaks or NUL bytes"}
    end
  end
  return recording.sent_headers(lines)
end

-- Counts a request; true when a connection to the place would have been there.
function Net:visit(address)
  local parts = url.parse(address)
  local place = parts and ("%s://%s:%s"):format(parts.scheme, parts.host, parts.port) or address
  self.requests = self.requests + 1
  if self.places[place] then
    self.reused = self.reused + 1
    return true
  end
  self.places[place], self.connections = true, self.connections + 1
  return false
end

local Pipeline = {}
Pipeline.__index = Pipeline

function Net:pipeline()
  if self.gone then closed() end
  return setmetatable({net = self}, Pipeline)
end

--- Once an answer has proved that the server keeps the connection, as when it was recorded.
function Pipeline:ready() return self.proven and not self.net.gone or false end

function Pipeline:close() self.proven = false end

function Net:open(address, method, headers, body, _, _, _, _, _, stream, _, _, pipeline)
  if self.gone then closed() end
  local transfer = setmetatable({net = self, address = address, method = method, headers = headers, stream = stream,
    pipeline = pipeline}, Transfer)
  if type(body) == "string" or body == nil then take(transfer, body) else transfer.sending = {} end
  return transfer
end

function Net:perform(...)
  local transfer = self:open(...)
  return transfer, transfer:wait()
end

function Net:stats()
  if self.gone then closed() end
  return {libcurl = "replay", requests = self.requests, connections = self.connections, reused = self.reused,
    in_flight = 0}
end

function Net:close() self.gone = true end

--- A net whose answers are those of the session's tape.
---@param session table as recording.session gives it
function replay.net(session)
  return setmetatable({session = session, requests = 0, connections = 0, reused = 0, places = {}}, Net)
end

return replay
