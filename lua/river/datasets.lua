--- Data sets as streams of samples: CSV and JSON Lines files, plain or gzip, or what a script has.
--
--     for x, y in river.datasets.csv("houses.csv", {target = "price"}):take(100) do … end
--
--     local data = river.datasets.jsonl("events.jsonl.gz", {target = "clicked", drop = {"id"}})
--     for x, y in data:shuffle(42):each() do … end
--
-- A data set can be gone through any number of times, also while it is gone through already. A loop over the result of
-- a call (`csv(…)`, `:take(…)`, `:each()`) closes the file when it is left by `break` or an error; a loop over a
-- variable (`for x, y in data do`) leaves that to the collector: write `data:each()`.

local errors = require "riverlua.errors"
local source = require "river.datasets_source"
local types = require "river.datasets_types"

local datasets = {}

---@class river.Dataset
local Dataset = {}
Dataset.__index = Dataset
Dataset.__name = "river.Dataset"

local function fail(message, hint)
  errors.raise{kind = "argument", message = message, hint = hint}
end

-- ------------------------------------------------------------------------------------------------------- passes

-- One walk through a data set. It is opened by its first step; `next` gives x, y.
local Pass = {}
Pass.__index = Pass

local function step(pass)
  local following = pass.following
  if not following then
    if pass.over then return nil end
    following, pass.stop = pass.dataset.open()
    pass.following = following
  end
  local x, y = following()
  if x == nil then pass:close() end
  return x, y
end

function Pass:close()
  local stop = self.stop
  self.over, self.stop, self.following = true, nil, function() return nil end
  if stop then stop() end
end

Pass.__close = Pass.close

-- For `for x, y in data do`, which hands us nothing but the last x: the passes that gave it, the latest first.
local walking = setmetatable({}, {__mode = "k"})

local function walk(self, x)
  local entry = x ~= nil and walking[x]
  if entry then
    walking[x] = entry.below
  else
    entry = {pass = setmetatable({dataset = self}, Pass)}
  end
  local pass = entry.pass
  local next_x, y = step(pass)
  if next_x ~= nil then walking[next_x] = {pass = pass, below = walking[next_x]} end
  return next_x, y
end

function Dataset:__call(pass, x)
  if pass ~= nil then return step(pass) end
  return walk(self, x)
end

-- What a call returns: the data set, and what `for` needs beyond it.
local function loop(dataset)
  local pass = setmetatable({dataset = dataset}, Pass)
  return dataset, pass, nil, pass
end

local function new(open)
  return loop(setmetatable({open = open}, Dataset))
end

--- One walk, closed when its loop is left.
---@return river.Dataset, any, nil, any for `for`
function Dataset:each() return loop(self) end

-- ----------------------------------------------------------------------------------------------- transformations

local function count_argument(name, n)
  if math.type(n) ~= "integer" or n < 0 then
    fail(("datasets: %s takes a whole number, got %s"):format(name, tostring(n)))
  end
  return n
end

--- The first `n` samples.
---@param n integer
---@return river.Dataset
function Dataset:take(n)
  count_argument("take", n)
  return new(function()
    local left = n
    if n == 0 then return function() return nil end end
    local following, stop = self.open()
    return function()
      if left == 0 then return nil end
      left = left - 1
      return following()
    end, stop
  end)
end

--- All but the first `n` samples.
---@param n integer
---@return river.Dataset
function Dataset:skip(n)
  count_argument("skip", n)
  return new(function()
    local following, stop = self.open()
    local left = n
    return function()
      while left > 0 do
        left = left - 1
        if following() == nil then return nil end
      end
      return following()
    end, stop
  end)
end

