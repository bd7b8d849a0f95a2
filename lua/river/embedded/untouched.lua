--- Tells whether an object that Python has pickled has learned anything yet.
--
-- What trees, forests and the like have learned is not read from Python's pickles. One that is fresh from its
-- constructor can be taken all the same: it is built anew from its parameters.

local model = require "river.model"
local python = require "river.embedded.python"

local untouched = {}

-- Class → attributes that hold nothing as long as nothing was learned.
local SIGNS = {}

local function sign(attributes, classes)
  for class in classes:gmatch("%S+") do SIGNS["river." .. class] = attributes end
end

sign({"_root"}, [[tree.HoeffdingTreeClassifier tree.HoeffdingTreeRegressor tree.HoeffdingAdaptiveTreeClassifier
  tree.HoeffdingAdaptiveTreeRegressor tree.ExtremelyFastDecisionTreeClassifier]])
sign({"data"}, [[forest.ARFClassifier forest.ARFRegressor ensemble.BaggingClassifier ensemble.BaggingRegressor
  ensemble.ADWINBaggingClassifier ensemble.LeveragingBaggingClassifier ensemble.ADWINBoostingClassifier
  ensemble.AdaBoostClassifier ensemble.BOLEClassifier ensemble.VotingClassifier]])
sign({"_nn"}, "neighbors.KNNClassifier neighbors.KNNRegressor anomaly.LocalOutlierFactor")
sign({"_data"}, "neighbors.SWINN")
sign({"window"}, "neighbors.LazySearch")
sign({"centers"}, "cluster.KMeans")
sign({"time_stamp"}, "cluster.STREAMKMeans")
sign({"_time_stamp"}, "cluster.DBSTREAM")
sign({"_n_samples_seen"}, "cluster.DenStream")
sign({"counter", "trees"}, "anomaly.HalfSpaceTrees")
sign({"features_"}, "anomaly.LODA")
sign({"iter"}, "anomaly.PredictiveAnomalyDetection")
sign({"anomaly_detector"}, "anomaly.QuantileFilter anomaly.ThresholdFilter")
sign({"gaussian"}, "anomaly.GaussianScorer")
sign({"variance"}, "anomaly.StandardAbsoluteDeviation")
sign({"_var"}, "proba.Gaussian")
sign({"mean", "_S"}, "stats.Var")
sign({"n"}, "stats.Mean")
sign({"included"}, "feature_selection.PoissonInclusion")
sign({"similarities"}, "feature_selection.SelectKBest")
sign({"code_book"}, "multiclass.OutputCodeClassifier")
sign({"classifiers"}, "multiclass.OneVsRestClassifier multiclass.OneVsOneClassifier")
sign({"means"}, "preprocessing.AdaptiveStandardScaler")
sign({"median"}, "preprocessing.RobustScaler")
sign({"counts"}, "preprocessing.StandardScaler")
sign({"min"}, "preprocessing.MinMaxScaler")
sign({"abs_max"}, "preprocessing.MaxAbsScaler")
sign({"values"}, "preprocessing.OneHotEncoder preprocessing.OrdinalEncoder")
sign({"_latest"}, "preprocessing.PreviousImputer")
sign({"stats"}, "preprocessing.StatImputer")
sign({"_weights"}, "linear_model.LinearRegression linear_model.LogisticRegression linear_model.Perceptron " ..
  "anomaly.OneClassSVM")
sign({"w"}, "linear_model.ALMAClassifier")
sign({"weights"}, "linear_model.PAClassifier linear_model.PARegressor linear_model.SoftmaxRegression")
sign({"class_counts"}, "naive_bayes.GaussianNB naive_bayes.BernoulliNB naive_bayes.MultinomialNB " ..
  "naive_bayes.ComplementNB")

--- Where the items of Python's containers are, among the arguments of the call that makes them.
untouched.CONTAINER_ITEMS = {
  ["collections.defaultdict"] = 2, ["collections.Counter"] = 1, ["collections.OrderedDict"] = 1,
  ["collections.deque"] = 1,
}

local is_blank

local function all_blank(items, second)
  for _, item in ipairs(items) do
    if not is_blank(second and item[2] or item) then return false end
  end
  return true
end

-- Classes that this service does not have keep the name of the module that defines them.
local function signs_of(class)
  return SIGNS[class] or SIGNS[(class:gsub("%.[^.]+(%.[^.]+)$", "%1"))]
end

-- An object; `class` is its public name.
local function is_blank_object(object)
  if object.class:find("VectorDict$") then return object.args[1] == nil or is_blank(object.args[1]) end
  local place = untouched.CONTAINER_ITEMS[object.class]
  if place then return object.args[place] == nil or is_blank(object.args[place]) end
  if object.class == "river.compose.Pipeline" then return all_blank(object.args, true) end
  local signs = signs_of(object.class)
  if not signs then return object.state == nil end
  for _, name in ipairs(signs) do
    local value = (object.state or {})[name]
    if value ~= nil and not is_blank(value) then return false end
  end
  return true
end

-- Nothing at all, or a container of such things.
function is_blank(value)
  if value == python.None or value == false or value == 0 then return true end
  if type(value) ~= "table" then return false end
  if value.class then return is_blank_object(value) end
  return all_blank(value, model.kind(value) == "dict")
end

--- Whether it can be told of a class.
---@param class string public name
---@return boolean
function untouched.knows(class) return SIGNS[class] ~= nil end

--- Whether an object, with the attributes that Python gave it, is as its constructor left it.
---@param object table {class = public name, args=, state = attribute → value}
---@return boolean
function untouched.is(object)
  return signs_of(object.class) ~= nil and is_blank_object(object)
end

return untouched
