--- Waiting for many jobs at once: `modelriver.wait_all(jobs)`.

local errors = require "riverlua.errors"
local job = require "modelriver.job"
local task = require "riverlua.task"

local wait_all = {}

local OPTIONS = {on_done = true, failures = true}

-- Its own options and those of job:wait, apart.
local function read_options(jobs, options)
  errors.expect("wait_all", "jobs", jobs, "table")
  if type(options) ~= "table" then job.check_wait("wait_all", options) end
  for i = 1, #jobs do
    if not job.is(jobs[i]) then
      errors.raise{kind = "argument", message = ("wait_all: jobs[%d] is no job, but %s"):format(i,
        errors.with_article(type(jobs[i]))), hint = "client:ai_async and client:resume return jobs"}
    end
  end
  if job.is(jobs) then
    errors.raise{kind = "argument", message = "wait_all: 'jobs' must be a list of jobs, got one",
      hint = "put it into braces, or call job:wait"}
  end
  local own, wait = {}, {}
  for name, value in pairs(options) do (OPTIONS[name] and own or wait)[name] = value end
  job.check_wait("wait_all", wait, OPTIONS)
  errors.expect("wait_all", "on_done", own.on_done, "callable|nil")
  if own.failures ~= nil and own.failures ~= "return" then
    errors.raise{kind = "argument", message = "wait_all: 'failures' may only be \"return\""}
  end
  return own, wait
end

--- Waits for many jobs at once.
---
--- Options: those of job:wait, for each; `on_done(job, result, err)`: called as each ends; `failures = "return"`: a
--- second result has the errors by position. Otherwise, when all have ended and some failed, an error of kind "job" is
--- raised that has `results` and `failures`.
---@param jobs modelriver.Job[]
---@param options table|nil
---@return table results modelriver.Response by position
---@return table|nil failures
function wait_all.wait_all(jobs, options)
  local own, wait_options = read_options(jobs, options or {})
  local results, failures, failed, first = {n = #jobs}, {}, 0, nil
  task.map(jobs, function(one, i)
    local ok, value = pcall(one.wait, one, wait_options)
    if ok then
      results[i] = value
    else
      if not errors.is(value) or value.kind == "cancelled" or value.kind == "interrupted" then error(value, 0) end
      failures[i], failed, first = value, failed + 1, first or value
    end
    if own.on_done then own.on_done(one, results[i], failures[i]) end
  end, {concurrency = math.max(1, #jobs)})
  if own.failures == "return" then return results, failures end
  if failed > 0 then
    errors.raise{kind = "job", results = results, failures = failures, cause = first, retryable = false,
      message = ("%d of %d jobs failed; the first: %s"):format(failed, #jobs, first.message),
      hint = "err.results has the answers, err.failures the errors, by position"}
  end
  return results
end

return wait_all
