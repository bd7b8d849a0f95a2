-- Passes that do not fit into one request: how they are split, and that their results are those of one.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(folder .. "support.lua")
local upload = require "training.upload"
local training = require "training"

local failure = support.failure

describe("a pass that is too large for one request", function()
  local server, data
  local largest = upload.LARGEST

  setup(function()
    server = support.standin.start{seed = 1}
    local client <close> = support.client(server)
    local prompts = support.sums(12, 10)
    data = {}
    for i, sample in ipairs(client:sample{prompts = prompts, base_model = support.MODEL, seed = 3,
      return_prompt_token_ids = true}) do
      -- of different lengths and signs
      data[i] = training.grpo_data(sample.prompt_token_ids, sample, (i % 3 - 0.7) * i)
    end
  end)
  teardown(function() server:close() end)
  before_each(function() server:reset() end)
  after_each(function()
    upload.LARGEST = largest
    assert.same({}, server:violations())
  end)

  -- The most bytes of one request, for about so many of the datums; what requests need beside them is counted.
  local function allow(datums)
    local nest = require "training.datum"
    local most = 0
    for i, one in ipairs(data) do most = math.max(most, #nest.encode(one, i) + 16) end
    upload.LARGEST = 64 * 1024 + most * datums
  end

  local function pass(model, options)
    local all = {data = data, loss_fn = "importance_sampling"}
    for name, value in pairs(options or {}) do all[name] = value end
    return model:forward_backward(all)
  end

  local function assert_near(wanted, value, name)
    assert.is_true(math.abs(wanted - value) <= 1e-6 * math.max(1, math.abs(wanted)),
      ("%s: %s, not %s"):format(name, value, wanted))
  end

  -- What one request gives, and the gradient.
  local function whole(kind)
    local model, _, client <close> = support.start(server)
    local result = kind == "forward" and model:forward(data, "importance_sampling") or pass(model)
    local gradient, logprobs = server:model().gradient, result.logprobs
    client:close()
    server:reset()
    return result, gradient, logprobs
  end

  it("goes in parts, one after the other; the first clears the gradients and the others add", function()
    local one, gradient = whole()
    local model, _, client <close> = support.start(server)
    pass(model)                                  -- what is cleared
    server:forget()
    allow(3)
    pass(model)
    local requests = server:requests("ForwardBackward")
    assert.is_true(#requests >= 4)
    local datums = 0
    for i, request in ipairs(requests) do
      assert.equal(i + 1, request.seq_id)
      local input = request.forward_backward_input
      assert.is_true(input.gradient_accumulation)
      assert.equal(i == 1 and true or nil, input.init_gradients)
      assert.equal("importance_sampling", input.loss_fn)
      datums = datums + #input.data
    end
    assert.equal(#data, datums)
    assert_near(gradient, server:model().gradient, "gradient")
    -- each was awaited before the next was sent
    local before
    for _, call in ipairs(server:log(nil, {full = "0"})) do
      if call.method == "ForwardBackward" or call.method == "RetrieveFuture" then
        assert.not_equal(before == "ForwardBackward", call.method == "ForwardBackward")
        before = call.method
      end
    end
    assert.is_number(one.metrics.loss)
    client:close()
  end)

  it("gives the metrics, log-probabilities and usage of one", function()
    local one, _, logprobs = whole()
    local model, _, client <close> = support.start(server)
    allow(2)
    local result = pass(model)
    assert.is_true(server:count("ForwardBackward") >= 6)
    for name, value in pairs(result.metrics) do
      assert.is_number(one.metrics[name], name)
      if name ~= "micro_batches" then assert_near(one.metrics[name], value, name) end
    end
    assert.equal(server:count("ForwardBackward"), result.metrics.micro_batches)
    for _, name in ipairs{"loss", "loss_sum", "num_tokens", "mean_ratio", "kl"} do
      assert.equal(one.metrics[name] ~= nil, result.metrics[name] ~= nil, name)
    end
    assert.equal(#logprobs, #result.logprobs)
    for i, vector in ipairs(logprobs) do
      assert.equal(#vector, #result.logprobs[i])
      for k = 1, #vector do assert_near(vector[k], result.logprobs[i][k], "log-probability") end
    end
    assert.equal(one.usage.training_tokens, result.usage.training_tokens)
    client:close()
  end)

  it("adds to the gradients that are there with zero_out = false", function()
    local _, gradient = whole()
    local model, _, client <close> = support.start(server)
    pass(model)
    allow(5)
    pass(model, {zero_out = false})
    assert_near(2 * gradient, server:model().gradient, "gradient")
    for i, request in ipairs(server:requests("ForwardBackward")) do
      assert.equal(i == 1 and true or nil, request.forward_backward_input.init_gradients)
    end
    client:close()
  end)

  it("is guarded in all of its parts", function()
    local model, _, client <close> = support.start(server)
    allow(4)
    local policy = model:get_policy_version().id
    pass(model, {expected_policy_id = policy})
    for _, request in ipairs(server:requests("ForwardBackward")) do
      assert.equal(policy, request.expected_policy_id)
    end
    client:close()
  end)

  it("is counted once by the meter", function()
    local one = whole()
    local client <close> = support.client(server, {budget = 100, prices = {prompt = 1, completion = 1, training = 1}})
    local model, session = support.model(client, support.SILENT)
    allow(3)
    pass(model)
    assert.equal(one.usage.training_tokens, session.meter.tokens.training)
    assert.is_true(session.meter.reserved < 1e-12)
  end)

  it("is split the same without gradients", function()
    local one, _, logprobs = whole("forward")
    local model, _, client <close> = support.start(server)
    allow(3)
    local result = model:forward(data, "importance_sampling")
    assert.is_true(server:count("Forward") >= 4)
    assert.equal(0, server:model().backwards)
    assert_near(one.metrics.loss, result.metrics.loss, "loss")
    assert.equal(#logprobs, #result.logprobs)
    client:close()
  end)

  it("cannot be submitted without waiting", function()
    local model, _, client <close> = support.start(server)
    allow(3)
    for _, name in ipairs{"submit_forward_backward", "submit_train_step"} do
      local err = failure(model[name], model, {data = data, loss_fn = "importance_sampling",
        lr = name == "submit_train_step" and 1e-3 or nil})
      assert.equal("argument", err.kind)
      assert.equal(name .. ": the datums do not fit into one request (1 GiB)", err.message)
      assert.equal("forward_backward splits them", err.hint)
    end
    assert.equal(0, server:count("ForwardBackward"))
    assert.equal(0, model.seq_id)
    client:close()
  end)

  it("is followed by the step of train_step", function()
    local function theta_of(split)
      local model, _, client <close> = support.start(server)
      if split then allow(3) end
      local result, step = model:train_step(data, 0.05, {loss_fn = "importance_sampling"})
      upload.LARGEST = largest
      assert.is_number(result.metrics.loss)
      assert.equal(1, step.policy_version.step)
      local theta = server:model().theta
      client:close()
      server:reset()
      return theta
    end
    assert_near(theta_of(false), theta_of(true), "theta")
  end)

  it("has no datum that is too large by itself: nothing is sent then", function()
    local model, _, client <close> = support.start(server)
    upload.LARGEST = 64 * 1024 + 100
    local err = failure(pass, model)
    assert.equal("argument", err.kind)
    assert.equal("forward_backward: datum 1 is larger than a request may be (1 GiB)", err.message)
    assert.equal(0, server:count("ForwardBackward"))
    assert.equal(0, model.seq_id)
    client:close()
  end)

  it("ends with the part that fails, and can be made again", function()
    local _, gradient = whole()
    local model, _, client <close> = support.start(server)
    allow(3)
    server:fault{method = "ForwardBackward", failed = {category = "internal", message = "out of memory"}, after = 1}
    assert.equal("failed", failure(pass, model).kind)
    assert.equal(2, server:count("ForwardBackward"))
    server:fault{method = "ForwardBackward", cut = "after", after = 1}    -- of a part that adds: not sent again
    local err = failure(pass, model)
    assert.equal("unavailable", err.kind)
    assert.equal("whether its gradients were added is not known: begin anew, with zero_out = true", err.hint)
    assert.equal(4, server:count("ForwardBackward"))
    pass(model)
    assert_near(gradient, server:model().gradient, "gradient")
    client:close()
  end)

  it("has log-probabilities that fail to be read when those of one part are corrupt", function()
    local model, _, client <close> = support.start(server)
    allow(3)
    server:fault{method = "ForwardBackward", corrupt = "checksum", after = 1}
    local result = pass(model)
    assert.is_number(result.metrics.loss)
    assert.equal("protocol", failure(function() return result.logprobs end).kind)
    client:close()
  end)

  it("goes in uploads, each of its parts", function()
    local _, gradient = whole()
    local model, _, client <close> = support.start(server, {upload = {threshold = 500, chunk = 700}})
    allow(3)
    pass(model)
    local requests = server:requests("ForwardBackward")
    assert.is_true(#requests >= 4)
    assert.equal(#requests, server:count("CreateUpload"))
    for i, request in ipairs(requests) do
      assert.truthy(request.upload_id)
      assert.equal(i, request.seq_id)
    end
    assert_near(gradient, server:model().gradient, "gradient")
    client:close()
  end)
end)
