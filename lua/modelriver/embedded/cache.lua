--- Cache fields: parts of a request that come back with its answer.

local cache = {}

-- The value at a dotted path; numbers count from 0 in arrays.
local function at(value, path)
  for key in path:gmatch("[^.]+") do
    if type(value) ~= "table" then return nil end
    local direct = value[key]
    if direct == nil and key:find("^%d+$") and #key < 10 then direct = value[math.tointeger(tonumber(key)) + 1] end
    value = direct
  end
  return value
end

--- The values of the paths that the request has, under the paths as they were written.
---@param paths string[]
---@param request table
---@return table<string, any>
function cache.values(paths, request)
  local values = require("riverlua.json").object{}
  for _, path in ipairs(paths) do
    -- a name with a dot in it comes first
    local value = request[path]
    if value == nil then value = at(request, path) end
    values[path] = value
  end
  return values
end

return cache
