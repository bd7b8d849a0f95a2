-- Sessions: how they are kept, how they get lost, and how they end, also with scripts that fail or are interrupted.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(folder .. "support.lua")
local clock = require "riverlua.clock"
local errors = require "riverlua.errors"
local training = require "training"

local failure = support.failure
local servers = support.standin.servers

-- Heartbeats that notice soon.
local QUICK = {interval = 0.005, pause = 0.001, rejected = 0, silence = 0}

local function quick(more)
  local own = {}
  for name, value in pairs(QUICK) do own[name] = value end
  for name, value in pairs(more or {}) do own[name] = value end
  return {heartbeat = own}
end

describe("a session", function()
  local server
  setup(function() server = support.standin.start{seed = 1} end)
  teardown(function() server:close() end)
  before_each(function() server:reset() end)
  after_each(function() assert.same({}, server:violations()) end)

  -- Waits until the client knows that its last beat failed.
  local function await_failure(session)
    assert.is_true(server:wait("SessionHeartbeat", server:count("SessionHeartbeat") + 4))
    repeat until session.heartbeat:status().failing
  end

  describe("is lost", function()
    for _, how in ipairs{
      {name = "when heartbeats are refused", fault = {refuse = true}, rejected = true},
      {name = "when heartbeats do not get through", fault = {status = "UNAVAILABLE"}},
      {name = "when the key is no longer good", fault = {status = "UNAUTHENTICATED"}, rejected = true},
    } do
      it(how.name .. ", and says where to go on from", function()
        local client <close> = support.client(server)
        support.hurry(client)
        local model, session = support.model(client, quick())
        model:save_weights("older")
        local checkpoint = model:save_weights("kept")
        model:save_weights("not-to-train-from", {mode = "inference"})
        server:fault{method = "SampleFromTraining", never = true}
        local op = model:submit_sample("1 + 1")
        local fault = {method = "SessionHeartbeat", times = -1}
        for name, value in pairs(how.fault) do fault[name] = value end
        server:fault(fault)
        local err = failure(op.result, op)
        assert.equal("session_lost", err.kind)
        assert.equal(how.rejected or nil, err.rejected or nil)
        assert.equal(session.session_id, err.session_id)
        assert.equal(checkpoint.path, err.checkpoint)
        assert.equal(op.request_id, err.request_id)
        assert.is_false(err.retryable)
        assert.equal("its models are gone; make a new session and go on from " .. checkpoint.path, err.hint)
        local wanted = ("submit_sample: session %s: lost: "):format(session.session_id)
        assert.equal(wanted, err.message:sub(1, #wanted))
        -- everything else says so too, before anything is sent
        for _, call in ipairs{
          function() return model:sample("1 + 1") end,
          function() return model:forward_backward({support.datum()}, "importance_sampling") end,
          function() return model:optim_step(1e-3) end,
          function() return model:save_weights("b") end,
          function() return model:submit_sampling_batch("1 + 1"):result() end,
          function() return session:create_model(support.MODEL, {lora = training.LoraConfig{}}) end,
        } do
          local other = failure(call)
          assert.equal("session_lost", other.kind)
          assert.equal(checkpoint.path, other.checkpoint)
        end
        assert.equal(1, server:count("SampleFromTraining"))
        assert.equal(0, server:count("ForwardBackward"))
        assert.equal(0, server:count("OptimStep"))
        assert.equal(3, server:count("SaveWeights"))
        assert.equal(1, server:count("CreateModel"))
        -- there is nothing to unload, and nobody to wait for
        session:close()
        assert.equal(0, server:count("UnloadModel"))
        assert.is_nil(client.sessions[session])
        assert.equal("closed", failure(model.sample, model, "1 + 1").kind)
        assert.is_true(client:health_check())
      end)
    end

    it("and has no checkpoint to go on from", function()
      local client <close> = support.client(server)
      support.hurry(client)
      local model, session = support.model(client, quick())
      server:expire{session = "all"}
      await_failure(session)
      local err = failure(model.sample, model, "1 + 1")
      assert.equal("session_lost", err.kind)
      assert.is_nil(err.checkpoint)
      assert.truthy(err.hint:find("save weights now and then", 1, true))
    end)

    it("while samples are handed over", function()
      local client <close> = support.client(server)
      support.hurry(client)
      server:configure{batch_manual = true}
      local model = support.model(client, quick())
      local batch = model:submit_sampling_batch{"1 + 1", "2 + 2"}
      server:finish{ids = {batch.request_ids[2]}}
      local seen = 0
      local err = failure(function()
        for completion in batch:as_completed() do
          seen = seen + 1
          assert.is_string(completion.sample.text)
          server:expire{session = "all"}
        end
      end)
      assert.equal(1, seen)
      assert.equal("session_lost", err.kind)
    end)

    it("as soon as the service finds no model of it, without waiting for heartbeats", function()
      local client <close> = support.client(server)
      support.hurry(client)
      local calls = {
        function(model) return model:sample("1 + 1") end,
        function(model) return model:get_info() end,
        function(model) return model:forward_backward({support.datum()}, "importance_sampling") end,
        function(model) return model:submit_sampling_batch("1 + 1") end,
        function(model) return model:save_weights("b") end,
        function(model) return model.session:create_model(support.MODEL, {lora = training.LoraConfig{}}) end,
      }
      for _, call in ipairs(calls) do
        local model, session = support.model(client, support.SILENT)
        local checkpoint = model:save_weights("kept")
        server:expire{session = session.session_id}
        server:forget()
        local err = failure(call, model)
        assert.equal("session_lost", err.kind)
        assert.is_true(err.rejected)
        assert.equal(checkpoint.path, err.checkpoint)
        assert.truthy(err.message:find(": the service has ended the session: ", 1, true), err.message)
        assert.equal("not_found", err.cause.kind)
        assert.equal(1, server:count("SessionHeartbeat"))
        session:close()
        assert.equal(0, server:count("UnloadModel"))
      end
    end)

    it("but not when it is only something else that is not found", function()
      local client <close> = support.client(server)
      support.hurry(client)
      local model = support.model(client, support.SILENT)
      local err = failure(model.load_weights, model, "river://nobody/weights/nothing")
      assert.equal("not_found", err.kind)
      assert.equal(1, server:count("SessionHeartbeat"))
      assert.equal(1, #model:sample("1 + 1"))
      -- nor when nobody knows
      server:fault{method = "SessionHeartbeat", status = "INTERNAL"}
      assert.equal("not_found", failure(model.load_weights, model, "river://nobody/weights/nothing").kind)
    end)
  end)

  describe("is kept", function()
    it("through failures that are shorter than it takes to lose it", function()
      local client <close> = support.client(server)
      support.hurry(client)
      local model, session = support.model(client, {heartbeat = {interval = 0.005, pause = 0.001, attempts = 1}})
      server:fault{{method = "SessionHeartbeat", refuse = true, times = 3},
        {method = "SessionHeartbeat", status = "UNAVAILABLE", times = 3}}
      assert.is_true(server:wait("SessionHeartbeat", server:count("SessionHeartbeat") + 10))
      assert.equal(1, #model:sample("1 + 1"))
      assert.is_true(session.heartbeat:status().failures >= 6)
    end)

    it("while a script computes longer than the service would wait", function()
      server:configure{session_ttl = 1.5}
      local client <close> = support.client(server)
      local model, session = support.model(client, {heartbeat = {interval = 0.02}})
      local done = clock.now() + 3.2
      local sum = 0
      repeat   -- nothing here lets an event loop run
        for i = 1, 10000 do sum = sum + i % 7 end
      until clock.now() > done
      assert.equal(1, #model:sample("1 + 1"))
      assert.is_false(server:state().sessions[session.session_id].expired)
    end)
  end)

  describe("that is closed", function()
    it("unloads its models, and stops its heartbeats", function()
      local client <close> = support.client(server)
      local model, session = support.model(client, quick())
      local other = session:create_model(support.MODEL, {lora = training.LoraConfig{rank = 8}})
      assert.is_true(server:wait("SessionHeartbeat", 2))
      session:close()
      assert.equal(2, server:count("UnloadModel"))
      assert.is_true(server:model(model.model_id).unloaded and server:model(other.model_id).unloaded)
      assert.is_true(server:wait_for{open = 1})       -- the client's own
      local beats = server:count("SessionHeartbeat")
      for _ = 1, 20 do client:health_check() end
      assert.equal(beats, server:count("SessionHeartbeat"))
      session:close()                                 -- again: nothing
      assert.equal(2, server:count("UnloadModel"))
    end)

    it("tries to unload all models, and raises what went wrong first", function()
      local client = support.client(server)
      support.hurry(client)
      local _, session = support.model(client, support.SILENT)
      for _ = 1, 2 do session:create_model(support.MODEL, {lora = training.LoraConfig{rank = 8}}) end
      server:fault{{method = "UnloadModel", status = "INTERNAL", details = "first"},
        {method = "UnloadModel", failed = {category = "internal", message = "second"}}}
      local err = failure(session.close, session)
      assert.equal("grpc", err.kind)
      assert.equal("first", err.details)
      assert.equal(1, #err.others)
      assert.equal("failed", err.others[1].kind)
      assert.equal(3, server:count("UnloadModel"))
      assert.is_true(session.closed)
      assert.is_nil(client.sessions[session])
      client:close()
    end)

    it("by a script that fails keeps the script's error", function()
      local client <close> = support.client(server)
      support.hurry(client)
      local model
      local problem = failure(function()
        local session <close> = client:session(support.SILENT)
        model = session:create_model(support.MODEL, {lora = training.LoraConfig{rank = 8}})
        server:fault{method = "UnloadModel", status = "INTERNAL"}
        error("the reward function fails", 0)
      end)
      assert.equal("the reward function fails", problem)
      assert.equal(1, server:count("UnloadModel"))
      assert.is_true(model.session.closed)
    end)

    it("with its client", function()
      local client = support.client(server)
      local model, session = support.model(client, support.SILENT)
      client:close()
      client:close()
      assert.is_true(server:model(model.model_id).unloaded)
      assert.is_true(session.closed)
      for _, call in ipairs{
        function() return client:session() end, function() return client:get_capabilities() end,
        function() return client:health_check() end, function() return client:stats() end,
        function() return client:sample("1 + 1", {base_model = support.MODEL}) end,
        function() return session:create_model(support.MODEL, {lora = training.LoraConfig{}}) end,
        function() return model:sample("1 + 1") end, function() return model:get_info() end,
        function() return model:optim_step(1e-3) end, function() return model:save_weights("a") end,
        function() return session:upload_image("png") end, function() return model:submit_sampling_batch("1 + 1") end,
        function() return model:forward_backward({support.datum()}, "importance_sampling") end,
        function() return client:list_deployments() end,
      } do
        assert.equal("closed", failure(call).kind)
      end
      session:close()
    end)

    it("does not wait for a server that is gone for good", function()
      local own <close> = support.standin.start{seed = 1}
      local client = support.client(own)
      support.hurry(client)
      local _, session = support.model(client, support.SILENT)
      own:close()
      local err
      support.leap(client, function() err = failure(session.close, session) end)
      assert.equal("unavailable", err.kind)
      client:close()
    end)

    it("calls its hooks", function()
      local client <close> = support.client(server)
      local seen = {}
      local function note(name) return function() seen[#seen + 1] = name end end
      local session = client:session{heartbeat = support.SILENT.heartbeat, on_session_created = note("created"),
        on_session_creation_attempted = note("attempted"), on_session_closed = note("closed")}
      session:close()
      session:close()
      assert.same({"attempted", "created", "closed"}, seen)
      server:configure{session_error = "no"}
      failure(client.session, client, {on_session_creation_attempted = note("attempted"),
        on_session_created = note("created")})
      assert.equal(4, #seen)
    end)
  end)

  it("looks before every poll, and may be stopped there", function()
    local client <close> = support.client(server)
    support.hurry(client)
    local count = 0
    local model = support.model(client, {heartbeat = support.SILENT.heartbeat, before_poll = function()
      count = count + 1
      if count > 8 then errors.raise{kind = "argument", message = "stopped by the script"} end
    end})
    server:fault{method = "SampleFromTraining", never = true}
    local err = failure(model.sample, model, "1 + 1")
    assert.equal("stopped by the script", err.message)
    assert.equal(9, count)
    count = -1e9
  end)

  describe("in a script of its own", function()
    -- Runs a script that has `client`, `session` and `model`, and writes "ready" when it is time to interrupt it.
    -- Returns what it wrote and its exit code.
    local function run(body, signal)
      local script = os.tmpname()
      local file = assert(io.open(script, "w"))
      file:write(([[
        local training = require "training"
        local client <close> = training.Client{api_key = "key-for-tests", endpoint = "http://127.0.0.1", port = %d}
        local session <close> = client:session{run = "child", heartbeat = {interval = 1000}}
        local model = session:create_model{base_model = "standin/bytes", lora = training.LoraConfig{rank = 8}}
        local function ready() print("ready") io.stdout:flush() end
        local datum = {input_ids = {49, 43, 50}, old_logprobs = {0.0, -0.5, 0.0}, advantages = {0.0, 0.5, 0.0}}
        %s
      ]]):format(server.port, body))
      file:close()
      local pipe = assert(io.popen(("exec 2>/dev/null; sh -c 'echo $$; exec %s %s 2>&1'; echo exit $?"):format(
        servers.riverlua, script)))
      local pid = pipe:read("l")
      if signal then
        assert.equal("ready", pipe:read("l"))
        signal(pid)
      end
      local text = pipe:read("a")
      pipe:close()
      os.remove(script)
      return text:match("^(.-)\n?exit (%d+)\n$")
    end

    for name, call in pairs{
      ["in a sample"] = [[ready() model:sample("1 + 1")]],
      ["in a batch"] = [[local batch = model:submit_sampling_batch("1 + 1") ready() batch:result()]],
      ["in a step"] = [[local op = model:submit_optim_step(1e-3) ready() op:result()]],
      ["in train_step"] = [[ready() model:train_step({datum}, 1e-3, {loss_fn = "importance_sampling"})]],
    } do
      it("is ended by Ctrl-C " .. name .. ": models are unloaded, and the exit code is 130", function()
        server:fault{
          {method = "SampleFromTraining", never = true}, {method = "OptimStep", never = true},
          {method = "ForwardBackward", never = true},
          {method = "SubmitSamplingBatch", handles = {["0"] = {never = true}}},
        }
        local text, code = run(call, function(pid)
          local polls = name == "in a batch" and "RetrieveSamplingResults" or "RetrieveFuture"
          assert.is_true(server:wait(polls, server:count(polls) + 3))
          assert(os.execute("kill -INT " .. pid))
        end)
        assert.equal("130", code)
        assert.truthy(text:find("interrupted", 1, true), text)
        assert.is_nil(text:find("stack traceback", 1, true), text)
        assert.equal(1, server:count("UnloadModel"))
        assert.is_true(server:model().unloaded)
        assert.is_true(server:wait_for{open = 0})
      end)
    end

    it("unloads models when it fails, and shows its own error", function()
      local text, code = run([[error("the reward function fails")]])
      assert.equal("1", code)
      assert.truthy(text:find("the reward function fails", 1, true))
      assert.is_true(server:model().unloaded)
    end)

    it("unloads models when an error of the service ends it", function()
      server:fault{method = "SampleFromTraining", failed = {category = "internal", message = "out of memory"}}
      local text, code = run([[model:sample("1 + 1")]])
      assert.equal("1", code)
      assert.truthy(text:find("sample: the service failed: internal: out of memory", 1, true), text)
      assert.is_true(server:model().unloaded)
    end)

    it("that is killed leaves its session to the service", function()
      local _, code = run([[ready() while true do model:get_info() end]], function(pid)
        assert(os.execute("kill -KILL " .. pid))
      end)
      assert.equal("137", code)
      assert.is_false(server:model().unloaded)
      assert.is_true(server:wait_for{open = 0})
    end)
  end)
end)
