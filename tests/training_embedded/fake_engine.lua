--- An engine that learns nothing, but notes what it was given: for specs of what is around it.

local array = require "riverlua.array"
local nest = require "training.nest"

local fake = {}

local Base, Model, Engine = {}, {}, {}
Base.__index, Model.__index, Engine.__index = Base, Model, Engine

function Base.parameters() return 3 end
function Base.close() end

function Model:pass(list, options)
  local made, tokens = self.engine, 1
  if not made.notes then return {metrics = {loss_sum = tokens}} end
  made.passes[#made.passes + 1] = {list = list, options = options}
  tokens = 0
  for _, bytes in ipairs(list) do
    local columns = nest.decode(bytes)
    made.examples[#made.examples + 1] = columns
    tokens = tokens + columns.weights:sum()
  end
  return {metrics = {loss_sum = tokens * 2}}
end

function Model:step(options)
  self.engine.steps[#self.engine.steps + 1] = options
  return {finite = self.engine.finite ~= false, grad_norm = 1, step = #self.engine.steps}
end

function Model:tensors()
  return {{name = "head.weight", array = array.float32{self.engine.seed, #self.engine.steps, 0.5}}}
end

function Model.close() end

function Engine:base(config, _, seed)
  self.config, self.seed = config, seed
  return setmetatable({}, Base)
end

function Engine:model() return setmetatable({engine = self}, Model) end

--- A new one. `notes`: it keeps the examples.
function fake.open(notes) return setmetatable({notes = notes, passes = {}, examples = {}, steps = {}}, Engine) end

return fake
