--- A gRPC server inside riverlua: unary and server-streaming methods, each call a task of its own.
--
--     local grpc_server = require "riverlua.grpc_server"
--     local server <close> = grpc_server.Server{port = 50051, handlers = {
--       ["/echo.Echo/Say"] = function(request, call) return request end,
--       ["/echo.Echo/Repeat"] = {stream = function(request, call)
--         for _ = 1, 3 do call:send(request) end
--       end},
--     }}
--     server:run{signals = true}   -- until Ctrl-C, SIGTERM or server:stop() from another task
--
-- A request is bytes, or a table where a message type of riverlua.protobuf is given; so is what a handler returns.
-- A handler that fails raises kind "grpc" (`grpc_server.fail`); what else it raises the client sees as INTERNAL
-- without a word, and `on_error` is told. When the client's deadline passes, or it cancels the call, or is lost,
-- the handler's task is cancelled: what it waits for raises kind "cancelled".

local core = require "riverlua.core.grpc_server"
local errors = require "riverlua.errors"
local grpc_status = require("riverlua.grpc").status
local server_run = require "riverlua.server_run"
local task = require "riverlua.task"
local tasks = require "riverlua.core.task"

local grpc_server = {}

local MiB = 1024 * 1024
local MAX_MESSAGE = 2 ^ 31 - 1 | 0
-- Tasks without a call that wait for the next one: a new one for each costs as much as a small call.
local MAX_IDLE = 256

local DEFAULTS = {
  host = "127.0.0.1", port = 0, backlog = 511, max_connections = 512, max_streams = 256, max_calls = 4096,
  max_headers = 32768, max_message = 4 * MiB, handshake_timeout = 10, head_timeout = 20, request_timeout = 60,
  idle_timeout = 300, write_timeout = 60, grace = 10,
}
local OPTIONS = {handlers = true, dispatch = true, accept = true, on_error = true, max_requests = true}
for name in pairs(DEFAULTS) do OPTIONS[name] = true end

local NAMES = {}
for name, status in pairs(grpc_status) do NAMES[status] = name end

-- ------------------------------------------------------------------------------------------------------ failures

--- Raises an error that the client gets: its code, text and trailers.
---@param code string|integer "NOT_FOUND", or 5
---@param text string|nil what the client is told
---@param trailers table<string, string>|nil more for programs; values of names ending in -bin are any bytes
function grpc_server.fail(code, text, trailers)
  local status = grpc_status[code] or code
  if not NAMES[status] or status == 0 then
    errors.raise{kind = "argument",
      message = ("grpc_server.fail: '%s' is no code of a failure"):format(tostring(code))}
  end
  errors.raise{kind = "grpc", status = status, code = NAMES[status], details = text or "", trailers = trailers,
    message = text and ("%s: %s"):format(NAMES[status], text) or NAMES[status]}
end

