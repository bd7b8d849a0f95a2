--- One call at a time on a model, first come, first served.
--
-- A River server reads a model, changes it and writes it back, for learn and for predict, without a lock: of two calls
-- at once on one model, one is undone. So the tasks that share a client take turns. Different models go side by side.

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

--- The turn of a client's calls on one model.
---@param client river.Client
---@param model string
---@return river.Turn
function turns.take(client, model)
  if client._transport and client._transport.embedded then return FREE end
  local of = client._turns
  if not of then
    -- weak: a turn lives as long as somebody has it or waits for it
    of = setmetatable({}, {__mode = "v"})
    client._turns = of
  end
  local turn = of[model]
  if not turn then
    turn = turns.new()
    of[model] = turn
  end
  return turn:take()
end

return turns
