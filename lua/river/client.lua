--- The client of a River server (django-river-ml, or any server of the River API).
--
-- Requests go through a transport (`transport:request(req)` → answer); the same code speaks to a server over HTTP and
-- to the service in this process behind the address `embedded:`.

local check = require "river.check"
local errors = require "riverlua.errors"
local labels = require "river.labels"
local model_module = require "river.model"
local place = require "river.place"
local turns = require "river.turns"

---@class river.Client
---@field learn_many fun(self, model: string, samples: table|function, options: table|nil): river.BatchReport
---@field predict_many fun(self, model: string, samples: table|function, options: table|nil): river.BatchReport
---@field background fun(self, options: table|nil): river.Background
---@field backup fun(self, folder: string, options: table|nil): table
---@field restore fun(self, folder: string, options: table|nil): string[]
---@field copy fun(self, model: string, target: river.Client, options: table|nil): string
---@field checkpoint_every fun(self, model: string, options: table): river.Checkpoints
local Client = {}
Client.__index = Client
Client.__name = "river.Client"

-- A misspelt method says so instead of "attempt to call a nil value".
setmetatable(Client, {__index = function(_, name)
  if type(name) ~= "string" or name:find("^_") then return nil end
  local near = errors.suggest(name, Client)
  errors.raise{kind = "argument", message = ("a river.Client has no '%s'"):format(name),
    hint = near and ("did you mean '%s'?"):format(near) or nil}
end})

local FLAVORS = {regression = true, binary = true, multiclass = true, cluster = true, neighbor = true, custom = true,
  creme = true}
-- Flavors whose models learn nothing, or break, without a label.
local SUPERVISED = {regression = true, binary = true, multiclass = true}

local READ_HEADERS = {["Accept"] = "application/json"}
local JSON_HEADERS = {["Accept"] = "application/json", ["Content-Type"] = "application/json"}
local FORM_HEADERS = {["Accept"] = "application/json", ["Content-Type"] = "application/x-www-form-urlencoded"}
local BYTES_HEADERS = {["Accept"] = "application/json", ["Content-Type"] = "application/octet-stream"}
-- A server that is asked for one format only may refuse the other: errors of a download are JSON.
local DOWNLOAD_HEADERS = {["Accept"] = "*/*"}

-- Client → the service in this process that it may call without a request.
local NEAR = place.near

local function fail(message, hint)
  errors.raise{kind = "argument", message = message, hint = hint}
end

local function encode_part(text)
  return (text:gsub("[^%w%-._~]", function(char) return ("%%%02X"):format(char:byte()) end))
end

-- ------------------------------------------------------------------------------------------------- construction

local OPTIONS = {baseurl = true, prefix = true, transport = true, timeout = true, http = true, user = true,
  token = true, auth_hosts = true}

--- Makes a client; no connection is opened before the first call.
---
--- `river.Client()`, `river.Client("http://host:8000", {prefix = "ml"})` or `river.Client{baseurl = …, prefix = …}`.
--- Options: `baseurl` (default "http://127.0.0.1:8000"; "embedded:" is the service in this process), `prefix` (default
--- "api"), `user` and `token` for servers that want to know who calls (default: RIVER_ML_USER and RIVER_ML_TOKEN of the
--- environment; false: none), `auth_hosts` (addresses besides the base address that may get these, such as
--- {"https://auth.example.com"}), `timeout` in seconds or the table of `riverlua.http`, `http` (further options of
--- `riverlua.http`) and `transport` (an object to send requests through).
---@param baseurl string|table|nil
---@param options table|nil
---@return river.Client
function Client.new(baseurl, options)
  if type(baseurl) == "table" then
    if options ~= nil then fail("river.Client takes one table of options") end
    options, baseurl = baseurl, baseurl[1]
  elseif options == nil then
    options = {}
  end
  errors.expect("river.Client", "options", options, "table")
  local named = {}
  for name, value in pairs(options) do
    if name ~= 1 then named[name] = value end
  end
  errors.check_options("river.Client", named, OPTIONS)
  if baseurl ~= nil and named.baseurl ~= nil then fail("river.Client: the base address is given twice") end
  if named.http ~= nil then errors.expect("river.Client", "http", named.http, "table") end
  baseurl = place.baseurl(baseurl or named.baseurl or place.DEFAULT_BASEURL)
  -- `false`: a field that is missing is looked for as a misspelt method, each time
  local self = setmetatable({_timeout = named.timeout, _flavors = {}, _labels = {}, _watches = false}, Client)
  self._answers = require("river.handle").metatable(self)
  place.set(self, baseurl, place.prefix(named.prefix), named)
  return self
