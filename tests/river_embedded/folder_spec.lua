-- Models that are kept in a folder: nothing is lost when the process is killed, and damage is told.

local support = dofile("tests/river_embedded/support.lua")
local errors = require "riverlua.errors"
local folder = require "riverlua.core.folder"
local river = require "river"

local function temporary_folder()
  local name = os.tmpname()
  os.remove(name)
  return name
end

local function remove(path)
  assert(os.execute("rm -rf '" .. path .. "'"))
end

local function linear() return river.preprocessing.StandardScaler() | river.linear_model.LinearRegression() end

local function logistic() return river.preprocessing.StandardScaler() | river.linear_model.LogisticRegression() end

local function teach(cli, name, from, to)
  for i = from, to do cli:learn(name, {a = i % 7, b = (i * i) % 11 - 5.5}, 2.0 * (i % 7) - 1) end
end

-- What a process leaves behind that ends without a word: the files as they are, the lock free again.
local function abandoned(path)
  local copy = temporary_folder()
  assert(os.execute(("cp -r '%s' '%s'"):format(path, copy)))
  return copy
end

local SAMPLE = {a = 3, b = 1.5}

describe("embedded:<folder>", function()
  local path
  before_each(function() path = temporary_folder() end)
  after_each(function() remove(path) end)

  local function open() return river.Client("embedded:" .. path) end

  it("keeps models, metrics and stats between runs", function()
    local first = open()
    local name = first:upload_model(linear(), "regression", "Preise. ä%")
    teach(first, name, 1, 50)
    local expected, metrics = first:predict(name, SAMPLE).prediction, first:metrics(name)
    first:close()
    local second <close> = open()
    assert.same({"Preise. ä%"}, second:models().models)
    assert.equal(expected, second:predict(name, SAMPLE).prediction)
    assert.same(metrics, second:metrics(name))
    assert.equal(50, second:stats(name).learn.n_calls)
  end)

  it("loses no learn of a process that is killed", function()
    local cli <close> = open()
    local name = cli:upload_model(linear(), "regression", "m")
    teach(cli, name, 1, 40)
    path = (function(old)
      local copy = abandoned(old)
      finally(function() remove(old) end)
      return copy
    end)(path)
    local again <close> = river.Client("embedded:" .. path)
    assert.equal(cli:predict(name, SAMPLE).prediction, again:predict(name, SAMPLE).prediction)
    assert.same(cli:metrics(name), again:metrics(name))
    -- and goes on as if nothing had happened
    teach(cli, name, 41, 60)
    teach(again, name, 41, 60)
    assert.equal(cli:predict(name, SAMPLE).prediction, again:predict(name, SAMPLE).prediction)
  end)

  it("survives a journal that ends in the middle of a line", function()
    local cli = open()
    local name = cli:upload_model(linear(), "regression", "m")
    teach(cli, name, 1, 10)
    local before = abandoned(path)
    cli:close()
    local journal = support.read_file(before .. "/journal.jsonl")
    for _, cut in ipairs{2, 5, 60} do
      local copy = abandoned(before)
      support.write_file(copy .. "/journal.jsonl", journal:sub(1, -1 - cut))
      local again = river.Client("embedded:" .. copy)
      assert.equal(9, again:stats(name).learn.n_calls)
      teach(again, name, 10, 10)
      local value = again:predict(name, SAMPLE).prediction
      again:close()
      local third = river.Client("embedded:" .. copy)
      assert.equal(value, third:predict(name, SAMPLE).prediction)
      third:close()
      remove(copy)
    end
    remove(before)
  end)

  it("goes on after a line that was never finished, and after a time without space", function()
    for _, rubbish in ipairs{'{"kind":"learn","model":"m","fea', '{"kind":"le\n\n', "\0\xff\n"} do
      local copy = temporary_folder()
      assert(folder.make(copy))
      support.write_file(copy .. "/journal.jsonl", rubbish)
      local cli = river.Client("embedded:" .. copy)
      cli:upload_model(linear(), "regression", "m")
      teach(cli, "m", 1, 10)
      local killed = abandoned(copy)
      local again = river.Client("embedded:" .. killed)
      assert.equal(10, again:stats("m").learn.n_calls)
      again:close()
      cli:close()
      remove(killed)
      remove(copy)
    end
  end)

  it("learns nothing that it cannot write down, and says so", function()
    local cli = open()
    cli:upload_model(linear(), "regression", "m")
    teach(cli, "m", 1, 10)
    local before = cli:predict("m", SAMPLE).prediction
    -- a journal that cannot be opened, as good as a full disk
    local journal = path .. "/journal.jsonl"
    cli._transport.keeper.store.journal:close()
    cli._transport.keeper.store.journal = nil
    assert(os.remove(journal))
    assert(folder.make(journal))
    local problem = support.error_of(teach, cli, "m", 11, 11)
    assert.is_true(errors.is(problem, "storage"), tostring(problem))
    assert.equal(before, cli:predict("m", SAMPLE).prediction)
    assert(os.remove(journal))
    teach(cli, "m", 11, 20)
    local copy = abandoned(path)
    local again = river.Client("embedded:" .. copy)
    -- a call that failed is a call
    assert.equal(21, again:stats("m").learn.n_calls)
    assert.equal(cli:predict("m", SAMPLE).prediction, again:predict("m", SAMPLE).prediction)
    again:close()
    cli:close()
    remove(copy)
  end)

  it("repeats nothing twice when it was stopped between two files", function()
    local cli = open()
    local name = cli:upload_model(linear(), "regression", "m")
    teach(cli, name, 1, 25)
    local journal = support.read_file(path .. "/journal.jsonl")
    local expected = cli:predict(name, SAMPLE).prediction
    cli:close()
    -- the model was saved, the journal not yet emptied
    support.write_file(path .. "/journal.jsonl", journal)
    local again <close> = open()
    assert.equal(expected, again:predict(name, SAMPLE).prediction)
    assert.equal(25, again:stats(name).learn.n_calls)
  end)

  it("keeps predictions that wait for a label, of any type", function()
    local cli = open()
    cli:upload_model(logistic(), "binary", "b")
    for i = 1, 20 do cli:learn("b", {x = i % 5, y = i % 3}, i % 5 > 2) end
    cli:predict("b", {x = 1, y = 2}, {identifier = "later"})
    local copy = abandoned(path)
    local again = river.Client("embedded:" .. copy)
    local control = river.Client("embedded:")
    control:upload_model(logistic(), "binary", "b")
    for i = 1, 20 do control:learn("b", {x = i % 5, y = i % 3}, i % 5 > 2) end
    control:predict("b", {x = 1, y = 2}, {identifier = "later"})
    for _, client in ipairs{again, control, cli} do
      client:learn{model = "b", identifier = "later", ground_truth = true}
    end
    assert.same(control:metrics("b"), again:metrics("b"))
    local expected = control:predict("b", {x = 4, y = 1}).prediction
    assert.same(expected, again:predict("b", {x = 4, y = 1}).prediction)
    cli:close()
    local reopened = open()
    assert.same(expected, reopened:predict("b", {x = 4, y = 1}).prediction)
    assert.equal("not_found", support.error_of(reopened.learn, reopened,
      {model = "b", identifier = "later", ground_truth = true}).kind)
    reopened:close()
    again:close()
    control:close()
    remove(copy)
  end)

  it("forgets what was deleted, and a replaced model starts anew", function()
    local cli = open()
    for _, name in ipairs{"gone", "new"} do
      cli:upload_model(linear(), "regression", name)
      teach(cli, name, 1, 10)
    end
    cli:delete_model("gone")
    cli:upload_model(linear(), "regression", "new")
    local copy = abandoned(path)
    local again = river.Client("embedded:" .. copy)
    assert.same({"new"}, again:models().models)
    assert.equal(0, again:stats("new").learn.n_calls)
    again:close()
    remove(copy)
    cli:close()
  end)

  it("belongs to one client at a time", function()
    local first = open()
    local problem = support.error_of(open)
    assert.equal("storage", problem.kind)
    assert.truthy(problem.message:find("in use", 1, true))
    first:close()
    open():close()
  end)

  it("says which file is damaged and changes nothing", function()
    local cli = open()
    cli:upload_model(linear(), "regression", "m")
    cli:close()
    local file = path .. "/m.model"
    local bytes = support.read_file(file)
    for _, damaged in ipairs{"", "x", bytes:sub(1, -10), bytes:sub(1, 40) .. "\xff" .. bytes:sub(42)} do
      support.write_file(file, damaged)
      local problem = support.error_of(open)
      assert.is_true(errors.is(problem, "storage"), tostring(problem))
      assert.truthy(problem.message:find("m.model", 1, true))
      assert.equal(damaged, support.read_file(file))
    end
    support.write_file(file, bytes)
    open():close()
  end)

  it("says why a folder cannot be used", function()
    support.write_file(path, "a file")
    local problem = support.error_of(open)
    assert.is_true(errors.is(problem, "storage"), tostring(problem))
  end)
end)

describe("riverlua.core.folder", function()
  it("makes, lists, replaces and locks", function()
    local root = temporary_folder()
    assert.is_true(folder.make(root .. "/a/b"))
    assert.is_true(folder.make(root .. "/a/b"))
    assert.is_true(folder.replace(root .. "/a/f", "one"))
    assert.is_true(folder.replace(root .. "/a/f", "two\0"))
    assert.equal("two\0", support.read_file(root .. "/a/f"))
    local names = folder.list(root .. "/a")
    table.sort(names)
    assert.same({"b", "f"}, names)
    assert.is_true(folder.sync_file(root .. "/a/f"))
    local lock = folder.lock(root .. "/lock")
    local none, reason = folder.lock(root .. "/lock")
    assert.is_nil(none)
    assert.equal("locked", reason)
    lock:close()
    folder.lock(root .. "/lock"):close()
    remove(root)
    local failed, text = folder.list(root)
    assert.is_nil(failed)
    assert.truthy(text:find(root, 1, true))
    assert.is_nil(folder.replace(root .. "/x", "y"))
    assert.is_nil(folder.sync_file(root .. "/x"))
    assert.is_nil(folder.make("/dev/null/x"))
  end)
end)
