-- What a River server does not tell, and what a user of it would trip over: one test for each, against a real server.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
local support = dofile(folder .. "support.lua")
local servers = dofile(folder .. "../support/servers.lua")
local json = require "riverlua.json"
local river = require "river"
local task = require "riverlua.task"

local function regression()
  return river.preprocessing.StandardScaler() | river.linear_model.LinearRegression()
end

local function logistic()
  return river.preprocessing.StandardScaler() | river.linear_model.LogisticRegression()
end

local function failure_of(kind, call, ...)
  local err = support.error_of(call, ...)
  assert.equal(kind, err.kind, tostring(err))
  return err
end

-- How many samples a model's scaler has seen, from the model itself: the only integer that is kept of the feature a.
local function samples_seen(cli, name)
  local seen, found = {}, 0
  local function look(node)
    if type(node) ~= "table" or seen[node] then return end
    seen[node] = true
    if node[1] == "a" and math.type(node[2]) == "integer" then found = math.max(found, node[2]) end
    for _, value in next, node do look(value) end
  end
  look(river.pickle.read(cli._internal.download(cli, name)))
  return found
end

describe("trap", function()
  local server, cli, raw

  setup(function()
    server = support.start_server()
    cli = river.Client(server.url)
    raw = require("riverlua.http").Client{base_url = server.url, proxy = false}
  end)
  teardown(function()
    cli:close()
    raw:close()
    server.stop()
  end)

  it("T1: the server waits for acknowledgements, which are sent at once after every read", function()
    local library, counts = os.tmpname() .. ".so", os.tmpname()
    assert(os.execute(("${CC:-cc} -D_GNU_SOURCE -shared -fPIC -o %s %s -ldl"):format(servers.quote(library),
      servers.quote(folder .. "../support/quick_ack.c"))))
    cli:upload_model(regression(), "regression", "t1")
    local result = servers.run([[
      local cli <close> = require("river").Client(arg[1])
      for i = 1, 30 do cli:learn("t1", {a = i}, i) end
      local samples = {}
      for i = 1, 100 do samples[i] = {{a = i}, i} end
      assert(cli:learn_many("t1", samples).done == 100)
    ]], {args = {server.url}, environment = {LD_PRELOAD = library, RIVERLUA_QUICK_ACK = counts,
      ASAN_OPTIONS = "verify_asan_link_order=0:detect_leaks=0"}})
    assert.equal(0, result.code, result.err)
    local reads, missed = servers.read_file(counts):match("^(%d+) (%d+)")
    os.remove(library)
    os.remove(counts)
    assert.truthy(tonumber(reads) > 30, reads)
    assert.equal("0", missed)
  end)

  it("T2: every path ends with a slash", function()
    local transport = support.fake_transport(function(req)
      return req.path:find("/learn/") and {status = 201, body = '"Successful learn."'}
        or {body = '{"name":"m","models":[],"prediction":1,"model":"m","identifier":"i"}'}
    end)
    local all = river.Client{transport = transport}
    all:info()
    all:models()
    all:get_model_json("m")
    all:metrics("m")
    all:stats("m")
    all:delete_model("m")
    all:upload_model(regression(), "regression", "m")
    all:upload_model(regression(), "regression")
    all:learn("m", {a = 1}, 1)
    all:label("m", "i", 1)
    all:predict("m", {a = 1}, {identifier = true}):label(2)
    all:learn_many("m", {{{a = 1}, 1}})
    all:predict_many("m", {{a = 1}})
    for _, req in ipairs(transport.requests) do assert.equal("/", req.path:sub(-1), req.path) end
    -- and this is why: a POST without it is not answered
    assert.equal(301, raw:post("/api/learn", {body = "{}", redirects = 0}).status)
  end)

  it("T3: metrics and stats want a body in a GET, delete wants a form and answers 200", function()
    cli:upload_model(regression(), "regression", "t3")
    assert.truthy(cli:metrics("t3").MAE)
    assert.truthy(cli:stats("t3").learn)
    assert.equal(400, raw:get("/api/metrics/?model=t3").status)
    assert.equal(204, cli:delete_model("t3"))
    failure_of("not_found", cli.delete_model, cli, "t3")
  end)

  it("T4: what the server answers with 500 is refused here", function()
    cli:upload_model(regression(), "regression", "t4")
    assert.equal(500, raw:post("/api/predict/", {json = {model = "t4"}}).status)
    assert.equal(500, raw:post("/api/label/", {json = {model = "t4", identifier = "i"}}).status)
    failure_of("argument", cli.predict, cli, "t4")
    failure_of("argument", cli.predict, cli, "t4", {})
    failure_of("argument", cli.learn, cli, "t4", {}, 1)
    failure_of("argument", cli.predict, cli, nil, {a = 1})
    failure_of("argument", cli.label, cli, "t4", "i")
    failure_of("argument", cli.label, cli, "t4", "i", json.null)
    failure_of("argument", cli.label, cli, "t4", nil, 1)
    failure_of("argument", cli.label, cli, nil, "i", 1)
    failure_of("argument", cli.label, cli, "t4", "i", 0 / 0)
    failure_of("argument", cli.label, cli, {model = "t4", identifier = "i", lable = 1})
    failure_of("argument", cli.label, cli, {model = "t4", identifier = "i"})
  end)

  it("T5: labels that a server takes for none arrive all the same", function()
    cli:upload_model(regression(), "regression", "t5")
    local answer = cli:predict("t5", {a = 1}, {identifier = true})
    local zero = {model = "t5", identifier = answer.identifier, label = 0}
    assert.equal(500, raw:post("/api/label/", {json = zero}).status)
    assert.equal("Successful label.", cli:label("t5", answer.identifier, 0))
    assert.equal("Successful label.", cli:predict("t5", {a = 1}, {identifier = true}):label(0.0))
    assert.equal(2, cli:stats("t5").learn.n_calls)
    cli:upload_model(logistic(), "binary", "t5b")
    for step = 1, 20 do
      local found = cli:predict("t5b", {a = step % 2}, {identifier = true})
      assert.equal("Successful label.", found:label(step % 2 == 0))
    end
    assert.is_true(cli:predict("t5b", {a = 0}).likeliest)
    assert.is_false(cli:predict("t5b", {a = 1}).likeliest)
    cli:upload_model(river.naive_bayes.GaussianNB(), "multiclass", "t5m")
    assert.equal("Successful label.", cli:predict("t5m", {a = 1}, {identifier = true}):label(""))
    assert.equal("", cli:predict("t5m", {a = 1}).prediction)
  end)

  it("T5: an untrained classifier's prediction is null, and can be labelled", function()
    cli:upload_model(river.naive_bayes.GaussianNB(), "multiclass", "t5n")
    local first, second = cli:predict("t5n", {a = 1}, {identifier = true}), cli:predict("t5n", {a = 9},
      {identifier = "second"})
    assert.is_nil(first.prediction)
    local refused = raw:post("/api/label/", {json = {model = "t5n", identifier = first.identifier, label = "low"}})
    assert.equal(400, refused.status)
    assert.equal("Successful label.", first:label("low"))
    -- also without the answer, when nothing is known about the prediction
    assert.equal("Successful label.", cli:label{model = "t5n", identifier = "second", label = "high"})
    assert.equal("low", cli:predict("t5n", {a = 1}).prediction)
    failure_of("argument", second.label, second)
    failure_of("not_found", second.label, second, "high")
  end)

  it("T6: NaN, infinities and missing labels never leave the script", function()
    cli:upload_model(regression(), "regression", "t6")
    cli:learn("t6", {a = 1}, 1)
    for _, x in ipairs{{a = 0 / 0}, {a = math.huge}, {a = 1, b = {c = -math.huge}}} do
      failure_of("argument", cli.learn, cli, "t6", x, 1)
      failure_of("argument", cli.predict, cli, "t6", x)
    end
    failure_of("argument", cli.learn, cli, "t6", {a = 1}, 0 / 0)
    failure_of("argument", cli.learn, cli, "t6", {a = 1}, nil)
    failure_of("argument", cli.learn, cli, "t6", {a = 1})
    local report = cli:learn_many("t6", {{{a = 1}, 2}, {{a = 0 / 0}, 2}, {{a = 2}}, {{a = 3}, 3}})
    assert.same({2, 2}, {report.done, report.failed})
    assert.equal(3, cli:stats("t6").learn.n_calls)
    assert.truthy(cli:metrics("t6").MAE < math.huge)
    assert.equal("number", type(cli:predict("t6", {a = 1}).prediction))
  end)

  it("T7: a prediction leaves nothing behind unless it is to be labelled", function()
    cli:upload_model(regression(), "regression", "t7")
    local function stored()
      -- the identifiers in the server's index of keys
      local count = 0
      for line in io.lines(server.state .. "/shelve.db.dir") do
        if line:find("^['\"]#") then count = count + 1 end
      end
      return count
    end
    cli:predict("t7", {a = 1})
    local before = stored()
    for step = 1, 30 do cli:predict("t7", {a = step}) end
    local samples = {}
    for step = 1, 30 do samples[step] = {a = step} end
    cli:predict_many("t7", samples)
    assert.equal(before, stored())
    local kept = cli:predict("t7", {a = 1}, {identifier = true})
    assert.equal(before + 1, stored())
    kept:label(3)
    assert.equal(before, stored())
    local plain = cli:predict("t7", {a = 1})
    assert.truthy(failure_of("argument", plain.label, plain, 1).hint:find("identifier = true", 1, true))
  end)

  it("T7: an answer can be labelled once, and says so", function()
    cli:upload_model(regression(), "regression", "t7b")
    local answer = cli:predict("t7b", {a = 1}, {identifier = true})
    assert.equal("Successful label.", answer:label(4))
    local err = failure_of("argument", answer.label, answer, 4)
    assert.truthy(err.message:find("labelled already", 1, true))
    failure_of("argument", answer.label, {}, 4)
    failure_of("not_found", cli.label, cli, "t7b", answer.identifier, 4)
    assert.equal(1, cli:stats("t7b").learn.n_calls + cli:stats("t7b").predict.n_calls)
    cli:upload_model(regression(), "regression", "t7c")
    answer = cli:predict("t7b", {a = 1}, {identifier = true})
    local err2 = failure_of("http", cli.label, cli, "t7c", answer.identifier, 1)
    assert.truthy(err2.message:find("references t7b", 1, true))
    assert.equal("Successful label.", answer:label(1))
  end)

  it("T13: calls of two clients at once on a server that has just started", function()
    local fresh = support.start_server()
    local one <close> = river.Client(fresh.url)
    local two <close> = river.Client(fresh.url)
    local ok, err = pcall(task.gather, function() return one:models() end, function() return two:models() end)
    fresh.stop()
    assert(ok, tostring(err))
  end)

  it("T14: features go out in one order, whatever the order they were given in", function()
    local one, two = {}, {}
    for step = 1, 50 do one["f" .. step] = step / 7 end
    for step = 50, 1, -1 do two["f" .. step] = step / 7 end
    local encode = json.encoder{sort = true}
    assert.equal(encode(one), encode(two))
    for _, name in ipairs{"t14a", "t14b"} do cli:upload_model(regression(), "regression", name) end
    for step = 1, 10 do
      one.f1, two.f1 = step / 3, step / 3
      assert.equal(cli:predict("t14a", one).prediction, cli:predict("t14b", two).prediction)
      cli:learn("t14a", one, step)
      cli:learn("t14b", two, step)
    end
    assert.equal(cli._internal.download(cli, "t14a"), cli._internal.download(cli, "t14b"))
  end)

  it("T15: all five kinds of error bodies become structured errors", function()
    cli:upload_model(regression(), "regression", "t15")
    assert.equal("", raw:get("/api/model/nope/").body)
    assert.truthy(failure_of("not_found", cli.get_model_json, cli, "nope").message:find("nope", 1, true))
    assert.truthy(failure_of("not_found", cli.predict, cli, "nope", {a = 1}).body:find('^"No model'))
    assert.truthy(failure_of("not_found", cli.stats, cli, "nope?").body:find('"message"', 1, true))
    assert.truthy(raw:put("/api/learn/").body:find('"detail"', 1, true))
    local other <close> = river.Client(server.url, {prefix = "elsewhere"})
    assert.truthy(failure_of("not_found", other.models, other).body:find("<", 1, true))
    local err = failure_of("model", cli.learn, cli, "t15", {a = "text"}, 1)
    assert.equal("TypeError", err.code)
  end)

  it("T17: the flavor of a model is remembered here, since no server tells it", function()
    cli:upload_model(regression(), "regression", "t17")
    local stranger <close> = river.Client(server.url)
    assert.equal("t17 copy", cli:copy("t17", cli, {name = "t17 copy"}))
    local err = failure_of("argument", stranger.copy, stranger, "t17", cli, {name = "other"})
    assert.truthy(err.message:find("flavor of 't17' is not known", 1, true))
    assert.equal("other", stranger:copy("t17", cli, {name = "other", flavor = "regression"}))
    -- a pipeline passes the check of any flavor: what is wrong shows at the first call
    cli:upload_model(regression(), "binary", "t17 wrong")
    assert.truthy(failure_of("model", cli.predict, cli, "t17 wrong", {a = 1}).hint:find("flavor", 1, true))
  end)

  it("concurrent learns and predictions of one model undo each other unless they take turns", function()
    cli:upload_model(regression(), "regression", "shared")
    local writers = {}
    for number = 1, 8 do
      writers[number] = function()
        for step = 1, 50 do
          cli:learn("shared", {a = number, b = step}, step)
          if step % 5 == 0 then cli:predict("shared", {a = number, b = step}) end
        end
      end
    end
    task.gather(writers)
    assert.equal(400, samples_seen(cli, "shared"))
    assert.equal(400, cli:stats("shared").learn.n_calls)
  end)

  it("models side by side do not wait for each other", function()
    local transport = support.fake_transport{}
    local signal = require("riverlua.core.task").signal()
    local most, now = 0, 0
    local under_way = {}
    function transport.request(_, req)
      local name = req.json.model
      assert.is_nil(under_way[name], "two requests at once on " .. name)
      under_way[name] = true
      now = now + 1
      most = math.max(most, now)
      if now == 3 then signal:fire() else signal:wait() end
      now = now - 1
      under_way[name] = nil
      return {status = 201, headers = {}, body = '"Successful learn."'}
    end
    local other = river.Client{transport = transport}
    local calls = {}
    for _, name in ipairs{"a", "b", "c"} do calls[#calls + 1] = function() other:learn(name, {x = 1}, 1) end end
    task.gather(calls)
    assert.equal(3, most)
  end)
end)

describe("trap T8", function()
  it("a checkpoint keeps what a server forgets when it is killed", function()
    local server = support.start_server()
    local cli = river.Client(server.url)
    local path = support.temporary_name()
    cli:upload_model(regression(), "regression", "kept")
    do
      local checkpoints <close> = cli:checkpoint_every("kept", {learns = 10, path = path})
      for step = 1, 25 do cli:learn("kept", {a = step}, step) end
      assert.equal(2, checkpoints.saved)
    end
    local before = cli:predict("kept", {a = 3}).prediction
    assert(os.execute("kill -9 " .. server.pid))
    cli:close()
    server.stop()
    local other = support.start_server()
    cli = river.Client(other.url)
    local ok, err = pcall(function()
      cli:upload_model(path, "regression", "kept")
      assert.equal(25, samples_seen(cli, "kept"))
      assert.equal(before, cli:predict("kept", {a = 3}).prediction)
    end)
    os.remove(path)
    cli:close()
    other.stop()
    assert(ok, tostring(err))
  end)
end)

describe("trap T12", function()
  it("stats count the calls of the test server, which names the middleware", function()
    local server = support.start_server()
    local cli <close> = river.Client(server.url)
    cli:upload_model(regression(), "regression", "counted")
    for step = 1, 3 do cli:learn("counted", {a = step}, step) end
    cli:predict("counted", {a = 1})
    local stats = cli:stats("counted")
    server.stop()
    assert.same({3, 1}, {stats.learn.n_calls, stats.predict.n_calls})
    assert.truthy(stats.learn.mean_duration > 0)
  end)
end)