end

function Client:__tostring()
  return ("river.Client(%s/%s)%s"):format(self.baseurl, self.prefix, self._transport and "" or " (closed)")
end

--- Closes the connections and ends the streams; calls after that raise kind "closed".
function Client:close()
  local transport = self._transport
  self._transport, NEAR[self] = nil, nil
  for stream in pairs(self._streams or {}) do stream:close() end
  for _, former in ipairs(self._former or {}) do former:close() end
  self._former = nil
  if transport then transport:close() end
end

Client.__close = Client.close

-- ------------------------------------------------------------------------------------------------------ sending

local function not_a_client()
  fail("a call on something that is not a river.Client", "call it with a colon: client:learn(name, x, y)")
end

local function closed(self)
  if getmetatable(self) ~= Client then not_a_client() end
  errors.raise{kind = "closed", message = "this river.Client has been closed"}
end

-- What an error needs to know about the call; made only when there is one.
local function call_of(self, what, name, extra)
  local call = extra or {}
  call.what, call.name, call.base, call.root = what, name, self.baseurl, self.baseurl .. self._root .. "/"
  return call
end

local function finish(self, what, name, req, res, extra)
  if res.status >= 300 then require("river.failure").raise(call_of(self, what, name, extra), req, res) end
  local ok, value = pcall(res.json, res)
  if not ok then
    require("river.failure").raise_unreadable(call_of(self, what, name, extra), req, res, value)
  end
  return value
end

local function send(self, what, name, req, extra)
  local transport = self._transport or closed(self)
  req.timeout = self._timeout
  return finish(self, what, name, req, transport:request(req), extra)
end

