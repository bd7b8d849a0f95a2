--- The client on a transport without a network: requests it makes, what it checks itself, errors it raises.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local river = require "river"
local json = require "riverlua.json"

local OK = {status = 201, body = '"Successful learn."'}
local PREDICTION = {status = 201, body = '{"model":"m","prediction":0.5,"identifier":"i"}'}

local function client(answer, options)
  local transport = support.fake_transport(answer or {})
  local all = {transport = transport}
  for name, value in pairs(options or {}) do all[name] = value end
  return river.Client(all), transport.requests, transport
end

local function refuses(pattern, call, ...)
  local err = support.error_of(call, ...)
  assert.equal("argument", err.kind)
  assert.truthy(tostring(err):find(pattern), tostring(err))
end

local function path_of(options, baseurl)
  local transport = support.fake_transport{body = "{}"}
  options.transport = transport
  local cli = river.Client(baseurl, options)
  cli:info()
  return cli, transport.requests[1].path
end

describe("river.Client", function()
  it("joins addresses and prefixes whatever their slashes", function()
    for _, case in ipairs{
      {nil, {}, "/api/", "river.Client(http://127.0.0.1:8000/api)"},
      {"", {}, "/api/", "river.Client(http://127.0.0.1:8000/api)"},
      {"http://host:1/", {}, "/api/", "river.Client(http://host:1/api)"},
      {"http://host:1/sub//", {prefix = "ml"}, "/ml/", "river.Client(http://host:1/sub/ml)"},
      {"https://host", {prefix = "/a/b/"}, "/a/b/", "river.Client(https://host/a/b)"},
      {" http://host ", {prefix = ""}, "/", "river.Client(http://host/)"},
      {"embedded:", {}, "/api/", "river.Client(embedded:/api)"},
    } do
      local cli, path = path_of(case[2], case[1])
      assert.equal(case[3], path)
      assert.equal(case[4], tostring(cli))
    end
  end)

  it("takes the address by name or by place", function()
    local transport = support.fake_transport{}
    assert.equal("http://h", river.Client{baseurl = "http://h", transport = transport}.baseurl)
    assert.equal("http://h", river.Client{"http://h", transport = transport}.baseurl)
    assert.equal("http://h", river.Client("http://h", {transport = transport}).baseurl)
  end)

  it("refuses what cannot be an address", function()
    refuses("must start with http", river.Client, "localhost:8000")
    refuses("must start with http", river.Client, "http://")
    refuses("no query", river.Client, "http://h/?a=1")
    refuses("must be a string", river.Client, 8000)
    refuses("given twice", river.Client, {"http://h", baseurl = "http://h"})
    refuses("did you mean 'prefix'", river.Client, {prefx = "ml"})
    refuses("did you mean 'baseurl'", river.Client, "http://h", {base_url = "ml"})
  end)

  it("never shows a password", function()
    local cli = river.Client("http://me:se@cret@host:1", {transport = support.fake_transport{status = 500}})
    assert.equal("river.Client(http://host:1/api)", tostring(cli))
    local err = support.error_of(cli.info, cli)
    assert.equal("http://host:1/api/", err.url)
    for _, text in ipairs{tostring(err), err.hint or "", cli.baseurl} do assert.falsy(text:find("cret", 1, true)) end
    err = support.error_of(river.Client, "htp://me:secret@host")
    assert.falsy(tostring(err):find("secret", 1, true))
  end)

  it("closes its transport, once, also at the end of a block", function()
    local cli, _, transport = client{body = "{}"}
    cli:close()
    cli:close()
    assert.equal(1, transport.closed)
    for _, call in ipairs{
      function() cli:info() end, function() cli:learn("m", {a = 1}, 1) end, function() cli:predict("m", {a = 1}) end,
      function() cli:upload_model(river.optim.A(), "custom") end, function() cli:download_model("m") end,
    } do
      assert.equal("closed", support.error_of(call).kind)
    end
    assert.truthy(tostring(cli):find("closed", 1, true))
    local second, _, other = client{body = "{}"}
    do
      local scoped <close> = second
      scoped:info()
    end
    assert.equal(1, other.closed)
  end)

  it("names the method that was meant", function()
    local cli = client()
    refuses("did you mean 'upload_model'", function() return cli.upload_modle end)
  end)
end)

