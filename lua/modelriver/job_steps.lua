--- The steps of a job, as the official client tells them: queue, process, backend (event-driven workflows), receive,
-- complete.

local job_steps = {}

local ORDER = {queue = 1, process = 2, backend = 3, receive = 4, complete = 5}

---@class modelriver.Step
---@field id "queue"|"process"|"backend"|"receive"|"complete"
---@field status "pending"|"success"|"error"
---@field duration_ms number|nil
---@field error string|nil

---@class modelriver.Steps
---@field list modelriver.Step[] in their order
---@field on_step fun(step: modelriver.Step, list: modelriver.Step[])|nil told when a step has another status
local Steps = {}
Steps.__index = Steps

--- Internal: no steps yet.
function job_steps.new() return setmetatable({list = {}, by_id = {}}, Steps) end

--- Whether there is a step of that name.
---@param id string
---@return boolean
function Steps:has(id) return self.by_id[id] ~= nil end

--- Sets a step's status; `on_step` is told when it is another one.
---@param id string
---@param status string
---@param duration number|nil
---@param problem string|nil
function Steps:set(id, status, duration, problem)
  local step = self.by_id[id]
  if not step then
    step = {id = id}
    self.by_id[id] = step
    local list = self.list
    list[#list + 1] = step
    table.sort(list, function(a, b) return ORDER[a.id] < ORDER[b.id] end)
  end
  if step.status == status then return end
  step.status, step.duration_ms, step.error = status, duration, problem
  if self.on_step then self.on_step(step, self.list) end
end

--- The steps that every job has.
function Steps:begin()
  for _, id in ipairs{"queue", "process", "receive", "complete"} do
    if not self:has(id) then self:set(id, "pending") end
  end
end

return job_steps
