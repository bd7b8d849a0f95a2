--- What the specs of the stand-in share: it, and scripts that ask it with clients that others wrote.

local servers = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../support/servers.lua")
local json = require "riverlua.json"

local support = {servers = servers}

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
local packages = "build/npm/node_modules"

--- Why the scripts for node cannot run here; nil when they can.
---@return string|nil
function support.no_node()
  if not servers.has("node") then return "node is not installed" end
  local file = io.open(packages .. "/phoenix/package.json")
  if not file then return "the npm packages are not installed (make test-deps)" end
  file:close()
  return nil
end

--- Starts the stand-in.
function support.start()
  return servers.start{servers.python(), servers.folder .. "stub_modelriver.py"}
end

-- The lines of a command by their names; null is absent.
local function answers_of(command)
  local pipe = assert(io.popen(command .. " </dev/null", "r"))
  local answers = {}
  for line in pipe:lines() do
    local answer = json.decode(line, {drop_null = true})
    answers[answer.name] = answer.value == nil and answer or answer.value
  end
  assert(pipe:close(), command .. " failed")
  return answers
end

--- Runs a Python script of this folder against the server.
---@param server table
---@param script string file name
---@return table<string, any> answers by name
function support.ask_python(server, script)
  return answers_of(table.concat({servers.quote(servers.python()), servers.quote(folder .. script),
    servers.quote(json.encode(server.info)), servers.quote(servers.folder)}, " "))
end

--- The same with node.
---@param server table
---@param script string file name
---@return table<string, any> answers by name
function support.ask_node(server, script)
  return answers_of(('NODE_PATH="$PWD/%s" node %s %s'):format(packages, servers.quote(folder .. script),
    servers.quote(json.encode(server.info))))
end

return support
