--- Many questions at once: `client:map(list, function(item) … end, {parallel = 8})`.
--
-- When the service says "too many requests" (429), it says so to everybody: no request of the client goes out until the
-- time it asks for has passed, and half as many go out at once afterwards; with every success a little more again.

local errors = require "riverlua.errors"
local signals = require "riverlua.core.task"
local task = require "riverlua.task"

local map = {methods = {}}

local OPTIONS = {parallel = true, on_error = true}

local function adapt(run)
  local slowed = run.gateway.slowed
  if slowed > run.slowed then
    run.slowed = slowed
    -- one wave of refusals counts once
    if task.now() >= run.halved_until then
      run.allowed = math.max(1, run.allowed / 2)
      run.halved_until = run.gateway.paused_until
    end
  else
    run.allowed = math.min(run.most, run.allowed + 1 / run.allowed)
  end
end

local function call(run, item, index)
  if not run.on_error then return run.fn(item, index) end   -- its traceback leads to the place in `fn`
  local ok, value = pcall(run.fn, item, index)
  if ok then return value end
  if errors.is(value, "cancelled") or errors.is(value, "interrupted") then error(value, 0) end
  return run.on_error(value, item, index)
end

local function work(run, item, index)
  run.results[index] = call(run, item, index)
  adapt(run)
  run.active = run.active - 1
  run.changed:fire()
end

--- Calls `fn(item, index)` for each item, `parallel` at once and fewer while the service asks to slow down; returns the
--- first results in the items' order (`n` holds their number). The first failure cancels the rest and is raised, unless
--- `on_error(err, item, index)` is given: what it returns takes the result's place.
---@param self modelriver.Client
---@param list table
---@param fn fun(item: any, index: integer): any
---@param options { parallel: integer|nil, on_error: fun(err: any, item: any, index: integer): any }|nil parallel = 8
---@return table results
function map.methods.map(self, list, fn, options)
  options = options == nil and {} or errors.expect("map", "options", options, "table")
  errors.expect("map", "list", list, "table")
  errors.expect("map", "fn", fn, "callable")
  errors.check_options("map", options, OPTIONS)
  errors.expect("map", "on_error", options.on_error, "callable|nil")
  local most = errors.expect("map", "parallel", options.parallel or 8, "integer")
  if most < 1 then errors.raise{kind = "argument", message = "map: 'parallel' must be at least 1"} end
  local gateway = self.gateway
  local run = {gateway = gateway, fn = fn, on_error = options.on_error, results = {n = #list}, active = 0, most = most,
    allowed = most, slowed = gateway.slowed, halved_until = 0, changed = signals.signal()}
  task.scope(function(scope)
    for index = 1, #list do
      while run.active >= math.floor(run.allowed) do run.changed:wait() end
      run.active = run.active + 1
      scope:spawn(work, run, list[index], index)
    end
  end)
  return run.results
end

return map
