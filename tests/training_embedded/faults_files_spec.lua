-- Checkpoints of the embedded trainer, and runs with them, where files are trouble: full disks, folders that nobody
-- may write, damage, processes that are killed at any moment, and two processes in one folder.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local faults = dofile(folder .. "faults.lua")
local files, servers = faults.files, faults.servers
local core_folder = require "riverlua.core.folder"
local training = require "training"

-- Runs a command with a small file system of its own at `$0`, which nobody else sees; root alone may.
local MOUNT = "unshare -m sh -c 'mount -t tmpfs -o size=%dk none \"$0\" && exec \"$@\"' %s"

describe("checkpoints of the embedded trainer", function()
  local root, disk, can_mount
  setup(function()
    root = faults.new_root()
    disk = root .. "/disk"
    assert(core_folder.make(disk))
    can_mount = os.execute(MOUNT:format(64, disk) .. " true 2>/dev/null")
  end)
  teardown(function() files.remove(root) end)

  local function run(source, args, options)
    local result = faults.run(root, source, args, options)
    assert.equal(0, result.code, result.err .. result.out)
    assert.equal("", result.err)
    return result.out
  end

  describe("on a full disk", function()
    it("say so, stay what they were, and training goes on", function()
      local path = root .. "/limited"
      -- one file grows too large, as it does on a full disk: in the middle of being written
      local out = run([[
        local client <close> = faults.client(root, arg[2])
        local session = client:session()
        local model = faults.model(session, {lora = training.LoraConfig{rank = 16}})
        faults.step(model)
        local saved = model:save_weights("a", {mode = "inference"})
        local norm = faults.step(model)
        for _, name in ipairs{"a", "b"} do
          local ok, err = pcall(model.save_weights, model, name)
          print(ok, err.kind, err.code, err.message)
        end
        print(pcall(model.load_weights, model, saved.path:gsub("a$", "b") .. ""))
        print(faults.step(model) > 0, model:get_policy_version().step)
        model:load_weights(saved.path, {load_optimizer = false})
        print(norm == faults.step(model))
        print(model:save_weights("c", {mode = "inference"}).path:match("[^/]*$"))
      ]], {path}, {prefix = "sh -c 'ulimit -f 32; exec \"$@\"' sh"})
      local said = "false\tfailed\tstorage\tsave_weights: the service failed: storage: files cannot be kept: "
        .. path .. "/[%x-]+/%.part/optimizer.safetensors: File too large "
        .. "%(make room and save again: what was saved before is still there%)\n"
      assert.truthy(out:find("^" .. said .. said .. "false\tnot_found: [^\n]*\n"
        .. "true\t3\ntrue\nc\n$"), out)
      assert.is_nil(files.tree(path):find(".part", 1, true))
    end)

    it("of their own do, too, and are saved when there is room again", function()
      if not can_mount then return pending("nobody but root may mount a disk") end
      local out = run([[
        local disk = arg[2]
        local client <close> = faults.client(root, disk)
        local session = client:session()
        local model = faults.model(session)
        faults.step(model)
        local first = model:save_weights("a")
        local norm = faults.step(model)
        os.execute(("head -c 1m /dev/zero > '%s/filler' 2>/dev/null"):format(disk))
        for i = 1, 3 do
          local ok, err = pcall(model.save_weights, model, "a")
          print(ok, err.message:match("No space left on device %(make room and save again.*$"))
        end
        print(faults.model(session, {checkpoint = first}).step, faults.step(model) > norm)
        os.remove(disk .. "/filler")
        print(model:save_weights("a").path == first.path, model:load_weights(first.path) ~= nil, model.step)
      ]], {disk}, {prefix = MOUNT:format(64, disk)})
      local said = "false\tNo space left on device "
        .. "(make room and save again: what was saved before is still there)\n"
      assert.equal(said:rep(3) .. "1\tfalse\ntrue\ttrue\t3\n", out)
    end)

    it("stop a run, which goes on to the same numbers when there is room", function()
      if not can_mount then return pending("nobody but root may mount a disk") end
      local out = run([[
        local disk = arg[2]
        local function train(path, fill)
          local client <close> = faults.client(root, path .. "/store")
          local run <close> = training.Run{path = path .. "/run", client = client,
            model = {base_model = faults.BASE, lora = training.LoraConfig{rank = 4}}}
          for step in run:steps(4) do
            run:log{norm = faults.step(run.model)}
            if step == fill then os.execute(("head -c 8m /dev/zero > '%s/filler' 2>/dev/null"):format(disk)) end
          end
          local file <close> = io.open(path .. "/run/metrics.jsonl")
          return file:read("a")
        end
        local expected = train(root .. "/undisturbed")
        for at = 1, 4 do
          local path = ("%s/%d"):format(disk, at)
          local ok, err = pcall(train, path, at)
          assert(not ok and tostring(err):find("No space left on device", 1, true), tostring(err))
          print(err.kind, err.message:find("make room", 1, true) or err.hint)
          -- without room it stops again, where it did before
          ok, err = pcall(train, path)
          assert(not ok and tostring(err):find("No space left on device", 1, true), tostring(err))
          os.remove(disk .. "/filler")
          assert(train(path) == expected)
        end
      ]], {disk}, {prefix = MOUNT:format(4000, disk)})
      for line in out:gmatch("[^\n]+") do
        assert.truthy(line:find("^failed\t%d+$") or line == "storage\tis the disk full?", out)
      end
    end)
  end)

  describe("in a folder that nobody may write", function()
    it("can be read, and training goes on", function()
      if not can_mount then return pending("nobody but root may mount a disk") end
      local out = run([[
        local disk = arg[2]
        local client <close> = faults.client(root, disk)
        local session = client:session()
        local model = faults.model(session)
        local first = model:save_weights("a")
        local norm = faults.step(model)
        assert(os.execute(("mount -o remount,ro '%s'"):format(disk)))
        local ok, err = pcall(model.save_weights, model, "a")
        print(ok, err.message:match("Read%-only file system.*$"))
        model:load_weights(first.path)
        print(norm == faults.step(model))
        local other <close> = faults.client(root, disk)
        print(norm == faults.step(faults.model(other:session(), {checkpoint = first})))
        ok, err = pcall(faults.client, root, disk .. "/below")
        print(ok, err.kind, err.hint)
        ok, err = pcall(training.Run, {path = disk .. "/run", client = client, model = {base_model = faults.BASE,
          lora = training.LoraConfig{rank = 4}}})
        print(ok, err.kind, err.message:match("Read%-only file system"))
      ]], {disk}, {prefix = MOUNT:format(400, disk)})
      assert.equal("false\tRead-only file system (use a folder that can be written)\ntrue\ntrue\n"
        .. "false\tstorage\tuse a folder that can be written\nfalse\tstorage\tRead-only file system\n", out)
    end)
  end)

  it("that are damaged are named, and the others can be used", function()
    local path = root .. "/damaged"
    local client <close> = faults.client(root, path)
    local session = client:session()
    local model = faults.model(session)
    local good, bad = model:save_weights("good"), nil
    local norm = faults.step(model)
    local place = ("%s/%s/bad/"):format(path, model.training_run_id)
    local changes = {
      flipped = function(bytes)
        local at = #bytes // 2
        return bytes:sub(1, at - 1) .. string.char(bytes:byte(at) ~ 1) .. bytes:sub(at + 1)
      end,
      cut = function(bytes) return bytes:sub(1, -2) end,
      emptied = function() return "" end,
      removed = function() return nil end,
    }
    for _, name in ipairs{"checkpoint.json", "config.json", "adapter_config.json", "adapter_model.safetensors",
      "optimizer.safetensors"} do
      for what, change in pairs(changes) do
        bad = model:save_weights("bad")
        local bytes = change(files.read(place .. name))
        if bytes then files.write(place .. name, bytes) else os.remove(place .. name) end
        for _, use in ipairs{
          function() model:load_weights(bad.path) end,
          function() faults.model(session, {checkpoint = bad}) end,
          function() session:sample{prompts = {"a"}, base_model = faults.BASE, checkpoint = bad} end,
        } do
          local err = servers.error_of(use)
          assert.equal("DATA_LOSS", err.code:upper())
          assert.truthy(err.message:find(("the file '%s' is damaged"):format(name), 1, true),
            what .. " " .. name .. ": " .. tostring(err))
          assert.truthy(err.message:find("restore it from a copy", 1, true), tostring(err))
          assert.is_nil(err.message:find(root, 1, true), err.message)
          assert.equal(err.code == "DATA_LOSS" and ("its files are in '%s'"):format(place:sub(1, -2)) or nil, err.hint)
        end
      end
    end
    model:load_weights(good.path)
    assert.equal(norm, faults.step(model))
    model:save_weights("bad")            -- in its place, as if nothing had been
    model:load_weights(bad.path)
  end)

  -- Steps that depend on weights, optimizer and seeds; the script is killed before an operation on files.
  local TRAINING = [[
    local path, how, fatal = arg[2], arg[3], tonumber(arg[4])
    local folder = require "riverlua.core.folder"
    local operations = 0
    local function meter(module, name)
      local real = module[name]
      module[name] = function(...)
        operations = operations + 1
        if operations == fatal then
          signal_me("KILL")
          task.sleep(60)
        end
        return real(...)
      end
    end
    for _, name in ipairs{"make", "lock", "replace", "sync", "sync_file"} do meter(folder, name) end
    for _, name in ipairs{"rename", "remove"} do meter(os, name) end

    local function step(model)
      local group = model:sample{prompts = {"ab"}, num_samples = 4, max_tokens = 6,
        return_prompt_token_ids = true}[1]
      local data = {}
      for i, sample in ipairs(group) do
        data[i] = training.grpo_data(sample.prompt_token_ids, sample, i % 2 == 0 and 1.0 or -1.0)
      end
      return model:train_step{data = data, lr = 1e-2, loss_fn = "importance_sampling"}.metrics.grad_norm
    end

    local client <close> = faults.client(root, path .. "/store")
    if how == "run" then
      local run <close> = training.Run{path = path .. "/run", client = client,
        model = {base_model = faults.BASE, lora = training.LoraConfig{rank = 4}}}
      for i in run:steps(2) do
        local norm = step(run.model)
        run:log{norm = norm}
        print(i, norm)
      end
    else
      folder.make(path)
      local note = io.open(path .. "/note")
      local done, checkpoint = 0, nil
      if note then done, checkpoint = note:read("n", "l") end
      local model = faults.model(client:session())
      if checkpoint then model:load_weights(checkpoint:sub(2)) end
      for i = done + 1, 2 do
        print(i, step(model))
        folder.replace(path .. "/note", ("%d %s\n"):format(i, model:save_weights("step-" .. i).path))
      end
    end
    print("operations", operations)
  ]]

  for _, how in ipairs{"run", "load_weights"} do
    it("of a process that is killed before any operation on files go on to the same numbers: " .. how, function()
      local expected = run(TRAINING, {root .. "/whole-" .. how, how, 0})
      local steps, operations = expected:match("^(.*)operations\t(%d+)\n$")
      assert.is_true(tonumber(operations) > 10)
      for fatal = 1, tonumber(operations) do
        local path = ("%s/%s-%d"):format(root, how, fatal)
        local killed = faults.run(root, TRAINING, {path, how, fatal})
        assert.equal(137, killed.code, killed.err)
        local out = run(TRAINING, {path, how, 0}):gsub("operations.*", "")
        assert.equal(steps:sub(-#out), out)        -- those that were left
        if how == "run" then
          local file = "/run/metrics.jsonl"
          assert.equal(files.read(root .. "/whole-run" .. file), files.read(path .. file))
        end
        assert.is_nil(files.tree(path .. "/store"):find("%.part/"))
        files.remove(path)
      end
    end)
  end

  it("of two processes are in one folder, and a run belongs to one of them", function()
    local path = root .. "/shared"
    local script = os.tmpname()
    files.write(script, ([[
      local faults, training = dofile(%q), require "training"
      local root, path = arg[1], arg[2]
      local client <close> = faults.client(root, path, {threads = 1})
      local model = faults.model(client:session())
      for i = 1, 10 do
        local norm = faults.step(model)
        local saved = model:save_weights("w" .. i %% 3)
        model:load_weights(saved.path)
        print(i, norm, saved.path)
      end
    ]]):format(folder .. "faults.lua"))
    local command = ("%s %s %s %s"):format(servers.quote(servers.riverlua), script, servers.quote(root),
      servers.quote(path))
    local pipes = {assert(io.popen(command .. " 2>&1")), assert(io.popen(command .. " 2>&1"))}
    local texts = {pipes[1]:read("a"), pipes[2]:read("a")}
    for i, pipe in ipairs(pipes) do assert.is_true(pipe:close(), texts[i]) end
    os.remove(script)
    local function without_paths(text) return (text:gsub("\t[^\t\n]*\n", "\n")) end
    assert.equal(without_paths(texts[1]), without_paths(texts[2]))
    local client <close> = faults.client(root, path)
    local session, count = client:session(), 0
    for found in (texts[1] .. texts[2]):gmatch("river://%S+") do
      faults.model(session, {checkpoint = found})
      count = count + 1
    end
    assert.equal(20, count)
    local options = {path = root .. "/mine", client = client, model = {base_model = faults.BASE,
      lora = training.LoraConfig{rank = 4}}}
    local mine <close> = training.Run(options)
    local out = run([[
      local client <close> = faults.client(root)
      local ok, err = pcall(training.Run, {path = root .. "/mine", client = client,
        model = {base_model = faults.BASE, lora = training.LoraConfig{rank = 4}}})
      print(ok, err.kind, err.message:match("another process.*$"))
    ]])
    assert.equal("false\tstorage\tanother process, or another part of this one, works on this run\n", out)
    for _ in mine:steps(1) do mine:log{a = 1} end
  end)
end)
