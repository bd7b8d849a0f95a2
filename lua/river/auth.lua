--- Authentication of the River API, as a layer between a client and its transport.
--
-- A server that wants to know who calls answers 401 (some 403) with a challenge that names a realm. The user and token
-- go there once, as basic authentication, and bring a bearer token of limited life, which all later requests carry.
-- One handshake serves all tasks of a client; the token is renewed before it expires.

local errors = require "riverlua.errors"
local task = require "riverlua.task"
local transport_module = require "riverlua.transport"
local url = require "riverlua.url"

local auth = {}

-- A challenge or a token beyond this is no honest one.
local MAX_CHALLENGE, MAX_TOKEN = 8192, 16384
local MAX_TOKEN_ANSWER = 65536
local MAX_REDIRECTS = 3
-- A token is renewed when this part of its life has gone by, or, for a body of this size, when it might expire on
-- the way.
local RENEWED_AT = 0.9
local BIG_BODY, BIG_BODY_SECONDS = 65536, 60
local MAX_LIFE = 366 * 86400
local HANDSHAKE_SECONDS = 30

-- ---------------------------------------------------------------------------------------------------- challenge

local function unquote(text, from)
  local pieces, at = {}, from
  while true do
    local stop = text:find('["\\]', at)
    if not stop then return nil end
    pieces[#pieces + 1] = text:sub(at, stop - 1)
    if text:sub(stop, stop) == '"' then return table.concat(pieces), stop + 1 end
    pieces[#pieces + 1] = text:sub(stop + 1, stop + 1)
    at = stop + 2
  end
end

--- Takes a challenge apart: `realm="…",service="…"`, with or without the word of a scheme and further parameters.
--- Of several realms the first that is an address counts. Pure: text in, values out.
---@param text string|nil value of the header Www-Authenticate
---@return {realm: string, service: string|nil, scope: string|nil}|nil challenge nil: there is none in it
function auth.parse_challenge(text)
  if type(text) ~= "string" or #text > MAX_CHALLENGE then return nil end
  local found, at = {}, 1
  while true do
    local name, after = text:match("^[%s,]*([%w_-]+)%s*()", at)
    if not name then break end
    if text:sub(after, after) == "=" then
      after = text:match("^=%s*()", after)
      local value
      if text:sub(after, after) == '"' then
        value, after = unquote(text, after + 1)
        if not value then break end
      else
        value, after = text:match("^([^%s,]*)()", after)
      end
      name = name:lower()
      local useful = name ~= "realm" or value:find("^[Hh][Tt][Tt][Pp][Ss]?://") or value:find("^/[^/]")
      if useful and found[name] == nil then found[name] = value end
    end
    at = after
  end
  if not found.realm then return nil end
  return {realm = found.realm, service = found.service, scope = found.scope}
end

-- ------------------------------------------------------------------------------------------------------- origins

local function origin_text(parts)
  return ("%s://%s:%d"):format(parts.scheme, parts.host, parts.port)
end

local function parse_origin(text)
  local parts = type(text) == "string" and not text:find("[%c%s\\]") and url.parse(text)
  if not parts or (parts.scheme ~= "http" and parts.scheme ~= "https") then return nil end
  if math.type(parts.port) ~= "integer" or parts.port < 1 or parts.port > 65535 then return nil end
  return parts
end

--- Reads the option `auth_hosts`: an address or a list of addresses, of which scheme, host and port count.
---@param where string
---@param given string|string[]|nil
---@return table<string, boolean> origins
function auth.read_hosts(where, given)
  local origins = {}
  if given == nil then return origins end
  errors.expect(where, "auth_hosts", given, "string|table")
  for _, text in ipairs(type(given) == "table" and given or {given}) do
    local parts = parse_origin(text)
    if not parts then
      errors.raise{kind = "argument", message = where .. ": 'auth_hosts' lists addresses",
        hint = 'such as {"https://auth.example.com"}'}
    end
    origins[origin_text(parts)] = true
  end
  return origins
end

--- Whether user and token may go to an address: it has the base address's scheme, host and port, or is listed.
---@param base string
---@param address string
---@param origins table<string, boolean>
---@return boolean
function auth.may_know(base, address, origins)
  local from, to = parse_origin(base), parse_origin(address)
  return from ~= nil and to ~= nil and (url.same_origin(from, to) or origins[origin_text(to)] == true)
end

-- The realm as an address to get the token from, or nil and why not.
local function vet_realm(state, realm)
  local address = url.resolve(state.base, realm)
  local parts = parse_origin(address)
  if not parts then return nil, "that is no http address" end
  local shown = origin_text(parts)
  if parts.userinfo then return nil, "that carries a user name of its own" end
  if not auth.may_know(state.base, address, state.origins) then
    return nil, ("at %s, which is not this server"):format(shown), shown
  end
  local path = parts.path
  -- servers leave out the slash that they then insist on
  if not parts.query and path:sub(-1) ~= "/" then path = path .. "/" end
  return {origin = shown, path = path .. (parts.query and "?" .. parts.query or "")}
end

-- ----------------------------------------------------------------------------------------------------- handshake

local ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

local function base64(bytes)
  local out = bytes:gsub("..?.?", function(three)
    local a, b, c = three:byte(1, 3)
    local n = a << 16 | (b or 0) << 8 | (c or 0)
    local text = ""
    for shift = 18, 0, -6 do
      local digit = (n >> shift & 63) + 1
      text = text .. ALPHABET:sub(digit, digit)
    end
    return text:sub(1, #three + 1) .. ("="):rep(3 - #three)
  end)
  return out
end

local function fail(code, message, hint, more)
  local err = {kind = "auth", code = code, message = "authentication: " .. message, hint = hint, method = "GET"}
  for name, value in pairs(more or {}) do err[name] = value end
  errors.raise(err)
end

-- A transport to the realm's host. What the user set up for the server alone stays there.
local function open_realm(state, realm)
  local own = realm.origin == state.base_origin
  local http = {}
  for name, value in pairs(state.http or {}) do
    if own or (name ~= "headers" and name ~= "unix_socket") then http[name] = value end
  end
  http.redirects, http.max_body = 0, MAX_TOKEN_ANSWER
  http.timeout = HANDSHAKE_SECONDS
  return transport_module.open("river", realm.origin, http)
end

local function ask(state, realm, headers)
  local req = {method = "GET", path = realm.path, headers = headers, idempotent = true}
  if state.custom and realm.origin == state.base_origin then
    -- the caller's own transport begins its paths below the base address
    if realm.path:sub(1, #state.base_path) == state.base_path then req.path = realm.path:sub(#state.base_path + 1) end
    return state.custom:request(req)
  end
  local transport <close> = open_realm(state, realm)
  local res = transport:request(req)
  local _ = res.headers   -- read while the connection is there
  return res
end

local UNREACHABLE = {connect = true, dns = true, tls = true, timeout = true, protocol = true, limit = true}

-- Follows redirects as long as they stay on the realm's host.
local function ask_realm(state, realm, challenge)
  local headers = {["Accept"] = "application/json", ["Authorization"] = "Basic " .. state.basic}
  local service = challenge and challenge.service
  if service and #service <= 1024 and not service:find("[^\x21-\x7e]") then headers["service"] = service end
  for _ = 0, MAX_REDIRECTS do
    local shown = url.redact(realm.origin .. realm.path)
    local ok, res = pcall(ask, state, realm, headers)
    if not ok then
      if not errors.is(res) or not UNREACHABLE[res.kind] then error(res, 0) end
      fail("realm_unreachable", ("%s, which gives out the tokens, cannot be reached"):format(shown),
        "the server is there, but names this address for its tokens: " .. (res.hint or "is it right?"),
        {kind = res.kind, phase = res.phase, cause = res, url = shown, retryable = true})
    end
    if res.status < 300 or res.status >= 400 then return res, shown end
    local parts = parse_origin(url.resolve(realm.origin .. realm.path, res.headers["location"] or ""))
    if not parts or origin_text(parts) ~= realm.origin or parts.userinfo then
      fail("realm_redirect", ("%s redirects elsewhere, where user and token do not follow"):format(shown),
        "if that place is to be trusted, the server should name it as its realm", {status = res.status, url = shown})
    end
    realm = {origin = realm.origin, path = parts.path .. (parts.query and "?" .. parts.query or "")}
  end
  fail("realm_redirect", ("more than %d redirects at %s"):format(MAX_REDIRECTS, url.redact(realm.origin .. realm.path)))
end

-- Gets a token and says how long it lives. The realm's answer never gets into an error: it may hold the token.
local function fetch_token(state, realm, challenge)
  local res, shown = ask_realm(state, realm, challenge)
  local status = res.status
  if status == 401 or status == 403 then
    fail("credentials_refused", ("%s does not accept this user and token (status %d)"):format(shown, status),
      "check the options user and token, or RIVER_ML_USER and RIVER_ML_TOKEN", {status = status, url = shown})
  elseif status >= 400 then
    fail("realm_failed", ("%s answers with status %d instead of a token"):format(shown, status),
      status >= 500 and "the server's own trouble; is its time to live of tokens a number?"
        or "is the realm of the server set up right?",
      {status = status, url = shown, retryable = status == 429 or status >= 502})
  end
  local ok, answer = pcall(res.json, res)
  local token = ok and type(answer) == "table" and answer.token
  if type(token) ~= "string" or token == "" or #token > MAX_TOKEN or token:find("[^\x21-\x7e]") then
    fail("realm_failed", shown .. " answers without a token", "is the realm of the server set up right?",
      {status = status, url = shown})
  end
  local life = tonumber(answer.expires_in)
  if not life or life ~= life or life <= 0 then life = nil end
  return token, life and math.min(life, MAX_LIFE)
end

local function hold_token(state, token, life, asked_at)
  state.token = token
  state.authorized = setmetatable({}, {__mode = "k"})
  local never = math.huge
  state.expires_at = life and asked_at + life or never
  state.renew_at = life and asked_at + RENEWED_AT * life or never
  -- at most half of its life ahead, or short tokens would be renewed for every upload
  state.renew_big_at = life and math.min(state.renew_at, state.expires_at - math.min(BIG_BODY_SECONDS, life / 2))
    or never
end

local PASSING = {cancelled = true, interrupted = true, closed = true, deadlock = true, memory = true}

local function same_error(err)
  if not errors.is(err) then return err end
  local copy = {}
  for name, value in pairs(err) do copy[name] = value end
  return errors.new(copy)
end

-- Replaces the token `old`. `round` counted the handshakes when the request began: if another task has ended one
-- since, its token, or its error, serves here too.
local function obtain(state, realm, challenge, old, round)
  local _ <close> = state.gate:acquire()
  if state.round ~= round then
    if state.failure then error(same_error(state.failure), 0) end
    return
  end
  if state.token ~= old then return end
  state.handshakes = state.handshakes + 1
  local asked_at = state.now()
  state.active = true
  local ok, token, life = pcall(fetch_token, state, realm, challenge)
  state.active = false
  if not ok then
    local err = token
    if not errors.is(err) or PASSING[err.kind] then error(err, 0) end   -- says nothing about the others
    state.round, state.failure = state.round + 1, err
    error(err, 0)
  end
  state.round, state.failure = state.round + 1, nil
  state.realm, state.challenge = realm, challenge
  hold_token(state, token, life, asked_at)
end

-- Before the token expires. When that fails the old one serves as long as it lives; after that the next request goes
-- without one, and the server's own answer decides.
local function renew(state)
  local old = state.token
  local ok, err = pcall(obtain, state, state.realm, state.challenge, old, state.round)
  if ok then return end
  if not errors.is(err) or PASSING[err.kind] then error(err, 0) end
  if state.token ~= old then return end
  local now = state.now()
  if now < state.expires_at then
    state.renew_at = now + math.max(0.5, (state.expires_at - now) / 2)
    state.renew_big_at = state.renew_at
  else
    state.token = nil
  end
end

-- ------------------------------------------------------------------------------------------------------ requests

local no_headers = {}
local function nothing() end

local Layer = {}
Layer.__index = Layer
Layer.__name = "river.auth.Layer"

-- The headers with the token: one table for each, since connections know header tables by identity.
local function authorized_headers(state, source)
  local headers = state.authorized[source]
  if headers then return headers end
  headers = {}
  for name, value in pairs(source) do
    if name:lower() ~= "authorization" then headers[name] = value end
  end
  headers["Authorization"] = "Bearer " .. state.token
  state.authorized[source] = headers
  return headers
end

local function missing(state)
  local what = state.user == nil and state.secret == nil and "they are" or state.user == nil and "the user is"
    or "the token is"
  if state.withheld then
    return {code = "credentials_withheld", message = "the server moved and wants user and token, which stay behind",
      hint = ("if %s may have them, list it in the option auth_hosts"):format(state.base_origin)}
  end
  return {code = "credentials_missing", message = ("the server wants a user and token, and %s not set")
    :format(what), hint = "set RIVER_ML_USER and RIVER_ML_TOKEN, or the options user and token of river.Client"}
end

-- What is known about a refused request, for the error: the answer's field `auth`.
local function explain_challenge(state, text)
  if not state.basic then return nil, missing(state) end
  local challenge = auth.parse_challenge(text)
  if not challenge then
    return nil, {code = "challenge_unreadable", message = text
      and "the server wants authentication and does not say where to get a token"
      or "the server wants authentication and sends no challenge",
      hint = "a River server names its realm in the header Www-Authenticate; is something else in front of it?"}
  end
  local realm, why, origin = vet_realm(state, challenge.realm)
  if not realm then
    return nil, {code = "realm_refused", message = "the server sends user and token to a realm " .. why,
      hint = origin and ("if %s may have them: river.Client{auth_hosts = {\"%s\"}}"):format(origin, origin) or nil}
  end
  return realm, challenge
end

local TOKEN_REFUSED = {code = "token_refused", message = "the server refuses the token that it has just given",
  hint = "does it run several workers, each with a random JWT_SERVER_SECRET? set one for all; "
    .. "its cache folder and clock must be common too"}

-- A body that repeats the request (a diagnosis does) must not show the token.
local function hide_secrets(state, res)
  local body = rawget(res, "body")
  if type(body) ~= "string" then return end
  for _, secret in ipairs{state.token or "", state.secret or "", state.basic or ""} do
    if #secret >= 4 and body:find(secret, 1, true) then
      body = body:gsub(secret:gsub("%p", "%%%0"), "***")
      res.body = body
    end
  end
end

local function count_success(state, path)
  local worked = state.worked
  worked[path] = (worked[path] or 0) + 1
end

local function refused(state, inner, req, source, sent, round, res)
  hide_secrets(state, res)
  local status = res.status
  if status ~= 401 and status ~= 403 then return res end
  local text = res.headers and res.headers["www-authenticate"]
  if status == 403 and not text then
    res.auth = {worked = state.worked[req.path] ~= nil}
    return res
  end
  local realm, challenge = explain_challenge(state, text)
  if not realm then
    res.auth = challenge
    return res
  end
  if res.close and req.stream then res:close() end
  state.refused = state.refused + 1
  obtain(state, realm, challenge, sent, round)
  req.headers = authorized_headers(state, source)
  -- nothing was done: a repeat is safe whatever the method
  res = inner:request(req)
  req.headers = source
  if res.status < 400 then
    count_success(state, req.path)
  else
    hide_secrets(state, res)
    if res.status == 401 then res.auth = TOKEN_REFUSED end
    if res.status == 403 then res.auth = {worked = state.worked[req.path] ~= nil} end
  end
  return res
end

-- Gives a request its token. Returns its own headers, the token sent (or nil) and the count of handshakes so far.
local function prepare(state, req)
  local source = req.headers or no_headers
  local round = state.round
  -- what would be refused anyway waits for the handshake that is under way
  if state.active and not state.token then state.gate:with(nothing) end
  local sent = state.token
  if sent then
    local body = req.body
    local due = body and #body >= BIG_BODY and state.renew_big_at or state.renew_at
    if due < math.huge and state.now() >= due then
      renew(state)
      sent = state.token
    end
    if sent then req.headers = authorized_headers(state, source) end
  end
  return source, sent, round
end

-- Requests behind each other on one connection, with the token. One that is refused is left to `request`: sending it
-- again from here would put it behind those that follow.
local function make_pipeline(inner, state, options)
  local pipeline = inner:pipeline(options)
  return {
    ready = function() return pipeline:ready() end,
    close = function() pipeline:close() end,
    send = function(_, req)
      local source = prepare(state, req)
      local wait, transfer, size = pipeline:send(req)
      req.headers = source
      local counted = false
      return function()
        local res, err, sent = wait()
        if res and not counted then
          counted = true
          if res.status < 400 then
            count_success(state, req.path)
          else
            hide_secrets(state, res)
            if res.status == 403 then res.auth = {worked = state.worked[req.path] ~= nil} end
          end
        end
        return res, err, sent
      end, transfer, size
    end,
  }
end

-- Everything secret is in `state`, which only these functions see: printing the layer shows none of it.
local function make_layer(inner, state)
  local self = setmetatable({embedded = inner.embedded}, Layer)

  function self.request(_, req)
    local source, sent, round = prepare(state, req)
    local res = inner:request(req)
    req.headers = source
    if res.status >= 400 then return refused(state, inner, req, source, sent, round, res) end
    count_success(state, req.path)
    return res
  end

  if inner.pipeline then
    function self.pipeline(_, options) return make_pipeline(inner, state, options) end
  end

  --- The same authentication over another transport, which is closed with it.
  function self.over(_, transport) return make_layer(transport, state) end

  --- How often requests of this path have succeeded.
  function self.successes(_, path) return state.worked[path] or 0 end

  --- The counts of the transport, `handshakes`, and `refused`: requests answered with a challenge.
  function self.stats()
    local stats = inner.stats and inner:stats() or {}
    stats.handshakes, stats.refused = state.handshakes, state.refused
    return stats
  end

  function self.close() inner:close() end

  return self
end

function Layer.__close(self) self:close() end

-- Counts by path; paths with names in them must not pile up for ever.
local function new_counts()
  local count = 0
  return setmetatable({}, {__newindex = function(counts, path, value)
    count = count + 1
    if count > 2000 then
      for known in pairs(counts) do counts[known] = nil end
      count = 1
    end
    rawset(counts, path, value)
  end})
end

-- An option, or what the environment has; `false` stands for nothing at all.
local function credential(where, name, given, variable)
  if given == nil then given = os.getenv(variable) end
  if given == nil or given == false or given == "" then return nil end
  errors.expect(where, name, given, "string")
  if given:find("%c") or name == "user" and given:find(":", 1, true) then
    errors.raise{kind = "argument", message = ("%s: '%s' holds a character that cannot be sent"):format(where, name)}
  end
  return given
end

--- Puts authentication before a transport.
---
--- Options: `base` (the address that the transport speaks to), `user` and `token` (default: RIVER_ML_USER and
--- RIVER_ML_TOKEN; false: none), `auth_hosts` (addresses besides the base address that may get them), `http` (options
--- for connections to the realm), `custom` (true: the transport is the caller's own), `withheld` (the credentials were
--- not handed on), `now` (a clock in seconds).
---
--- `request` raises kind "auth" with the code "credentials_refused" (wrong user or token), "realm_failed" or
--- "realm_redirect", and with the code "realm_unreachable" the kind of what went wrong on the way there ("connect",
--- "dns", "tls", "timeout" …). A refusal that no token would change is an answer whose field `auth` says why.
---@param transport table
---@param options table
---@return table transport
function auth.wrap(transport, options)
  local where = "river.Client"
  local user = credential(where, "user", options.user, "RIVER_ML_USER")
  local secret = credential(where, "token", options.token, "RIVER_ML_TOKEN")
  local parts = parse_origin(options.base)
  local base = parts and origin_text(parts) .. parts.path or options.base
  return make_layer(transport, {
    base = base, base_origin = parts and origin_text(parts), base_path = parts and parts.path:gsub("/+$", "") or "",
    user = user, secret = secret, basic = user and secret and base64(user .. ":" .. secret),
    origins = auth.read_hosts(where, options.auth_hosts), withheld = options.withheld,
    http = options.http, custom = options.custom and transport or nil,
    gate = task.semaphore(1), round = 0, worked = new_counts(), handshakes = 0, refused = 0,
    now = options.now or task.now,
  })
end

return auth
