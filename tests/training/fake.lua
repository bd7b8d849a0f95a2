--- A service for specs that look at requests only: remembers what it is sent and answers as it is told.

local json = require "riverlua.json"
local protobuf = require "riverlua.protobuf"

local fake = {}

local PACKAGE = "river.api.v1."
local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"

--- The recorded calls of the official client, by name.
function fake.vectors()
  local by_name = {}
  for line in io.lines(folder .. "vectors/training_requests.jsonl") do
    local vector = json.decode(line)
    by_name[vector.name] = vector
  end
  return by_name
end

function fake.unhex(text)
  return (text:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end))
end

local Fake = {}
Fake.__index = Fake

--- A transport. `answers`: method → a reply as a table, or a function(request) that gives it.
function fake.new(answers)
  local self = setmetatable({calls = {}, answers = answers or {}, schema = protobuf.training}, Fake)
  self.methods = self.schema:service(PACKAGE .. "RiverService").methods
  return self
end

local function answer_of(self, method, request)
  local answer = self.answers[method]
  if type(answer) == "function" then answer = answer(request) end
  return assert(answer, "the fake has no answer for " .. method)
end

function Fake:rpc(method, bytes, options)
  local request = self.methods[method].request:decode(bytes)
  self.calls[#self.calls + 1] = {method = method, request = request, bytes = bytes, options = options}
  return self.methods[method].response:encode(answer_of(self, method, request))
end

function Fake:stream(method, bytes, options)
  local request = self.methods[method].request:decode(bytes)
  self.calls[#self.calls + 1] = {method = method, request = request, bytes = bytes, options = options}
  local replies, i = answer_of(self, method, request), 0
  return function()
    i = i + 1
    return replies[i] and self.methods[method].response:encode(replies[i])
  end
end

function Fake:pause() end   -- luacheck: ignore

--- The calls of one method.
function Fake:of(method)
  local list = {}
  for _, call in ipairs(self.calls) do
    if call.method == method then list[#list + 1] = call end
  end
  return list
end

return fake
