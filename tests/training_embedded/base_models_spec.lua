--- Base models: where they are looked for, how they are made once, and whether the built-in ones are what they
--- should.

local here = debug.getinfo(1, "S").source:match("^@(.*/)")
local files = dofile(here .. "files.lua")
local array = require "riverlua.array"
local base_models = require "training.embedded.base_models"
local datasets = require "training.datasets"
local json = require "riverlua.json"
local rewards = require "training.rewards"

local servers = files.servers
local has_trainer, trainer = pcall(require, "riverlua.core.trainer")

local RAMBLER = "embedded/rambler-134k"

local function beginning(executable)
  return ([[
    local fake = dofile(%q).open()
    local base_models = require "training.embedded.base_models"
    require("riverlua.core.folder").executable = function() return %q end
  ]]):format(here .. "fake_engine.lua", executable or "/nonexistent/bin/riverlua")
end

-- Runs a script with no base models but those that it says; `fake` in it is the engine that learns nothing.
local function run(script, options)
  local given = options.environment or {}
  options.environment = {HOME = options.home or "/nonexistent", XDG_CACHE_HOME = given.XDG_CACHE_HOME or "",
    RIVERLUA_BASE_MODELS = given.RIVERLUA_BASE_MODELS or ""}
  return servers.run(beginning(options.executable) .. script, options)
end

