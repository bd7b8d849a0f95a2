--- What takes long to make, and is wanted by several at a time: it is made once, in a task of its own, which goes on
-- when somebody who waits for it is cancelled.

local errors = require "riverlua.errors"
local task = require "riverlua.task"

local once = {}

---@class training.embedded.Once
---@field made table<string, any>
local Once = {}
Once.__index = Once

---@return training.embedded.Once
function once.new() return setmetatable({made = {}, making = {}}, Once) end

local function begin(self, key, make)
  local own = {}
  self.making[key] = own
  own.task = task.spawn(function()
    local ok, value = pcall(make)
    if ok then self.made[key], own.value = value, value else own.problem = value end
    self.making[key] = nil
  end)
  return own
end

--- The thing of this name; the first one to ask waits until it has been made, as do those who ask meanwhile. What
--- failed is made anew when it is next asked for.
---@param key string
---@param make fun(): any not nil
---@return any
function Once:get(key, make)
  if self.made[key] ~= nil then return self.made[key] end
  local own = self.making[key] or begin(self, key, make)
  own.task:join()
  if own.value ~= nil then return own.value end
  if self.making[key] == own then self.making[key] = nil end   -- it was ended before its first turn
  error(own.problem or errors.new{kind = "cancelled", message = "the making has been cancelled"}, 0)
end

--- Gives up what is being made.
---@param reason string
---@return riverlua.Task[] # that may be waited for
function Once:stop(reason)
  local tasks = {}
  for _, own in pairs(self.making) do
    tasks[#tasks + 1] = own.task
    own.task:cancel(reason)
  end
  self.made = {}
  return tasks
end

return once
