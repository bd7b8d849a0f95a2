--- What the specs of the parts beside gRPC share: the stand-in (servers/training_rest.py), folders, the vectors.

local json = require "riverlua.json"

local support = {}

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local servers = dofile(folder .. "../support/servers.lua")

support.folder, support.servers, support.error_of = folder, servers, servers.error_of

--- Starts the stand-in.
function support.start()
  return servers.start{servers.python(), servers.folder .. "training_rest.py"}
end

--- The lines of a file of this folder, decoded.
---@param name string
---@return table[]
function support.lines(name)
  local all = {}
  for line in io.lines(folder .. name) do all[#all + 1] = json.decode(line) end
  return all
end

--- The headers of a logged or recorded request by lower-case name.
---@param request table
---@return table<string, string>
function support.headers_of(request)
  local all = {}
  for _, pair in ipairs(request.headers) do all[pair[1]:lower()] = pair[2] end
  return all
end

--- A new folder's path; `remove(path)` takes it away.
function support.new_folder()
  local path = os.tmpname()
  os.remove(path)
  return path
end

function support.remove(path) os.execute("rm -rf " .. servers.quote(path)) end

--- Raises unless an error has this kind and says these texts.
---@param err any
---@param kind string
---@param ... string
function support.check_error(err, kind, ...)
  local text = tostring(err)
  assert(type(err) == "table" and err.kind == kind, ("kind '%s' is wanted: %s"):format(kind, text))
  for _, part in ipairs{...} do
    assert(text:find(part, 1, true), ("'%s' is not said: %s"):format(part, text))
  end
  return err
end

return support
