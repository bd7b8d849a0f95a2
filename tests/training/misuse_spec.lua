-- Calls that are wrong: they are refused before anything is sent, in words that name call, option and a near one.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(folder .. "support.lua")
local errors = require "riverlua.errors"
local training = require "training"

-- What is called, and what the error says from its beginning; "*" stands for anything.
local WRONG = [[
training.Client{api_kee = "x"}                      | training.Client: unknown option 'api_kee'; did you mean 'api_key'?
training.Client{api_key = 5}                        | training.Client: api_key must be a text, or false for none
training.Client{api_key = "a b"}                    | training.Client: api_key has spaces
training.Client{api_key = "k", endpoint = "ftp://x"}| training.Client: the endpoint begins with ftp:// *http://
training.Client{api_key = "k", port = "443"}        | training.Client: 'port' must be an integer
training.Client{api_key = "k", port = 70000}        | training.Client: port must be from 1 to 65535, got 70000
training.Client{api_key = "k", timeout = -1}        | training.Client: 'timeout' must be a number of seconds above 0
training.Client{api_key = "k", enable_retries = 1}  | training.Client: 'enable_retries' must be a boolean
training.Client{api_key = "k", endpoint = "https://x", use_ssl = false} | training.Client: the endpoint begins
training.Client{api_key = "k", http = {proxy = 5}}  | training.Client: 'http.proxy' must be a string or a boolean
training.Client{api_key = "k", http = {ca_file = 5}} | training.Client: 'http.ca_file' must be a string
training.Client{api_key = "k", rest_url = 5}        | training.Client: 'rest_url' must be a string
training.Client{api_key = "k", prices = {prompt = 1}} | training.Client: prices.completion must be dollars
training.Client{api_key = "k", prices = {m = {prompt = 1, completion = 1}}} | training.Client: prices.training must be
training.Client{api_key = "k", prices = {prompts = 1}} | training.Client: prices.prompt must be dollars
training.Client("key")                              | training.Client: the options stand in a table, got a string
training:Client{}                                   | training.Client: call it with a dot
training.client | the module 'training' has no 'client' *did you mean training.Client?
training.LoraConfg                                  | the module 'training' has no 'LoraConfg' *training.LoraConfig?
training.LoraConfig{rnk = 1}                        | LoraConfig: unknown option 'rnk'; did you mean 'rank'?
training.LoraConfig{rank = 64}                      | LoraConfig: 'rank' must be an integer from 1 to 32, got 64
training.resumable()                                | training.resumable: 'options' must be a table
client:sesion{}                                     | a training.Client has no 'sesion' *did you mean 'session'?
client:get_capabilites()                            | a training.Client has no 'get_capabilites' *'get_capabilities'?
client:session("first")                             | session: 'options' must be a table, got string
client:session{run = 5}                             | session: the tag 'run' must be a text, got a number *run = "first"
client:session{timout = 5}                          | session: the tag 'timout' must be a text *the option 'timeout'?
client:session{timeout = 0}                         | session: 'timeout' must be a number of seconds above 0
client:session{budget = "5"}                        | session: 'budget' must be a number
client:session{before_poll = 5}                     | session: 'before_poll' must be a callable
client:session{heartbeat = 5}                       | session: 'heartbeat' must be a table
client:session{heartbeat = {intervall = 5}} | session: heartbeat: unknown option 'intervall'; did you mean 'interval'?
client:sample()                                     | sample: there is nothing to sample from *sample{prompts = {…}}
client:sample{prompts = "x"}                        | sample: there is no base_model *get_capabilities
client:sample("x", {base_model = "m", seeds = {1}}) | sample: unknown option 'seeds'; did you mean 'seed'?
client:get_server_capabilities{model = "x"}         | get_server_capabilities: unknown option 'model'; *'model_name'?
client:health_check("x")                            | health_check: 'timeout' must be a number
client:chat_complete{messages = {{role = "user", content = "x"}}} | chat_complete: 'base_model' must be a string
session:creat_model{}                               | a training.Session has no 'creat_model' *'create_model'?
session:create_model()                              | create_model: 'options' must be a table
session:create_model{}                              | create_model: there is no base_model
session:create_model("m")                           | create_model: either lora or full_weight is wanted *LoraConfig
session:create_model{base_modl = "m"} | create_model: unknown option 'base_modl'; did you mean 'base_model'?
session:create_model{base_model = "m", lora = {rnk = 1}} | LoraConfig: unknown option 'rnk'; did you mean 'rank'?
session:create_model{base_model = "m", full_weight = 1}  | create_model: 'full_weight' must be a boolean
session:create_model{base_model = "m", lora = {}, train_router = true} | create_model: train_router needs full_weight
session:create_model{base_model = "m", lora = {}, checkpoint = 5} | create_model: a checkpoint or its path is wanted
session:sample("x")                                 | sample: there is no base_model
session:sample{prompts = "x", base_model = "m", checkpoint = 5} | sample: a checkpoint or its path is wanted
session:upload_image()                              | upload_image: data must be the bytes of an image
session:upload_image("")                            | upload_image: data is empty
session:upload_image("x", {key = "x"}) | upload_image: unknown option 'key'; known: idempotency_key, timeout
session:release_image()                             | release_image: either an image or an idempotency_key is wanted
session:release_image{key = "x"}                    | release_image: unknown option 'key'
session:restore_image(5)                            | restore_image: image must be the bytes of an image or a handle
session:attest_training_data{}                      | attest_training_data: there are no artifacts
session:attest_training_data{{name = "x"}}          | attest_training_data: 'artifacts[1].content' must be a string
session:attest_training_data{{name = "x", content = "c", expected_sha256 = 5}} | attest_training_data: 'artifacts[1].exp
session:attest_training_data({{name = "x", content = "c"}}, {timout = 1}) | attest_training_data: unknown option 'timout
model:forward_backwards{}                           | a training.Model has no 'forward_backwards' *'forward_backward'?
model:sample()                                      | sample: there is nothing to sample from *sample{prompts = {…}}
model:sample{}                                      | sample: there is nothing to sample from *prompt_token_ids
model:sample(5)                                     | sample: prompts are a text or a list of texts, got a number
model:sample{"x", num_samples = 2} | sample: there is an option among the prompts: 'num_samples' *sample{
model:sample{prompts = {5}}                         | sample: prompts[1] must be a text, got a number
model:sample{prompts = {}}                          | sample: there is no prompt in the list
model:sample{prompt = "x"}                          | sample: unknown option 'prompt'; did you mean 'prompts'?
model:sample{prompts = "x", num_sample = 4}         | sample: unknown option 'num_sample'; did you mean 'num_samples'?
model:sample{prompts = "x", num_samples = 0}        | sample: 'num_samples' must be an integer of at least 1, got 0
model:sample{prompts = "x", num_samples = "4"}      | sample: 'num_samples' must be an integer of at least 1, got "4"
model:sample{prompts = "x", max_tokens = -1}        | sample: 'max_tokens' must be an integer of at least 1
model:sample{prompts = "x", temperature = "hot"}    | sample: 'temperature' must be a number from 0
model:sample{prompts = "x", top_p = 1.5}            | sample: 'top_p' must be a number from 0 to 1, got 1.5
model:sample{prompts = "x", top_p = 0}              | sample: 'top_p' must be above 0
model:sample{prompts = "x", top_k = -2}             | sample: 'top_k' must be an integer of at least -1
model:sample{prompts = "x", stop = {""}}            | sample: stop[1] must be a text, not empty
model:sample{prompts = "x", seed = 1, seeds = {1}}  | sample: seed and seeds exclude each other
model:sample{prompts = "x", seeds = {1, 2}}         | sample: seeds must be a list with one for each of the 1 samples
model:sample{prompts = "x", timeout = 0}            | sample: 'timeout' must be a number of seconds above 0
model:sample{prompts = "x", poll_interval = -1}     | sample: 'poll_interval' must be a number of seconds, got -1
model:sample{prompts = "x", return_prompt_logprobs = "yes"} | sample: 'return_prompt_logprobs' must be a boolean
model:sample{prompts = "x", metrics_type = 5}       | sample: 'metrics_type' must be a string
model:sample{prompts = "x", logprobs = true}        | sample: 'logprobs' must be an integer of at least 0, got true
model:sample{prompts = "x", prompt_token_ids = {1}} | sample: prompts, prompt_token_ids and model_input exclude each oth
model:sample{prompt_token_ids = {1.5}}              | sample: prompt_token_ids[1] must be a token id
model:sample{prompt_token_ids = {{1}, {}}}          | sample: prompt_token_ids[2] must be a list of token ids, not empty
model:sample{prompts = {"x", "\xff"}, num_samples = 2} | sample: prompts[2] is not UTF-8
model:sample{prompts = {"a", nil, "c"}}             | sample: prompts[2] is missing *no holes
model:sample{prompts = "x", stop = {"a", nil, "c"}} | sample: stop[2] is missing
model:sample{prompts = {"x", "y"}, images = {{"a"}, "b"}} | sample: 'images[2]' must be a table, got string
model:sample{prompts = "x", images = {"a", nil, "b"}} | sample: images[2] is missing
model:sample{prompt_token_ids = {{1}, nil, {2}}}    | sample: prompt_token_ids[2] is missing
model:sample{model_input = {5}}                     | sample: model_input[1] must be a table
model:sample{model_input = {{type = "txt"}}}        | sample: model_input[1] has the type txt
model:sample{model_input = {{{type = "txt"}}}}      | sample: model_input[1][1] has the type txt
model:sample{model_input = {{type = "text", tokens = {1}}, nil, {type = "text"}}} | sample: model_input[2] is missing
model:sample{prompts = "x", image_token_id = "x"}   | sample: 'image_token_id' must be an integer
model:sample{prompts = "x", images = {5}}           | sample: images[1] must be the bytes of an image or a handle
model:sample_as_completed{prompts = "x", logprob = 3} | sample_as_completed: unknown option 'logprob'; *'logprobs'?
model:submit_sampling_batch{prompts = "x", num_samples = 129} | submit_sampling_batch: 129 samples in one ba *_completed
model:submit_sampling_batch{prompts = "x", max_concurrent_streams = 0} | submit_sampling_batch: max_concurrent_streams m
model:submit_sampling_batch{prompts = "x", policy_selection = "new"} | submit_sampling_batch: policy_selection must be "
model:submit_sampling_batch{prompts = "x", kv_cache_policy = {}} | submit_sampling_batch: kv_cache_policy needs retained
model:submit_sampling_batch{prompts = "x", timeout = 1e9} | submit_sampling_batch: 'timeout' must be at most 86400 secon
model:forward_backward()                            | forward_backward: data must be a list of datums
model:forward_backward(datum)                       | forward_backward: data must be a list of datums *write {datum}
model:forward_backward({}) | forward_backward: there are no datums in data *no group has a signal
model:forward_backward{datas = {datum}}             | forward_backward: there is no 'data' among the options, but
model:forward_backward({datum, nil, datum})         | forward_backward: data[2] is missing
model:forward_backward({datum}, {loss_fn = "ppo"}, {clip_low = 0.1}) | forward_backward: options in one table
model:forward_backward{datum, loss_fn = "ppo"}      | forward_backward: there is an option among the data: 'loss_fn'
model:forward_backward({datum}, "pppo")             | forward_backward: unknown loss 'pppo' *did you mean 'ppo'?
model:forward_backward({datum}, "ppo", {clip_hgh = 1}) | forward_backward: 'clip_hgh' is neither an option *'clip_high'?
model:forward_backward({datum}, {loss = "ppo"})     | forward_backward: 'loss' is neither an option nor *'loss_fn'?
model:forward_backward({datum}, {"ppo"})            | forward_backward: '1' is neither an option nor a setting
model:forward_backward({datum}, 5)                  | forward_backward: 'options' must be a table
model:forward_backward({5})                         | datum 1: a datum is a table, got a number
model:forward_backward({{}})                        | datum 1: input_ids is missing
model:forward_backward({{input_ids = {1, 2.5}}})    | datum 1: input_ids[2] is 2.5, which is not an integer
model:forward_backward({datum}, {zero_out = 1})     | forward_backward: 'zero_out' must be a boolean
model:forward_backward({datum}, {timeout = -1})     | forward_backward: 'timeout' must be a number of seconds above 0
model:forward_backward({datum}, {poll_interval = "x"}) | forward_backward: 'poll_interval' must be a number of seconds
model:forward_backward({datum}, {force_routing_replay = true}) | forward_backward: datum 1 has no expert_routing_handle
model:forward({datum}, "ppo", {zero_out = true})    | forward: 'zero_out' is for forward_backward
model:train_step({datum})                           | train_step: there is no learning rate
model:train_step({datum}, 1e-3, {lr = 1e-4})        | train_step: the learning rate is given twice
model:train_step({datum}, "x")                      | train_step: there is no learning rate
model:train_step{data = {datum}, lr = "x"}          | train_step: 'lr' must be a finite number
model:train_step{data = {datum}, lr = 1e-3, beta1 = 1} | train_step: 'beta1' must be below 1
model:train_step{data = {datum}, lr = 1e-3, expected_policy_id = 5} | train_step: 'expected_policy_id' must be a string
model:submit_train_step{data = {datum}, lr = 1e-3, idempotency_key = ""} | submit_train_step: idempotency_key must be
model:train_step({datum}, 1e-3, {zero_out = false}) | train_step: 'zero_out' is for forward_backward
model:optim_step()                                  | optim_step: there is no learning rate *lr = 4e-5
model:optim_step(1e-3, {lr = 1e-4})                 | optim_step: the learning rate is given twice
model:optim_step("x")                               | optim_step: 'lr' must be a finite number of at least 0, got x
model:optim_step(0/0)                               | optim_step: 'lr' must be a finite number
model:optim_step{learning_rate = 1}                 | optim_step: unknown option 'learning_rate'; known: *lr
model:optim_step(1e-3, {beta = 0.9})                | optim_step: unknown option 'beta'; did you mean 'beta1'?
model:optim_step(1e-3, {beta2 = 1})                 | optim_step: 'beta2' must be below 1, got 1
model:optim_step(1e-3, {grad_clip_norm = 0})        | optim_step: 'grad_clip_norm' must be a finite number above 0
model:optim_step(1e-3, {idempotency_key = true})    | optim_step: idempotency_key must be a text, or false for none
model:optim_step(1e-3, {expected_policy_id = 5})    | optim_step: 'expected_policy_id' must be a string
model:save_weights()                                | save_weights: 'name' must be a string, got nothing
model:save_weights("") | save_weights: the name of a checkpoint must not be empty or contain control characters
model:save_weights("a", "training")                 | save_weights: 'options' must be a table
model:save_weights({name = "a"}, {mode = "inference"}) | save_weights: options in one table
model:save_weights("a", {name = "b"})               | save_weights: the name is given twice
model:save_weights("a", {mod = "x"})                | save_weights: unknown option 'mod'; did you mean 'mode'?
model:save_weights("a", {mode = "x"}) | save_weights: mode must be "training", "inference" or "publish", got x
model:save_weights("a", {mode = "publish"})         | save_weights: mode "publish" is for models with full_weight
model:save_weights("a", {ttl = "1d"})               | save_weights: 'ttl' must be a number of seconds above 0
model:load_weights(5)                               | load_weights: a checkpoint or its path is wanted, got a number
model:load_weights()                                | load_weights: a checkpoint or its path is wanted, got nothing
model:load_weights("") | load_weights: a checkpoint or its path is wanted, got one that has no
model:load_weights("x", true)                       | load_weights: 'options' must be a table
model:prepare_loss("x")                             | prepare_loss: a training.loss_graph is wanted, got a string
model:chat_complete{}                               | chat_complete: messages must be a list, not empty
model:chat_complete{{role = "user", content = "x"}, max_tokens = 5} | chat_complete: there is an option among the messag
model:chat_complete{messages = {{role = "user", content = "x"}}, stream = true} | chat_complete: the service does not st
training.grpo_data({1}, {tokens = {1}, logprobs = {-1}}, 1, 5) | training.grpo_data: 'more' must be a table
op:result("x")                                      | result: 'timeout' must be a number of seconds
op:result(-1)                                       | result: 'timeout' must be a number of seconds
]]

describe("a wrong call", function()
  local server, client, session, model, op
  setup(function()
    server = support.standin.start{seed = 1}
    client = support.client(server)
    model, session = support.model(client, {heartbeat = support.SILENT.heartbeat, budget = 1000,
      prices = {prompt = 1, completion = 1, training = 1}})
    op = model:submit_sample("1 + 1")
  end)
  teardown(function()
    client:close()
    server:close()
  end)

  local function call(source)
    local compiled = assert(load("local training, client, session, model, op, datum = ... return " .. source))
    return pcall(compiled, training, client, session, model, op, support.datum())
  end

  it("is refused in words that help, and nothing is sent", function()
    local calls, seq_id, model_seq_id = server:count(), model.seq_id, session.model_seq_id
    local count, reserved = 0, session.meter.reserved
    assert.is_true(reserved > 0)   -- for what is under way
    for line in WRONG:gmatch("[^\n]+") do
      local source, wanted = line:match("^(.-)%s*|%s*(.-)$")
      local ok, err = call(source)
      assert.is_false(ok, source)
      assert.is_true(errors.is(err, "argument"), source .. ": " .. tostring(err))
      local from, inside = wanted:match("^(.-)%s*%*(.*)$")
      from = from or wanted
      assert.equal(from, err.message:sub(1, #from), source)
      if inside then assert.truthy(tostring(err):find(inside, 1, true), ("%s: %s"):format(source, err)) end
      assert.is_nil(err.message:find("[%c]"), source)
      assert.is_nil(err.message:find("table: 0x", 1, true), source)
      count = count + 1
    end
    assert.is_true(count > 100)
    assert.equal(calls, server:count())
    assert.equal(seq_id, model.seq_id)
    assert.equal(model_seq_id, session.model_seq_id)
    assert.equal(0, model.step)
    assert.equal(0, model.steps_pending)
    assert.is_true(math.abs(session.meter.reserved - reserved) < 1e-9)
  end)

  it("with a dot in place of the colon says so", function()
    local batch = model:submit_sampling_batch("1 + 1")
    local objects = {client = client, session = session, model = model, operation = op, batch = batch,
      meter = session.meter, heartbeat = session.heartbeat}
    local count = 0
    for name, object in pairs(objects) do
      for method, fn in pairs(getmetatable(object)) do
        if type(fn) == "function" and not method:find("^_") then
          for _, given in ipairs{{}, {"text"}, {{prompts = "x"}}} do
            local ok, err = pcall(fn, table.unpack(given))
            assert.is_false(ok, method)
            assert.is_true(errors.is(err, "argument"), ("%s.%s: %s"):format(name, method, err))
            assert.equal(("%s:%s: call it with a colon: %s:%s(…)"):format(name, method, name, method), err.message)
          end
          count = count + 1
        end
      end
    end
    assert.is_true(count > 50)
    -- those that come from elsewhere too
    local err = support.failure(client.list_deployments)
    assert.truthy(err.message:find("list_deployments: call it with a colon", 1, true))
  end)

  it("of a method that does not exist is an ordinary error of Lua when nothing is near", function()
    local ok, err = call("model:quantize()")
    assert.is_false(ok)
    assert.is_string(err)
    assert.is_nil(model.quantize)
    assert.is_nil(client.anything)
    assert.is_nil(session[1])
  end)

  it("is refused by what is closed in its own words", function()
    local other = support.client(server)
    local own, last = support.model(other, support.SILENT)
    last:close()
    assert.equal("closed: sample: this session has been closed", tostring(support.failure(own.sample, own, "x")))
    assert.equal("closed: create_model: this session has been closed",
      tostring(support.failure(last.create_model, last, "m", {lora = {}})))
    other:close()
    assert.equal("closed: this training.Client has been closed", tostring(support.failure(other.session, other)))
    assert.equal("training.Client(127.0.0.1:" .. server.port .. ", closed)", tostring(other))
  end)
end)
