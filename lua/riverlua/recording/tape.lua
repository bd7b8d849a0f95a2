--- The recordings of a folder as answers: finds for each request the next recorded entry that is equal to it.
--
-- Two requests are equal when these are: the type ("http", "websocket"), the method, host (all names of this machine
-- are one, and its ports do not count), path and query (in any order), the label that the script gave it, and the body:
-- JSON by value, forms by fields, anything else byte by byte. Secrets have been replaced on both sides before.
-- `tape.match` changes that.

local errors = require "riverlua.errors"
local json = require "riverlua.json"
local recording = require "riverlua.recording"
local url = require "riverlua.url"

local tapes = {}

-- nulls stay: an absent member is another body
local decode = json.decoder{max_depth = 64}
local encode = json.encoder{sort = true, nan = true}

local MOST_COMPARED = 200   -- recorded requests, to find the nearest
local MOST_SHOWN = 3        -- differences

-- ---- how requests are compared --------------------------------------------------------------------------------------

local match_options = {ignore = "table", headers = "table", ports = "boolean", repeats = "boolean"}
-- Made anew in every run by riverlua's own clients.
local RANDOM = {"idempotency_key", "Idempotency-Key"}

local function new_settings(options, version)
  local fresh = {names = {}, paths = {}, headers = {}, ports = options.ports, repeats = options.repeats,
    version = version}
  for _, name in ipairs(RANDOM) do fresh.names[name] = true end
  return fresh
end

local settings = new_settings({}, 0)

local function texts(name, list)
  for _, text in ipairs(list or {}) do errors.expect("replay.match", "an element of " .. name, text, "string") end
  return list or {}
end

