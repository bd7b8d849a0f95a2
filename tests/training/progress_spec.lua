--- Files of runs: what they hold, what is refused, crashes at any point, and sessions that are lost.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "rest_support.lua")
local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local json = require "riverlua.json"
local progress = require "training.progress"

local check_error, error_of, servers = support.check_error, support.error_of, support.servers

local folder, path

local function write(name, bytes)
  local file <close> = assert(io.open(name, "wb"))
  file:write(bytes)
end

local function with_run(options, fn)
  local run <close> = progress.open(path, options)
  return fn(run)
end

before_each(function()
  folder = support.new_folder()
  path = folder .. "/runs/run.json"
end)
after_each(function() support.remove(folder) end)

describe("a run's file", function()
  local RECORD = {step = 20, checkpoint = "river://run/step-20", policy_id = "p-7", run_id = "r", seeds = {1, 2},
    position = {epoch = 1, row = 5120}, state = {best = 0.1, id = 9007199254740993, list = {}, deep = {{a = true}}}}

  it("gives back what was saved", function()
    with_run(nil, function(run)
      assert.is_nil(run:load())
      run:save(RECORD)
      assert.same(RECORD, run:load())
    end)
    local saved = with_run(nil, function(run) return run:load() end)
    assert.same(RECORD, saved)
    assert.equal("integer", math.type(saved.state.id))
  end)

  it("is JSON of the documented form", function()
    with_run(nil, function(run) run:save(RECORD) end)
    local value = json.decode(servers.read_file(path))
    assert.equal("riverlua-run", value.format)
    assert.equal(1, value.version)
    assert.equal(digest.hex(digest.sha256(json.encode(value.run, {sort = true}))), value.sha256)
    assert.equal(20, value.run.step)
  end)

  it("keeps the one before", function()
    with_run(nil, function(run)
      run:save{step = 1}
      assert.equal("", servers.read_file(path .. ".bak"))
      run:save{step = 2}
    end)
    with_run(nil, function(run) run:save{step = 3} end)   -- without having looked
    assert.equal(3, json.decode(servers.read_file(path)).run.step)
    assert.equal(2, json.decode(servers.read_file(path .. ".bak")).run.step)
  end)

  it("takes what save_weights returned as the checkpoint", function()
    with_run(nil, function(run)
      run:save{step = 1, checkpoint = {path = "river://a", type = "training"}}
      assert.equal("river://a", run:load().checkpoint)
    end)
  end)

  it("that is damaged is refused, and the one before is offered", function()
    with_run(nil, function(run)
      run:save{step = 1}
      run:save{step = 2}
    end)
    local good = servers.read_file(path)
    local other_step = good:gsub('"step": 2', '"step": 9')
    for _, bytes in ipairs{"", good:sub(1, -10), other_step, '{"format":"riverlua-run","version":1,"run":{}}',
      '{"format":"riverlua-run","version":1}', '{"format":"riverlua-run","version":1,"run":3,"sha256":""}'} do
      write(path, bytes)
      with_run(nil, function(run)
        check_error(error_of(run.load, run), "storage", "run.json", "of step 1, is beside it", "backup = true")
      end)
      assert.equal(bytes, servers.read_file(path))
      with_run({backup = true}, function(run) assert.equal(1, run:load().step) end)
    end
    -- and the bad one does not become the backup
    with_run({backup = true}, function(run)
      run:load()
      run:save{step = 5}
    end)
    assert.equal(1, json.decode(servers.read_file(path .. ".bak")).run.step)
    write(path, "x")
    with_run(nil, function(run) run:save{step = 6} end)
    assert.equal(1, json.decode(servers.read_file(path .. ".bak")).run.step)
    write(path, "x")
    write(path .. ".bak", "x")
    with_run(nil, function(run) check_error(error_of(run.load, run), "storage", "move it away") end)
    with_run({backup = true}, function(run) check_error(error_of(run.load, run), "storage", ".bak", "move both") end)
    os.remove(path .. ".bak")
    with_run({backup = true}, function(run) check_error(error_of(run.load, run), "storage", "there is no .bak") end)
    os.remove(path)
    with_run({backup = true}, function(run) assert.is_nil(run:load()) end)
  end)

  it("of somebody else, or of another version, is left alone", function()
    with_run(nil, function() end)
    for bytes, text in pairs{["[1,2]"] = "no progress file", ['{"a":1}'] = "no progress file",
      ['{"format":"riverlua-run","version":2,"run":{"step":1}}'] = "version is 2"} do
      write(path, bytes)
      for _, backup in ipairs{true, false} do
        with_run({backup = backup}, function(run)
          check_error(error_of(run.load, run), "storage", text)
          check_error(error_of(run.save, run, {step = 1}), "storage", text, "use another path")
        end)
      end
      assert.equal(bytes, servers.read_file(path))
    end
  end)

  it("holds only what JSON can", function()
    with_run(nil, function(run)
      run:save{step = 1}
      for _, state in ipairs{{f = print}, {x = 0 / 0}, {[1.5] = 1}, {"\xff"}} do
        check_error(error_of(run.save, run, {step = 2, state = state}), "argument", "cannot be kept as JSON")
      end
      check_error(error_of(run.save, run, {step = 2, sate = 1}), "argument", "did you mean 'state'?")
      check_error(error_of(run.save, run, {}), "argument", "'step'")
      check_error(error_of(run.save, run, {step = -1}), "argument", "negative")
      check_error(error_of(run.save, run, {step = 1, checkpoint = 3}), "argument", "'checkpoint'")
      check_error(error_of(run.save), "argument", "with a colon")
      assert.equal(1, run:load().step)
    end)
  end)

  it("is used by one at a time", function()
    with_run(nil, function()
      check_error(error_of(progress.open, path), "storage", "another process")
      progress.open(path, {lock = false}):close()
    end)
    local run = progress.open(path)
    run:close()
    run:close()
    check_error(error_of(run.load, run), "closed")
    check_error(error_of(progress.open, "/proc/none/run.json"), "storage", "/proc/none")
    check_error(error_of(progress.open, path, {every = 0}), "argument", "at least 1")
    check_error(error_of(progress.open, path, {evry = 1}), "argument", "did you mean 'every'?")
    check_error(error_of(progress.open), "argument", "'path'")
    write(folder .. "/file", "")
    check_error(error_of(progress.open, folder .. "/file/run.json"), "storage", "file")
  end)

  it("that cannot be written stays as it was", function()
    with_run(nil, function(run)
      run:save{step = 1}
      assert(os.execute("mkdir " .. path .. ".part"))   -- where the new file would be made
      check_error(error_of(run.save, run, {step = 2}), "storage", "cannot be written")
      assert.equal(1, run:load().step)
      os.remove(path .. ".part")
    end)
  end)
end)

