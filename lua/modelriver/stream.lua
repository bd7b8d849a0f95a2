--- Answers that come piece by piece (SSE): deltas, whole tool calls, the reason to finish, usage.
--
--     for event in client:stream{workflow = "chat", messages = {modelriver.user("Hello")}} do
--       if event.delta then io.write(event.delta) end
--     end
--
-- Every event has `kind` and, under the name of its kind, what it brings:
--   {kind = "delta", delta = "text"}                      {kind = "refusal", refusal = "text"}
--   {kind = "tool_call", tool_call = {id =, name =, arguments = "JSON"}}, when it is whole
--   {kind = "finish", finish = "stop"|"length"|"tool_calls"|"content_filter"|…}
--   {kind = "usage", usage = {prompt_tokens =, completion_tokens =, total_tokens =}}
-- and `raw`, the chunk it came in. With `n` above 1, `index` tells the choice (from 0); the text kept is choice 0's.

local errors = require "riverlua.errors"
local failure = require "modelriver.failure"
local json = require "riverlua.json"
local meta = require "modelriver.meta"
local response = require "modelriver.response"
local sse = require "riverlua.sse"
local task = require "riverlua.task"

local stream = {}

-- What is kept of the text for errors and :text(): a stream may go on for ever.
local KEPT_TEXT = 1024 * 1024
local PIECES, BLOCK = 512, 64 * 1024
-- Seconds in which the end of the body should follow [DONE].
local GRACE = 0.05
-- An answer that is no stream although one was asked for.
local LONGEST_WHOLE = 64 * 1024 * 1024
local MOST_TOOL_CALLS = 256
local LONGEST_ARGUMENTS = 16 * 1024 * 1024

---@class modelriver.Stream
---@field content string the text so far (of the last MiB, when it is longer)
---@field tool_calls modelriver.ToolCall[] those that are whole
---@field finish_reason string|nil
---@field usage modelriver.Usage|nil
---@field meta modelriver.Meta
---@field headers table
---@field request_id string|nil
---@field tries integer
local Stream = {}
Stream.__name = "modelriver.Stream"

-- ------------------------------------------------------------------------------------------------------- the text

