-- A process that serves and forks: the child must leave the parent's sockets alone.

local here = debug.getinfo(1, "S").source:match("^@(.*/)")
local servers = dofile(here .. "../support/servers.lua")

describe("after a fork, the parent serves on while the child", function()
  local library

  setup(function()
    library = servers.fork_library()
  end)
  teardown(function() os.remove(library) end)

  local function run(child)
    return servers.run(([[
      local http, task = require "riverlua.http", require "riverlua.task"
      local fork = assert(package.loadlib(arg[1], "luaopen_fork"))()
      local server = require("riverlua.server").new{handler = function() return {status = 200, body = "served"} end}
      local running = task.spawn(server.run, server)
      local client = http.Client{proxy = false, retries = 0, timeout = 10}
      local base = "http://127.0.0.1:" .. server.port
      print(client:get(base).body)
      io.stdout:flush()
      local pid = fork.fork()
      if pid == 0 then
        %s
      else
        fork.wait(pid)
        local res = client:get(base)
        print(res.body, res.reused)
        local other <close> = http.Client{proxy = false, retries = 0, timeout = 10}
        print(other:get(base).body)
        server:stop()
        running:await()
      end
    ]]):format(child), {args = {library}, seconds = 30,
      environment = {ASAN_OPTIONS = "verify_asan_link_order=0:detect_leaks=0"}})
  end

  for _, ending in ipairs{"ends", "closes the server", "stops the server", "tries to serve"} do
    it(ending, function()
      local result = run(({
        ["ends"] = "os.exit(0, true)",
        ["closes the server"] = "server:close() os.exit(0, true)",
        ["stops the server"] = "server:stop() os.exit(0, true)",
        ["tries to serve"] = [[
          local ok, err = pcall(server.listener.accept, server.listener)
          assert(not ok and err.message:find("forked"), tostring(err))
          os.exit(0, true)]],
      })[ending])
      assert.equal("served\nserved\ttrue\nserved\n", result.out, result.err)
      assert.equal(0, result.code, result.err)
    end)
  end
end)
