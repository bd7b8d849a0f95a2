-- learn_many and predict_many: order, errors of single samples, lost connections, what else the client does meanwhile.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
local support = dofile(folder .. "support.lua")
local servers = dofile(folder .. "../support/servers.lua")
local errors = require "riverlua.errors"
local json = require "riverlua.json"
local river = require "river"
local task = require "riverlua.task"

local LEARNED = {status = 201, body = '"Successful learn."'}

local function failure_of(kind, call, ...)
  local err = support.error_of(call, ...)
  assert.equal(kind, err.kind, tostring(err))
  return err
end

local function regression()
  return river.preprocessing.StandardScaler() | river.linear_model.LinearRegression()
end

-- A transport whose pipeline answers when it is told to: `answer(req, number)` gives the answer, nil for a connection
-- that is lost, false for one that ended before it was looked at.
local function piped_transport(answer)
  local transport = support.fake_transport{}
  transport.sent, transport.alone, transport.most = {}, 0, 0
  local number, under_way = 0, 0
  local function reply(req)
    number = number + 1
    transport.sent[#transport.sent + 1] = req
    local given = answer(req, number)
    if not given then return given end
    return {status = given.status, headers = given.headers or {}, body = given.body,
      json = function() return json.decode(given.body) end}
  end
  function transport.request(_, req)
    transport.alone = transport.alone + 1
    local res = reply(req)
    if res then return res end
    errors.raise{kind = "connect", message = "gone", sent = res == nil}
  end
  function transport.pipeline()
    local pipeline = {}
    function pipeline.ready() return true end
    function pipeline.close() end
    function pipeline.send(_, req)
      under_way = under_way + 1
      transport.most = math.max(transport.most, under_way)
      local outcome
      return function()
        if not outcome then
          task.sleep(0)
          under_way = under_way - 1
          local res = reply(req)
          if res then outcome = {res}
          else outcome = {nil, errors.new{kind = "connect", message = "lost"}, res == nil} end
        end
        return table.unpack(outcome, 1, 3)
      end, {close = function() transport.given_up = (transport.given_up or 0) + 1 end}, 1
    end
    return pipeline
  end
  return transport
end

local function numbers(count)
  local samples = {}
  for i = 1, count do samples[i] = {{a = i}, i} end
  return samples
end

local function sent_numbers(transport)
  local seen = {}
  for i, req in ipairs(transport.sent) do seen[i] = req.json.features.a end
  return seen
end

describe("learn_many", function()
  it("sends everything in order, a window at a time", function()
    local transport = piped_transport(function() return LEARNED end)
    local cli = river.Client{transport = transport}
    local report = cli:learn_many("m", numbers(300), {window = 10})
    assert.same({300, 0, 0}, {report.done, report.failed, #report.errors})
    local seen = sent_numbers(transport)
    for i = 1, 300 do assert.equal(i, seen[i]) end
    assert.equal(10, transport.most)
    assert.equal(1, transport.alone)
  end)

  it("one at a time where nothing else is possible", function()
    local transport = support.fake_transport(LEARNED)
    local report = river.Client{transport = transport}:learn_many("m", numbers(5))
    assert.same({5, 0}, {report.done, report.failed})
    assert.equal(5, #transport.requests)
    local piped = piped_transport(function() return LEARNED end)
    river.Client{transport = piped}:learn_many("m", numbers(5), {window = 1})
    assert.equal(5, piped.alone)
  end)

  it("takes lists, iterators and data sets, each sample when it is needed", function()
    local transport = piped_transport(function() return LEARNED end)
    local cli = river.Client{transport = transport}
    assert.equal(3, cli:learn_many("m", {{{a = 1}, 1}, {x = {a = 2}, y = 2}, {{a = 3}, false}}).done)
    local taken, ahead = 0, 0
    local function following()
      taken = taken + 1
      ahead = math.max(ahead, taken - #transport.sent)
      if taken <= 100 then return {a = taken}, taken end
    end
    assert.equal(100, cli:learn_many("m", following, {window = 8}).done)
    assert.truthy(ahead < 20, ahead)
    assert.equal(4, cli:learn_many("m", river.datasets.from(numbers(4))).done)
    assert.equal(2, cli:learn_many("unlabelled", {{a = 1}, {a = 2}}).done)
    assert.is_nil(transport.sent[#transport.sent].json.ground_truth)
    assert.equal(0, cli:learn_many("m", {}).done)
    failure_of("argument", cli.learn_many, cli, "m", 5)
    failure_of("argument", cli.learn_many, cli, nil, {})
    failure_of("argument", cli.learn_many, cli, "m", {}, {windw = 1})
    failure_of("argument", cli.learn_many, cli, "m", {}, {window = 0})
  end)

  it("one bad sample does not stop the rest", function()
    local transport = piped_transport(function(_, number)
      if number % 10 == 0 then return {status = 400, body = '"ValueError(\'odd\')"'} end
      return LEARNED
    end)
    local cli = river.Client{transport = transport}
    local samples = numbers(50)
    samples[7] = {{a = 0 / 0}, 1}
    samples[8] = {{}, 1}
    samples[9] = {{a = 1}}
    local told = {}
    local report = cli:learn_many("m", samples, {on_error = function(entry) told[#told + 1] = entry.index end})
    assert.same({43, 7}, {report.done, report.failed})
    local kinds = {}
    for i, entry in ipairs(report.errors) do
      kinds[entry.index] = entry.error.kind
      assert.equal(told[i], entry.index)
    end
    assert.same({"argument", "argument", "argument", "model"}, {kinds[7], kinds[8], kinds[9], kinds[13]})
  end)

  it("reports in the order of the samples, also what was wrong before it was sent", function()
    -- 3 is refused, 5 was not looked at and is sent again, 6 is lost, 4 and 9 cannot be sent
    local seen = {}
    local transport = piped_transport(function(req)
      local a = req.json.features.a
      seen[a] = (seen[a] or 0) + 1
      if a == 3 or a == 8 then return {status = 400, body = '"ValueError(\'odd\')"'} end
      if a == 5 and seen[a] == 1 then return {status = 429, body = '"slow down"'} end
      if a == 6 then return nil end
      return LEARNED
    end)
    local cli = river.Client{transport = transport}
    local samples = numbers(10)
    samples[4], samples[9] = {{}, 1}, {{a = 0 / 0}, 1}
    local told = {}
    local report = cli:learn_many("m", samples, {on_error = function(entry) told[#told + 1] = entry.index end})
    local indices, kinds = {}, {}
    for i, entry in ipairs(report.errors) do indices[i], kinds[i] = entry.index, entry.error.kind end
    assert.same({3, 4, 6, 8, 9}, indices)
    assert.same(indices, told)
    assert.same({"model", "argument", "connect", "model", "argument"}, kinds)
    assert.same({5, 5, 1}, {report.done, report.failed, report.uncertain})
    assert.equal(2, seen[5])
    -- more of them than fit into the window
    for i = 4, 10 do samples[i] = {{}, i} end
    report = cli:learn_many("m", samples, {window = 2})
    indices = {}
    for i, entry in ipairs(report.errors) do indices[i] = entry.index end
    assert.same({3, 4, 5, 6, 7, 8, 9, 10}, indices)
  end)

  it("stops at the first error by index, and sends nothing behind it", function()
    local transport = piped_transport(function(req)
      if req.json.features.a == 3 then return {status = 400, body = '"ValueError(\'odd\')"'} end
      return LEARNED
    end)
    local cli = river.Client{transport = transport}
    local samples = numbers(50)
    samples[7] = {{a = 0 / 0}, 1}
    local err = failure_of("model", cli.learn_many, cli, "m", samples, {stop_on_error = true})
    assert.same({3, 5, 1}, {err.index, err.report.done, err.report.failed})
    assert.equal(3, err.report.errors[1].index)
    samples[3] = {{a = 30}, 3}
    transport.sent = {}
    err = failure_of("argument", cli.learn_many, cli, "m", samples, {stop_on_error = true})
    assert.same({7, 6, 1}, {err.index, err.report.done, err.report.failed})
    assert.equal(6, #transport.sent)
  end)

  it("says of a sample that is no table just that", function()
    local cli = river.Client{transport = piped_transport(function() return LEARNED end)}
    local report = cli:learn_many("m", {{{a = 1}, 1}, "bad", 7, json.null, {{a = 1}}})
    assert.same({1, 4}, {report.done, report.failed})
    local words = {"a sample is a table, got a string", "a sample is a table, got a number",
      "a sample is a table, got null", "the label is missing"}
    for i, entry in ipairs(report.errors) do
      assert.truthy(entry.error.message:find(words[i], 1, true), entry.error.message)
    end
    -- a text model learns texts
    assert.equal(2, cli:learn_many("texts", {"one text", "another"}).done)
    assert.equal(2, cli:learn_many("texts", {{"one text", 1}, {"another", 2}}).done)
  end)

  it("what concerns all samples is raised, with what has been done", function()
    local transport = piped_transport(function(_, number)
      if number > 5 then return {status = 400, body = '"No model named \'m\'."'} end
      return LEARNED
    end)
    local cli = river.Client{transport = transport}
    local err = failure_of("not_found", cli.learn_many, cli, "m", numbers(40), {window = 4})
    assert.equal(6, err.index)
    assert.equal(5, err.report.done)
    assert.truthy(#transport.sent < 15)
    transport = piped_transport(function() return false end)
    err = failure_of("connect", cli.learn_many, river.Client{transport = transport}, "m",
      numbers(3))
    assert.same({1, 0, 1, 0}, {err.index, err.report.done, err.report.failed, err.report.uncertain})
  end)

  it("a learn that may have been done is reported, not repeated; one that was not is sent again", function()
    local failing = {[10] = "lost", [11] = "lost", [12] = "unseen", [13] = "unseen"}
    local transport = piped_transport(function(_, number)
      local how = failing[number]
      failing[number] = nil
      if how == "lost" then return nil end
      if how == "unseen" then return false end
      return LEARNED
    end)
    local cli = river.Client{transport = transport}
    local report = cli:learn_many("m", numbers(30), {window = 4})
    assert.same({28, 2, 2}, {report.done, report.failed, report.uncertain})
    assert.equal("28 done, 2 failed (2 of them may have been done)", tostring(report))
    assert.same({10, 11}, {report.errors[1].index, report.errors[2].index})
    assert.is_true(report.errors[1].uncertain)
    local times = {}
    for _, a in ipairs(sent_numbers(transport)) do times[a] = (times[a] or 0) + 1 end
    assert.same({1, 1, 2, 2}, {times[10], times[11], times[12], times[13]})
  end)

  it("lets other calls on the model have their turn, also while its samples are slow to come", function()
    local transport = piped_transport(function(req)
      return req.path:find("predict") and {status = 201, body = '{"model":"m","prediction":1}'} or LEARNED
    end)
    local cli = river.Client{transport = transport}
    local index = 0
    local answers = 0
    local function ask(a)
      local prediction = cli:predict("m", {a = a}).prediction
      answers = answers + prediction
    end
    local function following()
      index = index + 1
      if index > 30 then return nil end
      -- the samples' source asks the model itself
      if index % 10 == 0 then ask(index) end
      return {a = index}, index
    end
    local other = task.spawn(function()
      for _ = 1, 5 do ask(0) end
    end)
    assert.equal(30, cli:learn_many("m", following, {window = 4}).done)
    other:await()
    assert.equal(8, answers)
  end)

  it("shows its progress", function()
    local transport = piped_transport(function() return LEARNED end)
    local cli = river.Client{transport = transport}
    local last, calls = 0, 0
    cli:learn_many("m", numbers(100), {progress = function(done, failed)
      assert.truthy(done >= last and failed == 0)
      last, calls = done, calls + 1
    end})
    assert.equal(100, last)
    assert.truthy(calls > 5)
  end)

  it("gives up what is under way when it is cancelled, and the turn", function()
    local signal = require("riverlua.core.task").signal()
    local transport = piped_transport(function() return LEARNED end)
    local send = transport.pipeline
    function transport.pipeline()
      local pipeline = send()
      local original = pipeline.send
      function pipeline.send(self, req)
        local _, transfer, size = original(self, req)
        return function() signal:wait() end, transfer, size
      end
      return pipeline
    end
    local cli = river.Client{transport = transport}
    local batch = task.spawn(cli.learn_many, cli, "m", numbers(20), {window = 5})
    task.sleep(0)
    task.sleep(0)
    local waiting = task.spawn(cli.learn, cli, "m", {a = 0}, 1)
    task.sleep(0)
    batch:cancel("enough")
    batch:join()
    assert.equal("cancelled", batch:status())
    assert.equal("Successful learn.", waiting:await())
    assert.equal(5, transport.given_up)
  end)
end)

describe("predict_many", function()
  local function predictor(skip)
    return piped_transport(function(req, number)
      if skip and skip[number] ~= nil then
        local how = skip[number]
        skip[number] = nil
        return how
      end
      return {status = 201, body = json.encode{model = "m", prediction = req.json.features.a * 2, identifier = "k"}}
    end)
  end

  it("gives the answers in order", function()
    local cli = river.Client{transport = predictor()}
    local xs = {}
    for i = 1, 200 do xs[i] = {a = i} end
    local report = cli:predict_many("m", xs)
    assert.equal(200, report.done)
    for i = 1, 200 do assert.equal(2 * i, report.answers[i].prediction) end
    assert.is_nil(report.answers[1].identifier)
    xs[50] = {}
    report = cli:predict_many("m", xs)
    assert.same({199, 1}, {report.done, report.failed})
    assert.is_false(report.answers[50])
    assert.equal(102, report.answers[51].prediction)
    local order = {}
    report = cli:predict_many("m", xs, {on_answer = function(answer, index)
      order[#order + 1] = answer.prediction == 2 * index and index
    end})
    assert.is_nil(report.answers)
    assert.equal(199, #order)
    assert.equal(200, order[199])
  end)

  it("repeats predictions after a lost connection", function()
    local cli = river.Client{transport = predictor{[5] = false, [12] = false}}
    local xs = {}
    for i = 1, 20 do xs[i] = {a = i} end
    local report = cli:predict_many("m", xs, {window = 4})
    assert.same({20, 0}, {report.done, report.failed})
    for i = 1, 20 do assert.equal(2 * i, report.answers[i].prediction) end
  end)
end)

describe("many at a time", function()
  local function same_everywhere(open)
    local cli <close>, stop = open()
    local ok, problem = pcall(function()
      cli:upload_model(regression(), "regression", "one")
      cli:upload_model(regression(), "regression", "many")
      local samples = {}
      for i = 1, 150 do samples[i] = {{a = i % 13, b = i % 7 / 3}, i % 11} end
      for _, sample in ipairs(samples) do cli:learn("one", sample[1], sample[2]) end
      assert.equal(150, cli:learn_many("many", samples).done)
      assert.equal(150, cli:stats("many").learn.n_calls)
      assert.same(cli:metrics("one"), cli:metrics("many"))
      local xs = {}
      for i = 1, 40 do xs[i] = {a = i, b = i / 9} end
      local report = cli:predict_many("many", xs)
      for i, x in ipairs(xs) do assert.equal(cli:predict("one", x).prediction, report.answers[i].prediction) end
      samples[70] = {{a = "text"}, 1}
      report = cli:learn_many("many", samples)
      assert.same({149, 1}, {report.done, report.failed})
      assert.equal("model", report.errors[1].error.kind)
      failure_of("not_found", cli.learn_many, cli, "nowhere", samples)
      assert.equal(400, cli:stats("one").learn.n_calls + 250)
    end)
    if stop then stop() end
    assert(ok, tostring(problem))
  end

  it("gives the same as one by one on a real server, over one connection", function()
    same_everywhere(function()
      local server = support.start_server()
      local cli = river.Client(server.url)
      return cli, function()
        local stats = cli._transport:stats()
        server.stop()
        assert.equal(1, stats.connections)
      end
    end)
  end)

  it("gives the same as one by one in this process", function()
    same_everywhere(function() return river.Client("embedded:") end)
  end)

  it("goes on over a server that closes each connection", function()
    local stub = servers.stub()
    local answer = ("HTTP/1.1 201 Created\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"):format(19,
      '"Successful learn."')
    local transport = require("riverlua.transport").open("river", stub:url(), {proxy = false})
    local rerouted = setmetatable({}, {__index = transport})
    local function changed(req)
      return {method = "POST", headers = req.headers, body = answer, path = "/raw?end=fin", idempotent = req.idempotent}
    end
    function rerouted.request(_, req) return transport:request(changed(req)) end
    function rerouted.close() transport:close() end
    function rerouted.pipeline()
      local pipeline = transport:pipeline()
      return {ready = pipeline.ready, close = pipeline.close,
        send = function(_, req) return pipeline:send(changed(req)) end}
    end
    local cli = river.Client{transport = rerouted}
    local report = cli:learn_many("m", numbers(12))
    cli:close()
    local accepted = stub:stats().accepted.http
    stub:close()
    assert.same({12, 0, 12}, {report.done, report.failed, accepted})
  end)
end)
