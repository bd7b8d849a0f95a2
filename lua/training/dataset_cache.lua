--- Files that keep what was downloaded: each is replaced as a whole, and known to be whole when it is read.
--
-- A file is a line of JSON, {"format": "riverlua-dataset", "version": 1, "bytes": n, "sha256": "…"}, and n bytes.

local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local folder = require "riverlua.core.folder"
local json = require "riverlua.json"
local url = require "riverlua.url"

local cache = {}

local FORMAT, VERSION = "riverlua-dataset", 1
local LARGEST = 256 << 20

local decode = json.decoder{drop_null = true}

---@class training.DatasetCache
---@field path string
local Cache = {}
Cache.__index = Cache

local function fail(problem)
  errors.raise{kind = "storage", message = ("the cache of data sets cannot be used: %s"):format(problem),
    hint = "is the folder writable, and the disk not full? cache = false does without, cache = … takes another folder"}
end

--- The folder in which data sets are kept unless another one is named; nil when there is no home.
---@return string|nil
function cache.root()
  local root = os.getenv("XDG_CACHE_HOME")
  if not root or root:sub(1, 1) ~= "/" then
    local home = os.getenv("HOME")
    if not home or home == "" then return nil end
    root = home .. "/.cache"
  end
  return root .. "/riverlua/datasets"
end

-- A name as that of a file: readable, and of one part.
local function part(name)
  local text = name:gsub("/", "--")
  text = url.escape(text):gsub("^%.", "%%2E")
  if #text > 150 then text = text:sub(1, 100) .. "~" .. digest.hex(digest.sha256(name)):sub(1, 32) end
  return text
end

--- The cache below a root for something with these names.
---@param root string
---@param ... string
---@return training.DatasetCache
function cache.of(root, ...)
  local parts = {root}
  for _, name in ipairs{...} do parts[#parts + 1] = part(name) end
  return setmetatable({path = table.concat(parts, "/")}, Cache)
end

--- What was kept under a name; nil when there is nothing, or it is damaged.
---@param name string
---@return any|nil
function Cache:read(name)
  local file = io.open(self.path .. "/" .. name, "rb")
  if not file then return nil end
  local size = file:seek("end")
  local line, text
  if size and size <= LARGEST and file:seek("set") then line, text = file:read("L", "a") end
  file:close()
  local ok, head = pcall(decode, line or "")
  if not ok or type(head) ~= "table" or head.format ~= FORMAT or head.version ~= VERSION then return nil end
  if head.bytes ~= #text or head.sha256 ~= digest.hex(digest.sha256(text)) then return nil end
  local value
  ok, value = pcall(decode, text)
  return ok and value or nil
end

--- Keeps JSON text under a name.
---@param name string
---@param text string
function Cache:write(name, text)
  local ok, problem = folder.make(self.path)
  if not ok then fail(problem) end
  local head = json.encode({format = FORMAT, version = VERSION, bytes = #text,
    sha256 = digest.hex(digest.sha256(text))}, {sort = true})
  ok, problem = folder.replace(self.path .. "/" .. name, head .. "\n" .. text)
  if not ok then fail(problem) end
end

--- Removes what was kept.
function Cache:clear()
  for _, name in ipairs(folder.list(self.path) or {}) do
    if name:find("%.json$") then os.remove(self.path .. "/" .. name) end
  end
end

--- Keeps others away while something is downloaded; nil when somebody else does that now.
---@return { close: function }|nil
function Cache:lock()
  local ok, problem = folder.make(self.path)
  if not ok then fail(problem) end
  local lock, why = folder.lock(self.path .. "/lock")
  if lock then return lock end
  if why ~= "locked" then fail(why) end
  return nil
end

return cache
