-- The heartbeat of a session: what goes over the wire, what failures mean, and that nothing holds it up. All is counted
-- at the server; see tests/servers/heartbeat_server.py.

local here = debug.getinfo(1, "S").source:match("^@(.*/)")
local servers = dofile(here .. "../support/servers.lua")
local errors = require "riverlua.errors"
local heartbeat = require "training.heartbeat"
local json = require "riverlua.json"
local lfs = require "lfs"

local KEY = "river-secret-key-0123456789"

describe("a heartbeat", function()
  local server

  setup(function() server = servers.start{servers.python(), servers.folder .. "heartbeat_server.py"} end)
  teardown(function() server:close() end)
  before_each(function()
    server:control("/up")
    server:control("/reset")
  end)
  after_each(function() collectgarbage() end)

  local function start(options)
    local all = {address = "http://127.0.0.1:" .. server.info.port, session_id = "s-1", proxy = false,
      metadata = {["x-api-key"] = KEY}, interval = 0.005, pause = 0.002, deadline = 60}
    for name, value in pairs(options or {}) do all[name] = value end
    return heartbeat.start(all)
  end

  -- Waits until the server has seen what `query` says.
  local function await(query)
    local counts = server:control("/wait", query)
    assert.is_false(counts.timeout, "the server waited in vain")
    return counts
  end

  local function plan(default, first) server:control("/plan", {["do"] = first or "", default = default}) end

  -- When a third call after those of a beat has come, the beat is over and told of.
  local function await_failed_beat() await{calls = 4} end

  local function threads()
    local count = 0
    for _ in lfs.dir("/proc/self/task") do count = count + 1 end
    return count
  end

  describe("goes on", function()
    it("while Lua computes", function()
      local beat <close> = start()
      local sum = 0
      repeat   -- nothing here lets an event loop run
        for i = 1, 1000 do sum = sum + i % 7 end
      until beat:status().beats >= 10
      assert.is_true(server:control("/stats").calls >= 10)
      assert.equal(0, beat:status().failures)
    end)

    it("while the process waits for another program", function()
      local beat <close> = start()
      local code = "import sys, urllib.request as u; u.build_opener(u.ProxyHandler({})).open(sys.argv[1]).read()"
      assert(os.execute(("%s -c %s %s"):format(servers.python(), servers.quote(code),
        servers.quote(server:url("/wait?calls=10", "control")))))
      assert.is_true(beat:status().beats >= 9)
    end)

    it("one beat at a time, over one connection of its own", function()
      local beat <close> = start{interval = 0.001}
      local other <close> = start{interval = 0.001, session_id = "s-2"}
      local counts = await{calls = 60}
      assert.is_true(counts.sessions["s-1"] > 1 and counts.sessions["s-2"] > 1)
      local peers = {}
      for _, call in ipairs(server:control("/log")) do
        peers[call.session_id] = peers[call.session_id] or call.peer
        assert.equal(peers[call.session_id], call.peer)
      end
      assert.not_equal(peers["s-1"], peers["s-2"])
      assert.is_true(counts.most_open <= 2)
      assert.equal(1, beat:status().connections)
      assert.equal(0, other:status().failures)
    end)

    it("over TLS", function()
      local beat <close> = start{address = "127.0.0.1:" .. server.info.tls, ca_file = server.info.ca_file}
      await{calls = 3}
      assert.equal(0, beat:status().failures)
    end)
  end)

  it("says who it is, with a deadline, and nothing else", function()
    local beat <close> = start{user_agent = "river-client-lua/9", deadline = 30,
      metadata = {["x-api-key"] = KEY, ["X-Several"] = {"a", "b"}}}
    await{calls = 1}
    local call = server:control("/log")[1]
    assert.equal("s-1", call.session_id)
    assert.equal(KEY, call.metadata["x-api-key"])
    assert.not_nil(call.metadata["x-several"])
    assert.matches("^river%-client%-lua/9 ", call.metadata["user-agent"])
    assert.is_true(call.deadline > 0 and call.deadline <= 31)
    assert.is_nil(beat:check())
  end)

  describe("fails and", function()
    it("is tried three times, each time over a new connection, before it counts as failed", function()
      plan("hold", "UNAVAILABLE,UNAVAILABLE,ok")
      local beat <close> = start()
      local counts = await{calls = 4}
      assert.equal(3, #counts.peers)   -- the fourth call goes over the third connection
      local status = beat:status()
      assert.equal(1, status.beats)
      assert.equal(3, status.attempts)
      assert.equal(0, status.failures)
      assert.is_false(status.failing)
      assert.is_nil(status.error)
    end)

    it("raises nothing while the silence is short", function()
      plan("UNAVAILABLE:busy")
      local beat <close> = start()
      await_failed_beat()
      beat:check()
      local status = beat:status()
      assert.is_true(status.failing)
      assert.is_false(status.rejected)
      assert.equal(14, status.status)
      assert.equal("UNAVAILABLE", status.code)
      assert.matches("busy", status.error, 1, true)
      assert.is_nil(status.last_success)
    end)

    it("the session is lost when none comes through for long", function()
      plan("UNAVAILABLE:busy")
      local beat <close> = start{silence = 0, rejected = 1e6}
      await_failed_beat()
      local err = servers.error_of(beat.check, beat)
      assert.is_true(errors.is(err, "session_lost"))
      assert.equal("s-1", err.session_id)
      assert.equal("UNAVAILABLE", err.code)
      assert.equal(14, err.status)
      assert.is_false(err.rejected)
      assert.is_true(err.last_success_ago > 0)
      assert.matches("session s-1: lost: ", err.message, 1, true)
      assert.matches("busy", err.message, 1, true)
      assert.matches("last checkpoint", err.hint, 1, true)
    end)

    it("is forgotten when the next goes well", function()
      plan("hold", "UNAVAILABLE,UNAVAILABLE,UNAVAILABLE,ok")
      local beat <close> = start{silence = 0, rejected = 0}
      await{calls = 5}
      beat:check()
      local status = beat:status()
      assert.is_false(status.failing)
      assert.equal(1, status.failures)
      assert.not_nil(status.last_success)
      assert.equal("UNAVAILABLE", status.code)   -- of the last failure
    end)

    for _, case in ipairs{
      {"reject", nil}, {"empty", nil}, {"NOT_FOUND:none such", "NOT_FOUND"}, {"UNAUTHENTICATED", "UNAUTHENTICATED"},
      {"FAILED_PRECONDITION", "FAILED_PRECONDITION"},
    } do
      it(("%s is a rejection, which is borne for a shorter time"):format(case[1]), function()
        plan(case[1])
        local patient <close> = start{silence = 0, rejected = 1e6}
        await_failed_beat()
        patient:check()
        patient:stop()
        server:control("/reset")
        plan(case[1])
        local beat <close> = start{silence = 1e6, rejected = 0}
        await_failed_beat()
        local err = servers.error_of(beat.check, beat)
        assert.is_true(errors.is(err, "session_lost"))
        assert.is_true(err.rejected)
        assert.equal(case[2], err.code)
        assert.equal(1, beat:status().connections)   -- it is not the connection's fault
      end)
    end

    it("counts what the service rejects", function()
      plan("reject")
      local beat <close> = start()
      await_failed_beat()
      assert.is_true(beat:status().rejections >= 3)
      assert.matches("does not have the session", beat:status().error, 1, true)
    end)

    it("has a deadline", function()
      plan("hold")
      local beat <close> = start{deadline = 0.02, silence = 0, rejected = 1e6}
      local counts = await{calls = 4, gone = 3}
      assert.is_true(#counts.peers >= 3)   -- such a connection is not used again
      local err = servers.error_of(beat.check, beat)
      assert.equal("DEADLINE_EXCEEDED", err.code)
      assert.is_false(err.rejected)
    end)
  end)

  describe("survives", function()
    it("a burst of failures", function()
      plan("ok", ("UNAVAILABLE,"):rep(20) .. ("ABORTED,"):rep(4))
      local beat <close> = start{silence = 1e6, rejected = 1e6}
      await{calls = 30}
      assert.is_false(beat:status().failing)
      beat:check()
    end)

    it("a connection that is lost in the middle of a call", function()
      plan("ok", "ok,close")
      local beat <close> = start()
      await{calls = 6}
      assert.is_false(beat:status().failing)
      assert.is_true(beat:status().connections >= 2)
    end)

    it("a server that goes away for a while", function()
      local beat <close> = start{silence = 0, rejected = 1e6}
      await{calls = 2}
      server:control("/down")
      repeat until beat:status().failing
      local err = servers.error_of(beat.check, beat)
      assert.equal("UNAVAILABLE", err.code)
      server:control("/up")
      server:control("/reset")
      await{calls = 4}
      beat:check()
      assert.is_false(beat:status().failing)
    end)

    it("a server that is not there at first", function()
      server:control("/down")
      local beat <close> = start()
      repeat until beat:status().failing
      assert.equal("UNAVAILABLE", beat:status().code)
      server:control("/up")
      await{calls = 2}
      assert.is_false(beat:status().failing)
    end)

    it("a certificate that it does not trust", function()
      local beat <close> = start{address = "https://127.0.0.1:" .. server.info.tls}
      repeat until beat:status().failing
      assert.is_false(beat:status().rejected)
      assert.equal(0, server:control("/stats").calls)
    end)
  end)

  describe("is not impressed by", function()
    for action, code in pairs{garbage = "INTERNAL", huge = "RESOURCE_EXHAUSTED",
      ["raw:0a"] = "INTERNAL", ["raw:080112ffffffff7f"] = "INTERNAL", ["raw:0801000a"] = "INTERNAL"} do
      it(("the answer '%s'"):format(action), function()
        plan(action)
        local beat <close> = start{silence = 1e6, rejected = 0}
        await_failed_beat()
        local err = servers.error_of(beat.check, beat)
        assert.equal(code, err.code)
        assert.is_true(err.rejected)
        assert.same({}, beat:capacity())
      end)
    end

    it("a good answer with fields that it does not know", function()
      plan("raw:08017a03616263")
      local beat <close> = start()
      await{calls = 3}
      assert.equal(0, beat:status().failures)
    end)

    it("what a hostile server says in its details", function()
      plan("INTERNAL:a\27[2Jb\nc" .. ("x"):rep(2000))
      local beat <close> = start{rejected = 0}
      await_failed_beat()
      local err = servers.error_of(beat.check, beat)
      assert.is_nil(tostring(err):find("%c"))
      assert.is_true(#err.message < 800)
    end)
  end)

  it("never shows the key, also when the server does", function()
    plan("echo")
    local beat <close> = start{rejected = 0}
    await_failed_beat()
    local err = servers.error_of(beat.check, beat)
    assert.equal("UNAUTHENTICATED", err.code)
    assert.matches("the key *** is not known", err.message, 1, true)
    for _, text in ipairs{tostring(err), tostring(beat), beat:status().error} do
      assert.is_nil(text:find(KEY, 1, true))
    end
  end)

  describe("stops at once", function()
    local function stops(options, ready)
      local beat = start(options)
      if ready then ready(beat) end
      beat:stop()
      beat:stop()
      assert.is_true(beat:status().stopped)
      beat:check()
      return beat
    end

    it("while it waits for the next beat", function() stops{interval = 1e6} end)

    it("while it waits for an answer", function()
      plan("hold")
      stops({}, function() await{open = 1} end)
      await{gone = 1, open = 0}
    end)

    it("while it waits for the next attempt", function()
      plan("UNAVAILABLE")
      stops({pause = 1e6}, function() await{calls = 1} end)
    end)

    it("while it connects", function()
      local address = "http://127.0.0.1:" .. server.info.full
      stops{address = address, interval = 0.001, connect_timeout = 1e6, deadline = 1e6}
      stops({address = address, interval = 0.001, connect_timeout = 0.001, deadline = 1e6, attempts = 1},
        function(beat) repeat until beat:status().failing end)
      stops{address = "https://127.0.0.1:" .. server.info.full, interval = 0.001, connect_timeout = 1e6, deadline = 1e6}
    end)

    it("and keeps what it knew", function()
      local beat = stops({}, function() await{calls = 2} end)
      assert.is_true(beat:status().beats >= 1)
      assert.same({}, beat:capacity())
    end)

    it("when nobody has it any more", function()
      plan("hold")
      local before = threads()
      local held = {start()}
      await{open = 1}
      assert.equal(before + 1, threads())
      assert.equal(0, held[1]:status().beats)
      held[1] = nil
      collectgarbage()
      collectgarbage()
      await{open = 0}
      assert.equal(before, threads())
    end)

    it("and leaves neither threads nor files", function()
      stops()
      await{open = 0}
      local files, count = servers.open_files(), threads()
      for _ = 1, 20 do
        server:control("/reset")
        local plain <close> = start()
        local tls <close> = start{address = "127.0.0.1:" .. server.info.tls, ca_file = server.info.ca_file}
        await{calls = 4}
        assert.equal(0, plain:status().failures + tls:status().failures)
      end
      assert.equal(count, threads())
      assert.equal(files, servers.open_files())
    end)
  end)

  describe("carries the capacity of runs", function()
    local function set_capacity(...) server:control("/capacity", {list = json.encode{...}}) end

    -- A reply to a request that was sent from now on is there to be taken.
    local function await_reply()
      local calls = server:control("/stats").calls
      await{calls = calls + 3}
    end

    it("as the last reply told it", function()
      local beat <close> = start()
      await{calls = 2}
      assert.same({}, beat:capacity())
      set_capacity({training_run_id = "r1", workload = "training", state = "at_limit", capacity_wait = true, age = 3},
        {training_run_id = "r1", workload = "inference", state = "ready", age = 40},
        {training_run_id = "r1", workload = "coffee", state = "ready", age = 0})
      await_reply()
      local list = beat:capacity()
      assert.equal(2, #list)
      assert.equal("inference", list[1].workload)
      assert.equal("unavailable", list[1].state)
      assert.equal("at_limit", list[2].state)
      assert.is_true(list[2].capacity_wait)
      assert.equal("number", type(list[2].observed_at))
      set_capacity()
      await_reply()
      assert.same({}, beat:capacity())
    end)

    it("and keeps what it knows when replies fail, or the beat is stopped", function()
      set_capacity{training_run_id = "r1", workload = "training", state = "ready", age = 0}
      local beat <close> = start()
      await{calls = 2}
      assert.equal("ready", beat:capacity()[1].state)
      plan("reject")
      await_reply()
      assert.equal("ready", beat:capacity()[1].state)
      beat:stop()
      assert.equal("ready", beat:capacity()[1].state)
    end)

    it("unless they cannot be read, which loses no session", function()
      -- a run's id that is not UTF-8; one that is longer than the observation; a message of nothing but observations
      for _, action in ipairs{"raw:080112040a02ff61", "raw:080112020a05", "crowd"} do
        server:control("/reset")
        plan(action)
        local beat <close> = start{rejected = 0, hints = true}
        await{calls = 3}
        beat:check()
        assert.same({}, beat:capacity())
        assert.equal(0, beat:status().failures)
      end
    end)

    it("and gives hints when it is checked", function()
      set_capacity{training_run_id = "r1", workload = "training", state = "waiting", age = 0}
      local beat <close> = start{hints = true}
      local ahead, lines = 0, {}
      local clock = beat.monitor.clock
      beat.monitor.clock = function() return clock() + ahead end
      beat.monitor.write = function(line) lines[#lines + 1] = line end
      await{calls = 2}
      beat:check()
      assert.same({}, lines)
      ahead = 6
      await_reply()
      beat:check()
      assert.equal(1, #lines)
      assert.matches("r1, Training: requests wait", lines[1], 1, true)
    end)
  end)

  it("leaves the connection of other calls alone", function()
    local grpc = require "riverlua.grpc"
    local channel <close> = grpc.Channel{target = "http://127.0.0.1:" .. server.info.port, proxy = false}
    local beat <close> = start()
    await{calls = 2}
    channel:unary("/river.api.v1.RiverService/SessionHeartbeat", "\10\4main")
    await{calls = 6}
    local peers = {}
    for _, call in ipairs(server:control("/log")) do
      peers[call.session_id] = peers[call.session_id] or call.peer
      assert.equal(peers[call.session_id], call.peer)
    end
    assert.not_nil(peers.main)
    assert.not_equal(peers.main, peers["s-1"])
    assert.equal(0, beat:status().failures)
  end)

  it("leaves signals to the thread of the script", function()
    local beat <close> = start()
    local own = assert(io.open("/proc/self/stat")):read("a"):match("^%d+")
    local seen = 0
    for id in lfs.dir("/proc/self/task") do
      local name = id ~= own and id:match("^%d+$")
      local file = name and io.open("/proc/self/task/" .. name .. "/status")
      local blocked = file and tonumber(file:read("a"):match("SigBlk:%s*(%x+)"), 16)
      if file then file:close() end
      if blocked then
        seen = seen + 1
        for _, signal in ipairs{1, 2, 3, 10, 13, 14, 15, 17} do assert.not_equal(0, blocked >> (signal - 1) & 1) end
      end
    end
    assert.is_true(seen >= 1)
    assert.is_false(beat:status().stopped)
  end)

  -- ------------------------------------------------------------------------------------------------- processes

  describe("in a process", function()
    local function run(script, options)
      options = options or {}
      options.seconds = 30
      options.args = {"http://127.0.0.1:" .. server.info.port, "127.0.0.1:" .. server.info.tls, server.info.ca_file,
        "http://127.0.0.1:" .. server.info.full, table.unpack(options.more or {})}
      return servers.run([[
        local heartbeat = require "training.heartbeat"
        local plain, tls, ca_file, full = table.unpack(arg)
        function start(options)
          local all = {address = plain, session_id = "s-1", proxy = false, interval = 0.002, pause = 0.001,
            ca_file = ca_file, metadata = {["x-api-key"] = "river-secret-key"}, connect_timeout = 1e6, deadline = 1e6}
          for name, value in pairs(options or {}) do all[name] = value end
          kept = heartbeat.start(all)   -- until the state is closed
          return kept
        end
      ]] .. script, options)
    end

    local function check(result, code)
      assert.equal(code, result.code, result.out .. result.err)
      for _, word in ipairs{"AddressSanitizer", "runtime error:", "Assertion", "PANIC"} do
        assert.not_matches(word, result.err, 1, true)
      end
    end

    local states = {
      ["between two beats"] = "start{interval = 1e6}",
      ["in full swing"] = "local beat = start{interval = 0.001} repeat until beat:status().beats >= 3",
      ["in full swing over TLS"] =
        "local beat = start{address = tls, interval = 0.001} repeat until beat:status().beats >= 3",
      ["without an answer"] = "start{session_id = 'held'} require('riverlua.task').sleep(0.02)",
      ["without a connection"] = "start{address = full} require('riverlua.task').sleep(0.01)",
      ["before anything else"] = "start()",
    }
    for what, script in pairs(states) do
      it("ends with it " .. what, function()
        if what == "without an answer" then plan("hold") end
        check(run(script), 0)
        check(run(script .. "\nos.exit(7)"), 7)
        check(run(script .. "\nos.exit(true, true)"), 0)
        check(run(script .. "\nerror('the end')"), 1)
        plan("ok")
      end)
    end

    it("stops while a name is being resolved", function()
      local library, mark = os.tmpname() .. ".so", os.tmpname()
      assert(os.execute(("${CC:-cc} -shared -fPIC -o %s %s -ldl"):format(servers.quote(library),
        servers.quote(here .. "../support/slow_resolver.c"))))
      for _, ending in ipairs{"kept:stop() print('stopped')", "print('stopped')", "print('stopped') os.exit(0)"} do
        os.remove(mark)
        local result = run([[
          start{address = "http://never.resolved.test:80"}
          local file
          repeat file = io.open(arg[5]) until file
          file:close()
        ]] .. ending, {more = {mark}, environment = {LD_PRELOAD = library, RIVERLUA_RESOLVING = mark,
          ASAN_OPTIONS = "verify_asan_link_order=0:detect_leaks=0"}})
        check(result, 0)
        assert.equal("stopped\n", result.out)
      end
      os.remove(library)
      os.remove(mark)
    end)

    it("is not the forked process's", function()
      local library = servers.fork_library()
      local result = run([[
        local fork = assert(package.loadlib(arg[5], "luaopen_fork"))()
        local beat = start()
        repeat until beat:status().beats >= 2
        local pid = fork.fork()
        if pid == 0 then
          for _, name in ipairs{"check", "status", "capacity"} do
            local ok, err = pcall(beat[name], beat)
            print(name, ok, err.kind)
          end
          print("start", (select(2, pcall(start))).kind)
          beat:stop()
          os.exit(0, arg[6] == "close")
        end
        fork.wait(pid)
        local before = beat:status().beats
        repeat until beat:status().beats >= before + 5
        beat:check()
        print("parent", beat:status().failures)
      ]], {more = {library}, environment = {ASAN_OPTIONS = "verify_asan_link_order=0:detect_leaks=0"}})
      check(result, 0)
      assert.equal("check\tfalse\tclosed\nstatus\tfalse\tclosed\ncapacity\tfalse\tclosed\nstart\tclosed\n" ..
        "parent\t0\n", result.out, result.err)
      os.remove(library)
    end)

    it("hears of Ctrl-C as without it", function()
      local result = run[[
        local beat = start()
        local file = io.open("/proc/self/stat")
        local pid = file:read("a"):match("^%d+")
        io.popen("kill -INT " .. pid):close()   -- os.execute would have it ignored
        while true do beat:check() end
      ]]
      check(result, 130)
    end)
  end)

  -- ---------------------------------------------------------------------------------------------------- options

  describe("refuses", function()
    for what, options in pairs{
      ["unknown options"] = {intervall = 3}, ["a session without an id"] = {session_id = false},
      ["an interval of nothing"] = {interval = 0}, ["a negative pause"] = {pause = -1},
      ["no attempts"] = {attempts = 0},
      ["a deadline of nothing"] = {deadline = 0}, ["something that is no number"] = {silence = 0 / 0},
      ["an address that is none"] = {address = "ftp://example.com"}, ["an address with spaces"] = {address = "a b"},
      ["a proxy that is none"] = {proxy = true}, ["metadata that is none"] = {metadata = {["x-api-key"] = 3}},
      ["a name with spaces"] = {metadata = {["x api key"] = KEY}}, ["a value with line breaks"] =
        {metadata = {["x-api-key"] = KEY .. "\r\nx: y"}}, ["an id that is no text"] = {session_id = "\xff"},
      ["unknown names in keepalive"] = {keepalive = {every = 3}}, ["no keepalive"] = {keepalive = {interval = 0}},
      ["TLS over http"] = {tls = true}, ["a path"] = {address = "http://127.0.0.1/a"},
      ["a user agent with line breaks"] = {user_agent = "a\r\nb: c"}, ["an impossible port"] = {address = "a:70000"},
    } do
      it(what, function()
        local before = threads()
        local err = servers.error_of(start, options)
        assert.is_true(errors.is(err, "argument"), tostring(err))
        assert.is_nil(tostring(err):find(KEY, 1, true))
        assert.equal(before, threads())
      end)
    end

    it("dots for colons", function()
      local beat <close> = start{interval = 1e6}
      assert.is_true(errors.is(servers.error_of(beat.check), "argument"))
    end)
  end)
end)
