-- Calls on one model of one server come one after the other, whichever client makes them.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
local support = dofile(folder .. "support.lua")
local river = require "river"
local task = require "riverlua.task"
local turns = require "river.turns"

local LEARNED = {status = 201, body = '"Successful learn."'}

-- A transport that counts how many requests are under way at once.
local function counting_transport()
  local transport = support.fake_transport(LEARNED)
  local request = transport.request
  transport.now, transport.most = 0, 0
  function transport.request(...)
    transport.now = transport.now + 1
    transport.most = math.max(transport.most, transport.now)
    for _ = 1, 3 do task.sleep(0) end
    transport.now = transport.now - 1
    return request(...)
  end
  return transport
end

local function learn_beside(first, second, model_of_second)
  local function teach(cli, model)
    return function()
      for i = 1, 10 do cli:learn(model, {a = i}, i) end
    end
  end
  task.gather(teach(first, "m"), teach(second, model_of_second or "m"), teach(first, "m"))
end

describe("turns", function()
  it("are those of all clients of a server", function()
    local transport = counting_transport()
    learn_beside(river.Client{transport = transport}, river.Client{transport = transport})
    assert.equal(1, transport.most)
    assert.equal(30, #transport.requests)
    transport = counting_transport()
    learn_beside(river.Client{transport = transport}, river.Client{transport = transport}, "other")
    assert.equal(2, transport.most)
  end)

  it("are known by the place, without credentials", function()
    local of = turns.at("http://127.0.0.1:8000", "/api")
    assert.equal(of, turns.at("http://ada:secret@127.0.0.1:8000", "/api"))
    assert.equal(of, turns.at("HTTP://127.0.0.1:8000", "/api"))
    for _, other in ipairs{{"http://127.0.0.1:8001", "/api"}, {"https://127.0.0.1:8000", "/api"},
      {"http://127.0.0.1:8000", "/ml"}, {"http://127.0.0.1:8000/x", "/api"}} do
      assert.not_equal(of, turns.at(other[1], other[2]))
    end
    assert.equal(turns.at("http://Host", ""), turns.at("http://hOST:80", ""))
    assert.equal(turns.at("https://h", ""), turns.at("https://h:443", ""))
    assert.not_equal(turns.at("http://h:443", ""), turns.at("https://h:443", ""))
    local first, second = river.Client("http://127.0.0.1:8000"), river.Client{baseurl = "http://u:p@127.0.0.1:8000/"}
    assert.equal(first._turns, second._turns)
    assert.equal(of, first._turns)
    assert.not_equal(first._turns, river.Client("http://127.0.0.1:8000", {prefix = "ml"})._turns)
  end)

  it("move with a client that is sent elsewhere", function()
    local transport = support.fake_transport{body = '{"prefix":"ml"}'}
    local cli = river.Client("http://127.0.0.1:8000", {transport = transport})
    cli:check()
    assert.equal("ml", cli.prefix)
    assert.equal(turns.at(transport, "/ml"), cli._turns)
  end)

  it("are forgotten with the last client", function()
    local seen = setmetatable({}, {__mode = "k"})
    do
      local cli = river.Client("http://127.0.0.1:9")
      seen[cli._turns] = true
      cli:close()
    end
    for _ = 1, 3 do collectgarbage() end
    assert.is_nil(next(seen))
  end)
end)

describe("two clients on a real server", function()
  local server
  setup(function() server = support.start_server() end)
  teardown(function() server.stop() end)

  it("lose no learns", function()
    local first <close> = river.Client(server.url)
    local second <close> = river.Client(server.url)
    first:upload_model(river.preprocessing.StandardScaler() | river.linear_model.LinearRegression(), "regression", "m")
    task.gather(
      function() for i = 1, 60 do first:learn("m", {a = i}, i) end end,
      function() for i = 1, 60 do second:learn("m", {a = i}, i) end end,
      function()
        local i = 0
        second:learn_many("m", function()
          i = i + 1
          if i <= 60 then return {a = i}, i end
        end)
      end)
    local path = first:download_model("m", support.temporary_name())
    local counts = river.local_model(path):scaler().counts
    os.remove(path)
    assert.equal(180, counts.a)
  end)
end)
