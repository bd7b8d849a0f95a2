--- What the specs of recordings share: scripts that run in a process of their own, recorded, replayed or neither.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local servers = dofile(folder .. "../support/servers.lua")

local support = {servers = servers}

-- What the scripts have: `base`, a client of either way, and a print that ports and secrets are left out of.
local PRELUDE = [[
local http, json, task = require "riverlua.http", require "riverlua.json", require "riverlua.task"
local base, way, extra = arg[1], arg[2] or "libcurl", arg[3]
local function new_client(options)
  local all = {base_url = base, proxy = false, decompress = way ~= "plain"}
  for name, value in pairs(options or {}) do all[name] = value end
  return http.Client(all)
end
local print_all = print
local function print(...)
  local parts = table.pack(...)
  for i = 1, parts.n do parts[i] = tostring(parts[i]):gsub("127%.0%.0%.1:%d+", "HERE") end
  print_all(table.unpack(parts, 1, parts.n))
end
local function show_error(fn, ...)
  local ok, err = pcall(fn, ...)
  if ok then return print("no error") end
  if type(err) ~= "table" then return print("raw error", err) end
  print(err.kind, err.phase, err.status, err.attempts, err.sent, err.retryable, err.message, err.hint)
end
]]

--- A folder's name that is not taken; removed by `support.clean`.
local folders = {}
function support.new_folder()
  local name = os.tmpname()
  os.remove(name)
  folders[#folders + 1] = name
  return name
end

function support.clean()
  for _, name in ipairs(folders) do os.execute("rm -rf " .. servers.quote(name)) end
  folders = {}
end

--- Runs a script with the prelude. `how`: "record", "replay" or nil; `options` as of servers.run, and `folder`.
function support.run(script, how, options)
  options = options or {}
  local environment = {RIVERLUA_PATH_DEV = os.getenv("RIVERLUA_PATH_DEV") or ""}
  for name, value in pairs(options.environment or {}) do environment[name] = value end
  if how then environment["RIVERLUA_" .. how:upper()] = options.folder end
  return servers.run(PRELUDE .. script, {args = options.args, environment = environment,
    seconds = options.seconds or 60, prefix = options.prefix})
end

--- The lines of all files of a recording, decoded, without the first of each.
function support.entries(name)
  local json = require "riverlua.json"
  local out = {}
  local pipe = assert(io.popen("cat " .. servers.quote(name) .. "/*.jsonl"))
  for line in pipe:lines() do
    local entry = json.decode(line)
    if entry.type ~= "recording" then out[#out + 1] = entry end
  end
  pipe:close()
  return out
end

--- All that the files of a recording hold.
function support.text(name)
  local pipe = assert(io.popen("cat " .. servers.quote(name) .. "/*"))
  local text = pipe:read("a")
  pipe:close()
  return text
end

--- The names of the files, in order.
function support.files(name)
  local names = require("riverlua.core.folder").list(name)
  table.sort(names)
  return names
end

--- Writes a recording of these entries (tables, or lines) and returns its folder.
function support.write(entries, file_name)
  local json = require "riverlua.json"
  local name = support.new_folder()
  assert(os.execute("mkdir " .. servers.quote(name)))
  local file = assert(io.open(name .. "/" .. (file_name or "001-made.jsonl"), "wb"))
  file:write('{"type":"recording","version":1}\n')
  for _, entry in ipairs(entries) do
    file:write(type(entry) == "table" and json.encode(entry) or entry, "\n")
  end
  file:close()
  return name
end

--- An entry: what is asked, and the text that is answered.
function support.entry(method, url, answer, body)
  return {type = "http", request = {method = method, url = url, body = body, headers = {}},
    answer = type(answer) == "table" and answer or {status = 200, headers = {}, body = answer}}
end

return support
