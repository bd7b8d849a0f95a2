--- Finds secrets in what goes over a wire, so that recordings can be shared.
--
-- A value is taken for a secret because of its name (a header, a JSON member, a parameter of a form or URL), or because
-- the same text was a secret elsewhere: the key of the request's own headers in an error text, say. It becomes `***`.
-- Only texts are secrets, never numbers: `max_tokens` and its kin survive.

local digest = require "riverlua.digest"
local json = require "riverlua.json"
local url = require "riverlua.url"

local find, byte, sub = string.find, string.byte, string.sub

local secrets = {}

--- What stands in the place of a secret.
secrets.MASK = "***"

local MOST_KNOWN = 512
local SHORTEST_KNOWN = 6   -- shorter ones are part of ordinary words
local DEEPEST_QUOTING = 3  -- JSON in strings of JSON in strings of JSON

local function set_of(text)
  local set = {}
  for word in text:gmatch("%S+") do set[word] = true end
  return set
end

local SECRET_WORDS = set_of[[password passwords passwd passphrase pwd secret secrets credential credentials signature
  sig auth authorization cookie cookies jwt bearer apikey apikeys token]]
local SECRET_ENDS = {"password", "passwd", "secret", "token", "apikey"}   -- of words that are written in one
local SECRET_KEYS = set_of[[api access secret private auth signing encryption master license subscription service
  account session webhook]]
-- "token_type" and "auth_method" speak about a secret, and "eos_token" is a piece of text.
local ABOUT = set_of[[type id ids count counts limit limits budget index usage url uri endpoint name names method
  methods scheme schemes required mode version algorithm length expires expiry at in ttl hosts enabled]]
local NOT_AUTHORITY = set_of"eos bos pad unk sep cls mask stop special max min per"

