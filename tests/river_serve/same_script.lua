-- A script that must print the same wherever it runs: on a real server, on `riverlua serve river`, on `embedded:`.
-- arg[1]: the address.

local errors = require "riverlua.errors"
local json = require "riverlua.json"
local river = require "river"
local task = require "riverlua.task"

local cli <close> = river.Client(arg[1])

local function say(what, value)
  print(what, type(value) == "table" and json.encode(value, {sort = true}) or value)
end

local function fails(what, call, ...)
  local ok, problem = pcall(call, cli, ...)
  assert(not ok and errors.is(problem), what)
  local message = problem.message:gsub("%x+%-%x+%-%x+%-%x+%-%x+", "<identifier>")
  say(what, {kind = problem.kind, message = message, status = problem.status, code = problem.code})
end

local function sample(step)
  return {a = step % 7 - 2.5, ["b ä"] = step % 3, c = step % 2 == 0, d = (step * 37 % 11) / 3}
end

local LABELS = {"low", "middle", "high"}

local MODELS = {
  {"numbers", "regression", river.preprocessing.StandardScaler() |
    river.linear_model.LinearRegression{optimizer = river.optim.SGD(0.01)},
    function(step) return step % 5 - 1.5 end},
  {"yes or no", "binary", river.preprocessing.StandardScaler() | river.linear_model.LogisticRegression(),
    function(step) return step % 5 > 2 end},
  {"größe 100%", "multiclass", river.preprocessing.StandardScaler() |
    river.multiclass.OneVsRestClassifier(river.linear_model.LogisticRegression()),
    function(step) return LABELS[step % 3 + 1] end},
  {"bayes", "multiclass", river.naive_bayes.GaussianNB(), function(step) return step % 3 end},
}

say("status", cli:info().status)
for _, entry in ipairs(MODELS) do
  local name, flavor, model, label = table.unpack(entry)
  say("uploaded", cli:upload_model(model, flavor, name))
  for step = 1, 25 do
    say("prediction", cli:predict(name, sample(step)))
    say("learned", cli:learn(name, sample(step), label(step)))
  end
  say("metrics", cli:metrics(name))
  say("as JSON", cli:get_model_json(name))
  local stats = cli:stats(name)
  say("calls", {stats.learn.n_calls, stats.predict.n_calls})
end

local handle = cli:predict("numbers", sample(3), {identifier = true})
say("identifier", #handle.identifier)
say("labelled", cli:label("numbers", handle.identifier, 4))
fails("labelled twice", cli.label, "numbers", handle.identifier, 4)
say("named", cli:predict("numbers", sample(3), {identifier = "mine"}).identifier)

local path = os.tmpname()
cli:download_model("numbers", path)
cli:upload_model(path, "regression", "copy")
os.remove(path)
say("copied", cli:predict("copy", sample(4)).prediction == cli:predict("numbers", sample(4)).prediction)

fails("no model", cli.predict, "nobody", {a = 1})
fails("no model to learn", cli.learn, "nobody", {a = 1}, 1)
fails("no stats", cli.stats, "nobody at all")
fails("nothing to delete", cli.delete_model, "nobody at all")
fails("text as a number", cli.learn, "numbers", {a = "text"}, 1)
fails("nothing to download", cli.download_model, "nobody at all", path)

cli:upload_model(MODELS[1][3], "regression", "watched")
do
  local stream = cli:stream_events{kind = "learn", model = "watched", limit = 3}
  -- until the stream has seen enough: a real server does not say when it has begun
  local teacher <close> = task.spawn(function()   -- luacheck: ignore 211
    while true do
      cli:learn("watched", {a = 1.5, ["ü"] = 2}, 2.5)
      task.sleep(0.02)
    end
  end)
  for event in stream do
    say("event", {event.kind, event.model, event.features, event.ground_truth, math.type(event.prediction)})
  end
end

for _, name in ipairs(cli:models().models) do
  say("there was", name)
  say("deleted", cli:delete_model(name))
end
say("left", #cli:models().models)
