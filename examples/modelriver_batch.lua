-- Many long jobs at once: handed over, then waited for together. With MODELRIVER_API_KEY set ModelRiver works
-- (workflow: MODELRIVER_WORKFLOW), otherwise the function below.

local modelriver = require "modelriver"
local progress = require "riverlua.progress"
local task = require "riverlua.task"

local live = os.getenv("MODELRIVER_API_KEY") ~= nil
local workflow = live and os.getenv("MODELRIVER_WORKFLOW") or "batch-processor"
local count = tonumber(arg[1]) or 40

if not live then
  modelriver.embedded.workflow(workflow, function(_, context)
    task.sleep(0.2)
    local number = tonumber(context.text:match("%d+"))
    if number % 13 == 0 then error{message = ("document %d cannot be read"):format(number)} end
    return ("document %d: done"):format(number)
  end)
end

local client <close> = modelriver.Client{base_url = not live and "embedded:" or nil}

local numbers = {}
for i = 1, count do numbers[i] = i end

-- eight requests at a time; fewer while the service asks to slow down
local jobs = client:map(numbers, function(i)
  return client:ai_async(workflow, ("Process document %d."):format(i))
end, {parallel = 8})

local bar <close> = progress.bar{total = #jobs, label = "jobs"}
local results, failures = modelriver.wait_all(jobs, {timeout = 300, failures = "return", on_done = function()
  bar:add(1)
end})
bar:close()

local done = 0
for i = 1, #jobs do
  if results[i] then done = done + 1 else print(("job %d: %s"):format(i, failures[i].message)) end
end
print(("%d of %d done; the first said: %s"):format(done, #jobs, results[1] and results[1]:text() or "nothing"))
