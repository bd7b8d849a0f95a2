-- What a handler of riverlua.grpc_server sends arrives, whoever sends it: client and server are in this process.

local grpc = require "riverlua.grpc"
local grpc_server = require "riverlua.grpc_server"
local task = require "riverlua.task"

local METHOD, SIZE = "/test.Send/Stream", 8 << 20

describe("riverlua.grpc_server", function()
  it("sends a message whole whose handler did not wait for it", function()
    local begun = task.queue()
    local server <close> = grpc_server.Server{handlers = {[METHOD] = {stream = function(_, call)
      task.spawn(function() call:send(("0123456789abcdef"):rep(SIZE // 16)) end)
      task.sleep(0)
      begun:put(true)
    end}}}
    local running <close> = task.spawn(function() server:run() end)   -- luacheck: ignore 211
    local channel <close> = grpc.Channel{target = "http://127.0.0.1:" .. server.port, max_message = 2 * SIZE}
    local waiting = task.spawn(function()
      local got
      for message in channel:stream(METHOD, "x") do got = message end
      return got
    end)
    begun:get()
    for _ = 1, 5 do
      task.sleep(0)
      collectgarbage()   -- nobody but the connection has the message now
    end
    local got = waiting:await()
    assert.equal(SIZE, #got)
    assert.is_true(got == ("0123456789abcdef"):rep(SIZE // 16))
  end)
end)
