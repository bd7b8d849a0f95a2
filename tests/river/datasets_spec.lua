--- Data sets: CSV and JSON Lines, plain and gzip, their types, their transformations, and what is refused.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local errors = require "riverlua.errors"
local json = require "riverlua.json"
local river = require "river"

local datasets = river.datasets

local function csv(text, options) return datasets.csv({text = text}, options) end

local function write_file(bytes)
  local path = os.tmpname()
  local file = assert(io.open(path, "wb"))
  file:write(bytes)
  file:close()
  return path
end

local function gzip(text)
  local path = write_file(text)
  local pipe = assert(io.popen("gzip -c " .. support.quote(path)))
  local bytes = pipe:read("a")
  assert(pipe:close())
  os.remove(path)
  return bytes
end

-- All samples as {x, y} pairs.
local function all(data)
  local list = {}
  for x, y in data:each() do list[#list + 1] = {x, y} end
  return list
end

local function fails(kind, text, fn)
  local err = support.error_of(fn)
  assert.is_true(errors.is(err, kind), tostring(err))
  assert.truthy(tostring(err):find(text, 1, true), tostring(err))
end

local function csv_fails(text, rows, options)
  fails("protocol", text, function() return all((csv(rows, options))) end)
end

local function open_files()
  local count = 0
  for _ in require("lfs").dir("/proc/self/fd") do count = count + 1 end
  return count
end

describe("CSV text", function()
  it("is split as RFC 4180 says", function()
    local text = 'a,b,c\r\n1,"x, ""q""\r\nnext",2\r\n\r\n3,,""\n4,"z",t'
    assert.same({
      {{a = 1, b = 'x, "q"\r\nnext', c = "2"}}, {{a = 3, c = ""}}, {{a = 4, b = "z", c = "t"}},
    }, all((csv(text))))
  end)

  it("is the same however it is cut", function()
    local text = '\xef\xbb\xbfa,"b ""x""",c\r\n1,"y\r\n""z""",2.5\r\r\n2,"",-1e3\n3,w,0'
    local whole = all((csv(text)))
    local rows = require "river.datasets_csv"
    for size = 1, #text do
      local at = 1
      local reader = rows.rows(function()
        if at > #text then return nil end
        at = at + size
        return text:sub(at - size, at - 1)
      end, {name = "pieces", delimiter = ",", quote = '"'})
      assert.same({"a", 'b "x"', "c"}, (reader:next()))
      local lines = {}
      for fields in reader.next, reader do lines[#lines + 1] = fields end
      assert.same({{"1", 'y\r\n"z"', "2.5"}, {"2", "", "-1e3"}, {"3", "w", "0"}}, lines)
    end
    assert.same({a = 1, ['b "x"'] = 'y\r\n"z"', c = 2.5}, whole[1][1])
  end)

  it("may have another delimiter, no quotes, and no header", function()
    assert.same({{{x = 1, y = '"'}}}, all((csv('1;"\n', {delimiter = ";", quote = false, columns = {"x", "y"}}))))
    assert.same({{{x = 1, y = "a,b"}}}, all((csv("x\ty\n1\ta,b\n", {delimiter = "\t"}))))
    assert.same({{{column_1 = 0, v = 5}}}, all((csv(",v\n0,5\n"))))
  end)

  it("agrees with Python's csv on random texts", function()
    local texts = {}
    math.randomseed(11)
    local cells = {"", "a", '"', ",", "\n", "\r\n", " ", "é", '""', "long text", "x,y"}
    for i = 1, 200 do
      local rows = {"a,b"}
      for row = 1, 5 do
        local line = {}
        for column = 1, 2 do
          local cell = cells[math.random(#cells)] .. cells[math.random(#cells)] .. "."
          line[column] = '"' .. cell:gsub('"', '""') .. '"'
        end
        rows[row + 1] = table.concat(line, ",")
      end
      texts[i] = table.concat(rows, i % 2 == 0 and "\r\n" or "\n")
    end
    local path = write_file(json.encode(texts))
    local answers = support.run_python("csv_rows.py", path)
    os.remove(path)
    assert.equal(#texts, #answers)
    for i, text in ipairs(texts) do
      local rows = {}
      for _, sample in ipairs(all((csv(text)))) do rows[#rows + 1] = {sample[1].a, sample[1].b} end
      assert.same(answers[i].rows, rows)
    end
  end)

  it("that breaks the rules is an error with its line", function()
    csv_fails("the text, line 4: 3 fields, but there are 2 columns", "a,b\n1,2\n\n1,2,3\n")
    csv_fails("line 3: 1 fields", "a,b\n1,2\n1\n")
    csv_fails("line 4: 1 fields", 'a,b\n"1\n",2\n1\n')
    csv_fails("line 2: a quote is not closed", 'a,b\n"1,2\n')
    csv_fails("line 2: text after the closing quote", 'a,b\n"1"x,2\n')
    csv_fails("line 2: a quote inside a field", 'a,b\n1"x",2\n')
    csv_fails("UTF-16", "\xff\xfea\0")
    csv_fails("more than 10 bytes", "a\n12345678901\n", {max_field = 10})
    csv_fails("more than 10 bytes", 'a\n"12345678901"\n', {max_field = 10})
    csv_fails("no UTF-8 text", "a\n\xe9t\xe9\n")
  end)

  it("of one endless field or line ends in an error, not in memory", function()
    local rows = require "river.datasets_csv"
    local piece = ("x"):rep(1 << 16)
    for _, first in ipairs{'a\n"', "a\n", ""} do
      local given = 0
      local err = support.error_of(function()
        local reader = rows.rows(function()
          given = given + 1
          return given == 1 and first .. "x" or piece
        end, {name = "endless", delimiter = ",", quote = '"'})
        while reader:next() do end
      end)
      assert.is_true(errors.is(err, "protocol"), tostring(err))
      assert.is_true(given < 300)
    end
  end)
end)

describe("types of columns", function()
  local text = "i,f,b,s,z\n1,1,true,x,007\n-2,2.5,False,1,010\n,,,,\n"

  it("are inferred from the first rows", function()
    local samples = all((csv(text)))
    assert.same({i = 1, f = 1.0, b = true, s = "x", z = "007"}, samples[1][1])
    assert.equal("integer", math.type(samples[1][1].i))
    assert.equal("float", math.type(samples[1][1].f))
    assert.same({i = -2, f = 2.5, b = false, s = "1", z = "010"}, samples[2][1])
    assert.same({}, samples[3][1])
  end)

  it("are kept exact", function()
    local sample = all((csv("a,b,c\n9223372036854775807,0.1,1e300\n-1,43.636914000000004,5e-324\n")))
    assert.equal(math.maxinteger, sample[1][1].a)
    assert.equal(0.1, sample[1][1].b)
    assert.equal(43.636914000000004, sample[2][1].b)
    assert.equal(5e-324, sample[2][1].c)
    assert.equal("float", math.type(all((csv("a\n9223372036854775808\n")))[1][1].a))
  end)

  it("are never hexadecimal, infinite or NaN by accident", function()
    for _, cell in ipairs{"0x10", "nan", "inf", "1e999", "1 2"} do
      assert.equal(cell, all((csv("a\n" .. cell .. "\n")))[1][1].a)
    end
  end)

  it("may be declared, also as functions", function()
    local samples = all((csv("a,b,c,when\n1,1,yes,2024-03-01\n", {target = "when", types = {
      a = "string", b = "number", c = "boolean",
      when = function(date) return tonumber((date:gsub("-", ""))) end,
    }})))
    assert.same({{{a = "1", b = 1.0, c = true}, 20240301}}, samples)
    assert.equal("float", math.type(samples[1][1].b))
  end)

  it("that a later value does not fit are an error, or as asked", function()
    local rows = "a,b\n1,2\n3,4\n1.5,6\n"
    csv_fails("line 4: column 'a': '1.5' is no integer", rows, {infer_rows = 2})
    csv_fails("declare it", rows, {infer_rows = 2})
    assert.same({a = "1.5", b = 6}, all((csv(rows, {infer_rows = 2, misfit = "string"})))[3][1])
    assert.same({b = 6}, all((csv(rows, {infer_rows = 2, misfit = "missing"})))[3][1])
    csv_fails("line 2: column 'a': 'x' is no number", "a\nx\n", {types = {a = "number"}})
    csv_fails("value that its function takes", "a\nx\n", {types = {a = function() return nil end}})
  end)

  it("leave missing values out", function()
    local options = {missing = {"", "NA", "?"}}
    assert.same({{{a = 1}}, {{b = 2}}, {{a = 3, b = 4}}}, all((csv("a,b\n1,NA\n?,2\n3,4\n", options))))
  end)
end)

describe("the target", function()
  it("is a column, a list of columns, or none", function()
    local rows = "a,b,c\n1,2,3\n"
    assert.same({{{a = 1, b = 2}, 3}}, all((csv(rows, {target = "c"}))))
    assert.same({{{a = 1}, {b = 2, c = 3}}}, all((csv(rows, {target = {"b", "c"}}))))
    assert.same({{{c = 3}, 2}}, all((csv(rows, {target = "b", drop = {"a"}}))))
    assert.same({{{a = 1}, nil}}, all((csv("a,b\n1,\n", {target = "b"}))))
  end)

  it("must be there, like every column that is named", function()
    fails("argument", "did you mean 'price'?", function() return all((csv("price,b\n1,2\n", {target = "prize"}))) end)
    fails("argument", "no column 'zz'", function() return all((csv("a,b\n1,2\n", {drop = "zz"}))) end)
    fails("argument", "no column 'zz'", function() return all((csv("a\n1\n", {types = {zz = "string"}}))) end)
    fails("argument", "two columns are called 'a'", function() return all((csv("a,a\n1,2\n"))) end)
    fails("argument", "the file is empty", function() return all((csv(""))) end)
  end)
end)

describe("a gzip file", function()
  it("reads like the plain one", function()
    local path = write_file(gzip(("a,b\n" .. ("1,2\n"):rep(50000))))
    local count = 0
    for x in datasets.csv(path) do
      count = count + x.a
    end
    assert.equal(50000, count)
    os.remove(path)
  end)

  it("may have several members and padding", function()
    local path = write_file(gzip("a\n1\n") .. gzip("2\n") .. "\0\0\0")
    assert.same({{{a = 1}}, {{a = 2}}}, all((datasets.csv(path))))
    os.remove(path)
  end)

  it("cut anywhere, or damaged, is an error", function()
    local bytes = gzip("a,b\n" .. ("1,2\n"):rep(3000))
    for length = 2, #bytes - 1, 7 do
      local path = write_file(bytes:sub(1, length))
      fails("protocol", "gzip", function() return all((datasets.csv(path))) end)
      os.remove(path)
    end
    local path = write_file(bytes:sub(1, -6) .. "xxxxx")
    fails("protocol", "damaged", function() return all((datasets.csv(path))) end)
    os.remove(path)
  end)

  it("that unfolds into very much comes in pieces", function()
    local inflater <close> = require("riverlua.core.gzip").inflater()
    inflater:feed(gzip(("\0"):rep(20000000)))
    local total = 0
    while true do
      local piece = inflater:read()
      if not piece then break end
      assert.is_true(#piece <= 1 << 16)
      total = total + #piece
    end
    inflater:finish()
    assert.equal(20000000, total)
  end)

  it("inflater refuses to be used wrongly", function()
    local inflater = require("riverlua.core.gzip").inflater()
    fails("protocol", "cut off", function() inflater:finish() end)
    inflater:close()
    inflater:close()
    fails("closed", "closed", function() inflater:read() end)
  end)
end)

describe("JSON Lines", function()
  local function jsonl(text, options) return datasets.jsonl({text = text}, options) end

  it("are records", function()
    local text = '\xef\xbb\xbf{"a":1,"b":null,"y":2.0}\r\n\n{"a":"x","c":true}'
    assert.same({{{a = 1}, 2.0}, {{a = "x", c = true}, nil}}, all((jsonl(text, {target = "y"}))))
    assert.same({{{b = 2}}}, all((jsonl('{"a":1,"b":"2"}', {drop = "a", types = {b = "integer"}}))))
  end)

  it("may hold the features in an object of their own", function()
    assert.same({{{a = 1}, false}}, all((jsonl('{"x":{"a":1},"y":false,"z":3}', {features = "x", target = "y"}))))
    fails("protocol", "'x' is no object", function() return all((jsonl('{"x":1}', {features = "x"}))) end)
  end)

  it("name the line of what is wrong", function()
    fails("protocol", "line 3: ", function() return all((jsonl('{"a":1}\n\n{"a":}\n'))) end)
    fails("protocol", "line 1: no object", function() return all((jsonl("[1]"))) end)
    fails("protocol", "line 2: more than 20 bytes", function()
      return all((jsonl('{"a":1}\n{"a":"' .. ("x"):rep(1 << 17) .. '"}', {max_line = 20})))
    end)
    fails("protocol", "'a': x is no integer", function()
      return all((jsonl('{"a":"x"}', {types = {a = "integer"}})))
    end)
  end)

  it("may be gzip", function()
    local path = write_file(gzip('{"a":1}\n{"a":2}\n'))
    assert.same({{{a = 1}}, {{a = 2}}}, all((datasets.jsonl(path))))
    os.remove(path)
  end)
end)

describe("a data set", function()
  local function numbers(count)
    local list = {}
    for i = 1, count do list[i] = {x = {i = i}, y = i} end
    return (datasets.from(list))
  end

  local function labels(data)
    local list = {}
    for _, y in data:each() do list[#list + 1] = y end
    return list
  end

  it("is taken, skipped, mapped and filtered", function()
    assert.same({1, 2, 3}, labels(numbers(10):take(3)))
    assert.same({}, labels(numbers(10):take(0)))
    assert.same({1, 2}, labels(numbers(2):take(3)))
    assert.same({9, 10}, labels(numbers(10):skip(8)))
    assert.same({}, labels(numbers(2):skip(8)))
    assert.same({4, 16}, labels(numbers(5):filter(function(x) return x.i % 2 == 0 end)
      :map(function(x, y) return x, y * y end)))
    assert.same({3, 4}, labels(numbers(10):skip(2):take(2)))
  end)

  it("is shuffled as Python shuffles", function()
    -- river.stream.shuffle(range 1 to 10, buffer_size=3, seed=42)
    assert.same({3, 1, 5, 4, 2, 6, 9, 8, 7, 10}, labels(numbers(10):shuffle(42, 3)))
    local data = numbers(100):shuffle(7)
    local first = labels(data)
    assert.same(first, labels(data))
    table.sort(first)
    assert.same(labels(numbers(100)), first)
  end)

  it("is gone through again and again, also inside itself", function()
    local data, seen = numbers(3), {}
    for _, a in data do
      for _, b in data do
        seen[#seen + 1] = a * 10 + b
        if a == 2 and b == 2 then break end
      end
    end
    assert.same({11, 12, 13, 21, 22, 31, 32, 33}, seen)
  end)

  -- luacheck: push ignore 512
  it("has its file closed when the loop is left", function()
    local path = "examples/data/trump_approval.csv"
    local before = open_files()
    for _ in datasets.csv(path) do break end
    assert.equal(before, open_files())
    for _ in datasets.csv(path, {target = "five_thirty_eight"}):map(function(x, y) return x, y end):take(5) do
      assert.equal(before + 1, open_files())
      break
    end
    assert.equal(before, open_files())
    pcall(function()
      for _ in datasets.csv(path):shuffle(1) do error("stop") end
    end)
    assert.equal(before, open_files())
    local data = datasets.csv(path)
    for _ in data:each() do break end
    assert.equal(before, open_files())
    pcall(function()
      for _ in datasets.csv({text = "a\nx\n"}, {types = {a = "integer"}}) do break end
    end)
    -- what nobody goes through opens nothing
    datasets.csv("/nowhere/at/all.csv")
  end)

  -- luacheck: pop
  it("comes from lists, rows and functions", function()
    assert.same({{{a = 1}, 2}}, all((datasets.from{{{a = 1}, 2}})))
    assert.same({{{a = 1}, 2}}, all((datasets.from({{a = 1, y = 2}}, {target = "y"}))))
    local at = 0
    local once = datasets.from(function()
      at = at + 1
      if at <= 2 then return {a = at}, at end
    end)
    assert.same({{{a = 1}, 1}, {{a = 2}, 2}}, all((once)))
    fails("argument", "gone through already", function() return all((once)) end)
    assert.equal(once, (datasets.from(once)))
  end)

  it("reads the real file as Python does", function()
    local samples = all((datasets.csv("examples/data/trump_approval.csv", {target = "five_thirty_eight"})))
    assert.equal(1001, #samples)
    assert.same({ordinal_date = 736389, gallup = 43.843213, ipsos = 46.19925042857143, morning_consult = 48.318749,
      rasmussen = 44.104692, you_gov = 43.636914000000004}, samples[1][1])
    assert.equal("integer", math.type(samples[1][1].ordinal_date))
  end)

  it("refuses what it cannot do, with a hint", function()
    fails("argument", "did you mean 'target'?", function() datasets.csv("x.csv", {targt = "y"}) end)
    fails("argument", "cannot read", function() return all((datasets.csv("/nowhere.csv"))) end)
    fails("argument", "a path is expected", function() datasets.csv(5) end)
    fails("argument", "whole number", function() numbers(2):take(1.5) end)
    fails("argument", "a seed", function() numbers(2):shuffle() end)
    fails("argument", "returned no features", function() return all(numbers(2):map(function() end)) end)
    fails("argument", "did you mean 'csv'?", function() return datasets.cvs end)
    fails("argument", "did you mean 'integer'?", function() datasets.csv("x", {types = {a = "integr"}}) end)
    fails("argument", '{target = "y"}?', function() datasets.csv("x.csv", "y") end)
    fails("argument", '{delimiter = ";"}?', function() return all((csv("a;y\n1;2\n", {target = "y"}))) end)
    fails("argument", '{delimiter = "\\t"}?', function() return all((csv("a\ty\n1\t2\n", {target = "y"}))) end)
    fails("argument", "river.datasets.csv(path", function() datasets.from("file.csv") end)
    fails("argument", "the delimiter is one character", function() datasets.csv("x", {delimiter = "::"}) end)
    fails("argument", "sample 1 has no features", function() return all((datasets.from{{}})) end)
  end)

  it("is riverlua's own, not a module of the library", function()
    assert.equal(require "river.datasets", river.datasets)
    assert.is_true(datasets.is((datasets.from{})))
    assert.is_nil(require("river.model").dotted_name(river.datasets))
  end)
end)
