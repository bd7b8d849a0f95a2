-- A script of the river client, recorded against a real server and replayed when it is gone.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local river_support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../river/support.lua")

local SCRIPT = [[
  local river = require "river"
  local cli <close> = river.Client(base, way == "auth" and {user = extra, token = arg[4]} or nil)
  local model = river.preprocessing.StandardScaler() | river.linear_model.LinearRegression{}
  print(cli:info().status)
  print(cli:upload_model(model, "regression", "rec"))
  for i = 1, 20 do
    print(cli:predict("rec", {a = i, b = -i}).prediction)
    cli:learn("rec", {a = i, b = -i}, 2.0 * i)
  end
  local samples = {}
  for i = 1, 100 do samples[i] = {{a = i % 7, b = 1}, i % 7 + 0.5} end
  local report = cli:learn_many("rec", samples)
  print(report.done, report.failed)
  local many = {}
  for i = 1, 40 do many[i] = {a = i % 5} end
  print(cli:predict_many("rec", many).done)
  task.map({1, 2, 3, 4, 5}, function(i) return cli:predict("rec", {a = i}) end, {concurrency = 5})
  print(json.encode(cli:metrics("rec"), {sort = true}))
  print(cli:stats("rec").learn.n_calls, table.concat(cli:models().models, ","))
  show_error(cli.metrics, cli, "")
  local ok, err = pcall(cli.predict, cli, "nope", {a = 1})
  print(ok, err.kind)
  local answer = cli:predict("rec", {a = 1}, {identifier = true})
  print(type(answer.identifier), answer:label(3))
  print(#cli:download_model("rec", os.tmpname()) > 0)
  print(cli:delete_model("rec"))
]]

describe("a script of the river client", function()
  after_each(support.clean)

  local function record_and_replay(script, environment, args_of)
    local server = river_support.start_server(environment)
    local _ <close> = setmetatable({}, {__close = function() server.stop() end})
    local folder = support.new_folder()
    local recorded = support.run(script, "record", {args = args_of(server), folder = folder})
    assert.equal(0, recorded.code, recorded.err)
    server.stop()
    local args = args_of(server)
    args[1] = "http://127.0.0.1:9"
    local replayed = support.run(script, "replay", {args = args, folder = folder})
    assert.equal(recorded.out, replayed.out, replayed.err)
    assert.equal(0, replayed.code, replayed.err)
    return folder, server, recorded.out
  end

  it("gives the same without the server", function()
    local folder, _, out = record_and_replay(SCRIPT, nil,
      function(server) return {server.url, "plain"} end)
    assert.matches("\n100\t0\n", out, 1, true)
    assert.is_true(#support.entries(folder) > 180)
  end)

  it("gives the same with user and token, and the recording has neither token", function()
    local folder, server = record_and_replay(SCRIPT,
      {DISABLE_AUTHENTICATION = "false"}, function(server) return {server.url, "auth", server.user, server.token} end)
    local text = support.text(folder)
    assert.is_nil(text:find(server.token, 1, true))
    assert.is_nil(text:find("eyJ", 1, true))   -- the beginning of every JSON web token
    assert.truthy(text:find('"Www-Authenticate","realm=', 1, true))
  end)

  it("gives the same events of a stream that is left", function()
    local script = [[
      local river = require "river"
      local cli <close> = river.Client(base)
      local model = river.preprocessing.StandardScaler() | river.linear_model.LinearRegression{}
      cli:upload_model(model, "regression", "rec")
      local stream <close> = cli:stream_events()
      -- the server may answer before it listens: it is taught until the stream has heard of it
      local heard, event
      for i = 1, 10 do
        cli:learn("rec", {a = i}, i)
        heard, event = pcall(task.timeout, 2, stream)
        if heard then break end
      end
      print(event.kind, event.model, event.ground_truth)
    ]]
    record_and_replay(script, nil, function(server) return {server.url, "plain"} end)
  end)
end)