-- The metadata of a table as the core takes it. Names are sorted, so that the same goes out in the same order.
local function list_of(given)
  local names, list = {}, {}
  for name in pairs(given) do names[#names + 1] = name end
  if #names > 1 then table.sort(names) end
  for _, name in ipairs(names) do
    local values = given[name]
    for _, value in ipairs(type(values) == "table" and values or {values}) do
      list[#list + 1], list[#list + 2] = name, value
    end
  end
  return list
end

-- What an error says for programs; what of it cannot be sent is left out, the status counts more.
local function add_trailers(call, given)
  if type(given) ~= "table" then return end
  for name, value in pairs(given) do
    if type(name) == "string" and type(value) == "string" then
      pcall(call.core.trailers, call.core, {name, value})
    end
  end
end

-- Metadata that a handler wants to be sent; its mistakes are its failures.
local function add_wanted(call, field, add)
  local given = rawget(call, field)
  if given == nil then return end
  call[field] = nil
  errors.expect("the handler", "call." .. field, given, "table")
  add(call.core, list_of(given))
end

local function say(self, problem, call)
  local ok, fault = pcall(self.on_error, problem, call)
  if not ok then io.stderr:write("riverlua.grpc_server: on_error failed: ", tostring(fault), "\n") end
end

local function default_on_error(problem, call)
  io.stderr:write("riverlua.grpc_server: ", call and call.method .. ": " or "", tostring(problem), "\n")
end

local function status_of(problem)
  local status = problem.status
  if math.type(status) ~= "integer" then status = grpc_status[problem.code] end
  return NAMES[status] and status ~= 0 and status or grpc_status.UNKNOWN
end

local function text_of(problem)
  local text = problem.details
  if type(text) ~= "string" or text == "" then text = problem.message end
  return type(text) == "string" and text or ""
end

-- Ends a call whose handler raised something.
local function finish_failed(self, call, problem)
  local core_call = call.core
  if errors.is(problem, "cancelled") or errors.is(problem, "interrupted") then
    if self.stopping then core_call:finish(grpc_status.UNAVAILABLE, "the server stops")
    else core_call:finish(grpc_status.CANCELLED, "the call was cancelled by the server") end
    error(problem, 0)
  elseif errors.is(problem, "grpc") then
    pcall(add_wanted, call, "headers", core_call.headers)
    pcall(add_wanted, call, "trailers", core_call.trailers)
    add_trailers(call, problem.trailers)
    core_call:finish(status_of(problem), text_of(problem))
  else
    core_call:finish(grpc_status.INTERNAL, "internal error")
    say(self, problem, call)
  end
end

-- --------------------------------------------------------------------------------------------------------- calls

---@class riverlua.GrpcServerCall
---@field method string "/package.Service/Method"
---@field metadata table<string, string> what came with it: lower-case name → value, several joined with ", "; bytes
---of names ending in -bin are decoded
---@field address string|nil the client's
---@field headers table|nil to be set before the first message: metadata that goes out with it
---@field trailers table|nil to be set before the end: metadata that goes out with the status
local Call = {__name = "riverlua.grpc_server.Call"}
local METHODS = {}

function Call.__index(self, name)
  if METHODS[name] then return METHODS[name] end
  local value
  if name == "metadata" then value = rawget(self, "core"):metadata()
  elseif name == "address" then value = rawget(self, "core"):address() end
  if value ~= nil then rawset(self, name, value) end
  return value
end

function Call:__tostring() return ("riverlua.grpc_server.Call(%s)"):format(self.method) end

--- Seconds until the client's deadline, or nil when it has none.
---@return number|nil
function METHODS:remaining() return self.core:remaining() end

--- Whether nobody waits for an answer any more.
---@return boolean
function METHODS:is_over() return self.core:is_over() end

-- The bytes of a message that a handler gives.
local function bytes_of(call, message)
  local response = call.response
  if response then return response:encode(message) end
  if type(message) ~= "string" then
    errors.raise{kind = "argument",
      message = ("the handler of %s must give a string, got %s"):format(call.method, type(message))}
  end
  return message
end

--- Sends a message of a streaming method; waits while the client is behind.
---@param message string|table
---@return boolean # whether the client still listens
function METHODS:send(message)
  if not self.streams then
    errors.raise{kind = "argument", message = ("%s is no streaming method: return its answer"):format(self.method),
      hint = "{stream = function(request, call) … end} makes a handler that streams"}
  end
  local bytes = bytes_of(self, message)
  add_wanted(self, "headers", self.core.headers)
  return self.core:send(bytes)
end

-- ------------------------------------------------------------------------------------------------------ handlers

local function decode(handler, call, bytes)
  local request = handler.request
  if not request then return bytes end
  local ok, value = pcall(request.decode, request, bytes)
  if ok then return value end
  if errors.is(value, "cancelled") then error(value, 0) end
  call.core:finish(grpc_status.INTERNAL, "the request is no message of the type that the method takes")
  return nil
end

local function run_stream(handler, call, request)
  call.streams = true
  local next_message, state, control, closing = handler.stream(request, call)
  if next_message ~= nil then
    errors.expect("the handler of " .. call.method, "result", next_message, "callable")
    local _ <close> = closing
    control = next_message(state, control)
    while control ~= nil do
      if not call:send(control) then return end
      control = next_message(state, control)
    end
  end
  add_wanted(call, "headers", call.core.headers)
  add_wanted(call, "trailers", call.core.trailers)
  call.core:finish(grpc_status.OK)
end

local function run_unary(handler, call, request)
  local bytes = bytes_of(call, handler.unary(request, call))
  add_wanted(call, "headers", call.core.headers)
  add_wanted(call, "trailers", call.core.trailers)
  call.core:send(bytes, true)
end

-- Answers a call.
local function answer(self, call)
  local handler = self.find(call.method)
  if not handler then
    return call.core:finish(grpc_status.UNIMPLEMENTED, ("there is no method %s"):format(call.method))
  end
  if self.accept then self.accept(call) end
  local bytes = call.core:receive()
  if bytes == nil then return end
  local request = decode(handler, call, bytes)
  if request == nil then return end
  call.response = handler.response or false
  if handler.stream then run_stream(handler, call, request)
  else run_unary(handler, call, request) end
end

local function run_call(self, core_call, id, method)
  local _ <close> = core_call
  self.running[id] = tasks.current()
  local call = setmetatable({core = core_call, method = method, response = false, streams = false}, Call)
  local ok, problem = pcall(answer, self, call)
  self.running[id] = nil
  if not ok then finish_failed(self, call, problem) end
end

local HANDLER = {unary = "callable|nil", stream = "callable|nil", request = "table|userdata|nil",
  response = "table|userdata|nil"}

local function check_handler(where, method, handler)
  if type(handler) == "function" then return {unary = handler} end
  errors.expect(where, method, handler, "table")
  for name in pairs(handler) do
    if not HANDLER[name] then errors.check_options(where .. ": " .. method, handler, HANDLER) end
  end
  for name, wanted in pairs(HANDLER) do errors.expect(where .. ": " .. method, name, handler[name], wanted) end
  if (handler.unary == nil) == (handler.stream == nil) then
    errors.raise{kind = "argument", message = ("%s: %s wants either 'unary' or 'stream'"):format(where, method)}
  end
  return handler
end

-- What finds the handler of a method.
local function finder(options)
  local handlers, dispatch = {}, options.dispatch
  for method, handler in pairs(options.handlers or {}) do
    if type(method) ~= "string" or not method:find("^/[^/]+/[^/]+$") then
      errors.raise{kind = "argument",
        message = ("grpc_server.Server: '%s' is not a method"):format(tostring(method)),
        hint = "such as /package.Service/Method"}
    end
    handlers[method] = check_handler("grpc_server.Server: handlers", method, handler)
  end
  if not dispatch then return function(method) return handlers[method] end end
  return function(method)
    if handlers[method] then return handlers[method] end
    local handler = dispatch(method)
    return handler and check_handler("grpc_server.Server: dispatch", method, handler)
  end
end

--- The handlers of a service of riverlua.protobuf, for `handlers`: requests and answers are tables.
---@param service table of riverlua.protobuf
---@param functions table<string, function|table> name of a method → `fn(request, call)`, or `{stream = fn}`
---@return table<string, table>
function grpc_server.service(service, functions)
  errors.expect("grpc_server.service", "functions", functions, "table")
  local handlers = {}
  for name, handler in pairs(functions) do
    local method = service.methods[name]
    if not method then
      local near = errors.suggest(tostring(name), service.methods)
      errors.raise{kind = "argument",
        message = ("%s: there is no method '%s'"):format(service.name, tostring(name)),
        hint = near and ("did you mean '%s'?"):format(near) or nil}
    end
    handler = check_handler("grpc_server.service", method.path, handler)
    handlers[method.path] = {unary = handler.unary, stream = handler.stream, request = method.request,
      response = method.response}
  end
  return handlers
end

-- ---------------------------------------------------------------------------------------------------- the server

---@class riverlua.GrpcServer
---@field host string
---@field port integer the one that was asked for, or that the system chose
local Server = {}
Server.__index = Server
Server.__name = "riverlua.GrpcServer"

local function check_limit(name, value, wanted)
  errors.expect("grpc_server.Server", name, value, wanted)
  if wanted ~= "string" and (value < 0 or value ~= value) then
    errors.raise{kind = "argument", message = ("grpc_server.Server: '%s' must not be negative"):format(name)}
  end
  return value
end

-- The options that are no functions, with their defaults.
local function limits_of(options)
  local all = {}
  for name, value in pairs(DEFAULTS) do
    if options[name] ~= nil then value = options[name] end
    local is_time = name:find("timeout") or name == "grace"
    local wanted = name == "host" and "string" or is_time and "number" or "integer"
    all[name] = check_limit(name, value, wanted)
  end
  if all.port > 65535 then
    errors.raise{kind = "argument", message = "grpc_server.Server: a port is at most 65535"}
  end
  if all.max_message > MAX_MESSAGE then
    errors.raise{kind = "argument", message = "grpc_server.Server: 'max_message' is at most 2^31-1"}
  end
  for _, name in ipairs{"max_streams", "max_calls", "max_headers"} do
    if all[name] < 1 then
      errors.raise{kind = "argument", message = ("grpc_server.Server: '%s' must be at least 1"):format(name)}
    end
  end
  local most = math.max(4 * all.max_message, 64 * MiB)
  all.max_requests = check_limit("max_requests", options.max_requests or most, "integer")
  if all.max_requests < all.max_message then
    errors.raise{kind = "argument", message = "grpc_server.Server: 'max_requests' must not be below 'max_message'"}
  end
  return all
end

--- Makes a server that listens (without TLS); connections wait until `run` is called.
---
--- `handlers`: "/package.Service/Method" → `fn(request, call)` that returns the answer, or `{stream = fn}`: it
--- sends any number of messages with `call:send(message)`, or returns an iterator of them. `{unary|stream = fn,
--- request = type, response = type}` with types of riverlua.protobuf: messages are tables; see
--- `grpc_server.service`.
--- `dispatch`: fun(method): handler|nil, for those that are not there. `accept`: fun(call), asked about each call
--- before its message is read; it refuses one by raising (`grpc_server.fail`). `on_error`: fun(problem, call),
--- what handlers raise that is not of kind "grpc" (default: a line on the standard error stream).
--- `host` ("127.0.0.1"), `port` (0: any free one), `backlog` (511).
--- Limits in seconds (0: none): `handshake_timeout` for the beginning of a connection (10), `head_timeout` for the
--- headers of a call (20), `request_timeout` for its message (60, and a second more for each 64 KiB),
--- `idle_timeout` without calls (300), `write_timeout` without progress of what is sent (60), `grace` that calls
--- under way get when the server stops (10). In bytes: `max_message` (4 MiB), `max_headers` (32 KiB),
--- `max_requests` of all calls under way (64 MiB, or 4 times `max_message` if that is more). In pieces:
--- `max_connections` (512; 0: any), `max_streams` of a connection (256), `max_calls` (4096).
---@param options table
---@return riverlua.GrpcServer
---Raises kind="connect" when the address or port cannot be had, kind="argument" for wrong options.
function grpc_server.Server(options)
  errors.expect("grpc_server.Server", "options", options, "table")
  errors.check_options("grpc_server.Server", options, OPTIONS)
  errors.expect("grpc_server.Server", "handlers", options.handlers, "table|nil")
  for _, name in ipairs{"dispatch", "accept", "on_error"} do
    errors.expect("grpc_server.Server", name, options[name], "callable|nil")
  end
  if not options.handlers and not options.dispatch then
    errors.raise{kind = "argument", message = "grpc_server.Server: 'handlers' or 'dispatch' is missing"}
  end
  local find = finder(options)
  local all = limits_of(options)
  local listening = core.listen(all)
  return setmetatable({
    host = all.host, port = listening:port(), grace = all.grace, find = find, accept = options.accept,
    on_error = options.on_error or default_on_error, core = listening, running = {}, stopping = false,
    jobs = {}, first = 1, last = 0, idle = 0, ready = tasks.signal(),
  }, Server)
end

local function cancel_all(self, why)
  for _, running in pairs(self.running) do running:cancel(why) end
end

-- Calls that have not ended in time are ended.
local function end_late(self)
  task.sleep(self.grace)
  cancel_all(self, "the server stops")
  task.sleep(1)
  self.core:close()
end

--- Takes no new connections and calls, and lets `run` return when those under way have ended (or `grace` has
--- passed). Any task may call it, also a handler.
function Server:stop()
  if self.stopping then return end
  self.stopping = true
  self.core:stop()
  if self.started then self.late = task.spawn(end_late, self) end
end

-- A task that runs one call after the other.
local function work(self)
  local jobs = self.jobs
  while true do
    local first = self.first
    if first <= self.last then
      local call, id, method = jobs[first], jobs[first + 1], jobs[first + 2]
      jobs[first], jobs[first + 1], jobs[first + 2] = nil, nil, nil
      self.first = first + 3
      run_call(self, call, id, method)
      if tasks.cancel_pending() then return end   -- that was meant for the call
    elseif self.stopping or self.idle >= MAX_IDLE then
      return
    else
      self.idle = self.idle + 1
      self.ready:wait()   -- who fires it counts one less
    end
  end
end

local function hand_over(self, call, id, method)
  local jobs, last = self.jobs, self.last
  jobs[last + 1], jobs[last + 2], jobs[last + 3] = call, id, method
  self.last = last + 3
  if self.idle > 0 then
    self.idle = self.idle - 1
    self.ready:fire_one()
  else
    task.spawn(work, self)
  end
end

local function take_calls(self)
  while true do
    local call, id, more = self.core:next()
    if call then
      hand_over(self, call, id, more)
    elseif id then
      local running = self.running[id]   -- nil: it has not begun, and will see for itself
      if running then running:cancel(more) end
    else
      return
    end
  end
end

-- Handlers may need a moment after the end of their calls.
local function join_all(self)
  local due = task.now() + self.grace
  for _, running in pairs(self.running) do
    if not running:join(math.max(0, due - task.now())) then return end
  end
end

local function serve(self)
  take_calls(self)
  join_all(self)
end

--- Serves until `stop` is called or, with `signals = true`, Ctrl-C or SIGTERM arrives; calls under way end first.
--- With `signals`, these two do nothing else meanwhile, and a second one ends the process as usual. `ready` is
--- called when all that is set up.
---@param options {signals: boolean|nil, ready: fun()|nil}|nil
---@return string|nil signal "SIGINT" or "SIGTERM" when one of them was the reason
function Server:run(options) return server_run.run(self, serve, options) end

--- Counts: `connections` and `calls` ever, `open` connections, calls `in_flight`, `bytes` of their requests.
---@return {connections: integer, calls: integer, open: integer, in_flight: integer, bytes: integer}
function Server:stats() return self.core:stats() end

--- Stops at once: connections are closed, and the tasks of their calls cancelled.
function Server:close()
  self.stopping = true
  self.core:close()
  cancel_all(self, "the server stops")
  self.idle = 0
  self.ready:fire()
  if self.late and self.late ~= task.current() then self.late:cancel("the server has stopped") end
end

Server.__close = Server.close

function Server:__tostring() return ("riverlua.GrpcServer(%s:%d)"):format(self.host, self.port) end

return grpc_server
