--- Where the store keeps its checkpoints on disk: each is a folder of files that is replaced as a whole.
--
--     <folder>/<run>/<name>/…        a checkpoint
--     <folder>/<run>/.part/…         one that is being written
--     <folder>/<run>/.old-<name>/…   one that is being replaced, for a moment
--     <folder>/.lock                 held while something is read or written
--
-- A new checkpoint is written beside the old one and synced; then the old one is put aside, the new one takes its
-- name, the old one is removed. Whoever has the lock knows that what lies in between was left by a process that is
-- no more: a checkpoint that was put aside comes back, unless the new one is there. So several processes can use
-- one folder.

local clock = require "riverlua.clock"
local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local folder = require "riverlua.core.folder"

local store_folder = {}

local PART, OLD, LOCK = ".part", ".old-", ".lock"
local PATIENCE, PAUSE = 60, 0.005      -- seconds: for the lock, and between two looks at it
local LONGEST_NAME = 150
local NOT_THERE, NOT_ALLOWED, TOO_LARGE, NO_SPACE, READ_ONLY, QUOTA = 2, 13, 27, 28, 30, 122   -- errno
local FULL = "make room and save again: what was saved before is still there"
local HINTS = {[NO_SPACE] = FULL, [QUOTA] = FULL, [TOO_LARGE] = FULL, [NOT_ALLOWED] =
  "make the folder writable, or use another one", [READ_ONLY] = "use a folder that can be written"}

---@class training.embedded.StoreFolder
---@field path string
local Folder = {}
Folder.__index = Folder

local function fail(problem, code)
  errors.raise{kind = "storage", message = ("files cannot be kept: %s"):format(problem),
    hint = HINTS[code] or "is the folder writable, and the disk not full?"}
end

local function check(ok, problem, code)
  if not ok then fail(problem, code) end
  return ok
end

-- Names may hold anything: that of a file is printable, short, does not begin with a point, and differs when the
-- name does.
local function file_name(name)
  local text = name:gsub("[^%w_.-]", function(char) return ("%%%02X"):format(char:byte()) end):gsub("^%.", "%%2E")
  if #text > LONGEST_NAME then
    text = text:sub(1, LONGEST_NAME - 40) .. "~" .. digest.hex(digest.sha256(name)):sub(1, 32)
  end
  return text
end

local function list(path)
  local names, problem, code = folder.list(path)
  if not names and code ~= NOT_THERE and code ~= 20 then fail(problem, code) end   -- 20: no folder
  names = names or {}
  table.sort(names)
  return names
end

local function remove(path)
  for _, name in ipairs(list(path)) do check(os.remove(path .. "/" .. name)) end
  local ok, problem, code = os.remove(path)
  if not ok and code ~= NOT_THERE then fail(problem, code) end
end

local function is_folder(path) return folder.list(path) ~= nil end

-- Runs a function while nobody else has the folder.
local function locked(self, writes, fn, ...)
  local due = clock.now() + PATIENCE
  local lock, problem, code = folder.lock(self.path .. "/" .. LOCK)
  while problem == "locked" and clock.now() < due do
    clock.pause(PAUSE, false)
    lock, problem, code = folder.lock(self.path .. "/" .. LOCK)
  end
  if problem == "locked" then
    errors.raise{kind = "storage", message = ("another process does not let go of the checkpoints in '%s'"):format(
      self.path), hint = "is it stopped?"}
  end
  -- what nobody may write can be read all the same
  if not lock and (writes or code ~= READ_ONLY and code ~= NOT_ALLOWED) then fail(problem, code) end
  local _ <close> = lock
  return fn(self, ...)
end

