--- Checkpoints: in memory and in a folder, damaged, expired, on a full disk, and of a process that is killed.

local files = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "files.lua")
local array = require "riverlua.array"
local json = require "riverlua.json"
local store = require "training.embedded.store"
local task = require "riverlua.task"

local servers = files.servers
local has_trainer, trainer = pcall(require, "riverlua.core.trainer")

local CONFIG = {vocabulary = 256, width = 4, layers = 1, heads = 2, hidden = 8, context = 16, positions = "rotary",
  tied = false, rotary_base = 10000, norm_epsilon = 1e-5}

local function tensors(value)
  local a, b = array.fill("float32", 8, value), array.fill("float32", 24, -value)
  return {
    {name = "layers.0.attn.qkv.lora_A.weight", array = array.matrix("float32", a, 4)},
    {name = "layers.0.attn.qkv.lora_B.weight", array = array.matrix("float32", b, 2)},
  }
end

local function checkpoint(value, more)
  local made = {kind = "training", base = "embedded/rambler-134k", config = CONFIG, lora = {rank = 2, scale = 50,
    train_attn = true}, tensors = tensors(value),
    policy = {id = "p2", lineage_id = "l", step = 2, parent_id = "p1"},
    optimizer = {step = 7, tensors = {{name = "exp_avg.a", array = array.float32{value}},
      {name = "exp_avg_sq.a", array = array.float32{value, value}}}}}
  for name, field in pairs(more or {}) do made[name] = field end
  return made
end

local PATH = "river://run-1/weights/final"

local function value_of(loaded) return loaded and loaded.tensors[1].array[1][1] end

local function plain(list)
  local result = {}
  for i, tensor in ipairs(list) do result[i] = {tensor.name, tensor.array.dtype, tensor.array.shape,
    tensor.array:bytes()} end
  return result
end

