--- Rows in memory: what `training.datasets` loads.
--
--     #rows, rows[1].question, ipairs(rows)
--     rows.question                   -- a column as a list; rows:column("question") for names that methods have, too
--     rows:select{1, 5, 7}, rows:slice(1, 256), rows:take(10), rows:skip(10), rows:shuffle(42)
--     for step, batch in rows:batches(256) do … batch.question … end
--
-- What a method returns is another value of this kind; the rows themselves are shared, not copied.

local errors = require "riverlua.errors"

local rows = {}

---@class training.Rows
local Rows = {}

-- Keys of a value's own fields, which no column can have.
local LIST, COLUMNS, INFO, CACHE = {}, {}, {}, {}

local methods = {}

local function fail(message, hint)
  errors.raise{kind = "argument", message = message, hint = hint}
end

-- Makes a value of a list of tables.
local function new(list, columns, info)
  return setmetatable({[LIST] = list, [COLUMNS] = columns or false, [INFO] = info or {}}, Rows)
end

local function derived(self, list) return new(list, self[COLUMNS], self[INFO]) end

local function check(self, what)
  if getmetatable(self) ~= Rows then fail(("rows:%s: call it with a colon: rows:%s(…)"):format(what, what)) end
  return self[LIST]
end

local function whole(what, name, value)
  local count = type(value) == "number" and math.tointeger(value)
  if not count then
    fail(("rows:%s: '%s' must be an integer, got %s"):format(what, name, type(value) == "number" and tostring(value)
      or value == nil and "nothing" or errors.with_article(type(value))))
  end
  return count
end

local function count_of(what, value)
  local count = whole(what, "n", value)
  if count < 0 then fail(("rows:%s: 'n' must not be negative, got %d"):format(what, count)) end
  return count
end

-- ------------------------------------------------------------------------------------------------------- columns

