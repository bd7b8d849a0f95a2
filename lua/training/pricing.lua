--- What training costs: the price table, meters that count tokens, budgets that are not passed, estimates.
--
--     local meter = pricing.meter{model = "nvidia/Kimi-K2.6-NVFP4", context = "32k", budget = 20}
--     meter:check{prompt_tokens = 100000, completion_tokens = 131072}   -- raises kind "budget" before the call
--     meter:add(result.usage)
--     print(meter.cost, meter)
--
-- Prices are those published for the preview, in US dollars; `prices =` gives others. The service's bill is what
-- counts.

local errors = require "riverlua.errors"

local pricing = {}

-- Model, context length in tokens and its usual name; dollars per million tokens of prompts, completions, training.
local TABLE = {
  {"Qwen3.6-35B-A3B-FP8", 262144, "262k", 0.33, 0.82, 1},
  {"Qwen3.5-397B-A17B-FP8", 65536, "65k", 1.66, 4.15, 5},
  {"Qwen3.5-397B-A17B-FP8", 262144, "262k", 3.32, 8.30, 10},
  {"Kimi-K2.6-NVFP4", 32768, "32k", 1.22, 3.06, 3.67},
  {"Kimi-K2.6-NVFP4", 131072, "131k", 4.28, 10.70, 12.84},
  {"GLM-5.1-NVFP4", 32768, "32k", 2.45, 6.12, 7.34},
  {"GLM-5.1-NVFP4", 131072, "131k", 8.56, 21.40, 25.68},
}
local MILLION = 1000000
local KINDS = {"prompt", "completion", "training"}

--- Dollars for a gigabyte (10^9 bytes) of checkpoints, each month.
pricing.storage = 0.10

---@class training.Price
---@field model string|nil
---@field context integer|nil tokens
---@field name string|nil of the context length: "32k"
---@field prompt number dollars per million tokens
---@field completion number
---@field training number

local function fail(where, message, hint)
  errors.raise{kind = "argument", message = where .. ": " .. message, hint = hint}
end

local by_model = {}
for _, line in ipairs(TABLE) do
  local key = line[1]:lower()
  by_model[key] = by_model[key] or {}
  table.insert(by_model[key], {model = line[1], context = line[2], name = line[3], prompt = line[4],
    completion = line[5], training = line[6]})
end

local function copy(price)
  local all = {}
  for name, value in pairs(price) do all[name] = value end
  return all
end

--- All prices, sorted by model and context.
---@return training.Price[]
function pricing.all()
  local all = {}
  for i, line in ipairs(TABLE) do
    for _, price in ipairs(by_model[line[1]:lower()]) do
      if price.context == line[2] then all[i] = copy(price) end
    end
  end
  return all
end

local function names_of(prices)
  local names = {}
  for i, price in ipairs(prices) do names[i] = price.name end
  return table.concat(names, ", ")
end

--- The price of a model, its name with or without the vendor ("nvidia/Kimi-K2.6-NVFP4").
---@param model string
---@param context integer|string|nil tokens that have to fit, or the name of a context length ("32k"); it may be left
--- out where there is only one price
---@return training.Price|nil
---@return string|nil why there is none
function pricing.of(model, context)
  errors.expect("pricing.of", "model", model, "string")
  local prices = by_model[model:match("[^/]*$"):lower()]
  if not prices then return nil, ("there is no price for the model '%s'"):format(model) end
  if context == nil then
    if #prices == 1 then return copy(prices[1]) end
    return nil, ("'%s' has prices by context length (%s): say which with context ="):format(model, names_of(prices))
  end
  errors.expect("pricing.of", "context", context, "string|number")
  for _, price in ipairs(prices) do
    if type(context) == "number" and context <= price.context or context == price.name then return copy(price) end
  end
  return nil, ("there is no price for '%s' with a context of %s (only %s)"):format(model, tostring(context),
    names_of(prices))
end

--- What keeping checkpoints costs.
---@param bytes number
---@param months number|nil 1
---@return number dollars
function pricing.storage_cost(bytes, months)
  errors.expect("pricing.storage_cost", "bytes", bytes, "number")
  return bytes / 1e9 * pricing.storage * (errors.expect("pricing.storage_cost", "months", months, "number|nil") or 1)
end

-- --------------------------------------------------------------------------------------------------------- meters

---@class training.Meter
---@field cost number|nil dollars so far; nil: there is no price
---@field tokens {prompt: integer, completion: integer, training: integer, total: integer} so far
---@field budget number|nil dollars
---@field steps integer
local Meter = {}
Meter.__name = "training.Meter"

