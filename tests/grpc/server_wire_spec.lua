-- riverlua.grpc_server as clients see it: what they may send, what they get, and what they must not get away with.

local here = debug.getinfo(1, "S").source:match("^@(.*/)")
local servers = dofile(here .. "../support/servers.lua")
local json = require "riverlua.json"

-- Starts the server with `options`, runs a check of server_wire.py against it; returns what the server says ended
-- it, and what else it said.
local function check(name, options)
  local server <close> = servers.start{servers.riverlua, here .. "echo_server.lua", json.encode(options or {})}
  local errors = os.tmpname()
  local ok = os.execute(("timeout 90 %s %sserver_wire.py %s %d %d 2>%s"):format(servers.python(), here, name,
    server.info.port, server.info.pid, errors))
  local text = servers.read_file(errors)
  os.remove(errors)
  assert(ok, text ~= "" and text or "no outcome within 90 s")
  local complaints = server:errors()
  server.pipe:close()
  server.pipe = nil
  local said = {}
  for line in server.reader:lines() do said[#said + 1] = line end
  server.reader:close()
  os.remove(server.complaints)
  assert.equal("", complaints)
  return json.decode(table.remove(said)).ended, said
end

local EASY = {max_message = 100000}

describe("the gRPC server", function()
  it("gives the handler what was sent, and the client what it answers", function() check("calls", EASY) end)
  it("refuses what is no call of gRPC", function() check("refusals", EASY) end)
  it("takes compressed messages, but no bombs", function() check("compressed", EASY) end)
  it("refuses what is too large", function() check("too_large", {max_message = 100000, max_headers = 2500}) end)
  it("ends connections that are no HTTP/2", function() check "foreigners" end)
  it("answers PINGs", function() check "pings" end)
  it("ends floods of frames", function() check("floods", {max_headers = 10000}) end)
  it("takes nobody for a flood who is none", function() check "honest" end)
  it("does not wait for ever", function()
    check("lateness", {handshake_timeout = 1, head_timeout = 1, request_timeout = 1, idle_timeout = 1,
      write_timeout = 1})
  end)
  it("limits what is under way at a time", function() check("too_many", {max_streams = 5, max_calls = 12}) end)
  it("lets strangers send little", function() check("strangers", {me = "me"}) end)
  it("limits what all requests have together", function()
    check("shared_room", {max_message = 3000000, max_requests = 4000000})
  end)
  it("cancels the handlers of clients that leave", function() check "leaving" end)
  it("minds the windows of streams", function() check "windows" end)
  it("hides the faults of its handlers", function()
    local _, said = check "faults"
    assert.same({"/t.T/Bug: a secret"}, said)
  end)
  it("ends by SIGTERM after its calls", function() assert.equal("SIGTERM", (check "farewell")) end)
  it("sends the last answer before it ends", function() assert.equal("SIGTERM", (check "last_answer")) end)
  it("takes large messages", function() check("large", {max_message = 1 << 30}) end)
end)
