-- Large requests in chunks: over how many connections they go, what is tried again, and when they go in one piece.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(folder .. "support.lua")
local array = require "riverlua.array"
local training = require "training"

local failure = support.failure
local servers = support.standin.servers

local THRESHOLD, CHUNK = 100000, 16384

describe("a large request", function()
  local server, small, data
  setup(function()
    server = support.standin.start{seed = 1}
    small = support.sampled(server)
    -- the datum that has a gradient, and one that only fills
    local count = 10000
    data = {small, {input_ids = array.fill("int64", count, 49), attention_mask = array.fill("int64", count, 1),
      old_logprobs = array.fill("float32", count, 0), advantages = array.fill("float32", count, 0)}}
  end)
  teardown(function() server:close() end)
  before_each(function() server:reset() end)
  after_each(function() assert.same({}, server:violations()) end)

  -- A model of a client with small limits, and the list of its warnings.
  local function start(upload, more)
    local warnings = {}
    local own = {threshold = THRESHOLD, chunk = CHUNK}
    for name, value in pairs(upload or {}) do own[name] = value end
    local options = {upload = own, warn = function(text) warnings[#warnings + 1] = text end}
    for name, value in pairs(more or {}) do options[name] = value end
    local model, _, client, pauses = support.start(server, options)
    return model, client, warnings, pauses
  end

  local function pass(model, options)
    local all = {data = data, loss_fn = "importance_sampling"}
    for name, value in pairs(options or {}) do all[name] = value end
    return model:forward_backward(all)
  end

  local function the_upload()
    local found
    for _, upload in pairs(server:state().uploads) do
      assert.is_nil(found, "one upload")
      found = upload
    end
    return found
  end

  it("goes in chunks over several connections, and a thin request refers to it", function()
    local model, client <close>, warnings = start({threshold = 1 << 30})
    local whole = pass(model, {expected_policy_id = model:get_policy_version().id})
    local gradient, size = server:model().gradient, server:log("ForwardBackward")[1].bytes
    local request = server:requests("ForwardBackward")[1]
    assert.is_true(size > 200000)
    client:close()
    server:reset()

    local thin, other <close> = start()
    local result = pass(thin, {expected_policy_id = thin:get_policy_version().id})
    assert.equal(gradient, server:model().gradient)
    assert.same(whole.metrics, result.metrics)
    local upload = the_upload()
    assert.is_true(upload.used)
    assert.equal(size, upload.size)
    local chunks = (size + CHUNK - 1) // CHUNK
    assert.equal(chunks, upload.count)
    assert.equal(chunks, server:count("UploadChunk"))
    assert.equal(6, #upload.peers)
    assert.equal(1, server:count("CreateUpload"))
    local sent = server:requests("ForwardBackward")[1]
    assert.equal(request.seq_id, sent.seq_id)
    assert.equal(request.expected_policy_id, sent.expected_policy_id)
    assert.truthy(sent.upload_id)
    assert.is_nil(sent.forward_backward_input)
    assert.is_true(server:log("ForwardBackward")[1].bytes < 200)
    -- every connection of an upload has its own part of the chunks
    for _, call in ipairs(server:log("UploadChunk")) do
      assert.is_true(call.bytes <= CHUNK + 64)
      assert.is_true(call.deadline <= 120)
    end
    assert.same({}, warnings)
    other:close()
  end)

  it("has at most sixteen chunks", function()
    local model, client <close> = start{chunk = 1000}
    pass(model)
    local upload = the_upload()
    assert.equal(16, upload.count)
    assert.equal(16, server:count("UploadChunk"))
    client:close()
  end)

  it("uses as many connections as the service allows, and as the option says", function()
    for _, case in ipairs{{server = 2, own = 6, wanted = 2}, {server = 6, own = 3, wanted = 3},
      {server = 1, own = 6, wanted = 1}, {server = 0, own = 4, wanted = 4}, {server = 40, own = 5, wanted = 5}} do
      server:reset()
      server:configure{max_parallelism = case.server}
      local model, client <close> = start{parallelism = case.own}
      pass(model)
      assert.equal(case.wanted, #the_upload().peers)
      client:close()
    end
  end)

  it("below the threshold goes in one piece, and so does a pass without gradients", function()
    local model, client <close> = start()
    model:forward_backward({small}, "importance_sampling")
    model:forward(data, "importance_sampling")
    assert.equal(0, server:count("CreateUpload"))
    client:close()
  end)

  it("tries each chunk three times, with pauses", function()
    local model, client <close>, warnings, pauses = start()
    server:fault{method = "UploadChunk", status = "INTERNAL", times = 2, match = {chunk_index = 3}}
    pass(model)
    local tries = 0
    for _, request in ipairs(server:requests("UploadChunk")) do
      if request.chunk_index == 3 then tries = tries + 1 end
    end
    assert.equal(3, tries)
    assert.same({2, 4}, pauses)
    assert.same({}, warnings)
    assert.is_true(the_upload().used)
    client:close()
  end)

  it("survives chunks whose connection is cut, before and after they were stored", function()
    local model, client <close>, warnings = start()
    server:fault{{method = "UploadChunk", cut = "after", after = 2},
      {method = "UploadChunk", cut = "before", after = 4},
      {method = "UploadChunk", status = "UNAVAILABLE", after = 5}}
    pass(model)
    assert.same({}, warnings)
    assert.is_true(the_upload().used)
    assert.equal(1, server:model().backwards)
    assert.equal(1, server:counters().counters.repeated_chunks)
    client:close()
  end)

  describe("that cannot be uploaded", function()
    it("goes in one piece, with a warning", function()
      for _, fault in ipairs{
        {method = "UploadChunk", status = "INTERNAL", details = "disk full", times = -1},
        {method = "CreateUpload", status = "RESOURCE_EXHAUSTED", details = "disk full", times = -1},
      } do
        server:reset()
        local model, client <close>, warnings = start()
        server:fault(fault)
        pass(model)
        assert.equal(1, #warnings)
        assert.truthy(warnings[1]:find("^forward_backward: the upload in chunks failed and the request goes in one "
          .. "piece: forward_backward: .*disk full"), warnings[1])
        assert.equal(1, server:count("ForwardBackward"))
        assert.truthy(server:requests("ForwardBackward")[1].forward_backward_input)
        assert.equal(1, server:model().backwards)
        -- the next one is uploaded again
        server:clear()
        pass(model)
        assert.truthy(server:requests("ForwardBackward")[2].upload_id)
        assert.equal(1, #warnings)
        client:close()
      end
    end)

    it("because the service has no uploads, is never tried again by this client", function()
      local model, client <close>, warnings = start()
      server:fault{method = "CreateUpload", status = "UNIMPLEMENTED", times = -1}
      pass(model)
      pass(model)
      assert.equal(1, server:count("CreateUpload"))
      assert.equal(1, #warnings)
      assert.equal(2, server:count("ForwardBackward"))
      assert.equal(2, server:model().backwards)
      client:close()
      server:clear()
      local again, other <close> = start()
      pass(again)
      assert.equal(2, server:count("CreateUpload"))
      other:close()
    end)

    it("is an error with required = true, and its sequence id goes to the next call", function()
      local model, client <close>, warnings = start{required = true}
      server:fault{method = "UploadChunk", status = "INTERNAL", details = "disk full", times = 3,
        match = {chunk_index = 1}}
      local err = failure(pass, model)
      assert.equal("grpc", err.kind)
      assert.equal("INTERNAL", err.code)
      assert.is_false(err.sent)
      assert.same({}, warnings)
      assert.equal(0, server:count("ForwardBackward"))
      pass(model)
      assert.equal(1, server:requests("ForwardBackward")[1].seq_id)
      server:fault{method = "CreateUpload", status = "UNIMPLEMENTED"}
      assert.equal("unsupported", failure(pass, model).kind)
      client:close()
    end)

    it("because the session is lost, is not sent in one piece", function()
      local model, client <close>, warnings = start()
      server:fault{method = "UploadChunk", status = "NOT_FOUND", times = -1}
      server:fault{method = "SessionHeartbeat", refuse = true, times = -1}
      server:expire{session = "all"}
      local err = failure(pass, model)
      assert.equal("session_lost", err.kind)
      assert.same({}, warnings)
      assert.equal(0, server:count("ForwardBackward"))
      client:close()
    end)
  end)

  it("whose reply got lost is sent again as it was, when gradients are cleared first", function()
    local model, client <close> = start()
    server:fault{method = "ForwardBackward", cut = "before"}
    pass(model)
    assert.equal(1, server:count("CreateUpload"))
    local requests = server:requests("ForwardBackward")
    assert.equal(2, #requests)
    assert.same(requests[1], requests[2])
    server:fault{method = "ForwardBackward", cut = "after"}
    assert.equal("unavailable", failure(pass, model, {zero_out = false}).kind)
    assert.equal(3, server:count("ForwardBackward"))
    assert.equal(2, server:model().backwards)
    client:close()
  end)

  describe("settings", function()
    it("come from the environment, unless an option says otherwise", function()
      local script = os.tmpname()
      local file = assert(io.open(script, "w"))
      file:write([[
        local training = require "training"
        local function show(options)
          local ok, client = pcall(training.Client, options)
          if not ok then print(client.kind, client.message) return end
          local own = client.upload
          print(own.threshold, own.chunk, own.parallelism, own.required)
        end
        show{api_key = "key-for-tests"}
        show{api_key = "key-for-tests", upload = {threshold = 7, chunk = 8, parallelism = 9, required = false}}
      ]])
      file:close()
      local function run(environment)
        local pipe = assert(io.popen(("env %s %s %s"):format(environment, servers.quote(servers.riverlua),
          servers.quote(script))))
        local text = pipe:read("a")
        pipe:close()
        return text
      end
      assert.equal("67108864\t33554432\t6\tfalse\n7\t8\t9\tfalse\n", run("-u RIVER_UPLOAD_THRESHOLD_BYTES"))
      assert.equal("100\t200\t3\ttrue\n7\t8\t9\tfalse\n", run("RIVER_UPLOAD_THRESHOLD_BYTES=100 "
        .. "RIVER_UPLOAD_CHUNK_BYTES=200 RIVER_UPLOAD_PARALLELISM=3 RIVER_REQUIRE_CHUNKED_UPLOAD=1"))
      assert.equal("argument\tthe environment variable RIVER_UPLOAD_CHUNK_BYTES must be a positive integer\n"
        .. "7\t8\t9\tfalse\n", run("RIVER_UPLOAD_CHUNK_BYTES=64MiB"))
      os.remove(script)
    end)

    it("that make no sense are refused", function()
      for _, given in ipairs{{threshold = 0}, {chunk = 1.5}, {parallelism = "6"}, {parallel = 6}, {required = 1}} do
        local err = failure(training.Client, {api_key = support.KEY, upload = given})
        assert.equal("argument", err.kind)
        assert.truthy(err.message:find("upload", 1, true), err.message)
      end
    end)
  end)
end)
