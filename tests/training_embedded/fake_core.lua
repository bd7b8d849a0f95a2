--- Stands for riverlua.core.trainer where specs look at the service alone: a "model" whose weights are four
-- numbers, and whose operations can be held.

local array = require "riverlua.array"
local core_task = require "riverlua.core.task"
local errors = require "riverlua.errors"
local nest = require "training.nest"
local task = require "riverlua.task"

local fake = {}

local Core = {}
Core.__index = Core

function fake.new()
  return setmetatable({held = false, released = core_task.signal(), waiting = 0, log = {}, opened = 0, closed = 0},
    Core)
end

--- Operations wait from now on.
function Core:hold() self.held = true end

--- All of them go on.
function Core:release()
  self.held = false
  self.released:fire()
end

local function work(core, name)
  core.log[#core.log + 1] = name
  core.waiting = core.waiting + 1
  local _ <close> = setmetatable({}, {__close = function() core.waiting = core.waiting - 1 end})
  while core.held do core.released:wait() end
  task.sleep(0)
  if core.failure then
    local failure = core.failure
    core.failure = nil
    error(failure, 0)
  end
end

local function copy(values) return array.float32(values) end

-- ---- sampling ------------------------------------------------------------------------------------------------

local function letters(seed)
  local state = seed
  return function()
    state = state * 6364136223846793005 + 1442695040888963407
    return 97 + ((state >> 33) % 26)
  end
end

local function block(rows, width, padded)
  local ids, logprobs = {}, {}
  for row = 1, rows do
    for k = 1, width do
      local none = padded and row == 1
      ids[#ids + 1] = ("<i4"):pack(none and -1 or k)
      logprobs[#logprobs + 1] = ("<f"):pack(none and -math.huge or -k)
    end
  end
  return {rows = rows, width = width, ids = table.concat(ids), logprobs = table.concat(logprobs)}
end

local function sample_one(core, request, weight)
  core.requests[#core.requests + 1] = request
  local draw, ids, text, stopped = letters(request.seed), {}, "", false
  while #ids < request.max_tokens and not stopped do
    ids[#ids + 1] = request.temperature == 0 and 97 or draw()
    text = text .. string.char(ids[#ids])
    for _, stop in ipairs(request.stop or {}) do
      if text:sub(-#stop) == stop then
        stopped, text = true, text:sub(1, -#stop - 1)
        break
      end
    end
  end
  local logprobs = {}
  for i = 1, #ids do logprobs[i] = -1.5 + weight end
  local width = request.top_logprobs
  local prompt_logprobs
  if request.prompt_logprobs then prompt_logprobs = array.fill("float64", #request.ids, -2) end
  if prompt_logprobs then prompt_logprobs[1] = 0 end
  return {ids = array.int32(ids), logprobs = array.float64(logprobs), stopped = stopped, text = text,
    prompt_logprobs = prompt_logprobs, top = width and block(#ids, width),
    prompt_top = width and prompt_logprobs and block(#request.ids, width, true)}
end

local function sample(self, requests)
  local core = self.core
  core.requests = {}
  work(core, "sample")
  local results = {}
  for i, request in ipairs(requests) do results[i] = sample_one(core, request, self.weights[1]) end
  return results
end

-- ---- models --------------------------------------------------------------------------------------------------

local Base = {sample = sample}
Base.__index = Base

function Base:config() return self.settings end
function Base:close() self.closed = true end
function Base:tensors() return {{name = "weights", array = copy(self.weights)}} end

local Model = {sample = sample}
Model.__index = Model

local function check(self)
  if self.closed then errors.raise{kind = "closed", message = "this model has been closed"} end
end

function Model:pass(data, options)
  check(self)
  work(self.core, options.gradients and "backward" or "forward")
  check(self)
  local logprobs, tokens, total = {}, 0, 0
  for i, bytes in ipairs(data) do
    local columns = nest.decode(bytes)
    local ids = columns.input_ids
    if ids:max() >= self.settings.vocabulary then
      errors.raise{kind = "refused", message = ("datum %d: input_ids[0] is %d"):format(i - 1, ids:max())}
    end
    logprobs[i] = array.fill("float32", #ids - 1, -0.5)
    tokens, total = tokens + #ids, total + (columns.advantages and columns.advantages:sum() or 1)
  end
  if options.gradients then
    if options.clear then self.gradient = 0 end
    self.gradient = self.gradient + total
  end
  return {metrics = {loss_sum = total, loss = total / #data, num_tokens = tokens}, logprobs = logprobs,
    tokens = tokens, datums = #data}
end

function Model:step(options)
  check(self)
  work(self.core, "step")
  local norm = math.abs(self.gradient) * (options.scale or 1)
  local finite = norm < math.huge
  if finite then
    self.steps = self.steps + 1
    self.weights[1] = self.weights[1] + options.lr * (self.gradient < 0 and -1 or 1)
  end
  self.gradient = 0
  return {grad_norm = norm, finite = finite, step = self.steps}
end

function Model:tensors()
  check(self)
  work(self.core, "tensors")
  return {{name = "weights", array = copy(self.weights)}}
end

function Model:set_tensors(map)
  check(self)
  work(self.core, "set_tensors")
  self.weights, self.gradient = copy(map.weights), 0
end

function Model:optimizer()
  return {step = self.steps, tensors = {{name = "exp_avg.weights", array = copy(self.weights)}}}
end

function Model:set_optimizer(given)
  self.steps = given and given.step or 0
  assert(not given or given.tensors["exp_avg.weights"])
end

function Model:close() self.closed = true end

local Engine = {}
Engine.__index = Engine

function Engine:base(config, tensors, _)
  work(self.core, "base")
  return setmetatable({core = self.core, settings = config,
    weights = copy(tensors and tensors.weights or {0, 0, 0, 0})}, Base)
end

function Engine:model(base, lora)
  work(self.core, "model")
  local model = setmetatable({core = self.core, settings = base.settings, weights = copy(base.weights),
    lora = lora, gradient = 0, steps = 0, closed = false}, Model)
  self.core.made = self.core.made or {}
  table.insert(self.core.made, model)
  return model
end

function Engine:info() return {threads = 1, blas = "none", core = "none"} end   -- luacheck: ignore self
function Engine:close() self.core.closed = self.core.closed + 1 end

--- As riverlua.core.trainer.
function Core:module()
  return {open = function(options)
    self.opened, self.options = self.opened + 1, options
    return setmetatable({core = self}, Engine)
  end}
end

-- ---- what else a service is made of --------------------------------------------------------------------------

local CONFIG = {vocabulary = 256, width = 8, layers = 1, heads = 1, hidden = 8, context = 64,
  positions = "learned", tied = false, rotary_base = 10000, norm_epsilon = 1e-5}

fake.BASE = "embedded/fake"

--- Base models: one.
fake.base_models = {
  list = function() return {fake.BASE} end,
  open = function(name)
    if name ~= fake.BASE then
      errors.raise{kind = "not_found", message = ("there is no base model '%s'"):format(name)}
    end
    return {name = name, config = CONFIG, tensors = {weights = array.float32{0, 0, 0, 0}}}
  end,
}

--- A store in memory.
function fake.store()
  local kept, store = {}, {saved = 0}
  function store:save(path, checkpoint)
    if self.failure then
      local failure = self.failure
      self.failure = nil
      error(failure, 0)
    end
    self.saved = self.saved + 1
    checkpoint.has_optimizer = checkpoint.optimizer ~= nil
    kept[path] = checkpoint
    return 100
  end
  function store:load(path)
    self.loaded = (self.loaded or 0) + 1
    return kept[path]
  end
  function store:about(path)   -- luacheck: ignore self
    local brief = {}
    for name, value in pairs(kept[path] or {}) do brief[name] = value end
    brief.tensors, brief.optimizer = nil, nil
    return kept[path] and brief or nil
  end
  function store:is_taken(path, immutable)   -- luacheck: ignore self
    return kept[path] ~= nil and (immutable or kept[path].immutable) or false
  end
  function store:remove_expired() self.swept = (self.swept or 0) + 1 end
  function store:bytes(run)   -- luacheck: ignore self
    local total = 0
    for path in pairs(kept) do
      if path:find(run, 1, true) then total = total + 100 end
    end
    return total
  end
  function store:close() self.closed = true end
  return store
end

return fake
