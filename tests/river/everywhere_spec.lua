-- The same scripts on a real server (with authentication, with redis), in this process, and on `riverlua serve river`,
-- with the same results.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
local support = dofile(folder .. "support.lua")
local servers = dofile(folder .. "../support/servers.lua")
local errors = require "riverlua.errors"
local river = require "river"
local task = require "riverlua.task"

local USER, TOKEN = "dinosaur", "0123456789abcdef0123456789abcdef01234567"

local function real(environment, options)
  return function()
    local server = support.start_server(environment)
    local all = {baseurl = server.url, user = false, token = false}
    for name, value in pairs(options or {}) do all[name] = value end
    return all, server.stop
  end
end

local function served(words, options)
  return function()
    local command = {servers.riverlua, "serve", "river", "--json", "--stdin", "--port", "0"}
    for _, word in ipairs(words) do command[#command + 1] = word end
    local server = servers.start(command, {RIVER_ML_USER = "", RIVER_ML_TOKEN = ""})
    local all = {baseurl = "http://127.0.0.1:" .. server.info.port, user = false, token = false}
    for name, value in pairs(options or {}) do all[name] = value end
    return all, function() server:close() end
  end
end

local KNOWN = {user = USER, token = TOKEN}

-- The first one says what is right.
local PLACES = {
  {"a real server", real()},
  {"a real server with authentication", real({DISABLE_AUTHENTICATION = "false"}, KNOWN)},
  {"a real server with redis", real{STORAGE_BACKEND = "redis"}, needs = "redis-server"},
  {"this process", function() return {baseurl = "embedded:"}, function() end end},
  {"this process with a folder", function()
    local place = support.temporary_name()
    return {baseurl = "embedded:" .. place}, function() os.execute("rm -rf " .. support.quote(place)) end
  end},
  {"serve river", served{}},
  {"serve river with authentication", served({"--user", USER, "--token", TOKEN}, KNOWN)},
}

local function scaled(last) return river.preprocessing.StandardScaler() | last end

local function regression() return scaled(river.linear_model.LinearRegression{optimizer = river.optim.SGD(0.01)}) end

-- What a call gives, or the kind and code of its error.
local function outcome(call, ...)
  local ok, result = pcall(call, ...)
  if ok then return result end
  assert(errors.is(result), tostring(result))
  return {kind = result.kind, code = result.code, status = result.status}
end

-- Each notes what it sees with `note(value)`.
local SCRIPTS = {}

SCRIPTS[#SCRIPTS + 1] = {"a model's life", function(cli, note)
  note(cli:upload_model(regression(), "regression", "life"))
  for step = 1, 30 do
    local x = {a = step / 2, b = step % 3 == 0, c = step % 4}
    note(cli:predict("life", x).prediction)
    note(cli:learn("life", x, step % 7))
  end
  note(cli:metrics("life"))
  local stats = cli:stats("life")
  note{stats.learn.n_calls, stats.predict.n_calls}
  note(cli:get_model_json("life"))
  note(cli:models().models)
  local path = support.temporary_name()
  cli:download_model("life", path)
  note(cli:upload_model(path, "regression", "again"))
  os.remove(path)
  for step = 1, 5 do note(cli:predict("again", {a = step, b = false, c = 1}).prediction) end
  note(cli:metrics("again"))
  note(cli:delete_model("life"))
  note(cli:models().models)
  note(cli:delete_model("again"))
end}

SCRIPTS[#SCRIPTS + 1] = {"labels that come later", function(cli, note)
  cli:upload_model(scaled(river.linear_model.LogisticRegression()), "binary", "later")
  for step = 1, 30 do
    local answer = cli:predict("later", {a = step % 5, b = step % 3}, {identifier = true})
    note(answer.prediction)
    note(answer.probabilities[true] == answer.prediction["true"])
    note(answer:label(step % 5 > 2))
  end
  local last = cli:predict("later", {a = 4, b = 1}, {identifier = "mine"})
  note(last.identifier)
  note(last.likeliest)
  note(cli:label("later", "mine", false))
  note(outcome(cli.label, cli, "later", "mine", true))
  note(outcome(cli.label, cli, "later", "unknown", true))
  note(cli:learn{model = "later", identifier = cli:predict("later", {a = 1, b = 1}, {identifier = true}).identifier,
    y = true})
  note(cli:metrics("later"))
end}

SCRIPTS[#SCRIPTS + 1] = {"labels of every type", function(cli, note)
  for number, case in ipairs{{"low", "high", ""}, {0, 1, 2}, {1.0, 2.5, 0.0}, {true, false}} do
    local name = "types" .. number
    cli:upload_model(river.naive_bayes.GaussianNB(), "multiclass", name)
    note(cli:predict(name, {a = 1}).prediction == nil)
    for step = 1, 24 do
      local which = step % #case + 1
      local answer = cli:predict(name, {a = which * 5 + step % 3, b = step}, {identifier = true})
      note(answer.prediction)
      note(math.type(answer.prediction))
      note(answer:label(case[which]))
    end
    note(cli:metrics(name))
  end
end}

SCRIPTS[#SCRIPTS + 1] = {"many at a time", function(cli, note)
  cli:upload_model(regression(), "regression", "many")
  local samples = {}
  for step = 1, 120 do samples[step] = {{a = step % 11, b = step / 9}, step % 6} end
  samples[50] = {{a = 0 / 0}, 1}
  samples[60] = {{a = "text", b = 1}, 1}
  local report = cli:learn_many("many", samples)
  note{report.done, report.failed, report.errors[1].index, report.errors[1].error.kind, report.errors[2].index,
    report.errors[2].error.kind, report.errors[2].error.code}
  local xs = {}
  for step = 1, 30 do xs[step] = {a = step, b = 2} end
  for _, answer in ipairs(cli:predict_many("many", xs).answers) do note(answer.prediction) end
  note(cli:metrics("many"))
  note(outcome(cli.learn_many, cli, "nowhere", samples))
end}

SCRIPTS[#SCRIPTS + 1] = {"many tasks", function(cli, note)
  cli:upload_model(river.linear_model.LinearRegression(), "regression", "tasks")
  local writers = {}
  for writer = 1, 4 do
    writers[writer] = function()
      -- all the same, so that their order does not show
      for _ = 1, 25 do cli:learn("tasks", {a = 1, b = 2}, 3) end
    end
  end
  task.gather(writers)
  local learner <close> = cli:background()
  for _ = 1, 50 do learner:learn("tasks", {a = 1, b = 2}, 3) end
  learner:flush()
  note(cli:stats("tasks").learn.n_calls)
  note(cli:predict("tasks", {a = 1, b = 2}).prediction)
end}

SCRIPTS[#SCRIPTS + 1] = {"backup and checkpoints", function(cli, note)
  local place = support.temporary_name()
  cli:upload_model(regression(), "regression", "kept")
  do
    local checkpoints <close> = cli:checkpoint_every("kept", {learns = 10, path = place .. ".pkl"})
    for step = 1, 35 do cli:learn("kept", {a = step % 4, b = step}, step % 5) end
    note(checkpoints.saved)
  end
  cli:upload_model(place .. ".pkl", "regression", "checkpoint")
  note(cli:predict("checkpoint", {a = 1, b = 3}).prediction == cli:predict("kept", {a = 1, b = 3}).prediction)
  local manifest = cli:backup(place, {models = {"kept"}})
  note{manifest.models[1].name, manifest.models[1].flavor, manifest.models[1].metrics.MAE}
  cli:delete_model("kept")
  note(cli:restore(place))
  note(cli:predict("kept", {a = 1, b = 3}).prediction)
  note(cli:copy("kept", cli, {name = "copied"}))
  note(cli:predict("copied", {a = 1, b = 3}).prediction)
  os.execute("rm -rf " .. support.quote(place) .. " " .. support.quote(place .. ".pkl"))
end}

SCRIPTS[#SCRIPTS + 1] = {"mistakes", function(cli, note)
  cli:upload_model(regression(), "regression", "strict")
  for _, call in ipairs{
    function() return cli:predict("nope", {a = 1}) end,
    function() return cli:learn("nope", {a = 1}, 1) end,
    function() return cli:stats("not there") end,
    function() return cli:get_model_json("not there") end,
    function() return cli:download_model("not there", support.temporary_name()) end,
    function() return cli:delete_model("not there") end,
    function() return cli:learn("strict", {a = "text"}, 1) end,
    function() return cli:learn("strict", {a = 1}) end,
    function() return cli:learn{model = "strict", identifier = "unknown", y = 1} end,
  } do note(outcome(call)) end
  note(cli:metrics("not there"))
  cli:upload_model(regression(), "binary", "wrong")
  local err = outcome(cli.predict, cli, "wrong", {a = 1})
  note{err.kind, err.code}
end}

SCRIPTS[#SCRIPTS + 1] = {"an anomaly detector", function(cli, note)
  local model = river.preprocessing.MinMaxScaler() | river.anomaly.HalfSpaceTrees{seed = 42, n_trees = 5, height = 3,
    window_size = 20}
  cli:upload_model(model, "custom", "odd")
  for step = 1, 80 do
    local x = {a = step % 7 / 7, b = step % 5 / 5}
    note(cli:predict("odd", x).prediction)
    cli:learn("odd", x)
  end
end}

local function close_enough(a, b, path)
  if math.type(a) == "float" and math.type(b) == "float" and a ~= b then
    -- sums of the Python library run in its own order
    local off = math.abs(a - b) / math.max(math.abs(a), math.abs(b))
    return off < 1e-9 or a ~= a and b ~= b, ("%s: %.17g and %.17g"):format(path, a, b)
  elseif type(a) == "table" and type(b) == "table" then
    for key, value in pairs(a) do
      local same, where = close_enough(value, b[key], path .. "." .. tostring(key))
      if not same then return false, where end
    end
    for key in pairs(b) do
      if a[key] == nil then return false, path .. "." .. tostring(key) .. " is new" end
    end
    return true
  end
  return a == b and math.type(a) == math.type(b), ("%s: %s and %s"):format(path, tostring(a), tostring(b))
end

describe("a script", function()
  local expected = {}

  for index, place in ipairs(PLACES) do
    describe("on " .. place[1], function()
      local options, stop
      local skipped = place.needs and not servers.has(place.needs)

      setup(function()
        if not skipped then options, stop = place[2]() end
      end)
      teardown(function()
        if stop then stop() end
      end)

      for _, script in ipairs(SCRIPTS) do
        it("gives the same: " .. script[1], function()
          if skipped then return pending(place.needs .. " is not installed") end
          local seen = {n = 0}
          local cli <close> = river.Client(options)
          script[2](cli, function(value)
            seen.n = seen.n + 1
            seen[seen.n] = value
          end)
          if index == 1 then expected[script[1]] = seen end
          assert(expected[script[1]], "the first place has failed")
          assert.truthy(seen.n > 0)
          local same, where = close_enough(expected[script[1]], seen, "note")
          assert(same, where)
        end)
      end
    end)
  end
end)
