--- What the specs of the training stand-in share: it, and scripts that ask it with clients that others wrote.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
local standin = dofile(folder .. "../support/training.lua")
local json = require "riverlua.json"

local support = {standin = standin, folder = folder, vectors = folder .. "../training/vectors/training_requests.jsonl"}

--- The lines that a Python script of this folder prints about the server, as a list and by their names; null is absent.
---@param server table
---@param script string file name
---@param more string|nil another argument
function support.ask(server, script, more)
  local servers = standin.servers
  local words = {servers.quote(servers.python()), servers.quote(folder .. script),
    servers.quote(json.encode(server.info)), servers.quote(servers.folder), more and servers.quote(more) or ""}
  local pipe = assert(io.popen("timeout -k 5 240 " .. table.concat(words, " ") .. " 2>&1 </dev/null", "r"))
  local list, named, noise = {}, {}, {}
  for line in pipe:lines() do
    local ok, answer = pcall(json.decode, line, {drop_null = true})
    if ok and type(answer) == "table" and answer.name then
      list[#list + 1] = answer
      named[answer.name] = answer
    else
      noise[#noise + 1] = line
    end
  end
  if not pipe:close() then error(script .. " failed:\n" .. table.concat(noise, "\n")) end
  return list, named
end

--- A value without the tags of decoded JSON, for assert.same.
function support.plain(value)
  if type(value) ~= "table" then return value end
  local copy = {}
  for key, item in pairs(value) do copy[key] = support.plain(item) end
  return copy
end

return support
