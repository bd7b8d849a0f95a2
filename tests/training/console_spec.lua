--- training.console against a stand-in that judges what it gets; see tests/servers/console_standin.py.

local here = debug.getinfo(1, "S").source:match("^@(.*/)")
local servers = dofile(here .. "../support/servers.lua")
local python = dofile(here .. "../support/python.lua")
local console = require "training.console"
local core = require "riverlua.core.task"
local http = require "riverlua.http"
local json = require "riverlua.json"

local KEY = "console-key"
local error_of = servers.error_of

-- A clock that stands still until it is told to go on.
local function fake_clock()
  local clock = {seconds = 5000, waits = {}, seen = 0, timers = {}, entered = core.signal()}
  function clock.now() return clock.seconds end
  function clock.time() return 1700000000.25 + clock.seconds - 5000 end
  function clock.jitter() return 1 end
  function clock.wait(signal, seconds)
    if not clock.only or clock.only == signal then clock.waits[#clock.waits + 1] = seconds end
    clock.timers[signal] = clock.seconds + seconds
    clock.entered:fire()
    signal:wait()
  end
  -- How long the next one waits that begins to.
  function clock.next_wait()
    while #clock.waits == clock.seen do
      if not clock.entered:wait(10) then error("nobody waits", 2) end
    end
    clock.seen = clock.seen + 1
    return clock.waits[clock.seen]
  end
  function clock.advance(seconds)
    clock.seconds = clock.seconds + seconds
    for signal, due in pairs(clock.timers) do
      if due <= clock.seconds then
        clock.timers[signal] = nil
        signal:fire()
      end
    end
  end
  return clock
end

-- A transport that answers with what the functions of a list return, then 204.
local function scripted(answers)
  local transport = {bodies = {}}
  function transport.request(_, req)
    transport.bodies[#transport.bodies + 1] = req.body
    local answer = table.remove(answers, 1)
    if not answer then return {status = 204, headers = {}} end
    if type(answer) == "function" then answer = answer(req) end
    return type(answer) == "number" and {status = answer, headers = {}} or answer
  end
  return transport
end

-- Until nothing is sent any more.
local function settle(metrics)
  while metrics.worker do assert(metrics.moved:wait(10), "it does not end") end
end

local function observations_of(body) return json.decode(body).observations end

describe("console metrics", function()
  local standin, base_url, client, warnings

  local function order(...)
    assert(client:post("/_order", {json = {answers = {...}}}).status == 204)
  end

  local function runs() return json.decode(client:get("/_runs").body) end

  local function posts()
    local list = {}
    for _, line in ipairs(standin:log()) do
      if line.path:find("^/api/") then list[#list + 1] = line end
    end
    return list
  end

  local function open(options)
    local all = {run_id = "run-1", api_key = KEY, base_url = base_url, proxy = false,
      warn = function(text) warnings[#warnings + 1] = text end}
    for name, value in pairs(options or {}) do all[name] = value end
    return console.open(all)
  end

  setup(function()
    standin = servers.start{servers.python(), servers.folder .. "console_standin.py"}
    base_url = standin:url()
    client = http.Client{base_url = base_url, proxy = false, retries = 0}
  end)
  teardown(function()
    client:close()
    standin:close()
  end)
  before_each(function()
    warnings = {}
    client:post("/_reset")
    standin:reset()
  end)

  describe("open", function()
    it("wants https, except on this machine", function()
      for _, good in ipairs{"https://c.example", "https://c.example/base/", "http://localhost:1", "http://127.4.5.6",
        "http://[::1]:8080"} do
        console.open{run_id = "r", api_key = "k", base_url = good}:close()
      end
      for _, bad in ipairs{"http://c.example", "http://127.0.0.1.evil.example", "http://localhost.evil.example",
        "ftp://localhost", "c.example", "https://user:pw@c.example", "https://c.example/?a=1", "https://c.example/#x",
        "http://localhost@c.example", "https://c.example/\r\nX: y"} do
        local err = error_of(console.open, {run_id = "r", api_key = "k", base_url = bad})
        assert.equal("argument", err.kind, bad)
        assert.not_matches("pw", err.message, 1, true)
      end
    end)

    it("takes the address from RIVER_CONSOLE_URL, else the service's", function()
      local script = [[
        local console = require "training.console"
        local log = {}
        local transport = require "riverlua.transport"
        function transport.open(_, address) print(address) return {close = function() end} end
        console.open{run_id = "r", api_key = "k"}:close()
        console.open{run_id = "r", api_key = "k", base_url = "https://own.example"}:close()]]
      local function printed(value)
        return servers.run(script, {environment = {RIVER_CONSOLE_URL = value}}).out
      end
      assert.equal("https://console.river.ai\nhttps://own.example\n", printed(""))
      assert.equal("https://c.example/x\nhttps://own.example\n", printed("https://c.example/x/"))
      local refused = servers.run(script, {environment = {RIVER_CONSOLE_URL = "http://c.example"}})
      assert.equal(1, refused.code)
      assert.matches("without encryption", refused.err, 1, true)
    end)

    it("checks its options", function()
      for _, case in ipairs{{{run_id = "r"}, "api_key"}, {{api_key = "k"}, "run_id"},
        {{run_id = "", api_key = "k"}, "run_id"}, {{run_id = "r", api_key = ""}, "api_key"},
        {{run_id = "r", api_key = "se cret"}, "api_key"}, {{run_id = "r", api_key = "secret\r\nX: y"}, "api_key"},
        {{run_id = "r", api_key = "k", base_ur = "x"}, "base_url"}} do
        local err = error_of(console.open, case[1])
        assert.equal("argument", err.kind)
        assert.matches(case[2], err.message, 1, true)
        assert.not_matches("cret", tostring(err))
      end
    end)
  end)

  describe("what is logged", function()
    it("arrives", function()
      local clock = fake_clock()
      local metrics = open{run_id = "run/é 1", client_name = "river-client-lua/1", clock = clock}
      metrics:log{["train/reward"] = 1, b = -2.5, ["schön"] = 1e300}
      clock.seconds = clock.seconds + 1.5
      metrics:log{b = math.maxinteger}
      metrics:close()
      assert.same({waiting = 0, delivered = 2, rejected = 0, dropped = 0}, metrics:counts())
      assert.same({}, warnings)
      local seen = posts()
      assert.equal(1, #seen)
      assert.same({}, seen[1].problems)
      assert.equal("/api/metrics/runs/run%2F%C3%A9%201/observations", seen[1].target)
      local headers = seen[1].headers
      assert.equal("Bearer console-key", headers.authorization)
      assert.equal("river-client-lua/1", headers["user-agent"])
      assert.equal("application/json", headers["content-type"])
      assert.same({
        {seq = 0, logged_at = "2023-11-14T22:13:20.250Z", elapsed_s = 0.0, definition_version = json.null,
          values = {["train/reward"] = 1.0, b = -2.5, ["schön"] = 1e300}},
        {seq = 1, logged_at = "2023-11-14T22:13:21.750Z", elapsed_s = 1.5, definition_version = json.null,
          values = {b = 9223372036854775807.0}},
      }, runs()["run/é 1"].observations)
      assert.equal("2023-11-14T22:13:20.250Z", json.decode(seen[1].body).producer.started_at)
    end)

    it("arrives over TLS, and not without trust", function()
      local metrics = open{base_url = standin:url(nil, "tls"), ca_file = standin.info.ca_file}
      metrics:log{a = 1}
      assert.is_true(metrics:flush())
      metrics:close()
      assert.equal(1, #runs()["run-1"].observations)
      local clock = fake_clock()
      local careful = open{base_url = standin:url(nil, "tls"), clock = clock, run_id = "run-2"}
      careful:log{a = 1}
      assert.equal(0.5, clock.next_wait())
      careful:close(0)
      assert.is_nil(runs()["run-2"])
    end)

    it("goes out at once, and then every two seconds", function()
      local clock = fake_clock()
      local metrics <close> = open{clock = clock}
      metrics:log{a = 1}
      metrics:log{a = 2}
      settle(metrics)
      clock.seconds = clock.seconds + 0.5
      metrics:log{a = 3}
      assert.equal(1.5, clock.next_wait())
      metrics:log{a = 4}
      clock.advance(1.5)
      settle(metrics)
      clock.seconds = clock.seconds + 60
      metrics:log{a = 5}
      settle(metrics)
      local sizes = {}
      for i, post in ipairs(posts()) do sizes[i] = #observations_of(post.body) end
      assert.same({2, 2, 1}, sizes)
    end)

    it("goes out in batches of at most 1000 values", function()
      local metrics = open{clock = fake_clock()}
      for i = 1, 25 do
        local values = {}
        for k = 1, 90 do values["metric" .. k] = i + k end
        metrics:log(values)
      end
      metrics:close()
      local sizes = {}
      for i, post in ipairs(posts()) do
        assert.same({}, post.problems)
        sizes[i] = #observations_of(post.body)
      end
      assert.same({11, 11, 3}, sizes)
    end)

    it("goes out in batches of at most 1 MiB", function()
      local metrics = open{clock = fake_clock()}
      for i = 1, 4 do
        local values = {}
        for k = 1, 200 do values[("%03d"):format(k) .. ("\1"):rep(500)] = i end   -- 600 KB as JSON
        metrics:log(values)
      end
      metrics:close()
      assert.equal(4, #posts())
      assert.equal(4, #runs()["run-1"].observations)
    end)

    it("is checked", function()
      local metrics <close> = open()
      local many = {}
      for i = 1, 1001 do many["m" .. i] = i end
      for _, case in ipairs{{{}, "1 to 1000"}, {many, "1 to 1000"}, {{a = true}, "'a' must be a number"},
        {{a = "1"}, "'a' must be a number"}, {{a = 0 / 0}, "NaN"}, {{a = math.huge}, "finite"}, {{1}, "string"},
        {{[""] = 1}, "bytes"}, {{[("x"):rep(513)] = 1}, "bytes"}, {{["_river/runtime"] = 1}, "own"},
        {{["\xff"] = 1}, "UTF-8"}, {nil, "values"}} do
        local err = error_of(metrics.log, metrics, case[1])
        assert.equal("argument", err.kind)
        assert.matches(case[2], err.message, 1, true)
      end
      metrics:log{[("x"):rep(512)] = 1}
      assert.matches("call it with a colon", error_of(metrics.log, {a = 1}).message, 1, true)
      assert.equal(1, metrics:counts().waiting)
    end)
  end)

  describe("definitions", function()
    it("are versions, sent once", function()
      local clock = fake_clock()
      local metrics = open{clock = clock}
      metrics:log{["loss/x"] = 1}
      metrics:define_metric("loss/*", {step_metric = "train/step"})
      metrics:log{["loss/x"] = 2, ["train/step"] = 1}
      metrics:define_metric("loss/*", {step_metric = "train/step"})   -- nothing new
      metrics:log{["loss/x"] = 3, ["train/step"] = 2}
      metrics:define_metric("loss/x", {hidden = true})
      metrics:define_metric("loss/x")
      metrics:log{["loss/x"] = 4}
      assert.is_true(metrics:flush())
      metrics:log{["loss/x"] = 5}
      assert.is_true(metrics:flush())
      metrics:define_metric("tail")
      assert.is_true(metrics:flush())
      metrics:close()
      local run, versions = runs()["run-1"], {}
      for i, one in ipairs(run.observations) do versions[i] = one.definition_version end
      assert.same({json.null, 1, 1, 2, 2}, versions)
      local loss = {name = "loss/*", step_metric = "train/step", hidden = false}
      local exact = {name = "loss/x", step_metric = json.null, hidden = true}
      assert.same({["1"] = {loss}, ["2"] = {loss, exact},
        ["3"] = {loss, exact, {name = "tail", step_metric = json.null, hidden = false}}}, run.definitions)
      local sent = {}
      for i, post in ipairs(posts()) do
        assert.same({}, post.problems)
        sent[i] = #json.decode(post.body).definitions
      end
      assert.same({2, 0, 1}, sent)
      assert.same({}, warnings)
    end)

    it("make a warning of a value without its axis", function()
      local clock = fake_clock()
      local metrics <close> = open{clock = clock}
      metrics:define_metric("train/*", {step_metric = "step"})
      metrics:define_metric("train/eval/*", {step_metric = "eval/step"})
      metrics:define_metric("train/free")
      metrics:define_metric("train/now", {step_metric = "_river/runtime"})
      metrics:log{["train/x"] = 1, step = 1}
      metrics:log{["train/eval/x"] = 1, ["eval/step"] = 1}   -- the longest pattern
      metrics:log{["train/free"] = 1}                        -- the exact one
      metrics:log{["train/now"] = 1}
      metrics:log{other = 1}
      assert.same({}, warnings)
      metrics:log{["train/eval/x"] = 1, step = 1}
      assert.equal(1, #warnings)
      assert.matches("'train/eval/x' was logged without its step metric 'eval/step'", warnings[1], 1, true)
      metrics:log{["train/x"] = 1}
      assert.equal(1, #warnings)   -- once a minute
      clock.seconds = clock.seconds + 61
      metrics:log{["train/x"] = 1}
      assert.equal(2, #warnings)
    end)

    it("are checked", function()
      local metrics <close> = open()
      for _, case in ipairs{{{""}, "bytes"}, {{"a*b"}, "end"}, {{"_river/x"}, "own"},
        {{"a", {step_metric = ""}}, "bytes"}, {{"a", {step_metric = "_river/other"}}, "own"},
        {{"a", {step_metric = "b*"}}, "pattern"},
        {{"a", {hidden = 1}}, "boolean"}, {{"a", {step = "b"}}, "step_metric"}, {{5}, "string"}} do
        local err = error_of(metrics.define_metric, metrics, table.unpack(case[1]))
        assert.equal("argument", err.kind)
        assert.matches(case[2], err.message, 1, true)
      end
      for i = 1, 1000 do metrics:define_metric("p" .. i) end
      metrics:define_metric("p7", {hidden = true})
      assert.matches("1000", error_of(metrics.define_metric, metrics, "p1001").message, 1, true)
    end)

    it("that are refused do not come back by themselves", function()
      local clock = fake_clock()
      local metrics <close> = open{clock = clock}
      order({status = 400})
      metrics:define_metric("a", {hidden = true})
      settle(metrics)
      clock.seconds = clock.seconds + 5
      metrics:log{a = 1}   -- needs it
      settle(metrics)
      assert.equal(2, #posts())
      assert.equal(1, #runs()["run-1"].observations)
    end)
  end)

  it("agree with the official client's", function()
    if os.execute(python.command .. " -c 'import river_client' 2>/dev/null") == nil then
      return pending("river_client is not installed")
    end
    local metrics = open{run_id = "ours"}
    metrics:log{a = 1, ["loss/x"] = 2.5}
    metrics:define_metric("loss/*", {step_metric = "train/step"})
    metrics:log{["loss/x"] = 3, ["train/step"] = 1}
    metrics:define_metric("loss/*", {step_metric = "train/step"})
    metrics:define_metric("loss/x", {hidden = true})
    metrics:log{["loss/x"] = 4.25, ["train/step"] = 2}
    metrics:define_metric("loss/x", {step_metric = "_river/runtime"})
    metrics:define_metric("loss/x")
    metrics:define_metric("tail", {hidden = false})
    metrics:close()
    local pipe = io.popen(("RIVER_CONSOLE_URL=%s %s %sconsole_official.py %s theirs 2>&1"):format(base_url,
      python.command, here, KEY))
    local output = pipe:read("a")
    assert(pipe:close(), output)
    for _, post in ipairs(posts()) do assert.same({}, post.problems) end
    local all = runs()
    for _, run in pairs(all) do
      for _, one in ipairs(run.observations) do one.logged_at, one.elapsed_s = "", 0 end
    end
    assert.same(all.theirs, all.ours)
  end)

  describe("trouble", function()
    it("is tried again, later and later", function()
      local clock = fake_clock()
      local metrics <close> = open{clock = clock}
      order({status = 500}, {status = 408}, {status = 429}, {status = 404}, {status = 503}, {cut = true},
        {status = 599}, {status = 502})
      metrics:log{a = 1}
      clock.only = metrics.wake
      local flushing = core.spawn(metrics.flush, metrics, 1000)
      local waits = {}
      for i = 1, 8 do
        waits[i] = clock.next_wait()
        clock.advance(waits[i])
      end
      assert.is_true(flushing:await())
      assert.same({0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30, 30}, waits)
      assert.equal(1, metrics:counts().delivered)
      local seen = posts()
      assert.equal(9, #seen)
      for _, post in ipairs(seen) do assert.equal(seen[1].body, post.body) end
      -- it has been said that it took long, once
      assert.equal(1, #warnings)
      assert.matches("does not take them", warnings[1], 1, true)
      -- and the next trouble begins from the front
      order({status = 500})
      clock.seconds = clock.seconds + 5
      metrics:log{a = 1}
      assert.equal(0.5, clock.next_wait())
      clock.advance(0.5)
      settle(metrics)
    end)

    it("waits for half to one and a half of the time, by chance", function()
      local least, most = math.huge, 0
      for _ = 1, 200 do
        local metrics = open{transport = scripted{500}}
        local before = core.now()
        metrics:log{a = 1}
        while metrics.failures == 0 do core.sleep(0) end
        local wait = metrics.next_try - before
        least, most = math.min(least, wait), math.max(most, wait)
        metrics:close()
      end
      assert.is_true(least >= 0.25 and least < 0.4, least)
      assert.is_true(most > 0.6, most)
    end)

    it("waits as long as Retry-After says", function()
      local clock = fake_clock()
      local metrics <close> = open{clock = clock}
      order({status = 429, headers = {["Retry-After"] = "7"}}, {status = 503, headers = {["Retry-After"] = "3600"}})
      metrics:log{a = 1}
      clock.only = metrics.wake
      local flushing = core.spawn(metrics.flush, metrics, 1000)
      assert.equal(7, clock.next_wait())
      clock.advance(7)
      assert.equal(30, clock.next_wait())
      clock.advance(30)
      assert.is_true(flushing:await())
      assert.equal(1, metrics:counts().delivered)
    end)

    it("of the network is tried again", function()
      local clock = fake_clock()
      local metrics = open{clock = clock, base_url = standin:url(nil, "refused")}
      metrics:log{a = 1}
      assert.equal(0.5, clock.next_wait())
      clock.advance(0.5)
      assert.equal(1.0, clock.next_wait())
      metrics:close(0)
      assert.matches("1 observations were not delivered (0 dropped here, 0 refused by the console, 1 not confirmed)",
        warnings[1], 1, true)
    end)

    it("with an answer that got lost repeats the same observations", function()
      local clock = fake_clock()
      local metrics <close> = open{clock = clock}
      order({cut = true, take = true})
      metrics:log{a = 1}
      clock.advance(clock.next_wait())
      settle(metrics)
      local run = runs()["run-1"]
      assert.equal(1, #run.observations)
      assert.equal(1, run.repeated)
    end)

    for _, status in ipairs{401, 403} do
      it(("of status %d ends it"):format(status), function()
        local clock = fake_clock()
        local metrics = open{clock = clock}
        order({status = status})
        metrics:log{a = 1}
        settle(metrics)
        metrics:log{a = 2}
        metrics:log{a = 3}
        assert.is_false(metrics:flush())
        metrics:close()
        assert.equal(1, #posts())
        assert.same({waiting = 0, delivered = 0, rejected = 1, dropped = 2,
          disabled = "the console answered HTTP " .. status}, metrics:counts())
        assert.equal(3, #warnings)
        assert.matches("nothing more is sent", warnings[1], 1, true)
        assert.matches("dropped, because the console answered", warnings[2], 1, true)
        assert.matches("3 observations were not delivered", warnings[3], 1, true)
        assert.not_matches(KEY, table.concat(warnings), 1, true)
      end)
    end

    it("of status 404 ends it after two minutes only", function()
      local clock = fake_clock()
      local metrics <close> = open{clock = clock}
      clock.seconds = clock.seconds + 119
      order({status = 404}, {status = 404})
      metrics:log{a = 1}
      assert.equal(0.5, clock.next_wait())
      clock.advance(1)
      settle(metrics)
      assert.equal("the console answered HTTP 404", metrics:counts().disabled)
    end)

    it("with a batch costs that batch", function()
      local clock = fake_clock()
      local metrics = open{clock = clock}
      order({status = 400}, {status = 413})
      for i = 1, 3 do
        metrics:log{a = i}
        settle(metrics)
        clock.seconds = clock.seconds + 5
      end
      metrics:close()
      assert.same({waiting = 0, delivered = 1, rejected = 2, dropped = 0}, metrics:counts())
      assert.matches("refused them with HTTP 400", warnings[1], 1, true)
    end)

    it("does not follow redirects: the key stays here", function()
      for _, status in ipairs{301, 302, 307, 308} do
        local metrics = open{clock = fake_clock()}
        order({status = status, headers = {Location = "{other}/api/metrics/runs/run-1/observations"}})
        metrics:log{a = 1}
        metrics:close()
        assert.equal(1, metrics:counts().rejected)
      end
      for _, line in ipairs(standin:log()) do assert.equal("http", line.listener) end
      assert.equal(4, #posts())
    end)

    it("makes no unbounded memory of it: the oldest go", function()
      local clock = fake_clock()
      local transport = scripted{500}
      local metrics = open{clock = clock, transport = transport}
      local values = {}
      for k = 1, 1000 do values["m" .. k] = k end
      metrics:log(values)
      clock.next_wait()
      for _ = 1, 13 do metrics:log(values) end
      assert.equal(3, metrics:counts().dropped)
      assert.equal(11, metrics:counts().waiting)   -- one of them in the batch that is tried again
      assert.matches("the oldest are dropped", warnings[1], 1, true)
      metrics:close()
      local seqs = {}
      for _, body in ipairs(transport.bodies) do seqs[#seqs + 1] = observations_of(body)[1].seq end
      assert.same({0, 0, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13}, seqs)
    end)

    it("counts bytes too", function()
      local clock = fake_clock()
      local metrics = open{clock = clock, transport = scripted{500}}
      metrics:log{a = 1}
      clock.next_wait()
      local values = {}
      for k = 1, 200 do values[("%03d"):format(k) .. ("\1"):rep(500)] = 1 end   -- 600 KB
      for _ = 1, 14 do metrics:log(values) end
      assert.equal(1, metrics:counts().dropped)
      metrics:close()
    end)

    it("of a transport's own does not reach the script", function()
      local metrics = open{clock = fake_clock(), transport = scripted{function() error("broken: " .. KEY) end}}
      metrics:log{a = 1}
      settle(metrics)
      assert.matches("cannot be sent", metrics:counts().disabled, 1, true)
      metrics:close()
      assert.not_matches(KEY, table.concat(warnings), 1, true)
      assert.not_matches(KEY, tostring(metrics) .. require("riverlua.pretty").format(metrics), 1, true)
    end)
  end)

  describe("the end", function()
    it("waits for what is on its way, so long and no longer", function()
      local clock = fake_clock()
      local metrics = open{clock = clock}
      order({hold = "never", status = 204})
      metrics:log{a = 1}
      assert(standin:wait{key = "never", waiting = 1})
      local closing = core.spawn(metrics.close, metrics)
      assert.equal(30, clock.next_wait())
      clock.advance(29)
      assert.equal("waiting", closing:status())
      clock.advance(1)
      closing:await()
      assert.matches("1 not confirmed", warnings[1], 1, true)
      assert.is_nil(metrics.worker)
      metrics:close()
      metrics:log{a = 2}
      assert.equal(1, metrics:counts().dropped)
      assert.equal(2, #warnings)
      assert.is_false(metrics:flush())
    end)

    it("does not wait for a back-off", function()
      local clock = fake_clock()
      local metrics = open{clock = clock}
      order({status = 500})
      metrics:log{a = 1}
      clock.next_wait()
      metrics:close()
      assert.equal(1, metrics:counts().delivered)
    end)

    it("of a block that failed waits for five seconds", function()
      local clock = fake_clock()
      order({hold = "never2", status = 204})
      local failing = core.spawn(function()
        local metrics <close> = open{clock = clock}
        metrics:log{a = 1}
        assert(standin:wait{key = "never2", waiting = 1})
        error("the script's own")
      end)
      assert.equal(5, clock.next_wait())
      clock.advance(5)
      assert.matches("the script's own", select(2, pcall(failing.await, failing)), 1, true)
    end)

    it("of a script that does not close comes when everything is sent", function()
      local result = servers.run([[
        local metrics = require("training.console").open{run_id = "unclosed", api_key = "console-key",
          base_url = arg[1], proxy = false}
        for i = 1, 3 do metrics:log{a = i} end]], {args = {base_url}})
      assert.equal("", result.err)
      assert.equal(0, result.code)
      assert.equal(3, #runs().unclosed.observations)
    end)

    it("is not held up for ever by a console that does not answer", function()
      local clock = fake_clock()
      local metrics = open{clock = clock, transport = scripted{500, 500, 500, 500, 500, 500, 500}}
      metrics:log{a = 1}
      local waits, total = {}, 0
      while metrics.worker do
        waits[#waits + 1] = clock.next_wait()
        total = total + waits[#waits]
        clock.advance(waits[#waits])
        for _ = 1, 5 do core.sleep(0) end
      end
      assert.is_true(total <= 30)
      assert.equal(1, metrics:counts().waiting)
      -- what is logged when its time has come brings it back
      metrics:log{a = 2}
      assert.is_nil(metrics.worker)
      clock.seconds = clock.seconds + 31
      metrics:log{a = 3}
      assert.not_nil(metrics.worker)
      clock.next_wait()
      metrics:close()
      assert.equal(3, metrics:counts().delivered)
    end)

    it("says what was lost when nobody closed it", function()
      local result = servers.run([[
        local metrics = require("training.console").open{run_id = "lost", api_key = "console-key",
          base_url = "http://127.0.0.1:1", transport = {request = function() return {status = 500, headers = {}} end},
          clock = {now = os.clock, time = os.time, jitter = function() return 100 end,
            wait = function(signal) signal:wait(0) end}}
        metrics:log{a = 1}]])
      assert.equal(0, result.code)
      assert.matches("metrics of the run lost: 1 observations were not delivered", result.err, 1, true)
    end)

    it("of Ctrl-C or an error costs what was not sent, and says so", function()
      local result = servers.run([[
        local metrics = require("training.console").open{run_id = "failed", api_key = "console-key",
          base_url = arg[1], proxy = false}
        metrics:log{a = 1}
        error("the script's own")]], {args = {base_url}})
      assert.equal(1, result.code)
      assert.matches("the script's own", result.err, 1, true)
      assert.matches("1 observations were not delivered", result.err, 1, true)
      assert.not_matches("task %d+ failed", result.err)
    end)
  end)

  it("are not sent by a forked child", function()
    local library = servers.fork_library()
    local result = servers.run([[
      local console = require "training.console"
      local fork = assert(package.loadlib(arg[1], "luaopen_fork"))()
      local metrics = console.open{run_id = "forked", api_key = "console-key", base_url = arg[2], proxy = false}
      metrics:log{parent = 1}
      metrics:flush()
      metrics:log{parent = 2}
      local pid = fork.fork()
      if pid == 0 then
        metrics:log{child = 1}
        metrics:define_metric("child")
        assert(metrics:flush() == false)
        metrics:close()
        os.exit(0, true)
      end
      fork.wait(pid)
      metrics:log{parent = 3}
      metrics:close()
      print(metrics:counts().delivered)]], {args = {library, base_url},
      environment = {ASAN_OPTIONS = "verify_asan_link_order=0:detect_leaks=0"}})
    os.remove(library)
    assert.equal("3\n", result.out, result.err)
    assert.matches("a forked child does not send any", result.err, 1, true)
    local names = {}
    for _, one in ipairs(runs().forked.observations) do names[#names + 1] = next(one.values) end
    assert.same({"parent", "parent", "parent"}, names)
  end)

  it("do not disturb what the script's random numbers are", function()
    math.randomseed(7)
    local expected = math.random()
    math.randomseed(7)
    local metrics <close> = open{transport = scripted{}}
    metrics:log{a = 1}
    metrics:flush()
    assert.equal(expected, math.random())
  end)

  it("read the time of day to the millisecond, within a second", function()
    local metrics = open{transport = scripted{}}
    local before = os.time()
    metrics:log{a = 1}
    local body = metrics.queue[1].body
    metrics:close()
    local logged = body:match('"logged_at":"([^"]+)"')
    local allowed = {}
    for second = before - 1, os.time() + 1 do allowed[os.date("!%Y-%m-%dT%H:%M:%S", second)] = true end
    assert.is_true(allowed[logged:sub(1, 19)])
  end)
end)
