-- What the client sends equals, message by message, what the official client was recorded sending.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local fake = dofile(folder .. "fake.lua")
local array = require "riverlua.array"
local training = require "training"

local vectors = fake.vectors()
local MODEL_ID = "sess-000002:model:1"
local RUN_ID = "0c5c7fd0-a6a3-a450-6513-270e269e0d37"
local KEY = "11111111-2222-3333-4444-555555555555"
local POLICY = {id = "pol-1", lineage_id = "lin", step = 3}
local PNG = fake.unhex(assert(vectors["upload_image"].calls[1].request_hex)):match("\x89PNG.*IEND\xaeB`\x82")

local function echo_results(count)
  local results = {}
  for i = 1, count do results[i] = {text = "x", token_ids = {120}, token_logprobs = {-0.5}} end
  return results
end

local function service()
  local last
  local transport
  local function accept(kind)
    return function(request)
      last = {kind = kind, request = request}
      return {request_id = "req-1"}
    end
  end
  transport = fake.new{
    HealthCheck = {status = "ok"},
    GetServerCapabilities = {supported_models = {{model_name = "standin/bytes"}}, features = {"sampling_batch_v1"}},
    CreateSession = {session_id = "sess-000002"},
    CreateModel = accept("create_model"), SampleFromTraining = accept("inference"),
    InferenceGenerate = accept("inference"), SampleFromCheckpoint = accept("inference"),
    Forward = accept("forward_backward"), ForwardBackward = accept("forward_backward"),
    OptimStep = accept("optim_step"), SaveWeights = accept("save_weights"), LoadWeights = accept("load_weights"),
    ChatCompleteFromBase = accept("chat_complete"), ChatCompleteFromCheckpoint = accept("chat_complete"),
    ChatCompleteFromTraining = accept("chat_complete"), UnloadModel = accept("unload_model"),
    GetInfo = {policy_version = POLICY}, PrepareLoss = {}, CreateUpload = {upload_id = "up-000064"}, UploadChunk = {},
    CreateTrainingDataAttestation = {training_data_attestation_id = "att-1"}, ReleaseImage = {},
    UploadImage = function(request)
      local digest = require "riverlua.digest"
      return {id = "3898d190-f9eb-dacc-0cb1-e29c658cda14", sha256 = digest.hex(digest.sha256(request.data)),
        byte_count = #request.data, width = 64, height = 48, session_id = request.session_id}
    end,
    SubmitSamplingBatch = function(request)
      local ids = {}
      for i = 1, #(request.training or request.base_source or request.checkpoint).prompts do ids[i] = "req-" .. i end
      return {request_ids = ids}
    end,
    RetrieveFuture = function()
      local reply = {}
      if last.kind == "create_model" then
        reply.create_model = {model_id = MODEL_ID, training_run_id = RUN_ID}
      elseif last.kind == "inference" then
        reply.inference = {results = echo_results(#last.request.prompts)}
      elseif last.kind == "save_weights" then
        reply.save_weights = {path = "river://" .. RUN_ID .. "/weights/final"}
      elseif last.kind == "chat_complete" then
        reply.chat_complete = {response_json = "{}", status_code = 200}
      else
        reply[last.kind] = {}
      end
      return reply
    end,
  }
  return transport
end

describe("the requests of the training client", function()
  local transport, client, session, model

  before_each(function()
    transport = service()
    client = training.Client{api_key = "test-key", transport = transport, identity = "river-client-python/0.16.0"}
    session = client:session{run = "r1"}
    model = session:create_model{base_model = "standin/bytes", lora = training.LoraConfig{}}
    transport.calls = {}
  end)

  -- The model id and the sequence id of the recording, where it is about a model.
  local function equal(name, act, ignore)
    local vector = assert(vectors[name], "no vector " .. name)
    local wanted = {}
    for _, call in ipairs(vector.calls) do
      local request = transport.methods[call.method].request:decode(fake.unhex(call.request_hex))
      if not (ignore or {})[call.method] then wanted[#wanted + 1] = {method = call.method, request = request} end
    end
    local first = wanted[1].request
    if first.model_id then model.model_id = first.model_id end
    for _, call in ipairs(wanted) do
      if call.request.seq_id then
        model.seq_id = call.request.seq_id - 1
        break
      end
    end
    transport.calls = {}
    act()
    local k = 1
    for _, call in ipairs(transport.calls) do
      if not (ignore or {})[call.method] then
        assert.is_truthy(wanted[k], "one call too many: " .. call.method)
        assert.equal(wanted[k].method, call.method)
        if call.method == "RetrieveFuture" then call.request.request_id = wanted[k].request.request_id end
        if call.request.upload_id then call.request.upload_id = wanted[k].request.upload_id end
        assert.same(wanted[k].request, call.request)
        k = k + 1
      end
    end
    assert.is_nil(wanted[k], "a call is missing")
  end

  local DATUM = {input_ids = {10, 11, 12, 13}, weights = {0.0, 1.0, 0.5, 0.0}}
  local RL = {input_ids = {1, 2, 3, 4, 5}, attention_mask = {1, 1, 1, 1, 1},
    old_logprobs = {0.0, 0.0, -0.25, -1.5, 0.0}, advantages = {0.0, 0.0, 0.5, 0.5, 0.0}}

  local function with(extra)
    local all = {}
    for name, value in pairs(RL) do all[name] = value end
    for name, value in pairs(extra) do all[name] = value end
    return all
  end

  it("health_check", function() equal("health_check", function() client:health_check() end) end)

  it("get_capabilities", function()
    equal("get_capabilities", function() assert.same({"standin/bytes"}, client:get_capabilities()) end)
  end)

  it("client:sample", function()
    equal("client.sample defaults (text)", function() client:sample("What is 2+2?", {base_model = "standin/bytes"}) end)
  end)

  it("session with tags and without", function()
    equal("session create with tag", function() client:session{run = "r1"} end)
    equal("session create no tags", function() client:session{} end)
  end)

  it("create_model", function()
    session.model_seq_id = 0
    equal("create_model LoraConfig()", function()
      session:create_model("standin/bytes", {lora = training.LoraConfig{}})
    end)
    session.model_seq_id = 2
    equal("create_model full weight + router", function()
      session:create_model{base_model = "standin/bytes", full_weight = true, train_router = true}
    end)
  end)

  it("create_model from a checkpoint", function()
    session.model_seq_id = 4
    equal("create_model from checkpoint", function()
      transport.answers.RetrieveFuture = function(request)
        if request.model_id then return {load_weights = {}} end
        return {create_model = {model_id = "sess-000002:model:5", training_run_id = RUN_ID}}
      end
      session:create_model{base_model = "standin/bytes", lora = {rank = 16},
        checkpoint = "river://0c5c7fd0-a6a3-a450-6513-270e269e0d37/weights/final"}
    end)
  end)

  it("attest_training_data", function()
    equal("attest_training_data", function()
      local attested = session:attest_training_data{{name = "a.jsonl", content = "hello"}}
      assert.equal("att-1", attested.training_data_attestation_id)
    end)
  end)

  it("get_policy_version", function()
    equal("get_info", function() assert.equal("pol-1", model:get_policy_version().id) end)
  end)

  it("model:sample", function()
    equal("model.sample defaults", function() model:sample("1 + 2") end)
    equal("model.sample everything", function()
      model:sample{prompts = {"1 + 2"}, num_samples = 2, max_tokens = 16, temperature = 0.7, top_p = 0.9, top_k = 40,
        stop = {"a", "bb"}, seed = 42, return_prompt_logprobs = true, logprobs = 3, return_expert_routing = true,
        metrics_type = "debug"}
    end)
    equal("model.sample token prompt + seeds", function()
      model:sample{prompt_token_ids = {{49, 43, 50}, array.int32{51}}, seeds = {9, 8}, max_tokens = 8}
    end)
  end)

  it("model:sample with images", function()
    equal("model.sample inline image", function()
      model:sample("<|image_pad|> 1 + 2", {images = {PNG}, max_tokens = 8})
    end)
    local image = session:upload_image(PNG)
    equal("model.sample model_input mixed bytes+handle", function()
      model:sample{model_input = {{type = "image", data = image}, {type = "image", data = "abc"},
        {type = "text", tokens = {49}}}, max_tokens = 8, image_token_id = 259}
    end)
  end)

  it("images", function()
    equal("upload_image", function() session:upload_image(PNG, {idempotency_key = KEY}) end)
    local image = session:upload_image(PNG)
    equal("release_image", function() session:release_image(image) end)
  end)

  it("submit_sampling_batch", function()
    equal("submit_sampling_batch ordered", function()
      local results = {}
      for i = 1, 4 do results[i] = {request_id = "req-00002" .. i + 4, inference = {results = echo_results(1)}} end
      transport.answers.SubmitSamplingBatch = {request_ids = {"req-000025", "req-000026", "req-000027", "req-000028"}}
      transport.answers.RetrieveSamplingResults = results
      local batch = model:submit_sampling_batch({"1 + 2", "2 + 2"}, {num_samples = 2, max_tokens = 8, seed = 5,
        idempotency_key = KEY, return_prompt_token_ids = true})
      local count = 0
      for completion in batch:as_completed() do
        assert.equal("x", completion.sample.text)
        count = count + 1
      end
      assert.equal(4, count)
    end)
    transport.answers.SubmitSamplingBatch = {request_ids = {"req-1"}}
    equal("submit_sampling_batch pinned", function()
      model:submit_sampling_batch("1 + 2", {max_tokens = 8, pinned_policy_id = "pol-000001",
        idempotency_key = "11111111-2222-3333-4444-555555555557"})
    end)
    equal("submit_sampling_batch retained KV", function()
      model:submit_sampling_batch("1 + 2", {max_tokens = 8, retained_kv_groups = {"aaaaaaaabbbbccccddddeeeeeeeeeeee"},
        kv_cache_policy = {max_staleness = 1, anchor_policy_id = "pol-000001", previous_policy_id = "pol-000002",
          refill_on_limit = true}, idempotency_key = "11111111-2222-3333-4444-555555555558"})
    end)
    equal("session.submit_sampling_batch checkpoint", function()
      session:submit_sampling_batch("1 + 2", {base_model = "standin/bytes",
        checkpoint = "river://0c5c7fd0-a6a3-a450-6513-270e269e0d37/weights/s1", max_tokens = 8,
        idempotency_key = "11111111-2222-3333-4444-55555555555a"})
    end)
  end)

  it("session:sample", function()
    equal("session.sample base", function()
      session:sample("1 + 2", {base_model = "standin/bytes", max_tokens = 8})
    end)
  end)

  it("forward_backward with cross_entropy", function()
    equal("fb cross_entropy weights, no mask", function()
      model:forward_backward{data = {DATUM}, loss_fn = "cross_entropy"}
    end)
    equal("fb cross_entropy top-K targets", function()
      model:forward_backward{{input_ids = {10, 11}, attention_mask = {1, 1}, target_tokens = {{11, 12}, {0, 0}},
        weights = {{0.75, 0.25}, {0.0, 0.0}}}}
    end)
  end)

  it("forward_backward with the losses of reinforcement learning", function()
    equal("fb importance_sampling (specification datum)", function()
      model:forward_backward{data = {RL, RL}, loss_fn = "importance_sampling"}
    end)
    equal("fb ppo BuiltinLoss", function()
      model:forward_backward({RL}, {loss_fn = training.BuiltinLoss("ppo", {clip_high = 0.28})})
    end)
    equal("fb cispo", function() model:forward_backward({RL}, "cispo", {eps_max = 6.0}) end)
    equal("fb echo_cispo", function()
      model:forward_backward({with{echo_weights = {0.5, 0.5, 0.0, 0.0, 0.0}}}, "echo_cispo", {echo_coef = 0.05})
    end)
    equal("fb dro", function() model:forward_backward{data = {RL}, loss_fn = "dro", beta = 0.05} end)
    equal("fb routing replay + flip", function()
      model:forward_backward{data = {with{expert_routing_handle = "0b5f8b1e-0000-4000-8000-000000000001"}},
        loss_fn = "importance_sampling", force_routing_replay = true, compute_expert_flip_metric = true}
    end)
  end)

  it("forward_backward with an expected policy", function()
    equal("fb expected_policy_id", function()
      model:forward_backward{data = {DATUM}, expected_policy_id = "pol-000005"}
    end, {GetInfo = true})
  end)

  it("forward_backward with images", function()
    equal("fb model_input text+image bytes", function()
      model:forward_backward{{model_input = {{type = "text", tokens = {1, 2}},
        {type = "image", data = PNG, format = "png", expected_tokens = 4}, {type = "text", tokens = {3}}},
        weights = {0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0}}}
    end)
    local image = session:upload_image(PNG)
    equal("fb model_input image handle", function()
      model:forward_backward{{model_input = {{type = "image", data = image, expected_tokens = 4},
        {type = "text", tokens = {3, 4}}}, weights = {0.0, 0.0, 0.0, 0.0, 1.0, 0.0}}}
    end)
  end)

  it("forward", function()
    equal("forward only", function() model:forward({RL}, "importance_sampling", {logprob_temperature = 1.0}) end)
  end)

  local BARE = {expected_policy_id = false, idempotency_key = false}

  local function bare(options)
    for name, value in pairs(BARE) do options[name] = value end
    return options
  end

  it("optim_step without what this client adds", function()
    equal("optim_step defaults", function() model:optim_step(bare{lr = 4e-5}) end)
    equal("optim_step beta1=0", function() model:optim_step(bare{lr = 0.0, beta1 = 0.0, weight_decay = 0.0}) end)
  end)

  it("optim_step has a key and the policy it starts from", function()
    model:optim_step(4e-5)
    local request = transport:of("OptimStep")[1].request
    assert.truthy(request.idempotency_key:find("^%x+%-%x+%-4%x+%-%x+%-%x+$"))
    assert.equal("pol-1", request.expected_policy_id)
  end)

  it("train_step", function()
    equal("train_step", function()
      transport.answers.RetrieveFuture = function(request)
        if request.request_id == "fb" then return {forward_backward = {}} end
        return {optim_step = {}}
      end
      transport.answers.ForwardBackward = {request_id = "fb"}
      transport.answers.OptimStep = {request_id = "opt"}
      model:train_step{data = {RL}, lr = 4e-5, loss_fn = "importance_sampling", grad_clip_norm = 1.0,
        expected_policy_id = false, idempotency_key = false}
    end)
  end)

  it("save_weights and load_weights", function()
    equal("save_weights training", function() model:save_weights("final") end)
    equal("save_weights immutable guarded", function()
      model:save_weights("s2", {immutable = true, expected_policy_id = "pol-000062"})
    end, {GetInfo = true})
    equal("load_weights path, no optimizer", function()
      model:load_weights("river://0c5c7fd0-a6a3-a450-6513-270e269e0d37/weights/final", {load_optimizer = false})
    end)
    model.full_weight, model.training_run_id = true, "e8e25d94-0ed9-0475-9531-985d5d9dc9f8"
    equal("save_weights publish (full weight)", function() model:save_weights("now", {mode = "publish"}) end)
  end)

  -- The bodies are texts of JSON, in which members have no order.
  local function same_chat(name, act)
    local json = require "riverlua.json"
    local call = vectors[name].calls[1]
    transport.calls = {}
    act()
    local sent = transport.calls[1]
    assert.equal(call.method, sent.method)
    local wanted = transport.methods[call.method].request:decode(fake.unhex(call.request_hex))
    wanted.request_json, sent.request.request_json = json.decode(wanted.request_json),
      json.decode(sent.request.request_json)
    assert.same(wanted, sent.request)
  end

  it("chat_complete", function()
    same_chat("chat base", function()
      client:chat_complete({{role = "user", content = "What is 2+2?"}}, {base_model = "standin/bytes", max_tokens = 16,
        temperature = 0.5})
    end)
    same_chat("chat checkpoint", function()
      client:chat_complete_from_checkpoint({{role = "user", content = "hi"}},
        {checkpoint_path = "river://0c5c7fd0-a6a3-a450-6513-270e269e0d37/weights/s1"})
    end)
  end)

  it("an upload in chunks", function()
    client.upload = {threshold = 2048, chunk = 1024, parallelism = 6, required = true}
    local ids, ones = {}, {}
    for i = 1, 120 do ids[i], ones[i] = i - 1, 1.0 end
    local vector = vectors["chunked upload"]
    local chunks = {}
    for _, call in ipairs(vector.calls) do
      if call.method == "UploadChunk" then
        local chunk = transport.methods.UploadChunk.request:decode(fake.unhex(call.request_hex))
        chunks[chunk.chunk_index] = chunk.data
      end
    end
    model.seq_id = 25
    model.model_id = MODEL_ID
    model:forward_backward{{input_ids = ids, weights = ones}, {input_ids = ids, weights = ones}}
    local created = transport:of("CreateUpload")[1].request
    assert.equal(5097, created.total_size)
    assert.equal(5, created.chunk_count)
    local seen = 0
    for _, call in ipairs(transport:of("UploadChunk")) do
      assert.equal(chunks[call.request.chunk_index], call.request.data)
      seen = seen + 1
    end
    assert.equal(5, seen)
    local thin = transport:of("ForwardBackward")[1].request
    assert.equal("up-000064", thin.upload_id)
    assert.is_nil(thin.forward_backward_input)
    assert.equal(26, thin.seq_id)
  end)
end)
