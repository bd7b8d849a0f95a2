--- Those who listen to a stream of events.
--
-- Announcing never waits: a listener that is too far behind loses its oldest events, and knows how many.

local task = require "riverlua.task"

local announcer = {}

-- Events that wait for one listener.
local CAPACITY = 10000

---@class river.embedded.Listener
---@field dropped integer events lost because nobody took them in time
local Listener = {}
Listener.__index = Listener
Listener.__name = "river.embedded.Listener"

---@class river.embedded.Announcer
local Announcer = {}
Announcer.__index = Announcer

--- A stream without listeners.
---@return river.embedded.Announcer
function announcer.new()
  return setmetatable({count = 0, listeners = {}}, Announcer)
end

--- Adds a listener.
---@return river.embedded.Listener
function Announcer:listen()
  local listener = setmetatable({queue = task.queue(), announcer = self, dropped = 0}, Listener)
  self.listeners[listener] = true
  self.count = self.count + 1
  return listener
end

--- Hands an event to all listeners. Ask `count` first: without listeners there is nothing to make.
---@param event {event: string|nil, data: string}
function Announcer:announce(event)
  for listener in next, self.listeners do
    local queue = listener.queue
    if #queue >= CAPACITY then
      queue:get()
      listener.dropped = listener.dropped + 1
    end
    queue:put(event)
  end
end

--- Ends all streams: what was announced can still be read.
function Announcer:close()
  for listener in next, self.listeners do listener.queue:close() end
  self.listeners, self.count = {}, 0
end

--- Iterates over the events; waits for the next one. Ends when the service or the listener is closed.
---@return fun(): {event: string|nil, data: string}|nil
function Listener:events()
  return function() return self.queue:get() end
end

--- Listens no longer.
function Listener:close()
  local from = self.announcer
  if from.listeners[self] then
    from.listeners[self] = nil
    from.count = from.count - 1
  end
  self.queue:close()
end

Listener.__close = Listener.close

return announcer
