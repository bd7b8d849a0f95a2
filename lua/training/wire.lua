--- RPCs of the training service: messages in, messages out, tried again where that is safe.
--
-- Whether an RPC is sent again after UNAVAILABLE depends on what may have happened. When the service cannot have seen
-- the request, always. Otherwise nobody knows whether it acted, also when it was the service that said so (a balancer
-- before it says the same of a connection that broke): then only what does no harm twice (`safe`). A second model costs
-- little until the session ends: that one is risked when the service said so, and not when its answer got lost.

local clock = require "riverlua.clock"
local digest = require "riverlua.digest"
local errors = require "riverlua.errors"
local failure = require "training.failure"

local wire = {}

local PACKAGE = "river.api.v1."
local SERVICE = "river.api.v1.RiverService"
-- The service config of the official client: UNAVAILABLE, five attempts.
local ATTEMPTS, FIRST_DELAY, LONGEST_DELAY, JITTER = 5, 0.5, 8, 0.2
-- Around it, for what begins an operation: rounds of attempts.
local ROUND_DELAY, LONGEST_ROUND_DELAY, LONGEST_ROUNDS = 1, 8, 1800
-- An RPC that only starts or asks something is answered soon; operations take their time in RetrieveFuture.
local LONGEST_RPC = 300
-- Bytes a second at which a large request gets through at the least; it may have a gigabyte.
local SLOWEST = 500000

---@class training.Wire
---@field scrub fun(text: string): string
local Wire = {}
Wire.__index = Wire
Wire.__name = "training.Wire"

-- Random between 0 and 1, and not math.random: scripts seed that.
local function random() return (">I4"):unpack(digest.random(4)) / 2 ^ 32 end

--- Makes the wire of a client.
---@param options {transport: table, schema: table, key: string|nil, retries: boolean, trace: function|nil,
--- check_open: function}
---@return training.Wire
function wire.new(options)
  local service = options.schema:service(SERVICE)
  return setmetatable({
    transport = options.transport, schema = options.schema, methods = service.methods, retries = options.retries,
    scrub = failure.scrubber(options.key), trace = options.trace, check_open = options.check_open, types = {},
    calls = 0, retried = 0,
  }, Wire)
end

--- A message type by its short name.
---@param name string "OptimStepRequest"
function Wire:type(name)
  local known = self.types[name]
  if not known then
    known = self.schema:message(PACKAGE .. name)
    self.types[name] = known
  end
  return known
end

--- The bytes of a request.
---@param method string
---@param request table
---@param what string|nil the call, for errors
---@return string
function Wire:encode(method, request, what)
  local ok, bytes = pcall(self.methods[method].request.encode, self.methods[method].request, request)
  if ok then return bytes end
  if what and errors.is(bytes, "argument") then bytes.message = what .. ": " .. bytes.message end
  error(bytes, 0)
end

-- Whether to send it again now, after it failed. A server that goes away in an orderly manner says CANCELLED to what
-- reaches it too late.
local function may_repeat(err, sent, lost, tries, options)
  local passing = err.code == "UNAVAILABLE" and err.retryable ~= false
    or err.code == "CANCELLED" and err.from_server and tries < ATTEMPTS
  return passing and (not sent or options.safe == true or options.safe == "answered" and not lost)
end

local function tell(self, method, started, tries, err)
  if not self.trace then return end
  self.trace{method = method, seconds = clock.now() - started, attempts = tries, code = err and err.code or "OK"}
end

-- One attempt; the reply's bytes, or nil and the error.
local function attempt(self, method, bytes, options, seconds)
  self.check_open()
  self.calls = self.calls + 1
  local started = clock.now()
  local ok, reply = pcall(self.transport.rpc, self.transport, method, bytes, {timeout = seconds,
    previous_attempts = options.tries - 1, purpose = options.purpose})
  tell(self, method, started, options.tries, not ok and reply or nil)
  if ok then return reply end
  if not errors.is(reply, "grpc") then error(reply, 0) end
  return nil, reply
end

