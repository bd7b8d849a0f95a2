--- The streams of events and metrics: on the real server, in this process, and on one that breaks them.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
local support = dofile(folder .. "support.lua")
local servers = dofile(folder .. "../support/servers.lua")
local http = require "riverlua.http"
local river = require "river"
local task = require "riverlua.task"

local function model()
  return river.preprocessing.StandardScaler() | river.linear_model.LinearRegression{optimizer = river.optim.SGD(0.01)}
end

-- Calls `act` again and again, as other tasks go on, until the block is left: a listener cannot tell when the server
-- has taken it on.
local function keep_doing(act)
  return task.spawn(function()
    while true do
      act()
      task.sleep(0)
    end
  end)
end

-- The same for a server over HTTP and the service in this process.
local function behaves(open)
  local cli

  before_each(function()
    cli = open()
    cli:upload_model(model(), "regression", "watched")
    cli:upload_model(model(), "regression", "other")
  end)
  after_each(function() cli:close() end)

  it("tells what happens", function()
    local _ <close> = keep_doing(function()
      cli:predict("watched", {a = 1.5, b = true})
      cli:learn("watched", {a = 1.5, b = true}, 4)
    end)
    local kinds = {}
    for event in cli:stream_events{limit = 4} do
      kinds[event.kind] = event
      assert.equal("watched", event.model)
      assert.equal("number", type(event.prediction))
      assert.same({a = 1.5, b = true}, event.features)
    end
    assert.equal(4, kinds.learn.ground_truth)
    assert.is_nil(kinds.predict.ground_truth)
  end)

  it("filters by kind and model", function()
    local _ <close> = keep_doing(function()
      cli:predict("watched", {a = 1})
      cli:learn("watched", {a = 1}, 1)
      cli:learn("other", {a = 1}, 1)
    end)
    local count = 0
    for event in cli:stream_events{kind = "learn", model = "other", limit = 3} do
      assert.equal("learn", event.kind)
      assert.equal("other", event.model)
      count = count + 1
    end
    assert.equal(3, count)
    for event in cli:stream_events{kind = {"predict", "label"}, model = {"watched", "nobody"}, limit = 2} do
      assert.equal("predict", event.kind)
    end
  end)

  it("a label is an event of its kind", function()
    local _ <close> = keep_doing(function()
      local answer = cli:predict("watched", {a = 1}, {identifier = true})
      cli:label("watched", answer.identifier, 2.5)
    end)
    for event in cli:stream_events{kind = "label", limit = 1} do
      assert.equal(2.5, event.ground_truth)
      assert.equal("watched", event.model)
    end
  end)

  it("metrics arrive after learning, of a named model on request", function()
    local _ <close> = keep_doing(function()
      cli:learn("other", {a = 1}, 1)
      cli:learn("watched", {a = 1}, 1)
    end)
    for metrics, name in cli:stream_metrics{limit = 2} do
      assert.equal("number", type(metrics.MAE))
      assert.is_nil(name)
    end
    for metrics, name in cli:stream_metrics{model = "watched", limit = 2} do
      assert.equal("watched", name)
      assert.equal("number", type(metrics.MAE))
    end
  end)

  it("several loops watch at the same time, and the client works on", function()
    local _ <close> = keep_doing(function() cli:learn("watched", {a = 1}, 1) end)
    local counts = task.map({1, 2, 3}, function()
      local count = 0
      for _ in cli:stream_events{limit = 5} do
        cli:metrics("watched")
        count = count + 1
      end
      return count
    end)
    assert.same({5, 5, 5, n = 3}, counts)
  end)

  it("ends when the time is up", function()
    local stream = cli:stream_events{timeout = 0.05}
    assert.is_nil(stream())
    assert.is_nil(stream:next())
    assert.equal(0, stream.delivered)
  end)

  it("ends with its client", function()
    local stream = cli:stream_events()
    local waiting = task.spawn(function() return stream() end)
    task.sleep(0)
    cli:close()
    assert.is_nil(waiting:await())
    assert.equal("closed", support.error_of(cli.stream_events, cli).kind)
    assert.truthy(tostring(stream):find("closed", 1, true))
  end)

  it("leaves no task behind", function()
    local before = #task.waiting()
    for _ = 1, 3 do
      local stream <close> = cli:stream_events()
      assert.equal(before + 1, #task.waiting())
      assert.equal(0, stream.delivered)
    end
    assert.equal(before, #task.waiting())
    cli:stream_events()
    for _ = 1, 3 do collectgarbage() end
    for _ = 1, 10 do task.sleep(0) end
    assert.equal(before, #task.waiting())
  end)
end

describe("on a real server", function()
  local server
  setup(function() server = support.start_server() end)
  teardown(function() server.stop() end)
  behaves(function() return river.Client(server.url) end)
end)

describe("in this process", function()
  behaves(function() return river.Client("embedded:") end)

  it("nothing is missed from the moment the stream is made", function()
    local cli <close> = river.Client("embedded:")
    cli:upload_model(model(), "regression", "m")
    local stream <close> = cli:stream_events()
    for step = 1, 2500 do cli:learn("m", {a = step % 7}, 1) end
    for _ = 1, 2500 do assert.equal("learn", stream().kind) end
    assert.equal(0, stream.dropped)
  end)
end)

describe("a stream that breaks", function()
  local stub, orders
  local count = 0

  setup(function()
    stub = servers.start{servers.python(), servers.folder .. "stub_river.py"}
    orders = http.Client{proxy = false}
  end)
  teardown(function()
    orders:close()
    stub:close()
  end)
  before_each(function() stub:reset() end)

  local function order(path, what)
    what.path = path
    assert(orders:post(stub:url("/_order"), {json = what}).status == 204)
  end

  -- A client whose stream of events answers so.
  local function watched(answers, options)
    count = count + 1
    local prefix = "stream" .. count
    order("/" .. prefix .. "/stream/events/", {answers = answers})
    order("/" .. prefix .. "/stream/metrics/", {answers = answers})
    order("/" .. prefix .. "/learn/", {answers = {{status = 201, body = '"Successful learn."'}}})
    order("/" .. prefix .. "/metrics/", {answers = {{body = {MAE = 1.5}}}})
    local all = {prefix = prefix, http = {proxy = false}}
    for name, value in pairs(options or {}) do all[name] = value end
    return river.Client(stub:url(), all), prefix
  end

  local function learn_event(n, value)
    return ('event: learn\ndata: {"model": "m", "features": {"a": %d}, "prediction": %s, "ground_truth": 1}\n\n')
      :format(n, value or "0.5")
  end

  it("T16: bare NaN and infinities are numbers", function()
    local pieces = {learn_event(1, "NaN"), learn_event(2, "-Infinity"), learn_event(3, "Infinity")}
    local cli <close> = watched{{pieces = pieces, ["end"] = "hang"}}
    local stream <close> = cli:stream_events()
    local nan = stream().prediction
    assert.truthy(nan ~= nan)
    assert.equal(-math.huge, stream().prediction)
    assert.equal(math.huge, stream().prediction)
    local other <close> = watched{{pieces = {'data: {"MAE": NaN, "RMSE": "inf", "R2": "nan"}\n\n', "data: {}\n\n"}}}
    local metrics = other:stream_metrics()
    local first = metrics()
    assert.truthy(first.MAE ~= first.MAE)
    assert.truthy(first.R2 ~= first.R2)
    assert.equal(math.huge, first.RMSE)
    assert.same({}, metrics())
    metrics:close()
  end)

  it("T9: nothing is said before the first event, however long that takes", function()
    local cli <close> = watched({{pieces = {learn_event(1)}, late = "first", ["end"] = "hang"}},
      {timeout = {first_byte = 0.02, idle = 0.02, total = 0.02, connect = 10}})
    local stream <close> = cli:stream_events{}
    local waiting = task.spawn(function() return stream() end)
    assert.is_true(stub:wait{key = "first", waiting = 1})
    -- longer than the deadlines of other calls: the stub answers only after the client's own calls have timed out
    order("/late/", {answers = {{hold = "never"}}})
    local slow <close> = river.Client(stub:url(), {prefix = "late", timeout = 0.1, http = {proxy = false, retries = 0}})
    assert.equal("timeout", support.error_of(slow.info, slow).kind)
    stub:release("first")
    assert.equal(1, waiting:await().features.a)
    assert.equal(0, stream.reconnects)
  end)

  it("events in pieces, malformed ones and comments are taken as they come", function()
    local event = learn_event(7)
    local cli <close> = watched{{pieces = {": hello\n\n", event:sub(1, 20), event:sub(21, 60), event:sub(61),
      "event: learn\ndata: {broken\n\n", "event: learn\ndata: 5\n\n", "event: learn\ndata: [1]\n\n", learn_event(8)},
      ["end"] = "hang"}}
    local stream <close> = cli:stream_events()
    assert.equal(7, stream().features.a)
    assert.equal(8, stream().features.a)
    assert.equal(3, stream.malformed)
    assert.equal(2, stream.delivered)
  end)

  it("T9: the connection is made again after every kind of end", function()
    local told = {}
    local cli <close>, prefix = watched{
      {pieces = {learn_event(1)}}, {pieces = {learn_event(2)}, ["end"] = "cut"},
      {pieces = {learn_event(3)}, hold = "three", ["end"] = "rst"}, {early = "cut"}, {status = 503},
      {pieces = {learn_event(4)}, ["end"] = "hang"}}
    local stream <close> = cli:stream_events{wait = 0.001, on_reconnect = function(what) told[#told + 1] = what end}
    for n = 1, 4 do
      assert.equal(n, stream().features.a)
      -- a reset throws away what the client has not read yet
      if n == 3 then stub:release("three") end
    end
    assert.equal(5, stream.reconnects)
    assert.equal(5, #told)
    assert.equal(5, told[5].reconnects)
    assert.equal("string", type(told[1].reason))
    assert.equal(6, #stub:log("/" .. prefix .. "/stream/events/"))
  end)

  it("waits longer each time nothing came, up to a limit", function()
    local answers = {}
    for i = 1, 6 do answers[i] = {pieces = {": nothing\n\n"}} end
    answers[7] = {pieces = {learn_event(1)}, ["end"] = "hang"}
    local cli <close> = watched(answers)
    local waits = {}
    local stream <close> = cli:stream_events{wait = 0.001, on_reconnect = function(what)
      waits[#waits + 1] = what.wait
    end}
    stream()
    assert.equal(6, #waits)
    for i, wait in ipairs(waits) do
      local full = 0.001 * 2 ^ (i - 1)
      assert.truthy(wait >= full * 0.5 and wait <= full, wait)
    end
  end)

  it("what the server refuses is raised, at the first connection and later", function()
    for status, kind in pairs{[403] = "auth", [404] = "not_found", [500] = "http", [503] = "http"} do
      local cli <close> = watched{{status = status, body = "<title>x</title>", kind = "text/html"}}
      local stream = cli:stream_events()
      local err = support.error_of(stream)
      assert.equal(kind, err.kind, tostring(err))
      assert.equal(status, err.status)
      assert.is_nil(stream())
    end
    local cli <close> = watched{{pieces = {learn_event(1)}},
      {status = 404, body = "<title>gone</title>", kind = "text/html"}}
    local stream = cli:stream_events{wait = 0}
    stream()
    assert.equal("not_found", support.error_of(stream).kind)
    local page <close> = watched{{body = "<html>hello</html>", kind = "text/html"}}
    assert.equal("protocol", support.error_of(page:stream_events()).kind)
    local nobody <close> = river.Client(("http://127.0.0.1:%d"):format(stub.info.refused), {http = {proxy = false}})
    assert.equal("connect", support.error_of(nobody:stream_events()).kind)
  end)

  it("a server that hangs up without a word is given up after a few times", function()
    local cli <close>, prefix = watched{{early = "cut"}}
    local stream = cli:stream_events{wait = 0.001}
    local err = support.error_of(stream)
    assert.equal("connect", err.kind)
    assert.is_true(err.sent)
    assert.equal(5, #stub:log("/" .. prefix .. "/stream/events/"))
  end)

  it("T9: a listener that the server forgot is noticed by calls that make no events", function()
    local cli <close>, prefix = watched{{pieces = {learn_event(1)}, ["end"] = "hang"},
      {pieces = {learn_event(2)}, ["end"] = "hang"}}
    local reasons = {}
    local stream <close> = cli:stream_events{silence = 0.05,
      on_reconnect = function(what) reasons[#reasons + 1] = what.reason end}
    assert.equal(1, stream().features.a)
    local _ <close> = keep_doing(function() cli:learn("m", {a = 1}, 1) end)
    assert.equal(2, stream().features.a)
    assert.same({"nothing came while calls succeeded"}, reasons)
    assert.equal(2, #stub:log("/" .. prefix .. "/stream/events/"))
  end)

  it("silence alone is no reason to connect again, unless `idle` says so", function()
    local cli <close>, prefix = watched{{pieces = {learn_event(1)}, ["end"] = "hang"}}
    for event in cli:stream_events{silence = 0.01, timeout = 0.2} do assert.equal(1, event.features.a) end
    assert.equal(1, #stub:log("/" .. prefix .. "/stream/events/"))
    local other <close> = watched{{pieces = {learn_event(1)}, ["end"] = "hang"}, {hold = "silent " .. count},
      {pieces = {learn_event(2)}, ["end"] = "hang"}}
    local stream = other:stream_events{idle = 0.05, wait = 0.001}
    assert.equal(1, stream().features.a)
    assert.equal(2, stream().features.a)
    assert.equal(2, stream.reconnects)
    stream:close()
    local late <close> = watched{{hold = "silent " .. count}, {pieces = {learn_event(3)}, ["end"] = "hang"}}
    stream = late:stream_events{idle = 0.05, wait = 0.001, limit = 1}
    assert.equal(3, stream().features.a)
    assert.equal(1, stream.reconnects)
  end)

  it("T9: a slow loop does not keep the reader from reading: the oldest events are dropped and counted", function()
    local pieces = {}
    for n = 1, 100 do pieces[n] = learn_event(n) end
    local cli <close> = watched{{pieces = pieces, hold = "all sent", ["end"] = "hang"}}
    local stream <close> = cli:stream_events{capacity = 10}
    assert.is_true(stub:wait{key = "all sent", waiting = 1})
    -- whatever is still on its way is read by the time the reader has dropped ninety
    while stream.dropped < 90 do task.sleep(0) end
    for n = 91, 100 do assert.equal(n, stream().features.a) end
    assert.equal(90, stream.dropped)
    assert.equal(0, stream.reconnects)
  end)

  it("metrics of a named model are asked for once for events that came together", function()
    local pieces = {}
    for n = 1, 5 do pieces[n] = learn_event(n) end
    local cli <close>, prefix = watched{{pieces = {table.concat(pieces)}, ["end"] = "hang"}}
    for metrics, name in cli:stream_metrics{model = "m", limit = 1} do
      assert.equal("m", name)
      assert.equal(1.5, metrics.MAE)
    end
    assert.equal(1, #stub:log("/" .. prefix .. "/metrics/"))
  end)

  it("break, an error and <close> free the connection at once", function()
    local function open_after(act)
      local cli = watched{{pieces = {learn_event(1)}, ["end"] = "hang"}}
      act(cli)
      assert.is_true(stub:wait{open = 1})   -- that of the orders
      cli:close()
    end
    open_after(function(cli) for _ in cli:stream_events() do break end end)   -- luacheck: ignore 512
    open_after(function(cli)
      assert.equal("mine", support.error_of(function() for _ in cli:stream_events() do error("mine", 0) end end))
    end)
    open_after(function(cli)
      local stream <close> = cli:stream_events()
      stream()
    end)
    open_after(function(cli)
      local watching = task.spawn(function() for _ in cli:stream_events() do task.sleep(0) end end)
      for _ = 1, 3 do task.sleep(0) end
      watching:cancel()
      watching:join()
    end)
  end)

  it("Ctrl-C ends the loop, and the script", function()
    count = count + 1
    order("/interrupted/stream/events/", {answers = {{pieces = {learn_event(1)}, ["end"] = "hang"}}})
    local script = os.tmpname()
    local file <close> = assert(io.open(script, "w"))
    file:write(([[
      local river = require "river"
      local cli = river.Client(%q, {prefix = "interrupted"})
      for event in cli:stream_events() do print(event.model) io.stdout:flush() end
    ]]):format(stub:url()))
    file:close()
    local pipe = assert(io.popen(("sh -c 'echo $$; exec %s %s 2>&1'; echo code $?"):format(servers.riverlua, script)))
    local pid = pipe:read("l")
    assert.equal("m", pipe:read("l"))
    os.execute("kill -INT " .. pid)
    local rest = pipe:read("a")
    pipe:close()
    os.remove(script)
    assert.truthy(rest:find("code 130", 1, true), rest)
    assert.is_true(stub:wait{open = 1})
  end)

  it("a script that lost its stream ends", function()
    order("/lost/stream/events/", {answers = {{pieces = {learn_event(1)}, ["end"] = "hang"}}})
    local result = servers.run(([[
      local river = require "river"
      local cli = river.Client(%q, {prefix = "lost"})
      local events = cli:stream_events()
      print(events().model)
    ]]):format(stub:url()), {seconds = 20})
    assert.equal(0, result.code, result.err)
    assert.equal("m\n", result.out)
    result = servers.run([[local events = require("river").Client("embedded:"):stream_events() print(events ~= nil)]])
    assert.equal(0, result.code, result.err)
  end)

  it("options that make no sense are refused", function()
    local cli <close> = watched{{status = 404}}
    local function refuses(pattern, options, call)
      local err = support.error_of(call or cli.stream_events, cli, options)
      assert.equal("argument", err.kind)
      assert.truthy(tostring(err):find(pattern), tostring(err))
    end
    refuses("did you mean 'learn'", {kind = "lern"})
    refuses("kinds: learn, predict, label", {kind = "upload"})
    refuses("nothing would ever come", {model = {}})
    refuses("'model' is a text", {model = 5})
    refuses("did you mean 'timeout'", {timeoute = 1})
    refuses("'limit' must be", {limit = 0})
    refuses("'limit' must be", {limit = 1.5})
    refuses("'timeout' must be", {timeout = -1})
    refuses("'timeout' must be", {timeout = 0 / 0})
    refuses("'capacity' must be", {capacity = 0})
    refuses("without saying which", {kind = "learn"}, cli.stream_metrics)
    refuses("colon", nil, function() return cli.stream_events(5) end)
  end)

  it("streams authenticate like every call", function()
    count = count + 1
    local prefix = "secured" .. count
    order("/" .. prefix .. "/stream/events/", {bearer = {"good"}, answers = {{pieces = {learn_event(1)}}},
      refusal = {status = 401, headers = {["Www-Authenticate"] = ('realm="{http}/%s/token"'):format(prefix)}}})
    order("/" .. prefix .. "/token/", {answers = {{body = {token = "good", expires_in = 600}}}})
    local options = {prefix = prefix, user = "u", token = "secret", http = {proxy = false}}
    local cli <close> = river.Client(stub:url(), options)
    for event in cli:stream_events{limit = 3, wait = 0.001} do assert.equal("m", event.model) end
    assert.equal(1, #stub:log("/" .. prefix .. "/token/"))
    options.user, options.token = false, false
    local none <close> = river.Client(stub:url(), options)
    assert.equal("credentials_missing", support.error_of(none:stream_events()).code)
  end)
end)