--- How requests are compared with recorded ones, for all clients of this script; each call replaces what the one before
--- said.
---@param options table `ignore`, `headers`, `ports`, `repeats`: see riverlua.replay
function tapes.match(options)
  errors.expect("replay.match", "options", options, "table")
  errors.check_options("replay.match", options, match_options)
  for name, value in pairs(options) do errors.expect("replay.match", name, value, match_options[name]) end
  local fresh = new_settings(options, settings.version + 1)
  for _, text in ipairs(texts("ignore", options.ignore)) do
    (text:find("^%$[.%[]") and fresh.paths or fresh.names)[text] = true
  end
  fresh.has_paths = next(fresh.paths) ~= nil
  for _, name in ipairs(texts("headers", options.headers)) do fresh.headers[#fresh.headers + 1] = name:lower() end
  table.sort(fresh.headers)
  settings = fresh
end

-- A decoded value in which equal things are alike: numbers by value, and without what is not compared.
local function plain_value(value, path)
  if math.type(value) == "float" then return math.tointeger(value) or value end
  if type(value) ~= "table" then return value end
  local list = json.is_array(value)
  local out = list and json.array{} or json.object{}
  for key, one in pairs(value) do
    local place = settings.has_paths and path .. (list and ("[%d]"):format(key) or "." .. key)
    if list or not settings.names[key] and not (place and settings.paths[place]) then
      out[key] = plain_value(one, place or path)
    end
  end
  return out
end

-- Fields of a query or form, decoded and by name; fields of one name stay in order.
local function fields_of(text)
  local fields = {}
  for field in text:gmatch("[^&]+") do
    local name, value = field:match("^([^=]*)=?(.*)$")
    name = url.unescape((name:gsub("%+", " ")))
    if not settings.names[name] then
      fields[#fields + 1] = {name, url.unescape((value:gsub("%+", " "))), #fields}
    end
  end
  table.sort(fields, function(a, b)
    if a[1] ~= b[1] then return a[1] < b[1] end
    return a[3] < b[3]
  end)
  local out = {}
  for i, field in ipairs(fields) do out[i] = field[1] .. "=" .. field[2] end
  return table.concat(out, "&")
end

local function is_this_machine(host)
  return host == "localhost" or host == "[::1]" or host:find("^127%.%d+%.%d+%.%d+$") ~= nil
end

local function place_of(parts)
  if not is_this_machine(parts.host) then return ("%s://%s:%s"):format(parts.scheme, parts.host, parts.port or "") end
  return "localhost" .. (settings.ports and (":%s"):format(parts.port or "") or "")
end

-- What a body is compared by: its kind, and a text that is equal for equal bodies. Third: the decoded value, if any.
local function body_key(request)
  if request.omitted then return "omitted", tostring(request.omitted) end
  local body = recording.body_of(request)
  if not body then return "none", "" end
  local kind = (recording.header(request.headers, "content-type") or ""):lower()
  if kind:find("x-www-form-urlencoded", 1, true) then return "form", fields_of(body) end
  if kind:find("json", 1, true) or body:find("^%s*[%[{]") then
    local ok, value = pcall(decode, body)
    if ok then
      value = plain_value(value, "$")
      return "json", encode(value), value
    end
  end
  return "bytes", body
end

--- Bytes as `tapes.same` and `tapes.difference` compare them: like bodies.
---@param bytes string without secrets
---@return table view
function tapes.view(bytes)
  local view = {version = settings.version}
  view.body_kind, view.body, view.value = body_key{headers = {}, body = bytes}
  return view
end

--- Whether such a view is as one would be now: `tapes.match` may have been called since.
function tapes.is_current(view) return view.version == settings.version end

--- Whether two such views are equal.
function tapes.same(a, b) return a.body_kind == b.body_kind and a.body == b.body end

-- The parts that count.
local function view_of(request, kind)
  local parts = url.parse(request.url)
  local view = {type = kind, method = request.method, label = request.label or "", headers = {}}
  view.place = parts and place_of(parts) or request.url
  view.path = parts and url.unescape(parts.path) or ""
  view.query = parts and fields_of(parts.query or "") or ""
  view.body_kind, view.body, view.value = body_key(request)
  for i, name in ipairs(settings.headers) do
    view.headers[i] = recording.header(request.headers, name) or ""
  end
  return view
end

local function key_of(view, any_body)
  local parts = {view.type, view.method, view.place, view.path, view.query, view.label,
    table.concat(view.headers, "\0")}
  if any_body then
    parts[#parts + 1] = "any"
  else
    parts[#parts + 1], parts[#parts + 2] = view.body_kind, view.body
  end
  return table.concat(parts, "\1")
end

-- ---- what differs ---------------------------------------------------------------------------------------------------

local function show(value)
  if value == nil then return "nothing" end
  local text = type(value) == "string" and ("%q"):format(value):gsub("\\\n", "\\n") or encode(value)
  return #text <= 60 and text or text:sub(1, 57) .. "…"
end

local function note(differences, place, here, recorded)
  differences.count = differences.count + 1
  if #differences < MOST_SHOWN then
    differences[#differences + 1] = ("%s is %s, recorded is %s"):format(place, show(here), show(recorded))
  end
end

local function compare_values(here, recorded, path, differences)
  if type(here) ~= "table" or type(recorded) ~= "table" or json.is_array(here) ~= json.is_array(recorded) then
    if here ~= recorded then note(differences, path, here, recorded) end
    return
  end
  local keys = {}
  for key in pairs(here) do keys[#keys + 1] = key end
  for key in pairs(recorded) do
    if here[key] == nil then keys[#keys + 1] = key end
  end
  table.sort(keys)
  for _, key in ipairs(keys) do
    local place = math.type(key) == "integer" and ("%s[%d]"):format(path, key) or path .. "." .. key
    compare_values(here[key], recorded[key], place, differences)
  end
end

local function compare_bodies(here, recorded, what, differences)
  if here.value ~= nil and recorded.value ~= nil then
    return compare_values(here.value, recorded.value, what .. " $", differences)
  end
  local a, b = here.body, recorded.body
  if here.body_kind ~= recorded.body_kind then return note(differences, "the " .. what, a, b) end
  if a == b then return end
  local at = 1
  while a:byte(at) == b:byte(at) do at = at + 1 end
  note(differences, ("the %s from byte %d"):format(what, at), a:sub(at), b:sub(at))
end

--- What differs between two views, in words.
---@param here table
---@param recorded table
---@param what string what they are, "frame"
---@return string
function tapes.difference(here, recorded, what)
  local differences = {count = 0}
  compare_bodies(here, recorded, what, differences)
  return table.concat(differences, ", ")
end

local function differences_of(here, recorded)
  local differences = {count = 0}
  for _, name in ipairs{"type", "method", "place", "path", "query", "label"} do
    if here[name] ~= recorded[name] then
      note(differences, name == "place" and "the host" or "the " .. name, here[name], recorded[name])
      differences.count = differences.count + (name == "path" and 1000 or 99)
    end
  end
  for i, name in ipairs(settings.headers) do
    if here.headers[i] ~= recorded.headers[i] then
      note(differences, "the header " .. name, here.headers[i], recorded.headers[i])
    end
  end
  compare_bodies(here, recorded, "body", differences)
  return differences
end

local function common_prefix(a, b)
  local at = 1
  while at <= #a and a:byte(at) == b:byte(at) do at = at + 1 end
  return at - 1
end

-- The recorded entry that is most like the request, and what differs.
local function nearest(self, view)
  local candidates = {}
  for i, entry in ipairs(self.entries) do
    local other = self.views[i]
    local likeness = (other.path == view.path and 1000000 or common_prefix(other.path, view.path))
      + (other.method == view.method and 500 or 0) + (other.place == view.place and 250 or 0)
    candidates[i] = {entry = entry, view = other, likeness = likeness, number = i}
  end
  table.sort(candidates, function(a, b)
    if a.likeness ~= b.likeness then return a.likeness > b.likeness end
    return a.number < b.number
  end)
  local best, best_differences
  for i = 1, math.min(#candidates, MOST_COMPARED) do
    local differences = differences_of(view, candidates[i].view)
    if not best or differences.count < best_differences.count then
      best, best_differences = candidates[i].entry, differences
    end
  end
  return best, best_differences
end

-- ---- the tape -------------------------------------------------------------------------------------------------------

---@class riverlua.Tape
local Tape = {}
Tape.__index = Tape

--- The tape of a folder. Raises kind "storage" where the folder or a file of it cannot be read.
---@param folder string
---@return riverlua.Tape
function tapes.open(folder)
  return tapes.new(folder, recording.read_folder(folder))
end

--- A tape of entries that have been read.
---@param folder string for messages
---@param entries table[]
---@return riverlua.Tape
function tapes.new(folder, entries)
  return setmetatable({folder = folder, entries = entries, used = {}}, Tape)
end

-- By what counts, the entries that are left, in order.
local function build_index(self)
  self.version, self.index, self.views, self.queue_of = settings.version, {}, {}, {}
  for i, entry in ipairs(self.entries) do
    local view = view_of(entry.request, entry.type)
    local key = key_of(view, entry.request.cut)
    local queue = self.index[key]
    if not queue then
      queue = {next = 1}
      self.index[key] = queue
    end
    queue[#queue + 1] = entry
    self.queue_of[entry] = queue
    self.views[i] = view
  end
end

local function next_of(self, queue)
  if not queue then return nil end
  while queue[queue.next] and self.used[queue[queue.next]] do queue.next = queue.next + 1 end
  local entry = queue[queue.next]
  if not entry and settings.repeats then entry = queue[#queue] end
  if entry then self.used[entry] = true end
  return entry
end

local function refuse(self, request, view, queue)
  local shown = ("%s %s"):format(request.method, url.redact(request.url))
  local fields = {kind = "replay", method = request.method, url = url.redact(request.url), retryable = false,
    hint = ("record again: RIVERLUA_RECORD=%s, after that folder has been removed"):format(self.folder)}
  if queue then
    fields.message = ("%s: the recordings in %s have %d answer%s to this request, and all have been given"):format(
      shown, self.folder, #queue, #queue == 1 and "" or "s")
    fields.hint = fields.hint .. "; or replay.match{repeats = true} to be given the last one again"
  elseif #self.entries == 0 then
    fields.message = ("%s: the folder %s holds no recordings"):format(shown, self.folder)
  else
    local entry, differences = nearest(self, view)
    fields.file, fields.line, fields.differences = entry.file, entry.line, differences
    fields.message = ("%s: not in the recordings; the nearest is %s %s (%s:%d): %s"):format(shown,
      entry.request.method, url.redact(entry.request.url), entry.file, entry.line, table.concat(differences, ", "))
  end
  errors.raise(fields)
end

--- The next recorded entry for a request: equal ones are given in the order in which they were begun, each once.
--- Raises kind "replay" when there is none (left), with the nearest and what differs.
---@param request table as recording.request makes it
---@param kind string the type of the entry, "http" or "websocket"
---@return table entry
function Tape:take(request, kind)
  if self.version ~= settings.version then build_index(self) end
  local view = view_of(request, kind)
  local queue, cut = self.index[key_of(view)], self.index[key_of(view, true)]
  local entry = next_of(self, queue) or next_of(self, cut)
  return entry or refuse(self, request, view, queue or cut)
end

--- The entries of requests that are equal to that of `entry`, in order.
---@param entry table that the tape has given
---@return table[]
function Tape:alike(entry)
  if self.version ~= settings.version then build_index(self) end
  return self.queue_of[entry]
end

--- Takes `other` instead of `entry`, which may be given to somebody else then; false when it has been given already.
---@param entry table that the tape has given
---@param other table one of those that are alike
---@return boolean
function Tape:exchange(entry, other)
  if self.used[other] then return false end
  self.used[entry], self.used[other] = nil, true
  self.queue_of[entry].next = 1
  return true
end

return tapes