describe("a call sends", function()
  it("the requests of the River API", function()
    local cli, requests = client(function(req)
      if req.path == "/api/learn/" then return OK end
      if req.path == "/api/predict/" then return PREDICTION end
      if req.method == "DELETE" then return {body = "204"} end
      return {body = '{"name":"m"}'}
    end)
    cli:info()
    cli:models()
    cli:get_model_json("a b é?")
    cli:metrics("m")
    cli:stats("m")
    cli:delete_model("a b&c=é")
    cli:upload_model(river.optim.A(), "regression", "x y")
    cli:upload_model(river.optim.A(), "regression")
    cli:learn("m", {b = 1, a = 2.5}, true)
    cli:predict("m", {b = 1})
    local seen = {}
    for index, req in ipairs(requests) do
      seen[index] = ("%s %s %s"):format(req.method, req.path,
        req.json and json.encode(req.json, {sort = true}) or req.headers["Content-Type"]
          and req.headers["Content-Type"]:find("form") and req.body or "")
    end
    assert.same({
      "GET /api/ ",
      "GET /api/models/ ",
      "GET /api/model/a%20b%20%C3%A9%3F/ ",
      'GET /api/metrics/ {"model":"m"}',
      'GET /api/stats/ {"model":"m"}',
      "DELETE /api/model/ model=a%20b%26c%3D%C3%A9",
      "POST /api/model/regression/x%20y/ ",
      "POST /api/model/regression/ ",
      'POST /api/learn/ {"features":{"a":2.5,"b":1},"ground_truth":true,"model":"m"}',
      'POST /api/predict/ {"features":{"b":1},"identifier":"riverlua","model":"m"}',
    }, seen)
    for _, req in ipairs(requests) do assert.equal("application/json", req.headers["Accept"]) end
    assert.equal("application/octet-stream", requests[7].headers["Content-Type"])
    assert.equal("\x80\x04", requests[7].body:sub(1, 2))
  end)

  it("repeatable requests marked as such", function()
    local cli, requests = client(function(req) return req.path:find("learn") and OK or {body = '{"name":"m"}'} end)
    cli:info()
    cli:predict("m", {a = 1})
    cli:learn("m", {a = 1}, 1)
    cli:upload_model(river.optim.A(), "regression", "m")
    cli:upload_model(river.optim.A(), "regression")
    local marks = {}
    for index, req in ipairs(requests) do marks[index] = req.idempotent or false end
    assert.same({true, true, false, true, false}, marks)
  end)

  it("named arguments the same way", function()
    local cli, requests = client(function(req) return req.path:find("learn") and OK or PREDICTION end)
    cli:learn{model = "m", x = {a = 1}, y = 2, prediction = 1.5}
    cli:learn{model = "m", features = {a = 1}, ground_truth = false}
    cli:learn{model = "m", identifier = "i", y = 0}
    cli:predict{model = "m", x = {a = 1}, identifier = "i"}
    local seen = {}
    for index, req in ipairs(requests) do seen[index] = json.encode(req.json, {sort = true}) end
    assert.same({
      '{"features":{"a":1},"ground_truth":2,"model":"m","prediction":1.5}',
      '{"features":{"a":1},"ground_truth":false,"model":"m"}',
      '{"features":{"_":0},"ground_truth":0,"identifier":"i","model":"m"}',
      '{"features":{"a":1},"identifier":"i","model":"m"}',
    }, seen)
  end)

  it("the description instead of bytes to a service in this process", function()
    local transport = support.fake_transport{status = 201, body = '{"name":"m"}'}
    transport.embedded = true
    local node = river.preprocessing.StandardScaler() | river.linear_model.LinearRegression()
    river.Client{transport = transport}:upload_model(node, "regression")
    assert.equal(node, transport.requests[1].model)
    assert.is_nil(transport.requests[1].body)
  end)

  it("an existing pickle, from a file or as bytes, as it is", function()
    local cli, requests = client{status = 201, body = '{"name":"m"}'}
    local bytes = "\x80\x04N."
    cli:upload_model(bytes, "custom", "m")
    local path = support.temporary_name()
    local file = assert(io.open(path, "wb"))
    file:write(bytes)
    file:close()
    cli:upload_model(path, "custom", "m")
    os.remove(path)
    assert.equal(bytes, requests[1].body)
    assert.equal(bytes, requests[2].body)
  end)

  it("anomaly detectors with a method that servers call", function()
    local cli, requests = client{status = 201, body = '{"name":"m"}'}
    cli:upload_model(river.optim.A() | river.anomaly.HalfSpaceTrees{seed = 1}, "custom")
    cli:upload_model(river.optim.A() | river.tree.HoeffdingTreeClassifier(), "custom")
    assert.same({predict_one = "score_one"}, requests[1].model.aliases)
    assert.truthy(requests[1].body:find("score_one", 1, true))
    assert.is_nil(requests[2].model.aliases)
  end)

  it("the timeout of the client", function()
    local cli, requests = client({body = "{}"}, {timeout = 3})
    cli:info()
    cli:predict("m", {a = 1})
    assert.equal(3, requests[1].timeout)
    assert.equal(3, requests[2].timeout)
  end)
end)

