--- Records exchanges: an object like those of riverlua.core.transfer's `net`, around one of them.
--
-- What is asked and answered passes unchanged; each exchange becomes an entry of riverlua.recording when it has ended,
-- and secrets are left out of it.

local errors = require "riverlua.errors"
local json = require "riverlua.json"
local recording = require "riverlua.recording"

local record = {}

local versions = {[10] = "1.0", [11] = "1.1", [20] = "2", [30] = "3"}

-- ---- one exchange ---------------------------------------------------------------------------------------------------

local Take = {}
Take.__index = Take

local function begin_take(net, address, method, headers, body)
  local session = net.session
  local take = setmetatable({session = session, n = session.writer:begin(), size = 0}, Take)
  if type(body) == "string" or body == nil then
    take.request = recording.request(session.scrubber, method, address, headers.list, body)
    take.size = body and #body or 0
  else
    take.sending, take.headers, take.method, take.address = {}, headers.list, method, address
  end
  return take
end

-- A piece of a body, as long as the entry has room.
local function keep(take, pieces, bytes)
  take.size = take.size + #bytes
  if take.size > recording.max_bodies then take.too_large = true else pieces[#pieces + 1] = bytes end
end

local function request_of(take, whole)
  if not take.sending then return take.request end
  local request = recording.request(take.session.scrubber, take.method, take.address, take.headers,
    table.concat(take.sending))
  -- the server had enough before it was all sent
  if not whole or take.too_large then request.cut = true end
  return request
end

local function answer_of(take, status)
  local scrubber = take.session.scrubber
  local head, trailers = take.transfer:head()
  local _, version = take.transfer:connection()
  local answer = {status = status, version = versions[version],
    headers = json.array(scrubber:headers(recording.head_headers(head)))}
  if trailers then answer.trailers = json.array(scrubber:headers(recording.head_headers(trailers))) end
  if take.too_large then
    answer.omitted = true
  elseif take.pieces then
    local lengths = json.array{}
    for i, piece in ipairs(take.pieces) do lengths[i] = #piece end
    recording.put_body(answer, table.concat(take.pieces), scrubber, {pieces = lengths})
    answer.pieces = json.array(answer.pieces)
  elseif take.body and take.body ~= "" then
    recording.put_body(answer, take.body, scrubber)
  end
  return answer
end

-- Writes the entry, once. `how`: fields of it that say how the exchange ended.
local function finish(take, how)
  if take.finished then return end
  take.finished = true
  local entry = how or {}
  entry.type, entry.n, entry.request = "http", take.n, request_of(take, take.sent_all)
  if take.status then entry.answer = answer_of(take, take.status) end
  take.pieces, take.body, take.sending = nil, nil, nil
  take.session.writer:append(entry)
end

local function failure_of(take, kind, message, phase, limit, sent)
  return {failure = {kind = kind, message = message and (take.session.scrubber:text(message)), phase = phase,
    limit = (kind == "timeout" or kind == "limit") and limit or nil, sent = sent or false}}
end

-- The answer, or its head when it is streamed, or the failure.
local function note_outcome(take, status, body, ...)
  if take.finished then return end
  if not status then return finish(take, failure_of(take, body, ...)) end
  take.status = status
  if body then
    keep(take, {}, body)
    take.body = body
    finish(take)
  else
    take.pieces = take.pieces or {}
  end
end

-- The task was cancelled while it waited: a replay will wait as well.
local function note_cancelled(take, err)
  if take.finished then return end
  if err == nil or errors.is(err, "cancelled") or errors.is(err, "interrupted") then
    finish(take, {left = true, waiting = true})
  else
    take.finished = true   -- refused before it was an exchange
  end
end

local Guard = {__close = function(guard, err)
  if not guard.done then note_cancelled(guard.take, err) end
end}

local function guarded(take)
  return setmetatable({take = take}, Guard)
end

-- ---- transfers ------------------------------------------------------------------------------------------------------

local Transfer = {}
Transfer.__index = Transfer

function Transfer:wait()
  local guard <close> = guarded(self.take)
  local results = table.pack(self.inner:wait())
  guard.done = true
  note_outcome(self.take, table.unpack(results, 1, results.n))
  return table.unpack(results, 1, results.n)
end

function Transfer:read()
  local take = self.take
  local guard <close> = guarded(take)
  local results = table.pack(self.inner:read())
  guard.done = true
  local bytes = results[1]
  if bytes then
    if not take.finished then keep(take, take.pieces, bytes) end
  elseif results[2] then
    finish(take, failure_of(take, table.unpack(results, 2, results.n)))
  else
    finish(take)
  end
  return table.unpack(results, 1, results.n)
end

function Transfer:write(bytes)
  local listens = self.inner:write(bytes)
  local take = self.take
  if take.sending then keep(take, take.sending, bytes) end
  return listens
end

function Transfer:end_body()
  self.take.sent_all = true
  return self.inner:end_body()
end

function Transfer:head() return self.inner:head() end
function Transfer:connection() return self.inner:connection() end

local function left(self) finish(self.take, {left = true}) end

function Transfer:close()
  left(self)
  return self.inner:close()
end

Transfer.__close = Transfer.close
Transfer.__gc = left

local function wrap(take, inner)
  take.transfer = inner
  return setmetatable({inner = inner, take = take}, Transfer)
end

-- ---- the net --------------------------------------------------------------------------------------------------------

local Net = {}
Net.__index = Net

function Net:headers(lines)
  return {set = self.inner:headers(lines), list = recording.sent_headers(lines)}
end

function Net:perform(address, method, headers, body, ...)
  local take = begin_take(self, address, method, headers, body)
  local guard <close> = guarded(take)
  local results = table.pack(self.inner:perform(address, method, headers.set, body, ...))
  guard.done = true
  local transfer = wrap(take, results[1])
  note_outcome(take, table.unpack(results, 2, results.n))
  return transfer, table.unpack(results, 2, results.n)
end

local Pipeline = {}
Pipeline.__index = Pipeline

function Net:pipeline() return setmetatable({inner = self.inner:pipeline()}, Pipeline) end

function Pipeline:ready() return self.inner:ready() end

function Pipeline:close() return self.inner:close() end

function Net:open(address, method, headers, body, connect, first_byte, idle, total, max_body, stream, high_water,
    repeatable, pipeline)
  local take = begin_take(self, address, method, headers, body)
  return wrap(take, self.inner:open(address, method, headers.set, body, connect, first_byte, idle, total, max_body,
    stream, high_water, repeatable, pipeline and pipeline.inner))
end

function Net:stats() return self.inner:stats() end

function Net:close() return self.inner:close() end

--- Wraps `inner`, whose exchanges are recorded from now on.
---@param inner userdata a net of riverlua.core.transfer
---@param session table as recording.session gives it
function record.net(inner, session)
  return setmetatable({inner = inner, session = session}, Net)
end

return record
