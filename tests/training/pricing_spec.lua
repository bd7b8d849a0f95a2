--- Prices, meters, budgets and estimates.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "rest_support.lua")
local pricing = require "training.pricing"

local check_error, error_of = support.check_error, support.error_of

local function near(wanted, got)
  local close = math.abs(wanted - got) <= 1e-12 * math.max(1, math.abs(wanted))
  assert.is_true(close, ("%.17g, not %.17g"):format(got, wanted))
end

describe("prices", function()
  it("are those published", function()
    local lines = {}
    for _, price in ipairs(pricing.all()) do
      lines[#lines + 1] = ("%s %s $%.2f $%.2f $%g"):format(price.model, price.name, price.prompt, price.completion,
        price.training)
    end
    assert.same({
      "Qwen3.6-35B-A3B-FP8 262k $0.33 $0.82 $1",
      "Qwen3.5-397B-A17B-FP8 65k $1.66 $4.15 $5",
      "Qwen3.5-397B-A17B-FP8 262k $3.32 $8.30 $10",
      "Kimi-K2.6-NVFP4 32k $1.22 $3.06 $3.67",
      "Kimi-K2.6-NVFP4 131k $4.28 $10.70 $12.84",
      "GLM-5.1-NVFP4 32k $2.45 $6.12 $7.34",
      "GLM-5.1-NVFP4 131k $8.56 $21.40 $25.68",
    }, lines)
    near(0.5, pricing.storage_cost(2.5e9, 2))
  end)

  it("are found by model and context", function()
    assert.equal(1.22, pricing.of("nvidia/Kimi-K2.6-NVFP4", "32k").prompt)
    assert.equal("32k", pricing.of("kimi-k2.6-nvfp4", 32768).name)
    assert.equal("131k", pricing.of("Kimi-K2.6-NVFP4", 32769).name)
    assert.equal(262144, pricing.of("Qwen/Qwen3.6-35B-A3B-FP8").context)
    for _, case in ipairs{{"Kimi-K2.6-NVFP4", nil, "say which"}, {"Kimi-K2.6-NVFP4", 131073, "only 32k, 131k"},
      {"Kimi-K2.6-NVFP4", "33k", "only 32k, 131k"}, {"gpt", nil, "no price for the model"}} do
      local price, why = pricing.of(case[1], case[2])
      assert.is_nil(price)
      assert.truthy(why:find(case[3], 1, true), why)
    end
    check_error(error_of(pricing.of, nil), "argument")
    pricing.of("Qwen3.6-35B-A3B-FP8").prompt = 0   -- a copy: the table stays as it is
    assert.equal(0.33, pricing.of("Qwen3.6-35B-A3B-FP8").prompt)
  end)
end)

describe("meters", function()
  local KIMI = {model = "nvidia/Kimi-K2.6-NVFP4", context = "32k"}

  it("count tokens and dollars, also by step", function()
    local meter = pricing.meter(KIMI)
    assert.equal(0, meter.cost)
    near(1.22 + 2 * 3.06, meter:add{prompt_tokens = 1000000, completion_tokens = 2000000, total_tokens = 3000000})
    near(3.67, meter:add{training_tokens = 1e6})
    assert.same({prompt = 1000000, completion = 2000000, training = 1000000, total = 4000000}, meter.tokens)
    near(1.22 + 2 * 3.06 + 3.67, meter.cost)
    local step = meter:step()
    near(meter.cost, step.cost)
    assert.equal(2000000, step.completion)
    meter:add{training_tokens = 500000}
    step = meter:step()
    assert.equal(2, step.step)
    assert.same({0, 0, 500000}, {step.prompt, step.completion, step.training})
    near(3.67 / 2, step.cost)
    local report = meter:report()
    near(meter.cost / 2, report.cost_per_step)
    assert.equal(32768, report.context)
    assert.equal("nvidia/Kimi-K2.6-NVFP4: 4.50M tokens (prompt 1.00M, completion 2.00M, training 1.50M), $12.85, "
      .. "2 steps at $6.42", tostring(report))
    assert.equal(tostring(report), tostring(meter))
  end)

  it("do not drift over many small sums", function()
    local meter = pricing.meter(KIMI)
    for _ = 1, 100000 do meter:add{prompt_tokens = 1, completion_tokens = 1, training_tokens = 2} end
    assert.equal((100000 * 1.22 + 100000 * 3.06 + 200000 * 3.67) / 1000000, meter.cost)
  end)

  it("without a price count tokens", function()
    local meter = pricing.meter{model = "somebody/else"}
    assert.is_nil(meter:add{prompt_tokens = 5})
    assert.is_nil(meter.cost)
    assert.is_nil(meter:step().cost)
    assert.is_nil(meter:check{prompt_tokens = 1e9})
    assert.equal("somebody/else: 5 tokens (prompt 5, completion 0, training 0), 1 step", tostring(meter))
    assert.equal("0 tokens (prompt 0, completion 0, training 0)", tostring(pricing.meter{}))
    check_error(error_of(pricing.meter, {model = "somebody/else", budget = 5}), "argument",
      "a budget needs a price", "no price for the model", "prices = {")
    check_error(error_of(pricing.meter, {model = KIMI.model, budget = 5}), "argument", "32k, 131k")
  end)

  it("take prices of your own", function()
    local meter = pricing.meter{prices = {prompt = 1, completion = 2, training = 3}}
    near(6, meter:add{prompt_tokens = 1e6, completion_tokens = 1e6, training_tokens = 1e6})
    for _, prices in ipairs{{prompt = 1}, {prompt = -1, completion = 1, training = 1},
      {prompt = 0 / 0, completion = 1, training = 1}, {prompt = "1", completion = 1, training = 1}} do
      check_error(error_of(pricing.meter, {prices = prices}), "argument", "dollars per million")
    end
    check_error(error_of(pricing.meter, {prices = {prompt = 1, completion = 1, training = 1, cached = 1}}), "argument",
      "cached")
  end)

  it("refuse what is no usage", function()
    local meter = pricing.meter(KIMI)
    for _, usage in ipairs{{prompt_tokens = -1}, {prompt_tokens = 1.5}, {training_tokens = "1"},
      {completion_tokens = 0 / 0}} do
      check_error(error_of(meter.add, meter, usage), "argument", "number of tokens")
    end
    check_error(error_of(meter.add, meter), "argument", "usage")
    check_error(error_of(meter.add, {prompt_tokens = 1}), "argument", "with a colon")
    check_error(error_of(pricing.meter, {modle = "x"}), "argument", "did you mean 'model'?")
    assert.equal(0, meter.tokens.total)
  end)
end)

