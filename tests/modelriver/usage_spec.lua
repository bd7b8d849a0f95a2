-- Tokens that a client used: sums by workflow and model, and what they may have cost.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local modelriver = require "modelriver"

local refuses, faked = support.refuses, support.faked

local function count(requests, prompt, completion)
  return {requests = requests, prompt_tokens = prompt, completion_tokens = completion,
    total_tokens = prompt + completion}
end

describe("client.usage", function()
  local stub, client
  setup(function() stub = support.start() end)
  teardown(function() stub:close() end)
  before_each(function() client = support.client(stub) end)
  after_each(function() client:close() end)

  it("sums tokens by workflow and by the model that served", function()
    client:ai("echo", "hi")
    client:ai{workflow = "echo", messages = {modelriver.user("hi")}, format = "wrapped"}
    client:ai("anthropic", "hi")
    client:ai("testmode", "hi")
    client.chat.completions:create{model = "structured", messages = {modelriver.user("hi")}}
    local usage = client.usage
    assert.same(count(5, 36, 48), usage.total)
    assert.same({echo = count(2, 18, 24), anthropic = count(1, 9, 12), testmode = count(1, 0, 0),
      structured = count(1, 9, 12)}, usage.by_workflow)
    assert.same({["gpt-4o-mini"] = count(3, 27, 36), ["claude-3-5-sonnet"] = count(1, 9, 12),
      ["test-mode"] = count(1, 0, 0)}, usage.by_model)
    assert.equal(0, usage.uncounted)
    assert.equal("5 requests, 84 tokens (36 prompt, 48 completion)", tostring(usage))
  end)

  it("counts requests without a workflow apart", function()
    client:ai{provider = "openai", model = "gpt-4o", messages = {modelriver.user("hi")}}
    assert.same({["(no workflow)"] = count(1, 9, 12)}, client.usage.by_workflow)
    assert.same({["gpt-4o"] = count(1, 9, 12)}, client.usage.by_model)
  end)

  it("counts a request once however often it was sent, and failed ones not at all", function()
    client:ai("flaky:2", "hi")
    pcall(client.ai, client, "fail500", "hi")
    pcall(client.ai, client, "fail200", "hi")
    pcall(client.ai, client, "badjson", "hi")
    assert.same(count(1, 9, 12), client.usage.total)
  end)

  it("tells how many answers had no counts", function()
    client:ai("image", "a cat")
    client:ai("embedding", "text")
    assert.equal(1, client.usage.uncounted)
    assert.same({requests = 2, prompt_tokens = 3, completion_tokens = 0, total_tokens = 3}, client.usage.total)
  end)

  it("counts what many tasks use", function()
    client:map({1, 2, 3, 4, 5, 6, 7, 8}, function() return client:ai("echo", "hi") end, {parallel = 3})
    assert.same(count(8, 72, 96), client.usage.total)
  end)

  it("starts again", function()
    client:ai("echo", "hi")
    local usage = client.usage
    usage:reset()
    assert.same(count(0, 0, 0), usage.total)
    assert.same({{}, {}, 0}, {usage.by_workflow, usage.by_model, usage.uncounted})
    client:ai("echo", "hi")
    assert.equal(1, client.usage.total.requests)
  end)
end)

describe("odd counts", function()
  it("do no harm", function()
    for _, usage in ipairs{"many", {}, {prompt_tokens = "9", total_tokens = {}}, {1, 2}} do
      local client = faked{body = {model = "m", choices = {{}}, usage = usage}}
      client:ai("w", "hi")
      assert.same({1, 0, 1}, {client.usage.total.requests, client.usage.total.total_tokens, client.usage.uncounted})
    end
    local client = faked{body = {choices = {{}}, usage = {input_tokens = 3, output_tokens = 4}}}
    client:ai("w", "hi")
    assert.same({["(unknown model)"] = count(1, 3, 4)}, client.usage.by_model)
  end)
end)

describe("an estimate", function()
  local function used(model, prompt, completion)
    return {model = model, choices = {{}}, usage = {prompt_tokens = prompt, completion_tokens = completion}}
  end

  local function client_of(bodies, options)
    local client = faked(function(_, number) return {body = bodies[number]} end, options)
    for _ = 1, #bodies do client:ai("w", "hi") end
    return client
  end

  local prices = {cheap = {prompt = 0.15, completion = 0.6}, dear = {prompt = 10, completion = 30}}

  it("is marked as one, and tells which models have no price", function()
    local client = client_of({used("cheap", 1000000, 500000), used("dear", 100, 10), used("other", 5, 5),
      used("another", 1, 0), used("free", 0, 0)}, {prices = prices})
    local estimate = client.usage:estimate()
    assert.is_true(estimate.estimated)
    assert.is_true(math.abs(estimate.cost - (0.45 + 0.0013)) < 1e-9)
    assert.is_true(math.abs(estimate.by_model.cheap - 0.45) < 1e-9)
    assert.same({"another", "other"}, estimate.unpriced)
  end)

  it("takes prices of the call's own", function()
    local client = client_of({used("cheap", 1000000, 0)})
    assert.equal(2, client.usage:estimate{cheap = {prompt = 2, completion = 0}}.cost)
    refuses("there is no price table .hint: ", client.usage.estimate, client.usage)
    refuses("usage:estimate: the price of 'cheap'", client.usage.estimate, client.usage, {cheap = 2})
    refuses("the price of 'cheap'", client.usage.estimate, client.usage, {cheap = {prompt = 2}})
    refuses("'prices' must be a table", client.usage.estimate, client.usage, 5)
  end)
end)
