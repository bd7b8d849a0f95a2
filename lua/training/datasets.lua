--- Data sets for training: rows of a file, of the public hub, or of a script's own list.
--
--     local datasets = require "training.datasets"
--     local rows = datasets.load("openai/gsm8k", "main", {split = "train"})
--     for step, batch in rows:batches(256) do print(step, #batch, batch.question[1]) end
--
-- Rows are kept in memory; see training.rows for what can be done with them. Files are read by river.datasets.

local errors = require "riverlua.errors"
local folder = require "riverlua.core.folder"
local json = require "riverlua.json"
local rows = require "training.rows"

local datasets = {}

local WHERE = "datasets.load"
local MAX_ROWS = 1000000
local MAX_FILE = 1 << 30   -- of a JSON file, which is read as a whole

local function fail(message, hint)
  errors.raise{kind = "argument", message = WHERE .. ": " .. message, hint = hint}
end

-- ---------------------------------------------------------------------------------------------------------- files

local FORMATS = {csv = "csv", tsv = "csv", jsonl = "jsonl", ndjson = "jsonl", json = "json"}
local OWN_OPTIONS = {format = true, limit = true, max_rows = true}
local FILE_OPTIONS = {
  csv = {drop = true, types = true, columns = true, delimiter = true, quote = true, missing = true, infer_rows = true,
    misfit = true, max_field = true},
  jsonl = {drop = true, types = true, max_line = true},
  json = {},
}

local function extension_of(path) return path:gsub("%.gz$", ""):match("%.(%a+)$") end

local function is_file(path)
  local file = io.open(path, "rb")
  if file then file:close() end
  return file ~= nil and not folder.list(path)   -- which can be opened, too
end

-- JSON null is absent, also deep inside.
local function drop_null(value)
  for name, inner in next, value do
    if inner == json.null and not json.is_array(value) then
      value[name] = nil
    elseif type(inner) == "table" then
      drop_null(inner)
    end
  end
  return value
end

-- The rows of a JSON file: a list of objects, or lines after all.
local function rows_of_json(source)
  local bytes <close> = setmetatable({inner = require("river.datasets_source").open(source)}, {__close = function(self)
    self.inner:close()
  end})
  local parts, size = {}, 0
  for piece in function() return bytes.inner:read() end do
    size = size + #piece
    if size > MAX_FILE then
      errors.raise{kind = "limit", message = ("%s: %s has more than %d bytes"):format(WHERE, bytes.inner.name,
        MAX_FILE), hint = "JSON Lines (.jsonl) are read line by line"}
    end
    parts[#parts + 1] = piece
  end
  local text = table.concat(parts):gsub("^\xef\xbb\xbf", "")
  if not text:find("^%s*%[") then return nil, text end
  local ok, list = pcall(json.decode, text)
  if not ok then errors.raise{kind = "protocol", message = ("%s: %s"):format(bytes.inner.name, list.message)} end
  for i, row in ipairs(list) do
    if type(row) ~= "table" or json.is_array(row) then
      errors.raise{kind = "protocol", message = ("%s: element %d is no object"):format(bytes.inner.name, i)}
    end
  end
  return list
end

local function too_many(name, most)
  errors.raise{kind = "limit", message = ("%s: %s has more than %d rows"):format(WHERE, name, most),
    hint = "limit = … takes the first rows only; max_rows = … allows more"}
end

local function read_rows(data, name, limit, most)
  local list = {}
  for row in data:each() do
    if #list == limit then break end
    if #list == most then too_many(name, most) end
    list[#list + 1] = drop_null(row)
  end
  return list
end

local function count_option(options, name, default)
  local value = options[name]
  if value == nil then return default end
  errors.expect(WHERE, name, value, "integer")
  if value < 1 then fail(("'%s' must be at least 1"):format(name)) end
  return value
end

local function load_file(source, options)
  local path = type(source) == "string" and source or nil
  local extension = path and extension_of(path)
  local format = options.format or FORMATS[extension]
  if not format then fail(("'%s': what format is it?"):format(path), "format = \"jsonl\" or \"csv\"") end
  if not FILE_OPTIONS[format] then fail("'format' must be \"jsonl\", \"json\" or \"csv\"") end
  local known, inner = {}, {}
  for _, set in ipairs{OWN_OPTIONS, FILE_OPTIONS[format]} do
    for name in pairs(set) do known[name] = true end
  end
  errors.check_options(WHERE, options, known)
  for name in pairs(FILE_OPTIONS[format]) do inner[name] = options[name] end
  if extension == "tsv" and inner.delimiter == nil then inner.delimiter = "\t" end
  local limit, most = count_option(options, "limit", nil), count_option(options, "max_rows", MAX_ROWS)
  local name, list = path or "the text", nil
  if format == "json" then
    local text
    list, text = rows_of_json(source)
    if list then
      if not limit and #list > most then too_many(name, most) end
      list = table.move(list, 1, math.min(limit or #list, #list), 1, {})
      for _, row in ipairs(list) do drop_null(row) end
    else
      source, format = {text = text}, "jsonl"
    end
  end
  list = list or read_rows(require("river.datasets")[format](source, inner), name, limit, most)
  return rows.new(list, nil, {source = path or "text"})
end

-- -------------------------------------------------------------------------------------------------------- loading

-- Whether a text is meant as a file, though there is none.
local function looks_like_file(text)
  return text:find("^[./~]") or text:find("\\", 1, true) or FORMATS[extension_of(text) or ""] or text:find("%.gz$")
end

local function is_hub_name(text)
  return #text <= 200 and (text:find("^%w[%w._-]*$") or text:find("^%w[%w._-]*/%w[%w._-]*$")) ~= nil
end

--- Loads a data set into memory.
---
--- **A file** (`load("rows.jsonl")`, also .ndjson, .json, .csv, .tsv, each plain or gzip; `{text = "…"}` with
--- `format` is the text itself): options `format` ("jsonl", "json", "csv") where the name does not say, `limit`
--- (first rows only), `max_rows` (1,000,000), and those of `river.datasets.csv` and `.jsonl` (`types`, `drop`,
--- `columns`, `delimiter`, `missing` …).
---
--- **A data set of the hub** (`load("openai/gsm8k", "main", {split = "train"})`, or `{config = "main", …}`):
--- options `config` (default: the only one, or "default"), `split` (the only one, or "train"), `limit`,
--- `max_rows`; `cache`: a folder (default: riverlua/datasets below XDG_CACHE_HOME or ~/.cache), false: none;
--- `refresh` = false: true loads it anew; `offline` = false (HF_DATASETS_OFFLINE, HF_HUB_OFFLINE): only what is in
--- the cache; `token` (default HF_TOKEN, which only goes to the hub's own host), false: none; `server` (default
--- HF_DATASETS_SERVER, or the hub's); `truncated` = "error" or "keep": rows that the server cut short;
--- `concurrency` = 4, `attempts` = 6, `timeout` = 60 seconds until an answer begins; `proxy`, `ca_file`, `verify`.
---
--- **A task of the embedded trainer** (`load("embedded/digits", {split = "train"})`), made here: rows in the shape
--- of GSM8K's that its small models can learn. Options `split` ("train" or "test"), `rows` (7,473 or 1,319; more
--- of "train": up to 8,681), `limit`, `seed` (another order).
---
--- Raises kinds "argument", "protocol" (damaged files and answers), "limit", "storage" (the cache), and for the
--- hub "auth", "not_found", "rate_limit", "server" and what prevents an answer.
---@param source string|{text: string}
---@param config string|table|nil the configuration, or the options
---@param options table|nil
---@return training.Rows
function datasets.load(source, config, options)
  if type(config) == "table" and options == nil then config, options = nil, config end
  options = errors.expect(WHERE, "options", options or {}, "table")
  errors.expect(WHERE, "config", config, "string|nil")
  if type(source) == "table" and type(source.text) == "string" then
    if options.format == nil then fail("what format has the text?", "format = \"jsonl\" or \"csv\"") end
    return load_file(source, options)
  end
  errors.expect(WHERE, "source", source, "string")
  if options.format ~= nil or looks_like_file(source) or is_file(source) then
    if config then fail("a configuration is for data sets of the hub", "options stand in a table") end
    return load_file(source, options)
  end
  if not is_hub_name(source) then
    fail(("'%s' is no file that can be read, and no name of the hub"):format(source), "is the path right?")
  end
  local all = {}
  for name, value in pairs(options) do all[name] = value end
  if config then
    if options.config ~= nil then fail("the configuration is given twice") end
    all.config = config
  end
  -- the embedded trainer's own are no files and are not downloaded
  local own = source:find("^embedded/") and require("training.embedded.tasks")
  return rows.new((own or require("training.hub")).load(source, all))
end

--- Rows of a list of tables; the list is copied, its tables are not.
---@param list table[]
---@return training.Rows
function datasets.from(list)
  if rows.is(list) then return list end
  errors.expect("datasets.from", "list", list, "table")
  return rows.new(table.move(list, 1, #list, 1, {}), nil, {source = "list"})
end

--- Tells whether a value is rows as `load` returns them.
---@type fun(value: any): boolean
datasets.is = rows.is

return datasets
