--- What the specs of the embedded trainer's files share. Specs load this file with dofile.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"

local files = {}

files.servers = dofile(here .. "../support/servers.lua")

local quote = files.servers.quote

--- A new folder's path; `remove(path)` takes it away.
function files.new_folder()
  local path = os.tmpname()
  os.remove(path)
  return path
end

function files.remove(path) os.execute("rm -rf " .. quote(path)) end

function files.write(path, bytes)
  local file <close> = assert(io.open(path, "wb"))
  assert(file:write(bytes))
end

files.read = files.servers.read_file

--- Paths of all files in a folder and those within it, and of empty folders: sorted, one a line.
function files.tree(path)
  local command = ("cd %s && find . -type f -o -type d -empty | LC_ALL=C sort"):format(quote(path))
  local pipe <close> = assert(io.popen(command))
  return pipe:read("a")
end

--- Runs a script with the Python of the tests and gives what it prints.
---@param source string
---@param ... string arguments
function files.python(source, ...)
  local path = os.tmpname()
  files.write(path, source)
  local words = {quote(files.servers.python()), quote(path)}
  for _, word in ipairs{...} do words[#words + 1] = quote(word) end
  local pipe = assert(io.popen(table.concat(words, " ") .. " 2>&1"))
  local out = pipe:read("a")
  local ok = pipe:close()
  os.remove(path)
  assert(ok, out)
  return out
end

--- Raises unless calling `fn` raises an error of this kind that says these texts.
---@return riverlua.Error
function files.refused(kind, texts, fn, ...)
  local err = files.servers.error_of(fn, ...)
  assert(type(err) == "table" and err.kind == kind, ("kind '%s' is wanted: %s"):format(kind, tostring(err)))
  for _, text in ipairs(texts) do
    assert(tostring(err):find(text, 1, true), ("'%s' is not said: %s"):format(text, tostring(err)))
  end
  return err
end

return files