-- The usage of a call: what the service counts, by its names. Others of the service's names are left alone.
local USAGE = {prompt_tokens = "prompt", completion_tokens = "completion", training_tokens = "training"}

local function read_usage(where, given)
  errors.expect(where, "usage", given, "table")
  local read = {}
  for name, kind in pairs(USAGE) do
    local value = given[name]
    if value == nil then value = 0 end
    local count = type(value) == "number" and math.tointeger(value)
    if not count or count < 0 then
      fail(where, ("'%s' must be a number of tokens, got %s"):format(name, tostring(value)))
    end
    read[kind] = count
  end
  return read
end

local function price_of(self, counts)
  if not self.price then return nil end
  local sum = 0
  for _, kind in ipairs(KINDS) do sum = sum + counts[kind] * self.price[kind] end
  return sum / MILLION
end

function Meter.__index(self, name)
  if name == "cost" then return price_of(self, rawget(self, "counted")) end
  if name == "tokens" then
    local counted = rawget(self, "counted")
    return {prompt = counted.prompt, completion = counted.completion, training = counted.training,
      total = counted.prompt + counted.completion + counted.training}
  end
  return Meter[name]
end

--- Counts what a call used: a `usage` of the service, or a table of your own.
---@param usage {prompt_tokens: integer|nil, completion_tokens: integer|nil, training_tokens: integer|nil}
---@return number|nil dollars for it; nil: there is no price
function Meter:add(usage)
  local counts = read_usage("meter:add", usage)
  for kind, count in pairs(counts) do self.counted[kind] = self.counted[kind] + count end
  return price_of(self, counts)
end

--- Ends a step: what was used since the last one.
---@return {step: integer, prompt: integer, completion: integer, training: integer, cost: number|nil}
function Meter:step()
  self.steps = self.steps + 1
  local step = {step = self.steps}
  for _, kind in ipairs(KINDS) do
    step[kind] = self.counted[kind] - self.before[kind]
    self.before[kind] = self.counted[kind]
  end
  step.cost = price_of(self, step)
  return step
end

--- What so many tokens cost, in dollars; nil when there is no price.
---@param planned {prompt_tokens: integer|nil, completion_tokens: integer|nil, training_tokens: integer|nil}
---@return number|nil
function Meter:estimate(planned) return price_of(self, read_usage("meter:estimate", planned)) end

local function money(value)
  return value >= 0.995 and ("$%.2f"):format(value) or ("$%.4f"):format(value)
end

--- Raises kind "budget" when a call would pass a budget. The error has `budget`, `spent`, `planned` and `remaining`, in
--- dollars.
---@param budget number
---@param spent number
---@param cost number the most that the call may cost
---@return number remaining dollars after the call
function pricing.check(budget, spent, cost)
  local remaining = budget - spent
  if cost > remaining or remaining <= 0 then
    errors.raise{kind = "budget", budget = budget, spent = spent, planned = cost, remaining = remaining,
      retryable = false,
      message = ("the budget of %s would be passed: %s spent so far, and the next call may cost %s"):format(
        money(budget), money(spent), money(cost)),
      hint = "raise budget, or ask for less: fewer samples, a smaller max_tokens"}
  end
  return remaining - cost
end

--- Raises kind "budget" when a call would pass the budget, see `pricing.check`; without a budget it never does. Without
--- an argument: when the budget is used up.
---@param planned table|nil as for `estimate`: the most that the call may use
---@return number|nil remaining dollars after the call; nil: there is no budget
function Meter:check(planned)
  local counts = read_usage("meter:check", planned or {})
  if not self.budget then return nil end
  return pricing.check(self.budget, self.cost, price_of(self, counts))
end

---@class training.MeterReport
---@field model string|nil
---@field context integer|nil
---@field steps integer
---@field tokens table
---@field cost number|nil dollars
---@field cost_per_step number|nil
---@field budget number|nil
---@field remaining number|nil
local Report = {}
Report.__index = Report
Report.__name = "training.MeterReport"

local function count_text(count)
  if count >= 1e9 then return ("%.2fG"):format(count / 1e9) end
  if count >= 1e6 then return ("%.2fM"):format(count / 1e6) end
  return count >= 10000 and ("%.1fk"):format(count / 1e3) or tostring(count)
end

function Report:__tostring()
  local tokens = self.tokens
  local text = ("%s tokens (prompt %s, completion %s, training %s)"):format(count_text(tokens.total),
    count_text(tokens.prompt), count_text(tokens.completion), count_text(tokens.training))
  if self.cost then text = ("%s, %s"):format(text, money(self.cost)) end
  if self.budget then text = ("%s of %s"):format(text, money(self.budget)) end
  if self.steps > 0 then text = ("%s, %d step%s"):format(text, self.steps, self.steps == 1 and "" or "s") end
  if self.cost_per_step then text = ("%s at %s"):format(text, money(self.cost_per_step)) end
  return self.model and self.model .. ": " .. text or text