describe("due", function()
  local function dues(options, from, to)
    return with_run(options, function(run)
      local list = {}
      for step = from, to do
        if run:due(step) then
          list[#list + 1] = step
          run:save{step = step}
        end
      end
      return list
    end)
  end

  it("comes every so many steps", function()
    assert.same({1, 2, 3}, dues(nil, 1, 3))
    os.remove(path)
    assert.same({4, 8}, dues({every = 4}, 1, 10))
    with_run({every = 4}, function(run)
      run:load()
      assert.is_false(run:due(11))
      assert.is_true(run:due(12))
    end)
  end)

  it("comes after so many seconds", function()
    assert.same({1, 2}, dues({seconds = 0}, 1, 2))
    assert.same({}, dues({seconds = 1000}, 1, 50))
    assert.same({48}, dues({seconds = 1000, every = 48}, 3, 60))
  end)
end)

-- A run of ten steps in sessions that `faults` (by the number of the call of step) break; `log` says what happened.
local function resume(options)
  local calls, weights, log = 0, {}, {}
  local all = {
    path = path, every = 3, steps = 10, first_delay = 0,
    open = function(saved)
      log[#log + 1] = "open " .. (saved and saved.checkpoint or "anew")
      return {sum = saved and weights[saved.checkpoint] or 0}
    end,
    step = function(model, step, state)
      calls = calls + 1
      local fault = options.faults and options.faults[calls]
      if fault then error(fault, 0) end
      model.sum = model.sum + step
      state.count = (state.count or 0) + 1
    end,
    save = function(model, step)
      local name = "w" .. step
      weights[name] = model.sum
      log[#log + 1] = "save " .. name
      return {checkpoint = name, position = step * 2}
    end,
    close = function(_, err) log[#log + 1] = err and "close after an error" or "close" end,
  }
  for name, value in pairs(options) do
    if name ~= "faults" then all[name] = value end
  end
  local ok, state, record = pcall(progress.resumable, all)
  return {ok = ok, state = state, record = record, log = log, calls = calls, weights = weights}
end

local function session_lost() return errors.new{kind = "session_lost", message = "the session is lost"} end

describe("resumable", function()
  it("takes all steps and saves on the way", function()
    local got = resume{}
    assert.is_true(got.ok, got.state)
    assert.same({"open anew", "save w3", "save w6", "save w9", "save w10", "close"}, got.log)
    assert.equal(55, got.weights.w10)
    assert.same({count = 10}, got.state)
    assert.same({step = 10, checkpoint = "w10", position = 20, state = {count = 10}, done = true}, got.record)
    got = resume{}   -- all is done
    assert.same({}, got.log)
    assert.same({count = 10}, got.state)
  end)

  it("makes the session again from the last checkpoint when it is lost", function()
    local told = {}
    local got = resume{faults = {[5] = session_lost(), [9] = session_lost()},
      on_restart = function(err, saved) told[#told + 1] = {err.kind, saved.step} end}
    assert.is_true(got.ok, got.state)
    assert.same({"open anew", "save w3", "close after an error", "open w3", "save w6", "close after an error",
      "open w6", "save w9", "save w10", "close"}, got.log)
    assert.equal(55, got.weights.w10)
    assert.same({count = 10}, got.state)
    assert.same({{"session_lost", 3}, {"session_lost", 6}}, told)
  end)

  it("begins anew when nothing was saved yet", function()
    local got = resume{faults = {[2] = session_lost()}, state = {count = 0}}
    assert.is_true(got.ok, got.state)
    assert.equal(55, got.weights.w10)
  end)

  it("raises other errors after the session is closed", function()
    local got = resume{faults = {[4] = errors.new{kind = "argument", message = "wrong"}}}
    check_error(got.state, "argument", "wrong")
    assert.equal("close after an error", got.log[#got.log])
    got = resume{faults = {[2] = "a slip"}}
    assert.equal("a slip", got.state)
    assert.same({"open w3", "close after an error"}, got.log)
  end)

  it("gives up when nothing is gained", function()
    local faults = {}
    for i = 1, 100 do faults[i] = session_lost() end
    local got = resume{faults = faults, restarts = 3}
    check_error(got.state, "session_lost")
    assert.equal(4, got.calls)
    -- an attempt that saved something counts as gain
    faults = {}
    for _, call in ipairs{4, 8, 12} do faults[call] = session_lost() end
    got = resume{faults = faults, restarts = 1}
    assert.is_true(got.ok, got.state)
  end)

  it("also goes on when the session cannot be opened at once, or not closed after a loss", function()
    local opened = 0
    local got = resume{restarts = 3, faults = {[2] = session_lost()}, close = function(_, err)
      if err then error("gone", 0) end
    end, open = function()
      opened = opened + 1
      if opened == 2 then errors.raise{kind = "connect", message = "no server", retryable = true} end
      return {sum = 0}
    end}
    assert.is_true(got.ok, got.state)
    assert.equal(3, opened)
    got = resume{path = path .. "2", close = function() error("not closed", 0) end}
    assert.equal("not closed", got.state)
  end)

  it("asks for what it needs", function()
    check_error(error_of(progress.resumable, {path = path}), "argument", "'open'")
    check_error(error_of(progress.resumable, {path = path, opn = 1}), "argument", "did you mean 'open'?")
    local function nothing() end
    check_error(error_of(progress.resumable, {path = path, open = nothing, step = nothing, save = nothing}),
      "argument", "'steps'")
  end)
end)

describe("a process that is killed", function()
  -- Adds up 1 … 40; `arg[2]`: the step in which it kills itself. The checkpoint is a file beside the run's.
  local SCRIPT = [[
    local progress = require "training.progress"
    local path, fatal = arg[1], tonumber(arg[2])
    local state, record = progress.resumable{path = path, every = 4, steps = 40,
      open = function(saved) return {sum = saved and tonumber(saved.checkpoint) or 0} end,
      step = function(model, step, state)
        if step == fatal then os.execute("kill -9 $PPID") end
        model.sum = model.sum + step
        state.steps = (state.steps or 0) + 1
      end,
      save = function(model) return {checkpoint = tostring(model.sum)} end}
    print(record.checkpoint, state.steps)
  ]]

  it("goes on from its last checkpoint when it is started again", function()
    for _, fatal in ipairs{2, 13, 13, 29, 40} do
      local result = servers.run(SCRIPT, {args = {path, fatal}})
      assert.equal(137, result.code, result.err)
    end
    local result = servers.run(SCRIPT, {args = {path}})
    assert.equal(0, result.code, result.err)
    assert.equal("820\t40\n", result.out)
  end)
end)
