--- Finds the bytes of a member's value in the text of a JSON object, without decoding it.
--
-- A decoder and an encoder would change them: the order of members, the spelling of numbers, white space. The scanner
-- follows strings with their escapes and the nesting of brackets, in one pass and without recursion. It is no judge of
-- JSON: what it is given either is JSON, then it finds what a decoder finds, or whoever decodes it next refuses.

local members = {}

local byte, find, sub = string.byte, string.find, string.sub

local QUOTE, COLON, COMMA = 34, 58, 44
local OPEN = {[123] = true, [91] = true}
local CLOSE = {[125] = true, [93] = true}

local function skip_blanks(text, at)
  return find(text, "[^ \t\r\n]", at) or #text + 1
end

-- Where the string that begins at `at` ends, its closing quote included; nil: it does not.
local function end_of_string(text, at)
  at = at + 1
  while true do
    at = find(text, "[\"\\]", at)
    if not at then return nil end
    if byte(text, at) == QUOTE then return at end
    at = at + 2
  end
end

-- Where the object or array that begins at `at` ends.
local function end_of_nested(text, at)
  local depth = 0
  while true do
    at = find(text, "[%[%]{}\"]", at)
    if not at then return nil end
    local char = byte(text, at)
    if char == QUOTE then
      at = end_of_string(text, at)
      if not at then return nil end
    elseif OPEN[char] then
      depth = depth + 1
    else
      depth = depth - 1
      if depth == 0 then return at end
    end
    at = at + 1
  end
end

-- Where the value that begins at `at` ends.
local function end_of_value(text, at)
  local char = byte(text, at)
  if char == QUOTE then return end_of_string(text, at) end
  if OPEN[char] then return end_of_nested(text, at) end
  local after = find(text, "[ \t\r\n,%]}]", at) or #text + 1
  return after > at and after - 1 or nil
end

-- A member's name; with escapes it needs a decoder, but few names have any.
local function name_in(text, first, last)
  if not find(sub(text, first, last), "\\", 1, true) then return sub(text, first + 1, last - 1) end
  local ok, name = pcall(require("riverlua.json").decode, sub(text, first, last))
  return ok and name or nil
end

-- The member that begins at `at`: where its name ends, where its value begins and ends; nil: it is none.
local function member_at(text, at)
  if byte(text, at) ~= QUOTE then return nil end
  local name_end = end_of_string(text, at)
  if not name_end then return nil end
  local colon = skip_blanks(text, name_end + 1)
  if byte(text, colon) ~= COLON then return nil end
  local first = skip_blanks(text, colon + 1)
  if first > #text then return nil end
  local last = end_of_value(text, first)
  if not last then return nil end
  return name_end, first, last
end

--- The bytes of the value of a member of the outermost object; nil when there is none, or the text is no object. Of
--- members with the same name the last one counts, as for a decoder.
---@param text string
---@param name string
---@return string|nil
function members.find(text, name)
  local at = skip_blanks(text, 1)
  if byte(text, at) ~= 123 then return nil end
  at = skip_blanks(text, at + 1)
  local found
  while true do
    local name_end, first, last = member_at(text, at)
    if not name_end then return nil end
    if name_in(text, at, name_end) == name then found = sub(text, first, last) end
    at = skip_blanks(text, last + 1)
    local char = byte(text, at)
    if CLOSE[char] then return found end
    if char ~= COMMA then return nil end
    at = skip_blanks(text, at + 1)
  end
end

return members
