--- The embedded service: a River server in this process, behind the same requests and answers as one on the network.

local announcer = require "river.embedded.announcer"
local errors = require "riverlua.errors"
local fast = require "river.embedded.fast"
local flavors = require "river.embedded.flavors"
local names = require "river.embedded.names"
local learning = require "river.embedded.learning"
local python = require "river.embedded.python"
local registry = require "river.embedded.registry"
local response = require "river.embedded.response"
local row = require "river.embedded.row"
local timing = require "river.embedded.timing"

local clock = os.clock
local truthy = python.truthy

---@class river.embedded.Service a transport
---@field embedded boolean always true
local Service = {embedded = true, learn = fast.learn, predict = fast.predict}
Service.__index = Service
Service.__name = "river.embedded"

-- ------------------------------------------------------------------------------------------------------- models

-- Builds what is uploaded: a description of the client, or bytes.
local function read_upload(req)
  if req.model ~= nil then return registry.build(req.model) end
  if not req.body or req.body == "" then
    errors.raise{kind = "argument", message = "the upload is empty"}
  end
  local snapshot = require "river.embedded.snapshot"
  if not snapshot.is(req.body) then return require("river.embedded.pickle").load(req.body) end
  local model = snapshot.load(req.body)
  if registry.is_instance(model) then return model end
  errors.raise{kind = "argument", message = "the snapshot holds no model"}
end

local function new_stats(self, name)
  local calls = {learn = timing.new(), predict = timing.new()}
  self.stats[name] = calls
  return calls
end

local function upload(self, req, flavor_name, name)
  local ok, model = pcall(read_upload, req)
  if not ok then
    if errors.is(model) then return response.message(400, model.message, model.hint) end
    if python.is_error(model) then return response.message(400, ("%s: %s"):format(model.type, model.text)) end
    error(model, 0)
  end
  local flavor, problem = flavors.check(flavor_name, model)
  if not flavor then return response.message(400, problem) end
  if name and not utf8.len(name) then return response.message(400, "A model name must be UTF-8.") end
  name = name or names.pick(self.models)
  local metrics, active = flavors.metrics(flavor)
  self.models[name] = {name = name, model = model, flavor = flavor, reader = row.reader(), metrics = metrics,
    active = active}
  new_stats(self, name)
  if self.keeper then self.keeper:uploaded(name) end
  return response.json(201, {name = name})
end

local function model_json(self, _, name)
  local entry = self.models[name]
  if not entry then return response.empty(404) end
  return response.json(200, entry.model:describe(nil), entry.model:describe(require("riverlua.json").null))
end

local function download(self, _, name)
  local entry = self.models[name]
  if not entry then return response.empty(404) end
  local model = entry.model
  -- What Python's library could not continue is for riverlua alone.
  if model:portable() then return response.bytes(require("river.embedded.pickle").dump(model)) end
  return response.bytes(require("river.embedded.snapshot").dump(model))
end

