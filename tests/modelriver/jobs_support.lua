--- What the specs of streams, jobs and callbacks need beside support.lua.

local support = dofile((debug.getinfo(1, "S").source:match("^@(.*/)") or "./") .. "support.lua")
local modelriver = require "modelriver"

local client_of = support.client

--- A client of the stand-in that sends everything once; `options` are added.
---@param server table
---@param options table|nil
---@return modelriver.Client
function support.client(server, options)
  local all = {retries = 0}
  for name, value in pairs(options or {}) do all[name] = value end
  return client_of(server, all)
end

local ids = 0

--- A workflow's name that no other call has: its counters in the stand-in are its own.
---@param name string
function support.unique(name)
  ids = ids + 1
  return ("%s+id:%d"):format(name, ids)
end

--- A question to a workflow; its answer is the text.
---@param workflow string
---@param text string|nil
function support.question(workflow, text)
  return {workflow = workflow, messages = {modelriver.user(text or "one two three")}}
end

--- How often the stand-in counted something.
function support.count(server, key) return server:stats().counters[key] or 0 end

--- Events as short texts: "delta one ", "finish stop", "tool_call name {}", "usage 4".
---@param stream modelriver.Stream
---@return string[]
function support.events_of(stream)
  local list = {}
  for event in stream do list[#list + 1] = support.event_text(event) end
  return list
end

--- One event as a short text.
function support.event_text(event)
  local value = event[event.kind]
  if event.kind == "tool_call" then value = value.name .. " " .. value.arguments end
  if event.kind == "usage" then value = value.total_tokens end
  return ("%s%s %s"):format(event.kind, event.index and " " .. event.index or "", value)
end

-- The first place in a value where a text has `secret` in it.
local function find_in(value, secret, path, seen)
  if type(value) == "string" then return value:find(secret, 1, true) and path or nil end
  if type(value) ~= "table" or seen[value] then return nil end
  seen[value] = true
  for key, item in next, value do
    local found = find_in(item, secret, path .. "." .. tostring(key), seen) or find_in(key, secret, path, seen)
    if found then return found end
  end
  return nil
end

--- Where a value (an error, say) gives away the key or a token; nil: nowhere.
---@param server table
---@param value any
---@return string|nil
function support.leak(server, value)
  for _, secret in ipairs{server.info.keys.good, "wst_", "Bearer"} do
    local found = find_in(value, secret, "it", {}) or find_in(tostring(value), secret, "tostring", {})
    if found then return found end
  end
  return nil
end

--- A transport whose streamed answers have these bytes, piece by piece.
---@param pieces string[]
---@return table transport
function support.pieces_transport(pieces)
  local transport = {closed = 0, requests = 0}
  function transport:request()
    self.requests = self.requests + 1
    local at = 0
    return {status = 200, headers = {["content-type"] = "text/event-stream"},
      read = function()
        at = at + 1
        return pieces[at]
      end,
      close = function() self.closed = self.closed + 1 end}
  end
  function transport:close() self.closed = self.closed + 1 end
  return transport
end

--- Megabytes of memory that this process has.
function support.resident()
  local statm <close> = assert(io.open("/proc/self/statm"))
  statm:read("n")
  return statm:read("n") * 4096 / 1000000
end

return support
