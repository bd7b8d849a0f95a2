-- What nobody should ask of the embedded trainer: each is refused at once and in clear words, by the client or by
-- the service, and the model goes on as if it had not been asked.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local faults = dofile(folder .. "faults.lua")
local array = require "riverlua.array"
local clock = require "riverlua.clock"
local task = require "riverlua.task"
local training = require "training"

local NAN, INF = 0 / 0, math.huge
local datum = faults.datum

-- Text that says what is wrong → what is asked for. An error of the client's own is of kind "argument" and counts
-- from 1; what the service refuses is "invalid_request" and counts from 0.

local PASSES = {
  ["datum 2: advantages has 1 values for 3 tokens"] = datum{advantages = {0.5}},
  ["datum 2: advantages is a list of lists"] = datum{advantages = {{0.5}, {0.5}, {0.0}}},
  ["datum 2: weights has 4 values for 3 tokens"] = datum{weights = array.fill("float32", 4, 1)},
  ["datum 2: input_ids is empty"] = datum{input_ids = {}, weights = {}, old_logprobs = {}, advantages = {}},
  ["datum 2: input_ids[2] is -1, below zero"] = datum{input_ids = {1, -1, 3}},
  ["datum 2: input_ids[2] is 1.5, which is not an integer"] = datum{input_ids = {1, 1.5, 3}},
  ["datum 2: advantages[2] is nan"] = datum{advantages = {0.5, NAN, 0.0}},
  ["datum 2: advantages[1] is inf"] = datum{advantages = {INF, 0.5, 0.0}},
  ["datum 2: old_logprobs[1] is -inf"] = datum{old_logprobs = array.float32{-INF, 0.5, 0.0}},
  ["datum 1: input_ids[1] is 200, the vocabulary has 200"] = datum{input_ids = {1, 200, 3}},
  ["datum 1: input_ids[2] is 1099511627776, the vocabulary has 200"] = datum{input_ids = {1, 2, 1 << 40}},
  ["datum 1: importance_sampling needs advantages"] = datum{advantages = false},
  ["datum 1: importance_sampling needs old_logprobs"] = datum{old_logprobs = false},
  ["datum 1: input_ids has 33 tokens, the model's context is 32"] = {input_ids = array.fill("int64", 33, 1),
    old_logprobs = array.fill("float32", 33, -1), advantages = array.fill("float32", 33, 1)},
}

local STEPS = {
  ["'lr' must be a finite number of at least 0, got -1"] = {lr = -1},
  ["'lr' must be a finite number of at least 0, got inf"] = {lr = INF},
  ["'lr' must be a finite number of at least 0"] = {lr = NAN},
  ["there is no learning rate"] = {},
  ["'beta1' must be below 1, got 1"] = {lr = 1, beta1 = 1},
  ["'beta2' must be below 1, got 1.5"] = {lr = 1, beta2 = 1.5},
  ["'beta1' must be a finite number of at least 0, got -0.5"] = {lr = 1, beta1 = -0.5},
  ["'eps' must be a finite number of at least 0"] = {lr = 1, eps = NAN},
  ["'weight_decay' must be a finite number of at least 0, got -1"] = {lr = 1, weight_decay = -1},
  ["'grad_clip_norm' must be a finite number above 0, got 0"] = {lr = 1, grad_clip_norm = 0},
  ["lr is not between 0.0 and 1e+30"] = {lr = 1e31},
  ["beta1 is not between 0.0 and"] = {lr = 1, beta1 = 1 - 1e-14},
}

