-- What the embedded training service refuses, and in which words: every RPC, request by request.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(folder .. "support.lua")
local errors = require "riverlua.errors"
local protobuf = require "riverlua.protobuf"

local call, refusal, run = support.call, support.refusal, support.run

describe("the embedded training service", function()
  local service, model_id, session_id, run_id

  before_each(function()
    service = support.service()
    model_id, session_id, run_id = support.raw_model(service)
  end)
  after_each(function() service:close() end)

  local function refused(code, text, method, request)
    local err = refusal(service, method, request)
    assert.is_true(errors.is(err, "grpc"), tostring(err))
    assert.equal(code, err.code)
    assert.equal(require("riverlua.grpc").status[code], err.status)
    assert.is_true(err.from_server and err.sent)
    assert.equal(method, err.method)
    assert.truthy(err.details:find(text, 1, true), err.details)
    assert.truthy(err.message:find(method .. ": " .. code, 1, true), err.message)
  end

  local function wrong(text, method, request) refused("INVALID_ARGUMENT", text, method, request) end

  it("takes no garbage and knows its methods", function()
    local ok, err = pcall(service.call, service, "OptimStep", "\xff\xff\xff")
    assert.is_false(ok)
    assert.equal("INVALID_ARGUMENT", err.code)
    assert.truthy(err.details:find("the request cannot be decoded", 1, true))
    ok, err = pcall(service.call, service, "NoSuchMethod", "")
    assert.is_false(ok)
    assert.equal("UNIMPLEMENTED", err.code)
    ok, err = pcall(service.stream, service, "HealthCheck", "")
    assert.is_false(ok)
    assert.equal("INTERNAL", err.code)
  end)

  it("counts the pieces of a request before it decodes them", function()
    local function varint(value)
      return value < 128 and string.char(value) or string.char(value & 127 | 128) .. varint(value >> 7)
    end
    local function field(number, bytes) return string.char(number << 3 | 2) .. string.pack("s1", bytes) end
    local function long(number, bytes) return string.char(number << 3 | 2) .. varint(#bytes) .. bytes end
    local prompts, datums = field(2, ""):rep(65537), field(1, ""):rep((1 << 20) + 1)
    for _, case in ipairs{
      {"SampleFromTraining", "more than 65536 prompts", "\x28\x01\x31........\x3d...." .. prompts},
      {"InferenceGenerate", "more than 65536 prompts", prompts},
      {"SampleFromCheckpoint", "more than 65536 prompts", field(3, ""):rep(65537)},
      {"SubmitSamplingBatch", "more than 65536 prompts", long(2, prompts:sub(1, 65536)) .. long(2, prompts)},
      {"RetrieveSamplingResults", "more than 65536 handles", field(1, ""):rep(65537)},
      {"ForwardBackward", "more than 1048576 datums", long(3, datums)},
      {"Forward", "more than 1048576 datums", long(3, datums)},
      {"CreateTrainingDataAttestation", "more than 1000 artifacts", field(2, ""):rep(1001)},
      {"CreateSession", "at most 134217728 are taken", ("x"):rep((128 << 20) + 1)},
    } do
      local method, text, bytes = table.unpack(case)
      collectgarbage()
      local before = collectgarbage("count")
      local ok, err = pcall(service.call, service, method, bytes)
      assert.is_true(collectgarbage("count") - before < 1024, method)   -- KiB
      assert.is_false(ok)
      assert.same({"INVALID_ARGUMENT", method}, {err.code, err.method})
      assert.truthy(err.details:find(text, 1, true), err.details)
    end
    for _, bytes in ipairs{"\x12", "\x12" .. ("\xff"):rep(9) .. "\x01", "\x12\x7f", "\x13", ("\xff"):rep(12)} do
      local ok, err = pcall(service.call, service, "InferenceGenerate", long(1, ("x"):rep(140000)) .. bytes)
      assert.is_false(ok)
      assert.truthy(err.details:find("cannot be decoded", 1, true), err.details)
    end
  end)

  it("says what it can do, and only that", function()
    local reply = call(service, "GetServerCapabilities", {})
    assert.same({"sampling_batch_v1", "policy_versions_v1", "sampling_policy_pinning_v1",
      "sampling_latest_snapshot_v1", "gradient_scale_v1", "temporary_checkpoints_v1"}, reply.features)
    assert.equal(support.BASE, reply.supported_models[1].model_name)
    assert.same({"prompt_token_echo_v1", "full_weight_rl_v1"}, reply.supported_models[1].features)
    assert.equal(1, #call(service, "GetServerCapabilities", {model_name = support.BASE}).supported_models)
    wrong("nvidia/Kimi is not supported: there are embedded/fake", "GetServerCapabilities",
      {model_name = "nvidia/Kimi"})
  end)

  describe("refuses sessions", function()
    it("with too much in their tags", function()
      local many = {}
      for i = 1, 65 do many["tag" .. i] = "x" end
      wrong("65 tags; at most 64", "CreateSession", {tags = many})
      wrong("at most 128 and 1024", "CreateSession", {tags = {run = ("x"):rep(1025)}})
      wrong("at most 128 and 1024", "CreateSession", {tags = {[("x"):rep(129)] = "run"}})
    end)

    it("that are too many", function()
      for _ = 2, 1000 do call(service, "CreateSession", {}) end
      refused("RESOURCE_EXHAUSTED", "there are 1000 sessions already", "CreateSession", {})
      for _, session in pairs(service.sessions) do session.last = session.last - 61 end
      call(service, "CreateSession", {})   -- those that were left have made room, but not one with a model
      assert.equal(2, service.session_count)
      assert.is_table(call(service, "GetInfo", {model_id = model_id}))
    end)

    it("that it does not know", function()
      assert.is_false(call(service, "SessionHeartbeat", {session_id = "sess-none"}).success)
      for method, request in pairs{CreateTrainingDataAttestation = {artifacts = {{name = "a"}}},
        CreateModel = {model_seq_id = 1}, ReleaseImage = {close_session = true}} do
        request.session_id = "sess-none"
        refused("NOT_FOUND", "no session sess-none", method, request)
      end
    end)
  end)

  it("judges manifests", function()
    local artifact = {name = "data.jsonl", content = "abc"}
    local function attest(list) return {session_id = session_id, artifacts = list} end
    wrong("no artifacts", "CreateTrainingDataAttestation", attest{})
    wrong("artifacts[0] has no name", "CreateTrainingDataAttestation", attest{{content = "x"}})
    artifact.expected_sha256 = ("0"):rep(64)
    wrong("data.jsonl has the SHA-256 ba7816bf", "CreateTrainingDataAttestation", attest{artifact})
    artifact.expected_sha256 = "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD"
    local reply = call(service, "CreateTrainingDataAttestation", attest{artifact})
    assert.equal(3, reply.artifacts[1].size_bytes)
    assert.equal(artifact.expected_sha256:lower(), reply.artifacts[1].sha256)
    refused("FAILED_PRECONDITION", "no manifest att-none in this session", "CreateModel",
      {session_id = session_id, model_seq_id = 2, base_model = support.BASE, full_weight = true,
        training_data_attestation_id = "att-none"})
    local made = run(service, "CreateModel", {session_id = session_id, model_seq_id = 2, full_weight = true,
      base_model = support.BASE, training_data_attestation_id = reply.training_data_attestation_id})
    assert.equal(session_id .. ":model:2", made.create_model.model_id)
  end)

  it("sees no images", function()
    refused("UNIMPLEMENTED", "see no images", "UploadImage", {session_id = session_id, data = "x"})
    refused("UNIMPLEMENTED", "see no images", "ReleaseImage", {session_id = session_id, image_handle = "x"})
    call(service, "ReleaseImage", {session_id = session_id, close_session = true})
    wrong("prompt 0: the model sees no images", "SampleFromTraining", {model_id = model_id,
      prompts = {{prompt = "a", max_tokens = 1, temperature = 1, top_p = 1, images = {"x"}}}})
  end)

  describe("refuses models", function()
    local function create(more)
      local request = {session_id = session_id, model_seq_id = 2, base_model = support.BASE,
        lora_config = {rank = 4, train_attn = true}}
      for name, value in pairs(more) do request[name] = value ~= false and value or nil end
      return request
    end

    it("that do not make sense", function()
      wrong("base_model is empty", "CreateModel", create{base_model = ""})
      wrong("nothing is not supported: there are embedded/fake", "CreateModel", create{base_model = "nothing"})
      wrong("exactly one of lora_config and full_weight", "CreateModel", create{full_weight = true})
      wrong("exactly one of lora_config and full_weight", "CreateModel", create{lora_config = false})
      wrong("train_router needs full_weight", "CreateModel", create{train_router = true})
      wrong("is a dense model, it has no router", "CreateModel",
        create{train_router = true, full_weight = true, lora_config = false})
      for _, rank in ipairs{0, 33, -1} do
        wrong(("a LoRA rank of %d; 1 to 32"):format(rank), "CreateModel",
          create{lora_config = {rank = rank, train_mlp = true}})
      end
      wrong("nothing is to be trained", "CreateModel", create{lora_config = {rank = 4}})
      wrong("alpha is 0", "CreateModel", create{lora_config = {rank = 4, train_mlp = true, alpha = 0}})
      wrong("alpha is nan", "CreateModel", create{lora_config = {rank = 4, train_mlp = true, alpha = 0 / 0}})
    end)

    it("out of their order", function()
      wrong("model_seq_id 0, 2 was expected", "CreateModel", create{model_seq_id = 0})
      wrong("model_seq_id 3, 2 was expected", "CreateModel", create{model_seq_id = 3})
      wrong("base_model is empty", "CreateModel", create{model_seq_id = 4, base_model = ""})
      assert.is_table(run(service, "CreateModel", create{model_seq_id = 4}).create_model)
      assert.is_table(run(service, "CreateModel", create{model_seq_id = 5}).create_model)
      wrong("CreateModel repeats model_seq_id 1 with another content", "CreateModel", create{model_seq_id = 1,
        full_weight = true, lora_config = false})
    end)

    it("that are too many at once", function()
      local last
      for i = 2, 64 do last = run(service, "CreateModel", create{model_seq_id = i}).create_model.model_id end
      refused("RESOURCE_EXHAUSTED", "has 64 models already", "CreateModel", create{model_seq_id = 65})
      run(service, "UnloadModel", {model_id = last})
      assert.is_table(run(service, "CreateModel", create{model_seq_id = 65}).create_model)
    end)

    it("that it does not know, or no more", function()
      local requests = {GetInfo = {}, UnloadModel = {}, Forward = {}, ForwardBackward = {}, OptimStep = {},
        SaveWeights = {}, LoadWeights = {}, CreateUpload = {}, PrepareLoss = {}, ChatCompleteFromTraining = {},
        SampleFromTraining = {}}
      for method, request in pairs(requests) do
        request.model_id = "none"
        refused("NOT_FOUND", "no model none", method, request)
      end
      run(service, "UnloadModel", {model_id = model_id})
      for method, request in pairs(requests) do
        request.model_id = model_id
        refused("NOT_FOUND", ("model %s is unloaded"):format(model_id), method, request)
      end
    end)
  end)

  describe("refuses passes", function()
    local seq

    before_each(function() seq = 0 end)

    local function pass(more, fields)
      seq = seq + 1
      local request = {model_id = model_id, seq_id = seq, forward_backward_input = support.input(more)}
      for name, value in pairs(fields or {}) do request[name] = value ~= false and value or nil end
      return request
    end

    it("that are wrong as a whole", function()
      wrong("ForwardBackward without a seq_id", "ForwardBackward", pass({}, {seq_id = false}))
      seq = 0
      wrong("no data", "ForwardBackward", pass{data = {}})
      wrong("no data", "ForwardBackward", pass({}, {forward_backward_input = false}))
      wrong("no loss is called 'nothing'", "ForwardBackward", pass{loss_fn = "nothing"})
      wrong("no loss is called ''", "ForwardBackward", pass{loss_fn = ""})
      wrong("loss_fn_config: ppo knows no eps_max", "ForwardBackward",
        pass{loss_fn = "ppo", loss_fn_config = {eps_max = 1}})
      wrong("loss_fn_config: clip_low is not finite", "ForwardBackward",
        pass{loss_fn = "ppo", loss_fn_config = {clip_low = 0 / 0}})
      wrong("loss_fn_config: eps_max is not positive", "ForwardBackward",
        pass{loss_fn = "cispo", loss_fn_config = {eps_max = 0}})
      wrong("loss_fn_config: logprob_temperature is not positive", "ForwardBackward",
        pass{loss_fn_config = {logprob_temperature = -1}})
      wrong("it has no experts", "ForwardBackward", pass{force_routing_replay = "ids"})
      wrong("it has no experts", "ForwardBackward", pass{compute_expert_flip_metric = true})
      wrong("datum 0: the model sees no images", "ForwardBackward",
        pass{data = {{data = "", resolved_image_handles = {"x"}}}})
      seq = seq + 1
      wrong("Forward with gradients", "Forward",
        {model_id = model_id, seq_id = seq, forward_input = support.input()})
    end)

    it("with another policy than expected", function()
      local policy = call(service, "GetInfo", {model_id = model_id}).policy_version.id
      refused("FAILED_PRECONDITION", "policy pol-none was expected, " .. policy .. " is current",
        "ForwardBackward", pass({}, {expected_policy_id = "pol-none"}))
      assert.is_table(run(service, "ForwardBackward", pass({}, {expected_policy_id = policy})).forward_backward)
    end)

    it("of datums that the engine refuses, when their result is asked for", function()
      local datum = require("training.datum").encode(support.datum{input_ids = {1, 2, 256}})
      local id = call(service, "ForwardBackward", pass{data = {{data = datum}}}).request_id
      for _ = 1, 2 do
        refused("INVALID_ARGUMENT", "datum 0: input_ids[0] is 256", "RetrieveFuture", {request_id = id})
      end
      assert.is_table(run(service, "ForwardBackward", pass()).forward_backward)   -- the next one is not hurt
    end)

    it("out of their order", function()
      wrong("has seq_id 7, 1 was expected", "ForwardBackward", pass({}, {seq_id = 7}))
      wrong("has seq_id 7, 8 was expected", "ForwardBackward", pass({}, {seq_id = 7}))
      assert.is_table(run(service, "ForwardBackward", pass({}, {seq_id = 8})).forward_backward)
      wrong("repeats seq_id 8 with another content", "ForwardBackward",
        pass({init_gradients = false}, {seq_id = 8}))
      wrong("repeats seq_id 8 with another content", "OptimStep",
        {model_id = model_id, seq_id = 8, adam_params = support.adam()})
      wrong("has seq_id -1, 9 was expected", "ForwardBackward", pass({}, {seq_id = -1}))
    end)

    it("of custom losses that are none", function()
      wrong("the model other, embedded/fake was expected", "PrepareLoss",
        {model_id = model_id, model_name = "other", graph = "{}"})
      wrong("datum 0: __river_loss_graph_v1 is missing", "ForwardBackward", pass{loss_fn = "loss_graph_v1"})
      wrong("datum 0: ", "ForwardBackward", pass{loss_fn = "loss_graph_v1", data = {{data = "no NEST"}}})
      if not pcall(require, "riverlua.core.trainer") then return end
      wrong("loss graph: ", "PrepareLoss", {model_id = model_id, model_name = support.BASE, graph = "{}"})
      wrong("loss graph: not JSON", "PrepareLoss", {model_id = model_id, model_name = support.BASE, graph = "{"})
    end)
  end)

  describe("refuses uploads", function()
    local function upload(more)
      local request = {model_id = model_id, total_size = 10, chunk_count = 2}
      for name, value in pairs(more or {}) do request[name] = value end
      return request
    end

    it("that are too large", function()
      wrong("0 chunks, 1 to 16", "CreateUpload", upload{chunk_count = 0})
      wrong("17 chunks, 1 to 16", "CreateUpload", upload{chunk_count = 17})
      wrong("an upload of 1 bytes", "CreateUpload", upload{total_size = 1})
      wrong("an upload of 1073741825 bytes", "CreateUpload", upload{total_size = (1 << 30) + 1})
      for _ = 1, 256 do call(service, "CreateUpload", upload()) end
      refused("RESOURCE_EXHAUSTED", "256 uploads have been begun", "CreateUpload", upload())
    end)

    it("whose chunks are wrong", function()
      local id = call(service, "CreateUpload", upload()).upload_id
      local function chunk(index, data) return {upload_id = id, chunk_index = index, data = data} end
      refused("NOT_FOUND", "no upload up-none", "UploadChunk", {upload_id = "up-none", data = "x"})
      wrong("chunk 2 of 2", "UploadChunk", chunk(2, "x"))
      wrong("chunk 0 is empty", "UploadChunk", chunk(0, ""))
      call(service, "UploadChunk", chunk(0, "12345"))
      call(service, "UploadChunk", chunk(0, "12345"))
      wrong("chunk 0 with another content", "UploadChunk", chunk(0, "54321"))
      wrong("has more than the 10 bytes", "UploadChunk", chunk(1, "123456"))
    end)

    it("that are used too early, twice or by others", function()
      local thin = {model_id = model_id, seq_id = 1}
      local whole = {model_id = model_id, seq_id = 1, forward_backward_input = support.input()}
      local bytes = protobuf.training:message("river.api.v1.ForwardBackwardRequest"):encode(whole)
      local id = call(service, "CreateUpload", upload{total_size = #bytes}).upload_id
      thin.upload_id = id
      wrong("lacks the chunks 0, 1", "ForwardBackward", thin)
      call(service, "UploadChunk", {upload_id = id, chunk_index = 1, data = bytes:sub(11)})
      wrong("lacks the chunks 0", "ForwardBackward", thin)
      call(service, "UploadChunk", {upload_id = id, chunk_index = 0, data = bytes:sub(1, 9)})
      wrong("were announced", "ForwardBackward", thin)
      wrong("both an upload and an input", "ForwardBackward", {model_id = model_id, seq_id = 1, upload_id = id,
        forward_backward_input = support.input()})
      refused("NOT_FOUND", "no upload none of " .. model_id, "ForwardBackward",
        {model_id = model_id, seq_id = 1, upload_id = "none"})

      id = call(service, "CreateUpload", upload{total_size = #bytes}).upload_id
      thin.upload_id = id
      call(service, "UploadChunk", {upload_id = id, chunk_index = 1, data = bytes:sub(11)})
      call(service, "UploadChunk", {upload_id = id, chunk_index = 0, data = bytes:sub(1, 10)})
      local first = call(service, "ForwardBackward", thin).request_id
      assert.equal(3, support.result(service, first).forward_backward.usage.training_tokens)
      assert.equal(first, call(service, "ForwardBackward", thin).request_id)   -- the same request again
      thin.seq_id = 2
      refused("NOT_FOUND", "no upload", "ForwardBackward", thin)
    end)

    it("that say something else than the request that names them", function()
      local whole = {model_id = model_id, seq_id = 2, forward_backward_input = support.input()}
      local bytes = protobuf.training:message("river.api.v1.ForwardBackwardRequest"):encode(whole)
      local id = call(service, "CreateUpload", upload{total_size = #bytes, chunk_count = 1}).upload_id
      call(service, "UploadChunk", {upload_id = id, chunk_index = 0, data = bytes})
      wrong("seq_id is 1 in the request, 2 in the upload", "ForwardBackward",
        {model_id = model_id, seq_id = 1, upload_id = id})
      id = call(service, "CreateUpload", upload{total_size = 2, chunk_count = 1}).upload_id
      call(service, "UploadChunk", {upload_id = id, chunk_index = 0, data = "\xff\xff"})
      wrong("is no request", "ForwardBackward", {model_id = model_id, seq_id = 2, upload_id = id})
    end)
  end)

  it("refuses steps", function()
    local seq = 0
    local function step(more)
      seq = seq + 1
      return {model_id = model_id, seq_id = seq, adam_params = support.adam(more)}
    end
    wrong("adam_params are missing", "OptimStep", {model_id = model_id, seq_id = 1})
    seq = 1
    for _, name in ipairs{"learning_rate", "beta1", "beta2", "eps", "weight_decay", "grad_clip_norm",
      "gradient_scale"} do
      wrong(("adam_params: %s is nan"):format(name), "OptimStep", step{[name] = 0 / 0})
      wrong(("adam_params: %s is -1"):format(name), "OptimStep", step{[name] = -1})
      wrong(("adam_params: %s is inf"):format(name), "OptimStep", step{[name] = math.huge})
    end
    wrong("adam_params: grad_clip_norm is 0", "OptimStep", step{grad_clip_norm = 0})
    wrong("adam_params: gradient_scale is 0", "OptimStep", step{gradient_scale = 0})
    wrong("adam_params: eps is 0", "OptimStep", step{eps = 0})
    wrong("adam_params: a beta is 1 or more", "OptimStep", step{beta2 = 1})
    local params = step()
    params.adam_params.eps = nil
    wrong("adam_params: eps is missing", "OptimStep", params)
    local keyed = step()
    keyed.idempotency_key = "k"
    local first = call(service, "OptimStep", keyed).request_id
    assert.equal(first, call(service, "OptimStep", keyed).request_id)
    keyed.adam_params.learning_rate = 1
    wrong("the idempotency_key k with another step", "OptimStep", keyed)
    keyed.idempotency_key, keyed.seq_id = "l", seq + 1
    keyed.expected_policy_id = "pol-none"
    refused("FAILED_PRECONDITION", "policy pol-none was expected", "OptimStep", keyed)
  end)

  it("refuses checkpoints", function()
    local seq = 0
    local function save(more)
      seq = seq + 1
      local request = {model_id = model_id, seq_id = seq, path = run_id .. "/a", mode = "training", durable = true}
      for name, value in pairs(more or {}) do request[name] = value end
      return request
    end
    local function load(path, optimizer)
      seq = seq + 1
      return {model_id = model_id, seq_id = seq, path = path, optimizer = optimizer}
    end
    for _, path in ipairs{"a", "other/a", run_id, run_id .. "/", ""} do
      wrong("NAME was expected", "SaveWeights", save{path = path})
    end
    for _, name in ipairs{"../b", "a//b", "a/./b", "a/"} do
      wrong("is no path of names", "SaveWeights", save{path = run_id .. "/" .. name})
    end
    wrong("no control characters", "SaveWeights", save{path = run_id .. "/a\nb"})
    wrong("at most 200 bytes", "SaveWeights", save{path = run_id .. "/" .. ("x"):rep(201)})
    wrong("no mode is called 'other'", "SaveWeights", save{mode = "other"})
    wrong("publish is for full weights", "SaveWeights", save{mode = "publish"})
    wrong("ttl_seconds is 0", "SaveWeights", save{ttl_seconds = 0})
    wrong("ttl_seconds is 31536001", "SaveWeights", save{ttl_seconds = 31536001})
    refused("FAILED_PRECONDITION", "policy x was expected", "SaveWeights", save{expected_policy_id = "x"})
    refused("NOT_FOUND", "no checkpoint river://x/weights/y", "LoadWeights", load("river://x/weights/y"))
    local path = run(service, "SaveWeights", save{mode = "inference"}).save_weights.path
    refused("FAILED_PRECONDITION", path .. " holds no optimizer", "LoadWeights", load(path, true))
    assert.is_table(run(service, "LoadWeights", load(path)).load_weights)
  end)

  it("has no checkpoint under what is no path", function()
    for i, path in ipairs{"", "a", "river://x", "river:///weights/a", "river://r/weights/../a",
      "river://r/weights/" .. ("x"):rep(300)} do
      refused("NOT_FOUND", "no checkpoint " .. path, "LoadWeights", {model_id = model_id, seq_id = i, path = path})
      refused("NOT_FOUND", "no checkpoint " .. path, "SampleFromCheckpoint", {checkpoint_path = path})
      refused("NOT_FOUND", "no checkpoint " .. path, "ChatCompleteFromCheckpoint", {checkpoint_path = path})
    end
  end)

  it("refuses checkpoints of other models", function()
    local saved = run(service, "SaveWeights", {model_id = model_id, seq_id = 1, path = run_id .. "/a",
      mode = "training"}).save_weights.path
    local function other(more)
      local id, _, run_of = support.raw_model(service, more)
      return id, run_of
    end
    local function load(id, path) return {model_id = id, seq_id = 1, path = path} end
    refused("FAILED_PRECONDITION", "holds an adapter with the rank 4, that of the model has 8", "LoadWeights",
      load(other{lora_config = {rank = 8, train_attn = true}}, saved))
    refused("FAILED_PRECONDITION", "holds an adapter with train_mlp false, that of the model has true",
      "LoadWeights", load(other{lora_config = {rank = 4, train_attn = true, train_mlp = true}}, saved))
    local full, full_run = other{lora_config = false, full_weight = true}
    refused("FAILED_PRECONDITION", "holds an adapter, the model has full weights", "LoadWeights",
      load(full, saved))
    wrong("full weights are saved immutable only", "SaveWeights",
      {model_id = full, seq_id = 2, path = full_run .. "/a", mode = "training"})
    assert.is_table(run(service, "LoadWeights", load(other(), saved)).load_weights)
  end)

  describe("refuses samples", function()
    local function sample(more)
      local prompt = {prompt = "abc", max_tokens = 4, temperature = 1, top_p = 1, top_k = -1}
      for name, value in pairs(more) do prompt[name] = value end
      local fine = {prompt = "abc", max_tokens = 4, temperature = 1, top_p = 1, top_k = -1}
      return {model_id = model_id, prompts = {fine, prompt}}
    end

    it("that are not possible", function()
      for text, more in pairs{
        ["max_tokens must be at least 1, got 0"] = {max_tokens = 0},
        ["max_tokens must be at least 1, got -5"] = {max_tokens = -5},
        ["temperature must be 0 or more, got -0.5"] = {temperature = -0.5},
        ["temperature must be 0 or more, got nan"] = {temperature = 0 / 0},
        ["temperature must be 0 or more, got inf"] = {temperature = math.huge},
        ["top_p must be above 0 and at most 1, got 0"] = {top_p = 0},
        ["top_p must be above 0 and at most 1, got 1.5"] = {top_p = 1.5},
        ["top_k must be -1 (off) or more, got -2"] = {top_k = -2},
        ["logprobs must be from 0 to 256, got 257"] = {logprobs = 257},
        ["logprobs must be from 0 to 256, got -1"] = {logprobs = -1},
        ["an empty stop string"] = {stop = {"a", ""}},
        ["both prompt and input_ids"] = {input_ids = {1}},
        ["return_expert_routing: the model is dense"] = {return_expert_routing = true},
        ["no cache is kept here"] = {kv_cache_policy = {}},
      } do
        wrong("prompt 1: " .. text, "SampleFromTraining", sample(more))
        local request = sample(more)
        wrong("prompt 1: " .. text, "InferenceGenerate", {base_model = support.BASE, prompts = request.prompts})
      end
      wrong("prompt 1: neither prompt nor input_ids", "SampleFromTraining", sample{prompt = ""})
      wrong("no prompts", "SampleFromTraining", {model_id = model_id})
    end)

    it("of tokens that there are not, and of contexts too long", function()
      wrong("prompt 1: the token 256 is not in the vocabulary, whose ids are 0 to 255", "SampleFromTraining",
        sample{prompt = "", input_ids = {1, 256}})
      wrong("prompt 1: the token -1 is not in the vocabulary", "SampleFromTraining",
        sample{prompt = "", input_ids = {1, -1}})
      wrong("prompt 1 has 64 tokens, and the context of embedded/fake is 64, of which at least one is for the "
        .. "answer: shorten the prompt to 63 or fewer", "SampleFromTraining", sample{prompt = ("x"):rep(64)})
      local response = run(service, "SampleFromTraining", sample{prompt = ("x"):rep(62), max_tokens = 100})
      assert.equal(2, #response.inference.results[2].token_ids)   -- it ends with the context
    end)

    it("whose results would be too large", function()
      local prompts = {}
      for i = 1, 3000 do prompts[i] = {prompt = "ab", max_tokens = 60, top_p = 1, logprobs = 256} end
      local request = {model_id = model_id, prompts = prompts}
      wrong("the results may come to 353 MiB, and 256 are the most: ask for fewer", "SampleFromTraining", request)
      for i = 1, 3000 do prompts[i].max_tokens, prompts[i].return_prompt_logprobs = 43, true end
      wrong("the results may come to 265 MiB", "SampleFromTraining", request)
      for i = 1, 3000 do prompts[i].return_prompt_logprobs = false end
      assert.is_string(call(service, "SampleFromTraining", request).request_id)
    end)

    it("of what it does not have", function()
      wrong("nothing is not supported", "InferenceGenerate", {base_model = "nothing", prompts = sample{}.prompts})
      refused("NOT_FOUND", "no checkpoint x", "SampleFromCheckpoint",
        {checkpoint_path = "x", prompts = sample{}.prompts})
      local saved = run(service, "SaveWeights", {model_id = model_id, seq_id = 1, path = run_id .. "/a",
        mode = "inference"}).save_weights.path
      wrong("is of embedded/fake, not of other", "SampleFromCheckpoint",
        {checkpoint_path = saved, base_model = "other", prompts = sample{}.prompts})
    end)
  end)

  describe("refuses batches", function()
    local digest = require "riverlua.digest"

    local function batch(more, inner)
      local prompts = {{prompt = "abc", max_tokens = 4, temperature = 1, top_p = 1, top_k = -1}}
      local request = {idempotency_key = digest.uuid(), training = {model_id = model_id, prompts = prompts}}
      for name, value in pairs(inner or {}) do request.training[name] = value end
      for name, value in pairs(more or {}) do request[name] = value ~= false and value or nil end
      return request
    end

    it("that are wrong", function()
      wrong("the idempotency_key '' is not a UUID", "SubmitSamplingBatch", batch{idempotency_key = ""})
      wrong("is not a UUID", "SubmitSamplingBatch", batch{idempotency_key = ("0"):rep(36)})
      wrong("a sampling batch without a source", "SubmitSamplingBatch", batch{training = false})
      wrong("0 prompts, 1 to 128 are taken", "SubmitSamplingBatch", batch({}, {prompts = {}}))
      local many = {}
      for i = 1, 129 do many[i] = batch().training.prompts[1] end
      wrong("129 prompts, 1 to 128 are taken", "SubmitSamplingBatch", batch({}, {prompts = many}))
      wrong("a policy is chosen, but the source is no training", "SubmitSamplingBatch", batch{training = false,
        base_source = {base_model = support.BASE}, pinned_policy_id = "x"})
      wrong("both a pinned policy and the latest snapshot", "SubmitSamplingBatch", batch{pinned_policy_id = "x",
        policy_selection = "SAMPLING_POLICY_SELECTION_LATEST_SNAPSHOT"})
      refused("FAILED_PRECONDITION", "has no immutable inference snapshot", "SubmitSamplingBatch",
        batch{policy_selection = "SAMPLING_POLICY_SELECTION_LATEST_SNAPSHOT"})
      refused("FAILED_PRECONDITION", "policy x is not available", "SubmitSamplingBatch",
        batch{pinned_policy_id = "x"})
      wrong("prompt 0: max_tokens must be", "SubmitSamplingBatch", batch({}, {prompts = {{prompt = "a"}}}))
    end)

    it("with caches, which there are none of", function()
      local group = digest.uuid()
      wrong("belong together", "SubmitSamplingBatch", batch{retained_kv_groups = {group}})
      wrong("belong together", "SubmitSamplingBatch", batch{kv_cache_policy = {}})
      wrong("2 retained_kv_groups for 1 prompts", "SubmitSamplingBatch",
        batch{retained_kv_groups = {group, digest.uuid()}, kv_cache_policy = {}})
      refused("UNIMPLEMENTED", "(retained_kv_v1)", "SubmitSamplingBatch",
        batch{retained_kv_groups = {group}, kv_cache_policy = {max_staleness = 1}})
    end)

    it("with a key that was used for another", function()
      local request = batch()
      local ids = call(service, "SubmitSamplingBatch", request).request_ids
      assert.same(ids, call(service, "SubmitSamplingBatch", request).request_ids)
      request.training.prompts[1].max_tokens = 5
      wrong("with another batch", "SubmitSamplingBatch", request)
      wrong("is a sample of a batch", "RetrieveFuture", {request_id = ids[1]})
    end)

    it("and handles that it does not know are told one by one", function()
      local id = call(service, "SubmitSamplingBatch", batch()).request_ids[1]
      local replies = support.stream(service, "RetrieveSamplingResults", {request_ids = {"none", id}})
      assert.equal(2, #replies)
      assert.same({"none", 5, "no sample none"}, {replies[1].request_id, replies[1].error.code,
        replies[1].error.message})
      assert.equal(id, replies[2].request_id)
      local ok, err = pcall(support.stream, service, "RetrieveSamplingResults", {})
      assert.is_false(ok)
      assert.truthy(err.details:find("0 handles, 1 to 128 are taken", 1, true))
      ok, err = pcall(support.stream, service, "RetrieveSamplingResults", {request_ids = {id, id}})
      assert.is_false(ok)
      assert.truthy(err.details:find("twice", 1, true))
    end)
  end)

  it("knows the requests that it has given ids", function()
    refused("NOT_FOUND", "no request req-none", "RetrieveFuture", {request_id = "req-none"})
    local id = call(service, "ForwardBackward", {model_id = model_id, seq_id = 1,
      forward_backward_input = support.input()}).request_id
    wrong("is asked for with the model other, " .. model_id .. " is right", "RetrieveFuture",
      {request_id = id, model_id = "other"})
    assert.is_table(support.result(service, id, model_id).forward_backward)
  end)
end)
