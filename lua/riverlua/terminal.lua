--- Facts about the terminal, and the columns that text takes on it.

local core = require("riverlua.core.terminal")

local terminal = {}

local DESCRIPTORS = {stdin = 0, stdout = 1, stderr = 2}

-- Ranges of code points that take no column, or two (East Asian wide and most emoji).
local ZERO = {{0x300, 0x36F}, {0x200B, 0x200F}, {0x20D0, 0x20FF}, {0xFE00, 0xFE0F}, {0xFE20, 0xFE2F}}
local DOUBLE = {{0x1100, 0x115F}, {0x2E80, 0x303E}, {0x3041, 0xA4CF}, {0xAC00, 0xD7A3}, {0xF900, 0xFAFF},
  {0xFE30, 0xFE6F}, {0xFF00, 0xFF60}, {0xFFE0, 0xFFE6}, {0x1F300, 0x1F64F}, {0x1F680, 0x1F6FF},
  {0x1F900, 0x1FAFF}, {0x20000, 0x3FFFD}}

local function within(ranges, code)
  for i = 1, #ranges do
    if code < ranges[i][1] then return false end
    if code <= ranges[i][2] then return true end
  end
  return false
end

local function columns_of(code)
  if code < 0x300 then return 1 end
  if within(ZERO, code) then return 0 end
  return within(DOUBLE, code) and 2 or 1
end

--- Whether a standard stream is a terminal.
---@param stream "stdin"|"stdout"|"stderr"
---@return boolean
function terminal.is_terminal(stream)
  return core.isatty(DESCRIPTORS[stream])
end

--- The columns and rows of the terminal behind a standard stream.
---@param stream "stdin"|"stdout"|"stderr"
---@return integer|nil columns nil when it is no terminal
---@return integer|nil rows
function terminal.size(stream)
  return core.size(DESCRIPTORS[stream])
end

--- Whether the locale in the environment is one of UTF-8.
---@return boolean
function terminal.is_utf8()
  for _, name in ipairs{"LC_ALL", "LC_CTYPE", "LANG"} do
    local value = os.getenv(name) or ""
    if value ~= "" then return value:lower():find("utf%-?8") ~= nil end
  end
  return false
end

--- The columns that a line of text takes. Bytes that are no UTF-8 count one each.
---@param text string
---@return integer
function terminal.width(text)
  if not text:find("[\x80-\xff]") then return #text end
  if not utf8.len(text) then return #text end
  local width = 0
  for _, code in utf8.codes(text) do width = width + columns_of(code) end
  return width
end

--- The longest beginning of `text` that fits into `columns`, ending in "…" when something was cut off.
---@param text string
---@param columns integer
---@return string
function terminal.clip(text, columns)
  if terminal.width(text) <= columns then return text end
  if columns < 1 then return "" end
  if not utf8.len(text) then return text:sub(1, columns - 1) .. "…" end
  local width = 0
  for at, code in utf8.codes(text) do
    width = width + columns_of(code)
    if width > columns - 1 then return text:sub(1, at - 1) .. "…" end
  end
  return text
end

--- Pads text with spaces to a number of columns.
---@param text string
---@param columns integer
---@param align "left"|"right"|"center"|nil default "left"
---@return string
function terminal.pad(text, columns, align)
  local room = columns - terminal.width(text)
  if room <= 0 then return text end
  if align == "right" then return (" "):rep(room) .. text end
  if align == "center" then return (" "):rep(room // 2) .. text .. (" "):rep(room - room // 2) end
  return text .. (" "):rep(room)
end

return terminal
