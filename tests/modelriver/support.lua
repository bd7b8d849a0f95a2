--- What the specs of the ModelRiver client share: the stand-in, clients of it, and a transport without a network.

local errors = require "riverlua.errors"
local json = require "riverlua.json"
local modelriver = require "modelriver"
local servers = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../support/servers.lua")

local support = {servers = servers, error_of = servers.error_of}

--- Starts the stand-in of the API.
function support.start()
  return servers.start{servers.python(), servers.folder .. "stub_modelriver.py"}
end

local function with(defaults, options)
  local all = {}
  for name, value in pairs(defaults) do all[name] = value end
  for name, value in pairs(options or {}) do all[name] = value end
  return all
end

--- A client of the stand-in, whose delays between tries are short.
---@param stub table
---@param options table|nil
---@return modelriver.Client
function support.client(stub, options)
  local client = modelriver.Client(with({base_url = stub:url(), api_key = stub.info.keys.good,
    http = {proxy = false}}, options))
  client.gateway.first_delay = 0.001
  return client
end

--- The bodies that the stand-in was sent, decoded with their nulls.
---@param stub table
---@param path string|nil default: all
---@return table[]
function support.bodies(stub, path)
  local bodies = {}
  for i, line in ipairs(stub:log(path)) do bodies[i] = json.decode(line.body) end
  return bodies
end

--- The values of a header in the stand-in's log, in the order of the requests; false where there was none.
function support.sent_headers(stub, name)
  local values = {}
  for i, line in ipairs(stub:log()) do
    values[i] = line.headers[name] or false
  end
  return values
end

local function answer_of(given)
  local headers = setmetatable({}, {__index = function(self, name) return rawget(self, name:lower()) end})
  for name, value in pairs(given.headers or {}) do headers[name:lower()] = value end
  local body = given.body
  if type(body) ~= "string" then body = json.encode(body == nil and {choices = {}} or body) end
  return {status = given.status or 200, headers = headers, body = body, close = function() end}
end

--- A transport without a network: `answer(req, number)` gives {status, body, headers}; what it raises is raised.
---@param answer (fun(req: table, number: integer): table)|table
---@return table transport its `requests`, and how often it was `closed`
function support.fake(answer)
  local transport = {requests = {}, closed = 0}
  function transport:request(req)
    self.requests[#self.requests + 1] = {path = req.path, headers = req.headers, timeout = req.timeout,
      json = json.encode(req.json, {sort = true})}
    return answer_of(type(answer) == "function" and answer(req, #self.requests) or answer)
  end
  function transport:close() self.closed = self.closed + 1 end
  return transport
end

--- A client on such a transport, whose delays between tries are short.
---@return modelriver.Client
---@return table[] requests
---@return table transport
function support.faked(answer, options)
  local transport = support.fake(answer or {})
  local client = modelriver.Client(with({transport = transport, api_key = "mr_live_fake_0123456789"}, options))
  client.gateway.first_delay = 0.001
  return client, transport.requests, transport
end

--- Calls something that must be refused before anything is sent; its error's text must have `pattern` in it.
function support.refuses(pattern, call, ...)
  local ok, err = pcall(call, ...)
  if ok then error("not refused; expected: " .. pattern, 2) end
  if not errors.is(err, "argument") or not tostring(err):find(pattern) then
    error(("expected: %s\ngot: %s"):format(pattern, tostring(err)), 2)
  end
  return err
end

--- Everything that an error can show, as one text.
function support.all_text(value, seen)
  seen = seen or {}
  if type(value) ~= "table" then return tostring(value) end
  if seen[value] then return "" end
  seen[value] = true
  local texts = {tostring(value)}
  for key, item in next, value do
    texts[#texts + 1] = support.all_text(key, seen) .. "=" .. support.all_text(item, seen)
  end
  return table.concat(texts, "\n")
end

return support
