-- riverlua.server as clients see it: what they may send, what they get, and what they must not get away with.

local here = debug.getinfo(1, "S").source:match("^@(.*/)")
local servers = dofile(here .. "../support/servers.lua")
local json = require "riverlua.json"

-- Starts the server with `options`, runs a check of wire.py against it; returns what the server says ended it.
local function check(name, options)
  local server <close> = servers.start{servers.riverlua, here .. "echo_server.lua", json.encode(options or {})}
  local errors = os.tmpname()
  local ok = os.execute(("timeout 60 %s %swire.py %s %d %d 2>%s"):format(servers.python(), here, name,
    server.info.port, server.info.pid, errors))
  local text = servers.read_file(errors)
  os.remove(errors)
  assert(ok, text ~= "" and text or "no outcome within 60 s")
  local complaints = server:errors()
  local exited, how, code = server.pipe:close()
  server.pipe = nil
  local last = server.reader:read("l")
  server.reader:close()
  os.remove(server.complaints)
  assert.equal("", complaints)
  return last and json.decode(last).ended, exited, how, code
end

describe("the HTTP server", function()
  it("gives the handler what was sent, and the client what it answers", function() check "echo" end)
  it("answers 10,000 requests on one connection", function() check "many_on_one" end)
  it("answers pipelined requests in their order", function() check "pipelined" end)
  it("reads requests that come byte by byte", function() check "byte_by_byte" end)
  it("sends no body with HEAD and 204", function() check "head" end)
  it("speaks HTTP/1.0", function() check "old_version" end)
  it("lets clients go on that expect 100-continue", function() check "expectation" end)
  it("streams in chunks", function() check "streams" end)
  it("notices at once that the reader of a stream has gone", function() check "leaving" end)
  it("answers clients that have closed their sending side", function() check "half_closed" end)
  it("lets slow readers keep nobody waiting", function() check "slow_reader" end)
  it("answers Python's requests", function() check "with_requests" end)

  it("refuses what is no request", function() check "refusals" end)
  it("refuses requests that two servers could read in two ways", function() check "smuggling" end)
  it("refuses what is too much", function()
    check("too_much", {max_target = 100, max_head = 2000, max_headers = 20, max_body = 1000})
  end)
  it("hides the faults of its handler", function() check "handler_faults" end)
  it("does not wait for ever", function()
    check("lateness", {idle_timeout = 0.3, head_timeout = 0.3, body_timeout = 0.3, write_timeout = 0.3})
  end)

  it("serves 200 connections at once", function() check "crowd" end)
  it("accepts no more connections than it may", function() check("no_more_than_three", {max_connections = 3}) end)
  it("keeps room for others beside streams", function() check("streams_leave_room", {max_streams = 3}) end)
  it("frees what came of a body when the client goes away", function()
    check("bodies_are_freed", {max_body = 100000000, max_bodies = 300000000})
  end)
  it("limits what all bodies have together", function()
    check("bodies_share_their_room", {max_body = 3000000, max_bodies = 4000000})
  end)
  it("reads no large bodies of strangers", function()
    check("strangers_send_in_vain", {me = "me", max_body = 100000000})
  end)
  it("closes what it opened", function() check "nothing_leaks" end)

  it("answers what is under way when a handler stops it", function()
    assert.same({"stop", true, "exit", 0}, {check("stop_by_handler")})
  end)
  it("ends in order on Ctrl-C, within its time of grace", function()
    assert.same({"SIGINT", true, "exit", 0}, {check("interrupt", {grace = 0.5})})
  end)
  it("ends in order on SIGTERM", function()
    assert.same({"SIGTERM", true, "exit", 0}, {check("terminate", {grace = 0.5})})
  end)
  it("ends at once on a second Ctrl-C", function() assert.is_nil((check("second_interrupt"))) end)
end)
