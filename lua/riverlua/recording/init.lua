--- Recordings of what went over the wire: their files, written and read.
--
-- A recording is a folder of JSON Lines files, one per process that recorded: `001-train.jsonl`. Its first line says
-- what it is, each further line is an entry, in the order in which the exchanges began:
--
--     {"type":"recording","version":1}
--     {"type":"http","request":{"body":"…","headers":[["Accept","*/*"]],"method":"POST","url":"http://…"},
--      "answer":{"body":"…","headers":[…],"status":200,"version":"1.1"}}                       (on one line)
--
-- Bodies are text, or `body_base64`; those of streams have `pieces`, the length in bytes of each as it came. What ended
-- an exchange is `failure` {kind, message, phase, limit, sent}. Entries of type "websocket" are described in
-- riverlua.recording.websocket_record; other types pass through here unlooked at but for their `request`. While
-- exchanges run side by side, one that ends early carries its place as `n`; when the process ends, the lines are put in
-- order.

local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local folders = require "riverlua.core.folder"
local json = require "riverlua.json"
local secrets = require "riverlua.recording.secrets"

local recording = {}

recording.version = 1
--- Bytes of bodies that an entry may hold, request and answer together; larger ones are left out.
recording.max_bodies = 32 * 1024 * 1024

local MAX_LINE = 72 * 1024 * 1024        -- text of that size, escaped, and its headers
local MAX_FOLDER = 1024 * 1024 * 1024
local MAX_PROCESSES = 999999
local HEAD = '{"type":"recording","version":1}'

local encode = json.encoder{sort = true}
local decode = json.decoder{drop_null = true, max_depth = 64, max_bytes = MAX_LINE}

local function storage_error(message, hint, fields)
  fields = fields or {}
  fields.kind, fields.message, fields.hint = "storage", message, hint
  errors.raise(fields)
end

-- ---- what an entry is made of ---------------------------------------------------------------------------------------

local function is_text(bytes)
  return not bytes:find("[\0-\8\11\12\14-\31\127]") and utf8.len(bytes) ~= nil
end

--- Puts bytes into a part of an entry: as `body`, or `body_base64` when they are no text; without their secrets.
---@param part table
---@param bytes string
---@param scrubber riverlua.Scrubber
---@param options {form: boolean|nil, pieces: integer[]|nil}|nil
function recording.put_body(part, bytes, scrubber, options)
  if is_text(bytes) then
    part.body, part.pieces = scrubber:text(bytes, options)
  else
    part.body_base64, part.pieces = digest.to_base64(scrubber:bytes(bytes)), options and options.pieces
  end
end

--- The bytes of a part of an entry, or nil.
---@param part table
function recording.body_of(part)
  return part.body or part.body_base64 and digest.from_base64(part.body_base64)
end

--- "Content-Type" and such in a list of names and values, or nil.
---@param headers {[1]: string, [2]: string}[]
---@param name string in lower case
function recording.header(headers, name)
  for _, header in ipairs(headers) do
    if header[1]:lower() == name then return header[2] end
  end
  return nil
end

