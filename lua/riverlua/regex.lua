--- Regular expressions (PCRE2), with bounded time and memory.
--
--     local regex = require "riverlua.regex"
--     local date = regex.compile("^(\\d{4})-(\\d{2})$")
--     print(date:match("2026-11"))                         --> 2026  11
--     print(regex.compile("colou?r", {flags = "i"}):test("COLOR"))   --> true
--     for number in regex.compile("-?\\d+"):gmatch("3 and -4") do print(number) end
--
-- **Syntax.** "ecma" (the default) is that of ECMA-262 with its flag u, which JSON Schema asks for: `\d` and `\w` are
-- ASCII, `$` is the end of the text only, what ECMA-262 does not know is an error. Unlike there, the alternatives of a
-- look-behind must each have a fixed length. "perl" is PCRE2's own, with Unicode's `\d`, `\w`, `\s`; without verbs such
-- as `(*SKIP)`, and without `\G` and `\C`.
--
-- **Text** is UTF-8, and anything else an error of kind "argument". Positions count bytes from 1, as in `string`.
--
-- **Limits.** A search that backtracks too much raises kind "limit" instead of going on for hours; so do patterns
-- beyond 64 KB and texts beyond 1 MB. Wrong patterns are of kind "argument", with the field `offset` (a byte, from 1).

local core = require "riverlua.core.regex"
local ecma = require "riverlua.regex_ecma"
local errors = require "riverlua.errors"

local regex = {}

local OPTIONS = {flags = true, syntax = true}
local LONGEST_PATTERN <const> = 1 << 16

---@class riverlua.Regex
---@field pattern string as it was written
---@field flags string
local Regex = {}
Regex.__index = Regex
Regex.__name = "riverlua.Regex"

function Regex:__tostring() return ("regex /%s/%s"):format(self.pattern, self.flags) end

local function check_flags(flags, syntax)
  errors.expect("regex.compile", "flags", flags, "string")
  local known = syntax == "perl" and "imsx" or "ims"
  local wrong = flags:match("[^" .. known .. "]")
  if wrong then
    errors.raise{kind = "argument", message = ("regex.compile: unknown flag '%s'; known: %s"):format(wrong, known)}
  end
end

-- Verbs and \G would tell that a long text is searched piece by piece.
local function check_perl(pattern)
  local plain = pattern:gsub("\\(.)", function(char) return char == "G" and "(*G" or "  " end)
  local at = plain:find("(*", 1, true)
  if at and plain:find("^[%u:]", at + 2) then
    errors.raise{kind = "argument", message = ("regex: verbs and \\G are not supported, in %q"):format(pattern)}
  end
end

local function check_utf8(pattern)
  local length, at = utf8.len(pattern)
  if not length then
    errors.raise{kind = "argument", message = ("regex: the pattern is not UTF-8 (at byte %d)"):format(at), offset = at}
  end
end

---@class riverlua.regex.Options
---@field flags string|nil letters: "i" without case, "m" lines for ^ and $, "s" the dot is any character, and for
--- Perl's syntax "x" with white space and comments (default: none)
---@field syntax "ecma"|"perl"|nil (default: "ecma")

