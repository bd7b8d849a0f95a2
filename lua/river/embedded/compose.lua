--- Pipelines, and transformers side by side.

local errors = require "riverlua.errors"
local key_sets = require "river.embedded.key_sets"
local model = require "river.model"
local python = require "river.embedded.python"
local registry = require "river.embedded.registry"

local function refuse(text, ...)
  errors.raise{kind = "argument", message = text:format(...)}
end

-- ------------------------------------------------------------------------------------------------- named steps

-- What pipelines and unions share: steps that have names.
local Steps = {}

-- A step is an estimator, a class (which is called without arguments), or a pair of a name and one of these.
local function read_step(where, step)
  local name
  if type(step) == "table" and not registry.is_node(step) and type(step[1]) == "string" then
    name, step = step[1], step[2]
  end
  if registry.is_node(step) or registry.is_instance(step) then return name, step end
  local kind = model.kind(step)
  if kind == "reference" then return name, {class = step.name} end
  if kind == "list" then return name, {class = "river.compose.TransformerUnion", args = step} end
  refuse("%s: a step must be an estimator or a pair of a name and an estimator", where)
end

-- The library numbers steps of one class: StandardScaler, StandardScaler1, …
local function free_name(taken, name)
  if not taken[name] then return name end
  local number = 1
  while taken[name .. number] do number = number + 1 end
  return name .. number
end

