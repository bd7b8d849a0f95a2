--- The embedded service: a River server in this process, behind the same requests and answers as one on the network.

local errors = require "riverlua.errors"
local flavors = require "river.embedded.flavors"
local names = require "river.embedded.names"
local python = require "river.embedded.python"
local registry = require "river.embedded.registry"
local response = require "river.embedded.response"
local row = require "river.embedded.row"
local timing = require "river.embedded.timing"

local clock = os.clock
local truthy = python.truthy

-- Predictions without an identifier of the caller's own that are remembered for a later label; older ones are
-- forgotten (a server never forgets, and grows).
local REMEMBERED = 10000

---@class river.embedded.Service a transport
---@field embedded boolean always true
local Service = {embedded = true}
Service.__index = Service
Service.__name = "river.embedded"

-- ------------------------------------------------------------------------------------------------------- models

-- Builds what is uploaded: a description of the client, or bytes.
local function read_upload(req)
  if req.model ~= nil then return registry.build(req.model) end
  if not req.body or req.body == "" then
    errors.raise{kind = "argument", message = "the upload is empty"}
  end
  return require("river.embedded.pickle").load(req.body)
end

local function new_stats(self, name)
  local calls = {learn = timing.new(), predict = timing.new()}
  self.stats[name] = calls
  return calls
end

local function upload(self, req, flavor_name, name)
  local ok, model = pcall(read_upload, req)
  if not ok then
    if errors.is(model) then return response.message(400, model.message) end
    if python.is_error(model) then return response.message(400, ("%s: %s"):format(model.type, model.text)) end
    error(model, 0)
  end
  local flavor, problem = flavors.check(flavor_name, model)
  if not flavor then return response.message(400, problem) end
  name = name or names.pick(self.models)
  local metrics, active = flavors.metrics(flavor)
  self.models[name] = {
    model = model, flavor = flavor, reader = row.reader(), metrics = metrics, active = active,
    -- The one method that predicts; nil where several are tried.
    method = #flavor.predicts == 1 and flavor.predicts[1] or nil,
  }
  new_stats(self, name)
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
  return response.bytes(require("river.embedded.pickle").dump(entry.model))
end

