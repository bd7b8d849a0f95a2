--- What is sampled from: made once whoever waits for it, and let go of when it could not be made.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local errors = require "riverlua.errors"
local signal = require("riverlua.core.task").signal
local task = require "riverlua.task"

local GENERATE = {base_model = support.BASE, prompts = {{prompt = "ab", max_tokens = 2, temperature = 1, top_p = 1}}}

-- A service whose base model takes until `go` is fired to be made.
local function slow_service()
  local at = {made = 0, go = signal()}
  local base_models = {list = support.fake.base_models.list, open = function(...)
    at.made = at.made + 1
    at.go:wait()
    if at.problem then error(at.problem, 0) end
    return support.fake.base_models.open(...)
  end}
  at.service, at.core = support.service{base_models = base_models}
  function at.begun(count)
    while at.made < count do task.sleep(0) end
  end
  return at
end

describe("a base model", function()
  after_each(function() assert.same({}, task.waiting()) end)

  it("is made once for all who wait, also when the first of them goes away", function()
    local at <const> = slow_service()
    local service <close> = at.service
    local waiting = {}
    for i = 1, 3 do waiting[i] = task.spawn(support.run, service, "InferenceGenerate", GENERATE) end
    at.begun(1)
    waiting[1]:cancel("no time")
    task.sleep(0)
    assert.equal("cancelled", waiting[1]:status())
    at.go:fire()
    for i = 2, 3 do assert.equal(2, #waiting[i]:await().inference.results[1].token_ids) end
    assert.equal(1, at.made)
    local bases = 0
    for _, name in ipairs(at.core.log) do bases = bases + (name == "base" and 1 or 0) end
    assert.equal(1, bases)
  end)

  it("that could not be made is tried again by the next one", function()
    local at <const> = slow_service()
    local service <close> = at.service
    at.problem = errors.new{kind = "memory", message = "no memory"}
    local waiting = task.spawn(support.refusal, service, "InferenceGenerate", GENERATE)
    at.begun(1)
    at.go:fire()
    assert.equal("RESOURCE_EXHAUSTED", waiting:await().code)
    at.problem = nil
    waiting = task.spawn(support.run, service, "InferenceGenerate", GENERATE)
    at.begun(2)
    at.go:fire()
    assert.is_table(waiting:await().inference)
    assert.equal(2, at.made)
  end)

  it("is given up with the service", function()
    local at <const> = slow_service()
    local waiting = task.spawn(pcall, support.run, at.service, "InferenceGenerate", GENERATE)
    at.begun(1)
    at.service:close()
    assert.is_false((waiting:await()))
  end)
end)

describe("a checkpoint to sample from", function()
  it("whose tensors are refused leaves nothing in the engine", function()
    local at = support.start()
    local client <close> = at.client   -- luacheck: ignore 211
    local path = at.model:save_weights("a").path
    local set_tensors = getmetatable(at.core.made[1]).set_tensors
    getmetatable(at.core.made[1]).set_tensors = function() errors.raise{kind = "refused", message = "no tensors"} end
    local ok, err = pcall(at.session.sample, at.session, {prompts = {"ab"}, base_model = support.BASE,
      checkpoint = path, max_tokens = 2})
    getmetatable(at.core.made[1]).set_tensors = set_tensors
    assert.is_false(ok)
    assert.truthy(err.message:find("no tensors", 1, true), err.message)
    assert.equal(2, #at.core.made)
    assert.is_true(at.core.made[2].closed)
  end)
end)