end

--- Where things stand; `tostring` of it is a line to print.
---@return training.MeterReport
function Meter:report()
  local cost = self.cost
  return setmetatable({model = self.model, context = self.price and self.price.context, steps = self.steps,
    tokens = self.tokens, cost = cost, budget = self.budget,
    cost_per_step = cost and self.steps > 0 and price_of(self, self.before) / self.steps or nil,
    remaining = self.budget and self.budget - cost or nil}, Report)
end

function Meter:__tostring() return tostring(self:report()) end

errors.want_colon(Meter, "meter")

local METER_OPTIONS = {model = true, context = true, prices = true, budget = true}

local function own_prices(where, given)
  errors.expect(where, "prices", given, "table")
  local price = {}
  for _, kind in ipairs(KINDS) do
    local value = given[kind]
    if type(value) ~= "number" or value < 0 or value - value ~= 0 then
      fail(where, ("prices.%s must be dollars per million tokens"):format(kind))
    end
    price[kind] = value
  end
  for name in pairs(given) do
    if price[name] == nil then errors.check_options(where .. ": prices", {[name] = true}, price) end
  end
  return price
end

--- Makes a meter.
---
--- Options: `model`; `context`: tokens, or the name of a context length ("32k"); `prices` = {prompt =, completion =,
--- training =} in dollars per million tokens, in place of the table; `budget` in dollars.
---
--- A model without a price is counted in tokens, and its cost is nil. Raises kind "argument" for a budget without a
--- price.
---@param options {model: string|nil, context: integer|string|nil, prices: table|nil, budget: number|nil}
---@return training.Meter
function pricing.meter(options)
  local where = "pricing.meter"
  errors.expect(where, "options", options, "table")
  errors.check_options(where, options, METER_OPTIONS)
  errors.expect(where, "model", options.model, "string|nil")
  local price, why
  if options.prices ~= nil then
    price = own_prices(where, options.prices)
  elseif options.model then
    price, why = pricing.of(options.model, options.context)
  else
    why = "there is no price without a model"
  end
  local budget = errors.expect(where, "budget", options.budget, "number|nil")
  if budget and (budget < 0 or budget ~= budget) then fail(where, "'budget' must be an amount of dollars") end
  if budget and not price then
    fail(where, "a budget needs a price, and " .. why,
      "prices = {prompt = …, completion = …, training = …} in dollars per million tokens")
  end
  return setmetatable({model = options.model, price = price or false, budget = budget, steps = 0,
    counted = {prompt = 0, completion = 0, training = 0}, before = {prompt = 0, completion = 0, training = 0}}, Meter)
end

-- ------------------------------------------------------------------------------------------------------- planning

local PLAN_OPTIONS = {model = true, context = true, prices = true, steps = true, batch = true, group = true,
  prompt_tokens = true, max_tokens = true, trained = true}

--- What a run of the usual loop costs at most: every step samples `group` completions for each of `batch` prompts and
--- trains on all of them.
---
--- Options: `model`, `context`, `prices` as for a meter; `steps` = 1, `batch`, `group` = 1, `prompt_tokens` (a
--- prompt's, on average), `max_tokens` (a completion's, at most), `trained` = 1: the part of the samples that is
--- trained on. → {prompt_tokens, completion_tokens, training_tokens, cost, cost_per_step}, ready for `meter:check`.
---@param options table
---@return table
function pricing.plan(options)
  local where = "pricing.plan"
  errors.expect(where, "options", options, "table")
  errors.check_options(where, options, PLAN_OPTIONS)
  local function number_of(name, default)
    local value = errors.expect(where, name, options[name] == nil and default or options[name], "number")
    if value < 0 or value - value ~= 0 then fail(where, ("'%s' must not be negative"):format(name)) end
    return value
  end
  local steps, group = number_of("steps", 1), number_of("group", 1)
  local samples = steps * number_of("batch") * group
  local prompt, completion = number_of("prompt_tokens"), number_of("max_tokens")
  local function whole(value) return math.ceil(value) end
  local planned = {prompt_tokens = whole(samples * prompt), completion_tokens = whole(samples * completion),
    training_tokens = whole(samples * number_of("trained", 1) * (prompt + completion))}
  local meter = pricing.meter{model = options.model, context = options.context, prices = options.prices}
  planned.cost = meter:estimate(planned)
  planned.cost_per_step = planned.cost and steps > 0 and planned.cost / steps or nil
  return planned
end

return pricing
