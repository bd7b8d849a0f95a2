--- References between schemas: URIs resolved (RFC 3986, section 5), JSON pointers read and written (RFC 6901).

local uri = {}

-- Scheme, authority, path and query of a URI without fragment; nil for what is not there.
local function parse(text)
  local scheme, rest = text:match("^(%a[%w+.-]*):(.*)$")
  rest = rest or text
  local before, query = rest:match("^([^?]*)%?(.*)$")
  rest = before or rest
  local authority, path = rest:match("^//([^/]*)(.*)$")
  return {scheme = scheme, authority = authority, path = path or rest, query = query}
end

local function compose(parts)
  return (parts.scheme and parts.scheme .. ":" or "") .. (parts.authority and "//" .. parts.authority or "")
    .. parts.path .. (parts.query and "?" .. parts.query or "")
end

local function without_dots(path)
  local kept, rooted = {}, path:sub(1, 1) == "/"
  local last
  for segment in (rooted and path:sub(2) or path):gmatch("[^/]*") do
    last = segment
    if segment == ".." then
      kept[#kept] = nil
    elseif segment ~= "." then
      kept[#kept + 1] = segment
    end
  end
  if last == "." or last == ".." then kept[#kept + 1] = "" end
  return (rooted and "/" or "") .. table.concat(kept, "/")
end

--- The URI before its fragment, and the fragment without "#" (nil without one).
---@param text string
---@return string
---@return string|nil
function uri.split(text)
  local before, fragment = text:match("^([^#]*)#(.*)$")
  return before or text, fragment
end

--- A reference (without fragment) seen from a base, which may be "".
---@param base string
---@param reference string
---@return string
function uri.resolve(base, reference)
  local to = parse(reference)
  if to.scheme then return reference end
  local from = parse(base)
  to.scheme = from.scheme
  if to.authority then return compose(to) end
  to.authority = from.authority
  if to.path == "" then
    to.path, to.query = from.path, to.query or from.query
  elseif to.path:sub(1, 1) == "/" then
    to.path = without_dots(to.path)
  else
    local folder = from.path:match("^(.*/)") or (from.authority and "/") or ""
    to.path = without_dots(folder .. to.path)
  end
  return compose(to)
end

--- The bytes of a text in which %XX stands for a byte.
---@param text string
---@return string
function uri.unescape(text)
  return (text:gsub("%%(%x%x)", function(digits) return string.char(tonumber(digits, 16)) end))
end

--- A step of a JSON pointer as it is written.
---@param step string|integer
---@return string
function uri.pointer_step(step)
  return (tostring(step):gsub("~", "~0"):gsub("/", "~1"))
end

--- An iterator over the steps of a JSON pointer.
---@param pointer string "" or with "/" in front
---@return fun(): string|nil
function uri.pointer_steps(pointer)
  local steps = pointer:gmatch("/([^/]*)")
  return function()
    local step = steps()
    return step and (step:gsub("~1", "/"):gsub("~0", "~"))
  end
end

return uri