-- The order of `river.stream.shuffle`, number by number: a sample of the buffer goes out, the next one takes its place;
-- in the end the buffer is shuffled.
local function shuffled(following, rng, size)
  local buffer, filled, over = {}, false, false
  local function fill()
    for i = 1, size do
      local x, y = following()
      if x == nil then break end
      buffer[i] = {x, y}
    end
    filled = true
  end
  local rest
  return function()
    if not filled then fill() end
    if not over then
      local x, y = following()
      if x ~= nil then
        local i = rng:randint(0, #buffer - 1) + 1
        local out = buffer[i]
        buffer[i] = {x, y}
        return out[1], out[2]
      end
      over, rest = true, 0
      rng:shuffle(buffer)
    end
    rest = rest + 1
    local out = buffer[rest]
    if out then return out[1], out[2] end
    return nil
  end
end

--- In random order, with a buffer; the same seed gives the same order on every walk, and the order that
--- `river.stream.shuffle` gives in Python.
---@param seed integer
---@param buffer integer|nil samples held at a time (default 1000): as many as there are give a perfect shuffle
---@return river.Dataset
function Dataset:shuffle(seed, buffer)
  if math.type(seed) ~= "integer" then fail("datasets: shuffle takes a seed, a whole number", ":shuffle(42)") end
  buffer = buffer or 1000
  if math.type(buffer) ~= "integer" or buffer < 1 then fail("datasets: the buffer holds at least one sample") end
  return new(function()
    local following, stop = self.open()
    return shuffled(following, require("river.embedded.random").new(seed), buffer), stop
  end)
end

--- Every sample as `fn(x, y)` makes it.
---@param fn fun(x: any, y: any): any, any must return features
---@return river.Dataset
function Dataset:map(fn)
  errors.expect("datasets: map", "fn", fn, "callable")
  return new(function()
    local following, stop = self.open()
    local function mapped(x, ...)
      if x == nil then fail("datasets: the function of map returned no features", "filter leaves samples out") end
      return x, ...
    end
    return function()
      local x, y = following()
      if x == nil then return nil end
      return mapped(fn(x, y))
    end, stop
  end)
end

--- The samples for which `fn(x, y)` is true.
---@param fn fun(x: any, y: any): any
---@return river.Dataset
function Dataset:filter(fn)
  errors.expect("datasets: filter", "fn", fn, "callable")
  return new(function()
    local following, stop = self.open()
    return function()
      while true do
        local x, y = following()
        if x == nil then return nil end
        if fn(x, y) then return x, y end
      end
    end, stop
  end)
end

--- All samples as a list of {x =, y =}.
---@return {x: any, y: any}[]
function Dataset:collect()
  local samples = {}
  for x, y in self:each() do samples[#samples + 1] = {x = x, y = y} end
  return samples
end

-- ------------------------------------------------------------------------------------------------------- options

-- A name or a list of names, as a set and a list.
local function names_of(where, option, given)
  if given == nil then return {}, {} end
  local list = type(given) == "string" and {given} or errors.expect(where, option, given, "string|table")
  local set = {}
  for _, name in ipairs(list) do
    if type(name) ~= "string" then fail(("%s: '%s' takes names"):format(where, option)) end
    set[name] = true
  end
  return set, list
end

local function common_options(where, options, known)
  options = options or {}
  if type(options) == "string" then
    fail(("%s: 'options' must be a table, got a string"):format(where), ("{target = %q}?"):format(options))
  end
  errors.expect(where, "options", options, "table")
  errors.check_options(where, options, known)
  local targets, target_list = names_of(where, "target", options.target)
  local dropped = names_of(where, "drop", options.drop)
  for name, kind in pairs(options.types and errors.expect(where, "types", options.types, "table") or {}) do
    types.converter(where, tostring(name), kind)
  end
  return {where = where, targets = targets, target_list = target_list, dropped = dropped, types = options.types or {},
    -- one name gives the value itself, a list a table
    one_target = type(options.target) == "string" and options.target or nil}
end

local function unknown_column(where, name, columns)
  local only = #columns == 1 and columns[1]:match("[;\t|]")
  if only then
    fail(("%s: there is no column '%s'"):format(where, name),
      ("the only column is '%s': {delimiter = %s}?"):format(columns[1], only == "\t" and '"\\t"' or '"' .. only .. '"'))
  end
  local near = errors.suggest(name, columns)
  fail(("%s: there is no column '%s'"):format(where, name), near and ("did you mean '%s'?"):format(near)
    or "columns: " .. table.concat(columns, ", ", 1, math.min(#columns, 20)))
end

-- ---------------------------------------------------------------------------------------------------------- CSV

local CSV_OPTIONS = {target = true, drop = true, types = true, columns = true, delimiter = true, quote = true,
  missing = true, infer_rows = true, misfit = true, max_field = true}
local MISFITS = {error = true, string = true, missing = true}

local function check_columns(settings, columns)
  local known = {}
  for i, name in ipairs(columns) do
    if name == "" then
      name = "column_" .. i
      columns[i] = name
    end
    if not utf8.len(name) then fail(("%s: the name of column %d is not UTF-8"):format(settings.where, i)) end
    if known[name] then fail(("%s: two columns are called '%s'"):format(settings.where, name)) end
    known[name] = true
  end
  for _, set in ipairs{settings.targets, settings.dropped, settings.types} do
    for name in pairs(set) do
      if not known[name] then unknown_column(settings.where, name, columns) end
    end
  end
end

local function next_row(reader)
  local fields, count, quoted = reader.rows:next()
  if fields and count ~= #reader.columns then
    reader.rows:fail(("%d fields, but there are %d columns"):format(count, #reader.columns),
      "is the delimiter right, and does every field with a delimiter inside have quotes?")
  end
  return fields, quoted
end

local function is_missing(reader, fields, quoted, i)
  return reader.settings.missing[fields[i]] and not (quoted and quoted[i])
end

-- Reads the first rows and decides on the types that were not declared.
local function infer(reader)
  local settings = reader.settings
  local values = {}
  for i in ipairs(reader.columns) do values[i] = {} end
  for row = 1, settings.infer_rows do
    local fields, quoted = next_row(reader)
    if not fields then break end
    reader.ahead[row] = {fields, quoted, reader.rows.line}
    for i in ipairs(fields) do
      if not is_missing(reader, fields, quoted, i) then values[i][#values[i] + 1] = fields[i] end
    end
  end
  for i, name in ipairs(reader.columns) do
    local kind = settings.types[name] or types.infer(values[i])
    reader.kinds[i] = kind
    reader.converters[i] = types.converter(settings.where, name, kind)
  end
end

local function open_csv(given, settings)
  local bytes = source.open(given)
  local reader = {settings = settings, ahead = {}, at = 0, kinds = {}, converters = {}, bytes = bytes}
  local ok, problem = pcall(function()
    reader.rows = require("river.datasets_csv").rows(function() return bytes:read() end,
      {name = bytes.name, delimiter = settings.delimiter, quote = settings.quote, max_field = settings.max_field})
    reader.columns = settings.columns and table.move(settings.columns, 1, #settings.columns, 1, {})
      or reader.rows:next()
    if not reader.columns then fail(settings.where .. ": there is no header: the file is empty") end
    check_columns(settings, reader.columns)
    infer(reader)
  end)
  if not ok then
    bytes:close()
    error(problem, 0)
  end
  return reader
end

local function misfit(reader, i, text, line)
  local how = reader.settings.misfit
  if how == "missing" then return nil end
  if how == "string" and utf8.len(text) then return text end
  local kind = reader.kinds[i]
  local shown = #text > 40 and text:sub(1, 40) .. "…" or text
  errors.raise{kind = "protocol",
    message = ("%s, line %d: column '%s': '%s' is no %s"):format(reader.bytes.name, line, reader.columns[i], shown,
      type(kind) == "string" and (kind == "string" and "UTF-8 text" or kind) or "value that its function takes"),
    hint = reader.settings.types[reader.columns[i]] == nil
      and ("the type is taken from the first %d rows; declare it: types = {[%q] = \"string\"}, or set misfit")
        :format(reader.settings.infer_rows, reader.columns[i])
      or "misfit = \"missing\" leaves such values out, misfit = \"string\" keeps the text"}
end

local function sample_of(reader, fields, quoted, line)
  local settings, columns = reader.settings, reader.columns
  local x, y = {}, nil
  local one, targets, dropped = settings.one_target, settings.targets, settings.dropped
  if not one and settings.target_list[1] then y = {} end
  for i = 1, #columns do
    local name = columns[i]
    if not dropped[name] and not is_missing(reader, fields, quoted, i) then
      local value = reader.converters[i](fields[i])
      if value == nil then value = misfit(reader, i, fields[i], line) end
      if name == one then
        y = value
      elseif targets[name] then
        y[name] = value
      else
        x[name] = value
      end
    end
  end
  return x, y
end

--- A CSV file (RFC 4180): `csv("file.csv", {target = "price"})`, plain or gzip; `csv({text = …})` is the text itself.
---
--- Options: `target` (a column: y is its value; a list: y is a table; none: y is nil), `drop` (columns left out),
--- `types` (column → "integer", "number", "boolean", "string" or a function of the text), `columns` (names, for a
--- file without a header), `delimiter` (","), `quote` ('"', or false), `missing` (texts that mean no value, {""}: such
--- features are left out; a text in quotes is never missing), `max_field` (bytes, 1 MiB).
---
--- Types not declared are inferred from the first `infer_rows` rows (100): integer when all values are whole numbers,
--- else number when all are numbers, else boolean when all are true or false, else string ("007" is a string). A later
--- value that does not fit raises, naming line and column; `misfit = "string"` keeps its text, "missing" leaves it out.
---
--- Errors: kind "protocol" with the line (rows of another length, open quotes, misfits, damaged gzip), "argument".
---@param path string|{text: string}
---@param options table|nil
---@return river.Dataset
function datasets.csv(path, options)
  local where = "datasets.csv"
  source.check(where, path)
  local settings = common_options(where, options, CSV_OPTIONS)
  options = options or {}
  settings.delimiter = options.delimiter or ","
  settings.quote = options.quote == nil and '"' or options.quote
  for _, name in ipairs{"delimiter", "quote"} do
    local value = settings[name]
    if not (value == false and name == "quote") and (type(value) ~= "string" or not value:find("^[^\r\n%w]$")) then
      fail(("%s: the %s is one character, no letter or digit"):format(where, name))
    end
  end
  if options.columns ~= nil then settings.columns = errors.expect(where, "columns", options.columns, "table") end
  settings.missing = names_of(where, "missing", options.missing or {""})
  settings.infer_rows = count_argument("infer_rows", options.infer_rows or 100)
  settings.misfit = options.misfit or "error"
  if not MISFITS[settings.misfit] then fail(where .. ": misfit is \"error\", \"string\" or \"missing\"") end
  if options.max_field ~= nil then errors.expect(where, "max_field", options.max_field, "integer") end
  settings.max_field = options.max_field
  return new(function()
    local reader = open_csv(path, settings)
    return function()
      reader.at = reader.at + 1
      local ahead = reader.ahead[reader.at]
      if ahead then
        reader.ahead[reader.at] = nil
        return sample_of(reader, ahead[1], ahead[2], ahead[3])
      end
      local fields, quoted = next_row(reader)
      if not fields then return nil end
      return sample_of(reader, fields, quoted, reader.rows.line)
    end, function() reader.bytes:close() end
  end)
end

-- --------------------------------------------------------------------------------------------------- JSON Lines

local JSONL_OPTIONS = {target = true, drop = true, types = true, features = true, max_line = true}
local MAX_LINE = 16 << 20

-- The lines of a source with their numbers.
local function lines_of(bytes, max_line)
  local text, at, number, over = "", 1, 0, false
  return function()
    local from = at
    while true do
      local stop = text:find("\n", from, true)
      if stop or over then
        if not stop and at > #text then return nil end
        number = number + 1
        local line = text:sub(at, (stop or #text + 1) - 1)
        at = (stop or #text) + 1
        return line, number
      end
      from = #text - at + 2
      local piece = bytes:read()
      over = piece == nil
      text, at = text:sub(at) .. (piece or ""), 1
      if #text > max_line + #(piece or "") then
        errors.raise{kind = "protocol", message = ("%s, line %d: more than %d bytes"):format(bytes.name, number + 1,
          max_line), hint = "raise it with max_line"}
      end
    end
  end
end

local function split_record(settings, record, context)
  local x, y = {}, nil
  if not settings.one_target and settings.target_list[1] then y = {} end
  for name, value in next, record do
    if not settings.dropped[name] and type(value) ~= "userdata" then
      local kind = settings.types[name]
      if kind then
        local converted = types.converter(settings.where, name, kind)(type(value) == "string" and value
          or type(kind) == "function" and value or tostring(value))
        if converted == nil then
          errors.raise{kind = "protocol", message = ("%s: '%s': %s is no %s"):format(context, name, tostring(value),
            tostring(kind))}
        end
        value = converted
      end
      if name == settings.one_target then
        y = value
      elseif settings.targets[name] then
        y[name] = value
      else
        x[name] = value
      end
    end
  end
  return x, y
end

local function is_object(value)
  return type(value) == "table" and not require("riverlua.json").is_array(value)
end

local function record_of(settings, bytes, line, number)
  local context = ("%s, line %d"):format(bytes.name, number)
  local ok, record = pcall(require("riverlua.json").decode, line)
  if not ok then
    errors.raise{kind = "protocol", message = ("%s: %s"):format(context,
      (record.message or tostring(record)):gsub(" at line 1, column", " at column"))}
  elseif not is_object(record) then
    errors.raise{kind = "protocol", message = context .. ": no object", hint = "every line is one: {\"a\": 1, …}"}
  end
  if not settings.features then return split_record(settings, record, context) end
  local inner = record[settings.features]
  if not is_object(inner) then
    errors.raise{kind = "protocol", message = ("%s: '%s' is no object"):format(context, settings.features)}
  end
  local x = split_record(settings.inner, inner, context)
  local _, y = split_record(settings, record, context)
  return x, y
end

--- A JSON Lines file: one object per line, plain or gzip; `jsonl({text = …})` is the text itself.
---
--- Options: `target` and `drop` as for csv (a name not in a record is missing there), `features` (the name of a nested
--- object that holds the features: {"x": {…}, "y": 1}), `types` (name → type or function, for values to be converted),
--- `max_line` (bytes, 16 MiB). Null means no value.
---
--- Errors: kind "protocol" with the line, "argument".
---@param path string|{text: string}
---@param options table|nil
---@return river.Dataset
function datasets.jsonl(path, options)
  local where = "datasets.jsonl"
  source.check(where, path)
  local settings = common_options(where, options, JSONL_OPTIONS)
  options = options or {}
  if options.features ~= nil then
    settings.features = errors.expect(where, "features", options.features, "string")
    -- in there is no target
    settings.inner = {dropped = settings.dropped, types = settings.types, targets = {}, target_list = {}, where = where}
  end
  local max_line = options.max_line == nil and MAX_LINE or errors.expect(where, "max_line", options.max_line, "integer")
  return new(function()
    local bytes = source.open(path)
    local following = lines_of(bytes, max_line)
    return function()
      while true do
        local line, number = following()
        if not line then return nil end
        if number == 1 then line = line:gsub("^\xef\xbb\xbf", "") end
        if line:find("%S") then return record_of(settings, bytes, line, number) end
      end
    end, function() bytes:close() end
  end)
end

-- ------------------------------------------------------------------------------------------------ other sources

local FROM_OPTIONS = {target = true, drop = true, types = true}

local function from_list(list, settings, plain)
  return new(function()
    local i = 0
    return function()
      i = i + 1
      local item = list[i]
      if item == nil then return nil end
      if type(item) ~= "table" then fail(("datasets.from: sample %d is a %s"):format(i, type(item))) end
      if not plain then return split_record(settings, item, "sample " .. i) end
      local x, y = item.x, item.y
      if x == nil then x, y = item[1], item[2] end
      if x == nil then
        fail(("datasets.from: sample %d has no features"):format(i),
          "samples are {x = {…}, y = …}, {{…}, …}, or rows with the option target")
      end
      return x, y
    end
  end)
end

--- Samples that a script has: a list of {x =, y =} or {x, y}; with `target` (or `drop`, `types`) a list of rows such as
--- {age = 3, price = 4}; a data set (itself); or a function that gives x, y until it gives nil, which can be gone
--- through once.
---@param given table|function
---@param options table|nil
---@return river.Dataset
function datasets.from(given, options)
  local where = "datasets.from"
  if getmetatable(given) == Dataset then return given:each() end
  local settings = common_options(where, options, FROM_OPTIONS)
  if type(given) == "table" and getmetatable(given) == nil then
    return from_list(given, settings, options == nil or next(options) == nil)
  end
  if type(given) == "string" then
    fail(where .. ": samples are expected, got a string", "a file? river.datasets.csv(path, {target = …})")
  end
  errors.expect(where, "given", given, "table|callable")
  if options ~= nil and next(options) ~= nil then fail(where .. ": options are for lists of rows") end
  if type(given) == "table" and not (getmetatable(given) or {}).__call then return from_list(given, settings, true) end
  local used = false
  return new(function()
    if used then
      fail("datasets.from: the function has been gone through already",
        "collect() the samples to go through them again")
    end
    used = true
    return function() return given() end
  end)
end

--- Tells whether a value is a data set.
---@param value any
---@return boolean
function datasets.is(value)
  return getmetatable(value) == Dataset
end

-- A misspelt name says so.
return setmetatable(datasets, {__index = function(_, name)
  if type(name) ~= "string" or name:find("^_") then return nil end
  local near = errors.suggest(name, {csv = true, jsonl = true, from = true, is = true})
  fail(("river.datasets has no '%s'"):format(name), near and ("did you mean '%s'?"):format(near)
    or "river.datasets has csv, jsonl and from; the library's own data sets stay in Python")
end})
