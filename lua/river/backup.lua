--- Keeping what models have learned: backups of a server, copies between servers, checkpoints to a file.
--
--     cli:backup("models-2026-11")                         -- every model as a pickle, and manifest.json
--     other:restore("models-2026-11")
--     cli:copy("prices", other, {name = "prices-2"})
--     local checkpoints <close> = cli:checkpoint_every("prices", {learns = 1000, path = "prices.pkl", keep = 3})
--
-- A server never tells the flavor of a model. A client knows the flavors of the models that it uploaded or restored;
-- for others `flavors = {name = "regression"}` says it, or `flavor` for all whose flavor is not known.

local check = require "river.check"
local core = require "riverlua.core.task"
local errors = require "riverlua.errors"
local folder_files = require "riverlua.core.folder"
local json = require "riverlua.json"

local backup = {}

local MANIFEST = "manifest.json"
local FORMAT = "riverlua-backup"

local function fail(message, hint)
  errors.raise{kind = "argument", message = message, hint = hint}
end

-- --------------------------------------------------------------------------------------------------------- files

--- Writes a file in one step: whatever happens, it then holds these bytes or its old ones.
---@param where string the call, for messages
---@param path string
---@param bytes string
function backup.write_file(where, path, bytes)
  local ok, problem = folder_files.replace(path, bytes)
  if ok then return end
  -- the file that is written first is nobody's business
  local part = path .. ".part"
  if problem:sub(1, #part) == part then problem = path .. problem:sub(#part + 1) end
  fail(("%s: cannot write: %s"):format(where, problem), "is the folder there, and writable?")
end

local function read_file(where, path, hint)
  local file, problem = io.open(path, "rb")
  if not file then fail(("%s: cannot read: %s"):format(where, problem), hint) end
  local bytes = file:read("a")
  file:close()
  if not bytes then fail(("%s: cannot read '%s'"):format(where, path), hint) end
  return bytes
end

-- Names of models are any text; those of files are safe everywhere, and no two of them differ by case only.
local function file_name(model)
  local plain = model:gsub("[^%l%d_-]", function(char) return ("%%%02x"):format(char:byte()) end)
  if #plain <= 120 then return plain .. ".pkl" end
  local sum = 0
  for position = 1, #model do sum = (sum * 131 + model:byte(position)) & 0xffffffffffff end
  return ("%s-%012x.pkl"):format(plain:sub(1, 100), sum)
end

-- ------------------------------------------------------------------------------------------------------- flavors

-- The flavor of a model, or nil.
local function flavor_of(client, options, name, noted)
  return options.flavors and options.flavors[name] or client._flavors[name] or noted or options.flavor
end

local function unknown_flavors(where, names)
  table.sort(names)
  fail(("%s: the flavor of %s is not known"):format(where, "'" .. table.concat(names, "', '") .. "'"),
    ("a server does not tell it: %s(…, {flavors = {[\"%s\"] = \"regression\"}}), or flavor = … for all")
      :format(where, names[1]))
end

local function read_options(where, options, known)
  options = options or {}
  errors.expect(where, "options", options, "table")
  errors.check_options(where, options, known)
  if options.flavors ~= nil then errors.expect(where, "flavors", options.flavors, "table") end
  return options
end

-- The bytes of a model.
local function download(client, model)
  return client._internal.download(client, model)
end

-- ------------------------------------------------------------------------------------------------ backup, restore

--- `client:backup(folder, options)`: saves models, with their metrics and the flavors that are known, into a folder,
--- which is made if need be. A backup that was there is replaced file by file; the manifest comes last.
---
--- Options: `models` (list of names, default all), `flavors`, `flavor`.
---@param client river.Client
---@param folder string
---@param options table|nil
---@return {models: {name: string, file: string, flavor: string|nil, bytes: integer, metrics: table}[]} manifest
function backup.backup(client, folder, options)
  errors.expect("backup", "folder", folder, "string")
  options = read_options("backup", options, {models = true, flavors = true, flavor = true})
  if options.models ~= nil then errors.expect("backup", "models", options.models, "table") end
  local names = options.models or client:models().models
  local info = client:info()
  local made, problem = folder_files.make(folder)
  if not made then fail(("backup: cannot make the folder: %s"):format(problem)) end
  local manifest = {format = FORMAT, version = 1, made = os.date("!%Y-%m-%dT%H:%M:%SZ"),
    river_version = info.river_version, models = json.array{}}
  for _, name in ipairs(names) do
    local bytes = download(client, name)
    local file = file_name(name)
    backup.write_file("backup", folder .. "/" .. file, bytes)
    local metrics = client:metrics(name)
    for metric, value in pairs(metrics) do
      if value ~= value or value - value ~= 0 then metrics[metric] = tostring(value):gsub("^-nan$", "nan") end
    end
    manifest.models[#manifest.models + 1] = {name = name, file = file, flavor = flavor_of(client, options, name),
      bytes = #bytes, metrics = json.object(metrics)}
  end
  backup.write_file("backup", folder .. "/" .. MANIFEST, json.encode(manifest, {sort = true, pretty = true}) .. "\n")
  return manifest
end

local function read_manifest(folder)
  local path = folder .. "/" .. MANIFEST
  local text = read_file("restore", path, "a folder that client:backup made has a manifest.json")
  local ok, manifest = pcall(json.decode, text, {drop_null = true})
  if not ok or type(manifest) ~= "table" or manifest.format ~= FORMAT or type(manifest.models) ~= "table" then
    fail(("restore: '%s' is not the manifest of a backup"):format(path))
  end
  for _, entry in ipairs(manifest.models) do
    if type(entry) ~= "table" or type(entry.name) ~= "string" or type(entry.file) ~= "string"
      or entry.file:find("[/\0]") then
      fail(("restore: the manifest '%s' is damaged"):format(path))
    end
  end
  return manifest
end

local function chosen(manifest, wanted)
  if not wanted then return manifest.models end
  local by_name, list = {}, {}
  for _, entry in ipairs(manifest.models) do by_name[entry.name] = entry end
  for _, name in ipairs(wanted) do
    if not by_name[name] then fail(("restore: the backup has no model '%s'"):format(tostring(name))) end
    list[#list + 1] = by_name[name]
  end
  return list
end

--- `client:restore(folder, options)`: uploads the models of a backup under their names. Metrics start anew: a server
--- takes none. Nothing is uploaded when a flavor is not known or a model of that name is there and `replace` is not
--- given.
---
--- Options: `models` (list of names, default all), `flavors`, `flavor`, `replace` (true: replace what is there).
---@param client river.Client
---@param folder string
---@param options table|nil
---@return string[] names
function backup.restore(client, folder, options)
  errors.expect("restore", "folder", folder, "string")
  options = read_options("restore", options, {models = true, flavors = true, flavor = true, replace = true})
  if options.models ~= nil then errors.expect("restore", "models", options.models, "table") end
  local list = chosen(read_manifest(folder), options.models)
  local unknown, there, flavors = {}, {}, {}
  if not options.replace then
    for _, name in ipairs(client:models().models) do there[name] = true end
  end
  for _, entry in ipairs(list) do
    local name = entry.name
    flavors[name] = flavor_of({_flavors = {}}, options, name, entry.flavor)
    if not flavors[name] then unknown[#unknown + 1] = name end
    if there[name] then
      fail(("restore: there is a model '%s' already"):format(name), "{replace = true} replaces it, with its metrics")
    end
  end
  if unknown[1] then unknown_flavors("restore", unknown) end
  local names = {}
  for _, entry in ipairs(list) do
    local bytes = read_file("restore", folder .. "/" .. entry.file, "the backup is not complete")
    names[#names + 1] = client:upload_model(bytes, flavors[entry.name], entry.name)
  end
  return names
end

--- `client:copy(model, target, options)`: uploads a model, with what it learned, to another client's server (or to the
--- same, under another name). Options: `name` (default: the same), `flavor` (where it is not known).
---@param client river.Client
---@param model string
---@param target river.Client
---@param options table|nil
---@return string name
function backup.copy(client, model, target, options)
  check.name("copy", model)
  if not client._internal.is_client(target) then fail("copy: the target must be a river.Client") end
  options = read_options("copy", options, {name = true, flavor = true})
  local flavor = options.flavor or client._flavors[model]
  if not flavor then
    fail(("copy: the flavor of '%s' is not known"):format(model),
      'a server does not tell it: copy(model, target, {flavor = "regression"})')
  end
  local name = options.name or model
  if target == client and name == model then fail("copy: the copy needs another name: {name = …}") end
  return target:upload_model(download(client, model), flavor, name)
end

-- --------------------------------------------------------------------------------------------------- checkpoints

---@class river.Checkpoints
---@field saved integer how many have been written
local Checkpoints = {}
Checkpoints.__index = Checkpoints
Checkpoints.__name = "river.Checkpoints"

-- path.2 → path.3, path.1 → path.2, and path.1 becomes what path is: that one is never missing.
local function keep_older(path, keep)
  if keep == 1 then return end
  local file = io.open(path, "rb")
  if not file then return end
  local bytes = file:read("a")
  file:close()
  for number = keep - 1, 2, -1 do os.rename(("%s.%d"):format(path, number - 1), ("%s.%d"):format(path, number)) end
  backup.write_file("checkpoint_every", path .. ".1", bytes)
end

--- Saves the model now.
function Checkpoints:now()
  local bytes = download(self.client, self.model)
  keep_older(self.path, self.keep)
  backup.write_file("checkpoint_every", self.path, bytes)
  self.saved = self.saved + 1
  self.learned, self.saved_at = 0, core.now()
end

local function is_due(self)
  return self.learns and self.learned >= self.learns or self.seconds and core.now() - self.saved_at >= self.seconds
end

--- Ends the checkpoints; saves once more when the model has learned since.
function Checkpoints:close()
  if self.closed then return end
  self.closed = true
  local watchers = self.client._watches[self.model]
  watchers.list[self] = nil
  if next(watchers.list) == nil then self.client._watches[self.model] = nil end
  if self.learned == 0 or not self.client._transport then return end
  local ok, problem = pcall(self.now, self)
  -- a model that was deleted meanwhile needs no checkpoint any more
  if not ok and not errors.is(problem, "not_found") then error(problem, 0) end
end

Checkpoints.__close = Checkpoints.close

-- All checkpoints of one model, called after every learn.
local Watchers = {}
Watchers.__index = Watchers

function Watchers:__call()
  for one in pairs(self.list) do
    one.learned = one.learned + 1
    if not one.saving and is_due(one) then
      one.saving = true
      local ok, err = pcall(one.now, one)
      one.saving = false
      if not ok then error(err, 0) end
    end
  end
end

local CHECKPOINT_OPTIONS = {seconds = true, learns = true, path = true, keep = true}

--- `client:checkpoint_every(model, options)`: saves a model after every so many learns of this client, or after the
--- first learn when so many seconds have passed. `path` (default "<model>.pkl") holds the last checkpoint; the ones
--- before are `path.1`, `path.2` … up to `keep` files in all (default 1). When a checkpoint cannot be saved, the learn
--- that brought it about raises, although it has been done.
---@param client river.Client
---@param model string
---@param options {seconds: number|nil, learns: integer|nil, path: string|nil, keep: integer|nil}
---@return river.Checkpoints
function backup.checkpoint_every(client, model, options)
  check.name("checkpoint_every", model)
  options = read_options("checkpoint_every", options, CHECKPOINT_OPTIONS)
  local keep = errors.expect("checkpoint_every", "keep", options.keep or 1, "integer")
  if options.seconds ~= nil then errors.expect("checkpoint_every", "seconds", options.seconds, "number") end
  if options.learns ~= nil then errors.expect("checkpoint_every", "learns", options.learns, "integer") end
  if options.path ~= nil then errors.expect("checkpoint_every", "path", options.path, "string") end
  if not options.seconds and not options.learns then
    fail("checkpoint_every: how often is missing", "{learns = 1000} or {seconds = 60}")
  end
  if keep < 1 or (options.learns or 1) < 1 or (options.seconds or 1) <= 0 then
    fail("checkpoint_every: 'keep', 'learns' and 'seconds' must be positive")
  end
  local self = setmetatable({client = client, model = model, learns = options.learns, seconds = options.seconds,
    path = options.path or file_name(model), keep = keep, saved = 0, learned = 0, saved_at = core.now()}, Checkpoints)
  client._watches = client._watches or {}
  local watchers = client._watches[model]
  if not watchers then
    watchers = setmetatable({list = {}}, Watchers)
    client._watches[model] = watchers
  end
  watchers.list[self] = true
  return self
end

return backup
