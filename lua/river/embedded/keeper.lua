--- Keeps the models of a service in a folder: writes down what happens, and brings it back.

local flavors = require "river.embedded.flavors"
local json = require "riverlua.json"
local learning = require "river.embedded.learning"
local metrics_base = require "river.embedded.metrics_base"
local python = require "river.embedded.python"
local row = require "river.embedded.row"
local store = require "river.embedded.store"

local keeper = {}

---@class river.embedded.Keeper
local Keeper = {}
Keeper.__index = Keeper

-- A prediction as JSON can hold it: probabilities as pairs, for their labels may be of any type.
local function packed(prediction, order)
  if type(prediction) ~= "table" then return prediction end
  local pairs_of = json.array{}
  for i, label in ipairs(order or metrics_base.order_of(prediction)) do
    pairs_of[i] = {label == python.None and json.null or label, prediction[label]}
  end
  return pairs_of
end

local function unpacked(prediction)
  if type(prediction) ~= "table" then return prediction end
  local probabilities, order = {}, {}
  for i, pair in ipairs(prediction) do
    local label = pair[1] == json.null and python.None or pair[1]
    probabilities[label], order[i] = pair[2], label
  end
  return probabilities, order
end

local function restore_models(self, service)
  for _, saved in ipairs(self.store:models()) do
    service.models[saved.name] = {
      name = saved.name, model = saved.model, flavor = flavors.find(saved.flavor), reader = row.reader(),
      metrics = saved.metrics, active = saved.active, number = saved.number,
    }
    service.stats[saved.name] = saved.calls
  end
end

-- The same sample again; what was refused then is refused now.
local function repeat_learn(service, entry, record)
  local prediction, order = unpacked(record.prediction)
  return pcall(function()
    local read = learning.read_features(entry, record.features)
    if prediction == nil then prediction, order = learning.predict_with(entry, read) end
    learning.finish(entry, read, prediction, order, record.ground_truth)
    service.stats[record.model].learn.n = record.calls
  end)
end

local function repeat_record(self, service, record)
  local entry, identifier = service.models[record.model], record.identifier
  if record.kind == "predict" then
    if record.number <= self.identifiers_number then return end
    local prediction, order = unpacked(record.prediction)
    service.memories[identifier] =
      {model = record.model, features = record.features, prediction = prediction, order = order}
    return
  end
  local learned = true
  if entry and record.number > entry.number then learned = repeat_learn(service, entry, record) end
  if identifier and learned and record.number > self.identifiers_number then service.memories[identifier] = nil end
end

--- Opens the folder and puts what is in it into the service.
---@param path string
---@param service river.embedded.Service
---@return river.embedded.Keeper
---Raises kind "storage".
function keeper.open(path, service)
  local self = setmetatable({store = store.open(path), service = service, identifiers_number = 0}, Keeper)
  local ok, problem = pcall(function()
    restore_models(self, service)
    local identifiers = self.store:identifiers()
    if identifiers then
      service.memories, self.identifiers_number = identifiers.memories, identifiers.number
      self.store.number = math.max(self.store.number, identifiers.number)
    end
    for record in self.store:records() do
      repeat_record(self, service, record)
      if record.identifier then self.identifiers_changed = true end
    end
    if self.store:has_journal() then self:save() end
  end)
  if ok then return self end
  self.store:close()
  error(problem, 0)
end

local function save_model(self, name, entry)
  self.store:save{
    name = name, flavor = entry.flavor.name, model = entry.model, metrics = entry.metrics, active = entry.active,
    calls = self.service.stats[name],
  }
  entry.number, entry.dirty = self.store.number, false
end

--- Saves what has changed, and starts a new journal.
function Keeper:save()
  for name, entry in pairs(self.service.models) do
    if entry.dirty then save_model(self, name, entry) end
  end
  if self.identifiers_changed then
    self.store:save_identifiers{memories = self.service.memories, number = self.store.number}
    self.identifiers_changed = false
  end
  self.store:clear_journal()
end

--- A model was uploaded.
---@param name string
function Keeper:uploaded(name)
  -- what the journal says about an earlier model of this name is over
  self.store.number = self.store.number + 1
  save_model(self, name, self.service.models[name])
end

--- A model was deleted.
---@param name string
function Keeper:deleted(name)
  self.store:forget(name)
end

local function append(self, record)
  if self.store:is_full() then self:save() end
  self.store:append(record)
end

--- A model is about to learn a sample.
---@param sample table {kind = "learn" or "label", model=, features=, ground_truth=, identifier=, prediction=, order=,
--- given = whether the prediction is not what the model says now}
function Keeper:learned(sample)
  if sample.identifier then self.identifiers_changed = true end
  append(self, {
    kind = sample.kind, model = sample.model, features = sample.features, ground_truth = sample.ground_truth,
    prediction = sample.given and packed(sample.prediction, sample.order) or nil, identifier = sample.identifier,
    calls = self.service.stats[sample.model].learn.n,
  })
end

--- A prediction waits for its label.
---@param identifier string
---@param memory table {model=, features=, prediction=, order=}
function Keeper:predicted(identifier, memory)
  self.identifiers_changed = true
  append(self, {kind = "predict", model = memory.model, identifier = identifier, features = memory.features,
    prediction = packed(memory.prediction, memory.order)})
end

--- Saves everything and gives the folder back.
function Keeper:close()
  local ok, problem = pcall(self.save, self)
  self.store:close()
  if not ok then error(problem, 0) end
end

return keeper
