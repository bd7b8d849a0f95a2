"""The models of equal_spec.lua built and run in plain Python.

Run it with PYTHONHASHSEED=0, like the server: some models iterate over sets of strings. Prints JSON lines: for each model {"model", "flavor", "samples": [{"x", "y", "prediction"}, …]}; predictions are made
before each learn. Features are in sorted order, the order in which the client sends them: sums depend on it.
"""

import json
import sys

from river import (anomaly, cluster, compose, datasets, drift, dummy, ensemble, facto, feature_extraction,
                   feature_selection, forest, imblearn, linear_model, multiclass, naive_bayes, neighbors, optim,
                   preprocessing, rules, stats, tree, utils)

SAMPLES = int(sys.argv[1]) if len(sys.argv) > 1 else 60

TRUMP, PHISHING, SEGMENTS = datasets.TrumpApproval, datasets.Phishing, datasets.ImageSegments


def scaled(model):
    return preprocessing.StandardScaler() | model


def shared_optimizer():
    adam = optim.Adam(0.02)
    first = linear_model.LinearRegression(optimizer=adam)
    second = linear_model.LinearRegression(optimizer=adam, l2=0.01)
    return scaled(ensemble.EWARegressor([first, second], learning_rate=0.05))


def scored(model):
    model.predict_one = model.score_one
    return model