local function unquote(text)
  return (text:gsub("+", " "):gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

local function delete(self, req)
  local name = ("&" .. (req.body or "")):match("&model=([^&]*)")
  name = name and unquote(name)
  if not name or not (self.models[name] or self.stats[name]) then return response.empty(404) end
  self.models[name], self.stats[name] = nil, nil
  return response.json(200, 204)
end

local function list_models(self)
  local list = {}
  for name in pairs(self.models) do list[#list + 1] = name end
  table.sort(list)
  if #list == 0 then list = require("riverlua.json").array(list) end
  return response.json(200, {models = list})
end

-- --------------------------------------------------------------------------------------------- learn and predict

local function null_to_nil(value)
  if type(value) == "userdata" then return nil end
  return value
end

-- Predicts with the first of the flavor's methods that works.
local function try_methods(model, methods, features)
  for i = 1, #methods do
    local method, last = methods[i], i == #methods
    if model[method] then
      if last then return model[method](model, features) end
      local ok, prediction = pcall(model[method], model, features)
      if ok then return prediction end
      if not python.is_error(prediction) then error(prediction, 0) end
    elseif last then
      model:lacks(method)
    end
  end
end

local function predict_with(entry, features)
  local model, method = entry.model, entry.method
  local call = method and model[method]
  if call then return call(model, features) end
  return try_methods(model, entry.flavor.predicts, features)
end

-- The likeliest label of a table of probabilities: the first of the highest.
local function likeliest(prediction)
  local no, yes = prediction[false], prediction[true]
  if no and yes then return yes > no end
  local order, best = {}, nil
  for label in pairs(prediction) do order[#order + 1] = label end
  table.sort(order, function(a, b) return tostring(a) < tostring(b) end)
  for _, label in ipairs(order) do
    if best == nil or prediction[label] > prediction[best] then best = label end
  end
  return best
end

local function update_metrics(entry, prediction, y)
  -- A prediction of 0, false or the like counts as none for a server, and so here.
  if prediction == 0 or not truthy(prediction) then return end
  local active = entry.active
  local label = prediction
  if type(prediction) == "table" then
    label = likeliest(prediction)
  elseif type(prediction) == "number" and type(y) == "number" and entry.flavor.numeric then
    for i = 1, #active do active[i]:add(y, prediction) end
    return
  end
  for i = 1, #active do active[i]:update(y, prediction, label) end
end

local function no_model(name)
  return response.json(400, ("No model named '%s'."):format(python.str(name)))
end

local function no_memory(identifier)
  return response.json(400, ("No information stored for ID '%s'"):format(python.str(identifier)))
end

-- Metrics first, then the model: what a server does with a sample whose prediction is known.
local function finish_learn(entry, features, prediction, y)
  update_metrics(entry, prediction, y)
  local model = entry.model
  -- Everything that could fail is checked before anything changes.
  model:check_target(y)
  model:learn_one(features, y)
end

-- A text model takes the text itself; the models here take features.
local function read_features(entry, features)
  if type(features) ~= "table" then
    python.raise("AttributeError", "'%s' object has no attribute 'items'", python.type_name(features))
  end
  return entry.reader:read(features)
end

-- Always the same answer: nobody has a reason to change it.
local LEARNED = response.learned("Successful learn.")

-- The sample comes from a prediction that was remembered.
local function learn_remembered(self, identifier, y)
  local key = python.str(identifier)
  local memory = self.memories[key]
  if not memory then return no_memory(identifier) end
  local entry = self.models[memory.model]
  if not entry then return no_model(memory.model) end
  finish_learn(entry, read_features(entry, memory.features), memory.prediction, y)
  self.memories[key] = nil
  return LEARNED
end

local function learn(self, payload)
  local y, prediction, identifier = null_to_nil(payload.ground_truth), payload.prediction, payload.identifier
  if identifier and truthy(identifier) then return learn_remembered(self, identifier, y) end
  local entry = self.models[payload.model]
  if not entry then return no_model(payload.model) end
  local read = read_features(entry, payload.features)
  if prediction ~= nil then prediction = null_to_nil(prediction) end
  if prediction == nil then prediction = predict_with(entry, read) end
  finish_learn(entry, read, prediction, y)
  return LEARNED
end

local function remember(self, identifier, payload, prediction)
  local features = {}
  for name, value in next, payload.features do features[name] = value end
  self.memories[identifier] = {model = payload.model, features = features, prediction = prediction}
end

-- An identifier of our own, in place of the oldest one.
local function make_identifier(self)
  local identifier, place = names.identifier(), self.next_place
  local oldest = self.places[place]
  if oldest then self.memories[oldest] = nil end
  self.places[place] = identifier
  self.next_place = place % REMEMBERED + 1
  return identifier
end

-- JSON has no NaN: a model that has diverged makes a server fail.
local function check_finite(prediction)
  if type(prediction) == "number" then
    return prediction - prediction == 0
  elseif type(prediction) == "table" then
    for _, p in next, prediction do
      if p - p ~= 0 then return false end
    end
  end
  return true
end

local function predict(self, payload)
  local name = payload.model
  local entry = self.models[name]
  if not entry then return no_model(name) end
  local prediction = predict_with(entry, read_features(entry, payload.features))
  if not check_finite(prediction) then
    return response.message(500, "the prediction is not a finite number: the model has diverged")
  end
  local identifier = payload.identifier
  if identifier and truthy(identifier) then
    remember(self, python.str(identifier), payload, prediction)
  elseif self.generate_identifiers then
    identifier = make_identifier(self)
    remember(self, identifier, payload, prediction)
  else
    return response.json(200, {model = name, prediction = response.prediction(prediction)})
  end
  return response.json(201, {model = name, prediction = response.prediction(prediction), identifier = identifier})
end

local function label(self, payload)
  local name, identifier, y = payload.model, payload.identifier, payload.label
  if not (truthy(name) and truthy(identifier) and truthy(y)) then
    return response.message(400, "model, label, and identifier are required.")
  end
  local memory = self.memories[python.str(identifier)]
  if not memory then return no_memory(identifier) end
  if memory.prediction == nil then
    return response.json(400, "Missing one of features, model_name, or prediction.")
  end
  if memory.model ~= name then
    return response.json(400, ("%s was provided, but identifier references %s."):format(name, memory.model))
  end
  local entry = self.models[name]
  if not entry then return no_model(name) end
  finish_learn(entry, read_features(entry, memory.features), memory.prediction, y)
  self.memories[python.str(identifier)] = nil
  return response.json(200, "Successful label.")
end

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
    local calls = (self.stats[name] or new_stats(self, name))[kind]
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
  local ok, answer = pcall(label, self, payload)
  if ok then return answer end
  return failed(answer)
end

-- --------------------------------------------------------------------------------------------------- inspection

local function info(self)
  return response.json(200, {
    id = "riverlua_embedded", status = "running", name = "riverlua embedded River service",
    description = "This service runs in the process of the script", documentationUrl = "",
    storage = "memory", river_version = self.river_version, version = self.version,
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
  local calls = self.stats[payload.model]
  if not calls then
    return response.message(404, ("We don't have stats for model %s"):format(python.str(payload.model)))
  end
  return response.json(200, {predict = calls.predict:report(), learn = calls.learn:report()})
end

-- ------------------------------------------------------------------------------------------------------ routing

local LEARN, PREDICT = timed_handler(learn, "learn"), timed_handler(predict, "predict")

-- Path without prefix → method → handler.
local FIXED = {
  ["/"] = {GET = info},
  ["/learn/"] = {POST = LEARN},
  ["/predict/"] = {POST = PREDICT},
  ["/label/"] = {POST = label_handler},
  ["/metrics/"] = {GET = metrics},
  ["/stats/"] = {GET = stats},
  ["/models/"] = {GET = list_models},
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

--- Forgets all models. Requests after that raise kind "closed".
function Service:close()
  self.is_closed = true
  self.models, self.stats, self.memories, self.places, self.routes = {}, {}, {}, {}, {}
end

Service.__close = Service.close

local function new(options)
  return setmetatable({
    prefix = options.prefix and options.prefix:match("^/*(.-)/*$"),
    generate_identifiers = options.generate_identifiers ~= false,
    river_version = options.river_version, version = options.version,
    models = {}, stats = {}, routes = {},
    memories = {}, places = {}, next_place = 1,
  }, Service)
end

return {new = new}
