--- What is sampled from: base models, models in training as they are, and checkpoints, which are kept ready for a
-- while.

local once = require "training.embedded.once"
local policies = require "training.embedded.policies"

local sources = {}

local MOST_READY = 8        -- checkpoints
local MOST_COUNTS = 4096    -- of which it is known how often they were sampled

---@class training.embedded.Source Something to sample from, when its turn has come.
---@field core table with `sample`, of the engine
---@field policy table|nil
---@field seed fun(): integer for a sample without a seed of its own
---@field done fun() it is not needed any more

---@class training.embedded.Sources
local Sources = {}
Sources.__index = Sources

---@return training.embedded.Sources
function sources.new(service)
  return setmetatable({service = service, bases = once.new(), ready = {}, order = {}, counts = {}, counted = {}},
    Sources)
end

--- The engine's base model of this name.
function Sources:base(name)
  return self.bases:get(name, function()
    local model = self.service:base_model(name)
    local made = self.service:open_engine():base(model.config, model.tensors)
    model.tensors = nil   -- they are in the engine now
    return made
  end)
end

-- Seeds of samples of something that does not change, in the order in which they are asked for.
local function counted(self, ...)
  local key = table.concat({...}, "\0")
  local seed = self.service.seed_of
  if not self.counts[key] then
    self.counts[key] = 0
    self.counted[#self.counted + 1] = key
    if #self.counted > MOST_COUNTS then self.counts[table.remove(self.counted, 1)] = nil end
  end
  return function()
    local count = self.counts[key] or 0
    self.counts[key] = count + 1
    return seed("sample", key, count)
  end
end

--- A base model.
---@return training.embedded.Source
function Sources:of_base(name)
  return {core = self:base(name), seed = counted(self, "base", name), done = function() end}
end

--- A model in training as it is when its turn has come.
---@param model training.embedded.Model
---@param core table
---@return training.embedded.Source
function Sources:of_model(model, core)
  local seed = self.service.seed_of
  return {core = core, policy = policies.copy(model.policy), done = function() end, seed = function()
    local count = model.sampled
    model.sampled = count + 1
    return seed("sample", model.number, model.policy.step, count)
  end}
end

--- Tensors by their names, as the engine takes them.
---@param list {name: string, array: riverlua.Array}[]
---@return table<string, riverlua.Array>
function sources.by_name(list)
  local map = {}
  for _, entry in ipairs(list) do map[entry.name] = entry.array end
  return map
end

-- Lets go of those that have not been used for longest.
local function make_room(self)
  for i, key in ipairs(self.order) do
    if #self.order < MOST_READY then return end
    local entry = self.ready[key]
    if entry.users == 0 then
      table.remove(self.order, i)
      self.ready[key] = nil
      entry.core:close()
      return make_room(self)
    end
  end
end

local function open(self, checkpoint)
  local tensors = sources.by_name(checkpoint.tensors)
  local engine = self.service:open_engine()
  if not checkpoint.lora then
    local core = engine:base(checkpoint.config, tensors)
    return {core = core}
  end
  local core = engine:model(self:base(checkpoint.base), checkpoint.lora)
  local ok, problem = pcall(core.set_tensors, core, tensors)
  if ok then return {core = core} end
  core:close()   -- the garbage collector knows nothing of its size
  error(problem, 0)
end

local function touch(self, key)
  for i, known in ipairs(self.order) do
    if known == key then table.remove(self.order, i) break end
  end
  self.order[#self.order + 1] = key
end

--- A checkpoint.
---@param key string tells it from others, also from one that had its path before
---@param read fun(): table gives what the store has, when it is not ready yet
---@param number integer|nil of the model that it is a snapshot of
---@return training.embedded.Source
function Sources:of_checkpoint(key, read, number)
  local entry = self.ready[key]
  if not entry then
    make_room(self)
    local checkpoint = read()
    entry = open(self, checkpoint)
    entry.users, entry.policy = 0, checkpoint.policy
    self.ready[key] = entry
  end
  touch(self, key)
  entry.users = entry.users + 1
  local policy = entry.policy
  return {core = entry.core, policy = policies.copy(policy),
    seed = counted(self, "checkpoint", number or 0, policy.step),
    done = function() entry.users = entry.users - 1 end}
end

--- Lets go of everything, when the engine is about to be closed.
---@param reason string
---@return riverlua.Task[] # that may be waited for
function Sources:stop(reason)
  self.ready, self.order = {}, {}
  return self.bases:stop(reason)
end

return sources