MODELS = {
    "scaler and linear regression": (
        "regression", TRUMP, lambda: scaled(linear_model.LinearRegression(optimizer=optim.SGD(0.01)))),
    "named steps, Adam, Huber loss": (
        "regression", TRUMP, lambda: compose.Pipeline(
            ("scale", preprocessing.StandardScaler()),
            ("learn", linear_model.LinearRegression(
                optim.Adam(0.05), loss=optim.losses.Huber(0.5), l2=0.001, intercept_lr=0.1)))),
    "scaler and logistic regression": (
        "binary", PHISHING, lambda: scaled(linear_model.LogisticRegression())),
    "one against the rest": (
        "multiclass", SEGMENTS, lambda: scaled(multiclass.OneVsRestClassifier(linear_model.LogisticRegression()))),
    "one against one": (
        "multiclass", SEGMENTS, lambda: scaled(multiclass.OneVsOneClassifier(
            linear_model.LogisticRegression(optimizer=optim.AdaGrad(0.3))))),
    "softmax": (
        "multiclass", SEGMENTS, lambda: scaled(linear_model.SoftmaxRegression())),
    "Hoeffding tree": (
        "multiclass", SEGMENTS, lambda: tree.HoeffdingTreeClassifier(grace_period=20, delta=1e-2)),
    "Hoeffding tree for regression": (
        "regression", TRUMP, lambda: scaled(tree.HoeffdingTreeRegressor(
            grace_period=20, leaf_prediction="adaptive",
            leaf_model=linear_model.LinearRegression(intercept_lr=0.1)))),
    "naive Bayes": ("multiclass", SEGMENTS, lambda: naive_bayes.GaussianNB()),
    "ALMA": ("binary", PHISHING, lambda: scaled(linear_model.ALMAClassifier(p=2, alpha=0.8))),
    "passive-aggressive": (
        "regression", TRUMP, lambda: scaled(linear_model.PARegressor(C=0.01, mode=2, eps=0.1))),
    "union of selections": (
        "regression", TRUMP, lambda: (
            (compose.Select("gallup", "ipsos", "morning_consult", "rasmussen", "you_gov")
             | preprocessing.StandardScaler())
            + (compose.Select("ordinal_date") | preprocessing.MinMaxScaler())
            + compose.Discard("ordinal_date") | preprocessing.StandardScaler()
            | linear_model.LinearRegression())),
    "product of features": (
        "regression", TRUMP, lambda: (
            preprocessing.StandardScaler()
            | compose.Select("gallup", "ipsos") * compose.Select("rasmussen", "you_gov")
            | preprocessing.StandardScaler() | linear_model.LinearRegression())),
    "nearest neighbours": (
        "neighbor", SEGMENTS, lambda: scaled(neighbors.KNNClassifier(
            n_neighbors=3, engine=neighbors.LazySearch(window_size=40)))),
    "polynomial extender": (
        "regression", TRUMP, lambda: (
            preprocessing.StandardScaler() | feature_extraction.PolynomialExtender(degree=2, include_bias=True)
            | linear_model.LinearRegression(optimizer=optim.SGD(optim.schedulers.InverseScaling(0.01))))),
    "best features": (
        "regression", TRUMP, lambda: (
            preprocessing.StandardScaler() | feature_selection.SelectKBest(similarity=stats.PearsonCorr(), k=2)
            | linear_model.LinearRegression())),
    "under-sampling": (
        "binary", PHISHING, lambda: scaled(imblearn.RandomUnderSampler(
            linear_model.LogisticRegression(), desired_dist={False: 0.4, True: 0.6}, seed=42))),
    "factorization machine": (
        "regression", TRUMP, lambda: scaled(facto.FMRegressor(
            n_factors=3, weight_optimizer=optim.Adam(0.05), latent_optimizer=optim.Adam(0.05), seed=7))),
    "adaptive random forest": (
        "multiclass", SEGMENTS, lambda: forest.ARFClassifier(
            n_models=3, seed=8, grace_period=20, drift_detector=drift.ADWIN(0.001))),
    "bagging": (
        "binary", PHISHING, lambda: scaled(ensemble.BaggingClassifier(
            linear_model.LogisticRegression(), n_models=3, seed=1))),
    "half-space trees": (
        "custom", PHISHING, lambda: scored(
            preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(n_trees=5, height=4, window_size=20, seed=42))),
    "function of the library": (
        "regression", TRUMP, lambda: (
            preprocessing.StandardScaler() | compose.FuncTransformer(utils.math.softmax)
            | linear_model.LinearRegression())),
    "density clusters": (
        "cluster", PHISHING, lambda: scaled(cluster.DBSTREAM(
            clustering_threshold=1.5, fading_factor=0.05, cleanup_interval=4))),
    "renamed and imputed": (
        "regression", TRUMP, lambda: (
            compose.Renamer({"gallup": "first", "ipsos": "second"})
            | preprocessing.StatImputer(("first", stats.Mean()), ("second", 0))
            | preprocessing.StandardScaler() | linear_model.LinearRegression())),
    "k-means": (
        "cluster", PHISHING, lambda: scaled(cluster.KMeans(n_clusters=4, halflife=0.4, sigma=3, seed=0))),
    "statistic": ("regression", TRUMP, lambda: dummy.StatisticRegressor(stats.Shift(1) | stats.Mean())),
    "standardized target": (
        "regression", TRUMP, lambda: scaled(preprocessing.TargetStandardScaler(
            regressor=linear_model.LinearRegression()))),
    "one optimizer for two models": ("regression", TRUMP, shared_optimizer),
    "RMSProp, quantile loss": (
        "regression", TRUMP, lambda: scaled(linear_model.LinearRegression(
            optimizer=optim.RMSProp(0.02), loss=optim.losses.Quantile(0.3)))),
    "Bernoulli naive Bayes": (
        "binary", PHISHING, lambda: preprocessing.Binarizer(threshold=0.4) | naive_bayes.BernoulliNB(alpha=0.5)),
    "adaptive scaler": (
        "regression", TRUMP, lambda: (
            preprocessing.AdaptiveStandardScaler(fading_factor=0.5)
            | linear_model.LinearRegression(optim.SGD(0.005)))),
    "robust scaler": (
        "regression", TRUMP, lambda: (
            preprocessing.RobustScaler(q_inf=0.2) | linear_model.LinearRegression(optim.SGD(0.005)))),
    "Bayesian regression": (
        "regression", TRUMP, lambda: scaled(linear_model.BayesianLinearRegression(alpha=2, beta=0.5))),
    "leveraging bagging": (
        "binary", PHISHING, lambda: scaled(ensemble.LeveragingBaggingClassifier(
            linear_model.LogisticRegression(), n_models=3, w=2, seed=42))),
    "stacking": (
        "binary", PHISHING, lambda: scaled(ensemble.StackingClassifier(
            [linear_model.LogisticRegression(), linear_model.PAClassifier(mode=1, C=0.01)],
            meta_classifier=linear_model.LogisticRegression()))),
    "rules": (
        "regression", TRUMP, lambda: scaled(rules.AMRules(n_min=20, drift_detector=drift.ADWIN()))),
    "aggregated Mondrian forest": (
        "multiclass", SEGMENTS, lambda: forest.AMFClassifier(n_estimators=3, seed=1)),
    "codes for classes": (
        "multiclass", SEGMENTS, lambda: scaled(multiclass.OutputCodeClassifier(
            linear_model.LogisticRegression(), code_size=10, coding_method="random", seed=24))),
    "stochastic gradient tree": (
        "regression", TRUMP, lambda: scaled(tree.SGTRegressor(
            delta=0.05, grace_period=10, feature_quantizer=tree.splitter.DynamicQuantizer()))),
}


def run(flavor, dataset, make):
    model = make()
    predict = model.predict_proba_one if flavor == "binary" else model.predict_one
    for x, y in dataset().take(SAMPLES):
        x = dict(sorted(x.items()))
        prediction = predict(dict(x))
        if flavor == "cluster":
            model.learn_one(dict(x))
            y = None
        elif flavor == "custom":
            model.learn_one(dict(x))
            y = None
        else:
            model.learn_one(dict(x), y)
        yield {"x": x, "y": y, "prediction": prediction}


for name, (kind, data, build) in MODELS.items():
    print(json.dumps({"model": name, "flavor": kind, "samples": list(run(kind, data, build))}))
