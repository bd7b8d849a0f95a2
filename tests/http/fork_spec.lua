-- A process that forks: the child must leave the parent's connections and its event loop alone.

local here = debug.getinfo(1, "S").source:match("^@(.*/)")
local servers = dofile(here .. "../support/servers.lua")

describe("after a fork", function()
  local stub, library

  setup(function()
    stub = servers.stub()
    library = servers.fork_library()
  end)
  teardown(function()
    stub:close()
    os.remove(library)
  end)

  -- `child` runs in the forked process, `parent` in the other; a transfer is in flight across the fork.
  local function run(child, parent)
    return servers.run(([[
      local http, task = require "riverlua.http", require "riverlua.task"
      local fork = assert(package.loadlib(arg[1], "luaopen_fork"))()
      local client = http.Client{proxy = false, retries = 0, timeout = 10}
      client:get(arg[2] .. "/")
      local pending = task.spawn(client.get, client, arg[2] .. "/delay?seconds=0.3")
      task.sleep(0.05)
      local pid = fork.fork()
      if pid == 0 then
        %s
      else
        fork.wait(pid)
        print(pending:await().body)
        %s
      end
    ]]):format(child, parent or ""), {args = {library, stub:url()}, seconds = 30,
      environment = {ASAN_OPTIONS = "verify_asan_link_order=0:detect_leaks=0"}})
  end

  for _, ending in ipairs{"os.exit(0, true)", "client:close() os.exit(0, true)", "pending:cancel() os.exit(0, true)"} do
    it("the parent's transfer survives a child that ends by " .. ending, function()
      local result = run(ending)
      assert.equal("late\n", result.out, result.err)
      assert.equal(0, result.code)
    end)
  end

  it("the child is told why it cannot go on", function()
    local result = run([[
      local _, err = pcall(client.get, client, arg[2] .. "/")
      print(err.kind, err.message)
      os.exit(0, true)]])
    assert.matches("forked", result.out, 1, true)
  end)
end)
