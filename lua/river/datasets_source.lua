--- Where the bytes of a data set come from: a file, plain or gzip by its first bytes, or a text in memory.

local errors = require "riverlua.errors"

local source = {}

local CHUNK = 1 << 16

---@class river.datasets.Source
---@field name string for messages
local Source = {}
Source.__index = Source

local function fail(name, problem)
  errors.raise{kind = problem.kind or "argument", message = ("%s: %s"):format(name, problem.message or problem),
    hint = problem.hint}
end

-- Inflated bytes, or nil at the end of the file.
local function next_inflated(self)
  while true do
    local text = self.inflater:read()
    if text then return text end
    local bytes = self.file:read(CHUNK)
    if not bytes then
      self.inflater:finish()
      return nil
    end
    self.inflater:feed(bytes)
  end
end

--- The next piece, or nil at the end.
---@return string|nil
function Source:read()
  if not self.file then
    local text = self.text
    self.text = nil
    return text
  end
  if self.inflater then
    local ok, text = pcall(next_inflated, self)
    if not ok then fail(self.name, text) end
    return text
  end
  local first = self.first
  if first then
    self.first = nil
    return first
  end
  local bytes, problem = self.file:read(CHUNK)
  if problem then fail(self.name, problem) end
  return bytes
end

--- Closes the file; twice does nothing.
function Source:close()
  if self.inflater then self.inflater:close() end
  if self.file then self.file:close() end
  self.file, self.inflater, self.text, self.first = nil, nil, nil, nil
end

-- A pass that was dropped in the middle.
Source.__gc = Source.close

--- Opens a source.
---@param given string|{text: string} a path, or the text itself
---@return river.datasets.Source
---Raises kind "argument" when the file cannot be read.
function source.open(given)
  if type(given) == "table" then return setmetatable({name = "the text", text = given.text}, Source) end
  local file, problem = io.open(given, "rb")
  if not file then
    errors.raise{kind = "argument", message = "datasets: cannot read " .. problem, hint = "is the path right?"}
  end
  local self = setmetatable({name = given, file = file}, Source)
  local first
  first, problem = file:read(CHUNK)
  if problem then
    self:close()
    errors.raise{kind = "argument", message = ("datasets: cannot read %s: %s"):format(given, problem)}
  end
  first = first or ""
  if first:sub(1, 2) == "\x1f\x8b" then
    self.inflater = require("riverlua.core.gzip").inflater()
    self.inflater:feed(first)
  else
    self.first = first
  end
  return self
end

--- Checks what a reader is given as its source.
---@param where string
---@param given any
---@return string|table
function source.check(where, given)
  if type(given) == "string" or type(given) == "table" and type(given.text) == "string" then return given end
  errors.raise{kind = "argument", message = where .. ": a path is expected",
    hint = "or the text itself: {text = \"a,b\\n1,2\\n\"}"}
end

return source