describe("a call returns", function()
  it("what the Python client returns", function()
    local cli = client(function(req)
      if req.path == "/api/learn/" then return OK end
      if req.path == "/api/predict/" then return PREDICTION end
      if req.path == "/api/metrics/" then return {body = '{"MAE":1.5,"RMSE":"nan","SMAPE":"inf","X":"-inf"}'} end
      if req.method == "DELETE" then return {body = "204"} end
      return {body = '{"name":"m"}'}
    end)
    assert.equal("Successful learn.", cli:learn("m", {a = 1}, 1))
    assert.same({model = "m", prediction = 0.5}, cli:predict("m", {a = 1}))
    assert.same({model = "m", prediction = 0.5, identifier = "i"}, cli:predict("m", {a = 1}, {identifier = true}))
    assert.equal(204, cli:delete_model("m"))
    assert.equal("m", cli:upload_model(river.optim.A(), "custom"))
    local metrics = cli:metrics("m")
    assert.equal(1.5, metrics.MAE)
    assert.truthy(metrics.RMSE ~= metrics.RMSE)
    assert.equal(math.huge, metrics.SMAPE)
    assert.equal(-math.huge, metrics.X)
  end)

  it("the path of a download", function()
    local cli = client{body = "\x80\x04N."}
    local path = support.temporary_name()
    assert.equal(path, cli:download_model("m", path))
    local file = assert(io.open(path, "rb"))
    assert.equal("\x80\x04N.", file:read("a"))
    file:close()
    os.remove(path)
    refuses("cannot write: /nowhere/at/all.pkl: ", cli.download_model, cli, "m", "/nowhere/at/all.pkl")
  end)
end)