local function words_of(name)
  local words = {}
  name = url.unescape(name)
  for word in name:gsub("(%l)(%u)", "%1 %2"):gsub("(%u)(%u%l)", "%1 %2"):lower():gmatch("%w+") do
    words[#words + 1] = word
  end
  return words
end

local function is_secret_word(word)
  if SECRET_WORDS[word] then return true end
  for _, ending in ipairs(SECRET_ENDS) do
    if sub(word, -#ending) == ending then return true end
  end
  return false
end

local function judge(name)
  if #name > 100 or not (url.sounds_secret(name) or find(name:lower(), "sig", 1, true)
    or find(name:lower(), "pwd", 1, true)) then return false end
  local words, verdict = words_of(name), false
  for i, word in ipairs(words) do
    if not ABOUT[words[i + 1]] then
      local before = words[i - 1]
      if is_secret_word(word) and not NOT_AUTHORITY[before] or before == "pass" and word == "word"
        or (word == "key" or word == "keys") and SECRET_KEYS[before] then
        return true
      elseif word == "key" or word == "keys" or word == "tokens" and (not before or SECRET_KEYS[before]) then
        verdict = "maybe"
      end
    end
  end
  return verdict
end

local verdicts, verdict_count = {}, 0   -- names repeat

--- Whether a value of that name is a secret: true, false, or "maybe": if it also looks like one.
---@param name string
---@return boolean|string
function secrets.is_secret(name)
  local verdict = verdicts[name]
  if verdict == nil then
    if verdict_count >= 4096 then verdicts, verdict_count = {}, 0 end
    verdict = judge(name)
    verdicts[name], verdict_count = verdict, verdict_count + 1
  end
  return verdict
end

-- Long, in one piece, of letters and digits; or a key as files have it.
local function looks_secret(value)
  if #value < 16 then return false end
  return not find(value, "[^%w%-_.~+/=:%%]") and find(value, "%d") and find(value, "%a")
    or find(value, "PRIVATE KEY-----", 1, true) and true or false
end

-- What is called a secret and looks a little like one is a secret under other names too.
local function is_telling(value)
  return #value >= 8 and not find(value, "%s") and find(value, "%d") and find(value, "%a") and true
end

local function named_secret(name, value)
  local verdict = secrets.is_secret(name)
  return verdict == true or verdict == "maybe" and looks_secret(value)
end

-- ---- JSON, as text: it may be cut off, stand in server-sent events or in a string of other JSON --------------------

-- The next quote that begins or ends a string: where it and its own backslashes begin, where it is. In JSON that is
-- itself in a string (level 1) a quote is \", and one inside its strings \\\".
local function next_quote(text, at, last, level)
  local own = (1 << level) - 1
  local first = at
  while true do
    local quote = find(text, '"', at, true)
    if not quote or quote > last then return nil end
    local from = quote
    while from > first and byte(text, from - 1) == 92 do from = from - 1 end
    local run = quote - from
    if run >= own and (run - own) % (2 * own + 2) == 0 then return quote - own, quote end
    at = quote + 1
  end
end

-- Over blanks, their escapes in strings, and the beginnings of the lines of an event.
local function skip_blanks(text, at, last)
  local newline = false
  while at <= last do
    local stop = find(text, "[^ \t\r\n]", at) or last + 1
    newline = newline or stop > at and find(sub(text, at, stop - 1), "[\r\n]") ~= nil
    local after = text:match("^\\+[nrt]()", stop) or newline and text:match("^data:()", stop)
    if not after then return stop end
    at, newline = after, false
  end
  return at
end

-- A text of a model's answer and its probability; both orders of the two members.
local function is_predicted_token(text, name, before, after)
  if name ~= "token" then return false end
  return find(text, '^%s*,%s*\\*"logprob\\*"%s*:', after)
    or find(sub(text, math.max(1, before - 60), before - 1), '"logprob\\*"%s*:%s*[%d.eE+-]+%s*,%s*\\*$')
end

local function is_container(char) return char == 91 or char == 123 end

-- All strings in the list or object that begins at `at`, but not the names of its members; if the verdict is "maybe"
-- those that look like secrets. Returns where it ends.
local function scan_container(text, at, last, level, add, verdict)
  local depth = 0
  while at <= last do
    local stop = find(text, '["%[%]{}]', at)
    if not stop or stop > last then break end
    local char = byte(text, stop)
    if char == 34 then
      local close, quote = next_quote(text, stop + 1, last, level)
      if not close then close, quote = last + 1, last end
      if byte(text, skip_blanks(text, quote + 1, last)) ~= 58
        and (verdict == true or looks_secret(sub(text, stop + 1, close - 1))) then add(stop + 1, close - 1) end
      at = quote + 1
    else
      depth = depth + (is_container(char) and 1 or -1)
      at = stop + 1
      if depth == 0 then return at end
    end
  end
  return last + 1
end

-- What stands at `at` is the value of the secret `name`. Returns where to go on.
local function scan_secret(text, at, last, level, add, verdict)
  local own = (1 << level) - 1
  if sub(text, at, at + own) == ("\\"):rep(own) .. '"' then
    local close, quote = next_quote(text, at + own + 1, last, level)
    if not close then close, quote = last + 1, last end   -- a stream that was left
    if verdict == true or looks_secret(sub(text, at + own + 1, close - 1)) then add(at + own + 1, close - 1) end
    return quote + 1
  end
  local char = byte(text, at)
  if verdict == true and is_container(char) then return scan_container(text, at, last, level, add, verdict) end
  return at
end

-- A member's name without escapes of ASCII.
local function plain_name(name)
  if not find(name, "\\u00", 1, true) then return name end
  return (name:gsub("\\+u00([2-7]%x)", function(code) return string.char(tonumber(code, 16)) end))
end

-- Calls `add(first, last)` for each secret in text[at..last].
local function scan_json(text, at, last, level, add)
  local newline, doubted = 0, 0
  while true do
    local open, quote = next_quote(text, at, last, level)
    if not open then return end
    local close, close_quote = next_quote(text, quote + 1, last, level)
    if newline <= quote then newline = find(text, "\n", quote, true) or math.maxinteger end
    if not close and newline > last then return end
    if not close or newline < close then
      at = newline + 1   -- no string has a line break: that quote was none of JSON's
    else
      local value = sub(text, quote + 1, close - 1)
      local colon = skip_blanks(text, close_quote + 1, last)
      if byte(text, colon) == 58 then
        at = skip_blanks(text, colon + 1, last)
        local verdict = secrets.is_secret(plain_name(value))
        if verdict == "maybe" and at > doubted and is_container(byte(text, at)) then
          doubted = scan_container(text, at, last, level, add, verdict)   -- and in it there may be names that are clear
        elseif verdict then
          local after = scan_secret(text, at, last, level, function(first, stop)
            -- after the value: the backslashes of its quote, and the quote
            if not is_predicted_token(text, value, open, stop + (1 << level) + 1) then add(first, stop) end
          end, verdict)
          at = math.max(at, after)
        end
      else
        if level < DEEPEST_QUOTING and find(value, '\\"', 1, true) then
          scan_json(text, quote + 1, close - 1, level + 1, add)
        end
        at = close_quote + 1
      end
    end
  end
end

-- ---- URLs and forms -------------------------------------------------------------------------------------------------

local function scan_form(text, add)
  for start, field in text:gmatch("()([^&]+)") do
    local name, place, value = field:match("^([^=]+)=()(.*)$")
    if name and named_secret(name, value) then add(start + place - 1, start + #field - 1) end
  end
end

-- Credentials as headers have them, wherever somebody speaks of headers.
local function scan_schemes(text, add)
  for first, value in text:gmatch("%f[%a][Bb]earer +()([%w%-._~+/]+=*)") do
    if is_telling(value) then add(first, first + #value - 1) end
  end
  for first, value in text:gmatch("%f[%a][Bb]asic +()([%w+/]+=*)") do
    if looks_secret(value) then add(first, first + #value - 1) end
  end
end

-- User information and parameters of URLs anywhere in a text.
local function scan_urls(text, add)
  for name, first, value in text:gmatch("[?&#]([%w_.%%%[%]-]+)=()([^&#%s\"'<>\\]*)") do
    if named_secret(name, value) then add(first, first + #value - 1) end
  end
  -- a URL that is itself a parameter
  for sign, name, first in text:gmatch("%%([23][6Ff])([%w_.-]+)%%3[Dd]()") do
    local value = sub(text, first, first + 500):match("^[^&#%s\"'<>\\]*")
    value = sub(value, 1, (find(value, "%26", 1, true) or 0) - 1)
    if sign ~= "2F" and sign ~= "36" and named_secret(name, value) then add(first, first + #value - 1) end
  end
  for _, slashes in ipairs{"://", ":\\/\\/"} do
    local at = 1
    while true do
      local _, stop = find(text, slashes, at, true)
      if not stop then break end
      local _, sign = find(text, "^[^/?#%s\"'<>\\]+@", stop + 1)
      if sign then add(stop + 1, sign - 1) end
      at = stop + 1
    end
  end
end

-- ---- the scrubber ---------------------------------------------------------------------------------------------------

---@class riverlua.Scrubber
local Scrubber = {}
Scrubber.__index = Scrubber

--- Replaces secrets, and remembers them: their values are secrets under other names too.
---@return riverlua.Scrubber
function secrets.scrubber()
  return setmetatable({known = {}, seen = {}, next = 1}, Scrubber)
end

local function know_variant(self, text)
  if #text < SHORTEST_KNOWN or text == secrets.MASK or self.seen[text] then return end
  local former = self.known[self.next]
  if former then self.seen[former] = nil end
  self.known[self.next], self.seen[text] = text, true
  self.next = self.next % MOST_KNOWN + 1
end

--- Takes a text for a secret wherever it appears from now on, also as it is written in JSON and in URLs.
---@param text string of at least six bytes; shorter ones are ignored
function Scrubber:know(text)
  if #text < SHORTEST_KNOWN or self.seen[text] then return end
  know_variant(self, text)
  know_variant(self, url.escape(text))
  local ok, quoted = pcall(json.encode, text)
  if ok then
    know_variant(self, quoted:sub(2, -2))
    know_variant(self, (quoted:sub(2, -2):gsub("/", "\\/")))
  end
end

local function know_basic(self, encoded)
  local decoded = digest.from_base64(encoded)
  local password = decoded and decoded:match("^[^:]*:(.*)$")
  if password then self:know(password) end
end

-- What a header under a secret name gives away.
local function know_header(self, name, value)
  self:know(value)
  if name == "cookie" or name == "set-cookie" then
    local pairs_of = name == "cookie" and value or value:match("^[^;]*")
    for one in pairs_of:gmatch("=([^;]*)") do self:know((one:gsub('^"(.*)"$', "%1"))) end
    return
  end
  local scheme, rest = value:match("^(%a+) +(%S.*)$")
  if not scheme then return end
  self:know(rest)
  if scheme:lower() == "basic" then know_basic(self, rest) end
end

local function know_userinfo(self, address)
  local userinfo = address:match("^%a[%w+.-]*://([^/?#]*)@")
  if not userinfo then return end
  local user, password = userinfo:match("^([^:]*):(.*)$")
  if not user then return self:know(url.unescape(userinfo)) end
  self:know(url.unescape(password))
  self:know(digest.to_base64(url.unescape(user) .. ":" .. url.unescape(password)))
end

-- The spans in order, those that touch as one.
local function merged(spans)
  table.sort(spans, function(a, b) return a[1] < b[1] or a[1] == b[1] and a[2] > b[2] end)
  local out = {}
  for _, span in ipairs(spans) do
    local before = out[#out]
    if before and span[1] <= before[2] then
      before[2] = math.max(before[2], span[2])
    else
      out[#out + 1] = span
    end
  end
  return out
end

local function add_known(self, text, add)
  for _, secret in ipairs(self.known) do
    local at = 1
    while true do
      local first, last = find(text, secret, at, true)
      if not first then break end
      add(first, last)
      at = last + 1
    end
  end
end

-- Lengths of pieces → their lengths once the spans are masks; pieces that vanish are left out.
local function moved_cuts(pieces, spans)
  local out, offset, before, moved, next_span = {}, 0, 0, 0, 1
  for _, length in ipairs(pieces) do
    offset = offset + length
    while spans[next_span] and spans[next_span][2] <= offset do
      local span = spans[next_span]
      moved = moved + #secrets.MASK - (span[2] - span[1] + 1)
      next_span = next_span + 1
    end
    local place, span = offset + moved, spans[next_span]
    if span and span[1] <= offset then place = span[1] - 1 + moved + math.min(offset - span[1] + 1, #secrets.MASK) end
    if place > before then out[#out + 1] = place - before end
    before = place
  end
  return out
end

local function masked(text, spans)
  if #spans == 0 then return text end
  local parts, at = {}, 1
  for _, span in ipairs(spans) do
    parts[#parts + 1] = sub(text, at, span[1] - 1)
    parts[#parts + 1] = secrets.MASK
    at = span[2] + 1
  end
  parts[#parts + 1] = sub(text, at)
  return table.concat(parts)
end

--- The text without its secrets.
---@param text string
---@param options {form: boolean|nil, pieces: integer[]|nil}|nil `form`: it is urlencoded; `pieces`: lengths of the
--- pieces that it came in
---@return string text
---@return integer[]|nil pieces their lengths in the new text
function Scrubber:text(text, options)
  local spans = {}
  local function add(first, last)
    if last >= first and sub(text, first, last) ~= secrets.MASK then spans[#spans + 1] = {first, last} end
  end
  local function add_named(first, last)
    add(first, last)
    local value = sub(text, first, last)
    if is_telling(value) then self:know(value) end
  end
  if options and options.form then scan_form(text, add_named) end
  if find(text, '"', 1, true) then scan_json(text, 1, #text, 0, add_named) end
  scan_urls(text, add_named)
  scan_schemes(text, add_named)
  add_known(self, text, add)
  spans = merged(spans)
  return masked(text, spans), options and options.pieces and moved_cuts(options.pieces, spans)
end

--- Bytes that are no text: known secrets in them become as many asterisks, so that nothing moves.
---@param bytes string
function Scrubber:bytes(bytes)
  local spans = {}
  add_known(self, bytes, function(first, last) spans[#spans + 1] = {first, last} end)
  local parts, at = {}, 1
  for _, span in ipairs(merged(spans)) do
    parts[#parts + 1] = sub(bytes, at, span[1] - 1)
    parts[#parts + 1] = ("*"):rep(span[2] - span[1] + 1)
    at = span[2] + 1
  end
  parts[#parts + 1] = sub(bytes, at)
  return table.concat(parts)
end

--- The URL of a request, without user information and fragment.
---@param address string
function Scrubber:url(address)
  know_userinfo(self, address)
  return (self:text((url.without_userinfo(address):gsub("#.*$", ""))))
end

--- Headers without their secrets.
---@param headers {[1]: string, [2]: string}[] names and values
---@return {[1]: string, [2]: string}[]
function Scrubber:headers(headers)
  local out = {}
  for _, header in ipairs(headers) do
    if header[2] ~= "" and named_secret(header[1], header[2]) then know_header(self, header[1]:lower(), header[2]) end
  end
  for i, header in ipairs(headers) do
    local name, value = header[1], header[2]
    local hidden = value ~= "" and named_secret(name, value)
    out[i] = {name, hidden and secrets.MASK or (self:text(value))}
  end
  return out
end

return secrets
