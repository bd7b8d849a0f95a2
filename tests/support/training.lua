--- Starts the stand-in for the training service (tests/servers/training_standin.py) and steers it.
--
--   local standin = dofile("tests/support/training.lua")
--   local server = standin.start{seed = 1, config = {try_again = 2}}
--   server.port, server.target                       -- where clients connect
--   server:fault{method = "OptimStep", status = "UNAVAILABLE", times = 2}
--   server:log("OptimStep"), server:count("OptimStep"), server:state(), server:close()
--
-- What the control paths take and answer is told at the top of training_standin.py.

local servers = dofile((debug.getinfo(1, "S").source:match("^@(.*/)") or "./") .. "servers.lua")
local http = require "riverlua.http"
local json = require "riverlua.json"

local standin = {servers = servers, model = "standin/bytes"}

--- A model of the stand-in: where θ begins, as the share of right answers.
standin.start_probability = 0.17

local Standin = {}
Standin.__index = Standin

local FLAGS = {max_connection_age = "--max-connection-age", max_connection_age_grace = "--max-connection-age-grace",
  max_concurrent_streams = "--max-concurrent-streams", unix_socket = "--unix-socket", seed = "--seed"}

--- Starts the stand-in. All options may be left out.
---@class StandinOptions
---@field tls boolean|nil with a certificate of its own, signed by `server.ca_file`
---@field max_connection_age number|nil seconds until the server says GOAWAY to a connection
---@field max_connection_age_grace number|nil seconds that calls then have (10)
---@field max_concurrent_streams integer|nil
---@field unix_socket string|nil another address to listen at
---@field seed integer|nil
---@field config table|nil settings, as of server:configure
---@param options StandinOptions|nil
function standin.start(options)
  options = options or {}
  local words = {servers.python(), servers.folder .. "training_standin.py"}
  for name, flag in pairs(FLAGS) do
    if options[name] then
      words[#words + 1] = flag
      words[#words + 1] = tostring(options[name])
    end
  end
  if options.tls then words[#words + 1] = "--tls" end
  if options.config then
    words[#words + 1] = "--config"
    words[#words + 1] = json.encode(options.config)
  end
  local process = servers.start(words)
  local self = {process = process, info = process.info}
  for name, value in pairs(process.info) do self[name] = value end
  self.host = "127.0.0.1"
  self.target = ("%s://127.0.0.1:%d"):format(options.tls and "https" or "http", self.port)
  return setmetatable(self, Standin)
end

local function ask(self, verb, path, options)
  -- never through a proxy that a test sets
  self.client = self.client or http.Client{proxy = false, retries = 0, timeout = 60}
  local answer = self.client[verb](self.client, ("http://127.0.0.1:%d/%s"):format(self.control, path), options)
  local said = answer:json()
  if answer.status ~= 200 then error(said.error or answer.body, 3) end
  return said
end

--- Asks a control path.
function Standin:get(path, query) return ask(self, "get", path, {query = query}) end

--- Orders something at a control path.
function Standin:post(path, order)
  return ask(self, "post", path, {body = json.encode(order or json.decode("{}")),
    headers = {["content-type"] = "application/json"}})
end

--- Orders one fault, or several when given a list.
function Standin:fault(fault) return self:post("fault", fault) end

--- Withdraws all faults that are left.
function Standin:clear() return self:post("clear") end

--- Changes settings; answers with all of them.
function Standin:configure(settings) return self:post("configure", settings) end

--- The calls so far, of one method or of all, in the order of their arrival.
---@param method string|nil
---@param query table|nil { since = a call's number, full = "0" without requests }
function Standin:log(method, query)
  local all = {method = method}
  for key, value in pairs(query or {}) do all[key] = value end
  return self:get("log", all)
end

--- The decoded requests of one method.
function Standin:requests(method)
  local requests = {}
  for i, call in ipairs(self:log(method)) do requests[i] = call.request end
  return requests
end

--- How many calls of a method arrived; without a method, of all.
function Standin:count(method)
  local calls, sum = self:get("counters").calls, 0
  if method then return calls[method] or 0 end
  for _, count in pairs(calls) do sum = sum + count end
  return sum
end

--- Calls, statuses, counters, violations, remarks.
function Standin:counters() return self:get("counters") end

--- The same with sessions, models, checkpoints, uploads, images and futures.
function Standin:state() return self:get("state") end

--- What the client did wrong, as a list of texts; empty for a good one.
function Standin:violations() return self:get("counters").violations end

--- The model that was created last, or the one with this id, as of state().models.
function Standin:model(id)
  local found
  for key, model in pairs(self:state().models) do
    if key == id or (not id and (not found or key > found.id)) then
      found = model
      found.id = key
    end
  end
  return found
end

--- The connections so far: { number, open, received, sent, stalled }.
function Standin:connections() return self:get("connections") end

--- Waits until `count` (1) calls of a method have arrived, counted since the last reset; false after ten seconds.
function Standin:wait(method, count) return self:get("wait", {method = method, count = count}).reached end

--- Waits for something else: {finished = method}, {held = key}, {counter = name}, each with count = (1), or {open = n}.
function Standin:wait_for(query) return self:get("wait", query).reached end

--- Lets calls go that are held with this key: `count` of them, or all that wait.
function Standin:release(key, count) return self:post("release", {key = key, count = count}) end

--- Futures and samples that are pending for good (or for long) are done: {ids =}, {method =, count =}, or all.
function Standin:finish(order) return self:post("finish", order).finished end

--- {session =, image =, routing =, checkpoint =, attestation =, future =}: an id, or "all".
function Standin:expire(order) return self:post("expire", order) end

--- Resets a connection, or all of them.
function Standin:cut(number) return self:post("relay", {cut = number or "all"}).cut end

--- Nothing passes on a connection (or all) any more, in either direction, until `resume`.
function Standin:stall(number) return self:post("relay", {stall = number or "all"}).stalled end

function Standin:resume(number) return self:post("relay", {resume = number or "all"}).resumed end

--- What happens to new connections: "pass", "refuse" (reset), "stall", or "answer" with a text that is no HTTP/2.
function Standin:accept(mode, text) return self:post("relay", {mode = mode, text = text}) end

--- The server says GOAWAY on all connections; another one, with the same memory, takes the new ones.
---@param order { grace: number|nil, lose: boolean|nil }|nil seconds for calls that run; whether memory is lost
function Standin:goaway(order) return self:post("goaway", order) end

--- Sets θ of a model.
function Standin:set_theta(id, theta) return self:post("model", {id = id, theta = theta}) end

--- Everything as at the start; sessions and models are gone.
function Standin:reset() return self:post("reset") end

--- Log, counters and faults are forgotten; sessions and models stay.
function Standin:forget() return self:post("forget") end

--- What the server wrote to its standard error.
function Standin:errors() return self.process:errors() end

--- Ends the stand-in and waits until it is gone.
function Standin:close()
  if self.client then self.client:close() end
  self.client = nil
  self.process:close()
end

Standin.stop = Standin.close
Standin.__close = Standin.close

return standin
