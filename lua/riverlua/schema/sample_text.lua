--- Short texts for samples: of a format, of a length, matching a pattern. All are proposals: the schema is asked
-- afterwards.

local regex = require "riverlua.regex"
local values = require "riverlua.schema.values"

local text = {}

local FORMATS = {
  ["date-time"] = "2026-01-01T00:00:00Z", date = "2026-01-01", time = "00:00:00Z", duration = "P1D",
  email = "name@example.com", ["idn-email"] = "name@example.com", hostname = "example.com",
  ["idn-hostname"] = "example.com", ipv4 = "192.0.2.1", ipv6 = "2001:db8::1", uri = "https://example.com/",
  ["uri-reference"] = "/", iri = "https://example.com/", ["iri-reference"] = "/", ["uri-template"] = "/{id}",
  uuid = "00000000-0000-4000-8000-000000000000", regex = ".*", ["json-pointer"] = "", ["relative-json-pointer"] = "0",
}

-- What stands for an escape; others stand for themselves.
local ESCAPES = {d = "0", D = "a", w = "a", W = "-", s = " ", S = "a", b = "", B = "", n = "\n", r = "\r", t = "\t",
  v = "\v", f = "\f"}

local CANDIDATES = {"a", "A", "0", "1", "x", " ", "-", "_", ".", "/", "é", "中", "\n"}
local MOST_REPEATED <const> = 1000
local LONGEST <const> = 10000

-- A pattern being followed: `at` is the next byte; `extra` is how often more than needed repetitions are taken.
local Follower = {}
Follower.__index = Follower

function Follower:take(pattern)
  local start, stop, capture = self.pattern:find("^" .. pattern, self.at)
  if not start then return nil end
  self.at = stop + 1
  return capture or self.pattern:sub(start, stop)
end

local function first_fitting(class)
  local ok, compiled = pcall(regex.compile, "^" .. class .. "$")
  if not ok then return "" end
  for _, candidate in ipairs(CANDIDATES) do
    if compiled:test(candidate) then return candidate end
  end
  return ""
end

function Follower:escape()
  local hex = self:take("\\x(%x%x)") or self:take("\\u(%x%x%x%x)") or self:take("\\u{(%x+)}")
  if hex then
    local code = tonumber(hex:sub(-6), 16)
    return code <= 0x10ffff and utf8.char(code) or ""
  end
  if self:take("\\[pP]{[^}]*}") then
    local whole = self.pattern:sub(1, self.at - 1):match("\\[pP]{[^}]*}$")
    return first_fitting(whole)
  end
  local char = self:take("\\(.)") or ""
  return ESCAPES[char] or char
end

function Follower:class()
  local start = self.at
  self.at = start + 1
  self:take("%^")
  while self.at <= #self.pattern do
    local char = self:take("\\.") or self:take(".")
    if char == "]" then break end
  end
  local class = self.pattern:sub(start, self.at - 1)
  local found = first_fitting(class)
  if found ~= "" or class:sub(2, 2) == "^" then return found end
  return class:match("^%[\\?(" .. utf8.charpattern .. ")") or ""
end

-- The least and the most repetitions that follow; one without any.
function Follower:repetitions()
  local least, comma, most = self.pattern:match("^{(%d+)(,?)(%d*)}", self.at)
  local from, to
  if least then
    self:take("{[^}]*}")
    from = tonumber(least)
    to = comma == "" and from or tonumber(most) or math.huge
  elseif self:take("%*") then
    from, to = 0, math.huge
  elseif self:take("%+") then
    from, to = 1, math.huge
  elseif self:take("%?") then
    from, to = 0, 1
  else
    return 1
  end
  self:take("%?")
  return math.min(from + self.extra, to, MOST_REPEATED)
end

function Follower:group(depth)
  if self:take("%(%?[=!]") or self:take("%(%?<[=!]") then
    self:alternatives(depth)
    self:take("%)")
    return ""
  end
  local _ = self:take("%(%?:") or self:take("%(%?<[^>]*>") or self:take("%(%?[%a-]*:") or self:take("%(")
  local inside = self:alternatives(depth)
  self:take("%)")
  return inside
end

function Follower:atom(depth)
  local char = self.pattern:match("^" .. utf8.charpattern, self.at)
  if char == "\\" then return self:escape() end
  if char == "[" then return self:class() end
  if char == "(" then return self:group(depth + 1) end
  self.at = self.at + #char
  if char == "^" or char == "$" then return "" end
  return char == "." and "a" or char
end

-- The first of the alternatives.
function Follower:alternatives(depth)
  local out, first = {}, nil
  local length = 0
  while self.at <= #self.pattern and depth < 100 do
    local char = self.pattern:sub(self.at, self.at)
    if char == ")" then break end
    if char == "|" then
      self.at = self.at + 1
      first = first or table.concat(out)
      out = {}
    else
      local atom = self:atom(depth)
      local count = self:repetitions()
      length = length + #atom * count
      if length > LONGEST then return first or table.concat(out) end
      out[#out + 1] = atom:rep(count)
    end
  end
  return first or table.concat(out)
end

local function following(pattern, extra)
  return setmetatable({pattern = pattern, at = 1, extra = extra}, Follower):alternatives(0)
end

--- Texts to try for the schemas that a string must fit, the most fitting first.
---@param parts {schema: table}[]
---@param try fun(text: string): boolean whether it will do
---@return string|nil
function text.find(parts, try)
  local least, patterns = 0, {}
  for _, part in ipairs(parts) do
    local schema = part.schema
    local named = FORMATS[schema.format]
    if named and try(named) then return named end
    least = math.max(least, schema.minLength or 0)
    patterns[#patterns + 1] = schema.pattern
  end
  if least > LONGEST then return nil end
  least = math.tointeger(least)
  for _, pattern in ipairs(patterns) do
    for _, extra in ipairs{0, least, least - 1, 1, 2, 3, 4, 8} do
      local proposal = extra >= 0 and following(pattern, extra)
      if proposal then
        if try(proposal) then return proposal end
        local padded = proposal .. ("a"):rep(least - values.code_points(proposal))
        if try(padded) then return padded end
      end
    end
  end
  local plain = ("a"):rep(least)
  return try(plain) and plain or nil
end

return text