describe("nothing is sent when", function()
  local cli, requests
  before_each(function() cli, requests = client(function() error("sent") end) end)
  after_each(function() assert.equal(0, #requests) end)

  it("features are missing, empty, unnamed or not finite", function()
    for _, method in ipairs{"learn", "predict"} do
      local call = function(x) return cli[method](cli, "m", x, method == "learn" and 1 or nil) end
      refuses("no features", call, {})
      refuses("must be a table, got number", call, 5)
      refuses("must be a table, got string", call, "")
      refuses("need names", call, {1, 2})
      refuses("feature 'a' is NaN", call, {a = 0 / 0})
      refuses("feature 'a' is inf", call, {a = math.huge})
      refuses("feature 'b'%[c%] is %-inf", call, {a = 1, b = {c = -math.huge}})
      refuses("feature 'a' is a function", call, {a = print})
      refuses("names", call, {[true] = 1})
      local loop = {}
      loop.a = loop
      refuses("nested too deep", call, {a = loop})
      refuses("name is a string", function() cli[method](cli, nil, {a = 1}) end)
      refuses("name is a string", function() cli[method](cli, "", {a = 1}) end)
    end
    refuses("must be a table, got nothing", cli.predict, cli, "m")
  end)

  it("a label is not finite, or nil where one was meant", function()
    refuses("label is NaN", cli.learn, cli, "m", {a = 1}, 0 / 0)
    refuses("label is inf", cli.learn, cli, "m", {a = 1}, math.huge)
    refuses("label is missing", cli.learn, cli, "m", {a = 1}, nil)
    refuses("label is missing", cli.learn, cli, "m", {a = 1}, json.null)
    refuses("prediction is inf", cli.learn, cli, {model = "m", x = {a = 1}, y = 1, prediction = math.huge})
    refuses("identifier", cli.learn, cli, {model = "m", identifier = "", y = 1})
    refuses("identifier", cli.predict, cli, {model = "m", x = {a = 1}, identifier = 0})
    refuses("did you mean 'identifier'", cli.learn, cli, {model = "m", identifer = "i"})
    refuses("unknown option 'label'", cli.predict, cli, {model = "m", label = {a = 1}})
  end)

  it("the model, its flavor or its name cannot be right", function()
    local node = river.optim.A()
    refuses("did you mean 'regression'", cli.upload_model, cli, node, "regresion")
    refuses("flavors: regression", cli.upload_model, cli, node)
    refuses("call it: river.optim.SGD%(%)", cli.upload_model, cli, river.optim.SGD, "custom")
    refuses("a model is expected, got nothing", cli.upload_model, cli, nil, "custom")
    refuses("a model is expected, got number", cli.upload_model, cli, 5, "custom")
    refuses("cannot read the file", cli.upload_model, cli, "/nowhere.pkl", "custom")
    refuses("is not a pickle", cli.upload_model, cli, support.folder .. "support.lua", "custom")
    refuses("cannot be used", cli.upload_model, cli, node, "custom", "a/b")
    refuses("cannot be used", cli.upload_model, cli, node, "custom", "..")
    refuses("an empty one", cli.upload_model, cli, node, "custom", "")
    refuses("not part of river", cli.upload_model, cli, river.class "os.system"("id"), "custom")
    refuses("did you mean 'flavor'", cli.upload_model, cli, {model = node, flavour = "custom"})
    for _, method in ipairs{"metrics", "stats", "get_model_json", "delete_model", "download_model"} do
      refuses("got nothing", cli[method], cli)
    end
    refuses("without '/'", cli.get_model_json, cli, "a/b")
  end)
end)

it("a model that was uploaded as supervised needs its label", function()
  local cli, requests = client(function(req) return req.path:find("learn") and OK or {body = '{"name":"m"}'} end)
  cli:upload_model(river.optim.A(), "multiclass")
  refuses("a multiclass model cannot learn without", cli.learn, cli, "m", {a = 1})
  refuses("cannot learn without", cli.learn, cli, {model = "m", x = {a = 1}})
  cli:upload_model(river.optim.A(), "cluster")
  cli:learn("m", {a = 1})
  cli:learn("m", {a = 1}, nil)
  assert.equal(4, #requests)
end)

describe("an error answer becomes", function()
  local JSON, HTML = {["content-type"] = "application/json"}, {["content-type"] = "text/html; charset=utf-8"}

  local function error_for(status, body, headers, call)
    local cli = client{status = status, body = body, headers = headers}
    return support.error_of(call or function() return cli:predict("m", {a = 1}) end, cli)
  end

  it("not_found for an unknown model, in every form", function()
    local err = error_for(400, '"No model named \'m\'."', JSON)
    assert.equal("not_found", err.kind)
    assert.equal(400, err.status)
    assert.equal("predict: No model named 'm'.", err.message)
    assert.truthy(err.hint:find("client:models()", 1, true))
    err = error_for(404, "", {}, function(cli) cli:get_model_json("zz") end)
    assert.equal("not_found", err.kind)
    assert.truthy(err.message:find("no model named 'zz'", 1, true))
    err = error_for(404, '{"message":"We don\'t have stats for model m"}', JSON, function(cli) cli:stats("m") end)
    assert.equal("not_found", err.kind)
    err = error_for(404, "", {}, function(cli) cli:delete_model("m") end)
    assert.equal("not_found", err.kind)
    err = error_for(404, "", {}, function(cli) cli:download_model("m") end)
    assert.equal("not_found", err.kind)
  end)

  it("model for an exception that the model raised", function()
    local body = json.encode("TypeError(\"unsupported operand type(s) for -: 'float' and 'str'\")")
    local err = error_for(400, body, JSON)
    assert.equal("model", err.kind)
    assert.equal("TypeError", err.code)
    assert.equal("predict 'm': TypeError: unsupported operand type(s) for -: 'float' and 'str'", err.message)
    err = error_for(400, '"AttributeError(\'predict_proba_one\')"', JSON)
    assert.equal("AttributeError", err.code)
    assert.truthy(err.hint:find("flavor", 1, true))
  end)

  it("the diagnosis that a server in debug mode gives", function()
    local body = "TypeError at /api/model/regression/\nLinearRegression.__init__() got an unexpected keyword argument"
      .. " 'foo'\n\nRequest Method: POST\n"
    local err = error_for(500, body, {["content-type"] = "text/plain; charset=utf-8"},
      function(cli) cli:upload_model(river.optim.A(), "regression") end)
    assert.equal("model", err.kind)
    assert.equal("TypeError", err.code)
    assert.equal("upload_model: TypeError: LinearRegression.__init__() got an unexpected keyword argument 'foo'",
      err.message)
  end)

  it("a page reduced to its title", function()
    local err = error_for(404, "<html><head><title>Not Found</title></head></html>", HTML)
    assert.equal("not_found", err.kind)
    assert.truthy(err.message:find("Not Found (status 404)", 1, true))
    assert.truthy(err.hint:find("http://127.0.0.1:8000/api/", 1, true))
    err = error_for(500, "<h1>Server Error (500)</h1>", HTML)
    assert.equal("http", err.kind)
    assert.truthy(err.hint:find("diverged", 1, true))
  end)

  it("auth for 401 and 403", function()
    local err = error_for(401, "", {})
    assert.equal("auth", err.kind)
    assert.truthy(err.hint:find("user and token", 1, true))
    err = error_for(403, '{"detail":"Invalid username/password."}', JSON)
    assert.equal("auth", err.kind)
    assert.equal("predict 'm': Invalid username/password.", err.message)
    err = error_for(403, "<h1>403 Forbidden</h1>", HTML)
    assert.truthy(err.hint:find("rate", 1, true))
  end)

  it("http with message, code and whether to try again", function()
    local err = error_for(400, '{"message":"model and features are required."}', JSON)
    assert.equal("http", err.kind)
    assert.equal("predict 'm': model and features are required.", err.message)
    assert.falsy(err.retryable)
    err = error_for(422, '{"errors":[{"code":"E7","message":"odd","detail":"more"}]}', JSON)
    assert.equal("E7", err.code)
    assert.equal("predict 'm': odd", err.message)
    err = error_for(503, "", {["retry-after"] = "7"})
    assert.equal("http", err.kind)
    assert.equal(7, err.retry_after)
    assert.truthy(err.retryable)
    assert.equal("predict 'm': status 503, service unavailable", err.message)
    err = error_for(400, '{"message":"This model flavor nonsense is not recognized"}', JSON)
    assert.truthy(err.hint:find("flavors:", 1, true))
    assert.equal("POST", err.method)
    assert.equal("http://127.0.0.1:8000/api/predict/", err.url)
    err = error_for(500, ("x"):rep(10000), {})
    assert.equal(4096, #err.body)
  end)

  it("protocol where the answer is no River server's", function()
    local err = error_for(200, "<html>welcome</html>", HTML)
    assert.equal("protocol", err.kind)
    assert.truthy(err.message:find("not the JSON of a River server", 1, true))
    err = error_for(200, '"text"', JSON)
    assert.equal("protocol", err.kind)
    err = error_for(302, "", {location = "https://elsewhere/"})
    assert.equal("protocol", err.kind)
    for _, body in ipairs{"{", '{"a":', '"', "[1", "{}", "[]", "null", "\0\1", "<", '{"message":{}}',
      '{"errors":[1]}'} do
      for _, status in ipairs{200, 400, 404, 500} do
        local cli = client{status = status, body = body}
        local ok, raised = pcall(cli.stats, cli, "m")
        assert.truthy(ok or require("riverlua.errors").is(raised), body .. tostring(raised))
      end
    end
  end)

  it("a hint about names that the library lacks", function()
    local err = error_for(500, "<h1>Server Error (500)</h1>", HTML, function(cli)
      cli:upload_model(river.preprocessing.StandardScaler() | river.linear_model.LinearRegresion(), "regression")
    end)
    assert.truthy(err.hint:find("river.linear_model.LinearRegresion (did you mean river.linear_model.LinearRegr", 1,
      true), err.hint)
    err = error_for(500, "", {}, function(cli) cli:upload_model(river.linear_model.StandardScaler(), "regression") end)
    assert.truthy(err.hint:find("did you mean river.preprocessing.StandardScaler?", 1, true), err.hint)
    err = error_for(500, "", {}, function(cli)
      cli:upload_model(river.linear_model.LinearRegression{foo = 1}, "regression")
    end)
    assert.truthy(err.hint:find("names of its classes and arguments", 1, true), err.hint)
    err = error_for(400, "<title>Bad</title>", HTML, function(cli)
      cli:upload_model("\x80" .. ("x"):rep(2621441), "regression")
    end)
    assert.truthy(err.hint:find("DATA_UPLOAD_MAX_MEMORY_SIZE", 1, true), err.hint)
  end)
end)