--- Makes a regular expression. Raises kind "argument" where the pattern is wrong, "limit" where it is too large.
---@param pattern string
---@param options riverlua.regex.Options|nil
---@return riverlua.Regex
function regex.compile(pattern, options)
  errors.expect("regex.compile", "pattern", pattern, "string")
  options = errors.expect("regex.compile", "options", options or {}, "table")
  errors.check_options("regex.compile", options, OPTIONS)
  local syntax, flags = options.syntax or "ecma", options.flags or ""
  if syntax ~= "ecma" and syntax ~= "perl" then
    errors.raise{kind = "argument", message = "regex.compile: 'syntax' must be \"ecma\" or \"perl\""}
  end
  check_flags(flags, syntax)
  if #pattern > LONGEST_PATTERN then
    errors.raise{kind = "limit", message = ("regex: a pattern may have %d bytes, this one has %d")
      :format(LONGEST_PATTERN, #pattern)}
  end
  check_utf8(pattern)
  local translated, origin = pattern, nil
  if syntax == "ecma" then
    translated, origin = ecma.translate(pattern, flags)
  else
    check_perl(pattern)
  end
  local compiled, message, offset = core.compile(translated, flags .. (syntax == "ecma" and "e" or "u"))
  if not compiled then
    local at = origin and origin(offset) or offset + 1
    errors.raise{kind = "argument", offset = at,
      message = ("regex: %s (at byte %d of %q)"):format(message, at, pattern)}
  end
  return setmetatable({pattern = pattern, flags = flags, core = compiled}, Regex)
end

--- Whether the text contains a match.
---@param text string
---@return boolean
function Regex:test(text)
  return self.core:find(text) ~= nil
end

--- The first match from byte `init` on: where it starts and ends, and its groups (nil: took no part); nil without one.
---@param text string
---@param init integer|nil (default: 1)
---@return integer|nil start
---@return integer|nil stop
---@return string|nil ... groups
function Regex:find(text, init)
  return self.core:find(text, init)
end

-- Groups, or the whole match where there are none.
local function contents(text, start, stop, ...)
  if not start then return nil end
  if select("#", ...) > 0 then return ... end
  return text:sub(start, stop)
end

--- The groups of the first match from `init` on, or all of it where the pattern has no groups; nil without a match.
---@param text string
---@param init integer|nil (default: 1)
---@return string|nil ...
function Regex:match(text, init)
  return contents(text, self.core:find(text, init))
end

-- Where the search goes on behind a match: behind the next character when it was empty.
local function next_place(text, start, stop)
  if stop >= start then return stop + 1 end
  return utf8.offset(text, 2, start) or #text + 2
end

local function pack_match(...) return select("#", ...), ... end

--- An iterator over all matches, each given as `match` gives it.
---@param text string
---@return fun(): string|nil ...
function Regex:gmatch(text)
  local at, checked = 1, false
  local function step(_, start, stop, ...)
    checked = true
    if not start then
      at = #text + 2
      return nil
    end
    at = next_place(text, start, stop)
    if select("#", ...) == 0 then return text:sub(start, stop) end
    -- an iterator ends with nil: a first group that took no part is given as false
    return (...) or false, select(2, ...)
  end
  return function() return step(pack_match(self.core:find(text, at, checked))) end
end

-- What replaces a match: the text with %0 to %9, what a table has for it, or what a function gives for it.
local function replacement(replace, whole, ...)
  if type(replace) == "string" then
    local groups = {...}
    return (replace:gsub("%%(.)", function(char)
      if char == "%" then return "%" end
      local number = tonumber(char)
      if not number then
        errors.raise{kind = "argument", message = "regex: '%' in a replacement is followed by a digit or %"}
      end
      return number == 0 and whole or groups[number] or ""
    end))
  end
  local key = whole
  if select("#", ...) > 0 then key = (...) end
  local result
  if type(replace) == "table" then
    result = replace[key or ""]
  elseif select("#", ...) > 0 then
    result = replace(...)
  else
    result = replace(whole)
  end
  if not result then return whole end
  return tostring(result)
end

--- The text with its matches replaced, and how many there were. In a replacement text `%1` is the first group, `%0`
--- all of the match, `%%` a percent sign; a table is asked for the first group (or the match), a function is called
--- with the groups (or the match): nil or false keeps the match.
---@param text string
---@param replace string|table|fun(...: string): any
---@param most integer|nil how many are replaced at most (default: all)
---@return string text
---@return integer count
function Regex:gsub(text, replace, most)
  errors.expect("regex.gsub", "replace", replace, "string|table|function")
  most = errors.expect("regex.gsub", "most", most or math.maxinteger, "integer")
  local out, at, kept, count = {}, 1, 1, 0
  local function step(start, stop, ...)
    if not start then return false end
    out[#out + 1] = text:sub(kept, start - 1)
    out[#out + 1] = replacement(replace, text:sub(start, stop), ...)
    kept, at, count = stop + 1, next_place(text, start, stop), count + 1
    return true
  end
  while count < most and step(self.core:find(text, at, count > 0)) do end
  out[#out + 1] = text:sub(kept)
  return table.concat(out), count
end

return regex
