--- Pipelines.

local errors = require "riverlua.errors"
local model = require "river.model"
local registry = require "river.embedded.registry"

local Pipeline = registry.class{class = "river.compose.Pipeline", role = "estimator"}

local function refuse(text, ...)
  errors.raise{kind = "argument", message = text:format(...)}
end

-- A step is an estimator, a class (which is called without arguments), or a pair of a name and one of these.
local function read_step(step)
  local name
  if type(step) == "table" and not registry.is_node(step) and type(step[1]) == "string" then
    name, step = step[1], step[2]
  end
  if registry.is_node(step) then return name, step end
  local kind = model.kind(step)
  if kind == "reference" then return name, {class = step.name} end
  if kind == "list" then return name, {class = "river.compose.TransformerUnion"} end
  refuse("Pipeline: a step must be an estimator or a pair of a name and an estimator")
end

-- The library numbers steps of one class: StandardScaler, StandardScaler1, …
local function free_name(taken, name)
  if not taken[name] then return name end
  local number = 1
  while taken[name .. number] do number = number + 1 end
  return name .. number
end

function Pipeline:construct(args, kwargs, built)
  local unknown = next(kwargs)
  if unknown then
    refuse("TypeError: Pipeline.__init__() got an unexpected keyword argument '%s'", tostring(unknown))
  end
  self.steps, self.step_names = {}, {}
  local taken = {}
  for i = 1, args.n or #args do
    local name, node = read_step(args[i])
    local step = registry.build(node, built)
    name = free_name(taken, name or step.name)
    taken[name] = true
    self.steps[i], self.step_names[i] = step, name
  end
  local last = self.steps[#self.steps]
  if not last then refuse("Pipeline: at least one step is needed") end
  self.last = last
  self.learners = {}
  for _, step in ipairs(self.steps) do
    if step.supervised then self.learners[#self.learners + 1] = step end
  end
  self.supervised, self.transformer = #self.learners > 0, last.transformer
end

--- A server asks a pipeline for its methods and always finds them, whatever its steps can do.
function Pipeline.has(_, method)
  return method ~= "fit_one"
end

function Pipeline:describe(null)
  local out = {}
  for i, step in ipairs(self.steps) do out[self.step_names[i]] = step:describe(null) end
  return out
end

function Pipeline:dump()
  local pickle = require "river.embedded.pickle"
  local steps = {}
  for i, step in ipairs(self.steps) do steps[i] = pickle.tuple{self.step_names[i], step:dump()} end
  return pickle.object(self.class, steps)
end

--- A pipeline takes a target and hands it to those steps that learn from one.
function Pipeline:check_target(y)
  local learners = self.learners
  for i = 1, #learners do
    local learner = learners[i]
    learner:check_target(y, true)
  end
end

--- Learns: transformers first, each from what the ones before it make of the sample.
---@param row river.embedded.Row
---@param y any
function Pipeline:learn_one(row, y)
  local steps = self.steps
  for i = 1, #steps do
    local step = steps[i]
    if step.transformer then
      if step.supervised then
        local before = row
        row = step:transform_one(row)
        step:learn_one(before, y)
      else
        step:learn_one(row)
        row = step:transform_one(row)
      end
    else
      step:learn_one(row, y)
    end
  end
end

-- What reaches the last step.
local function transformed(self, row)
  local steps = self.steps
  for i = 1, #steps - 1 do
    local step = steps[i]
    if not step.transform_one then step:lacks("transform_one") end
    row = step:transform_one(row)
  end
  return row
end

function Pipeline:transform_one(row)
  row = transformed(self, row)
  if self.last.transformer then return self.last:transform_one(row) end
  return row
end

function Pipeline:predict_one(row)
  row = transformed(self, row)
  local last = self.last
  if not last.predict_one then last:lacks("predict_one") end
  return last:predict_one(row)
end

function Pipeline:predict_proba_one(row)
  row = transformed(self, row)
  local last = self.last
  if not last.predict_proba_one then last:lacks("predict_proba_one") end
  return last:predict_proba_one(row)
end

return {Pipeline = Pipeline}
