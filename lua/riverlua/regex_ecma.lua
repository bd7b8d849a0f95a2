--- Patterns of ECMA-262 (with its flag u), as JSON Schema uses them, in the words of PCRE2.
--
-- Both share most of their syntax. What only PCRE2 has is refused, so that no pattern means something else here than in
-- a browser; what means another thing there is spelt out. Kinder than ECMA-262: a lone `{` or `]` and escaped
-- punctuation stand for themselves.

local errors = require "riverlua.errors"

local ecma = {}

-- White space and line ends of ECMA-262, as members of a class.
local SPACE = "\\t-\\r \\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}\\x{feff}"
local LINE_END = "\\n\\r\\x{2028}\\x{2029}"

-- What means the same in both. \w and \d know ASCII only.
local SAME = {d = true, D = true, w = true, W = true, f = true, n = true, r = true, t = true, b = true, B = true}

-- Long names of the general categories, without case and separators.
local CATEGORIES = {
  letter = "L", casedletter = "L&", uppercaseletter = "Lu", lowercaseletter = "Ll", titlecaseletter = "Lt",
  modifierletter = "Lm", otherletter = "Lo", mark = "M", combiningmark = "M", nonspacingmark = "Mn", spacingmark = "Mc",
  enclosingmark = "Me", number = "N", decimalnumber = "Nd", digit = "Nd", letternumber = "Nl", othernumber = "No",
  punctuation = "P", punct = "P", connectorpunctuation = "Pc", dashpunctuation = "Pd", openpunctuation = "Ps",
  closepunctuation = "Pe", initialpunctuation = "Pi", finalpunctuation = "Pf", otherpunctuation = "Po", symbol = "S",
  mathsymbol = "Sm", currencysymbol = "Sc", modifiersymbol = "Sk", othersymbol = "So", separator = "Z",
  spaceseparator = "Zs", lineseparator = "Zl", paragraphseparator = "Zp", other = "C", control = "Cc", cntrl = "Cc",
  format = "Cf", surrogate = "Cs", privateuse = "Co", unassigned = "Cn", lc = "L&",
}

-- A pattern being read: `at` is the next byte, `out` the pieces written, `origin` where each of them came from.
local Reader = {}
Reader.__index = Reader

function Reader:fail(text, at, hint)
  errors.raise{kind = "argument", message = ("regex: %s (at byte %d of %q)"):format(text, at or self.at, self.text),
    offset = at or self.at, hint = hint}
end

