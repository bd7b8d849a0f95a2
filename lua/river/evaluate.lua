--- Progressive validation: every sample is first predicted, then learned, so that errors are measured on what a
-- model has not seen.
--
--     local result = river.evaluate.progressive{
--       client = cli, flavor = "regression", dataset = river.datasets.csv("houses.csv", {target = "price"}),
--       models = {linear = scaler | linear, tree = tree}, metrics = {"MAE", "R2"}, delay = 10,
--     }
--     print(result)             -- a table
--     print(result:plot())      -- the first metric over the samples
--
-- The numbers are those of `river.evaluate.progressive_val_score` in Python.

local errors = require "riverlua.errors"
local model_module = require "river.model"

local evaluate = {}

local DEFAULT_METRICS = {
  regression = {"MAE", "RMSE", "R2"}, binary = {"Accuracy", "F1", "LogLoss"}, multiclass = {"Accuracy", "MacroF1"},
  neighbor = {"Accuracy"},
}
local UNSUPERVISED = {cluster = true}
local EVERY = 100

local function fail(message, hint)
  errors.raise{kind = "argument", message = "evaluate.progressive: " .. message, hint = hint}
end

-- ------------------------------------------------------------------------------------------------------- result

---@class river.Evaluation
---@field models string[] the models' names in order
---@field metrics string[]
---@field samples integer how many samples there were
---@field final table<string, table<string, number>> model → metric → value in the end
---@field history table<string, table[]> model → list of {samples = n, MAE = …}, every so many samples and in the end
local Evaluation = {}
Evaluation.__index = Evaluation
Evaluation.__name = "river.Evaluation"

