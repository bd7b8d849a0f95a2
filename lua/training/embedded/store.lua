--- Where the embedded trainer keeps its checkpoints: in memory, or in a folder.
--
--     local store = require("training.embedded.store").new{path = "runs"}
--     store:save("river://run-1/weights/final", {kind = "inference", base = "embedded/rambler-134k",
--       config = config, lora = {rank = 16, scale = 50}, tensors = model:tensors(), policy = policy})
--     local checkpoint = store:load("river://run-1/weights/final")
--
-- A checkpoint is a folder of files that other programs can read:
--
--     checkpoint.json            kind, base model, policy, times, and the sizes and hashes of all files
--     config.json                the model's configuration
--     adapter_model.safetensors, adapter_config.json       an adapter, in the form of Python's PEFT; or
--     model.safetensors          all weights
--     optimizer.safetensors      the optimizer's state, in checkpoints of kind "training"
--
-- It is written beside the old one of its name, which it replaces when it is whole (see store_folder).

local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local json = require "riverlua.json"
local peft = require "training.embedded.peft"
local safetensors = require "training.embedded.safetensors"

local store = {}

local FORMAT, VERSION, MODEL_TYPE = "riverlua-checkpoint", 1, "riverlua-decoder"
local ABOUT, CONFIG = "checkpoint.json", "config.json"
local MODEL, OPTIMIZER = "model.safetensors", "optimizer.safetensors"
local LARGEST_ABOUT = 1 << 20
local LONGEST_NAME = 220   -- 200, and a version
local YEAR, DAY = 365 * 86400, 86400
local MOST_VERSIONS = 100000

local encode = json.encoder{sort = true, pretty = true}
local decode = json.decoder{drop_null = true, max_bytes = LARGEST_ABOUT}

---@class training.embedded.Checkpoint
---@field kind "training"|"inference"|"publish"
---@field base string name of the base model
---@field config table the model's configuration
---@field lora table|nil settings of the adapter: `rank`, `scale` (or `alpha` = scale·rank); nil: all weights
---@field tensors { name: string, array: riverlua.Array }[] loaded ones are in the order of their names
---@field optimizer { step: integer, tensors: table[] }|nil
---@field policy table|nil {id, lineage_id, step, parent_id}
---@field ttl number|nil seconds that it is kept (default: a year; a day unless durable)
---@field immutable boolean|nil is never replaced: a name that is taken becomes "name@2"
---@field durable boolean|nil (default: true)
---@field created_at number|nil seconds of the epoch (default: now)
---@field expires_at number|nil of loaded ones
---@field path string|nil of loaded ones
---@field bytes integer|nil of loaded ones
---@field has_optimizer boolean|nil of loaded ones

-- ---------------------------------------------------------------------------------------------------------- names

