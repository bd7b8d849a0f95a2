--- Who may use a River service on the network: one user with a token, who gets bearer tokens for a while.
--
-- A protected path answers 401 with a challenge that names the realm; there the user's name and token (Basic) buy a
-- bearer token. Bearer tokens are random and kept here until they expire; no client looks inside of them.

local errors = require "riverlua.errors"
local task = require "riverlua.task"

local serve_auth = {}

local TOKEN_SECONDS = 600
local TOKEN_BYTES = 32
-- More bearer tokens than this at once: the oldest goes.
local MAX_TOKENS = 10000

local BASE64 = {}
for i, char in ("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"):gmatch("()(.)") do
  BASE64[char:byte()] = i - 1
end

-- Bytes of base64 text; nil when it is none.
local function decode_base64(text)
  local digits = text:gsub("=+$", "")
  if digits:find("[^%w+/]") or #digits % 4 == 1 or #text - #digits > 2 then return nil end
  local out, buffer, bits = {}, 0, 0
  for i = 1, #digits do
    buffer = (buffer << 6 | BASE64[digits:byte(i)]) & 0xffffff
    bits = bits + 6
    if bits >= 8 then
      bits = bits - 8
      out[#out + 1] = string.char(buffer >> bits & 0xff)
    end
  end
  return table.concat(out)
end

-- Takes as long for texts that differ early as for texts that differ late.
local function same_text(given, wanted)
  local difference = #given ~ #wanted
  for i = 1, #given do
    difference = difference | given:byte(i) ~ (wanted:byte((i - 1) % #wanted + 1) or 0)
  end
  return difference == 0
end

local function random_token()
  local file <close>, problem = io.open("/dev/urandom", "rb")
  local bytes = file and file:setvbuf("no") and file:read(TOKEN_BYTES)
  if not bytes or #bytes < TOKEN_BYTES then
    errors.raise{kind = "unsupported", message = "the system gives no random numbers: " .. tostring(problem)}
  end
  return (bytes:gsub(".", function(char) return ("%02x"):format(char:byte()) end))
end

---@class river.serve_auth.Guard
local Guard = {}
Guard.__index = Guard
Guard.__name = "river.serve_auth.Guard"

--- Makes a guard for one user.
---@param user string
---@param token string
---@param seconds number|nil how long a bearer token is good for (default 600)
---@return river.serve_auth.Guard
function serve_auth.guard(user, token, seconds)
  if user == "" or token == "" or user:find(":", 1, true) then
    errors.raise{kind = "argument", message = "user and token must not be empty, and the user has no ':'"}
  end
  -- what a Guard knows is kept out of reach of anything that prints tables
  local secret = user .. ":" .. token
  return setmetatable({
    seconds = seconds or TOKEN_SECONDS, due = {}, queue = {}, first = 1,
    is_user = function(pair) return same_text(pair, secret) end,
  }, Guard)
end

--- The bearer token's answer for an `Authorization: Basic` header; nil when it names no user.
---@param header string|nil
---@return {token: string, expires_in: number, issued_at: string}|nil
function Guard:issue(header)
  local encoded = header and header:match("^%s*[Bb][Aa][Ss][Ii][Cc]%s+(%S+)%s*$")
  local pair = encoded and decode_base64(encoded)
  if not pair or not self.is_user(pair) then return nil end
  local token = random_token()
  self.due[token] = task.now() + self.seconds
  self.queue[#self.queue + 1] = token
  self:forget_old()
  return {token = token, expires_in = self.seconds, issued_at = os.date("!%Y-%m-%dT%H:%M:%SZ")}
end

--- Drops bearer tokens that have expired, or are too many.
function Guard:forget_old()
  local queue, now = self.queue, task.now()
  local first = self.first
  while queue[first] and (self.due[queue[first]] <= now or #queue - first >= MAX_TOKENS) do
    self.due[queue[first]] = nil
    first = first + 1
  end
  if first > MAX_TOKENS then
    queue = table.move(queue, first, #queue, 1, {})
    first = 1
  end
  self.queue, self.first = queue, first
end

--- Whether an `Authorization` header holds a bearer token that is good now.
---@param header string|nil
---@return boolean
function Guard:allows(header)
  local token = header and header:match("^%s*[Bb][Ee][Aa][Rr][Ee][Rr]%s+(%S+)%s*$")
  local due = token and self.due[token]
  return due ~= nil and due > task.now()
end

--- Whether the header carries a user's credentials, which belong to the realm only.
---@param header string|nil
---@return boolean
function serve_auth.is_basic(header)
  return header ~= nil and header:find("^%s*[Bb][Aa][Ss][Ii][Cc]%f[%s]") ~= nil
end

return serve_auth