local SAMPLES = {
  ["'max_tokens' must be an integer of at least 1, got 0"] = {max_tokens = 0},
  ["'max_tokens' must be an integer of at least 1, got -5"] = {max_tokens = -5},
  ["'max_tokens' must be an integer of at least 1, got 0.5"] = {max_tokens = 0.5},
  ["'num_samples' must be an integer of at least 1, got 0"] = {num_samples = 0},
  ["1000000 samples of 1 prompts are more than the 65536"] = {num_samples = 1000000},
  ["9223372036854775807 samples of 2 prompts are more than"] = {prompts = {"a", "b"},
    num_samples = math.maxinteger},
  ["'temperature' must be a number from 0 to 1e+06, got -1"] = {temperature = -1},
  ["'temperature' must be a number from 0 to 1e+06"] = {temperature = NAN},
  ["'top_p' must be above 0"] = {top_p = 0},
  ["'top_p' must be a number from 0 to 1, got 1.5"] = {top_p = 1.5},
  ["'top_k' must be an integer of at least -1, got -2"] = {top_k = -2},
  ["there is no prompt in the list"] = {prompts = {}},
  ["stop[1] must be a text, not empty"] = {stop = ""},
  ["prompts[1] is not UTF-8"] = {prompts = {"a\xff"}},
  ["prompt_token_ids[2] must be a token id (an integer, not negative), got -1"] = {prompts = false,
    prompt_token_ids = {1, -1}},
  ["prompt 0: logprobs must be from 0 to 200, got 1000000"] = {logprobs = 1000000},
  ["prompt 0: the token 200 is not in the vocabulary, whose ids are 0 to 199"] = {prompts = false,
    prompt_token_ids = {1, 200}},
  ["prompt 0: the byte 206 is not in the vocabulary, whose ids are 0 to 199"] = {prompts = {"\u{3b1}"}},
  ["prompt 0: neither prompt nor input_ids"] = {prompts = {""}},
  ["prompt 0 has 32 tokens, and the context of mine/tiny is 32, of which at least one is for the answer: shorten "
    .. "the prompt to 31 or fewer"] = {prompts = {("a"):rep(32)}},
}

local MODELS = {
  ["'rank' must be an integer from 1 to 32, got 0"] = {rank = 0},
  ["'rank' must be an integer from 1 to 32, got 33"] = {rank = 33},
  ["'rank' must be an integer from 1 to 32, got 2.5"] = {rank = 2.5},
  ["alpha is nan"] = {rank = 4, alpha = NAN},
  ["alpha is 0"] = {rank = 4, alpha = 0},
  ["nothing is to be trained"] = {rank = 4, train_attn = false, train_mlp = false},
}

