-- The same script prints the same on `embedded:`, on `riverlua serve river` and on the real server in its variants.

local here = debug.getinfo(1, "S").source:match("^@(.*/)")
local servers = dofile(here .. "../support/servers.lua")
local river_support = dofile(here .. "../river/support.lua")

local function run(address, environment)
  local result = servers.run(servers.read_file(here .. "same_script.lua"),
    {args = {address}, environment = environment, seconds = 120})
  assert.equal("", result.err)
  assert.equal(0, result.code)
  return result.out
end

local function on_real(environment)
  local server = river_support.start_server(environment)
  local ok, out = pcall(run, server.url, {RIVER_ML_USER = server.user, RIVER_ML_TOKEN = server.token})
  server.stop()
  assert(ok, out)
  return out
end

local function on_serve(user, token)
  local server <close> = servers.start({servers.riverlua, "serve", "river", "--json", "--stdin", "--port", "0"},
    {RIVER_ML_USER = user or "", RIVER_ML_TOKEN = token or ""})
  local out = run("http://127.0.0.1:" .. server.info.port, {RIVER_ML_USER = user or "", RIVER_ML_TOKEN = token or ""})
  assert.equal("", server:errors())
  return out
end

describe("the same script", function()
  local expected

  setup(function() expected = on_real{} end)

  it("prints something", function()
    local _, lines = expected:gsub("\n", "\n")
    assert.truthy(lines > 230, expected)
  end)
  it("prints the same on embedded:", function() assert.equal(expected, run("embedded:")) end)
  it("prints the same on serve river", function() assert.equal(expected, on_serve()) end)
  it("prints the same on serve river with a user", function()
    assert.equal(expected, on_serve("dinosaur", "0123456789abcdef"))
  end)
  it("prints the same on the real server with authentication", function()
    assert.equal(expected, on_real{DISABLE_AUTHENTICATION = "false"})
  end)

  it("prints the same on the real server with redis", function()
    if not servers.has("redis-server") then return pending("redis-server is not installed") end
    local redis <close> = servers.start{servers.python(), here .. "redis.py"}
    assert.equal(expected, on_real{STORAGE_BACKEND = "redis", REDIS_HOST = "127.0.0.1", REDIS_DB = "0",
      REDIS_PORT = tostring(redis.info.port)})
  end)
end)