describe("base models", function()
  local path
  before_each(function() path = files.new_folder() end)
  after_each(function() files.remove(path) end)

  local CONFIG = {vocabulary = 256, width = 8, layers = 1, heads = 2, hidden = 16, context = 32}
  local function write(root, name, value)
    return base_models.write(root, name, CONFIG, {{name = "head.weight", array = array.float32{value}}})
  end

  it("are folders that other programs can read", function()
    local place = write(path, "mine/tiny", 7)
    assert.equal(path .. "/mine/tiny", place)
    assert.equal("./.lock\n./mine/tiny/config.json\n./mine/tiny/model.safetensors\n", files.tree(path))
    local config = json.decode(files.read(place .. "/config.json"))
    assert.equal("riverlua-decoder", config.model_type)
    assert.equal(8, config.width)
    assert.equal("rotary", config.positions)   -- the defaults are written, too
    local model = base_models.open("mine/tiny", {folder = path})
    assert.equal("mine/tiny", model.name)
    assert.equal(place, model.path)
    assert.same({7}, model.tensors["head.weight"]:table())
    assert.same({vocabulary = 256, width = 8, layers = 1, heads = 2, hidden = 16, context = 32,
      positions = "rotary", tied = false, rotary_base = 10000, norm_epsilon = 1e-5}, model.config)
  end)

  it("are listed: the built-in ones, and what is in the places", function()
    write(path, "mine/tiny", 1)
    write(path, "other", 1)
    write(path, RAMBLER, 1)
    files.write(path .. "/stray", "")
    os.execute("mkdir -p " .. path .. "/half/done " .. path .. "/.hidden/x")
    local names = base_models.list{folder = path}
    local text = table.concat(names, " ")
    assert.truthy(text:find("embedded/guesser-134k embedded/rambler-134k mine/tiny other", 1, true), text)
    assert.is_nil(text:find("half", 1, true))
    assert.same({"embedded/guesser-134k", "embedded/rambler-134k"}, base_models.built_in())
  end)

  it("are not found under other names, and a near one is told", function()
    write(path, "mine/tiny", 1)
    files.refused("not_found", {"no base model 'mine/tinny'", "did you mean 'mine/tiny'?"}, base_models.open,
      "mine/tinny", {folder = path})
    files.refused("not_found", {"there are: ", "embedded/rambler-134k"}, base_models.open,
      "nvidia/Kimi-K2.6-NVFP4", {folder = path})
    for _, name in ipairs{"", "../x", "a/../b", "a/b/c", ".a/b", "a/", "/a", ("x"):rep(101), "a b"} do
      files.refused("not_found", {}, base_models.open, name, {folder = path})
    end
    files.refused("argument", {"unknown option 'folders'"}, base_models.open, "x", {folders = path})
    files.refused("argument", {"'folder' must be a string"}, base_models.open, "x", {folder = 1})
    files.refused("argument", {"no model that is built in"}, base_models.make, "mine/tiny", {folder = path})
  end)

  it("are found damaged, and the folder is named", function()
    local place = write(path, "mine/tiny", 1)
    local model, config = place .. "/model.safetensors", place .. "/config.json"
    local bytes, text = files.read(model), files.read(config)
    local function damaged(what)
      files.refused("storage", {place, what}, base_models.open, "mine/tiny", {folder = path})
    end
    files.write(model, bytes:sub(1, -2))
    damaged("model.safetensors is not as it was written")
    os.remove(model)
    damaged("there is no model.safetensors")
    files.write(model, bytes)
    files.write(config, text:sub(1, 50))
    damaged("config.json is not as it was written")
    files.write(config, (text:gsub('"width": 8', '"width": "8"')))
    damaged("config.json has no 'width'")
    files.write(config, text)
    assert.equal("mine/tiny", base_models.open("mine/tiny", {folder = path}).name)
  end)

  it("are looked for in one place after the other", function()
    local roots = {path .. "/option", path .. "/variable", path .. "/bin/base-models",
      path .. "/share/riverlua/base-models", path .. "/cache/riverlua/base-models"}
    for i, root in ipairs(roots) do write(root, "mine/tiny", i) end
    write(roots[4], RAMBLER, 4)
    for i, root in ipairs(roots) do
      local result = run([[
        print(base_models.open("mine/tiny", {folder = arg[1]}).tensors["head.weight"][1])
        print(base_models.open("embedded/rambler-134k", {engine = fake}).tensors["head.weight"]:sum(), #fake.steps)
        print(base_models.default_root())
      ]], {args = {roots[1]}, executable = path .. "/bin/riverlua",
        environment = {RIVERLUA_BASE_MODELS = roots[2], XDG_CACHE_HOME = path .. "/cache"}})
      local expected = i < 5 and "4.0\t0" or "501.5\t500"   -- where it was not found it was made
      assert.equal(("%d.0\n%s\n%s\n"):format(i, expected, roots[2]), result.out, result.err)
      files.remove(root)
    end
  end)
end)

describe("a base model that is found nowhere", function()
  local path
  before_each(function() path = files.new_folder() end)
  after_each(function() files.remove(path) end)

  local OPEN = [[
    local model = base_models.open("embedded/guesser-134k", {engine = fake, progress = false})
    print(model.path, model.tensors["head.weight"][2], #fake.steps)
    print(base_models.open("embedded/guesser-134k", {engine = fake}).tensors["head.weight"][2], #fake.steps)
  ]]
  local place = "/.cache/riverlua/base-models/embedded/guesser-134k.1"

  it("is made once, below ~/.cache", function()
    local result = run(OPEN, {home = path})
    assert.equal(("%s%s\t300.0\t300\n300.0\t300\n"):format(path, place), result.out, result.err)
    assert.equal("", result.err)
    result = run(OPEN, {home = path})
    assert.equal(("%s%s\t300.0\t0\n300.0\t0\n"):format(path, place), result.out, result.err)
  end)

  it("is made anew when it is damaged there", function()
    run(OPEN, {home = path})
    files.write(path .. place .. "/model.safetensors", "x")
    local result = run(OPEN, {home = path})
    assert.equal(("%s%s\t300.0\t300\n300.0\t300\n"):format(path, place), result.out, result.err)
  end)

  it("stays in memory where nothing can be written", function()
    for _, home in ipairs{"/proc/nowhere", ""} do
      local result = run(OPEN, {home = home})
      assert.equal("nil\t300.0\t300\n300.0\t300\n", result.out, result.err)
    end
  end)

  it("is made by one of two processes, and the other waits", function()
    os.execute("mkdir -p " .. path)
    -- the one that makes it goes on when the other has been started
    local script = beginning() .. [[
      local task = require "riverlua.task"
      io.open(arg[1] .. "/started-" .. arg[2], "w"):close()
      local step = getmetatable(fake:model()).step
      getmetatable(fake:model()).step = function(...)
        while not io.open(arg[1] .. "/started-" .. 3 - arg[2]) do task.sleep(0.01) end
        return step(...)
      end
    ]] .. OPEN
    local program, pipes, made = os.tmpname(), {}, 0
    files.write(program, script)
    for i = 1, 2 do
      local command = "HOME=%s XDG_CACHE_HOME= RIVERLUA_BASE_MODELS= timeout 60 %s %s %s %d 2>&1"
      pipes[i] = assert(io.popen(command:format(path, servers.riverlua, program, path, i)))
    end
    for i = 1, 2 do
      local out = pipes[i]:read("a")
      pipes[i]:close()
      assert.truthy(out:find("guesser%-134k.1\t300.0\t%d+\n300.0\t%d+\n$"), out)
      made = made + (out:find("\t300\n") and 1 or 0)
    end
    os.remove(program)
    assert.equal(1, made)
  end)

  it("is made anew by the next process when one was killed meanwhile", function()
    local result = run([[
      local step = getmetatable(fake:model()).step
      getmetatable(fake:model()).step = function(...)
        if #fake.steps == 100 then os.execute("kill -9 " .. io.open("/proc/self/stat"):read("a"):match("^%d+")) end
        return step(...)
      end
    ]] .. OPEN, {home = path})
    assert.equal(137, result.code)
    result = run(OPEN, {home = path})
    assert.equal(("%s%s\t300.0\t300\n300.0\t300\n"):format(path, place), result.out, result.err)
  end)

  it("shows on a terminal how far it is", function()
    local command = ("HOME=%s XDG_CACHE_HOME= RIVERLUA_BASE_MODELS= TERM=xterm LC_ALL=C %s"):format(path,
      servers.quote(servers.riverlua))
    local script = os.tmpname()
    files.write(script, beginning() .. 'base_models.open("embedded/guesser-134k", {engine = fake})')
    local said = files.python([=[
import os, pty, sys
pid, fd = pty.fork()
if pid == 0:
    os.execvp("sh", ["sh", "-c", sys.argv[1]])
out = b""
while True:
    try:
        piece = os.read(fd, 4096)
    except OSError:
        break
    if not piece:
        break
    out += piece
os.waitpid(pid, 0)
print(out.decode())
]=], command .. " " .. script)
    os.remove(script)
    assert.truthy(said:find("making embedded/guesser-134k", 1, true), said)
    assert.truthy(said:find("300", 1, true), said)
  end)
end)

if not has_trainer then return end

describe("the built-in base models", function()
  local engine
  setup(function() engine = trainer.open{} end)
  teardown(function() engine:close() end)

  local function score(name, text, answer)
    if name == RAMBLER then return rewards.boxed(text, answer) end
    return text == rewards.extract_gsm8k_answer(answer) and 1 or 0
  end

  -- Mean reward of one sample for each question that they have not seen.
  local function mean_reward(name, base, temperature, max_tokens)
    local rows, requests, sum = datasets.load("embedded/digits", {split = "test"}), {}, 0
    for i, row in ipairs(rows) do
      requests[i] = {ids = {row.question:byte(1, -1)}, max_tokens = max_tokens, temperature = temperature,
        seed = i, stop = {"\n"}}
    end
    for i, result in ipairs(base:sample(requests)) do
      sum = sum + score(name, result.text, rows[i].answer)
    end
    return sum / #rows
  end

  local function between(low, value, high)
    assert.is_true(low <= value and value <= high, ("%.3f is not between %.2f and %.2f"):format(value, low, high))
  end

  it("have 133,760 parameters, and know what they should", function()
    for _, name in ipairs(base_models.built_in()) do
      local model = base_models.open(name)
      local base = engine:base(model.config, model.tensors)
      assert.equal(133760, base:parameters())
      if name == RAMBLER then
        between(0.15, mean_reward(name, base, 1, 16), 0.33)    -- the budget of the demo
        between(0.94, mean_reward(name, base, 1, 48), 1)       -- with time to think it is right
        between(0, mean_reward(name, base, 0, 16), 0.02)       -- its favourite is to think aloud
      else
        between(0.13, mean_reward(name, base, 1, 16), 0.3)
        between(0.5, mean_reward(name, base, 0, 16), 0.9)
      end
      base:close()
    end
  end)

  it("are files of 270 to 540 kB", function()
    local path = base_models.open(RAMBLER).path
    local size = #files.read(path .. "/model.safetensors") + #files.read(path .. "/config.json")
    assert.is_true(size > 270000 and size < 540000, size)
  end)
end)
