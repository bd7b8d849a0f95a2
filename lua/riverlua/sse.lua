--- Server-sent events: an incremental parser of `text/event-stream`, after the WHATWG HTML rules.
--
-- Bytes in, events out; no I/O. The bytes may be cut anywhere (inside a CRLF, a field name, a UTF-8 sequence or the
-- byte order mark): the events are the same. Text is passed on byte for byte, so invalid UTF-8 is left to the reader.
--
--     local parser = sse.parser{max_event = 1 << 20}
--     for chunk in chunks do
--       for event in parser:feed(chunk) do print(event.event, event.data, event.id) end
--     end

local errors = require "riverlua.errors"

local byte, find, sub = string.byte, string.find, string.sub
local concat = table.concat

local sse = {}

--- What an event may hold, unless told otherwise.
sse.default_max_event = 16 * 1024 * 1024

local BYTE_ORDER_MARK = "\239\187\191"
local LF, SPACE, COLON = 10, 32, 58
local FAR = math.maxinteger   -- "no such byte in this chunk"
local PIECES = 256

-- Pieces of one string that is still growing. They are joined in blocks of 256, so that ten million pieces of one
-- byte cost neither ten million table slots nor quadratic time.
local function add_piece(rope, piece, separator)
  local count = rope.count + 1
  rope[count] = piece
  if count == PIECES then
    rope.blocks[#rope.blocks + 1] = concat(rope, separator, 1, count)
    count = 0
  end
  rope.count = count
end

local function join_pieces(rope, separator)
  local rest = concat(rope, separator, 1, rope.count)
  local blocks = rope.blocks
  if #blocks == 0 then return rest end
  if rope.count > 0 then blocks[#blocks + 1] = rest end
  return concat(blocks, separator)
end

local function new_rope(first)
  return {first, count = 1, blocks = {}}
end

---@class riverlua.sse.Event
---@field event string the event's type, "message" unless the server named another
---@field data string the data lines, joined by LF
---@field id string|nil the last id the server sent so far, absent when none or an empty one

---@class riverlua.sse.Parser
---@field last_id string|nil the id of the last finished event (for Last-Event-ID when reconnecting)
---@field retry number|nil seconds the server asked to wait before reconnecting
local Parser = {}
Parser.__index = Parser
Parser.__name = "riverlua.sse.Parser"

local function fail_limit(self)
  local limit = self.max_event
  self.chunk, self.position, self.partial, self.data = "", 1, nil, nil
  self.failed = errors.new{kind = "limit",
    message = ("a server-sent event is larger than %d bytes"):format(limit),
    hint = "raise max_event if the server is to be trusted"}
  error(self.failed, 0)
end

-- Takes one data value into the event being built: nil, then a string (the usual single line), then a rope.
local function add_data(self, value)
  local data = self.data
  if data == nil then
    self.data = value
  elseif type(data) == "string" then
    self.data = new_rope(data)
    add_piece(self.data, value, "\n")
  else
    add_piece(data, value, "\n")
  end
  self.size = self.size + #value + 1
end

-- Any line but a plain `data:` one; `line` is not empty.
local function take_field(self, line)
  local name, value = line, ""
  local colon = find(line, ":", 1, true)
  if colon == 1 then return end
  if colon then
    name = sub(line, 1, colon - 1)
    value = sub(line, byte(line, colon + 1) == SPACE and colon + 2 or colon + 1)
  end
  if name == "data" then
    add_data(self, value)
  elseif name == "event" then
    self.type = value
  elseif name == "id" then
    if not find(value, "\0", 1, true) then self.pending_id = value ~= "" and value or nil end
  elseif name == "retry" then
    -- more than fifteen digits is no time anyone waits for, and would no longer be exact
    if #value <= 15 and find(value, "^[0-9]+$") then self.retry = tonumber(value) / 1000 end
  end
end

-- An empty line ends the event: returns it, or nil when it holds no data.
local function dispatch(self)
  local data, kind = self.data, self.type
  local id = self.pending_id
  self.last_id = id
  self.type = nil
  if data == nil then return nil end
  self.data, self.size = nil, 0
  if type(data) == "table" then data = join_pieces(data, "\n") end
  if kind == nil or kind == "" then kind = "message" end
  return {event = kind, data = data, id = id}
end

-- The line in text[first..last]; the common `data:` line is cut out without making a string of the whole line.
local function take_line(self, text, first, last)
  if self.size + last - first >= self.max_event then fail_limit(self) end
  local d, a, t, a2, colon, space = byte(text, first, first + 5)
  if colon == COLON and d == 100 and a == 97 and t == 116 and a2 == 97 and last >= first + 4 then
    local from = (space == SPACE and last > first + 4) and first + 6 or first + 5
    add_data(self, sub(text, from, last))
  elseif d ~= COLON then
    take_field(self, sub(text, first, last))
  end
end

-- The rest of the chunk has no line end: it waits for the next one.
local function keep_rest(self, rest)
  local size = self.partial_size + #rest
  self.chunk, self.position = "", 1
  if self.size + size > self.max_event then fail_limit(self) end
  if self.partial == nil then
    self.partial = new_rope(rest)
  else
    add_piece(self.partial, rest, "")
  end
  self.partial_size = size
end

--- The next whole event among the bytes fed so far, or nil when more bytes are needed.
--- Raises kind="limit" when an event outgrows `max_event`; the parser is of no use afterwards.
---@return riverlua.sse.Event|nil
function Parser:next()
  if self.failed then error(self.failed, 0) end
  local chunk = self.chunk
  local length = #chunk
  while self.position <= length do
    local first = self.position
    local lf, cr = self.next_lf, self.next_cr
    if lf < first then
      lf = find(chunk, "\n", first, true) or FAR
      self.next_lf = lf
    end
    if cr < first then
      cr = find(chunk, "\r", first, true) or FAR
      self.next_cr = cr
    end
    local stop = lf < cr and lf or cr
    if stop == FAR then
      keep_rest(self, first == 1 and chunk or sub(chunk, first))
      return nil
    end
    if stop == cr and lf == cr + 1 then
      self.position = lf + 1
    else
      self.position = stop + 1
      -- a CR ends the line at once; an LF that opens the next chunk belongs to it
      self.skip_lf = stop == cr and stop == length
    end
    local partial = self.partial
    if partial then
      add_piece(partial, sub(chunk, first, stop - 1), "")
      local line = join_pieces(partial, "")
      self.partial, self.partial_size = nil, 0
      take_line(self, line, 1, #line)
    elseif stop > first then
      take_line(self, chunk, first, stop - 1)
    else
      local event = dispatch(self)
      if event then return event end
    end
  end
  return nil
end

-- Cuts off a byte order mark at the very start, which may itself arrive in pieces.
local function skip_mark(self, bytes)
  local head = self.head .. bytes
  if #head < #BYTE_ORDER_MARK and head == sub(BYTE_ORDER_MARK, 1, #head) then
    self.head = head
    return ""
  end
  self.head = nil
  return sub(head, 1, #BYTE_ORDER_MARK) == BYTE_ORDER_MARK and sub(head, #BYTE_ORDER_MARK + 1) or head
end

--- Takes the next bytes of the stream and iterates over the events that they complete:
--- `for event in parser:feed(bytes) do`. Events not fetched stay ready for the next call.
---@param bytes string
---@return fun(parser: riverlua.sse.Parser): riverlua.sse.Event|nil
---@return riverlua.sse.Parser
function Parser:feed(bytes)
  if type(bytes) ~= "string" then errors.expect("parser:feed", "bytes", bytes, "string") end
  if self.failed then error(self.failed, 0) end
  if self.head then bytes = skip_mark(self, bytes) end
  local chunk = self.chunk
  if self.position <= #chunk then
    bytes = sub(chunk, self.position) .. bytes
  elseif self.skip_lf and bytes ~= "" then
    self.skip_lf = false
    if byte(bytes) == LF then bytes = sub(bytes, 2) end
  end
  self.chunk, self.position, self.next_lf, self.next_cr = bytes, 1, 0, 0
  return self.next, self
end

local PARSER_OPTIONS = {max_event = true, last_id = true}

--- A parser for one stream.
---@param options { max_event: integer|nil, last_id: string|nil }|nil
---  `max_event`: bytes that the data of one event and the line being read may hold together (default 16 MiB);
---  `last_id`: the id to start from, when the stream continues an earlier one
---@return riverlua.sse.Parser
function sse.parser(options)
  options = options or {}
  errors.expect("sse.parser", "options", options, "table")
  errors.check_options("sse.parser", options, PARSER_OPTIONS)
  local max_event = options.max_event or sse.default_max_event
  errors.expect("sse.parser", "max_event", max_event, "number")
  errors.expect("sse.parser", "last_id", options.last_id, "string|nil")
  return setmetatable({
    max_event = max_event, last_id = options.last_id, pending_id = options.last_id,
    chunk = "", position = 1, next_lf = 0, next_cr = 0, skip_lf = false,
    partial = nil, partial_size = 0, data = nil, size = 0, type = nil, head = "",
  }, Parser)
end

--- Iterates over the events of a stream whose bytes `read` returns piece by piece (nil at the end).
--- An event that the end of the stream cuts off is dropped, as the rules say.
---@param read fun(): string|nil
---@param options table|nil as for `sse.parser`
---@return fun(): riverlua.sse.Event|nil
---@return riverlua.sse.Parser
function sse.events(read, options)
  local parser = sse.parser(options)
  local ended = false
  local function next_event()
    while not ended do
      local event = parser:next()
      if event then return event end
      local bytes = read()
      if bytes == nil then
        ended = true
      else
        parser:feed(bytes)
      end
    end
    return nil
  end
  return next_event, parser
end

return sse
