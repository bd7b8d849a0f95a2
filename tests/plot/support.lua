--- What the specs of riverlua.plot share.

local support = {}

--- Lines of a text.
function support.lines(text)
  local list = {}
  for line in (text .. "\n"):gmatch("(.-)\n") do list[#list + 1] = line end
  return list
end

--- A folder of its own that is gone with the variable.
function support.folder()
  local path = os.tmpname()
  os.remove(path)
  assert(require("riverlua.core.folder").make(path))
  return setmetatable({path = path}, {__close = function() os.execute("rm -rf '" .. path .. "'") end})
end

--- The bytes of a file; nil when it is not there.
function support.read(path)
  local file <close> = io.open(path, "rb")
  return file and file:read("a")
end

--- Raises unless this fails with an error of kind "argument" that says so.
function support.refuses(words, fn, ...)
  local ok, err = pcall(fn, ...)
  assert(not ok, "it is taken")
  assert(type(err) == "table" and err.kind == "argument", tostring(err))
  assert(tostring(err):find(words, 1, true), tostring(err))
end

return support
