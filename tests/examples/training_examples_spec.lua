--- The examples of `training`, run as a user would, on the stand-in.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
local examples = dofile(folder .. "support.lua")
local standin = dofile(folder .. "../support/training.lua")
local json = require "riverlua.json"

local run, has = examples.run, examples.has

local function write(path, text)
  local file <close> = assert(io.open(path, "wb"))
  file:write(text)
end

describe("the example of training", function()
  local server, environment, path

  setup(function()
    server = standin.start{seed = 1}
    environment = {RIVER_ENDPOINT = server.target, RIVER_API_KEY = "rv-0123456789", BATCH = "32"}
  end)
  teardown(function() server:close() end)
  before_each(function() path = os.tmpname() end)
  after_each(function() os.execute("rm -f " .. path .. "*") end)

  it("grpo_gsm8k.lua climbs", function()
    local lines = {}
    for i = 1, 32 * 8 do
      local a, b = i % 37 + 1, (i * 7) % 23 + 2
      lines[i] = json.encode{question = ("Tom has %d apples and buys %d."):format(a, b),
        answer = ("%d + %d = <<%d+%d=%d>>%d\n#### %d"):format(a, b, a, b, a + b, a + b, a + b)}
    end
    write(path .. ".jsonl", table.concat(lines, "\n") .. "\n")
    environment.PLOT = path .. ".svg"
    local text = run("grpo_gsm8k.lua", environment, "8 " .. path .. ".jsonl")
    has(text, "step  1", "step  8", "saved river://")
    local first = tonumber(text:match("step  1  reward/mean ([%d.]+)"))
    local last = tonumber(text:match("step  8  reward/mean ([%d.]+)"))
    assert.truthy(last > first + 0.2, text)
    assert.same({}, server:violations())
  end)

  it("sft.lua learns from its own rows", function()
    has(run("sft.lua", environment), "epoch 1  loss ", "epoch 3  loss ", "saved river://")
    assert.same({}, server:violations())
  end)

  it("training_resumable.lua goes on where it stopped", function()
    local text = run("training_resumable.lua", environment, path .. ".run 6")
    has(text, "at last; saved river://")
    do
      local saved <close> = require("training.progress").open(path .. ".run")
      assert.equal(6, saved:load().step)
    end
    has(run("training_resumable.lua", environment, path .. ".run 8"), "saved river://")
    assert.same({}, server:violations())
  end)
end)

describe("the example of training, on this machine:", function()
  local path
  before_each(function() path = os.tmpname() end)
  after_each(function() os.execute("rm -f " .. path .. "*") end)

  it("grpo_gsm8k.lua climbs with the numbers of the specification, whatever the seed", function()
    for seed = 1, 5 do
      local text = run("grpo_gsm8k.lua", {SEED = tostring(seed), PLOT = path .. ".svg"})
      local curve = {}
      for reward in text:gmatch("reward/mean ([%d.]+)") do curve[#curve + 1] = tonumber(reward) end
      assert.equal(29, #curve)
      assert.truthy(curve[1] < 0.35, text)
      local last = 0
      for i = 25, 29 do last = last + curve[i] / 5 end
      assert.truthy(last > 0.9, text)
      has(text, "reward/mean", "1.0 ┤", "saved river://", path .. ".svg")
      local picture <close> = assert(io.open(path .. ".svg"))
      assert.truthy(picture:read("a"):find("^<svg.*reward/mean.*</svg>%s*$"))
    end
  end)

  it("sft.lua learns to sort", function()
    local text = run("sft.lua")
    local before, after = text:match("before   answers right ([%d.]+)"), text:match("epoch 2 .*answers right ([%d.]+)")
    assert.truthy(tonumber(before) < 0.8 and tonumber(after) > 0.95, text)
  end)

  it("training_resumable.lua goes on where it stopped", function()
    has(run("training_resumable.lua", nil, path .. ".run 6"), "at last; saved river://")
    has(run("training_resumable.lua", nil, path .. ".run 12"), "at last; saved river://")
    os.execute("rm -rf " .. path .. ".run.checkpoints")
  end)
end)
