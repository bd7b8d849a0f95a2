-- One call, the process included: grpc_once.lua BASE

local grpc = require "riverlua.grpc"

local channel <close> = grpc.Channel{target = arg[1], proxy = false}
assert(channel:unary("/bench/Unary.grpc", "hello") == "hello")
