--- A folder in which the embedded service keeps its models.
--
--     <name>.model     a snapshot of one model, replaced as a whole
--     identifiers      a snapshot of the predictions that wait for a label
--     journal.jsonl    what happened since, one line each, written before the call returns
--     lock             held by the process that uses the folder
--
-- A process that is killed loses nothing: the next one reads the snapshots and repeats the journal, which gives the
-- same model again. (A computer that loses its power may lose the last seconds of the journal, never a model.) Every
-- record has a number, every snapshot the number up to which it knows, so repeating is safe at any point.

local errors = require "riverlua.errors"
local folder = require "riverlua.core.folder"
local json = require "riverlua.json"
local snapshot = require "river.embedded.snapshot"

local store = {}

local encode = json.encoder{nan = true}

local function decode(line) return json.decode(line, {nan = true}) end

-- A longer journal is folded into the snapshots; where these are big, only one that is some times longer.
local JOURNAL_LIMIT, TIMES_LONGER = 8 * 1024 * 1024, 4
local MODEL = ".model"
local MAX_FILE_NAME = 150

---@class river.embedded.Store
---@field number integer of the last record
local Store = {}
Store.__index = Store
Store.__name = "river.embedded.Store"

local function fail(text, hint)
  errors.raise{kind = "storage", message = text, hint = hint}
end

local function check(ok, problem)
  if ok then return ok end
  fail(("the models cannot be kept: %s"):format(problem), "is the folder writable, and the disk not full?")
end

local function read_file(path)
  local file, problem, code = io.open(path, "rb")
  if not file then
    if code == 2 then return nil end
    fail(("a saved model cannot be read: %s"):format(problem))
  end
  local bytes = file:read("a")
  file:close()
  return bytes
end

local function load_snapshot(path)
  local bytes = read_file(path)
  if not bytes then return nil end
  local ok, value = pcall(snapshot.load, bytes)
  if ok and type(value) == "table" then return value end
  fail(("the file '%s' is damaged: %s"):format(path, ok and "it holds no model" or value.message or tostring(value)),
    "restore it from a copy, or move it away to go on without")
end

-- Names may be long and hold anything: a file name is printable and short, and differs when the name does.
local function file_name(name)
  local text = name:gsub("[^%w_-]", function(c) return ("%%%02X"):format(c:byte()) end)
  if #text > MAX_FILE_NAME then
    local hash = 0xcbf29ce484222325
    for i = 1, #name do hash = (hash ~ name:byte(i)) * 0x100000001b3 end
    text = ("%s~%016x"):format(text:sub(1, MAX_FILE_NAME), hash)
  end
  return text .. MODEL
end

--- Opens a folder, which is made if need be.
---@param path string
---@return river.embedded.Store
---Raises kind "storage" when it cannot be used, or another process uses it.
function store.open(path)
  check(folder.make(path))
  local lock, problem = folder.lock(path .. "/lock")
  if problem == "locked" then
    fail(("the folder '%s' is in use by another process, or another client of this one"):format(path),
      "use one client for it, or riverlua serve river --folder for several programs")
  end
  check(lock, problem)
  return setmetatable({path = path, lock = lock, number = 0, bytes = 0, saved = 0, limit = JOURNAL_LIMIT}, Store)
end

function Store:journal_path() return self.path .. "/journal.jsonl" end

--- The saved models, each {name=, number=, …} as given to `save`.
---@return table[]
function Store:models()
  local list = {}
  local names = check(folder.list(self.path))
  table.sort(names)
  for _, name in ipairs(names) do
    if name:sub(-#MODEL) == MODEL then
      local saved = load_snapshot(self.path .. "/" .. name)
      list[#list + 1] = saved
      self.number = math.max(self.number, saved.number)
    end
  end
  return list
end

--- What `save_identifiers` was given last, or nil.
---@return table|nil
function Store:identifiers()
  return load_snapshot(self.path .. "/identifiers")
end

--- Tells whether the journal holds anything, if only half a line.
---@return boolean
function Store:has_journal()
  local file = io.open(self:journal_path(), "rb")
  if not file then return false end
  local any = file:read(1) ~= nil
  file:close()
  return any
end

--- The records of the journal, in order. A line that was cut off was never confirmed to anybody and is left out.
---@return fun(): table|nil
function Store:records()
  local file = io.open(self:journal_path(), "rb")
  local function next_record()
    local line = file and file:read("l")
    if not line then
      if file then file:close() end
      file = nil
      return nil
    end
    local ok, record = pcall(decode, line)
    if not ok or type(record) ~= "table" or math.type(record.number) ~= "integer" then return next_record() end
    self.number = math.max(self.number, record.number)
    return record
  end
  return next_record
end

--- Whether the journal must be folded into the snapshots before the next record: it is long, or its end is unknown
--- since a record could not be written.
---@return boolean
function Store:is_full() return self.torn or self.bytes > self.limit end

local function write_line(self, line)
  if not self.journal then
    local file, problem = io.open(self:journal_path(), "ab")
    if not file then return nil, problem end
    self.journal = file
    file:setvbuf("full", 65536)
  end
  local ok, problem = self.journal:write(line)
  if ok then ok, problem = self.journal:flush() end
  return ok, problem
end

--- Writes a record; when this returns, a killed process has not lost it.
---@param record table it gets its `number`
---Raises kind "storage" when it cannot be written; then it does not count.
function Store:append(record)
  record.number = self.number + 1
  local line = encode(record) .. "\n"
  local ok, problem = write_line(self, line)
  if not ok then
    if self.journal then self.journal:close() end
    self.journal, self.torn = nil, true
    check(nil, problem)
  end
  self.number = record.number
  self.bytes = self.bytes + #line
end

local function write_snapshot(self, name, value)
  local bytes = snapshot.dump(value)
  check(folder.replace(self.path .. "/" .. name, bytes))
  self.saved = self.saved + #bytes
end

--- Saves a model as it is now.
---@param saved table {name=, …}; it gets its `number`
function Store:save(saved)
  saved.number = self.number
  write_snapshot(self, file_name(saved.name), saved)
end

--- Removes a model.
---@param name string
function Store:forget(name)
  local ok, problem, code = os.remove(self.path .. "/" .. file_name(name))
  if not ok and code ~= 2 then check(nil, problem) end
end

--- Saves the predictions that wait for a label.
---@param identifiers table
function Store:save_identifiers(identifiers)
  write_snapshot(self, "identifiers", identifiers)
end

--- Starts the journal anew: everything in it has been saved.
function Store:clear_journal()
  if self.journal then self.journal:close() end
  self.limit = math.max(JOURNAL_LIMIT, TIMES_LONGER * self.saved)
  self.journal, self.bytes, self.torn, self.saved = nil, 0, false, 0
  check(folder.replace(self:journal_path(), ""))
end

--- Gives the folder back.
function Store:close()
  if self.journal then self.journal:close() end
  self.journal = nil
  self.lock:close()
end

return store
