-- Many jobs waited for at once in one process: jobs_waiting.lua HTTP_PORT CONTROL_PORT KEY JOBS
--
-- Prints the resident size in kB before the jobs and the largest one with all of them waiting, then the seconds from
-- the first request until all wait, and those from their release by the stand-in to the last result.

local http = require "riverlua.http"
local modelriver = require "modelriver"
local task = require "riverlua.task"

local here, control, key, count = "http://127.0.0.1:" .. arg[1], "http://127.0.0.1:" .. arg[2], arg[3], tonumber(arg[4])
local client <close> = modelriver.Client{base_url = here, api_key = key, http = {proxy = false}}
local orders <close> = http.Client{proxy = false}

local function size(name)
  local file <close> = assert(io.open("/proc/self/status"))
  return tonumber(file:read("a"):match(name .. ":%s+(%d+)"))
end

local function order(path)
  local answer = orders:get(control .. path):json()
  assert(not answer.timeout, path)
end

-- Makes so many jobs and waits for them; `joined`: how many have been waited for then, with those before.
local function run(n, joined, all_wait)
  local jobs = {}
  for i = 1, n do
    jobs[i] = client:ai_async{workflow = "job+hold:bench", messages = {modelriver.user("job " .. i)}}
  end
  local results
  local waiting = task.spawn(function() results = modelriver.wait_all(jobs) end)
  order("/wait?counted=" .. joined .. "&key=joined")
  if all_wait then all_wait() end
  order("/release?key=bench")
  waiting:await()
  for i = 1, n do assert(results[i]:text() == "job " .. i) end
end

run(1, 1)   -- loads what jobs need
order("/reset")
local before, started = size("VmRSS"), task.now()
local peak, released
run(count, count, function()
  peak, released = size("VmHWM"), task.now()
end)
print(before, peak, released - started, task.now() - released)