--- The history as flat rows for export: {samples =, model =, MAE =, …}.
---@return table[]
function Evaluation:rows()
  local rows = {}
  for _, name in ipairs(self.models) do
    for _, point in ipairs(self.history[name]) do
      local row = {model = name}
      for key, value in pairs(point) do row[key] = value end
      rows[#rows + 1] = row
    end
  end
  return rows
end

local function metric_of(self, name, where)
  if name == nil then name = self.metrics[1] end
  for _, known in ipairs(self.metrics) do
    if known == name then return name end
  end
  local near = errors.suggest(tostring(name), self.metrics)
  errors.raise{kind = "argument", message = ("%s: there is no metric '%s'"):format(where, tostring(name)),
    hint = near and ("did you mean '%s'?"):format(near) or "metrics: " .. table.concat(self.metrics, ", ")}
end

--- The model that is best by a metric.
---@param metric string|nil default: the first
---@return string|nil model nil when no model has a value
function Evaluation:best(metric)
  metric = metric_of(self, metric, "evaluation:best")
  local best
  for _, name in ipairs(self.models) do
    local value, leader = self.final[name][metric], best and self.final[best][metric]
    if value == value and (not best or self.bigger_is_better[metric] and value > leader
      or not self.bigger_is_better[metric] and value < leader) then
      best = name
    end
  end
  return best
end

local PLOT_OPTIONS = {metric = true, width = true, height = true, title = true}

--- A metric over the samples, one line per model, as text.
---@param options string|table|nil a metric, or {metric =, width =, height =, title =}; default: the first metric
---@return string
function Evaluation:plot(options)
  if type(options) == "string" then options = {metric = options} end
  options = options or {}
  errors.check_options("evaluation:plot", options, PLOT_OPTIONS)
  local metric = metric_of(self, options.metric, "evaluation:plot")
  local series = {}
  for _, name in ipairs(self.models) do
    local x, y = {}, {}
    for i, point in ipairs(self.history[name]) do x[i], y[i] = point.samples, point[metric] end
    series[name] = {x = x, y = y}
  end
  return require("riverlua.chart").line{series = series, title = options.title, y_label = metric, x_label = "samples",
    width = options.width, height = options.height}
end

--- A table: one row per model.
---@return string
function Evaluation:__tostring()
  local columns, rows = {{title = "model", key = "model"}}, {}
  for _, name in ipairs(self.metrics) do columns[#columns + 1] = {title = name, key = name, format = "%.6g"} end
  for i, name in ipairs(self.models) do
    rows[i] = {model = name}
    for metric, value in pairs(self.final[name]) do rows[i][metric] = value end
  end
  return require("riverlua.chart").table(rows, {columns = columns,
    title = ("%d samples%s"):format(self.samples, self.delay and (", labels after %d"):format(self.delay) or "")})
end

-- ------------------------------------------------------------------------------------------------------- labels

-- JSON has only texts as keys: the labels that they stand for are those that were learned.
local function known_label(labels, key)
  if type(key) ~= "string" then return key end
  local label = labels[key]
  if label ~= nil then return label end
  if key == "true" then return true elseif key == "false" then return false end
  return key
end

local function with_labels(labels, prediction)
  if type(prediction) ~= "table" then return prediction end
  local out = {}
  for key, p in pairs(prediction) do out[known_label(labels, key)] = p end
  return out
end

local function is_prediction(prediction)
  return prediction ~= nil and (type(prediction) ~= "table" or next(prediction) ~= nil)
end

-- ---------------------------------------------------------------------------------------------------------- run

---@class river.evaluate.Contender one model of a run
local Contender = {}
Contender.__index = Contender

-- The identifier of a sample on the server, where all models share one space of them.
local function identifier_of(self, question)
  return question.identifier and ("%s-%s"):format(question.identifier, self.place) or nil
end

function Contender:predict(question)
  local identifier = identifier_of(self, question)
  return self.client:predict(self.name, question.x, identifier and {identifier = identifier} or nil).prediction
end

function Contender:measure(y, prediction)
  prediction = with_labels(self.labels, prediction)
  for _, metric in ipairs(self.metrics) do
    if type(prediction) == "table" and metric.requires_labels ~= false then
      metric:update(y, self.likeliest(prediction))
    else
      metric:update(y, prediction)
    end
  end
end

function Contender:learn(x, y, identifier)
  if not self.supervised then
    self.client:learn(self.name, x)
  elseif identifier then
    self.client:learn{model = self.name, identifier = identifier, y = y}
  else
    self.client:learn(self.name, x, y)
  end
  local kind = type(y)
  if kind ~= "table" and kind ~= "nil" then self.labels[tostring(y)] = y end
end

-- The label of a sample has come.
function Contender:answer(question)
  local y, prediction = question.y, question[self]
  if y ~= nil and is_prediction(prediction) then self:measure(y, prediction) end
  if y ~= nil or not self.supervised then self:learn(question.x, y, identifier_of(self, question)) end
end

function Contender:values()
  local values = {}
  for i, metric in ipairs(self.metrics) do values[self.metric_names[i]] = metric:get() end
  return values
end

-- Runs a step of every model: side by side where calls travel, in turn where they do not.
local function each(run, step)
  local contenders = run.contenders
  if #contenders == 1 or not run.side_by_side then
    for _, contender in ipairs(contenders) do step(contender) end
    return
  end
  local steps = {}
  for i, contender in ipairs(contenders) do steps[i] = function() step(contender) end end
  require("riverlua.task").gather(table.unpack(steps))
end

local function ask(run, question)
  each(run, function(contender)
    question[contender] = contender:predict(question)
  end)
end

local function record(run)
  for _, contender in ipairs(run.contenders) do
    local point = contender:values()
    point.samples = run.samples
    table.insert(run.history[contender.title], point)
  end
  run.recorded = run.samples
end

local function reveal(run, question)
  each(run, function(contender) contender:answer(question) end)
  run.samples = run.samples + 1
  if run.samples % run.every == 0 then record(run) end
  if run.bar then
    local first = run.contenders[1]
    local metric = first.metrics[1]
    run.bar:update(run.samples, metric and run.samples % 10 == 0 and {[first.metric_names[1]] = metric:get()} or nil)
  end
end

-- Without a delay: predict and learn in one step of each model.
local function run_at_once(run, dataset)
  for x, y in dataset:each() do
    local question = {x = x, y = y}
    ask(run, question)
    reveal(run, question)
  end
end

-- The label of sample i comes right before sample i + delay is asked about; the last ones after the end.
local function run_delayed(run, dataset, delay)
  local waiting, first, count = {}, 1, 0
  for x, y in dataset:each() do
    count = count + 1
    -- what comes at once comes before the next one all the same
    while first <= count - math.max(delay, 1) do
      reveal(run, waiting[first])
      waiting[first] = nil
      first = first + 1
    end
    local question = {x = x, y = y, identifier = run.identifiers and ("%s-%d"):format(run.identifiers, count)}
    ask(run, question)
    waiting[count] = question
  end
  for i = first, count do reveal(run, waiting[i]) end
end

-- ------------------------------------------------------------------------------------------------------ options

local OPTIONS = {client = true, model = true, models = true, flavor = true, dataset = true, metrics = true,
  delay = true, labels = true, every = true, progress = true, total = true, supervised = true, keep = true,
  allow = true}

-- Metrics of one model, fresh ones.
local function make_metrics(names, flavor)
  local metrics = {}
  for i, name in ipairs(names) do
    metrics[i] = require("river.embedded.metrics").new(name)
    if metrics[i].requires_labels == false and (flavor == "multiclass" or flavor == "neighbor") then
      fail(("%s needs probabilities, and a %s model answers with a label"):format(name, flavor))
    end
  end
  return metrics
end

-- The models with their titles, in order: of a list as given, of a table by title.
local function titled_models(options)
  if (options.model == nil) == (options.models == nil) then fail("give either 'model' or 'models'") end
  local given, list = options.models, {}
  if given == nil then
    given = {options.model}
  elseif type(given) ~= "table" or model_module.is_node(given) then
    fail("'models' is a list, or a table of models by their titles", "one model is given as 'model'")
  end
  local titles, taken = {}, {}
  for key in pairs(given) do titles[#titles + 1] = key end
  table.sort(titles, function(a, b)
    if type(a) == type(b) then return a < b end
    return type(a) == "number"
  end)
  for i, key in ipairs(titles) do
    local model = given[key]
    local title = key
    if type(key) == "number" then
      local final = model_module.is_node(model) and model_module.final_estimator(model)
      title = type(model) == "string" and model or final and final.class:match("[^.]+$") or "model"
      if taken[title] then title = title .. " " .. i end
    end
    taken[title] = true
    list[i] = {title = title, model = model}
  end
  if #list == 0 then fail("there are no models") end
  return list
end

local function is_embedded(client)
  local transport = rawget(client, "_transport")
  return transport ~= nil and transport.embedded == true
end

local function check_contender(entry, options)
  local model = entry.model
  if type(model) == "string" then return end
  if not model_module.is_node(model) then
    fail(("'%s' is no model"):format(entry.title),
      "a model's name on the server, or a description such as river.linear_model.LinearRegression()")
  end
  if options.flavor == nil then
    fail("a model that is to be uploaded needs a flavor", "flavor = \"regression\", \"binary\", \"multiclass\" …")
  end
end

-- Uploads those that are descriptions; they are deleted in the end.
local function make_contenders(run, options, entries)
  local names = options.metrics
  if type(names) == "string" then names = {names} end
  if names == nil then names = DEFAULT_METRICS[options.flavor] or {} end
  local titles = {}
  for i, name in ipairs(names) do
    titles[i] = type(name) == "table" and name.class and name.class:match("[^.]+$") or name
  end
  run.metric_names = titles
  local supervised = options.supervised
  if supervised == nil then supervised = not UNSUPERVISED[options.flavor] end
  for i, entry in ipairs(entries) do
    run.contenders[i] = setmetatable({client = options.client, title = entry.title, model = entry.model, place = i,
      labels = {}, metrics = make_metrics(names, options.flavor), metric_names = titles, supervised = supervised,
      likeliest = require("river.embedded.metrics").likeliest}, Contender)
    run.history[entry.title] = {}
  end
  for _, contender in ipairs(run.contenders) do
    if type(contender.model) == "string" then
      contender.name = contender.model
    else
      contender.name = options.client:upload_model{model = contender.model, flavor = options.flavor,
        allow = options.allow}
      contender.uploaded = not options.keep
    end
  end
end

local function delete_uploaded(run)
  for _, contender in ipairs(run.contenders) do
    if contender.uploaded and contender.name then
      contender.uploaded = nil
      pcall(contender.client.delete_model, contender.client, contender.name)
    end
  end
end

local function check_options(options)
  errors.expect("evaluate.progressive", "options", options, "table")
  errors.check_options("evaluate.progressive", options, OPTIONS)
  errors.expect("evaluate.progressive", "client", options.client, "table")
  if options.dataset == nil then fail("there is no 'dataset'", "river.datasets.csv(…), or a list of {x =, y =}") end
  local delay, every = options.delay, options.every
  if delay ~= nil and (math.type(delay) ~= "integer" or delay < 0) then
    fail("'delay' is a number of samples", "moments and durations of Python's delay are not known here")
  end
  if every ~= nil and (math.type(every) ~= "integer" or every < 1) then fail("'every' is a number of samples") end
  if options.labels ~= nil and options.labels ~= "local" and options.labels ~= "server" then
    fail("'labels' is \"local\" or \"server\"")
  end
end

local function finish(run, options)
  if run.recorded ~= run.samples then record(run) end
  local final, better, models = {}, {}, {}
  for i, contender in ipairs(run.contenders) do
    models[i] = contender.title
    final[contender.title] = contender:values()
  end
  for i, name in ipairs(run.metric_names) do
    better[name] = run.contenders[1].metrics[i].bigger_is_better == true
  end
  local names = {}
  for i, contender in ipairs(run.contenders) do
    if not contender.uploaded then names[models[i]] = contender.name end
  end
  return setmetatable({models = models, metrics = run.metric_names, samples = run.samples, final = final,
    history = run.history, bigger_is_better = better, delay = options.delay, names = names}, Evaluation)
end

--- Validates one model, or compares several in one run through a data set.
---
--- Options: `client` (of a server or `embedded:`); `model`, or `models` (a list, or a table by title): names of models
--- there, or descriptions, which are uploaded and deleted again (`keep = true`: not; their names are in
--- `result.names`); `flavor` (needed for descriptions); `dataset` (`river.datasets`, a list of samples or an iterator);
--- `metrics` (names or descriptions such as river.metrics.FBeta(2); default by flavor: MAE, RMSE, R2; Accuracy, F1,
--- LogLoss; Accuracy, MacroF1); `every` (samples between two points of the history, 100); `progress` (true: a bar,
--- with `total` if known); `supervised` (false: learn without labels; the default for flavor "cluster"); `allow` (as
--- for `upload_model`).
---
--- `delay = n`: the label of a sample comes right before the n-th sample after it is predicted, the last ones after the
--- end (Python's `delay` as a number, without `moment`; 1 is as good as none). `labels = "server"` lets the server keep
--- the samples under identifiers meanwhile, as live labels would; "local" (default) keeps them here.
---
--- Samples without a label are predicted and not counted in any metric. A prediction of nothing (before any learning)
--- is not counted either.
---@param options table
---@return river.Evaluation
---Errors of the client's calls, and kind "argument".
function evaluate.progressive(options)
  check_options(options)
  local entries = titled_models(options)
  for _, entry in ipairs(entries) do check_contender(entry, options) end
  local dataset = require("river.datasets").from(options.dataset)
  local run <close> = setmetatable({contenders = {}, history = {}, samples = 0, recorded = -1,
    every = options.every or EVERY, side_by_side = not is_embedded(options.client)}, {__close = delete_uploaded})
  make_contenders(run, options, entries)
  if options.labels == "server" then
    run.identifiers = ("riverlua-%08x"):format(math.random(0) & 0xffffffff)
  end
  local bar <close> = options.progress and require("riverlua.progress").bar{total = options.total,
    label = "evaluating", unit = "samples"} or nil
  run.bar = bar
  if options.delay or run.identifiers then
    run_delayed(run, dataset, options.delay or 0)
  else
    run_at_once(run, dataset)
  end
  return finish(run, options)
end

return setmetatable(evaluate, {__index = function(_, name)
  if type(name) ~= "string" or name:find("^_") then return nil end
  errors.raise{kind = "argument", message = ("river.evaluate has no '%s'"):format(name),
    hint = "river.evaluate.progressive{client =, model =, dataset =, …} is Python's progressive_val_score"}
end})