local function keep(self, text)
  local count, loose = self.piece_count + 1, self.loose + #text
  self.pieces[count] = text
  self.piece_count, self.loose = count, loose
  if count < PIECES and loose < BLOCK then return end
  self.blocks[#self.blocks + 1] = table.concat(self.pieces, "", 1, count)
  self.piece_count, self.loose, self.kept = 0, 0, self.kept + loose
  while self.kept > KEPT_TEXT and not self.keeps_all and #self.blocks > 1 do
    self.kept = self.kept - #table.remove(self.blocks, 1)
    self.forgot = true
  end
end

local function kept_text(self)
  return table.concat(self.blocks) .. table.concat(self.pieces, "", 1, self.piece_count)
end

-- ---------------------------------------------------------------------------------------------------------- errors

-- The stream has ended badly, and says so whenever it is asked again.
local function fail_with(self, err)
  self.failure = err
  self:close()
  error(err, 0)
end

local function fail(self, fields)
  fields.kind = fields.kind or "stream"
  fields.message = self.call.scrub(failure.place_of(self.call) .. fields.message)
  fields.partial, fields.partial_tool_calls = kept_text(self), self.whole_calls
  fields.workflow, fields.url, fields.method = self.call.workflow, self.call.url, "POST"
  fields.request_id, fields.tries = self.shown.request_id, self.shown.tries
  fields.retryable = false
  fail_with(self, errors.new(fields))
end

-- What a chunk or an event named "error" says about a failure.
local function fail_told(self, body, text)
  local parts = failure.scrubbed(self.call, failure.parts(body) or {})
  local message = parts.message or (text ~= "" and text) or "the provider failed"
  fail(self, {message = "the stream broke off: " .. failure.one_line(self.call, message), code = parts.code,
    type = parts.type, param = parts.param, details = parts.details})
end

-- What has a name of its own, also in the middle of a stream.
local KEPT_KINDS = {timeout = true, limit = true, closed = true}

-- What reading it raised.
local function fail_read(self, err)
  if not errors.is(err) or err.kind == "cancelled" or err.kind == "interrupted" then
    self:close()
    error(err, 0)
  end
  if err.code == "stream_truncated" then
    fail(self, {code = err.code, message = err.message, hint = "err.partial has the text so far"})
  end
  local kept = KEPT_KINDS[err.kind]
  fail(self, {kind = kept and err.kind or "stream", phase = err.phase, code = not kept and "stream_broken" or nil,
    message = "the stream broke off: " .. err.message,
    hint = err.hint, cause = err})
end

-- ---------------------------------------------------------------------------------------------------------- opening

-- The chunk and the events that a whole answer amounts to.
local function chunk_of_whole(body)
  local whole = response.of_body(body, {}, {})
  local calls
  for i, call in ipairs(whole.tool_calls) do
    calls = calls or {}
    calls[i] = {index = i - 1, id = call.id, type = "function",
      ["function"] = {name = call.name, arguments = call.arguments}}
  end
  local text = whole:text()
  return {object = "chat.completion.chunk", model = whole.meta.model, usage = whole.usage, meta = body.meta,
    choices = {{index = 0, finish_reason = whole.finish_reason or "stop",
      delta = {content = text ~= "" and text or nil, tool_calls = calls}}}}
end

local function is_event_stream(res)
  return (res.headers["content-type"] or ""):lower():find("^%s*text/event%-stream") ~= nil
end

-- Looks at an answer before it is taken for a stream; raises for a failure told with status 200.
local function accept(self, res, tries)
  if is_event_stream(res) then return res end
  local ok, text = pcall(res.text, res, LONGEST_WHOLE)
  res:close()
  if not ok then error(errors.is(text) and failure.from_transport(self.call, text, tries) or text, 0) end
  local decoded, body = pcall(failure.decode, text)
  if not decoded or type(body) ~= "table" then
    error(failure.unreadable(self.call, text, "the answer is neither a stream nor JSON",
      {res = res, tries = tries}), 0)
  end
  if response.is_failure(body) then error(failure.from_envelope(self.call, body, res, tries), 0) end
  self.ready = {chunk_of_whole(body)}
  return res
end

-- The events of an answer. The last one is taken without its blank line, too: servers forget it.
local function events_of(self, res)
  self.at_tail = false
  return sse.events(function()
    if self.at_tail then return nil end
    local bytes = res:read()
    if bytes == nil then
      self.at_tail = true
      return "\n\n"
    end
    return bytes
  end)
end

local function open(self, retries)
  local call = self.call
  if self.deadline then
    -- an attempt after a broken one has what is left of the time
    call.timeout = {total = math.max(0.001, self.deadline - task.now())}
    for name, seconds in pairs(self.limits) do call.timeout[name] = call.timeout[name] or seconds end
  end
  call.retries = retries
  local res, tries = self.gateway:post(call, function(answer, n) return accept(self, answer, n) end)
  self.retries_left = retries - (tries - 1)
  self.res = res
  if self.closed then res:close() end   -- meanwhile, by another task
  self.next_event = not self.ready and events_of(self, res) or function() return nil end
  local shown = self.shown
  shown.headers, shown.request_id = res.headers, failure.request_id(res.headers)
  shown.tries = (shown.tries or 0) + tries
  shown.meta = response.of_body({}, res.headers, {}).meta
end

-- ---------------------------------------------------------------------------------------------------------- chunks

-- Before anything was handed out a broken stream may be begun again, as a request may be sent again.
local function may_reopen(self, err)
  if self.delivered or not self.gateway.resend or self.retries_left < 1 or not errors.is(err) then return false end
  return err.kind == "connect" or err.kind == "protocol" or err.kind == "timeout" and err.phase ~= "total"
end

-- Begins the stream again after `err`; raises that when it may not be.
local function reopen(self, err)
  local wait = self.gateway.back_off(self.shown.tries)
  if not may_reopen(self, err) or self.deadline and task.now() + wait >= self.deadline then fail_read(self, err) end
  self.res:close()
  self.gateway:pause(wait)
  self.calls, self.call_count = {}, 0
  local ok, problem = pcall(open, self, self.retries_left - 1)
  if not ok then fail_with(self, problem) end
end

-- Whether an event was cut off: only the last one can be, and then it is no JSON.
local function is_cut(self, event)
  return self.at_tail and not event.data:find("^%[DONE%]") and not pcall(failure.decode, event.data)
end

-- The next event, or nil at the end of an answer that is complete.
local function read_event(self)
  while not self.closed do
    local ok, event = pcall(self.next_event)
    if ok and event and not is_cut(self, event) then return event end
    local lost = ok or errors.is(event, "protocol")
    if lost and self.shown.finish_reason or self.was_whole then return nil end   -- it lacks nothing but its end
    reopen(self, not ok and event or errors.new{kind = "protocol", code = "stream_truncated",
      message = "the stream ended before the answer was complete"})
  end
  return nil
end

-- Nothing more is to come but the end of the body: a connection where that was read serves the next request, too.
local function read_end(self)
  local ok, err = pcall(task.timeout, GRACE, self.res.read, self.res)
  if not ok and errors.is(err) and (err.kind == "cancelled" or err.kind == "interrupted") then
    self:close()
    error(err, 0)
  end
end

local function at_end(self, said_done)
  self.ended = true
  if said_done then read_end(self) end
  self.res:close()
  return nil
end

-- The next chunk, decoded, or nil at the end.
local function next_chunk(self)
  if self.ready and self.ready[1] then
    self.was_whole = true
    return table.remove(self.ready, 1)
  end
  local event = read_event(self)
  local done = event ~= nil and event.data:find("^%[DONE%]") ~= nil
  if done or event == nil then return at_end(self, done) end
  local data = event.data
  local ok, chunk = pcall(failure.decode, data)
  if event.event == "error" then
    if ok and type(chunk) == "table" then fail_told(self, chunk, "") else fail_told(self, nil, data) end
  elseif not ok or type(chunk) ~= "table" then
    fail(self, {kind = "protocol", code = "stream_malformed", body = self.call.scrub(data:sub(1, 4096)),
      message = "a piece of the stream is not JSON: " .. (ok and failure.one_line(self.call, data) or chunk.message)})
  elseif response.is_failure(chunk) or type(chunk.error) == "string" then
    fail_told(self, chunk, "")
  end
  return chunk
end

-- ---------------------------------------------------------------------------------------------------------- events

local function add_tool_call(self, piece)
  local index = math.tointeger(piece.index) or 0
  local call = self.calls[index]
  if not call then
    if self.call_count >= MOST_TOOL_CALLS then
      fail(self, {kind = "limit", message = ("more than %d tool calls"):format(MOST_TOOL_CALLS)})
    end
    self.call_count = self.call_count + 1
    call = {pieces = {}, size = 0}
    self.calls[index] = call
  end
  local described = type(piece["function"]) == "table" and piece["function"] or {}
  call.id = call.id or piece.id
  call.name = call.name or described.name
  if type(described.arguments) == "string" then
    call.size = call.size + #described.arguments
    if call.size > LONGEST_ARGUMENTS then
      fail(self, {kind = "limit", message = "the arguments of a tool call are too long"})
    end
    call.pieces[#call.pieces + 1] = described.arguments
  end
end

local function queue(self, event)
  if self.raw then return end   -- chunks are handed out as they came
  self.queue_last = self.queue_last + 1
  self.queue[self.queue_last] = event
end

-- The calls that are whole now, in their order.
local function finish_tool_calls(self, chunk)
  local indices = {}
  for index in pairs(self.calls) do indices[#indices + 1] = index end
  table.sort(indices)
  for _, index in ipairs(indices) do
    local call = self.calls[index]
    local whole = {id = call.id, name = call.name, arguments = table.concat(call.pieces)}
    if whole.arguments == "" then whole.arguments = "{}" end
    self.whole_calls[#self.whole_calls + 1] = whole
    queue(self, {kind = "tool_call", tool_call = whole, raw = chunk})
  end
  self.calls = {}
end

local function take_choice(self, chunk, choice)
  local delta, index = type(choice.delta) == "table" and choice.delta or {}, choice.index or 0
  local shown_index = index ~= 0 and index or nil
  if type(delta.content) == "string" and delta.content ~= "" then
    if index == 0 then keep(self, delta.content) end
    queue(self, {kind = "delta", delta = delta.content, index = shown_index, raw = chunk})
  end
  if type(delta.refusal) == "string" and delta.refusal ~= "" then
    queue(self, {kind = "refusal", refusal = delta.refusal, index = shown_index, raw = chunk})
  end
  if index == 0 and type(delta.tool_calls) == "table" then
    for _, piece in ipairs(delta.tool_calls) do
      if type(piece) == "table" then add_tool_call(self, piece) end
    end
  end
  local reason = choice.finish_reason
  if reason == "error" then fail_told(self, choice, "") end
  if type(reason) == "string" then
    if index == 0 then
      self.shown.finish_reason = reason
      finish_tool_calls(self, chunk)
    end
    queue(self, {kind = "finish", finish = reason, index = shown_index, raw = chunk})
  end
end

local function take_rest(self, chunk)
  local shown = self.shown
  if type(chunk.model) == "string" and not shown.meta.model then shown.meta.model = chunk.model end
  if type(chunk.meta) == "table" then shown.meta = meta.normal(chunk.meta) end
  local usage = meta.usage(chunk.usage)
  if usage then
    shown.usage, shown.meta.usage = usage, usage
    queue(self, {kind = "usage", usage = usage, raw = chunk})
  end
end

-- Takes a chunk in; what it brings is in the queue then.
local function take_chunk(self, chunk)
  if type(chunk.choices) == "table" then
    for _, choice in ipairs(chunk.choices) do
      if type(choice) == "table" then take_choice(self, chunk, choice) end
    end
  end
  take_rest(self, chunk)
end

local function note_usage(self)
  if self.noted then return end
  self.noted = true
  self.gateway.usage:add(self.call.workflow, self.shown.meta.model, self.shown.usage)
end

-- The whole calls as a message of the assistant's has them; nil: none.
local function sent_tool_calls(self)
  local calls
  for i, call in ipairs(self.whole_calls) do
    calls = calls or json.array{}
    calls[i] = {id = call.id, type = "function", ["function"] = {name = call.name, arguments = call.arguments}}
  end
  return calls
end

-- The stream has ended as it should.
local function conclude(self)
  if self.closed then return end   -- by another task, while this one waited
  self.concluded = true
  finish_tool_calls(self, nil)
  note_usage(self)
  if self.on_end then self.on_end(kept_text(self), sent_tool_calls(self)) end
end

local function pop(self)
  local first = self.queue_first
  if first > self.queue_last then return nil end
  local event = self.queue[first]
  self.queue[first] = nil
  self.queue_first = first + 1
  return event
end

local function next_event(self)
  while true do
    local event = pop(self)
    if event then
      self.delivered = true
      return event
    end
    if self.ended then return nil end
    local chunk = next_chunk(self)
    if chunk then take_chunk(self, chunk) else conclude(self) end
  end
end

local function next_raw(self)
  if self.ended then return nil end
  local chunk = next_chunk(self)
  if not chunk then
    conclude(self)
    return nil
  end
  take_chunk(self, chunk)
  self.delivered = true
  return chunk
end

--- The next event, or nil at the end; the same as calling the stream.
---
--- Raises kind "stream" when it breaks off (`partial` has the text so far, `code` is "stream_broken",
--- "stream_truncated" or the provider's), "timeout" when nothing came for too long (`phase`; `partial` too).
function Stream:next()
  if self.failure then error(self.failure, 0) end
  if self.closed then return nil end
  if self.raw then return next_raw(self) end
  return next_event(self)
end

Stream.__call = Stream.next

-- Reads the rest; the whole text.
local function read_all(self, what)
  if self.forgot then
    errors.raise{kind = "limit", message = ("%s: more than %d bytes have gone by"):format(what, KEPT_TEXT),
      hint = "call it before the loop, or collect the deltas in the loop"}
  end
  self.keeps_all = true
  repeat until self:next() == nil
  if not self.concluded then
    errors.raise{kind = "closed", message = what .. ": the stream was closed before its end",
      hint = "stream.content has the text so far"}
  end
  return kept_text(self)
end

--- Reads the rest and returns the whole text.
---@return string
function Stream:text() return read_all(self, "stream:text") end

--- Reads the rest and returns the answer as `client:ai` would have.
---@return modelriver.Response
function Stream:response()
  local text = read_all(self, "stream:response")
  local shown, calls = self.shown, sent_tool_calls(self)
  local answer = response.of_body({model = shown.meta.model, usage = shown.usage, choices = {{index = 0,
    finish_reason = shown.finish_reason,
    message = {role = "assistant", content = (text ~= "" or not calls) and text or nil, tool_calls = calls}}}},
    shown.headers, self.call.body)
  answer.tries = shown.tries
  return answer
end

--- Frees the connection; needed only when the stream is not read to its end.
function Stream:close()
  self.closed, self.ended = true, true
  if self.shown.usage then note_usage(self) end   -- the tokens were used, whoever reads the rest
  if self.res then self.res:close() end
end

Stream.__close = Stream.close

local SHOWN = {finish_reason = true, usage = true, meta = true, headers = true, request_id = true, tries = true}

function Stream.__index(self, name)
  if SHOWN[name] then return rawget(self, "shown")[name] end
  if name == "content" then return kept_text(self) end
  if name == "tool_calls" then return rawget(self, "whole_calls") end
  return Stream[name]
end

function Stream:__tostring()
  return ("modelriver.Stream(%s%s)"):format(self.call.workflow or self.call.what, self.closed and ", closed" or "")
end

--- For completion at the prompt.
function Stream.__names()
  local all = {"content", "tool_calls"}
  for _, known in ipairs{SHOWN, Stream} do
    for name in pairs(known) do all[#all + 1] = name end
  end
  return all
end

errors.want_colon(Stream, "stream")

--- Internal: sends the request and returns the stream when its headers are there.
---@param gateway modelriver.Gateway
---@param call table as for Gateway:post, with the body
---@param raw boolean|nil hand out chunks as they came
---@return modelriver.Stream
function stream.open(gateway, call, raw)
  call.stream, call.body.stream = true, true
  local self = setmetatable({
    gateway = gateway, call = call, raw = raw or false, shown = {}, whole_calls = {}, calls = {}, call_count = 0,
    pieces = {}, piece_count = 0, blocks = {}, kept = 0, loose = 0, queue = {}, queue_first = 1, queue_last = 0,
    limits = gateway:limits(call), delivered = false, ended = false, closed = false,
    -- false, not nil: what is not there is looked up in __index, a call for every chunk
    ready = false, failure = false,
  }, Stream)
  if self.limits.total > 0 then self.deadline = task.now() + self.limits.total end
  open(self, gateway:retries_of(call))
  return self, nil, nil, self
end

return stream
