-- training.Run: metrics that are kept, and runs that go on to the same numbers after whatever stopped them.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(folder .. "support.lua")
local json = require "riverlua.json"
local training = require "training"

local failure = support.failure
local servers = support.standin.servers

local STEPS = 8

describe("training.Run", function()
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
    os.execute("rm -rf '" .. path .. "'")
    assert.same({}, server:violations())
  end)

  local function options(more)
    local own = {path = path, checkpoint_every = 3,
      model = {base_model = support.MODEL, lora = training.LoraConfig{rank = 8}}}
    for name, value in pairs(more or {}) do own[name] = value end
    return own
  end

  -- One step, in which the order matters: θ, and what is logged of it.
  local function train(run, step)
    local sample = run.model:sample{prompts = "1 + 2", seed = run:seed(), return_prompt_token_ids = true}[1][1]
    local pass = run.model:forward_backward({datum}, "importance_sampling")
    run.model:optim_step(0.01 * step)
    run.state.seen = (run.state.seen or "") .. step
    run:log{["reward/mean"] = training.rewards.boxed(sample.text, "3"), loss = pass.metrics.loss}
    run:log{logprob = sample.logprobs[1], gap = step == 2 and 0 / 0 or nil}
  end

  local function metrics() return servers.read_file(path .. "/metrics.jsonl") end

  -- Opens a run in a session of its own, and calls `fn(run)`.
  local function with_run(more, fn)
    local client <close> = support.client(server)
    support.hurry(client)
    local own = options(more)
    if own.session == nil and not own.model.model_id then own.client = client end
    own.session = own.client and support.SILENT or own.session
    local run <close> = training.Run(own)
    return fn(run)
  end

  -- A run as it is without trouble: θ and the bytes of its metrics.
  local function undisturbed()
    with_run(nil, function(run)
      for step in run:steps(STEPS) do train(run, step) end
      assert.equal("12345678", run.state.seen)
    end)
    local theta, bytes = server:model().theta, metrics()
    os.execute("rm -rf '" .. path .. "'")
    server:reset()
    return theta, bytes
  end

  local function finish()
    return with_run(nil, function(run)
      for step in run:steps(STEPS) do train(run, step) end
      return run.state.seen, run.resumed
    end)
  end

  it("makes steps, keeps their metrics, and saves weights now and then", function()
    with_run(nil, function(run)
      assert.is_nil(run.resumed)
      local steps = {}
      for step in run:steps(STEPS) do
        steps[#steps + 1] = step
        assert.equal(step, run.step)
        train(run, step)
      end
      assert.same({1, 2, 3, 4, 5, 6, 7, 8}, steps)
      assert.equal(3, server:count("SaveWeights"))      -- after 3, 6 and at the end
      assert.truthy(run.checkpoint:find("step%-8$"))
      local rows = run:history()
      assert.equal(STEPS, #rows)
      assert.equal(2, rows[2].step)
      assert.is_true(rows[2].gap ~= rows[2].gap)
      rows[1].step = 100
      assert.equal(1, run:history()[1].step)
      local summary = run.summary
      assert.equal(8, summary.step)
      assert.equal(run.checkpoint, summary.checkpoint)
      local loss = summary.metrics.loss
      assert.equal(8, loss.count)
      assert.equal(rows[8].loss, loss.last)
      assert.is_true(loss.min <= loss.mean and loss.mean <= loss.max)
      assert.is_nil(summary.metrics.gap)
      for _ in run:steps(STEPS) do error("there is nothing left to do") end
    end)
    local lines = {}
    for line in metrics():gmatch("([^\n]*)\n") do lines[#lines + 1] = line end
    assert.equal(STEPS, #lines)
    assert.truthy(lines[2]:find('^{"step":2,"gap":null,"logprob":'), lines[2])
    assert.equal(3, json.decode(lines[3]).step)
    assert.equal(1, server:count("UnloadModel"))
  end)

  it("saves weights every 10 steps unless told otherwise", function()
    local client <close> = support.client(server)
    local run <close> = training.Run{path = path, client = client, session = support.SILENT,
      model = {base_model = support.MODEL, lora = training.LoraConfig{rank = 8}}}
    for _ in run:steps(21) do end
    assert.equal(3, server:count("SaveWeights"))      -- after 10, 20 and at the end
  end)

  it("keeps the newest checkpoints, under names that are used in turn", function()
    local expected, bytes = undisturbed()
    local names = {}
    for stop = 4, 9, 5 do   -- in the middle of step 4; to the end
      local ok = pcall(with_run, {keep = 2, checkpoint_every = 1}, function(run)
        for step in run:steps(STEPS) do
          names[#names + 1] = run.checkpoint and run.checkpoint:match("[^/]*$")
          train(run, step)
          if step == stop then error("stop") end
        end
        names[#names + 1] = run.checkpoint:match("[^/]*$")
      end)
      assert.equal(stop == 9, ok)
    end
    assert.same({"step-kept-1", "step-kept-2", "step-kept-3",                     -- before steps 2 to 4
      "step-kept-3", "step-kept-1", "step-kept-2", "step-kept-3", "step-kept-1", "step-kept-2"}, names)
    assert.same(expected, server:model().theta)
    assert.equal(bytes, metrics())
  end)

  it("is read by Python line by line", function()
    undisturbed()
    finish()
    local text = servers.output_of and servers.output_of or function(command)
      local pipe <close> = assert(io.popen(command))
      return pipe:read("a")
    end
    local said = text(([[%s -c "import json; rows = [json.loads(l) for l in open('%s')]; print(len(rows), ]]
      .. [[rows[1]['gap'], rows[7]['step'])"]]):format(servers.python(), path .. "/metrics.jsonl"))
    assert.equal("8 None 8\n", said)
  end)

  it("goes on with more steps, and does nothing when all are made", function()
    finish()
    with_run(nil, function(run)
      assert.equal(8, run.resumed)
      for _ in run:steps(STEPS) do error("there is nothing left to do") end
      local more = {}
      for step in run:steps(10) do
        more[#more + 1] = step
        train(run, step)
      end
      assert.same({9, 10}, more)
      assert.equal(10, #run:history())
    end)
  end)

  it("works in a session, and with a model, that the script has made", function()
    local client <close> = support.client(server)
    local session <close> = client:session(support.SILENT)
    do
      local run <close> = training.Run(options{session = session})
      assert.equal(session, run.session)
      for step in run:steps(4) do
        train(run, step)
        if step == 4 then run:stop() end
      end
    end
    assert.equal(0, server:count("UnloadModel"))
    os.execute("rm -rf '" .. path .. "'")
    local model = session:create_model{base_model = support.MODEL, lora = training.LoraConfig{rank = 8}}
    do
      local run <close> = training.Run(options{model = model})
      for step in run:steps(3) do train(run, step) end
    end
    local theta = server:model().theta
    local second = session:create_model{base_model = support.MODEL, lora = training.LoraConfig{rank = 8}}
    local run <close> = training.Run(options{model = second})
    assert.equal(3, run.resumed)
    assert.equal(3, second.step)
    assert.equal(theta, server:model().theta)
  end)

  it("draws its metrics", function()
    with_run(nil, function(run)
      assert.truthy(run:plot():svg():find("no data"))
      for step in run:steps(3) do train(run, step) end
      local chart = run:plot("loss")
      assert.equal("loss", chart.y_label)
      assert.equal("step", chart.x_label)
      assert.same({1, 2, 3}, chart.series[1].xs)
      assert.equal(3, #run:plot{title = "all"}.series - 1)
      assert.equal("'rows' is the run's own", failure(run.plot, run, {rows = {}}).message:match("'rows'.*"))
      assert.equal("argument", failure(run.plot, run, "nothing").kind)
    end)
  end)

  describe("that is stopped", function()
    it("by an error goes on after the last weights, to the same numbers", function()
      local theta, bytes = undisturbed()
      local err = failure(with_run, nil, function(run)
        for step in run:steps(STEPS) do
          train(run, step)
          if step == 5 then error("a bug in the reward function", 0) end
        end
      end)
      assert.equal("a bug in the reward function", err)
      assert.equal(4, select(2, metrics():gsub("\n", "")))   -- step 5 was not made
      local seen, resumed = finish()
      assert.equal(3, resumed)
      assert.equal("12345678", seen)
      assert.equal(theta, server:model().theta)
      assert.equal(bytes, metrics())
    end)

    it("by break does not count the step, and by run:stop does", function()
      with_run(nil, function(run)
        for step in run:steps(STEPS) do
          train(run, step)
          if step == 5 then break end
        end
        assert.equal(4, run.step)
        assert.equal(4, #run:history())
        local err = failure(run.steps, run, STEPS)
        assert.truthy(err.hint:find("run:stop()", 1, true))
        assert.equal("argument", failure(run.log, run, {a = 1}).kind)
      end)
      with_run(nil, function(run)
        assert.equal(3, run.resumed)
        for step in run:steps(STEPS) do
          train(run, step)
          if step == 5 then run:stop() end
        end
        assert.equal(5, run.step)
        assert.truthy(run.checkpoint:find("step%-5$"))
      end)
    end)

    it("because weights cannot be saved keeps those of before", function()
      local theta, bytes = undisturbed()
      server:fault{method = "SaveWeights", failed = {category = "storage_floor", message = "no room"}, after = 1}
      assert.equal("failed", failure(finish).kind)
      assert.equal(6, select(2, metrics():gsub("\n", "")))
      local _, resumed = finish()
      assert.equal(3, resumed)
      assert.equal(theta, server:model().theta)
      assert.equal(bytes, metrics())
    end)

    it("says what is wrong when the weights are gone", function()
      finish()
      server:expire{checkpoint = "all"}
      local before = metrics()
      local err = failure(finish)
      assert.equal("not_found", err.kind)
      assert.truthy(err.message:find("weights of step 8 are gone", 1, true), err.message)
      assert.truthy(err.hint:find(path, 1, true))
      assert.equal(before, metrics())
    end)
  end)

  describe("in a script", function()
    local SCRIPT = [[
      local json = require "riverlua.json"
      local training = require "training"
      local datum = json.decode(%q)
      local client <close> = training.Client{api_key = "key-for-tests", endpoint = "http://127.0.0.1", port = %d}
      local run <close> = training.Run{path = %q, client = client, session = {heartbeat = {interval = 1000}},
        checkpoint_every = 3, model = {base_model = "standin/bytes", lora = training.LoraConfig{rank = 8}}}
      for step in run:steps(%d) do
        local sample = run.model:sample{prompts = "1 + 2", seed = run:seed(), return_prompt_token_ids = true}[1][1]
        local pass = run.model:forward_backward({datum}, "importance_sampling")
        run.model:optim_step(0.01 * step)
        run.state.seen = (run.state.seen or "") .. step
        run:log{["reward/mean"] = training.rewards.boxed(sample.text, "3"), loss = pass.metrics.loss}
        run:log{logprob = sample.logprobs[1], gap = step == 2 and 0 / 0 or nil}
      end
      print(run.state.seen, run.step)
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

    -- Starts the script; `disturb` is given its process id. What it prints, and its exit code.
    local function run_script(disturb)
      local file = assert(io.open(script, "w"))
      file:write(SCRIPT:format(plain_datum(), server.port, path, STEPS))
      file:close()
      local pipe = assert(io.popen(("exec 2>/dev/null; sh -c 'echo $$; exec %s %s 2>&1'; echo exit $?"):format(
        servers.riverlua, script)))
      local pid = pipe:read("l")
      if disturb then disturb(pid) end
      local text = pipe:read("a")
      pipe:close()
      return text:match("^(.-)\n?exit (%d+)\n$")
    end

    for _, place in ipairs{
      {method = "CreateModel", after = 0}, {method = "ForwardBackward", after = 1},
      {method = "SaveWeights", after = 0}, {method = "OptimStep", after = 3},
      {method = "SampleFromTraining", after = 5}, {method = "SaveWeights", after = 1, reply = true},
      {method = "OptimStep", after = 7, reply = true}, {method = "UnloadModel", after = 0, done = true},
    } do
      for _, signal in ipairs{"KILL", "INT"} do
        it(("that ends by SIG%s at %s number %d%s goes on to the same numbers"):format(signal, place.method,
          place.after + 1, place.reply and " when the service has acted" or ""), function()
          local theta, bytes = undisturbed()
          server:fault{method = place.method, after = place.after, [place.reply and "hold_reply" or "hold"] = "x"}
          local _, code = run_script(function(pid)
            assert.is_true(server:wait_for{held = "x"})
            assert(os.execute(("kill -%s %s"):format(signal, pid)))
            if signal == "INT" then server:release("x") end
          end)
          assert.equal(signal == "KILL" and "137" or "130", code)
          server:release("x")
          local text, second = run_script()
          assert.equal("12345678\t8", text)
          assert.equal("0", second)
          assert.equal(bytes, metrics())
          if not place.done then assert.equal(theta, server:model().theta) end
        end)
      end
    end

    it("that is killed again and again ends as if undisturbed", function()
      local _, bytes = undisturbed()
      for round = 1, 40 do
        local _, code = run_script(round < 40 and function(pid)
          server:get("wait", {method = "RetrieveFuture", seconds = 1,    -- it may have come to its end
            count = server:count("RetrieveFuture") + 9 + round * 7 % 13})
          os.execute("kill -KILL " .. pid .. " 2>/dev/null")
        end or nil)
        if code == "0" then break end
      end
      assert.equal(bytes, metrics())
    end)
  end)

  describe("whose file of metrics", function()
    local function write(bytes)
      local file <close> = assert(io.open(path .. "/metrics.jsonl", "wb"))
      file:write(bytes)
    end

    it("ends in a torn line, or in garbage, is mended", function()
      finish()
      local bytes = metrics()
      for _, rest in ipairs{'{"step":9,"lo', "\0\0\0\0\n", '{"step":9,"a":1}', "[1]\n", '{"step":"9"}\n',
        "\n\n"} do
        write(bytes .. rest)
        with_run(nil, function(run) assert.equal(8, #run:history()) end)
        assert.equal(bytes, metrics())
      end
      write(bytes:sub(1, -2))   -- only the end of the line is missing
      with_run(nil, function(run) assert.equal(8, #run:history()) end)
      assert.equal(bytes, metrics())
    end)

    it("is damaged elsewhere is refused, and stays as it is", function()
      finish()
      local bytes = metrics()
      local line = bytes:match("^[^\n]*\n")
      for _, wrong in ipairs{bytes:gsub('"step":4', "4"), "x\n" .. bytes, line .. bytes} do
        write(wrong)
        local sessions = server:count("CreateSession")
        local err = failure(finish)
        assert.equal("storage", err.kind)
        assert.truthy(err.message:find("line %d"), err.message)
        assert.equal(wrong, metrics())
        assert.equal(sessions, server:count("CreateSession"))
      end
    end)

    it("is gone is begun again", function()
      finish()
      os.remove(path .. "/metrics.jsonl")
      with_run(nil, function(run)
        assert.same({}, run:history())
        for step in run:steps(9) do train(run, step) end
        assert.equal(9, run:history()[1].step)
      end)
    end)

    it("is somebody else's is left alone", function()
      assert(require("riverlua.core.folder").make(path))
      write('{"step":1}\n')
      local err = failure(finish)
      assert.equal("storage", err.kind)
      assert.equal('{"step":1}\n', metrics())
    end)

    it("cannot be written ends the run", function()
      finish()
      local full = io.open("/dev/full", "wb")
      if not full then return pending("there is no /dev/full") end
      local err = failure(with_run, nil, function(run)
        run.metrics.stream:close()
        run.metrics.stream = full
        for _ in run:steps(9) do run:log{a = 1} end
      end)
      assert.equal("storage", err.kind)
      assert.truthy(err.message:find("metrics.jsonl", 1, true))
    end)
  end)

  it("gives seeds by step and turn, and by its own", function()
    local function seeds(seed)
      os.execute("rm -rf '" .. path .. "'")
      return with_run({seed = seed}, function(run)
        local list = {}
        for _ in run:steps(2) do list[#list + 1], list[#list + 2] = run:seed(), run:seed() end
        return list
      end)
    end
    local first = seeds()
    assert.same(first, seeds(0))
    local all = {}
    for _, list in ipairs{first, seeds(1)} do
      for _, seed in ipairs(list) do
        assert.is_true(math.type(seed) == "integer" and seed >= 0 and seed < 2 ^ 31)
        assert.is_nil(all[seed])
        all[seed] = true
      end
    end
  end)

  it("sends its numbers to the console, when asked to", function()
    with_run({console = false}, function(run)
      local sent = {}
      local model = run.model
      run.console = true
      run.model = {log = function(_, values) sent[#sent + 1] = values end,
        save_weights = function(_, ...) return model:save_weights(...) end}
      for _ in run:steps(2) do
        run:log{a = 1, b = 0 / 0, c = "text"}
        run:log{d = 2.5}
      end
      assert.same({{a = 1, d = 2.5, step = 1}, {a = 1, d = 2.5, step = 2}}, sent)
    end)
    local err = failure(with_run, {console = true, path = path .. "/other"}, function() end)
    assert.equal("argument", err.kind)
    assert.truthy(err.message:find("console"))
  end)

  it("is worked on by one process at a time, and with one model", function()
    with_run(nil, function(run)
      for step in run:steps(1) do train(run, step) end
      assert.equal("storage", failure(finish).kind)
    end)
    local err = failure(with_run, {model = {base_model = support.MODEL, lora = training.LoraConfig{rank = 4}}})
    assert.equal("argument", err.kind)
    assert.truthy(err.message:find("trains another model", 1, true))
  end)

  it("says what is wrong", function()
    local client <close> = support.client(server)
    for _, case in ipairs{
      {{client = client, path = 1}, "'path'"}, {{client = client, path = ""}, "'path'"},
      {{}, "neither a client nor"},
      {{modle = {}}, "did you mean 'model'"}, {{client = client, checkpoint_every = 0}, "at least 1"},
      {{client = false}, "'client'"}, {{state = 1}, "'state'"}, {{session = {}}, "neither a client nor"},
      {{client = client, session = {session_id = "s"}}, "not both"}, {{client = client, model = "m"}, "'model'"},
      {{client = client, model = {model_id = "m"}}, "leave out"}, {{client = client, keep = 0}, "at least 1"},
      {{client = client, keep = 1, backup = true}, "at least 2"}, {{client = client, keep = 1.5}, "'keep'"},
      {{client = client, keep = 1, model = {base_model = support.MODEL, full_weight = true}}, "immutable"},
      {{client = client, keep = 1, weights = {immutable = true}}, "immutable"},
    } do
      local err = failure(training.Run, options(case[1]))
      assert.equal("argument", err.kind)
      assert.truthy(err.message:find(case[2], 1, true) or err.hint and err.hint:find(case[2], 1, true), err.message)
    end
    assert.equal(0, server:count("CreateSession"))
    with_run(nil, function(run)
      assert.truthy(failure(run.log, run, {a = 1}).hint:find("run:steps", 1, true))
      for _ in run:steps(1) do
        for values, words in pairs{[{1}] = "texts", [{step = 1}] = "the run's own",
          [{a = {}}] = "must be a number", [{["\xff"] = 1}] = "no UTF-8", [{a = "\xff"}] = "no UTF-8"} do
          local err = failure(run.log, run, values)
          assert.equal("argument", err.kind)
          assert.truthy(err.message:find(words, 1, true), err.message)
        end
        assert.truthy(failure(run.steps, run, 3).message:find("is being made", 1, true))
      end
      assert.truthy(failure(function() return run.modle end).hint:find("model"))
      assert.truthy(failure(run.log).message:find("colon"))
      run:close()
      for _, method in ipairs{"steps", "log", "seed", "stop"} do
        assert.equal("closed", failure(run[method], run, 1).kind)
      end
      assert.equal(1, #run:history())
    end)
  end)
end)
