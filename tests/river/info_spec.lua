--- The service info and the addresses that it may order; finding models.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
local support = dofile(folder .. "support.lua")
local servers = dofile(folder .. "../support/servers.lua")
local http = require "riverlua.http"
local river = require "river"
local task = require "riverlua.task"

local function regression()
  return river.preprocessing.StandardScaler() | river.linear_model.LinearRegression{optimizer = river.optim.SGD(0.01)}
end

describe("check", function()
  local stub, orders
  local count = 0

  setup(function()
    stub = servers.start{servers.python(), servers.folder .. "stub_river.py"}
    orders = http.Client{proxy = false, ca_file = stub.info.ca_file}
  end)
  teardown(function()
    orders:close()
    stub:close()
  end)
  before_each(function() stub:reset() end)

  local function order(path, what, listener)
    what.path = path
    assert(orders:post(stub:url("/_order", listener), {json = what}).status == 204)
  end

  -- A client whose service info has these fields.
  local function told(info, options, listener)
    count = count + 1
    local prefix = "info" .. count
    local body = {id = "stub", status = "running"}
    for name, value in pairs(info) do body[name] = value end
    order("/" .. prefix .. "/", {answers = {{body = body}}}, listener)
    local all = {prefix = prefix, user = "u", token = "secret", http = {proxy = false, ca_file = stub.info.ca_file}}
    for name, value in pairs(options or {}) do all[name] = value end
    return river.Client(stub:url("", listener), all), prefix
  end

  it("stays where nothing is ordered", function()
    for _, info in ipairs{{}, {prefix = "", baseurl = ""}} do
      local cli <close>, prefix = told(info)
      assert.equal("running", cli:check().status)
      assert.equal(prefix, cli.prefix)
      assert.equal(stub:url(), cli.baseurl)
    end
  end)

  it("adopts a prefix, for every kind of call", function()
    count = count + 1
    local new = "moved" .. count
    local cli <close> = told{prefix = "/" .. new .. "/"}
    assert.equal("/" .. new .. "/", cli:check().prefix)
    assert.equal(new, cli.prefix)
    order("/" .. new .. "/learn/", {answers = {{status = 201, body = '"Successful learn."'}}})
    order("/" .. new .. "/predict/", {answers = {{status = 201, body = {model = "m", prediction = 2}}}})
    order("/" .. new .. "/models/", {answers = {{body = {models = {"m"}}}}})
    order("/" .. new .. "/stream/events/", {answers = {{pieces = {'event: learn\ndata: {"model": "m"}\n\n'}}}})
    assert.equal("Successful learn.", cli:learn("m", {a = 1}, 1))
    assert.equal(2, cli:predict("m", {a = 1}).prediction)
    assert.same({"m"}, cli:models().models)
    for event in cli:stream_events{limit = 1} do assert.equal("m", event.model) end
    assert.truthy(tostring(cli):find(new, 1, true))
  end)

  local function secured(prefix, listener)
    local name = listener or "http"
    order("/" .. prefix .. "/models/", {bearer = {"good"}, answers = {{body = {models = {"there"}}}},
      refusal = {status = 401, headers = {["Www-Authenticate"] = ('realm="{%s}/%s/token"'):format(name, prefix)}}},
      listener)
    order("/" .. prefix .. "/token/", {answers = {{body = {token = "good"}}}}, listener)
  end

  it("adopts a base address; user and token do not go to another host", function()
    local cli <close>, prefix = told{baseurl = stub:url("/", "other")}
    secured(prefix, "other")
    cli:check()
    assert.equal(stub:url("", "other"), cli.baseurl)
    assert.equal(prefix, cli.prefix)
    local err = support.error_of(cli.models, cli)
    assert.equal("auth", err.kind)
    assert.equal("credentials_withheld", err.code)
    assert.truthy(err.hint:find(stub:url("", "other"), 1, true), err.hint)
    assert.equal(0, #stub:log("/" .. prefix .. "/token/"))
  end)

  it("user and token go to a host that is listed", function()
    local listed = {auth_hosts = stub:url("", "other")}
    local cli <close>, prefix = told({baseurl = stub:url("", "other"), prefix = "new"}, listed)
    secured("new", "other")
    cli:check()
    assert.same({"there"}, cli:models().models)
    assert.equal(1, #stub:log("/new/token/"))
    assert.not_equal(prefix, cli.prefix)
  end)

  it("user and token stay with the client on its own host", function()
    local cli <close>, prefix = told{baseurl = stub:url("/below")}
    secured("below/" .. prefix)
    cli:check()
    assert.same({"there"}, cli:models().models)
  end)

  it("headers of the user's own stay behind too", function()
    local cli <close>, prefix = told({baseurl = stub:url("", "other")}, {http = {headers = {["X-Key"] = "k"}}})
    order("/" .. prefix .. "/models/", {answers = {{body = {models = {}}}}}, "other")
    cli:check()
    cli:models()
    assert.equal("k", stub:log("/" .. prefix .. "/")[1].headers["x-key"])
    assert.is_nil(stub:log("/" .. prefix .. "/models/")[1].headers["x-key"])
  end)

  it("does not give up encryption", function()
    local cli <close> = told({baseurl = stub:url()}, nil, "tls")
    local err = support.error_of(cli.check, cli)
    assert.equal("protocol", err.kind)
    assert.equal(stub:url("", "tls"), cli.baseurl)
    local willing <close> = told({baseurl = stub:url()}, {auth_hosts = {stub:url()}}, "tls")
    willing:check()
    assert.equal(stub:url(), willing.baseurl)
  end)

  it("refuses what is no address", function()
    for _, info in ipairs{{baseurl = "ftp://x"}, {baseurl = "embedded:"}, {baseurl = 5}, {prefix = "a b"},
      {prefix = {}}, {baseurl = "http://h/?q=1"}, {baseurl = {"http://x"}}} do
      local cli <close>, prefix = told(info)
      assert.equal("protocol", support.error_of(cli.check, cli).kind)
      assert.equal(prefix, cli.prefix)
    end
    local given = river.Client{transport = support.fake_transport{body = '{"baseurl":"http://elsewhere"}'}}
    assert.equal("unsupported", support.error_of(given.check, given).kind)
  end)

  it("calls under way end where they began", function()
    local cli <close>, prefix = told{baseurl = stub:url("", "other")}
    order("/" .. prefix .. "/models/", {answers = {{body = {models = {"here"}}, hold = "slow"}}})
    local slow = task.spawn(cli.models, cli)
    assert.is_true(stub:wait{key = "slow", waiting = 1})
    cli:check()
    stub:release("slow")
    assert.same({"here"}, slow:await().models)
  end)
end)

local function finds(open)
  local cli

  setup(function()
    cli = open()
    cli:upload_model(regression(), "regression", "prices a")
    cli:upload_model(regression(), "regression", "prices b")
    cli:upload_model(river.preprocessing.StandardScaler() | river.linear_model.LogisticRegression(), "binary", "spam")
    for step = 1, 3 do cli:learn("prices a", {a = step}, step) end
    cli:predict("prices a", {a = 1})
  end)
  teardown(function() cli:close() end)

  local function names(found)
    local list = {}
    for i, one in ipairs(found) do list[i] = one.name end
    return table.concat(list, ",")
  end

  it("lists what there is", function()
    local found = cli:find_models()
    assert.equal("prices a,prices b,spam", names(found))
    assert.same({"LinearRegression", "StandardScaler"}, found[1].steps)
    assert.equal(3, found[1].stats.learn.n_calls)
    assert.equal("number", type(found[1].metrics.MAE))
    assert.equal(0.01, found[1].json.LinearRegression.optimizer[2].lr[2].learning_rate)
    assert.equal(0, found[2].stats.learn.n_calls)
    assert.equal("regression", found[2].flavor)
    assert.is_nil(found[1].problems)
    local text = tostring(found)
    assert.truthy(text:find("prices a  LinearRegression | StandardScaler +3 +1  MAE "), text)
    local _, lines = text:gsub("\n", "")
    assert.equal(3, lines)
  end)

  it("filters by name, step and a function", function()
    assert.equal("prices a,prices b", names(cli:find_models{name = "^prices"}))
    assert.equal("spam", names(cli:find_models{step = "LogisticRegression"}))
    assert.equal("prices a,prices b", names(cli:find_models{step = "SGD", name = "prices"}))
    assert.equal("prices a", names(cli:find_models{where = function(one) return one.stats.learn.n_calls > 0 end}))
    assert.equal("", names(cli:find_models{name = "nothing"}))
    assert.equal("model  steps  learned  predicted  metrics", tostring(cli:find_models{name = "nothing"}))
  end)

  it("asks only for the parts that are wanted", function()
    local found = cli:find_models{with = {"stats"}, name = "prices a", concurrency = 1}
    assert.is_nil(found[1].json)
    assert.is_nil(found[1].metrics)
    assert.equal(1, found[1].stats.predict.n_calls)
  end)

  it("options that make no sense are refused", function()
    for _, options in ipairs{{name = 5}, {name = "["}, {with = {"weights"}}, {where = 1}, {nam = "x"}, 5} do
      assert.equal("argument", support.error_of(cli.find_models, cli, options).kind)
    end
  end)
end

describe("find_models on a real server", function()
  local server
  setup(function() server = support.start_server() end)
  teardown(function() server.stop() end)
  describe("", function() finds(function() return river.Client(server.url) end) end)

  it("check changes nothing there", function()
    local cli <close> = river.Client(server.url)
    assert.equal("running", cli:check().status)
    assert.equal(server.url, cli.baseurl)
    assert.equal("api", cli.prefix)
    assert.equal("table", type(cli:models().models))
  end)

  it("a model that cannot be shown as JSON is listed all the same", function()
    local cli <close> = river.Client(server.url)
    cli:upload_model(river.neighbors.KNNClassifier(), "neighbor", "knn")
    local found = cli:find_models{name = "^knn$"}
    assert.equal(1, #found)
    assert.equal(500, found[1].problems.json.status)
    assert.truthy(tostring(found):find("(no json)", 1, true))
    assert.equal(0, #cli:find_models{name = "^knn$", step = "KNNClassifier"})
  end)
end)

describe("find_models in this process", function()
  finds(function() return river.Client("embedded:") end)
end)

it("a model that was deleted meanwhile is left out", function()
  local cli = river.Client{transport = support.fake_transport(function(req)
    if req.path == "/api/models/" then return {body = '{"models":["gone","here"]}'} end
    if req.path == "/api/model/gone/" then return {status = 404} end
    return {body = "{}"}
  end)}
  local found = cli:find_models()
  assert.equal(1, #found)
  assert.equal("here", found[1].name)
end)

it("trouble with the server is no problem of a model", function()
  local cli = river.Client{transport = support.fake_transport(function(req)
    if req.path == "/api/models/" then return {body = '{"models":["a"]}'} end
    return {status = 401}
  end), user = false, token = false}
  assert.equal("credentials_missing", support.error_of(cli.find_models, cli).code)
end)
