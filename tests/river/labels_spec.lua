-- Labels come back as they were sent.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local json = require "riverlua.json"
local labels = require "river.labels"
local river = require "river"
local turns = require "river.turns"
local task = require "riverlua.task"

describe("a label's name becomes", function()
  local function known(...)
    local memory
    for _, label in ipairs{...} do memory = labels.remember(memory, label) end
    return memory
  end

  it("what was sent under it", function()
    for _, case in ipairs{
      {{true}, "true", true}, {{true}, "false", false}, {{false}, "true", true},
      {{1, 2}, "1", 1}, {{1.0}, "1.0", 1.0}, {{1e16}, "1e+16", 1e16}, {{-3}, "-3", -3}, {{0.1}, "0.1", 0.1},
      {{"cat"}, "cat", "cat"}, {{"true"}, "true", "true"}, {{"1"}, "1", "1"},
      -- a text that was sent stays a text, whatever else was
      {{true, "true"}, "true", "true"}, {{1, "1"}, "1", "1"},
      -- the number's own type decides
      {{1}, "1.0", "1.0"}, {{1.0}, "1", "1"}, {{1, 1.0}, "1", 1}, {{1, 1.0}, "1.0", 1.0},
      {{true}, "1", "1"}, {{1}, "true", "true"}, {{"cat"}, "dog", "dog"},
    } do
      local found = labels.typed(known(table.unpack(case[1])), case[2])
      assert.equal(case[3], found)
      assert.equal(math.type(case[3]), math.type(found))
    end
  end)

  it("text when nothing was sent, but for the booleans of a binary model", function()
    assert.equal("true", labels.typed(nil, "true"))
    assert.equal("1", labels.typed(nil, "1"))
    assert.is_true(labels.typed(nil, "true", true))
    assert.is_false(labels.typed(nil, "false", true))
    assert.equal("1", labels.typed(nil, "1", true))
    assert.equal("true", labels.typed(known("true"), "true", true))
  end)

  it("nothing that grows without bound", function()
    local memory
    for i = 1, 30000 do memory = labels.remember(memory, i / 7) end
    assert.equal(10000, memory.count)
    local transport = support.fake_transport{status = 201, body = '"Successful learn."'}
    local cli = river.Client{transport = transport}
    cli._flavors.m = "regression"
    cli:learn("m", {a = 1}, 5)
    assert.is_nil(cli._labels.m)
  end)
end)

