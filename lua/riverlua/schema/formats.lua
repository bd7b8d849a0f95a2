--- The formats of JSON Schema that can be asserted: each a name for messages and a test.

local errors = require "riverlua.errors"
local regex = require "riverlua.regex"

local formats = {}

-- ---- dates and times (RFC 3339) ----

local MONTH_DAYS = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}

local function is_date(text)
  local year, month, day = text:match("^(%d%d%d%d)%-(%d%d)%-(%d%d)$")
  if not year then return false end
  year, month, day = tonumber(year), tonumber(month), tonumber(day)
  local days = MONTH_DAYS[month]
  if month == 2 and year % 4 == 0 and (year % 100 ~= 0 or year % 400 == 0) then days = 29 end
  return days ~= nil and day >= 1 and day <= days
end

-- Minutes that an offset is ahead of UTC, or nil.
local function offset_of(text)
  if text == "Z" or text == "z" then return 0 end
  local sign, hours, minutes = text:match("^([+-])(%d%d):(%d%d)$")
  if not sign then return nil end
  hours, minutes = tonumber(hours), tonumber(minutes)
  if hours > 23 or minutes > 59 then return nil end
  return (sign == "+" and 1 or -1) * (hours * 60 + minutes)
end

local function is_time(text)
  local hour, minute, second, rest = text:match("^(%d%d):(%d%d):(%d%d)(.*)$")
  if not hour then return false end
  hour, minute, second = tonumber(hour), tonumber(minute), tonumber(second)
  local offset = offset_of(rest:match("^%.%d+(.*)$") or rest)
  if not offset or hour > 23 or minute > 59 or second > 60 then return false end
  -- leap seconds come at midnight UTC
  return second < 60 or (hour * 60 + minute - offset) % 1440 == 1439
end

local function is_date_time(text)
  local date, time = text:match("^(..........)[Tt](.*)$")
  return date ~= nil and is_date(date) and is_time(time)
end

-- Whether the units of a duration come in order, each with digits.
local function has_units(text, units)
  local last = 0
  for digits, unit in text:gmatch("(%d*)(%D)") do
    local place = units:find(unit, 1, true)
    if digits == "" or not place or (last > 0 and place ~= last + 1) then return false end
    last = place
  end
  return text:find("%D$") ~= nil
end

local function is_duration(text)
  if text:find("^P%d+W$") then return true end
  local date, time = text:match("^P([^T]*)T?(.*)$")
  if not date or text == "P" then return false end
  if text:find("T", 1, true) and not has_units(time, "HMS") then return false end
  return (date == "" and time ~= "") or has_units(date, "YMD")
end

-- ---- hosts and addresses ----

local function is_ipv4(text)
  local count = 0
  for part in (text .. "."):gmatch("([^.]*)%.") do
    count = count + 1
    if not part:find("^%d%d?%d?$") or tonumber(part) > 255 or part:find("^0.") then return false end
  end
  return count == 4
end

