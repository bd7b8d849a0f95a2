-- The specs of gRPC and of the training client once more, on the libcurl 8 that `make curl8` puts beside an older one.

local lfs = require "lfs"
local servers = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../support/servers.lua")

local quote = servers.quote
local FOLDERS = {"tests/grpc", "tests/training"}
local SELF = "tests/grpc/newer_libcurl_spec.lua"
local SECONDS = 600

local folder = lfs.currentdir() .. "/build/curl8/lib"
local here = lfs.attributes(folder .. "/libcurl.so.4") ~= nil

-- What one command prints, and whether it ended well.
local function run(command)
  local pipe = assert(io.popen(("LD_LIBRARY_PATH=%s timeout -k 5 %d %s 2>&1"):format(quote(folder), SECONDS, command)))
  local text = pipe:read("a")
  return text, pipe:close()
end

local function specs()
  local paths = {}
  for _, where in ipairs(FOLDERS) do
    if lfs.attributes(where) then
      for name in lfs.dir(where) do
        local path = where .. "/" .. name
        if name:find("_spec%.lua$") and path ~= SELF then paths[#paths + 1] = path end
      end
    end
  end
  table.sort(paths)
  return paths
end

describe("libcurl 8", function()
  if not here then
    local said = servers.read_file("build/curl8/ready"):gsub("%s+$", "")
    pending(said ~= "" and said or "there is none; `make curl8` says why")
    return
  end

  it("is what riverlua takes when it is found first", function()
    local text = run(quote(servers.riverlua) .. " -e " .. quote[[
      local http = require "riverlua.http"
      local client <close> = http.Client{}
      print(client:stats().libcurl)
    ]])
    assert.matches("^8%.", text)
  end)

  for _, path in ipairs(specs()) do
    it("passes " .. path, function()
      local text, ok = run(('%s "$(command -v busted)" -o TAP %s'):format(quote(servers.riverlua), quote(path)))
      assert.is_true(ok, text)
      assert.matches("%f[^\n\0]ok ", text)
      assert.is_nil(text:find("\nnot ok ", 1, true), text)
    end)
  end
end)
