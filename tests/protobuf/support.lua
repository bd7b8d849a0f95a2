--- What the specs of protobuf share: .proto files compiled into shared objects, what Python makes of messages, dumps.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)")
local python = dofile(folder .. "../support/python.lua")
local protobuf = require "riverlua.protobuf"

local support = {}

local function quote(text) return "'" .. text:gsub("'", "'\\''") .. "'" end
support.quote = quote

--- Runs a command; fails with what it prints.
function support.run(command)
  local pipe = assert(io.popen("{ " .. command .. "; } 2>&1"))
  local text = pipe:read("a")
  assert(pipe:close(), command .. ":\n" .. text)
  return text
end

--- A new folder, and a function that removes it.
function support.new_folder()
  local path = os.tmpname()
  os.remove(path)
  support.run("mkdir " .. quote(path))
  return path, function() os.execute("rm -rf " .. quote(path)) end
end

function support.write(path, text)
  local file <close> = assert(io.open(path, "wb"))
  file:write(text)
end

--- Compiles .proto files of a folder into a shared object there and returns its path.
function support.compile(names, from, to, flags)
  local sources = {}
  for i, name in ipairs(names) do sources[i] = quote(to .. "/" .. name:gsub("%.proto$", ".pb-c.c")) end
  support.run(("cd %s && protoc-c --proto_path=. --c_out=%s %s"):format(quote(from), quote(to),
    table.concat(names, " ")))
  local path = to .. "/lib" .. names[1]:gsub("%.proto$", "") .. ".so"
  support.run(("%s -shared -fPIC -w %s -o %s %s -lprotobuf-c"):format(os.getenv("CC") or "cc", flags or "", quote(path),
    table.concat(sources, " ")))
  return path
end

--- The schema of everything2.proto and everything3.proto, compiled on first use.
function support.everything()
  if not support.schema then
    local path, remove = support.new_folder()
    local root = support.run("cd " .. quote(folder) .. " && pwd"):gsub("\n$", "")
    support.schema = protobuf.load(support.compile({"everything3.proto", "everything2.proto"}, root, path))
    remove()
  end
  return support.schema
end

--- The message type of a name, of that schema or of the training service.
function support.type_of(name)
  local schema = name:find("^river%.") and protobuf.training or support.everything()
  return schema:message(name)
end

local HEX = {}
for byte = 0, 255 do HEX[string.char(byte)] = ("%02x"):format(byte) end

function support.to_hex(bytes) return (bytes:gsub(".", HEX)) end
function support.from_hex(hex)
  return (hex:gsub("%s", ""):gsub("%x%x", function(digits) return string.char(tonumber(digits, 16)) end))
end

--- A number as a varint.
function support.varint(n)
  local bytes = ""
  while n < 0 or n > 127 do bytes, n = bytes .. string.char(n & 127 | 128), n >> 7 end
  return bytes .. string.char(n)
end

-- The 64 bits of a number given as digits, which Array may give for what Lua's integers cannot hold.
local function bits_of(digits)
  local n = 0
  for digit in digits:gmatch("%d") do n = n * 10 + math.tointeger(digit) end
  return n
end

--- Which values a table has, in one order; agreement.py makes the same of Python's messages.
function support.dump(value)
  local kind = math.type(value) or type(value)
  if kind == "string" then return "s" .. support.to_hex(value) end
  if kind == "integer" then return "i" .. value end
  if kind == "boolean" then return tostring(value) end
  if kind == "float" then return value ~= value and "nan" or "f" .. support.to_hex((">d"):pack(value)) end
  local items = {}
  if kind == "userdata" then
    for i = 1, #value do
      local element = value[i]
      items[i] = "i" .. i .. "=" .. support.dump(type(element) == "string" and bits_of(element) or element)
    end
  else
    for k, v in pairs(value) do items[#items + 1] = support.dump(k) .. "=" .. support.dump(v) end
  end
  table.sort(items)
  return "{" .. table.concat(items, ",") .. "}"
end

--- Runs agreement.py; what it prints.
function support.python(arguments)
  return support.run(("%s %s %s"):format(python.command, quote(folder .. "agreement.py"), arguments))
end

--- The error a call raises.
function support.error_of(...)
  local ok, err = pcall(...)
  assert(not ok, "no error is raised")
  return err
end

return support
