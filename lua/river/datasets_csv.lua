--- Rows of CSV text (RFC 4180), taken from pieces of bytes.
--
-- A row is a line of fields; a field in quotes may hold delimiters, line breaks and doubled quotes. Lines end with LF,
-- CRLF or CR; empty lines are skipped; a UTF-8 byte order mark is dropped. What breaks these rules is an error that
-- names the line.

local errors = require "riverlua.errors"

local csv = {}

local MAX_FIELD = 1 << 20
local MAX_ROW = 1 << 22       -- or four of the longest fields

---@class river.datasets.Rows
---@field line integer where the row that was returned last begins
local Rows = {}
Rows.__index = Rows

function Rows:fail(text, hint)
  errors.raise{kind = "protocol", message = ("%s, line %d: %s"):format(self.name, self.line, text), hint = hint}
end

-- Puts more bytes behind those not yet read; false at the end.
local function more(self)
  if self.over then return false end
  local piece = self.read()
  if not piece then
    self.over = true
    return false
  end
  self.text = self.text:sub(self.at) .. piece
  self.at = 1
  if #self.text > self.max_row + #piece then
    self:fail("the line is too long", "is a line break or a quote missing?")
  end
  return true
end

local function count_breaks(text)
  local _, feeds = text:gsub("\n", "")
  local _, returns = text:gsub("\r\n", "")
  local _, all = text:gsub("\r", "")
  return feeds + all - returns
end

-- Where the current line ends and the next one begins; bytes are read until that is known.
local function find_line(self)
  local from = self.at
  while true do
    local stop = self.text:find("[\r\n]", from)
    if stop then
      if self.text:byte(stop) == 10 then return stop - 1, stop + 1 end
      -- CR: the LF that may belong to it may be in the next piece
      if stop < #self.text or not more(self) then
        local both = self.text:byte(stop + 1) == 10
        return stop - 1, stop + (both and 2 or 1)
      end
      from = self.at
    else
      local seen = #self.text - self.at + 1
      if not more(self) then
        local length = #self.text
        return length, length + 1
      end
      from = self.at + seen
    end
  end
end

local function check_field(self, field)
  if #field > self.max_field then
    self:fail(("a field has more than %d bytes"):format(self.max_field), "raise it with max_field")
  end
  return field
end

-- Fields of a line without quotes.
local function split(self, line)
  local fields, count, from, delimiter = {}, 0, 1, self.delimiter
  while true do
    local stop = line:find(delimiter, from, true)
    count = count + 1
    if count > self.max_fields then self:fail(("there are more than %d fields"):format(self.max_fields)) end
    if not stop then
      fields[count] = line:sub(from)
      return fields, count
    end
    fields[count] = line:sub(from, stop - 1)
    from = stop + 1
  end
end

-- A field in quotes; self.at is behind its first quote, and in the end behind its last.
local function quoted_field(self)
  local parts, quote, length = {}, self.quote, 0
  while true do
    local stop = self.text:find(quote, self.at, true)
    local last = stop and stop - 1 or #self.text
    parts[#parts + 1] = self.text:sub(self.at, last)
    length = length + last - self.at + 1
    if length > self.max_field then check_field(self, table.concat(parts)) end
    self.at = last + 1
    if not stop then
      if not more(self) then self:fail("a quote is not closed") end
    else
      self.at = stop + 1
      if self.at > #self.text then more(self) end
      if self.text:sub(self.at, self.at) ~= quote then return table.concat(parts) end
      parts[#parts + 1] = quote
      length = length + 1
      self.at = self.at + 1
    end
  end
end

local function plain_field(self)
  while true do
    local stop = self.text:find(self.stops, self.at)
    if stop then
      local field = self.text:sub(self.at, stop - 1)
      self.at = stop
      if self.text:sub(stop, stop) == self.quote then
        self:fail("a quote inside a field without quotes", "put the field in quotes and double the quotes inside; " ..
          "quote = false takes them as letters")
      end
      return field
    elseif not more(self) then
      local field = self.text:sub(self.at)
      self.at = #self.text + 1
      return field
    end
  end
end

-- What follows a field: true for a delimiter, false for the end of the row.
local function after_field(self)
  if self.at > #self.text and not more(self) then return false end
  local char = self.text:sub(self.at, self.at)
  if char == self.delimiter then
    self.at = self.at + 1
    return true
  elseif char == "\n" then
    self.at = self.at + 1
    return false
  elseif char == "\r" then
    if self.at == #self.text then more(self) end
    self.at = self.at + (self.text:byte(self.at + 1) == 10 and 2 or 1)
    return false
  end
  self:fail("text after the closing quote of a field", "quotes inside of quotes are doubled")
end

-- A row with quotes, field by field; `quoted` says which ones were in quotes.
local function slow_row(self)
  local fields, quoted, count, breaks = {}, {}, 0, 1
  repeat
    count = count + 1
    if count > self.max_fields then self:fail(("there are more than %d fields"):format(self.max_fields)) end
    if self.at > #self.text then more(self) end
    if self.text:sub(self.at, self.at) == self.quote then
      self.at = self.at + 1
      fields[count] = quoted_field(self)
      quoted[count] = true
      breaks = breaks + count_breaks(fields[count])
    else
      fields[count] = check_field(self, plain_field(self))
    end
  until not after_field(self)
  self.next_line = self.next_line + breaks
  return fields, count, quoted
end

--- The next row.
---@return string[]|nil fields nil at the end
---@return integer count
---@return table<integer, boolean>|nil quoted which fields were in quotes
function Rows:next()
  while true do
    if self.at > #self.text and not more(self) then return nil end
    self.line = self.next_line
    local stop, following = find_line(self)
    local quote = self.quote and self.text:find(self.quote, self.at, true)
    if stop < self.at then   -- an empty line
      self.at, self.next_line = following, self.next_line + 1
    elseif quote and quote <= stop then
      return slow_row(self)
    else
      local line = self.text:sub(self.at, stop)
      self.at, self.next_line = following, self.next_line + 1
      local fields, count = split(self, line)
      if #line > self.max_field then
        for i = 1, count do check_field(self, fields[i]) end
      end
      return fields, count
    end
  end
end

local function skip_mark(self)
  while #self.text < 3 and more(self) do end
  if self.text:sub(1, 3) == "\xef\xbb\xbf" then
    self.at = 4
  elseif self.text:find("^\xff\xfe") or self.text:find("^\xfe\xff") then
    self:fail("the text is UTF-16", "save it as UTF-8")
  end
end

--- Makes a reader of rows.
---@param read fun(): string|nil gives the next piece of bytes
---@param options {name: string, delimiter: string, quote: string|false, max_field: integer|nil,
--- max_fields: integer|nil}
---@return river.datasets.Rows
function csv.rows(read, options)
  local self = setmetatable({read = read, text = "", at = 1, line = 1, next_line = 1, name = options.name,
    delimiter = options.delimiter, quote = options.quote, max_field = options.max_field or MAX_FIELD,
    max_fields = options.max_fields or 65536}, Rows)
  self.max_row = math.max(MAX_ROW, 4 * self.max_field)
  local stops = "[\r\n%" .. self.delimiter
  if self.quote then stops = stops .. "%" .. self.quote end
  self.stops = stops .. "]"
  skip_mark(self)
  return self
end

return csv