--- Names of the columns: as the source has them in order, else sorted.
---@return string[]
function methods:columns()
  local list = check(self, "columns")
  if not self[COLUMNS] then
    local names, seen = {}, {}
    for _, row in ipairs(list) do
      for name in next, row do
        if not seen[name] and type(name) == "string" then
          seen[name] = true
          names[#names + 1] = name
        end
      end
    end
    table.sort(names)
    self[COLUMNS] = names
  end
  return table.move(self[COLUMNS], 1, #self[COLUMNS], 1, {})
end

local function has_column(self, name)
  for _, column in ipairs(methods.columns(self)) do
    if column == name then return true end
  end
  return false
end

local function no_column(self, name)
  local columns = methods.columns(self)
  local near = errors.suggest(name, columns) or errors.suggest(name, methods)
  fail(("rows have no column and no method '%s'"):format(name), near and ("did you mean '%s'?"):format(near)
    or "columns: " .. table.concat(columns, ", ", 1, math.min(#columns, 20)))
end

--- The values of a column as a list, `default` where a row has none. Without a default that is an error: a list with
--- holes would be cut short silently.
---@param name string
---@param default any
---@return any[]
function methods:column(name, default)
  local list = check(self, "column")
  errors.expect("rows:column", "name", name, "string")
  if not has_column(self, name) and default == nil then no_column(self, name) end
  local values = {}
  for i, row in ipairs(list) do
    local value = row[name]
    if value == nil then
      if default == nil then
        fail(("rows:column: row %d has no '%s'"):format(i, name), ("rows:column(%q, default)"):format(name))
      end
      value = default
    end
    values[i] = value
  end
  return values
end

-- -------------------------------------------------------------------------------------------------------- choices

--- The rows with these numbers, in this order; or those from `i` to `j`, which all have to be there.
---@param which integer[]|integer a list of numbers from 1, or the first number
---@param last integer|nil
---@return training.Rows
function methods:select(which, last)
  local list = check(self, "select")
  local chosen = {}
  local function take(number)
    number = whole("select", "row", number)
    if number < 1 or number > #list then
      fail(("rows:select: there is no row %d, only 1 to %d"):format(number, #list),
        number == 0 and "rows are counted from 1" or nil)
    end
    chosen[#chosen + 1] = list[number]
  end
  if type(which) == "number" then
    for number = whole("select", "first", which), whole("select", "last", last) do take(number) end
  else
    if type(which) ~= "table" and type(which) ~= "userdata" then
      fail("rows:select: a list of row numbers is expected", "or two numbers: rows:select(1, 256)")
    end
    for i = 1, #which do take(which[i]) end
  end
  return derived(self, chosen)
end

--- The rows from `i` to `j`, as string.sub counts: from 1, negative numbers from the end; those that are there.
---@param i integer
---@param j integer|nil -1
---@return training.Rows
function methods:slice(i, j)
  local list = check(self, "slice")
  local n = #list
  i, j = whole("slice", "i", i), whole("slice", "j", j == nil and -1 or j)
  if i < 0 then i = n + i + 1 end
  if j < 0 then j = n + j + 1 end
  i, j = math.max(i, 1), math.min(j, n)
  return derived(self, i > j and {} or table.move(list, i, j, 1, {}))
end

--- The first `n` rows, or all there are.
---@param n integer
---@return training.Rows
function methods:take(n)
  local list = check(self, "take")
  return derived(self, table.move(list, 1, math.min(#list, count_of("take", n)), 1, {}))
end

--- All but the first `n` rows.
---@param n integer
---@return training.Rows
function methods:skip(n)
  local list = check(self, "skip")
  return derived(self, table.move(list, math.min(#list, count_of("skip", n)) + 1, #list, 1, {}))
end

--- The rows in random order: the order that `random.Random(seed).shuffle` gives in Python.
---@param seed integer
---@return training.Rows
function methods:shuffle(seed)
  local list = check(self, "shuffle")
  seed = whole("shuffle", "seed", seed)
  local mixed = table.move(list, 1, #list, 1, {})
  require("river.embedded.random").new(seed):shuffle(mixed)
  return derived(self, mixed)
end

--- The rows as `fn(row, number)` makes them.
---@param fn fun(row: table, number: integer): table
---@return training.Rows
function methods:map(fn)
  local list = check(self, "map")
  errors.expect("rows:map", "fn", fn, "callable")
  local made = {}
  for i, row in ipairs(list) do
    made[i] = fn(row, i)
    if type(made[i]) ~= "table" then
      fail(("rows:map: the function returned %s for row %d, not a row"):format(made[i] == nil and "nothing"
        or errors.with_article(type(made[i])), i), "filter leaves rows out")
    end
  end
  return new(made, nil, self[INFO])
end

--- The rows for which `fn(row, number)` is true.
---@param fn fun(row: table, number: integer): any
---@return training.Rows
function methods:filter(fn)
  local list = check(self, "filter")
  errors.expect("rows:filter", "fn", fn, "callable")
  local kept = {}
  for i, row in ipairs(list) do
    if fn(row, i) then kept[#kept + 1] = row end
  end
  return derived(self, kept)
end

local BATCH_OPTIONS = {drop_last = true, first = true}

--- Goes through the rows in batches: `for step, batch in rows:batches(256) do`.
---
--- Options: `drop_last` = false: true leaves out a last batch that is not full; `first` = 1: the number of the batch to
--- begin with, to go on where a run has stopped.
---@param n integer rows in a batch
---@param options {drop_last: boolean|nil, first: integer|nil}|nil
---@return fun(): integer|nil, training.Rows|nil
function methods:batches(n, options)
  local list = check(self, "batches")
  n = count_of("batches", n)
  if n == 0 then fail("rows:batches: a batch has at least one row") end
  options = errors.expect("rows:batches", "options", options or {}, "table")
  errors.check_options("rows:batches", options, BATCH_OPTIONS)
  local step = options.first == nil and 0 or whole("batches", "first", options.first) - 1
  if step < 0 then fail("rows:batches: 'first' must be at least 1") end
  return function()
    local from, to = step * n + 1, math.min(#list, (step + 1) * n)
    if from > to or (options.drop_last and to - from + 1 < n) then return nil end
    step = step + 1
    return step, derived(self, table.move(list, from, to, 1, {}))
  end
end

--- The rows as a plain list.
---@return table[]
function methods:table()
  local list = check(self, "table")
  return table.move(list, 1, #list, 1, {})
end

--- Where the rows are from: `source` and what is known of it (`config`, `split`, `revision`, `partial` …).
---@return table
function methods:info()
  check(self, "info")
  local copy = {}
  for name, value in pairs(self[INFO]) do copy[name] = value end
  return copy
end

-- ------------------------------------------------------------------------------------------------------ the value

function Rows.__index(self, key)
  if type(key) ~= "string" then return rawget(self, LIST)[key] end
  local method = methods[key]
  -- what others look for in tables of any kind, such as the field n of table.pack, is no slip
  if method or key == "n" or key:find("^_") then return method end
  local cache = rawget(self, CACHE)
  if not cache then
    cache = {}
    rawset(self, CACHE, cache)
  end
  if cache[key] == nil then
    if not has_column(self, key) then no_column(self, key) end
    cache[key] = methods.column(self, key)
  end
  return cache[key]
end

function Rows.__newindex()
  fail("rows cannot be set", "rows:map makes others; a row itself is a table of its own")
end

function Rows.__len(self) return #rawget(self, LIST) end

function Rows.__pairs(self) return ipairs(rawget(self, LIST)) end

function Rows.__names(self)
  local all = methods.columns(self)
  for name in pairs(methods) do all[#all + 1] = name end
  return all
end

Rows.__name = "training.Rows"

function Rows.__tostring(self)
  local columns = methods.columns(self)
  local text = table.concat(columns, ", ", 1, math.min(#columns, 8)) .. (#columns > 8 and ", …" or "")
  return ("training.Rows(%d row%s: %s)"):format(#self, #self == 1 and "" or "s", text)
end

--- Makes rows of a list of tables.
---@param list table[] it becomes the value's own
---@param columns string[]|nil names in order
---@param info table|nil
---@return training.Rows
function rows.new(list, columns, info)
  for i, row in ipairs(list) do
    if type(row) ~= "table" then fail(("row %d is %s, no table"):format(i, errors.with_article(type(row)))) end
  end
  return new(list, columns, info)
end

--- Tells whether a value is rows.
---@param value any
---@return boolean
function rows.is(value) return getmetatable(value) == Rows end

return rows
