-- training.serve with a service of its own: what it makes of what a service says, keys, ends of sessions.

local support = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "support.lua")
local core = require "riverlua.core.task"
local errors = require "riverlua.errors"
local grpc = require "riverlua.grpc"
local serve = require "training.serve"
local task = require "riverlua.task"

local error_of = support.servers.error_of
local PATH = "/river.api.v1.RiverService/"

local function refusal(code, text, more)
  local fields = {kind = "grpc", status = grpc.status[code], code = code, details = text, message = text}
  for name, value in pairs(more or {}) do fields[name] = value end
  return errors.new(fields)
end

local Service = {}
Service.__index = Service

function Service:call(method, bytes, context)
  self.calls[#self.calls + 1] = {method = method, timeout = context.timeout}
  if bytes == "refuse" then
    error(refusal("FAILED_PRECONDITION", "no", {trailers = {["river-error-code"] = "IMAGE_EXPIRED"}}), 0)
  elseif bytes == "mistake" then
    error(refusal("INTERNAL", "lua/x.lua:1: a secret", {cause = "lua/x.lua:1: a secret"}), 0)
  elseif bytes == "bug" then
    error("another secret", 0)
  elseif bytes == "closed" then
    errors.raise{kind = "closed", message = "this service has been closed"}
  elseif bytes == "wait" then
    self.waits:fire()
    core.signal():wait()
  end
  return method .. " " .. bytes
end

function Service.stream(_, _, bytes)
  if bytes == "refuse" then error(refusal("NOT_FOUND", "no"), 0) end
  local i = 0
  return function()
    i = i + 1
    if i > 2 and bytes == "later" then error(refusal("ABORTED", "later"), 0) end
    return i <= 3 and bytes .. i or nil
  end
end

function Service:reap(now)
  self.reaped[#self.reaped + 1] = now
  if #self.reaped == 1 then error("a fault") end
  self.reaps:fire()
  return 0
end

function Service:close() self.closed = true end

local function beside(options, fn)
  local service = setmetatable({calls = {}, reaped = {}, waits = core.signal(), reaps = core.signal()}, Service)
  local said = {}
  options.service = service
  options.on_error = function(problem) said[#said + 1] = tostring(problem) end
  local served = serve.open(options)
  local problem
  task.scope(function(scope)
    scope:spawn(served.run, served)
    local channel = grpc.Channel{target = served.url, proxy = false, metadata = {["x-api-key"] = "good"}}
    local ok, raised = pcall(fn, channel, service, said, served)
    if not ok then problem = raised end
    channel:close()
    served:stop()
  end)
  served:close()
  assert(problem == nil, problem)
  assert.is_true(service.closed)
  return said
end

describe("training.serve", function()
  it("hands calls over and answers with what the service says", function()
    local said = beside({}, function(channel, service)
      assert.equal("OptimStep x", (channel:unary(PATH .. "OptimStep", "x", {timeout = 30})))
      assert.equal("OptimStep", service.calls[1].method)
      assert.is_true(service.calls[1].timeout > 25 and service.calls[1].timeout <= 30)
      local err = error_of(channel.unary, channel, PATH .. "OptimStep", "refuse")
      assert.equal("FAILED_PRECONDITION", err.code)
      assert.equal("no", err.details)
      assert.equal("IMAGE_EXPIRED", err.trailers["river-error-code"])
      assert.equal("UNAVAILABLE", error_of(channel.unary, channel, PATH .. "OptimStep", "closed").code)
      for _, word in ipairs{"mistake", "bug"} do
        err = error_of(channel.unary, channel, PATH .. "OptimStep", word)
        assert.equal("INTERNAL", err.code)
        assert.equal("internal error", err.details)
      end
      assert.equal("UNIMPLEMENTED", error_of(channel.unary, channel, PATH .. "Nothing", "x").code)
      assert.equal("UNIMPLEMENTED", error_of(channel.unary, channel, "/other.Service/OptimStep", "x").code)
    end)
    assert.same({"lua/x.lua:1: a secret", "another secret"}, said)
  end)

  it("streams", function()
    beside({}, function(channel)
      local function all(bytes)
        local seen = {}
        for reply in channel:stream(PATH .. "RetrieveSamplingResults", bytes) do seen[#seen + 1] = reply end
        return seen
      end
      assert.same({"a1", "a2", "a3"}, all "a")
      assert.equal("NOT_FOUND", error_of(all, "refuse").code)
      assert.equal("ABORTED", error_of(all, "later").code)
    end)
  end)

  it("asks for its key before anything else", function()
    beside({key = "good"}, function(channel, service, _, served)
      assert.equal("GetInfo x", (channel:unary(PATH .. "GetInfo", "x")))
      for _, key in ipairs{"goo", "good ", "bad", "goodgood"} do
        local stranger <close> = grpc.Channel{target = served.url, proxy = false,
          metadata = {["x-api-key"] = key:match("^%S+")  .. (key:find(" ") and "x" or "")}}
        local err = error_of(stranger.unary, stranger, PATH .. "GetInfo", "x")
        assert.equal("UNAUTHENTICATED", err.code)
        assert.equal("the API key is not valid", err.details)
      end
      assert.equal(1, #service.calls)
      assert.is_nil(tostring(served):find("good", 1, true))
    end)
    assert.equal("argument", error_of(serve.open, {key = ""}).kind)
  end)

  it("looks for sessions that have been left, whatever comes of it", function()
    local said = beside({reap_every = 0.01}, function(_, service)
      while #service.reaped < 3 do service.reaps:wait() end
    end)
    assert.equal(1, #said)
    assert.truthy(said[1]:find("a fault", 1, true))
  end)

  it("lets go of callers whose deadline passes, and of those that wait when it stops", function()
    local err
    beside({}, function(channel, service, _, served)
      assert.equal("DEADLINE_EXCEEDED",
        error_of(channel.unary, channel, PATH .. "RetrieveFuture", "wait", {timeout = 0.05}).code)
      local call = channel:call(PATH .. "RetrieveFuture", "wait")
      service.waits:wait()
      served.server.grace = 0.05
      served:stop()
      err = error_of(call.result, call)
    end)
    assert.equal("UNAVAILABLE", err.code)
    assert.equal("the server stops", err.details)
  end)
end)