--- What is sent, of a set of headers in libcurl's form.
---@param lines string[]
---@return {[1]: string, [2]: string}[]
function recording.sent_headers(lines)
  local headers = {}
  for _, line in ipairs(lines) do
    local name, value = line:match("^([^:;]+):%s*(.+)$")
    if name then
      headers[#headers + 1] = {name, value}
    elseif line:find(";$") then
      headers[#headers + 1] = {line:sub(1, -2), ""}
    end
  end
  return headers
end

--- Names and values of a head, as it came over the wire.
---@param block string|nil
---@param without string|nil in lower case: a header that is left out
---@return {[1]: string, [2]: string}[]
function recording.head_headers(block, without)
  local headers = {}
  for line in (block or ""):gmatch("[^\r\n]+") do
    local name, value = line:match("^([^:%s]+)%s*:%s*(.-)%s*$")
    if name and name:lower() ~= without then
      headers[#headers + 1] = {name, value}
    elseif line:find("^[ \t]") and headers[1] then
      headers[#headers][2] = headers[#headers][2] .. " " .. line:match("^%s*(.-)%s*$")
    end
  end
  return headers
end

--- A request as entries hold it and as it is looked for: without secrets.
---@param scrubber riverlua.Scrubber
---@param method string
---@param address string
---@param headers {[1]: string, [2]: string}[]
---@param body string|nil
---@return table request {method, url, headers, body or body_base64}
function recording.request(scrubber, method, address, headers, body)
  -- first what its headers and address give away: it may stand in the body
  local request = {method = method, headers = json.array(scrubber:headers(headers)), url = scrubber:url(address)}
  if body and #body > recording.max_bodies then
    request.omitted = #body
  elseif body and body ~= "" then
    local kind = recording.header(headers, "content-type") or ""
    recording.put_body(request, body, scrubber, {form = kind:lower():find("x-www-form-urlencoded", 1, true) ~= nil})
  end
  return request
end

--- One line for an entry; `type` and `request` come first.
---@param entry table
---@return string line without line end
function recording.encode_entry(entry)
  local parts = {'{"type":' .. encode(entry.type)}
  local names = {}
  for name in pairs(entry) do names[#names + 1] = name end
  table.sort(names, function(a, b)
    if (a == "request") ~= (b == "request") then return a == "request" end
    return a < b
  end)
  for _, name in ipairs(names) do
    if name ~= "type" then parts[#parts + 1] = ("%s:%s"):format(encode(name), encode(entry[name])) end
  end
  return table.concat(parts, ",") .. "}"
end

-- ---- writing --------------------------------------------------------------------------------------------------------

---@class riverlua.RecordingWriter
local Writer = {}
Writer.__index = Writer

local function name_of_script()
  local script = type(arg) == "table" and type(arg[0]) == "string" and arg[0] or ""
  local name = script:match("([^/]*)$"):gsub("%.lua$", ""):gsub("[^%w_-]", "_"):sub(1, 40)
  return name ~= "" and name or "riverlua"
end

local function files_of(folder)
  local names, problem = folders.list(folder)
  if not names then return nil, problem end
  local files = {}
  for _, name in ipairs(names) do
    if name:find("%.jsonl$") and not name:find("^%.") then files[#files + 1] = name end
  end
  table.sort(files)
  return files
end

local function has_number(folder, number)
  for _, name in ipairs(files_of(folder) or {}) do
    if tonumber(name:match("^(%d+)")) == number then return true end
  end
  return false
end

-- Makes the file with this number, or returns nil when another process has it.
local function open_numbered(folder, number)
  local claim = ("%s/%03d.lock"):format(folder, number)
  local lock <close>, why = folders.lock(claim)
  if not lock and why ~= "locked" then storage_error("cannot record: " .. tostring(why)) end
  if not lock then return nil end
  local path, file, problem
  if not has_number(folder, number) then
    path = ("%s/%03d-%s.jsonl"):format(folder, number, name_of_script())
    file, problem = io.open(path, "ab")
  end
  os.remove(claim)   -- whoever holds it still will find the file
  if problem then storage_error("cannot record: " .. problem) end
  return file, path
end

local function open_next(folder)
  local files, problem = files_of(folder)
  if not files then storage_error("cannot record: " .. problem) end
  local number = 0
  for _, name in ipairs(files) do
    local given = name:match("^(%d+)")
    if given and #given <= 6 then number = math.max(number, tonumber(given)) end
  end
  for candidate = number + 1, MAX_PROCESSES do
    local file, path = open_numbered(folder, candidate)
    if file then
      file:setvbuf("no")   -- a line is one write: whole, whoever else writes
      return file, path
    end
  end
  storage_error("cannot record: too many files in " .. folder)
end

-- Puts the entries in the order in which their exchanges began.
local function put_in_order(writer)
  writer.file:close()
  local ok, entries = pcall(recording.read_file, writer.path)
  if not ok then return end
  local lines = {HEAD}
  for _, entry in ipairs(entries) do
    entry.n, entry.file, entry.line = nil, nil, nil
    lines[#lines + 1] = recording.encode_entry(entry)
  end
  folders.replace(writer.path, table.concat(lines, "\n") .. "\n")
end

local Order = {__gc = function(order)
  if order.writer.unordered then put_in_order(order.writer) end
end}

--- Writes entries into a folder, which is made where it is not.
---@param folder string
---@return riverlua.RecordingWriter
function recording.writer(folder)
  local made, problem = folders.make(folder)
  if not made then storage_error("cannot record: " .. problem) end
  return setmetatable({folder = folder, begun = 0, written = 0}, Writer)
end

--- The place of an exchange that begins now.
---@return integer n
function Writer:begin()
  if not self.file then
    self.file, self.path = open_next(self.folder)
    self.file:write(HEAD, "\n")
    -- made after the file and before all exchanges: at the end of the process it goes between them
    self.order = setmetatable({writer = self}, Order)
  end
  self.begun = self.begun + 1
  return self.begun
end

--- Writes an entry at once. When that fails it says so on the error stream, and what follows is not recorded: the
--- script is not to notice.
---@param entry table with `type`, `request` and `n`
function Writer:append(entry)
  if self.failed then return end
  self.written = self.written + 1
  if entry.n == self.written then entry.n = nil else self.unordered = true end
  local encoded, line = pcall(recording.encode_entry, entry)
  local written, problem = encoded, line
  if encoded then written, problem = self.file:write(line .. "\n") end
  if not written then
    self.failed = true
    io.stderr:write(("riverlua: nothing more is recorded in %s: %s\n"):format(self.path, tostring(problem)))
  end
end

-- ---- reading --------------------------------------------------------------------------------------------------------

local FAILURES = {dns = true, connect = true, tls = true, timeout = true, limit = true, argument = true, memory = true,
  closed = true, protocol = true}
local PHASES = {connect = true, first_byte = true, idle = true, total = true, handshake = true}
local ENDS = {closed = true, failed = true, dropped = true, gone = true}
local FRAMES = {sent = "string", received = "string", sent_base64 = "string", received_base64 = "string",
  timeouts = "integer", cancelled = "boolean"}

local function expect(condition, what)
  if not condition then error({what = what}, 0) end
end

local function check_headers(headers, where)
  expect(type(headers) == "table", where .. ".headers must be a list")
  for _, header in ipairs(headers) do
    expect(type(header) == "table" and type(header[1]) == "string" and type(header[2]) == "string"
      and not (header[1] .. header[2]):find("[\r\n\0]"), where .. ".headers must hold names and values")
  end
end

local function check_body(part, where)
  expect(part.body == nil or type(part.body) == "string", where .. ".body must be text")
  if part.body_base64 ~= nil then
    expect(type(part.body_base64) == "string" and digest.from_base64(part.body_base64), where .. ".body_base64 is none")
  end
  if part.pieces == nil then return end
  expect(type(part.pieces) == "table", where .. ".pieces must be a list of lengths")
  local sum, size = 0, #(recording.body_of(part) or "")
  for _, length in ipairs(part.pieces) do
    expect(math.type(length) == "integer" and length > 0 and length <= size, where .. ".pieces must be lengths")
    sum = sum + length
  end
  expect(sum == size, where .. (".pieces add up to %d bytes, and the body has %d"):format(sum, size))
end

local function check_failure(failure)
  expect(type(failure) == "table" and FAILURES[failure.kind], "failure.kind is none that there is")
  expect(failure.message == nil or type(failure.message) == "string", "failure.message must be text")
  expect(failure.kind ~= "timeout" or PHASES[failure.phase], "failure.phase must name a timeout")
  if failure.kind == "timeout" or failure.kind == "limit" then
    expect(type(failure.limit) == "number", "failure.limit must be a number")
    expect(failure.kind ~= "limit" or math.type(failure.limit) == "integer", "failure.limit must be an integer")
  end
end

local function check_http(entry)
  local answer = entry.answer
  expect(answer or entry.failure or entry.left, "the entry has neither answer nor failure")
  if answer ~= nil then
    expect(type(answer) == "table" and math.type(answer.status) == "integer" and answer.status >= 100
      and answer.status <= 999, "answer.status must be a number from 100 to 999")
    check_headers(answer.headers, "answer")
    if answer.trailers ~= nil then check_headers(answer.trailers, "answer.trailers") end
    check_body(answer, "answer")
  end
  if entry.failure ~= nil then check_failure(entry.failure) end
end

-- A frame says what was sent or received, or that nothing came.
local function check_frame(frame)
  expect(type(frame) == "table", "frames must be objects")
  local said = 0
  for name, wanted in pairs(FRAMES) do
    local value = frame[name]
    if value ~= nil then
      said = said + 1
      expect((math.type(value) or type(value)) == wanted and (not name:find("base64") or digest.from_base64(value)),
        ("frames: %s is none"):format(name))
    end
  end
  expect(said == 1, "a frame has one of sent, received, sent_base64, received_base64, timeouts, cancelled")
end

local function check_end(last)
  expect(type(last) == "table" and ENDS[last.how], "end.how is none that there is")
  expect(last.code == nil or math.type(last.code) == "integer", "end.code must be an integer")
  expect(last.reason == nil or type(last.reason) == "string", "end.reason must be text")
end

local function check_list(entry, name, check)
  if entry[name] == nil then return end
  expect(json.is_array(entry[name]), name .. " must be a list")
  for _, one in ipairs(entry[name]) do check(one) end
end

local function check_websocket(entry)
  check_http(entry)
  expect(not entry.answer or entry.answer.subprotocol == nil or type(entry.answer.subprotocol) == "string",
    "answer.subprotocol must be text")
  expect(entry.request.label == nil or type(entry.request.label) == "string", "request.label must be text")
  check_list(entry, "frames", check_frame)
  check_list(entry, "unanswered", function(number)
    expect(math.type(number) == "integer", "unanswered must hold numbers of pings")
  end)
  if entry["end"] ~= nil then check_end(entry["end"]) end
end

local CHECKS = {http = check_http, websocket = check_websocket}

local function check_entry(entry)
  expect(type(entry) == "table" and type(entry.type) == "string", "an entry is an object with a type")
  expect(entry.n == nil or math.type(entry.n) == "integer", "n must be an integer")
  local request = entry.request
  expect(type(request) == "table" and type(request.method) == "string" and type(request.url) == "string",
    "request must have a method and a url")
  check_headers(request.headers, "request")
  check_body(request, "request")
  if CHECKS[entry.type] then CHECKS[entry.type](entry) end
end

local function check_head(head)
  expect(type(head) == "table" and head.type == "recording", "the first line must be " .. HEAD)
  expect(head.version == recording.version, ("version %s of the format is not known here"):format(
    tostring(head.version)))
end

-- Lines of a file and whether each ended; no line may be longer than an entry.
local function bounded_lines(read)
  local rest, at, pending, ended = "", 1, {}, false
  local pending_size = 0
  return function()
    while true do
      local stop = rest:find("\n", at, true)
      if stop then
        pending[#pending + 1] = rest:sub(at, stop - 1)
        local line = table.concat(pending)
        pending, pending_size, at = {}, 0, stop + 1
        return line, true
      end
      if at <= #rest then
        pending[#pending + 1] = rest:sub(at)
        pending_size = pending_size + #rest - at + 1
      end
      expect(pending_size <= MAX_LINE, ("a line has more than %d bytes"):format(MAX_LINE))
      rest, at = read() or "", 1
      if rest == "" then
        if ended or pending_size == 0 then return nil end
        ended = true
        return table.concat(pending), false
      end
    end
  end
end

--- The entries of one file, in the order in which their exchanges began, each with `file` and `line`. A last line that
--- is cut short (the process was killed) is left out. Raises kind "storage", with `file` and `line`, for what is none.
---@param read fun(): string|nil the next bytes
---@param name string of the file
---@return table[]
function recording.parse(read, name)
  local entries, number = {}, 0
  local ok, problem = pcall(function()
    for line, whole in bounded_lines(read) do
      number = number + 1
      local decoded, entry = pcall(decode, line)
      if not decoded and not whole then break end
      expect(decoded, not decoded and errors.is(entry) and entry.message)
      if number == 1 then
        check_head(entry)
      else
        check_entry(entry)
        entry.n, entry.file, entry.line = entry.n or number - 1, name, number
        entries[#entries + 1] = entry
      end
    end
  end)
  if not ok then
    if type(problem) ~= "table" or not problem.what then error(problem, 0) end
    storage_error(("%s:%d: %s"):format(name, math.max(1, number), problem.what),
      "the file is not a recording, or has been damaged: record again", {file = name, line = math.max(1, number)})
  end
  table.sort(entries, function(a, b)
    if a.n ~= b.n then return a.n < b.n end
    return a.line < b.line
  end)
  return entries
end

--- The entries of the file at `path`.
---@param path string
---@return table[]
---@return integer size of the file
function recording.read_file(path)
  local file <close>, problem = io.open(path, "rb")
  if not file then storage_error("cannot replay: " .. problem, nil, {file = path}) end
  local size = file:seek("end")
  if size > MAX_FOLDER then
    storage_error(("%s: has more than %d bytes"):format(path, MAX_FOLDER), nil, {file = path})
  end
  file:seek("set")
  return recording.parse(function() return file:read(1 << 20) end, path), size
end

--- All entries of a folder: first those that a script of this name recorded, then by the numbers of the files.
---@param folder string
---@return table[]
function recording.read_folder(folder)
  local files, problem = files_of(folder)
  if not files then
    storage_error("cannot replay: " .. problem, "RIVERLUA_RECORD=" .. folder .. " records into this folder")
  end
  local own = "-" .. name_of_script() .. ".jsonl"
  table.sort(files, function(a, b)
    local own_a, own_b = a:sub(-#own) == own, b:sub(-#own) == own
    if own_a ~= own_b then return own_a end
    return a < b
  end)
  local all, total = {}, 0
  for _, name in ipairs(files) do
    local entries, size = recording.read_file(folder .. "/" .. name)
    total = total + size
    if total > MAX_FOLDER then storage_error(("%s: has more than %d bytes"):format(folder, MAX_FOLDER)) end
    table.move(entries, 1, #entries, #all + 1, all)
  end
  return all
end

-- ---- what the environment orders ------------------------------------------------------------------------------------

local function variable(name)
  local value = os.getenv(name)
  return value ~= "" and value or nil
end

-- One of each for all clients of this Lua state.
local session

--- What RIVERLUA_RECORD and RIVERLUA_REPLAY ask for: nil, or `{mode = "record", writer, scrubber}`, or
--- `{mode = "replay", tape, scrubber}`. Raises kind "argument" when both are set, and "storage" for a folder that
--- cannot be used.
---@return {mode: string, scrubber: riverlua.Scrubber, writer: riverlua.RecordingWriter, tape: riverlua.Tape}|nil
function recording.session()
  local record, replay = variable"RIVERLUA_RECORD", variable"RIVERLUA_REPLAY"
  if record and replay then
    errors.raise{kind = "argument", message = "RIVERLUA_RECORD and RIVERLUA_REPLAY are both set",
      hint = "recording needs the servers, a replay is without them"}
  end
  if session or not (record or replay) then return session end
  if record then
    session = {mode = "record", writer = recording.writer(record), scrubber = secrets.scrubber()}
  else
    session = {mode = "replay", tape = require("riverlua.recording.tape").open(replay), scrubber = secrets.scrubber()}
  end
  return session
end

return recording
