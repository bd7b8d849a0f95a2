--- A downloaded model looked at and asked here, without its server and without Python.
--
--     cli:download_model("prices", "prices.pkl")
--     local model = river.local_model("prices.pkl")
--     print(model)                                --> StandardScaler | LinearRegression
--     for name, weight in pairs(model:weights()) do print(name, weight) end
--     print(model:predict_one{rooms = 3, age = 20})
--
-- Predictions are those of the server to the last bit: the numbers are computed by the estimators of the embedded
-- service, with the features in sorted order, as the client sends them.

local errors = require "riverlua.errors"
local reader = require "river.pickle_reader"

local local_model = {}

---@class river.LocalModel
---@field root table|nil the whole pickle as inert tables, see river.pickle_reader; nil for a snapshot
---@field steps {name: string, class: string, node: table|nil}[] of a pipeline; one step for a bare model
---@field intercept number|nil of a linear model
local LocalModel = {}
LocalModel.__name = "river.LocalModel"

local UNSET = {root = true, intercept = true, bytes = true, estimator = true, rows = true}
LocalModel.__index = require("river.check").methods("river.LocalModel", LocalModel, UNSET)

local function refuse(kind, text, ...)
  errors.raise{kind = kind, message = "local_model: " .. text:format(...),
    hint = "river.pickle.read(…) gives all there is as tables"}
end

local function is_node(value) return reader.kind(value) == "node" end

-- The dict inside of a container of Python's or of the library's.
local function dict_of(value)
  if reader.kind(value) == "dict" then return value end
  if not is_node(value) then return nil end
  if reader.kind(value.items) == "dict" then return value.items end
  for _, argument in ipairs(value.args) do
    if reader.kind(argument) == "dict" then return argument end
  end
  return nil
end

local function state_of(node)
  return node and reader.kind(node.state) == "dict" and node.state or nil
end

-- Steps of what Python wrote (in the state) and of what riverlua wrote (arguments).
local function steps_of(node)
  local steps = {}
  local function add(name, step)
    if is_node(step) then
      steps[#steps + 1] = {name = type(name) == "string" and name or reader.class_name(step),
        class = reader.class_name(step), node = step}
    end
  end
  if reader.class_name(node) ~= "Pipeline" then
    add(nil, node)
    return steps
  end
  local kept = state_of(node) and dict_of(state_of(node).steps)
  if kept then
    for _, pair in ipairs(kept) do add(pair[1], pair[2]) end
    return steps
  end
  for _, step in ipairs(node.args) do
    if reader.kind(step) == "tuple" then add(step[1], step[2]) else add(nil, step) end
  end
  return steps
end

-- The numbers of a dict by name; those of a window are objects and are left out.
local function numbers_of(value)
  local dict = dict_of(value)
  if not dict then return nil end
  local numbers = {}
  for _, pair in ipairs(dict) do
    if type(pair[2]) == "number" then numbers[pair[1]] = pair[2] end
  end
  return numbers
end

local function find_weights(self)
  for i = #self.steps, 1, -1 do
    local state = state_of(self.steps[i].node)
    if state and state._weights ~= nil then return state end
  end
end

--- The weights of a linear model: feature → number. What learned nothing yet has none.
---@return table<string, number>
---Raises kind "unsupported" for a model without.
function LocalModel:weights()
  local state = find_weights(self)
  local weights = state and numbers_of(state._weights)
  if not weights then refuse("unsupported", "%s has no weights", tostring(self)) end
  return weights
end

--- What the first standard scaler knows: {means =, vars =, counts =}, each feature → number; nil without a scaler.
---@return {means: table<string, number>, vars: table<string, number>, counts: table<string, integer>}|nil
function LocalModel:scaler()
  for _, step in ipairs(self.steps) do
    local state = step.class == "StandardScaler" and state_of(step.node) or nil
    if state then
      return {means = numbers_of(state.means) or {}, vars = numbers_of(state.vars) or {},
        counts = numbers_of(state.counts) or {}}
    end
  end
end

-- The estimators, built when they are asked for.
local function estimator_of(self)
  local estimator = self.estimator
  if not estimator then
    estimator = require("river.embedded.pickle").load(self.bytes)
    self.estimator = estimator
    self.rows = require("river.embedded.row").reader()
  end
  return estimator
end

local function call(self, method, x)
  require("river.check").features("local_model:" .. method, x)
  local estimator = estimator_of(self)
  -- a method that was put on the model under this name: the prediction of an anomaly detector is its score
  method = estimator.aliases and estimator.aliases[method] or method
  if not estimator[method] then refuse("unsupported", "%s has no %s", tostring(self), method) end
  local ok, first, second = pcall(estimator[method], estimator, self.rows:read(x))
  if not ok then
    if type(first) == "string" then error(first, 0) end
    errors.raise{kind = "model", message = ("local_model: %s"):format(tostring(first)), cause = first}
  end
  return first, second
end

--- The prediction for a sample: a number, or a label.
---@param x table feature → number
---@return any
---Errors: kind "argument" for features or for a model that the embedded service does not have, "model".
function LocalModel:predict_one(x) return (call(self, "predict_one", x)) end

--- The probabilities of a classifier: label → number, such as {[false] = 0.2, [true] = 0.8}.
---@param x table feature → number
---@return table<any, number>
function LocalModel:predict_proba_one(x)
  local probabilities = {}
  for label, p in pairs((call(self, "predict_proba_one", x))) do probabilities[label] = p end
  return probabilities
end

function LocalModel:__tostring()
  local names = {}
  for i, step in ipairs(self.steps) do names[i] = step.name end
  return table.concat(names, " | ")
end

local function bytes_of(source)
  errors.expect("river.local_model", "source", source, "string")
  if source:byte(1) == 0x80 then return source end
  local file, problem = io.open(source, "rb")
  if not file then
    errors.raise{kind = "argument", message = "local_model: cannot read the file: " .. problem,
      hint = "the argument is the path of a downloaded model, or its bytes"}
  end
  local bytes = file:read("a")
  file:close()
  return bytes
end

-- What the embedded service gives for models that Python could not continue: they can be asked, not looked into.
local function of_snapshot(bytes)
  local estimator = require("river.embedded.snapshot").load(bytes)
  if type(estimator) ~= "table" or type(estimator.name) ~= "string" then refuse("argument", "this holds no model") end
  local steps = {}
  for i, step in ipairs(estimator.steps or {estimator}) do
    steps[i] = {name = estimator.step_names and estimator.step_names[i] or step.name, class = step.name}
  end
  return setmetatable({estimator = estimator, rows = require("river.embedded.row").reader(), steps = steps}, LocalModel)
end

--- Reads a model.
---@param source string the path of a downloaded model, or its bytes
---@return river.LocalModel
---Errors: those of `river.pickle.read`; kind "argument" for a pickle that holds no model.
function local_model.new(source)
  local bytes = bytes_of(source)
  if bytes:byte(1) ~= 0x80 then refuse("argument", "this is no pickle") end
  if require("river.embedded.snapshot").is(bytes) then return of_snapshot(bytes) end
  local root = reader.read(bytes)
  if not is_node(root) then refuse("argument", "the pickle holds no model") end
  local self = setmetatable({root = root, bytes = bytes, steps = steps_of(root)}, LocalModel)
  local state = find_weights(self)
  self.intercept = state and type(state.intercept) == "number" and state.intercept or nil
  return self
end

return local_model
