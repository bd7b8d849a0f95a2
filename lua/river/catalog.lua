--- Names of the Python library `river` that this client knows.
--
-- Only for completion and for "did you mean": any other name is sent as it is written, the server decides.
-- Taken from the public names of river 0.26.

local names = {
  ["river.active"] = [[
    EntropySampler
  ]],
  ["river.anomaly"] = [[
    GaussianScorer HalfSpaceTrees LODA LocalOutlierFactor OneClassSVM PredictiveAnomalyDetection QuantileFilter
    StandardAbsoluteDeviation ThresholdFilter
  ]],
  ["river.bandit"] = [[
    BayesUCB EpsilonGreedy Exp3 LinUCBDisjoint RandomPolicy ThompsonSampling UCB evaluate evaluate_offline
  ]],
  ["river.cluster"] = [[
    CluStream DBSTREAM DenStream KMeans ODAC STREAMKMeans TextClust
  ]],
  ["river.compose"] = [[
    Discard FuncTransformer Grouper Pipeline Prefixer Renamer Select SelectType Suffixer TargetTransformRegressor
    TransformerProduct TransformerUnion learn_during_predict
  ]],
  ["river.conf"] = [[
    Interval RegressionJackknife
  ]],
  ["river.covariance"] = [[
    EmpiricalCovariance EmpiricalPrecision EwaCovariance EwaPrecision LedoitWolfCovariance OASCovariance
    ShrunkCovariance
  ]],
  ["river.drift"] = [[
    ADWIN DriftRetrainingClassifier DummyDriftDetector KSWIN NoDrift PageHinkley
  ]],
  ["river.drift.binary"] = [[
    DDM EDDM FHDDM HDDMA HDDMW
  ]],
  ["river.ensemble"] = [[
    ADWINBaggingClassifier ADWINBoostingClassifier AdaBoostClassifier BOLEClassifier BaggingClassifier
    BaggingRegressor EWARegressor LeveragingBaggingClassifier SRPClassifier SRPRegressor StackingClassifier
    VotingClassifier
  ]],
  ["river.facto"] = [[
    FFMClassifier FFMRegressor FMClassifier FMRegressor FwFMClassifier FwFMRegressor HOFMClassifier HOFMRegressor
  ]],
  ["river.feature_extraction"] = [[
    Agg BagOfWords PolynomialExtender RBFSampler RandomTreesEmbedding TFIDF TargetAgg
  ]],
  ["river.feature_selection"] = [[
    PoissonInclusion SelectKBest VarianceThreshold
  ]],
  ["river.forest"] = [[
    AMFClassifier AMFRegressor ARFClassifier ARFRegressor OXTRegressor
  ]],
  ["river.imblearn"] = [[
    ChebyshevOverSampler ChebyshevUnderSampler HardSamplingClassifier HardSamplingRegressor RandomOverSampler
    RandomSampler RandomUnderSampler
  ]],
  ["river.linear_model"] = [[
    ALMAClassifier AdPredictor BayesianLinearRegression LinearRegression LogisticRegression PAClassifier PARegressor
    Perceptron SoftmaxRegression
  ]],
  ["river.metrics"] = [[
    Accuracy AdjustedMutualInfo AdjustedRand BalancedAccuracy ClassificationReport CohenKappa Completeness
    ConfusionMatrix CrossEntropy F1 FBeta FowlkesMallows GeometricMean Homogeneity Jaccard LogLoss MAE MAPE MCC MSE
    MacroF1 MacroFBeta MacroJaccard MacroPrecision MacroRecall MicroF1 MicroFBeta MicroJaccard MicroPrecision
    MicroRecall MultiFBeta MutualInfo NormalizedMutualInfo Precision R2 RMSE RMSLE ROCAUC Rand Recall RollingPRAUC
    RollingROCAUC SMAPE Silhouette VBeta WeightedF1 WeightedFBeta WeightedJaccard WeightedPrecision WeightedRecall
  ]],
  ["river.metrics.multioutput"] = [[
    ExactMatch MacroAverage MicroAverage MultiLabelConfusionMatrix PerOutput SampleAverage
  ]],
  ["river.misc"] = [[
    SDFT Skyline ZstdClassifier
  ]],
  ["river.model_selection"] = [[
    BanditClassifier BanditRegressor GreedyRegressor SuccessiveHalvingClassifier SuccessiveHalvingRegressor
  ]],
  ["river.multiclass"] = [[
    OneVsOneClassifier OneVsRestClassifier OutputCodeClassifier
  ]],
  ["river.multioutput"] = [[
    ClassifierChain MonteCarloClassifierChain MultiClassEncoder PerOutputClassifier PerOutputRegressor
    ProbabilisticClassifierChain RegressorChain
  ]],
  ["river.naive_bayes"] = [[
    BernoulliNB ComplementNB GaussianNB MultinomialNB
  ]],
  ["river.neighbors"] = [[
    KNNClassifier KNNRegressor LazySearch SWINN
  ]],
  ["river.optim"] = [[
    AMSGrad AdaBound AdaDelta AdaGrad AdaMax Adam Averager FTRLProximal Momentum Nadam NesterovMomentum Newton
    Optimizer RMSProp SGD
  ]],
  ["river.optim.initializers"] = [[
    Constant Normal Zeros
  ]],
  ["river.optim.losses"] = [[
    Absolute BinaryFocalLoss BinaryLoss Cauchy CrossEntropy EpsilonInsensitiveHinge Hinge Huber Log MultiClassLoss
    Poisson Quantile RegressionLoss Squared
  ]],
  ["river.optim.schedulers"] = [[
    Constant InverseScaling Optimal
  ]],
  ["river.preprocessing"] = [[
    AdaptiveStandardScaler Binarizer FeatureHasher GapEncoder GaussianRandomProjector LDA MaxAbsScaler MinMaxScaler
    Normalizer OneHotEncoder OrdinalEncoder PredClipper PreviousImputer RobustScaler SparseRandomProjector
    StandardScaler StatImputer TargetMinMaxScaler TargetStandardScaler
  ]],
  ["river.proba"] = [[
    Beta Gaussian Multinomial MultivariateGaussian
  ]],
  ["river.reco"] = [[
    Baseline BiasedMF FunkMF RandomNormal
  ]],
  ["river.rules"] = [[
    AMRules
  ]],
  ["river.sketch"] = [[
    Counter HeavyHitters Histogram NUnique Set
  ]],
  ["river.stats"] = [[
    AbsMax AutoCorr BayesianMean ChiSquared Count Cov EWCov EWMean EWVar Entropy IQR KolmogorovSmirnov Kurtosis Link
    MAD Max Mean Min Mode PeakToPeak PearsonCorr Quantile RollingAbsMax RollingIQR RollingMax RollingMin RollingMode
    RollingPeakToPeak RollingQuantile SEM Shift Skew Sum Var
  ]],
  ["river.time_series"] = [[
    ForecastingMetric HoltWinters HorizonAggMetric HorizonMetric SNARIMAX evaluate iter_evaluate
  ]],
  ["river.tree"] = [[
    ExtremelyFastDecisionTreeClassifier HoeffdingAdaptiveTreeClassifier HoeffdingAdaptiveTreeRegressor
    HoeffdingTreeClassifier HoeffdingTreeRegressor ISOUPTreeRegressor LASTClassifier SGTClassifier SGTRegressor
  ]],
  ["river.tree.split_criterion"] = [[
    GiniSplitCriterion HellingerDistanceCriterion InfoGainSplitCriterion IntraClusterVarianceReductionSplitCriterion
    VarianceRatioSplitCriterion VarianceReductionSplitCriterion
  ]],
  ["river.tree.splitter"] = [[
    DynamicQuantizer EBSTSplitter ExhaustiveSplitter GaussianSplitter HistogramSplitter QOSplitter Quantizer
    Splitter StaticQuantizer TEBSTSplitter
  ]],
  ["river.utils"] = [[
    Rolling SortedWindow TimeRolling VectorDict expand_param_grid log_method_calls
  ]],
  ["river.utils.math"] = [[
    argmax chain_dot clamp dot dotvecmat log_sum_2_exp matmul2d minkowski_distance norm outer prod sherman_morrison
    sigmoid sign softmax woodbury_matrix
  ]],
}

local catalog = {}

local parsed = {}

--- Names inside a module: classes, functions and submodules.
---@param module string "river" or "river.linear_model"
---@return table<string, true> names empty for an unknown module
function catalog.members(module)
  local set = parsed[module]
  if set then return set end
  set = {}
  for name in (names[module] or ""):gmatch("%S+") do set[name] = true end
  local prefix = module .. "."
  for known in pairs(names) do
    if known:sub(1, #prefix) == prefix then set[known:match("^[%w_]+", #prefix + 1)] = true end
  end
  parsed[module] = set
  return set
end

--- Tells whether `module` is known.
---@param module string
---@return boolean
function catalog.has_module(module)
  return next(catalog.members(module)) ~= nil
end

--- The known class names, wherever they live: class name → dotted name of its module.
---@return table<string, string>
function catalog.classes()
  local found = {}
  for module, text in pairs(names) do
    for name in text:gmatch("%S+") do
      local other = found[name]
      if not other or #module < #other or (#module == #other and module < other) then found[name] = module end
    end
  end
  return found
end

return catalog