local function add_step(self, name, step, taken)
  name = free_name(taken, name or step.name)
  taken[name] = true
  self.steps[#self.steps + 1], self.step_names[#self.step_names + 1] = step, name
end

local function read_steps(self, args, kwargs, built)
  local unknown = next(kwargs)
  if unknown then
    refuse("TypeError: %s.__init__() got an unexpected keyword argument '%s'", self.name, tostring(unknown))
  end
  self.steps, self.step_names = {}, {}
  local taken = {}
  for i = 1, args.n or #args do
    local name, node = read_step(self.name, args[i])
    local step = registry.is_instance(node) and node or registry.build(node, built)
    if self.flattens and getmetatable(step) == getmetatable(self) then
      for _, inner in ipairs(step.steps) do add_step(self, nil, inner, taken) end
    else
      add_step(self, name, step, taken)
    end
  end
end

-- The steps that take a target; whether there is one decides whether the whole does.
local function find_learners(self)
  self.learners = {}
  for _, step in ipairs(self.steps) do
    if step.supervised then self.learners[#self.learners + 1] = step end
  end
  self.supervised = #self.learners > 0
end

function Steps:describe(null)
  local out = {}
  for i, step in ipairs(self.steps) do out[self.step_names[i]] = step:describe(null) end
  return out
end

function Steps:dump()
  local pickle = require "river.embedded.pickle"
  local steps = {}
  for i, step in ipairs(self.steps) do steps[i] = pickle.tuple{self.step_names[i], step:dump()} end
  return pickle.object(self.class, steps)
end

-- All that is learned is in the steps.
Steps.stateless = true

--- A fresh one: the same steps under the same names, nothing learned.
function Steps.clone(self)
  local args = {}
  for i, step in ipairs(self.steps) do args[i] = {self.step_names[i], registry.clone(step)} end
  local copy = setmetatable({aliases = self.aliases}, getmetatable(self))
  copy:construct(args, {}, {})
  return copy
end

--- Takes a target and hands it to those steps that learn from one.
function Steps:check_target(y)
  local learners = self.learners
  for i = 1, #learners do
    local learner = learners[i]
    learner:check_target(y, true)
  end
end

local function define(name, extra)
  local class = registry.class{class = "river.compose." .. name, role = "estimator"}
  for key, value in pairs(Steps) do class[key] = value end
  for key, value in pairs(extra or {}) do class[key] = value end
  return class
end

-- ---------------------------------------------------------------------------------------------------- pipelines

local Pipeline = define("Pipeline")

function Pipeline:construct(args, kwargs, built)
  read_steps(self, args, kwargs, built)
  local last = self.steps[#self.steps]
  if not last then refuse("Pipeline: at least one step is needed") end
  self.last = last
  find_learners(self)
  self.transformer = last.transformer
end

--- Whether a sample may be a text instead of features.
---@return boolean|nil
function Pipeline:takes_text()
  local first = self.steps[1]
  return first.takes_text and first:takes_text()
end

--- A server asks a pipeline for its methods and always finds them, whatever its steps can do.
function Pipeline.has(_, method)
  return method ~= "fit_one"
end

-- A union lets some of its members learn before it transforms, and others after.
local function learn_around(step, row, y)
  local before = row
  if step.learn_plain then step:learn_plain(row) elseif not step.supervised then step:learn_one(row) end
  row = step:transform_one(row)
  if step.learn_supervised then
    step:learn_supervised(before, y)
  elseif step.supervised then
    step:learn_one(before, y)
  end
  return row
end

--- Learns: transformers first, each from what the ones before it make of the sample.
---@param row river.embedded.Row
---@param y any
---@param w number|nil weight of the sample
function Pipeline:learn_one(row, y, w)
  local steps = self.steps
  for i = 1, #steps do
    local step = steps[i]
    if step.anomaly_filter then
      if step.supervised then step:learn_one(row, y) else step:learn_one(row) end
      if step:classify(step:score_one(row, y)) then return end
    elseif step.transformer then
      row = learn_around(step, row, y)
    elseif step.supervised then
      step:learn_one(row, y, w)
    else
      step:learn_one(row)
    end
  end
end

-- What reaches the last step.
local function transformed(self, row)
  local steps = self.steps
  for i = 1, #steps - 1 do
    local step = steps[i]
    if not step.anomaly_filter then
      if not step.transform_one then step:lacks("transform_one") end
      row = step:transform_one(row)
    end
  end
  return row
end

function Pipeline:transform_one(row)
  row = transformed(self, row)
  if self.last.transformer then return self.last:transform_one(row) end
  return row
end

for _, method in ipairs{"predict_one", "predict_proba_one", "score_one"} do
  Pipeline[method] = function(self, row)
    row = transformed(self, row)
    local last = self.last
    if not last[method] then last:lacks(method) end
    return last[method](last, row)
  end
end

--- The kernels of all steps for `riverlua.core.river.pipeline`, added to `list`; nil when a step has none.
---@param flavor string
---@param list userdata[]|nil
---@return userdata[]|nil
function Pipeline:kernels(flavor, list)
  list = list or {}
  for _, step in ipairs(self.steps) do
    if step.kernels then
      if not step:kernels(flavor, list) then return nil end
    else
      local kernel = step.fusible and step:fusible(flavor)
      if not kernel then return nil end
      list[#list + 1] = kernel
    end
  end
  return list
end

-- ------------------------------------------------------------------------------------------------ side by side

local Union = {transformer = true, flattens = true, transient = {"out", "cache", "plan"}}

function Union:construct(args, kwargs, built)
  read_steps(self, args, kwargs, built)
  find_learners(self)
  self:revive()
end

--- Whether a sample may be a text instead of features.
---@return boolean
function Union:takes_text()
  for _, step in ipairs(self.steps) do
    if not step.takes_text or not step:takes_text() then return false end
  end
  return true
end

function Union:revive() self.out, self.cache, self.plan = {}, key_sets.new(), {} end

--- The members that take no target.
function Union:learn_plain(row)
  for _, step in ipairs(self.steps) do
    if not step.supervised then step:learn_one(row) end
  end
end

--- The members that take one.
function Union:learn_supervised(row, y)
  for _, step in ipairs(self.steps) do
    if step.supervised then step:learn_one(row, y) end
  end
end

---@param row river.embedded.Row
---@param y any
function Union:learn_one(row, y)
  for _, step in ipairs(self.steps) do
    if step.supervised then step:learn_one(row, y) else step:learn_one(row) end
  end
end

-- Rows of all members, and whether their names are those of the plan.
local function member_rows(self, row)
  local rows, same = {}, self.plan.keys ~= nil
  for k, step in ipairs(self.steps) do
    if not step.transform_one then step:lacks("transform_one") end
    local out = step:transform_one(row)
    rows[k] = out
    same = same and self.plan[k] == out.keys
  end
  return rows, same
end

-- Names from the last member to the first; the first one that has a name gives the value.
local function union_plan(self, rows)
  local names, from, place_of = {}, {}, {}
  for k = #rows, 1, -1 do
    local keys = rows[k].keys
    for i = 1, keys.n do
      local place = place_of[keys[i]]
      if not place then
        place = #names + 1
        names[place], place_of[keys[i]] = keys[i], place
      end
      from[place] = {k, i}
    end
  end
  local plan = {keys = key_sets.get(self.cache, names), from = from}
  for k, out in ipairs(rows) do plan[k] = out.keys end
  return plan
end

local TransformerUnion = define("TransformerUnion", Union)

---@param row river.embedded.Row
---@return river.embedded.Row valid until the next call
function TransformerUnion:transform_one(row)
  local rows, same = member_rows(self, row)
  if not same then self.plan = union_plan(self, rows) end
  local keys, from, out, all_given, other = self.plan.keys, self.plan.from, self.out, true, false
  for i = 1, keys.n do
    local place = from[i]
    out[i] = rows[place[1]][place[2]]
  end
  for k = 1, #rows do
    all_given, other = all_given and rows[k].source ~= nil, other or rows[k].other
  end
  out.keys, out.source = keys, all_given and row.source or nil
  out.other = other and key_sets.first_other(out, keys.n) or nil
  return out
end

local TransformerProduct = define("TransformerProduct", Union)

-- All combinations of one name of each member, the last member's names changing fastest.
local function product_plan(self, rows)
  local combinations = {{}}
  for k, out in ipairs(rows) do
    local longer = {}
    for _, combination in ipairs(combinations) do
      for i = 1, out.keys.n do
        local next_one = table.move(combination, 1, #combination, 1, {})
        next_one[k] = i
        longer[#longer + 1] = next_one
      end
    end
    combinations = longer
  end
  local names, from, place_of = {}, {}, {}
  for _, combination in ipairs(combinations) do
    local parts = {}
    for k, i in ipairs(combination) do parts[k] = rows[k].keys[i] end
    local name = table.concat(parts, "*")
    local place = place_of[name] or #names + 1
    names[place], place_of[name], from[place] = name, place, combination
  end
  local plan = {keys = key_sets.get(self.cache, names), from = from}
  for k, out in ipairs(rows) do plan[k] = out.keys end
  return plan
end

---@param row river.embedded.Row
---@return river.embedded.Row valid until the next call
function TransformerProduct:transform_one(row)
  local rows, same = member_rows(self, row)
  for _, factor in ipairs(rows) do
    if factor.other then
      python.raise("TypeError", "can't multiply sequence by non-int of type '%s'",
        python.type_name(factor[factor.other]))
    end
  end
  if not same then self.plan = product_plan(self, rows) end
  local keys, from, out = self.plan.keys, self.plan.from, self.out
  for i = 1, keys.n do
    local product, combination = 1, from[i]
    for k = 1, #combination do product = product * rows[k][combination[k]] end
    out[i] = product
  end
  out.keys, out.source, out.other = keys, nil, nil
  return out
end

return {Pipeline = Pipeline, TransformerUnion = TransformerUnion, TransformerProduct = TransformerProduct}
