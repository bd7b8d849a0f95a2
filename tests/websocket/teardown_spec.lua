-- Processes that end, fork or are interrupted while WebSockets are alive: the right code, no crash, nothing hangs.

local here = debug.getinfo(1, "S").source:match("^@(.*/)")
local support = dofile(here .. "support.lua")
local servers = support.servers

local prologue = [[
  local websocket, task = require "riverlua.websocket", require "riverlua.task"
  local echo, tls, ca, flood, hold, silent, full = table.unpack(arg)
  local function connect(address, options)
    options = options or {}
    options.proxy, options.ca_file = false, ca
    return websocket.connect(address, options)
  end
  -- a global keeps things alive until the state itself is closed
  kept = {}
]]

-- What is alive.
local live = {
  ["an idle WebSocket"] = "kept.ws = connect(echo)",
  ["an idle WebSocket over TLS"] = "kept.ws = connect(tls) kept.ws:send 'x' kept.ws:receive(5)",
  ["one that nobody holds"] = "connect(echo):send 'x'",
  ["one with messages that nobody received"] = [[
    kept.ws = connect(echo)
    for i = 1, 10 do kept.ws:send(("x"):rep(i * 10000)) end
    kept.ws:ping(nil, 5)]],
  ["one that a task receives from"] = "kept.ws = connect(echo) task.spawn(kept.ws.receive, kept.ws) task.sleep(0)",
  ["a task that opened it and receives"] = [[
    local begun = task.queue()
    kept.t = task.spawn(function()
      local ws <close> = connect(tls)
      begun:put(true)
      ws:receive()
    end)
    begun:get()]],
  ["one that sends to a server that does not read"] = [[
    kept.ws = connect(hold)
    task.spawn(function() while true do kept.ws:send(("x"):rep(1 << 20)) end end)
    task.sleep(0.02)]],
  ["one that is flooded"] = "kept.ws = connect(flood) kept.ws:receive(5)",
  ["one that a task closes"] = [[
    kept.ws = connect(hold)
    task.spawn(kept.ws.close, kept.ws, 1000, "", 100)
    task.sleep(0)]],
  ["one that was closed"] = "kept.ws = connect(echo) kept.ws:close()",
  ["one being connected"] = "task.spawn(pcall, connect, full) task.sleep(0.01)",
  ["one in its handshake"] = "task.spawn(pcall, connect, silent) task.sleep(0.02)",
  ["a server with a WebSocket of its own client"] = [[
    local server = require("riverlua.server").new{handler = function()
      return {websocket = function(ws) for data in ws:messages() do ws:send(data) end end}
    end}
    kept.server = task.spawn(server.run, server)
    kept.ws = connect("ws://127.0.0.1:" .. server.port .. "/")
    kept.ws:send("x")
    kept.ws:receive(5)]],
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

describe("a process with WebSockets", function()
  local peer, raw, stub, addresses

  setup(function()
    peer, raw, stub = support.peer(), support.raw(), servers.stub()
    addresses = {peer.url("/echo"), peer.url("/echo", "wss"), peer.info.ca_file,
      raw.url{["then"] = "flood", ["repeat"] = support.hex(support.frame(2, ("x"):rep(1000)))},
      raw.url{["then"] = "hold"}, raw.url{answer = "nothing"}, (stub:url("/", "full"):gsub("^http", "ws"))}
  end)
  teardown(function()
    stub:close()
    raw.close()
    peer.close()
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
  end

  for _, name in ipairs{"an idle WebSocket", "an idle WebSocket over TLS", "one that nobody holds",
    "one with messages that nobody received", "one that is flooded", "one that was closed"} do
    it("and " .. name .. " ends by its last line", function()
      local result = run(live[name])
      check(result, 0)
      assert.same({"", ""}, {result.out, result.err})
    end)
  end

  it("closes what a task has open when it is cancelled at the end", function()
    check(run([[
      task.spawn(function()
        local ws <close> = connect(echo .. "?id=end")
        ws:receive()
      end)
      task.sleep(0.1)
      os.exit(0, true)]]), 0)
    assert.equal(1001, peer.seen("end").code)
  end)

  it("says that a WebSocket cannot be opened while the state is closed", function()
    check(run([[
      setmetatable({}, {__gc = function()
        local ok, err = pcall(connect, echo)
        io.stdout:write(tostring(ok), " ", err.kind, "\n")
      end})
      kept.ws = connect(echo)]]), 0)
  end)

  describe("that forks", function()
    local library

    setup(function()
      library = servers.fork_library()
    end)
    teardown(function() os.remove(library) end)

    for _, child in ipairs{"os.exit(0, true)", "ws:close() os.exit(0, true)",
      "ws = nil collectgarbage() os.exit(0, true)",
      "print(select(2, pcall(ws.receive, ws)).kind, select(2, pcall(ws.send, ws, 'x')).kind) os.exit(0, true)"} do
      it("keeps its own when the child ends by " .. child, function()
        local result = run(([[
          local fork = assert(package.loadlib(%q, "luaopen_fork"))()
          local ws = connect(tls)
          ws:send("before")
          local pid = fork.fork()
          if pid == 0 then
            pcall(function() %s end)
            os.exit(0, true)
          end
          fork.wait(pid)
          print(ws:receive(5))
          ws:send("after")
          print(ws:receive(5))]]):format(library, child),
          {ASAN_OPTIONS = "verify_asan_link_order=0:detect_leaks=0"})
        check(result, 0)
        assert.matches("before\ttext\nafter\ttext\n$", result.out)
        if child:find("print", 1, true) then assert.matches("^closed\tclosed\n", result.out) end
      end)
    end
  end)
end)
