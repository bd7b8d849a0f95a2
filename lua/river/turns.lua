--- One call at a time on a model, first come, first served.
--
-- A River server reads a model, changes it and writes it back, for learn and for predict, without a lock: of two calls
-- at once on one model, one is undone. So all calls of this process on a model of a server take turns, also those of
-- different clients. Different models go side by side.

local core = require "riverlua.core.task"

local turns = {}

---@class river.Turn
---@field waiting integer how many tasks wait
local Turn = {}
Turn.__index = Turn
Turn.__name = "river.Turn"

--- A turn that nobody has.
---@return river.Turn
function turns.new()
  return setmetatable({held = false, first = 1, last = 0, waiting = 0}, Turn)
end

-- Until the turn is handed over; a task that is cancelled meanwhile leaves the row.
local function wait(self)
  local place = {signal = core.signal(), granted = false}
  self.last = self.last + 1
  self[self.last] = place
  self.waiting = self.waiting + 1
  repeat
    local ok, err = pcall(place.signal.wait, place.signal)
    if not ok then
      if place.granted then
        self:give()
      else
        place.left = true
        self.waiting = self.waiting - 1
      end
      error(err, 0)
    end
  until place.granted
end

--- Waits for the turn. `local _ <close> = turn:take()` gives it back at the end of the block.
---@return river.Turn
function Turn:take()
  if self.held then wait(self) end   -- and gets it held
  self.held = true
  return self
end

--- Hands the turn to the task that has waited longest.
function Turn:give()
  while self.first <= self.last do
    local place = self[self.first]
    self[self.first] = nil
    self.first = self.first + 1
    if not place.left then
      place.granted = true
      self.waiting = self.waiting - 1
      place.signal:fire()
      return
    end
  end
  self.held = false
end

Turn.__close = Turn.give

-- What a service that needs no turns gives.
local FREE = setmetatable({}, {__close = function() end})

-- Place → its turns by model. A place's live as long as a client is there, one turn as long as somebody has it or waits
-- for it.
local places = setmetatable({}, {__mode = "kv"})

local DEFAULT_PORTS = {http = ":80", https = ":443"}

-- One name for what is certainly the same server. User information says who calls, not where.
local function name_of(baseurl, prefix)
  local scheme, authority, path = baseurl:match("^(%a[%w+.-]*)://([^/]*)(.*)$")
  if not scheme then return baseurl .. prefix end
  scheme = scheme:lower()
  authority = authority:gsub("^.*@", ""):lower()
  local default = DEFAULT_PORTS[scheme]
  if default and authority:sub(-#default) == default then authority = authority:sub(1, -#default - 1) end
  return ("%s://%s%s%s"):format(scheme, authority, path, prefix)
end

--- The turns of a place, by model: one table for all clients that are there.
---@param where string|table the base address, or the transport that a client was given: it alone knows where it goes
---@param prefix string
---@return table<string, river.Turn>
function turns.at(where, prefix)
  local key = type(where) == "string" and name_of(where, prefix) or where
  local of = places[key]
  if not of then
    of = setmetatable({}, {__mode = "v"})
    places[key] = of
  end
  return of
end

--- The turn of a client's calls on one model.
---@param client river.Client
---@param model string
---@return river.Turn
function turns.take(client, model)
  if client._transport and client._transport.embedded then return FREE end
  local of = client._turns
  local turn = of[model]
  if not turn then
    turn = turns.new()
    of[model] = turn
  end
  return turn:take()
end

return turns
