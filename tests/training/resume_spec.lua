-- Runs that go on: after a crash, a lost session, or a save that fails, θ ends where it would have ended undisturbed.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(folder .. "support.lua")
local json = require "riverlua.json"
local lfs = require "lfs"
local training = require "training"

local failure = support.failure
local servers = support.standin.servers

local STEPS = 8

describe("a resumable run", function()
  local server, datum, path
  setup(function()
    server = support.standin.start{seed = 1}
    datum = support.sampled(server)
  end)
  teardown(function() server:close() end)
  before_each(function()
    server:reset()
    path = os.tmpname()
    os.remove(path)
  end)
  after_each(function()
    for _, suffix in ipairs{"", ".bak", ".lock"} do os.remove(path .. suffix) end
    assert.same({}, server:violations())
  end)

  local function options(client, more)
    local own = {
      path = path, steps = STEPS, every = 2, first_delay = 0.001, client = client, session = support.SILENT,
      model = {base_model = support.MODEL, lora = training.LoraConfig{rank = 8}},
      step = function(model, step, state)
        state.seen = (state.seen or "") .. step
        model:forward_backward({datum}, "importance_sampling")
        model:optim_step(0.01 * step)                  -- so that the order matters
      end,
    }
    for name, value in pairs(more or {}) do own[name] = value end
    return own
  end

  local function run(more)
    local client <close> = support.client(server)
    support.hurry(client)
    return training.resumable(options(client, more))
  end

  -- θ and state of a run that nothing disturbs.
  local function undisturbed()
    local state, record = run()
    local theta = server:model().theta
    assert.equal(STEPS, server:model().optimizer_steps)
    assert.equal(STEPS // 2, server:count("SaveWeights"))
    assert.is_true(record.done)
    os.remove(path)
    server:reset()
    return theta, state
  end

  -- The model that is in training, θ of it.
  local function theta_now() return server:model().theta end

  it("that is undisturbed saves now and then, and does nothing when it is done", function()
    undisturbed()
    run()
    local sessions = server:count("CreateSession")
    local state, record = run()
    assert.equal(sessions, server:count("CreateSession"))
    assert.equal("12345678", state.seen)
    assert.equal(STEPS, record.step)
    assert.truthy(record.checkpoint:find("step%-8$"))
    assert.truthy(record.policy_id)
    assert.equal(server:model().run_id, record.run_id)
  end)

  describe("whose session is lost", function()
    for _, at in ipairs{1, 2, 3, 4, 7} do
      it(("in step %d goes on from what was saved"):format(at), function()
        local theta, state = undisturbed()
        local told = {}
        local own = options(nil)
        local step, expired = own.step, false
        local ended = run{
          step = function(model, number, kept)
            if number == at and not expired then
              expired = true
              server:expire{session = model.session.session_id}
            end
            return step(model, number, kept)
          end,
          on_restart = function(err, saved) told[#told + 1] = {err = err, saved = saved} end,
        }
        assert.equal(theta, theta_now())
        assert.same(state, ended)
        assert.equal(1, #told)
        assert.equal("session_lost", told[1].err.kind)
        assert.equal(at > 2 and (at - 1) // 2 * 2 or nil, told[1].saved and told[1].saved.step)
        assert.equal(2, server:count("CreateSession"))
      end)
    end

    it("again and again is given up after so many restarts without anything saved", function()
      local steps = 0
      local err = failure(run, {restarts = 3, step = function(model)
        steps = steps + 1
        server:expire{session = model.session.session_id}
        model:get_info()
      end})
      assert.equal("session_lost", err.kind)
      assert.equal(4, steps)
      assert.equal(4, server:count("CreateSession"))
    end)

    it("again and again, but with progress, comes to its end", function()
      local own = options(nil)
      local step, last = own.step, 0
      local state = run{restarts = 1, step = function(model, number, kept)
        if number % 2 == 1 and number > last then
          last = number
          server:expire{session = model.session.session_id}
        end
        return step(model, number, kept)
      end}
      assert.equal("12345678", state.seen)
      assert.equal(1 + STEPS // 2, server:count("CreateSession"))
    end)
  end)

  describe("whose weights cannot be saved", function()
    it("for now tries again from what was saved before", function()
      local theta, state = undisturbed()
      server:fault{method = "SaveWeights", status = "RESOURCE_EXHAUSTED", details = "no room", after = 1}
      local told = {}
      local ended = run{on_restart = function(err) told[#told + 1] = err end}
      assert.equal(1, #told)
      assert.equal("capacity", told[1].kind)
      assert.equal(theta, theta_now())
      assert.same(state, ended)
      -- the session of before was ended
      assert.equal(2, server:count("UnloadModel"))
    end)

    it("for good ends with that error, and what was saved before is there", function()
      server:fault{method = "SaveWeights", failed = {category = "storage_floor", message = "no room"}, after = 1}
      local err = failure(run)
      assert.equal("failed", err.kind)
      assert.equal("storage_floor", err.code)
      local saved <close> = training.progress.open(path)
      assert.equal(2, saved:load().step)
      assert.equal(1, server:count("UnloadModel"))
    end)

    it("because the reply is lost, are saved again", function()
      local theta = undisturbed()
      server:fault{{method = "SaveWeights", cut = "after"}, {method = "SaveWeights", cut = "before", after = 1}}
      run()
      assert.equal(theta, theta_now())
      assert.equal(1, server:count("CreateSession"))
    end)
  end)

  it("whose step fails ends with that error, and goes on from what was saved when it is started again", function()
    local theta, state = undisturbed()
    local own = options(nil)
    local err = failure(run, {step = function(model, number, kept)
      own.step(model, number, kept)
      if number == 6 then error("a bug in the reward function", 0) end
    end})
    assert.equal("a bug in the reward function", err)
    assert.is_true(server:model().unloaded)
    local ended = run()
    assert.equal(theta, theta_now())
    assert.same(state, ended)
    assert.equal(1, server:count("LoadWeights"))
  end)

  it("starts with the state that it was given, also after a restart before anything was saved", function()
    local expired = false
    local given = {seen = "0", list = {1, 2}}
    local own = options(nil)
    local state = run{state = given, step = function(model, number, kept)
      own.step(model, number, kept)
      kept.list[#kept.list + 1] = number
      if number == 1 and not expired then
        expired = true
        server:expire{session = model.session.session_id}
        model:get_info()
      end
    end}
    assert.equal("012345678", state.seen)
    assert.same({1, 2, 1, 2, 3, 4, 5, 6, 7, 8}, state.list)
  end)

  describe("in a script that is killed", function()
    local SCRIPT = [[
      local json = require "riverlua.json"
      local training = require "training"
      local datum = json.decode(%q)
      local client <close> = training.Client{api_key = "key-for-tests", endpoint = "http://127.0.0.1", port = %d}
      local state, record = training.resumable{
        path = %q, steps = %d, every = 2, first_delay = 0.001, client = client,
        session = {heartbeat = {interval = 1000}},
        model = {base_model = "standin/bytes", lora = training.LoraConfig{rank = 8}},
        step = function(model, step, state)
          state.seen = (state.seen or "") .. step
          model:forward_backward({datum}, "importance_sampling")
          model:optim_step(0.01 * step)
        end,
      }
      print(state.seen, record.step)
    ]]

    local script
    setup(function() script = os.tmpname() end)
    teardown(function() os.remove(script) end)

    local function plain_datum()
      local plain = {}
      for name, column in pairs(datum) do
        plain[name] = {}
        for i = 1, #column do plain[name][i] = column[i] end
      end
      return json.encode(plain)
    end

    -- Starts the script; `kill` is given its process id.
    local function run_script(kill)
      local file = assert(io.open(script, "w"))
      file:write(SCRIPT:format(plain_datum(), server.port, path, STEPS))
      file:close()
      local pipe = assert(io.popen(("exec 2>/dev/null; sh -c 'echo $$; exec %s %s 2>&1'; echo exit $?"):format(
        servers.riverlua, script)))
      local pid = pipe:read("l")
      if kill then kill(pid) end
      local text = pipe:read("a")
      pipe:close()
      return text:match("^(.-)\n?exit (%d+)\n$")
    end

    local function assert_file_whole()
      local bytes = servers.read_file(path)
      if bytes == "" then
        assert.is_nil(lfs.attributes(path), "an empty file")
        return 0
      end
      local saved <close> = training.progress.open(path)
      return saved:load().step
    end

    -- Kills it when a call of this method is held for the n-th time: before the service acts, or after it.
    for _, place in ipairs{
      {method = "ForwardBackward", after = 0, saved = 0}, {method = "OptimStep", after = 4, saved = 4},
      {method = "OptimStep", after = 4, saved = 4, reply = true}, {method = "SaveWeights", after = 1, saved = 2},
      {method = "SaveWeights", after = 1, saved = 2, reply = true}, {method = "CreateModel", after = 0, saved = 0},
      {method = "UnloadModel", after = 0, saved = 8},
    } do
      it(("at %s number %d%s goes on from step %d"):format(place.method, place.after + 1,
        place.reply and " when the service has acted" or "", place.saved), function()
        local theta = undisturbed()
        server:fault{method = place.method, after = place.after, [place.reply and "hold_reply" or "hold"] = "x"}
        local _, code = run_script(function(pid)
          assert.is_true(server:wait_for{held = "x"})
          assert(os.execute("kill -KILL " .. pid))
        end)
        assert.equal("137", code)
        server:release("x")
        assert.equal(place.saved, assert_file_whole())
        local text, second = run_script()
        assert.equal("12345678\t8", text)
        assert.equal("0", second)
        if place.saved < STEPS then assert.equal(theta, theta_now()) end
      end)
    end

    it("again and again, wherever it is, never leaves a torn file, and ends as if undisturbed", function()
      local theta = undisturbed()
      local last, killed = 0, 0
      for round = 1, 40 do
        local _, code = run_script(round < 40 and function(pid)
          -- after so many more calls: the rounds end everywhere
          server:get("wait", {method = "RetrieveFuture", seconds = 1,    -- it may have come to its end
            count = server:count("RetrieveFuture") + 1 + round * 7 % 13})
          os.execute("kill -KILL " .. pid .. " 2>/dev/null")
        end or nil)
        local step = assert_file_whole()
        assert.is_true(step >= last, "it went back")
        last = step
        if code == "0" then break end
        killed = killed + 1
      end
      assert.equal(STEPS, last)
      assert.is_true(killed > 0)
      -- θ of the run is that of its last checkpoint
      local saved <close> = training.progress.open(path)
      local checkpoint = saved:load().checkpoint
      assert.equal(theta, server:state().checkpoints[checkpoint].theta)
    end)
  end)

  it("is worked on by one process at a time", function()
    local saved <close> = training.progress.open(path)
    local err = failure(run)
    assert.equal("storage", err.kind)
    assert.is_nil(saved:load())
    assert.equal(0, server:count("CreateSession"))
  end)

  it("needs what it needs", function()
    local client <close> = support.client(server)
    for _, case in ipairs{
      {{steps = "8"}, "steps"}, {{step = 1}, "step"}, {{client = false}, "client"}, {{model = "m"}, "model"},
      {{evry = 2}, "evry"}, {{name = 3}, "name"}, {{every = 0}, "every"}, {{weights = 1}, "weights"},
    } do
      local err = failure(training.resumable, options(client, case[1]))
      assert.equal("argument", err.kind, case[2])
      assert.truthy(err.message:find("'" .. case[2] .. "'", 1, true), err.message)
      assert.truthy(err.message:find("^training.resumable: ") or err.message:find("^progress.open: "), err.message)
    end
    assert.equal(0, server:count("CreateSession"))
  end)
end)
