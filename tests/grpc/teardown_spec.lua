-- Processes that end, fork or are interrupted while gRPC channels are alive: the right code, no crash, nothing hangs.

local here = debug.getinfo(1, "S").source:match("^@(.*/)")
local support = dofile(here .. "support.lua")
local servers = support.servers

local prologue = [[
  local grpc, task = require "riverlua.grpc", require "riverlua.task"
  local plain, tls, ca, silent, closed = table.unpack(arg)
  local UNARY, STREAM = "/test.Echo/Unary", "/test.Echo/Stream"
  local function channel(target, options)
    options = options or {}
    options.target, options.proxy, options.ca_file = target, false, ca
    return grpc.Channel(options)
  end
  -- a global keeps things alive until the state itself is closed
  kept = {}
]]

-- What is alive.
local live = {
  ["a channel without a connection"] = "kept.ch = channel(plain)",
  ["an idle channel"] = "kept.ch = channel(plain) kept.ch:unary(UNARY, 'x')",
  ["an idle channel over TLS"] = "kept.ch = channel(tls) kept.ch:unary(UNARY, 'x')",
  ["a channel that nobody holds"] = "channel(plain):unary(UNARY, 'x')",
  ["a channel that was closed"] = "kept.ch = channel(plain) kept.ch:unary(UNARY, 'x') kept.ch:close()",
  ["a call that was not waited for"] = "kept.ch = channel(silent) kept.call = kept.ch:call(UNARY, 'x')",
  ["a call whose channel nobody holds"] = "kept.call = channel(silent):call(UNARY, 'x') task.sleep(0.01)",
  ["a call that nobody holds"] = "kept.ch = channel(silent) kept.ch:call(UNARY, 'x') task.sleep(0.01)",
  ["a call of a closed channel"] = [[
    local ch = channel(silent)
    kept.call = ch:call(UNARY, ("x"):rep(1 << 22))
    task.sleep(0.01)
    ch:close()]],
  ["a large call that does not get through"] = [[
    kept.ch = channel(silent)
    kept.call = kept.ch:call(UNARY, ("x"):rep(1 << 24))
    task.sleep(0.02)]],
  ["a task that waits for a call"] = [[
    kept.ch = channel(silent)
    task.spawn(kept.ch.unary, kept.ch, UNARY, "x")
    task.sleep(0.02)]],
  ["a stream that is read"] = [[
    kept.ch = channel(plain)
    kept.call = kept.ch:call(STREAM, "", {metadata = {count = "1000", size = "100000"}})
    kept.call:next()]],
  ["a task in the middle of a stream"] = [[
    task.spawn(function()
      local ch <close> = channel(tls)
      for _ in ch:stream(STREAM, "", {metadata = {hang = "1"}}) do task.sleep(0) end
    end)
    task.sleep(0.05)]],
  ["a call that waits for its next attempt"] = [[
    kept.ch = channel(closed, {retries = {initial = 100, cap = 100}})
    kept.call = kept.ch:call(UNARY, "x", {timeout = 1000})
    task.sleep(0.02)]],
  ["a call that waits for a server"] = [[
    kept.ch = channel(closed)
    kept.call = kept.ch:call(UNARY, "x", {wait_for_ready = true})
    task.sleep(0.02)]],
}

local ends = {
  {"an error", "error 'the end'", 1},
  {"os.exit(7)", "os.exit(7)", 7},
  {"os.exit(3, true)", "os.exit(3, true)", 3},
  {"os.exit(4, true) in a task", "task.spawn(os.exit, 4, true):await()", 4},
  {"an interrupt", "local f = io.popen('kill -INT $PPID') f:close() while true do task.sleep(0.01) end", 130},
}