describe("budgets", function()
  local meter
  before_each(function()
    meter = pricing.meter{prices = {prompt = 1, completion = 2, training = 3}, budget = 10}
  end)

  it("stop a call before they would be passed", function()
    near(4, meter:check{training_tokens = 2000000})
    near(10, meter:check())
    meter:add{training_tokens = 3000000}
    near(0, meter:check{prompt_tokens = 1000000})
    local err = check_error(error_of(meter.check, meter, {prompt_tokens = 1000001}), "budget",
      "budget of $10.00", "$9.00 spent so far", "may cost $1.00", "fewer samples")
    near(10, err.budget)
    near(9, err.spent)
    near(1.000001, err.planned)
    near(1, err.remaining)
    assert.is_false(err.retryable)
    near(1, meter:report().remaining)
    meter:add{prompt_tokens = 1000000}
    check_error(error_of(meter.check, meter), "budget")
    assert.truthy(tostring(meter):find("$10.00 of $10.00", 1, true))
  end)

  it("of nothing allow nothing", function()
    meter = pricing.meter{prices = {prompt = 1, completion = 2, training = 3}, budget = 0}
    check_error(error_of(meter.check, meter, {prompt_tokens = 1}), "budget", "$0.0000")
    check_error(error_of(pricing.meter, {prices = {prompt = 1, completion = 2, training = 3}, budget = -1}), "argument")
  end)
end)

describe("a plan", function()
  it("is what a run costs at most", function()
    local plan = pricing.plan{model = "nvidia/Kimi-K2.6-NVFP4", context = "32k", steps = 29, batch = 256, group = 4,
      prompt_tokens = 100, max_tokens = 128}
    local samples = 29 * 256 * 4
    assert.equal(samples * 100, plan.prompt_tokens)
    assert.equal(samples * 128, plan.completion_tokens)
    assert.equal(samples * 228, plan.training_tokens)
    near((samples * 100 * 1.22 + samples * 128 * 3.06 + samples * 228 * 3.67) / 1e6, plan.cost)
    near(plan.cost / 29, plan.cost_per_step)
    local meter = pricing.meter{model = "nvidia/Kimi-K2.6-NVFP4", context = "32k", budget = 1}
    check_error(error_of(meter.check, meter, plan), "budget", "$40.10")
    assert.is_nil(pricing.plan{model = "x", batch = 1, prompt_tokens = 1, max_tokens = 1}.cost)
    assert.equal(1, pricing.plan{batch = 1, prompt_tokens = 1, max_tokens = 1, trained = 0.5}.training_tokens)
    check_error(error_of(pricing.plan, {batch = 1, prompt_tokens = 1}), "argument", "'max_tokens'")
    check_error(error_of(pricing.plan, {batch = -1, prompt_tokens = 1, max_tokens = 1}), "argument", "negative")
  end)
end)