local function unquote(text)
  return (text:gsub("+", " "):gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

local function delete(self, req)
  local name = ("&" .. (req.body or "")):match("&model=([^&]*)")
  name = name and unquote(name)
  if not name or not (self.models[name] or self.stats[name]) then return response.empty(404) end
  self.models[name], self.stats[name] = nil, nil
  if self.keeper then self.keeper:deleted(name) end
  return response.json(200, 204)
end

local function list_models(self)
  local list = {}
  for name in pairs(self.models) do list[#list + 1] = name end
  table.sort(list)
  if #list == 0 then list = require("riverlua.json").array(list) end
  return response.json(200, {models = list})
end

-- ----------------------------------------------------------------------------------------------------- handlers

-- What a handler raised: what the model says is a bad request, anything else is our own mistake.
local function failed(problem)
  if python.is_error(problem) then return response.json(400, tostring(problem)) end
  error(problem, 0)
end

-- The JSON of a request; nil when there is none that is an object.
local function payload_of(req)
  local payload = req.json
  if payload == nil and req.body then
    local ok, decoded = pcall(require("riverlua.json").decode, req.body)
    payload = ok and decoded or nil
  end
  return type(payload) == "table" and payload or nil
end

local function required()
  return response.message(400, "model and features are required.")
end

-- Counted and timed, whatever comes of it.
local function timed_handler(handler, kind)
  return function(self, req)
    local payload = req.json
    if type(payload) ~= "table" then
      payload = payload_of(req)
      if not payload then return response.empty(400) end
    end
    local name, features = payload.model, payload.features
    if not name or name == "" or not truthy(name) then return required() end
    local counted = type(name) == "table" and python.str(name) or name   -- each table would be a name of its own
    local calls = (self.stats[counted] or new_stats(self, counted))[kind]
    local timed = calls:count()
    local started = timed and clock()
    local ok, answer
    -- The server's prediction fails without features (500); its refusal of the same learn is the better answer.
    if features and truthy(features) then
      ok, answer = pcall(handler, self, payload)
    else
      ok, answer = true, required()
    end
    if timed then calls:add(clock() - started) end
    if ok then return answer end
    return failed(answer)
  end
end

local function label_handler(self, req)
  local payload = payload_of(req)
  if not payload then return response.empty(400) end
  local ok, answer = pcall(learning.label, self, payload)
  if ok then return answer end
  return failed(answer)
end

-- --------------------------------------------------------------------------------------------------- inspection

local function info(self)
  return response.json(200, {
    id = "riverlua_embedded", status = "running", name = "riverlua embedded River service",
    description = "This service runs in the process of the script", documentationUrl = "",
    storage = self.keeper and "folder" or "memory", river_version = self.river_version, version = self.version,
  })
end

-- Infinities and NaN travel as words.
local function word_or_number(value)
  if value ~= value then return "nan" end
  if value == math.huge then return "inf" elseif value == -math.huge then return "-inf" end
  return value
end

local function metrics(self, req)
  local payload = payload_of(req)
  if not payload or not truthy(payload.model) then return response.empty(400) end
  local entry, values = self.models[payload.model], {}
  for _, metric in ipairs(entry and entry.metrics or {}) do values[metric.name] = word_or_number(metric:get()) end
  return response.json(200, values)
end

local function stats(self, req)
  local payload = payload_of(req)
  if not payload or not truthy(payload.model) then return response.empty(400) end
  local name = payload.model
  local calls = self.stats[type(name) == "table" and python.str(name) or name]
  if not calls then
    return response.message(404, ("We don't have stats for model %s"):format(python.str(name)))
  end
  return response.json(200, {predict = calls.predict:report(), learn = calls.learn:report()})
end

-- ------------------------------------------------------------------------------------------------------- events

-- Infinities and NaN are bare in events, as Python writes them.
local function event_text(value)
  return require("riverlua.json").encode(value, {sort = true, nan = true})
end

local function announce(self, kind, name, features, prediction, y, is_learn)
  local json = require "riverlua.json"
  prediction = response.prediction(prediction)
  local data = {model = name, features = features, prediction = prediction == nil and json.null or prediction}
  if is_learn then data.ground_truth = y == nil and json.null or y end
  self.events:announce{event = kind, data = event_text(data)}
end

--- A model has learned a sample: tells the listeners.
---@param entry table
---@param sample table {kind = "learn" or "label", model=, features=, prediction=, ground_truth=}
function Service:announce_learned(entry, sample)
  if self.events.count > 0 then
    announce(self, sample.kind, sample.model, sample.features, sample.prediction, sample.ground_truth, true)
  end
  if self.measurements.count > 0 then
    local values = {}
    for _, metric in ipairs(entry.metrics) do values[metric.name] = metric:get() end
    self.measurements:announce{data = next(values) and event_text(values) or "{}"}
  end
end

--- A model has predicted: tells the listeners.
---@param name string
---@param features table
---@param prediction any
function Service:predicted(name, features, prediction)
  if self.events.count > 0 then announce(self, "predict", name, features, prediction) end
end

-- Whether anybody wants to know what happens: most often nobody does.
local function update_watched(self)
  self.watched = self.keeper ~= nil or self.events.count > 0 or self.measurements.count > 0
end

local function stream_of(which)
  return function(self)
    local listener = self[which]:listen()
    update_watched(self)
    return response.stream(listener, function() update_watched(self) end)
  end
end

-- ------------------------------------------------------------------------------------------------------ routing

local LEARN, PREDICT = timed_handler(learning.learn, "learn"), timed_handler(learning.predict, "predict")

-- Path without prefix → method → handler.
local FIXED = {
  ["/"] = {GET = info},
  ["/learn/"] = {POST = LEARN},
  ["/predict/"] = {POST = PREDICT},
  ["/label/"] = {POST = label_handler},
  ["/metrics/"] = {GET = metrics},
  ["/stats/"] = {GET = stats},
  ["/models/"] = {GET = list_models},
  ["/stream/events/"] = {GET = stream_of("events")},
  ["/stream/metrics/"] = {GET = stream_of("measurements")},
  ["/model/"] = {DELETE = delete},
}

-- Patterns of the paths that hold names; captures are percent-encoded.
local WITH_NAMES = {
  {"^/model/download/([^/]+)/$", {GET = download}},
  {"^/model/([^/]+)/([^/]+)/$", {POST = upload}},
  {"^/model/([^/]+)/$", {GET = model_json, POST = upload}},
}

local function percent_decode(text)
  return (text:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

-- What a path means; the fixed ones are remembered under the whole path, prefix included.
local function resolve(self, path)
  local inside
  if self.prefix then
    local root = self.prefix == "" and "" or "/" .. self.prefix
    if path:sub(1, #root + 1) == root .. "/" then inside = path:sub(#root + 1) end
  else
    inside = path:match("^/[^/]+(/.*)$")
  end
  if not inside then return nil end
  local methods = FIXED[inside]
  if methods then
    self.routes[path] = methods
    return methods
  end
  for _, route in ipairs(WITH_NAMES) do
    local first, second = inside:match(route[1])
    if first then return route[2], percent_decode(first), second and percent_decode(second) end
  end
end

local function not_there(req, path)
  return response.message(404, ("the embedded service has no %s %s"):format(req.method, path))
end

local function closed()
  errors.raise{kind = "closed", message = "this embedded service has been closed"}
end

--- Answers a request, at once and without ever yielding.
---@param req table {method=, path=, json=, body=, model=}
---@return river.embedded.Response
function Service:request(req)
  if self.lent then fast.settle(self) end
  local path = req.path
  local methods, first, second = self.routes[path], nil, nil
  if not methods then
    if self.is_closed then closed() end
    path = path:match("^[^?]*")
    methods, first, second = resolve(self, path)
    if not methods then return not_there(req, path) end
  end
  local handler = methods[req.method]
  if not handler then
    local allowed = {}
    for method in pairs(methods) do allowed[#allowed + 1] = method end
    table.sort(allowed)
    return response.not_allowed(req.method, allowed)
  end
  return handler(self, req, first, second)
end

--- Ends all streams, saves what is kept in a folder and forgets the models. Requests after that raise kind "closed".
function Service:close()
  if self.is_closed then return end
  fast.settle(self)
  self.is_closed = true
  self.events:close()
  self.measurements:close()
  local kept = self.keeper
  self.keeper = nil
  if kept then kept:close() end
  self.models, self.stats, self.memories, self.places, self.routes = {}, {}, {}, {}, {}
end

Service.__close = Service.close

local function new(options)
  local self = setmetatable({
    prefix = options.prefix and options.prefix:match("^/*(.-)/*$"),
    generate_identifiers = options.generate_identifiers ~= false,
    river_version = options.river_version, version = options.version,
    models = {}, stats = {}, routes = {}, learners = {}, predictors = {},
    memories = {}, places = {}, next_place = 1,
    events = announcer.new(), measurements = announcer.new(),
  }, Service)
  if options.path then self.keeper = require("river.embedded.keeper").open(options.path, self) end
  update_watched(self)
  return self
end

return {new = new}