describe("the embedded trainer", function()
  local root, client, session, model
  setup(function() root = faults.new_root() end)
  teardown(function() faults.files.remove(root) end)
  before_each(function()
    client = faults.client(root)
    session = client:session()
    model = faults.model(session)
  end)
  after_each(function()
    client:close()
    assert.same({}, task.waiting())
  end)

  -- Says no, in these words, at once.
  local function refused(text, fn, ...)
    local begun = clock.now()
    local ok, err = pcall(fn, ...)
    assert.is_false(ok, text)
    assert.is_true(err.kind == "argument" or err.kind == "invalid_request", tostring(err))
    assert.truthy(err.message:find(text, 1, true), err.message)
    assert.is_true(clock.now() - begun < 5, text)
  end

  it("refuses data, and has added nothing", function()
    model:forward_backward{data = {datum()}, loss_fn = "importance_sampling"}
    for text, bad in pairs(PASSES) do
      local data = {datum(), bad}
      refused(text, model.forward_backward, model, {data = data, loss_fn = "importance_sampling",
        zero_out = true})
      refused(text, model.forward, model, {data = data, loss_fn = "importance_sampling"})
    end
    refused("there are no datums", model.forward_backward, model, {data = {}, loss_fn = "importance_sampling"})
    refused("no loss is called 'none'", model.forward_backward, model, {data = {datum()}, loss_fn = "none"})
    refused("'clip_low' of the loss must be a finite number", model.forward_backward, model, {data = {datum()},
      loss_fn = "ppo", clip_low = NAN})
    local after = model:optim_step{lr = 0}.metrics.grad_norm
    model:forward_backward{data = {datum()}, loss_fn = "importance_sampling"}
    assert.is_true(after > 0)
    assert.equal(after, model:optim_step{lr = 0}.metrics.grad_norm)
  end)

  it("refuses steps, and has changed nothing", function()
    faults.step(model)
    local before = model:forward{data = {datum()}, loss_fn = "cross_entropy"}.metrics.loss_sum
    for text, options in pairs(STEPS) do
      model:forward_backward{data = {datum()}, loss_fn = "cross_entropy"}
      refused(text, model.optim_step, model, options)
    end
    assert.equal(before, model:forward{data = {datum()}, loss_fn = "cross_entropy"}.metrics.loss_sum)
    assert.equal(1, model:get_policy_version().step)
    assert.equal(2, model:optim_step{lr = 0}.metrics.step)
  end)

  it("refuses samples", function()
    local function options_of(more)
      local options = {prompts = {"ab"}, max_tokens = 2}
      for name, value in pairs(more) do options[name] = value or nil end
      return options
    end
    for text, more in pairs(SAMPLES) do
      refused(text, model.sample, model, options_of(more))
      refused(text, model.submit_sampling_batch, model, options_of(more))
      more.base_model = faults.BASE
      refused(text, session.sample, session, options_of(more))
      more.base_model = nil
    end
    assert.equal(2, #model:sample{prompts = {"ab"}, max_tokens = 2}[1][1].tokens)
  end)

  it("takes any number of tokens, and ends with the context", function()
    for _, most in ipairs{1000000000, 1e9, 1 << 40} do
      local sample = model:sample{prompts = {"ab"}, max_tokens = most, top_k = most}[1][1]
      assert.equal(faults.CONTEXT - 2, #sample.tokens)
    end
    assert.equal(1, #model:sample{prompts = {("a"):rep(31)}, max_tokens = 1000}[1][1].tokens)
  end)

  it("gives as many samples as may be asked for", function()
    local list = model:sample{prompts = {"ab"}, num_samples = 65536, max_tokens = 1, seed = 1}[1]
    assert.equal(65536, #list)
    assert.equal(1, #list[65536].tokens)
  end)

  it("refuses models", function()
    for text, options in pairs(MODELS) do
      refused(text, function() faults.model(session, {lora = training.LoraConfig(options)}) end)
    end
    refused("mine/tinny is not supported: there are", faults.model, session, {base_model = "mine/tinny"})
    assert.is_true(faults.step(faults.model(session)) > 0)
  end)

  it("refuses names of checkpoints", function()
    refused("is no path of names", model.save_weights, model, "../x")
    refused("must not be empty", model.save_weights, model, "")
    refused("'ttl' must be a number of seconds", model.save_weights, model, "x", {ttl = NAN})
    local ok, err = pcall(model.load_weights, model, "river://x/weights/none")
    assert.is_false(ok)
    assert.equal("not_found", err.kind)
  end)

  it("tells of gradients that are not finite, and does nothing with them", function()
    faults.step(model)
    local function loss() return model:forward{data = {datum()}, loss_fn = "cross_entropy"}.metrics.loss_sum end
    local before = loss()
    for _, advantage in ipairs{1e30, 3e38} do
      model:forward_backward{data = {datum{advantages = {advantage, -advantage, 0.0}}},
        loss_fn = "importance_sampling"}
      local metrics = model:optim_step{lr = 1e-3}.metrics
      assert.equal(0, metrics.grad_norm_finite)
    end
    assert.equal(before, loss())
    assert.equal(1, faults.step(model) > 0 and model:optim_step{lr = 0}.metrics.grad_norm_finite)
  end)

  it("shows weights that have become infinite, and comes back from a checkpoint", function()
    local saved = model:save_weights("good")
    local function step_from_here()
      model:forward_backward{data = {datum()}, loss_fn = "cross_entropy"}
      return model:optim_step{lr = 1e-3}.metrics
    end
    local expected = step_from_here().grad_norm
    model:load_weights(saved.path)
    model:forward_backward{data = {datum()}, loss_fn = "cross_entropy"}
    model:optim_step{lr = 1e30}
    for _, more in ipairs{{}, {temperature = 0}, {top_k = 3}, {top_p = 0.5}, {logprobs = 3}} do
      more.prompts, more.max_tokens, more.num_samples, more.return_prompt_logprobs = {"ab"}, 4, 3, true
      for _, sample in ipairs(model:sample(more)[1]) do
        assert.equal(4, #sample.tokens)
        assert.is_true(sample.tokens:min() >= 0 and sample.tokens:max() < faults.VOCABULARY)
        assert.is_true(sample.logprobs[1] ~= sample.logprobs[1])
        local ok, err = pcall(training.grpo_data, sample.prompt_token_ids, sample, 1.0)
        assert.is_false(ok)
        assert.truthy(err.message:find("nan", 1, true), err.message)
      end
    end
    assert.equal(0, step_from_here().grad_norm_finite)
    model:save_weights("wild")
    model:load_weights(saved.path)
    assert.equal(expected, step_from_here().grad_norm)
  end)
end)
