-- `riverlua serve training` in trouble: clients that die, sessions that nobody keeps alive, signals, and the end of the
-- server in the middle of a run.

local here = debug.getinfo(1, "S").source:match("^@(.*/)")
local faults = dofile(here .. "../training_embedded/faults.lua")
local array = require "riverlua.array"
local clock = require "riverlua.clock"
local serve = require "training.serve"
local task = require "riverlua.task"
local training = require "training"

local files, servers = faults.files, faults.servers

-- Passes that take their time.
local function many(count)
  local data = {}
  for i = 1, count do
    data[i] = {input_ids = array.fill("int64", 32, 3), weights = array.fill("float32", 32, 1)}
  end
  return data
end

describe("riverlua serve training", function()
  local root
  setup(function() root = faults.new_root() end)
  teardown(function() files.remove(root) end)

  local function start(...)
    return servers.start({servers.riverlua, "serve", "training", "--json", "--stdin", "--port", "0", ...},
      {RIVERLUA_BASE_MODELS = root .. "/bases"})
  end

  local function client_of(server, more)
    local options = {endpoint = server.info.url, api_key = false, http = {proxy = false}, warn = function() end}
    for name, value in pairs(more or {}) do options[name] = value end
    return training.Client(options)
  end

  -- Signals the server's process.
  local function signal(server, name) assert(os.execute(("kill -%s %d"):format(name, server.info.pid))) end

  -- The same numbers wherever they are computed.
  local function numbers(client)
    local model, seen = faults.model(client:session()), {}
    for i = 1, 3 do
      seen[i] = {faults.step(model), table.concat(model:sample{prompts = {"ab"}, max_tokens = 4}[1][1].logprobs, " ")}
    end
    return seen
  end

  local function expected()
    local client <close> = faults.client(root)
    return numbers(client)
  end

  it("refuses what the embedded trainer refuses, in the same words", function()
    local server <close> = start()
    local there <close> = client_of(server)
    local own <close> = faults.client(root)
    local function say(client)
      local session = client:session()
      local model, said = faults.model(session), {}
      for i, bad in ipairs{
        function() model:forward_backward{data = {faults.datum{input_ids = {1, 2, 200}}},
          loss_fn = "cross_entropy"} end,
        function() model:forward_backward{data = {faults.datum{weights = false}}, loss_fn = "cross_entropy"} end,
        function() model:forward_backward{data = {{input_ids = array.fill("int64", 33, 1),
          weights = array.fill("float32", 33, 1)}}, loss_fn = "cross_entropy"} end,
        function() model:optim_step{lr = 1e31} end,
        function() model:sample{prompts = {("a"):rep(32)}} end,
        function() model:sample{prompts = {"a"}, logprobs = 1000000} end,
        function() model:save_weights("../x") end,
        function() model:load_weights("river://x/weights/none") end,
        function() faults.model(session, {base_model = "mine/none"}) end,
        function() model:forward_backward{data = {faults.datum()}, loss_fn = "none"} end,
      } do
        local err = servers.error_of(bad)
        said[i] = err.kind .. ": " .. err.message
      end
      return said
    end
    assert.same(say(own), say(there))
    assert.equal("", server:errors())
  end)

  it("goes on when clients die in the middle of a call", function()
    local server <close> = start()
    local other <close> = client_of(server)
    local model = faults.model(other:session())
    for _, work in ipairs{
      "while true do model:forward_backward{data = data, loss_fn = 'cross_entropy'} end",
      "while true do model:sample{prompts = {'ab'}, num_samples = 3000, max_tokens = 30} end",
      "while true do model:submit_forward_backward{data = data, loss_fn = 'cross_entropy'} end",
      "for _ = 1, 30 do model:submit_sampling_batch({'ab'}, {num_samples = 128, max_tokens = 30}) end task.sleep(60)",
      "while true do model:save_weights('a') end",
    } do
      local result = faults.run(root, ([[
        local client = training.Client{endpoint = arg[2], api_key = false, http = {proxy = false}}
        local model = faults.model(client:session())
        local data = {}
        for i = 1, 1000 do
          data[i] = {input_ids = array.fill("int64", 32, 3), weights = array.fill("float32", 32, 1)}
        end
        local worker = task.spawn(function() %s end)
        local calls = client:stats().calls
        repeat task.sleep(0.001) until client:stats().calls > calls + 2
        signal_me("KILL")
        worker:await()
      ]]):format(work), {server.info.url})
      assert.equal(137, result.code, result.err)
      assert.is_true(faults.step(model) > 0)
    end
    local fresh <close> = client_of(server)
    assert.same(expected(), numbers(fresh))
    assert.equal("", server:errors())
  end)

  it("ends sessions that nobody has kept alive, whatever they have under way", function()
    local served = serve.open{service = require("training.embedded").service{base_models = root .. "/bases"}}
    task.scope(function(scope)
      scope:spawn(served.run, served)
      local server = {info = {url = served.url}}
      local client = client_of(server)
      local session = client:session()
      local model = faults.model(session)
      local waiting = {}
      for i = 1, 3 do
        waiting[i] = model:submit_forward_backward{data = many(2000), loss_fn = "cross_entropy"}
      end
      local late = clock.now() + 1801
      assert.equal(1, served.service:reap(late))
      assert.equal(0, served.service:reap(late))
      for _, one in ipairs(waiting) do
        local ok, err = pcall(one.result, one)
        assert.is_false(ok)
        assert.is_true(err.kind == "not_found" or err.kind == "session_lost", tostring(err))
      end
      local ok, err = pcall(model.sample, model, {prompts = {"a"}})
      assert.is_false(ok)
      assert.is_true(err.kind == "not_found" or err.kind == "session_lost", tostring(err))
      client:close()
      -- what was under way is over, and others find everything as it was
      local other = client_of(server)
      assert.same(expected(), numbers(other))
      assert.equal(0, served.service:stats().pending)
      other:close()
      served:stop()
    end)
    served:close()
  end)

  for _, name in ipairs{"TERM", "INT"} do
    it("ends in the middle of passes by SIG" .. name .. ", and keeps what was saved", function()
      local path = root .. "/signalled-" .. name
      local saved
      do
        local server <close> = start("--folder", path)
        local client = client_of(server, {enable_retries = false})
        local model = faults.model(client:session())
        faults.step(model)
        saved = model:save_weights("a")
        for _ = 1, 20 do model:submit_forward_backward{data = many(1000), loss_fn = "cross_entropy"} end
        local waiting = model:submit_forward_backward{data = many(1000), loss_fn = "cross_entropy"}
        signal(server, name)
        -- done in what time there is left, or given up; a client goes on asking for what it has not been told
        local ok, err = pcall(waiting.result, waiting, 3)
        assert.is_true(ok or err.retryable or err.kind == "session_lost" or err.kind == "timeout", tostring(err))
        assert.is_nil(server.reader:read("l"))        -- until it has ended
        assert.equal("", server:errors())
        pcall(client.close, client)
      end
      local client <close> = faults.client(root, path)
      assert.equal(1, faults.model(client:session(), {checkpoint = saved}).step)
    end)
  end

  it("is killed in the middle of a run, which goes on to the same numbers on the next one", function()
    local function train(client, path, stop)
      local run <close> = training.Run{path = path, client = client,
        model = {base_model = faults.BASE, lora = training.LoraConfig{rank = 4}}}
      for step in run:steps(4) do
        local sample = run.model:sample{prompts = {"ab"}, max_tokens = 6, return_prompt_token_ids = true}[1][1]
        if step == 3 and stop then stop() end
        local norm = run.model:train_step{data = {training.grpo_data(sample.prompt_token_ids, sample, 1.0)},
          lr = 1e-2, loss_fn = "importance_sampling"}.metrics.grad_norm
        run:log{norm = norm, first = sample.logprobs[1]}
      end
      return files.read(path .. "/metrics.jsonl")
    end
    local own <close> = faults.client(root)
    local whole = train(own, root .. "/whole")
    local folder = root .. "/killed"
    do
      local server <close> = start("--folder", folder)
      local client <close> = client_of(server, {enable_retries = false})
      local ok, err = pcall(train, client, root .. "/run", function() signal(server, "KILL") end)
      assert.is_false(ok)
      assert.is_true(err.kind == "unavailable" or err.kind == "session_lost", tostring(err))
    end
    local server <close> = start("--folder", folder)
    local client <close> = client_of(server)
    assert.equal(whole, train(client, root .. "/run"))
    assert.equal("", server:errors())
  end)
end)
