-- What the client hands to parts of its own: console metrics, deployments, custom losses, and a whole session over TLS.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local support = dofile(folder .. "support.lua")
local rest = dofile(folder .. "rest_support.lua")
local servers = support.standin.servers
local http = require "riverlua.http"
local json = require "riverlua.json"
local training = require "training"

local failure = support.failure

describe("the training client", function()
  local server
  setup(function() server = support.standin.start{seed = 1} end)
  teardown(function() server:close() end)
  before_each(function() server:reset() end)

  it("sends numbers of a run to the console, and the rest when the session closes", function()
    local console <close> = servers.start{servers.python(), servers.folder .. "console_standin.py"}
    local looks <close> = http.Client{base_url = console:url()}
    local client <close> = support.client(server, {console_url = console:url(), api_key = "console-key"})
    local model, session = support.model(client)
    model:define_metric("reward/*", {step_metric = "step"})
    model:log{["reward/mean"] = 0.25, step = 1}
    model:log{["reward/mean"] = 0.5, step = 2}
    session:close()
    local runs = looks:get("/_runs"):json()
    local observations = assert(runs[model.training_run_id], "the run is not there").observations
    assert.same({["reward/mean"] = 0.5, step = 2}, observations[2].values)
  end)

  it("does not give the key of one service to the console of another", function()
    local client <close> = support.client(server)
    local model = support.model(client)
    local err = failure(model.log, model, {x = 1})
    assert.equal("argument", err.kind)
    assert.truthy(err.hint:find("console_url", 1, true))
    assert.is_nil(tostring(err):find(support.KEY, 1, true))
  end)

  it("deploys a checkpoint", function()
    local deployments <close> = rest.start()
    local client <close> = support.client(server, {rest_url = deployments:url(), api_key = "test-key"})
    local model = support.model(client)
    local checkpoint = model:save_weights("s", {mode = "inference"})
    local made = client:create_deployment{checkpoint = checkpoint, unified_replicas = 1}
    assert.equal(made.id, client:get_deployment(made.id).id)
    assert.equal(1, #client:list_deployments())
    client:scale_on_target(made.id, {unified_replicas = 2})
    assert.is_table(client:get_deployment_usage(made.id))
    client:delete_deployment(made.id)
    assert.equal(checkpoint.path, json.decode(deployments:log()[1].body).checkpoint)
  end)

  it("registers a loss of its own once, and sends it with each datum", function()
    local client <close> = support.client(server)
    local model = support.model(client)
    local loss = training.loss_graph({targets = "int64", weights = "float32"}, function(logits, x)
      return (logits:ce(x.targets) * x.weights):sum()
    end)
    local datum = {input_ids = {49, 43, 50}, loss_data = {targets = {43, 50, 0}, weights = {0.5, 1.0, 0.0}}}
    local result = model:forward_backward({datum}, loss)
    assert.is_number(result.metrics.loss)
    model:forward_backward({datum, datum}, {loss_fn = loss, zero_out = false})
    assert.equal(1, server:count("PrepareLoss"))
    assert.equal("loss_graph_v1", server:requests("ForwardBackward")[1].forward_backward_input.loss_fn)
    assert.same({}, server:violations())
    assert.equal("argument", failure(model.forward_backward, model, {datum}, {loss_fn = loss, clip_low = 0.2}).kind)
  end)

  it("trains over TLS, and only with a certificate that is trusted", function()
    local secure <close> = support.standin.start{seed = 1, tls = true}
    local options = {endpoint = secure.target, http = {ca_file = secure.ca_file}}
    local client <close> = support.client(secure, options)
    local model, session = support.model(client)
    model:train_step{data = {support.datum()}, lr = 1e-3, loss_fn = "importance_sampling"}
    assert.equal(1, secure:model().optimizer_steps)
    assert.truthy(secure:wait("SessionHeartbeat", 1))
    session:close()
    local distrustful <close> = support.client(secure, {endpoint = secure.target})
    local err = failure(distrustful.session, distrustful)
    assert.equal("unavailable", err.kind)
    assert.is_false(err.retryable)
    assert.truthy(err.hint:find("ca_file", 1, true))
  end)

  it("refuses a wrong key, which is in no error", function()
    server:configure{api_key = "the-right-key"}
    local client <close> = support.client(server, {api_key = "the-wrong-key"})
    local err = failure(client.session, client)
    assert.equal("auth", err.kind)
    assert.is_nil((tostring(err) .. json.encode{err.details}):find("the-wrong-key", 1, true))
    local right <close> = support.client(server, {api_key = "the-right-key"})
    assert.truthy(right:session().session_id ~= "")
  end)
end)