-- How many groups of 16 bits a part of an IPv6 address has; nil where it is wrong.
local function count_groups(text, is_last)
  if text == "" then return 0 end
  local count = 0
  local groups = {}
  for group in (text .. ":"):gmatch("([^:]*):") do groups[#groups + 1] = group end
  for i, group in ipairs(groups) do
    if group:find("^%x%x?%x?%x?$") then
      count = count + 1
    elseif is_last and i == #groups and is_ipv4(group) then
      count = count + 2
    else
      return nil
    end
  end
  return count
end

local function is_ipv6(text)
  local before, after = text:match("^(.-)::(.*)$")
  if not before then return count_groups(text, true) == 8 end
  if before == "" and after == "" then return true end
  local first, second = count_groups(before, false), count_groups(after, true)
  return first ~= nil and second ~= nil and first + second <= 7
end

local function is_hostname(text)
  if text == "" or #text > 253 then return false end
  for label in (text .. "."):gmatch("([^.]*)%.") do
    if #label > 63 or not label:find("^%w[%w-]*$") or label:find("%-$") then return false end
    -- in the third and fourth place hyphens mark encoded labels: only one kind is known
    if label:sub(3, 4) == "--" and not label:lower():find("^xn%-%-%w") then return false end
  end
  return true
end

-- ---- mail addresses (RFC 5321) ----

local ATOM = "[%w!#$%%&'*+/=?^_`{|}~-]+"

local function is_local_part(text, atom)
  if text:find('^"[^\r\n]*"$') and #text > 2 then
    return not text:sub(2, -2):gsub("\\.", ""):find('["\\]')
  end
  for part in (text .. "."):gmatch("([^.]*)%.") do
    if not part:find("^" .. atom .. "$") then return false end
  end
  return true
end

local function is_mail_domain(text, is_host)
  local literal = text:match("^%[(.*)%]$")
  if not literal then return is_host(text) end
  local v6 = literal:match("^IPv6:(.*)$")
  return v6 ~= nil and is_ipv6(v6) or is_ipv4(literal)
end

local function is_email(text)
  local name, domain = text:match("^(.*)@([^@]*)$")
  return name ~= nil and is_local_part(name, ATOM) and is_mail_domain(domain, is_hostname)
end

-- Loaded when it is needed: it has expressions to compile.
local function is_any_host(text) return require("riverlua.schema.idn").is_hostname(text) end

local function is_idn_email(text)
  local name, domain = text:match("^(.*)@([^@]*)$")
  return name ~= nil and utf8.len(text) ~= nil and is_local_part(name, "[%w!#$%%&'*+/=?^_`{|}~\x80-\xff-]+")
    and is_mail_domain(domain, is_any_host)
end

-- ---- URIs (RFC 3986) and IRIs (RFC 3987) ----

local UNRESERVED, SUBDELIMS = "%w._~%-", "!$&'()*+,;="

-- Whether a text has only characters of a class and whole %XX.
local function consists_of(text, class)
  return not text:gsub("%%%x%x", ""):find("[^" .. class .. "]")
end

local function is_authority(text, wide)
  local user, rest = text:match("^(.-)@(.*)$")
  if user and not consists_of(user, UNRESERVED .. SUBDELIMS .. ":" .. wide) then return false end
  rest = rest or text
  local literal, port = rest:match("^%[(.*)%](.*)$")
  if literal then
    if not is_ipv6(literal) and not literal:find("^v%x+%.[%w._~!$&'()*+,;=:-]+$") then return false end
  else
    local host
    host, port = rest:match("^([^:]*)(.*)$")
    if not consists_of(host, UNRESERVED .. SUBDELIMS .. wide) then return false end
  end
  return port == "" or port:find("^:%d*$") ~= nil
end

-- `wide`: further bytes that are allowed, as IRIs have.
local function is_reference(text, wide)
  local scheme, rest = text:match("^(%a[%w+.-]*):(.*)$")
  local before, fragment = (rest or text):match("^([^#]*)#(.*)$")
  local hierarchy, query = (before or rest or text):match("^([^?]*)%?(.*)$")
  hierarchy = hierarchy or before or rest or text
  local path_class = UNRESERVED .. SUBDELIMS .. ":@/" .. wide
  if not consists_of(fragment or "", path_class .. "?") or not consists_of(query or "", path_class .. "?") then
    return false
  end
  local authority, path = hierarchy:match("^//([^/]*)(.*)$")
  if authority and not is_authority(authority, wide) then return false end
  path = path or hierarchy
  if not scheme and not authority and path:match("^[^/]*"):find(":", 1, true) then return false end
  return consists_of(path, path_class)
end

local function is_uri(text, wide)
  return text:find("^%a[%w+.-]*:") ~= nil and is_reference(text, wide)
end

local WIDE = "\x80-\xff"

local function is_iri_text(text) return utf8.len(text) ~= nil end

-- ---- templates (RFC 6570) and pointers (RFC 6901) ----

local function is_expression(text)
  local names = text:match("^[+#./;?&=,!@|]?(.+)$")
  if not names then return false end
  for variable in (names .. ","):gmatch("([^,]*),") do
    local name = variable:match("^(.-)%*$") or variable:match("^(.-):[1-9]%d?%d?%d?$") or variable
    local dots = name:find("^%.") or name:find("%.$") or name:find("..", 1, true)
    if name == "" or dots or not consists_of(name, "%w_.") then
      return false
    end
  end
  return true
end

local function is_uri_template(text)
  local wrong = false
  local rest = text:gsub("{([^{}]*)}", function(expression)
    if not is_expression(expression) then wrong = true end
    return ""
  end)
  return not wrong and not rest:gsub("%%%x%x", ""):find("[%c \"'%%<>\\^`{|}]")
end

local function is_json_pointer(text)
  return (text == "" or text:sub(1, 1) == "/") and not (text:gsub("~[01]", "")):find("~", 1, true)
end

local function is_relative_pointer(text)
  local number, rest = text:match("^(%d+)(.*)$")
  return number ~= nil and (number == "0" or not number:find("^0")) and (rest == "#" or is_json_pointer(rest))
end

-- ---- others ----

local function is_regex(text)
  local ok, err = pcall(regex.compile, text)
  if not ok and not errors.is(err) then error(err, 0) end
  return ok
end

local UUID = "^" .. ("%x"):rep(8) .. ("%-" .. ("%x"):rep(4)):rep(3) .. "%-" .. ("%x"):rep(12) .. "$"

---@type table<string, {name: string, test: fun(text: string): boolean}>
formats.known = {
  ["date-time"] = {name = 'a date and time such as "2026-01-31T23:59:59Z"', test = is_date_time},
  date = {name = 'a date such as "2026-01-31"', test = is_date},
  time = {name = 'a time with its offset, such as "23:59:59Z"', test = is_time},
  duration = {name = 'a duration such as "P1DT2H"', test = is_duration},
  email = {name = "a mail address", test = is_email},
  ["idn-email"] = {name = "a mail address", test = is_idn_email},
  hostname = {name = "a host name", test = is_hostname},
  ["idn-hostname"] = {name = "a host name", test = is_any_host},
  ipv4 = {name = 'an IPv4 address such as "192.0.2.1"', test = is_ipv4},
  ipv6 = {name = 'an IPv6 address such as "2001:db8::1"', test = is_ipv6},
  uri = {name = "a URI with its scheme", test = function(text) return is_uri(text, "") end},
  ["uri-reference"] = {name = "a URI reference", test = function(text) return is_reference(text, "") end},
  iri = {name = "an IRI with its scheme", test = function(text) return is_iri_text(text) and is_uri(text, WIDE) end},
  ["iri-reference"] = {name = "an IRI reference",
    test = function(text) return is_iri_text(text) and is_reference(text, WIDE) end},
  ["uri-template"] = {name = "a URI template", test = is_uri_template},
  uuid = {name = "a UUID", test = function(text) return text:find(UUID) ~= nil end},
  regex = {name = "a regular expression", test = is_regex},
  ["json-pointer"] = {name = 'a JSON pointer such as "/items/0"', test = is_json_pointer},
  ["relative-json-pointer"] = {name = 'a relative JSON pointer such as "1/items"', test = is_relative_pointer},
}

return formats
