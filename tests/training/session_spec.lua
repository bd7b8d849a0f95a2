-- What a client sets for its sessions, and what a closed session still does.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(folder .. "support.lua")

-- Whether a text is found anywhere in the fields of a value.
local function holds(value, text, seen)
  if type(value) == "string" then return value:find(text, 1, true) ~= nil end
  if type(value) ~= "table" or seen[value] then return false end
  seen[value] = true
  for key, inner in next, value do
    if holds(key, text, seen) or holds(inner, text, seen) then return true end
  end
  return false
end

describe("a session", function()
  local server
  setup(function() server = support.standin.start() end)
  teardown(function() server:close() end)
  before_each(function() server:post("reset") end)

  it("has the client's patience with samples", function()
    local client <close> = support.client(server, {timeout = 0.2})
    local model, session = support.model(client, support.SILENT)
    server:fault{method = "SampleFromTraining", never = true, times = 1}
    local err = support.failure(model.sample, model, "1 + 1")
    assert.equal("timeout", err.kind)
    assert.equal(0.2, err.limit)
    server:fault{method = "SampleFromCheckpoint", never = true, times = 1}
    local checkpoint = model:save_weights("x", {mode = "inference"})
    err = support.failure(session.sample, session, {prompts = "1 + 1", base_model = support.MODEL,
      checkpoint = checkpoint})
    assert.equal("timeout", err.kind)
    server:fault{method = "SubmitSamplingBatch", handles = {["0"] = {never = true}}}
    local pending = model:submit_sampling_batch("1 + 1")
    assert.equal("timeout", pending:as_completed()().error.kind)
  end)

  it("of a client with more patience submits batches for a day", function()
    local client <close> = support.client(server, {timeout = 7 * 86400})
    local model = support.model(client, support.SILENT)
    assert.equal(1, #model:submit_sampling_batch("1 + 1"):result())
  end)

  it("that is closed submits and polls nothing more", function()
    local client <close> = support.client(server)
    local model, session = support.model(client, support.SILENT)
    local operation = model:submit_sample("1 + 1")
    server:fault{method = "SubmitSamplingBatch", handles = {["0"] = {never = true}}}
    local pending = model:submit_sampling_batch("1 + 1")
    session:close()
    local calls = server:count()
    for what, fn in pairs{
      submit_sample = function() operation:result() end,
      submit_sampling_batch = function() model:submit_sampling_batch("1 + 1") end,
      sample_as_completed = function() model:sample_as_completed("1 + 1") end,
      log = function() model:log{x = 1} end,
      define_metric = function() model:define_metric("x") end,
    } do
      assert.equal(("closed: %s: this session has been closed"):format(what), tostring(support.failure(fn)))
    end
    assert.equal("closed", support.failure(pending.result, pending).kind)
    assert.equal(calls, server:count())
  end)

  it("completes at the prompt, like client, model and results, what is for the user", function()
    local client <close> = support.client(server)
    local model, session = support.model(client)
    local result = model:forward_backward({support.datum()}, "importance_sampling")
    local complete = require "riverlua.repl_complete"
    local values = {client = client, session = session, model = model, result = result}
    local prompt = {get = function(_, name) return values[name] ~= nil, values[name] end}
    for before, wanted in pairs{
      ["client:se"] = "session", ["client:list"] = "list_deployments", ["client:wa"] = "wait_for_deployment",
      ["client:res"] = "", ["client:submit"] = "", ["session:cr"] = "create_model", ["session:sub"] =
      "submit_sample submit_sampling_batch", ["session.r"] = "release_image restore_image", ["session:check"] = "",
      ["model:sa"] = "sample sample_as_completed save_weights", ["model:un"] = "", ["model.st"] = "step",
      ["session.meter.b"] = "budget", ["result."] = "logprobs metrics usage",
    } do
      assert.equal(wanted, table.concat(complete.candidates(before, prompt), " "), before)
    end
    assert.truthy(tostring(result):find("^training%.ForwardResult%(%d+ metrics, loss %-?[%d.e-]+, %d tokens%)$"))
    -- and what is not for the user is not what was meant
    assert.is_nil(model.unloadd)
    assert.is_nil(client.reserv)
  end)

  it("has samples that say which column replays their routing", function()
    local client <close> = support.client(server)
    local model = support.model(client)
    local ids = {49, 43, 49}
    local sample = model:sample{prompt_token_ids = ids, return_expert_routing = true}[1][1]
    local keys = sample:routing_datum_keys(true)
    assert.same({expert_routing_handle = sample.expert_routing.handle}, keys)
    local training = require "training"
    model:forward_backward{data = {training.grpo_data(ids, sample, 0.5, keys)}, loss_fn = "importance_sampling",
      force_routing_replay = true}
    local plain = model:sample{prompt_token_ids = ids}[1][1]
    assert.same({}, plain:routing_datum_keys())
    assert.equal("argument", support.failure(plain.routing_datum_keys, plain, true).kind)
  end)

  it("guards a step by the newest policy, in whatever order results are collected", function()
    local client <close> = support.client(server)
    local model = support.model(client)
    local first, second = model:submit_optim_step(1e-4), model:submit_optim_step(1e-4)
    assert.equal(2, second:result().policy_version.step)
    assert.equal(1, first:result().policy_version.step)
    assert.equal(3, model:optim_step(1e-4).policy_version.step)
    local checkpoint = model:save_weights("three")
    local step = model:submit_optim_step(1e-4)
    model:load_weights(checkpoint)
    assert.equal(4, step:result().policy_version.step)
    assert.equal(4, model:optim_step(1e-4).policy_version.step)   -- from the checkpoint on
  end)

  it("has the key in none of its fields", function()
    local client <close> = support.client(server)
    local model = support.model(client)
    model:sample("1 + 1")
    assert.is_false(holds(model, support.KEY, {}))
    assert.is_true(holds(model, client.identity, {}))
  end)

  it("releases its images also when the answer to an upload got lost", function()
    local client <close> = support.client(server)
    local session = client:session(support.SILENT)
    server:fault{method = "UploadImage", status = "INTERNAL", acts = true}
    support.failure(session.upload_image, session, "\x89PNG\r\n\x1a\n")
    session:close()
    assert.equal(1, server:count("ReleaseImage"))
  end)
end)
