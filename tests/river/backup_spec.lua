-- Backups, copies and checkpoints.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
local support = dofile(folder .. "support.lua")
local json = require "riverlua.json"
local river = require "river"

local function failure_of(kind, call, ...)
  local err = support.error_of(call, ...)
  assert.equal(kind, err.kind, tostring(err))
  return err
end

local function read(path)
  local file = assert(io.open(path, "rb"))
  local bytes = file:read("a")
  file:close()
  return bytes
end

local function regression()
  return river.preprocessing.StandardScaler() | river.linear_model.LinearRegression()
end

local function logistic()
  return river.preprocessing.StandardScaler() | river.linear_model.LogisticRegression()
end

describe("a backup", function()
  local server, cli, place

  setup(function() server = support.start_server() end)
  teardown(function() server.stop() end)
  before_each(function()
    cli = river.Client(server.url)
    place = support.temporary_name()
    for _, name in ipairs(cli:models().models) do cli:delete_model(name) end
    cli:upload_model(regression(), "regression", "Prices")
    cli:upload_model(logistic(), "binary", "a/b c é" and "größe %2e ..")
    for step = 1, 20 do
      cli:learn("Prices", {a = step % 5, b = 1}, step % 7)
      cli:learn("größe %2e ..", {a = step % 5}, step % 2 == 0)
    end
  end)
  after_each(function()
    cli:close()
    os.execute("rm -rf " .. support.quote(place))
  end)

  it("holds every model, its metrics and flavor, and brings them back", function()
    local before = {cli:predict("Prices", {a = 3, b = 1}).prediction, cli:predict("größe %2e ..", {a = 3}).prediction}
    local metrics = cli:metrics("Prices")
    local manifest = cli:backup(place .. "/deep/er")
    place = place .. "/deep/er"
    assert.equal(2, #manifest.models)
    local written = json.decode(read(place .. "/manifest.json"))
    assert.equal("Prices", written.models[1].name)
    assert.equal("regression", written.models[1].flavor)
    assert.equal("binary", written.models[2].flavor)
    assert.equal(metrics.MAE, written.models[1].metrics.MAE)
    assert.equal(#read(place .. "/" .. written.models[1].file), written.models[1].bytes)
    failure_of("argument", cli.restore, cli, place)
    for _, name in ipairs(cli:models().models) do cli:delete_model(name) end
    -- another client, which knows no flavors
    local other <close> = river.Client(server.url)
    assert.same({"Prices", "größe %2e .."}, other:restore(place))
    assert.same(before, {other:predict("Prices", {a = 3, b = 1}).prediction,
      other:predict("größe %2e ..", {a = 3}).prediction})
    other:learn("größe %2e ..", {a = 1}, true)
    assert.same({"Prices"}, other:restore(place, {models = {"Prices"}, replace = true}))
    failure_of("argument", other.restore, other, place, {models = {"nope"}})
    failure_of("argument", other.restore, other, place, {modles = {}})
  end)

  it("does without flavors that nobody knows until they are needed", function()
    local stranger <close> = river.Client(server.url)
    local manifest = stranger:backup(place, {models = {"Prices"}})
    assert.is_nil(manifest.models[1].flavor)
    cli:delete_model("Prices")
    local err = failure_of("argument", stranger.restore, stranger, place)
    assert.truthy(err.message:find("the flavor of 'Prices' is not known", 1, true))
    assert.truthy(err.hint:find('{flavors = {["Prices"] = "regression"}}', 1, true))
    assert.same({"größe %2e .."}, stranger:models().models)
    assert.same({"Prices"}, stranger:restore(place, {flavors = {Prices = "regression"}}))
    stranger:backup(place, {flavor = "regression", models = {"Prices"}})
    assert.equal("regression", json.decode(read(place .. "/manifest.json")).models[1].flavor)
  end)

  it("says what is wrong with a folder", function()
    failure_of("argument", cli.restore, cli, place)
    failure_of("argument", cli.backup, cli, nil)
    failure_of("argument", cli.backup, cli, "/proc/nowhere")
    failure_of("argument", cli.backup, cli, place, {models = "Prices"})
    failure_of("argument", cli.restore, cli, place, {models = "Prices"})
    cli:backup(place)
    for _, text in ipairs{"", "{", '{"format":"other"}', '{"format":"riverlua-backup","models":[1]}',
      '{"format":"riverlua-backup","models":[{"name":"x","file":"../x","flavor":"regression"}]}'} do
      local file = assert(io.open(place .. "/manifest.json", "wb"))
      file:write(text)
      file:close()
      failure_of("argument", cli.restore, cli, place, {replace = true})
    end
  end)

  it("a model is copied to another server, and to the service in this process", function()
    local other <close> = river.Client("embedded:")
    assert.equal("Prices", cli:copy("Prices", other))
    assert.equal("here", other:copy("Prices", cli, {name = "here"}))
    for step = 1, 5 do
      local x = {a = step, b = 2}
      local expected = cli:predict("Prices", x).prediction
      assert.equal(expected, other:predict("Prices", x).prediction)
      assert.equal(expected, cli:predict("here", x).prediction)
    end
    failure_of("argument", cli.copy, cli, "Prices", cli)
    failure_of("argument", cli.copy, cli, "Prices", "http://elsewhere")
    failure_of("not_found", cli.copy, cli, "nope", other, {flavor = "regression"})
  end)

  it("what only riverlua can read is not sent to another server", function()
    local other <close> = river.Client("embedded:")
    other:upload_model(river.tree.HoeffdingTreeRegressor(), "regression", "tree")
    local err = failure_of("unsupported", other.copy, other, "tree", cli)
    assert.truthy(err.message:find("snapshot", 1, true))
    assert.same({"Prices", "größe %2e .."}, cli:models().models)
    local third <close> = river.Client("embedded:")
    assert.equal("tree", other:copy("tree", third))
  end)

  it("checkpoints end quietly when their model has been deleted", function()
    cli:upload_model(river.linear_model.LinearRegression(), "regression", "short-lived")
    local checkpoints = cli:checkpoint_every("short-lived", {learns = 100, path = place .. ".pkl"})
    cli:learn("short-lived", {a = 1}, 2)
    cli:delete_model("short-lived")
    checkpoints:close()
    assert.is_nil(io.open(place .. ".pkl"))
  end)

  it("checkpoints follow the learns, whole and so many of them", function()
    local path = place .. ".pkl"
    local checkpoints = cli:checkpoint_every("Prices", {learns = 10, path = path, keep = 3})
    local kept = {}
    for round = 1, 5 do
      for step = 1, 10 do cli:learn("Prices", {a = step, b = round}, step) end
      assert.equal(round, checkpoints.saved)
      kept[round] = read(path)
      assert.equal(kept[round], cli._internal.download(cli, "Prices"))
    end
    assert.equal(kept[4], read(path .. ".1"))
    assert.equal(kept[3], read(path .. ".2"))
    assert.is_nil(io.open(path .. ".3"))
    -- other ways to learn count too
    cli:learn_many("Prices", {{{a = 1, b = 1}, 1}, {{a = 2, b = 1}, 2}})
    cli:predict("Prices", {a = 1, b = 1}, {identifier = true}):label(3)
    cli:predict("Prices", {a = 1, b = 1}, {identifier = true}):label(0)
    for step = 1, 6 do cli:learn("Prices", {a = step, b = 1}, step) end
    assert.equal(6, checkpoints.saved)
    cli:learn("größe %2e ..", {a = 1}, true)
    checkpoints:close()
    checkpoints:close()
    assert.equal(6, checkpoints.saved)
    for step = 1, 20 do cli:learn("Prices", {a = step, b = 1}, step) end
    assert.equal(6, checkpoints.saved)
    do
      local last <close> = cli:checkpoint_every("Prices", {learns = 1000, path = path})
      cli:learn("Prices", {a = 1, b = 1}, 1)
      assert.equal(0, last.saved)
    end
    assert.equal(read(path), cli._internal.download(cli, "Prices"))
    local timed = cli:checkpoint_every("Prices", {seconds = 1e-9, path = path})
    cli:learn("Prices", {a = 1, b = 1}, 1)
    assert.equal(1, timed.saved)
    timed:close()
    for _, name in ipairs{path, path .. ".1", path .. ".2"} do os.remove(name) end
    for _, options in ipairs{{}, {learns = 0}, {seconds = 0}, {learns = 1, keep = 0}, {learns = 1.5}, {lerns = 1}} do
      failure_of("argument", cli.checkpoint_every, cli, "Prices", options)
    end
    local nowhere = cli:checkpoint_every("Prices", {learns = 1, path = "/nowhere/at/all.pkl"})
    assert.truthy(failure_of("argument", cli.learn, cli, "Prices", {a = 1, b = 1}, 1).message:find("cannot write", 1,
      true))
    failure_of("argument", nowhere.close, nowhere)
  end)
end)
