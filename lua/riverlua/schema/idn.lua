--- Host names of all scripts (RFC 5890 to 5892, Punycode: RFC 3492).
--
-- Which characters a label may have follows from their categories, the exceptions and the rules of context. Not looked
-- at: normalization, and the rule about directions (RFC 5893).

local regex = require "riverlua.regex"

local idn = {}

local LONGEST_LABEL <const> = 63
local LONGEST_NAME <const> = 253

-- ---- Punycode ----

local BASE <const>, FIRST_BIAS <const>, FIRST_CODE <const> = 36, 72, 128

local function adapt(delta, count, first)
  delta = first and delta // 700 or delta // 2
  delta = delta + delta // count
  local steps = 0
  while delta > 455 do
    delta = delta // 35
    steps = steps + BASE
  end
  return steps + BASE * delta // (delta + 38)
end

local function threshold(place, bias)
  return math.max(1, math.min(26, place - bias))
end

local function digit_of(byte)
  if byte >= 48 and byte <= 57 then return byte - 22 end
  if byte >= 97 and byte <= 122 then return byte - 97 end
  return nil
end

-- A number of varying length at a place of the text: the number and where it ends; nil where it is wrong.
local function read_delta(text, at, bias)
  local delta, weight, place = 0, 1, BASE
  while true do
    local digit = digit_of(text:byte(at) or 0)
    if not digit or weight > 1 << 40 then return nil end
    at = at + 1
    delta = delta + digit * weight
    local limit = threshold(place, bias)
    if digit < limit then return delta, at end
    weight = weight * (BASE - limit)
    place = place + BASE
  end
end

-- The text of a label without its "xn--", in lower case; nil where that is no Punycode.
local function decode(text)
  local plain, coded = text:match("^(.*)%-(.-)$")
  local codes = {utf8.codepoint(plain or "", 1, -1)}
  coded = coded or text
  local code, place, bias, at = FIRST_CODE, 0, FIRST_BIAS, 1
  while at <= #coded do
    local delta, after = read_delta(coded, at, bias)
    if not delta then return nil end
    local count = #codes + 1
    bias = adapt(delta, count, at == 1)
    place = place + delta
    code = code + place // count
    if code > 0x10ffff or code & 0x1ff800 == 0xd800 then return nil end
    place = place % count
    table.insert(codes, place + 1, code)
    place, at = place + 1, after
  end
  return utf8.char(table.unpack(codes))
end

-- How many bytes of digits a number takes.
local function delta_length(delta, bias)
  local length, place = 1, BASE
  while delta >= threshold(place, bias) do
    local limit = threshold(place, bias)
    delta = (delta - limit) // (BASE - limit)
    length, place = length + 1, place + BASE
  end
  return length
end

-- The next code point in use from `code` on.
local function next_code(codes, code)
  local least = math.maxinteger
  for _, one in ipairs(codes) do
    if one >= code and one < least then least = one end
  end
  return least
end

-- How long a label becomes when it is encoded, "xn--" and all.
local function encoded_length(codes)
  local done, length = 0, 4
  for _, one in ipairs(codes) do
    if one < FIRST_CODE then done = done + 1 end
  end
  length = length + done + (done > 0 and 1 or 0)
  local code, delta, bias, first = FIRST_CODE, 0, FIRST_BIAS, true
  while done < #codes do
    local coming = next_code(codes, code)
    delta = delta + (coming - code) * (done + 1)
    code = coming
    for _, one in ipairs(codes) do
      if one < code then delta = delta + 1 end
      if one == code then
        length = length + delta_length(delta, bias)
        done = done + 1
        bias, delta, first = adapt(delta, done, first), 0, false
      end
    end
    delta, code = delta + 1, code + 1
  end
  return length
end

-- ---- characters ----

-- Signs that join consonants of Indic scripts.
local VIRAMA = "[\\u094d\\u09cd\\u0a4d\\u0acd\\u0b4d\\u0bcd\\u0c4d\\u0ccd\\u0d4d\\u0dca\\u0e3a\\u0f84\\u1039\\u103a" ..
  "\\u1714\\u1734\\u17d2\\u1a60\\u1b44\\u1baa\\u1bab\\u1bf2\\u1bf3\\u2d7f\\ua806\\ua8c4\\ua953\\ua9c0\\uaaf6\\uabed]"
local NOT_JAPANESE = "[^\\p{sc=Hiragana}\\p{sc=Katakana}\\p{sc=Han}]*"
local JOINING = "[\\p{sc=Arabic}\\p{sc=Syriac}\\p{sc=Nko}\\p{sc=Mongolian}]\\p{M}*"

-- What a label consists of.
local ALLOWED = regex.compile("^[-A-Z\\p{Ll}\\p{Lo}\\p{Lm}\\p{Mn}\\p{Mc}\\p{Nd}" ..
  "\\u00b7\\u0375\\u05f3\\u05f4\\u06fd\\u06fe\\u0f0b\\u3007\\u30fb\\u200c\\u200d]+$")

-- What it may not have, by itself or where it stands.
local WRONG = {
  regex.compile("^-|-$|^..--|^\\p{M}"),
  regex.compile("[\\u0640\\u07fa\\u302e\\u302f\\u3031-\\u3035\\u303b]"),
  regex.compile("(?<!l)\\u00b7|\\u00b7(?!l)"),
  regex.compile("\\u0375(?!\\p{sc=Greek})"),
  regex.compile("(?<!\\p{sc=Hebrew})[\\u05f3\\u05f4]"),
  regex.compile("(?<!" .. VIRAMA .. ")\\u200d"),
  regex.compile("[\\u0660-\\u0669].*[\\u06f0-\\u06f9]|[\\u06f0-\\u06f9].*[\\u0660-\\u0669]"),
  regex.compile("^" .. NOT_JAPANESE .. "\\u30fb" .. NOT_JAPANESE .. "$"),
}

-- A non-joiner stands behind a virama, or between letters that would join.
local NON_JOINER = regex.compile(VIRAMA .. "\\u200c|" .. JOINING .. "\\u200c\\p{M}*" .. JOINING)

local function is_label_text(text)
  if not ALLOWED:test(text) then return false end
  for _, wrong in ipairs(WRONG) do
    if wrong:test(text) then return false end
  end
  return not NON_JOINER:gsub(text, ""):find("\u{200c}", 1, true)
end

local function is_label(label)
  if label:find("^[%w-]+$") then
    if #label > LONGEST_LABEL then return false end
    local coded = label:lower():match("^xn%-%-(.*)$")
    if not coded then return not label:find("^%-") and not label:find("%-$") and label:sub(3, 4) ~= "--" end
    local text = decode(coded)
    return text ~= nil and text:find("[\x80-\xff]") ~= nil and is_label_text(text)
  end
  -- more characters than bytes allowed need no encoding to be too long
  if utf8.len(label) > LONGEST_LABEL or not is_label_text(label) then return false end
  return encoded_length({utf8.codepoint(label, 1, -1)}) <= LONGEST_LABEL
end

--- Whether a text is a host name, in Unicode or encoded.
---@param text string
---@return boolean
function idn.is_hostname(text)
  local length = utf8.len(text)
  if not length or length == 0 or length > LONGEST_NAME then return false end
  local dotted = text:gsub("\u{3002}", "."):gsub("\u{ff0e}", "."):gsub("\u{ff61}", ".")
  for label in (dotted .. "."):gmatch("([^.]*)%.") do
    if not is_label(label) then return false end
  end
  return true
end

return idn
