-- training.Run on embedded: — a run that was killed, or interrupted, ends with the metrics of one that was not, byte
-- by byte, though its samples have no seeds.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local servers = dofile(folder .. "../support/servers.lua")
local training = require "training"

local STEPS, EVERY = 7, 3

-- What stops it: the signal, the step, and the place in the step.
local SCRIPT = [[
  local training = require "training"
  local path, store, threads, seeded, signal, when, where = table.unpack(arg)
  local function stop(step, place)
    if step ~= tonumber(when) or place ~= where then return end
    -- not os.execute, which lets no SIGINT through
    io.popen(("kill -%s %d"):format(signal, io.open("/proc/self/stat"):read("n"))):close()
    require("riverlua.task").sleep(60)
  end
  local client <close> = training.Client{endpoint = "embedded:" .. store, embedded = {threads = tonumber(threads)}}
  local run <close> = training.Run{path = path, client = client, checkpoint_every = 3,
    model = {base_model = "tiny", lora = training.LoraConfig{rank = 4, train_unembed = true}}}
  print("resumed", run.resumed)
  for step in run:steps(7) do
    stop(step, "begin")
    local groups = run.model:sample{prompts = {"a" .. step, "b" .. step}, num_samples = 4, max_tokens = 8,
      seed = seeded == "seeded" and run:seed() or nil, return_prompt_token_ids = true}
    stop(step, "sampled")
    local data, sum = {}, 0
    for _, group in ipairs(groups) do
      for i, sample in ipairs(group) do
        local score = sample.tokens:mean() / 128 - 1
        sum = sum + score
        data[#data + 1] = training.grpo_data(sample.prompt_token_ids, sample, score)
      end
    end
    local loss
    if step % 3 ~= 0 then   -- otherwise a step that learns nothing, before weights are saved
      loss = run.model:train_step{data = data, lr = 1e-3, loss_fn = "importance_sampling"}.metrics.loss
    end
    stop(step, "trained")
    run:log{["reward/mean"] = sum / #data, loss = loss, first = groups[1][1].logprobs[1]}
  end
  print("reward", run.summary.metrics["reward/mean"].last)
]]

describe("a run on embedded:", function()
  local root, script
  setup(function()
    root = os.tmpname()
    os.remove(root)
    assert(require("riverlua.core.folder").make(root))
    script = root .. "/script.lua"
    local file <close> = assert(io.open(script, "wb"))
    file:write(SCRIPT)
    require("training.embedded.pretrain").pretrain{name = "tiny", text = ("abc123 "):rep(50), steps = 3, batch = 2,
      window = 16,
      config = {width = 16, layers = 1, heads = 2, hidden = 32, context = 64}, folder = root .. "/models",
      progress = false}
  end)
  teardown(function() os.execute("rm -rf '" .. root .. "'") end)

  -- Runs the script; returns what it prints and its exit code.
  local function run_script(name, options, stop)
    local words = {"exec env", ("RIVERLUA_BASE_MODELS='%s/models'"):format(root), servers.riverlua, script,
      root .. "/" .. name, root .. "/store-" .. name, options.threads or 1, options.seeded and "seeded" or "free"}
    for _, word in ipairs(stop or {}) do words[#words + 1] = word end
    local pipe = assert(io.popen("(" .. table.concat(words, " ") .. ") 2>&1; echo exit $?"))
    local text = pipe:read("a")
    pipe:close()
    return text:match("^(.-)\n?exit (%d+)\n$")
  end

  local function metrics(name) return servers.read_file(("%s/%s/metrics.jsonl"):format(root, name)) end

  local whole = {}

  -- Metrics of a run that nothing stops.
  local function undisturbed(options)
    local name = options.seeded and "whole-seeded" or "whole"
    if not whole[name] then
      local text, code = run_script(name, options)
      assert.equal("0", code, text)
      whole[name] = metrics(name)
      assert.equal(STEPS, select(2, whole[name]:gsub("\n", "")))
    end
    return whole[name]
  end

  for _, options in ipairs{{}, {seeded = true}} do
    for i, stop in ipairs{
      {"KILL", 2, "trained"}, {"KILL", 4, "begin"}, {"KILL", 5, "sampled"}, {"KILL", 6, "trained"},
      {"INT", 4, "trained"}, {"INT", 7, "sampled"},
    } do
      it(("stopped by SIG%s in step %d, %s, goes on to the same numbers (%s)"):format(stop[1], stop[2], stop[3],
        options.seeded and "seeds of the run's" or "no seeds"), function()
        local expected = undisturbed(options)
        local name = ("%s-%d"):format(options.seeded and "seeded" or "free", i)
        local text, code = run_script(name, options, stop)
        assert.equal(stop[1] == "INT" and "130" or "137", code, text)
        -- with another number of threads: it makes no difference
        text, code = run_script(name, {threads = 2, seeded = options.seeded})
        assert.equal("0", code, text)
        local before = (stop[2] - 1) // EVERY * EVERY
        assert.truthy(text:find(("resumed\t%s\n"):format(before > 0 and before or nil), 1, true), text)
        assert.equal(expected, metrics(name))
      end)
    end
  end

  it("stopped again and again goes on to the same numbers", function()
    local expected = undisturbed{}
    for step = 1, STEPS do run_script("often", {}, {"KILL", step, "trained"}) end
    local _, code = run_script("often", {})
    assert.equal("0", code)
    assert.equal(expected, metrics("often"))
  end)

  it("keeps so many checkpoints in its folder", function()
    local store = root .. "/few"
    local client <close> = training.Client{endpoint = "embedded:" .. store,
      embedded = {base_models = root .. "/models"}}
    local run <close> = training.Run{path = root .. "/keeps", client = client, checkpoint_every = 1, keep = 2,
      model = {base_model = "tiny", lora = training.LoraConfig{rank = 4}}}
    for _ in run:steps(5) do run:log{a = 1} end
    local names = require("riverlua.core.folder").list(store .. "/" .. run.model.training_run_id)
    table.sort(names)
    assert.equal("step-kept-1 step-kept-2 step-kept-3", table.concat(names, " "))
    run.model:load_weights(run.checkpoint)
  end)

  it("that kept its weights in memory says that they are gone", function()
    local path = root .. "/memory"
    local function once()
      local client <close> = training.Client{endpoint = "embedded:", embedded = {base_models = root .. "/models"}}
      local run <close> = training.Run{path = path, client = client,
        model = {base_model = "tiny", lora = training.LoraConfig{rank = 4}}}
      for _ in run:steps(1) do run:log{a = 1} end
    end
    once()
    local ok, err = pcall(once)
    assert.is_false(ok)
    assert.equal("not_found", err.kind)
    assert.truthy(err.hint:find("embedded:FOLDER", 1, true), tostring(err))
  end)
end)
