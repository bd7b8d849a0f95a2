--- docs/training_embedded.md: its blocks run, those of Python beside the Lua that they are about, and it speaks of
-- all options.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
local docs = dofile(folder .. "support.lua")
local servers = dofile(folder .. "../support/servers.lua")

local PATH = "docs/training_embedded.md"

-- Base models that blocks make do not come among the user's.
local function temporary_folder()
  local path = os.tmpname()
  os.remove(path)
  assert(os.execute("mkdir " .. path))
  return path
end

local cache = temporary_folder()
-- built ones need not be made again
os.execute(("mkdir -p %s/riverlua/base-models && test ! -d build/base-models/embedded || "
  .. 'ln -s "$PWD/build/base-models/embedded" %s/riverlua/base-models/embedded'):format(cache, cache))
local environment = {XDG_CACHE_HOME = cache, RIVERLUA_BASE_MODELS = "", RIVER_API_KEY = "", RIVER_ENDPOINT = ""}

-- The block of a language in which a text stands.
local function block_with(language, text)
  for block in docs.read_file(PATH):gmatch("\n```" .. language .. "\n(.-\n)```\n") do
    if block:find(text, 1, true) then return block end
  end
  error("no block of " .. language .. " with " .. text)
end

local function write(path, text)
  local file <close> = assert(io.open(path, "wb"))
  file:write(text)
end

local function run(command)
  local output, ok = docs.output_of(command)
  assert(ok, output)
  return output
end

describe(PATH, function()
  local work

  setup(function() work = temporary_folder() end)
  teardown(function() os.execute(("rm -rf %s %s"):format(work, cache)) end)

  docs.describe_blocks({describe = describe, it = it}, PATH, environment)
  docs.describe_links({it = it}, PATH, 10)

  local text = docs.read_file(PATH)

  it("speaks of every option", function()
    local training = require "training"
    for _, case in ipairs{
      {training.Client, {endpoint = "embedded:", embedded = {zzzzzz = 1}}, 3},
      {training.embedded.pretrain, {zzzzzz = 1}, 10},
      {training.embedded.pretrain, {name = "a", text = "ab", config = {zzzzzz = 1}}, 10},
    } do
      local ok, err = pcall(case[1], case[2])
      assert.is_false(ok)
      local count = 0
      for name in assert(err.message:match("known: (.*)$"), err.message):gmatch("[%w_]+") do
        if name ~= "path" and name ~= "engine" then   -- the endpoint's, and for tests
          count = count + 1
          assert.truthy(text:find("`" .. name, 1, true), name .. " is not described")
        end
      end
      assert.truthy(count >= case[3])
    end
  end)

  it("describes every flag of riverlua serve training", function()
    local help = run(docs.interpreter .. " serve training --help")
    local section, count = text:match("\n## 9 (.-)\n## "), 0
    for flag in help:gmatch("\n%s+(%-%-[%l-]+)") do
      if flag ~= "--help" then
        count = count + 1
        assert.truthy(section:find("`" .. flag .. "`", 1, true), flag .. " is not described")
      end
    end
    assert.truthy(count >= 9)
  end)

  it("merges a checkpoint in Python as it is merged here", function()
    write(work .. "/save.lua", block_with("lua", 'save_weights("final")') .. [[
      local core = require "riverlua.core.trainer"
      local engine <close> = core.open{threads = 1}
      local base = require("training.embedded.base_models").open(model.base_model)
      local made = engine:model(engine:base(base.config, base.tensors), {rank = 16, scale = 50, attn = true,
        mlp = true, unembed = false, seed = 1})
      local stored = require("training.embedded.store").new{path = "runs"}:load(checkpoint.path)
      local tensors = {}
      for _, tensor in ipairs(stored.tensors) do tensors[tensor.name] = tensor.array end
      made:set_tensors(tensors)
      local file = io.open("ours.safetensors", "wb")
      file:write(require("training.embedded.safetensors").encode(made:merged()))
      file:close()]])
    write(work .. "/merge.py", block_with("python", "load_file"))
    write(work .. "/compare.py", [[
import numpy
from safetensors.numpy import load_file
ours, theirs = load_file("ours.safetensors"), load_file("merged.safetensors")
assert sorted(ours) == sorted(theirs)
print(max(float(numpy.abs(ours[name] - theirs[name]).max()) for name in ours) < 1e-5)
]])
    local program = servers.riverlua
    if program:sub(1, 1) ~= "/" then program = run("pwd"):match("[^\n]+") .. "/" .. program end
    local python = servers.python()
    if python:sub(1, 1) ~= "/" then python = run("pwd"):match("[^\n]+") .. "/" .. python end
    local printed = run(("cd %s && env XDG_CACHE_HOME=%s RIVERLUA_BASE_MODELS= %s --quiet save.lua"):format(work, cache,
      servers.quote(program)))
    local checkpoint, base = printed:match("\n(runs/[^\n]+)\n([^\n]+)\n")
    assert.truthy(run(("cd %s && %s merge.py %s %s"):format(work, python, checkpoint, servers.quote(base)))
      :find("20 tensors", 1, true))
    assert.equal("True\n", run(("cd %s && %s compare.py"):format(work, python)))
  end)

  it("has an example for the official client that runs", function()
    local server <close> = servers.start({servers.riverlua, "serve", "training", "--json", "--stdin", "--port", "0"},
      {XDG_CACHE_HOME = cache, RIVERLUA_BASE_MODELS = "", RIVER_API_KEY = ""})
    local block, count = block_with("python", "river_client"):gsub("port=50051", "port=" .. server.info.port)
    assert.equal(1, count)
    write(work .. "/client.py", block)
    local printed = run(("RIVER_METRICS_DISABLED=1 no_proxy=127.0.0.1 timeout 120 %s %s/client.py"):format(
      servers.quote(servers.python()), work))
    assert.truthy(printed:find("1 river://[^\n]+/weights/final\n"), printed)
    assert.equal("", server:errors())
  end)
end)