-- What memory and a folder have in common.
local function both_ways(new)
  local kept, now
  before_each(function()
    now = 1000000
    kept = new(function() return now end)
  end)
  after_each(function() kept:close() end)

  it("gives back what was saved", function()
    assert.is_nil(kept:load(PATH))
    local given = checkpoint(1.5, {created_at = 999, ttl = 5000, durable = true})
    local size, path = kept:save(PATH, given)
    assert.equal(PATH, path)
    now = 2000
    local loaded = kept:load(PATH)
    assert.equal(size, loaded.bytes)
    assert.same(plain(given.tensors), plain(loaded.tensors))
    assert.same(plain(given.optimizer.tensors), plain(loaded.optimizer.tensors))
    assert.equal(7, loaded.optimizer.step)
    for _, name in ipairs{"kind", "base", "config", "lora", "policy", "created_at", "ttl", "durable"} do
      assert.same(given[name], loaded[name], name)
    end
    assert.is_false(loaded.immutable)
    assert.equal(5999, loaded.expires_at)
    assert.equal(size, kept:bytes("run-1"))
    assert.equal(0, kept:bytes("run-2"))
  end)

  it("keeps all weights of a model, with and without an optimizer", function()
    local weights = {{name = "head.weight", array = array.matrix("float32", {1, 2, 3, 4}, 2)}}
    local given = checkpoint(1, {kind = "inference", tensors = weights})
    given.lora, given.optimizer, given.policy = nil, nil, nil
    kept:save(PATH, given)
    local loaded = kept:load(PATH)
    assert.same(plain(weights), plain(loaded.tensors))
    assert.is_nil(loaded.lora)
    assert.is_nil(loaded.optimizer)
    assert.is_nil(loaded.policy)
  end)

  it("does not change with the arrays that it was given, and gives new ones", function()
    local given = checkpoint(1)
    kept:save(PATH, given)
    given.tensors[1].array[1] = {9, 9, 9, 9}
    local loaded = kept:load(PATH)
    assert.equal(1, value_of(loaded))
    loaded.tensors[1].array[1] = {9, 9, 9, 9}
    assert.equal(1, value_of(kept:load(PATH)))
  end)

  it("replaces a checkpoint of the same name, but never an immutable one", function()
    kept:save(PATH, checkpoint(1))
    kept:save(PATH, checkpoint(2))
    assert.equal(2, value_of(kept:load(PATH)))
    local fixed = "river://run-1/weights/fixed"
    local paths = {}
    for i = 1, 3 do
      local _, path = kept:save(fixed, checkpoint(i, {immutable = true}))
      paths[i] = path
      assert.is_true(kept:load(path).immutable)
    end
    assert.same({fixed, fixed .. "@2", fixed .. "@3"}, paths)
    assert.equal(1, value_of(kept:load(fixed)))
    assert.equal(3, value_of(kept:load(fixed .. "@3")))
    for i = 4, 5 do   -- nor with one that may be replaced itself
      assert.is_true(kept:is_taken(fixed .. "@3"))
      local _, path = kept:save(fixed, checkpoint(i))
      assert.equal(fixed .. "@4", path)
      assert.is_false(kept:is_taken(path))
      assert.is_true(kept:is_taken(path, true))
      assert.equal(i, value_of(kept:load(path)))
    end
    assert.equal(1, value_of(kept:load(fixed)))
    now = now + 366 * 86400
    assert.is_false(kept:is_taken(fixed, true))
    assert.equal(fixed, select(2, kept:save(fixed, checkpoint(6))))
    assert.equal(6, value_of(kept:load(fixed)))
  end)

  it("tells what a checkpoint is without its tensors", function()
    kept:save(PATH, checkpoint(1))
    local whole, brief = kept:load(PATH), kept:about(PATH)
    assert.same({nil, nil, true}, {brief.tensors, brief.optimizer, brief.has_optimizer})
    whole.tensors, whole.optimizer = nil, nil
    assert.same(whole, brief)
    assert.is_nil(kept:about("river://run-1/weights/none"))
  end)

  it("lets go of what is over when it is told to", function()
    local backend = kept.backend
    local function count()
      local all = 0
      backend:each(function() all = all + 1 end)
      return all
    end
    kept:save(PATH, checkpoint(1, {ttl = 10}))
    kept:save("river://run-1/weights/year", checkpoint(1))
    now = now + 11
    assert.equal(2, count())
    kept:remove_expired()
    assert.equal(1, count())
  end)

  it("forgets what is over", function()
    kept:save(PATH, checkpoint(1, {ttl = 10}))
    kept:save("river://run-1/weights/day", checkpoint(1, {durable = false}))
    kept:save("river://run-1/weights/year", checkpoint(1))
    now = now + 9
    assert.equal(1, value_of(kept:load(PATH)))
    assert.is_true(kept:has(PATH))
    now = now + 1
    assert.is_nil(kept:load(PATH))
    assert.is_false(kept:has(PATH))
    assert.equal(2, #kept:list())
    now = now + 86400
    assert.is_nil(kept:load("river://run-1/weights/day"))
    assert.equal(1, value_of(kept:load("river://run-1/weights/year")))
    now = now + 365 * 86400
    assert.same({}, kept:list())
    assert.equal(0, kept:bytes("run-1"))
    kept:save(PATH, checkpoint(3))
    assert.equal(3, value_of(kept:load(PATH)))
  end)

  it("lists what there is", function()
    local a = kept:save("river://b/weights/x", checkpoint(1, {kind = "inference", optimizer = false}))
    kept:save("river://a/weights/y/z", checkpoint(1))
    local list = kept:list()
    assert.equal("river://a/weights/y/z river://b/weights/x", list[1].path .. " " .. list[2].path)
    assert.equal("y/z", list[1].name)
    assert.same({path = "river://b/weights/x", run = "b", name = "x", kind = "inference",
      base = "embedded/rambler-134k", policy = {id = "p2", lineage_id = "l", step = 2, parent_id = "p1"},
      created_at = 1000000, expires_at = 1000000 + 365 * 86400, bytes = a, immutable = false,
      durable = true}, list[2])
  end)

  it("takes any plain name, and no other", function()
    local names = {"a", "a/b", "A", ".hidden", "ä ö", "%41", "...", "x@2", ("n"):rep(220), ("n"):rep(219) .. "m",
      "a%2Fb", "lock", "-rf", "~", "a.part", "checkpoint.json"}
    for i, name in ipairs(names) do kept:save("river://r/weights/" .. name, checkpoint(i)) end
    for i, name in ipairs(names) do assert.equal(i, value_of(kept:load("river://r/weights/" .. name)), name) end
    kept:save("river://.lock/weights/a", checkpoint(1))
    assert.equal(#names + 1, #kept:list())
    for _, path in ipairs{"", "final", "river://r/weights/", "river:///weights/a", "river://r/other/a",
      "river://r/weights/..", "river://r/weights/../../x", "river://r/weights/a/../b", "river://../weights/a",
      "river://r/weights/a//b", "river://r/weights//a", "river://r/weights/a/", "river://r/weights/.",
      "river://r/weights/a\0b", "river://r/weights/a\nb", "river://r/weights/\xff",
      "river://r/weights/" .. ("n"):rep(221), "river://" .. ("n"):rep(221) .. "/weights/a"} do
      assert.is_nil(store.parse(path))
      files.refused("argument", {}, kept.save, kept, path, checkpoint(1))
      files.refused("argument", {}, kept.load, kept, path)
    end
    assert.same({nil, "a path is a text, got a number"}, {store.parse(7)})
  end)

  it("refuses what is no checkpoint", function()
    for _, more in ipairs{{kind = "all"}, {tensors = 1}, {config = "x"}, {base = 1}, {ttl = "x"},
      {lora = {rank = 2}}, {tensors = {{name = "head.weight", array = array.float32{1}}}},
      {tensors = {{name = "a.lora_A.weight", array = array.float32{1}}}}} do
      files.refused("argument", {}, kept.save, kept, PATH, checkpoint(1, more))
    end
    assert.is_nil(kept:load(PATH))
  end)

  it("is of no use once it is closed", function()
    kept:close()
    files.refused("closed", {"closed"}, kept.load, kept, PATH)
    files.refused("closed", {"closed"}, kept.save, kept, PATH, checkpoint(1))
  end)
end

describe("checkpoints in memory", function()
  both_ways(function(now) return store.new{now = now} end)
end)

describe("checkpoints in a folder", function()
  local folders = {}
  after_each(function()
    for _, path in ipairs(folders) do files.remove(path) end
    folders = {}
  end)
  local function folder()
    local path = files.new_folder()
    folders[#folders + 1] = path
    return path
  end

  both_ways(function(now) return store.new{path = folder() .. "/deep/er", now = now} end)

  it("are files that say what they are", function()
    local path = folder()
    local kept <close> = store.new{path = path}
    kept:save(PATH, checkpoint(1))
    local full = checkpoint(1, {kind = "inference", tensors = {{name = "head.weight", array = array.float32{1}}}})
    full.lora, full.optimizer = nil, nil
    kept:save("river://run-1/weights/full", full)
    assert.equal("./.lock\n./run-1/final/adapter_config.json\n./run-1/final/adapter_model.safetensors\n"
      .. "./run-1/final/checkpoint.json\n./run-1/final/config.json\n./run-1/final/optimizer.safetensors\n"
      .. "./run-1/full/checkpoint.json\n./run-1/full/config.json\n./run-1/full/model.safetensors\n",
      files.tree(path))
    local config = json.decode(files.read(path .. "/run-1/final/config.json"))
    assert.equal("riverlua-decoder", config.model_type)
    assert.equal(256, config.vocabulary)
    local adapter = json.decode(files.read(path .. "/run-1/final/adapter_config.json"))
    assert.equal(2, adapter.r)
    assert.equal(100, adapter.lora_alpha)
    assert.equal("integer", math.type(adapter.lora_alpha))
    assert.same({"layers.0.attn.qkv"}, table.move(adapter.target_modules, 1, 9, 1, {}))
    assert.equal("embedded/rambler-134k", adapter.base_model_name_or_path)
  end)

  it("are there for the next store, which removes what is over", function()
    local path, now = folder(), 1000
    local function clock() return now end
    store.new{path = path, now = clock}:save(PATH, checkpoint(1))
    store.new{path = path, now = clock}:save("river://run-2/weights/x", checkpoint(1, {ttl = 1}))
    now = 1001
    local kept <close> = store.new{path = path, now = clock}
    assert.equal(1, value_of(kept:load(PATH)))
    assert.is_nil(files.tree(path):find("run-2", 1, true))
  end)

  it("are found damaged, and the file is named", function()
    local path = folder()
    local kept <close> = store.new{path = path}
    local place = path .. "/run-1/final/"
    local function damage(name, change)
      kept:save(PATH, checkpoint(1))
      local bytes = change(files.read(place .. name))
      if bytes then files.write(place .. name, bytes) else os.remove(place .. name) end
      files.refused("storage", {name, path}, kept.load, kept, PATH)
    end
    for _, name in ipairs{"checkpoint.json", "config.json", "adapter_config.json", "adapter_model.safetensors",
      "optimizer.safetensors"} do
      damage(name, function() return nil end)
      damage(name, function() return "" end)
      damage(name, function(bytes) return bytes:sub(1, #bytes // 2) end)
      damage(name, function(bytes) return bytes .. "x" end)
      for i = 0, 31 do   -- one bit, anywhere
        damage(name, function(bytes)
          local at = 1 + (#bytes - 1) * i // 31
          return bytes:sub(1, at - 1) .. string.char(bytes:byte(at) ~ 1 << i % 8) .. bytes:sub(at + 1)
        end)
      end
    end
    damage("checkpoint.json", function() return "[1]" end)
    damage("checkpoint.json", function(bytes) return (bytes:gsub('"version": 1', '"version": 2')) end)
    damage("checkpoint.json", function(bytes) return (bytes:gsub('"format": "[^"]*"', '"format": "x"')) end)
    damage("checkpoint.json", function(bytes) return (bytes:gsub('"files": %b{}', '"files": {}')) end)
    damage("checkpoint.json", function(bytes) return (bytes:gsub("weights/final", "weights/other")) end)
    -- the others can be used, and it can be saved anew
    kept:save("river://run-1/weights/other", checkpoint(5))
    files.refused("storage", {"checkpoint.json"}, kept.load, kept, PATH)
    assert.equal(1, #kept:list())
    kept:save(PATH, checkpoint(6))
    assert.equal(6, value_of(kept:load(PATH)))
  end)

  it("cannot be kept where a file is, nor where nobody may write", function()
    local path = folder()
    files.write(path, "x")
    files.refused("storage", {path}, store.new, {path = path})
    files.refused("storage", {"/proc/nowhere"}, store.new, {path = "/proc/nowhere"})
    files.refused("argument", {"'path' is empty"}, store.new, {path = ""})
    files.refused("argument", {"folder"}, store.new, {folder = "x"})
  end)

  it("stay what they were when the disk is full", function()
    local path = folder()
    store.new{path = path}:save(PATH, checkpoint(1))
    local before = files.tree(path)
    -- a limit on the size of files is met as a full disk is: in the middle of writing
    local result = servers.run([[
      local array, store = require "riverlua.array", require "training.embedded.store"
      local kept = store.new{path = arg[1]}
      local ok, err = pcall(kept.save, kept, "river://run-1/weights/final", {kind = "inference", base = "b",
        config = {}, tensors = {{name = "w", array = array.fill("float32", 100000)}}})
      print(ok, err.kind, err.message, err.hint)
      print(kept:load("river://run-1/weights/final").tensors[1].array[1][1])
      kept:save("river://run-1/weights/small", {kind = "inference", base = "b", config = {},
        tensors = {{name = "w", array = array.fill("float32", 10)}}})
    ]], {args = {path}, prefix = "sh -c 'ulimit -f 100; exec \"$@\"' sh"})
    assert.equal(0, result.code, result.err)
    assert.truthy(result.out:find("^false\tstorage\tfiles cannot be kept: [^\n]*model.safetensors: "
      .. "File too large\tmake room and save again: what was saved before is still there\n1.0\n$"), result.out)
    assert.equal(before, files.tree(path):gsub("%./run%-1/small/[^\n]*\n", "") .. "")
  end)

  local MOUNT = "unshare -m sh -c 'mount -t tmpfs -o size=1m none \"$0\" && exec \"$@\"' "
  local path_of_mount = folder()
  os.execute("mkdir -p " .. path_of_mount)
  local can_mount = os.execute(MOUNT .. path_of_mount .. " true 2>/dev/null")
  files.remove(path_of_mount)

  -- a disk of a megabyte takes root and namespaces
  ;(can_mount and it or pending)("stay what they were when a disk of their own is full", function()
    local path = folder()
    os.execute("mkdir -p " .. path)
    local result = servers.run([[
      local array, store = require "riverlua.array", require "training.embedded.store"
      local kept = store.new{path = arg[1] .. "/runs"}
      local function save(count, value)
        local values = array.fill("float32", count, value)
        return kept:save("river://r/weights/final", {kind = "training", base = "b", config = {},
          tensors = {{name = "w", array = values}},
          optimizer = {step = value, tensors = {{name = "m", array = values}}}})
      end
      local function value()
        local loaded = kept:load("river://r/weights/final")
        return loaded.tensors[1].array[1], loaded.optimizer.step
      end
      save(40000, 1)
      local ok, err = pcall(save, 100000, 2)
      print(ok, err.kind, err.message:match("No space left on device"), value())
      print(pcall(save, 20000, 3), value())
    ]], {args = {path}, prefix = MOUNT .. path})
    assert.equal("false\tstorage\tNo space left on device\t1.0\t1\ntrue\t3.0\t3\n", result.out, result.err)
  end)

  it("are seen by two stores of one folder, whole at any time", function()
    local path = folder()
    local a <close> = store.new{path = path}
    local b <close> = store.new{path = path}
    a:save(PATH, checkpoint(1))
    b:save(PATH, checkpoint(2))
    assert.equal(2, value_of(a:load(PATH)))
    local _, first = a:save("river://r/weights/i", checkpoint(1, {immutable = true}))
    local _, second = b:save("river://r/weights/i", checkpoint(1, {immutable = true}))
    assert.not_equal(first, second)
  end)

  it("are whole for a process that reads while others write", function()
    local path = folder()
    local writer = [[
      local array, store = require "riverlua.array", require "training.embedded.store"
      local kept, value = store.new{path = arg[1]}, tonumber(arg[2])
      for i = 1, 40 do
        local name = i % 2 == 0 and "a" or "b"
        kept:save("river://r/weights/" .. name, {kind = "training", base = "b", config = {},
          tensors = {{name = "w", array = array.fill("float32", 1000, value + i)}},
          optimizer = {step = i, tensors = {{name = "m", array = array.fill("float32", 1000, value + i)}}}})
      end
    ]]
    local reader = [[
      local store = require "training.embedded.store"
      local kept, seen = store.new{path = arg[1]}, 0
      while seen < 60 do
        local loaded = kept:load("river://r/weights/a")
        if loaded then
          seen = seen + 1
          local w, m = loaded.tensors[1].array, loaded.optimizer.tensors[1].array
          assert(w:min() == w:max() and m:min() == w[1] and m:max() == w[1])
          assert(w[1] % 1000 == loaded.optimizer.step)
        end
      end
      print("whole")
    ]]
    local results = task.map({{writer, 1000}, {writer, 2000}, {reader}}, function(job)
      local script = os.tmpname()
      files.write(script, job[1])
      return {script, ("%s %s %s %s"):format(servers.riverlua, script, servers.quote(path), job[2] or "")}
    end)
    local command = {}
    for i, job in ipairs(results) do command[i] = "(timeout 60 " .. job[2] .. " || echo FAILED) &" end
    local pipe <close> = assert(io.popen(table.concat(command, "\n") .. "\nwait"))
    local said = pipe:read("a")
    for _, job in ipairs(results) do os.remove(job[1]) end
    assert.equal("whole\n", said)
    assert.is_nil(files.tree(path):find("/.part", 1, true))
    assert.is_nil(files.tree(path):find("/.old", 1, true))
  end)
end)

describe("a process that is killed while it saves", function()
  -- Kills itself at the n-th operation on files: before it, or after it where `arg[3]` says so.
  local SCRIPT = [[
    local array, store = require "riverlua.array", require "training.embedded.store"
    local folder = require "riverlua.core.folder"
    local kept, fatal, after = store.new{path = arg[1]}, tonumber(arg[2]), arg[3] == "after"
    local pid, count = io.open("/proc/self/stat"):read("a"):match("^%d+"), 0
    local function die() os.execute("kill -9 " .. pid) end
    for owner, names in pairs{[folder] = {"replace", "make", "sync"}, [os] = {"rename", "remove"}} do
      for _, name in ipairs(names) do
        local original = owner[name]
        owner[name] = function(...)
          count = count + 1
          if count == fatal and not after then die() end
          local results = table.pack(original(...))
          if count == fatal then die() end
          return table.unpack(results, 1, results.n)
        end
      end
    end
    kept:save("river://r/weights/final", {kind = "training", base = "b", config = {}, tensors = {
      {name = "w", array = array.float32{2}}}, optimizer = {step = 2, tensors = {}}})
    print(count)
  ]]

  local function save(path, value)
    local kept <close> = store.new{path = path}
    kept:save("river://r/weights/final", {kind = "training", base = "b", config = {}, tensors = {
      {name = "w", array = array.float32{value}}}, optimizer = {step = value, tensors = {}}})
  end

  it("leaves the old checkpoint or the new one, and nothing else", function()
    local path = files.new_folder()
    save(path, 1)
    local tree, seen = files.tree(path), {}
    for _, moment in ipairs{"before", "after"} do
      local fatal, result = 0
      repeat
        fatal = fatal + 1
        save(path, 1)
        result = servers.run(SCRIPT, {args = {path, fatal, moment}})
        assert(result.code == 137 or result.code == 0, result.err)
        local kept <close> = store.new{path = path}
        local loaded = kept:load("river://r/weights/final")
        assert.equal(loaded.tensors[1].array[1], loaded.optimizer.step)
        seen[loaded.optimizer.step] = true
        assert.equal(tree, files.tree(path), ("killed %s operation %d"):format(moment, fatal))
      until result.code == 0
      assert.is_true(fatal > 10)
    end
    assert.same({true, true}, seen)
    files.remove(path)
  end)

  it("is no matter for a store that was open before", function()
    local path = files.new_folder()
    save(path, 1)
    local kept <close> = store.new{path = path}
    for fatal = 6, 20, 2 do
      servers.run(SCRIPT, {args = {path, fatal, "after"}})
      local loaded = kept:load("river://r/weights/final")
      assert.equal(loaded.tensors[1].array[1], loaded.optimizer.step)
      kept:save("river://r/weights/final", loaded)
    end
    files.remove(path)
  end)
end)

describe("merged adapters", function()
  it("agree with PEFT's formula", function()
    local path = files.new_folder()
    local kept <close> = store.new{path = path}
    local function matrix(rows, columns, seed)
      local values = array.fill("float32", rows * columns)
      for i = 1, #values do values[i] = math.sin(seed + i * 1.7) end
      return array.matrix("float32", values, columns)
    end
    local a, b, weights = matrix(3, 4, 1), matrix(5, 3, 2), matrix(5, 4, 3)
    kept:save(PATH, checkpoint(0, {lora = {rank = 3, scale = 50}, tensors = {
      {name = "head.lora_A.weight", array = a}, {name = "head.lora_B.weight", array = b}}}))
    local merged = {}
    for i = 1, 5 do
      for j = 1, 4 do
        local sum = 0
        for k = 1, 3 do sum = sum + b[i][k] * a[k][j] end
        merged[#merged + 1] = ("%.6g"):format(weights[i][j] + 50 * sum)
      end
    end
    local base = path .. "/base.safetensors"
    require("training.embedded.safetensors").write(base, {{name = "head.weight", array = weights}})
    local said = files.python([[
import json, sys
from safetensors.numpy import load_file
folder, base = sys.argv[1:]
config = json.load(open(folder + "/adapter_config.json"))
adapter, weights = load_file(folder + "/adapter_model.safetensors"), load_file(base)
assert config["peft_type"] == "LORA" and not config["use_rslora"] and not config["fan_in_fan_out"]
for module in config["target_modules"]:
    a = adapter[f"base_model.model.{module}.lora_A.weight"].astype("float64")
    b = adapter[f"base_model.model.{module}.lora_B.weight"].astype("float64")
    merged = weights[module + ".weight"] + config["lora_alpha"] / config["r"] * (b @ a)
    print(" ".join("%.6g" % x for x in merged.ravel()))
]], path .. "/run-1/final", base)
    assert.equal(table.concat(merged, " ") .. "\n", said)
    files.remove(path)
  end)
end)

if not has_trainer then return end

describe("a checkpoint of the trainer", function()
  local engine, path
  before_each(function() engine, path = trainer.open{threads = 2}, files.new_folder() end)
  after_each(function()
    engine:close()
    files.remove(path)
  end)

  local SHAPE = {vocabulary = 256, width = 16, layers = 2, heads = 2, hidden = 32, context = 64,
    positions = "rotary"}
  local LORA = {rank = 4, scale = 50, attn = true, mlp = true, unembed = true, seed = 1}

  local function learn(model, times)
    local bytes = require("training.datum").encode{input_ids = {("abcabc"):byte(1, -1)},
      weights = {1, 1, 1, 1, 1, 0}}
    for _ = 1, times do
      model:pass({bytes}, {loss = "cross_entropy", config = {}, gradients = true, clear = true})
      model:step{lr = 1e-3}
    end
  end

  local function by_name(list)
    local map = {}
    for _, tensor in ipairs(list) do map[tensor.name] = tensor.array end
    return map
  end

  local function saved(model, lora)
    return {kind = "training", base = "b", config = SHAPE, lora = lora, tensors = model:tensors(),
      optimizer = model:optimizer()}
  end

  it("goes on where it was, bit for bit", function()
    local base = engine:base(SHAPE, nil, 1)
    for _, lora in ipairs{LORA, false} do
      local model = engine:model(base, lora or nil)
      learn(model, 3)
      local kept <close> = store.new{path = path}
      kept:save(PATH, saved(model, lora or nil))
      learn(model, 2)
      local loaded = kept:load(PATH)
      local other = engine:model(base, lora or nil)
      other:set_tensors(by_name(loaded.tensors))
      other:set_optimizer{step = loaded.optimizer.step, tensors = by_name(loaded.optimizer.tensors)}
      learn(other, 2)
      local expected = by_name(model:tensors())
      for _, tensor in ipairs(other:tensors()) do
        assert.equal(expected[tensor.name]:bytes(), tensor.array:bytes(), tensor.name)
      end
    end
  end)

  it("holds an adapter that PEFT merges as the trainer does", function()
    local base = engine:base(SHAPE, nil, 1)
    local model = engine:model(base, LORA)
    learn(model, 5)
    local kept <close> = store.new{path = path}
    kept:save(PATH, saved(model, LORA))
    local safetensors = require "training.embedded.safetensors"
    safetensors.write(path .. "/base", base:tensors())
    safetensors.write(path .. "/merged", model:merged())
    local said = files.python([==[
import json, sys
import numpy as np
from safetensors.numpy import load_file
folder, base, merged = sys.argv[1:]
config = json.load(open(folder + "/adapter_config.json"))
adapter, weights, merged = load_file(folder + "/adapter_model.safetensors"), load_file(base), load_file(merged)
changed = 0
for module in config["target_modules"]:
    a = adapter.pop(f"base_model.model.{module}.lora_A.weight").astype("float64")
    b = adapter.pop(f"base_model.model.{module}.lora_B.weight").astype("float64")
    delta = config["lora_alpha"] / config["r"] * (b @ a)
    changed += np.abs(delta).max() > 0.01
    weights[module + ".weight"] = weights[module + ".weight"] + delta
assert not adapter and set(weights) == set(merged)
assert all(np.allclose(weights[name], merged[name], rtol=1e-5, atol=1e-6) for name in weights)
print(len(config["target_modules"]), changed)
]==], path .. "/run-1/final", path .. "/base", path .. "/merged")
    assert.equal("9 9\n", said)
  end)
end)