local names = {}
for name in pairs(live) do names[#names + 1] = name end
table.sort(names)

describe("a process with gRPC channels", function()
  local echo, raw, addresses

  setup(function()
    echo, raw = support.echo(), support.raw()
    addresses = {echo.target(), echo.target("tls"), echo.info.ca_file, raw.target("silent"), "http://127.0.0.1:1"}
  end)
  teardown(function()
    echo.close()
    raw.close()
  end)

  local function run(script, environment)
    return servers.run(prologue .. script, {args = addresses, seconds = 30, environment = environment})
  end

  local function check(result, code)
    assert.equal(code, result.code, result.out .. result.err)
    for _, word in ipairs{"AddressSanitizer", "LeakSanitizer", "runtime error:", "Assertion", "PANIC"} do
      assert.not_matches(word, result.err, 1, true)
    end
  end

  for _, name in ipairs(names) do
    for _, ending in ipairs(ends) do
      it("and " .. name .. " ends by " .. ending[1], function()
        check(run(live[name] .. "\n" .. ending[2]), ending[3])
      end)
    end
    if not name:find("task", 1, true) then   -- those are waited for
      it("and " .. name .. " ends by its last line", function()
        local result = run(live[name])
        check(result, 0)
        assert.same({"", ""}, {result.out, result.err})
      end)
    end
  end

  it("is told of a deadlock in spite of the PINGs of a channel", function()
    check(run([[
      kept.ch = channel(plain, {keepalive = {interval = 0.01}})
      kept.ch:unary(UNARY, "x")
      local ok, err = pcall(function() task.queue():get() end)
      os.exit(not ok and err.kind == "deadlock" and 5 or 1, true)]]), 5)
  end)

  it("collects channels and calls in any order", function()
    check(run([[
      for i = 1, 200 do
        local ch = channel(i % 2 == 0 and silent or plain)
        local calls = {}
        for j = 1, i % 4 do calls[j] = ch:call(UNARY, "x") end
        if i % 3 == 0 then ch = nil end
        if i % 5 == 0 then calls = nil end
        if i % 7 == 0 then task.sleep(0) end
        if i % 11 == 0 then collectgarbage() end
        kept[i % 10] = i % 2 == 0 and calls or ch
      end]]), 0)
  end)

  it("says that a channel cannot be used while the state is closed", function()
    local result = run([[
      setmetatable({}, {__gc = function()
        local ok, err = pcall(function() return channel(plain):unary(UNARY, "x") end)
        io.stdout:write(tostring(ok), " ", err.kind, "\n")
      end})
      kept.ch = channel(plain)
      kept.ch:unary(UNARY, "x")]])
    check(result, 0)
    assert.equal("false closed\n", result.out)
  end)

  describe("that forks", function()
    local library

    setup(function() library = servers.fork_library() end)
    teardown(function() os.remove(library) end)

    for _, child in ipairs{"os.exit(0, true)", "ch:close() os.exit(0, true)", "call:cancel() os.exit(0, true)",
      "ch = nil call = nil collectgarbage() os.exit(0, true)",
      "print(select(2, pcall(ch.unary, ch, UNARY, 'x')).kind) os.exit(0, true)"} do
      it("keeps its own when the child ends by " .. child, function()
        local result = run(([[
          local fork = assert(package.loadlib(%q, "luaopen_fork"))()
          local ch = channel(tls)
          local call = ch:call(STREAM, "", {metadata = {count = "2"}})
          print(call:next())
          io.stdout:flush()
          local pid = fork.fork()
          if pid == 0 then
            pcall(function() %s end)
            os.exit(0, true)
          end
          fork.wait(pid)
          print(call:next())
          print(ch:stats().connections, (ch:unary(UNARY, "x")))]]):format(library, child),
          {ASAN_OPTIONS = "verify_asan_link_order=0:detect_leaks=0"})
        check(result, 0)
        assert.matches("1:\n1\tx\n$", result.out)
        if child:find("print", 1, true) then assert.matches("^0:\nclosed\n", result.out) end
      end)
    end
  end)
end)
