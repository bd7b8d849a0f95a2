--- What is on a server: its models with their parameters, metrics and stats in one call.
--
--     print(cli:find_models())                                   -- a table of all models
--     for _, found in ipairs(cli:find_models{step = "LinearRegression"}) do
--       print(found.name, found.metrics.MAE, found.stats.learn.n_calls)
--     end

local errors = require "riverlua.errors"
local task = require "riverlua.task"

local find = {}

local PARTS = {"json", "metrics", "stats"}
local ASK = {
  json = function(client, name) return client:get_model_json(name) end,
  metrics = function(client, name) return client:metrics(name) end,
  stats = function(client, name) return client:stats(name) end,
}
local OPTIONS = {name = true, step = true, where = true, with = true, concurrency = true}
local DEFAULT_CONCURRENCY = 4

---@class river.FoundModel
---@field name string
---@field flavor string|nil where this client uploaded it; a server does not tell
---@field json table|nil steps and their parameters
---@field steps string[]|nil names of the steps, sorted, as far as the server tells them (a bare model has none)
---@field metrics table<string, number>|nil
---@field stats table|nil with `learn` and `predict`
---@field problems table<string, riverlua.Error>|nil what could not be had, by part

---@class river.Found: river.FoundModel[]
local Found = {}
Found.__index = Found
Found.__name = "river.Found"

local function read_parts(with)
  local wanted = {}
  if with == nil then
    for _, part in ipairs(PARTS) do wanted[part] = true end
    return wanted
  end
  errors.expect("find_models", "with", with, "table")
  for _, part in ipairs(with) do
    if not ASK[part] then
      errors.raise{kind = "argument", message = ("find_models: there is no part '%s'"):format(tostring(part)),
        hint = "parts: json, metrics, stats"}
    end
    wanted[part] = true
  end
  return wanted
end

-- Steps are named after their classes; the parameters of a bare model are not.
local function steps_of(json)
  local steps = {}
  for name, value in pairs(json) do
    if type(value) == "table" and type(name) == "string" and name:find("^%u") then steps[#steps + 1] = name end
  end
  table.sort(steps)
  return steps
end

-- Also finds classes inside of steps, which the server writes as ["Class", {…}].
local function mentions(value, step, depth)
  if type(value) ~= "table" then return value == step end
  if depth == 0 then return false end
  for name, inner in pairs(value) do
    if name == step or mentions(inner, step, depth - 1) then return true end
  end
  return false
end

local function look(client, name, wanted)
  local found = {name = name, flavor = client._flavors and client._flavors[name]}
  for _, part in ipairs(PARTS) do
    if wanted[part] then
      local ok, value = pcall(ASK[part], client, name)
      if ok then
        found[part] = value
      elseif not errors.is(value) or value.status == nil or value.kind == "auth" then
        error(value, 0)   -- says nothing about this model
      elseif value.kind == "not_found" and part == "json" then
        return false      -- deleted since the list was made
      elseif value.kind ~= "not_found" then
        found.problems = found.problems or {}
        found.problems[part] = value
      end
    end
  end
  if found.json then found.steps = steps_of(found.json) end
  return found
end

--- Looks at the models of a server; for `Client:find_models`. (GET /models/, then for each GET /model/<name>/,
--- /metrics/ and /stats/)
---
--- Options: `name`: a Lua pattern that names must match ("^prices"); `step`: a class that occurs in the model
--- ("LinearRegression"); `where`: a function of a found model that says whether it is wanted; `with`: the parts to ask
--- for (default {"json", "metrics", "stats"}); `concurrency`: requests at once (default 4).
---@param client river.Client
---@param options table|nil
---@return river.Found list in the order of the names
function find.models(client, options)
  options = options or {}
  errors.expect("find_models", "options", options, "table")
  errors.check_options("find_models", options, OPTIONS)
  errors.expect("find_models", "name", options.name, "string|nil")
  errors.expect("find_models", "step", options.step, "string|nil")
  if options.where ~= nil then errors.expect("find_models", "where", options.where, "callable") end
  local wanted = read_parts(options.with)
  if options.step then wanted.json = true end
  if options.name and not pcall(string.find, "", options.name) then
    errors.raise{kind = "argument", message = "find_models: 'name' is not a Lua pattern",
      hint = "such as \"^prices\"; a % before a punctuation character takes it as it is"}
  end
  local names = {}
  for _, name in ipairs(client:models().models or {}) do
    if not options.name or name:find(options.name) then names[#names + 1] = name end
  end
  local looked = task.map(names, function(name) return look(client, name, wanted) end,
    {concurrency = options.concurrency or DEFAULT_CONCURRENCY})
  local found = setmetatable({}, Found)
  for _, one in ipairs(looked) do
    local right = one and (not options.step or one.json and mentions(one.json, options.step, 32))
    if right and (not options.where or options.where(one)) then found[#found + 1] = one end
  end
  return found
end

local function number_text(value)
  return type(value) == "number" and ("%.5g"):format(value) or "?"
end

local function row_of(found)
  local stats, metrics, names = found.stats or {}, {}, {}
  for name in pairs(found.metrics or {}) do names[#names + 1] = name end
  table.sort(names)
  for i, name in ipairs(names) do metrics[i] = name .. " " .. number_text(found.metrics[name]) end
  local problem = next(found.problems or {})
  return {found.name, table.concat(found.steps or {}, " | "), tostring(stats.learn and stats.learn.n_calls or 0),
    tostring(stats.predict and stats.predict.n_calls or 0),
    table.concat(metrics, ", ") .. (problem and (" (no %s)"):format(problem) or "")}
end

local function columns(row, widths)
  local cells = {}
  for i, text in ipairs(row) do
    local pad = (" "):rep(i < #row and widths[i] - (utf8.len(text) or #text) or 0)
    cells[i] = (i == 3 or i == 4) and pad .. text or text .. pad
  end
  return (table.concat(cells, "  "):gsub("%s+$", ""))
end

--- One line for each model: name, steps, learns, predictions, metrics.
function Found:__tostring()
  local rows, widths = {{"model", "steps", "learned", "predicted", "metrics"}}, {}
  for _, found in ipairs(self) do rows[#rows + 1] = row_of(found) end
  for _, row in ipairs(rows) do
    for i, text in ipairs(row) do widths[i] = math.max(widths[i] or 0, utf8.len(text) or #text) end
  end
  local lines = {}
  for i, row in ipairs(rows) do lines[i] = columns(row, widths) end
  return table.concat(lines, "\n")
end

return find
