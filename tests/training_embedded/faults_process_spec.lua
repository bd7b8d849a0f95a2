-- However a script ends while the embedded trainer works: the process ends at once, with the right code. And its
-- children, be they programs or forks, disturb nothing.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local faults = dofile(folder .. "faults.lua")

-- What goes on without end, and how to know that the engine is at work on it.
local WORK = {
  pass = "while true do model:forward_backward{data = data, loss_fn = 'cross_entropy'} end",
  ["passes that wait"] = [[
    local passes = {}
    for i = 1, 50 do passes[i] = model:submit_forward_backward{data = data, loss_fn = 'cross_entropy'} end
    while true do passes[50]:result() model:submit_forward_backward{data = data, loss_fn = 'cross_entropy'} end]],
  sample = "while true do model:sample{prompts = {'ab'}, num_samples = 5000, max_tokens = 30} end",
  batch = [[while true do
    for _ in model:sample_as_completed{prompts = {'ab'}, num_samples = 128, max_tokens = 30} do end
  end]],
  save = "while true do model:save_weights('a') end",
  pretrain = [[
    training.embedded.pretrain{name = "haiku", text = ("abc def "):rep(100), steps = 1000000,
      folder = root .. "/made", progress = function(step) begun = step > 2 end}]],
}

local SCRIPT = [[
  local client = faults.client(root, arg[2] ~= "" and arg[2] or nil)
  local session = client:session()
  local model = faults.model(session)
  local data, begun = {}, false
  for i = 1, 2000 do
    data[i] = {input_ids = array.fill("int64", 32, 3), weights = array.fill("float32", 32, 1)}
  end
  local function at_work()
    repeat task.sleep(0) until begun or client:stats().pending > 0
    for _ = 1, 3 do task.sleep(0) end
  end
  local function work() %s end
  %s
]]

-- How it ends → in a task beside the work or not, the code, and what is said.
local ENDS = {
  ["Ctrl-C"] = {act = "signal_me('INT')", code = 130, said = "interrupted"},
  ["os.exit"] = {act = "os.exit(7)", code = 7},
  ["os.exit with an end of the state"] = {act = "os.exit(7, true)", code = 7},
  SIGTERM = {act = "signal_me('TERM')", code = 143, said = "Terminated"},   -- as the shell says
}

-- The same from the script itself, with the work in a task.
local OUTER = {
  error = {act = "error('mine')", code = 1, said = "mine"},
  ["os.exit"] = {act = "os.exit(7)", code = 7},
  ["a closed client"] = {code = 0, act = "client:close() assert(not pcall(worker.await, worker))",
    no = "pretrain"},
  ["a cancelled task"] = {act = "worker:cancel() assert(not pcall(worker.await, worker))", code = 0},
  ["no client any more"] = {code = 0, act = [[
    worker:cancel()
    pcall(worker.await, worker)
    client, session, model, worker = nil
    collectgarbage()]]},
}

describe("a script in which the embedded trainer works", function()
  local root, library
  setup(function()
    root = faults.new_root()
    library = faults.servers.fork_library()
  end)
  teardown(function()
    faults.files.remove(root)
    os.remove(library)
  end)

  local function ends(work, script, wanted)
    local result = faults.run(root, SCRIPT:format(WORK[work], script), {work == "save" and root .. "/runs" or ""})
    assert.equal(wanted.code, result.code, result.err)
    if wanted.said then assert.truthy(result.err:find(wanted.said, 1, true), result.err)
    else assert.equal("", result.err) end
  end

  for work in pairs(WORK) do
    for how, wanted in pairs(ENDS) do
      it(("ends by %s during: %s"):format(how, work), function()
        ends(work, ("task.spawn(function() at_work() %s end) work()"):format(wanted.act), wanted)
      end)
    end
    for how, wanted in pairs(OUTER) do
      if wanted.no ~= work then
        it(("ends with %s during: %s"):format(how, work), function()
          ends(work, ("local worker = task.spawn(work) at_work() %s"):format(wanted.act), wanted)
        end)
      end
    end
  end

  it("starts programs meanwhile, and gets what they say", function()
    local result = faults.run(root, SCRIPT:format("", [[
      local function pass() return model:forward{data = data, loss_fn = "cross_entropy"}.metrics.loss_sum end
      local expected, others = pass(), {}
      for i = 1, 4 do others[i] = task.spawn(pass) end
      at_work()
      for i = 1, 20 do
        assert(os.execute("true"))
        local pipe = io.popen("echo " .. i)
        assert(pipe:read("a") == i .. "\n" and pipe:close())
        task.sleep(0)
      end
      for i = 1, 4 do assert(others[i]:await() == expected) end
      print "done"
    ]]), {""})
    assert.equal("done\n", result.out, result.err)
    assert.equal(0, result.code)
  end)

  it("is forked meanwhile: the child says that it cannot train, and ends; the parent goes on", function()
    local result = faults.run(root, SCRIPT:format("", [[
      local fork = assert(package.loadlib(arg[3], "luaopen_fork"))()
      local function pass() return model:forward{data = data, loss_fn = "cross_entropy"}.metrics.loss_sum end
      local expected = pass()
      local other = task.spawn(pass)
      at_work()
      for how = 1, 3 do
        local child = fork.fork()
        if child == 0 then
          local ok, err = pcall(pass)
          if ok or not tostring(err):find("fork") then os.exit(1) end
          collectgarbage()
          if how == 1 then os.exit(40) elseif how == 2 then os.exit(40, true) end
          pcall(client.close, client)
          os.exit(40)
        end
        print(fork.wait(child))
      end
      print(other:await() == expected, pass() == expected)
    ]]), {"", library}, {environment = {ASAN_OPTIONS = "verify_asan_link_order=0:detect_leaks=0"}})
    assert.equal("40\n40\n40\ntrue\ttrue\n", result.out, result.err)
    assert.equal(0, result.code)
  end)
end)
