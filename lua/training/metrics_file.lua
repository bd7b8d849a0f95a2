--- Metrics of a run as JSON Lines: one object a line, its step first. A process that is killed tears at most the
--- last line, which is left out when the file is opened again.
--
--     {"step":1,"loss":null,"reward/mean":0.25}

local errors = require "riverlua.errors"
local folder = require "riverlua.core.folder"
local json = require "riverlua.json"

local metrics_file = {}

local LARGEST_FILE = 1 << 30
local NAN = 0 / 0

-- pandas reads null as NaN; JSON itself has no NaN
local encode = json.encoder{sort = true, nan = "null"}
local decode = json.decoder{max_depth = 4}

local function fail(path, text, hint)
  errors.raise{kind = "storage", message = ("metrics file '%s': %s"):format(path, text), hint = hint}
end

---@class training.MetricsFile
---@field path string
---@field rows table[] what is in the file; null is NaN
local MetricsFile = {}
MetricsFile.__index = MetricsFile
MetricsFile.__name = "training.MetricsFile"

-- The bytes of a file; nil when it is not there.
local function read_file(path)
  local file <close>, problem, code = io.open(path, "rb")
  if not file then
    if code == 2 then return nil end
    fail(path, "cannot be read: " .. problem)
  end
  if (file:seek("end") or 0) > LARGEST_FILE then fail(path, "it is larger than 1 GiB") end
  file:seek("set")
  local bytes, why = file:read("a")
  if not bytes then fail(path, "cannot be read: " .. tostring(why)) end
  return bytes
end

-- The row in a line; nil when there is none.
local function read_row(line)
  local ok, row = pcall(decode, line)
  if not ok or type(row) ~= "table" or json.is_array(row) or math.type(row.step) ~= "integer" then return nil end
  for name, value in pairs(row) do
    if value == json.null then row[name] = NAN end
  end
  return row
end

-- Rows of steps up to `last`, and their bytes. A last line that is no row was torn.
local function read_rows(path, bytes, last)
  local rows, lines, number, before = {}, {}, 0, 0
  local torn
  for line in bytes:gmatch("[^\n]+") do
    number = number + 1
    if torn then
      fail(path, ("line %d is no row of metrics"):format(torn), "mend or remove that line")
    end
    local row = read_row(line)
    if not row then
      torn = number
    elseif row.step <= before then
      fail(path, ("line %d is of step %d, after step %d"):format(number, row.step, before), "remove that line")
    else
      before = row.step
      if row.step <= last then rows[#rows + 1], lines[#lines + 1] = row, line end
    end
  end
  lines[#lines + 1] = ""
  return rows, table.concat(lines, "\n")
end

--- Reads a file, which need not be there, up to a step. It stays as it is until `start`.
---
--- Raises kind "storage" when it cannot be read, or holds what is no metrics.
---@param path string
---@param last integer rows of later steps are left out
---@return training.MetricsFile
function metrics_file.open(path, last)
  local bytes = read_file(path)
  local rows, kept = {}, nil
  if bytes then rows, kept = read_rows(path, bytes, last) end
  return setmetatable({path = path, rows = rows, kept = kept ~= bytes and kept or nil, stream = nil}, MetricsFile)
end

local function fail_to_write(self, problem)
  fail(self.path, "cannot be written: " .. tostring(problem), "is the disk full?")
end

--- Takes out of the file what was left out, so that rows can be added.
function MetricsFile:start()
  if self.kept then
    local ok, problem = folder.replace(self.path, self.kept)
    if not ok then fail_to_write(self, problem) end
    self.kept = nil
  end
  local stream, problem = io.open(self.path, "ab")
  if not stream then fail_to_write(self, problem) end
  self.stream = stream
end

--- Adds the row of a step; when this returns, a killed process does not lose it.
---@param step integer
---@param values table<string, number|boolean|string>
function MetricsFile:append(step, values)
  local row = {step = step}
  for name, value in pairs(values) do row[name] = value end
  local rest = next(values) ~= nil and "," .. encode(values):sub(2) or "}"
  local ok, problem = self.stream:write(('{"step":%d'):format(step), rest, "\n")
  if ok then ok, problem = self.stream:flush() end
  if not ok then fail_to_write(self, problem) end
  self.rows[#self.rows + 1] = row
end

--- Has the rows so far on the disk: then a machine that stops does not lose them either.
function MetricsFile:sync()
  local ok, problem = folder.sync_file(self.path)
  if not ok then fail_to_write(self, problem) end
end

function MetricsFile:close()
  if self.stream then self.stream:close() end
  self.stream = nil
end

return metrics_file
