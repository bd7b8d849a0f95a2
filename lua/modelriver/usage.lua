--- Tokens used by a client, by workflow and by model, and what they may have cost.

local errors = require "riverlua.errors"

local usage = {}

---@class modelriver.Count
---@field requests integer
---@field prompt_tokens integer
---@field completion_tokens integer
---@field total_tokens integer

---@class modelriver.Totals
---@field total modelriver.Count
---@field by_workflow table<string, modelriver.Count>
---@field by_model table<string, modelriver.Count>
---@field uncounted integer answers that told no token counts
local Totals = {}
Totals.__index = Totals
Totals.__name = "modelriver.Usage"

local function new_count() return {requests = 0, prompt_tokens = 0, completion_tokens = 0, total_tokens = 0} end

local function is_price(value) return type(value) == "number" and value >= 0 and value < math.huge end

local function check_prices(where, prices)
  errors.expect(where, "prices", prices, "table")
  for model, price in pairs(prices) do
    if type(price) ~= "table" or not is_price(price.prompt) or not is_price(price.completion) then
      errors.raise{kind = "argument", message = ("%s: the price of '%s' must be {prompt =, completion =}"):format(where,
        tostring(model)), hint = "dollars (or whatever you count in) per million tokens"}
    end
  end
  return prices
end

--- Internal: an empty count. `prices`: see `estimate`.
---@param prices table|nil
---@return modelriver.Totals
function usage.new(prices)
  return setmetatable({total = new_count(), by_workflow = {}, by_model = {}, uncounted = 0,
    prices = prices and check_prices("modelriver.Client", prices)}, Totals)
end

local function add_to(count, tokens)
  count.requests = count.requests + 1
  count.prompt_tokens = count.prompt_tokens + (tokens.prompt_tokens or 0)
  count.completion_tokens = count.completion_tokens + (tokens.completion_tokens or 0)
  count.total_tokens = count.total_tokens + (tokens.total_tokens or 0)
end

local function count_of(counts, name)
  local count = counts[name]
  if not count then
    count = new_count()
    counts[name] = count
  end
  return count
end

--- Internal: adds an answer's tokens.
---@param workflow string|nil
---@param model string|nil
---@param tokens modelriver.Usage|nil
function Totals:add(workflow, model, tokens)
  if not tokens then self.uncounted = self.uncounted + 1 end
  tokens = tokens or {}
  add_to(self.total, tokens)
  add_to(count_of(self.by_workflow, workflow or "(no workflow)"), tokens)
  add_to(count_of(self.by_model, model or "(unknown model)"), tokens)
end

--- What the tokens may have cost, by a price table of yours: model → {prompt =, completion =} per million tokens.
---
--- An estimate: ModelRiver tells no prices, and tries of other providers before the answer are not counted.
---@param prices table|nil default: the client's option `prices`
---@return { cost: number, estimated: true, by_model: table<string, number>, unpriced: string[] }
function Totals:estimate(prices)
  prices = prices and check_prices("usage:estimate", prices) or self.prices
  if not prices then
    errors.raise{kind = "argument", message = "usage:estimate: there is no price table",
      hint = "{[\"gpt-4o-mini\"] = {prompt = 0.15, completion = 0.6}}, per million tokens"}
  end
  local result = {cost = 0, estimated = true, by_model = {}, unpriced = {}}
  for model, count in pairs(self.by_model) do
    local price = prices[model]
    if price then
      local cost = (count.prompt_tokens * price.prompt + count.completion_tokens * price.completion) / 1e6
      result.by_model[model] = cost
      result.cost = result.cost + cost
    elseif count.total_tokens > 0 then
      result.unpriced[#result.unpriced + 1] = model
    end
  end
  table.sort(result.unpriced)
  return result
end

--- Starts counting from nothing.
function Totals:reset()
  self.total, self.by_workflow, self.by_model, self.uncounted = new_count(), {}, {}, 0
end

errors.want_colon(Totals, "usage")

function Totals:__tostring()
  local t = self.total
  return ("%d requests, %d tokens (%d prompt, %d completion)"):format(t.requests, t.total_tokens, t.prompt_tokens,
    t.completion_tokens)
end

return usage
