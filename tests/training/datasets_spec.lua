--- Rows: what can be done with them, files, and data sets of the hub with its faults, its cache and its tokens.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "rest_support.lua")
local datasets = require "training.datasets"
local errors = require "riverlua.errors"
local json = require "riverlua.json"
local task = require "riverlua.task"

local check_error, error_of, servers = support.check_error, support.error_of, support.servers

local function write(name, bytes)
  local file <close> = assert(io.open(name, "wb"))
  file:write(bytes)
end

local function numbers(n)
  local list = {}
  for i = 1, n do list[i] = {x = i, text = "t" .. i} end
  return datasets.from(list)
end

local function xs(rows) return rows:column("x") end

describe("rows", function()
  local rows
  before_each(function() rows = numbers(10) end)

  it("are a list of tables", function()
    assert.equal(10, #rows)
    assert.equal(3, rows[3].x)
    assert.is_nil(rows[0])
    assert.is_nil(rows[11])
    local seen = {}
    for i, row in ipairs(rows) do seen[i] = row.x end
    assert.equal(10, #seen)
    seen = 0
    for _, row in pairs(rows) do seen = seen + row.x end
    assert.equal(55, seen)
    assert.equal(2, select("#", table.unpack(rows, 1, 2)))
    assert.equal("training.Rows(10 rows: text, x)", tostring(rows))
    assert.is_true(datasets.is(rows))
    assert.is_false(datasets.is({}))
    assert.equal(10, #rows:table())
    check_error(error_of(function() rows[1] = {} end), "argument", "cannot be set")
    assert.same({n = 10, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, task.map(rows, function(row) return row.x + 1 end))
  end)

  it("have columns", function()
    assert.same({1, 2, 3}, rows:take(3).x)
    assert.same({"t1", "t2"}, rows:take(2)["text"])
    assert.same({"text", "x"}, rows:columns())
    assert.equal(rows.x, rows.x)
    check_error(error_of(function() return rows.txt end), "argument", "no column and no method 'txt'", "'text'?")
    check_error(error_of(function() return rows.price end), "argument", "columns: text, x")
    assert.is_nil(rows.n)
    assert.is_nil(rows.__name)
    local odd = datasets.from{{map = 1, a = 1}, {map = 2}}
    assert.equal("function", type(odd.map))
    assert.same({1, 2}, odd:column("map"))
    check_error(error_of(odd.column, odd, "a"), "argument", "row 2 has no 'a'", 'rows:column("a", default)')
    assert.same({1, json.null}, odd:column("a", json.null))
    assert.same({1, false}, odd:column("a", false))
    assert.same({0, 0}, odd:column("new", 0))
    check_error(error_of(odd.column, odd, "new"), "argument", "no column")
    check_error(error_of(datasets.from, {1}), "argument", "row 1 is a number")
  end)

  it("are chosen from", function()
    assert.same({5, 1, 5}, xs(rows:select{5, 1, 5}))
    assert.same({2, 3, 4}, xs(rows:select(2, 4)))
    assert.same({}, rows:select({}):table())
    check_error(error_of(rows.select, rows, {0}), "argument", "no row 0, only 1 to 10", "counted from 1")
    check_error(error_of(rows.select, rows, {11}), "argument", "no row 11")
    check_error(error_of(rows.select, rows, {1.5}), "argument", "integer")
    check_error(error_of(rows.select, rows, 3), "argument", "'last'")
    check_error(error_of(rows.select, rows, "x"), "argument", "list of row numbers")
    assert.same({9, 10}, xs(rows:slice(-2)))
    assert.same({1, 2}, xs(rows:slice(-20, 2)))
    assert.equal(0, #rows:slice(5, 4))
    assert.equal(10, #rows:slice(1, 100))
    assert.same({1, 2}, xs(rows:take(2)))
    assert.equal(10, #rows:take(100))
    assert.same({9, 10}, xs(rows:skip(8)))
    assert.equal(0, #rows:skip(100))
    check_error(error_of(rows.take, rows, -1), "argument", "negative")
    check_error(error_of(rows.take, rows), "argument", "got nothing")
    check_error(error_of(rows.take, 3), "argument", "colon")
    assert.equal(10, #rows)
  end)

  it("are mapped and filtered", function()
    local doubled = rows:map(function(row, i) return {y = row.x * i} end)
    assert.same({1, 4}, doubled:take(2).y)
    assert.same({"y"}, doubled:columns())
    assert.same({2, 4, 6, 8, 10}, xs(rows:filter(function(row) return row.x % 2 == 0 end)))
    check_error(error_of(rows.map, rows, function() end), "argument", "nothing for row 1")
    check_error(error_of(rows.map, rows, 3), "argument", "'fn'")
  end)

  it("are shuffled as Python does it", function()
    local pipe = assert(io.popen(servers.python() .. " -c 'import random; l=list(range(1,11)); "
      .. "random.Random(42).shuffle(l); print(l)'"))
    local wanted = json.decode(pipe:read("a"))
    pipe:close()
    assert.same(wanted, json.array(xs(rows:shuffle(42))))
    assert.same(xs(rows:shuffle(7)), xs(rows:shuffle(7)))
    assert.same({1, 2, 3}, xs(rows:take(3)))
    check_error(error_of(rows.shuffle, rows), "argument", "'seed'")
  end)

  it("come in batches, from any batch on", function()
    local function sizes(n, options)
      local list = {}
      for step, batch in rows:batches(n, options) do list[#list + 1] = step .. ":" .. table.concat(batch.x, ",") end
      return list
    end
    assert.same({"1:1,2,3,4", "2:5,6,7,8", "3:9,10"}, sizes(4))
    assert.same({"1:1,2,3,4", "2:5,6,7,8"}, sizes(4, {drop_last = true}))
    assert.same({"2:5,6,7,8", "3:9,10"}, sizes(4, {first = 2}))
    assert.same({}, sizes(4, {first = 4}))
    assert.same({"1:1,2,3,4,5,6,7,8,9,10"}, sizes(100))
    check_error(error_of(rows.batches, rows, 0), "argument", "at least one")
    check_error(error_of(rows.batches, rows, 2, {frist = 1}), "argument", "did you mean 'first'?")
    check_error(error_of(rows.batches, rows, 2, {first = 0}), "argument", "at least 1")
  end)
end)

describe("files", function()
  local folder
  before_each(function()
    folder = support.new_folder()
    assert(os.execute("mkdir " .. folder))
  end)
  after_each(function() support.remove(folder) end)

  it("are read by their names", function()
    local lines = '{"q": "a", "gone": null, "deep": {"x": null, "l": [null]}}\n\n{"q": "b"}\n'
    write(folder .. "/rows.jsonl", lines)
    local rows = datasets.load(folder .. "/rows.jsonl")
    assert.same({"a", "b"}, rows.q)
    assert.is_nil(rows[1].gone)
    assert.same({l = {json.null}}, rows[1].deep)
    assert.equal(folder .. "/rows.jsonl", rows:info().source)
    assert(os.execute("gzip " .. folder .. "/rows.jsonl"))
    assert.same({"a", "b"}, datasets.load(folder .. "/rows.jsonl.gz").q)
    write(folder .. "/rows.json", '\xef\xbb\xbf [{"q": 1, "z": null}, {"q": 2}]')
    rows = datasets.load(folder .. "/rows.json")
    assert.same({1, 2}, rows.q)
    assert.is_nil(rows[1].z)
    write(folder .. "/rows.json", lines)
    assert.same({"a", "b"}, datasets.load(folder .. "/rows.json").q)
    write(folder .. "/rows.csv", 'q,n\n"a, b",1\nc,2\n')
    assert.same({{q = "a, b", n = 1}, {q = "c", n = 2}}, datasets.load(folder .. "/rows.csv"):table())
    write(folder .. "/rows.tsv", "q\tn\na,b\t1\n")
    assert.same({{q = "a,b", n = 1}}, datasets.load(folder .. "/rows.tsv"):table())
    write(folder .. "/rows", lines)
    assert.same({"a", "b"}, datasets.load(folder .. "/rows", {format = "jsonl"}).q)
    assert.same({{q = "1"}}, datasets.load({text = "q\n1\n"}, {format = "csv", types = {q = "string"}}):table())
  end)

  it("are bounded", function()
    write(folder .. "/rows.jsonl", ('{"x": 1}\n'):rep(50))
    write(folder .. "/rows.json", "[" .. ('{"x": 1},'):rep(49) .. '{"x": 1}]')
    for _, name in ipairs{"/rows.jsonl", "/rows.json"} do
      assert.equal(7, #datasets.load(folder .. name, {limit = 7}))
      check_error(error_of(datasets.load, folder .. name, {max_rows = 49}), "limit", "more than 49 rows", "limit =")
      assert.equal(50, #datasets.load(folder .. name, {max_rows = 50}))
    end
  end)

  it("that are not right are refused", function()
    write(folder .. "/rows.jsonl", '{"x": 1}\n[1]\n')
    check_error(error_of(datasets.load, folder .. "/rows.jsonl"), "protocol", "line 2", "no object")
    write(folder .. "/rows.json", '[{"x": 1}, 3]')
    check_error(error_of(datasets.load, folder .. "/rows.json"), "protocol", "element 2 is no object")
    write(folder .. "/rows.json", "[{]")
    check_error(error_of(datasets.load, folder .. "/rows.json"), "protocol", "rows.json")
    check_error(error_of(datasets.load, folder .. "/none.csv"), "argument", "cannot read")
    check_error(error_of(datasets.load, "./none"), "argument", "what format")
    check_error(error_of(datasets.load, "no such thing"), "argument", "no file that can be read")
    check_error(error_of(datasets.load, folder .. "/rows.csv", {target = "x"}), "argument", "target")
    check_error(error_of(datasets.load, folder .. "/rows.csv", "main"), "argument", "of the hub")
    check_error(error_of(datasets.load, {text = "x"}), "argument", "what format")
    check_error(error_of(datasets.load, 3), "argument", "'source'")
    check_error(error_of(datasets.load, "x.jsonl", {format = "parquet"}), "argument", "'format' must be")
  end)
end)

describe("the hub", function()
  local server, cache
  setup(function() server = support.start() end)
  teardown(function() server:close() end)
  before_each(function()
    server:reset()
    cache = support.new_folder()
  end)
  after_each(function() support.remove(cache) end)

  local function load(name, options)
    local all = {server = server:url(), cache = cache}
    for key, value in pairs(options or {}) do all[key] = value end
    return datasets.load(name, all)
  end

  local function requests(path) return #server:log(path or "/") end

  local GSM = "openai/gsm8k"
  local MAIN = {config = "main", split = "train"}

  local function with(more)
    local all = {config = "main", split = "train"}
    for key, value in pairs(more) do all[key] = value end
    return all
  end

  it("gives all rows, page by page, once", function()
    local rows = load(GSM, MAIN)
    assert.equal(250, #rows)
    for i = 1, 250 do
      assert.equal(("Ada has %d apples and buys %d more. How many? é\u{2028}"):format(i - 1, i), rows[i].question)
    end
    assert.same({"question", "answer"}, rows:columns())
    local info = rows:info()
    assert.same({GSM, "main", "train", "rev-1", 250, false}, {info.source, info.config, info.split, info.revision,
      info.total, info.cached})
    local paths = {}
    for _, request in ipairs(server:log()) do
      assert.equal("GET", request.method)
      paths[#paths + 1] = request.path
    end
    table.sort(paths)
    assert.same({"/rows?config=main&dataset=openai%2Fgsm8k&length=100&offset=0&split=train",
      "/rows?config=main&dataset=openai%2Fgsm8k&length=100&offset=100&split=train",
      "/rows?config=main&dataset=openai%2Fgsm8k&length=100&offset=200&split=train"}, paths)
    local again = load(GSM, MAIN)
    assert.same(rows:table(), again:table())
    assert.is_true(again:info().cached)
    assert.equal(3, requests())
  end)

  it("is asked as Python asks", function()
    local rows = datasets.load(GSM, "main", {split = "test", server = server:url(), cache = cache})
    assert.equal(5, #rows)
    assert.equal("1000", rows[1].question:match("%d+"))
    check_error(error_of(datasets.load, GSM, "main", {config = "main"}), "argument", "given twice")
  end)

  it("chooses what need not be said", function()
    assert.equal(2, #load("some/single"))
    assert.equal(250, #load(GSM, {config = "main"}))
    check_error(error_of(load, GSM), "argument", "has several configs", 'config = "main" or "socratic"')
    check_error(error_of(load, GSM, {config = "man"}), "not_found", "no config 'man'", "did you mean 'main'?")
    assert.equal(1, requests("/splits?dataset=some%2Fsingle"))
    assert.equal(1, requests("/splits?dataset=openai%2Fgsm8k"))
  end)

  it("gives values as they are", function()
    local rows = load("some/single")
    local wanted = {{id = 9007199254740993, score = 0.1, tags = {}, nested = {b = {1, json.null}}},
      {id = -1, score = 1e300, tags = {"x", "é"}, nested = {a = 1, b = {}}, gone = "here"}}
    assert.same(wanted, rows:table())
    assert.equal("integer", math.type(rows[1].id))
    assert.same(wanted, load("some/single"):table())
    assert.same(wanted, load("some/single", {cache = false}):table())
    assert.equal(0, #load("some/empty"))
    assert.same({"x"}, load("some/empty"):columns())
    assert.is_true(load("some/partial"):info().partial)
  end)

  it("gives the first rows only, and later the others", function()
    assert.equal(120, #load(GSM, with{limit = 120}))
    assert.equal(2, requests())
    assert.equal(90, #load(GSM, with{limit = 90}))
    assert.equal(2, requests())
    assert.equal(250, #load(GSM, MAIN))
    assert.equal(3, requests())
    check_error(error_of(load, GSM, with{max_rows = 249}), "limit", "250 rows, and at most 249", "limit =")
    assert.equal(10, #load(GSM, with{max_rows = 249, limit = 10}))
    check_error(error_of(load, GSM, with{limit = 0}), "argument", "at least 1")
  end)

  it("goes on where a download was cut off", function()
    server:control("/fault", {path = "/rows", kind = "status", after = 2, times = 1})
    check_error(error_of(load, GSM, with{concurrency = 1, attempts = 1}), "server", "datasets.load 'openai/gsm8k'")
    assert.equal(3, requests())
    assert.equal(250, #load(GSM, MAIN))
    assert.equal(4, requests())
  end)

  it("is asked again after what passes", function()
    server:control("/fault", {path = "/rows", kind = "status", status = 429, retry_after = "0", times = 2})
    server:control("/fault", {path = "/rows", kind = "status", status = 500, retry_after = "0", times = 1})
    assert.equal(250, #load(GSM, MAIN))
    assert.equal(6, requests())
    server:control("/fault", {path = "/rows", kind = "status", status = 503, retry_after = "0", times = 50})
    local err = check_error(error_of(load, GSM, with{refresh = true, attempts = 2}), "server", "status 503")
    assert.equal(2, err.attempts)
  end)

  it("that answers nonsense is not believed, and none of it is kept", function()
    for kind, text in pairs{garbage = "not JSON", list = "no JSON object", short = "a page of 99 rows at 0, not 100",
      offset = "is not row 0"} do
      server:control("/fault", {path = "/rows", kind = kind})
      check_error(error_of(load, GSM, MAIN), "protocol", text)
    end
    for _, body in ipairs{"{}", '{"num_rows_total": -1, "rows": []}', '{"num_rows_total": 1, "rows": [{"row_idx": 0}]}',
      '{"num_rows_total": 1, "rows": [{"row_idx": 0, "row": []}]}', '{"num_rows_total": "1", "rows": []}',
      '{"num_rows_total": 0, "rows": [], "features": [1]}'} do
      server:control("/fault", {path = "/rows", kind = "status", status = 200, body = body})
      check_error(error_of(load, GSM, MAIN), "protocol")
    end
    for _, body in ipairs{"{}", '{"splits": [1]}', '{"splits": [{"config": "a"}]}'} do
      server:control("/fault", {path = "/splits", kind = "status", status = 200, body = body})
      check_error(error_of(load, GSM, {config = "main"}), "protocol", "split")
    end
    assert.equal(250, #load(GSM, MAIN))
  end)

  it("is begun anew when the data set changes meanwhile", function()
    server:control("/fault", {path = "/rows", kind = "revision", after = 2})
    assert.equal(250, #load(GSM, with{concurrency = 1}))
    assert.equal(6, requests())
    server:reset()
    server:control("/fault", {path = "/rows", kind = "revision", after = 1})
    server:control("/fault", {path = "/rows", kind = "revision", after = 2})
    local err = check_error(error_of(load, GSM, with{concurrency = 1, refresh = true}), "protocol", "changed while")
    assert.is_true(err.retryable)
  end)

  it("does not pass off rows that were cut short", function()
    check_error(error_of(load, "some/cut"), "limit", "cut row 2 short, in 'x'", 'truncated = "keep"')
    assert.equal(7, #load("some/cut", {truncated = "keep"}))
    local before = requests()
    assert.equal(7, #load("some/cut", {truncated = "keep"}))
    assert.equal(before, requests())
    check_error(error_of(load, "some/cut"), "limit", "cut row 2 short")   -- nor those that were kept
    check_error(error_of(load, "some/cut", {truncated = "no"}), "argument", "truncated is")
  end)

  it("is not needed for what is in the cache", function()
    check_error(error_of(load, GSM, with{offline = true}), "not_found", "not all of it is in the cache")
    load(GSM, {config = "main"})
    local before = requests()
    assert.equal(250, #load(GSM, {config = "main", offline = true, refresh = true}))
    assert.equal(before, requests())
    local script = ([[
      local rows = require("training.datasets").load("openai/gsm8k", "main", {cache = %q, server = %q})
      print(#rows)
    ]]):format(cache, server:url())
    for _, name in ipairs{"HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE"} do
      local result = servers.run(script, {environment = {[name] = "1"}})
      assert.equal("250\n", result.out, result.err)
    end
    assert.equal(before, requests())
    assert.equal(250, #load(GSM, with{refresh = true}))
    assert.equal(before + 3, requests())
  end)

  it("is asked anew for pages that are damaged", function()
    local rows = load(GSM, MAIN)
    local place = rows:info().folder
    local page = place .. "/rows-000000100.json"
    local good = servers.read_file(page)
    for _, bytes in ipairs{"", good:sub(1, -2), good .. " ", (good:gsub("Ada", "Eva", 1)), "{}\n[]", '{"format": 1}',
      (good:gsub("\"version\":1", "\"version\":2", 1))} do
      write(page, bytes)
      local before = requests()
      assert.same(rows:table(), load(GSM, MAIN):table())
      assert.equal(before + 1, requests())
      assert.equal(good, servers.read_file(page))
    end
    write(place .. "/info.json", "x")
    assert.same(rows:table(), load(GSM, MAIN):table())
    write(page, "x")
    check_error(error_of(load, GSM, with{offline = true}), "not_found")
  end)

  it("is asked once by tasks, and by processes, that want the same", function()
    local all = task.map({1, 2, 3}, function() return #load(GSM, MAIN) end)
    assert.same({250, 250, 250, n = 3}, all)
    assert.equal(3, requests())
  end)

  it("is told by a folder that cannot be used", function()
    write(cache, "a file")
    local err = error_of(load, GSM, MAIN)
    check_error(err, "storage", "the cache of data sets cannot be used", "cache = false")
    assert.equal(250, #load(GSM, with{cache = false}))
  end)

  it("keeps its files where they belong", function()
    local place = load(GSM, MAIN):info().folder
    assert.equal(cache, place:sub(1, #cache))
    assert.truthy(place:find("openai--gsm8k/main/train", 1, true))
    local script = ([[
      local rows = require("training.datasets").load("some/single", {server = %q})
      print(rows:info().folder)
    ]]):format(server:url())
    local result = servers.run(script, {environment = {XDG_CACHE_HOME = cache .. "/xdg"}})
    assert.equal(cache .. "/xdg/riverlua/datasets/", result.out:sub(1, #cache + 23), result.err)
    result = servers.run(script, {environment = {XDG_CACHE_HOME = "", HOME = cache .. "/home"}})
    assert.equal(cache .. "/home/.cache/riverlua/", result.out:sub(1, #cache + 22), result.err)
    -- names that would lead elsewhere
    check_error(error_of(load, "some/single", {config = "../../..", split = ".."}), "not_found")
    assert.equal("/c/%2E.--../%2E./%2E/a%25%20b", require("training.dataset_cache").of("/c", "../..", "..", ".",
      "a% b").path)
  end)

  describe("and tokens", function()
    local function authorizations(path)
      local all = {}
      for i, request in ipairs(server:log(path)) do all[i] = support.headers_of(request).authorization or "none" end
      return all
    end

    it("are needed for private data sets, and said so", function()
      check_error(error_of(load, "private/rows"), "not_found", "does not exist, or is not accessible", "HF_TOKEN")
      check_error(error_of(load, "some/none"), "auth", "does not exist", "HF_TOKEN")
      local rows = load("private/rows", {token = "hub-token"})
      assert.same({0, 1, 2}, rows.secret)
      local sent = authorizations()
      assert.equal("Bearer hub-token", sent[#sent])
      for _, name in ipairs(require("riverlua.core.folder").list(rows:info().folder)) do
        assert.is_nil(servers.read_file(rows:info().folder .. "/" .. name):find("hub-token", 1, true))
      end
    end)

    it("of the environment do not go to other servers", function()
      local script = ([[
        local load = require("training.datasets").load
        print(#load("some/single", {cache = false}))
        print(pcall(load, "some/single", {cache = false, token = "mine-is-secret"}))
        print(#load("some/partial", {cache = false, server = %q, token = false}))
      ]]):format(server:url())
      local result = servers.run(script, {environment = {HF_TOKEN = "env-token", HF_DATASETS_SERVER = server:url()}})
      assert.truthy(result.out:find("^2\nfalse\t.*the token is not sent.*\n7\n$"), result.out .. result.err)
      assert.is_nil(result.out:find("mine", 1, true))
      for _, sent in ipairs(authorizations()) do assert.equal("none", sent) end
    end)

    it("go to the hub's own host, over https", function()
      local seen = {}
      local transport = {request = function(_, req)
        seen[#seen + 1] = req.headers.Authorization or "none"
        errors.raise{kind = "tls", message = "no: Bearer env-token-7"}
      end}
      local function hub_asked(address)
        local script = ([[
          local errors = require "riverlua.errors"
          local transport = {request = function(_, req)
            print(req.headers.Authorization)
            errors.raise{kind = "tls", message = "no: Bearer env-token-7"}
          end}
          print(pcall(require("training.datasets").load, "a/b", {cache = false, transport = transport, server = %s}))
        ]]):format(address and ("%q"):format(address) or "nil")
        return servers.run(script, {environment = {HF_TOKEN = " env-token-7\n"}}).out
      end
      local out = hub_asked(nil)
      assert.truthy(out:find("^Bearer env%-token%-7\nfalse\ttls: .*Bearer %*%*%*\n$"), out)
      for _, address in ipairs{"http://datasets-server.huggingface.co", "https://huggingface.co.example.com",
        "https://example.com/huggingface.co", "https://evilhuggingface.co", "https://huggingface.co@example.com"} do
        assert.truthy(hub_asked(address):find("^nil\n"), address)
      end
      check_error(error_of(datasets.load, "a/b", {transport = transport, cache = false, token = "t t"}), "argument",
        "spaces")
      local options = {transport = transport, cache = false, token = "explicit-token"}
      check_error(error_of(datasets.load, "a/b", options), "tls")
      assert.same({"Bearer explicit-token"}, seen)
    end)
  end)

  it("takes no wrong options", function()
    check_error(error_of(load, GSM, {splt = "train"}), "argument", "did you mean 'split'?")
    check_error(error_of(load, GSM, {server = "ftp://user:pass@x"}), "argument", "'server'")
    check_error(error_of(load, GSM, {split = ""}), "argument", "'split' is empty")
    check_error(error_of(load, GSM, {offline = 1}), "argument", "'offline'")
    check_error(error_of(load, "a/b/c"), "argument", "no name of the hub")
    check_error(error_of(load, "a/../b"), "argument", "no name of the hub")
    assert.equal(0, requests())
  end)
end)