describe("an answer", function()
  local function ask(prediction, sent, flavor)
    local body = json.encode{model = "m", prediction = prediction, identifier = "i"}
    local transport = support.fake_transport(function(req)
      return req.path:find("learn") and {status = 201, body = '"Successful learn."'} or {status = 201, body = body}
    end)
    local cli = river.Client{transport = transport}
    cli._flavors.m = flavor
    for _, label in ipairs(sent or {}) do cli:learn("m", {a = 1}, label) end
    return cli:predict("m", {a = 1})
  end

  it("has what the server sent, likeliest label and probabilities", function()
    local answer = ask({["true"] = 0.75, ["false"] = 0.25}, {true})
    assert.same({["true"] = 0.75, ["false"] = 0.25}, answer.prediction)
    assert.same({model = "m", prediction = {["true"] = 0.75, ["false"] = 0.25}}, answer)
    assert.same({[true] = 0.75, [false] = 0.25}, answer.probabilities)
    assert.is_true(answer.likeliest)
    assert.equal(0.75, answer.prediction[true])
    assert.equal(0.25, answer.prediction[false])
    assert.is_nil(answer.prediction[1])
    assert.is_nil(answer.prediction.other)
    assert.is_nil(answer.other)
    assert.equal('{"model":"m","prediction":{"false":0.25,"true":0.75}}', json.encode(answer, {sort = true}))
  end)

  it("has numbers as labels where numbers were sent", function()
    local answer = ask({["1"] = 0.5, ["2"] = 0.5, ["3"] = 0}, {1, 2, 3})
    assert.equal("integer", math.type(answer.likeliest))
    assert.equal(1, answer.likeliest)
    assert.equal(0.5, answer.prediction[2])
    answer = ask({["1.0"] = 0.4, ["2.5"] = 0.6}, {1.0, 2.5})
    assert.equal(0.4, answer.prediction[1.0])
    assert.equal(0.4, answer.prediction[1])
    assert.equal(2.5, answer.likeliest)
    assert.equal(0.6, answer.probabilities[2.5])
  end)

  it("has the label itself where the model answers with one", function()
    for _, label in ipairs{"cat", 3, 2.0, true, false} do
      local answer = ask(label, {label})
      assert.equal(label, answer.prediction)
      assert.equal(math.type(label), math.type(answer.prediction))
      assert.equal(label, answer.likeliest)
      assert.is_nil(answer.probabilities)
    end
  end)

  it("has no label before any learning", function()
    local answer = ask(json.object{}, nil, "binary")
    assert.is_nil(answer.likeliest)
    assert.same({}, answer.probabilities)
    assert.is_nil(ask(nil).likeliest)
    assert.is_nil(ask(nil).probabilities)
    assert.equal("integer", math.type(ask(5).likeliest))
    assert.is_nil(ask{1, 2}.probabilities)
    assert.is_nil(ask{1, 2}.likeliest)
    assert.is_nil(ask{a = "x"}.probabilities)
  end)

  it("comes back typed from a real server and from this process", function()
    local server = support.start_server()
    local ok, problem = pcall(function()
      for _, address in ipairs{server.url, "embedded:"} do
        local cli <close> = river.Client(address)
        cli:upload_model(river.preprocessing.StandardScaler() | river.linear_model.LogisticRegression(), "binary", "b")
        for step = 1, 20 do cli:learn("b", {a = step % 2}, step % 2 == 0) end
        assert.is_true(cli:predict("b", {a = 0}).likeliest)
        assert.truthy(cli:predict("b", {a = 0}).probabilities[true] > 0.5)
        for _, case in ipairs{{"low", "high"}, {1, 2}, {1.0, 2.5}, {true, false}} do
          cli:upload_model(river.naive_bayes.GaussianNB(), "multiclass", "m")
          for step = 1, 12 do cli:learn("m", {a = step % 2 * 10 + step / 100}, case[step % 2 + 1]) end
          local found = cli:predict("m", {a = 10})
          assert.equal(case[2], found.prediction)
          assert.equal(math.type(case[2]), math.type(found.prediction))
          cli:upload_model(river.naive_bayes.GaussianNB(), "binary", "p")
          for step = 1, 12 do cli:learn("p", {a = step % 2 * 10 + step / 100}, case[step % 2 + 1]) end
          found = cli:predict("p", {a = 10})
          assert.equal(case[2], found.likeliest)
          assert.equal(math.type(case[2]), math.type(found.likeliest))
        end
      end
    end)
    server.stop()
    assert(ok, tostring(problem))
  end)
end)

describe("turns", function()
  it("are taken in the order of asking, and left when a task is cancelled", function()
    local turn = turns.new()
    local order = {}
    local function take(name)
      return task.spawn(function()
        local _ <close> = turn:take()
        order[#order + 1] = name
        task.sleep(0)
      end)
    end
    local held = turn:take()
    local tasks = {}
    for i = 1, 5 do
      tasks[i] = take(i)
      task.sleep(0)
    end
    assert.equal(5, turn.waiting)
    tasks[2]:cancel()
    tasks[2]:join()
    assert.equal(4, turn.waiting)
    held:give()
    for _, one in ipairs{1, 3, 4, 5} do tasks[one]:await() end
    assert.same({1, 3, 4, 5}, order)
    assert.is_false(turn.held)
    assert.equal(0, turn.waiting)
  end)

  it("are not lost when a task is cancelled just after it got one", function()
    local turn = turns.new()
    turn:take()
    local function take()
      local _ <close> = turn:take()
      task.sleep(0)
    end
    local first, second = task.spawn(take), task.spawn(take)
    task.sleep(0)
    turn:give()
    first:cancel()
    first:join()
    assert.equal("cancelled", first:status())
    second:await()
    assert.is_false(turn.held)
  end)

  it("come back when a call fails", function()
    local transport = support.fake_transport(function() error("broken") end)
    local cli = river.Client{transport = transport}
    for _ = 1, 3 do support.error_of(cli.learn, cli, "m", {a = 1}, 1) end
    assert.equal(3, #transport.requests)
  end)
end)