-- The message in a reply.
local function read_reply(self, method, bytes, options)
  local ok, reply = pcall(self.methods[method].response.decode, self.methods[method].response, bytes)
  if ok then return reply end
  if not errors.is(reply, "protocol") then error(reply, 0) end
  error(failure.protocol({what = options.what, request_id = options.request_id, checkpoint = options.checkpoint},
    ("the service's reply to %s cannot be read: %s"):format(method, reply.message)), 0)
end

local function back_off(first, longest, tries)
  return math.min(first * 2 ^ (tries - 1), longest) * (1 - JITTER + 2 * JITTER * random())
end

---@class training.RpcOptions
---@field what string the method as the user wrote it, for errors
---@field deadline number when the whole must be done, on riverlua.clock
---@field safe boolean|"answered"|nil a repeat does no harm; "answered": little, and it is sent again when the service
--- itself said UNAVAILABLE, but not when its answer got lost
---@field once boolean|nil never tried again
---@field rounds boolean|nil go on trying for half an hour: for what begins an operation
---@field before (fun())|nil called before it is tried again; may raise
---@field rpc_timeout number|nil longest wait for an answer
---@field purpose string|nil which connection: "main" (default), "session", "upload1" …
---@field bytes string|userdata|nil the encoded request; it may be a block (riverlua.core.block)
---@field request_id string|nil
---@field checkpoint string|nil

--- Calls a method and returns its reply. Raises the errors of training.failure.
---@param method string
---@param request table|nil nil when `options.bytes` has it
---@param options training.RpcOptions
---@return table
function Wire:rpc(method, request, options)
  local reply, err = self:try(method, request, options)
  if reply then return reply end
  error(failure.from_grpc({what = options.what, request_id = options.request_id, scrub = self.scrub,
    checkpoint = options.checkpoint}, err), 0)
end

--- The same, but returns nil and the gRPC error in place of raising it.
---@return table|nil reply
---@return table|nil err
function Wire:try(method, request, options)
  local bytes = options.bytes or self:encode(method, request, options.what)
  if type(bytes) ~= "string" and not self.transport.takes_blocks then bytes = bytes:sub() end
  local started = clock.now()
  local rounds_end = math.min(options.deadline, started + LONGEST_ROUNDS)
  local tries, round, in_round, sent, lost = 0, 1, 0, false, false
  while true do
    tries, in_round = tries + 1, in_round + 1
    local left = options.deadline - clock.now()
    local reply, err = attempt(self, method, bytes, {tries = tries, purpose = options.purpose},
      math.max(0.001, math.min(left, options.rpc_timeout or LONGEST_RPC + #bytes / SLOWEST)))
    if reply then return read_reply(self, method, reply, options) end
    sent, lost = sent or err.sent ~= false, lost or err.sent ~= false and not err.from_server
    err.attempts, err.sent = tries, sent
    if options.once or not self.retries or not may_repeat(err, sent, lost, tries, options) then return nil, err end
    local pause
    if in_round < ATTEMPTS then
      pause = back_off(FIRST_DELAY, LONGEST_DELAY, in_round)
    elseif options.rounds then
      pause = math.min(ROUND_DELAY * 2 ^ (round - 1), LONGEST_ROUND_DELAY)
      round, in_round = round + 1, 0
    end
    if not pause or clock.now() + pause >= (options.rounds and rounds_end or options.deadline) then return nil, err end
    if options.before and in_round == 0 then options.before() end
    self.retried = self.retried + 1
    self.transport:pause(pause)
  end
end

--- Calls a method whose answer is a stream and hands each message to `take`. Not tried again.
---@param method string
---@param request table
---@param options {timeout: number}
---@param take fun(reply: table)
---@return table|nil err a gRPC error
function Wire:stream(method, request, options, take)
  self.check_open()
  self.calls = self.calls + 1
  local bytes, response = self:encode(method, request), self.methods[method].response
  local started = clock.now()
  local ok, err = pcall(function()
    for reply in self.transport:stream(method, bytes, {timeout = options.timeout}) do take(response:decode(reply)) end
  end)
  tell(self, method, started, 1, not ok and err or nil)
  if ok then return nil end
  if not errors.is(err, "grpc") then error(err, 0) end
  return err
end

return wire