-- Answers of other shapes than promised (a proxy's page, another service) fail here, not in the script.
local function expect_table(self, what, name, req, value)
  if type(value) == "table" then return value end
  require("river.failure").raise_unreadable(call_of(self, what, name), req, {status = 200, body = tostring(value)})
end

local function get(self, what, name, path, json)
  local req = {method = "GET", path = self._root .. path, headers = json and JSON_HEADERS or READ_HEADERS, json = json,
    idempotent = true}
  return expect_table(self, what, name, req, send(self, what, name, req))
end

--- What the server says about itself: `id`, `status`, `name`, `version`, `river_version`, `storage` … (GET /)
---@return table
function Client:info()
  return get(self, "info", nil, "/")
end

--- Asks for the service info and moves to the base address and prefix that it may order; the fields `baseurl` and
--- `prefix` tell where the client is then. On another host user and token stay behind, unless it is in `auth_hosts`.
---@return table info
function Client:check()
  local info = self:info()
  place.adopt(self, info)
  return info
end

--- What happens on the server, while it happens: `for event in cli:stream_events() do`. (GET /stream/events/)
---
--- An event has `kind` ("learn", "predict" or "label"), `model`, `features`, `prediction` and, for learn and label,
--- `ground_truth`. Options, and how to stop: see `river.stream`.
---@param options table|nil `kind`, `model`, `limit`, `timeout`, `idle` …
---@return river.Stream stream to be called for the next event
function Client:stream_events(options)
  if getmetatable(self) ~= Client then not_a_client() end
  return require("river.stream").events(self, options)
end

--- The metrics of models, whenever one has learned: `for metrics in cli:stream_metrics() do`. (GET /stream/metrics/)
---
--- The server does not tell which model they belong to. With `model =` the client watches for that model's learns
--- instead and asks for its metrics after each (after several that came at once, once). Options: see `river.stream`.
---@param options table|nil `model`, `limit`, `timeout`, `idle` …
---@return river.Stream stream to be called for the next metrics: name → number
function Client:stream_metrics(options)
  if getmetatable(self) ~= Client then not_a_client() end
  return require("river.stream").metrics(self, options)
end

--- What is on the server, in one call: the models with their parameters, metrics and stats. See `river.find`.
---@param options table|nil `name`, `step`, `where`, `with`, `concurrency`
---@return river.Found models list; printing it gives a table
function Client:find_models(options)
  if getmetatable(self) ~= Client then not_a_client() end
  return require("river.find").models(self, options)
end

-- ------------------------------------------------------------------------------------------------------- upload

local UPLOAD_OPTIONS = {model = true, flavor = true, name = true, model_name = true, allow = true}

local function read_pickle(path)
  local file, problem = io.open(path, "rb")
  if not file then
    fail(("upload_model: cannot read the file: %s"):format(problem),
      "a string is the path of a pickle (or its bytes); models are made with river.<module>.<Class>{…}")
  end
  local bytes = file:read("a")
  file:close()
  if not bytes or bytes:byte(1) ~= 0x80 then
    fail(("upload_model: the file '%s' is not a pickle"):format(path), "pickles start with the byte 0x80")
  end
  return bytes
end

-- An anomaly detector alone cannot answer: give it the method that servers call.
local function with_prediction(node, flavor)
  if flavor ~= "custom" or node.aliases then return node end
  local final = model_module.final_estimator(node)
  if final and final.class:find("^river%.anomaly%.") then return model_module.with_score_as_prediction(node) end
  return node
end

local function upload_request(self, given, flavor, allow)
  local req = {method = "POST", headers = BYTES_HEADERS}
  if type(given) == "string" then
    req.body = given:byte(1) == 0x80 and given or read_pickle(given)
    local snapshot = not self._transport.embedded and require "river.embedded.snapshot"
    if snapshot and snapshot.is(req.body) then snapshot.check_server(self:info()) end
    return req
  elseif not model_module.is_node(given) then
    local class = model_module.dotted_name(given)
    fail(("upload_model: a model is expected, got %s"):format(class or (given == nil and "nothing" or type(given))),
      class and ("call it: %s()"):format(class)
        or "river.preprocessing.StandardScaler() | river.linear_model.LinearRegression(), or the path of a pickle")
  end
  local node = with_prediction(given, flavor)
  req.model = node
  if not self._transport.embedded then req.body = require("river.pickle").dumps(node, {allow = allow}) end
  return req
end

--- Uploads a model. One that has the same name is replaced, with its metrics and stats. (POST /model/<flavor>/<name>/)
---
--- `cli:upload_model(model, "regression", "prices")` or `cli:upload_model{model =, flavor =, name =, allow =}`.
--- `model` is composed in Lua, or a string: the path of a pickle, or its bytes. `allow` lists names outside the library
--- that the model may refer to (loading a pickle runs code on the server).
---@param model table|string
---@param flavor string "regression", "binary", "multiclass", "cluster", "neighbor", "custom" (or "creme")
---@param name string|nil default: the server picks one
---@return string name
function Client:upload_model(model, flavor, name)
  local allow
  if type(model) == "table" and getmetatable(model) == nil and flavor == nil then
    local given = model
    errors.check_options("upload_model", given, UPLOAD_OPTIONS)
    model, flavor, name, allow = given.model, given.flavor, given.name or given.model_name, given.allow
  end
  if not self._transport then closed(self) end
  if not FLAVORS[flavor] then
    local near = type(flavor) == "string" and errors.suggest(flavor, FLAVORS)
    fail(flavor == nil and "upload_model: the flavor is missing" or ("upload_model: %s is not a flavor"):format(
      type(flavor) == "string" and "'" .. flavor .. "'" or "a " .. type(flavor)),
      near and ("did you mean '%s'?"):format(near)
      or "flavors: regression, binary, multiclass, cluster, neighbor, custom")
  end
  local req = upload_request(self, model, flavor, allow)
  req.path = ("%s/model/%s/"):format(self._root, flavor)
  if name ~= nil then
    req.path = req.path .. encode_part(check.name("upload_model", name, true)) .. "/"
    req.idempotent = true
  end
  local extra = {model = req.model, bytes = req.body}
  local answer = expect_table(self, "upload_model", name, req, send(self, "upload_model", name, req, extra))
  local given_name = answer.name or name
  if given_name then self._flavors[given_name], self._labels[given_name] = flavor, nil end
  return given_name
end

-- --------------------------------------------------------------------------------------------- learn and predict

local LEARN_OPTIONS = {model = true, x = true, y = true, features = true, ground_truth = true, prediction = true,
  identifier = true}
local IDENTIFIER_OPTION = {identifier = true}
local PREDICT_OPTIONS = {model = true, x = true, features = true, identifier = true}

local function check_identifier(where, identifier)
  local kind = type(identifier)
  if kind == "string" and identifier ~= "" or kind == "number" and identifier ~= 0 then
    check.label(where, "identifier", identifier)
    return identifier
  end
  fail(where .. ": an identifier is a text or a number other than 0", "predict returns one as .identifier")
end

-- nil, or JSON's null: a model that takes it for a label is broken for ever
local function is_missing(label)
  return label == nil or type(label) == "userdata"
end

local function missing_label(self, name)
  fail(("learn '%s': the label is missing"):format(name),
    SUPERVISED[self._flavors[name]] and ("a %s model cannot learn without"):format(self._flavors[name])
      or "a misspelt field? To learn without label leave the argument out: client:learn(name, x)")
end

-- Sends a request that changes a model, when no other of this process does.
local function in_turn(self, name, req)
  local transport = self._transport or closed(self)
  if transport.embedded then return transport:request(req) end
  local _ <close> = turns.take(self, name)
  return (transport:request(req))
end

local function learn_request(self, body)
  return {method = "POST", path = self._learn_path, headers = JSON_HEADERS, json = body, timeout = self._timeout}
end

local function read_learned(self, name, req, res)
  if res.status == 201 and res.body == '"Successful learn."' then return "Successful learn." end
  return finish(self, "learn", name, req, res)
end

-- After every learn that succeeded.
local function note_learned(self, name, y)
  if y ~= nil and self._flavors[name] ~= "regression" then
    self._labels[name] = labels.remember(self._labels[name], y)
  end
  local watches = self._watches
  if watches and watches[name] then watches[name]() end
end

local function send_learn(self, name, body)
  local req = learn_request(self, body)
  local answer = read_learned(self, name, req, in_turn(self, name, req))
  note_learned(self, name, body.ground_truth)
  return answer
end

local function learn_body(self, name, x, ...)
  check.features("learn", x)
  local y = ...
  if is_missing(y) then
    local flavor = self._flavors[name]
    if flavor == nil and select("#", ...) > 0 or SUPERVISED[flavor] then missing_label(self, name) end
    y = nil
  else
    check.label("learn", "label", y)
  end
  return {model = name, features = x, ground_truth = y}
end

local function learn_named(self, given)
  errors.check_options("learn", given, LEARN_OPTIONS)
  local name = check.name("learn", given.model)
  local x, y = given.x, given.y
  if x == nil then x = given.features end
  if y == nil then y = given.ground_truth end
  if given.identifier ~= nil then
    check_identifier("learn", given.identifier)
    -- the server takes the features it stored, but insists on some
    if x == nil then x = {_ = 0} end
  end
  check.features("learn", x)
  if is_missing(y) then
    if SUPERVISED[self._flavors[name]] then missing_label(self, name) end
  else
    check.label("learn", "label", y)
  end
  if given.prediction ~= nil then check.label("learn", "prediction", given.prediction) end
  return send_learn(self, name, {model = name, features = x, ground_truth = y, prediction = given.prediction,
    identifier = given.identifier})
end

--- Teaches a model one sample; its metrics are updated first, with a prediction made before learning. (POST /learn/)
---
--- `cli:learn(name, x, y)`, `cli:learn(name, x)` for models without labels, or
--- `cli:learn{model =, x =, y =, prediction =, identifier =}` (`features` and `ground_truth` are other names of x and
--- y): with `prediction` the server makes none itself, with `identifier` it takes the features and prediction it stored
--- when it answered `predict`.
---
--- Errors: kind "argument" (NaN, no features, missing label: nothing was sent), "not_found" (no such model), "model"
--- (the model raised; `code` is the Python exception).
---@param model string|table
---@param x table|nil feature name → number, string or boolean
---@param ... any the label
---@return string text "Successful learn."
function Client:learn(model, x, ...)
  local near = NEAR[self]
  if near then
    local y = ...
    local learn = near.learners[model]
    if learn and learn(x, y) then
      if self._watches or self._flavors[model] ~= "regression" then note_learned(self, model, y) end
      return "Successful learn."
    end
    local done, refusal = near:learn(model, x, y)
    if done then
      note_learned(self, model, y)
      return "Successful learn."
    elseif done == false then
      return finish(self, "learn", model, learn_request(self, {model = model, features = x, ground_truth = y}), refusal)
    end
  elseif getmetatable(self) ~= Client then
    not_a_client()
  end
  if type(model) == "table" and x == nil then return learn_named(self, model) end
  if type(model) ~= "string" or model == "" then check.name("learn", model) end
  return send_learn(self, model, learn_body(self, model, x, ...))
end

-- The server keeps features and prediction of every identifier until it is used, for ever if need be. Sending always
-- the same one for predictions that nobody will label keeps its storage, and the time it takes, flat.
local UNLABELLED = check.UNLABELLED

local function predict_request(self, model, x, sent)
  return {method = "POST", path = self._predict_path, headers = JSON_HEADERS,
    json = {model = model, features = x, identifier = sent}, timeout = self._timeout, idempotent = true}
end

-- Gives an answer its methods.
local function finish_prediction(self, answer)
  if type(answer.prediction) == "table" then labels.open(answer.prediction) end
  return setmetatable(answer, self._answers)
end

local function read_prediction(self, model, req, res, identifier)
  local answer = expect_table(self, "predict", model, req, finish(self, "predict", model, req, res))
  if not identifier then answer.identifier = nil end
  return finish_prediction(self, answer)
end

--- Asks a model for a prediction. (POST /predict/)
---
--- `cli:predict(name, x)`, `cli:predict(name, x, {identifier = …})` or `cli:predict{model =, x =, identifier =}`.
--- Regression: a number; binary: a table of probabilities by label ("true", "false"), empty before any learning for
--- some models; multiclass: the label, or nil before any learning; cluster: an integer.
--- With `identifier = true` the server keeps the sample under an identifier of its own, which is in the answer, for a
--- label that comes later (`answer:label(y)` or `cli:label(name, identifier, y)`); a text or number is used as the
--- identifier. The names of probabilities are text; `answer.prediction[true]` finds "true", and `answer.likeliest` and
--- `answer.probabilities` have labels of the types that were sent, see `river.handle`.
---@param model string|table
---@param x table|nil feature name → number, string or boolean
---@param options {identifier: boolean|string|number|nil}|nil
---@return river.Answer answer {model = name, prediction = …, identifier = only when asked for}
function Client:predict(model, x, options)
  local near = NEAR[self]
  if near then
    if options == nil then
      local predict = near.predictors[model]
      local answer = predict and predict(x, model, self._answers)
      if answer then return answer end
      answer = near:predict(model, x)
      if answer then return finish_prediction(self, answer) end
    end
  elseif getmetatable(self) ~= Client then
    not_a_client()
  end
  local identifier = nil
  if type(model) == "table" and x == nil then
    local given = model
    errors.check_options("predict", given, PREDICT_OPTIONS)
    model, x, identifier = given.model, given.x, given.identifier
    if x == nil then x = given.features end
  elseif options ~= nil then
    errors.expect("predict", "options", options, "table")
    errors.check_options("predict", options, IDENTIFIER_OPTION)
    identifier = options.identifier
  end
  if type(model) ~= "string" or model == "" then check.name("predict", model) end
  check.features("predict", x)
  local sent = UNLABELLED
  if identifier == true then
    sent = nil
  elseif identifier then
    sent = check_identifier("predict", identifier)
  end
  local req = predict_request(self, model, x, sent)
  return read_prediction(self, model, req, in_turn(self, model, req), identifier)
end

local LABEL_OPTIONS = {model = true, identifier = true, label = true, y = true, ground_truth = true}

--- Teaches a model the label of a prediction that it made with `identifier`. (POST /label/)
---
--- `cli:label(name, identifier, label)` or `cli:label{model =, identifier =, label =}` (or `y`, `ground_truth`).
--- Labels that a server takes for none (0, false, "") and those of an untrained classifier's predictions go another way
--- (POST /learn/); on the server's event stream they are then events of the kind "learn".
---
--- Errors: kind "not_found" when the identifier is unknown or has been used; otherwise as `learn`.
---@param model string|table
---@param identifier string|number|nil
---@param label any
---@return string text "Successful label."
function Client:label(model, identifier, label)
  if getmetatable(self) ~= Client then not_a_client() end
  if type(model) == "table" and identifier == nil then
    local given = model
    errors.check_options("label", given, LABEL_OPTIONS)
    model, identifier, label = given.model, given.identifier, given.label
    if label == nil then label = given.y end
    if label == nil then label = given.ground_truth end
  end
  return require("river.handle").label(self, model, identifier, label)
end

-- ------------------------------------------------------------------------------------------------ many at a time

-- What the modules behind these calls need of this one.
Client._internal = {
  is_client = function(object) return getmetatable(object) == Client end,
  not_a_client = not_a_client, closed = closed, finish = finish, in_turn = in_turn, json_headers = JSON_HEADERS,
  check_identifier = check_identifier, send_learn = send_learn, learn_body = learn_body, learn_request = learn_request,
  read_learned = read_learned, note_learned = note_learned,
  predict_request = function(self, model, x) return predict_request(self, model, x, UNLABELLED) end,
  read_prediction = read_prediction,
}

-- Loaded when they are asked for, and described where they are.
for name, where in pairs{learn_many = "batch", predict_many = "batch", background = "background", backup = "backup",
  restore = "backup", copy = "backup", checkpoint_every = "backup"} do
  Client[name] = function(self, ...)
    if getmetatable(self) ~= Client then not_a_client() end
    return require("river." .. where)[name](self, ...)
  end
end

-- --------------------------------------------------------------------------------------------------- inspection

local NOT_FINITE = {nan = 0 / 0, inf = math.huge, ["-inf"] = -math.huge}

--- The running metrics of a model: name → number (NaN and infinities are floats here, the server sends words).
--- Empty for an unknown model and for flavors without metrics. (GET /metrics/)
---@param model string
---@return table<string, number>
function Client:metrics(model)
  local values = get(self, "metrics", check.name("metrics", model), "/metrics/", {model = model})
  for name, value in pairs(values) do
    if type(value) == "string" then values[name] = NOT_FINITE[value] or value end
  end
  return values
end

--- Calls and durations of a model: `predict` and `learn`, each with `n_calls`, `mean_duration` and `ewm_duration` in
--- nanoseconds, and both `…_human` as text. (GET /stats/)
---@param model string
---@return table
function Client:stats(model)
  return get(self, "stats", check.name("stats", model), "/stats/", {model = model})
end

--- The parameters of a model (not what it learned): step → parameter → value; a bare model's parameters directly.
--- (GET /model/<name>/)
---@param model string
---@return table
function Client:get_model_json(model)
  local part = encode_part(check.name("get_model_json", model, true))
  return get(self, "get_model_json", model, "/model/" .. part .. "/")
end

--- The models of the server. (GET /models/)
---@return table answer {models = sorted list of names}
function Client:models()
  return get(self, "models", nil, "/models/")
end

--- Deletes a model with its metrics, stats and flavor, for good. (DELETE /model/)
---@param model string
---@return integer code 204
function Client:delete_model(model)
  check.name("delete_model", model)
  local req = {method = "DELETE", path = self._root .. "/model/", headers = FORM_HEADERS, idempotent = false,
    body = "model=" .. encode_part(model)}
  local answer = send(self, "delete_model", model, req)
  self._flavors[model], self._labels[model] = nil, nil
  return answer
end

local function download(self, model)
  check.name("download_model", model, true)
  local req = {method = "GET", path = ("%s/model/download/%s/"):format(self._root, encode_part(model)),
    headers = DOWNLOAD_HEADERS, timeout = self._timeout, idempotent = true}
  local res = (self._transport or closed(self)):request(req)
  if res.status >= 300 then require("river.failure").raise(call_of(self, "download_model", model), req, res) end
  if not res.body or res.body == "" then
    require("river.failure").raise_unreadable(call_of(self, "download_model", model), req, res)
  end
  return res.body
end

Client._internal.download = download

--- Saves a model with all it learned, as a pickle that `upload_model` takes. (GET /model/download/<name>/)
---@param model string
---@param path string|nil default "<model>.pkl" in the current folder; an existing file is replaced in one step
---@return string path
function Client:download_model(model, path)
  check.name("download_model", model, true)
  if path ~= nil then errors.expect("download_model", "path", path, "string") end
  path = path or model .. ".pkl"
  local bytes = download(self, model)
  require("river.backup").write_file("download_model", path, bytes)
  return path
end

return Client
