--- Idempotency keys: the same request sent again gets the first answer and runs nothing.

local answer = require "modelriver.embedded.answer"
local core = require "riverlua.core.task"
local digest = require "riverlua.digest"
local json = require "riverlua.json"

local idempotency = {}

-- Keys that are remembered; the oldest go first.
local MOST = 1000

---@class modelriver.embedded.Idempotency
local Idempotency = {}
Idempotency.__index = Idempotency

local encode = json.encoder{sort = true}

local function print_of(req)
  local body = req.body or ""
  if req.json ~= nil then
    local ok, text = pcall(encode, req.json)
    body = ok and text or ""
  end
  return digest.sha256(req.path .. "\n" .. body)
end

local function copy(kept)
  local headers = {}
  for name, value in pairs(kept.headers) do headers[name] = value end
  headers["idempotent-replayed"] = "true"
  return {status = kept.status, headers = headers, body = kept.body}
end

-- Whether a repeat shall have this very answer: not what may be better next time, and no stream, which is gone.
local function is_final(given) return given.body ~= nil and given.status < 500 and given.status ~= 429 end

local function remember(self, key, entry)
  self.entries[key] = entry
  self.order[self.last + 1], self.last = key, self.last + 1
  if self.last - self.first >= MOST then
    self.entries[self.order[self.first]], self.order[self.first] = nil, nil
    self.first = self.first + 1
  end
end

local function run_first(self, key, entry, fn)
  local _ <close> = setmetatable({}, {__close = function()
    entry.done = true
    if not entry.answer and self.entries[key] == entry then self.entries[key] = nil end
    entry.ended:fire()
  end})
  local given = fn()
  if is_final(given) then entry.answer = given end
  return given
end

--- The answer to a request: the one that its key has got already, else what `fn` gives.
---@param key string|nil
---@param req table
---@param fn fun(): table
---@return table
function Idempotency:answer(key, req, fn)
  if type(key) ~= "string" or key == "" then return fn() end
  local print = print_of(req)
  local entry = self.entries[key]
  while entry and not entry.done do
    entry.ended:wait()
    entry = self.entries[key]
  end
  if not entry then
    entry = {print = print, ended = core.signal(), done = false}
    remember(self, key, entry)
    return run_first(self, key, entry, fn)
  end
  if entry.print ~= print then
    return answer.refusal(422, "idempotency_key_reused", "This Idempotency-Key was used for another request")
  end
  return copy(entry.answer)
end

--- Remembers nothing yet.
---@return modelriver.embedded.Idempotency
function idempotency.new()
  return setmetatable({entries = {}, order = {}, first = 1, last = 0}, Idempotency)
end

return idempotency