local function name_complaint(what, text)
  if #text == 0 then return ("the %s's name is empty"):format(what) end
  if #text > LONGEST_NAME then
    return ("the %s's name has %d bytes, and %d is the most"):format(what, #text, LONGEST_NAME)
  end
  if text:find("%c") or not utf8.len(text) then return ("the %s's name is no plain text"):format(what) end
  for part in (text .. "/"):gmatch("([^/]*)/") do
    if part == "" or part == "." or part == ".." then
      return ("the %s's name '%s' is none that can be given"):format(what, text)
    end
  end
end

--- Run and name of a path "river://<run>/weights/<name>"; or nil, and what is wrong with it.
---@param path any
---@return string|nil run
---@return string name or what is wrong
function store.parse(path)
  if type(path) ~= "string" then return nil, "a path is a text, got " .. errors.with_article(type(path)) end
  local run, name = path:match("^river://([^/]*)/weights/(.*)$")
  if not run then return nil, "a path has the form river://<run>/weights/<name>" end
  local complaint = name_complaint("run", run) or name_complaint("checkpoint", name)
  if complaint then return nil, complaint end
  return run, name
end

local function parts_of(path)
  local run, name = store.parse(path)
  if not run then errors.raise{kind = "argument", message = name} end
  return run, name
end

-- ------------------------------------------------------------------------------------ checkpoints and their files

-- The hash of checkpoint.json, in which that itself does not count; nil when there is none in it.
local function checksum_of(text)
  local rest, count = text:gsub('"checksum": "%x*"', '"checksum": ""', 1)
  return count == 1 and digest.hex(digest.sha256(rest)) or nil
end

local function write_about(about)
  about.checksum = ""
  local text = encode(about) .. "\n"
  return (text:gsub('"checksum": ""', ('"checksum": "%s"'):format(checksum_of(text)), 1))
end

-- The files of a checkpoint, and what checkpoint.json says about it.
local function files_of(path, given, now)
  local files = {}
  if given.lora then files = peft.files(given.lora, given.tensors, given.base)
  else files[MODEL] = safetensors.encode(given.tensors, {format = "pt"}) end
  local config = {model_type = MODEL_TYPE}
  for name, value in pairs(given.config) do config[name] = value end
  files[CONFIG] = encode(config) .. "\n"
  local optimizer = given.optimizer
  if optimizer then files[OPTIMIZER] = safetensors.encode(optimizer.tensors, {step = tostring(optimizer.step)}) end
  local created, durable = given.created_at or now, given.durable ~= false
  local about = {
    format = FORMAT, version = VERSION, path = path, kind = given.kind, base = given.base, lora = given.lora,
    policy = given.policy, sampled = given.sampled, optimizer_step = optimizer and optimizer.step,
    created_at = created, ttl = given.ttl,
    expires_at = created + (given.ttl or durable and YEAR or DAY), immutable = given.immutable == true,
    durable = durable, files = {},
  }
  local size = 0
  for name, bytes in pairs(files) do
    about.files[name] = {bytes = #bytes, sha256 = digest.hex(digest.sha256(bytes))}
    size = size + #bytes
  end
  about.bytes = size   -- without this file itself
  files[ABOUT] = write_about(about)
  return files, size + #files[ABOUT]
end

local function damaged(place, file, text, cause)
  errors.raise{kind = "storage", message = ("the file '%s/%s' is damaged: %s"):format(place, file, text),
    place = place, problem = ("the file '%s' is damaged: %s"):format(file, text), cause = cause,
    hint = "restore it from a copy, or remove the folder to go on without this checkpoint"}
end

local function read_about(fetch, place)
  local text = fetch(ABOUT)
  if not text then damaged(place, ABOUT, "it is not there") end
  local ok, about = pcall(decode, text)
  if not ok then damaged(place, ABOUT, errors.is(about) and about.message or "it is no JSON", about) end
  if type(about) ~= "table" or about.format ~= FORMAT then damaged(place, ABOUT, "it is about no checkpoint") end
  if about.version ~= VERSION then
    errors.raise{kind = "storage", place = place, problem = "it was written by another version of riverlua",
      message = ("'%s/%s' was written by another version of riverlua"):format(place, ABOUT)}
  end
  if about.checksum ~= checksum_of(text) then damaged(place, ABOUT, "its bytes have changed") end
  if type(about.files) ~= "table" or type(about.expires_at) ~= "number" or type(about.bytes) ~= "number"
    or type(about.path) ~= "string" then damaged(place, ABOUT, "something is missing in it") end
  about.bytes = about.bytes + #text
  return about
end

local function as_list(file)
  local list = {}
  for i, name in ipairs(file.names) do list[i] = {name = name, array = file.tensors[name]} end
  return list
end

-- Gives the bytes of the files that checkpoint.json names, which must be as they were written.
local function checked(fetch, place, about)
  return function(name)
    local expected = about.files[name]
    if not expected then return nil end
    local bytes = fetch(name)
    if not bytes then damaged(place, name, "it is not there") end
    if #bytes ~= expected.bytes then
      damaged(place, name, ("it has %d bytes instead of %d"):format(#bytes, expected.bytes))
    end
    if digest.hex(digest.sha256(bytes)) ~= expected.sha256 then damaged(place, name, "its bytes have changed") end
    return bytes
  end
end

-- A checkpoint; without its tensors when only what it is is wanted.
local function checkpoint_of(fetch, place, about, is_brief)
  local file = checked(fetch, place, about)
  local function want(name) return file(name) or damaged(place, ABOUT, ("it names no %s"):format(name)) end
  local function parsed(name, fn, ...)
    local ok, value = pcall(fn, ...)
    if not ok then damaged(place, name, errors.is(value) and value.message or tostring(value), value) end
    return value
  end
  local checkpoint = {
    path = about.path, kind = about.kind, base = about.base, lora = about.lora, policy = about.policy,
    sampled = about.sampled, ttl = about.ttl, immutable = about.immutable, durable = about.durable,
    created_at = about.created_at, expires_at = about.expires_at, bytes = about.bytes,
    config = parsed(CONFIG, decode, want(CONFIG)), has_optimizer = about.files[OPTIMIZER] ~= nil,
  }
  checkpoint.config.model_type = nil
  if is_brief then return checkpoint end
  if about.lora then
    checkpoint.tensors = parsed(peft.MODEL, peft.read, want(peft.CONFIG), want(peft.MODEL))
  else
    checkpoint.tensors = as_list(parsed(MODEL, safetensors.decode, want(MODEL), MODEL))
  end
  if about.files[OPTIMIZER] then
    checkpoint.optimizer = {step = about.optimizer_step,
      tensors = as_list(parsed(OPTIMIZER, safetensors.decode, want(OPTIMIZER), OPTIMIZER))}
  end
  return checkpoint
end

-- --------------------------------------------------------------------------------------------------------- memory

-- The same as store_folder, in a table: [run .. "/" .. name] = files.
local Memory = {}
Memory.__index = Memory

function Memory.place(_, run, name) return run .. "/weights/" .. name end

function Memory:put(run, name, files, may_replace)
  local key = self:place(run, name)
  local old = self.kept[key]
  if old and may_replace and not may_replace(function(file) return old[file] end, key) then return false end
  self.kept[key] = files
  return true
end

function Memory:get(run, name, read)
  local key = self:place(run, name)
  local files = self.kept[key]
  if not files then return nil end
  return read(function(file) return files[file] end, key)
end

function Memory:each(read, run)
  local keys, beginning = {}, run and self:place(run, "") or ""
  for key in pairs(self.kept) do
    if key:sub(1, #beginning) == beginning then keys[#keys + 1] = key end
  end
  for _, key in ipairs(keys) do
    local files = self.kept[key]
    read(function(file) return files[file] end, key, function() self.kept[key] = nil end)
  end
end

-- ---------------------------------------------------------------------------------------------------------- store

---@class training.embedded.Store
---@field path string|nil
local Store = {}
Store.__index = Store
Store.__name = "training.embedded.Store"

local function check_open(self)
  if not self.is_open then errors.raise{kind = "closed", message = "the store of checkpoints is closed"} end
end

--- Removes what is over; what is damaged is for `load` to complain about. Opening a store does so, too.
function Store:remove_expired()
  check_open(self)
  local now = self.now()
  self.backend:each(function(fetch, place, remove)
    local ok, about = pcall(read_about, fetch, place)
    if ok and about.expires_at <= now then pcall(remove) end
  end)
end

--- Opens a store.
---@param options { path: string|nil, now: (fun(): number)|nil } `path`: the folder, nil: in memory; `now`: a clock
---@return training.embedded.Store
---Raises kind "storage" when the folder cannot be used.
function store.new(options)
  options = errors.expect("store.new", "options", options or {}, "table")
  errors.check_options("store.new", options, {path = true, now = true})
  local path = errors.expect("store.new", "path", options.path, "string|nil")
  if path == "" then errors.raise{kind = "argument", message = "store.new: 'path' is empty"} end
  local backend = path and require("training.embedded.store_folder").open(path)
    or setmetatable({kept = {}}, Memory)
  local self = setmetatable({path = path, backend = backend, now = options.now or os.time, is_open = true}, Store)
  self:remove_expired()
  return self
end

local KINDS = {training = true, inference = true, publish = true}

local function check_checkpoint(given)
  errors.expect("store:save", "checkpoint", given, "table")
  if not KINDS[given.kind] then
    errors.raise{kind = "argument", message = "store:save: 'kind' must be training, inference or publish"}
  end
  for _, name in ipairs{"config", "tensors"} do errors.expect("store:save", name, given[name], "table") end
  errors.expect("store:save", "base", given.base, "string")
  errors.expect("store:save", "ttl", given.ttl, "number|nil")
end

-- Whether an old checkpoint keeps its name when one is saved that is immutable, or not.
local function stays(self, fetch, place, immutable)
  local ok, about = pcall(read_about, fetch, place)
  if ok and about.expires_at <= self.now() then return false end
  return immutable or ok and about.immutable or false
end

--- Tells whether a checkpoint of this path would get another one, as there is an immutable one, or it is one itself.
---@param path string
---@param immutable boolean|nil
---@return boolean
function Store:is_taken(path, immutable)
  check_open(self)
  local run, name = parts_of(path)
  return self.backend:get(run, name, function(fetch, place) return stays(self, fetch, place, immutable) end) or false
end

--- Saves a checkpoint. When this returns, neither a killed process nor a power failure loses it; until then an old
--- one of the name is what it was. An immutable one keeps its name as long as it lasts: "name@2" is the next.
---@param path string
---@param checkpoint training.embedded.Checkpoint
---@return integer size in bytes
---@return string path another one when the name was taken
---Raises kind "argument" for paths that cannot be, "storage" when it cannot be written.
function Store:save(path, checkpoint)
  check_open(self)
  local run, name = parts_of(path)
  check_checkpoint(checkpoint)
  local function may_replace(fetch, place) return not stays(self, fetch, place, checkpoint.immutable) end
  for version = 1, MOST_VERSIONS do
    local versioned = version == 1 and name or ("%s@%d"):format(name, version)
    path = ("river://%s/weights/%s"):format(run, versioned)
    local files, size = files_of(path, checkpoint, self.now())
    if self.backend:put(run, versioned, files, may_replace) then return size, path end
  end
  errors.raise{kind = "storage", message = ("'%s' has too many versions"):format(path)}
end

local function find(self, path, is_brief)
  check_open(self)
  local run, name = parts_of(path)
  return self.backend:get(run, name, function(fetch, place)
    local about = read_about(fetch, place)
    if about.path ~= path then damaged(place, ABOUT, ("it is about '%s'"):format(about.path)) end
    if about.expires_at <= self.now() then return nil end
    return checkpoint_of(fetch, place, about, is_brief)
  end)
end

--- Loads a checkpoint; nil when there is none, or its time is over.
---@param path string
---@return training.embedded.Checkpoint|nil
---Raises kind "argument" for paths that cannot be, "storage" naming the file when it is damaged.
function Store:load(path) return find(self, path, false) end

--- The same without `tensors` and `optimizer`, which take time and memory.
---@param path string
---@return training.embedded.Checkpoint|nil
---Raises what `load` raises.
function Store:about(path) return find(self, path, true) end

--- Tells whether there is a checkpoint, be it damaged, that `load` would not call over.
---@param path string
---@return boolean
function Store:has(path)
  check_open(self)
  local run, name = parts_of(path)
  return self.backend:get(run, name, function(fetch, place)
    local ok, about = pcall(read_about, fetch, place)
    return not ok or about.expires_at > self.now()
  end) or false
end

---@class training.embedded.CheckpointInfo
---@field path string
---@field run string
---@field name string
---@field kind string
---@field base string
---@field policy table|nil
---@field created_at number
---@field expires_at number
---@field bytes integer
---@field immutable boolean
---@field durable boolean

--- What there is, in the order of the paths, without what is damaged.
---@param wanted string|nil a run: only of this one
---@return training.embedded.CheckpointInfo[]
function Store:list(wanted)
  check_open(self)
  local list, now = {}, self.now()
  self.backend:each(function(fetch, place)
    local ok, about = pcall(read_about, fetch, place)
    local run, name = store.parse(ok and about.path)
    if ok and run and self.backend:place(run, name) == place and about.expires_at > now then
      list[#list + 1] = {path = about.path, run = run, name = name, kind = about.kind, base = about.base,
        policy = about.policy, created_at = about.created_at, expires_at = about.expires_at, bytes = about.bytes,
        immutable = about.immutable, durable = about.durable}
    end
  end, wanted)
  table.sort(list, function(a, b) return a.path < b.path end)
  return list
end

--- Bytes of all checkpoints of a run.
---@param run string
---@return integer
function Store:bytes(run)
  local sum = 0
  for _, checkpoint in ipairs(self:list(run)) do sum = sum + checkpoint.bytes end
  return sum
end

--- Ends the store; what is in memory is gone.
function Store:close()
  self.is_open = false
  self.backend = nil
end

Store.__close = Store.close

function Store:__tostring() return ("training.embedded.Store(%s)"):format(self.path or "in memory") end

errors.want_colon(Store, "store")

return store