-- What a process left that was killed while it replaced a checkpoint.
local function recover(run)
  for _, name in ipairs(list(run)) do
    if name == PART then
      remove(run .. "/" .. name)
    elseif name:sub(1, #OLD) == OLD then
      local target = run .. "/" .. name:sub(#OLD + 1)
      if is_folder(target) then remove(run .. "/" .. name)
      else check(os.rename(run .. "/" .. name, target)) end
    end
  end
end

local function runs(self)
  local names = {}
  for _, name in ipairs(list(self.path)) do
    if name:sub(1, 1) ~= "." then names[#names + 1] = self.path .. "/" .. name end
  end
  return names
end

--- Opens a folder, which is made if need be, and brings it in order.
---@param path string
---@return training.embedded.StoreFolder
---Raises kind "storage".
function store_folder.open(path)
  check(folder.make(path))
  local self = setmetatable({path = path}, Folder)
  locked(self, false, function()
    for _, run in ipairs(runs(self)) do
      local ok, problem = pcall(recover, run)
      -- a folder that cannot be written is good for reading
      if not ok and not errors.is(problem, "storage") then error(problem, 0) end
    end
  end)
  return self
end

--- Where a checkpoint lies, for messages.
---@param run string
---@param name string
---@return string
function Folder:place(run, name) return ("%s/%s/%s"):format(self.path, file_name(run), file_name(name)) end

local function write_files(part, files)
  check(folder.make(part))
  local names = {}
  for name in pairs(files) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do check(folder.replace(part .. "/" .. name, files[name])) end
end

local function reader_of(place)
  return function(file)
    local path = place .. "/" .. file
    local stream <close>, problem, code = io.open(path, "rb")
    if not stream and code == NOT_THERE then return nil end
    local bytes
    if stream then bytes, problem = stream:read("a") end
    if not bytes then
      errors.raise{kind = "storage", message = ("a checkpoint cannot be read: %s"):format(problem), place = place,
        problem = ("the file '%s': %s"):format(file, problem:match("[^/]*: ([^/]*)$") or "it cannot be read")}
    end
    return bytes
  end
end

local function put(self, run, name, files, may_replace)
  local home, target = ("%s/%s"):format(self.path, file_name(run)), self:place(run, name)
  recover(home)
  local exists = is_folder(target)
  if exists and may_replace and not may_replace(reader_of(target), target) then return false end
  if not is_folder(home) then
    check(folder.make(home))
    check(folder.sync(self.path))
  end
  local part, old = home .. "/" .. PART, ("%s/%s%s"):format(home, OLD, file_name(name))
  local ok, problem = pcall(write_files, part, files)
  if not ok then
    pcall(remove, part)
    error(problem, 0)
  end
  if exists then check(os.rename(target, old)) end
  local moved, why, code = os.rename(part, target)
  if not moved then
    if exists then os.rename(old, target) end
    pcall(remove, part)
    fail(why, code)
  end
  check(folder.sync(home))
  if exists then remove(old) end
  return true
end

--- Writes a checkpoint; an old one of the name is there until the new one is whole.
---@param run string
---@param name string
---@param files table<string, string> bytes by name
---@param may_replace (fun(fetch: fun(file: string): string|nil, place: string): boolean)|nil asked about an old one
---@return boolean # false: the old one is not to be replaced
function Folder:put(run, name, files, may_replace)
  return locked(self, true, put, run, name, files, may_replace)
end

local function get(self, run, name, read)
  local home, place = ("%s/%s"):format(self.path, file_name(run)), self:place(run, name)
  if not is_folder(place) then
    local old = ("%s/%s%s"):format(home, OLD, file_name(name))
    if not is_folder(old) then return nil end
    if not os.rename(old, place) then place = old end
  end
  return read(reader_of(place), place)
end

--- Calls `read(fetch, place)`, where `fetch(file)` gives a file's bytes or nil, while nobody changes the
--- checkpoint.
---@param run string
---@param name string
---@param read function
---@return any # what `read` returns; nil when there is no such checkpoint
function Folder:get(run, name, read) return locked(self, false, get, run, name, read) end

local function each(self, read, wanted)
  local all = wanted and {("%s/%s"):format(self.path, file_name(wanted))} or runs(self)
  for _, run in ipairs(all) do
    for _, name in ipairs(list(run)) do
      if name:sub(1, 1) ~= "." then
        local place = run .. "/" .. name
        read(reader_of(place), place, function()
          remove(place)
          os.remove(run)   -- stays while there is something in it
        end)
      end
    end
  end
end

--- Calls `read(fetch, place, remove)` for every checkpoint.
---@param read function
---@param run string|nil only for those of this one
function Folder:each(read, run) return locked(self, false, each, read, run) end

return store_folder
