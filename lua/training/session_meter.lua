--- Counts what a session uses, over all its models, and keeps it within a budget.

local errors = require "riverlua.errors"
local pricing = require "training.pricing"

local session_meter = {}

---@class training.SessionMeter
---@field budget number|nil dollars
---@field cost number|nil dollars so far; nil: a model without a price was used
---@field tokens {prompt: integer, completion: integer, training: integer, total: integer}
local SessionMeter = {}
SessionMeter.__name = "training.SessionMeter"

local KINDS = {"prompt", "completion", "training", "total"}

-- Prices are looked at before anything is used, not when the first call is counted.
local function check_prices(where, prices)
  if prices == nil then return end
  errors.expect(where, "prices", prices, "table")
  local _, first = next(prices)
  for _, one in pairs(type(first) == "table" and prices or {prices}) do
    local ok, err = pcall(pricing.meter, {prices = one})
    if not ok then
      if errors.is(err) then err.message = err.message:gsub("^pricing%.meter", where) end
      error(err, 0)
    end
  end
end

--- Makes a meter.
---@param where string the call, for errors
---@param options {budget: number|nil, prices: table|nil, context: integer|string|nil} `prices`: {prompt =,
--- completion =, training =} in dollars per million tokens, or such tables by model
---@return training.SessionMeter
function session_meter.new(where, options)
  local budget = errors.expect(where, "budget", options.budget, "number|nil")
  if budget and (budget < 0 or budget ~= budget) then
    errors.raise{kind = "argument", message = where .. ": 'budget' must be an amount of dollars"}
  end
  check_prices(where, options.prices)
  return setmetatable({budget = budget, prices = options.prices or false, context = options.context or false,
    meters = {}, names = {}, reserved = 0}, SessionMeter)
end

-- Prices are one table for all models, or one for each.
local function prices_of(self, model)
  local prices = self.prices
  if not prices or type(prices.prompt) == "number" then return prices or nil end
  return prices[model]
end

local function meter_of(self, model)
  local meter = self.meters[model]
  if not meter then
    meter = pricing.meter{model = model, context = self.context or nil, prices = prices_of(self, model)}
    self.meters[model] = meter
    self.names[#self.names + 1] = model
  end
  return meter
end

local function sum_of_costs(self)
  local sum = 0
  for _, name in ipairs(self.names) do
    local cost = self.meters[name].cost
    if not cost then return nil end
    sum = sum + cost
  end
  return sum
end

function SessionMeter.__index(self, name)
  if name == "cost" then return sum_of_costs(self) end
  if name == "tokens" then
    local all = {prompt = 0, completion = 0, training = 0, total = 0}
    for _, model in ipairs(rawget(self, "names")) do
      local tokens = self.meters[model].tokens
      for _, kind in ipairs(KINDS) do all[kind] = all[kind] + tokens[kind] end
    end
    return all
  end
  return SessionMeter[name]
end

--- For completion at the prompt.
function SessionMeter.__names() return {"add", "budget", "cost", "report", "step", "tokens"} end

--- Counts what a call used.
---@param usage {prompt_tokens: integer|nil, completion_tokens: integer|nil, training_tokens: integer|nil}
---@param model string
function SessionMeter:add(usage, model)
  errors.expect("meter:add", "model", model, "string")
  meter_of(self, model):add(usage)
end

--- Sets aside what a call may cost at most. Raises kind "budget" when that would pass the budget, with what other calls
--- under way may still cost counted in.
---@param planned {prompt_tokens: integer|nil, completion_tokens: integer|nil, training_tokens: integer|nil}
---@param model string
---@return fun(share: number|nil) release gives it back, or that part of it
function SessionMeter:reserve(planned, model)
  if not self.budget then return function() end end
  local cost, spent = meter_of(self, model):estimate(planned), sum_of_costs(self)
  if not cost or not spent then
    local without = model
    for _, name in ipairs(self.names) do
      if not self.meters[name].cost then without = name end
    end
    local _, why = pricing.of(without, self.context or nil)
    errors.raise{kind = "argument", message = ("a budget needs a price, and %s"):format(why or "there is none"),
      hint = "prices = {prompt = …, completion = …, training = …} in dollars per million tokens"}
  end
  pricing.check(self.budget, spent + self.reserved, cost)
  self.reserved = self.reserved + cost
  local left = 1
  return function(share)
    share = math.min(share or left, left)
    left = left - share
    self.reserved = math.max(0, self.reserved - cost * share)
  end
end

--- Ends a step: what was used since the last one, over all models.
---@return {step: integer, prompt: integer, completion: integer, training: integer, cost: number|nil}
function SessionMeter:step()
  self.steps = (rawget(self, "steps") or 0) + 1
  local all = {step = self.steps, prompt = 0, completion = 0, training = 0, cost = 0}
  for _, name in ipairs(self.names) do
    local step = self.meters[name]:step()
    for _, kind in ipairs{"prompt", "completion", "training"} do all[kind] = all[kind] + step[kind] end
    all.cost = all.cost and step.cost and all.cost + step.cost
  end
  return all
end

--- Where things stand, one report per model; see `meter:report` of training.pricing.
---@return training.MeterReport[]
function SessionMeter:report()
  local reports = {}
  for i, name in ipairs(self.names) do reports[i] = self.meters[name]:report() end
  return reports
end

function SessionMeter:__tostring()
  local lines = {}
  for i, report in ipairs(self:report()) do lines[i] = tostring(report) end
  return #lines > 0 and table.concat(lines, "\n") or "no tokens yet"
end

errors.want_colon(SessionMeter, "meter")

return session_meter