-- Writes a piece for what was read from `from` on.
function Reader:put(piece, from)
  self.out[#self.out + 1] = piece
  self.origin[#self.origin + 1] = from
end

-- Takes what the Lua pattern matches here, if it does: its capture or the whole.
function Reader:take(pattern)
  local start, stop, capture = self.text:find("^" .. pattern, self.at)
  if not start then return nil end
  self.at = stop + 1
  return capture or self.text:sub(start, stop)
end

-- The code point of \xHH, \uHHHH, \u{H…} or a pair of surrogates; the backslash has been read.
function Reader:code_point(from)
  local digits = self:take("x(%x%x)") or self:take("u{(%x+)}") or self:take("u(%x%x%x%x)")
  if not digits then self:fail("hexadecimal digits are missing", from) end
  local code = tonumber(digits:sub(-8), 16)
  if #digits:gsub("^0+", "") > 6 or code > 0x10ffff then self:fail("there is no such character", from) end
  if code & 0xfffffc00 == 0xd800 then
    local low = self:take("\\u([dD][c-fC-F]%x%x)")
    if low then return 0x10000 + ((code & 0x3ff) << 10 | tonumber(low, 16) & 0x3ff) end
  end
  if code & 0xfffff800 == 0xd800 then self:fail("half a surrogate pair is no character", from) end
  return code
end

function Reader:property(letter, from)
  local name = self:take("{([%w_=]+)}")
  if not name then self:fail("\\" .. letter .. " wants a property in braces", from) end
  local kind, value = name:match("^(.-)=(.*)$")
  if kind == "General_Category" or kind == "gc" then
    name, kind = value, nil
  elseif kind == "Script" or kind == "sc" then
    name = "sc:" .. value
  elseif kind == "Script_Extensions" or kind == "scx" then
    name = "scx:" .. value
  elseif kind then
    self:fail("there is no property " .. kind, from)
  end
  if not kind then name = CATEGORIES[name:lower():gsub("_", "")] or name end
  self:put(("\\%s{%s}"):format(letter, name), from)
end

-- An escape that means the same inside a class and outside; false when it is none.
function Reader:shared_escape(from)
  local char = self.text:match("^" .. utf8.charpattern, self.at)
  if char == nil then self:fail("a backslash at the end", from) end
  if char == "x" or char == "u" then
    self:put(("\\x{%x}"):format(self:code_point(from)), from)
    return true
  end
  if char == "0" then
    self.at = self.at + 1
    if self.text:find("^%d", self.at) then self:fail("\\0 is followed by a digit", from) end
    self:put("\\x{0}", from)
    return true
  end
  if char:find("^[%dkBsS]") then return false end
  self.at = self.at + #char
  if char == "p" or char == "P" then
    self:property(char, from)
  elseif char == "v" then
    self:put("\\x{b}", from)
  elseif char == "c" then
    local letter = self:take("%a")
    if not letter then self:fail("\\c wants a letter", from) end
    self:put(("\\x{%x}"):format(letter:byte() & 0x1f), from)
  elseif SAME[char] then
    self:put("\\" .. char, from)
  elseif char:find("^%a") then
    self:fail(("\\%s is not known"):format(char), from,
      (char == "A" or char == "Z" or char == "z") and "write ^ for the beginning and $ for the end" or nil)
  elseif #char > 1 or char:find("^[%c ]") then
    self:put(char, from)
  else
    self:put("\\" .. char, from)
  end
  return true
end

function Reader:escape()
  local from = self.at
  self.at = from + 1
  if self:shared_escape(from) then return end
  local char = self:take("[%a]")
  if char == "s" then
    self:put("[" .. SPACE .. "]", from)
  elseif char == "S" then
    self:put("[^" .. SPACE .. "]", from)
  elseif char == "B" then
    self:put("\\B", from)
  elseif char == "k" then
    local name = self:take("<([%a_][%w_]*)>")
    if not name then self:fail("\\k wants a name in angle brackets", from) end
    self:put(("\\k<%s>"):format(name), from)
  else
    self:put(("\\g{%s}"):format(self:take("%d+")), from)
  end
end

-- The negation of white space inside a class: what lies between its members.
local NOT_SPACE = "\\x{0}-\\x{8}\\x{e}-\\x{1f}!-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}" ..
  "\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{d7ff}\\x{e000}-\\x{fefe}\\x{ff00}-\\x{10ffff}"

function Reader:class()
  local opened = self.at
  self.at = opened + 1
  self:put(self:take("%^") and "[^" or "[", opened)
  while true do
    local from = self.at
    local char = self.text:match("^" .. utf8.charpattern, from)
    if char == nil then self:fail("a class is not closed", opened) end
    self.at = from + #char
    if char == "]" then return self:put("]", from) end
    if char == "[" then
      self:put("\\[", from)
    elseif char ~= "\\" then
      self:put(char, from)
    elseif not self:shared_escape(from) then
      local letter = self:take("[sS]")
      if not letter then self:fail("this escape has no meaning in a class", from) end
      self:put(letter == "s" and SPACE or NOT_SPACE, from)
    end
  end
end

function Reader:group()
  local from = self.at
  local opening = self:take("%(%?[:=!]") or self:take("%(%?<[=!]") or self:take("%(%?<[%a_][%w_]*>")
    or self:take("%(%?[ims]*%-?[ims]*:")
  if not opening then
    if self.text:find("^%(%?", from) then
      self:fail("this kind of group is not known", from, "flags go before a colon: (?i:…)")
    elseif self.text:find("^%(%*", from) then
      self:fail("nothing to repeat", from + 1)
    end
    opening = "("
    self.at = from + 1
  end
  self:put(opening, from)
end

-- What may follow a repetition: ? makes it lazy; + or another one is an error, not a possessive repetition.
function Reader:after_repetition()
  local from = self.at
  if self:take("%?") then self:put("?", from) end
  if self.text:find("^[*+?]", self.at) or self.text:find("^{%d+,?%d*}", self.at) then
    self:fail("nothing to repeat")
  end
end

function Reader:repetition(char)
  local from = self.at
  local counts = char == "{" and self:take("{%d+,?%d*}")
  if char == "{" and not counts then
    self.at = from + 1
    return self:put("\\{", from)
  end
  if not counts then self.at = from + 1 end
  self:put(counts or char, from)
  self:after_repetition()
end

function Reader:step(flags)
  local from = self.at
  local char = self.text:match("^" .. utf8.charpattern, from)
  if char == "\\" then return self:escape() end
  if char == "[" then return self:class() end
  if char == "(" then return self:group() end
  if char:find("^[*+?{]") then return self:repetition(char) end
  self.at = from + #char
  if char == "." and not flags:find("s", 1, true) then
    self:put("[^" .. LINE_END .. "]", from)
  else
    self:put(char, from)
  end
end

-- Where the byte of the translation that has this offset came from.
local function origin_of(reader, offset)
  local passed = 0
  for i, piece in ipairs(reader.out) do
    passed = passed + #piece
    if passed > offset then return reader.origin[i] end
  end
  return #reader.text + 1
end

--- The pattern for PCRE2, and a function that gives the place in the original for an offset in it.
---@param text string valid UTF-8
---@param flags string
---@return string translated
---@return fun(offset: integer): integer origin
function ecma.translate(text, flags)
  local reader = setmetatable({text = text, at = 1, out = {}, origin = {}}, Reader)
  while reader.at <= #text do reader:step(flags) end
  return table.concat(reader.out), function(offset) return origin_of(reader, offset) end
end

return ecma
