--- What the specs of `riverlua serve training` share: the server, and scripts with the official client.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
local json = require "riverlua.json"
local servers = dofile(folder .. "../support/servers.lua")

local support = {servers = servers, folder = folder, key = "test-key"}

--- Starts `riverlua serve training` with more options.
function support.start(...)
  return servers.start({servers.riverlua, "serve", "training", "--json", "--stdin", "--port", "0", ...},
    {RIVER_API_KEY = support.key})
end

-- A value without the tags of decoded JSON, for assert.same.
local function plain(value)
  if type(value) ~= "table" then return value end
  local copy = {}
  for key, item in pairs(value) do copy[key] = plain(item) end
  return copy
end

--- The lines that a Python script of this folder prints about the server, by their names; null is absent.
---@param server table
---@param script string file name
---@param ... string further arguments
function support.ask(server, script, ...)
  local words = {"RIVER_API_KEY=" .. support.key, "timeout -k 5 400", servers.quote(servers.python()),
    servers.quote(folder .. script), servers.quote(json.encode(server.info))}
  for _, word in ipairs{...} do words[#words + 1] = servers.quote(word) end
  local pipe = assert(io.popen(table.concat(words, " ") .. " 2>&1 </dev/null", "r"))
  local named, noise = {}, {}
  for line in pipe:lines() do
    local ok, answer = pcall(json.decode, line, {drop_null = true})
    if ok and type(answer) == "table" and answer.name then named[answer.name] = plain(answer)
    else noise[#noise + 1] = line end
  end
  if not pipe:close() then error(script .. " failed:\n" .. table.concat(noise, "\n")) end
  return named
end

return support
