-- The public gRPC interop test service on riverlua.grpc_server, for interop_spec.lua and server_spec.lua.
--
--     riverlua interop_server.lua LIBRARY
--
-- LIBRARY has the messages of interop.proto. Prints one JSON line when it is ready and ends when its standard
-- input closes. Ports, control paths and `x-test-hold` are those of the Go server: see
-- tests/servers/grpc_interop/main.go.

local core = require "riverlua.core.task"
local errors = require "riverlua.errors"
local grpc_server = require "riverlua.grpc_server"
local http_server = require "riverlua.server"
local json = require "riverlua.json"
local protobuf = require "riverlua.protobuf"
local task = require "riverlua.task"

local WAIT_SECONDS = 10
local INITIAL, TRAILING = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"

local service = protobuf.load(arg[1]):service("grpc.testing.TestService")

-- ---- the ledger

local calls, changed = {}, core.signal()

local function stats()
  local out = {calls = #calls, connections = 0, running = 0, cancelled = 0, given_up = 0}
  local peers = {}
  for _, entry in ipairs(calls) do
    if not peers[entry.peer] then out.connections = out.connections + 1 end
    peers[entry.peer] = true
    if not entry.code and not entry.given_up then out.running = out.running + 1 end
    if entry.given_up then out.given_up = out.given_up + 1 end
    if entry.given_up == "cancelled" then out.cancelled = out.cancelled + 1 end
  end
  return out
end

local function holds(query)
  local counts = stats()
  for name, value in query:gmatch("([%w_]+)=(%d+)") do
    local count, wanted = counts[name], tonumber(value)
    if not count or count < wanted or (name == "running" and count ~= wanted) then return false end
  end
  return true
end

local function wait(query)
  local due = task.now() + WAIT_SECONDS
  while not holds(query) and task.now() < due do changed:wait(due - task.now()) end
  local out = stats()
  if not holds(query) then out.timeout = true end
  return out
end

local function control(req)
  local path, query = req.path:match("^([^?]*)%??(.*)$")
  local answer
  if path == "/wait" then answer = wait(query)
  elseif path == "/log" then answer = json.array(calls)
  elseif path == "/reset" then calls, answer = {}, true
  else answer = stats() end
  return {status = 200, headers = {["content-type"] = "application/json"}, body = json.encode(answer)}
end

-- Runs a handler under the eyes of the ledger.
local function observed(handler)
  return function(request, call)
    local entry = {method = call.method, peer = tostring(call.address), seconds = call:remaining()}
    calls[#calls + 1] = entry
    changed:fire()
    local ok, problem = pcall(function()
      if call.metadata["x-test-hold"] then core.signal():wait() end
      return handler(request, call)
    end)
    if not ok and errors.is(problem, "cancelled") then
      entry.given_up = problem.message:find("deadline") and "expired" or "cancelled"
    end
    entry.code = ok and "OK" or tostring(problem.code)
    changed:fire()
    if not ok then error(problem, 0) end
    return problem
  end
end

-- ---- the service

local function payload(size) return {body = ("\0"):rep(size)} end

local function echo(request, call)
  call.headers = {[INITIAL] = call.metadata[INITIAL]}
  call.trailers = {[TRAILING] = call.metadata[TRAILING]}
  local wanted = request.response_status
  if wanted and wanted.code ~= 0 then grpc_server.fail(wanted.code, wanted.message) end
end

local function send_all(request, call)
  for _, parameters in ipairs(request.response_parameters) do
    task.sleep(parameters.interval_us / 1e6)
    call:send{payload = payload(parameters.size)}
  end
end

local handlers = grpc_server.service(service, {
  EmptyCall = observed(function() return {} end),
  UnaryCall = observed(function(request, call)
    echo(request, call)
    local compressed = call.metadata["x-test-compressed"]   -- what the client says that it has done
    if request.expect_compressed and not compressed then grpc_server.fail("INVALID_ARGUMENT", "not compressed") end
    return {payload = payload(request.response_size)}
  end),
  StreamingOutputCall = {stream = observed(send_all)},
  FullDuplexCall = {stream = observed(function(request, call)
    echo(request, call)
    send_all(request, call)
  end)},
})

local options = {handlers = handlers, max_headers = 1 << 20}
local server <close> = grpc_server.Server(options)
options.max_streams = 2
local narrow <close> = grpc_server.Server(options)
local controller <close> = http_server.new{handler = control}

task.scope(function(scope)
  for _, one in ipairs{server, narrow, controller} do scope:spawn(one.run, one) end
  print(json.encode{http = server.port, narrow = narrow.port, control = controller.port, made_of = "riverlua"})
  io.stdout:flush()
  io.stdin:setvbuf("no")
  repeat core.wait_readable(0) until not io.stdin:read(1)
  for _, one in ipairs{server, narrow, controller} do one:stop() end
end)
